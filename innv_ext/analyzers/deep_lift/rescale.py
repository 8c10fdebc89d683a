"""The multipliers of DeepLIFT's Rescale rule (Shrikumar et al. 2017, section 3.5), one rule per kind of node.

A rule is called with ``(node, xs, x0s, ys, y0s, rs)``: the node's inputs and outputs at x and at the reference, and the
multipliers r of its outputs. It returns one multiplier per input, so that

    sum of m * (x - x0) over the inputs = sum of r * (y - y0) over the outputs.

Values at the reference may have one row for all samples; rows at x always stand for samples. ``node.pullback`` is the
vector-Jacobian product at x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.deep_lift import ratios
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Call, Graph, Node, is_arg, op_key
from innv_ext.backend.kinds import SOFTMAX, STEPS, Kind
from innv_ext.backend.masks import alias, alike, keep_mask
from innv_ext.backend.numerics import floating, widen
from innv_ext.backend.predicates import anything, both, kind_is, not_differentiable, op_is
from innv_ext.backend.rules import Rules
from innv_ext.backend.walk import live

Tensor = Any
Tensors = tuple[Tensor, ...]
Multipliers = Sequence[Tensor | None]

_ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def one_to_one(node: Node, graph: Graph) -> bool:
    """Nodes with one floating-point input and an output of its shape."""
    x, y = graph.specs[node.inputs[0]], graph.specs[node.outputs[0]]
    return len(node.inputs) == 1 and x.shape == y.shape and numerics.is_float(x.dtype) and numerics.is_float(y.dtype)


def elementwise(node: Node, graph: Graph) -> bool:
    """Non-linearities that turn each value of their one input into one value."""
    key = traits.activation_key(node)
    return (key in STEPS or (node.kind is Kind.ACTIVATION and key not in SOFTMAX)) and one_to_one(node, graph)


def multilinear(node: Node, graph: Graph) -> bool:
    """Products that are linear in each of their factors: no quotients, no cosines, no attention in one node."""
    return node.kind is Kind.PRODUCT and traits.is_multilinear(node)


def _at_x(rule: Callable[..., Multipliers]) -> Callable[..., Multipliers]:
    """A rule of other walks, which look at x only, for the multipliers of nodes where it is the same everywhere."""

    @wraps(rule)
    def multipliers(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
        return rule(node, xs, ys, rs)

    return multipliers


gradient, pass_through, nothing = map(_at_x, (node_rules.gradient, node_rules.pass_through, node_rules.nothing))


def rescale(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """r (y - y0) / (x - x0), elementwise: equation 12 of the paper."""
    x, x0, y, y0 = (widen(t) for t in (xs[0], x0s[0], ys[0], y0s[0]))
    slope = derivative(node, x0 + (x - x0) / 2, xs[0].dtype)
    return [rs[0] * quotient(y - y0, x - x0, slope, rounding(ys[0], ops.maximum(ops.abs(y), ops.abs(y0))))]


def derivative(node: Any, at: Tensor, dtype: Any) -> Tensor:
    """The derivative of an elementwise node at a point, evaluated in the dtype that the node computes in."""
    ys, pullback = numerics.vjp(node.call, ops.cast(at, dtype))
    return pullback(ops.ones_like(widen(ys[0])))[0]


def rounding(y: Tensor, size: Tensor) -> Tensor:
    """How far rounding may put off a difference of values of this size that were computed in the dtype of y."""
    return 8 * _ROUNDING[keras.backend.standardize_dtype(y.dtype)] * size


def quotient(dy: Tensor, dx: Tensor, slope: Tensor, error: Tensor) -> Tensor:
    """dy / dx, or the derivative ``slope`` where the two differ by no more than the rounding ``error`` of dy.

    Kinks keep their quotient however close the points are, and smooth functions lose no digits to cancellation.
    """
    apart = ops.abs(dx) >= numerics.TINY
    q = ops.where(apart, dy / ops.where(apart, dx, ops.ones_like(dx)), ops.zeros_like(dy))
    return ops.where(ops.abs(q - slope) * ops.abs(dx) <= error, slope, q)  # an infinite slope never is


def winners(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """Maxima and minima: y - y0 goes to the winner of x where x is ahead, else to the winner of the reference.

    Ahead means y > y0 (for minima y < y0). With cross = max(y, y0) the winner of x gets (cross - y0) r and that of the
    reference (y - cross) r. The input of a winner changes at least as much as the output, so multipliers stay bounded.
    """
    spread = tuple(at_rows(x0, x) for x, x0 in zip(xs, x0s, strict=True))
    bases, pullback = numerics.vjp(node.call, *spread)
    change = rs[0] * (widen(ys[0]) - widen(y0s[0]))
    ahead = ops.less(ys[0], y0s[0]) if traits.takes_least(node) else ops.greater(ys[0], y0s[0])
    none = ops.zeros_like(change)
    up = node_rules.winner_takes_all(node, xs, ys, (ops.where(ahead, change, none),))
    down = node_rules.winner_takes_all(live(node, pullback), spread, bases, (ops.where(ahead, none, change),))
    return [
        None if a is None or b is None else ops.divide_no_nan(widen(a) + widen(b), widen(x) - widen(x0))
        for a, b, x, x0 in zip(up, down, xs, x0s, strict=True)
    ]


def at_rows(x0: Tensor, x: Tensor) -> Tensor:
    """The reference with as many rows as x; integers are those of x."""
    return alike(x0, x) if floating(x) else x


def product(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """Of two factors a b: r (b + b0) / 2 and r (a + a0) / 2; of more the average on the path, exact as well."""
    return PathAverage((len(xs) + 1) // 2)(node, xs, x0s, ys, y0s, rs)


def switched(node: Node, graph: Graph) -> bool:
    """``where(condition, a, b)`` with a condition that is computed, as in activations written by hand."""
    conditional = op_key(node.op) == "where" and isinstance(node.call, Call) and len(node.call.args) == 3
    return conditional and is_arg(node.call.args[0], 0) and not numerics.is_float(graph.specs[node.inputs[0]].dtype)


def switch(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """``where(c, a, b)``: the branch that is on; if the two points disagree, both, in shares of the way to the switch.

    The switch is where a and b meet on the straight line from reference to x. Where they do not meet, the output jumps,
    and no input accounts for the jump.
    """
    c, c0 = (ops.cast(t[0], "bool") for t in (xs, x0s))
    branches = [lambda *ts, on=on: node.call(ops.full_like(c, on), *ts) for on in (True, False)]
    a, b = (numerics.vjp(branch, *xs[1:]) for branch in branches)
    a0, b0 = (widen(branch(*(at_rows(x0, x) for x, x0 in zip(xs[1:], x0s[1:], strict=True)))) for branch in branches)
    gap, gap0 = widen(a[0][0]) - widen(b[0][0]), a0 - b0
    reached = ops.clip(ops.divide_no_nan(gap0, gap0 - gap), 0, 1)
    one, zero = ops.ones_like(gap), ops.zeros_like(gap)
    share = ops.where(c, ops.where(c0, one, 1 - reached), ops.where(c0, reached, zero))
    found = zip(a[1](rs[0] * share), b[1](rs[0] * (1 - share)), strict=True)
    return [None, *(None if m is None else m + n for m, n in found)]


@dataclass(frozen=True)
class PathAverage:
    """The vector-Jacobian product averaged between reference and x: integrated gradients of one node.

    On elementwise nodes this is the Rescale rule; on all differentiable nodes it is complete up to the error of
    Gauss-Legendre quadrature with ``steps`` points.
    """

    steps: int = 16

    def __call__(self, node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
        return mean_pullback(node.call, xs, x0s, rs, self.steps)


def mean_pullback(
    call: Callable[..., Any], xs: Sequence[Tensor], x0s: Sequence[Tensor], rs: Sequence[Tensor], steps: int
) -> Multipliers:
    """The mean of the pullbacks of r at points between x0 and x; one point after the other, to save memory.

    Integer inputs and Keras masks are those of x, and get nothing.
    """
    positions, weights = np.polynomial.legendre.leggauss(steps)
    floats = [i for i, x in enumerate(xs) if floating(x)]
    wide = {i: (widen(x0s[i]), widen(xs[i]) - widen(x0s[i])) for i in floats}

    def pulled(t: Tensor | float) -> list[Tensor]:
        points = [alias(x) for x in xs]
        for i, (x0, change) in wide.items():
            points[i] = keep_mask(xs[i], ops.cast(x0 + ops.cast(t, x0.dtype) * change, xs[i].dtype))
        found = numerics.vjp(call, *points)[1](*rs)
        return [ops.reshape(found[i], ops.shape(xs[i])) for i in floats]

    if steps == 1:
        means = pulled(0.5)
    else:
        ts, ws = (ops.convert_to_tensor(v / 2, "float64") for v in (positions + 1, weights))

        def add(k: Tensor, sums: list[Tensor]) -> list[Tensor]:
            weight = ops.take(ws, k)
            return [s + ops.cast(weight, s.dtype) * g for s, g in zip(sums, pulled(ops.take(ts, k)), strict=True)]

        means = ops.fori_loop(0, steps, add, [ops.zeros_like(widen(xs[i])) for i in floats])
    by_input = dict(zip(floats, means, strict=True))
    return [by_input.get(i) for i in range(len(xs))]


def rescale_rules(steps: int) -> Rules:
    """The rules of all kinds of nodes; ``steps`` is for those without a closed form."""
    affine = kind_is(Kind.AFFINE, Kind.BATCHNORM, Kind.LINEAR, Kind.SHAPE, Kind.RESCALE, Kind.IDENTITY)
    return Rules(
        (not_differentiable, nothing),
        (elementwise, rescale),
        (both(kind_is(Kind.IDENTITY), op_is("stop_gradient")), pass_through),
        (affine, gradient),
        (kind_is(Kind.MAX), winners),
        (multilinear, product),
        (ratios.is_quotient, ratios.quotient),
        (ratios.is_normalisation, ratios.normalisation),
        (switched, switch),
        (kind_is(Kind.DISCRETE, Kind.EMBEDDING, Kind.TOKENS), nothing),
        (anything, PathAverage(steps)),
    )
