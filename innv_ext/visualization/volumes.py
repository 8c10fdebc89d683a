"""Relevance of volumes: rows of slices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import VOLUME, Floats, three_channels
from innv_ext.visualization.images import Range, as_picture, paint
from innv_ext.visualization.reading import Maps, colour_bar, peak_text, read_data, read_maps, row_titles
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color, Reduction, peaks, to_unit

_GAP = 0.06  # inches between slices


def plot_volumes(
    x: ArrayLike,
    maps: Any,
    *,
    axis: int = 0,
    slices: int | Sequence[int] = 5,
    choose: str = "spaced",
    row_names: Sequence[str] | None = None,
    reduce: Reduction = "sum",
    scale: str = "map",
    cmap: str | Colormap = DIVERGING,
    colorbar: bool = True,
    channel_axis: int = -1,
    value_range: Range = None,
    bad_color: Color = GREEN,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw slices of volumes: for each sample a row of its input, then a row per analyzer.

    All slices of a volume are on one scale, that of the whole volume, also of the slices that are not drawn.

    Parameters
    ----------
    x : array (batch, D, H, W), or that with 1 or 3 channels, shown as by `to_rgb` with one range per volume
    maps : array (batch, D, H, W) or (batch, D, H, W, C), or {name: such an array}
    axis : 0, 1 or 2, the spatial axis (D, H or W) to cut across
    slices : how many slices, at most all, or their positions along ``axis``; negative ones count from the end
    choose : with a number of ``slices``: "spaced", the middles of that many equal parts, or "relevant", the slices with
        the most relevance (magnitudes, each analyzer's as shares of its total, summed over the analyzers), per sample
    row_names : names of the samples; None: their numbers
    reduce : "sum", "norm", "max_abs", "mean" or a function of (batch, D, H, W, C), see `reduce_channels`
    scale : the volumes that share a scale: "row" those of a sample, "column" those of an analyzer, or "map" or "all";
        where there are several scales, each row states its own
    cmap, colorbar : as in `plot_signals`
    channel_axis : 1 for (batch, C, D, H, W); of ``x`` and the maps
    value_range : (low, high), the input's values of black and white
    bad_color : of voxels that are not finite, green by default
    ax : matplotlib axes to draw into, row by row, batch x (1 + analyzers) rows of a panel per slice; None: a new figure
    path : also save the figure here; the suffix says the format

    Raises
    ------
    InvalidInputError
        as `plot_signals`, and for an axis or slices that don't exist

    Examples
    --------
    >>> import numpy as np
    >>> figure = plot_volumes(np.zeros((1, 9, 4, 4)), {"gradient": np.ones((1, 9, 4, 4))}, slices=3)
    >>> [panel.get_title() for panel in figure.axes[:3]]
    ['slice 1', 'slice 4', 'slice 7']
    """
    choice("choose", choose, ("spaced", "relevant"))
    if axis not in (0, 1, 2):
        raise InvalidInputError(f"axis must be 0, 1 or 2, one of the spatial axes D, H and W; got {axis!r}.")
    data = read_data(x, VOLUME, bad_color, channel_axis)
    three_channels(data, "x")
    tall = data.reshape(len(data), -1, *data.shape[3:])  # one picture per volume, so that it has one range
    if value_range is None and np.asanyarray(x).dtype == np.uint8:
        value_range = (0.0, 255.0)
    pictures = paint(*as_picture(tall, -1, value_range), bad_color)
    pictures = pictures.reshape(*data.shape[:-1], 3)
    found = read_maps(maps, data, VOLUME, scale=scale, bad_color=bad_color, channel_axis=channel_axis, reduce=reduce)
    shown = _positions(slices, choose, data.shape[axis + 1], axis, found)
    names = row_titles(row_names, len(data))
    rows = [(i, j) for i in range(len(data)) for j in range(-1, len(found))]  # -1: the input
    count = shown.shape[1]
    plane = [n for a, n in enumerate(data.shape[1:4]) if a != axis]
    width, height = layout.cell_size(*plane, min(2.0, max(1.0, 4.0 / count)))
    panels = layout.panel_grid(ax, count, width, [height] * len(rows))
    for row, (i, j) in zip(panels, rows, strict=True):
        cube = pictures[i] if j < 0 else found[j].colours(i, cmap, bad_color)
        for axes, z in zip(row, shown[i], strict=True):
            heat = None
            if j >= 0:
                heat = layout.Heat(found[j].unit(i).take(z, axis), found[j].bad[i].take(z, axis), cmap, bad_color)
            layout.draw_picture(axes, cube.take(z, axis), "auto" if ax is None else "equal", heat)
            if j < 0:
                axes.set_title(f"slice {z}", fontsize=layout.SMALL, color=layout.TEXT, pad=2)
        beside = [names[i], "input"] if j < 0 else [found[j].name or "relevance", peak_text(found[j], i, found)]
        label = "\n".join(filter(None, beside))
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", **layout.LABELLED)
    if colorbar:
        colour_bar(panels, found, cmap, bad_color, ax is not None)
    return layout.finish(panels, ax, path, _GAP)


def _positions(slices: int | Sequence[int], choose: str, depth: int, axis: int, found: Sequence[Maps]) -> np.ndarray:
    """The slices of every sample, (batch, slices), ascending where they are chosen here."""
    batch = len(found[0].values)
    wanted = np.asarray(slices)
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1 or not wanted.size:
        raise InvalidInputError(f"slices must be an integer or a sequence of them; got {slices!r}.")
    if wanted.ndim:
        if choose != "spaced":
            raise InvalidInputError(f"choose={choose!r} goes with a number of slices; got their positions {slices!r}.")
        if (wanted < -depth).any() or (wanted >= depth).any():
            raise InvalidInputError(f"slices must be in [{-depth}, {depth - 1}] along axis {axis}; got {slices!r}.")
        return np.tile(wanted % depth, (batch, 1))
    if wanted < 1:
        raise InvalidInputError(f"slices must be at least 1; got {slices!r}.")
    count = min(int(wanted), depth)
    if choose == "spaced":
        return np.tile((2 * np.arange(count) + 1) * depth // (2 * count), (batch, 1))
    return np.sort(np.argsort(-_strength(found, axis), axis=1, kind="stable")[:, :count], axis=1)


def _strength(found: Sequence[Maps], axis: int) -> Floats:
    """Share of the relevance in each slice, summed over the analyzers: (batch, slices)."""
    others = tuple(a + 1 for a in range(3) if a != axis)
    sums = [np.abs(to_unit(m.values, peaks(m.values))).sum(axis=others) for m in found]
    return sum((s / np.maximum(s.sum(axis=1, keepdims=True), 1.0) for s in sums), np.zeros_like(sums[0]))
