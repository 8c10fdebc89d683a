"""What a ``call`` may do and still be opened: read sizes, carry masks, work on frames; each against the layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.backend import facts, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.tracing import trace
from innv_ext.backend.tracing.state import recorded_training_counts
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
    """A float made of a length."""
    model = model_of(lambda s, x: x * (1.0 / ops.cast(ops.shape(x)[1], "float32")), (None, 4))
    graph = assert_same(model, (2, 4, 4), (3, 6, 4))
    assert keys(graph)[0] == "custom:Own" and graph.nodes[0].note
    with pytest.raises(NoRuleError, match=r"own.*not opened because"):
        innv_ext.create_analyzer("lrp.epsilon", model)


VARIABLE_FIRST = {
    "add": lambda s, x: s.places + x,
    "subtract": lambda s, x: s.places - x,
    "multiply": lambda s, x: s.places * x,
    "true_divide": lambda s, x: s.places / (x * x + 1),
    "power": lambda s, x: (s.places * s.places) ** x,
    "matmul": lambda s, x: s.places @ ops.transpose(x, (0, 2, 1)) @ x,
    "greater": lambda s, x: ops.where(s.places > x, x, 0.0),
}


@pytest.mark.parametrize("name", VARIABLE_FIRST)
def test_a_variable_in_front_of_an_operator(name):
    """``variable * x`` is an operator of the variable, for which Keras takes a function of its backend."""
    model = model_of(VARIABLE_FIRST[name])
    plain = keras.Variable.__mul__
    for _ in range(2):
        assert not any(n.note for n in assert_same(model, (1, 6, 4), (5, 6, 4)).nodes)
        model.layers[1].places.assign(model.layers[1].places * 2 + 1)
    assert keras.Variable.__mul__ is plain


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


def test_a_nested_model_takes_its_inputs_by_name():
    """Its inputs are a list; a dict has them in another order, and more."""
    b, a = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    inner = keras.Model([b, a], L.Dense(3)(b * 2.0 + ops.tanh(a)))
    given = {name: keras.Input((4,), name=name) for name in ("a", "b", "c")}
    model = keras.Model(given, inner(given) + L.Dense(3)(given["c"]))
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(2, 4)).astype("float32") for name in given}
    found = innv_ext.create_analyzer("gradient", model).explain(x, 1)
    np.testing.assert_allclose(found.score, np.asarray(model(x))[:, 1], rtol=1e-5)
    kernel = np.asarray(next(w for w in inner.weights if "kernel" in w.path))
    np.testing.assert_allclose(found.attribution["b"], np.tile(2 * kernel[:, 1], (2, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.attribution["a"], kernel[:, 1] * (1 - np.tanh(x["a"]) ** 2), rtol=1e-4)


class Told(L.Layer):
    """Shows what it is handed as ``training``."""

    def call(self, x, training=None):
        return x * 3.0 if training else x * 2.0


class Tells(L.Layer):
    """Asks for training inside; whether what comes after in ``call`` inherits it is up to Keras."""

    def __init__(self, *training, **options):
        super().__init__(**options)
        self.parts, self.handed = [Told() for _ in training], training

    def call(self, x):
        for part, training in zip(self.parts, self.handed, strict=True):
            x = part(x) if training is None else part(x, training=training)
        return x


def chain(x, *training):
    for value in training:
        x = Told()(x) if value is None else Told()(x, training=value)
    return x


def inner_model(*training):
    i = keras.Input((2,))
    return keras.Model(i, chain(i, *training))


def twice(model, x):
    return model(chain(model(x), True))


RECORDED = {
    "chain": lambda x: chain(x, None, True, None, False, None),
    "branches": lambda x: chain(L.Add()([chain(x, None), chain(x, True, None), chain(x, None, None)]), None),
    "nested": lambda x: chain(inner_model(None, True, None)(x), None),
    "nested called": lambda x: chain(inner_model(None, None)(x, training=True), None),
    "sequential": lambda x: chain(keras.Sequential([Told(), Told()])(x, training=True), None),
    "twice": lambda x: twice(inner_model(None), x),
    "of no use to the layer": lambda x: chain(L.Dense(2)(x, training=True), None),
    "own": lambda x: chain(Tells(None, False, None)(x), None),
    "own that asks": lambda x: chain(Tells(None, True)(x), None),
    "own that asks and goes on": lambda x: chain(Tells(None, True, None)(x), None),
    "own after": lambda x: Tells(None, None)(chain(x, True)),
    "own that cannot be opened": lambda x: Tells(None, True, None)(Tells(True, None)(x)),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_training_is_what_the_running_keras_makes_of_it(name):
    """Up to Keras 3.15 a functional model overrules it; later it counts, and for the calls after it."""
    i = keras.Input((2,))
    model, x = keras.Model(i, RECORDED[name](i)), np.array([[1.0, 2.0]], "float32")
    found = walk.evaluate(trace(model, facts.is_leaf), [ops.convert_to_tensor(x)])[0]
    np.testing.assert_allclose(np.asarray(found), np.asarray(model(x, training=False)), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found), model.predict(x, verbose=0), rtol=1e-6)


def test_a_subclassed_model_that_asks_for_training_inside():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.tells = [Tells(None, True), Told()]

        def call(self, x):
            for layer in self.tells:
                x = layer(x)
            return x

    model, x = Own(), np.array([[1.0, 2.0]], "float32")
    model(x)
    found = walk.evaluate(trace(model, facts.is_leaf), [ops.convert_to_tensor(x)])[0]
    np.testing.assert_allclose(np.asarray(found), model.predict(x, verbose=0))


def test_dropout_that_is_on_in_inference_is_no_identity():
    i = keras.Input((4,))
    model = keras.Model(i, L.Dense(2)(L.Dropout(0.5, name="on")(i, training=True)))
    if recorded_training_counts():
        with pytest.raises(NoRuleError, match="on"):
            innv_ext.create_analyzer("lrp.epsilon", model)
    else:
        assert "training" in trace(model, facts.is_leaf).nodes[0].call.kwargs
        innv_ext.create_analyzer("lrp.epsilon", model)


HEADS = {
    "causal with dropout": lambda x, y: L.MultiHeadAttention(2, 3, dropout=0.2)(x, x, use_causal_mask=True),
    "causal scores": lambda x, y: L.MultiHeadAttention(2, 3)(
        x, x, use_causal_mask=True, return_attention_scores=True
    )[1],
    "grouped": lambda x, y: L.GroupQueryAttention(3, 4, 2, dropout=0.2)(x, y, use_causal_mask=True),
    "key": lambda x, y: L.MultiHeadAttention(2, 3, value_dim=2, output_shape=5)(x, y, key=y * 2.0),
    "concat": lambda x, y: L.Attention(score_mode="concat", use_scale=True)([x, y], use_causal_mask=True),
    "additive": lambda x, y: L.AdditiveAttention()([x, y, y * 2.0]),
}


@pytest.mark.parametrize("name", HEADS)
def test_attention_is_opened(name):
    x, y = keras.Input((5, 4)), keras.Input((6, 4))
    model = keras.Model([x, y], [HEADS[name](x, y), y])
    graph = trace(model, facts.is_leaf)
    assert not any(n.note for n in graph.nodes)
    xs = [np.random.default_rng(i).normal(size=(2, 5 + i, 4)).astype("float32") for i in range(2)]
    found = walk.evaluate(graph, [ops.convert_to_tensor(v) for v in xs])[0]
    np.testing.assert_allclose(np.asarray(found), np.asarray(model(xs)[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [L.Attention, L.AdditiveAttention])
@pytest.mark.parametrize("closed", [1, 4])
def test_attention_to_nothing(layer, closed):
    """What a query sees that may look at nothing is up to Keras: the mean of all values, or nothing."""
    i = keras.Input((4,), dtype="int32")
    h = L.Embedding(5, 3, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))(i)
    model = keras.Model(i, layer()([h, h]))
    graph, tokens = trace(model, facts.is_leaf), np.array([[1, 2, 3, 4]])
    tokens[:, 4 - closed :] = 0
    assert not any(n.note for n in graph.nodes)
    found = walk.evaluate(graph, [ops.convert_to_tensor(tokens, "int32")])[0]
    np.testing.assert_allclose(np.asarray(found), np.asarray(model(tokens)), rtol=1e-5, atol=1e-6)


class Local(L.MultiHeadAttention):
    """Its own scores, in operations that take KerasTensors; the rest is Keras's."""

    def _compute_attention(self, query, key, value, attention_mask=None, training=None, *args, **kwargs):
        scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", query, key) * 0.1)
        return ops.einsum("bhqk,bkhd->bqhd", scores, value), scores


class Scaled(L.MultiHeadAttention):
    def call(self, query, value, key=None, **kwargs):
        return super().call(query, value, key, **kwargs) * 2.0


@pytest.mark.parametrize("layer", [Local, Scaled])
def test_subclasses_keep_what_they_override(layer):
    x = keras.Input((5, 4))
    model = keras.Model(x, layer(2, 3, use_gate=layer is Local)(x, x))
    assert not any(n.note for n in assert_same(model, (2, 5, 4)).nodes)
    assert "_compute_attention" not in vars(model.layers[-1])


def test_what_a_random_call_read_is_not_waited_for():
    """It stays one node: the state of its generator, which every call changes, is no part of the graph."""
    class Noisy(L.Layer):
        def __init__(self):
            super().__init__()
            self.generator = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal(ops.shape(x)[1:], seed=self.generator)

    i = keras.Input((4,))
    model = keras.Model(i, Noisy()(i))
    graph = trace(model, facts.is_leaf)
    assert keys(graph) == ["custom:Noisy"] and not graph.made_of


def test_a_whole_table_of_positions_is_added():
    """The layer declares a free length, but takes no other than that of its table."""
    graph = assert_same(model_of(lambda s, x: x + s.places, (None, 4)), (1, 6, 4), (5, 6, 4))
    assert keys(graph)[0] == "add"


def test_sizes_that_a_layer_does_not_tell():
    """EinsumDense announces no number of steps, by which what is behind it takes its positions."""
    table = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    places = Own(lambda s, x: x * ops.convert_to_tensor(table)[: ops.shape(x)[1]])
    i = keras.Input((None, 4))
    model = keras.Model(i, places(L.EinsumDense("btd,de->bte", (None, 4))(i)))
    analyzer = innv_ext.create_analyzer("gradient", model)
    for length in (3, 33):
        x = np.random.default_rng(length).normal(size=(2, length, 4)).astype("float32")
        found = analyzer.explain(x, (2, 1))
        np.testing.assert_allclose(found.score, np.asarray(model(x))[:, 2, 1], rtol=1e-5)
        assert found.attribution[:, 2].all() and not found.attribution[:, 3:].any()


def test_a_branch_for_the_running_backend():
    """Its functions take no KerasTensors; those of the branch for other backends do, if they compute the same."""

    def doubled(s, x, twice=2.0):
        if keras.config.backend() == "tensorflow":
            return tf.multiply(x, 2.0)
        return x * twice if ops.ndim(x) == 3 else x

    plain = keras.config.backend, keras.backend.backend, ops.ndim
    assert keys(assert_same(model_of(doubled), (1, 6, 4), (5, 6, 4)))[0] == "multiply"
    graph = assert_same(model_of(lambda s, x: doubled(s, x, 3.0)), (1, 6, 4), (5, 6, 4))
    assert keys(graph)[0] == "custom:Own"
    assert plain == (keras.config.backend, keras.backend.backend, ops.ndim)


def test_sizes_that_are_free_in_a_nested_model_are_those_of_where_it_is_used():
    """A model of any length, in one of a fixed length: what its layers inside ask for is known there."""
    anyhow = keras.Input((None, 3))
    h = L.Dense(4)(anyhow)
    inner = keras.Model(anyhow, L.Dense(2)(L.LayerNormalization()(h)))
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, inner(inputs))
    graph = trace(model, facts.is_leaf)
    assert all(None not in spec.shape[1:] for spec in graph.specs.values())


class Looping(L.Layer):
    """One step after the other: how many there are must be a number of Python, so that it is not opened."""

    def call(self, x):
        state, found = ops.zeros_like(x[:, 0]), []
        for t in range(ops.shape(x)[1]):
            state = ops.tanh(x[:, t] + 0.5 * state)
            found.append(state)
        return ops.stack(found, axis=1), None

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_what_a_layer_might_give_besides_is_no_output():
    """It returns (y, None); Keras is told of one output."""
    anyhow = keras.Input((None, 3))
    inner = keras.Model(anyhow, Looping()(L.Dense(4)(anyhow)))
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(inner(inputs))))
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    found = innv_ext.create_analyzer("gradient", model).analyze(x, 1)
    with tf.GradientTape() as tape:
        t = tf.constant(x)
        tape.watch(t)
        score = tf.reduce_sum(model(t)[:, 1])
    np.testing.assert_allclose(found, tape.gradient(score, t), rtol=1e-4, atol=1e-6)


def test_constants_in_front_of_tensors():
    """A choice by a constant, a constant to the power of x, a constant times x: none of them is an input."""
    rng = np.random.default_rng(0)
    choice, matrix = rng.uniform(size=(3, 3)) > 0.5, rng.normal(size=(3, 3)).astype("float32")

    class Constants(L.Layer):
        def call(self, x):
            chosen = ops.where(ops.convert_to_tensor(choice), x, 0.5 * x)
            return ops.power(ops.convert_to_tensor(1.5), chosen) + ops.matmul(ops.convert_to_tensor(matrix), x)

    inputs, mask = keras.Input((3, 3)), keras.Input((3,), dtype="int32")
    closed = ops.where(ops.convert_to_tensor(choice), ops.cast(mask, "float32")[:, None], 1.0)
    h = Constants()(inputs) * closed
    model = keras.Model([inputs, mask], L.Dense(2)(L.Flatten()(h)))
    x = [rng.normal(size=(2, 3, 3)).astype("float32"), np.ones((2, 3), "int32")]
    found = innv_ext.create_analyzer("deep_lift", model).explain(x, 1)
    assert found.extras["completeness_error"].max() < 1e-4
    gradient = innv_ext.create_analyzer("gradient", model).analyze(x, 1)[0]
    with tf.GradientTape() as tape:
        t = tf.constant(x[0])
        tape.watch(t)
        score = tf.reduce_sum(model([t, tf.constant(x[1])])[:, 1])
    np.testing.assert_allclose(gradient, tape.gradient(score, t), rtol=1e-4, atol=1e-6)
