"""What takes the place of randomised values. Draws of a longer row start with those of a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError

Sampler = Callable[[np.ndarray, int, np.random.Generator], Any]
KINDS = ("uniform", "gaussian", "constant")


class Noise:
    """Base: copies of noise for one sample."""

    def copies(self, samples: int) -> int:
        """How many copies are worth drawing."""
        return samples

    def pieces(self, x: np.ndarray, samples: int, rng: np.random.Generator, most: int) -> Iterator[np.ndarray]:
        """``samples`` copies (copies, ...) for one sample x (...), at most ``most`` at a time, in x's dtype.

        The values don't depend on ``most``: the generator is read in order.
        """
        for start in range(0, samples, most):
            yield fitted(self.draw(x, min(most, samples - start), rng), x.dtype)

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """The next ``count`` copies."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Noise):
    """Uniform over [min x, max x] of the sample; whole numbers where x holds such."""

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Values between the extremes of x."""
        low, high = x.min(), x.max()
        if x.dtype.kind != "f":
            return rng.integers(int(low), int(high) + 1, (count, *x.shape))
        return low + (high - low) * rng.random((count, *x.shape), x.dtype)


@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """Independent normal values."""

    mean: np.ndarray
    std: np.ndarray

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """N(mean, std^2)."""
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float64")
        return self.mean.astype(dtype) + self.std.astype(dtype) * rng.standard_normal((count, *x.shape), dtype)


@dataclass(frozen=True, eq=False)
class Constant(Noise):
    """Always the same value, so that one copy says it all."""

    value: np.ndarray

    def copies(self, samples: int) -> int:
        """One."""
        return 1

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """The constant."""
        return np.broadcast_to(self.value, (count, *x.shape))


@dataclass(frozen=True)
class Custom(Noise):
    """A user's function; called once with all copies, because it may not draw them in order."""

    function: Sampler

    def pieces(self, x: np.ndarray, samples: int, rng: np.random.Generator, most: int) -> Iterator[np.ndarray]:
        """The function's copies in pieces."""
        batch = x[None].view()
        batch.flags.writeable = False
        found = np.asarray(self.function(batch, samples, rng))
        if found.shape != (1, samples, *x.shape):
            raise InvalidInputError(
                f"noise returned an array of shape {found.shape} for x of shape {batch.shape} and samples={samples}; "
                f"it must be (batch, samples, ...) = {(1, samples, *x.shape)}."
            )
        for start in range(0, samples, most):
            yield fitted(found[0, start : start + most], x.dtype)


def fitted(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``values`` in ``dtype``: rounded and kept within its range where that holds whole numbers only."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


def read_noise(noise: Any, mean: Any, std: Any, shape: tuple[int, ...]) -> Noise:
    """The noise that the arguments ``noise``, ``mean`` and ``std`` describe, for samples of ``shape``."""
    if not callable(noise) and noise not in KINDS:
        raise InvalidInputError(f"noise must be one of {', '.join(map(repr, KINDS))} or a function, got {noise!r}.")
    needed = {"gaussian": ("mean", "std"), "constant": ("mean",)}.get(noise if isinstance(noise, str) else "", ())
    given = {"mean": mean, "std": std}
    for argument, value in given.items():
        if argument in needed and value is None:
            raise InvalidInputError(
                f"noise={noise!r} needs {argument}=: a number or an array that broadcasts to one sample {shape}, e.g. "
                f"X_train.{argument}(axis=0)."
            )
        if argument not in needed and value is not None:
            raise InvalidInputError(f"{argument}= has no meaning with noise={noise!r}; leave it out.")
    if callable(noise):
        return Custom(noise)
    if noise == "uniform":
        return Uniform()
    centre = arguments.one_sample("mean", mean, shape)
    if noise == "constant":
        return Constant(centre)
    spread = arguments.one_sample("std", std, shape)
    if (spread < 0).any():
        raise InvalidInputError(f"std must not be negative, but its smallest value is {spread.min():g}.")
    return Gaussian(centre, spread)
