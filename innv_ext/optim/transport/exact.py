"""Exact linear minimisation over rate grids: a transport problem of n unit rows into m + 1 columns.

The dual has one potential per column. An annealed entropic problem finds them roughly; each row then goes to its
cheapest column, and what is missing to the column sums moves along shortest paths between columns, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.transport.annealing import annealed_potentials, cheapest
from innv_ext.optim.transport.grids import checked_rates, group_sizes, plan_cost
from innv_ext.optim.transport.paths import repair


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
    if not np.all(np.isfinite(gradient)):
        raise InvalidInputError("gradient contains values that are not finite; a linear function needs finite ones.")
    _, n, m = gradient.shape
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
