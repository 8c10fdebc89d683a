"""Projections against their optimality conditions, an enumeration of the breakpoints and a QP solver."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize

from innv_ext.errors import InvalidInputError
from innv_ext.optim import Box, entropic_capped_simplex, project_box, project_capped_simplex, project_k_sparse

fast = settings(max_examples=150, deadline=None, derandomize=True, database=None)
lattice = st.integers(-8, 8).map(lambda v: v / 4)


def by_enumeration(y, k):
    """clip(y - tau, 0, 1): tries every linear piece between two breakpoints y_i, y_i - 1."""
    if np.clip(y, 0, 1).sum() <= k:
        return np.clip(y, 0, 1)
    knots = np.unique(np.concatenate([y, y - 1]))
    for low, high in itertools.pairwise(knots):
        at_low, at_high = (np.clip(y - t, 0, 1).sum() for t in (low, high))
        if at_high <= k <= at_low:
            share = 0 if at_low == at_high else (at_low - k) / (at_low - at_high)
            return np.clip(y - (low + share * (high - low)), 0, 1)
    raise AssertionError("no piece")


@fast
@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=lattice), st.data())
def test_capped_simplex_with_ties(y, data):
    k = np.array([data.draw(st.integers(1, y.shape[1])) for _ in y])
    expected = [by_enumeration(row, budget) for row, budget in zip(y, k, strict=True)]
    np.testing.assert_allclose(project_capped_simplex(y, k), expected, atol=1e-12)


@fast
@given(
    hnp.arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=st.floats(-1, 1)),
    st.sampled_from([1e-12, 1e-3, 1.0, 30.0, 1e6, 1e12]),
    st.data(),
)
def test_capped_simplex_at_any_scale(y, scale, data):
    """x is the projection iff x = clip(y - tau, 0, 1) is feasible with tau >= 0, and tau = 0 or the sum is k."""
    k = np.array([data.draw(st.integers(1, y.shape[1])) for _ in y])
    y = y * scale
    x = project_capped_simplex(y, k)
    assert np.all((x >= 0) & (x <= 1))
    for row, point, budget in zip(y, x, k, strict=True):
        assert point.sum() <= budget + 1e-11
        free = (point > 0) & (point < 1)
        tau = np.mean((row - point)[free]) if free.any() else max(0.0, np.max(row[point == 0], initial=0))
        near = 1e-12 * max(1.0, np.abs(row).max())
        assert np.all(np.abs((row - point)[free] - tau) <= near)
        assert np.all(row[point == 0] <= tau + near) and np.all(row[point == 1] >= 1 + min(tau, 0) - near)
        assert tau >= -near
        if tau > near:
            assert point.sum() == pytest.approx(budget, abs=1e-11)
            assert np.all(row[point == 1] - 1 >= (tau if free.any() else -np.inf) - near)


def by_slsqp(y, constraints, bounds):
    start = np.zeros_like(y)
    options = {"ftol": 1e-14, "maxiter": 500}
    found = minimize(
        lambda x: np.sum((x - y) ** 2), start, jac=lambda x: 2 * (x - y), bounds=bounds, constraints=constraints,
        method="SLSQP", options=options,
    )  # fmt: skip
    return found.x


@pytest.mark.parametrize("seed", range(5))
def test_capped_simplex_against_a_qp_solver(seed):
    rng = np.random.default_rng(seed)
    y, k = rng.normal(0.5, 1, (1, 7)), int(rng.integers(1, 7))
    budget = {"type": "ineq", "fun": lambda x: k - x.sum(), "jac": lambda x: -np.ones_like(x)}
    np.testing.assert_allclose(project_capped_simplex(y, k)[0], by_slsqp(y[0], budget, [(0, 1)] * 7), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_signed_against_a_qp_solver(seed):
    """In split form x = a - b with a, b >= 0, the constraint on sum |x| is linear."""
    rng = np.random.default_rng(seed)
    y, k, radius = rng.normal(0, 3, 6), int(rng.integers(1, 6)), float(rng.uniform(0.5, 2))
    split = lambda z: z[:6] - z[6:]
    budget = {"type": "ineq", "fun": lambda z: k * radius - z.sum(), "jac": lambda z: -np.ones(12)}
    found = minimize(
        lambda z: np.sum((split(z) - y) ** 2),
        np.zeros(12),
        jac=lambda z: np.concatenate([2 * (split(z) - y), -2 * (split(z) - y)]),
        bounds=[(0, radius)] * 12,
        constraints=budget,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(project_k_sparse(y[None], k, radius)[0], split(found.x), atol=1e-5)


@fast
@given(hnp.arrays(float, st.tuples(st.integers(1, 3), st.integers(2, 12)), elements=st.floats(-3, 3)), st.data())
def test_projections_are_idempotent_and_contract(y, data):
    k = data.draw(st.integers(1, y.shape[1]))
    for project in (lambda a: project_capped_simplex(a, k), lambda a: project_k_sparse(a, k, 0.7), project_box):
        x = project(y)
        np.testing.assert_allclose(project(x), x, atol=1e-12)
        z = project(y[:, ::-1] * 0.5)
        before, after = np.linalg.norm(y - y[:, ::-1] * 0.5, axis=1), np.linalg.norm(x - z, axis=1)
        assert np.all(after <= before + 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_input_are_kept(dtype):
    y = np.random.default_rng(0).normal(0.5, 1, (4, 50)).astype(dtype)
    copy = y.copy()
    for x in (project_capped_simplex(y, 5), project_k_sparse(y, 5, 2.0), Box().project(y, np.arange(4))):
        assert x.dtype == dtype
    np.testing.assert_array_equal(y, copy)
    exact = project_capped_simplex(y.astype(float), 5)
    np.testing.assert_allclose(project_capped_simplex(y, 5), exact, atol=2e-7 if dtype == "float32" else 1e-15)


def test_rows_of_a_batch_do_not_meet():
    rng = np.random.default_rng(1)
    y, k = rng.normal(0.3, 1, (6, 40)) * 10.0 ** rng.integers(-2, 6, (6, 1)), rng.integers(1, 41, 6)
    together = project_capped_simplex(y, k)
    for p in range(6):
        np.testing.assert_array_equal(together[p], project_capped_simplex(y[p : p + 1], k[p : p + 1])[0])


def test_many_components():
    n = 20000
    y = np.random.default_rng(2).normal(size=(3, n)) * np.array([[1e-3], [1.0], [1e9]])
    k = np.array([1, n // 20, n // 3])
    sums = np.minimum(np.clip(y, 0, 1).sum(axis=1), k)
    np.testing.assert_allclose(project_capped_simplex(y, k).sum(axis=1), sums, rtol=1e-12)


@fast
@given(
    hnp.arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.floats(0.01, 100)),
    st.sampled_from(["float32", "float64"]),
)
def test_entropic_projection_against_bisection(weights, dtype):
    """min(c w, 1) with the c that gives the sum k, for every k; the points grow with k in every component."""
    weights = weights.astype(dtype)
    before = np.zeros_like(weights)
    for k in range(1, weights.shape[1] + 1):
        x = entropic_capped_simplex(weights, np.full(len(weights), k))
        assert x.dtype == dtype
        for row, point in zip(weights.astype(float), x, strict=True):
            low, high = 0.0, 1e6
            for _ in range(200):
                c = (low + high) / 2
                low, high = (c, high) if np.minimum(c * row, 1).sum() < k else (low, c)
            np.testing.assert_allclose(point, np.minimum(high * row, 1), rtol=1e-5 if dtype == "float32" else 1e-9)
        assert np.all(x >= before - 1e-6)
        before = x


def test_bad_input():
    for call, message in (
        (lambda: project_capped_simplex(np.array([[np.inf, 1.0]]), 1), "y must be finite"),
        (lambda: project_capped_simplex(np.zeros(3), 1), "shape"),
        (lambda: project_capped_simplex(np.zeros((1, 3)), 4), "between 1 and 3"),
        (lambda: entropic_capped_simplex(np.array([[1.0, 0.0]]), 1), "weights must be positive"),
        (lambda: project_k_sparse(np.zeros((1, 3)), 1, -2.0), "radius must be a positive number, got -2.0"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            call()
