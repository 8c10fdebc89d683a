"""What the examples share: a quiet TensorFlow, choosing images, running many analyzers, pictures and tables of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what C++ libraries write to the standard error while they load; Python errors are raised as usual."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


with _no_stderr():  # TensorFlow 2.21 prints start-up notes before it reads TF_CPP_MIN_LOG_LEVEL
    import keras

import innv_ext

# Maps can be empty, e.g. Deep Taylor's where the score is not positive: table() counts them, imshow_grid() marks them.
warnings.simplefilter("ignore", innv_ext.errors.ZeroMapWarning)


LEGEND = """
first: seconds to build (and fit) and compile the analyzer and explain one image; all: then to explain all images
sum/score: sum of the relevance over the explained score; positive: share of the positive part in the sum of magnitudes
(medians over the images)"""

SETTINGS = ("rates", "max_iter", "progress")  # say how long to search, not for what: no part of an analyzer's title


@dataclass(frozen=True)
class Result:
    """What one analyzer found on a batch of images, and what it cost.

    Attributes
    ----------
    relevance : shaped like the images
    scores : (images,), the outputs before softmax that were explained
    first, all : seconds to build (and fit) and compile the analyzer and explain one image, then to explain all images
    theory : what the relevance of an image sums to, "" where the method makes no promise
    """

    relevance: np.ndarray
    scores: np.ndarray
    first: float
    all: float
    theory: str


def read_options(
    description: str, out: str, *, own_data: bool = True, **numbers: tuple[int, str]
) -> argparse.Namespace:
    """Read and check the command line of an example on digits: --data, --out, --retrain and ``numbers`` of at least 1.

    ``numbers`` are option -> (default, help text). Without ``own_data`` there is no --data.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if own_data:
        parser.add_argument("--data", type=Path, metavar="FILE", help="digits, .npz (default: scikit-learn's)")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write to (default: %(default)s)")
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument("--retrain", action="store_true", help="train anew even if a saved network is there")
    options = parser.parse_args()
    for name in numbers:
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if own_data and options.data is not None and not options.data.is_file():
        parser.error(f"there is no file {options.data}")
    return options


def markdown(header: str, rows: list[list[str]]) -> str:
    """A markdown table; ``header`` is written with | between its columns."""
    titles = [title.strip() for title in header.split("|")]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_tables(path: Path, *tables: str) -> str:
    """Save what was found, in markdown, and return it."""
    text = "\n\n".join(tables)
    path.write_text(text + "\n", encoding="utf-8")
    return text


def draw(cell: Axes, picture: np.ndarray, title: str = "", note: str = "") -> None:
    """Show an RGB array without ticks, with a title above and a note below."""
    cell.imshow(picture, interpolation="nearest")
    cell.set(xticks=[], yticks=[])
    cell.set_title(title, fontsize=9, pad=4)
    cell.set_xlabel(note, fontsize=8, labelpad=4, linespacing=1.3)
    cell.spines[:].set(color="#bbbbbb", linewidth=0.6)


def draw_matrix(
    axes: Axes, values: np.ndarray, names: tuple[Sequence[Any], Sequence[Any]], cmap: str, limits: tuple[float, float]
) -> None:
    """Coloured cells with numbers; NaN is left empty. ``names`` are those of rows and columns."""
    picture = axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = picture.to_rgba(value)
            colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "#222222"
            text = f"{round(float(value), 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")  # no negative zero
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_yticks(range(len(names[0])), names[0])
    long = max(len(str(name)) for name in names[1]) > 2
    style = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(names[1])), names[1], **style)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def draw_bar(figure: Figure, place: tuple[float, float, float, float], low: str, high: str) -> None:
    """What the colours of heatmaps mean: a bar with its ends named, in fractions of the figure."""
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "seismic"), figure.add_axes(place), orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=[low.replace("-", "\N{MINUS SIGN}"), "0", high], fontsize=8)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


def vgg(side: int, name: str) -> keras.Model:
    """Two pairs of convolutions, each followed by max pooling, and two dense layers: a small VGG for grey digits."""
    stack: list[Any] = [keras.Input((side, side, 1))]
    for filters in (16, 32):
        stack += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(2)]
        stack.append(keras.layers.MaxPooling2D(2))
    stack += [keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(64, activation="relu")]
    return keras.Sequential([*stack, keras.layers.Dense(10, activation="softmax")], name=name)


def in_turn(labels: np.ndarray) -> np.ndarray:
    """The order of images in which the first of every class come before the second ones, and so on."""
    turn = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)], "int64")
    return np.lexsort((labels, turn))


def run_analyzers(
    model: keras.Model,
    x: np.ndarray,
    analyzers: Mapping[str, Mapping[str, Any]],
    neurons: np.ndarray | None = None,
    training: np.ndarray | None = None,
) -> dict[str, Result]:
    """Explain ``x`` with every analyzer (name -> parameters), fitted to the ``training`` images if there are any.

    Explained is the largest output of each image, or that of the given ``neurons``. Numbers among the parameters become
    part of the name: "lrp.epsilon" with ``{"epsilon": 0.1}`` is found under "lrp.epsilon 0.1".
    """
    theories = {info.name: info.sums_to for info in innv_ext.list_analyzers()}
    results = {}
    for name, params in analyzers.items():
        start = time.perf_counter()
        analyzer = innv_ext.create_analyzer(name, model, **params)
        if training is not None:
            analyzer.fit(training)
        analyzer.explain(x[:1], None if neurons is None else neurons[:1])  # compiles
        ready = time.perf_counter()
        found = analyzer.explain(x, neurons)
        done = time.perf_counter()
        numbers = [v for k, v in params.items() if k not in SETTINGS and isinstance(v, (int, float))]
        title = " ".join([name, *(f"{v:g}" for v in numbers)])
        results[title] = Result(found.attribution, found.score, ready - start, done - ready, theories[name])
    return results


def ordering(relevance: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Draw maps that order components, from the least (blue) to the most relevant (yellow): a mode of imshow_grid."""
    flat = relevance.mean(axis=-1).reshape(len(relevance), -1)
    low, width = flat.min(axis=1, keepdims=True), np.ptp(flat, axis=1, keepdims=True)
    unit = (flat - low) / np.where(width, width, 1)
    return matplotlib.colormaps["viridis"](unit.reshape(relevance.shape[:3]))[..., :3]


def table(results: Mapping[str, Result]) -> str:
    """One line per analyzer: seconds, sum of the map over the explained score, share of positive relevance."""
    width = max(map(len, results))
    lines = [f"{'analyzer':{width}s}  first [s]  all [s]  sum/score  positive  sum in theory"]
    notes = []
    for title, found in results.items():
        flat = found.relevance.reshape(len(found.relevance), -1).astype("float64")
        size = np.abs(flat).sum(axis=1)
        full = size != 0
        ratio = share = "-"
        if found.theory and full.any():
            ratio = f"{np.median(flat[full].sum(axis=1) / found.scores[full]):.3f}"
        if full.any():
            share = f"{np.median(flat[full].clip(min=0).sum(axis=1) / size[full]):.0%}"
        lines.append(
            f"{title:{width}s}  {found.first:9.2f}  {found.all:7.3f}  {ratio:>9s}  {share:>8s}  {found.theory or '-'}"
        )
        if not full.all():
            notes.append(f"{title}: {np.count_nonzero(~full)} of {len(full)} maps are empty.")
    return "\n".join([*lines, *notes, LEGEND])
