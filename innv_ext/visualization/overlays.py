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
from innv_ext.visualization.images import Range, apply_cmap, as_picture, paint
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

SHARE = 0.1  # what mask_input keeps by default
Reduced = Callable[[Floats, Reduction], tuple[Floats, Mask]]
_SCORES: dict[str, Callable[..., Any]] = {"max": ndimage.maximum, "mean": ndimage.mean, "sum": ndimage.sum_labels}


def _read(
    relevance: ArrayLike, image: ArrayLike, reduced: Reduced, reduce: Reduction, channel_axis: int, value_range: Range
) -> tuple[Floats, Mask, Floats, Mask]:
    """The relevance without channels and the RGB image, and which pixels of each are not finite."""
    values = as_batch(relevance, "relevance", channel_axis)
    check_same_size(values, as_batch(image, "image", channel_axis))
    return *reduced(values, reduce), *as_picture(image, channel_axis, value_range)


def _marked(
    drawn: Floats, shown: Floats | Mask, bad: Mask, bad_image: Mask, color: Color, what: str = "zero everywhere"
) -> Floats:
    """The pictures of a public function with their pixels that are not finite marked, after warnings to its caller."""
    report(shown, bad, color, what, stacklevel=4)
    report_bad(bad_image, "image", color, stacklevel=4)
    return paint(drawn, bad | bad_image, color)


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

    The sign is taken off before the channels are reduced (thesis, section V.3.4.3, figure V.6, column 3).

    Parameters
    ----------
    relevance : array (batch, H, W, C) or (batch, H, W)
    image : array (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W), shown as by `to_rgb`
    reduce : "sum", "norm", "max_abs", "mean" or a function, see `reduce_channels`
    value_range : (low, high), the image's values of black and white, see `to_rgb`
    channel_axis : 1 for (batch, C, H, W); of both arrays
    bad_color : colour of pixels that are not finite in either array, green by default

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        for the wrong rank or channels, different sizes, unknown names, or a bad ``value_range``

    Examples
    --------
    >>> scale_input([[[0.0, -1.0, 2.0]]], [[[0.8, 0.8, 0.8]]])[0, 0, :, 0]
    array([0. , 0.4, 0.8])
    """
    strength, bad, rgb, bad_image = _read(relevance, image, magnitude, reduce, channel_axis, value_range)
    largest = peaks(strength)
    return _marked(rgb * to_unit(strength, largest)[..., None], largest, bad, bad_image, bad_color)


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
    equally relevant pixels the one first in reading order is kept, of segments the one with the lower label
    (thesis, section V.3.4.3, figure V.6, column 4).

    Parameters
    ----------
    relevance : array (batch, H, W, C) or (batch, H, W)
    share : the part of all pixels, or of the number of segments, to keep, in (0, 1]; rounded, at least one
    segments : int array (H, W) or (batch, H, W), the label of each pixel's segment, as from ``skimage.segmentation``
    segment_score : "max", "mean" or "sum" of the relevance of its finite pixels ranks a segment
    image, reduce, value_range, channel_axis, bad_color : as in `scale_input`

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        as `scale_input`, and for ``share`` outside (0, 1] or bad ``segments``

    Examples
    --------
    >>> mask_input([[[1.0, 3.0, -9.0, 2.0]]], [[[0.8, 0.8, 0.8, 0.8]]], share=0.5)[0, 0, :, 0]
    array([0. , 0.8, 0. , 0.8])
    """
    number("share", share, positive=True, most=1)
    choice("segment_score", segment_score, _SCORES)
    score, bad, rgb, bad_image = _read(relevance, image, signed, reduce, channel_axis, value_range)
    labels, rank = _labels(segments, bad.shape), _SCORES[segment_score]
    keep = np.zeros_like(bad)
    for i in range(len(score)):
        keep[i] = _top(score[i], ~bad[i], labels[i], share, rank)
    drawn = np.where(keep[..., None], rgb, 0.0)
    return _marked(drawn, keep.any(axis=(1, 2)), bad, bad_image, bad_color, "nowhere positive")


def _labels(segments: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """(batch, H, W); without segments, every pixel is one."""
    labels = np.arange(shape[1] * shape[2]).reshape(shape[1:]) if segments is None else np.asarray(segments)
    if labels.dtype.kind not in "biu" or labels.shape not in (shape, shape[1:]):
        raise InvalidInputError(
            f"segments must hold one integer label per pixel, shape {shape[1:]} or {shape}; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return np.broadcast_to(labels, shape)


def _top(score: Floats, good: Mask, labels: np.ndarray, share: float, rank: Callable[..., Any]) -> Mask:
    """Mark the pixels of the ``share`` of segments with the highest score, of those the positive ones."""
    names, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    counted = np.unique(index[good])  # a segment without any finite pixel keeps the score 0
    scores = np.zeros(len(names))
    scores[counted] = rank(score, labels=np.where(good, index, -1), index=counted)
    best = np.argsort(-scores, kind="stable")[: max(1, round(share * len(names)))]  # stable: ties go to the first
    keep = np.zeros(len(names), dtype=bool)
    keep[best] = scores[best] > 0
    return keep[index]


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

    The colour has the weight ``alpha * m`` and the image the rest, where ``m`` is the blurred magnitude divided by its
    maximum: the image shows through unchanged where there is no relevance. Pixels that are not finite don't enter the
    blur (thesis, section V.3.4.3, figure V.6, column 5).

    Parameters
    ----------
    alpha : weight of the colour at the most relevant place, in (0, 1]
    sigma : width of the Gaussian blur in pixels, 0 for none; None: 1/75 of the longer side (3 at 224 pixels)
    cmap : a matplotlib Colormap, or its name, whose brightness rises steadily, unlike "jet", so that no edges appear
        that are not there. "plasma" and "viridis" end in the yellow that red-green-blind readers see in place of the
        default ``bad_color``: choose another with them
    relevance, image, reduce, value_range, channel_axis, bad_color : as in `scale_input`

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        as `scale_input`, and for ``alpha`` or ``sigma`` out of range

    Examples
    --------
    >>> blend([[[0.0, 1.0]]], [[[0.8, 0.8]]], alpha=0.5, sigma=0, cmap="gray")[0, 0, :, 0]
    array([0.8, 0.9])
    """
    number("alpha", alpha, positive=True, most=1)
    strength, bad, rgb, bad_image = _read(relevance, image, magnitude, reduce, channel_axis, value_range)
    width = max(strength.shape[1:]) / 75 if sigma is None else number("sigma", sigma)
    largest = peaks(strength)
    sharp = to_unit(strength, largest)  # before the blur, which underflows on tiny values
    blurred = ndimage.gaussian_filter(sharp, sigma=(0, width, width), mode="nearest")
    unit = to_unit(blurred, peaks(blurred))
    weight = alpha * unit[..., None]
    mixed = np.clip((1 - weight) * rgb + weight * apply_cmap(unit, cmap), 0.0, 1.0)  # rounding may pass 1
    return _marked(mixed, largest, bad, bad_image, bad_color)
