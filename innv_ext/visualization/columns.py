"""The columns of a comparison grid: how each map is drawn, on which scale, and the caption that states it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import ArrayLike

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import Floats, as_batch, check_same_size
from innv_ext.visualization.images import Range
from innv_ext.visualization.maps import back_project, graymap, heatmap, own_scales
from innv_ext.visualization.overlays import SHARE, blend, mask_input, scale_input
from innv_ext.visualization.panels import Heat
from innv_ext.visualization.scaling import DIVERGING, GREEN, SCALES, Reduction, magnitude, peaks, share, signed, to_unit

Draw = Callable[[Any, Any], ArrayLike]  # (relevance, images) as the caller gave them -> (batch, H, W, 3) in [0, 1]


@dataclass(frozen=True)
class Options:
    """What holds for all columns of a grid."""

    reduce: Reduction
    scale: str
    channel_axis: int
    value_range: Range
    percentile: float
    gamma: float
    cmap: str | Colormap


@dataclass(frozen=True, eq=False)
class Column:
    """One analyzer's maps: as given, checked (channels last), the mode, a name or a function, and the header."""

    name: str
    given: np.ndarray
    values: Floats
    mode: str | Draw
    header: str


@dataclass(frozen=True)
class Mode:
    """What a named mode is drawn by, and which options it takes; overlays have no peaks by which to share a scale."""

    draw: Callable[..., Floats]
    takes: tuple[str, ...]
    caption: str
    peak: Callable[[Floats, Reduction], Floats] | None = None


_OVERLAY = ("channel_axis", "reduce", "value_range")
MODES = {
    "heatmap": Mode(
        heatmap,
        ("channel_axis", "reduce", "cmap", "percentile", "gamma"),
        "{signed}Each map scaled symmetrically to {scale}; {colours}.",
        lambda values, reduce: peaks(signed(values, reduce)[0]),
    ),
    "graymap": Mode(
        graymap,
        ("channel_axis", "reduce"),
        "{magnitudes}Each map scaled to {own}; black zero, white largest.",
        lambda values, reduce: peaks(magnitude(values, reduce)[0]),
    ),
    "back_project": Mode(
        back_project,
        ("channel_axis", "percentile"),
        "Channels kept. Values scaled symmetrically to {scale} around mid-grey, which is zero.",
        lambda values, reduce: peaks(np.where(np.isfinite(values).all(axis=-1)[..., None], values, 0.0)),
    ),
    "scale_input": Mode(
        scale_input, _OVERLAY, "{magnitudes}Input dimmed where they are small, each map by its own maximum."
    ),
    "mask_input": Mode(
        mask_input, _OVERLAY, f"{{signed}}Only the {SHARE:.0%} most relevant pixels of the input shown, if positive."
    ),
    "blend": Mode(blend, _OVERLAY, "{magnitudes}Blurred, each map scaled to its own maximum; pale yellow largest."),
}


def read_columns(
    maps: Mapping[str, Any],
    mode: str | Draw,
    modes: Mapping[str, str | Draw],
    titles: Mapping[str, str],
    images: Floats,
    channel_axis: int,
) -> list[Column]:
    """Check the maps and find the mode and the header of each."""
    if not isinstance(maps, Mapping) or not maps:
        raise InvalidInputError(f"maps must be a dict of at least one name and array; got {type(maps).__name__}.")
    for argument, names in (("modes", modes), ("titles", titles)):
        if unknown := [name for name in names if name not in maps]:
            raise InvalidInputError(f"{argument} names {unknown}, which maps lacks; it has {list(maps)}.")
    columns = []
    for name, entry in maps.items():
        argument = f"maps[{name!r}]"
        # an array may be given as a tuple, too: only (array, mode) has a name or a function in second place
        paired = isinstance(entry, tuple) and len(entry) == 2 and (isinstance(entry[1], str) or callable(entry[1]))
        if paired and name in modes:
            raise InvalidInputError(f"{argument} has a mode and so has modes[{name!r}]; give only one of them.")
        given, own = entry if paired else (entry, modes.get(name, mode))
        if not callable(own):
            choice(f"mode of {argument}", own, MODES)
        values = as_batch(given, argument, channel_axis)
        check_same_size(values, images, argument)
        columns.append(Column(str(name), np.asanyarray(given), values, own, str(titles.get(name, name))))
    return columns


def shared_scales(columns: Sequence[Column], options: Options) -> list[Floats | None]:
    """Give each column the peaks (batch,) its maps are scaled to; None where each map has its own.

    Only columns of the same mode share a scale: signed sums, magnitudes and channel values are not comparable.
    """
    scales: list[Floats | None] = [None] * len(columns)
    for name, mode in MODES.items():
        members = [i for i, column in enumerate(columns) if column.mode == name]
        if options.scale == "map" or mode.peak is None or not members:
            continue
        table = np.array([mode.peak(columns[i].values, options.reduce) for i in members])  # (columns, batch)
        for i, scale in zip(members, share(table, options.scale), strict=True):
            scales[i] = scale
    return scales


def draw_column(column: Column, images: np.ndarray, scale: Floats | None, options: Options) -> Floats:
    """Return the RGB pictures of a column."""
    if not callable(column.mode):
        mode = MODES[column.mode]
        chosen = {name: getattr(options, name) for name in mode.takes}
        if mode.peak is None:
            return mode.draw(column.given, images, **chosen)
        return mode.draw(column.given, scale=scale, **chosen)
    rgb = np.asarray(column.mode(column.given.copy(), images.copy()))
    expected = (*column.values.shape[:3], 3)
    if rgb.shape != expected or rgb.dtype.kind != "f" or not ((rgb >= 0) & (rgb <= 1)).all():
        raise InvalidInputError(
            f"the function that draws maps[{column.name!r}] must return floats in [0, 1] of shape "
            f"{expected}; got {rgb.dtype} of shape {rgb.shape}."
        )
    return rgb


def heat_of(column: Column, scale: Floats | None, options: Options) -> list[Heat] | None:
    """The values behind the pictures of a column of heatmaps; None for other modes."""
    if column.mode != "heatmap":
        return None
    values, bad = signed(column.values, options.reduce)
    scales = own_scales(values, bad, options.percentile) if scale is None else scale
    pairs = zip(to_unit(values, scales), bad, strict=True)
    return [Heat(*pair, options.cmap, GREEN, options.gamma) for pair in pairs]


def describe(columns: Sequence[Column], options: Options, images: Floats) -> list[str]:
    """Write the caption, a paragraph for every mode that occurs: reduction, scaling and colours."""
    reduce = options.reduce if isinstance(options.reduce, str) else getattr(options.reduce, "__name__", "own function")
    own = scale = SCALES[options.scale]
    if options.scale == "map" and options.percentile < 100:
        scale = f"the {options.percentile:g} % percentile of its magnitudes, larger ones clipped"
    cmap = options.cmap.name if isinstance(options.cmap, Colormap) else options.cmap
    colours = "red positive, blue negative" if cmap == DIVERGING else f"colour map {cmap}, negative to positive"
    members: dict[str, list[Column]] = {}
    for column in columns:
        members.setdefault(column.mode if isinstance(column.mode, str) else "own drawing", []).append(column)
    usual = max(members, key=lambda name: len(members[name]))
    lines = []
    for name, drawn in members.items():
        text = MODES[name].caption if name in MODES else "Drawn by the function given."
        several = any(column.values.shape[-1] > 1 for column in drawn)
        text = text.format(
            signed=f"Channels: {reduce}. " if several else "",
            magnitudes=f"Channels: {reduce} of magnitudes. " if several else "Magnitudes. ",
            scale=scale,
            own=own,
            colours=colours,
        )
        if name == "heatmap" and options.gamma != 1:
            text += f" Scaled values raised to the power {options.gamma:g}, signs kept."
        if len(members) > 1:
            names = [column.name for column in drawn]
            others = "" if name == usual or names == [name] else f" ({', '.join(names)})"
            text = f"{name}{others} \N{EN DASH} {text}"
        lines.append(text)
    marked = [images, *(column.values for column in columns if isinstance(column.mode, str))]
    if not all(np.isfinite(values).all() for values in marked):
        lines[-1] += " Green: not finite."
    return lines
