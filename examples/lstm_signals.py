"""When did it happen? Relevance over time of a bidirectional LSTM that reads noisy signals of different lengths.

    python examples/lstm_signals.py [--epochs 6] [--out out/lstm]

The signals are made by the script: noise, and in it two short bumps, each of which goes up or down. The class is told
by both in their order (up up, up down, down up, down down), as in the temporal order problem of Hochreiter and
Schmidhuber (1997). Signals are 40 to 64 steps long and filled up with zeros, which a Masking layer hides from the
network. As the script has put the bumps there, it knows where the relevance belongs: into the 16 steps of the events,
which are 31 % of a signal. Padding must get exactly 0. In the folder --out:

- time.png: three signals and their relevance over time, a row per method; grey: the two events; hatched: padding. Each
  curve is on the scale of its own largest value, and beside it stands the share of its magnitude in the events
- lstm.md: the numbers over all test signals, which are printed too

Last comes a contrast, ("contrast", a, b): why this class and not the one that differs from it in the second event only?
The first event, which speaks for both alike, has less of a say.

What is found: the network gets all test signals right. LRP and integrated gradients put 70 % of the magnitude into the
events, DeepLIFT 60 %, gradient times input 45 %, and the gradient only 15 %, because gates that have made up their mind
hardly react to small changes. LRP-half, which gives the gates half of what arrives at a product, loses the sum: what a
gate hands on is divided by its pre-activation, which may be near 0. In the contrast half of the magnitude is in the
second event and 19 % in the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _common  # first: it loads TensorFlow quietly
import keras
import numpy as np
from keras import layers
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import innv_ext
from innv_ext.visualization import plot_signals

STEPS, SHORTEST, EVENT = 64, 40, 8  # of the longest and the shortest signal, and of an event
NOISE, HEIGHT = 0.2, 1.5  # standard deviation; height of a bump
CLASSES = ("up up", "up down", "down up", "down down")
TRAINED, TESTED = 3000, 200  # signals

# LRP divides by the states, which pass through 0: epsilon keeps these steps quiet
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LRP": ("lrp.epsilon", {"epsilon": 0.1, "gate": "signal"}),
    "LRP-half": ("lrp.epsilon", {"epsilon": 0.1, "gate": "half"}),
    "DeepLIFT": ("deep_lift", {"reference_inputs": 0.0}),
    "integrated gradients": ("integrated_gradients", {"steps": 32, "progress": False}),
    "gradient x input": ("input_t_gradient", {}),
    "gradient": ("gradient", {}),
}
CONTRASTED = "LRP"
UP, DOWN, SHADE = "#b2182b", "#2166ac", "#e2e2e2"  # relevance above and below 0, the ground of events


# --- signals -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signals:
    """Noise with two events each.

    Attributes
    ----------
    x : (signals, STEPS, 1), zeros behind the end
    labels : (signals,), numbers of CLASSES
    events : (signals, 2, STEPS), the steps of the first and of the second event
    kept : (signals, STEPS), which steps are no padding
    """

    x: np.ndarray
    labels: np.ndarray
    events: np.ndarray
    kept: np.ndarray


def make(count: int, seed: int) -> Signals:
    """The first event lies in the first half of its signal, the second in the second."""
    rng = np.random.default_rng(seed)
    time = np.arange(STEPS)
    lengths = rng.integers(SHORTEST, STEPS + 1, count)
    half = lengths // 2
    starts = np.stack([rng.integers(1, half - EVENT), rng.integers(half + 1, lengths - EVENT)], axis=1)
    down = rng.integers(0, 2, (count, 2))
    since = time - starts[..., None]
    events = (since >= 0) & (since < EVENT)
    bumps = np.where(events, HEIGHT * np.sin(np.pi * (since + 0.5) / EVENT), 0) * (1 - 2 * down[..., None])
    kept = time < lengths[:, None]
    x = np.where(kept, rng.normal(0, NOISE, (count, STEPS)) + bumps.sum(axis=1), 0)
    return Signals(x[..., None].astype("float32"), 2 * down[:, 0] + down[:, 1], events, kept)


def train(signals: Signals, epochs: int) -> keras.Model:
    """Masking, an LSTM in both directions, and one output per class."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((STEPS, 1)),
            layers.Masking(),
            layers.Bidirectional(layers.LSTM(16)),
            layers.Dense(len(CLASSES), activation="softmax"),
        ],
        name="events",
    )
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(signals.x, signals.labels, batch_size=64, epochs=epochs, verbose=0)
    return model


# --- explanations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Relevance over time, (signals, STEPS), and the explained scores, (signals,)."""

    relevance: np.ndarray
    scores: np.ndarray

    def share(self, steps: np.ndarray) -> np.ndarray:
        """The share of the magnitude in the given steps, of each signal."""
        size = np.abs(self.relevance)
        return (size * steps).sum(axis=1) / size.sum(axis=1)


def explain(model: keras.Model, x: np.ndarray) -> dict[str, Found]:
    """The predicted class of every signal, by all methods."""
    found = {}
    for title, (name, params) in METHODS.items():
        one = innv_ext.create_analyzer(name, model, **params).explain(x)
        found[title] = Found(one.attribution[..., 0], one.score)
    return found


def contrast(model: keras.Model, signals: Signals) -> Found:
    """Why this class, and not the one with the other second event? A contrast has two classes: one call for each."""
    name, params = METHODS[CONTRASTED]
    analyzer = innv_ext.create_analyzer(name, model, **params)
    relevance, scores = np.zeros(signals.kept.shape), np.zeros(len(signals.x))
    for label in np.unique(signals.labels):
        own = signals.labels == label
        found = analyzer.explain(signals.x[own], ("contrast", int(label), int(label) ^ 1))
        relevance[own], scores[own] = found.attribution[..., 0], found.score
    return Found(relevance, scores)


def mean(values: np.ndarray) -> str:
    """The mean in percent, with its standard error."""
    error = 100 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{100 * values.mean():.0f} ± {error:.1f} %"


def table(found: dict[str, Found], signals: Signals) -> str:
    """A line per method: magnitude in the events and in each of them, on padding, and what the map sums to."""
    rows = []
    for title, one in found.items():
        shares = [mean(one.share(steps)) for steps in (signals.events.any(axis=1), *signals.events.swapaxes(0, 1))]
        padding = f"{np.abs(one.relevance[~signals.kept]).max(initial=0):g}"
        rows.append([title, *shares, padding, f"{np.median(one.relevance.sum(axis=1) / one.scores):.2f}"])
    even = mean(signals.events.any(axis=1).sum(axis=1) / signals.kept.sum(axis=1))
    header = "method | in the events | in the first | in the second | most on padding | sum / score"
    return _common.markdown(header, rows) + f"\n\nSpread evenly, {even} would lie in the events."


# --- picture -----------------------------------------------------------------------------------------------------


def dress(axes: Axes, signals: Signals, i: int) -> None:
    """Shade the events of signal i and hatch its padding."""
    for steps in np.concatenate([signals.events[i], ~signals.kept[i : i + 1]]):
        at = np.flatnonzero(steps)
        if len(at):
            hatched = not signals.kept[i, at[0]]
            left, right = at[0] - 0.5, at[-1] + 0.5
            look = {"facecolor": "white", "edgecolor": "#bbbbbb", "hatch": "////"} if hatched else {"color": SHADE}
            axes.axvspan(left, right, linewidth=0, zorder=0, **look)
    axes.set_xlim(-0.5, STEPS - 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set(color="#bbbbbb", linewidth=0.6)
    axes.tick_params(labelsize=8, length=2)


def draw_relevance(axes: Axes, values: np.ndarray) -> None:
    """Bars over time, on their own scale."""
    unit = values / (np.abs(values).max() or 1)
    axes.bar(np.arange(STEPS), unit, width=1.0, color=np.where(unit > 0, UP, DOWN), zorder=2)
    axes.axhline(0, color="#444444", linewidth=0.6, zorder=3)
    axes.set(ylim=(-1.1, 1.1), yticks=[])
    axes.spines["left"].set_visible(False)


def draw(signals: Signals, found: dict[str, Found], path: Path) -> None:
    """A column per signal: itself, coloured by the first method, then the relevance over time by every method."""
    count, rows = len(signals.x), len(found) + 1
    figure = Figure(figsize=(1.75 + 3.1 * count, 2.0 + 0.78 * len(found)), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    ratios = [1.6] + [1.0] * len(found)
    panels = figure.subplots(rows, count, squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios})
    figure.subplots_adjust(left=0.145, right=0.965, top=0.955, bottom=0.095, hspace=0.16, wspace=0.14)
    first = next(iter(found.values())).relevance
    for i in range(count):
        top = panels[0, i]
        plot_signals(signals.x[i : i + 1, :, 0], first[i : i + 1], ax=top, colorbar=False, time_label="")
        dress(top, signals, i)
        top.set(ylim=(-2.4, 2.4), yticks=[-2, 0, 2], ylabel="")
        top.tick_params(labelleft=not i)
        top.set_title(f"{CLASSES[signals.labels[i]]}, {signals.kept[i].sum()} steps", fontsize=10, fontweight="bold")
        for axes, one in zip(panels[1:, i], found.values(), strict=True):
            draw_relevance(axes, one.relevance[i])
            dress(axes, signals, i)
            share = one.share(signals.events.any(axis=1))[i]
            style = {"va": "center", "ha": "left", "fontsize": 8, "color": "#333333"}
            axes.text(1.01, 0.5, f"{share:.0%}", transform=axes.transAxes, **style)
        panels[-1, i].set_xlabel("time step", fontsize=9)
    names = (f"signal, coloured\nby {next(iter(found))}", *(title.replace(", ", ",\n") for title in found))
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axes.yaxis.set_label_coords(-0.09, 0.5)
    meanings = {"for the class": UP, "against it": DOWN, "events (on the right: their share of the magnitude)": SHADE}
    keys = [Patch(color=colour, label=text) for text, colour in meanings.items()]
    keys.append(Patch(facecolor="white", edgecolor="#bbbbbb", hatch="////", label="padding"))
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), fontsize=8, frameon=False)
    for axes in panels[:-1].flat:
        axes.tick_params(bottom=False)
    figure.savefig(path, facecolor="white")


def pick(labels: np.ndarray, lengths: np.ndarray, wanted: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """For each of the classes the signal whose length is nearest to a length of its own: short, medium, long."""
    goals = np.linspace(SHORTEST + 2, STEPS, len(wanted))
    each = [np.flatnonzero(labels == label) for label in wanted]
    return np.array([own[np.abs(lengths[own] - goal).argmin()] for own, goal in zip(each, goals, strict=True)])


def main() -> None:
    """Make signals, train, explain, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/lstm"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="of the training (default: %(default)s)")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)

    print(f"Training on {TRAINED} signals ...", flush=True)
    model = train(make(TRAINED, 0), options.epochs)
    signals = make(TESTED, 1)
    right = np.mean(model.predict(signals.x, verbose=0).argmax(axis=1) == signals.labels)
    print(f"{right:.1%} of {TESTED} test signals right.\n", flush=True)

    found = explain(model, signals.x)
    found[f"{CONTRASTED}, contrast"] = contrast(model, signals)
    text = _common.write_tables(out / "lstm.md", table(found, signals))
    rows = pick(signals.labels, signals.kept.sum(axis=1))
    shown = Signals(signals.x[rows], signals.labels[rows], signals.events[rows], signals.kept[rows])
    draw(shown, {name: Found(one.relevance[rows], one.scores[rows]) for name, one in found.items()}, out / "time.png")
    print(f"Magnitude of the relevance, mean over {TESTED} test signals:\n\n{text}\n")
    print(f"Wrote time.png and lstm.md to {out}.")


if __name__ == "__main__":
    main()
