"""All analyzers as data: one row a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from innv_ext.analyzers import presets
from innv_ext.analyzers.averaged import IntegratedGradients, SmoothGrad
from innv_ext.analyzers.base import Analyzer
from innv_ext.analyzers.baseline import Input, Random
from innv_ext.analyzers.cafo import CAFO, smooth
from innv_ext.analyzers.caso import CASO
from innv_ext.analyzers.gradient import Deconvnet, Gradient, GuidedBackprop, InputTimesGradient
from innv_ext.analyzers.lrp import LRP, DeepTaylor
from innv_ext.analyzers.moreau import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.ord_rde import OrderingRDE
from innv_ext.analyzers.pattern import PatternAttribution, PatternNet
from innv_ext.analyzers.rde import LagrangianRDE, MultiRateRDE, RateConstrainedRDE


@dataclass(frozen=True)
class AnalyzerInfo:
    """What ``list_analyzers`` tells about one analyzer.

    Attributes
    ----------
    name : for ``create_analyzer``
    cls : the class behind it
    family : "baseline", "gradient", "lrp", "deep_taylor" ...
    description : one line
    signed : whether negative values mean evidence against
    needs_relu : whether the method is defined by ReLUs
    needs_fit : whether ``fit`` must be called first
    cost : what one map costs, in gradients
    sums_to : what the attribution sums to, "" if nothing
    reference : the paper
    build : function of the name's own parameters that gives constructor arguments of ``cls``
    """

    name: str
    cls: type[Analyzer]
    family: str
    description: str
    signed: bool
    needs_relu: bool
    needs_fit: bool
    cost: str
    sums_to: str
    reference: str
    build: Callable[..., dict[str, Any]] | None = None

    def parameters(self) -> dict[str, Any]:
        """The accepted parameters with their defaults (``inspect.Parameter.empty`` where one is needed)."""
        own = inspect.signature(self.build).parameters if self.build else {}
        found = {k: p.default for k, p in own.items()}
        given = {k: 1.0 if p.default is p.empty else p.default for k, p in own.items()}
        fixed = self.build(**given) if self.build else {}  # what the name itself decides
        for f in fields(self.cls):
            if f.init and f.name != "model" and f.name not in found and f.name not in fixed:
                found[f.name] = f.default
        return found

    def required(self) -> tuple[str, ...]:
        """The parameters without a default."""
        return tuple(k for k, default in self.parameters().items() if default is inspect.Parameter.empty)


_BACH = "Bach et al. 2015"
_LAPUSCHKIN = "Lapuschkin et al. 2017"
_MONTAVON = "Montavon et al. 2017"
_ZENNIT = "Anders et al. 2021"
_FW_RDE = "Macdonald et al. 2022"
_PATTERN = "Kindermans et al. 2018"
_CASO = "Singla et al. 2019"
_MOREAU = "Zhang and Farnia 2022"


def _row(
    name: str,
    cls: type[Analyzer],
    family: str,
    description: str,
    reference: str,
    *,
    signed: bool = True,
    relu: bool = False,
    fit: bool = False,
    cost: str = "1",
    sums_to: str = "",
    build: Callable[..., dict[str, Any]] | None = None,
) -> AnalyzerInfo:
    return AnalyzerInfo(name, cls, family, description, signed, relu, fit, cost, sums_to, reference, build)


def _lrp(
    name: str, build: Any, reference: str = _BACH, cost: str = "1", sums_to: str = "", signed: bool = True
) -> AnalyzerInfo:
    description = (inspect.getdoc(build) or "").split(" (")[0].rstrip(".")
    return _row(
        f"lrp.{name}", LRP, "lrp", description, reference, cost=cost, sums_to=sums_to, signed=signed, build=build
    )


_ABSORBED = "f_c up to biases and epsilon"
_EXACT = "f_c"
_BOTH_SIGNS = "f_c up to biases, where both signs occur"

ROWS = (
    _row("input", Input, "baseline", "the input itself", "", cost="0.5"),
    _row("random", Random, "baseline", "normal random values", "", cost="0.5"),
    _row("gradient", Gradient, "gradient", "df_c/dx", "Simonyan et al. 2014"),
    _row("gradient.baseline", Gradient, "gradient", "df_c/dx (the same as gradient)", "Simonyan et al. 2014"),
    _row("input_t_gradient", InputTimesGradient, "gradient", "x * df_c/dx", "Shrikumar et al. 2016"),
    _row(
        "smoothgrad",
        SmoothGrad,
        "gradient",
        "mean gradient at noisy copies of x",
        "Smilkov et al. 2017",
        cost="augment_by_n",
    ),
    _row(
        "integrated_gradients",
        IntegratedGradients,
        "gradient",
        "gradients averaged on the line from a reference",
        "Sundararajan et al. 2017",
        cost="steps",
        sums_to="f_c(x) - f_c(reference)",
    ),
    _row(
        "deconvnet",
        Deconvnet,
        "gradient",
        "positive signals only at ReLUs, forward ReLU ignored",
        "Zeiler and Fergus 2014",
        relu=True,
    ),
    _row(
        "guided_backprop",
        GuidedBackprop,
        "gradient",
        "positive signals only at active ReLUs",
        "Springenberg et al. 2015",
        relu=True,
    ),
    _row("lrp", LRP, "lrp", "any rule or table of rules (rule=, rules=)", _BACH, sums_to=_ABSORBED),
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
    _row(
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
    _row(
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
    _row(
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
    _row(
        "pattern.net",
        PatternNet,
        "pattern",
        "learnt signal directions in place of weights",
        _PATTERN,
        fit=True,
    ),
    _row(
        "pattern.attribution",
        PatternAttribution,
        "pattern",
        "weights times learnt signal directions in place of weights",
        _PATTERN,
        fit=True,
    ),
    _row(
        "l_rde",
        LagrangianRDE,
        "rde",
        "components that keep the score among noise, at a price each",
        "Macdonald et al. 2019",
        signed=False,
        fit=True,
        cost="3 * max_iter",
    ),
    _row(
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
    _row(
        "mr_rde",
        MultiRateRDE,
        "rde",
        "the mean of rc_rde over several rates (rates=)",
        _FW_RDE,
        signed=False,
        fit=True,
        cost="3 * max_iter * rates",
    ),
    _row(
        "ord_rde",
        OrderingRDE,
        "rde",
        "an ordering of all components that keeps the score at every rate",
        _FW_RDE,
        signed=False,
        fit=True,
        cost="3 * max_iter * rates",
    ),
    _row(
        "cafo",
        CAFO,
        "second_order",
        "sparse step that raises the loss most, to first order",
        _CASO,
        cost="1",
    ),
    _row(
        "caso",
        CASO,
        "second_order",
        "sparse step that raises the loss most, to second order",
        _CASO,
        cost="classes, or 1.5 * max_iter * values of lambda1",
    ),
    _row(
        "smooth_cafo",
        CAFO,
        "second_order",
        "cafo with gradients averaged over noisy copies of x",
        _CASO,
        cost="augment_by_n",
        build=smooth,
    ),
    _row(
        "smooth_caso",
        CASO,
        "second_order",
        "caso with gradients and Hessians averaged over noisy copies of x",
        _CASO,
        cost="augment_by_n * caso",
        build=smooth,
    ),
    _row(
        "moreau_grad",
        MoreauGrad,
        "moreau",
        "gradient of the Moreau envelope of the score (rho=)",
        _MOREAU,
        cost="steps",
    ),
    _row(
        "sparse_moreau_grad",
        SparseMoreauGrad,
        "moreau",
        "moreau_grad with an l1 penalty (eta=)",
        _MOREAU,
        cost="steps",
    ),
    _row(
        "group_sparse_moreau_grad",
        GroupSparseMoreauGrad,
        "moreau",
        "moreau_grad with a penalty on groups of pixels (eta=, group_size=)",
        _MOREAU,
        cost="steps",
    ),
)
