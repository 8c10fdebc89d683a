"""What the figures of signals, tables, volumes and texts read: data, maps and names, and what their colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import Colormap

from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import DataKind, Floats, Mask, as_batch, check_same_size
from innv_ext.visualization.images import apply_cmap, paint
from innv_ext.visualization.panels import LABELLED, bar_below
from innv_ext.visualization.scaling import GREEN, Color, Reduction, peaks, report, report_bad, share, signed, to_unit


@dataclass(frozen=True, eq=False)
class Maps:
    """One analyzer's relevance, 0 where not finite, and the magnitude (batch,) that gets the outermost colours."""

    name: str
    values: Floats
    bad: Mask
    scales: Floats

    def colours(self, row: int, cmap: str | Colormap, bad_color: Color) -> Floats:
        """RGB of every value of one sample, on a new last axis."""
        return paint(apply_cmap((self.unit(row) + 1) / 2, cmap), self.bad[row], bad_color)

    def unit(self, row: int) -> Floats:
        """The values of one sample over its scale, in [-1, 1]."""
        return to_unit(self.values[row : row + 1], self.scales[row : row + 1])[0]


def read_data(x: Any, kind: DataKind, bad_color: Color, channel_axis: int = -1) -> Floats:
    """Check what the relevance belongs to, and warn the caller of a public function; channels last."""
    data = as_batch(x, "x", channel_axis, kind)
    if not len(data):
        raise InvalidInputError(f"x has shape {np.shape(x)}: there is no {kind.sample} to draw.")
    report_bad(~np.isfinite(data).all(axis=-1), "x", bad_color, 4, kind)
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
    ignored: Mask | bool = False,
) -> list[Maps]:
    """Check the maps; warnings point at the caller of the function that calls this (``stacklevel=4``).

    ``reduce=None`` keeps the channels; a map without them then holds for all channels of ``data``. ``arguments``
    are the names of the maps and of the data; values that are ``ignored`` have no say in the scales.
    """
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
        if reduce is None:
            values = np.broadcast_to(raw, data.shape)
            bad = ~np.isfinite(values)
            values, marks = np.where(bad, 0.0, values), bad.any(axis=-1)
        else:
            values, bad = signed(raw, reduce)
            marks = bad
        report(peaks(values), marks, bad_color, kind=kind, stacklevel=stacklevel, name=str(name))
        found.append((str(name), values, bad))
    scales = share(np.array([peaks(np.where(ignored, 0.0, values)) for _, values, _ in found]), scale)
    return [Maps(*parts, row) for parts, row in zip(found, scales, strict=True)]


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


def number_text(value: float) -> str:
    """Three digits, and a minus sign as long as a plus."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def signed_text(value: float) -> str:
    """The same with a plus, too, if there is anything."""
    return f"{'+' if value > 0 else ''}{number_text(value)}" if np.isfinite(value) else "not finite"


def same_scale(maps: Sequence[Maps]) -> bool:
    """Whether one number holds for all maps, so that the colour bar can state it."""
    first = maps[0].scales[0]
    return all((found.scales == first).all() for found in maps)


def peak_text(found: Maps, row: int, maps: Sequence[Maps]) -> str:
    """What the outermost colours of one of the maps mean, where it is not the same for all."""
    return "" if same_scale(maps) else f"max {number_text(found.scales[row])}"


def colour_bar(panels: np.ndarray, maps: Sequence[Maps], cmap: str | Colormap, bad_color: Color, given: bool) -> None:
    """Draw the bar, with numbers if they hold for all maps, and say what the mark means."""
    largest = max(found.scales.max() for found in maps)
    end = number_text(largest) if same_scale(maps) else "max"
    bar = bar_below(panels, cmap, given, end if largest else "")
    mark = "green" if bad_color == GREEN else "marked"
    note = f" ({mark}: not finite)" if any(found.bad.any() for found in maps) else ""
    bar.set_label(f"relevance{note}", labelpad=1, **LABELLED)
