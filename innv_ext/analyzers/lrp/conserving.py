"""Rules that keep the sign of relevance, and lose none where nothing contributes: Deep Taylor, z+ and its kin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from innv_ext.analyzers.lrp.rules import ANY, AffineRule, Domain, Relevance, Tensors, WSquare, parts, weighed
from innv_ext.backend import numerics, traits
from innv_ext.backend.masks import keep_mask
from innv_ext.backend.numerics import floating, safe_divide, widen
from innv_ext.backend.predicates import savable

Tensor = Any


@savable
@dataclass(frozen=True)
class Conserving(AffineRule):
    """``rule`` (z+ or z^B) where something contributes; w^2 for neurons to which nothing does.

    All of these contributions are positive. Where there is none, the domain has no root point along them, and w^2 is
    the rule that knows no domain (Montavon et al. 2017, table 1).
    """

    rule: Any

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors, domain: Domain = ANY) -> Relevance:
        affine, x, w, nonnegative = parts(node, xs)
        products, z = weighed(affine, self.rule.terms(x, w, nonnegative, domain))
        s = safe_divide(rs[0], z, sign=+1)
        found = sum(x * pullback(s)[0] for x, pullback in products)
        left = ops.where(z > numerics.TINY, ops.zeros_like(rs[0]), rs[0])
        return [found + WSquare()(node, xs, ys, (left,), domain)[0]]


@savable
def positive_share(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """Sums, means and poolings: shares of the positive contributions; the sizes of the weights where none is positive.

    The z+ rule for weights that are not negative themselves, and the Z rule where no input is.
    """
    signs = traits.signs(node)
    ups = [ops.relu(s * x) if floating(x) else x for s, x in zip(signs, xs, strict=True)]
    total = _total(node, xs, lambda i: signs[i] * ups[i])
    none = total <= numerics.TINY
    shares = node.pullback(safe_divide(rs[0], total, sign=+1))
    spread = weight_share(node, xs, ys, (ops.where(none, rs[0], ops.zeros_like(rs[0])),))
    return [
        None if a is None else s * widen(up) * a + b for s, up, a, b in zip(signs, ups, shares, spread, strict=True)
    ]


def beside_padding(node: Any, xs: Tensors, ys: Tensors, rs: Tensors, domain: Domain) -> Relevance:
    """Max pooling of zeros in a row with padded zeros: one of the former wins."""
    x = xs[0]
    below = ops.where(ops.cast(domain.inputs(x), "bool"), x, x - ops.cast(numerics.TINY, x.dtype))
    return numerics.vjp(node.call, below)[1](*rs)


@savable
def weight_share(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """Sums, means and poolings: shares of the sizes of the weights, whatever the inputs."""
    signs = traits.signs(node)
    sizes = _total(node, xs, lambda i: signs[i] * ops.ones_like(xs[i]))
    spread = node.pullback(safe_divide(rs[0], sizes, sign=+1))
    return [None if a is None else s * a for s, a in zip(signs, spread, strict=True)]


def _total(node: Any, xs: Tensors, value: Callable[[int], Tensor]) -> Tensor:
    """The node's output for other inputs, without its constants."""

    def call(value: Callable[[int], Tensor]) -> Tensor:
        fed = [keep_mask(x, value(i)) if floating(x) else x for i, x in enumerate(xs)]
        return widen(node.call(*fed))

    found = call(value)
    return found - call(lambda i: ops.zeros_like(xs[i])) if traits.has_constants(node) else found
