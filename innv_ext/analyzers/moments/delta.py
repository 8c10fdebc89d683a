"""First-order (delta) moment rules: normalisation, quotients, logarithms, roots; and the variance of a sample, exact.

The mean is f(mean); the covariance goes through the Jacobian J of f at the mean: J squared, entry by entry, on the
independent variance, J on each direction. All have closed forms, so that J is never built. What they neglect is of
the order of the second derivative times the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from innv_ext.analyzers.moments.values import Moments, added, as_moments, combined, each, squares, through, weighted
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node

Tensor = Any
Values = tuple[Any, ...]


def normalise(node: Node, values: Values) -> Sequence[Moments]:
    """y = (x - mean) / scale * gamma + beta with statistics over some axes of x itself."""
    x = values[0]
    y = node.call(x.mean)
    view, unview, axes = traits.groups(node, x.mean)
    centred, epsilon, mean_square, gamma = _statistics(node)
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
    gamma = ops.cast(gamma, x.mean.dtype)

    v = view(x.var)
    s0, s1, s2 = (ops.sum(v * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat, hat * hat))
    diagonal = v * (1 - 2 * one / n - 2 * hat * hat / m)
    rest = one * s0 / (n * n) + 2 * one * hat * s1 / (n * m) + hat * hat * s2 / (m * m)
    var = unview(inverse * inverse * (diagonal + rest)) * ops.square(gamma)

    def linear(t: Tensor, hat: Tensor, inverse: Tensor) -> Tensor:
        t = view(t)
        s0, s1 = (ops.sum(t * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat))
        return unview(inverse * (t - one * s0 / n - hat * s1 / m)) * gamma

    return [Moments(y, ops.relu(var), through(x, linear, hat, inverse), x.full)]


def can_normalise(node: Node, graph: Graph) -> bool:
    """The normalising layers of Keras whose statistics are known, and the operations, if their scale is fixed."""
    return len(node.inputs) == 1 and _statistics(node) is not None


def _statistics(node: Node) -> tuple[bool, float, bool, Any] | None:
    key, op = traits.activation_key(node), node.op
    if traits.centres(node):
        epsilon, gamma, _ = traits.scale_and_shift(node)
        return True, epsilon, True, gamma
    if key == "rms_normalization":
        given = {**dict(zip(("x", "scale"), node.call.args, strict=False)), **node.call.kwargs}
        return False, keras.config.epsilon() if op.epsilon is None else float(op.epsilon), True, given.get("scale")
    return traits.statistics(node)


def elementwise(node: Node, values: Values) -> Sequence[Moments]:
    """f'(m)^2 v, where the moments of f(X) do not exist because f has a pole: roots, logarithms, powers."""
    x = values[0]

    def slope(m: Tensor) -> Tensor:
        (y,), pullback = numerics.vjp(node.call, m)
        return pullback(ops.ones_like(y))[0]

    gain = slope(x.mean)
    return [Moments(node.call(x.mean), ops.square(gain) * x.var, weighted(x, gain), x.full)]


def quotient(node: Node, values: Values) -> Sequence[Moments]:
    """a / b: exact where b is fixed, else d (a / b) = da / b - a db / b^2."""
    a, b = values
    if not isinstance(b, Moments):
        scale = ops.cast(node.call(ops.ones_like(b), b), a.mean.dtype)
        return [Moments(node.call(a.mean, b), a.var * ops.square(scale), weighted(a, scale), a.full)]
    a = as_moments(a)
    y, by_a = node.call(a.mean, b.mean), node.call(ops.ones_like(b.mean), b.mean)
    by_b = -y * by_a
    var = a.var * ops.square(by_a) + b.var * ops.square(by_b)
    return [Moments(y, var, added(weighted(a, by_a), weighted(b, by_b)), a.full or b.full)]


def sample_variance(node: Node, values: Values) -> Sequence[Moments]:
    """mean((x - mean x)^2) over n values, exact for independent Gaussians.

    It is x' A x with A = (I - 1 1' / n) / n: the mean is tr(A C) + m' A m, the variance 2 tr(A C A C) + 4 m' A C A m;
    the first of the latter is taken as if there were no covariances.
    """
    x, axes, keep = values[0], traits.axes(node, len(values[0].mean.shape)), node.op.keepdims

    def over(t: Tensor) -> Tensor:
        return ops.mean(t, axis=axes, keepdims=keep)

    def centred(t: Tensor) -> Tensor:
        return t - ops.mean(t, axis=axes, keepdims=True)

    c, v = centred(x.mean), x.variance()
    n = ops.cast(ops.size(c), c.dtype) / ops.cast(ops.size(over(c)), c.dtype)
    mean = node.call(x.mean) + (1 - 1 / n) * over(x.var)
    for f in x.factors.values():
        mean = mean + ops.sum(each(lambda t: over(ops.square(centred(t))), f), axis=1)
    own = 2 / n * ((1 - 2 / n) * over(ops.square(v)) + ops.square(over(v)) / n) + 4 / n * over(ops.square(c) * x.var)
    factors = through(x, lambda t, c: 2 * over(c * t), c)
    return [combined(node, mean, own + squares(factors), factors, x.full)]


def log_sum_exp(node: Node, values: Values) -> Sequence[Moments]:
    """J_j = p_j, the softmax."""
    x = values[0]
    p = _softmax(node, x.mean)
    axes, keep = traits.axes(node, len(x.mean.shape)), node.op.keepdims

    def linear(t: Tensor, p: Tensor) -> Tensor:
        return ops.sum(p * t, axis=axes, keepdims=keep)

    return [Moments(node.call(x.mean), linear(x.var, p * p), through(x, linear, p), x.full)]


def log_softmax(node: Node, values: Values) -> Sequence[Moments]:
    """J_ij = delta_ij - p_j."""
    x = values[0]
    y, axes = node.call(x.mean), traits.axes(node, len(x.mean.shape))
    p = ops.exp(y)

    def linear(t: Tensor, p: Tensor) -> Tensor:
        return t - ops.sum(p * t, axis=axes, keepdims=True)

    var = (1 - 2 * p) * x.var + ops.sum(p * p * x.var, axis=axes, keepdims=True)
    return [Moments(y, ops.relu(var), through(x, linear, p), x.full)]


def _softmax(node: Node, x: Tensor) -> Tensor:
    axes = traits.axes(node, len(x.shape))
    e = ops.exp(x - ops.max(x, axis=axes, keepdims=True))
    return e / ops.sum(e, axis=axes, keepdims=True)
