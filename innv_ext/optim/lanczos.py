"""Extreme eigenvalues of symmetric operators that are only known by their products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import checked_points, flat, per_problem
from innv_ext.optim.solvers.backtracking import dot

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
PERTURBATION = 0.1  # of the start vector, relative to its length


@dataclass(frozen=True, eq=False)
class Eigen:
    """Approximate eigenpairs of P operators.

    Attributes
    ----------
    values : Rayleigh quotients <v, H v>, float64, (P,) or (P, k)
    vectors : unit vectors v, one per value
    residuals : |H v - value v|: some eigenvalue of H is at most that far from the value
    products : number of calls of the product function
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int


def largest_eigenvalues(
    product: Product, start: np.ndarray, k: int, *, iterations: int | None = None, smallest: bool = False
) -> Eigen:
    """The k algebraically largest eigenvalues of each of P symmetric operators, by the Lanczos method.

    The method projects H on the Krylov space of the start (Rayleigh-Ritz), which contains every polynomial of H applied
    to it: for the same number of products nothing is more accurate from one start, while a block of k vectors gets
    only an m/k-th power out of m products. Full reorthogonalisation keeps copies of converged values away. A multiple
    eigenvalue shows only once in a Krylov space; when the space is exhausted, the method goes on from a fixed random
    vector and finds further copies, so that k of them need more products than k different ones.

    Parameters
    ----------
    product : ``(vectors (q, ...), problems (q,)) -> H vectors (q, ...)``
    start : shape (P, ...), float32 or float64, e.g. gradients; a fixed random vector, 0.1 times as long, is added, so
        that a start orthogonal to the eigenvectors does not stay so. The scale does not matter
    k : number of eigenvalues, at most the number n of components
    iterations : products per problem, at least k; at n the result is exact up to rounding. None: 2 k + 20, at most n
    smallest : find the k algebraically smallest instead

    Returns
    -------
    Eigen : values (P, k), the extreme one first; vectors (P, k, ...), orthonormal; residuals (P, k). Never above the
        true eigenvalues in the same order (of the smallest: never below); nan for products that are not finite

    Raises
    ------
    InvalidInputError : bad start, k or iterations, or products of another shape

    Examples
    --------
    >>> import numpy as np
    >>> H = np.diag([4.0, -5.0, 2.0, 1.0])
    >>> largest_eigenvalues(lambda vectors, _: vectors @ H, np.ones((1, 4)), 2).values.round(6)
    array([[4., 2.]])
    """
    start = _checked_start(start)
    n = math.prod(start.shape[1:])
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= n:
        raise InvalidInputError(f"k must be an integer between 1 and the number of components, {n}; got {k!r}.")
    steps = 2 * k + 20 if iterations is None else arguments.positive_int("iterations", iterations, k)
    basis, images = _krylov(product, start, min(steps, n))
    values, vectors, residuals = _ritz(basis, images, k, smallest)
    return Eigen(values, vectors.reshape(len(start), k, *start.shape[1:]), residuals, min(steps, n))


def largest_eigenvalue(product: Product, start: np.ndarray, *, iterations: int = 10, smallest: bool = False) -> Eigen:
    """``largest_eigenvalues`` for k = 1 without the axis k: values and residuals (P,), vectors (P, ...)."""
    found = largest_eigenvalues(product, start, 1, iterations=iterations, smallest=smallest)
    return Eigen(found.values[:, 0], found.vectors[:, 0], found.residuals[:, 0], found.products)


def _krylov(product: Product, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis (P, steps, n) of the Krylov spaces and its images under H."""
    count, everything = len(start), np.arange(len(start))
    basis = np.zeros((count, steps, math.prod(start.shape[1:])), start.dtype)
    images = np.zeros_like(basis)
    fresh = np.random.default_rng(1).standard_normal((steps, basis.shape[2])).astype(start.dtype)
    v = flat(start)
    for j in range(steps):
        basis[:, j] = v
        image = np.asarray(product(v.reshape(start.shape).copy(), everything.copy()))
        if image.shape != start.shape:
            raise InvalidInputError(f"product must return vectors of shape {start.shape}, got {image.shape}.")
        images[:, j] = flat(image)
        if j + 1 == steps:
            break
        w, length = _orthogonalised(images[:, j], basis[:, : j + 1])
        exhausted = ~(length > 64 * np.finfo(start.dtype).eps * np.sqrt(dot(images[:, j], images[:, j])))
        w[exhausted] = _orthogonalised(np.broadcast_to(fresh[j], w.shape)[exhausted], basis[exhausted, : j + 1])[0]
        v = w
    return basis, images


def _orthogonalised(w: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along what of w is orthogonal to the basis, and how much that is; Gram-Schmidt, three times."""
    length = None
    for _ in range(3):
        w = w - np.matmul(np.matmul(basis, w[:, :, None]).swapaxes(1, 2), basis)[:, 0]
        w, size = _unit(w)
        length = size if length is None else length
    return w, length


def _unit(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1, or 0 as they were, and how long they were."""
    size = np.sqrt(dot(v, v))
    return v / per_problem(np.where(size > 0, size, 1), v), size


def _ritz(basis: np.ndarray, images: np.ndarray, k: int, smallest: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest or smallest Ritz values of each problem, their vectors and residuals."""
    extreme = slice(None, k) if smallest else slice(None, -k - 1, -1)
    count, _, n = basis.shape
    values, residuals = np.full((2, count, k), np.nan)
    vectors = np.zeros((count, k, n), basis.dtype)
    for p in range(count):
        v, hv = basis[p].astype(np.float64), images[p].astype(np.float64)
        if not np.all(np.isfinite(hv)):
            continue
        projected = v @ hv.T
        values_p, turn = np.linalg.eigh((projected + projected.T) / 2)
        values[p], turn = values_p[extreme], turn[:, extreme].T
        vectors[p] = turn @ v
        residuals[p] = np.linalg.norm(turn @ hv - values[p][:, None] * (turn @ v), axis=1)
    return values, vectors, residuals


def _checked_start(start: np.ndarray) -> np.ndarray:
    """Unit vectors along the start, perturbed; random ones where the start is 0."""
    start = checked_points("start", start)
    noise = np.random.default_rng(0).standard_normal(start.shape[1:])
    largest = np.abs(flat(start)).max(axis=1).astype(np.float64)  # squares of small float32 gradients would vanish
    v = start / np.where(largest > 0, largest, 1).reshape((-1,) + (1,) * (start.ndim - 1))
    return _unit(_unit(v)[0] + PERTURBATION * noise / np.linalg.norm(noise))[0].astype(start.dtype)
