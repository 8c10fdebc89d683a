"""L-RDE, RC-RDE and MR-RDE: their optima on linear models; all four: independence of the batch, seeds."""

import itertools

import numpy as np
import pytest
import rde_nets
import tensorflow as tf
import zoo
from rde_nets import MC, NAMES, QUICK, N, Quadratic, X, linear, poured, rde, relu_net, sampler, x

import innv_ext

create = innv_ext.create_analyzer
# after 200 evaluations, in units of D(0); Frank-Wolfe without away steps converges like 1 / t only
SOLVERS = {"spg_fw": 1e-9, "spg": 1e-9, "pgd": 1e-5, "afw": 1e-3, "lafw": 1e-3, "fw": 2e-3, "lcg": 2e-3}


@pytest.fixture(scope="module")
def model():
    return linear(N, outputs=2)[0]


@pytest.fixture(scope="module")
def twins(model):
    """D of each sample, for the second output and the data's whole covariance."""
    w = np.asarray(model.get_weights()[0])[:, 1]
    return [Quadratic(w, row, X.mean(axis=0), np.cov(X.T, bias=True)) for row in x]


# --- optima of convex quadratics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["deviation", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", zoo.thinned(SOLVERS))
def test_rate_constrained_optimum(model, twins, solver, start):
    """Value, feasibility and gap against sequential quadratic programming."""
    for rate in (1, 3, 0.8):
        k = 5 if rate == 0.8 else rate
        found = rde("rc_rde", model, rate=rate, solver=solver, start=start, max_iter=200).explain(x, 1)
        _check(found.attribution, found.extras, [(t, *t.capped(k)) for t in twins], k, SOLVERS[solver])
        np.testing.assert_array_equal(found.extras["rates"], [k] * 3)


def _check(maps, extras, expected, k, tolerance, lazy=False):
    assert (maps >= 0).all() and (maps <= 1).all() and (maps.sum(axis=1) <= k * (1 + 1e-9)).all()
    for i, (twin, best, optimum) in enumerate(expected):
        value = twin(maps[i])
        scale = twin(np.zeros(N))
        np.testing.assert_allclose(extras["objective"][i], value, rtol=1e-9, atol=1e-12)
        assert -1e-9 * scale <= value - optimum <= tolerance * scale
        gap = extras["dual_gap"][i]
        assert value - optimum <= gap + 1e-9 * scale or (lazy and np.isnan(gap))
        if tolerance < 1e-8:
            np.testing.assert_allclose(maps[i], best, atol=1e-3)


@pytest.mark.parametrize("step", ["monotone", "adaptive", "open"])
@pytest.mark.parametrize("solver", zoo.thinned(["lafw", "fw", "afw", "lcg"]))
def test_steps_of_frank_wolfe(model, twins, solver, step):
    found = rde("rc_rde", model, rate=2, solver=solver, step=step, max_iter=200).explain(x, 1)
    lazy = step == "open" and solver in ("lcg", "lafw")  # the gap is known at the last point, the best may be another
    _check(found.attribution, found.extras, [(t, *t.capped(2)) for t in twins], 2, 1e-2, lazy)


@pytest.mark.parametrize("solver", ["spg_fw", "spg"])
def test_multi_rate_optima(model, twins, solver):
    """Each single-rate map is the optimum of its rate; the map is their weighted mean."""
    rates, weights = (1, 2, 4, 5), (0.5, 0, 3, 1)
    analyzer = rde("mr_rde", model, rates=rates, weights=weights, solver=solver, max_iter=300)
    found = analyzer.explain(x, 1)
    single = found.extras["single_rate"]
    assert single.shape == (3, 4, N)
    np.testing.assert_array_equal(found.extras["rates"], [rates] * 3)
    for j, k in enumerate(rates):
        extras = {key: found.extras[key][:, j] for key in ("objective", "dual_gap")}
        _check(single[:, j], extras, [(t, *t.capped(k)) for t in twins], k, 1e-9)
        alone = rde("rc_rde", model, rate=k, solver=solver, max_iter=300).analyze(x, 1)
        np.testing.assert_allclose(single[:, j], alone, atol=1e-3)
    np.testing.assert_allclose(found.attribution, np.average(single, axis=1, weights=weights), rtol=1e-12)
    equal = rde("mr_rde", model, rates=rates, solver=solver, max_iter=300).analyze(x, 1)
    np.testing.assert_allclose(equal, single.mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("solver", ["spg", "pgd"])
def test_lagrangian_optimum(model, twins, solver):
    """D + lambda |s|_1 over the box; ``distortion`` and ``rate`` are its two parts."""
    for price in (0.01, 0.3, 100.0):
        found = rde("l_rde", model, lambda_=price, solver=solver, max_iter=300).explain(x, 1)
        for i, twin in enumerate(twins):
            best, optimum = twin.capped(N, price)
            s, extras = found.attribution[i], found.extras
            assert (s >= 0).all() and (s <= 1).all()
            assert -1e-9 <= twin(s) + price * s.sum() - optimum <= SOLVERS[solver] * twin(np.zeros(N))
            assert extras["objective"][i] - optimum <= extras["dual_gap"][i] + 1e-9
            np.testing.assert_allclose(extras["objective"][i], twin(s) + price * s.sum(), rtol=1e-9)
            np.testing.assert_allclose(extras["rate"][i], s.sum(), rtol=1e-12)
            np.testing.assert_allclose(extras["distortion"][i], twin(s), rtol=1e-9, atol=1e-9 * optimum)
            np.testing.assert_allclose(s, best, atol=1e-3 if solver == "spg" else 3e-2)
    assert (found.attribution == 0).all(), "nothing is worth 100"


def test_closed_forms_with_independent_noise_around_the_input():
    """x is the mean of V: D = sum a (1-s)^2 with a = w^2 sigma^2, so s = 1 - level / a, or 1 - lambda / (2 a)."""
    net, w, _ = linear(N)
    sigma, mu = np.linspace(0.5, 1.5, N), np.arange(1.0, N + 1)
    a = (w[:, 0] * sigma) ** 2
    given = {"mean": mu, "variance": sigma**2, "max_iter": 200, "tol": 1e-12, "progress": False}
    for k in (1, 3, 5):
        received = create("rc_rde", net, rate=k, **given).analyze(mu[None])
        np.testing.assert_allclose(received[0], poured(a, k), atol=1e-5)
    received = create("l_rde", net, lambda_=0.05, **given).analyze(mu[None])
    np.testing.assert_allclose(received[0], np.maximum(0, 1 - 0.05 / (2 * a)), atol=1e-5)


def test_what_the_solver_tells(model):
    """One entry per sample (and rate); the counts fit together; the value falls with the iterations."""
    few, many = (rde("mr_rde", model, rates=(1, 3), max_iter=n).explain(x, 1).extras for n in (1, 100))
    for key in ("objective", "dual_gap", "iterations", "evaluations", "status"):
        assert few[key].shape == many[key].shape == (3, 2), key
    assert (many["objective"] <= few["objective"]).all()
    assert (few["evaluations"] <= 2).all() and (many["evaluations"] == many["iterations"] + 1).all()
    assert set(few["status"].ravel()) <= {"max_iter", "converged"}
    assert set(many["status"].ravel()) <= {"converged", "stalled"}
    assert (many["dual_gap"][many["status"] == "converged"] <= 1e-7).all()
    single = rde("rc_rde", model, rate=3, max_iter=100).explain(x, 1).extras
    for key in ("objective", "dual_gap", "iterations", "evaluations", "status", "rates"):
        assert single[key].shape == (3,), key
    assert "single_rate" not in single


def test_the_objective_is_the_distortion_at_the_map():
    """On a net that isn't linear, for density filtering and for the very draws of the solve."""
    net = relu_net(N)
    for params in ({}, {"distortion": "monte_carlo", "samples": 5}):
        found = rde("mr_rde", net, rates=(1, 3), max_iter=15, **params).explain(x, 1)
        d = rde_nets.distortion_of(net, x, X, 1, reference="full", **params)
        s, streams = found.extras["single_rate"].reshape(6, N), np.tile([0, 1], 3)
        np.testing.assert_allclose(
            d(s, np.repeat(range(3), 2), streams)[0], found.extras["objective"].ravel(), rtol=1e-9
        )
        assert (found.extras["single_rate"].sum(axis=2) <= np.array([1, 3]) + 1e-9).all()


# --- batches, seeds, forward samples ------------------------------------------------------------------------------

WAYS = {"adf": {}, "monte_carlo": MC, "range": {"reference": "uniform", **MC}}


@pytest.mark.parametrize(("name", "way"), zoo.thinned(list(itertools.product(NAMES, [*WAYS, "sampler"])), 3))
def test_independent_of_batch_size_and_other_samples(name, way):
    """float64: any batch size, one sample alone, another order."""
    net = relu_net(N)
    several = np.concatenate([x, -x])
    params = {**QUICK[name], **(WAYS[way] if way != "sampler" else {"reference": sampler, **MC})}
    analyzer = rde(name, net, **params)
    expected = analyzer.analyze(several)
    assert np.isfinite(expected).all() and np.abs(expected[0] - expected[1]).max() > 1e-3
    for size in (1, 2, 5):
        np.testing.assert_allclose(analyzer.analyze(several, batch_size=size), expected, atol=1e-9)
    np.testing.assert_allclose(analyzer.analyze(several[4:5]), expected[4:5], atol=1e-9)
    np.testing.assert_allclose(analyzer.analyze(several[::-1]), expected[::-1], atol=1e-9)
    if way == "monte_carlo":
        np.testing.assert_allclose(rde(name, net, **params).analyze(several), expected, atol=1e-9)


@pytest.mark.parametrize("name", zoo.thinned(NAMES))
def test_another_seed_draws_anew(name):
    """Monte Carlo: other maps with another seed; density filtering knows no seed."""
    net = relu_net(N)
    for params, equal in ((MC, False), ({}, True)):
        first, second = (rde(name, net, seed=seed, **QUICK[name], **params).analyze(x) for seed in (0, 1))
        assert np.array_equal(first, second) == equal
        assert equal or np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("model_name", zoo.thinned(["convnet", "nested"]))
def test_single_precision(model_name):
    """float32: every iteration multiplies the rounding of the first, about 1e-6 after 8 of them; values differ less."""
    sample = zoo.make(model_name, "float32")
    images = sample.inputs(4)
    for iterations, map_tolerance, value_tolerance in ((8, 1e-4, 1e-4), (50, 0.2, 0.05)):
        analyzer = create("mr_rde", sample.model, rates=(5, 20), max_iter=iterations, progress=False)
        analyzer.fit(sample.inputs(30, 1))
        expected = analyzer.explain(images)
        assert expected.attribution.dtype == np.float32
        for size in (1, 3):
            found = analyzer.explain(images, batch_size=size)
            np.testing.assert_allclose(found.attribution, expected.attribution, atol=map_tolerance)
            np.testing.assert_allclose(
                found.extras["objective"], expected.extras["objective"], rtol=value_tolerance, atol=1e-6
            )


@pytest.mark.parametrize("way", ["adf", "monte_carlo"])
@pytest.mark.parametrize("name", NAMES)
def test_batch_size_bounds_the_forward_samples(name, way):
    """Points times draws, in every forward pass."""
    seen = []

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    analyzer = rde(name, relu_net(N), neuron_selection_mode=counted, **QUICK[name], **WAYS[way])
    for size in (1, 3, 8):
        seen.clear()
        analyzer.analyze(x, batch_size=size)
        assert max(seen) <= size
        assert size == 1 or max(seen) > 1
