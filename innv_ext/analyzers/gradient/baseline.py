"""Baselines: the input itself and random values, to compare explanations with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.base import Explanation
from innv_ext.analyzers.core.reverse import ReverseAnalyzer

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class Input(ReverseAnalyzer):
    """The input as its own explanation."""

    propagates = False
    opens_loops = False

    def layer_names(self) -> tuple[str, ...]:
        """None: nothing is propagated."""
        return ()

    def walk(
        self, xs: Sequence[Tensor], index: Tensor, mode: Any, layers: Sequence[str] = (), trace: bool = False
    ) -> Any:
        """One forward pass for the output; the attribution is x."""
        return {"attributions": list(xs), **self._at_x(list(xs), index, mode)}

    def postprocess_array(self, attribution: np.ndarray) -> np.ndarray:
        """Tokens become floats."""
        return attribution if attribution.dtype.kind == "f" else attribution.astype("float32")


@dataclass(kw_only=True, eq=False, repr=False)
class Random(Input):
    """Normal random values with standard deviation ``stddev``, the same for the same ``seed`` and shape of x."""

    stddev: float = arguments.at_least(0, 1.0)

    def explain(self, x: Any, neuron_selection: Any = None, **options: Any) -> Explanation:
        """Draw for all samples at once, so that the batch size doesn't matter."""
        self._draws = np.random.default_rng(self.seed)
        return super().explain(x, neuron_selection, **options)

    def postprocess_array(self, attribution: np.ndarray) -> np.ndarray:
        noise = self._draws.standard_normal(attribution.shape) * self.stddev
        return noise.astype(attribution.dtype if attribution.dtype.kind == "f" else "float32")
