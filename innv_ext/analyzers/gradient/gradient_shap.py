"""GradientSHAP, also called expected gradients: integrated gradients averaged over reference samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.background import Background, per_input
from innv_ext.analyzers.core.tensor_map import TensorMap
from innv_ext.analyzers.gradient.averaged import AveragedGradient
from innv_ext.backend.masks import keep_mask, repeat_rows
from innv_ext.backend.numerics import widen

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class GradientShap(Background, AveragedGradient):
    """Mean of (x - ref) * gradient at ref + alpha (x - ref) + noise, over references and uniform alpha in [0, 1].

    Its expectation sums to f_c(x) - mean f_c(references) if there is no noise. Sources: Erion et al. 2021 (expected
    gradients), Lundberg and Lee 2017.

    Parameters
    ----------
    references, background : see ``Background``; every reference is drawn equally often, up to one
    samples : draws of a reference, alpha and noise; the same for all x, so that a map doesn't depend on its batch
    noise_scale : standard deviation of the noise, in units of x

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("gradient_shap", model, samples=200).fit(X_train)
    >>> relevance = analyzer.analyze(x)
    """

    samples: int = arguments.count(64)
    noise_scale: float = arguments.at_least(0, 0.0)

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """(x - ref) * gradient, summed over the draws, and their mean."""
        references = self.references_
        if references is None:
            raise self.not_fitted()
        chosen, alphas = self._draws(len(references[0]))

        def part(xs: list[Tensor], target: Tensor, held: list[Tensor], points: list[Tensor]) -> list[Tensor]:
            return self._sum_draws(xs, target, *points, mode=mode)

        def end(xs: list[Tensor], target: Tensor, held: list[Tensor], totals: list[Tensor]) -> list[Tensor]:
            return [total / self.samples for total in totals]

        drawn = self._noise(slice(0, self.samples), list(shapes))
        noise = [n.astype(self._float(slot)) for n, slot in zip(drawn, self.graph_.inputs, strict=True)]
        return TensorMap(part, end, [alphas, *(r[chosen] for r in references), *noise], lambda found: [])

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """Add up over draws; at most ``size`` points at once."""
        references, shapes = self.references_like(xs), self._feature_shapes(xs)
        like_x = [((None, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
        dtypes = [self._float(slot) for slot in self.graph_.inputs]
        noise_specs = [((None,) * (len(s) + 1), d) for s, d in zip(shapes, dtypes, strict=True)]
        run = self.compiled(self._sum_draws, {"mode": mode}, [((None,), "float64"), *like_x, *noise_specs])
        chosen, alphas = self._draws(len(references[0]))
        step = max(1, size // len(xs[0]))
        total: list[Any] = [0.0] * len(xs)
        for first in range(0, self.samples, step):
            part = slice(first, min(first + step, self.samples))
            noise = [n.astype(d) for n, d in zip(self._noise(part, shapes), dtypes, strict=True)]
            found = run(*xs, start["target"], alphas[part], *(r[chosen[part]] for r in references), *noise)
            total = [t + np.asarray(f, "float64") for t, f in zip(total, found, strict=True)]
        kinds = [x.dtype if x.dtype.kind == "f" else start["score"].dtype for x in xs]
        means = [(t / self.samples).astype(d) for t, d in zip(total, kinds, strict=True)]
        return {"attributions": means}

    def _draws(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(number of a reference, alpha) of each draw."""
        rng = np.random.default_rng(self.seed)
        cycles = [rng.permutation(count) for _ in range(-(-self.samples // count))]
        return np.concatenate(cycles)[: self.samples], rng.random(self.samples)

    def _noise(self, part: slice, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """One array (draws, ...) per feature tensor; draw j is the same whatever the chunk."""
        if not self.noise_scale:
            return [np.zeros((part.stop - part.start, *(1 for _ in s)), "float32") for s in shapes]
        return [
            np.stack(
                [
                    self.noise_scale * np.random.default_rng((self.seed, j, i)).standard_normal(s, "float32")
                    for j in range(part.start, part.stop)
                ]
            )
            for i, s in enumerate(shapes)
        ]

    def _sum_draws(self, xs: list[Tensor], target: Tensor, alphas: Tensor, *rest: Tensor, mode: Any) -> list[Tensor]:
        """(x - ref) * gradient, summed over the draws."""
        features, bases = self.embedded(xs), self.embedded(list(rest[: len(xs)]))
        count, rows, changes = ops.shape(alphas)[0], [], []
        for x, base, noise in zip(features, bases, rest[len(xs) :], strict=True):
            if not x.dtype.is_floating:  # token numbers that only a mask reads
                rows.append(repeat_rows(x, count))
                changes.append(ops.cast(0.0, "float32"))
                continue
            wide, start = ops.expand_dims(widen(x), 1), ops.expand_dims(widen(base), 0)
            alpha = ops.cast(ops.reshape(alphas, (1, -1, *(1 for _ in x.shape[1:]))), wide.dtype)
            change = wide - start
            points = ops.reshape(start + alpha * change + noise[None], (-1, *ops.shape(x)[1:]))
            rows.append(keep_mask(repeat_rows(x, count), ops.cast(points, x.dtype)))
            changes.append(change)
        gradients = self.walk(rows, ops.repeat(target, count), mode)["attributions"]
        sums = [
            ops.sum(change * ops.reshape(g, (-1, count, *ops.shape(x)[1:])), axis=1)
            for g, x, change in zip(gradients, features, changes, strict=True)
        ]
        return per_input(self.head_, self.graph_.inputs, sums)
