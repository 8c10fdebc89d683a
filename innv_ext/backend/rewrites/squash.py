"""A softmax or sigmoid at the end of a model: cut off, so that logits are explained."""

from __future__ import annotations

from dataclasses import replace

from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import TRAILING_SQUASH, Kind

_SAME = ("Identity", "Dropout", "linear", "ActivityRegularization", "cast")
_FILLING = ("Masking", "tril", "triu", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


def cut_softmax(graph: Graph, moved: bool = True) -> tuple[Graph, tuple[str, ...]]:
    """Remove trailing softmax and sigmoid nodes; returns the graph and the names of what was cut.

    Nodes behind them that only move or join values stay, on logits; if one joins them with other values, all stay.
    With ``moved=False`` nothing is cut that has such a node behind it.
    """
    cutter = _Cutter(graph, moved)
    outputs = tuple(_first(cutter.logits(slot), slot) for slot in graph.outputs)
    if not cutter.cut:
        return graph, ()
    layer_slots = {name: _first(cutter.moved.get(slot), slot) for name, slot in graph.layer_slots.items()}
    graph = replace(graph, specs={**graph.specs, **cutter.specs})
    names = tuple(dict.fromkeys(cutter.cut))
    return graph.rebuilt([*graph.nodes, *cutter.nodes], outputs=outputs, layer_slots=layer_slots), names


class _Cutter:
    def __init__(self, graph: Graph, moved: bool):
        self.moves = _moves if moved else _same
        self.graph, self.producer = graph, graph.producer()
        self.moved: dict[int, int | None] = {}  # slot -> the slot of its logits, if it has such
        self.specs, self.nodes, self.cut = {}, [], []
        self.free = graph.new_slot()

    def logits(self, slot: int) -> int | None:
        """The slot of what goes into the softmax on whose values this one has; None if these are no such values."""
        if slot not in self.moved:
            node = self.producer.get(slot)
            self.moved[slot] = None
            if node is not None and squashes(node):
                self.cut.append(node.name)
                self.moved[slot] = _first(self.logits(node.inputs[0]), node.inputs[0])
            elif node is not None and self.moves(node):
                self.redo(node)
        return self.moved[slot]

    def redo(self, node: Node) -> None:
        """A node that moves values, once more, on logits."""
        is_value = [numerics.is_float(self.graph.specs[s].dtype) for s in node.inputs]
        before = len(self.nodes), len(self.cut), dict(self.moved)
        found = [self.logits(s) if v else s for s, v in zip(node.inputs, is_value, strict=True)]
        if any(s is None for s in found) or not any(is_value):
            # what was cut on the way stays too, unless another output leads to it
            del self.nodes[before[0] :], self.cut[before[1] :]
            self.moved = before[2]
            return
        outputs = tuple(range(self.free, self.free + len(node.outputs)))
        self.free += len(outputs)
        self.moved.update(zip(node.outputs, outputs, strict=True))
        self.specs.update({new: self.graph.specs[old] for old, new in zip(node.outputs, outputs, strict=True)})
        self.nodes.append(replace(node, inputs=tuple(found), outputs=outputs))


def _first(slot: int | None, other: int) -> int:
    return other if slot is None else slot


def squashes(node: Node) -> bool:
    """Softmax, sigmoid and their logarithms."""
    return len(node.inputs) == 1 and traits.activation_key(node) in TRAILING_SQUASH


def _same(node: Node) -> bool:
    return traits.activation_key(node) in _SAME


def _moves(node: Node) -> bool:
    """Whether each output of a node is one of its inputs."""
    key = traits.activation_key(node)
    nearest = key in ("UpSampling2D", "Resizing") and node.op.interpolation == "nearest"
    moves = node.kind is Kind.SHAPE and not (key in _FILLING or traits.may_fill(node))
    return moves or nearest or _same(node)


def kept_inside(graph: Graph) -> list[str]:
    """Softmax and sigmoid nodes whose values are only averaged, scaled or joined on the way to the output."""
    reached, found = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not reached.intersection(node.outputs):
            continue
        if squashes(node):
            found.append(node.name)
        elif node.kind in (Kind.SHAPE, Kind.LINEAR, Kind.IDENTITY, Kind.RESCALE):
            reached.update(node.inputs)
    return found
