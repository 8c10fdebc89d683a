"""RISE against an average by hand with the same masks, the masks themselves, and the exact expectation."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops

from innv_ext.analyzers.parts.stretching import interpolation
from innv_ext.analyzers.prediction.rise import Rise
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def masks_of(analyzer, one):
    return analyzer.masks([one])[0].of(np.arange(analyzer.samples))


def image(shape=(6, 6, 2), number=0):
    return Arrangement(number, shape, tuple(range(len(shape) - 1)), False)


# --- the masks ---------------------------------------------------------------------------------------------------


def test_masks_are_stretched_and_cut():
    """Mask by mask as Keras resizes images; cells of 4 x 3 pixels, which don't divide the picture."""
    one = image((11, 6, 2))
    analyzer = Rise(zoo.make("free_size").model, samples=9, grid=(3, 2), seed=4)
    parts = analyzer.masks([one])[0]
    assert parts.on.shape == (9, 3, 2, 1) and (parts.shifts[0] < 4).all() and (parts.shifts[1] < 3).all()
    assert len({tuple(s) for s in np.stack(parts.shifts, axis=1)}) > 3
    found = parts.of(np.arange(9))
    assert found.shape == (9, 11, 6, 1) and found.min() >= 0 and found.max() <= 1
    for j in range(9):
        cells = parts.on[j].astype("float32")[None]
        wide = ops.image.resize(cells, (16, 9), interpolation="bilinear", data_format="channels_last")
        down, right = parts.shifts[0][j], parts.shifts[1][j]
        np.testing.assert_allclose(found[j], np.asarray(wide)[0, down : down + 11, right : right + 6], atol=1e-5)
    np.testing.assert_array_equal(parts.of(np.array([7, 2, 2])), found[[7, 2, 2]])


def test_every_place_is_shown_with_probability_p():
    one = image((7, 5, 3))
    for p in (0.2, 0.7):
        analyzer = Rise(zoo.make("free_size").model, samples=4000, grid=2, probability=p)
        mean = masks_of(analyzer, one).mean(axis=0)
        assert np.abs(mean - p).max() < 5 * np.sqrt(p * (1 - p) / 4000)


def test_axes_of_other_inputs():
    """A signal, a volume, channels in front; tokens and columns one by one; a grid has at most a cell per position."""
    model = zoo.make("free_size").model
    forms = {
        image((12, 2)): ((7, 1), (12, 1)),
        image((4, 9, 3, 2)): ((4, 7, 3, 1), (4, 9, 3, 1)),
        Arrangement(0, (2, 8, 6), (1, 2), False): ((1, 7, 6), (1, 8, 6)),
        Arrangement(0, (6,), (0,), True): ((6,), (6,)),
        Arrangement(0, (5,), (), False): ((5,), (5,)),
    }
    for one, (cells, shape) in forms.items():
        parts = Rise(model, samples=5).masks([one])[0]
        found = parts.of(np.arange(5))
        assert parts.on.shape[1:] == cells and found.shape == (5, *shape)
        if not one.positions:
            np.testing.assert_array_equal(found, parts.on)


# --- the map -----------------------------------------------------------------------------------------------------


def by_hand(score, x, masks, p, x0):
    """Equation 6, mask by mask."""
    total = np.zeros(x.shape)
    for m in masks:
        s = score(np.where(m == 1, x, x0) if x.dtype.kind == "i" else x0 + m * (x - x0))
        total += s.reshape(-1, *[1] * (x.ndim - 1)) * m
    return total / (p * len(masks))


CASES = {
    "convnet": ({"grid": 2}, 0),
    "signal": ({"grid": 3, "reference": 0.5, "probability": 0.3}, 0.5),
    "mlp": ({"reference": -1}, -1),
    "tokens": ({"reference": 2}, 2),
    "volume": ({"grid": (2, 1, 2)}, 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [32, 4])
def test_the_average_by_hand(name, size):
    params, x0 = CASES[name]
    dtype = "float32" if name in zoo.FLOAT32_ONLY else "float64"
    sample = zoo.make(name, dtype)
    x, index = sample.inputs(3), np.array([0, 1, 1])
    analyzer = Rise(sample.model, samples=11, on="output", batch_size=size, **params)
    (one,) = analyzer.arranged([x])

    def score(z):
        return np.asarray(sample.model(z))[np.arange(3), index]

    expected = by_hand(score, x, masks_of(analyzer, one), analyzer.probability, x0)
    close(analyzer.analyze(x, index), expected, {"volume": 1e-4, "tokens": 1e-6}.get(name, 1e-9))  # float32
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()


def test_several_inputs_have_masks_of_their_own():
    """Both are masked at once; the fill of each is its own."""
    sample = zoo.make("two_inputs", "float64")
    x = sample.inputs(2)
    analyzer = Rise(sample.model, samples=9, grid=[3, None], reference=["mean", 0.5], on="output")
    masks = [part.of(np.arange(9)) for part in analyzer.masks(analyzer.arranged(x))]
    x0 = [x[0].mean(axis=(1, 2), keepdims=True), 0.5]
    expected = [np.zeros(v.shape) for v in x]
    for both in zip(*masks, strict=True):
        s = np.asarray(sample.model([b + m * (v - b) for m, v, b in zip(both, x, x0, strict=True)]))[:, 1]
        for e, m in zip(expected, both, strict=True):
            e += s.reshape(-1, *[1] * m.ndim) * m / (0.5 * 9)
    for a, e in zip(analyzer.analyze(x, 1), expected, strict=True):
        close(a, e)
    assert masks[0].shape == (9, 6, 6, 1) and masks[1].shape == (9, 4)


def test_everything_shown_is_the_score():
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(2)
    found = Rise(sample.model, samples=3, probability=1.0, reference="blur").explain(x)
    close(found.attribution, np.broadcast_to(found.score[:, None, None, None], x.shape))


def test_the_expectation_is_that_over_all_masks():
    """16 grids times 9 shifts, weighted by their probabilities; the estimate is within 5 standard errors."""
    with zoo.precision("float64"):
        i = keras.Input((6, 6, 1))
        y = layers.Dense(3, activation="relu")(layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(i)))
        model = zoo.randomise(keras.Model(i, layers.Dense(1)(y)))
    x, p, n = np.random.default_rng(0).normal(size=(1, 6, 6, 1)), 0.4, 20_000
    stretch = interpolation(2, 9)
    masks, chances = [], []
    for cells in itertools.product((0, 1), repeat=4):
        wide = stretch @ np.reshape(cells, (2, 2)) @ stretch.T
        for down, right in itertools.product(range(3), repeat=2):
            masks.append(wide[down : down + 6, right : right + 6, None])
            chances.append(p ** sum(cells) * (1 - p) ** (4 - sum(cells)) / 9)
    masks, chances = np.stack(masks), np.array(chances)
    close(chances.sum(), 1.0)
    terms = np.asarray(model(masks * x)).reshape(-1, 1, 1, 1) * masks / p
    exact = np.tensordot(chances, terms, 1)
    error = np.sqrt((np.tensordot(chances, terms**2, 1) - exact**2) / n)
    found = Rise(model, samples=n, probability=p, grid=2, batch_size=4096).analyze(x)[0]
    assert (np.abs(found - exact) < 5 * error).all()
    assert np.ptp(exact) > 10 * error.max()


# --- parameters --------------------------------------------------------------------------------------------------


def test_bad_parameters():
    images, table, tokens = (zoo.make(name).model for name in ("convnet", "mlp", "tokens"))
    for p in (0, 1.5, "half"):
        with pytest.raises(InvalidInputError, match="probability must be"):
            Rise(images, probability=p)
    with pytest.raises(InvalidInputError, match="grid=9 is larger"):
        Rise(images, grid=9)
    with pytest.raises(InvalidInputError, match="all channels share a mask"):
        Rise(images, grid=(2, 2, 2))
    for model in (table, tokens):
        with pytest.raises(InvalidInputError, match="no meaning for tokens and tables"):
            Rise(model, grid=3)
    with pytest.raises(InvalidInputError, match="token number"):
        Rise(tokens, reference=0.5)
    with pytest.raises(InvalidInputError, match="reference"):
        Rise(table, reference="mean")
