"""Relevance maps laid over their input image (thesis, section V.3.4.3, figure V.6, columns 3 to 5).

The conventions of ``maps`` hold. The image is turned into RGB as by ``to_rgb``; its pixels that are not
finite are marked too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike
from scipy import ndimage

from innv_ext.arguments import choice, number
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, Mask, as_batch, check_same_size
from innv_ext.visualization.images import apply_cmap, as_picture, paint
from innv_ext.visualization.scaling import (
    GREEN,
    Color,
    Reduction,
    magnitude,
    peaks,
    report,
    report_bad,
    signed,
    to_unit,
)

Range = tuple[float, float] | None
SHARE = 0.1  # what mask_input keeps by default
_SCORES: dict[str, Callable[..., Any]] = {
    "max": ndimage.maximum,
    "mean": ndimage.mean,
    "sum": ndimage.sum_labels,
}


def _read(relevance: ArrayLike, image: ArrayLike, channel_axis: int, value_range: Range) -> tuple[Floats, Floats, Mask]:
    """The checked relevance (channels last), the RGB image, and its pixels that are not finite."""
    values = as_batch(relevance, "relevance", channel_axis)
    check_same_size(values, as_batch(image, "image", channel_axis))
    return values, *as_picture(image, channel_axis, value_range)


def scale_input(
    relevance: ArrayLike,
    image: ArrayLike,
    *,
    reduce: Reduction = "sum",
    value_range: Range = None,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Darken the image where the magnitude of its relevance is small: black is none, unchanged the largest.

    Parameters
    ----------
    relevance : array, shape (batch, H, W, C) or (batch, H, W)
        Any real dtype; it is not modified. Its sign is taken off before the channels are reduced.
    image : array, shape (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W)
        Shown as by `to_rgb`; it is not modified.
    reduce : {"sum", "norm", "max_abs", "mean"} or callable, default "sum"
        See `reduce_channels`.
    value_range : (low, high), optional
        The image's values of black and white, see `to_rgb`.
    channel_axis : int, default -1
        1 for (batch, C, H, W); of both arrays.
    bad_color : matplotlib colour, default (0, 1, 0)
        Colour of pixels that are not finite in either array.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank or channels, different sizes, unknown ``reduce``, bad ``value_range``.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 3.

    Examples
    --------
    >>> scale_input([[[0.0, -1.0, 2.0]]], [[[0.8, 0.8, 0.8]]])[0, 0, :, 0]
    array([0. , 0.4, 0.8])
    """
    values, rgb, bad_image = _read(relevance, image, channel_axis, value_range)
    strength, bad = magnitude(values, reduce)
    largest = peaks(strength)
    report(largest, bad, bad_color)
    report_bad(bad_image, "image", bad_color)
    return paint(rgb * to_unit(strength, largest)[..., None], bad | bad_image, bad_color)


def mask_input(
    relevance: ArrayLike,
    image: ArrayLike,
    share: float = SHARE,
    segments: ArrayLike | None = None,
    *,
    segment_score: str = "max",
    reduce: Reduction = "sum",
    value_range: Range = None,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Keep the most relevant pixels or segments of the image and make the rest black.

    Relevance counts with its sign: what speaks against the output is never kept, and neither is what has
    relevance zero, even if ``share`` leaves room. Reduce with "norm", or pass magnitudes, to ignore signs. Of
    equally relevant pixels the one first in reading order is kept, of segments the one with the lower label.

    Parameters
    ----------
    relevance : array, shape (batch, H, W, C) or (batch, H, W)
        Any real dtype; it is not modified.
    image, reduce, value_range, channel_axis, bad_color
        As in `scale_input`.
    share : float in (0, 1], default 0.1
        The part of all pixels, or of the number of segments, to keep; rounded, at least one.
    segments : integer array, shape (H, W) or (batch, H, W), optional
        The label of each pixel's segment, as from ``skimage.segmentation``.
    segment_score : {"max", "mean", "sum"}, default "max"
        What ranks a segment, of the relevance of its finite pixels; only with ``segments``.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank or channels, different sizes, ``share`` outside (0, 1], bad ``segments``, unknown names.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 4.

    Examples
    --------
    >>> mask_input([[[1.0, 3.0, -9.0, 2.0]]], [[[0.8, 0.8, 0.8, 0.8]]], share=0.5)[0, 0, :, 0]
    array([0. , 0.8, 0. , 0.8])
    """
    number("share", share, positive=True, most=1)
    choice("segment_score", segment_score, _SCORES)
    values, rgb, bad_image = _read(relevance, image, channel_axis, value_range)
    score, bad = signed(values, reduce)
    labels = None if segments is None else _labels(segments, bad.shape)
    keep = np.zeros_like(bad)
    for i in range(len(score)):
        if labels is None:
            keep[i] = _top(score[i].ravel(), share).reshape(score[i].shape)
        else:
            keep[i] = _top_segments(score[i], ~bad[i], labels[i], share, _SCORES[segment_score])
    report(keep.any(axis=(1, 2)), bad, bad_color, "nowhere positive")
    report_bad(bad_image, "image", bad_color)
    return paint(np.where(keep[..., None], rgb, 0.0), bad | bad_image, bad_color)


def _labels(segments: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    labels = np.asarray(segments)
    if labels.dtype.kind not in "biu" or labels.shape not in (shape, shape[1:]):
        raise InvalidInputError(
            f"segments must hold one integer label per pixel, shape {shape[1:]} or {shape}; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return np.broadcast_to(labels, shape)


def _top(score: Floats, share: float) -> Mask:
    """Mark the ``share`` of entries with the highest score, of those the positive ones."""
    best = np.argsort(-score, kind="stable")[: max(1, round(share * score.size))]  # stable: ties go to the first
    keep = np.zeros(score.shape, dtype=bool)
    keep[best] = score[best] > 0
    return keep


def _top_segments(score: Floats, good: Mask, labels: np.ndarray, share: float, rank: Callable[..., Any]) -> Mask:
    names, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    counted = np.unique(index[good])  # a segment without any finite pixel keeps the score 0
    scores = np.zeros(len(names))
    scores[counted] = rank(score, labels=np.where(good, index, -1), index=counted)
    return _top(scores, share)[index]


def blend(
    relevance: ArrayLike,
    image: ArrayLike,
    alpha: float = 1.0,
    sigma: float | None = None,
    cmap: str | Colormap = "magma",
    *,
    reduce: Reduction = "sum",
    value_range: Range = None,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Lay the blurred magnitude over the image as a coloured veil, the denser the more relevant.

    The colour has the weight ``alpha * m`` and the image the rest, where ``m`` is the blurred magnitude
    divided by its maximum: the image shows through unchanged where there is no relevance.

    Parameters
    ----------
    relevance, image, reduce, value_range, channel_axis
        As in `scale_input`.
    alpha : float in (0, 1], default 1
        Weight of the colour at the most relevant place.
    sigma : float, optional
        Width of the Gaussian blur in pixels, 0 for none; default is 1/75 of the longer side (3 at 224
        pixels).
    cmap : str or matplotlib Colormap, default "magma"
        A colour map whose brightness rises steadily, unlike "jet", so that no edges appear that are not
        there. "plasma" and "viridis" end in the yellow that red-green-blind readers see in place of the
        default ``bad_color``: choose another with them.
    bad_color : matplotlib colour, default (0, 1, 0)
        Colour of pixels that are not finite in either array; they don't enter the blur.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank or channels, different sizes, ``alpha`` or ``sigma`` out of range, unknown names.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 5.

    Examples
    --------
    >>> blend([[[0.0, 1.0]]], [[[0.8, 0.8]]], alpha=0.5, sigma=0, cmap="gray")[0, 0, :, 0]
    array([0.8, 0.9])
    """
    number("alpha", alpha, positive=True, most=1)
    values, rgb, bad_image = _read(relevance, image, channel_axis, value_range)
    strength, bad = magnitude(values, reduce)
    width = max(strength.shape[1:]) / 75 if sigma is None else number("sigma", sigma)
    report(peaks(strength), bad, bad_color)
    report_bad(bad_image, "image", bad_color)
    strength = to_unit(strength, peaks(strength))  # before the blur, which underflows on tiny values
    blurred = ndimage.gaussian_filter(strength, sigma=(0, width, width), mode="nearest")
    unit = to_unit(blurred, peaks(blurred))
    weight = alpha * unit[..., None]
    mixed = np.clip((1 - weight) * rgb + weight * apply_cmap(unit, cmap), 0.0, 1.0)  # rounding may pass 1
    return paint(mixed, bad | bad_image, bad_color)
