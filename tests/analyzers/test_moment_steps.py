"""Moments through attention and through the steps of recurrent layers.

Against numpy twins written from the formulas, against samples where what a rule assumes holds (independent operands,
small variances for first-order rules), and rolled against unrolled.
"""

import itertools
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers as L
from keras import ops
from rde_nets import at, distortion_of
from test_moment_rules import agree, as_moments, close, directions, jacobians, net_of, one, random_input
from twins import flat

import innv_ext
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import facts, passes
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError, UnsupportedModelError

POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def through(f, x):
    """Mean and variance of f(X), X ~ N(*x), by quadrature with 16 nodes, as methods define it."""
    m, v = x
    values = f(m[..., None] + np.sqrt(v)[..., None] * POINTS)
    mean = values @ WEIGHTS
    return mean, ((values - mean[..., None]) ** 2) @ WEIGHTS


def times(a, b):
    """Of independent A B."""
    return a[0] * b[0], a[1] * b[1] + a[0] ** 2 * b[1] + a[1] * b[0] ** 2


def plus(*terms):
    return sum(m for m, _ in terms), sum(v for _, v in terms)


def dense(x, w, b=0.0):
    return x[0] @ w + b, x[1] @ w**2


# --- attention -------------------------------------------------------------------------------------------------------


def weigh(scores, values, opened):
    """softmax(scores) values for one query: loops over keys, closed ones left out; scores (keys,), values (keys, h)."""
    keys = np.flatnonzero(opened)
    m, v = scores[0][keys], scores[1][keys]
    x, vx = values[0][keys], values[1][keys]
    p = np.exp(m - m.max()) / np.exp(m - m.max()).sum()
    o = p @ x
    var = np.zeros_like(o)
    for k in range(len(keys)):
        own = p[k] ** 2 * ((1 - 2 * p[k]) * v[k] + p**2 @ v)
        var += p[k] ** 2 * ((x[k] - o) ** 2 * v[k] + vx[k]) + own * vx[k]
    return o, var


def attend(q, k, v, opened, scale):
    """Moments of attention over (steps, h) of one sample and head; ``opened`` (queries, keys)."""
    found = []
    for t in range(len(q[0])):
        products = [times((q[0][t], q[1][t]), (k[0][s], k[1][s])) for s in range(len(k[0]))]
        scores = np.array([m.sum() * scale for m, _ in products]), np.array([x.sum() * scale**2 for _, x in products])
        found.append(weigh(scores, v, opened[t]))
    return np.stack([m for m, _ in found]), np.stack([x for _, x in found])


STEPS, WIDTH, HEADS, SIZE = 4, 6, 2, 3
CAUSAL = np.tri(STEPS, dtype=bool)
SCALE = 1 / np.sqrt(SIZE)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_one_operation(causal):
    net = net_of(lambda q, k, v: ops.dot_product_attention(q, k, v, is_causal=causal), *[(STEPS, HEADS, SIZE)] * 3)
    m, v, _ = random_input(net.shapes, "diagonal", batch=1, scale=0.5)
    y = net(*as_moments(net, m, v))
    parts = [a.reshape(3, STEPS, HEADS, SIZE) for a in (m, v)]
    opened = CAUSAL if causal else np.ones_like(CAUSAL)
    for h in range(HEADS):
        found = attend(*((parts[0][i, :, h], parts[1][i, :, h]) for i in range(3)), opened, SCALE)
        close(y.mean[0, :, h], found[0], 1e-7)
        close(y.var[0, :, h], found[1], 1e-7)


def self_attention(layer, x, opened):
    """Moments of MultiHeadAttention or GroupQueryAttention of x with itself."""
    own = [getattr(layer, f"_{name}_dense") for name in ("query", "key", "value", "output")]
    kernels = [np.asarray(d.kernel) for d in own]
    biases = [np.asarray(d.bias) for d in own]
    outputs = []
    for h in range(HEADS):
        shared = [h, *(h * k.shape[1] // HEADS for k in kernels[1:3])]
        q, k, v = (dense(x, kernels[i][:, j], biases[i][j]) for i, j in enumerate(shared))
        outputs.append(dense(attend(q, k, v, opened, SCALE), kernels[3][h]))
    m, v = plus(*outputs)
    return m + biases[3], v


def by_dots(layer, x, opened):
    return attend(x, x, x, opened, 1.0)


def by_sums(layer, x, opened):
    """AdditiveAttention: the scores are sums of tanh(q + k)."""
    found = []
    for t in range(STEPS):
        pairs = [through(np.tanh, plus((x[0][t], x[1][t]), (x[0][s], x[1][s]))) for s in range(STEPS)]
        w = np.asarray(layer.scale)
        scores = np.array([m @ w for m, _ in pairs]), np.array([v @ w**2 for _, v in pairs])
        found.append(weigh(scores, x, opened[t]))
    return np.stack([m for m, _ in found]), np.stack([v for _, v in found])


def listed(layer, **options):
    return lambda x: layer([x, x], **options)


def twice(layer, **options):
    return lambda x: layer(x, x, **options)


ATTENTION = {
    "multi_head": (partial(L.MultiHeadAttention, HEADS, SIZE), twice, self_attention),
    "multi_head_in_steps": (partial(L.MultiHeadAttention, HEADS, SIZE, dropout=0.2), twice, self_attention),
    "grouped": (partial(L.GroupQueryAttention, SIZE, HEADS, 1), twice, self_attention),
    "dot": (L.Attention, listed, by_dots),
    "additive": (L.AdditiveAttention, listed, by_sums),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_layers(name, causal):
    """All of Keras' attention layers, with and without a mask."""
    make, call, twin = ATTENTION[name]
    with zoo.precision("float64"):
        layer = make()
    net = net_of(call(layer, use_causal_mask=causal), (STEPS, WIDTH))
    m, v, _ = random_input(net.shapes, "diagonal", batch=1, scale=0.4)
    y = net(*as_moments(net, m, v))
    x = m.reshape(STEPS, WIDTH), v.reshape(STEPS, WIDTH)
    mean, var = twin(layer, x, CAUSAL if causal else np.ones_like(CAUSAL))
    close(y.mean[0], mean, 1e-6)
    close(y.var[0], var, 1e-6)


def test_attention_against_samples():
    """Independent scores: noise in keys and values, of one query. What is neglected is of second order in 0.05."""
    net = net_of(ops.dot_product_attention, (1, HEADS, SIZE), (STEPS, HEADS, SIZE), (STEPS, HEADS, SIZE))
    m, v, _ = random_input(net.shapes, "diagonal", batch=1, scale=0.05)
    v[:, : HEADS * SIZE] = 0
    agree(net(*as_moments(net, m, v)), net, m, v, None, mean_error=0.05, variance_error=0.01)
    v[:, : HEADS * SIZE + STEPS * HEADS * SIZE] = 0  # in the values alone: exact at any size
    agree(net(*as_moments(net, m, 100 * v)), net, m, 100 * v, None)


def test_a_shift_of_all_values_changes_no_variance():
    """Shares sum to 1, whatever the scores are."""
    net = net_of(lambda s, v: ops.matmul(ops.softmax(s), v), (2, STEPS), (STEPS, 3))
    m, v, _ = random_input(net.shapes, "diagonal", scale=0.5)
    shifted = m + 10 * (np.arange(m.shape[1]) >= 2 * STEPS)
    a, b = net(*as_moments(net, m, v)), net(*as_moments(net, shifted, v))
    close(flat(a.mean) + 10, flat(b.mean))
    close(flat(a.var), flat(b.var))


@pytest.mark.parametrize("kind", ["einsum", "transposed", "two sums"])
def test_weighted_sums_in_other_forms(kind):
    """Which axis a product sums over is read from it; if it is not that of the softmax, factors are independent."""
    forms = {
        "einsum": lambda s, v: ops.einsum("bik,bkh->bih", ops.softmax(s), v),
        "transposed": lambda s, v: ops.matmul(ops.transpose(v, (0, 2, 1)), ops.softmax(ops.transpose(s, (0, 2, 1)), 1)),
        "two sums": lambda s, v: ops.einsum("bik,bkh->bh", ops.softmax(s), v),
    }
    shapes = (2, STEPS), (STEPS, 3)
    net = net_of(forms[kind], *shapes)
    m, v, _ = random_input(shapes, "diagonal", batch=1, scale=0.5)
    y = net(*as_moments(net, m, v))
    (s, vs), (x, vx) = ([a[0, part].reshape(n, -1) for a in (m, v)] for part, n in ((slice(8), 2), (slice(8, 20), 4)))
    if kind == "two sums":
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        vp = p**2 * ((1 - 2 * p) * vs + (p**2 * vs).sum(1, keepdims=True))
        mean = p.sum(0) @ x
        var = vp.sum(0) @ (x**2 + vx) + (p**2).sum(0) @ vx
    else:
        rows = [weigh((s[i], vs[i]), (x, vx), np.ones(STEPS)) for i in range(2)]
        mean, var = map(np.stack, zip(*rows, strict=True))
        mean, var = (mean.T, var.T) if kind == "transposed" else (mean, var)
    close(flat(y.mean)[0], mean.ravel())
    close(flat(y.var)[0], var.ravel())


@pytest.mark.parametrize("causal", [False, True])
def test_directions_through_masked_attention(causal):
    """J F, also where a mask closes scores."""
    with zoo.precision("float64"):
        layer = L.MultiHeadAttention(HEADS, SIZE)
    net = net_of(twice(layer, use_causal_mask=causal), (STEPS, WIDTH))
    m, v, F = random_input(net.shapes, "low_rank", scale=0.3)
    y = net(*as_moments(net, m, 0 * v, F))
    close(directions(y), F @ jacobians(net, m), 1e-6)


@pytest.mark.parametrize("axis", [-1, (-1,)])  # which is split into steps, and which is not
def test_masks_that_come_of_other_inputs(axis):
    """A softmax, an average and a choice by a mask: closed places have no mean, no variance and no directions."""

    def function(x, mask):
        mask = ops.not_equal(mask, 0)
        a = L.Softmax(axis=axis)(x, mask=mask)
        pooled = L.GlobalAveragePooling1D()(x[..., None], mask=mask)
        return ops.concatenate([a, pooled, ops.where(mask, x, 7.0)], axis=-1)

    with zoo.precision("float64"):
        x, mask = keras.Input((5,)), keras.Input((5,), dtype="int32")
        model = keras.Model([x, mask], function(x, mask))
    graph = passes.canonical(trace(model, facts.is_leaf), passes.Form("fold", attention=True, loops=True))
    m, v, F = random_input([(5,)], "low_rank", batch=3)
    opened = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    given = [Moments.of_input(*map(tf.constant, (m, v, F))), tf.constant(opened, "int32")]
    y = moments.propagate(graph, moments.bind(graph, MOMENT_RULES), given)
    for i, row in enumerate(opened == 1):
        n = row.sum()
        p = np.exp(m[i, row]) / np.exp(m[i, row]).sum()
        J = np.diag(p) - np.outer(p, p)
        W = np.zeros((5, 11))  # from x to all outputs
        W[np.ix_(row, row)] = J
        W[row, 5] = 1 / n
        W[:, 6:] = np.diag(row)
        close(y.var[i], v[i] @ W**2, 1e-7)
        close(y.factors[-1][i], F[i] @ W, 1e-7)
        mean = np.zeros(5)
        mean[row] = p
        close(y.mean[i], [*mean, m[i, row].mean(), *np.where(row, m[i], 7.0)])


def test_conditions_that_are_random_are_refused_by_name():
    net = net_of(lambda x: ops.where(ops.greater(x, 0.0), x, 0.1 * x), (4,))
    with pytest.raises(NoRuleError, match=r"- greater.*\(greater"):
        net(*as_moments(net, *random_input(net.shapes, "diagonal")[:2]))


# --- recurrent layers ------------------------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class Lstm:
    def __init__(self, layer):
        cell = layer.cell
        self.w, self.u = (np.split(np.asarray(k), 4, axis=1) for k in (cell.kernel, cell.recurrent_kernel))
        self.b = np.split(np.asarray(cell.bias), 4)

    def __call__(self, x, states):
        h, c = states
        pre = [plus(dense(x, w, b), dense(h, u)) for w, u, b in zip(self.w, self.u, self.b, strict=True)]
        i, f, o = (through(sigmoid, pre[k]) for k in (0, 1, 3))
        new = plus(times(f, c), times(i, through(np.tanh, pre[2])))
        return [times(o, through(np.tanh, new)), new]


class Gru:
    def __init__(self, layer):
        cell, self.after = layer.cell, layer.reset_after
        self.w, self.u = (np.split(np.asarray(k), 3, axis=1) for k in (cell.kernel, cell.recurrent_kernel))
        bias = np.asarray(cell.bias)
        self.b, self.c = (np.split(b, 3) for b in (bias if self.after else (bias, 0 * bias)))

    def __call__(self, x, states):
        (h,) = states
        z, r = (through(sigmoid, plus(dense(x, self.w[k], self.b[k]), dense(h, self.u[k], self.c[k]))) for k in (0, 1))
        own = dense(x, self.w[2], self.b[2])
        if self.after:
            q = plus(own, times(r, dense(h, self.u[2], self.c[2])))
        else:
            q = plus(own, dense(times(r, h), self.u[2]))
        return [plus(times(z, h), times((1 - z[0], z[1]), through(np.tanh, q)))]


class Simple:
    def __init__(self, layer):
        self.w, self.u, self.b = map(np.asarray, (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias))

    def __call__(self, x, states):
        return [through(np.tanh, plus(dense(x, self.w, self.b), dense(states[0], self.u)))]


UNITS = 3
LAYERS = {
    "lstm": (partial(L.LSTM, UNITS), 2, Lstm),
    "gru": (partial(L.GRU, UNITS), 1, Gru),
    "gru, reset before": (partial(L.GRU, UNITS, reset_after=False), 1, Gru),
    "simple": (partial(L.SimpleRNN, UNITS), 1, Simple),
}


def graph_of(model):
    return passes.canonical(trace(model, facts.is_leaf), passes.Form("fold", attention=True, loops=True))


def filtered(model, inputs):
    graph = graph_of(model)
    return moments.propagate(graph, moments.bind(graph, MOMENT_RULES), inputs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_step_by_step(name, masked):
    """Moments of all outputs; the initial states are random, masked steps keep the states, what a step is fed with
    and the states count as independent."""
    make, count, twin = LAYERS[name]
    with zoo.precision("float64"):
        layer = make(return_sequences=True)
        x, states = keras.Input((STEPS, 2)), [keras.Input((UNITS,)) for _ in range(count)]
        mask = keras.Input((STEPS,), dtype="bool")
        y = layer(x, initial_state=states, mask=mask if masked else None)
        model = zoo.randomise(keras.Model([x, *states, *([mask] if masked else [])], y), 3)
    m, v, _ = random_input([(STEPS, 2), *[(UNITS,)] * count], "diagonal", batch=2, scale=0.5)
    cut = [0, 2 * STEPS, *(2 * STEPS + UNITS * (i + 1) for i in range(count))]
    pairs = [(m[:, a:b], v[:, a:b]) for a, b in itertools.pairwise(cut)]
    pairs[0] = tuple(a.reshape(2, STEPS, 2) for a in pairs[0])
    opened = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool) if masked else np.ones((2, STEPS), bool)
    given = [Moments.of_input(*map(tf.constant, p)) for p in pairs]
    found = filtered(model, [*given, *([tf.constant(opened)] if masked else [])])
    step, state, out = twin(layer), list(pairs[1:]), (np.zeros((2, UNITS)),) * 2
    for t in range(STEPS):
        new = step(tuple(a[:, t] for a in pairs[0]), state)
        on = opened[:, t, None]
        state = [tuple(np.where(on, a, b) for a, b in zip(n, s, strict=True)) for n, s in zip(new, state, strict=True)]
        out = tuple(np.where(on, a, b) for a, b in zip(new[0], out, strict=True))
        close(found.mean[:, t], out[0], 1e-6)
        close(found.var[:, t], out[1], 1e-6)


UNROLLED = {
    "lstm": L.LSTMCell,
    "gru": L.GRUCell,
    "simple": partial(L.SimpleRNNCell, activation="relu"),
    "stacked": lambda units: [L.LSTMCell(units), L.GRUCell(units, reset_after=False)],
}


@pytest.mark.parametrize("kind", ["diagonal", "low_rank"])
@pytest.mark.parametrize("name", UNROLLED)
def test_unrolled_nets_have_the_same_moments(name, kind):
    """Rolled and unrolled, with directions that all steps and the states share."""
    with zoo.precision("float64"):
        layer = L.RNN(UNROLLED[name](UNITS))
        x = keras.Input((STEPS, 2))
        zero = keras.tree.map_structure(lambda n: keras.Input((n,)), layer.cell.state_size)
        starts = keras.tree.flatten(zero)
        rolled = zoo.randomise(keras.Model([x, *starts], layer(x, initial_state=zero)), 3)
        state = zero if isinstance(zero, (list, tuple)) else [zero]
        for t in range(STEPS):
            y, state = layer.cell(x[:, t], state)
        unrolled = keras.Model([x, *starts], y)
    shapes = [(STEPS, 2), *[(UNITS,)] * len(starts)]
    m, v, F = random_input(shapes, kind, scale=0.5)
    a, b = (type(net_of(lambda t: t, (1,)))(n, graph_of(n), tuple(shapes), "float64") for n in (rolled, unrolled))
    y, expected = (net(*as_moments(net, m, v, F)) for net in (a, b))
    close(y.mean, expected.mean)
    close(y.var, expected.var)
    if F is not None:
        close(directions(y), directions(expected))


RECURRENT = {
    "bidirectional": lambda: L.Bidirectional(L.LSTM(2)),
    "bidirectional, mul": lambda: L.Bidirectional(L.GRU(2, return_sequences=True), merge_mode="mul"),
    "backwards": partial(L.LSTM, 2, go_backwards=True, return_sequences=True),
    "convolution": partial(L.ConvLSTM1D, 2, 2, return_sequences=True),
    "time_distributed": lambda: L.TimeDistributed(L.Dense(2, activation="relu")),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_directions_through_recurrent_layers(name):
    """All that is random are directions of small size: covariances follow the Jacobian of the whole net."""
    with zoo.precision("float64"):
        layer = RECURRENT[name]()
    net = net_of(layer, (STEPS, 2, 1) if name == "convolution" else (STEPS, 2))
    m, v, F = random_input(net.shapes, "low_rank", batch=1, scale=1e-4)
    y = net(*as_moments(net, m, 0 * v, F))
    close(flat(y.mean), net.joint(m), 1e-6)
    close(directions(y), F @ jacobians(net, m), 1e-4)


def test_a_linear_recurrence_against_samples():
    """h_t = W x_t + u h_(t-1) with diagonal W and u: all values are independent Gaussians, so that nothing is lost."""
    net = net_of(one(L.SimpleRNN, 2, activation=None), (5, 2))
    cell = net.model.layers[-1].cell
    cell.kernel.assign(np.diag([0.7, -1.2]))
    cell.recurrent_kernel.assign(np.diag([0.9, -0.6]))
    m, v, _ = random_input(net.shapes, "diagonal", batch=1)
    y = net(*as_moments(net, m, v))
    agree(y, net, m, v, None)
    powers = np.array([0.9, -0.6]) ** np.arange(5)[::-1, None] * [0.7, -1.2]
    close(y.var[0], (v.reshape(5, 2) * powers**2).sum(0))


def test_gates_against_samples():
    """One step of an LSTM whose gates read inputs of their own: the new state, i * g, is a product of independents."""
    net = net_of(lambda x: L.LSTM(1, return_state=True)(x)[2], (1, 4))
    cell = net.model.layers[1].cell
    cell.kernel.assign(np.eye(4))
    m, v, _ = random_input(net.shapes, "diagonal", batch=1)
    agree(net(*as_moments(net, m, v)), net, m, v, None)


def test_a_gru_against_samples():
    """Directions alone, small: first order, what is neglected is of the order of their size, 0.03."""
    net = net_of(one(L.GRU, 3), (6, 2))
    m, v, F = random_input(net.shapes, "low_rank", batch=1, scale=0.03)
    agree(net(*as_moments(net, m, 0 * v, F)), net, m, 0 * v, F, mean_error=0.05, variance_error=0.03)


def recurrent_nets(steps=STEPS):
    with zoo.precision("float64"):
        x = keras.Input((steps, 2))
        lstm = zoo.randomise(keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(3))(x))), 5)
        simple = zoo.randomise(keras.Model(x, L.Dense(2)(L.SimpleRNN(2)(x))), 5)
        h = L.LayerNormalization()(L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=steps is not None))
        attention = zoo.randomise(keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(h + ops.gelu(h)))), 6)
    return {"lstm": lstm, "simple": simple, "attention": attention}


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        pytest.param("simple", "low_rank", marks=pytest.mark.traced),
        pytest.param("lstm", "low_rank", marks=[pytest.mark.traced, pytest.mark.slow]),
        pytest.param("lstm", "gaussian", marks=[pytest.mark.traced, pytest.mark.slow]),
        ("attention", "gaussian"),
        ("attention", "low_rank"),
    ],
)
def test_gradients_of_the_distortion(name, reference):
    """dD/ds by central differences, of recurrent nets compiled; finite where nothing is random, and D(1) = 0."""
    net, rng = recurrent_nets()[name], np.random.default_rng(0)
    x, data = rng.normal(size=(1, STEPS, 2)), rng.normal(size=(40, STEPS, 2))
    distortion = distortion_of(net, x, fit=data, reference=reference, rank=3)
    s = rng.uniform(0.2, 0.8, (1, 2 * STEPS))
    value, slope = at(distortion, s)
    h = 1e-5
    steps = np.concatenate([s + sign * h * np.eye(2 * STEPS) for sign in (1, -1)])
    values, _ = at(distortion, steps, rows=0)
    close(slope[0], (values[: 2 * STEPS] - values[2 * STEPS :]) / (2 * h), 1e-5)
    value, slope = at(distortion, np.ones((1, 2 * STEPS)))
    assert value[0] < 1e-12 and np.isfinite(slope).all()


@pytest.mark.parametrize("name", [pytest.param("lstm", marks=pytest.mark.slow), "simple", "attention"])
def test_free_lengths_and_a_whole_solve(name):
    """The number of steps is free; the map has one value per feature and the dual gap is told."""
    net, rng = recurrent_nets(None)[name], np.random.default_rng(0)
    analyzer = innv_ext.create_analyzer("rc_rde", net, rate=3, max_iter=4, progress=False, mean=0.0, variance=1.0)
    for steps in (3, 6):
        found = analyzer.explain(rng.normal(size=(2, steps, 2)))
        assert found.attribution.shape == (2, steps, 2) and np.isfinite(found.extras["objective"]).all()
        assert (found.attribution.sum(axis=(1, 2)) < 3 + 1e-6).all()


@pytest.mark.parametrize("distortion", ["adf", "monte_carlo"])
@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_steps_that_masking_leaves_out_stay_so(kind, distortion):
    """D is that of the shorter sequence, whatever the noise in masked steps; these have no influence."""
    with zoo.precision("float64"):
        x = keras.Input((None, 2))
        h = L.Masking(mask_value=7.0)(x)
        h = L.GRU(3)(h) if kind == "lstm" else L.GlobalAveragePooling1D()(L.MultiHeadAttention(1, 2)(h, h))
        net = zoo.randomise(keras.Model(x, L.Dense(2)(h)), 4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 2))
    padded = np.concatenate([x, np.full((1, 2, 2), 7.0)], axis=1)
    options = {"mean": 0.0, "variance": 0.5, "distortion": distortion, "samples": 8}
    short, long = (distortion_of(net, a, neuron=0, **options) for a in (x, padded))
    s = rng.uniform(0.2, 0.8, (1, 12))
    value, slope = at(long, s)
    expected = at(short, s[:, :8])
    assert (slope[0, 8:] == 0).all() and slope[0, :8].all() and value > 0
    if distortion == "adf":  # draws of longer rows are others
        close(value, expected[0])
        close(slope[:, :8], expected[1])
    assert at(long, np.ones((1, 12)))[0][0] < 1e-12


def test_loops_refuse_full_covariances():
    with pytest.raises(UnsupportedModelError, match=r"reference='full'.*forward_lstm.*low_rank"):
        innv_ext.create_analyzer("l_rde", recurrent_nets()["lstm"], reference="full")
    innv_ext.create_analyzer("l_rde", recurrent_nets()["lstm"], reference="full", distortion="monte_carlo")


def test_the_summary_shows_the_rules_of_a_step():
    text = innv_ext.create_analyzer("l_rde", recurrent_nets()["lstm"], mean=0.0, variance=1.0).summary()
    assert "one step after the other:" in text and "quadrature" in text
