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
from innv_ext.visualization.checks import Floats, Mask, as_batch, three_channels
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.scaling import (
    DIVERGING,
    GREEN,
    Color,
    Reduction,
    given_scale,
    magnitude,
    own_scale,
    peaks,
    report,
    signed,
    to_unit,
)


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

    The sign is taken off before the channels are reduced, so that they cannot cancel out.

    Parameters
    ----------
    relevance, reduce, channel_axis, bad_color
        As in `heatmap`.
    cmap : str or matplotlib Colormap, default "gray"
        Any sequential colour map.
    scale : float or array of shape (batch,), optional
        What is drawn in the last colour; default is the maximum of each image.
    percentile : float, default 100
        As in `heatmap`; 99 is the normalisation of Singla et al. 2019.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank, unknown ``reduce`` or ``cmap``, bad ``scale`` or ``percentile``, or both of them.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 1.

    Examples
    --------
    >>> graymap([[[0.0, -4.0, 4.0]]])[0, 0, :, 0]
    array([0., 1., 1.])
    """
    values, bad = magnitude(as_batch(relevance, "relevance", channel_axis), reduce)
    largest = peaks(values)
    report(largest, bad, bad_color)
    unit = to_unit(values, _chosen_scale(values, bad, scale, percentile))
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
    """Draw signed relevance, symmetric around zero: zero is exactly the centre of the colour map.

    Parameters
    ----------
    relevance : array, shape (batch, H, W, C) or (batch, H, W)
        Any real dtype; it is not modified.
    reduce : {"sum", "norm", "max_abs", "mean"} or callable, default "sum"
        See `reduce_channels`.
    cmap : str or matplotlib Colormap, default "seismic"
        Any diverging colour map; with the default red is positive and blue negative.
    scale : float or array of shape (batch,), optional
        The magnitude drawn in the outermost colours, to share a scale between maps; larger values are
        clipped.
    percentile : float, default 100
        Without ``scale``: use this percentile of the image's finite magnitudes instead of their maximum, so
        that few outliers cannot whiten the rest. Where it is 0 (sparse maps) the maximum is used.
    gamma : float, default 1
        Sign-preserving power of the scaled values; 0.5 (a square root, as in figure V.9) lifts small values.
    channel_axis : int, default -1
        1 for (batch, C, H, W).
    bad_color : matplotlib colour, default (0, 1, 0)
        Colour of pixels that are not finite.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank, unknown ``reduce`` or ``cmap``, bad ``scale``, ``percentile`` or ``gamma``, or both
        ``scale`` and ``percentile``.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 2.

    Examples
    --------
    >>> heatmap([[[-2.0, 0.0, 1.0, 2.0]]], cmap="gray")[0, 0, :, 0]
    array([0.  , 0.5 , 0.75, 1.  ])
    """
    number("gamma", gamma, positive=True)
    values, bad = signed(as_batch(relevance, "relevance", channel_axis), reduce)
    report(peaks(values), bad, bad_color)
    unit = to_unit(values, _chosen_scale(values, bad, scale, percentile))
    curved = np.sign(unit) * np.abs(unit) ** gamma
    return paint(apply_cmap((curved + 1) / 2, cmap), bad, bad_color)


def _chosen_scale(values: Floats, bad: Mask, scale: ArrayLike | None, percentile: float) -> Floats:
    own = own_scale(values, bad, percentile)
    if scale is None:
        return own
    if percentile != 100:
        raise InvalidInputError(f"percentile={percentile!r} has no effect when scale is given; pass only one of them.")
    return given_scale(scale, peaks(values))


def back_project(
    relevance: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    percentile: float = 100.0,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
) -> Floats:
    """Show signals (of PatternNet and other signal extraction) as images: each channel on its own, 0 is grey.

    Parameters
    ----------
    relevance : array, shape (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W)
        Any real dtype; it is not modified.
    scale : float or array of shape (batch,), optional
        The magnitude drawn as 0 and 1; default is the maximum over all channels of each image.
    percentile, channel_axis
        As in `heatmap`.
    bad_color : matplotlib colour, default (0, 1, 0)
        Colour of pixels of which a channel is not finite.

    Returns
    -------
    array, shape (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        Wrong rank, other than 1 or 3 channels, bad ``scale`` or ``percentile``, or both.

    Notes
    -----
    Thesis, section V.3.4.3, figure V.6, column 6.

    Examples
    --------
    >>> back_project([[[-2.0, 0.0, 1.0]]])[0, 0, :, 0]
    array([0.  , 0.5 , 0.75])
    """
    values = as_batch(relevance, "relevance", channel_axis)
    three_channels(values, "relevance")
    bad = ~np.isfinite(values).all(axis=-1)
    values = np.where(bad[..., None], 0.0, values)
    report(peaks(values), bad, bad_color)
    unit = to_unit(values, _chosen_scale(values, bad, scale, percentile))
    return paint(np.broadcast_to((unit + 1) / 2, (*bad.shape, 3)), bad, bad_color)
