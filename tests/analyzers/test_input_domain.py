"""What the rules of the input layer ask of the input: its bounds behind rescaling, and what is padding."""

import keras
import numpy as np
import pytest
from keras import ops

import innv_ext
from innv_ext.rules import Bounded, Rules, named

L = keras.layers
RNG = np.random.default_rng(0)
LOW, HIGH = 0.0, 255.0
SHAPE = (5, 4, 3)


def close(a, b, tolerance=1e-4):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-9))


def relevance(name, model, x, settings, layers=None):
    return innv_ext.create_analyzer(name, model, **settings).analyze(x, 1, return_layers=layers)


def positive():
    return L.Dense(2, bias_initializer=keras.initializers.Constant(1e3))  # Deep Taylor has nothing to say else


# --- bounds -------------------------------------------------------------------------------------------------------


def adapted():
    layer = L.Normalization()
    layer.adapt(RNG.normal(size=(50, *SHAPE)) * [1, 20, 50] + 100)
    return layer


def trained_batchnorm(**settings):
    layer = L.BatchNormalization(**settings)
    layer.build((None, *SHAPE))
    n = layer.gamma.shape[0]
    layer.set_weights([RNG.normal(size=n), RNG.normal(size=n), RNG.normal(size=n) * 50, RNG.uniform(100, 900, n)])
    return layer


FRONTS = {
    "offset": L.Rescaling(1 / 127.5, offset=-1),
    "inverted, per channel": L.Rescaling([-1 / 255, 1 / 100, 2.0], offset=[1, 0, 3]),
    "operations": lambda i: (i / 255.0) * np.array([0.5, -2, 1], "float32") + 0.25,
    "constant minus x": lambda i: 1.0 - i / 255.0,
    "statistics": adapted(),
    "a batch normalisation that is not merged": lambda i: trained_batchnorm(axis=1)(L.Rescaling(0.01)(i)),
    "several": lambda i: adapted()(L.Dropout(0.5)(L.Rescaling(-0.5)(i))),
}


@pytest.mark.parametrize("name", ["deep_taylor.bounded", "lrp.epsilon_gamma_box"])
@pytest.mark.parametrize("front", FRONTS)
def test_bounds_are_carried_through_rescaling(front, name):
    if "batch" in front and name.startswith("lrp"):
        pytest.skip("what a batch normalisation makes of relevance is its own rule's affair")
    i = keras.Input(SHAPE)
    start = keras.Model(i, FRONTS[front](i))
    conv, dense = L.Conv2D(4, 3, activation="relu"), positive()
    whole = keras.Model(i, dense(L.Flatten()(conv(start.output))))
    body = keras.Sequential([keras.Input(SHAPE), conv, L.Flatten(), dense])
    x = RNG.uniform(LOW, HIGH, (3, *SHAPE)).astype("float32")
    ends = [np.asarray(start(np.full((1, *SHAPE), v, "float32")))[0] for v in (LOW, HIGH)]
    expected = relevance(name, body, np.asarray(start(x)), {"low": np.minimum(*ends), "high": np.maximum(*ends)})
    close(relevance(name, whole, x, {"low": LOW, "high": HIGH}), expected)


def test_bounds_follow_statistics_that_change_and_arrays_that_are_moved():
    norm, dense = adapted(), L.Dense(2)
    model = keras.Sequential([keras.Input(SHAPE), norm, L.Permute((3, 2, 1)), L.Flatten(), dense])
    low, high = RNG.uniform(-9, 0, SHAPE), RNG.uniform(200, 255, SHAPE)
    analyzer = innv_ext.create_analyzer("lrp.z", model, input_layer_rule=(low, high))
    x = RNG.uniform(0, 200, (2, *SHAPE)).astype("float32")
    for _ in range(2):
        norm.adapt(RNG.normal(size=(50, *SHAPE)) * RNG.uniform(1, 50, 3) + 90)
        w = np.asarray(dense.kernel)[:, 1].reshape(3, 4, 5).T
        low_, high_, z = (np.asarray(norm(v.astype("float32"))) for v in (low[None], high[None], x))
        c = z * w - low_ * np.maximum(w, 0) - high_ * np.minimum(w, 0)
        score = np.asarray(model(x))[:, 1]
        close(analyzer.analyze(x, 1), c / c.sum((1, 2, 3), keepdims=True) * score[:, None, None, None])


def test_bounds_on_several_inputs_and_paths():
    """An affine node that reads inputs, and what other layers made of them, has z+ for the latter."""
    a, b = keras.Input((3,)), keras.Input((2,))
    hidden, last = L.Dense(4), L.Dense(2, use_bias=False)
    joined = L.Concatenate()([L.Rescaling(0.5)(a), 1.0 - b, hidden(a), 3.0 * a])
    model = keras.Model([a, b], last(joined))
    x = [RNG.uniform(-1, 2, (4, n)).astype("float32") for n in (3, 2)]
    h, w = np.asarray(hidden(x[0])), np.asarray(last.kernel)[:, 1]
    z = np.concatenate([x[0] / 2, 1 - x[1], h, 3 * x[0]], 1)
    low = np.concatenate([np.full((4, 3), -0.5), np.full((4, 2), -1.0), np.minimum(h, 0), np.full((4, 3), -3.0)], 1)
    high = np.concatenate([np.full((4, 3), 1.0), np.full((4, 2), 2.0), np.maximum(h, 0), np.full((4, 3), 6.0)], 1)
    c = z * w - low * np.maximum(w, 0) - high * np.minimum(w, 0)
    r = c / c.sum(1, keepdims=True) * (z @ w)[:, None]
    found = relevance("lrp.z", model, x, {"input_layer_rule": (-1, 2)})
    k = np.asarray(hidden.kernel)
    box = x[0][:, :, None] * k + np.maximum(k, 0) - 2 * np.minimum(k, 0)  # bounds -1 and 2
    through = (box / box.sum(1, keepdims=True) * r[:, None, 5:9]).sum(2)
    close(found[0], r[:, :3] + through + r[:, 9:])
    close(found[1], r[:, 3:5])


def test_bounds_given_for_a_layer_are_those_of_the_layer():
    i = keras.Input((3,))
    model = keras.Model(i, L.Dense(2, name="last")(L.Rescaling(10.0)(i)))
    x = RNG.uniform(0, 1, (2, 3)).astype("float32")
    of_layer = relevance("lrp.z", model, x, {"rules": Rules((named("last"), Bounded(0, 20)))})
    close(of_layer, relevance("lrp.z", model, x, {"input_layer_rule": Bounded(0, 2)}))


# --- padding ------------------------------------------------------------------------------------------------------

METHODS = {
    "deep_taylor": {},
    "deep_taylor.bounded": {"low": -1, "high": 1},
    "lrp.w_square": {},
    "lrp.flat": {},
    "lrp.epsilon_gamma_box": {"low": -1, "high": 1},
    "lrp.epsilon": {},
}


def strided(i):
    return L.ZeroPadding2D(((0, 1), (0, 1)))(i)  # what "same" means for an even size, kernel 3 and stride 2


PADDED = {  # input shape, padding, what Keras itself pads
    "layer": ((5, 5, 2), L.ZeroPadding2D(1), L.Conv2D, {}),
    "one side": ((6, 6, 2), strided, L.Conv2D, {"strides": 2}),
    "operation": ((5, 5, 2), lambda i: ops.pad(i, [(0, 0), (1, 1), (1, 1), (0, 0)]), L.DepthwiseConv2D, {}),
    "signal": ((6, 2), L.ZeroPadding1D(1), L.Conv1D, {}),
    "causal": ((6, 2), L.ZeroPadding1D((2, 0)), L.Conv1D, {"padding": "causal"}),
    "volume": ((3, 3, 3, 1), L.ZeroPadding3D(1), L.Conv3D, {}),
    "separable": ((5, 5, 2), L.ZeroPadding2D(1), L.SeparableConv2D, {"filters": 3}),
    "in pieces": (
        (4, 5, 2),
        lambda i: L.ZeroPadding2D((0, 1))(L.Dropout(0.1)(L.ZeroPadding2D((1, 0))(i))),
        L.Conv2D,
        {},
    ),
    "channels first": (
        (2, 5, 5),
        lambda i: L.Permute((2, 3, 1))(L.ZeroPadding2D(1, data_format="channels_first")(i)),
        L.Conv2D,
        {"moved": L.Permute((2, 3, 1))},
    ),
}


@pytest.mark.parametrize("case", PADDED)
def test_zero_padding_as_a_layer_is_padding_of_the_convolution(case):
    shape, pad, kind, settings = PADDED[case]
    settings = {"filters": 3, "padding": "same", **settings}
    moved = settings.pop("moved", lambda t: t)
    if kind is L.DepthwiseConv2D:
        del settings["filters"]
    inner = kind(kernel_size=3, activation="relu", **settings)
    outer = kind(kernel_size=3, activation="relu", **{**settings, "padding": "valid"})
    norm, dense, i = L.BatchNormalization(), positive(), keras.Input(shape)
    padded = keras.Model(i, dense(L.Flatten()(norm(outer(pad(i))))))
    plain = keras.Model(i, dense(L.Flatten()(norm(inner(moved(i))))))
    inner.set_weights(outer.get_weights())
    x = RNG.uniform(-1, 1, (2, *shape)).astype("float32")
    close(padded(x), plain(x))
    for name, given in METHODS.items():
        close(relevance(name, padded, x, given), relevance(name, plain, x, given))


def test_zero_padding_in_the_middle_with_other_readers():
    """ResNet's start, a convolution behind signed values, and a padding that others read and that is asked for."""
    i = keras.Input((8, 8, 2))
    convs = [[L.Conv2D(3, 3, strides=s, padding=p) for p in ("valid", "same")] for s in (2, 1)]
    dense = positive()
    models = []
    for k, pad in enumerate((True, False)):
        h = L.Normalization(mean=[0.1, 0.2], variance=[1.0, 2.0])(L.Rescaling(0.5)(i))
        h = convs[0][k](L.ZeroPadding2D(((0, 1), (0, 1)))(h) if pad else h)
        p = L.ZeroPadding2D(1, name="pad")(h)
        other = L.GlobalAveragePooling2D()(L.Cropping2D(1)(p))
        g = convs[1][k](p if pad else h)
        models.append(keras.Model(i, dense(L.Concatenate()([L.Flatten()(L.ReLU()(g)), other]))))
    for valid, same in convs:
        same.set_weights(valid.get_weights())
    x = RNG.uniform(-1, 1, (2, 8, 8, 2)).astype("float32")
    close(models[0](x), models[1](x))
    for name, given in METHODS.items():
        close(relevance(name, models[0], x, given), relevance(name, models[1], x, given))
    maps, layers = relevance("lrp.flat", models[0], x, {}, layers=["pad"])
    inside = layers["pad"][:, 1:-1, 1:-1]
    close(layers["pad"].sum((1, 2, 3)), inside.sum((1, 2, 3)))
    close(inside.sum((1, 2, 3)), maps.sum((1, 2, 3)))


def test_maximum_of_zeros_and_padded_zeros():
    """ResNet's second padding: in a window of silent neurons one of these wins, not the padding."""
    i, conv, dense = keras.Input((6, 6, 1)), L.Conv2D(2, 3, padding="same", activation="relu"), positive()
    h = L.ZeroPadding2D(1)(conv(i))
    model = keras.Model(i, dense(L.Flatten()(L.Conv2D(2, 2)(L.MaxPooling2D(2)(h)))))
    x = np.zeros((1, 6, 6, 1), "float32")
    x[0, 4, 4] = 1.0  # zeros in the first windows, padding and all
    for name in ("lrp.w_square", "lrp.flat", "deep_taylor"):
        close(relevance(name, model, x, {}).sum((1, 2, 3)), np.asarray(model(x))[:, 1])


def test_padding_that_is_rescaled_afterwards_is_no_input():
    i = keras.Input((3, 2))
    model = keras.Model(i, L.Dense(2, use_bias=False)(L.Flatten()(L.ZeroPadding1D(1)(i) + 2.0)))
    x = RNG.uniform(-1, 1, (2, 3, 2)).astype("float32")
    w = np.asarray(model.layers[-1].kernel)[2:-2, 1].reshape(3, 2) ** 2
    expected = w / w.sum() * np.asarray(model(x))[:, 1, None, None]
    close(relevance("lrp.w_square", model, x, {}), expected)
