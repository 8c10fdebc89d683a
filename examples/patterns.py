"""What PatternNet and PatternAttribution learn, and what they show: "Learning how to explain neural networks"
(Kindermans et al. 2018), on digits.

    python examples/patterns.py [--data mnist.npz] [--images 8] [--out out/patterns]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. A small network of ReLUs is trained, and one pass over the training images
learns the pattern of each neuron: the direction in which its inputs change when its output does. The weights of a
neuron are another direction: they have to cancel whatever disturbs the output. In the folder --out:

- filters.png: on top the toy that shows the difference, x = a_s y + a_d e, where a linear model finds y although e
  disturbs it. Its weights turn with the distractor a_d, the pattern stays on the signal a_s. Below all filters of the
  network's first layer and their patterns
- maps.png: test images, explained by walks with weights (gradient, LRP), with patterns, and by DeepLIFT
- patterns.md: both comparisons in numbers, which are printed too
- the trained network, which later runs use again

pattern.net shows the signal in the image, pattern.attribution how much each pixel adds to the score by it. The
network subtracts the mean grey value first: the pattern of a neuron behind a ReLU is learnt from the samples where it
fires, and on images from 0 to 1 the brightness that these have in common would outshine everything else.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import keras
import mnist
import numpy as np
from digits import find_model
from keras import layers
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import innv_ext
from innv_ext.visualization import heatmap, imshow_grid

FILTERS, SIDE = 16, 7  # of the first layer
SIGNAL = (1.0, 0.0)
DISTRACTORS = ((1.0, 1.0), (0.5, -1.0))
SAMPLES = 5000  # of the toy
BLACK, GREY, RED, BLUE = "#222222", "#8c8c8c", "#d55e00", "#0072b2"
ACROSS, CELL, PAIR = 8, 0.82, 1.85  # filters in a row; inches: width of one, height of a filter and its pattern
TOY, HEAD, MARGIN = 3.1, 0.65, 0.45  # inches: height of the toy's panels, of the title below, around the figure


# --- the toy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """Samples x = a_s y + a_d e, and how a linear model that finds y is explained for the sample with the largest y."""

    distractor: tuple[float, float]
    x: np.ndarray
    y: np.ndarray
    gradient: np.ndarray
    pattern: np.ndarray


def solve_toy(distractor: tuple[float, float]) -> Toy:
    """Fit the linear model by least squares, then its pattern."""
    rng = np.random.default_rng(0)
    y, e = rng.uniform(-1, 1, SAMPLES), rng.normal(0, 0.5, SAMPLES)
    x = np.outer(y, SIGNAL) + np.outer(e, distractor)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.linalg.lstsq(x, y[:, None])[0]])
    largest = x[[y.argmax()]]
    gradient = innv_ext.create_analyzer("gradient", model).analyze(largest)[0]
    pattern = innv_ext.create_analyzer("pattern.net", model, pattern_type="linear").fit(x).analyze(largest)[0]
    return Toy(distractor, x, y, gradient, pattern)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the angles between the columns of two matrices; 0 for columns of zeros."""
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(axis=0) / np.where(lengths > 0, lengths, 1)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    """The angle between two vectors."""
    return float(np.degrees(np.arccos(np.clip(cosine(a, b), -1, 1))))


def toy_table(toys: list[Toy]) -> str:
    """Directions and their angles to the signal."""
    rows = []
    for toy in toys:
        found = [
            [f"({v[0]:.2f}, {v[1]:.2f})", f"{degrees(v, np.array(SIGNAL)):.1f}°"] for v in (toy.gradient, toy.pattern)
        ]
        rows.append([f"({toy.distractor[0]:g}, {toy.distractor[1]:g})", *found[0], *found[1]])
    return _common.markdown(
        "distractor | gradient | its angle to the signal | pattern.net | its angle to the signal", rows
    )


# --- the network and its patterns --------------------------------------------------------------------------------


def build_model(mean: float) -> keras.Model:
    """Two convolutions with large filters, each followed by max pooling, and two dense layers, 33 000 weights."""
    stack = [keras.Input((mnist.SIDE, mnist.SIDE, 1)), layers.Rescaling(2, offset=-2 * mean)]
    for name, filters, size in (("first", FILTERS, SIDE), ("second", 32, 5)):
        stack += [layers.Conv2D(filters, size, activation="relu", name=name), layers.MaxPooling2D(2)]
    stack += [layers.Flatten(), layers.Dense(64, activation="relu", name="hidden")]
    return keras.Sequential([*stack, layers.Dense(10, activation="softmax", name="classes")], name="patterns")


def train(digits: mnist.Digits, steps: int) -> keras.Model:
    """Train the network for at least ``steps`` updates."""
    keras.utils.set_random_seed(0)
    return mnist.fit(build_model(float(digits.x_train.mean())), digits, mnist.epochs_of(digits, steps), 2e-3)


def learn_patterns(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """Layer name -> patterns, shaped like the layer's kernel; 0 for neurons that never fire."""
    with warnings.catch_warnings():  # the table counts them
        warnings.simplefilter("ignore", innv_ext.errors.DeadNeuronWarning)
        return innv_ext.create_analyzer("pattern.net", model).fit(x).patterns_


def compare(model: keras.Model, patterns: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer name -> (which neurons are dead, cosine of weights and pattern), one value per neuron."""
    found = {}
    for name, pattern in patterns.items():
        a = pattern.reshape(-1, pattern.shape[-1])
        w = model.get_layer(name).get_weights()[0].reshape(a.shape)
        found[name] = ~a.any(axis=0), cosine(w, a)
    return found


def layer_table(compared: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A line per layer."""
    rows = []
    for name, (dead, cosines) in compared.items():
        alive = cosines[~dead]
        shares = [f"{np.median(alive):.2f}", f"{alive.min():.2f} to {alive.max():.2f}"] if alive.size else ["-", "-"]
        rows.append([name, str(len(dead)), f"{dead.mean():.0%}", *shares])
    return _common.markdown("layer | neurons | dead | median cosine of weights and pattern | range", rows)


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_toy(axes: Axes, toy: Toy) -> None:
    """Samples, coloured by y, and the directions."""
    few, signal = slice(0, 800), np.array(SIGNAL)
    axes.scatter(*toy.x[few].T, c=toy.y[few], cmap="PuOr", s=8, linewidths=0)
    axes.axline((0, 0), signal, color=BLACK, linewidth=1.2, linestyle=(0, (5, 3)), label="signal $a_s$")
    for direction, colour, label in (
        (np.array(toy.distractor), GREY, "distractor $a_d$"),
        (toy.gradient, RED, f"gradient: {degrees(toy.gradient, signal):.0f}° off the signal"),
        (toy.pattern, BLUE, f"pattern.net: {degrees(toy.pattern, signal):.0f}° off the signal"),
    ):
        style = {"arrowstyle": "-|>,head_width=0.4,head_length=0.7", "color": colour, "linewidth": 2.6}
        tip = 1.2 * direction / np.linalg.norm(direction)
        axes.annotate("", tip, (0, 0), arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
        axes.plot([], [], color=colour, linewidth=2.6, label=label)
    axes.set(xlim=(-2.1, 2.1), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(color="#bbbbbb", linewidth=0.6)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": 2, "columnspacing": 1.2}
    axes.legend(frameon=False, fontsize=8, handlelength=1.8, **place)


def draw_filters(
    figure: Figure, weights: np.ndarray, patterns: np.ndarray, compared: tuple[np.ndarray, np.ndarray]
) -> None:
    """Each filter (side, side, count) above its pattern; the most similar come last."""
    width, height = figure.get_size_inches()
    dead, cosines = compared
    order = np.lexsort((cosines, dead))
    pairs = [heatmap(np.moveaxis(m[:, :, order], -1, 0)) for m in (weights, patterns)]
    for i, neuron in enumerate(order):
        row, column = divmod(i, ACROSS)
        left, top = MARGIN + 0.75 + column * CELL, height - MARGIN - TOY - HEAD - row * PAIR
        for below, pictures in enumerate(pairs):
            side = CELL - 0.12
            bottom = top - side - below * (side + 0.06)
            cell = figure.add_axes((left / width, bottom / height, side / width, side / height))
            note = "dead" if dead[neuron] else f"cos {cosines[neuron]:.2f}"
            _common.draw(cell, pictures[i], note=note if below else "")
            if not column:
                style = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
                cell.set_ylabel("pattern" if below else "weights", **style)


def draw_figure(toys: list[Toy], model: keras.Model, patterns: dict[str, np.ndarray], path: Path) -> None:
    """The toy above, the first layer below."""
    rows = -(-FILTERS // ACROSS)
    width, height = 2 * MARGIN + 0.75 + ACROSS * CELL, 2 * MARGIN + TOY + HEAD + rows * PAIR
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    half = (width - 2 * MARGIN - 0.2) / 2
    for i, toy in enumerate(toys):
        place = (MARGIN + i * (half + 0.2), height - MARGIN - TOY + 0.45, half, TOY - 0.45)
        draw_toy(figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height)), toy)
    first = next(iter(patterns))
    weights = model.get_layer(first).get_weights()[0][:, :, 0]
    draw_filters(figure, weights, patterns[first][:, :, 0], compare(model, patterns)[first])
    for text, top in (
        ("$x = a_s y + a_d e$: a linear model that finds y, explained by its weights and by its pattern", 0.14),
        (f"Filters of the first layer, {SIDE} x {SIDE}, and their patterns", MARGIN + TOY + HEAD - 0.35),
    ):
        figure.text(MARGIN / width, 1 - top / height, text, va="top", fontsize=11)
    bar_place = (0.5 - 1.0 / width, 0.38 / height, 2.0 / width, 0.08 / height)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), "seismic"), figure.add_axes(bar_place), orientation="horizontal"
    )
    bar.set_ticks([-1, 0, 1], labels=["\N{MINUS SIGN}max", "0", "+max"], fontsize=8)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    figure.savefig(path, facecolor="white")


def draw_maps(
    model: keras.Model, digits: mnist.Digits, patterns: dict[str, np.ndarray], count: int, path: Path
) -> None:
    """Test images of different classes, explained for the predicted class."""
    chosen = _common.in_turn(digits.y_test)[:count]
    x = digits.x_test[chosen]
    outputs = model.predict(x, verbose=0)
    analyzers = {
        "gradient": {},
        "lrp.z_plus": {},
        "pattern.net": {"patterns": patterns},
        "pattern.attribution": {"patterns": patterns},
        "deep_lift": {},
    }
    results = _common.run_analyzers(model, x, analyzers)
    imshow_grid(
        x,
        {title: found.relevance for title, found in results.items()},
        modes={"pattern.net": "back_project"},
        labels=digits.y_test[chosen],
        predictions=outputs.argmax(axis=1),
        probabilities=outputs.max(axis=1),
        scores=next(iter(results.values())).scores,
        value_range=(0, 1),
        colorbar=True,
        path=path,
    )


def main() -> None:
    """Train or load the network, learn patterns, print and draw."""
    options = _common.read_options(
        __doc__,
        "out/patterns",
        images=(8, "test images, of different classes"),
        steps=(600, "updates of the training"),
    )
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(options.data)
    saved, count = out / f"{digits.name}.keras", len(digits.x_train)
    model = find_model(
        saved, digits, lambda: train(digits, options.steps), count, retrain=options.retrain, least=0.6
    )

    toys = [solve_toy(distractor) for distractor in DISTRACTORS]
    patterns = learn_patterns(model, digits.x_train)
    found = f"{toy_table(toys)}\n\n{layer_table(compare(model, patterns))}"
    (out / "patterns.md").write_text(found + "\n", encoding="utf-8")
    draw_figure(toys, model, patterns, out / "filters.png")
    draw_maps(model, digits, patterns, options.images, out / "maps.png")
    print(f"\n{found}\n\nWrote filters.png, maps.png and patterns.md to {out}.")


if __name__ == "__main__":
    main()
