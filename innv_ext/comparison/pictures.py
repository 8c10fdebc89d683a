"""The figures of a comparison: maps by the kind of data, and a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.comparison.rows import Criterion, Data, Row, Samples, place
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.plotting import COLOURS, axes_for, tidy
from innv_ext.visualization.grid import imshow_grid
from innv_ext.visualization.panels import DPI, shorten
from innv_ext.visualization.signals import plot_signals
from innv_ext.visualization.tables import plot_tables
from innv_ext.visualization.tokens import plot_tokens
from innv_ext.visualization.volumes import plot_volumes

MOST_CHANNELS = 12  # of a signal; with more, (batch, H, W) is taken for an image
ACROSS = 3  # panels of metrics in a row
BASELINE = "#8c8c8c"

View = tuple[str | None, Samples, dict[str, np.ndarray]]  # one input: its name, its x, its maps


def views(samples: Samples, maps: Mapping[str, Data]) -> list[View]:
    """(input, samples, maps) of each input that there is a picture of; the only input has no name."""
    if not isinstance(samples.x, dict):
        return [(None, samples, dict(maps))] if kind_of(samples) is not None and maps else []
    of_inputs = [(name, replace(samples, x=x), {t: m[name] for t, m in maps.items()}) for name, x in samples.x.items()]
    return [of for of in of_inputs if kind_of(of[1]) is not None and maps]


def view(samples: Samples, maps: Mapping[str, Data], name: str | None) -> View:
    """That of ``views`` which is drawn: the input of this name, by default the first."""
    if samples.x is None or not maps:
        why = "was read without x and maps" if samples.x is None else "has no analyzer that did not fail"
        raise InvalidInputError(f"There is nothing to draw: the comparison {why}.")
    found = {of[0]: of for of in views(samples, maps)}
    if name is not None and not isinstance(samples.x, dict):
        raise InvalidInputError(f"input={name!r}, but the model has a single input; leave it out.")
    if name is not None:
        arguments.choice("input", name, tuple(samples.x))
    if not found or name not in {None, *found}:
        shapes = {key: x.shape for key, x in samples.x.items()} if isinstance(samples.x, dict) else samples.x.shape
        raise InvalidInputError(f"There is no picture of x with shape {shapes if name is None else shapes[name]}.")
    return found[name] if name in found else next(iter(found.values()))


def kind_of(samples: Samples) -> str | None:
    """What x is: "table", "tokens", "signal", "image", "volume", or None, for which there is no picture."""
    x = samples.x
    if x is None or not 2 <= x.ndim <= 5:
        return None
    if x.ndim == 2:
        return "table" if x.dtype.kind == "f" else "tokens"
    if x.ndim == 3:
        return "signal" if x.shape[samples.channel_axis] <= MOST_CHANNELS else "image"
    return "image" if x.ndim == 4 else "volume"


def draw_maps(
    samples: Samples, maps: Mapping[str, np.ndarray], rows: Sequence[int], ax: Any = None, cell: float = 0.8
) -> Figure:
    """Some samples of one input with their maps; ``cell`` is the longer side of an image in inches."""
    kind = kind_of(samples)
    index = list(rows)
    x, chosen = samples.x[index], {title: values[index] for title, values in maps.items()}
    axis, texts = samples.channel_axis, [caption(samples, i) for i in index]
    if kind == "table":
        return plot_tables(x, chosen, row_names=texts, ax=ax)
    if kind == "tokens":
        return plot_tokens([[str(token) for token in text] for text in x], chosen, row_names=texts, ax=ax)
    if kind == "signal":
        return plot_signals(x, chosen, row_names=texts, channel_axis=axis, ax=ax)
    if kind == "volume":
        return plot_volumes(_colours(x, axis), chosen, row_names=texts, channel_axis=axis, ax=ax)
    return imshow_grid(
        _colours(x, axis) if x.ndim == 4 else x,
        chosen,
        labels=None if samples.labels is None else samples.labels[index],
        predictions=samples.predicted[index],
        neurons=None if samples.classes == 1 else np.array([samples.neurons[i] for i in index]),
        probabilities=None if samples.probability is None else samples.probability[index],
        scores=samples.score[index],
        class_names=_all_named(samples),
        channel_axis=axis,
        cell=cell,
        ax=ax,
    )


def caption(samples: Samples, i: int) -> str:
    """Number, label and prediction of a sample."""
    label = "" if samples.labels is None else f"label {samples.name(samples.labels[i])}, "
    return f"{i}: {label}predicted {samples.name(samples.predicted[i])}"


def draw_metrics(rows: Sequence[Row], criteria: Sequence[Criterion], ax: Any = None) -> Figure:
    """A panel per metric: points with standard errors, the best on top; baselines are grey."""
    if not criteria:
        raise InvalidInputError("There is nothing to draw: the comparison has no metrics.")
    across, down = min(ACROSS, len(criteria)), math.ceil(len(criteria) / ACROSS)
    size = (0.4 + 3.6 * across, (0.9 + 0.22 * max(len(rows), 3)) * down)
    shape = (down, across) if ax is None else (1, len(criteria))
    axes = axes_for(ax, shape, "one per metric", size, DPI).ravel()
    for unused in axes[len(criteria) :]:
        unused.remove()
    for panel, criterion in zip(axes, criteria, strict=False):
        _draw_metric(panel, rows, criterion)
    return axes[0].figure.figure


def _draw_metric(panel: Axes, rows: Sequence[Row], criterion: Criterion) -> None:
    known = [(row, row.cell(criterion.title).statistics) for row in rows]
    found = [(row, statistics) for row, statistics in known if statistics is not None]
    found.sort(key=lambda entry: place(entry[1].mean, criterion.better))
    panel.set_title(shorten(criterion.header, 48), fontsize=9, parse_math=False)
    panel.set_yticks(range(len(found)), [shorten(row.title, 40) for row, _ in found], fontsize=7, parse_math=False)
    panel.set_ylim(max(len(found), 1) - 0.5, -0.5)
    for height, (row, statistics) in enumerate(found):
        if np.isfinite(statistics.mean):
            colour = BASELINE if row.about["family"] == "baseline" else COLOURS[0]
            error = statistics.error if np.isfinite(statistics.error) else None
            panel.errorbar(statistics.mean, height, xerr=error, fmt="o", ms=4, color=colour, elinewidth=1.2, capsize=2)
        else:
            text = "infinite" if np.isinf(statistics.mean) else "undefined"
            panel.text(0.02, height, text, transform=panel.get_yaxis_transform(), fontsize=7, va="center")
    notes = {"higher": "more is better", "lower": "less is better", "none": "neither is better"}
    panel.set_xlabel(notes[criterion.better], fontsize=7)
    panel.tick_params(axis="x", labelsize=7)
    tidy(panel)


def _colours(x: np.ndarray, channel_axis: int) -> np.ndarray:
    """Channels that are no colours become their mean."""
    return x if x.shape[channel_axis] in (1, 3) else x.mean(axis=channel_axis, keepdims=True)


def _all_named(samples: Samples) -> dict[int, str] | None:
    """Names of all classes that occur; a class without one keeps its number."""
    if samples.class_names is None:
        return None
    seen = [samples.predicted, [n for n in samples.neurons if isinstance(n, int)]]
    seen += [] if samples.labels is None else [samples.labels]
    return {int(c): samples.name(c) for part in seen for c in part}
