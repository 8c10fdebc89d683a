"""What is kept or replaced as one in a test: values, pixels, blocks or superpixels; their relevance and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.partition import Partition, blocks, labels_of, numbered, of_rows
from innv_ext.analyzers.parts.windows import all_sizes, default_sizes
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import FIND_OUT, refuse_samples
from innv_ext.visualization.checks import as_numbers

RANDOM = "random"
AGGREGATES = ("mean", "sum")


def read_features(
    given: Sequence[Any], batch: int, arranged: Sequence[Arrangement], argument: str = "features"
) -> Partition:
    """The features of ``batch`` samples: per input "component", "pixel", or integer labels for one or each sample."""
    pairs = list(zip(given, arranged, strict=True))
    if all(isinstance(g, str) and g == "pixel" and one.channel_axis is None for g, one in pairs):
        raise InvalidInputError(
            f"{argument}='pixel' needs x with channels, (batch, ..., channels), but it is "
            f"{(batch, *arranged[0].shape)}. Use 'component'."
        )
    kinds = [("component" if g is None else g, one) for g, one in pairs]
    return numbered(arranged, [labels_of(kind, one, argument, batch) for kind, one in kinds], batch)


def read_regions(given: Sequence[Any], batch: int, arranged: Sequence[Arrangement]) -> Partition:
    """The regions of ``batch`` samples: blocks of some sizes, by default small ones, or whatever are features."""
    named = [g is not None and (isinstance(g, bool) or not isinstance(g, (tuple, int, np.integer))) for g in given]
    if all(named):
        return read_features(given, batch, arranged, "regions")
    blocked = [i for i, name in enumerate(named) if not name]
    sides = all_sizes("regions", [given[i] for i in blocked], [arranged[i] for i in blocked], _small)
    labels = {i: blocks(arranged[i].shape, side) for i, side in zip(blocked, sides, strict=True)}
    labels |= {i: labels_of(given[i], arranged[i], "regions", batch) for i, name in enumerate(named) if name}
    return numbered(arranged, [labels[i] for i in range(len(arranged))], batch)


def _small(one: Arrangement) -> Sizes:
    return (1,) * len(one.shape) if one.tokens else default_sizes(one)


def relevance_of(
    parts: Partition, name: str, values: Any, keys: Sequence[str] = ("x",), aggregate: str = "sum"
) -> np.ndarray:
    """The relevance of each part, (batch, most parts).

    Parameters
    ----------
    name : of the map, for messages
    values : a map shaped like x, or without channels where these belong together; or given per part; or "random",
        which makes all parts equal, so that the order of ties decides
    keys : of the inputs; a map of several inputs is a dict or a list with one each
    aggregate : "sum" or "mean" of a map over each part
    """
    arguments.choice("aggregate", aggregate, AGGREGATES)
    batch = len(parts.counts)
    if isinstance(values, str):
        if values != RANDOM:
            like = "an array of shape " + str((batch, *parts.inputs[0].shape)) if len(keys) == 1 else "a map like x"
            raise InvalidInputError(
                f"relevance {name!r} is {values!r}; the only text allowed is 'random' (a random order). Otherwise "
                f"pass {like}."
            )
        return np.broadcast_to(0.0, (batch, parts.count))
    maps = _map_of_inputs(parts, name, values, keys)
    if maps is None:
        found = _per_part(parts, name, values)
    else:
        found = parts.sums(maps)
        if aggregate == "mean":
            found = found / np.maximum(parts.sizes(), 1)  # a sample with fewer parts has empty ones behind its own
    nan = np.isnan(found).any(axis=1)
    refuse_samples(f"relevance {name!r} is NaN", nan, f", so it gives no order. {FIND_OUT}")
    return found


def _map_of_inputs(parts: Partition, name: str, values: Any, keys: Sequence[str]) -> list[np.ndarray] | None:
    """One array per input, with all axes of it; None if ``values`` is no map."""
    batch = len(parts.counts)
    if len(keys) == 1:
        found = as_numbers(values, f"relevance {name!r}")
        fitting = _as_input(found, batch, parts.inputs[0], parts.labels[0])
        return None if fitting is None else [fitting]
    if isinstance(values, Mapping):
        if set(values) != set(keys):
            raise InvalidInputError(f"relevance {name!r} has {list(values)}; a map needs the inputs {list(keys)}.")
        values = [values[key] for key in keys]
    elif not isinstance(values, (list, tuple)) or len(values) != len(keys) or any(map(np.isscalar, values)):
        return None
    found = [as_numbers(value, f"relevance {name!r}, {key},") for key, value in zip(keys, values, strict=True)]
    fitting = [_as_input(f, batch, *of) for f, *of in zip(found, parts.inputs, parts.labels, strict=True)]
    for key, own, fits, one in zip(keys, found, fitting, parts.inputs, strict=True):
        if fits is None:
            raise InvalidInputError(
                f"relevance {name!r} has shape {own.shape} for the input {key!r}, but x has {(batch, *one.shape)}."
            )
    return fitting


def _as_input(values: np.ndarray, batch: int, one: Arrangement, labels: np.ndarray) -> np.ndarray | None:
    """A map of one input, with the axis of the channels; None if the shape is another."""
    together = one.channel_axis is not None and labels.shape[one.channel_axis + 1] == 1
    if values.shape == (batch, *one.shape):
        return values
    fits = together and values.shape in [(batch, *form) for form in (one.merged, one.bare)]
    return values.reshape(batch, *one.merged) if fits else None


def _per_part(parts: Partition, name: str, values: Any) -> np.ndarray:
    """Relevance that is given per part."""
    found, shape = as_numbers(values, f"relevance {name!r}"), (len(parts.counts), parts.count)
    if found.shape != shape or (parts.counts != parts.count).any():
        low, shapes = int(parts.counts.min()), [(shape[0], *one.shape) for one in parts.inputs]
        counts = parts.count if low == parts.count else f"{low} to {parts.count}, which differ, so only a map will do"
        like = shapes[0] if len(shapes) == 1 else ", ".join(map(str, shapes))
        raise InvalidInputError(
            f"relevance {name!r} has shape {found.shape}, but x has {like}. Pass a map of that shape, or one value "
            f"per feature: ({shape[0]}, {counts})."
        )
    return found


def ranks(parts: Partition, relevance: np.ndarray, i: int, rng: np.random.Generator) -> list[np.ndarray]:
    """For the values of sample i the place of their part in the order (0: most relevant); random among equals.

    One array per input, shaped like its labels: axes along which all values belong together may have length 1.
    """
    count = parts.counts[i]
    order = np.lexsort((rng.permutation(count), -relevance[i, :count]))
    places = np.empty(count, "int64")
    places[order] = np.arange(count)
    return [places[of_rows(labels, [i])[0]] for labels in parts.labels]
