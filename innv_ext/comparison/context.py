"""What metrics get to see: the model and the samples, and one analyzer with its maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from innv_ext.analyzers.core.base import Analyzer, Explanation
from innv_ext.comparison.rows import Data, flat
from innv_ext.evaluation.columns import Distribution


class NotApplicable(Exception):
    """Raised by a metric that says nothing about an analyzer; the message says why."""


def as_data(maps: Any) -> Data:
    """The maps of an explanation as arrays."""
    return {key: np.asarray(own) for key, own in maps.items()} if isinstance(maps, dict) else np.asarray(maps)


@dataclass(frozen=True, eq=False)
class Setting:
    """What is the same for all analyzers.

    Attributes
    ----------
    model : as the user gave it
    x : array (batch, ...) as the model takes it; of several inputs {input: array}
    neurons : a ``neuron_selection`` of the explained neurons, one per sample
    labels : int array (batch,), or None
    masks : as in ``inside_ratio``, or None
    fit : training data, or None
    on : "logits" or "output", which the analyzers explain
    output : name or position of the explained output, for models with several
    channel_axis : 1 if the model keeps its channels first, else -1
    batch_size : most samples in one forward pass
    seed : of everything random
    columns : for tables what their columns are like, from fit or else x; None without tables, and where no metric of
        ``list_metrics()`` asks for them
    """

    model: keras.Model
    x: Data
    neurons: np.ndarray
    labels: np.ndarray | None
    masks: Any
    fit: Any
    on: str
    output: str | int | None
    channel_axis: int
    batch_size: int
    seed: int
    columns: Distribution | None

    @property
    def xs(self) -> list[np.ndarray]:
        """One array per input."""
        return flat(self.x)

    @property
    def spans(self) -> list[float]:
        """The difference of the largest and the smallest value of each input."""
        return [float(x.max()) - float(x.min()) for x in self.xs]

    def __len__(self) -> int:
        return len(self.neurons)


@dataclass(frozen=True, eq=False)
class Context(Setting):
    """What a metric gets: a ``Setting``, and one analyzer.

    Attributes
    ----------
    title : of the row
    analyzer : built, and fitted where it needs that
    explanation : what ``analyzer.explain`` gave at x
    sums_to : what the maps of this analyzer sum to, as in ``list_analyzers``; "" if nothing
    remake : function of a model that gives the same analyzer of that model, fitted to it
    """

    title: str
    analyzer: Analyzer
    explanation: Explanation
    sums_to: str
    remake: Callable[[keras.Model], Analyzer]

    @property
    def relevance(self) -> Data:
        """The maps, shaped like x."""
        return as_data(self.explanation.attribution)
