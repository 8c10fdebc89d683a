"""Exact repair of an assignment by successive shortest paths between a few columns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def repair(
    cost: np.ndarray, potentials: np.ndarray, columns: np.ndarray, sizes: np.ndarray, kind: np.ndarray
) -> np.ndarray:
    """Move rows along shortest paths from crowded to empty columns until all sizes are right.

    Moving a row from column a to b costs C_b - C_a. Under the potentials no move is cheaper than 0, and moving along a
    shortest path keeps it so for other potentials, so the end is optimal (Ahuja, Magnanti and Orlin 1993, section 9.7).
    Identical rows move together; of these, lower indices end in lower columns.

    Parameters
    ----------
    cost : shape (m + 1, n), float64
    potentials : b, shape (m + 1,)
    columns : argmin of C_l - b_l for each row
    sizes : number of rows that each column must get, with sum n
    kind : rows of the same kind 0, 1, ... are identical

    Returns
    -------
    columns, shape (n,), that fit the sizes at minimal cost
    """
    width = len(sizes)
    excess = np.bincount(columns, minlength=width) - sizes
    if not excess.any():
        return columns
    first = np.unique(kind, return_index=True)[1]
    stock = np.bincount(columns * len(first) + kind, minlength=width * len(first)).reshape(width, len(first))
    moves = Moves(cost[:, first], stock)
    b = potentials.copy()
    while excess.any():
        path, lengths = shortest_path(np.maximum(moves.costs + b[:, None] - b, 0), excess)
        b += lengths
        amount = moves.along(path, min(excess[path[0]], -excess[path[-1]]).item())
        excess[path[0]] -= amount
        excess[path[-1]] += amount
    repaired = np.empty_like(columns)
    repaired[np.argsort(kind, kind="stable")] = np.repeat(np.tile(np.arange(width), len(first)), stock.T.ravel())
    return repaired


def shortest_path(costs: np.ndarray, excess: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Columns on a shortest path from a crowded one to one that lacks rows (Bellman and Ford; costs >= 0).

    Also returns the length to every column, but no more than to the end of the path: by this the potentials rise.
    """
    everywhere = np.arange(len(excess))
    distance = np.where(excess > 0, 0.0, np.inf)
    before = np.full(len(excess), -1)
    while True:
        through = distance[:, None] + costs
        best = through.argmin(axis=0)
        length = through[best, everywhere]
        shorter = length < distance
        if not shorter.any():
            break
        distance[shorter], before[shorter] = length[shorter], best[shorter]
    path = [int(np.where(excess < 0, distance, np.inf).argmin())]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return path[::-1], np.minimum(distance, distance[path[0]])


class Moves:
    """The cheapest moves between all pairs of columns, kept up to date while rows move.

    ``stock`` (m + 1, kinds) counts the rows of each kind in each column; ``costs`` (m + 1, m + 1) are the costs of the
    cheapest move from column a to column b.
    """

    def __init__(self, cost: np.ndarray, stock: np.ndarray) -> None:
        self.cost, self.stock = cost, stock
        self.costs = np.full((len(cost), len(cost)), np.inf)
        self.kinds = [np.empty(0, np.int64)] * len(cost)  # of each column
        for a in range(len(cost)):
            self._update(a)

    def along(self, path: list[int], most: int) -> int:
        """Move as many rows as are equally cheap on every step of the path, at most ``most``; returns the number."""
        steps = [(a, b, self._cheapest_kinds(a, b)) for a, b in pairwise(path)]
        amount = min(most, *(self.stock[a, kinds].sum().item() for a, _, kinds in steps))
        for a, b, kinds in steps:
            left = amount - np.cumsum(self.stock[a, kinds]) + self.stock[a, kinds]
            moved = np.clip(left, 0, self.stock[a, kinds])
            self.stock[a, kinds] -= moved
            self.stock[b, kinds] += moved
        for column in path:
            self._update(column)
        return amount

    def _cheapest_kinds(self, a: int, b: int) -> np.ndarray:
        kinds = self.kinds[a]
        return kinds[self.cost[b, kinds] - self.cost[a, kinds] == self.costs[a, b]]

    def _update(self, a: int) -> None:
        self.kinds[a] = kinds = np.flatnonzero(self.stock[a])
        moves = self.cost[:, kinds]
        moves -= moves[a].copy()
        self.costs[a] = moves.min(axis=1, initial=np.inf)
        self.costs[a, a] = np.inf
