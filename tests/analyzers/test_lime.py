"""LIME against a loop over masks and the normal equations; the segments that it switches on and off."""

import sys

import keras
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from skimage.segmentation import slic

from innv_ext.analyzers.parts import partition
from innv_ext.analyzers.parts.partition import Partition, grid, labels_of
from innv_ext.analyzers.prediction.lime import Lime
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError

IMAGE = Arrangement(0, (6, 6, 2), (0, 1), False)


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def weighted_ridge(z, y, weights, alpha):
    """Coefficients and intercept by the normal equations; the intercept is not penalised."""
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    penalty = alpha * np.diag([1.0] * z.shape[1] + [0.0])
    found = np.linalg.solve(design.T @ (weights[:, None] * design) + penalty, design.T @ (weights * y))
    return found[:-1], found[-1]


def cosine_weights(z, width):
    """As the authors' code has it: the root of exp(-d^2 / width^2) with the cosine distance to the first mask."""
    found = []
    for row in z.astype(float):
        norm = np.sqrt(row @ row) * np.sqrt(len(row))
        distance = 1 - row.sum() / norm if norm else 1.0
        found.append(np.sqrt(np.exp(-(distance**2) / width**2)))
    return np.array(found)


def by_hand(score, x, labels, fill, masks, width=0.25, alpha=1.0, best=None):
    """One sample x (...): map, r2 and intercept, mask by mask."""
    y = []
    for mask in masks:
        changed = x.copy()
        for segment, on in enumerate(mask):
            if not on:
                changed[labels == segment] = fill[labels == segment]
        y.append(score(changed[None])[0])
    y, z, weights = np.array(y), masks.astype(float), cosine_weights(masks, width)
    coefficients, intercept = weighted_ridge(z, y, weights, alpha)
    if best is not None:
        chosen = sorted(range(z.shape[1]), key=lambda k: -abs(coefficients[k]))[:best]
        some, intercept = weighted_ridge(z[:, chosen], y, weights, alpha)
        coefficients = np.zeros(z.shape[1])
        coefficients[chosen] = some
    fitted = z @ coefficients + intercept
    mean = np.average(y, weights=weights)
    r2 = 1 - np.sum(weights * (y - fitted) ** 2) / np.sum(weights * (y - mean) ** 2)
    return coefficients[labels], r2, intercept


def probability(model, index):
    return lambda x: np.asarray(model(x))[:, index]


def blocks(shape, n):
    """Labels 0..n-1 in runs over the flat pixels, the same in all channels."""
    pixels = int(np.prod(shape[:-1]))
    return np.broadcast_to((np.arange(pixels) * n // pixels).reshape(*shape[:-1], 1), shape)


# --- against the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"kernel_width": 1.0, "alpha": 0.1}, {"num_features": 2}, {"samples": 6}])
def test_the_loop(params):
    sample = zoo.make("convnet", "float64")
    x, labels = sample.inputs(3), blocks((6, 6, 2), 5)
    analyzer = Lime(sample.model, segments=labels[..., 0], on="output", **{"samples": 40, **params})
    found, masks = analyzer.explain(x, [2, 0, 1]), analyzer.masks(5)
    for i, index in enumerate([2, 0, 1]):
        fill = np.broadcast_to(x[i].mean(axis=(0, 1)), x[i].shape)
        options = (params.get("kernel_width", 0.25), params.get("alpha", 1.0), params.get("num_features"))
        expected, r2, intercept = by_hand(probability(sample.model, index), x[i], labels, fill, masks, *options)
        close(found.attribution[i], expected, 1e-8)
        close(found.extras["r2"][i], r2, 1e-8)
        close(found.extras["intercept"][i], intercept, 1e-8)
    np.testing.assert_array_equal(found.extras["segments"], np.broadcast_to(labels, x.shape))


def test_tables_and_tokens():
    table, tokens = zoo.make("mlp", "float64"), zoo.make("tokens", "float64")
    for sample, fill in ((table, 0.3), (tokens, 4)):
        x = sample.inputs(2)
        analyzer = Lime(sample.model, samples=30, reference=fill, on="output")
        found, masks = analyzer.analyze(x, 1), analyzer.masks(6)
        for one, map_ in zip(x, found, strict=True):
            expected = by_hand(probability(sample.model, 1), one, np.arange(6), np.full(6, fill), masks)[0]
            close(map_, expected, 1e-8 if x.dtype == np.float64 else 1e-6)


def test_several_inputs_are_numbered_on():
    sample = zoo.make("two_inputs", "float64")
    image, table = sample.inputs(2)
    analyzer = Lime(sample.model, samples=40, segments=[blocks((6, 6, 1), 3), None], on="output")
    found, masks = analyzer.explain([image, table], 1), analyzer.masks(7)
    both = np.concatenate([blocks((6, 6, 1), 3).reshape(-1), 3 + np.arange(4)])
    for i in range(2):
        flat = np.concatenate([image[i].reshape(-1), table[i]])
        fill = np.concatenate([np.full(36, image[i].mean()), np.zeros(4)])

        def score(f):
            return np.asarray(sample.model([f[:, :36].reshape(-1, 6, 6, 1), f[:, 36:]]))[:, 1]

        expected = by_hand(score, flat, both, fill, masks)[0]
        close(found.attribution[0][i].reshape(-1), expected[:36], 1e-8)
        close(found.attribution[1][i], expected[36:], 1e-8)
    assert [s.shape for s in found.extras["segments"]] == [(2, 6, 6, 1), (2, 4)]
    np.testing.assert_array_equal(found.extras["segments"][1], [[3, 4, 5, 6]] * 2)


def test_linear_models_have_linear_local_models():
    """Without a penalty: what a segment adds to the score, a perfect fit, and the score without x as intercept."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(2)])
    zoo.randomise(net)
    w = net.get_weights()[0].reshape(4, 4, 2, 2)
    x, labels = np.random.default_rng(0).normal(size=(2, 4, 4, 2)), blocks((4, 4, 2), 4)
    found = Lime(net, segments=labels, reference=0.5, alpha=0.0, samples=60).explain(x, 1)
    share = w[..., 1] * (x - 0.5)
    expected = np.stack([[s[labels == k].sum() for k in range(4)] for s in share])
    close(found.attribution, expected[:, labels], 1e-8)
    close(found.extras["r2"], np.ones(2))
    close(found.extras["intercept"], np.asarray(net(np.full((2, 4, 4, 2), 0.5)))[:, 1], 1e-8)


def test_masks():
    sample = zoo.make("mlp")
    masks = Lime(sample.model, samples=4000).masks(6)
    assert masks.shape == (4000, 6) and masks[0].all()
    np.testing.assert_allclose(masks[1:].mean(axis=0), 0.5, atol=0.05)
    assert len(np.unique(masks, axis=0)) == 64
    np.testing.assert_array_equal(masks, Lime(sample.model, samples=4000).masks(6))
    assert (masks != Lime(sample.model, samples=4000, seed=1).masks(6)).any()


# --- segments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_superpixels_are_those_of_scikit_image(channels):
    """Each image has its own; the numbers of segments differ, and a map doesn't depend on its batch."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((12, 10, channels)), layers.Conv2D(3, 3, activation="relu"),
                                layers.GlobalAveragePooling2D(), layers.Dense(2)])  # fmt: skip
    zoo.randomise(net)
    rows, columns = np.mgrid[:12, :10]
    x = np.stack([np.sin(rows / k)[..., None] + np.cos(columns)[..., None] * np.arange(1, channels + 1)
                  for k in (0.5, 1.0, 5.0)])  # fmt: skip
    analyzer = Lime(net, n_segments=9, samples=20)
    found = analyzer.explain(x, 0)
    for one, labels in zip(x, found.extras["segments"], strict=True):
        scaled = (one - one.min()) / (one.max() - one.min())
        options = {"compactness": 20.0} if channels == 3 else {"compactness": 0.2, "convert2lab": False}
        expected = slic(scaled, n_segments=9, channel_axis=-1, start_label=0, **options)
        np.testing.assert_array_equal(labels, np.broadcast_to(expected[..., None], one.shape))
    counts = found.extras["segments"].reshape(3, -1).max(axis=1)
    assert len(set(counts)) > 1 and counts.min() >= 1
    close(found.attribution, np.concatenate([analyzer.analyze(one[None], 0) for one in x]))


def test_superpixels_of_channels_first():
    first, last = Arrangement(0, (2, 6, 6), (1, 2), False), IMAGE
    x = np.random.default_rng(0).normal(size=(6, 6, 2)).cumsum(axis=0)
    found = partition.slic(np.moveaxis(x, -1, 0), first, 5)[0, 0], partition.slic(x, last, 5)[0, ..., 0]
    np.testing.assert_array_equal(*found)


def test_a_single_superpixel_is_told():
    """Two plain halves, and a chequered board, in which no region is large enough."""
    sample = zoo.make("convnet")
    plain = np.repeat([0.0, 1.0], 18).reshape(1, 6, 6, 1) * np.ones(2)
    board = (np.indices((6, 6)).sum(axis=0) % 2)[None, ..., None] * np.ones(2)
    analyzer = Lime(sample.model, n_segments=4, samples=8)
    with pytest.warns(UserWarning, match=r"single superpixel in 1 of 2 images \(first: 1\).*grid"):
        found = analyzer.analyze(np.concatenate([plain, board]))
    assert len(np.unique(found[0])) > 1 and len(np.unique(found[1])) == 1


def test_a_function_makes_the_segments_of_each_sample():
    """Labels of any numbers, with or without channels; the function may scribble over its copy."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(4)

    def halves(one):
        labels = np.where(one[..., 0] > np.median(one[..., 0]), 7, -2)
        one[:] = 0
        return labels

    found = Lime(sample.model, segments=halves, samples=8).explain(x)
    expected = (x[..., :1] > np.median(x[..., 0], axis=(1, 2), keepdims=True)[..., None]) * np.ones((1, 1, 1, 2))
    np.testing.assert_array_equal(found.extras["segments"], expected)
    assert all(len(np.unique(map_)) == 2 for map_ in found.attribution)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 60))
def test_grids(sides, count):
    """Blocks are runs along each axis, in proportion; there are about as many as asked for."""
    one = Arrangement(0, (*sides, 2), tuple(range(len(sides))), False)
    (label,), per_axis = grid(one, count), max(1, round(count ** (1 / len(sides))))
    label = np.broadcast_to(label, (*sides, 1))
    used = [min(per_axis, side) for side in sides]
    assert label.shape == (*sides, 1) and len(np.unique(label)) == np.prod(used) == label.max() + 1
    for place in np.ndindex(*sides):
        number = 0
        for at, blocks_, side in zip(place, used, sides, strict=True):
            number = number * blocks_ + at * blocks_ // side
        assert label[place][0] == number


def test_grids_of_pixels_and_components():
    np.testing.assert_array_equal(labels_of("pixel", IMAGE, "a"), np.arange(36).reshape(1, 6, 6, 1))
    np.testing.assert_array_equal(labels_of("component", IMAGE, "a"), np.arange(72).reshape(1, 6, 6, 2))
    table, tokens = Arrangement(0, (6,), (), False), Arrangement(0, (6,), (0,), True)
    for one in (table, tokens):
        np.testing.assert_array_equal(labels_of("component", one, "a"), [np.arange(6)])
        np.testing.assert_array_equal(grid(one, 3), [[0, 0, 1, 1, 2, 2]])
    signal = Arrangement(0, (2, 3), (1,), False)
    np.testing.assert_array_equal(labels_of("component", signal, "a"), np.arange(6).reshape(1, 2, 3))


def test_the_default_depends_on_the_input():
    """Superpixels, blocks, tokens, columns."""
    expected = {"signal": 12, "mlp": 6, "tokens": 6, "volume": 64}
    for name, count in expected.items():
        sample = zoo.make(name)
        found = Lime(sample.model, samples=5).explain(sample.inputs(1))
        assert found.extras["segments"].max() + 1 == count, name
    sample = zoo.make("convnet")
    image = np.repeat(np.repeat(np.arange(4.0).reshape(2, 2), 3, 0), 3, 1)[None, ..., None] * np.ones((1, 1, 1, 2))
    labels = Lime(sample.model, samples=5, n_segments=4).explain(image).extras["segments"][0, ..., 0]
    np.testing.assert_array_equal(labels, image[0, ..., 0])


def test_segments_with_channels_in_parts():
    """Sizes, values and masks, with labels per sample and shared ones, against a loop."""
    rng = np.random.default_rng(0)
    shared, own = rng.permutation(np.arange(6) % 4).reshape(1, 3, 2), rng.integers(0, 3, (2, 4, 1))
    own[0, :3, 0], own[1, :3, 0] = range(3), (0, 1, 0)
    own[1] = np.minimum(own[1], 1)
    inputs = Arrangement(0, (3, 2), (0,), False), Arrangement(1, (4, 5), (0,), False)
    segments = Partition(inputs, (shared, own + 4), np.array([7, 6]))
    values = rng.normal(size=(2, 7))
    sizes, maps, here = segments.sizes(), segments.maps(values), [np.ones((2, 3, 2)), np.ones((2, 4, 5))]
    mixed = segments.mixed(here, [0 * one for one in here], values > 0, np.array([1, 0]))
    for i in range(2):
        full = [np.broadcast_to(shared[0], (3, 2)), np.broadcast_to(own[i] + 4, (4, 5))]
        expected = [sum(int((f == k).sum()) for f in full) for k in range(7)]
        assert sizes[i].tolist() == expected
        for f, m, k in zip(full, maps, mixed, strict=True):
            np.testing.assert_array_equal(m[i], values[i][f])
            np.testing.assert_array_equal(k[1 - i], values[1 - i][f] > 0)
    rows, alike = segments.alike(6)
    assert rows.tolist() == [1]
    np.testing.assert_array_equal(alike.maps(values[1:])[1][0], maps[1][1])


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (6, 6, 2)])
def test_labels_fit_with_and_without_channels(shape):
    labels = np.arange(np.prod(shape)).reshape(shape)
    (found,) = labels_of(3 * labels - 4, IMAGE, "segments")
    assert found.ndim == 3 and found.min() == 0
    np.testing.assert_array_equal(found, labels.reshape(found.shape))
    if shape == (6, 6):
        grey = Arrangement(0, (6, 6, 1), (0, 1), False)
        np.testing.assert_array_equal(partition.partition(labels, [grey]).pictures()[0], labels.reshape(1, 6, 6, 1))


# --- refusals ----------------------------------------------------------------------------------------------------

BAD = {
    "shape of the labels": ("convnet", {"segments": np.zeros((5, 6), int)}, ["segments", r"\(5, 6\)", r"\(6, 6\)"]),
    "labels of a table": ("mlp", {"segments": np.zeros((5,), int)}, ["segments", r"\(5,\)"]),
    "fractions": ("convnet", {"segments": np.zeros((6, 6))}, ["integer", "float64"]),
    "unknown": ("convnet", {"segments": "felzenszwalb"}, ["segments", "slic", "felzenszwalb"]),
    "superpixels of a table": ("mlp", {"segments": "slic"}, ["slic", "grid"]),
    "superpixels of a signal": ("signal", {"segments": "slic"}, ["slic", "12, 2"]),
    "n_segments": ("convnet", {"n_segments": 0}, ["n_segments", "at least 1"]),
    "samples": ("mlp", {"samples": 0}, ["samples"]),
    "kernel_width": ("mlp", {"kernel_width": 0}, ["kernel_width", "positive"]),
    "alpha": ("mlp", {"alpha": -1}, ["alpha"]),
    "num_features": ("mlp", {"num_features": 0}, ["num_features"]),
    "reference": ("mlp", {"reference": np.zeros(5)}, ["reference", r"\(5,\)"]),
    "mean of a table": ("mlp", {"reference": "mean"}, ["mean", "table"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_refusals_when_it_is_built(bad):
    name, params, words = BAD[bad]
    with pytest.raises(InvalidInputError) as caught:
        Lime(zoo.make(name).model, **params)
    for word in words:
        assert caught.match(word)


def test_labels_of_a_function_are_checked():
    sample = zoo.make("convnet")
    with pytest.raises(InvalidInputError, match=r"\(3,\)"):
        Lime(sample.model, segments=lambda one: np.arange(3)).analyze(sample.inputs(1))


@pytest.mark.parametrize("package", ["sklearn", "skimage"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{package}.{'linear_model' if package == 'sklearn' else 'segmentation'}", None)
    name = {"sklearn": "scikit-learn", "skimage": "scikit-image"}[package]
    with pytest.raises(InvalidInputError, match=f"pip install {name}"):
        Lime(zoo.make("convnet").model)
    if package == "skimage":
        Lime(zoo.make("convnet").model, segments="grid")


def test_a_score_of_nan_is_named():
    sample = zoo.make("mlp_tanh")
    with pytest.raises(InvalidInputError, match="NaN"):
        Lime(sample.model, check_input=False).analyze(np.full((1, 6), np.nan))
