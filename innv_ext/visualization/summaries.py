"""Relevance of the features of a whole data set: mean magnitudes as bars, or a point per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import Floats
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.reading import Maps, number_text
from innv_ext.visualization.scaling import Color, to_unit

# from blue to red without white, in which points would not be seen
VALUES = LinearSegmentedColormap.from_list("values", ["#1f77d0", "#7b4fa3", "#d62246"])
GREY, BAR, PALE = "#9a9a9a", "#3b6fb6", 0.4
_ROW = {"bars": 0.18, "beeswarm": 0.27}  # inches of a feature
_WIDTH = {"bars": 1.75, "beeswarm": 2.6}
_POINT = 2.6  # points across
_SPREAD = 0.84  # of a row's height that points may take
_TAILS = (5.0, 95.0)  # percentiles of a feature's values that have the colours of the ends


@dataclass(frozen=True, eq=False)
class Line:
    """A feature, or all others together: relevance (samples,), NaN where not finite, and values, if it has such."""

    label: str
    relevance: Floats
    values: Floats | None

    @property
    def mean(self) -> float:
        """Mean magnitude over the samples that have one."""
        good = np.isfinite(self.relevance)
        return float(np.abs(self.relevance[good]).mean()) if good.any() else 0.0


def lines_of(data: Floats, analyzer: Maps, names: Sequence[str], kind: str, top: int) -> list[Line]:
    """The features with the largest mean magnitudes, then all others: their mean magnitudes, or their sum, add up."""
    relevance = np.where(analyzer.bad, np.nan, analyzer.values)
    lines = [Line(name, relevance[:, f], data[:, f]) for f, name in enumerate(names)]
    order = sorted(lines, key=lambda line: -line.mean)  # stable: of ties the first features
    rest = order[top:]
    if rest:
        label = f"others ({len(rest)} feature{'s' if len(rest) > 1 else ''})"
        of_all = np.stack([line.relevance for line in rest])
        together = np.full(len(data), sum(line.mean for line in rest)) if kind == "bars" else of_all.sum(axis=0)
        order = [*order[:top], Line(label, together, None)]
    return order


def draw_summary(
    lines: Sequence[Sequence[Line]],
    titles: Sequence[str],
    kind: str,
    shared: bool,
    cmap: str | Colormap | None,
    bad_color: Color,
    ax: Any,
) -> np.ndarray:
    """A panel for the lines of each analyzer; ``shared``: all of them have one axis."""
    height = _ROW[kind] * (max(map(len, lines)) + 0.2)
    panels = layout.panel_grid(ax, len(lines), _WIDTH[kind], [height])
    ends = np.array([_ends(own, kind) for own in lines])
    if shared:
        ends[:] = ends[:, 0].min(), ends[:, 1].max()
    for axes, own, limits, title in zip(panels[0], lines, ends, titles, strict=True):
        _frame(axes, own, tuple(limits), "mean |relevance|" if kind == "bars" else "relevance")
        if kind == "bars":
            _draw_bars(axes, own)
        else:
            _draw_swarm(axes, own, cmap or VALUES, bad_color)
        layout.title_panel(axes, title)
    if kind == "beeswarm":
        bar = layout.bar_below(panels, cmap or VALUES, ax is not None, "")
        bar.set_ticks([-1, 1], labels=["low", "high"])
        bar.set_label("value of the feature", labelpad=1, **layout.LABELLED)
    return panels


def _ends(lines: Sequence[Line], kind: str) -> tuple[float, float]:
    """The range of an axis, zero included; room at both ends for points."""
    if kind == "bars":
        return 0.0, max(line.mean for line in lines) or 1.0
    found = np.concatenate([line.relevance for line in lines])
    found = np.append(found[np.isfinite(found)], 0.0)
    low, high = found.min(), found.max()
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _frame(axes: Axes, lines: Sequence[Line], limits: tuple[float, float], label: str) -> None:
    layout.style_panel(axes)
    axes.spines["left"].set_visible(False)
    axes.axvline(0.0, color=layout.EDGE, linewidth=0.6, zorder=0)
    axes.set_xlim(*limits)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(np.arange(len(lines)), labels=[layout.shorten(line.label, 48) for line in lines], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label, labelpad=2, **layout.LABELLED)


def _draw_bars(axes: Axes, lines: Sequence[Line]) -> None:
    drawn = axes.barh(np.arange(len(lines)), [line.mean for line in lines], height=0.72, color=BAR)
    for i, (patch, line) in enumerate(zip(drawn, lines, strict=True)):
        patch.set_alpha(PALE if line.values is None else None)
        style = {**layout.NOTED, "color": layout.SOFT if line.values is None else layout.TEXT, "va": "center_baseline"}
        axes.text(1.02, i, number_text(line.mean), transform=axes.get_yaxis_transform(), **style)


def _draw_swarm(axes: Axes, lines: Sequence[Line], cmap: str | Colormap, bad_color: Color) -> None:
    """Points beside each other where they would cover each other, as far as the row has room."""
    width, height = layout.inches(axes)
    low, high = axes.get_xlim()
    across = _POINT / 72 / width * (high - low)  # of a point, in units of relevance
    step = _POINT / 72 / height * (len(lines) + 0.2)  # and in rows
    for i, line in enumerate(lines):
        good = np.isfinite(line.relevance)
        x = line.relevance[good]
        colours = GREY if line.values is None else _colours(line.values, cmap, bad_color)[good]
        y = i + _beside(np.rint(x / across), step)
        axes.scatter(x, y, s=_POINT**2, c=colours, linewidths=0, zorder=2, label=line.label)
        if not good.all():
            text = f"{int((~good).sum())} not finite"
            axes.text(1.02, i, text, transform=axes.get_yaxis_transform(), va="center_baseline", **layout.NOTED)


def _beside(place: Floats, step: float) -> Floats:
    """Shifts of points, alternately up and down, so that those at one place stand ``step`` apart, or closer."""
    order = np.argsort(place, kind="stable")
    _, starts, inverse, counts = np.unique(place[order], return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(place))
    number[order] = np.arange(len(place)) - starts[inverse]  # of the point at its place
    side = np.where(number % 2, 1, -1) * np.ceil(number / 2)
    most = max(1, np.max(counts, initial=1) - 1)
    return side * min(step, _SPREAD / most)


def _colours(values: Floats, cmap: str | Colormap, bad_color: Color) -> Floats:
    """RGB by where a value stands among those of its feature."""
    bad = ~np.isfinite(values)
    filled = np.where(bad, 0.0, values)
    low, high = np.percentile(values[~bad], _TAILS) if not bad.all() else (0.0, 0.0)
    if low == high:  # of a feature that is seldom anything else, e.g. 0 or 1
        low, high = (filled[~bad].min(), filled[~bad].max()) if not bad.all() else (0.0, 0.0)
    middle = low + (high - low) / 2
    unit = to_unit((filled - middle)[None], np.array([(high - low) / 2]))[0]
    return paint(apply_cmap((unit + 1) / 2, cmap), bad, bad_color)
