"""Training data in whatever form users have it, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from innv_ext.analyzers.core import request
from innv_ext.backend.graph import Spec
from innv_ext.errors import InvalidInputError


def batches(X: Any, structure: Any, specs: Sequence[Spec], size: int) -> Iterator[list[np.ndarray]]:
    """The inputs of a model, batch by batch, checked and as a flat list of arrays.

    Parameters
    ----------
    X : array(s) in the structure of the model's inputs; or a keras ``PyDataset``, ``tf.data.Dataset`` or any iterable
        of batches. A tuple (inputs, targets, ...) in a data set counts as its inputs, as in ``model.fit``.
    size : samples per batch of arrays; data sets bring their own batches

    Raises
    ------
    InvalidInputError
        for data that don't fit the model, hold NaN (the batch is named), or are empty
    """
    count = 0
    for number, batch in enumerate(_parts(X, structure, specs, size)):
        try:
            arrays = request.standardize(batch, structure, specs, check=True)
        except InvalidInputError as error:
            raise InvalidInputError(f"Batch {number} of the training data: {error}") from error
        count += len(arrays[0])
        if len(arrays[0]):
            yield arrays
    if not count:
        raise InvalidInputError("The training data are empty: fit needs at least one sample.")


def _parts(X: Any, structure: Any, specs: Sequence[Spec], size: int) -> Iterator[Any]:
    if isinstance(X, keras.utils.PyDataset):
        yield from (_inputs(X[i]) for i in range(X.num_batches or 0))
    elif isinstance(X, (np.ndarray, list, tuple, dict)) or keras.ops.is_tensor(X):
        arrays = [_array(a) for a in request.flatten_inputs(X, structure, specs)]
        for start in range(0, len(arrays[0]), size):
            part = [a[start : start + size] for a in arrays]
            yield part if len(part) > 1 else part[0]
    elif isinstance(X, Iterable):
        yield from map(_inputs, X)
    else:
        raise InvalidInputError(f"Training data must be arrays or an iterable of batches, got {type(X).__name__}.")


def _array(values: Any) -> np.ndarray:
    request.refuse_masked(values, "The training data")
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InvalidInputError(
            f"The training data cannot be read as one array ({error}). A list is read as samples; pass iter(batches) "
            f"for a list of batches."
        ) from error


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) else batch
