"""What the graph knows before it is run: the kind of each node, which slots cannot be negative, which input of a
product carries the signal, which affine nodes come first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from innv_ext.backend import affine as affines
from innv_ext.backend import constants, traits
from innv_ext.backend import linear as kernels
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.kinds import (
    AFFINE_LAYERS,
    COMPOSITE_LAYERS,
    CONSTANT_ACTIVATION,
    CONSTANT_RESCALE,
    FIRST,
    GATES,
    KINDS,
    LAYER_KINDS,
    MAXIMUM,
    NOT_NEGATIVE,
    PIECEWISE_LINEAR,
    RELU_LIKE,
    SHAPE_ONLY,
    SQUASH,
    TRUTH,
    Kind,
)
from innv_ext.backend.loops import Loop
from innv_ext.backend.traits import activation_key

SEGMENTS = ("segment_ids", "token_type_ids")  # what inputs are called that say of what kind tokens are
LOOK_THROUGH = {Kind.SHAPE, Kind.RESCALE, Kind.IDENTITY, Kind.BATCHNORM}
_ANY_FORMAT = {"GlobalAveragePooling1D", "GlobalMaxPooling1D", "Flatten"}
_SQUASH_KEEPS = {Kind.SHAPE, Kind.SELECT, Kind.RESCALE, Kind.IDENTITY}


def is_leaf(op: Any) -> bool:
    """Whether the tracer keeps a layer or operation as one node instead of opening it."""
    if kernels.linear_kind(op) is not None:
        return True
    key = op_key(op)
    return not key.startswith("custom:") and key not in COMPOSITE_LAYERS and (key in LAYER_KINDS or key.islower())


def kind_of(node: Node) -> Kind:
    """The role of a node; sums and products with constants are rescalings, matmul with a constant is affine."""
    key, call = activation_key(node), node.call
    kind = KINDS.get(key, Kind.OPAQUE)
    if isinstance(call, Loop):
        return Kind.LOOP
    if key == "take" and _looks_up(node):
        return Kind.EMBEDDING
    if isinstance(call, affines.Affine):
        return Kind.BATCHNORM if kind is Kind.BATCHNORM else Kind.AFFINE
    if key in AFFINE_LAYERS.split() or (key == "ReversibleEmbedding" and kernels.reverses(call)):
        return Kind.OPAQUE  # quantised, and without a kernel to modify
    if kind in (Kind.BATCHNORM, Kind.IDENTITY) and isinstance(call, Call) and call.kwargs.get("training"):
        return Kind.OPAQUE  # statistics of the batch, or dropout or noise that is on in inference
    if isinstance(call, Call) and len(node.inputs) == 1:
        if constants.is_told(call) and key in CONSTANT_RESCALE:
            reciprocal = traits.factors(node) == "quotient" and not isinstance(call.args[0], Arg)
            return Kind.OPAQUE if reciprocal else Kind.RESCALE
        if constants.is_told(call) and key in CONSTANT_ACTIVATION:
            return Kind.ACTIVATION
        if key in CONSTANT_RESCALE | CONSTANT_ACTIVATION and len(call.args) == 2:
            return Kind.OPAQUE
    if kind is Kind.AFFINE:
        return Kind.PRODUCT if len(node.inputs) > 1 else Kind.OPAQUE
    return kind


def _looks_up(node: Node) -> bool:
    """``ops.take(table, numbers, axis=0)``, as layers of users write an embedding."""
    call = node.call
    table = call.args[0] if isinstance(call, Call) and call.args else None
    return len(node.inputs) == 1 and affines.is_array(table) and len(table.shape) == 2 and node.op.axis == 0


def annotate(graph: Graph) -> Graph:
    """Fill in ``kind``, ``nonnegative``, ``first``, ``early``, ``signal``, ``varying``, ``fixed`` and the rest."""
    found = _annotated(graph, set(), set(graph.inputs), set(graph.inputs))
    masks = constants.masks(found) - set(token_inputs(found))
    return _annotated(graph, set(), set(graph.inputs), set(graph.inputs), masks) if masks else found


def _annotated(
    graph: Graph, positive: set[int], near: set[int], early: set[int], masks: Collection[int] = ()
) -> Graph:
    """``annotate``, with what is known of the inputs; ``positive`` is filled with the slots that are not negative."""
    nodes, gates, squashed, active, fixed, held = [], set(), set(), set(), set(masks), set(masks)
    note, deviation = constants.deviations()
    for node in graph.nodes:
        kind = kind_of(node)
        flags = tuple(slot in positive for slot in node.inputs)
        touches = any(slot in near for slot in node.inputs)
        first = kind is Kind.AFFINE and touches
        node = replace(node, kind=kind, nonnegative=flags, first=first, early=early.issuperset(node.inputs))
        if isinstance(node.call, Loop):
            node, kept = _annotated_loop(node, node.inputs[0] in near, node.inputs[0] in early)
            positive.update(kept)
        if kind in LOOK_THROUGH and touches:
            near.update(node.outputs)
        if kind in LOOK_THROUGH and node.early:
            early.update(node.outputs)
        if kind is Kind.PRODUCT:
            divisor = deviation(node)
            moving = tuple(i for i, slot in enumerate(node.inputs) if slot not in fixed and i != divisor)
            behind = tuple(i for i, slot in enumerate(node.inputs) if slot in active)
            node = replace(node, varying=moving or tuple(range(len(node.inputs))), active=behind)
            node = replace(node, signal=_signal(node, graph, gates, squashed))
        if node.inputs and held.issuperset(constants.read(node)):
            node = replace(node, fixed=True)
            held.update(node.outputs)
        if kind is Kind.DISCRETE or (node.inputs and fixed.issuperset(constants.read(node))):
            fixed.update(node.outputs)
        note(node)
        moving = [slot for slot in node.inputs if slot not in fixed and graph.specs[slot].dtype != "bool"]
        for slots, keys in ((gates, GATES), (squashed, SQUASH), (active, None)):
            if _comes_of(node, keys, slots, moving):
                slots.update(node.outputs)
        if _output_nonnegative(node):
            positive.update(node.outputs)
        nodes.append(node)
    users = replace(graph, nodes=tuple(nodes)).consumers()
    turned = (n.kind is Kind.RESCALE and gates.issuperset(n.inputs) and _closes(n, users) for n in nodes)
    nodes = [replace(node, gate=gate) for node, gate in zip(nodes, turned, strict=True)]
    return _mark_tokens(replace(graph, nodes=tuple(nodes)))


def _closes(node: Node, users: dict[int, list[Node]]) -> bool:
    """Whether all that reads a node are products in which it is no signal."""
    slot = node.outputs[0]
    read = [(user, i) for user in users[slot] for i, s in enumerate(user.inputs) if s == slot]
    return bool(read) and all(user.kind is Kind.PRODUCT and i not in user.signal for user, i in read)


def _annotated_loop(node: Node, near: bool, early: bool) -> tuple[Node, set[int]]:
    """A loop with one step annotated, and which of its outputs are not negative; ``near`` and ``early`` are of x."""
    body, given = node.call.body, dict(enumerate(node.nonnegative))
    x, *states = body.inputs
    start = [given[i] if node.call.initial is None else node.call.from_zeros for i in range(1, len(states) + 1)]
    kept = {s for s, flag in zip(states, start, strict=True) if flag}
    ends = [{slot} if flag else set() for slot, flag in ((x, near), (x, early))]
    while True:
        positive = {*kept, *([x] if given[0] else [])}
        found = _annotated(body, positive, *map(set, ends))
        still = {s for s, new in zip(states, body.outputs[1:], strict=True) if s in kept and new in positive}
        if still == kept:
            break
        kept = still
    call = replace(node.call, body=found)
    return replace(node, call=call), {y for y, s in zip(node.outputs, body.outputs, strict=True) if s in positive}


def _mark_tokens(graph: Graph) -> Graph:
    """Give nodes their kind that only move or cast the numbers of tokens: all else that reads these are masks."""
    if not any(n.kind is Kind.EMBEDDING for n in graph.nodes):
        return graph
    users, numbers = graph.consumers(), set()
    for slot in graph.inputs:
        path, kinds, stack = {slot}, set(), [slot]
        while stack:
            for node in users[stack.pop()]:
                moves = node.kind in (Kind.SHAPE, Kind.IDENTITY)
                kinds.update([] if moves else [node.kind])
                stack.extend(s for s in node.outputs if moves and s not in path)
                path.update(node.outputs if moves else ())
        if Kind.EMBEDDING in kinds and kinds <= {Kind.EMBEDDING, Kind.DISCRETE}:
            numbers |= path
    return replace(
        graph,
        nodes=tuple(
            replace(n, kind=Kind.TOKENS) if n.kind is not Kind.EMBEDDING and n.inputs and _carries(n, numbers) else n
            for n in graph.nodes
        ),
    )


def _carries(node: Node, numbers: set[int]) -> bool:
    return numbers.issuperset(node.inputs) and numbers.issuperset(node.outputs)


def _comes_of(node: Node, keys: frozenset[str] | None, slots: set[int], moving: Sequence[int]) -> bool:
    """Whether a node is one of these activations (None: any), or only moves, scales or masks what comes of them.

    That is in ``slots``; ``moving`` are the inputs that are no masks.
    """
    if node.kind is Kind.ACTIVATION:
        return keys is None or activation_key(node) in keys
    masks = node.kind is Kind.PRODUCT and len(moving) == 1 and traits.factors(node) == "values"
    return (node.kind in _SQUASH_KEEPS or masks) and bool(moving) and slots.issuperset(moving)


def _signal(node: Node, graph: Graph, gates: set[int], squashed: set[int]) -> tuple[int, ...]:
    """The inputs that carry the signal: not those that are broadcast, not the gates; a tanh is one if no other is.

    Masks and constants that only shapes go into are none beside any other factor.
    """
    how = traits.factors(node)
    if how == "attention":
        return (len(node.inputs) - 1,) if len(node.inputs) <= 2 else (2,)
    if how == "quotient":
        return (0,)
    closing = gates if gates.intersection(node.inputs) else squashed
    free = [i for i in node.varying if node.inputs[i] not in closing] or list(node.varying)
    if how == "sums":
        return tuple(free)
    sizes = {i: _static_size(graph.specs[node.inputs[i]].shape) for i in free}
    return tuple(i for i in free if sizes[i] == max(sizes.values()))


def _static_size(shape: tuple[int | None, ...]) -> float:
    return float(np.prod([np.inf if d is None else d for d in shape[1:]]))


def is_relu_like(node: Node) -> bool:
    """ReLU in any form: fused, layer, ``Activation``, operation, capped, thresholded or leaky, ``maximum(x, 0)``."""
    if node.kind is not Kind.ACTIVATION:
        return False
    key = activation_key(node)
    if key in MAXIMUM:
        return bool(np.all(np.asarray(affines.constant_operand(node.call)) == 0))
    return key in RELU_LIKE


def curved_nodes(graph: Graph) -> list[Node]:
    """The nodes that make the graph more than a piecewise linear function of its inputs."""
    flat = (Kind.AFFINE, Kind.BATCHNORM, Kind.IDENTITY, Kind.SHAPE, Kind.RESCALE, Kind.LINEAR, Kind.MAX, Kind.DISCRETE)
    return [
        node
        for node in graph.nodes
        if node.kind not in flat and not (node.kind is Kind.ACTIVATION and activation_key(node) in PIECEWISE_LINEAR)
    ]


def _output_nonnegative(node: Node) -> bool:
    """Whether the node's outputs cannot be negative; "no" where in doubt."""
    key = activation_key(node)
    if node.kind is Kind.ACTIVATION:
        return key in NOT_NEGATIVE or _rectifies(node)
    if key in MAXIMUM:
        return any(node.nonnegative)
    return bool(node.inputs) and all(node.nonnegative) and traits.keeps_sign(node)


def _rectifies(node: Node) -> bool:
    """A plain or capped ReLU; not a leaky one (a learnt slope may change), nor one with a negative threshold."""
    found = traits.pieces(node) if is_relu_like(node) else None
    if found is None:
        return False
    knots, slopes, _ = found
    return knots[0] >= 0 and isinstance(slopes[0], float) and slopes[0] == 0


def channels_first(graph: Graph) -> tuple[bool, ...]:
    """Of each input, whether it has its channels before the axes of space or time."""
    axes = channel_axes(graph)
    return tuple(axes.get(slot) == 1 for slot in graph.inputs)


def channel_axes(graph: Graph) -> dict[int, int]:
    """Slot -> axis of its channels, as far as nodes with a format say, and those that keep or permute axes beside them.

    A pooling over all steps, or all features, of a signal only says of which it takes the mean, and Flatten an order.
    """
    known: dict[int, int] = {}
    ranks = {slot: len(spec.shape) for slot, spec in graph.specs.items()}
    for node in graph.nodes:
        said = getattr(node.op, "data_format", None) if op_key(node.op) not in _ANY_FORMAT else None
        for slot in (*node.inputs[:1], *node.outputs) if said else ():
            if ranks[slot] > 2:
                known.setdefault(slot, 1 if said == "channels_first" else ranks[slot] - 1)
    for nodes, backwards in ((graph.nodes[::-1], True), (graph.nodes, False), (graph.nodes[::-1], True)):
        for node in nodes:
            given, asked = (node.outputs, node.inputs) if backwards else (node.inputs, node.outputs)
            found = next((s for s in given if s in known), None)
            if found is None or {ranks[s] for s in (*given, *asked)} != {ranks[found]}:
                continue
            order = _order(node, ranks[found])
            axis = order[known[found]] if backwards else order.index(known[found])
            for slot in asked:
                known.setdefault(slot, axis)
    return known


def _order(node: Node, rank: int) -> list[int]:
    """Which axis of its input each axis of a node's output is."""
    if activation_key(node) not in ("Permute", "transpose", "swapaxes", "moveaxis"):
        return list(range(rank))
    sizes = list(range(2, rank + 2))
    return [sizes.index(side) for side in node.call(np.zeros(sizes, "float32")).shape]


def token_sources(graph: Graph) -> dict[int, int]:
    """Slot -> input, for inputs that hold numbers of tokens, whatever their dtype, and for what embeddings read."""
    users, sources = graph.consumers(), {}
    for slot in graph.inputs:
        kinds = {node.kind for node in users[slot]}
        if kinds & {Kind.EMBEDDING, Kind.TOKENS} and kinds <= {Kind.EMBEDDING, Kind.TOKENS, Kind.DISCRETE}:
            sources[slot] = slot
    for node in graph.nodes:
        if node.kind is Kind.TOKENS and node.inputs[0] in sources:
            sources.update(dict.fromkeys(node.outputs, sources[node.inputs[0]]))
    return sources


def vocabularies(graph: Graph) -> dict[int, tuple[int, str]]:
    """Position of an input of tokens -> (rows, name) of the smallest table that they are looked up in."""
    sources, found = token_sources(graph), {}
    for node in graph.nodes:
        if node.kind is Kind.EMBEDDING and hasattr(node.op, "input_dim") and node.inputs[0] in sources:
            i = graph.inputs.index(sources[node.inputs[0]])
            found[i] = min(found.get(i, (np.inf, "")), (int(node.op.input_dim), node.name))
    return found


def beside_tokens(graph: Graph) -> list[tuple[int, Node]]:
    """(input, node) for what makes more of token numbers than masks or places, beside an embedding: one-hot codes."""
    sources = token_sources(graph)
    return [
        (sources[slot], node)
        for node in graph.nodes
        if node.kind is Kind.DISCRETE and activation_key(node) not in TRUTH | SHAPE_ONLY | FIRST
        for slot in node.inputs
        if slot in sources
    ]


def token_inputs(graph: Graph) -> set[int]:
    """The inputs that hold numbers of tokens: an Embedding reads them, and else only masks do."""
    return set(token_sources(graph)).intersection(graph.inputs)
