"""The forward pass of a test: the score of one neuron and the predicted class, compiled once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core import inputs
from innv_ext.analyzers.core.reverse import select
from innv_ext.backend import facts, numerics, passes, walk
from innv_ext.backend.models import model_wo_softmax
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.tracing import model_tensors, trace, untouched
from innv_ext.errors import InvalidInputError

Tensor = Any


class Scores:
    """Scores and classes of a model with one input.

    Parameters
    ----------
    model : built keras.Model
    on : "output", or "logits" (a trailing softmax or sigmoid is cut)
    output : name or position of the output, for models with several
    caller : what asks, for messages

    Raises
    ------
    InvalidInputError
        if the model has several inputs, or for an unknown output
    """

    def __init__(self, model: keras.Model, on: str, output: str | int | None, caller: str):
        numerics.check_backend()
        arguments.choice("on", on, ("output", "logits"))
        self.structure = model_tensors(model)[0]
        names = [getattr(i, "name", "?") for i in tree.flatten(self.structure)]
        if len(names) > 1:
            raise InvalidInputError(
                f"{caller} takes models with one input, but {model.name!r} has {len(names)}: {names}. Hold the "
                f"others fixed: keras.Model(a, model([a, b])) with a = keras.Input(...) and b a function of a."
            )
        self.model = model
        self.graph = trace(model, facts.is_leaf)
        self.channels_first = facts.channels_first(self.graph)
        self.position = inputs.output_position(model, self.graph, output)
        self.spec = self.graph.specs[self.graph.inputs[0]]
        self.scorer = model if on == "output" else model_wo_softmax(model)
        self.threshold = 0.5 if on == "output" and self._squashed() else 0.0
        fed = self.spec.dtype
        fed = numerics.wide_dtype(fed) if numerics.is_float(fed) else fed
        self._run = Compiled(self._forward, [((None, *self.spec.shape[1:]), fed), ((None,), "int32")], False)

    def _squashed(self) -> bool:
        """Whether the output is a probability."""
        whole = passes.canonical(self.graph)
        return bool(passes.cut_softmax(whole.rebuilt(whole.nodes, outputs=(whole.outputs[self.position],)))[1])

    def samples(self, x: Any) -> np.ndarray:
        """x as the model takes it.

        Raises
        ------
        InvalidInputError
            for an x that does not fit the model, holds NaN, or is empty
        """
        (array,) = inputs.standardize(x, self.structure, [self.spec], True)
        if not array.size:
            raise InvalidInputError(f"x has shape {array.shape}; there is nothing to explain.")
        return array

    def output_shape(self, x: np.ndarray) -> tuple[int | None, ...]:
        """The shape of the output, worked out for x where the model leaves dimensions free."""
        shape = self.graph.specs[self.graph.outputs[self.position]].shape
        if None not in shape[1:]:
            return shape
        with untouched(self.model):
            symbol = keras.KerasTensor((None, *x.shape[1:]), x.dtype.name)
            return tuple(walk.evaluate(self.graph, [symbol])[self.position].shape)

    def __call__(self, x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(score in float64, flat index of the neuron, predicted class) per sample; index -1: the largest output.

        The class is the largest entry of the last axis at the neuron's position. A single neuron has the classes 0 and
        1, told apart by 0.5 where it is a probability and by 0 otherwise.
        """
        score, target, predicted = (np.asarray(t) for t in self._run(x, index))
        return score.astype("float64"), target, predicted

    def _forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.scorer(tree.pack_sequence_as(self.structure, [x]), training=False)
        y = widen(tree.flatten(outputs)[self.position])
        _, score, target = select(y, index, "max_activation")
        classes = ops.shape(y)[-1] if len(y.shape) > 1 else 1
        rows = ops.reshape(y, (ops.shape(y)[0], -1, classes))
        row = ops.take_along_axis(rows, (target // classes)[:, None, None], axis=1)[:, 0]
        if row.shape[-1] == 1:
            return score, target, ops.cast(row[:, 0] > self.threshold, "int32")
        return score, target, ops.cast(ops.argmax(row, axis=-1), "int32")
