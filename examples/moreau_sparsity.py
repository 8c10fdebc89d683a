"""MoreauGrad with growing rho, and its sparse versions with growing eta: Figure 2 of "MoreauGrad: Sparse and Robust
Interpretation of Neural Networks via Moreau Envelope" (Zhang and Farnia 2022), on digits.

    python examples/moreau_sparsity.py [--data mnist.npz] [--images 4] [--out out/moreau_sparsity]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. As in the paper the network has batch normalisation and, instead of ReLUs,
softplus: its score is smooth, so that the minimiser of the envelope is easily found while rho is below the inverse of
the score's curvature. Beyond that there are several minima, far from the image, and their maps say little about it. In
the folder --out:

- maps.png: a row per image, with predicted class and its probability; on the left MoreauGrad with growing rho, rho = 0
  being the gradient; then its l1-sparse version with growing eta, then the group-sparse one, whose groups are blocks of
  4 x 4 pixels, both with the rho that ``fit`` finds, 1 / sqrt(mean |x|_2). Red raises the score of the predicted class,
  blue lowers it
- sparsity.md: the share of zeros, the ends of the searches, and the distances to the gradient, which are printed too
- the trained network, which later runs use again

eta is given in shares of the largest |gradient| (or largest norm over a group), the median over the images: from the
largest on, maps are zero.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import mnist
import numpy as np
from digits import find_model
from keras import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import innv_ext
from innv_ext.visualization import heatmap, to_rgb

RHOS = (0.1, 0.3, 1.0, 3.0)
SHARES = (0.1, 0.2, 0.4, 0.6)  # eta over the largest gradient
BLOCK = 4
SIZE, GAP = 0.86, 0.3  # inches: a picture with its margin; between blocks of columns


@dataclass(frozen=True)
class Block:
    """Columns of maps: headers -> maps, under a common title, and rows of the table."""

    title: str
    columns: dict[str, np.ndarray]
    rows: list[list[str]]


def build_model() -> keras.Model:
    """Three convolutions with batch normalisation, softplus and average pooling, and a dense layer, 19 000 weights."""
    stack = [keras.Input((mnist.SIDE, mnist.SIDE, 1))]
    for filters, size in ((16, 5), (32, 3), (32, 3)):
        stack += [layers.Conv2D(filters, size, padding="same", use_bias=False), layers.BatchNormalization(momentum=0.9)]
        stack += [layers.Activation("softplus"), layers.AveragePooling2D(2)]
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(10, activation="softmax")], name="softplus")


def train(digits: mnist.Digits, steps: int) -> keras.Model:
    """Train the network for at least ``steps`` updates."""
    keras.utils.set_random_seed(0)
    return mnist.fit(build_model(), digits, mnist.epochs_of(digits, steps), 3e-3)


# --- maps --------------------------------------------------------------------------------------------------------


def norms(maps: np.ndarray) -> np.ndarray:
    """The Euclidean norm of each map."""
    return np.linalg.norm(maps.reshape(len(maps), -1), axis=1)


def row(name: str, value: str, found: innv_ext.analyzers.Explanation, gradient: np.ndarray) -> list[str]:
    """A line of the table."""
    zeros = np.mean(found.attribution == 0)
    distance = np.mean(norms(found.attribution - gradient) / norms(gradient))
    ends = Counter(found.extras["status"].tolist()) if "status" in found.extras else {}
    residual = f"{found.extras['residual'].mean():.1e}" if ends else "-"
    status = ", ".join(f"{count} {end}" for end, count in sorted(ends.items())) or "-"
    return [name, value, f"{zeros:.0%}", status, residual, f"{distance:.2f}"]


def widths(model: keras.Model, digits: mnist.Digits, x: np.ndarray, gradient: np.ndarray) -> Block:
    """The gradient and MoreauGrad for every rho."""
    columns, rows = {"gradient": gradient}, [["gradient", "rho = 0", f"{np.mean(gradient == 0):.0%}", "-", "-", "0.00"]]
    for rho in RHOS:
        found = innv_ext.create_analyzer("moreau_grad", model, rho=rho, progress=False).explain(x)
        columns[rf"$\rho$ = {rho:g}"] = found.attribution
        rows.append(row("moreau_grad", f"rho = {rho:g}", found, gradient))
    return Block("MoreauGrad", columns, rows)


def sparse(
    model: keras.Model, digits: mnist.Digits, x: np.ndarray, gradient: np.ndarray, name: str, title: str, peak: float
) -> Block:
    """A sparse version for eta = 0 and shares of ``peak``, from where on it is zero."""
    columns, rows = {}, []
    for share in (0.0, *SHARES):
        eta = float(f"{share * peak:.2g}")
        analyzer = innv_ext.create_analyzer(name, model, eta=eta, progress=False).fit(digits.x_train)
        found = analyzer.explain(x)
        columns[rf"$\eta$ = {eta:g}"] = found.attribution
        rows.append(row(name, f"eta = {eta:g}", found, gradient))
    return Block(rf"{title}, $\rho$ = {analyzer.current_rho():.2g}", columns, rows)


def find_blocks(model: keras.Model, digits: mnist.Digits, x: np.ndarray) -> list[Block]:
    """All maps of the images ``x``."""
    gradient = innv_ext.create_analyzer("gradient", model).analyze(x)
    size = mnist.SIDE // BLOCK
    blocks = gradient.reshape(len(x), size, BLOCK, size, BLOCK)
    over_blocks = np.sqrt(np.square(blocks).sum(axis=(2, 4)))
    largest = [float(np.median(v.reshape(len(x), -1).max(axis=1))) for v in (np.abs(gradient), over_blocks)]
    return [
        widths(model, digits, x, gradient),
        sparse(model, digits, x, gradient, "sparse_moreau_grad", "Sparse MoreauGrad", largest[0]),
        sparse(model, digits, x, gradient, "group_sparse_moreau_grad", "Group-sparse MoreauGrad", largest[1]),
    ]


# --- picture -----------------------------------------------------------------------------------------------------


def draw(x: np.ndarray, notes: list[str], blocks: list[Block], path: Path) -> None:
    """The images, then all maps of each block of columns; each map on its own scale."""
    counts = [1, *(len(block.columns) for block in blocks)]
    left, right, top, bottom = 0.75, 0.12, 0.62, 0.55  # inches around the pictures
    width = left + right + SIZE * sum(counts) + GAP * len(blocks)
    height = top + bottom + SIZE * len(x)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    start = left
    for count, block in zip(counts, [Block("", {"image": x}, []), *blocks], strict=True):
        end = start + count * SIZE
        place = {"left": start / width, "right": end / width, "bottom": bottom / height, "top": 1 - top / height}
        cells = figure.add_gridspec(len(x), count, **place, wspace=0.06, hspace=0.06).subplots(squeeze=False)
        figure.text((start + end) / 2 / width, 1 - 0.1 / height, block.title, ha="center", va="top", fontsize=11)
        for j, (header, maps) in enumerate(block.columns.items()):
            pictures = to_rgb(x, value_range=(0, 1)) if header == "image" else heatmap(maps, percentile=99)
            for i, cell in enumerate(cells[:, j]):
                _common.draw(cell, pictures[i], header if i == 0 else "")
                if not maps[i].any():
                    style = {"ha": "center", "va": "center", "fontsize": 8, "color": "#888888"}
                    cell.text(0.5, 0.5, "all zero", transform=cell.transAxes, **style)
                if header == "image":
                    cell.set_ylabel(notes[i], rotation=0, ha="right", va="center", fontsize=9)
        start = end + GAP
    _bar(figure, (0.5 - 1.3 / width, 0.3 / height, 2.6 / width, 0.08 / height))
    figure.savefig(path, facecolor="white")


def _bar(figure: Figure, place: tuple[float, float, float, float]) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "seismic"), figure.add_axes(place), orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["\N{MINUS SIGN}99th percentile", "0", "99th percentile"], fontsize=8)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


def main() -> None:
    """Train or load the network, explain, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/moreau_sparsity",
        images=(4, "test images, of different classes"),
        steps=(500, "updates of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(options.data)
    saved, count = out / f"{digits.name}.keras", len(digits.x_train)
    model = find_model(
        saved, digits, lambda: train(digits, options.steps), count, retrain=options.retrain, least=0.6
    )

    chosen = _common.in_turn(digits.y_test)[: options.images]
    x = digits.x_test[chosen]
    probabilities = model.predict(x, verbose=0)
    notes = [f"{p.argmax()}: {p.max():.2f}" for p in probabilities]
    with warnings.catch_warnings():  # the table says what did not converge, and which maps are zero
        warnings.simplefilter("ignore", innv_ext.errors.ConvergenceWarning)
        blocks = find_blocks(model, digits, x)
        draw(x, notes, blocks, out / "maps.png")
    header = "method | parameter | zeros | status | mean residual | distance to the gradient / its norm"
    found = _common.markdown(header, [line for block in blocks for line in block.rows])
    (out / "sparsity.md").write_text(found + "\n", encoding="utf-8")
    print(f"\n{len(x)} test images:\n\n{found}\n\nWrote maps.png and sparsity.md to {out}.")


if __name__ == "__main__":
    main()
