"""Sets of vertices, one per problem, in padded arrays; with weights they decompose a point."""

from __future__ import annotations

import numpy as np

from innv_ext.optim.base import flat, inner


class Atoms:
    """Up to T distinct points of the size n for each problem; none at the start.

    Attributes
    ----------
    points : shape (P, T, n); T doubles when a set is full
    used : shape (P, T), the slots that hold a point
    weights : shape (P, T), float64, of methods whose point is the weighted sum; not negative, with sum 1
    """

    def __init__(self, x0: np.ndarray) -> None:
        count, size = flat(x0).shape
        self.points = np.zeros((count, 2, size), x0.dtype)
        self.used = np.zeros((count, 2), bool)
        self.weights, self._keys = np.zeros((2, count, 2))
        # a random linear function tells points apart; equal keys are then compared entry by entry
        self._probe = np.random.default_rng(0).standard_normal((1, size)).astype(x0.dtype)

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
                for name in ("points", "used", "weights", "_keys"):
                    held = getattr(self, name)
                    setattr(self, name, np.concatenate([held, np.zeros_like(held)], axis=1))
            slots[new] = np.argmin(self.used[problems[new]], axis=1)
            where = problems[new], slots[new]
            self.points[where], self._keys[where], self.used[where] = points[new], keys[new], True
        return slots

    def combine(self, problems: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The points (q, n) with these weights (q, T)."""
        rows = self._rows(problems)
        return np.matmul(weights[:, None, :].astype(rows.dtype), rows)[:, 0]

    def assign(self, problems: np.ndarray, weights: np.ndarray) -> None:
        """Set the weights; atoms without weight leave the set."""
        self.weights[problems] = weights
        self.used[problems] = weights > 0

    def _rows(self, problems: np.ndarray) -> np.ndarray:
        # the sets are by far the largest arrays: no copy while all problems are running
        return self.points if len(problems) == len(self.points) else self.points[problems]
