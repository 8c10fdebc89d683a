"""Why did the network get this one wrong? One image, several output neurons, many methods: section V.4.1 of the thesis
behind iNNvestigate, on digits.

    python examples/misclassified.py [--data mnist.npz] [--steps 400] [--out out/misclassified]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. Of the test images that a small VGG gets wrong, the one where it was most
certain is explained, for the predicted class, for the true one, and for the two classes with the next scores. The
difference of the first two maps says which pixels decided against the truth. The thesis presumes that such maps are
meaningful; here it is tested: a tenth of the pixels, those with the largest difference, are made black like the
background. Does the network now see the truth? The
same is done with all its mistakes. In the folder --out:

- maps.png: a row per output neuron, a column per method
- erased.png: the differences, the image without the pixels that they blame, and what the network takes it for
- misclassified.md: the numbers, which are printed too; also how much the methods agree, and where the digit has the
  parts that most of them blame
- the trained network, which later runs use again

What is found on the default digits: a 3 is taken for a 5. Without the pixels that they blame, 7 of the 12 methods turn
it into a 3 with certainty, against a fifth of the draws of as many random pixels of the digit. Guided backprop, Deep
Taylor and LRP with alpha 1, beta 0, whose maps look much alike for all classes, only make this mistake more certain.
Over all 7 mistakes, each method turns more of them than chance, which is no more than 22 %: 57 % by Deep Taylor and
PatternAttribution, all by SmoothGrad, integrated gradients and occlusion. So the maps do point at pixels that decided.
Which part of the digit is to blame is less clear than in the thesis: the methods name four of the nine parts of the
image. Seven images of one network are few, and a digit with black holes is an unusual image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import mnist
import numpy as np
from digits import find_model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from patterns import learn_patterns
from scipy.special import softmax
from scipy.stats import spearmanr

from innv_ext import model_wo_softmax
from innv_ext.visualization import heatmap, imshow_grid, to_rgb

ANALYZERS = {
    "gradient": {},
    "smoothgrad": {},
    "guided_backprop": {},
    "input_t_gradient": {},
    "integrated_gradients": {},
    "deep_lift": {},
    "occlusion": {"patch": 5, "stride": 2},
    "deep_taylor": {},
    "lrp.epsilon": {"epsilon": 0.1},
    "lrp.alpha_2_beta_1": {},
    "lrp.sequential_preset_a_flat": {},
    "pattern.attribution": {},
}
OTHERS = 2  # classes besides the predicted and the true one
ERASED = 0.1  # share of the pixels
DRAWS = 200  # of random pixels, for comparison
STUDIED = 30  # mistakes at most
Classes = tuple[int, int]  # predicted and true
PARTS = [f"{v} {h}" for v in ("upper", "middle", "lower") for h in ("left", "centre", "right")]


def mistakes(model: keras.Model, digits: mnist.Digits) -> np.ndarray:
    """The wrongly classified test images, at most STUDIED; those where the network was most certain come first."""
    outputs = model.predict(digits.x_test, verbose=0)
    wrong = np.flatnonzero(outputs.argmax(axis=1) != digits.y_test)
    if not len(wrong):
        raise SystemExit(f"The network gets all {len(outputs)} test images right: nothing to explain. Use more images.")
    return wrong[np.argsort(-outputs[wrong].max(axis=1))][:STUDIED]


# --- which pixels decided? ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Erased:
    """Images without the pixels that speak most for the predicted and against the true class.

    Attributes
    ----------
    images : (images, side, side, 1)
    margins : (images,), how much the score of the predicted class exceeds that of the true class now
    found : (images,), what the network takes them for now
    probabilities : (images,), of that
    """

    images: np.ndarray
    margins: np.ndarray
    found: np.ndarray
    probabilities: np.ndarray


def erase(logits: keras.Model, x: np.ndarray, keys: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> Erased:
    """Make the tenth of the pixels with the largest keys (images, ...) black, and classify again."""
    images = x.reshape(len(x), -1).copy()
    orders = np.argsort(-keys.reshape(images.shape), axis=1, kind="stable")
    np.put_along_axis(images, orders[:, : round(ERASED * images.shape[1])], 0, axis=1)
    images = images.reshape(x.shape)
    scores = logits.predict(images, verbose=0)
    outputs = softmax(scores, axis=1)
    rows = np.arange(len(x))
    return Erased(images, scores[rows, predicted] - scores[rows, true], outputs.argmax(axis=1), outputs.max(axis=1))


def blamed_part(difference: np.ndarray) -> str:
    """The ninth of the image with the largest sum of a map (side, side)."""
    sums = [block.sum() for rows in np.array_split(difference, 3, axis=0) for block in np.array_split(rows, 3, axis=1)]
    return PARTS[int(np.argmax(sums))]


def agreement(differences: np.ndarray) -> np.ndarray:
    """Mean rank correlation of each map (maps, side, side) with all others."""
    ranks = spearmanr(differences.reshape(len(differences), -1), axis=1).statistic
    return (ranks.sum(axis=1) - 1) / (len(ranks) - 1)


def table(
    differences: dict[str, np.ndarray], erased: dict[str, Erased], chance: Erased, margin: float, true: np.ndarray
) -> str:
    """A line per method, and one for random pixels of the same number; the first image, and all."""
    rows = []
    for name, alike in zip(differences, agreement(np.array([d[0] for d in differences.values()])), strict=True):
        result = erased[name]
        now = f"{result.found[0]} ({result.probabilities[0]:.2f})"
        margins = f"{margin:.2f} -> {result.margins[0]:.2f}"
        part = blamed_part(differences[name][0])
        rows.append([name, part, f"{alike:.2f}", margins, now, f"{np.mean(result.found == true):.0%}"])
    turned = (chance.found.reshape(-1, len(true)) == true).mean(axis=0)
    mean = chance.margins.reshape(-1, len(true))[:, 0].mean()
    now = f"{true[0]} in {turned[0]:.0%} of {DRAWS} draws"
    rows.append(["random ink", "-", "-", f"{margin:.2f} -> {mean:.2f}", now, f"{turned.mean():.0%}"])
    return _common.markdown(
        "method | blames most | agreement with the others | margin of the wrong class | taken for | "
        f"all {len(true)} images: turned right",
        rows,
    )


def summary(differences: dict[str, np.ndarray], erased: dict[str, Erased], image: np.ndarray, classes: Classes) -> str:
    """What was found on the first image, in words."""
    part, votes = Counter(blamed_part(d[0]) for d in differences.values()).most_common(1)[0]
    turned = [name for name, result in erased.items() if result.found[0] == classes[1]]
    ink = np.mean([(image[result.images[0] != image] > 0).sum() for result in erased.values()])
    return (
        f"{votes} of {len(erased)} methods blame the {part} part most for the {classes[0]} in place of the "
        f"{classes[1]}.\nWithout a tenth of the pixels ({round(ERASED * image.size)}, on average {ink:.0f} of them "
        f"not black) the network sees the {classes[1]}\nby {len(turned)} of {len(erased)} methods: "
        f"{', '.join(turned) or '-'}."
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_maps(
    image: np.ndarray,
    classes: Classes,
    neurons: np.ndarray,
    outputs: tuple[np.ndarray, np.ndarray],
    maps: dict[str, np.ndarray],
    path: Path,
) -> None:
    """One image, a row per neuron; ``outputs`` are scores and probabilities."""
    scores, probabilities = outputs
    imshow_grid(
        np.repeat(image[None], len(neurons), axis=0),
        maps,
        labels=np.full(len(neurons), classes[1]),
        predictions=np.full(len(neurons), classes[0]),
        neurons=neurons,
        probabilities=probabilities[neurons],
        scores=scores[neurons],
        value_range=(0, 1),
        colorbar=True,
        path=path,
    )


def draw_erased(
    image: np.ndarray, differences: dict[str, np.ndarray], erased: dict[str, Erased], notes: tuple[str, str], path: Path
) -> None:
    """Differences above, images without the blamed pixels below; of the first image."""
    columns = -(-(len(erased) + 1) // 2)
    figure = Figure(figsize=(1.55 * columns, 7.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    place = {"left": 0.01, "right": 0.99, "wspace": 0.1}
    bands = [
        figure.add_gridspec(2, columns, top=top, bottom=top - 0.40, hspace=0.12, **place) for top in (0.965, 0.485)
    ]
    cells = [cell for band in bands for cell in band.subplots().T]
    for above, below in cells[len(erased) + 1 :]:
        above.remove()
        below.remove()
    _common.draw(cells[0][0], to_rgb(image[None], value_range=(0, 1))[0], "the image", notes[0])
    cells[0][1].set_axis_off()
    maps = heatmap(np.array([d[0] for d in differences.values()])[..., None])
    for (above, below), (name, result), map_ in zip(cells[1:], erased.items(), maps, strict=False):
        _common.draw(above, map_, name.replace("sequential_", "sequential\n_"))
        picture = to_rgb(result.images[:1], value_range=(0, 1))[0]
        picture[(result.images[0] != image)[..., 0]] = (0.0, 0.45, 0.7)
        _common.draw(below, picture, "", f"now a {result.found[0]} ({result.probabilities[0]:.2f})")
    cells[0][1].text(0.5, 0.6, notes[1], ha="center", va="center", fontsize=8, linespacing=1.4)
    _common.draw_bar(figure, (0.35, 0.035, 0.3, 0.01), "for the true class: -max", "for the predicted one: +max")
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Train or load the network, explain its worst mistake, print and draw."""
    options = _common.read_options(__doc__, "out/misclassified", steps=(400, "updates of the training"))
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(options.data)

    def train() -> keras.Model:
        keras.utils.set_random_seed(0)
        return mnist.fit(_common.vgg(mnist.SIDE, "vgg"), digits, mnist.epochs_of(digits, options.steps), 2e-3)

    saved, count = out / f"{digits.name}.keras", len(digits.x_train)
    model = find_model(saved, digits, train, count, retrain=options.retrain, least=0.9)
    wrong = mistakes(model, digits)
    x, true = digits.x_test[wrong], digits.y_test[wrong]
    logits = model_wo_softmax(model)
    scores = logits.predict(x, verbose=0)
    outputs = softmax(scores, axis=1)
    predicted, first = outputs.argmax(axis=1), (int(outputs[0].argmax()), int(true[0]))
    analyzers = ANALYZERS | {"pattern.attribution": {"patterns": learn_patterns(model, digits.x_train)}}
    neurons = np.array([*first, *[c for c in np.argsort(-scores[0]) if c not in first][:OTHERS]])
    rows = np.concatenate([np.repeat(x[:1], len(neurons), axis=0), x, x])
    results = _common.run_analyzers(model, rows, analyzers, np.concatenate([neurons, predicted, true]))
    maps = {title: np.split(found.relevance, (len(neurons), len(neurons) + len(x))) for title, found in results.items()}
    shown = {title: parts[0] for title, parts in maps.items()}
    draw_maps(x[0], first, neurons, (scores[0], outputs[0]), shown, out / "maps.png")

    differences = {title: (own - other)[..., 0] for title, (_, own, other) in maps.items()}
    erased = {title: erase(logits, x, maps, predicted, true) for title, maps in differences.items()}
    many, *classes = (np.repeat(a[None], DRAWS, axis=0).reshape(-1, *a.shape[1:]) for a in (x, predicted, true))
    chance = erase(logits, many, np.random.default_rng(0).random(many.shape) + (many > 0), *classes)  # ink comes first

    margin = float(scores[0, first[0]] - scores[0, first[1]])
    tables = table(differences, erased, chance, margin, true), summary(differences, erased, x[0], first)
    found = _common.write_tables(out / "misclassified.md", *tables)
    notes = (
        f"a {first[1]},\ntaken for a {first[0]} ({outputs[0].max():.2f})",
        f"right: map of the {first[0]}\nminus map of the {first[1]};\nbelow, in blue: the\n"
        f"{round(ERASED * x[0].size)} pixels that it\nblames, made black",
    )
    draw_erased(x[0], differences, erased, notes, out / "erased.png")
    print(
        f"\nTest image {wrong[0]} is a {first[1]} and taken for a {first[0]} with probability {outputs[0].max():.2f}."
        f"\n\n{found}\n\nWrote maps.png, erased.png and misclassified.md to {out}."
    )


if __name__ == "__main__":
    main()
