"""Occlusion against a loop over patches, closed forms of linear models, and the windows that it slides."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from scipy import ndimage

from innv_ext.analyzers.parts.replacement import ChannelMean
from innv_ext.analyzers.parts.windows import owned, windows
from innv_ext.analyzers.prediction.occlusion import Occlusion
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError, UnsupportedModelError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def starts(side, width, step):
    """Where windows start along one axis: every ``step``, and one that ends at the border."""
    found = [s for s in range(side) if s % step == 0 and s + width <= side]
    return found if found[-1] + width == side else [*found, side - width]


def by_hand(score, x, patch, stride, fill):
    """Patch by patch and component by component: the mean loss over the patches that cover it."""
    whole, total, cover = score(x), np.zeros(x.shape), np.zeros(x.shape)
    axes = [starts(*three) for three in zip(x.shape[1:], patch, stride, strict=True)]
    for corner in itertools.product(*axes):
        inside = (slice(None), *(slice(c, c + p) for c, p in zip(corner, patch, strict=True)))
        changed = x.copy()
        changed[inside] = np.broadcast_to(fill, x.shape)[inside]
        loss = whole - score(changed)
        total[inside] += loss.reshape(-1, *[1] * (x.ndim - 1))
        cover[inside] += 1
    return total / cover


def probability(model, index):
    return lambda x: np.asarray(model(x))[np.arange(len(index)), index]


# --- against the loop --------------------------------------------------------------------------------------------

CASES = {
    "default": ("convnet", {}, (1, 1, 2), (1, 1, 2), 0.0),
    "patch": ("convnet", {"patch": 3}, (3, 3, 2), (1, 1, 2), 0.0),
    "stride": ("convnet", {"patch": 4, "stride": 3, "reference": 0.7}, (4, 4, 2), (3, 3, 2), 0.7),
    "sides": ("convnet", {"patch": (4, 2), "stride": (2, 1)}, (4, 2, 2), (2, 1, 2), 0.0),
    "channels too": ("convnet", {"patch": (3, 2, 1), "stride": (2, 2, 1)}, (3, 2, 1), (2, 2, 1), 0.0),
    "channels, default stride": ("convnet", {"patch": (3, 2, 1), "stride": 2}, (3, 2, 1), (2, 2, 1), 0.0),
    "whole": ("convnet", {"patch": 6}, (6, 6, 2), (3, 3, 2), 0.0),
    "signal": ("signal", {}, (2, 2), (1, 2), 0.0),
    "long windows": ("signal", {"patch": 5, "stride": 4, "reference": -1.0}, (5, 2), (4, 2), -1.0),
    "table": ("mlp", {"reference": 0.5}, (1,), (1,), 0.5),
    "channels first": ("channels_first", {"patch": 2, "stride": 2}, (2, 2, 2), (2, 2, 2), 0.0),
    "volume": ("volume", {"patch": 2, "stride": 1}, (2, 2, 2, 1), (1, 1, 1, 1), 0.0),
    "free size": ("free_size", {"patch": 2}, (2, 2, 2), (1, 1, 2), 0.0),
    "pixels of integers": ("uint8", {"patch": 3, "stride": 3, "reference": 128}, (3, 3, 1), (3, 3, 1), 128),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loop(case):
    name, params, patch, stride, fill = CASES[case]
    dtype = "float32" if name in zoo.FLOAT32_ONLY else "float64"
    sample = zoo.make(name, dtype)
    x, index = sample.inputs(3), np.array([2, 0, 1])
    found = Occlusion(sample.model, on="output", **params).analyze(x, index)
    expected = by_hand(probability(sample.model, index), x, patch, stride, np.asarray(fill, x.dtype))
    assert found.shape == x.shape and found.dtype == ("float64" if dtype == "float64" else "float32")
    close(found, expected, 1e-9 if dtype == "float64" else 1e-4)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("reference", ["mean", "blur", "array", "batch"])
def test_references(reference):
    """The mean of each channel of each sample, x smoothed as much as the patch is wide, and arrays."""
    sample = zoo.make("convnet", "float64")
    x, index = sample.inputs(3), np.array([1, 1, 0])
    array = np.random.default_rng(3).normal(size=(6, 6, 2))
    given = {"array": array, "batch": array[None]}.get(reference, reference)
    if reference == "mean":
        fill = np.stack([[[one[..., c].mean() for c in range(2)]] for one in x])[:, None]
    elif reference == "blur":
        channels = [[ndimage.gaussian_filter(one[..., c], (3, 2), mode="nearest") for c in range(2)] for one in x]
        fill = np.moveaxis(np.array(channels), 1, -1)
    else:
        fill = array
    found = Occlusion(sample.model, on="output", patch=(3, 2), reference=given).analyze(x, index)
    close(found, by_hand(probability(sample.model, index), x, (3, 2, 2), (1, 1, 2), fill))


def test_each_channel_has_its_own_mean():
    x = np.stack([np.full((4, 5), 2.0), np.arange(20.0).reshape(4, 5)])[None]
    first, last = ChannelMean((1, 2)).of(x), ChannelMean((0, 1)).of(np.moveaxis(x, 1, -1))
    np.testing.assert_array_equal(first[0, :, 1, 1], [2.0, 9.5])
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)


def test_tokens_are_replaced_by_a_token():
    sample = zoo.make("tokens", "float64")
    x, index = sample.inputs(3), np.array([2, 0, 1])
    for token in (0, 5):
        found = Occlusion(sample.model, patch=2, reference=token).analyze(x, index)
        expected = by_hand(probability(sample.model, index), x, (2,), (1,), token)
        assert found.dtype == np.float32
        close(found, expected, 1e-6)


def test_several_inputs():
    """One input at a time; parameters for all, or one for each."""
    sample = zoo.make("two_inputs", "float64")
    (image, table), index = sample.inputs(3), np.array([2, 0, 1])
    params = {"patch": [3, None], "stride": [2, None], "reference": ["mean", 0.25]}
    found = Occlusion(sample.model, on="output", **params).analyze([image, table], index)
    fill = image.mean(axis=(1, 2, 3), keepdims=True)
    picture = by_hand(lambda a: probability(sample.model, index)([a, table]), image, (3, 3, 1), (2, 2, 1), fill)
    columns = by_hand(lambda t: probability(sample.model, index)([image, t]), table, (1,), (1,), 0.25)
    close(found[0], picture)
    close(found[1], columns)
    named = zoo.make("dict_inputs", "float64")
    x = {"image": image, "table": table}
    given = {"reference": {"table": 0.25, "image": "mean"}, "patch": 3}
    received = Occlusion(named.model, **given).analyze(x, index)
    again = Occlusion(named.model, reference=["mean", 0.25], patch=3).analyze(x, index)
    close(received["table"], again["table"])
    close(received["image"], again["image"])


def linear(shape, classes=2):
    rng = np.random.default_rng(0)
    net = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes)])
    net.set_weights([rng.normal(size=w.shape) for w in net.get_weights()])
    return net, net.get_weights()[0].reshape(*shape, classes)


def test_linear_models_lose_what_the_patch_contributes():
    """Without overlap a patch's relevance is the sum of w (x - reference) in it, at each of its components."""
    with zoo.precision("float64"):
        net, w = linear((6, 4, 3))
    x = np.random.default_rng(1).normal(size=(2, 6, 4, 3))
    found = Occlusion(net, patch=2, stride=2, reference=0.5).analyze(x, 1)
    parts = (w[..., 1] * (x - 0.5)).reshape(2, 3, 2, 2, 2, 3).sum(axis=(2, 4, 5))
    close(found, np.broadcast_to(parts.repeat(2, 1).repeat(2, 2)[..., None], x.shape), 1e-8)
    table, w = linear((5,))
    x = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")
    close(Occlusion(table).analyze(x, 0), w[:, 0] * x, 1e-5)


def test_a_reference_equal_to_x_changes_nothing():
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(1)
    np.testing.assert_allclose(Occlusion(sample.model, reference=x[0], patch=2).analyze(x), 0, atol=1e-12)


def test_scores_of_all_outputs_and_functions():
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(2)
    one_by_one = sum(Occlusion(sample.model, patch=2).analyze(x, i) for i in range(3))
    close(Occlusion(sample.model, patch=2).analyze(x, "all"), one_by_one, 1e-8)
    squared = Occlusion(sample.model, patch=2, on="output", neuron_selection_mode=lambda y: y[:, 1] ** 2)
    close(squared.analyze(x), by_hand(lambda a: np.asarray(sample.model(a))[:, 1] ** 2, x, (2, 2, 2), (1, 1, 2), 0.0))


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_batches_are_full_and_bounded(size):
    """3 samples x 25 patches in as few passes as possible."""
    sample, seen = zoo.make("convnet"), []
    x = sample.inputs(3)
    expected = Occlusion(sample.model, patch=2).analyze(x)
    analyzer = Occlusion(sample.model, patch=2, batch_size=size, progress=False)
    score = analyzer.score
    analyzer.score = lambda mode: lambda *arrays: (seen.append(len(arrays[0])), score(mode)(*arrays))[1]
    close(analyzer.analyze(x), expected, 1e-4)
    groups = [min(size, 3 - i) for i in range(0, 3, size)]  # samples that come together
    assert seen == [min(size, 25 * g - i) for g in groups for i in range(0, 25 * g, size)]


# --- windows -----------------------------------------------------------------------------------------------------

sides = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sides, st.integers(0, 99))
def test_windows_cover_everything(rows, seed):
    """Every window lies inside, every component is covered, and averages are those of a loop."""
    shape = tuple(max(r[0], r[1]) for r in rows)
    size = tuple(min(r[0], r[1]) for r in rows)
    stride = tuple(min(r[2], s) for r, s in zip(rows, size, strict=True))
    part = windows(Arrangement(0, shape, tuple(range(len(shape))), False), size, stride)
    corners = list(itertools.product(*(starts(*three) for three in zip(shape, size, stride, strict=True))))
    assert part.count == len(corners)
    np.testing.assert_array_equal(part.corners(np.arange(part.count)), corners)
    values = np.random.default_rng(seed).normal(size=(2, part.count))
    total, cover = np.zeros((2, *shape)), np.zeros(shape)
    masks = part.mask(np.arange(part.count))
    for i, corner in enumerate(corners):
        inside = np.zeros(shape, bool)
        inside[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
        np.testing.assert_array_equal(masks[i], inside)
        total += values[:, i].reshape(2, *[1] * len(shape)) * inside
        cover += inside
    assert cover.min() >= 1
    np.testing.assert_allclose(part.average(values), total / cover, atol=1e-12)


def test_windows_are_numbered_over_all_inputs():
    parts = [windows(Arrangement(i, (n,), (0,), False), (1,), (1,)) for i, n in enumerate((3, 2, 4))]
    found = owned(parts, np.array([8, 0, 3, 4, 2, 5]))
    assert [(p.tolist(), n.tolist()) for p, n in found] == [([1, 4], [0, 2]), ([2, 3], [0, 1]), ([0, 5], [3, 0])]


# --- refusals ----------------------------------------------------------------------------------------------------

BAD = {
    "patch larger than the image": ("convnet", {"patch": 7}, ["patch=7", "6, 6, 2"]),
    "patch larger than one side": ("convnet", {"patch": (3, 8)}, [r"patch=\(3, 8\)"]),
    "patch of 0": ("convnet", {"patch": 0}, ["patch", "at least 1"]),
    "patch of a fraction": ("convnet", {"patch": 2.5}, ["patch", "2.5"]),
    "too many sides": ("convnet", {"patch": (1, 2, 2, 2)}, ["4 sizes", "2 sizes"]),
    "stride of 0": ("convnet", {"stride": 0}, ["stride"]),
    "gaps": ("convnet", {"patch": 2, "stride": 3}, ["stride", "gaps"]),
    "patch of a table": ("mlp", {"patch": 2}, ["patch=2", "table"]),
    "stride of a table": ("mlp", {"stride": 2}, ["stride=2", "table"]),
    "unknown reference": ("convnet", {"reference": "median"}, ["reference", "median", "blur"]),
    "shape of the reference": ("convnet", {"reference": np.zeros((3, 3))}, ["reference", r"\(3, 3\)"]),
    "NaN": ("convnet", {"reference": np.nan}, ["reference", "NaN"]),
    "mean of a table": ("mlp", {"reference": "mean"}, ["mean", "table"]),
    "blurred table": ("two_inputs", {"reference": "blur"}, ["blur", "input 1"]),
    "mean of tokens": ("tokens", {"reference": "mean"}, ["mean", "tokens"]),
    "half a token": ("tokens", {"reference": 0.5}, ["0.5", "token"]),
    "two references for three inputs": ("two_inputs", {"reference": [0, 0, 0]}, ["2 arrays|2 inputs"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_refusals_when_it_is_built(bad):
    name, params, words = BAD[bad]
    with pytest.raises(InvalidInputError) as caught:
        Occlusion(zoo.make(name).model, **params)
    for word in words:
        assert caught.match(word)


def test_refusals_of_free_sizes_come_with_the_samples():
    sample = zoo.make("free_size")
    analyzer = Occlusion(sample.model, patch=6)
    with pytest.raises(InvalidInputError, match="6, 5, 2"):
        analyzer.analyze(sample.inputs(1))
    assert analyzer.analyze(np.zeros((1, 7, 6, 2))).shape == (1, 7, 6, 2)


def test_inputs_of_no_values_are_refused():
    """As prompts that are not given: there is nothing to replace."""
    a, b = keras.Input((4,)), keras.Input((None, 3))
    model = keras.Model([a, b], layers.Dense(2)(a) + keras.ops.sum(b, axis=(1, 2))[:, None])
    with pytest.raises(InvalidInputError, match=r"\(0, 3\).*constant"):
        Occlusion(model).analyze([np.ones((2, 4)), np.ones((2, 0, 3))], 0)


class Looping(layers.Layer):
    """One step after the other, by a loop of Python."""

    def call(self, x):
        state = keras.ops.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = keras.ops.tanh(state + x[:, t])
        return state

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], x.shape[2]), x.dtype)


@pytest.mark.parametrize("name", ["occlusion", "lime", "kernel_shap", "prediction_difference"])
def test_layers_that_want_fixed_sizes_are_named(name):
    """Where the model leaves them free; with a fixed length it is explained."""
    free, fixed = keras.Input((None, 3)), keras.Input((5, 3))
    model = keras.Model(free, layers.Dense(2)(Looping(name="loop")(free)))
    with pytest.raises(UnsupportedModelError, match=r"(?s)loop.*fixed sizes"):
        zoo.create(name, model, np.ones((2, 5, 3)), progress=False)
    found = Occlusion(keras.Model(fixed, model(fixed))).analyze(np.random.default_rng(0).normal(size=(2, 5, 3)), 1)
    assert found.any()


def test_a_list_is_a_patch_of_nothing_but_several_inputs():
    with pytest.raises(InvalidInputError, match="patch"):
        Occlusion(zoo.make("convnet").model, patch=[2, 2])
