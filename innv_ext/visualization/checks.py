"""Checks of arrays by the kind of data; each error names the argument, what was received and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from innv_ext.errors import InvalidInputError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DataKind:
    """What a batch holds, in the words of errors and warnings."""

    sample: str
    entry: str
    axes: tuple[str, ...]
    channels: bool = True  # whether a channel axis may follow

    @property
    def expected(self) -> str:
        """The shape, spelt out."""
        return f"(batch, {', '.join(self.axes)})"


IMAGE = DataKind("image", "pixel", ("height", "width"))
SIGNAL = DataKind("signal", "time step", ("time",))
VOLUME = DataKind("volume", "voxel", ("depth", "height", "width"))
TEXT = DataKind("text", "token", ("tokens",))
TABLE = DataKind("row", "feature", ("features",), channels=False)


def as_numbers(values: ArrayLike, argument: str) -> Floats:
    """Copy anything array-like to float64, so that nothing later can reach the caller's memory.

    Masked values become NaN.
    """
    try:
        listed = isinstance(values, (list, tuple)) and any(map(np.ma.isMaskedArray, values))
        if listed or np.ma.isMaskedArray(values):
            values = np.ma.asarray(values).astype(np.float64).filled(np.nan)
        array = np.asarray(values)
        if array.dtype.kind in "cSUTmM":
            raise TypeError(f"dtype {array.dtype}")
        with np.errstate(over="ignore"):
            return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{argument} must be an array of real numbers; got {error}.") from error


def as_batch(values: ArrayLike, argument: str, channel_axis: int = -1, kind: DataKind = IMAGE) -> Floats:
    """Copy e.g. (batch, H, W), (batch, H, W, C) or (batch, C, H, W), by ``channel_axis``, to (batch, H, W, C)."""
    last = len(kind.axes) + 1
    if channel_axis not in (-1, last, 1, -last):
        raise InvalidInputError(f"channel_axis must be -1 (channels last) or 1 (channels first); got {channel_axis!r}.")
    array = as_numbers(values, argument)
    if array.ndim != last and not (kind.channels and array.ndim == last + 1):
        with_channels = " or that with a channel axis" if kind.channels else ""
        raise InvalidInputError(
            f"{argument} has shape {array.shape}; expected {kind.expected}{with_channels}. "
            f"A single {kind.sample} needs a batch axis: {argument}[None]."
        )
    if 0 in array.shape[1:]:
        raise InvalidInputError(f"{argument} has shape {array.shape}: there are no {kind.entry}s to draw.")
    return array[..., None] if array.ndim == last else np.moveaxis(array, channel_axis, -1)


def check_same_size(
    relevance: Floats, data: Floats, argument: str = "relevance", other: str = "image", kind: DataKind = IMAGE
) -> None:
    """Raise unless both, channels last, are of the same number and size; channels may differ."""
    if relevance.shape[:-1] != data.shape[:-1]:
        axis = " Check channel_axis too: it holds for both." if kind.channels else ""
        raise InvalidInputError(
            f"{argument} has {kind.expected} {relevance.shape[:-1]} but {other} has {data.shape[:-1]}; "
            f"they must agree.{axis}"
        )


def three_channels(values: Floats, argument: str) -> None:
    """Raise unless the (batch, H, W, C) array can be shown as grey or RGB."""
    if values.shape[-1] not in (1, 3):
        raise InvalidInputError(
            f"{argument} has {values.shape[-1]} channels (shape {values.shape} with channels last); only 1 "
            f"(grey) or 3 (RGB) can be shown. Select some, e.g. {argument}[..., :3], or set channel_axis."
        )
