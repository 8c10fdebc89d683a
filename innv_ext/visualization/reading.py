"""What the figures of signals, tables, volumes and texts read: data, maps and names, and what their colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import Colormap

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import DataKind, Floats, Mask, as_batch, check_same_size
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.panels import LABEL, TEXT, bar_below
from innv_ext.visualization.scaling import GREEN, SCALES, Color, Reduction, peaks, relay, report, share, signed, to_unit


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


def read_data(values: Any, argument: str, kind: DataKind, channel_axis: int = -1) -> Floats:
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
    kind: DataKind,
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


def colour_bar(panels: np.ndarray, maps: Sequence[Maps], cmap: str | Colormap, bad_color: Color, given: bool) -> None:
    """Draw the bar, with numbers if they hold for all maps, and say what the mark means."""
    bar = bar_below(panels, cmap, given)
    largest = max(found.scales.max() for found in maps)
    end = number_text(largest) if same_scale(maps) else "max"
    bar.set_ticks([-1, 0, 1], labels=[f"\N{MINUS SIGN}{end}", "0", f"+{end}"] if largest else ["", "0", ""])
    mark = "green" if bad_color == GREEN else "marked"
    note = f" ({mark}: not finite)" if any(found.bad.any() for found in maps) else ""
    bar.set_label(f"relevance{note}", fontsize=LABEL, color=TEXT, labelpad=1)
