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
from innv_ext.visualization.checks import Floats, as_batch
from innv_ext.visualization.columns import Column, Draw, Options, describe, draw_column, read_columns, shared_scales
from innv_ext.visualization.images import find_cmap, to_rgb
from innv_ext.visualization.panels import (
    DPI,
    LABEL,
    SMALL,
    SOFT,
    TEXT,
    bar_below,
    cell_size,
    draw_picture,
    fit,
    line_height,
    panel_grid,
    root,
    save,
    text_width,
    title_panel,
    wrap,
    write_beside,
)
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
    value_range: tuple[float, float] | None = None,
    cell: float = 0.8,
    figure: Figure | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Compare analyzers: a row per image, the input in the first column, then one column per analyzer.

    Left of each row stand the true and the predicted label (bold red where they differ), on its right
    probability and score; a caption states the reduction of the channels and the scaling. Nothing of pyplot
    is used, so this works without a display; in a notebook the returned figure shows itself.

    Parameters
    ----------
    images : array, shape (batch, H, W, 3), (batch, H, W, 1) or (batch, H, W)
        Shown as by `to_rgb`; repeat an image to compare several output neurons as in figure V.7.
    maps : dict of name -> array (batch, H, W, C) or (batch, H, W), or name -> (array, mode)
        The analyzers' results, in the order of the columns.
    labels, predictions, neurons : integers or strings, shape (batch,), optional
        True class, predicted class, and explained output neuron of each row.
    probabilities, scores : numbers, shape (batch,), optional
        Softmax and pre-softmax output that are printed on the right of each row.
    class_names : sequence or dict, optional
        Names of integer ``labels``, ``predictions`` and ``neurons``; cut to 24 characters.
    mode : str or callable, default "heatmap"
        "heatmap", "graymap", "scale_input", "mask_input", "blend" or "back_project" with their defaults, or a
        function (relevance, images) -> RGB, e.g. ``lambda r, x: heatmap(r, gamma=0.5)``.
    modes : dict of name -> mode, optional
        Other modes of single columns, e.g. ``{"pattern.net": "back_project"}``.
    reduce : {"sum", "norm", "max_abs", "mean"} or callable, default "sum"
        See `reduce_channels`.
    scale : {"map", "row", "column", "all"}, default "map"
        The maps that share a scale, among heatmaps, graymaps and back projections, each kind on its own.
    percentile : float, default 100
        With ``scale="map"``: heatmaps and back projections are scaled to this percentile of the map's magnitudes
        instead of their maximum, so that few outliers cannot whiten large maps; the caption says so.
    gamma : float, default 1
        Sign-preserving power of the scaled values of heatmaps; 0.5 lifts small values (figure V.9).
    titles : dict of name -> header, optional
        Other headers than the names.
    cmap : str or matplotlib Colormap, default "seismic"
        Any diverging colour map, of the heatmaps; the default is safe for red-green deficiency.
    colorbar : bool, default False
        Draw the colours of the heatmaps below the grid.
    channel_axis : int, default -1
        1 for (batch, C, H, W); of images and maps.
    value_range : (low, high), optional
        The images' values of black and white, see `to_rgb`.
    cell : float, default 0.8
        Longer side of a picture in inches, about: small images get a whole number of dots per pixel. With ``ax``
        the axes decide.
    figure : matplotlib.figure.Figure, optional
        An empty figure, e.g. of pyplot, to resize and draw into; default is a new one.
    ax : sequence of matplotlib axes, optional
        Draw into these, row by row, batch x (1 + analyzers) of them; texts are written around them, and a colour
        bar takes its room from them. It's up to you to leave room.
    path : str or path, optional
        Also save the figure here, as PNG unless the suffix says otherwise.

    Returns
    -------
    matplotlib.figure.Figure
        One axes per picture, row by row, labelled "row, column name"; a colour bar comes last.

    Raises
    ------
    InvalidInputError
        No images or maps, sizes that differ, unknown names, side texts of another length than the batch.

    Notes
    -----
    Thesis, section V.3.4.3 and figures V.7 and V.8.

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
    columns = read_columns(maps, mode, modes or {}, pictures, channel_axis)
    if colorbar and all(column.mode != "heatmap" for column in columns):
        raise InvalidInputError("colorbar=True needs a column in mode 'heatmap'; the other modes have none.")
    left = left_texts(len(pictures), labels, predictions, neurons, class_names)
    right = right_texts(len(pictures), probabilities, scores)
    headers = _headers(columns, titles or {})
    scales = shared_scales(columns, options)
    drawn = [relay("input", partial(to_rgb, images, channel_axis, value_range))]
    for column, shared in zip(columns, scales, strict=True):
        draw = partial(draw_column, column, np.asarray(images), shared, options)
        drawn.append(relay(column.name, draw))

    width, height = cell_size(*pictures.shape[1:3], cell)
    panels = panel_grid(ax, len(drawn), width, [height] * len(pictures), figure)
    if colorbar:
        low, high = _bar_ends(columns, scales, scale)
        bar_below(panels, cmap, ax is not None).set_ticks([-1, 0, 1], labels=[low, "0", high])
    for (row, j), axes in np.ndenumerate(panels):
        draw_picture(axes, drawn[j][row], "auto" if ax is None else "equal")
        axes.set_label(f"{row}, {columns[j - 1].name if j else 'input'}")
        if j and not columns[j - 1].values[row].any():
            style = {"ha": "center", "va": "center", "fontsize": SMALL, "color": "#888888"}
            axes.text(0.5, 0.5, "all zero", transform=axes.transAxes, **style)
    parts = [part for header in headers for part in wrap(header, 0.0, LABEL).splitlines()]
    room = max(text_width(part, LABEL) for part in parts) if ax is None else 0.0  # columns are made as wide as that
    for axes, header in zip(panels[0], headers, strict=True):
        title_panel(axes, header, size=LABEL, width=room)
    _write_side(panels[:, 0], left, 0)
    _write_side(panels[:, -1], right, 1)
    caption = "\n".join(describe(columns, options, pictures))
    if ax is None:
        fit(panels, caption)
    else:
        _write_below(panels[-1], caption)
    return save(root(panels), path, DPI)


def _write_side(panels: np.ndarray, side: Sequence[Lines], at: int) -> None:
    """Write the texts of each row on its left (0) or right (1), emphasised ones in red."""
    for axes, lines in zip(panels, side, strict=True):
        for i, (text, wrong) in enumerate(lines):
            style: dict[str, Any] = {"color": _WRONG, "fontweight": "bold"} if wrong else {"color": TEXT}
            style |= {"ha": ("right", "left")[at], "va": "center", "fontsize": LABEL}
            up = 72 * ((len(lines) - 1) / 2 - i) * line_height(LABEL)
            write_beside(axes, text, (at, 0.5), ((2 * at - 1) * 3, up), **style)


def _write_below(panels: np.ndarray, caption: str) -> None:
    """Write below a row of axes, wrapped to its width."""
    first, last = panels[0].get_window_extent(), panels[-1].get_window_extent()
    lines = wrap(caption, (last.x1 - first.x0) / panels[0].figure.dpi, SMALL)
    write_beside(panels[0], lines, (0, 0), (0, -4), ha="left", va="top", fontsize=SMALL, color=SOFT)


def _headers(columns: Sequence[Column], titles: Mapping[str, str]) -> list[str]:
    unknown = set(titles) - {column.name for column in columns}
    if unknown:
        raise InvalidInputError(f"titles names {sorted(unknown)}, which maps lacks.")
    return ["input", *(str(titles.get(column.name, column.name)) for column in columns)]


def _bar_ends(columns: Sequence[Column], scales: Sequence[Floats | None], scale: str) -> tuple[str, str]:
    """Write what the outermost colours mean: a number if all heatmaps share it."""
    if scale != "all":
        return "\N{MINUS SIGN}max", "+max"
    shared = next(s[0] for c, s in zip(columns, scales, strict=True) if c.mode == "heatmap" and s is not None)
    return f"\N{MINUS SIGN}{shared:.3g}", f"+{shared:.3g}"
