"""Prediction difference analysis against loops over patches and draws, and the Gaussian against its formulas."""

import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from innv_ext.analyzers.parts.windows import components, windows
from innv_ext.analyzers.prediction.patch_gaussian import RIDGE, PatchGaussian, PatchMoments, surroundings
from innv_ext.analyzers.prediction.prediction_difference import PredictionDifference, log_odds
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError, NotFittedError, UnsupportedModelError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def correlated(*shape, seed=0):
    """Samples whose values resemble their neighbours along the first axes."""
    x = np.random.default_rng(seed).normal(size=shape)
    for axis in range(1, len(shape) - 1):
        x = x + 0.7 * np.roll(x, 1, axis=axis)
    return x


def all_patches(x, outer):
    """Every window of every sample as a row, by loops."""
    rows = []
    for one in x:
        for corner in itertools.product(*(range(n - o + 1) for n, o in zip(one.shape, outer, strict=True))):
            rows.append(one[tuple(slice(c, c + o) for c, o in zip(corner, outer, strict=True))].reshape(-1))
    return np.array(rows, "float64")


def dense_conditional(mean, covariance, own, patch):
    """Mean and covariance of the components ``own`` given the others, by the textbook."""
    s = covariance + RIDGE * np.diag(np.where(np.diag(covariance) > 0, np.diag(covariance), 1.0))
    rest = [k for k in range(len(mean)) if k not in own]
    a, b, c = s[np.ix_(own, own)], s[np.ix_(own, rest)], s[np.ix_(rest, rest)]
    shift = b @ np.linalg.solve(c, patch[rest] - mean[rest]) if rest else 0.0
    return mean[own] + shift, a - (b @ np.linalg.solve(c, b.T) if rest else 0.0)


def odds(p, n, k):
    p = (n * p + 1) / (n + k)
    return np.log2(p) - np.log2(1 - p)


def by_hand(score, x, data, inner, outer, stride, samples, *, evidence=None, number=0, seed=0):
    """One sample x, patch by patch and draw by draw: the mean change over the patches that contain a component."""
    patches = all_patches(data, outer)
    mean, covariance = patches.mean(axis=0), np.cov(patches.T, bias=True).reshape(len(patches.T), -1)
    channels = tuple(a for a in range(x.ndim) if outer[a] < x.shape[a] or (x.ndim > 1 and a < x.ndim - 1))
    low, high = (f(data, axis=(0, *(a + 1 for a in channels))) for f in (np.min, np.max))
    total, cover = np.zeros(x.shape), np.zeros(x.shape)
    axes = [[s for s in range(0, n, t) if s + i <= n] for n, i, t in zip(x.shape, inner, stride, strict=True)]
    axes = [a if a[-1] + i == n else [*a, n - i] for a, n, i in zip(axes, x.shape, inner, strict=True)]
    whole = score(x[None])[0]
    for window, corner in enumerate(itertools.product(*axes)):
        sides = zip(corner, outer, inner, x.shape, strict=True)
        around = [min(max(c - (o - i) // 2, 0), n - o) for c, o, i, n in sides]
        place = tuple(slice(c, c + i) for c, i in zip(corner, inner, strict=True))
        inside = np.zeros(x.shape, bool)
        inside[place] = True
        outside = tuple(slice(c, c + o) for c, o in zip(around, outer, strict=True))
        own = np.flatnonzero(inside[outside].reshape(-1))
        m, c = dense_conditional(mean, covariance, own, x[outside].reshape(-1).astype("float64"))
        normal = np.random.default_rng((seed, number, window)).standard_normal((samples, len(own)))
        values = m + normal @ np.linalg.cholesky(c).T
        scores = []
        for v in values:
            changed = x.copy()
            limits = (np.broadcast_to(f, x.shape)[place] for f in (low, high))
            changed[place] = np.clip(v.reshape(inner), *limits)
            scores.append(score(changed[None])[0])
        after = np.mean(scores)
        total[place] += odds(whole, *evidence) - odds(after, *evidence) if evidence else whole - after
        cover[place] += 1
    return total / cover


def probability(model, index):
    return lambda x: np.asarray(model(x), "float64")[:, index]


def classifier(shape, last="softmax", classes=3, dtype="float64", weights=None):
    with zoo.precision(dtype):
        i = keras.Input(shape)
        y = layers.Dense(7, activation="tanh")(layers.Flatten()(i))
        y = layers.Dense(classes)(y)
        net = keras.Model(i, layers.Activation(last)(y) if last else y)
    zoo.randomise(net)
    if weights is not None:
        net.set_weights(weights)
    return net


# --- the map -----------------------------------------------------------------------------------------------------

CASES = {
    "default": ((6, 5, 2), {}, (1, 1, 2), (5, 5, 2), (1, 1, 1)),
    "patches": ((6, 5, 2), {"inner": 2, "outer": 4}, (2, 2, 2), (4, 4, 2), (1, 1, 1)),
    "stride": ((7, 5, 1), {"inner": (3, 2), "outer": (4, 3), "stride": 2}, (3, 2, 1), (4, 3, 1), (2, 2, 1)),
    "no surroundings": ((4, 4, 1), {"inner": 2, "outer": 2, "stride": 2}, (2, 2, 1), (2, 2, 1), (2, 2, 1)),
    "at most 10": ((88, 1), {"outer": 11, "stride": 10}, (10, 1), (11, 1), (10, 1)),
    "the whole image": ((3, 3, 1), {"inner": 2, "outer": 3}, (2, 2, 1), (3, 3, 1), (1, 1, 1)),
    "signal": ((9, 2), {"inner": 3}, (3, 2), (7, 2), (1, 1)),
    "picture without channels": ((5, 5), {"inner": (2, 2), "outer": (3, 3)}, (2, 2), (3, 3), (1, 1)),
    "table": ((5,), {}, (1,), (5,), (1,)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loop(case):
    shape, params, inner, outer, stride = CASES[case]
    model, data = classifier(shape), correlated(40, *shape)
    x, index = correlated(2, *shape, seed=1), [2, 0]
    analyzer = PredictionDifference(model, samples=3, seed=4, **params).fit(data)
    found = analyzer.explain(x, index)
    for i, c in enumerate(index):
        score = probability(model, c)
        expected = by_hand(score, x[i], data, inner, outer, stride, 3, evidence=(40, 3), seed=4)
        close(found.attribution[i], expected, 1e-6)
        close(found.extras["probability"][i], score(x[i][None])[0])
    assert np.abs(expected).max() > 1e-2


def test_channels_first():
    model = zoo.make("channels_first").model
    data, x = (np.moveaxis(correlated(n, 6, 6, 2, seed=n), -1, 1).astype("float32") for n in (30, 2))
    options = {"inner": 2, "outer": 4, "stride": 2, "samples": 2, "evidence": False}
    found = PredictionDifference(model, **options).fit(data).analyze(x, 1)
    gaussian = PredictionDifference(model, **options).fit(data).gaussians_[0]
    patches = all_patches(data, (2, 4, 4))
    np.testing.assert_allclose(gaussian.covariance, np.cov(patches.T, bias=True), atol=1e-6)
    assert gaussian.low[0] == data[:, 0].min() and gaussian.high[-1] == data[:, 1].max()
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert found.shape == x.shape and found.any()


def test_several_inputs():
    """Each with its own Gaussian; the patches of all are numbered on, and one input changes at a time."""
    sample = zoo.make("two_inputs", "float64")
    (image, table), index = sample.inputs(1, seed=3), 1
    data = sample.inputs(50)
    data[1][:, 0] = data[1][:, 1] + 0.1 * data[1][:, 0]
    analyzer = PredictionDifference(sample.model, inner=3, outer=[4, None], stride=3, samples=2).fit(data)
    found = analyzer.analyze([image, table], index)
    pictures = by_hand(lambda a: probability(sample.model, index)([a, table]), image[0], data[0], (3, 3, 1), (4, 4, 1),
                       (3, 3, 1), 2, evidence=(50, 3))  # fmt: skip
    columns = by_hand(lambda t: probability(sample.model, index)([image, t]), table[0], data[1], (1,), (4,), (1,), 2,
                      evidence=(50, 3), number=1)  # fmt: skip
    close(found[0][0], pictures, 1e-6)
    close(found[1][0], columns, 1e-6)


def test_a_linear_score_of_a_table():
    """w_j (x_j - E[x_j | other columns]), up to the mean of the draws' noise, on columns of very different scales."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    zoo.randomise(net)
    data = np.random.default_rng(0).multivariate_normal(np.ones(4), 0.2 + 0.8 * np.eye(4), 3000) * [1, 10, 1e-4, 1e5]
    x, w = data[:5] * 0.9, net.get_weights()[0][:, 0]
    found = PredictionDifference(net, samples=2000, batch_size=2000).fit(data).analyze(x)
    mean, covariance = data.mean(axis=0), np.cov(data.T, bias=True)
    for one, map_ in zip(x, found, strict=True):
        for j in range(4):
            m, c = dense_conditional(mean, covariance, np.array([j]), one)
            assert abs(map_[j] - w[j] * (one[j] - m[0])) < 5 * abs(w[j]) * np.sqrt(c[0, 0] / 2000)
    assert PredictionDifference(net).fit(np.zeros((9, 4)) + x[0]).analyze(x[:1]) == pytest.approx(0, abs=1e-9)


# --- what is explained -------------------------------------------------------------------------------------------


def maps(model, **options):
    data, x = correlated(30, 5), correlated(3, 5, seed=1)
    return PredictionDifference(model, samples=2, **options).fit(data).analyze(x, 1)


def test_probabilities_whatever_is_explained():
    """Softmax inside, log-softmax, logits, ``on``: one map. Sigmoid outputs have two classes each."""
    softmax = classifier((5,))
    weights = softmax.get_weights()
    expected = maps(softmax)
    close(maps(softmax, on="output"), expected)
    close(maps(softmax, evidence=True), expected)
    close(maps(classifier((5,), "log_softmax", weights=weights)), expected)
    logits = classifier((5,), None, weights=weights)
    close(maps(logits), expected)
    close(maps(logits, evidence=True), expected)
    differences = maps(softmax, evidence=False)
    close(maps(logits, evidence=False), differences)
    assert not np.allclose(differences, expected)
    close(maps(softmax, evidence=False, on="output"),
          np.stack([by_hand(probability(softmax, 1), x, correlated(30, 5), (1,), (5,), (1,), 2)
                    for x in correlated(3, 5, seed=1)]), 1e-6)  # fmt: skip
    i = keras.Input((5,), dtype="float64")
    twice = keras.Model(i, layers.Softmax(dtype="float64")(softmax(i)))  # a softmax too many counts as well
    by_loop = [by_hand(probability(twice, 1), x, correlated(30, 5), (1,), (5,), (1,), 2, evidence=(30, 3))
               for x in correlated(3, 5, seed=1)]  # fmt: skip
    close(maps(twice), np.stack(by_loop), 1e-6)
    binary = classifier((5,), "sigmoid", weights=weights)
    by_loop = [by_hand(probability(binary, 1), x, correlated(30, 5), (1,), (5,), (1,), 2, evidence=(30, 2))
               for x in correlated(3, 5, seed=1)]  # fmt: skip
    close(maps(binary), np.stack(by_loop), 1e-6)
    one = classifier((5,), "sigmoid", classes=1)
    data, x = correlated(30, 5), correlated(1, 5, seed=1)
    found = PredictionDifference(one, samples=2).fit(data).analyze(x)
    close(found[0], by_hand(probability(one, 0), x[0], data, (1,), (5,), (1,), 2, evidence=(30, 2)), 1e-6)


def test_half_precision_does_not_round_probabilities_away():
    """Probabilities near 1: float16 has steps of 5e-4 there."""
    data, x, found = correlated(3000, 5).astype("float32"), correlated(3, 5, seed=1).astype("float32"), []
    for policy in ("float32", "mixed_float16"):
        i, dtype = keras.Input((5,)), keras.DTypePolicy(policy)
        y = layers.Dense(3, dtype=dtype)(layers.Dense(7, activation="tanh", dtype=dtype)(i))
        model = keras.Model(i, layers.Softmax(dtype=dtype)(y))
        w, b, v, _ = zoo.randomise(model).get_weights()
        model.set_weights([w, b, 0.2 * v, np.array([0.0, 6.0, 0.0])])
        found.append(PredictionDifference(model, samples=2).fit(data).explain(x, 1))
    assert found[0].extras["probability"].min() > 0.99 and found[0].extras["probability"].max() < 0.9998
    close(found[1].attribution, found[0].attribution, 0.02)


def test_scores_that_are_no_class():
    """Regression, the sum of all outputs, and functions: the difference of the score."""
    model, data, x = classifier((5,), None, classes=1), correlated(30, 5), correlated(1, 5, seed=1)
    found = PredictionDifference(model, samples=2).fit(data).explain(x)
    close(found.attribution[0], by_hand(probability(model, 0), x[0], data, (1,), (5,), (1,), 2), 1e-6)
    assert "probability" not in found.extras
    model = classifier((5,), None)
    both = PredictionDifference(model, samples=2).fit(data).analyze(x, "all")
    single = PredictionDifference(model, samples=2, evidence=False).fit(data)
    close(both, sum(single.analyze(x, c) for c in range(3)), 1e-8)
    squared = PredictionDifference(model, samples=2, neuron_selection_mode=lambda y: y[:, 0] ** 2).fit(data).analyze(x)
    close(squared[0], by_hand(lambda a: probability(model, 0)(a) ** 2, x[0], data, (1,), (5,), (1,), 2), 1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.integers(1, 10**6), st.integers(2, 1000))
def test_log_odds(p, n, k):
    """Finite at 0 and 1, rising, and close to the plain ones of many samples."""
    found = log_odds(np.array([0.0, p, 1.0]), n, k)
    assert np.isfinite(found).all() and (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found[1], odds(p, n, k), atol=1e-7)
    assert log_odds(np.array([0.8]), 10**12, 3) == pytest.approx(2.0)


def test_seeds_and_batches():
    sample = zoo.make("convnet", "float64")
    x, data = sample.inputs(3), sample.inputs(30, seed=1)
    sizes = {"inner": 2, "outer": 3, "samples": 3}
    make = lambda **options: PredictionDifference(sample.model, **sizes, **options).fit(data).analyze(x)
    first = make()
    np.testing.assert_array_equal(first, make())
    close(make(batch_size=5), first)
    assert not np.allclose(make(seed=1), first)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_batches_are_bounded(size):
    """2 samples x 9 patches x 4 draws, and x itself."""
    sample, seen = zoo.make("convnet", "float64"), []
    x = sample.inputs(2)
    options = {"samples": 4, "inner": 2, "outer": 3, "stride": 2}
    analyzer = PredictionDifference(sample.model, batch_size=size, **options).fit(sample.inputs(9))

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    analyzer.neuron_selection_mode = counted
    analyzer.analyze(x)
    assert max(seen) <= size and sum(seen) == 2 * 9 * 4 + 2 + 2


# --- the Gaussian ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axes", "outer"), [
    ((6, 5, 2), (0, 1), (3, 4, 2)), ((2, 6, 5), (1, 2), (2, 3, 3)), ((9, 3), (0,), (4, 3)), ((4,), (), (4,)),
    ((4, 3, 3, 1), (0, 1, 2), (2, 2, 2, 1)), ((5, 5), (0,), (2, 3)),
])  # fmt: skip
def test_moments_are_those_of_all_patches(shape, axes, outer):
    """In one pass, however the data are split; the range is that of each channel or column."""
    data = 100 + correlated(30, *shape)
    expected, found = all_patches(data, outer), []
    for split in ([30], [1, 4, 25]):
        moments = PatchMoments(Arrangement(0, shape, axes, False), outer, 1)
        for part in np.split(data, np.cumsum(split)[:-1]):
            moments.add(part.astype("float64"))
        found.append(moments.gaussian())
        assert moments.running.count == len(expected)
    for gaussian in found:
        np.testing.assert_allclose(gaussian.mean, expected.mean(axis=0))
        np.testing.assert_allclose(gaussian.covariance, np.cov(expected.T, bias=True), atol=1e-9)
        pooled = tuple(a + 1 for a in range(len(shape)) if a in axes or outer[a] < shape[a])
        for limit, pick in ((gaussian.low, np.min), (gaussian.high, np.max)):
            kept = pick(data, axis=(0, *pooled), keepdims=True)[0]
            np.testing.assert_array_equal(limit, np.broadcast_to(kept, outer).reshape(-1))


def test_every_so_manieth_position():
    data = correlated(5, 9, 8, 1)
    moments = PatchMoments(Arrangement(0, (9, 8, 1), (0, 1), False), (3, 3, 1), 4)
    moments.add(data)
    rows = [data[i, r : r + 3, c : c + 3].reshape(-1) for i in range(5) for r in (0, 4, 6) for c in (0, 4, 5)]
    np.testing.assert_allclose(moments.gaussian().covariance, np.cov(np.array(rows).T, bias=True), atol=1e-12)
    model = classifier((9, 8, 1))
    thin = PredictionDifference(model, inner=1, outer=3).fit(data, stride=4)
    np.testing.assert_allclose(thin.gaussians_[0].covariance, moments.gaussian().covariance)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_conditionals(data):
    """Against the dense formula, for every place of the inner patch."""
    outer = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    inner = tuple(data.draw(st.integers(1, o)) for o in outer)
    offset = tuple(data.draw(st.integers(0, o - i)) for o, i in zip(outer, inner, strict=True))
    m, rng = int(np.prod(outer)), np.random.default_rng(data.draw(st.integers(0, 99)))
    factor = rng.normal(size=(m, m)) * np.exp(rng.normal(size=(m, 1)) * 2)
    mean, wide = rng.normal(size=m), np.full(m, np.inf)
    gaussian = PatchGaussian(outer, mean, factor @ factor.T, -wide, wide)
    patches = rng.normal(size=(3, m))
    given_ = gaussian.conditional(inner, offset)
    inside = np.zeros(outer, bool)
    inside[tuple(slice(o, o + i) for o, i in zip(offset, inner, strict=True))] = True
    own = np.flatnonzero(inside)
    np.testing.assert_array_equal(given_.own, own)
    middle, where = gaussian.draw(patches, inner, offset, np.zeros((3, len(own))))
    np.testing.assert_array_equal(where, own)
    for patch, found in zip(patches, middle, strict=True):
        expected, covariance = dense_conditional(mean, factor @ factor.T, own, patch)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(factor).max())
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((given_.root @ given_.root.T) / np.outer(spread, spread),
                               covariance / np.outer(spread, spread), atol=1e-4)  # fmt: skip
    normal = rng.normal(size=(3, len(own)))
    np.testing.assert_allclose(gaussian.draw(patches, inner, offset, normal)[0], middle + normal @ given_.root.T)


def test_draws_stay_in_the_range_and_constant_columns_stay_constant():
    data = np.concatenate([correlated(50, 3), np.full((50, 1), 7.0)], axis=1)
    moments = PatchMoments(Arrangement(0, (4,), (), False), (4,), 1)
    moments.add(data)
    gaussian, normal = moments.gaussian(), 50 * np.random.default_rng(0).normal(size=(20, 1))
    for column in range(4):
        drawn = gaussian.draw(data[:20], (1,), (column,), normal)[0]
        assert drawn.min() == data[:, column].min() and drawn.max() == data[:, column].max()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_outer_windows_lie_inside_and_around(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    outer = tuple(data.draw(st.integers(1, n)) for n in shape)
    inner = tuple(data.draw(st.integers(1, o)) for o in outer)
    parts = windows(Arrangement(0, shape, (), False), inner, (1,) * len(shape))
    which = np.arange(parts.count)
    corners, offsets = surroundings(parts, outer, which)
    np.testing.assert_array_equal(corners + offsets, parts.corners(which))
    assert (corners >= 0).all() and (corners + np.array(outer) <= np.array(shape)).all()
    assert (offsets >= 0).all() and (offsets + np.array(inner) <= np.array(outer)).all()
    centred = (np.array(outer) - np.array(inner)) // 2
    free = (corners > 0) & (corners + np.array(outer) < np.array(shape))
    assert (offsets == centred)[free].all()
    numbers = np.arange(np.prod(shape)).reshape(shape)
    for corner, found in zip(corners, components(shape, corners, outer), strict=True):
        block = numbers[tuple(slice(c, c + o) for c, o in zip(corner, outer, strict=True))]
        np.testing.assert_array_equal(found, block.reshape(-1))


def test_too_few_patches_are_told():
    """24 patches can't tell how 50 components vary: draws would repeat what was seen."""
    model = classifier((6, 6, 2))
    with pytest.warns(UserWarning, match=r"24 patches.*50.*input 0.*outer"):
        PredictionDifference(model, outer=5).fit(correlated(6, 6, 6, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PredictionDifference(model, outer=5).fit(correlated(13, 6, 6, 2))


# --- fit and refusals --------------------------------------------------------------------------------------------


def test_fit_takes_any_data_and_keeps_state():
    model, data, x = classifier((6, 5, 2)), correlated(20, 6, 5, 2), correlated(2, 6, 5, 2, seed=1)
    make = lambda: PredictionDifference(model, inner=2, outer=3, samples=2)
    analyzer = make()
    assert analyzer.fit(data) is analyzer and analyzer.is_fitted() and analyzer.trained_ == 20
    expected = analyzer.analyze(x)
    for other in ((data[i : i + 7] for i in range(0, 20, 7)), tf.data.Dataset.from_tensor_slices(data).batch(6)):
        close(make().fit(other).analyze(x), expected, 1e-8)
    again = make()
    again.set_state(analyzer.state())
    np.testing.assert_array_equal(again.analyze(x), expected)
    assert make().state() == {}


def test_free_sizes():
    """Learnt on one size, explained on another; not on images smaller than the patches."""
    sample = zoo.make("free_size", "float64")
    analyzer = PredictionDifference(sample.model, outer=5, samples=2).fit(correlated(20, 8, 9, 2))
    assert analyzer.analyze(correlated(2, 6, 5, 2)).shape == (2, 6, 5, 2)
    with pytest.raises(InvalidInputError, match=r"\(4, 5, 2\).*outer"):
        analyzer.analyze(correlated(2, 4, 5, 2))
    with pytest.raises(InvalidInputError, match="smaller than outer"):
        analyzer.fit(iter([correlated(2, 8, 9, 2), correlated(2, 4, 5, 2)]))
    assert analyzer.trained_ == 20


BAD = {
    "inner": ((6, 6, 1), {"inner": 7}, ["inner=7", r"\(6, 6, 1\)"]),
    "outer": ((6, 6, 1), {"outer": (3, 7)}, ["outer", "7"]),
    "outer in inner": ((6, 6, 1), {"inner": 3, "outer": 2}, ["outer", "smaller than inner"]),
    "gaps": ((6, 6, 1), {"inner": 2, "stride": 3}, ["stride", "gaps"]),
    "table": ((6,), {"outer": 3}, ["outer=3", "table"]),
    "samples": ((6,), {"samples": 0}, ["samples"]),
    "evidence": ((6,), {"evidence": "yes"}, ["evidence"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_refusals_when_it_is_built(bad):
    shape, params, words = BAD[bad]
    with pytest.raises(InvalidInputError) as caught:
        PredictionDifference(classifier(shape), **params)
    for word in words:
        assert caught.match(word)


def test_refusals():
    model, data = classifier((6,)), correlated(9, 6)
    with pytest.raises(NotFittedError, match="fit"):
        PredictionDifference(model).analyze(data)
    with pytest.raises(UnsupportedModelError, match="tokens"):
        PredictionDifference(zoo.make("tokens").model)
    with pytest.raises(InvalidInputError, match=r"evidence=True.*classes"):
        PredictionDifference(classifier((6,), None, classes=1), evidence=True)
    with pytest.raises(InvalidInputError, match=r"evidence=True.*single"):
        PredictionDifference(model, evidence=True).fit(data).analyze(data, "all")
    analyzer = PredictionDifference(model)
    for bad, word in ((np.full((3, 6), np.nan), "NaN"), (np.zeros((0, 6)), "empty"), (np.zeros((3, 5)), "5")):
        with pytest.raises(InvalidInputError, match=word):
            analyzer.fit(bad)
    for argument in ("stride", "batch_size"):
        with pytest.raises(InvalidInputError, match=argument):
            analyzer.fit(data, **{argument: 0})
    assert not analyzer.is_fitted()
    wide = keras.Sequential([keras.Input((5000,)), layers.Dense(2)])
    with pytest.raises(InvalidInputError, match="5000 x 5000"):
        PredictionDifference(wide).fit(np.zeros((2, 5000)))
