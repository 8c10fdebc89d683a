"""Density filtering through whole networks: against samples, against dense numpy twins, and its laws.

Three ways to keep covariance: "diagonal" (none), "low_rank" (the directions of the input; what a non-linearity adds to
the variance is independent), "full" (that becomes directions too, so that nothing is lost at the next linear node).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import twins
import zoo
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L
from keras import ops
from scipy import special
from test_properties import more, net, plans
from twins import flat

import innv_ext
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import facts, passes, walk
from innv_ext.backend import linear as kernels
from innv_ext.backend.kinds import Kind
from innv_ext.backend.predicates import anything, both, kind_is, named, op_is
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.backend.rules import Rules
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError

COVARIANCES = ("diagonal", "low_rank", "full")
TOKENS = {"tokens", "masked_lstm"}  # whole numbers as inputs: nothing to add noise to
NETS = [name for name in zoo.MODELS if name not in {*TOKENS, "recurrent"}]
DOUBLE = [name for name in NETS if name not in zoo.FLOAT32_ONLY]


# --- running -----------------------------------------------------------------------------------------------------


def graph_of(model):
    """What Rate-Distortion Explanations filter: batch normalisation folded, one output, its softmax cut."""
    graph = passes.canonical(trace(model, facts.is_leaf), passes.Form("fold", attention=True, loops=True))
    return cut_softmax(graph.rebuilt(graph.nodes, outputs=graph.outputs[-1:]))[0]


def filtered(graph, means, variances, factors=None, full=False, table=MOMENT_RULES):
    """The output's Moments; lists with one array per input."""
    factors = [None] * len(means) if factors is None else factors
    inputs = [
        Moments.of_input(tf.constant(m), tf.constant(v), None if f is None else tf.constant(f), full)
        for m, v, f in zip(means, variances, factors, strict=True)
    ]
    return moments.propagate(graph, moments.bind(graph, table), inputs)


def arrays(sample, n):
    """Inputs as a flat list of floating-point arrays."""
    found = [np.asarray(a) for a in keras.tree.flatten(sample.inputs(n))]
    return [a if a.dtype.kind == "f" else a.astype("float32") for a in found]


def spread(xs, variance, mode, rank=3, seed=0):
    """(means, variances, factors) of independent noise ("diagonal", "full") or of shared directions besides.

    ``variance`` is one number, or one a sample.
    """
    rng = np.random.default_rng(seed)
    sizes = [int(np.prod(x.shape[1:])) for x in xs]
    scales = [np.reshape(variance, (-1, *[1] * (x.ndim - 1))) for x in xs]
    own = [(scale * rng.uniform(0.5, 1, x.shape)).astype(x.dtype) for x, scale in zip(xs, scales, strict=True)]
    if mode == "diagonal":
        return xs, own, None
    if mode == "low_rank":
        shared = [
            rng.normal(size=(len(x), rank, *x.shape[1:])) * np.sqrt(scale / rank)[:, None]
            for x, scale in zip(xs, scales, strict=True)
        ]
        return xs, own, [f.astype(x.dtype) for f, x in zip(shared, xs, strict=True)]
    factors, start = [], 0
    for x, v, size in zip(xs, own, sizes, strict=True):
        f = np.zeros((len(x), sum(sizes), size), x.dtype)
        f[:, start + np.arange(size), np.arange(size)] = np.sqrt(v.reshape(len(x), -1))
        factors.append(f.reshape(len(x), sum(sizes), *x.shape[1:]))
        start += size
    return xs, [np.zeros_like(v) for v in own], factors


def run(graph, xs, variance, mode, **options):
    return filtered(graph, *spread(xs, variance, mode), full=mode == "full", **options)


def covariance(y, i=0):
    """The covariance matrix of the output for sample i."""
    G = np.concatenate([np.asarray(f)[i].reshape(f.shape[1], -1) for f in y.factors.values()] or [np.zeros((1, 1))])
    return np.diag(flat(y.var)[i]) + G.T @ G


def evaluate(graph, xs):
    return flat(walk.evaluate(graph, [tf.constant(x) for x in xs])[0])


def chain(*build, shape, seed=0):
    """A model of layers one after the other in float64, with random weights, its graph, and 2 inputs."""
    with zoo.precision("float64"):
        y = i = keras.Input(shape)
        for make in build:
            y = make()(y)
        model = zoo.randomise(keras.Model(i, y), seed)
    return model, graph_of(model), np.random.default_rng(seed).normal(size=(2, *shape))


def dense(units, **options):
    return lambda: L.Dense(units, **options)


# --- numpy twins -------------------------------------------------------------------------------------------------


def steps(model):
    """A chain of layers as [(matrix, bias) or "relu"]; every other layer must be affine."""
    found = []
    for layer in model.layers[1:]:
        if isinstance(layer, L.ReLU):
            found.append("relu")
            continue
        found.append(twins.matrix_of(layer, layer.input.shape[1:]))
    return found


def relu_twin(m, v):
    """Textbook moments of relu(X): E = m Phi + s phi, E2 = (m^2 + v) Phi + m s phi."""
    s = np.sqrt(v)
    Phi, phi = special.ndtr(m / s), np.exp(-0.5 * (m / s) ** 2) / np.sqrt(2 * np.pi)
    mean = m * Phi + s * phi
    return mean, (m * m + v) * Phi + m * s * phi - mean**2, Phi


def full_twin(model, m, C):
    """C -> W^T C W; behind a ReLU the exact variance on the diagonal, C_ij Phi_i Phi_j off it."""
    for step in steps(model):
        if step == "relu":
            m, v, Phi = relu_twin(m, np.diag(C))
            C = Phi[:, None] * C * Phi
            np.fill_diagonal(C, v)
        else:
            W, b = step
            m, C = m @ W + b, W.T @ C @ W
    return m, C


def diagonal_twin(model, m, v):
    """v -> (W * W)^T v, and the textbook ReLU."""
    for step in steps(model):
        if step == "relu":
            m, v, _ = relu_twin(m, v)
        else:
            W, b = step
            m, v = m @ W + b, v @ W**2
    return m, v


CHAINS = {
    "mlp": ((dense(8), L.ReLU, dense(7), L.ReLU, dense(6), L.ReLU, dense(3)), (5,)),
    "conv": (
        (
            lambda: L.Conv2D(3, 3, padding="same"),
            L.ReLU,
            lambda: L.AveragePooling2D(2, strides=1, padding="same"),
            lambda: L.Conv2D(2, 2, strides=2),
            L.ReLU,
            L.Flatten,
            dense(3),
        ),
        (5, 4, 2),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_full_against_a_dense_twin(name):
    layers, shape = CHAINS[name]
    model, graph, x = chain(*layers, shape=shape)
    size = int(np.prod(shape))
    root = np.random.default_rng(1).normal(size=(2, size, size)) / np.sqrt(size)
    y = filtered(graph, [x], [np.zeros_like(x)], [root.reshape(2, size, *shape)], full=True)
    for i in range(2):
        m, C = full_twin(model, x[i].reshape(-1), root[i].T @ root[i])
        np.testing.assert_allclose(flat(y.mean)[i], m, rtol=1e-9)
        np.testing.assert_allclose(covariance(y, i), C, rtol=1e-8, atol=1e-10 * np.abs(C).max())


@pytest.mark.parametrize("name", CHAINS)
def test_diagonal_against_the_textbook(name):
    layers, shape = CHAINS[name]
    model, graph, x = chain(*layers, shape=shape)
    v = np.random.default_rng(1).uniform(0.1, 1, x.shape)
    y = filtered(graph, [x], [v])
    m, v = diagonal_twin(model, flat(x), flat(v))
    assert not y.factors
    np.testing.assert_allclose(flat(y.mean), m, rtol=1e-9)
    np.testing.assert_allclose(flat(y.var), v, rtol=1e-8)


def test_diagonal_counts_shared_inputs_as_independent():
    """x + relu(x): the variances add, though the two go up and down together; with directions they do not."""
    with zoo.precision("float64"):
        i = keras.Input((4,))
        graph = graph_of(keras.Model(i, L.Add()([i, L.ReLU()(i)])))
    m, v = np.full((1, 4), 3.0), np.full((1, 4), 0.01)
    np.testing.assert_allclose(filtered(graph, [m], [v]).variance(), 2 * v, rtol=1e-6)
    root = np.sqrt(v)[:, None] * np.eye(4)
    np.testing.assert_allclose(filtered(graph, [m], [0 * v], [root]).variance(), 4 * v, rtol=1e-6)


# --- the three modes compared ------------------------------------------------------------------------------------


def test_low_rank_of_full_rank_on_linear_nets():
    """Nothing independent ever appears: both are C -> W^T C W, at any depth."""
    layers = (
        lambda: L.Conv2D(3, 3),
        L.BatchNormalization,
        lambda: L.AveragePooling2D(2),
        L.Flatten,
        dense(6),
        dense(3),
    )
    _, graph, x = chain(*layers, shape=(6, 6, 2))
    root = np.random.default_rng(2).normal(size=(2, 72, 6, 6, 2)) / 8
    zero = np.zeros_like(x)
    low, full = (filtered(graph, [x], [zero], [root], full) for full in (False, True))
    assert not np.asarray(low.var).any()
    for i in range(2):
        np.testing.assert_allclose(covariance(low, i), covariance(full, i), rtol=1e-12)


def test_low_rank_of_full_rank_with_one_non_linear_layer():
    """Each unit adds its own independent variance, in both modes; one linear layer later each output still has it all.

    Of a single output this is the whole covariance. With two outputs, "low_rank" forgets that they share this noise.
    """
    for outputs in (1, 3):
        _, graph, x = chain(dense(6), L.ReLU, dense(outputs), shape=(4,))
        root = np.random.default_rng(3).normal(size=(2, 4, 4))
        low, full = (filtered(graph, [x], [0 * x], [root], full) for full in (False, True))
        np.testing.assert_allclose(low.mean, full.mean, rtol=1e-12)
        np.testing.assert_allclose(low.variance(), full.variance(), rtol=1e-12)
        same = np.allclose(covariance(low), covariance(full), rtol=1e-6)
        assert same == (outputs == 1)


def test_low_rank_of_full_rank_in_deeper_nets():
    """What the first ReLU adds reaches several units of the second layer. "full" knows that they share it, "low_rank"
    keeps it as independent variance from there on, so that the two must differ behind the next linear layer but one.
    """
    _, graph, x = chain(dense(6), L.ReLU, dense(5), L.ReLU, dense(1), shape=(4,), seed=1)
    root = np.random.default_rng(3).normal(size=(2, 4, 4))
    low, full = (filtered(graph, [x], [0 * x], [root], full) for full in (False, True))
    np.testing.assert_allclose(low.mean, full.mean, rtol=1e-9)  # the variances of the second layer still agree
    assert (np.abs(np.asarray(low.variance()) / np.asarray(full.variance()) - 1) > 1e-3).all()


def test_full_is_nearer_to_the_truth_than_diagonal():
    """The reason for keeping covariance, on a net where units share most of their input."""
    _, graph, x = chain(dense(12), L.ReLU, dense(12), L.ReLU, dense(3), shape=(4,), seed=2)
    xs, variance = [x[:1]], 0.5
    truth = samples(graph, xs, variance).var(axis=0)
    diagonal, full = (
        np.abs(np.log(flat(run(graph, xs, variance, mode).variance())[0] / truth)).max()
        for mode in ("diagonal", "full")
    )
    assert full < 0.5 * diagonal


# --- against samples ---------------------------------------------------------------------------------------------


def samples(graph, xs, variance, count=40_000, seed=5):
    """Outputs (count, values) for the noise of ``spread(..., "diagonal")`` around the first sample."""
    rng = np.random.default_rng(seed)
    means, variances, _ = spread(xs, variance, "diagonal")
    drawn = [
        (m[:1] + np.sqrt(v[:1]) * rng.standard_normal((count, *m.shape[1:]))).astype(m.dtype)
        for m, v in zip(means, variances, strict=True)
    ]
    return evaluate(graph, drawn)


ROUGH = {  # error of the mean in standard deviations, and of the standard deviation
    "transformer": (0.3, 0.12),  # normalisation and attention to first order
    "segmentation": (0.2, 0.25),  # the maximum of several Gaussians, of four, two or many, is no Gaussian
    "signal": (0.3, 0.1),
    "free_size": (0.3, 0.12),
    "convnet": (0.1, 0.07),
    "dense_blocks": (0.2, 0.06),  # a ReLU of what a ReLU has cut
}


@pytest.mark.parametrize("name", zoo.thinned(DOUBLE))
def test_full_against_samples(name):
    """Whole nets at a noise of about 0.13, for inputs between -1 and 1."""
    sample = zoo.make(name, "float64")
    graph, xs = graph_of(sample.model), [np.asarray(a) for a in keras.tree.flatten(sample.inputs(1, seed=1))]
    y, values = run(graph, xs, 0.0225, "full"), samples(graph, xs, 0.0225)
    shift, stretch = ROUGH.get(name, (0.05, 0.05))
    deviation = values.std(axis=0)
    error = np.abs(flat(y.mean)[0] - values.mean(axis=0))
    assert deviation.min() > 1e-3 and (error <= (shift + 5 / np.sqrt(len(values))) * deviation).all()
    np.testing.assert_allclose(np.sqrt(flat(y.variance())[0]), deviation, rtol=stretch)


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", COVARIANCES)
@pytest.mark.parametrize("name", zoo.thinned(NETS, 3))
def test_without_variance_it_is_the_network(name, mode):
    """D(1) = 0: the mean is the output, the variance 0; and where there is variance it is not negative."""
    sample = zoo.make(name, "float32" if name in zoo.FLOAT32_ONLY else "float64")
    graph, xs = graph_of(sample.model), arrays(sample, 4)
    expected = evaluate(graph, xs)
    y = run(graph, xs, np.array([0.0, 0.0, 1e-4, 100.0]), mode)
    tolerance = 1e-5 if name in zoo.FLOAT32_ONLY else 1e-8  # TensorFlow's leaky ReLU has a float32 slope
    np.testing.assert_allclose(flat(y.mean)[:2], expected[:2], rtol=tolerance, atol=tolerance)
    own, variance = flat(y.var), flat(y.variance())
    assert (own >= 0).all() and variance[:2].max() <= 1e-25
    assert (variance[3] > 0).all()  # in row 2 all ReLUs may be off
    assert np.isfinite(y.mean).all() and np.isfinite(variance).all()


def gradients(graph, xs, variance, mode):
    """Of weighted sums of mean and variance of the output, with respect to means, variances and directions."""
    means, variances, factors = spread(xs, variance, mode)
    inputs = [[tf.constant(a) for a in part] for part in (means, variances, factors or [])]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        objective = weighted(graph, *inputs, mode)
    return objective, keras.tree.flatten(tape.gradient(objective, inputs, unconnected_gradients="zero"))


def weighted(graph, means, variances, factors, mode):
    given = factors or [None] * len(means)
    moment_inputs = [Moments.of_input(m, v, f, mode == "full") for m, v, f in zip(means, variances, given, strict=True)]
    y = moments.propagate(graph, moments.bind(graph, MOMENT_RULES), moment_inputs)
    weights = np.cos(np.arange(int(np.prod(y.mean.shape)))).reshape(y.mean.shape)
    return tf.reduce_sum(weights * y.mean) + tf.reduce_sum((1 + weights) * y.variance())


@pytest.mark.parametrize("mode", COVARIANCES)
@pytest.mark.parametrize(
    "name", zoo.thinned(["convnet", "mlp", "transformer", "separable", "squeeze_excite", "shared", "regression"])
)
def test_gradients_against_finite_differences(name, mode):
    """Along a random direction of means, variances and directions."""
    sample = zoo.make(name, "float64")
    graph, xs = graph_of(sample.model), arrays(sample, 1)
    _, found = gradients(graph, xs, 0.05, mode)
    means, variances, factors = spread(xs, 0.05, mode)
    parts = [*means, *variances, *(factors or [])]
    rng = np.random.default_rng(6)
    for group in range(0, len(parts), len(xs)):
        chosen = range(group, group + len(xs))
        if group == len(xs) and mode == "full":
            continue  # variances of exactly 0 cannot move down
        moves = [0.01 * rng.normal(size=p.shape) if i in chosen else 0 * p for i, p in enumerate(parts)]

        def at(k, parts=parts, moves=moves):
            moved = [tf.constant(p + k * 0.03 * d) for p, d in zip(parts, moves, strict=True)]
            n = len(xs)
            return float(weighted(graph, moved[:n], moved[n : 2 * n], moved[2 * n :], mode))

        slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * 0.03)
        expected = sum(float(np.sum(np.asarray(g) * d)) for g, d in zip(found, moves, strict=True))
        np.testing.assert_allclose(expected, slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", COVARIANCES)
@pytest.mark.parametrize("name", zoo.thinned(NETS, 3))
def test_gradients_are_finite_without_variance(name, mode):
    """In float32, at a sample of the zoo and at 0, where pre-activations meet their kinks."""
    sample = zoo.make(name, "float32")
    graph, xs = graph_of(sample.model), arrays(sample, 1)
    objective, found = gradients(graph, [np.concatenate([x, 0 * x]) for x in xs], 0.0, mode)
    assert np.isfinite(objective)
    assert all(np.isfinite(g).all() for g in found)


@more
@given(plans, st.sampled_from(["diagonal", "low_rank"]))
def test_samples_do_not_see_each_other(plan, mode):
    """Replacing the rest of the batch by something wild changes nothing."""
    n = net(plan, biases=True, count=4)
    graph = graph_of(n.model)
    means, variances, factors = spread([n.x], 0.1, mode)
    y = filtered(graph, means, variances, factors)
    others = [[100 * a + 7 for a in part] for part in (means, variances, factors or [])]
    for part, wild in zip((means, variances, factors or []), others, strict=True):
        for a, w in zip(part, wild, strict=True):
            w[0] = a[0]
    other = filtered(graph, others[0], others[1], others[2] or None)
    for a, b in ((y.mean, other.mean), (y.variance(), other.variance())):
        np.testing.assert_allclose(np.asarray(b)[0], np.asarray(a)[0], rtol=1e-9, atol=1e-12)
        assert np.isfinite(a).all()
    assert (np.asarray(y.variance()) >= 0).all()


@more
@given(plans)
def test_small_noise_is_propagated_by_the_jacobian(plan):
    """As the noise shrinks, directions become J F: no rule may forget or double a path."""
    n = net(plan, biases=True, count=2)
    graph = graph_of(n.model)
    direction = n.rng.normal(size=n.x.shape)
    scale = 1e-7
    y = filtered(graph, [n.x], [0 * n.x], [scale * direction[:, None]])
    found = flat(y.factors[-1][:, 0]) / scale
    slopes = [(evaluate(graph, [n.x + h * direction]) - evaluate(graph, [n.x - h * direction])) / (2 * h) for h in
              (1e-5, 1e-6)]  # fmt: skip
    smooth = np.abs(slopes[0] - slopes[1]) <= 1e-6 * (1 + np.abs(slopes[0]))  # no kink within reach
    np.testing.assert_allclose(found[smooth], slopes[1][smooth], rtol=1e-4, atol=1e-5)


# --- binding and user extensions ---------------------------------------------------------------------------------


def test_nodes_without_a_rule_are_named():
    x = keras.Input((4,))
    graph = graph_of(keras.Model(x, L.Dense(2)(ops.sort(x))))
    with pytest.raises(NoRuleError) as caught:
        moments.bind(graph, MOMENT_RULES)
    assert "sort" in str(caught.value)
    assert "distortion='monte_carlo'" in str(caught.value) and "moment_rules=" in str(caught.value)
    assert "dense" not in str(caught.value)


def test_own_rows_win():
    """By layer name, by operation and by kind, before the table."""

    def doubled(node, values):
        (y,) = MOMENT_RULES.match(node, graph)[1](node, values)
        return [Moments(2 * y.mean, 4 * y.var)]

    sample = zoo.make("mlp", "float64")
    graph, xs = graph_of(sample.model), arrays(sample, 2)
    affine_first = both(named(graph.nodes[0].name), kind_is(Kind.AFFINE))  # its activation goes by the same name
    for predicate in (affine_first, lambda node, graph: node.index == 0):
        table = Rules((predicate, doubled, "mine")).before(MOMENT_RULES)
        y = run(graph, xs, 0.1, "diagonal", table=table)
        twin = zoo.fresh("mlp", "float64").model
        twin.layers[1].set_weights([2 * w for w in twin.layers[1].get_weights()])
        expected = run(graph_of(twin), xs, 0.1, "diagonal")
        np.testing.assert_allclose(y.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(y.var, expected.var, rtol=1e-12)
        plan = table.describe(graph, moments.bind(graph, table))
        assert [line.endswith("mine") for line in plan] == [True] + [False] * 4
    rules = moments.bind(graph, Rules((op_is("relu"), doubled), (kind_is(Kind.AFFINE), doubled)))
    assert set(rules) == {doubled}


def test_a_rule_for_a_layer_without_one():
    """A recurrent net by a user's first-order rule of its own; the rest of the table serves the rest of the net."""
    sample = zoo.make("recurrent", "float64")
    graph, xs = graph_of(sample.model), arrays(sample, 2)

    def at_the_mean(node, values):
        ys = keras.tree.flatten(node.call(values[0].mean))  # of a loop: outputs and states of all steps
        return [Moments(y, 0.25 * tf.ones_like(y)) for y in ys]

    def unlike_the_table(node, graph):
        return node.kind is Kind.LOOP or node.layers[0].startswith("time_distributed")

    table = Rules((unlike_the_table, at_the_mean)).before(MOMENT_RULES)
    y = run(graph, xs, 0.01, "diagonal", table=table)
    features = keras.Model(sample.model.input, sample.model.layers[-3].output)(xs[0])
    head = keras.Model(sample.model.layers[-2].input, sample.model.layers[-1].output)
    expected = filtered(graph_of(head), [np.asarray(features)], [0.25 * np.ones(features.shape)])
    np.testing.assert_allclose(y.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(y.var, expected.var, rtol=1e-12)


class Mixing(L.Layer):
    """z = relu(x kernel + offset); its ``call`` leaves Keras, so that only teaching helps."""

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], 4), name="kernel")
        self.offset = self.add_weight(shape=(4,), name="bias")

    def call(self, x):
        return tf.nn.relu(tf.matmul(x, tf.convert_to_tensor(self.mix)) + tf.convert_to_tensor(self.offset))


def test_a_taught_layer_is_filtered():
    """``register_bilinear`` is all that a linear layer needs: it is then the Dense layer of the same weights."""
    with zoo.precision("float64"):
        i = keras.Input((5,))
        own = zoo.randomise(keras.Model(i, L.Dense(3)(Mixing()(i))), 3)
        twin = keras.Model(i, L.Dense(3)(L.Dense(4, activation="relu")(i)))
    twin.set_weights(own.get_weights())
    with pytest.raises(NoRuleError, match="Mixing"):
        moments.bind(graph_of(own), MOMENT_RULES)
    before = dict(kernels._TABLE)
    try:
        options = {"kernel": "mix", "bias": "offset", "activation": lambda layer: keras.activations.relu}
        innv_ext.register_bilinear(Mixing, **options)(lambda layer, x, kernel: ops.matmul(x, kernel))
        x = np.random.default_rng(0).normal(size=(2, 5))
        for mode in COVARIANCES:
            y, expected = (run(graph_of(model), [x], 0.3, mode) for model in (own, twin))
            np.testing.assert_allclose(y.mean, expected.mean, rtol=1e-12)
            for i in range(2):
                np.testing.assert_allclose(covariance(y, i), covariance(expected, i), rtol=1e-10)
    finally:
        kernels._TABLE.clear()
        kernels._TABLE.update(before)


# --- what nothing random reaches ---------------------------------------------------------------------------------


def with_a_fixed_branch():
    """A random image, and a fixed table that goes through nodes of many kinds; their product and sum."""
    with zoo.precision("float64"):
        a, b = keras.Input((4,)), keras.Input((4,))
        y = L.Softmax()(L.LayerNormalization()(L.Dense(4, activation="gelu")(b)))
        y = L.Maximum()([y, ops.square(b)])
        model = keras.Model([a, b], L.Dense(2)(L.Add()([L.Multiply()([a, y]), y])))
    return zoo.randomise(model, 4)


def test_fixed_branches_are_evaluated():
    """Given a plain tensor, every node on its way is evaluated, also those with approximate rules."""
    model = with_a_fixed_branch()
    graph = graph_of(model)
    rng = np.random.default_rng(0)
    m, v, fixed = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4)), rng.normal(size=(3, 4))
    rules = moments.bind(graph, MOMENT_RULES)
    y = moments.propagate(graph, rules, [Moments.of_input(tf.constant(m), tf.constant(v)), tf.constant(fixed)])
    for i in range(3):
        W, b = twins.matrix_of(lambda x, i=i: evaluate(graph, [x, np.repeat(fixed[i : i + 1], len(x), 0)]), (4,))
        np.testing.assert_allclose(flat(y.mean)[i], m[i] @ W + b, rtol=1e-9)
        np.testing.assert_allclose(flat(y.var)[i], v[i] @ W**2, rtol=1e-9)
    plain = moments.propagate(graph, rules, [tf.constant(m), tf.constant(fixed)])
    np.testing.assert_array_equal(flat(plain), evaluate(graph, [m, fixed]))


def test_two_fixed_factors_of_a_product():
    with zoo.precision("float64"):
        inputs = [keras.Input((4,)) for _ in range(3)]
        graph = graph_of(keras.Model(inputs, L.Multiply()(inputs)))
    a, b, m, v = np.random.default_rng(0).uniform(1, 2, size=(4, 1, 4))
    given = [tf.constant(a), tf.constant(b), Moments.of_input(tf.constant(m), tf.constant(v))]
    y = moments.propagate(graph, moments.bind(graph, MOMENT_RULES), given)
    np.testing.assert_allclose(y.mean, a * b * m, rtol=1e-12)
    np.testing.assert_allclose(y.var, (a * b) ** 2 * v, rtol=1e-12)


def test_whole_numbers_need_no_rule():
    """Comparisons, look-ups and embeddings of a second input that holds tokens: nothing random gets there."""
    with zoo.precision("float64"):
        a, b = keras.Input((4,)), keras.Input((4,), dtype="int32")
        mask = ops.cast(ops.not_equal(b, 0), "float64")
        table = L.Flatten()(L.Embedding(5, 2)(b))
        model = keras.Model([a, b], L.Dense(2)(L.Concatenate()([a * mask, table])))
    graph = graph_of(zoo.randomise(model, 4))
    rng = np.random.default_rng(0)
    m, v, tokens = rng.normal(size=(2, 4)), rng.uniform(size=(2, 4)), np.array([[1, 0, 2, 4], [0, 0, 3, 1]], "int32")
    inputs = [Moments.of_input(tf.constant(m), tf.constant(v)), tf.constant(tokens)]
    y = moments.propagate(graph, moments.bind(graph, MOMENT_RULES), inputs)
    for i in range(2):
        W, b = twins.matrix_of(lambda x, i=i: evaluate(graph, [x, np.repeat(tokens[i : i + 1], len(x), 0)]), (4,))
        np.testing.assert_allclose(flat(y.mean)[i], m[i] @ W + b, rtol=1e-9)
        np.testing.assert_allclose(flat(y.var)[i], v[i] @ W**2, rtol=1e-9)


def test_whole_numbers_with_a_row_of_ones_own():
    """The node is evaluated, its rule never asked."""

    def never(node, values):
        raise AssertionError(node.name)

    with zoo.precision("float64"):
        a, b = keras.Input((4,)), keras.Input((4,), dtype="int32")
        model = keras.Model([a, b], a * ops.cast(ops.not_equal(b, 0), "float64"))
    graph = graph_of(model)
    m, tokens = np.array([[1.0, 2, 3, 4]]), np.array([[1, 0, 2, 0]], "int32")
    inputs = [Moments.of_input(tf.constant(m), tf.constant(m**2)), tf.constant(tokens)]
    table = MOMENT_RULES.before(Rules((anything, never)))
    y = moments.propagate(graph, moments.bind(graph, table), inputs)
    np.testing.assert_array_equal(y.mean, [[1, 0, 3, 0]])
    np.testing.assert_array_equal(y.var, [[1, 0, 9, 0]])
