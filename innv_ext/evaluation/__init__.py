"""How good is a relevance map: tests that change the input or the model, and measures of the map itself."""

from innv_ext.evaluation.attack import attack_interpretation
from innv_ext.evaluation.attack_result import AttackResult
from innv_ext.evaluation.measures import CompletenessError, completeness_error, inside_ratio, sparsity
from innv_ext.evaluation.ordering import OrderingResult, relevance_ordering
from innv_ext.evaluation.perturbation import PerturbationResult, perturbation_analysis
from innv_ext.evaluation.quantus import as_quantus_a_batch, as_quantus_explain_func
from innv_ext.evaluation.randomization import RandomizationResult, randomization_check
from innv_ext.evaluation.results import EvaluationResult, Statistics
from innv_ext.evaluation.robustness import RobustnessMetrics, robustness_metrics
from innv_ext.evaluation.sensitivity import sensitivity
from innv_ext.evaluation.systematic import SystematicResult, systematic_inside_ratio

__all__ = [
    "AttackResult",
    "CompletenessError",
    "EvaluationResult",
    "OrderingResult",
    "PerturbationResult",
    "RandomizationResult",
    "RobustnessMetrics",
    "Statistics",
    "SystematicResult",
    "as_quantus_a_batch",
    "as_quantus_explain_func",
    "attack_interpretation",
    "completeness_error",
    "inside_ratio",
    "perturbation_analysis",
    "randomization_check",
    "relevance_ordering",
    "robustness_metrics",
    "sensitivity",
    "sparsity",
    "systematic_inside_ratio",
]
