"""The names behind ``create_analyzer``."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import keras

from innv_ext.analyzers.catalogue import ROWS
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.core.info import AnalyzerInfo, row
from innv_ext.errors import InvalidInputError

_TABLE: dict[str, AnalyzerInfo] = {info.name: info for info in ROWS}


def list_analyzers() -> list[AnalyzerInfo]:
    """All analyzers as data: name, family, sign, needs, cost, sum, reference.

    Examples
    --------
    >>> [a.name for a in innv_ext.list_analyzers() if a.sums_to == "f_c"]
    """
    return list(_TABLE.values())


def register_analyzer(
    name: str,
    cls: type[Analyzer],
    *,
    description: str = "",
    family: str = "user",
    signed: bool = True,
    needs_relu: bool = False,
    cost: str = "",
    sums_to: str = "",
    reference: str = "",
) -> None:
    """Make ``create_analyzer(name, model)`` build ``cls``, a subclass of ``Analyzer`` or ``ReverseAnalyzer``.

    Raises
    ------
    InvalidInputError
        if ``cls`` is no analyzer class, or the name belongs to another class
    """
    if not (isinstance(cls, type) and issubclass(cls, Analyzer)):
        raise InvalidInputError(f"register_analyzer takes a subclass of innv_ext.analyzers.Analyzer, got {cls!r}.")
    old = _TABLE.get(name)
    if old is not None and old.family != "user":
        raise InvalidInputError(f"The name {name!r} belongs to {old.cls.__name__}; choose another.")
    description = description or (inspect.getdoc(cls) or "").split("\n")[0]
    facts = {"signed": signed, "relu": needs_relu, "cost": cost, "sums_to": sums_to}
    _TABLE[name] = row(name, cls, family, description, reference, **facts)


def find(name: str) -> AnalyzerInfo:
    """The row of a name; unknown names get suggestions."""
    if name not in _TABLE:
        close = difflib.get_close_matches(str(name), _TABLE, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        raise InvalidInputError(f"There is no analyzer {name!r}.{hint} innv_ext.list_analyzers() tells all names.")
    return _TABLE[name]


def create_analyzer(name: str, model: keras.Model, **params: Any) -> Analyzer:
    """Build an analyzer by name.

    Parameters
    ----------
    name : one of ``list_analyzers()``, e.g. "gradient", "lrp.epsilon", "deep_taylor"
    model : built keras.Model
    params : the method's parameters and those of ``Analyzer`` (batch_size, seed, neuron_selection_mode, output ...)

    Raises
    ------
    InvalidInputError
        for an unknown name or parameter
    UnsupportedModelError, NoRuleError
        if the method cannot explain the model; the message lists all offending layers

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("lrp.epsilon", model, epsilon=1e-3)
    >>> relevance = analyzer.analyze(x)
    """
    info = find(name)
    analyzer = info.cls(model, **info.constructor_arguments(params))
    analyzer.registered_name_, analyzer.registered_params_ = name, dict(params)
    return analyzer


def class_named(name: str) -> type[Analyzer]:
    """An analyzer class by its name, for loading."""
    for info in _TABLE.values():
        if info.cls.__name__ == name:
            return info.cls
    raise InvalidInputError(f"There is no analyzer class {name!r}; register it with innv_ext.register_analyzer.")
