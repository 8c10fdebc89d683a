"""Inputs of integers beside a signal: masks get zeros, numbers that are added or multiplied as such get their share."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import innv_ext

STEPS, WIDTH = 4, 3


def explained(build, shape, numbers, name="gradient", x_shape=(STEPS, WIDTH)):
    """The maps of a float input and of one of integers."""
    x, n = keras.Input(x_shape), keras.Input(shape, dtype="int32")
    model = keras.Model([x, n], build(x, n))
    values = np.random.default_rng(0).normal(size=(2, *x_shape)).astype("float32")
    return innv_ext.create_analyzer(name, model).analyze([values, numbers], 0)


def pooled(h):
    return L.Dense(2)(ops.sum(h, axis=1))


def attended(x, closed):
    """Scores that are far away where a mask closes them, as (1 - mask) times a large number or by a choice."""
    scores = ops.matmul(x, ops.swapaxes(x, 1, 2)) + closed[:, None]
    return pooled(ops.matmul(ops.softmax(scores, axis=-1), x))


def numbered(x, m):
    """As in ALiBi: what is closed has no number, the other steps have, and scores are more with it."""
    numbers = ops.cast((ops.cumsum(m, axis=1) - 1) * m, "float32")
    scores = ops.matmul(x, ops.swapaxes(x, 1, 2)) + 0.5 * numbers[:, None]
    weights = L.Softmax()(scores, mask=ops.cast(m, "bool")[:, None])
    return pooled(ops.matmul(weights, x))


def turned(x, n):
    """As in rotary embeddings, by the number of each step."""
    angle = ops.einsum("bt,d->btd", ops.cast(n, "float32"), np.array([1.0, 0.1, 0.01], "float32"))
    h = x * ops.cos(angle) + ops.flip(x, axis=-1) * ops.sin(angle)
    return pooled(ops.matmul(ops.softmax(ops.matmul(h, ops.swapaxes(h, 1, 2)), axis=-1), x))


def shifted(x, n):
    """As in the first transformers."""
    return pooled(ops.tanh(x + ops.sin(ops.cast(n, "float32")[..., None] * np.array([1.0, 0.1, 0.01], "float32"))))


FAR = -1e9
MASKS = {
    "factor of steps": lambda x, m: pooled(x * ops.cast(m, "float32")[..., None]),
    "mean of what counts": lambda x, m: L.Dense(2)(
        ops.sum(x * ops.cast(m, "float32")[..., None], axis=1) / ops.sum(ops.cast(m, "float32"), axis=1)[:, None]
    ),
    "far scores": lambda x, m: attended(x, (1.0 - ops.cast(m, "float32")) * FAR),
    "chosen scores": lambda x, m: attended(x, ops.where(ops.cast(m, "bool"), 0.0, FAR)),
    "condition": lambda x, m: pooled(ops.where(ops.cast(m, "bool")[..., None], x, 0.0)),
    "numbers of steps": numbered,
    "turns by positions": turned,
    "waves of positions": shifted,
    "behind steps that always count": lambda x, m: attended(
        ops.concatenate([x, x], axis=1),
        (1.0 - ops.cast(ops.concatenate([ops.ones_like(x[..., 0], dtype="int32"), m], axis=1), "float32")) * FAR,
    ),
    "beside a constant": lambda x, m: attended(
        x, (1.0 - ops.cast(m, "float32")) * FAR + ops.cast(ops.ones_like(x[..., 0]), "float32")
    ),
    "softmax": lambda x, m: pooled(x * L.Softmax(axis=1)(x, mask=ops.cast(m, "bool")[..., None])),
}


class Whole(L.Layer):
    """A layer that cannot be opened."""

    def call(self, x, m):
        return x * tf.cast(m, "float32")[..., None]

    def compute_output_spec(self, x, m):
        return keras.KerasTensor(x.shape, x.dtype)


def test_truth_values_that_a_closed_layer_takes_get_zeros():
    x, m = keras.Input((STEPS, WIDTH)), keras.Input((STEPS,), dtype="bool")
    model = keras.Model([x, m], pooled(Whole()(x, m)))
    own, other = innv_ext.create_analyzer("gradient", model).analyze(
        [np.ones((2, STEPS, WIDTH), "float32"), np.array([[True, False, True, True]] * 2)], 0
    )
    assert own[:, [0, 2, 3]].all() and not own[:, 1].any() and not np.any(other)


@pytest.mark.parametrize("kind", MASKS)
def test_masks_get_zeros(kind):
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1]])
    own, other = explained(MASKS[kind], (STEPS,), mask)
    assert np.any(own) and not np.any(other)


def test_a_number_that_is_added_is_a_signal():
    """Beside a Dense layer, as an offset: its gradient is 1."""
    _, other = explained(lambda x, n: L.Dense(2)(x) + ops.cast(n, "float32"), (2,), np.ones((2, 2), int), x_shape=(3,))
    np.testing.assert_allclose(other, [[1, 0], [1, 0]])


def test_waves_that_weights_read_are_a_signal():
    """The hour of the day, as sine and cosine beside other columns."""

    def build(x, n):
        angle = ops.cast(n, "float32") * (2 * np.pi / 24)
        return L.Dense(2)(ops.concatenate([x, ops.sin(angle), ops.cos(angle)], axis=-1))

    _, other = explained(build, (1,), np.array([[3], [20]]), x_shape=(3,))
    assert np.all(other != 0)


def test_angles_are_a_signal():
    """One for each value, which has its cosine for a factor."""
    build = lambda x, n: L.Dense(2)(x * ops.cos(ops.cast(n, "float32") * (np.pi / 180)))
    own, other = explained(build, (3,), np.array([[30, 60, 200]] * 2), x_shape=(3,))
    assert np.all(own != 0) and np.all(other != 0)


def test_a_number_that_is_summed_up_and_added_is_a_signal():
    """It closes nothing."""
    build = lambda x, n: L.Dense(3)(x) + ops.cumsum(ops.cast(n, "float32"), axis=1)
    _, other = explained(build, (3,), np.ones((2, 3), int), x_shape=(3,))
    np.testing.assert_allclose(other, [[1, 0, 0]] * 2)


def test_deep_lift_keeps_masks_as_they_are():
    """Beside the reference of the signal: the sum is the difference that the signal alone makes."""
    x, m = keras.Input((STEPS, WIDTH)), keras.Input((STEPS,), dtype="int32")
    model = keras.Model([x, m], numbered(x, m))
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1]])
    values = np.random.default_rng(0).normal(size=(2, STEPS, WIDTH)).astype("float32")
    found = innv_ext.create_analyzer("deep_lift", model).explain([values, mask], 0)
    difference = model.predict([values, mask], verbose=0)[:, 0] - model.predict([0 * values, mask], verbose=0)[:, 0]
    np.testing.assert_allclose(found.attribution[0].sum(axis=(1, 2)), difference, rtol=1e-4)
    assert np.abs(difference).min() > 1e-3 and not np.any(found.attribution[1])


def test_a_number_that_is_multiplied_is_a_signal():
    """Quantity times price: each has half of the score in LRP, by the rule for products of two signals."""
    build = lambda x, n: L.Dense(1, use_bias=False)(x * ops.cast(n, "float32"))
    own, other = explained(build, (3,), np.full((2, 3), 2), "lrp.z", x_shape=(3,))
    assert np.all(other != 0)
    np.testing.assert_allclose(own, other, rtol=1e-5)
    own, other = explained(build, (1,), np.full((2, 1), 2), "input_t_gradient", x_shape=(3,))
    np.testing.assert_allclose(own.sum(axis=1), other[:, 0], rtol=1e-5)
