"""What the proximal gradient methods share: proximal steps whose length is found by backtracking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext.arguments import Number
from innv_ext.optim.base import Solver, State, check_count, each, flat, for_problems, one_or_each, per_problem, starts
from innv_ext.optim.sets.penalties import Penalty
from innv_ext.optim.solvers.projected import first_length

GROW = 1 / 0.9  # of the step after a success
LONGEST = 1e30  # step
BLIND = 128  # differences of fewer units in the last place of f say nothing: its rounding errors add up
NOISE = 4  # units in the last place: the error of a value or a gradient that is forgiven
PATIENCE = 100  # steps without a smaller value or residual


@dataclass(kw_only=True)
class ProximalState(State):
    """``value`` is f + penalty at x, ``smooth`` f alone, ``gradient`` that of f, ``gap`` the residual over ``scale``.

    The trial is a step of ``length`` from the ``origin``, where f has ``origin_value`` and ``origin_gradient``; it is
    x where ``plain``. ``idle`` counts steps since the smallest residual or value fell, which were ``least_gap`` and
    ``least_value`` then.
    """

    length: np.ndarray = each(0.0)
    smooth: np.ndarray = each(0.0)
    scale: np.ndarray = each(0.0)
    origin: np.ndarray = starts(np.ndarray.copy)
    origin_value: np.ndarray = each(0.0)
    origin_gradient: np.ndarray = starts(np.zeros_like)
    plain: np.ndarray = each(True)
    idle: np.ndarray = each(0)
    least_gap: np.ndarray = each(np.inf)
    least_value: np.ndarray = each(np.inf)


@dataclass(frozen=True)
class Backtracking(Solver):
    """Base: accepts or shortens steps, by values where these tell enough and else by gradients.

    A subclass makes the state (``_state``), and sets where the next step starts (``_aim``).
    """

    penalty: Penalty
    length: float | tuple[float, ...] | None = None
    measure = "KKT residual"
    quadratic = False
    restart = True

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", one_or_each("length", self.length, Number(positive=True)))

    def init(self, x0: np.ndarray) -> ProximalState:
        self.penalty.check(x0)
        check_count("length", self.length, len(x0))
        return self._state(x0)

    def update(self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        first = state.first(problems)
        if first.any():
            self._begin(state, problems[first], values[first], gradients[first])
        if not first.all():
            self._judge(state, problems[~first], values[~first], gradients[~first])
        self._step(state, problems)

    def _begin(self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """The start: the scale of the residual and a first length."""
        state.scale[problems] = np.maximum(self.penalty.norm(gradients), np.finfo(gradients.dtype).tiny)
        state.length[problems] = np.minimum(self._longest(problems), np.inf if self.length else first_length(gradients))
        self._accept(state, problems, values, gradients)
        state.least_gap[problems], state.least_value[problems] = state.gap[problems], state.value[problems]
        self._to_x(state, problems)

    def _longest(self, problems: np.ndarray) -> np.ndarray:
        return for_problems("length", LONGEST if self.length is None else self.length, problems)

    def _accept(self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        state.accept(problems, values + self.penalty.value(state.trial[problems], problems), gradients)
        state.smooth[problems] = values
        state.gap[problems] = self.penalty.residual(state.x[problems], gradients, problems) / state.scale[problems]

    def _to_x(self, state: ProximalState, problems: np.ndarray) -> None:
        """The next step starts at x."""
        state.origin[problems], state.plain[problems] = state.x[problems], True
        state.origin_value[problems], state.origin_gradient[problems] = state.smooth[problems], state.gradient[problems]

    def _judge(self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Shorten steps that are too long, drop the momentum where the value rises, accept the others."""
        factor = self._shortening(state, problems, values, gradients)
        rises, level = self._rise(state, problems, values, gradients)
        fits, rises = factor == 1, rises & self.restart
        factor[fits & rises & state.plain[problems]] = 0.5
        accepted = fits & ~rises
        length = state.length[problems] * np.where(accepted, GROW, factor)
        state.length[problems] = np.minimum(length, self._longest(problems))
        state.reject(problems[~accepted])
        self._to_x(state, problems[fits & rises])
        moved, old = problems[accepted], state.value[problems[accepted]]
        self._leave(state, moved)
        self._accept(state, moved, values[accepted], gradients[accepted])
        # a value that differs by rounding counts as equal: else the best point would be a matter of luck
        state.value[moved] = np.where(level[accepted], np.minimum(old, state.value[moved]), state.value[moved])
        if self.restart:
            self._lose_patience(state, moved)
        self._aim(state, moved)

    def _shortening(
        self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray
    ) -> np.ndarray:
        """1 where f(x+) <= f(y) + <grad f(y), d> + |d|^2 / (2 a), else the factor that would repair a quadratic.

        Where rounding hides the last term, <grad f(x+) - grad f(y), d> <= |d|^2 / a is asked instead, which is the
        same of a quadratic (cf. the approximate conditions of Hager and Zhang 2005).
        """
        g, d = state.origin_gradient[problems], state.trial[problems] - state.origin[problems]
        squared = dot(d, d)
        bound = squared / (2 * state.length[problems])
        ulp = _ulp(gradients.dtype, values, state.origin_value[problems])
        blind = self.quadratic | (bound <= BLIND * ulp)
        bend = np.where(blind, dot(gradients - g, d) / 2, values - state.origin_value[problems] - dot(g, d))
        noise = NOISE * np.where(blind, _ulp(gradients.dtype, np.sqrt(dot(g, g) * squared)), ulp)
        repair = np.divide(bound, bend, out=np.full_like(bend, 0.5), where=bend > 0)
        return np.where(bend <= bound + noise, 1, np.clip(repair, 0.01, 0.5))

    def _rise(
        self, state: ProximalState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Is f + penalty larger at the trial than at x? Also, are the values equal up to rounding?

        If they are, the trapezoidal rule tells, which knows the difference of a quadratic better than its values do.
        """
        x, trial = state.x[problems], state.trial[problems]
        d = trial - x
        rise = values + self.penalty.value(trial, problems) - state.value[problems]
        level = np.abs(rise) <= BLIND * _ulp(gradients.dtype, values, state.smooth[problems])
        slope = dot(state.gradient[problems] + gradients, d) / 2 + self.penalty.change(x, trial, problems)
        return np.where(level | self.quadratic, slope, rise) > 0, level

    def _lose_patience(self, state: ProximalState, problems: np.ndarray) -> None:
        """STALLED where rounding is all that moves the point."""
        ulp = _ulp(state.x.dtype, state.smooth[problems])
        fell = state.value[problems] < state.least_value[problems] - BLIND * ulp
        fell |= state.gap[problems] < state.least_gap[problems]
        better = problems[fell]
        state.least_value[better] = state.value[better]
        state.least_gap[better] = np.minimum(state.gap[better], state.least_gap[better])
        state.idle[problems] = np.where(fell, 0, state.idle[problems] + 1)
        state.stall(problems[state.idle[problems] > PATIENCE])

    def _leave(self, state: ProximalState, problems: np.ndarray) -> None:
        """Called before a trial replaces x."""

    def _aim(self, state: ProximalState, problems: np.ndarray) -> None:
        """Set the origin after a success."""
        self._to_x(state, problems)

    def _step(self, state: ProximalState, problems: np.ndarray) -> None:
        """The trial prox(y - a grad f(y), a)."""
        y, g, a = state.origin[problems], state.origin_gradient[problems], state.length[problems]
        trial = self.penalty.prox(y - per_problem(a, g) * g, a, problems)
        state.propose(problems, trial, stop=False if self.open_loop else state.plain[problems])


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """<a, b> per problem, multiplied in float64 too."""
    return np.multiply(flat(a), flat(b), dtype=np.float64).sum(axis=1)


def _ulp(dtype: np.dtype, *values: np.ndarray) -> np.ndarray:
    """Unit in the last place of the largest of the values."""
    return np.finfo(dtype).eps * np.max(np.abs(values), axis=0)
