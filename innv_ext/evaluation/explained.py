"""Explaining the same neurons at other inputs, or of another state of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from innv_ext.analyzers.core.base import Analyzer, Explanation
from innv_ext.errors import InvalidInputError


def same_neurons(found: Explanation, neuron_selection: Any) -> Any:
    """A ``neuron_selection`` for the neurons that were explained, whatever the largest output is elsewhere.

    Where a sample's score is no single neuron, ``neuron_selection`` is returned as it was given.
    """
    if (found.target < 0).any():
        return neuron_selection
    shape = found.output.shape[1:]
    return found.target if len(shape) < 2 else np.stack(np.unravel_index(found.target, shape), axis=1)


def rows_of(selection: Any, rows: slice | np.ndarray) -> Any:
    """The part of a selection that belongs to some samples."""
    return selection[rows] if isinstance(selection, np.ndarray) else selection


def check_analyzer(analyzer: Any) -> Analyzer:
    """``analyzer`` if it is one."""
    if not isinstance(analyzer, Analyzer):
        raise InvalidInputError(
            f"analyzer must be an analyzer, e.g. innv_ext.create_analyzer('gradient', model), got {analyzer!r}."
        )
    return analyzer


def check_finite(maps: np.ndarray) -> None:
    """Refuse maps with NaN or infinite values."""
    wrong = np.flatnonzero(~np.isfinite(maps.reshape(len(maps), -1)).all(axis=1))
    if wrong.size:
        raise InvalidInputError(
            f"The maps of {wrong.size} samples (first: {wrong[0]}) hold NaN or infinite values; leave these samples "
            f"out of x."
        )
