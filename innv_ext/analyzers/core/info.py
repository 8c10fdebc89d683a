"""What is known about an analyzer besides its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from innv_ext.analyzers.core.base import Analyzer


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


def row(
    name: str,
    cls: type[Analyzer],
    family: str,
    description: str,
    reference: str,
    *,
    signed: bool = True,
    relu: bool = False,
    fit: bool = False,
    cost: str = "1",
    sums_to: str = "",
    build: Callable[..., dict[str, Any]] | None = None,
) -> AnalyzerInfo:
    """An ``AnalyzerInfo`` with the usual values left out."""
    return AnalyzerInfo(name, cls, family, description, signed, relu, fit, cost, sums_to, reference, build)
