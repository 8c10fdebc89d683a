"""What the figures of signals, tables, volumes and texts share: checked maps, axes, colour bars, number formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, Kind, Mask, as_batch, check_same_size, choice
from innv_ext.visualization.images import apply_cmap, find_cmap, paint
from innv_ext.visualization.layout import wrap
from innv_ext.visualization.scaling import GREEN, SCALES, Color, Reduction, peaks, relay, report, share, signed, to_unit

DPI = 200
TITLE, LABEL, SMALL = 8.0, 7.0, 6.5  # text sizes in points
TEXT, SOFT, EDGE = "#222222", "#555555", "#bbbbbb"


@dataclass(frozen=True, eq=False)
class Maps:
    """One analyzer's relevance, 0 where not finite, and the magnitude (batch,) that gets the outermost colours."""

    name: str
    values: Floats
    bad: Mask
    scales: Floats

    def colours(self, row: int, cmap: str | Colormap, bad_color: Color) -> Floats:
        """RGB of every value of one sample, on a new last axis."""
        unit = to_unit(self.values[row : row + 1], self.scales[row : row + 1])[0]
        return paint(apply_cmap((unit + 1) / 2, cmap), self.bad[row], bad_color)


def read_data(values: Any, argument: str, kind: Kind, channel_axis: int = -1) -> Floats:
    """Check what the relevance belongs to; channels last."""
    data = as_batch(values, argument, channel_axis, kind)
    if not len(data):
        raise InvalidInputError(f"{argument} has shape {np.shape(values)}: there is no {kind.sample} to draw.")
    return data


def named(maps: Any, argument: str) -> Mapping[str, Any]:
    """The maps by name; an array alone has none."""
    if not isinstance(maps, Mapping):
        return {"": maps}
    if not maps:
        raise InvalidInputError(f"{argument} must be an array or a dict of names and arrays; got an empty dict.")
    return maps


def read_maps(
    maps: Any,
    data: Floats,
    kind: Kind,
    *,
    scale: str,
    bad_color: Color,
    channel_axis: int = -1,
    reduce: Reduction | None = None,
    arguments: tuple[str, str] = ("maps", "x"),
    stacklevel: int = 4,
) -> list[Maps]:
    """Check the maps; warnings point at the caller of the function that calls this (``stacklevel=4``).

    ``reduce=None`` keeps the channels; a map without them then holds for all channels of ``data``. ``arguments``
    are the names of the maps and of the data.
    """
    choice("scale", scale, SCALES)
    given = named(maps, arguments[0])
    found = []
    for name, entry in given.items():
        argument = f"{arguments[0]}[{name!r}]" if isinstance(maps, Mapping) else arguments[0]
        raw = as_batch(entry, argument, channel_axis, kind)
        check_same_size(raw, data, argument, arguments[1], kind)
        if reduce is None and raw.shape[-1] not in (1, data.shape[-1]):
            raise InvalidInputError(
                f"{argument} has {raw.shape[-1]} channels but {arguments[1]} has "
                f"{data.shape[-1]}; give one for each of them, or a single one for all."
            )
        values, bad = _finite(raw, data.shape) if reduce is None else signed(raw, reduce)
        marks = bad.any(axis=-1) if reduce is None else bad
        relay(str(name), partial(report, peaks(values), marks, bad_color, kind=kind), stacklevel)
        found.append((str(name), values, bad))
    scales = share(np.array([peaks(values) for _, values, _ in found]), scale)
    return [Maps(*parts, row) for parts, row in zip(found, scales, strict=True)]


def _finite(values: Floats, shape: tuple[int, ...]) -> tuple[Floats, Mask]:
    spread = np.broadcast_to(values, shape)
    bad = ~np.isfinite(spread)
    return np.where(bad, 0.0, spread), bad


def read_names(names: Sequence[str] | None, argument: str, count: int, default: Iterable[str]) -> list[str]:
    """``names`` as strings, if there are as many as needed."""
    if names is None:
        return list(default)
    if isinstance(names, str) or len(names) != count:
        got = repr(names) if isinstance(names, str) else f"{len(names)}"
        raise InvalidInputError(f"{argument} must be {count} names, one each; got {got}.")
    return [str(name) for name in names]


def row_titles(row_names: Sequence[str] | None, batch: int) -> list[str]:
    """The names of the rows: as given, or their numbers if there are several."""
    return read_names(row_names, "row_names", batch, map(str, range(batch)) if batch > 1 else [""])


def panel_grid(ax: Any, rows: int, columns: int, size: tuple[float, float]) -> np.ndarray:
    """Axes (rows, columns): those of a new figure of ``size`` inches, or the ones given, row by row."""
    if ax is None:
        figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        return figure.subplots(rows, columns, squeeze=False)
    found = [ax] if isinstance(ax, Axes) else list(np.ravel(np.array(ax, dtype=object)))
    if len(found) != rows * columns or not all(isinstance(panel, Axes) for panel in found):
        raise InvalidInputError(
            f"ax must be {rows * columns} matplotlib axes, row by row ({rows} row(s) of {columns}), e.g. "
            f"figure.subplots({rows}, {columns}); got {ax!r}."
        )
    grid = np.empty((rows, columns), dtype=object)
    grid.flat = found
    return grid


def root(panels: np.ndarray) -> Figure:
    """The figure of the axes, also where they are on a subfigure."""
    return panels.flat[0].figure.figure


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes, as they are placed now."""
    box = axes.get_window_extent()
    return box.width / axes.figure.dpi, box.height / axes.figure.dpi


def number_text(value: float, plus: bool = False) -> str:
    """Three digits, and a minus sign as long as the plus."""
    return f"{value:{'+' if plus else ''}.3g}".replace("-", "\N{MINUS SIGN}")


def same_scale(maps: Sequence[Maps]) -> bool:
    """Whether one number holds for all maps, so that the colour bar can state it."""
    first = maps[0].scales[0]
    return all((found.scales == first).all() for found in maps)


def peak_text(found: Maps, row: int) -> str:
    """What the outermost colours of a map mean, where it is not the same for all."""
    return f"max {number_text(found.scales[row])}"


def title_panel(axes: Axes, title: str, note: str = "") -> None:
    """Write the analyzer's name, wrapped to the panel, and a note below it."""
    lines = wrap(title, inches(axes)[0], TITLE) if title else []
    axes.set_title("\n".join([*lines, *([note] if note else [])]), fontsize=TITLE, color=TEXT, pad=3, parse_math=False)


def write_beside(axes: Axes, text: str, xy: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """Write at a place in fractions of the axes, shifted by points."""
    axes.annotate(text, xy, shift, xycoords="axes fraction", textcoords="offset points", parse_math=False, **style)


def style_panel(axes: Axes) -> None:
    """Thin, grey, and without the frame's upper right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=EDGE, linewidth=0.6)
    axes.tick_params(labelsize=SMALL, labelcolor=TEXT, color=EDGE, width=0.6, length=2, pad=2)


def bar_below(panels: np.ndarray, cmap: str | Colormap, cax: Axes | None = None) -> Colorbar:
    """A colour bar from -1 to 1 in ``cax``, or below the panels in room that is taken from them."""
    figure = panels.flat[0].figure
    place: dict[str, Any] = {"cax": cax, "orientation": "horizontal"}
    if cax is None:
        width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
        pad = 0.5 if figure.get_layout_engine() is None else 0.06  # inches; a layout engine sees the labels itself
        place = {"ax": list(panels.flat), "location": "bottom", "shrink": min(1.0, 2.4 / width), "aspect": 30}
        place |= {"pad": pad / height, "fraction": 0.15 / height}
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), find_cmap(cmap)), **place)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=TEXT, length=0, pad=2)
    bar.outline.set(edgecolor=EDGE, linewidth=0.4)
    bar.ax.set_label("colorbar")
    return bar


def colour_bar(
    panels: np.ndarray, maps: Sequence[Maps], cmap: str | Colormap, bad_color: Color, cax: Axes | None = None
) -> None:
    """Draw the bar, with numbers if they hold for all maps, and say what the mark means."""
    bar = bar_below(panels, cmap, cax)
    largest = max(found.scales.max() for found in maps)
    end = number_text(largest) if same_scale(maps) else "max"
    bar.set_ticks([-1, 0, 1], labels=[f"\N{MINUS SIGN}{end}", "0", f"+{end}"] if largest else ["", "0", ""])
    mark = "green" if bad_color == GREEN else "marked"
    note = f" ({mark}: not finite)" if any(found.bad.any() for found in maps) else ""
    bar.set_label(f"relevance{note}", fontsize=LABEL, color=TEXT, labelpad=1)
