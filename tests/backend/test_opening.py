"""What a ``call`` may do and still be opened: read sizes, carry masks, work on frames; each against the layer."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.backend import facts, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError


class Own(L.Layer):
    """A layer with a class token, positions, and a ``call`` given as a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def build(self, shape):
        rng = np.random.default_rng(0)
        for name, size in (("token", (1, 1, 4)), ("places", (6, 4))):
            value = keras.initializers.Constant(rng.normal(size=size))
            setattr(self, name, self.add_weight(name=name, shape=size, initializer=value))

    def call(self, x):
        return self.function(self, x)


def model_of(function, shape=(6, 4)):
    i = keras.Input(shape)
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(Own(function)(i))))


def keys(graph):
    return [op_key(n.op) for n in graph.nodes]


def assert_same(model, *shapes):
    """The graph against the model, for batches and lengths that it was not recorded with."""
    graph = trace(model, facts.is_leaf)
    for number, shape in enumerate(shapes):
        x = np.random.default_rng(number).normal(size=shape).astype("float32")
        found = walk.evaluate(graph, [ops.convert_to_tensor(x)])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(x)), rtol=1e-5, atol=1e-6)
    return graph


def windows(layer, x):
    """Attention-like windows: their batch is a multiple of the input's."""
    n, steps, size = ops.shape(x)
    parts = ops.reshape(x, (n * (steps // 2), 2, size))
    parts = parts - ops.mean(parts, axis=1, keepdims=True)
    return ops.reshape(parts, (ops.shape(parts)[0] // (steps // 2), steps, size))


SIZES = {
    "reshape": (lambda s, x: ops.reshape(x, (ops.shape(x)[0], 12, 2)), ["reshape"]),
    "positions": (lambda s, x: x + ops.broadcast_to(s.places, ops.shape(x)), ["add"]),
    "ones": (lambda s, x: x * ops.ones((ops.shape(x)[0], 1, 1)), ["multiply"]),
    "token_tile": (lambda s, x: ops.concatenate([ops.tile(s.token, (ops.shape(x)[0], 1, 1)), x], 1), ["concatenate"]),
    "token_repeat": (lambda s, x: ops.concatenate([ops.repeat(s.token, ops.shape(x)[0], 0), x], 1), ["concatenate"]),
    "windows": (windows, ["reshape", "mean", "subtract", "reshape"]),
    "half": (lambda s, x: x[: ops.shape(x)[0], : ops.shape(x)[1] // 2], ["get_item"]),
    "all_steps": (
        lambda s, x: ops.reshape(ops.reshape(x, (ops.shape(x)[0] * ops.shape(x)[1], 4)), ops.shape(x)),
        ["reshape", "reshape"],
    ),
    "rest": (lambda s, x: ops.reshape(x * 2.0, (ops.shape(x)[0], -1, 2)), ["multiply", "reshape"]),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_call_that_reads_the_batch_size(name):
    function, wanted = SIZES[name]
    graph = assert_same(model_of(function), (1, 6, 4), (5, 6, 4))
    assert keys(graph)[: len(wanted)] == wanted


@pytest.mark.parametrize("name", ["ones", "half"])
def test_a_call_that_reads_a_free_length(name):
    function, wanted = SIZES[name]
    graph = assert_same(model_of(function, (None, 4)), (1, 6, 4), (5, 10, 4))
    assert keys(graph)[: len(wanted)] == wanted and graph.specs[graph.nodes[0].outputs[0]].shape[0] is None


def test_what_depends_on_sizes_in_another_way_stays_one_node():
    """Positions up to a free length, and a float made of one."""
    by_places = model_of(lambda s, x: x + s.places[: ops.shape(x)[1]], (None, 4))
    by_number = model_of(lambda s, x: x * (1.0 / ops.cast(ops.shape(x)[1], "float32")), (None, 4))
    for model in (by_places, by_number):
        graph = assert_same(model, (2, 4, 4), (3, 6, 4))
        assert keys(graph)[0] == "custom:Own" and graph.nodes[0].note
        with pytest.raises(NoRuleError, match=r"own.*not opened because"):
            innv_ext.create_analyzer("lrp.epsilon", model)


def test_values_that_the_graph_holds_are_noticed_when_they_change():
    """A class token tiled to the batch and a slice of positions are computed when the model is traced."""
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    for function in (SIZES["token_tile"][0], lambda s, x: x * s.places[None, :6]):
        model = model_of(function)
        assert len(trace(model, facts.is_leaf).made_of) == 1
        analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
        before = analyzer.explain(x, 1)
        for weight in model.layers[1].weights:
            weight.assign(weight * 2 + 1)
        after, fresh = analyzer.explain(x, 1), innv_ext.create_analyzer("lrp.epsilon", model).explain(x, 1)
        np.testing.assert_allclose(after.score, np.asarray(model(x))[:, 1], rtol=1e-5)
        np.testing.assert_array_equal(after.attribution, fresh.attribution)
        assert np.abs(after.score - before.score).max() > 1e-3
    assert not trace(zoo.make("mlp").model, facts.is_leaf).made_of


class Block(L.Layer):
    """Lets masks through, and has layers that use them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense, self.mean = L.Dense(4, activation="relu"), L.GlobalAveragePooling1D()
        self.supports_masking = True

    def call(self, x):
        h = self.dense(x)
        return h * ops.expand_dims(self.mean(h), 1)


def masked_model(*between):
    i = keras.Input((6,), dtype="int32")
    h = L.Embedding(9, 4, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))(i)
    for layer in between:
        h = layer(h)
    return keras.Model(i, L.Dense(2)(L.GlobalAveragePooling1D()(h)))


class Attends(L.Layer):
    def __init__(self):
        super().__init__()
        self.attention, self.norm = L.MultiHeadAttention(2, 3), L.LayerNormalization()
        self.supports_masking = True

    def call(self, x):
        return self.norm(x + self.attention(x, x, use_causal_mask=True))


@pytest.mark.parametrize("layers", [(Block,), (Block, Block), (Attends,), (Block, Attends, Block)])
def test_masks_go_into_what_is_opened_and_out_again(layers):
    model = masked_model(*(layer() for layer in layers))
    graph = trace(model, facts.is_leaf)
    assert not any(key.startswith("custom:") for key in keys(graph)) and "MultiHeadAttention" not in keys(graph)
    tokens = np.array([[1, 2, 0, 0, 0, 0], [3, 4, 5, 6, 7, 0], [1, 1, 2, 2, 3, 3]])
    found = walk.evaluate(graph, [ops.convert_to_tensor(tokens, "int32")])[0]
    np.testing.assert_allclose(np.asarray(found), np.asarray(model(tokens)), rtol=1e-5, atol=1e-6)
    without = np.where(tokens == 0, 8, tokens)
    assert np.abs(np.asarray(model(without)) - np.asarray(found)).max() > 1e-6


FRAMES = {
    "dense": ((5, 3), lambda: L.Dense(4, activation="relu")),
    "conv": ((3, 6, 6, 2), lambda: L.Conv2D(2, 3, activation="relu")),
    "pool": ((3, 6, 6, 2), lambda: L.MaxPooling2D(2)),
    "norm": ((4, 6), L.BatchNormalization),
    "model": ((3, 6, 2), lambda: keras.Sequential([keras.Input((6, 2)), L.Conv1D(3, 2), L.Flatten(), L.Dense(2)])),
    "recurrent": ((3, 4, 2), lambda: L.GRU(3)),
    "nested": ((2, 3, 4, 2), lambda: L.TimeDistributed(L.Dense(3))),
}


@pytest.mark.parametrize("name", FRAMES)
def test_time_distributed_is_its_layer_on_frames_as_samples(name):
    shape, layer = FRAMES[name]
    i = keras.Input(shape)
    model = zoo.randomise(keras.Model(i, L.TimeDistributed(layer())(i)))
    graph = assert_same(model, (1, *shape), (3, *shape))
    assert "TimeDistributed" not in keys(graph) and keys(graph)[0] == keys(graph)[-1] == "reshape"


def test_time_distributed_stays_where_steps_are_free_or_its_layer_takes_the_mask():
    i, j = keras.Input((None, 3)), keras.Input((4, 5), dtype="int32")
    free = keras.Model(i, L.TimeDistributed(L.Dense(2))(i))
    masks = keras.Model(j, L.TimeDistributed(L.GRU(2))(L.Embedding(5, 3, mask_zero=True)(j)))
    assert "TimeDistributed" in keys(trace(free, facts.is_leaf)) + keys(trace(masks, facts.is_leaf))
    note = next(n.note for n in trace(masks, facts.is_leaf).nodes if op_key(n.op) == "TimeDistributed")
    assert "mask reaches" in note


def test_losses_that_a_call_adds_are_left_out():
    class Penalised(L.Layer):
        def call(self, x):
            self.add_loss(ops.mean(x * x))
            return ops.relu(x)

    layer = Penalised()
    i = keras.Input((4,))
    model = keras.Model(i, layer(i))
    assert keys(assert_same(model, (2, 4))) == ["relu"]
    model(np.ones((2, 4)))
    assert len(layer.losses) == 1


def test_training_is_not_handed_to_a_call_that_has_none():
    class Plain(L.Layer):
        def call(self, x):
            return ops.tanh(x)

    i = keras.Input((4,))
    model = keras.Model(i, Plain()(i, training=False))
    assert keys(trace(model, facts.is_leaf)) == ["tanh"]


def test_constants_as_inputs_of_a_nested_model():
    a, b = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model([a, b], L.Dense(3)(L.Add()([a, b * 2.0])))
    i = keras.Input((4,))
    constant = ops.convert_to_tensor(np.arange(4, dtype="float32")[None])
    model = keras.Model(i, inner([i, constant]))
    assert_same(model, (1, 4), (3, 4))
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    kernel = np.asarray(inner.layers[-1].kernel)
    np.testing.assert_allclose(innv_ext.create_analyzer("gradient", model).analyze(x, 1), np.tile(kernel[:, 1], (2, 1)))
