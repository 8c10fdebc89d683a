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
from innv_ext.visualization.maps import back_project, graymap, heatmap
from innv_ext.visualization.overlays import SHARE, blend, mask_input, scale_input
from innv_ext.visualization.scaling import DIVERGING, SCALES, Reduction, magnitude, peaks, share, signed

Draw = Callable[[Any, Any], ArrayLike]  # (relevance, images) as the caller gave them -> (batch, H, W, 3) in [0, 1]


@dataclass(frozen=True)
class Options:
    """What holds for all columns of a grid."""

    reduce: Reduction = "sum"
    scale: str = "map"
    channel_axis: int = -1
    value_range: tuple[float, float] | None = None
    percentile: float = 100.0
    gamma: float = 1.0
    cmap: str | Colormap = DIVERGING


@dataclass(frozen=True, eq=False)
class Column:
    """One analyzer's maps: as given, checked (channels last), and the mode, a name or a function."""

    name: str
    given: np.ndarray
    values: Floats
    mode: str | Draw


@dataclass(frozen=True)
class Mode:
    """How a named mode draws, what it says in the caption, and the peaks by which it can share a scale."""

    draw: Callable[[Any, Any, Floats | None, Options], Floats]
    caption: str
    peak: Callable[[Floats, Reduction], Floats] | None = None


_HEATMAP = "{signed}Each map scaled symmetrically to {scale}; {colours}."
_GRAYMAP = "{magnitudes}Each map scaled to {own}; black zero, white largest."
_SCALED = "{magnitudes}Input dimmed where they are small, each map by its own maximum."
_MASKED = f"{{signed}}Only the {SHARE:.0%} most relevant pixels of the input shown, if positive."
_BLENDED = "{magnitudes}Blurred, each map scaled to its own maximum; pale yellow largest."
_PROJECTED = "Channels kept. Values scaled symmetrically to {scale} around mid-grey, which is zero."


def _overlay(draw: Callable[..., Floats]) -> Callable[[Any, Any, Floats | None, Options], Floats]:
    return lambda r, x, s, o: draw(r, x, reduce=o.reduce, value_range=o.value_range, channel_axis=o.channel_axis)


MODES: dict[str, Mode] = {
    "heatmap": Mode(
        lambda r, x, s, o: heatmap(
            r,
            o.reduce,
            o.cmap,
            scale=s,
            percentile=o.percentile if s is None else 100.0,
            gamma=o.gamma,
            channel_axis=o.channel_axis,
        ),
        _HEATMAP,
        lambda values, reduce: peaks(signed(values, reduce)[0]),
    ),
    "graymap": Mode(
        lambda r, x, s, o: graymap(r, o.reduce, scale=s, channel_axis=o.channel_axis),
        _GRAYMAP,
        lambda values, reduce: peaks(magnitude(values, reduce)[0]),
    ),
    "back_project": Mode(
        lambda r, x, s, o: back_project(
            r, scale=s, percentile=o.percentile if s is None else 100.0, channel_axis=o.channel_axis
        ),
        _PROJECTED,
        lambda values, reduce: peaks(np.where(np.isfinite(values).all(axis=-1)[..., None], values, 0.0)),
    ),
    "scale_input": Mode(_overlay(scale_input), _SCALED),
    "mask_input": Mode(_overlay(mask_input), _MASKED),
    "blend": Mode(_overlay(blend), _BLENDED),
}


def read_columns(
    maps: Mapping[str, Any],
    mode: str | Draw,
    modes: Mapping[str, str | Draw],
    images: Floats,
    channel_axis: int,
) -> list[Column]:
    """Check the maps and find the mode of each."""
    if not isinstance(maps, Mapping) or not maps:
        raise InvalidInputError(f"maps must be a dict of at least one name and array; got {type(maps).__name__}.")
    unknown = [name for name in modes if name not in maps]
    if unknown:
        raise InvalidInputError(f"modes names {unknown}, which maps lacks; it has {list(maps)}.")
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
        columns.append(Column(str(name), np.asarray(given), values, own))
    return columns


def shared_scales(columns: Sequence[Column], options: Options) -> list[Floats | None]:
    """Give each column the peaks (batch,) its maps are scaled to; None where each map has its own.

    Only columns of the same mode share a scale: signed sums, magnitudes and channel values are not
    comparable.
    """
    scales: list[Floats | None] = [None] * len(columns)
    if options.scale == "map":
        return scales
    for name, mode in MODES.items():
        members = [i for i, column in enumerate(columns) if column.mode == name]
        if mode.peak is None or not members:
            continue
        table = np.array([mode.peak(columns[i].values, options.reduce) for i in members])  # (columns, batch)
        for i, scale in zip(members, share(table, options.scale), strict=True):
            scales[i] = scale
    return scales


def draw_column(column: Column, images: np.ndarray, scale: Floats | None, options: Options) -> Floats:
    """Return the RGB pictures of a column."""
    if callable(column.mode):
        return _checked(column.mode(column.given.copy(), images.copy()), column)
    return MODES[column.mode].draw(column.given, images, scale, options)


def _checked(drawn: ArrayLike, column: Column) -> Floats:
    rgb = np.asarray(drawn)
    expected = (*column.values.shape[:3], 3)
    if rgb.shape != expected or rgb.dtype.kind != "f" or not ((rgb >= 0) & (rgb <= 1)).all():
        raise InvalidInputError(
            f"the function that draws maps[{column.name!r}] must return floats in [0, 1] of shape "
            f"{expected}; got {rgb.dtype} of shape {rgb.shape}."
        )
    return rgb


def sign_colours(cmap: str | Colormap) -> str:
    """Say what the two sides of a diverging colour map mean."""
    name = cmap.name if isinstance(cmap, Colormap) else cmap
    return "red positive, blue negative" if name == DIVERGING else f"colour map {name}, negative to positive"


def _scale_text(options: Options) -> str:
    if options.scale == "map" and options.percentile < 100:
        return f"the {options.percentile:g} % percentile of its magnitudes, larger ones clipped"
    return SCALES[options.scale]


def describe(columns: Sequence[Column], options: Options, images: Floats) -> list[str]:
    """Write the caption, a paragraph for every mode that occurs: reduction, scaling and colours."""
    reduce = options.reduce if isinstance(options.reduce, str) else getattr(options.reduce, "__name__", "own function")
    members: dict[str, list[str]] = {}
    for column in columns:
        members.setdefault(column.mode if isinstance(column.mode, str) else "own drawing", []).append(column.name)
    usual = max(members, key=lambda name: len(members[name]))
    lines = []
    for name, names in members.items():
        text = MODES[name].caption if name in MODES else "Drawn by the function given."
        several = any(column.values.shape[-1] > 1 for column in columns if column.name in names)
        text = text.format(
            signed=f"Channels: {reduce}. " if several else "",
            magnitudes=f"Channels: {reduce} of magnitudes. " if several else "Magnitudes. ",
            scale=_scale_text(options),
            own=SCALES[options.scale],
            colours=sign_colours(options.cmap),
        )
        if name == "heatmap" and options.gamma != 1:
            text += f" Scaled values raised to the power {options.gamma:g}, signs kept."
        if len(members) > 1:
            others = "" if name == usual or names == [name] else f" ({', '.join(names)})"
            text = f"{name}{others} \N{EN DASH} {text}"
        lines.append(text)
    marked = [images, *(column.values for column in columns if isinstance(column.mode, str))]
    if not all(np.isfinite(values).all() for values in marked):
        lines[-1] += " Green: not finite."
    return lines
