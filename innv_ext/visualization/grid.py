"""A figure that compares analyzers: rows are images, columns analyzers (thesis, figures V.7 and V.8)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from innv_ext.arguments import choice, number
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import as_batch
from innv_ext.visualization.columns import Draw, Options, describe, draw_column, heat_of, read_columns, shared_scales
from innv_ext.visualization.images import Range, find_cmap, to_rgb
from innv_ext.visualization.rows import ClassNames, Lines, left_texts, right_texts
from innv_ext.visualization.scaling import DIVERGING, SCALES, Reduction, relay

_WRONG = "#c00000"


def imshow_grid(
    images: ArrayLike,
    maps: Mapping[str, Any],
    *,
    labels: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
    neurons: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    class_names: ClassNames | None = None,
    mode: str | Draw = "heatmap",
    modes: Mapping[str, str | Draw] | None = None,
    reduce: Reduction = "sum",
    scale: str = "map",
    percentile: float = 100.0,
    gamma: float = 1.0,
    titles: Mapping[str, str] | None = None,
    cmap: str | Colormap = DIVERGING,
    colorbar: bool = False,
    channel_axis: int = -1,
    value_range: Range = None,
    cell: float = 0.8,
    figure: Figure | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Compare analyzers: a row per image, the input in the first column, then one column per analyzer.

    Left of each row stand the true and the predicted label (bold red where they differ), on its right
    probability and score; a caption states the reduction of the channels and the scaling (thesis, section V.3.4.3,
    figures V.7 and V.8). Nothing of pyplot is used, so this works without a display; in a notebook the returned figure
    shows itself.

    Parameters
    ----------
    images : array (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W), shown as by `to_rgb`; repeat an image to compare
        several output neurons as in figure V.7
    maps : the analyzers' results, in the order of the columns: {name: array (batch, H, W, C) or (batch, H, W)}, or
        {name: (array, mode)}
    labels, predictions, neurons : integers or strings (batch,), true class, predicted class, and explained output
        neuron of each row
    probabilities, scores : numbers (batch,), softmax and pre-softmax output, printed on the right of each row
    class_names : sequence, or {number: name}, for integer ``labels``, ``predictions`` and ``neurons``; cut to 24
        characters
    mode : "heatmap", "graymap", "scale_input", "mask_input", "blend" or "back_project" with their defaults, or a
        function (relevance, images) -> RGB, e.g. ``lambda r, x: heatmap(r, gamma=0.5)``
    modes : other modes of single columns, e.g. ``{"pattern.net": "back_project"}``
    reduce : "sum", "norm", "max_abs", "mean" or a function, see `reduce_channels`
    scale : "map", "row", "column" or "all", the maps that share a scale, among heatmaps, graymaps and back projections,
        each kind on its own
    percentile : with ``scale="map"``, heatmaps and back projections are scaled to this percentile of the map's
        magnitudes instead of their maximum, so that few outliers cannot whiten large maps; the caption says so
    gamma : sign-preserving power of the scaled values of heatmaps; 0.5 lifts small values (figure V.9)
    titles : {name: header}, other headers than the names
    cmap : any diverging matplotlib Colormap, or its name, of the heatmaps; the default is safe for red-green deficiency
    colorbar : draw the colours of the heatmaps below the grid
    channel_axis : 1 for (batch, C, H, W); of images and maps
    value_range : (low, high), the images' values of black and white, see `to_rgb`
    cell : longer side of a picture in inches, about: small images get a whole number of dots per pixel. With ``ax``
        the axes decide
    figure : an empty matplotlib Figure, e.g. of pyplot, to resize and draw into; None: a new one
    ax : matplotlib axes to draw into, row by row, batch x (1 + analyzers) of them; texts are written around them, and a
        colour bar takes its room from them. It's up to you to leave room
    path : also save the figure here, as PNG unless the suffix says otherwise

    Returns
    -------
    matplotlib.figure.Figure
        One axes per picture, row by row, labelled "row, column name"; a colour bar comes last.

    Raises
    ------
    InvalidInputError
        for no images or maps, sizes that differ, unknown names, or side texts of another length than the batch

    Examples
    --------
    >>> import numpy as np
    >>> images, relevance = np.zeros((2, 8, 8)), np.ones((2, 8, 8))
    >>> figure = imshow_grid(images, {"gradient": relevance}, labels=[0, 1], predictions=[0, 7])
    >>> len(figure.axes)
    4
    """
    choice("scale", scale, SCALES)
    number("cell", cell, positive=True)
    number("percentile", percentile, positive=True, most=100)
    number("gamma", gamma, positive=True)
    if percentile < 100 and scale != "map":
        raise InvalidInputError(f"percentile={percentile!r} goes with scale='map' only; got scale={scale!r}.")
    if ax is not None and figure is not None:
        raise InvalidInputError("figure and ax were both given; axes know their figure, so pass only ax.")
    find_cmap(cmap)
    options = Options(reduce, scale, channel_axis, value_range, percentile, gamma, cmap)
    pictures = as_batch(images, "images", channel_axis)
    if not len(pictures):
        raise InvalidInputError(f"images has shape {pictures.shape}: there is no row to draw.")
    columns = read_columns(maps, mode, modes or {}, titles or {}, pictures, channel_axis)
    if colorbar and all(column.mode != "heatmap" for column in columns):
        raise InvalidInputError("colorbar=True needs a column in mode 'heatmap'; the other modes have none.")
    left = left_texts(len(pictures), labels, predictions, neurons, class_names)
    right = right_texts(len(pictures), probabilities, scores)
    scales = shared_scales(columns, options)
    drawn = [relay("input", partial(to_rgb, images, channel_axis, value_range))]
    for column, shared in zip(columns, scales, strict=True):
        draw = partial(draw_column, column, np.asanyarray(images), shared, options)
        drawn.append(relay(column.name, draw))
    heats = [None, *(heat_of(column, shared, options) for column, shared in zip(columns, scales, strict=True))]

    width, height = layout.cell_size(*pictures.shape[1:3], cell)
    panels = layout.panel_grid(ax, len(drawn), width, [height] * len(pictures), figure)
    if colorbar:
        of_heatmaps = [s for c, s in zip(columns, scales, strict=True) if c.mode == "heatmap" and s is not None]
        layout.bar_below(panels, cmap, ax is not None, f"{of_heatmaps[0][0]:.3g}" if scale == "all" else "max")
    for (row, j), axes in np.ndenumerate(panels):
        heat = heats[j][row] if heats[j] is not None else None
        layout.draw_picture(axes, drawn[j][row], "auto" if ax is None else "equal", heat)
        axes.set_label(f"{row}, {columns[j - 1].name if j else 'input'}")
        if j and not columns[j - 1].values[row].any():
            style = {**layout.NOTED, "color": "#888888", "ha": "center", "va": "center"}
            axes.text(0.5, 0.5, "all zero", transform=axes.transAxes, **style)
    headers = ["input", *(column.header for column in columns)]
    room = 0.0
    if ax is None:  # columns are made as wide as the longest part of a header
        parts = [part for header in headers for part in layout.wrap(header, 0.0, layout.LABEL).splitlines()]
        room = max(layout.text_width(part, layout.LABEL) for part in parts)
    for axes, header in zip(panels[0], headers, strict=True):
        layout.title_panel(axes, header, size=layout.LABEL, width=room)
    _write_side(panels[:, 0], left, 0)
    _write_side(panels[:, -1], right, 1)
    caption = "\n".join(describe(columns, options, pictures))
    if ax is None:
        layout.fit(panels, caption)
    else:  # below the last row, wrapped to its width
        first, last = panels[-1, 0].get_window_extent(), panels[-1, -1].get_window_extent()
        lines = layout.wrap(caption, (last.x1 - first.x0) / panels[-1, 0].figure.dpi, layout.SMALL)
        layout.write_beside(panels[-1, 0], lines, (0, 0), (0, -4), ha="left", va="top", **layout.NOTED)
    return layout.save(layout.root(panels), path, layout.DPI)


def _write_side(panels: np.ndarray, side: Sequence[Lines], at: int) -> None:
    """Write the texts of each row on its left (0) or right (1), emphasised ones in red."""
    for axes, lines in zip(panels, side, strict=True):
        for i, (text, wrong) in enumerate(lines):
            style = {**layout.LABELLED, "ha": ("right", "left")[at], "va": "center"}
            style |= {"color": _WRONG, "fontweight": "bold"} if wrong else {}
            up = 72 * ((len(lines) - 1) / 2 - i) * layout.line_height(layout.LABEL)
            layout.write_beside(axes, text, (at, 0.5), ((2 * at - 1) * 3, up), **style)
