"""Exact repair of an assignment by successive shortest paths between a few columns."""

from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np

LISTED = 256  # moves that are kept sorted for each pair of columns


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
    stock = np.zeros((len(first), width), np.int64)
    np.add.at(stock, (kind, columns), 1)
    moves = Moves(cost[:, first], stock, min(LISTED, 1 + np.maximum(excess, 0).sum().item()))
    b = potentials.copy()
    while excess.any():
        path, lengths = shortest_path(np.maximum(moves.costs + b[:, None] - b, 0), excess)
        b += lengths
        amount = moves.along(path, min(excess[path[0]], -excess[path[-1]]).item())
        excess[path[0]] -= amount
        excess[path[-1]] += amount
    repaired = np.empty_like(columns)
    repaired[np.argsort(kind, kind="stable")] = np.repeat(np.tile(np.arange(width), len(first)), stock.ravel())
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

    ``stock`` (kinds, m + 1) counts the rows of each kind in each column. For each pair (a, b) a heap holds the
    cheapest (cost, kind); kinds that have left a are dropped when they come up, and a is looked through again when a
    heap has come to the largest cost listed. ``costs`` (m + 1, m + 1) are the heads of the heaps.
    """

    def __init__(self, cost: np.ndarray, stock: np.ndarray, listed: int) -> None:
        self.cost, self.stock, self.listed = cost, stock, listed
        self.width = len(cost)
        self.costs = np.full((self.width, self.width), np.inf)
        self.heaps: list[list[list[tuple[float, int]]]] = [[[] for _ in cost] for _ in cost]
        self.bounds = [[np.inf] * self.width for _ in cost]
        for a in range(self.width):
            self._list(a)
            self._update(a)

    def along(self, path: list[int], most: int) -> int:
        """Move as many rows as are equally cheap on every step of the path, at most ``most``; returns the number."""
        steps = list(pairwise(path))
        found = [self._cheapest_kinds(a, b, most) for a, b in steps]
        amount = min(
            most,
            *(sum(self.stock[kind, a].item() for kind in kinds) for (a, _), kinds in zip(steps, found, strict=True)),
        )
        for (a, b), kinds in zip(steps, found, strict=True):
            left = amount
            for kind in kinds:
                moved = min(left, self.stock[kind, a].item())
                self._move(kind, a, b, moved)
                left -= moved
                if self.stock[kind, a]:  # it was taken from the heap to be counted
                    heapq.heappush(self.heaps[a][b], (self.costs[a, b].item(), kind))
        for column in path:
            self._update(column)
        return amount

    def _cheapest_kinds(self, a: int, b: int, most: int) -> list[int]:
        """Kinds at the cost of the head with ``most`` rows, if there are so many, taken from the heap."""
        heap, value, kinds, count = self.heaps[a][b], self.costs[a, b], [], 0
        while heap and heap[0][0] == value and count < most:
            kind = heapq.heappop(heap)[1]
            available = self.stock[kind, a].item()
            if available and kind not in kinds[-1:]:  # equal entries come up one after the other
                kinds.append(kind)
                count += available
        return kinds

    def _move(self, kind: int, a: int, b: int, amount: int) -> None:
        if amount:
            if not self.stock[kind, b]:
                costs = self.cost[:, kind]
                for c, move in enumerate((costs - costs[b]).tolist()):
                    heapq.heappush(self.heaps[b][c], (move, kind))
            self.stock[kind, a] -= amount
            self.stock[kind, b] += amount

    def _update(self, a: int) -> None:
        """The heads of the heaps of column a."""
        stock, costs, bounds = self.stock, self.costs[a], self.bounds[a]
        for b, heap in enumerate(self.heaps[a]):
            if a == b:
                continue
            while heap and not stock[heap[0][1], a]:
                heapq.heappop(heap)
            head = heap[0][0] if heap else np.inf
            if head > bounds[b]:
                self._list(a)
                self._update(a)
                return
            costs[b] = head

    def _list(self, a: int) -> None:
        """Fill the heaps of column a with its cheapest moves."""
        kinds = np.flatnonzero(self.stock[:, a])
        block = self.cost[:, kinds]
        block = block - block[a]
        kinds = np.broadcast_to(kinds, block.shape)
        self.bounds[a] = [np.inf] * self.width
        if block.shape[1] > self.listed:
            order = np.argpartition(block, self.listed - 1, axis=1)[:, : self.listed]
            block, kinds = np.take_along_axis(block, order, axis=1), np.take_along_axis(kinds, order, axis=1)
            self.bounds[a] = block.max(axis=1).tolist()
        for b, (costs, names) in enumerate(zip(block.tolist(), kinds.tolist(), strict=True)):
            self.heaps[a][b] = sorted(zip(costs, names, strict=True))
