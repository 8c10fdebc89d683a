"""Rule tables: ordered (predicate, rule) rows, first match wins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras

from innv_ext.backend import facts, numerics, traits
from innv_ext.backend.graph import Graph, Node, listed, op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.loops import Loop, ThroughLoop, everywhere
from innv_ext.errors import NoRuleError, UnusedRuleWarning

PredicateLike = Callable[[Node, Graph], bool]


savable = keras.saving.register_keras_serializable("innv_ext")


def reaching(inputs: Callable[[Any], Sequence[int]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a rule that gives relevance only to the inputs ``inputs(node)`` of a node; by default it is all.

    Nodes in front of the others need no rule: denominators, gates, masks. Rules that are objects have a method
    ``reaches(node)`` instead.
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., Any]:
        rule.reaches = inputs  # type: ignore[attr-defined]
        return rule

    return decorate


class Saved:
    """A dataclass that Keras can save: its config are its fields."""

    def get_config(self) -> dict[str, Any]:
        """What it is made with."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]


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
        rows = (f"{_shown(row[0])}: {getattr(row[1], '__name__', repr(row[1]))}" for row in self.rows)
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
        unused = [_shown(row[0]) for row in self.rows if not any(row[0](*place) for place in everywhere(graph))]
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


# --- predicates --------------------------------------------------------------------------------------------------

_TESTS: dict[str, Callable[..., bool]] = {}


@savable
@dataclass(frozen=True)
class Predicate(Saved):
    """What a function like ``named("conv1")`` makes: it can be printed, compared and saved.

    Parameters
    ----------
    kind : name of the function that makes it
    values : what that was called with
    """

    kind: str
    values: tuple[Any, ...]

    def __call__(self, node: Node, graph: Graph) -> bool:
        return _TESTS[self.kind](node, graph, *self.values)

    def __repr__(self) -> str:
        return f"{self.kind}({(' and ' if self.kind == 'both' else ', ').join(map(_shown, self.values))})"

    @property
    def __name__(self) -> str:
        return repr(self)


def _shown(value: Any) -> str:
    return str(value.value if isinstance(value, Kind) else getattr(value, "__name__", value))


def makes(function: Callable[..., Any]) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Decorate the test ``(node, graph, *values)`` of the predicates that ``function`` makes."""

    def decorate(test: Callable[..., bool]) -> Callable[..., bool]:
        _TESTS[function.__name__] = test
        return test

    return decorate


def general(predicate: Callable[..., bool]) -> Callable[..., bool]:
    """Decorate a predicate that asks for no kind of nodes: rows with it are no rules of a whole loop."""
    predicate.general = True  # type: ignore[attr-defined]
    return predicate


@savable
@general
def anything(node: Node, graph: Graph) -> bool:
    """Every node."""
    return True


def is_a(*classes: type) -> Predicate:
    """Nodes that come from a layer of one of these classes."""
    return Predicate("is_a", classes)


@makes(is_a)
def _is_a(node: Node, graph: Graph, *classes: type) -> bool:
    return isinstance(node.op, classes)


def op_is(*functions: Any) -> Predicate:
    """Nodes of these Keras operations or activation functions (or their names), whatever form they take."""
    return Predicate("op_is", tuple(sorted({f if isinstance(f, str) else op_key(f) for f in functions})))


@makes(op_is)
def _op_is(node: Node, graph: Graph, *names: str) -> bool:
    return traits.activation_key(node) in names


def named(*names: str) -> Predicate:
    """Nodes of these layers: by node name, layer name, or the name of an enclosing model."""
    return Predicate("named", names)


@makes(named)
def _named(node: Node, graph: Graph, *names: str) -> bool:
    return bool({node.name, "/".join(node.layers), *node.layers}.intersection(names))


def at_index(*positions: int) -> Predicate:
    """Nodes that belong to ``model.layers[i]``; negative positions count from the last layer with a node."""
    return Predicate("at_index", positions)


@makes(at_index)
def _at_index(node: Node, graph: Graph, *positions: int) -> bool:
    last = _last_position(graph)
    return node.position is not None and (node.position in positions or node.position - last - 1 in positions)


def _last_position(graph: Graph) -> int:
    if graph.within is not None:
        return _last_position(graph.within[0])
    return max((n.position for n in graph.nodes if n.position is not None), default=-1)


def kind_is(*kinds: Kind) -> Predicate:
    """Nodes of one of these kinds."""
    return Predicate("kind_is", kinds)


@makes(kind_is)
def _kind_is(node: Node, graph: Graph, *kinds: Kind) -> bool:
    return node.kind in kinds


@savable
def relu_like(node: Node, graph: Graph) -> bool:
    """ReLU in any form."""
    return facts.is_relu_like(node)


@savable
def hidden_relu(node: Node, graph: Graph) -> bool:
    """Nodes that could not be opened, with a ReLU inside: recurrent layers, wrappers, layers of raw TensorFlow."""
    specs = [(graph.specs[slot].shape, graph.specs[slot].dtype) for slot in node.inputs]
    return node.kind in (Kind.OPAQUE, Kind.RECURRENT) and numerics.rectifies(node.call, specs)


@savable
def convolution(node: Node, graph: Graph) -> bool:
    """Affine nodes that share weights over space: convolutions of every type."""
    return node.kind is Kind.AFFINE and "conv" in op_key(node.op).lower()


@savable
def dense(node: Node, graph: Graph) -> bool:
    """Affine nodes that are not convolutions."""
    return node.kind is Kind.AFFINE and not convolution(node, graph)


@savable
def first_linear(node: Node, graph: Graph) -> bool:
    """The first affine node on every path from the input, looking through shapes, padding and rescaling."""
    return node.first


@savable
def shifted(node: Node, graph: Graph) -> bool:
    """Constants that are added behind the first weights; in front of them they only change the units of the input.

    A gate that is turned (1 - z) is still a gate, the sigmoid of what goes into it.
    """
    return node.kind is Kind.RESCALE and traits.shifts(node) and not (node.early or node.gate)


@savable
@general
def nonnegative_input(node: Node, graph: Graph) -> bool:
    """Nodes whose inputs are proved non-negative."""
    return bool(node.nonnegative) and all(node.nonnegative)


@savable
def centres(node: Node, graph: Graph) -> bool:
    """Layer and group normalisation: they subtract the mean of the sample."""
    return traits.centres(node)


@savable
def not_differentiable(node: Node, graph: Graph) -> bool:
    """Nodes whose outputs are integers or booleans (masks, positions, comparisons), but not numbers of tokens."""
    return node.kind is not Kind.TOKENS and not any(numerics.is_float(graph.specs[slot].dtype) for slot in node.outputs)


def up_to(layer: int | str) -> Predicate:
    """Nodes up to and including a layer: by position in ``model.layers``, or everything a named layer depends on."""
    return Predicate("up_to", (layer,))


@makes(up_to)
def _up_to(node: Node, graph: Graph, layer: int | str) -> bool:
    if isinstance(layer, int):
        limit = layer + _last_position(graph) + 1 if layer < 0 else layer
        return node.position is not None and node.position <= limit
    if graph.within is not None and _up_to(graph.within[1], graph.within[0], layer):
        return True
    slots = {slot for n in graph.nodes if _named(n, graph, layer) for slot in n.outputs}
    return node.index in facts.ancestors(graph, slots)


def both(*predicates: PredicateLike) -> Predicate:
    """All of the predicates hold."""
    return Predicate("both", predicates)


@makes(both)
def _both(node: Node, graph: Graph, *predicates: PredicateLike) -> bool:
    return all(p(node, graph) for p in predicates)
