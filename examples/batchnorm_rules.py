"""What is LRP to do at a batch normalisation? Its options on three networks: section V.4.3 and figure V.9 of the thesis
behind iNNvestigate, on digits.

    python examples/batchnorm_rules.py [--epochs 12] [--out out/batchnorm_rules]

In a trained network a BatchNormalization (BN) is affine, and LRP may see it as one linear layer ("linear"), as two,
normalise and rescale ("two_linear"), by the rule that Hui and Binder proposed ("hui_binder", 1-Linear* in the thesis),
or merge it with a convolution beside it ("fold", the default here). The network computes the same in all these forms;
its explanation does not stay the same. Three small networks learn scikit-learn's digits: with BN after each convolution
(as ResNet), before each (as BN at the input of a layer), and before the ReLU that precedes each convolution, with
shortcuts around pairs of them (ResNet V2, where a BN behind a sum has no convolution to merge with). Rules: LRP
epsilon, and preset A as in the thesis. In the folder --out:

- maps.png: test images, and their maps for each network, option and rule; as in the thesis' figure the colours are of
  the square root of the relevance, which shows small values
- numbers.png: over all chosen test images, the sum of a map over the score that it explains, and the distance from the
  map of the network where BN was merged by hand: median and quartiles
- batchnorm_rules.md: the numbers, which are printed too
- the trained networks, which later runs use again

What is found: "fold" gives the map of the network that was merged by hand, but for rounding. With LRP epsilon the
linear forms differ little from it (rank correlations of 0.98 and more). With preset A they do where BN stands alone
with a convolution, most where it comes before it (0.55; 0.91 after it, 0.99 in the third network), and their sums are
smaller, as the shift takes a share like a bias. "linear" and "two_linear", between which the thesis sees large
differences on ResNet50 and others, are equally far from "fold" here. Hui and Binder's rule keeps the order of the
pixels with preset A (0.93 to 1.00), so the maps look as appealing as in the thesis, but not the score: their sum is 4
to 11 times that, since what passes a BN with a positive factor is doubled. With LRP epsilon it changes the order too
(0.45 and 0.47), and where BN comes before the convolution nothing is left of it (-0.01).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common  # first: it loads TensorFlow quietly
import digits
import keras
import numpy as np
from keras import layers
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import innv_ext
from innv_ext.evaluation.plotting import COLOURS
from innv_ext.visualization import heatmap, to_rgb

OPTIONS = ("fold", "linear", "two_linear", "hui_binder")
RULES: dict[str, dict[str, Any]] = {"lrp.epsilon": {"epsilon": 1e-3}, "lrp.sequential_preset_a": {}}
NETWORKS = ("BN after", "BN before", "pre-activation")
SHOWN = 2  # images in the figure

Tensor = Any


# --- networks ----------------------------------------------------------------------------------------------------


class Parts:
    """Makes the layers of a network; with ``merged``, those BN layers are left out that a convolution can take in.

    They are called "<convolution>-after" or "<convolution>-before", the others "alone-<number>".
    """

    def __init__(self, merged: bool):
        self.merged = merged
        self.convolutions = self.alone = 0

    def convolve(self, x: Tensor, filters: int, size: int = 3, padding: str = "valid", norm: str = "") -> Tensor:
        """A convolution, with BN "after" or "before" it."""
        self.convolutions += 1
        name = f"conv{self.convolutions}"
        if norm == "before":
            x = self._norm(x, f"{name}-before")
        x = layers.Conv2D(filters, size, padding=padding, name=name)(x)
        return self._norm(x, f"{name}-after") if norm == "after" else x

    def norm_alone(self, x: Tensor) -> Tensor:
        """BN between a sum and a ReLU."""
        self.alone += 1
        return layers.BatchNormalization(momentum=0.9, name=f"alone-{self.alone}")(x)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x if self.merged else layers.BatchNormalization(momentum=0.9, name=name)(x)


def plain(x: Tensor, parts: Parts, norm: str) -> Tensor:
    """Four convolutions without padding, as zeros at a border would not be normalised, with ReLUs and a pooling."""
    for filters in (16, 32):
        for _ in range(2):
            x = layers.ReLU()(parts.convolve(x, filters, norm=norm))
        x = layers.MaxPooling2D(2)(x) if filters == 16 else x
    return x


def preactivation(x: Tensor, parts: Parts) -> Tensor:
    """Two blocks of twice BN, ReLU, convolution, with shortcuts around them."""
    x = parts.convolve(x, 16, padding="same")
    for filters in (16, 32):
        short = x if filters == 16 else parts.convolve(x, filters, 1)
        inner = parts.convolve(layers.ReLU()(parts.norm_alone(x)), filters, padding="same", norm="after")
        inner = parts.convolve(layers.ReLU()(inner), filters, padding="same")
        x = layers.MaxPooling2D(2)(layers.Add()([inner, short]))
    return layers.ReLU()(parts.norm_alone(x))


def build(network: str, merged: bool = False) -> keras.Model:
    """One of NETWORKS, or the same without the BN that can be merged."""
    image, parts = keras.Input((16, 16, 1)), Parts(merged)
    if network == "pre-activation":
        features = preactivation(image, parts)
    else:
        features = plain(image, parts, norm=network.split()[1])
    features = layers.Dropout(0.3)(layers.Flatten()(features))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(features))


def train(network: str, data: digits.Digits, epochs: int) -> keras.Model:
    """Train one of NETWORKS."""
    keras.utils.set_random_seed(0)
    model = build(network)
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
    return model


def merge(network: str, model: keras.Model) -> tuple[keras.Model, int, int]:
    """The network with BN merged by hand, how many BN layers are gone, and how many are left."""
    weights = {layer.name: [w.astype("float64") for w in layer.get_weights()] for layer in model.layers}
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    left = 0
    for norm in norms:
        gamma, beta, mean, variance = weights[norm.name]
        scale = gamma / np.sqrt(variance + norm.epsilon)
        shift = beta - mean * scale
        name, side = norm.name.split("-")
        if name == "alone":
            left += 1
            continue
        kernel, bias = weights[name]
        if side == "after":
            weights[name] = [kernel * scale, bias * scale + shift]
        else:
            weights[name] = [kernel * scale[:, None], bias + np.einsum("c,abcf->f", shift, kernel)]
    merged = build(network, merged=True)
    for layer in merged.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return merged, len(norms) - left, left


# --- the options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a rule with one of the options finds in a network.

    Attributes
    ----------
    maps : (images, 16, 16, 1)
    share : (images,), the sum of each map over the score that it explains
    distance : (images,), from the map of the merged network, over the length of that
    correlation : (images,), rank correlation with that map, which tells nothing of scales
    """

    maps: np.ndarray
    share: np.ndarray
    distance: np.ndarray
    correlation: np.ndarray


Results = dict[tuple[str, str, str], Found]


def explain(network: str, model: keras.Model, merged: keras.Model, x: np.ndarray) -> Results:
    """(network, rule, option) -> what is found."""
    results = {}
    for rule, params in RULES.items():
        by_hand = innv_ext.create_analyzer(rule, merged, **params).analyze(x).reshape(len(x), -1)
        for option in OPTIONS:
            told = innv_ext.create_analyzer(rule, model, batchnorm=option, **params).explain(x)
            maps = told.attribution.reshape(by_hand.shape)
            away, length = (np.linalg.norm(m, axis=1) for m in (maps - by_hand, by_hand))
            alike = np.array([spearmanr(*pair).statistic for pair in zip(maps, by_hand, strict=True)])
            results[network, rule, option] = Found(
                told.attribution, maps.sum(axis=1) / told.score, away / length, alike
            )
    return results


def quartiles(values: np.ndarray) -> str:
    """Median, and the quartiles in parentheses."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def table(results: Results, left: dict[str, tuple[int, int]]) -> str:
    """A line per network, rule and option."""
    rows = []
    for (network, rule, option), found in results.items():
        told = f"{network} ({left[network][0]} merged, {left[network][1]} left)"
        numbers = map(quartiles, (found.share, found.distance, found.correlation))
        rows.append([told, rule, option, *numbers])
    return _common.markdown(
        "network (BN layers) | rule | batchnorm= | sum / score | distance from the merged network's map | "
        "rank correlation with it",
        rows,
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_maps(x: np.ndarray, results: Results, path: Path) -> None:
    """A row per image and rule, the options of each network side by side."""
    columns = 1 + len(NETWORKS) * len(OPTIONS)
    rows = [(rule, i) for i in range(SHOWN) for rule in RULES]
    figure = Figure(figsize=(1.06 * columns + 0.2, 1.17 * len(rows) + 1.15), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    # a narrow column between the networks
    widths = [1] + [w for _ in NETWORKS for w in (0.18, *[1] * len(OPTIONS))]
    grid = figure.add_gridspec(
        len(rows),
        len(widths),
        width_ratios=widths,
        left=0.1,
        right=0.99,
        top=0.875,
        bottom=0.12,
        wspace=0.06,
        hspace=0.1,
    )
    places = [j for j, w in enumerate(widths) if w == 1]
    for r, (rule, i) in enumerate(rows):
        cell = figure.add_subplot(grid[r, 0])
        _common.draw(cell, to_rgb(x[i : i + 1], value_range=(0, 1))[0])
        cell.set_ylabel(rule.replace("sequential_", "\nsequential\n_"), rotation=0, ha="right", va="center", fontsize=8)
        keys = [(network, rule, option) for network in NETWORKS for option in OPTIONS]
        for place, key in zip(places[1:], keys, strict=True):
            cell = figure.add_subplot(grid[r, place])
            picture = heatmap(results[key].maps[i : i + 1], gamma=0.5)[0]
            _common.draw(cell, picture, "" if r else key[2])
            if not r and key[2] == OPTIONS[0]:
                left = cell.get_position().x0
            if not r and key[2] == OPTIONS[-1]:
                middle = (left + cell.get_position().x1) / 2
                figure.text(middle, 0.945, key[0], ha="center", va="center", fontsize=11)
    ends = "-max of the map", "+max (colours: square root)"
    _common.draw_bar(figure, (0.4, 0.065, 0.2, 0.018), *ends)
    figure.savefig(path, facecolor="white")


def draw_panel(axes: Axes, results: Results, pick: Callable[[Found], np.ndarray]) -> None:
    """Medians with quartiles; colours are options, markers rules."""
    for n, network in enumerate(NETWORKS):
        for k, option in enumerate(OPTIONS):
            for marker, rule in zip("os", RULES, strict=True):
                low, middle, high = np.percentile(pick(results[network, rule, option]), (25, 50, 75))
                place = n + 0.19 * (k - 1.5) + (0.07 if marker == "s" else 0)
                bars = [[middle - low], [high - middle]]
                style = {"color": COLOURS[k], "ms": 5, "elinewidth": 1.2, "capsize": 2}
                axes.errorbar(place, middle, bars, fmt=marker, label=f"{option}, {rule}" if not n else None, **style)
    axes.set_xticks(range(len(NETWORKS)), NETWORKS)
    axes.set_xlim(-0.5, len(NETWORKS) - 0.5)
    axes.spines[["top", "right"]].set_visible(False)


def draw_numbers(results: Results, path: Path) -> None:
    """Sums on the left, distances on the right."""
    figure = Figure(figsize=(11.5, 4.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_panel(left, results, lambda found: found.share)
    left.axhline(1, color="#999999", linewidth=0.8, zorder=0)
    left.set_yscale("symlog", linthresh=1)
    left.set_ylabel("sum of the map / score (1: nothing is lost)")
    draw_panel(right, results, lambda found: found.distance)
    right.set_yscale("log")
    right.set_ylabel("distance from the map of the network\nwith BN merged by hand (relative)")
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(OPTIONS), frameon=False, fontsize=8)
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Train or load the networks, explain with all options, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/batchnorm_rules",
        own_data=False,
        images=(100, "test images that are measured"),
        epochs=(12, "epochs of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    data = digits.load()
    x = data.x_test[_common.in_turn(data.y_test)[: options.images]]
    results: Results = {}
    left = {}
    for network in NETWORKS:
        model = digits.find_model(
            out / f"{network.replace(' ', '_')}.keras",
            data,
            lambda network=network: train(network, data, options.epochs),
            len(data.x_train),
            retrain=options.retrain,
            least=0.9,
        )
        merged, *left[network] = merge(network, model)
        gap = np.abs(np.asarray(merged(x)) - np.asarray(model(x))).max()
        if gap > 1e-4:
            raise RuntimeError(f"{network}: merging BN by hand changed the outputs by {gap:.1e}.")
        results |= explain(network, model, merged, x)
    found = _common.write_tables(out / "batchnorm_rules.md", table(results, left))
    draw_maps(x, results, out / "maps.png")
    draw_numbers(results, out / "numbers.png")
    print(
        f"\nMedian (and quartiles) over {len(x)} test images:\n\n{found}\n\nWrote maps.png, numbers.png and "
        f"batchnorm_rules.md to {out}."
    )


if __name__ == "__main__":
    main()
