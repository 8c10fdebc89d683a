"""Analyzers are built, fitted and run; what goes wrong becomes part of the result."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from innv_ext.analyzers.core.base import Analyzer, Explanation
from innv_ext.analyzers.core.info import AnalyzerInfo
from innv_ext.analyzers.registry import create_analyzer
from innv_ext.comparison.context import NotApplicable, Setting, as_data
from innv_ext.comparison.rows import Failure, flat
from innv_ext.errors import InvalidInputError, NotFittedError

SHARED = ("batch_size", "seed", "on", "output", "progress")  # parameters of analyzers that a comparison sets itself
TOLD = (UserWarning, RuntimeWarning)  # the warnings that say something about maps, not about code


class Outcome(NamedTuple):
    """What came of an attempt; the fields are those of a ``Cell``."""

    value: Any
    failure: Failure | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


def attempt(function: Callable[[], Any]) -> Outcome:
    """Call ``function``; every error and warning of its own is kept, an interruption by the user passes."""
    value, failure, note = None, None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        for category in TOLD:
            warnings.simplefilter("always", category)
        start = time.perf_counter()
        try:
            value = function()
        except NotApplicable as reason:
            note = str(reason)
        except Exception as error:  # whatever an analyzer or a metric raises is a result of the comparison
            failure = Failure(type(error).__name__, str(error))
        seconds = time.perf_counter() - start
    told = dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught)
    return Outcome(value, failure, note, tuple(told), seconds)


@dataclass(frozen=True, eq=False)
class Plan:
    """One analyzer of a comparison, not built yet unless it was given so."""

    title: str  # of the row
    name: str  # as registered, or that of the class
    params: dict[str, Any]  # as given
    given: Analyzer | None  # the user's own, which is never fitted or changed
    info: AnalyzerInfo | None  # the registry's row of the name, where there is one

    def build(self, model: keras.Model, setting: Setting) -> Analyzer:
        """The analyzer of a model, ready to explain."""
        if self.given is not None and model is setting.model:
            return self._ready(self.given)
        if self.given is not None:  # the same method for another model
            made = type(self.given)(model, **self.given.get_params())
        else:
            shared = {**vars(setting), "progress": False}
            own = {name: shared[name] for name in SHARED if name in self.info.parameters()}
            made = create_analyzer(self.name, model, **{**own, **self.params})
        if made.needs_fit and setting.fit is not None:
            made.fit(setting.fit)
        return self._ready(made)

    def remake(self, setting: Setting) -> Callable[[keras.Model], Analyzer]:
        """A function of a model that gives the analyzer of that model as it is now.

        Analyzers read the weights when they explain, so only those that learn from data are made anew each time.
        """
        made: list[Analyzer] = []

        def factory(model: keras.Model) -> Analyzer:
            if not made or made[0].model is not model or made[0].needs_fit:
                made[:] = [self.build(model, setting)]
            return made[0]

        return factory

    def _ready(self, analyzer: Analyzer) -> Analyzer:
        if analyzer.needs_fit and not analyzer.is_fitted():
            remedy = "fit it before" if self.given is not None else "pass compare(..., fit=X_train)"
            raise NotFittedError(f"{self.name!r} learns from data: {remedy}.")
        return analyzer


def explain(analyzer: Analyzer, setting: Setting) -> Explanation:
    """The maps of all samples, checked."""
    found = analyzer.explain(setting.x, setting.neurons, batch_size=setting.batch_size)
    for maps, x in zip(flat(as_data(found.attribution)), setting.xs, strict=True):
        if maps.shape != x.shape:
            raise InvalidInputError(f"The maps have shape {maps.shape}, but x has {x.shape}.")
    return found
