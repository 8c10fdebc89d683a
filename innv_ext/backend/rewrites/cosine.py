"""``Dot(normalize=True)`` as what it stands for: two normalisations and a product."""

from __future__ import annotations

import functools
from dataclasses import replace

import keras
from keras import ops

from innv_ext.backend.graph import Call, Graph, Node, op_key


def split_cosine(graph: Graph) -> Graph:
    """Every cosine similarity as a UnitNormalization of each factor and a Dot, for which there are rules."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if op_key(node.op) != "Dot" or not node.op.normalize or not isinstance(node.call, Call):
            nodes.append(node)
            continue
        axes = (node.op.axes,) * 2 if isinstance(node.op.axes, int) else node.op.axes
        between = []
        for i, (slot, axis) in enumerate(zip(node.inputs, axes, strict=True), 1):
            new, spec = graph.new_slot(), graph.specs[slot]
            graph = replace(graph, specs={**graph.specs, new: spec})
            between.append(new)
            call = functools.partial(ops.normalize, axis=axis % len(spec.shape))
            unit = keras.layers.UnitNormalization(axis, dtype=node.op.dtype_policy)
            name = f"{node.name}/normalize_{i}"
            nodes.append(replace(node, name=name, op=unit, call=call, inputs=(slot,), outputs=(new,)))
        dot = keras.layers.Dot(node.op.axes, dtype=node.op.dtype_policy)
        nodes.append(replace(node, op=dot, call=replace(node.call, op=dot), inputs=tuple(between)))
    return graph.rebuilt(nodes)
