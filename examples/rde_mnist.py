"""Rate-Distortion Explanations of handwritten digits: the first experiment of "Interpretable Neural Networks with
Frank-Wolfe" (Macdonald, Besançon and Pokutta 2022), with fewer images, iterations and noise samples.

    python examples/rde_mnist.py [--data mnist.npz] [--images 20] [--iterations 50] [--out out/rde_mnist]

Without --data it runs on scikit-learn's digits, enlarged to 28 x 28 pixels; otherwise on the arrays x, uint8
(n, 28, 28), and y (n,) of the .npz file. The last tenth is for testing. Minutes on a laptop. In the folder --out:

- maps.png (the paper's Figure 3): a six explained with several solvers. Maps for one rate k are sparse: red components
  are kept. They are those of mr_rde, or of ord_rde where a solver has nothing else. Maps for many rates are orderings,
  from the least (blue) to the most relevant component (yellow)
- ordering.png (Figure 4): the relevance ordering test, for --images test images: the most relevant components are kept,
  noise replaces the others; "ord_rde, matched" was made for this noise and the probability that is tested
- rates.png (Figure 5): the same test for maps that were optimised for one rate; vertical lines show these rates
- areas.md: the areas under all these curves, mean and standard error over the images
- the trained network, which later runs use again
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from innv_ext.evaluation import OrderingResult, relevance_ordering

SHOWN = (50, 100, 150, 200)  # numbers of components that are kept
RATES = tuple(range(50, 401, 50))  # of mr_rde, as in the paper
GRID = (*range(25, 200, 25), *range(200, 751, 50))  # of ord_rde: closer together where distortions change most
SHARES = np.concatenate([np.arange(0, 0.5, 0.02), np.linspace(0.5, 1, 6)])  # of the ordering test
SOLVERS = {  # of the picture of maps: each computes a mean over rates, an ordering, or both
    "Frank-Wolfe": {"mr_rde": {"solver": "fw"}, "ord_rde": {"solver": "fw"}},
    "stochastic\nFrank-Wolfe": {"ord_rde": {"solver": "sfw"}},
    "mirror descent": {"ord_rde": {"solver": "mirror"}},
    "projected\ngradient": {"mr_rde": {"solver": "pgd"}},
    "spectral\nprojected\ngradient": {"mr_rde": {"solver": "spg_fw"}},
}
BASELINES = ("gradient", "smoothgrad", "guided_backprop", "deep_taylor", "lrp.alpha_2_beta_1")
SENSITIVITIES = ("gradient", "smoothgrad")  # ordered by magnitude: how strongly, not which way, a component acts
# V and output of the ordering test; the other maps keep the logit among noise like the training images
MATCHED = {"reference": "uniform", "distortion": "monte_carlo", "samples": 4, "on": "output"}
PRICE = 0.1  # of a component in l_rde: keeps between a tenth and a third of an MNIST image


def single_rates(found: innv_ext.analyzers.Explanation) -> dict[int, np.ndarray]:
    """{k: maps for k components (batch, 28, 28, 1)} of mr_rde and ord_rde."""
    rates, maps = found.extras["rates"][0], np.asarray(found.extras["single_rate"])
    maps = maps.reshape(len(found.attribution), len(rates), *found.attribution.shape[1:])
    return {int(k): maps[:, j] for j, k in enumerate(rates)}


def explain(model: keras.Model, digits: mnist.Digits, x: np.ndarray, name: str, **options: Any) -> Any:
    """Fit an analyzer to the training images, explain ``x`` and say how long it took."""
    start = time.perf_counter()
    found = innv_ext.create_analyzer(name, model, batch_size=256, **options).fit(digits.x_train).explain(x)
    solver = f" ({options['solver']})" if "solver" in options else ""
    print(f"{name}{solver}: {len(x)} images in {time.perf_counter() - start:.1f} s", flush=True)
    return found


# --- the picture of maps -----------------------------------------------------------------------------------------


def draw_maps(model: keras.Model, digits: mnist.Digits, iterations: int, path: Path) -> None:
    """One image; a solver a row; columns are the image, single-rate maps, their mean (mr_rde), and orderings."""
    predictions = model.predict(digits.x_test, verbose=0).argmax(axis=1)
    sixes = np.flatnonzero((digits.y_test == 6) & (predictions == 6))
    x = digits.x_test[sixes[:1]] if len(sixes) else digits.x_test[:1]
    columns = ("image", *(f"k = {k}" for k in SHOWN), "mr_rde", "ord_rde")
    figure = Figure(figsize=(1.2 * len(columns) + 0.6, 1.2 * len(SOLVERS) + 1), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    cells = figure.subplots(len(SOLVERS), len(columns), squeeze=False)
    figure.subplots_adjust(left=0.12, right=0.99, top=0.95, bottom=0.12, wspace=0.05, hspace=0.05)
    for cell, title in zip(cells[0], columns, strict=True):
        cell.set_title(title, fontsize=9)
    for i, (solver, analyzers) in enumerate(SOLVERS.items()):
        cells[i, 0].set_ylabel(solver, fontsize=8, rotation=0, ha="right", va="center")
        _show(cells[i, 0], x[0] if i == 0 else None, "gray", 0, 1)
        found = {}
        for name, options in analyzers.items():
            rates = RATES if name == "mr_rde" else GRID
            found[name] = explain(model, digits, x, name, rates=rates, max_iter=iterations, **options)
        single = single_rates(next(iter(found.values())))
        for cell, k in zip(cells[i, 1:-2], SHOWN, strict=True):
            _show(cell, single[k][0], "seismic", -1, 1)
        for cell, name in zip(cells[i, -2:], ("mr_rde", "ord_rde"), strict=True):
            _show(cell, found[name].attribution[0] if name in found else None, "viridis", missing="n/a")
    _bar(figure, (0.22, 0.07, 0.3, 0.015), "seismic", (-1, 1), ("−1", "0", "1"), "relevance at one rate")
    _bar(figure, (0.66, 0.07, 0.28, 0.015), "viridis", (0, 1), ("least", "", "most"), "relevance in the ordering")
    figure.savefig(path, facecolor="white")


def _show(
    cell: Axes,
    picture: np.ndarray | None,
    cmap: str,
    low: float | None = None,
    high: float | None = None,
    missing: str = "",
) -> None:
    """Draw a map, or a note where there is none; without limits from its smallest to its largest value."""
    cell.set(xticks=[], yticks=[])
    if picture is None:
        cell.spines[:].set_visible(False)
        cell.text(0.5, 0.5, missing, ha="center", va="center", fontsize=9, color="#888888", transform=cell.transAxes)
    else:
        cell.imshow(picture[..., 0], cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        cell.spines[:].set_color("#bbbbbb")


def _bar(
    figure: Figure,
    place: tuple[float, float, float, float],
    cmap: str,
    limits: tuple[float, float],
    ends: tuple[str, str, str],
    label: str,
) -> None:
    low, high = limits
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), cmap), figure.add_axes(place), orientation="horizontal")
    bar.set_ticks([low, (low + high) / 2, high], labels=ends, fontsize=8)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)


# --- the relevance ordering test ---------------------------------------------------------------------------------


def find_maps(
    model: keras.Model, digits: mnist.Digits, x: np.ndarray, iterations: int
) -> tuple[dict[str, np.ndarray | str], dict[str, int]]:
    """All maps to be tested, and, of those for a single rate, {name: rate}."""
    multi = explain(model, digits, x, "mr_rde", rates=RATES, max_iter=iterations)
    maps: dict[str, np.ndarray | str] = {"mr_rde": multi.attribution}
    maps["ord_rde"] = explain(model, digits, x, "ord_rde", rates=GRID, max_iter=iterations).attribution
    matched = explain(model, digits, x, "ord_rde", rates=GRID, max_iter=iterations, **MATCHED)
    maps["ord_rde, matched"] = matched.attribution
    maps["l_rde"] = explain(model, digits, x, "l_rde", lambda_=PRICE, max_iter=iterations).attribution
    for name in BASELINES:
        relevance = explain(model, digits, x, name).attribution
        maps[f"abs({name})" if name in SENSITIVITIES else name] = (
            np.abs(relevance) if name in SENSITIVITIES else relevance
        )
    maps["random"] = "random"
    single = {f"rc_rde, k = {k}": k for k in (*SHOWN, RATES[-1])}
    return maps | {name: single_rates(multi)[k] for name, k in single.items()}, single


def only(result: OrderingResult, names: list[str]) -> OrderingResult:
    """The result for some of the maps."""
    curves = {of: {name: getattr(result, of)[name] for name in names} for of in ("distortion", "accuracy")}
    return replace(result, names=tuple(names), **curves)


def draw_rates(result: OrderingResult, rates: dict[str, int], size: int, path: Path) -> None:
    """The curves of single-rate maps and their mean, with a line of the same colour at the rate of each."""
    figure = only(result, [*rates, "mr_rde"]).plot()
    for panel in figure.axes:
        for line in list(panel.lines):
            if line.get_label() in rates:
                panel.axvline(rates[line.get_label()] / size, color=line.get_color(), linewidth=0.9, zorder=1)
    figure.savefig(path, facecolor="white")


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="digits, .npz (default: scikit-learn's)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/rde_mnist"), help="folder to write to (default: %(default)s)"
    )
    for name, default, text in (
        ("images", 20, "test images, as many of every class"),
        ("iterations", 50, "of the solvers"),
        ("samples", 32, "noisy copies per image and rate in the ordering test"),
        ("epochs", 15, "of the training"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument("--retrain", action="store_true", help="train anew even if a saved network is there")
    arguments = parser.parse_args()
    for name in ("images", "iterations", "samples", "epochs"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.data is not None and not arguments.data.is_file():
        parser.error(f"there is no file {arguments.data}")
    return arguments


def main() -> None:
    """Train or load the network, explain, test, print and draw."""
    arguments = parse_arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    digits = mnist.load(arguments.data)
    saved = out / f"{digits.name}.keras"
    count = len(digits.x_train)
    model = find_model(
        saved, digits, lambda: mnist.train(digits, arguments.epochs), count, retrain=arguments.retrain, least=0.8
    )

    print("\nOne image with several solvers:")
    draw_maps(model, digits, arguments.iterations, out / "maps.png")

    chosen = _common.in_turn(digits.y_test)[: arguments.images]
    x = digits.x_test[chosen]
    print(f"\nThe relevance ordering test on {len(x)} images, {arguments.samples} noisy copies of each per rate:")
    maps, single = find_maps(model, digits, x, arguments.iterations)
    result = relevance_ordering(model, x, maps, rates=SHARES, samples=arguments.samples)
    only(result, [name for name in maps if name not in single]).plot(path=out / "ordering.png")
    draw_rates(result, single, x[0].size, out / "rates.png")
    table = result.table()
    (out / "areas.md").write_text(table + "\n", encoding="utf-8")
    print(f"\nAreas under the curves, mean ± standard error over the images:\n\n{table}")
    print(f"\nWrote maps.png, ordering.png, rates.png and areas.md to {out}.")


if __name__ == "__main__":
    main()
