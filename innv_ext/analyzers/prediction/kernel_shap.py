"""Kernel SHAP: Shapley values of segments of x by weighted least squares over coalitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.background import Background
from innv_ext.analyzers.parts.partition import Partition, as_maps
from innv_ext.analyzers.prediction.masking import SegmentAnalyzer
from innv_ext.errors import InvalidInputError


@dataclass(kw_only=True, eq=False, repr=False)
class KernelShap(Background, SegmentAnalyzer):
    """Shapley values of the segments, estimated by a weighted regression (Lundberg and Lee 2017, theorem 2).

    A coalition S of segments is worth the mean of f_c over reference samples whose segments in S are those of x. With
    all 2^n - 2 coalitions the values are exact. Otherwise coalitions of the smallest and largest sizes are enumerated
    as far as ``samples`` goes, and the other sizes drawn in proportion to their Shapley kernel, each with its
    complement. The values always sum to f_c(x) - mean f_c(references). The value of a segment is spread evenly over its
    components, so that the map has this sum too.

    ``explain(x).extras`` has per sample: segments (labels, numbered over all inputs) and base (mean f_c(references)).

    Parameters
    ----------
    segments, n_segments : see ``SegmentAnalyzer``: superpixels of images, blocks of signals and volumes, single
        tokens and columns of tables; or labels of your own
    samples : at most so many coalitions, at least twice the number of segments; all samples of x share them
    references, background : reference samples, given or a random subset of so many samples of the data of ``fit``; one
        map takes ``samples`` times ``background`` forward passes

    Raises
    ------
    InvalidInputError
        for labels that don't fit, or too few coalitions for the number of segments
    NotFittedError
        without reference samples

    Examples
    --------
    >>> a = innv_ext.create_analyzer("kernel_shap", model).fit(X_train).analyze(x)
    """

    samples: int = arguments.count(512)
    background: int = arguments.count(16)
    takes_strings = True
    not_finite = f"{SegmentAnalyzer.not_finite.removesuffix('another reference=')}other references="
    _coalitions: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False)

    def coalitions(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Coalitions of n segments, (count, n), and their weights; the same for the same seed and n."""
        if n not in self._coalitions:
            least = min(2 * n, 2**n - 2)
            if self.samples < least:
                raise InvalidInputError(
                    f"samples={self.samples} coalitions are too few for {n} segments: pass samples={least} or more, or "
                    f"coarser segments (n_segments=, or labels)."
                )
            self._coalitions[n] = shapley_coalitions(n, self.samples, np.random.default_rng((self.seed, n)))
        return self._coalitions[n]

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """Samples with the same number of segments share coalitions, and so the matrix of their regression."""
        references, segments = self.references_like(xs), self.segments_of(xs)
        shapley, base = np.zeros((len(xs[0]), segments.count)), np.zeros(len(xs[0]))
        for n in np.unique(segments.counts):
            group, own = segments.alike(n)
            on, weights = self.coalitions(int(n))
            on = np.concatenate([np.zeros((1, n), bool), on])  # first the references themselves
            versions = partial(_mixed, [x[group] for x in xs], references, own, on)
            values = self.scores(self.score(mode), versions, len(on), start["target"][group], size, len(references[0]))
            base[group] = values[:, 0]
            shapley[group, :n] = solve(on[1:], weights, values[:, 1:], values[:, 0], start["score"][group])
        maps = segments.maps(shapley / np.maximum(segments.sizes(), 1))
        return {"attributions": as_maps(maps, xs), "segments": segments.pictures(), "base": base}


def _mixed(
    xs: list[np.ndarray], references: list[np.ndarray], segments: Partition, on: np.ndarray, rows: Any, which: Any
) -> list[np.ndarray]:
    """The samples ``rows`` in coalition ``which // references`` with the reference ``which % references``."""
    coalition, reference = np.divmod(which, len(references[0]))
    return segments.mixed([x[rows] for x in xs], [r[reference] for r in references], on[coalition], rows)


def shapley_coalitions(n: int, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most ``samples`` coalitions of n players, without the empty and the full one, and their weights.

    All coalitions of one size s together weigh (n - 1) / (s (n - s)). Pairs of sizes s and n - s are enumerated from
    the outside while they fit; what is left of the budget is drawn from the other sizes, each coalition with its
    complement, and shares their weight.
    """
    mass = {s: (n - 1) / (s * (n - s)) for s in range(1, n)}
    rows, weights, left, s = [np.zeros((0, n), bool)], [np.zeros(0)], samples, 1
    while s <= n / 2 and (2 if s < n - s else 1) * comb(n, s) <= left:
        members = np.array(list(combinations(range(n), s)))
        small = np.zeros((len(members), n), bool)
        np.put_along_axis(small, members, True, axis=1)
        for found in (small, ~small) if s < n - s else (small,):
            rows.append(found)
            weights.append(np.full(len(found), mass[s] / len(found)))
            left -= len(found)
        s += 1
    pairs, middle = left // 2, np.arange(s, n - s + 1)
    if len(middle) and pairs:
        chance = np.array([mass[m] for m in middle])
        size = rng.choice(middle, pairs, p=chance / chance.sum())
        small = np.argsort(np.argsort(rng.random((pairs, n)), axis=1), axis=1) < size[:, None]
        drawn, times = np.unique(np.concatenate([small, ~small]), axis=0, return_counts=True)
        rows.append(drawn)
        weights.append(times * chance.sum() / times.sum())
    return np.concatenate(rows), np.concatenate(weights)


def solve(on: np.ndarray, weights: np.ndarray, values: np.ndarray, empty: np.ndarray, full: np.ndarray) -> np.ndarray:
    """phi (batch, n) of sum v(full) - v(empty) that minimise sum_S w_S (v(S) - v(empty) - sum_{i in S} phi_i)^2.

    Parameters
    ----------
    on, weights : coalitions (count, n) and their weights
    values : v of the coalitions, (batch, count)
    empty, full : v of the empty and of the full coalition, (batch,)
    """
    total, n = full.astype("float64") - empty, on.shape[1]
    if not len(on):
        return total[:, None]
    design = on.astype("float64")
    matrix = (design * weights[:, None]).T @ design
    right = ((values - empty[:, None]) * weights) @ design
    found = np.linalg.solve(matrix, np.concatenate([right, np.ones((1, n))]).T).T
    free, along = found[:-1], found[-1]  # Lagrange: phi = free + multiplier * along
    phi = free + ((total - free.sum(axis=1)) / along.sum())[:, None] * along
    return phi + (total - phi.sum(axis=1))[:, None] / n  # rounding
