"""Relevance of signals: lines whose pieces have the colour of their relevance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import SIGNAL, Floats, as_numbers
from innv_ext.visualization.reading import colour_bar, peak_text, read_data, read_maps, read_names, row_titles
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color

_LINE, _CASING = 1.5, 2.3  # widths in points; the grey casing keeps a white (neutral) line visible
_GREY = "#8c8c8c"
_GAP = 0.12  # inches between panels


def plot_signals(
    x: ArrayLike,
    maps: Any,
    *,
    channels: str = "panels",
    channel_names: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    times: ArrayLike | None = None,
    time_label: str = "time step",
    scale: str = "map",
    cmap: str | Colormap = DIVERGING,
    colorbar: bool = True,
    channel_axis: int = -1,
    bad_color: Color = GREEN,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw signals as lines, coloured by relevance: a row per signal, a column per analyzer.

    Every sample's piece of the line, half-way to its neighbours, has exactly the colour of its relevance; zero
    is neutral and the scale symmetric. A grey casing keeps neutral pieces visible on white.

    Parameters
    ----------
    x : array (batch, T) or (batch, T, C)
    maps : array (batch, T) or (batch, T, C), or {name: such an array}; without channels it holds for all those of ``x``
    channels : "panels" gives each channel a panel of its own, "lines" shifts them above each other in one panel, all
        on the same scale, the first channel on top
    channel_names, row_names : names of the channels and of the signals; None: their numbers
    times : array (T,), increasing positions of the samples; None: 0, 1, ...
    time_label : of the time axis, "" for none
    scale : "map", "row", "column" or "all", the maps that share a scale; where there are several scales, each panel
        states its own
    cmap : any diverging matplotlib Colormap, or its name; the default is safe for red-green deficiency
    colorbar : draw the colours and what they mean below the panels
    channel_axis : 1 for (batch, C, T); of ``x`` and the maps
    bad_color : of pieces whose relevance is not finite, green by default; where ``x`` is not finite, of a line over the
        panel's whole height
    ax : matplotlib axes to draw into, row by row: batch x analyzers of them, times the number of channels with
        ``channels="panels"``; None: a new figure
    path : also save the figure here; the suffix says the format

    Raises
    ------
    InvalidInputError
        for no samples, shapes that differ, unknown names, or the wrong number of axes or names

    Examples
    --------
    >>> figure = plot_signals([[0.0, 1.0, 0.5]], {"gradient": [[0.0, 2.0, -1.0]]})
    >>> [panel.get_title() for panel in figure.axes[:1]]
    ['gradient']
    """
    choice("channels", channels, ("panels", "lines"))
    data = read_data(x, SIGNAL, bad_color, channel_axis)
    found = read_maps(maps, data, SIGNAL, scale=scale, bad_color=bad_color, channel_axis=channel_axis)
    batch, steps, count = data.shape
    edges = _edges(times, steps)
    names = read_names(channel_names, "channel_names", count, (f"channel {c}" for c in range(count)))
    titles = row_titles(row_names, batch)
    groups = [[c] for c in range(count)] if channels == "panels" else [list(range(count))]
    rows = [(i, group) for i in range(batch) for group in groups]
    width, height = 3.7 if len(found) == 1 else 2.7, 0.3 + 0.45 * len(groups[0]) + 0.4 / len(rows)
    panels = layout.panel_grid(ax, len(found), width, [height] * len(rows))
    for row, (i, group) in zip(panels, rows, strict=True):
        shifts, ticks = _lanes(data[i][:, group])
        for axes, analyzer in zip(row, found, strict=True):
            colours = analyzer.colours(i, cmap, bad_color)
            for c, shift in zip(group, shifts, strict=True):
                _draw_line(axes, edges, data[i, :, c] + shift, colours[:, c], bad_color)
            note = "" if group[0] else peak_text(analyzer, i, found)
            layout.title_panel(axes, "" if i or group[0] else analyzer.name, note)
        _label_row(row, titles[i], [names[c] for c in group] if count > 1 else [], ticks)
    _label_time(panels, time_label, whole=times is None)
    if colorbar:
        colour_bar(panels, found, cmap, bad_color, ax is not None)
    return layout.finish(panels, ax, path, _GAP)


def _edges(times: ArrayLike | None, steps: int) -> Floats:
    """The positions of the samples with the limits half-way between them: (2 T + 1,) values."""
    at = np.arange(steps, dtype=float) if times is None else as_numbers(times, "times")
    if at.shape != (steps,) or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise InvalidInputError(f"times must be {steps} increasing numbers, one per time step; got {times!r}.")
    gaps = np.diff(at) if steps > 1 else np.ones(1)
    limits = np.concatenate([at[:1] - gaps[0] / 2, at[:-1] + np.diff(at) / 2, at[-1:] + gaps[-1] / 2])
    edges = np.empty(2 * steps + 1)
    edges[0::2], edges[1::2] = limits, at
    return edges


def _lanes(lines: Floats) -> tuple[Floats, Floats]:
    """What to add to each channel of (T, C) so that none reaches into another, the first on top; the lanes' middles."""
    if lines.shape[1] == 1:
        return np.zeros(1), np.zeros(1)
    finite = [line[np.isfinite(line)] for line in lines.T]
    lows, highs = np.array([(line.min(), line.max()) if line.size else (0.0, 0.0) for line in finite]).T
    middles = -1.15 * ((highs - lows).max() or 1.0) * np.arange(len(finite))
    return middles - (lows + highs) / 2, middles


def _draw_line(axes: Axes, edges: Floats, line: Floats, colours: Floats, bad_color: Color) -> None:
    """One piece per sample; towards a missing neighbour, and at both ends, it goes on level."""
    good = np.isfinite(line)
    between = (line[:-1] + line[1:]) / 2
    left, right = np.append(line[:1], between), np.append(between, line[-1:])
    left, right = (np.where(np.isfinite(side), side, line) for side in (left, right))
    heights = np.stack([left, line, right], axis=1)
    places = np.stack([edges[0:-1:2], edges[1::2], edges[2::2]], axis=1)
    pieces = np.stack([places, heights], axis=2)[good]
    style = {"capstyle": "butt", "joinstyle": "round"}
    axes.add_collection(LineCollection(pieces, colors=_GREY, linewidths=_CASING, zorder=2, label="casing", **style))
    axes.add_collection(
        LineCollection(pieces, colors=colours[good], linewidths=_LINE, zorder=3, label="signal", **style)
    )
    missing = [[(at, 0.0), (at, 1.0)] for at in edges[1::2][~good]]
    over = {"transform": axes.get_xaxis_transform(), "zorder": 1, "label": "missing"}
    axes.add_collection(LineCollection(missing, colors=[bad_color], **over), autolim=False)
    axes.autoscale_view()
    axes.set_xlim(edges[0], edges[-1])


def _label_row(row: np.ndarray, title: str, names: Sequence[str], ticks: Floats) -> None:
    for axes in row:
        layout.style_panel(axes)
        axes.margins(y=0.12)
        if len(names) > 1:
            axes.set_yticks(ticks, labels=names, parse_math=False)
        else:
            axes.locator_params(axis="y", nbins=4)
        axes.tick_params(axis="y", labelleft=axes is row[0])
    label = "\n".join(part for part in (title, *(names if len(names) == 1 else ())) if part)
    row[0].set_ylabel(label, **layout.LABELLED)


def _label_time(panels: np.ndarray, label: str, whole: bool) -> None:
    for axes in panels.flat:
        axes.locator_params(axis="x", integer=whole)
    for axes in panels[:-1].flat:
        axes.tick_params(axis="x", labelbottom=False)
    for axes in panels[-1]:
        axes.set_xlabel(label, labelpad=2, **layout.LABELLED)
