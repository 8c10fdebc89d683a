"""Relevance of tables: bars per feature, the largest first; summaries of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import TABLE, Floats
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.reading import Maps, number_text, read_data, read_maps, read_names, row_titles, signed_text
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color, share
from innv_ext.visualization.summaries import draw_summary, lines_of

_USUAL = 15  # features without ``top``
_WIDTH, _HEIGHT, _GAP = 1.75, 0.18, 0.15  # inches of a panel, of a bar's line, and between panels
_LONGEST = 48  # characters of a name
_STRENGTH = 0.75  # how far out in the colour map the two colours of bars are
_PALE = 0.4  # opacity of the bar of all others


@dataclass(frozen=True)
class Bar:
    """A bar: what stands beside it, its relevance, which may be not finite, and whether a value of ``x`` is not."""

    label: str
    relevance: float
    missing: bool
    others: bool = False


def plot_tables(
    x: ArrayLike,
    maps: Any,
    *,
    kind: str = "rows",
    feature_names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    top: int | None = None,
    scale: str = "map",
    cmap: str | Colormap | None = None,
    bad_color: Color = GREEN,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw the relevance of features, the largest magnitude on top: of each sample, or of a data set as a whole.

    With ``kind="rows"`` there is a row of bars per sample and a column per analyzer. Left of each bar stand the feature
    and its value, right of it the relevance. What is beyond ``top`` is summed in a pale bar "others (n features)", so
    that the bars of a panel always add up to the whole.

    Parameters
    ----------
    x : array (batch, F)
    kind : "rows"; or, of all samples together, a panel per analyzer: "bars", the mean magnitudes, or "beeswarm", a
        point per sample, whose place is its relevance and whose colour the value of the feature, between its 5 % and
        95 % percentiles; there "others" are grey points at their sum
    maps : array (batch, F), or {name: such an array}
    feature_names, row_names : names of the features, cut to 48 characters, and of the samples; None: their numbers
    top : how many features get a bar of their own; None: all, but at most 15
    scale : "map", "row", "column" or "all", the panels that share the ends of their axis, symmetric around zero in rows
    cmap : as in `plot_signals`; bars have the colours at three quarters of its positive and negative side. Of a
        beeswarm the colours of low to high values, None: from blue to red
    bad_color : of relevance that is not finite, green by default: it comes first, as a bar over the whole panel; ground
        of the labels where ``x`` is not finite
    ax : matplotlib axes to draw into, row by row, batch x analyzers of them; None: a new figure
    path : also save the figure here; the suffix says the format

    Raises
    ------
    InvalidInputError
        as `plot_signals`, for ``top`` below 1, and for names of rows or a colour map where there are none

    Examples
    --------
    >>> figure = plot_tables([[5.1, 3.5, 1.4]], [[0.1, -2.0, 0.2]], feature_names=["a", "b", "c"], top=1)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['b = 3.5', 'others (2 features)']
    >>> figure = plot_tables([[5.1, 3.5], [4.0, 0.1]], [[0.1, -2.0], [0.0, 1.0]], kind="beeswarm")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['feature 1', 'feature 0']

    Notes
    -----
    Summaries as in Lundberg et al. (2020), "From local explanations to global understanding with explainable AI for
    trees", figures 4 and 5.
    """
    choice("kind", kind, ("rows", "bars", "beeswarm"))
    data = read_data(x, TABLE, bad_color)
    found = read_maps(maps, data, TABLE, scale=scale, bad_color=bad_color, reduce="sum")
    features = data.shape[1]
    names = read_names(feature_names, "feature_names", features, map("feature {}".format, range(features)))
    if top is None:
        top = _USUAL
    elif isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise InvalidInputError(f"top must be an integer of at least 1, the number of features drawn; got {top!r}.")
    if kind != "rows":
        for argument, given in (("row_names", row_names), ("cmap", cmap if kind == "bars" else None)):
            if given is not None:
                raise InvalidInputError(f"{argument} has no meaning with kind={kind!r}; leave it out.")
        lines = [lines_of(data[..., 0], analyzer, names, kind, top) for analyzer in found]
        shared = scale in ("row", "all")
        panels = draw_summary(lines, [analyzer.name for analyzer in found], kind, shared, cmap, bad_color, ax)
        return layout.finish(panels, ax, path, _GAP)
    cmap = DIVERGING if cmap is None else cmap
    titles = row_titles(row_names, len(data))
    charts = [[_bars(data[i, :, 0], analyzer, i, names, top) for i in range(len(data))] for analyzer in found]
    panels = layout.panel_grid(ax, len(found), _WIDTH, [_HEIGHT * (len(charts[0][0]) + 0.2)] * len(data))
    limits = share(np.array([[_longest(chart) for chart in charts_of] for charts_of in charts]), scale)
    for j, analyzer in enumerate(found):
        for i, axes in enumerate(panels[:, j]):
            _draw_bars(axes, charts[j][i], limits[j, i], cmap, bad_color)
            layout.title_panel(axes, "" if i else analyzer.name)
        panels[-1, j].set_xlabel("relevance", labelpad=2, **layout.LABELLED)
    for axes, title in zip(panels[:, 0], titles, strict=True):
        axes.set_ylabel(title, **layout.LABELLED)
    return layout.finish(panels, ax, path, _GAP)


def _bars(values: Floats, analyzer: Maps, row: int, names: Sequence[str], top: int) -> list[Bar]:
    """What is not finite comes first, then the largest magnitudes (ties: the first features), then all others."""
    relevance = np.where(analyzer.bad[row], np.nan, analyzer.values[row])
    order = np.argsort(np.where(analyzer.bad[row], -np.inf, -np.abs(relevance)), kind="stable")
    missing = ~np.isfinite(values)
    bars = []
    for f in order[:top]:
        label = f"{layout.shorten(names[f], _LONGEST)} = {number_text(values[f])}"
        bars.append(Bar(label, float(relevance[f]), bool(missing[f])))
    rest = order[top:]
    if len(rest):
        plural = "s" if len(rest) > 1 else ""
        label = f"others ({len(rest)} feature{plural})"
        bars.append(Bar(label, float(relevance[rest].sum()), bool(missing[rest].any()), others=True))
    return bars


def _longest(bars: Sequence[Bar]) -> float:
    return max((abs(bar.relevance) for bar in bars if np.isfinite(bar.relevance)), default=0.0)


def _draw_bars(axes: Axes, bars: Sequence[Bar], limit: float, cmap: str | Colormap, bad_color: Color) -> None:
    limit = limit or 1.0  # of a map that is zero everywhere
    relevance = np.array([bar.relevance for bar in bars])
    bad = ~np.isfinite(relevance)
    colours = paint(apply_cmap((1 + _STRENGTH * np.sign(np.where(bad, 0.0, relevance))) / 2, cmap), bad, bad_color)
    starts, widths = np.where(bad, -limit, 0.0), np.where(bad, 2 * limit, relevance)
    drawn = axes.barh(np.arange(len(bars)), widths, left=starts, height=0.72, color=colours)
    for patch, bar in zip(drawn, bars, strict=True):
        patch.set_alpha(_PALE if bar.others else None)
        spot = (1.02, patch.get_y() + patch.get_height() / 2)
        style = {**layout.NOTED, "color": layout.SOFT if bar.others else layout.TEXT, "va": "center_baseline"}
        axes.text(*spot, signed_text(bar.relevance), transform=axes.get_yaxis_transform(), **style)
    layout.style_panel(axes)
    axes.spines["left"].set_visible(False)
    axes.axvline(0.0, color=layout.EDGE, linewidth=0.6, zorder=0)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xticks([-limit, 0.0, limit], labels=[number_text(-limit), "0", number_text(limit)])
    axes.set_yticks(np.arange(len(bars)), labels=[bar.label for bar in bars], parse_math=False)
    axes.tick_params(axis="y", length=0)
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        if bar.missing:
            label.set_bbox({"facecolor": bad_color, "linewidth": 0, "pad": 1})
