"""A built Keras model as a straight-line program over integer slots.

``trace(model)`` inlines nested models, shared layers, operator and ``keras.ops`` nodes, and whatever composite or
custom layer can be run on ``keras.KerasTensor``. This folder is the only place that reads private attributes of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from innv_ext.backend.graph import Arg, Call, Graph, Spec, keys_of, op_key
from innv_ext.backend.tracing import sizes
from innv_ext.backend.tracing.calls import Caller, tensors
from innv_ext.backend.tracing.collector import OWN
from innv_ext.backend.tracing.live import live_masks, passed_masks
from innv_ext.backend.tracing.state import (
    handed_training,
    model_tensors,
    parts,
    recorded_calls,
    runs_recorded_graph,
    untouched,
)
from innv_ext.errors import UnsupportedModelError


def trace(model: keras.Model, is_leaf: Callable[[Any], bool], lengths: Sequence[int] = ()) -> Graph:
    """Turn a built model into a ``Graph``; the model is left as it was.

    A subclassed model whose ``call`` cannot run on KerasTensors becomes one node.

    Parameters
    ----------
    model : built keras.Model (functional, Sequential or subclassed)
    is_leaf : tells for a layer or operation whether it stays one node; others are opened where possible
    lengths : of free axes, for which constants that depend on them (positions, causal masks) have to be known

    Raises
    ------
    UnsupportedModelError
        if the model is not built, or has a sparse or ragged input
    """
    with untouched(model):
        inputs, outputs = model_tensors(model)
        if any(kt.sparse or getattr(kt, "ragged", False) for kt in tree.flatten(inputs)):
            raise UnsupportedModelError(
                f"The model {model.name!r} has a sparse or ragged input; only dense ones can be "
                f"explained. Convert the data and give the model a dense keras.Input."
            )
        try:
            return _traced(model, inputs, outputs, is_leaf, lengths)
        except UnsupportedModelError:
            if outputs is not None or all(kt.dtype == "int32" for kt in tree.flatten(inputs)):
                raise
        # which dtype a call written by hand takes is written nowhere: here it looks up numbers
        whole = tree.map_structure(lambda kt: keras.KerasTensor(kt.shape, "int32"), inputs)
        return _traced(model, whole, None, is_leaf, lengths)


def _traced(
    model: keras.Model, inputs: Any, outputs: Any, is_leaf: Callable[[Any], bool], lengths: Sequence[int]
) -> Graph:
    tracer = Tracer(is_leaf, model.layers)
    tracer.lengths = lengths
    slots = [tracer.new_slot(kt) for kt in tree.flatten(inputs)]
    if outputs is None:
        flat, outputs = tracer.subclassed(model, inputs, slots)
    else:
        known = {id(kt): slot for kt, slot in zip(tree.flatten(inputs), slots, strict=True)}
        tracer.recorded, tracer.handed = True, handed_training(model, False)[0]
        tracer.walk_recorded(model, False, [None] * len(slots), known, ())
        flat = [known[id(kt)] for kt in tree.flatten(outputs)]
    nodes, read = tuple(tracer.nodes), tuple(tracer.read.values())
    return Graph(nodes, tuple(slots), tuple(flat), tracer.specs, tracer.layer_slots, keys_of(outputs), read)


class Tracer(Caller):
    """Opens nested models, composite layers and whatever ``call`` can be run on KerasTensors."""

    def open(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        training: Any,
        known: dict[int, int],
        here: tuple[str, ...],
        results: Sequence[Any],
    ) -> Any:
        """Slots of the outputs after inlining ``op``, or (None, reason) where it has to stay one node."""
        before = len(self.nodes), len(self.specs), dict(self.names), dict(self.layer_slots)
        outside = self.training, self.recorded, self.handed, self.changes, self.masks, self.live
        live, made = self.live, [None] * len(results)
        try:
            outer = tensors(args, kwargs)
            masks = [self.mask_slot(kt, known, here) for kt in outer]
            feeds = [known[id(kt)] for kt in outer]
            self.training, self.recorded, self.changes = training, runs_recorded_graph(op), False
            self.masks, self.live = {}, None
            if op_key(op) == "TimeDistributed":
                slots = self.frames(op, args, feeds, masks, here)
            elif self.recorded:
                masks = passed_masks(args, kwargs, masks, known)
                wanted = [live is not None and id(kt) in live.masked for kt in results]
                slots, made = self.inlined(op, args, outer, feeds, masks, wanted, here)
            else:
                if any(self.mask_now(kt) is OWN for kt in results):
                    raise ValueError("it gives its output a Keras mask inside it")
                slots, _ = self.run(op, args, kwargs, feeds, masks, here)
            self.training, self.recorded, self.handed, self.changes, self.masks, self.live = outside
            self.name_masks(results, made, known)
            carried = [None if runs_recorded_graph(op) else self.mask_slot(kt, known, here) for kt in results]
            return [s if m is None else self.masked(s, m, here) for s, m in zip(slots, carried, strict=True)], ""
        except Exception as error:  # whatever a foreign call() raises, the layer stays one node
            self.forget(*before[:2])
            for key in [k for k, slot in known.items() if slot not in self.specs]:
                del known[key]
            self.names, self.layer_slots = before[2], before[3]
            return None, f"its call() cannot run on KerasTensors ({type(error).__name__}: {error})"
        finally:
            self.training, self.recorded, self.handed, self.changes, self.masks, self.live = outside

    def inlined(
        self,
        model: keras.Model,
        args: Any,
        outer: Sequence[Any],
        feeds: Sequence[int],
        masks: Sequence[int | None],
        wanted: Sequence[bool],
        here: tuple[str, ...],
    ) -> tuple[list[int], list[int | None]]:
        """The outputs of a nested model and their masks where ``wanted``, walked as it was recorded.

        Inputs that are constants become nodes. Masks that come in meet layers that were recorded without.
        """
        structure, results = model_tensors(model)
        inputs, outputs = tree.flatten(structure), tree.flatten(results)
        self.handed, _ = handed_training(model, self.training)
        pairs = {id(kt): pair for kt, *pair in zip(outer, feeds, masks, strict=True)}
        known, given = {}, []
        values = outer if len(outer) == len(inputs) else tree.flatten(args)
        if args and isinstance(args[0], dict) and not isinstance(structure, dict):
            values = [args[0][inside.name] for inside in inputs]  # as Keras does it where inputs have an order
        for value, inside in zip(values, inputs, strict=True):
            symbolic = isinstance(value, keras.KerasTensor)
            slot, mask = pairs[id(value)] if symbolic else (self.constant(value, feeds[0], here), None)
            known[id(inside)] = self.cast(slot, inside, here, mask)
            given.append(mask)
        self.name_masks(inputs, given, known)
        self.walk_recorded(model, self.training, given, known, here)
        made = [self.mask_slot(kt, known, here) if w else None for kt, w in zip(outputs, wanted, strict=True)]
        return [known[id(kt)] for kt in outputs], made

    def walk_recorded(
        self,
        model: keras.Model,
        training: Any,
        masks: Sequence[int | None],
        known: dict[int, int],
        path: tuple[str, ...],
    ) -> None:
        """Emit what a functional model recorded, in the order in which Keras runs it where that matters for masks."""
        inputs, outputs = (tree.flatten(kts) for kts in model_tensors(model))
        specs, own = [self.specs[known[id(kt)]] for kt in inputs], [None if m is None else self.specs[m] for m in masks]
        self.live = live_masks(model, specs, own, training, self.is_leaf)
        for call in () if self.live is None else recorded_calls(model):
            self.walk(call.outputs, known, path)
        self.walk(outputs, known, path)

    def frames(
        self, op: Any, args: Any, feeds: Sequence[int], masks: Sequence[int | None], here: tuple[str, ...]
    ) -> list[int]:
        """TimeDistributed with its steps moved into the batch, where the wrapped layer takes each for a sample."""
        (x,), layer = tensors(args, {}), op.layer
        if layer._call_has_mask_arg and (len(feeds) > 1 or masks[0] is not None):
            raise ValueError(f"a Keras mask reaches {layer.name!r} inside it")
        if x.shape[1] is None:
            raise ValueError("its number of steps is free")
        inside = keras.KerasTensor((None, *x.shape[2:]), x.dtype)
        flat = Call(keras.ops.reshape, (Arg(0), (-1, *_sizes(x.shape, 2))))
        rows = self.step(keras.ops.reshape, flat, feeds[:1], inside.shape, x.dtype, (*here, "frames"))
        known = {id(inside): rows}
        y = layer(inside)
        self.walk([y], known, here)
        back = Call(keras.ops.reshape, (Arg(0), (-1, x.shape[1], *_sizes(y.shape, 1))))
        shape = (x.shape[0], x.shape[1], *y.shape[1:])
        return [self.step(keras.ops.reshape, back, [known[id(y)]], shape, y.dtype, (*here, "series"))]

    def subclassed(self, model: keras.Model, inputs: Any, slots: Sequence[int]) -> tuple[list[int], Any]:
        """(slots, structure) of the outputs of a model with a ``call`` of its own; one node if it cannot be opened."""
        args, kwargs = (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), self.with_training(model, {}, False)
        try:
            # which takes masks off its inputs for what is called later: not so when it is run symbolically
            takes_masks = any(isinstance(part, keras.layers.MultiHeadAttention) for part in parts(model))
            return self.run(model, args, kwargs, slots, [None] * len(slots), (), compare=takes_masks)
        except Exception as error:
            self.forget(0, len(slots))
            self.names, self.layer_slots = {}, {}
            outputs, specs = sizes.outputs_of(model, args, kwargs)
            found = list(range(len(slots), len(slots) + len(specs)))
            self.specs.update(zip(found, specs, strict=True))
            note = f"its call() cannot run on KerasTensors ({type(error).__name__}: {error})"
            call = Call(model, *self.templates(args, kwargs))
            self.append(model.name, model, call, tuple(slots), tuple(found), (model.name,), note)
            self.layer_slots[model.name] = found[0]
            return found, outputs


def _sizes(shape: Sequence[int | None], first: int) -> list[Any]:
    """The sizes of a tensor's axes from ``first`` on."""
    return [sizes.Size(((0, axis),)) if d is None else d for axis, d in enumerate(shape) if axis >= first]


def open_function(fn: Callable[..., Any], specs: Sequence[Spec], is_leaf: Callable[[Any], bool]) -> Graph | None:
    """The graph of a function of tensors with one output, or None if it cannot run on KerasTensors."""
    xs = [keras.KerasTensor(spec.shape, spec.dtype) for spec in specs]
    try:
        y = fn(*xs)
        tracer = Tracer(is_leaf)
        known = {id(x): tracer.new_slot(x) for x in xs}
        tracer.walk(tree.flatten(y), known, ())
        slots = tuple(known[id(x)] for x in xs)
        return Graph(tuple(tracer.nodes), slots, (known[id(y)],), tracer.specs, tracer.layer_slots)
    except Exception:
        return None
