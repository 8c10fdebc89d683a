"""Every rule on every type of affine layer against the dense-matrix twins."""

import functools
import math
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import twins
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops
from twins import Matrix

import innv_ext
from innv_ext.analyzers.lrp import rules as rel
from innv_ext.backend.predicates import named
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError


class Reversed(keras.layers.Layer):
    """A linear layer of a user: reverses the sequence, then multiplies each position by its own matrix."""

    def __init__(self, units, squash=ops.tanh, **kwargs):
        super().__init__(**kwargs)
        self.units, self.squash = units, squash

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[1], shape[2], self.units), name="weight")
        self.offset = self.add_weight(shape=(self.units,), name="offset")

    def call(self, x):
        z = ops.einsum("btc,tcu->btu", ops.flip(x, axis=1), self.weight) + self.offset
        return z if self.squash is None else self.squash(z)


@innv_ext.register_bilinear(Reversed, kernel="weight", bias="offset", activation="squash")
def _reversed(layer, x, kernel):
    return ops.einsum("btc,tcu->btu", ops.flip(x, axis=1), kernel)


class Handmade(keras.layers.Layer):
    """A user's dense layer that is not registered: it is traced through its operations."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.b = self.add_weight(shape=(3,), name="b")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b


SAME, OUT = {"padding": "same"}, {"output_padding": 1}
# name: (layer class, its arguments, shape of one sample)
LAYERS = {
    "dense": (L.Dense, {"units": 4}, (6,)),
    "dense_no_bias": (L.Dense, {"units": 3, "use_bias": False}, (5,)),
    "dense_3d": (L.Dense, {"units": 3}, (4, 5)),
    "einsum_dense": (L.EinsumDense, {"equation": "ab,bc->ac", "output_shape": 3, "bias_axes": "c"}, (5,)),
    "einsum_heads": (L.EinsumDense, {"equation": "abc,cde->abde", "output_shape": (3, 2, 3), "bias_axes": "de"},
                     (3, 4)),
    "einsum_merge": (L.EinsumDense, {"equation": "abcd,cde->abe", "output_shape": (3, 4), "bias_axes": "e"}, (3, 2, 3)),
    "einsum_ellipsis": (L.EinsumDense, {"equation": "...x,xy->...y", "output_shape": 3, "bias_axes": "y"}, (2, 3, 2)),
    "einsum_ellipsis_last": (L.EinsumDense, {"equation": "ab...,bc->ac...", "output_shape": 4, "bias_axes": "c"},
                             (2, 3)),
    "einsum_positions": (L.EinsumDense, {"equation": "abc,cd->abd", "output_shape": (3, 4), "bias_axes": "bd"}, (3, 2)),
    "einsum_transposed": (L.EinsumDense, {"equation": "abc,cd->adb", "output_shape": (4, 3), "bias_axes": "d"}, (3, 2)),
    "einsum_local": (L.EinsumDense, {"equation": "abc,bcd->abd", "output_shape": (3, 4), "bias_axes": "d"}, (3, 2)),
    "einsum_no_bias": (L.EinsumDense, {"equation": "abc,bd->adc", "output_shape": (4, 2)}, (3, 2)),
    "conv1d": (L.Conv1D, {"filters": 3, "kernel_size": 3, "padding": "same", "strides": 2}, (7, 2)),
    "conv1d_causal": (L.Conv1D, {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, (7, 2)),
    "conv1d_causal_strided": (L.Conv1D, {"filters": 2, "kernel_size": 3, "padding": "causal", "strides": 2}, (7, 2)),
    "conv1d_dilated": (L.Conv1D, {"filters": 3, "kernel_size": 3, "dilation_rate": 2}, (8, 2)),
    "conv2d": (L.Conv2D, {"filters": 3, "kernel_size": (2, 3)}, (4, 5, 2)),
    "conv2d_same": (L.Conv2D, {"filters": 3, "kernel_size": 3, "padding": "same"}, (4, 3, 2)),
    "conv2d_strided": (L.Conv2D, {"filters": 2, "kernel_size": 3, "strides": (2, 1), "padding": "same"}, (5, 4, 2)),
    "conv2d_dilated": (L.Conv2D, {"filters": 2, "kernel_size": 2, "dilation_rate": 2, "padding": "same"}, (4, 5, 2)),
    "conv2d_no_bias": (L.Conv2D, {"filters": 2, "kernel_size": 2, "use_bias": False}, (4, 3, 2)),
    # TensorFlow has no float64 kernels for channels_first and dilated transposition on CPU, so these are float32.
    "conv2d_first": (L.Conv2D, {"filters": 4, "kernel_size": 2, "padding": "same", "data_format": "channels_first",
                                "dtype": "float32"}, (2, 3, 3)),
    "conv1d_first": (L.Conv1D, {"filters": 3, "kernel_size": 2, "data_format": "channels_first",
                                "dtype": "float32"}, (2, 5)),
    "conv3d": (L.Conv3D, {"filters": 2, "kernel_size": (2, 1, 2), "strides": (1, 2, 1), **SAME}, (3, 3, 2, 2)),
    "depthwise1d": (L.DepthwiseConv1D, {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"}, (5, 3)),
    "depthwise2d": (L.DepthwiseConv2D, {"kernel_size": 2, "depth_multiplier": 2, "strides": 2, **SAME}, (3, 4, 2)),
    "conv1d_transpose": (L.Conv1DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2, **OUT}, (3, 2)),
    "conv2d_transpose": (L.Conv2DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2, **SAME, **OUT}, (2, 3, 2)),
    "conv2d_transpose_dilated": (L.Conv2DTranspose, {"filters": 2, "kernel_size": 2, "dilation_rate": 2,
                                                     "dtype": "float32"}, (3, 2, 2)),
    "conv3d_transpose": (L.Conv3DTranspose, {"filters": 2, "kernel_size": 2, "strides": 2, **SAME}, (2, 2, 1, 2)),
    "separable1d": (L.SeparableConv1D, {"filters": 3, "kernel_size": 3, "depth_multiplier": 2, **SAME}, (5, 2)),
    "separable2d": (L.SeparableConv2D, {"filters": 3, "kernel_size": 2, "depth_multiplier": 2, "strides": 2, **SAME},
                    (4, 3, 2)),
    "registered": (Reversed, {"units": 3}, (3, 2)),
    "handmade": (Handmade, {}, (4,)),
    "handmade_3d": (Handmade, {}, (2, 4)),
}
# Keras compiles grouped convolutions with XLA on CPU (half a second each): fewer rules for them.
SLOW_LAYERS = {"conv2d_groups": (L.Conv2D, {"filters": 4, "kernel_size": 2, "groups": 2, "padding": "same"}, (3, 3, 4))}

# name: (rule, twin(x, matrix, r))
RULES = {
    "z": (rel.Epsilon(0.0), lambda x, m, r: twins.z(x, m.W, m.b, r)),
    "z_ib": (rel.Epsilon(0.0, bias=False), lambda x, m, r: twins.z(x, m.W, m.b, r, bias=False)),
    "epsilon": (rel.Epsilon(), lambda x, m, r: twins.epsilon(x, m.W, m.b, r)),
    "epsilon_half": (rel.Epsilon(0.5), lambda x, m, r: twins.epsilon(x, m.W, m.b, r, 0.5)),
    "epsilon_ib": (rel.Epsilon(0.1, bias=False), lambda x, m, r: twins.epsilon(x, m.W, m.b, r, 0.1, bias=False)),
    "alpha2beta1": (rel.AlphaBeta(), lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r)),
    "alpha1beta0": (rel.AlphaBeta(1.0, 0.0), lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 1.0, 0.0)),
    "alpha3beta2_ib": (rel.AlphaBeta(3.0, 2.0, bias=False),
                       lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 3.0, 2.0, bias=False)),
    "gamma": (rel.Gamma(), lambda x, m, r: twins.gamma(x, m.W, m.b, r)),
    "gamma_ib": (rel.Gamma(1.7, bias=False), lambda x, m, r: twins.gamma(x, m.W, m.b, r, 1.7, bias=False)),
    "z_plus": (rel.ZPlus(), lambda x, m, r: twins.z_plus(x, m.W, m.b, r)),
    "z_plus_fast": (rel.ZPlus(general=False), lambda x, m, r: twins.z_plus_fast(x, m.W, m.b, r)),
    "w_square": (rel.WSquare(), lambda x, m, r: twins.w_square(x, m.W, m.b, r)),
    "flat": (rel.Flat(), lambda x, m, r: twins.flat_rule(x, m.C, m.b, r)),
    "bounded": (rel.Bounded(-2.3, 3.1), lambda x, m, r: twins.bounded(x, m.W, m.b, r, -2.3, 3.1)),
}
# Other parameters of rules that are tried on every layer: on a few layers only.
VARIANTS = ("epsilon", "epsilon_half", "epsilon_ib", "alpha1beta0", "alpha3beta2_ib", "gamma_ib")
SOME_LAYERS = ("dense", "conv2d_same", "separable2d", "conv1d_transpose", "einsum_positions")
# The rules that take another path for inputs known to be non-negative.
SIGN_AWARE = ("alpha2beta1", "gamma", "z_plus")


def randomise(layer, name):
    """Weights and biases of mixed sign, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return layer


def stages(layer, shape):
    """The layer as dense matrices: one, or depthwise and pointwise."""
    if isinstance(layer, Reversed):  # the twin sees the layer without its activation
        linear = Reversed(layer.units, squash=None, dtype=layer.dtype)
        linear.build((None, *shape))
        linear.set_weights(layer.get_weights())
        return [Matrix.of(linear, shape)]
    if not isinstance(layer, (L.SeparableConv1D, L.SeparableConv2D)):
        return [Matrix.of(layer, shape)]
    rank = len(shape) - 1
    depthwise = {1: L.DepthwiseConv1D, 2: L.DepthwiseConv2D}[rank](
        layer.kernel_size, strides=layer.strides, padding=layer.padding, depth_multiplier=layer.depth_multiplier,
        use_bias=False, dtype=layer.dtype)
    pointwise = {1: L.Conv1D, 2: L.Conv2D}[rank](layer.filters, 1, dtype=layer.dtype)
    between = depthwise(np.zeros((1, *shape))).shape[1:]
    pointwise.build((None, *between))
    depthwise.set_weights([layer.depthwise_kernel])
    pointwise.set_weights([layer.pointwise_kernel, layer.bias])
    return [Matrix.of(depthwise, shape), Matrix.of(pointwise, between)]


@functools.cache
def built(name):
    """(model, the same behind a ReLU, dense matrices, inputs of mixed sign) of a row of LAYERS.

    Both models end in a sine, through which relevance passes. With the sum of all outputs as score, R_j = sin(y_j)
    enters the layer: it differs from neuron to neuron, has both signs and is not proportional to y_j.
    """
    cls, arguments, shape = {**LAYERS, **SLOW_LAYERS}[name]
    dtype = arguments.get("dtype", "float64")
    layer = cls(**{"dtype": dtype, **arguments})
    x = keras.Input(shape, dtype=dtype)
    plain = keras.Model(x, ops.sin(layer(x)))
    if dtype == "float32":
        try:
            plain(np.zeros((1, *shape)))
        except tf.errors.InvalidArgumentError:
            pytest.skip("TensorFlow cannot run this layer on this CPU")
    randomise(layer, name)
    rectified = keras.Model(x, ops.sin(layer(L.ReLU(dtype=dtype)(x))))
    data = np.random.default_rng(1).normal(size=(3, *shape))
    return plain, rectified, stages(layer, shape), data


def score(y):
    """A score whose relevance differs from neuron to neuron and from y itself: R_j = y_j dscore/dy_j = v_j y_j^2."""
    size = math.prod(y.shape[1:])
    flat, v = ops.reshape(y, (-1, size)), ops.cos(ops.arange(size, dtype=y.dtype))
    return ops.sum(v * flat * flat, axis=1) / 2


def score_seed(y):
    return np.cos(np.arange(y.shape[1])) * y * y


def explained(model, x, rule):
    params = {"neuron_selection_mode": "all", "check_forward": False}
    return innv_ext.create_analyzer("lrp", model, rule=rule, **params).analyze(x)


def twin_of(matrices, rule, x, seed):
    """The twin's relevance through consecutive affine nodes."""
    inputs = [x]
    for m in matrices:
        inputs.append(m(inputs[-1]))
    r = seed(inputs.pop())
    for m, x in zip(reversed(matrices), reversed(inputs)):
        r = rule(x, m, r)
    return r


def assert_close(received, expected, dtype="float64"):
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    expected = np.reshape(expected, received.shape)
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def check(name, rule_name, rectified):
    plain, behind_relu, matrices, x = built(name)
    rule, twin = RULES[rule_name]
    received = explained(behind_relu if rectified else plain, x, rule)
    assert received.shape == x.shape
    seed = (lambda y: np.sin(np.tanh(y))) if name == "registered" else np.sin
    expected = twin_of(matrices, twin, twins.pos(twins.flat(x)) if rectified else twins.flat(x), seed)
    assert_close(received, expected, plain.inputs[0].dtype)


@pytest.mark.parametrize("rule", [r for r in RULES if r not in VARIANTS])
@pytest.mark.parametrize("name", LAYERS)
def test_rule_of_layer(name, rule):
    check(name, rule, rectified=False)


@pytest.mark.parametrize("rule", VARIANTS)
@pytest.mark.parametrize("name", SOME_LAYERS)
def test_rule_variant(name, rule):
    check(name, rule, rectified=False)


@pytest.mark.parametrize("rule", SIGN_AWARE)
@pytest.mark.parametrize("name", LAYERS)
def test_rule_of_layer_on_nonnegative_input(name, rule):
    check(name, rule, rectified=True)


@pytest.mark.parametrize("rule", ["alpha2beta1", "flat"])
@pytest.mark.parametrize("name", SLOW_LAYERS)
def test_rule_of_grouped_convolution(name, rule):
    check(name, rule, rectified=False)


def test_nonnegative_input_is_recognised():
    """The half-cost path above is really the one that is taken."""
    plain, rectified, *_ = built("conv2d")
    assert "x>=0" not in innv_ext.create_analyzer("lrp.z_plus", plain).summary()
    assert "x>=0" in innv_ext.create_analyzer("lrp.z_plus", rectified).summary()


# --- seeds, names and parameters ---------------------------------------------------------------------------------


def dense_net():
    """One dense layer and nothing else: model, matrix, inputs."""
    model, _, matrices, x = built("dense")
    return keras.Model(model.input, model.layers[1].output), matrices, x


@pytest.mark.parametrize("selection", ["max_activation", "all", 2, [3, 0, 1]])
def test_seed_is_the_selected_score(selection):
    """f_c enters at c and nothing anywhere else."""
    model, (m,), x = dense_net()
    y = m(x)
    rows, seed = np.arange(len(y)), np.zeros_like(y)
    if selection == "all":
        seed = y
    else:
        c = y.argmax(axis=1) if selection == "max_activation" else selection
        seed[rows, c] = y[rows, c]
    analyzer = innv_ext.create_analyzer("lrp", model, rule=rel.AlphaBeta(2.0, 1.0))
    assert_close(analyzer.analyze(x, selection), twins.alpha_beta(x, m.W, m.b, seed))


NAMED = {
    "lrp.z": ({}, lambda x, m, r: twins.z(x, m.W, m.b, r)),
    "lrp.z_IB": ({}, lambda x, m, r: twins.z(x, m.W, m.b, r, bias=False)),
    "lrp.epsilon": ({"epsilon": 0.3}, lambda x, m, r: twins.epsilon(x, m.W, m.b, r, 0.3)),
    "lrp.epsilon_IB": ({}, lambda x, m, r: twins.epsilon(x, m.W, m.b, r, 1e-7, bias=False)),
    "lrp.alpha_beta": ({"alpha": 1.5, "beta": 0.5}, lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 1.5, 0.5)),
    "lrp.alpha_2_beta_1": ({}, lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 2.0, 1.0)),
    "lrp.alpha_2_beta_1_IB": ({}, lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 2.0, 1.0, bias=False)),
    "lrp.alpha_1_beta_0": ({}, lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 1.0, 0.0)),
    "lrp.alpha_1_beta_0_IB": ({}, lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, 1.0, 0.0, bias=False)),
    "lrp.gamma": ({"gamma": 0.9}, lambda x, m, r: twins.gamma(x, m.W, m.b, r, 0.9)),
    "lrp.z_plus": ({}, lambda x, m, r: twins.z_plus(x, m.W, m.b, r)),
    "lrp.z_plus_fast": ({}, lambda x, m, r: twins.z_plus_fast(x, m.W, m.b, r)),
    "lrp.w_square": ({}, lambda x, m, r: twins.w_square(x, m.W, m.b, r)),
    "lrp.flat": ({}, lambda x, m, r: twins.flat_rule(x, m.C, m.b, r)),
    "lrp.excitation_backprop": ({}, lambda x, m, r: twins.z_plus(x, m.W, m.b, r)),
}


@pytest.fixture(scope="module")
def mlp():
    """A two-layer net with a fused ReLU, its matrices and inputs."""
    net = keras.Sequential([
        keras.Input((5,), dtype="float64"),
        L.Dense(6, activation="relu", dtype="float64", name="low"),
        L.Dense(4, dtype="float64", name="high"),
    ])
    for layer in net.layers:
        randomise(layer, f"mlp {layer.name}")
    linear = L.Dense(6, dtype="float64")  # the twin needs it without its activation
    linear.build((None, 5))
    linear.set_weights(net.layers[0].get_weights())
    matrices = [Matrix.of(linear, (5,)), Matrix.of(net.layers[1], (6,))]
    return net, matrices, np.random.default_rng(2).normal(size=(6, 5))


@pytest.mark.parametrize("name", NAMED)
def test_two_layers_by_name(mlp, name):
    """The registry's names on a net with a ReLU inside against composed twins."""
    net, (low, high), x = mlp
    params, twin = NAMED[name]
    received = innv_ext.create_analyzer(name, net, neuron_selection_mode=score, **params).analyze(x)
    assert_close(received, twins.chain(x, [(low, twin), (high, twin)], score_seed))


@pytest.mark.parametrize("rule", ["z", "epsilon", "alpha_2_beta_1", "gamma", "w_square"])
def test_rule_names(mlp, rule):
    """``rule="gamma"`` is ``lrp.gamma``."""
    net, _, x = mlp
    by_name = innv_ext.create_analyzer("lrp", net, rule=rule).analyze(x)
    np.testing.assert_array_equal(by_name, innv_ext.create_analyzer(f"lrp.{rule}", net).analyze(x))


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.5), (1.0, 1.0), (0.5, 0.0), (1.0, 0.1)])
def test_alpha_minus_beta_must_be_one(mlp, alpha, beta):
    with pytest.raises(InvalidInputError, match="alpha - beta = 1"):
        innv_ext.create_analyzer("lrp.alpha_beta", mlp[0], alpha=alpha, beta=beta)


@pytest.mark.parametrize("name", ["dense", "conv2d", "separable1d", "handmade", "registered"])
def test_weights_are_read_when_it_runs(name):
    """An analyzer explains the model as it is now, after further training, without being built anew."""
    model, _, _, x = built(name)
    layer, (rule, twin) = model.layers[1], RULES["alpha2beta1"]
    analyzer = innv_ext.create_analyzer("lrp", model, rule=rule, neuron_selection_mode="all")
    before, old = analyzer.analyze(x), layer.get_weights()
    layer.set_weights([0.5 * w + 0.1 for w in old])
    try:
        after = analyzer.analyze(x)
        matrices = stages(layer, x.shape[1:])
    finally:
        layer.set_weights(old)
    seed = (lambda y: np.sin(np.tanh(y))) if name == "registered" else np.sin
    assert_close(after, twin_of(matrices, twin, twins.flat(x), seed))
    assert np.abs(after - before).max() > 1e-3


# --- properties --------------------------------------------------------------------------------------------------


CONSERVING = {
    "z": rel.Epsilon(0.0, bias=False), "gamma": rel.Gamma(0.5, bias=False), "w_square": rel.WSquare(),
    "flat": rel.Flat(), "bounded": rel.Bounded(-3.0, 3.0),
}


@functools.cache
def conserving(name):
    return innv_ext.create_analyzer("lrp", dense_net()[0], rule=CONSERVING[name], neuron_selection_mode="index")


@pytest.mark.parametrize("name", CONSERVING)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(x=st.lists(st.floats(-3, 3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=6, max_size=6),
       c=st.integers(0, 3))
def test_relevance_is_conserved_without_bias(name, x, c):
    """sum R = f_c, unless nothing at all arrives at the neuron."""
    _, (m,), _ = dense_net()
    x = np.array([x])
    received = conserving(name).analyze(x, c)
    arrives = (x @ m.W)[0, c] != 0 or name in ("w_square", "flat", "bounded")
    share = abs((x @ m.W)[0, c]) / np.abs(x[0] * m.W[:, c]).max(initial=1e-30)  # rounding is worse where z cancels
    assert abs(received.sum() - (m(x)[0, c] if arrives else 0.0)) <= 1e-9 / max(share, 1e-6) * (1 + abs(m(x)[0, c]))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(x=st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6), c=st.integers(0, 3))
def test_gamma_without_bias_is_bounded(x, c):
    """Where z > 0 the denominator is z + gamma z+, so sum |R| <= (2 + gamma) / gamma |f_c|: no neuron can explode.

    That holds only if the sign is that of the same z, here the one without bias.
    """
    _, (m,), _ = dense_net()
    received = conserving("gamma").analyze(np.array([x]), c)
    assert np.abs(received).sum() <= (2 + 0.5) / 0.5 * abs(m(np.array([x]))[0, c]) * (1 + 1e-9)


def test_zero_input_is_finite(mlp):
    """All denominators are 0 (no bias) or come from the bias alone; nothing flows, nothing is NaN."""
    net, _, x = mlp
    for name in ("lrp.z", "lrp.z_IB", "lrp.epsilon_IB", "lrp.alpha_2_beta_1_IB", "lrp.gamma", "lrp.z_plus"):
        received = innv_ext.create_analyzer(name, net, check_forward=False).analyze(np.zeros_like(x))
        np.testing.assert_array_equal(received, np.zeros_like(x))


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("epsilon_half", "alpha1beta0", "alpha3beta2_ib")])
def test_dead_neurons_of_large_scores_are_finite(rule):
    """A regression in large units, in float32: nothing arrives at some neurons whose relevance is above 1e8."""
    inputs = keras.Input((3,))
    layer = L.Dense(4)
    net = keras.Model(inputs, layer(inputs))
    kernel = 1e4 * np.array([[1.0, 0.5, 1.0, -2.0], [-1.0, -0.5, 0.0, 0.0], [-0.5, -2.0, 0.0, 1.0]])
    layer.set_weights([kernel, np.array([1e8, -2e8, 4e8, -8e8])])
    x = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1e-3, 0.0, 0.0]])
    analyzer = innv_ext.create_analyzer("lrp", net, rule=RULES[rule][0], neuron_selection_mode="all")
    received, (m,) = analyzer.analyze(x), [Matrix.of(layer, (3,))]
    assert np.isfinite(received).all()
    assert_close(received, RULES[rule][1](x, m, m(x)), "float32")


# --- the rule of the input layer ---------------------------------------------------------------------------------


# None of these bounds is a float32 number.
LOW = np.linspace(-3.1, -1.3, 5)
INPUT_RULES = {
    "flat": ("flat", lambda x, m, r: twins.flat_rule(x, m.C, m.b, r)),
    "w_square": ("w_square", lambda x, m, r: twins.w_square(x, m.W, m.b, r)),
    "pair": ((-2.2, 4.1), lambda x, m, r: twins.bounded(x, m.W, m.b, r, -2.2, 4.1)),
    "arrays": ((LOW, LOW + 5), lambda x, m, r: twins.bounded(x, m.W, m.b, r, LOW, LOW + 5)),
    "lists": ((LOW.tolist(), 3.3), lambda x, m, r: twins.bounded(x, m.W, m.b, r, LOW, 3.3)),
    "bounded": (rel.Bounded(LOW, 3), lambda x, m, r: twins.bounded(x, m.W, m.b, r, LOW, 3.0)),
    "rule": (rel.Gamma(1.3), lambda x, m, r: twins.gamma(x, m.W, m.b, r, 1.3)),
}


@pytest.mark.parametrize("name", INPUT_RULES)
def test_input_layer_rule(mlp, name):
    """It replaces the rule of the first layer only."""
    net, (low, high), x = mlp
    given_rule, twin = INPUT_RULES[name]
    analyzer = innv_ext.create_analyzer("lrp.epsilon", net, epsilon=0.2, input_layer_rule=given_rule,
                                        neuron_selection_mode=score)
    upper = lambda x, m, r: twins.epsilon(x, m.W, m.b, r, 0.2)
    assert_close(analyzer.analyze(x), twins.chain(x, [(low, twin), (high, upper)], score_seed))


@pytest.mark.parametrize("value", ["nonsense", 3, (1, 2, 3)])
def test_input_layer_rule_is_checked(mlp, value):
    with pytest.raises(InvalidInputError, match="input_layer_rule"):
        innv_ext.create_analyzer("lrp.z", mlp[0], input_layer_rule=value)


def test_input_layer_rule_looks_through_shapes_rescaling_and_padding():
    """x -> reshape -> rescale -> pad -> conv: the conv is the first layer, and the padding is no input."""
    x = keras.Input((12,), dtype="float64")
    first = L.Conv2D(3, 2, dtype="float64")
    t = L.Rescaling(2.0, offset=0.5, dtype="float64")(L.Reshape((3, 4, 1), dtype="float64")(x))
    t = L.ZeroPadding2D(1, dtype="float64")(t * 3.0 - 1.0)
    t = L.Flatten(dtype="float64")(L.ReLU(dtype="float64")(first(t)))
    last = L.Dense(4, dtype="float64")
    net = keras.Model(x, last(t))
    randomise(first, "padded conv"), randomise(last, "padded dense")
    data = np.random.default_rng(3).normal(size=(2, 12))
    m, n = Matrix.of(first, (5, 6, 1)), Matrix.of(last, t.shape[1:])
    inner = np.pad((6 * data + 0.5 * 3 - 1).reshape(-1, 3, 4, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    real = np.pad(np.ones((3, 4)), 1).reshape(-1, 1)
    flat = lambda x, m, r: twins.flat_rule(x, m.C * real, m.b, r)
    upper = lambda x, m, r: twins.epsilon(x, m.W, m.b, r)
    expected = twins.chain(twins.flat(inner), [(m, flat), (n, upper)], score_seed).reshape(-1, 5, 6)[:, 1:-1, 1:-1]
    analyzer = innv_ext.create_analyzer("lrp.epsilon", net, input_layer_rule="flat", neuron_selection_mode=score)
    assert_close(analyzer.analyze(data), expected)


def test_input_layer_rule_on_every_path():
    """Two branches: each has its own first layer; a dense layer behind one of them keeps the main rule."""
    x = keras.Input((4,), dtype="float64")
    left, right, top = (L.Dense(3, dtype="float64", name=n) for n in ("left", "right", "top"))
    y = L.Add(dtype="float64")([top(left(x)), right(x)])
    net = keras.Model(x, y)
    for layer in (left, right, top):
        randomise(layer, f"paths {layer.name}")
    data = np.random.default_rng(4).normal(size=(3, 4))
    a, b, c = (Matrix.of(layer, (n,)) for layer, n in ((left, 4), (right, 4), (top, 3)))
    hidden = a(data)
    one, two = c(hidden), b(data)
    r = score_seed(one + two)
    r_one, r_two = r * one / (one + two), r * two / (one + two)
    r_hidden = twins.gamma(hidden, c.W, c.b, r_one)
    expected = twins.w_square(data, a.W, a.b, r_hidden) + twins.w_square(data, b.W, b.b, r_two)
    analyzer = innv_ext.create_analyzer("lrp.gamma", net, input_layer_rule="w_square", neuron_selection_mode=score)
    assert_close(analyzer.analyze(data), expected)


def test_rules_by_name_go_first(mlp):
    net, (low, high), x = mlp
    table = Rules((named("high"), rel.AlphaBeta(2.0, 1.0)))
    analyzer = innv_ext.create_analyzer("lrp.epsilon", net, rules=table, neuron_selection_mode=score)
    assert_close(analyzer.analyze(x), twins.chain(x, [(low, _epsilon(1e-7)), (high, _alpha(2, 1))], score_seed))


# --- presets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cnn():
    """conv, conv, dense, dense with ReLUs between them, the matrices of the four, inputs."""
    net = keras.Sequential([
        keras.Input((4, 5, 2), dtype="float64"),
        L.Conv2D(3, 2, name="conv1", dtype="float64"), L.ReLU(dtype="float64"),
        L.Conv2D(2, 2, padding="same", name="conv2", dtype="float64"), L.ReLU(dtype="float64"),
        L.Flatten(dtype="float64"),
        L.Dense(5, name="dense1", dtype="float64"), L.ReLU(dtype="float64"),
        L.Dense(3, name="dense2", dtype="float64"),
    ])
    affine = [net.get_layer(n) for n in ("conv1", "conv2", "dense1", "dense2")]
    for layer in affine:
        randomise(layer, f"cnn {layer.name}")
    matrices = [Matrix.of(layer, layer.input.shape[1:]) for layer in affine]
    return net, matrices, np.random.default_rng(19).normal(size=(3, 4, 5, 2))  # scores of both signs


def _epsilon(value):
    return lambda x, m, r: twins.epsilon(x, m.W, m.b, r, value)


def _alpha(alpha, beta):
    return lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r, alpha, beta)


def _flat(x, m, r):
    return twins.flat_rule(x, m.C, m.b, r)


def _z_plus(x, m, r):
    return twins.z_plus(x, m.W, m.b, r)


def _gamma(value):
    return lambda x, m, r: twins.gamma(x, m.W, m.b, r, value)


def _box(x, m, r):
    return twins.bounded(x, m.W, m.b, r, -3.1, 3.7)


EPS, TINY_EPS = _epsilon(0.1), _epsilon(1e-7)
PRESETS = {  # name, parameters, twins of conv1, conv2, dense1, dense2
    "a": ("lrp.sequential_preset_a", {}, (_alpha(1, 0), _alpha(1, 0), EPS, EPS)),
    "b": ("lrp.sequential_preset_b", {}, (_alpha(2, 1), _alpha(2, 1), EPS, EPS)),
    "b_epsilon": ("lrp.sequential_preset_b", {"epsilon": 0.7}, (_alpha(2, 1),) * 2 + (_epsilon(0.7),) * 2),
    "a_flat": ("lrp.sequential_preset_a_flat", {}, (_flat, _alpha(1, 0), EPS, EPS)),
    "b_flat": ("lrp.sequential_preset_b_flat", {}, (_flat, _alpha(2, 1), EPS, EPS)),
    "until_first": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": 0}, (_flat, _alpha(2, 1), EPS, EPS)),
    "until_relu": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": 1}, (_flat, _alpha(2, 1), EPS, EPS)),
    "until_second": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": 2}, (_flat, _flat, EPS, EPS)),
    "until_name": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": "conv2"}, (_flat, _flat, EPS, EPS)),
    "until_dense": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": "dense1"}, (_flat, _flat, _flat, EPS)),
    "until_negative": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer": -2}, (_flat, _flat, _flat, EPS)),
    "epsilon_plus": ("lrp.epsilon_plus", {}, (_z_plus, _z_plus, TINY_EPS, TINY_EPS)),
    "epsilon_plus_flat": ("lrp.epsilon_plus_flat", {"epsilon": 0.1}, (_flat, _z_plus, EPS, EPS)),
    "alpha2": ("lrp.epsilon_alpha2_beta1", {}, (_alpha(2, 1), _alpha(2, 1), TINY_EPS, TINY_EPS)),
    "alpha2_flat": ("lrp.epsilon_alpha2_beta1_flat", {}, (_flat, _alpha(2, 1), TINY_EPS, TINY_EPS)),
    "box": ("lrp.epsilon_gamma_box", {"low": -3.1, "high": 3.7}, (_box, _gamma(0.25), TINY_EPS, TINY_EPS)),
    "rule_until": ("lrp.rule_until_idx", {"rule": "z_plus", "until_layer": 2, "until_layer_rule": rel.Gamma(1.0)},
                   (_gamma(1.0), _gamma(1.0), _z_plus, _z_plus)),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset(cnn, preset):
    """Composed twins of the four layers, one rule each."""
    net, matrices, x = cnn
    name, params, rules = PRESETS[preset]
    analyzer = innv_ext.create_analyzer(name, net, neuron_selection_mode=score, check_forward=False, **params)
    received = analyzer.analyze(x)
    assert_close(received, twins.chain(twins.flat(x), list(zip(matrices, rules, strict=True)), score_seed))


@pytest.mark.parametrize("until", [99, -10, "nowhere"])
def test_until_layer_is_checked(cnn, until):
    with pytest.raises(InvalidInputError, match="until_layer"):
        innv_ext.create_analyzer("lrp.sequential_preset_b_flat_until_idx", cnn[0], until_layer=until)


# --- Deep Taylor -------------------------------------------------------------------------------------------------


def positive_part(c):
    """The seed of Deep Taylor: relu(f_c) at c."""
    return lambda y: np.maximum(y, 0) * np.eye(y.shape[1])[c]


def _w_square(x, m, r):
    return twins.w_square(x, m.W, m.b, r)


@pytest.mark.filterwarnings("ignore:Deep Taylor explains positive scores only")
@pytest.mark.parametrize("bounds", [None, (-3.1, 3.7), "arrays"])
def test_deep_taylor(cnn, bounds):
    """w^2 or z^B at the input, z+ above, for every sample and class; zero where the score is not positive."""
    net, matrices, x = cnn
    low, high = np.linspace(-4, -3, 40).reshape(4, 5, 2), np.linspace(3, 5, 40).reshape(4, 5, 2)
    low, high = (low, high) if bounds == "arrays" else bounds or (None, None)
    first = _w_square
    if bounds is not None:
        flat = [np.broadcast_to(v, (4, 5, 2)).reshape(-1) for v in (low, high)]
        first = lambda x, m, r: twins.bounded(x, m.W, m.b, r, *flat)
    name = "deep_taylor" if bounds is None else "deep_taylor.bounded"
    analyzer = innv_ext.create_analyzer(name, net, **({} if bounds is None else {"low": low, "high": high}))
    signs = set()
    for c in range(3):
        index = np.array([c, (c + 1) % 3, (c + 2) % 3])
        steps = list(zip(matrices, (first, _z_plus, _z_plus, _z_plus), strict=True))
        expected = twins.chain(twins.flat(x), steps, positive_part(index))
        found = analyzer.explain(x, index)
        assert_close(found.attribution, expected)
        signs |= set(np.sign(found.extras["score"]))
        np.testing.assert_allclose(found.extras["sum"], np.maximum(found.extras["score"], 0), rtol=1e-9, atol=1e-12)
    assert signs == {-1.0, 1.0}


def test_deep_taylor_warns_once_about_scores_that_are_not_positive(mlp):
    net, (low, high), x = mlp
    scores = high(twins.pos(low(x)))
    c = scores.argmin(axis=1)
    dead = (scores[np.arange(6), c] <= 0).sum()
    assert dead > 0
    analyzer = innv_ext.create_analyzer("deep_taylor", net)
    with pytest.warns(UserWarning, match=f"{dead} samples") as caught:
        received = analyzer.analyze(x, c)
    assert len(caught) == 1
    np.testing.assert_array_equal(received[scores[np.arange(6), c] <= 0], 0.0)


@pytest.mark.parametrize("between", ["nothing", "leaky"])
def test_deep_taylor_below_a_layer_whose_input_may_be_negative(between):
    """Without a ReLU (or with a leaky one) in between nothing proves x >= 0: w^2 again."""
    inputs = keras.Input((4,), dtype="float64")
    low, high = L.Dense(5, dtype="float64"), L.Dense(3, dtype="float64")
    hidden = low(inputs)
    net = keras.Model(inputs, high(hidden if between == "nothing" else L.LeakyReLU(dtype="float64")(hidden)))
    randomise(low, "taylor low"), randomise(high, "taylor high")
    m, n = Matrix.of(low, (4,)), Matrix.of(high, (5,))
    x = np.random.default_rng(7).normal(size=(4, 4))
    h = m(x)
    y = n(h if between == "nothing" else np.where(h < 0, 0.3 * h, h))
    c = y.argmax(axis=1)
    expected = twins.w_square(x, m.W, m.b, twins.w_square(h, n.W, n.b, positive_part(c)(y)))
    # TensorFlow keeps the slope of a leaky ReLU in float32.
    received = innv_ext.create_analyzer("deep_taylor", net).analyze(x[y.max(axis=1) > 0])
    np.testing.assert_allclose(received, expected[y.max(axis=1) > 0], rtol=1e-6)
    assert len(received) > 1
