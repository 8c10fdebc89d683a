"""innv_ext explains what a trained Keras model looked at.

>>> import innv_ext
>>> relevance = innv_ext.create_analyzer("lrp.epsilon_plus", model).analyze(x)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innv_ext import analyzers, comparison, errors, evaluation, optim, rules, text, visualization
    from innv_ext.analyzers import (
        Analyzer,
        Explanation,
        ReverseAnalyzer,
        create_analyzer,
        list_analyzers,
        load_analyzer,
        register_analyzer,
    )
    from innv_ext.analyzers.loss.caso import input_hessian_eigs
    from innv_ext.backend.linear import register_bilinear
    from innv_ext.backend.models import model_wo_softmax
    from innv_ext.backend.rules import Rules
    from innv_ext.comparison import Comparison, compare, list_metrics

__version__ = "0.2.0"

__all__ = [
    "Analyzer",
    "Comparison",
    "Explanation",
    "ReverseAnalyzer",
    "Rules",
    "analyzers",
    "compare",
    "comparison",
    "create_analyzer",
    "errors",
    "evaluation",
    "input_hessian_eigs",
    "list_analyzers",
    "list_metrics",
    "load_analyzer",
    "model_wo_softmax",
    "optim",
    "register_analyzer",
    "register_bilinear",
    "rules",
    "text",
    "visualization",
]

_MODULES = ("analyzers", "comparison", "errors", "evaluation", "optim", "rules", "text", "visualization")
_HOMES = {  # where they are not in analyzers
    "Comparison": "comparison",
    "Rules": "backend.rules",
    "compare": "comparison",
    "input_hessian_eigs": "analyzers.loss.caso",
    "list_metrics": "comparison",
    "model_wo_softmax": "backend.models",
    "register_bilinear": "backend.linear",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``innv-ext --help`` need not wait for TensorFlow."""
    if name not in __all__:
        raise AttributeError(f"module 'innv_ext' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"innv_ext.{name}")
    found = getattr(importlib.import_module(f"innv_ext.{_HOMES.get(name, 'analyzers')}"), name)
    return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
