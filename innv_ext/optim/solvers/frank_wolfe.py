"""Frank-Wolfe methods without away steps: plain, lazy and stochastic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import Solver, State, flat, inner, per_problem
from innv_ext.optim.sets.regions import Region
from innv_ext.optim.solvers.atoms import Atoms
from innv_ext.optim.steps import Adaptive, Monotone, Open, StepRule, Steps


@dataclass(kw_only=True)
class FrankWolfeState(State):
    """Steps and number of oracle calls of each problem; ``promise`` is the phi of lazy methods."""

    steps: Steps
    oracle_calls: np.ndarray
    promise: np.ndarray

    @classmethod
    def start(cls, x0: np.ndarray, **fields: Any) -> FrankWolfeState:
        """No step taken, the oracle not called."""
        count = len(x0)
        mine = {
            "steps": Steps.start(count),
            "oracle_calls": np.zeros(count, np.int64),
            "promise": np.full(count, np.inf),
        }
        return super().start(x0, **mine, **fields)


@dataclass(kw_only=True)
class VertexState(FrankWolfeState):
    """``vertex``: where each problem goes; ``cache``: the vertices that the lazy method has seen."""

    vertex: np.ndarray
    cache: Atoms | None


@dataclass(kw_only=True)
class MomentumState(FrankWolfeState):
    """``averaged`` is M."""

    averaged: np.ndarray


@dataclass(frozen=True)
class FrankWolfe(Solver):
    """The Frank-Wolfe (conditional gradient) method: x + eta (v - x), v from the region's oracle.

    Parameters
    ----------
    region : feasible set
    step : ``Monotone()``, ``Adaptive()`` or ``Open()``
    lazy : lazified conditional gradients (Braun et al. 2019): a vertex seen before that promises at least phi / 2 is
        used instead of calling the oracle; phi falls to the gap when even the oracle's vertex promises less than
        phi / 2. All vertices are kept. The dual gap is known at the rounds with an oracle call and at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import Adaptive, CappedSimplex, run
    >>> target = np.array([[0.9, 0.8, 0.1, -1.0]])
    >>> def distance(points, problems):
    ...     d = points - target[problems]
    ...     return np.sum(d * d, axis=1), 2 * d
    >>> result = run(FrankWolfe(CappedSimplex(1), Adaptive()), distance, np.zeros((1, 4)), max_iter=500, tol=1e-6)
    >>> result.x.round(2) + 0.0
    array([[0.55, 0.45, 0.  , 0.  ]])
    """

    region: Region
    step: StepRule = field(default_factory=Monotone)
    lazy: bool = False

    def init(self, x0: np.ndarray) -> VertexState:
        """No vertex yet."""
        cache = Atoms(len(x0), math.prod(x0.shape[1:]), x0.dtype) if self.lazy else None
        return VertexState.start(x0, vertex=np.zeros_like(x0), cache=cache)

    def update(self, state: VertexState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Accepted trials get a new vertex, rejected ones a shorter step to the same one."""
        accepted = settle(self.step, state, problems, values, gradients)
        moved = problems[accepted]
        if len(moved):
            x, g = state.x[moved], gradients[accepted]
            v = self._cached_or_new(state, moved, x, g) if self.lazy else self._new(state, moved, x, g)
            state.vertex[moved] = v
            state.steps.aim(moved, inner(g, x - v), inner(v - x, v - x))
        x, eta = state.x[problems], self.step.length(state.steps, problems)
        state.steps.eta[problems] = eta
        state.propose(problems, x + per_problem(eta, x) * (state.vertex[problems] - x))

    def finish(self, state: VertexState) -> None:
        """The gap of lazy rounds, where x is still the best point."""
        if self.lazy:
            settle_gaps(self.region, state)

    def _new(self, state: VertexState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        v = self.region.minimize(g, problems)
        state.oracle_calls[problems] += 1
        state.gap[problems] = inner(g, x - v)
        return v

    def _cached_or_new(self, state: VertexState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        cache, promise = state.cache, state.promise
        scores = cache.scores(problems, g)
        slots = np.argmin(np.where(cache.used[problems], scores, np.inf), axis=1)
        v = cache.points[problems, slots].reshape(g.shape)
        gain = np.where(cache.used[problems, slots], inner(g, x - v), -np.inf)
        state.gap[problems] = np.inf  # the gain of a cached vertex only bounds it from below
        missing = gain < promise[problems] / 2
        missing |= np.isinf(promise[problems])
        if missing.any():
            rest = problems[missing]
            v[missing] = self._new(state, rest, x[missing], g[missing])
            cache.insert(rest, flat(v[missing]))
            promise[rest] = lowered(promise[rest], state.gap[rest])
        return v


@dataclass(frozen=True)
class StochasticFrankWolfe(Solver):
    """Frank-Wolfe on noisy gradients (Hazan and Luo 2016; momentum: Mokhtari et al. 2020).

    M_t = rho_t M_(t-1) + (1 - rho_t) G_t, M_0 = 0, takes the place of the gradient; no value is compared, and the gap
    <x - v, M> is an estimate that stops nothing. The result is the last point that was evaluated.

    Parameters
    ----------
    region : feasible set
    momentum : t = 1, 2, ... -> rho_t in [0, 1); None: no momentum
    step : a rule that does not look at values

    Examples
    --------
    >>> momentum, batch = schedule("F")
    >>> round(momentum(1), 4), [batch(t) for t in (1, 60, 500)]
    (0.0755, [41, 100, 100])
    """

    region: Region
    momentum: Callable[[int], float] | None = None
    step: StepRule = field(default_factory=Open)
    stochastic = True

    def __post_init__(self) -> None:
        if isinstance(self.step, (Monotone, Adaptive)):
            raise InvalidInputError(f"step must not compare values, which are noisy here: use Open(), got {self.step}.")

    def init(self, x0: np.ndarray) -> MomentumState:
        """M = 0."""
        return MomentumState.start(x0, averaged=np.zeros_like(x0))

    def update(self, state: MomentumState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Average the gradient and go to its vertex."""
        x = state.trial[problems]
        state.accept(problems, values, gradients)
        rho = 0.0 if self.momentum is None else per_problem(self._rates(state, problems), gradients)
        m = rho * state.averaged[problems] + (1 - rho) * gradients
        v = self.region.minimize(m, problems)
        state.averaged[problems] = m
        state.oracle_calls[problems] += 1
        state.gap[problems] = inner(m, x - v)
        state.steps.aim(problems, state.gap[problems], inner(v - x, v - x))
        eta = self.step.length(state.steps, problems)
        self.step.learn(state.steps, problems, np.ones(len(problems), bool))
        state.steps.eta[problems] = eta
        state.trial[problems] = x + per_problem(eta, x) * (v - x)

    def _rates(self, state: MomentumState, problems: np.ndarray) -> np.ndarray:
        times = state.evaluations[problems]
        rho = {t: self.momentum(int(t)) for t in np.unique(times)}
        for t, value in rho.items():
            if not 0 <= value < 1:
                raise InvalidInputError(f"momentum must be in [0, 1), but momentum({t}) is {value!r}.")
        return np.array([rho[t] for t in times])


def settle(
    step: StepRule, state: FrankWolfeState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray
) -> np.ndarray:
    """Accept or reject the trials by the step rule; returns the mask of the accepted ones."""
    first = state.first(problems)
    accepted = first.copy()
    later = problems[~first]
    accepted[~first] = step.accepts(state.steps, later, state.value[later] - values[~first])
    step.learn(state.steps, later, accepted[~first])
    state.accept(problems[accepted], values[accepted], gradients[accepted])
    state.reject(problems[~accepted])
    return accepted


def lowered(promise: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """phi after an oracle call: the gap at first, and again when the oracle's vertex promises less than phi / 2."""
    return np.where(np.isinf(promise) | (gap < promise / 2), gap, promise)


def settle_gaps(region: Region, state: FrankWolfeState) -> None:
    """One oracle call for each problem whose last rounds were lazy."""
    rest = np.flatnonzero(np.isinf(state.gap) & np.isfinite(state.value))
    if len(rest):
        g = state.gradient[rest]
        state.gap[rest] = inner(g, state.x[rest] - region.minimize(g, rest))
        state.oracle_calls[rest] += 1


def schedule(variant: str) -> tuple[Callable[[int], float], Callable[[int], int]]:
    """Momentum and batch size of the variants "A" to "F" of stochastic Frank-Wolfe (appendix C of the paper).

    Parameters
    ----------
    variant : momentum 0 (A, B), 1/2 (C, D) or 1 - 4 / (8 + t)^(2/3) (E, F); batches of 40 (A, C, E) or of
        min(40 + t, 100) (B, D, F)

    Returns
    -------
    momentum, batch : functions of t = 1, 2, ...

    Raises
    ------
    InvalidInputError : unknown variant
    """
    if variant not in ("A", "B", "C", "D", "E", "F"):
        raise InvalidInputError(f'variant must be one of "A" to "F", got {variant!r}.')
    kind, growing = divmod("ABCDEF".index(variant), 2)
    momenta: list[Callable[[int], float]] = [lambda t: 0.0, lambda t: 0.5, lambda t: 1 - 4 / (8 + t) ** (2 / 3)]
    return momenta[kind], (lambda t: min(40 + t, 100)) if growing else (lambda t: 40)
