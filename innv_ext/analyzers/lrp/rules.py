"""The reverse rules of LRP and Deep Taylor, in the papers' symbols (x, z, r, w, b).

Every rule of an affine node z = w x + b is the proportional rule

    R = sum_k x_k * vjp(x -> w_k x)(r / stabilise(z')),    z' = sum_k w_k x_k + b'

with other inputs x_k, kernels w_k and bias b' (Bach et al. 2015; Montavon et al. 2017). A rule is called with
``(node, xs, ys, rs)`` and returns one relevance per input of the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.backend import numerics
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Node
from innv_ext.backend.numerics import safe_divide, widen
from innv_ext.errors import InvalidInputError

Tensor = Any
Tensors = tuple[Tensor, ...]
Relevance = Sequence[Tensor | None]


def positive(t: Tensor) -> Tensor:
    """max(t, 0)."""
    return ops.relu(t)


def negative(t: Tensor) -> Tensor:
    """min(t, 0)."""
    return ops.minimum(t, ops.cast(0.0, t.dtype))  # one pass over large kernels, unlike -relu(-t)


def proportional(
    affine: Affine,
    terms: Sequence[tuple[Tensor, Tensor]],
    r: Tensor,
    bias: Tensor | None = None,
    epsilon: float = 0.0,
    sign: int = 0,
) -> list[Tensor]:
    """One relevance per term (x_k, w_k): each gets its share of r in z' = sum_k w_k x_k + bias.

    ``sign`` is +1 or -1 where all contributions are known to have that sign.
    """
    products = [numerics.vjp(lambda x, w=w: affine.bilinear(x, w), x) for x, w in terms]
    z = sum(ys[0] for ys, _ in products)
    s = safe_divide(r, z if bias is None else z + bias, epsilon, sign)
    return [x * pullback(s)[0] for (x, _), (_, pullback) in zip(terms, products, strict=True)]


def _parts(node: Node, xs: Tensors) -> tuple[Affine, Tensor, Tensor, bool]:
    affine = node.call
    assert isinstance(affine, Affine), f"{node.name} is not affine"
    w = affine.kernel()
    return affine, affine.cast(xs[0], w), w, bool(node.nonnegative) and node.nonnegative[0]


def _bias(affine: Affine, x: Tensor, use: bool) -> Tensor | None:
    return affine.bias(x) if use else None


# --- affine nodes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epsilon:
    """Contributions x w in z = w x + b, stabilised by ``epsilon * sign(z)``; ``bias=False`` leaves b out of z.

    ``Epsilon(epsilon=0)`` is the Z rule: only z = 0 is stabilised. Source: Bach et al. 2015, equation 58.
    """

    epsilon: float = 1e-7
    bias: bool = True

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        if not self.bias:
            affine, x, w, _ = _parts(node, xs)
            return proportional(affine, [(x, w)], rs[0], None, self.epsilon)
        s = safe_divide(rs[0], widen(ys[0]), self.epsilon)
        return [widen(xs[0]) * node.pullback(s)[0]]


@dataclass(frozen=True)
class AlphaBeta:
    """alpha times the positive contributions minus beta times the negative ones, alpha - beta = 1.

    Positive denominators carry b+, negative ones b-; ``bias=False`` leaves both out. Source: Bach et al. 2015,
    equation 60. An input that the graph proves non-negative needs half of the convolutions.
    """

    alpha: float = 2.0
    beta: float = 1.0
    bias: bool = True

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-6 or self.beta < 0:
            raise InvalidInputError(
                f"AlphaBeta needs alpha - beta = 1 and beta >= 0, got alpha={self.alpha}, beta={self.beta}."
            )

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = _parts(node, xs)
        b = _bias(affine, x, self.bias)
        up = signed_terms(x, w, nonnegative, +1)
        total = self.alpha * sum(proportional(affine, up, rs[0], None if b is None else positive(b), sign=+1))
        if self.beta:
            down = signed_terms(x, w, nonnegative, -1)
            total -= self.beta * sum(proportional(affine, down, rs[0], None if b is None else negative(b), sign=-1))
        return [total]


def signed_terms(x: Tensor, w: Tensor, nonnegative: bool, sign: int) -> list[tuple[Tensor, Tensor]]:
    """The (input, kernel) pairs whose products are all non-negative (sign +1) or all non-positive (sign -1)."""
    same, other = (positive(w), negative(w)) if sign > 0 else (negative(w), positive(w))
    return [(x, same)] if nonnegative else [(positive(x), same), (negative(x), other)]


@dataclass(frozen=True)
class ZPlus:
    """Contributions x w+ of a non-negative x; x+ w+ + x- w- in general. No bias. Source: Montavon et al. 2017.

    ``general=False`` skips the general case: x w+ whatever the sign of x (``lrp.z_plus_fast``).
    """

    general: bool = True

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = _parts(node, xs)
        terms = signed_terms(x, w, nonnegative or not self.general, +1)
        exact = self.general or nonnegative
        return [sum(proportional(affine, terms, rs[0], sign=+1 if exact else 0))]


@dataclass(frozen=True)
class Gamma:
    """Contributions c + gamma c+ where z > 0 and c + gamma c- elsewhere (c = x w, the bias likewise).

    On non-negative inputs and z > 0 this is w + gamma w+ (Montavon et al. 2019); the other cases follow the
    generalised rule (Andeol et al. 2021).
    """

    gamma: float = 0.25
    bias: bool = True

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = _parts(node, xs)
        b = _bias(affine, x, self.bias)
        above = (widen(ys[0]) if self.bias else affine.bilinear(x, w)) > 0
        total = 0.0
        for sign, where in ((+1, above), (-1, ops.logical_not(above))):
            signed = positive if sign > 0 else negative
            terms = [(part, w + self.gamma * k) for part, k in signed_terms(x, w, nonnegative, sign)]
            raised = None if b is None else b + self.gamma * signed(b)
            r = ops.where(where, rs[0], ops.zeros_like(rs[0]))
            total = total + sum(proportional(affine, terms, r, raised))
        return [total]


@dataclass(frozen=True)
class WSquare:
    """Contributions w^2, whatever the input. Source: Montavon et al. 2017, table 1."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, _ = _parts(node, xs)
        return [_unit_share(affine, x, ops.square(w), rs[0])]


@dataclass(frozen=True)
class Flat:
    """Equal contributions of all inputs of a neuron; zero padding does not count. Source: Lapuschkin et al. 2017."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, _ = _parts(node, xs)
        return [_unit_share(affine, x, ops.ones_like(w), rs[0])]


def _unit_share(affine: Affine, x: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """The proportional rule at x' = 1. Its denominator is the same for all samples: computed for one."""
    z = affine.bilinear(ops.ones_like(x[:1]), w)
    _, pullback = numerics.vjp(lambda ones: affine.bilinear(ones, w), ops.ones_like(x))
    return pullback(safe_divide(r, z, sign=+1))[0]


@dataclass(frozen=True)
class Bounded:
    """z^B: contributions x w - low w+ - high w- for inputs in [low, high]. Source: Montavon et al. 2017, table 1.

    ``low`` and ``high`` are numbers or (nested) lists that broadcast against one sample.
    """

    low: Any = 0.0
    high: Any = 1.0

    def __post_init__(self) -> None:
        low, high = (arguments.numbers(name, getattr(self, name)) for name in ("low", "high"))
        try:
            crossed = bool(np.any(low > high))
        except ValueError as error:
            raise InvalidInputError(
                f"low has shape {low.shape} and high {high.shape}; both must broadcast to one sample."
            ) from error
        if crossed:
            raise InvalidInputError(f"low must not exceed high, got low={self.low!r}, high={self.high!r}.")

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, _ = _parts(node, xs)
        bounds = (np.asarray(v, keras.backend.standardize_dtype(x.dtype)) for v in (self.low, self.high))
        low, high = (ops.zeros_like(x) + ops.convert_to_tensor(v) for v in bounds)
        terms = [(x, w), (-low, positive(w)), (-high, negative(w))]
        return [sum(proportional(affine, terms, rs[0]))]


@dataclass(frozen=True)
class HuiBinder:
    """BatchNormalization with weights 2, -1, 0, 0 for x+w+, x+w-, x-w+, x-w-. Source: thesis A.3 (Hui, Binder 2018)."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, _ = _parts(node, xs)
        b = affine.bias(x)
        up = proportional(affine, [(positive(x), positive(w))], rs[0], positive(b))[0]
        down = proportional(affine, [(positive(x), negative(w))], rs[0], negative(b))[0]
        return [2 * up - down]


AFFINE_RULES: tuple[type, ...] = (Epsilon, AlphaBeta, ZPlus, Gamma, WSquare, Flat, Bounded)
