"""Rate-Distortion Explanations: which components keep the score when all others are replaced by noise?

Sources: Macdonald et al. 2019 (L-RDE); Macdonald, Besancon and Pokutta 2022, "Interpretable Neural Networks with
Frank-Wolfe" (RC-RDE, MR-RDE). Relevance orderings (Ord-RDE) are in ``ordering.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments, optim
from innv_ext.analyzers.rde.distortion import Distortion
from innv_ext.analyzers.rde.rate_distortion import RateDistortion
from innv_ext.errors import InvalidInputError

SHARES = tuple(k / 784 for k in range(50, 401, 50))  # the paper's rates, for MNIST's 784 pixels
STEPS: dict[str, Callable[[], Any]] = {"monotone": optim.Monotone, "adaptive": optim.Adaptive, "open": optim.Open}
WARM = 5  # evaluations with Frank-Wolfe steps at the start of "spg_fw"
FRANK_WOLFE: dict[str, Callable[[optim.Region, Any], optim.Solver]] = {
    "fw": optim.FrankWolfe,
    "lcg": lambda region, step: optim.FrankWolfe(region, step, lazy=True),
    "afw": optim.AwayFrankWolfe,
    "lafw": lambda region, step: optim.AwayFrankWolfe(region, step, lazy=True),
}
PROJECTED: dict[str, Callable[[optim.Region], optim.Solver]] = {
    "spg_fw": lambda region: optim.SpectralProjectedGradient(region, warm=WARM),
    "spg": optim.SpectralProjectedGradient,
    "pgd": optim.ProjectedGradient,
}


def make_solver(name: str, region: optim.Region, step: str = "monotone") -> optim.Solver:
    """A solver by its name; the step rule is for Frank-Wolfe."""
    return FRANK_WOLFE[name](region, STEPS[step]()) if name in FRANK_WOLFE else PROJECTED[name](region)


@dataclass(kw_only=True, eq=False, repr=False)
class LagrangianRDE(RateDistortion):
    """L-RDE: minimise D(s) + lambda |s|_1 over s in [0, 1]^n.

    Parameters
    ----------
    lambda_ : price of keeping one feature, in units of D (squared score) per feature
    solver : "spg" (spectral projected gradient) or "pgd"; both project on the box
    """

    lambda_: float = arguments.positive(0.01)
    solver: str = arguments.one_of("spg", "pgd")

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        """One problem per sample, from a quarter of all features."""
        features, count = distortion.context.features, len(distortion.index)

        def objective(s: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values, gradients = distortion(s, problems, np.zeros_like(problems))
            return values + self.lambda_ * s.sum(axis=1, dtype="float64"), gradients + s.dtype.type(self.lambda_)

        quarter = np.full(count, max(1, features.count // 4))
        x0 = optim.entropic_capped_simplex(self.starting_weights(distortion), quarter)
        result = self.minimize(make_solver(self.solver, optim.Box()), distortion, objective, x0)
        rate = result.x.sum(axis=1, dtype="float64")
        extras = {**result_extras(result, (count,)), "rate": rate, "distortion": result.value - self.lambda_ * rate}
        return {"attributions": features.maps(result.x), **extras}


def single_rates(
    analyzer: MultiRateRDE | RateConstrainedRDE, distortion: Distortion
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Minimisers (batch, rates, n) and extras (batch, rates), from all rates of all samples as one batch."""
    count, rates = len(distortion.index), analyzer.whole_rates(distortion.context.features.count)
    ks = np.tile(rates, count)

    def objective(s: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return distortion(s, problems // len(rates), problems % len(rates))

    x0 = optim.entropic_capped_simplex(np.repeat(analyzer.starting_weights(distortion), len(rates), axis=0), ks)
    solver = make_solver(analyzer.solver, optim.CappedSimplex(tuple(ks.tolist())), analyzer.step)
    result = analyzer.minimize(solver, distortion, objective, x0)
    extras = {**result_extras(result, (count, len(rates))), "rates": np.tile(rates, (count, 1))}
    return result.x.reshape(count, len(rates), -1), extras


@dataclass(kw_only=True, eq=False, repr=False)
class MultiRateRDE(RateDistortion):
    """MR-RDE: the mean of the RC-RDE maps for several rates, each min D(s) over s in [0, 1]^n with |s|_1 <= k.

    Parameters
    ----------
    rates : increasing; integers k in 1..n-1, or shares of n below 1
    weights : of the single-rate maps in the mean; equal by default
    solver : "spg_fw" (default): five Frank-Wolfe steps, whose length leaves poor local minima, then spectral projected
        gradient, which converges fastest; "spg" or "pgd" (projected gradient) alone; "fw" (Frank-Wolfe, the paper's),
        "afw" (with away steps), "lcg" and "lafw" (lazy versions of the two)
    step : of the Frank-Wolfe solvers: "monotone", "adaptive" or "open"
    """

    rates: Sequence[float] = SHARES
    weights: Sequence[float] | None = None
    solver: str = arguments.one_of(*PROJECTED, *FRANK_WOLFE)
    step: str = arguments.one_of(*STEPS)

    def check_parameters(self) -> None:
        super().check_parameters()
        if self.weights is not None:
            given, count = np.asarray(self.weights), len(listed(self.rates))
            numbers = given.dtype.kind in "fiu" and np.isfinite(given).all() and (given >= 0).all()
            if given.shape != (count,) or not numbers or not given.sum() > 0:
                raise InvalidInputError(
                    f"weights must be {count} non-negative numbers, one per rate, got {self.weights!r}."
                )

    def whole_rates(self, n: int) -> list[int]:
        return increasing(self.rates, n)

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        features, (single, extras) = distortion.context.features, single_rates(self, distortion)
        shares = np.ones(single.shape[1]) if self.weights is None else np.asarray(self.weights, "float64")
        mean = np.einsum("brn,r->bn", single, shares / shares.sum()).astype(single.dtype)
        return {"attributions": features.maps(mean), **extras, "single_rate": features.maps(single)}


@dataclass(kw_only=True, eq=False, repr=False)
class RateConstrainedRDE(RateDistortion):
    """RC-RDE: min D(s) over s in [0, 1]^n with |s|_1 <= k.

    Parameters
    ----------
    rate : k, an integer in 1..n-1, or a share of n below 1
    solver, step : see ``MultiRateRDE``
    """

    rate: float = 100 / 784
    solver: str = arguments.one_of(*PROJECTED, *FRANK_WOLFE)
    step: str = arguments.one_of(*STEPS)

    def whole_rates(self, n: int) -> list[int]:
        return [whole_rate(self.rate, n)]

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        single, extras = single_rates(self, distortion)
        maps = distortion.context.features.maps(single[:, 0])
        return {"attributions": maps, **{name: values[:, 0] for name, values in extras.items()}}


def whole_rate(rate: Any, n: int, name: str = "rate") -> int:
    """A rate as a number of features; shares are rounded.

    Raises
    ------
    InvalidInputError
        outside 1..n-1
    """
    share = isinstance(rate, (float, np.floating)) and 0 < rate < 1
    whole = isinstance(rate, (int, np.integer)) and not isinstance(rate, bool)
    k = min(max(round(rate * n), 1), n - 1) if share else int(rate) if whole else 0
    if not 1 <= k <= n - 1:
        raise InvalidInputError(
            f"{name} must be an integer in 1..{n - 1} (the number of features kept of {n}) or a share between 0 and 1, "
            f"got {rate!r}."
        )
    return k


def listed(rates: Any) -> list[Any]:
    """One or several rates as a list, each in its own type: of 1 and True, only one is a number of features."""
    return list(rates) if np.ndim(rates) else [rates]


def increasing(rates: Any, n: int) -> list[int]:
    """Several increasing rates as numbers of features; close shares of few features may become the same number."""
    given = listed(rates)
    if not given:
        raise InvalidInputError("rates is empty; give at least one rate.")
    found = [whole_rate(rate, n, "rates") for rate in given]
    if any(b <= a for a, b in itertools.pairwise(rate if rate < 1 else rate / n for rate in given)):
        raise InvalidInputError(f"rates must increase, got {given}.")
    return found


def result_extras(result: optim.Result, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What a solver found, one entry per problem, in the shape (samples,) or (samples, rates)."""
    return {
        "objective": result.value.reshape(shape),
        "dual_gap": result.gap.reshape(shape),
        "iterations": result.iterations.reshape(shape),
        "evaluations": result.evaluations.reshape(shape),
        "status": np.array([s.name.lower() for s in result.status], dtype="U10").reshape(shape),
    }
