"""Convex quadratics over a region whose minimiser is known by construction, and counters around objectives."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class Quadratic:
    """f_p(x) = (x - x*_p)' Q_p (x - x*_p) / 2 + <slope_p, x>; x* is the minimiser if it minimises <slope, x>."""

    q: np.ndarray  # (P, n, n), positive definite
    best: np.ndarray  # (P, n)
    slope: np.ndarray  # (P, n)
    calls: list = field(default_factory=list)

    def __call__(self, points, problems):
        self.calls.append(problems)
        d = points.reshape(len(points), -1) - self.best[problems]
        bent = np.einsum("pij,pj->pi", self.q[problems], d)
        values = np.sum(d * bent, axis=1) / 2 + np.sum(self.slope[problems] * (d + self.best[problems]), axis=1)
        return values, (bent + self.slope[problems]).reshape(points.shape).astype(points.dtype)

    def value(self, points):
        return self(points, np.arange(len(points)))[0]

    @property
    def optimum(self):
        return np.sum(self.slope * self.best, axis=1)


def curvature(rng, count, n, condition=10.0):
    """Random symmetric matrices with eigenvalues between 1 and ``condition``."""
    basis = np.linalg.qr(rng.normal(size=(count, n, n)))[0]
    return np.einsum("pij,pj,pkj->pik", basis, rng.uniform(1, condition, (count, n)), basis)


def on_capped_simplex(seed, kind, count=3, n=8, condition=10.0):
    """(objective, k): minimisers over {0 <= x <= 1, sum x <= k} inside, on a face or at a vertex."""
    rng = np.random.default_rng(seed)
    k = rng.integers(2, n - 2, count)
    best, slope = np.zeros((2, count, n))
    for p in range(count):
        if kind == "interior":
            best[p] = rng.uniform(0.2, 0.8, n)
            best[p] *= 0.8 * k[p] / best[p].sum() if best[p].sum() > 0.9 * k[p] else 1
            continue
        order, tau = rng.permutation(n), -rng.uniform(0.5, 1)
        ones = k[p] if kind == "vertex" else k[p] - 1
        free = 0 if kind == "vertex" else min(3, n - ones)
        best[p, order[:ones]] = 1
        best[p, order[ones : ones + free]] = 1 / max(free, 1)
        slope[p] = tau
        slope[p, order[:ones]] -= rng.uniform(0.5, 1, ones)
        slope[p, order[ones + free :]] += rng.uniform(0.5, 1, n - ones - free)
    return Quadratic(curvature(rng, count, n, condition), best, slope), k


def start(count, n, k):
    """The uniform point."""
    return np.tile(np.asarray(k, float).reshape(-1, 1) / n, (1, n)) + np.zeros((count, 1))
