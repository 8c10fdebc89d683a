"""How good is a relevance map: tests that change the input or the model, and measures of the map itself."""

from innv_ext.evaluation.measures import CompletenessError, completeness_error, inside_ratio, sparsity
from innv_ext.evaluation.ordering import relevance_ordering
from innv_ext.evaluation.perturbation import perturbation_analysis
from innv_ext.evaluation.perturbation_result import PerturbationResult
from innv_ext.evaluation.result import OrderingResult, Statistics
from innv_ext.evaluation.sensitivity import sensitivity
from innv_ext.evaluation.systematic import systematic_inside_ratio
from innv_ext.evaluation.systematic_result import SystematicResult

__all__ = [
    "CompletenessError",
    "OrderingResult",
    "PerturbationResult",
    "Statistics",
    "SystematicResult",
    "completeness_error",
    "inside_ratio",
    "perturbation_analysis",
    "relevance_ordering",
    "sensitivity",
    "sparsity",
    "systematic_inside_ratio",
]
