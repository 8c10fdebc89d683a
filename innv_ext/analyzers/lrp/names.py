"""The names of rules, for ``LRP(model, rule=name)`` and ``lrp.name``, and what lists tell about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from typing import Any

from innv_ext.backend.predicates import savable

BACH = "Bach et al. 2015"
MONTAVON = "Montavon et al. 2017"
LAPUSCHKIN = "Lapuschkin et al. 2017"

ABSORBED = "f_c up to biases and epsilon"  # what the relevance of all inputs sums to
EXACT = "f_c"
BOTH_SIGNS = "f_c up to biases, where both signs occur"


@dataclass
class RuleName:
    """A name of a rule, made by ``rule``: ``LRP(model, rule=name)``, and ``lrp.name`` of ``create_analyzer``."""

    name: str
    description: str
    source: str
    cost: str
    sums_to: str
    signed: bool
    fixed: dict[str, Any]
    cls: type | None = None  # the class that it stands at

    def open(self) -> list[Field]:
        """The parameters of the rule that the name leaves open."""
        return [f for f in fields(self.cls) if f.name not in self.fixed]

    def __call__(self, **given: Any) -> Any:
        """The rule, with these of the open parameters."""
        return self.cls(**self.fixed, **given)


RULE_NAMES: dict[str, RuleName] = {}  # by names in small letters


def rule(
    name: str,
    description: str,
    source: str = BACH,
    *,
    cost: str = "1",
    sums_to: str = EXACT,
    signed: bool = True,
    **fixed: Any,
) -> Callable[[type], type]:
    """Give a class of rules a name; a class may have several.

    Names that are given when the package is imported already are known to ``LRP(rule=...)`` only.

    Parameters
    ----------
    description, source, cost, sums_to, signed : what ``list_analyzers`` tells about ``lrp.name``
    fixed : parameters of the rule that the name decides; all others can be given with it
    """
    # here, not in ``decorate``: names are in the order in which they are read, decorators are applied from the last
    known = RULE_NAMES[name.lower()] = RuleName(name, description, source, cost, sums_to, signed, fixed)

    def decorate(cls: type) -> type:
        known.cls = savable(cls)
        return cls

    return decorate
