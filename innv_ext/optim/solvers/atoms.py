"""Sets of vertices, one per problem, in padded arrays; with weights they decompose a point."""

from __future__ import annotations

import numpy as np

from innv_ext.optim.base import flat, inner


class Atoms:
    """Up to T distinct points per problem.

    Attributes
    ----------
    points : shape (P, T, n); T doubles when a set is full
    used : shape (P, T), the slots that hold a point
    """

    def __init__(self, count: int, size: int, dtype: np.dtype) -> None:
        self.points = np.zeros((count, 2, size), dtype)
        self.used = np.zeros((count, 2), bool)
        self._keys = np.zeros((count, 2))
        # a random linear function tells points apart; equal keys are then compared entry by entry
        self._probe = np.random.default_rng(0).standard_normal((1, size)).astype(dtype)

    def scores(self, problems: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """<g, point> of every slot, shape (q, T), in float64."""
        g = flat(gradient)[..., None]
        return np.matmul(self._rows(problems), g)[..., 0].astype(np.float64)

    def insert(self, problems: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The slot of each point (q, n); it is stored if it is not there yet."""
        keys = inner(points, self._probe)
        alike = self.used[problems] & (self._keys[problems] == keys[:, None])
        slots = np.argmax(alike, axis=1)
        new = ~alike.any(axis=1)
        new |= (self.points[problems, slots] != points).any(axis=1)
        if new.any():
            if self.used[problems[new]].all(axis=1).any():
                self._grow()
            slots[new] = np.argmin(self.used[problems[new]], axis=1)
            where = problems[new], slots[new]
            self.points[where], self._keys[where], self.used[where] = points[new], keys[new], True
        return slots

    def _rows(self, problems: np.ndarray) -> np.ndarray:
        # the sets are by far the largest arrays: no copy while all problems are running
        return self.points if len(problems) == len(self.points) else self.points[problems]

    def _grow(self) -> None:
        self.points, self.used, self._keys = (
            np.concatenate([a, np.zeros_like(a)], axis=1) for a in (self.points, self.used, self._keys)
        )


class ActiveSet(Atoms):
    """Atoms whose weighted sum is the point; ``weights`` (P, T) are float64, not negative and sum to 1."""

    def __init__(self, count: int, size: int, dtype: np.dtype) -> None:
        super().__init__(count, size, dtype)
        self.weights = np.zeros((count, 2))

    def combine(self, problems: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The points (q, n) with these weights (q, T)."""
        rows = self._rows(problems)
        return np.matmul(weights[:, None, :].astype(rows.dtype), rows)[:, 0]

    def assign(self, problems: np.ndarray, weights: np.ndarray) -> None:
        """Set the weights; atoms without weight leave the set."""
        self.weights[problems] = weights
        self.used[problems] = weights > 0

    def _grow(self) -> None:
        super()._grow()
        self.weights = np.concatenate([self.weights, np.zeros_like(self.weights)], axis=1)
