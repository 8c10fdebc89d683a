"""Rate grids: the exact transport oracle, the entropic balance and the maps read off a grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from innv_ext.errors import InvalidInputError
from innv_ext.optim import balance, mean_over_rates, rate_grid, single_rate, to_permutation
from innv_ext.optim.transport.entropic import annealed_potentials, rows_too_many, solve
from innv_ext.optim.transport.exact import Moves, cheapest, fill, identical_rows, repair, shortest_path
from innv_ext.optim.transport.grids import grid_of, group_sizes, plan_cost, plan_of

fast = settings(max_examples=80, deadline=None, derandomize=True, database=None)
KINDS = ("normal", "integers", "zero rows", "heavy tails", "equal rows", "one scale in a million", "constant")


def gradient(rng, kind, *shape):
    g = rng.normal(size=shape)
    rows = (*shape[:2], 1)
    if kind == "integers":
        return rng.integers(-2, 3, shape).astype(float)
    if kind == "zero rows":
        return g * (rng.random(rows) < 0.5)
    if kind == "heavy tails":
        return g * np.exp(3 * rng.normal(size=rows))
    if kind == "equal rows":
        return g[:, rng.integers(0, 4, shape[1])]
    if kind == "one scale in a million":
        return g * np.where(rng.random(rows) < 0.9, 1e-6, 1)
    if kind == "constant":
        return np.zeros(shape) + rng.normal(size=shape[2])
    return g


def some_rates(rng, n, most=15):
    m = int(rng.integers(1, min(n - 1, most) + 1))
    return np.sort(rng.choice(np.arange(1, n), m, replace=False))


def dense_value(g, rates):
    """The optimum over permutation matrices: position i of the ordering counts in every rate k_j > i."""
    n = len(g)
    cost = np.stack([g[:, rates > i].sum(axis=1) for i in range(n)], axis=1)
    rows, columns = linear_sum_assignment(cost)
    return cost[rows, columns].sum()


def is_grid(s, rates):
    ordered = np.all(np.diff(s, axis=-1) >= -1e-12) and np.all((s >= 0) & (s <= 1))
    return ordered and np.allclose(s.sum(axis=-2), rates)


# --- the exact oracle --------------------------------------------------------------------------------------------


@fast
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(["float32", "float64"]))
def test_rate_grid_equals_the_dense_assignment(seed, kind, dtype):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    rates = some_rates(rng, n)
    g = gradient(rng, kind, 2, n, len(rates)).astype(dtype)
    v = rate_grid(g, rates)
    assert v.dtype == dtype and is_grid(v, rates) and set(np.unique(v)) <= {0, 1}
    for row, vertex in zip(g.astype(float), v, strict=True):
        best = dense_value(row, rates)
        assert np.sum(row * vertex) == pytest.approx(best, abs=1e-9 * max(1, abs(best)))


@pytest.mark.parametrize("kind", KINDS)
def test_rate_grid_equals_the_dense_assignment_at_200(kind):
    rng = np.random.default_rng(7)
    rates = np.arange(10, 200, 10)
    g = gradient(rng, kind, 1, 200, len(rates))
    best = dense_value(g[0], rates)
    assert np.sum(g * rate_grid(g, rates)) == pytest.approx(best, abs=1e-9 * max(1, abs(best)))


@pytest.mark.parametrize("seed", range(4))
def test_rate_grid_equals_the_linear_program(seed):
    """The polytope written out: entries in [0, 1], nondecreasing columns, column sums."""
    rng = np.random.default_rng(seed)
    n, rates = 9, some_rates(rng, 9, 4)
    m = len(rates)
    g = rng.normal(size=(1, n, m))
    sums = np.kron(np.ones((1, n)), np.eye(m))
    rises = np.kron(np.eye(n), np.eye(m)[:-1] - np.eye(m)[1:])
    best = linprog(g.ravel(), rises, np.zeros(len(rises)), sums, rates, bounds=(0, 1)).fun
    assert np.sum(g * rate_grid(g, rates)) == pytest.approx(best, abs=1e-9)


def test_rate_grid_of_many_rows_is_optimal():
    """Too large for the dense problem: the potentials of a perfect matching prove it, by complementary slackness."""
    rng = np.random.default_rng(3)
    n, rates = 20000, np.arange(1500, 20000, 1500)
    for kind in ("normal", "zero rows", "heavy tails"):
        g = gradient(rng, kind, 1, n, len(rates))
        v = rate_grid(g, rates)
        assert is_grid(v, rates)
        cost, at = plan_cost(g)[0], np.argmax(plan_of(v)[0], axis=0)
        moves = np.full((len(cost), len(cost)), np.inf)
        for a in range(len(cost)):
            moves[a] = (cost[:, at == a] - cost[a, at == a]).min(axis=1)
        paths = moves.copy()
        for via in range(len(paths)):
            paths = np.minimum(paths, paths[:, [via]] + paths[[via]])
        assert np.all(np.diag(paths) > -1e-9), "a negative cycle of moves would lower the cost"


def test_rate_grid_is_deterministic_and_keeps_its_input():
    rng = np.random.default_rng(0)
    g = rng.integers(-1, 2, (3, 40, 4)).astype("float32")
    copy = g.copy()
    v = rate_grid(g, (5, 9, 20, 33))
    np.testing.assert_array_equal(v, rate_grid(g, (5, 9, 20, 33)))
    np.testing.assert_array_equal(g, copy)
    for p in range(3):
        np.testing.assert_array_equal(v[p], rate_grid(g[p : p + 1], (5, 9, 20, 33))[0])


def test_equal_rows_are_taken_in_order():
    v = rate_grid(np.zeros((1, 6, 2)), (2, 5))[0]
    np.testing.assert_array_equal(v.sum(axis=1), [2, 2, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("rates", "shape", "message"),
    [
        ((0, 3), (1, 5, 2), "within 1 and 4"),
        ((1, 5), (1, 5, 2), "within 1 and 4"),
        ((3, 3), (1, 5, 2), "increase strictly"),
        ((1.0, 2.0), (1, 5, 2), "sequence of integers"),
        ((1, 2), (1, 5, 3), "one column per rate"),
        ((1, 2), (5, 2), "one column per rate"),
    ],
)
def test_bad_grids(rates, shape, message):
    with pytest.raises(InvalidInputError, match=message):
        rate_grid(np.zeros(shape), rates)


def test_gradients_must_be_finite():
    g = np.zeros((1, 5, 2))
    g[0, 0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="not finite"):
        rate_grid(g, (1, 2))


# --- parts of the exact oracle -----------------------------------------------------------------------------------


@fast
@given(st.integers(0, 10**6), st.booleans())
def test_repair_from_any_potentials(seed, ties):
    """However bad the potentials are, the repaired assignment is optimal."""
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(4, 30)), int(rng.integers(2, 5))
    cost = rng.integers(-2, 3, (width, n)).astype(float) if ties else rng.normal(size=(width, n))
    inner = np.sort(rng.choice(np.arange(1, n), width - 1, replace=False))
    sizes = np.diff(np.concatenate([[0], inner, [n]]))
    b = 3 * rng.normal(size=width)
    kind = identical_rows(np.ascontiguousarray(cost.T))
    columns = repair(cost, b, cheapest(cost[None], b[None])[0], sizes, kind)
    np.testing.assert_array_equal(np.bincount(columns, minlength=width), sizes)
    rows, slots = linear_sum_assignment(np.repeat(cost.T, sizes, axis=1))
    best = np.repeat(cost.T, sizes, axis=1)[rows, slots].sum()
    assert cost[columns, np.arange(n)].sum() == pytest.approx(best, abs=1e-9)


def test_moves_stay_right_while_rows_move():
    """The costs are those of the cheapest moves, computed afresh, after every step along a path."""
    rng = np.random.default_rng(5)
    cost = np.round(rng.normal(size=(4, 30)), 1)
    stock = np.zeros((4, 30), np.int64)
    stock[rng.integers(0, 4, 30), np.arange(30)] = rng.integers(1, 3, 30)
    moves, total = Moves(cost, stock), stock.sum(axis=0)
    amounts = []
    for _ in range(25):
        for a in range(4):
            here = np.flatnonzero(stock[a])
            expected = (cost[:, here] - cost[a, here]).min(axis=1, initial=np.inf)
            expected[a] = np.inf
            np.testing.assert_array_equal(moves.costs[a], expected)
        full = np.flatnonzero(stock.sum(axis=1))
        path = [int(rng.choice(full)), *(int(c) for c in rng.permutation(4)[:2])]
        path = list(dict.fromkeys(c for c in path if c in full))
        if len(path) > 1:
            before, value = stock.sum(axis=1), np.sum(cost * stock)
            price = sum(moves.costs[a, b] for a, b in itertools.pairwise(path))
            amounts.append(moves.along(path, 3))
            change = np.zeros(4, int)
            change[path[0]], change[path[-1]] = -amounts[-1], amounts[-1]
            np.testing.assert_array_equal(stock.sum(axis=1) - before, change)
            assert np.sum(cost * stock) - value == pytest.approx(amounts[-1] * price)
    assert min(amounts) == 1 and max(amounts) > 1
    np.testing.assert_array_equal(stock.sum(axis=0), total)


def test_shortest_path_against_all_paths():
    rng = np.random.default_rng(2)
    for _ in range(50):
        costs = rng.uniform(0, 1, (5, 5)) ** 3
        excess = np.array([2, 0, 0, -1, -1])[rng.permutation(5)]
        path, lengths = shortest_path(costs, excess)
        exact = costs.copy()
        np.fill_diagonal(exact, 0)
        for via in range(5):
            exact = np.minimum(exact, exact[:, [via]] + exact[[via]])
        distance = exact[excess > 0].min(axis=0)
        best = distance[excess < 0].min()
        assert excess[path[0]] > 0 and excess[path[-1]] < 0 and len(set(path)) == len(path)
        assert sum(costs[a, b] for a, b in itertools.pairwise(path)) == pytest.approx(best)
        np.testing.assert_allclose(lengths, np.minimum(distance, best))


@pytest.mark.parametrize("idle_rows", [0, 150])
def test_annealed_potentials_leave_little_to_repair(idle_rows):
    """Rows at their cheapest column nearly fit the sizes; with zero potentials they don't at all."""
    rng = np.random.default_rng(0)
    sizes = np.array([100, 300, 900, 700])
    for kind in ("normal", "heavy tails", "one scale in a million"):
        g = gradient(rng, kind, 3, 2000, 3).astype("float32")
        g[:, :idle_rows] = 0
        idle = ~g.any(axis=2)
        cost = plan_cost(g)
        surplus = []
        for b in (np.zeros((3, 4)), annealed_potentials(cost, sizes, idle, ~idle)):
            columns = cheapest(cost, b)
            for row in zip(columns, idle, b, strict=True):
                fill(*row, sizes)
            counts = np.array([np.bincount(c, minlength=4) for c in columns])
            surplus.append(np.maximum(counts - sizes, 0).sum(axis=1))
        assert np.all(surplus[1] <= 40) and np.all(surplus[0] > 100)
        np.testing.assert_array_equal(rows_too_many(cost, b, sizes, idle, ~idle), surplus[1])


@pytest.mark.parametrize("idle_rows", [0, 40])
@pytest.mark.parametrize("batch", [1, 3])
def test_newton_solves_the_entropic_dual(idle_rows, batch):
    """Column sums of a softmax over plain loops: as wanted, or smaller at the bound 0 of the potentials."""
    rng = np.random.default_rng(1)
    logits, sizes = 2 * rng.normal(size=(batch, 4, 200)), np.array([10.0, 20.0, 70.0, 100.0])
    idle = np.zeros((batch, 200), bool)
    idle[:, :idle_rows] = True
    dual = solve(logits, sizes, np.zeros((batch, 4)), 1e-9, 60, idle)
    b = dual.b
    assert np.all(dual.error <= 1e-9)
    for p in range(batch):
        weights = np.exp(logits[p, :, idle_rows:] + b[p, :, None])
        sums = (weights / weights.sum(axis=0)).sum(axis=1)
        bound = b[p] >= 0 if idle_rows else np.zeros(4, bool)
        np.testing.assert_allclose(sums[~bound], sizes[~bound], rtol=1e-6)
        assert np.all(sums[bound] <= sizes[bound]) and np.all(b[p] <= 0) == bool(idle_rows)
        assert np.sum(sizes[bound] - sums[bound]) == pytest.approx(idle_rows, abs=1e-4)


def test_idle_rows_fill_the_room():
    """Two columns share the largest potential; their room takes as many idle rows as it can."""
    columns, idle = np.array([0, 0, 1, 2, 0, 0, 0]), np.array([0, 0, 0, 0, 1, 1, 1], bool)
    fill(columns, idle, np.array([0.0, -1.0, 0.0]), np.array([3, 2, 2]))
    np.testing.assert_array_equal(columns, [0, 0, 1, 2, 0, 2, 0])


def test_float32_costs_are_added_up_exactly():
    """1e8 + g is rounded in float32, but the vertex must be the one of the given numbers."""
    g = np.random.default_rng(0).normal(size=(1, 40, 2)).astype("float32")
    g[:, :, 1] += np.float32(1e8)
    np.testing.assert_array_equal(rate_grid(g, (10, 30)), rate_grid(g.astype(float), (10, 30)))
    best = dense_value(g[0].astype(float), np.array([10, 30]))
    assert np.sum(g.astype(float) * rate_grid(g, (10, 30))) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 1e35])
def test_tiny_and_huge_gradients(size):
    """The vertex doesn't depend on the unit of the objective, not even in float32."""
    g = np.random.default_rng(0).normal(size=(1, 60, 4)).astype("float32")
    rates = (5, 20, 30, 50)
    scaled = g * np.float32(size)
    best = dense_value(scaled[0].astype(float), np.array(rates))
    with np.errstate(all="raise", under="ignore"):
        assert np.sum(scaled.astype(float) * rate_grid(scaled, rates)) == pytest.approx(best, rel=1e-9, abs=0)


def test_identical_rows():
    rows = np.array([[1.0, 2.0], [0.0, -0.0], [1.0, 2.0], [2.0, 1.0], [-0.0, 0.0]])
    kind = identical_rows(rows)
    assert kind[0] == kind[2] and kind[1] == kind[4] and len(set(kind)) == 3


# --- the plan of a grid ------------------------------------------------------------------------------------------


def random_grid(rng, n, rates, parts=3):
    """A point inside: the mean of a few vertices."""
    sizes = group_sizes(np.asarray(rates), n)
    orders = [np.repeat(np.arange(len(sizes)), sizes)[rng.permutation(n)] for _ in range(parts)]
    return np.mean([(o[:, None] <= np.arange(len(rates))) for o in orders], axis=0)


@fast
@given(st.integers(0, 10**6))
def test_plans_and_grids(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    rates = some_rates(rng, n)
    s = random_grid(rng, n, rates)[None]
    x = plan_of(s)
    np.testing.assert_allclose(x.sum(axis=1), 1)
    np.testing.assert_allclose(x.sum(axis=2)[0], np.diff([0, *rates, n]))
    np.testing.assert_allclose(grid_of(x), s)
    g = rng.normal(size=s.shape)
    other = random_grid(rng, n, rates)[None]
    np.testing.assert_allclose(np.sum(plan_cost(g) * (x - plan_of(other))), np.sum(g * (s - other)), atol=1e-9)


@fast
@given(st.integers(0, 10**6))
def test_maps_at_single_rates_and_their_mean(seed):
    """Against the loop over k with the permutation-like matrix, whose first k columns are the map at rate k."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 14))
    rates = some_rates(rng, n)
    s = random_grid(rng, n, rates)
    pi = to_permutation(s, rates)
    np.testing.assert_allclose(pi.sum(axis=0), 1)
    np.testing.assert_allclose(pi.sum(axis=1), 1)
    assert np.all(pi >= 0)
    for k in range(n + 1):
        np.testing.assert_allclose(single_rate(s, rates, k), pi[:, :k].sum(axis=1), atol=1e-12)
    mean = np.mean([single_rate(s, rates, k) for k in range(1, n)], axis=0)
    np.testing.assert_allclose(mean_over_rates(s, rates, n), mean, atol=1e-12)
    np.testing.assert_allclose(mean_over_rates(np.stack([s, s]), rates, n)[1], mean, atol=1e-12)


def test_maps_keep_their_dtype_and_check_their_input():
    s = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]], "float32")
    np.testing.assert_allclose(single_rate(s, (1, 3), 1.5), [1, 0.25, 0.25, 0])
    for array in (single_rate(s, (1, 3), 2), mean_over_rates(s, (1, 3), 4), to_permutation(s, (1, 3))):
        assert array.dtype == np.float32
    for call, message in (
        (lambda: single_rate(s, (1, 3), 5), "k must be between 0 and 4"),
        (lambda: single_rate(s, (1,), 2), r"one entry per column of the grid \(2\)"),
        (lambda: mean_over_rates(s, (1, 3), 5), "n must be 4"),
        (lambda: to_permutation(s, (1, 4)), "within 1 and 3"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            call()


# --- the entropic balance ----------------------------------------------------------------------------------------


def sinkhorn(a, capacities, rounds=20000):
    """Alternating scaling in the log domain."""
    b = np.zeros(a.shape[1])
    for _ in range(rounds):
        z = a + b
        x = np.exp(z - z.max(axis=1, keepdims=True))
        x /= x.sum(axis=1, keepdims=True)
        error = np.log(capacities / x.sum(axis=0))
        b += error
        if np.abs(error).max() < 1e-13:
            break
    return x


@pytest.mark.parametrize("scale", [0.1, 1, 5])
def test_balance_against_sinkhorn(scale):
    rng = np.random.default_rng(0)
    a, capacities = scale * rng.normal(size=(3, 30, 5)), np.array([1, 2, 7, 12, 8])
    x, b = balance(a, capacities, tol=1e-12)
    for p in range(3):
        np.testing.assert_allclose(x[p], sinkhorn(a[p], capacities), atol=1e-9)
    again, _ = balance(a, capacities, b, tol=1e-9, max_iter=1)
    np.testing.assert_allclose(again, x, atol=1e-9)


@fast
@given(st.integers(0, 10**6), st.sampled_from([0.1, 3.0, 30.0, 1e3, 1e5]), st.sampled_from(["float32", "float64"]))
def test_balanced_plans_are_feasible(seed, scale, dtype):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    capacities = group_sizes(some_rates(rng, n, 6), n)
    a = (scale * rng.normal(size=(2, n, len(capacities)))).astype(dtype)
    copy = a.copy()
    x, _ = balance(a, capacities)
    assert x.dtype == dtype and x.shape == a.shape and np.all(x >= 0)
    np.testing.assert_allclose(x.sum(axis=1, dtype=float), np.tile(capacities, (2, 1)), rtol=3e-6)
    np.testing.assert_allclose(x.sum(axis=2, dtype=float), 1, rtol=3e-6)
    np.testing.assert_array_equal(a, copy)


def test_balance_is_the_bregman_projection():
    """X = softmax(A + b): the logarithm differs from A by a sum of row and column potentials only."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(1, 12, 4))
    x, b = balance(a, np.array([2, 3, 3, 4]), tol=1e-12)
    rest = np.log(x) - a - b[:, None]
    np.testing.assert_allclose(rest, rest[:, :, :1] + np.zeros(4), atol=1e-9)


def test_problems_are_balanced_independently():
    rng = np.random.default_rng(4)
    a, capacities = rng.normal(size=(4, 20, 3)) * np.array([0.1, 1, 20, 400]).reshape(4, 1, 1), np.array([4, 9, 7])
    x, b = balance(a, capacities)
    for p in range(4):
        alone, potentials = balance(a[p : p + 1], capacities)
        np.testing.assert_allclose(alone[0], x[p], atol=1e-12)
        np.testing.assert_allclose(potentials[0], b[p], atol=1e-9)


@pytest.mark.parametrize("capacities", [[1, 2], [3, 0, 3], [1, 2, 4]])
def test_capacities_are_checked(capacities):
    with pytest.raises(InvalidInputError, match="capacities must be 3 positive numbers with sum 6"):
        balance(np.zeros((1, 6, 3)), np.array(capacities))
