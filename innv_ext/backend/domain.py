"""What a slot can hold: which of its values come from the input or a layer at all, and within which bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops, tree

from innv_ext.backend import facts, traits
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import floating

Tensor = Any
Bounds = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Origin:
    """How the values of one slot come about: ``nodes``, which move and rescale them, and the slots before these.

    Everything is evaluated when a walk asks for it, so that statistics and shapes are those of now.
    """

    slot: int
    nodes: tuple[Node, ...]
    sources: tuple[int, ...]
    filled: bool  # whether some values are constants: padding, operands of a concatenation

    def present(self, slots: dict[int, Tensor], known: dict[int, Tensor] | None = None) -> Tensor:
        """One sample: 1 where a value comes from a source, 0 where it is a constant, whatever the sources hold.

        ``known`` has the same of sources that hold constants themselves.
        """
        ones = {s: ops.ones_like(v) if floating(v) else v for s in self.sources for v in [slots[s][:1]]}
        ones |= {s: ops.cast(known[s], slots[s].dtype) for s in self.sources if s in (known or {})}
        return self._run(ones, _present)

    def bounds(self, slots: dict[int, Tensor], given: dict[int, Bounds]) -> Bounds:
        """Least and largest values, from those of the sources that are ``given``.

        Others lie between 0 and their own value: z^B is the z+ rule there.
        """
        ends: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        for source in self.sources:
            x = slots[source]
            if not floating(x):
                pair = x, x
            elif source in given:
                pair = tuple(ops.zeros_like(x) + ops.cast(v, x.dtype) for v in given[source])
            else:
                pair = ops.minimum(x, 0), ops.maximum(x, 0)
            for end, value in zip(ends, pair, strict=True):
                end[source] = value
        a, b = (self._run(end, _value) for end in ends)
        return ops.minimum(a, b), ops.maximum(a, b)  # a factor may be negative

    def _run(self, slots: dict[int, Tensor], step: Any) -> Tensor:
        for node in self.nodes:
            slots.update(zip(node.outputs, step(node, [slots[s] for s in node.inputs]), strict=True))
        return slots[self.slot]


def origin(graph: Graph, slot: int) -> Origin:
    """Where the values of ``slot`` come from, looking through what ``first`` looks through."""
    needed, nodes = {slot}, []
    for node in reversed(graph.nodes):
        if node.kind in facts.LOOK_THROUGH and needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    made = {s for node in nodes for s in node.outputs}
    return Origin(slot, tuple(reversed(nodes)), tuple(sorted(needed - made)), any(map(traits.fills, nodes)))


def _value(node: Node, xs: Sequence[Tensor]) -> Sequence[Tensor]:
    return [xs[0]] if _keeps_all(node) else tree.flatten(node.call(*xs))


def _present(node: Node, xs: Sequence[Tensor]) -> Sequence[Tensor]:
    if _keeps_all(node):
        return [xs[0]]
    if node.kind is not Kind.SHAPE:  # one value to one value, or to its copies
        return [ops.cast(xs[0], y.dtype) + ops.zeros_like(y) for y in tree.flatten(node.call(*xs))]
    zeros = [ops.zeros_like(x) if floating(x) else x for x in xs]
    moved, constants = (tree.flatten(node.call(*values)) for values in (xs, zeros))
    return [a - b if floating(a) else a for a, b in zip(moved, constants, strict=True)]


def _keeps_all(node: Node) -> bool:
    return traits.activation_key(node) == "Masking"  # which steps it drops is a matter of x
