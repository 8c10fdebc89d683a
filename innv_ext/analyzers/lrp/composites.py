"""The names of LRP as data: single rules, and composites, which have a rule for each kind of layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from innv_ext.analyzers.core.info import AnalyzerInfo, row
from innv_ext.analyzers.lrp.attention import attnlrp, cp_lrp
from innv_ext.analyzers.lrp.lrp import LRP
from innv_ext.analyzers.lrp.names import ABSORBED, BACH, BOTH_SIGNS, EXACT, LAPUSCHKIN, RULE_NAMES, RuleName
from innv_ext.analyzers.lrp.rules import AlphaBeta, Bounded, Epsilon, Flat, Gamma, ZPlus, beside
from innv_ext.backend.predicates import convolution, dense
from innv_ext.backend.rules import Rules

Params = dict[str, Any]
ZENNIT = "Anders et al. 2021"
ALPHA_1, ALPHA_2 = AlphaBeta(1.0, 0.0), AlphaBeta(2.0, 1.0)


def composite(conv: Any, epsilon: float, **more: Any) -> Params:
    """Dense nodes (and shifts beside affine nodes) by epsilon, convolutions by ``conv``; and other parameters."""
    inner = Epsilon(epsilon)
    return {"rule": Rules((convolution, conv), (dense, inner), *beside(inner)), **more}


def _single(known: RuleName) -> AnalyzerInfo:
    """The row of a rule, which takes the parameters that its name leaves open."""

    def build(**given: Any) -> Params:
        return {"rule": known(**given)}

    kind = inspect.Parameter.KEYWORD_ONLY
    build.__signature__ = inspect.Signature([inspect.Parameter(f.name, kind, default=f.default) for f in known.open()])
    facts = {"cost": known.cost, "sums_to": known.sums_to, "signed": known.signed}
    return row(f"lrp.{known.name}", LRP, "lrp", known.description, known.source, build=build, **facts)


def _preset(
    name: str, description: str, source: str, cost: str, sums_to: str, build: Callable[..., Params], **facts: Any
) -> AnalyzerInfo:
    return row(f"lrp.{name}", LRP, "lrp", description, source, cost=cost, sums_to=sums_to, build=build, **facts)


# fmt: off
ROWS = (
    row("lrp", LRP, "lrp", "any rule or table of rules (rule=, rules=)", BACH, sums_to=ABSORBED),
    *map(_single, RULE_NAMES.values()),
    row("lrp.rule_until_idx", LRP, "lrp", "one rule, another up to a layer (rule=, until_layer=, until_layer_rule=)",
        LAPUSCHKIN, sums_to=ABSORBED),
    _preset("sequential_preset_a", "Dense: epsilon; convolutions: alpha 1, beta 0", LAPUSCHKIN, "1.5", ABSORBED,
            lambda epsilon=0.1: composite(ALPHA_1, epsilon)),
    _preset("sequential_preset_b", "Dense: epsilon; convolutions: alpha 2, beta 1", LAPUSCHKIN, "2.5", BOTH_SIGNS,
            lambda epsilon=0.1: composite(ALPHA_2, epsilon)),
    _preset("sequential_preset_a_flat", "preset a, flat at the input layer", LAPUSCHKIN, "1.5", ABSORBED,
            lambda epsilon=0.1: composite(ALPHA_1, epsilon, input_layer_rule=Flat())),  # "LRP-*" of the thesis
    _preset("sequential_preset_b_flat", "preset b, flat at the input layer", LAPUSCHKIN, "2.5", BOTH_SIGNS,
            lambda epsilon=0.1: composite(ALPHA_2, epsilon, input_layer_rule=Flat())),
    _preset("sequential_preset_b_flat_until_idx", "preset b, flat up to and including until_layer=", LAPUSCHKIN, "2.5",
            BOTH_SIGNS, lambda until_layer, epsilon=0.1: composite(
                ALPHA_2, epsilon, until_layer=until_layer, until_layer_rule=Flat())),
    _preset("epsilon_plus", "Dense: epsilon; convolutions: z+", ZENNIT, "1.5", ABSORBED,
            lambda epsilon=1e-7: composite(ZPlus(), epsilon)),
    _preset("epsilon_plus_flat", "epsilon_plus, flat at the input layer", ZENNIT, "1.5", ABSORBED,
            lambda epsilon=1e-7: composite(ZPlus(), epsilon, input_layer_rule=Flat())),
    _preset("epsilon_gamma_box", "Dense: epsilon; convolutions: gamma; z^B with [low, high] at the input layer", ZENNIT,
            "2.5", ABSORBED, lambda low, high, epsilon=1e-7, gamma=0.25: composite(
                Gamma(gamma), epsilon, input_layer_rule=Bounded(low, high))),
    _preset("epsilon_alpha2_beta1", "Dense: epsilon; convolutions: alpha 2, beta 1", ZENNIT, "2.5", BOTH_SIGNS,
            lambda epsilon=1e-7: composite(ALPHA_2, epsilon)),
    _preset("epsilon_alpha2_beta1_flat", "epsilon_alpha2_beta1, flat at the input layer", ZENNIT, "2.5", BOTH_SIGNS,
            lambda epsilon=1e-7: composite(ALPHA_2, epsilon, input_layer_rule=Flat())),
    _preset("attnlrp", "attention, softmax and gates by AttnLRP, all else by epsilon", "Achtibat et al. 2024", "1.25",
            "nothing in particular", attnlrp),
    _preset("cp_lrp", "attention weights and gates are constants, all else by epsilon", "Ali et al. 2022", "1.25",
            "f_c up to biases, constants and epsilon", cp_lrp),
    _preset("excitation_backprop", "z+ at every affine node", "Zhang et al. 2018", "1.5", EXACT,
            lambda: {"rule": ZPlus()}, signed=False),
)
