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
@given(st.integers(0, 10**6), st.sampled_from(["float32", "float64"]), st.booleans())
def test_grids_stay_feasible_and_values_fall(seed, dtype, stochastic):
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

    run(EntropicMirror(RATES, stochastic=stochastic), objective, UNIFORM.astype(dtype), max_iter=40, callback=watch)
    if not stochastic:
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


def test_the_gap_is_exact_at_the_end_and_on_request_in_every_round():
    objective = quadratic(2)
    lazy, eager = (
        run(EntropicMirror(RATES, exact_gap=exact), objective, UNIFORM, max_iter=200, tol=0.05)
        for exact in (False, True)
    )
    assert eager.converged.all() and eager.evaluations.max() < lazy.evaluations.max()
    np.testing.assert_array_equal(lazy.state.oracle_calls, 1)
    assert lazy.converged.all()  # known at the end only, with all iterations spent
    for result in (lazy, eager):
        g = objective(result.x, np.arange(3))[1]
        gap = np.sum(g * (result.x - rate_grid(g, RATES)), axis=(1, 2))
        np.testing.assert_allclose(result.gap, gap, atol=1e-12)


def test_noisy_gradients():
    """Decreasing steps average the noise out; every step is accepted, with eta as documented."""
    exact, rng, etas = quadratic(3), np.random.default_rng(0), []

    def noisy(s, p):
        values, g = exact(s, p)
        return values + rng.normal(size=len(s)), g + 0.3 * rng.normal(size=s.shape)

    solver = EntropicMirror(RATES, scale=0.5, stochastic=True, decay=0.5)
    result = run(solver, noisy, UNIFORM, max_iter=400, callback=lambda state: etas.append(state.eta.copy()))
    best = run(AwayFrankWolfe(RateGrid(RATES), Adaptive()), exact, UNIFORM, max_iter=100, tol=1e-3)
    start = exact(UNIFORM, np.arange(3))[0]
    assert np.all(exact(result.x, np.arange(3))[0] - best.value < 0.1 * (start - best.value))
    np.testing.assert_allclose(etas, etas[0] / np.sqrt(np.arange(1, 402))[:, None])
    constant = []
    run(
        EntropicMirror(RATES, stochastic=True),
        noisy,
        UNIFORM,
        max_iter=5,
        callback=lambda state: constant.append(state.eta.copy()),
    )
    np.testing.assert_allclose(constant, np.tile(constant[0], (6, 1)))


def test_a_start_at_a_vertex_can_be_left():
    g = np.random.default_rng(4).normal(size=(1, N, 3))
    linear = lambda s, p: (np.sum(g[p] * s, axis=(1, 2)), g[p])
    result = run(EntropicMirror(RATES), linear, rate_grid(-g, RATES), max_iter=60)
    np.testing.assert_allclose(result.x, rate_grid(g, RATES), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_flat_objective_stays_where_it_is(dtype, stochastic):
    flat = lambda s, p: (np.ones(len(s)), np.zeros_like(s))
    result = run(EntropicMirror(RATES, stochastic=stochastic), flat, UNIFORM.astype(dtype), max_iter=5, tol=0)
    assert set(result.status) <= ({Status.MAX_ITER} if stochastic else {Status.STALLED, Status.CONVERGED})
    np.testing.assert_allclose(result.x, UNIFORM, atol=1e-6)
    np.testing.assert_array_equal(result.gap, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntropicMirror((3, 2)), "increase strictly"),
        (lambda: EntropicMirror(RATES, shrink=1.0), "EntropicMirror needs"),
        (lambda: EntropicMirror(RATES, scale=0.0), "EntropicMirror needs"),
        (lambda: EntropicMirror(RATES, decay=0.5), "decay is for stochastic=True"),
        (lambda: run(EntropicMirror(RATES), quadratic(0), UNIFORM[:, :, :2]), "one column per rate"),
        (lambda: run(EntropicMirror(RATES), quadratic(0), UNIFORM[:, :6]), "within 1 and 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
