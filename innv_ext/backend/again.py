"""Values that a backward walk computes again, because they take more memory than time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import Kind

Tensor = Any
_LIGHT = (Kind.RESCALE, Kind.LINEAR, Kind.SELECT, Kind.SHAPE, Kind.IDENTITY)


def scores(graph: Graph) -> frozenset[int]:
    """The slots between the products and the softmax of attention: as long as it is wide, a number for every pair.

    A gradient needs the weights behind them; the rules of LRP ask for scores as well, which would be twice as much.
    """
    writers, found = graph.producer(), set[int]()
    for node in graph.nodes:
        if traits.activation_key(node) in ("softmax", "Softmax"):
            found |= _behind_product(node.inputs[0], writers)
    return frozenset(found.difference(graph.outputs))


def _behind_product(slot: int, writers: dict[int, Node]) -> set[int]:
    """A slot and what it is made of up to a product; none where there is no product, or more than light work."""
    node = writers.get(slot)
    if node is None or len(node.outputs) > 1:
        return set()
    if node.kind is Kind.PRODUCT and traits.factors(node) == "sums":
        return {slot}
    capped = node.kind is Kind.ACTIVATION and len(node.inputs) == 1 and "max" not in traits.activation_key(node)
    found = {s for i in node.inputs for s in _behind_product(i, writers)} if capped or node.kind in _LIGHT else set()
    return found | {slot} if found else found


class Again:
    """What the slots held, computed from what was kept, and not before a walk asks for it."""

    def __init__(self, slots: frozenset[int], graph: Graph, xs: Sequence[Sequence[Tensor]]):
        self.slots, self.writers, self.xs = slots, graph.producer() if slots else {}, xs
        self.made: dict[int, Tensor] = {}

    def values(self, slots: Sequence[int], kept: tuple[Tensor, ...], r: Tensor) -> tuple[Tensor, ...]:
        """``kept`` with those in place that are computed again, behind the relevance ``r``."""
        if self.slots.isdisjoint(slots):
            return kept
        return tuple(self._value(s, x, r) for s, x in zip(slots, kept, strict=True))

    def _value(self, slot: int, kept: Tensor, r: Tensor) -> Tensor:
        if slot not in self.slots:
            return kept
        if slot not in self.made:
            node = self.writers[slot]
            given = [(s, numerics.not_before(r, x)) for s, x in zip(node.inputs, self.xs[node.index], strict=True)]
            self.made[slot] = node.call(*(self._value(s, x, r) for s, x in given))
        return self.made[slot]
