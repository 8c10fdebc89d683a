"""The examples of transformers and recurrent networks: what they make is what they say, and what they find holds."""

import importlib
import re

import numpy as np
import pytest
from example_checks import ROOT, check_picture, markdown_rows, run
from matplotlib.image import imread


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


def right(text):
    """The share of test samples that are right, in percent."""
    return float(re.search(r"(\d+\.\d)% of \d+ test \w+ right", text)[1])


def areas(rows, column=1):
    """Method -> (mean, standard error)."""
    return {row[0]: tuple(float(value) for value in row[column].split(" ± ")) for row in rows}


# --- text --------------------------------------------------------------------------------------------------------


def is_good(clause, text):
    """Whether a clause praises its thing, read anew."""
    words = clause.split()
    (adjective,) = [word for word in words if word in (*text.GOOD, *text.BAD)]
    return (adjective in text.GOOD) ^ bool({"not", "never"} & set(words))


def test_answers_are_what_the_clause_says_that_counts(example):
    text = example("transformer_text")
    made, answers = text.make(300, np.random.default_rng(0), ["the food was awful but we had dirty room"])
    assert len(set(made)) == len(answers) == 300
    assert 0.4 < answers.mean() < 0.6
    for sentence, answer in zip(made, answers, strict=True):
        assert len(sentence.split()) <= text.LENGTH
        plain = sentence
        for aside in text.ASIDES:
            plain = plain.replace(f"{aside} and ", "").replace(f" and {aside}", "")
        if plain.startswith("although "):  # "although the food was not dirty we had noisy music"
            counts = re.split(r" (?=the |we )", plain)[-1]
        else:
            first, conjunction, second = re.split(r" (but|yet|although) ", plain)
            counts = first if conjunction == "although" else second
        assert answer == is_good(counts, text), sentence
    assert not set(made) & set(text.make(50, np.random.default_rng(0), made)[0])
    assert not set(text.SHOWN) & set(text.make(50, np.random.default_rng(1), text.SHOWN)[0])
    assert all(len(shown.split()) <= text.LENGTH for shown in text.SHOWN)


def test_tokens_are_padded_and_forgotten(example):
    text = example("transformer_text")
    tokens = text.to_tokens(["we had awful food", "yet"])
    assert [text.VOCABULARY[i] for i in tokens[0, :4]] == "we had awful food".split()
    assert (tokens[0, 4:] == text.PADDING).all()
    assert (tokens[1, 1:] == text.PADDING).all()
    many = np.repeat(tokens, 1000, axis=0)
    seen = text.forget(many, np.random.default_rng(0))
    assert (seen[many == text.PADDING] == text.PADDING).all()
    changed = (seen != many)[many != text.PADDING]
    assert (seen[seen != many] == text.UNKNOWN).all()
    assert 0.2 < changed.mean() < 0.3  # half of the sentences, half of their words


def test_the_ordering_test_takes_words_and_no_padding(example):
    """Every share of kept words against a count by hand; what is padding is never replaced."""
    import keras

    text = example("transformer_text")
    x = keras.Input((text.LENGTH,), dtype="int32")
    table = keras.layers.Embedding(len(text.VOCABULARY), 1, name="table")
    model = keras.Model(x, keras.ops.sum(table(x), axis=1))
    values = np.arange(len(text.VOCABULARY), dtype="float32")[:, None]
    values[text.PADDING], values[text.UNKNOWN] = 1000.0, 0.0  # a sum that would tell
    table.set_weights([values])
    tokens = text.to_tokens(["we had awful food but", "the view was not dirty and"])
    maps = {"gradient": values[tokens, 0]}
    least, most = text.judge(model, tokens, maps)
    for i, count in enumerate((5, 6)):
        own = values[tokens[i, :count], 0]
        for result, order in ((least, np.sort(own)), (most, np.sort(own)[::-1])):
            kept = np.rint(result.rates * count).astype(int)
            expected = [order[: count - k].sum() ** 2 for k in kept]
            np.testing.assert_allclose(result.distortion["gradient"][i], expected, rtol=1e-5)
    rows = markdown_rows(text.table(least, most))
    assert [row[2] for row in rows if row[0] == "gradient"] == ["1.00"]


@pytest.mark.slow
def test_transformer_text_is_explained_better_by_attnlrp(tmp_path):
    done = run("transformer_text.py", cwd=tmp_path)
    assert done.stderr == ""
    assert right(done.stdout) > 95
    out = tmp_path / "out" / "transformer"
    rows = markdown_rows((out / "ordering.md").read_text(encoding="utf-8"))
    found = areas(rows)
    assert found["AttnLRP"][0] < 0.7 * found["gradient"][0]
    assert found["AttnLRP"][0] < sum(found["LRP-epsilon"])  # 1.5 % below it, less than a standard error
    assert all(found[name][0] < found["random"][0] for name in ("AttnLRP", "CP-LRP", "integrated gradients"))
    assert imread(out / "words.png").shape[1] > 1000
    assert imread(out / "ordering.png").shape[1] > 1000


# --- images and signals ------------------------------------------------------------------------------------------


def test_shifted_digits_are_moved_by_at_most_a_pixel(example):
    vit = example("vit_digits")
    x = np.random.default_rng(0).uniform(size=(40, 16, 16, 1)).astype("float32")
    moved = vit.shift(x, np.random.default_rng(1))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = set()
    for image, one in zip(padded, moved, strict=True):
        at = [(i, j) for i in range(3) for j in range(3) if np.array_equal(image[i : i + 16, j : j + 16], one)]
        assert len(at) == 1
        places.update(at)
    assert len(places) == 9


@pytest.mark.slow
def test_vit_digits_trains_explains_and_draws(tmp_path):
    done = run("vit_digits.py", cwd=tmp_path)
    assert done.stderr == ""
    assert right(done.stdout) > 95
    out = tmp_path / "out" / "vit"
    rows = markdown_rows((out / "vit.md").read_text(encoding="utf-8").split("Pixels:")[0])
    found = areas(rows)
    assert found["AttnLRP, gamma"][0] < min(found[name][0] for name in ("gradient", "gradient x input", "random"))
    check_picture(out / "maps.png", (5, 9), 3000)
    assert imread(out / "ordering.png").shape[1] > 1000


def test_signals_are_what_their_labels_say(example):
    lstm = example("lstm_signals")
    signals = lstm.make(200, 3)
    assert signals.x.shape == (200, lstm.STEPS, 1)
    np.testing.assert_array_equal(signals.x[..., 0] != 0, signals.kept)
    lengths = signals.kept.sum(axis=1)
    assert (lengths.min(), lengths.max()) == (lstm.SHORTEST, lstm.STEPS)
    assert (signals.events.sum(axis=2) == lstm.EVENT).all()
    assert not signals.events.all(axis=1).any()  # apart
    assert (signals.events.any(axis=1) <= signals.kept).all()
    heights = (signals.x[:, None, :, 0] * signals.events).mean(axis=2)
    np.testing.assert_array_equal(2 * (heights[:, 0] < 0) + (heights[:, 1] < 0), signals.labels)
    assert (np.diff(signals.events.argmax(axis=2), axis=1) > 0).all()
    for label in range(4):  # a class and the one that differs from it in the second event
        first, second = (lstm.CLASSES[n].split() for n in (label, label ^ 1))
        assert first[0] == second[0]
        assert first[1] != second[1]


def test_shares_in_events_are_those_of_the_magnitude(example):
    lstm = example("lstm_signals")
    found = lstm.Found(np.array([[1.0, -2.0, 1.0, 0.0], [0.0, 0.0, 0.0, -3.0]]), np.ones(2))
    steps = np.array([[True, True, False, False], [True, False, False, False]])
    np.testing.assert_allclose(found.share(steps), [0.75, 0.0])


@pytest.mark.slow
def test_lstm_signals_trains_explains_and_draws(tmp_path):
    done = run("lstm_signals.py", cwd=tmp_path)
    assert done.stderr == ""
    assert right(done.stdout) > 95
    out = tmp_path / "out" / "lstm"
    rows = markdown_rows((out / "lstm.md").read_text(encoding="utf-8"))
    assert {row[4] for row in rows} == {"0"}  # padding
    inside = {row[0]: float(row[1].split()[0]) for row in rows}
    assert min(inside[name] for name in ("LRP", "DeepLIFT", "integrated gradients")) > 40 > 31 > inside["gradient"]
    picture = imread(out / "time.png")
    assert picture.shape[1] > 1000
