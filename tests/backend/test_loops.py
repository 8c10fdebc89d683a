"""Recurrent layers as loops: what the graph computes, what it holds, and what stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from innv_ext.backend import facts, passes, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.loops import Loop, everywhere
from innv_ext.backend.masks import mask_of, masked
from innv_ext.backend.tracing import trace

STEPS = 5


@keras.saving.register_keras_serializable("test_loops")
class Minimal(L.Layer):
    """A cell as the documentation of Keras has it, with two states."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units, self.state_size = units, [units, units]

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, x, states):
        h, slow = states
        new = ops.tanh(ops.matmul(x, self.kernel) + ops.matmul(h, self.recurrent))
        slow = 0.5 * (slow + new)
        return new - slow, [new, slow]


class Counting(Minimal):
    """A cell that counts its calls."""

    def build(self, shape):
        super().build(shape)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, states):
        self.calls.assign(self.calls + 1.0)
        return super().call(x, states)


class Foreign(Minimal):
    """A cell that no KerasTensor goes through."""

    def call(self, x, states):
        return super().call(ops.convert_to_tensor(np.asarray(x)), states)


def randomised(model):
    rng = np.random.default_rng(1)
    for v in model.variables:
        if "seed" not in v.path:
            v.assign(rng.uniform(-1, 1, v.shape))
    return model


def opened(model, batchnorm="linear"):
    return passes.canonical(trace(model, facts.is_leaf), passes.Form(batchnorm, loops=True))


def kinds(graph):
    return {node.kind for node, _ in everywhere(graph)}


def assert_same(model, *xs, tolerance=1e-5):
    """The opened graph computes what the model does; returns it."""
    graph = opened(model)
    assert Kind.LOOP in kinds(graph) and Kind.RECURRENT not in kinds(graph), [n.note for n in graph.nodes]
    expected = keras.tree.flatten(model(list(xs) if len(xs) > 1 else xs[0], training=False))
    received = walk.evaluate(graph, [ops.convert_to_tensor(x) for x in xs])
    for e, r in zip(expected, received, strict=True):
        np.testing.assert_allclose(np.asarray(r), np.asarray(e), rtol=0, atol=tolerance)
    return graph


def sequence(*shape, batch=3, dtype="float32"):
    return np.random.default_rng(0).normal(size=(batch, STEPS, *shape)).astype(dtype)


LAYERS = {
    "lstm": lambda **o: L.LSTM(3, **o),
    "gru": lambda **o: L.GRU(3, **o),
    "simple": lambda **o: L.SimpleRNN(3, **o),
    "own cell": lambda **o: L.RNN(Minimal(3), **o),
    "stacked": lambda **o: L.RNN([L.LSTMCell(2), Minimal(4), L.GRUCell(3)], **o),
}
OPTIONS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_state": True},
    "both": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True, "return_state": True},
    "unrolled": {"unroll": True, "return_sequences": True},
}
VARIANTS = {
    "before": lambda: L.GRU(3, reset_after=False),
    "gru 1": lambda: _first(L.GRU(3)),
    "lstm 1": lambda: _first(L.LSTM(3)),
    "no bias": lambda: L.LSTM(3, use_bias=False),
    "no bias in a gru": lambda: L.GRU(3, use_bias=False),
    "relu": lambda: L.LSTM(3, activation="relu"),
    "hard gates": lambda: L.LSTM(3, recurrent_activation="hard_sigmoid"),
    "linear": lambda: L.SimpleRNN(3, activation=None),
    "own function": lambda: L.SimpleRNN(3, activation=lambda x: ops.tanh(x) * 0.5),
    "dropout": lambda: L.LSTM(3, dropout=0.3, recurrent_dropout=0.3),
    "simple dropout": lambda: L.SimpleRNN(3, dropout=0.3, recurrent_dropout=0.3),
}


def _first(layer):
    layer.cell.implementation = 1
    return layer


def combinations():
    for number, layer in enumerate(LAYERS):
        for other, option in enumerate(OPTIONS):
            rare = (number + other) % 3 != 0 and layer != "lstm"
            yield pytest.param(layer, option, marks=[pytest.mark.slow] if rare else [])


@pytest.mark.parametrize(("layer", "option"), list(combinations()))
def test_every_option_computes_what_the_layer_does(layer, option):
    x = keras.Input((STEPS, 2))
    assert_same(randomised(keras.Model(x, LAYERS[layer](**OPTIONS[option])(x))), sequence(2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_what_the_layer_does(variant):
    x = keras.Input((STEPS, 2))
    assert_same(randomised(keras.Model(x, VARIANTS[variant]()(x))), sequence(2))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("layer", ["lstm", "own cell"])
@pytest.mark.parametrize("option", ["last", "both", "backwards", "unrolled"])
def test_masked_steps(layer, option, zeros):
    """Masks at the start, inside and at the end; the initial states are no zeros, so that keeping them shows."""
    x, mask = keras.Input((STEPS, 2)), keras.Input((STEPS,), dtype="bool")
    states = [keras.Input((3,)) for _ in range(2)]
    made = LAYERS[layer](**OPTIONS[option])
    made.zero_output_for_mask = zeros
    model = randomised(keras.Model([x, mask, *states], made(x, mask=mask, initial_state=states)))
    masks = np.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 0, 0]], "bool")
    start = [np.random.default_rng(i).normal(size=(3, 3)).astype("float32") for i in range(2)]
    assert_same(model, sequence(2), masks, *start)


@pytest.mark.parametrize("masking", ["embedding", "masking"])
def test_masks_of_layers_reach_the_loop_and_what_comes_behind(masking):
    if masking == "embedding":
        x, source = keras.Input((STEPS,), dtype="int32"), L.Embedding(5, 3, mask_zero=True)
        data = np.array([[1, 2, 0, 0, 0], [0, 3, 4, 0, 1], [1, 1, 2, 4, 3]], "int32")
    else:
        x, source = keras.Input((STEPS, 2)), L.Masking()
        data = sequence(2) * np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1]])[..., None]
    h = L.Bidirectional(L.LSTM(2, return_sequences=True))(source(x))
    h = L.GRU(3, return_sequences=True)(h)
    model = randomised(keras.Model(x, [L.GlobalAveragePooling1D()(h), L.SimpleRNN(2, go_backwards=True)(h)]))
    assert_same(model, data.astype(x.dtype))


@pytest.mark.parametrize("backwards", [False, True])
def test_a_mask_that_the_tensor_carries_counts_too(backwards):
    """As newer Keras hands masks to its layers; whether they hand them on (3.16 does not) says ``supports_masking``."""
    x = keras.Input((STEPS, 2))
    layer = L.GRU(3, go_backwards=backwards, return_sequences=True)
    graph = opened(randomised(keras.Model(x, layer(x))))
    masks = ops.convert_to_tensor(np.array([[0, 1, 1, 0, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], "bool"))
    y = walk.evaluate(graph, [masked(ops.convert_to_tensor(sequence(2)), masks)])[0]
    np.testing.assert_allclose(np.asarray(y), np.asarray(layer(sequence(2), mask=masks)), atol=1e-6)
    assert np.array_equal(mask_of(y), masks) if layer.supports_masking else mask_of(y) is None


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("sequences", [False, True])
def test_both_ways(mode, sequences):
    x = keras.Input((STEPS, 2))
    layer = L.Bidirectional(L.LSTM(3, return_sequences=sequences, return_state=True), merge_mode=mode)
    assert_same(randomised(keras.Model(x, list(layer(x)))), sequence(2))
    states = [keras.Input((3,)) for _ in range(4)]
    layer = L.Bidirectional(L.LSTM(3, return_sequences=sequences), merge_mode=mode)
    model = randomised(keras.Model([x, *states], layer(x, initial_state=states)))
    assert_same(model, sequence(2), *(np.full((3, 3), 0.3 * i, "float32") for i in range(4)))


@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("option", [{}, {"padding": "same", "return_sequences": True, "return_state": True}])
def test_convolutional_loops(rank, option):
    x = keras.Input((STEPS, *(4,) * rank, 2))
    layer = getattr(L, f"ConvLSTM{rank}D")(3, 2, **option)
    graph = assert_same(randomised(keras.Model(x, layer(x))), sequence(*(4,) * rank, 2))
    joint = [n for n, _ in everywhere(graph) if n.kind is Kind.AFFINE]
    assert len(joint) == 4 and all(op_key(n.op) == "conv" for n in joint)  # of x and h together


def test_a_free_number_of_steps():
    x = keras.Input((None, 2))
    model = randomised(keras.Model(x, L.GRU(3)(L.Bidirectional(L.LSTM(2, return_sequences=True))(x))))
    graph = assert_same(model, sequence(2))
    for steps in (1, 9):
        data = np.random.default_rng(0).normal(size=(2, steps, 2)).astype("float32")
        found = walk.evaluate(graph, [ops.convert_to_tensor(data)])[0]
        np.testing.assert_allclose(np.asarray(found), np.asarray(model(data)), atol=1e-5)


def test_frames_inside_and_around():
    x = keras.Input((2, STEPS, 3))
    h = L.TimeDistributed(L.LSTM(2, return_sequences=True))(x)
    model = randomised(keras.Model(x, L.SimpleRNN(2)(L.TimeDistributed(L.Flatten())(h))))
    assert_same(model, np.random.default_rng(0).normal(size=(3, 2, STEPS, 3)).astype("float32"))


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_policies(policy):
    wide = "float64" if policy == "float64" else "float32"
    x = keras.Input((STEPS, 2), dtype=wide)
    options = {"dtype": policy, "recurrent_initializer": "ones"}  # the default one is not made in bfloat16
    layers = [L.LSTM(3, return_sequences=True, **options), L.GRU(2, **options)]
    model = randomised(keras.Model(x, layers[1](layers[0](x))))
    assert_same(model, sequence(2, dtype=wide), tolerance=1e-12 if policy == "float64" else 3e-2)


def test_cells_are_opened_too():
    x, states = keras.Input((2,)), [keras.Input((3,)) for _ in range(3)]
    h, new = L.LSTMCell(3)(x, states[:2])
    y, _ = L.GRUCell(3)(h, [states[2]])
    model = randomised(keras.Model([x, *states], [y, *new]))
    xs = [np.random.default_rng(i).normal(size=(2, n)).astype("float32") for i, n in enumerate((2, 3, 3, 3))]
    graph = opened(model)
    assert Kind.RECURRENT not in kinds(graph) and Kind.LOOP not in kinds(graph)
    for e, r in zip(keras.tree.flatten(model(xs)), walk.evaluate(graph, xs), strict=True):
        np.testing.assert_allclose(np.asarray(r), np.asarray(e), atol=1e-6)


# --- what is in the graph ---------------------------------------------------------------------------------------------


def test_the_graph_does_not_grow_with_the_steps():
    def nodes(steps):
        x = keras.Input((steps, 2))
        return [(n.name, n.kind) for n, _ in everywhere(opened(keras.Model(x, L.LSTM(3, name="lstm")(x))))]

    assert nodes(3) == nodes(300)


def test_sums_are_joint_and_gates_are_seen():
    """One affine node for each gate, of [x, h]; the states of a ReLU are known not to be negative."""
    x = keras.Input((STEPS, 2))
    graph = opened(keras.Model(x, L.SimpleRNN(2, "relu", name="top")(L.LSTM(3, return_sequences=True, name="low")(x))))
    loops = {n.name: n for n, _ in everywhere(graph) if n.kind is Kind.LOOP}
    low, top = loops["low"].call.body, loops["top"].call.body
    affine = [n for n in low.nodes if n.kind is Kind.AFFINE]
    assert len(affine) == 4 and {tuple(n.call.kernel().shape) for n in affine} == {(5, 3)}
    assert all(n.first for n in affine) and not any(n.first for n in top.nodes)
    gates = {s for n in low.nodes if op_key(n.op) == "sigmoid" for s in n.outputs}
    for product in (n for n in low.nodes if n.kind is Kind.PRODUCT):
        assert [product.inputs[i] in gates for i in product.signal] == [False]
    (join,) = (n for n in top.nodes if op_key(n.op) == "concatenate")
    assert join.nonnegative == (False, True)
    assert {n.layers[0] for n, _ in everywhere(graph)} == {"low", "top"}
    assert {n.position for n, _ in everywhere(graph)} == {1, 2}
    assert graph.specs[graph.layer_slots["low"]].shape == (None, STEPS, 3)


def test_a_state_that_starts_below_zero_is_not_taken_for_positive():
    x, h = keras.Input((STEPS, 2)), keras.Input((2,))
    graph = opened(keras.Model([x, h], L.SimpleRNN(2, "relu")(x, initial_state=h)))
    (join,) = (n for n, _ in everywhere(graph) if op_key(n.op) == "concatenate")
    assert join.nonnegative == (False, False)


class Half(Minimal):
    """A cell that reads the value of a weight."""

    def call(self, x, states):
        return super().call(x * ops.convert_to_tensor(self.kernel.value)[0, 0], states)


@pytest.mark.parametrize("name", ["gru", "before", "lstm 1"])
def test_weights_and_their_parts_are_read_when_the_graph_is_run(name):
    """A GRU cuts its bias in two in every step."""
    x = keras.Input((STEPS, 2))
    model = randomised(keras.Model(x, {**LAYERS, **VARIANTS}[name]()(x)))
    graph = assert_same(model, sequence(2))
    assert graph.made_of == ()
    for v in model.variables:
        v.assign(-0.7 * v)
    np.testing.assert_allclose(walk.evaluate(graph, [sequence(2)])[0], model(sequence(2)), atol=1e-6)


def test_values_that_the_graph_holds_are_known():
    """If that variable changes, the graph is stale."""
    x, cell = keras.Input((STEPS, 2)), Half(3)
    graph = assert_same(randomised(keras.Model(x, L.RNN(cell)(x))), sequence(2))
    assert [v is cell.kernel for v in graph.made_of] == [True]


# --- what stays as it was ---------------------------------------------------------------------------------------------


def stays(layer, *inputs):
    found = opened(keras.Model(list(inputs), layer(*inputs))).nodes[0]
    assert found.kind is Kind.RECURRENT and not isinstance(found.call, Loop)
    return found.note


def test_layers_that_cannot_be_opened_stay_with_a_note():
    x = keras.Input((STEPS, 2))
    cell = Counting(3)
    assert "changes the variable 'calls'" in stays(L.RNN(cell), x)
    assert float(cell.calls) == 0
    assert "KerasTensor" in stays(L.RNN(Foreign(3)), x)
    fixed = keras.Input(batch_shape=(2, STEPS, 2))
    assert "keeps its states" in stays(L.LSTM(3, stateful=True), fixed)


def test_nothing_is_opened_unless_asked_for_and_the_layer_is_left_as_it_was():
    x = keras.Input((STEPS, 2))
    layer = L.SimpleRNN(3, dropout=0.2)
    model = keras.Model(x, layer(x))
    before = {**vars(layer), **vars(layer.cell)}
    assert [n.kind for n in passes.canonical(trace(model, facts.is_leaf)).nodes] == [Kind.RECURRENT]
    opened(model)
    after = {**vars(layer), **vars(layer.cell)}
    assert before.keys() == after.keys() and all(after[k] is before[k] for k in before)
    assert "assign" not in vars(Minimal) and keras.Variable.assign.__name__ == "assign"
