"""Predicates of rule tables: which nodes a row is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import keras

from innv_ext.backend import facts, numerics, traits
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.kinds import Kind

PredicateLike = Callable[[Node, Graph], bool]

savable = keras.saving.register_keras_serializable("innv_ext")


class Saved:
    """A dataclass that Keras can save: its config are its fields."""

    def get_config(self) -> dict[str, Any]:
        """What it is made with."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]


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
        return f"{self.kind}({(' and ' if self.kind == 'both' else ', ').join(map(shown, self.values))})"

    @property
    def __name__(self) -> str:
        return repr(self)


def shown(value: Any) -> str:
    """A value in the representation of a table."""
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


def behind_activation(factor: int) -> Predicate:
    """Elementwise products of two signals of which one alone comes of an activation: this factor."""
    return Predicate("behind_activation", (factor,))


@makes(behind_activation)
def _behind_activation(node: Node, graph: Graph, factor: int) -> bool:
    return traits.factors(node) == "values" and node.varying == (0, 1) and node.active == (factor,)


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
    """Nodes whose outputs are integers or booleans (masks, positions, comparisons), or floats that are made of these.

    Numbers of tokens are not meant.
    """
    if node.kind is Kind.TOKENS:
        return False
    return node.fixed or not any(numerics.is_float(graph.specs[slot].dtype) for slot in node.outputs)


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
    return any(n.index == node.index for n in graph.behind(slots))


def both(*predicates: PredicateLike) -> Predicate:
    """All of the predicates hold."""
    return Predicate("both", predicates)


@makes(both)
def _both(node: Node, graph: Graph, *predicates: PredicateLike) -> bool:
    return all(p(node, graph) for p in predicates)
