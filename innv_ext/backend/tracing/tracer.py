"""A built Keras model as a straight-line program over integer slots.

``trace(model)`` inlines nested models, shared layers, operator and ``keras.ops`` nodes, and whatever composite or
custom layer can be run on ``keras.KerasTensor``. This folder is the only place that reads private attributes of Keras.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import tree

from innv_ext.backend import numerics
from innv_ext.backend.graph import Arg, Call, Graph, Spec, keys_of, op_key, try_out
from innv_ext.backend.masks import with_mask
from innv_ext.backend.tracing import attention, sizes
from innv_ext.backend.tracing.collector import OWN, Collector
from innv_ext.backend.tracing.live import live_masks, passed_masks
from innv_ext.backend.tracing.state import (
    calls_told,
    handed_training,
    model_tensors,
    parts,
    quiet_call,
    recorded_calls,
    runs_recorded_graph,
    untouched,
    with_masks,
)
from innv_ext.errors import UnsupportedModelError


def trace(model: keras.Model, is_leaf: Callable[[Any], bool]) -> Graph:
    """Turn a built model into a ``Graph``; the model is left as it was.

    A subclassed model whose ``call`` cannot run on KerasTensors becomes one node.

    Parameters
    ----------
    model : built keras.Model (functional, Sequential or subclassed)
    is_leaf : tells for a layer or operation whether it stays one node; others are opened where possible

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
            return _traced(model, inputs, outputs, is_leaf)
        except UnsupportedModelError:
            if outputs is not None or all(kt.dtype == "int32" for kt in tree.flatten(inputs)):
                raise
        # which dtype a call written by hand takes is written nowhere: here it looks up numbers
        whole = tree.map_structure(lambda kt: keras.KerasTensor(kt.shape, "int32"), inputs)
        return _traced(model, whole, None, is_leaf)


def _traced(model: keras.Model, inputs: Any, outputs: Any, is_leaf: Callable[[Any], bool]) -> Graph:
    tracer = Tracer(is_leaf, model.layers)
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


class Tracer(Collector):
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
            outer = _tensors(args, kwargs)
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
        inputs, outputs = (tree.flatten(kts) for kts in model_tensors(model))
        self.handed, _ = handed_training(model, self.training)
        pairs, known, given = iter(zip(feeds, masks, strict=True)), {}, []
        for value, inside in zip(outer if len(outer) == len(inputs) else tree.flatten(args), inputs, strict=True):
            symbolic = isinstance(value, keras.KerasTensor)
            slot, mask = next(pairs) if symbolic else (self.constant(value, feeds[0], here), None)
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

    def constant(self, value: Any, beside: int, here: tuple[str, ...]) -> int:
        """A node whose output is a constant, whatever the input ``beside`` it."""
        array = keras.ops.convert_to_tensor(value)
        dtype = keras.backend.standardize_dtype(array.dtype)
        call = Call(lambda x: array, (Arg(0),))
        return self.step(keras.ops.full_like, call, [beside], array.shape, dtype, (*here, "constant"))

    def frames(
        self, op: Any, args: Any, feeds: Sequence[int], masks: Sequence[int | None], here: tuple[str, ...]
    ) -> list[int]:
        """TimeDistributed with its steps moved into the batch, where the wrapped layer takes each for a sample."""
        (x,), layer = _tensors(args, {}), op.layer
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

    def run(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        feeds: Sequence[int],
        masks: Sequence[int | None],
        here: tuple[str, ...],
        compare: bool = True,
    ) -> tuple[list[int], Any]:
        """(slots, structure) of the outputs of a ``call`` written by hand, run with free sizes or else at two sizes."""
        start, names, layer_slots = (len(self.nodes), len(self.specs)), dict(self.names), dict(self.layer_slots)
        read = len(self.read)
        recorded, first = Call(op, *self.templates(args, self.handing(op, kwargs, self.training))), None
        free = any(None in kt.shape for kt in _tensors(args, kwargs))
        for choice in (None, *(sizes.CHOICES if free else ())):
            try:
                if choice is None:
                    found = self.run_once(op, args, kwargs, feeds, masks, here)
                else:
                    found = self.run_twice(op, args, kwargs, feeds, masks, here, choice)
                nodes = self.nodes[start[0] :]
                kin = self.kin(recorded, feeds, masks, nodes)
                if self.checks and kin not in self.compared:
                    call = recorded if compare else None
                    try_out(call, feeds, masks, self.specs, nodes, found[0], padded=not here)
                    self.compared.update([] if kin is None else [kin])
                return found
            except Exception as error:
                first = first or error
                self.forget(*start)
                for key in list(self.read)[read:]:  # by a call that stays one node
                    del self.read[key]
                self.names, self.layer_slots = dict(names), dict(layer_slots)
        assert first is not None
        raise first

    def run_once(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        feeds: Sequence[int],
        masks: Sequence[int | None],
        here: tuple[str, ...],
    ) -> tuple[list[int], Any]:
        """(slots, structure) of the outputs of a ``call`` run on tensors like the slots that feed it."""
        fresh, inner, own = [], {}, {}
        for kt, slot, mask in zip(_tensors(args, kwargs), feeds, masks, strict=True):
            inside = keras.KerasTensor(self.specs[slot].shape, _inner_dtype(op, kt))
            inner[id(inside)] = self.cast(slot, inside, here, mask)
            if mask is not None:
                if mask not in own:
                    own[mask] = keras.KerasTensor(self.specs[mask].shape, self.specs[mask].dtype)
                inner[id(own[mask])] = mask
                with_mask(inside, own[mask])
            fresh.append(inside)
        rest = iter(fresh)
        swap = functools.partial(tree.map_structure, lambda a: next(rest) if isinstance(a, keras.KerasTensor) else a)
        inner_args, inner_kwargs = swap(args), swap(kwargs)
        with quiet_call(op, self.read), attention.symbolic(op), calls_told(self.training) as inherited:
            outputs = op.call(*inner_args, **with_masks(op, inner_args, inner_kwargs))
            self.changes = inherited() not in (None, self.training)
        if not all(isinstance(kt, keras.KerasTensor) for kt in tree.flatten(outputs)):
            raise TypeError("an output is not symbolic")
        self.walk(tree.flatten(outputs), inner, here)
        return [inner[id(kt)] for kt in tree.flatten(outputs)], outputs

    def run_twice(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        feeds: Sequence[int],
        masks: Sequence[int | None],
        here: tuple[str, ...],
        choice: Sequence[tuple[int, int]],
    ) -> tuple[list[int], Any]:
        """The same from recordings at two sizes of what is free."""
        given = sorted({*feeds, *(m for m in masks if m is not None)})
        parts, found = [], []
        for number in (0, 1):
            part = Tracer(self.is_leaf)
            part.training, part.recorded, part.checks = self.training, self.recorded, False
            part.positions, part.names, part.read = self.positions, dict(self.names), self.read
            specs = [self.specs[s] for s in given]
            part.specs = {i: replace(s, shape=sizes.at_size(s.shape, choice, number)) for i, s in enumerate(specs)}
            own = {slot: i for i, slot in enumerate(given)}
            moved = [own[s] for s in feeds], [None if m is None else own[m] for m in masks]
            found.append(part.run_once(op, args, kwargs, *moved, here))
            parts.append(part)
        a, b = parts
        slots = dict(enumerate(given))
        for s, t in zip(list(a.specs)[len(given) :], list(b.specs)[len(given) :], strict=True):
            slots[s] = len(self.specs)
            self.specs[slots[s]] = sizes.free(a.specs[s], b.specs[t])
        for x, y in zip(a.nodes, b.nodes, strict=True):
            node = sizes.merged(x, y, a.specs, b.specs, choice)
            ends = {"inputs": tuple(slots[s] for s in x.inputs), "outputs": tuple(slots[s] for s in x.outputs)}
            self.nodes.append(replace(node, index=len(self.nodes), **ends))
        self.names = a.names
        self.layer_slots.update({name: slots[s] for name, s in a.layer_slots.items()})
        return [slots[s] for s in found[0][0]], found[0][1]


def _tensors(args: Any, kwargs: Any) -> list[keras.KerasTensor]:
    return [kt for kt in tree.flatten((args, kwargs)) if isinstance(kt, keras.KerasTensor)]


def _sizes(shape: Sequence[int | None], first: int) -> list[Any]:
    """The sizes of a tensor's axes from ``first`` on."""
    return [sizes.Size(((0, axis),)) if d is None else d for axis, d in enumerate(shape) if axis >= first]


def _inner_dtype(op: Any, kt: keras.KerasTensor) -> str:
    dtype = keras.backend.standardize_dtype(kt.dtype)
    casts = isinstance(op, keras.layers.Layer) and op.autocast and op._convert_input_args
    return op.input_dtype if casts and numerics.is_float(dtype) else dtype


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
