"""Analyzers as explanation functions of the Quantus library, which itself is not needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer, find
from innv_ext.backend import facts
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.subject import check_model
from innv_ext.visualization.checks import as_numbers
from innv_ext.visualization.scaling import REDUCTIONS, Reduction, collapse


def as_quantus_explain_func(
    analyzer: str | Analyzer, *, reduce: Reduction | None = None, **params: Any
) -> Callable[..., np.ndarray]:
    """A function ``(model, inputs, targets, **kwargs) -> maps`` as Quantus' metrics take it.

    The analyzer of a model is kept as long as the model lives, and reads its weights at each call, so that metrics that
    change weights in place see the change.

    Parameters
    ----------
    analyzer : a name, or an analyzer: models other than its own are explained by one with the same parameters and the
        same learnt state
    reduce : takes away the axis of the channels, "sum" or another of `reduce_channels`; None keeps it. Metrics turn x
        of images and signals channels-first, and check maps against x as the model takes it: only maps without
        channels pass both, see `as_quantus_a_batch`
    params : of the named analyzer

    Returns
    -------
    function
        ``targets`` are one class per sample, or None for the largest output; the maps are shaped like ``inputs``, which
        may be channels-first although the model takes channels last (MPRT hands them over so). Other keyword arguments
        (Quantus passes e.g. ``device``) say nothing to these analyzers and are ignored

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
    >>> explain = as_quantus_explain_func("lrp.epsilon_plus", reduce="sum")
    >>> maps = as_quantus_a_batch(explain(model, x, y), channel_axis=None)
    >>> metric(model=model, x_batch=x, y_batch=y, a_batch=maps, explain_func=explain, channel_first=False)
    """
    if reduce is not None and not callable(reduce):
        arguments.choice("reduce", reduce, tuple(REDUCTIONS))
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
        spec, *others = chosen.input_specs()
        if others:
            raise InvalidInputError(f"The metrics of Quantus take one array, but {model.name!r} has several inputs.")
        x = np.asarray(inputs)
        turned = not _fits(x.shape, spec.shape) and x.ndim > 2 and _fits(np.moveaxis(x, 1, -1).shape, spec.shape)
        x = np.moveaxis(x, 1, -1) if turned else x
        maps = np.asarray(chosen.analyze(x, None if targets is None else np.asarray(targets)))
        if reduce is not None and maps.ndim > 2:
            axis = 1 if facts.channels_first(chosen.graph_)[0] else -1
            return collapse(np.moveaxis(maps, axis, -1).astype("float64"), reduce).astype(maps.dtype)
        return np.moveaxis(maps, -1, 1) if turned else maps

    return explain


def as_quantus_a_batch(
    relevance: Any, *, reduce: Reduction | None = "sum", channel_axis: int | None = -1
) -> np.ndarray:
    """Maps as the metrics of Quantus compare them with x: channels-first, which they turn x into.

    Quantus checks only that the sizes of axes occur in x: maps in another layout pass, and are read wrongly.

    Parameters
    ----------
    relevance : array (batch, ..., channels) of signals, images or volumes; of tables (batch, features), unchanged
    reduce : "sum" or another of `reduce_channels` makes one channel; None keeps all of them
    channel_axis : of ``relevance``: -1, 1 for channels-first models, or None for maps without channels

    Returns
    -------
    array (batch, 1, ...), or (batch, channels, ...) with ``reduce=None``

    Raises
    ------
    InvalidInputError
        for what are no numbers, another rank, or an unknown reduction

    Examples
    --------
    >>> as_quantus_a_batch(np.ones((2, 8, 8, 3))).shape, as_quantus_a_batch(np.ones((2, 16, 3)), reduce=None).shape
    ((2, 1, 8, 8), (2, 3, 16))
    """
    if channel_axis not in (-1, 1, None):
        raise InvalidInputError(f"channel_axis must be -1, 1 or None (no channels), got {channel_axis!r}.")
    array = as_numbers(relevance, "relevance")
    if array.ndim < 2:
        raise InvalidInputError(f"relevance has shape {array.shape}; maps with a batch axis are needed, (batch, ...).")
    if array.ndim == 2:
        return array
    array = array[..., None] if channel_axis is None else np.moveaxis(array, channel_axis, -1)
    array = array if reduce is None else collapse(array, reduce)[..., None]
    return np.moveaxis(array, -1, 1)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    rest = zip(shape[1:], expected[1:], strict=False)
    return len(shape) == len(expected) and all(e is None or e == s for s, e in rest)


def _make(analyzer: str | Analyzer, model: keras.Model, params: dict[str, Any]) -> Analyzer:
    if isinstance(analyzer, str):
        found = create_analyzer(analyzer, model, **params)
    else:
        found = type(analyzer)(model, **analyzer.get_params())
        if analyzer.learnt_:
            found.set_state(analyzer.learnt_)
    found.model = weakref.proxy(model)  # which would live for ever in the dictionary otherwise
    return found
