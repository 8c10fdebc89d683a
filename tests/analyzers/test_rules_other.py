"""Pooling, sums, shapes, products, batch normalisation and activations against the twins."""

import functools
import itertools
import zlib

import keras
import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops
from twins import Matrix

import innv_ext
from innv_ext.analyzers.lrp import rules as rel
from innv_ext.errors import InvalidInputError

F64 = {"dtype": "float64"}


def randomise(layer, name):
    """Weights and biases of mixed sign, positive variances; the same in every run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = [rng.normal(size=w.shape) for w in layer.get_weights()]
    if isinstance(layer, L.BatchNormalization):
        values[-1] = 0.2 + values[-1] ** 2
    layer.set_weights(values)
    return layer


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def lrp(outputs, inputs, x, **params):
    """LRP of the sum of sin(outputs): R_j = sin(y_j) enters at the node in question, through the sine."""
    model = keras.Model(inputs, ops.sin(outputs))
    return innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all", **params).analyze(x)


def assert_close(received, expected, tolerance=1e-9):
    expected = np.reshape(expected, received.shape)
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# --- max pooling: the winner takes all ---------------------------------------------------------------------------


def windows(shape, pool, strides, padding):
    """For each output of a channels_last pooling: the flat positions of its window in row-major order."""
    *space, channels = shape
    starts = []
    for size, p, s in zip(space, pool, strides, strict=True):
        count = -(-size // s) if padding == "same" else (size - p) // s + 1
        pad = max((count - 1) * s + p - size, 0) // 2 if padding == "same" else 0
        starts.append([range(max(k * s - pad, 0), min(k * s - pad + p, size)) for k in range(count)])
    found = []
    for spans in itertools.product(*starts):
        for c in range(channels):
            found.append([np.ravel_multi_index((*at, c), shape) for at in itertools.product(*spans)])
    return found


POOLS = {
    "1d": (L.MaxPooling1D, (7, 2), (2,), (2,), "valid"),
    "1d_overlap_same": (L.MaxPooling1D, (6, 2), (3,), (2,), "same"),
    "2d": (L.MaxPooling2D, (4, 5, 2), (2, 2), (2, 2), "valid"),
    "2d_same": (L.MaxPooling2D, (4, 5, 2), (3, 2), (2, 1), "same"),
    "2d_gaps": (L.MaxPooling2D, (5, 5, 1), (2, 2), (3, 3), "valid"),
    "op": (lambda pool, dtype, **kw: lambda x: ops.max_pool(x, pool, **kw), (4, 5, 2), (2, 3), (2, 1), "same"),
    "3d": (L.MaxPooling3D, (3, 4, 3, 2), (2, 2, 2), (1, 2, 1), "valid"),
    "3d_same": (L.MaxPooling3D, (3, 4, 3, 1), (2, 3, 2), (2, 2, 2), "same"),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_max_pooling(name, ties):
    """With ties (values from a few integers, negative ones too) the first of the window in row-major order wins."""
    cls, shape, pool, strides, padding = POOLS[name]
    # MaxPool3D has no float64 kernel in TensorFlow.
    dtype = "float32" if cls is L.MaxPooling3D else "float64"
    inputs = keras.Input(shape, dtype=dtype)
    layer = cls(pool, strides=strides, padding=padding, dtype=dtype)
    x = data(3, *shape)
    x = np.round(x) if ties else x
    flat, spans = twins.flat(x), windows(shape, pool, strides, padding)
    seeds = np.sin(np.stack([flat[:, w].max(axis=1) for w in spans], axis=1))
    expected = twins.max_pool(flat, seeds, spans)
    assert_close(lrp(layer(inputs), inputs, x), expected, 1e-9 if dtype == "float64" else 1e-5)


def reduced(shape, axes):
    """For each output of a reduction over ``axes`` of one sample: its flat input positions in row-major order."""
    positions = np.arange(np.prod(shape)).reshape(shape)
    rest = [a for a in range(len(shape)) if a not in axes]
    return np.transpose(positions, [*rest, *axes]).reshape(-1, int(np.prod([shape[a] for a in axes]))).tolist()


REDUCTIONS = {
    "global1d": (L.GlobalMaxPooling1D(**F64), (5, 3), (0,), 1),
    "global2d": (L.GlobalMaxPooling2D(**F64), (3, 4, 2), (0, 1), 1),
    "global2d_keep": (L.GlobalMaxPooling2D(keepdims=True, **F64), (3, 4, 2), (0, 1), 1),
    "global3d": (L.GlobalMaxPooling3D(**F64), (2, 3, 2, 2), (0, 1, 2), 1),
    "global1d_first": (L.GlobalMaxPooling1D(data_format="channels_first", **F64), (3, 5), (1,), 1),
    "max_last": (lambda x: ops.max(x, axis=-1), (3, 4), (1,), 1),
    "amax_two": (lambda x: ops.amax(x, axis=(1, 2)), (3, 4, 2), (0, 1), 1),
    "max_outer_keep": (lambda x: ops.max(x, axis=(-1, 1), keepdims=True), (3, 4, 2), (0, 2), 1),
    "max_middle": (lambda x: ops.max(x, axis=2), (2, 4, 3), (1,), 1),
    "amin": (lambda x: ops.amin(x, axis=-1), (3, 4), (1,), -1),
    "min": (lambda x: ops.min(x, axis=1), (3, 4), (0,), -1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_max_over_axes(name):
    layer, shape, axes, sign = REDUCTIONS[name]
    inputs = keras.Input(shape, **F64)
    for x in (data(3, *shape), np.round(data(3, *shape, seed=1))):
        seeds = np.sin(twins.flat(layer(x)))
        expected = twins.max_pool(sign * twins.flat(x), seeds, reduced(shape, axes))
        assert_close(lrp(layer(inputs), inputs, x), expected)


@pytest.mark.skipif(not hasattr(L, "AdaptiveMaxPooling2D"), reason="this Keras has no adaptive pooling")
def test_adaptive_max_pooling():
    """Window k of n -> m goes from floor(k n / m) to ceil((k + 1) n / m); windows may overlap."""
    inputs, shape = keras.Input((5, 4, 2), **F64), (5, 4, 2)
    spans = [[range(k * n // m, -(-(k + 1) * n // m)) for k in range(m)] for n, m in ((5, 3), (4, 2))]
    found = []
    for rows, columns in itertools.product(*spans):
        for c in range(2):
            found.append([np.ravel_multi_index((*at, c), shape) for at in itertools.product(rows, columns)])
    layer = L.AdaptiveMaxPooling2D((3, 2), **F64)
    x = data(2, *shape)
    seeds = np.sin(twins.flat(layer(x)))
    assert_close(lrp(layer(inputs), inputs, x), twins.max_pool(twins.flat(x), seeds, found))


@pytest.mark.parametrize(("layer", "sign"), [
    (L.Maximum(**F64), 1),
    (L.Minimum(**F64), -1),
    (lambda xs: ops.maximum(ops.maximum(xs[0], xs[1]), xs[2]), 1),
    (lambda xs: ops.minimum(xs[0], ops.minimum(xs[1], xs[2])), -1),
])
def test_maximum_of_inputs(layer, sign):
    """Value by value; the first of equal inputs wins."""
    inputs = [keras.Input((4, 2), **F64) for _ in range(3)]
    xs = [np.round(data(3, 4, 2, seed=s)) for s in range(3)]
    stacked = np.stack([twins.flat(x) for x in xs], axis=2).reshape(3, -1)
    pairs = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)]
    seeds = np.sin(sign * (sign * stacked).reshape(3, 8, 3).max(axis=2))
    expected = twins.max_pool(sign * stacked, seeds, pairs).reshape(3, 8, 3)
    received = lrp(layer(inputs), inputs, xs)
    for k in range(3):
        assert_close(received[k], expected[:, :, k])


# --- linear nodes without a kernel: the Z rule, conserving -------------------------------------------------------


LINEAR = {
    "average1d": (L.AveragePooling1D(2, **F64), (6, 2)),
    "average2d": (L.AveragePooling2D((2, 3), strides=(2, 1), **F64), (4, 5, 2)),
    "average2d_same": (L.AveragePooling2D(3, strides=2, padding="same", **F64), (4, 5, 2)),
    # AvgPool3D has no float64 kernel in TensorFlow.
    "average3d": (L.AveragePooling3D(2, strides=1, padding="same", dtype="float32"), (2, 3, 2, 2)),
    "global1d": (L.GlobalAveragePooling1D(**F64), (5, 2)),
    "global2d": (L.GlobalAveragePooling2D(keepdims=True, **F64), (3, 4, 2)),
    "global3d": (L.GlobalAveragePooling3D(**F64), (2, 3, 2, 2)),
    "average_op": (lambda x: ops.average_pool(x, 2, 2, "same"), (3, 4, 2)),
    "mean": (lambda x: ops.mean(x, axis=1), (4, 3)),
    "mean_all": (lambda x: ops.mean(x, axis=(1, 2), keepdims=True), (4, 3)),
    "sum": (lambda x: ops.sum(x, axis=-1), (4, 3)),
    "cumsum": (lambda x: ops.cumsum(x, axis=1), (4, 3)),
    "bilinear": (L.UpSampling2D(2, interpolation="bilinear", **F64), (3, 3, 2)),
    "nearest": (L.UpSampling2D((2, 3), **F64), (3, 2, 2)),
}


@functools.cache
def linear_case(name):
    layer, shape = LINEAR[name]
    inputs = keras.Input(shape, dtype=getattr(layer, "dtype", "float64"))
    model = keras.Model(inputs, ops.sin(layer(inputs)))
    return innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all"), twins.matrix_of(layer, shape)[0], shape


@pytest.mark.parametrize("name", LINEAR)
def test_linear_node(name):
    analyzer, W, shape = linear_case(name)
    x = data(3, *shape)
    flat = twins.flat(x)
    # Resizing computes in float32 inside TensorFlow.
    tolerance = 1e-5 if name in ("bilinear", "average3d") else 1e-9
    assert_close(analyzer.analyze(x), twins.linear(flat, W, np.sin(flat @ W)), tolerance)


@pytest.mark.parametrize("name", ["average2d", "average2d_same", "global1d", "mean", "sum", "cumsum"])
def test_all_zero_window_spreads_uniformly(name):
    """A window of zeros has nothing to share by; its relevance goes to its inputs evenly instead of being lost."""
    layer, shape = LINEAR[name]
    inputs = keras.Input(shape, **F64)
    model = keras.Model(inputs, ops.cos(layer(inputs)))  # cos(0) = 1: relevance enters although the window is zero
    x = data(3, *shape)
    x[0] = 0.0
    x[1, : shape[0] // 2] = 0.0
    flat, W = twins.flat(x), linear_case(name)[1]
    received = innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all").analyze(x)
    assert_close(received, twins.linear(flat, W, np.cos(flat @ W)))
    np.testing.assert_allclose(twins.flat(received).sum(axis=1), np.cos(flat @ W).sum(axis=1))


@functools.cache
def conserving():
    """cos(average pooling(x) + mean of x): all inputs of the two sums are shares of y."""
    inputs = keras.Input((4, 2), **F64)
    pooled = L.AveragePooling1D(2, **F64)(inputs)
    y = L.Add(**F64)([pooled, ops.mean(inputs, axis=(1, 2), keepdims=True)])
    model = keras.Model(inputs, ops.cos(y))
    return innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all"), model


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.integers(-2, 2), min_size=8, max_size=8))
def test_sums_conserve_relevance(values):
    """Whatever the input: zeros, and terms that cancel to exactly zero, lose nothing and stay finite."""
    analyzer, model = conserving()
    x = np.array(values, "float64").reshape(1, 4, 2)
    np.testing.assert_allclose(analyzer.analyze(x).sum(), np.asarray(model(x)).sum(), rtol=1e-9)


MERGES = {
    "add": (L.Add(**F64), (1, 1, 1)),
    "average": (L.Average(**F64), (1 / 3, 1 / 3, 1 / 3)),
    "subtract": (L.Subtract(**F64), (1, -1)),
    "plus": (lambda xs: xs[0] + xs[1], (1, 1)),
    "minus": (lambda xs: ops.subtract(*xs), (1, -1)),
}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", MERGES)
def test_sum_of_inputs(name, zero):
    """R_k = s_k x_k / y r; where all terms are zero, evenly."""
    merge, signs = MERGES[name]
    xs = np.stack([data(2, 4, seed=s) for s in range(len(signs))])
    if zero:
        xs[:, 0] = 0.0
        xs[:, 1, 2] = 0.0
    terms = np.array(signs)[:, None, None] * xs
    y = terms.sum(axis=0)
    expected = np.where(y == 0, 1 / len(signs), terms / np.where(y == 0, 1, y)) * np.cos(y)
    inputs = [keras.Input((4,), **F64) for _ in signs]
    model = keras.Model(inputs, ops.cos(merge(inputs)))
    received = innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all").analyze(list(xs))
    for r, e in zip(received, expected, strict=True):
        assert_close(r, e)


def test_sum_of_two_sums():
    """a + b - c in two steps is the same as in one."""
    inputs = [keras.Input((4,), **F64) for _ in range(3)]
    a, b, c = (data(2, 4, seed=s) for s in range(3))
    received = lrp(inputs[0] + inputs[1] - inputs[2], inputs, [a, b, c])
    s = np.sin(a + b - c) / (a + b - c)
    for r, term in zip(received, (a, b, -c), strict=True):
        assert_close(r, term * s)


@pytest.mark.parametrize("merge", [lambda x: L.Add(**F64)([x, x]), lambda x: x + x, lambda x: L.Average(**F64)([x, x])])
def test_the_same_input_twice_counts_once_per_input(merge):
    """Each of the two inputs gets half: x gets r, not 2 r."""
    inputs, x = keras.Input((4,), **F64), data(3, 4)
    assert_close(lrp(merge(inputs), inputs, x), np.sin(merge(x)))


def test_concatenate_splits():
    inputs = [keras.Input((3, 2), **F64), keras.Input((3, 4), **F64)]
    a, b = data(2, 3, 2), data(2, 3, 4, seed=1)
    received = lrp(L.Concatenate(**F64)(inputs), inputs, [a, b])
    assert_close(received[0], np.sin(a))
    assert_close(received[1], np.sin(b))


# --- nodes that move or copy values ------------------------------------------------------------------------------


SHAPES = {
    "reshape": (L.Reshape((4, 3), **F64), (2, 6)),
    "flatten": (L.Flatten(**F64), (2, 3, 2)),
    "flatten_first": (L.Flatten(data_format="channels_first", **F64), (2, 3, 2)),
    "permute": (L.Permute((3, 1, 2), **F64), (2, 3, 4)),
    "repeat": (L.RepeatVector(3, **F64), (4,)),
    "crop1d": (L.Cropping1D((1, 2), **F64), (5, 2)),
    "crop2d": (L.Cropping2D(((1, 0), (0, 2)), **F64), (3, 4, 2)),
    "crop3d": (L.Cropping3D(1, **F64), (3, 3, 3, 1)),
    "pad1d": (L.ZeroPadding1D((1, 2), **F64), (3, 2)),
    "pad2d": (L.ZeroPadding2D(((1, 0), (0, 2)), **F64), (3, 2, 2)),
    "pad3d": (L.ZeroPadding3D(1, **F64), (2, 1, 2, 1)),
    "up1d": (L.UpSampling1D(3, **F64), (3, 2)),
    "up3d": (L.UpSampling3D(2, **F64), (2, 1, 2, 2)),
    "center_crop": (L.CenterCrop(2, 2, **F64), (4, 4, 1)),
    "transpose": (lambda x: ops.transpose(x, (0, 3, 1, 2)), (2, 3, 4)),
    "flip": (lambda x: ops.flip(x, axis=1), (3, 2)),
    "slice": (lambda x: x[:, 1:, ::2], (3, 4)),
    "tile": (lambda x: ops.tile(x, (1, 2, 1)), (2, 3)),
    "roll": (lambda x: ops.roll(x, 1, axis=1), (4, 2)),
    "pad_op": (lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0))), (2, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_moved_values_take_their_relevance_along(name):
    """Every output has one input (or none: padding), which takes all, also where the value is 0; copies add up."""
    layer, shape = SHAPES[name]
    inputs = keras.Input(shape, **F64)
    x = data(3, *shape)
    x[0] = 0.0
    W = twins.matrix_of(layer, shape)[0]
    assert set(np.unique(W)) <= {0.0, 1.0}
    model = keras.Model(inputs, ops.cos(layer(inputs)))
    received = innv_ext.create_analyzer("lrp", model, neuron_selection_mode="all").analyze(x)
    assert_close(received, np.cos(twins.flat(x) @ W) @ W.T)


@pytest.mark.parametrize("scale", [
    L.Rescaling(2.0, offset=-1.0, **F64),
    lambda x: 3.0 * x - 1.0,
    lambda x: (1.0 - x) / 2,
])
def test_rescaling_passes_all(scale):
    """y = a x + b with constants has one input value per output value: all relevance stays on it."""
    inputs, x = keras.Input((4,), **F64), data(3, 4)
    x[0, :2] = 0.0
    assert_close(lrp(scale(inputs), inputs, x), np.sin(np.asarray(scale(x))))


# --- products ----------------------------------------------------------------------------------------------------


@functools.cache
def gated(form, gate):
    """(analyzer, dense layers): relevance flows to x only through the signal branch, or half through each."""
    x = keras.Input((4,), **F64)
    a, b = L.Dense(4, name="signal", **F64), L.Dense(4, name="gate", **F64)
    if form == "glu":
        y = L.Multiply(**F64)([a(x), ops.sigmoid(b(x))])
    elif form == "glu_swapped":
        y = ops.tanh(b(x)) * a(x)
    elif form == "hard":
        y = L.Multiply(**F64)([L.Activation("hard_sigmoid", **F64)(b(x)), a(x)])
    elif form == "softmax":
        y = L.Softmax(**F64)(b(x)) * a(x)
    randomise(a, "signal"), randomise(b, "gate")
    model = keras.Model(x, ops.sin(y))
    analyzer = innv_ext.create_analyzer("lrp.z", model, gate=gate, neuron_selection_mode="all")
    return analyzer, model, a, b


def squash(form, z):
    if form == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return {"glu": lambda t: 1 / (1 + np.exp(-t)), "glu_swapped": np.tanh,
            "hard": lambda t: np.clip(t / 6 + 0.5, 0, 1)}[form](z)


@pytest.mark.parametrize("gate", ["signal", "half"])
@pytest.mark.parametrize("form", ["glu", "glu_swapped", "hard", "softmax"])
def test_product_with_a_gate(form, gate):
    """signal: the factor that is not squashed takes all; half: both take half."""
    analyzer, _, a, b = gated(form, gate)
    x = data(3, 4)
    s, g = Matrix.of(a, (4,)), Matrix.of(b, (4,))
    r = np.sin(s(x) * squash(form, g(x)))
    expected = twins.z(x, s.W, s.b, r)
    if gate == "half":
        expected = 0.5 * expected + 0.5 * twins.z(x, g.W, g.b, r)
    assert_close(analyzer.analyze(x), expected)


def test_a_cell_of_an_lstm_in_operations():
    """The gates of h = sigmoid(o) tanh(sigmoid(i) tanh(g)) get nothing: all of h goes through g, as LRP-all says."""
    x = keras.Input((4,), **F64)
    i, g, o = (L.Dense(3, name=name, **F64) for name in "igo")
    model = keras.Model(x, ops.sigmoid(o(x)) * ops.tanh(ops.sigmoid(i(x)) * ops.tanh(g(x))))
    for layer in (i, g, o):
        randomise(layer, layer.name)
    values = data(3, 4)
    received = innv_ext.create_analyzer("lrp.z", model, neuron_selection_mode="all").analyze(values)
    candidate = Matrix.of(g, (4,))
    assert_close(received, twins.z(values, candidate.W, candidate.b, np.asarray(model(values))))


@pytest.mark.parametrize("gate", ["signal", "half"])
def test_squeeze_and_excite(gate):
    """The map takes all; with "half" the (broadcast) gate takes half, summed over the positions it scales."""
    inputs = keras.Input((3, 2, 2), **F64)
    conv, dense = L.Conv2D(3, 2, padding="same", **F64), L.Dense(3, activation="sigmoid", **F64)
    maps = conv(inputs)
    weights = L.Reshape((1, 1, 3), **F64)(dense(L.GlobalAveragePooling2D(**F64)(maps)))
    y = L.Multiply(**F64)([weights, maps])
    randomise(conv, "se conv"), randomise(dense, "se dense")
    x = data(2, 3, 2, 2)
    m = Matrix.of(conv, (3, 2, 2))
    z = m(twins.flat(x)).reshape(2, 6, 3)
    pooled = z.mean(axis=1)
    kernel, bias = dense.get_weights()
    g = 1 / (1 + np.exp(-(pooled @ kernel + bias)))
    r = np.sin(g[:, None, :] * z)
    r_maps = r
    if gate == "half":
        r_gate = 0.5 * r.sum(axis=1)
        r_pooled = twins.z(pooled, kernel, bias, r_gate)
        r_maps = 0.5 * r + z / z.sum(axis=1, keepdims=True) * r_pooled[:, None, :]
    expected = twins.z(twins.flat(x), m.W, m.b, r_maps.reshape(2, -1))
    assert_close(lrp(y, inputs, x, gate=gate), expected)


def test_broadcast_factor_is_no_signal():
    """Without a squashing function the factor that is broadcast is the gate."""
    a, b = keras.Input((3, 2), **F64), keras.Input((1, 2), **F64)
    xa, xb = data(2, 3, 2), data(2, 1, 2, seed=1)
    received = lrp(b * a, [a, b], [xa, xb])
    assert_close(received[0], np.sin(xa * xb))
    np.testing.assert_array_equal(received[1], np.zeros_like(xb))


def test_product_of_equals_is_shared():
    """No factor is squashed or broadcast: both take half, whatever ``gate``; x * x gives x everything."""
    a, b = keras.Input((3,), **F64), keras.Input((3,), **F64)
    xa, xb = data(2, 3), data(2, 3, seed=1)
    received = lrp(L.Multiply(**F64)([a, b]), [a, b], [xa, xb])
    assert_close(received[0], np.sin(xa * xb) / 2)
    assert_close(received[1], np.sin(xa * xb) / 2)
    assert_close(lrp(a * a, a, xa), np.sin(xa * xa))


@pytest.mark.parametrize("gate", ["signal", "half"])
def test_products_of_zero_lose_nothing(gate):
    """Relevance may arrive where the product is 0 (flat rule, even spread); it is shared there as everywhere else."""
    a, b = keras.Input((3, 2), **F64), keras.Input((1, 2), **F64)
    xa, xb = data(2, 3, 2), data(2, 1, 2, seed=1)
    xa[0], xb[1, 0, 1] = 0.0, 0.0
    model = keras.Model([a, b], ops.cos(a * ops.sigmoid(b - 1.0) * b))
    received = innv_ext.create_analyzer("lrp.z", model, gate=gate, neuron_selection_mode="all").analyze([xa, xb])
    r = np.cos(xa * xb / (1 + np.exp(1 - xb)))
    # (a * sigmoid) is the larger factor and takes all of r, or half; of that a takes all, or half.
    first, second = (1.0, 0.0) if gate == "signal" else (0.25, 0.75)
    assert_close(received[0], first * r)
    assert_close(received[1], second * r.sum(axis=1, keepdims=True))


def test_gate_is_checked():
    x = keras.Input((3,), **F64)
    with pytest.raises(InvalidInputError, match="gate"):
        innv_ext.create_analyzer("lrp.z", keras.Model(x, x * ops.sigmoid(x)), gate="both")


# --- batch normalisation -----------------------------------------------------------------------------------------


AFTER = {  # an affine layer, then batch normalisation
    "dense": (lambda: L.Dense(4, **F64), {}, (5,)),
    "dense_no_bias": (lambda: L.Dense(4, use_bias=False, **F64), {}, (5,)),
    "dense_no_scale": (lambda: L.Dense(4, **F64), {"scale": False}, (5,)),
    "dense_no_center": (lambda: L.Dense(4, **F64), {"center": False, "epsilon": 0.1}, (5,)),
    "dense_plain": (lambda: L.Dense(4, **F64), {"center": False, "scale": False}, (5,)),
    "conv": (lambda: L.Conv2D(3, 2, padding="same", **F64), {}, (3, 3, 2)),
    "conv1d": (lambda: L.Conv1D(3, 2, **F64), {"axis": 2}, (5, 2)),
    "depthwise": (lambda: L.DepthwiseConv2D(2, depth_multiplier=2, **F64), {}, (3, 3, 2)),
    "transpose": (lambda: L.Conv2DTranspose(3, 2, strides=2, **F64), {}, (2, 2, 2)),
    "einsum": (lambda: L.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d", **F64), {}, (3, 2)),
    "einsum_ellipsis_last": (lambda: L.EinsumDense("ab...,bc->ac...", 4, bias_axes="c", **F64), {}, (2, 3)),
    "axis_1": (lambda: L.Dense(4, **F64), {"axis": 1}, (3, 2)),
    "axis_1_square": (lambda: L.Dense(3, **F64), {"axis": 1}, (3, 2)),
}
BEFORE = {  # batch normalisation, then an affine layer
    "dense": (lambda: L.Dense(4, **F64), {}, (5,)),
    "conv_same": (lambda: L.Conv2D(3, 3, padding="same", **F64), {}, (3, 4, 2)),
    "conv_strided_same": (lambda: L.Conv2D(3, 3, strides=2, padding="same", **F64), {"center": False}, (4, 4, 2)),
    "conv_causal": (lambda: L.Conv1D(3, 3, padding="causal", **F64), {"scale": False}, (5, 2)),
    "depthwise_same": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", **F64), {}, (3, 3, 2)),
    "transpose": (lambda: L.Conv2DTranspose(3, 2, strides=2, **F64), {}, (2, 2, 2)),
}


def batchnorm_net(kind, name):
    """(model, batch normalisation's matrix, the layer's matrix, inputs)."""
    make, params, shape = {"after": AFTER, "before": BEFORE}[kind][name]
    inputs, layer, norm = keras.Input(shape, **F64), make(), L.BatchNormalization(**params, **F64)
    between = layer(inputs) if kind == "after" else inputs
    outputs = norm(between) if kind == "after" else layer(norm(inputs))
    randomise(layer, f"bn layer {name}"), randomise(norm, f"bn {name}")
    D, shift = twins.diagonal(*twins.batchnorm_vectors(norm), between.shape[1:], norm.axis)
    return keras.Model(inputs, ops.sin(outputs)), (D, shift), Matrix.of(layer, shape), data(3, *shape)


FOLDED_RULES = {
    "z": (rel.Epsilon(0.0), lambda x, W, b, C, r: twins.z(x, W, b, r)),
    "alpha": (rel.AlphaBeta(2.0, 1.0), lambda x, W, b, C, r: twins.alpha_beta(x, W, b, r)),
    "flat": (rel.Flat(), lambda x, W, b, C, r: twins.flat_rule(x, C, b, r)),
}


@pytest.mark.parametrize("rule", FOLDED_RULES)
@pytest.mark.parametrize("name", [n for n in AFTER if "axis_1" not in n and n != "einsum_ellipsis_last"])
def test_batchnorm_after_an_affine_layer_is_folded(name, rule):
    model, (D, shift), m, x = batchnorm_net("after", name)
    rule, twin = FOLDED_RULES[rule]
    flat = twins.flat(x)
    W, b = m.W @ D, m.b @ D + shift
    received = innv_ext.create_analyzer("lrp", model, rule=rule, neuron_selection_mode="all").analyze(x)
    assert_close(received, twin(flat, W, b, m.C, np.sin(flat @ W + b)))


@pytest.mark.parametrize("rule", FOLDED_RULES)
@pytest.mark.parametrize("name", BEFORE)
def test_batchnorm_before_an_affine_layer_is_folded(name, rule):
    """With zero padding the bias of the merged layer is smaller at the border, where less of the shift arrives."""
    model, (D, shift), m, x = batchnorm_net("before", name)
    rule, twin = FOLDED_RULES[rule]
    flat = twins.flat(x)
    W, b = D @ m.W, shift @ m.W + m.b
    received = innv_ext.create_analyzer("lrp", model, rule=rule, neuron_selection_mode="all").analyze(x)
    assert_close(received, twin(flat, W, b, m.C, np.sin(flat @ W + b)))


@pytest.mark.parametrize("batchnorm", ["fold", "linear"])
@pytest.mark.parametrize("name", ["axis_1", "axis_1_square", "einsum_ellipsis_last"])
def test_batchnorm_along_another_axis_is_a_node_of_its_own(name, batchnorm):
    """E.g. axis=1 behind a dense layer on (3, features) does not fit its kernel; even if both axes are equally long."""
    model, (D, shift), m, x = batchnorm_net("after", name)
    flat = twins.flat(x)
    hidden = m(flat)
    r = twins.z(hidden, D, shift, np.sin(hidden @ D + shift))
    params = {"batchnorm": batchnorm, "neuron_selection_mode": "all"}
    received = innv_ext.create_analyzer("lrp.z", model, **params).analyze(x)
    assert_close(received, twins.z(flat, m.W, m.b, r))


@pytest.mark.parametrize("square", [False, True])
def test_batchnorm_behind_a_channels_first_convolution(square):
    """It is folded; also where the map is as wide as it has channels. (float32: TensorFlow on CPU has nothing else.)"""
    shape = (2, 4, 4) if square else (2, 4, 5)
    inputs = keras.Input(shape)
    layer = L.Conv2D(4, 1, data_format="channels_first", use_bias=False)
    norm = L.BatchNormalization(axis=1)
    model = keras.Model(inputs, ops.sin(norm(layer(inputs))))
    randomise(layer, "first conv"), randomise(norm, "first bn")
    kernel = np.asarray(layer.kernel, "float64")[0, 0]
    scale, shift = twins.batchnorm_vectors(norm)
    size = shape[1] * shape[2]
    W = np.einsum("io,pq->ipoq", kernel * scale, np.eye(size)).reshape(2 * size, 4 * size)
    b = np.repeat(shift, size)
    x = data(2, *shape)
    flat = twins.flat(x)
    received = innv_ext.create_analyzer("lrp.alpha_2_beta_1", model, neuron_selection_mode="all").analyze(x)
    assert_close(received, twins.alpha_beta(flat, W, b, np.sin(flat @ W + b)), 1e-4)


def test_batchnorm_that_cannot_be_folded():
    """Its affine neighbour is used by another branch too, and a ReLU follows: it stays a node of its own."""
    inputs, layer, norm = keras.Input((4,), **F64), L.Dense(3, **F64), L.BatchNormalization(**F64)
    z = layer(inputs)
    y = L.Add(**F64)([L.ReLU(**F64)(norm(z)), z])
    randomise(layer, "shared dense"), randomise(norm, "shared bn")
    m, (D, shift) = Matrix.of(layer, (4,)), twins.diagonal(*twins.batchnorm_vectors(norm), (3,), -1)
    x = data(3, 4)
    h = m(x)
    a = twins.pos(h @ D + shift)
    r = np.sin(a + h)
    r_norm, r_direct = a / (a + h) * r, h / (a + h) * r
    expected = twins.alpha_beta(x, m.W, m.b, r_direct + twins.epsilon(h, D, shift, r_norm))
    assert_close(lrp(y, inputs, x, rule="alpha_2_beta_1"), expected)


NORMS = {"default": ({}, (4, 3)), "axis_1": ({"axis": 1}, (4, 3)), "axis_1_square": ({"axis": 1}, (3, 3)),
         "axis_-2": ({"axis": -2}, (2, 4, 3)),
         "no_scale": ({"scale": False}, (4, 3)), "no_center": ({"center": False}, (4, 3))}


@functools.cache
def norm_alone(name):
    """Batch normalisation and nothing else."""
    params, shape = NORMS[name]
    inputs, norm = keras.Input(shape, **F64), L.BatchNormalization(epsilon=0.01, **params, **F64)
    model = keras.Model(inputs, ops.sin(norm(inputs)))
    randomise(norm, f"alone {name}")
    return model, norm, shape, data(3, *shape)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("batchnorm", ["linear", "two_linear", "hui_binder"])
def test_batchnorm_as_its_own_nodes(name, batchnorm):
    model, norm, shape, x = norm_alone(name)
    scale, shift = twins.batchnorm_vectors(norm)
    flat = twins.flat(x)
    D, b = twins.diagonal(scale, shift, shape, norm.axis)
    r = np.sin(flat @ D + b)
    if batchnorm == "linear":
        expected = twins.epsilon(flat, D, b, r, 0.2)
    elif batchnorm == "hui_binder":
        expected = twins.hui_binder(flat, D, b, r)
    else:
        inverse = 1 / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        gamma = np.asarray(norm.gamma) if norm.scale else np.ones_like(scale)
        beta = np.asarray(norm.beta) if norm.center else np.zeros_like(scale)
        D1, b1 = twins.diagonal(inverse, -np.asarray(norm.moving_mean) * inverse, shape, norm.axis)
        D2, b2 = twins.diagonal(gamma, beta, shape, norm.axis)
        expected = twins.epsilon(flat, D1, b1, twins.epsilon(flat @ D1 + b1, D2, b2, r, 0.2), 0.2)
    params = {"batchnorm": batchnorm, "neuron_selection_mode": "all", "epsilon": 0.2}
    assert_close(innv_ext.create_analyzer("lrp.epsilon", model, **params).analyze(x), expected)


def test_batchnorm_rules_inside_a_net():
    """conv (alpha-beta) -> BN -> ReLU -> dense (epsilon): as a node of its own BN gets epsilon or Hui's rule."""
    inputs = keras.Input((3, 3, 2), **F64)
    conv, norm, dense = L.Conv2D(3, 2, **F64), L.BatchNormalization(**F64), L.Dense(3, **F64)
    hidden = norm(conv(inputs))
    model = keras.Model(inputs, ops.sin(dense(L.Flatten(**F64)(L.ReLU(**F64)(hidden)))))
    for i, layer in enumerate((conv, norm, dense)):
        randomise(layer, f"bn net {i}")
    a, c = Matrix.of(conv, (3, 3, 2)), Matrix.of(dense, (12,))
    D, shift = twins.diagonal(*twins.batchnorm_vectors(norm), (2, 2, 3), -1)
    x = data(3, 3, 3, 2)
    flat = twins.flat(x)
    h = a(flat)
    relu = twins.pos(h @ D + shift)
    r = twins.epsilon(relu, c.W, c.b, np.sin(c(relu)), 0.1)
    own = {"linear": twins.epsilon(h, D, shift, r, 0.1), "hui_binder": twins.hui_binder(h, D, shift, r)}
    expected = {k: twins.alpha_beta(flat, a.W, a.b, v) for k, v in own.items()}
    expected["fold"] = twins.alpha_beta(flat, a.W @ D, a.b @ D + shift, r)
    for batchnorm, relevance in expected.items():
        params = {"batchnorm": batchnorm, "neuron_selection_mode": "all"}
        received = innv_ext.create_analyzer("lrp.sequential_preset_b", model, **params).analyze(x)
        assert_close(received, relevance)


def test_batchnorm_mode_is_checked():
    with pytest.raises(InvalidInputError, match="batchnorm"):
        innv_ext.create_analyzer("lrp.z", norm_alone("default")[0], batchnorm="none")


# --- activations -------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
def own_relu(x):
    """A user's activation function, made of operations."""
    return ops.maximum(x, 0.0)


RELUS = {
    "fused": lambda dense, x: L.Dense(5, activation="relu", **F64)(x),
    "layer": lambda dense, x: L.ReLU(**F64)(dense(x)),
    "activation": lambda dense, x: L.Activation("relu", **F64)(dense(x)),
    "op": lambda dense, x: ops.relu(dense(x)),
    "function": lambda dense, x: keras.activations.relu(dense(x)),
    "capped": lambda dense, x: L.ReLU(max_value=6.0, **F64)(0.1 * dense(x)) * 10.0,
    "relu6": lambda dense, x: keras.activations.relu6(0.1 * dense(x)) * 10.0,
    "leaky_0": lambda dense, x: L.LeakyReLU(negative_slope=0.0, **F64)(dense(x)),
    "maximum": lambda dense, x: ops.maximum(dense(x), 0.0),
    "own": lambda dense, x: L.Dense(5, activation=own_relu, **F64)(x),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_form_of_relu_gives_the_same_relevance(name):
    inputs = keras.Input((4,), **F64)
    low, high = L.Dense(5, **F64), L.Dense(3, **F64)
    model = keras.Model(inputs, high(RELUS[name](low, inputs)))
    first = next(layer for layer in model.layers if isinstance(layer, L.Dense))
    randomise(first, "relu low"), randomise(high, "relu high")
    linear = L.Dense(5, **F64)
    linear.build((None, 4))
    linear.set_weights(first.get_weights())
    m, n = Matrix.of(linear, (4,)), Matrix.of(high, (5,))
    x = data(6, 4)
    assert np.abs(m(x)).max() < 60  # nothing reaches the caps
    rule = lambda x, m, r: twins.alpha_beta(x, m.W, m.b, r)
    received = innv_ext.create_analyzer("lrp.alpha_2_beta_1", model, neuron_selection_mode="all").analyze(x)
    assert_close(received, twins.chain(x, [(m, rule), (n, rule)], lambda y: y))


@pytest.mark.parametrize("name", ["tanh", "gelu", "softplus", "leaky_relu", "elu"])
def test_activations_pass_relevance_on(name):
    inputs, layer = keras.Input((4,), **F64), L.Dense(5, activation=name, **F64)
    model = keras.Model(inputs, layer(inputs))
    randomise(layer, "activated")
    kernel, bias = layer.get_weights()
    x = data(3, 4)
    y = np.asarray(model(x))
    received = innv_ext.create_analyzer("lrp.z", model, neuron_selection_mode="all").analyze(x)
    assert_close(received, twins.z(x, kernel, bias, y))
