"""Frank-Wolfe methods against single-problem versions written from the papers, and their invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_problems import Quadratic, curvature, on_capped_simplex, start
from scipy.optimize import minimize

from innv_ext.errors import InvalidInputError
from innv_ext.optim import (
    Adaptive,
    AwayFrankWolfe,
    Birkhoff,
    Box,
    CappedSimplex,
    FrankWolfe,
    KSparse,
    Monotone,
    Open,
    RateGrid,
    Status,
    StochasticFrankWolfe,
    nonnegative_k_sparse,
    run,
    schedule,
)

fast = settings(max_examples=25, deadline=None, derandomize=True, database=None)
RULES = {"open": Open(), "monotone": Monotone(), "adaptive": Adaptive()}
METHODS = {
    "fw": FrankWolfe,
    "lcg": lambda region, step: FrankWolfe(region, step, lazy=True),
    "afw": AwayFrankWolfe,
    "lafw": lambda region, step: AwayFrankWolfe(region, step, lazy=True),
}


# --- twins: one problem, lists, one line of the paper after the other ---------------------------------------------


class Rule:
    """The step rules; ``try_step`` asks for a length, ``judge`` is told the outcome."""

    def __init__(self, name):
        self.name, self.t, self.r, self.lipschitz = name, 0, 0, None

    def try_step(self, slope, norm, cap):
        if self.name == "adaptive":
            if self.lipschitz is None:
                self.lipschitz = slope / norm
            return min(cap, slope / (self.lipschitz * norm))
        eta = 1 / np.sqrt(self.t + 1)
        return min(cap, eta * 2.0**-self.r if self.name == "monotone" else eta)

    def judge(self, eta, slope, norm, old, new):
        if self.name == "open":
            good = True
        elif self.name == "monotone":
            good = new < old
            self.r = max(0, self.r - 1) if good else self.r + 1
        else:
            good = new <= old - eta * slope + eta**2 * self.lipschitz * norm / 2
            self.lipschitz *= 0.9 if good else 2
        self.t += good
        return good


def twin(method, rule, f, x, k, evaluations):
    """Trials and accepted points of FW, LCG, AFW and LAFW on one problem over the capped simplex."""
    oracle = lambda g: nonnegative_k_sparse(g[None], k)[0]
    rule, atoms, phi = Rule(rule), [[x.copy(), 1.0]], np.inf
    seen, calls = [], 0
    trials = [x.copy()]
    value, g = f(x)
    for _ in range(evaluations - 1):
        if trials[-1] is not None:
            direction, cap, calls, phi = choose(method, x, g, oracle, atoms, seen, calls, phi)
            kind, v = direction
            d = x - v if kind == "away" else v - x
            slope, norm = -g @ d, d @ d
        eta = rule.try_step(slope, norm, cap)
        trial = x + eta * d
        new, g_new = f(trial)
        if rule.judge(eta, slope, norm, value, new):
            if method in ("afw", "lafw"):
                shift = -eta if kind == "away" else eta
                atoms = [[a, w * (1 - shift)] for a, w in atoms]
                same = [a for a in atoms if np.array_equal(a[0], v)]
                if same:
                    same[0][1] += shift
                else:
                    atoms.append([v, shift])
                atoms = [[a, w] for a, w in atoms if w > 1e-12]
            x, value, g = trial, new, g_new
            trials.append(trial)
        else:
            trials.append(None)
    return x, value, calls


def choose(method, x, g, oracle, atoms, seen, calls, phi):
    """((kind, vertex), largest step, oracle calls, phi)."""
    known = [a for a, _ in atoms] if method in ("afw", "lafw") else seen
    near = min(known, key=lambda a: g @ a) if known else None
    far, weight = max(atoms, key=lambda aw: g @ aw[0])
    cap = weight / (1 - weight) if weight < 1 else 1e12
    if method in ("lcg", "lafw") and np.isfinite(phi):
        gain = g @ (x - near)
        away = g @ (far - x) if method == "lafw" else -np.inf
        if max(gain, away) >= phi / 2:
            return (("away", far), cap, calls, phi) if away > gain else (("toward", near), 1.0, calls, phi)
    v = oracle(g)
    gap = g @ (x - v)
    if not np.isfinite(phi):
        phi = gap
    elif gap < phi / 2:
        phi = min(gap, phi / 2)
    if not any(np.array_equal(v, s) for s in seen):
        seen.append(v)
    if method == "afw" and g @ (far - x) > gap:
        return ("away", far), cap, calls + 1, phi
    return ("toward", v), 1.0, calls + 1, phi


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["interior", "face", "vertex"])
def test_the_path_is_the_papers(method, rule, kind):
    objective, k = on_capped_simplex(4, kind, count=4, n=9)
    x0 = start(4, 9, k)
    for evaluations in (2, 3, 7, 16):
        # no solver here stops early, so that the paths stay comparable
        result = run(METHODS[method](CappedSimplex(k), RULES[rule]), objective, x0, max_iter=evaluations - 1, tol=0)
        for p in np.flatnonzero(result.status == Status.MAX_ITER):
            one = lambda x, p=p: tuple(a[0] for a in objective(x[None], np.array([p])))
            x, value, calls = twin(method, rule, one, x0[p], int(k[p]), evaluations)
            np.testing.assert_allclose(result.state.x[p], x, atol=1e-7)
            assert result.state.value[p] == pytest.approx(value, abs=1e-8)
            # the twin does not look for the step behind the last point, and has no gap at the end
            assert result.state.oracle_calls[p] - calls in (0, 1)


# --- invariants ---------------------------------------------------------------------------------------------------


@fast
@given(st.integers(0, 10**6), st.sampled_from(sorted(METHODS)), st.sampled_from(["monotone", "adaptive"]))
def test_points_stay_feasible_and_values_fall(seed, method, rule):
    objective, k = on_capped_simplex(seed, ("interior", "face", "vertex")[seed % 3])
    values = []

    def watch(state):
        for points in (state.x, state.trial):
            assert np.all(points >= -1e-12) and np.all(points <= 1 + 1e-12)
            assert np.all(points.sum(axis=1) <= k + 1e-9)
        values.append(state.value.copy())

    run(METHODS[method](CappedSimplex(k), RULES[rule]), objective, start(3, 8, k), max_iter=25, callback=watch)
    assert np.all(np.diff(values, axis=0) <= 0)


@fast
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(sorted(RULES)), st.sampled_from(["float32", "float64"]))
def test_active_sets_reproduce_the_point(seed, lazy, rule, dtype):
    """x = sum of weights times atoms; weights positive with sum 1; atoms distinct vertices, or x0."""
    objective, k = on_capped_simplex(seed, ("interior", "face", "vertex")[seed % 3])
    x0 = start(3, 8, k).astype(dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    sizes = []

    def watch(state):
        active = state.active
        for p in range(3):
            weights = active.weights[p]
            atoms = active.points[p][weights > 0]
            assert np.all(weights >= 0) and weights.sum() == pytest.approx(1, abs=1e-12)
            np.testing.assert_allclose(weights[weights > 0] @ atoms.astype(float), state.x[p], atol=tolerance)
            assert len(np.unique(atoms, axis=0)) == len(atoms)
            assert all(set(a) <= {0, 1} or np.array_equal(a, x0[p]) for a in atoms)
        sizes.append((active.weights > 0).sum(axis=1))

    run(AwayFrankWolfe(CappedSimplex(k), RULES[rule], lazy), objective, x0, max_iter=30, callback=watch)
    assert np.all(sizes[0] == 1) and np.all(np.diff(sizes, axis=0) <= 1)


def test_away_steps_drop_bad_atoms():
    """The start is a mixture far from the face of the optimum: its weight goes to exactly zero."""
    objective, k = on_capped_simplex(11, "vertex", n=10)
    result = run(AwayFrankWolfe(CappedSimplex(k), Adaptive()), objective, start(3, 10, k), max_iter=200)
    assert result.converged.all()
    active = result.state.active
    np.testing.assert_array_equal((active.weights > 0).sum(axis=1), 1)
    np.testing.assert_array_equal(result.x, objective.best)


def test_away_steps_converge_faster_on_a_face():
    """Plain Frank-Wolfe zigzags towards a face; away steps converge linearly."""
    objective, k = on_capped_simplex(3, "face", n=10, condition=3.0)
    x0 = start(3, 10, k)
    runs = {m: run(METHODS[m](CappedSimplex(k), Adaptive()), objective, x0, max_iter=300, tol=3e-7) for m in METHODS}
    assert runs["afw"].converged.all() and runs["lafw"].converged.all() and not runs["fw"].converged.all()
    assert 3 * runs["afw"].evaluations.sum() < runs["fw"].evaluations.sum()
    assert runs["lafw"].state.oracle_calls.sum() < runs["afw"].state.oracle_calls.sum()


def test_lazy_methods_save_oracle_calls():
    objective, k = on_capped_simplex(5, "interior", n=10)
    x0 = start(3, 10, k)
    for eager, lazy in (("fw", "lcg"), ("afw", "lafw")):
        solvers = [METHODS[m](CappedSimplex(k), Adaptive()) for m in (eager, lazy)]
        a, b = (run(solver, objective, x0, max_iter=150, tol=0) for solver in solvers)
        assert np.all(b.state.oracle_calls < 0.7 * a.state.oracle_calls)
        np.testing.assert_allclose(b.value, objective.optimum, atol=0.05)


@pytest.mark.parametrize("kind", ["interior", "face", "vertex"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", ["monotone", "adaptive"])
def test_the_optimum_and_the_gap(method, rule, kind):
    """The dual gap bounds the error of a convex objective, and both go to zero."""
    objective, k = on_capped_simplex(9, kind, condition=3.0)
    errors = []

    def watch(state):
        error = state.value - objective.optimum
        assert np.all(error >= -1e-12) and np.all(state.gap >= error - 1e-9)
        errors.append(error)

    solver = METHODS[method](CappedSimplex(k), RULES[rule])
    result = run(solver, objective, start(3, 8, k), max_iter=400, callback=watch, tol=3e-7)
    bound = 1e-6 if kind == "vertex" or (method in ("afw", "lafw") and rule == "adaptive") else 0.02
    np.testing.assert_allclose(result.value, objective.optimum, atol=bound)
    np.testing.assert_allclose(result.x, objective.best, atol=3 * bound**0.5)
    if bound == 1e-6:
        assert result.converged.all()


def test_other_regions():
    """Box, signed polytope, doubly stochastic matrices and rate grids: the same method, with known optima."""
    rng = np.random.default_rng(0)
    inside = {
        Box(): rng.uniform(0.2, 0.8, (2, 6)),
        KSparse(3, 2.0): rng.uniform(-0.6, 0.6, (2, 6)),
        Birkhoff(): np.stack([np.mean([np.eye(3)[rng.permutation(3)] for _ in range(9)], axis=0) for _ in range(2)]),
        RateGrid((1, 3)): np.tile(np.array([0.25, 0.75]), (2, 4, 1)) + 0.05 * np.array([[[1], [-1], [1], [-1]]]),
    }
    for region, best in inside.items():
        flat = best.reshape(2, -1)
        objective = Quadratic(curvature(rng, 2, flat.shape[1], 2.0), flat, np.zeros_like(flat))
        x0 = region.minimize(rng.normal(size=best.shape), np.arange(2))
        for solver in (AwayFrankWolfe(region, Adaptive()), AwayFrankWolfe(region, Adaptive(), lazy=True)):
            result = run(solver, objective, x0, max_iter=300, tol=1e-6)
            assert result.converged.all()
            np.testing.assert_allclose(result.x, best, atol=2e-3)


def test_a_general_solver_agrees():
    """scipy's SLSQP on the same problems, which need not be known in advance."""
    objective, k = on_capped_simplex(21, "face", n=6)
    objective.slope += np.random.default_rng(1).normal(size=objective.slope.shape)
    x0 = start(3, 6, k)
    result = run(AwayFrankWolfe(CappedSimplex(k), Adaptive()), objective, x0, max_iter=500, tol=1e-9)
    for p in range(3):
        one = lambda x, p=p: objective(x[None], np.array([p]))
        budget = {"type": "ineq", "fun": lambda x, p=p: k[p] - x.sum()}
        best = minimize(
            lambda x: one(x)[0][0], x0[p], jac=lambda x: one(x)[1][0], bounds=[(0, 1)] * 6, constraints=budget,
            method="SLSQP", options={"ftol": 1e-12},
        )  # fmt: skip
        assert result.value[p] == pytest.approx(best.fun, abs=1e-6)


# --- step rules ---------------------------------------------------------------------------------------------------


def test_the_first_steps_of_the_rules():
    """Along a linear objective nothing is rejected: 1, 1/sqrt(2), 1/sqrt(3) ..."""
    slopes = -np.random.default_rng(0).uniform(1, 2, (2, 5))
    for step in (Open(), Monotone()):
        etas = []
        run(
            FrankWolfe(Box(), step),
            lambda x, p: (np.sum(np.exp(x) * slopes[p], axis=1), np.exp(x) * slopes[p]),
            np.zeros((2, 5)),
            callback=lambda s, etas=etas: etas.append(s.steps.eta.copy()),
            max_iter=0,
        )
        np.testing.assert_allclose(etas, [[1, 1]])


def test_the_monotone_rule_halves_and_recovers():
    """r rises with every rejection and falls again by one after a success."""
    values = iter([10.0, 11.0, 12.0, 9.0, 8.0, 9.0])
    etas, halvings = [], []

    def watch(state):
        etas.append(state.steps.eta[0])
        halvings.append(state.steps.halvings[0])

    g = np.array([[-1.0, -1.0]])
    run(FrankWolfe(Box()), lambda x, p: (np.array([next(values)]), g), np.full((1, 2), 0.1), max_iter=5, callback=watch)
    assert halvings == [0, 1, 2, 1, 0, 1]
    np.testing.assert_allclose(etas, [1, 1 / 2, 1 / 4, 1 / 2 / 2**0.5, 1 / 3**0.5, 1 / 2 / 3**0.5])


def test_the_adaptive_rule_caps_inside_the_test():
    """An away step that ends at its cap is judged with the capped length."""
    objective, k = on_capped_simplex(2, "face", n=12)
    capped = []

    def watch(state):
        steps = state.steps
        assert np.all(steps.eta <= steps.largest + 1e-15)
        capped.extend((steps.eta == steps.largest) & state.away)

    solver = AwayFrankWolfe(CappedSimplex(k), Adaptive())
    result = run(solver, objective, start(3, 12, k), callback=watch, max_iter=300, tol=1e-6)
    assert any(capped) and result.converged.all()


@pytest.mark.parametrize("options", [{"grow": 1.0}, {"shrink": 0.0}, {"shrink": 1.5}])
def test_bad_factors(options):
    with pytest.raises(InvalidInputError, match="Adaptive needs"):
        Adaptive(**options)


# --- stochastic ---------------------------------------------------------------------------------------------------


def test_schedules():
    """The table of appendix C."""
    momenta = {"A": lambda t: 0, "B": lambda t: 0, "C": lambda t: 0.5, "D": lambda t: 0.5}
    momenta |= dict.fromkeys("EF", lambda t: 1 - 4 / (8 + t) ** (2 / 3))
    for variant, expected in momenta.items():
        momentum, batch = schedule(variant)
        for t in (1, 2, 10, 60, 61, 2000):
            assert momentum(t) == pytest.approx(expected(t))
            assert 0 <= momentum(t) < 1
            assert batch(t) == (40 if variant in "ACE" else min(40 + t, 100))
    with pytest.raises(InvalidInputError, match="variant must be one of"):
        schedule("G")


@pytest.mark.parametrize("variant", "ABCDEF")
def test_stochastic_frank_wolfe_is_algorithm_2(variant):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(31, 2, 7))
    momentum, _ = schedule(variant)
    k, n = np.array([2, 4]), 7
    quadratic = Quadratic(curvature(rng, 2, n), rng.uniform(0, 1, (2, n)), np.zeros((2, n)))
    rounds = iter(range(31))

    def noisy(x, p):
        values, gradients = quadratic(x, p)
        return values, gradients + noise[next(rounds)][p]

    result = run(StochasticFrankWolfe(CappedSimplex(k), momentum), noisy, start(2, n, k), max_iter=30)
    for p in range(2):
        x, m = start(2, n, k)[p], np.zeros(n)
        for t in range(1, 32):
            g = quadratic(x[None], np.array([p]))[1][0] + noise[t - 1, p]
            m = momentum(t) * m + (1 - momentum(t)) * g
            v = nonnegative_k_sparse(m[None], int(k[p]))[0]
            last, gap = x, m @ (x - v)
            x = x + (v - x) / np.sqrt(t)
        np.testing.assert_allclose(result.x[p], last, atol=1e-12)
        np.testing.assert_allclose(result.state.trial[p], x, atol=1e-12)
        assert result.gap[p] == pytest.approx(gap)
    np.testing.assert_array_equal(result.state.oracle_calls, 31)


def test_stochastic_frank_wolfe_reaches_the_optimum_of_the_mean():
    objective, k = on_capped_simplex(6, "vertex")
    rng = np.random.default_rng(1)

    def noisy(x, p):
        values, gradients = objective(x, p)
        return values + rng.normal(size=len(x)), gradients + 0.1 * rng.normal(size=x.shape)

    result = run(StochasticFrankWolfe(CappedSimplex(k), lambda t: 0.9), noisy, start(3, 8, k), max_iter=3000)
    np.testing.assert_allclose(result.x, objective.best, atol=0.05)


def test_stochastic_input():
    for step in (Monotone(), Adaptive()):
        with pytest.raises(InvalidInputError, match="step must not compare values"):
            StochasticFrankWolfe(Box(), step=step)
    solver = StochasticFrankWolfe(Box(), lambda t: 1.0)
    with pytest.raises(InvalidInputError, match=r"momentum must be in \[0, 1\), but momentum\(1\) is 1.0"):
        run(solver, lambda x, p: (np.zeros(len(x)), x), np.ones((1, 2)))
