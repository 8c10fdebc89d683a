"""Texts end to end: the maps are those of the analyzer on the token numbers, whatever made the numbers."""

import doctest
import importlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from text_models import WORDS, Pieces, Task, causal, classifier, strings, transformer, vectorization, weighted

import innv_ext
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.text import CompletionExplanation, TextExplainer, explain

TEXTS = ["A fine film!", "bad", "it, not a bad film"]
IDS = np.array([[2, 3, 4, 0, 0], [5, 0, 0, 0, 0], [7, 6, 2, 5, 4]])


# --- models of strings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "occlusion"])
def test_relevance_is_that_of_the_analyzer_on_token_numbers(name):
    model, words = strings(output_sequence_length=5)
    found = explain(model, TEXTS, name, target=[1, 0, 1])
    explainer = TextExplainer(model, name)
    np.testing.assert_array_equal(found.ids, IDS)
    np.testing.assert_array_equal(found.ids, words(TEXTS))
    own = innv_ext.create_analyzer(name, explainer.model).explain(IDS, [1, 0, 1])
    np.testing.assert_allclose(found.relevance, own.attribution, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.padding, IDS == 0)
    assert found.tokens[1] == ["bad", "", "", "", ""] and found.target_names == ["1", "0", "1"]
    assert found.targets.tolist() == [1, 0, 1] and not found.special.any() and not found.elsewhere.any()
    whole = np.asarray(model(np.array(TEXTS)[:, None]))
    np.testing.assert_allclose(np.asarray(explainer.model(IDS)), whole, rtol=1e-6)
    logits = own.output - own.output.max(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), whole, rtol=1e-5)


def test_texts_of_different_lengths_are_one_batch_and_each_as_if_it_were_alone():
    model, _ = strings(mask=True)  # no fixed length: the longest text decides
    explainer = TextExplainer(model, "input_t_gradient", class_names=["poor", "good"])
    found = explainer.explain(TEXTS, "good")
    assert found.relevance.shape == (3, 5) and found.target_names == ["good"] * 3
    for i, text in enumerate(TEXTS):
        alone = explainer.explain(text, "good")
        np.testing.assert_allclose(found.relevance[i, : alone.relevance.shape[1]], alone.relevance[0], atol=1e-6)
        assert alone.tokens[0] == [t for t, p in zip(found.tokens[i], found.padding[i], strict=True) if not p]


@pytest.mark.parametrize("form", ["sequential", "nested", "whole inside", "split outside", "squeezed"])
def test_text_vectorization_is_found_wherever_it_reads_the_strings(form):
    model, words = strings(output_sequence_length=5)
    text, rest = keras.Input((1,), dtype="string"), TextExplainer(model).model
    if form == "sequential":
        built = keras.Sequential([keras.Input((1,), dtype="string"), words, *model.layers[2:]])
    elif form == "nested":  # a model that makes numbers, and one that reads them
        built = keras.Model(text, rest(keras.Sequential([keras.Input((1,), dtype="string"), words])(text)))
    elif form == "whole inside":
        built = keras.Model(text, model(text))
    elif form == "split outside":
        built = keras.Model(text, layers.Rescaling(2.0)(model(text)))
    else:
        flat = keras.Input((), dtype="string")
        built = keras.Model(flat, rest(words(flat)))
    own = innv_ext.create_analyzer("input_t_gradient", rest).analyze(IDS, 1)
    found = explain(built, TEXTS, "input_t_gradient", target=1, on="output" if form == "split outside" else "logits")
    if form == "split outside":
        own = 2 * innv_ext.create_analyzer("input_t_gradient", rest, on="output").analyze(IDS, 1)
    np.testing.assert_allclose(found.relevance, own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("mode", ["multi_hot", "count"])
def test_counted_words_share_the_relevance_of_their_column(shape, mode):
    """A linear model: w per occurrence where words are counted, w / occurrences where they are marked."""
    text, words = keras.Input(shape, dtype="string"), vectorization(output_mode=mode)
    model = weighted(keras.Model(text, layers.Dense(2)(words(text))))
    weights, _ = model.layers[-1].get_weights()
    found = explain(model, ["fine fine film zzz", "bad"], "input_t_gradient", target=1)
    names = list(words.get_vocabulary())
    own = [weights[names.index(token), 1] / (1 if mode == "count" else times)
           for token, times in (("fine", 2), ("fine", 2), ("film", 1), ("[UNK]", 1))]  # fmt: skip
    np.testing.assert_allclose(found.relevance[0], own, rtol=1e-5)
    np.testing.assert_allclose(found.relevance[1], [weights[names.index("bad"), 1], 0, 0, 0], rtol=1e-5)
    assert found.tokens[0] == ["fine", "fine", "film", "[UNK]"] and found.padding[1].tolist() == [False, *[True] * 3]
    gradient = explain(model, ["film"], "gradient", target=0)
    np.testing.assert_allclose(gradient.elsewhere, weights[:, 0].sum() - weights[names.index("film"), 0], rtol=1e-5)
    with pytest.raises(InvalidInputError, match="counts words"):
        explain(model, "fine", completion="film")


# --- tokenizers --------------------------------------------------------------------------------------------------


def numbered(length=None, mask=True):
    x = keras.Input((length,), dtype="int32")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(len(WORDS), 4, mask_zero=mask)(x))
    return weighted(keras.Model(x, layers.Dense(2)(h), name="numbers"))


TOKENIZERS = {
    "layer": lambda: {"tokenizer": layers.TextVectorization(vocabulary=[w for w in WORDS[2:] if w.isalpha()])},
    "hub": lambda: {"tokenizer": Pieces()},
    "strings": lambda: {"tokenizer": str.split, "vocabulary": WORDS},
    "numbers": lambda: {"tokenizer": lambda text: Pieces()([text])[0], "vocabulary": dict(zip(WORDS, range(13)))},
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("length", [None, 6])
def test_tokenizers_of_models_of_numbers(kind, length):
    model = numbered(length)
    found = explain(model, ["a fine film", "bad"], "input_t_gradient", target=0, **TOKENIZERS[kind]())
    assert found.relevance.shape == (2, length or 3)
    assert [[w.text for w in row] for row in found.words()] == [["a", "fine", "film"], ["bad"]]
    own = innv_ext.create_analyzer("input_t_gradient", model).analyze(found.ids, 0)
    np.testing.assert_array_equal(found.relevance, own)
    np.testing.assert_array_equal(found.ids == 0, found.padding)


def test_fit_and_classes_of_analyzers():
    explainer = TextExplainer(numbered(3), "deep_shap", tokenizer=str.split, vocabulary=WORDS, background=2, steps=2)
    found = explainer.fit(["a fine film", "bad"]).explain(["not bad"], 1)
    own = innv_ext.create_analyzer("deep_shap", explainer.model, background=2, steps=2)
    own = own.fit(np.array([[4, 5, 6], [7, 0, 0]])).analyze(np.array([[11, 7, 0]]), 1)
    np.testing.assert_allclose(found.relevance, own, rtol=1e-5, atol=1e-7)
    for analyzer in (innv_ext.analyzers.Gradient, "Gradient"):
        explainer = TextExplainer(numbered(), analyzer, tokenizer=str.split, vocabulary=WORDS, seed=3)
        assert type(explainer.analyzer) is innv_ext.analyzers.Gradient and explainer.analyzer.seed == 3


# --- tasks -------------------------------------------------------------------------------------------------------


def test_a_classifier_with_a_preprocessor():
    task = classifier()
    found = explain(task, ["played a film", "bad"], "input_t_gradient", target=2)
    assert found.tokens == [["[CLS]", "play", "##ed", "a", "film", "[SEP]"], ["[CLS]", "bad", "[SEP]", *["[PAD]"] * 3]]
    x = task.preprocessor(["played a film", "bad"])
    analyzer = innv_ext.create_analyzer("input_t_gradient", task)
    whole = analyzer.explain({**x, "padding_mask": x["padding_mask"].astype("int32")}, 2)
    np.testing.assert_allclose(found.relevance, whole.attribution["token_ids"][:, :6], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.scores, whole.score, rtol=1e-5)
    np.testing.assert_allclose(found.elsewhere, whole.attribution["segment_ids"].sum(axis=1), rtol=1e-4)
    assert found.elsewhere.all() and not found.explanation.attribution["padding_mask"].any()
    assert found.special.tolist() == [[True, *[False] * 4, True], [True, False, True, *[False] * 3]]
    assert [[w.text for w in row] for row in found.words()] == [["[CLS]", "played", "a", "film", "[SEP]"],
                                                               ["[CLS]", "bad", "[SEP]"]]  # fmt: skip
    assert found.positions is None and found.x["token_ids"].shape == (2, 6)


def test_a_causal_task_tells_the_next_token():
    task = causal()
    explainer = TextExplainer(task, "input_t_gradient")
    found = explainer.explain(["played a", "it"], "film")
    assert found.tokens == [["[CLS]", "play", "##ed", "a"], ["[CLS]", "it", "[PAD]", "[PAD]"]]
    assert found.positions.tolist() == [3, 1] and found.target_names == ["film", "film"]
    x = {"token_ids": found.ids, "padding_mask": (found.ids != 0).astype("int32")}
    own = innv_ext.create_analyzer("input_t_gradient", task).explain(x, [[3, 6], [1, 6]])
    np.testing.assert_allclose(found.relevance, own.attribution["token_ids"], rtol=1e-5, atol=1e-7)
    logits = np.asarray(task(x))
    np.testing.assert_allclose(found.scores, logits[[0, 1], [3, 1], 6], rtol=1e-5)
    likeliest = explainer.explain(["played a", "it"])
    assert likeliest.targets.tolist() == [logits[0, 3].argmax(), logits[1, 1].argmax()]
    np.testing.assert_allclose(likeliest.scores, [logits[0, 3].max(), logits[1, 1].max()], rtol=1e-5)
    earlier = explainer.explain(["played a", "it"], position=[1, -2])
    assert earlier.positions.tolist() == [1, 0]
    assert earlier.targets.tolist() == [logits[0, 1].argmax(), logits[1, 0].argmax()]
    assert not earlier.relevance[0, 2:].any() and not earlier.relevance[1, 1:].any()  # what comes later has no say
    by_number = explainer.explain(["played a", "it"], [6, "film"])
    np.testing.assert_array_equal(by_number.relevance, found.relevance)


@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon"])
def test_rows_of_a_completion_are_single_explanations(name, monkeypatch):
    model = transformer()
    explainer = TextExplainer(model, name, tokenizer=Pieces())
    calls = []
    own = type(explainer.analyzer).explain
    monkeypatch.setattr(type(explainer.analyzer), "explain", lambda *a, **k: calls.append(a[1].shape) or own(*a, **k))
    found = explainer.explain(["it played", "not"], completion=["a fine film", "bad"])
    assert calls == [(4, 5)]  # one batch of all positions of all texts
    first, second = found
    assert isinstance(first, CompletionExplanation) and second.relevance.shape == (1, 1)
    assert first.sources == ["it", "play", "##ed", "a", "fine"] and first.targets == ["a", "fine", "film"]
    for k, prefix in enumerate(["it played", "it played a", "it played a fine"]):
        alone = explainer.explain(prefix, first.targets[k])
        np.testing.assert_allclose(first.relevance[k, : 3 + k], alone.relevance[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(first.scores[k], alone.scores[0], rtol=1e-5)
        assert np.isnan(first.relevance[k, 3 + k :]).all()
    np.testing.assert_allclose(first.elsewhere, 0, atol=1e-7)
    names, merged = first.words()
    assert names == ["it", "played", "a", "fine"]
    np.testing.assert_allclose(merged[:, 1], first.relevance[:, 1:3].sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(merged), np.isnan(first.relevance[:, [0, 1, 3, 4]]))


def test_completions_of_a_task_and_of_a_model_of_strings():
    found = TextExplainer(causal(), "gradient").explain("it", completion="played")
    assert found.sources == ["[CLS]", "it", "play"] and found.targets == ["play", "##ed"]
    assert found.special.tolist() == [True, False, False] and found.target_ids.tolist() == [8, 9]
    text, words = keras.Input((1,), dtype="string"), vectorization(output_sequence_length=6)
    h = layers.LSTM(4, return_sequences=True)(layers.Embedding(8, 3)(words(text)))
    model = keras.Model(text, layers.Dense(8)(h))
    explainer = TextExplainer(weighted(model), "input_t_gradient")
    found = explainer.explain("a fine", completion="film")
    alone = explainer.explain("a fine", target="film")
    np.testing.assert_allclose(found.relevance, alone.relevance[:, :2], rtol=1e-5, atol=1e-7)
    assert alone.positions.tolist() == [1] and not alone.relevance[0, 2:].any()


def test_relevance_of_padding_is_told_and_not_hidden():
    """A model that looks ahead: what falls on the padding behind a position stands beside the matrix."""
    x = keras.Input((5,), dtype="int32")
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Embedding(len(WORDS), 4)(x))
    model = weighted(keras.Model(x, layers.Dense(len(WORDS))(h)))
    found = explain(model, "it", "input_t_gradient", completion="a film", tokenizer=Pieces())
    maps = found.explanation.attribution
    np.testing.assert_allclose(np.nansum(found.relevance, axis=1) + found.elsewhere, maps.sum(axis=1), rtol=1e-4)
    assert found.elsewhere.all()


# --- pictures and pages ------------------------------------------------------------------------------------------


def test_pictures_and_pages(tmp_path):
    found = explain(classifier(), ["played a film", "bad"], "input_t_gradient", target=2)
    figure = found.plot(tmp_path / "tokens.png")
    shown = [t.get_text() for t in figure.axes[0].texts]
    assert shown[:6] == ["[CLS]", "play", "##ed", "a", "film", "[SEP]"]
    assert shown[-1].startswith("2: ") and "elsewhere" in shown[-1]
    shown = [t.get_text() for t in found.plot(words=True).axes[0].texts]
    assert shown[:5] == ["[CLS]", "played", "a", "film", "[SEP]"]
    page = found.to_html(tmp_path / "tokens.html", words=True)
    assert page in (tmp_path / "tokens.html").read_text("utf-8") and ">played</span>" in page and "elsewhere" in page
    part = TextExplainer(causal(), "gradient").explain("it", completion="played a")
    figure = part.plot(tmp_path / "matrix.png")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == part.sources
    assert part.to_html(tmp_path / "matrix.html").count("<td></td>") == 3
    assert part.to_html(words=True).count("<td></td>") == 1  # a word of which the first part was read is there
    assert {p.name for p in tmp_path.iterdir()} == {"tokens.png", "tokens.html", "matrix.png", "matrix.html"}


# --- errors ------------------------------------------------------------------------------------------------------


def test_what_has_no_way_in_says_which_one_it_needs():
    lm = transformer()
    with pytest.raises(InvalidInputError, match=r"takes no strings, and has no preprocessor.*give tokenizer="):
        explain(lm, "a film")
    with pytest.raises(InvalidInputError, match="vocabulary must be the list of all tokens"):
        explain(lm, "a film", tokenizer=str.split)
    with pytest.raises(InvalidInputError, match="tokenizer must be a TextVectorization layer"):
        explain(lm, "a film", tokenizer=3)
    with pytest.raises(InvalidInputError, match="no token 'zz', which the tokenizer makes"):
        explain(lm, "zz", tokenizer=str.split, vocabulary=["a", "b"])
    with pytest.raises(InvalidInputError, match="has no vocabulary yet"):
        explain(lm, "zz", tokenizer=layers.TextVectorization())
    with pytest.raises(InvalidInputError, match="tokenizer= is for models of token numbers"):
        explain(strings()[0], "zz", tokenizer=Pieces())
    image = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)], name="image")
    with pytest.raises(UnsupportedModelError, match=r"'image' takes float32 values .batch, 4, 4, 1., no token numbers"):
        explain(image, "zz", tokenizer=Pieces())
    a, b = keras.Input((1,), dtype="string"), keras.Input((3,))
    two = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([vectorization(output_mode="count")(a)[:, 0], b])))
    with pytest.raises(UnsupportedModelError, match="has 2 inputs, of which strings are one"):
        explain(two, "a film")
    lookup = keras.Model(a, layers.Embedding(4, 2)(layers.StringLookup(vocabulary=["a", "b"])(a)), name="lookup")
    with pytest.raises(UnsupportedModelError, match=r"'lookup' takes are read by .*one TextVectorization layer must"):
        explain(lookup, "a film")

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.words, self.table = vectorization(), layers.Embedding(8, 2)

        def call(self, x):
            return self.table(self.words(x))[:, 0]

    own = Own()
    own(ops.convert_to_tensor(np.array([["a film"]])))
    with pytest.raises(UnsupportedModelError, match=r"'own' reads texts by .* inside a call written by hand"):
        explain(own, "a film")
    for x, wanted in ((["a film"], lm), (np.array([["a film"]]), strings()[0])):
        with pytest.raises((InvalidInputError, UnsupportedModelError), match=r"innv_ext\.text\.explain"):
            innv_ext.create_analyzer("gradient", wanted).analyze(x)
    with pytest.raises(InvalidInputError, match=r"keras.Model or a task of keras-hub, got str"):
        explain("model", "a film")
    with pytest.raises(InvalidInputError, match="Did you mean 'gradient'"):
        explain(lm, "a film", "gradiant", tokenizer=Pieces())
    task = classifier()
    task.preprocessor = type("Masker", (), {"tokenizer": Pieces(), "__call__": lambda self, x: ({}, 1)})()
    with pytest.raises(UnsupportedModelError, match="makes training data of a text"):
        explain(task, "a film")


def test_texts_that_cannot_be_explained():
    model, _ = strings(output_sequence_length=3)
    explainer = TextExplainer(model)
    for texts, message in [
        (3, "texts must be a string"), ([], "texts must be a string"), (["a", 3], "got 3"), (" ", "texts.0. is empty"),
        (["a", ""], "texts.1. is empty"), (["a", "..."], "texts.1. has no tokens"),
        (["a", "a fine film it"], "texts.1. has 4 tokens, but 'reviews' takes 3 at most"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            explainer.explain(texts)
    with pytest.raises(InvalidInputError, match="position= is for models that give an output for every token"):
        explainer.explain("a", position=0)
    with pytest.raises(InvalidInputError, match="completion= is for models that give an output for every token"):
        explainer.explain("a", completion="fine")
    with pytest.raises(InvalidInputError, match=r"neuron_selection 2 .* is out of range"):
        explainer.explain("a", 2)
    for task, count in ((classifier(6), 8), (causal(6), 7)):  # special tokens included
        with pytest.raises(InvalidInputError, match=rf"texts\[1\] has {count} tokens, but .* takes 6 at most"):
            explain(task, ["a", "a fine film a fine film"])


def test_next_tokens_that_cannot_be_explained():
    explainer = TextExplainer(causal(), "gradient")
    for options, message in [
        ({"target": "zebra"}, "target 'zebra' is not in the vocabulary"), ({"target": 99}, "target 99 is out of range"),
        ({"target": "played"}, "'played' is 2 tokens .'play', '##ed'."), ({"target": 1.5}, "must be an integer"),
        ({"target": [1, 2]}, "target has 2 entries for 1 texts"), ({"position": 4}, "position 4 is out of range"),
        ({"position": -5}, "position -5 is out of range"), ({"position": "x"}, "position must be an integer"),
        ({"completion": "a", "target": 1}, "target= goes without completion="), ({"completion": " "}, "completion.0."),
        ({"completion": ["a", "b"]}, "completion must be one text for each of 1"),
        ({"completion": "a a a a a a"}, "texts.0. has 9 tokens, but 'next' takes 8"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            explainer.explain("a fine film", **options)


def test_inputs_that_do_not_follow_from_a_text():
    x, other = keras.Input((4,), dtype="int32", name="token_ids"), keras.Input((4,), name="ages")
    h = layers.Flatten()(layers.Embedding(len(WORDS), 2)(x))
    model = keras.Model([x, other], layers.Dense(2)(layers.Concatenate()([h, other])))
    with pytest.raises(UnsupportedModelError, match=r"The input 'ages' .* does not follow from a text"):
        explain(model, "a", tokenizer=Pieces())
    pair = [keras.Input((4,), dtype="int32", name=name) for name in ("left", "right")]
    table = layers.Embedding(len(WORDS), 2)
    model = keras.Model(pair, layers.Dense(2)(layers.Flatten()(layers.Add()([table(i) for i in pair]))))
    with pytest.raises(UnsupportedModelError, match="Which of the inputs left, right"):
        explain(model, "a", tokenizer=Pieces())


@pytest.mark.parametrize("name", ["explainer"])
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"innv_ext.text.{name}")
    failed, tried = doctest.testmod(module, extraglobs={"keras": keras})
    assert tried and not failed


def test_a_task_without_preprocessor_is_a_model_of_numbers():
    task = causal()
    inputs, outputs = task.input, task.output
    bare = Task(inputs, outputs, None)
    found = explain(bare, "a film", "gradient", target="it", tokenizer=Pieces())
    assert found.tokens == [["a", "film"]]
