"""DeepLIFT through quotients and normalisations, as the product and the elementwise functions that they consist of.

Of a product a q the factors get (q + q0) / 2 and (a + a0) / 2, of an elementwise function the input gets the slope of
the secant, as the Rescale rule has it; both are exact, so that nothing is lost however far x is from the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from innv_ext.analyzers.core.node_rules import to_shape
from innv_ext.backend import traits
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import widen

Tensor = Any
Tensors = tuple[Tensor, ...]
Multipliers = Sequence[Tensor | None]


def is_quotient(node: Node, graph: Graph) -> bool:
    """One signal divided by another."""
    return node.kind is Kind.PRODUCT and traits.factors(node) == "quotient" and len(node.inputs) == 2


def quotient(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """a q with q = 1 / b, whose secant has the slope -q q0."""
    a, b, a0, b0 = (widen(t) for t in (*xs, *x0s))
    q, q0 = (ops.divide_no_nan(ops.ones_like(t), t) for t in (b, b0))
    return [to_shape(rs[0] * (q + q0) / 2, xs[0]), to_shape(-rs[0] * (a + a0) / 2 * q * q0, xs[1])]


def is_normalisation(node: Node, graph: Graph) -> bool:
    """Layers that divide by the root of a mean; the norm of a vector has no epsilon to keep 1 / |x0| finite."""
    found = traits.statistics(node)
    return node.kind is Kind.NORM and found is not None and found[2]


def normalisation(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """g c q with c = x - mean(x), or x, and q = v^(-1/2), v the mean of c^2 and epsilon.

    The secant of q over v has the slope -q q0 / (1 / q + 1 / q0), that of c^2 over c is c + c0.
    """
    centred, epsilon, _, gamma = traits.statistics(node)
    x, x0, r = widen(xs[0]), widen(x0s[0]) + ops.zeros_like(widen(xs[0])), rs[0]
    if gamma is not None:
        r = r * ops.cast(traits.broadcast(gamma, traits.axes(node, len(x.shape)), r), r.dtype)
    view, back, over = traits.groups(node, x)
    c, c0, r = (view(t) for t in (x, x0, r))

    if centred:
        c, c0 = (t - ops.mean(t, axis=over, keepdims=True) for t in (c, c0))
    q, q0 = (ops.rsqrt(ops.mean(ops.square(t), axis=over, keepdims=True) + epsilon) for t in (c, c0))
    between = (c + c0) / 2
    moved = -2 * q * q0 / (1 / q + 1 / q0) * ops.mean(r * between, axis=over, keepdims=True)
    m = r * (q + q0) / 2 + moved * between
    return [back(m - ops.mean(m, axis=over, keepdims=True) if centred else m)] + [None] * (len(xs) - 1)

