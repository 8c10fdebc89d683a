"""The types of a traced program: nodes on integer slots."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
from keras import tree

from innv_ext.backend import numerics
from innv_ext.backend.masks import mask_of
from innv_ext.errors import UnsupportedModelError

Tensor = Any


class Recorded:
    """Base of what stands inside recorded arguments for a value that is known when a node is called."""

    def of(self, xs: Sequence[Tensor]) -> Any:
        """The value, for the node's input tensors."""
        raise NotImplementedError


class TooShort(UnsupportedModelError):
    """A constant is needed for a greater length than it was recorded for."""


@dataclass(frozen=True)
class Arg(Recorded):
    """The i-th input tensor of a node."""

    index: int

    def of(self, xs: Sequence[Tensor]) -> Tensor:
        return xs[self.index]


def is_arg(value: Any, *indices: int) -> bool:
    """Whether an argument is one of these input tensors; an array, which compares element by element, is none."""
    return isinstance(value, Arg) and value.index in indices


@dataclass(frozen=True, eq=False)
class Call:
    """A recorded call of a layer or operation; calling it fills in the tensors.

    ``settings`` are attributes of an operation that depend on the sizes of its inputs (a shape to reshape to);
    ``count`` is the number of its outputs, where that was recorded.
    """

    op: Any
    args: tuple[Any, ...] = (Arg(0),)
    kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    count: int | None = None

    def __call__(self, *xs: Tensor) -> Any:
        given = self.bare(xs)
        fill = functools.partial(tree.map_structure, lambda a: a.of(given) if isinstance(a, Recorded) else a)
        op = self.op
        if self.settings:
            op = object.__new__(type(self.op))
            vars(op).update({**vars(self.op), **fill(self.settings)})
        with warnings.catch_warnings():
            # newer Keras says of recurrent layers that they drop the masks that they use, at every call
            warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask", UserWarning)
            found = op(*fill(self.args), **fill(self.kwargs))
        if self.count is not None and isinstance(found, (tuple, list)) and len(found) > self.count:
            return [y for y in found if y is not None]  # of what it could give besides Keras was told nothing
        return found

    def bare(self, xs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors without Keras masks for layers of Keras that know none; they would warn and drop them."""
        known = isinstance(self.op, keras.layers.Layer) and not op_key(self.op).startswith("custom:")
        if not known or self.op.supports_masking or "mask" in inspect.signature(self.op.call).parameters:
            return xs
        return [x if mask_of(x) is None else numerics.identity(x) for x in xs]


@dataclass(frozen=True)
class Spec:
    """Shape (with None for free dimensions, batch first) and dtype of a slot."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """One step of the program: ``outputs = call(*inputs)`` on slots.

    ``op`` is what the step is (Keras layer, Keras operation or activation function) and is what predicates look at;
    ``call`` is how it is evaluated. ``layers`` are the names of the enclosing layers, outermost first, its own
    included; ``position`` is the index in ``model.layers`` of the outermost one. ``note`` says why a composite layer
    could not be opened. Filled in by ``facts.annotate`` are ``kind``, ``nonnegative`` (one flag per input), ``first``
    (the first affine node on a path from the input), ``early`` (behind nothing but shapes and rescaling), ``signal``
    (the inputs of a product that carry the signal), ``varying`` (those that are no masks or constants), ``active``
    (those that come of an activation), ``gate`` (a sigmoid that is moved or turned, as in 1 - z, and only closes the
    signals of products) and ``fixed`` (of inputs that are masks, and of nothing else).
    """

    index: int
    name: str
    op: Any
    call: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layers: tuple[str, ...] = ()
    position: int | None = None
    kind: Any = None
    nonnegative: tuple[bool, ...] = ()
    first: bool = False
    early: bool = False
    signal: tuple[int, ...] = ()
    varying: tuple[int, ...] = ()
    active: tuple[int, ...] = ()
    gate: bool = False
    fixed: bool = False
    note: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order.

    ``layer_slots`` says in which slot a layer's output lives, ``keys`` how a model that returns a dict calls outputs,
    ``made_of`` which variables the graph holds the values of: if one changes, it has to be traced again, ``within`` for
    one step of a loop the graph and the node of the loop.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    specs: dict[int, Spec]
    layer_slots: dict[str, int]
    keys: tuple[str, ...] = ()
    made_of: tuple[Any, ...] = ()
    within: tuple[Graph, Node] | None = None

    def producer(self) -> dict[int, Node]:
        """The node that writes each slot."""
        return {slot: node for node in self.nodes for slot in node.outputs}

    def consumers(self) -> dict[int, list[Node]]:
        """The nodes that read each slot, once per use."""
        users: dict[int, list[Node]] = {slot: [] for slot in self.specs}
        for node in self.nodes:
            for slot in node.inputs:
                users[slot].append(node)
        return users

    def rebuilt(self, nodes: Sequence[Node], **changes: Any) -> Graph:
        """This graph with other nodes (renumbered), restricted to what its outputs need."""
        kept = _behind(nodes, changes.get("outputs", self.outputs))
        numbered = tuple(replace(node, index=i) for i, node in enumerate(reversed(kept)))
        return replace(self, nodes=numbered, **changes)

    def behind(self, slots: Iterable[int]) -> list[Node]:
        """The nodes that the slots depend on, from the last on."""
        return _behind(self.nodes, slots)

    def lengths(self, xs: Sequence[Any]) -> set[int]:
        """The sizes that samples have where the inputs leave them free; those that are not known are left out."""
        pairs = (
            pair
            for x, slot in zip(xs, self.inputs, strict=True)
            for pair in zip(x.shape[1:], self.specs[slot].shape[1:], strict=True)
        )
        return {size for size, declared in pairs if declared is None and size is not None}

    def expanded(self, inside: Callable[[Node], Graph | None]) -> Graph:
        """This graph with the nodes of ``inside(node)`` in place of each node of which there is a graph."""
        graph, nodes = self, []
        for node in self.nodes:
            inner = inside(node)
            graph, parts = (graph, [node]) if inner is None else graph._replaced(node, inner)
            nodes.extend(parts)
        return graph.rebuilt(nodes)

    def _replaced(self, node: Node, inner: Graph) -> tuple[Graph, list[Node]]:
        """(graph, nodes): the nodes of a graph that takes the place of ``node``, on slots of this one."""
        slots = dict(zip(inner.inputs, node.inputs, strict=True)) | dict(zip(inner.outputs, node.outputs, strict=True))
        new = [slot for slot in inner.specs if slot not in slots]
        slots.update(zip(new, itertools.count(self.new_slot())))
        nodes = [
            replace(
                part,
                name=f"{node.name}/{part.name}",
                inputs=tuple(slots[s] for s in part.inputs),
                outputs=tuple(slots[s] for s in part.outputs),
                layers=node.layers,
                position=node.position,
            )
            for part in inner.nodes
        ]
        return replace(self, specs={**self.specs, **{slots[s]: inner.specs[s] for s in new}}), nodes

    def reached(self, slot: int) -> set[int]:
        """The slots that depend on a slot, and itself."""
        found = {slot}
        for node in self.nodes:
            if found.intersection(node.inputs):
                found.update(node.outputs)
        return found

    def split_at(self, slot: int) -> tuple[Graph, Graph]:
        """(head, rest): the rest starts from what the head ends with, ``slot`` and what passes it by."""
        later = self.reached(slot)
        after = [node for node in self.nodes if later.intersection(node.inputs)]
        beside = dict.fromkeys(s for node in after for s in node.inputs if s not in later)
        inputs = (slot, *beside)
        head = self.rebuilt([node for node in self.nodes if not later.intersection(node.inputs)], outputs=inputs)
        return head, replace(self, inputs=inputs).rebuilt(after)

    def new_slot(self) -> int:
        """A slot number that is not in use."""
        return max(self.specs) + 1


def _behind(nodes: Sequence[Node], slots: Iterable[int]) -> list[Node]:
    needed, found = set(slots), []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            found.append(node)
    return found


def keys_of(outputs: Any) -> tuple[str, ...]:
    """The keys of a dict of tensors, in the order of ``tree.flatten``; none for other structures."""
    flat = isinstance(outputs, dict) and len(tree.flatten(outputs)) == len(outputs)
    return tuple(map(str, tree.flatten({key: key for key in outputs}))) if flat else ()


_SPECIAL_NAMES = {
    "ReLU": "relu",
    "CDist": "cdist",
    "BatchNorm": "batch_normalization",
    "SSIM": "ssim",
    "LayerNorm": "layer_normalization",
    "RMSNorm": "rms_normalization",
    "SegmentReduction": "segment_sum",
    "RGBToGrayscale": "rgb_to_grayscale",
    "PadImages": "pad_images",
    "CropImages": "crop_images",
}
# activations of TensorFlow that compute what Keras' own do, by default too
_SAME = "relu relu6 elu selu gelu leaky_relu tanh sigmoid softplus softsign silu swish abs exp".split()
_TWINS = {**dict(zip(_SAME, _SAME, strict=True)), "softmax_v2": "softmax", "log_softmax_v2": "log_softmax"}


def op_key(op: Any) -> str:
    """The canonical name of what a node does.

    ``"Dense"`` for Keras layers (subclasses that do not override ``call`` count as their base), ``"relu"`` for
    Keras functions and operations and their twins in ``tf.nn`` and ``tf.math``, ``"custom:Name"`` for everything else.
    """
    if isinstance(op, keras.layers.Layer):
        for cls in type(op).__mro__:
            if cls.__module__.split(".")[0] == "keras" and hasattr(keras.layers, cls.__name__):
                same = all(getattr(type(op), m, None) is getattr(cls, m, None) for m in ("call", "__call__"))
                return cls.__name__ if same else f"custom:{type(op).__name__}"
        return f"custom:{type(op).__name__}"
    if isinstance(op, keras.Operation):
        name = type(op).__name__
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
        known = type(op).__module__.split(".")[0] == "keras"
        return _SPECIAL_NAMES.get(name, snake) if known else f"custom:{name}"
    root, name = (getattr(op, "__module__", None) or "").split(".")[0], getattr(op, "__name__", "")
    if callable(op) and (root == "keras" or (root == "tensorflow" and name in _TWINS)):
        return _TWINS.get(name, name)
    return f"custom:{getattr(op, '__name__', type(op).__name__)}"


def listed(nodes: Sequence[Node]) -> str:
    """What the nodes are, where they are, and why they were not opened; one a line."""
    return "\n".join(
        f"  - {n.name} ({op_key(n.op).removeprefix('custom:')}, node {n.index}"
        + (f", model.layers[{n.position}]" if n.position is not None else "")
        + (f"; not opened because {n.note}" if n.note else "")
        + (f"; quantised ({n.op.quantization_mode})" if getattr(n.op, "quantization_mode", None) else "")
        + ")"
        for n in nodes
    )


def run(nodes: Sequence[Node], slots: dict[int, Tensor]) -> dict[int, Tensor]:
    """The values of all slots, starting from those that are given."""
    slots = dict(slots)
    for node in nodes:
        ys = tree.flatten(node.call(*(slots[s] for s in node.inputs)))
        slots.update(zip(node.outputs, ys, strict=True))
    return slots
