"""From pixels 0..255 to what a model was trained on."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from innv_ext import arguments
from innv_ext.cli.files import run_module
from innv_ext.errors import InvalidInputError

Array = np.ndarray


@dataclass(frozen=True)
class Preprocessing:
    """What happens to images before the model sees them.

    Attributes
    ----------
    scale : what 0 and 255 become; None: nothing for arrays, ``usual`` for images
    mean, std : subtracted, then divided by, per channel
    function : instead of all that; gets float32 (n, ..., channels)
    usual : what 0 and 255 of images become by default
    """

    scale: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    function: Callable[[Array], Any] | None = None
    usual: tuple[float, float] = (0.0, 1.0)

    def __call__(self, x: Array, image: bool) -> Array:
        """The samples (n, ..., channels) preprocessed, ``x`` stays as it is.

        Raises
        ------
        InvalidInputError
            if the numbers don't fit the channels, or the function fails or returns no such array
        """
        if self.function is not None:
            return self._called(x.astype("float32"))
        scale = self.usual if image and self.scale is None else self.scale
        if scale is None and self.mean is None and self.std is None:
            return x
        x = x.astype("float32")
        if scale is not None:
            x = np.float32(scale[0]) + x * np.float32((scale[1] - scale[0]) / 255)
        for option, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and len(values) not in (1, x.shape[-1]):
                raise InvalidInputError(f"{option} has {len(values)} numbers for {x.shape[-1]} channels.")
        x = x if self.mean is None else x - np.float32(self.mean)
        return x if self.std is None else x / np.float32(self.std)

    def _called(self, x: Array) -> Array:
        count = len(x)
        try:
            found = np.asarray(self.function(x))
        except Exception as error:  # whatever the user's function raises
            raise InvalidInputError(f"--preprocess fails with {type(error).__name__}: {error}") from error
        if found.dtype.kind not in "fiub" or found.ndim == 0 or len(found) != count:
            raise InvalidInputError(
                f"--preprocess must return an array of numbers with {count} samples, got {found.dtype} of shape "
                f"{found.shape}."
            )
        return found


def read_preprocessing(options: Namespace, integers: bool) -> Preprocessing:
    """The preprocessing of a command line; models that take integers get 0..255 by default."""
    usual = (0.0, 255.0) if integers else (0.0, 1.0)
    own = {"scale": options.scale, "mean": options.mean, "std": options.std}
    if options.preprocess is None:
        return Preprocessing(**own, usual=usual)
    given = [f"--{name}" for name, value in own.items() if value is not None]
    if given:
        raise InvalidInputError(f"--preprocess stands instead of {', '.join(given)}; give only one of them.")
    return Preprocessing(function=_function(options.preprocess))


def _function(what: str) -> Callable[[Array], Any]:
    prefix = "keras.applications."
    if what.startswith(prefix):
        return _of_application(what.removeprefix(prefix))
    if not what.endswith(".py"):
        raise InvalidInputError(f"--preprocess must be keras.applications.NAME or a file FILE.py, got {what!r}.")
    found = vars(run_module(Path(what), "--preprocess")).get("preprocess")
    if not callable(found):
        raise InvalidInputError(f"--preprocess: {what} defines no function preprocess(images).")
    return found


def _of_application(name: str) -> Callable[[Array], Any]:
    """``preprocess_input`` by the name of the module (mobilenet_v2) or of a network in it (MobileNetV2)."""
    modules = {k: v for k, v in vars(keras.applications).items() if inspect.ismodule(v) and not k.startswith("_")}
    network = vars(keras.applications).get(name)
    key = network.__module__.rsplit(".", 1)[-1] if inspect.isfunction(network) else name
    arguments.choice("--preprocess keras.applications.NAME", key, tuple(modules))
    preprocess_input = modules[key].preprocess_input
    return lambda x: preprocess_input(x, data_format="channels_last")
