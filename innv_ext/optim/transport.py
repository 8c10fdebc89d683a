"""Exact linear minimisation over rate grids: a transport problem of n unit rows into m + 1 columns.

The dual has one potential per column. An annealed entropic problem finds them roughly; each row then goes to its
cheapest column, and what is missing to the column sums moves along shortest paths between columns, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.grids import checked_rates, group_sizes, plan_cost
from innv_ext.optim.paths import repair
from innv_ext.optim.sinkhorn import dual_potentials

COOLING = 0.25  # factor of the temperature between two levels
LEVELS = 14  # 4^-13 = 1.5e-8: float32's resolution
ROUNDS = 10  # softmax evaluations a level, of which 2 to 4 are usual


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
    kinds = [identical_rows(g) for g in gradient]
    single = np.array([np.bincount(kind)[kind] == 1 for kind in kinds]).reshape(gradient.shape[:2])
    potentials = annealed_potentials(plan_cost(gradient), sizes, single)
    columns = np.empty(gradient.shape[:2], np.int64)
    for p, (g, b, kind) in enumerate(zip(gradient, potentials, kinds, strict=True)):
        cost = plan_cost(g[None].astype(np.float64))
        columns[p] = repair(cost[0], b, cheapest(cost, b[None])[0], sizes, kind)
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


def annealed_potentials(cost: np.ndarray, sizes: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Nearly optimal potentials (P, m + 1): those that leave the fewest rows too many in some column."""
    (count, width, n), capacities = cost.shape, sizes.astype(np.float64)
    enough = max(width // 4, n // 1000)
    scale = np.maximum(cost.std(axis=(1, 2), dtype=np.float64), np.finfo(cost.dtype).tiny)
    cost = cost / scale.astype(cost.dtype)[:, None, None]
    # where heat hides all costs, the potentials are heat * log(capacities)
    now, before = (np.tile(COOLING**level * np.log(capacities), (count, 1)) for level in (-1, -2))
    kept = np.zeros_like(now)
    surplus = _surplus(cheapest(cost, kept), sizes, single)
    for level in range(LEVELS):
        hot = np.flatnonzero(surplus > enough)
        if not len(hot):
            break
        heat, part = COOLING**level, cost[hot]
        # potentials are nearly linear in the heat, so that they can be foretold
        start = now[hot] + COOLING * (now[hot] - before[hot])
        found = heat * dual_potentials(part * cost.dtype.type(-1 / heat), capacities, start / heat, 0.01, ROUNDS)
        before[hot], now[hot] = now[hot], found
        left = _surplus(cheapest(part, found), sizes, single[hot])
        better = left < surplus[hot]
        kept[hot[better]], surplus[hot[better]] = found[better], left[better]
    return kept * scale[:, None]


def _surplus(columns: np.ndarray, sizes: np.ndarray, single: np.ndarray) -> np.ndarray:
    """The number of rows that must leave their column; identical rows move at once and do not count."""
    counts = [np.bincount(c[s], minlength=len(sizes)) for c, s in zip(columns, single, strict=True)]
    return np.maximum(np.array(counts).reshape(len(columns), len(sizes)) - sizes, 0).sum(axis=1)
