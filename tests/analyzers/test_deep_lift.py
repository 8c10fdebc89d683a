"""DeepLIFT and DeepSHAP: closed forms, a dense twin with loops written from the paper, the sum on every model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import twins
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops, tree

import innv_ext
from innv_ext.analyzers import registry
from innv_ext.analyzers.core.background import random_subset
from innv_ext.analyzers.deep_lift.deep_lift import DeepLift
from innv_ext.analyzers.deep_lift.deep_shap import DeepShap
from innv_ext.analyzers.gradient.averaged import IntegratedGradients
from innv_ext.backend.predicates import anything, named
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError, NotFittedError, SaveError, UnsupportedModelError

RULES = ("rescale", "reveal_cancel")
F64 = {"dtype": "float64"}


def lift(model, **params):
    return DeepLift(model, progress=False, **params)


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def total(attribution):
    return sum(a.reshape(len(a), -1).sum(axis=1) for a in tree.flatten(attribution))


def close(a, b, rtol=1e-9):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


# --- the sum -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::innv_ext.errors.ClosedMaskWarning")  # the reference is all padding
@pytest.mark.parametrize("model", zoo.thinned(zoo.MODELS))
def test_sum_of_every_model(model):
    """f_c(x) - f_c(x0), in float32; the rules take turns, and both meet every model in float64 below."""
    rule = RULES[zoo.MODELS.index(model) % 2]
    sample = zoo.make(model)
    x = sample.inputs(3)
    found = lift(sample.model, rule=rule, **sample.params).explain(x)
    tree.assert_same_structure(found.attribution, x)
    for a, v in zip(tree.flatten(found.attribution), tree.flatten(x), strict=True):
        assert a.shape == v.shape and a.dtype == np.float32 and np.isfinite(a).all()
    score, start = found.extras["score"].astype(float), found.extras["reference_score"].astype(float)
    assert np.abs(score - start).max() > 1e-3
    size = np.maximum(np.abs(score - start), 0.01 * np.maximum(np.abs(score), np.abs(start)))
    assert (np.abs(total(found.attribution) - (score - start)) <= 1e-4 * size).all()
    assert (found.extras["completeness_error"] <= 1e-4).all()
    origin = tree.map_structure(np.zeros_like, x)
    at_zero = zoo.create("gradient", sample.model, **sample.params).explain(origin).output
    close(start, at_zero.reshape(3, -1)[np.arange(3), found.target], 1e-4)


PIECEWISE = ("convnet", "shared", "bn_preactivation", "operators", "segmentation")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", PIECEWISE)
def test_sum_of_piecewise_linear_models(model, rule):
    sample = zoo.make(model, "float64")
    found = lift(sample.model, rule=rule, **sample.params).explain(sample.inputs(4))
    assert (found.extras["completeness_error"] <= 1e-9).all()


def both(i):
    return L.Dense(4)(i), L.Dense(4)(i)


class HandWritten(L.Layer):
    def call(self, x):
        return ops.where(x > 0, x, 0.1 * x) + ops.where(x > 0.2, x - 0.2, 0.0)


class HandWrittenBroadcast(L.Layer):
    def call(self, x):
        mean = ops.mean(x, axis=-1, keepdims=True)
        return ops.where(mean > 0, x, x - mean)


NODES = {
    "maximum": lambda i: L.Minimum()([L.Maximum()(both(i)), L.Dense(4)(i)]),
    "broadcast_maximum": lambda i: ops.maximum(L.Dense(1)(i), L.Dense(4)(i)),
    "reduce_max": lambda i: ops.max(ops.reshape(L.Dense(6)(i), (-1, 2, 3)), axis=2),
    "reduce_min": lambda i: ops.min(ops.reshape(L.Dense(6)(i), (-1, 2, 3)), axis=1),
    "product": lambda i: L.Multiply()(both(i)),
    "broadcast_product": lambda i: L.Dense(1)(i) * L.Dense(4)(i),
    "three_factors": lambda i: L.Multiply()([*both(i), L.Dense(4)(i)]),
    "square": lambda i: L.Multiply()([i, i]),
    "dot": lambda i: L.Dot(-1)(both(i)),
    "cosine": lambda i: L.Dot(-1, normalize=True)(both(i)),
    "quotient": lambda i: L.Dense(4)(i) / (2 + ops.sigmoid(L.Dense(4)(i))),
    "softmax": lambda i: L.Softmax()(L.Dense(4)(i)),
    "norm": lambda i: L.LayerNormalization()(L.Dense(4)(i)),
    "floor": lambda i: ops.floor(3 * L.Dense(4)(i)),
    "split": lambda i: ops.multiply(*ops.split(L.Dense(4)(i), 2, axis=-1)),
    "subtract": lambda i: ops.relu(L.Subtract()([L.Dense(4, activation="relu")(i), L.Dense(4, activation="relu")(i)])),
    "scaled_negatively": lambda i: ops.relu(1.0 - 2 * L.Dense(4, activation="relu")(i)),
    "unfolded_norm": lambda i: L.ReLU()(L.BatchNormalization()(L.Add()([i, L.Dense(3, activation="relu")(i)]))),
    "stop_gradient": lambda i: ops.stop_gradient(L.Dense(4)(i)) + L.Dense(4)(i),
    "where": lambda i: HandWritten()(L.Dense(4)(i)),
    "gelu": lambda i: ops.gelu(L.Dense(4)(i)),
    "padded": lambda i: ops.relu(ops.pad(L.Dense(3, activation="relu")(i), [[0, 0], [1, 1]], constant_values=3.0)),
}


@pytest.mark.parametrize("name", NODES)
def test_sum_of_single_nodes(name):
    model = zoo.build(lambda i: L.Dense(2)(NODES[name](i)), (3,))
    x = data(5, 3, seed=1)
    for rule in RULES:
        analyzer = lift(model, rule=rule, reference_inputs=0.3)
        found = analyzer.explain(x)
        close(found.extras["reference_score"], np.asarray(model(np.full((5, 3), 0.3)))[np.arange(5), found.target])
        smooth = name in ("cosine", "softmax", "norm", "quotient")
        assert (found.extras["completeness_error"] <= (1e-6 if smooth else 1e-9)).all()
        close(analyzer.analyze(x[2:3]), found.attribution[2:3])


@pytest.mark.filterwarnings("ignore::innv_ext.errors.ApproximationWarning")
def test_more_steps_are_more_exact():
    model = zoo.build(lambda i: L.Dense(2)(ops.softmax(8 * L.Dense(4)(i))), (3,))
    x = data(6, 3, seed=1)
    errors = [lift(model, steps=k).explain(x).extras["completeness_error"].max() for k in (1, 8, 64)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_linear_models_are_exact(rule):
    """(x - x0) w, through convolution, batch normalisation, pooling and sums."""

    def function(i):
        y = L.BatchNormalization()(L.Conv2D(3, 2)(i))
        y = L.Flatten()(L.AveragePooling2D(2)(L.Add()([y, L.Conv2D(3, 2)(i)])))
        return L.Dense(2)(y)

    model = zoo.build(function, (5, 5, 2))
    w, _ = twins.matrix_of(model, (5, 5, 2))
    x, x0 = data(4, 5, 5, 2), data(5, 5, 2, seed=1)
    found = lift(model, rule=rule, reference_inputs=x0).analyze(x, 1)
    close(found, (x - x0) * w[:, 1].reshape(5, 5, 2))


def hidden_layer(activation="relu"):
    """(model, W, b, v): v . activation(x W + b)."""
    model = zoo.build(lambda i: L.Dense(1)(L.Dense(6, activation=activation)(i)), (4,), seed=3)
    W, b, v, _ = model.get_weights()
    return model, W, b, v[:, 0]


@pytest.mark.parametrize(("activation", "f"), [("relu", twins.pos), ("tanh", np.tanh)])
def test_one_hidden_layer(activation, f):
    """Rescale: sum_j v_j (f(z_j) - f(z0_j)) / (z_j - z0_j) w_ij (x_i - x0_i)."""
    model, W, b, v = hidden_layer(activation)
    x, x0 = data(5, 4), data(4, seed=1)
    z, z0 = x @ W + b, x0 @ W + b
    close(lift(model, reference_inputs=x0).analyze(x), (x - x0) * ((v * (f(z) - f(z0)) / (z - z0)) @ W.T))


def test_path_average_of_an_activation_is_rescale():
    """Integrated gradients within one elementwise node."""
    for activation, rtol in (("tanh", 1e-9), ("relu", 0.2)):
        model = hidden_layer(activation)[0]
        x, x0 = data(5, 4), data(4, seed=1)
        close(
            IntegratedGradients(model, reference_inputs=x0, steps=20).analyze(x),
            lift(model, reference_inputs=x0).analyze(x),
            rtol,
        )


@pytest.mark.parametrize("relu", ["none", "before"])
def test_max_pooling_by_hand(relu):
    """y - y0 goes to the winner of whichever of the two is larger, also when a ReLU feeds the pool."""
    i = keras.Input((4, 1), **F64)
    y = L.ReLU(**F64)(i) if relu == "before" else i
    model = keras.Model(i, ops.sum(L.MaxPooling1D(2, **F64)(y), axis=1))
    x, x0 = np.array([[1.0, 5, -3, 2]])[..., None], np.array([4.0, -1, 3, -2])[:, None]
    found = lift(model, reference_inputs=x0).analyze(x)
    close(found[0, :, 0], [0, 5 - 4, 2 - 3, 0])


def test_overlapping_pools_share_their_winner():
    """Windows (0, 1), (1, 2): the middle wins both at x; 7 - 3 and 7 - 2."""
    i = keras.Input((3, 1), **F64)
    model = keras.Model(i, ops.sum(L.MaxPooling1D(2, strides=1, **F64)(i), axis=1))
    found = lift(model, reference_inputs=np.array([3.0, 1, 2])[:, None]).analyze(np.array([[[0.0], [7], [1]]]))
    close(found[0, :, 0], [0, 4 + 5, 0])


def test_minimum_by_hand():
    """min(a, b): x = (1, 4) is ahead of the reference (5, 3) downwards, by a; the other way round, by the reference."""
    a, b = keras.Input((1,), **F64), keras.Input((1,), **F64)
    model = keras.Model([a, b], L.Minimum(**F64)([a, b]))
    one, five = [np.array([[v]]) for v in (1.0, 4.0)], [np.array([[v]]) for v in (5.0, 3.0)]
    for x, x0, expected in ((one, five, [1 - 3, 0]), (five, one, [3 - 1, 0])):
        found = lift(model, reference_inputs=x0).analyze(x)
        close([v[0, 0] for v in found], expected)


def test_product_by_hand():
    """Half of the interaction to either factor: (a - a0) (b + b0) / 2."""
    a, b = keras.Input((3,), **F64), keras.Input((1,), **F64)
    model = keras.Model([a, b], ops.sum(a * b, axis=1, keepdims=True))
    x, x0 = [data(4, 3), data(4, 1, seed=1)], [data(3, seed=2), data(1, seed=3)]
    found = lift(model, reference_inputs=x0).analyze(x)
    close(found[0], (x[0] - x0[0]) * (x[1] + x0[1]) / 2)
    close(found[1], (x[1] - x0[1]) * (x[0] + x0[0]).sum(axis=1, keepdims=True) / 2)


def test_switch_by_hand():
    """where(x > 0, x, x / 10) is a leaky ReLU, whose Rescale slope is known; equal signs have the slope of a branch."""

    class Leaky(L.Layer):
        def call(self, x):
            return ops.where(x > 0, x, 0.1 * x)

    i = keras.Input((4,), **F64)
    model = keras.Model(i, Leaky(**F64)(i))
    x, x0 = np.array([[3.0, 2, -1, -4]]), np.array([-1.0, 1, 2, -2])
    found = lift(model, reference_inputs=x0, neuron_selection_mode="all").analyze(x)
    close(found, [[3.1, 1, -2.1, -0.2]])
    model = zoo.build(lambda i: L.Dense(2)(HandWrittenBroadcast()(i)), (3,))
    found = lift(model).explain(data(6, 3))
    same = np.sign(data(6, 3).mean(axis=1)) < 0  # the reference takes the branch of means <= 0
    assert same.any() and (found.extras["completeness_error"][same] <= 1e-9).all()


# --- RevealCancel ------------------------------------------------------------------------------------------------


def minimum_net():
    """o = min(i1, i2), written as i1 - relu(i1 - i2): figure 4 of the paper."""
    i = keras.Input((2,), **F64)
    difference = L.Dense(1, use_bias=False, activation="relu", **F64)
    first = L.Dense(1, use_bias=False, **F64)
    model = keras.Model(i, L.Subtract(**F64)([first(i), difference(i)]))
    difference.set_weights([np.array([[1.0], [-1]])])
    first.set_weights([np.array([[1.0], [0]])])
    return model


def test_minimum_of_two_inputs():
    """Rescale credits the smaller input alone, RevealCancel both alike."""
    x = np.array([[10.0, 6], [6, 10], [3, 3]])
    close(lift(minimum_net()).analyze(x)[:2], [[0, 6], [6, 0]])
    close(lift(minimum_net(), rule="reveal_cancel").analyze(x), [[3, 3], [3, 3], [1.5, 1.5]])


def slope(dy, dx, derivative):
    return dy / dx if dx else derivative


def twin(x, x0, weights, f, df, c, rule):
    """Contributions in a dense net, one sample, one loop per index, from section 3.5 of the paper."""
    states, a, a0 = [], x, x0
    for k, (W, b) in enumerate(weights):
        z, z0 = a @ W + b, a0 @ W + b
        plus, minus = np.zeros(len(b)), np.zeros(len(b))
        for j in range(len(b)):
            for i in range(len(a)):
                part = W[i, j] * (a[i] - a0[i])
                plus[j] += max(part, 0)
                minus[j] += min(part, 0)
        states.append((a - a0, z, z0, plus, minus))
        a, a0 = (f(z), f(z0)) if k + 1 < len(weights) else (z, z0)
    up, down = np.eye(len(a))[c], np.eye(len(a))[c]  # multipliers of both parts of z
    for k in reversed(range(len(weights))):
        change, z, z0, plus, minus = states[k]
        if k + 1 < len(weights):
            for j in range(len(z)):
                if rule == "rescale":
                    up[j] = down[j] = up[j] * (f(z[j]) - f(z0[j])) / (z[j] - z0[j])
                else:
                    o, p, n, t = z0[j], z0[j] + plus[j], z0[j] + minus[j], z[j]
                    up[j] *= slope((f(p) - f(o) + f(t) - f(n)) / 2, plus[j], (df(o) + df(n)) / 2)
                    down[j] *= slope((f(n) - f(o) + f(t) - f(p)) / 2, minus[j], (df(o) + df(p)) / 2)
        W = weights[k][0]
        m = np.zeros(len(W))
        for i in range(len(W)):
            for j in range(W.shape[1]):
                sign = W[i, j] * change[i]
                m[i] += W[i, j] * (up[j] if sign > 0 else down[j] if sign < 0 else (up[j] + down[j]) / 2)
        up, down = m.copy(), m.copy()
    return m * change


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("activation", "f", "df"),
    [("relu", twins.pos, lambda z: float(z > 0)), ("tanh", np.tanh, lambda z: 1 - np.tanh(z) ** 2)],
)
def test_dense_net_equals_the_loops(rule, activation, f, df):
    model = zoo.build(
        lambda i: L.Dense(3)(L.Dense(5, activation=activation)(L.Dense(6, activation=activation)(i))), (4,), seed=7
    )
    flat = model.get_weights()
    weights = list(zip(flat[::2], flat[1::2], strict=True))
    x, x0 = data(6, 4), data(4, seed=1)
    x[0, 1] = x0[1]  # no difference: half to either side
    found = lift(model, rule=rule, reference_inputs=x0).explain(x)
    expected = [twin(v, x0, weights, f, df, c, rule) for v, c in zip(x, found.target, strict=True)]
    close(found.attribution, expected)


def pick(i, weights):
    """A dense layer with these weights (inputs x outputs)."""
    layer = L.Dense(len(weights[0]), use_bias=False, **F64)
    y = layer(i)
    layer.set_weights([np.array(weights, "float64")])
    return y


def normalised(y):
    """Times -1, by a normalisation without an affine neighbour of its own."""
    norm = L.BatchNormalization(epsilon=0, **F64)
    y = norm(L.Reshape((1,), **F64)(y))
    norm.set_weights([np.array([v]) for v in (-1.0, 0, 0, 1)])
    return y


def padded(y):
    return ops.pad(y, [[0, 0], [1, 1]], constant_values=2.0)


DIFFERENCES = {  # i1 - i2 as a sum of two parts
    "scaled": lambda i: L.Add(**F64)([pick(i, [[1], [0]]), pick(i, [[0], [2]]) * -0.5]),
    "subtracted": lambda i: L.Subtract(**F64)([pick(i, [[1], [0]]), pick(i, [[0], [1]])]),
    "minuend": lambda i: 3.0 - L.Subtract(**F64)([pick(i, [[0], [1]]), pick(i, [[1], [0]])]) - 3.0,
    "normalised": lambda i: L.Add(**F64)([pick(i, [[1], [0]]), normalised(pick(i, [[0], [1]]))]),
    "averaged": lambda i: 2 * L.Average(**F64)([pick(i, [[1], [0]]), pick(i, [[0], [-1]])]),
    "padded": lambda i: ops.sum(padded(i * np.array([[1.0, -1.0]])), axis=1, keepdims=True) - 4.0,
}


@pytest.mark.parametrize("way", DIFFERENCES)
def test_parts_pass_through_linear_nodes(way):
    """min(i1, i2) again: its halves are found only if i1 and i2 reach the ReLU as separate parts."""
    i = keras.Input((2,), **F64)
    model = keras.Model(i, L.Subtract(**F64)([pick(i, [[1], [0]]), L.ReLU(**F64)(DIFFERENCES[way](i))]))
    x = np.array([[10.0, 6], [6, 10]])
    close(np.asarray(model(x))[:, 0], [6, 6])
    close(lift(model, rule="reveal_cancel").analyze(x), [[3, 3], [3, 3]])


def test_deep_nets_stay_complete_in_single_precision():
    """Parts must not grow from layer to layer."""
    i = y = keras.Input((64,))
    for _ in range(8):
        y = L.Dense(64, activation="relu", kernel_initializer="he_normal")(y)
    found = lift(keras.Model(i, L.Dense(1)(y)), rule="reveal_cancel").explain(data(4, 64).astype("float32"))
    assert (found.extras["completeness_error"] <= 1e-3).all()


# --- rounding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu", "selu", "relu"])
def test_close_points_in_single_precision(activation, rule):
    """The slope of a difference near rounding is exact to four digits, on smooth functions and across kinks."""
    i = keras.Input((1,))
    model = keras.Model(i, L.Activation(activation)(i))
    exact = keras.Model(j := keras.Input((1,), **F64), L.Activation(activation, **F64)(j))
    analyzer = lift(model, rule=rule)
    # at 0 TensorFlow's selu itself is off by 1e-7
    for start, steps, atol in ((0.7, 10.0 ** np.arange(-7, 1), 0), (-1e-6, 10.0 ** np.arange(-5, 1), 2e-7)):
        x0 = np.float32(start)
        x = (x0 + steps.astype("float32")).astype("float32")[:, None]
        analyzer.reference_inputs = x0
        found = analyzer.analyze(x)[:, 0].astype(float)
        wide, origin = x.astype(float), np.full_like(x, x0, dtype=float)
        expected = (np.asarray(exact(wide)) - np.asarray(exact(origin)))[:, 0]
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=atol)


def test_equal_points_have_zero_contributions_and_finite_multipliers():
    """Where nothing changes the derivative counts, but not an infinite one (square root at 0)."""
    model = zoo.build(lambda i: L.Dense(2)(ops.concatenate([ops.sqrt(ops.abs(i)), ops.tanh(i)], axis=-1)), (3,))
    x = np.array([[0.0, 0, 0], [1, 0, 0]])
    found = lift(model).explain(x)
    assert np.isfinite(found.attribution).all() and (found.attribution[0] == 0).all()
    assert found.attribution[1, 0] != 0 and (found.extras["completeness_error"] < 1e-9).all()


# --- the interface -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def convnet():
    sample = zoo.make("convnet", "float64")
    return sample.model, sample.inputs(7)


@pytest.fixture(scope="module")
def shap_references():
    return zoo.make("convnet", "float64").inputs(5, seed=9)


@pytest.fixture(scope="module")
def any_reference(convnet):
    """(analyzer per rule, logits); the reference is changed between calls."""
    return {rule: lift(convnet[0], rule=rule) for rule in RULES}, innv_ext.model_wo_softmax(convnet[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(RULES), st.floats(0.01, 100))
def test_sum_for_any_point_and_reference(any_reference, seed, rule, scale):
    analyzer, logits = any_reference[0][rule], any_reference[1]
    rng = np.random.default_rng(seed)
    analyzer.reference_inputs = scale * rng.normal(size=(6, 6, 2))
    found = analyzer.explain(scale * rng.normal(size=(2, 6, 6, 2)))
    close(found.extras["reference_score"], np.asarray(logits(analyzer.reference_inputs[None]))[0][found.target])
    assert (found.extras["completeness_error"] <= 1e-9).all()


@pytest.mark.traced
@pytest.mark.parametrize("rule", RULES)
def test_batches_don_t_matter_and_one_trace_serves_all(convnet, rule):
    model, x = convnet
    analyzer = lift(model, rule=rule, reference_inputs=0.1)
    expected = analyzer.analyze(x)
    for size in (1, 2, 7):
        close(analyzer.analyze(x, batch_size=size), expected)
    order = np.random.default_rng(1).permutation(7)
    close(analyzer.analyze(x[order]), expected[order])
    assert [c.traces for c in analyzer._compiled.values()] == [1]


@pytest.mark.parametrize("rule", RULES)
def test_layers_and_trace(convnet, rule):
    """Contributions of every layer sum to the same; nothing is lost on the way."""
    model, x = convnet
    found = lift(model, rule=rule).explain(x, return_layers=True, trace=True)
    difference = found.extras["score"] - found.extras["reference_score"]
    layers = found.extras["layers"]
    assert set(layers) == {layer.name for layer in model.layers[1:]}
    for layer in model.layers[1:]:
        assert layers[layer.name].shape == (7, *layer.output.shape[1:])
        close(total(layers[layer.name]), difference)
    for left in found.extras["conservation"].values():
        close(left, np.ones(7))
    close(layers[model.layers[-1].name][np.arange(7), found.target], difference)


def test_selection_of_neurons(convnet):
    """The same neuron at x and at the reference; linear in the output; functions of the outputs are complete too."""
    model, x = convnet
    analyzer = lift(model)
    maps = [analyzer.analyze(x, c) for c in range(3)]
    found = analyzer.explain(x)
    close(found.attribution, np.stack(maps, axis=1)[np.arange(7), found.target])
    close(analyzer.analyze(x, "all"), sum(maps))
    curved = lift(model, neuron_selection_mode=lambda y: ops.logsumexp(y, axis=1) * y[:, 0]).explain(x)
    assert (curved.extras["completeness_error"] <= 1e-9).all() and (curved.target == -1).all()
    logits = np.asarray(innv_ext.model_wo_softmax(model)(np.zeros((1, 6, 6, 2))))[0]
    close(curved.extras["reference_score"], np.full(7, np.log(np.exp(logits).sum()) * logits[0]))


def test_references_of_several_inputs_and_tokens():
    sample = zoo.make("dict_inputs", "float64")
    x = sample.inputs(3)
    x0 = {"table": data(4), "image": data(1, 6, 6, 1)}
    found = lift(sample.model, reference_inputs=x0).explain(x)
    at_x0 = {"image": x0["image"], "table": x0["table"][None]}
    logits = np.asarray(innv_ext.model_wo_softmax(sample.model)(at_x0))[0]
    close(found.extras["reference_score"], logits[found.target])
    close(total(found.attribution), found.extras["score"] - found.extras["reference_score"])
    sample = zoo.make("tokens", "float64")
    x = sample.inputs(3)
    found = lift(sample.model, reference_inputs=4).explain(x)
    close(found.extras["reference_score"], np.asarray(sample.model(np.full((1, 6), 4)))[0][found.target])
    assert (found.attribution[x == 4] == 0).all() and (found.attribution[x != 4] != 0).any()


def test_mean_of_the_data_as_reference(convnet):
    """One pass over arrays or batches; the same as passing the mean."""
    model, x = convnet
    X = data(50, 6, 6, 2) + 100
    with pytest.raises(NotFittedError, match="reference_inputs="):
        lift(model, reference_inputs=None).analyze(x)
    analyzer = lift(model, reference_inputs=None)
    assert analyzer.fit(X, batch_size=7) is analyzer
    close(analyzer.analyze(x), lift(model, reference_inputs=X.mean(axis=0)).analyze(x))
    analyzer.fit(X[i : i + 20] - 7 for i in range(0, 50, 20))
    close(analyzer.reference([(6, 6, 2)])[0][0], X.mean(axis=0) - 7)
    with pytest.raises(InvalidInputError, match="NaN"):
        analyzer.fit(np.full_like(X, np.nan))
    close(analyzer.reference([(6, 6, 2)])[0][0], X.mean(axis=0) - 7)
    given = lift(model)
    assert given.fit(X) is given and (given.reference([(6, 6, 2)])[0] == 0).all()


def test_weights_are_read_when_it_runs(convnet):
    model, x = convnet
    analyzer, weights = lift(model), model.get_weights()
    before = analyzer.analyze(x)
    try:
        model.set_weights([1.3 * w + 0.05 for w in weights])
        close(analyzer.analyze(x), lift(model).analyze(x))
        assert not np.allclose(analyzer.analyze(x), before)
    finally:
        model.set_weights(weights)


def test_rules_of_the_user(convnet):
    """They go first, see both points, and under RevealCancel the whole difference."""
    model, x = convnet
    name, seen = model.layers[1].name, []

    def gated(node, xs, x0s, ys, y0s, rs):
        seen.append((node.name, len(xs), len(x0s), len(ys), len(y0s)))
        return [m * 2 for m in node.pullback(*rs)]

    table = Rules((lambda node, graph: named(name)(node, graph) and node.name == name, gated))
    for rule in RULES:
        found = lift(model, rule=rule, rules=table).explain(x, return_layers=[name])
        close(total(found.attribution), 2 * total(found.extras["layers"][name]))
    assert seen == [(name, 1, 1, 1, 1)] * 2
    assert "gated" in str(lift(model, rules=table))


def test_summary_names_every_rule(convnet):
    model, _ = convnet
    lines = str(lift(model)).splitlines()
    assert "softmax cut" in lines[0] and len(lines) == 1 + len(lift(model).graph_.nodes)
    assert sum("rescale" in line for line in lines[1:]) == 2 and sum("winners" in line for line in lines) == 1
    lines = str(lift(model, rule="reveal_cancel")).splitlines()
    assert [sum(rule in line for line in lines) for rule in ("RevealCancel()", "SignedWeights()")] == [2, 3]


# --- DeepSHAP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_deep_shap_is_the_mean_of_deep_lift(convnet, shap_references, rule):
    model, x = convnet
    found = DeepShap(model, references=shap_references, rule=rule, progress=False).explain(x)
    one, lifts = lift(model, rule=rule), []
    for one.reference_inputs in shap_references:
        lifts.append(one.explain(x, found.target))
    close(found.attribution, np.mean([f.attribution for f in lifts], axis=0))
    close(found.extras["reference_score"], np.mean([f.extras["reference_score"] for f in lifts], axis=0))
    close(total(found.attribution), found.extras["score"] - found.extras["reference_score"])
    assert (found.extras["completeness_error"] <= 1e-9).all()


def test_deep_shap_of_a_linear_model():
    """w (x - mean of the references), which are the Shapley values."""
    model = zoo.build(L.Dense(2, **F64), (4,))
    X, x = data(9, 4), data(3, 4, seed=1)
    close(DeepShap(model).fit(X).analyze(x, 1), model.get_weights()[0][:, 1] * (x - X.mean(axis=0)))


@pytest.mark.parametrize("model", ["two_inputs", "masked_lstm", "uint8", "two_outputs"])
def test_deep_shap_of_other_models(model):
    sample = zoo.make(model)
    x = sample.inputs(3)
    found = DeepShap(sample.model, background=4, progress=False, **sample.params).fit(sample.inputs(9, 1)).explain(x)
    assert (found.extras["completeness_error"] <= 1e-4).all()
    tree.assert_same_structure(found.attribution, x)


@pytest.mark.traced
def test_deep_shap_batches(convnet, shap_references):
    """Neither batches of samples nor pairs at once matter, and one trace serves all."""
    model, x = convnet
    analyzer = DeepShap(model, references=shap_references, progress=False)
    expected = analyzer.analyze(x)
    for size in (1, 3, 12, 100):
        close(analyzer.analyze(x, batch_size=size), expected)
    close(analyzer.analyze(x[4:5]), expected[4:5])
    assert [c.traces for c in analyzer._compiled.values()] == [1, 1]
    with pytest.raises(InvalidInputError, match="no relevance per layer"):
        analyzer.analyze(x, return_layers=True)


@pytest.mark.parametrize("size", [2, 6])
def test_batch_size_bounds_the_forward_samples(convnet, shap_references, size):
    model, x = convnet
    seen = []

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    for make in (lift, lambda *a, **k: DeepShap(*a, references=shap_references, progress=False, **k)):
        seen.clear()
        make(model, neuron_selection_mode=counted, batch_size=size).analyze(x)
        assert seen and max(seen) == size


def test_random_subset():
    """Fair, seeded, whatever the batches; all of a small data set."""
    X = np.arange(40.0)[:, None]
    whole = random_subset([[X]], 8, seed=3)[0]
    parts = random_subset([[X[:7]], [X[7:8]], [X[8:]]], 8, seed=3)[0]
    np.testing.assert_array_equal(whole, parts)
    assert len(np.unique(whole)) == 8 and not np.array_equal(whole, random_subset([[X]], 8, seed=4)[0])
    assert sorted(random_subset([[X[:5]]], 8, seed=0)[0][:, 0]) == [0, 1, 2, 3, 4]
    pairs = random_subset([[X[:20], -X[:20]], [X[20:], -X[20:]]], 8, seed=0)
    np.testing.assert_array_equal(pairs[0], -pairs[1])
    draws = np.concatenate([random_subset([[X[:9]], [X[9:]]], 8, seed=s)[0][:, 0] for s in range(500)])
    counts = np.bincount(draws.astype(int), minlength=40)  # 100 expected, standard deviation 9
    assert counts.min() > 60 and counts.max() < 140


def test_deep_shap_fit(convnet):
    model, x = convnet
    X = data(40, 6, 6, 2)
    with pytest.raises(NotFittedError, match="references="):
        DeepShap(model).analyze(x)
    analyzer = DeepShap(model, background=6, seed=2, progress=False)
    assert analyzer.fit(X) is analyzer and analyzer.references_[0].shape == (6, 6, 6, 2)
    first = analyzer.references_[0]
    close(analyzer.analyze(x), DeepShap(model, references=first, progress=False).analyze(x))
    np.testing.assert_array_equal(analyzer.fit(X[i : i + 9] for i in range(0, 40, 9)).references_[0], first)
    analyzer.seed = 3
    assert not np.array_equal(analyzer.fit(X).references_[0], first)
    assert len(analyzer.fit(X, samples=3).references_[0]) == 3
    before = analyzer.references_[0].copy()
    with pytest.raises(InvalidInputError, match="empty"):
        analyzer.fit(X[:0])
    np.testing.assert_array_equal(analyzer.references_[0], before)
    fixed = DeepShap(model, references=X[:2], progress=False)
    np.testing.assert_array_equal(fixed.fit(X).references_[0], X[:2])


# --- saving, errors ----------------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch):
    """Classes that ``load_analyzer`` finds, whether they are listed or not."""
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    for cls in (DeepLift, DeepShap):
        innv_ext.register_analyzer(f"user.{cls.__name__}", cls)


def test_save_and_load(names, tmp_path):
    sample = zoo.make("mlp")
    x, X = sample.inputs(4), sample.inputs(20, seed=1)
    for analyzer in (
        lift(sample.model, rule="reveal_cancel", reference_inputs=X[0], steps=3),
        lift(sample.model, reference_inputs=None).fit(X),
        DeepShap(sample.model, background=5, progress=False).fit(X),
        DeepShap(sample.model, references=X[:3], rule="reveal_cancel", progress=False),
    ):
        analyzer.save(tmp_path / "saved.innv")
        loaded = innv_ext.load_analyzer(tmp_path / "saved.innv")
        assert type(loaded) is type(analyzer) and repr(loaded) == repr(analyzer)
        np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))
    with pytest.raises(SaveError, match="rules"):
        lift(sample.model, rules=Rules((anything, lambda *a: None))).save(tmp_path / "saved.innv")


BAD = {
    "rule": ({"rule": "linear"}, "rule must be one of 'rescale', 'reveal_cancel'"),
    "rules": ({"rules": [1]}, "rules must be of type Rules or None, got"),
    "steps": ({"steps": 0}, "steps must be an integer"),
    "shape": ({"reference_inputs": np.zeros(5)}, "does not|broadcast to one sample"),
    "nan": ({"reference_inputs": np.nan}, "NaN"),
    "text": ({"reference_inputs": "mean"}, "reference_inputs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters_of_deep_lift(case):
    params, message = BAD[case]
    with pytest.raises(InvalidInputError, match=message):
        lift(zoo.make("mlp").model, **params)


def test_bad_references():
    free, tokens, two = (zoo.make(n) for n in ("free_size", "tokens", "two_inputs"))
    with pytest.raises(InvalidInputError, match="broadcast to one sample"):
        lift(free.model, reference_inputs=np.zeros((3, 3, 2))).analyze(free.inputs(2))
    with pytest.raises(InvalidInputError, match="whole numbers"):
        lift(tokens.model, reference_inputs=0.5)
    with pytest.raises(InvalidInputError, match="number of a token"):
        lift(tokens.model, reference_inputs=None)
    with pytest.raises(InvalidInputError, match="2 inputs"):
        lift(two.model, reference_inputs=[0.0])
    with pytest.raises(InvalidInputError, match="one shape"):
        lift(free.model, reference_inputs=None).fit(np.zeros((2, side, side, 2)) for side in (6, 4))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"background": 0}, "background must be"),
        ({"references": np.zeros((3, 5))}, "references .*shape"),
        ({"references": np.full((3, 6), np.nan)}, "references .*NaN"),
        ({"references": np.zeros((0, 6))}, "references is empty"),
    ],
)
def test_bad_parameters_of_deep_shap(params, message):
    with pytest.raises(InvalidInputError, match=message):
        DeepShap(zoo.make("mlp").model, **params)


def test_bad_shapes_of_free_references():
    free = zoo.make("free_size")
    with pytest.raises(InvalidInputError, match="one shape"):
        DeepShap(free.model).fit(np.zeros((2, side, side, 2)) for side in (6, 4))
    with pytest.raises(InvalidInputError, match=r"\(4, 4, 2\)"):
        DeepShap(free.model, references=np.zeros((1, 4, 4, 2))).analyze(free.inputs(2))


def test_what_cannot_be_differentiated_is_refused():
    i = keras.Input((3,))
    model = keras.Model(i, L.Dense(2)(ops.cast(i > 0, "float32")))
    with pytest.raises(UnsupportedModelError, match="No gradient reaches input 0"):
        lift(model)
