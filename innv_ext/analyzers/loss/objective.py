"""What CAFO and CASO maximise: g.D + D.H D / 2 - lambda1 |D|_1 - lambda2 |D|_2^2, and how lambda1 is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from innv_ext import optim
from innv_ext.optim.lanczos import Product

FIRST, FACTOR = 1e-5, 10.0  # the paper's grid of lambda1
SPARSE = 0.75  # share of zeros that is wanted at least
BISECTIONS = 30

TrueLoss = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(eq=False)
class Solutions:
    """Maximisers D of some problems, with all that is known about them, one entry per problem.

    ``residual`` is the largest violation of the optimality conditions over the largest |g|.
    """

    lambda1: np.ndarray
    step: np.ndarray
    objective: np.ndarray
    residual: np.ndarray
    iterations: np.ndarray
    status: np.ndarray

    @property
    def sparsity(self) -> np.ndarray:
        """Share of zeros of each D."""
        return np.mean(self.step == 0, axis=1)

    def take(self, chosen: np.ndarray) -> Solutions:
        return Solutions(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def put(self, places: np.ndarray, others: Solutions) -> None:
        for f in fields(self):
            getattr(self, f.name)[places] = getattr(others, f.name)


@dataclass(eq=False)
class FirstOrder:
    """H = 0: soft_threshold(g, lambda1) / (2 lambda2).

    Attributes
    ----------
    g : gradients (batch, d)
    lambda2, largest : per sample; ``largest`` is the largest eigenvalue of H
    """

    g: np.ndarray
    lambda2: np.ndarray
    largest: np.ndarray

    def solve(self, rows: np.ndarray, lambda1: np.ndarray, start: np.ndarray | None = None) -> Solutions:
        """The maximisers for the samples ``rows`` (q,) with weights lambda1 (q,)."""
        g, weight = self.g[rows], self.lambda2[rows]
        step = optim.soft_threshold(g, lambda1) / (2 * weight[:, None])
        value = np.sum(g * step, axis=1) - lambda1 * np.abs(step).sum(axis=1) - weight * np.sum(step * step, axis=1)
        done, zeros = np.full(len(rows), "converged", dtype="U10"), np.zeros(len(rows))
        return Solutions(lambda1, step, value, zeros, np.zeros(len(rows), np.int64), done)


@dataclass(eq=False)
class SecondOrder(FirstOrder):
    """With the Hessian, by FISTA.

    Attributes
    ----------
    product : (vectors (q, d), rows (q,)) -> H vectors
    smallest : lower bound of the smallest eigenvalue of H, per sample
    options : of ``optim.run``: max_iter counts products, tol is of the relative KKT residual
    """

    product: Product
    smallest: np.ndarray
    options: dict[str, Any]

    def solve(self, rows: np.ndarray, lambda1: np.ndarray, start: np.ndarray | None = None) -> Solutions:
        """The maximisers, from ``start`` (q, d) or 0."""
        g, weight = self.g[rows], self.lambda2[rows]

        def objective(d: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            hd, w = self.product(d, rows[problems]), weight[problems]
            linear, slope = g[problems], 2 * w[:, None] * d
            value = np.sum(d * (slope - hd) / 2 - d * linear, axis=1)
            return value, slope - hd - linear

        length = tuple(1 / (2 * weight - self.smallest[rows]))
        solver = optim.Fista(optim.L1(tuple(lambda1)), length=length, quadratic=True)
        found = optim.run(solver, objective, np.zeros_like(g) if start is None else start, **self.options)
        status = np.array([s.name.lower() for s in found.status], dtype="U10")
        return Solutions(lambda1, found.x, -found.value, found.gap, found.iterations, status)


@dataclass(eq=False)
class Factored:
    """H = B' B, for factors B (batch, r, d)."""

    b: np.ndarray

    def product(self, v: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """H v for vectors v (q, d) and the samples ``rows`` (q,)."""
        samples, where, counts = np.unique(rows, return_inverse=True, return_counts=True)
        place = np.empty(len(rows), np.int64)  # of a vector among those of its sample
        place[np.argsort(where, kind="stable")] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        stacked = np.zeros((len(samples), counts.max(initial=0), v.shape[1]))
        stacked[where, place] = v
        factor = self.b if len(samples) == len(self.b) else self.b[samples]
        return np.matmul(np.matmul(stacked, np.swapaxes(factor, 1, 2)), factor)[where, place]

    def bounds(self, g: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """How far the spectrum reaches above 0 and below, per sample."""
        values = np.linalg.eigvalsh(np.matmul(self.b, np.swapaxes(self.b, 1, 2)))
        return values.max(axis=1, initial=0), np.zeros(len(g))

    def eigenpairs(self, g: np.ndarray, k: int, iterations: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The k largest eigenvalues (batch, k) and unit eigenvectors (batch, k, d); 0 beyond B's rank."""
        values, turn = np.linalg.eigh(np.matmul(self.b, np.swapaxes(self.b, 1, 2)))
        values, turn = values[:, ::-1][:, :k], turn[:, :, ::-1][:, :, :k]
        vectors = np.matmul(np.swapaxes(turn, 1, 2), self.b)
        # rounding of the products leaves this much of eigenvalues that are 0
        values = np.where(values > 1e-14 * self.b.shape[1] * values[:, :1], values, 0)
        vectors = vectors / np.sqrt(np.where(values > 0, values, np.inf))[..., None]
        missing = max(k - values.shape[1], 0)
        return np.pad(values, [(0, 0), (0, missing)]), np.pad(vectors, [(0, 0), (0, missing), (0, 0)])


@dataclass(eq=False)
class Products:
    """H by its products, its eigenvalues by the Lanczos method from g; ``convex``: none of them is negative."""

    product: Product
    convex: bool

    def bounds(self, g: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        top = optim.largest_eigenvalue(self.product, g, iterations=iterations).values
        low = np.zeros(len(g))
        if not self.convex:
            low = optim.largest_eigenvalue(self.product, g, iterations=iterations, smallest=True).values
        return np.nan_to_num(np.maximum(top, 0)), np.nan_to_num(np.minimum(low, 0))

    def eigenpairs(self, g: np.ndarray, k: int, iterations: int | None) -> tuple[np.ndarray, np.ndarray]:
        found = optim.largest_eigenvalues(self.product, g, k, iterations=iterations)
        return found.values, found.vectors


def choose_lambda1(problem: FirstOrder, true_loss: TrueLoss) -> Solutions:
    """One solution per sample, with lambda1 by the rule of the paper (section 4.1).

    Of the lambda1 = 1e-5, 1e-4, ... below max |g|, from where on D = 0, the one whose D is sparse (a share of zeros
    in [0.75, 1)) and has the largest true loss at x + D. Where no D is sparse, lambda1 is bisected (on a logarithmic
    scale) between the last of these values and max |g|. The grid goes on below 1e-5 where max |g| is smaller than
    that. With so few components that no share fits, the sparsest D that is not 0 is taken.

    Parameters
    ----------
    problem : solves for given lambda1
    true_loss : (steps (q, d), rows (q,)) -> loss at x + step
    """
    peak = np.abs(problem.g).max(axis=1, initial=0)
    rows, weights = _grid(peak)
    found = problem.solve(rows, weights)
    sparse = (found.sparsity >= SPARSE) & (found.sparsity < 1)
    loss = np.full(len(rows), -np.inf)
    loss[sparse] = 0
    rivals = sparse & (np.bincount(rows[sparse], minlength=len(peak))[rows] > 1)  # a single one needs no comparison
    if rivals.any():
        loss[rivals] = true_loss(found.step[rivals], rows[rivals])
    # per sample the last in the order of (sample, loss, lambda1): without a sparse D, the largest that leaves D nonzero
    zero = found.sparsity == 1
    order = np.lexsort((np.where(zero, -weights, weights), loss, rows))
    last = order[np.append(np.diff(rows[order]) > 0, True)]
    best = found.take(last)
    high = peak.copy()  # D = 0 within the tolerance already somewhat below the peak
    np.minimum.at(high, rows[zero], weights[zero])
    missed = np.flatnonzero(~sparse[last] & (peak > 0))
    if len(missed):
        best.put(missed, _bisect(problem, missed, best.take(missed), high[missed]))
    return best


def _grid(peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples and lambda1 of all candidates: at least one each."""
    rows, weights = [], []
    for row, largest in enumerate(peak):
        weight = FIRST
        while 0 < largest <= weight:
            weight /= FACTOR
        while not rows or rows[-1] != row or weight < largest:
            rows.append(row)
            weights.append(weight)
            weight *= FACTOR
    return np.array(rows), np.array(weights)


def _bisect(problem: FirstOrder, rows: np.ndarray, found: Solutions, high: np.ndarray) -> Solutions:
    """Move lambda1 between ``found`` and ``high``, where D = 0, until D is sparse; the sparsest D but 0 otherwise."""
    low = np.where(found.sparsity == 1, high / FACTOR, found.lambda1)
    high, best = high.copy(), found.take(np.arange(len(rows)))
    active = np.arange(len(rows))
    for _ in range(BISECTIONS):
        middle = np.sqrt(low[active] * high[active])
        new = problem.solve(rows[active], middle, best.step[active])
        share = new.sparsity
        nonzero = share < 1
        low[active[nonzero]], high[active[~nonzero]] = middle[nonzero], middle[~nonzero]
        # of equally sparse ones the first, which has the smallest lambda1; anything rather than 0
        better = nonzero & ((share > best.sparsity[active]) | (best.sparsity[active] == 1))
        best.put(active[better], new.take(np.flatnonzero(better)))
        # too sparse cannot happen but by an all-zero D: the share grows from below 0.75
        active = active[~(nonzero & (share >= SPARSE)) & (high[active] > low[active] * (1 + 1e-6))]
        if not len(active):
            break
    return best
