"""What is kept or replaced as one in a test: values, pixels, blocks or superpixels; their relevance and their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.partition import Partition, blocks, labels_of, numbered, of_rows
from innv_ext.analyzers.parts.windows import all_sizes, default_sizes
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import FIND_OUT, refuse_samples
from innv_ext.visualization.checks import as_numbers

RANDOM = "random"
AGGREGATES = ("mean", "sum")


def read_features(features: Any, batch: int, one: Arrangement, argument: str = "features") -> Partition:
    """The features of ``batch`` samples: "component", "pixel", or labels for one sample or per sample, as integers."""
    if isinstance(features, str) and features == "pixel" and one.channel_axis is None:
        raise InvalidInputError(
            f"{argument}='pixel' needs x with channels, (batch, ..., channels), but it is {(batch, *one.shape)}. Use "
            f"'component'."
        )
    return numbered([one], [labels_of(features, one, argument, batch)], batch)


def read_regions(regions: Any, batch: int, one: Arrangement) -> Partition:
    """The regions of ``batch`` samples: blocks of some sizes, by default small ones, or whatever are features."""
    if regions is not None and (isinstance(regions, bool) or not isinstance(regions, (tuple, int, np.integer))):
        return read_features(regions, batch, one, "regions")
    single = (1,) * len(one.shape)
    (sides,) = all_sizes("regions", [regions], [one], lambda one: single if one.tokens else default_sizes(one))
    return numbered([one], [blocks(one.shape, sides)], batch)


def relevance_of(parts: Partition, name: str, values: Any, aggregate: str = "sum") -> np.ndarray:
    """The relevance of each part, (batch, most parts).

    Parameters
    ----------
    name : of the map, for messages
    values : a map shaped like x, or without channels where these belong together; or given per part; or "random",
        which makes all parts equal, so that the order of ties decides
    aggregate : "sum" or "mean" of a map over each part
    """
    arguments.choice("aggregate", aggregate, AGGREGATES)
    (one,), (labels,) = parts.inputs, parts.labels
    batch = len(parts.counts)
    shape, x_shape = (batch, parts.count), (batch, *one.shape)
    if isinstance(values, str):
        if values != RANDOM:
            raise InvalidInputError(
                f"relevance {name!r} is {values!r}; the only text allowed is 'random' (a random order). Otherwise "
                f"pass an array of shape {x_shape}."
            )
        return np.broadcast_to(0.0, shape)
    found = as_numbers(values, f"relevance {name!r}")
    together = one.channel_axis is not None and labels.shape[one.channel_axis + 1] == 1
    if found.shape in [x_shape] + [(batch, *form) for form in (one.merged, one.bare) if together]:
        found = parts.sums([found if found.shape == x_shape else found.reshape(batch, *one.merged)])
        if aggregate == "mean":
            found = found / np.maximum(parts.sizes(), 1)  # a sample with fewer parts has empty ones behind its own
    elif found.shape != shape or (parts.counts != parts.count).any():
        low = int(parts.counts.min())
        counts = parts.count if low == parts.count else f"{low} to {parts.count}, which differ, so only a map will do"
        raise InvalidInputError(
            f"relevance {name!r} has shape {found.shape}, but x has {x_shape}. Pass a map of that shape, or one value "
            f"per feature: ({batch}, {counts})."
        )
    nan = np.isnan(found).any(axis=1)
    refuse_samples(f"relevance {name!r} is NaN", nan, f", so it gives no order. {FIND_OUT}")
    return found


def ranks(parts: Partition, relevance: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
    """For the values of sample i the place of their part in the order (0: most relevant); random among equals.

    Shaped like the labels: axes along which all values belong together may have length 1.
    """
    count = parts.counts[i]
    order = np.lexsort((rng.permutation(count), -relevance[i, :count]))
    places = np.empty(count, "int64")
    places[order] = np.arange(count)
    return places[of_rows(parts.labels[0], [i])[0]]
