"""Keras masks are those that layers meet when the model runs, not those that were recorded when it was made.

MultiHeadAttention takes the masks off its inputs, in place; masks enter nested models that were recorded without.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import innv_ext
from innv_ext.backend import facts, walk
from innv_ext.backend.masking import mask_arguments
from innv_ext.backend.tracing import trace

TOKENS = np.asarray([[1, 2, 3, 0, 0, 0], [4, 1, 2, 2, 0, 0], [3, 3, 1, 4, 2, 1]], "int32")
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")


def embedded():
    x = keras.Input((6,), dtype="int32")
    return x, L.Embedding(5, 4, mask_zero=True)(x)


def mean(y):
    return L.GlobalAveragePooling1D()(y)


def heads(query, value):
    return L.MultiHeadAttention(1, 2)(query, value)


def nested(part, **dtype):
    i = keras.Input((6, 4), **dtype)
    return keras.Model(i, part(i), name="inner")


class Reading(L.Layer):
    """Attends to a second input."""

    def __init__(self):
        super().__init__()
        self.heads = L.MultiHeadAttention(1, 2)

    def call(self, x, memory):
        return self.heads(x, memory) + x


class Masked(L.Layer):
    """Its output has a mask that nobody was told of: it does not support masking."""

    def __init__(self):
        super().__init__()
        self.heads = L.MultiHeadAttention(1, 2)

    def call(self, x):
        return self.heads(x, x)


class Foreign(L.Layer):
    """Cannot be run on KerasTensors, so it stays one node."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x):
        return tf.reverse(x, [-1])

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.heads = L.Embedding(5, 4, mask_zero=True), L.MultiHeadAttention(1, 2)
        self.mean, self.head = L.GlobalAveragePooling1D(), L.Dense(3)

    def call(self, x):
        h = self.embedding(x)
        a = self.heads(h, h)
        return self.head(self.mean(h) + 2.0 * self.mean(a))


def at_the_same_depth():
    x, h = embedded()
    return keras.Model(x, [mean(h), mean(heads(h, h))])


def read_again_later():
    x, h = embedded()
    a = heads(h, h)
    return keras.Model(x, [mean(h), L.LSTM(2)(L.Concatenate()([h, a])), mean(heads(h, h)), mean(L.Multiply()([h, a]))])


def the_same_tensor_behind_dropout():
    x, h = embedded()
    d = L.Dropout(0.5)(h)
    a = heads(d, d)
    return keras.Model(x, [mean(h), mean(d), mean(L.Add()([a, h])), mean(heads(h, a))])


def two_layers_of_a_user_read_it():
    x, h = embedded()
    q = keras.Input((6, 4))
    first, second = Reading(), Reading()
    a = first(q, h)
    return keras.Model([x, q], [mean(a), mean(second(a, h)), mean(h)])


def inside_a_nested_model():
    inner, (x, h) = nested(lambda i: L.LayerNormalization()(L.Add()([i, heads(i, i)]))), embedded()
    return keras.Model(x, [mean(inner(h)), mean(h), mean(inner(inner(h)))])


def inside_two_nested_models():
    inner = nested(lambda i: L.Attention()([i, i]))
    middle, (x, h) = nested(lambda i: mean(inner(L.Dropout(0.1)(i)))), embedded()
    return keras.Model(x, middle(h))


def a_nested_model_with_and_without_a_mask():
    inner, (x, h), y = nested(lambda i: mean(heads(i, i))), embedded(), keras.Input((6, 4))
    return keras.Model([x, y], [inner(h), inner(y)])


def a_nested_model_makes_the_mask():
    t, e = embedded()
    inner, x = keras.Model(t, L.LayerNormalization()(e)), keras.Input((6,), dtype="int32")
    h = inner(x)
    return keras.Model(x, [mean(heads(h, h)), mean(h), L.LSTM(2)(h)])


def a_nested_model_in_half_precision():
    inner, (x, h) = nested(lambda i: L.GroupQueryAttention(2, 2, 1)(i, i), dtype="float16"), embedded()
    return keras.Model(x, [mean(inner(h)), mean(h)])


def steps_inside_a_nested_model():
    inner, (x, h) = nested(L.TimeDistributed(L.Dense(3))), embedded()
    return keras.Model(x, mean(inner(h)))


def arguments_by_name_behind_foreign_layers():
    inner, (x, h) = nested(lambda i: L.MultiHeadAttention(1, 2)(value=Foreign()(i), query=i)), embedded()
    y = inner(h)
    return keras.Model(x, [mean(y), mean(heads(y, y)), mean(h)])


def a_mask_given_inside_a_call():
    x, h = embedded()
    a = Masked()(h)
    return keras.Model(x, [mean(a), mean(heads(a, a))])


def in_a_call_written_by_hand():
    model = OwnCall()
    model(TOKENS)
    return model


MODELS = [
    at_the_same_depth, read_again_later, the_same_tensor_behind_dropout, two_layers_of_a_user_read_it,
    inside_a_nested_model, inside_two_nested_models, a_nested_model_with_and_without_a_mask,
    a_nested_model_makes_the_mask, a_nested_model_in_half_precision, steps_inside_a_nested_model,
    arguments_by_name_behind_foreign_layers, a_mask_given_inside_a_call, in_a_call_written_by_hand,
]


def randomised(model):
    rng = np.random.default_rng(1)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape))
    return model


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_graph_computes_what_the_model_does(make):
    model = randomised(make())
    both = [TOKENS, np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")]
    xs = both[: len(getattr(model, "inputs", "x"))]
    tensors = [tf.constant(x) for x in xs]
    # tensors of their own: a model that is called takes masks off them, too
    expected = keras.tree.flatten(model([tf.identity(t) for t in tensors] if len(xs) > 1 else tf.constant(xs[0])))
    graph = trace(model, facts.is_leaf)
    received, env = walk.evaluate(graph, tensors), walk.forward(graph, tensors)
    for e, r, slot in zip(expected, received, graph.outputs, strict=True):
        np.testing.assert_allclose(e, r, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(e, env.slots[slot], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [L.GlobalAveragePooling1D(), L.LSTM(2)], ids=["pooling", "recurrent"])
def test_a_mask_that_a_layer_takes_from_its_tensor_is_an_input_of_its_node(layer):
    """Whether Keras records it (3.15) or not (after it): where values are mixed, the tensor loses its mask."""
    x, h = embedded()
    model = keras.Model(x, L.Dense(2)(layer(L.LayerNormalization()(h))))
    graph = trace(model, facts.is_leaf)
    node = next(n for n in graph.nodes if n.op is layer)
    assert len(node.inputs) == 2 and mask_arguments(node) == {1}
    assert graph.specs[node.inputs[1]].dtype == "bool"


def test_a_nested_model_is_explained_like_its_layers():
    """The padding gets nothing where the attention of the nested model meets the mask."""
    attention, norm = L.MultiHeadAttention(1, 2), L.LayerNormalization()
    inner = nested(lambda i: norm(attention(i, i)))
    x, h = embedded()
    head = L.Dense(3, use_bias=False)
    one = randomised(keras.Model(x, head(mean(inner(h)))))
    two = keras.Model(x, head(mean(norm(attention(h, h)))))
    for name in ("gradient", "input_t_gradient", "lrp.epsilon"):
        a, b = (innv_ext.create_analyzer(name, m).explain(TOKENS, 1) for m in (one, two))
        np.testing.assert_allclose(a.score, two.predict(TOKENS, verbose=0)[:, 1], rtol=1e-4)
        np.testing.assert_allclose(a.attribution, b.attribution, rtol=1e-4, atol=1e-6)
        assert np.abs(a.attribution[0, :3]).max() > 1e-3
