"""Linear minimisation oracles: argmin of <g, v> over the vertices v of a polytope, one problem per leading index."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from innv_ext import arguments
from innv_ext.errors import InvalidInputError


def k_sparse(gradient: np.ndarray, k: int | np.ndarray, radius: float = 1.0) -> np.ndarray:
    """Minimise over the k-sparse polytope, the hull of the vectors with k entries of +-radius.

    Parameters
    ----------
    gradient : shape (P, n)
    k : one integer in 1..n, or one per problem
    radius : absolute value of the entries

    Returns
    -------
    vertices, shape (P, n) : -radius * sign(g) where \\|g\\| is among the k largest; ties go to the lower index

    Raises
    ------
    InvalidInputError : k or radius out of range, gradient not finite

    Examples
    --------
    >>> import numpy as np
    >>> k_sparse(np.array([[3.0, -4.0, 1.0]]), 2)
    array([[-1.,  1., -0.]])
    """
    k = checked_k(checked_gradient(gradient, 2), k)
    arguments.number("radius", radius, positive=True)
    signed = np.where(gradient >= 0, -radius, radius).astype(gradient.dtype)
    return signed * k_smallest(-np.abs(gradient), k)


def nonnegative_k_sparse(gradient: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Minimise over {0 <= v <= 1, sum v <= k}: ones at the k smallest entries, as far as they are negative.

    Gradient and k, ties and errors are as of ``k_sparse``; the entries of the vertices (P, n) are 0 or 1.

    Examples
    --------
    >>> import numpy as np
    >>> nonnegative_k_sparse(np.array([[3.0, -4.0, -1.0, -2.0], [1.0, 2.0, -3.0, 1.0]]), 2)
    array([[0., 1., 0., 1.],
           [0., 0., 1., 0.]])
    """
    k = checked_k(checked_gradient(gradient, 2), k)
    return (k_smallest(gradient, k) & (gradient < 0)).astype(gradient.dtype)


def box(gradient: np.ndarray) -> np.ndarray:
    """Minimise over {0 <= v <= 1}: ones at the negative entries.

    Examples
    --------
    >>> import numpy as np
    >>> box(np.array([[3.0, -4.0, 0.0]]))
    array([[0., 1., 0.]])
    """
    return (checked_gradient(gradient) < 0).astype(gradient.dtype)


def birkhoff(gradient: np.ndarray) -> np.ndarray:
    """Minimise over the doubly stochastic matrices, by the Hungarian method.

    The gradient has the shape (P, n, n), as the permutation matrices that are returned; it must be finite and square,
    else InvalidInputError is raised.

    Examples
    --------
    >>> import numpy as np
    >>> birkhoff(np.array([[[1.0, 0.0], [0.0, 2.0]]]))
    array([[[0., 1.],
            [1., 0.]]])
    """
    shape = checked_gradient(gradient, 3).shape
    if shape[1] != shape[2]:
        raise InvalidInputError(f"gradient must hold square matrices, shape (P, n, n), got {shape}.")
    vertices = np.zeros_like(gradient)
    for vertex, g in zip(vertices, gradient, strict=True):
        vertex[linear_sum_assignment(g)] = 1
    return vertices


def k_smallest(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mask of the k smallest entries of each row, exactly k[p] in row p; ties go to the lower index."""
    bound = kth_smallest(values, k)[:, None]
    chosen, tied = values < bound, values == bound
    missing = k - np.count_nonzero(chosen, axis=1)
    crowded = np.count_nonzero(tied, axis=1) > missing
    tied[crowded] &= np.cumsum(tied[crowded], axis=1) <= missing[crowded, None]
    return chosen | tied


def kth_smallest(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The k[p]-th smallest entry of each row p, in linear time."""
    parted = np.partition(values, np.unique(k - 1), axis=1)
    return parted[np.arange(len(values)), k - 1]


def checked_gradient(gradient: np.ndarray, ndim: int | None = None) -> np.ndarray:
    """The gradient, if it is finite and has ``ndim`` axes."""
    if ndim is not None and np.ndim(gradient) != ndim:
        raise InvalidInputError(f"gradient must have {ndim} axes, the problems first, got shape {np.shape(gradient)}.")
    if not np.all(np.isfinite(gradient)):
        raise InvalidInputError("gradient contains values that are not finite; a linear function needs finite ones.")
    return gradient


def checked_k(array: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """k as one int64 per row of the array (P, n)."""
    given, (count, n) = np.asarray(k), array.shape
    if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
        raise InvalidInputError(f"k must be an integer or one integer per problem ({count}), got {k!r}.")
    if np.any((given < 1) | (given > n)):
        raise InvalidInputError(f"k must be between 1 and {n}, the number of components, got {k!r}.")
    return np.broadcast_to(given.astype(np.int64), (count,))
