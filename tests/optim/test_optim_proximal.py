"""Penalties and proximal gradient methods against their definitions, coordinate descent and plain loops."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optim_problems import curvature
from scipy.optimize import minimize, minimize_scalar

from innv_ext.errors import InvalidInputError
from innv_ext.optim import (
    L1,
    Fista,
    GroupL2,
    ProximalGradient,
    Status,
    Zero,
    group_soft_threshold,
    run,
    soft_threshold,
)
from innv_ext.optim.solvers.backtracking import dot

fast = settings(max_examples=60, deadline=None, derandomize=True, database=None)
lattice = st.integers(-8, 8).map(lambda v: v / 4)
GROUPS = np.array([0, 1, 0, 2, 2, 1, 3])
PENALTIES = {"zero": Zero(), "l1": L1(0.3), "group": GroupL2(0.4, GROUPS)}
SOLVERS = {
    "ista": ProximalGradient,
    "fista": Fista,
    "plain fista": lambda penalty, length=None: Fista(penalty, length, restart=False),
}


# --- operators -----------------------------------------------------------------------------------------------------


def group_lists(groups):
    return [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]


def prox_twin(penalty, y, a):
    """One problem, component by component or group by group."""
    u = np.zeros_like(y)
    if isinstance(penalty, Zero):
        return y.copy()
    if isinstance(penalty, L1):
        for i, v in enumerate(y):
            if abs(v) > a * penalty.weight:
                u[i] = v - a * penalty.weight if v > 0 else v + a * penalty.weight
        return u
    for members in group_lists(penalty.groups):
        size = np.sqrt(sum(v * v for v in y[members]))
        if size > a * penalty.weight:
            u[members] = y[members] * (1 - a * penalty.weight / size)
    return u


def value_twin(penalty, x):
    if isinstance(penalty, Zero):
        return 0.0
    if isinstance(penalty, L1):
        return penalty.weight * sum(abs(v) for v in x)
    return penalty.weight * sum(np.linalg.norm(x[members]) for members in group_lists(penalty.groups))


def change_twin(penalty, x, y):
    """value(y) - value(x) with 50 digits."""
    with localcontext() as context:
        context.prec = 50
        exact = lambda v: [Decimal(float(e)) for e in v]
        if isinstance(penalty, Zero):
            return 0.0
        groups = [[i] for i in range(len(x))] if isinstance(penalty, L1) else group_lists(penalty.groups)
        norm = lambda v: sum((e * e for e in exact(v)), Decimal(0)).sqrt()
        return penalty.weight * float(sum(norm(y[m]) - norm(x[m]) for m in groups))


def residual_twin(penalty, x, g):
    """The smallest element of g + subdifferential, by numerical minimisation over the subgradients at 0."""
    if isinstance(penalty, Zero):
        return np.abs(g).max()
    if isinstance(penalty, L1):
        parts = []
        for xi, gi in zip(x, g, strict=True):
            element = lambda s, gi=gi: abs(gi + penalty.weight * s)
            at_zero = min(element(-1), element(1), minimize_scalar(element, bounds=(-1, 1), method="bounded").fun)
            parts.append(at_zero if xi == 0 else element(np.sign(xi)))
        return max(parts)
    parts = []
    for members in group_lists(penalty.groups):
        gg, xg = g[members], x[members]
        if np.any(xg):
            parts.append(np.linalg.norm(gg + penalty.weight * xg / np.linalg.norm(xg)))
        else:
            ball = {"type": "ineq", "fun": lambda s: 1 - s @ s}
            squared = lambda s, gg=gg: np.sum((gg + penalty.weight * s) ** 2)
            parts.append(np.sqrt(minimize(squared, np.zeros(len(gg)), constraints=ball, tol=1e-14).fun))
    return max(parts)


@fast
@given(hnp.arrays(float, (3, 7), elements=lattice), st.lists(st.integers(0, 8).map(lambda v: v / 4), min_size=3))
def test_thresholds_follow_the_formula(y, t):
    t = np.array(t[:3])
    for p in range(3):
        np.testing.assert_allclose(soft_threshold(y, t)[p], prox_twin(L1(1.0), y[p], t[p]), atol=1e-15)
        expected = prox_twin(GroupL2(1.0, GROUPS), y[p], t[p])
        np.testing.assert_allclose(group_soft_threshold(y, t, GROUPS)[p], expected, atol=1e-15)
    np.testing.assert_array_equal(soft_threshold(y, 0), y)
    np.testing.assert_array_equal(group_soft_threshold(y, 0.0, GROUPS), y)
    np.testing.assert_array_equal(soft_threshold(y.reshape(3, 1, 7), 0.5).reshape(3, 7), soft_threshold(y, 0.5))
    pixels = group_soft_threshold(y.reshape(3, 7, 1), 0.5, GROUPS.reshape(7, 1))
    np.testing.assert_array_equal(pixels.reshape(3, 7), group_soft_threshold(y, 0.5, GROUPS))


def test_thresholds_keep_the_dtype():
    y = np.array([[3.0, -0.5]], np.float32)
    for result in (soft_threshold(y, 1 / 3), group_soft_threshold(y, 1 / 3, np.array([0, 1]))):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, [[8 / 3, -1 / 6]], rtol=1e-6)
    assert soft_threshold(np.array([[3, -1]]), 0.5).dtype == np.float64
    np.testing.assert_array_equal(soft_threshold(np.array([[3, -1]]), 0.5), [[2.5, -0.5]])


@pytest.mark.parametrize("name", PENALTIES)
def test_prox_minimises_its_definition(name):
    rng, penalty = np.random.default_rng(0), PENALTIES[name]
    y, lengths = rng.normal(size=(3, 7)), np.array([0.3, 1.0, 2.5])
    u = penalty.prox(y, lengths, np.arange(3))
    for p in range(3):
        np.testing.assert_allclose(u[p], prox_twin(penalty, y[p], lengths[p]), atol=1e-14)
        definition = lambda v, p=p: value_twin(penalty, v) + np.sum((v - y[p]) ** 2) / (2 * lengths[p])
        assert definition(u[p]) <= minimize(definition, y[p], method="Powell", tol=1e-10).fun + 1e-12
        assert all(definition(u[p]) <= definition(u[p] + s * rng.normal(size=7)) for s in (1e-4, 1e-2, 1) * 20)
    assert np.any(u == 0) == (name != "zero")


@fast
@given(
    hnp.arrays(float, (2, 7), elements=lattice),
    hnp.arrays(float, (2, 7), elements=lattice),
    st.sampled_from(sorted(PENALTIES)),
)
def test_values_and_residuals(x, g, name):
    penalty, problems = PENALTIES[name], np.arange(2)
    values, residuals = penalty.value(x, problems), penalty.residual(x, g, problems)
    assert values.dtype == residuals.dtype == np.float64
    np.testing.assert_allclose(penalty.change(x, g, problems), penalty.value(g, problems) - values, atol=1e-13)
    near = x + np.sign(g) * 2.0**-40  # all differences are exact
    for p, change in enumerate(penalty.change(x, near, problems)):
        assert change == pytest.approx(change_twin(penalty, x[p], near[p]), rel=1e-9, abs=1e-25)
    for p in range(2):
        assert values[p] == pytest.approx(value_twin(penalty, x[p]), abs=1e-14)
        assert residuals[p] == pytest.approx(residual_twin(penalty, x[p], g[p]), abs=1e-5)


@fast
@given(
    hnp.arrays(float, (2, 7), elements=lattice),
    hnp.arrays(float, (2, 7), elements=lattice),
    st.floats(0.01, 10),
    st.sampled_from(sorted(PENALTIES)),
)
def test_residual_zero_means_fixed_point(z, g, a, name):
    penalty, problems, lengths = PENALTIES[name], np.arange(2), np.full(2, a)
    x = penalty.prox(z, lengths, problems)  # the fixed point for the gradient (x - z) / a
    assert np.all(penalty.residual(x, (x - z) / a, problems) <= 1e-12 * (1 + 1 / a))
    # and with any other gradient the prox moves by at most a times the residual, and by nothing only if that is 0
    move = np.abs(penalty.prox(x - a * g, lengths, problems) - x)
    residuals = penalty.residual(x, g, problems)
    for p in range(2):
        group = np.sqrt(np.bincount(GROUPS, move[p] ** 2)) if name == "group" else move[p]
        assert group.max() <= a * residuals[p] + 1e-12
        assert (move[p].max() <= 1e-13) == (residuals[p] <= 1e-12)


def test_parameters_per_problem():
    x, g = np.random.default_rng(0).normal(size=(2, 3, 7))
    for make in (L1, lambda w: GroupL2(w, GROUPS)):
        weights = (0.1, 0.5, 2.0)
        many, problems = make(weights), np.array([2, 0])
        for name, arguments in (("value", (x,)), ("prox", (x, np.array([1.0, 0.5, 0.3]))), ("residual", (x, g))):
            both = getattr(many, name)(*(a[problems] for a in arguments), problems)
            for row, p in enumerate(problems):
                alone = getattr(make(weights[p]), name)(*(a[p : p + 1] for a in arguments), np.array([0]))
                np.testing.assert_array_equal(both[row], alone[0])
    assert L1(np.array([1, 2])) == L1((1.0, 2.0)) and "groups" not in repr(GroupL2(1.0, GROUPS))


def test_groups_are_copied():
    groups = GROUPS.copy()
    penalty = GroupL2(1.0, groups)
    groups[:] = 0
    np.testing.assert_array_equal(penalty.groups, GROUPS)
    with pytest.raises(ValueError, match="read-only"):
        penalty.groups[0] = 1


# --- problems ------------------------------------------------------------------------------------------------------


class Bowl:
    """x'Qx / 2 - c'x per problem, computed row by row, so that rows do not depend on their company."""

    def __init__(self, q, c):
        self.q, self.c = q, c

    def __call__(self, points, problems):
        values, gradients = np.zeros(len(points)), np.zeros_like(points)
        for row, p in enumerate(problems):
            x = points[row].ravel()
            bent = self.q[p].astype(x.dtype) @ x
            c = self.c[p].astype(x.dtype)
            values[row], gradients[row] = x @ (bent / 2 - c), (bent - c).reshape(points.shape[1:])
        return values, gradients


def bowl(seed, count=3, n=7, condition=20.0):
    rng = np.random.default_rng(seed)
    return Bowl(curvature(rng, count, n, condition) / condition, rng.normal(size=(count, n)))


def valley(condition, count=2, n=40):
    """Eigenvalues spread over [1 / condition, 1]."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(count, n, n)))[0]
    q = np.einsum("pij,j,pkj->pik", basis, np.logspace(0, -np.log10(condition), n), basis)
    return Bowl(q, np.einsum("pij,pj->pi", q, rng.normal(size=(count, n))))


def wavy(seed, count=4, n=7):
    """Not convex, and elementwise."""
    rng = np.random.default_rng(seed)
    target, frequency = rng.normal(0.5, 1, (count, n)), rng.uniform(2, 9, (count, n))

    def objective(x, problems):
        t, w = target[problems].astype(x.dtype), frequency[problems].astype(x.dtype)
        d = x - t
        return np.sum(4 * d * d + np.cos(w * x), axis=1), 8 * d - w * np.sin(w * x)

    return objective


def coordinate_descent(q, c, weight, rounds=3000):
    """min x'Qx / 2 - c'x + weight |x|_1."""
    x = np.zeros(len(c))
    for _ in range(rounds):
        old = x.copy()
        for i in range(len(c)):
            rest = c[i] - q[i] @ x + q[i, i] * x[i]
            x[i] = np.sign(rest) * max(abs(rest) - weight, 0) / q[i, i]
        if np.abs(x - old).max() < 1e-14:
            return x
    return x


def ista_loop(gradient, penalty, x, a, steps):
    """Algorithm 1: x <- prox(x - a g(x), a)."""
    points = [x]
    for _ in range(steps):
        points.append(prox_twin(penalty, points[-1] - a * gradient(points[-1]), a))
    return points


# --- minimisers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("length", [None, 1.0, (0.5, 1.0, 3.0)])
def test_lasso_is_the_one_of_coordinate_descent(length, quadratic):
    objective, weights = bowl(0), (0.05, 0.4, 1.2)
    other = ProximalGradient(L1(weights), length) if quadratic else Fista(L1(weights), length, restart=False)
    for solver in (Fista(L1(weights), length, quadratic=quadratic), other):
        result = run(solver, objective, np.zeros((3, 7)), max_iter=3000, tol=1e-11)
        assert result.converged.all() and np.all(result.gap <= 1e-11)
        for p in range(3):
            best = coordinate_descent(objective.q[p], objective.c[p], weights[p])
            np.testing.assert_allclose(result.x[p], best, atol=1e-8)
            np.testing.assert_array_equal(result.x[p] == 0, best == 0)
    assert np.any(result.x == 0) and np.any(result.x != 0)


@pytest.mark.parametrize("name", SOLVERS)
def test_group_lasso_is_the_one_of_a_long_loop(name):
    objective, penalty = bowl(1), GroupL2(0.8, GROUPS)
    result = run(SOLVERS[name](penalty), objective, np.ones((3, 7)), max_iter=4000, tol=1e-11)
    assert result.converged.all()
    for p in range(3):
        gradient = lambda x, p=p: objective.q[p] @ x - objective.c[p]
        best = ista_loop(gradient, penalty, np.ones(7), 1.0, 2000)[-1]
        np.testing.assert_allclose(result.x[p], best, atol=1e-8)
    zero = np.array([[np.all(x[m] == 0) for m in group_lists(GROUPS)] for x in result.x])
    assert zero.any() and not zero.all()


@pytest.mark.parametrize("name", SOLVERS)
def test_smooth_problems_and_arrays_of_any_shape(name):
    objective = bowl(2, n=12)
    result = run(SOLVERS[name](Zero()), objective, np.zeros((3, 2, 3, 2)), max_iter=2000, tol=1e-10)
    best = np.linalg.solve(objective.q, objective.c[:, :, None]).reshape(3, 2, 3, 2)
    assert result.converged.all()
    np.testing.assert_allclose(result.x, best, atol=1e-7)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_values_and_gaps_are_those_of_the_whole_objective(solver, name):
    objective, penalty = bowl(3), PENALTIES[name]
    x0 = np.random.default_rng(0).normal(size=(3, 7))
    best = []
    keep = lambda state: best.append(state.best_value.copy())
    result = run(SOLVERS[solver](penalty), objective, x0, max_iter=11, tol=0, callback=keep)
    values, gradients = objective(result.x, np.arange(3))
    start = objective(x0, np.arange(3))[1]
    for p in range(3):
        scale = np.abs(start[p]).max()
        if name == "group":
            scale = max(np.linalg.norm(start[p][m]) for m in group_lists(GROUPS))
        assert result.value[p] == pytest.approx(values[p] + value_twin(penalty, result.x[p]), abs=1e-12)
        assert best[0][p] == pytest.approx(objective(x0, range(3))[0][p] + value_twin(penalty, x0[p]))
        if solver != "plain fista":  # whose best point may be an earlier one
            assert result.gap[p] == pytest.approx(residual_twin(penalty, result.x[p], gradients[p]) / scale, abs=1e-5)
    assert np.all(np.diff(best, axis=0) <= 0)


# --- paths ---------------------------------------------------------------------------------------------------------


def fista_twin(f, penalty, x, evaluations, length=None, restart=True, accelerated=True, momentum_costs=True):
    """One problem, without any thought of rounding; returns the points x with f + penalty, after each evaluation."""
    (fx, gx), a, t, seen = f(x), np.inf if length is None else length, 1.0, []
    limit, a = a, 1 / np.abs(gx).max() if length is None else length
    before, y, fy, gy, costs = x, x, fx, gx, [1]
    seen.append((x, fx + value_twin(penalty, x)))
    while sum(costs) < evaluations:
        new = prox_twin(penalty, y - a * gy, a)
        fn, gn = f(new)
        costs.append(1)
        d = new - y
        bend, bound = fn - fy - gy @ d, d @ d / (2 * a)
        total = fn + value_twin(penalty, new)
        if bend > bound:
            a *= min(0.5, max(0.01, bound / bend))
        elif restart and total > seen[-1][1]:
            y, fy, gy, t = x, fx, gx, 1.0
        else:
            if restart and (y - new) @ (new - x) > 0:
                t = 1.0
            before, x, fx, gx = x, new, fn, gn
            seen.extend([seen[-1]] * (sum(costs) - len(seen) - 1) + [(x, total)])
            a = min(limit, a / 0.9)
            following = (1 + np.sqrt(1 + 4 * t * t)) / 2
            y = x + (t - 1) / following * (x - before) if accelerated else x
            fy, gy = f(y)
            costs.append(int(momentum_costs and np.any(y != x)))
            t = following
    seen.extend([seen[-1]] * (evaluations - len(seen)))
    return seen[:evaluations]


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("kind", ["wavy", "bowl"])
def test_the_paths_are_those_of_a_plain_loop(kind, name):
    penalty, rejected = PENALTIES[name], 0
    for seed in range(3):
        objective = wavy(seed, 3) if kind == "wavy" else bowl(seed)
        x0 = np.random.default_rng(seed).normal(size=(3, 7))
        for length in (None, 0.02, 2.0):
            cases = {
                ProximalGradient(penalty, length): {"accelerated": False},
                Fista(penalty, length): {},
                Fista(penalty, length, restart=False): {"restart": False},
            }
            if kind == "bowl":
                cases[Fista(penalty, length, quadratic=True)] = {"momentum_costs": False}
            for solver, options in cases.items():
                points, rejections = [], []
                watch = lambda s: points.append(s.x.copy()) or rejections.append(s.rejections.sum())
                run(solver, objective, x0, max_iter=24, tol=1e-3, callback=watch)
                rejected += sum(rejections)
                for p in range(3):
                    f = lambda x, p=p: tuple(r[0] for r in objective(x[None], np.array([p])))
                    expected = fista_twin(f, penalty, x0[p], 25, length, **options)
                    done = np.flatnonzero([not np.array_equal(a[p], points[-1][p]) for a in points])
                    for step in range(min(len(points), done.max() + 2)):  # then this problem had converged
                        np.testing.assert_allclose(points[step][p], expected[step][0], atol=1e-8)
    assert rejected > 10


@pytest.mark.parametrize("name", PENALTIES)
def test_quadratic_saves_the_evaluations_at_momentum_points(name):
    objective, paths = bowl(5), []
    for quadratic in (False, True):
        points = []

        def watch(state, points=points):
            if not points or np.any(points[-1] != state.x):
                points.append(state.x.copy())

        solver = Fista(PENALTIES[name], 1.0, quadratic=quadratic, restart=False)
        # one problem: others would move in other rounds
        result = run(solver, lambda x, _: objective(x, [0]), np.zeros((1, 7)), max_iter=60, tol=1e-9, callback=watch)
        paths.append((points, result))
    (general, slow), (combined, quick) = paths
    shared = min(len(general), len(combined))
    assert shared > 20
    np.testing.assert_allclose(general[:shared], combined[:shared], atol=1e-9)
    assert quick.iterations[0] == quick.evaluations[0] - 1
    assert slow.iterations[0] < 0.6 * slow.evaluations[0]


def test_acceleration_pays_where_curvatures_differ():
    objective = valley(1000.0)
    counts = {}
    for name, solver in {
        "ista": ProximalGradient(Zero()),
        "fista": Fista(Zero()),
        "plain": Fista(Zero(), restart=False),
        "quadratic": Fista(Zero(), quadratic=True),
        "known": Fista(Zero(), 1.0, quadratic=True),
    }.items():
        result = run(solver, objective, np.zeros((2, 40)), max_iter=20000, tol=1e-6)
        assert result.converged.all()
        counts[name] = result.evaluations.max()
    assert counts["fista"] < counts["ista"] / 4 and counts["fista"] < counts["plain"]
    assert max(counts["quadratic"], counts["known"]) < 0.7 * counts["fista"]


@fast
@given(st.integers(0, 10**6), st.sampled_from(sorted(PENALTIES)), st.sampled_from(["ista", "fista"]))
def test_values_never_rise_on_objectives_that_are_not_convex(seed, name, solver):
    objective, penalty, problems = wavy(seed), PENALTIES[name], np.arange(4)
    points = []
    x0 = np.random.default_rng(seed).normal(size=(4, 7))
    watch = lambda s: points.append(s.x.copy())
    result = run(SOLVERS[solver](penalty), objective, x0, max_iter=40, callback=watch, tol=0)
    values = np.array([objective(x, problems)[0] + penalty.value(x, problems) for x in points])
    assert np.all(np.diff(values, axis=0) <= 1e-12 * np.abs(values[1:]))
    np.testing.assert_allclose(result.value, values[-1], rtol=1e-12)


def test_values_of_the_plain_method_may_rise_but_the_best_is_kept():
    values = []
    solver = Fista(Zero(), 1.0, restart=False)
    result = run(
        solver, valley(300.0), np.zeros((2, 40)), max_iter=200, callback=lambda s: values.append(s.value.copy())
    )
    assert np.any(np.diff(values, axis=0) > 0)
    np.testing.assert_array_equal(result.value, np.min(values, axis=0))


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_long_steps_are_cut(solver):
    """A length far above 1 / L costs a few evaluations, not the convergence."""
    objective = bowl(6)
    result = run(SOLVERS[solver](L1(0.1), 1e6), objective, np.zeros((3, 7)), max_iter=400, tol=1e-8)
    assert result.converged.all()
    assert np.all(result.state.length <= 4)  # the curvature is at least 1/20 and at most 1
    short = run(SOLVERS[solver](L1(0.1), 1e-3), objective, np.zeros((3, 7)), max_iter=20)
    assert np.all(short.state.length <= 1e-3)


# --- fixed steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_fixed_steps_are_algorithm_1(name, steps):
    """Also where they are too long, so that the values rise."""
    penalty, objective, lengths = PENALTIES[name], wavy(1, 3), (0.01, 0.1, 0.3)
    x0 = np.random.default_rng(0).normal(size=(3, 7))
    calls = []

    def counted(x, problems):
        calls.append(len(x))
        return objective(x, problems)

    for average in (0, 1, 3, 20):
        calls.clear()
        solver = ProximalGradient(penalty, lengths, backtracking=False, average=average)
        result = run(solver, counted, x0, max_iter=steps, tol=1e3)
        assert calls == [3] * (steps + 1) and list(result.status) == [Status.MAX_ITER] * 3
        np.testing.assert_array_equal(result.iterations, steps)
        for p in range(3):
            gradient = lambda x, p=p: objective(x[None], np.array([p]))[1][0]
            points = ista_loop(gradient, penalty, x0[p], lengths[p], steps)
            used = min(average, steps)
            expected = np.mean(points[-used:], axis=0) if used > 1 else points[-1]
            np.testing.assert_allclose(result.x[p], expected, rtol=1e-9, atol=1e-9)
        if min(average, steps) > 1:
            assert np.isnan(result.value).all() and np.isnan(result.gap).all()
        else:
            whole = objective(result.x, np.arange(3))[0] + penalty.value(result.x, np.arange(3))
            np.testing.assert_allclose(result.value, whole)
            np.testing.assert_array_equal(result.state.value, result.value)


def test_fixed_steps_do_not_minimise_values():
    values = []
    solver = ProximalGradient(Zero(), 0.3, backtracking=False)
    run(solver, wavy(1), np.ones((4, 7)), max_iter=9, callback=lambda s: values.append(s.value.copy()))
    assert np.any(np.diff(values, axis=0) > 0)


def test_fixed_steps_go_on_at_a_fixed_point():
    """The gradient may be noisy, so that being there for one evaluation says nothing."""
    noise = iter([0.0, 0.5, -4.0, 0.0])
    objective = lambda x, _: (np.zeros(len(x)), np.full_like(x, next(noise)))
    result = run(ProximalGradient(L1(1.0), 1.0, backtracking=False), objective, np.zeros((1, 2)), max_iter=3, tol=0.1)
    np.testing.assert_array_equal(result.x, [[3, 3]])
    np.testing.assert_array_equal(result.evaluations, 4)


# --- rounding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [Zero(), L1(0.01)], ids=["zero", "l1"])
@pytest.mark.parametrize("offset", [0, 1, 30])
def test_float32_reaches_the_tolerance(penalty, offset):
    """Values around 1 and curvatures spread by 1000: the last differences of values are far below rounding."""
    bare = valley(1000.0)

    def objective(x, problems):
        values, gradients = bare(x, problems)
        return np.float32(values) + np.float32(offset), gradients

    x0 = np.zeros((2, 40), np.float32)
    for solver, limit in (
        (Fista(penalty), 600),
        (Fista(penalty, quadratic=True), 300),
        (Fista(penalty, 1.0, quadratic=True), 300),
        (ProximalGradient(penalty), 4000),
    ):
        result = run(solver, objective, x0, max_iter=limit, tol=1e-4)
        assert result.converged.all() and np.all(result.gap <= 1e-4), solver
        exact = penalty.residual(result.x, bare(result.x.astype(float), [0, 1])[1], np.arange(2))
        assert np.all(exact <= 1.1e-4 * np.abs(bare(np.zeros((2, 40)), [0, 1])[1]).max(axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exact_length_is_not_cut_by_rounding(dtype):
    """Curvature 1 / length along every step: the test holds with equality."""
    rng = np.random.default_rng(0)
    best, c = rng.normal(size=(200, 50)).astype(dtype), rng.uniform(0.1, 10, 200).astype(dtype)

    def objective(x, problems):
        d, k = x - best[problems], c[problems]
        return k / 2 * np.sum(d * d, axis=1), k[:, None] * d

    for make in (ProximalGradient, Fista, lambda *a: Fista(*a, quadratic=True)):
        solver = make(Zero(), tuple(1 / c.astype(float)))
        result = run(solver, objective, np.zeros_like(best), max_iter=10, tol=1e-5)
        assert result.converged.all() and np.all(result.evaluations == 2)


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_a_cliff_that_the_gradient_does_not_see(solver):
    """Values are known up to 1e-8 here, and the step of 1e-4 raises them by 1e-6: shorter ones are tried."""
    cliff = 3e-5
    objective = lambda x, _: (1e6 - 1e-4 * x[:, 0] + 1e-6 * (x[:, 0] > cliff), np.full_like(x, -1e-4))
    result = run(SOLVERS[solver](Zero(), 1.0), objective, np.zeros((1, 1)), max_iter=300)
    assert cliff / 2 < result.x[0, 0] <= cliff and result.status[0] == Status.STALLED


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", [ProximalGradient(L1(0.02)), Fista(L1(0.02)), Fista(L1(0.02), quadratic=True)])
def test_stalled_where_rounding_is_reached(solver, dtype):
    result = run(solver, valley(100.0), np.zeros((2, 40), dtype), max_iter=10000, tol=1e-20)
    assert set(result.status) <= {Status.STALLED, Status.CONVERGED} and Status.STALLED in result.status
    assert np.all(result.gap <= 50 * np.finfo(dtype).eps) and result.evaluations.max() < 2500
    assert result.x.dtype == dtype and result.state.trial.dtype == result.state.gradient.dtype == dtype


@pytest.mark.parametrize("rise", [0.0, 1.0])
@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_stalled_by_a_wrong_gradient(solver, rise):
    downhill = np.random.default_rng(0).normal(size=(2, 7))
    count = iter(np.arange(1.0, 10**4))
    objective = lambda x, p: (np.full(len(x), 1 + rise * next(count)), downhill[p])
    result = run(SOLVERS[solver](Zero()), objective, np.zeros((2, 7)), max_iter=2000)
    assert list(result.status) == [Status.STALLED] * 2 and result.evaluations.max() <= 400


def test_a_start_at_the_minimum():
    for solver in (ProximalGradient(L1(2.0)), Fista(L1(2.0)), Fista(Zero())):
        flat_ = lambda x, p: (np.ones(len(x)), np.zeros_like(x))
        result = run(solver, flat_, np.zeros((2, 3)))
        assert result.converged.all() and np.all(result.evaluations == 1) and np.all(result.gap == 0)
    result = run(Fista(L1(1.0)), lambda x, p: (np.sum(x, axis=1), np.ones_like(x)), np.zeros((1, 3)), tol=0)
    assert result.converged.all()  # max|g| = weight: 0 is optimal


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_problems_do_not_meet(name, dtype):
    """To the last bit, in any company."""
    x0 = np.random.default_rng(0).normal(size=(4, 7)).astype(dtype)
    for objective, quadratic in ((wavy(4), False), (bowl(4, 4), True), (bowl(4, 4), False)):
        for solver in (
            Fista(PENALTIES[name], quadratic=quadratic),
            ProximalGradient(PENALTIES[name]),
            ProximalGradient(PENALTIES[name], 0.05, backtracking=False, average=4),
        ):
            together = run(solver, objective, x0, max_iter=60, tol=1e-5)
            for rows in ([0], [3], [2, 1]):
                chosen = np.array(rows)
                part = run(solver, lambda x, p, c=chosen: objective(x, c[p]), x0[chosen], max_iter=60, tol=1e-5)
                np.testing.assert_array_equal(part.x, together.x[chosen])
                np.testing.assert_array_equal(part.value, together.value[chosen])
                np.testing.assert_array_equal(part.evaluations, together.evaluations[chosen])
                assert list(part.status) == list(together.status[chosen])


def test_sums_are_in_double_precision_and_by_problem():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 9001))
    single, other = a.astype(np.float32), b.astype(np.float32)
    exact = [math.fsum(float(x) * float(y) for x, y in zip(*rows, strict=True)) for rows in zip(single, other)]
    np.testing.assert_allclose(dot(single, other), exact, rtol=1e-12)
    np.testing.assert_array_equal(dot(a[1:2], b[1:2]), dot(a, b)[1:2])


def test_large_problems_do_not_meet_either():
    """Sums over many components are added in the same order."""
    objective = wavy(6, 3, 9001)
    for solver in (Fista(L1(0.3)), Fista(GroupL2(0.3, np.arange(9001) // 10)), ProximalGradient(L1(0.3))):
        together = run(solver, objective, np.zeros((3, 9001)), max_iter=15)
        alone = run(solver, lambda x, p: objective(x, p + 2), np.zeros((1, 9001)), max_iter=15)
        np.testing.assert_array_equal(alone.x[0], together.x[2])
        np.testing.assert_array_equal(alone.value[0], together.value[2])


@pytest.mark.parametrize("at", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "solver",
    [Fista(L1(0.1)), ProximalGradient(L1(0.1)), ProximalGradient(L1(0.1), 0.05, backtracking=False, average=3)],
)
def test_a_failing_problem_does_not_stop_the_others(solver, at):
    objective, rounds = wavy(5), np.zeros(4, int)
    x0 = np.zeros((4, 7))

    def broken(x, problems):
        values, gradients = objective(x, problems)
        rounds[problems] += 1
        values[(problems == 1) & (rounds[problems] == at)] = np.nan
        gradients[(problems == 2) & (rounds[problems] == at)] = np.inf
        return values, gradients

    clean, result = run(solver, objective, x0, max_iter=12), run(solver, broken, x0, max_iter=12)
    assert list(result.status[[1, 2]]) == [Status.FAILED] * 2
    np.testing.assert_array_equal(result.evaluations[[1, 2]], at)
    np.testing.assert_array_equal(result.x[[0, 3]], clean.x[[0, 3]])
    assert list(result.status[[0, 3]]) == list(clean.status[[0, 3]])
    if at == 1:
        np.testing.assert_array_equal(result.x[[1, 2]], 0)
        assert np.isnan(result.value[[1, 2]]).all()
    else:
        short = run(solver, objective, x0, max_iter=at - 2)
        np.testing.assert_array_equal(result.x[[1, 2]], short.x[[1, 2]])


def test_no_problem_at_all():
    for solver in (Fista(GroupL2(1.0, GROUPS)), ProximalGradient(L1(1.0), 0.1, backtracking=False, average=2)):
        result = run(solver, wavy(0), np.zeros((0, 7)))
        assert result.x.shape == (0, 7)


def test_counts_and_max_iter():
    calls = []

    def counted(x, problems):
        calls.append(x.copy())
        return wavy(0)(x, problems)

    result = run(Fista(Zero(), 0.01), counted, np.ones((1, 7)), max_iter=20, tol=0)
    assert len(calls) == 21 == result.evaluations[0] and result.status[0] == Status.MAX_ITER
    # start, two steps without momentum, then a momentum point and a step in turn, while all steps are accepted
    assert result.iterations[0] == 2 + 18 // 2 and not result.state.rejections.any()


def test_the_bar_names_the_residual(terminal):
    run(Fista(Zero()), bowl(0), np.zeros((3, 7)), max_iter=3, progress=True)
    assert "largest KKT residual" in terminal.getvalue() and "gap" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_threshold(np.zeros((2, 3)), -1.0), "t must be at least 0"),
        (lambda: soft_threshold(np.zeros((2, 3)), np.nan), "t must be at least 0"),
        (lambda: soft_threshold(np.zeros((2, 3)), np.ones(3)), "each of the 2 problems"),
        (lambda: group_soft_threshold(np.zeros((2, 3)), -1.0, [0, 0, 1]), "t must be at least 0"),
        (lambda: group_soft_threshold(np.zeros((2, 3)), 1.0, [0, 1]), "one label per component: 2 labels"),
        (lambda: group_soft_threshold(np.zeros((2, 3)), 1.0, [0, 2, 2]), "groups must be integer labels"),
        (lambda: group_soft_threshold(np.zeros((2, 3)), 1.0, [1, 2, 2]), "groups must be integer labels"),
        (lambda: group_soft_threshold(np.zeros((2, 3)), 1.0, [-1, 0, 1]), "groups must be integer labels"),
        (lambda: GroupL2(1.0, [0.0, 1.0]), "groups must be integer labels"),
        (lambda: GroupL2(1.0, []), "groups must be integer labels"),
        (lambda: GroupL2(-1.0, GROUPS), "weight must be a number of at least 0, for all problems or one each, got"),
        (lambda: L1(-0.1), "weight must be a number of at least 0, for all problems or one each, got -0.1"),
        (lambda: L1(np.inf), "weight must be a number of at least 0, for all problems or one each, got"),
        (lambda: L1((1.0, np.nan)), "weight must be a number of at least 0, for all problems or one each, got"),
        (lambda: L1(np.ones((2, 2))), "weight must be a number of at least 0, for all problems or one each, got"),
        (lambda: L1("1"), "weight must be a number of at least 0, for all problems or one each, got"),
        (lambda: Fista(Zero(), 0.0), "length must be a positive number"),
        (lambda: ProximalGradient(Zero(), (1.0, -1.0)), "length must be a positive number"),
        (lambda: ProximalGradient(Zero(), backtracking=False), "length must be given for fixed steps"),
        (lambda: ProximalGradient(Zero(), average=2), "average is for fixed steps"),
        (lambda: ProximalGradient(Zero(), 1.0, backtracking=False, average=-1), "average must be an integer"),
        (lambda: ProximalGradient(Zero(), 1.0, backtracking=False, average=1.5), "average must be an integer"),
        (lambda: run(Fista(L1((1.0, 2.0))), bowl(0), np.zeros((3, 7))), "weight has 2 entries, but there are 3"),
        (lambda: run(Fista(GroupL2((1.0, 2.0), GROUPS)), bowl(0), np.zeros((3, 7))), "weight has 2 entries"),
        (lambda: run(Fista(GroupL2(1.0, GROUPS)), bowl(0, n=8), np.zeros((3, 8))), r"7 labels for .* \(8,\)"),
        (lambda: run(Fista(Zero(), (1.0, 2.0)), bowl(0), np.zeros((3, 7))), "length has 2 entries"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
