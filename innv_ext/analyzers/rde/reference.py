"""The reference distribution V of Rate-Distortion Explanations: what takes the place of components that aren't kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from innv_ext import files
from innv_ext.analyzers.parts.replacement import Constant, Custom, Gaussian, Replacement, RunningMoments, Uniform
from innv_ext.errors import InvalidInputError

Arrays = list[np.ndarray]
KINDS = ("gaussian", "low_rank", "full", "uniform", "constant", "vocabulary")
LEARNT = ("gaussian", "low_rank", "full")
FULL_LIMIT = 4096  # components up to which a covariance matrix is formed


@dataclass(frozen=True, eq=False)
class Reference:
    """V, over the inputs of one sample.

    Attributes
    ----------
    parts : what replaces each of the inputs
    factor : (rank, n) directions in which all components of all inputs vary besides; their variance is in it
    """

    parts: Sequence[Replacement]
    factor: np.ndarray | None = None

    @classmethod
    def of(cls, kind: str, means: Arrays, variances: Arrays, factor: np.ndarray | None = None) -> Reference:
        """V of one of the ``KINDS``, from what it has of these, one array per input, shaped like one sample."""
        if kind == "uniform":
            return cls([Uniform()] * len(means))
        if kind == "constant":
            return cls([Constant(mean) for mean in means])
        parts = [Gaussian(mean, np.sqrt(variance)) for mean, variance in zip(means, variances, strict=True)]
        return cls(parts, factor)

    def moments(self, xs: Sequence[np.ndarray]) -> tuple[Arrays, Arrays, Arrays]:
        """Means, variances (1 or batch, ...) and directions (1, rank, ...) of the inputs; no directions: empty."""
        means, variances = zip(*(part.moments(x) for part, x in zip(self.parts, xs, strict=True)), strict=True)
        factors = [] if self.factor is None else _split(self.factor.astype(xs[0].dtype), xs)
        return [*means], [*variances], factors

    def deviation(self, xs: Sequence[np.ndarray], seed: int) -> Arrays:
        """E (x - v)^2 of each component; from 16 draws where V is a user's function."""
        if isinstance(self.parts[0], Custom):
            keys = [(seed, 0, j) for j in range(16)]
            draws = [self.draw([x[None]], keys)[0] for x in xs[0]]
            return [np.square(xs[0][:, None] - np.concatenate(draws)).mean(axis=1)]
        means, variances, factors = self.moments(xs)
        shared = [np.square(f).sum(axis=1) for f in factors] or [0.0] * len(xs)
        return [np.square(x - m) + v + s for x, m, v, s in zip(xs, means, variances, shared, strict=True)]

    def draw(self, xs: Sequence[np.ndarray], keys: Sequence[tuple[int, ...]]) -> Arrays:
        """One draw per key for one sample (1, ...), (1, len(keys), ...) per input; equal keys give equal draws."""
        drawn, weights = [], []
        for rng in map(np.random.default_rng, keys):
            drawn.append([part.draw(x[0], 1, rng) for part, x in zip(self.parts, xs, strict=True)])
            if self.factor is not None:
                weights.append(rng.standard_normal(len(self.factor), xs[0].dtype))
        found = [np.stack(rows, axis=1).astype(x.dtype) for rows, x in zip(zip(*drawn, strict=True), xs, strict=True)]
        if self.factor is None:
            return found
        shared = _split(np.stack(weights) @ self.factor.astype(xs[0].dtype), xs)
        return [own + also for own, also in zip(found, shared, strict=True)]


def _split(rows: np.ndarray, xs: Sequence[np.ndarray]) -> Arrays:
    """Rows (rows, n) as one array (1, rows, ...) per input."""
    ends = np.cumsum([int(np.prod(x.shape[1:])) for x in xs])[:-1]
    return [p.reshape(1, len(rows), *x.shape[1:]) for p, x in zip(np.split(rows, ends, axis=1), xs, strict=True)]


# --- learning it -------------------------------------------------------------------------------------------------


def learn(batches: Iterator[Arrays], kind: str, rank: int) -> dict[str, np.ndarray]:
    """Mean and variance of each input ("mean0", "variance0", ...) and, where V has them, directions ("factor").

    "low_rank" keeps the ``rank`` leading principal directions: exactly, from the covariance matrix, up to
    4096 components, by incremental PCA beyond; "full" keeps all of them.

    Raises
    ------
    InvalidInputError
        if the covariance matrix of kind "full" would be too large
    """
    first = next(batches)
    n = sum(a[0].size for a in first)
    matrix = kind != "gaussian" and n <= FULL_LIMIT
    if kind == "full" and not matrix:
        raise InvalidInputError(
            f"reference='full' needs a covariance of {n} x {n} components; up to {FULL_LIMIT} are supported. "
            f"Use reference='low_rank' with rank=."
        )
    incremental = _Incremental(rank) if kind == "low_rank" and not matrix else None
    moments = RunningMoments(n, matrix)
    for arrays in itertools.chain([first], batches):
        rows = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1).astype("float64")
        moments.add(rows)
        if incremental is not None:
            incremental.add(rows)
    spread = moments.scatter / moments.count
    found = {}
    if kind != "gaussian":
        found["factor"] = incremental.directions() if incremental is not None else _directions(spread, kind, rank)
        spread = np.zeros(n)
    for name, whole in (("mean", moments.mean), ("variance", spread)):
        found |= {f"{name}{i}": part[0, 0] for i, part in enumerate(_split(whole[None], first))}
    return found


def _directions(covariance: np.ndarray, kind: str, rank: int) -> np.ndarray:
    """Leading eigenvectors times the roots of their eigenvalues, (rank, n)."""
    n = len(covariance)
    keep = min(rank, n) if kind == "low_rank" else n
    values, vectors = linalg.eigh(covariance, subset_by_index=(n - keep, n - 1))
    return (vectors * np.sqrt(np.maximum(values, 0))).T[::-1]


class _Incremental:
    """Incremental PCA (Ross et al. 2008; scikit-learn) on rows that come in batches of any size."""

    def __init__(self, rank: int):
        what = f"reference='low_rank' on more than {FULL_LIMIT} components"
        self.rank, self.rest, self.steps = rank, None, 0
        self.model = files.need("sklearn.decomposition", what).IncrementalPCA(rank)

    def add(self, rows: np.ndarray) -> None:
        """Collect at least ``rank`` rows before each step."""
        self.rest = rows if self.rest is None else np.concatenate([self.rest, rows])
        if len(self.rest) >= self.rank:
            self.model.partial_fit(self.rest)
            self.steps += 1
            self.rest = None

    def directions(self) -> np.ndarray:
        """Components times standard deviations, (rank, n)."""
        if not self.steps:
            raise InvalidInputError(f"rank={self.rank} needs at least {self.rank} samples to fit.")
        seen = self.model.n_samples_seen_
        deviations = np.sqrt(self.model.explained_variance_ * (seen - 1) / seen)
        return self.model.components_ * deviations[:, None]
