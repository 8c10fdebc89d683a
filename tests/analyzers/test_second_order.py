"""Gradient, Hessian-vector products, exact factor and eigenvalues of the cross-entropy around x."""

import keras
import numpy as np
import pytest
import second_order_nets as nets
import tensorflow as tf
import zoo
from keras import layers, ops
from second_order_nets import close, curvature, derivatives, fed, make, selection

import innv_ext
from innv_ext.analyzers import CAFO, CASO
from innv_ext.analyzers.loss.curvature import Curvature
from innv_ext.backend import facts, numerics
from innv_ext.errors import InvalidInputError, UnsupportedModelError

eigs = innv_ext.input_hessian_eigs


# --- gradient and Hessian ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nets.NETS)
def test_gradient_and_hessian_products(name):
    """Against TensorFlow on the model itself, and central differences of that."""
    g, h = derivatives(name)
    _, curve = curvature(*make(name), hessian="hvp")
    rtol = nets.RTOL.get(name, 1e-7)
    close(curve.gradient(), g, 1e-5 if name in nets.RTOL else 1e-11)
    assert np.abs(h).max() > 1e-3
    close(nets.columns(curve), h, rtol)


@pytest.mark.parametrize("name", ["gelu", "layernorm", "attention", "batchnorm"])
def test_float32_is_as_good_as_it_gets(name):
    """The same numbers in a float32 net: single precision of the largest entry."""
    g, h = derivatives(name)
    _, xs, target = make(name)
    single = nets.build(name, "float32")
    single.set_weights(make(name)[0].get_weights())
    _, curve = curvature(single, [x.astype("float32") for x in xs], target, hessian="hvp")
    close(curve.gradient(), g, 2e-5)
    close(nets.columns(curve), h, 2e-4)


def test_hessian_of_one_hidden_layer_by_hand():
    """H = J'(diag p - p p')J + sum_k (p_k - [k = c]) W diag(v_k s(1-s)) W', s the sigmoid: softplus'' ."""
    net, (x,), target = make("softplus")
    w, b, v, a = (np.asarray(u) for u in net.get_weights())
    s = 1 / (1 + np.exp(-(x @ w + b)))
    logits = np.logaddexp(0, x @ w + b) @ v + a
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = []
    for i, c in enumerate(target):
        jacobian = (w * s[i]) @ v
        outer = jacobian @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ jacobian.T
        expected.append(outer + (w * (v @ (p[i] - np.eye(3)[c]) * s[i] * (1 - s[i]))) @ w.T)
    _, curve = curvature(net, [x], target)
    close(nets.columns(curve), np.array(expected), 1e-12)


def test_products_of_any_vectors_in_any_chunks():
    """Samples may be repeated, left out and permuted; the chunk size changes nothing."""
    net, xs, target = make("smooth_two_inputs")
    h = derivatives("smooth_two_inputs")[1]
    rows = np.array([2, 0, 2, 2, 1])
    v = np.random.default_rng(0).normal(size=(5, h.shape[1]))
    expected = np.einsum("qij,qj->qi", h[rows], v)
    for size in (1, 2, 64):
        _, curve = curvature(net, xs, target, size)
        close(curve.product(v, rows), expected, 1e-7)
        close(curve.gradient(), derivatives("smooth_two_inputs")[0], 1e-12)


@pytest.mark.parametrize("mode", ["all", "function"])
def test_derivatives_of_scores(mode):
    """The sum of the logits or a function of them, instead of the cross-entropy."""
    score = (lambda y: ops.sum(y, axis=1)) if mode == "all" else (lambda y: y[:, 0] * ops.sin(y[:, 1]))
    net, (x,), target = make("tanh")
    with zoo.precision("float64"):
        logits = keras.Sequential([keras.Input((5,)), *net.layers[:-1]])
    w, b = net.layers[-1].get_weights()

    def gradient(points):
        t = tf.constant(points)
        with tf.GradientTape() as tape:
            tape.watch(t)
            value = score(ops.matmul(logits(t), w) + b)
        return np.asarray(tape.gradient(value, t))

    _analyzer, curve = curvature(net, [x], target, mode="all" if mode == "all" else score)
    close(curve.gradient(), gradient(x), 1e-12)
    expected = np.stack([(gradient(x + e) - gradient(x - e)) / 2e-5 for e in 1e-5 * np.eye(5)], axis=2)
    close(nets.columns(curve), expected, 1e-6)


# --- the closed form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nets.PIECEWISE)
def test_factor_of_the_hessian(name):
    """B'B = H on piecewise linear nets."""
    _analyzer, curve = curvature(*make(name), hessian="closed_form")
    b = curve.factor()
    assert b.shape[1] == (2 if name in nets.BINARY else make(name)[0].output_shape[-1])
    rtol = nets.RTOL.get(name, 1e-7)
    close(np.swapaxes(b, 1, 2) @ b, derivatives(name)[1], rtol)


def test_factor_of_rare_classes():
    """Each entry of diag p - p p' is accurate, however small: p from 1 down to 1e-12."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 5)), np.log([1, 1e-5, 1e-6, 1e-9, 1e-12])
    p = np.exp(b) / np.exp(b).sum()
    for dtype, rtol in (("float64", 1e-12), ("float32", 1e-5)):
        _, curve = curvature(nets.linear(w, b, dtype), [np.zeros((1, 4), dtype)], [0])
        factor = curve.factor()[0]
        middle = np.linalg.pinv(w) @ (factor.T @ factor) @ np.linalg.pinv(w.T)
        others = np.array([p[1:].sum(), *(1 - p[1:])])
        expected = np.diag(p * others) - np.outer(p, p) * (1 - np.eye(5))
        close(w @ middle @ w.T, w @ expected @ w.T, rtol)
        assert np.linalg.norm(factor, axis=1) == pytest.approx(
            [np.linalg.norm(np.sqrt(p[j]) * (w[:, j] * others[j] - w @ (p * (np.arange(5) != j)))) for j in range(5)],
            rel=rtol,
        )


@pytest.fixture
def used(monkeypatch):
    """Which way to the Hessian was taken."""
    calls = []
    for name in ("product", "factor"):
        original = getattr(Curvature, name)
        monkeypatch.setattr(Curvature, name, lambda self, *a, _n=name, _o=original: (calls.append(_n), _o(self, *a))[1])
    return calls


@pytest.mark.parametrize("name", ["sigmoid", "shared", "gated", "smooth_residual"])
def test_auto_takes_the_closed_form_exactly_where_it_holds(name, used):
    """And both ways give the same map."""
    net, xs, target = make(name)
    index = selection(net, target)
    given = {"lambda1": 1e-3, "tol": 1e-10, "max_iter": 300, "power_iterations": 200, "c1": 0.5}
    first = CASO(net, **given).analyze(fed(xs), index)
    assert set(used) == ({"factor"} if name in nets.PIECEWISE else {"product"})
    used.clear()
    second = CASO(net, hessian="hvp", **given).analyze(fed(xs), index)
    assert set(used) == {"product"}
    close(nets.flat(keras.tree.flatten(first)), nets.flat(keras.tree.flatten(second)), 1e-6)


def test_auto_with_many_classes_or_a_score(used):
    """One backward pass per class is too many for 101 classes; a score has no factor."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3))
    for classes, expected in ((100, "factor"), (101, "product")):
        CASO(nets.linear(rng.normal(size=(3, classes))), lambda1=0.01).analyze(x)
        assert set(used) == {expected}, classes
        used.clear()
    net, xs, _ = make("dense")
    CASO(net, lambda1=0.01).analyze(xs[0], "all")
    assert set(used) == {"product"}
    with pytest.raises(InvalidInputError, match=r"closed_form.*hvp"):
        CASO(net, hessian="closed_form").analyze(xs[0], "all")


CURVED = ["elu", "gelu", "softplus", "sigmoid", "hard_silu", "softmax", "square"]
FLAT = ["relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_tanh", "linear", "hard_shrink"]


@pytest.mark.parametrize("activation", [*CURVED, *FLAT])
def test_the_closed_form_is_refused_by_the_name_of_the_node(activation):
    act = keras.ops.square if activation == "square" else activation
    net = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.Activation(act, name="bend"), layers.Dense(2, "softmax")]
    )
    if activation in FLAT:
        assert CASO(net, hessian="closed_form").piecewise_linear_
        return
    with pytest.raises(UnsupportedModelError, match=r"closed_form.*bend.*hvp"):
        CASO(net, hessian="closed_form")


def test_products_and_norms_are_not_piecewise_linear():
    i = keras.Input((4, 3))
    for layer in (layers.LayerNormalization(name="n"), layers.Attention(name="n")):
        y = layer(i) if "norm" in type(layer).__name__.lower() else layer([i, i])
        graph = CASO(keras.Model(i, layers.Dense(2)(layers.Flatten()(y)))).graph_
        assert facts.curved_nodes(graph)
        with pytest.raises(UnsupportedModelError, match="not piecewise"):
            CASO(keras.Model(i, layers.Dense(2)(layers.Flatten()(y))), hessian="closed_form")


# --- eigenvalues -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "dense", "smooth_two_inputs"])
@pytest.mark.parametrize("way", ["hvp", "auto"])
def test_largest_eigenvalue(name, way):
    """L of the extras, of definite and indefinite Hessians; never below 0."""
    net, xs, target = make(name)
    values = np.linalg.eigvalsh(derivatives(name)[1])
    found = CASO(net, hessian=way, power_iterations=500, lambda1=0.1).explain(fed(xs), selection(net, target)).extras
    np.testing.assert_allclose(found["L"], np.maximum(values[:, -1], 0), rtol=1e-5)
    np.testing.assert_allclose(found["lambda2"], found["L"] / 2 + 10, rtol=1e-12)


def test_largest_eigenvalue_where_the_most_negative_one_is_larger():
    """f = -(10 softplus of the first, ...) bends down most; L is the algebraically largest."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softplus"), layers.Dense(1)])
    net.set_weights([np.eye(3), np.zeros(3), np.array([[-10.0], [2.0], [-1.0]]), np.zeros(1)])
    x = np.array([[0.0, 0.0, 0.0], [1.0, 8.0, -1.0]])
    s = 1 / (1 + np.exp(-x))
    bend = s * (1 - s) * np.array([-10.0, 2.0, -1.0])
    found = CASO(net, power_iterations=500, neuron_selection_mode="all", lambda1=0.0, tol=1e-10).explain(x)
    np.testing.assert_allclose(found.extras["L"], bend[:, 1], rtol=1e-6)
    np.testing.assert_allclose(found.attribution, s * [-10, 2, -1] / (2 * found.extras["lambda2"][:, None] - bend))
    net.set_weights([np.eye(3), np.zeros(3), np.array([[-10.0], [-2.0], [-1.0]]), np.zeros(1)])
    found = CASO(net, power_iterations=500, neuron_selection_mode="all").explain(x).extras
    np.testing.assert_array_equal(found["L"], 0.0)


@pytest.mark.parametrize("name", ["tanh", "smooth_two_inputs", "dense", "sigmoid"])
@pytest.mark.parametrize("way", ["hvp", "auto"])
def test_eigenvalues_and_vectors(name, way):
    """Against numpy.linalg.eigh, in the structure of x, for any batch."""
    net, xs, target = make(name)
    h = derivatives(name)[1]
    k = min(4, h.shape[1])
    values, vectors = eigs(net, fed(xs), k, selection(net, target), hessian=way, batch_size=2)
    assert values.shape == (3, k)
    parts = vectors if len(xs) > 1 else [vectors]
    assert [p.shape for p in parts] == [(3, k, *x.shape[1:]) for x in xs]
    stacked = np.concatenate([p.reshape(3, k, -1) for p in parts], axis=2)
    exact, turn = np.linalg.eigh(h)
    exact, turn = exact[:, ::-1], np.swapaxes(turn[:, :, ::-1], 1, 2)
    positive = name in nets.PIECEWISE and way == "auto"
    rank = (1 if name in nets.BINARY else net.output_shape[-1] - 1) if positive else k
    scale = exact[:, :1]
    np.testing.assert_allclose(values / scale, np.where(np.arange(k) < rank, exact[:, :k], 0) / scale, atol=1e-6)
    for i in range(3):
        for j in range(min(k, rank)):
            if abs(exact[i, j]) > 1e-4 * scale[i] and (j == 0 or exact[i, j - 1] - exact[i, j] > 1e-3 * scale[i]):
                assert abs(stacked[i, j] @ turn[i, j]) == pytest.approx(1, abs=1e-5)
    norms = np.linalg.norm(stacked, axis=2)
    np.testing.assert_allclose(norms, np.broadcast_to(np.arange(k) < rank, norms.shape), atol=1e-6)


def test_eigenvalues_of_the_whole_spectrum():
    """k = d by the Lanczos method is exact; the default explains the largest output."""
    net, xs, _ = make("tanh")
    best = np.argmax(net(xs[0]), axis=1)
    values, vectors = eigs(net, xs[0], 5)
    h = nets.hessian(net, xs, best)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(h)[:, ::-1], atol=1e-8)
    close(np.einsum("nki,nk,nkj->nij", vectors, values, vectors), h, 1e-7)


def test_eigenvalues_of_float32_nets_have_no_noise_beyond_the_rank():
    net = nets.build("dense", "float32")
    x = make("dense")[1][0].astype("float32")
    values, vectors = eigs(net, x, 6)
    assert (values[:, :3] > 0).all() and (values[:, 3:] == 0).all() and (vectors[:, 3:] == 0).all()
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("params", "words"),
    [({"k": 0}, "k must"), ({"k": 7}, "exceeds"), ({"k": 1.5}, "k must"), ({"iterations": 0}, "iterations")],
)
def test_bad_requests_for_eigenvalues(params, words):
    net, xs, _ = make("dense")
    with pytest.raises(InvalidInputError, match=words):
        eigs(net, xs[0], **params)
    with pytest.raises(InvalidInputError, match="hessian"):
        eigs(net, xs[0], hessian="exact")
    with pytest.raises(InvalidInputError, match="iterations"):
        eigs(net, xs[0], 3, hessian="hvp", iterations=2)


# --- high confidence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.999995, 1 - 1e-9])
@pytest.mark.parametrize("binary", [False, True])
def test_gradient_at_high_confidence_in_float32(confidence, binary):
    """p_c - 1 keeps its digits, also where p_c is 1 in float32; the Hessian too."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 1 if binary else 4)).astype("float32")
    rest = 1 - confidence
    b = np.log([confidence / rest]) if binary else np.log([confidence, *(rest * np.array([0.7, 0.2, 0.1]))])
    b = b.astype("float32")
    with zoo.precision("float32"):
        act = "sigmoid" if binary else "softmax"
        net = keras.Sequential([keras.Input((6,)), layers.Dense(b.size, activation=act)])
    net.set_weights([w, b])
    w, b = w.astype("float64"), b.astype("float64")
    if binary:
        q = 1 / (1 + np.exp(b[0]))
        g, h = -q * w[:, 0], q * (1 - q) * np.outer(w[:, 0], w[:, 0])
    else:
        others = np.exp(b[1:] - np.logaddexp.reduce(b))
        g = (w[:, 1:] - w[:, :1]) @ others
        p = np.array([1 - others.sum(), *others])
        spread = np.diag(p) - np.outer(p, p)
        spread[0, 0] = p[0] * others.sum()
        h = w @ spread @ w.T
    x = np.zeros((1, 6), "float32")
    if confidence > 1 - 1e-8:
        assert np.asarray(net(x)).max() == 1
    for way in ("hvp", "auto"):
        _analyzer, curve = curvature(net, [x], [0], hessian=way)
        np.testing.assert_allclose(curve.gradient()[0], g, rtol=1e-5, atol=1e-5 * np.abs(g).max())
        close(nets.columns(curve)[0], h, 1e-5)
    factor = curve.factor()[0]
    close(factor.T @ factor, h, 1e-5)
    d = CAFO(net, lambda1=0.0, lambda2=0.5).analyze(x)[0]
    np.testing.assert_allclose(d, g, rtol=1e-3, atol=1e-5 * np.abs(g).max())


# --- what TensorFlow cannot differentiate twice --------------------------------------------------------------------


def _resized(interpolation):
    i = keras.Input((3, 3, 2))
    y = layers.UpSampling2D(2, interpolation=interpolation, name="larger")(layers.Conv2D(2, 2)(i))
    y = layers.Flatten()(layers.Activation("tanh")(y))
    return keras.Model(i, layers.Dense(3)(y)), (3, 3, 2)


def _softsign():
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(3)(layers.Activation("softsign", name="larger")(layers.Dense(5)(i)))), (4,)


class Once(layers.Layer):
    """By a TensorFlow operation whose gradient has no gradient."""

    def call(self, x):
        return ops.square(tf.raw_ops.Softsign(features=x))


class Moments(layers.Layer):
    """The variance of TensorFlow, whose gradient is right while its Hessian is not."""

    def call(self, x):
        return x * tf.nn.moments(x, [1], keepdims=True)[1]


class Harmless(layers.Layer):
    """What is held constant here does not matter."""

    def call(self, x):
        return ops.tanh(x + 0 * tf.stop_gradient(x))


def _custom(layer):
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(3)(layer(name="larger")(layers.Dense(5)(i)))), (4,)


ONCE = {
    "softsign": _softsign,
    "custom": lambda: _custom(Once),
    "moments": lambda: _custom(Moments),
    "harmless": lambda: _custom(Harmless),
    **{n: lambda n=n: _resized(n) for n in ("nearest", "bilinear", "bicubic")},
}


@pytest.mark.parametrize("case", ONCE)
def test_nodes_without_a_second_derivative(case):
    """Right, or refused by name: never a Hessian in which something is missing."""
    keras.utils.set_random_seed(1)
    net, shape = ONCE[case]()
    x = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype("float32")
    target = np.zeros(2, int)
    analyzer = CASO(net, lambda1=1e-3, hessian="hvp")
    try:
        analyzer.analyze(x, target)
    except UnsupportedModelError as error:
        assert case != "harmless" and "larger" in str(error) and "cafo" in str(error)
        for call in (lambda: analyzer.analyze(x, target), lambda: eigs(net, x, 1)):
            with pytest.raises(UnsupportedModelError, match="larger"):
                call()
        assert np.abs(CAFO(net, lambda1=1e-3).analyze(x, target)).max() > 0
        return
    h = nets.hessian(net, [x], target, 2e-2)
    _, curve = curvature(net, [x], target, hessian="hvp")
    close(nets.columns(curve), h, 5e-3)


def test_what_is_known_of_second_derivatives():
    """Errors, and functions that hold parts of themselves constant, which says nothing yet."""
    spec, image = [((None, 4), "float32")], [((None, 4, 4, 1), "float32")]
    for fn in (tf.nn.softplus, tf.nn.relu, tf.nn.gelu, ops.silu, lambda t: ops.max(t, axis=1), lambda t: 2 * t):
        assert numerics.second_derivative(fn, spec) == "known"
    assert numerics.second_derivative(tf.nn.softsign, spec) == "missing"
    assert numerics.second_derivative(lambda t: tf.image.resize(t, (6, 6), "bicubic"), image) == "missing"
    assert numerics.second_derivative(lambda t: tf.image.resize(t, (6, 6), "bilinear"), image) == "doubtful"
    assert numerics.second_derivative(lambda t: tf.nn.moments(t, [1])[1], spec) == "doubtful"
