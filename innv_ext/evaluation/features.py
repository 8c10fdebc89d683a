"""What is kept or randomised as one: single values, pixels or superpixels; their relevance and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError

RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Features:
    """Which feature each value of a sample belongs to.

    Attributes
    ----------
    ids : int array (batch, ...) of x's shape, the feature of each value, counted from 0 in every sample
    counts : int array (batch,), the number of features of each sample
    channel_axis : of a sample, where a feature holds for all channels of a pixel; None where it may not
    """

    ids: np.ndarray
    counts: np.ndarray
    channel_axis: int | None

    def relevance(self, name: str, values: Any) -> np.ndarray:
        """The relevance of each feature, (batch, most features), from a map of x's shape or given per feature.

        A map may lack the channels where features are pixels or made of pixels. ``"random"`` makes all features equal,
        so that the order of ties decides.
        """
        batch, width = len(self.ids), int(self.counts.max())
        if isinstance(values, str):
            if values != RANDOM:
                raise InvalidInputError(
                    f"relevance {name!r} is {values!r}; the only text allowed is 'random' (a random order). Otherwise "
                    f"pass an array of shape {self.ids.shape}."
                )
            return np.broadcast_to(0.0, (batch, width))
        array = _as_float64(name, values)
        pixels = self._pixel_ids()
        if array.shape == self.ids.shape:
            found = _sums(self.ids, array, width)
        elif pixels is not None and array.size == pixels.size and array.shape in self._pixel_shapes():
            found = _sums(pixels, array, width)
        elif array.shape == (batch, width) and (self.counts == width).all():
            found = array
        else:
            raise InvalidInputError(
                f"relevance {name!r} has shape {array.shape}, but x has {self.ids.shape}. Pass a map of that shape, or "
                f"one value per feature: ({batch}, {self._described_count()})."
            )
        wrong = np.flatnonzero(np.isnan(found).any(axis=1))
        if wrong.size:
            raise InvalidInputError(
                f"relevance {name!r} is NaN in {wrong.size} samples (first: {wrong[0]}), so it gives no order. Find "
                f"out why (explain(x).extras['finite']), or leave these samples out."
            )
        return found

    def is_map(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape is read as a map of x, and not as one value per feature."""
        return shape == self.ids.shape or (self.channel_axis is not None and shape in self._pixel_shapes())

    def ranks(self, relevance: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
        """For each value of sample i, the place of its feature in the order (0: most relevant); random among equals."""
        count = self.counts[i]
        order = np.lexsort((rng.permutation(count), -relevance[i, :count]))
        places = np.empty(count, "int64")
        places[order] = np.arange(count)
        return places[self.ids[i]]

    def _pixel_ids(self) -> np.ndarray | None:
        return None if self.channel_axis is None else self.ids.take(0, axis=self.channel_axis + 1)

    def _pixel_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of a map without channels: the axis is missing, or has one entry."""
        shape, axis = self.ids.shape, self.channel_axis + 1
        return [shape[:axis] + kept + shape[axis + 1 :] for kept in ((), (1,))]

    def _described_count(self) -> str:
        low, high = int(self.counts.min()), int(self.counts.max())
        return str(high) if low == high else f"{low} to {high}, which differ, so only a map will do"


def _sums(ids: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
    return np.stack([np.bincount(i.ravel(), v.ravel(), width) for i, v in zip(ids, values, strict=True)])


def _as_float64(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "cSUTmM":
            raise TypeError(f"dtype {array.dtype}")
        return array.astype("float64")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"relevance {name!r} must be an array of real numbers, got {error}.") from error


def read_features(features: Any, shape: tuple[int, ...], channels_first: bool, argument: str = "features") -> Features:
    """The features of x.

    Parameters
    ----------
    features : "component", "pixel", or an int array of labels
    shape : of x, (batch, ...)
    channels_first : where a pixel has its channels
    argument : what the features are called in messages
    """
    sample = shape[1:]
    axis = (0 if channels_first else len(sample) - 1) if len(sample) > 1 else None
    if isinstance(features, str):
        if features not in ("component", "pixel"):
            raise InvalidInputError(
                f"{argument} must be 'component', 'pixel' or an int array of labels, got {features!r}."
            )
        if features == "pixel" and axis is None:
            raise InvalidInputError(
                f"{argument}='pixel' needs x with channels, (batch, ..., channels), but it is {shape}. Use 'component'."
            )
        axis = axis if features == "pixel" else None
        whole = tuple(1 if a == axis else d for a, d in enumerate(sample))
        labels = np.arange(int(np.prod(whole))).reshape(1, *whole)
    else:
        labels, axis = _read_labels(arguments.as_array(argument, features), shape, axis, argument)
    rows = [np.unique(row, return_inverse=True)[1].reshape(row.shape) for row in labels]
    ids = np.broadcast_to(np.stack(rows), shape)
    counts = np.array([row.max() + 1 for row in rows])
    return Features(ids, np.broadcast_to(counts, shape[:1]), axis)


def _read_labels(
    labels: np.ndarray, shape: tuple[int, ...], axis: int | None, argument: str
) -> tuple[np.ndarray, int | None]:
    """Labels that broadcast to ``shape``, and the channel axis if they were given without; one sample's go first."""
    if labels.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{argument} must be 'component', 'pixel' or an array of integer labels, got dtype {labels.dtype}."
        )
    sample = shape[1:]
    pixels = sample if axis is None else sample[:axis] + sample[axis + 1 :]
    for form, channel in ((sample, None), (pixels, axis)):
        if labels.shape in (form, (shape[0], *form)):
            rows = labels[None] if labels.shape == form else labels
            return rows if channel is None else np.expand_dims(rows, channel + 1), channel
    raise InvalidInputError(
        f"{argument} has shape {labels.shape}; labels need the shape of one sample {sample}, or {pixels} where a label "
        f"holds for all channels, each with or without a batch axis of {shape[0]}."
    )
