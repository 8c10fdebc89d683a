"""Extreme eigenvalues of symmetric operators that are only known by their products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import flat, per_problem
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


def largest_eigenvalue(
    product: Product, start: np.ndarray, *, iterations: int = 10, tol: float = 1e-6, smallest: bool = False
) -> Eigen:
    """The algebraically largest eigenvalue of each of P symmetric operators H, by power iteration.

    Power iteration finds the eigenvalue of largest modulus. Where that one is negative, or cancels with a positive one
    of similar modulus, the iteration is repeated for H + s I, s = |H v| at the last v, whose eigenvalues are (nearly)
    all positive. The best Rayleigh quotient of all steps is returned.

    The result is never above the true eigenvalue (up to rounding), but it may stop below it: the residual theorem says
    that H has an eigenvalue within ``residuals`` of ``values``, not that it is the largest. If it is, and the others
    are at least g away from the value, the error is at most residual^2 / g.

    Parameters
    ----------
    product : ``(vectors (q, ...), problems (q,)) -> H vectors (q, ...)``; problems that are done are left out
    start : shape (P, ...), float32 or float64, e.g. gradients; a fixed random vector, 0.1 times as long, is added, so
        that a start orthogonal to the eigenvector does not stay so. The scale does not matter
    iterations : products for each problem, and again so many for each problem that needs the shift
    tol : a problem is done when its residual is at most tol times |H v| (with the shift, times s)
    smallest : find the algebraically smallest eigenvalue instead

    Returns
    -------
    Eigen : values (P,), vectors (P, ...), residuals (P,); nan for problems whose products are not finite

    Raises
    ------
    InvalidInputError : bad start, iterations or tol, or products of another shape

    Examples
    --------
    >>> import numpy as np
    >>> H = np.array([np.diag([-5.0, 2.0, 1.0]), np.diag([3.0, 0.0, -1.0])])
    >>> product = lambda vectors, problems: np.einsum("pij,pj->pi", H[problems], vectors)
    >>> largest_eigenvalue(product, np.ones((2, 3)), iterations=50).values.round(6)
    array([2., 3.])
    """
    start = _checked_start(start)
    if isinstance(iterations, bool) or int(iterations) != iterations or iterations < 1:
        raise InvalidInputError(f"iterations must be an integer of at least 1, got {iterations!r}.")
    if not tol >= 0:
        raise InvalidInputError(f"tol must not be negative, got {tol!r}.")
    power = _Power(_Counted(product, -1 if smallest else 1), start, tol)
    power.iterate(np.arange(len(start)), np.zeros(len(start)), iterations)
    undecided = power.last < power.size / 2
    power.iterate(np.flatnonzero(undecided), power.size.copy(), iterations)
    values = np.where(np.isinf(power.values), np.nan, power.values)
    return Eigen(-values if smallest else values, power.vectors, power.residuals, power.product.calls)


class _Counted:
    """The product function with a sign, a check of its results and the number of its calls."""

    def __init__(self, product: Product, sign: int) -> None:
        self.product, self.sign, self.calls = product, sign, 0

    def __call__(self, vectors: np.ndarray, problems: np.ndarray) -> np.ndarray:
        self.calls += 1
        result = np.asarray(self.product(vectors.copy(), problems.copy()), vectors.dtype)
        if result.shape != vectors.shape:
            raise InvalidInputError(f"product must return vectors of shape {vectors.shape}, got {result.shape}.")
        return result if self.sign > 0 else -result


class _Power:
    """Power iterations from one start; keeps the best Rayleigh quotient, its vector and residual."""

    def __init__(self, product: _Counted, start: np.ndarray, tol: float) -> None:
        count = len(start)
        self.product, self.start, self.tol = product, start, tol
        self.values, self.residuals = np.full(count, -np.inf), np.full(count, np.nan)
        self.vectors = start.copy()
        self.last, self.size = np.zeros(count), np.zeros(count)  # <v, H v> and |H v| of the last v

    def iterate(self, problems: np.ndarray, shift: np.ndarray, iterations: int) -> None:
        """v <- (H + shift I) v / |(H + shift I) v| from the start."""
        v = self.start[problems]
        for _ in range(iterations):
            if not len(problems):
                return
            hv = self.product(v, problems)
            value, size = dot(v, hv), np.sqrt(dot(hv, hv))
            residual = np.sqrt(np.maximum(dot(*[hv - per_problem(value, v) * v] * 2), 0))
            self._keep(problems, v, value, residual)
            self.last[problems], self.size[problems] = value, size
            following = hv + per_problem(shift[problems], v) * v
            length = np.sqrt(dot(following, following))
            scale = np.maximum(size, shift[problems])
            going = (residual > self.tol * scale) & (length > np.finfo(v.dtype).tiny)
            problems, following, length = problems[going], following[going], length[going]
            v = following / per_problem(length, following)

    def _keep(self, problems: np.ndarray, v: np.ndarray, value: np.ndarray, residual: np.ndarray) -> None:
        better = value > self.values[problems]
        rows = problems[better]
        self.values[rows], self.residuals[rows], self.vectors[rows] = value[better], residual[better], v[better]


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
    start : shape (P, ...), as for ``largest_eigenvalue``
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
    steps = 2 * k + 20 if iterations is None else iterations
    if isinstance(steps, bool) or int(steps) != steps or steps < k:
        raise InvalidInputError(f"iterations must be an integer of at least k = {k}, got {iterations!r}.")
    counted = _Counted(product, -1 if smallest else 1)
    basis, images = _krylov(counted, start, min(steps, n))
    values, vectors, residuals = _ritz(basis, images, k)
    vectors = vectors.reshape(len(start), k, *start.shape[1:])
    return Eigen(-values if smallest else values, vectors, residuals, counted.calls)


def _krylov(product: _Counted, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis (P, steps, n) of the Krylov spaces and its images under H."""
    count, everything = len(start), np.arange(len(start))
    basis = np.zeros((count, steps, math.prod(start.shape[1:])), start.dtype)
    images = np.zeros_like(basis)
    fresh = np.random.default_rng(1).standard_normal((steps, basis.shape[2])).astype(start.dtype)
    v = flat(start)
    for j in range(steps):
        basis[:, j] = v
        images[:, j] = flat(product(v.reshape(start.shape), everything))
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
        size = np.sqrt(dot(w, w))
        length = size if length is None else length
        w = w / per_problem(np.where(size > 0, size, 1), w)
    return w, length


def _ritz(basis: np.ndarray, images: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest Ritz values of each problem, their vectors and residuals."""
    count, _, n = basis.shape
    values, residuals = np.full((2, count, k), np.nan)
    vectors = np.zeros((count, k, n), basis.dtype)
    for p in range(count):
        v, hv = basis[p].astype(np.float64), images[p].astype(np.float64)
        if not np.all(np.isfinite(hv)):
            continue
        projected = v @ hv.T
        values_p, turn = np.linalg.eigh((projected + projected.T) / 2)
        turn = turn[:, ::-1][:, :k].T
        values[p] = values_p[::-1][:k]
        vectors[p] = turn @ v
        residuals[p] = np.linalg.norm(turn @ hv - values[p][:, None] * (turn @ v), axis=1)
    return values, vectors, residuals


def _checked_start(start: np.ndarray) -> np.ndarray:
    """Unit vectors along the start, perturbed; random ones where the start is 0."""
    start = np.asarray(start)
    if start.dtype not in (np.float32, np.float64) or start.ndim < 2 or not math.prod(start.shape[1:]):
        raise InvalidInputError(
            f"start must be a float32 or float64 array of shape (problems, ...), got {start.dtype} of {start.shape}."
        )
    if not np.all(np.isfinite(start)):
        raise InvalidInputError("start contains values that are not finite.")
    noise = np.random.default_rng(0).standard_normal(start.shape[1:])
    largest = np.abs(flat(start)).max(axis=1).astype(np.float64)  # squares of small float32 gradients would vanish
    v = start / np.where(largest > 0, largest, 1).reshape((-1,) + (1,) * (start.ndim - 1))
    length = np.sqrt(dot(v, v))
    v /= per_problem(np.where(length > 0, length, 1), v)
    v += PERTURBATION * noise / np.linalg.norm(noise)
    return (v / per_problem(np.sqrt(dot(v, v)), v)).astype(start.dtype)
