"""Rule tables: ordered (predicate, rule) rows, first match wins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from innv_ext.backend import predicates
from innv_ext.backend.graph import Graph, Node, listed, op_key
from innv_ext.backend.loops import Loop, ThroughLoop, everywhere
from innv_ext.backend.predicates import nonnegative_input, savable, shown
from innv_ext.errors import NoRuleError, UnusedRuleWarning


def reaching(inputs: Callable[[Any], Sequence[int]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a rule that gives relevance only to the inputs ``inputs(node)`` of a node; by default it is all.

    Nodes in front of the others need no rule: denominators, gates, masks. Rules that are objects have a method
    ``reaches(node)`` instead.
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        rule.reaches = inputs  # type: ignore[attr-defined]
        return rule

    return decorate


@savable
@dataclass(frozen=True)
class Rules:
    """An ordered table of rules.

    Parameters
    ----------
    *rows : (predicate, rule) or (predicate, rule, label); ``predicate(node, graph) -> bool``

    Examples
    --------
    >>> from innv_ext import rules
    >>> table = rules.Rules((rules.named("conv1"), my_rule)).before(other_table)
    """

    rows: tuple[tuple[Any, ...], ...]

    def __init__(self, *rows: tuple[Any, ...]):
        object.__setattr__(self, "rows", tuple(rows))

    def before(self, other: Rules) -> Rules:
        """This table's rows first, then the other's."""
        return Rules(*self.rows, *other.rows)

    def __repr__(self) -> str:
        rows = (f"{shown(row[0])}: {getattr(row[1], '__name__', repr(row[1]))}" for row in self.rows)
        return f"Rules({', '.join(rows)})"

    def get_config(self) -> dict[str, Any]:
        """What is saved: the rows, if their predicates and rules can be (built-in ones, registered ones)."""
        return {"rows": self.rows}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Rules:
        """The table again."""
        return cls(*map(tuple, config["rows"]))

    def match(self, node: Node, graph: Graph) -> tuple[Any, ...] | None:
        """The first row whose predicate holds; of loops only rows that are not for all kinds of nodes count."""
        rows = (row for row in self.rows if not (isinstance(node.call, Loop) and getattr(row[0], "general", False)))
        return next((row for row in rows if row[0](node, graph)), None)

    def bind(self, graph: Graph, hint: str = "", what: str = "rule", idle: Any = None) -> tuple[Any, ...]:
        """One rule per node; reports every uncovered node at once. Loops without a rule get those of their nodes.

        Parameters
        ----------
        idle : of tables that are walked backwards: the rule of uncovered nodes that nothing reaches, see ``reaching``

        Raises
        ------
        NoRuleError
            names each node without a rule, its class, its position and the ways out
        """
        missing = self.missing(graph, idle is not None)
        if missing:
            raise NoRuleError(f"No {what} for these nodes:\n{listed(missing)}" + (f"\n{hint}" if hint else ""))
        return self._bound(graph, idle)

    def _bound(self, graph: Graph, idle: Any) -> tuple[Any, ...]:
        found = []
        for node in graph.nodes:
            row = self.match(node, graph)
            if row is None and isinstance(node.call, Loop):
                found.append(ThroughLoop(self._bound(node.call.inside(graph, node), idle)))
            else:
                found.append(idle if row is None else row[1])
        return tuple(found)

    def missing(self, graph: Graph, backwards: bool = True) -> list[Node]:
        """The nodes without a rule; walking ``backwards``, those of them that something reaches from the outputs."""
        reached, missing = set(graph.outputs), []
        for node in reversed(graph.nodes):
            if backwards and not reached.intersection(node.outputs):
                continue
            row = self.match(node, graph)
            reaches = getattr(row[1], "reaches", None) if row is not None else None
            reached.update(node.inputs if reaches is None else (node.inputs[i] for i in reaches(node)))
            if row is None and isinstance(node.call, Loop):
                missing.extend(reversed(self.missing(node.call.inside(graph, node), backwards)))
            elif row is None:
                missing.append(node)
        return missing[::-1]

    def warn_unused(self, graph: Graph, name: str) -> None:
        """Warn of rows that fit no node of model ``name``; for tables of users."""
        unused = [shown(row[0]) for row in self.rows if not any(row[0](*place) for place in everywhere(graph))]
        if unused:
            message = f"rules has rows that fit no node of {name!r}: {', '.join(unused)}; see print(analyzer)."
            warnings.warn(message, UnusedRuleWarning, stacklevel=8)

    def describe(self, graph: Graph, bound: Sequence[Any]) -> list[str]:
        """One line a node: number, name, what it does, the label of its row or else its rule, and whether x >= 0."""
        width = max((len(n.name) for n, _ in everywhere(graph)), default=0)
        lines = []
        for node, rule in zip(graph.nodes, bound, strict=True):
            row = self.match(node, graph)
            label = row[2] if row is not None and len(row) > 2 else getattr(rule, "__name__", repr(rule))
            steps = getattr(rule, "rule", rule)
            label = "one step after the other:" if isinstance(steps, ThroughLoop) else label
            flag = " x>=0" if nonnegative_input(node, graph) else ""
            lines.append(f"{node.index:4d}  {node.name:{width}s}  {op_key(node.op):22s}  {label}{flag}")
            if isinstance(steps, ThroughLoop):
                lines.extend("  " + line for line in self.describe(node.call.inside(graph, node), steps.rules))
        return lines


def __getattr__(name: str) -> Any:
    """Predicates used to live here."""
    return getattr(predicates, name)
