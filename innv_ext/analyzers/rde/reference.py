"""The reference distribution V of Rate-Distortion Explanations: what takes the place of components that aren't kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from innv_ext import files
from innv_ext.errors import InvalidInputError

Arrays = list[np.ndarray]
Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
KINDS = ("gaussian", "low_rank", "full", "uniform", "constant")
LEARNT = ("gaussian", "low_rank", "full")
FULL_LIMIT = 4096  # components up to which a covariance matrix is formed


@dataclass(frozen=True, eq=False)
class Reference:
    """V, over the inputs of one sample.

    Attributes
    ----------
    kind : one of ``KINDS``, or "sampler"
    mean, variance : one array per input, shaped like one sample; unused by "uniform" and "sampler"
    factor : (rank, n) directions of "low_rank" and "full", over all components of all inputs; their variance is in it
    sampler : (x (batch, ...), samples, rng) -> (batch, samples, ...)
    """

    kind: str
    mean: Arrays
    variance: Arrays
    factor: np.ndarray | None = None
    sampler: Sampler | None = None

    @property
    def covariance(self) -> str:
        """The covariance mode of density filtering that keeps what V has."""
        return self.kind if self.kind in ("low_rank", "full") else "diagonal"

    def moments(self, xs: Sequence[np.ndarray]) -> tuple[Arrays, Arrays, Arrays]:
        """Means, variances (1 or batch, ...) and directions (1, rank, ...) of the inputs; no directions: empty."""
        if self.kind == "uniform":
            low, high = zip(*(_range(x) for x in xs), strict=True)
            means = [(a + b) / 2 + np.zeros_like(x) for a, b, x in zip(low, high, xs, strict=True)]
            variances = [(b - a) ** 2 / 12 + np.zeros_like(x) for a, b, x in zip(low, high, xs, strict=True)]
            return means, variances, []
        means = [m.astype(x.dtype)[None] for m, x in zip(self.mean, xs, strict=True)]
        variances = [v.astype(x.dtype)[None] for v, x in zip(self.variance, xs, strict=True)]
        factors = [] if self.factor is None else self._split(self.factor.astype(xs[0].dtype), xs)
        return means, variances, factors

    def deviation(self, xs: Sequence[np.ndarray], seed: int) -> Arrays:
        """E (x - v)^2 of each component; from 16 draws where V is a sampler."""
        if self.kind == "sampler":
            keys = [(seed, 0, j) for j in range(16)]
            draws = [self.draw([x[None]], keys)[0] for x in xs[0]]  # a sample's draws must not depend on the others
            return [np.square(xs[0][:, None] - np.concatenate(draws)).mean(axis=1)]
        means, variances, factors = self.moments(xs)
        shared = [np.square(f).sum(axis=1) for f in factors] or [0.0] * len(xs)
        return [np.square(x - m) + v + s for x, m, v, s in zip(xs, means, variances, shared, strict=True)]

    def draw(self, xs: Sequence[np.ndarray], keys: Sequence[tuple[int, ...]]) -> Arrays:
        """One draw per key and sample, (1 or batch, len(keys), ...) per input; equal keys give equal draws."""
        generators = [np.random.default_rng(key) for key in keys]
        if self.kind == "sampler":
            drawn = np.concatenate([self._sampled(xs[0], rng) for rng in generators], axis=1)
            return [drawn.astype(xs[0].dtype)]
        if self.kind == "constant":
            return [
                np.repeat(m.astype(x.dtype)[None, None], len(keys), axis=1) for m, x in zip(self.mean, xs, strict=True)
            ]
        if self.kind == "uniform":
            units = [_stack(generators, x, lambda rng, s, d: rng.random(s, d)) for x in xs]
            bounds = [_range(x) for x in xs]
            return [a[:, None] + u * (b - a)[:, None] for u, (a, b) in zip(units, bounds, strict=True)]
        noise = [_stack(generators, x, lambda rng, s, d: rng.standard_normal(s, d)) for x in xs]
        shared = [0.0] * len(xs)
        if self.factor is not None:
            weights = np.stack([rng.standard_normal(len(self.factor), xs[0].dtype) for rng in generators])
            shared = self._split(weights @ self.factor.astype(xs[0].dtype), xs)
        means, variances, _ = self.moments(xs)
        return [
            m[:, None] + np.sqrt(v)[:, None] * z + s for m, v, z, s in zip(means, variances, noise, shared, strict=True)
        ]

    def _sampled(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert self.sampler is not None
        found = np.asarray(self.sampler(x, 1, rng))
        if found.shape != (len(x), 1, *x.shape[1:]) or not np.isfinite(found).all():
            raise InvalidInputError(
                f"The reference sampler must return finite values of shape (batch, samples, ...) = "
                f"{(len(x), 1, *x.shape[1:])}, but returned shape {found.shape}."
            )
        return found

    def _split(self, rows: np.ndarray, xs: Sequence[np.ndarray]) -> Arrays:
        """(rows, n) as one array (1, rows, ...) per input."""
        ends = np.cumsum([int(np.prod(x.shape[1:])) for x in xs])[:-1]
        return [p.reshape(1, len(rows), *x.shape[1:]) for p, x in zip(np.split(rows, ends, axis=1), xs, strict=True)]


def _range(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest value of each sample."""
    axes = tuple(range(1, x.ndim))
    return x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)


def _stack(generators: Sequence[np.random.Generator], x: np.ndarray, draw: Any) -> np.ndarray:
    return np.stack([draw(rng, x.shape[1:], x.dtype) for rng in generators])[None]


# --- learning it -------------------------------------------------------------------------------------------------


def learn(batches: Iterator[Arrays], kind: str, rank: int) -> tuple[Arrays, Arrays, np.ndarray | None]:
    """Mean, variance and directions of the data, in one pass with float64 accumulators (Chan et al. 1983).

    "low_rank" keeps the ``rank`` leading principal directions: exactly, from the covariance matrix, up to
    4096 components, by incremental PCA beyond; "full" keeps all of them.

    Raises
    ------
    InvalidInputError
        if the covariance matrix of kind "full" would be too large
    """
    count, mean, scatter = 0, None, None
    shapes: list[tuple[int, ...]] = []
    matrix, incremental = False, None
    for arrays in batches:
        rows = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1).astype("float64")
        if mean is None:
            n = rows.shape[1]
            shapes = [a.shape[1:] for a in arrays]
            matrix = kind != "gaussian" and n <= FULL_LIMIT
            if kind == "full" and not matrix:
                raise InvalidInputError(
                    f"reference='full' needs a covariance of {n} x {n} components; up to {FULL_LIMIT} are supported. "
                    f"Use reference='low_rank' with rank=."
                )
            incremental = _Incremental(rank) if kind == "low_rank" and not matrix else None
            mean, scatter = np.zeros(n), np.zeros((n, n) if matrix else n)
        local = rows.mean(axis=0)
        centred, shift = rows - local, local - mean
        total = count + len(rows)
        weight = count * len(rows) / total
        if matrix:
            scatter += centred.T @ centred + weight * np.outer(shift, shift)
        else:
            scatter += np.sum(centred**2, axis=0) + weight * shift**2
        mean = mean + shift * (len(rows) / total)
        count = total
        if incremental is not None:
            incremental.add(rows)
    assert mean is not None and scatter is not None
    factor, variance = None, np.diag(scatter) / count if matrix else scatter / count
    if kind != "gaussian":
        factor = incremental.directions() if incremental is not None else _directions(scatter / count, kind, rank)
        variance = np.zeros_like(variance)
    ends = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]
    pieces = [[p.reshape(s) for p, s in zip(np.split(v, ends), shapes, strict=True)] for v in (mean, variance)]
    return pieces[0], pieces[1], factor


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
