"""Inputs of strings: methods that only call the model replace whole strings; others say so."""

import itertools

import keras
import numpy as np
import pytest

import innv_ext
from innv_ext import evaluation
from innv_ext.errors import InvalidInputError, UnsupportedModelError


def texts():
    """A classifier of texts with its vectorization inside, and some texts."""
    vectors = keras.layers.TextVectorization(vocabulary=["good", "bad", "film", "day"], output_sequence_length=3)
    x = keras.Input((), dtype="string")
    h = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(6, 4)(vectors(x)))
    return keras.Model(x, keras.layers.Dense(2)(h)), np.array(["good film", "bad day today", ""], object)


def rows():
    """A table with a column of strings beside a number, and some rows."""
    job, age = keras.Input((1,), dtype="string", name="job"), keras.Input((1,), name="age")
    hot = keras.layers.StringLookup(vocabulary=["cook", "smith"], output_mode="multi_hot")(job)
    h = keras.layers.Dense(4, activation="tanh")(keras.layers.Concatenate()([hot, age]))
    model = keras.Model({"job": job, "age": age}, keras.layers.Dense(1)(h))
    return model, {"job": np.array([["cook"], ["smith"], ["?"]], object), "age": np.array([[1.0], [-2.0], [0.5]])}


def score(model, x, column=0):
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    return keras.ops.convert_to_numpy(model(tensors))[:, column]


@pytest.mark.parametrize("form", [list, np.array, keras.ops.convert_to_tensor, lambda x: [s.encode() for s in x]])
def test_a_text_is_one_value(form):
    model, x = texts()
    found = innv_ext.create_analyzer("occlusion", model).analyze(form(x.tolist()), 1)
    expected = score(model, x, 1) - score(model, np.full(3, "", object), 1)
    assert found.shape == (3,) and found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_reference_is_a_string():
    model, x = texts()
    found = innv_ext.create_analyzer("occlusion", model, reference="bad").analyze(x, 0)
    np.testing.assert_allclose(found, score(model, x) - score(model, np.full(3, "bad", object)), atol=1e-6)


def test_columns_of_strings_beside_numbers():
    model, x = rows()
    found = innv_ext.create_analyzer("occlusion", model).analyze(x, 0)
    for name, reference in (("job", ""), ("age", 0.0)):
        other = {**x, name: np.full_like(x[name], reference)}
        np.testing.assert_allclose(found[name][:, 0], score(model, x) - score(model, other), atol=1e-6)


def test_shapley_values_of_strings():
    model, x = rows()
    references = {"job": np.array([["cook"], ["baker"]], object), "age": np.array([[0.0], [1.0]])}
    found = innv_ext.create_analyzer("kernel_shap", model, references=references).analyze(x, 0)

    def value(own):
        fixed = [{k: np.repeat(r[i : i + 1], 3, axis=0) for k, r in references.items()} for i in (0, 1)]
        mixed = [{k: x[k] if k in own else r for k, r in one.items()} for one in fixed]
        return np.mean([score(model, m) for m in mixed], axis=0)

    for name, other in itertools.permutations(x):
        expected = (value({name}) - value(set()) + value({name, other}) - value({other})) / 2
        np.testing.assert_allclose(found[name][:, 0], expected, atol=1e-5)


def test_lime_and_learnt_references_go_through_a_file(tmp_path):
    model, x = rows()
    lime = innv_ext.create_analyzer("lime", model, samples=64).analyze(x, 0)
    assert all(np.isfinite(a).all() and a.shape == (3, 1) for a in lime.values())
    shap = innv_ext.create_analyzer("kernel_shap", model, background=2).fit(x)
    shap.save(tmp_path / "shap.zip")
    again = innv_ext.load_analyzer(tmp_path / "shap.zip").analyze(x, 0)
    for name, a in shap.analyze(x, 0).items():
        np.testing.assert_allclose(again[name], a, atol=1e-7)


def test_no_sample():
    model, _ = texts()
    assert innv_ext.create_analyzer("occlusion", model).analyze(np.zeros(0, object)).shape == (0,)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "integrated_gradients", "rise", "random"])
def test_other_methods_say_which_do(name):
    with pytest.raises(UnsupportedModelError, match=r"strings, but .* needs numbers\. 'occlusion', 'lime'.*text_vec"):
        innv_ext.create_analyzer(name, texts()[0])


def test_evaluation_says_so():
    model, x = texts()
    for test in (evaluation.relevance_ordering, evaluation.perturbation_analysis):
        with pytest.raises(UnsupportedModelError, match="takes strings, but a test of maps needs numbers"):
            test(model, x, np.ones(3))
    with pytest.raises(UnsupportedModelError, match="takes strings, but a test of maps needs numbers"):
        innv_ext.compare(model, x, ["occlusion"])


def test_what_is_no_string():
    model, x = texts()
    analyzer = innv_ext.create_analyzer("occlusion", model)
    with pytest.raises(InvalidInputError, match="must hold strings, got 1"):
        analyzer.analyze(np.ones(3))
    with pytest.raises(InvalidInputError, match=r"shape \(3, 1\)"):
        analyzer.analyze(x[:, None])
    with pytest.raises(InvalidInputError, match=r"reference=1.5 does not fit input 0, which takes strings"):
        innv_ext.create_analyzer("occlusion", model, reference=1.5)
