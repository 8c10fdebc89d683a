"""What ``explain`` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import tree

from innv_ext.analyzers.core import finite
from innv_ext.analyzers.core.request import contrasted


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` returns.

    Attributes
    ----------
    attribution : array (or list / dict of arrays) shaped like x; with ``layer`` one array shaped like what it gives
    output : array (batch, ...), the output that was explained, before a trailing softmax or sigmoid
    target : int array (batch,), the flat index of the explained neuron, of a contrast the first; -1 where it is none
    extras : what else the method found: "score" (batch,), "sum" of the attribution (batch,), "finite" (batch,) ...
    """

    attribution: Any
    output: np.ndarray
    target: np.ndarray
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> np.ndarray:
        """The explained score of each sample, shape (batch,)."""
        return self.extras["score"]


def collected(
    parts: Sequence[dict[str, Any]], count: int, last_step: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, dict[str, Any]]:
    """(maps, output, target, extras) of ``count`` samples from what was found batch by batch."""
    extras = tree.map_structure(lambda *a: np.concatenate(a)[:count], *parts)
    arrays = [last_step(a) for a in extras.pop("attributions")]
    output, target = extras.pop("output"), np.maximum(extras.pop("target"), -1)  # -1: no single neuron
    target = contrasted(target, output)[0]
    flat = [np.reshape(a, (len(a), int(np.prod(a.shape[1:])))) for a in arrays]
    extras["sum"] = np.sum([a.sum(axis=1) for a in flat], axis=0)
    extras["finite"] = finite.of_samples(flat, extras["score"])
    return arrays, output, target, extras
