"""Data and model of the examples for Rate-Distortion Explanations: digits of 28 x 28 pixels and the paper's network.

The digits are MNIST's from an .npz file, or, without one, scikit-learn's enlarged from 8 x 8 pixels, so that nothing
has to be downloaded. The network is that of Macdonald et al. (2019), "A rate-distortion framework for explaining neural
network decisions".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers
from scipy import ndimage
from sklearn.datasets import load_digits

SIDE, SHIFT, BATCH = 28, 2, 64


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 28, 28, 1) in [0, 1] and their classes 0..9; the last tenth is for testing."""

    name: str
    x_train: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


def load(path: Path | None = None) -> Digits:
    """Digits from an .npz file with x, uint8 (n, 28, 28), and y, classes (n,); without one those of scikit-learn."""
    if path is None:
        found = load_digits()
        zoom = SIDE / 8
        x, y = ndimage.zoom(found.images / 16, (1, zoom, zoom), order=1, mode="nearest", grid_mode=True), found.target
    else:
        with np.load(path) as archive:
            if missing := {"x", "y"} - set(archive):
                raise ValueError(f"{path} has no array {' and no array '.join(map(repr, sorted(missing)))}.")
            x, y = archive["x"] / 255, archive["y"].astype("int64")
        if x.shape != (len(y), SIDE, SIDE) or len(y) < 10 or y.min() < 0 or y.max() > 9:
            raise ValueError(
                f"{path} has x of shape {x.shape} and y of shape {y.shape}; expected at least 10 images (n, {SIDE}, "
                f"{SIDE}) and as many classes 0..9."
            )
    x = x.astype("float32")[..., None]
    last = len(x) - len(x) // 10
    return Digits("digits28" if path is None else path.stem, x[:last], x[last:], y[:last], y[last:])


def build_model() -> keras.Model:
    """Three convolutions, each followed by average pooling, and two dense layers, 756 000 weights."""
    stack = [keras.Input((SIDE, SIDE, 1))]
    for filters in (32, 64, 64):
        stack += [layers.Conv2D(filters, 5, padding="same", activation="relu"), layers.AveragePooling2D(2)]
    stack += [layers.Flatten(), layers.Dense(1024, activation="relu"), layers.Dense(10, activation="softmax")]
    return keras.Sequential(stack, name="mnist")


def shifted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image moved by up to two pixels in each direction."""
    padded = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))[:, :, :, 0]
    rows, columns = rng.integers(0, 2 * SHIFT + 1, (2, len(x)))
    return windows[np.arange(len(x)), rows, columns][..., None]


def train(digits: Digits, epochs: int = 15, seed: int = 0) -> keras.Model:
    """Train the paper's network."""
    keras.utils.set_random_seed(seed)
    return fit(build_model(), digits, epochs, 1e-3, seed)


def epochs_of(digits: Digits, steps: int) -> int:
    """How many epochs have at least ``steps`` updates."""
    return -(-steps // -(-len(digits.x_train) // BATCH))


def fit(model: keras.Model, digits: Digits, epochs: int, rate: float, seed: int = 0) -> keras.Model:
    """Train a network on randomly shifted images, with Adam and a learning rate that falls along a cosine."""
    rng = np.random.default_rng(seed)
    steps = epochs * -(-len(digits.x_train) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        model.fit(shifted(digits.x_train, rng), digits.y_train, batch_size=BATCH, verbose=0)
    return model
