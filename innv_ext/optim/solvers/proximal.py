"""Proximal gradient methods for f(x) + penalty(x), f smooth: plain (ISTA) and accelerated (FISTA).

The solvers get value and gradient of f and add the penalty: values, history and the best point are those of the sum;
values that differ by rounding count as equal. The gap is the relative KKT residual: the norm of the smallest element of
grad f(x) + subdifferential of the penalty, divided by the norm of grad f at the start (at least the smallest normal
number); the norm is the largest |component|, of groups the largest 2-norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import each, flat, per_problem, starts
from innv_ext.optim.solvers.backtracking import Backtracking, ProximalState, dot


@dataclass(kw_only=True)
class AverageState(ProximalState):
    """The last points of fixed steps and the number of ``updates``."""

    recent: np.ndarray
    updates: np.ndarray = each(0)


@dataclass(frozen=True)
class ProximalGradient(Backtracking):
    """Proximal gradient descent (ISTA): x+ = prox(x - a grad f(x), a).

    With backtracking, a is shortened until f(x+) <= f(x) + <grad f(x), d> + |d|^2 / (2 a), d = x+ - x, and grows
    slowly after successes; values never rise, also if f is not convex. Without it, the steps are as given: nothing is
    rejected, nothing stops the run (``tol`` neither) and the result is the last point, whatever its value.
    ``max_iter=T`` gives exactly T updates by T + 1 evaluations; the last one is at the result.

    Parameters
    ----------
    penalty : e.g. ``L1(0.1)``
    length : the step a, one number or one per problem; backtracking starts with it and never exceeds it. None: the
        first step moves the steepest component by 1, and there is no limit
    backtracking : False for fixed steps, also on noisy f
    average : with fixed steps, the result is the mean of the last ``average`` updates (of all, if there are fewer); 0
        and 1 mean the last one. Value and gap of a mean are nan, because it is not evaluated

    Raises
    ------
    InvalidInputError : fixed steps without a length, an average without fixed steps, numbers out of range

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import L1, run
    >>> target = np.array([[3.0, -0.5, -2.0]])
    >>> distance = lambda x, problems: (np.sum((x - target) ** 2, axis=1) / 2, x - target)
    >>> run(ProximalGradient(L1(1.0)), distance, np.zeros((1, 3))).x.round(6)
    array([[ 2.,  0., -1.]])
    >>> run(ProximalGradient(L1(1.0), 0.5, backtracking=False), distance, np.zeros((1, 3)), max_iter=2).x
    array([[ 1.5 ,  0.  , -0.75]])
    """

    backtracking: bool = True
    average: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.backtracking and self.length is None:
            raise InvalidInputError("length must be given for fixed steps (backtracking=False), got None.")
        arguments.positive_int("average", self.average, 0)
        if self.average and self.backtracking:
            raise InvalidInputError(f"average is for fixed steps: set backtracking=False. Got average={self.average}.")

    @property
    def open_loop(self) -> bool:
        return not self.backtracking

    def _state(self, x0: np.ndarray) -> ProximalState:
        recent = np.zeros((len(x0), self.average, *x0.shape[1:]), x0.dtype)
        state = AverageState.start(x0, recent=recent)
        # every step starts at x
        state.origin, state.origin_value, state.origin_gradient = state.x, state.smooth, state.gradient
        return state

    def _judge(self, state: AverageState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        if self.backtracking:
            super()._judge(state, problems, values, gradients)
            return
        self._accept(state, problems, values, gradients)
        if self.average:
            state.recent[problems, state.updates[problems] % self.average] = state.x[problems]
        state.updates[problems] += 1

    def finish(self, state: AverageState) -> None:
        counts = np.minimum(state.updates, self.average)
        for p in np.flatnonzero(counts > 1):
            state.x[p] = state.best_x[p] = state.recent[p, : counts[p]].mean(axis=0, dtype=np.float64)
            state.value[p] = state.gap[p] = state.best_value[p] = state.best_gap[p] = np.inf  # not known


@dataclass(kw_only=True)
class FistaState(ProximalState):
    """The point before x and its gradient, the t of the momentum; ``at_origin``: the trial is the origin itself."""

    previous: np.ndarray = starts(np.ndarray.copy)
    previous_gradient: np.ndarray = starts(np.zeros_like)
    time: np.ndarray = each(1.0)
    at_origin: np.ndarray = each(False)


@dataclass(frozen=True)
class Fista(Backtracking):
    """Accelerated proximal gradient (FISTA, Beck and Teboulle 2009) with backtracking and adaptive restart.

    Steps start at y = x + (t - 1) / t+ (x - previous x), t+ = (1 + sqrt(1 + 4 t^2)) / 2. f is evaluated at y, unless
    that is x, and at the new x; only the latter counts as an iteration, while ``max_iter`` bounds the evaluations
    after the first one.

    Restarts (O'Donoghue and Candes 2015): when f + penalty rises, the point is rejected and the step repeated from x
    without momentum; when a step turns against the last move, <y - x+, x+ - x> > 0, the momentum is dropped before
    it does harm. Values never rise, so that the method is safe where f is not convex.

    Parameters
    ----------
    penalty : e.g. ``L1(0.1)``
    length : longest step, one number or one per problem, e.g. 1 / largest curvature; None: no limit, and the first
        step moves the steepest component by 1. Steps are shortened where f bends more, and grow slowly otherwise
    quadratic : f is a quadratic: its gradient at y is a combination of known ones, so that each iteration needs one
        evaluation instead of two
    restart : False: the plain method, whose values may rise for long; the result is the best point seen

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import L1, run
    >>> c = np.array([[1.0, 100.0]])
    >>> f = lambda x, problems: (np.sum(c * (x - 1) ** 2, axis=1) / 2, c * (x - 1))
    >>> run(Fista(L1(0.5), quadratic=True), f, np.zeros((1, 2)), max_iter=100).x.round(4)
    array([[0.5  , 0.995]])
    """

    quadratic: bool = False
    restart: bool = True

    def _state(self, x0: np.ndarray) -> FistaState:
        return FistaState.start(x0)

    def update(self, state: FistaState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Steps go on from momentum points as soon as these are evaluated."""
        here = state.at_origin[problems]
        y, tried = problems[here], problems[~here]
        state.origin_value[y], state.origin_gradient[y] = values[here], gradients[here]
        state.at_origin[y] = False
        state.iterations[y] -= 1
        self._step(state, y)
        if len(tried):
            super().update(state, tried, values[~here], gradients[~here])

    def _to_x(self, state: FistaState, problems: np.ndarray) -> None:
        super()._to_x(state, problems)
        state.time[problems] = 1

    def _leave(self, state: FistaState, problems: np.ndarray) -> None:
        x, trial = state.x[problems], state.trial[problems]
        state.previous[problems], state.previous_gradient[problems] = x, state.gradient[problems]
        if self.restart:
            state.time[problems[dot(state.origin[problems] - trial, trial - x) > 0]] = 1

    def _aim(self, state: FistaState, problems: np.ndarray) -> None:
        """The momentum point; where it is x itself, nothing needs to be evaluated."""
        t = state.time[problems]
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        x = state.x[problems]
        share = per_problem((t - 1) / following, x)
        y = x + share * (x - state.previous[problems])
        still = flat(y == x).all(axis=1)
        self._to_x(state, problems[still])
        state.time[problems] = following
        moving = problems[~still]
        state.origin[moving], state.plain[moving] = y[~still], False
        if self.quadratic:
            g = state.gradient[moving]
            state.origin_gradient[moving] = g + share[~still] * (g - state.previous_gradient[moving])
        else:
            state.at_origin[moving], state.trial[moving] = True, y[~still]

    def _step(self, state: FistaState, problems: np.ndarray) -> None:
        super()._step(state, problems[~state.at_origin[problems]])
