"""What is kept or replaced as one in a test: values, pixels, blocks or superpixels; their relevance and their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.partition import Partition, blocks, labels_of, numbered, of_rows
from innv_ext.analyzers.parts.windows import all_sizes, default_sizes
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.errors import InvalidInputError

RANDOM = "random"
AGGREGATES = ("mean", "sum")


def read_features(features: Any, batch: int, one: Arrangement, argument: str = "features") -> Partition:
    """The features of ``batch`` samples.

    Parameters
    ----------
    features : "component", "pixel", or an int array of labels for one sample or per sample, with or without channels
    argument : what they are called in messages
    """
    if isinstance(features, str) and features == "pixel" and one.channel_axis is None:
        raise InvalidInputError(
            f"{argument}='pixel' needs x with channels, (batch, ..., channels), but it is {(batch, *one.shape)}. Use "
            f"'component'."
        )
    return numbered([one], [labels_of(features, one, argument, batch)], batch)


def read_regions(regions: Any, batch: int, one: Arrangement) -> Partition:
    """The regions of ``batch`` samples; blocks that the sides cut off are regions too.

    Parameters
    ----------
    regions : None (an eighth of each side; single columns of tables, single tokens), an integer or a tuple of sizes, or
        whatever ``read_features`` takes
    """
    if regions is not None and (isinstance(regions, bool) or not isinstance(regions, (tuple, int, np.integer))):
        return read_features(regions, batch, one, "regions")
    (sides,) = all_sizes("regions", [regions], [one], _default)
    return numbered([one], [blocks(one.shape, sides)], batch)


def _default(one: Arrangement) -> Sizes:
    return (1,) * len(one.shape) if one.tokens else default_sizes(one)


def is_map(parts: Partition, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is a map of x: like x, or without channels where these belong together."""
    (one,), (labels,) = parts.inputs, parts.labels
    together = one.channel_axis is not None and labels.shape[one.channel_axis + 1] == 1
    forms = (one.shape, one.merged, one.bare) if together else (one.shape,)
    return shape in [(len(parts.counts), *form) for form in forms]


def relevance_of(parts: Partition, name: str, values: Any, aggregate: str = "sum") -> np.ndarray:
    """The relevance of each part, (batch, most parts).

    Parameters
    ----------
    name : of the map, for messages
    values : a map of x, see ``is_map``; or given per part; or "random", which makes all parts equal, so that the order
        of ties decides
    aggregate : "sum" or "mean" of a map over each part
    """
    arguments.choice("aggregate", aggregate, AGGREGATES)
    shape = (len(parts.counts), parts.count)
    one, x_shape = parts.inputs[0], (shape[0], *parts.inputs[0].shape)
    if isinstance(values, str):
        if values != RANDOM:
            raise InvalidInputError(
                f"relevance {name!r} is {values!r}; the only text allowed is 'random' (a random order). Otherwise "
                f"pass an array of shape {x_shape}."
            )
        return np.broadcast_to(0.0, shape)
    found = _as_float64(name, values)
    if is_map(parts, found.shape):
        found = parts.sums([found if found.shape == x_shape else found.reshape(shape[0], *one.merged)])
        if aggregate == "mean":
            found = found / np.maximum(parts.sizes(), 1)  # a sample with fewer parts has empty ones behind its own
    elif found.shape != shape or (parts.counts != parts.count).any():
        low = int(parts.counts.min())
        counts = parts.count if low == parts.count else f"{low} to {parts.count}, which differ, so only a map will do"
        raise InvalidInputError(
            f"relevance {name!r} has shape {found.shape}, but x has {x_shape}. Pass a map of that shape, or one value "
            f"per feature: ({shape[0]}, {counts})."
        )
    wrong = np.flatnonzero(np.isnan(found).any(axis=1))
    if wrong.size:
        raise InvalidInputError(
            f"relevance {name!r} is NaN in {wrong.size} samples (first: {wrong[0]}), so it gives no order. Find "
            f"out why (explain(x).extras['finite']), or leave these samples out."
        )
    return found


def _as_float64(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "cSUTmM":
            raise TypeError(f"dtype {array.dtype}")
        return array.astype("float64")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"relevance {name!r} must be an array of real numbers, got {error}.") from error


def ranks(parts: Partition, relevance: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
    """For the values of sample i the place of their part in the order (0: most relevant); random among equals.

    Shaped like the labels: axes along which all values belong together may have length 1.
    """
    count = parts.counts[i]
    order = np.lexsort((rng.permutation(count), -relevance[i, :count]))
    places = np.empty(count, "int64")
    places[order] = np.arange(count)
    return places[of_rows(parts.labels[0], [i])[0]]
