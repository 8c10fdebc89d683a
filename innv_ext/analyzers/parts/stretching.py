"""Coarse maps at the positions of an input."""

from __future__ import annotations

import numpy as np

from innv_ext.backend.arrangement import Arrangement


def interpolation(old: int, new: int) -> np.ndarray:
    """Linear interpolation from ``old`` to ``new`` points with the same outer borders, (new, old)."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))


def stretched(maps: np.ndarray, one: Arrangement) -> np.ndarray:
    """Maps (n, *positions), interpolated linearly to the positions of an input: (n, *one.merged)."""
    for axis, place in enumerate(one.axes):
        weights = interpolation(maps.shape[axis + 1], one.shape[place])
        maps = np.moveaxis(np.tensordot(maps, weights, (axis + 1, 1)), -1, axis + 1)
    return maps.reshape(len(maps), *one.merged)
