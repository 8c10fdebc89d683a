"""Occlusion: what the score loses when a patch of x is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext.analyzers.parts.layout import Layout
from innv_ext.analyzers.parts.windows import Windows, all_sizes, check_gaps, default_sizes, owned, windows
from innv_ext.analyzers.prediction.masking import MaskingAnalyzer, as_maps, of_rows, replacements


@dataclass(kw_only=True, eq=False, repr=False)
class Occlusion(MaskingAnalyzer):
    """f_c(x) - f_c(x with a patch replaced), averaged over the patches that cover a component.

    Zeiler and Fergus 2014, section 4.2. Patches slide over images, signals, volumes and tokens, all channels of a pixel
    together; the columns of a table are replaced one by one. Every component is covered, those at borders too.

    Parameters
    ----------
    patch : sides of a patch: an integer for all axes, or a tuple with one per axis of positions (or one per axis of a
        sample, the channels included: pictures without a channel axis need that); default: an eighth of each side
    stride : distance between patches, likewise; default: half a patch
    reference : what replaces the patch: a number (for tokens the number of one), an array that broadcasts to one
        sample, "mean" (of each channel of the sample), or "blur" (x smoothed by a Gaussian with the patch as
        standard deviations)

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

    def check_layouts(self, layouts: Sequence[Layout]) -> None:
        """Patches must fit in."""
        parts = self.windows_of(layouts)
        self.replacements_of([np.zeros((1, *layout.shape)) for layout in layouts], layouts, parts)

    def windows_of(self, layouts: Sequence[Layout]) -> list[Windows]:
        """The patches of every input."""
        patches = all_sizes("patch", self.per_input(self.patch), layouts, default_sizes)
        halves = {layout: tuple(max(1, p // 2) for p in patch) for layout, patch in zip(layouts, patches, strict=True)}
        strides = all_sizes("stride", self.per_input(self.stride), layouts, halves.__getitem__)
        check_gaps("patch", strides, patches)
        return [windows(*parts) for parts in zip(layouts, patches, strides, strict=True)]

    def replacements_of(
        self, xs: Sequence[np.ndarray], layouts: Sequence[Layout], parts: Sequence[Windows]
    ) -> list[np.ndarray]:
        """What the patches are filled with."""
        return replacements(self.per_input(self.reference), xs, layouts, [part.size for part in parts])

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """All patches of all samples, as many at once as ``size`` allows."""
        start, mode = self.at_x(xs, index, options["mode"])
        layouts = self.layouts([x.shape[1:] for x in xs])
        parts = self.windows_of(layouts)
        others = self.replacements_of(xs, layouts, parts)

        def occluded(rows: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
            found = [x[rows] for x in xs]
            for x, other, part, (own, number) in zip(found, others, parts, owned(parts, which), strict=True):
                x[own] = np.where(part.mask(number), of_rows(other, rows[own]), x[own])
            return found

        counts = [part.count for part in parts]
        scores = self.scores(self.score(mode), occluded, sum(counts), start["target"], size)
        losses = np.split(start["score"][:, None].astype("float64") - scores, np.cumsum(counts)[:-1], axis=1)
        maps = [part.average(loss) for part, loss in zip(parts, losses, strict=True)]
        return {**start, "attributions": as_maps(maps, xs)}
