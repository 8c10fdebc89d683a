"""What RDE analyzers refuse, with which words, and what remains when something breaks on the way."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers
from rde_nets import MC, NAMES, QUICK, N, X, linear, rde, relu_net, sampler, x

import innv_ext
from innv_ext.analyzers.moments.values import Moments
from innv_ext.analyzers.rde.distortion import Distortion
from innv_ext.analyzers.rde.rates import LagrangianRDE, MultiRateRDE, RateConstrainedRDE
from innv_ext.backend.predicates import named
from innv_ext.backend.rules import Rules
from innv_ext.errors import (
    InvalidInputError,
    NonFiniteWarning,
    NoRuleError,
    NotFittedError,
    UnsupportedModelError,
)

create = innv_ext.create_analyzer


@pytest.fixture(scope="module")
def model():
    return linear(N, outputs=2)[0]


# --- bad input ---------------------------------------------------------------------------------------------------


def refused(words, call, *args, error=InvalidInputError, **kwargs):
    """The call raises an error of ours with all the words."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    for word in words:
        assert word in str(caught.value), f"{word!r} is missing in: {caught.value}"


@pytest.mark.parametrize(
    "rate", [0, N, N + 1, -3, 1.0, 1.5, 0.0, -0.5, True, "a", None, float("nan"), float("inf")], ids=str
)
def test_bad_rates(model, rate):
    """What can be kept, and what was received; in all analyzers with rates."""
    refused(["rate must be", f"1..{N - 1}", repr(rate)], create, "rc_rde", model, rate=rate)
    for name in ("mr_rde", "ord_rde"):
        refused(["rates must be"], create, name, model, rates=[rate])


BAD_LISTS = [(), [], np.zeros(0), (3, 2), (2, 2), (1, 3, 3), (0.5, 0.2), (0.5, 0.5), (3, 0.5), (1, True)]


@pytest.mark.parametrize("rates", BAD_LISTS, ids=str)
def test_bad_lists_of_rates(model, rates):
    for name in ("mr_rde", "ord_rde"):
        refused(["rates"], create, name, model, rates=rates)


def test_close_shares_of_few_features(model):
    """The default rates are for images; here several of them mean the same number of features."""
    found = create("mr_rde", model, progress=False, max_iter=2).fit(X).explain(x)
    np.testing.assert_array_equal(found.extras["rates"], [[1, 1, 1, 2, 2, 2, 3, 3]] * 3)
    found = (
        create("mr_rde", model, rates=(0.1, 0.2, 0.5), weights=(1, 2, 3), progress=False, max_iter=2).fit(X).explain(x)
    )
    np.testing.assert_array_equal(found.extras["rates"], [[1, 1, 3]] * 3)
    found = create("ord_rde", model, rates=(0.1, 0.2, 0.5), progress=False, max_iter=2).fit(X).explain(x)
    np.testing.assert_array_equal(found.extras["rates"], [[1, 3]] * 3)
    for rates in ((1, 0.5), np.array([1, 3]), [np.int64(1), np.float32(0.5)]):  # numbers and shares, each as given
        found = rde("mr_rde", model, rates=rates, max_iter=1).explain(x)
        np.testing.assert_array_equal(found.extras["rates"], [[1, 3]] * 3)
    assert rde("rc_rde", model, rate=np.int64(2), max_iter=1).explain(x).extras["rates"][0] == 2
    assert rde("rc_rde", model, rate=np.float32(0.99), max_iter=1).explain(x).extras["rates"][0] == N - 1


BAD = {
    "too few weights": ("mr_rde", {"rates": (1, 3), "weights": (1,)}, ["weights", "2"]),
    "too many weights": ("mr_rde", {"rates": (1, 3), "weights": (1, 1, 1)}, ["weights", "2"]),
    "a negative weight": ("mr_rde", {"rates": (1, 3), "weights": (1, -1)}, ["weights", "non-negative"]),
    "weights of zero": ("mr_rde", {"rates": (1, 3), "weights": (0, 0)}, ["weights"]),
    "an infinite weight": ("mr_rde", {"rates": (1, 3), "weights": (np.inf, 1)}, ["weights", "inf"]),
    "words as weights": ("mr_rde", {"rates": (1, 3), "weights": ("a", "b")}, ["weights"]),
    "solver": ("rc_rde", {"solver": "adam"}, ["solver", "'adam'", "'spg'", "'fw'"]),
    "solver of another problem": ("rc_rde", {"solver": "mirror"}, ["solver", "'mirror'"]),
    "solver of l_rde": ("l_rde", {"solver": "fw"}, ["solver", "'fw'", "'pgd'"]),
    "step": ("mr_rde", {"rates": (1, 3), "step": "short"}, ["step", "'short'", "'adaptive'"]),
    "start": ("rc_rde", {"start": "zero"}, ["start", "'zero'", "'uniform'"]),
    "reference": ("rc_rde", {"reference": "normal"}, ["reference", "'normal'", "'low_rank'"]),
    "reference array": ("rc_rde", {"reference": np.zeros(N)}, ["reference", "array([0.", "'constant'"]),
    "distortion": ("l_rde", {"distortion": "exact"}, ["distortion", "'exact'", "'monte_carlo'"]),
    "samples": ("l_rde", {"distortion": "monte_carlo", "samples": 0}, ["samples", "at least 1", "0"]),
    "rank": ("l_rde", {"reference": "low_rank", "rank": 2.5}, ["rank", "2.5"]),
    "max_iter": ("l_rde", {"max_iter": -1}, ["max_iter", "-1"]),
    "max_iter as a word": ("l_rde", {"max_iter": "many"}, ["max_iter", "'many'"]),
    "max_iter as a fraction": ("l_rde", {"max_iter": 2.5}, ["max_iter", "2.5"]),
    "tol": ("l_rde", {"tol": float("nan")}, ["tol", "nan"]),
    "no tol": ("l_rde", {"tol": None}, ["tol", "None"]),
    "lambda": ("l_rde", {"lambda_": 0}, ["lambda_", "positive", "0"]),
    "infinite lambda": ("l_rde", {"lambda_": float("inf")}, ["lambda_", "inf"]),
    "lambda as a word": ("l_rde", {"lambda_": "a"}, ["lambda_", "'a'"]),
    "only a mean": ("rc_rde", {"mean": 0.0}, ["mean=", "variance=", "fit(X)"]),
    "only a variance": ("rc_rde", {"variance": 1.0}, ["mean=", "variance=", "fit(X)"]),
    "negative variance": ("rc_rde", {"mean": 0, "variance": [1, 1, -1, 1, 1, 1]}, ["variance", "negative"]),
    "variance with nan": ("rc_rde", {"mean": 0, "variance": float("nan")}, ["variance", "NaN"]),
    "mean of another shape": ("rc_rde", {"mean": np.zeros(5), "variance": 1}, ["mean", "(5,)", "(6,)"]),
    "variance of another shape": ("rc_rde", {"mean": 0, "variance": np.ones((3, 6))}, ["variance", "(3, 6)", "(6,)"]),
    "mean as a word": ("rc_rde", {"mean": "zero", "variance": 1}, ["mean", "'zero'"]),
    "mean of a learnt reference": ("rc_rde", {"reference": "full", "mean": 0.0}, ["mean=", "'full'"]),
    "variance of a constant": ("rc_rde", {"reference": "constant", "variance": 1.0}, ["variance=", "'constant'"]),
    "sampler without Monte Carlo": ("rc_rde", {"reference": sampler}, ["sampler", "monte_carlo"]),
    "features": ("rc_rde", {"features": "superpixel"}, ["features", "'superpixel'", "'pixel'"]),
    "labels with gaps": ("rc_rde", {"features": [0, 1, 3, 3, 1, 0]}, ["label", "0 to 3", "return_inverse"]),
    "labels from 1": ("rc_rde", {"features": [1, 1, 2, 2, 3, 3]}, ["label", "1 to 3"]),
    "negative labels": ("rc_rde", {"features": [-1, 0, 1, 2, 0, 1]}, ["label", "-1 to 2"]),
    "labels of another shape": ("rc_rde", {"features": np.arange(5)}, ["features", "(5,)", "(6,)"]),
    "labels that are no integers": ("rc_rde", {"features": np.zeros(6)}, ["features", "float64"]),
    "labels that leave no choice": ("rc_rde", {"features": np.zeros(6, int)}, ["rate"]),
    "no features": ("rc_rde", {"features": None}, ["features"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(model, case):
    """Refused when the analyzer is built."""
    name, params, words = BAD[case]
    refused(words, create, name, model, **{"rate": 2, **params} if name == "rc_rde" else params)


def test_features_of_images():
    """Labels for an image with channels; several inputs take none."""
    image, two = zoo.make("convnet").model, zoo.make("two_inputs").model
    refused(["features", "(6, 5)", "(6, 6, 2)"], create, "rc_rde", image, features=np.zeros((6, 5), int))
    refused(["labels", "one input", "2"], create, "rc_rde", two, features=np.zeros((6, 6), int))
    labels = np.arange(36).reshape(6, 6) // 9
    refused(["1..3", "got 4"], create, "rc_rde", image, features=labels, rate=4)
    refused(["sampler", "one input"], create, "rc_rde", two, reference=sampler, **MC)


@pytest.mark.parametrize("name", NAMES)
def test_not_fitted(model, name):
    """The two ways out are named, and both work; so does a reference that is not learnt."""
    unknown = create(name, model, progress=False, **QUICK[name])
    refused(["fit(X)", "mean= and variance="], unknown.analyze, x, error=NotFittedError)
    assert unknown.fit(X).analyze(x).shape == x.shape
    for params in ({"mean": 0, "variance": 1.0}, {"reference": "uniform"}, {"reference": "constant"}):
        assert create(name, model, progress=False, **QUICK[name], **params).analyze(x).shape == x.shape
    for kind in ("low_rank", "full"):
        refused(["fit(X)"], create(name, model, reference=kind, **QUICK[name]).analyze, x, error=NotFittedError)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_cannot_be_mixed_with_noise(name):
    """Also with Monte Carlo; the message says which part of the model can be explained."""
    for model_name in ("tokens", "masked_lstm"):
        net = zoo.make(model_name).model
        for params in ({}, MC):
            refused(["tokens", "embedding", "keras.Model"], create, name, net, error=UnsupportedModelError, **params)
    i = keras.Input((6, 4))
    y = i
    for layer in zoo.make("tokens").model.layers[2:]:
        y = layer(y)
    rest = keras.Model(i, y)
    embedded = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    assert create(name, rest, progress=False, **QUICK[name]).fit(embedded).analyze(embedded).shape == (3, 6, 4)


def test_nodes_without_a_moment_rule():
    """All are named, with two ways out: Monte Carlo works for a net that sorts, and so does a rule of one's own."""
    with zoo.precision("float64"):
        i = keras.Input((N,))
        net = zoo.randomise(keras.Model(i, layers.Dense(2)(keras.ops.sort(layers.Dense(4)(i)))), 0)
    with pytest.raises(NoRuleError) as caught:
        create("rc_rde", net, rate=3)
    text = str(caught.value)
    assert "sort" in text and "monte_carlo" in text and "moment_rules" in text
    analyzer = create("rc_rde", net, rate=3, max_iter=4, progress=False, **MC).fit(X)
    found = analyzer.explain(x)
    assert (found.extras["objective"] > 0).all() and "4 Monte Carlo samples" in analyzer.summary()
    start = create("rc_rde", net, rate=3, max_iter=0, progress=False, **MC).fit(X).explain(x)
    assert (found.extras["objective"] < start.extras["objective"]).all()


# --- what fails on the way ----------------------------------------------------------------------------------------


class Fragile(layers.Layer):
    """x, but NaN above a limit; it leaves Keras, so that it stays one node."""

    def call(self, x):
        return tf.where(x > 1.2, tf.constant(np.nan, x.dtype), x)


def fragile_rule(node, values):
    return [Moments(node.call(values[0].mean), values[0].var)]


@pytest.fixture(scope="module")
def fragile():
    """score = fragile(x0 - x1) + 2 x2. At rate 1 the first vertex keeps x0 alone, and x0 > 1.2 breaks."""
    with zoo.precision("float64"):
        i = keras.Input((3,))
        u = Fragile(name="fragile")(layers.Dense(1, use_bias=False, name="difference")(i))
        net = keras.Model(i, layers.Add()([u, layers.Dense(1, use_bias=False, name="plain")(i)]))
    net.get_layer("difference").set_weights([np.array([[1.0], [-1.0], [0.0]])])
    net.get_layer("plain").set_weights([np.array([[0.0], [0.0], [2.0]])])
    return net


FRAGILE = {"reference": "gaussian", "mean": 0.0, "variance": 1e-4, "rate": 1, "solver": "fw", "start": "uniform"}
BROKEN = np.array([[0.5, 0.5, 1.0], [3.0, 3.0, 1.0], [0.7, -0.2, 0.8]])  # the second one breaks


@pytest.mark.parametrize("way", ["adf", "monte_carlo"])
def test_a_distortion_that_is_not_finite(fragile, way):
    """One warning that names the node; the last finite point; the other samples as without it."""
    params = MC if way == "monte_carlo" else {"moment_rules": Rules((named("fragile"), fragile_rule))}
    analyzer = create("rc_rde", fragile, progress=False, max_iter=20, **FRAGILE, **params)
    with pytest.warns(NonFiniteWarning, match="rc_rde.*1 of 3 problems.*'fragile'.*last finite point") as caught:
        found = analyzer.explain(BROKEN)
    assert len([w for w in caught if w.category is NonFiniteWarning]) == 1
    assert list(found.extras["status"] == "failed") == [False, True, False]
    assert np.isfinite(found.attribution).all() and np.isfinite(found.extras["objective"]).all()
    np.testing.assert_allclose(found.attribution[1], 1 / 3)  # the start: the first step broke
    with warnings.catch_warnings():
        warnings.simplefilter("error", NonFiniteWarning)
        others = analyzer.explain(BROKEN[[0, 2]])
    np.testing.assert_allclose(others.attribution, found.attribution[[0, 2]], atol=1e-9)
    assert (others.extras["iterations"] > 0).all()


@pytest.mark.parametrize("solver", ["mirror", "sfw", "fw"])
def test_an_ordering_names_the_node_at_any_rate(fragile, solver):
    """Rate 1 keeps x2 alone; only at rate 2 the difference breaks."""
    params = {k: v for k, v in FRAGILE.items() if k not in ("rate", "solver")}
    analyzer = create("ord_rde", fragile, progress=False, max_iter=30, rates=(1, 2), solver=solver, **MC, **params)
    odd = np.array([[6.0, 5.0, 9.0]])
    with pytest.warns(NonFiniteWarning, match="'fragile'"):
        found = analyzer.explain(np.concatenate([BROKEN[:1], odd]))
    assert list(found.extras["status"] == "failed") == [False, True]
    assert np.isfinite(found.attribution).all()


@pytest.mark.parametrize("name", NAMES)
def test_unchecked_input(model, name):
    """``check_input=False``: a sample with NaN fails on its own."""
    bad = x.copy()
    bad[1, 2] = np.nan
    analyzer = rde(name, model, check_input=False, **QUICK[name])
    with pytest.warns(NonFiniteWarning):
        found = analyzer.explain(bad, 1)
    assert found.extras["status"][1].tolist() in ("failed", ["failed"] * 3)
    np.testing.assert_allclose(found.attribution[[0, 2]], analyzer.analyze(x[[0, 2]], 1), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_leaves_everything_as_it_was(name, monkeypatch):
    net = relu_net(N)
    weights, before = net.get_weights(), [len(layer._inbound_nodes) for layer in net.layers]
    analyzer = rde(name, net, **QUICK[name])
    expected = analyzer.analyze(x)
    original, calls = Distortion.__call__, []

    def interrupted(distortion, *args):
        calls.append(args)
        if len(calls) == 3:  # Ctrl-C in the third evaluation
            raise KeyboardInterrupt
        return original(distortion, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Distortion, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            analyzer.analyze(x)
    assert len(calls) == 3
    np.testing.assert_array_equal(analyzer.analyze(x), expected)
    for a, b in zip(net.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [len(layer._inbound_nodes) for layer in net.layers] == before


def test_an_interrupt_while_it_compiles():
    """The first call is traced; broken off there, the next one starts again."""
    net, stops = relu_net(N), [True]

    def target(y):
        if stops and stops.pop():
            raise KeyboardInterrupt
        return y[:, 1]

    analyzer = rde("rc_rde", net, rate=2, max_iter=5, neuron_selection_mode=target)
    with pytest.raises(KeyboardInterrupt):
        analyzer.analyze(x)
    np.testing.assert_allclose(analyzer.analyze(x), rde("rc_rde", net, rate=2, max_iter=5).analyze(x, 1), atol=1e-9)


def test_classes_are_the_named_analyzers(model):
    """By class or by name, and what an analyzer prints."""
    for name, cls in (("l_rde", LagrangianRDE), ("rc_rde", RateConstrainedRDE), ("mr_rde", MultiRateRDE)):
        by_class = cls(model, progress=False, **QUICK[name]).fit(X)
        np.testing.assert_array_equal(
            by_class.analyze(x), create(name, model, progress=False, **QUICK[name]).fit(X).analyze(x)
        )
        assert "affine" in by_class.summary().splitlines()[-1]
