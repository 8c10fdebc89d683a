"""Do different networks see the same in an image? One image, several architectures, many methods: section V.4.4 and
figure V.10 of the thesis behind iNNvestigate, on digits.

    python examples/architectures.py [--images 30] [--epochs 10] [--out out/architectures]

A multilayer perceptron, a plain convolutional network, one with shortcuts (as ResNet), one with dense blocks (as
DenseNet) and a small transformer of image patches learn scikit-learn's digits. All are explained by the same methods,
each for the class that it predicts. The thesis says of its figure that some methods get very sparse for deeper
networks, and that methods differ the more, the more complex the network is; over the chosen test images this is
measured here, by the Gini index and by rank correlations. In the folder --out:

- maps.png: a test image that not all networks get right, rows are networks, columns methods
- numbers.png: sparsity for each network and method, and how much the methods agree on a network, the networks on a
  method
- architectures.md: the numbers, which are printed too
- the trained networks, which later runs use again

What is found: methods do agree less on the more complex networks, as the thesis says: rank correlations of 0.61 on the
perceptron and 0.58 on the plain network, but 0.34 to 0.40 on the other three. That maps get sparser with depth is not
found on these shallow networks: for most methods the Gini index is much the same on all of them, and those where it is
not (Deep Taylor, guided backprop, LRP preset A) are sparsest on the plain one or the transformer. On the perceptron,
the flat rule at the first layer leaves a constant map, for it has no other layer to look at positions. Networks agree
most on occlusion (0.70), which only calls them, and on guided backprop (0.59), which is known to show the image more
than the network; least on LRP preset A, flat (0.17). Each architecture was trained once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
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
from scipy.stats import rankdata

import innv_ext
from innv_ext.evaluation import sparsity
from innv_ext.evaluation.plotting import COLOURS
from innv_ext.visualization import imshow_grid

ANALYZERS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "smoothgrad": {"augment_by_n": 32},
    "integrated_gradients": {"steps": 32},
    "deep_lift": {},
    "guided_backprop": {},
    "deep_taylor": {},
    "lrp.epsilon": {"epsilon": 1e-3},
    "lrp.epsilon_plus": {},
    "lrp.sequential_preset_a_flat": {},
    "occlusion": {"patch": 3, "stride": 1},
}

Tensor = Any


# --- architectures -----------------------------------------------------------------------------------------------


def perceptron(x: Tensor) -> Tensor:
    """Two dense layers."""
    x = layers.Flatten()(x)
    for units in (128, 64):
        x = layers.Dense(units, activation="relu")(x)
    return x


def plain(x: Tensor) -> Tensor:
    """Pairs of convolutions, as VGG."""
    for filters in (16, 32):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    return layers.Dense(64, activation="relu")(layers.Flatten()(x))


def convolve(x: Tensor, filters: int, size: int = 3, relu: bool = True) -> Tensor:
    """Convolution, BN, ReLU."""
    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(filters, size, padding="same", use_bias=False)(x))
    return layers.ReLU()(x) if relu else x


def residual(x: Tensor) -> Tensor:
    """Shortcuts around pairs of convolutions, as ResNet."""
    x = convolve(x, 16)
    for filters in (16, 32):
        short = x if filters == 16 else layers.Conv2D(filters, 1)(x)
        inner = convolve(convolve(x, filters), filters, relu=False)
        x = layers.MaxPooling2D(2)(layers.ReLU()(layers.Add()([inner, short])))
    return layers.Flatten()(x)


def dense_blocks(x: Tensor) -> Tensor:
    """Each convolution sees the outputs of all before it, as DenseNet."""
    x = convolve(x, 16)
    for _ in range(2):
        for _ in range(2):
            x = layers.Concatenate()([x, convolve(x, 12)])
        x = layers.AveragePooling2D(2)(convolve(x, 24, 1))
    return layers.Flatten()(x)


def transformer(x: Tensor) -> Tensor:
    """Self-attention over patches of 2 x 2 pixels."""
    x = layers.Reshape((64, 24))(layers.Conv2D(24, 2, strides=2)(x))
    normal = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 6)(normal, normal)])
    inner = layers.Dense(48, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(24)(inner)])
    return layers.Flatten()(layers.Dense(8)(layers.LayerNormalization()(x)))


ARCHITECTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "perceptron": perceptron,
    "plain CNN": plain,
    "residual": residual,
    "dense blocks": dense_blocks,
    "transformer": transformer,
}


def train(name: str, data: digits.Digits, epochs: int) -> keras.Model:
    """Train one of ARCHITECTURES."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 1))
    features = layers.Dropout(0.3)(ARCHITECTURES[name](image))
    model = keras.Model(image, layers.Dense(10, activation="softmax")(features))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=0)
    return model


# --- explanations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """A network, and what all methods say of it.

    Attributes
    ----------
    model : the network
    right : share of all test images
    predicted, probability, score : (images,)
    maps : method -> (images, 16, 16, 1), without those that are not defined for the network
    """

    model: keras.Model
    right: float
    predicted: np.ndarray
    probability: np.ndarray
    score: np.ndarray
    maps: dict[str, np.ndarray]


def explain(model: keras.Model, right: float, x: np.ndarray) -> Explained:
    """Run all methods."""
    maps = {}
    for name, params in ANALYZERS.items():
        try:
            found = innv_ext.create_analyzer(name, model, progress=False, **params).explain(x)
        except innv_ext.errors.UnsupportedModelError:  # methods for ReLU networks, on others
            continue
        maps[name] = found.attribution
    outputs = np.asarray(model(x))
    return Explained(model, right, outputs.argmax(axis=1), outputs.max(axis=1), np.asarray(found.score), maps)


def choose(found: dict[str, Explained], labels: np.ndarray) -> int:
    """The image that the most networks get right, but not all of them; or the first one."""
    right = np.sum([explained.predicted == labels for explained in found.values()], axis=0)
    return int(np.where(right < len(found), right, -1).argmax())


def correlations(maps: list[np.ndarray]) -> float:
    """The mean rank correlation of each two of several maps of an image, over the images."""
    ranks = np.array([rankdata(m.reshape(len(m), -1), axis=1) for m in maps])
    ranks -= ranks.mean(axis=2, keepdims=True)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=2, keepdims=True), 1e-12)
    return float(np.mean([(a * b).sum(axis=1).mean() for a, b in combinations(ranks, 2)]))


@dataclass(frozen=True)
class Numbers:
    """What is measured.

    Attributes
    ----------
    gini : (networks, methods), mean sparsity; NaN where a method is not defined
    common : the methods that are defined for all networks
    on_network : network -> how much these methods agree
    on_method : method -> how much the networks agree, of those for which it is defined
    """

    gini: np.ndarray
    common: list[str]
    on_network: dict[str, float]
    on_method: dict[str, float]


def measure(found: dict[str, Explained]) -> Numbers:
    """Sparsity and agreement."""
    gini = np.full((len(found), len(ANALYZERS)), np.nan)
    for i, explained in enumerate(found.values()):
        for j, name in enumerate(ANALYZERS):
            if name in explained.maps:
                gini[i, j] = sparsity(explained.maps[name]).mean()
    common = [name for name in ANALYZERS if all(name in explained.maps for explained in found.values())]
    on_network = {title: correlations([e.maps[name] for name in common]) for title, e in found.items()}
    on_method = {n: correlations([e.maps[n] for e in found.values() if n in e.maps]) for n in ANALYZERS}
    return Numbers(gini, common, on_network, on_method)


def tables(found: dict[str, Explained], numbers: Numbers) -> tuple[str, str, str]:
    """Networks, methods, and what they mean."""
    networks = [
        [
            title,
            f"{e.model.count_params():,}",
            f"{e.right:.1%}",
            f"{np.nanmean(g):.2f}",
            f"{numbers.on_network[title]:.2f}",
        ]
        for (title, e), g in zip(found.items(), numbers.gini[:, _places(numbers.common)], strict=True)
    ]
    methods = [
        [name, *("-" if np.isnan(g) else f"{g:.2f}" for g in column), f"{numbers.on_method[name]:.2f}"]
        for name, column in zip(ANALYZERS, numbers.gini.T, strict=True)
    ]
    alike = sorted(numbers.on_network, key=numbers.on_network.get, reverse=True)
    stable = sorted(numbers.on_method, key=numbers.on_method.get, reverse=True)
    words = (
        f"Methods agree most on: {', '.join(alike)}.\nNetworks agree most on: {', '.join(stable[:3])}; least on: "
        f"{', '.join(stable[:-4:-1])}."
    )
    return (
        _common.markdown("network | weights | right | mean Gini index | agreement of the methods", networks),
        _common.markdown(f"Gini index | {' | '.join(found)} | agreement of the networks", methods),
        f"Means are over the methods that are defined for all networks: {', '.join(numbers.common)}.\n{words}",
    )


def _places(names: list[str]) -> list[int]:
    return [list(ANALYZERS).index(name) for name in names]


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_maps(found: dict[str, Explained], x: np.ndarray, labels: np.ndarray, i: int, path: Path) -> None:
    """Image ``i``, a row per network."""
    figure = Figure(figsize=(14.2, 6.9), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    place = {"left": 0.105, "right": 0.935, "top": 0.93, "bottom": 0.12, "wspace": 0.06, "hspace": 0.06}
    cells = figure.add_gridspec(len(found), 1 + len(ANALYZERS), **place).subplots()
    networks, nothing = list(found.values()), np.zeros(x.shape[1:])
    imshow_grid(
        np.repeat(x[i : i + 1], len(found), axis=0),
        {n: np.array([e.maps[n][i] if n in e.maps else nothing for e in networks]) for n in ANALYZERS},
        labels=np.full(len(found), labels[i]),
        predictions=np.array([e.predicted[i] for e in networks]),
        probabilities=np.array([e.probability[i] for e in networks]),
        scores=np.array([e.score[i] for e in networks]),
        value_range=(0, 1),
        ax=cells,
    )
    for row, (title, explained) in zip(cells, found.items(), strict=True):
        box = row[0].get_position()
        figure.text(0.012, (box.y0 + box.y1) / 2, title.replace(" ", "\n"), fontsize=10, va="center", ha="left")
        for cell, name in zip(row[1:], ANALYZERS, strict=True):
            if name not in explained.maps:
                for text in cell.texts:
                    text.set_text("not defined\nfor this network")
    _common.draw_bar(figure, (0.44, 0.06, 0.16, 0.015), "-max of the map", "+max")
    figure.savefig(path, facecolor="white")


def draw_dots(axes: Axes, values: dict[str, float], title: str) -> None:
    """A point per name."""
    axes.plot(list(values.values()), range(len(values)), "o", color=COLOURS[0], markersize=6)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.set(xlim=(-0.05, 1), ylim=(len(values) - 0.5, -0.5))
    axes.set_title(title, fontsize=10)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("mean rank correlation", fontsize=8)


def draw_numbers(found: dict[str, Explained], numbers: Numbers, path: Path) -> None:
    """Sparsity, agreement on networks, agreement on methods."""
    figure = Figure(figsize=(13, 4.2), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _common.draw_matrix(left, numbers.gini, (list(found), list(ANALYZERS)), "YlGnBu", (0.2, 1))
    left.set_title("Gini index of the maps (1: one pixel has it all)", fontsize=10)
    draw_dots(middle, numbers.on_network, f"Do {len(numbers.common)} methods agree on a network?")
    draw_dots(right, numbers.on_method, "Do the networks agree on a method?")
    figure.savefig(path, facecolor="white")


def main() -> None:
    """Train or load the networks, explain, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/architectures",
        own_data=False,
        images=(30, "test images that are measured"),
        epochs=(10, "epochs of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    data = digits.load()
    chosen = _common.in_turn(data.y_test)[: options.images]
    x, labels = data.x_test[chosen], data.y_test[chosen]
    found = {}
    for name in ARCHITECTURES:
        model = digits.find_model(
            out / f"{name.replace(' ', '_')}.keras",
            data,
            lambda name=name: train(name, data, options.epochs),
            len(data.x_train),
            retrain=options.retrain,
            least=0.9,
        )
        found[name] = explain(model, float(np.mean(np.asarray(model(data.x_test)).argmax(axis=1) == data.y_test)), x)
    numbers = measure(found)
    i = choose(found, labels)
    text = _common.write_tables(out / "architectures.md", *tables(found, numbers))
    draw_maps(found, x, labels, i, out / "maps.png")
    draw_numbers(found, numbers, out / "numbers.png")
    print(f"\n{len(x)} test images:\n\n{text}\n\nWrote maps.png, numbers.png and architectures.md to {out}.")


if __name__ == "__main__":
    main()
