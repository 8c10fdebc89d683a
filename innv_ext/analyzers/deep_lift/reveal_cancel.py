"""DeepLIFT's RevealCancel rule: positive and negative parts of each difference from the reference, kept apart.

Every slot carries D+ and D-, with D+ + D- = x - x0, and gets a multiplier for each. A rule has two methods:

    split(at, ds)                  the parts of the node's outputs from the parts ``ds`` of its inputs
    multipliers(at, ds, es, rs)    those of the parts ``ds``, from the multipliers ``rs`` of the outputs' parts ``es``

``at`` holds the node and its values at x and at the reference. Integer slots have None. Source: Shrikumar et al. 2017,
sections 3.4 and 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from innv_ext.analyzers.deep_lift import rescale
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import floating, negative, positive, widen
from innv_ext.backend.predicates import not_differentiable

Tensor = Any
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Parts:
    """Two tensors of one shape: the parts of a difference, or the multipliers of these parts."""

    plus: Tensor
    minus: Tensor

    def __add__(self, other: Parts) -> Parts:
        return Parts(self.plus + other.plus, self.minus + other.minus)

    def swapped(self) -> Parts:
        """What was added is taken away."""
        return Parts(self.minus, self.plus)


@dataclass(frozen=True, eq=False)
class At:
    """A node with its inputs and outputs at x and at the reference."""

    node: Any
    xs: Tensors
    x0s: Tensors
    ys: Tensors
    y0s: Tensors


Found = Sequence[Parts | None]


def by_sign(difference: Tensor) -> Parts:
    """A difference is one part, by its sign; the other is zero."""
    return Parts(positive(difference), negative(difference))


def total_parts(xs: Sequence[Tensor], x0s: Sequence[Tensor]) -> list[Parts | None]:
    """Differences of floats as parts by sign."""
    return [by_sign(widen(x) - widen(x0)) if floating(x) else None for x, x0 in zip(xs, x0s, strict=True)]


@dataclass(frozen=True)
class Total:
    """Nodes that know no parts: a Rescale rule for the whole difference; an output is one part, by its sign."""

    rule: Callable[..., Any]

    def split(self, at: At, ds: Found) -> Found:
        """y - y0 by its sign."""
        return total_parts(at.ys, at.y0s)

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        """Those of the rule, for both parts alike."""
        chosen = [
            ops.where(widen(y) - widen(y0) > 0, r.plus, r.minus) if floating(y) else r.plus
            for r, y, y0 in zip(rs, at.ys, at.y0s, strict=True)
        ]
        found = self.rule(at.node, at.xs, at.x0s, at.ys, at.y0s, tuple(chosen))
        return [None if m is None else Parts(m, m) for m in found]


@dataclass(frozen=True)
class SignedWeights:
    """Affine nodes: D+ of the output is what w (x - x0) > 0 adds up to, D- what w (x - x0) < 0 does.

    Both parts of an input follow the sign of its whole difference (section 3.5.1), which keeps parts from growing
    layer by layer. An input whose parts cancel exactly sends half to either side, as in the paper.
    """

    def split(self, at: At, ds: Found) -> Found:
        """w+ (x - x0)+ + w- (x - x0)- and w- (x - x0)+ + w+ (x - x0)-."""
        affine, w = at.node.call, at.node.call.kernel()
        d = by_sign(affine.cast(ds[0].plus + ds[0].minus, w))
        up, down = positive(w), negative(w)
        return [
            Parts(
                affine.bilinear(d.plus, up) + affine.bilinear(d.minus, down),
                affine.bilinear(d.plus, down) + affine.bilinear(d.minus, up),
            )
        ]

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        """w+ r+ + w- r- where x > x0, w- r+ + w+ r- where x < x0, their mean where x = x0."""
        affine, w, r = at.node.call, at.node.call.kernel(), rs[0]
        d = affine.cast(ds[0].plus + ds[0].minus, w)
        up, down = (numerics.vjp(lambda t, k=k: affine.bilinear(t, k), d)[1] for k in (positive(w), negative(w)))
        above, below = up(r.plus)[0] + down(r.minus)[0], down(r.plus)[0] + up(r.minus)[0]
        m = ops.where(d > 0, above, ops.where(d < 0, below, (above + below) / 2))
        return [Parts(m, m)]


@dataclass(frozen=True)
class Scaled:
    """y = a x + b elementwise: positive a keep the parts, negative a exchange them."""

    def split(self, at: At, ds: Found) -> Found:
        """a D+ and a D-, in the order of their signs."""
        a = self._factor(at)
        return [_ordered(a, Parts(a * ds[0].plus, a * ds[0].minus))]

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        """a r, exchanged likewise."""
        a = self._factor(at)
        ordered = _ordered(a, rs[0])
        return [Parts(a * ordered.plus, a * ordered.minus)]

    @staticmethod
    def _factor(at: At) -> Tensor:
        return at.node.pullback(ops.ones_like(widen(at.ys[0])))[0]


def _ordered(a: Tensor, parts: Parts) -> Parts:
    """The parts, exchanged where a < 0."""
    keep = ops.greater_equal(a, ops.zeros_like(a))
    return Parts(ops.where(keep, parts.plus, parts.minus), ops.where(keep, parts.minus, parts.plus))


@dataclass(frozen=True)
class Separate:
    """Sums, means, pooling, copies: linear with weights that are not negative, on each part by itself.

    What a subtraction takes away exchanges its parts.
    """

    def split(self, at: At, ds: Found) -> Found:
        """The node on D+ and on D-."""
        ordered = self._exchanged(at.node, ds)
        origin = _outputs(at, [None] * len(at.xs))  # what padding or a constant adds
        plus, minus = (_outputs(at, [d and getattr(d, name) for d in ordered]) for name in ("plus", "minus"))
        return [
            Parts(widen(p) - widen(o), widen(m) - widen(o)) if floating(o) else None
            for p, m, o in zip(plus, minus, origin, strict=True)
        ]

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        """The vector-Jacobian product of each part's multipliers."""
        plus, minus = at.node.pullback(*(r.plus for r in rs)), at.node.pullback(*(r.minus for r in rs))
        return self._exchanged(at.node, [None if p is None else Parts(p, m) for p, m in zip(plus, minus, strict=True)])

    @staticmethod
    def _exchanged(node: Any, parts: Found) -> Found:
        return [p.swapped() if p and s < 0 else p for p, s in zip(parts, traits.signs(node), strict=True)]


def _outputs(at: At, values: Sequence[Tensor | None]) -> list[Tensor]:
    """The node at these values (None: zero); integers are those of x."""
    filled = [
        (ops.zeros_like(x) if v is None else ops.cast(v, x.dtype)) if floating(x) else x
        for x, v in zip(at.xs, values, strict=True)
    ]
    return list(numerics.vjp(at.node.call, *filled)[0])


@dataclass(frozen=True)
class RevealCancel:
    """Elementwise non-linearities: the effect of D+ averaged over adding it before and after D-, and vice versa.

    y+ = (f(x0 + D+) - f(x0) + f(x0 + D- + D+) - f(x0 + D-)) / 2, section 3.5.3.
    """

    def split(self, at: At, ds: Found) -> Found:
        """y+ and y-."""
        x0, y, y0 = (widen(t[0]) for t in (at.x0s, at.ys, at.y0s))
        only_plus, only_minus = (
            widen(at.node.call(ops.cast(x0 + d, at.xs[0].dtype))) for d in (ds[0].plus, ds[0].minus)
        )
        return [Parts((only_plus - y0 + y - only_minus) / 2, (only_minus - y0 + y - only_plus) / 2)]

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        """r+ y+ / D+ and r- y- / D-."""
        d, e = ds[0], es[0]
        size = ops.abs(widen(at.ys[0])) + ops.abs(widen(at.y0s[0])) + ops.abs(e.plus) + ops.abs(e.minus)
        error = rescale.rounding(at.ys[0], size)
        plus = rs[0].plus * rescale.quotient(e.plus, d.plus, self._slope(at, d.plus, d.minus), error)
        minus = rs[0].minus * rescale.quotient(e.minus, d.minus, self._slope(at, d.minus, d.plus), error)
        return [Parts(plus, minus)]

    @staticmethod
    def _slope(at: At, own: Tensor, other: Tensor) -> Tensor:
        """The mean derivative in the middle of adding ``own`` before and after ``other``."""
        middle, dtype = widen(at.x0s[0]) + own / 2, at.xs[0].dtype
        return (rescale.derivative(at.node, middle, dtype) + rescale.derivative(at.node, middle + other, dtype)) / 2


def reveal_rule(node: Node, graph: Graph, rule: Callable[..., Any]) -> Any:
    """The rule of a node whose Rescale rule is ``rule``."""
    if rescale.elementwise(node, graph):
        return RevealCancel()
    if not_differentiable(node, graph) or op_key(node.op) == "Masking":  # a layer that looks at its whole input
        return Total(rule)
    if node.kind is Kind.AFFINE and numerics.is_float(graph.specs[node.inputs[0]].dtype):
        return SignedWeights()
    if node.kind in (Kind.BATCHNORM, Kind.RESCALE) and rescale.one_to_one(node, graph):
        return Scaled()
    if node.kind in (Kind.LINEAR, Kind.SHAPE, Kind.IDENTITY) and rule is rescale.gradient:
        return Separate()
    return Total(rule)
