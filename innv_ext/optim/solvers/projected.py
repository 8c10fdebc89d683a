"""Gradient methods with projections: projected gradient and spectral projected gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext.optim.base import Solver, State, each, flat, inner, per_problem, require, starts
from innv_ext.optim.sets.regions import Region


@dataclass(kw_only=True)
class ProjectedState(State):
    """``length`` is the step along the gradient; ``slope`` is -<g, trial - x> for a full step."""

    length: np.ndarray = each(0.0)
    slope: np.ndarray = each(0.0)


@dataclass(frozen=True)
class ProjectedGradient(Solver):
    """Projected gradient descent with backtracking on the projection arc.

    The trial is P(x - a g); it is accepted if the value falls by at least armijo * <g, x - trial> (Bertsekas 1976).
    The first step moves the steepest component by 1.

    Parameters
    ----------
    region : feasible set with a projection
    armijo : share of the linear decrease that is enough; a small share accepts steps that bounce between the walls of
        a valley
    grow : factor of the step after a success
    shrink : factor after a failure

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import Box, run
    >>> distance = lambda x, problems: (np.sum((x - 2) ** 2, axis=1), 2 * (x - 2))
    >>> run(ProjectedGradient(Box()), distance, np.zeros((1, 3)))
    Result(1 problems (1 CONVERGED), value 3, gap 0, evaluations 2)
    """

    region: Region
    armijo: float = 0.3
    grow: float = 2.0
    shrink: float = 0.5

    def __post_init__(self) -> None:
        fits = 0 < self.armijo < 1 and self.grow >= 1 and 0 < self.shrink < 1
        require(self, fits, "0 < armijo < 1, grow >= 1 and 0 < shrink < 1", "armijo", "grow", "shrink")

    def init(self, x0: np.ndarray) -> ProjectedState:
        return ProjectedState.start(x0)

    def update(self, state: ProjectedState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        first = state.first(problems)
        enough = state.value[problems] - values >= self.armijo * state.slope[problems]
        accepted = first | (enough & (values < state.value[problems]))
        state.length[problems] *= np.where(accepted, self.grow, self.shrink)
        moved = state.settle(problems, accepted, values, gradients)
        state.length[problems[first]] = first_length(gradients[first])
        if len(moved):
            state.gap[moved] = self.region.gap(state.x[moved], gradients[accepted], moved)
        x, g = state.x[problems], state.gradient[problems]
        trial = self.region.project(x - per_problem(state.length[problems], g) * g, problems)
        state.slope[problems] = inner(g, x - trial)
        state.propose(problems, trial)


@dataclass(kw_only=True)
class SpectralState(ProjectedState):
    """``target``: end of the current direction; ``share``: how far along it the trial is; ``recent`` values; ``moves``
    so far."""

    target: np.ndarray = starts(np.zeros_like)
    share: np.ndarray = each(0.0)
    recent: np.ndarray
    moves: np.ndarray = each(0)


@dataclass(frozen=True)
class SpectralProjectedGradient(Solver):
    """Spectral projected gradient, the variant SPG2 of Birgin, Martinez and Raydan (2000).

    The direction is P(x - a g) - x with the Barzilai-Borwein step a; along it the value must fall below the largest of
    the last ``memory`` values (Grippo, Lampariello and Lucidi 1986), else the step is cut by safeguarded quadratic
    interpolation. Values may rise in between; the result is the best point seen.

    Parameters
    ----------
    region : feasible set with a projection
    memory : number of values to compare with; 1 makes the method monotone
    armijo : share of the linear decrease that is enough
    warm : number of evaluations at the start that go towards a vertex instead, with Frank-Wolfe's steps 1 / sqrt(t + 1)
        and values that must fall: on objectives that are not convex such long steps leave poor basins, while the
        spectral steps then converge faster in the one that was found

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import CappedSimplex, run
    >>> c = np.array([[1.0, 10.0]])
    >>> quadratic = lambda x, _: (np.sum(c * (x - 1) ** 2, axis=1), 2 * c * (x - 1))
    >>> run(SpectralProjectedGradient(CappedSimplex(1)), quadratic, np.zeros((1, 2))).x.round(3)
    array([[0.091, 0.909]])
    """

    region: Region
    memory: int = 10
    armijo: float = 1e-4
    warm: int = 0

    def __post_init__(self) -> None:
        fits = self.memory >= 1 and 0 < self.armijo < 1 and self.warm >= 0
        require(self, fits, "memory >= 1, 0 < armijo < 1 and warm >= 0", "memory", "armijo", "warm")

    def init(self, x0: np.ndarray) -> SpectralState:
        return SpectralState.start(x0, recent=np.full((len(x0), self.memory), -np.inf))

    def update(self, state: SpectralState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        first, share, slope = state.first(problems), state.share[problems], state.slope[problems]
        warm = state.evaluations[problems] <= self.warm
        enough = values <= state.recent[problems].max(axis=1) - self.armijo * share * slope
        accepted = first | np.where(warm, values < state.value[problems], enough)
        self._shorten(state, problems[~accepted], values[~accepted])
        moved, g = problems[accepted], gradients[accepted]
        if len(moved):
            fresh = first[accepted]
            spectral = barzilai_borwein(state.trial[moved] - state.x[moved], g - state.gradient[moved])
            state.length[moved] = np.where(fresh, first_length(g), spectral)
            state.recent[moved] = np.roll(state.recent[moved], 1, axis=1)
            state.recent[moved, 0] = values[accepted]
            state.accept(moved, values[accepted], g)
            state.gap[moved] = self.region.gap(state.x[moved], g, moved)
            self._aim(state, moved, g, warm[accepted])
        x = state.x[problems]
        state.propose(problems, x + per_problem(state.share[problems], x) * (state.target[problems] - x))
        state.stall(problems[state.slope[problems] <= 0])

    def _aim(self, state: SpectralState, problems: np.ndarray, g: np.ndarray, warm: np.ndarray) -> None:
        """A new direction: to the spectral target, or to a vertex."""
        x = state.x[problems]
        target, share = np.empty_like(x), np.ones(len(x))
        vertices, spectral = problems[warm], problems[~warm]
        if len(vertices):
            target[warm] = self.region.minimize(g[warm], vertices)
            share[warm] = 1 / np.sqrt(state.moves[vertices] + 1)
        if len(spectral):
            step = per_problem(state.length[spectral], g) * g[~warm]
            target[~warm] = self.region.project(x[~warm] - step, spectral)
        state.slope[problems], state.share[problems], state.target[problems] = inner(g, x - target), share, target
        state.moves[problems] += 1

    def _shorten(self, state: SpectralState, problems: np.ndarray, values: np.ndarray) -> None:
        """The minimiser of the parabola through f(x), its slope and f(trial), kept in [0.1, 0.5] of the step."""
        state.reject(problems)
        share, slope = state.share[problems], state.slope[problems]
        bend = values - state.value[problems] + share * slope  # positive, else the trial would have been accepted
        interpolated = share**2 * slope / (2 * bend)
        state.share[problems] = np.clip(interpolated, 0.1 * share, 0.5 * share)


def first_length(gradients: np.ndarray) -> np.ndarray:
    """1 / max|g|: the steepest component moves by 1."""
    steepest = np.abs(flat(gradients)).max(axis=1, initial=0).astype(np.float64)
    return np.divide(1.0, steepest, out=np.ones_like(steepest), where=steepest > 0)


def barzilai_borwein(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """<s, s> / <s, y> for moves s of the point and y of the gradient, clipped to [1e-10, 1e10]."""
    curvature = inner(s, y)
    ratio = np.divide(inner(s, s), curvature, out=np.full(len(s), 1e10), where=curvature > 0)
    return np.clip(ratio, 1e-10, 1e10)
