"""Explain a small network that reads handwritten digits: ``make demo``, or ``python examples/demo.py``.

Trains a convolutional network on scikit-learn's digits (a few seconds, nothing is downloaded), explains a dozen test
images with many analyzers, prints what each of them cost and found, and draws three pictures:

- out/demo.png: images in rows, analyzers in columns; wrongly classified images come first
- out/demo_neurons.png: one wrongly classified image, explained for the outputs with the largest scores
- out/demo_ordering.png: how fast the network recovers when only the pixels that an analyzer calls most relevant are
  kept and all others are noise; the areas under these curves are printed

The Rate-Distortion Explanations (mr_rde, ord_rde) search for the pixels that do best at this, over noise with the mean
and variance of the training images, and order all pixels from the least (blue) to the most relevant (yellow). They run
with fewer rates and iterations than usual here, see RDE below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import digits
import keras
import numpy as np

from innv_ext import model_wo_softmax
from innv_ext.evaluation import relevance_ordering
from innv_ext.visualization import imshow_grid

ANALYZERS = {
    "gradient": {},
    "smoothgrad": {},
    "input_t_gradient": {},
    "integrated_gradients": {},
    "deconvnet": {},
    "guided_backprop": {},
    "deep_taylor": {},
    "deep_taylor.bounded": {"low": 0, "high": 1},
    "lrp.z": {},  # on such a network the same as input_t_gradient
    "lrp.epsilon": {"epsilon": 0.1},
    "lrp.alpha_2_beta_1": {},
    "lrp.sequential_preset_a_flat": {},
    "lrp.epsilon_plus": {},
}
RDE = {  # a quick search: the defaults are 8 rates for mr_rde, 20 for ord_rde, and 50 iterations
    "mr_rde": {"rates": (0.05, 0.1, 0.2, 0.4), "max_iter": 20, "progress": False},
    "ord_rde": {"rates": 10, "max_iter": 15, "progress": False},
}
SENSITIVITIES = ("gradient", "smoothgrad")  # ordered by magnitude: how strongly, not which way, a pixel acts


def choose(predictions: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` images: wrongly classified ones first, at most a third, then right ones of all classes."""
    wrong = np.flatnonzero(predictions != labels)[: max(1, count // 3)]
    right = np.flatnonzero(predictions == labels)
    return np.concatenate([wrong, right[_common.in_turn(labels[right])]])[:count]


def draw_images(
    model: keras.Model, x: np.ndarray, labels: np.ndarray, training: np.ndarray, path: Path
) -> dict[str, _common.Result]:
    """The comparison of analyzers, one image a row, explained for the predicted class."""
    outputs = model.predict(x, verbose=0)
    results = _common.run_analyzers(model, x, ANALYZERS | RDE, training=training)
    imshow_grid(
        x,
        {title: found.relevance for title, found in results.items()},
        modes=dict.fromkeys(RDE, _common.ordering),
        labels=labels,
        predictions=outputs.argmax(axis=1),
        probabilities=outputs.max(axis=1),
        scores=next(iter(results.values())).scores,
        colorbar=True,
        path=path,
    )
    return results


def draw_ordering(model: keras.Model, x: np.ndarray, results: dict[str, _common.Result], path: Path) -> str:
    """The relevance ordering test of all maps and of a random order; returns the areas as a table."""
    maps = {"random": "random"}
    for title, found in results.items():
        sensitivity = title in SENSITIVITIES
        maps[f"abs({title})" if sensitivity else title] = np.abs(found.relevance) if sensitivity else found.relevance
    ordering = relevance_ordering(model, x, maps, rates=21, samples=16, progress=False)
    ordering.plot(path=path)
    return ordering.table()


def draw_neurons(
    model: keras.Model, x: np.ndarray, label: int, training: np.ndarray, path: Path, count: int = 5
) -> None:
    """One image, explained for the ``count`` outputs with the largest scores, one output a row."""
    scores = model_wo_softmax(model).predict(x[None], verbose=0)[0]
    probabilities = model.predict(x[None], verbose=0)[0]
    neurons = np.argsort(-scores)[:count]
    rows = np.repeat(x[None], count, axis=0)
    results = _common.run_analyzers(model, rows, ANALYZERS | RDE, neurons, training)
    imshow_grid(
        rows,
        {title: found.relevance for title, found in results.items()},
        modes=dict.fromkeys(RDE, _common.ordering),
        labels=np.full(count, label),
        predictions=np.full(count, neurons[0]),
        neurons=neurons,
        probabilities=probabilities[neurons],
        scores=scores[neurons],
        colorbar=True,
        path=path,
    )


def main() -> None:
    """Train or load the model, explain, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo.png"), help="picture to write (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=12, metavar="N", help="test images to explain (default: 12)")
    parser.add_argument("--retrain", action="store_true", help="train anew even if a saved model is there")
    arguments = parser.parse_args()
    if arguments.images < 1:
        parser.error("--images must be at least 1")
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)

    data = digits.load()
    saved = out.parent / "digits.keras"
    model = digits.find_model(
        saved, data, lambda: digits.train(data), len(data.x_train), retrain=arguments.retrain, least=0.95
    )
    predictions = model.predict(data.x_test, verbose=0).argmax(axis=1)
    wrong = np.flatnonzero(predictions != data.y_test)

    chosen = choose(predictions, data.y_test, arguments.images)
    print(f"Explaining {len(chosen)} test images, {np.isin(chosen, wrong).sum()} of them classified wrongly:\n")
    x, labels = data.x_test[chosen], data.y_test[chosen]
    results = draw_images(model, x, labels, data.x_train, out)
    print(_common.table(results))
    for name, options in RDE.items():
        print(f"{name}: rates {options['rates']}, {options['max_iter']} iterations")
    neurons, ordering = (out.with_stem(f"{out.stem}_{name}") for name in ("neurons", "ordering"))
    draw_neurons(model, x[0], labels[0], data.x_train, neurons)
    print("\nRelevance ordering test: areas under the curves, mean ± standard error over the images\n")
    print(draw_ordering(model, x, results, ordering))
    print(f"\nWrote {out}, {neurons} and {ordering}.")


if __name__ == "__main__":
    main()
