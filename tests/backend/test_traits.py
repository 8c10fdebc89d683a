"""What operations are asked for, against what they compute."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from innv_ext.backend import facts, passes, traits
from innv_ext.backend.tracing import trace

RNG = np.random.default_rng(0)


def last_node(function, shape=(6,), inputs=1):
    """The node of ``function``, as methods see it."""
    xs = [keras.Input(shape) for _ in range(inputs)]
    return passes.canonical(trace(keras.Model(xs, function(*xs)), facts.is_leaf)).nodes[-1]


@pytest.mark.parametrize(("function", "signs"), [
    (lambda a, b: L.Subtract()([a, b]), (1, -1)), (lambda a, b: a - b, (1, -1)), (lambda a, b: a + b, (1, 1)),
    (lambda a, b: L.Average()([a, b]), (1, 1)), (lambda a, b: L.Concatenate()([a, b]), (1, 1))])
def test_signs(function, signs):
    assert traits.signs(last_node(function, inputs=2)) == signs


@pytest.mark.parametrize(("function", "factors", "multilinear"), [
    (lambda a, b: a * b, "values", True), (lambda a, b: L.Multiply()([a, b]), "values", True),
    (lambda a, b: a / b, "quotient", False), (ops.divide_no_nan, "quotient", False),
    (lambda a, b: L.Dot(1)([a, b]), "sums", True), (lambda a, b: L.Dot(1, normalize=True)([a, b]), "sums", True),
    (lambda a, b: ops.einsum("bi,bj->bij", a, b), "sums", True)])
def test_factors(function, factors, multilinear):
    node = last_node(function, inputs=2)
    assert (traits.factors(node), traits.is_multilinear(node)) == (factors, multilinear)


@pytest.mark.parametrize(("function", "axes", "least"), [
    (lambda x: ops.max(x, axis=(-1, 1)), (1, 3), False), (lambda x: ops.amin(x, axis=2), (2,), True),
    (lambda x: ops.min(x, axis=[3]), (3,), True), (L.GlobalMaxPooling2D(), (1, 2), False),
    (L.GlobalMaxPooling2D(data_format="channels_first"), (2, 3), False),
    (L.MaxPooling2D(), (), False), (lambda x: ops.max_pool(x, 2), (), False),
    (L.AdaptiveMaxPooling2D(2), (), False), (L.Activation("softmax"), (3,), False),
    (L.Softmax(axis=[1, -2]), (1, 2), False), (lambda x: ops.softmax(x, axis=1), (1,), False),
    (L.LayerNormalization(axis=[-1, 1]), (1, 3), False),
    (L.GroupNormalization(2, axis=-1), (3,), False)])
def test_axes(function, axes, least):
    node = last_node(function, (4, 6, 2))
    assert traits.axes(node, 4) == axes and traits.takes_least(node) is least


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [(2, None), (3, 2), ((2, 3), (1, 2)), (2, 3)])
@pytest.mark.parametrize("pool", [L.MaxPooling2D, lambda *a, **k: lambda x: ops.max_pool(x, *a, **k)])
def test_windows(pool, size, strides, padding):
    """Each window has the maximum that pooling finds in it."""
    node = last_node(pool(size, strides, padding=padding), (7, 8, 1))
    x = RNG.normal(size=(1, 7, 8, 1)).astype("float32")
    (a, p, s, n, (before, after)), (b, q, t, m, (left, right)) = traits.windows(node, ops.convert_to_tensor(x))
    padded = np.pad(x[0, :, :, 0], ((before, after), (left, right)), constant_values=-np.inf)
    found = [[padded[i * s : i * s + p, j * t : j * t + q].max() for j in range(m)] for i in range(n)]
    assert (a, b) == (1, 2)
    np.testing.assert_array_equal(node.call(x)[0, :, :, 0], found)


PIECEWISE = {
    "relu": ops.relu, "fused": L.Dense(3, "relu"), "layer": L.ReLU(), "capped": L.ReLU(2.0),
    "thresholded": L.ReLU(threshold=0.5), "all": L.ReLU(2.0, negative_slope=0.2, threshold=0.5), "relu6": ops.relu6,
    "negative threshold": lambda x: keras.activations.relu(x, threshold=-0.5), "leaky": ops.leaky_relu,
    "leaky layer": L.LeakyReLU(0.1), "prelu": L.PReLU("ones"), "abs": ops.abs, "hard sigmoid": ops.hard_sigmoid,
    "hard tanh": ops.hard_tanh, "soft shrink": ops.soft_shrink, "no shrink": lambda x: ops.soft_shrink(x, 0.0),
    "clip": lambda x: ops.clip(x, -0.5, 1.5), "maximum": lambda x: ops.maximum(x, 0.3),
    "minimum": lambda x: ops.minimum(0.3, x), "activation": L.Activation(L.LeakyReLU(0.4)),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_pieces(name):
    node = last_node(PIECEWISE[name])
    knots, slopes, offsets = traits.pieces(node)
    x = np.tile(np.linspace(-8, 8, 321, dtype="float32")[:, None], 3 if name == "fused" else 6)
    at = np.searchsorted(knots, x, side="right")  # Keras takes the upper piece at a jump
    expected = sum((at == i) * (np.asarray(s) * x + o) for i, (s, o) in enumerate(zip(slopes, offsets, strict=True)))
    apart = ~np.isclose(x, knots[0], atol=1e-6)  # where a threshold jumps, either side will do
    np.testing.assert_allclose(np.asarray(node.call(x))[apart], expected[apart], atol=1e-6)


@pytest.mark.parametrize("function", [
    ops.gelu, ops.sigmoid, L.ReLU(max_value=0.5, threshold=1.0), lambda x: ops.maximum(x, np.ones(6, "float32")),
    lambda x: ops.clip(x, np.zeros(6, "float32"), 1.0), L.Dropout(0.5)])
def test_what_has_no_pieces(function):
    assert traits.pieces(last_node(function)) is None


def test_groups():
    layer = L.GroupNormalization(3, axis=1, epsilon=1e-5)
    node = last_node(layer, (6, 5))
    x = RNG.normal(size=(2, 6, 5)).astype("float32")
    view, back, axes = traits.groups(node, ops.convert_to_tensor(x))
    parts = np.asarray(view(x))
    assert parts.shape == (2, 3, 2, 5) and axes == (2, 3)
    np.testing.assert_array_equal(back(parts), x)
    normal = (parts - parts.mean(axes, keepdims=True)) / np.sqrt(parts.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(x), back(normal), atol=1e-5)
    centred, epsilon, mean_square, gamma = traits.statistics(node)
    assert (centred, epsilon, mean_square) == (True, 1e-5, True) and gamma is layer.gamma


def test_statistics_of_other_layers():
    assert traits.statistics(last_node(L.UnitNormalization())) == (False, 1e-12, False, None)
    assert traits.statistics(last_node(L.RMSNormalization()))[:3] == (False, 1e-6, True)
    assert traits.statistics(last_node(L.LayerNormalization(scale=False)))[3] is None
    assert traits.statistics(last_node(L.Dense(2))) is None
