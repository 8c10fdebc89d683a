"""What the graph knows before it is run: the kind of each node, which slots cannot be negative, which input of a
product carries the signal, which affine nodes come first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from keras import tree

from innv_ext.backend import affine as affines
from innv_ext.backend import linear as kernels
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.kinds import (
    AFFINE_LAYERS,
    COMPOSITE_LAYERS,
    CONSTANT_ACTIVATION,
    CONSTANT_RESCALE,
    KINDS,
    LAYER_KINDS,
    PIECEWISE_LINEAR,
    RELU_LIKE,
    SQUASH,
    Kind,
)

_LOOK_THROUGH = {Kind.SHAPE, Kind.RESCALE, Kind.IDENTITY, Kind.BATCHNORM}
_SQUASH_KEEPS = {Kind.SHAPE, Kind.RESCALE, Kind.IDENTITY}
_NONNEGATIVE_FUNCTIONS = frozenset(
    """relu6 sigmoid hard_sigmoid softmax sparsemax sparse_sigmoid softplus squareplus exponential exp exp2 square
    abs absolute fabs sqrt rsqrt sparse_plus Softmax""".split()
)
_KEEP_SIGN = frozenset(
    """Add Average CenterCrop RandomCrop Multiply Dot AveragePooling1D AveragePooling2D AveragePooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D add sum mean average_pool adaptive_average_pool cumsum multiply
    divide true_divide divide_no_nan matmul dot einsum inner outer""".split()
)
_MAY_FILL_NEGATIVE = frozenset({"pad", "pad_images"})


def is_leaf(op: Any) -> bool:
    """Whether the tracer keeps a layer or operation as one node instead of opening it."""
    if kernels.linear_kind(op) is not None:
        return True
    key = op_key(op)
    return not key.startswith("custom:") and key not in COMPOSITE_LAYERS and (key in LAYER_KINDS or key.islower())


def kind_of(node: Node) -> Kind:
    """The role of a node; sums and products with constants are rescalings, matmul with a constant is affine."""
    key, call = op_key(node.op), node.call
    if isinstance(call, affines.Affine):
        return Kind.BATCHNORM if key == "BatchNormalization" else Kind.AFFINE
    if key in AFFINE_LAYERS.split():
        return Kind.OPAQUE  # quantised, so without a kernel to modify
    if key == "BatchNormalization" and isinstance(call, Call) and call.kwargs.get("training"):
        return Kind.OPAQUE  # normalises by the statistics of the batch
    if key == "Activation":
        return KINDS.get(op_key(node.op.activation), Kind.OPAQUE)
    kind = KINDS.get(key, Kind.OPAQUE)
    if kind is Kind.IDENTITY and isinstance(call, Call) and call.kwargs.get("training"):
        return Kind.OPAQUE  # dropout or noise that is on in inference
    if isinstance(call, Call) and len(node.inputs) == 1:
        constant = affines.constant_operand(call)
        if constant is not None and key in CONSTANT_RESCALE:
            return Kind.OPAQUE if _is_reciprocal(call, key) else Kind.RESCALE
        if constant is not None and key in CONSTANT_ACTIVATION:
            return Kind.ACTIVATION
        if key in CONSTANT_RESCALE | CONSTANT_ACTIVATION and len(call.args) == 2:
            return Kind.OPAQUE
    if kind is Kind.AFFINE:
        return Kind.PRODUCT if len(node.inputs) > 1 else Kind.OPAQUE
    return kind


def _is_reciprocal(call: Call, key: str) -> bool:
    """constant / x is not linear in x."""
    return "divide" in key and not isinstance(call.args[0], Arg)


def annotate(graph: Graph) -> Graph:
    """Fill in ``kind``, ``nonnegative``, ``first`` and ``signal`` of every node."""
    nodes, positive, gates, near = [], set(), set(), set(graph.inputs)
    for node in graph.nodes:
        kind = kind_of(node)
        flags = tuple(slot in positive for slot in node.inputs)
        touches = any(slot in near for slot in node.inputs)
        node = replace(node, kind=kind, nonnegative=flags, first=kind is Kind.AFFINE and touches)
        if kind in _LOOK_THROUGH and touches:
            near.update(node.outputs)
        if kind is Kind.PRODUCT:
            node = replace(node, signal=_signal(node, graph, gates))
        if _is_gate(node, gates):
            gates.update(node.outputs)
        if _output_nonnegative(node):
            positive.update(node.outputs)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _is_gate(node: Node, gates: set[int]) -> bool:
    if node.kind is Kind.ACTIVATION:
        return activation_key(node) in SQUASH
    return node.kind in _SQUASH_KEEPS and bool(node.inputs) and all(slot in gates for slot in node.inputs)


def _signal(node: Node, graph: Graph, gates: set[int]) -> tuple[int, ...]:
    """The inputs that carry the signal: not the squashed ones, not those that are broadcast."""
    key = op_key(node.op)
    if key == "dot_product_attention":
        return (len(node.inputs) - 1,) if len(node.inputs) <= 2 else (2,)
    if "divide" in key:
        return (0,)
    free = [i for i, slot in enumerate(node.inputs) if slot not in gates] or list(range(len(node.inputs)))
    if key not in ("multiply", "Multiply"):
        return tuple(free)
    sizes = {i: _static_size(graph.specs[node.inputs[i]].shape) for i in free}
    return tuple(i for i in free if sizes[i] == max(sizes.values()))


def _static_size(shape: tuple[int | None, ...]) -> float:
    return float(np.prod([np.inf if d is None else d for d in shape[1:]]))


def activation_key(node: Node) -> str:
    """The name of a node's non-linearity: ``Activation("relu")`` is "relu"."""
    key = op_key(node.op)
    return op_key(node.op.activation) if key == "Activation" else key


def is_relu_like(node: Node) -> bool:
    """ReLU in any form: fused, layer, ``Activation``, operation, capped, thresholded or leaky, ``maximum(x, 0)``."""
    if node.kind is not Kind.ACTIVATION:
        return False
    key = activation_key(node)
    if key in ("maximum", "fmax") and isinstance(node.call, Call):
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
    if node.kind is Kind.ACTIVATION:
        key = activation_key(node)
        return _relu_nonnegative(node, key) or key in _NONNEGATIVE_FUNCTIONS
    key = op_key(node.op)
    if key in ("Maximum", "maximum", "fmax"):
        return any(node.nonnegative)
    if not node.inputs or not all(node.nonnegative) or has_constants(node):
        return False
    if key in ("UpSampling2D", "Resizing"):  # cubic interpolation overshoots, padding fills with any value
        return node.op.interpolation in ("nearest", "bilinear") and not getattr(node.op, "pad_to_aspect_ratio", False)
    if node.kind is Kind.SHAPE:
        return key not in _MAY_FILL_NEGATIVE
    return node.kind in (Kind.IDENTITY, Kind.MAX) or (node.kind in (Kind.LINEAR, Kind.PRODUCT) and key in _KEEP_SIGN)


def has_constants(node: Node) -> bool:
    """Whether arrays or starting values take part beside the node's inputs."""
    if not isinstance(node.call, Call):
        return False
    given = any(affines.is_array(a) for a in tree.flatten((node.call.args, node.call.kwargs)))
    return given or getattr(node.op, "initial", None) is not None


def _relu_nonnegative(node: Node, key: str) -> bool:
    """A plain or capped ReLU; not a leaky one, nor one with a negative threshold."""
    if key in ("maximum", "fmax"):
        return is_relu_like(node)
    if key not in ("relu", "ReLU"):
        return False
    settings: dict[str, Any] = {}
    op = node.op.activation if op_key(node.op) == "Activation" else node.op
    for name in ("negative_slope", "threshold", "max_value"):
        if hasattr(op, name):
            settings[name] = getattr(op, name)
    cap = settings.get("max_value")
    return (
        not np.any(settings.get("negative_slope") or 0)
        and (settings.get("threshold") or 0) >= 0
        and (cap is None or cap >= 0)
    )


def channels_first(graph: Graph) -> bool:
    """Whether the model keeps its channels before the spatial axes."""
    return any(getattr(node.op, "data_format", None) == "channels_first" for node in graph.nodes)


def ancestors(graph: Graph, slots: set[int]) -> set[int]:
    """Indices of the nodes on which the given slots depend."""
    needed, found = set(slots), set()
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            found.add(node.index)
            needed.update(node.inputs)
    return found
