"""How much the Hessian changes an explanation, against the network's confidence: the experiment of Figures 1 and 2 of
"Understanding Impacts of High-Order Loss Approximations and Features in Deep Learning Interpretation" (Singla, Wallace,
Feng and Feizi 2019), on digits.

    python examples/caso_confidence.py [--data mnist.npz] [--images 300] [--out out/caso_confidence]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. The last tenth is for testing. A network of ReLUs is trained so briefly that
it is often in doubt. For --images test images, as many of every confidence, the steps of CAFO and CASO with lambda1 = 0
are compared at the same length: | D_CASO / |D_CASO| - D_CAFO / |D_CAFO| |, from 0 (same direction) to 2 (opposite).
They agree where the network is confident. In the folder --out:

- confidence.png: the differences against the confidence p_c in the predicted class; below, the sparse steps
  (lambda1="auto", chosen for each) for an image of low confidence, that with the largest difference among the least
  confident tenth, and for the most confident image. Maps are normalised like in the paper: magnitudes, summed over
  channels, cut at their 99th percentile. The last map of each is the difference of the steps at length 1, with signs
- confidence.md: the means per range of confidence, which are printed too
- the trained network, which later runs use again

lambda2 is L / 2 + c1, L the largest eigenvalue of the Hessian. The paper's c1 = 10, which is also the default of the
analyzers, suits its networks; here L is about 1 for images in [0, 1], lambda2 would be ten times what is needed, and D
the gradient up to some per mille: the grey line. So c1 = 0.1 is used, a tenth of a large L. The Hessian counts where L
is not small against 2 c1; L itself falls towards 0 with growing confidence (last column of the table), and what is left
of the Hessian then points along the gradient, which is Theorem 4 of the paper.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import mnist
import numpy as np
from digits import find_model
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import innv_ext
from innv_ext.visualization import graymap, heatmap, to_rgb

C1, PAPER_C1 = 0.1, 10.0
TRAINED = 1600  # digits at most: more would make the network too sure of itself
BOUNDS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the ranges of confidence
RIGHT, WRONG, SOFT = "#0072b2", "#d55e00", "#999999"


def train(digits: mnist.Digits, epochs: int) -> keras.Model:
    """Train the paper's network on at most TRAINED digits."""
    return mnist.train(replace(digits, x_train=digits.x_train[:TRAINED], y_train=digits.y_train[:TRAINED]), epochs)


# --- differences -------------------------------------------------------------------------------------------------


def directions(steps: np.ndarray) -> np.ndarray:
    """One vector of length 1 per sample; 0 stays 0."""
    flat = steps.reshape(len(steps), -1).astype("float64")
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length, length, 1)


def differences(model: keras.Model, x: np.ndarray, c1: float) -> tuple[np.ndarray, np.ndarray]:
    """| D_CASO / |D_CASO| - D_CAFO / |D_CAFO| | with lambda1 = 0, and L, per image."""
    first = innv_ext.create_analyzer("cafo", model, lambda1=0.0, c1=c1, progress=False).analyze(x)
    second = innv_ext.create_analyzer("caso", model, lambda1=0.0, c1=c1, progress=False).explain(x)
    gap = directions(second.attribution) - directions(first)
    return np.linalg.norm(gap, axis=1), second.extras["L"]


def running_median(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of x and y over windows of a tenth of the points, neighbours in x."""
    order, width = np.argsort(x, kind="stable"), max(len(x) // 10, 1)
    windows = np.lib.stride_tricks.sliding_window_view(order, width)
    return np.median(x[windows], axis=1), np.median(y[windows], axis=1)


def table(confidence: np.ndarray, own: np.ndarray, paper: np.ndarray, largest: np.ndarray) -> str:
    """Means over the images of each range of confidence."""
    rows = []
    for low, high in itertools.pairwise(BOUNDS):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            means = [f"{values[inside].mean():.4f}" for values in (own, paper)]
            rows.append([f"{low:g} to {high:g}", str(inside.sum()), *means, f"{np.median(largest[inside]):.3f}"])
    header = f"confidence | images | mean difference, c1 = {C1:g} | mean difference, c1 = {PAPER_C1:g} | median L"
    return _common.markdown(header, rows)


# --- picture -----------------------------------------------------------------------------------------------------


def draw_differences(
    axes: Axes, confidence: np.ndarray, own: np.ndarray, paper: np.ndarray, correct: np.ndarray
) -> None:
    """The scatter plot with running medians."""
    for chosen, colour, label in ((correct, RIGHT, "classified right"), (~correct, WRONG, "classified wrong")):
        axes.scatter(confidence[chosen], own[chosen], s=16, color=colour, alpha=0.55, linewidths=0, label=label)
    axes.plot(*running_median(confidence, own), color="black", linewidth=1.8, label=f"running median, c1 = {C1:g}")
    style = {"color": SOFT, "linewidth": 1.8, "label": f"running median, c1 = {PAPER_C1:g}"}
    axes.plot(*running_median(confidence, paper), **style)
    axes.set_xlabel(r"confidence $p_c$ in the predicted class", fontsize=10)
    axes.set_ylabel("difference of directions, CASO and CAFO", fontsize=10)
    axes.set(xlim=(None, 1.01), ylim=(-0.02 * own.max(), None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)


def like_paper(steps: np.ndarray) -> np.ndarray:
    """Magnitudes, summed over channels and cut at the 99th percentile, as RGB arrays."""
    flat = np.abs(steps).sum(axis=-1).reshape(len(steps), -1)
    cut = np.percentile(flat, 99, axis=1)  # 0 where fewer than 1 % of the pixels are left
    return graymap(steps, cmap="magma", scale=np.where(cut > 0, cut, flat.max(axis=1)))


def sparse_steps(model: keras.Model, x: np.ndarray) -> tuple[dict[str, innv_ext.analyzers.Explanation], np.ndarray]:
    """What CAFO and CASO find with lambda1="auto", and the difference of the steps at length 1, shaped like ``x``."""
    found = {name: innv_ext.create_analyzer(name, model, c1=C1, progress=False).explain(x) for name in ("cafo", "caso")}
    gap = directions(found["caso"].attribution) - directions(found["cafo"].attribution)
    return found, gap.reshape(x.shape)


def examples(model: keras.Model, x: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Two of the images: of the least confident tenth the one with the largest difference, and the most confident."""
    doubtful = np.argsort(confidence, kind="stable")[: max(len(x) // 10, 1)]
    _, gap = sparse_steps(model, x[doubtful])
    return [int(doubtful[np.square(gap).sum(axis=(1, 2, 3)).argmax()]), int(confidence.argmax())]


def draw_maps(
    figure: Figure, bottom: float, height: float, model: keras.Model, x: np.ndarray, notes: list[str]
) -> None:
    """Image, CAFO, CASO and their difference, side by side for all images ``x``."""
    found, gap = sparse_steps(model, x)
    largest = max(float(np.abs(gap).max()), 1e-12)
    maps = [*(like_paper(e.attribution) for e in found.values()), heatmap(gap, scale=largest)]
    pictures = [to_rgb(x, value_range=(0, 1)), *maps]
    grids = figure.add_gridspec(1, len(x), left=0.03, right=0.97, bottom=bottom, top=bottom + height, wspace=0.12)
    for i, note in enumerate(notes):
        cells = grids[i].subgridspec(1, len(pictures), wspace=0.1).subplots()
        texts = [rf"$\lambda_1$ = {e.extras['lambda1'][i]:.2g}" for e in found.values()]
        zeros = [f"{e.extras['sparsity'][i]:.0%} zeros" for e in found.values()]
        below = ["", *map("\n".join, zip(texts, zeros, strict=True)), f"norm {np.linalg.norm(gap[i]):.2f}"]
        for cell, title, picture, text in zip(
            cells, ("image", "CAFO", "CASO", "CASO \N{MINUS SIGN} CAFO"), pictures, below, strict=True
        ):
            _common.draw(cell, picture[i], title, text)
        middle = (cells[0].get_position().x0 + cells[-1].get_position().x1) / 2
        figure.text(middle, bottom + height + 0.035, note, ha="center", fontsize=10)
    _bar(figure, (0.12, 0.055, 0.28, 0.012), "magma", (0, 1), ("0", "99th percentile"), "magnitude of the step")
    ends = (f"\N{MINUS SIGN}{largest:.2g}", f"{largest:.2g}")
    _bar(figure, (0.60, 0.055, 0.28, 0.012), "seismic", (-1, 1), ends, "difference of the steps, both of length 1")


def _bar(
    figure: Figure,
    place: tuple[float, float, float, float],
    cmap: str,
    limits: tuple[float, float],
    ends: tuple[str, str],
    label: str,
) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), cmap), figure.add_axes(place), orientation="horizontal")
    bar.set_ticks(limits, labels=ends, fontsize=8)
    bar.ax.tick_params(length=0)
    bar.ax.set_title(label, fontsize=8, pad=4)
    bar.outline.set_visible(False)


def main() -> None:
    """Train or load the network, explain, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/caso_confidence",
        images=(300, "test images, as many of every confidence as there are"),
        epochs=(2, "of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(options.data)
    saved, count = out / f"{digits.name}.keras", min(TRAINED, len(digits.x_train))
    model = find_model(
        saved, digits, lambda: train(digits, options.epochs), count, retrain=options.retrain, least=0.5
    )

    probabilities = model.predict(digits.x_test, verbose=0)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    chosen = _common.in_turn(np.digitize(confidence, BOUNDS, right=True))[: options.images]
    x = digits.x_test[chosen]
    own, largest = differences(model, x, C1)
    paper, _ = differences(model, x, PAPER_C1)
    found = table(confidence[chosen], own, paper, largest)
    (out / "confidence.md").write_text(found + "\n", encoding="utf-8")
    print(f"\nDifference of the directions of CASO and CAFO (lambda1 = 0), {len(x)} test images:\n\n{found}")

    figure = Figure(figsize=(9, 7.4), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.48, 0.88, 0.50))
    draw_differences(axes, confidence[chosen], own, paper, (predicted == digits.y_test)[chosen])
    shown = chosen[examples(model, x, confidence[chosen])]
    notes = [f"a {digits.y_test[i]}, taken for a {predicted[i]} with confidence {confidence[i]:.3f}" for i in shown]
    draw_maps(figure, 0.17, 0.14, model, digits.x_test[shown], notes)
    figure.savefig(out / "confidence.png", facecolor="white")
    print(f"\nWrote confidence.png and confidence.md to {out}.")


if __name__ == "__main__":
    main()
