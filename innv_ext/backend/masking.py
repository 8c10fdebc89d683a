"""Which nodes read and make Keras masks, and graphs in which masks are held."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops, tree

from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.loops import Loop
from innv_ext.backend.masks import alias, mask_of, masked, repeat_rows, with_mask

Tensor = Any


def mask_arguments(node: Node) -> set[int]:
    """Positions of the inputs that were passed as ``mask=``, ``attention_mask=`` ..."""
    if isinstance(node.call, Loop):
        return {len(node.inputs) - 1} if node.call.masked else set()
    if node.call is masked:
        return {1}
    if not isinstance(node.call, Call):
        return set()
    given = [value for name, value in node.call.kwargs.items() if "mask" in name]
    given += node.call.args[1:] if op_key(node.op) == "Softmax" else []
    return {a.index for a in tree.flatten(given) if isinstance(a, Arg)}


def mask_inputs(node: Node) -> dict[int, int]:
    """Position of an input -> that of the input which is its mask: a model's own call passes ``mask=`` along."""
    positions = mask_arguments(node)
    if isinstance(node.call, Loop):
        return dict.fromkeys([0], len(node.inputs) - 1) if positions else {}
    if not positions:
        return {}
    try:
        given = inspect.signature(node.op.call).bind(*node.call.args, **node.call.kwargs).arguments
    except (AttributeError, TypeError, ValueError):  # no layer
        return {}
    found = {}
    for name, mask in given.items():
        of = next(iter(given)) if name == "mask" else name.removesuffix("_mask")
        pairs = tree.flatten(given.get(of)), tree.flatten(mask)
        if of != name and len(pairs[0]) == len(pairs[1]):
            both = zip(*pairs, strict=True)
            found.update({a.index: m.index for a, m in both if isinstance(a, Arg) and isinstance(m, Arg)})
    return found


def reads_masks(node: Node) -> bool:
    """Whether a mask of its inputs may change what a node computes."""
    if isinstance(node.call, Loop):
        return True
    if not isinstance(node.call, Call) or not isinstance(node.op, keras.layers.Layer):
        return False
    names = inspect.signature(node.op.call).parameters
    return any(n == "mask" or n.endswith("_mask") for n in names) or op_key(node.op) in _READ_FROM_TENSORS


_READ_FROM_TENSORS = ("Maximum", "Minimum", "Multiply")


def _makes_mask(node: Node) -> bool:
    """Layers that decide by values which steps are masked: Masking, and those of users."""
    key, own = op_key(node.op), getattr(type(node.op), "compute_mask", keras.layers.Layer.compute_mask)
    return key == "Masking" or (key.startswith("custom:") and own is not keras.layers.Layer.compute_mask)


def values(graph: Graph, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every slot with its mask, which some layers take off the tensors that they are called with."""
    slots = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        ys = tree.flatten(node.call(*(alias(slots[s]) for s in node.inputs)))
        slots.update(zip(node.outputs, ys, strict=True))
    return slots


def hold_masks(graph: Graph, inputs: Sequence[Tensor], times: Tensor) -> Graph:
    """The graph with all masks as they are at ``inputs``, for points of which each sample has ``times`` in a row.

    Steps that are masked stay so, and no others are, wherever the points are.
    """
    if not any(mask_arguments(n) or _makes_mask(n) for n in graph.nodes):
        return graph
    slots, nodes = values(graph, inputs), []
    for node in graph.nodes:
        given = {i: repeat_rows(slots[node.inputs[i]], times) for i in mask_arguments(node)}
        made = [mask_of(slots[s]) if _makes_mask(node) else None for s in node.outputs]
        if given or any(m is not None for m in made):
            rows = [None if m is None else repeat_rows(m, times) for m in made]
            node = replace(node, call=_Held(node, given, rows))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


class _Held:
    """The call of a node with masks that are given, of inputs (by position) and of outputs."""

    def __init__(self, node: Node, inputs: dict[int, Tensor], outputs: Sequence[Tensor | None]):
        self.node, self.inputs, self.outputs = node, inputs, outputs

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        if op_key(self.node.op) == "Masking":
            ys = [ops.where(self.outputs[0][..., None], xs[0], ops.zeros_like(xs[0]))]
        else:
            ys = tree.flatten(self.node.call(*(self.inputs.get(i, x) for i, x in enumerate(xs))))
        return [with_mask(y, mask) for y, mask in zip(ys, self.outputs, strict=True)]
