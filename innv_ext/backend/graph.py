"""The types of a traced program: nodes on integer slots."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import numerics

Tensor = Any


@dataclass(frozen=True)
class Arg:
    """Stands for the i-th input tensor of a node inside its recorded arguments."""

    index: int


@dataclass(frozen=True, eq=False)
class Call:
    """A recorded call of a layer or operation; calling it fills in the tensors."""

    op: Any
    args: tuple[Any, ...] = (Arg(0),)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *xs: Tensor) -> Any:
        fill = functools.partial(tree.map_structure, lambda a: xs[a.index] if isinstance(a, Arg) else a)
        return self.op(*fill(self.args), **fill(self.kwargs))


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
    included; ``position`` is the index in ``model.layers`` of the outermost one. ``kind``, ``nonnegative`` (one
    flag per input), ``first`` (the first affine node on a path from the input) and ``signal`` (the inputs of a
    product that carry the signal) are filled in by ``facts.annotate``. ``note`` says why a composite layer could not
    be opened.
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
    signal: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order.

    ``layer_slots`` says in which slot a layer's output lives, ``keys`` how a model that returns a dict calls outputs.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    specs: dict[int, Spec]
    layer_slots: dict[str, int]
    keys: tuple[str, ...] = ()

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
        outputs = changes.get("outputs", self.outputs)
        needed, kept = set(outputs), []
        for node in reversed(nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        numbered = tuple(replace(node, index=i) for i, node in enumerate(reversed(kept)))
        return replace(self, nodes=numbered, **changes)

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


def run(nodes: Sequence[Node], slots: dict[int, Tensor]) -> dict[int, Tensor]:
    """The values of all slots, starting from those that are given."""
    slots = dict(slots)
    for node in nodes:
        ys = tree.flatten(node.call(*(slots[s] for s in node.inputs)))
        slots.update(zip(node.outputs, ys, strict=True))
    return slots


def try_out(
    call: Call, feeds: Sequence[int], specs: Sequence[Spec], nodes: Sequence[Node], outputs: Sequence[int]
) -> None:
    """Raise ValueError unless ``nodes`` compute what ``call`` computes, for two batch sizes.

    This finds calls that read the batch size or draw random numbers, which a symbolic run freezes. Free dimensions
    other than the batch are left to the check of the whole graph.
    """
    if any(None in spec.shape[1:] for spec in specs):
        return
    for batch in (2, 3):
        xs = [_sample(spec, batch) for spec in specs]
        expected = tree.flatten(call(*xs))
        values = run(nodes, dict(zip(feeds, xs, strict=True)))
        if not all(numerics.close(e, values[slot]) for e, slot in zip(expected, outputs, strict=True)):
            raise ValueError("run symbolically it computes something else: it is random or reads its batch size")


def _sample(spec: Spec, batch: int) -> Tensor:
    """Values to try a layer with: small floats, token numbers 0 and 1, open masks."""
    shape, rng = (batch, *spec.shape[1:]), np.random.default_rng(batch)
    if spec.dtype == "bool":
        return ops.ones(shape, spec.dtype)
    values = rng.uniform(-1, 1, shape) if numerics.is_float(spec.dtype) else rng.integers(0, 2, shape)
    return ops.convert_to_tensor(values, spec.dtype)
