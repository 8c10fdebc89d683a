"""All analyzers as data: one row a name."""

from __future__ import annotations

from innv_ext.analyzers.core.info import row
from innv_ext.analyzers.deep_lift.deep_lift import DeepLift
from innv_ext.analyzers.deep_lift.deep_shap import DeepShap
from innv_ext.analyzers.gradient.averaged import IntegratedGradients, SmoothGrad
from innv_ext.analyzers.gradient.baseline import Input, Random
from innv_ext.analyzers.gradient.grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from innv_ext.analyzers.gradient.gradient import Deconvnet, Gradient, GuidedBackprop, InputTimesGradient
from innv_ext.analyzers.gradient.gradient_shap import GradientShap
from innv_ext.analyzers.gradient.score_cam import ScoreCAM
from innv_ext.analyzers.loss.cafo import CAFO, smooth
from innv_ext.analyzers.loss.caso import CASO
from innv_ext.analyzers.loss.moreau import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.lrp import composites
from innv_ext.analyzers.lrp.lrp import DeepTaylor
from innv_ext.analyzers.lrp.names import MONTAVON
from innv_ext.analyzers.pattern.pattern import PatternAttribution, PatternNet
from innv_ext.analyzers.prediction.kernel_shap import KernelShap
from innv_ext.analyzers.prediction.lime import Lime
from innv_ext.analyzers.prediction.occlusion import Occlusion
from innv_ext.analyzers.prediction.prediction_difference import PredictionDifference
from innv_ext.analyzers.prediction.rise import Rise
from innv_ext.analyzers.rde.ordering import OrderingRDE
from innv_ext.analyzers.rde.rates import LagrangianRDE, MultiRateRDE, RateConstrainedRDE

_FW_RDE = "Macdonald et al. 2022"
_SHAP = "Lundberg and Lee 2017"
_PATTERN = "Kindermans et al. 2018"
_CASO = "Singla et al. 2019"
_MOREAU = "Zhang and Farnia 2022"

# fmt: off
ROWS = (
    row("input", Input, "baseline", "the input itself", "", cost="0.5"),
    row("random", Random, "baseline", "normal random values", "", cost="0.5"),
    row("gradient", Gradient, "gradient", "df_c/dx", "Simonyan et al. 2014"),
    row("gradient.baseline", Gradient, "gradient", "df_c/dx (the same as gradient)", "Simonyan et al. 2014"),
    row("input_t_gradient", InputTimesGradient, "gradient", "x * df_c/dx", "Shrikumar et al. 2016"),
    row("smoothgrad", SmoothGrad, "gradient", "mean gradient at noisy copies of x", "Smilkov et al. 2017",
        cost="augment_by_n"),
    row("integrated_gradients", IntegratedGradients, "gradient", "gradients averaged on the line from a reference",
        "Sundararajan et al. 2017", cost="steps", sums_to="f_c(x) - f_c(reference)"),
    row("deconvnet", Deconvnet, "gradient", "positive signals only at ReLUs, forward ReLU ignored",
        "Zeiler and Fergus 2014", relu=True),
    row("guided_backprop", GuidedBackprop, "gradient", "positive signals only at active ReLUs",
        "Springenberg et al. 2015", relu=True),
    *composites.ROWS,
    row("deep_taylor", DeepTaylor, "deep_taylor", "z+ inside, w^2 at the input", MONTAVON, cost="1.5",
        sums_to="relu(f_c)", signed=False, relu=True),
    row("deep_taylor.bounded", DeepTaylor, "deep_taylor", "z+ inside, z^B at the input (low=, high=)", MONTAVON,
        cost="1.5", sums_to="relu(f_c)", signed=False, relu=True, build=lambda low, high: {"low": low, "high": high}),
    row("pattern.net", PatternNet, "pattern", "learnt signal directions in place of weights", _PATTERN),
    row("pattern.attribution", PatternAttribution, "pattern",
        "weights times learnt signal directions in place of weights", _PATTERN),
    row("deep_lift", DeepLift, "reference", "contributions of the difference from a reference, by multipliers (rule=)",
        "Shrikumar et al. 2017", cost="1.5", sums_to="f_c(x) - f_c(reference)"),
    row("deep_shap", DeepShap, "reference", "deep_lift averaged over reference samples", _SHAP, cost="2 * background",
        sums_to="f_c(x) - mean f_c(references)"),
    row("gradient_shap", GradientShap, "gradient", "gradients between references and x, times the difference",
        "Erion et al. 2021", cost="samples"),
    row("occlusion", Occlusion, "prediction", "what the score loses when a patch is replaced", "Zeiler and Fergus 2014",
        cost="0.5 * patches"),
    row("lime", Lime, "prediction", "coefficients of a local linear model on segments", "Ribeiro et al. 2016",
        cost="0.5 * samples"),
    row("kernel_shap", KernelShap, "prediction", "Shapley values of segments by weighted regression", _SHAP,
        cost="0.5 * samples * background", sums_to="f_c(x) - mean f_c(references)"),
    row("prediction_difference", PredictionDifference, "prediction",
        "evidence of a patch against what its surroundings let expect", "Zintgraf et al. 2017",
        cost="0.5 * samples * patches"),
    row("rise", Rise, "prediction", "the mean score of randomly masked copies in which a component is shown",
        "Petsiuk et al. 2018", cost="0.5 * samples"),
    row("grad_cam", GradCAM, "grad_cam", "where channels of a late layer that raise the score are active",
        "Selvaraju et al. 2017", signed=False),
    row("grad_cam_plus_plus", GradCAMPlusPlus, "grad_cam", "grad_cam with weights of channels from single positions",
        "Chattopadhay et al. 2018", signed=False),
    row("layer_cam", LayerCAM, "grad_cam", "where a layer is active and raises the score, each position by itself",
        "Jiang et al. 2021", signed=False),
    row("score_cam", ScoreCAM, "grad_cam", "channels of a late layer, weighted by the score of x seen through them",
        "Wang et al. 2020", cost="0.5 * channels", signed=False),
    row("l_rde", LagrangianRDE, "rde", "components that keep the score among noise, at a price each",
        "Macdonald et al. 2019", cost="3 * max_iter", signed=False),
    row("rc_rde", RateConstrainedRDE, "rde", "the k components that best keep the score among noise (rate=)", _FW_RDE,
        cost="3 * max_iter", sums_to="at most k", signed=False),
    row("mr_rde", MultiRateRDE, "rde", "the mean of rc_rde over several rates (rates=)", _FW_RDE,
        cost="3 * max_iter * rates", signed=False),
    row("ord_rde", OrderingRDE, "rde", "an ordering of all components that keeps the score at every rate", _FW_RDE,
        cost="3 * max_iter * rates", signed=False),
    row("cafo", CAFO, "second_order", "sparse step that raises the loss most, to first order", _CASO),
    row("caso", CASO, "second_order", "sparse step that raises the loss most, to second order", _CASO,
        cost="classes, or 1.5 * max_iter * values of lambda1"),
    row("smooth_cafo", CAFO, "second_order", "cafo with gradients averaged over noisy copies of x", _CASO,
        cost="augment_by_n", build=smooth),
    row("smooth_caso", CASO, "second_order", "caso with gradients and Hessians averaged over noisy copies of x", _CASO,
        cost="augment_by_n * caso", build=smooth),
    row("moreau_grad", MoreauGrad, "moreau", "gradient of the Moreau envelope of the score (rho=)", _MOREAU,
        cost="steps"),
    row("sparse_moreau_grad", SparseMoreauGrad, "moreau", "moreau_grad with an l1 penalty (eta=)", _MOREAU,
        cost="steps"),
    row("group_sparse_moreau_grad", GroupSparseMoreauGrad, "moreau",
        "moreau_grad with a penalty on groups of pixels (eta=, group_size=)", _MOREAU, cost="steps"),
)
