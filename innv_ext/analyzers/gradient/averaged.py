"""Gradients averaged over several points per sample: SmoothGrad and integrated gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.background import completed, per_input
from innv_ext.analyzers.core.program import GraphAnalyzer
from innv_ext.analyzers.core.request import ALL, contrasted
from innv_ext.analyzers.core.reverse import ReverseAnalyzer
from innv_ext.analyzers.core.tensor_map import TensorMap
from innv_ext.analyzers.gradient.gradient import POSTPROCESS
from innv_ext.analyzers.parts.partition import of_rows
from innv_ext.backend.graph import Spec
from innv_ext.backend.masking import hold_masks
from innv_ext.backend.masks import keep_mask, repeat_rows
from innv_ext.backend.numerics import floating, is_float, wide_dtype, widen

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class AveragedGradient(ReverseAnalyzer):
    """Base: the weighted sum over points z_j = x0_j + t_j (x - x0_j) + e_j of (x - x0_j) times the gradient at z_j.

    c is fixed at x itself. ``batch_size`` bounds samples times points in one pass. Token inputs are moved as vectors,
    behind their embedding, and the result is summed over the components of the vector. Every point has the Keras masks
    of x: what a model masks in x gets nothing.
    """

    behind_embeddings = True
    one_pass = False
    opens_loops = False
    given = ""  # the argument that says where lines start, if they do somewhere
    explain_batch = GraphAnalyzer.explain_batch  # not one walk
    layer_, beside_ = None, ()  # the layer that is explained in place of the inputs, and the slots that don't move then

    def layer_names(self) -> tuple[str, ...]:
        """None: the points of a sample have no common layers' relevance."""
        return ()

    def explained_layers(self) -> tuple[str, ...]:
        """All layers that give floats."""
        graph, nodes = self.graph_, (*self.head_.nodes, *self.graph_.nodes)
        slots = {s for node in nodes for s in node.outputs if is_float(graph.specs[s].dtype)}
        return tuple(name for name, slot in graph.layer_slots.items() if slot in slots)

    def explain_layer(
        self, layer: str, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any
    ) -> dict[str, Any]:
        return self.at_layer(layer).explain_batch(xs, index, size, **options)

    def at_layer(self, layer: str) -> AveragedGradient:
        """A copy whose points lie between what a layer gives at x0 and at x; what passes it by stays as it is at x.

        As in Captum's LayerIntegratedGradients: the method for the part of the model behind the layer.
        """
        other, nodes = copy.copy(self), (*self.head_.nodes, *self.graph_.nodes)
        whole = replace(self.graph_, inputs=self.head_.inputs).rebuilt(nodes)
        rules = dict(zip([node.outputs for node in self.graph_.nodes], self.rules_, strict=True))
        other.head_, other.graph_ = whole.split_at(whole.layer_slots[layer])
        other.rules_ = tuple(rules[node.outputs] for node in other.graph_.nodes)
        other.layer_, other.beside_ = layer, other.graph_.inputs[1:]
        return other

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each point t_j, its weight (they sum to 1), and the number of x0_j among ``references_like``."""
        raise NotImplementedError

    def references_like(self, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The reference samples x0, one array (count, ...) per input; zeros where the method has none."""
        return [np.zeros((1, *x.shape[1:]), spec.dtype) for x, spec in zip(xs, self.input_specs(), strict=True)]

    def draws(self, part: slice, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """The noise e_j of some points, one array (1 or points, ...) per feature tensor; none by default."""
        return [np.zeros((1,) * (len(shape) + 1), "float32") for shape in shapes]

    def normal(self, part: slice, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Standard normal noise; point j is the same whatever the chunk."""
        numbers = range(part.start, part.stop)
        return [
            np.stack([np.random.default_rng((self.seed, j, i)).standard_normal(s, "float32") for j in numbers])
            for i, s in enumerate(shapes)
        ]

    def place(self, x: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z (batch, points, ...) of features x (batch, 1, ...); all others are (1, 1 or points, ...)."""
        return x0 + t * (x - x0) + noise

    def share(self, g: Tensor, x: Tensor, x0: Tensor, token: bool) -> Tensor:
        """What is summed over the points, from their gradients g (batch, points, ...)."""
        return g * (x - x0)

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        scalars = [((None,), "float64")] * 2
        references = [((None, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
        noise = [((None,) * len(spec.shape), wide_dtype(spec.dtype)) for spec in self._features()]
        options = {"mode": mode, "layer": self.layer_}
        run = self.compiled(self._sum_points, options, [*scalars, *references, *noise])
        totals: list[Any] = [0.0] * (1 if self.layer_ else len(xs))
        for points in self._chunks(xs, max(1, size // len(xs[0]))):
            found = [np.asarray(f) for f in run(*xs, start["target"], *points)]
            totals = [t + f.astype("float64") for t, f in zip(totals, found, strict=True)]
        maps = {"attributions": [t.astype(f.dtype) for t, f in zip(totals, found, strict=True)]}
        return {**maps, "reference_score": self._reference_score(xs, start, size, mode)} if self.given else maps

    def _reference_score(
        self, xs: Sequence[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any
    ) -> np.ndarray:
        """The mean of f_c over the references, (batch,): what the model itself gives, with the references' masks."""
        references, parts = self.references_like(xs), []
        for first in range(0, len(references[0]), size):
            rows = [r[first : first + size] for r in references]
            found = self.at_x(rows, np.zeros(len(rows[0]), "int32"), mode)
            output = found["output"].reshape(len(rows[0]), -1).astype("float64")
            if callable(mode):
                parts.append(np.repeat(found["score"][:, None], len(xs[0]), axis=1))
            else:
                own, other = contrasted(start["target"], output)
                alone = output[:, np.maximum(own, 0)] - np.where(other < 0, 0.0, output[:, other])
                parts.append(np.where(own == ALL, output.sum(axis=1, keepdims=True), alone))
        return np.concatenate(parts).mean(axis=0).astype(start["score"].dtype)

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        extras = super().finish_extras(extras)
        return completed(extras, self.given, needed=False) if self.given else extras

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        if not self.is_fitted():
            raise self.not_fitted()
        samples = [np.zeros((1, *shape), spec.dtype) for shape, spec in zip(shapes, self.input_specs(), strict=True)]
        count = len(self.points()[0])
        (arrays,) = self._chunks(samples, count)
        return TensorMap(
            part=lambda xs, target, held, points: self._sum_points(xs, target, *points, mode=mode, layer=None),
            end=lambda xs, target, held, totals: totals,
            points=[np.broadcast_to(array, (count, *array.shape[1:])) for array in arrays],
            constants=lambda found: [],
        )

    def _chunks(self, xs: Sequence[np.ndarray], step: int) -> Iterator[list[np.ndarray]]:
        """Positions, weights, references and noise of ``step`` points at a time."""
        references, (t, weights, number) = self.references_like(xs), self.points()
        shapes = [tuple(spec.shape[1:]) for spec in self._features()]
        if any(None in shape for shape in shapes):
            shapes = [tuple(f.shape[1:]) for f in self.embedded([ops.convert_to_tensor(x[:1]) for x in xs])]
        for first in range(0, len(t), step):
            part = slice(first, min(first + step, len(t)))
            draws = zip(self.draws(part, shapes), self._features(), strict=True)
            noise = [e.astype(wide_dtype(spec.dtype)) for e, spec in draws]
            yield [t[part], weights[part], *(of_rows(r, number[part]) for r in references), *noise]

    def _features(self) -> list[Spec]:
        """What is moved: the inputs, or their embeddings; or a layer, before what passes it by."""
        return [self.graph_.specs[slot] for slot in self.graph_.inputs]

    def _sum_points(
        self, xs: list[Tensor], target: Tensor, t: Tensor, weights: Tensor, *rest: Tensor, mode: Any, layer: str | None
    ) -> list[Tensor]:
        """The weighted sum over some points, per input or of a layer; ``rest`` are their references and their noise."""
        features, count, rows = self.embedded(xs), ops.shape(t)[0], []
        wide = [ops.expand_dims(widen(x), 1) for x in features]
        bases = [ops.expand_dims(widen(x0), 0) for x0 in self.embedded(rest[: len(xs)])]
        for slot, feature, x, x0, noise in zip(self.graph_.inputs, features, wide, bases, rest[len(xs) :], strict=True):
            row = repeat_rows(feature, count)
            if floating(feature) and slot not in self.beside_:  # unlike token numbers that only a mask reads
                z = self.place(x, x0, _along_points(t, x), ops.cast(noise, x.dtype)[None])
                row = keep_mask(row, ops.cast(ops.reshape(z, (-1, *ops.shape(x)[2:])), feature.dtype))
            rows.append(row)
        held = self.on_graph(hold_masks(self.graph_, features, count))
        found = held.gradients(rows, ops.repeat(target, count), mode, layer)
        tokens = {node.outputs[0] for node in self.head_.nodes} if layer is None else ()
        sums = []
        for slot, g, x, x0 in zip(self.graph_.inputs, found, wide, bases, strict=layer is None):
            g = ops.reshape(g, (-1, count, *ops.shape(g)[1:]))
            sums.append(ops.sum(self.share(g, x, x0, slot in tokens) * _along_points(weights, g), axis=1))
        return per_input(self.head_, self.graph_.inputs, sums, xs) if layer is None else sums[:1]

    def gradients(self, rows: list[Tensor], target: Tensor, mode: Any, layer: str | None) -> list[Tensor]:
        """The derivatives at some points with respect to what is moved, or to a layer first."""
        return self.walk(rows, target, mode)["attributions"]


def _along_points(values: Tensor, x: Tensor) -> Tensor:
    """Values (points,) beside x (batch, points, ...)."""
    return ops.reshape(ops.cast(values, x.dtype), (1, -1, *[1] * (len(x.shape) - 2)))


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

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = self.augment_by_n
        return np.ones(count), np.full(count, 1 / count), np.zeros(count, int)

    def at_layer(self, layer: str) -> SmoothGrad:
        """A copy that looks at the gradient of a layer; the noise is that of the input."""
        other = copy.copy(self)
        other.layer_ = layer
        return other

    def gradients(self, rows: list[Tensor], target: Tensor, mode: Any, layer: str | None) -> list[Tensor]:
        found = self.walk(rows, target, mode, () if layer is None else (layer,))
        return found["attributions"] if layer is None else [found["layers"][layer]]

    def draws(self, part: slice, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        return self.normal(part, shapes)

    def place(self, x: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        if self.noise == "absolute":
            return x + self.noise_scale * noise
        axes = tuple(range(1, len(x.shape)))
        spread = ops.max(x, axis=axes, keepdims=True) - ops.min(x, axis=axes, keepdims=True)
        return x + self.noise_scale * spread * noise

    def share(self, g: Tensor, x: Tensor, x0: Tensor, token: bool) -> Tensor:
        """The gradient; of a token the derivative along its one-hot coordinate, which is vector times gradient."""
        g = POSTPROCESS[self.postprocess](g)
        return g * x if token else g


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

    Keras masks are those of x on the whole line. Where the model masks other steps of x0 the sum is not complete;
    ``extras`` has reference_score, f_c(x0) as the model gives it, and completeness_error, how far the sum is from
    f_c(x) - f_c(x0), as a share of it. DeepLIFT is complete there.

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

    given = "reference_inputs"

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return *_LINE_RULES[self.method](self.steps), np.zeros(self.steps, int)

    def references_like(self, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = zip(self.per_input(self.reference_inputs), xs, self.input_specs(), strict=True)
        return [arguments.one_sample("reference_inputs", v, x.shape[1:]).astype(s.dtype)[None] for v, x, s in found]
