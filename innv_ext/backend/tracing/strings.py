"""Models of strings, taken apart: the layer that makes numbers of texts, and the model behind it."""

from __future__ import annotations

import keras
from keras import tree

from innv_ext.backend.tracing.state import model_tensors, recorded_calls, runs_recorded_graph
from innv_ext.errors import UnsupportedModelError


def takes_strings(model: keras.Model) -> bool:
    """Whether an input of a functional or Sequential model is one of strings."""
    return runs_recorded_graph(model) and any(kt.dtype == "string" for kt in tree.flatten(model_tensors(model)[0]))


def split_strings(model: keras.Model) -> tuple[keras.layers.TextVectorization, keras.Model]:
    """The TextVectorization layer that reads the only input, and the model behind it; layers and weights are shared.

    Raises
    ------
    UnsupportedModelError
        for models with other inputs, or where something else reads the strings
    """
    inputs, outputs = model_tensors(model)
    flat = tree.flatten(inputs)
    if len(flat) > 1:
        raise UnsupportedModelError(
            f"{model.name!r} has {len(flat)} inputs, of which strings are one: texts are explained where they are the "
            f"only input. Explain the part of the model behind TextVectorization with innv_ext.create_analyzer."
        )
    nodes = [node for node in recorded_calls(model) if any(kt is flat[0] for kt in node.input_tensors)]
    op = nodes[0].operation if len(nodes) == 1 else None
    if isinstance(op, keras.layers.TextVectorization):
        return op, _without_step(keras.Model(nodes[0].outputs[0], outputs, name=model.name))
    if op is None or not runs_recorded_graph(op) or len(nodes[0].outputs) > 1:
        names = ", ".join(repr(node.operation.name) for node in nodes)
        raise UnsupportedModelError(
            f"The strings that {model.name!r} takes are read by {names}; one TextVectorization layer must read them. "
            f"Explain the part of the model behind that, with tokenizer=, a function from a text to its tokens."
        )
    if [kt is nodes[0].outputs[0] for kt in tree.flatten(outputs)] == [True]:
        return split_strings(op)  # the outer model does nothing else
    behind = keras.Model(nodes[0].outputs[0], outputs, name=model.name)
    inner = [node for node in recorded_calls(op) if node.outputs[0] is tree.flatten(model_tensors(op)[1])[0]]
    if len(inner) == 1 and isinstance(inner[0].operation, keras.layers.TextVectorization):
        return inner[0].operation, behind  # the nested model does nothing else
    layer, rest = split_strings(op)
    tokens = keras.Input(batch_shape=rest.inputs[0].shape, dtype=rest.inputs[0].dtype)
    return layer, keras.Model(tokens, behind(rest(tokens)), name=model.name)


def _without_step(model: keras.Model) -> keras.Model:
    """The model for counts of words (batch, words).

    For strings (batch, 1) TextVectorization says that it counts (batch, 1, words), but it gives (batch, words).
    """
    shape = model.inputs[0].shape
    if len(shape) < 3:
        return model
    counts = keras.Input(shape[2:], dtype=model.inputs[0].dtype)
    found = model(keras.ops.expand_dims(counts, 1))
    narrow = tree.map_structure(lambda kt: keras.ops.squeeze(kt, 1) if kt.shape[1] == 1 else kt, found)
    return keras.Model(counts, narrow, name=model.name)
