"""How good is a relevance map: tests that change the input and watch the model."""

from innv_ext.evaluation.ordering import relevance_ordering
from innv_ext.evaluation.result import OrderingResult, Statistics

__all__ = ["OrderingResult", "Statistics", "relevance_ordering"]
