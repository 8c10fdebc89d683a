"""A smooth stand-in for a map, and the derivative of a score of it: in ReLU networks that of the map itself is 0."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.core.program import GraphAnalyzer
from innv_ext.analyzers.core.reverse import ReverseAnalyzer
from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.masks import keep_mask
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.rewrites.twice import check_second_derivatives, twice_differentiable
from innv_ext.errors import UnsupportedModelError

Tensor = Any
Objective = Callable[[Tensor, Tensor], Tensor]
_BESIDE = 1e-3  # how far from the kink slopes are read


@dataclass(frozen=True, eq=False)
class Softened:
    """A function with a kink at 0, rounded: relu becomes softplus(beta x) / beta, other slopes accordingly."""

    call: Callable[..., Tensor]
    beta: float

    def __call__(self, x: Tensor) -> Tensor:
        y, wide = self.call(x), widen(x)
        right, left = (self._slope(x, side) for side in (_BESIDE, -_BESIDE))
        corner = ops.softplus(self.beta * wide) / self.beta - ops.relu(wide)
        jump = ops.cast((right - left) * corner, widen(y).dtype)
        return keep_mask(x, ops.cast(widen(y) + jump, y.dtype))

    def _slope(self, x: Tensor, at: float) -> Tensor:
        """The derivative at one point, per value of a sample (PReLU has a slope for each)."""
        (y,), pullback = numerics.vjp(self.call, ops.full_like(x[:1], at))
        return pullback(ops.ones_like(y))[0]


def soften(graph: Graph, beta: float, sharp: Collection[int] = ()) -> Graph:
    """The graph with softplus(beta x) / beta in place of ReLU, in all its forms; caps and nodes ``sharp`` stay.

    Dombrowski et al. (2019), "Explanations can be manipulated and geometry is to blame".
    """

    def rounded(node: Node) -> Node:
        kink = facts.is_relu_like(node) and len(node.inputs) == 1 and node.index not in sharp
        return replace(node, call=Softened(node.call, beta)) if kink else node

    return graph.rebuilt([rounded(node) for node in graph.nodes])


def surrogate_of(analyzer: Analyzer, x: np.ndarray, beta: float | None) -> Analyzer:
    """The analyzer on a graph that is twice differentiable, and smooth where ``beta`` is given.

    A ReLU that relevance passes unchanged is left alone: such a map has a derivative that says something anyway, while
    what softplus lets through at and below 0 would meet rules that divide by it. Nodes without a right second
    derivative are refused.
    """
    if not isinstance(analyzer, GraphAnalyzer):
        return analyzer  # whose tensor_map says that there is none
    graph = twice_differentiable(analyzer.graph_)
    try:
        check_second_derivatives(graph, [x[:1]])
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"The attack differentiates the map itself, which takes second derivatives of every node, or, of 'caso', "
            f"third ones; method='random' needs none. {error}"
        ) from error
    if beta is None:
        return analyzer.on_graph(graph)
    rules = analyzer.rules_ if isinstance(analyzer, ReverseAnalyzer) else ()
    return analyzer.on_graph(soften(graph, beta, {i for i, r in enumerate(rules) if r is node_rules.pass_through}))


class MapGradient:
    """The gradient of a score of the map with respect to x, compiled; at most ``size`` forward samples at once.

    Parameters
    ----------
    analyzer : with a ``tensor_map``
    shape : of one sample
    mode : how the score to explain is selected
    objective : (map (batch, ...), goal (batch, ...)) -> (batch,)
    size : most samples times points in one pass
    """

    def __init__(self, analyzer: Analyzer, shape: tuple[int, ...], mode: Any, objective: Objective, size: int):
        self.map, self.objective, self.size = analyzer.tensor_map((shape,), mode), objective, size
        self._functions: dict[str, Compiled] = {}

    def __call__(self, x: np.ndarray, target: np.ndarray, found: Any, goal: np.ndarray) -> np.ndarray:
        """(batch, ...): the gradient at x of the objective of the map."""
        given = [x, np.asarray(target, "int64"), *self.map.constants(found)]
        if not self.map.points:
            return self._run(self._at_once, given, [goal])[0]
        totals: list[np.ndarray] = []
        for points in self._chunks(len(x)):
            parts = self._run(self._sum_points, given, points)
            totals = [t + p for t, p in zip(totals, parts, strict=True)] if totals else parts
        gradient, *seeds = self._run(self._differentiate, given, [*totals, goal])
        for points in self._chunks(len(x)):
            gradient = gradient + self._run(self._pull_back, given, [*points, *seeds])[0]
        return gradient

    def _run(self, function: Callable[..., list[Tensor]], given: list[Any], more: list[Any]) -> list[np.ndarray]:
        """``function`` of x, target, constants of the map, and ``more``."""
        name, held = function.__name__, len(given) - 2
        if name not in self._functions:

            def run(x: Tensor, target: Tensor, *rest: Tensor) -> list[Tensor]:
                return function(x, target, list(rest[:held]), list(rest[held:]))

            specs = [((None, *a.shape[1:]), a.dtype.name) for a in (*given, *more)]
            self._functions[name] = Compiled(run, specs, False)
        return [np.asarray(t) for t in self._functions[name](*given, *more)]

    def _chunks(self, count: int) -> Sequence[list[np.ndarray]]:
        step, last = max(1, self.size // count), len(self.map.points[0])
        return [[p[first : first + step] for p in self.map.points] for first in range(0, last, step)]

    def _at_once(self, x: Tensor, target: Tensor, held: list[Tensor], goal: list[Tensor]) -> list[Tensor]:
        """For maps without points."""

        def score(x: Tensor) -> Tensor:
            found = self.map.end([x], target, held, self.map.part([x], target, held, []))
            return self.objective(widen(found[0]), *goal)

        (value,), pullback = numerics.vjp(score, x)
        return list(pullback(ops.ones_like(value)))

    def _sum_points(self, x: Tensor, target: Tensor, held: list[Tensor], points: list[Tensor]) -> list[Tensor]:
        return self.map.part([x], target, held, points)

    def _differentiate(self, x: Tensor, target: Tensor, held: list[Tensor], more: list[Tensor]) -> list[Tensor]:
        """The derivative with respect to x, with the sums held, and to the sums; behind these is the goal."""
        *totals, goal = more

        def score(x: Tensor, *sums: Tensor) -> Tensor:
            return self.objective(widen(self.map.end([x], target, held, list(sums))[0]), goal)

        (value,), pullback = numerics.vjp(score, x, *totals)
        return list(pullback(ops.ones_like(value)))

    def _pull_back(self, x: Tensor, target: Tensor, held: list[Tensor], more: list[Tensor]) -> list[Tensor]:
        """From the derivatives with respect to sums over points to x."""
        points, seeds = more[: len(self.map.points)], more[len(self.map.points) :]
        return list(numerics.vjp(lambda x: self.map.part([x], target, held, points), x)[1](*seeds))
