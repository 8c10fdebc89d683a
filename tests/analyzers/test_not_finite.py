"""NaN and infinite scores and maps are told once a call, with the samples; references that are all padding say so."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import ClosedMaskWarning, InvalidInputError, NonFiniteWarning
from innv_ext.evaluation import perturbation_analysis, relevance_ordering

TOKENS = np.array([[3, 0, 0, 0], [3, 4, 5, 0], [0, 1, 0, 0]])
ALONE = [True, False, True]  # one token, so that nothing is left of them without it


def masked():
    with zoo.precision("float64"):
        i = keras.Input((4,), dtype="int32")
        h = L.GlobalAveragePooling1D()(L.Embedding(10, 3, mask_zero=True)(i))
        return zoo.randomise(keras.Model(i, L.Dense(2)(h)), 0)


def counted():
    """Token numbers, and which of them count: sums over their number."""
    with zoo.precision("float64"):
        ids, mask = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
        k = ops.expand_dims(ops.cast(mask, "float64"), -1)
        mean = ops.sum(L.Embedding(10, 3)(ids) * k, 1) / ops.sum(k, 1)
        return zoo.randomise(keras.Model([ids, mask], L.Dense(2)(mean)), 0)


def distance():
    """The distance of the values from 1, which has no gradient at 1."""
    i = keras.Input((2,))
    return keras.Model(i, ops.sqrt(ops.sum(ops.square(i - 1), axis=1, keepdims=True)))


def told(caught):
    return [str(w.message) for w in caught if w.category is NonFiniteWarning]


def test_maps_that_are_not_finite_are_told_once_a_call():
    x = np.array([[1.0, 2], [1, 1], [3, 4], [1, 1]])
    analyzer = innv_ext.create_analyzer("gradient", distance(), batch_size=1)
    with pytest.warns(NonFiniteWarning, match=r"gradient: the map of 2 of 4 samples \(1, 3\) is NaN") as caught:
        found = analyzer.explain(x)
    assert len(told(caught)) == 1 and found.extras["finite"].tolist() == [True, False, True, False]
    assert analyzer.explain(x[::2]).extras["finite"].all()  # quiet


def test_scores_that_are_not_finite_count_too():
    """A sample that is all padding: its map may be finite (the baseline Input), its score is not."""
    x = np.concatenate([TOKENS, TOKENS[:1] * 0])
    nan = r"input: the score of 1 of 4 samples \(3\) is NaN"
    with pytest.warns(ClosedMaskWarning, match=r"1 of 4"), pytest.warns(NonFiniteWarning, match=nan) as caught:
        found = innv_ext.create_analyzer("input", masked()).explain(x, 0)
    assert len(told(caught)) == 1 and found.extras["finite"].tolist() == [True, True, True, False]
    assert np.isfinite(found.attribution).all() and np.isnan(found.score[3])


@pytest.mark.parametrize("net", [masked, pytest.param(counted, marks=pytest.mark.slow)])
def test_versions_of_x_without_tokens_name_the_reference(net):
    model, x, zero = net(), TOKENS, TOKENS[:1] * 0
    if net is counted:
        x, zero = [TOKENS, (TOKENS > 0).astype("int32")], [zero, zero]
    with pytest.warns(NonFiniteWarning, match=r"the map of 2 of 3 samples \(0, 2\).*another reference=") as caught:
        found = innv_ext.create_analyzer("occlusion", model, patch=1).explain(x, 0)
    assert len(told(caught)) == 1 and found.extras["finite"].tolist() == np.logical_not(ALONE).tolist()
    with pytest.raises(InvalidInputError, match=r"LIME fits.*pass another reference="):
        innv_ext.create_analyzer("lime", model).analyze(x, 0)
    shap = innv_ext.create_analyzer("kernel_shap", model, references=zero)
    with pytest.warns(NonFiniteWarning, match=r"kernel_shap: the map of 3 of 3.*pass other references=") as caught:
        assert not shap.explain(x, 0).extras["finite"].any()
    assert len(told(caught)) == 1
    if net is counted:  # an input that is a mask is held as it is at x
        assert innv_ext.create_analyzer("deep_lift", model).explain(x, 0).extras["finite"].all()
    else:
        with pytest.raises(InvalidInputError, match="pass other reference_inputs="):
            innv_ext.create_analyzer("deep_lift", model).analyze(x, 0)
    for name, options in (("occlusion", {"reference": 1}), ("deep_lift", {"reference_inputs": 1})):
        assert innv_ext.create_analyzer(name, model, **options).explain(x, 0).extras["finite"].all()


def test_evaluations_tell_of_scores_that_are_not_finite():
    model, maps = masked(), np.ones((3, 4))
    with pytest.warns(NonFiniteWarning, match=r"perturbation_analysis: 3 of 3 samples \(first: 0\).*value=") as caught:
        perturbation_analysis(model, TOKENS, maps, perturbation="constant", value=0, progress=False)
    assert len(told(caught)) == 1
    with pytest.warns(NonFiniteWarning, match=r"relevance_ordering: 3 of 3 samples"):
        relevance_ordering(model, TOKENS, maps, noise="constant", mean=0, progress=False)
    perturbation_analysis(model, TOKENS, maps, perturbation="constant", value=1, progress=False)


def test_single_tokens_are_occluded_and_columns_take_a_patch_of_one():
    with zoo.precision("float64"):
        i = keras.Input((40,), dtype="int32")
        model = zoo.randomise(keras.Model(i, L.Dense(1)(L.Flatten()(L.Embedding(5, 2)(i)))), 0)
    x = np.random.default_rng(0).integers(1, 5, (2, 40))
    found = innv_ext.create_analyzer("occlusion", model).analyze(x)
    score = model.predict(x, verbose=0)[:, 0]
    for place in (0, 17):
        without = np.where(np.arange(40) == place, 0, x)
        np.testing.assert_allclose(found[:, place], score - model.predict(without, verbose=0)[:, 0], atol=1e-6)
    table, x = zoo.make("mlp").model, zoo.make("mlp").inputs(2)
    same = [innv_ext.create_analyzer("occlusion", table, patch=patch).analyze(x) for patch in (1, None)]
    np.testing.assert_array_equal(*same)
    with pytest.raises(InvalidInputError, match="patch=2 has no meaning for a table"):
        innv_ext.create_analyzer("occlusion", table, patch=2)
