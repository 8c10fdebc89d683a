"""Moment rules of maxima: pairwise maxima of Gaussians (Clark 1961), the result taken as Gaussian again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

from innv_ext.analyzers.moments.gaussian import maximum_moments
from innv_ext.analyzers.moments.values import Moments, combined, covariance, is_random
from innv_ext.backend import traits
from innv_ext.backend.graph import Node

Tensor = Any
Values = tuple[Any, ...]
_NEVER = -1e9  # the mean of padding, which is no number to take a maximum of


def larger(node: Node, a: Moments, b: Moments) -> Moments:
    """max(A, B): exact moments for two Gaussians; directions are mixed by the probability that each wins."""
    mean, variance, win = maximum_moments(a.mean, a.variance(), b.mean, b.variance(), covariance(a, b))
    factors = {}
    for label in {**a.factors, **b.factors}:
        parts = [
            x.factors[label] * ops.expand_dims(share, 1) for x, share in ((a, 1 - win), (b, win)) if label in x.factors
        ]
        factors[label] = sum(parts[1:], parts[0])
    return combined(node, mean, variance, factors, full=False)


def maximum_of(node: Node, values: Values) -> Sequence[Moments]:
    """The maximum of several tensors, one after the other."""
    values = [v if is_random(v) else Moments(v, ops.zeros_like(v)) for v in values]
    found = values[0]
    for value in values[1:]:
        found = larger(node, found, value)
    return [_settled(node, found, any(v.full for v in values))]


def minimum_of(node: Node, values: Values) -> Sequence[Moments]:
    """min(A, B) = -max(-A, -B)."""
    negated = [_negative(v) if is_random(v) else -v for v in values]
    return [_negative(maximum_of(node, tuple(negated))[0])]


def maximum_over(node: Node, values: Values) -> Sequence[Moments]:
    """The maximum over axes, in a tournament of halves."""
    x, rank = values[0], len(values[0].mean.shape)
    keepdims = bool(getattr(node.op, "keepdims", False))
    axes = [a for a in traits.axes(node, rank) if a > 0]
    rest = [a for a in range(rank) if a not in axes]
    field = _map(x, lambda t, lead: _flatten(t, axes, rest, lead))
    count = ops.shape(field.mean)[-1]
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
    squeezed = _map(field, lambda t, _: t[..., 0])
    if keepdims:
        target = [1 if a in axes else s for a, s in enumerate(ops.shape(x.mean))][1:]
        squeezed = _map(squeezed, lambda t, lead: ops.reshape(t, (*ops.shape(t)[:lead], *target)))
    return [_settled(node, squeezed, x.full)]


def _part(x: Moments, start: Any, stop: Any) -> Moments:
    return _map(x, lambda t, _: t[..., start:stop])


def _flatten(t: Tensor, axes: list[int], rest: list[int], lead: int) -> Tensor:
    """The axes of the maximum as one last axis; ``lead`` is 2 for directions (batch, rank, ...)."""
    shift = lead - 1
    order = [0, *range(1, lead), *(a + shift for a in rest[1:]), *(a + shift for a in axes)]
    moved = ops.transpose(t, order)
    kept = ops.shape(moved)[: len(order) - len(axes)]
    count = 1
    for d in ops.shape(moved)[len(kept) :]:
        count = count * d
    return ops.reshape(moved, (*kept, count))


def maximum_pool(node: Node, values: Values) -> Sequence[Moments]:
    """Max pooling: the values of each window, one after the other; padding never wins."""
    x = values[0]
    axes, sizes, strides, outputs, pads = zip(*traits.windows(node, x.mean), strict=True)

    def window(t: Tensor, lead: int, offset: tuple[int, ...], padding: float = 0.0) -> Tensor:
        at = axes[0] + lead - 1
        if node.op.padding == "same":
            widths = [(0, 0)] * at + list(pads)
            t = ops.pad(t, widths + [(0, 0)] * (len(t.shape) - len(widths)), constant_values=padding)
        index = [slice(None)] * len(t.shape)
        for axis, (o, s, n) in enumerate(zip(offset, strides, outputs, strict=True), at):
            index[axis] = slice(o, o + (n - 1) * s + 1, s)
        return t[tuple(index)]

    found = None
    for offset in itertools.product(*(range(p) for p in sizes)):
        part = Moments(
            window(x.mean, 1, offset, _NEVER),
            window(x.var, 1, offset),
            {k: window(f, 2, offset) for k, f in x.factors.items()},
        )
        found = part if found is None else larger(node, found, part)
    return [_settled(node, found, x.full)]


def _map(x: Moments, function: Any) -> Moments:
    """``function(tensor, number of leading axes)`` on mean, variance and directions."""
    return Moments(function(x.mean, 1), function(x.var, 1), {k: function(f, 2) for k, f in x.factors.items()}, x.full)


def _negative(x: Moments) -> Moments:
    return Moments(-x.mean, x.var, {k: -f for k, f in x.factors.items()}, x.full)


def _settled(node: Node, x: Moments, full: bool) -> Moments:
    """In "full" mode the independent part of the result becomes directions."""
    return combined(node, x.mean, x.variance(), x.factors, full) if full else x
