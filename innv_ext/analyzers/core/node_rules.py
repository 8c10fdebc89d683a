"""The reverse rules of all nodes that are not affine: sums, maxima, products, shapes, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from innv_ext import arguments
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Arg
from innv_ext.backend.numerics import floating, safe_divide, widen
from innv_ext.backend.predicates import Saved, savable
from innv_ext.backend.rules import reaching

Tensor = Any
Tensors = tuple[Tensor, ...]
Relevance = Sequence[Tensor | None]


@savable
def gradient(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """The vector-Jacobian product: plain back-propagation."""
    return node.pullback(*rs)


@savable
@reaching(lambda node: node.inputs and (0,))
def pass_through(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """The first input takes the relevance unchanged; other inputs (masks, statistics) get none."""
    return [rs[0]] + [None] * (len(xs) - 1)


@savable
@reaching(lambda node: ())
def nothing(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """No input gets any relevance: masks, comparisons, counts."""
    return [None] * len(xs)


@savable
def rescale(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """y = a x + b with constants: each value comes from one input value, which takes all (also where y = 0)."""
    return [to_shape(rs[0], xs[0])]


@savable
@dataclass(frozen=True)
class ScaleShift(Saved):
    """y = a x + b with constants, as batch normalisation on its own: b keeps its share of y, as in ``Epsilon``.

    Every output has one input, so there is nothing to share at a silent neuron, only something to lose: where y = 0,
    and with ``bias=False`` everywhere, x takes all.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        if not self.bias:
            return rescale(node, xs, ys, rs)
        y, zero = numerics.not_before(rs[0], widen(ys[0])), ops.cast(0.0, rs[0].dtype)
        empty = ops.abs(y) < numerics.TINY
        share = node.pullback(ops.where(empty, zero, safe_divide(rs[0], y, self.epsilon)))[0]
        return [widen(xs[0]) * share + to_shape(ops.where(empty, rs[0], zero), xs[0])]


@savable
@dataclass(frozen=True)
class LayerNorm(Saved):
    """Layer and group normalisation y = g n + b, n = (x - mean) / std, in three steps.

    b keeps its share of y (``epsilon`` and ``bias`` as in ``Epsilon``); 1 / std is a constant; centring is linear:
    R_x = x (s - mean(s)) with s = g / std * R / y. Where y = 0 the value that it comes from takes all. Source:
    Achtibat et al. 2024, equation 8 and proposition 3.4.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        offset, *vectors = traits.scale_and_shift(node)
        x, y, zero = widen(xs[0]), numerics.not_before(rs[0], widen(ys[0])), ops.cast(0.0, rs[0].dtype)
        named = traits.axes(node, len(x.shape))
        gamma, beta = (self._vector(v, xs, named, y) for v in vectors)
        z = y if self.bias or beta is None else y - beta
        empty = ops.abs(z) < numerics.TINY
        s = ops.where(empty, zero, safe_divide(rs[0], z, self.epsilon))
        view, back, over = traits.groups(node, x)
        std = ops.sqrt(ops.var(view(x), axis=over, keepdims=True) + offset)
        t = view(s if gamma is None else s * gamma) / std
        found: list[Tensor | None] = [None] * len(xs)
        found[0] = x * back(t - ops.mean(t, axis=over, keepdims=True)) + ops.where(empty, rs[0], zero)
        if self.bias and isinstance(vectors[1], Arg):  # a shift that is computed from the sample
            found[vectors[1].index] = to_shape(beta * s, xs[vectors[1].index])
        return found

    def reaches(self, node: Any) -> tuple[int, ...]:
        """The values, and a shift that is computed."""
        beta = traits.scale_and_shift(node)[2]
        return (0, beta.index) if self.bias and isinstance(beta, Arg) else (0,)

    @staticmethod
    def _vector(value: Any, xs: Tensors, named: tuple[int, ...], y: Tensor) -> Tensor | None:
        if value is None:
            return None
        vector = widen(ops.convert_to_tensor(xs[value.index] if isinstance(value, Arg) else value))
        return vector if len(vector.shape) == len(y.shape) else traits.broadcast(vector, named, y)


@savable
def linear(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """The Z rule of a linear node without a kernel (sums, means, pooling, interpolation).

    Where the output is exactly zero (an all-zero window, a sum that cancels), relevance is spread in proportion to
    the size of the weights instead of lost or blown up.
    """
    y, zero = widen(ys[0]), ops.zeros_like(rs[0])
    signs = traits.signs(node)
    units = [sign * ops.ones_like(x) if floating(x) else x for sign, x in zip(signs, xs, strict=True)]
    sizes = widen(node.call(*units))
    if traits.has_constants(node):  # a constant term is no weight of any input
        sizes = sizes - widen(node.call(*(ops.zeros_like(x) if floating(x) else x for x in xs)))
    empty = ops.logical_and(ops.abs(y) < numerics.TINY, ops.abs(sizes) > 1e-6)
    shares = node.pullback(ops.where(empty, zero, safe_divide(rs[0], y)))
    spread = node.pullback(ops.where(empty, safe_divide(rs[0], sizes), zero))
    return [
        None if a is None else widen(x) * a + sign * s for x, a, s, sign in zip(xs, shares, spread, signs, strict=True)
    ]


@savable
def winner_takes_all(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """Maxima: the winner takes all; ties go to the first in row-major order."""
    if len(xs) > 1:
        return _first_equal(node, xs, ys, rs)
    axes = traits.axes(node, len(xs[0].shape))
    if not axes:  # window pooling: the gradient picks the first of equal values, see passes.PlanesFirst
        return node.pullback(*rs)
    return [_winner(xs[0], rs[0], axes, traits.takes_least(node))]


def _winner(x: Tensor, r: Tensor, axes: tuple[int, ...], lowest: bool) -> Tensor:
    """Relevance of the maximum over ``axes`` to its first position."""
    rest = [a for a in range(len(x.shape)) if a not in axes]
    order = rest + list(axes)
    moved = ops.transpose(x, order)
    shape = ops.shape(moved)
    count = 1
    for a in shape[len(rest) :]:
        count = count * a
    flat = ops.reshape(widen(moved), (*shape[: len(rest)], count))
    best = ops.argmax(-flat if lowest else flat, axis=-1)
    hot = ops.cast(ops.equal(ops.expand_dims(best, -1), ops.arange(count, dtype=best.dtype)), r.dtype)
    spread = ops.reshape(hot * ops.reshape(r, (*shape[: len(rest)], 1)), shape)
    return ops.transpose(spread, [order.index(a) for a in range(len(order))])


def _first_equal(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """``Maximum()([a, b])``: the first input that equals the output."""
    if any(len(x.shape) != len(ys[0].shape) or x.shape[1:] != ys[0].shape[1:] for x in xs):
        return node.pullback(*rs)  # broadcast operands: TensorFlow shares ties evenly
    taken = ops.zeros_like(ys[0], dtype="bool")
    shares = []
    for x in xs:
        wins = ops.logical_and(ops.equal(x, ys[0]), ops.logical_not(taken))
        taken = ops.logical_or(taken, wins)
        shares.append(ops.where(wins, rs[0], ops.zeros_like(rs[0])))
    return shares


@savable
@dataclass(frozen=True)
class Gate(Saved):
    """A product of inputs: the signal takes all (``gate="signal"``), or the factors share equally (``"half"``).

    The signal is what is neither a gate (sigmoid, softmax; tanh, where there is none of these) nor broadcast; several
    such factors share equally. Of a quotient the numerator is the signal, of attention the values.

    Shares of a sum of products z = sum a b are a b / (n z) each, with n factors that take part; ``epsilon`` stabilises
    n z. Source: Achtibat et al. 2024, propositions 3.2 and 3.3.
    """

    gate: str = arguments.one_of("signal", "half")
    epsilon: float = arguments.at_least(0, 0.0)

    def __post_init__(self) -> None:
        arguments.check_fields(self)

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        how, chosen = traits.factors(node), self.reaches(node)
        if how in ("values", "quotient"):  # each output has one value of each factor, even if 0
            part = rs[0] / len(chosen)
            return [to_shape(part, x) if i in chosen else None for i, x in enumerate(xs)]
        count = len(chosen)
        shares = node.pullback(safe_divide(rs[0], widen(ys[0]), self.epsilon / count))
        pairs = zip(xs, shares, strict=True)  # divided where a value is one of a vector, not one of a pair
        return [widen(x) / count * g if i in chosen else None for i, (x, g) in enumerate(pairs)]

    def reaches(self, node: Any) -> tuple[int, ...]:
        """The inputs that take part."""
        halves = self.gate == "half" and traits.factors(node) in ("values", "sums")
        return node.varying if halves else node.signal


@savable
@dataclass(frozen=True)
class Takes(Saved):
    """One factor of an elementwise product takes all of the relevance: its number."""

    factor: int

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        return [to_shape(rs[0], x) if i == self.factor else None for i, x in enumerate(xs)]

    def reaches(self, node: Any) -> tuple[int, ...]:
        """That factor."""
        return (self.factor,)


@savable
def softmax(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """R_x = x (R - y sum R): the Taylor expansion at the scores x. Source: Achtibat et al. 2024, proposition 3.1."""
    named = traits.axes(node, len(xs[0].shape))
    total = ops.sum(rs[0], axis=named, keepdims=True)
    return [widen(xs[0]) * (rs[0] - widen(ys[0]) * total)] + [None] * (len(xs) - 1)


@savable
@dataclass(frozen=True)
class Linear(Saved):
    """The epsilon rule of a linear node without a kernel (sums, means, pooling), also where the output cancels to 0.

    ``linear`` is for rules that conserve: it spreads what arrives at an output of exactly 0.
    """

    epsilon: float = 1e-7

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        shares = node.pullback(safe_divide(rs[0], widen(ys[0]), self.epsilon))
        return [None if s is None else widen(x) * s for x, s in zip(xs, shares, strict=True)]


def to_shape(r: Tensor, x: Tensor) -> Tensor:
    """The relevance of a broadcast operand: summed over the positions it was copied to."""
    if len(r.shape) == len(x.shape) and r.shape[1:] == x.shape[1:]:
        return r
    _, pullback = numerics.vjp(lambda t: t + ops.zeros_like(r), ops.cast(x, r.dtype))
    return pullback(r)[0]


@savable
def embedding(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """A token takes the relevance of all components of its vector (the Z rule on one-hot input)."""
    return [ops.sum(rs[0], axis=-1)]


@savable
def numbers(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """What moves the numbers of tokens moves their relevance."""
    moved, pullback = numerics.vjp(node.call, *(ops.zeros_like(x, dtype=rs[0].dtype) for x in xs))
    return pullback(*rs) if floating(moved[0]) else [rs[0]]  # a cast to integers


@savable
def embedding_gradient(node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
    """The derivative with respect to the one-hot coordinate of the token that is present."""
    return [ops.sum(widen(ys[0]) * rs[0], axis=-1)]
