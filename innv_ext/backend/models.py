"""Keras models made from rewritten graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from innv_ext.backend import facts, passes, walk
from innv_ext.backend.graph import Graph, TooShort
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.backend.tracing import model_tensors, trace


@keras.saving.register_keras_serializable("innv_ext")
class ModelWithoutSoftmax(keras.Model):
    """The wrapped model up to its trailing softmax or sigmoid; the weights are shared."""

    def __init__(self, model: keras.Model, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # the layers' own dtypes count
        self.wrapped = model
        self._graph = self._cut()
        self._structure = model_tensors(model)[0]
        self._single = len(self._graph.outputs) == 1
        self(tree.map_structure(lambda kt: keras.KerasTensor(kt.shape, kt.dtype), self._structure))

    def _cut(self, lengths: Sequence[int] = ()) -> Graph:
        return cut_softmax(passes.canonical(trace(self.wrapped, facts.is_leaf, lengths)))[0]

    def call(self, inputs: Any) -> Any:
        """The logits."""
        specs = [self._graph.specs[slot] for slot in self._graph.inputs]
        flat = [ops.cast(x, spec.dtype) for x, spec in zip(tree.flatten(inputs), specs, strict=True)]
        try:
            outputs = walk.evaluate(self._graph, flat)
        except TooShort:  # positions and causal masks are known for shorter samples
            self._graph = self._cut(sorted(self._graph.lengths(flat)))
            outputs = walk.evaluate(self._graph, flat)
        return outputs[0] if self._single else outputs

    def get_config(self) -> dict[str, Any]:
        """The wrapped model's config."""
        return {"model": keras.saving.serialize_keras_object(self.wrapped), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ModelWithoutSoftmax:
        """Rebuild from ``get_config``."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(model, name=config["name"])


def model_wo_softmax(model: keras.Model) -> keras.Model:
    """A model that shares ``model``'s weights and ends before its trailing softmax or sigmoid, wherever that is.

    Analyzers cut it themselves; this is for looking at logits. A model without one is returned as it is. Saved and read
    by ``keras.models.load_model``, it needs ``import innv_ext.backend.models`` there, which makes its class known.

    Examples
    --------
    >>> logits = innv_ext.model_wo_softmax(model).predict(x)
    """
    graph = passes.canonical(trace(model, facts.is_leaf))
    return ModelWithoutSoftmax(model) if cut_softmax(graph)[1] else model
