"""Analyzers that go wrong in known ways, and a comparison with all of them."""

import warnings

import keras
import numpy as np
import zoo
from keras import layers

from innv_ext.analyzers import Gradient
from innv_ext.comparison import compare

TITLE = "<script>alert('title')</script>"
NAMES = ["<b>cat</b> & \"dog\"", "a $x_1$ </title>", "'quoted' é"]


class Broken(Gradient):
    """Raises a text that is HTML."""

    def explain_batch(self, *args, **options):
        raise ZeroDivisionError("<img src=x onerror=alert(1)> & more")


class Interrupted(Gradient):
    def explain_batch(self, *args, **options):
        raise KeyboardInterrupt


class NotFinite(Gradient):
    """The map of the second sample has a hole."""

    def postprocess_array(self, attribution):
        found = attribution.copy()
        if len(found) > 1:
            found[1].flat[3] = np.nan
        return found


class Flat(Gradient):
    """Maps without the last axis."""

    def postprocess_array(self, attribution):
        return attribution.sum(axis=-1)


class Warning(Gradient):
    def explain_batch(self, *args, **options):
        warnings.warn("look <here>", UserWarning, stacklevel=1)
        warnings.warn("code is old", DeprecationWarning, stacklevel=1)
        return super().explain_batch(*args, **options)


def net(shape=(6, 6, 2), classes=3, seed=3):
    """Convolutions (or none, for vectors) and a softmax."""
    i = y = keras.Input(shape)
    if len(shape) > 1:
        y = layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(y))
    y = layers.Dense(8, activation="relu")(y)
    return zoo.randomise(keras.Model(i, layers.Dense(classes, activation="softmax")(y)), seed)


def images(count=4, shape=(6, 6, 2)):
    return np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype("float32")


def everything(model, x, **options):
    """A comparison in which much goes wrong."""
    analyzers = {
        "gradient": {}, TITLE: "input_t_gradient", "random": {}, "epsilon": ("lrp.epsilon", {"epsilon": 0.1}),
        "pattern.net": {}, "broken": Broken(model), "not finite": NotFinite(model), "warning": Warning(model),
    }
    metrics = {"aopc_morf": {"steps": 4}, "ordering_distortion": {"rates": 3, "samples": 2}, "gini": {},
               "completeness_error": {}, "mine <i>": lambda context: context.x.sum(axis=(1, 2, 3))}
    return compare(model, x, analyzers, metrics=metrics, labels=np.arange(len(x)) % 3, class_names=NAMES,
                   progress=False, **options)
