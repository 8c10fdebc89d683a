"""``innv-ext text`` against direct calls of the library."""

import keras
import numpy as np
import pytest
from cli_pictures import pixels
from keras import layers

from innv_ext.cli import main
from innv_ext.text import TextExplainer, explain

pytestmark = pytest.mark.filterwarnings("default::UserWarning")  # they become lines


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A classifier of strings, and a model that tells the next word."""
    root = tmp_path_factory.mktemp("texts")
    keras.utils.set_random_seed(0)
    words = ["a", "fine", "film", "bad"]
    text = keras.Input((1,), dtype="string")
    h = layers.Embedding(6, 3)(layers.TextVectorization(vocabulary=words, output_sequence_length=4)(text))
    head = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(h))
    keras.Model(text, head, name="reviews").save(root / "reviews.keras")
    h = layers.LSTM(3, return_sequences=True)(h)
    keras.Model(text, layers.Dense(6)(h), name="next").save(root / "next.keras")
    keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(6, 2)]).save(root / "n.keras")
    (root / "labels.txt").write_text("poor\ngood\n")
    (root / "three.txt").write_text("a\nb\nc\n")
    (root / "texts.txt").write_text("a fine film\nbad\n")
    return root


@pytest.fixture
def run(models, tmp_path, capsys, monkeypatch):
    """``run("text", "reviews.keras", "a film")`` gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(models)

    def call(*words):
        capsys.readouterr()
        code = main(["text", *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def reviews(models):
    return keras.models.load_model(models / "reviews.keras")


def test_numbers_are_those_of_the_library(run, reviews):
    line = ["reviews.keras", "A fine film", "bad", "--analyzer", "lrp.epsilon", "--param", "epsilon=0.1"]
    code, out, err = run(*line, "--target", "GOOD", "--labels", "labels.txt")
    found = explain(reviews, ["A fine film", "bad"], "lrp.epsilon", target=1, epsilon=0.1)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["A fine film", f"  neuron: good, score: {found.scores[0]:.4g}"]
    assert [row.split() for row in lines[2:5]] == [
        [token, f"{value:+.4g}"] for token, value in zip(found.tokens[0], found.relevance[0], strict=True) if token
    ]
    assert lines[5].split() == ["(padding)", f"{found.relevance[0, 3:].sum():+.4g}"] and lines[6] == "bad"


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_pictures_and_pages_are_those_of_the_library(run, reviews, tmp_path, suffix):
    path = tmp_path / "new" / f"film{suffix}"
    code, out, err = run("reviews.keras", "A fine film", "--analyzer", "gradient", "--output", path)
    found = explain(reviews, ["A fine film"], "gradient")
    (found.plot if suffix == ".png" else found.to_html)(tmp_path / f"own{suffix}")
    assert (code, err, out) == (0, "", f"{path}: neuron: {found.targets[0]}, score: {found.scores[0]:.4g}\n")
    if suffix == ".png":
        np.testing.assert_array_equal(pixels(path), pixels(tmp_path / "own.png"))
    else:
        assert path.read_text() == (tmp_path / "own.html").read_text()
    assert run("reviews.keras", "A fine film", "--analyzer", "gradient", "--output", path, "--quiet") == (0, "", "")


def test_next_words(run, models, tmp_path):
    explainer = TextExplainer(keras.models.load_model(models / "next.keras"), "gradient")
    code, out, err = run("next.keras", "a fine film", "--analyzer", "gradient", "--position", 1, "--target", "bad")
    found = explainer.explain("a fine film", "bad", position=1)
    assert (code, err) == (0, "") and f"  neuron: bad, score: {found.scores[0]:.4g}\n" in out
    options = ["--analyzer", "gradient", "--completion", "film", "--completion", "fine film"]
    code, out, err = run("next.keras", "a fine", "a", *options)
    first, second = explainer.explain(["a fine", "a"], completion=["film", "fine film"])
    assert (code, err) == (0, "") and out.count("\n") == 11
    head = f"a fine | film\n  neuron: film, score: {first.scores[0]:.4g}\n    a     {first.relevance[0, 0]:+.4g}\n"
    assert out.startswith(head)
    assert f"    fine  {second.relevance[1, 1]:+.4g}\n" in out
    code, out, err = run("next.keras", "a fine", "a", *options, "--output", tmp_path / "m.png", "--words")
    assert (code, err) == (0, "") and {p.name for p in tmp_path.iterdir()} == {"m_0.png", "m_1.png"}
    assert out.splitlines()[1] == f"{tmp_path / 'm_1.png'}: 2 tokens of 'fine film'"


def test_analyzers_that_learn_read_texts(run, reviews):
    options = ["--analyzer", "deep_shap", "--param", "background=2"]
    assert run("reviews.keras", "fine", *options)[0] == 2
    code, out, _ = run("reviews.keras", "fine", *options, "--fit", "texts.txt", "--target", 0)
    explainer = TextExplainer(reviews, "deep_shap", background=2).fit(["a fine film", "bad"])
    assert code == 0 and f"{explainer.explain('fine', 0).relevance[0, 0]:+.4g}" in out


WRONG = {
    "empty text": (["reviews.keras", " "], "TEXT: ' ' is empty"),
    "no word": (["reviews.keras", "..."], "texts[0] has no tokens"),
    "too long": (["reviews.keras", "a a a a a"], "texts[0] has 5 tokens, but 'reviews' takes 4 at most"),
    "suffix": (["reviews.keras", "a", "--output", "film.txt"], "--output: the suffix must be one of '.html'"),
    "folder": (["reviews.keras", "a", "--output", "."], "--output: . is a folder"),
    "place": (["reviews.keras", "a", "--output", "labels.txt/a.png"], "--output"),
    "no model": (["none.keras", "a"], "no file none.keras"),
    "numbers": (["n.keras", "a"], "takes no strings, and has no preprocessor"),
    "class": (["reviews.keras", "a", "--target", "2"], "neuron_selection 2 (sample 0) is out of range"),
    "label": (["reviews.keras", "a", "--target", "gold", "--labels", "labels.txt"], "Did you mean 'good'"),
    "labels": (["reviews.keras", "a", "--labels", "three.txt"], "3 names, but the model has 2 outputs"),
    "position": (["reviews.keras", "a", "--position", "0"], "position= is for models that give an output for every"),
    "token": (["next.keras", "a", "--target", "zebra"], "target 'zebra' is not in the vocabulary"),
    "completions": (["next.keras", "a", "fine", "--completion", "film"], "there are 1 for 2 texts"),
    "both": (["next.keras", "a", "--completion", "film", "--target", "1"], "--target goes without --completion"),
    "empty completion": (["next.keras", "a", "--completion", ""], "--completion: '' is empty"),
    "parameter": (["reviews.keras", "a", "--param", "epsilom=1"], "no parameter 'epsilom'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_one_line(run, tmp_path, case):
    line, text = WRONG[case]
    code, out, err = run(*line, "--analyzer", "gradient")
    assert (code, out) == (2, "") and text in err
    assert err.startswith("innv-ext: error: ") and err.count("\n") == 1


def test_a_model_that_the_analyzer_cannot_explain_is_exit_code_1(run, tmp_path):
    code, out, err = run("next.keras", "a", "--analyzer", "deep_taylor", "--output", tmp_path / "new" / "a.png")
    assert (code, out) == (1, "") and err.startswith("innv-ext: error: deep_taylor: ")
    assert not (tmp_path / "new").exists()
