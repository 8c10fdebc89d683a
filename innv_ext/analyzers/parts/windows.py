"""Windows that slide over one input: their sizes, the components they cover, averages over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.errors import InvalidInputError


def default_sizes(one: Arrangement) -> Sizes:
    """About an eighth of each side, all channels; single columns of a table, single tokens."""
    if not one.positions:
        return (1,) * len(one.shape)
    return tuple(max(1, round(side / 8)) if a in one.axes else side for a, side in enumerate(one.shape))


def sizes(name: str, given: Any, one: Arrangement, default: Sizes) -> Sizes:
    """The extent of a window along every axis of a sample; the columns of a table always stand alone.

    ``given`` is None (the default), an integer for every axis with positions, or a tuple: one integer per axis with
    positions, or one per axis of a sample, the channels included.
    """
    if given is None or not one.axes:
        return default
    if isinstance(given, tuple) and len(given) == len(one.shape):
        found = list(given)
    else:
        values = given if isinstance(given, tuple) else (given,) * len(one.axes)
        if len(values) != len(one.axes):
            raise InvalidInputError(
                f"{name}={given!r} has {len(values)} sizes, but samples of input {one.number} have shape "
                f"{one.shape}: pass an integer, {len(one.axes)} sizes, or one for each of the "
                f"{len(one.shape)} axes."
            )
        found = list(default)
        for axis, value in zip(one.axes, values, strict=True):
            found[axis] = value
    for value, side in zip(found, one.shape, strict=True):
        if arguments.positive_int(name, value) > side:
            raise InvalidInputError(
                f"{name}={given!r} is larger than a side of input {one.number} with samples of shape "
                f"{one.shape}: sizes must be at most {one.shape}."
            )
    return tuple(int(value) for value in found)


def all_sizes(
    name: str, given: Sequence[Any], arranged: Sequence[Arrangement], default: Callable[[Arrangement], Sizes]
) -> Any:
    """``sizes`` of every input; sizes for nothing but tables are refused, unless they are 1."""
    if any(g is not None and np.any(np.not_equal(g, 1)) for g in given) and not any(one.axes for one in arranged):
        raise InvalidInputError(
            f"{name}={given[0]!r} has no meaning for a table, whose columns are replaced one by one: leave it out."
        )
    return [sizes(name, g, one, default(one)) for g, one in zip(given, arranged, strict=True)]


def check_gaps(name: str, stride: Sequence[Sizes], width: Sequence[Sizes]) -> None:
    """Refuse windows that don't touch; ``name`` is the parameter of their width."""
    for i, pair in enumerate(zip(stride, width, strict=True)):
        if any(step > side for step, side in zip(*pair, strict=True)):
            raise InvalidInputError(
                f"stride={pair[0]} is larger than {name}={pair[1]} for input {i}, which leaves gaps; pass a stride of "
                f"at most {name}."
            )


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of one size on one input, on a grid that reaches every border.

    Attributes
    ----------
    shape : of one sample
    size : of a window along every axis
    starts : along every axis, where windows start
    """

    shape: Sizes
    size: Sizes
    starts: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        return int(np.prod([len(s) for s in self.starts]))

    def corners(self, which: np.ndarray) -> np.ndarray:
        """The first component of windows, (len(which), axes)."""
        if not self.starts:  # one value per sample
            return np.zeros((len(which), 0), int)
        places = np.unravel_index(which, [len(s) for s in self.starts])
        return np.stack([s[p] for s, p in zip(self.starts, places, strict=True)], axis=1)

    def mask(self, which: np.ndarray) -> np.ndarray:
        """Which components are inside, (len(which), *shape)."""
        inside = np.zeros((len(which), int(np.prod(self.shape))), bool)
        np.put_along_axis(inside, components(self.shape, self.corners(which), self.size), True, axis=1)
        return inside.reshape(len(which), *self.shape)

    def average(self, values: np.ndarray) -> np.ndarray:
        """(batch, count) values of windows as (batch, *shape): the mean over the windows that cover a component."""
        total = values.reshape(len(values), *(len(s) for s in self.starts))
        cover = np.ones((1,) * (len(self.shape) + 1))
        for axis, (side, width) in enumerate(zip(self.shape, self.size, strict=True)):
            offset = np.arange(side) - self.starts[axis][:, None]
            covers = ((offset >= 0) & (offset < width)).astype(values.dtype)
            total = np.moveaxis(np.tensordot(total, covers, (axis + 1, 0)), -1, axis + 1)
            along = [side if a == axis else 1 for a in range(len(self.shape))]
            cover = cover * covers.sum(axis=0).reshape(1, *along)
        return total / cover


def windows(one: Arrangement, size: Sizes, stride: Sizes) -> Windows:
    """Windows every ``stride``; the last one of each axis ends at the border."""
    starts = []
    for side, width, step in zip(one.shape, size, stride, strict=True):
        if not side:
            raise InvalidInputError(
                f"A sample of x has the shape {tuple(one.shape)}: there are no values of which parts could be "
                f"replaced. Explain a model without this input, with a constant in its place."
            )
        regular = np.arange(0, side - width + 1, step)
        starts.append(regular if regular[-1] == side - width else np.append(regular, side - width))
    return Windows(one.shape, size, tuple(starts))


def components(shape: Sizes, corners: np.ndarray, size: Sizes) -> np.ndarray:
    """Flat numbers of the components of windows with these corners, (windows, components of a window)."""
    strides = np.append(np.cumprod(shape[::-1])[::-1][1:], 1).astype(int) if shape else np.zeros(0, int)
    relative = np.indices(size).reshape(len(shape), int(np.prod(size)))
    return (corners @ strides)[:, None] + (strides @ relative)[None]


def owned(parts: Sequence[Windows], which: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of windows numbered over all inputs, per input: where its own are in ``which``, and their numbers in it."""
    ends = list(itertools.accumulate((p.count for p in parts), initial=0))
    places = [np.flatnonzero((which >= a) & (which < b)) for a, b in itertools.pairwise(ends)]
    return [(p, which[p] - first) for p, first in zip(places, ends, strict=False)]
