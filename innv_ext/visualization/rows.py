"""The texts at both sides of a row of a comparison grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import as_numbers
from innv_ext.visualization.panels import shorten

ClassNames = Sequence[str] | Mapping[int, str]
Lines = list[tuple[str, bool]]  # (text, emphasised)


def left_texts(
    batch: int,
    labels: ArrayLike | None,
    predictions: ArrayLike | None,
    neurons: ArrayLike | None,
    class_names: ClassNames | None,
) -> list[Lines]:
    """Label, prediction and explained neuron of each row; a wrong prediction is emphasised."""
    true = _classes(labels, "labels", batch)
    found = _classes(predictions, "predictions", batch)
    explained = _classes(neurons, "neurons", batch)
    wrong = [bool(true) and _differ(true[i], value, class_names) for i, value in enumerate(found)]
    columns = [
        [(f"label: {_named(value, 'labels', class_names)}", False) for value in true],
        [(f"pred: {_named(value, 'predictions', class_names)}", w) for value, w in zip(found, wrong, strict=True)],
        [(f"neuron: {_named(value, 'neurons', class_names)}", False) for value in explained],
    ]
    return [[column[i] for column in columns if column] for i in range(batch)]


def right_texts(batch: int, probabilities: ArrayLike | None, scores: ArrayLike | None) -> list[Lines]:
    """Probability and score of each row."""
    columns = [
        [f"prob: {value:.3f}" for value in _values(probabilities, "probabilities", batch)],
        [f"score: {value:.4g}".replace("-", "\N{MINUS SIGN}") for value in _values(scores, "scores", batch)],
    ]
    return [[(column[i], False) for column in columns if column] for i in range(batch)]


def _values(numbers: ArrayLike | None, argument: str, batch: int) -> list[float]:
    if numbers is None:
        return []
    array = as_numbers(numbers, argument)
    if array.shape != (batch,):
        raise InvalidInputError(
            f"{argument} has shape {array.shape}; expected {(batch,)}: one number per row, "
            f"e.g. {argument}.max(axis=1) of a (batch, classes) array."
        )
    return array.tolist()


def _classes(values: ArrayLike | None, argument: str, batch: int) -> list[int | str]:
    """Each as int or str; floats are refused, since they are more likely outputs than classes."""
    if values is None:
        return []
    array = np.asarray(values)
    found = [int(v) if isinstance(v, (bool, np.bool_, int, np.integer)) else v for v in array.ravel().tolist()]
    if array.shape != (batch,) or not all(isinstance(v, (int, str)) for v in found):
        raise InvalidInputError(
            f"{argument} must hold one class per row, integers or strings of shape {(batch,)}; got "
            f"{array.dtype} of shape {array.shape}. For outputs of shape (batch, classes) pass "
            f"{argument}.argmax(axis=1)."
        )
    return found


def _named(value: int | str, argument: str, class_names: ClassNames | None) -> str:
    if isinstance(value, str) or class_names is None:
        return shorten(str(value))
    known: Any = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    if value not in known:
        raise InvalidInputError(f"{argument} contains {value}, for which class_names ({len(known)} names) has no name.")
    return shorten(str(known[value]))


def _differ(true: int | str, found: int | str, class_names: ClassNames | None) -> bool:
    """Compare numbers with numbers, as different classes may share a name (ImageNet's two cranes)."""
    if isinstance(true, type(found)):
        return true != found
    return _named(true, "labels", class_names) != _named(found, "predictions", class_names)
