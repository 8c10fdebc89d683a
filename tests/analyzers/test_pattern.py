"""PatternNet and PatternAttribution: moments against dense loops, the thesis' toy, streaming, resuming, bad input."""

import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import innv_ext
from innv_ext.analyzers.pattern import pattern as module
from innv_ext.analyzers.pattern.pattern import PatternAttribution, PatternNet
from innv_ext.backend.neurons import neurons_of
from innv_ext.errors import DeadNeuronWarning, InvalidInputError, NotFittedError, UnsupportedModelError

MASKS = {"relu": lambda y: y > 0, "relu.negative": lambda y: y < 0, "linear": lambda y: np.ones_like(y, bool)}


def formula(x, u, y, w, kind):
    """a of one neuron from its inputs (n, d), outputs without and with bias, weights: the definition, in float64."""
    m = MASKS[kind](y)
    if not m.any():
        return np.zeros_like(w)
    covariance = np.mean(x[m] * u[m, None], axis=0) - x[m].mean(axis=0) * u.mean()
    return covariance / (w @ covariance)


def dense_twin(x, kernel, bias, kind):
    u = x @ kernel
    return np.stack([formula(x, u[:, j], u[:, j] + bias[j], kernel[:, j], kind) for j in range(u.shape[1])], axis=1)


def net(build, seed=0, dtype="float64"):
    with zoo.precision(dtype):
        model = build()
    return zoo.randomise(model, seed)


def two_dense():
    i = keras.Input((5,))
    return keras.Model(i, layers.Dense(3)(layers.Dense(7, activation="relu")(i)))


def patterns(model, x, kind="relu", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadNeuronWarning)
        return PatternNet(model, pattern_type=kind, progress=False).fit(x, **options).patterns_


def data(n, *shape, seed=0):
    """Correlated components with means that are far from 0."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, *shape)) + 2 * rng.normal(size=(n,) + (1,) * len(shape))
    return mixed * rng.uniform(0.5, 2, shape) + rng.normal(0, 3, shape)


# --- the formula -------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(MASKS)), st.integers(1, 70))
def test_dense_layers_follow_the_formula(seed, kind, batch_size):
    model = net(two_dense, seed % 1000)
    x = data(60, 5, seed=seed)
    found = patterns(model, x, kind, batch_size=batch_size)
    for layer, inputs in zip(model.layers[1:], (x, np.asarray(model.layers[1](x))), strict=True):
        kernel, bias = layer.get_weights()
        np.testing.assert_allclose(
            found[layer.name], dense_twin(inputs, kernel, bias, kind), rtol=1e-7, atol=1e-9, err_msg=layer.name
        )


CONVOLUTIONS = {
    "same": lambda: layers.Conv2D(3, 3, padding="same"),
    "valid, strides": lambda: layers.Conv2D(3, (3, 2), strides=2),
    "dilated": lambda: layers.Conv2D(2, 2, dilation_rate=2, padding="same"),
    "groups": lambda: layers.Conv2D(4, 3, groups=2, padding="same"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
    "transposed": lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_convolutions_follow_the_formula_over_patches(name, kind):
    """The patch of every output position by differentiating the output, zero padding included."""
    model = net(lambda: keras.Sequential([keras.Input((5, 5, 2)), CONVOLUTIONS[name]()]))
    x = data(6, 5, 5, 2)
    layer = model.layers[0]
    kernel, bias = layer.get_weights()
    key, found = next(iter(patterns(model, x, kind).items()))
    assert found.shape == kernel.shape
    bilinear = PatternNet(model).graph_.nodes[0].call.bilinear
    z = np.asarray(bilinear(x, kernel))
    owner = np.zeros(kernel.shape, int)
    patches = np.zeros((z.shape[0] * z.shape[1] * z.shape[2], kernel.size))
    for i in range(kernel.size):  # the factor of one weight at every output: its derivative, which is linear
        unit = np.zeros(kernel.size)
        unit[i] = 1
        out = np.asarray(bilinear(x, unit.reshape(kernel.shape)))
        channel = int(np.argmax(np.abs(out).sum(axis=(0, 1, 2))))
        owner.flat[i] = channel
        patches[:, i] = out[..., channel].ravel()
    expected = np.zeros(kernel.size)
    for c in range(z.shape[-1]):
        mine = owner.ravel() == c
        u = z[..., c].ravel()
        expected[mine] = formula(patches[:, mine], u, u + bias[c], kernel.ravel()[mine], kind)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6, atol=1e-9, err_msg=key)


def test_einsum_dense_has_neurons_along_all_its_own_axes():
    """A weight per (head, unit): as many neurons, each with the inputs of all time steps."""
    model = net(lambda: keras.Sequential([keras.Input((4, 3)), layers.EinsumDense("btc,chu->bthu", (None, 2, 5))]))
    x = data(9, 4, 3)
    kernel = model.layers[0].get_weights()[0]
    found = next(iter(patterns(model, x, "linear").values()))
    flat = dense_twin(x.reshape(-1, 3), kernel.reshape(3, 10), np.zeros(10), "linear")
    np.testing.assert_allclose(found, flat.reshape(kernel.shape), rtol=1e-7)


def test_batch_normalisation_is_folded_first():
    """The mask is that of the ReLU behind the normalisation, the kernel the folded one."""

    def build():
        i = keras.Input((5,))
        y = layers.ReLU()(layers.BatchNormalization()(layers.Dense(4)(i)))
        return keras.Model(i, layers.Dense(2)(y))

    model = net(build)
    x = data(80, 5)
    dense, bn = model.layers[1], model.layers[2]
    scale = np.asarray(bn.gamma) / np.sqrt(np.asarray(bn.moving_variance) + bn.epsilon)
    kernel, bias = dense.get_weights()
    folded = kernel * scale
    shift = (bias - np.asarray(bn.moving_mean)) * scale + np.asarray(bn.beta)
    found = next(iter(patterns(model, x).values()))
    np.testing.assert_allclose(found, dense_twin(x, folded, shift, "relu"), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ("recurrent", "masked_lstm")])
def test_every_pattern_has_unit_output_and_every_model_of_the_zoo_is_learnt(name):
    """w . a = 1 for living neurons, 0 for dead ones."""
    sample = zoo.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadNeuronWarning)
        analyzer = PatternNet(sample.model, progress=False, **sample.params).fit(sample.inputs(40))
    for key, node in zip(analyzer._keys, analyzer._affine, strict=True):
        own = neurons_of(node, analyzer.graph_)
        kernel = keras.ops.convert_to_numpy(node.call.kernel())
        unit = own.gathered(kernel * analyzer.patterns_[key])
        assert np.all((np.abs(unit - 1) < 1e-3) | (unit == 0)), key
        assert np.any(unit)


# --- what patterns are for ---------------------------------------------------------------------------------------


def test_the_signal_is_found_where_weights_point_elsewhere():
    """Thesis, section II.1.3.1: x = a_s y + a_d e with distractor e; the best w cancels a_d and so differs from a_s."""
    rng = np.random.default_rng(0)
    signal, distractor = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    y, e = rng.normal(size=(2, 4000))
    x = y[:, None] * signal + e[:, None] * distractor
    model = net(lambda: keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)]))
    weights = np.array([1.0, -1.0])  # w . signal = 1, w . distractor = 0
    model.layers[0].set_weights([weights[:, None]])
    found = PatternNet(model, pattern_type="linear", progress=False).fit(x)
    learnt = next(iter(found.patterns_.values()))
    np.testing.assert_allclose(learnt[:, 0], signal, atol=0.05)
    point = np.array([[1.0, 0.0]])
    maps = found.analyze(point)[0]
    assert abs(maps[1]) < 0.05 * abs(maps[0])
    gradient = innv_ext.create_analyzer("gradient", model).analyze(point)[0]
    assert gradient[1] == pytest.approx(-gradient[0])


def test_walks_are_the_gradient_with_patterns_for_weights():
    """A dense net by hand: gates of the real forward pass, seed f_c."""
    model = net(two_dense)
    x, point = data(60, 5), data(4, 5, seed=1)
    learnt = patterns(model, x)
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers[1:])
    a1, a2 = (learnt[layer.name] for layer in model.layers[1:])
    hidden = point @ w1 + b1
    y = np.maximum(hidden, 0) @ w2 + b2
    for cls, first, last in ((PatternNet, a1, a2), (PatternAttribution, a1 * w1, a2 * w2)):
        received = cls(model, patterns=learnt).analyze(point, 1)
        expected = ((y[:, 1:2] * last[:, 1]) * (hidden > 0)) @ first.T
        np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)


def test_linear_attribution_of_whitened_data_is_weight_times_pattern():
    """One linear neuron on white noise: a = w / |w|^2."""
    model = net(lambda: keras.Sequential([keras.Input((4,)), layers.Dense(1)]))
    x = np.random.default_rng(0).normal(size=(200000, 4))
    found = next(iter(patterns(model, x, "linear", batch_size=5000).values()))[:, 0]
    w = model.layers[0].get_weights()[0][:, 0]
    np.testing.assert_allclose(found, w / (w @ w), atol=0.02)


# --- streaming ---------------------------------------------------------------------------------------------------


class Pieces(keras.utils.PyDataset):
    def __init__(self, x, size):
        super().__init__()
        self.x, self.size = x, size

    def __len__(self):
        return math.ceil(len(self.x) / self.size)

    def __getitem__(self, i):
        return self.x[i * self.size : (i + 1) * self.size], np.zeros(1)


def test_order_size_and_container_of_the_batches_do_not_matter():
    """Float32 on data with large means: to 1e-6 of the largest entry."""
    sample = zoo.make("convnet")
    x = sample.inputs(64) + np.float32(2)
    expected = patterns(sample.model, x)
    order = np.random.default_rng(0).permutation(64)
    others = {
        "size 1": patterns(sample.model, x, batch_size=1),
        "size 50": patterns(sample.model, x, batch_size=50),
        "order": patterns(sample.model, x[order]),
        "generator": patterns(sample.model, (x[i : i + 7] for i in range(0, 64, 7))),
        "tf.data": patterns(sample.model, tf.data.Dataset.from_tensor_slices(x).batch(9)),
        "PyDataset": patterns(sample.model, Pieces(x, 10)),
    }
    for name, found in others.items():
        for key, array in found.items():
            scale = np.abs(expected[key]).max()
            np.testing.assert_allclose(array, expected[key], rtol=0, atol=2e-6 * scale, err_msg=f"{name} {key}")


def test_large_batches_are_split(monkeypatch):
    """Whatever the batch, activations of one pass stay below the limit."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(20)
    expected = patterns(sample.model, x, batch_size=20)
    seen = []
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 600)
    original = PatternNet._chunk
    monkeypatch.setattr(PatternNet, "_chunk", lambda self, xs: seen.append(original(self, xs)) or seen[-1])
    for key, array in patterns(sample.model, x, batch_size=20).items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-9)
    assert max(seen) < 10


def test_an_interrupted_fit_goes_on_where_it_stopped(tmp_path):
    model, x, path = net(two_dense), data(50, 5), tmp_path / "state.npz"
    expected = patterns(model, x, batch_size=8)

    def broken():
        for i in range(0, 50, 8):
            if i == 32:
                raise RuntimeError("power cut")
            yield x[i : i + 8]

    analyzer = PatternNet(model, progress=False)
    with pytest.raises(RuntimeError, match="power cut"):
        analyzer.fit(broken(), resume_from=path, save_every=2)
    with pytest.raises(NotFittedError):
        analyzer.analyze(x[:2])
    counted = []

    def again():
        for i in range(0, 50, 8):
            counted.append(i)
            yield x[i : i + 8]

    later = PatternNet(model, progress=False).fit(again(), resume_from=path, save_every=2)
    for key, array in later.patterns_.items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-9)
    assert len(counted) == 7 and [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    with pytest.raises(InvalidInputError, match="belongs to another fit"):
        PatternNet(model, pattern_type="linear").fit(x, resume_from=path)
    with pytest.raises(InvalidInputError, match="already holds 7"):
        PatternNet(model).fit(x[:20], batch_size=8, resume_from=path)
    whole = path.read_bytes()
    for broken_file in (b"no archive", whole[: len(whole) // 2], b""):
        path.write_bytes(broken_file)
        with pytest.raises(InvalidInputError, match="no state of an interrupted fit"):
            PatternNet(model).fit(x, resume_from=path)
    path.write_bytes(whole)
    model.set_weights([w + 0.01 for w in model.get_weights()])  # its activations are others
    with pytest.raises(InvalidInputError, match="belongs to another fit"):
        PatternNet(model).fit(x, batch_size=8, resume_from=path)


def test_patterns_are_exported_given_back_saved_and_loaded(tmp_path):
    sample = zoo.make("shared")
    analyzer = innv_ext.create_analyzer("pattern.attribution", sample.model, progress=False).fit(sample.inputs(50))
    x = sample.inputs(3)
    expected = analyzer.analyze(x)
    assert sorted(analyzer.patterns_) == sorted({*analyzer._keys}) and any("#2" in k for k in analyzer.patterns_)
    given_back = innv_ext.create_analyzer("pattern.attribution", sample.model, patterns=analyzer.patterns_)
    analyzer.save(tmp_path / "a.innv")
    for other in (given_back, innv_ext.load_analyzer(tmp_path / "a.innv")):
        for a, b in zip(other.analyze(x), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::innv_ext.errors.DeadNeuronWarning")
def test_a_second_fit_replaces_the_first():
    model = net(two_dense)
    analyzer = PatternNet(model, progress=False).fit(data(40, 5))
    x = data(3, 5, seed=2)
    before = analyzer.analyze(x)
    after = analyzer.fit(data(40, 5, seed=5)).analyze(x)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, PatternNet(model, progress=False).fit(data(40, 5, seed=5)).analyze(x))


# --- dead neurons and bad input ----------------------------------------------------------------------------------


def test_dead_neurons_are_counted_and_get_no_pattern():
    model = net(two_dense)
    kernel, bias = model.layers[1].get_weights()
    bias[2] = -1e6
    model.layers[1].set_weights([kernel, bias])
    x = data(30, 5)
    with pytest.warns(DeadNeuronWarning, match=r"1 of 10 neurons never fired .*dense.*: 1"):
        found = PatternNet(model, progress=False).fit(x).patterns_
    first = found[model.layers[1].name]
    assert np.all(first[:, 2] == 0) and np.all(np.abs(first[:, [0, 1, 3, 4, 5, 6]]).sum(axis=0) > 0)
    assert all(np.isfinite(a).all() for a in found.values())


def test_constant_data_has_no_pattern_at_all():
    model = net(two_dense)
    with pytest.warns(DeadNeuronWarning, match="10 of 10"):
        found = PatternNet(model, progress=False).fit(np.ones((10, 5))).patterns_
    assert not any(a.any() for a in found.values())


@pytest.mark.filterwarnings("ignore::innv_ext.errors.DeadNeuronWarning")
def test_bad_input_changes_nothing():
    model = net(two_dense)
    x = data(40, 5)
    with pytest.raises(NotFittedError, match=r"call fit\(X\)"):
        PatternNet(model).analyze(x)
    analyzer = PatternNet(model, progress=False).fit(x)
    expected = analyzer.analyze(x[:3])
    spoilt = x.copy()
    spoilt[33] = np.nan
    bad = {
        "Batch 4": lambda: analyzer.fit(spoilt, batch_size=8),
        "Batch 0": lambda: analyzer.fit(x[:, :3]),
        "empty": lambda: analyzer.fit(x[:0]),
        "batch_size": lambda: analyzer.fit(x, batch_size=0),
        "save_every": lambda: analyzer.fit(x, save_every=0),
        "pattern_type": lambda: PatternNet(model, pattern_type="positive"),
        "one array for each": lambda: PatternNet(model, patterns={"x": np.zeros(3)}),
        "like the kernel": lambda: PatternNet(model, patterns={k: v[:-1] for k, v in analyzer.patterns_.items()}),
        "finite": lambda: PatternNet(model, patterns={k: v * np.nan for k, v in analyzer.patterns_.items()}),
    }
    for message, call in bad.items():
        with pytest.raises(InvalidInputError, match=message):
            call()
    np.testing.assert_array_equal(analyzer.analyze(x[:3]), expected)


# --- neurons without a pattern of their own ------------------------------------------------------------------------


def test_a_batch_normalisation_on_its_own_is_a_neuron_of_one_input():
    """w a = 1: the signal is divided by the gain, which keeps its sign; the attribution passes unchanged."""
    model = net(lambda: keras.Sequential([
        keras.Input((6, 2)), layers.Conv1D(3, 2, activation="relu", name="conv"),
        layers.BatchNormalization(name="norm"), layers.MaxPooling1D(2), layers.Flatten(), layers.Dense(2),
    ]))  # fmt: skip
    norm = model.get_layer("norm")
    gamma, beta, mean, variance = np.array([0.2, -3.0, 5.0]), np.ones(3), np.zeros(3), np.array([0.5, 2.0, 4.0])
    norm.set_weights([gamma, beta, mean, variance])
    gain = gamma / np.sqrt(variance + norm.epsilon)
    x = np.random.default_rng(0).normal(size=(40, 6, 2))
    for cls, factor in ((PatternNet, 1 / gain), (PatternAttribution, np.ones(3))):
        found = cls(model, progress=False).fit(x).analyze(x[:3], 0, return_layers=True)[1]
        assert np.abs(found["norm"]).max() > 0
        np.testing.assert_allclose(found["conv"], found["norm"] * factor, rtol=1e-9)


class Echo(layers.Layer):
    """The first weight is used for outputs 0 and 2, whose mean number is that of output 1."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), initializer="ones")

    def call(self, x):
        return self.mixed(x, self.kernel)

    @staticmethod
    def mixed(x, kernel):
        y = ops.matmul(x, kernel)
        return ops.concatenate([y, y[:, :1]], axis=1)


def test_weights_of_several_neurons_have_no_pattern():
    innv_ext.register_bilinear(Echo)(lambda layer, x, kernel: Echo.mixed(x, kernel))
    model = keras.Sequential([keras.Input((4,)), Echo(name="echo"), layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match=r"'echo' .* several output neurons"):
        PatternNet(model).fit(np.ones((3, 4)))
