"""Masks of attention: in every form of a layer they leave weights what they are, and closed places get nothing."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext

RNG = np.random.default_rng(0)
NAMES = ("lrp.attnlrp", "lrp.cp_lrp", "lrp.epsilon")


def analyzer(name, model):
    return innv_ext.create_analyzer(name, model, epsilon=1e-12)


def layers(kind, **options):
    options = {"dtype": "float64", "use_bias": False, **options}
    if kind == "grouped":
        return L.GroupQueryAttention(2, 4, 2, **options)
    return L.MultiHeadAttention(2, 3, **options)


def classifier(layer, length, masked, causal, head):
    """A residual block of attention, with a mask for each sample, whose third place is classified."""
    x = keras.Input((length, 4), dtype="float64")
    mask = keras.Input((length, length), dtype="bool")
    given = {"attention_mask": mask} if masked else {}
    y = x + layer(x, x, use_causal_mask=causal, **given)
    return keras.Model([x, mask] if masked else x, head(y[:, 2]))


def sample(masked):
    """Three samples of six places, and masks that leave every place itself."""
    mask = (RNG.random((3, 6, 6)) < 0.6) | np.eye(6, dtype=bool)
    x = RNG.normal(size=(3, 6, 4))
    return ([x, mask] if masked else x), mask


def first(found):
    return found.attribution[0] if isinstance(found.attribution, list) else found.attribution


def alike(found, expected):
    np.testing.assert_allclose(first(found), first(expected), atol=1e-8 * np.abs(first(expected)).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["heads", "grouped"])
def test_a_layer_that_could_drop_weights_has_the_map_of_one_that_cannot(kind, name):
    """Keras computes the two by different functions: with a masked softmax, and as one operation."""
    plain, dropping, head = layers(kind), layers(kind, dropout=0.1), L.Dense(2, use_bias=False, dtype="float64")
    one, two = (classifier(layer, 6, True, False, head) for layer in (plain, dropping))
    dropping.set_weights(plain.get_weights())
    x, _ = sample(True)
    found, expected = (analyzer(name, model).explain(x, 1) for model in (two, one))
    alike(found, expected)
    if name != "lrp.attnlrp":  # attention weights are constants
        np.testing.assert_allclose(found.extras["sum"], found.score, rtol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["heads", "grouped"])
@pytest.mark.parametrize("masked", [True, False])
def test_causal_masks_of_free_length(masked, kind, dropout):
    layer, head = layers(kind, dropout=dropout), L.Dense(2, dtype="float64")
    free, fixed = (classifier(layer, length, masked, True, head) for length in (None, 6))
    x, mask = sample(masked)
    for name in NAMES[:2]:
        found, expected = (analyzer(name, model).explain(x, 1) for model in (free, fixed))
        alike(found, expected)
        assert not np.any(first(found)[:, 3:])
        if masked:
            closed = ~mask[:, 2]
            assert not np.any(first(found)[closed])


@pytest.mark.parametrize("layer", [L.Attention, L.AdditiveAttention])
def test_causal_attention_of_free_length_from_lists(layer):
    made, head = layer(dtype="float64"), L.Dense(2, dtype="float64")
    models = []
    for length in (None, 6):
        x = keras.Input((length, 4), dtype="float64")
        models.append(keras.Model(x, head((x + made([x, x], use_causal_mask=True))[:, 2])))
    x, _ = sample(False)
    for name in NAMES[:2]:
        found, expected = (analyzer(name, model).explain(x, 1) for model in models)
        alike(found, expected)
        assert not np.any(first(found)[:, 3:])


def test_sliding_windows_of_free_length():
    layer, head = layers("heads"), L.Dense(2, dtype="float64")
    wide = keras.Input((None, 4), dtype="float64")
    try:
        layer = L.GroupQueryAttention(2, 4, 2, sliding_window=2, dtype="float64")
    except (TypeError, ValueError):
        pytest.skip("this Keras has no sliding windows")
    free = keras.Model(wide, head((wide + layer(wide, wide, use_causal_mask=True))[:, 4]))
    narrow = keras.Input((6, 4), dtype="float64")
    fixed = keras.Model(narrow, head((narrow + layer(narrow, narrow, use_causal_mask=True))[:, 4]))
    x, _ = sample(False)
    found, expected = (analyzer("lrp.attnlrp", model).explain(x, 1) for model in (free, fixed))
    alike(found, expected)
    assert not np.any(first(found)[:, [0, 1, 2, 5]])


@pytest.mark.parametrize("written", ["product", "where"])
def test_masked_weights_are_still_gates(written):
    """softmax(x) times a mask, or with zeros where it closes, weighs values as the softmax does."""
    x, mask = keras.Input((5, 4), dtype="float64"), keras.Input((5, 5), dtype="bool")
    v = L.Dense(4, use_bias=False, dtype="float64")(x)
    weights = ops.softmax(ops.matmul(x, ops.swapaxes(x, 1, 2)), axis=-1)
    closed = weights * ops.cast(mask, "float64") if written == "product" else ops.where(mask, weights, 0.0)
    y = L.Dense(2, use_bias=False, dtype="float64")(ops.matmul(closed, v)[:, 0])
    model = keras.Model([x, mask], y)
    found = analyzer("lrp.cp_lrp", model).explain([RNG.normal(size=(3, 5, 4)), RNG.random((3, 5, 5)) < 0.7], 1)
    np.testing.assert_allclose(found.extras["sum"], found.score, rtol=1e-6)
