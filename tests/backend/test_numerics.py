"""The vector-Jacobian product, range of half precision, stabilised division and compiled functions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from innv_ext.backend import numerics


def tensor(*shape, dtype="float64", seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


# --- vjp ---------------------------------------------------------------------------------------------------------


def test_vjp_against_the_tape():
    """Several inputs and outputs in a nested structure."""
    a, b = tensor(2, 3), tensor(2, 3, seed=1)
    fn = lambda a, b: {"one": ops.sin(a) * b, "two": [ops.matmul(a, ops.transpose(b)), a]}
    ys, pullback = numerics.vjp(fn, a, b)
    rs = [tensor(*y.shape, seed=5 + i) for i, y in enumerate(ys)]
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        outputs = keras.tree.flatten(fn(a, b))
    expected = tape.gradient(outputs, [a, b], output_gradients=rs)
    for y, o in zip(ys, outputs, strict=True):
        np.testing.assert_array_equal(y, o)
    for g, e in zip(pullback(*rs), expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-12)


def test_pullback_can_be_called_again():
    """The forward pass is shared; each call has its own cotangent."""
    calls = []

    def fn(x):
        calls.append(1)
        return x**3

    x = tensor(2, 3)
    _, pullback = numerics.vjp(fn, x)
    for factor in (1.0, -2.0, 0.0):
        (g,) = pullback(factor * tf.ones_like(x))
        np.testing.assert_allclose(g, factor * 3 * x**2, rtol=1e-12)
    assert len(calls) == 1


def test_the_same_tensor_twice_are_two_inputs():
    """x * y at x = y: through identity() each factor gets its own derivative; the plain tensor twice would get both."""
    x = tensor(2, 3)
    _, pullback = numerics.vjp(lambda a, b: a * b * b, numerics.identity(x), numerics.identity(x))
    a, b = pullback(tf.ones_like(x))
    np.testing.assert_allclose(a, x**2, rtol=1e-12)
    np.testing.assert_allclose(b, 2 * x**2, rtol=1e-12)


def test_outputs_without_cotangent_and_inputs_without_gradient():
    x, tokens = tensor(2, 3), tf.constant([[0, 1, 2], [2, 1, 0]])
    table = tensor(3, 4)
    ys, pullback = numerics.vjp(lambda x, t, w: [x * 2.0, tf.gather(w, t), tf.argmax(x, axis=1)], x, tokens, table)
    gx, gt, gw = pullback(None, tf.ones_like(ys[1]), None)
    assert gt is None
    np.testing.assert_array_equal(gx, tf.zeros_like(x))  # unconnected: zeros, not None
    np.testing.assert_array_equal(gw, np.full((3, 4), 2.0))  # the sparse gradient of a gather is made dense
    assert pullback(None, None, None) == (None, None, None)


def test_vjp_in_a_compiled_function():
    @tf.function
    def gradient(x):
        _, pullback = numerics.vjp(ops.tanh, x)
        return pullback(tf.ones_like(x))[0]

    x = tensor(4)
    np.testing.assert_allclose(gradient(x), 1 - np.tanh(x) ** 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_keep_single_and_double_precision(dtype):
    x = tensor(2, 3, dtype=dtype)
    _, pullback = numerics.vjp(lambda t: t * 2.0, x)
    assert pullback(tf.ones_like(x))[0].dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_half_precision_are_wide(dtype):
    x = tensor(2, 3, dtype=dtype)
    ys, pullback = numerics.vjp(lambda t: t * 2, x)
    g = pullback(tf.ones((2, 3)))[0]
    assert ys[0].dtype == dtype and g.dtype == tf.float32
    np.testing.assert_array_equal(g, np.full((2, 3), 2.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tiny_and_huge_cotangents_survive_half_precision(dtype):
    """float16 ends at 65504 and 6e-8; each sample is scaled on its own, so small ones live beside large ones."""
    x = tensor(4, 3, dtype=dtype)
    _, pullback = numerics.vjp(lambda t: t * 0.5, x)
    sizes = np.array([1e-20, 1e-9, 1e9, 1e20])
    r = np.array([1.0, -0.5, 0.25]) * sizes[:, None]
    g = pullback(tf.constant(r, "float32"))[0]
    np.testing.assert_allclose(g, 0.5 * r, rtol=1e-2 if dtype == "bfloat16" else 1e-3)


def test_half_precision_with_several_outputs_shares_one_scale():
    """Cotangents of different size for two outputs of one node must still be added in the right proportion."""
    x = tensor(2, 3, dtype="float16")
    _, pullback = numerics.vjp(lambda t: [t * 2, t * 4], x)
    r = [np.full((2, 3), 1e8), np.full((2, 3), 3e8)]
    g = pullback(*(tf.constant(v, "float32") for v in r))[0]
    np.testing.assert_allclose(g, 2 * r[0] + 4 * r[1], rtol=1e-2)


def test_zero_cotangents_in_half_precision():
    """A sample without relevance: the scale must not divide by zero."""
    x = tensor(2, 3, dtype="float16")
    _, pullback = numerics.vjp(lambda t: t * 2, x)
    r = np.array([[0.0, 0.0, 0.0], [1e-12, 0.0, -1e-12]])
    np.testing.assert_allclose(pullback(tf.constant(r, "float32"))[0], 2 * r, rtol=1e-3)


# --- dtypes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "wide"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"),
                                             ("float64", "float64")])
def test_widen(dtype, wide):
    x = tensor(3, dtype=dtype)
    assert numerics.wide_dtype(dtype) == wide and numerics.widen(x).dtype == wide
    np.testing.assert_array_equal(numerics.widen(x), tf.cast(x, wide))


@pytest.mark.parametrize(("dtype", "expected"), [("float16", True), ("bfloat16", True), ("float64", True),
                                                 ("int32", False), ("bool", False), ("string", False)])
def test_is_float(dtype, expected):
    assert numerics.is_float(dtype) is expected


# --- safe_divide -------------------------------------------------------------------------------------------------


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(r=finite, z=finite.filter(lambda v: v == 0 or abs(v) > 1e-20), epsilon=st.sampled_from([0.0, 1e-7, 0.1]))
def test_safe_divide(r, z, epsilon):
    """r / (z + epsilon * sign(z)), sign(0) = +1; without epsilon only z = 0 is moved (to 1e-7)."""
    sign = -1.0 if z < 0 else 1.0
    expected = r / (z + epsilon * sign) if epsilon or z else r / 1e-7
    received = numerics.safe_divide(tf.constant([r], "float64"), tf.constant([z], "float64"), epsilon)
    np.testing.assert_allclose(received, [expected], rtol=1e-12)


def test_safe_divide_by_zeros_of_both_signs():
    """-0.0 is a zero: sign(0) = +1."""
    z, r = tf.constant([0.0, -0.0], "float32"), tf.ones(2)
    for epsilon, expected in ((0.0, 1e7), (0.5, 2.0)):
        np.testing.assert_allclose(numerics.safe_divide(r, z, epsilon), [expected, expected], rtol=1e-6)


def test_safe_divide_never_yields_nan_or_infinity():
    """Down to the smallest numbers that float32 has."""
    z = tf.constant([0.0, 1e-45, -1e-45, 1e-38, -1e-38, 1e-30, -1e-30, 1e-7, 1.0], "float32")
    for r in (0.0, 1.0, -1e6):
        assert np.isfinite(numerics.safe_divide(tf.fill(z.shape, r), z)).all()


def test_safe_divide_keeps_the_sign_of_the_denominator():
    """z + epsilon would cross zero for -epsilon < z < 0; epsilon * sign(z) does not."""
    z = np.linspace(-1e-3, 1e-3, 21)
    received = numerics.safe_divide(tf.ones(21, "float64"), tf.constant(z), 0.01)
    np.testing.assert_array_equal(np.sign(received), np.where(z < 0, -1, 1))
    assert np.abs(received).max() <= 1 / 0.01


# --- compiled functions ------------------------------------------------------------------------------------------


@pytest.mark.traced
def test_compiled_traces_once_for_all_batch_sizes():
    compiled = numerics.Compiled(lambda x: ops.sum(x * x, axis=1), [((None, 3), "float64")], jit_compile=False)
    assert compiled.traces == 0
    for count in (1, 5, 2, 32):
        x = np.random.default_rng(count).normal(size=(count, 3))
        np.testing.assert_allclose(compiled(x), (x * x).sum(axis=1), rtol=1e-12)
    assert compiled.traces == 1


@pytest.mark.traced
def test_compiled_converts_to_its_dtypes():
    """numpy comes in as it is: lists, float64 for float32, integers."""
    compiled = numerics.Compiled(lambda x, i: (x, i), [((None,), "float32"), ((None,), "int32")], jit_compile=False)
    x, i = compiled(np.array([1.5, 2.5]), np.array([3, 4], "int32"))
    assert x.dtype == "float32" and i.dtype == "int32"
    compiled([1.0], [2])
    assert compiled.traces == 1


@pytest.mark.traced
def test_compiled_reads_variables_when_it_runs():
    """Weights that change after the first call count."""
    weight = keras.Variable(np.float64(2.0), dtype="float64")
    compiled = numerics.Compiled(lambda x: x * weight, [((None,), "float64")], jit_compile=False)
    np.testing.assert_array_equal(compiled([1.0]), [2.0])
    weight.assign(5.0)
    np.testing.assert_array_equal(compiled([1.0]), [5.0])
    assert compiled.traces == 1


@pytest.mark.traced
def test_compiled_with_xla():
    compiled = numerics.Compiled(lambda x: ops.tanh(x) + 1.0, [((None, 2), "float32")], jit_compile=True)
    x = np.ones((3, 2), "float32")
    np.testing.assert_allclose(compiled(x), np.tanh(x) + 1, rtol=1e-6)
    assert compiled.traces == 1
