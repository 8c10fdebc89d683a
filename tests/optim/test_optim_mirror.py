"""Entropic mirror descent against a plain Sinkhorn version, linear and quadratic optima, and its invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innv_ext.errors import InvalidInputError
from innv_ext.optim import Adaptive, AwayFrankWolfe, EntropicMirror, RateGrid, Status, rate_grid, run

fast = settings(max_examples=20, deadline=None, derandomize=True, database=None)
RATES, N = (2, 5, 6), 9
UNIFORM = np.tile(np.array(RATES) / N, (3, N, 1))


def quadratic(seed, count=3):
    rng = np.random.default_rng(seed)
    target = rng.uniform(-0.5, 1.5, (count, N, len(RATES)))

    def objective(s, problems):
        d = s - target[problems]
        return np.sum(d * d, axis=(1, 2)), 2 * d

    return objective


def twin(objective, s, evaluations, scale=2.0, grow=1.3, shrink=0.4):
    """One problem, with loops: X_l = S_l - S_(l-1), X <- Sinkhorn(X * exp(-eta C))."""
    sizes = np.diff([0, *RATES, N])
    x = np.diff(np.concatenate([np.zeros((N, 1)), s, np.ones((N, 1))], axis=1), axis=1)
    value, g = objective(s)
    eta = scale / np.std(costs(g))
    for _ in range(evaluations - 1):
        z = x * np.exp(-eta * costs(g))
        for _ in range(3000):
            z = z / z.sum(axis=1, keepdims=True)
            z = z * sizes / z.sum(axis=0)
        trial = np.cumsum(z, axis=1)[:, :-1]
        new, g_new = objective(trial)
        if new < value:
            x, value, g, s, eta = z, new, g_new, trial, grow * eta
        else:
            eta = shrink * eta
    return s, value


def costs(g):
    """The derivative with respect to X_l: all S_j with j >= l contain X_l."""
    m = g.shape[1]
    return np.stack([g[:, column:].sum(axis=1) for column in range(m + 1)], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_path(seed):
    objective = quadratic(seed)
    for evaluations in (2, 4, 9):
        result = run(EntropicMirror(RATES, tol=1e-10), objective, UNIFORM, max_iter=evaluations - 1)
        for p in range(3):
            one = lambda s, p=p: tuple(a[0] for a in objective(s[None], np.array([p])))
            s, value = twin(one, UNIFORM[p], evaluations)
            np.testing.assert_allclose(result.x[p], s, atol=1e-6)
            assert result.value[p] == pytest.approx(value, abs=1e-6)


def test_steps_adapt():
    """eta grows by 1.3 after a success and shrinks by 0.4 after a failure."""
    values, etas = iter([5.0, 4.0, 4.5, 3.0, 2.0]), []
    g = np.random.default_rng(0).normal(size=(1, N, 3))
    run(
        EntropicMirror(RATES),
        lambda s, p: (np.array([next(values)]), g),
        UNIFORM[:1],
        max_iter=4,
        callback=lambda state: etas.append(state.eta[0]),
    )
    first = 2 / np.std(costs(g[0]))
    np.testing.assert_allclose(etas, first * np.array([1, 1.3, 1.3 * 0.4, 1.3**2 * 0.4, 1.3**3 * 0.4]))


@fast
@given(st.integers(0, 10**6), st.sampled_from(["float32", "float64"]))
def test_grids_stay_feasible_and_values_fall(seed, dtype):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, N, 3)) * np.exp(3 * rng.normal(size=(3, N, 1)))
    values = []

    def objective(s, problems):
        return np.sum(weights[problems] * s + s * s, axis=(1, 2)), (weights[problems] + 2 * s).astype(s.dtype)

    def watch(state):
        for s in (state.x, state.trial):
            assert np.all((s >= 0) & (s <= 1)) and np.all(np.diff(s, axis=2) >= 0)
            np.testing.assert_allclose(s.sum(axis=1, dtype=float), np.tile(RATES, (3, 1)), rtol=1e-5)
        values.append(state.value.copy())

    run(EntropicMirror(RATES), objective, UNIFORM.astype(dtype), max_iter=40, callback=watch)
    assert np.all(np.diff(values, axis=0) <= 0)


def test_a_linear_objective_ends_at_the_vertex_of_the_oracle():
    g = np.random.default_rng(1).normal(size=(3, N, 3))
    linear = lambda s, p: (np.sum(g[p] * s, axis=(1, 2)), g[p])
    result = run(EntropicMirror(RATES), linear, UNIFORM, max_iter=60, tol=1e-4)
    np.testing.assert_allclose(result.x, rate_grid(g, RATES), atol=1e-3)
    assert result.converged.all()


def test_it_agrees_with_frank_wolfe():
    objective = quadratic(5)
    mirror = run(EntropicMirror(RATES), objective, UNIFORM, max_iter=300)
    away = run(AwayFrankWolfe(RateGrid(RATES), Adaptive()), objective, UNIFORM, max_iter=100, tol=1e-3)
    np.testing.assert_allclose(mirror.value, away.value, atol=1e-3)
    assert np.all(mirror.gap >= mirror.value - away.value - 1e-9)


def test_the_gap_is_exact_and_known_at_the_end_only():
    objective, seen = quadratic(2), []
    result = run(
        EntropicMirror(RATES), objective, UNIFORM, max_iter=200, tol=0.05, callback=lambda s: seen.append(s.gap.copy())
    )
    assert np.all(np.isinf(seen)) and result.converged.all()
    np.testing.assert_array_equal(result.state.oracle_calls, 1)
    g = objective(result.x, np.arange(3))[1]
    gap = np.sum(g * (result.x - rate_grid(g, RATES)), axis=(1, 2))
    np.testing.assert_allclose(result.gap, gap, atol=1e-12)


def test_a_start_at_a_vertex_can_be_left():
    g = np.random.default_rng(4).normal(size=(1, N, 3))
    linear = lambda s, p: (np.sum(g[p] * s, axis=(1, 2)), g[p])
    result = run(EntropicMirror(RATES), linear, rate_grid(-g, RATES), max_iter=60)
    np.testing.assert_allclose(result.x, rate_grid(g, RATES), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_flat_objective_stays_where_it_is(dtype):
    flat = lambda s, p: (np.ones(len(s)), np.zeros_like(s))
    result = run(EntropicMirror(RATES), flat, UNIFORM.astype(dtype), max_iter=5, tol=0)
    assert set(result.status) <= {Status.STALLED, Status.CONVERGED}
    np.testing.assert_allclose(result.x, UNIFORM, atol=1e-6)
    np.testing.assert_array_equal(result.gap, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntropicMirror((3, 2)), "increase strictly"),
        (lambda: EntropicMirror(RATES, shrink=1.0), "EntropicMirror needs"),
        (lambda: EntropicMirror(RATES, scale=0.0), "EntropicMirror needs"),
        (lambda: run(EntropicMirror(RATES), quadratic(0), UNIFORM[:, :, :2]), "one column per rate"),
        (lambda: run(EntropicMirror(RATES), quadratic(0), UNIFORM[:, :6]), "within 1 and 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


@pytest.mark.parametrize("scale", [160.0, 1000.0])
def test_no_step_is_harder_than_float32_can_balance(scale):
    """eta std(C) is 200 at most, whether a longer step is asked for or steps have grown."""
    g = np.random.default_rng(0).normal(size=UNIFORM.shape)
    linear = lambda s, problems: (np.sum(g[problems] * s, axis=(1, 2)), g[problems])
    spread, hardest = [np.std(costs(one)) for one in g], 0.0
    for rounds in range(4):
        eta = run(EntropicMirror(RATES, scale=scale), linear, UNIFORM, max_iter=rounds).state.eta
        hardest = max(hardest, (eta * spread).max())
    np.testing.assert_allclose(hardest, 200)
