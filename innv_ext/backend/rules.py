"""Rule tables: ordered (predicate, rule) rows, first match wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.kinds import Kind
from innv_ext.errors import NoRuleError

Predicate = Callable[[Node, Graph], bool]


@dataclass(frozen=True)
class Rules:
    """An ordered table of rules.

    Parameters
    ----------
    *rows : (predicate, rule) or (predicate, rule, label); ``predicate(node, graph) -> bool``

    Examples
    --------
    >>> from innv_ext.backend import rules
    >>> table = rules.Rules((rules.named("conv1"), my_rule)).before(other_table)
    """

    rows: tuple[tuple[Any, ...], ...]

    def __init__(self, *rows: tuple[Any, ...]):
        object.__setattr__(self, "rows", tuple(rows))

    def before(self, other: Rules) -> Rules:
        """This table's rows first, then the other's."""
        return Rules(*self.rows, *other.rows)

    def __repr__(self) -> str:
        return "Rules(" + ", ".join(f"{getattr(r[0], '__name__', r[0])}: {r[1]!r}" for r in self.rows) + ")"

    def match(self, node: Node, graph: Graph) -> tuple[Any, ...] | None:
        """The first row whose predicate holds."""
        return next((row for row in self.rows if row[0](node, graph)), None)

    def bind(self, graph: Graph, hint: str = "", what: str = "rule") -> tuple[Any, ...]:
        """One rule per node; reports every uncovered node at once.

        Raises
        ------
        NoRuleError
            names each node without a rule, its class, its position and the ways out
        """
        found = [self.match(node, graph) for node in graph.nodes]
        missing = [node for node, row in zip(graph.nodes, found, strict=True) if row is None]
        if missing:
            raise NoRuleError(_describe(missing, hint, what))
        return tuple(row[1] for row in found if row is not None)


    def describe(self, graph: Graph, bound: Sequence[Any] | None = None) -> list[str]:
        """One line a node: the label of its row here or, where there is no row, the name of its ``bound`` rule."""
        width = max((len(n.name) for n in graph.nodes), default=0)
        lines = []
        for node, rule in zip(graph.nodes, bound or [None] * len(graph.nodes), strict=True):
            row = self.match(node, graph) or (None, rule)
            label = row[2] if len(row) > 2 else getattr(row[1], "__name__", repr(row[1]))
            lines.append(f"{node.index:4d}  {node.name:{width}s}  {op_key(node.op):22s}  {label}")
        return lines


def _describe(missing: Sequence[Node], hint: str, what: str) -> str:
    lines = [
        f"  - {n.name} ({op_key(n.op).removeprefix('custom:')}, node {n.index}"
        + (f", model.layers[{n.position}]" if n.position is not None else "")
        + (f"; not opened because {n.note}" if n.note else "")
        + ")"
        for n in missing
    ]
    return f"No {what} for these nodes:\n" + "\n".join(lines) + (f"\n{hint}" if hint else "")


# --- predicates --------------------------------------------------------------------------------------------------


def labelled(predicate: Predicate, name: str, *values: Any) -> Predicate:
    """``predicate`` with a name that printing a table shows."""
    predicate.__name__ = f"{name}({', '.join(map(str, values))})"
    return predicate


def anything(node: Node, graph: Graph) -> bool:
    """Every node."""
    return True


def is_a(*classes: type) -> Predicate:
    """Nodes that come from a layer of one of these classes."""
    return labelled(lambda node, graph: isinstance(node.op, classes), "is_a", *(c.__name__ for c in classes))


def op_is(*functions: Any) -> Predicate:
    """Nodes of these Keras operations or activation functions (or their names), whatever form they take."""
    names = {f if isinstance(f, str) else op_key(f) for f in functions}
    return labelled(lambda node, graph: facts.activation_key(node) in names, "op_is", *sorted(names))


def named(*names: str) -> Predicate:
    """Nodes of these layers: by node name, layer name, or the name of an enclosing model."""

    def predicate(node: Node, graph: Graph) -> bool:
        return bool({node.name, "/".join(node.layers), *node.layers}.intersection(names))

    return labelled(predicate, "named", *names)


def at_index(*positions: int) -> Predicate:
    """Nodes that belong to ``model.layers[i]``; negative positions count from the last layer with a node."""

    def predicate(node: Node, graph: Graph) -> bool:
        last = _last_position(graph)
        return node.position is not None and (node.position in positions or node.position - last - 1 in positions)

    return labelled(predicate, "at_index", *positions)


def _last_position(graph: Graph) -> int:
    return max((n.position for n in graph.nodes if n.position is not None), default=-1)


def kind_is(*kinds: Kind) -> Predicate:
    """Nodes of one of these kinds."""
    return labelled(lambda node, graph: node.kind in kinds, "kind_is", *(k.value for k in kinds))


def relu_like(node: Node, graph: Graph) -> bool:
    """ReLU in any form."""
    return facts.is_relu_like(node)


def convolution(node: Node, graph: Graph) -> bool:
    """Affine nodes that share weights over space: convolutions of every type."""
    return node.kind is Kind.AFFINE and "conv" in op_key(node.op).lower()


def dense(node: Node, graph: Graph) -> bool:
    """Affine nodes that are not convolutions."""
    return node.kind is Kind.AFFINE and not convolution(node, graph)


def first_linear(node: Node, graph: Graph) -> bool:
    """The first affine node on every path from the input, looking through shapes, padding and rescaling."""
    return node.first


def nonnegative_input(node: Node, graph: Graph) -> bool:
    """Nodes whose inputs are proved non-negative."""
    return bool(node.nonnegative) and all(node.nonnegative)


def not_differentiable(node: Node, graph: Graph) -> bool:
    """Nodes whose outputs are integers or booleans: masks, positions, comparisons."""
    return not any(numerics.is_float(graph.specs[slot].dtype) for slot in node.outputs)


def up_to(layer: int | str) -> Predicate:
    """Nodes up to and including a layer: by position in ``model.layers``, or everything a named layer depends on."""

    def by_position(node: Node, graph: Graph) -> bool:
        limit = layer + _last_position(graph) + 1 if layer < 0 else layer
        return node.position is not None and node.position <= limit

    def by_name(node: Node, graph: Graph) -> bool:
        slots = {slot for n in graph.nodes if named(layer)(n, graph) for slot in n.outputs}
        return node.index in facts.ancestors(graph, slots)

    return labelled(by_position if isinstance(layer, int) else by_name, "up_to", layer)


def both(*predicates: Predicate) -> Predicate:
    """All of the predicates hold."""
    names = " and ".join(getattr(p, "__name__", str(p)) for p in predicates)
    return labelled(lambda node, graph: all(p(node, graph) for p in predicates), "both", names)
