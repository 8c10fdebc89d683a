"""One step of a recurrent layer as a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from innv_ext.backend.graph import Graph, op_key
from innv_ext.backend.kinds import RECURRENT_CELLS
from innv_ext.backend.tracing.state import constant_variables, untouched
from innv_ext.backend.tracing.tracer import Tracer


def open_cell(owner: keras.layers.Layer, cell: Any, inputs: Any, is_leaf: Callable[[Any], bool]) -> Graph:
    """The graph of ``cell.call(x, states)`` in inference, (x, *states) -> (output, *states).

    Parameters
    ----------
    owner : the layer that calls the cell, or the cell itself
    inputs : (x, states), one ``Spec`` for each tensor
    is_leaf : as for ``trace``

    Raises
    ------
    Exception
        whatever a foreign ``call`` raises on KerasTensors, and where it changes variables
    """

    def leaf(op: Any) -> bool:
        return is_leaf(op) and op_key(op) not in RECURRENT_CELLS

    tracer = Tracer(leaf)
    tracer.checks = False
    tensors = tree.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype), inputs)
    slots = [tracer.new_slot(kt) for kt in tree.flatten(tensors)]
    with contextlib.ExitStack() as stack:
        for part in stack.enter_context(untouched(owner)):
            if hasattr(part, "recurrent_dropout") and "dropout" in vars(part):  # made whatever ``training``
                object.__setattr__(part, "dropout", 0.0)
                object.__setattr__(part, "recurrent_dropout", 0.0)
            if op_key(part) in ("LSTMCell", "GRUCell"):  # the same in fewer operations, on whole weights
                object.__setattr__(part, "implementation", 2)
        stack.enter_context(constant_variables())
        kwargs = tracer.with_training(cell, {}, False)
        found, _ = tracer.run_once(cell, tensors, kwargs, slots, [None] * len(slots), ())
    shapes = [[tracer.specs[s].shape[1:] for s in one] for one in (found[1:], slots[1:])]
    if shapes[0] != shapes[1]:
        raise ValueError(f"it turns states of shapes {shapes[1]} into such of {shapes[0]}")
    read = tuple(tracer.read.values())
    return Graph(tuple(tracer.nodes), tuple(slots), tuple(found), tracer.specs, tracer.layer_slots, (), read)
