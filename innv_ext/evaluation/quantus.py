"""Analyzers as explanation functions of the Quantus library, which itself is not needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer, find
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.subject import check_model


def as_quantus_explain_func(analyzer: str | Analyzer, **params: Any) -> Callable[..., np.ndarray]:
    """A function ``(model, inputs, targets, **kwargs) -> maps`` as Quantus' metrics take it.

    The analyzer of a model is kept as long as the model lives, and reads its weights at each call, so that metrics that
    change weights in place see the change.

    Parameters
    ----------
    analyzer : a name, or an analyzer: models other than its own are explained by one with the same parameters and the
        same learnt state
    params : of the named analyzer

    Returns
    -------
    function
        ``targets`` are one class per sample, or None for the largest output; the maps are shaped like ``inputs``.
        Other keyword arguments (Quantus passes e.g. ``device``) say nothing to these analyzers and are ignored

    Raises
    ------
    InvalidInputError
        for an unknown name or parameters that go with no name, and, when called, for what ``analyze`` refuses

    Notes
    -----
    Hedström et al. (2023), "Quantus: an explainable AI toolkit for responsible evaluation of neural network
    explanations".

    Examples
    --------
    >>> explain = as_quantus_explain_func("lrp.epsilon_plus")
    >>> metric(model=model, x_batch=x, y_batch=y, explain_func=explain)
    """
    if isinstance(analyzer, str):
        find(analyzer)
    elif not isinstance(analyzer, Analyzer) or params:
        raise InvalidInputError(
            f"as_quantus_explain_func takes a name with parameters, or an analyzer without; got {analyzer!r} and "
            f"{sorted(params)}."
        )
    made: weakref.WeakKeyDictionary[keras.Model, Analyzer] = weakref.WeakKeyDictionary()

    def explain(model: keras.Model, inputs: Any, targets: Any = None, **kwargs: Any) -> np.ndarray:
        """Maps of ``inputs`` for the outputs ``targets``."""
        own = isinstance(analyzer, Analyzer) and model is analyzer.model
        check_model(model)
        if not own and model not in made:
            made[model] = _make(analyzer, model, params)
        chosen = analyzer if own else made[model]
        return np.asarray(chosen.analyze(inputs, None if targets is None else np.asarray(targets)))

    return explain


def _make(analyzer: str | Analyzer, model: keras.Model, params: dict[str, Any]) -> Analyzer:
    if isinstance(analyzer, str):
        found = create_analyzer(analyzer, model, **params)
    else:
        found = type(analyzer)(model, **analyzer.get_params())
        if analyzer.learnt_:
            found.set_state(analyzer.learnt_)
    found.model = weakref.proxy(model)  # which would live for ever in the dictionary otherwise
    return found
