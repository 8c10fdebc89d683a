"""One module a family; the registry maps names to classes."""

from innv_ext.analyzers.averaged import IntegratedGradients, SmoothGrad
from innv_ext.analyzers.base import Analyzer, Explanation
from innv_ext.analyzers.baseline import Input, Random
from innv_ext.analyzers.cafo import CAFO
from innv_ext.analyzers.caso import CASO
from innv_ext.analyzers.deep_lift import DeepLift
from innv_ext.analyzers.deep_shap import DeepShap
from innv_ext.analyzers.grad_cam import GradCAM
from innv_ext.analyzers.gradient import Deconvnet, Gradient, GuidedBackprop, InputTimesGradient
from innv_ext.analyzers.gradient_shap import GradientShap
from innv_ext.analyzers.kernel_shap import KernelShap
from innv_ext.analyzers.lime import Lime
from innv_ext.analyzers.lrp import LRP, DeepTaylor
from innv_ext.analyzers.moments import Moments
from innv_ext.analyzers.moreau import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.occlusion import Occlusion
from innv_ext.analyzers.ord_rde import OrderingRDE
from innv_ext.analyzers.pattern import PatternAttribution, PatternNet
from innv_ext.analyzers.prediction_difference import PredictionDifference
from innv_ext.analyzers.propagation import ReverseAnalyzer
from innv_ext.analyzers.rde import LagrangianRDE, MultiRateRDE, RateConstrainedRDE
from innv_ext.analyzers.registry import AnalyzerInfo, create_analyzer, list_analyzers, register_analyzer
from innv_ext.analyzers.storage import load_analyzer

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
    "Gradient",
    "GradientShap",
    "GroupSparseMoreauGrad",
    "GuidedBackprop",
    "Input",
    "InputTimesGradient",
    "IntegratedGradients",
    "KernelShap",
    "LagrangianRDE",
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
    "SmoothGrad",
    "SparseMoreauGrad",
    "create_analyzer",
    "list_analyzers",
    "load_analyzer",
    "register_analyzer",
]
