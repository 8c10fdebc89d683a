"""Plain images as RGB, colour maps, and the mark on pixels that are not finite."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, is_color_like
from matplotlib.colors import to_rgb as parse_color
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, Mask, as_batch, as_numbers, three_channels
from innv_ext.visualization.scaling import GREEN, Color, report_bad

Range = tuple[float, float] | None  # the values of black and white
_LEVELS = 1025  # odd: 0.5 falls on an entry, so that zero relevance is exactly the colour map's centre


def find_cmap(cmap: str | Colormap) -> Colormap:
    """The colour map of that name, with an odd number of colours."""
    if not isinstance(cmap, Colormap):
        cmap = matplotlib.colormaps[choice("cmap", cmap, matplotlib.colormaps)]
    return cmap.resampled(_LEVELS)


def apply_cmap(unit: Floats, cmap: str | Colormap) -> Floats:
    """Look up values in [0, 1]; the table is symmetric around its central entry."""
    table = find_cmap(cmap)(np.arange(_LEVELS))[:, :3]
    return table[np.rint(unit * (_LEVELS - 1)).astype(np.intp)]


def paint(rgb: Floats, bad: Mask, color: Color) -> Floats:
    """Mark the pixels in ``bad``; never touches ``rgb``."""
    if not is_color_like(color):
        raise InvalidInputError(f"bad_color must be a matplotlib colour or (r, g, b) in [0, 1]; got {color!r}.")
    return np.where(bad[..., None], parse_color(color), rgb)


def to_rgb(image: ArrayLike, channel_axis: int = -1, value_range: Range = None, *, bad_color: Color = GREEN) -> Floats:
    """Turn grey or colour images of any numeric range into RGB in [0, 1].

    Without ``value_range``, uint8 images are divided by 255; of all others, each image on its own, one whose values
    lie in [0, 1] is unchanged and any other is stretched from its minimum to its maximum (a constant one becomes
    mid-grey). Stretching hides differences in brightness between images: give ``value_range`` for preprocessed data.

    Parameters
    ----------
    image : array (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W) of any real dtype; it is not modified
    channel_axis : 1 for (batch, C, H, W)
    value_range : (low, high), the values of black and of white; those outside are clipped
    bad_color : colour of pixels that are not finite, green by default; a warning counts them

    Returns
    -------
    array (batch, H, W, 3), float64 in [0, 1]

    Raises
    ------
    InvalidInputError
        for the wrong rank, other than 1 or 3 channels, or a bad ``value_range``

    Examples
    --------
    >>> to_rgb([[[-1.0, 0.0, 1.0]]], value_range=(-1, 1))[0, 0, :, 0]
    array([0. , 0.5, 1. ])
    """
    rgb, bad = as_picture(image, channel_axis, value_range)
    report_bad(bad, "image", bad_color)
    return paint(rgb, bad, bad_color)


def as_picture(image: ArrayLike, channel_axis: int, value_range: Range) -> tuple[Floats, Mask]:
    """``to_rgb`` without warning and marking: the RGB images, and the mask of pixels that are not finite."""
    values = as_batch(image, "image", channel_axis)
    three_channels(values, "image")
    if value_range is not None:
        limits = as_numbers(value_range, "value_range")
        if limits.shape != (2,) or not np.isfinite(limits).all() or not limits[0] < limits[1]:
            raise InvalidInputError(f"value_range must be (low, high) with low < high; got {value_range!r}.")
        value_range = (float(limits[0]), float(limits[1]))
    elif np.asarray(image).dtype == np.uint8:
        value_range = (0.0, 255.0)
    bad = ~np.isfinite(values).all(axis=-1)
    pairs = zip(np.where(bad[..., None], 0.0, values), bad, strict=True)
    grey = np.array([_stretch(picture, ~marked, value_range) for picture, marked in pairs])
    return np.broadcast_to(grey.reshape(values.shape), (*values.shape[:3], 3)).copy(), bad


def _stretch(picture: Floats, good: Mask, value_range: Range) -> Floats:
    """Map one (H, W, C) image to [0, 1]; ``good`` marks the pixels whose values count."""
    if not good.any():
        return np.zeros_like(picture)
    low, high = value_range or (picture[good].min(), picture[good].max())
    if value_range is None and low >= 0 and high <= 1:
        return picture
    if low == high:
        return np.full_like(picture, 0.5)
    peak = max(abs(low), abs(high))  # dividing by it first keeps high - low from overflowing
    with np.errstate(over="ignore"):
        return np.clip((picture / peak - low / peak) / (high / peak - low / peak), 0.0, 1.0)
