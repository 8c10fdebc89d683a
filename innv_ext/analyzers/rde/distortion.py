"""The distortion D(s) = E_v (score(x) - score(s x + (1 - s) v))^2 with its gradient, the objective of all RDE."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.core.program import select
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.values import Moments
from innv_ext.analyzers.parts.partition import Partition
from innv_ext.analyzers.rde.reference import Reference
from innv_ext.analyzers.rde.tokens import Vectors
from innv_ext.backend import numerics, walk
from innv_ext.backend.graph import Graph

Tensor = Any
CACHED_DRAWS = 2**26  # bytes of Monte Carlo draws that are kept between evaluations


@dataclass(frozen=True, eq=False)
class Problem:
    """What the compiled functions need besides tensors; made once per analyzer, so that they are compiled once.

    ``moving`` are the positions of the graph's inputs that are mixed with noise, which is what ``features`` is of; the
    others (masks, numbers of tokens) stay as they are.
    """

    graph: Graph
    rules: tuple[Any, ...]
    features: Partition | Vectors
    mode: Any
    full: bool
    moving: tuple[int, ...]

    def moved(self, xs: Sequence[Any]) -> list[Any]:
        """Of one value per input those of the moving ones."""
        return [xs[i] for i in self.moving]

    def fed(self, xs: Sequence[Any], moved: Sequence[Any]) -> list[Any]:
        """One value per input: the others' own, and new ones for the moving ones."""
        new = dict(zip(self.moving, moved, strict=True))
        return [new.get(i, x) for i, x in enumerate(xs)]


@dataclass(eq=False)
class Distortion:
    """D and its gradient with respect to s, for some samples of a batch at a time.

    Attributes
    ----------
    compiled : ``GraphAnalyzer.compiled``
    context : graph, moment rules, features, and mode: "index", "all" or a target function
    reference : V
    xs, index, score : the inputs of the batch (b, ...), the explained neurons and their scores, both (b,)
    size : most forward samples at once
    samples : Monte Carlo draws per point; 0: density filtering
    seed : of the draws
    """

    compiled: Callable[..., numerics.Compiled]
    context: Problem
    reference: Reference
    xs: list[np.ndarray]
    index: np.ndarray
    score: np.ndarray
    size: int
    samples: int = 0
    seed: int = 0
    _drawn: dict[Any, list[np.ndarray]] = field(default_factory=dict)
    _failed: tuple[np.ndarray, int, int] | None = None  # the first point, sample and stream where D was not finite

    def __call__(self, s: np.ndarray, rows: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (q,) and gradients (q, n) at points s (q, n) of the samples ``rows`` (q,).

        ``streams`` (q,) number the Monte Carlo draws: equal numbers share them, so that one problem is always
        compared on the same draws.
        """
        values, gradients = np.zeros(len(s)), np.zeros_like(s)
        draws = max(self.samples, 1)
        step = max(1, self.size // draws)
        for part in (slice(first, first + step) for first in range(0, len(s), step)):
            xs = [x[rows[part]] for x in self.xs]
            for replaced in self._replacements(xs, rows[part], streams[part]):
                value, gradient = self._run(rows[part], s[part], xs, replaced)
                values[part] += np.asarray(value)
                gradients[part] += np.asarray(gradient)
        values, gradients = values / draws, gradients / draws
        finite = np.isfinite(values) & np.isfinite(gradients).all(axis=1)
        if self._failed is None and not finite.all():
            i = int(np.argmin(finite))
            self._failed = s[i].copy(), int(rows[i]), int(streams[i])
        return values, gradients

    def _replacements(self, xs: list[np.ndarray], rows: np.ndarray, streams: np.ndarray) -> Iterator[list[np.ndarray]]:
        """What one call of the compiled function takes of V: all its moments, or a block of the draws."""
        if not self.samples:
            means, variances, factors = self.reference.moments(self.context.moved(xs))
            yield [*means, *variances, *factors]
            return
        block = max(1, min(self.samples, self.size // len(rows)))
        for first in range(0, self.samples, block):
            yield self._draws(xs, rows, streams, range(first, min(first + block, self.samples)))

    def _draws(self, xs: list[np.ndarray], rows: np.ndarray, streams: np.ndarray, block: range) -> list[np.ndarray]:
        """(q, draws, ...) per input; kept where they are small, since a solver asks for them again and again."""
        parts = []
        for i, (row, stream) in enumerate(zip(rows, streams, strict=True)):
            own = int(row) if self.reference.parts[0].of_sample else -1
            key = (own, int(stream), block.start, block.stop)
            drawn = self._drawn.get(key)
            if drawn is None:
                keys = [(self.seed, int(stream), j) for j in block]
                drawn = self.reference.draw([x[i : i + 1] for x in self.context.moved(xs)], keys)
                if (len(self._drawn) + 1) * sum(a.nbytes for a in drawn) <= CACHED_DRAWS:
                    self._drawn[key] = drawn
            parts.append(drawn)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _run(self, rows: np.ndarray, s: np.ndarray, xs: list[np.ndarray], replaced: list[np.ndarray]) -> Any:
        """Call the compiled function, for any number of points and draws."""
        graph, dtype = self.context.graph, s.dtype.name
        shapes = [graph.specs[slot].shape[1:] for slot in self.context.moved(graph.inputs)]
        extra = [((None, s.shape[1]), dtype), ((None,), dtype)]
        for array, shape in zip(replaced, itertools.cycle(shapes), strict=False):
            extra.append(((None,) * (array.ndim - len(shape)) + shape, array.dtype.name))
        options = {"function": sampled if self.samples else filtered, "context": self.context}
        run = self.compiled(with_gradient, options, extra)
        return run(*xs, self.index[rows], s, self.score[rows].astype(dtype), *replaced)

    def culprit(self) -> str:
        """The first node with a value that is not finite, where D was not finite first; "" if there is none."""
        if self._failed is None:
            return ""
        s, row, stream = self._failed
        xs, inputs = [x[row : row + 1] for x in self.xs], mixed_inputs if self.samples else random_inputs
        replacements = self._replacements(xs, np.array([row]), np.array([stream]))
        names = (self._broken(inputs(xs, s[None], replaced, self.context)) for replaced in replacements)
        return next(filter(None, names), "")

    def _broken(self, inputs: Sequence[Any]) -> str:
        slots = dict(zip(self.context.graph.inputs, inputs, strict=True))
        for node in self.context.graph.nodes:
            ys = moments.outputs(self.context.rules, node, tuple(slots[slot] for slot in node.inputs))
            slots.update(zip(node.outputs, ys, strict=True))
            parts = [t for y in ys for t in ((y.mean, y.variance()) if isinstance(y, Moments) else (y,))]
            if not all(np.isfinite(ops.convert_to_numpy(ops.cast(t, "float64"))).all() for t in parts):
                return node.name
        return ""


def random_inputs(xs: Sequence[Tensor], s: Tensor, reference: Sequence[Tensor], context: Problem) -> list[Any]:
    """Moments of s x + (1 - s) v from the means, variances and directions of v; other inputs as they are."""
    count, moved = len(context.moving), context.moved(xs)
    means, variances, factors = reference[:count], reference[count : 2 * count], reference[2 * count :]
    inputs = []
    for i, (kept, x) in enumerate(zip(context.features.expand(s), moved, strict=True)):
        free = 1 - kept
        directions = ops.expand_dims(free, 1) * factors[i] if factors else None
        mean, var = kept * x + free * means[i], ops.square(free) * variances[i]
        inputs.append(Moments.of_input(mean, var, directions, context.full))
    return context.fed(xs, inputs)


def mixed_inputs(xs: Sequence[Tensor], s: Tensor, draws: Sequence[Tensor], context: Problem) -> list[Tensor]:
    """s x + (1 - s) v for draws v (batch, draws, ...), all in one batch."""
    inputs, count = [], ops.shape(draws[0])[1]
    for kept, x, v in zip(context.features.expand(s), context.moved(xs), draws, strict=True):
        mixed = ops.expand_dims(kept * x, 1) + ops.expand_dims(1 - kept, 1) * v
        inputs.append(ops.reshape(mixed, (-1, *ops.shape(x)[1:])))
    others = [x if i in context.moving else ops.repeat(x, count, axis=0) for i, x in enumerate(xs)]
    return context.fed(others, inputs)


def filtered(
    xs: list[Tensor], index: Tensor, s: Tensor, score: Tensor, reference: Sequence[Tensor], context: Problem
) -> Tensor:
    """D = (score - mean)^2 + variance by density filtering."""
    y = moments.propagate(context.graph, context.rules, random_inputs(xs, s, reference, context))
    own = functools.partial(ops.cast, dtype=score.dtype)  # the last layers may compute in another precision
    weights, mean, _ = select(own(y.mean), index, context.mode)
    axes = tuple(range(1, len(y.mean.shape)))
    variance = ops.sum(ops.square(weights) * own(y.var), axis=axes)
    for factor in y.factors.values():
        along = ops.sum(ops.expand_dims(weights, 1) * own(factor), axis=tuple(a + 1 for a in axes))
        variance = variance + ops.sum(ops.square(along), axis=1)
    return ops.square(score - mean) + variance


def sampled(
    xs: list[Tensor], index: Tensor, s: Tensor, score: Tensor, draws: Sequence[Tensor], context: Problem
) -> Tensor:
    """The sum of (score - score(s x + (1 - s) v))^2 over draws v (batch, draws, ...)."""
    count = ops.shape(draws[0])[1]
    y = ops.cast(walk.evaluate(context.graph, mixed_inputs(xs, s, draws, context))[0], score.dtype)
    found = select(y, ops.repeat(index, count, axis=0), context.mode)[1]
    return ops.sum(ops.square(ops.expand_dims(score, 1) - ops.reshape(found, (-1, count))), axis=1)


def with_gradient(
    xs: list[Tensor], index: Tensor, s: Tensor, score: Tensor, *replaced: Tensor, function: Any, context: Problem
) -> tuple[Tensor, Tensor]:
    """D by one of the two, and dD/ds."""
    return numerics.with_slope(lambda s: function(xs, index, s, score, replaced, context), s)
