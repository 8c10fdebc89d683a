"""Gradients averaged over several points per sample: SmoothGrad and integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.program import GraphAnalyzer
from innv_ext.analyzers.core.reverse import ReverseAnalyzer
from innv_ext.analyzers.core.tensor_map import TensorMap
from innv_ext.analyzers.gradient.gradient import POSTPROCESS
from innv_ext.backend.masks import keep_mask, repeat_rows
from innv_ext.backend.numerics import widen

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class AveragedGradient(ReverseAnalyzer):
    """Base: gradients at points z_j around or below x, averaged with weights; c is fixed at x itself.

    ``batch_size`` bounds samples times points in one pass. Token inputs are perturbed as vectors, behind their
    embedding, and the result is summed over the components of the vector.
    """

    behind_embeddings = True
    explain_batch = GraphAnalyzer.explain_batch  # not one walk

    def layer_names(self) -> tuple[str, ...]:
        """None: the points of a sample have no common layers' relevance."""
        return ()

    def point_weights(self) -> np.ndarray:
        """One weight per point, summing to 1."""
        raise NotImplementedError

    def point_arrays(self, first: int, last: int, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """For the points first..last, one array (points, ...) per feature tensor."""
        raise NotImplementedError

    def place(self, x: Tensor, base: Tensor, at: Tensor) -> Tensor:
        """The points (batch, points, ...) of features x (batch, 1, ...) from ``at`` (1, points, ...)."""
        raise NotImplementedError

    def combine(self, mean: Tensor, x: Tensor, base: Tensor) -> Tensor:
        """The attribution of features x from the averaged gradient."""
        return mean

    def references(self, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """One reference sample (1, ...) per input; zeros where the method has none."""
        return [np.zeros((1, *shape), spec.dtype) for shape, spec in zip(shapes, self.input_specs(), strict=True)]

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """Add up the weighted gradients chunk by chunk."""
        references = self.references([x.shape[1:] for x in xs])
        shapes = self._feature_shapes(xs)
        specs = self.input_specs()
        extra = [((1, *s.shape[1:]), s.dtype) for s in specs]
        dtypes = [self._float(slot) for slot in self.graph_.inputs]
        extra_points = [((None,) * (len(s) + 1), d) for s, d in zip(shapes, dtypes, strict=True)]
        run = self.compiled(self._sum_points, {"mode": mode}, [*extra, *extra_points, ((None,), "float64")])
        weights, step = self.point_weights(), max(1, size // len(xs[0]))
        total: list[Any] = [0.0] * len(shapes)
        for first in range(0, len(weights), step):
            last = min(first + step, len(weights))
            at = [a.astype(d) for a, d in zip(self.point_arrays(first, last, shapes), dtypes, strict=True)]
            found = run(*xs, start["target"], *references, *at, weights[first:last])
            total = [t + np.asarray(f) for t, f in zip(total, found, strict=True)]
        end = self.compiled(self._combined, {}, [*extra, *extra_points])
        return {"attributions": [np.asarray(a) for a in end(*xs, start["target"], *references, *total)]}

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """The weighted sum of the gradients at all points, and what follows from it."""
        references = [ops.convert_to_tensor(r) for r in self.references(list(shapes))]
        weights = self.point_weights()

        def part(xs: list[Tensor], target: Tensor, held: list[Tensor], points: list[Tensor]) -> list[Tensor]:
            return self._sum_points(xs, target, *references, *points, mode=mode)

        def end(xs: list[Tensor], target: Tensor, held: list[Tensor], totals: list[Tensor]) -> list[Tensor]:
            return self._combined(xs, target, *references, *totals)

        points = [*self.point_arrays(0, len(weights), list(shapes)), weights]
        return TensorMap(part, end, points, lambda found: [])

    def _float(self, slot: int) -> str:
        return "float64" if self.graph_.specs[slot].dtype == "float64" else "float32"

    def _feature_shapes(self, xs: list[np.ndarray]) -> list[tuple[int, ...]]:
        """Shapes of one sample of each feature tensor: of the input, or of its embedding."""
        position = {slot: i for i, slot in enumerate(self.head_.inputs)}
        source = {n.outputs[0]: n.inputs[0] for n in self.head_.nodes}
        shapes = []
        for slot in self.graph_.inputs:
            x = xs[position[source.get(slot, slot)]]
            width = (self.graph_.specs[slot].shape[-1],) if slot in source else ()
            shapes.append((*x.shape[1:], *width))
        return shapes

    def _sum_points(self, xs: list[Tensor], target: Tensor, *rest: Tensor, mode: Any) -> list[Tensor]:
        references, at, weights = list(rest[: len(xs)]), rest[len(xs) : -1], rest[-1]
        features, bases, count = self.embedded(xs), self.embedded(references), ops.shape(weights)[0]
        rows = []
        for x, base, a in zip(features, bases, at, strict=True):
            if not x.dtype.is_floating:  # token numbers that only a mask reads
                rows.append(repeat_rows(x, count))
                continue
            wide, a = widen(x), ops.cast(a, widen(x).dtype)[None]
            points = self.place(ops.expand_dims(wide, 1), ops.expand_dims(widen(base), 1), a)
            flat = ops.reshape(points, (-1, *_tail(wide)))
            rows.append(keep_mask(repeat_rows(x, count), ops.cast(flat, x.dtype)))
        found = self.walk(rows, ops.repeat(target, count), mode)["attributions"]
        sums = []
        for g, x in zip(found, features, strict=True):
            points = ops.reshape(self.per_point(g), (-1, count, *_tail(widen(x))))
            w = ops.reshape(ops.cast(weights, points.dtype), (1, -1) + (1,) * (len(x.shape) - 1))
            sums.append(ops.sum(points * w, axis=1))
        return sums

    def per_point(self, g: Tensor) -> Tensor:
        """What happens to each gradient before averaging."""
        return g

    def _combined(self, xs: list[Tensor], target: Tensor, *rest: Tensor) -> list[Tensor]:
        references, means = list(rest[: len(xs)]), rest[len(xs) :]
        features, bases = self.embedded(xs), self.embedded(references)
        combined = {
            slot: self.combine(m, widen(x), widen(b))
            for slot, m, x, b in zip(self.graph_.inputs, means, features, bases, strict=True)
        }
        by_input: dict[int, Tensor] = {}
        for node in self.head_.nodes:  # tokens: sum over the vector's components, and over several embeddings
            r = ops.sum(self.token_share(combined.pop(node.outputs[0]), node, xs, features), axis=-1)
            slot = node.inputs[0]
            by_input[slot] = by_input[slot] + r if slot in by_input else r
        return [by_input[s] if s in by_input else combined[s] for s in self.head_.inputs]

    def token_share(self, a: Tensor, node: Any, xs: list[Tensor], features: list[Tensor]) -> Tensor:
        """The attribution of a token's vector, to be summed over its components."""
        return a


def _tail(x: Tensor) -> tuple[Any, ...]:
    return tuple(ops.shape(x)[1:])


@dataclass(kw_only=True, eq=False, repr=False)
class SmoothGrad(AveragedGradient):
    """Mean gradient at x + noise (Smilkov et al. 2017).

    Parameters
    ----------
    augment_by_n : number of noisy copies; all samples share the same draws, so a map doesn't depend on its batch
    noise_scale : standard deviation of the noise
    noise : "relative": in shares of (max x - min x) of each sample; "absolute": in units of x
    postprocess : None, "abs" or "square", applied to each gradient before the mean
    """

    augment_by_n: int = arguments.count(64)
    noise_scale: float = arguments.at_least(0, 0.1)
    noise: str = arguments.one_of("relative", "absolute")
    postprocess: str | None = arguments.one_of(*POSTPROCESS)

    def point_weights(self) -> np.ndarray:
        return np.full(self.augment_by_n, 1 / self.augment_by_n)

    def point_arrays(self, first: int, last: int, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Standard normal noise; point j is the same whatever the chunk."""
        draws = [
            [np.random.default_rng((self.seed, j, i)).standard_normal(s, "float32") for j in range(first, last)]
            for i, s in enumerate(shapes)
        ]
        return [np.stack(d) for d in draws]

    def place(self, x: Tensor, base: Tensor, at: Tensor) -> Tensor:
        if self.noise == "absolute":
            return x + self.noise_scale * at
        axes = tuple(range(1, len(x.shape)))
        spread = ops.max(x, axis=axes, keepdims=True) - ops.min(x, axis=axes, keepdims=True)
        return x + self.noise_scale * spread * at

    def per_point(self, g: Tensor) -> Tensor:
        return POSTPROCESS[self.postprocess](g)

    def token_share(self, a: Tensor, node: Any, xs: list[Tensor], features: list[Tensor]) -> Tensor:
        """Vector times averaged gradient: the derivative along the token's one-hot coordinate."""
        return a * widen(features[self.graph_.inputs.index(node.outputs[0])])


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _riemann(offset: float) -> Any:
    return lambda steps: ((np.arange(steps) + offset) / steps, np.full(steps, 1 / steps))


def _trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    if steps == 1:
        return np.array([0.5]), np.ones(1)
    weights = np.ones(steps)
    weights[[0, -1]] = 0.5
    return np.linspace(0, 1, steps), weights / weights.sum()


_LINE_RULES = {
    "gausslegendre": _gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_middle": _riemann(0.5),
    "riemann_right": _riemann(1.0),
    "riemann_trapezoid": _trapezoid,
}


@dataclass(kw_only=True, eq=False, repr=False)
class IntegratedGradients(AveragedGradient):
    """(x - x0) times the mean gradient on the line from x0 to x (Sundararajan et al. 2017); sums to f_c(x) - f_c(x0).

    Parameters
    ----------
    steps : number of points on the line
    reference_inputs : x0: a number, or an array that broadcasts to one sample (a list or dict for several inputs); for
        token inputs a token number
    method : "gausslegendre", "riemann_left" (the thesis' sum), "riemann_middle", "riemann_right", "riemann_trapezoid"
    """

    steps: int = arguments.count(64)
    reference_inputs: Any = 0
    method: str = arguments.one_of(*_LINE_RULES)

    def point_weights(self) -> np.ndarray:
        return _LINE_RULES[self.method](self.steps)[1]

    def point_arrays(self, first: int, last: int, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Positions on the line, 0 at the reference and 1 at x."""
        positions = _LINE_RULES[self.method](self.steps)[0][first:last]
        return [positions.reshape((-1,) + (1,) * len(s)) for s in shapes]

    def place(self, x: Tensor, base: Tensor, at: Tensor) -> Tensor:
        """x0 + position * (x - x0)."""
        return base + at * (x - base)

    def combine(self, mean: Tensor, x: Tensor, base: Tensor) -> Tensor:
        """The difference from the reference times the mean gradient."""
        return (x - base) * mean

    def references(self, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """The reference of each input, broadcast to one sample."""
        found = zip(self.per_input(self.reference_inputs), shapes, self.input_specs(), strict=True)
        return [arguments.one_sample("reference_inputs", v, s).astype(spec.dtype)[None] for v, s, spec in found]
