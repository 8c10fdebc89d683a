"""The named LRP composites as tables: what ``create_analyzer("lrp.…")`` passes to ``LRP``."""

from __future__ import annotations

from typing import Any

from innv_ext.analyzers.core.node_rules import ScaleShift
from innv_ext.analyzers.lrp.rules import AlphaBeta, Bounded, Epsilon, Flat, Gamma, WSquare, ZPlus
from innv_ext.backend.kinds import Kind
from innv_ext.backend.rules import Rules, convolution, dense, kind_is

Params = dict[str, Any]


def composite(conv: Any, epsilon: float) -> Rules:
    """Dense nodes (and unfolded batch normalisation) by epsilon, convolutions by ``conv``."""
    return Rules((convolution, conv), (dense, Epsilon(epsilon)), (kind_is(Kind.BATCHNORM), ScaleShift(epsilon)))


def lrp_z() -> Params:
    """Z rule."""
    return {"rule": Epsilon(0.0)}


def lrp_z_ib() -> Params:
    """Z rule, bias left out of the denominators."""
    return {"rule": Epsilon(0.0, bias=False)}


def lrp_epsilon(epsilon: float = 1e-7, bias: bool = True) -> Params:
    """Epsilon rule."""
    return {"rule": Epsilon(epsilon, bias)}


def lrp_epsilon_ib(epsilon: float = 1e-7) -> Params:
    """Epsilon rule without bias."""
    return {"rule": Epsilon(epsilon, bias=False)}


def lrp_alpha_beta(alpha: float = 2.0, beta: float = 1.0, bias: bool = True) -> Params:
    """alpha-beta rule."""
    return {"rule": AlphaBeta(alpha, beta, bias)}


def lrp_alpha_2_beta_1() -> Params:
    """alpha 2, beta 1."""
    return {"rule": AlphaBeta(2.0, 1.0)}


def lrp_alpha_2_beta_1_ib() -> Params:
    """alpha 2, beta 1, without bias."""
    return {"rule": AlphaBeta(2.0, 1.0, bias=False)}


def lrp_alpha_1_beta_0() -> Params:
    """alpha 1, beta 0."""
    return {"rule": AlphaBeta(1.0, 0.0)}


def lrp_alpha_1_beta_0_ib() -> Params:
    """alpha 1, beta 0, without bias."""
    return {"rule": AlphaBeta(1.0, 0.0, bias=False)}


def lrp_gamma(gamma: float = 0.25, bias: bool = True) -> Params:
    """gamma rule."""
    return {"rule": Gamma(gamma, bias)}


def lrp_z_plus() -> Params:
    """z+ rule."""
    return {"rule": ZPlus()}


def lrp_z_plus_fast() -> Params:
    """z+ rule that takes inputs as non-negative."""
    return {"rule": ZPlus(general=False)}


def lrp_w_square() -> Params:
    """w^2 rule."""
    return {"rule": WSquare()}


def lrp_flat() -> Params:
    """Flat rule."""
    return {"rule": Flat()}


def preset_a(epsilon: float = 0.1) -> Params:
    """Dense: epsilon; convolutions: alpha 1, beta 0 (Lapuschkin et al. 2017)."""
    return {"rule": composite(AlphaBeta(1.0, 0.0), epsilon)}


def preset_b(epsilon: float = 0.1) -> Params:
    """Dense: epsilon; convolutions: alpha 2, beta 1."""
    return {"rule": composite(AlphaBeta(2.0, 1.0), epsilon)}


def preset_a_flat(epsilon: float = 0.1) -> Params:
    """preset a, flat at the input layer ("LRP-*" of the thesis)."""
    return {**preset_a(epsilon), "input_layer_rule": Flat()}


def preset_b_flat(epsilon: float = 0.1) -> Params:
    """preset b, flat at the input layer."""
    return {**preset_b(epsilon), "input_layer_rule": Flat()}


def preset_b_flat_until_idx(until_layer: int | str, epsilon: float = 0.1) -> Params:
    """preset b, flat up to and including until_layer=."""
    return {**preset_b(epsilon), "until_layer": until_layer, "until_layer_rule": Flat()}


def epsilon_plus(epsilon: float = 1e-7) -> Params:
    """Dense: epsilon; convolutions: z+."""
    return {"rule": composite(ZPlus(), epsilon)}


def epsilon_plus_flat(epsilon: float = 1e-7) -> Params:
    """epsilon_plus, flat at the input layer."""
    return {**epsilon_plus(epsilon), "input_layer_rule": Flat()}


def epsilon_gamma_box(low: Any, high: Any, epsilon: float = 1e-7, gamma: float = 0.25) -> Params:
    """Dense: epsilon; convolutions: gamma; z^B with [low, high] at the input layer."""
    return {"rule": composite(Gamma(gamma), epsilon), "input_layer_rule": Bounded(low, high)}


def epsilon_alpha2_beta1(epsilon: float = 1e-7) -> Params:
    """Dense: epsilon; convolutions: alpha 2, beta 1."""
    return {"rule": composite(AlphaBeta(2.0, 1.0), epsilon)}


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-7) -> Params:
    """epsilon_alpha2_beta1, flat at the input layer."""
    return {**epsilon_alpha2_beta1(epsilon), "input_layer_rule": Flat()}


def excitation_backprop() -> Params:
    """z+ at every affine node (Zhang et al. 2018)."""
    return {"rule": ZPlus()}
