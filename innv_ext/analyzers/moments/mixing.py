"""Moment rules of nodes that mix random values: products, attention, maxima, softmax, normalisation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.moments import gaussian
from innv_ext.analyzers.moments.values import (
    Moments,
    added,
    as_moments,
    combined,
    covariance,
    squares,
    through,
    weighted,
)
from innv_ext.backend import traits
from innv_ext.backend.graph import Call, Graph, Node

Tensor = Any
Values = tuple[Any, ...]
_NEVER = -1e9  # the mean of padding, which is no number to take a maximum of


def product(node: Node, values: Values) -> Sequence[Moments]:
    """Elementwise products, exact for two Gaussians; x times x is the square of x."""
    powers = {
        slot: _power(node, value, node.inputs.count(slot)) for slot, value in zip(node.inputs, values, strict=True)
    }
    random_first = sorted(powers.values(), key=lambda x: not isinstance(x, Moments))
    return [functools.reduce(functools.partial(_product, node), random_first)]


def _power(node: Node, x: Any, n: int) -> Any:
    """x^n, exact for a Gaussian: quadrature has nodes enough for n < 16."""
    if n == 1:
        return x
    if not isinstance(x, Moments):
        return x**n
    return x.scaled(node, *gaussian.quadrature_moments(lambda t: t**n, x.mean, x.variance(), gain=bool(x.factors)))


def _product(node: Node, a: Moments, b: Any) -> Moments:
    if not isinstance(b, Moments):
        return Moments(a.mean * b, a.var * b * b, weighted(a, b), a.full)
    moments = gaussian.product_moments(a.mean, a.variance(), b.mean, b.variance(), covariance(a, b))
    return combined(node, *moments, added(weighted(a, b.mean), weighted(b, a.mean)), a.full)


def matrix_product(node: Node, values: Values) -> Sequence[Moments]:
    """Matrix products of two random tensors: exact if they and their components are independent."""
    return [_bilinear(node, node.call, *map(as_moments, values))]


def _bilinear(node: Node, call: Callable[[Tensor, Tensor], Tensor], a: Moments, b: Moments) -> Moments:
    rest = call(a.variance(), b.variance()) + call(a.var, ops.square(b.mean)) + call(ops.square(a.mean), b.var)
    factors = added(through(a, call, b.mean), through(b, lambda t, mean: call(mean, t), a.mean))
    return combined(node, call(a.mean, b.mean), rest + squares(factors), factors, a.full or b.full)


def attention(node: Node, values: Values) -> Sequence[Moments]:
    """softmax(q k^T * scale) v, each product as if its factors were independent, the softmax to first order."""
    query, key, value = map(as_moments, values)
    scale = node.call.kwargs.get("scale") if isinstance(node.call, Call) else None
    query = query.times(1 / np.sqrt(query.mean.shape[-1]) if scale is None else float(scale))
    scores = _bilinear(node, lambda q, k: ops.einsum("btnh,bsnh->bnts", q, k), query, key)
    shares = softmax_moments(scores, ops.softmax(scores.mean, axis=-1), (-1,))
    return [_bilinear(node, lambda p, v: ops.einsum("bnts,bsnh->btnh", p, v), shares, value)]


def plain_attention(node: Node, graph: Graph) -> bool:
    """Attention without mask, bias or causality."""
    if traits.factors(node) != "attention" or len(node.inputs) != 3:
        return False
    options = {**vars(node.op), **(node.call.kwargs if isinstance(node.call, Call) else {})}
    return all(options.get(name) is None or options[name] is False for name in ("bias", "mask", "is_causal"))


def bilinear_in_two(node: Node, graph: Graph) -> bool:
    """Exactly two tensors come in, and nothing else takes part."""
    return len(node.inputs) == 2 and not traits.has_constants(node) and traits.is_multilinear(node)


# --- maxima, pairwise (Clark 1961), the result taken as Gaussian again --------------------------------------------


def larger(node: Node, a: Moments, b: Moments) -> Moments:
    """max(A, B): exact moments for two Gaussians; directions are mixed by the probability that each wins."""
    mean, variance, win = gaussian.maximum_moments(a.mean, a.variance(), b.mean, b.variance(), covariance(a, b))
    return combined(node, mean, variance, added(weighted(a, 1 - win), weighted(b, win)), full=False)


def maximum_of(node: Node, values: Values) -> Sequence[Moments]:
    """The maximum of several tensors, one after the other."""
    values = [as_moments(v) for v in values]
    found = functools.reduce(functools.partial(larger, node), values)
    return [_settled(node, found, any(v.full for v in values))]


def minimum_of(node: Node, values: Values) -> Sequence[Moments]:
    """min(A, B) = -max(-A, -B)."""
    return [y.times(-1.0) for y in maximum_of(node, tuple(as_moments(v).times(-1.0) for v in values))]


def maximum_over(node: Node, values: Values) -> Sequence[Moments]:
    """The maximum over axes, in a tournament of halves."""
    x, shape = values[0], ops.shape(values[0].mean)
    axes = [a for a in traits.axes(node, len(shape)) if a > 0]
    rest = [a for a in range(len(shape)) if a not in axes]
    count = math.prod(shape[a] for a in axes)
    kept = [shape[a] for a in rest[1:]]
    field = x.mapped(lambda t: ops.reshape(ops.transpose(t, [*rest, *axes]), (-1, *kept, count)))
    while count > 1:
        half = count // 2
        pair = larger(node, _part(field, 0, half), _part(field, half, 2 * half))
        odd = _part(field, 2 * half, count)
        field = Moments(
            ops.concatenate([pair.mean, odd.mean], -1),
            ops.concatenate([pair.var, odd.var], -1),
            {k: ops.concatenate([f, odd.factors[k]], -1) for k, f in pair.factors.items()},
        )
        count = count - half
    target = [1 if a in axes else s for a, s in enumerate(shape)][1:] if getattr(node.op, "keepdims", False) else kept
    return [_settled(node, field.mapped(lambda t: ops.reshape(t, (-1, *target))), x.full)]


def _part(x: Moments, start: int, stop: int) -> Moments:
    return x.mapped(lambda t: t[..., start:stop])


def maximum_pool(node: Node, values: Values) -> Sequence[Moments]:
    """Max pooling: the values of each window, one after the other; padding never wins."""
    x = values[0]
    axes, sizes, strides, outputs, pads = zip(*traits.windows(node, x.mean), strict=True)

    def window(offset: tuple[int, ...], t: Tensor, padding: float = 0.0) -> Tensor:
        if node.op.padding == "same":
            widths = [(0, 0)] * axes[0] + list(pads)
            t = ops.pad(t, widths + [(0, 0)] * (len(t.shape) - len(widths)), constant_values=padding)
        index = [slice(None)] * len(t.shape)
        for axis, o, s, n in zip(axes, offset, strides, outputs, strict=True):
            index[axis] = slice(o, o + (n - 1) * s + 1, s)
        return t[tuple(index)]

    parts = (
        x.image(window(at, x.mean, _NEVER), window(at, x.var), functools.partial(window, at))
        for at in itertools.product(*map(range, sizes))
    )
    return [_settled(node, functools.reduce(functools.partial(larger, node), parts), x.full)]


def _settled(node: Node, x: Moments, full: bool) -> Moments:
    """In "full" mode the independent part of the result becomes directions."""
    return combined(node, x.mean, x.variance(), x.factors, full) if full else x


# --- first-order (delta) rules -----------------------------------------------------------------------------------
#
# The mean is f(mean); the covariance goes through the Jacobian J of f at the mean: J squared, entry by entry, on the
# independent variance, J on each direction. Both have closed forms, so that J is never built.


def softmax(node: Node, values: Values) -> Sequence[Moments]:
    """J_ij = p_i (delta_ij - p_j)."""
    x = values[0]
    return [softmax_moments(x, node.call(x.mean), traits.axes(node, len(x.mean.shape)))]


def softmax_moments(x: Moments, p: Tensor, axis: tuple[int, ...]) -> Moments:
    """The moments of softmax(x), whose value at the mean is ``p``."""

    def linear(t: Tensor, p: Tensor) -> Tensor:
        return p * (t - ops.sum(p * t, axis=axis, keepdims=True))

    var = p * p * ((1 - 2 * p) * x.var + ops.sum(p * p * x.var, axis=axis, keepdims=True))
    return Moments(p, ops.relu(var), through(x, linear, p), x.full)


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
    """The normalising layers of Keras whose statistics are known."""
    return traits.statistics(node) is not None
