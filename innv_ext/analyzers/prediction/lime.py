"""LIME: a linear model of the score in which segments of x are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from innv_ext import arguments, files
from innv_ext.analyzers.parts.partition import Partition, as_maps, of_rows
from innv_ext.analyzers.parts.replacement import Fixed, fitted, reference
from innv_ext.analyzers.parts.windows import default_sizes
from innv_ext.analyzers.prediction.masking import SegmentAnalyzer
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError


@dataclass(kw_only=True, eq=False, repr=False)
class Lime(SegmentAnalyzer):
    """Coefficients of a weighted ridge regression of f_c on which segments are kept (Ribeiro et al. 2016, section 3).

    Half of the segments are replaced at random, ``samples`` times; versions nearer to x weigh more:
    exp(-d^2 / kernel_width^2) with the cosine distance d of the masks, and, as in the authors' code, the square root
    of it. Every component gets the coefficient of its segment.

    ``explain(x).extras`` has per sample: segments (labels, numbered over all inputs), r2 (weighted, of the local
    model) and intercept.

    Parameters
    ----------
    segments, n_segments : see ``SegmentAnalyzer``: superpixels of images, blocks of signals and volumes, single
        tokens and columns of tables; or labels of your own
    samples : versions of x, the first of which is x itself; all samples share the masks
    reference : what replaces a segment: None ("mean" where there are positions; 0 for columns of tables and tokens,
        empty for strings), a number, an array that broadcasts to one sample, "mean" (of each channel of the sample), or
        "blur" (x smoothed by a Gaussian whose standard deviation is an eighth of each side); a list or dict for several
        inputs
    kernel_width : how fast weights fall with the distance
    alpha : of the ridge
    num_features : keep the segments with the largest coefficients only, and fit again

    Raises
    ------
    InvalidInputError
        for labels or references that don't fit, or where scikit-learn or scikit-image is missing

    Examples
    --------
    >>> a = innv_ext.create_analyzer("lime", model, segments="grid", samples=512).analyze(x)
    """

    samples: int = arguments.count(256)
    reference: Any = None
    kernel_width: float = arguments.positive(0.25)
    alpha: float = arguments.at_least(0, 1.0)
    num_features: int | None = arguments.count(None)

    takes_strings = True

    def check_parameters(self) -> None:
        ridge()  # scikit-learn must be there

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        super().check_inputs(arranged)
        self.fills(arranged)

    def fills(self, arranged: Sequence[Arrangement]) -> list[Fixed]:
        """What segments are replaced by."""
        given = self.per_input(self.reference)
        return [reference(value, one, default_sizes(one)) for value, one in zip(given, arranged, strict=True)]

    def masks(self, n: int) -> np.ndarray:
        """Which of n segments are on, (samples, n): all, then random ones; the same for the same seed and n."""
        on = np.random.default_rng((self.seed, n)).random((self.samples, n)) < 0.5
        on[0] = True
        return on

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """Samples with the same number of segments share masks, and so the matrix of their regression."""
        segments = self.segments_of(xs)
        others = [fitted(fill.of(x), x.dtype) for fill, x in zip(self.fills(segments.inputs), xs, strict=True)]
        coefficients = np.zeros((len(xs[0]), segments.count))
        intercept, r2 = np.zeros(len(xs[0])), np.zeros(len(xs[0]))
        for n in np.unique(segments.counts):
            group, own = segments.alike(n)
            on, some = self.masks(int(n)), [x[group] for x in xs]
            versions = partial(_masked, some, [of_rows(other, group) for other in others], own, on)
            scores = self.scores(self.score(mode), versions, self.samples, start["target"][group], size)
            coefficients[group, :n], intercept[group], r2[group] = self.regress(on, scores)
        maps = as_maps(segments.maps(coefficients), xs)
        return {"attributions": maps, "segments": segments.pictures(), "r2": r2, "intercept": intercept}

    def regress(self, on: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coefficients (batch, n), intercepts and R^2 of the scores (batch, samples)."""
        if not np.isfinite(scores).all():
            bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
            raise InvalidInputError(
                f"LIME fits a linear model to scores, but some are NaN or infinite (in {len(bad)} of {len(scores)} "
                f"samples with as many segments): {self.not_finite}."
            )
        distance = 1 - np.sqrt(on.mean(axis=1))  # the cosine distance of a mask to the one with everything on
        weights = np.sqrt(np.exp(-np.square(distance) / self.kernel_width**2))
        design = on.astype("float64")
        model = ridge()(alpha=self.alpha).fit(design, scores.T, sample_weight=weights)
        found, intercept = np.reshape(model.coef_, (len(scores), -1)), np.reshape(model.intercept_, -1)
        if self.num_features is not None and self.num_features < on.shape[1]:
            chosen = np.argsort(-np.abs(found), axis=1, kind="stable")[:, : self.num_features]
            found = np.zeros_like(found)
            for i, columns in enumerate(chosen):
                model = ridge()(alpha=self.alpha).fit(design[:, columns], scores[i], sample_weight=weights)
                found[i, columns], intercept[i] = model.coef_, model.intercept_
        residual = scores - (found @ design.T + intercept[:, None])
        centred = scores - np.average(scores, axis=1, weights=weights)[:, None]
        variance = np.square(centred) @ weights
        unexplained = np.square(residual) @ weights
        return found, intercept, 1 - np.divide(unexplained, variance, out=np.zeros_like(variance), where=variance > 0)


def _masked(
    xs: list[np.ndarray], others: list[np.ndarray], segments: Partition, on: np.ndarray, rows: Any, which: Any
) -> list[np.ndarray]:
    """The samples ``rows`` with their segments replaced where mask ``which`` is off."""
    return segments.mixed([x[rows] for x in xs], [of_rows(other, rows) for other in others], on[which], rows)


def ridge() -> Any:
    """``Ridge`` of scikit-learn, an extra."""
    return files.need("sklearn.linear_model", "The local model of LIME").Ridge
