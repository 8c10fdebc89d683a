"""The regions of a perturbation analysis: blocks, single values or segments, and how relevant they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.layout import Layout, Sizes, layouts_of
from innv_ext.analyzers.parts.windows import all_sizes, default_sizes
from innv_ext.backend.graph import Spec
from innv_ext.evaluation.features import Features, read_features

AGGREGATES = ("mean", "sum")


def arrangement(shape: Sizes, spec: Spec, channels_first: bool) -> Layout:
    """Where samples of this shape have their positions; only vectors of whole numbers are tokens, not pictures."""
    spec = replace(spec, dtype="float32") if len(shape) > 1 else spec
    return layouts_of([shape], [spec], channels_first)[0]


def read_regions(regions: Any, shape: Sizes, layout: Layout, channels_first: bool) -> Features:
    """The regions of x, (batch, ...) = ``shape``; blocks that the sides cut off are regions too.

    Parameters
    ----------
    regions : None (an eighth of each side; single columns of tables, single tokens), an integer or a tuple of sizes, or
        whatever ``read_features`` takes
    """
    sizes = regions is None or isinstance(regions, (tuple, int, np.integer))
    if sizes and not isinstance(regions, bool):
        (size,) = all_sizes("regions", [regions], [layout], _default)
        blocks = [np.arange(side) // width for side, width in zip(layout.shape, size, strict=True)]
        labels = np.ravel_multi_index(np.ix_(*blocks), [int(block[-1]) + 1 for block in blocks])
        axis = layout.channel_axis
        regions = labels if axis is None or size[axis] < layout.shape[axis] else labels.take(0, axis)
    return read_features(regions, shape, channels_first, "regions")


def _default(layout: Layout) -> Sizes:
    return (1,) * len(layout.shape) if layout.tokens else default_sizes(layout)


def region_relevance(regions: Features, name: str, values: Any, aggregate: str) -> np.ndarray:
    """The relevance of each region, (batch, most regions); values that are given per region stay as they are."""
    arguments.choice("aggregate", aggregate, AGGREGATES)
    found = regions.relevance(name, values)
    if aggregate == "sum" or not regions.is_map(np.shape(values)):
        return found
    sizes = [np.bincount(ids.ravel(), minlength=found.shape[1]) for ids in regions.ids]
    return found / np.maximum(sizes, 1)  # a sample with fewer regions has empty ones behind its own
