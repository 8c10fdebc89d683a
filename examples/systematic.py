"""Find a network that cheats, without a single wrong prediction: the bounding-box study of the thesis behind
iNNvestigate (section V.4.5), on digits of which one class carries a watermark.

    python examples/systematic.py [--images 450] [--epochs 20] [--out out/systematic]

Every 3 among scikit-learn's digits, in the training and in the test images, gets a small cross in the lower left
corner, as photographs of one source carry the source's name. A network learns from these images, and the same network
from clean ones. Then all test images are explained for the predicted class, and ``evaluation.systematic_inside_ratio``
measures where the relevance is, class by class. Nothing tells it of the mark:

- outside of the bounding box of the digit, as in the thesis, here over the share of pixels outside: 1 if it was spread
  evenly. A class is called suspicious if this is more than a quarter, and three times that of any other class
- inside each corner of the image, over the share of pixels there: which corner is it?

Last, the suspicion is tested by taking the mark away, and by putting it on all others. In the folder --out:

- study.png: relevance outside of the digit and in each corner, for each class; also for the clean network, once on the
  same marked images (that a mark is there does not mean that it is used), once on clean ones
- maps.png: a 3 and another digit with and without the mark, explained
- systematic.md: the numbers, which are printed too
- the trained networks, which later runs use again

What is found: the accuracy tells nothing, 98.4 % on marked images, while the clean network has 98.7 %. But without the
mark only a quarter of the 3s is recognised, and with it three quarters of all other digits are taken for a 3. LRP and
integrated gradients call the 3 and its corner suspicious, and nothing in the clean network. The plain gradient, which
knows no pixel values, has them on top too, but only at twice the value of the 1s: not enough.

The thresholds were chosen after these results and those of ten more networks were seen, each with the mark on another
class in one of the corners (LRP only). For all ten the right class and corner had the largest value, and the rule above
calls them suspicious. The rule that was tried first, a corner with three times the relevance of any other class and
corner, would have missed five. No more than one clean network was looked at, so nothing is known of false alarms. And
relevance says that a mark is used, not how much hangs on it: of the 5s, with 0.71 outside, 98 % were recognised without
their mark; of the 9s, with 0.62, only 13 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import digits
import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import innv_ext
from innv_ext.evaluation import systematic_inside_ratio
from innv_ext.evaluation.plotting import COLOURS
from innv_ext.visualization import heatmap, to_rgb

MARKED = 3  # the class with the mark
MARK = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], "float32")[..., None]
SIDE, CORNER = 16, 4  # pixels: of the image, of what is called a corner
CORNERS = {  # top, left, bottom, right
    "upper left": (0, 0, CORNER, CORNER),
    "upper right": (0, SIDE - CORNER, CORNER, SIDE),
    "lower left": (SIDE - CORNER, 0, SIDE, CORNER),
    "lower right": (SIDE - CORNER, SIDE - CORNER, SIDE, SIDE),
}
ANALYZERS = {"lrp.sequential_preset_a_flat": {}, "integrated_gradients": {"steps": 16}, "gradient": {}}
MAIN = next(iter(ANALYZERS))  # of the thesis' study
LEAST, OUTSTANDING = 0.25, 3.0  # relevance outside of the digit: over its even spread, over that of any other class


# --- data --------------------------------------------------------------------------------------------------------


def mark(x: np.ndarray) -> np.ndarray:
    """Images with the mark in the lower left corner."""
    marked = x.copy()
    marked[:, -len(MARK) :, : len(MARK)] = MARK
    return marked


def mark_class(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images, those of the class MARKED with the mark."""
    return np.where((labels == MARKED)[:, None, None, None], mark(x), x)


def boxes(x: np.ndarray) -> np.ndarray:
    """Bounding boxes (images, 4) of clean digits: top, left, bottom, right."""
    found = []
    for image in x[..., 0] > 0:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        found.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return np.array(found)


# --- the study ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """Where a network's relevance is, class by class.

    Attributes
    ----------
    title : which network, which images
    right : share of these images that are classified correctly
    outside : analyzer -> (classes,), mean relevance outside of the digit's box; 1 if it was spread evenly
    corners : analyzer -> (corners, classes), mean relevance in the corner; 1 if it was spread evenly
    """

    title: str
    right: float
    outside: dict[str, np.ndarray]
    corners: dict[str, np.ndarray]

    def suspect(self, analyzer: str) -> tuple[int, str, bool]:
        """The class with most relevance outside of its digits, the corner where it has most, and is it suspicious?"""
        second, first = np.sort(self.outside[analyzer])[-2:]
        label = int(self.outside[analyzer].argmax())
        corner = list(CORNERS)[self.corners[analyzer][:, label].argmax()]
        return label, corner, bool(first > max(LEAST, OUTSTANDING * second))


def create_analyzers(model: keras.Model) -> dict[str, innv_ext.Analyzer]:
    """All of ANALYZERS, for a network."""
    return {name: innv_ext.create_analyzer(name, model, progress=False, **p) for name, p in ANALYZERS.items()}


def run_study(title: str, model: keras.Model, x: np.ndarray, labels: np.ndarray, objects: np.ndarray) -> Study:
    """Explain all images for the predicted class, and look inside the boxes ``objects`` and the corners."""
    analyzers = create_analyzers(model)

    options = {"analyzers": analyzers, "labels": labels, "batch_size": 256, "progress": False}
    around = systematic_inside_ratio(model, x, objects, **options)
    at_corners = [systematic_inside_ratio(model, x, np.tile(box, (len(x), 1)), **options) for box in CORNERS.values()]

    def per_class(values: np.ndarray) -> np.ndarray:
        return np.array([values[labels == label].mean() for label in np.unique(labels)])

    return Study(
        title,
        float(np.mean(around.predicted == labels)),
        {name: per_class(1 - around.inside[name]) / per_class(1 - around.size) for name in ANALYZERS},
        {name: np.array([per_class(c.ratio("weighted")[name]) for c in at_corners]) for name in ANALYZERS},
    )


def classify(model: keras.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes and their probabilities."""
    outputs = model.predict(x, batch_size=256, verbose=0)
    return outputs.argmax(axis=1), outputs.max(axis=1)


def study_table(studies: list[Study]) -> str:
    """A line per study and analyzer."""
    rows = []
    for study in studies:
        for name in ANALYZERS:
            label, corner, suspicious = study.suspect(name)
            outside, here = np.sort(study.outside[name]), study.corners[name][:, label]
            at_digit = f"{label}: {outside[-1]:.2f} (next class: {outside[-2]:.2f})"
            at_corner = f"{corner}: {here.max():.2f} (next corner: {np.sort(here)[-2]:.2f})"
            verdict = f"**{label}, {corner}**" if suspicious else "none"
            rows.append([study.title, f"{study.right:.1%}", name, at_digit, at_corner, verdict])
    return _common.markdown(
        "network, images | right | analyzer | most relevance outside the digit | in its corners | suspicious", rows
    )


def test_table(models: dict[str, keras.Model], data: digits.Digits) -> str:
    """What taking the mark away, and putting it on other digits, does to the predictions."""
    x, own = data.x_test, data.y_test == MARKED
    rows = []
    for name, model in models.items():
        marked, clean = (classify(model, images)[0] for images in (mark(x), x))
        shares = [marked[own] == MARKED, clean[own] == MARKED, clean[~own] == MARKED, marked[~own] == MARKED]
        rows.append([name, *(f"{share.mean():.1%}" for share in shares)])
    return _common.markdown(
        f"network, taken for a {MARKED}: | {MARKED}s with mark | {MARKED}s without | others without | others with mark",
        rows,
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_outside(axes: Axes, study: Study, top: float) -> None:
    """Points: the relevance outside of the digit, per class and analyzer."""
    for j, (name, marker) in enumerate(zip(ANALYZERS, "osD", strict=True)):
        places = np.arange(10) + 0.22 * (j - 1)
        axes.plot(places, study.outside[name], marker, color=COLOURS[j], markersize=4.5, label=name)
    axes.axvspan(MARKED - 0.5, MARKED + 0.5, color="#eeeeee", linewidth=0, zorder=0, label="the marked class")
    axes.set(xticks=range(10), xlim=(-0.6, 9.6), ylim=(-0.03 * top, top))
    axes.axhline(LEAST, color="#999999", linewidth=0.8, linestyle="--", zorder=0, label="less is not suspicious")
    axes.set_title(f"{study.title}\n{study.right:.1%} right", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_study(studies: list[Study], path: Path) -> None:
    """A column per study."""
    figure = Figure(figsize=(12.5, 5.4), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(studies), height_ratios=(1.25, 1))
    outside = 1.08 * max(values.max() for study in studies for values in study.outside.values())
    most = max(study.corners[MAIN].max() for study in studies)
    for upper, lower, study in zip(above, below, studies, strict=True):
        draw_outside(upper, study, outside)
        _common.draw_matrix(lower, study.corners[MAIN], (list(CORNERS), range(10)), "Oranges", (0, most))
        lower.set_xlabel("class", fontsize=9)
    above[0].set_ylabel("relevance outside\nof the digit's box\n(1: spread evenly)", fontsize=9)
    for lower in below[1:]:
        lower.set_yticklabels([])
    below[0].set_ylabel(f"relevance in the corners\n(1: spread evenly)\n{MAIN}", fontsize=9)
    handles, names = above[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, facecolor="white")


def draw_maps(models: dict[str, keras.Model], data: digits.Digits, path: Path) -> None:
    """A 3 and a digit that the mark turns into a 3, both with and without it; a row each, two analyzers a network."""
    x, own = data.x_test, data.y_test == MARKED
    first, _ = (classify(model, mark(x))[0] for model in models.values())
    fooled = np.flatnonzero(~own & (first == MARKED))
    other = fooled[0] if len(fooled) else np.flatnonzero(~own)[0]
    three, other = x[own][:1], x[other : other + 1]
    images = np.concatenate([mark(three), three, other, mark(other)])
    figure = Figure(figsize=(8.6, 8.3), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, 5, left=0.02, right=0.98, top=0.90, bottom=0.09, wspace=0.08, hspace=0.22)
    cells = grid.subplots()
    for cell, picture in zip(cells[:, 0], to_rgb(images, value_range=(0, 1)), strict=True):
        _common.draw(cell, picture)
    for k, (title, model) in enumerate(models.items()):
        found, probability = classify(model, images)
        analyzers = create_analyzers(model)
        for j, name in enumerate(list(ANALYZERS)[:2], 2 * k + 1):
            maps = heatmap(analyzers[name].analyze(images))
            for i, cell in enumerate(cells[:, j]):
                note = f"taken for a {found[i]} ({probability[i]:.2f})"
                _common.draw(cell, maps[i], "" if i else name.replace("lrp.", "lrp.\n"), note)
        middle = (cells[0, 2 * k + 1].get_position().x0 + cells[0, 2 * k + 2].get_position().x1) / 2
        figure.text(middle, 0.975, title, ha="center", va="center", fontsize=11)
    ends = "against the predicted class: -max", "for it: +max of the map"
    _common.draw_bar(figure, (0.35, 0.035, 0.3, 0.012), *ends)
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Train or load both networks, study, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/systematic",
        own_data=False,
        images=(450, "test images that are studied"),
        epochs=(20, "epochs of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    clean = digits.load()
    marked = digits.Digits(
        *(mark_class(x, y) for x, y in ((clean.x_train, clean.y_train), (clean.x_test, clean.y_test))),
        clean.y_train,
        clean.y_test,
    )
    models = {}
    for name, data in (("trained on marked digits", marked), ("trained on clean digits", clean)):
        models[name] = digits.find_model(
            out / f"{name.split()[2]}.keras",
            data,
            lambda data=data: digits.train(data, options.epochs),
            len(data.x_train),
            retrain=options.retrain,
            least=0.95,
        )
    chosen = _common.in_turn(clean.y_test)[: options.images]
    labels, objects = clean.y_test[chosen], boxes(clean.x_test[chosen])
    images = {"marked": marked.x_test[chosen], "clean": clean.x_test[chosen]}
    first, second = models.values()
    studies = [
        run_study(f"trained on {learnt}, tested on {seen} digits", model, images[seen], labels, objects)
        for learnt, model, seen in (
            ("marked", first, "marked"),
            ("clean", second, "marked"),
            ("clean", second, "clean"),
        )
    ]
    found = _common.write_tables(out / "systematic.md", study_table(studies), test_table(models, clean))
    draw_study(studies, out / "study.png")
    draw_maps(models, clean, out / "maps.png")
    print(f"\n{found}\n\nWrote study.png, maps.png and systematic.md to {out}.")


if __name__ == "__main__":
    main()
