"""Ord-RDE: optimal orderings of linear models, the grid against doubly stochastic matrices, the stochastic gradient."""

import itertools

import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from rde_nets import Quadratic, cloud, distortion_of, linear, poured, relu_net

import innv_ext
from innv_ext import optim
from innv_ext.analyzers.rde import ordering as ord_rde
from innv_ext.analyzers.rde.ordering import OrderingRDE
from innv_ext.errors import InvalidInputError

N = 5
X = cloud(N) + 0.7 * np.random.default_rng(2).normal(size=(40, N))
x = np.random.default_rng(5).normal(size=(3, N))
# after 150 evaluations, in units of D(0)
SOLVERS = {"mirror": 2e-3, "fw": 2e-2, "afw": 5e-3, "lcg": 2e-2, "lafw": 5e-3}


def ordering(model, **params):
    return OrderingRDE(model, **{"progress": False, "reference": "full", **params}).fit(X)


@pytest.fixture(scope="module")
def model():
    return linear(N, outputs=2)[0]


@pytest.fixture(scope="module")
def twins(model):
    w = np.asarray(model.get_weights()[0])[:, 1]
    return [Quadratic(w, row, X.mean(axis=0), np.cov(X.T, bias=True)) for row in x]


def brute_weights(rates, n):
    """The mean over k = 1..n-1 of D interpolated linearly between 0, the rates and n, one knot at a time."""
    knots = [0, *rates, n]
    return [np.interp(range(1, n), knots, np.eye(len(knots))[j + 1]).mean() for j in range(len(rates))]


def feasible(grid, rates):
    """(m, n): entries in [0, 1], nested, with the right sums."""
    assert (grid >= 0).all() and (grid <= 1).all()
    assert (np.diff(grid, axis=0) >= -1e-9).all()
    np.testing.assert_allclose(grid.sum(axis=1), rates, rtol=1e-5)


# --- optima --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def optima(twins):
    """By sequential quadratic programming, for the grid (1, 3) and for all rates."""
    return {rates: [t.grid(rates, brute_weights(rates, N)) for t in twins] for rates in ((1, 3), (1, 2, 3, 4))}


@pytest.mark.parametrize("start", ["deviation", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_optimum_over_the_grid(model, twins, optima, solver, start):
    found = ordering(model, rates=(1, 3), solver=solver, start=start, max_iter=150).explain(x, 1)
    _check(found, twins, optima[1, 3], (1, 3), SOLVERS[solver])


@pytest.mark.parametrize("solver", ["fw", "afw", "lcg", "lafw"])
def test_optimum_over_doubly_stochastic_matrices(model, twins, optima, solver):
    found = ordering(model, representation="dense", solver=solver, max_iter=150).explain(x, 1)
    _check(found, twins, optima[1, 2, 3, 4], (1, 2, 3, 4), 2e-2)


@pytest.mark.parametrize("step", ["monotone", "adaptive", "open"])
@pytest.mark.parametrize("solver", zoo.thinned(["afw", "fw"]))
def test_steps(model, twins, optima, solver, step):
    found = ordering(model, rates=(1, 3), solver=solver, step=step, max_iter=150).explain(x, 1)
    _check(found, twins, optima[1, 3], (1, 3), 2e-2)


def _check(found, twins, optima, rates, tolerance):
    """Feasible, close to the optimum, and no farther from it than the gap says; the objective is that of the maps."""
    weights = brute_weights(rates, N)
    np.testing.assert_array_equal(found.extras["rates"], [rates] * len(twins))
    for i, (twin, (_, optimum)) in enumerate(zip(twins, optima, strict=True)):
        grid = found.extras["single_rate"][i]
        feasible(grid, rates)
        value = sum(a * twin(s) for a, s in zip(weights, grid, strict=True))
        np.testing.assert_allclose(found.extras["objective"][i], value, rtol=1e-9)
        assert -1e-6 <= value - optimum <= tolerance * twin(np.zeros(N))
        assert value - optimum <= found.extras["dual_gap"][i] + 1e-6
        assert found.extras["status"][i] in ("converged", "stalled", "max_iter")


@pytest.mark.parametrize("variant", zoo.thinned("DAF", 3))
def test_stochastic_frank_wolfe(model, twins, optima, variant):
    """With and without momentum: a tenth of the way from the start is left at most."""
    found = ordering(model, rates=(1, 2, 3, 4), solver="sfw", variant=variant, max_iter=150).explain(x, 1)
    start = ordering(model, rates=(1, 2, 3, 4), max_iter=0, start="uniform").explain(x, 1)
    weights = brute_weights((1, 2, 3, 4), N)
    for i, (twin, (_, optimum)) in enumerate(zip(twins, optima[1, 2, 3, 4], strict=True)):
        grid = found.extras["single_rate"][i]
        feasible(grid, (1, 2, 3, 4))
        value = sum(a * twin(s) for a, s in zip(weights, grid, strict=True))
        assert optimum - 1e-6 <= value <= optimum + 0.1 * (start.extras["objective"][i] - optimum)
    assert (found.extras["evaluations"] == 151).all() and (found.extras["status"] == "max_iter").all()


@pytest.mark.parametrize("solver", ["mirror", "afw"])
def test_exact_ordering_of_independent_noise(solver):
    """x is the mean of V: at each rate s = max(0, 1 - level / a), a = w^2 sigma^2, is optimal, and these maps are
    nested. So components are ordered by |w| sigma, whatever x is worth, and the map is the mean of the s."""
    net, w, _ = linear(N)
    sigma, mu = np.array([1.5, 0.6, 0.9, 1.2, 0.8]), np.array([-3.0, 1, 50, 0.5, 0])
    a = (w[:, 0] * sigma) ** 2
    maps = np.stack([poured(a, k) for k in range(1, N)])
    assert (np.diff(maps, axis=0) >= -1e-12).all()
    params = {"solver": solver, "rates": (1, 2, 3, 4), "max_iter": 250, "start": "uniform"}
    analyzer = OrderingRDE(net, mean=mu, variance=sigma**2, progress=False, **params)
    found = analyzer.explain(mu[None])
    value, optimum = ([np.sum(a * (1 - s) ** 2) for s in grid] for grid in (found.extras["single_rate"][0], maps))
    assert np.mean(optimum) <= np.mean(value) <= np.mean(optimum) + 1e-3 * a.sum()
    np.testing.assert_array_equal(np.argsort(found.attribution[0]), np.argsort(np.abs(w[:, 0]) * sigma))
    np.testing.assert_allclose(found.attribution[0], maps.mean(axis=0), atol=0.02)


def test_default_rates():
    """An even grid of that many rates, all of them where there are fewer features."""
    net = relu_net(N)
    for rates, expected in ((20, [1, 2, 3, 4]), (4, [1, 2, 3, 4]), (2, [2, 3]), (1, [2])):
        found = ordering(net, rates=rates, max_iter=1).explain(x)
        np.testing.assert_array_equal(found.extras["rates"], [expected] * 3)
    wide = relu_net(41)
    assert OrderingRDE(wide, reference="uniform", rates=np.int64(3)).whole_rates(41) == [10, 20, 31]
    assert OrderingRDE(wide, reference="uniform", rates=(0.25, 0.5)).whole_rates(41) == [10, 20]


# --- the mean over all rates ---------------------------------------------------------------------------------------


RATES = [{"rates": 2}, {"rates": (1, 4)}, {"rates": 4}, {"rates": (3,)}, {"rates": (2, 3)}]


@pytest.mark.parametrize("params", zoo.thinned(RATES))
def test_the_map_is_the_mean_over_all_rates(params):
    """Of Pi p_k over k = 1..n-1, with Pi built from the grid; for two solvers and a net that isn't linear."""
    for solver in ("mirror", "afw"):
        found = ordering(relu_net(N), solver=solver, max_iter=10, **params).explain(x)
        rates = found.extras["rates"][0]
        for i in range(3):
            grid = found.extras["single_rate"][i].T
            pi = optim.to_permutation(grid, rates)
            np.testing.assert_allclose(pi.sum(axis=0), 1, rtol=1e-5)
            np.testing.assert_allclose(pi.sum(axis=1), 1, rtol=1e-5)
            expected = np.mean([pi[:, :k].sum(axis=1) for k in range(1, N)], axis=0)
            np.testing.assert_allclose(found.attribution[i], expected, atol=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1), min_size=1))))
def test_weights_of_the_rates(case):
    """Those of the trapezoid rule on uneven gaps; with all rates, the plain mean."""
    n, rates = case[0], sorted(case[1])
    np.testing.assert_allclose(ord_rde.rate_weights(rates, n), brute_weights(rates, n), rtol=1e-12)
    np.testing.assert_allclose(ord_rde.rate_weights(range(1, n), n), np.full(n - 1, 1 / (n - 1)))


def test_all_rates_are_the_dense_representation():
    """Frank-Wolfe with steps that look at values only makes the very same moves on grids and on matrices."""
    net = relu_net(N)
    for start, params in (
        ("uniform", {}),
        ("deviation", {"distortion": "monte_carlo", "samples": 3}),
        ("deviation", {"features": np.arange(N) // 2}),
    ):
        n = 3 if "features" in params else N
        common = {"solver": "fw", "max_iter": 12, "start": start, **params}
        grid = ordering(net, rates=tuple(range(1, n)), **common).explain(x)
        dense = ordering(net, representation="dense", **common).explain(x)
        np.testing.assert_allclose(dense.extras["objective"], grid.extras["objective"], rtol=1e-6)
        np.testing.assert_allclose(dense.extras["dual_gap"], grid.extras["dual_gap"], rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(dense.attribution, grid.attribution, atol=1e-5)
        np.testing.assert_allclose(dense.extras["single_rate"], grid.extras["single_rate"], atol=1e-5)
        np.testing.assert_array_equal(dense.extras["rates"], grid.extras["rates"])


def test_the_gradient_over_matrices_by_differences():
    """The objective of Pi, its entries moved one at a time."""
    d, n = distortion_of(relu_net(4), x[:2, :4], X[:, :4], 1), 4
    analyzer = OrderingRDE(relu_net(n), reference="uniform", representation="dense", solver="fw")
    objective = ord_rde._of_matrix(analyzer._objective(d, [1, 2, 3]))
    rng = np.random.default_rng(0)
    pi, h = np.stack([0.5 * np.eye(n)[rng.permutation(n)] + 0.5 / n for _ in range(2)]), 1e-6
    both = np.arange(2)
    value, gradient = objective(pi, both)
    expected = [np.mean([d(pi[i : i + 1, :, :k].sum(axis=2), [i], [0])[0] for k in (1, 2, 3)]) for i in range(2)]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for i, j in itertools.product(range(n), range(n)):
        moved = np.zeros((n, n))
        moved[i, j] = h
        slope = (objective(pi + moved, both)[0] - objective(pi - moved, both)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, i, j], slope, rtol=1e-5, atol=1e-8)


def test_the_objective_is_that_of_the_maps():
    """On a net that isn't linear: the weighted mean of D at the single-rate maps, each with the draws of its rate."""
    net = relu_net(N)
    for params in ({}, {"distortion": "monte_carlo", "samples": 4}):
        for solver in ("mirror", "lafw"):
            found = ordering(net, rates=(1, 2, 4), solver=solver, max_iter=10, **params).explain(x, 1)
            d = distortion_of(net, x, X, 1, reference="full", **params)
            maps = found.extras["single_rate"].reshape(9, N)
            values = d(maps, np.repeat(range(3), 3), np.tile(range(3), 3))[0].reshape(3, 3)
            np.testing.assert_allclose(found.extras["objective"], values @ brute_weights((1, 2, 4), N), rtol=1e-6)


# --- stochastic gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [[2, 5], [1, 2, 3, 4, 5, 6], [4]])
def test_stochastic_gradients_are_unbiased(rates):
    """The mean of many equals value and gradient of the mean over all rates (by differences), within five standard
    errors; each is that of the rates drawn."""
    n = 7
    d = distortion_of(relu_net(n), np.random.default_rng(1).normal(size=(2, n)), cloud(n), 1)
    grid = np.stack([np.sort(np.random.default_rng(i).dirichlet(np.ones(len(rates) + 1), n), axis=1) for i in (0, 1)])
    grid = np.cumsum(grid, axis=2)[:, :, :-1]  # the sums don't matter here
    both, calls, h = np.arange(2), 300, 1e-6

    def mean(grid):
        points = [optim.single_rate(grid, rates, k) for k in range(1, n)]
        return np.mean([d(p, both, np.zeros(2, int))[0] for p in points], axis=0)

    stochastic = OrderingRDE(relu_net(n), reference="uniform", solver="sfw", max_iter=calls)._objective(d, rates)
    found = [stochastic(grid, both) for _ in range(calls)]
    values, gradients = (np.stack(part) for part in zip(*found, strict=True))
    assert values.std(axis=0).min() > 0, "the rates are drawn anew"
    error = values.std(axis=0) / np.sqrt(calls)
    assert (np.abs(values.mean(axis=0) - mean(grid)) < 5 * error).all()
    error = gradients.std(axis=0) / np.sqrt(calls) + 1e-7
    for i, j in itertools.product(range(n), range(len(rates))):
        moved = np.zeros((n, len(rates)))
        moved[i, j] = h
        slope = (mean(grid + moved) - mean(grid - moved)) / (2 * h)
        assert (np.abs(gradients[:, :, i, j].mean(axis=0) - slope) < 5 * error[:, i, j]).all()


def test_draws_of_the_rates():
    """The same for all samples, by the seed, whatever the batch size."""
    net = relu_net(N)
    params = {"solver": "sfw", "max_iter": 5, "rates": (2, 4)}
    expected = ordering(net, **params).analyze(x)
    for size in (1, 100):
        np.testing.assert_allclose(ordering(net, **params).analyze(x, batch_size=size), expected, atol=1e-9)
    assert np.abs(ordering(net, seed=1, **params).analyze(x) - expected).max() > 1e-3


# --- bad input -----------------------------------------------------------------------------------------------------

BAD = {
    "rates": ({"rates": 0}, "rates.*at least 1"),
    "no whole number": ({"rates": 2.5}, "rates"),
    "truth": ({"rates": True}, "rates"),
    "solver": ({"solver": "spg"}, "solver.*'mirror'.*'spg'"),
    "step": ({"step": "exact"}, "step.*'exact'"),
    "variant": ({"variant": "G"}, "variant.*'F'.*'G'"),
    "representation": ({"representation": "sparse"}, "representation.*'dense'.*'sparse'"),
    "dense mirror": ({"representation": "dense"}, "mirror.*dense"),
    "one feature": ({"features": np.zeros(N, int)}, "at least 2 features"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(case):
    params, words = BAD[case]
    with pytest.raises(InvalidInputError, match=words):
        innv_ext.create_analyzer("ord_rde", relu_net(N), **params)


def test_dense_matrices_of_large_inputs():
    with pytest.raises(InvalidInputError, match=r"2049 x 2049.*2048.*grid"):
        OrderingRDE(relu_net(2049, (2,)), representation="dense", solver="fw")
