"""Exact linear minimisation over rate grids: a transport problem of n unit rows into m + 1 columns.

The dual has one potential per column. An annealed entropic problem finds them roughly; each row then goes to its
cheapest column, and what is missing to the column sums moves along shortest paths between columns, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.sets.oracles import checked_gradient
from innv_ext.optim.transport.entropic import annealed_potentials
from innv_ext.optim.transport.grids import checked_rates, group_sizes, plan_cost


def rate_grid(gradient: np.ndarray, rates: Sequence[int] | np.ndarray) -> np.ndarray:
    """Minimise over the rate grids: nondecreasing columns in [0, 1] with sums k_1 < ... < k_m.

    Parameters
    ----------
    gradient : shape (P, n, m)
    rates : the m column sums, increasing within 1..n-1

    Returns
    -------
    vertices, shape (P, n, m), entries 0 or 1; the same gradient always gives the same vertex

    Raises
    ------
    InvalidInputError : rates out of range or not increasing, gradient not finite

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([[[-3.0, 0.0], [-2.0, -2.0], [0.0, -1.0], [-1.0, 0.0]]])
    >>> rate_grid(g, (1, 3))[0]
    array([[1., 1.],
           [0., 1.],
           [0., 1.],
           [0., 0.]])
    """
    if np.ndim(gradient) != 3 or np.shape(gradient)[2] != len(rates):
        raise InvalidInputError(
            f"gradient must have shape (P, n, {len(rates)}), one column per rate, got {np.shape(gradient)}."
        )
    _, n, m = checked_gradient(gradient).shape
    sizes = group_sizes(checked_rates(rates, n), n)
    columns = assign(gradient, sizes)
    return (columns[:, :, None] <= np.arange(m)).astype(gradient.dtype)


def assign(gradient: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The column of each row, (P, n): sizes[l] rows in column l, minimal cost of the plan."""
    idle = ~gradient.any(axis=2)
    kinds = [identical_rows(g) for g in gradient]
    single = np.array([np.bincount(kind)[kind] == 1 for kind in kinds]).reshape(idle.shape) & ~idle
    potentials = annealed_potentials(plan_cost(gradient), sizes, idle, single)
    columns = np.empty(idle.shape, np.int64)
    for p, (g, b, kind) in enumerate(zip(gradient, potentials, kinds, strict=True)):
        cost = plan_cost(g[None].astype(np.float64))
        start = cheapest(cost, b[None])[0]
        fill(start, idle[p], b, sizes)
        columns[p] = repair(cost[0], b, start, sizes, kind)
    return columns


def fill(columns: np.ndarray, idle: np.ndarray, potentials: np.ndarray, sizes: np.ndarray) -> None:
    """Spread the idle rows, in place, over the room in the columns with the largest potential, which cost the least."""
    rows = np.flatnonzero(idle)
    room = np.maximum(sizes - np.bincount(columns[~idle], minlength=len(sizes)), 0)
    places = np.repeat(np.arange(len(sizes)), np.where(potentials == potentials.max(), room, 0))[: len(rows)]
    columns[rows[: len(places)]] = places


def cheapest(cost: np.ndarray, potentials: np.ndarray) -> np.ndarray:
    """The column of the smallest reduced cost C_l - b_l of each row; the first one of equal ones."""
    shifts = potentials.astype(cost.dtype)
    smallest = cost[:, 0] - shifts[:, :1]
    columns = np.zeros(smallest.shape, np.int64)
    for column in range(1, cost.shape[1]):  # many times faster than argmin over an axis that is not the last
        reduced = cost[:, column] - shifts[:, column, None]
        columns[reduced < smallest] = column
        np.minimum(smallest, reduced, out=smallest)
    return columns


def identical_rows(rows: np.ndarray) -> np.ndarray:
    """The kind 0, 1, ... of each row; rows of one kind are identical."""
    # a random linear function tells rows apart; rows with equal values are then compared
    weights = np.random.default_rng(0).random(rows.shape[1])
    probe = sum(weight * column for weight, column in zip(weights, rows.T, strict=True))
    _, first, kind, counts = np.unique(probe, return_index=True, return_inverse=True, return_counts=True)
    doubled = np.flatnonzero(counts[kind] > 1)
    if np.array_equal(rows[doubled], rows[first[kind[doubled]]]):
        return kind
    return np.arange(len(rows))


# --- repair: successive shortest paths between columns --------------------------------------------------------------


def repair(
    cost: np.ndarray, potentials: np.ndarray, columns: np.ndarray, sizes: np.ndarray, kind: np.ndarray
) -> np.ndarray:
    """Move rows along shortest paths from crowded to empty columns until all sizes are right.

    Moving a row from column a to b costs C_b - C_a. Under the potentials no move is cheaper than 0, and moving along a
    shortest path keeps it so for other potentials, so the end is optimal (Ahuja, Magnanti and Orlin 1993, section 9.7).
    Identical rows, those of one kind, move together; of these, lower indices end in lower columns.

    ``cost`` is (m + 1, n), float64; the ``columns`` (n,) at the start are the cheapest ones under the potentials.
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
