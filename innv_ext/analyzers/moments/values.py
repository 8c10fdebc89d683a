"""Assumed density filtering: mean and covariance of a Gaussian pushed through the graph, one forward rule per node.

A rule is ``(node, values) -> one value per output``; values are ``Moments``, or plain tensors where nothing random
arrives. Sources: Minka 2001; Macdonald et al. 2019 (the engine of Rate-Distortion Explanations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras import ops

from innv_ext.analyzers.moments.gaussian import FLOOR
from innv_ext.backend.graph import Node

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
        return Moments(mean, var, through(self, function), self.full)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Moments:
        """After a function that moves or copies values, of all parts alike."""
        return self.image(function(self.mean), function(self.var), function)

    def times(self, number: float) -> Moments:
        return self.image(self.mean * number, self.var * number**2, lambda t: t * number)

    def scaled(self, node: Node, mean: Tensor, variance: Tensor, gain: Tensor | None) -> Moments:
        """After an elementwise function with marginal variance ``variance`` and E[f'(X)] = ``gain``."""
        return combined(node, mean, variance, {} if gain is None else weighted(self, gain), self.full)


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
    size = math.prod(shape)
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


def each(function: Callable[..., Tensor], *factors: Tensor, apart: bool = False) -> Tensor:
    """A batched function applied to every direction (batch, rank, *shape).

    ``apart`` keeps the samples of one direction together, for functions that join the first axis with others.
    """
    if apart:
        rank = ops.shape(factors[0])[1]
        y = function(*(ops.reshape(ops.swapaxes(f, 0, 1), (-1, *ops.shape(f)[2:])) for f in factors))
        return ops.swapaxes(ops.reshape(y, (rank, -1, *ops.shape(y)[1:])), 0, 1)
    y = function(*(ops.reshape(f, (-1, *ops.shape(f)[2:])) for f in factors))
    batch, rank = ops.shape(factors[0])[:2]
    return ops.reshape(y, (batch, rank, *ops.shape(y)[1:]))


def per_direction(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` (batch, ...) repeated for each of the directions (batch, rank, ...)."""
    return ops.repeat(ops.expand_dims(x, 1), ops.shape(factor)[1], axis=1)


def through(x: Moments, function: Callable[..., Tensor], *fixed: Tensor) -> dict[int, Tensor]:
    """The directions of ``x`` after a batched linear function, which takes tensors (batch, ...) besides."""
    return {k: each(function, f, *(per_direction(t, f) for t in fixed)) for k, f in x.factors.items()}


def weighted(x: Moments, weight: Tensor) -> dict[int, Tensor]:
    """The directions of ``x`` times ``weight`` (batch, ...)."""
    return {k: f * ops.expand_dims(weight, 1) for k, f in x.factors.items()}


def added(first: dict[int, Tensor], second: dict[int, Tensor]) -> dict[int, Tensor]:
    """The directions of a sum."""
    return {**first, **{k: first[k] + f if k in first else f for k, f in second.items()}}


def join(values: Sequence[Moments], function: Callable[..., Tensor], apart: bool = False) -> dict[int, Tensor]:
    """Directions of a linear function of several inputs; an input without a label's directions counts as zero."""
    found = {}
    for label in dict.fromkeys(k for v in values for k in v.factors):
        like = next(v.factors[label] for v in values if label in v.factors)
        parts = (v.factors.get(label, per_direction(ops.zeros_like(v.mean), like)) for v in values)
        found[label] = each(function, *parts, apart=apart)
    return found


def as_moments(value: Any) -> Moments:
    """``Moments`` of any value of the walk; a plain tensor has no variance."""
    return value if isinstance(value, Moments) else Moments(value, ops.zeros_like(value))
