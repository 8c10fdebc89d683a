"""Measures of how much two maps agree: against scikit-image, scipy, plain loops, and what must hold of any maps."""

import doctest
import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import robustness
from innv_ext.evaluation.robustness import robustness_metrics

fast = settings(max_examples=30, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))
METRICS = ("distance", "top_k", "ssim", "rank_correlation")


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=shape)


def twin(a, b, k):
    """One pair of maps without ties: distance, share of common top k, Spearman."""
    a, b = a.ravel(), b.ravel()
    distance = np.sqrt(sum((p / np.sqrt(sum(a**2)) - q / np.sqrt(sum(b**2))) ** 2 for p, q in zip(a, b, strict=True)))
    top = [set(sorted(range(len(m)), key=lambda i, m=m: -abs(m[i]))[:k]) for m in (a, b)]
    return distance, len(top[0] & top[1]) / k, spearmanr(a, b).statistic


@pytest.mark.parametrize("shape", [(4, 11), (3, 9, 2), (3, 8, 9), (3, 8, 9, 3), (2, 7, 8, 7, 1)])
def test_against_loops(shape):
    a, b = pair(shape)
    found = robustness_metrics(a, b, k=5)
    expected = np.array([twin(p, q, 5) for p, q in zip(a, b, strict=True)]).T
    for name, values in zip(("distance", "top_k", "rank_correlation"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-12, atol=1e-14)
    assert found.k == 5 and found.ssim.shape == shape[:1]


@pytest.mark.parametrize(
    ("shape", "axis", "window"),
    [
        ((3, 8, 9, 3), -1, 7),
        ((3, 3, 8, 9), 1, 7),
        ((3, 8, 9), None, 7),
        ((3, 12, 2), -1, 7),
        ((3, 2, 12), 1, 7),
        ((3, 6, 9, 1), -1, 5),
        ((2, 4, 9, 1), -1, 3),
        ((2, 7, 7, 8, 2), -1, 7),
        ((4, 11), -1, 7),
        ((4, 11), None, 7),
    ],
)
def test_ssim_equals_scikit_image(shape, axis, window):
    a, b = pair(shape, 1)
    found = robustness_metrics(3 * a, 0.01 * b, channel_axis=axis).ssim
    channels = None if axis is None or len(shape) < 3 else (axis - 1 if axis > 0 else axis)
    for i in range(len(a)):
        x, y = a[i] / np.abs(a[i]).max(), b[i] / np.abs(b[i]).max()
        expected = structural_similarity(x, y, data_range=2, win_size=window, channel_axis=channels)
        assert found[i] == pytest.approx(expected, abs=1e-12)


def test_channels_first_equals_channels_last():
    a, b = pair((3, 8, 9, 2), 2)
    last = robustness_metrics(a, b)
    first = robustness_metrics(np.moveaxis(a, -1, 1), np.moveaxis(b, -1, 1), channel_axis=1)
    for name in METRICS:
        np.testing.assert_allclose(getattr(first, name), getattr(last, name), rtol=1e-12)


def test_the_mean_over_channels_is_what_each_channel_gives():
    a, b = pair((2, 8, 8, 3), 3)
    a, b = a / np.abs(a).max(axis=(1, 2, 3), keepdims=True), b / np.abs(b).max(axis=(1, 2, 3), keepdims=True)
    single = [[structural_similarity(a[i, ..., c], b[i, ..., c], data_range=2) for c in range(3)] for i in range(2)]
    np.testing.assert_allclose(robustness_metrics(a, b).ssim, np.mean(single, axis=1), rtol=1e-12)


SMALL = [(1, 1), (1, 2), (1, 1, 1), (2, 2, 2, 1), (1, 1, 5, 3), (2, 3, 1, 2), (1, 2, 2, 2, 1)]


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("kinds", list(itertools.product(("zero", "constant", "any"), repeat=2)), ids="-".join)
def test_constant_maps_and_tiny_shapes_have_results(shape, kinds):
    made = {"zero": np.zeros(shape), "constant": np.full(shape, -2.5), "any": pair(shape, 4)[0]}
    found = robustness_metrics(*(made[kind] for kind in kinds), k=1)
    for name in METRICS:
        assert np.isfinite(getattr(found, name)).all()
    if kinds[0] == kinds[1]:
        assert_equal_maps(found)


def assert_equal_maps(found):
    np.testing.assert_allclose(found.distance, 0, atol=1e-12)
    np.testing.assert_allclose(found.top_k, 1, rtol=1e-12)
    np.testing.assert_allclose(found.ssim, 1, rtol=1e-12)
    np.testing.assert_allclose(found.rank_correlation, 1, rtol=1e-12)


def test_results_of_constant_maps():
    zero, flat, other = np.zeros((1, 4)), np.full((1, 4), 3.0), np.array([[4.0, 3.0, 0.0, 0.0]])
    found = robustness_metrics(zero, other, k=2)
    assert found.distance == [1.0] and found.rank_correlation == [0.0]
    assert found.top_k == [0.5]  # each of the four tied zeros is half in the top 2
    assert robustness_metrics(flat, -flat, k=2).distance == [2.0]
    assert robustness_metrics(flat, zero, k=2).rank_correlation == [1.0]


def test_ties_share_the_last_places():
    a, b = np.array([[9.0, 1.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(robustness.top_weights(a, 2), [[1, 1 / 3, 1 / 3, 1 / 3, 0]])
    np.testing.assert_allclose(robustness_metrics(a, b, k=2).top_k, [1 / 3 / 2])
    np.testing.assert_allclose(robustness.top_weights(-a, 4), [[1, 1, 1, 1, 0]])


maps = st.integers(0, 10**6).map(lambda s: pair((2, 5, 6, 1), s)[0].round(s % 3))


@fast
@given(maps, maps, st.floats(1e-3, 1e3), st.integers(1, 30))
def test_properties(a, b, factor, k):
    found, turned = robustness_metrics(a, b, k=k), robustness_metrics(b, a, k=k)
    scaled = robustness_metrics(factor * a, b / factor, k=k)
    for name in METRICS:
        np.testing.assert_allclose(getattr(found, name), getattr(turned, name), atol=1e-9)
        np.testing.assert_allclose(getattr(scaled, name), getattr(found, name), atol=1e-9)
    assert ((found.distance >= 0) & (found.distance <= 2 + 1e-12)).all()
    assert ((found.top_k >= 0) & (found.top_k <= 1 + 1e-12)).all()
    assert (np.abs(found.rank_correlation) <= 1).all() and (found.ssim <= 1 + 1e-12).all()
    assert_equal_maps(robustness_metrics(a, factor * a, k=k))
    np.testing.assert_allclose(robustness.top_weights(a.reshape(2, -1), k).sum(axis=1), k, rtol=1e-12)


@pytest.mark.parametrize(("k", "count"), [(0.1, 4), (0.001, 1), (0.5, 20), (40, 40), (1, 1), (np.int64(3), 3)])
def test_k_is_a_number_or_a_share(k, count):
    a, b = pair((2, 40), 5)
    found = robustness_metrics(a, b, k=k)
    assert found.k == count
    np.testing.assert_array_equal(found.top_k, robustness_metrics(a, b, k=count).top_k)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_extreme_scales_and_other_dtypes(size):
    a, b = pair((2, 6, 6), 6)
    expected = robustness_metrics(a, b, channel_axis=None)
    found = robustness_metrics(a * size, b, channel_axis=None)
    for name in METRICS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)
    whole = (100 * a).astype("int16")
    assert_equal_maps(robustness_metrics(whole, whole.astype("float32"), channel_axis=None))


def test_inputs_are_left_alone():
    a, b = pair((2, 6, 6, 1), 7)
    kept = a.copy(), b.copy()
    for array in (a, b):
        array.flags.writeable = False
    robustness_metrics(a, b)
    assert np.array_equal(a, kept[0]) and np.array_equal(b, kept[1])


def test_result_as_data():
    a, b = pair((3, 8), 8)
    found = robustness_metrics(a, b, k=2)
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["k"] == 2 and stored["distance"] == found.distance.tolist() and set(stored) == {*METRICS, "k"}
    assert found.statistics()["ssim"].mean == pytest.approx(found.ssim.mean())
    assert "3 samples" in repr(found) and f"{found.distance.mean():.4g}" in repr(found)


A = np.ones((2, 4, 4, 1))
BAD = {
    "shapes": ((A, A[:1]), {}, "shape"),
    "empty": ((A[:0], A[:0]), {}, "at least one"),
    "no batch": ((np.ones(3), np.ones(3)), {}, "batch"),
    "nan": ((A, np.where(np.arange(2)[:, None, None, None] == 1, np.nan, A)), {}, "first: 1"),
    "infinite": ((A * np.inf, A), {}, "first: 0"),
    "text": (("abc", A), {}, "real numbers"),
    "complex": ((A * 1j, A), {}, "complex"),
    "ragged": (([[1.0], [1.0, 2.0]], A), {}, "real numbers"),
    "k too large": ((A, A), {"k": 17}, "1..16"),
    "k zero": ((A, A), {"k": 0}, "got 0"),
    "k of 1.0": ((A, A), {"k": 1.0}, "share"),
    "k bool": ((A, A), {"k": True}, "True"),
    "k text": ((A, A), {"k": "all"}, "'all'"),
    "k nan": ((A, A), {"k": float("nan")}, "nan"),
    "axis": ((A, A), {"channel_axis": 2}, "channel_axis"),
    "axis text": ((A, A), {"channel_axis": "last"}, "channel_axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arrays, options, message = BAD[case]
    with pytest.raises(InvalidInputError, match=message):
        robustness_metrics(*arrays, **options)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(InvalidInputError, match="pip install"):
        robustness_metrics(A, A)


def test_examples():
    assert doctest.testmod(robustness).failed == 0 and doctest.testmod(robustness).attempted > 0


def test_the_picture_has_every_sample_and_the_means(tmp_path):
    a, b = np.random.default_rng(0).normal(size=(2, 5, 6, 6, 1))
    found = robustness_metrics(a, b, k=4)
    figure = found.plot(path=tmp_path / "metrics.png")
    assert (tmp_path / "metrics.png").stat().st_size > 1000
    (panel,) = figure.axes
    drawn = {line.get_label(): line.get_xdata() for line in panel.lines}
    for name, values in found.values.items():
        np.testing.assert_array_equal(drawn[name], values)
    means = {c.get_label(): c.lines[0].get_xdata()[0] for c in panel.containers}
    assert means == pytest.approx({f"mean {name}": values.mean() for name, values in found.values.items()})
    assert panel.get_yticklabels()[1].get_text() == "top 4 in common (1: equal)"
    assert found.plot(ax=panel) is figure
    assert robustness_metrics(a[:1], b[:1]).plot().axes
    with pytest.raises(InvalidInputError, match="ax must be"):
        found.plot(ax=3)
