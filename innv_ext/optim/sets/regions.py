"""Feasible regions: what a solver needs to know about one, bundled; a k may differ between the problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext.arguments import Number
from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import flat, for_problems, inner, one_or_each
from innv_ext.optim.sets import oracles, projections
from innv_ext.optim.transport.exact import rate_grid
from innv_ext.optim.transport.grids import checked_rates

COUNT = Number(whole=True, least=1)


class Region:
    """Base: a compact convex set per problem.

    Arrays have the shape (q, ...) and belong to the problems with the indices ``problems`` (q,).
    """

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """A vertex v that minimises <gradient, v>."""
        raise NotImplementedError

    def gap(self, x: np.ndarray, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """The Frank-Wolfe dual gap <gradient, x - v> at x, (q,) float64."""
        return inner(gradient, x - self.minimize(gradient, problems))

    def project(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """The nearest point of the region."""
        raise InvalidInputError(f"There is no exact projection on {self!r}; use a Frank-Wolfe or mirror method.")


@dataclass(frozen=True)
class CappedSimplex(Region):
    """{0 <= x <= 1, sum x <= k}, the non-negative k-sparse polytope; k is one integer, or one per problem."""

    k: int | tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", one_or_each("k", self.k, COUNT))

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return oracles.nonnegative_k_sparse(flat(gradient), for_problems("k", self.k, problems)).reshape(gradient.shape)

    def project(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return projections.project_capped_simplex(flat(x), for_problems("k", self.k, problems)).reshape(x.shape)


@dataclass(frozen=True)
class KSparse(Region):
    """{|x_i| <= radius, sum |x_i| <= k radius}, the k-sparse polytope; k is one integer, or one per problem."""

    k: int | tuple[int, ...]
    radius: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", one_or_each("k", self.k, COUNT))

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        k = for_problems("k", self.k, problems)
        return oracles.k_sparse(flat(gradient), k, self.radius).reshape(gradient.shape)

    def project(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return projections.project_k_sparse(flat(x), for_problems("k", self.k, problems), self.radius).reshape(x.shape)


@dataclass(frozen=True)
class Box(Region):
    """{0 <= x <= 1}."""

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return oracles.box(gradient)

    def project(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return projections.project_box(x)


@dataclass(frozen=True)
class Birkhoff(Region):
    """The doubly stochastic matrices; x has the shape (P, n, n)."""

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return oracles.birkhoff(gradient)


@dataclass(frozen=True)
class RateGrid(Region):
    """Matrices S with nondecreasing columns in [0, 1] and column sums k_1 < ... < k_m, the ``rates``.

    The image of the doubly stochastic matrices under Pi -> (Pi p_(k_1), ..., Pi p_(k_m)); x has the shape (P, n, m).
    """

    rates: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(checked_rates(self.rates).tolist()))

    def minimize(self, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return rate_grid(gradient, self.rates)
