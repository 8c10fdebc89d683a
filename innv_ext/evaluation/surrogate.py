"""A smooth stand-in for a map, and the derivative of a score of it: in ReLU networks that of the map itself is 0."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
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
from innv_ext.backend.twice import check_second_derivatives, twice_differentiable
from innv_ext.errors import UnsupportedModelError

Tensor = Any
_BESIDE = 1e-3  # how far from the kink slopes are read


class Softened:
    """A function with a kink at 0, rounded: relu becomes softplus(beta x) / beta, other slopes accordingly."""

    def __init__(self, call: Callable[..., Tensor], beta: float):
        self.call, self.beta = call, beta

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
    """The graph with softplus(beta x) / beta in place of ReLU, in all its forms; caps stay as they are.

    Parameters
    ----------
    beta : the larger, the closer to ReLU
    sharp : indices of nodes to leave alone

    Notes
    -----
    Dombrowski et al. (2019), "Explanations can be manipulated and geometry is to blame".
    """

    def rounded(node: Node) -> Node:
        kink = facts.is_relu_like(node) and len(node.inputs) == 1 and node.index not in sharp
        return replace(node, call=Softened(node.call, beta)) if kink else node

    return graph.rebuilt([rounded(node) for node in graph.nodes])


def surrogate_of(analyzer: Analyzer, x: np.ndarray, beta: float | None) -> Analyzer:
    """The analyzer on a graph that is twice differentiable, and smooth where ``beta`` is given.

    A ReLU that relevance passes unchanged is left alone: such a map has a derivative that says something anyway, while
    what softplus lets through at and below 0 would meet rules that divide by it.

    Raises
    ------
    UnsupportedModelError
        if TensorFlow has no second derivative of a node, or a wrong one
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
    x : samples (batch, ...) of the shapes and the dtype to come
    found : the explanation of them
    mode : how the score to explain is selected
    objective : (map (batch, ...), goal (batch, ...)) -> (batch,)
    size : most samples times points in one pass
    """

    def __init__(
        self,
        analyzer: Analyzer,
        x: np.ndarray,
        found: Any,
        mode: Any,
        objective: Callable[[Tensor, Tensor], Tensor],
        size: int,
    ):
        self.map, self.objective, self.size = analyzer.tensor_map((x.shape[1:],), mode), objective, size
        held = self.map.constants(found)
        self._held, self._points = len(held), len(self.map.points)
        self._batches = [_spec(a) for a in (x, np.zeros(1, "int32"), *held)]
        self._functions: dict[str, Compiled] = {}

    def __call__(self, x: np.ndarray, target: np.ndarray, found: Any, goal: np.ndarray) -> np.ndarray:
        """(batch, ...): the gradient at x of the objective of the map."""
        given = [x, target, *self.map.constants(found)]
        if not self._points:
            return np.asarray(self._run(self._at_once, given, [], [goal]))
        totals: list[np.ndarray] = []
        for points in self._chunks(len(x)):
            parts = [np.asarray(t) for t in self._run(self._sum_points, given, points, [])]
            totals = [t + p for t, p in zip(totals, parts, strict=True)] if totals else parts
        gradient, *seeds = (np.asarray(t) for t in self._run(self._differentiate, given, [], [*totals, goal]))
        for points in self._chunks(len(x)):
            gradient = gradient + np.asarray(self._run(self._pull_back, given, points, seeds))
        return gradient

    def _run(self, function: Callable[..., Any], given: list[Any], points: list[Any], more: list[Any]) -> Any:
        name = function.__name__
        if name not in self._functions:
            specs = [*self._batches, *(_spec(a) for a in (*points, *more))]
            self._functions[name] = Compiled(function, specs, False)
        return self._functions[name](*given, *points, *more)

    def _chunks(self, count: int) -> Sequence[list[np.ndarray]]:
        step, last = max(1, self.size // count), len(self.map.points[0])
        return [[p[first : first + step] for p in self.map.points] for first in range(0, last, step)]

    def _split(self, given: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """x, target, constants, and what follows them."""
        return given[0], given[1], list(given[2 : 2 + self._held]), list(given[2 + self._held :])

    def _at_once(self, *given: Tensor) -> Tensor:
        """For maps without points."""
        x, target, held, (goal,) = self._split(given)

        def score(x: Tensor) -> Tensor:
            found = self.map.end([x], target, held, self.map.part([x], target, held, []))
            return self.objective(widen(found[0]), goal)

        (value,), pullback = numerics.vjp(score, x)
        return pullback(ops.ones_like(value))[0]

    def _sum_points(self, *given: Tensor) -> list[Tensor]:
        x, target, held, points = self._split(given)
        return self.map.part([x], target, held, points)

    def _differentiate(self, *given: Tensor) -> list[Tensor]:
        """The derivative with respect to x, with the sums held, and to the sums."""
        x, target, held, (*totals, goal) = self._split(given)
        (score,), pullback = numerics.vjp(
            lambda x, *sums: self.objective(widen(self.map.end([x], target, held, list(sums))[0]), goal), x, *totals
        )
        return list(pullback(ops.ones_like(score)))

    def _pull_back(self, *given: Tensor) -> Tensor:
        x, target, held, rest = self._split(given)
        points, seeds = rest[: self._points], rest[self._points :]
        return numerics.vjp(lambda x: self.map.part([x], target, held, points), x)[1](*seeds)[0]


def _spec(array: np.ndarray) -> tuple[tuple[int | None, ...], str]:
    return (None, *array.shape[1:]), array.dtype.name
