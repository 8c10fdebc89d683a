"""Grad-CAM++, LayerCAM and Score-CAM against slow twins: a tape for derivatives, numpy for the rest."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops

from innv_ext.analyzers import GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM
from innv_ext.analyzers.parts.stretching import interpolation
from innv_ext.errors import InvalidInputError, UnsupportedModelError

VARIANTS = [GradCAMPlusPlus, LayerCAM, ScoreCAM]


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def net(activation="relu", width=9):
    """Convolutions with a shortcut past the late layer, and a curved layer behind it."""
    with zoo.precision("float64"):
        i = keras.Input((width, 7, 2))
        a = layers.Conv2D(4, 3, activation="relu", name="early")(i)
        b = layers.Conv2D(5, 2, strides=2, activation=activation, name="late")(a)
        y = layers.Concatenate()([layers.Flatten()(b), layers.GlobalAveragePooling2D()(a)])
        y = layers.Dense(3, name="scores")(layers.Dense(6, activation="tanh")(y))
        return zoo.randomise(keras.Model(i, layers.Softmax()(y)))


def picture(shape=(9, 7, 2), n=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape))


def at_layer(model, name, x, index, scores="scores"):
    """(A, df_c/dA) of each sample by a tape."""
    both = keras.Model(model.input, [model.get_layer(name).output, model.get_layer(scores).output])
    with tf.GradientTape() as tape:
        a, y = both(tf.constant(x))
        chosen = tf.gather(y, index, batch_dims=1)
    return np.asarray(a), np.asarray(tape.gradient(chosen, a))


def plus_plus(a, g):
    """Equations 5 and 19 as they are printed, channel by channel and position by position."""
    cam = np.zeros(a.shape[:-1])
    for k in range(a.shape[-1]):
        w = 0.0
        for p in np.ndindex(a.shape[:-1]):
            first, second, third = g[(*p, k)], g[(*p, k)] ** 2, g[(*p, k)] ** 3
            bottom = 2 * second + a[..., k].sum() * third
            w += second / bottom * max(first, 0) if bottom else 0.0
        cam += w * a[..., k]
    return cam


def each_position(a, g):
    return (np.maximum(g, 0) * a).sum(axis=-1)


# --- with gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("cls", "twin"), [(GradCAMPlusPlus, plus_plus), (LayerCAM, each_position)])
def test_the_formula(cls, twin, activation, relu):
    model, x, index = net(activation), picture(), [2, 0, 1]
    for layer in ("early", "late"):
        found = cls(model, layer=layer, relu=relu).explain(x, index)
        cam = np.stack([twin(a, g) for a, g in zip(*at_layer(model, layer, x, index), strict=True)])
        close(found.extras["cam"], np.maximum(cam, 0) if relu else cam)
        assert np.abs(cam).max() > 1e-3
        close(found.attribution, np.repeat(_wide(found.extras["cam"], (9, 7))[..., None], 2, axis=-1))


def _wide(cams, shape):
    return np.stack([interpolation(c.shape[0], shape[0]) @ c @ interpolation(c.shape[1], shape[1]).T for c in cams])


def test_plus_plus_is_that_of_the_exponential_of_a_linear_score():
    """Where f_c is linear in A, automatic second and third derivatives of exp(f_c) give the paper's alpha and w."""
    with zoo.precision("float64"):
        i = keras.Input((4, 3, 2))
        a = layers.Conv2D(3, 2, activation="relu", name="a")(i)
        model = zoo.randomise(keras.Model(i, layers.Dense(2, name="scores")(layers.Flatten()(a))))
    x = picture((4, 3, 2), 1)
    active = np.asarray(keras.Model(i, a)(x))
    kernel, bias = (tf.constant(w) for w in model.get_weights()[-2:])
    cam, factor = np.zeros((3, 2)), 0.0
    for p in np.ndindex(3, 2):
        for k in range(3):
            step = np.zeros((1, 3, 2, 3))
            step[(0, *p, k)] = 1
            t = tf.constant(0.0, "float64")
            with tf.GradientTape() as three:
                three.watch(t)
                with tf.GradientTape() as two:
                    two.watch(t)
                    with tf.GradientTape() as one:
                        one.watch(t)
                        y = tf.exp((tf.reshape(active + t * step, (1, -1)) @ kernel + bias)[0, 1])
                    first = one.gradient(y, t)
                second = two.gradient(first, t)
            third = three.gradient(second, t)
            first, second, third = map(float, (first, second, third))
            alpha = second / (2 * second + active[0, ..., k].sum() * third)
            cam += alpha * max(first, 0) * active[0, ..., k]
            factor = float(y)
    assert cam.any()
    close(GradCAMPlusPlus(model, layer="a").explain(x, 1).extras["cam"][0], cam / factor)


def test_channels_of_plus_plus_that_nothing_depends_on():
    """A derivative of 0, or so small that its cube underflows, is no quotient of zeros."""
    with zoo.precision("float32"):
        i = keras.Input((4, 4, 1))
        a = layers.Conv2D(2, 1, activation="relu", name="a")(i)
        model = keras.Model(i, layers.Dense(1)(layers.GlobalAveragePooling2D()(a)))
    model.set_weights([np.ones((1, 1, 1, 2)), np.zeros(2), np.array([[1e-25], [0.0]]), np.zeros(1)])
    x = np.ones((1, 4, 4, 1), "float32")
    g = 1e-25 / 16
    np.testing.assert_allclose(GradCAMPlusPlus(model, layer="a").analyze(x)[0, ..., 0], 16 * g / (2 + 16 * g), 1e-5)


def test_class_activation_maps_of_layer_cam():
    """Behind a mean and one dense layer: positive weights of the class only, divided by the positions."""
    with zoo.precision("float64"):
        i = keras.Input((6, 8, 2))
        a = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(i)
        model = zoo.randomise(keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(a))))
    x, w = picture((6, 8, 2)), model.get_weights()[-2]
    active = np.asarray(keras.Model(i, a)(x))
    close(LayerCAM(model).analyze(x, 1)[..., 0], active @ np.maximum(w[:, 1], 0) / 48)


# --- with scores -------------------------------------------------------------------------------------------------


def by_scores(active, score, x, x0, weights, axis=-1):
    """Algorithm 1 channel by channel; ``score`` of one sample at a time, x with positions in front and one channel."""
    cams = []
    for i, a in enumerate(active):
        scores, shown = [], []
        for k in range(a.shape[-1]):
            h = _wide(a[None, ..., k], x.shape[1:3])[0]
            if np.ptp(a[..., k]) == 0:
                continue
            h = ((h - h.min()) / (h.max() - h.min()))[..., None]
            scores.append(score(i, x0 + h * (x[i] - x0)) - score(i, np.broadcast_to(x0, x[i].shape)))
            shown.append(k)
        s = np.array(scores)
        w = np.exp(s) / np.exp(s).sum() if weights == "softmax" else s
        cams.append(np.maximum(sum((wk * a[..., k] for wk, k in zip(w, shown, strict=True)), np.zeros(a.shape[:2])), 0))
    return np.stack(cams)


@pytest.mark.parametrize(
    ("weights", "on", "reference"), [("softmax", "logits", 0), ("increase", "logits", 0.7), ("increase", "output", 0)]
)
def test_score_cam_by_hand(weights, on, reference):
    model, x, index = net(), picture(), [2, 0, 1]
    kernel = model.get_layer("late").get_weights()
    kernel[0][..., 2], kernel[1][2] = 0, 0.3  # a channel that is the same everywhere
    model.get_layer("late").set_weights(kernel)
    active = np.asarray(keras.Model(model.input, model.get_layer("late").output)(x))
    explained = model if on == "output" else keras.Model(model.input, model.get_layer("scores").output)

    def score(i, z):
        return float(explained(z[None])[0, index[i]])

    expected = by_scores(active, score, x, reference, weights)
    assert (active[..., 2] == active[0, 0, 0, 2]).all() and expected.any()
    for size in (32, 2):
        found = ScoreCAM(model, weights=weights, on=on, reference=reference, batch_size=size).explain(x, index)
        close(found.extras["cam"], expected)
    close(found.attribution[..., 1], _wide(expected, (9, 7)))
    close(found.output, explained(x))
    np.testing.assert_array_equal(found.target, index)


def test_the_reference_cancels_in_the_softmax_only_where_it_is_not_seen():
    """The paper's f_c(x0) is the same for all channels; what is seen behind the map is not."""
    model, x = net(), picture()
    found = [ScoreCAM(model, reference=r).explain(x, 1).extras["cam"] for r in (0, 0.5, "mean", "blur")]
    assert not any(np.allclose(found[0], other) for other in found[1:])


def test_score_cam_moves_the_vectors_of_tokens():
    sample = zoo.make("tokens", "float64")
    x = sample.inputs(2)
    net = sample.model
    embedding, layer = net.layers[1], net.layers[2]
    rest = keras.Model(embedding.output, net.output)
    vectors, zero = np.asarray(embedding(x)), np.asarray(embedding(np.zeros((1, 6), "int32")))[0]
    active = np.asarray(keras.Model(net.input, layer.output)(x))
    found = ScoreCAM(net, on="output").explain(x, [1, 0]).extras["cam"]
    for i, c in enumerate([1, 0]):
        scores = []
        for k in range(active.shape[-1]):
            h = interpolation(4, 6) @ active[i, :, k]
            h = ((h - h.min()) / (np.ptp(h) or 1))[:, None]
            scores.append(float(rest((zero + h * (vectors[i] - zero))[None])[0, c]) if np.ptp(h) else -np.inf)
        w = np.exp(scores) / np.exp(scores).sum()
        close(found[i], np.maximum(active[i] @ w, 0))


def test_score_cam_leaves_other_inputs_alone():
    """An image is masked; the table beside it is what it was."""
    with zoo.precision("float64"):
        one, table = keras.Input((6, 6, 1)), keras.Input((3,))
        a = layers.Conv2D(3, 3, activation="relu", name="a")(one)
        y = layers.Dense(4, activation="relu")(layers.Concatenate()([layers.Flatten()(a), table]))
        model = zoo.randomise(keras.Model([one, table], layers.Dense(2)(y)))
    x = [picture((6, 6, 1)), picture((3,))]
    active = np.asarray(keras.Model(one, a)(x[0]))

    def score(i, z):
        return float(model([z[None], x[1][i : i + 1]])[0, 1])

    found = ScoreCAM(model, reference=[0.2, 0]).explain(x, 1)
    close(found.extras["cam"], by_scores(active, score, x[0], 0.2, "softmax"))
    assert not found.attribution[1].any()


def test_score_cam_needs_no_gradient():
    with zoo.precision("float64"):
        i = keras.Input((6, 6, 1))
        a = layers.Conv2D(3, 3, activation="relu", name="a")(i)
        y = layers.Dense(2)(layers.Flatten()(ops.cast(ops.cast(4 * a, "int32"), a.dtype) / 4))
        model = zoo.randomise(keras.Model(i, y))
    assert ScoreCAM(model, layer="a").analyze(picture((6, 6, 1))).any()
    with pytest.raises(UnsupportedModelError, match="gradient"):
        GradCAM(model, layer="a")


# --- what all share ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", VARIANTS)
def test_layers_and_refusals_are_those_of_grad_cam(cls):
    model = net()
    assert cls(model).layer_ == GradCAM(model).layer_ == "late"
    for layer in ("missing", "scores"):
        with pytest.raises(InvalidInputError, match=rf"{layer}.*early, late"):
            cls(model, layer=layer)
    with pytest.raises(UnsupportedModelError, match=rf"{cls.__name__} looks at a layer with positions"):
        cls(zoo.make("mlp").model)


@pytest.mark.parametrize("cls", VARIANTS)
def test_channels_first_is_channels_last(cls):
    first = zoo.make("channels_first")
    x = first.inputs(2)
    kernel, bias, *normal = first.model.layers[1].get_weights() + first.model.layers[2].get_weights()
    i = keras.Input((6, 6, 2))
    a = layers.MaxPooling2D(2)(layers.BatchNormalization()(layers.Conv2D(5, 3, activation="relu")(i)))
    twin = keras.Model(i, layers.Dense(3)(layers.Flatten()(layers.Permute((3, 1, 2))(a))))
    twin.set_weights([kernel, bias, *normal, *first.model.layers[-1].get_weights()])
    found, other = cls(first.model).explain(x, [1, 0]), cls(twin, layer=twin.layers[3].name)
    expected = other.explain(np.moveaxis(x, 1, -1), [1, 0])
    close(found.extras["cam"], expected.extras["cam"], 1e-4)
    close(np.moveaxis(found.attribution, 1, -1), expected.attribution, 1e-4)


def test_bad_references():
    with pytest.raises(InvalidInputError, match="reference"):
        ScoreCAM(net(), reference=np.zeros(5))
    with pytest.raises(InvalidInputError, match="token number"):
        ScoreCAM(zoo.make("tokens").model, reference=0.5)
    with pytest.raises(InvalidInputError, match="weights must be one of 'softmax', 'increase'"):
        ScoreCAM(net(), weights="relu")
