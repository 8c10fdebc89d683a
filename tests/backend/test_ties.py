"""Derivatives at ties and zeros, first and second ones, against differences and formulas."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import innv_ext
from innv_ext.backend import facts, numerics, walk
from innv_ext.backend.passes import canonical
from innv_ext.backend.tracing import trace

L = keras.layers


def model_of(fn, shape):
    x = keras.Input(shape, dtype="float64")
    y = fn(x)
    return keras.Model(x, y if len(y.shape) == 2 else ops.reshape(y, (-1, int(np.prod(y.shape[1:])))))


def score(fn, shape):
    """The sum of all outputs of the graph, per sample."""
    graph = canonical(trace(model_of(fn, shape), facts.is_leaf))
    return lambda x: ops.sum(walk.evaluate(graph, [x])[0], axis=1)


def gradient(score, x):
    (y,), pullback = numerics.vjp(score, ops.convert_to_tensor(x, dtype="float64"))
    return np.asarray(pullback(ops.ones_like(y))[0])


def hessian(score, x):
    """(batch, n, n) by products with all unit vectors."""
    x = ops.convert_to_tensor(x, dtype="float64")

    def slope(x):
        (y,), pullback = numerics.vjp(score, x)
        return [pullback(ops.ones_like(y))[0]]

    n = int(np.prod(x.shape[1:]))
    units = np.eye(n).reshape(n, 1, *x.shape[1:]) * np.ones((1, len(x), *[1] * (len(x.shape) - 1)))
    rows = [np.asarray(numerics.hvp(slope, [x], [ops.convert_to_tensor(v, dtype="float64")])[0]) for v in units]
    return np.stack([row.reshape(len(row), -1) for row in rows], axis=1)


def differences(f, x, step=1e-5):
    """Central differences per sample, (batch, n, ...)."""
    flat = x.reshape(len(x), -1)
    found = []
    for i in range(flat.shape[1]):
        move = np.zeros_like(flat)
        move[:, i] = step
        found.append(np.asarray(f((flat + move).reshape(x.shape))) - np.asarray(f((flat - move).reshape(x.shape))))
    return np.stack(found, axis=1) / (2 * step)


MATRIX = np.outer([1.0, 2, -1, 0.5], [0.5, -1, 2, 1])
CASES = {  # function, sample shape, points where TensorFlow's derivative is wrong, and one where it is not
    "celu, slope at 0": (L.Activation("celu", dtype="float64"), (3,), [[-1.0, 0, 2]]),
    "celu, alpha": (lambda x: keras.activations.celu(x, 0.5), (3,), [[-1.0, 0, 2]]),
    "celu, fused": (
        L.Dense(3, "celu", kernel_initializer="identity", dtype="float64"),
        (3,),
        [[-1.0, 0, 2]],
    ),
    "logaddexp": (lambda x: ops.logaddexp(x[:, :2], x[:, 2:]), (4,), [[1.0, -2, 1, 3], [50, -800, 0, 900]]),
    "logaddexp with a constant": (lambda x: ops.logaddexp(0.5, x), (2,), [[0.5, 3]]),
    "logaddexp2": (lambda x: ops.logaddexp2(x[:, :2], x[:, 2:]), (4,), [[1.0, -2, 1, 3]]),
    "hypot": (lambda x: ops.hypot(x[:, :2], x[:, 2:]), (4,), [[1.0, -2, 1, 2], [3, 0, 4, 1]]),
    "sinc": (ops.sinc, (4,), [[0.0, 1e-3, 0.7, -0.03]]),
    "cumprod": (lambda x: ops.cumprod(x, axis=1), (5,), [[1.5, 0, 2, 0, -1], [1, 2, 0, 3, 4], [1, -1, 2, 1, 3]]),
    "cumprod, other axis": (lambda x: ops.cumprod(x, axis=-2), (3, 2), [[[1.0, 0], [0, 2], [3, 4]]]),
    "prod": (lambda x: ops.prod(x, axis=(1, 2)), (3, 2), [[[1.0, 0], [2, 3], [1, 2]], [[1.0, 0], [0, 3], [1, 2]]]),
    "prod, kept": (lambda x: ops.prod(x, axis=-1, keepdims=True), (5,), [[1.0, 0, 2, 0, 3]]),
    "det": (lambda x: ops.expand_dims(ops.det(x), 1), (4, 4), [MATRIX, np.eye(4) + MATRIX, np.diag([1.0, 2, 3, 0])]),
    "det of one": (lambda x: ops.expand_dims(ops.det(x), 1), (1, 1), [[[0.0]]]),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_where_tensorflow_is_wrong(name):
    fn, shape, points = CASES[name]
    x = np.asarray(points, "float64")
    f = score(fn, shape)
    expected = np.asarray(model_of(fn, shape)(x)).sum(axis=1)
    np.testing.assert_allclose(f(ops.convert_to_tensor(x)), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(gradient(f, x), differences(f, x).reshape(x.shape), rtol=1e-5, atol=1e-5)
    if "celu" in name:  # its second derivative jumps at 0
        return
    second = differences(lambda p: gradient(f, p).reshape(len(x), -1), x)
    np.testing.assert_allclose(hessian(f, x), second, rtol=1e-5, atol=1e-5)


def test_slopes_by_hand_through_an_analyzer():
    """1 at 0 for celu, 1/2 each for equal operands, cofactors of a matrix of rank 2, products of the others."""

    def maps(fn, x):
        return innv_ext.create_analyzer("gradient", model_of(fn, x.shape[1:])).analyze(x, 0)

    np.testing.assert_allclose(maps(keras.activations.celu, np.zeros((1, 1))), [[1.0]])
    pair = maps(lambda x: ops.logaddexp(x[:, :1], x[:, 1:]), np.full((1, 2), 3.0))
    np.testing.assert_allclose(pair, [[0.5, 0.5]])
    np.testing.assert_allclose(maps(ops.sinc, np.zeros((1, 1))), [[0.0]])
    np.testing.assert_allclose(maps(lambda x: ops.cumprod(x, axis=1)[:, 2:], np.array([[2.0, 0, 3]])), [[0, 6, 0]])
    a = np.array([[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]])  # rank 2
    minors = [
        (-1) ** (i + j) * np.linalg.det(np.delete(np.delete(a[0], i, 0), j, 1))
        for i, j in itertools.product(range(3), repeat=2)
    ]
    received = maps(lambda x: ops.expand_dims(ops.det(x), 1), a)
    np.testing.assert_allclose(received.reshape(-1), minors, atol=1e-9)


KINKS = [-6.0, -3, -1, -0.5, 0, 0.5, 1, 3, 6]


@pytest.mark.parametrize(
    "name",
    "relu relu6 leaky_relu elu selu celu gelu silu softplus softsign hard_sigmoid hard_tanh tanh_shrink "
    "soft_shrink squareplus log_sigmoid sparse_plus sparse_sigmoid".split(),
)
def test_slopes_at_kinks_lie_between_those_of_both_sides(name):
    f = score(getattr(keras.activations, name), (1,))
    x, h = np.array(KINKS)[:, None], 1e-6
    at = gradient(f, x)
    left, right = gradient(f, x - h), gradient(f, x + h)
    assert (at >= np.minimum(left, right) - 1e-4).all() and (at <= np.maximum(left, right) + 1e-4).all()
