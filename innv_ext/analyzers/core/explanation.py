"""What ``explain`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` returns.

    Attributes
    ----------
    attribution : array (or list / dict of arrays) shaped like x; with ``layer`` one array shaped like what it gives
    output : array (batch, ...), the output that was explained, before a trailing softmax or sigmoid
    target : int array (batch,), the flat index of the explained neuron; -1 where it is not a single neuron
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
