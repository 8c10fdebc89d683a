"""First-order (delta) rules: softmax and normalisation by the statistics of the sample itself.

The mean is f(mean); the covariance goes through the Jacobian J of f at the mean: J squared, entry by entry, on the
independent variance, J on each direction. Both have closed forms, so that J is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from innv_ext.analyzers.moments.values import Moments, each, per_direction
from innv_ext.backend import traits
from innv_ext.backend.graph import Graph, Node

Tensor = Any
Values = tuple[Any, ...]


def softmax(node: Node, values: Values) -> Sequence[Moments]:
    """J_ij = p_i (delta_ij - p_j)."""
    x = values[0]
    return [softmax_moments(x, node.call(x.mean), traits.axes(node, len(x.mean.shape)))]


def softmax_moments(x: Moments, p: Tensor, axis: tuple[int, ...]) -> Moments:
    """The moments of softmax(x), whose value at the mean is ``p``."""

    def squared(v: Tensor) -> Tensor:
        return p * p * ((1 - 2 * p) * v + ops.sum(p * p * v, axis=axis, keepdims=True))

    def through(t: Tensor, p: Tensor) -> Tensor:
        return p * (t - ops.sum(p * t, axis=axis, keepdims=True))

    return _delta(x, p, squared, through, (p,))


def normalise(node: Node, values: Values) -> Sequence[Moments]:
    """y = (x - mean) / scale * gamma + beta with statistics over some axes of x itself."""
    x = values[0]
    y = node.call(x.mean)
    view, unview, axes = traits.groups(node, x.mean)
    centred, epsilon, mean_square, gamma = traits.statistics(node)
    flat = view(x.mean)
    mu = ops.mean(flat, axis=axes, keepdims=True) if centred else 0.0
    spread = ops.mean(ops.square(flat - mu), axis=axes, keepdims=True)
    count = ops.cast(ops.size(flat), flat.dtype) / ops.cast(ops.size(spread), flat.dtype)
    inverse = ops.rsqrt((spread if mean_square else spread * count) + epsilon)
    hat = (flat - mu) * inverse
    # d hat_i / d x_j = inverse (delta_ij - centred / n - hat_i hat_j / m), m = n for a mean square, 1 for a sum
    n, m = count, count if mean_square else ops.ones_like(count)
    one = 1.0 if centred else 0.0
    gamma = ops.ones_like(y[:1]) if gamma is None else traits.broadcast(gamma, traits.axes(node, len(y.shape)), y)

    def squared(v: Tensor) -> Tensor:
        v = view(v)
        s0, s1, s2 = (ops.sum(v * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat, hat * hat))
        diagonal = v * (1 - 2 * one / n - 2 * hat * hat / m)
        rest = one * s0 / (n * n) + 2 * one * hat * s1 / (n * m) + hat * hat * s2 / (m * m)
        return unview(inverse * inverse * (diagonal + rest)) * ops.square(gamma)

    def through(t: Tensor, hat: Tensor, inverse: Tensor) -> Tensor:
        t = view(t)
        s0, s1 = (ops.sum(t * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat))
        return unview(inverse * (t - one * s0 / n - hat * s1 / m)) * gamma

    return [_delta(x, y, squared, through, (hat, inverse))]


def can_normalise(node: Node, graph: Graph) -> bool:
    """The normalising layers of Keras whose statistics are known."""
    return traits.statistics(node) is not None


def _delta(
    x: Moments, y: Tensor, squared: Callable[..., Tensor], through: Callable[..., Tensor], saved: tuple[Tensor, ...]
) -> Moments:
    factors = {
        k: each(lambda t, f=f: through(t, *(per_direction(s, f) for s in saved)), f) for k, f in x.factors.items()
    }
    return Moments(y, ops.relu(squared(x.var)), factors, x.full)
