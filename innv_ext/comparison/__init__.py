"""Which explanation to trust: many analyzers, many metrics, one call and one report."""

from innv_ext.comparison.compare import compare
from innv_ext.comparison.context import Context, NotApplicable
from innv_ext.comparison.metrics import Metric, list_metrics
from innv_ext.comparison.result import Comparison

__all__ = ["Comparison", "Context", "Metric", "NotApplicable", "compare", "list_metrics"]
