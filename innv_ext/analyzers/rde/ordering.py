"""Ord-RDE: an ordering of all components by relevance, at any size.

Source: Macdonald, Besancon and Pokutta 2022, section 2.2. Their n x n doubly stochastic matrix Pi enters the objective
only through the maps Pi p_k, p_k = k ones then zeros. Here a few rates k_1 < ... < k_m stand for all of them, and the
iterate is S (n x m) with columns S_j = Pi p_(k_j): entries in [0, 1], nondecreasing columns, column sums k_j. This set
is exactly the image of the doubly stochastic matrices, so that nothing of size n x n is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments, optim
from innv_ext.analyzers.rde.distortion import Distortion
from innv_ext.analyzers.rde.rate_distortion import RateDistortion
from innv_ext.analyzers.rde.rates import FRANK_WOLFE, STEPS, increasing, make_solver, result_extras
from innv_ext.errors import InvalidInputError

Arrays = tuple[np.ndarray, np.ndarray]
DENSE_LIMIT = 2048  # features up to which n x n matrices are built
TOGETHER, ENTRIES = 16, 2**20  # samples that are solved at once, and numbers in their grids


@dataclass(kw_only=True, eq=False, repr=False)
class OrderingRDE(RateDistortion):
    """Ord-RDE: min over doubly stochastic Pi of the mean of D(Pi p_k) over k = 1..n-1; the map is the mean of Pi p_k.

    Parameters
    ----------
    rates : the number m of evenly spaced rates, or the rates themselves (increasing integers in 1..n-1, or shares)
    start : "uniform" (default): Pi = 1/n everywhere, so that components without any influence stay in the middle of the
        ordering; "deviation" as for the other methods
    solver : "mirror" (default): entropic mirror descent; "fw", "afw", "lcg", "lafw": Frank-Wolfe with the exact
        transport oracle; all of these evaluate the m rates, weighted as D linear in k between them. "sfw": stochastic
        Frank-Wolfe on rates drawn from 1..n-1; the objective and the dual gap in its extras are those of the last draw
    step : of "fw", "afw", "lcg" and "lafw": "monotone", "adaptive" or "open"; "sfw" has "open" steps
    variant : of "sfw": batch sizes and momentum "A" to "F" of the paper's appendix C ("A": batches of 40, no momentum)
    representation : "grid", or "dense": Pi itself with the Hungarian oracle and all n - 1 rates (small n only; not
        for "mirror")

    Notes
    -----
    An ordering is as good as V and the output are those by which it is judged: for the relevance ordering test with
    uniform noise on the softmax output, pass reference="uniform", distortion="monte_carlo", samples=4, on="output".
    """

    rates: int | Sequence[float] = 20
    start: str = arguments.one_of("uniform", "deviation")
    solver: str = arguments.one_of("mirror", "sfw", *FRANK_WOLFE)
    step: str = arguments.one_of(*STEPS)
    variant: str = arguments.one_of(*"ABCDEF")
    representation: str = arguments.one_of("grid", "dense")

    def check_parameters(self) -> None:
        super().check_parameters()
        if self.representation == "dense" and self.solver == "mirror":
            raise InvalidInputError("solver='mirror' works on rate grids; choose another with representation='dense'.")
        if isinstance(self.rates, (int, np.integer)):
            arguments.positive_int("rates", self.rates)

    def check_count(self, n: int) -> None:
        """Rates between 1 and n - 1; matrices that fit into memory."""
        self.whole_rates(n)
        if self.representation == "dense" and n > DENSE_LIMIT:
            raise InvalidInputError(
                f"representation='dense' builds {n} x {n} matrices; up to n = {DENSE_LIMIT} are supported. Use 'grid'."
            )

    def whole_rates(self, n: int) -> list[int]:
        """The rates of the grid as numbers of features."""
        if n < 2:
            raise InvalidInputError(f"An ordering needs at least 2 features, got {n}.")
        if self.representation == "dense":
            return list(range(1, n))
        if not isinstance(self.rates, (int, np.integer)):
            return sorted(set(increasing(self.rates, n)))
        m = min(self.rates, n - 1)
        return sorted({min(max(round(j * n / (m + 1)), 1), n - 1) for j in range(1, m + 1)})

    def problems_per_sample(self, n: int) -> int:
        """The rates that are evaluated at once."""
        return optim.schedule(self.variant)[1](1) if self.solver == "sfw" else len(self.whole_rates(n))

    def samples_at_once(self, n: int, size: int) -> int:
        """More than fill a forward batch while grids are small: oracles cost less for several problems at once."""
        entries = n * n if self.representation == "dense" else n * len(self.whole_rates(n))
        return max(super().samples_at_once(n, size), min(TOGETHER, ENTRIES // entries))

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        features, count = distortion.context.features, len(distortion.index)
        n, dense = features.count, self.representation == "dense"
        rates = self.whole_rates(n)
        objective = self._stochastic(distortion, rates) if self.solver == "sfw" else _mean_distortion(distortion, rates)
        weights = self.starting_weights(distortion)
        x0 = np.stack([optim.entropic_capped_simplex(weights, k) for k in rates], axis=2)
        if dense:
            objective, x0 = _of_matrix(objective), optim.to_permutation(x0, rates)
        region = optim.Birkhoff() if dense else optim.RateGrid(tuple(rates))
        result = self.minimize(self._solver(region, rates), distortion, objective, x0)
        grid = np.minimum(np.cumsum(result.x, axis=2)[:, :, :-1], 1) if dense else result.x
        extras = {
            **result_extras(result, (count,)),
            "rates": np.tile(rates, (count, 1)),
            "single_rate": features.maps(np.ascontiguousarray(np.swapaxes(grid, 1, 2))),
        }
        return {"attributions": features.maps(optim.mean_over_rates(grid, rates, n)), **extras}

    def _solver(self, region: optim.Region, rates: list[int]) -> optim.Solver:
        if self.solver == "mirror":
            return optim.EntropicMirror(tuple(rates))
        if self.solver == "sfw":
            return optim.StochasticFrankWolfe(region, optim.schedule(self.variant)[0])
        return make_solver(self.solver, region, self.step)

    def _stochastic(self, distortion: Distortion, rates: list[int]) -> Callable[[np.ndarray, np.ndarray], Arrays]:
        """The mean of D over rates that are drawn anew in each call, the same for all samples."""
        batch, calls = optim.schedule(self.variant)[1], iter(range(1, self.max_iter + 2))

        def objective(grid: np.ndarray, problems: np.ndarray) -> Arrays:
            n, t = grid.shape[1], next(calls)
            drawn = np.random.default_rng((self.seed, t)).integers(1, n, batch(t))
            total, gradient = np.zeros(len(grid)), np.zeros_like(grid)
            for chunk in np.array_split(drawn, -(-len(drawn) * len(grid) // max(distortion.size, len(grid)))):
                points = np.stack([optim.single_rate(grid, rates, k) for k in chunk], axis=1)
                values, slopes = _at_rates(distortion, points, problems, np.tile(chunk, (len(grid), 1)))
                total += values.sum(axis=1)
                _spread(gradient, slopes, chunk, rates)
            return total / len(drawn), gradient / len(drawn)

        return objective


def _at_rates(distortion: Distortion, points: np.ndarray, problems: np.ndarray, streams: np.ndarray) -> Arrays:
    """D and its gradient at points (q, r, n) of the samples ``problems`` (q,)."""
    q, r, n = points.shape
    values, gradients = distortion(points.reshape(-1, n), np.repeat(problems, r), streams.reshape(-1))
    return values.reshape(q, r), gradients.reshape(q, r, n)


def _spread(gradient: np.ndarray, slopes: np.ndarray, drawn: np.ndarray, rates: list[int]) -> None:
    """Add the gradients at drawn rates to the columns between which S was interpolated."""
    n, m = gradient.shape[1:]
    knots = np.array([0, *rates, n])
    right = np.searchsorted(knots, drawn)
    share = (drawn - knots[right - 1]) / (knots[right] - knots[right - 1])
    for column, weight, slope in zip(right, share, np.swapaxes(slopes, 0, 1), strict=True):
        if column <= m:
            gradient[:, :, column - 1] += gradient.dtype.type(weight) * slope
        if column >= 2:
            gradient[:, :, column - 2] += gradient.dtype.type(1 - weight) * slope


def rate_weights(rates: Sequence[int], n: int) -> np.ndarray:
    """The weights of D(S_j) in the mean of D over k = 1..n-1, with D linear in k between the rates of the grid."""
    gaps = np.diff([0, *rates, n])
    return ((gaps[:-1] + 1) / 2 + (gaps[1:] - 1) / 2) / (n - 1)


def _mean_distortion(distortion: Distortion, rates: list[int]) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """The weighted mean of D(S_j); what D(0) adds is a constant that is left out."""
    weights = rate_weights(rates, distortion.context.features.count)

    def objective(grid: np.ndarray, problems: np.ndarray) -> Arrays:
        points = np.ascontiguousarray(np.swapaxes(grid, 1, 2))
        streams = np.tile(np.arange(len(rates)), (len(grid), 1))
        values, gradients = _at_rates(distortion, points, problems, streams)
        gradients *= weights.astype(gradients.dtype)[:, None]
        return values @ weights, np.swapaxes(gradients, 1, 2)

    return objective


def _of_matrix(objective: Callable[[np.ndarray, np.ndarray], Arrays]) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """An objective of S as one of Pi: S_j is the sum of the first j columns, so column l gets all gradients j >= l."""

    def of_matrix(matrix: np.ndarray, problems: np.ndarray) -> Arrays:
        values, gradients = objective(np.minimum(np.cumsum(matrix, axis=2)[:, :, :-1], 1), problems)
        columns = np.cumsum(gradients[:, :, ::-1], axis=2)[:, :, ::-1]
        return values, np.concatenate([columns, np.zeros_like(columns[:, :, :1])], axis=2)

    return of_matrix
