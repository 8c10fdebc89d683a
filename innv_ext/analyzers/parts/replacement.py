"""What takes the place of a removed part of a sample. Draws of a longer row start with those of a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from innv_ext import arguments
from innv_ext.analyzers.parts.windows import default_sizes
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.errors import InvalidInputError

Sampler = Callable[[np.ndarray, int, np.random.Generator], Any]


class Replacement:
    """Base: values that take the place of those of samples; ``of_sample`` says whether they depend on these."""

    of_sample = True

    def copies(self, samples: int) -> int:
        """How many of so many copies are worth drawing: one where all are equal."""
        return samples

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """The next ``count`` copies for one sample x (...), (count, ...)."""
        raise NotImplementedError

    def pieces(self, x: np.ndarray, samples: int, rng: np.random.Generator, most: int) -> Iterator[np.ndarray]:
        """``samples`` copies for one sample x (...), at most ``most`` at a time, in x's dtype.

        The values don't depend on ``most``: the generator is read in order.
        """
        for start in range(0, samples, most):
            yield fitted(self.draw(x, min(most, samples - start), rng), x.dtype)

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance for samples x (batch, ...), each (1 or batch, ...); not of all replacements."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Replacement):
    """Uniform over [min x, max x] of the sample; whole numbers where x holds such."""

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        low, high = x.min(), x.max()
        if x.dtype.kind != "f":
            return rng.integers(int(low), int(high) + 1, (count, *x.shape))
        return low + (high - low) * rng.random((count, *x.shape), x.dtype)

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = (f(axis=tuple(range(1, x.ndim)), keepdims=True) for f in (x.min, x.max))
        return (low + high) / 2 + np.zeros_like(x), (high - low) ** 2 / 12 + np.zeros_like(x)


@dataclass(frozen=True, eq=False)
class Gaussian(Replacement):
    """Independent normal values; ``mean`` and ``std`` broadcast to one sample."""

    mean: np.ndarray
    std: np.ndarray

    of_sample = False

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float64")
        return self.mean.astype(dtype) + self.std.astype(dtype) * rng.standard_normal((count, *x.shape), dtype)

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.mean.astype(x.dtype)[None], np.square(self.std).astype(x.dtype)[None]


@dataclass(frozen=True)
class ChannelGaussian(Replacement):
    """Independent normal values with the mean and the standard deviation of each channel of the sample."""

    axes: tuple[int, ...]

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        wide = x.astype("float64")
        return Gaussian(*(f(axis=self.axes, keepdims=True) for f in (wide.mean, wide.std))).draw(x, count, rng)


@dataclass(frozen=True)
class Custom(Replacement):
    """A user's function (x (batch, ...), samples, rng) -> (batch, samples, ...), called with one sample at a time.

    ``name`` is the argument that it was given as.
    """

    function: Sampler
    name: str

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        batch = x[None].view()
        batch.flags.writeable = False
        found = np.asarray(self.function(batch, count, rng))
        if found.shape != (1, count, *x.shape) or not np.isfinite(found).all():
            raise InvalidInputError(
                f"{self.name} returned an array of shape {found.shape} for x of shape {batch.shape} and "
                f"samples={count}; it must return finite values (batch, samples, ...) = {(1, count, *x.shape)}."
            )
        return found[0]

    def pieces(self, x: np.ndarray, samples: int, rng: np.random.Generator, most: int) -> Iterator[np.ndarray]:
        found = self.draw(x, samples, rng)  # all at once: the function may not draw copies in order
        for start in range(0, samples, most):
            yield fitted(found[start : start + most], x.dtype)


class Fixed(Replacement):
    """Base: a function of the sample, without any randomness."""

    def copies(self, samples: int) -> int:
        return 1

    def of(self, x: np.ndarray) -> np.ndarray:
        """What replaces samples x (batch, ...), (1 or batch, ...), in float64."""
        raise NotImplementedError

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(self.of(x[None])[0], (count, *x.shape))


@dataclass(frozen=True, eq=False)
class Constant(Fixed):
    """Always the same; ``value`` is shaped like one sample."""

    value: np.ndarray

    of_sample = False

    def of(self, x: np.ndarray) -> np.ndarray:
        return self.value[None]

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = self.value.astype(x.dtype)[None]
        return mean, np.zeros_like(mean)


@dataclass(frozen=True)
class ChannelMean(Fixed):
    """The mean of each channel of the sample."""

    axes: tuple[int, ...]

    def of(self, x: np.ndarray) -> np.ndarray:
        mean = x.astype("float64").mean(axis=tuple(axis + 1 for axis in self.axes), keepdims=True)
        return np.broadcast_to(mean, x.shape)


@dataclass(frozen=True)
class Blur(Fixed):
    """The sample smoothed by a Gaussian with a standard deviation for each axis with positions."""

    axes: tuple[int, ...]
    sigma: tuple[float, ...]

    def of(self, x: np.ndarray) -> np.ndarray:
        axes = tuple(axis + 1 for axis in self.axes)
        return ndimage.gaussian_filter(x.astype("float64"), self.sigma, mode="nearest", axes=axes)


@dataclass(frozen=True)
class Inversion(Fixed):
    """Every value mirrored at the middle of the sample's range: max x + min x - x."""

    def of(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype("float64")
        low, high = (f(axis=tuple(range(1, x.ndim)), keepdims=True) for f in (wide.min, wide.max))
        return high + low - wide


def fitted(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``values`` in ``dtype``: rounded and kept within its range where that holds whole numbers only."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


class RunningMoments:
    """Mean of rows (count, n) and the sum of their squares, or products, about it; in float64 (Chan et al. 1983)."""

    def __init__(self, n: int, matrix: bool):
        self.count, self.mean, self.scatter = 0, np.zeros(n), np.zeros((n, n) if matrix else n)

    def add(self, rows: np.ndarray) -> None:
        local = rows.mean(axis=0)
        centred, shift, total = rows - local, local - self.mean, self.count + len(rows)
        weight = self.count * len(rows) / total
        if self.scatter.ndim == 2:
            self.scatter += centred.T @ centred + weight * np.outer(shift, shift)
        else:
            self.scatter += np.sum(centred**2, axis=0) + weight * shift**2
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total


# --- reading it --------------------------------------------------------------------------------------------------


def replacement(
    argument: str,
    kind: Any,
    one: Arrangement,
    takes: Mapping[str, tuple[str, ...]],
    given: Mapping[str, Any],
    needed: Collection[str] = ("constant",),
    functions: bool = False,
) -> Replacement:
    """The replacement that arguments describe.

    Parameters
    ----------
    argument, kind : the name of the argument, and what it is
    one : the arrangement of samples
    takes : which kinds there are, and the arguments that each of them takes
    given : the arguments; None where they are left out
    needed : kinds that have no defaults
    functions : whether ``kind`` may be a user's function, see ``Custom``
    """
    function = functions and callable(kind)
    names = () if function else takes[arguments.choice(argument, kind, tuple(takes), " or a function" * functions)]
    for name, value in given.items():
        if value is not None and name not in names:
            raise InvalidInputError(f"{name}= has no meaning with {argument}={kind!r}; leave it out.")
    if function:
        return Custom(kind, argument)
    missing = [name for name in names if given[name] is None]
    told = " and ".join(f"{name}=" for name in names)
    learnt = " and ".join(f"X_train.{name}(axis=0)" for name in names if name in ("mean", "std"))
    example = f", e.g. {learnt}" if learnt else ""
    if missing and (kind in needed or len(missing) < len(names)):
        neither = "" if kind in needed else ", or neither (then those of the sample's channels hold)"
        raise InvalidInputError(
            f"{argument}={kind!r} needs {told}{neither}: numbers or arrays that broadcast to one sample {one.shape}"
            f"{example}. {missing[0]}= is missing."
        )
    if kind == "blur":
        _check_positions(argument, kind, one, f"choose another {argument}")
        return Blur(one.axes, _sigmas(given["sigma"], one))
    if kind in ("uniform", "inversion"):
        return Uniform() if kind == "uniform" else Inversion()
    if missing:
        _check_positions(argument, kind, one, f"pass {told}{example}")
        return ChannelMean(one.axes) if kind == "mean" else ChannelGaussian(one.axes)
    values = [arguments.one_sample(name, given[name], one.shape) for name in names]
    if kind != "gaussian":
        return Constant(*values)
    if (values[1] < 0).any():
        raise InvalidInputError(f"std must not be negative, but its smallest value is {values[1].min():g}.")
    return Gaussian(*values)


def reference(given: Any, one: Arrangement, sizes: Sizes) -> Fixed:
    """What fills the parts of an input that are taken away: what ``reference`` means to ``Lime`` and ``Occlusion``.

    ``sizes`` are the standard deviations of "blur" along every axis.
    """
    if one.text:
        return Constant(_text(given, one))
    if given is None:
        given = "mean" if one.positions else 0
    if isinstance(given, str):
        arguments.choice("reference", given, ("mean", "blur"))
        remedy = "pass a number or an array like one sample (for several inputs a list with one of them each)"
        _check_positions("reference", given, one, remedy)
        return ChannelMean(one.axes) if given == "mean" else Blur(one.axes, tuple(sizes[axis] for axis in one.axes))
    value = arguments.one_sample("reference", given, one.shape)
    if one.tokens and not np.array_equal(value, np.round(value)):
        raise InvalidInputError(
            f"reference={given!r} is no token number, but input {one.number} takes tokens: pass a whole number."
        )
    return Constant(value)


def _text(given: Any, one: Arrangement) -> np.ndarray:
    """The strings that replace those of a sample: by default, and for the default 0, empty ones."""
    value = np.asarray("" if given is None or (np.ndim(given) == 0 and given == 0) else given, object)
    if not all(isinstance(v, str) for v in value.ravel()) or value.shape not in ((), one.shape):
        raise InvalidInputError(
            f"reference={given!r} does not fit input {one.number}, which takes strings: pass one, or an array of them "
            f"of shape {one.shape} (for several inputs a list with one for each)."
        )
    return np.full(one.shape, value, object)


def _check_positions(argument: str, kind: str, one: Arrangement, remedy: str) -> None:
    if not one.positions:
        what = "tokens" if one.tokens else "the columns of a table"
        raise InvalidInputError(
            f"{argument}={kind!r} needs neighbouring values of one kind, but input {one.number} with samples of shape "
            f"{one.shape} holds {what}: {remedy}."
        )


def _sigmas(sigma: Any, one: Arrangement) -> tuple[float, ...]:
    """A standard deviation for each axis with positions, by default an eighth of the side."""
    if sigma is None:
        return tuple(default_sizes(one)[axis] for axis in one.axes)
    values = sigma if isinstance(sigma, tuple) else (sigma,) * len(one.axes)
    if len(values) != len(one.axes):
        raise InvalidInputError(
            f"sigma={sigma!r} has {len(values)} entries, but samples of shape {one.shape} have {len(one.axes)} axes "
            f"with positions; pass a number, or one for each of them."
        )
    return tuple(arguments.number("sigma", value, positive=True) for value in values)
