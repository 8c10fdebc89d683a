"""A figure that compares analyzers: rows are images, columns analyzers (thesis, figures V.7 and V.8)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, as_batch, choice, number
from innv_ext.visualization.columns import (
    SCALES,
    Column,
    Draw,
    Options,
    describe,
    draw_column,
    read_columns,
    relay,
    shared_scales,
)
from innv_ext.visualization.images import apply_cmap, to_rgb
from innv_ext.visualization.layout import (
    BAR,
    DPI,
    HEADER,
    MARGIN,
    PAD,
    SIDE,
    SMALL,
    Headers,
    Layout,
    Lines,
    cell_size,
    line_height,
    plan,
)
from innv_ext.visualization.rows import ClassNames, left_texts, right_texts
from innv_ext.visualization.scaling import Reduction

_TEXT, _SOFT, _WRONG, _EDGE = "#222222", "#555555", "#c00000", "#bbbbbb"


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
    colorbar: bool = False,
    channel_axis: int = -1,
    value_range: tuple[float, float] | None = None,
    cell: float = 0.8,
    figure: Figure | None = None,
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
    colorbar : bool, default False
        Draw the colours of the heatmaps below the grid.
    channel_axis : int, default -1
        1 for (batch, C, H, W); of images and maps.
    value_range : (low, high), optional
        The images' values of black and white, see `to_rgb`.
    cell : float, default 0.8
        Longer side of a picture in inches, about: small images get a whole number of dots per pixel.
    figure : matplotlib.figure.Figure, optional
        An empty figure, e.g. of pyplot, to resize and draw into; default is a new one.
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
    number("cell", cell, 0)
    number("percentile", percentile, 0, 100)
    number("gamma", gamma, 0)
    if percentile < 100 and scale != "map":
        raise InvalidInputError(f"percentile={percentile!r} goes with scale='map' only; got scale={scale!r}.")
    options = Options(reduce, scale, channel_axis, value_range, percentile, gamma)
    pictures = as_batch(images, "images", channel_axis)
    if not len(pictures):
        raise InvalidInputError(f"images has shape {pictures.shape}: there is no row to draw.")
    columns = read_columns(maps, mode, modes or {}, pictures, channel_axis)
    if colorbar and all(column.mode != "heatmap" for column in columns):
        raise InvalidInputError("colorbar=True needs a column in mode 'heatmap'; the other modes have none.")
    sides = (
        left_texts(len(pictures), labels, predictions, neurons, class_names),
        right_texts(len(pictures), probabilities, scores),
    )
    scales = shared_scales(columns, options)
    drawn = [relay("input", partial(to_rgb, images, channel_axis, value_range))]
    for column, shared in zip(columns, scales, strict=True):
        draw = partial(draw_column, column, np.asarray(images), shared, options)
        drawn.append(relay(column.name, draw))

    names = ["input", *_headers(columns, titles or {})]
    size = cell_size(*pictures.shape[1:3], cell)
    layout, headers, caption = plan(
        len(pictures), size, names, sides, caption=describe(columns, options, pictures), bar=colorbar
    )
    figure = _blank(figure, layout)
    _draw_pictures(figure, layout, drawn, columns)
    _draw_headers(figure, layout, headers)
    _draw_sides(figure, layout, sides)
    _draw_bottom(figure, layout, caption)
    if colorbar:
        _draw_colorbar(figure, layout, _bar_ends(columns, scales, scale))
    if path is not None:
        figure.savefig(path, dpi=DPI, facecolor="white", bbox_inches=figure.bbox_inches)  # not the setting
    return figure


def _headers(columns: Sequence[Column], titles: Mapping[str, str]) -> list[str]:
    unknown = set(titles) - {column.name for column in columns}
    if unknown:
        raise InvalidInputError(f"titles names {sorted(unknown)}, which maps lacks.")
    return [str(titles.get(column.name, column.name)) for column in columns]


def _blank(figure: Figure | None, layout: Layout) -> Figure:
    if figure is None:
        figure = Figure(figsize=layout.size, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        return figure
    if not isinstance(figure, Figure) or figure.axes or figure.texts:
        raise InvalidInputError(f"figure must be an empty matplotlib Figure (see its clear method); got {figure!r}.")
    figure.set_size_inches(layout.size)
    figure.set_facecolor("white")
    return figure


def _bare_axes(figure: Figure, box: tuple[float, float, float, float], label: str) -> Axes:
    axes = figure.add_axes(box, label=label, xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=_EDGE, linewidth=0.4)
    return axes


def _draw_pictures(figure: Figure, layout: Layout, drawn: Sequence[Floats], columns: Sequence[Column]) -> None:
    height, width = drawn[0].shape[1:3]
    # where a picture has more pixels than its cell has dots, "nearest" would drop some: average them instead
    shrunk = width > round(layout.cell[0] * DPI) or height > round(layout.cell[1] * DPI)
    for row in range(layout.rows):
        for j, pictures in enumerate(drawn):
            name = columns[j - 1].name if j else "input"
            axes = _bare_axes(figure, layout.box(row, j), f"{row}, {name}")
            axes.imshow(pictures[row], interpolation="antialiased" if shrunk else "nearest", aspect="auto")
            if j and not columns[j - 1].values[row].any():
                style = {"ha": "center", "va": "center", "fontsize": SMALL, "color": "#888888"}
                axes.text(0.5, 0.5, "all zero", transform=axes.transAxes, **style)


def _draw_headers(figure: Figure, layout: Layout, headers: Headers) -> None:
    for j, text in enumerate(headers.texts):
        left, bottom = layout.corner(0, j)
        middle, above = layout.x(left + layout.cell[0] / 2), layout.y(bottom + layout.cell[1] + PAD / 2)
        style = {"rotation": 45, "rotation_mode": "anchor", "ha": "left"} if headers.slanted else {"ha": "center"}
        spacing = {
            "va": "baseline",
            "linespacing": 1.05,
            "fontsize": HEADER,
            "color": _TEXT,
            "parse_math": False,
        }
        figure.text(middle, above, text, **style, **spacing)


def _draw_sides(figure: Figure, layout: Layout, sides: tuple[Sequence[Lines], Sequence[Lines]]) -> None:
    places = (layout.left - PAD / 2, layout.left + layout.columns * layout.pitch[0] + PAD / 2)
    for side, place, align in zip(sides, places, ("right", "left"), strict=True):
        for row, lines in enumerate(side):
            middle = layout.corner(row, 0)[1] + layout.cell[1] / 2
            for i, (text, wrong) in enumerate(lines):
                height = middle + ((len(lines) - 1) / 2 - i) * line_height(SIDE)
                style = {"color": _WRONG, "fontweight": "bold"} if wrong else {"color": _TEXT}
                spot = (layout.x(place), layout.y(height))
                figure.text(*spot, text, ha=align, va="center", fontsize=SIDE, parse_math=False, **style)


def _draw_bottom(figure: Figure, layout: Layout, caption: Sequence[str]) -> None:
    for i, line in enumerate(reversed(caption)):
        height = MARGIN + (i + 0.25) * line_height(SMALL)
        spot = (layout.x(MARGIN), layout.y(height))
        figure.text(*spot, line, va="baseline", fontsize=SMALL, color=_SOFT, parse_math=False)


def _bar_ends(columns: Sequence[Column], scales: Sequence[Floats | None], scale: str) -> tuple[str, str]:
    """Write what the outermost colours mean: a number if all heatmaps share it."""
    if scale != "all":
        return "\N{MINUS SIGN}max", "+max"
    shared = next(s[0] for c, s in zip(columns, scales, strict=True) if c.mode == "heatmap" and s is not None)
    return f"\N{MINUS SIGN}{shared:.3g}", f"+{shared:.3g}"


def _draw_colorbar(figure: Figure, layout: Layout, ends: tuple[str, str]) -> None:
    """Draw the bar below the maps, in the middle."""
    width = min(1.6, layout.columns * layout.pitch[0])
    left = layout.left + (layout.columns * layout.pitch[0] - width) / 2
    bottom = layout.bottom - PAD - BAR
    box = (layout.x(left), layout.y(bottom), layout.x(width), layout.y(BAR))
    axes = _bare_axes(figure, box, "colorbar")
    ramp = apply_cmap(np.linspace(0.0, 1.0, 257)[None], "seismic")
    axes.imshow(ramp, extent=(-1, 1, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_xticks([-1, 0, 1], labels=[ends[0], "0", ends[1]])
    axes.tick_params(axis="x", length=0, pad=1.5, labelsize=SMALL, labelcolor=_TEXT)
