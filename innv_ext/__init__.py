"""innv_ext explains what a trained Keras model looked at.

>>> import innv_ext
>>> relevance = innv_ext.create_analyzer("lrp.epsilon_plus", model).analyze(x)
"""

from innv_ext import analyzers, errors, evaluation, optim, visualization
from innv_ext.analyzers import (
    Analyzer,
    Explanation,
    ReverseAnalyzer,
    create_analyzer,
    list_analyzers,
    load_analyzer,
    register_analyzer,
)
from innv_ext.analyzers.caso import input_hessian_eigs
from innv_ext.backend.kernels import register_bilinear
from innv_ext.backend.models import model_wo_softmax
from innv_ext.backend.rules import Rules

__version__ = "0.1.0"

__all__ = [
    "Analyzer",
    "Explanation",
    "ReverseAnalyzer",
    "Rules",
    "analyzers",
    "create_analyzer",
    "errors",
    "evaluation",
    "input_hessian_eigs",
    "list_analyzers",
    "load_analyzer",
    "model_wo_softmax",
    "optim",
    "register_analyzer",
    "register_bilinear",
    "visualization",
]
