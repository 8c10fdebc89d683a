"""DeepSHAP: DeepLIFT averaged over reference samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.core.background import Background
from innv_ext.analyzers.deep_lift.deep_lift import ReferenceDifference
from innv_ext.analyzers.deep_lift.differences import spread
from innv_ext.backend.masks import repeat_rows, tile_rows

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class DeepShap(Background, ReferenceDifference):
    """The mean of DeepLIFT over reference samples (Lundberg and Lee 2017); sums to f_c(x) - mean f_c(references).

    Parameters
    ----------
    references, background : see ``Background``
    rule, steps, rules : see ``ReferenceDifference``

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("deep_shap", model, background=64).fit(X_train)
    >>> relevance = analyzer.analyze(x)
    """

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """Add up over references; at most ``size`` pairs at once."""
        references, rows = self.references_like(xs), len(xs[0])
        specs = [((None, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
        run = self.compiled(self._all_pairs, {"mode": mode}, specs)
        count, step = len(references[0]), max(1, size // rows)
        totals: list[Any] = [0.0] * (len(xs) + 1)
        for first in range(0, count, step):
            found = run(*xs, start["target"], *(r[first : first + step] for r in references))
            totals = [t + np.asarray(f, "float64") for t, f in zip(totals, found, strict=True)]
        *maps, reference_score = (t / count for t in totals)
        dtypes = [x.dtype if x.dtype.kind == "f" else start["score"].dtype for x in xs]
        attributions = [m.astype(d) for m, d in zip(maps, dtypes, strict=True)]
        return {"attributions": attributions, "reference_score": reference_score}

    def _all_pairs(self, xs: list[Tensor], target: Tensor, *references: Tensor, mode: Any) -> list[Tensor]:
        """Sums over the references, of attributions and of scores."""
        features, bases = map(self.embedded, (xs, references))
        rows, count = ops.shape(target)[0], ops.shape(references[0])[0]
        repeated = [repeat_rows(x, count) for x in features]
        tiled = spread(self.head_, self.graph_, [tile_rows(b, rows) for b in bases], repeated)
        found = self.walk([repeat_rows(x, count) for x in xs], repeated, tiled, ops.repeat(target, count), mode)
        parts = [*found["attributions"], found["reference_score"]]
        return [ops.sum(ops.reshape(p, (rows, count, *ops.shape(p)[1:])), axis=1) for p in parts]
