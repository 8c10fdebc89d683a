"""LRP of layer and group normalisation, and of constants that are added, against the steps written out."""

import keras
import numpy as np
import pytest
import twins
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.rules import Flat, LayerNorm, Rules, named

F64 = {"dtype": "float64"}


def randomise(layer, seed=0):
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return layer


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def lrp(outputs, inputs, x, name="lrp.epsilon", **params):
    """LRP of the sum of sin(outputs): R_j = sin(y_j) enters at the node in question, through the sine."""
    model = keras.Model(inputs, ops.sin(outputs))
    return innv_ext.create_analyzer(name, model, neuron_selection_mode="all", **params).analyze(x)


def assert_close(received, expected, tolerance=1e-6):
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def stabilised(z, epsilon):
    return z + epsilon * np.where(z < 0, -1, 1)


def three_steps(x, gamma, beta, offset, axes, epsilon=1e-7, bias=True):
    """y = g n + b and the relevance of x for sin(y): b keeps its share, 1 / std is constant, c = x - mean is linear."""
    c = x - x.mean(axes, keepdims=True)
    n = c / np.sqrt((c**2).mean(axes, keepdims=True) + offset)
    y = gamma * n + beta
    share = np.sin(y) / stabilised(y if bias else gamma * n, epsilon)
    r_c = gamma * n * share
    ratio = r_c / c
    return x * ratio - x * ratio.mean(axes, keepdims=True)


NORMS = {  # layer, shape, axes of the statistics behind ``split``, shape with groups split, axes that gamma lies along
    "last": (L.LayerNormalization, (3, 4), (2,), None, (2,)),
    "not last": (lambda **o: L.LayerNormalization(axis=1, **o), (3, 4), (1,), None, (1,)),
    "several": (lambda **o: L.LayerNormalization(axis=[1, 3], **o), (2, 3, 4), (1, 3), None, (1, 3)),
    "groups": (lambda **o: L.GroupNormalization(2, **o), (3, 4), (1, 3), (3, 2, 2), (2,)),
    "groups first": (lambda **o: L.GroupNormalization(2, axis=1, **o), (4, 3), (2, 3), (2, 2, 3), (1,)),
    "instance": (lambda **o: L.GroupNormalization(-1, **o), (3, 4), (1,), None, (2,)),
}


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}])
@pytest.mark.parametrize("name", NORMS)
def test_normalisation_in_three_steps(name, options):
    make, shape, axes, split, along = NORMS[name]
    x, inputs, layer = data(3, *shape), keras.Input(shape, **F64), make(epsilon=0.1, **options, **F64)
    y = layer(inputs)
    randomise(layer)
    wide = [1] + [d if a in along else 1 for a, d in enumerate(shape, 1)]
    gamma, beta = (1.0 if v is None else np.reshape(v, wide) for v in (layer.gamma, layer.beta))
    beta = 0.0 if layer.beta is None else beta
    split = (3, *(split or shape))
    gamma, beta = (np.broadcast_to(v, x.shape).reshape(split) for v in (gamma, beta))
    expected = three_steps(x.reshape(split), gamma, beta, 0.1, axes).reshape(x.shape)
    assert_close(lrp(y, inputs, x), expected)


def test_normalisation_follows_the_epsilon_and_bias_of_the_rule():
    x, inputs, layer = data(3, 4), keras.Input((4,), **F64), L.LayerNormalization(epsilon=0.1, **F64)
    y = layer(inputs)
    gamma, beta = randomise(layer).get_weights()
    twin = lambda **o: three_steps(x, gamma, beta, 0.1, (1,), **o)
    assert_close(lrp(y, inputs, x, epsilon=0.3), twin(epsilon=0.3))
    assert_close(lrp(y, inputs, x, "lrp.sequential_preset_a", epsilon=0.3), twin(epsilon=0.3))
    assert_close(lrp(y, inputs, x, "lrp.z"), twin(epsilon=0.0))
    assert_close(lrp(y, inputs, x, "lrp.alpha_2_beta_1"), twin())
    for name in ("lrp.z_IB", "lrp.z_plus", "lrp.alpha_1_beta_0_IB"):  # whose denominators have no bias
        conserved = lrp(y, inputs, x, name)
        assert_close(conserved, twin(bias=False, epsilon=0.0 if name == "lrp.z_IB" else 1e-7))
        assert_close(conserved.sum(axis=1), np.sin(ops.convert_to_numpy(y_of(layer, x))).sum(axis=1))
    own = lrp(y, inputs, x, "lrp.z", rules=Rules((named(layer.name), LayerNorm(0.3))))
    assert_close(own, twin(epsilon=0.3))


def y_of(layer, x):
    return layer(ops.convert_to_tensor(x))


def test_normalisation_as_operation_and_written_out():
    """One layer, one operation (with its scale and shift anywhere), and eight operations are one function: one map."""
    x, inputs, layer = data(3, 3, 4), keras.Input((3, 4), **F64), L.LayerNormalization(axis=1, epsilon=0.1, **F64)
    y = layer(inputs)
    gamma, beta = (ops.convert_to_tensor(v) for v in randomise(layer).get_weights())
    centred = inputs - ops.mean(inputs, axis=1, keepdims=True)
    inverse = ops.rsqrt(ops.mean(ops.square(centred), axis=1, keepdims=True) + 0.1)
    column = [ops.reshape(v, (1, 3, 1)) for v in (gamma, beta)]
    expected = lrp(y, inputs, x)
    for other in (
        ops.layer_normalization(inputs, gamma, beta, axis=1, epsilon=0.1),
        ops.layer_normalization(inputs, *column, axis=1, epsilon=0.1),
        ops.layer_normalization(inputs, beta=beta, gamma=gamma, axis=1, epsilon=0.1),
    ):
        assert_close(lrp(other, inputs, x), expected)
    plain = L.LayerNormalization(1, 0.1, center=False, scale=False, **F64)(inputs)
    assert_close(lrp(centred * inverse, inputs, x, "lrp.z"), lrp(plain, inputs, x, "lrp.z"))


def test_a_shift_that_is_computed_has_its_share_and_a_scale_is_a_gate():
    """Adaptive normalisation g(c) n + b(c): b is added like any other signal."""
    xs = [data(3, 2, 4), data(3, 1, 4, seed=1), data(3, 1, 4, seed=2)]
    x, g, b = (keras.Input(v.shape[1:], **F64) for v in xs)
    found = lrp(ops.layer_normalization(x, g, b, epsilon=0.1), [x, g, b], xs)
    assert_close(found[0], three_steps(xs[0], xs[1], xs[2], 0.1, (2,)))
    y = ops.convert_to_numpy(ops.layer_normalization(*xs, epsilon=0.1))
    assert_close(found[2], (xs[2] * np.sin(y) / y).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(found[1], 0)


def test_values_that_are_normalised_to_zero_keep_their_relevance():
    """A padded token of equal components: y = 0, and what a flat rule hands it stays where it is, and finite."""
    x, inputs, dense = data(3, 2, 4), keras.Input((2, 4), **F64), L.Dense(3, **F64)
    x[:, 1] = 2.0
    y = dense(L.LayerNormalization(center=False, **F64)(inputs))
    randomise(dense)
    model = keras.Model(inputs, y)
    found = innv_ext.create_analyzer("lrp", model, rule=Flat(), neuron_selection_mode=lambda y: y[:, 1, 0]).explain(x)
    assert_close(found.attribution[:, 1], np.tile(found.score[:, None] / 4, 4))


@pytest.mark.parametrize("layer", [L.RMSNormalization(**F64), L.UnitNormalization(**F64)])
def test_scaling_by_statistics_passes_relevance_on(layer):
    x, inputs = data(3, 4), keras.Input((4,), **F64)
    assert_close(lrp(layer(inputs), inputs, x), np.sin(y_of(layer, x)))


def encoder(depth, width=8):
    keras.utils.set_random_seed(0)
    y = inputs = keras.Input((6, width))
    for _ in range(depth):
        y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4)(y, y))
        y = L.LayerNormalization()(y + L.Dense(width)(L.Dense(2 * width, "gelu")(y)))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(y)))


def test_relevance_of_a_deep_encoder_is_of_the_order_of_its_score():
    """Passing relevance through the centring unchanged makes the residual sums in front of it blow up (1e6 here)."""
    model, x = encoder(12), data(4, 6, 8).astype("float32")
    analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
    found = analyzer.explain(x)
    assert np.all(np.abs(found.extras["sum"] / found.score) < 5)
    assert np.all(np.abs(found.attribution) < 10 * np.abs(found.score).max())
    np.testing.assert_allclose(analyzer.analyze(x[:1])[0], found.attribution[0], rtol=1e-3, atol=1e-5)


# --- constants that are added ------------------------------------------------------------------------------------


def behind(shift, x, name="lrp.epsilon", bias=None, **params):
    """LRP of x -> Dense -> shift -> sine; with ``bias`` as that of the Dense layer instead of ``shift``."""
    inputs, dense = keras.Input((3,), **F64), L.Dense(4, use_bias=bias is not None, **F64)
    y = shift(dense(inputs))
    kernel = data(3, 4, seed=5)
    dense.set_weights([kernel] if bias is None else [kernel, np.broadcast_to(bias, (4,))])
    return lrp(y, inputs, x, name, **params)


C = data(4, seed=9)
SHIFTS = {  # as a function of z, the bias that it amounts to, and the factor of the whole
    "vector": (lambda z: z + C, C, 1.0),
    "number first": (lambda z: 0.5 + z, 0.5, 1.0),
    "subtracted": (lambda z: z - 0.5, -0.5, 1.0),
    "subtracted from": (lambda z: ops.subtract(C, z), -C, -1.0),
    "Rescaling": (L.Rescaling(2.0, offset=0.5, **F64), 0.25, 2.0),
    "Normalization": (L.Normalization(mean=C, variance=np.full(4, 4.0), **F64), -C, 0.5),
    "scaled": (lambda z: (z * 3.0 + 1.5) / 2, 0.5, 1.5),
}


@pytest.mark.parametrize("rule", ["lrp.epsilon", "lrp.z", "lrp.epsilon_IB", "lrp.z_plus"])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_constant_behind_weights_is_a_bias(name, rule):
    """Added by a layer or an operation it has the share that the same bias of the Dense layer has."""
    shift, bias, factor = SHIFTS[name]
    x, params = data(3, 3), {"epsilon": 1e-9} if "epsilon" in rule else {}
    assert_close(behind(shift, x, rule, **params), behind(lambda z: factor * z, x, rule, bias=bias, **params))


def test_a_constant_beside_rules_that_split_signs_has_its_share_of_the_sum():
    """As a batch normalisation has; alpha-beta splits what is left among the inputs of the Dense layer."""
    x, kernel = data(3, 3), data(3, 4, seed=5)
    z = x @ kernel
    expected = twins.alpha_beta(x, kernel, np.zeros(4), z * np.sin(z + C) / stabilised(z + C, 1e-7))
    assert_close(behind(lambda z: z + C, x, "lrp.alpha_2_beta_1"), expected)


def test_a_constant_of_more_positions_than_the_value():
    """x is copied to every position: its relevance is the sum over them."""
    inputs, dense, c = keras.Input((1, 3), **F64), L.Dense(3, use_bias=False, **F64), data(4, 3, seed=1)
    y, x = dense(inputs) + c, data(2, 1, 3)
    dense.set_weights([np.eye(3)])
    assert_close(lrp(y, inputs, x), (x * np.sin(x + c) / (x + c)).sum(axis=1, keepdims=True), 1e-5)


def test_where_the_shifted_value_is_zero_nothing_is_lost():
    inputs, dense = keras.Input((2,), **F64), L.Dense(2, use_bias=False, **F64)
    model = keras.Model(inputs, ops.cos(dense(inputs) - 1.0))
    dense.set_weights([np.eye(2)])
    received = innv_ext.create_analyzer("lrp.z", model, neuron_selection_mode="all").analyze(np.array([[1.0, 2.0]]))
    assert_close(received, [[1.0, 2 * np.cos(1.0)]])


@pytest.mark.parametrize("scale", [L.Rescaling(1 / 127.5, offset=-1.0, **F64), lambda x: x / 127.5 - 1.0])
@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.epsilon_plus_flat"])
def test_preprocessing_inside_the_model_is_a_change_of_units(scale, name):
    """The map is that of the network behind it; also at grey pixels, where x / 127.5 - 1 is 0."""
    inputs, inner, dense = keras.Input((4,), **F64), keras.Input((4,), **F64), L.Dense(3, **F64)
    x = np.array([[0.0, 127.5, 128.0, 255.0]])
    inside, outside = keras.Model(inputs, dense(scale(inputs))), keras.Model(inner, dense(inner))
    randomise(dense)
    maps = [innv_ext.create_analyzer(name, m).analyze(v, 0) for m, v in ((inside, x), (outside, x / 127.5 - 1))]
    assert_close(*maps)


def test_deep_taylor_passes_constants():
    """It has no biases in denominators, and no negative relevance."""
    inputs, low, high = keras.Input((3,), **F64), L.Dense(4, "relu", **F64), L.Dense(2, **F64)
    model = keras.Model(inputs, high(low(inputs) - 0.5))
    randomise(low), randomise(high, 1)
    x = data(6, 3)
    found = innv_ext.create_analyzer("deep_taylor", model).explain(x[model.predict(x, verbose=0).max(axis=1) > 0])
    assert len(found.score) and np.all(found.attribution >= 0)
    assert_close(found.extras["sum"], found.score)
