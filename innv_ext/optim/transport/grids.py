"""Rate grids: the images S_j = Pi p_(k_j) of a doubly stochastic matrix Pi at the rates k_1 < ... < k_m.

S (n x m) has nondecreasing columns in [0, 1] with column sums k_j. Its differences X_l = S_l - S_(l-1), S_0 = 0,
S_(m+1) = 1, are a transport plan: n rows with sum 1, m + 1 columns with sums k_l - k_(l-1), k_0 = 0, k_(m+1) = n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from innv_ext.arguments import as_array
from innv_ext.errors import InvalidInputError


def checked_rates(rates: Sequence[int] | np.ndarray, n: int | None = None) -> np.ndarray:
    """The rates as int64, if they increase strictly from at least 1 to at most n - 1."""
    given = as_array("rates", rates)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise InvalidInputError(f"rates must be a sequence of integers, got {rates!r}.")
    if given[0] < 1 or np.any(np.diff(given) <= 0) or (n is not None and given[-1] > n - 1):
        bounds = "from at least 1" if n is None else f"within 1 and {n - 1} (n - 1)"
        raise InvalidInputError(f"rates must increase strictly {bounds}, got {given.tolist()}.")
    return given.astype(np.int64)


def group_sizes(rates: np.ndarray, n: int) -> np.ndarray:
    """The column sums k_l - k_(l-1) of the transport plan."""
    return np.diff(rates, prepend=0, append=n)


def plan_of(grid: np.ndarray) -> np.ndarray:
    """X from S, (P, n, m) -> (P, m + 1, n): the columns first, so that work over the rows is contiguous."""
    columns = np.swapaxes(grid, 1, 2)
    return np.diff(columns, axis=1, prepend=grid.dtype.type(0), append=grid.dtype.type(1))


def grid_of(plan: np.ndarray) -> np.ndarray:
    """S from X, (P, m + 1, n) -> (P, n, m); entries are kept in [0, 1]."""
    return np.swapaxes(np.minimum(np.cumsum(plan[:, :-1], axis=1), 1), 1, 2)


def plan_cost(gradient: np.ndarray) -> np.ndarray:
    """The gradient with respect to X: C_l = sum over j >= l of g_j, C_(m+1) = 0; (P, n, m) -> (P, m + 1, n)."""
    columns = np.swapaxes(gradient, 1, 2)
    return np.cumsum(np.concatenate([np.zeros_like(columns[:, :1]), columns[:, ::-1]], axis=1), axis=1)[:, ::-1]


def single_rate(grid: np.ndarray, rates: Sequence[int] | np.ndarray, k: float) -> np.ndarray:
    """The map at rate k: linear in k between the rates of the grid, 0 at k = 0 and 1 at k = n.

    Parameters
    ----------
    grid : S, shape (..., n, m)
    rates : the m rates, increasing within 1..n-1
    k : in [0, n], not necessarily an integer

    Returns
    -------
    map, shape (..., n), with sum k

    Raises
    ------
    InvalidInputError : rates do not fit the grid, k out of range

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> single_rate(S, (1, 3), 2)
    array([1. , 0.5, 0.5, 0. ])
    """
    knots = _knots(grid, rates)
    if not 0 <= k <= knots[-1]:
        raise InvalidInputError(f"k must be between 0 and {knots[-1]}, the number of components, got {k!r}.")
    right = max(1, int(np.searchsorted(knots, k)))
    share = grid.dtype.type((k - knots[right - 1]) / (knots[right] - knots[right - 1]))
    left_map, right_map = _column(grid, right - 1), _column(grid, right)
    return left_map + share * (right_map - left_map)


def mean_over_rates(grid: np.ndarray, rates: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """The mean of ``single_rate`` over k = 1..n-1, in closed form.

    Between two rates a < b the maps at k = a + 1 .. b add up to (h - 1)/2 S_a + (h + 1)/2 S_b with h = b - a; the
    map at k = n is all ones and is left out.

    Parameters
    ----------
    grid, rates : as of ``single_rate``
    n : number of components

    Returns
    -------
    map, shape (..., n)

    Examples
    --------
    >>> import numpy as np
    >>> S = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> mean_over_rates(S, (1, 3), 4).round(3)
    array([1. , 0.5, 0.5, 0. ])
    """
    knots = _knots(grid, rates)
    if n != knots[-1]:
        raise InvalidInputError(f"n must be {knots[-1]}, the number of rows of the grid, got {n!r}.")
    gaps = np.diff(knots)
    weights = (gaps[:-1] + gaps[1:]) / 2
    total = np.matmul(grid, weights.astype(grid.dtype)) + grid.dtype.type((gaps[-1] - 1) / 2)
    return total / grid.dtype.type(n - 1)


def to_permutation(grid: np.ndarray, rates: Sequence[int] | np.ndarray) -> np.ndarray:
    """A doubly stochastic matrix Pi with Pi p_(k_j) = S_j: each X_l is spread evenly over the columns of its group.

    Parameters
    ----------
    grid, rates : as of ``single_rate``

    Returns
    -------
    Pi, shape (..., n, n); memory of n^2 numbers each

    Examples
    --------
    >>> import numpy as np
    >>> to_permutation(np.array([[1.0], [0.5], [0.5]]), [2])
    array([[0.5 , 0.5 , 0.  ],
           [0.25, 0.25, 0.5 ],
           [0.25, 0.25, 0.5 ]])
    """
    sizes = np.diff(_knots(grid, rates))
    plan = np.diff(grid, axis=-1, prepend=grid.dtype.type(0), append=grid.dtype.type(1))
    return np.repeat(plan / sizes.astype(grid.dtype), sizes, axis=-1)


def _knots(grid: np.ndarray, rates: Sequence[int] | np.ndarray) -> np.ndarray:
    n, m = grid.shape[-2:]
    checked = checked_rates(rates, n)
    if len(checked) != m:
        raise InvalidInputError(f"rates must have one entry per column of the grid ({m}), got {len(checked)}.")
    return np.concatenate([[0], checked, [n]])


def _column(grid: np.ndarray, knot: int) -> np.ndarray:
    """S at the given knot: 0 before the first rate, 1 behind the last."""
    if knot == 0:
        return np.zeros_like(grid[..., 0])
    return grid[..., knot - 1] if knot <= grid.shape[-1] else np.ones_like(grid[..., 0])
