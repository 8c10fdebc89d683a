"""Linear oracles and regions against linear programs and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog

from innv_ext.errors import InvalidInputError
from innv_ext.optim import (
    Birkhoff,
    Box,
    CappedSimplex,
    KSparse,
    RateGrid,
    birkhoff,
    box,
    k_sparse,
    nonnegative_k_sparse,
)

fast = settings(max_examples=60, deadline=None, derandomize=True, database=None)
small = st.floats(-4, 4).map(lambda v: round(v * 4) / 4)  # a coarse lattice, so that ties are common


def dot(a, b):
    return np.sum(a.reshape(len(a), -1) * b.reshape(len(b), -1), axis=1)


@fast
@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=small), st.data())
def test_nonnegative_k_sparse_against_a_linear_program(g, data):
    k = np.array([data.draw(st.integers(1, g.shape[1])) for _ in g])
    v = nonnegative_k_sparse(g, k)
    assert np.all((v == 0) | (v == 1)) and np.all(v.sum(axis=1) <= k)
    for row, vertex, budget in zip(g, v, k, strict=True):
        best = linprog(row, A_ub=np.ones((1, len(row))), b_ub=[budget], bounds=(0, 1)).fun
        assert row @ vertex == pytest.approx(best, abs=1e-9)


@fast
@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=small), st.data())
def test_k_sparse_against_all_vertices(g, data):
    n = g.shape[1]
    k = np.array([data.draw(st.integers(1, n)) for _ in g])
    radius = data.draw(st.sampled_from([1.0, 0.5, 3.0]))
    v = k_sparse(g, k, radius)
    for row, vertex, size in zip(g, v, k, strict=True):
        assert np.count_nonzero(vertex) == size and set(np.abs(vertex[vertex != 0])) == {radius}
        signs = (s for s in itertools.product((-radius, 0, radius), repeat=n) if np.count_nonzero(s) == size)
        assert row @ vertex == pytest.approx(min(row @ np.array(s) for s in signs), abs=1e-12)


@fast
@given(hnp.arrays(float, (3, 5), elements=small))
def test_box_against_all_vertices(g):
    best = [min(row @ np.array(c) for c in itertools.product((0, 1), repeat=5)) for row in g]
    np.testing.assert_allclose(dot(g, box(g)), best, atol=1e-12)


@fast
@given(hnp.arrays(float, (2, 4, 4), elements=small))
def test_birkhoff_against_all_permutations(g):
    v = birkhoff(g)
    assert np.all(v.sum(axis=1) == 1) and np.all(v.sum(axis=2) == 1) and set(np.unique(v)) == {0, 1}
    best = [min(sum(m[i, p[i]] for i in range(4)) for p in itertools.permutations(range(4))) for m in g]
    np.testing.assert_allclose(dot(g, v), best, atol=1e-12)


def test_ties_go_to_the_lower_index():
    g = np.array([[-1.0, -2.0, -1.0, -1.0, 5.0], [-1.0, -1.0, -1.0, -1.0, -1.0]])
    np.testing.assert_array_equal(nonnegative_k_sparse(g, 3), [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(nonnegative_k_sparse(g, np.array([2, 4])), [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(k_sparse(g, 3), [[1, 1, 0, 0, -1], [1, 1, 1, 0, 0]])


def test_only_negative_entries_are_worth_a_one():
    g = np.array([[1.0, 0.0, -1.0, 2.0]])
    np.testing.assert_array_equal(nonnegative_k_sparse(g, 3), [[0, 0, 1, 0]])
    np.testing.assert_array_equal(box(g), [[0, 0, 1, 0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_are_kept_and_gradients_not_changed(dtype):
    g = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(dtype)
    copy = g.copy()
    for region in (CappedSimplex(4), KSparse((2, 3), 0.5), Box(), Birkhoff(), RateGrid((1, 2))):
        gradient = g[..., :2] if isinstance(region, RateGrid) else g
        v = region.minimize(gradient, np.arange(2))
        assert v.dtype == dtype and v.shape == gradient.shape
    np.testing.assert_array_equal(g, copy)


def test_regions_look_up_the_k_of_their_problems():
    g = -np.ones((2, 5))
    region = CappedSimplex((1, 2, 3, 4))
    np.testing.assert_array_equal(region.minimize(g, np.array([3, 1])).sum(axis=1), [4, 2])
    np.testing.assert_allclose(region.project(-g, np.array([2, 0])).sum(axis=1), [3, 1])
    signed = KSparse((1, 2, 3, 4), 2.0)
    np.testing.assert_array_equal(np.abs(signed.minimize(g, np.array([3, 1]))).sum(axis=1), [8, 4])
    np.testing.assert_allclose(np.abs(signed.project(9 * g, np.array([2, 0]))).sum(axis=1), [6, 2])


def test_regions_are_values():
    assert CappedSimplex(np.array([1, 2])) == CappedSimplex((1, 2)) != CappedSimplex(1)
    assert RateGrid(np.array([1, 4])) == RateGrid([1, 4])
    assert repr(KSparse(np.int64(3))) == "KSparse(k=3, radius=1.0)"
    assert len({Box(), Box(), Birkhoff()}) == 2


NAN = np.array([[0.0, np.nan, 1.0]])
BAD = {
    "k is 0": (lambda: nonnegative_k_sparse(np.zeros((1, 3)), 0), "between 1 and 3, the number of components, got 0"),
    "k is n+1": (lambda: k_sparse(np.zeros((1, 3)), 4), "got 4"),
    "one k of two": (lambda: nonnegative_k_sparse(np.zeros((2, 3)), np.array([1, 9])), "between 1 and 3"),
    "fraction": (lambda: nonnegative_k_sparse(np.zeros((1, 3)), 1.5), "must be an integer"),
    "wrong count": (lambda: nonnegative_k_sparse(np.zeros((2, 3)), np.array([1, 1, 1])), r"per problem \(2\)"),
    "radius": (lambda: k_sparse(np.zeros((1, 3)), 1, 0.0), "radius must be a positive number, got 0.0"),
    "nan, sparse": (lambda: nonnegative_k_sparse(NAN, 1), "gradient contains"),
    "nan, signed": (lambda: k_sparse(NAN, 1), "gradient contains"),
    "nan, box": (lambda: box(NAN), "gradient contains"),
    "nan, birkhoff": (lambda: birkhoff(np.full((1, 2, 2), np.nan)), "gradient contains"),
    "one axis": (lambda: nonnegative_k_sparse(np.zeros(3), 1), "2 axes"),
    "not square": (lambda: birkhoff(np.zeros((1, 2, 3))), "square"),
    "region k": (lambda: CappedSimplex(0), "k must be an integer of at least 1, for all problems or one each, got 0"),
    "region k float": (lambda: CappedSimplex(0.3), "k must be an integer of at least 1"),
    "region radius": (lambda: KSparse(1, -1.0).minimize(np.zeros((1, 3)), np.arange(1)), "radius"),
    "too few k": (lambda: CappedSimplex((1, 2)).minimize(np.zeros((1, 3)), np.array([2])), "k has 2 entries"),
    "no projection": (lambda: Birkhoff().project(np.zeros((1, 2, 2)), np.arange(1)), "no exact projection"),
    "rates fall": (lambda: RateGrid((3, 2)), "increase strictly"),
    "rate 0": (lambda: RateGrid((0, 2)), "increase strictly"),
    "rates nested": (lambda: RateGrid(((1, 2), (3, 4))), "sequence of integers"),
    "no rates": (lambda: RateGrid(()), "sequence of integers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(InvalidInputError, match=message):
        call()
