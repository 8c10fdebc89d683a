"""The relevance ordering test: against plain loops over every copy, closed forms, and what must not matter."""

import ast
import doctest
import importlib
import json
import sys
import tracemalloc
from pathlib import Path

import keras
import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers
from scipy import stats

import innv_ext.evaluation
from innv_ext.analyzers.parts import replacement as noise
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.evaluation import OrderingResult, features, plotting, relevance_ordering, subject
from innv_ext.evaluation import ordering as module

fast = settings(max_examples=12, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))
RNG = np.random.default_rng(0)


def ordering(model, x, relevance, **options):
    options = {"progress": False, "rates": 4, "samples": 5, "noise": "uniform", **options}
    return relevance_ordering(model, x, relevance, **options)


def linear(weights, bias=0.0):
    """sum of w_i x_i + bias in float64, for x of the shape of ``weights``."""
    weights = np.asarray(weights, "float64")
    with zoo.precision("float64"):
        i = keras.Input(weights.shape)
        model = keras.Model(i, layers.Dense(1)(layers.Flatten()(i)))
    model.set_weights([weights.reshape(-1, 1), np.array([bias])])
    return model


def predict(model, x):
    """``model.predict`` in double precision: Keras casts what it is given to the default type."""
    with zoo.precision("float64"):
        return model.predict(x, verbose=0)


class Recorder:
    """Noise whose draws can be looked up: [i, r] -> (samples, ...)."""

    def __init__(self):
        self.draws = []

    def __call__(self, x, samples, rng):
        assert x.shape[0] == 1
        self.draws.append(rng.uniform(-1, 2, (1, samples, *x.shape[1:])))
        return self.draws[-1]


def twin(model, x, relevance, group, rates, draws, neurons, labels):
    """Distortion and accuracy by loops over samples, rates, copies and values.

    ``relevance``: per sample {feature: relevance}, without equals; ``group``: the feature of each value of a sample;
    ``draws(i, r)``: the noise, for rates that perturb anything.
    """
    clean, copies, owners = predict(model, x), [], []
    distortion, accuracy = np.zeros((len(x), len(rates))), np.zeros((len(x), len(rates)))
    for i in range(len(x)):
        order = sorted(relevance[i], key=relevance[i].get, reverse=True)
        for r, rate in enumerate(rates):
            kept = order[: round(rate * len(order))]
            if len(kept) == len(order):
                accuracy[i, r] = clean[i].argmax() == labels[i]
                continue
            for noise_copy in draws(i, r):
                copy = np.array(noise_copy)
                for place in np.ndindex(*x.shape[1:]):
                    if group[place] in kept:
                        copy[place] = x[i][place]
                copies.append(copy)
                owners.append((i, r))
    for (i, r), output in zip(owners, predict(model, np.array(copies)), strict=True):
        distortion[i, r] += (clean[i, neurons[i]] - output[neurons[i]]) ** 2 / owners.count((i, r))
        accuracy[i, r] += (output.argmax() == labels[i]) / owners.count((i, r))
    return distortion, accuracy


def agrees(result, expected, name="relevance"):
    np.testing.assert_allclose(result.distortion[name], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.accuracy[name], expected[1], rtol=1e-12)


def same(a, b, name="relevance", other=None):
    for field in ("distortion", "accuracy"):
        received, expected = getattr(a, field)[name], getattr(b, field)[other or name]
        np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-13)


# --- against plain loops -----------------------------------------------------------------------------------------


GROUPS = {
    "component": np.arange(60).reshape(5, 4, 3),
    "pixel": np.repeat(np.arange(20), 3).reshape(5, 4, 3),
    "segments": np.repeat(np.arange(20).reshape(5, 4)[..., None] % 7, 3, axis=2),
    "values": np.arange(60).reshape(5, 4, 3) % 11,
}
LABELS = {"component": "component", "pixel": "pixel", "segments": 10 - GROUPS["segments"][..., 0] * 3,
          "values": GROUPS["values"]}


@pytest.mark.parametrize("on", ["output", "logits"])
@pytest.mark.parametrize("kind", list(GROUPS))
def test_brute_force(picture_net, kind, on):
    """Every kind of feature; the relevance of a group is the sum of its values'."""
    model, logits = picture_net
    x, relevance = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.normal(size=(3, 5, 4, 3))
    group, rates, recorder = GROUPS[kind], [0.0, 0.1, 0.45, 0.9, 1.0], Recorder()
    result = ordering(model, x, relevance, features=LABELS[kind], on=on, rates=rates, samples=6, noise=recorder,
                      batch_size=7)
    sums = [{g: relevance[i][group == g].sum() for g in np.unique(group)} for i in range(3)]
    best = predict(logits, x).argmax(axis=1)
    explained = model if on == "output" else logits
    agrees(result, twin(explained, x, sums, group, rates, lambda i, r: recorder.draws[4 * i + r][0], best, best))
    assert result.names == ("relevance",) and result.rates.tolist() == rates
    assert result.distortion["relevance"].min() >= 0 and result.distortion["relevance"].max() > 1e-3


def test_brute_force_with_neurons_and_labels(picture_net):
    """The neuron says whose score is followed, the label what counts as right: they are independent."""
    model, logits = picture_net
    x, relevance, recorder = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.normal(size=(3, 60)), Recorder()
    neurons, labels = np.array([2, 0, 3]), np.array([1, 1, 2])
    result = ordering(model, x, relevance, on="logits", neuron_selection=neurons, labels=labels, noise=recorder)
    values = [dict(enumerate(row)) for row in relevance]
    draws = lambda i, r: recorder.draws[3 * i + r][0]
    expected = twin(logits, x, values, GROUPS["component"], np.linspace(0, 1, 4), draws, neurons, labels)
    agrees(result, expected)
    one = ordering(model, x, relevance, on="logits", neuron_selection=2, labels=labels)
    same(one, ordering(model, x, relevance, on="logits", neuron_selection=[2, 2, 2], labels=labels))


def test_default_draws_in_plain_loops(picture_net):
    """Uniform between the extremes of the sample, one keyed generator per sample and rate."""
    model, _ = picture_net
    x, relevance = RNG.uniform(-1, 1, (2, 5, 4, 3)), RNG.normal(size=(2, 60))
    best = predict(model, x).argmax(axis=1)
    values = [dict(enumerate(row)) for row in relevance]

    def draws(i, r):
        rng = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(0, i, r)))
        return [x[i].min() + (x[i].max() - x[i].min()) * rng.random((5, 4, 3)) for _ in range(5)]

    result = ordering(model, x, relevance, seed=5, noise=None)
    expected = twin(model, x, values, GROUPS["component"], np.linspace(0, 1, 4), draws, best, best)
    agrees(result, expected)


KINDS = ("convnet nested subclassed custom_layer transformer tokens masked_lstm signal volume channels_first "
         "segmentation multilabel regression noisy free_size uint8 two_outputs").split()


@pytest.mark.parametrize("name", zoo.thinned(KINDS))
def test_every_kind_of_model(name):
    """Constant noise, one rate of two halves: what the model says about the mixed inputs."""
    sample = zoo.make(name, "float32" if name in zoo.FLOAT32_ONLY else "float64")
    drawn = sample.inputs(4)
    x = drawn[0] if isinstance(drawn, list) else drawn
    flat = x.reshape(4, -1)
    relevance = np.stack([np.random.default_rng(i).permutation(flat.shape[1]) for i in range(4)])
    result = ordering(sample.model, drawn, relevance.reshape(x.shape), rates=[0.0, 0.5], noise="constant", mean=1,
                      batch_size=3, **{k: v for k, v in sample.params.items() if k == "output"})
    half = round(flat.shape[1] / 2)
    mixed = [np.ones_like(flat), np.where(relevance >= flat.shape[1] - half, flat, 1)]

    def outputs(z):
        y = predict(sample.model, z.reshape(x.shape).astype(x.dtype))
        return np.asarray(y[1] if name == "two_outputs" else y, "float64")

    clean = outputs(flat)
    for r, z in enumerate(mixed):
        y = outputs(z)
        for i in range(4):
            place = np.unravel_index(clean[i].argmax(), clean[i].shape)
            expected = (clean[i][place] - y[i][place]) ** 2
            assert result.distortion["relevance"][i, r] == pytest.approx(expected, rel=1e-5, abs=1e-9)
            before, after = clean[i][place[:-1]], y[i][place[:-1]]
            equal = (before > 0) == (after > 0) if len(before) == 1 else before.argmax() == after.argmax()
            assert result.accuracy["relevance"][i, r] == equal


# --- closed forms ------------------------------------------------------------------------------------------------


@fast
@given(st.integers(1, 7), st.integers(0, 999), st.integers(2, 9))
def test_linear_model_with_constant_noise(n, seed, count):
    """Distortion = (sum over the randomised of w_i (x_i - m_i))^2."""
    rng = np.random.default_rng(seed)
    w, x, m = rng.normal(size=n), rng.normal(size=(3, n)), rng.normal(size=n)
    relevance = np.stack([rng.permutation(n) for _ in range(3)])
    result = ordering(linear(w, 0.3), x, relevance, noise="constant", mean=m, rates=count)
    for i in range(3):
        for r in range(count):
            lost = [j for j in range(n) if relevance[i, j] < n - round(r / (count - 1) * n)]
            expected = sum(w[j] * (x[i, j] - m[j]) for j in lost) ** 2
            assert result.distortion["relevance"][i, r] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_linear_model_with_noise(kind):
    """E (sum of w_i (x_i - v_i))^2 = (sum of w_i (x_i - E v_i))^2 + sum of w_i^2 Var v_i, over the randomised."""
    rng = np.random.default_rng(2)
    w, x, relevance = rng.normal(size=6), rng.normal(size=(2, 6)), np.tile(np.arange(6.0), (2, 1))
    mean, std = rng.normal(size=6), rng.uniform(0.1, 2, 6)
    options = {"mean": mean, "std": std} if kind == "gaussian" else {}
    result = ordering(linear(w), x, relevance, noise=kind, rates=[0.0, 0.5], samples=40000, batch_size=5000, **options)
    for i in range(2):
        if kind == "uniform":
            mean, std = np.full(6, (x[i].min() + x[i].max()) / 2), np.full(6, np.ptp(x[i]) / np.sqrt(12))
        for r, lost in enumerate([slice(None), slice(0, 3)]):
            expected = (w * (x[i] - mean))[lost].sum() ** 2 + (w**2 * std**2)[lost].sum()
            assert result.distortion["relevance"][i, r] == pytest.approx(expected, rel=0.04)


@fast
@given(st.integers(2, 8), st.integers(0, 999))
def test_a_perfect_order_beats_every_other(n, seed):
    """With non-negative contributions, the largest first is best at each rate and the smallest first is worst."""
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(0, 1, (3, n)), rng.uniform(0, 1, n)
    maps = {"best": w * x, "worst": -w * x, "random": "random", "other": rng.normal(size=(3, n))}
    result = ordering(linear(w), x, maps, noise="constant", mean=0, rates=n + 1)
    for name in maps:
        assert (result.distortion["best"] <= result.distortion[name] + 1e-12).all()
        assert (result.distortion["worst"] >= result.distortion[name] - 1e-12).all()
    assert (result.distortion_area["best"] < result.distortion_area["worst"]).all()


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_all_channels_change_and_are_kept_together(channel):
    """A net that sees one channel only: randomising reaches it, and a kept pixel keeps it."""
    w = np.zeros((2, 2, 3))
    w[..., channel] = [[8, 4], [2, 1]]
    x, relevance = np.ones((1, 2, 2, 3)), np.zeros((1, 2, 2, 3))
    relevance[0, ..., (channel + 1) % 3] = [[4, 3], [2, 1]]  # elsewhere, so that only the sum tells
    options = {"noise": "constant", "mean": 0, "rates": 5, "features": "pixel"}
    result = ordering(linear(w), x, relevance, **options)
    assert result.distortion["relevance"].tolist() == [[225.0, 49.0, 9.0, 1.0, 0.0]]
    for shape in [(1, 2, 2), (1, 2, 2, 1), (1, 4)]:
        same(ordering(linear(w), x, relevance.sum(axis=3).reshape(shape), **options), result)


def test_pixels_of_a_channels_first_model():
    """The model's layers say where the channels are."""
    i = keras.Input((2, 1, 3))
    model = keras.Model(i, layers.Flatten()(layers.Conv2D(1, (1, 3), data_format="channels_first", use_bias=False)(i)))
    model.set_weights([np.array([[1, 10], [2, 20], [4, 40]], "float32").reshape(1, 3, 2, 1)])
    relevance = np.zeros((1, 2, 1, 3))
    relevance[0, :, 0] = [[0, 3, 2], [0, -2, 0]]  # sums 0 1 2
    options = {"features": "pixel", "noise": "constant", "mean": 0, "rates": 4}
    expected = [77.0, 33.0, 11.0, 0.0]
    for values in (relevance, relevance.sum(axis=1), relevance.sum(axis=1, keepdims=True)):
        result = ordering(model, np.ones((1, 2, 1, 3)), values, **options)
        np.testing.assert_allclose(np.sqrt(result.distortion["relevance"][0]), expected, rtol=1e-5)
    labelled = ordering(model, np.ones((1, 2, 1, 3)), relevance, **{**options, "features": np.array([[7, 5, 6]])})
    np.testing.assert_allclose(np.sqrt(labelled.distortion["relevance"][0]), expected, rtol=1e-5)


def test_superpixels_of_every_sample():
    """Labels per sample, of any value and with or without channels; the numbers of segments may differ."""
    w, x = np.arange(1.0, 13).reshape(2, 2, 3), np.ones((2, 2, 2, 3))
    labels = np.array([[[5, 5], [-1, 9]], [[0, 7], [7, 7]]])
    relevance = np.zeros((2, 2, 2, 3))
    relevance[0, 0, 0], relevance[0, 1, 0], relevance[1, 1, 1] = 1, 2, 1  # sums: -1: 6, 5: 3, 9: 0; 7: 3, 0: 0
    options = {"noise": "constant", "mean": 0, "rates": [0.0, 1 / 3, 0.5, 2 / 3, 1.0]}
    result = ordering(linear(w), x, relevance, features=labels, **options)
    pixels = w.sum(axis=2)  # 6 15 24 33
    assert np.sqrt(result.distortion["relevance"]).tolist() == [
        [pixels.sum(), 54.0, 33.0, 33.0, 0.0],  # 3 segments: 0, 1, 2, 2, 3 kept
        [pixels.sum(), 6.0, 6.0, 6.0, 0.0],  # 2 segments: 0, 1, 1, 1, 2 kept
    ]
    wide = np.repeat(labels[..., None], 3, axis=3)
    same(ordering(linear(w), x, relevance, features=wide, **options), result)
    same(ordering(linear(w), x, relevance.sum(axis=3), features=labels, **options), result)
    first = ordering(linear(w), x, relevance, features=labels[0], **options)
    np.testing.assert_array_equal(first.distortion["relevance"][0], result.distortion["relevance"][0])
    ranked = ordering(linear(w), x, [[6, 3, 0], [6, 3, 0]], features=labels[0], **options)  # labels in rising order
    np.testing.assert_array_equal(ranked.distortion["relevance"][0], result.distortion["relevance"][0])


def test_ends_of_the_curves(picture_net):
    """Nothing randomised: exactly 0. All randomised: exactly the same for every map."""
    model, _ = picture_net
    x = RNG.uniform(-1, 1, (4, 5, 4, 3))
    maps = {name: RNG.normal(size=x.shape) for name in "abc"}
    labels = np.array([0, 1, 2, 3])
    result = ordering(model, x, maps, labels=labels, batch_size=3)
    right = predict(model, x).argmax(axis=1) == labels
    for name in "abc":
        assert (result.distortion[name][:, -1] == 0).all()
        np.testing.assert_array_equal(result.accuracy[name][:, -1], right)
        np.testing.assert_array_equal(result.distortion[name][:, 0], result.distortion["a"][:, 0])
        np.testing.assert_array_equal(result.accuracy[name][:, 0], result.accuracy["a"][:, 0])
    assert (result.distortion["a"][:, 1] != result.distortion["b"][:, 1]).all()
    assert (result.distortion["a"][:, 0] > 0).all()


def test_one_neuron_has_two_classes():
    """Behind a sigmoid the border is 0.5, on logits and in regression it is 0."""
    with zoo.precision("float64"):
        i = keras.Input((1,))
        model = keras.Model(i, layers.Dense(1, activation="sigmoid")(i))
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.array([[3.0], [3.0], [-3.0]])
    for net, on in ((model, "output"), (model, "logits"), (linear([1.0]), "output")):
        result = ordering(net, x, "random", rates=[0.0, 1.0], on=on, noise="constant", mean=0.1, labels=[1, 0, 0])
        assert result.accuracy["random"].tolist() == [[1, 1], [0, 0], [0, 1]]
        below = ordering(net, x, "random", rates=[0.0, 1.0], on=on, noise="constant", mean=-0.1)
        assert below.accuracy["random"].tolist() == [[0, 1], [0, 1], [1, 1]]


def test_classes_at_a_position():
    """Rank > 2: the class is that of the selected position."""
    sample = zoo.make("segmentation", "float64")
    x = sample.draw(np.random.default_rng(0), 3)
    at = [(1, 2, 0), (0, 3, 1), (3, 3, 0)]
    result = ordering(sample.model, x, "random", neuron_selection=at, labels=[0, 1, 0], noise="constant", mean=0.2)
    clean, noisy = (predict(sample.model, z) for z in (x, np.full_like(x, 0.2)))
    for i, (a, b, c) in enumerate(at):
        change = (clean[i, a, b, c] - noisy[i, a, b, c]) ** 2
        assert result.distortion["random"][i, 0] == pytest.approx(change, rel=1e-9)
        assert result.accuracy["random"][i, 0] == (noisy[i, a, b].argmax() == [0, 1, 0][i])
        assert result.accuracy["random"][i, -1] == (clean[i, a, b].argmax() == [0, 1, 0][i])


# --- noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("kind", ["uniform", "gaussian", "constant", "custom"])
def test_draws_do_not_depend_on_the_pieces(kind, dtype):
    x = np.random.default_rng(0).uniform(20, 90, (3, 5)).astype(dtype)
    options = {"uniform": ("uniform", None, None), "gaussian": ("gaussian", 50, 9), "constant": ("constant", 50, None),
               "custom": (lambda x, samples, rng: rng.uniform(0, 99, (1, samples, 3, 5)), None, None)}
    name, mean, std = options[kind]
    given, kinds = {"mean": mean, "std": std}, module._TAKES
    made = noise.replacement("noise", name, Arrangement(0, (3, 5), (0,), False), kinds, given, kinds, functions=True)

    def draws(most):
        pieces = list(made.pieces(x, 11, np.random.default_rng(4), most))
        assert max(map(len, pieces)) <= most
        return np.concatenate(pieces)

    whole = draws(11)
    assert whole.shape == (11, 3, 5) and whole.dtype == dtype
    for most in (1, 2, 3, 10, 50):
        np.testing.assert_array_equal(draws(most), whole)
    assert made.copies(11) == (1 if kind == "constant" else 11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions(dtype):
    """Kolmogorov-Smirnov against scipy's distributions; values of one copy are independent of the next."""
    x = np.array([[-2.0, 0.0, 3.0]], dtype)
    (drawn,) = noise.Uniform().pieces(x, 3000, np.random.default_rng(0), 3000)
    for column in drawn.reshape(3000, 3).T:
        assert stats.kstest(column, stats.uniform(-2, 5).cdf).pvalue > 1e-3
    mean, std = np.array([[1.0, 2.0, 3.0]]), np.array([[0.5, 1.0, 2.0]])
    (drawn,) = noise.Gaussian(mean, std).pieces(x, 3000, np.random.default_rng(0), 3000)
    for column, m, s in zip(drawn.reshape(3000, 3).T, mean[0], std[0], strict=True):
        assert stats.kstest(column, stats.norm(m, s).cdf).pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([drawn[:-1, 0], drawn[1:, 0]], axis=1).T)
    assert np.abs(correlation - np.eye(6)).max() < 0.08


def test_whole_numbers():
    """Tokens and bytes: all values between the extremes are equally likely; others are rounded and kept in range."""
    x = np.array([3, 7, 5], "int32")
    (drawn,) = noise.Uniform().pieces(x, 4000, np.random.default_rng(0), 4000)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7] and stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(noise.fitted(np.array([-3.0, 1.4, 1.6, 300.0]), np.dtype("uint8")), [0, 1, 2, 255])


def test_noise_is_fresh_for_each_sample_and_rate_and_shared_by_maps(picture_net):
    model, _ = picture_net
    x, recorder = np.tile(RNG.uniform(-1, 1, (1, 5, 4, 3)), (2, 1, 1, 1)), Recorder()
    ordering(model, x, {"a": "random", "b": RNG.normal(size=x.shape), "c": x}, noise=recorder, rates=3)
    assert len(recorder.draws) == 2 * 2  # one call for all maps, none where nothing is randomised
    copies = np.concatenate([d[0] for d in recorder.draws])
    assert len(np.unique(copies.reshape(len(copies), -1), axis=0)) == 2 * 2 * 5
    again = Recorder()
    ordering(model, x, x, noise=again, rates=3)
    np.testing.assert_array_equal(again.draws, recorder.draws)
    other = Recorder()
    ordering(model, x, x, noise=other, rates=3, seed=1)
    assert not np.isin(np.ravel(other.draws), np.ravel(recorder.draws)).any()


def test_custom_noise_cannot_write_into_x(picture_net):
    def vandal(x, samples, rng):
        x[:] = 0
        return rng.normal(size=(1, samples, *x.shape[1:]))

    with pytest.raises(ValueError, match="read-only"):
        ordering(picture_net[0], RNG.uniform(size=(1, 5, 4, 3)), "random", noise=vandal)


# --- ties --------------------------------------------------------------------------------------------------------


def first_kept(relevance, x, **options):
    """The position of the one value that is kept, per sample: powers of two tell which is missing."""
    n = x.shape[1]
    options |= {"noise": "constant", "mean": 0, "rates": [0.0, 1 / n]}
    result = ordering(linear(2.0 ** np.arange(n)), x, relevance, **options)
    (name,) = result.names
    kept = 2.0**n - 1 - np.sqrt(result.distortion[name][:, 1])
    return np.log2(kept).round().astype(int)


def test_equals_are_ordered_at_random_and_repeatably():
    x = np.ones((400, 5))
    drawn = first_kept(np.zeros((400, 5)), x)
    assert stats.chisquare(np.bincount(drawn, minlength=5)).pvalue > 1e-3
    np.testing.assert_array_equal(first_kept(np.full((400, 5), -3.5), x, batch_size=7), drawn)
    np.testing.assert_array_equal(first_kept("random", x), drawn)
    np.testing.assert_array_equal(first_kept(np.zeros((250, 5)), x[:250]), drawn[:250])
    assert (first_kept("random", x, seed=1) != drawn).mean() > 0.5
    signed = np.tile([0.0, -0.0, -1.0, 0.0, -0.0], (400, 1))  # both zeros are equal
    assert stats.chisquare(np.bincount(first_kept(signed, x), minlength=5)[[0, 1, 3, 4]]).pvalue > 1e-3
    assert 2 not in first_kept(signed, x)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "float16", "float32"])
def test_relevance_of_any_dtype(dtype):
    """Unsigned numbers must not wrap around when they are sorted downwards; nothing is lost to rounding."""
    relevance = np.zeros((1, 4), dtype)
    relevance[0, 2] = 1
    assert first_kept(relevance, np.ones((1, 4))) == [2]
    assert first_kept(np.array([[0, -np.inf, 1e-30, 0]]), np.ones((1, 4))) == [2]


# --- what must not matter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "custom"])
def test_batch_size_and_other_samples_do_not_matter(picture_net, kind):
    model, _ = picture_net
    x, relevance = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.integers(0, 3, (3, 5, 4, 3))  # many equals
    options = {"noise": Recorder() if kind == "custom" else kind, "rates": 6}
    options |= {"mean": 0.2, "std": np.full((5, 4, 3), 0.4)} if kind == "gaussian" else {}
    whole = ordering(model, x, {"a": relevance, "b": "random"}, batch_size=1000, **options)
    for size in (1, 4, 7):
        for name in "ab":
            same(ordering(model, x, {"a": relevance, "b": "random"}, batch_size=size, **options), whole, name)
    other, changed = x.copy(), relevance.copy()
    other[[0, 2]], changed[[0, 2]] = 5 * other[[2, 0]] + 1, -changed[[2, 0]]
    mixed = ordering(model, other, {"b": "random", "a": changed}, **options)
    for name in "ab":
        np.testing.assert_allclose(mixed.distortion[name][1], whole.distortion[name][1], rtol=1e-9)
        np.testing.assert_array_equal(mixed.accuracy[name][1], whole.accuracy[name][1])
    first = ordering(model, x[:1], {"a": relevance[:1]}, **options)
    np.testing.assert_allclose(first.distortion["a"][0], whole.distortion["a"][0], rtol=1e-9, atol=1e-13)


def test_a_dict_is_all_its_maps(picture_net):
    model, _ = picture_net
    x = RNG.uniform(-1, 1, (2, 5, 4, 3))
    maps = {"b": RNG.normal(size=x.shape), "a": RNG.normal(size=(2, 60)), "c": "random", "d": tf.constant(x)}
    together = ordering(model, x, maps)
    assert together.names == ("b", "a", "c", "d") == tuple(together.distortion) == tuple(together.accuracy)
    for name, values in maps.items():
        alone = ordering(model, x, values)
        same(together, alone, name, alone.names[0])
    assert ordering(model, x, "random").names == ("random",)


@pytest.mark.parametrize("given", ["uint8", "int64", "float16", "list"])
def test_any_numbers_are_converted(given):
    """Integer pictures for a float model: not truncated noise, but the model's dtype."""
    model, x = linear(np.arange(1.0, 7)), RNG.integers(0, 9, (2, 6))
    converted = x.tolist() if given == "list" else x.astype(given)
    same(ordering(model, converted, "random"), ordering(model, x.astype("float64"), "random"), "random")


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_half_precision(policy):
    """Scores of half precision are squared and added up in double precision."""
    with zoo.precision("float32"):
        i = keras.Input((4,), dtype="float16" if policy == "float16" else "float32")
        model = keras.Model(i, layers.Dense(1, use_bias=False, dtype=keras.DTypePolicy(policy))(i))
    model.set_weights([np.full((4, 1), 256.0)])
    result = ordering(model, np.ones((1, 4)), "random", noise="constant", mean=0, rates=[0.0, 0.5])
    assert result.distortion["random"].tolist() == [[1024.0**2, 512.0**2]]  # more than float16 holds


# --- cost --------------------------------------------------------------------------------------------------------


def counting(n):
    """(model, list that gets the size of every forward batch)."""
    seen = []

    class Counting(layers.Layer):
        def call(self, x):
            tf.py_function(lambda size: seen.append(int(size)), [tf.shape(x)[0]], [])  # fails on KerasTensors, so that
            return x  # the layer is not opened

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    i = keras.Input((n,))
    return keras.Model(i, layers.Dense(3, activation="softmax")(Counting()(i))), seen


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("on", ["output", "logits"])
def test_batch_size_bounds_the_forward_samples(size, on):
    """And batches are filled: over rates, samples and maps."""
    model, seen = counting(6)
    maps = {"a": np.arange(18).reshape(3, 6), "b": "random"}
    ordering(model, RNG.uniform(size=(3, 6)), maps, rates=[0.0, 0.3, 0.5, 1.0], samples=7, batch_size=size, on=on)
    copies = 3 * 7 * (1 + 2 + 2 + 0)  # rate 0 is the same for both maps, rate 1 needs no forward pass
    assert max(seen) <= size and sum(seen) == 3 + copies
    assert len(seen) == -(-3 // size) + -(-copies // size)
    seen.clear()
    ordering(model, RNG.uniform(size=(3, 6)), "random", noise="constant", mean=0, samples=7, batch_size=size)
    assert sum(seen) == 3 + 3 * 3  # equal copies are evaluated once


@pytest.mark.traced
def test_one_trace(monkeypatch):
    made = []

    class Spy(subject.Compiled):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(subject, "Compiled", Spy)
    ordering(zoo.make("convnet").model, RNG.uniform(size=(3, 6, 6, 2)), "random", batch_size=4, samples=7)
    assert [m.traces for m in made] == [1]


def test_memory_does_not_grow_with_the_copies():
    """6 * 11 * 100 copies of 1000 float64 values would be 53 MB."""
    model, x = linear(np.ones(1000)), RNG.uniform(size=(6, 1000))
    tracemalloc.start()
    ordering(model, x, {"a": x, "b": "random"}, rates=11, samples=100, batch_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_progress_bar_counts_to_the_end_and_can_be_silenced(terminal):
    model, x = linear(np.ones(4)), np.ones((2, 4))
    relevance_ordering(model, x, "random", noise="uniform", rates=3, samples=2, progress=False)
    assert terminal.getvalue() == ""
    relevance_ordering(model, x, "random", noise="uniform", rates=3, samples=2, progress=True)
    assert "relevance_ordering" in terminal.getvalue() and "6/6 rate" in terminal.getvalue()


# --- the world is left alone -------------------------------------------------------------------------------------


def snapshot(model):
    flat = list(model._flatten_layers())
    attributes = [dict(vars(layer)) for layer in flat]
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in flat]
    return [v.numpy().copy() for v in model.variables], attributes, nodes


@pytest.mark.parametrize("on", ["output", "logits"])
@pytest.mark.parametrize("name", ["convnet", "nested", "subclassed", "noisy"])
def test_model_inputs_and_generators_are_left_alone(name, on):
    sample = zoo.make(name)
    x = sample.inputs(2)
    x = x[0] if isinstance(x, list) else x
    relevance = RNG.normal(size=x.shape)
    copies, state = (x.copy(), relevance.copy()), np.random.get_state()[1].copy()
    variables, attributes, nodes = snapshot(sample.model)
    ordering(sample.model, x, relevance, on=on)
    with pytest.raises(ZeroDivisionError):
        ordering(sample.model, x, relevance, on=on, noise=lambda *args: 1 / 0)
    after = snapshot(sample.model)
    for a, b in zip(variables, after[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(attributes, after[1], strict=True):
        assert sorted(a) == sorted(b) and [k for k in a if a[k] is not b[k]] == []
    assert nodes == after[2]
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(relevance, copies[1])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


# --- the result --------------------------------------------------------------------------------------------------


def made_up(samples=3, names=("slow", "fast", "a|b $x$")):
    rng = np.random.default_rng(1)
    rates = np.array([0.0, 0.25, 1.0])
    level = dict(zip(names, (2.0, 0.0, 1.0), strict=True))
    distortion = {n: level[n] + rng.uniform(size=(samples, 3)) for n in names}
    accuracy = {n: (3 - level[n] + rng.uniform(size=(samples, 3))) / 4 for n in names}
    return OrderingResult(rates, tuple(names), distortion, accuracy)


def test_repr_names_the_best():
    assert repr(made_up()) == "OrderingResult(3 maps, 3 samples, 3 rates; least distortion: 'fast')"


def test_areas_and_statistics():
    result = made_up(4)
    for name in result.names:
        for curves, areas in ((result.distortion, result.distortion_area), (result.accuracy, result.accuracy_area)):
            c = curves[name]
            by_hand = 0.25 * (c[:, 0] + c[:, 1]) / 2 + 0.75 * (c[:, 1] + c[:, 2]) / 2
            np.testing.assert_allclose(areas[name], by_hand, rtol=1e-12)
    for of in ("distortion", "accuracy", "distortion_area", "accuracy_area"):
        for name, found in result.statistics(of).items():
            values = getattr(result, of)[name]
            mean = sum(values) / 4
            std = np.sqrt(sum((v - mean) ** 2 for v in values) / 3)
            np.testing.assert_allclose(found.mean, mean)
            np.testing.assert_allclose(found.std, std)
            np.testing.assert_allclose(found.error, std / 2)
    assert np.isnan(made_up(1).statistics("accuracy")["fast"].error).all()
    with pytest.raises(InvalidInputError, match=r"of must be one of 'distortion'.*'areas'"):
        result.statistics("areas")


def test_table_is_markdown_sorted_by_distortion():
    result = made_up()
    header, rule, *rows = result.table().splitlines()
    assert header == "| relevance | distortion area | accuracy area |" and rule == "| --- | --- | --- |"
    assert [row.split(" | ")[0] for row in rows] == ["| fast", "| a\\|b $x$", "| slow"]
    areas = result.distortion_area["fast"]
    assert f" {areas.mean():.4g} ± {areas.std(ddof=1) / np.sqrt(3):.2g} |" in rows[0]
    assert f"| {result.accuracy_area['slow'].mean():.4g} ±" in rows[2]
    assert "±" not in made_up(1).table() and "nan" not in made_up(1).table()


@pytest.mark.parametrize("samples", [1, 3])
def test_json_round_trip(samples):
    result = made_up(samples)
    text = json.dumps(result.to_dict(), allow_nan=False)
    stored = json.loads(text)
    assert stored["names"] == list(result.names) and stored["rates"] == result.rates.tolist()
    for name in result.names:
        assert stored["distortion_area"][name] == result.distortion_area[name].tolist()
        assert stored["accuracy_area"][name] == result.accuracy_area[name].tolist()
    again = OrderingResult.from_dict(stored)
    assert again.to_dict() == stored and again.table() == result.table()
    for name in result.names:
        np.testing.assert_array_equal(again.distortion[name], result.distortion[name])
        np.testing.assert_array_equal(again.accuracy[name], result.accuracy[name])


@pytest.mark.parametrize("spread", ["error", "std"])
def test_plot_shows_means_and_spreads(spread):
    result = made_up()
    figure = result.plot(spread=spread)
    assert isinstance(figure, matplotlib.figure.Figure) and len(figure.axes) == 2
    for panel, of, label in zip(figure.axes, ("distortion", "accuracy"),
                                ("distortion (squared change of the output)", "accuracy"), strict=True):
        assert panel.get_xlabel() == "rate (non-randomised components)" and panel.get_ylabel() == label
        assert [line.get_label() for line in panel.get_lines()] == list(result.names)
        for line, band in zip(panel.get_lines(), panel.collections, strict=True):
            found = result.statistics(of)[line.get_label()]
            np.testing.assert_array_equal(line.get_xdata(), result.rates)
            np.testing.assert_array_equal(line.get_ydata(), found.mean)
            corners = band.get_paths()[0].vertices
            for rate, mean, width in zip(result.rates, found.mean, getattr(found, spread), strict=True):
                heights = corners[corners[:, 0] == rate, 1]
                assert heights.min() == pytest.approx(mean - width) and heights.max() == pytest.approx(mean + width)


def test_legends_are_sorted_by_area_and_name_the_right_lines():
    result = made_up()
    for panel, of in zip(result.plot().axes, ("distortion", "accuracy"), strict=True):
        legend = panel.get_legend()
        names = [text.get_text().split(" (")[0].replace(r"\$", "$") for text in legend.get_texts()]
        assert names == ["fast", "a|b $x$", "slow"]  # least distortion, most accuracy
        looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in panel.get_lines()}
        for name, text, handle in zip(names, legend.get_texts(), legend.get_lines(), strict=True):
            assert (handle.get_color(), handle.get_linestyle()) == looks[name]
            assert text.get_text().endswith(f"({getattr(result, of + '_area')[name].mean():.3g})")


def test_many_maps_look_different_and_the_same_in_both_panels():
    names = [f"map {j}" for j in range(28)]
    curves = {name: np.full((2, 3), j / 28) for j, name in enumerate(names)}
    left, right = OrderingResult(np.array([0, 0.5, 1]), tuple(names), curves, curves).plot().axes
    looks = [(line.get_color(), str(line._dash_pattern)) for line in left.get_lines()]
    assert len(set(looks)) == 28
    assert looks == [(line.get_color(), str(line._dash_pattern)) for line in right.get_lines()]
    luminance = [np.dot(matplotlib.colors.to_rgb(c), [0.2126, 0.7152, 0.0722]) for c in plotting.COLOURS]
    assert max(luminance) < 0.75  # visible on white


def test_plot_is_saved_and_drawn_on_given_axes(tmp_path):
    result = made_up(1)
    figure = result.plot(path=tmp_path / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    assert picture.shape[:2] == tuple((figure.get_size_inches()[::-1] * plotting.DPI).astype(int))
    assert (picture[..., :3] < 0.9).any()
    own = matplotlib.figure.Figure()
    part = own.subfigures(1, 2)[0]
    axes = part.subplots(1, 2)
    assert result.plot(axes) is own and [len(a.get_lines()) for a in axes] == [3, 3]
    assert not axes[0].collections  # one sample has no spread
    for wrong in (axes[0], axes[:1], [1, 2], "ab"):
        with pytest.raises(InvalidInputError, match="ax must be two matplotlib axes"):
            result.plot(wrong)
    with pytest.raises(InvalidInputError, match="spread must be one of 'error', 'confidence', 'std', got 'iqr'"):
        result.plot(spread="iqr")


def test_pyplot_is_not_touched():
    folder = Path(innv_ext.evaluation.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            assert not [n for n in names if "pyplot" in n or "pylab" in n]
    before, settings_before = "matplotlib.pyplot" in sys.modules, dict(matplotlib.rcParams)
    made_up().plot()
    assert ("matplotlib.pyplot" in sys.modules) == before and dict(matplotlib.rcParams) == settings_before


# --- refusals ----------------------------------------------------------------------------------------------------


X = np.linspace(-1, 1, 12).reshape(2, 6)
R = np.arange(12.0).reshape(2, 6)
NAN = np.where(R == 8, np.nan, R)
REFUSED = {
    "few values": ({"relevance": R[:, :5]}, r"relevance 'relevance' has shape \(2, 5\), but x has \(2, 6\).*\(2, 6\)"),
    "few samples": ({"relevance": {"lrp": R[:1]}}, r"relevance 'lrp' has shape \(1, 6\)"),
    "NaN": ({"relevance": {"lrp": NAN}}, r"relevance 'lrp' is NaN in 1 samples \(first: 1\)"),
    "sum is NaN": ({"relevance": np.where(R < 2, [np.inf, -np.inf] * 3, R), "features": np.zeros(6, int)}, "is NaN"),
    "text": ({"relevance": {"a": "rand"}}, "relevance 'a' is 'rand'; the only text allowed is 'random'"),
    "words": ({"relevance": [["a"] * 6] * 2}, "relevance 'relevance' must be an array of real numbers"),
    "ragged": ({"relevance": [[1, 2], [3]]}, "must be an array of real numbers"),
    "complex": ({"relevance": R + 1j}, "real numbers; got dtype complex128"),
    "no map": ({"relevance": {}}, "relevance must be an array or a dict"),
    "keys": ({"relevance": {1: R}}, r"relevance must be an array or a dict.*\[1\]"),
    "empty": ({"x": X[:0], "relevance": R[:0]}, r"x has shape \(0, 6\); there is nothing to explain"),
    "wrong x": ({"x": X[0]}, "Add the batch axis"),
    "NaN in x": ({"x": np.where(X > 0.9, np.nan, X)}, "NaN or infinite values in 1 samples"),
    "rate above 1": ({"rates": [0, 1.5]}, r"rates must increase and lie in \[0, 1\], got \[0.0, 1.5\]"),
    "rate below 0": ({"rates": [-0.1, 1]}, "rates must increase"),
    "falling rates": ({"rates": [0.5, 0.5]}, "rates must increase"),
    "NaN rate": ({"rates": [0, np.nan]}, "rates must increase"),
    "one rate": ({"rates": [0.5]}, "at least two shares"),
    "one rate as number": ({"rates": 1}, "rates=1: a curve needs at least 2"),
    "rates as share": ({"rates": 0.5}, "at least two shares"),
    "rates as flag": ({"rates": True}, "at least two shares"),
    "rates as text": ({"rates": "all"}, "rates must be an integer or an array of shares, got 'all'"),
    "data for pictures": ({"model": zoo.make("convnet").model, "x": np.zeros((2, 6, 6, 2)), "relevance": "random",
                           "data": X, "noise": None}, "data= says what the columns of tables are like, but the model"),
    "data for uniform": ({"data": X}, "data= has no meaning with noise='uniform'"),
    "wrong data": ({"data": X[:, :5], "noise": None}, "Batch 0 of the training data: x for .* has shape"),
    "no samples": ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
    "half samples": ({"samples": 1.5}, "samples must be an integer"),
    "batch size": ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    "seed": ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    "seed as number": ({"seed": 0.5}, "seed must be an integer"),
    "on": ({"on": "softmax"}, "on must be one of 'output', 'logits', got 'softmax'"),
    "output": ({"output": "b"}, "output='b' is not an output of the model"),
    "label above": ({"labels": [0, 3]}, r"labels holds 3 \(sample 1\), which is out of range; valid are 0..2"),
    "label below": ({"labels": [-1, 0]}, r"labels holds -1 \(sample 0\)"),
    "one label": ({"labels": [0]}, r"labels must be integers of shape \(2,\)"),
    "one-hot labels": ({"labels": np.eye(3)[:2]}, r"labels must be integers.*float64.*\(2, 3\)"),
    "neuron": ({"neuron_selection": 3}, "neuron_selection 3 .* out of range"),
    "all neurons": ({"neuron_selection": "all"}, "neuron_selection='all' is no single neuron"),
    "noise": ({"noise": "normal"}, "noise must be one of 'uniform', 'gaussian', 'constant' or a function, got 'norm"),
    "no mean": ({"noise": "gaussian", "std": 1},
                r"noise='gaussian' needs mean= and std=: .*X_train.mean\(axis=0\).* mean= is missing"),
    "no std": ({"noise": "gaussian", "mean": 1}, "noise='gaussian' needs mean= and std=: .* std= is missing"),
    "no constant": ({"noise": "constant"}, "noise='constant' needs mean="),
    "mean for uniform": ({"mean": 1}, "mean= has no meaning with noise='uniform'"),
    "std for constant": ({"noise": "constant", "mean": 0, "std": 1}, "std= has no meaning"),
    "mean shape": ({"noise": "constant", "mean": np.zeros(5)}, r"mean has shape \(5,\).*one sample \(6,\)"),
    "mean text": ({"noise": "constant", "mean": "zero"}, "mean is 'zero'"),
    "mean NaN": ({"noise": "constant", "mean": np.nan}, "mean holds NaN"),
    "negative std": ({"noise": "gaussian", "mean": 0, "std": -1}, "std must not be negative"),
    "features": ({"features": "superpixel"}, "features must be 'component', 'pixel' or an int array"),
    "pixel of a vector": ({"features": "pixel"}, r"features='pixel' needs x with channels.*\(2, 6\). Use 'component'"),
    "labels of features": ({"features": np.zeros(5, int)}, r"features has shape \(5,\)"),
    "float features": ({"features": np.zeros(6)}, "array of integer labels, got dtype float64"),
    "unequal groups": ({"features": np.array([[0] * 6, [0, 1] * 3]), "relevance": np.ones((2, 2))}, "1 to 2, which"),
    "no model": ({"model": "model"}, "model must be a keras.Model, got str"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused_before_anything_is_computed(case, monkeypatch):
    changed, message = REFUSED[case]

    def computed(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(subject.Scores, "__call__", computed)
    arguments = {"model": zoo.make("mlp").model, "x": X, "relevance": R, **changed}
    with pytest.raises(InvalidInputError, match=message):
        ordering(arguments.pop("model"), arguments.pop("x"), arguments.pop("relevance"), **arguments)


def test_noise_of_a_wrong_shape_is_refused():
    with pytest.raises(InvalidInputError, match=r"noise returned an array of shape \(5, 6\).*= \(1, 5, 6\)"):
        ordering(zoo.make("mlp").model, X, R, noise=lambda x, samples, rng: np.zeros((samples, 6)))


def test_models_that_cannot_be_tested():
    with pytest.raises(InvalidInputError, match="2 outputs; say which one"):
        ordering(zoo.make("two_outputs").model, np.zeros((1, 5)), "random")
    with pytest.raises(UnsupportedModelError, match="not built"):
        ordering(keras.Sequential([layers.Dense(2)]), X, "random")


def test_the_way_out_for_two_inputs_works():
    """As the message of tests that take one input says: the other input held fixed."""
    both = zoo.make("two_inputs", "float64").model
    with zoo.precision("float64"):
        a = keras.Input((6, 6, 1))
        b = keras.layers.Lambda(lambda t: keras.ops.ones((keras.ops.shape(t)[0], 4), t.dtype), output_shape=(4,))(a)
        model = keras.Model(a, both([a, b]))
    x = RNG.uniform(-1, 1, (2, 6, 6, 1))
    result = ordering(model, x, "random", noise="constant", mean=0)
    clean, noisy = (predict(both, [z, np.ones((2, 4))]) for z in (x, np.zeros_like(x)))
    best = clean.argmax(axis=1)
    expected = [(clean[i, c] - noisy[i, c]) ** 2 for i, c in enumerate(best)]
    np.testing.assert_allclose(result.distortion["random"][:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("module", ["ordering", "results"])
def test_examples(module):
    outcome = doctest.testmod(importlib.import_module(f"innv_ext.evaluation.{module}"))
    assert outcome.attempted and not outcome.failed


@fast
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(0, 99))
def test_ranks(values, seed):
    """A permutation that never puts a smaller relevance first."""
    n = len(values)
    grouping = features.read_features(["component"], 1, [Arrangement(0, (n,), (), False)])
    (ranks,) = features.ranks(grouping, np.array([values], "float64"), 0, np.random.default_rng(seed))
    assert sorted(ranks) == list(range(n))
    assert all(ranks[i] < ranks[j] for i in range(n) for j in range(n) if values[i] > values[j])
