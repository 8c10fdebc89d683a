"""Assumed density filtering: mean and covariance of a Gaussian pushed through the graph, one forward rule per node.

A rule is ``(node, values) -> one value per output``; values are ``Moments``, or plain tensors where nothing random
arrives. Sources: Minka 2001; Macdonald et al. 2019 (the engine of Rate-Distortion Explanations).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras import ops, tree

from innv_ext.analyzers.moments.gaussian import FLOOR
from innv_ext.backend import numerics, walk
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.rules import Rules, anything

Tensor = Any
_INPUT = -1  # the label of the directions of the input


@dataclass(frozen=True, eq=False)
class Moments:
    """A Gaussian tensor: x = mean + sum of directions times independent N(0, 1) + independent noise of variance var.

    Attributes
    ----------
    mean : (batch, *shape)
    var : (batch, *shape), the variance that is independent between components; all of it in "diagonal" mode
    factors : {label: (batch, rank, *shape)}, directions in which components vary together; equal labels are the same
        random numbers
    full : what a non-linear node adds to the independent part becomes new directions, so that no covariance is lost
        (their number grows with every such node: for small networks)
    """

    mean: Tensor
    var: Tensor
    factors: dict[int, Tensor] = field(default_factory=dict)
    full: bool = False

    @classmethod
    def of_input(cls, mean: Tensor, var: Tensor, factor: Tensor | None = None, full: bool = False) -> Moments:
        """The moments of an input with directions (batch, rank, *shape)."""
        return cls(mean, var, {} if factor is None else {_INPUT: factor}, full)

    def variance(self) -> Tensor:
        """The variance of each component, (batch, *shape)."""
        return self.var + squares(self.factors) if self.factors else self.var

    def image(self, mean: Tensor, var: Tensor, function: Callable[[Tensor], Tensor]) -> Moments:
        """After a linear map: ``function`` is applied to each direction, the other two are given."""
        return Moments(mean, var, {k: each(function, f) for k, f in self.factors.items()}, self.full)

    def scaled(self, node: Node, mean: Tensor, variance: Tensor, gain: Tensor | None) -> Moments:
        """After an elementwise function with marginal variance ``variance`` and E[f'(X)] = ``gain``."""
        factors = {} if gain is None else {k: f * ops.expand_dims(gain, 1) for k, f in self.factors.items()}
        return combined(node, mean, variance, factors, self.full)


def combined(node: Node, mean: Tensor, variance: Tensor, factors: dict[int, Tensor], full: bool) -> Moments:
    """Moments from marginal variances and directions; what the directions do not carry is independent.

    For an elementwise function with directions multiplied by E[f'(X)] this rest is never negative, since
    Var f(X) >= E[f'(X)]^2 Var X.
    """
    if not factors:
        return Moments(mean, variance, {}, full)
    rest = ops.relu(variance - squares(factors))
    if not full:
        return Moments(mean, rest, factors, full)
    shape = ops.shape(rest)[1:]
    size = 1
    for dim in shape:
        size = size * dim
    spread = ops.reshape(ops.eye(size, dtype=rest.dtype), (1, size, *shape))
    own, label = ops.expand_dims(ops.sqrt(rest + FLOOR), 1) * spread, node.outputs[0]
    if label in factors:  # of an earlier product in the same node
        own = ops.concatenate([factors[label], own], axis=1)
    return Moments(mean, ops.zeros_like(rest), {**factors, label: own}, full)


def squares(factors: dict[int, Tensor]) -> Tensor:
    """The variance that directions carry."""
    return sum(ops.sum(ops.square(f), axis=1) for f in factors.values())


def covariance(a: Moments, b: Moments) -> Tensor | float:
    """The covariance of two tensors of broadcastable shapes, component by component; 0.0 where none is known."""
    common = [k for k in a.factors if k in b.factors]
    return sum((ops.sum(a.factors[k] * b.factors[k], axis=1) for k in common), 0.0)


def each(function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
    """A batched function applied to every direction (batch, rank, *shape)."""
    y = function(*(ops.reshape(f, (-1, *ops.shape(f)[2:])) for f in factors))
    batch, rank = ops.shape(factors[0])[:2]
    return ops.reshape(y, (batch, rank, *ops.shape(y)[1:]))


def per_direction(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` (batch, ...) repeated for each direction, in the order of ``each``."""
    return ops.repeat(x, ops.shape(factor)[1], axis=0)


def join(values: Sequence[Any], function: Callable[..., Tensor]) -> dict[int, Tensor]:
    """Directions of a linear function of several inputs; an input without a label's directions counts as zero."""
    found = {}
    for label in {k: None for v in values if is_random(v) for k in v.factors}:
        like = next(v.factors[label] for v in values if is_random(v) and label in v.factors)
        parts = [
            v.factors[label]
            if is_random(v) and label in v.factors
            else ops.repeat(ops.expand_dims(ops.zeros_like(mean_of(v)), 1), ops.shape(like)[1], axis=1)
            for v in values
        ]
        found[label] = each(function, *parts)
    return found


def is_random(value: Any) -> bool:
    """Whether a value of the walk carries a variance."""
    return isinstance(value, Moments)


def mean_of(value: Any) -> Tensor:
    """The mean of ``Moments``, or the tensor itself."""
    return value.mean if isinstance(value, Moments) else value


def var_of(value: Any) -> Tensor:
    """The independent variance of ``Moments``; zero for a plain tensor."""
    return value.var if isinstance(value, Moments) else ops.zeros_like(value)


def is_full(values: Sequence[Any]) -> bool:
    """Whether the walk keeps all covariances."""
    return any(v.full for v in values if isinstance(v, Moments))


@dataclass(frozen=True)
class Guarded:
    """A rule, but where nothing random arrives the node is simply evaluated."""

    rule: Any

    def __call__(self, node: Node, values: tuple[Any, ...]) -> Sequence[Any]:
        if any(is_random(v) for v in values):
            return self.rule(node, values)
        return evaluated(node, values)


def bind(graph: Graph, table: Rules) -> tuple[Any, ...]:
    """One moment rule per node.

    Raises
    ------
    NoRuleError
        names the nodes without a rule, and the ways out
    """
    hint = (
        "Ways out: distortion='monte_carlo' needs no moment rules; or teach the node with moment_rules="
        "Rules((named('layer'), rule)), rule(node, values) -> [Moments(mean, var)]."
    )
    reached = {slot for slot in graph.inputs if numerics.is_float(graph.specs[slot].dtype)}
    for node in graph.nodes:
        if reached.intersection(node.inputs):
            reached.update(node.outputs)
    unreached = Rules((lambda node, graph: not reached.intersection(node.inputs), evaluated, "not random"))
    return tuple(Guarded(rule) for rule in table.before(unreached).bind(graph, hint, "moment rule"))


def evaluated(node: Node, values: tuple[Any, ...]) -> Sequence[Any]:
    """A node that nothing random reaches."""
    return tree.flatten(node.call(*values))


def propagate(graph: Graph, rules: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """The moments of the graph's first output."""
    return walk.forward(graph, inputs, rules).slots[graph.outputs[0]]


def describe(graph: Graph, table: Rules) -> list[str]:
    """One line a node with its moment rule; approximate ones say so."""
    return table.before(Rules((anything, None, "no moment rule"))).describe(graph)
