"""Numbers that say something about a relevance map without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, Mask, as_numbers

RATIOS = ("inside_total", "weighted", "inside_outside")
FIND_OUT = "Find out why (explain(x).extras['finite']), or leave these samples out."


class CompletenessError(NamedTuple):
    """How far the sum of a map is from what it should explain, per sample.

    Attributes
    ----------
    absolute : array (batch,), |sum of the map - (score - reference score)|
    relative : array (batch,), the same over |score - reference score|; where that is 0, 0 if the sum is right and
        infinity otherwise
    """

    absolute: np.ndarray
    relative: np.ndarray


def sparsity(relevance: Any, *, kind: str = "gini", tolerance: float = 0.0) -> np.ndarray:
    """How few values hold the relevance of each sample.

    Parameters
    ----------
    relevance : array (batch, ...)
    kind : "gini": the Gini index of the magnitudes, 0 where all are equal and 1 - 1/n where one of n holds everything;
        "zeros": the share of values that are zero
    tolerance : for "zeros": magnitudes up to this share of the sample's largest count as zero

    Returns
    -------
    array (batch,)
        A constant map has the Gini index 0. A map of zeros is constant, and all of its values are zero: 0 and 1.

    Raises
    ------
    InvalidInputError
        for values that are no finite numbers, a missing batch axis, an unknown kind, or a tolerance for "gini"

    Notes
    -----
    Hurley and Rickard (2009), "Comparing measures of sparsity".

    Examples
    --------
    >>> sparsity([[0, 0, 0, 5], [1, -1, 1, -1]]).tolist()
    [0.75, 0.0]
    >>> sparsity([[0, 0, 0, 5], [1, -1, 1, -1]], kind="zeros").tolist()
    [0.75, 0.0]
    """
    arguments.choice("kind", kind, ("gini", "zeros"))
    tolerance = arguments.number("tolerance", tolerance, most=1)
    if kind == "gini" and tolerance:
        raise InvalidInputError("tolerance= has no meaning with kind='gini'; leave it out.")
    magnitudes = _shares_of_the_largest(read_maps("relevance", relevance))
    if kind == "zeros":
        return (magnitudes <= tolerance).mean(axis=1)
    ordered = np.sort(magnitudes, axis=1)
    count = ordered.shape[1]
    weights = 2.0 * np.arange(count) + 1 - count  # whole numbers, so that a constant map gives exactly 0
    return quotient(np.abs(ordered @ weights), count * ordered.sum(axis=1))


def inside_ratio(relevance: Any, mask: Any, *, kind: str = "inside_total", channel_axis: int = -1) -> np.ndarray:
    """How much of the absolute relevance of each sample lies inside a mask or a bounding box.

    Parameters
    ----------
    relevance : array (batch, ...) with or without channels
    mask : bool array, (batch, *places) or (*places) for all samples; or int array of boxes, (batch, 2 * axes) or
        (2 * axes,): where they start along each axis, then where they stop (exclusive), e.g. (top, left, bottom, right)
    kind : "inside_total": inside over all; "weighted": that over the share of places that are inside, 1 for relevance
        that is spread evenly; "inside_outside": inside over outside, the thesis' ratio
    channel_axis : of ``relevance``, -1 or 1; channels are added up

    Returns
    -------
    array (batch,)
        Never NaN: a map of zeros says nothing about places, and counts as a constant map. A mask of everything gives 1,
        1 and infinity; so does relevance without anything outside for "inside_outside".

    Raises
    ------
    InvalidInputError
        for masks without any place, boxes that leave the map, shapes that don't match, values that aren't finite

    Notes
    -----
    "inside_outside" is the ratio of the systematic study in section V.4.5 of the thesis behind iNNvestigate.
    "inside_total" and "weighted" are Kohlbrenner et al. (2020), "Towards best practice in explaining neural network
    decisions with LRP", there for positive relevance: pass ``np.maximum(relevance, 0)`` for that.

    Examples
    --------
    >>> relevance = np.array([[[3.0, -1.0], [0.0, 0.0]]])
    >>> inside_ratio(relevance, [[0, 0, 2, 1]]).tolist()
    [0.75]
    >>> inside_ratio(relevance, [[0, 0, 2, 1]], kind="weighted").tolist()
    [1.5]
    """
    arguments.choice("kind", kind, RATIOS)
    return as_ratio(*inside_and_size(relevance, mask, channel_axis), kind)


def inside_and_size(relevance: Any, mask: Any, channel_axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The shares (batch,) of relevance and of places that are inside; see ``inside_ratio``."""
    if channel_axis not in (-1, 1):
        raise InvalidInputError(f"channel_axis must be -1 (channels last) or 1 (channels first), got {channel_axis!r}.")
    array = arguments.as_array("relevance", relevance)
    flat = _shares_of_the_largest(read_maps("relevance", array))
    magnitudes, inside = flat.reshape(array.shape), _read_mask(mask, array.shape, channel_axis)
    if inside.ndim < magnitudes.ndim:
        magnitudes = magnitudes.sum(axis=channel_axis)
    inside, magnitudes = (a.reshape(len(array), int(np.prod(a.shape[1:]))) for a in (inside, magnitudes))
    size = inside.mean(axis=1)
    return quotient(np.where(inside, magnitudes, 0).sum(axis=1), magnitudes.sum(axis=1), size), size


def as_ratio(share: np.ndarray, size: np.ndarray, kind: str) -> np.ndarray:
    """The ratio of this kind from the shares of relevance and of places inside."""
    if kind == "inside_total":
        return share
    return share / size if kind == "weighted" else quotient(share, 1 - share, np.inf)


def completeness_error(relevance: Any, score: Any, reference_score: Any = 0.0) -> CompletenessError:
    """How far the sum of each map is from the score that it explains.

    Parameters
    ----------
    relevance : array (batch, ...), or a list or dict of arrays for a model with several inputs, which add up
    score : the explained scores, (batch,), e.g. ``analyzer.explain(x).score``
    reference_score : the score that counts as nothing, (batch,) or one number: for integrated gradients and DeepLIFT
        that of the reference input

    Raises
    ------
    InvalidInputError
        for shapes that don't match or values that aren't finite

    Examples
    --------
    >>> completeness_error([[1.0, 2.0], [0.0, 0.0]], [4.0, 0.0])
    CompletenessError(absolute=array([1., 0.]), relative=array([0.25, 0.  ]))
    """
    parts = [read_maps("relevance", part) for part in _per_input(relevance)]
    if not parts:
        raise InvalidInputError(f"relevance has no map: {relevance!r}.")
    count = len(parts[0])
    if any(len(part) != count for part in parts):
        raise InvalidInputError(f"relevance has different numbers of samples: {[len(part) for part in parts]}.")
    scores = [_read_scores(name, s, count) for name, s in (("score", score), ("reference_score", reference_score))]
    expected = scores[0] - scores[1]
    absolute = np.abs(np.sum([part.sum(axis=1) for part in parts], axis=0) - expected)
    return CompletenessError(absolute, relative_to(np.abs(expected), absolute))


# --- quotients -----------------------------------------------------------------------------------------------------


def quotient(a: Any, b: Any, otherwise: Any = 0.0) -> Floats:
    """a / b in float64, ``otherwise`` where b is 0; all of them broadcast."""
    a, b, otherwise = np.broadcast_arrays(a, b, otherwise)
    return np.divide(a, b, out=otherwise.astype("float64"), where=b != 0)


def relative_to(size: np.ndarray, change: np.ndarray) -> Floats:
    """change / size; where the size is 0, 0 without a change and infinity otherwise."""
    return quotient(change, size, np.where(change > 0, np.inf, 0.0))


# --- checks --------------------------------------------------------------------------------------------------------


def _per_input(relevance: Any) -> list[Any]:
    """One map per input; nested lists of numbers are a single one."""
    if isinstance(relevance, Mapping):
        return list(relevance.values())
    listed = isinstance(relevance, (list, tuple)) and len(relevance) > 0
    arrays = listed and not any(isinstance(part, (list, tuple)) or np.ndim(part) < 2 for part in relevance)
    return list(relevance) if arrays else [relevance]


def refuse_samples(problem: str, wrong: np.ndarray, then: str) -> None:
    """Refuse input with samples that are wrong, booleans (batch,), saying how many and which is the first of them."""
    numbers = np.flatnonzero(wrong)
    if numbers.size:
        raise InvalidInputError(f"{problem} in {numbers.size} samples (first: {numbers[0]}){then}")


def check_finite(argument: str, values: np.ndarray) -> None:
    """Refuse NaN and infinite values in an array (batch, ...)."""
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    refuse_samples(f"{argument} is NaN or infinite", ~finite, f". {FIND_OUT}")


def read_maps(argument: str, values: Any) -> Floats:
    """Finite maps, (batch, values)."""
    array = as_numbers(values, argument)
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise InvalidInputError(f"{argument} has shape {array.shape}; maps with a batch axis are needed, (batch, ...).")
    check_finite(argument, array)
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _shares_of_the_largest(flat: Floats) -> Floats:
    """Magnitudes over the largest of each sample, so that no sum overflows; zeros stay."""
    magnitudes = np.abs(flat)
    return quotient(magnitudes, magnitudes.max(axis=1, keepdims=True))


def _read_scores(argument: str, values: Any, count: int) -> Floats:
    array = as_numbers(values, argument)
    if array.shape not in ((), (count,)) or not np.isfinite(array).all():
        raise InvalidInputError(
            f"{argument} must be finite numbers of shape ({count},), one per sample, got {array.shape}: {values!r}."
        )
    return np.broadcast_to(array, count)


def _read_mask(mask: Any, shape: tuple[int, ...], channel_axis: int) -> Mask:
    """Which places are inside, (batch, *places); at least one in every sample."""
    array = arguments.as_array("mask", mask)
    channels = channel_axis % len(shape)
    forms = [shape[1:], tuple(d for a, d in enumerate(shape[1:], 1) if a != channels)]
    if array.dtype.kind in "iu":
        array = _boxes(array, shape[0], forms)
    common, own = array.shape in forms, array.shape in [(shape[0], *form) for form in forms]
    if array.dtype != bool or common == own:
        problem = "which can be read in two ways" if common and own else "which does not fit"
        raise InvalidInputError(
            f"mask has dtype {array.dtype} and shape {array.shape}, {problem} with relevance of shape {shape}: pass a "
            f"bool array of shape {shape} or {(shape[0], *forms[1])} (without the first axis: for all samples), or an "
            f"int array of boxes, ({shape[0]}, 2 * axes)."
        )
    found = np.broadcast_to(array, (shape[0], *array.shape)) if common else array
    empty = ~found.any(axis=tuple(range(1, found.ndim)))
    refuse_samples("mask has nothing inside", empty, ", where no ratio is defined; leave these samples out.")
    return found


def _boxes(boxes: np.ndarray, count: int, forms: list[tuple[int, ...]]) -> Mask:
    """Boxes (batch, 2 * axes) as masks; the axes say whether there are channels."""
    sides = next((form for form in reversed(forms) if form and boxes.shape[-1:] == (2 * len(form),)), None)
    if sides is None or boxes.shape[:-1] not in ((), (count,)):
        return boxes  # refused as a mask
    boxes = np.broadcast_to(boxes, (count, boxes.shape[-1]))
    starts, stops = np.split(boxes, 2, axis=1)
    wrong = ((starts < 0) | (stops > np.array(sides))).any(axis=1)
    meaning = "Boxes hold where they start along each axis, then where they stop."
    first = boxes[wrong][:1].tolist()
    refuse_samples(f"mask has boxes that leave maps of {sides} places", wrong, f": {first}. {meaning}")
    start, stop = (edge.reshape(count, -1, *[1] * len(sides)) for edge in (starts, stops))
    places = np.indices(sides)
    return ((places >= start) & (places < stop)).all(axis=1)
