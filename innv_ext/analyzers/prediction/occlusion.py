"""Occlusion: what the score loses when a patch of x is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext.analyzers.parts.partition import as_maps, of_rows
from innv_ext.analyzers.parts.replacement import Fixed, fitted, reference
from innv_ext.analyzers.parts.windows import Windows, all_sizes, check_gaps, default_sizes, owned, windows
from innv_ext.analyzers.prediction.masking import MaskingAnalyzer
from innv_ext.backend.arrangement import Arrangement


@dataclass(kw_only=True, eq=False, repr=False)
class Occlusion(MaskingAnalyzer):
    """f_c(x) - f_c(x with a patch replaced), averaged over the patches that cover a component.

    Zeiler and Fergus 2014, section 4.2. Patches slide over images, signals, volumes and tokens, all channels of a pixel
    together; the columns of a table are replaced one by one. Every component is covered, those at borders too.

    Parameters
    ----------
    patch : sides of a patch: an integer for all axes, or a tuple with one per axis of positions (or one per axis of a
        sample, the channels included: pictures without a channel axis need that); default: an eighth of each side,
        and single tokens
    stride : distance between patches, likewise; default: half a patch
    reference : what replaces the patch: a number (for tokens the number of one, for strings another string, by default
        the empty one), an array that broadcasts to one sample, "mean" (of each channel of the sample), or "blur" (x
        smoothed by a Gaussian with the patch as standard deviations)

        For models with several inputs each of these may be a list or dict with one value per input.

    Raises
    ------
    InvalidInputError
        for patches larger than the input, strides larger than the patch, or references that don't fit

    Examples
    --------
    >>> a = innv_ext.create_analyzer("occlusion", model, patch=8, reference="mean").analyze(x)
    """

    patch: Any = None
    stride: Any = None
    reference: Any = 0

    takes_strings = True

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        self.patches_of(arranged)

    def patches_of(self, arranged: Sequence[Arrangement]) -> tuple[list[Windows], list[Fixed]]:
        """The patches of every input, and what they are filled with."""
        patches = all_sizes("patch", self.per_input(self.patch), arranged, default_sizes)
        halves = {one: tuple(max(1, p // 2) for p in patch) for one, patch in zip(arranged, patches, strict=True)}
        strides = all_sizes("stride", self.per_input(self.stride), arranged, halves.__getitem__)
        check_gaps("patch", strides, patches)
        fills = [reference(*three) for three in zip(self.per_input(self.reference), arranged, patches, strict=True)]
        return [windows(*three) for three in zip(arranged, patches, strides, strict=True)], fills

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        parts, fills = self.patches_of(self.arranged(xs))
        others = [fitted(fill.of(x), x.dtype) for fill, x in zip(fills, xs, strict=True)]

        def occluded(rows: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
            found = [x[rows] for x in xs]
            for x, other, part, (own, number) in zip(found, others, parts, owned(parts, which), strict=True):
                x[own] = np.where(part.mask(number), of_rows(other, rows[own]), x[own])
            return found

        counts = [part.count for part in parts]
        scores = self.scores(self.score(mode), occluded, sum(counts), start["target"], size)
        losses = np.split(start["score"][:, None].astype("float64") - scores, np.cumsum(counts)[:-1], axis=1)
        maps = [part.average(loss) for part, loss in zip(parts, losses, strict=True)]
        return {"attributions": as_maps(maps, xs)}
