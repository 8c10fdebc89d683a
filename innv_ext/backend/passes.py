"""Pure rewrites Graph -> Graph. None changes what the graph computes; ``check_equal`` proves it on a sample."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext.backend import affine as affines
from innv_ext.backend import facts, traits
from innv_ext.backend import linear as kernels
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Call, Graph, Node, op_key
from innv_ext.backend.kinds import FUNCTION_KINDS, Kind
from innv_ext.backend.masks import KeepMask
from innv_ext.backend.rewrites.attention import is_attention, split_attention
from innv_ext.backend.rewrites.cosine import split_cosine
from innv_ext.backend.rewrites.loops import open_loops
from innv_ext.backend.rewrites.ties import derivatives_at_ties
from innv_ext.backend.rewrites.transforms import split_transforms
from innv_ext.backend.tracing import open_function
from innv_ext.errors import InnvError

Tensor = Any


def _with_slot(graph: Graph, spec: Any) -> tuple[Graph, int]:
    slot = graph.new_slot()
    return replace(graph, specs={**graph.specs, slot: spec}), slot


def split_activations(graph: Graph) -> Graph:
    """``Dense(activation="relu")`` becomes an affine node and an activation node; likewise for all linear layers."""
    nodes: list[Node] = []
    for node in graph.nodes:
        call, activation = kernels.affine_part(node.call)
        if call is None:
            nodes.append(node)
            continue
        affine = replace(node, call=call)
        if activation is None or activation is keras.activations.linear:
            nodes.append(affine)
            continue
        graph, between = _with_slot(graph, graph.specs[node.outputs[0]])
        nodes.append(replace(affine, outputs=(between,)))
        name = getattr(activation, "__name__", type(activation).__name__)
        nodes.append(
            replace(node, name=f"{node.name}/{name}", op=activation, call=KeepMask(activation), inputs=(between,))
        )
    return graph.rebuilt(nodes)


def open_custom_functions(graph: Graph) -> Graph:
    """Replace a user's own activation function by the operations it is made of, where it can be traced."""

    def inside(node: Node) -> Graph | None:
        fn = traits.operation(node)
        own = callable(fn) and not isinstance(fn, keras.layers.Layer) and op_key(fn) not in FUNCTION_KINDS
        if not own or len(node.inputs) != 1:
            return None
        inner = open_function(fn, [graph.specs[node.inputs[0]]], facts.is_leaf)
        return inner if inner is not None and inner.nodes else None

    return graph.expanded(inside)


def split_separable(graph: Graph) -> Graph:
    """A separable convolution becomes a depthwise and a pointwise affine node."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if op_key(node.op) not in ("SeparableConv1D", "SeparableConv2D") or not isinstance(node.call, Affine):
            nodes.append(node)
            continue
        depthwise, pointwise = kernels.separable_parts(node.op)
        spec = graph.specs[node.outputs[0]]
        channels = int(np.prod(node.op.depthwise_kernel.shape[-2:]))
        shape = list(spec.shape)
        shape[depthwise.channel_axis] = channels
        graph, between = _with_slot(graph, replace(spec, shape=tuple(shape)))
        nodes.append(replace(node, name=f"{node.name}/depthwise", call=depthwise, outputs=(between,)))
        nodes.append(replace(node, name=f"{node.name}/pointwise", call=pointwise, inputs=(between,)))
    return graph.rebuilt(nodes)


def affine_operations(graph: Graph) -> Graph:
    """``ops.matmul(x, w) + b`` with constants w, b, as a custom layer writes it, becomes one affine node."""
    users, nodes, merged = graph.consumers(), [], set()
    for node in graph.nodes:
        if node.index in merged:
            continue
        affine = None
        if isinstance(node.call, Call) and FUNCTION_KINDS.get(op_key(node.op)) is Kind.AFFINE and len(node.inputs) == 1:
            affine = affines.affine_op(node.call)
        if affine is None:
            nodes.append(node)
            continue
        bias = _added_constant(users, graph, node)
        if bias is not None:
            adder, constant = bias
            merged.add(adder.index)
            affine = replace(affine, bias=lambda x, c=constant: ops.cast(c, x.dtype))
            node = replace(node, outputs=adder.outputs)
        nodes.append(replace(node, call=affine))
    return graph.rebuilt(nodes)


def _added_constant(users: dict[int, list[Node]], graph: Graph, node: Node) -> tuple[Node, Any] | None:
    """The node that adds a constant to the sole output of ``node`` without changing its shape."""
    readers = users[node.outputs[0]]
    if len(readers) != 1 or node.outputs[0] in graph.outputs:
        return None
    adder = readers[0]
    if op_key(adder.op) != "add" or not isinstance(adder.call, Call) or len(adder.inputs) != 1:
        return None
    constant = affines.constant_operand(adder.call)
    same = graph.specs[adder.outputs[0]].shape == graph.specs[node.outputs[0]].shape
    return (adder, constant) if constant is not None and same else None


class PlanesFirst:
    """3-D max pooling as a pooling of planes and one along the depth: the first of equal values takes the gradient.

    TensorFlow's own 3-D kernel (where oneDNN does not take its place) hands it out to every one of them.
    """

    def __init__(self, op: Any):
        sizes, strides = ((v,) * 3 if isinstance(v, int) else v for v in (op.pool_size, op.strides or op.pool_size))
        self.sizes, self.strides, self.padding = tuple(sizes), tuple(strides), op.padding
        self.first = (op.data_format or keras.config.image_data_format()) == "channels_first"

    def __call__(self, x: Tensor) -> Tensor:
        x = ops.moveaxis(x, 1, -1) if self.first else x
        batch, depth, height, width, channels = ops.shape(x)
        planes = ops.reshape(x, (-1, height, width, channels))
        planes = ops.max_pool(planes, self.sizes[1:], self.strides[1:], self.padding, "channels_last")
        height, width = ops.shape(planes)[1:3]
        columns = ops.reshape(planes, (batch, depth, height * width, channels))
        columns = ops.max_pool(columns, (self.sizes[0], 1), (self.strides[0], 1), self.padding, "channels_last")
        y = ops.reshape(columns, (batch, ops.shape(columns)[1], height, width, channels))
        return ops.moveaxis(y, -1, 1) if self.first else y


def pool_planes_first(graph: Graph) -> Graph:
    """Every 3-D max pooling as ``PlanesFirst``."""

    def pools(node: Node) -> bool:
        in_3d = op_key(node.op) == "max_pool" and len(graph.specs[node.inputs[0]].shape) == 5
        return op_key(node.op) == "MaxPooling3D" or in_3d

    return graph.rebuilt([replace(n, call=PlanesFirst(n.op)) if pools(n) else n for n in graph.nodes])


def split_embeddings(graph: Graph) -> tuple[Graph, Graph]:
    """(head, main): the head turns token numbers into vectors, main goes on from floats.

    main's inputs are the embeddings' outputs, and the token numbers too where something else reads them (masks).
    """
    sources = facts.token_sources(graph)
    tables = [n for n in graph.nodes if n.kind is Kind.EMBEDDING and n.inputs[0] in sources]
    main = graph.rebuilt([n for n in graph.nodes if n not in tables])
    read, inputs = {s for n in main.nodes for s in n.inputs}, []
    for slot in graph.inputs:
        inputs.extend(n.outputs[0] for n in tables if sources[n.inputs[0]] == slot)
        if slot in read or slot not in sources:
            inputs.append(slot)
    head = [n for n in graph.nodes if n.kind is Kind.TOKENS or n in tables]
    return graph.rebuilt(head, outputs=tuple(inputs)), replace(main, inputs=tuple(inputs))


def batchnorm_nodes(graph: Graph) -> Graph:
    """Every BatchNormalization (in inference) as an elementwise affine node."""
    return graph.rebuilt(
        [
            replace(
                n,
                call=affines.elementwise(n.op, _bn_axis(n, graph), functools.partial(_scale_shift, n.op)),
                inputs=n.inputs[:1],  # a mask has no effect in inference
            )
            if _is_batchnorm(n)
            else n
            for n in graph.nodes
        ]
    )


def split_batchnorm(graph: Graph) -> Graph:
    """BatchNormalization as two affine nodes: normalise, then scale and shift."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if not _is_batchnorm(node):
            nodes.append(node)
            continue
        axis = _bn_axis(node, graph)
        graph, between = _with_slot(graph, graph.specs[node.outputs[0]])

        def normalise(layer: Any = node.op) -> tuple[Tensor, Tensor]:
            mean, inverse, _, _ = affines.batchnorm_vectors(layer)
            return inverse, -mean * inverse

        def rescale(layer: Any = node.op) -> tuple[Tensor, Tensor]:
            return affines.batchnorm_vectors(layer)[2:]

        first, second = (affines.elementwise(node.op, axis, f) for f in (normalise, rescale))
        nodes.append(
            replace(node, name=f"{node.name}/normalise", call=first, inputs=node.inputs[:1], outputs=(between,))
        )
        nodes.append(replace(node, name=f"{node.name}/scale", call=second, inputs=(between,)))
    return graph.rebuilt(nodes)


def fold_batchnorm(graph: Graph) -> Graph:
    """Merge each BatchNormalization into the affine node before it, or else into the affine nodes after it.

    What has no affine neighbour (or shares it with others) becomes an elementwise affine node.
    """
    for node in [n for n in graph.nodes if _is_batchnorm(n)]:
        users, producer = graph.consumers(), graph.producer()
        axis, scale_shift = _bn_axis(node, graph), functools.partial(_scale_shift, node.op)
        before = producer.get(node.inputs[0])
        if (
            before is not None
            and _foldable(before, axis, "scale_outputs")
            and (len(users[node.inputs[0]]) == 1 and node.inputs[0] not in graph.outputs)
        ):
            merged = replace(before, call=affines.fold_after(before.call, axis, scale_shift), outputs=node.outputs)
            slots = {k: node.outputs[0] if v == before.outputs[0] else v for k, v in graph.layer_slots.items()}
            graph = _swap(replace(graph, layer_slots=slots), {id(before): merged, id(node): None})
            continue
        after = users[node.outputs[0]]
        if after and node.outputs[0] not in graph.outputs and all(_foldable(n, axis, "scale_inputs") for n in after):
            changes: dict[int, Node | None] = {id(node): None}
            for n in after:
                call = affines.fold_before(n.call, axis, scale_shift)
                changes[id(n)] = replace(n, call=call, inputs=node.inputs[:1])
            slots = {k: node.inputs[0] if v == node.outputs[0] else v for k, v in graph.layer_slots.items()}
            graph = _swap(replace(graph, layer_slots=slots), changes)
    return batchnorm_nodes(graph)


def _swap(graph: Graph, changes: dict[int, Node | None]) -> Graph:
    """Replace nodes; a node merged into a later place keeps the order because its inputs come first anyway."""
    nodes = [changes.get(id(n), n) for n in graph.nodes]
    return replace(graph, nodes=tuple(n for n in nodes if n is not None))


def _is_batchnorm(node: Node) -> bool:
    return isinstance(node.call, Call) and facts.kind_of(node) is Kind.BATCHNORM


def _bn_axis(node: Node, graph: Graph) -> int:
    rank = len(graph.specs[node.inputs[0]].shape)
    return node.op.axis - rank if node.op.axis >= 0 else node.op.axis


def _foldable(node: Node, axis: int, how: str) -> bool:
    return (
        facts.kind_of(node) is Kind.AFFINE
        and node.call.channel_axis == axis
        and getattr(node.call, how) is not None
    )


def _scale_shift(layer: Any) -> tuple[Tensor, Tensor]:
    mean, inverse, gamma, beta = affines.batchnorm_vectors(layer)
    return gamma * inverse, beta - mean * gamma * inverse


BATCHNORM_MODES: dict[str, Callable[[Graph], Graph]] = {
    "fold": fold_batchnorm,
    "linear": batchnorm_nodes,
    "two_linear": split_batchnorm,
    "hui_binder": batchnorm_nodes,
}


@dataclass(frozen=True)
class Form:
    """What a method wants of a model.

    Attributes
    ----------
    batchnorm : see ``BATCHNORM_MODES``
    attention : attention in single steps, see ``rewrites.attention``
    loops : recurrent layers as loops over the nodes of one step, see ``rewrites.loops``
    """

    batchnorm: str = "linear"
    attention: bool = False
    loops: bool = False

    def within(self, other: Form) -> Form:
        """This form without what the other has not."""
        return Form(self.batchnorm, self.attention and other.attention, self.loops and other.loops)


PLAIN = Form()


def fullest(graph: Graph) -> Form:
    """The form with all that makes a difference to a graph; cells may have attention inside."""
    loops = any(facts.kind_of(n) is Kind.RECURRENT for n in graph.nodes)
    return Form(attention=loops or any(map(is_attention, graph.nodes)), loops=loops)


def canonical(graph: Graph, form: Form = PLAIN) -> Graph:
    """The form in which methods see a model: activations and separable convolutions split, the rest as asked for."""
    if form.loops:
        graph = open_loops(graph, functools.partial(canonical, form=form))
    graph = open_custom_functions(split_separable(split_activations(graph)))
    graph = split_transforms(split_cosine(derivatives_at_ties(pool_planes_first(graph))))
    graph = split_attention(graph) if form.attention else graph
    graph = BATCHNORM_MODES[form.batchnorm](affine_operations(graph))
    return facts.annotate(graph.rebuilt(graph.nodes))


def difference(expected: np.ndarray, received: np.ndarray) -> float:
    """The largest difference, relative to the largest value; infinite for other shapes or other infinite values."""
    e, r = np.asarray(expected, "float64"), np.asarray(received, "float64")
    finite = np.isfinite(e)
    scale = max(float(np.max(np.abs(e[finite]), initial=0.0)), 1e-6)
    same = e.shape == r.shape and np.array_equal(e[~finite], r[~finite], equal_nan=True)
    return float(np.max(np.abs(e[finite] - r[finite]), initial=0.0)) / scale if same else np.inf


def check_equal(expected: list[np.ndarray], received: list[np.ndarray], what: str, tolerance: float) -> None:
    """Raise if a rewritten graph does not compute what the model computes."""
    for e, r in zip(expected, received, strict=True):
        error = difference(e, r)
        if not error <= tolerance:
            raise InnvError(
                f"{what} computes something else than the model (relative difference {error:.1e}). This is a defect of "
                f"innv_ext or a layer that is random in inference; pass check_forward=False to go on all the same."
            )
