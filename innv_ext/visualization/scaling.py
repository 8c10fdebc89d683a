"""From relevance to one number per pixel in [-1, 1]: reduction of channels, scales, warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError, ZeroMapWarning
from innv_ext.visualization.checks import IMAGE, DataKind, Floats, Mask, as_batch, as_numbers

Reduction = str | Callable[[Floats, int], ArrayLike]
Color = str | tuple[float, float, float]
Result = TypeVar("Result")

# Both are safe for red-green deficiency: blue and red become blue and brown, further apart than those of "coolwarm"
# and "RdBu_r", and the mark becomes a yellow that neither "seismic", "gray" nor "magma" contains (but "plasma",
# "viridis" and "inferno" do).
DIVERGING = "seismic"
GREEN: Color = (0.0, 1.0, 0.0)
SCALES = {
    "map": "its own maximum",
    "row": "the maximum of its row",
    "column": "the maximum of its column",
    "all": "the maximum of all",
}
_LISTED = 20  # a warning lists at most this many image indices


def _largest(values: Floats) -> Floats:
    index = np.abs(values).argmax(axis=-1)[..., None]
    return np.take_along_axis(values, index, axis=-1)[..., 0]


REDUCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "sum": lambda v: v.sum(axis=-1),
    "mean": lambda v: v.mean(axis=-1),
    "norm": lambda v: np.hypot.reduce(np.abs(v), axis=-1),  # no overflow, unlike the root of a sum of squares
    "max_abs": _largest,
}


def reduce_channels(relevance: ArrayLike, reduce: Reduction = "sum", channel_axis: int = -1) -> Floats:
    """Reduce the channels of relevance maps to one value per pixel (thesis, section V.3.4.3).

    Parameters
    ----------
    relevance : array (batch, H, W, C) or (batch, H, W), which has one channel, of any real dtype; it is not modified
    reduce : "sum", "mean", "norm", the Euclidean norm (non-negative), or "max_abs", the signed value of the largest
        magnitude (of the first such channel); or a function of a (batch, H, W, C) copy and the axis -1 that returns
        (batch, H, W)
    channel_axis : 1 for (batch, C, H, W)

    Returns
    -------
    array (batch, H, W), float64

    Raises
    ------
    InvalidInputError
        for the wrong rank, no pixels, what is not a number, an unknown name, or a function that returns another shape

    Examples
    --------
    >>> reduce_channels([[[[1.0, -3.0]]]], "max_abs")
    array([[[-3.]]])
    """
    return collapse(as_batch(relevance, "relevance", channel_axis), reduce)


def collapse(values: Floats, reduce: Reduction) -> Floats:
    """``reduce_channels`` of an array that is already checked and channels-last."""
    if not callable(reduce):
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is reported later, as not finite
            return REDUCTIONS[choice("reduce", reduce, REDUCTIONS)](values)
    reduced = as_numbers(reduce(values.copy(), -1), "the result of reduce")
    if reduced.shape != values.shape[:-1]:
        raise InvalidInputError(
            f"reduce returned shape {reduced.shape} for relevance of shape {values.shape}; "
            f"expected {values.shape[:-1]}: it must remove the last axis."
        )
    return reduced


def signed(values: Floats, reduce: Reduction) -> tuple[Floats, Mask]:
    """Reduced (batch, H, W) with 0 where not finite, and the mask of those pixels."""
    reduced = collapse(values, reduce)
    bad = ~np.isfinite(values).all(axis=-1) | ~np.isfinite(reduced)
    return np.where(bad, 0.0, reduced), bad


def magnitude(values: Floats, reduce: Reduction) -> tuple[Floats, Mask]:
    """Like ``signed``, but the sign is taken off before the reduction, so that channels cannot cancel out."""
    reduced, bad = signed(np.abs(values), reduce)
    return np.abs(reduced), bad


def peaks(values: Floats) -> Floats:
    """Largest magnitude per image, shape (batch,)."""
    return np.abs(values).max(axis=tuple(range(1, values.ndim)))


def to_unit(values: Floats, scales: Floats) -> Floats:
    """Divide each image by its scale and clip to [-1, 1]; a scale of 0 gives 0."""
    spread = scales.reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(over="ignore"):
        return np.clip(np.divide(values, spread, out=np.zeros_like(values), where=spread > 0), -1.0, 1.0)


def _indices(flags: Mask) -> str:
    found = np.flatnonzero(flags).tolist()
    return str(found) if len(found) <= _LISTED else f"{found[:_LISTED]} and {len(found) - _LISTED} more"


def share(table: Floats, scale: str) -> Floats:
    """From the peaks (columns, batch) of all maps to what each map is scaled to, by the name in ``SCALES``."""
    if scale == "map":
        return table
    axis = {"row": 0, "column": 1, "all": None}[choice("scale", scale, SCALES)]
    return np.broadcast_to(table.max(axis=axis, keepdims=True), table.shape)


def report_bad(bad: Mask, argument: str, color: Color, stacklevel: int = 3, kind: DataKind = IMAGE) -> None:
    """Warn once, with the number of pixels that are not finite."""
    if bad.any():
        samples = bad.any(axis=tuple(range(1, bad.ndim)))
        warnings.warn(
            f"{argument} is not finite (NaN or infinite) at {int(bad.sum())} {kind.entry}(s) of {kind.sample}(s) "
            f"{_indices(samples)}: drawn in {color}, scale taken from the finite ones.",
            stacklevel=stacklevel,
        )


def report(
    largest: Floats | Mask,
    bad: Mask,
    color: Color,
    what: str = "zero everywhere",
    kind: DataKind = IMAGE,
    stacklevel: int = 3,
    name: str = "",
) -> None:
    """Warn, once each, about maps that show nothing and about values that are not finite; ``name`` says whose."""
    of = f"{name}: relevance" if name else "relevance"
    empty = (largest == 0) & ~bad.all(axis=tuple(range(1, bad.ndim)))
    if empty.any():
        message = f"{of} is {what} in {kind.sample}(s) {_indices(empty)}: drawn neutral."
        warnings.warn(message, ZeroMapWarning, stacklevel=stacklevel)
    report_bad(bad, of, color, stacklevel + 1, kind)


def relay(name: str, draw: Callable[[], Result], stacklevel: int = 3) -> Result:
    """Call ``draw``; pass on its warnings, with the column's name, at the line that asked for the figure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = draw()
    for warning in caught:
        warnings.warn(f"{name}: {warning.message}", warning.category, stacklevel=stacklevel)
    return result
