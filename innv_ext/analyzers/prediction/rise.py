"""RISE: the mean score of randomly masked copies of x that show a component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.parts.partition import as_maps, of_rows
from innv_ext.analyzers.parts.replacement import Fixed, fitted, reference
from innv_ext.analyzers.parts.stretching import interpolation
from innv_ext.analyzers.parts.windows import default_sizes, sizes
from innv_ext.analyzers.prediction.masking import MaskingAnalyzer
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError


@dataclass(kw_only=True, eq=False, repr=False)
class Rise(MaskingAnalyzer):
    """sum_j f_c(x0 + M_j (x - x0)) M_j / (p n) over n random masks M_j (Petsiuk et al. 2018, equation 6).

    Of images, signals and volumes a coarse grid of cells, each 1 with probability p and else 0, is interpolated
    linearly to one cell more than the input has, and cut to the input's size at a random place: cells have
    ceil(side / grid) positions, the shift is less than a cell, as in the authors' code. All channels share a mask.
    Tokens and columns of tables are masked one by one, without a grid. Inputs of one model are masked at once, each by
    masks of its own.

    An estimate of E[f_c(masked x) | component shown], with a standard error that falls as 1 / sqrt(n): a map of a score
    is about its mean, from which parts of the input that matter stand out. The paper's f_c is a probability,
    ``on="output"``; maps of logits may be negative.

    Parameters
    ----------
    samples : number of masks n, shared by all x, so that a map doesn't depend on its batch
    probability : p, with which a cell is shown, in (0, 1]
    grid : cells along every axis of positions: an integer, or a tuple with one per axis (or one per axis of a sample,
        that of the channels 1); default: 7, or a cell per position where there are fewer
    reference : x0: a number (for tokens the number of one), an array that broadcasts to one sample, "mean" (of each
        channel of the sample), or "blur" (x smoothed by a Gaussian whose standard deviation is an eighth of each side)

        For models with several inputs ``grid`` and ``reference`` may be a list or dict with one value per input.

    Raises
    ------
    InvalidInputError
        for a grid finer than the input, a grid where nothing is interpolated, or references that don't fit

    Examples
    --------
    >>> a = innv_ext.create_analyzer("rise", model, samples=4000, on="output").analyze(x)
    """

    samples: int = arguments.count(1000)
    probability: float = arguments.positive(0.5)
    grid: Any = None
    reference: Any = 0

    def check_parameters(self) -> None:
        arguments.number("probability", self.probability, positive=True, most=1)

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        self.cells(arranged)
        self.fills(arranged)

    def fills(self, arranged: Sequence[Arrangement]) -> list[Fixed]:
        """What is seen where a mask is 0."""
        given = zip(self.per_input(self.reference), arranged, strict=True)
        return [reference(value, one, default_sizes(one)) for value, one in given]

    def cells(self, arranged: Sequence[Arrangement]) -> list[tuple[int, ...]]:
        """Cells along every axis of each input."""
        given = self.per_input(self.grid)
        if any(g is not None for g in given) and not any(one.positions for one in arranged):
            raise InvalidInputError(
                f"grid={given[0]!r} has no meaning for tokens and tables, which are masked one by one: leave it out."
            )
        found = []
        for value, one in zip(given, arranged, strict=True):
            if not one.positions:
                found.append(one.shape)
                continue
            default = tuple(1 if axis == one.channel_axis else min(7, side) for axis, side in enumerate(one.shape))
            cells = sizes("grid", value, one, default)
            if one.channel_axis is not None and cells[one.channel_axis] != 1:
                raise InvalidInputError(f"grid={value!r}: all channels share a mask; pass 1 for their axis.")
            found.append(cells)
        return found

    def masks(self, arranged: Sequence[Arrangement]) -> list[GridMasks]:
        """The masks of every input; the same for the same seed and shapes."""
        found = []
        for one, cells in zip(arranged, self.cells(arranged), strict=True):
            on = np.random.default_rng((self.seed, one.number)).random((self.samples, *cells)) < self.probability
            axes = one.axes if one.positions else ()
            lengths = [-(-one.shape[axis] // cells[axis]) for axis in axes]
            draws = [np.random.default_rng((self.seed, one.number, 1 + a)) for a in axes]
            shifts = [rng.integers(0, length, self.samples) for rng, length in zip(draws, lengths, strict=True)]
            stretch = [
                np.stack([interpolation(n, (n + 1) * length)[s : s + one.shape[a]] for s in range(length)])
                for a, n, length in zip(axes, [cells[a] for a in axes], lengths, strict=True)
            ]
            found.append(GridMasks(on, axes, shifts, stretch))
        return found

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        arranged = self.arranged(xs)
        masks = self.masks(arranged)
        others = [fitted(fill.of(x), x.dtype) for fill, x in zip(self.fills(arranged), xs, strict=True)]

        def masked(rows: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
            parts = zip(masks, xs, others, strict=True)
            return [_mixed(part.of(which), x[rows], of_rows(other, rows)) for part, x, other in parts]

        scores = self.scores(self.score(mode), masked, self.samples, start["target"], size)
        maps = [np.zeros(()) for _ in xs]
        for first in range(0, self.samples, size):
            which = np.arange(first, min(first + size, self.samples))
            maps = [m + np.tensordot(scores[:, which], part.of(which), 1) for m, part in zip(maps, masks, strict=True)]
        wide = [np.broadcast_to(m, x.shape) / (self.probability * self.samples) for m, x in zip(maps, xs, strict=True)]
        return {"attributions": as_maps(wide, xs)}


@dataclass(frozen=True, eq=False)
class GridMasks:
    """Random masks of one input.

    Attributes
    ----------
    on : which cells are shown, (samples, *cells)
    axes : of a sample along which cells are interpolated
    shifts : for each of them where every mask is cut, (samples,)
    stretch : for each of them the interpolation by shift, (shifts, positions, cells)
    """

    on: np.ndarray
    axes: tuple[int, ...]
    shifts: list[np.ndarray]
    stretch: list[np.ndarray]

    def of(self, which: np.ndarray) -> np.ndarray:
        """Masks by number, (len(which), *shape) with all channels in one; float64 in [0, 1]."""
        found = self.on[which].astype("float64")
        for axis, shifts, stretch in zip(self.axes, self.shifts, self.stretch, strict=True):
            last = np.moveaxis(found, axis + 1, -1)
            flat = last.reshape(len(which), -1, last.shape[-1]) @ np.swapaxes(stretch[shifts[which]], 1, 2)
            found = np.moveaxis(flat.reshape(*last.shape[:-1], -1), -1, axis + 1)
        return found


def _mixed(mask: np.ndarray, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """x where the mask is 1, the other where it is 0, in x's dtype; tokens have no values in between."""
    if x.dtype.kind != "f":
        return np.where(mask == 1, x, other)
    return (mask * x + (1 - mask) * other).astype(x.dtype)
