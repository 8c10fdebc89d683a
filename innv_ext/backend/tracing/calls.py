"""Calls written by hand, run on KerasTensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import tree

from innv_ext.backend import numerics
from innv_ext.backend.affine import is_array
from innv_ext.backend.graph import Arg, Call, op_key
from innv_ext.backend.masks import keep_mask, mask_of, with_mask
from innv_ext.backend.tracing import attention, sizes
from innv_ext.backend.tracing.collector import Collector
from innv_ext.backend.tracing.generic import calls_inside, generic
from innv_ext.backend.tracing.state import (
    calls_told,
    inner_dtype,
    parts,
    quiet_call,
    runs_recorded_graph,
    with_masks,
)
from innv_ext.backend.tracing.trials import lengths_apart, try_out


class Caller(Collector):
    """Runs the ``call`` of a layer or model and walks what that records."""

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
        free = any(None in kt.shape for kt in tensors(args, kwargs))
        choices = (None, *(sizes.choices(self.lengths) if free else ()))
        foreign = isinstance(op, keras.layers.Layer) and any(map(self.is_foreign, parts(op)[1:]))
        apart: dict[int, str] = {}
        for choice, self.inside in itertools.product(choices, (False, True) if foreign else (False,)):
            try:
                if choice is None:
                    found = self.run_once(op, args, kwargs, feeds, masks, here)
                else:
                    if choice is choices[1]:
                        apart = lengths_apart(recorded, feeds, masks, self.specs)
                    found = self.run_twice(op, args, kwargs, feeds, masks, here, choice, apart)
                nodes = self.nodes[start[0] :]
                kin = self.kin(recorded, feeds, masks, nodes) if self.checks else None
                if self.checks and kin not in self.compared:
                    call = recorded if compare else None
                    try_out(call, feeds, masks, self.specs, nodes, found[0], not here, apart)
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
        for kt, slot, mask in zip(tensors(args, kwargs), feeds, masks, strict=True):
            inside = keras.KerasTensor(self.specs[slot].shape, inner_dtype(op, kt))
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
        foreign = self.is_foreign if self.inside else lambda layer: False
        with quiet_call(op, self.read), calls_told(self.training) as inherited, calls_inside(self.call_inside, foreign):
            with attention.symbolic(op):
                outputs = _recorded(op, inner_args, inner_kwargs)
            self.changes = inherited() not in (None, self.training)
        flat = tree.flatten(outputs)
        for i, y in enumerate(flat):
            if is_array(y):  # of the sizes of its inputs alone
                flat[i] = keras.KerasTensor(y.shape, y.dtype)
                inner[id(flat[i])] = self.constant(y, feeds[0], here)
        if not all(isinstance(kt, keras.KerasTensor) for kt in flat):
            raise TypeError("an output is not symbolic")
        self.walk(flat, inner, here)
        return [inner[id(kt)] for kt in flat], tree.pack_sequence_as(outputs, flat)

    def is_foreign(self, layer: Any) -> bool:
        """Whether a layer is one of a user, which is opened."""
        return op_key(layer).startswith("custom:") and not (self.is_leaf(layer) or runs_recorded_graph(layer))

    def call_inside(self, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What the ``call`` of a layer inside another gives, without a node of its own.

        For layers that announce other shapes or take other arguments than their ``call`` does.
        """
        kwargs = self.with_training(layer, kwargs, kwargs.get("training", self.training))
        if kwargs.get("training", self.training) != self.training:
            raise ValueError(f"{layer.name!r} inside it has a training= of its own")
        args, kwargs = tree.map_structure(functools.partial(_cast_inside, layer), (args, kwargs))
        with attention.symbolic(layer):
            outputs = layer.call(*args, **with_masks(layer, args, kwargs))
        if layer.supports_masking and any(mask_of(kt) is not None for kt in tensors(args, kwargs)):
            raise ValueError(f"a Keras mask reaches {layer.name!r} inside it")
        return outputs

    def run_twice(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        feeds: Sequence[int],
        masks: Sequence[int | None],
        here: tuple[str, ...],
        choice: sizes.Sizes,
        apart: dict[int, str],
    ) -> tuple[list[int], Any]:
        """The same from recordings at two sizes of what is free; ``apart`` has lengths that are not tied to others."""
        given = sorted({*feeds, *(m for m in masks if m is not None)})
        parts, found = [], []
        for number in (0, 1):
            part = type(self)(self.is_leaf)
            part.training, part.recorded, part.inside, part.checks = self.training, self.recorded, self.inside, False
            part.lengths, part.positions = self.lengths, self.positions
            part.names, part.read = dict(self.names), self.read
            for i, slot in enumerate(given):
                shape = sizes.at_size(self.specs[slot].shape, choice, number, apart.get(slot, ""))
                part.specs[i] = replace(self.specs[slot], shape=shape)
            own = {slot: i for i, slot in enumerate(given)}
            moved = [own[s] for s in feeds], [None if m is None else own[m] for m in masks]
            found.append(part.run_once(op, args, kwargs, *moved, here))
            parts.append(part)
        a, b = parts
        slots = dict(enumerate(given))
        for s, t in zip(list(a.specs)[len(given) :], list(b.specs)[len(given) :], strict=True):
            slots[s] = len(self.specs)
            self.specs[slots[s]] = sizes.free(a.specs[s], b.specs[t])
        told = Call(_last, tuple(Arg(i) for i in range(len(given))))
        for x, y in zip(a.nodes, b.nodes, strict=True):
            for i, value in sizes.untold(x, y, a.specs, b.specs, choice, range(len(given))).items():
                both = [sizes.spec_of(n.call.args[i]) for n in (x, y)]
                new, spec = max(a.specs) + 1, sizes.free(*both)
                a.specs[new], b.specs[new] = both
                call = replace(told, args=(*told.args, value))
                slots[new] = self.step(keras.ops.full_like, call, given, spec.shape, spec.dtype, (*here, "constant"))
                x, y = (sizes.with_input(n, i, new) for n in (x, y))
            node = sizes.merged(x, y, a.specs, b.specs, choice, range(len(given)))
            ends = {"inputs": tuple(slots[s] for s in node.inputs), "outputs": tuple(slots[s] for s in x.outputs)}
            self.nodes.append(replace(node, index=len(self.nodes), **ends))
        self.names.update(a.names)
        self.layer_slots.update({name: slots[s] for name, s in a.layer_slots.items()})
        return [slots[s] for s in found[0][0]], found[0][1]

    def constant(self, value: Any, beside: int, here: tuple[str, ...]) -> int:
        """A node whose output is a constant, whatever the input ``beside`` it."""
        array = keras.ops.convert_to_tensor(value)
        dtype = keras.backend.standardize_dtype(array.dtype)
        call = Call(_last, (Arg(0), array))
        return self.step(keras.ops.full_like, call, [beside], array.shape, dtype, (*here, "constant"))


def _last(*values: Any) -> Any:
    return numerics.identity(values[-1])  # also of a variable, which is no tensor


def tensors(args: Any, kwargs: Any) -> list[keras.KerasTensor]:
    """The KerasTensors among arguments, in order."""
    return [kt for kt in tree.flatten((args, kwargs)) if isinstance(kt, keras.KerasTensor)]


def _recorded(op: Any, args: Any, kwargs: Any) -> Any:
    """What the ``call`` of a layer or model gives on KerasTensors."""
    kwargs = with_masks(op, args, kwargs)
    try:
        return op.call(*args, **kwargs)
    except Exception:
        with generic():
            return op.call(*args, **kwargs)


def _cast_inside(layer: Any, value: Any) -> Any:
    if not isinstance(value, keras.KerasTensor):
        return value
    dtype = inner_dtype(layer, value)
    return value if dtype == value.dtype else keep_mask(value, keras.ops.cast(value, dtype))
