"""Relevance maps drawn alone (thesis, section V.3.4.3, figure V.6): arrays in, RGB arrays in [0, 1] out.

Every image of a batch is drawn on its own, no argument is modified, a map that is zero everywhere is drawn
neutral with one warning, and pixels that are not finite are drawn in ``bad_color`` with one warning that
counts them.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from innv_ext.arguments import number
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, Mask, as_batch, as_numbers, three_channels
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color, Reduction, magnitude, peaks, report, signed, to_unit


def graymap(
    relevance: ArrayLike,
    reduce: Reduction = "sum",
    cmap: str | Colormap = "gray",
    *,
    scale: ArrayLike | None = None,
    percentile: float = 100.0,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Draw magnitudes only: zero is the first colour of the map, the largest magnitude of the image the last.

    The sign is taken off before the channels are reduced, so that they cannot cancel out (thesis, section V.3.4.3,
    figure V.6, column 1). ``percentile=99`` is the normalisation of Singla et al. 2019.

    Parameters
    ----------
    cmap : any sequential matplotlib Colormap, or its name
    relevance, reduce, scale, percentile, channel_axis, bad_color : as in `heatmap`

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        as `heatmap`

    Examples
    --------
    >>> graymap([[[0.0, -4.0, 4.0]]])[0, 0, :, 0]
    array([0., 1., 1.])
    """
    values, bad = magnitude(as_batch(relevance, "relevance", channel_axis), reduce)
    unit = _scaled(values, bad, scale, percentile, bad_color)
    return paint(apply_cmap(unit, cmap), bad, bad_color)


def heatmap(
    relevance: ArrayLike,
    reduce: Reduction = "sum",
    cmap: str | Colormap = DIVERGING,
    scale: ArrayLike | None = None,
    *,
    percentile: float = 100.0,
    gamma: float = 1.0,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Draw signed relevance: zero is exactly the centre of the colour map (thesis, V.3.4.3, figure V.6, column 2).

    Parameters
    ----------
    relevance : array (batch, H, W, C) or (batch, H, W) of any real dtype; it is not modified
    reduce : "sum", "norm", "max_abs", "mean" or a function, see `reduce_channels`
    cmap : any diverging matplotlib Colormap, or its name; with the default red is positive and blue negative
    scale : a number or an array (batch,), the magnitude drawn in the outermost colours, to share a scale between maps;
        larger values are clipped. None: the maximum of each image
    percentile : without ``scale``, use this percentile of the image's finite magnitudes instead of their maximum, so
        that few outliers cannot whiten the rest. Where it is 0 (sparse maps) the maximum is used
    gamma : sign-preserving power of the scaled values; 0.5 (a square root, as in figure V.9) lifts small values
    channel_axis : 1 for (batch, C, H, W)
    bad_color : colour of pixels that are not finite, green by default

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        for the wrong rank, unknown ``reduce`` or ``cmap``, bad ``scale``, ``percentile`` or ``gamma``, or both of
        ``scale`` and ``percentile``

    Examples
    --------
    >>> heatmap([[[-2.0, 0.0, 1.0, 2.0]]], cmap="gray")[0, 0, :, 0]
    array([0.  , 0.5 , 0.75, 1.  ])
    """
    number("gamma", gamma, positive=True)
    values, bad = signed(as_batch(relevance, "relevance", channel_axis), reduce)
    unit = _scaled(values, bad, scale, percentile, bad_color)
    curved = np.sign(unit) * np.abs(unit) ** gamma
    return paint(apply_cmap((curved + 1) / 2, cmap), bad, bad_color)


def back_project(
    relevance: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    percentile: float = 100.0,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Show signals (of PatternNet and other signal extraction) as images: each channel on its own, 0 is grey.

    One channel that is not finite marks the pixel (thesis, section V.3.4.3, figure V.6, column 6).

    Parameters
    ----------
    relevance : array (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W) of any real dtype; it is not modified
    scale : a number or an array (batch,), the magnitude drawn as 0 and 1; None: the maximum over all channels of each
        image
    percentile, channel_axis, bad_color : as in `heatmap`

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        for the wrong rank, other than 1 or 3 channels, bad ``scale`` or ``percentile``, or both

    Examples
    --------
    >>> back_project([[[-2.0, 0.0, 1.0]]])[0, 0, :, 0]
    array([0.  , 0.5 , 0.75])
    """
    values = as_batch(relevance, "relevance", channel_axis)
    three_channels(values, "relevance")
    bad = ~np.isfinite(values).all(axis=-1)
    unit = _scaled(np.where(bad[..., None], 0.0, values), bad, scale, percentile, bad_color)
    return paint(np.broadcast_to((unit + 1) / 2, (*bad.shape, 3)), bad, bad_color)


def own_scales(values: Floats, bad: Mask, percentile: float) -> Floats:
    """What each map is divided by: the percentile of its finite magnitudes, their maximum where that is 0."""
    pairs = zip(np.abs(values), ~bad, strict=True)
    clipped = np.array([np.percentile(v[good], percentile) if good.any() else 0.0 for v, good in pairs])
    return np.where(clipped > 0, clipped, peaks(values))


def _scaled(values: Floats, bad: Mask, scale: ArrayLike | None, percentile: float, bad_color: Color) -> Floats:
    """The maps of a public function in [-1, 1], after warnings to its caller.

    Each is divided by ``scale``, or by the percentile of its finite magnitudes, their maximum where that is 0.
    """
    largest = peaks(values)
    report(largest, bad, bad_color, stacklevel=4)
    number("percentile", percentile, positive=True, most=100)
    if scale is None:
        return to_unit(values, own_scales(values, bad, percentile))
    if percentile != 100:
        raise InvalidInputError(f"percentile={percentile!r} has no effect when scale is given; pass only one of them.")
    scales = as_numbers(scale, "scale")
    if scales.shape not in ((), largest.shape):
        raise InvalidInputError(f"scale must be one number or have shape {largest.shape}; got shape {scales.shape}.")
    scales = np.broadcast_to(scales, largest.shape)
    if not (np.isfinite(scales) & (scales >= 0)).all() or ((scales == 0) & (largest > 0)).any():
        raise InvalidInputError(f"scale must be positive and finite (0 only for an all-zero map); got {scale!r}.")
    return to_unit(values, scales)
