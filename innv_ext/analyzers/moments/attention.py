"""Moment rules of matrix products of two random tensors, and of softmax: the steps of attention.

Scores q k^T are sums of products, exact for independent q and k. Softmax and the weighted sum of values that follows
are to first order, together: from o = sum_k p_k v_k with p = softmax(s),

    d o = sum_k p_k (v_k - o) ds_k + sum_k p_k dv_k,    Var o = sum_k p_k^2 ((v_k - o)^2 Var s_k + Var v_k)

for independent scores and values. As if each p_k were independent of the others, a shift of all values would count,
which changes nothing, since shares sum to 1. To this comes Var p_k Var v_k, the only term that is left of second order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from keras import ops

from innv_ext.analyzers.moments.values import Moments, added, as_moments, combined, squares, through
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node

Tensor = Any
Values = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Shares(Moments):
    """What a softmax over one axis gives, and what it comes of.

    Attributes
    ----------
    scores : independent variance of what went into the softmax, shaped like the shares
    whole : the shares before a mask closed some of them
    axis : of the softmax
    """

    scores: Tensor = None
    whole: Tensor = None
    axis: int = -1

    def kept(self, moments: Moments) -> Shares:
        """Shares with other moments, after a mask or a change of precision."""
        own = {f.name: getattr(moments, f.name) for f in fields(Moments)}
        return Shares(**own, scores=self.scores, whole=self.whole, axis=self.axis)


def softmax(node: Node, values: Values) -> Sequence[Moments]:
    """J_ij = p_i (delta_ij - p_j); where a mask closes a place, p_i is 0."""
    x, *mask = values
    p, axes = numerics.widen(node.call(x.mean, *mask)), traits.axes(node, len(x.mean.shape))

    def linear(t: Tensor, p: Tensor) -> Tensor:
        return p * (t - ops.sum(p * t, axis=axes, keepdims=True))

    var = p * p * ((1 - 2 * p) * x.var + ops.sum(p * p * x.var, axis=axes, keepdims=True))
    given = p, ops.relu(var), through(x, linear, p), x.full
    return [Shares(*given, scores=x.var, whole=p, axis=axes[0]) if len(axes) == 1 else Moments(*given)]


def matrix_product(node: Node, values: Values) -> Sequence[Moments]:
    """Matrix products of two random tensors: exact if they and their components are independent; weighted sums."""
    a, b = map(as_moments, values)
    call: Callable[[Tensor, Tensor], Tensor] = node.call
    rest = call(a.variance(), b.variance())
    summed = traits.summed_axes(node, len(a.mean.shape), len(b.mean.shape))
    if isinstance(a, Shares) and summed[0] == a.axis:
        rest = rest + _of_scores(a, b.mean, call) + call(ops.square(a.mean), b.var)
    elif isinstance(b, Shares) and summed[1] == b.axis:
        rest = rest + _of_scores(b, a.mean, lambda p, v: call(v, p)) + call(a.var, ops.square(b.mean))
    else:
        rest = rest + call(a.var, ops.square(b.mean)) + call(ops.square(a.mean), b.var)
    factors = added(through(a, call, b.mean), through(b, lambda t, mean: call(mean, t), a.mean))
    return [combined(node, call(a.mean, b.mean), rest + squares(factors), factors, a.full or b.full)]


def _of_scores(p: Shares, v: Tensor, call: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """sum_k (p_k v_k - whole_k o)^2 Var s_k, where a mask makes p of the whole."""
    o = call(p.mean, v)
    parts = [
        call(weight * p.scores, t)
        for weight, t in (
            (ops.square(p.mean), ops.square(v)),
            (p.mean * p.whole, v),
            (ops.square(p.whole), ops.ones_like(v)),
        )
    ]
    return ops.relu(parts[0] - 2 * o * parts[1] + ops.square(o) * parts[2])


def bilinear_in_two(node: Node, graph: Graph) -> bool:
    """Exactly two tensors come in, and nothing else takes part."""
    return len(node.inputs) == 2 and not traits.has_constants(node) and traits.is_multilinear(node)
