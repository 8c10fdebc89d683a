"""Ord-RDE: an ordering of all components by relevance, at any size.

Source: Macdonald, Besancon and Pokutta 2022, section 2.2. Their n x n doubly stochastic matrix Pi enters the objective
only through the maps Pi p_k, p_k = k ones then zeros. Here a few rates k_1 < ... < k_m stand for all of them, and the
iterate is S (n x m) with columns S_j = Pi p_(k_j): entries in [0, 1], nondecreasing columns, column sums k_j. This set
is exactly the image of the doubly stochastic matrices, so that nothing of size n x n is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments, optim
from innv_ext.analyzers.rde.distortion import Distortion
from innv_ext.analyzers.rde.rate_distortion import RateDistortion
from innv_ext.analyzers.rde.rates import FRANK_WOLFE, STEPS, increasing, make_solver, result_extras
from innv_ext.errors import InvalidInputError
from innv_ext.optim.transport.grids import grid_of, plan_cost

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

    def whole_rates(self, n: int) -> list[int]:
        if n < 2:
            raise InvalidInputError(f"An ordering needs at least 2 features, got {n}.")
        if self.representation == "dense":
            if n > DENSE_LIMIT:
                raise InvalidInputError(
                    f"representation='dense' builds {n} x {n} matrices; up to n = {DENSE_LIMIT} are supported. Use "
                    f"'grid'."
                )
            return list(range(1, n))
        if not isinstance(self.rates, (int, np.integer)):
            return sorted(set(increasing(self.rates, n)))
        m = min(self.rates, n - 1)
        return sorted({min(max(round(j * n / (m + 1)), 1), n - 1) for j in range(1, m + 1)})

    def samples_at_once(self, n: int, size: int) -> int:
        """More than fill a forward batch while grids are small: oracles cost less for several problems at once."""
        columns = len(self.whole_rates(n))
        evaluated = optim.schedule(self.variant)[1](1) if self.solver == "sfw" else columns
        entries = n * n if self.representation == "dense" else n * columns
        return max(1, size // evaluated, min(TOGETHER, ENTRIES // entries))

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        features, count = distortion.context.features, len(distortion.index)
        n, dense = features.count, self.representation == "dense"
        rates = self.whole_rates(n)
        objective, weights = self._objective(distortion, rates), self.starting_weights(distortion)
        x0 = np.stack([optim.entropic_capped_simplex(weights, k) for k in rates], axis=2)
        if dense:
            objective, x0 = _of_matrix(objective), optim.to_permutation(x0, rates)
        region = optim.Birkhoff() if dense else optim.RateGrid(tuple(rates))
        if self.solver == "mirror":
            solver = optim.EntropicMirror(tuple(rates))
        elif self.solver == "sfw":
            solver = optim.StochasticFrankWolfe(region, optim.schedule(self.variant)[0])
        else:
            solver = make_solver(self.solver, region, self.step)
        result = self.minimize(solver, distortion, objective, x0)
        grid = grid_of(np.swapaxes(result.x, 1, 2)) if dense else result.x
        extras = {
            **result_extras(result, (count,)),
            "rates": np.tile(rates, (count, 1)),
            "single_rate": features.maps(np.ascontiguousarray(np.swapaxes(grid, 1, 2))),
        }
        return {"attributions": features.maps(optim.mean_over_rates(grid, rates, n)), **extras}

    def _objective(self, distortion: Distortion, rates: list[int]) -> optim.Objective:
        """The mean of D over k = 1..n-1 by the rates of the grid; of "sfw" over rates drawn anew in each call.

        What D(0) adds is a constant that is left out. The rates drawn are the same for all samples.
        """
        n, calls, batch = distortion.context.features.count, itertools.count(1), optim.schedule(self.variant)[1]
        knots = np.array([0, *rates, n])

        def objective(grid: np.ndarray, problems: np.ndarray) -> Arrays:
            if self.solver == "sfw":
                t = next(calls)
                ks = streams = np.random.default_rng((self.seed, t)).integers(1, n, batch(t))
                weights = np.full(len(ks), 1 / len(ks))
            else:
                ks, streams, weights = np.array(rates), np.arange(len(rates)), rate_weights(rates, n)
            right = np.searchsorted(knots, ks)
            share = (ks - knots[right - 1]) / (knots[right] - knots[right - 1])
            to_right, to_left = ((w * weights).astype(grid.dtype) for w in (share, 1 - share))
            value, gradient = np.zeros(len(grid)), np.zeros((len(grid), len(knots), n), grid.dtype)
            chunks = -(-len(ks) * len(grid) // max(distortion.size, len(grid)))
            for part in np.array_split(np.arange(len(ks)), chunks):
                points = np.concatenate([optim.single_rate(grid, rates, k) for k in ks[part]])
                d, slopes = distortion(points, np.tile(problems, len(part)), np.repeat(streams[part], len(grid)))
                value += weights[part] @ d.reshape(len(part), len(grid))
                for i, slope in zip(part, slopes.reshape(len(part), *grid.shape[:2]), strict=True):
                    gradient[:, right[i]] += to_right[i] * slope
                    gradient[:, right[i] - 1] += to_left[i] * slope
            return value, np.swapaxes(gradient[:, 1:-1], 1, 2)

        return objective


def rate_weights(rates: Sequence[int], n: int) -> np.ndarray:
    """The weights of D(S_j) in the mean of D over k = 1..n-1, with D linear in k between the rates of the grid."""
    gaps = np.diff([0, *rates, n])
    return (gaps[:-1] + gaps[1:]) / (2 * (n - 1))


def _of_matrix(objective: optim.Objective) -> optim.Objective:
    """An objective of S as one of Pi: S_j is the sum of the first j columns, so column l gets all gradients j >= l."""

    def of_matrix(matrix: np.ndarray, problems: np.ndarray) -> Arrays:
        values, gradients = objective(grid_of(np.swapaxes(matrix, 1, 2)), problems)
        return values, np.swapaxes(plan_cost(gradients), 1, 2)

    return of_matrix
