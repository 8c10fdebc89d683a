"""Models with several inputs: the features of all of them in one order, against one input that holds everything."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import attack_interpretation, perturbation_analysis, randomization_check, relevance_ordering

RNG = np.random.default_rng(0)
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pair():
    """(model of two tables, model of both in one)."""
    with zoo.precision("float64"):
        a, b, c = keras.Input((3,), name="a"), keras.Input((2,), name="b"), keras.Input((5,))
        dense = layers.Dense(3, activation="tanh")
        two, one = keras.Model([a, b], dense(layers.Concatenate()([a, b]))), keras.Model(c, dense(c))
    zoo.randomise(one, 1)
    return two, one


def halves(values):
    return [values[..., :3], values[..., 3:]]


def test_two_inputs_are_one_that_is_cut(pair):
    two, one = pair
    x, relevance, fill = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5)), RNG.normal(size=5)
    std, named = np.zeros(5), dict(zip("ab", halves(relevance), strict=True))
    kept = relevance_ordering(one, x, relevance, noise="constant", mean=fill, rates=4, **QUIET)
    gone = perturbation_analysis(one, x, relevance, perturbation="constant", value=fill, **QUIET)
    for given in (halves(relevance), tuple(halves(relevance)), named, relevance, {"relevance": named}):
        for xs in (halves(x), dict(zip("ab", halves(x), strict=True))):
            mean = halves(fill) if given is named else {"a": fill[:3], "b": fill[3:]}
            found = relevance_ordering(two, xs, given, noise=["constant", "gaussian"], mean=mean,
                                       std={"b": std[3:]}, rates=4, **QUIET)
            for own, expected in ((found.distortion, kept.distortion), (found.accuracy, kept.accuracy)):
                np.testing.assert_allclose(own["relevance"], expected["relevance"], rtol=1e-9, atol=1e-12)
            taken = perturbation_analysis(two, xs, given, value=halves(fill), **QUIET)
            np.testing.assert_allclose(taken.scores["relevance"], gone.scores["relevance"], rtol=1e-9)
            np.testing.assert_allclose(taken.scores["random"], gone.scores["random"], rtol=1e-9)


def test_columns_of_every_table_have_their_own_moments(pair):
    two, one = pair
    x, data = RNG.normal(size=(3, 5)), RNG.normal(3, 2, (50, 5))
    options = {"samples": 2000, "rates": [0, 1], **QUIET}
    found = relevance_ordering(two, halves(x), "random", data=halves(data), **options).distortion["random"]
    expected = relevance_ordering(one, x, "random", data=data, **options).distortion["random"]
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", ["two_inputs", "dict_inputs"])
def test_pixels_of_one_input_beside_columns_of_another(name):
    """The most relevant of 36 pixels and 4 columns is taken away, by hand."""
    sample = zoo.make(name, "float64")
    x = sample.inputs(4)
    image, table = x.values() if isinstance(x, dict) else x
    maps = [RNG.permutation(144).reshape(4, 6, 6).astype(float), np.full((4, 4), -1.0)]
    maps[1][2:, 1] = 999
    given = dict(zip(("image", "table"), maps, strict=True))
    options = {"regions": ["pixel", None], "perturbation": "constant", "value": [0.5, 7], "steps": 1, **QUIET}
    found = perturbation_analysis(sample.model, x, given, random_baseline=False, **options).scores["relevance"]
    image, table = image.copy(), table.copy()
    for i in range(2):
        image[i, :, :, 0][maps[0][i] == maps[0][i].max()] = 0.5
    table[2:, 1] = 7
    with zoo.precision("float64"):
        before, after = sample.model.predict(x, verbose=0), sample.model.predict(
            {"image": image, "table": table} if isinstance(x, dict) else [image, table], verbose=0)
    best = before.argmax(axis=1)
    expected = [[before[i, c], after[i, c]] for i, c in enumerate(best)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    options = {"regions": 3, "data": x, "samples": 2, "random_baseline": False, **QUIET}
    blocks = perturbation_analysis(sample.model, x, "random", **options)
    assert len(blocks.perturbed) == 1 + 4 + 4


def test_what_does_not_fit_is_refused(pair):
    two, _ = pair
    x = halves(np.ones((2, 5)))
    fixed = {"noise": "constant", "mean": 0, **QUIET}
    for relevance, text in (
        ([x[0], x[0]], r"relevance 'relevance' has shape \(2, 3\) for the input 'b', but x has \(2, 2\)"),
        ({"m": {"a": x[0]}}, r"relevance 'm' has \['a'\]; a map needs the inputs \['a', 'b'\]"),
        (np.ones((2, 4)), r"has shape \(2, 4\), but x has \(2, 3\), \(2, 2\).*one value per feature: \(2, 5\)"),
        ({"m": "top"}, "Otherwise pass a map like x"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            relevance_ordering(two, x, relevance, **fixed)
    with pytest.raises(InvalidInputError, match=r"mean has 3 entries, but the model has the inputs \['a', 'b'\]"):
        relevance_ordering(two, x, "random", **{**fixed, "mean": [0, 0, 0]})
    with pytest.raises(InvalidInputError, match="mean: input must be one of 'a', 'b', got 'c'"):
        relevance_ordering(two, x, "random", **{**fixed, "mean": {"c": 0}})
    for test in (randomization_check, lambda model, *rest: attack_interpretation(zoo.create("gradient", model), x,
                                                                                epsilon=1)):
        with pytest.raises(InvalidInputError, match=r"takes models with one input, .*Hold the others fixed"):
            test(two, "gradient", x)
