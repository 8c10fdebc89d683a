"""The layout of all figures: panels of some inches, what stands around them, and a figure with room for both.

A new figure is made in three steps: ``panel_grid`` gives axes of the size that their content needs, titles, texts and
a colour bar are added, and ``fit`` asks matplotlib how far these reach, moves the panels apart and sizes the figure.
In axes of the caller's all is drawn the same way, but ``fit`` is left out.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.files import writable_file, write
from innv_ext.visualization.checks import Floats, Mask
from innv_ext.visualization.images import find_cmap
from innv_ext.visualization.scaling import Color

DPI = 200
TITLE, LABEL, SMALL = 8.0, 7.0, 6.5  # text sizes in points
TEXT, SOFT, EDGE = "#222222", "#555555", "#bbbbbb"
LABELLED = {"fontsize": LABEL, "color": TEXT, "parse_math": False}
NOTED = {"fontsize": SMALL, "color": SOFT, "parse_math": False}
GAP = 0.04  # inches between pictures
_MARGIN = 0.08  # inches around the figure
_LEAST = 3.0  # inches: in narrower figures captions would be very long
_BAR = (1.6, 0.07)  # inches of the colour bar of a new figure
_HAIR = 0.01  # inches that frames may reach over their panels


# --- texts -----------------------------------------------------------------------------------------------------------


def line_height(size: float) -> float:
    """Return the height of a line of text in inches."""
    return 1.25 * size / 72


def text_width(text: str, size: float) -> float:
    """Width of a line of text in inches, without any renderer."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72


def wrap(text: str, width: float, size: float) -> str:
    """Break lines after blanks and the separators of names; a part that is too long stays whole."""
    lines = []
    for paragraph in text.splitlines():
        lines.append("")
        for part in re.findall(r"[^\s._\-/]+[\s._\-/]?|[\s._\-/]", paragraph):
            if lines[-1] and text_width((lines[-1] + part).rstrip(), size) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def shorten(text: str, length: int = 24) -> str:
    """Cut long class names."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def title_panel(axes: Axes, title: str, note: str = "", size: float = TITLE, width: float = 0.0) -> None:
    """Write the analyzer's name, wrapped to the panel or to ``width``, if that is more, and a note below it."""
    lines = [wrap(title, max(width, inches(axes)[0]), size), note]
    axes.set_title("\n".join(filter(None, lines)), fontsize=size, color=TEXT, pad=3, parse_math=False)


def write_beside(axes: Axes, text: str, xy: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """Write at a place in fractions of the axes, shifted by points."""
    axes.annotate(text, xy, shift, xycoords="axes fraction", textcoords="offset points", **style)


# --- panels ----------------------------------------------------------------------------------------------------------


def panel_grid(
    ax: Any, columns: int, width: float, heights: Sequence[float], figure: Figure | None = None
) -> np.ndarray:
    """Axes (rows, columns): those given, row by row, or new ones of these inches, to which ``fit`` belongs."""
    grid = np.empty((len(heights), columns), dtype=object)
    if ax is None:
        figure = _blank(figure)
        figure.set_size_inches(columns * width, sum(heights))
        shares = np.divide(heights, sum(heights))
        for i, j in np.ndindex(grid.shape):
            grid[i, j] = figure.add_axes((j / columns, 1 - shares[: i + 1].sum(), 1 / columns, shares[i]))
        return grid
    found = [ax] if isinstance(ax, Axes) else list(np.ravel(np.array(ax, dtype=object)))
    if len(found) != grid.size or not all(isinstance(panel, Axes) for panel in found):
        raise InvalidInputError(
            f"ax must be {grid.size} matplotlib axes, row by row ({len(grid)} row(s) of {columns}), e.g. "
            f"figure.subplots({len(grid)}, {columns}); got {ax!r}."
        )
    grid.flat = found
    return grid


def _blank(figure: Figure | None) -> Figure:
    if figure is None:
        figure = Figure(dpi=DPI, layout="none")
        FigureCanvasAgg(figure)
    elif not isinstance(figure, Figure) or figure.axes or figure.texts:
        raise InvalidInputError(f"figure must be an empty matplotlib Figure (see its clear method); got {figure!r}.")
    figure.set_facecolor("white")
    return figure


def fit(panels: np.ndarray, caption: str = "", gap: float = GAP) -> Figure:
    """Give the figure of new panels the room that all texts need; each panel keeps its size, on whole dots.

    Between panels and what stands around them are ``gap`` inches; columns are equally far apart. A colour bar goes
    below the panels, and below that the caption, whose lines are wrapped to the figure.
    """
    figure = root(panels)
    bar = next((axes for axes in figure.axes if axes.get_label() == "colorbar"), None)
    dpi, figure.dpi = figure.dpi, DPI  # so that texts need the same room in every figure
    over = np.array([[_overhang(axes) for axes in row] for row in panels])
    around = np.zeros(4) if bar is None else _overhang(bar)
    figure.dpi = dpi
    (left, right), (below, above) = over[..., ::2].max(axis=0).T, over[..., 1::2].max(axis=1).T
    width, heights = inches(panels[0, 0])[0], [inches(axes)[1] for axes in panels[:, 0]]
    pitch = width + gap + max(right[:-1] + left[1:], default=0.0)
    lefts = _MARGIN + left[0] + pitch * np.arange(len(left))
    across = lefts[-1] + width + right[-1] + _MARGIN
    if across < _LEAST:
        lefts, across = lefts + (_LEAST - across) / 2, _LEAST
    # from here on downwards from the upper edge
    bottoms = _MARGIN + above[0] + np.cumsum(heights) + np.append(0.0, np.cumsum(below[:-1] + gap + above[1:]))
    bar_bottom = bottoms[-1] + below[-1] + 2 * GAP + _BAR[1]
    lines = wrap(caption, across - 2 * _MARGIN, SMALL)
    down = (bottoms[-1] + below[-1] if bar is None else bar_bottom + around[1]) + _MARGIN
    down += GAP + len(lines.splitlines()) * line_height(SMALL) if lines else 0.0
    figure.set_size_inches(np.ceil(np.round((across * DPI, down * DPI), 6)) / DPI)
    for (i, j), axes in np.ndenumerate(panels):
        _place(axes, lefts[j], bottoms[i], width, heights[i])
    if bar is not None:
        most = across - _MARGIN - around[2] - _BAR[0]
        bar_left = np.clip((lefts[0] + lefts[-1] + width - _BAR[0]) / 2, _MARGIN + around[0], most)
        _place(bar, bar_left, bar_bottom, *_BAR)
    if lines:
        spot = _MARGIN / figure.get_size_inches()
        figure.text(*spot, lines, va="bottom", linespacing=1.25, **NOTED)
    return figure


def _overhang(axes: Axes) -> Floats:
    """How many inches all that belongs to the axes reaches over them: left, below, right, above."""
    box, panel = axes.get_tightbbox(), axes.get_window_extent()
    over = np.abs(np.subtract(box.extents, panel.extents)) / axes.figure.dpi
    return np.where(over > _HAIR, over, 0.0)


def _place(axes: Axes, left: float, bottom: float, width: float, height: float) -> None:
    """Move axes to inches from the upper left corner, on whole dots: the pixels of pictures become equally large."""
    across, down = axes.figure.get_size_inches()
    left, bottom = round(left * DPI) / DPI, down - round(bottom * DPI) / DPI
    axes.set_position((left / across, bottom / down, width / across, height / down))


def root(panels: np.ndarray) -> Figure:
    """The figure of the axes, also where they are on a subfigure."""
    return panels.flat[0].figure.figure


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes, as they are placed now."""
    box = axes.get_window_extent()
    return box.width / axes.figure.dpi, box.height / axes.figure.dpi


def style_panel(axes: Axes) -> None:
    """Thin, grey, and without the frame's upper right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=EDGE, linewidth=0.6)
    axes.tick_params(labelsize=SMALL, labelcolor=TEXT, color=EDGE, width=0.6, length=2, pad=2)


def cell_size(height: int, width: int, target: float) -> tuple[float, float]:
    """Width and height in inches of a picture, the longer about ``target``; small ones get whole dots per pixel."""
    dots, longer = target * DPI, max(height, width)
    per_pixel = max(1, round(dots / longer)) if longer <= dots else dots / longer
    return max(1, round(width * per_pixel)) / DPI, max(1, round(height * per_pixel)) / DPI


@dataclass(frozen=True, eq=False)
class Heat:
    """The values behind a picture: (H, W) in [-1, 1], which of them are not finite, and how they become colours."""

    unit: Floats
    bad: Mask
    cmap: str | Colormap
    bad_color: Color
    gamma: float = 1.0

    def draw(self, axes: Axes, aspect: str) -> None:
        """Show the mean of the values in each dot: colours of opposite values have no mean that means anything."""
        power = self.gamma
        curve = (lambda u: np.sign(u) * np.abs(u) ** power, lambda u: np.sign(u) * np.abs(u) ** (1 / power))
        norm = Normalize(-1, 1) if power == 1 else FuncNorm(curve, -1, 1)
        values = np.ma.array(np.where(self.bad, 0.0, self.unit), mask=self.bad)
        colours = find_cmap(self.cmap).with_extremes(bad=self.bad_color)
        how = {"interpolation": "antialiased", "interpolation_stage": "data"}
        axes.imshow(values, cmap=colours, norm=norm, aspect=aspect, **how)


def draw_picture(axes: Axes, picture: Floats, aspect: str, heat: Heat | None = None) -> None:
    """Show an RGB picture in a thin frame; ``heat`` are its values, if colours stand for such."""
    # where a picture has more pixels than its place has dots, "nearest" would drop some: average them instead
    width, height = (round(side * axes.figure.dpi) for side in inches(axes))
    shrunk = picture.shape[1] > width or picture.shape[0] > height
    if shrunk and heat is not None:
        heat.draw(axes, aspect)
    else:
        axes.imshow(picture, interpolation="antialiased" if shrunk else "nearest", aspect=aspect)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(edgecolor=EDGE, linewidth=0.4)


def bar_below(panels: np.ndarray, cmap: str | Colormap, given: bool, end: str) -> Colorbar:
    """A colour bar from -``end`` to ``end``: of a new figure, or in room that is taken from axes that are ``given``."""
    figure = panels.flat[0].figure
    width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
    place: dict[str, Any] = {"orientation": "horizontal"}
    if given:
        pad = 0.5 if figure.get_layout_engine() is None else 0.06  # inches; a layout engine sees the labels itself
        place = {"ax": list(panels.flat), "location": "bottom", "shrink": min(1.0, 2.4 / width), "aspect": 30}
        place |= {"pad": pad / height, "fraction": 0.15 / height}
    else:
        place["cax"] = figure.add_axes((0.0, 0.0, _BAR[0] / width, _BAR[1] / height))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), find_cmap(cmap)), **place)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=TEXT, length=0, pad=2)
    bar.outline.set(edgecolor=EDGE, linewidth=0.4)
    bar.ax.set_label("colorbar")
    bar.set_ticks([-1, 0, 1], labels=[f"\N{MINUS SIGN}{end}", "0", f"+{end}"] if end else ["", "0", ""])
    return bar


def finish(panels: np.ndarray, ax: Any, path: str | os.PathLike[str] | None, gap: float) -> Figure:
    """The figure of the panels, made to fit where it is new, and saved where there is a ``path``."""
    return save(fit(panels, gap=gap) if ax is None else root(panels), path)


def save(figure: Figure, path: str | os.PathLike[str] | None, dpi: float | str = "figure") -> Figure:
    """Write all of the figure to ``path``, if there is one, whatever the settings say; the suffix is the format.

    Raises
    ------
    InvalidInputError
        for an unknown format, a folder, and what cannot be written to
    OSError
        if the disk is full; the error names the file
    """
    if path is None:
        return figure
    target = writable_file("path", path)
    kind = target.suffix[1:].lower() or "png"
    choice("path: the suffix", kind, tuple(figure.canvas.get_supported_filetypes()))
    target = target if target.suffix else target.with_name(f"{target.name}.png")
    write(target, lambda file: _render(figure, file, kind, dpi))
    return figure


def _render(figure: Figure, file: IO[bytes], kind: str, dpi: float | str = "figure") -> None:
    figure.savefig(file, dpi=dpi, format=kind, facecolor="white", bbox_inches=figure.bbox_inches)


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    _render(figure, buffer, "png")
    return buffer.getvalue()
