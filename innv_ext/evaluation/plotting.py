"""Curves over the rate as a matplotlib figure; no pyplot state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from innv_ext.errors import InvalidInputError

DPI = 150
# Okabe and Ito's colours for all kinds of colour vision, without their yellow, which is too light for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
AXIS_LABELS = {"distortion": "distortion (squared change of the output)", "accuracy": "accuracy"}
TOPS = {"distortion": None, "accuracy": 1.02}
LEGEND_COLUMNS = 2
BEST_FIRST = {"distortion": 1, "accuracy": -1}  # small distortions and large accuracies are good

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def two_axes(ax: Sequence[Axes] | None, names: int) -> tuple[Axes, Axes]:
    """``ax`` if it is two axes, or those of a new figure with room for legends of that many names."""
    if ax is None:
        height = 3.9 + 0.19 * -(-names // LEGEND_COLUMNS)
        figure = Figure(figsize=(9.6, height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        return tuple(figure.subplots(1, 2))
    found = tuple(ax) if isinstance(ax, (Sequence, np.ndarray)) else (ax,)
    if len(found) != 2 or not all(isinstance(a, Axes) for a in found):
        raise InvalidInputError(
            f"ax must be two matplotlib axes (distortion, accuracy), e.g. figure.subplots(1, 2), got {ax!r}."
        )
    return found


def draw(
    axes: tuple[Axes, Axes],
    rates: np.ndarray,
    curves: Mapping[str, Curves],
    areas: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Two panels of curves {"distortion": {name: (mean, spread)}, "accuracy": ...}, legends sorted by area."""
    for panel, (of, lines) in zip(axes, curves.items(), strict=True):
        drawn = _draw_curves(panel, rates, lines)
        panel.set(xlabel="rate (non-randomised components)", ylabel=AXIS_LABELS[of])
        panel.set_xlim(float(rates[0]), float(rates[-1]))
        panel.set_ylim(bottom=0, top=TOPS[of])
        panel.grid(color="#e5e5e5", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        _draw_legend(panel, drawn, areas[of], BEST_FIRST[of])
    return axes[0].figure.figure  # the root, also for axes of a subfigure


def _draw_curves(panel: Axes, rates: np.ndarray, lines: Curves) -> dict[str, Line2D]:
    """A name has the same look in both panels; neighbours differ in colour and in dashes, and 28 looks are distinct."""
    drawn = {}
    for j, (name, (mean, spread)) in enumerate(lines.items()):
        colour, dash = COLOURS[j % len(COLOURS)], DASHES[j % len(DASHES)]
        (drawn[name],) = panel.plot(rates, mean, color=colour, linestyle=dash, linewidth=1.6, label=name)
        if np.isfinite(spread).all():
            panel.fill_between(rates, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
    return drawn


def _draw_legend(panel: Axes, drawn: Mapping[str, Line2D], areas: Mapping[str, float], sign: int) -> None:
    order = sorted(areas, key=lambda name: sign * areas[name])
    labels = [f"{name} ({areas[name]:.3g})".replace("$", r"\$") for name in order]
    panel.legend(
        [drawn[name] for name in order],
        labels,
        title="area, best first" if len(order) > 1 else "area",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),  # below the panel, where it hides no curve
        ncols=LEGEND_COLUMNS,
        fontsize=8,
        title_fontsize=8,
        frameon=False,
    )
