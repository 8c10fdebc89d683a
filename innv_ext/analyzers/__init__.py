"""One module a family; the registry maps names to classes."""

from innv_ext.analyzers.core.base import Analyzer, Explanation
from innv_ext.analyzers.core.reverse import ReverseAnalyzer
from innv_ext.analyzers.deep_lift.deep_lift import DeepLift
from innv_ext.analyzers.deep_lift.deep_shap import DeepShap
from innv_ext.analyzers.gradient.averaged import IntegratedGradients, SmoothGrad
from innv_ext.analyzers.gradient.baseline import Input, Random
from innv_ext.analyzers.gradient.grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from innv_ext.analyzers.gradient.gradient import Deconvnet, Gradient, GuidedBackprop, InputTimesGradient
from innv_ext.analyzers.gradient.gradient_shap import GradientShap
from innv_ext.analyzers.gradient.score_cam import ScoreCAM
from innv_ext.analyzers.loss.cafo import CAFO
from innv_ext.analyzers.loss.caso import CASO
from innv_ext.analyzers.loss.moreau import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.lrp.lrp import LRP, DeepTaylor
from innv_ext.analyzers.moments.values import Moments
from innv_ext.analyzers.pattern.pattern import PatternAttribution, PatternNet
from innv_ext.analyzers.prediction.kernel_shap import KernelShap
from innv_ext.analyzers.prediction.lime import Lime
from innv_ext.analyzers.prediction.occlusion import Occlusion
from innv_ext.analyzers.prediction.prediction_difference import PredictionDifference
from innv_ext.analyzers.prediction.rise import Rise
from innv_ext.analyzers.rde.ordering import OrderingRDE
from innv_ext.analyzers.rde.rates import LagrangianRDE, MultiRateRDE, RateConstrainedRDE
from innv_ext.analyzers.registry import AnalyzerInfo, create_analyzer, list_analyzers, load_analyzer, register_analyzer

__all__ = [
    "CAFO",
    "CASO",
    "LRP",
    "Analyzer",
    "AnalyzerInfo",
    "Deconvnet",
    "DeepLift",
    "DeepShap",
    "DeepTaylor",
    "Explanation",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientShap",
    "GroupSparseMoreauGrad",
    "GuidedBackprop",
    "Input",
    "InputTimesGradient",
    "IntegratedGradients",
    "KernelShap",
    "LagrangianRDE",
    "LayerCAM",
    "Lime",
    "Moments",
    "MoreauGrad",
    "MultiRateRDE",
    "Occlusion",
    "OrderingRDE",
    "PatternAttribution",
    "PatternNet",
    "PredictionDifference",
    "Random",
    "RateConstrainedRDE",
    "ReverseAnalyzer",
    "Rise",
    "ScoreCAM",
    "SmoothGrad",
    "SparseMoreauGrad",
    "create_analyzer",
    "list_analyzers",
    "load_analyzer",
    "register_analyzer",
]
