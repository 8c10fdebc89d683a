"""Masks of ``Masking`` layers, held as they are at x: noise in a step that x leaves out does not make it count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from keras import ops

from innv_ext.backend import affine as affines
from innv_ext.backend import traits
from innv_ext.backend.graph import Arg, Call, Graph, Node, Spec, op_key

Tensor = Any


def held(head: Graph, graph: Graph) -> tuple[Graph, Graph]:
    """(head, graph) where the head makes the masks, which the graph takes as inputs behind its own."""
    making, nodes, known, specs = [], [], {}, dict(graph.specs)
    made: list[int] = []
    for node in graph.nodes:
        if op_key(node.op) != "Masking":
            nodes.append(node)
            making.append(node)
            continue
        (x,), shape = node.inputs, specs[node.inputs[0]].shape
        mask, wide = max(specs) + 1, max(specs) + 2
        specs[mask], specs[wide] = Spec(shape[:-1], "bool"), Spec((*shape[:-1], 1), "bool")
        making.extend([replace(node, op=ops.any, call=_maker(node.op.mask_value), outputs=(mask,)), node])
        spread, choice = Call(ops.expand_dims, (Arg(0), -1)), Call(ops.where, (Arg(0), Arg(1), 0.0))
        nodes.append(replace(node, op=ops.expand_dims, call=spread, inputs=(mask,), outputs=(wide,)))
        nodes.append(replace(node, op=ops.where, call=choice, inputs=(wide, x)))
        known.update(dict.fromkeys(_masks_of(graph, node), mask))
        made.append(mask)
    if not made:
        return head, graph
    nodes = [replace(n, inputs=tuple(known.get(s, s) for s in n.inputs)) for n in nodes]
    rest = replace(graph, specs=specs, inputs=(*graph.inputs, *made)).rebuilt(nodes)
    whole = replace(graph, specs={**head.specs, **specs}, inputs=head.inputs)
    return whole.rebuilt([*head.nodes, *making], outputs=(*graph.inputs, *made)), rest


def _maker(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: ops.any(ops.not_equal(x, value), axis=-1)


def _masks_of(graph: Graph, masking: Node) -> list[int]:
    """The slots that hold the mask of a layer: any(x != value) for the x that it reads."""
    readers = [n for n in graph.nodes if n.inputs == masking.inputs and op_key(n.op) == "not_equal"]
    value = masking.op.mask_value
    unequal = {n.outputs[0] for n in readers if affines.constant_operand(n.call) == value}
    rank = len(graph.specs[masking.inputs[0]].shape)
    found = [n for n in graph.nodes if op_key(n.op) == "any" and unequal.intersection(n.inputs)]
    return [n.outputs[0] for n in found if traits.axes(n, rank) == (rank - 1,) and not n.op.keepdims]
