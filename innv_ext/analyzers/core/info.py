"""What is known about an analyzer besides its class."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from innv_ext import arguments
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.errors import InvalidInputError


@dataclass(frozen=True)
class AnalyzerInfo:
    """What ``list_analyzers`` tells about one analyzer.

    Attributes
    ----------
    name : for ``create_analyzer``
    cls : the class behind it
    family : "baseline", "gradient", "lrp", "deep_taylor" ...
    description : one line
    signed : whether negative values mean evidence against
    needs_relu : whether the method is defined by ReLUs
    needs_fit : whether ``fit`` must be called first
    cost : what one map costs, in gradients
    sums_to : what the attribution sums to, "" if nothing
    reference : the paper
    build : function of the name's own parameters that gives constructor arguments of ``cls``
    """

    name: str
    cls: type[Analyzer]
    family: str
    description: str
    signed: bool
    needs_relu: bool
    needs_fit: bool
    cost: str
    sums_to: str
    reference: str
    build: Callable[..., dict[str, Any]] | None = None

    def parameters(self) -> dict[str, Any]:
        """The accepted parameters with their defaults (``inspect.Parameter.empty`` where one is needed)."""
        own = inspect.signature(self.build).parameters if self.build else {}
        found = {k: p.default for k, p in own.items()}
        given = {k: 1.0 if p.default is p.empty else p.default for k, p in own.items()}
        fixed = self.build(**given) if self.build else {}  # what the name itself decides
        for f in fields(self.cls):
            if f.init and f.name != "model" and f.name not in found and f.name not in fixed:
                found[f.name] = f.default
        return found

    def required(self) -> tuple[str, ...]:
        """The parameters without a default."""
        return tuple(k for k, default in self.parameters().items() if default is inspect.Parameter.empty)

    def constructor_arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What ``cls`` is called with, besides the model, for these parameters of the name.

        Raises
        ------
        InvalidInputError
            for unknown, missing and impossible parameters, as far as this can be told without the model
        """
        known = self.parameters()
        unknown = [k for k in params if k not in known]
        if unknown:
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            takes = ", ".join(known)
            raise InvalidInputError(f"{self.name!r} has no parameter {unknown[0]!r}.{hint} It takes {takes}.")
        missing = [k for k in self.required() if k not in params]
        if missing:
            raise InvalidInputError(f"{self.name!r} needs the parameter {', '.join(missing)}.")
        own = inspect.signature(self.build).parameters if self.build else {}
        found = self.build(**{k: v for k, v in params.items() if k in own}) if self.build else {}
        found |= {k: v for k, v in params.items() if k not in own}
        arguments.check_fields(self.cls, found)
        return found


def row(
    name: str,
    cls: type[Analyzer],
    family: str,
    description: str,
    reference: str,
    *,
    signed: bool = True,
    relu: bool = False,
    cost: str = "1",
    sums_to: str = "",
    build: Callable[..., dict[str, Any]] | None = None,
) -> AnalyzerInfo:
    """An ``AnalyzerInfo`` with the usual values left out."""
    return AnalyzerInfo(name, cls, family, description, signed, relu, cls.needs_fit, cost, sums_to, reference, build)
