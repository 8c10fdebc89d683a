"""The reverse rules of LRP and Deep Taylor, in the papers' symbols (x, z, r, w, b).

Every rule of an affine node z = w x + b is the proportional rule

    R = sum_k x_k * vjp(x -> w_k x)(r / stabilise(z')),    z' = sum_k w_k x_k + b'

with other inputs x_k, kernels w_k and bias b' (Bach et al. 2015; Montavon et al. 2017). A rule is called with
``(node, xs, ys, rs)`` and returns one relevance per input of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.node_rules import LayerNorm, ScaleShift
from innv_ext.analyzers.lrp.names import ABSORBED, BOTH_SIGNS, LAPUSCHKIN, MONTAVON, rule
from innv_ext.backend import numerics
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Node
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import negative, positive, safe_divide, widen
from innv_ext.backend.predicates import Saved, centres, kind_is, savable, shifted
from innv_ext.errors import InvalidInputError

Tensor = Any
Tensors = tuple[Tensor, ...]
Relevance = Sequence[Tensor | None]


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
    products, z = weighed(affine, terms)
    s = safe_divide(r, z if bias is None else z + bias, epsilon, sign)
    return [x * pullback(s)[0] for x, pullback in products]


def weighed(affine: Affine, terms: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[tuple[Tensor, Any]], Tensor]:
    """(x_k, pullback of x -> w_k x) of each term, and the sum of all w_k x_k."""
    products = [numerics.vjp(lambda x, w=w: affine.bilinear(x, w), x) for x, w in terms]
    pullbacks = [(x, pullback) for (x, _), (_, pullback) in zip(terms, products, strict=True)]
    return pullbacks, sum(ys[0] for ys, _ in products)


def parts(node: Node, xs: Tensors) -> tuple[Affine, Tensor, Tensor, bool]:
    """The affine map, its input and its kernel in one dtype, and whether no input is negative."""
    affine = node.call
    assert isinstance(affine, Affine), f"{node.name} is not affine"
    w = affine.kernel()
    return affine, affine.cast(xs[0], w), w, bool(node.nonnegative) and node.nonnegative[0]


@dataclass(frozen=True, eq=False)
class Domain:
    """What can enter an affine node: constants such as padded zeros are no inputs, and inputs lie between bounds.

    Attributes
    ----------
    present : one sample, 1 where a value is an input and 0 where it is a constant; None: all are inputs
    bounds : least and largest value, shaped like x; None: those of the rule
    """

    present: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    def inputs(self, x: Tensor) -> Tensor:
        """One sample of ones, and zeros for constants."""
        return ops.ones_like(x[:1]) if self.present is None else ops.cast(self.present, x.dtype)


ANY = Domain()


# --- affine nodes ------------------------------------------------------------------------------------------------


class AffineRule(Saved):
    """Base of the rules of affine nodes; a dataclass."""

    def __post_init__(self) -> None:
        arguments.check_fields(self)


@rule("z", "Z rule", sums_to=ABSORBED, epsilon=0.0, bias=True)
@rule("z_IB", "Z rule, bias left out of the denominators", cost="1.5", epsilon=0.0, bias=False)
@rule("epsilon", "Epsilon rule", sums_to=ABSORBED)
@rule("epsilon_IB", "Epsilon rule without bias", cost="1.5", sums_to="f_c up to epsilon", bias=False)
@dataclass(frozen=True)
class Epsilon(AffineRule):
    """Contributions x w in z = w x + b, stabilised by ``epsilon * sign(z)``; ``bias=False`` leaves b out of z.

    ``Epsilon(epsilon=0)`` is the Z rule: only z = 0 is stabilised. Source: Bach et al. 2015, equation 58.
    """

    epsilon: float = arguments.at_least(0, 1e-7)
    bias: bool = arguments.flag(True)

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        if not self.bias:
            affine, x, w, _ = parts(node, xs)
            return proportional(affine, [(x, w)], rs[0], None, self.epsilon)
        s = safe_divide(rs[0], widen(ys[0]), self.epsilon)
        return [widen(xs[0]) * node.pullback(s)[0]]


@rule("alpha_beta", "alpha-beta rule", cost="2.5", sums_to=BOTH_SIGNS)
@rule("alpha_2_beta_1", "alpha 2, beta 1", cost="2.5", sums_to=BOTH_SIGNS, alpha=2.0, beta=1.0, bias=True)
@rule(
    "alpha_2_beta_1_IB",
    "alpha 2, beta 1, without bias",
    cost="2.5",
    sums_to="f_c where contributions of both signs exist",
    alpha=2.0,
    beta=1.0,
    bias=False,
)
@rule(
    "alpha_1_beta_0", "alpha 1, beta 0", cost="1.5", sums_to=ABSORBED, signed=False, alpha=1.0, beta=0.0, bias=True
)
@rule("alpha_1_beta_0_IB", "alpha 1, beta 0, without bias", cost="1.5", signed=False, alpha=1.0, beta=0.0, bias=False)
@dataclass(frozen=True)
class AlphaBeta(AffineRule):
    """alpha times the positive contributions minus beta times the negative ones, alpha - beta = 1.

    Positive denominators carry b+, negative ones b-; ``bias=False`` leaves both out. Source: Bach et al. 2015,
    equation 60. An input that the graph proves non-negative needs half of the convolutions.
    """

    alpha: float = arguments.at_least(0, 2.0)
    beta: float = arguments.at_least(0, 1.0)
    bias: bool = arguments.flag(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(self.alpha - self.beta - 1) > 1e-6:
            raise InvalidInputError(f"AlphaBeta needs alpha - beta = 1, got alpha={self.alpha}, beta={self.beta}.")

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = parts(node, xs)
        b = affine.bias(x) if self.bias else None
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


@rule("gamma", "gamma rule", "Montavon et al. 2019", cost="2.5", sums_to=ABSORBED)
@dataclass(frozen=True)
class Gamma(AffineRule):
    """Contributions c + gamma c+ where z > 0 and c + gamma c- elsewhere (c = x w, the bias likewise).

    On non-negative inputs and z > 0 this is w + gamma w+ (Montavon et al. 2019); the other cases follow the
    generalised rule (Andeol et al. 2021).
    """

    gamma: float = arguments.at_least(0, 0.25)
    bias: bool = arguments.flag(True)

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = parts(node, xs)
        b = affine.bias(x) if self.bias else None
        above = (widen(ys[0]) if self.bias else affine.bilinear(x, w)) > 0
        total = 0.0
        for sign, where in ((+1, above), (-1, ops.logical_not(above))):
            signed = positive if sign > 0 else negative
            terms = [(part, w + self.gamma * k) for part, k in signed_terms(x, w, nonnegative, sign)]
            raised = None if b is None else b + self.gamma * signed(b)
            r = ops.where(where, rs[0], ops.zeros_like(rs[0]))
            total = total + sum(proportional(affine, terms, r, raised))
        return [total]


@rule("z_plus", "z+ rule", MONTAVON, cost="1.5", signed=False, general=True)
@rule("z_plus_fast", "z+ rule that takes inputs as non-negative", MONTAVON, cost="1.5", general=False)
@dataclass(frozen=True)
class ZPlus(AffineRule):
    """Contributions x w+ of a non-negative x; x+ w+ + x- w- in general. No bias. Source: Montavon et al. 2017.

    ``general=False`` skips the general case: x w+ whatever the sign of x (``lrp.z_plus_fast``).
    """

    general: bool = arguments.flag(True)

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, nonnegative = parts(node, xs)
        exact = self.general or nonnegative
        return [sum(proportional(affine, self.terms(x, w, nonnegative), rs[0], sign=+1 if exact else 0))]

    def terms(self, x: Tensor, w: Tensor, nonnegative: bool, domain: Domain = ANY) -> list[tuple[Tensor, Tensor]]:
        """The (input, kernel) pairs of the contributions."""
        return signed_terms(x, w, nonnegative or not self.general, +1)


@rule("w_square", "w^2 rule", MONTAVON, signed=False)
@dataclass(frozen=True)
class WSquare(AffineRule):
    """Contributions w^2, whatever the input. Source: Montavon et al. 2017, table 1."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors, domain: Domain = ANY) -> Relevance:
        return [_unit_share(node, xs, rs[0], ops.square, domain)]


@rule("flat", "Flat rule", LAPUSCHKIN, signed=False)
@dataclass(frozen=True)
class Flat(AffineRule):
    """Equal contributions of all inputs of a neuron; zero padding does not count. Source: Lapuschkin et al. 2017."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors, domain: Domain = ANY) -> Relevance:
        return [_unit_share(node, xs, rs[0], ops.ones_like, domain)]


@savable
@dataclass(frozen=True)
class Bounded(AffineRule):
    """z^B: contributions x w - low w+ - high w- for inputs in [low, high]. Source: Montavon et al. 2017, table 1.

    ``low`` and ``high`` are numbers or (nested) lists that broadcast against one sample of what enters the node.
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

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors, domain: Domain = ANY) -> Relevance:
        affine, x, w, nonnegative = parts(node, xs)
        return [sum(proportional(affine, self.terms(x, w, nonnegative, domain), rs[0]))]

    def terms(self, x: Tensor, w: Tensor, nonnegative: bool, domain: Domain = ANY) -> list[tuple[Tensor, Tensor]]:
        """(x - low) w+ and (x - high) w-: no differences of large numbers near a bound."""
        ends = domain.bounds or self.ends
        above, below = (domain.inputs(x) * (x - ops.cast(end, x.dtype)) for end in ends)
        return [(above, positive(w)), (below, negative(w))]

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Both bounds in float64."""
        return np.asarray(self.low, "float64"), np.asarray(self.high, "float64")


@savable
@dataclass(frozen=True)
class InputBounded(Bounded):
    """z^B at the first affine nodes, with bounds of the model's own input.

    LRP and Deep Taylor carry them forward through what rescales or moves the input. Elsewhere it is ``Bounded``.
    """


DOMAIN_RULES = (WSquare, Flat, Bounded, InputBounded)  # those that give relevance to inputs that are zero


def _unit_share(node: Any, xs: Tensors, r: Tensor, kernel: Callable[[Tensor], Tensor], domain: Domain) -> Tensor:
    """The proportional rule at x' = 1 and w' = kernel(w). All samples have one denominator: computed for one."""
    affine, x, w, _ = parts(node, xs)
    w, inputs = kernel(w), domain.inputs(x)
    z = affine.bilinear(inputs, w)
    _, pullback = numerics.vjp(lambda ones: affine.bilinear(ones, w), ops.ones_like(x))
    share = pullback(safe_divide(r, z, sign=+1))[0]
    return share if domain.present is None else inputs * share


@savable
@dataclass(frozen=True)
class HuiBinder(AffineRule):
    """BatchNormalization with weights 2, -1, 0, 0 for x+w+, x+w-, x-w+, x-w-. Source: thesis A.3 (Hui, Binder 2018)."""

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> Relevance:
        affine, x, w, _ = parts(node, xs)
        b = affine.bias(x)
        up = proportional(affine, [(positive(x), positive(w))], rs[0], positive(b))[0]
        down = proportional(affine, [(positive(x), negative(w))], rs[0], negative(b))[0]
        return [2 * up - down]



def beside(rule: Any) -> list[tuple[Any, Any]]:
    """Rows for the shifts beside affine nodes, which follow ``rule``: its epsilon, and whether biases have a share."""
    own = isinstance(rule, AffineRule)
    shift = getattr(rule, "epsilon", Epsilon().epsilon), bool(getattr(rule, "bias", not own))
    return [(kind_is(Kind.BATCHNORM), ScaleShift(*shift)), (shifted, ScaleShift(*shift)), (centres, LayerNorm(*shift))]
