"""All analyzers as data: one row a name."""

from __future__ import annotations

import inspect
from typing import Any

from innv_ext.analyzers.core.info import AnalyzerInfo, row
from innv_ext.analyzers.deep_lift.deep_lift import DeepLift
from innv_ext.analyzers.deep_lift.deep_shap import DeepShap
from innv_ext.analyzers.gradient.averaged import IntegratedGradients, SmoothGrad
from innv_ext.analyzers.gradient.baseline import Input, Random
from innv_ext.analyzers.gradient.grad_cam import GradCAM
from innv_ext.analyzers.gradient.gradient import Deconvnet, Gradient, GuidedBackprop, InputTimesGradient
from innv_ext.analyzers.gradient.gradient_shap import GradientShap
from innv_ext.analyzers.loss.cafo import CAFO, smooth
from innv_ext.analyzers.loss.caso import CASO
from innv_ext.analyzers.loss.moreau import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.lrp import composites as presets
from innv_ext.analyzers.lrp.lrp import LRP, DeepTaylor
from innv_ext.analyzers.pattern.pattern import PatternAttribution, PatternNet
from innv_ext.analyzers.prediction.kernel_shap import KernelShap
from innv_ext.analyzers.prediction.lime import Lime
from innv_ext.analyzers.prediction.occlusion import Occlusion
from innv_ext.analyzers.prediction.prediction_difference import PredictionDifference
from innv_ext.analyzers.rde.ordering import OrderingRDE
from innv_ext.analyzers.rde.rates import LagrangianRDE, MultiRateRDE, RateConstrainedRDE

_BACH = "Bach et al. 2015"
_LAPUSCHKIN = "Lapuschkin et al. 2017"
_MONTAVON = "Montavon et al. 2017"
_ZENNIT = "Anders et al. 2021"
_FW_RDE = "Macdonald et al. 2022"
_SHAP = "Lundberg and Lee 2017"
_PATTERN = "Kindermans et al. 2018"
_CASO = "Singla et al. 2019"
_MOREAU = "Zhang and Farnia 2022"


def _lrp(
    name: str, build: Any, reference: str = _BACH, cost: str = "1", sums_to: str = "", signed: bool = True
) -> AnalyzerInfo:
    description = (inspect.getdoc(build) or "").split(" (")[0].rstrip(".")
    return row(
        f"lrp.{name}", LRP, "lrp", description, reference, cost=cost, sums_to=sums_to, signed=signed, build=build
    )


_ABSORBED = "f_c up to biases and epsilon"
_EXACT = "f_c"
_BOTH_SIGNS = "f_c up to biases, where both signs occur"

ROWS = (
    row("input", Input, "baseline", "the input itself", "", cost="0.5"),
    row("random", Random, "baseline", "normal random values", "", cost="0.5"),
    row("gradient", Gradient, "gradient", "df_c/dx", "Simonyan et al. 2014"),
    row("gradient.baseline", Gradient, "gradient", "df_c/dx (the same as gradient)", "Simonyan et al. 2014"),
    row("input_t_gradient", InputTimesGradient, "gradient", "x * df_c/dx", "Shrikumar et al. 2016"),
    row(
        "smoothgrad",
        SmoothGrad,
        "gradient",
        "mean gradient at noisy copies of x",
        "Smilkov et al. 2017",
        cost="augment_by_n",
    ),
    row(
        "integrated_gradients",
        IntegratedGradients,
        "gradient",
        "gradients averaged on the line from a reference",
        "Sundararajan et al. 2017",
        cost="steps",
        sums_to="f_c(x) - f_c(reference)",
    ),
    row(
        "deconvnet",
        Deconvnet,
        "gradient",
        "positive signals only at ReLUs, forward ReLU ignored",
        "Zeiler and Fergus 2014",
        relu=True,
    ),
    row(
        "guided_backprop",
        GuidedBackprop,
        "gradient",
        "positive signals only at active ReLUs",
        "Springenberg et al. 2015",
        relu=True,
    ),
    row("lrp", LRP, "lrp", "any rule or table of rules (rule=, rules=)", _BACH, sums_to=_ABSORBED),
    _lrp("z", presets.lrp_z, sums_to=_ABSORBED),
    _lrp("z_IB", presets.lrp_z_ib, cost="1.5", sums_to=_EXACT),
    _lrp("epsilon", presets.lrp_epsilon, sums_to=_ABSORBED),
    _lrp("epsilon_IB", presets.lrp_epsilon_ib, cost="1.5", sums_to="f_c up to epsilon"),
    _lrp("alpha_beta", presets.lrp_alpha_beta, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp("alpha_2_beta_1", presets.lrp_alpha_2_beta_1, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp(
        "alpha_2_beta_1_IB",
        presets.lrp_alpha_2_beta_1_ib,
        cost="2.5",
        sums_to="f_c where contributions of both signs exist",
    ),
    _lrp("alpha_1_beta_0", presets.lrp_alpha_1_beta_0, cost="1.5", sums_to=_ABSORBED, signed=False),
    _lrp("alpha_1_beta_0_IB", presets.lrp_alpha_1_beta_0_ib, cost="1.5", sums_to=_EXACT, signed=False),
    _lrp("gamma", presets.lrp_gamma, "Montavon et al. 2019", cost="2.5", sums_to=_ABSORBED),
    _lrp("z_plus", presets.lrp_z_plus, _MONTAVON, cost="1.5", sums_to=_EXACT, signed=False),
    _lrp("z_plus_fast", presets.lrp_z_plus_fast, _MONTAVON, cost="1.5", sums_to=_EXACT, signed=False),
    _lrp("w_square", presets.lrp_w_square, _MONTAVON, sums_to=_EXACT, signed=False),
    _lrp("flat", presets.lrp_flat, _LAPUSCHKIN, sums_to=_EXACT, signed=False),
    row(
        "lrp.rule_until_idx",
        LRP,
        "lrp",
        "one rule, another up to a layer (rule=, until_layer=, until_layer_rule=)",
        _LAPUSCHKIN,
        sums_to=_ABSORBED,
    ),
    _lrp("sequential_preset_a", presets.preset_a, _LAPUSCHKIN, cost="1.5", sums_to=_ABSORBED),
    _lrp("sequential_preset_b", presets.preset_b, _LAPUSCHKIN, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp("sequential_preset_a_flat", presets.preset_a_flat, _LAPUSCHKIN, cost="1.5", sums_to=_ABSORBED),
    _lrp("sequential_preset_b_flat", presets.preset_b_flat, _LAPUSCHKIN, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp(
        "sequential_preset_b_flat_until_idx",
        presets.preset_b_flat_until_idx,
        _LAPUSCHKIN,
        cost="2.5",
        sums_to=_BOTH_SIGNS,
    ),
    _lrp("epsilon_plus", presets.epsilon_plus, _ZENNIT, cost="1.5", sums_to=_ABSORBED),
    _lrp("epsilon_plus_flat", presets.epsilon_plus_flat, _ZENNIT, cost="1.5", sums_to=_ABSORBED),
    _lrp("epsilon_gamma_box", presets.epsilon_gamma_box, _ZENNIT, cost="2.5", sums_to=_ABSORBED),
    _lrp("epsilon_alpha2_beta1", presets.epsilon_alpha2_beta1, _ZENNIT, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp("epsilon_alpha2_beta1_flat", presets.epsilon_alpha2_beta1_flat, _ZENNIT, cost="2.5", sums_to=_BOTH_SIGNS),
    _lrp(
        "excitation_backprop",
        presets.excitation_backprop,
        "Zhang et al. 2018",
        cost="1.5",
        sums_to=_EXACT,
        signed=False,
    ),
    row(
        "deep_taylor",
        DeepTaylor,
        "deep_taylor",
        "z+ inside, w^2 at the input",
        _MONTAVON,
        signed=False,
        relu=True,
        cost="1.5",
        sums_to="relu(f_c)",
    ),
    row(
        "deep_taylor.bounded",
        DeepTaylor,
        "deep_taylor",
        "z+ inside, z^B at the input (low=, high=)",
        _MONTAVON,
        signed=False,
        relu=True,
        cost="1.5",
        sums_to="relu(f_c)",
        build=lambda low, high: {"low": low, "high": high},
    ),
    row("pattern.net", PatternNet, "pattern", "learnt signal directions in place of weights", _PATTERN, fit=True),
    row(
        "pattern.attribution",
        PatternAttribution,
        "pattern",
        "weights times learnt signal directions in place of weights",
        _PATTERN,
        fit=True,
    ),
    row(
        "deep_lift",
        DeepLift,
        "reference",
        "contributions of the difference from a reference, by multipliers (rule=)",
        "Shrikumar et al. 2017",
        cost="1.5",
        sums_to="f_c(x) - f_c(reference)",
    ),
    row(
        "deep_shap",
        DeepShap,
        "reference",
        "deep_lift averaged over reference samples",
        _SHAP,
        fit=True,
        cost="2 * background",
        sums_to="f_c(x) - mean f_c(references)",
    ),
    row(
        "gradient_shap",
        GradientShap,
        "gradient",
        "gradients between references and x, times the difference",
        "Erion et al. 2021",
        fit=True,
        cost="samples",
    ),
    row(
        "occlusion",
        Occlusion,
        "prediction",
        "what the score loses when a patch is replaced",
        "Zeiler and Fergus 2014",
        cost="0.5 * patches",
    ),
    row(
        "lime",
        Lime,
        "prediction",
        "coefficients of a local linear model on segments",
        "Ribeiro et al. 2016",
        cost="0.5 * samples",
    ),
    row(
        "kernel_shap",
        KernelShap,
        "prediction",
        "Shapley values of segments by weighted regression",
        _SHAP,
        fit=True,
        cost="0.5 * samples * background",
        sums_to="f_c(x) - mean f_c(references)",
    ),
    row(
        "prediction_difference",
        PredictionDifference,
        "prediction",
        "evidence of a patch against what its surroundings let expect",
        "Zintgraf et al. 2017",
        fit=True,
        cost="0.5 * samples * patches",
    ),
    row(
        "grad_cam",
        GradCAM,
        "grad_cam",
        "where channels of a late layer that raise the score are active",
        "Selvaraju et al. 2017",
        signed=False,
    ),
    row(
        "l_rde",
        LagrangianRDE,
        "rde",
        "components that keep the score among noise, at a price each",
        "Macdonald et al. 2019",
        signed=False,
        fit=True,
        cost="3 * max_iter",
    ),
    row(
        "rc_rde",
        RateConstrainedRDE,
        "rde",
        "the k components that best keep the score among noise (rate=)",
        _FW_RDE,
        signed=False,
        fit=True,
        cost="3 * max_iter",
        sums_to="at most k",
    ),
    row(
        "mr_rde",
        MultiRateRDE,
        "rde",
        "the mean of rc_rde over several rates (rates=)",
        _FW_RDE,
        signed=False,
        fit=True,
        cost="3 * max_iter * rates",
    ),
    row(
        "ord_rde",
        OrderingRDE,
        "rde",
        "an ordering of all components that keeps the score at every rate",
        _FW_RDE,
        signed=False,
        fit=True,
        cost="3 * max_iter * rates",
    ),
    row("cafo", CAFO, "second_order", "sparse step that raises the loss most, to first order", _CASO, cost="1"),
    row(
        "caso",
        CASO,
        "second_order",
        "sparse step that raises the loss most, to second order",
        _CASO,
        cost="classes, or 1.5 * max_iter * values of lambda1",
    ),
    row(
        "smooth_cafo",
        CAFO,
        "second_order",
        "cafo with gradients averaged over noisy copies of x",
        _CASO,
        cost="augment_by_n",
        build=smooth,
    ),
    row(
        "smooth_caso",
        CASO,
        "second_order",
        "caso with gradients and Hessians averaged over noisy copies of x",
        _CASO,
        cost="augment_by_n * caso",
        build=smooth,
    ),
    row(
        "moreau_grad",
        MoreauGrad,
        "moreau",
        "gradient of the Moreau envelope of the score (rho=)",
        _MOREAU,
        cost="steps",
    ),
    row(
        "sparse_moreau_grad", SparseMoreauGrad, "moreau", "moreau_grad with an l1 penalty (eta=)", _MOREAU, cost="steps"
    ),
    row(
        "group_sparse_moreau_grad",
        GroupSparseMoreauGrad,
        "moreau",
        "moreau_grad with a penalty on groups of pixels (eta=, group_size=)",
        _MOREAU,
        cost="steps",
    ),
)
