"""The types of a traced program: nodes on integer slots."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keras import tree

Tensor = Any


@dataclass(frozen=True)
class Arg:
    """Stands for the i-th input tensor of a node inside its recorded arguments."""

    index: int


@dataclass(frozen=True, eq=False)
class Call:
    """A recorded call of a layer or operation; calling it fills in the tensors."""

    op: Any
    args: tuple[Any, ...] = (Arg(0),)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *xs: Tensor) -> Any:
        fill = functools.partial(tree.map_structure, lambda a: xs[a.index] if isinstance(a, Arg) else a)
        return self.op(*fill(self.args), **fill(self.kwargs))


@dataclass(frozen=True)
class Spec:
    """Shape (with None for free dimensions, batch first) and dtype of a slot."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """One step of the program: ``outputs = call(*inputs)`` on slots.

    ``op`` is what the step is (Keras layer, Keras operation or activation function) and is what predicates look at;
    ``call`` is how it is evaluated. ``layers`` are the names of the enclosing layers, outermost first, its own
    included; ``position`` is the index in ``model.layers`` of the outermost one. ``kind``, ``nonnegative`` (one
    flag per input), ``first`` (the first affine node on a path from the input) and ``signal`` (the input of a product
    that carries the signal) are filled in by ``facts.annotate``. ``note`` says why a composite layer could not be
    opened.
    """

    index: int
    name: str
    op: Any
    call: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layers: tuple[str, ...] = ()
    position: int | None = None
    kind: Any = None
    nonnegative: tuple[bool, ...] = ()
    first: bool = False
    signal: int | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order; ``layer_slots`` says in which slot a layer's output lives."""

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    specs: dict[int, Spec]
    layer_slots: dict[str, int]

    def producer(self) -> dict[int, Node]:
        """The node that writes each slot."""
        return {slot: node for node in self.nodes for slot in node.outputs}

    def consumers(self) -> dict[int, list[Node]]:
        """The nodes that read each slot, once per use."""
        users: dict[int, list[Node]] = {slot: [] for slot in self.specs}
        for node in self.nodes:
            for slot in node.inputs:
                users[slot].append(node)
        return users

    def rebuilt(self, nodes: Sequence[Node], **changes: Any) -> Graph:
        """This graph with other nodes (renumbered), restricted to what its outputs need."""
        outputs = changes.get("outputs", self.outputs)
        needed, kept = set(outputs), []
        for node in reversed(nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        numbered = tuple(replace(node, index=i) for i, node in enumerate(reversed(kept)))
        return replace(self, nodes=numbered, **changes)

    def new_slot(self) -> int:
        """A slot number that is not in use."""
        return max(self.specs) + 1
