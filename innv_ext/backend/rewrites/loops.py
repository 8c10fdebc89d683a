"""Recurrent layers as loops over the graph of one step, and their cells as the nodes of one step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Arg, Call, Graph, Node, Spec, op_key
from innv_ext.backend.kinds import RECURRENT_CELLS, RECURRENT_LAYERS
from innv_ext.backend.loops import Loop
from innv_ext.backend.masks import keep_mask, mask_of, with_mask
from innv_ext.backend.rewrites.joint import join_sums
from innv_ext.backend.tracing import open_cell, try_out, untouched

Tensor = Any
Form = Callable[[Graph], Graph]
TRIED = 3  # steps with which a loop is compared with its layer


def open_loops(graph: Graph, form: Form) -> Graph:
    """The same graph with every recurrent layer as a loop, and every cell as its parts; what cannot be opened stays.

    Parameters
    ----------
    form : the rewrites of the graph of one step
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        key = op_key(node.op)
        if not (key in RECURRENT_LAYERS | RECURRENT_CELLS | {"Bidirectional"} and isinstance(node.call, Call)):
            nodes.append(node)
            continue
        writer = _Writer(graph, node, form)
        try:
            new = writer.opened()
            with untouched(node.op):
                try_out(node.call, node.inputs, [None] * len(node.inputs), writer.short(), new, node.outputs)
        except Exception as error:  # whatever a foreign cell raises, the layer stays one node
            nodes.append(replace(node, note=f"one step of it has no graph ({type(error).__name__}: {error})"))
            continue
        nodes.extend(new)
        read = {id(v): v for v in (*graph.made_of, *writer.read)}
        graph = replace(graph, specs=writer.specs, made_of=tuple(read.values()))
    return graph.rebuilt(nodes)


class _Writer:
    """The nodes that take the place of one recurrent node."""

    def __init__(self, graph: Graph, node: Node, form: Form):
        self.node, self.form = node, form
        self.specs, self.read = dict(graph.specs), []
        self.nodes: list[Node] = []

    def opened(self) -> list[Node]:
        """The nodes, which write the slots of the node."""
        op, call = self.node.op, self.node.call
        given = inspect.signature(op.call).bind(*call.args, **call.kwargs).arguments
        if given.get("training"):
            raise ValueError("it is called with training=True")
        if op_key(op) in RECURRENT_CELLS:
            x, states = list(given.values())[:2]
            found = self.cell(op, self.slot(x), tree.map_structure(self.slot, states))
        else:
            x, mask = self.slot(given["sequences"]), tree.flatten(given.get("mask"))
            mask = self.slot(mask[0]) if mask and mask[0] is not None else None
            states = given.get("initial_state")
            states = None if states is None else tree.map_structure(self.slot, states)
            run = self.both_ways if op_key(op) == "Bidirectional" else self.layer
            found = run(op, x, states, mask)
        slots = dict(zip(found, self.node.outputs, strict=True))
        if len(slots) != len(found):
            raise ValueError("two of its outputs are the same")
        return [
            replace(
                n,
                inputs=tuple(slots.get(s, s) for s in n.inputs),
                outputs=tuple(slots.get(s, s) for s in n.outputs),
            )
            for n in self.nodes
        ]

    def short(self) -> dict[int, Spec]:
        """The specs, with sequences of few steps."""
        short = {}
        if op_key(self.node.op) not in RECURRENT_CELLS:
            given = inspect.signature(self.node.op.call).bind(*self.node.call.args, **self.node.call.kwargs).arguments
            along = [given["sequences"], *tree.flatten(given.get("mask"))]
            for slot in (self.slot(a) for a in along if a is not None):
                spec = self.specs[slot]
                short[slot] = replace(spec, shape=(spec.shape[0], TRIED, *spec.shape[2:]))
        return {**self.specs, **short}

    def slot(self, value: Any) -> int:
        if not isinstance(value, Arg):
            raise ValueError("some of its states or masks are constants")
        return self.node.inputs[value.index]

    # --- nodes -----------------------------------------------------------------------------------------------------

    def new(self, shape: Any, dtype: str) -> int:
        slot = max(self.specs) + 1
        self.specs[slot] = Spec(tuple(shape), dtype)
        return slot

    def append(self, what: str, op: Any, call: Any, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        name, layers = self.node.name, self.node.layers
        if isinstance(op, keras.layers.Layer) and op is not self.node.op:
            layers = (*layers, op.name)
        name = f"{name}/{what}" if what else name
        self.nodes.append(
            replace(self.node, name=name, layers=layers, op=op, call=call, inputs=tuple(inputs), outputs=tuple(outputs))
        )

    def step(self, what: str, op: Any, call: Callable[..., Tensor], inputs: Sequence[int], shape: Any) -> int:
        """The slot of a node that is one of ``keras.ops``, evaluated by ``call``."""
        new = self.new(shape, self.specs[inputs[0]].dtype)
        args = tuple(Arg(i) for i in range(len(inputs)))
        self.append(what, op, Call(call, args), inputs, [new])
        return new

    def layer(self, layer: Any, x: int, states: Any, mask: int | None, what: str = "") -> list[int]:
        """The output and the states of a recurrent layer."""
        if layer.stateful:
            raise ValueError("it keeps its states from one call to the next")
        spec, start, zeros = self.specs[x], states, False
        if states is None:
            start = layer.get_initial_state(batch_size=2)
            zeros = not any(np.any(np.asarray(numerics.widen(s))) for s in tree.flatten(start))
            start = tree.map_structure(_spec_of, start)
        else:
            states = states if tree.is_nested(states) else [states]
            start = tree.map_structure(self.specs.__getitem__, list(states))
        step_spec = Spec((spec.shape[0], *spec.shape[2:]), numerics.wide_dtype(layer.compute_dtype))
        start = tree.map_structure(lambda s: replace(s, dtype=numerics.wide_dtype(s.dtype)), start)
        body = self.body(layer, layer.cell, (step_spec, start), what)
        backwards = bool(layer.go_backwards)
        if backwards:
            x = self.step(_path(what, "flip"), ops.flip, _turned, [x], spec.shape)
            mask = mask if mask is None else self.step(_path(what, "flip"), ops.flip, _turned, [mask], spec.shape[:2])
        initial = None
        if states is None:
            initial = functools.partial(_flat_states, layer)
        given = [] if states is None else tree.flatten(states)
        loop = Loop(layer, body, initial, mask is not None, bool(layer.zero_output_for_mask), backwards, zeros)
        made = [body.specs[s] for s in body.outputs]
        stacked = [self.new((s.shape[0], spec.shape[1], *s.shape[1:]), s.dtype) for s in made]
        self.append(what, layer, loop, [x, *given, *([] if mask is None else [mask])], stacked)
        return [
            stacked[0] if layer.return_sequences else self.last(what, stacked[0], "last"),
            *(self.last(what, s, f"state_{i}") for i, s in enumerate(stacked[1:]) if layer.return_state),
        ]

    def last(self, what: str, slot: int, name: str) -> int:
        shape = self.specs[slot].shape
        return self.step(_path(what, name), ops.take, _last, [slot], (shape[0], *shape[2:]))

    def both_ways(self, layer: Any, x: int, states: Any, mask: int | None) -> list[int]:
        """The two halves of a Bidirectional layer and what it makes of their outputs."""
        halves, split = [layer.forward_layer, layer.backward_layer], [None, None]
        if states is not None:
            split = [states[: len(states) // 2], states[len(states) // 2 :]]
        (y, *first), (back, *second) = (
            self.layer(half, x, own, mask, half.name) for half, own in zip(halves, split, strict=True)
        )
        shape = self.specs[y].shape
        if layer.return_sequences:
            back = self.step("flip", ops.flip, _turned, [back], shape)
        if layer.merge_mode is None:
            return [y, back, *first, *second]
        if layer.merge_mode == "concat":
            shape = (*shape[:-1], shape[-1] + self.specs[back].shape[-1])
        merged = self.step(layer.merge_mode, *_MERGES[layer.merge_mode], [y, back], shape)
        if layer.merge_mode == "ave":
            new = self.new(shape, self.specs[merged].dtype)
            self.append("half", ops.multiply, Call(ops.multiply, (Arg(0), 0.5)), [merged], [new])
            merged = new
        return [merged, *first, *second]

    def cell(self, cell: Any, x: int, states: Any) -> list[int]:
        """The nodes of one step in place of a cell."""
        states = states if tree.is_nested(states) else [states]
        given = [x, *tree.flatten(states)]
        body = self.body(cell, cell, (self.specs[x], tree.map_structure(self.specs.__getitem__, states)), "")
        slots = dict(zip(body.inputs, given, strict=True))
        for slot, spec in body.specs.items():
            if slot not in slots:
                slots[slot] = self.new(spec.shape, spec.dtype)
        for n in body.nodes:
            ends = {"inputs": tuple(slots[s] for s in n.inputs), "outputs": tuple(slots[s] for s in n.outputs)}
            self.nodes.append(replace(n, **ends))
        found: list[int] = []
        for slot in (slots[s] for s in body.outputs):  # an output is a state, too, but not the same tensor to Keras
            spec = self.specs[slot]
            found.append(self.step("output", ops.copy, _same, [slot], spec.shape))
        return found

    def body(self, owner: Any, cell: Any, inputs: Any, what: str) -> Graph:
        """The graph of one step, with the names of the layer's node in front of its own."""
        traced = open_cell(owner, cell, inputs, facts.is_leaf)
        self.read.extend(traced.made_of)
        graph = join_sums(self.form(traced))
        before = (*self.node.layers, *([owner.name] if what else []))
        path = _path(self.node.name, what) if what else self.node.name
        return graph.rebuilt(
            [
                replace(n, name=f"{path}/{n.name}", layers=(*before, *n.layers), position=self.node.position)
                for n in graph.nodes
            ]
        )


def _path(first: str, second: str) -> str:
    return f"{first}/{second}" if first else second


def _spec_of(value: Any) -> Spec:
    return Spec((None, *value.shape[1:]), keras.backend.standardize_dtype(value.dtype))


def _flat_states(layer: Any, samples: Any) -> list[Tensor]:
    return tree.flatten(layer.get_initial_state(batch_size=samples))


def _same(x: Tensor) -> Tensor:
    return keep_mask(x, numerics.identity(x))


def _last(y: Tensor) -> Tensor:
    return y[:, -1]


def _turned(x: Tensor) -> Tensor:
    """The steps from the last to the first, and those of the mask."""
    mask = mask_of(x)
    return with_mask(ops.flip(x, axis=1), None if mask is None else ops.flip(mask, axis=1))


def _keeping(merge: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: keep_mask(a, merge(a, b))


_MERGES: dict[str, tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "concat": (ops.concatenate, _keeping(lambda a, b: ops.concatenate([a, b], axis=-1))),
    "sum": (ops.add, _keeping(ops.add)),
    "ave": (ops.add, _keeping(ops.add)),
    "mul": (ops.multiply, _keeping(ops.multiply)),
}
