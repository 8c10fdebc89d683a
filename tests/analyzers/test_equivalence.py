"""However a function is written down as a Keras model, its explanation is the same, for every analyzer.

One small image classifier is built in many ways with the same weights; each analyzer must give the map of the plain
functional model for all of them.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops

from innv_ext.errors import InvalidInputError, UnsupportedModelError

pytestmark = zoo.QUICK
SHAPE = (6, 6, 2)
NOISY = ("smoothgrad", "smooth_cafo", "smooth_caso")  # the order of the draws follows the order of the axes


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=1e-12))


def conv_a(**options):
    return layers.Conv2D(3, 3, padding="same", name="conv_a", **options)


def conv_b(**options):
    return layers.Conv2D(4, 2, name="conv_b", **options)


def functional():
    """The reference: activations fused into the layers."""
    i = keras.Input(SHAPE)
    y = layers.MaxPooling2D(2)(conv_a(activation="relu")(i))
    y = layers.GlobalAveragePooling2D()(conv_b(activation="relu")(y))
    return keras.Model(i, layers.Dense(3, activation="softmax", name="dense_b")(y))


def sequential():
    """Sequential, with every activation as a layer of its own."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            conv_a(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            conv_b(),
            layers.Activation("relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(3, name="dense_b"),
            layers.Softmax(),
        ]
    )


def nested():
    """A Sequential in a functional model in a functional model, and a head of its own, with the softmax inside."""
    stem = keras.Sequential([keras.Input(SHAPE), conv_a(activation="relu"), layers.MaxPooling2D(2)], name="stem")
    i = keras.Input(SHAPE)
    body = keras.Model(i, conv_b(activation="relu")(stem(i)), name="body")
    head = keras.Sequential(
        [
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="dense_b"),
        ],
        name="head",
    )
    i = keras.Input(SHAPE)
    return keras.Model(i, head(body(i)))


def operations():
    """Functions of ``keras.ops`` instead of layers, and another head that must not matter."""
    i = keras.Input(SHAPE)
    y = ops.relu(conv_a()(i))
    y = ops.max_pool(y, 2)
    z = ops.mean(ops.maximum(conv_b()(y), 0.0), axis=(1, 2))
    return keras.Model(i, [layers.Dense(2, name="other")(z), ops.softmax(layers.Dense(3, name="dense_b")(z))])


class Written(keras.Model):
    """The same network as a subclass, without a softmax."""

    def __init__(self):
        super().__init__()
        self.convs = [conv_a(activation="relu"), layers.MaxPooling2D(2), conv_b()]
        self.pool = layers.GlobalAveragePooling2D()
        self.top = layers.Dense(3, name="dense_b")

    def call(self, x):
        for layer in self.convs:
            x = layer(x)
        return self.top(self.pool(keras.activations.relu(x)))


def subclassed():
    net = Written()
    net(np.zeros((1, *SHAPE)))
    return net


WRITTEN = {
    "sequential": (sequential, {}),
    "nested": (nested, {}),
    "operations": (operations, {"output": 1}),
    "subclassed": (subclassed, {}),
}
BASIC = (layers.Dense, layers.Conv2D)


def weights_of(net):
    """{layer name: weights} of all layers, nested ones too."""
    return {layer.name: layer.get_weights() for layer in net._flatten_layers() if isinstance(layer, BASIC)}


def with_weights(net, weights):
    for layer in net._flatten_layers():
        if layer.name in weights:
            layer.set_weights(weights[layer.name])
    return net


@pytest.fixture(scope="module")
def nets():
    """All versions with the weights of the functional one, and inputs."""
    with zoo.precision("float64"):
        built = {"functional": zoo.randomise(functional(), 12)}
        for name, (builder, _) in WRITTEN.items():
            built[name] = with_weights(builder(), weights_of(built["functional"]))
    return built, np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE))


@pytest.fixture(scope="module", params=zoo.by_rule(zoo.DISTINCT))
def reference(request, nets):
    built, x = nets
    return request.param, create(request.param, built["functional"], x).analyze(x)


def create(name, net, x=None, **params):
    """Fitted on x if need be; layers are given by name, because positions differ between the versions."""
    by_name = {"until_layer": "conv_a"} if "until_layer" in zoo.PARAMS.get(name, {}) else {}
    return zoo.create(name, net, x, **{**by_name, **params})


@pytest.mark.parametrize("version", WRITTEN)
def test_same_map_however_the_model_is_written(reference, nets, version):
    """Composites have no rules of their own, and meet nesting only."""
    name, expected = reference
    built, x = nets
    if name not in zoo.BASIC and version != "nested":
        return
    close(create(name, built[version], x, **WRITTEN[version][1]).analyze(x), expected)


def test_the_versions_are_the_same_function(nets):
    """The tests above say something only if the versions are equal, and their weights aren't trivial."""
    built, x = nets
    expected = np.asarray(built["functional"](x))
    assert expected.std(axis=0).min() > 0.01
    for version in WRITTEN:
        y = built[version](x)
        y = y[1] if version == "operations" else y
        y = ops.softmax(y) if version == "subclassed" else y
        close(np.asarray(y), expected)


def test_outputs_by_name_and_position(nets):
    built, x = nets
    net = built["operations"]
    by_name = create("gradient", net, output=net.output_names[0]).analyze(x)
    np.testing.assert_array_equal(create("gradient", net, output=0).analyze(x), by_name)
    np.testing.assert_array_equal(create("gradient", net, output=-2).analyze(x), by_name)
    single = keras.Model(net.inputs, net.outputs[0])
    close(create("gradient", single).analyze(x), by_name)


# --- activations given as functions of TensorFlow ----------------------------------------------------------------

TWINS = {
    "relu": tf.nn.relu, "relu6": tf.nn.relu6, "leaky_relu": tf.nn.leaky_relu, "elu": tf.nn.elu, "selu": tf.nn.selu,
    "gelu": tf.nn.gelu, "silu": tf.nn.silu, "swish": tf.nn.swish, "tanh": tf.nn.tanh, "sigmoid": tf.math.sigmoid,
    "softplus": tf.nn.softplus, "softsign": tf.nn.softsign,
}  # fmt: skip
TABLE = np.linspace(-1, 1, 15).reshape(3, 5)


def with_activations(hidden, last):
    with zoo.precision("float64"):
        i = keras.Input((5,))
        y = layers.Dense(6, activation=hidden)(layers.Dense(6, activation=hidden)(i))
        return zoo.randomise(keras.Model(i, layers.Dense(3, activation=last)(y)), 4)


@pytest.mark.parametrize("name", TWINS)
def test_functions_of_tensorflow_are_their_twins(name):
    """Hidden ones get the same rules, and are refused by the same methods."""
    nets, x = [with_activations(function, None) for function in (name, TWINS[name])], TABLE
    close(nets[0](x), nets[1](x))
    for method in "gradient lrp.epsilon lrp.alpha_1_beta_0 guided_backprop deep_taylor deep_lift rc_rde".split():
        found = []
        for net in nets:
            try:
                found.append(zoo.create(method, net, x).analyze(x))
            except UnsupportedModelError as error:
                found.append(str(error))
        assert isinstance(found[0], str) == isinstance(found[1], str)
        if not isinstance(found[0], str):
            close(*found)


@pytest.mark.parametrize(("name", "function"), [("softmax", tf.nn.softmax), ("sigmoid", tf.nn.sigmoid)])
def test_trailing_functions_of_tensorflow_are_cut(name, function):
    nets, x = [with_activations("relu", last) for last in (name, function)], TABLE
    for method in ("gradient", "lrp.epsilon"):
        by_name, found = (create(method, net).explain(x) for net in nets)
        close(found.output, by_name.output)
        close(found.attribution, by_name.attribution)
        assert np.abs(found.output.sum(axis=1) - 1).min() > 0.1  # no probabilities


# --- data formats ------------------------------------------------------------------------------------------------


def _format_pair():
    """The same net for channels last and channels first."""
    nets = []
    for data_format, axis, shape in (("channels_last", -1, (6, 6, 2)), ("channels_first", 1, (2, 6, 6))):
        form = {"data_format": data_format}
        i = keras.Input(shape)
        y = conv_a(activation="relu", **form)(i)
        y = layers.BatchNormalization(axis=axis, name="norm")(y)
        y = layers.AveragePooling2D(2, **form)(layers.ZeroPadding2D(1, **form)(y))
        y = layers.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise", **form)(layers.ReLU()(y))
        y = layers.GlobalMaxPooling2D(**form)(layers.ReLU()(y))
        nets.append(keras.Model(i, layers.Dense(3, name="dense")(y)))
    last, first = nets
    zoo.randomise(last, 7)
    for layer in last.layers:
        if layer.weights:
            first.get_layer(layer.name).set_weights(layer.get_weights())
    return last, first


@pytest.fixture(scope="module")
def formats():
    """Float32: TensorFlow has no float64 convolution for channels first on the CPU."""
    last, first = _format_pair()
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6, 6, 2)).astype("float32")
    try:
        received = np.asarray(first(x.transpose(0, 3, 1, 2)))
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        pytest.skip("this TensorFlow has no channels_first convolution on this device")
    close(received, np.asarray(last(x)), 1e-5)
    return last, first, x


@pytest.mark.filterwarnings("ignore::innv_ext.errors.ConservationWarning")
@pytest.mark.parametrize("name", zoo.thinned(n for n in zoo.BASIC if n not in NOISY))
def test_channels_first_is_channels_last_transposed(name, formats):
    last, first, x = formats
    transposed = x.transpose(0, 3, 1, 2)
    seen = np.random.default_rng(1).uniform(-1, 1, (64, *x.shape[1:])).astype("float32")  # draws need many to differ
    received = create(name, first, seen.transpose(0, 3, 1, 2)).analyze(transposed)
    expected = create(name, last, seen).analyze(x)
    close(received.transpose(0, 2, 3, 1), expected, 2e-4)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_batchnorm_along_any_axis_of_equal_size(axis):
    """A vector of 4 values must go along its own axis also where other axes have 4 entries."""
    with zoo.precision("float64"):
        i = keras.Input((4, 4, 4))
        y = layers.Flatten()(layers.ReLU()(layers.BatchNormalization(axis=axis, name="norm")(i)))
        net = zoo.randomise(keras.Model(i, layers.Dense(2, name="dense")(y)), 1)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 4))
    norm, dense = net.get_layer("norm"), net.get_layer("dense")
    shape = np.ones(4, int)
    shape[axis] = 4
    gamma, beta, mean, variance = (np.reshape(w, shape) for w in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    z = (x - mean) * scale + beta
    weights = dense.get_weights()[0][:, 1].reshape(4, 4, 4)
    close(np.asarray(net(x)), np.maximum(z, 0).reshape(2, -1) @ dense.get_weights()[0] + dense.get_weights()[1])
    close(zoo.create("gradient", net).analyze(x, 1), (z > 0) * weights * scale)


# --- shared layers -----------------------------------------------------------------------------------------------


def _towers(shared):
    a, b = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    names = ("tower", "tower") if shared else ("tower", "copy")
    towers = {n: keras.Sequential([keras.Input((5,)), layers.Dense(5, activation="relu")], name=n) for n in names}
    again = layers.Dense(5, activation="relu", name="again")
    once_more = again if shared else layers.Dense(5, activation="relu", name="once_more")
    ya, yb = towers[names[0]](a), towers[names[1]](b)
    y = layers.Add()([once_more(again(ya)), yb])
    y = layers.Dense(6, activation="relu", name="merge")(layers.Concatenate()([y, ya]))
    return keras.Model([a, b], layers.Dense(3, name="top")(y))


@pytest.fixture(scope="module")
def towers():
    with zoo.precision("float64"):
        shared, unrolled = zoo.randomise(_towers(True), 2), _towers(False)
    twin = {"copy": "tower", "once_more": "again"}
    for layer in unrolled.layers:
        if layer.weights:
            layer.set_weights(shared.get_layer(twin.get(layer.name, layer.name)).get_weights())
    rng = np.random.default_rng(0)
    x = [rng.uniform(-1, 1, (3, 5)), rng.uniform(-1, 1, (3, 5))]
    close(np.asarray(shared(x)), np.asarray(unrolled(x)))
    return shared, unrolled, x


@pytest.mark.parametrize("name", [n for n in zoo.BASIC if not zoo.needs_positions(n)])  # which towers of a table lack
def test_shared_layers_are_their_copies(name, towers):
    """Siamese towers, and one layer used twice in a row."""
    shared, unrolled, x = towers
    params = {"until_layer": "merge"} if "until_layer" in zoo.PARAMS.get(name, {}) else {}
    received = zoo.create(name, shared, x, **params).analyze(x)
    expected = zoo.create(name, unrolled, x, **params).analyze(x)
    for r, e in zip(received, expected, strict=True):
        close(r, e)


# --- batch normalisation -----------------------------------------------------------------------------------------


def _normalised():
    """Behind a convolution, in front of one, and behind a dense layer; the second one without scale or centre."""
    i = keras.Input(SHAPE)
    y = layers.ReLU()(layers.BatchNormalization(name="after")(conv_a(use_bias=False)(i)))
    y = layers.MaxPooling2D(2)(y)
    y = layers.ReLU()(conv_b()(layers.BatchNormalization(name="before", scale=False, epsilon=0.1)(y)))
    y = layers.Dense(5, name="dense_a")(layers.Flatten()(y))
    y = layers.ReLU()(layers.BatchNormalization(name="behind", center=False)(y))
    return keras.Model(i, layers.Dense(3, name="dense_b")(y))


def _folded(net):
    """The same function without batch normalisation, folded by hand with numpy."""

    def scale_shift(name):
        layer = net.get_layer(name)
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        scale = (np.asarray(layer.gamma) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
        return scale, (np.asarray(layer.beta) if layer.center else 0.0) - mean * scale

    i = keras.Input(SHAPE)
    y = layers.MaxPooling2D(2)(conv_a(activation="relu")(i))
    y = layers.Flatten()(conv_b(activation="relu")(y))
    y = layers.Dense(5, activation="relu", name="dense_a")(y)
    twin = keras.Model(i, layers.Dense(3, name="dense_b")(y))
    scale, shift = scale_shift("after")
    twin.get_layer("conv_a").set_weights([net.get_layer("conv_a").get_weights()[0] * scale, shift])
    scale, shift = scale_shift("before")
    kernel, bias = net.get_layer("conv_b").get_weights()
    bias = bias + np.einsum("hwif,i->f", kernel, shift)
    twin.get_layer("conv_b").set_weights([kernel * scale[None, None, :, None], bias])
    scale, shift = scale_shift("behind")
    kernel, bias = net.get_layer("dense_a").get_weights()
    twin.get_layer("dense_a").set_weights([kernel * scale, bias * scale + shift])
    twin.get_layer("dense_b").set_weights(net.get_layer("dense_b").get_weights())
    return twin


@pytest.fixture(scope="module")
def normalised():
    with zoo.precision("float64"):
        net = zoo.randomise(_normalised(), 3)
        twin = _folded(net)
    x = np.random.default_rng(0).uniform(-1, 1, (4, *SHAPE))
    close(np.asarray(twin(x)), np.asarray(net(x)))
    return net, twin, x


@pytest.mark.parametrize(
    "name", zoo.thinned([*zoo.BASIC, "lrp.z_IB", "lrp.sequential_preset_b_flat", "lrp.epsilon_plus"])
)
def test_batchnorm_is_explained_as_folded_by_hand(name, normalised):
    net, twin, x = normalised
    received = create(name, net, x).analyze(x)
    close(received, create(name, twin, x).analyze(x), 1e-8)


# --- what is explained -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["functional", "nested", "sequential"])
def test_on_output_explains_the_probability(nets, version):
    built, x = nets
    index = np.array([0, 1, 2, 1])
    with tf.GradientTape() as tape:
        t = tf.constant(x)
        tape.watch(t)
        p = tf.reduce_sum(built[version](t) * tf.one_hot(index, 3, dtype="float64"), axis=1)
    expected = np.asarray(tape.gradient(p, t))
    found = create("gradient", built[version], on="output").explain(x, index)
    close(found.attribution, expected)
    close(found.extras["score"], np.asarray(p))
    close(create("input_t_gradient", built[version], on="output").analyze(x, index), x * expected)
    assert not np.allclose(create("gradient", built[version]).analyze(x, index), expected)


def test_integrated_gradients_of_the_probability(nets):
    """On a smooth path, the sum is the change of the probability."""
    built, x = nets
    found = create("integrated_gradients", built["functional"], on="output", steps=200).explain(x, 1)
    change = np.asarray(built["functional"](x) - built["functional"](0 * x))[:, 1]
    np.testing.assert_allclose(found.extras["sum"], change, atol=2e-4)
    np.testing.assert_allclose(found.output.sum(axis=1), 1.0)


def test_sigmoid_outputs():
    """Multi-label nets: the score before the sigmoid by default, its probability with ``on="output"``."""
    sample = zoo.make("multilabel", "float64")
    x = sample.inputs(3)
    found = zoo.create("gradient", sample.model).explain(x, 1)
    probability = 1 / (1 + np.exp(-found.output))
    close(probability, np.asarray(sample.model(x)))
    outer = (probability * (1 - probability))[:, 1:2]
    close(zoo.create("gradient", sample.model, on="output").analyze(x, 1), outer * found.attribution)


# --- inputs ------------------------------------------------------------------------------------------------------


def test_list_dict_and_tuple_inputs_are_the_same():
    by_dict, by_list = zoo.make("dict_inputs", "float64"), zoo.make("two_inputs", "float64")
    image, table = by_list.inputs(3)
    by_list.model.set_weights(by_dict.model.get_weights())
    try:
        expected = zoo.create("lrp.epsilon", by_list.model).analyze([image, table])
        assert isinstance(expected, list)
        as_tuple = zoo.create("lrp.epsilon", by_list.model).analyze((image, table))
        assert isinstance(as_tuple, tuple)
        named = zoo.create("lrp.epsilon", by_list.model).analyze({"table": table, "image": image})
        assert list(named) == ["table", "image"]
        found = zoo.create("lrp.epsilon", by_dict.model).analyze({"table": table, "image": image})
        for a, b, c, e in zip((named["image"], named["table"]), (found["image"], found["table"]), as_tuple, expected):
            close(a, e), close(b, e), close(c, e)
    finally:
        zoo.make.cache_clear()


def test_pixels_of_an_integer_input_are_explained_as_numbers():
    """uint8 in front of a Rescaling is the float model on the same numbers."""
    sample = zoo.make("uint8")
    twin = keras.Sequential([keras.Input((6, 6, 1)), *sample.model.layers[1:]])
    x = sample.inputs(3)
    for name in ("gradient", "lrp.z", "lrp.alpha_2_beta_1", "integrated_gradients", "guided_backprop"):
        received = zoo.create(name, sample.model).analyze(x)
        assert received.dtype == np.float32
        close(received, zoo.create(name, twin).analyze(x.astype("float32")), 1e-5)


@pytest.mark.parametrize("model", ["tokens", "masked_lstm"])
def test_tokens_are_explained_through_their_vectors(model):
    """The derivative along a token's one-hot coordinate is its vector times the gradient behind the embedding."""
    sample = zoo.make(model, "float64")
    x = sample.inputs(4)
    embed, *rest = sample.model.layers[1:]
    with tf.GradientTape() as tape:
        vectors = embed(x)
        mask = embed.compute_mask(x)
        vectors = tf.identity(vectors)
        tape.watch(vectors)
        y = rest[0](vectors, mask=mask) if mask is not None else rest[0](vectors)
        for layer in rest[1:]:
            y = layer(y)
        top = tf.reduce_max(y, axis=1)
    close(np.asarray(y), np.asarray(sample.model(x)))
    expected = np.sum(np.asarray(vectors * tape.gradient(top, vectors)), axis=-1)
    close(zoo.create("gradient", sample.model).analyze(x), expected)
    close(zoo.create("input_t_gradient", sample.model).analyze(x), expected)
    if model == "masked_lstm":
        assert (expected[x == 0] == 0).all()


def test_segments_of_a_map_are_explained_one_by_one():
    """An output of rank 4: a tuple for all samples, or one row per sample; a pixel of the result at a time."""
    sample = zoo.make("segmentation", "float64")
    x = sample.inputs(3)
    analyzer = zoo.create("gradient", sample.model, on="output")
    for index in ((1, 2, 0), np.array([(1, 2, 0), (0, 0, 1), (3, 3, 1)])):
        rows = np.broadcast_to(index, (3, 3))
        with tf.GradientTape() as tape:
            t = tf.constant(x)
            tape.watch(t)
            score = tf.stack([sample.model(t)[(i, *row)] for i, row in enumerate(rows)])
        close(analyzer.analyze(x, index), np.asarray(tape.gradient(score, t)))
    with pytest.raises(InvalidInputError, match="tuple of 3"):
        analyzer.analyze(x, 1)


def test_free_sizes_are_the_fixed_sizes():
    """A model for any image size explains each size like a model of that size, without being built again."""
    sample = zoo.make("free_size", "float64")
    for name in ("gradient", "lrp.alpha_2_beta_1", "smoothgrad"):
        analyzer = zoo.create(name, sample.model)
        for size in ((6, 5), (9, 7)):
            x = np.random.default_rng(0).uniform(-1, 1, (2, *size, 2))
            with zoo.precision("float64"):
                i = keras.Input((*size, 2))
                fixed = keras.Model(i, sample.model(i))
            close(analyzer.analyze(x), zoo.create(name, fixed).analyze(x))
