"""LRP, Deep Taylor, guided backprop and gradients through recurrent layers, by formulas and unrolled models."""

import warnings
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import InvalidInputError, NoRuleError, UnsupportedModelError
from innv_ext.rules import Flat, Kind, Rules, ZPlus, both, kind_is, named

STEPS, UNITS, WIDTH, EPSILON = 4, 3, 2, 1e-3


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def randomised(model, scale=0.8):
    rng = np.random.default_rng(1)
    for v in model.variables:
        v.assign(rng.normal(size=v.shape) * scale)
    return model


def explain(name, model, x, neuron=0, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return innv_ext.create_analyzer(name, model, **parameters).analyze(x, neuron)


def close(found, expected, tolerance=1e-9):
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))


@pytest.fixture(autouse=True)
def double():
    with zoo.precision("float64"):
        yield


# --- the formulas, step by step in numpy ------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def stable(z, epsilon):
    return z + epsilon * np.where(z < 0, -1, 1)


def linear(inputs, weights, z, r):
    """R_x = x * ((R / st(z)) W^T) of several inputs of one sum."""
    s = r / stable(z, EPSILON)
    return [x * (s @ w.T) for x, w in zip(inputs, weights, strict=True)]


def shares(a, b, r):
    """Of a sum of two signals."""
    return a * r / (a + b), b * r / (a + b)


class Lstm:
    def __init__(self, layer, gate):
        cell, self.part = layer.cell, 1.0 if gate == "signal" else 0.5
        self.w, self.u = (np.split(np.asarray(k), 4, axis=1) for k in (cell.kernel, cell.recurrent_kernel))
        self.b = np.split(np.asarray(cell.bias), 4)

    def forward(self, x, state):
        h, c = state
        pre = [x @ w + h @ u + b for w, u, b in zip(self.w, self.u, self.b, strict=True)]
        i, f, o = (sigmoid(pre[k]) for k in (0, 1, 3))
        g = np.tanh(pre[2])
        new = f * c + i * g
        return [o * np.tanh(new), new], (x, h, c, pre, i, f, g)

    def backward(self, values, rs):
        x, h, c, pre, i, f, g = values
        r_h, r_c = rs
        to_pre = [0.0] * 4
        to_pre[3] = (1 - self.part) * r_h
        kept, added = shares(f * c, i * g, r_c + self.part * r_h)
        to_pre[0], to_pre[1], to_pre[2] = (1 - self.part) * added, (1 - self.part) * kept, self.part * added
        found = [linear((x, h), (w, u), z, r) for w, u, z, r in zip(self.w, self.u, pre, to_pre, strict=True)]
        r_x, r_before = (sum(parts) for parts in zip(*found, strict=True))
        return r_x, [r_before, self.part * kept]


class Gru:
    def __init__(self, layer, gate):
        cell, self.part, self.after = layer.cell, 1.0 if gate == "signal" else 0.5, layer.reset_after
        self.w, self.u = (np.split(np.asarray(k), 3, axis=1) for k in (cell.kernel, cell.recurrent_kernel))
        bias = np.asarray(cell.bias)
        self.b, self.c = (np.split(b, 3) for b in (bias if self.after else (bias, 0 * bias)))

    def forward(self, x, state):
        (h,) = state
        pre = [x @ self.w[k] + self.b[k] + h @ self.u[k] + self.c[k] for k in (0, 1)]
        z, r = map(sigmoid, pre)
        inner = h @ self.u[2] + self.c[2]
        q = x @ self.w[2] + self.b[2] + (r * inner if self.after else (r * h) @ self.u[2])
        n = np.tanh(q)
        return [z * h + (1 - z) * n], (x, h, pre, z, r, inner, q, n)

    def backward(self, values, rs):
        x, h, pre, z, r, inner, q, n = values
        other = 1 - self.part
        kept, new = shares(z * h, (1 - z) * n, rs[0])
        to_z, r_before = other * (kept + new), self.part * kept
        if self.after:
            r_x, r_gated = linear((x, r * inner), (self.w[2], np.eye(UNITS)), q, self.part * new)
            r_before = r_before + linear((h,), (self.u[2],), inner, self.part * r_gated)[0]
        else:
            r_x, r_gated = linear((x, r * h), (self.w[2], self.u[2]), q, self.part * new)
            r_before = r_before + self.part * r_gated
        for k, to in ((0, to_z), (1, other * r_gated)):
            more = linear((x, h), (self.w[k], self.u[k]), pre[k], to)
            r_x, r_before = r_x + more[0], r_before + more[1]
        return r_x, [r_before]


class Simple:
    def __init__(self, layer, gate):
        self.w, self.u, self.b = map(np.asarray, (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias))

    def forward(self, x, state):
        z = x @ self.w + state[0] @ self.u + self.b
        return [np.tanh(z)], (x, state[0], z)

    def backward(self, values, rs):
        x, h, z = values
        r_x, r_h = linear((x, h), (self.w, self.u), z, rs[0])
        return r_x, [r_h]


def slow(twin, x, states, head, mask=None):
    """Relevance of x and of the initial states, by a loop over steps; ``head`` is (W, b) behind the last output."""
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    state, steps = states, []
    for t in range(x.shape[1]):
        new, values = twin.forward(x[:, t], state)
        state = [np.where(mask[:, t, None], a, b) for a, b in zip(new, state, strict=True)]
        steps.append(values)
    w, b = head
    logits = state[0] @ w + b
    seed = np.zeros_like(logits)
    seed[:, 0] = logits[:, 0]
    rs = [linear((state[0],), (w,), logits, seed)[0], *(np.zeros_like(s) for s in state[1:])]
    found = np.zeros_like(x)
    for t in reversed(range(x.shape[1])):
        on = mask[:, t, None]
        r_x, before = twin.backward(steps[t], [np.where(on, r, 0) for r in rs])
        found[:, t] = np.where(on, r_x, 0)
        rs = [np.where(on, a, b) for a, b in zip(before, rs, strict=True)]
    return [found, *rs]


LAYERS = {
    "lstm": (partial(L.LSTM, UNITS), 2, Lstm),
    "gru": (partial(L.GRU, UNITS), 1, Gru),
    "gru, reset before": (partial(L.GRU, UNITS, reset_after=False), 1, Gru),
    "simple": (partial(L.SimpleRNN, UNITS), 1, Simple),
}


def formulas():
    for name in LAYERS:
        for masked, gate in ((False, "signal"), (False, "half"), (True, "signal"), (True, "half")):
            quick = (name, masked) in (("lstm", True), ("gru", False)) or (name, gate) == ("simple", "half")
            yield pytest.param(name, masked, gate, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "masked", "gate"), list(formulas()))
def test_lrp_follows_the_formulas(name, masked, gate):
    make, count, twin = LAYERS[name]
    layer, head = make(), L.Dense(2)
    x, states = keras.Input((STEPS, WIDTH)), [keras.Input((UNITS,)) for _ in range(count)]
    mask = keras.Input((STEPS,), dtype="bool")
    y = layer(x, initial_state=states, mask=mask if masked else None)
    model = randomised(keras.Model([x, *states, *([mask] if masked else [])], head(y)))
    xs = [data(3, STEPS, WIDTH), *(data(3, UNITS, seed=1 + i) for i in range(count))]
    masks = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], "bool")
    expected = slow(twin(layer, gate), xs[0], xs[1:], map(np.asarray, head.weights), masks if masked else None)
    found = explain("lrp.epsilon", model, [*xs, *([masks] if masked else [])], epsilon=EPSILON, gate=gate)
    close(found[: count + 1], expected)
    if masked:
        assert np.all(found[0][~masks] == 0) and not np.any(found[-1])


# --- an unrolled model has the same map -------------------------------------------------------------------------------


def rolled_and_unrolled(make, count, activation="tanh", **options):
    """A recurrent layer with a head, and its cell step by step; the initial states are inputs of both."""
    layer, head = make(activation=activation, **options), L.Dense(2)

    def inputs():
        return [keras.Input((STEPS, WIDTH)), *(keras.Input((UNITS,)) for _ in range(count))]

    rolled = inputs()
    model = randomised(keras.Model(rolled, head(layer(rolled[0], initial_state=rolled[1:]))))
    unrolled = inputs()
    states = unrolled[1:]
    for t in range(STEPS):
        y, states = layer.cell(unrolled[0][:, t], states)
    return model, keras.Model(unrolled, head(y))


RULES = {
    "lrp.epsilon": {"epsilon": 0.1},
    "lrp.alpha_2_beta_1": {},
    "lrp.w_square": {"gate": "half"},
    "lrp.z_plus": {},
    "lrp.alpha_1_beta_0_IB": {},
    "lrp.gamma": {},
    "lrp.flat": {},
    "lrp.z": {"batchnorm": "fold"},
    "lrp": {"rule": "z", "until_layer": -2, "until_layer_rule": "w_square"},
}


def cases():
    for layer in LAYERS:
        for number, (name, parameters) in enumerate(RULES.items()):
            quick = number < {"lstm": 3, "gru": 2}.get(layer, 0)
            yield pytest.param(layer, name, parameters, marks=[] if quick else pytest.mark.slow, id=f"{layer} {name}")


@pytest.mark.parametrize(("layer", "name", "parameters"), list(cases()))
def test_unrolled_models_have_the_same_maps(layer, name, parameters):
    make, count, _ = LAYERS[layer]
    models = rolled_and_unrolled(make, count)
    xs = [data(3, STEPS, WIDTH), *(data(3, UNITS, seed=1 + i) for i in range(count))]
    first, second = (explain(name, model, xs, **parameters) for model in models)
    close(first, second)
    assert np.abs(first[0]).max() > 1e-6


def unrolled_outputs(layer, x, mask, states):
    """What a recurrent layer puts out, its cell called step by step."""
    found, y = [], ops.zeros_like(states[0])
    for t in reversed(range(STEPS)) if layer.go_backwards else range(STEPS):
        new, after = layer.cell(x[:, t], states)
        if mask is not None:
            counts = mask[:, t, None]
            new, after = ops.where(counts, new, y), [ops.where(counts, a, b) for a, b in zip(after, states)]
        y, states = new, after
        found.append(y)
    outputs = [ops.stack(found, axis=1) if layer.return_sequences else y]
    return [*outputs, *(states if layer.return_state else [])]


OPTIONS = ["go_backwards", "return_sequences", "return_state", "mask"]
COMBINED = [[o for i, o in enumerate(OPTIONS) if number >> i & 1] for number in range(16)]
COMBINED = [o if len(o) == 4 else pytest.param(o, marks=pytest.mark.slow) for o in COMBINED]


@pytest.mark.parametrize("layer", [pytest.param(n, marks=[] if n == "gru" else pytest.mark.slow) for n in LAYERS])
@pytest.mark.parametrize("options", COMBINED, ids="-".join)
def test_every_option_is_that_of_the_unrolled_model(layer, options):
    make, count, _ = LAYERS[layer]
    rnn, head = make(**{o: True for o in options if o != "mask"}), L.Dense(2)

    def model(run):
        x, states = keras.Input((STEPS, WIDTH)), [keras.Input((UNITS,)) for _ in range(count)]
        mask = keras.Input((STEPS,), dtype="bool") if "mask" in options else None
        flat = [ops.reshape(y, (-1, int(np.prod(y.shape[1:])))) for y in run(x, mask, states)]
        return keras.Model([x, *states, *([] if mask is None else [mask])], head(ops.concatenate(flat, axis=-1)))

    def rolled(x, mask, states):
        return keras.tree.flatten(rnn(x, mask=mask, initial_state=states))

    models = randomised(model(rolled)), model(lambda *given: unrolled_outputs(rnn, *given))
    xs = [data(3, STEPS, WIDTH), *(data(3, UNITS, seed=1 + i) for i in range(count))]
    if "mask" in options:
        xs.append(np.random.default_rng(4).random((3, STEPS)) < 0.6)
    first, second = (explain("lrp.epsilon", model, xs, epsilon=0.1) for model in models)
    close(first, second)
    assert np.abs(first[0]).max() > 1e-6


@pytest.mark.parametrize("name", ["deep_taylor", "guided_backprop", "deconvnet"])
def test_methods_of_relu_networks_look_into_the_loop(name):
    models = rolled_and_unrolled(*LAYERS["simple"][:2], activation="relu")
    xs = [data(3, STEPS, WIDTH), np.abs(data(3, UNITS, seed=1))]
    first, second = (explain(name, model, xs) for model in models)
    close(first, second)
    assert np.abs(first[0]).max() > 1e-6
    if name == "guided_backprop":
        assert np.abs(first[0] - explain("gradient", models[0], xs)[0]).max() > 1e-3


def test_deep_taylor_conserves_through_a_relu_loop():
    x = keras.Input((STEPS, WIDTH))
    h = L.SimpleRNN(UNITS, "relu", use_bias=False, return_sequences=True)(L.Dense(3, "relu", use_bias=False)(x))
    y = L.Dense(2, use_bias=False)(L.SimpleRNN(UNITS, "relu", use_bias=False)(h))
    model, x = randomised(keras.Model(x, y)), data(6, STEPS, WIDTH)
    found = innv_ext.create_analyzer("deep_taylor", model, neuron_selection_mode="max_activation").explain(x)
    alive = found.extras["score"] > 0
    assert alive.any() and (found.attribution >= 0).all()
    # what the zeros that it starts with would take is 0, as nothing is positive about them
    np.testing.assert_allclose(found.extras["sum"][alive], found.extras["score"][alive], rtol=1e-9)


def test_deep_taylor_and_guided_backprop_refuse_gates_by_name():
    x = keras.Input((STEPS, WIDTH))
    model = keras.Model(x, L.Dense(2)(L.LSTM(UNITS, name="memory")(x)))
    with pytest.raises(UnsupportedModelError, match="memory/sigmoid"):
        innv_ext.create_analyzer("deep_taylor", model)
    with pytest.raises(UnsupportedModelError, match="sigmoid, tanh"):
        innv_ext.create_analyzer("guided_backprop", model)


# --- sums of affine maps ----------------------------------------------------------------------------------------------


class Summing(L.Layer):
    """x W + b + h, or convolutions of both."""

    def __init__(self, kind, **options):
        super().__init__(**options)
        self.kind, self.state_size = kind, UNITS

    def build(self, shape):
        self.bias = self.add_weight(shape=(UNITS,), name="bias")
        size = (2,) if self.kind == "conv" else ()
        self.kernel = self.add_weight(shape=(*size, shape[-1], UNITS), name="kernel")
        self.recurrent = self.add_weight(shape=(*size, UNITS, UNITS), name="recurrent")

    def get_initial_state(self, batch_size):
        return ops.zeros((batch_size, 3, UNITS) if self.kind == "conv" else (batch_size, UNITS))

    def call(self, x, states):
        if self.kind == "conv":
            x, h = ops.conv(x, self.kernel, padding="same"), ops.conv(states[0], self.recurrent, padding="same")
        else:
            x, h = ops.matmul(x, self.kernel), states[0]
        y = x + self.bias + h
        return ops.sum(y, axis=1) if self.kind == "conv" else y, [states[0]]


SUMS = [("dense", "lrp.alpha_2_beta_1"), ("dense", "lrp.w_square"), ("conv", "lrp.gamma"), ("conv", "lrp.flat")]


@pytest.mark.parametrize(("kind", "name"), SUMS)
def test_a_sum_in_a_cell_is_one_affine_map_to_every_rule(kind, name):
    """That of a layer on [x, h]; what is only added has the unit matrix for weights."""
    shape = (3,) if kind == "conv" else ()
    x, h = keras.Input((1, *shape, WIDTH)), keras.Input((*shape, UNITS))
    cell, head = Summing(kind), L.Dense(2)
    y = L.RNN(cell)(x, initial_state=h)
    model = randomised(keras.Model([x, h], head(y)))
    layer = L.Conv1D(UNITS, 2, padding="same") if kind == "conv" else L.Dense(UNITS)
    y = layer(ops.concatenate([x[:, 0], h], axis=-1))
    other = keras.Model([x, h], head(ops.sum(y, axis=1) if kind == "conv" else y))
    below = cell.recurrent if kind == "conv" else np.eye(UNITS)
    layer.set_weights([np.concatenate([cell.kernel, below], axis=-2), cell.bias])
    xs = [data(2, 1, *shape, WIDTH), data(2, *shape, UNITS, seed=1)]
    close(explain(name, model, xs), explain(name, other, xs))


# --- properties -------------------------------------------------------------------------------------------------------

NETS = {
    "lstm": lambda: L.LSTM(3, use_bias=False),
    "gru": lambda: L.GRU(3, use_bias=False),
    "stacked": lambda: L.RNN([L.LSTMCell(2, use_bias=False), L.GRUCell(3, use_bias=False)]),
    "both ways": lambda: L.Bidirectional(L.GRU(3, use_bias=False, return_sequences=True), merge_mode="ave"),
    "convolutions": lambda: L.ConvLSTM1D(2, 2, use_bias=False),
}


@pytest.mark.parametrize("net", [*list(NETS)[2:], *(pytest.param(n, marks=pytest.mark.slow) for n in list(NETS)[:2])])
def test_nothing_is_lost_without_biases(net):
    """With epsilon -> 0 and states that start with zeros all of the score arrives."""
    shape = (STEPS, WIDTH, 1) if net == "convolutions" else (STEPS, WIDTH)
    x = keras.Input(shape)
    y = L.Dense(2, use_bias=False)(L.Flatten()(NETS[net]()(x)))
    found = innv_ext.create_analyzer("lrp.z", randomised(keras.Model(x, y))).explain(data(3, *shape))
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-8)


@pytest.mark.parametrize("mode", ["ave", *(pytest.param(m, marks=pytest.mark.slow) for m in ("concat", "sum", "mul"))])
def test_both_ways_is_a_layer_each_way(mode):
    """Against a model that turns the sequence itself."""
    x = keras.Input((STEPS, WIDTH))
    layer, head = L.Bidirectional(L.LSTM(UNITS, return_sequences=True), merge_mode=mode), L.Dense(2)
    model = randomised(keras.Model(x, head(L.Flatten()(layer(x)))))
    ways = L.LSTM(UNITS, return_sequences=True), L.LSTM(UNITS, return_sequences=True)
    a, b = ways[0](x), ops.flip(ways[1](ops.flip(x, axis=1)), axis=1)
    merged = {
        "concat": lambda: ops.concatenate([a, b], axis=-1),
        "sum": lambda: a + b,
        "mul": lambda: a * b,
        "ave": lambda: L.Average()([a, b]),
    }[mode]()
    other = keras.Model(x, head(L.Flatten()(merged)))
    for way, half in zip(ways, (layer.forward_layer, layer.backward_layer), strict=True):
        way.set_weights(half.get_weights())
    x = data(2, STEPS, WIDTH)
    close(explain("lrp.epsilon", model, x), explain("lrp.epsilon", other, x))


def test_stacked_cells_are_stacked_layers():
    cells, x = [L.LSTMCell(2), L.GRUCell(3)], keras.Input((STEPS, WIDTH))
    head = L.Dense(2)
    stacked = randomised(keras.Model(x, head(L.RNN(cells)(x))))
    layers = keras.Model(x, head(L.RNN(cells[1])(L.RNN(cells[0], return_sequences=True)(x))))
    x = data(2, STEPS, WIDTH)
    close(explain("lrp.epsilon", stacked, x), explain("lrp.epsilon", layers, x))


@keras.saving.register_keras_serializable("test_recurrent")
class Own(L.Layer):
    """A user's cell: a leaky unit with a ReLU."""

    state_size = UNITS

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = L.Dense(UNITS, "relu", name="inner")

    def build(self, shape):
        self.inner.build((None, shape[-1] + UNITS))

    def call(self, x, states):
        h = 0.5 * states[0] + self.inner(ops.concatenate([x, states[0]], axis=-1))
        return h, [h]


def test_a_cell_of_a_user():
    x, h, cell, head = keras.Input((STEPS, WIDTH)), keras.Input((UNITS,)), Own(), L.Dense(2)
    model = randomised(keras.Model([x, h], head(L.RNN(cell, name="leaky")(x, initial_state=h))))
    y, states = None, [h]
    for t in range(STEPS):
        step = ops.concatenate([x[:, t], states[0]], axis=-1)
        y = 0.5 * states[0] + cell.inner(step)
        states = [y]
    unrolled, xs = keras.Model([x, h], head(y)), [data(2, STEPS, WIDTH), data(2, UNITS)]
    for name in ("lrp.epsilon", "guided_backprop"):
        close(explain(name, model, xs), explain(name, unrolled, xs), 1e-5 if name == "lrp.epsilon" else 1e-9)
    assert "leaky/inner" in str(innv_ext.create_analyzer("lrp.epsilon", model))


def test_padding_gets_nothing():
    x = keras.Input((STEPS, WIDTH))
    masked = L.Masking()(x)
    y = L.Dense(2)(L.Bidirectional(L.SimpleRNN(UNITS))(L.GRU(UNITS, return_sequences=True)(masked)))
    model, x = randomised(keras.Model(x, y)), data(2, STEPS, WIDTH)
    x[0, 2:] = 0
    for name in ("lrp.epsilon", "gradient"):
        found = explain(name, model, x)
        assert np.all(found[0, 2:] == 0) and np.all(found[0, :2] != 0) and np.all(found[1] != 0)


@pytest.mark.parametrize("walks", [False, True])
def test_the_gradient_is_that_of_the_layer(walks):
    """By the pullback of the layer, and by a walk through the loop."""
    x, mask = keras.Input((STEPS, WIDTH)), keras.Input((STEPS,), dtype="bool")
    h = L.LSTM(UNITS, return_sequences=True, go_backwards=True)(x, mask=mask)
    model = randomised(keras.Model([x, mask], L.Dense(2)(L.GRU(UNITS)(h))))
    values = tf.constant(data(3, STEPS, WIDTH))
    masks = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], "bool")
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = model([values, tf.constant(masks)])[:, 1]
    analyzer = innv_ext.ReverseAnalyzer(model) if walks else innv_ext.create_analyzer("gradient", model)
    close(analyzer.analyze([np.asarray(values), masks], 1)[0], np.asarray(tape.gradient(y, values)))
    assert ("one step" in analyzer.summary()) == walks


@pytest.mark.parametrize("zeros", [False, True])
def test_what_masked_steps_put_out_belongs_to_the_step_that_they_repeat(zeros):
    """Of a sum over all outputs; zeros are of nobody."""
    x, mask = keras.Input((STEPS, WIDTH)), keras.Input((STEPS,), dtype="bool")
    layer = L.SimpleRNN(UNITS, return_sequences=True, zero_output_for_mask=zeros)
    head = L.Dense(2)
    model = randomised(keras.Model([x, mask], head(ops.reshape(layer(x, mask=mask), (-1, STEPS * UNITS)))))
    y = layer(x)
    again = [ops.zeros_like(y[:, 0])] * 2 if zeros else [y[:, 0], y[:, 1]]
    other = keras.Model(x, head(ops.concatenate([y[:, 0], again[0], y[:, 1], again[1]], axis=-1)))
    values, masks = data(2, STEPS, WIDTH), np.array([[1, 0, 1, 0]] * 2, "bool")
    shorter = np.concatenate([values[:, ::2], values[:, 1::2]], axis=1)  # the steps that count come first
    found = explain("lrp.epsilon", model, [values, masks])[0]
    close(found[:, ::2], explain("lrp.epsilon", other, shorter)[:, :2])
    assert not np.any(found[:, 1::2])


@pytest.mark.slow
def test_the_map_can_be_differentiated():
    """What attacks on explanations need, against a difference."""
    x = keras.Input((STEPS, WIDTH))
    model = randomised(keras.Model(x, L.Dense(2)(L.GRU(UNITS)(L.LSTM(UNITS, return_sequences=True)(x)))))
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model, epsilon=0.01)
    x, weights, step = data(2, STEPS, WIDTH), data(2, STEPS, WIDTH, seed=1), 1e-5 * data(2, STEPS, WIDTH, seed=2)

    @tf.function(autograph=False)
    def total(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(weights * analyzer.walk([x], tf.zeros(2, tf.int32), "index")["attributions"][0])
        return y, tape.gradient(y, x)

    (up, _), (down, _), (_, slope) = (total(tf.constant(x + sign * step)) for sign in (1, -1, 0))
    np.testing.assert_allclose(np.sum(slope * step), (up - down) / 2, rtol=1e-6)


# --- DeepLIFT ---------------------------------------------------------------------------------------------------------


def test_deep_lift_through_a_loop_is_that_of_the_unrolled_model():
    """Complete to rounding, which the mean over points between x and the reference is not."""
    models = rolled_and_unrolled(*LAYERS["lstm"][:2])
    xs = [data(3, STEPS, WIDTH), *(data(3, UNITS, seed=1 + i) for i in range(2))]
    first, second = (
        innv_ext.create_analyzer("deep_lift", model, reference_inputs=[0.3, -0.2, 0.1]).explain(xs, 0)
        for model in models
    )
    close(first.attribution, second.attribution)
    assert np.abs(first.extras["completeness_error"]).max() < 1e-9
    cancels = innv_ext.create_analyzer("deep_lift", models[0], rule="reveal_cancel").explain(xs, 0)
    assert np.abs(cancels.extras["completeness_error"]).max() < 1e-4


@pytest.mark.parametrize("reference", [pytest.param(0, marks=pytest.mark.slow), 0.4])
def test_deep_lift_with_masks(reference):
    """Steps that x alone keeps, or the reference too; a reference of zeros is masked altogether."""
    x = keras.Input((STEPS, WIDTH))
    y = L.Dense(2)(L.GRU(UNITS)(L.SimpleRNN(UNITS, return_sequences=True)(L.Masking()(x))))
    model, x = randomised(keras.Model(x, y)), data(2, STEPS, WIDTH)
    x[0, 2:] = 0
    found = innv_ext.create_analyzer("deep_lift", model, reference_inputs=reference).explain(x, 0)
    assert np.abs(found.extras["completeness_error"]).max() < 1e-9
    if not reference:
        assert not np.any(found.attribution[0, 2:])


# --- bounds, padding, names -------------------------------------------------------------------------------------------


INPUT_RULES = {
    "z^B": ("lrp", {"rule": "z", "input_layer_rule": (-4.0, 3.0)}),
    "z^B of each step": ("lrp.epsilon_gamma_box", {"low": -4 - np.ones((2, WIDTH)).cumsum(0), "high": 4.0}),
    "flat": ("lrp.sequential_preset_a_flat", {}),
    "deep taylor": ("deep_taylor.bounded", {"low": -4.0, "high": 3.0}),
}


@pytest.mark.parametrize("case", INPUT_RULES)
def test_padding_and_bounds_in_front_of_a_loop(case):
    """Padded zeros are no inputs, and bounds of the input are carried into every step."""
    name, parameters = INPUT_RULES[case]
    layer, head = L.SimpleRNN(UNITS, "relu"), L.Dense(2)

    def nets():
        x = keras.Input((2, WIDTH))
        padded = L.ZeroPadding1D(1)(L.Rescaling(0.5, 0.1)(x))
        yield keras.Model(x, head(layer(padded)))
        states = [ops.zeros_like(ops.matmul(padded[:, 0], np.zeros((WIDTH, UNITS))))]
        for t in range(4):
            y, states = layer.cell(padded[:, t], states)
        yield keras.Model(x, head(y))

    models, x = list(nets()), data(2, 2, WIDTH)
    randomised(models[0])
    head.kernel.assign(np.abs(head.kernel) + 1)  # Deep Taylor explains positive scores
    first, second = (explain(name, model, x, None, **parameters) for model in models)
    close(first, second)
    assert np.abs(first).max() > 1e-6


def test_bounds_that_fit_no_sample_are_refused():
    x = keras.Input((STEPS, WIDTH))
    model = keras.Model(x, L.Dense(2)(L.GRU(UNITS)(x)))
    with pytest.raises(InvalidInputError, match="low"):
        innv_ext.create_analyzer("lrp", model, input_layer_rule=(np.zeros(5), np.ones(5)))


def test_rules_by_name_reach_into_the_loop():
    x = keras.Input((STEPS, WIDTH))
    h = L.LSTM(UNITS, return_sequences=True, name="low")(x)
    model, x = randomised(keras.Model(x, L.Dense(2)(L.LSTM(UNITS, name="top")(h)))), data(2, STEPS, WIDTH)
    plain = explain("lrp.epsilon", model, x)
    table = Rules((named("low"), ZPlus()))
    changed = explain("lrp.epsilon", model, x, rules=table)
    close(changed, explain("lrp.epsilon", model, x, until_layer="low", until_layer_rule=ZPlus()))
    close(changed, explain("lrp.epsilon", model, x, until_layer=1, until_layer_rule=ZPlus()))
    assert np.abs(plain - changed).max() > 1e-3
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model, rules=Rules((named("low"), Flat())))
    assert str(analyzer).count("Flat()\n") == 4 and {"low", "top"} <= set(analyzer.layer_names())
    found = analyzer.explain(x, 0, return_layers=["low"])
    assert found.extras["layers"]["low"].shape == (2, STEPS, UNITS)


def test_a_rule_of_a_whole_loop():
    """A row that names the kind takes the loop itself; the outputs are those of all steps, then come the states."""
    seen = []

    def rule(node, xs, ys, rs):
        seen.extend([tuple(y.shape) for y in ys])
        return node.pullback(*rs)

    x = keras.Input((STEPS, WIDTH))
    model, x = randomised(keras.Model(x, L.Dense(2)(L.LSTM(UNITS, name="memory")(x)))), data(2, STEPS, WIDTH)
    own = Rules((both(kind_is(Kind.LOOP), named("memory")), rule))
    found = explain("lrp.epsilon", model, x, rules=own)
    assert {shape[1:] for shape in seen} == {(STEPS, UNITS)} and len(seen) == 3
    assert np.abs(found - explain("lrp.epsilon", model, x)).max() > 1e-3


class Ranked(Own):
    def call(self, x, states):
        return super().call(ops.cumprod(x, axis=-1), states)


def test_nodes_without_a_rule_are_named_inside_the_loop():
    x = keras.Input((STEPS, WIDTH))
    model = keras.Model(x, L.Dense(2)(L.RNN(Ranked(), name="ranked")(x)))
    with pytest.raises(NoRuleError, match="ranked/cumprod"):
        innv_ext.create_analyzer("lrp.epsilon", model)
    with pytest.warns(innv_ext.errors.ApproximationWarning, match="ranked/cumprod"):
        innv_ext.create_analyzer("lrp.epsilon", model, unsupported="gradient").analyze(data(2, STEPS, WIDTH))


def test_changed_weights_count():
    """A graph that holds parts of a variable is made anew, others read their weights when they are run."""
    x = keras.Input((STEPS, WIDTH))
    model, x = randomised(keras.Model(x, L.Dense(2)(L.GRU(UNITS)(x)))), data(2, STEPS, WIDTH)
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
    analyzer.analyze(x, 0)
    for v in model.variables:
        v.assign(-1.5 * v)
    close(analyzer.analyze(x, 0), explain("lrp.epsilon", model, x))


def test_half_precision_is_finite():
    x = keras.Input((STEPS, WIDTH), dtype="float32")
    options = {"dtype": "mixed_float16", "return_sequences": True}
    h = L.GRU(UNITS, **options)(L.LSTM(UNITS, **options)(x))
    model = randomised(keras.Model(x, L.Dense(2, dtype="mixed_float16")(L.Flatten()(h))), 0.3)
    x = data(2, STEPS, WIDTH).astype("float32") * 1e-3
    found = explain("lrp.epsilon", model, x)
    assert np.isfinite(found).all() and np.abs(found).max() > 0 and found.dtype == "float32"
