"""Methods whose relevance has one sign keep it at sums of signed values; Deep Taylor loses nothing on the way."""

import keras
import numpy as np
import pytest
from keras import ops

import innv_ext
from innv_ext.errors import ConservationWarning, UnsupportedModelError

L = keras.layers
RNG = np.random.default_rng(0)
UNSIGNED = ["lrp.z_plus", "lrp.alpha_1_beta_0", "lrp.w_square", "lrp.flat", "lrp.excitation_backprop"]


def close(a, b, tolerance=1e-4):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-9))


def dense(units, activation=None):
    return L.Dense(units, activation, bias_initializer=keras.initializers.RandomNormal(0.3, 0.2, seed=units))


SUMS = {
    "Add": lambda a, b: L.Add()([a, b]),
    "Subtract": lambda a, b: L.Subtract()([a, b]),
    "operations": lambda a, b: ops.sum(ops.stack([a, b], axis=1), axis=1) - 0.5 * b,
    "Average, a signal's pooling": lambda a, b: L.Flatten()(
        L.AveragePooling1D(2)(L.Reshape((4, 2))(L.Average()([a, b])))
    ),
    "all positions": lambda a, b: L.GlobalAveragePooling1D()(L.Reshape((4, 2))(L.Concatenate(axis=1)([a, b])[:, 4:12])),
    "BatchNormalization": lambda a, b: L.ReLU()(
        L.BatchNormalization(beta_initializer="ones", moving_mean_initializer="ones")(L.Add()([a, b]))
    ),
}


@pytest.mark.parametrize("kind", SUMS)
def test_signs_and_sums_of_signed_branches(kind):
    """A linear bottleneck, as in MobileNetV2, and a sum with no ReLU behind it."""
    keras.utils.set_random_seed(1)
    i = keras.Input((8,))
    a = dense(8)(dense(16, "relu")(i))
    b = dense(8)(dense(16, "relu")(a))
    top = L.Dense(3, bias_initializer="ones")
    model = keras.Model(i, top(dense(16, "relu")(SUMS[kind](a, b))))
    x = RNG.normal(size=(32, 8)).astype("float32")
    x = x[np.asarray(model(x)).max(1) > 0.1]
    assert len(x) > 10
    found = innv_ext.create_analyzer("deep_taylor", model).explain(x)
    assert found.attribution.min() >= 0
    close(found.extras["sum"], found.score)
    assert np.abs(found.extras["absorbed"]).max() < 1e-3
    for name in UNSIGNED:
        assert innv_ext.create_analyzer(name, model).analyze(x).min() >= 0, name


def test_shares_of_a_difference():
    """z+: by what is positive in a - b, halves where nothing is; Deep Taylor: halves, for no sign is known."""
    i = keras.Input((2,))
    a, b = (L.Dense(2, use_bias=False, name=n)(i) for n in "ab")
    model = keras.Model(i, L.Dense(1, use_bias=False)(L.Subtract(name="sum")([a, b])))
    for layer, w in (("a", [[1.0, 0], [0, -2]]), ("b", [[3.0, 0], [0, -1]])):
        model.get_layer(layer).set_weights([np.array(w)])
    model.layers[-1].set_weights([np.array([[-1.0], [2.0]])])
    x = np.array([[1.0, -3.0], [-2.0, -1.0], [2.0, 4.0]], "float32")
    # a = (1, 6), (-2, 2), (2, -8); b = (3, 3), (-6, 1), (6, -4); a - b = (-2, 3), (4, 1), (-4, -4)
    share = {"a": [[1, 1], [0, 1], [1, 0]], "b": [[0, 0], [1, 0], [0, 1]]}
    _, found = innv_ext.create_analyzer("lrp.z_plus", model).analyze(x, 0, return_layers=["a", "b", "sum"])
    for name in "ab":
        close(found[name], np.array(share[name]) * found["sum"])
    x = x[:1]
    _, found = innv_ext.create_analyzer("deep_taylor", model).analyze(x, 0, return_layers=["a", "b", "sum"])
    close(found["sum"], np.array([[1, 4]]) / 5 * np.asarray(model(x)))
    for name in "ab":
        close(found[name], found["sum"] / 2)


def test_a_silent_sum_and_a_silent_neuron_pass_on_by_weights():
    """x = 0 (or at both bounds): biases alone make the score, and z+ and z^B have nothing to share by."""
    i = keras.Input((3,))
    low, high = L.Dense(2, "relu"), L.Dense(1)
    model = keras.Model(i, high(low(L.ReLU()(i))))
    low.set_weights([np.array([[1.0, -1], [2, 0], [-3, -1]]), np.array([1.0, -1])])
    high.set_weights([np.array([[2.0], [1]]), np.array([0.5])])
    x = np.array([[0.0, 0, 1 / 6], [0, 0, 0]], "float32")  # first neuron 0.5, 1, all from its bias
    found = innv_ext.create_analyzer("deep_taylor", model).explain(x)
    close(found.attribution, np.array([[1.0, 4, 9]]) / 14 * np.asarray(model(x)))
    clipped = keras.Sequential([keras.Input((3,)), low, high])
    found = innv_ext.create_analyzer("deep_taylor.bounded", clipped, low=0, high=[1, 1, 1 / 6]).explain(x)
    close(found.attribution[:1], np.array([[1.0, 4, 9]]) / 14 * np.asarray(model(x))[:1])
    close(found.attribution[1:], np.array([[0.0, 0, 1]]) * np.asarray(model(x))[1:])  # only -3 (0 - 1/6) is positive


def test_what_is_absorbed_is_told_once():
    i = keras.Input((3,))
    low, high = L.Dense(2, "relu"), L.Dense(1)
    model = keras.Model(i, high(low(i)))
    low.set_weights([np.array([[1.0, 0], [1, 0], [1, 0]]), np.array([0.0, 3])])  # the second has no weights
    high.set_weights([np.array([[1.0], [1]]), np.array([0.0])])
    x = np.array([[1.0, 1, 1], [0.5, 0.25, 0.25]], "float32")
    with pytest.warns(ConservationWarning, match=r"1 of 2 maps .*75% is missing, sample 1") as caught:
        found = innv_ext.create_analyzer("deep_taylor", model).explain(x)
    assert len(caught) == 1
    close(found.extras["absorbed"], [0.5, 0.75])
    close(innv_ext.create_analyzer("lrp.z_plus", model).explain(x).extras["absorbed"], [0.5, 0.75])  # only told


def test_negative_interpolation_weights_are_refused():
    i = keras.Input((4, 4, 1))
    model = keras.Model(i, L.Dense(2)(L.Flatten()(L.UpSampling2D(interpolation="bicubic", name="up")(i))))
    with pytest.raises(UnsupportedModelError, match=r"up .*negative weights"):
        innv_ext.create_analyzer("deep_taylor", model)
