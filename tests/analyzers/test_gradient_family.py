"""Gradients against finite differences and the tape; averaged gradients against loops; Deconvnet and Guided Backprop
against a backward pass by hand."""

import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import InvalidInputError, UnsupportedModelError

F64 = {"dtype": "float64"}


def randomise(model, scale=1.0):
    """Weights of mixed sign, the same in every run."""
    for i, w in enumerate(model.weights):
        rng = np.random.default_rng((zlib.crc32(model.name.encode()), i))
        w.assign(scale * rng.normal(size=w.shape))
    return model


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tape_gradient(model, x, score):
    """d score(model(x)) / dx with TensorFlow's own tape; x may be a list."""
    xs = tf.nest.map_structure(tf.convert_to_tensor, x)
    with tf.GradientTape() as tape:
        tape.watch(xs)
        value = tf.reduce_sum(score(model(xs)))
    return tf.nest.map_structure(lambda g: g.numpy(), tape.gradient(value, xs))


def chosen(c):
    """The score that picks output c (per sample)."""
    return lambda y: tf.gather(tf.reshape(y, (y.shape[0], -1)), c, batch_dims=1)


@pytest.fixture(scope="module")
def smooth():
    """tanh and softplus: infinitely differentiable."""
    return randomise(keras.Sequential([
        keras.Input((4,), **F64), L.Dense(6, activation="tanh", **F64), L.Dense(5, activation="softplus", **F64),
        L.Dense(3, **F64),
    ], name="smooth0"), 0.7)


@pytest.fixture(scope="module")
def cnn():
    """(model, its logits): convolution, ReLU, batch normalisation, max and average pooling, a residual sum, softmax."""
    x = keras.Input((6, 5, 2), **F64)
    h = L.ReLU(**F64)(L.BatchNormalization(**F64)(L.Conv2D(3, 3, padding="same", **F64)(x)))
    h = L.Add(**F64)([h, L.Conv2D(3, 1, **F64)(x)])
    h = L.AveragePooling2D(2, padding="same", **F64)(L.MaxPooling2D(2, strides=1, **F64)(h))
    y = L.Dense(4, **F64)(L.Flatten(**F64)(h))
    model = randomise(keras.Model(x, L.Softmax(**F64)(y), name="cnn"), 0.5)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance) + 0.3)
    return model, keras.Model(x, y)


@pytest.fixture(scope="module")
def pair():
    """Two inputs of different shape, one of them used twice, smooth."""
    a, b = keras.Input((3,), name="a", **F64), keras.Input((2, 2), name="b", **F64)
    h = L.Concatenate(**F64)([L.Dense(4, activation="tanh", **F64)(a), L.Flatten(**F64)(b)])
    h = L.Concatenate(**F64)([L.Dense(5, activation="softplus", **F64)(h), a])
    return randomise(keras.Model([a, b], L.Dense(3, **F64)(h), name="pair"), 0.7)


# --- gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smooth", "cnn"])
def test_gradient_against_finite_differences(name, request):
    """Central differences, value by value."""
    found = request.getfixturevalue(name)
    model, logits = found if name == "cnn" else (found, found)
    x, c = data(2, *model.input_shape[1:]), [2, 0]
    score = lambda x: np.asarray(logits(x))[[0, 1], c]
    flat, step, expected = x.reshape(2, -1), 1e-6, np.zeros((2, x[0].size))
    for i in range(flat.shape[1]):
        shift = np.zeros_like(flat)
        shift[:, i] = step
        up, down = (score((flat + sign * shift).reshape(x.shape)) for sign in (1, -1))
        expected[:, i] = (up - down) / (2 * step)
    received = innv_ext.create_analyzer("gradient", model).analyze(x, c)
    np.testing.assert_allclose(received, expected.reshape(x.shape), atol=1e-8)


@pytest.mark.parametrize("postprocess", [None, "abs", "square"])
def test_postprocess(smooth, postprocess):
    x = data(3, 4)
    g = tape_gradient(smooth, x, chosen([1, 1, 1]))
    expected = {None: g, "abs": np.abs(g), "square": g**2}[postprocess]
    analyzer = innv_ext.create_analyzer("gradient", smooth, postprocess=postprocess)
    np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=1e-10)


def test_input_times_gradient(cnn):
    x, (model, logits) = data(3, 6, 5, 2), cnn
    c = np.argmax(logits(x), axis=1)
    received = innv_ext.create_analyzer("input_t_gradient", model).analyze(x)
    np.testing.assert_allclose(received, x * tape_gradient(logits, x, chosen(c)), rtol=1e-9, atol=1e-12)


def test_input_times_gradient_sums_to_the_score_without_biases():
    """A net of ReLUs without biases is homogeneous: f(x) = x . df/dx."""
    net = randomise(keras.Sequential([
        keras.Input((5,), **F64), L.Dense(7, use_bias=False, activation="relu", **F64), L.LeakyReLU(**F64),
        L.Dense(3, use_bias=False, **F64),
    ], name="homogeneous"))
    found = innv_ext.create_analyzer("input_t_gradient", net).explain(data(4, 5), 1)
    np.testing.assert_allclose(found.attribution.sum(axis=1), found.extras["score"], rtol=1e-10)


MODES = {  # neuron_selection_mode, neuron_selection, score of the output for the tape
    "max_activation": ("max_activation", None, lambda y: tf.reduce_max(y, axis=1)),
    "all": ("all", None, lambda y: tf.reduce_sum(y, axis=1)),
    "one_index": ("index", 1, chosen([1, 1, 1])),
    "index_per_sample": ("index", np.array([2, 0, 1]), chosen([2, 0, 1])),
    "index_overrides": ("max_activation", [0, 2, 2], chosen([0, 2, 2])),
    "all_overrides": ("index", "all", lambda y: tf.reduce_sum(y, axis=1)),
    "max_overrides": ("all", "max_activation", lambda y: tf.reduce_max(y, axis=1)),
    "function": (lambda y: y[:, 0] * y[:, 2] - y[:, 1] ** 2, None, lambda y: y[:, 0] * y[:, 2] - y[:, 1] ** 2),
}


@pytest.mark.parametrize("name", MODES)
def test_neuron_selection(smooth, name):
    mode, selection, score = MODES[name]
    x = data(3, 4, seed=5)
    assert len(set(np.argmax(smooth(x), axis=1))) > 1
    received = innv_ext.create_analyzer("gradient", smooth, neuron_selection_mode=mode).analyze(x, selection)
    np.testing.assert_allclose(received, tape_gradient(smooth, x, score), rtol=1e-10)


@pytest.mark.parametrize("selection", [(1, 2), [(0, 1), (1, 2), (1, 0)]])
def test_neuron_selection_in_outputs_of_higher_rank(selection):
    """A tuple index for all samples, or one per sample."""
    x = keras.Input((2, 3), **F64)
    net = randomise(keras.Model(x, L.Dense(3, activation="tanh", **F64)(x), name="sequence"))
    values = data(3, 2, 3)
    flat = np.ravel_multi_index(tuple(np.broadcast_to(selection, (3, 2)).T), (2, 3))
    expected = tape_gradient(net, values, chosen(flat))
    received = innv_ext.create_analyzer("gradient", net).analyze(values, selection)
    np.testing.assert_allclose(received, expected, rtol=1e-10)


@pytest.mark.parametrize("on", ["logits", "output"])
def test_softmax_is_cut_unless_asked_for(cnn, on):
    x, (model, logits) = data(2, 6, 5, 2), cnn
    expected = tape_gradient(model if on == "output" else logits, x, chosen([1, 3]))
    received = innv_ext.create_analyzer("gradient", model, on=on).analyze(x, [1, 3])
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-13)


def test_model_without_softmax_keeps_float64(cnn):
    """The public helper gives the logits in the precision of the model."""
    x, (model, logits) = data(2, 6, 5, 2), cnn
    np.testing.assert_allclose(innv_ext.model_wo_softmax(model)(x), logits(x), rtol=1e-12)


def test_several_inputs(pair):
    """A list comes back as a list, a dict as a dict."""
    a, b = data(3, 3), data(3, 2, 2, seed=1)
    expected = tape_gradient(pair, [a, b], chosen([0, 1, 2]))
    analyzer = innv_ext.create_analyzer("gradient", pair)
    for received in (analyzer.analyze([a, b], [0, 1, 2]), list(analyzer.analyze({"a": a, "b": b}, [0, 1, 2]).values())):
        for r, e in zip(received, expected, strict=True):
            np.testing.assert_allclose(r, e, rtol=1e-10)


# --- smoothgrad --------------------------------------------------------------------------------------------------


def noisy_gradients(model, x, draws, scale, c):
    """The gradient at each noisy copy, (copies, batch, ...), of the class selected at x itself."""
    return np.stack([tape_gradient(model, x + scale * n, chosen(c)) for n in draws])


@pytest.mark.parametrize("postprocess", [None, "abs", "square"])
@pytest.mark.parametrize("noise", ["relative", "absolute"])
def test_smoothgrad_against_a_loop(smooth, noise, postprocess):
    """All samples share the draws; abs and square act on each noisy gradient, not on the mean."""
    x = data(3, 4, seed=5) * np.array([[1.0], [3.0], [0.5]])
    params = {"augment_by_n": 7, "noise_scale": 0.6, "noise": noise, "postprocess": postprocess, "seed": 3}
    analyzer = innv_ext.create_analyzer("smoothgrad", smooth, **params)
    draws = analyzer.draws(slice(0, 7), [(4,)])[0].astype("float64")
    spread = x.max(axis=1, keepdims=True) - x.min(axis=1, keepdims=True)
    scale = 0.6 * (spread if noise == "relative" else 1.0)
    c = np.argmax(smooth(x), axis=1)
    assert any((np.argmax(smooth(x + scale * n), axis=1) != c).any() for n in draws)  # c is fixed at x: it matters
    g = noisy_gradients(smooth, x, draws, scale, c)
    expected = {None: g, "abs": np.abs(g), "square": g**2}[postprocess].mean(axis=0)
    np.testing.assert_allclose(analyzer.analyze(x), expected, rtol=1e-9)


@pytest.fixture(scope="module")
def parabola():
    """f = sum x^2 / 2, whose gradient at z is z itself: smoothgrad shows the noise."""
    x = keras.Input((10, 10), **F64)
    return keras.Model(x, ops.sum(x * x, axis=(1, 2), keepdims=True)[:, 0] / 2)


@pytest.mark.parametrize("scale", [0.1, 0.4])
@pytest.mark.parametrize("noise", ["relative", "absolute"])
def test_noise_has_the_documented_size(parabola, noise, scale):
    """The mean of squared gradients is x^2 + sigma^2, sigma = scale * (max x - min x) or scale."""
    x = np.stack([np.linspace(-1, 1, 100), np.linspace(0, 10, 100)]).reshape(2, 10, 10)
    analyzer = innv_ext.create_analyzer("smoothgrad", parabola, augment_by_n=64, noise=noise, noise_scale=scale,
                                        postprocess="square", batch_size=128)
    sigma = scale * (np.array([2.0, 10.0]) if noise == "relative" else 1.0)
    plain = innv_ext.create_analyzer("smoothgrad", parabola, augment_by_n=64, noise=noise, noise_scale=scale,
                                     batch_size=128).analyze(x)
    variance = (analyzer.analyze(x) - plain**2).mean(axis=(1, 2))  # of 64 draws: (1 - 1/64) sigma^2
    np.testing.assert_allclose(np.sqrt(variance * 64 / 63), sigma * np.ones(2), rtol=0.03)  # 6400 draws: 0.9 %
    deviation = (plain - x) / np.reshape(sigma * np.ones(2), (2, 1, 1)) * 8
    assert np.abs(deviation.mean()) < 0.4 and 0.8 < deviation.std() < 1.2


def test_noise_differs_between_values_copies_inputs_and_seeds(pair):
    analyzer, other = (innv_ext.create_analyzer("smoothgrad", pair, seed=s) for s in (0, 1))
    shapes = [(3,), (2, 2)]
    drawn = [np.concatenate([a.ravel() for a in an.draws(slice(0, 5), shapes)]) for an in (analyzer, other)]
    values = np.concatenate(drawn)
    assert len(np.unique(values)) == len(values) == 2 * 5 * 7
    for whole, part in zip(*(analyzer.draws(slice(*ends), shapes) for ends in ((0, 5), (2, 4))), strict=True):
        np.testing.assert_array_equal(whole[2:4], part)


def test_smoothgrad_without_noise_is_the_gradient(pair):
    xs = [data(2, 3), data(2, 2, 2, seed=1)]
    received = innv_ext.create_analyzer("smoothgrad", pair, noise_scale=0, augment_by_n=3).analyze(xs, 1)
    for r, e in zip(received, tape_gradient(pair, xs, chosen([1, 1])), strict=True):
        np.testing.assert_allclose(r, e, rtol=1e-9)


def test_smoothgrad_with_several_inputs(pair):
    """Each input has its own draws and its own range."""
    xs = [data(2, 3), 5 * data(2, 2, 2, seed=1)]
    analyzer = innv_ext.create_analyzer("smoothgrad", pair, noise_scale=0.2, augment_by_n=4)
    draws = [a.astype("float64") for a in analyzer.draws(slice(0, 4), [(3,), (2, 2)])]
    ranges = [np.ptp(x.reshape(2, -1), axis=1).reshape((2,) + (1,) * (x.ndim - 1)) for x in xs]
    points = [[x + 0.2 * s * d[j] for x, s, d in zip(xs, ranges, draws, strict=True)] for j in range(4)]
    expected = [np.mean(g, axis=0) for g in zip(*(tape_gradient(pair, p, chosen([2, 0])) for p in points), strict=True)]
    for r, e in zip(analyzer.analyze(xs, [2, 0]), expected, strict=True):
        np.testing.assert_allclose(r, e, rtol=1e-9)


@pytest.mark.parametrize("name", ["smoothgrad", "integrated_gradients"])
def test_chunks_do_not_matter(smooth, name):
    """``batch_size`` splits samples and points; the result stays."""
    x = data(5, 4)
    whole = innv_ext.create_analyzer(name, smooth, batch_size=1000).analyze(x)
    np.testing.assert_allclose(innv_ext.create_analyzer(name, smooth, batch_size=3).analyze(x), whole, rtol=1e-9)


# --- integrated gradients ----------------------------------------------------------------------------------------


def line_rule(method, n):
    """Positions on the line from the reference (0) to x (1), and their weights."""
    k = np.arange(n)
    if method == "riemann_left":
        return k / n, np.full(n, 1 / n)
    if method == "riemann_right":
        return (k + 1) / n, np.full(n, 1 / n)
    if method == "riemann_middle":
        return (k + 0.5) / n, np.full(n, 1 / n)
    if method == "riemann_trapezoid":
        return k / (n - 1), np.array([0.5, *[1.0] * (n - 2), 0.5]) / (n - 1)
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return 0.5 * nodes + 0.5, 0.5 * weights


METHODS = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"]


@pytest.mark.parametrize("method", METHODS)
def test_integrated_gradients_against_a_loop(smooth, method):
    """c is fixed at x, not at the points on the way."""
    x, reference = data(3, 4, seed=5), np.array([0.5, -1.0, 0.0, 2.0])
    at, weights = line_rule(method, 6)
    c = np.argmax(smooth(x), axis=1)
    assert any((np.argmax(smooth(reference + p * (x - reference)), axis=1) != c).any() for p in at)
    mean = sum(w * tape_gradient(smooth, reference + p * (x - reference), chosen(c))
               for p, w in zip(at, weights, strict=True))
    params = {"steps": 6, "method": method, "reference_inputs": reference}
    received = innv_ext.create_analyzer("integrated_gradients", smooth, **params).analyze(x)
    np.testing.assert_allclose(received, (x - reference) * mean, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 64])
@pytest.mark.parametrize("method", METHODS)
def test_weights_sum_to_one(smooth, method, steps):
    """On a linear function every method is exact, whatever the number of steps."""
    analyzer = innv_ext.create_analyzer("integrated_gradients", smooth, method=method, steps=steps, check_forward=False)
    at, weights, _ = analyzer.points()
    assert weights.shape == (steps,) and np.all(weights > 0)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-13)
    assert at.shape == (steps,) and at.min() >= 0 and at.max() <= 1
    if method not in ("riemann_left", "riemann_right"):
        np.testing.assert_allclose((weights * at).sum(), 0.5, rtol=1e-13)


@pytest.mark.parametrize("reference", [0, 0.3, [0.1, 0.2, -0.3, 0.4]])
def test_integrated_gradients_are_complete(smooth, reference):
    """Gauss-Legendre with 64 steps: the sum is f_c(x) - f_c(x0)."""
    x = 2 * data(5, 4)
    found = innv_ext.create_analyzer("integrated_gradients", smooth, reference_inputs=reference).explain(x, 1)
    base = np.broadcast_to(reference, x.shape).astype("float64")
    difference = np.asarray(smooth(x) - smooth(base))[:, 1]
    np.testing.assert_allclose(found.attribution.sum(axis=1), difference, rtol=1e-6)
    np.testing.assert_allclose(found.extras["sum"], difference, rtol=1e-6)


def test_convergence_of_the_methods(smooth):
    """Left and right sums are of first order, middle and trapezoid of second: halving the step shows it."""
    x = 2 * data(1, 4)
    exact = np.asarray(smooth(x) - smooth(0 * x))[0, 1]

    def error(method, steps):
        params = {"method": method, "steps": steps, "check_forward": False}
        return abs(innv_ext.create_analyzer("integrated_gradients", smooth, **params).analyze(x, 1).sum() - exact)

    for method, order in (("riemann_left", 1), ("riemann_middle", 2)):
        assert 1.8**order < error(method, 32) / error(method, 64) < 2.2**order


REFERENCES = {
    "scalar": (0.5, 0.5, 0.5),
    "list": ([0.5, [[1.0, 2.0], [3.0, 4.0]]], 0.5, np.array([[1.0, 2.0], [3.0, 4.0]])),
    "arrays": ([np.array([1.0, 2.0, 3.0]), np.full((1, 2, 2), 0.1)], np.array([1.0, 2.0, 3.0]), 0.1),
    "dict": ({"b": -1.0, "a": 2.0}, 2.0, -1.0),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_references_of_several_inputs(pair, name):
    """One number for all, or one reference per input, in the structure of the inputs."""
    given, ref_a, ref_b = REFERENCES[name]
    a, b = data(2, 3), data(2, 2, 2, seed=1)
    ra, rb = np.broadcast_to(ref_a, a.shape), np.broadcast_to(ref_b, b.shape)
    at, weights = line_rule("gausslegendre", 5)
    means = [0.0, 0.0]
    for p, w in zip(at, weights, strict=True):
        g = tape_gradient(pair, [ra + p * (a - ra), rb + p * (b - rb)], chosen([1, 0]))
        means = [m + w * v for m, v in zip(means, g, strict=True)]
    params = {"steps": 5, "reference_inputs": given}
    received = innv_ext.create_analyzer("integrated_gradients", pair, **params).analyze([a, b], [1, 0])
    np.testing.assert_allclose(received[0], (a - ra) * means[0], rtol=1e-9)
    np.testing.assert_allclose(received[1], (b - rb) * means[1], rtol=1e-9)


@pytest.mark.parametrize(("name", "params"), [
    ("smoothgrad", {"augment_by_n": 0}), ("smoothgrad", {"noise": "gaussian"}), ("smoothgrad", {"noise_scale": -1}),
    ("smoothgrad", {"postprocess": "max"}), ("integrated_gradients", {"steps": 0}),
    ("integrated_gradients", {"method": "simpson"}), ("gradient", {"postprocess": "sum"}),
])
def test_bad_parameters(smooth, name, params):
    (argument,) = params
    with pytest.raises(InvalidInputError, match=argument):
        innv_ext.create_analyzer(name, smooth, **params)


def test_reference_of_the_wrong_shape(smooth):
    analyzer = innv_ext.create_analyzer("integrated_gradients", smooth, reference_inputs=[1.0, 2.0, 3.0])
    with pytest.raises(InvalidInputError, match="reference_inputs"):
        analyzer.analyze(data(2, 4))


# --- deconvnet and guided backprop -------------------------------------------------------------------------------


def keras_relu(z, cap=np.inf, slope=0.0, threshold=0.0):
    """Value and derivative of ``keras.layers.ReLU`` (no test value sits on a kink)."""
    inside, above = (z >= threshold) & (z < cap), z >= cap
    value = np.where(above, cap, np.where(inside, z, slope * (z - threshold)))
    return value, np.where(above, 0.0, np.where(inside, 1.0, slope))


RELUS = {  # layer, parameters of the reference
    "plain": (lambda: L.ReLU(**F64), {}),
    "activation": (lambda: L.Activation("relu", **F64), {}),
    "op": (lambda: ops.relu, {}),
    "capped": (lambda: L.ReLU(max_value=1.5, **F64), {"cap": 1.5}),
    "relu6": (lambda: L.Activation("relu6", **F64), {"cap": 6.0}),
    "threshold": (lambda: L.ReLU(threshold=0.7, **F64), {"threshold": 0.7}),
    # TensorFlow keeps slopes in float32: numbers that it holds exactly.
    "slope": (lambda: L.ReLU(negative_slope=0.25, **F64), {"slope": 0.25}),
    "everything": (lambda: L.ReLU(max_value=2.0, negative_slope=0.125, threshold=0.5, **F64),
                   {"cap": 2.0, "slope": 0.125, "threshold": 0.5}),
    "leaky": (lambda: L.LeakyReLU(negative_slope=0.375, **F64), {"slope": 0.375}),
    "prelu": (lambda: L.PReLU(alpha_initializer=keras.initializers.Constant(0.5), **F64), {"slope": 0.5}),
    "leaky_0": (lambda: L.LeakyReLU(negative_slope=0.0, **F64), {}),
}


@pytest.fixture(scope="module")
def weights():
    """Of an MLP 5 -> 8 -> 7 -> 3; large enough that ReLU6 is capped now and then."""
    rng = np.random.default_rng(11)
    return [(1.5 * rng.normal(size=(m, n)), rng.normal(size=n)) for m, n in ((5, 8), (8, 7), (7, 3))]


def mlp(weights, relu):
    x = h = keras.Input((5,), **F64)
    for k, (W, b) in enumerate(weights):
        layer = L.Dense(len(b), **F64)
        h = layer(h)
        layer.set_weights([W, b])
        h = relu()(h) if k < 2 else h
    return keras.Model(x, h)


def backward(weights, x, c, settings, at_relu):
    """Forward and backward by hand; ``at_relu(r, derivative)`` is the method. Returns (relevance, pre-activations)."""
    derivatives, zs = [], []
    for k, (W, b) in enumerate(weights):
        x = x @ W + b
        if k < 2:
            zs.append(x)
            x, d = keras_relu(x, **settings)
            derivatives.append(d)
    r = np.eye(3)[c]
    for k, (W, _) in reversed(list(enumerate(weights))):
        r = r @ W.T
        if k > 0:
            r = at_relu(r, derivatives[k - 1])
    return r, zs


@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "gradient"])
def test_relu_methods_against_a_backward_pass_by_hand(weights, name, relu):
    make, settings = RELUS[relu]
    method = {
        "guided_backprop": lambda r, d: np.maximum(r, 0) * d,
        "deconvnet": lambda r, d: np.maximum(r, 0),
        "gradient": lambda r, d: r * d,
    }[name]
    x, c = data(6, 5, seed=2), [0, 1, 2, 0, 1, 2]
    expected, zs = backward(weights, x, c, settings, method)
    values = np.concatenate([z.ravel() for z in zs])
    edges = [settings.get("threshold", 0.0), settings.get("cap", 0.0)]
    assert all((values > e).any() and (values < e).any() for e in edges)  # every branch of the ReLU is used
    received = innv_ext.create_analyzer(name, mlp(weights, make)).analyze(x, c)
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_postprocess_of_relu_methods(weights, name):
    model, x = mlp(weights, lambda: L.ReLU(**F64)), data(3, 5)
    plain = innv_ext.create_analyzer(name, model).analyze(x)
    np.testing.assert_array_equal(innv_ext.create_analyzer(name, model, postprocess="abs").analyze(x), np.abs(plain))


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("nested", [False, True])
def test_relus_are_found_inside_nested_models_and_fused(weights, name, nested):
    """A ReLU in a model inside the model counts as well as a fused one."""
    method = (lambda r, d: np.maximum(r, 0) * d) if name == "guided_backprop" else (lambda r, d: np.maximum(r, 0))
    layers = [L.Dense(8, activation="relu", **F64), L.Dense(7, activation="relu", **F64), L.Dense(3, **F64)]
    if nested:
        model = keras.Sequential([keras.Input((5,), **F64), keras.Sequential(layers[:2]), layers[2]])
    else:
        model = keras.Sequential([keras.Input((5,), **F64), *layers])
    for layer, w in zip(layers, weights, strict=True):
        layer.set_weights(list(w))
    x, c = data(4, 5), [0, 1, 2, 0]
    expected, _ = backward(weights, x, c, {}, method)
    np.testing.assert_allclose(innv_ext.create_analyzer(name, model).analyze(x, c), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_models_without_a_relu_are_refused(smooth, name):
    with pytest.raises(UnsupportedModelError, match=r"softplus, tanh"):
        innv_ext.create_analyzer(name, smooth)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_other_non_linearities_get_the_gradient(name):
    """dense -> tanh -> dense -> relu -> dense: special at the ReLU only."""
    layers = [L.Dense(6, activation="tanh", **F64), L.Dense(5, activation="relu", **F64), L.Dense(3, **F64)]
    model = randomise(keras.Sequential([keras.Input((4,), **F64), *layers], name="mixed"))
    (A, a), (B, b), (C, _) = (layer.get_weights() for layer in layers)
    x = data(3, 4)
    h = np.tanh(x @ A + a)
    r = np.maximum(np.eye(3)[[0, 1, 2]] @ C.T, 0)
    r = r * (h @ B + b > 0) if name == "guided_backprop" else r
    expected = ((r @ B.T) * (1 - h**2)) @ A.T
    received = innv_ext.create_analyzer(name, model).analyze(x, [0, 1, 2])
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)


# --- token inputs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    """(a model of token numbers, the same of one-hot vectors, the same of embedding vectors, tokens, the table)."""
    tokens, hot, vectors = keras.Input((5,), dtype="int32"), keras.Input((5, 7), **F64), keras.Input((5, 3), **F64)
    embed, project = L.Embedding(7, 3, **F64), L.Dense(3, use_bias=False, **F64)
    body = keras.Sequential([keras.Input((5, 3), **F64), L.Conv1D(4, 2, **F64), L.ReLU(**F64),
                             L.GlobalAveragePooling1D(**F64), L.Dense(4, activation="tanh", **F64), L.Dense(3, **F64)])
    by_token, by_hot = keras.Model(tokens, body(embed(tokens))), keras.Model(hot, body(project(hot)))
    randomise(by_token)
    for i, w in enumerate(by_token.weights):
        w.assign(np.random.default_rng(i).normal(size=w.shape))
    table = embed.get_weights()[0]
    project.set_weights([table])
    x = np.random.default_rng(1).integers(0, 7, size=(4, 5))
    return by_token, by_hot, keras.Model(vectors, body(vectors)), x, table


@pytest.mark.parametrize("name", ["gradient", "input_t_gradient", "guided_backprop", "deconvnet"])
def test_gradient_of_tokens_is_that_of_the_one_hot_coordinate(texts, name):
    by_token, by_hot, _, x, _ = texts
    received = innv_ext.create_analyzer(name, by_token).analyze(x)
    full = innv_ext.create_analyzer(name, by_hot).analyze(np.eye(7)[x])
    expected = np.take_along_axis(full, x[:, :, None], axis=2)[:, :, 0]
    assert received.shape == x.shape
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reference", [0, [1, 2, 3, 4, 5]])
def test_integrated_gradients_of_tokens(texts, reference):
    """The line between two one-hot vectors; complete as everywhere."""
    by_token, by_hot, _, x, _ = texts
    analyzer = innv_ext.create_analyzer("integrated_gradients", by_token, steps=20, reference_inputs=reference)
    base = np.eye(7)[np.broadcast_to(reference, 5)]
    hot = innv_ext.create_analyzer("integrated_gradients", by_hot, steps=20, reference_inputs=base)
    expected = hot.analyze(np.eye(7)[x], 1).sum(axis=2)
    np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=1e-9, atol=1e-12)


def test_smoothgrad_of_tokens(texts):
    """Noise on the vectors, then vector times mean gradient: the derivative along the one-hot coordinate."""
    by_token, _, by_vector, x, table = texts
    analyzer = innv_ext.create_analyzer("smoothgrad", by_token, augment_by_n=5, noise_scale=0.2)
    draws = analyzer.draws(slice(0, 5), [(5, 3)])[0].astype("float64")
    vectors = table[x]
    spread = np.ptp(vectors.reshape(4, -1), axis=1)[:, None, None]
    mean = noisy_gradients(by_vector, vectors, draws, 0.2 * spread, [2, 2, 2, 2]).mean(axis=0)
    np.testing.assert_allclose(analyzer.analyze(x, 2), (vectors * mean).sum(axis=2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lrp.z", "lrp.alpha_2_beta_1", "lrp.flat"])
def test_lrp_of_tokens_sums_over_the_vector(texts, name):
    by_token, _, by_vector, x, table = texts
    received = innv_ext.create_analyzer(name, by_token).analyze(x)
    expected = innv_ext.create_analyzer(name, by_vector).analyze(table[x]).sum(axis=2)
    np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)
