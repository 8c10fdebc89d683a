"""What did the transformer read? AttnLRP against gradients and other rules, word by word.

    python examples/transformer_text.py [--epochs 16] [--out out/transformer]

The script makes its sentences: short reviews of two things, of which only one counts. In "the staff was awful but the
food was not dirty" it is the second, in "the room was lovely although we had noisy music" the first, and in "although
the room was lovely we had noisy music" the second again. To tell whether a review is good, a network has to find the
clause that counts by the conjunction, the adjective in it, and a negation that may turn it around; the other clause and
asides only distract. Two blocks of attention and a mean over the words do it. Padding is masked. In the second half of
the training words are replaced by [UNK], at rates of all sizes, so that sentences with missing words are nothing new to
the network.

Then 200 test sentences are explained for the predicted class, and the relevance ordering test on tokens judges the maps
(``evaluation.relevance_ordering``): the least relevant words are replaced by [UNK] first. The distortion is the squared
change of the class's probability, its area over the share of words that are kept is small where the words that matter
were found. Taking the most relevant words first tells the same from the other side: a large area is good. "gradient" of
a token is the derivative along the one-hot coordinate of its word, which is vector times gradient. In the folder --out:

- words.png: some sentences, a row of coloured words per method; red speaks for the predicted answer, blue against it
- ordering.png: the curves of the test
- ordering.md: the areas with standard errors, which are printed too

What is found: words in the order of their gradients are no better than words in random order, an area of 0.18. AttnLRP
has 0.077 ± 0.003, with epsilon = 0.1, LRP-epsilon 0.078 ± 0.004 and CP-LRP 0.076 ± 0.004. With two more seeds AttnLRP
has 0.060 and 0.072, 0.29 and 0.34 of the gradient's area, LRP-epsilon 0.061 and 0.069: on these sentences the rules of
attention cannot be told apart. All lose with an epsilon of 1e-6, AttnLRP 0.089, LRP-epsilon 0.085. The larger one was
chosen on another network, for sentences of a similar kind.

Not every task is like that. In a trial with a question in front of the review ("food ? the staff was ..."), whose word
only turns attention to its clause, AttnLRP (0.175) was behind CP-LRP (0.158) and integrated gradients (0.114), and
hardly before gradients (0.187): where attention has made up its mind, softmax gives next to nothing to what steers it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _common  # first: it loads TensorFlow quietly
import encoders
import keras
import numpy as np
from keras import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import innv_ext
from innv_ext.evaluation import OrderingResult, relevance_ordering
from innv_ext.visualization import plot_tokens

THINGS = "food staff room view music".split()
GOOD = "wonderful charming excellent lovely pleasant".split()
BAD = "awful dirty boring ugly noisy".split()
CLAUSES = (  # and whether they turn the meaning of the adjective around
    ("the {thing} was {adjective}", False),
    ("the {thing} was really {adjective}", False),
    ("we had {adjective} {thing}", False),
    ("the {thing} was not {adjective}", True),
    ("we never had {adjective} {thing}", True),
)
SENTENCES = (  # and which of the clauses counts
    ("{0} but {1}", 1),
    ("{0} yet {1}", 1),
    ("although {0} {1}", 1),
    ("{0} although {1}", 0),
)
ASIDES = ("it rained all day", "we came by train")
SHOWN = (
    "the staff was awful but the food was not dirty",
    "the room was lovely although we had noisy music",
    "it rained all day and although we never had ugly food the view was boring",
)
ANSWERS = ("bad", "good")
PADDING, UNKNOWN, LENGTH = 0, 1, 16  # tokens, and the longest sentence
TRAINED, TESTED = 8000, 200  # sentences of an epoch, all new; sentences to judge by
WIDTH, HEADS, KEY, BLOCKS = 32, 4, 8, 2
RATES = 21  # points of a curve

EPSILON = 0.1  # sums that are nearly 0 say little about their parts; the same for all rules
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "AttnLRP": ("lrp.attnlrp", {"epsilon": EPSILON}),
    "CP-LRP": ("lrp.cp_lrp", {"epsilon": EPSILON}),
    "LRP-epsilon": ("lrp.epsilon", {"epsilon": EPSILON}),
    "integrated gradients": ("integrated_gradients", {"steps": 32, "reference_inputs": UNKNOWN, "progress": False}),
    "gradient": ("gradient", {}),
    "AttnLRP, epsilon 1e-6": ("lrp.attnlrp", {"epsilon": 1e-6}),
    "LRP-epsilon, epsilon 1e-6": ("lrp.epsilon", {"epsilon": 1e-6}),
}
SEEN = 5  # methods in the picture of words
BASELINE = "gradient"
NAMES, LINE, ROW, HEAD, FOOT = 1.9, 8.2, 0.26, 0.34, 0.5  # inches of words.png


# --- sentences ---------------------------------------------------------------------------------------------------


def clause(thing: str, rng: np.random.Generator) -> tuple[str, int]:
    """What is said of a thing, and whether that is good."""
    text, turned = CLAUSES[rng.integers(len(CLAUSES))]
    good = bool(rng.integers(2))
    return text.format(thing=thing, adjective=rng.choice(GOOD if good else BAD)), int(good != turned)


def sentence(rng: np.random.Generator) -> tuple[str, int]:
    """Two clauses, perhaps an aside in front or behind, and the answer, a number of ANSWERS."""
    texts, meant = zip(*(clause(thing, rng) for thing in rng.permutation(THINGS)[:2]), strict=True)
    joined, counts = SENTENCES[rng.integers(len(SENTENCES))]
    parts = [joined.format(*texts)]
    if rng.random() < 0.6:
        parts.insert(int(rng.integers(2)), str(rng.choice(ASIDES)))
    return " and ".join(parts), meant[counts]


def make(count: int, rng: np.random.Generator, without: Sequence[str] = ()) -> tuple[list[str], np.ndarray]:
    """Different sentences, none of which is among ``without``, and their answers."""
    found: dict[str, int] = {}
    banned = set(without)
    while len(found) < count:
        text, answer = sentence(rng)
        if text not in banned:
            found[text] = answer
    return list(found), np.array(list(found.values()))


def make_vocabulary() -> list[str]:
    """All tokens by their numbers."""
    clauses = [text.format(thing="", adjective="") for text, _ in CLAUSES]
    texts = [*THINGS, *GOOD, *BAD, *ASIDES, *clauses, *(text.format("", "") for text, _ in SENTENCES), "and"]
    return ["[PAD]", "[UNK]", *sorted({word for text in texts for word in text.split()})]


VOCABULARY = make_vocabulary()


def to_tokens(texts: Sequence[str]) -> np.ndarray:
    """Token numbers (texts, LENGTH), padded at the end."""
    numbers = {word: i for i, word in enumerate(VOCABULARY)}
    tokens = np.full((len(texts), LENGTH), PADDING, "int32")
    for row, text in zip(tokens, texts, strict=True):
        words = text.split()
        row[: len(words)] = [numbers[word] for word in words]
    return tokens


def forget(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the sentences with words replaced by [UNK], at a rate of its own for each."""
    rate = np.where(rng.random(len(tokens)) < 0.5, rng.random(len(tokens)), 0)
    gone = (rng.random(tokens.shape) < rate[:, None]) & (tokens != PADDING)
    return np.where(gone, UNKNOWN, tokens)


# --- model and explanations --------------------------------------------------------------------------------------


def build() -> keras.Model:
    """Embedding, positions, blocks of attention, and the mean over the words."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    normal = keras.initializers.RandomNormal(stddev=0.3)
    h = layers.Embedding(len(VOCABULARY), WIDTH, mask_zero=True, embeddings_initializer=normal)(tokens)
    h = encoders.Positions()(h)
    for _ in range(BLOCKS):
        h = encoders.block(h, HEADS, KEY)
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return keras.Model(tokens, layers.Dense(len(ANSWERS), activation="softmax")(h), name="reviews")


def train(epochs: int, without: Sequence[str], seed: int = 0) -> keras.Model:
    """New sentences in every epoch; in the second half some words are unknown."""
    keras.utils.set_random_seed(seed)
    model, rng = build(), np.random.default_rng(seed)
    steps = epochs * TRAINED // 100
    warm = min(200, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(1e-4, steps - warm, 0.02, warmup_target=4e-3, warmup_steps=warm)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    for epoch in range(epochs):
        texts, answers = make(TRAINED, rng, without)
        tokens = to_tokens(texts)
        model.fit(forget(tokens, rng) if 2 * epoch >= epochs else tokens, answers, batch_size=100, verbose=0)
    return model


def explain(model: keras.Model, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Relevance of every token for the predicted answer, by all methods."""
    return {
        title: innv_ext.create_analyzer(name, model, **params).analyze(tokens)
        for title, (name, params) in METHODS.items()
    }


def judge(
    model: keras.Model, tokens: np.ndarray, maps: Mapping[str, np.ndarray]
) -> tuple[OrderingResult, OrderingResult]:
    """The ordering test: the least relevant words become [UNK] first, then the most relevant first.

    Padding stays padding: it belongs to the last word, and has no relevance.
    """
    maps = {name: np.where(tokens == PADDING, 0, found) for name, found in maps.items()}
    last = np.count_nonzero(tokens != PADDING, axis=1, keepdims=True) - 1
    words = np.minimum(np.arange(LENGTH), last)

    def unknown(x: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Copies (batch, samples, LENGTH) of no word at all."""
        return np.repeat(np.where(x == PADDING, PADDING, UNKNOWN)[:, None], samples, axis=1)

    settings = {"features": words, "noise": unknown, "samples": 1, "rates": RATES, "progress": False}
    least = relevance_ordering(model, tokens, {**maps, "random": "random"}, **settings)
    backwards = {name: -found for name, found in maps.items()}
    return least, relevance_ordering(model, tokens, {**backwards, "random": "random"}, **settings)


def table(least: OrderingResult, most: OrderingResult) -> str:
    """A line per method, mean ± standard error over the sentences; the ratio is that of the first means."""
    areas, right = (least.statistics(f"{of}_area") for of in ("distortion", "accuracy"))
    other = most.statistics("distortion_area")
    rows = []
    for name in sorted(areas, key=lambda n: areas[n].mean):
        numbers = [f"{of[name].mean:.4f} ± {of[name].error:.4f}" for of in (areas, right, other)]
        rows.append([name, numbers[0], f"{areas[name].mean / areas[BASELINE].mean:.2f}", *numbers[1:]])
    header = f"method | distortion area | over {BASELINE} | accuracy area | distortion area, most relevant first"
    return _common.markdown(header, rows)


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_words(texts: Sequence[str], maps: Mapping[str, np.ndarray], outputs: np.ndarray, path: Path) -> None:
    """A block per sentence, a row per method; each row on its own scale."""
    block = HEAD + ROW * len(maps) + 0.08
    across, up = NAMES + LINE + 0.1, block * len(texts) + FOOT
    figure = Figure(figsize=(across, up), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for i, (text, output) in enumerate(zip(texts, outputs, strict=True)):
        top = i * block + HEAD
        rows = [
            figure.add_axes((NAMES / across, 1 - (top + (j + 1) * ROW) / up, LINE / across, ROW / up))
            for j in range(len(maps))
        ]
        relevance = np.array([found[i] for found in maps.values()])
        settings = {"row_names": list(maps), "scale": "row", "fontsize": 8.5, "colorbar": False}
        plot_tokens([text.split()] * len(maps), relevance, ax=rows, **settings)
        answer = int(output.argmax())
        title = f"answer: {ANSWERS[answer]}, probability {output[answer]:.2f}"
        rows[0].set_title(title, loc="left", fontsize=10, fontweight="bold", pad=4)
    ends = "against the answer: -max of the row", "for the answer: +max of the row"
    _common.draw_bar(figure, (0.5 - 1.4 / across, 0.27 / up, 2.8 / across, 0.1 / up), *ends)
    figure.savefig(path, facecolor="white")


def draw_curves(result: OrderingResult, path: Path) -> None:
    """Distortion and accuracy over the share of words that are kept."""
    figure = result.plot()
    for axes in figure.axes:
        axes.set_xlabel("share of words that are kept, the most relevant ones")
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Make sentences, train, explain, judge, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out_help = "folder to write to (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("out/transformer"), help=out_help)
    parser.add_argument("--epochs", type=int, default=16, metavar="N", help="of the training (default: %(default)s)")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)

    texts, answers = make(TESTED, np.random.default_rng(1), SHOWN)
    tokens = to_tokens(texts)
    print(f"Training on {options.epochs} x {TRAINED} sentences ...", flush=True)
    model = train(options.epochs, [*texts, *SHOWN])
    right = np.mean(model.predict(tokens, verbose=0).argmax(axis=1) == answers)
    print(f"{right:.1%} of {TESTED} test sentences right.\n", flush=True)

    least, most = judge(model, tokens, explain(model, tokens))
    text = _common.write_tables(out / "ordering.md", table(least, most))
    draw_curves(least, out / "ordering.png")
    shown = to_tokens(SHOWN)
    maps = explain(model, shown)
    seen = {name: maps[name] for name in list(maps)[:SEEN]}
    draw_words(SHOWN, seen, model.predict(shown, verbose=0), out / "words.png")
    print(f"The ordering test, mean over {TESTED} test sentences, the least relevant words replaced first:\n\n{text}")
    print(f"\nWrote words.png, ordering.png and ordering.md to {out}.")


if __name__ == "__main__":
    main()
