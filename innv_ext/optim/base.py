"""The one loop of all solvers: many independent problems at once, value and gradient at one point each per round."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from innv_ext import arguments, files
from innv_ext.errors import InvalidInputError

Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
MAX_REJECTIONS = 30  # in a row; a step halved that often is below float32's resolution


class Status(enum.Enum):
    """How a problem ended; RUNNING in a result means that the callback stopped the run."""

    RUNNING = "running"
    CONVERGED = "converged: the dual gap (or KKT residual) is at most tol"
    MAX_ITER = "the iterations are exhausted"
    STALLED = "no smaller value found along the direction"
    FAILED = "the objective is not finite"

    def __repr__(self) -> str:
        return f"Status.{self.name}"


def per_problem(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """One number per problem, in the dtype of ``like`` and shaped to broadcast against it."""
    return np.asarray(values).astype(like.dtype).reshape((-1,) + (1,) * (like.ndim - 1))


def flat(array: np.ndarray) -> np.ndarray:
    """One row per problem; also for no problem at all."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def one_or_each(name: str, given: Any, spec: arguments.Allowed) -> Any:
    """A number for all problems or a tuple of one each: plain, so that parameters can be compared and printed."""
    values = arguments.as_array(name, given).tolist()
    try:
        return tuple(spec(name, v) for v in values) if isinstance(values, list) else spec(name, values)
    except InvalidInputError as error:
        expected = f"{spec.expected()}, for all problems or one each"
        raise InvalidInputError(f"{name} must be {expected}, got {given!r}.") from error


def check_count(name: str, numbers: Any, count: int) -> None:
    """As many numbers as problems, or one for all."""
    if isinstance(numbers, tuple) and len(numbers) != count:
        raise InvalidInputError(f"{name} has {len(numbers)} entries, but there are {count} problems; give one each.")


def for_problems(name: str, numbers: Any, problems: np.ndarray) -> np.ndarray:
    """The number of each of the problems, (q,)."""
    if not isinstance(numbers, tuple):
        return np.full(len(problems), numbers)
    if problems.max(initial=-1) >= len(numbers):
        count = f"at least {problems.max() + 1}"
        raise InvalidInputError(f"{name} has {len(numbers)} entries, but there are {count} problems; give one each.")
    return np.array(numbers)[problems]


def require(owner: Any, fits: bool, needed: str, *names: str) -> None:
    """Refuse parameters of the owner, the ``names``, that are out of range."""
    if not fits:
        got = ", ".join(f"{name}={getattr(owner, name)!r}" for name in names)
        raise InvalidInputError(f"{type(owner).__name__} needs {needed}, got {got}.")


def checked_points(name: str, x: np.ndarray) -> np.ndarray:
    """x, if it is an array of finite points, one per problem."""
    x = np.asarray(x)
    if x.dtype not in (np.float32, np.float64) or x.ndim < 2 or not math.prod(x.shape[1:]):
        raise InvalidInputError(
            f"{name} must be a float32 or float64 array of shape (problems, ...), got {x.dtype} of shape {x.shape}."
        )
    if not np.all(np.isfinite(x)):
        raise InvalidInputError(f"{name} contains values that are not finite; give a finite point for each problem.")
    return x


def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """<a, b> per problem, added up in float64."""
    return flat(np.multiply(a, b)).sum(axis=1, dtype=np.float64)


def each(value: Any) -> Any:
    """A field with one entry per problem, which starts with this value."""
    return starts(lambda x0: np.full(len(x0), value))


def starts(make: Callable[[np.ndarray], Any]) -> Any:
    """A field that starts with what is made of x0."""
    return field(metadata={"start": make})


class PerProblem:
    """Base of dataclasses of arrays, one entry per problem; fields made by ``each`` and ``starts`` say their start."""

    @classmethod
    def start(cls, x0: np.ndarray, **given: Any) -> Any:
        """The start at x0, shape (P, ...); ``given`` are the other fields."""
        made = {f.name: f.metadata["start"](x0) for f in fields(cls) if "start" in f.metadata}
        return cls(**made | given)


@dataclass(kw_only=True)
class State(PerProblem):
    """Everything a solver knows about P problems; solvers add fields of their own.

    ``x`` is the last accepted point with its ``value``, ``gradient`` and ``gap`` (inf: not known); ``trial`` is the
    point that is evaluated next. ``rejections`` counts rejected trials in a row.
    """

    x: np.ndarray = starts(np.ndarray.copy)
    trial: np.ndarray = starts(np.ndarray.copy)
    value: np.ndarray = each(np.inf)
    gradient: np.ndarray = starts(np.zeros_like)
    gap: np.ndarray = each(np.inf)
    status: np.ndarray = each(Status.RUNNING)
    iterations: np.ndarray = each(0)
    evaluations: np.ndarray = each(0)
    rejections: np.ndarray = each(0)
    best_x: np.ndarray = starts(np.ndarray.copy)
    best_value: np.ndarray = each(np.inf)
    best_gap: np.ndarray = each(np.inf)

    @property
    def running(self) -> np.ndarray:
        """Indices of the problems that are still running."""
        return np.flatnonzero(self.status == Status.RUNNING)

    def first(self, problems: np.ndarray) -> np.ndarray:
        """Which of the problems have no accepted point yet."""
        return np.isinf(self.value[problems])

    def accept(self, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """The trials become the points."""
        self.x[problems] = self.trial[problems]
        self.value[problems] = values
        self.gradient[problems] = gradients
        self.rejections[problems] = 0

    def reject(self, problems: np.ndarray) -> None:
        """The points stay; STALLED after too many rejections in a row."""
        self.rejections[problems] += 1
        self.stall(problems[self.rejections[problems] > MAX_REJECTIONS])

    def stall(self, problems: np.ndarray) -> None:
        """These problems are given up: STALLED."""
        self.status[problems] = Status.STALLED

    def settle(
        self, problems: np.ndarray, accepted: np.ndarray, values: np.ndarray, gradients: np.ndarray
    ) -> np.ndarray:
        """Accept the trials of some of the problems, which are returned, and reject the others."""
        moved = problems[accepted]
        self.accept(moved, values[accepted], gradients[accepted])
        self.reject(problems[~accepted])
        return moved

    def propose(self, problems: np.ndarray, trial: np.ndarray, stop: np.ndarray | bool = True) -> None:
        """The next trials; STALLED where one is the point itself, as the step is too short for floats, and ``stop``."""
        self.trial[problems] = trial
        if np.any(stop):
            self.stall(problems[stop & flat(trial == self.x[problems]).all(axis=1)])


class Solver:
    """Base of all solvers, in ask/tell form: ``state.trial`` asks, ``update`` is told.

    A solver is a frozen dataclass that holds parameters only; what changes lives in the state.
    """

    stochastic = False  # True: values are noisy, so nothing is compared, and neither tol nor a small step stops
    measure = "gap"  # what ``state.gap`` holds, for the progress bar

    @property
    def open_loop(self) -> bool:
        """True: every trial is accepted, nothing stops the run early, and the result is the last point."""
        return self.stochastic

    def init(self, x0: np.ndarray) -> State:
        """The state before the first evaluation, which is at x0."""
        return State.start(x0)

    def update(self, state: State, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        """Accept or reject the trials of ``problems`` and set their next ones."""
        raise NotImplementedError

    def finish(self, state: State) -> None:
        """Called once at the end, e.g. for a gap that is too expensive for every round."""


@dataclass(frozen=True, eq=False)
class Result:
    """What ``run`` found, one entry per problem.

    Attributes
    ----------
    x : the best accepted point (of open-loop solvers, e.g. stochastic ones: the last one)
    value, gap : the objective and the dual gap (or KKT residual) there; nan where nothing finite was evaluated, and
        the gap of lazy methods also where the best point is not the last one
    status : array of Status
    iterations, evaluations : of each problem; the first evaluation, at x0, is no iteration
    state : the solver's final state
    """

    x: np.ndarray
    value: np.ndarray
    gap: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    evaluations: np.ndarray
    state: State = field(repr=False)

    @property
    def converged(self) -> np.ndarray:
        """Which problems reached the tolerance."""
        return self.status == Status.CONVERGED

    def __repr__(self) -> str:
        counts = ", ".join(f"{np.sum(self.status == s)} {s.name}" for s in Status if np.any(self.status == s))
        parts = [f"{len(self.x)} problems ({counts})"]
        for name, numbers in (("value", self.value), ("gap", self.gap), ("evaluations", self.evaluations)):
            if np.any(np.isfinite(numbers)):
                low, high = np.nanmin(numbers), np.nanmax(numbers)
                parts.append(f"{name} {low:.4g}" if low == high else f"{name} {low:.4g} to {high:.4g}")
        return f"Result({', '.join(parts)})"


def run(
    solver: Solver,
    objective: Objective,
    x0: np.ndarray,
    *,
    max_iter: int = 50,
    tol: float = 1e-7,
    callback: Callable[[State], Any] | None = None,
    progress: bool = False,
    description: str = "",
) -> Result:
    """Minimise P independent objectives.

    Parameters
    ----------
    solver : e.g. ``FrankWolfe(CappedSimplex(k))``
    objective : ``(points (q, ...), problems (q,)) -> (values (q,), gradients (q, ...))``; it sees the problems that
        are still running only, ``problems`` are their indices
    x0 : start, shape (P, ...), float32 or float64; the work is done in its dtype, and it is not changed
    max_iter : evaluations per problem after the first one
    tol : a problem is CONVERGED when its dual gap (or KKT residual, see the solver) is at most this
    callback : called with the state after each round, e.g. to keep its ``best_value``; a true return value stops
    progress : show a bar with the mean objective and the largest gap or residual, on runs of more than 3 seconds
    description : label of the bar

    Returns
    -------
    Result : the best points, with objective, dual gap, status and counts of each problem

    Raises
    ------
    InvalidInputError : x0 is no finite float array, max_iter or tol is negative, or the objective returns other shapes

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import CappedSimplex, SpectralProjectedGradient, run
    >>> target = np.array([[0.9, 0.8, -1.0], [0.2, 0.3, 0.1]])
    >>> def distance(points, problems):
    ...     d = points - target[problems]
    ...     return np.sum(d * d, axis=1), 2 * d
    >>> result = run(SpectralProjectedGradient(CappedSimplex(1)), distance, np.zeros((2, 3)))
    >>> result.x.round(3)
    array([[0.55, 0.45, 0.  ],
           [0.2 , 0.3 , 0.1 ]])
    >>> result.converged
    array([ True,  True])
    """
    x0 = checked_points("x0", x0)
    arguments.positive_int("max_iter", max_iter, 0)
    arguments.number("tol", tol)
    state = solver.init(x0)
    with files.Progress(max_iter + 1, description, progress, "round") as bar:
        for _ in range(max_iter + 1):
            problems = state.running
            if not len(problems):
                break
            _one_round(solver, objective, state, problems, tol)
            bar.update(note=_summary(solver, state))
            if callback is not None and callback(state):
                break
        else:
            state.status[state.running] = Status.MAX_ITER
    solver.finish(state)
    _record(solver, state, np.flatnonzero(np.isfinite(state.value)), tol)
    value, gap = (np.where(np.isinf(known), np.nan, known) for known in (state.best_value, state.best_gap))
    return Result(state.best_x, value, gap, state.status, state.iterations, state.evaluations, state)


def _one_round(solver: Solver, objective: Objective, state: State, problems: np.ndarray, tol: float) -> None:
    """Evaluate the trials, drop the problems that are not finite, tell the solver, look who is done."""
    values, gradients = objective(state.trial[problems], problems.copy())
    values, gradients = np.asarray(values, np.float64), np.asarray(gradients, state.x.dtype)
    expected = (len(problems), *state.x.shape[1:])
    if values.shape != expected[:1] or gradients.shape != expected:
        raise InvalidInputError(
            f"objective must return values {expected[:1]} and gradients {expected}, one per point that it got, "
            f"but returned {values.shape} and {gradients.shape}."
        )
    state.iterations[problems] += state.evaluations[problems] > 0
    state.evaluations[problems] += 1
    finite = np.isfinite(values) & flat(np.isfinite(gradients)).all(axis=1)
    state.status[problems[~finite]] = Status.FAILED
    problems = problems[finite]
    if len(problems):
        solver.update(state, problems, values[finite], gradients[finite])
        _record(solver, state, problems, tol)


def _record(solver: Solver, state: State, problems: np.ndarray, tol: float) -> None:
    """Keep the best accepted points; a small gap means CONVERGED, whatever else was found."""
    better = problems
    if not solver.open_loop:
        better = problems[state.value[problems] <= state.best_value[problems]]
        done = problems[state.gap[problems] <= tol]
        # a gap that became known at the end says nothing about a problem whose objective failed
        state.status[done[state.status[done] != Status.FAILED]] = Status.CONVERGED
    state.best_x[better] = state.x[better]
    state.best_value[better] = state.value[better]
    state.best_gap[better] = state.gap[better]


def _summary(solver: Solver, state: State) -> str:
    values, gaps = state.value[np.isfinite(state.value)], state.gap[np.isfinite(state.gap)]
    text = f"mean objective {values.mean():.4g}" if len(values) else ""
    return f"{text}, largest {solver.measure} {gaps.max():.2g}" if len(gaps) else text
