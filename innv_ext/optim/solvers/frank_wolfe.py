"""Frank-Wolfe methods without away steps: plain, lazy and stochastic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import Solver, State, each, flat, inner, per_problem, starts
from innv_ext.optim.sets.regions import Region
from innv_ext.optim.solvers.atoms import Atoms
from innv_ext.optim.steps import Adaptive, Monotone, Open, StepRule, Steps


@dataclass(kw_only=True)
class FrankWolfeState(State):
    """Steps and number of oracle calls of each problem; ``promise`` is the phi of lazy methods."""

    steps: Steps = starts(Steps.start)
    oracle_calls: np.ndarray = each(0)
    promise: np.ndarray = each(np.inf)


@dataclass(kw_only=True)
class VertexState(FrankWolfeState):
    """``direction``: v - x to the vertex v; ``cache``: the vertices that the lazy method has seen."""

    direction: np.ndarray = starts(np.zeros_like)
    cache: Atoms | None = None


@dataclass(kw_only=True)
class MomentumState(VertexState):
    """``averaged`` is M."""

    averaged: np.ndarray = starts(np.zeros_like)


class ConditionalGradient(Solver):
    """Base: steps by a rule that accepts or shortens them, to a vertex that the region's oracle gives.

    A subclass makes the state, and may choose other directions of accepted problems (``_aim``) and trials (``_trial``).
    """

    region: Region
    step: StepRule

    def update(self, state: FrankWolfeState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Accepted trials get a new direction, rejected ones a shorter step along theirs."""
        first = state.first(problems)
        accepted = first | self.step.accepts(state.steps, problems, state.value[problems] - values)
        self.step.learn(state.steps, problems[~first], accepted[~first])
        self._leave(state, problems[accepted & ~first])
        moved = state.settle(problems, accepted, values, gradients)
        if len(moved):
            self._aim(state, moved, state.x[moved], gradients[accepted])
        eta = self.step.length(state.steps, problems)
        state.steps.eta[problems] = eta
        state.propose(problems, self._trial(state, problems, eta), stop=not self.open_loop)

    def finish(self, state: FrankWolfeState) -> None:
        """The gap of lazy rounds."""
        rest = np.flatnonzero(np.isinf(state.gap) & np.isfinite(state.value))
        if len(rest):
            self._call_oracle(state, rest, state.x[rest], state.gradient[rest])

    def _leave(self, state: FrankWolfeState, problems: np.ndarray) -> None:
        """Called where a step is accepted, before the trial becomes the point."""

    def _aim(self, state: VertexState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> None:
        vertex = self._cached_or_new if state.cache else self._call_oracle
        d = vertex(state, problems, x, g) - x
        state.direction[problems] = d
        state.steps.aim(problems, -inner(g, d), inner(d, d))

    def _trial(self, state: VertexState, problems: np.ndarray, eta: np.ndarray) -> np.ndarray:
        x = state.x[problems]
        return x + per_problem(eta, x) * state.direction[problems]

    def _cached_or_new(self, state: VertexState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        cache, used = state.cache, state.cache.used[problems]
        slots = np.argmin(np.where(used, cache.scores(problems, g), np.inf), axis=1)
        v = cache.points[problems, slots].reshape(g.shape)
        gain = np.where(used.any(axis=1), inner(g, x - v), -np.inf)
        state.gap[problems] = np.inf  # the gain of a cached vertex only bounds it from below
        missing = gain < state.promise[problems] / 2
        if missing.any():
            rest = problems[missing]
            v[missing] = self._call_oracle(state, rest, x[missing], g[missing])
            cache.insert(rest, flat(v[missing]))
        return v

    def _call_oracle(self, state: FrankWolfeState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        """A vertex; phi becomes the gap at first, and again when the vertex promises less than phi / 2."""
        v = self.region.minimize(g, problems)
        gap, promise = inner(g, x - v), state.promise[problems]
        state.oracle_calls[problems] += 1
        state.gap[problems] = gap
        state.promise[problems] = np.where(np.isinf(promise) | (gap < promise / 2), gap, promise)
        return v


@dataclass(frozen=True)
class FrankWolfe(ConditionalGradient):
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
    >>> distance = lambda x, problems: (np.sum((x - target) ** 2, axis=1), 2 * (x - target))
    >>> result = run(FrankWolfe(CappedSimplex(1), Adaptive()), distance, np.zeros((1, 4)), max_iter=500, tol=1e-6)
    >>> result.x.round(2) + 0.0
    array([[0.55, 0.45, 0.  , 0.  ]])
    """

    region: Region
    step: StepRule = field(default_factory=Monotone)
    lazy: bool = False

    def init(self, x0: np.ndarray) -> VertexState:
        return VertexState.start(x0, cache=Atoms(x0) if self.lazy else None)


@dataclass(frozen=True)
class StochasticFrankWolfe(ConditionalGradient):
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
        return MomentumState.start(x0)

    def _aim(self, state: MomentumState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> None:
        """To the vertex for M."""
        rho = 0.0 if self.momentum is None else per_problem(self._rates(state, problems), g)
        m = rho * state.averaged[problems] + (1 - rho) * g
        state.averaged[problems] = m
        super()._aim(state, problems, x, m)

    def _rates(self, state: MomentumState, problems: np.ndarray) -> np.ndarray:
        times = state.evaluations[problems]
        rho = {t: self.momentum(int(t)) for t in np.unique(times)}
        for t, value in rho.items():
            if not 0 <= value < 1:
                raise InvalidInputError(f"momentum must be in [0, 1), but momentum({t}) is {value!r}.")
        return np.array([rho[t] for t in times])


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
    arguments.choice("variant", variant, tuple("ABCDEF"))
    kind, growing = divmod("ABCDEF".index(variant), 2)
    momenta: list[Callable[[int], float]] = [lambda t: 0.0, lambda t: 0.5, lambda t: 1 - 4 / (8 + t) ** (2 / 3)]
    return momenta[kind], (lambda t: min(40 + t, 100)) if growing else (lambda t: 40)
