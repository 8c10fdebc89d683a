"""Mean, variance and gain of functions of Gaussian variables, against numerical integration of the defining integrals.

A variance is integrated as (f(x) - mean)^2 against the density, piece by piece between the kinks, so that the reference
does not cancel where the closed forms would. The gain of f is Cov(f(X), X) / Var(X).
"""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import ops
from scipy import integrate, special

from innv_ext.analyzers.moments import gaussian

# scipy warns where an integrand is 0, or where the relative accuracy asked for is that of rounding
pytestmark = pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
DTYPES = ("float32", "float64")


# --- the twins ---------------------------------------------------------------------------------------------------


def density(u):
    return math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)


def integral(function, low, high, peaks):
    """The integral over [low, high], with breakpoints around the ``peaks``, where the integrand lives."""
    steps = (-8.0, -4.0, -2.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
    points = [low, *sorted({p + s for p in peaks for s in steps if low < p + s < high}), high]
    pieces = [
        integrate.quad(function, a, b, epsabs=0, epsrel=1e-12, limit=200)[0] for a, b in itertools.pairwise(points)
    ]
    return math.fsum(pieces)


def expectation(g, m, s, knots=()):
    """E g(X) for X ~ N(m, s^2), in units of s; ``knots`` are the kinks and jumps of g."""
    edges = [-40.0, *sorted((k - m) / s for k in knots if abs(k - m) < 40 * s), 40.0]
    return math.fsum(
        integral(lambda u: g(m + s * u) * density(u), a, b, (0.0, a, b)) for a, b in itertools.pairwise(edges)
    )


def moments_of(f, m, v, knots=()):
    """(mean, variance, gain) of f(X), X ~ N(m, v)."""
    s = math.sqrt(v)
    mean = expectation(f, m, s, knots)
    variance = expectation(lambda x: (f(x) - mean) ** 2, m, s, knots)
    return mean, variance, expectation(lambda x: (f(x) - mean) * (x - m), m, s, knots) / v


def relu_reference(a, s):
    """The moments of relu(X), X ~ N(a s, s^2), over u = X / s > 0 alone; below 0 the integrand is constant."""
    peaks = (max(a, 0.0),) if a > -1 else (0.0, *(k / -a for k in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)))
    top = max(a, 0.0) + 40.0
    mean = integral(lambda u: u * density(u - a), 0.0, top, peaks)
    variance = integral(lambda u: (u - mean) ** 2 * density(u - a), 0.0, top, peaks) + mean**2 * special.ndtr(-a)
    return s * mean, s * s * variance, special.ndtr(a)


def numpy_of(triple):
    return [None if t is None else np.asarray(t) for t in triple]


def tensors(*arrays, dtype="float64"):
    return [tf.constant(np.asarray(a, dtype)) for a in arrays]


def derivatives(function, *arrays, dtype="float64"):
    """d (sum of output i) / d input j, for elementwise functions the derivatives themselves."""
    xs = tensors(*arrays, dtype=dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(xs)
        ys = [y for y in function(*xs) if y is not None]
    return [[np.asarray(tape.gradient(y, x, unconnected_gradients="zero")) for x in xs] for y in ys]


def slopes(function, arrays, j, h):
    """The same by central differences of fourth order; ``h`` is an array of steps."""

    def at(k):
        moved = [a + k * h if i == j else a for i, a in enumerate(arrays)]
        return numpy_of(t for t in function(*tensors(*moved)) if t is not None)

    return [(8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in zip(at(1), at(-1), at(2), at(-2), strict=True)]


# --- ReLU --------------------------------------------------------------------------------------------------------

RATIOS = (-30.0, -20.0, -12.0, -8.0, -7.1, -7.05, -6.0, -4.3, -4.2, -3.0, -2.0, -1.0, -0.3, -1e-3, 0.0)
RATIOS = (*RATIOS, 1e-3, 0.3, 1.0, 2.0, 3.0, 4.2, 4.3, 6.0, 8.0, 12.0, 20.0, 30.0)


@pytest.mark.parametrize("s", [1e-6, 1e-3, 0.5, 1.0, 30.0, 1e3])
def test_relu_against_integration(s):
    a = np.array(RATIOS)
    expected = np.array([relu_reference(ratio, s) for ratio in RATIOS]).T
    received = numpy_of(gaussian.relu_moments(*tensors(a * s, np.full_like(a, s * s))))
    for name, found, wanted in zip(("mean", "variance", "gain"), received, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10, err_msg=name)


def test_relu_without_gain():
    a = np.array(RATIOS)
    full = numpy_of(gaussian.relu_moments(*tensors(a, np.ones_like(a))))
    mean, variance, gain = numpy_of(gaussian.relu_moments(*tensors(a, np.ones_like(a)), gain=False))
    assert gain is None
    np.testing.assert_array_equal([mean, variance], full[:2])
    first, second = (derivatives(lambda m, v, g=g: gaussian.relu_moments(m, v, g), a, np.ones_like(a)) for g in (1, 0))
    np.testing.assert_array_equal(first[:2], second)


@pytest.mark.parametrize("s", [1e-3, 1.0, 50.0])
def test_relu_gradients(s):
    a = np.array([r for r in RATIOS if abs(r) <= 20])
    m, v = a * s, np.full_like(a, s * s)
    found = derivatives(gaussian.relu_moments, m, v)
    steps = (1e-3 * s / np.maximum(np.abs(a), 1), 1e-3 * s * s / np.maximum(a * a, 1))
    scales = ((1.0, 1 / s), (s, 1.0), (1 / s, 1 / s**2))  # what a change of m and v does to mean, variance and gain
    for j, h in enumerate(steps):
        for i, expected in enumerate(slopes(gaussian.relu_moments, (m, v), j, h)):
            # far above 0 the outputs are m, v and 1 up to rounding, and so are their differences
            noise = np.where(a > 0, 1e-10, 0.0) * scales[i][j] * np.maximum(np.abs(a), 1) ** (2 * j + 1)
            error = np.abs(found[i][j] - expected) - noise
            assert (error <= 1e-6 * np.abs(expected)).all(), (i, j, error)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_without_variance(dtype):
    """Exactly relu(m) with variance 0; the gradient is that of relu, and finite where it has a kink."""
    m = np.array([-1e3, -1.0, -1e-6, -1e-20, 0.0, 1e-20, 1e-6, 1.0, 1e3])
    mean, variance, gain = numpy_of(gaussian.relu_moments(*tensors(m, np.zeros_like(m), dtype=dtype)))
    np.testing.assert_allclose(mean, np.maximum(m, 0), rtol=1e-6, atol=1e-15)
    assert (variance >= 0).all() and (variance <= 1e-30).all()
    far = np.abs(m) > 1e-14
    np.testing.assert_array_equal(gain[far], (m > 0)[far])
    assert gain[4] == 0.5
    found = derivatives(gaussian.relu_moments, m, np.zeros_like(m), dtype=dtype)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0][0][far], (m > 0)[far])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [-1.0, 0.0, 1.0])
def test_deep_compositions_without_variance(dtype, start):
    """Eight layers of relu(w x + b), also such that every m is exactly 0."""
    weights = np.random.default_rng(0).normal(size=(8, 5, 5))
    weights = weights if start else np.abs(weights)

    def deep(m, v):
        gains = 0.0
        for w in weights:
            w = tf.constant(w, dtype)
            m, v, gain = gaussian.relu_moments(m @ w, v @ (w * w))
            gains = gains + gain
        return m, v, gains

    found = derivatives(deep, np.full((1, 5), start), np.zeros((1, 5)), dtype=dtype)
    assert np.isfinite(found).all()
    m, v, _ = numpy_of(deep(*tensors(np.full((1, 5), start), np.zeros((1, 5)), dtype=dtype)))
    expected = np.full((1, 5), start)
    for w in weights:
        expected = np.maximum(expected @ w, 0)
    np.testing.assert_allclose(m, expected, rtol=1e-4, atol=1e-12)
    assert (v >= 0).all() and v.max() <= 1e-25


def test_relu_in_float32():
    """No m^2 * 6e-8 is lost, and tails are right as far as single precision carries erfc."""
    m = np.array([1000.0, 1000.0, 30.0, 3.0, 1.0, 0.0, -1.0, -3.0, -5.0, -7.0])
    v = np.array([1e-4, 1.0, 1e-6, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    expected = np.array([relu_reference(a / s, s) for a, s in zip(m, np.sqrt(v), strict=True)]).T
    received = numpy_of(gaussian.relu_moments(*tensors(m, v, dtype="float32")))
    for found, wanted in zip(received, expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=2e-3)
        np.testing.assert_allclose(found[:9], wanted[:9], rtol=2e-4)
        np.testing.assert_allclose(found[:7], wanted[:7], rtol=2e-6)


def test_relu_scales_with_its_input():
    """relu(c X) = c relu(X), and relu(X) - relu(-X) = X."""
    rng = np.random.default_rng(0)
    m, v = rng.normal(0, 3, 200), rng.exponential(1, 200)
    mean, variance, gain = numpy_of(gaussian.relu_moments(*tensors(m, v)))
    scaled = numpy_of(gaussian.relu_moments(*tensors(7 * m, 49 * v)))
    for found, wanted in zip(scaled, (7 * mean, 49 * variance, gain), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    other, _, other_gain = numpy_of(gaussian.relu_moments(*tensors(-m, v)))
    np.testing.assert_allclose(mean - other, m, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gain + other_gain, 1, rtol=1e-14)
    assert (variance <= v).all() and (variance >= gain**2 * v * (1 - 1e-12)).all()  # what ``combined`` relies on


# --- the maximum of two ------------------------------------------------------------------------------------------


def maximum_reference(m1, v1, m2, v2, c):
    """Moments of max(X1, X2) and P(X2 > X1), from the density of the maximum: one of them is at x, the other below."""

    def below(x, m, v, m_other, v_other):  # P(other <= x | one = x)
        spread = v_other - c * c / v
        at = x - m_other - c / v * (x - m)
        return special.ndtr(at / math.sqrt(spread)) if spread > 1e-14 * v_other else float(at >= 0)

    parts = []
    for m, v, m_other, v_other in ((m1, v1, m2, v2), (m2, v2, m1, v1)):
        if v > 0:
            knots = [m_other, m_other + 4 * math.sqrt(v_other), m_other - 4 * math.sqrt(v_other)]
            parts.append((lambda x, a=(m, v, m_other, v_other): below(x, *a), m, math.sqrt(v), knots))
        else:  # a constant wins where the other is below it
            parts.append((lambda x, p=special.ndtr((m - m_other) / math.sqrt(v_other)): p, m, 0.0, []))

    def expect(g):
        terms = [
            expectation(lambda x, w=weight: g(x) * w(x), m, s, knots) if s else g(m) * weight(m)
            for weight, m, s, knots in parts
        ]
        return math.fsum(terms)

    mean = expect(lambda x: x)
    weight, m, s, knots = parts[1]
    win = expectation(weight, m, s, knots) if s else weight(m)
    return mean, expect(lambda x: (x - mean) ** 2), win


PAIRS = [
    (m1, v1, m2, v2, rho)
    for (m1, v1, m2, v2) in [
        (0, 1, 0, 1),
        (0.3, 1, -0.5, 2),
        (-2, 0.1, 1, 3),
        (5, 1, 0, 0.5),
        (0, 1, 6, 1),
        (3, 4, 3, 1),
    ]
    for rho in (0.0, 0.6, -0.9)
] + [(0.5, 1, 0.2, 0, 0.0), (0.2, 0, 0.5, 1, 0.0), (-3, 2, 1, 0, 0.0)]


def test_maximum_against_integration():
    arrays = [np.array([p[i] for p in PAIRS], "float64") for i in range(5)]
    m1, v1, m2, v2, rho = arrays
    c = rho * np.sqrt(v1 * v2)
    received = numpy_of(gaussian.maximum_moments(*tensors(m1, v1, m2, v2, c)))
    expected = np.array([maximum_reference(*p) for p in zip(m1, v1, m2, v2, c, strict=True)]).T
    for name, found, wanted in zip(("mean", "variance", "win"), received, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12, err_msg=name)


def test_maximum_is_symmetric_and_covers_the_limits():
    m1, v1, m2, v2, rho = (np.array([p[i] for p in PAIRS], "float64") for i in range(5))
    c = rho * np.sqrt(v1 * v2)
    first = numpy_of(gaussian.maximum_moments(*tensors(m1, v1, m2, v2, c)))
    second = numpy_of(gaussian.maximum_moments(*tensors(m2, v2, m1, v1, c)))
    np.testing.assert_allclose(first[:2], second[:2], rtol=1e-12)
    np.testing.assert_allclose(first[2], 1 - second[2], rtol=1e-12, atol=1e-15)
    # the same variable twice; constants; one far ahead (also padding at -1e9)
    same = numpy_of(gaussian.maximum_moments(*tensors([2.0], [3.0], [2.0], [3.0], [3.0])))
    np.testing.assert_allclose(same, [[2.0], [3.0], [0.5]], rtol=1e-12)
    constants = numpy_of(gaussian.maximum_moments(*tensors([1.0, 4.0, 2.0], [0.0] * 3, [3.0, -4.0, 2.0], [0.0] * 3)))
    np.testing.assert_allclose(constants, [[3, 4, 2], [0, 0, 0], [1, 0, 0.5]], atol=1e-14)
    far = numpy_of(gaussian.maximum_moments(*tensors([1.5, -1e9], [0.7, 0], [-1e9, 0.3], [0, 0.2])))
    np.testing.assert_array_equal(far, [[1.5, 0.3], [0.7, 0.2], [0, 1]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_maximum_has_finite_gradients(dtype):
    """Without variance, at ties, with padding, and for one variable twice."""
    m1, v1 = [1.0, 1.0, 0.0, -1e9, 2.0], [0.0, 0.0, 0.0, 0.0, 3.0]
    m2, v2 = [2.0, 1.0, 0.0, -1e9, 2.0], [0.0, 1.0, 0.0, 0.0, 3.0]
    found = derivatives(gaussian.maximum_moments, m1, v1, m2, v2, [0.0, 0.0, 0.0, 0.0, 3.0], dtype=dtype)
    assert np.isfinite(found).all()


def test_maximum_gradients():
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=20), rng.uniform(0.5, 2, 20), rng.normal(size=20), rng.uniform(0.5, 2, 20)]
    arrays.append(rng.uniform(-0.4, 0.4, 20))
    found = derivatives(gaussian.maximum_moments, *arrays)
    for j in range(5):
        for i, expected in enumerate(slopes(gaussian.maximum_moments, arrays, j, np.full(20, 1e-3))):
            np.testing.assert_allclose(found[i][j], expected, rtol=1e-6, atol=1e-9)


def test_maximum_in_float32():
    args = ([1000.0, 1000.0], [1e-4, 1e-4], [999.99, 900.0], [2e-4, 1.0])
    received = numpy_of(gaussian.maximum_moments(*tensors(*args, dtype="float32")))
    exact = [np.asarray(a, "float32").astype("float64") for a in args]  # 999.99 is no single-precision number
    expected = numpy_of(gaussian.maximum_moments(*tensors(*exact)))
    for found, wanted in zip(received, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-12)


# --- piecewise linear functions ----------------------------------------------------------------------------------

SLOPES = (0.25, -0.5, 1.0)  # PReLU: one a channel

PIECEWISE = {
    "leaky": (([0.0], [0.2, 1.0], [0.0, 0.0]), lambda x: max(x, 0.2 * x)),
    "relu6": (([0.0, 6.0], [0.0, 1.0, 0.0], [0.0, 0.0, 6.0]), lambda x: min(max(x, 0.0), 6.0)),
    "hard_sigmoid": (([-3.0, 3.0], [0.0, 1 / 6, 0.0], [0.0, 0.5, 1.0]), lambda x: min(max(x / 6 + 0.5, 0.0), 1.0)),
    "hard_tanh": (([-1.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]), lambda x: min(max(x, -1.0), 1.0)),
    "abs": (([0.0], [-1.0, 1.0], [0.0, 0.0]), abs),
    "soft_shrink": (([-0.5, 0.5], [1.0, 0.0, 1.0], [0.5, 0.0, -0.5]), lambda x: x - min(max(x, -0.5), 0.5)),
    "at_least": (([0.7], [0.0, 1.0], [0.7, 0.0]), lambda x: max(x, 0.7)),
    "at_most": (([0.7], [1.0, 0.0], [0.0, 0.7]), lambda x: min(x, 0.7)),
    "thresholded": (  # ReLU(max_value=2, negative_slope=0.1, threshold=0.5) jumps at 0.5
        ([0.5, 2.0], [0.1, 1.0, 0.0], [-0.05, 0.0, 2.0]),
        lambda x: 0.1 * (x - 0.5) if x < 0.5 else min(x, 2.0),
    ),
    "relu": (([0.0], [0.0, 1.0], [0.0, 0.0]), lambda x: max(x, 0.0)),
}
GRID = [
    (a * s + k, s * s) for s in (1e-3, 0.3, 1.0, 5.0) for k in (-0.5, 0.0, 0.7, 2.0) for a in (-6, -2, -0.4, 0, 1, 4)
]


def compare_triples(received, expected, rtol=1e-9):
    for name, found, wanted in zip(("mean", "variance", "gain"), received, np.array(expected).T, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", zoo.thinned(PIECEWISE))
def test_piecewise_linear_against_integration(name):
    pieces, function = PIECEWISE[name]
    m, v = np.array(GRID).T
    received = numpy_of(gaussian.piecewise_linear_moments(*tensors(m, v), *pieces, True))
    expected = [moments_of(function, a, b, knots=pieces[0]) for a, b in GRID]
    compare_triples(received, expected)
    mean, variance, gain = numpy_of(gaussian.piecewise_linear_moments(*tensors(m, v), *pieces, False))
    assert gain is None
    np.testing.assert_array_equal([mean, variance], received[:2])


def test_slopes_per_channel():
    points = GRID[::5]
    m, v = (np.repeat(np.array(points)[:, i, None], 3, axis=1) for i in (0, 1))
    received = gaussian.piecewise_linear_moments(
        *tensors(m, v), [0.0], [tf.constant(SLOPES, "float64"), 1.0], [0, 0], 1
    )
    for c, slope in enumerate(SLOPES):
        expected = [moments_of(lambda x, s=slope: x if x > 0 else s * x, a, b, knots=[0.0]) for a, b in points]
        compare_triples([t[:, c] for t in numpy_of(received)], expected)


def test_piecewise_linear_equals_relu():
    m, v = np.array(GRID).T
    one = numpy_of(gaussian.piecewise_linear_moments(*tensors(m, v), *PIECEWISE["relu"][0], True))
    for found, wanted in zip(one, numpy_of(gaussian.relu_moments(*tensors(m, v))), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_gradients(name):
    pieces = PIECEWISE[name][0]
    rng = np.random.default_rng(2)
    m, v = rng.normal(0, 2, 30), rng.uniform(0.3, 3, 30)

    def function(m, v):
        return gaussian.piecewise_linear_moments(m, v, *pieces, True)

    found = derivatives(function, m, v)
    for j in range(2):
        for i, expected in enumerate(slopes(function, (m, v), j, np.full(30, 1e-3))):
            np.testing.assert_allclose(found[i][j], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_without_variance(name, dtype):
    """f(m) and 0 away from the kinks, finite gradients everywhere, also of the gain."""
    pieces, function = PIECEWISE[name]
    m = np.array([-1e3, -7.0, -0.3, 0.0, 0.3, 1.5, 7.0, 1e3, *pieces[0]])

    def moments(m, v):
        return gaussian.piecewise_linear_moments(m, v, *pieces, True)

    mean, variance, gain = numpy_of(moments(*tensors(m, np.zeros_like(m), dtype=dtype)))
    smooth = np.array([min(abs(a - k) for k in pieces[0]) > 1e-3 for a in m])
    np.testing.assert_allclose(mean[smooth], [function(a) for a in m[smooth]], rtol=1e-6)
    assert (variance[smooth] <= 1e-25).all() and (variance >= 0).all()
    steps = np.array([(function(a + 1e-4) - function(a - 1e-4)) / 2e-4 for a in m])
    np.testing.assert_allclose(gain[smooth], steps[smooth], rtol=1e-4, atol=1e-6)
    found = np.array(derivatives(moments, m, np.zeros_like(m), dtype=dtype))
    if name == "thresholded":  # the gain at a jump grows like 1 / sigma, its slope like 1 / v^1.5: infinite in float32
        found[2, :, m == 0.5] = 0
    assert np.isfinite(found).all(), np.argwhere(~np.isfinite(found))


def test_piecewise_linear_in_float32():
    m, v = np.array([1000.0, -1000.0, 5.999]), np.array([1e-4, 1e-2, 1e-4])
    for name in ("leaky", "relu6", "abs"):
        pieces = PIECEWISE[name][0]
        exact = [np.asarray(a, "float32").astype("float64") for a in (m, v)]
        wide = numpy_of(gaussian.piecewise_linear_moments(*tensors(*exact), *pieces, True))
        narrow = numpy_of(gaussian.piecewise_linear_moments(*tensors(m, v, dtype="float32"), *pieces, True))
        for found, wanted in zip(narrow, wide, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-12, err_msg=name)


# --- quadrature --------------------------------------------------------------------------------------------------


def raw_moments(m, v, count):
    """E X^k for k < count: E X^(k+1) = m E X^k + k v E X^(k-1)."""
    found = [1.0, m]
    for k in range(1, count - 1):
        found.append(m * found[k] + k * v * found[k - 1])
    return np.array(found)


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 8])
def test_quadrature_of_polynomials(degree):
    rng = np.random.default_rng(degree)
    coefficients = rng.normal(size=degree + 1)
    m, v = rng.normal(size=6), rng.uniform(0.1, 2, 6)
    received = numpy_of(
        gaussian.quadrature_moments(lambda x: sum(c * x**k for k, c in enumerate(coefficients)), *tensors(m, v), True)
    )
    p = np.polynomial.Polynomial(coefficients)
    for i in range(6):
        raw = raw_moments(m[i], v[i], 2 * degree + 2)
        mean = raw[: degree + 1] @ coefficients
        square = (p - mean) ** 2
        slope = p.deriv().coef if degree else np.zeros(1)
        expected = mean, raw[: 2 * degree + 1] @ square.coef, raw[: len(slope)] @ slope
        np.testing.assert_allclose([t[i] for t in received], expected, rtol=1e-10)


SMOOTH = {
    "sigmoid": (ops.sigmoid, special.expit, 0.8),
    "tanh": (ops.tanh, math.tanh, 0.4),  # 2 sigmoid(2 x) - 1: twice as steep
    "gelu": (keras.activations.gelu, lambda x: x * special.ndtr(x), 0.6),
    "silu": (ops.silu, lambda x: x * special.expit(x), 0.8),
    "softplus": (ops.softplus, lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0), 0.8),
    "exp": (ops.exp, math.exp, 1.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_quadrature_of_smooth_functions(name):
    ours, theirs, widest = SMOOTH[name]
    points = [(m, s * s) for m in (-3.0, -0.7, 0.0, 1.2, 4.0) for s in (1e-2, 0.3, widest)]
    received = numpy_of(gaussian.quadrature_moments(ours, *tensors(*np.array(points).T), True))
    compare_triples(received, [moments_of(theirs, m, v) for m, v in points], rtol=1e-6)


def test_quadrature_of_a_kink_is_rough():
    """ELU is not smooth at 0 (its second derivative jumps): two digits, not six."""
    points = [(m, s * s) for m in (-1.0, 0.0, 0.5, 3.0) for s in (0.3, 1.0, 2.0)]
    received = numpy_of(gaussian.quadrature_moments(ops.elu, *tensors(*np.array(points).T), True))
    expected = np.array([moments_of(lambda x: x if x > 0 else math.expm1(x), m, v, [0.0]) for m, v in points]).T
    s = np.sqrt([v for _, v in points])
    for i, unit in enumerate((s, s * s, 1.0)):
        assert (np.abs(received[i] - expected[i]) < 0.02 * unit).all()


@pytest.mark.parametrize("gain", [False, True])
def test_quadrature_gradients(gain):
    rng = np.random.default_rng(3)
    m, v = rng.normal(size=20), rng.uniform(0.2, 1, 20)

    def function(m, v):
        return gaussian.quadrature_moments(ops.tanh, m, v, gain)

    found = derivatives(function, m, v)
    assert len(found) == (3 if gain else 2)
    for j in range(2):
        for i, expected in enumerate(slopes(function, (m, v), j, np.full(20, 1e-3))):
            np.testing.assert_allclose(found[i][j], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "silu", "softplus"])
def test_quadrature_without_variance(name, dtype):
    ours, theirs, _ = SMOOTH[name]
    m = np.array([-30.0, -2.0, -1e-3, 0.0, 0.5, 8.0, 30.0])

    def function(m, v):
        return gaussian.quadrature_moments(ours, m, v, True)

    mean, variance, gain = numpy_of(function(*tensors(m, np.zeros_like(m), dtype=dtype)))
    np.testing.assert_allclose(mean, [theirs(a) for a in m], rtol=1e-5, atol=1e-7)
    assert (variance >= 0).all() and (variance <= 1e-25).all()
    steps = [(theirs(a + 1e-5) - theirs(a - 1e-5)) / 2e-5 for a in m]
    np.testing.assert_allclose(gain, steps, rtol=1e-4, atol=1e-5)
    assert np.isfinite(derivatives(function, m, np.zeros_like(m), dtype=dtype)).all()


# --- closed forms ------------------------------------------------------------------------------------------------


def test_square_and_exponential():
    points = [(m, v) for m in (-2.0, -0.1, 0.0, 1.5) for v in (1e-4, 0.3, 1.5)]
    m, v = np.array(points).T
    compare_triples(
        numpy_of(gaussian.square_moments(*tensors(m, v))), [moments_of(lambda x: x * x, *p) for p in points], 1e-10
    )
    compare_triples(numpy_of(gaussian.exp_moments(*tensors(m, v))), [moments_of(math.exp, *p) for p in points], 1e-10)


def test_product():
    """Against a quadrature in two dimensions that is exact for polynomials of this degree."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    rng = np.random.default_rng(4)
    for _ in range(10):
        root = rng.normal(size=(2, 2))
        C, m = root @ root.T, rng.normal(size=2)
        x = m[0] + root[0, 0] * nodes[:, None] + root[0, 1] * nodes[None]
        y = m[1] + root[1, 0] * nodes[:, None] + root[1, 1] * nodes[None]
        w = weights[:, None] * weights[None]
        mean = (w * x * y).sum()
        variance = (w * (x * y - mean) ** 2).sum()
        received = gaussian.product_moments(*tensors(m[0], C[0, 0], m[1], C[1, 1], C[0, 1]))
        np.testing.assert_allclose(numpy_of(received), [mean, variance], rtol=1e-10)
