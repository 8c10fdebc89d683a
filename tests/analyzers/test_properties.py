"""Laws that hold for whole families of networks, on random graphs of small layers.

Conservation is asserted where the theory gives it: in bias-free nets, in float64, up to rounding.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import zoo
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from innv_ext.analyzers.lrp.lrp import LRP
from innv_ext.analyzers.lrp.rules import Epsilon
from innv_ext.backend import facts, passes, walk
from innv_ext.backend.tracing import trace

# No shrinking: every example is a new network, and a plan is short and can be replayed as it is printed.
fast = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
more = settings(fast, max_examples=20)  # graphs alone, without analyzers
pytestmark = zoo.QUICK

OPS = ("affine", "affine", "add", "concat", "maxpool", "avgpool", "batchnorm", "relu")


@dataclass(frozen=True)
class Plan:
    """How to build a random net; small integers pick operands and sizes."""

    image: bool
    steps: tuple[tuple[str, int, int, int], ...]
    seed: int
    separate: bool  # activations as layers, not fused


plans = st.builds(
    Plan,
    image=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(OPS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)), min_size=2, max_size=6
    ).map(tuple),
    seed=st.integers(0, 999),
    separate=st.booleans(),
)


@dataclass(frozen=True, eq=False)
class Net:
    model: Any
    x: Any
    rng: Any


class _Builder:
    """Grows a graph step by step; every new tensor can become an operand later."""

    def __init__(self, plan, biases, rectified, foldable):
        self.plan, self.biases, self.rectified, self.foldable = plan, biases, rectified, foldable
        self.tensors = []

    def pick(self, i):
        return self.tensors[-1 - i % min(3, len(self.tensors))]  # a recent one, so that graphs get deep

    def affine(self, t, units, k, relu):
        fused = "relu" if relu and not self.plan.separate else None
        options = {"use_bias": self.biases, "activation": fused}
        if self.plan.image:
            y = layers.Conv2D(units, (1, 2, 3, 3)[k], padding="same", **options)(t)
        else:
            y = layers.Dense(units, **options)(t)
        if relu and self.plan.separate:
            y = (layers.ReLU(), layers.Activation("relu"), ops.relu, layers.ReLU())[k](y)
        return y

    def batchnorm(self, t):
        return layers.BatchNormalization(center=self.biases)(t)

    def two(self, i, j, same):
        a, b = self.pick(i), self.pick(j)
        if same and a.shape[-1] != b.shape[-1]:
            b = self.affine(b, a.shape[-1], 1, self.rectified)
        return a, b

    def step(self, op, i, j, k):
        t = self.pick(i)
        if op in ("maxpool", "avgpool") and self.plan.image:
            pool = layers.MaxPooling2D if op == "maxpool" else layers.AveragePooling2D
            return pool(2, strides=1, padding="same")(t)
        if op == "add":
            return layers.Add()(list(self.two(i, j, True)))
        if op == "concat":
            return layers.Concatenate()(list(self.two(i, j, False)))
        if op == "batchnorm":  # behind an affine layer or alone
            y = self.affine(t, 3 + k, k, False) if self.foldable or k % 2 else t
            y = self.batchnorm(y)
            return layers.ReLU()(y) if self.rectified else y
        if op == "affine":
            return self.affine(t, 3 + k, k, self.rectified or k % 2)
        return layers.ReLU()(t)

    def build(self):
        i = keras.Input((4, 4, 2) if self.plan.image else (6,))
        self.tensors.append(self.affine(i, 6, 3, True))
        for step in self.plan.steps:
            self.tensors.append(self.step(*step))
        y = self.tensors[-1]
        y = layers.Flatten()(y) if self.plan.image else y
        y = layers.Dense(8, activation="relu", use_bias=self.biases)(y)
        return keras.Model(i, layers.Dense(3, use_bias=self.biases)(y))


def net(plan, *, biases=False, rectified=False, foldable=False, dtype="float64", count=3):
    """A random net with random inputs.

    rectified : every hidden value is non-negative
    foldable : every batch normalisation follows an affine layer
    """
    with zoo.precision(dtype):
        model = _Builder(plan, biases, rectified, foldable or rectified).build()
    rng = np.random.default_rng(plan.seed)
    zoo.randomise(model, plan.seed)
    if not biases:
        for w in model.weights:
            if w.name == "moving_mean":
                w.assign(np.zeros(w.shape))
    return Net(model, rng.uniform(-1, 1, (count, *model.input_shape[1:])).astype(dtype), rng)


def explained(name, model, x, **params):
    """(map, its sum per sample, the score)."""
    found = zoo.create(name, model, **params).explain(x)
    return found.attribution, found.attribution.reshape(len(x), -1).sum(axis=1), found.extras["score"]


def close(received, expected, rtol=1e-6, scale=0.0):
    """Equal up to rounding; ``scale``: the size of what cancelled on the way."""
    atol = rtol * np.abs(expected).max(initial=1e-12) + 1e-11 * scale
    np.testing.assert_allclose(received, expected, rtol=rtol, atol=atol)


# --- conservation ------------------------------------------------------------------------------------------------


@fast
@given(plans)
def test_conservation_in_rectified_nets(plan):
    """z+, w^2, flat and Deep Taylor share the whole score out, and without a sign change; scaling x scales them."""
    n = net(plan, rectified=True)
    scores = np.asarray(n.model(n.x))
    assume((scores.max(axis=1) > 1e-3).all())
    for name in ("lrp.z_plus", "lrp.w_square", "lrp.flat", "deep_taylor", "deep_taylor.bounded"):
        analyzer = zoo.create(name, n.model)
        found = analyzer.explain(n.x)
        close(found.extras["score"], scores.max(axis=1), 1e-9)
        close(found.attribution.reshape(3, -1).sum(axis=1), scores.max(axis=1))
        assert found.attribution.min() >= -1e-12
        if name != "deep_taylor.bounded":  # its bounds don't scale along
            close(analyzer.analyze(2.5 * n.x), 2.5 * found.attribution)


@fast
@given(plans)
def test_z_rule_conserves_and_is_input_times_gradient(plan):
    """LRP-z of a bias-free ReLU net is x * df/dx (Shrikumar et al. 2016), also where it isn't rectified everywhere."""
    n = net(plan)
    analyzer = zoo.create("lrp.z", n.model)
    found = analyzer.explain(n.x, trace=True)
    maps, score = found.attribution, found.extras["score"]
    size = np.abs(maps).sum()
    assume((np.abs(score) > 1e-3 * np.abs(maps).reshape(3, -1).sum(axis=1)).all())
    close(maps.reshape(3, -1).sum(axis=1), score, scale=size)
    for share in found.extras["conservation"].values():
        close(share, np.ones(3), 1e-6, scale=size)
    close(analyzer.explain(2.5 * n.x, trace=True).attribution, 2.5 * maps)
    close(explained("input_t_gradient", n.model, n.x)[0], maps)
    close(explained("integrated_gradients", n.model, n.x, steps=3)[0], maps)  # the gradient is constant along the line


@fast
@given(plans)
def test_epsilon_tends_to_the_z_rule(plan):
    """The error of the epsilon rule falls with epsilon, in proportion."""
    n = net(plan)
    maps, _, score = explained("lrp.z", n.model, n.x)
    assume(np.abs(score).min() > 1e-2)
    rough, fine = (np.abs(explained("lrp.epsilon", n.model, n.x, epsilon=e)[0] - maps).max() for e in (1e-6, 1e-8))
    assert fine < 1e-5 * np.abs(maps).max() or fine < 0.02 * rough
    close(explained("lrp.epsilon", n.model, n.x, epsilon=1e-14)[0], maps, 1e-6)


@pytest.mark.traced
@fast
@given(plans)
def test_flat_and_w_square_conserve_in_any_net(plan):
    """Both ignore values, so that they pass relevance to silent neurons too; nothing may get lost there."""
    n = net(plan, foldable=True)
    for name in ("lrp.w_square", "lrp.flat"):
        found = zoo.create(name, n.model).explain(n.x, return_layers=True)
        size = max(np.abs(v).sum() for v in found.extras["layers"].values())
        close(found.attribution.reshape(3, -1).sum(axis=1), found.extras["score"], scale=size)


@fast
@given(plans)
def test_biases_and_stabilisers_account_for_what_is_missing(plan):
    """score = sum of the map + the part that is reported as absorbed."""
    n = net(plan, biases=True)
    found = zoo.create("lrp.epsilon", n.model, epsilon=0.01).explain(n.x)
    close(found.extras["sum"] + found.extras["absorbed"] * found.extras["score"], found.extras["score"], 1e-9)


# --- gradients ---------------------------------------------------------------------------------------------------


@fast
@given(plans)
def test_gradient_against_finite_differences(plan):
    """Away from kinks, f_c(x + h d) - f_c(x - h d) = 2 h d.grad, with biases and all layers."""
    n = net(plan, biases=True, count=2)
    maps = explained("gradient", n.model, n.x)[0]
    direction = n.rng.normal(size=n.x.shape)
    top = np.argmax(np.asarray(n.model(n.x)), axis=1)

    def along(h):
        return np.asarray(n.model(n.x + h * direction))[np.arange(2), top]

    slopes = [(along(h) - along(-h)) / (2 * h) for h in (1e-6, 1e-7)]
    smooth = np.abs(slopes[0] - slopes[1]) < 1e-6 * (1 + np.abs(slopes[0]))
    expected = (maps * direction).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(slopes[0][smooth], expected[smooth], rtol=1e-5, atol=1e-6)


@fast
@given(plans)
def test_samples_do_not_see_each_other(plan):
    """Replacing the rest of the batch by something wild changes nothing."""
    n = net(plan, biases=True, count=4)
    other = n.x.copy()
    other[1:] = 100 * other[1:] + 7
    for name in ("lrp.alpha_2_beta_1", "lrp.gamma", "deep_taylor"):
        analyzer = zoo.create(name, n.model)
        np.testing.assert_allclose(analyzer.analyze(other)[0], analyzer.analyze(n.x)[0], rtol=1e-9, atol=1e-12)


# --- the graph ---------------------------------------------------------------------------------------------------


@more
@given(plans)
def test_traced_and_rewritten_graphs_compute_the_model(plan):
    """However batch normalisation is treated."""
    n = net(plan, biases=True)
    expected = np.asarray(n.model(n.x))
    graph = trace(n.model, facts.is_leaf)
    graphs = [graph, passes.split_activations(graph)]
    graphs += [passes.canonical(graph, passes.Form(mode)) for mode in passes.BATCHNORM_MODES]
    for g in graphs:
        (received,) = walk.evaluate(g, [ops.convert_to_tensor(n.x)])
        np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)
        assert [node.index for node in g.nodes] == list(range(len(g.nodes)))


@more
@given(plans)
def test_proved_signs_are_true(plan):
    """Where the graph claims that an input isn't negative, it isn't."""
    n = net(plan, biases=True)
    graph = passes.canonical(trace(n.model, facts.is_leaf), passes.Form("fold"))
    env = walk.forward(graph, [ops.convert_to_tensor(50 * n.x)])
    for node, xs in zip(env.nodes, env.xs, strict=True):
        for flag, x in zip(node.nonnegative, xs, strict=True):
            assert not flag or np.asarray(x).min() >= 0, node.name


@fast
@given(plans)
def test_batchnorm_modes_agree_where_they_must(plan):
    """The z rule of an affine chain doesn't depend on how the chain is cut, if there are no biases."""
    n = net(plan)
    maps, _, score = explained("lrp.z", n.model, n.x)
    assume(np.abs(score).min() > 1e-3)
    for mode in ("linear", "two_linear"):
        close(explained("lrp.z", n.model, n.x, batchnorm=mode)[0], maps)


# --- extreme values ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_dead():
    """A float32 net with pooling, a sum, and a unit and a channel that never fire."""
    i = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(i)
    z = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(y))
    y = layers.ReLU()(layers.Add()([y, z]))
    y = layers.AveragePooling2D(2)(layers.MaxPooling2D(2, strides=1)(y))
    y = layers.Dense(6, activation="relu")(layers.Flatten()(y))
    model = zoo.randomise(keras.Model(i, layers.Dense(3)(y)), 5)
    kernel, bias = model.layers[1].get_weights()
    kernel[..., 0], bias[0] = 0.0, -1.0
    model.layers[1].set_weights([kernel, bias])
    kernel, bias = model.layers[-2].get_weights()
    kernel[:, :2], bias[:2] = -np.abs(kernel[:, :2]), -0.1
    model.layers[-2].set_weights([kernel, bias])
    return model


def _extremes():
    rng = np.random.default_rng(0)
    base = rng.uniform(-1, 1, (6, 6, 2)).astype("float32")
    holes = base * (rng.uniform(size=base.shape) < 0.2)
    scaled = [factor * base for factor in (0, -0.0, 1e18, 1e-18, 1e-38)]
    return np.stack([base, holes, -np.abs(base), *scaled]).astype("float32")


@pytest.mark.parametrize("name", zoo.by_rule(zoo.DISTINCT))
def test_finite_at_extreme_values(name, half_dead):
    """Zeros, dead ReLUs, huge and tiny inputs, negative scores: finite maps, whatever else shares the batch."""
    x = _extremes()
    y = np.asarray(half_dead(x))
    seen = np.random.default_rng(1).uniform(-1, 1, (64, *x.shape[1:])).astype("float32")
    analyzer = zoo.create(name, half_dead, np.concatenate([np.clip(x, -1, 1), seen]))
    for index in (np.argmax(y, axis=1), np.argmin(y, axis=1)):
        found = analyzer.explain(x, index)
        np.testing.assert_array_equal(found.extras["finite"], np.ones(len(x), bool))
        assert np.isfinite(found.attribution).all()
    if name != "random":
        alone = analyzer.analyze(x[:1], index[:1])
        np.testing.assert_allclose(found.attribution[:1], alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("name", zoo.by_rule(n for n in zoo.DISTINCT if not zoo.needs_positions(n)))
def test_finite_when_nothing_fires(name):
    """A silent hidden layer and negative scores: finite maps, and zeros where the method follows the signal."""
    with zoo.precision("float64"):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)])
    model.set_weights([np.ones((4, 3)), np.full(3, -50.0), np.ones((3, 2)), np.array([-1.0, -2.0])])
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    params = {"until_layer": 0} if "until_layer" in zoo.PARAMS.get(name, {}) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = zoo.create(name, model, x, **params).explain(x)
    np.testing.assert_allclose(found.output, np.tile([-1.0, -2.0], (3, 1)))
    assert np.isfinite(found.attribution).all()
    if zoo.INFOS[name].family == "deep_taylor" or name in ("gradient", "lrp.z", "lrp.epsilon"):
        assert (found.attribution == 0).all()


@fast
@given(plans, st.sampled_from([0.0, 1e-30, 1e-12, 1e12, 1e25]))
def test_finite_in_any_net(plan, factor):
    """Float32, with biases."""
    n = net(plan, biases=True, dtype="float32")
    for name in ("lrp.alpha_2_beta_1", "lrp.flat", "lrp.epsilon_gamma_box"):
        assert np.isfinite(zoo.create(name, n.model).analyze((factor * n.x).astype("float32"))).all()


# --- batch normalisation that cannot be folded -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lrp.flat", "lrp.w_square", "lrp.z_plus"])
def test_batchnorm_on_its_own_conserves_at_silent_neurons(name):
    """Between a sum and a ReLU there is no affine neighbour to fold it into; a pure scale has one input per output.

    Methods that reach silent neurons must not lose relevance where y = x = 0.
    """
    with zoo.precision("float64"):
        i = keras.Input((5,))
        y = layers.Dense(6, use_bias=False, activation="relu")(i)
        y = layers.Add()([y, layers.Dense(6, use_bias=False, activation="relu")(i)])
        y = layers.ReLU()(layers.BatchNormalization(center=False)(y))
        model = keras.Model(i, layers.Dense(3, use_bias=False)(layers.ReLU()(layers.Dense(6, use_bias=False)(y))))
    zoo.randomise(model, 1)
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    norm.moving_mean.assign(np.zeros(6))
    norm.gamma.assign(np.abs(norm.gamma))
    x = np.random.default_rng(0).uniform(-1, 1, (4, 5))
    silent = keras.Model(i, norm.output)(x) == 0
    assert np.asarray(silent).any()
    _, total, score = explained(name, model, x)
    close(total, score)


def test_rules_are_called_with_their_own_table():
    """The class with an explicit rule is the named analyzer."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(2)
    by_class = LRP(sample.model, rule=Epsilon(1e-3)).analyze(x)
    np.testing.assert_array_equal(by_class, zoo.create("lrp.epsilon", sample.model, epsilon=1e-3).analyze(x))
