"""The loop: statuses, budgets, bookkeeping, dtypes, interruption."""

import io
import itertools
import sys

import numpy as np
import pytest
from optim_problems import on_capped_simplex, start

from innv_ext.errors import InvalidInputError
from innv_ext.optim import (
    Adaptive,
    AwayFrankWolfe,
    Box,
    CappedSimplex,
    EntropicMirror,
    FrankWolfe,
    Open,
    ProjectedGradient,
    RateGrid,
    Solver,
    SpectralProjectedGradient,
    State,
    Status,
    StochasticFrankWolfe,
    run,
)

SIMPLEX_SOLVERS = {
    "fw": FrankWolfe(CappedSimplex(3)),
    "fw adaptive": FrankWolfe(CappedSimplex(3), Adaptive()),
    "fw open": FrankWolfe(CappedSimplex(3), Open()),
    "lcg": FrankWolfe(CappedSimplex(3), lazy=True),
    "afw": AwayFrankWolfe(CappedSimplex(3)),
    "afw adaptive": AwayFrankWolfe(CappedSimplex(3), Adaptive()),
    "lafw": AwayFrankWolfe(CappedSimplex(3), lazy=True),
    "pgd": ProjectedGradient(CappedSimplex(3)),
    "spg": SpectralProjectedGradient(CappedSimplex(3)),
    "warm spg": SpectralProjectedGradient(CappedSimplex(3), warm=5),
    "sfw": StochasticFrankWolfe(CappedSimplex(3), lambda t: 0.5),
}
GRID_SOLVERS = {
    "mirror": EntropicMirror((2, 5)),
    "grid fw": FrankWolfe(RateGrid((2, 5))),
    "grid afw": AwayFrankWolfe(RateGrid((2, 5))),
    "grid sfw": StochasticFrankWolfe(RateGrid((2, 5))),
}
SOLVERS = SIMPLEX_SOLVERS | GRID_SOLVERS


def problem(name, count=4, dtype="float64", seed=0):
    """(objective, x0): a quadratic with its minimum outside of the region, and a smooth non-convex term."""
    rng = np.random.default_rng(seed)
    shape = (8, 2) if name in GRID_SOLVERS else (8,)
    target = rng.normal(0.5, 1, (count, *shape))
    x0 = np.tile(np.array([2, 5]) / 8, (count, 8, 1)) if name in GRID_SOLVERS else np.full((count, 8), 3 / 8)

    def objective(points, problems):
        axes = tuple(range(1, points.ndim))
        d = points - target[problems]
        values = np.sum(d * d + np.cos(3 * points), axis=axes)
        return values, (2 * d - 3 * np.sin(3 * points)).astype(points.dtype)

    return objective, x0.astype(dtype)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_run_keeps_its_books(name):
    objective, x0 = problem(name)
    seen = {p: [] for p in range(4)}
    points = []

    def counted(at, problems):
        values, gradients = objective(at, problems)
        for p, value in zip(problems, values, strict=True):
            seen[p].append(value)
        points.append(at.copy())
        at += 1e9  # the solver's arrays are its own
        return values, gradients

    states, best = [], []

    def watch(state):
        states.append(state.value.copy())
        best.append(state.best_value.copy())

    result = run(SOLVERS[name], counted, x0, max_iter=12, callback=watch)
    np.testing.assert_array_equal(points[0], x0)
    np.testing.assert_array_equal(result.evaluations, [len(v) for v in seen.values()])
    np.testing.assert_array_equal(result.iterations, result.evaluations - 1)
    assert result.evaluations.max() <= 13 and len(best) == len(states) == result.evaluations.max()
    value, gradient = objective(result.x, np.arange(4))
    np.testing.assert_allclose(result.value, value, rtol=1e-12)
    if SOLVERS[name].stochastic:
        np.testing.assert_array_equal(result.value, [v[-1] for v in seen.values()])
        np.testing.assert_array_equal(best, states)
    else:
        np.testing.assert_array_equal(result.value, np.min(states, axis=0))
        if "adaptive" not in name and name != "pgd":  # which may reject a smaller value as not small enough
            np.testing.assert_array_equal(result.value, [min(v) for v in seen.values()])
        assert np.all(np.diff(best, axis=0) <= 0) and np.all(best[-1] == result.value)
    if name not in ("fw open", "sfw", "grid sfw"):  # a gap that belongs to the result
        region = RateGrid((2, 5)) if name in GRID_SOLVERS else CappedSimplex(3)
        v = region.minimize(gradient, np.arange(4))
        exact = np.sum((gradient * (result.x - v)).reshape(4, -1), axis=1)
        np.testing.assert_allclose(result.gap, exact, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_start_are_kept(name, dtype):
    objective, x0 = problem(name, dtype=dtype)
    copy = x0.copy()

    def watched(points, problems):
        assert points.dtype == dtype
        return objective(points, problems)

    result = run(SOLVERS[name], watched, x0, max_iter=6)
    np.testing.assert_array_equal(x0, copy)
    assert result.x.dtype == dtype and result.x.shape == x0.shape and not np.shares_memory(result.x, x0)
    for name_, array in vars(result.state).items():
        if isinstance(array, np.ndarray) and (array.shape == x0.shape or array.ndim == 3):
            assert array.dtype == dtype, name_
    assert result.value.dtype == result.gap.dtype == np.float64


@pytest.mark.parametrize("name", SOLVERS)
def test_problems_do_not_meet(name):
    """Each problem runs through the same points alone and in a batch, in any company."""
    objective, x0 = problem(name, count=5)
    together = run(SOLVERS[name], objective, x0, max_iter=15)
    for p in range(5):
        alone = run(SOLVERS[name], lambda x, _, p=p: objective(x, np.array([p])), x0[p : p + 1], max_iter=15)
        np.testing.assert_allclose(alone.x[0], together.x[p], atol=1e-9)
        np.testing.assert_allclose(alone.value[0], together.value[p], atol=1e-9)
        assert alone.status[0] == together.status[p] and alone.evaluations[0] == together.evaluations[p]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_failing_problem_does_not_stop_the_others(name):
    objective, x0 = problem(name)
    clean = run(SOLVERS[name], objective, x0, max_iter=10)
    rounds = np.zeros(4, int)

    def broken(points, problems):
        values, gradients = objective(points, problems)
        rounds[problems] += 1
        values[(problems == 0) & (rounds[problems] == 1)] = np.inf
        values[(problems == 1) & (rounds[problems] == 4)] = np.nan
        gradients[(problems == 2) & (rounds[problems] == 3)] = np.nan
        return values, gradients

    result = run(SOLVERS[name], broken, x0, max_iter=10)
    failed = [Status.FAILED] * 3 if clean.evaluations[:3].min() >= 4 else list(result.status[:3])
    assert list(result.status[:3]) == failed and result.status[3] == clean.status[3]
    assert result.status[0] == Status.FAILED and np.isnan(result.value[0]) and np.isnan(result.gap[0])
    np.testing.assert_array_equal(result.x[0], x0[0])
    assert result.evaluations[0] == 1
    for p in (1, 2):
        assert np.all(np.isfinite(result.x[p])) and np.isfinite(result.value[p])
        np.testing.assert_allclose(objective(result.x[p : p + 1], np.array([p]))[0][0], result.value[p])
        short = run(SOLVERS[name], objective, x0, max_iter=int(result.evaluations[p]) - 2)
        np.testing.assert_allclose(result.x[p], short.x[p], atol=1e-9)
    np.testing.assert_allclose(result.x[3], clean.x[3], atol=1e-9)


def test_max_iter_and_converged():
    objective, k = on_capped_simplex(0, "vertex")
    x0 = start(3, 8, k)
    result = run(FrankWolfe(CappedSimplex(k)), objective, x0, max_iter=0)
    assert list(result.status) == [Status.MAX_ITER] * 3 and not result.converged.any()
    np.testing.assert_array_equal(result.evaluations, 1)
    np.testing.assert_array_equal(result.x, x0)
    assert np.all(result.gap > 0)
    result = run(FrankWolfe(CappedSimplex(k)), objective, x0, max_iter=500)
    assert result.converged.all() and np.all(result.gap <= 1e-7)
    assert set(result.status) == {Status.CONVERGED}


def test_only_running_problems_are_evaluated():
    """The first problem starts at its optimum."""
    objective, k = on_capped_simplex(1, "face")
    x0 = start(3, 8, k)
    x0[0] = objective.best[0]
    result = run(SpectralProjectedGradient(CappedSimplex(k)), objective, x0, max_iter=200, tol=1e-6)
    assert result.converged.all() and result.evaluations[0] == 1
    np.testing.assert_array_equal(objective.calls[0], [0, 1, 2])
    assert all(0 not in problems for problems in objective.calls[1:])


@pytest.mark.parametrize("rise", [0.0, 1.0])
@pytest.mark.parametrize("name", [n for n in SOLVERS if not SOLVERS[n].stochastic and n != "fw open"])
def test_stalled(name, rise):
    """A wrong gradient: steps get shorter until nothing changes any more, and the best point is the first."""
    _, x0 = problem(name, dtype="float32")
    downhill = np.random.default_rng(0).normal(size=x0.shape).astype("float32")
    values = itertools.count(1.0, rise)
    result = run(SOLVERS[name], lambda x, p: (np.full(len(x), next(values)), downhill[p]), x0, max_iter=200)
    assert list(result.status) == [Status.STALLED] * 4
    assert result.evaluations.max() <= 60
    np.testing.assert_array_equal(result.x, x0)
    np.testing.assert_array_equal(result.value, 1)


@pytest.mark.parametrize("name", ["sfw", "grid sfw"])
def test_noisy_solvers_never_stop_early(name):
    _, x0 = problem(name)
    constant = -np.ones_like(x0)
    result = run(SOLVERS[name], lambda x, p: (np.ones(len(x)), constant[p]), x0, max_iter=30, tol=1e9)
    assert list(result.status) == [Status.MAX_ITER] * 4 and np.all(result.evaluations == 31)


def test_the_callback_sees_every_round_and_can_stop():
    objective, x0 = problem("spg")
    rounds_seen = []
    result = run(
        SOLVERS["spg"],
        objective,
        x0,
        callback=lambda state: rounds_seen.append(state.evaluations.max()) or len(rounds_seen) == 3,
    )
    assert rounds_seen == [1, 2, 3] and list(result.status) == [Status.RUNNING] * 4
    assert isinstance(result.state, State)


@pytest.mark.parametrize("progress", [False, True])
def test_an_interrupt_passes_through(progress, monkeypatch):
    objective, x0 = problem("fw")
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    calls = []

    def interrupted(points, problems):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return objective(points, problems)

    with pytest.raises(KeyboardInterrupt):
        run(SOLVERS["fw"], interrupted, x0, progress=progress)
    assert len(calls) == 3
    run(SOLVERS["fw"], objective, x0, max_iter=2, progress=progress)  # nothing is left behind
    assert text.getvalue() == ""  # shorter than the delay of the bar


def test_the_bar_shows_objective_and_gap(terminal):
    objective, x0 = problem("fw")
    run(SOLVERS["fw"], objective, x0, max_iter=3, progress=True, description="solving")
    for words in ("solving", "4/4 round", "mean objective", "largest gap"):
        assert words in terminal.getvalue()


def test_no_problem_at_all():
    objective, x0 = problem("fw")
    for solver in SIMPLEX_SOLVERS.values():
        result = run(solver, objective, x0[:0])
        assert result.x.shape == (0, 8) and len(result.status) == 0
        assert repr(result) == "Result(0 problems ())"


def test_repr():
    objective, k = on_capped_simplex(0, "vertex")
    result = run(FrankWolfe(CappedSimplex(k)), objective, start(3, 8, k), max_iter=1000)
    text = repr(result)
    assert text.startswith("Result(3 problems (3 CONVERGED), value ") and "gap " in text and "evaluations " in text
    assert repr(Status.STALLED) == "Status.STALLED"


def test_a_solver_of_ones_own():
    """The ask/tell contract: init and update are all that a solver needs."""

    class Bisection(Solver):
        def update(self, state, problems, values, gradients):
            state.accept(problems, values, gradients)
            state.gap[problems] = np.abs(gradients[:, 0])
            state.propose(problems, state.x[problems] - gradients / 2)

    result = run(Bisection(), lambda x, p: (np.sum((x - 1) ** 2, axis=1), 2 * (x - 1)), np.zeros((2, 1)))
    np.testing.assert_array_equal(result.x, 1)
    assert result.converged.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": np.zeros(3)}, "x0 must be a float32 or float64 array of shape"),
        ({"x0": np.zeros((1, 3), int)}, "x0 must be a float32 or float64"),
        ({"x0": np.array([[np.nan]])}, "x0 contains values that are not finite"),
        ({"max_iter": -1}, "max_iter must be an integer of at least 0, got -1"),
        ({"max_iter": 2.5}, "max_iter"),
        ({"tol": -1.0}, "tol must be a number of at least 0, got"),
        ({"tol": float("nan")}, "tol must be a number of at least 0, got"),
        ({"objective": lambda x, p: (np.zeros(7), np.zeros_like(x))}, r"values \(1,\) and gradients \(1, 3\)"),
        ({"objective": lambda x, p: (np.zeros(len(x)), np.zeros((1, 4)))}, "objective must return"),
    ],
)
def test_bad_input(change, message):
    arguments = {"x0": np.zeros((1, 3)), "objective": lambda x, p: (np.zeros(len(x)), np.zeros_like(x))} | change
    objective, x0 = arguments.pop("objective"), arguments.pop("x0")
    with pytest.raises(InvalidInputError, match=message):
        run(FrankWolfe(Box()), objective, x0, **arguments)
