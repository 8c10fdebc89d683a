"""Explain a small network that reads handwritten digits: ``make demo``, or ``python examples/demo.py``.

Trains a convolutional network on scikit-learn's digits (a few seconds, nothing is downloaded), explains a dozen test
images with many analyzers, prints what each of them cost and found, and draws two pictures:

- out/demo.png: images in rows, analyzers in columns; wrongly classified images come first
- out/demo_neurons.png: one wrongly classified image, explained for the outputs with the largest scores
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _common  # first: it loads TensorFlow quietly
import digits
import keras
import numpy as np

from innv_ext import model_wo_softmax
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


def choose(predictions: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` images: wrongly classified ones first, at most a third, then right ones of all classes."""
    wrong = np.flatnonzero(predictions != labels)[: max(1, count // 3)]
    right = np.flatnonzero(predictions == labels)
    # the n-th image of its class, for n = 0, 1, 2 ...: one of every class comes before a second one of any
    turn = np.array([np.count_nonzero(labels[right[:i]] == labels[k]) for i, k in enumerate(right)])
    right = right[np.lexsort((labels[right], turn))]
    return np.concatenate([wrong, right])[:count]


def draw_images(model: keras.Model, x: np.ndarray, labels: np.ndarray, path: Path) -> str:
    """The comparison of analyzers, one image a row, explained for the predicted class; returns the table."""
    outputs = model.predict(x, verbose=0)
    results = _common.run_analyzers(model, x, ANALYZERS)
    imshow_grid(
        x,
        {title: found.relevance for title, found in results.items()},
        labels=labels,
        predictions=outputs.argmax(axis=1),
        probabilities=outputs.max(axis=1),
        scores=next(iter(results.values())).scores,
        colorbar=True,
        path=path,
    )
    return _common.table(results)


def draw_neurons(model: keras.Model, x: np.ndarray, label: int, path: Path, count: int = 5) -> None:
    """One image, explained for the ``count`` outputs with the largest scores, one output a row."""
    scores = model_wo_softmax(model).predict(x[None], verbose=0)[0]
    probabilities = model.predict(x[None], verbose=0)[0]
    neurons = np.argsort(-scores)[:count]
    rows = np.repeat(x[None], count, axis=0)
    results = _common.run_analyzers(model, rows, ANALYZERS, neurons)
    imshow_grid(
        rows,
        {title: found.relevance for title, found in results.items()},
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
    model = None if arguments.retrain else digits.load_model(saved, data)
    if model is None:
        print(f"Training on {len(data.x_train)} digits ...")
        model = digits.train(data)
        model.save(saved)
    predictions = model.predict(data.x_test, verbose=0).argmax(axis=1)
    wrong = np.flatnonzero(predictions != data.y_test)
    print(f"{saved}: {digits.accuracy(model, data):.1%} of {len(data.x_test)} test images right, {len(wrong)} wrong.")

    chosen = choose(predictions, data.y_test, arguments.images)
    print(f"Explaining {len(chosen)} test images, {np.isin(chosen, wrong).sum()} of them classified wrongly:\n")
    print(draw_images(model, data.x_test[chosen], data.y_test[chosen], out))
    neurons = out.with_stem(f"{out.stem}_neurons")
    draw_neurons(model, data.x_test[chosen[0]], data.y_test[chosen[0]], neurons)
    print(f"\nWrote {out} and {neurons}.")


if __name__ == "__main__":
    main()
