"""What takes the place of a perturbed region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.layout import Layout
from innv_ext.analyzers.parts.windows import default_sizes
from innv_ext.analyzers.prediction.masking import replacements
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.noise import Constant, Gaussian, Noise, Uniform

# what each perturbation may be told
TAKES = {
    "mean": ("mean",),
    "constant": ("value",),
    "uniform": (),
    "gaussian": ("mean", "std"),
    "inversion": (),
    "blur": ("sigma",),
}


class _OfSample(Noise):
    """Base: a function of the sample, without any randomness."""

    def copies(self, samples: int) -> int:
        """One."""
        return 1

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """The same ``count`` times."""
        return np.broadcast_to(self.of(x.astype("float64")), (count, *x.shape))

    def of(self, x: np.ndarray) -> np.ndarray:
        """The replacement of all of x, in float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class Inversion(_OfSample):
    """The other end of the range: max x + min x - x."""

    def of(self, x: np.ndarray) -> np.ndarray:
        """Every value mirrored at the middle of the sample's range."""
        return x.max() + x.min() - x


@dataclass(frozen=True)
class ChannelMean(_OfSample):
    """The mean of each channel of the sample."""

    layout: Layout

    def of(self, x: np.ndarray) -> np.ndarray:
        """Constant in every channel."""
        return replacements(["mean"], [x[None]], [self.layout], [()])[0][0]


@dataclass(frozen=True)
class Blur(_OfSample):
    """The sample smoothed by a Gaussian along the axes with positions."""

    layout: Layout
    sigma: tuple[float, ...]

    def of(self, x: np.ndarray) -> np.ndarray:
        """The smooth sample."""
        return replacements(["blur"], [x[None]], [self.layout], [self.sigma])[0][0]


@dataclass(frozen=True)
class ChannelGaussian(Noise):
    """Independent normal values with the mean and the standard deviation of each channel of the sample."""

    layout: Layout

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """N(mean, std^2) of the channels."""
        wide = x.astype("float64")
        mean, std = (f(axis=self.layout.axes, keepdims=True) for f in (wide.mean, wide.std))
        return Gaussian(mean, std).draw(x, count, rng)


def read_perturbation(perturbation: Any, layout: Layout, **given: Any) -> Noise:
    """The perturbation that the arguments describe; ``given`` has value, mean, std and sigma, None where left out.

    Raises
    ------
    InvalidInputError
        for an unknown perturbation, arguments that it does not take or lacks, and means or blurs of tables and tokens
    """
    takes = TAKES[arguments.choice("perturbation", perturbation, tuple(TAKES))]
    for argument, value in given.items():
        if value is not None and argument not in takes:
            raise InvalidInputError(f"{argument}= has no meaning with perturbation={perturbation!r}; leave it out.")
    read = {
        "mean": lambda: _mean(given["mean"], layout),
        "constant": lambda: _constant(given["value"], layout),
        "uniform": Uniform,
        "gaussian": lambda: _gaussian(given["mean"], given["std"], layout),
        "inversion": Inversion,
        "blur": lambda: _blur(given["sigma"], layout),
    }
    return read[perturbation]()


def _mean(mean: Any, layout: Layout) -> Noise:
    if mean is not None:
        return Constant(arguments.one_sample("mean", mean, layout.shape))
    _check_positions("mean", layout, "pass mean=, e.g. X_train.mean(axis=0)")
    return ChannelMean(layout)


def _constant(value: Any, layout: Layout) -> Noise:
    if value is None:
        raise InvalidInputError(
            f"perturbation='constant' needs value=: a number or an array that broadcasts to one sample {layout.shape}."
        )
    return Constant(arguments.one_sample("value", value, layout.shape))


def _gaussian(mean: Any, std: Any, layout: Layout) -> Noise:
    if mean is None and std is None:
        _check_positions("gaussian", layout, "pass mean= and std=, e.g. X_train.mean(axis=0) and X_train.std(axis=0)")
        return ChannelGaussian(layout)
    if mean is None or std is None:
        raise InvalidInputError(
            "perturbation='gaussian' needs both mean= and std=, or neither (then those of the sample's channels hold)."
        )
    centre, spread = (arguments.one_sample(n, v, layout.shape) for n, v in (("mean", mean), ("std", std)))
    if (spread < 0).any():
        raise InvalidInputError(f"std must not be negative, but its smallest value is {spread.min():g}.")
    return Gaussian(centre, spread)


def _blur(sigma: Any, layout: Layout) -> Noise:
    _check_positions("blur", layout, "choose another perturbation")
    if sigma is None:
        return Blur(layout, tuple(float(s) for s in default_sizes(layout)))
    values = sigma if isinstance(sigma, tuple) else (sigma,) * len(layout.axes)
    if len(values) != len(layout.axes):
        raise InvalidInputError(
            f"sigma={sigma!r} has {len(values)} entries, but samples of shape {layout.shape} have {len(layout.axes)} "
            f"axes with positions; pass a number, or one for each of them."
        )
    along = dict(zip(layout.axes, (arguments.number("sigma", v, positive=True) for v in values), strict=True))
    return Blur(layout, tuple(along.get(axis, 0.0) for axis in range(len(layout.shape))))


def _check_positions(perturbation: str, layout: Layout, remedy: str) -> None:
    if not layout.positions:
        what = "tokens" if layout.tokens else "the columns of a table"
        raise InvalidInputError(
            f"perturbation={perturbation!r} needs neighbouring values of one kind, but x of shape (batch, "
            f"{', '.join(map(str, layout.shape))}) holds {what}: {remedy}."
        )
