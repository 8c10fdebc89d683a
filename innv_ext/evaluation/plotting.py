"""Axes, curves and files of the results' figures; no pyplot state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.panels import save as save_figure

DPI = 150
# Okabe and Ito's colours for all kinds of colour vision, without their yellow, which is too light for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
LEGEND_COLUMNS = 2
COUNTS = {1: "one", 2: "two"}
SPREADS = ("error", "confidence", "std")


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of curves.

    Attributes
    ----------
    label : of the vertical axis
    curves : {name: Statistics of a curve}
    numbers : {name: Statistics of the number that the legend shows and is sorted by}
    meaning : of these numbers
    largest_first : whether large numbers are good
    limits : of the vertical axis; None leaves one to matplotlib
    marker : of single points, where there may be few
    """

    label: str
    curves: Mapping[str, Any]
    numbers: Mapping[str, Any]
    meaning: str
    largest_first: bool
    limits: tuple[float | None, float | None] = (None, None)
    marker: str = ""


def axes_for(
    ax: Any, shape: tuple[int, int], panels: str, size: tuple[float, float], dpi: float | None = DPI
) -> np.ndarray:
    """``ax`` as axes (rows, columns), if it has this shape, or those of a new figure; ``panels``: what they are for."""
    if ax is None:
        figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        return figure.subplots(*shape, squeeze=False)
    found = np.array(ax, dtype=object, ndmin=2)
    if found.shape != shape or not all(isinstance(a, Axes) for a in found.flat):
        count, (rows, columns) = shape[0] * shape[1], shape
        raise InvalidInputError(
            f"ax must be {COUNTS.get(count, count)} matplotlib axes ({panels}), e.g. figure.subplots({rows}, "
            f"{columns}), got {ax!r}."
        )
    return found


def curve_axes(ax: Any, panels: Sequence[str], names: int = 0) -> np.ndarray:
    """One axes for each panel, side by side; a new figure has room for legends of so many names below them."""
    size = (4.8 * len(panels), 3.9 + 0.19 * -(-names // LEGEND_COLUMNS))
    return axes_for(ax, (1, len(panels)), ", ".join(panels), size)[0]


def save(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write all of the figure to ``path``, if there is one; small texts stay legible whatever its dots are."""
    return save_figure(figure, path, dpi=max(DPI, figure.dpi))


def draw(given: Any, positions: np.ndarray, label: str, panels: Sequence[Panel], spread: str = "error") -> Figure:
    """Draw each panel on axes of its own, all over the same ``positions``; the legends are sorted, best first.

    Curves are means in bands as wide as their ``spread``: "error", "confidence" or "std".
    """
    arguments.choice("spread", spread, SPREADS)
    axes = curve_axes(given, [panel.label for panel in panels], len(panels[0].curves))
    for ax, panel in zip(axes, panels, strict=True):
        drawn = _draw_curves(ax, positions, panel, spread)
        ax.set(xlabel=label, ylabel=panel.label)
        if not panel.marker:
            ax.set_xlim(float(positions[0]), float(positions[-1]))
        ax.set_ylim(*panel.limits)
        tidy(ax)
        _draw_legend(ax, drawn, panel)
    return axes[0].figure.figure  # the root, also for axes of a subfigure


def tidy(ax: Axes) -> None:
    """A light grid behind the data, and no frame above and on the right."""
    ax.grid(color="#e5e5e5", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def literal(text: str) -> str:
    """``text`` as matplotlib shows it unchanged: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number; 28 looks are distinct, neighbours differ in both."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def _draw_curves(ax: Axes, positions: np.ndarray, panel: Panel, spread: str) -> dict[str, Line2D]:
    """A curve has the look of its number, so that it is the same in every panel that has the same maps."""
    drawn = {}
    for j, (name, found) in enumerate(panel.curves.items()):
        (drawn[name],) = ax.plot(positions, found.mean, linewidth=1.6, marker=panel.marker, label=name, **look(j))
        width = getattr(found, spread)
        if np.isfinite(width).any():  # a point of one sample has no spread
            colour = drawn[name].get_color()
            ax.fill_between(positions, found.mean - width, found.mean + width, color=colour, alpha=0.12, linewidth=0)
    return drawn


def _draw_legend(ax: Axes, drawn: Mapping[str, Line2D], panel: Panel) -> None:
    numbers = {name: float(found.mean) for name, found in panel.numbers.items()}
    order = sorted(numbers, key=lambda name: numbers[name], reverse=panel.largest_first)
    ax.legend(
        [drawn[name] for name in order],
        [literal(f"{name} ({numbers[name]:.3g})") for name in order],
        title=panel.meaning + (", best first" if len(order) > 1 else ""),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),  # below the panel, where it hides no curve
        ncols=LEGEND_COLUMNS,
        fontsize=8,
        title_fontsize=8,
        frameon=False,
    )
