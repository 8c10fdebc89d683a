"""Values that a backward walk computes again, because they take more memory than time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import SOFTMAX, Kind

Tensor = Any
_LIGHT = (Kind.RESCALE, Kind.LINEAR, Kind.SELECT, Kind.SHAPE, Kind.IDENTITY)


def scores(graph: Graph) -> frozenset[int]:
    """The slots between the products and the softmax of attention: as long as it is wide, a number for every pair.

    A gradient needs the weights behind them; the rules of LRP ask for scores as well, which would be twice as much.
    """
    behind, wanted = set[int](), set[int]()  # behind products, by light work alone; in front of a softmax
    for node in graph.nodes:
        if len(node.outputs) == 1 and (_pairs(node) or (_is_light(node) and behind.intersection(node.inputs))):
            behind.update(node.outputs)
    for node in reversed(graph.nodes):
        if traits.activation_key(node) in SOFTMAX:
            wanted.update(behind.intersection(node.inputs[:1]))
        elif wanted.intersection(node.outputs) and not _pairs(node):
            wanted.update(behind.intersection(node.inputs))
    return frozenset(wanted.difference(graph.outputs))


def _pairs(node: Node) -> bool:
    """Whether a node has a sum of products for every pair of vectors."""
    return node.kind is Kind.PRODUCT and traits.factors(node) == "sums"


def _is_light(node: Node) -> bool:
    capped = node.kind is Kind.ACTIVATION and len(node.inputs) == 1 and traits.activation_key(node) not in SOFTMAX
    return capped or node.kind in _LIGHT


class Again:
    """What the slots held, computed from what was kept, and not before a walk asks for it."""

    def __init__(self, slots: frozenset[int], graph: Graph, xs: Sequence[Sequence[Tensor]]):
        self.slots, self.writers, self.xs = slots, graph.producer() if slots else {}, xs
        self.made: dict[int, Tensor] = {}

    def values(self, slots: Sequence[int], kept: tuple[Tensor, ...], r: Tensor) -> tuple[Tensor, ...]:
        """``kept`` with those in place that are computed again, behind the relevance ``r``."""
        if self.slots.isdisjoint(slots):
            return kept
        return tuple(self._made(s, r) if s in self.slots else x for s, x in zip(slots, kept, strict=True))

    def _made(self, slot: int, r: Tensor) -> Tensor:
        if slot not in self.made:
            node = self.writers[slot]
            pairs = zip(node.inputs, self.xs[node.index], strict=True)
            given = [self._made(s, r) if s in self.slots else numerics.not_before(r, x) for s, x in pairs]
            self.made[slot] = node.call(*given)
        return self.made[slot]
