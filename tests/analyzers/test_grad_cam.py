"""Grad-CAM against a tape and sub-models; which layer is looked at; interpolation; refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from innv_ext.analyzers.gradient.grad_cam import GradCAM
from innv_ext.analyzers.parts.stretching import interpolation
from innv_ext.errors import InvalidInputError, UnsupportedModelError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def by_tape(inputs, activation, output, x, index, channel=-1, relu=True):
    """sum_k mean(d y_c / d A_k) A_k of a symbolic activation, sample by sample and channel by channel."""
    both = keras.Model(inputs, [activation, output])
    with tf.GradientTape(persistent=True) as tape:
        a, y = both(keras.tree.map_structure(tf.constant, x))
        scores = [y[i, c] for i, c in enumerate(index)]
    cams = []
    for i, score in enumerate(scores):
        values = np.moveaxis(np.asarray(a[i]), channel, -1)
        gradient = np.moveaxis(np.asarray(tape.gradient(score, a)[i]), channel, -1)
        cam = np.zeros(values.shape[:-1])
        for k in range(values.shape[-1]):
            cam += gradient[..., k].mean() * values[..., k]
        cams.append(np.maximum(cam, 0) if relu else cam)
    return np.stack(cams)


def resized(cam, shape):
    """Bilinear, as Keras does it for images."""
    return np.asarray(ops.image.resize(cam[..., None], shape, interpolation="bilinear", data_format="channels_last"))


def net(width=9, last=None):
    with zoo.precision("float64"):
        i = keras.Input((width, 7, 2))
        a = layers.Conv2D(4, 3, activation="relu", name="early")(i)
        b = layers.Conv2D(5, 2, strides=2, activation="tanh", name="late")(a)
        y = layers.Dense(3, name="scores")(layers.Flatten()(b))
        model = keras.Model(i, layers.Softmax()(y) if last else y)
    zoo.randomise(model)
    return model


def picture(shape=(9, 7, 2), n=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape))


# --- the map -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", [None, "early", "late"])
def test_the_tape(layer, relu):
    model, x, index = net(), picture(), [2, 0, 1]
    analyzer = GradCAM(model, layer=layer, relu=relu)
    assert analyzer.layer_ == (layer or "late")
    found = analyzer.explain(x, index)
    activation = model.get_layer(layer or "late").output
    cam = by_tape(model.inputs, activation, model.output, x, index, relu=relu)
    close(found.extras["cam"], cam)
    close(found.attribution, np.broadcast_to(resized(cam, (9, 7)), x.shape), 1e-6)
    assert (found.extras["cam"] < 0).any() != relu and np.abs(cam).max() > 1e-3


def test_the_softmax_is_cut():
    model, x = net(last="softmax"), picture()
    logits = GradCAM(model).explain(x, 1).extras["cam"]
    close(logits, by_tape(model.inputs, model.get_layer("late").output, model.get_layer("scores").output, x, [1] * 3))
    on_output = GradCAM(model, on="output").explain(x, 1).extras["cam"]
    close(on_output, by_tape(model.inputs, model.get_layer("late").output, model.output, x, [1] * 3))


def test_class_activation_maps():
    """With global average pooling and one dense layer: CAM (Zhou et al. 2016), divided by the number of positions."""
    with zoo.precision("float64"):
        i = keras.Input((6, 8, 2))
        a = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(i)
        model = keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(a)))
    zoo.randomise(model)
    x, w = picture((6, 8, 2)), model.get_weights()[-2]
    active = np.asarray(keras.Model(i, a)(x))
    found = GradCAM(model).analyze(x, 1)
    close(found[..., 0], np.maximum(active @ w[:, 1], 0) / 48)
    np.testing.assert_array_equal(found[..., 0], found[..., 1])


def test_paths_around_the_layer():
    """A shortcut past the layer belongs to the score, not to the derivative at the layer."""
    with zoo.precision("float64"):
        i = keras.Input((6, 6, 2))
        a = layers.Conv2D(3, 3, padding="same", activation="relu", name="a")(i)
        b = layers.Conv2D(3, 3, padding="same", activation="relu", name="b")(a)
        c = layers.Multiply(name="c")([a, b])
        y = layers.Concatenate()([layers.Flatten()(c), layers.Flatten()(a)])
        model = keras.Model(i, layers.Dense(2)(layers.Dense(4, activation="relu")(y)))
    zoo.randomise(model)
    x = picture((6, 6, 2))
    assert GradCAM(model).layer_ == "c"
    for name, tensor in (("a", a), ("b", b), ("c", c)):
        found = GradCAM(model, layer=name, relu=False).explain(x, [1, 0, 1]).extras["cam"]
        close(found, by_tape(model.inputs, tensor, model.output, x, [1, 0, 1], relu=False))


@pytest.mark.parametrize("name", ["grad_cam", "occlusion", "lime"])
def test_a_mean_of_features_does_not_turn_the_signal(name):
    """GlobalAveragePooling1D(data_format="channels_first") behind channels-last layers is a mean of the features."""
    maps = []
    for mean in (layers.GlobalAveragePooling1D(data_format="channels_first"), lambda y: ops.mean(y, axis=-1)):
        i = keras.Input((12, 2))
        y = mean(layers.Conv1D(6, 3, padding="same", activation="relu")(i))
        model = zoo.randomise(keras.Model(i, layers.Dense(3)(y)), 2)
        x = np.random.default_rng(0).normal(size=(3, 12, 2)).astype("float32")
        maps.append(zoo.create(name, model).analyze(x))
    assert np.abs(maps[0]).max() > 0
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-5)


def test_signals_volumes_and_channels_first():
    """One axis, three axes, channels before the positions."""
    signal = zoo.make("signal", "float64")
    x = signal.inputs(2)
    cam = by_tape(signal.model.inputs, signal.model.layers[-3].output, signal.model.output, x, [1, 0])
    found = GradCAM(signal.model).analyze(x, [1, 0])
    assert cam.shape == (2, 6)
    for i in range(2):
        at = (np.arange(12) + 0.5) / 2 - 0.5
        close(found[i], np.repeat(np.interp(at, np.arange(6), cam[i])[:, None], 2, axis=1))
    volume = zoo.make("volume")
    x = volume.inputs(2)
    found = GradCAM(volume.model).explain(x, [1, 0])
    cam = by_tape(volume.model.inputs, volume.model.layers[2].output, volume.model.output, x, [1, 0])
    close(found.extras["cam"], cam, 1e-4)
    expected = cam
    for axis in (1, 2, 3):
        expected = np.apply_along_axis(lambda v: np.interp((np.arange(4) + 0.5) / 2 - 0.5, [0, 1], v), axis, expected)
    close(found.attribution[..., 0], expected, 1e-4)
    first = zoo.make("channels_first")
    x = first.inputs(2)
    found = GradCAM(first.model).explain(x, [1, 0])
    kernel, bias, *normal = first.model.layers[1].get_weights() + first.model.layers[2].get_weights()
    i = keras.Input((6, 6, 2))
    a = layers.MaxPooling2D(2)(layers.BatchNormalization()(layers.Conv2D(5, 3, activation="relu")(i)))
    y = layers.Dense(3)(layers.Flatten()(layers.Permute((3, 1, 2))(a)))
    twin = keras.Model(i, y)
    twin.set_weights([kernel, bias, *normal, *first.model.layers[-1].get_weights()])
    close(found.extras["cam"], by_tape(i, a, y, np.moveaxis(x, 1, -1), [1, 0]), 1e-4)
    close(np.moveaxis(found.attribution, 1, -1), GradCAM(twin, layer=twin.layers[3].name).analyze(
        np.moveaxis(x, 1, -1), [1, 0]), 1e-4)  # fmt: skip


def test_tokens():
    """Positions of a convolution over embeddings, interpolated to the places of the tokens."""
    sample = zoo.make("tokens", "float64")
    x = sample.inputs(2)
    found = GradCAM(sample.model).explain(x, [1, 0])
    cam = by_tape(sample.model.inputs, sample.model.layers[2].output, sample.model.output, x, [1, 0])
    close(found.extras["cam"], cam)
    for i in range(2):
        expected = np.interp((np.arange(6) + 0.5) * 4 / 6 - 0.5, np.arange(4), cam[i])
        close(found.attribution[i], expected, 1e-6)


def test_several_inputs():
    """An image gets the map; a table and an image that doesn't lead to the layer get zeros."""
    with zoo.precision("float64"):
        one, two, table = keras.Input((6, 6, 1)), keras.Input((8, 4, 2)), keras.Input((3,))
        a = layers.Conv2D(3, 3, activation="relu", name="a")(one)
        b = layers.Conv2D(3, 3, activation="relu", name="b")(two)
        parts = [layers.Flatten()(a), layers.Flatten()(b), table]
        model = keras.Model([one, two, table], layers.Dense(2)(layers.Concatenate()(parts)))
    zoo.randomise(model)
    x = [picture((6, 6, 1)), picture((8, 4, 2)), picture((3,))]
    for name, tensor, own in (("a", a, 0), ("b", b, 1)):
        found = GradCAM(model, layer=name).analyze(x, 0)
        cam = by_tape(model.inputs, tensor, model.output, x, [0] * 3)
        close(found[own], np.broadcast_to(resized(cam, x[own].shape[1:3]), x[own].shape), 1e-6)
        assert not any(found[k].any() for k in range(3) if k != own)


def test_a_layer_behind_both_images():
    with zoo.precision("float64"):
        one, two = keras.Input((6, 6, 1), name="one"), keras.Input((6, 6, 2), name="two")
        y = layers.Conv2D(3, 3, name="both")(layers.Concatenate()([one, two]))
        model = keras.Model({"one": one, "two": two}, layers.Dense(2)(layers.Flatten()(y)))
    zoo.randomise(model)
    found = GradCAM(model, relu=False).analyze({"one": picture((6, 6, 1)), "two": picture((6, 6, 2))}, 0)
    close(found["one"][..., 0], found["two"][..., 1])
    assert found["one"].any()


def test_all_outputs_and_functions():
    model, x = net(), picture()
    single = [GradCAM(model, relu=False).explain(x, c).extras["cam"] for c in range(3)]
    close(GradCAM(model, relu=False).explain(x, "all").extras["cam"], sum(single))
    mixed = GradCAM(model, relu=False, neuron_selection_mode=lambda y: 2 * y[:, 0] - y[:, 2])
    close(mixed.explain(x).extras["cam"], 2 * single[0] - single[2])


# --- which layer -------------------------------------------------------------------------------------------------


def vision_transformer():
    i = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 2, strides=2, name="patches")(i)
    y = layers.Reshape((16, 6))(y)
    y = layers.Add()([y, layers.MultiHeadAttention(2, 3)(y, y)])
    return keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(y)))


class Block(layers.Layer):
    """A user's layer made of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Conv2D(3, 2, name="inside")
        self.after = layers.ReLU(name="after")

    def call(self, x):
        return ops.tanh(self.after(self.inside(x)))


def blocks():
    i = keras.Input((6, 6, 2))
    return keras.Model(i, layers.Dense(2)(layers.Flatten()(Block(name="block")(i))))


EXPECTED = {
    "convnet": "max_pooling2d",
    "sequential": "re_lu",
    "nested": "base/block/re_lu",
    "residual": "add",
    "squeeze_excite": "multiply",
    "dense_blocks": "average_pooling2d",
    "segmentation": "up_sampling2d",
    "free_size": "max_pooling2d",
    "recurrent": "time_distributed",
    "transformer": "layer_normalization",
    "masked_lstm": "embedding",
    "tokens": "conv1d",
    "subclassed": "re_lu",
    "two_inputs": "conv2d",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_last_layer_with_positions(name):
    """Behind all others, not the output itself, not pooled to one position; kinds, since Keras numbers its names."""
    analyzer = GradCAM(zoo.make(name).model)
    *path, last = analyzer.layer_.split("/")
    assert last.rstrip("_0123456789") == EXPECTED[name].split("/")[-1].rstrip("_0123456789")
    assert path == EXPECTED[name].split("/")[:-1] or name == "subclassed"
    later = analyzer.graph_.specs[analyzer.graph_.layer_slots[analyzer.layer_]].shape
    assert len(later) == len(analyzer.input_specs()[0].shape) + (analyzer.input_specs()[0].dtype == "int32")


def test_parts_of_layers_are_not_chosen_but_can_be_named():
    assert GradCAM(vision_transformer()).layer_ == "patches"
    model = blocks()
    assert GradCAM(model).layer_ == "block"
    assert GradCAM(model, layer="inside").layer_ == "block/inside"


def test_layers_pooled_to_one_position_are_not_chosen():
    """As in MobileNet: a convolution of the pooled channels."""
    i = keras.Input((6, 6, 2))
    y = layers.Conv2D(3, 3, name="last")(i)
    y = layers.Conv2D(2, 1, name="scores")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    model = keras.Model(i, layers.Flatten()(y))
    assert GradCAM(model).layer_ == "last"
    assert GradCAM(model, layer="scores").explain(picture((6, 6, 2))).extras["cam"].shape == (3, 1, 1)


def test_names():
    model = zoo.make("nested").model
    full = GradCAM(model, layer="base/base_conv")
    assert GradCAM(model, layer="base_conv").layer_ == full.layer_ == "base/base_conv"
    x = zoo.make("nested").inputs(2)
    assert not np.allclose(full.analyze(x), GradCAM(model).analyze(x))
    np.testing.assert_array_equal(full.analyze(x), GradCAM(model, layer="base_conv").analyze(x))
    assert "base/base_conv" in str(full)


def test_nested_is_flat():
    """The last layer of a nested model, and the same layers in one model."""
    sample = zoo.make("nested", "float64")
    base, head = sample.model.layers[1], sample.model.layers[-1]
    i = keras.Input((6, 6, 2), dtype="float64")
    block = base.layers[1]
    a = block.layers[2](block.layers[1](block.layers[0](base.layers[0](i))))
    y = head.layers[0](layers.GlobalMaxPooling2D(dtype="float64")(a))
    flat, x = keras.Model(i, y), sample.inputs(3)
    close(GradCAM(flat).analyze(x), GradCAM(sample.model).analyze(x))
    close(GradCAM(flat, on="output").explain(x, 1).extras["cam"], by_tape(i, a, y, x, [1] * 3))


@pytest.mark.parametrize("name", ["mlp", "operators", "shared", "two_outputs", "regression"])
def test_models_without_positions_are_refused(name):
    sample = zoo.make(name)
    with pytest.raises(UnsupportedModelError, match=r"rank 3.*integrated_gradients"):
        GradCAM(sample.model, **sample.params)


def test_bad_layers():
    model = net()
    for layer, words in {"missing": "missing.*early, late", "scores": r"scores.*\(None, 3\).*early, late"}.items():
        with pytest.raises(InvalidInputError, match=words):
            GradCAM(model, layer=layer)
    with pytest.raises(InvalidInputError, match="dense"):
        GradCAM(zoo.make("mlp").model, layer=zoo.make("mlp").model.layers[1].name)
    with pytest.raises(InvalidInputError, match="no single layer"):  # a layer that the output doesn't need
        i = keras.Input((6, 6, 2))
        a = layers.Conv2D(2, 3, name="a")(i)
        b = layers.Conv2D(2, 3, name="b")(i)
        GradCAM(keras.Model(i, [layers.Flatten()(a), layers.Flatten()(b)]), output=0, layer="b")


# --- interpolation -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 99))
def test_interpolation(old, new, seed):
    """Rows sum to 1; as Keras resizes; constants and the order of values stay."""
    weights, values = interpolation(old, new), np.random.default_rng(seed).normal(size=old)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    image = values.reshape(1, old, 1, 1).astype("float32")
    resized_ = np.asarray(ops.image.resize(image, (new, 1), interpolation="bilinear", data_format="channels_last"))
    np.testing.assert_allclose(weights @ values, resized_[0, :, 0, 0], atol=1e-5)
    assert (np.diff(weights @ np.sort(values)) >= -1e-12).all()
