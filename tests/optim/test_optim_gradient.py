"""Projected and spectral projected gradient against single-problem versions and known optima."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_problems import Quadratic, curvature, on_capped_simplex, start

from innv_ext.errors import InvalidInputError
from innv_ext.optim import (
    Birkhoff,
    Box,
    CappedSimplex,
    KSparse,
    ProjectedGradient,
    SpectralProjectedGradient,
    Status,
    nonnegative_k_sparse,
    project_capped_simplex,
    run,
)

fast = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SOLVERS = {
    "pgd": ProjectedGradient,
    "spg": SpectralProjectedGradient,
    "warm spg": lambda region: SpectralProjectedGradient(region, warm=8),
}


def wavy(seed, count=4, n=7):
    """A non-convex objective, so that steps get rejected."""
    rng = np.random.default_rng(seed)
    target, frequency = rng.normal(0.5, 1, (count, n)), rng.uniform(2, 9, (count, n))

    def objective(x, problems):
        d, w = x - target[problems], frequency[problems]
        return np.sum(4 * d * d + np.cos(w * x), axis=1), 8 * d - w * np.sin(w * x)

    return objective


def pgd_twin(f, x, k, evaluations):
    value, g = f(x)
    step = 1 / np.abs(g).max()
    for _ in range(evaluations - 1):
        trial = project_capped_simplex((x - step * g)[None], k)[0]
        new, g_new = f(trial)
        if value - new >= 0.3 * (g @ (x - trial)):
            x, value, g, step = trial, new, g_new, 2 * step
        else:
            step /= 2
    return x, value


def spg_twin(f, x, k, evaluations, memory, warm):
    """Algorithm SPG2 of the paper, with the safeguards of the docstring; ``warm`` evaluations aim at vertices."""
    value, g = f(x)
    recent, step, best, moves = [value], 1 / np.abs(g).max(), (value, x), 0

    def aim(done):
        if done <= warm:
            return nonnegative_k_sparse(g[None], k)[0] - x, 1 / np.sqrt(moves + 1)
        return project_capped_simplex((x - step * g)[None], k)[0] - x, 1.0

    d, share = aim(1)
    for done in range(2, evaluations + 1):
        trial = x + share * d
        new, g_new = f(trial)
        if new < value if done <= warm else new <= max(recent[-memory:]) + 1e-4 * share * (g @ d):
            s, y = trial - x, g_new - g
            step = min(1e10, max(1e-10, s @ s / (s @ y))) if s @ y > 0 else 1e10
            x, value, g = trial, new, g_new
            recent.append(value)
            best = min(best, (value, x), key=lambda b: b[0])
            moves += 1
            d, share = aim(done)
        else:
            bend = new - value - share * (g @ d)
            quadratic = -(share**2) * (g @ d) / (2 * bend) if bend > 0 else 0
            share = min(max(quadratic, 0.1 * share), 0.5 * share)
    return best[1], best[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("evaluations", [2, 3, 6, 14])
def test_the_paths_are_the_papers(seed, evaluations):
    objective, k = wavy(seed), np.array([1, 2, 4, 6])
    x0 = start(4, 7, k)
    for memory, warm in ((1, 0), (3, 0), (10, 0), (10, 1), (10, 4), (2, 20)):
        spectral = SpectralProjectedGradient(CappedSimplex(k), memory, warm=warm)
        for solver in (ProjectedGradient(CappedSimplex(k)), spectral):
            result = run(solver, objective, x0, max_iter=evaluations - 1, tol=0)
            for p in np.flatnonzero(result.status == Status.MAX_ITER):
                one = lambda x, p=p: tuple(a[0] for a in objective(x[None], np.array([p])))
                if isinstance(solver, ProjectedGradient):
                    x, value = pgd_twin(one, x0[p], int(k[p]), evaluations)
                else:
                    x, value = spg_twin(one, x0[p], int(k[p]), evaluations, memory, warm)
                np.testing.assert_allclose(result.x[p], x, atol=1e-7)
                assert result.value[p] == pytest.approx(value, abs=1e-9)


def test_the_wavy_problems_reject_steps():
    """Else the comparison above would say nothing about the line searches."""
    for solver in (ProjectedGradient(CappedSimplex(3)), SpectralProjectedGradient(CappedSimplex(3))):
        rejections = []
        for seed in range(6):
            watch = lambda s: rejections.append(s.rejections.sum())
            run(solver, wavy(seed), np.full((4, 7), 3 / 7), max_iter=13, callback=watch)
        assert sum(rejections) > 5


@pytest.mark.parametrize("kind", ["interior", "face", "vertex"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_optimum_and_the_gap(name, kind):
    objective, k = on_capped_simplex(9, kind, condition=20.0)

    def watch(state):
        error = state.value - objective.optimum
        assert np.all(error >= -1e-12) and np.all(state.gap >= error - 1e-9)

    result = run(SOLVERS[name](CappedSimplex(k)), objective, start(3, 8, k), max_iter=400, tol=1e-6, callback=watch)
    assert result.converged.all()
    np.testing.assert_allclose(result.value, objective.optimum, atol=1e-6)
    np.testing.assert_allclose(result.x, objective.best, atol=2e-3)


def test_spg_needs_few_evaluations():
    objective, k = on_capped_simplex(13, "face", count=6, n=60, condition=100.0)
    x0 = start(6, 60, k)
    pgd, spg = (run(SOLVERS[s](CappedSimplex(k)), objective, x0, max_iter=400, tol=1e-4) for s in ("pgd", "spg"))
    assert spg.converged.all() and spg.evaluations.mean() < 0.6 * pgd.evaluations.mean()


@pytest.mark.parametrize("name", SOLVERS)
def test_other_regions(name):
    rng = np.random.default_rng(0)
    for region, best in (
        (Box(), rng.uniform(0.2, 0.8, (2, 2, 3))),
        (KSparse(3, 2.0), rng.uniform(-0.6, 0.6, (2, 2, 3))),
        (CappedSimplex((3, 4)), rng.uniform(0.1, 0.4, (2, 2, 3))),
    ):
        flat = best.reshape(2, -1)
        objective = Quadratic(curvature(rng, 2, 6), flat, np.zeros_like(flat))
        result = run(SOLVERS[name](region), objective, np.zeros((2, 2, 3)), max_iter=200, tol=1e-6)
        assert result.converged.all()
        np.testing.assert_allclose(result.x, best, atol=1e-3)
    outside = np.array([[[-2.0, 0.5, 3.0], [0.1, 7.0, -1.0]]])
    objective = Quadratic(np.eye(6)[None], outside.reshape(1, -1), np.zeros((1, 6)))
    result = run(SOLVERS[name](Box()), objective, np.full((1, 2, 3), 0.5))
    np.testing.assert_allclose(result.x, np.clip(outside, 0, 1), atol=1e-6)


@fast
@given(st.integers(0, 10**6), st.sampled_from(sorted(SOLVERS)))
def test_points_stay_feasible(seed, name):
    k, values = np.array([1, 2, 4, 6]), []

    def watch(state):
        for points in (state.x, state.trial):
            assert np.all((points >= 0) & (points <= 1)) and np.all(points.sum(axis=1) <= k + 1e-9)
        values.append(state.value.copy())

    run(SOLVERS[name](CappedSimplex(k)), wavy(seed), start(4, 7, k), max_iter=25, callback=watch)
    if name == "pgd":
        assert np.all(np.diff(values, axis=0) <= 0)


def test_values_of_spg_may_rise_but_the_best_is_kept():
    rises = []
    watch = lambda state: rises.append(state.value.copy())
    objective, k = on_capped_simplex(13, "face", count=6, n=60, condition=1000.0)
    result = run(SpectralProjectedGradient(CappedSimplex(k)), objective, start(6, 60, k), max_iter=60, callback=watch)
    assert np.any(np.diff(rises, axis=0) > 0)
    np.testing.assert_array_equal(result.value, np.min(rises, axis=0))
    monotone = SpectralProjectedGradient(CappedSimplex(k), memory=1)
    rises.clear()
    run(monotone, objective, start(6, 60, k), max_iter=60, callback=watch)
    assert np.all(np.diff(rises, axis=0) <= 0)


def test_a_start_without_gradient():
    """Zero gradient at x0: optimal at once."""
    for solver in (ProjectedGradient(Box()), SpectralProjectedGradient(Box())):
        result = run(solver, lambda x, p: (np.ones(len(x)), np.zeros_like(x)), np.full((2, 3), 0.5))
        assert result.converged.all() and np.all(result.evaluations == 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ProjectedGradient(Box(), armijo=0.0), "ProjectedGradient needs"),
        (lambda: ProjectedGradient(Box(), grow=0.5), "ProjectedGradient needs"),
        (lambda: ProjectedGradient(Box(), shrink=1.0), "ProjectedGradient needs"),
        (lambda: SpectralProjectedGradient(Box(), memory=0), "memory >= 1"),
        (lambda: SpectralProjectedGradient(Box(), armijo=1.0), "SpectralProjectedGradient needs"),
        (lambda: SpectralProjectedGradient(Box(), warm=-1), "warm >= 0"),
        (
            lambda: run(
                ProjectedGradient(Birkhoff()), lambda x, p: (np.zeros(len(x)), x - 0.5), np.tile(np.eye(2), (1, 1, 1))
            ),
            "no exact projection",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
