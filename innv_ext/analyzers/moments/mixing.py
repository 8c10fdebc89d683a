"""Moment rules of nodes that mix random values: elementwise products, and maxima."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from innv_ext.analyzers.moments import gaussian
from innv_ext.analyzers.moments.values import Moments, added, as_moments, combined, covariance, weighted
from innv_ext.backend import traits
from innv_ext.backend.graph import Node

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
        b = ops.cast(b, a.mean.dtype)
        return Moments(a.mean * b, a.var * b * b, weighted(a, b), a.full)
    moments = gaussian.product_moments(a.mean, a.variance(), b.mean, b.variance(), covariance(a, b))
    return combined(node, *moments, added(weighted(a, b.mean), weighted(b, a.mean)), a.full)


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
