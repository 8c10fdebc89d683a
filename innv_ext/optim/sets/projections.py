"""Exact Euclidean projections, one problem per leading index."""

from __future__ import annotations

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.optim.sets.oracles import checked_k, kth_smallest


def project_box(y: np.ndarray) -> np.ndarray:
    """The nearest point of {0 <= x <= 1}.

    Examples
    --------
    >>> import numpy as np
    >>> project_box(np.array([[-1.0, 0.5, 2.0]]))
    array([[0. , 0.5, 1. ]])
    """
    return np.clip(y, 0, 1)


def project_capped_simplex(y: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """The nearest point of {0 <= x <= 1, sum x <= k}: clip(y - tau, 0, 1) with the smallest tau >= 0 that is feasible.

    tau is the root of a piecewise linear function, found by Newton's method inside a bracket of length 1 and exact
    on the last piece (cf. Gupta et al. 2010, who sort the breakpoints).

    Parameters
    ----------
    y : shape (P, n)
    k : one integer in 1..n, or one per problem

    Returns
    -------
    projections, shape and dtype of y; computed in float64

    Raises
    ------
    InvalidInputError : k out of range, y not finite

    Examples
    --------
    >>> import numpy as np
    >>> project_capped_simplex(np.array([[0.9, 0.8, -1.0], [0.2, 0.3, 0.1]]), 1).round(3)
    array([[0.55, 0.45, 0.  ],
           [0.2 , 0.3 , 0.1 ]])
    """
    k = checked_k(_checked_point(y), k)
    x = np.clip(y, 0, 1)
    rows = np.flatnonzero(x.sum(axis=1, dtype=np.float64) > k)
    if len(rows):
        x[rows] = _on_the_face(y[rows].astype(np.float64), k[rows])
    return x


def project_k_sparse(y: np.ndarray, k: int | np.ndarray, radius: float = 1.0) -> np.ndarray:
    """The nearest point of {\\|x_i\\| <= radius, sum \\|x_i\\| <= k radius}; else as ``project_capped_simplex``.

    Examples
    --------
    >>> import numpy as np
    >>> project_k_sparse(np.array([[-3.0, 1.5, 1.0]]), 2, radius=2.0)
    array([[-2.  ,  1.25,  0.75]])
    """
    arguments.number("radius", radius, positive=True)
    return (np.sign(y) * radius * project_capped_simplex(np.abs(y) / radius, k)).astype(y.dtype)


def entropic_capped_simplex(weights: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """The point of {0 <= x <= 1, sum x = k} nearest to the weights in relative entropy: min(c * weights, 1).

    Parameters
    ----------
    weights : shape (P, n), positive
    k : one integer in 1..n, or one per problem

    Returns
    -------
    points, shape and dtype of the weights; for the same weights they increase with k in every component

    Raises
    ------
    InvalidInputError : k out of range, weights not positive and finite

    Examples
    --------
    >>> import numpy as np
    >>> entropic_capped_simplex(np.array([[4.0, 2.0, 1.0, 1.0]]), 2).round(3)
    array([[1.  , 0.5 , 0.25, 0.25]])
    """
    k = checked_k(_checked_point(weights), k)
    if not np.all(weights > 0):
        raise InvalidInputError("weights must be positive, so that any sum can be reached.")
    # with the j largest entries at 1, c is (k - j) / (sum of the others); the right j is the first without an overflow
    rank = -np.sort(-weights.astype(np.float64), axis=1)
    rest = np.cumsum(rank[:, ::-1], axis=1)[:, ::-1]
    scales = (k[:, None] - np.arange(weights.shape[1])) / rest
    capped = np.argmax((scales * rank <= 1) | (scales <= 0), axis=1)
    c = scales[np.arange(len(weights)), capped]
    full = c <= 0  # all of the k largest are at 1: the others get nothing, which happens for k = n only
    c[full] = np.inf
    with np.errstate(over="ignore"):
        return np.minimum(c[:, None] * weights, 1).astype(weights.dtype)


def _on_the_face(y: np.ndarray, k: np.ndarray) -> np.ndarray:
    """clip(y - tau, 0, 1) with sum k, for rows where clip(y, 0, 1) has a larger one; overwrites y."""
    # With t the k-th largest entry, tau is in [t - 1, t]. Differences from t are exact there, however large y is.
    y -= -kth_smallest(-y, k)[:, None]
    low, high = np.full(len(y), -1.0), np.zeros(len(y))
    tau, best, error = np.full(len(y), -0.5), np.zeros(len(y)), np.full(len(y), np.inf)
    rows = np.arange(len(y))
    for _ in range(100):  # the bracket halves at worst: 60 rounds reach the resolution of float64
        z = y[rows] - tau[rows, None]
        free = np.count_nonzero((z > 0) & (z < 1), axis=1)
        excess = np.clip(z, 0, 1, out=z).sum(axis=1) - k[rows]
        closer = np.abs(excess) < error[rows]
        best[rows[closer]], error[rows[closer]] = tau[rows[closer]], np.abs(excess[closer])
        low[rows] = np.where(excess > 0, tau[rows], low[rows])
        high[rows] = np.where(excess > 0, high[rows], tau[rows])
        newton = tau[rows] + excess / np.maximum(free, 1)
        inside = (free > 0) & (newton > low[rows]) & (newton < high[rows])
        following = np.where(inside, newton, (low[rows] + high[rows]) / 2)
        unfinished = (excess != 0) & (following != tau[rows]) & (high[rows] > low[rows])
        # on the last piece Newton's step is exact: what is left is rounding
        unfinished &= np.abs(excess) > 4e-16 * k[rows]
        tau[rows] = following
        rows = rows[unfinished]
        if not len(rows):
            break
    return np.clip(y - best[:, None], 0, 1)


def _checked_point(y: np.ndarray) -> np.ndarray:
    if np.ndim(y) != 2 or not np.all(np.isfinite(y)):
        raise InvalidInputError(f"y must be finite and have shape (P, n), got shape {np.shape(y)}.")
    return y
