"""The parts of a comparison grid, drawn where its layout says or into axes that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats
from innv_ext.visualization.columns import Column
from innv_ext.visualization.images import apply_cmap
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
    wrap,
)
from innv_ext.visualization.panels import EDGE, SOFT, TEXT, bar_below, root, title_panel, write_beside

_WRONG = "#c00000"
_HEADER_STYLE = {"va": "baseline", "linespacing": 1.05, "fontsize": HEADER, "color": TEXT, "parse_math": False}


@dataclass(frozen=True)
class Bar:
    """The colour bar: the map and what its ends mean."""

    cmap: str | Colormap
    low: str
    high: str


@dataclass(frozen=True)
class Texts:
    """All that is written: headers, left and right of each row, paragraphs of the caption, and the colour bar."""

    headers: tuple[str, ...]
    sides: tuple[Sequence[Lines], Sequence[Lines]]
    caption: tuple[str, ...]
    bar: Bar | None


def draw_figure(
    figure: Figure | None, drawn: Sequence[Floats], columns: Sequence[Column], texts: Texts, cell: float
) -> Figure:
    """Lay out and draw a grid in a new figure or one that is empty."""
    size = cell_size(*drawn[0].shape[1:3], cell)
    layout, headers, caption = plan(
        len(drawn[0]), size, texts.headers, texts.sides, caption=texts.caption, bar=texts.bar is not None
    )
    figure = _blank(figure, layout)
    for row, j in np.ndindex(layout.rows, layout.columns):
        axes = figure.add_axes(layout.box(row, j))
        _draw_picture(axes, drawn, columns, (row, j), (layout.cell[0] * DPI, layout.cell[1] * DPI), "auto")
    _draw_headers(figure, layout, headers)
    _draw_sides(figure, layout, texts.sides)
    _draw_bottom(figure, layout, caption)
    if texts.bar:
        _draw_colorbar(figure, layout, texts.bar)
    return figure


def draw_into(panels: np.ndarray, drawn: Sequence[Floats], columns: Sequence[Column], texts: Texts) -> Figure:
    """Draw a grid into axes (rows, columns), with all texts beside them."""
    if texts.bar:
        bar_below(panels, texts.bar.cmap).set_ticks([-1, 0, 1], labels=[texts.bar.low, "0", texts.bar.high])
    for place, axes in np.ndenumerate(panels):
        dots = axes.get_window_extent()
        _draw_picture(axes, drawn, columns, place, (dots.width, dots.height), "equal")
    for axes, header in zip(panels[0], texts.headers, strict=True):
        title_panel(axes, header)
    for side, j, x, align in zip(texts.sides, (0, -1), (0.0, 1.0), ("right", "left"), strict=True):
        for axes, lines in zip(panels[:, j], side, strict=True):
            for i, (text, wrong) in enumerate(lines):
                up = 72 * ((len(lines) - 1) / 2 - i) * line_height(SIDE)
                write_beside(axes, text, (x, 0.5), ((2 * x - 1) * 4, up), ha=align, va="center", **_side_style(wrong))
    corner = panels[-1, 0]
    width = (panels[-1, -1].get_window_extent().x1 - corner.get_window_extent().x0) / corner.figure.dpi
    lines = [line for paragraph in texts.caption for line in wrap(paragraph, width, SMALL)]
    write_beside(corner, "\n".join(lines), (0.0, 0.0), (0.0, -4.0), ha="left", va="top", fontsize=SMALL, color=SOFT)
    return root(panels)


def _side_style(wrong: bool) -> dict[str, Any]:
    return {"fontsize": SIDE, **({"color": _WRONG, "fontweight": "bold"} if wrong else {"color": TEXT})}


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


def _bare(axes: Axes, label: str) -> None:
    axes.set(label=label, xticks=[], yticks=[])
    axes.spines[:].set(edgecolor=EDGE, linewidth=0.4)


def _draw_picture(
    axes: Axes,
    drawn: Sequence[Floats],
    columns: Sequence[Column],
    place: tuple[int, ...],
    dots: tuple[float, float],
    aspect: str,
) -> None:
    row, j = place
    picture = drawn[j][row]
    # where a picture has more pixels than its place has dots, "nearest" would drop some: average them instead
    shrunk = picture.shape[1] > round(dots[0]) or picture.shape[0] > round(dots[1])
    axes.imshow(picture, interpolation="antialiased" if shrunk else "nearest", aspect=aspect)
    _bare(axes, f"{row}, {columns[j - 1].name if j else 'input'}")
    if j and not columns[j - 1].values[row].any():
        style = {"ha": "center", "va": "center", "fontsize": SMALL, "color": "#888888"}
        axes.text(0.5, 0.5, "all zero", transform=axes.transAxes, **style)


def _draw_headers(figure: Figure, layout: Layout, headers: Headers) -> None:
    for j, text in enumerate(headers.texts):
        left, bottom = layout.corner(0, j)
        middle, above = layout.x(left + layout.cell[0] / 2), layout.y(bottom + layout.cell[1] + PAD / 2)
        style = {"rotation": 45, "rotation_mode": "anchor", "ha": "left"} if headers.slanted else {"ha": "center"}
        figure.text(middle, above, text, **style, **_HEADER_STYLE)


def _draw_sides(figure: Figure, layout: Layout, sides: tuple[Sequence[Lines], Sequence[Lines]]) -> None:
    places = (layout.left - PAD / 2, layout.left + layout.columns * layout.pitch[0] + PAD / 2)
    for side, place, align in zip(sides, places, ("right", "left"), strict=True):
        for row, lines in enumerate(side):
            middle = layout.corner(row, 0)[1] + layout.cell[1] / 2
            for i, (text, wrong) in enumerate(lines):
                height = middle + ((len(lines) - 1) / 2 - i) * line_height(SIDE)
                spot = (layout.x(place), layout.y(height))
                figure.text(*spot, text, ha=align, va="center", parse_math=False, **_side_style(wrong))


def _draw_bottom(figure: Figure, layout: Layout, caption: Sequence[str]) -> None:
    for i, line in enumerate(reversed(caption)):
        height = MARGIN + (i + 0.25) * line_height(SMALL)
        spot = (layout.x(MARGIN), layout.y(height))
        figure.text(*spot, line, va="baseline", fontsize=SMALL, color=SOFT, parse_math=False)


def _draw_colorbar(figure: Figure, layout: Layout, bar: Bar) -> None:
    """Draw the bar below the maps, in the middle."""
    width = min(1.6, layout.columns * layout.pitch[0])
    left = layout.left + (layout.columns * layout.pitch[0] - width) / 2
    bottom = layout.bottom - PAD - BAR
    axes = figure.add_axes((layout.x(left), layout.y(bottom), layout.x(width), layout.y(BAR)))
    ramp = apply_cmap(np.linspace(0.0, 1.0, 257)[None], bar.cmap)
    axes.imshow(ramp, extent=(-1, 1, 0, 1), aspect="auto", interpolation="nearest")
    _bare(axes, "colorbar")
    axes.set_xticks([-1, 0, 1], labels=[bar.low, "0", bar.high])
    axes.tick_params(axis="x", length=0, pad=1.5, labelsize=SMALL, labelcolor=TEXT)
