"""Which explanation should I trust? Many methods on the same images, side by side and measured: section V.4.2 and
figure V.8 of the thesis behind iNNvestigate, on digits.

    python examples/compare_methods.py [--data mnist.npz] [--images 12] [--out out/compare_methods]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. A small VGG is explained by all families of methods; ``innv_ext.compare``
measures their maps. The thesis says that "there exists no clear evaluation criteria": do the criteria agree on which
method is best? And which methods show the same? In the folder --out:

- maps.png: images in rows, wrongly classified ones first, methods in columns
- metrics.png: a panel per criterion, the best method on top
- agreement.png: rank correlations between the maps of two methods, and between the rankings of two criteria
- compare_methods.md: the numbers, which are printed too
- report.html: everything in one file, with a table that can be sorted
- the trained network, which later runs use again

What is found on 12 of the default digits: the criteria do not agree; their rankings correlate by -0.44 to 0.14. LRP
epsilon, DeepLIFT and integrated gradients find the pixels whose loss lowers the score fastest, but their differences
are within the standard errors, as are those of the first eight. By the ordering test, which keeps the best pixels among
noise, LIME is best by far and only four methods come before a random order; by sensitivity LIME is the worst. The maps
form two families: what is near the gradient times the input (with LRP epsilon, DeepLIFT, integrated gradients, rank
correlations of 0.8 to 0.9), and what follows positive signals (Deep Taylor, PatternNet, guided backprop, LRP preset A,
0.7 to 0.9). LIME and Grad-CAM stand alone; of occlusion the thesis says so too, but here it is as near to others as
PatternNet is. One network and twelve images say nothing about other networks.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import mnist
import numpy as np
from digits import find_model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

import innv_ext
from innv_ext.visualization import imshow_grid

ANALYZERS = {
    "gradient": {},
    "smoothgrad": {},
    "input_t_gradient": {},
    "integrated_gradients": {},
    "deconvnet": {},
    "guided_backprop": {},
    "deep_taylor": {},
    "lrp.epsilon": {"epsilon": 0.1},
    "lrp.alpha_2_beta_1": {},
    "lrp.sequential_preset_a_flat": {},
    "pattern.net": {},
    "pattern.attribution": {},
    "deep_lift": {},
    "occlusion": {"patch": 5, "stride": 2},
    "lime": {"samples": 300},
    "grad_cam": {},
    "random": {},
}
METRICS = {
    "aopc_morf": {"regions": 4, "perturbation": "constant", "value": 0, "on": "logits"},
    "ordering_distortion": {"rates": 11, "samples": 16},
    "max_sensitivity": {"samples": 5},
    "completeness_error": {},
    "gini": {},
}
SHOWN = 7  # images
WRONG = 2  # of them, at most


def choose(model: keras.Model, digits: mnist.Digits, count: int) -> np.ndarray:
    """``count`` test images: some that are classified wrongly, then right ones, class by class."""
    right = model.predict(digits.x_test, verbose=0).argmax(axis=1) == digits.y_test
    good = np.flatnonzero(right)
    return np.concatenate([np.flatnonzero(~right)[:WRONG], good[_common.in_turn(digits.y_test[good])]])[:count]


# --- who agrees with whom ----------------------------------------------------------------------------------------


def map_agreement(found: innv_ext.Comparison) -> tuple[list[str], np.ndarray]:
    """Methods, similar ones next to each other, and the mean rank correlations of their maps."""
    maps = np.array([m.reshape(len(m), -1) for m in found.maps.values()])
    matrix = np.mean(
        [np.atleast_2d(spearmanr(per_image, axis=1).statistic) for per_image in maps.swapaxes(0, 1)], axis=0
    )
    far = squareform(np.clip(1 - matrix, 0, None) * (1 - np.eye(len(matrix))), checks=False)
    order = leaves_list(linkage(far, "average", optimal_ordering=True))
    titles = list(found.maps)
    return [titles[i] for i in order], matrix[np.ix_(order, order)]


def criterion_agreement(found: innv_ext.Comparison) -> tuple[list[str], np.ndarray]:
    """Criteria that rank most of the methods, and the rank correlation of what they say of the methods."""
    names = [c.title for c in found.criteria if c.better in ("higher", "lower")]
    names = [name for name in names if 2 * len(found.ranking(name)) > len(found.maps)]
    matrix = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        first, second = ({t: k for k, (t, _) in enumerate(found.ranking(names[k]))} for k in (i, j))
        both = [t for t in first if t in second and t != "random"]
        matrix[i, j] = matrix[j, i] = spearmanr([first[t] for t in both], [second[t] for t in both]).statistic
    return names, matrix


def summary(found: innv_ext.Comparison) -> str:
    """What the criteria say, and how far they agree, in words."""
    lines = []
    for name in (c.title for c in found.criteria if c.better in ("higher", "lower")):
        ranked = [title for title, _ in found.ranking(name)]
        chance = f"; random is number {ranked.index('random') + 1} of {len(ranked)}" if "random" in ranked else ""
        lines.append(f"- {name}: best are {', '.join(ranked[:3])}, last is {ranked[-1]}{chance}")
    names, matrix = criterion_agreement(found)
    pairs = sorted((matrix[i, j], names[i], names[j]) for i, j in combinations(range(len(names)), 2))
    (low, *two), (high, *others) = pairs[0], pairs[-1]
    lines += [
        f"- criteria that agree most: {' and '.join(others)} ({high:.2f}); least: {' and '.join(two)} ({low:.2f})",
    ]
    titles, alike = map_agreement(found)
    means = {t: (row.sum() - 1) / (len(row) - 1) for t, row in zip(titles, alike, strict=True) if t != "random"}
    lone = sorted(means, key=means.get)[:3]
    told = ", ".join(f"{t} ({means[t]:.2f})" for t in lone)
    lines.append(f"- maps that are least like those of the other methods (mean rank correlation): {told}")
    return "\n".join(lines)


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_maps(found: innv_ext.Comparison, count: int, path: Path) -> None:
    """The first images and their maps."""
    samples, rows = found.samples, slice(count)
    imshow_grid(
        samples.x[rows],
        {title: maps[rows] for title, maps in found.maps.items()},
        modes={"pattern.net": "back_project"},
        labels=samples.labels[rows],
        predictions=samples.predicted[rows],
        probabilities=samples.probability[rows],
        scores=samples.score[rows],
        value_range=(0, 1),
        colorbar=True,
        cell=0.7,
        path=path,
    )


def draw_agreement(found: innv_ext.Comparison, path: Path) -> None:
    """Methods on the left, criteria on the right."""
    figure = Figure(figsize=(12, 6.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.8, 1))
    for axes, (names, matrix), title in (
        (left, map_agreement(found), "Rank correlation of the maps of two methods"),
        (right, criterion_agreement(found), "Rank correlation of two criteria's\nrankings of the methods"),
    ):
        _common.draw_matrix(axes, matrix, (names, names), "PuOr_r", (-1, 1))
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal")
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Train or load the network, compare, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/compare_methods",
        images=(12, "test images, of different classes"),
        steps=(400, "updates of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(options.data)

    def train() -> keras.Model:
        keras.utils.set_random_seed(0)
        return mnist.fit(_common.vgg(mnist.SIDE, "vgg"), digits, mnist.epochs_of(digits, options.steps), 2e-3)

    saved, count = out / f"{digits.name}.keras", len(digits.x_train)
    model = find_model(saved, digits, train, count, retrain=options.retrain, least=0.9)
    chosen = choose(model, digits, options.images)
    found = innv_ext.compare(
        model,
        digits.x_test[chosen],
        ANALYZERS,
        metrics=METRICS,
        fit=digits.x_train,
        labels=digits.y_test[chosen],
        batch_size=256,
        progress=False,
        report=out / "report.html",
    )
    draw_maps(found, SHOWN, out / "maps.png")
    found.plot_metrics(path=out / "metrics.png")
    draw_agreement(found, out / "agreement.png")
    text = _common.write_tables(out / "compare_methods.md", found.table(), summary(found))
    print(
        f"\n{len(chosen)} test images:\n\n{text}\n\nWrote maps.png, metrics.png, agreement.png, compare_methods.md and "
        f"report.html to {out}."
    )


if __name__ == "__main__":
    main()
