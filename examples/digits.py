"""Data and model of the digit examples: scikit-learn's handwritten digits and a small convolutional network.

The 1797 images (8 x 8 pixels, written by 13 people) come inside scikit-learn, so nothing is downloaded. They are
enlarged to 16 x 16 pixels, which makes better pictures and gives the network room for two poolings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 16, 16, 1) in [0, 1] and their classes 0..9; a quarter of them is for testing."""

    x_train: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


def load() -> Digits:
    """Always the same split into training and test images, with the same share of every class in both."""
    data = load_digits()
    x = ndimage.zoom(data.images / 16, (1, 2, 2), order=1, mode="nearest", grid_mode=True)
    x = x.astype("float32")[..., None]
    return Digits(*train_test_split(x, data.target, test_size=0.25, stratify=data.target, random_state=0))


def train(digits: Digits, epochs: int = 20) -> keras.Model:
    """Train a small network: four convolutions, two max poolings, two dense layers, 99 000 weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits.x_train, digits.y_train, batch_size=32, epochs=epochs, verbose=0)
    return model


def accuracy(model: keras.Model, digits: Digits) -> float:
    """Share of the test images that the model gets right."""
    return float(np.mean(model.predict(digits.x_test, verbose=0).argmax(axis=1) == digits.y_test))


def load_model(path: Path, digits: Digits, least: float = 0.95) -> keras.Model | None:
    """The model that an earlier run saved, or None where there is none that gets a share ``least`` of the digits."""
    try:
        model = keras.models.load_model(path)
    except (ValueError, KeyError):  # no such file, or not a complete Keras model
        return None
    fits = model.input_shape == (None, *digits.x_test.shape[1:]) and model.output_shape == (None, 10)
    return model if fits and accuracy(model, digits) >= least else None


def find_model(
    saved: Path, digits: Any, train: Callable[[], keras.Model], count: int, *, retrain: bool, least: float
) -> keras.Model:
    """The network that an earlier run saved, or the one that ``train`` makes of ``count`` digits now."""
    model = None if retrain else load_model(saved, digits, least)
    if model is None:
        print(f"Training on {count} digits ...", flush=True)
        model = train()
        model.save(saved)
    print(f"{saved}: {accuracy(model, digits):.1%} of {len(digits.x_test)} test images right.", flush=True)
    return model
