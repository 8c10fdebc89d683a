"""What one entry of a relevance vector s stands for: a component, a pixel, or a superpixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext.errors import InvalidInputError

Tensor = Any
KINDS = ("component", "pixel")


@dataclass(frozen=True, eq=False)
class Features:
    """How n features cover the inputs of one sample.

    Attributes
    ----------
    shapes : shape of one sample of each input
    groups : per input the shape of its features, broadcastable to the input's shape; empty for labelled features
    labels : feature number of every component of the only input, or None
    """

    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    labels: np.ndarray | None = None

    @property
    def count(self) -> int:
        """n."""
        if self.labels is not None:
            return int(self.labels.max()) + 1
        return sum(int(np.prod(g)) for g in self.groups)

    def expand(self, s: Tensor) -> list[Tensor]:
        """Tensor s (batch, n) as one factor per input, broadcastable to (batch, *shape)."""
        if self.labels is not None:
            spread = ops.take(s, ops.convert_to_tensor(self.labels.reshape(-1)), axis=1)
            return [ops.reshape(spread, (-1, *self.shapes[0]))]
        parts, start = [], 0
        for group in self.groups:
            size = int(np.prod(group))
            parts.append(ops.reshape(s[:, start : start + size], (-1, *group)))
            start += size
        return parts

    def sums(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One array (batch, *shape) per input, added up over each feature: (batch, n)."""
        count = len(values[0])
        if self.labels is not None:
            flat = self.labels.reshape(-1)
            rows = [np.bincount(flat, v.reshape(-1), self.count) for v in values[0]]
            return np.stack(rows).astype(values[0].dtype)
        parts = []
        for value, shape, group_shape in zip(values, self.shapes, self.groups, strict=True):
            axes = tuple(a + 1 for a, (d, g) in enumerate(zip(shape, group_shape, strict=True)) if d != g)
            parts.append(value.sum(axis=axes).reshape(count, -1))
        return np.concatenate(parts, axis=1)

    def maps(self, s: np.ndarray) -> list[np.ndarray]:
        """Array s (..., n) as one map per input, (..., *shape)."""
        lead = s.shape[:-1]
        if self.labels is not None:
            return [s[..., self.labels.reshape(-1)].reshape(*lead, *self.shapes[0])]
        ends = np.cumsum([int(np.prod(g)) for g in self.groups])[:-1]
        parts = [p.reshape(*lead, *g) for p, g in zip(np.split(s, ends, axis=-1), self.groups, strict=True)]
        return [
            np.ascontiguousarray(np.broadcast_to(p, (*lead, *shape)))
            for p, shape in zip(parts, self.shapes, strict=True)
        ]


def group(features: Any, shapes: Sequence[tuple[int, ...]], channels_first: bool) -> Features:
    """The features of inputs with these sample shapes.

    Parameters
    ----------
    features : "component", "pixel" (one for all channels of a pixel or time step), or an integer array of labels
        0, 1, 2 ... shaped like the sample, or like it without its channels
    channels_first : where "pixel" finds the channels

    Raises
    ------
    InvalidInputError
        for labels that don't fit the input or leave numbers out
    """
    shapes = tuple(tuple(s) for s in shapes)
    if isinstance(features, str):
        if features not in KINDS:
            raise InvalidInputError(f"features must be 'component', 'pixel' or an array of labels, got {features!r}.")
        if features == "component":
            return Features(shapes, shapes)
        return Features(shapes, tuple(_pixels(s, channels_first) for s in shapes))
    if len(shapes) > 1:
        raise InvalidInputError(f"An array of labels needs a model with one input, this one has {len(shapes)}.")
    labels, shape = np.asarray(features), shapes[0]
    spatial = _pixels(shape, channels_first)
    if labels.dtype.kind not in "iu":
        raise InvalidInputError(f"features must hold integer labels, got dtype {labels.dtype}.")
    if labels.shape == tuple(d for d, s in zip(spatial, shape, strict=True) if d == s) and labels.shape != shape:
        labels = labels.reshape(spatial)
    try:
        labels = np.broadcast_to(labels, shape)
    except ValueError as error:
        raise InvalidInputError(f"features has shape {np.shape(features)}, the samples have shape {shape}.") from error
    present = np.unique(labels)
    if present[0] != 0 or present[-1] != len(present) - 1:
        raise InvalidInputError(
            f"features must use every label 0, 1, ..., n - 1; got {len(present)} labels from "
            f"{present[0]} to {present[-1]}. np.unique(labels, return_inverse=True)[1] renumbers them."
        )
    return Features(shapes, (), np.ascontiguousarray(labels).astype("int32"))


def blocks(shapes: Sequence[tuple[int, ...]], size: int, channels_first: bool) -> np.ndarray:
    """Labels 0, 1, ... of blocks with ``size`` pixels a side over all channels, for the flat components of all inputs.

    A table's columns are taken in runs of ``size``. Blocks are smaller at borders that ``size`` does not divide.
    """
    labels, count = [], 0
    for shape in shapes:
        block = np.zeros(shape, np.int64)
        for axis, (length, pixels) in enumerate(zip(shape, _pixels(shape, channels_first), strict=True)):
            if length == pixels:  # not the channels
                index = np.arange(length) // size
                block = block * (int(index[-1]) + 1) + index.reshape(
                    [-1 if a == axis else 1 for a in range(len(shape))]
                )
        labels.append(block.reshape(-1) + count)
        count = int(labels[-1].max()) + 1
    return np.concatenate(labels)


def _pixels(shape: tuple[int, ...], channels_first: bool) -> tuple[int, ...]:
    """The shape with its channel axis shrunk to 1; a table's columns stay."""
    if len(shape) < 2:
        return shape
    return (1, *shape[1:]) if channels_first else (*shape[:-1], 1)
