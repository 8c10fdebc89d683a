"""Which words decide? Explanations of a small text classifier, token by token.

    python examples/text_embedding.py [--epochs 60] [--out out/text]

The texts are made by the script: short reviews that praise or complain, a third of them by a negation. A convolution
over embedded words learns to tell them apart in a few seconds, and its score before the sigmoid is explained: above 0
it stands for praise, below 0 for complaint. Analyzers take the model of token numbers as it is and return one number
per token. Where a method needs a reference it is token 0, the padding.

The other way is to explain the part of the model behind the embedding, keras.Model(embedding_output, model.output), for
the vectors of the tokens, and to sum the relevance of each vector. The script does both: they agree. In the folder
--out:

- words.png: a row of coloured words per sentence and method; red speaks for praise, blue for complaint; behind them
  what falls on the padding, and the row's largest relevance; before them the sum of all
- words.md: the words with the largest mean relevance over all test sentences, which are printed too
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common  # first: it loads TensorFlow quietly
import keras
import numpy as np
from keras import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import innv_ext
from innv_ext.visualization import plot_tokens

THINGS = "film story music acting ending book hotel room breakfast staff".split()
GOOD = "wonderful charming funny pleasant excellent brilliant".split()
BAD = "boring awful noisy clumsy dirty disappointing".split()
TEMPLATES = (  # and whether they turn the meaning of the adjective around
    ("the {thing} was {adjective}", False),
    ("the {thing} was really {adjective}", False),
    ("we found the {thing} {adjective}", False),
    ("what a {adjective} {thing} we had", False),
    ("the {thing} was not {adjective}", True),
    ("we never found the {thing} {adjective}", True),
)
SHOWN = (
    "the breakfast was really excellent",
    "the story was not boring",
    "we never found the staff pleasant",
    "the room was dirty and the music was charming",
)
COUNT, TESTED, LENGTH = 240, 60, 10  # sentences, of these for testing, tokens of a sentence
PADDING = 0

# with an epsilon near 0 LRP would be the same as input_t_gradient here: all non-linearities are maxima
# method -> (parameters, the parameter that takes a reference: token 0, or its vector behind the embedding)
METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "input_t_gradient": ({}, ""),
    "lrp.epsilon": ({"epsilon": 0.25}, ""),
    "integrated_gradients": ({"steps": 64}, "reference_inputs"),
    "deep_lift": ({}, "reference_inputs"),
    "occlusion": ({"patch": 1, "stride": 1}, "reference"),
}
WIDTH, LINE, HEAD, SENTENCE = 6.8, 0.26, 0.30, 0.12  # inches: a row's width and height, above a sentence, below it
NAMES, TOP, BOTTOM = 2.0, 0.04, 0.62


# --- texts -------------------------------------------------------------------------------------------------------


def make_sentences() -> tuple[list[str], np.ndarray]:
    """All different, in random order, half of them praise (1); none is one of SHOWN."""
    every = {}
    for template, turned in TEMPLATES:
        for thing in THINGS:
            for adjective in GOOD + BAD:
                every[template.format(thing=thing, adjective=adjective)] = int((adjective in GOOD) != turned)
    texts = np.array([text for text in every if text not in SHOWN])
    chosen = np.random.default_rng(0).permutation(texts)
    labels = np.array([every[text] for text in chosen])
    each = [np.flatnonzero(labels == label)[: COUNT // 2] for label in (0, 1)]
    kept = np.sort(np.concatenate(each))
    return chosen[kept].tolist(), labels[kept]


def make_vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """Word -> token number, from 1 on."""
    words = sorted({word for text in texts for word in text.split()})
    return {word: i for i, word in enumerate(words, PADDING + 1)}


def to_tokens(texts: Sequence[str], vocabulary: dict[str, int]) -> np.ndarray:
    """Token numbers (texts, LENGTH), padded at the end."""
    tokens = np.full((len(texts), LENGTH), PADDING, "int32")
    for row, text in zip(tokens, texts, strict=True):
        words = text.split()
        row[: len(words)] = [vocabulary[word] for word in words]
    return tokens


# --- model and explanations --------------------------------------------------------------------------------------


def train(x: np.ndarray, y: np.ndarray, words: int, epochs: int) -> keras.Model:
    """Embedding, convolution over three words, maximum over the sentence, one output: the probability of praise."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    vectors = layers.Embedding(words + 1, 16, name="embedding")(tokens)
    features = layers.Conv1D(32, 3, padding="same", activation="relu")(vectors)
    features = layers.Dropout(0.3)(layers.GlobalMaxPooling1D()(features))
    model = keras.Model(tokens, layers.Dense(1, activation="sigmoid")(features), name="reviews")
    model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy")
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)
    return model


@dataclass(frozen=True)
class Words:
    """Relevance of tokens, one array (texts, LENGTH) per method.

    Attributes
    ----------
    relevance : method -> by the model of tokens
    behind : method -> by the part of the model behind the embedding, summed over each vector
    scores : (texts,), explained
    """

    relevance: dict[str, np.ndarray]
    behind: dict[str, np.ndarray]
    scores: np.ndarray


def explain(model: keras.Model, tokens: np.ndarray) -> Words:
    """All methods, on tokens and behind the embedding."""
    embedding_output = model.get_layer("embedding").output
    behind = keras.Model(embedding_output, model.output)
    to_vectors = keras.Model(model.input, embedding_output)
    vectors = to_vectors(tokens).numpy()
    padding = to_vectors(np.full((1, LENGTH), PADDING, "int32")).numpy()[0]
    found = Words({}, {}, innv_ext.create_analyzer("gradient", model).explain(tokens).extras["score"])
    for name, (params, reference) in METHODS.items():
        own, other = ({reference: value} if reference else {} for value in (PADDING, padding))
        found.relevance[name] = innv_ext.create_analyzer(name, model, progress=False, **params, **own).analyze(tokens)
        maps = innv_ext.create_analyzer(name, behind, progress=False, **params, **other).analyze(vectors)
        # occlusion replaces a whole vector, and gives what it finds to each of its components
        found.behind[name] = maps.mean(axis=-1) if name == "occlusion" else maps.sum(axis=-1)
    return found


def differences(found: Words) -> dict[str, float]:
    """How far the two ways are apart, over the largest relevance; LRP must be the same."""
    gaps = {}
    for name, maps in found.relevance.items():
        gaps[name] = float(np.abs(maps - found.behind[name]).max() / np.abs(maps).max())
    if gaps["lrp.epsilon"] > 1e-4:
        raise RuntimeError(f"lrp.epsilon differs by {gaps['lrp.epsilon']:.1e} between tokens and their vectors.")
    return gaps


def ranking(texts: Sequence[str], maps: np.ndarray) -> list[tuple[str, float]]:
    """Words with their mean relevance where they occur, the largest first."""
    found = defaultdict(list)
    for text, values in zip(texts, maps, strict=True):
        for word, value in zip(text.split(), values, strict=False):
            found[word].append(float(value))
    means = {word: float(np.mean(values)) for word, values in found.items()}
    return sorted(means.items(), key=lambda item: -item[1])


def table(texts: Sequence[str], found: Words, count: int = 4) -> str:
    """A line per method: its words, how much of the score it shares out, the difference between the two ways."""
    gaps, rows = differences(found), []
    for name, maps in found.relevance.items():
        words = ranking(texts, maps)
        praise = ", ".join(f"{word} {value:+.2f}" for word, value in words[:count])
        complaint = ", ".join(f"{word} {value:+.2f}" for word, value in words[: -count - 1 : -1])
        share = f"{np.median(maps.sum(axis=1) / found.scores):.2f}"
        rows.append([name, praise, complaint, share, f"{gaps[name]:.0e}"])
    header = "method | most for praise | most for complaint | sum / score | tokens or vectors: largest difference"
    return _common.markdown(header, rows)


# --- picture -----------------------------------------------------------------------------------------------------


def signed(value: float) -> str:
    """With + or a minus of the same width."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def verdict(score: float) -> str:
    """What the model says, and the score that is explained."""
    praise = 1 / (1 + np.exp(-score))
    said = f"praise {praise:.2f}" if praise > 0.5 else f"complaint {1 - praise:.2f}"
    return f"{said}, score {signed(score)}"


def draw(texts: Sequence[str], found: Words, path: Path) -> None:
    """A block per sentence, a row per method; each row on its own scale."""
    methods = list(found.relevance)
    block = HEAD + LINE * len(methods) + SENTENCE
    across, up = NAMES + WIDTH + 0.1, TOP + block * len(texts) + BOTTOM
    figure = Figure(figsize=(across, up), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for i, (text, score) in enumerate(zip(texts, found.scores, strict=True)):
        top = TOP + i * block + HEAD
        rows = [
            figure.add_axes((NAMES / across, 1 - (top + (j + 1) * LINE) / up, WIDTH / across, LINE / up))
            for j in range(len(methods))
        ]
        relevance = np.array([maps[i] for maps in found.relevance.values()])
        names = [f"{name}, sum {signed(row.sum())}" for name, row in zip(methods, relevance, strict=True)]
        tokens = [text.split()] * len(methods)
        plot_tokens(tokens, relevance, row_names=names, fontsize=9.0, colorbar=False, ax=rows)
        rows[0].set_title(verdict(score), loc="left", fontsize=10, fontweight="bold", pad=4)
    ends = "for complaint: -max of the row", "for praise: +max of the row"
    _common.draw_bar(figure, (0.5 - 1.4 / across, 0.34 / up, 2.8 / across, 0.1 / up), *ends)
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Make texts, train, explain, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/text"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60, metavar="N", help="of the training (default: %(default)s)")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)

    texts, labels = make_sentences()
    vocabulary = make_vocabulary([*texts, *SHOWN])
    tokens = to_tokens(texts, vocabulary)
    print(f"Training on {COUNT - TESTED} sentences ...", flush=True)
    model = train(tokens[TESTED:], labels[TESTED:], len(vocabulary), options.epochs)
    right = np.mean((model.predict(tokens[:TESTED], verbose=0)[:, 0] > 0.5) == labels[:TESTED])
    print(f"{right:.1%} of {TESTED} test sentences right.\n")

    found = table(texts[:TESTED], explain(model, tokens[:TESTED]))
    (out / "words.md").write_text(found + "\n", encoding="utf-8")
    shown = explain(model, to_tokens(SHOWN, vocabulary))
    differences(shown)
    draw(SHOWN, shown, out / "words.png")
    print(f"Mean relevance of words in {TESTED} test sentences:\n\n{found}\n\nWrote words.png and words.md to {out}.")


if __name__ == "__main__":
    main()
