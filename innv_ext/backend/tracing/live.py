"""Which tensors of a functional model have a Keras mask when it runs, and until which call.

What was recorded does not tell: MultiHeadAttention takes the masks off its inputs, in place, so that no later call sees
them (nor one on the same tensor under another name, behind Dropout), and a mask that enters a nested model was not
there when the nested model was made. So the model is run once, symbolically, and the masks are looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

from innv_ext.backend import numerics
from innv_ext.backend.graph import Spec, op_key
from innv_ext.backend.masks import mask_of, with_mask
from innv_ext.backend.tracing.state import (
    calls_told,
    model_tensors,
    parts,
    recorded_calls,
    recorded_tensors,
    recorded_training_counts,
    runs_recorded_graph,
)


@dataclass(frozen=True, eq=False)
class Live:
    """Identities of the recorded tensors that are made with a mask; by that of a call, those that lose theirs in it."""

    masked: set[int] = field(default_factory=set)
    lost: dict[int, list[keras.KerasTensor]] = field(default_factory=dict)


def is_opened(op: Any, is_leaf: Callable[[Any], bool]) -> bool:
    """Whether the tracer tries to look inside."""
    return isinstance(op, keras.Model) or not is_leaf(op) or op_key(op) == "TimeDistributed"


def live_masks(
    model: keras.Model,
    specs: Sequence[Spec],
    masks: Sequence[Spec | None],
    training: Any,
    is_leaf: Callable[[Any], bool],
) -> Live | None:
    """What becomes of masks in a functional model whose inputs have these shapes and masks.

    None if no layer that is opened can meet one (a layer that is one node finds it on its tensors), or if the model
    cannot be run symbolically, which ``predict`` cannot do either.
    """
    inside = parts(model)
    calls = [op for op in inside if isinstance(op, keras.layers.Layer) and not runs_recorded_graph(op)]
    if not any(is_opened(op, is_leaf) for op in calls):
        return None
    if all(m is None for m in masks) and all(mask_of(kt) is None for kt in recorded_tensors(inside)):
        return None
    given = [(s.shape, s.dtype) for s in (*specs, *masks) if s is not None]
    with suppress(Exception), warnings.catch_warnings(), calls_told(training):
        warnings.simplefilter("ignore")  # the model has said so when it was made
        found = Live()
        numerics.run_symbolically(lambda *xs: _run(model, xs, masks, training, found), given)
        return found
    return None


def _run(model: keras.Model, xs: Sequence[Any], masks: Sequence[Any], training: Any, found: Live) -> list[Any]:
    inputs, order = tree.flatten(model_tensors(model)[0]), recorded_calls(model)
    own = iter(xs[len(inputs) :])
    values = {
        id(kt): with_mask(x, None if m is None else next(own))
        for kt, x, m in zip(inputs, xs[: len(inputs)], masks, strict=True)
    }
    carrying = {id(kt): kt for kt in inputs if mask_of(values[id(kt)]) is not None}
    found.masked.update(carrying)
    last = {id(kt): number for number, call in enumerate(order) for kt in call.input_tensors}
    for number, call in enumerate(order):
        args, kwargs = call.arguments.fill_in(values)
        if "training" in kwargs and not recorded_training_counts():
            kwargs["training"] = training
        ys = tree.flatten(call.operation(*args, **kwargs))
        values.update((id(kt), y) for kt, y in zip(call.outputs, ys, strict=True))
        gone = [kt for kt in carrying.values() if mask_of(values[id(kt)]) is None]
        found.lost[id(call)] = [kt for kt in gone if last.get(id(kt), 0) > number]
        for kt in gone:
            del carrying[id(kt)]
        carrying.update((id(kt), kt) for kt in call.outputs if mask_of(values[id(kt)]) is not None)
        found.masked.update(id(kt) for kt in call.outputs if id(kt) in carrying)
    return [values[id(kt)] for kt in tree.flatten(model_tensors(model)[1])]


def passed_masks(args: Any, kwargs: Any, masks: Sequence[int | None], known: dict[int, int]) -> Sequence[int | None]:
    """The masks that go with the tensors of a call of a nested model: those that were recorded with it count."""
    passed, tensors = tree.flatten(kwargs.get("mask")), tree.flatten(args)
    if len(passed) != len(tensors) or not all(isinstance(kt, keras.KerasTensor) for kt in tensors):
        return masks
    both = zip(passed, masks, strict=False)
    found = [known[id(m)] if isinstance(m, keras.KerasTensor) else slot for m, slot in both]
    return [*found, *masks[len(found) :]]
