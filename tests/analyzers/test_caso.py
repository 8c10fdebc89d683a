"""CAFO and CASO: closed forms, coordinate descent, optimality, the choice of lambda1, theorems, noise, bad input."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
import second_order_nets as nets
import zoo
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from keras import layers
from second_order_nets import close, derivatives, fed, make, selection

import innv_ext
from innv_ext.analyzers import CAFO, CASO
from innv_ext.analyzers.loss.objective import FirstOrder, SecondOrder, choose_lambda1
from innv_ext.errors import ConvergenceWarning, InvalidInputError, NonFiniteWarning, UnsupportedModelError

EXTRAS = {"lambda1", "lambda2", "L", "sparsity", "objective", "kkt_residual", "iterations", "status"}
EXACT = {"tol": 1e-12, "max_iter": 3000, "power_iterations": 300}
SOME = ["softplus", "smooth_two_inputs", "dense", "residual", "segmentation"]
many = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
few = settings(many, max_examples=12)


def soft(v, t):
    """Soft threshold."""
    return np.sign(v) * np.maximum(np.abs(v) - t, 0)


def objective(d, g, h, lambda1, lambda2):
    """What is maximised, for one sample."""
    return g @ d + d @ h @ d / 2 - lambda1 * np.abs(d).sum() - lambda2 * d @ d


def coordinate_descent(g, h, lambda1, lambda2, tol=1e-13):
    """The maximiser, one component at a time: d_i = soft(g_i + sum_{j != i} H_ij d_j, lambda1) / (2 lambda2 - H_ii)."""
    d = np.zeros(len(g))
    for _ in range(5000):
        before = d.copy()
        for i in range(len(g)):
            d[i] = soft(g[i] + h[i] @ d - h[i, i] * d[i], lambda1) / (2 * lambda2 - h[i, i])
        if np.abs(d - before).max() <= tol * max(np.abs(d).max(), 1e-300):
            break
    return d


def kkt(d, g, h, lambda1, lambda2):
    """Largest violation of g + H d - 2 lambda2 d in lambda1 * subdifferential of |d|_1."""
    slope = g + h @ d - 2 * lambda2 * d
    return np.where(d != 0, np.abs(slope - lambda1 * np.sign(d)), np.maximum(np.abs(slope) - lambda1, 0)).max()


def solved(cls, name, **params):
    """(D as vectors, the explanation) of a net of ``nets.NETS``."""
    net, xs, target = make(name)
    found = cls(net, progress=False, **params).explain(fed(xs), selection(net, target))
    np.testing.assert_array_equal(found.target, target)
    return nets.flat(keras.tree.flatten(found.attribution)), found


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_cafo_is_a_soft_threshold(name):
    g = derivatives(name)[0]
    part = 0.3 * np.abs(g).max()
    for params, lambda2 in (({"lambda1": 0.0}, 10), ({"lambda1": part, "lambda2": 0.3, "c1": 5.0}, 0.3)):
        d, found = solved(CAFO, name, **params)
        close(d, soft(g, params["lambda1"]) / (2 * lambda2), 1e-12)
        zero = np.zeros((g.shape[1],) * 2)
        expected = [objective(d[i], g[i], zero, params["lambda1"], lambda2) for i in range(3)]
        np.testing.assert_allclose(found.extras["objective"], expected, rtol=1e-9, atol=1e-15)
        np.testing.assert_array_equal(found.extras["lambda2"], lambda2)


@pytest.mark.parametrize("way", ["hvp", "auto"])
@pytest.mark.parametrize("name", SOME)
def test_caso_without_l1_is_a_linear_system(name, way):
    """(2 lambda2 I - H) D = g, also where lambda2 is little more than L/2."""
    g, h = derivatives(name)
    half = np.maximum(np.linalg.eigvalsh(h)[:, -1], 0) / 2
    c1 = 0.1 * half.max()
    d, found = solved(CASO, name, lambda1=0.0, c1=c1, hessian=way, **EXACT)
    lambda2 = found.extras["lambda2"]
    np.testing.assert_allclose(lambda2, half + c1, rtol=1e-4)
    expected = np.stack([np.linalg.solve(2 * w * np.eye(len(b)) - a, b) for w, a, b in zip(lambda2, h, g)])
    close(d, expected, 1e-6)
    assert (found.extras["status"] == "converged").all()


@pytest.mark.parametrize("way", ["hvp", "auto"])
@pytest.mark.parametrize("name", SOME)
def test_caso_is_coordinate_descent(name, way):
    g, h = derivatives(name)
    lambda1 = 0.15 * np.abs(g).max()
    c1 = 0.2 * np.linalg.norm(h, 2, axis=(1, 2)).max()
    d, found = solved(CASO, name, hessian=way, lambda1=lambda1, c1=c1, **EXACT)
    extras = found.extras
    assert (d != 0).any() and (d == 0).any()
    for i in range(3):
        weights = lambda1, extras["lambda2"][i]
        expected = coordinate_descent(g[i], h[i], *weights)
        np.testing.assert_allclose(d[i], expected, rtol=0, atol=1e-6 * np.abs(g[i]).max() / weights[1])
        np.testing.assert_array_equal(d[i] == 0, np.abs(expected) < 1e-12)
        assert extras["objective"][i] == pytest.approx(objective(d[i], g[i], h[i], *weights), rel=1e-6, abs=1e-12)
        assert kkt(d[i], g[i], h[i], *weights) <= 1e-6 * np.abs(g[i]).max()


def test_default_tolerance_is_kept():
    """Within 100 products, on every sample, as the extras say."""
    for name in ("gelu", "sigmoid"):
        g, h = derivatives(name)
        d, found = solved(CASO, name, lambda1=0.05 * np.abs(g).max())
        for i in range(3):
            violation = kkt(d[i], g[i], h[i], found.extras["lambda1"][i], found.extras["lambda2"][i])
            assert violation / np.abs(g[i]).max() == pytest.approx(found.extras["kkt_residual"][i], abs=1e-6)
        assert (found.extras["kkt_residual"] <= 1e-4).all() and (found.extras["iterations"] <= 100).all()


# --- properties ----------------------------------------------------------------------------------------------------


class Dense(SecondOrder):
    """A problem with a known matrix."""

    def __init__(self, g, h, lambda2, max_iter=2000, tol=1e-10):
        values = np.linalg.eigvalsh(h)

        def product(v, rows):
            return np.einsum("qij,qj->qi", h[rows], v)

        largest = np.maximum(values[:, -1], 0)
        super().__init__(g, lambda2, largest, product, np.minimum(values[:, 0], 0), {"max_iter": max_iter, "tol": tol})


def random_problem(seed, count, d, rank, sign, decades=0):
    """g (spread over decades), H of the given rank (sign -1: indefinite) and lambda2 above L/2."""
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(count, rank, d)) * 10.0 ** rng.uniform(-2, 2)
    signs = rng.choice([1, sign], size=(count, rank, 1))
    h = np.swapaxes(b, 1, 2) @ (signs * b)
    g = rng.normal(size=(count, d)) * 10.0 ** (rng.uniform(-6, 3) - rng.uniform(0, decades, (count, d)))
    top = np.maximum(np.linalg.eigvalsh(h)[:, -1], 0)
    lambda2 = top / 2 + np.abs(np.linalg.eigvalsh(h)).max(axis=1) * 10.0 ** rng.uniform(-1.5, 1, count)
    return g, h, lambda2, rng


@many
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, -1]))
@example(0, 2, 1, 1, 1)
def test_every_solution_is_optimal(seed, count, d, rank, sign):
    """KKT conditions, value and residual as told, for random g, H, lambda1 and lambda2 of any scale."""
    g, h, lambda2, rng = random_problem(seed, count, d, rank, sign)
    rows = rng.integers(0, count, 5)
    lambda1 = rng.uniform(0, 1.2, 5) * np.abs(g[rows]).max(axis=1)
    found = Dense(g, h, lambda2).solve(rows, lambda1)
    assert (found.status == "converged").all()
    for j, i in enumerate(rows):
        scale = np.abs(g[i]).max()
        violation = kkt(found.step[j], g[i], h[i], lambda1[j], lambda2[i])
        assert violation <= 1e-9 * scale
        assert found.residual[j] == pytest.approx(violation / scale, abs=1e-9)
        value = objective(found.step[j], g[i], h[i], lambda1[j], lambda2[i])
        assert found.objective[j] == pytest.approx(value, rel=1e-6, abs=1e-9 * scale**2 / lambda2[i])
        assert (found.step[j] == 0).all() == (lambda1[j] >= scale * (1 - 1e-10))
        assert found.sparsity[j] == np.mean(found.step[j] == 0)


@pytest.fixture(scope="module")
def analyzers():
    """With fixed weights of the penalties: the scale of the nets moves |g| and L around them."""
    tight = {"tol": 1e-7, "max_iter": 1000, "power_iterations": 300}
    return {
        (name, way): CASO(make(name)[0], lambda1=0.1, c1=0.3, hessian=way, **tight)
        for name in ("softplus", "dense")
        for way in ("hvp", "auto")
    }


@few
@given(st.integers(0, 10**6), st.sampled_from(["softplus", "dense"]), st.floats(0.2, 1.2), st.booleans())
def test_maps_of_random_nets_are_optimal(analyzers, seed, name, scale, hvp):
    """The same on nets: random weights, samples and classes."""
    net, xs, _ = make(name)
    before = net.get_weights()
    rng = np.random.default_rng(seed)
    try:
        net.set_weights([rng.normal(0, scale, w.shape) for w in before])
        x = rng.normal(size=(2, *xs[0].shape[1:]))
        target = rng.integers(0, net.output_shape[-1], 2)
        g, h = nets.gradient(net, [x], target), nets.hessian(net, [x], target)
        found = analyzers[name, "hvp" if hvp else "auto"].explain(x, target)
    finally:
        net.set_weights(before)
    for i in range(2):
        lambda2 = found.extras["lambda2"][i]
        assert 2 * lambda2 > np.linalg.eigvalsh(h[i])[-1]
        violation = kkt(found.attribution[i], g[i], h[i], 0.1, lambda2)
        assert violation <= 3e-7 * np.abs(g[i]).max() + 1e-9 * np.abs(h[i]).max()


# --- the choice of lambda1 -----------------------------------------------------------------------------------------


def rule(g, solve, loss, first=1e-5):
    """The paper's rule for one sample: the lambda1 among 1e-5, 1e-4, ... or None if no D of these is sparse.

    ``solve(lambda1)`` gives D; ``loss(D)`` the true loss at x + D.
    """
    weight, best, chosen = first, -np.inf, None
    while np.abs(g).max() <= weight:
        weight /= 10
    while weight < np.abs(g).max():
        d = solve(weight)
        share = np.mean(d == 0)
        if 0.75 <= share < 1 and loss(d) >= best:
            best, chosen = loss(d), weight
        weight *= 10
    return chosen


def check_choice(i, found, d, g, solve, loss):
    """The chosen lambda1 of sample i follows the rule, or lies between the last non-zero grid value and max |g|."""
    chosen = rule(g, solve, loss)
    peak, share = np.abs(g).max(), np.mean(d == 0)
    assert found["sparsity"][i] == share
    assert 0.75 <= share < 1, "the dimension allows it"
    close(d, solve(found["lambda1"][i]), 1e-3)
    if chosen is not None:
        assert found["lambda1"][i] == pytest.approx(chosen, rel=1e-9)
    else:
        grid = [10.0**k for k in range(-30, 9) if 10.0**k < peak and (solve(10.0**k) != 0).any()]
        assert max(grid) * (1 - 1e-9) <= found["lambda1"][i] < peak


@pytest.mark.parametrize(
    ("name", "scale"),
    [("dense", 1.0), ("dense", 1e-7), ("max_pooling", 1e-2), ("gelu", 1.0), ("smooth_two_inputs", 1e-7)],
)
def test_the_rule_for_lambda1(name, scale):
    """With the whole loss and its derivatives by hand; ``scale`` makes all gradients smaller than 1e-5."""
    net, xs, target = make(name)
    weights = net.get_weights()
    net.set_weights([*weights[:-2], scale * weights[-2], weights[-1]])
    try:
        g, h = nets.gradient(net, xs, target), nets.hessian(net, xs, target)
        for cls in (CAFO, CASO):
            params = {} if cls is CAFO else {"power_iterations": 200, "tol": 1e-7, "max_iter": 500}
            found = cls(net, progress=False, **params).explain(fed(xs), selection(net, target))
            d = nets.flat(keras.tree.flatten(found.attribution))
            for i in range(3):
                one = [x[i : i + 1] for x in xs]

                def loss(step, one=one, i=i):
                    return float(nets.loss(net, nets.shift(one, step[None]), target[i : i + 1])[0])

                def solve(weight, i=i, cls=cls):
                    lambda2 = found.extras["lambda2"][i]
                    matrix = h[i] if cls is CASO else 0 * h[i]
                    return coordinate_descent(g[i], matrix, weight, lambda2, 1e-10)

                check_choice(i, found.extras, d[i], g[i], solve, loss)
            assert (np.abs(g).max() < 1e-5) == (scale == 1e-7)
    finally:
        net.set_weights(weights)


@few
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(4, 20), st.integers(0, 1))
def test_the_rule_on_random_problems(seed, count, d, first_order):
    """Whatever the scale of g: the rule's candidate, or a sparse D by bisection; all samples at once as one by one."""
    g, h, lambda2, rng = random_problem(seed, count, d, 3, 1, decades=5)
    h = h * (1 - first_order)
    problem = FirstOrder(g, lambda2, np.zeros(count)) if first_order else Dense(g, h, lambda2)
    slope = rng.normal(size=(count, d))

    def true_loss(steps, rows):
        return np.sin(np.einsum("qi,qi->q", steps, slope[rows]))

    found = choose_lambda1(problem, true_loss)
    for i in range(count):

        def solve(weight, i=i):
            return coordinate_descent(g[i], h[i], weight, lambda2[i])

        extras = {"lambda1": found.lambda1, "sparsity": found.sparsity}
        check_choice(i, extras, found.step[i], g[i], solve, lambda s, i=i: float(true_loss(s[None], np.array([i]))[0]))
        alone = problem.solve(np.array([i]), found.lambda1[i : i + 1])
        close(found.step[i], alone.step[0], 1e-6)


def test_candidates_at_once_are_candidates_one_by_one():
    g, h, lambda2, _ = random_problem(3, 3, 8, 4, -1)
    problem = Dense(g, h, lambda2)
    rows, weights = np.repeat(np.arange(3), 5), np.tile([0, 0.01, 0.1, 0.5, 0.9], 3) * np.abs(g).max()
    together = problem.solve(rows, weights)
    for j in range(15):
        alone = problem.solve(rows[j : j + 1], weights[j : j + 1])
        close(together.step[j], alone.step[0], 1e-12)
        assert together.iterations[j] == alone.iterations[0] and together.status[j] == alone.status[0]


@pytest.mark.parametrize(("power", "excess"), [(-5, 1e-12), (-5, 5e-5), (-3, 5e-5), (0, 1e-6), (0, 2e-4)])
def test_a_gradient_just_above_a_value_of_the_grid(power, excess):
    """There D = 0 is optimal up to the tolerance: such a candidate is no choice."""
    w = np.zeros((8, 2))
    w[:, 1] = np.linspace(0.1, 1, 8)
    peak = 10.0**power * (1 + excess)
    w *= max(peak, 1e-3) * 2
    q = peak / np.abs(w).max()
    net = nets.linear(w, np.array([0, np.log(q / (1 - q))]))
    for cls in (CAFO, CASO):
        found = cls(net).explain(np.zeros((1, 8)), 0)
        assert 0.75 <= found.extras["sparsity"][0] < 1, cls.__name__


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("cls", [CAFO, CASO])
def test_lambda1_of_few_components(cls, d):
    """No share of zeros is in [0.75, 1): one component is left, and not a vanishing rest of it."""
    rng = np.random.default_rng(d)
    w, b, x = rng.normal(size=(d, 3)), rng.normal(size=3), rng.normal(size=(4, d))
    net = nets.linear(w, b)
    found = cls(net).explain(x)
    np.testing.assert_allclose(found.extras["sparsity"], (d - 1) / d)
    peak = np.abs(nets.gradient(net, [x], found.target)).max(axis=1)
    assert (np.abs(found.attribution).max(axis=1) > 1e-3 * peak / (2 * found.extras["lambda2"])).all()


def test_exactly_three_quarters_are_sparse():
    net = nets.linear(np.array([[4.0, 0], [3, 0], [2, 0], [1, 0]]))
    for cls in (CAFO, CASO):
        found = cls(net).explain(np.zeros((1, 4)), 0)
        assert found.extras["sparsity"][0] == 0.75
        assert found.attribution[0, 0] < 0 and (found.attribution[0, 1:] == 0).all()


@pytest.mark.parametrize("cls", [CAFO, CASO])
def test_zero_from_the_largest_gradient_on(cls):
    """lambda1 >= max |g| gives D = 0, exactly; what is smaller does not."""
    peak = np.abs(derivatives("softplus")[0]).max(axis=1)
    params = {} if cls is CAFO else {"tol": 1e-8, "max_iter": 1000}
    middle = np.sort(peak)[1]
    for weight in (middle * (1 + 1e-12), middle * 0.999, 1e3 * peak.max()):
        d = solved(cls, "softplus", lambda1=weight, **params)[0]
        np.testing.assert_array_equal((d == 0).all(axis=1), peak <= weight)


@pytest.mark.parametrize("lambda1", ["auto", 0.1])
@pytest.mark.parametrize("cls", [CAFO, CASO])
def test_no_gradient_gives_no_step(cls, lambda1):
    """A silent net beside a sample that is not."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="relu"), layers.Dense(2)])
    net.set_weights([np.array([[1.0], [2.0], [3.0], [4.0]]), np.zeros(1), np.array([[1.0, -2.0]]), np.zeros(2)])
    x = np.array([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    for way in ("auto", "hvp") if cls is CASO else ("",):
        params = {"hessian": way} if way else {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = cls(net, lambda1=lambda1, **params).explain(x, 1)
        assert (found.attribution[1] == 0).all() and (found.attribution[0] != 0).any()
        assert found.extras["objective"][1] == 0 and found.extras["sparsity"][1] == 1 and found.extras["L"][1] == 0
        assert np.isfinite(found.extras["lambda1"]).all() and (found.extras["status"] == "converged").all()


@pytest.mark.parametrize("lambda1", ["auto", 1e-3])
@pytest.mark.parametrize("cls", [CAFO, CASO])
def test_extras_are_complete(cls, lambda1):
    for name in ("sigmoid_map", "smooth_two_inputs"):
        d, found = solved(cls, name, lambda1=lambda1)
        assert set(found.extras) >= EXTRAS
        for key in EXTRAS:
            assert found.extras[key].shape == (3,), key
        np.testing.assert_array_equal(found.extras["sparsity"], np.mean(d == 0, axis=1))
        assert (found.extras["L"] == 0).all() == (cls is CAFO)
        assert (found.extras["lambda2"] > found.extras["L"] / 2).all()
        assert (found.extras["objective"] >= 0).all() and (found.extras["status"] == "converged").all()
        if lambda1 != "auto":
            np.testing.assert_array_equal(found.extras["lambda1"], lambda1)


# --- which loss ----------------------------------------------------------------------------------------------------


def test_sigmoid_outputs_have_one_binary_cross_entropy_each():
    """Two softmax logits 0 and z are one sigmoid of z."""
    rng = np.random.default_rng(0)
    w, b, x = rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=(3, 5))
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((5,)), layers.Dense(2, activation="sigmoid")])
    net.set_weights([w, b])
    unit = 1
    twin = nets.linear(np.stack([0 * w[:, unit], w[:, unit]], axis=1), np.array([0, b[unit]]))
    for cls in (CAFO, CASO):
        a, e = cls(net).explain(x, unit), cls(twin).explain(x, 1)
        close(a.attribution, e.attribution, 1e-10)
        for key in ("lambda1", "L", "objective"):
            np.testing.assert_allclose(a.extras[key], e.extras[key], rtol=1e-9)


def test_every_pixel_of_a_map_of_classes_is_its_own_softmax():
    net, (x,), _ = make("segmentation")
    for index in ((0, 1, 2), (1, 0, 1)):
        d = CASO(net, lambda1=1e-3).analyze(x, index)
        flat = np.full(3, np.ravel_multi_index(index, net.output_shape[1:]))
        g, h = nets.gradient(net, [x], flat), nets.hessian(net, [x], flat)
        lambda2 = 10 + np.linalg.eigvalsh(h)[:, -1] / 2
        expected = [coordinate_descent(g[i], h[i], 1e-3, lambda2[i]) for i in range(3)]
        close(d.reshape(3, -1), np.array(expected), 1e-3)


def test_logits_and_softmax_are_the_same_model():
    net, (x,), target = make("dense")
    with zoo.precision("float64"):
        logits = keras.models.clone_model(net)
    logits.set_weights(net.get_weights())
    logits.layers[-1].activation = keras.activations.linear
    for cls in (CAFO, CASO):
        close(cls(net).analyze(x, target), cls(logits).analyze(x, target), 1e-12)


@pytest.mark.parametrize("mode", ["all", "function"])
@pytest.mark.parametrize("name", ["cafo", "caso"])
def test_a_score_takes_the_place_of_the_loss(name, mode):
    """Of a linear net: D = soft(w, lambda1) / (2 lambda2); also for regression."""
    w = np.random.default_rng(0).normal(size=(5, 3))
    score = "all" if mode == "all" else (lambda y: y[:, 1])
    summed = w.sum(axis=1) if mode == "all" else w[:, 1]
    x = np.ones((2, 5))
    d = innv_ext.create_analyzer(name, nets.linear(w), neuron_selection_mode=score, lambda1=0.1).analyze(x)
    np.testing.assert_allclose(d, np.tile(soft(summed, 0.1) / 20, (2, 1)), rtol=1e-9)
    one = nets.linear(w[:, :1])
    d = innv_ext.create_analyzer(name, one, neuron_selection_mode=lambda y: y[:, 0], lambda1=0.1).analyze(x)
    np.testing.assert_allclose(d, np.tile(soft(w[:, 0], 0.1) / 20, (2, 1)), rtol=1e-9)


# --- theorems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "way"), [("softplus", "hvp"), ("dense", "hvp"), ("dense", "auto")])
@pytest.mark.filterwarnings("ignore::innv_ext.errors.ConvergenceWarning")
def test_strong_concavity(name, way):
    """Theorem 3: 2 lambda2 I - H > 0 for lambda2 > L/2; below, the error names both numbers."""
    h = derivatives(name)[1]
    half = np.linalg.eigvalsh(h)[:, -1].max() / 2
    found = solved(CASO, name, lambda2=half * 1.001, lambda1=0.05, hessian=way, power_iterations=300)[1]
    assert (np.linalg.eigvalsh(2 * half * 1.001 * np.eye(h.shape[1]) - h) > 0).all()
    assert np.isfinite(found.attribution).all() and (found.extras["objective"] >= 0).all()
    for factor in (0.2, 0.999):
        with pytest.raises(InvalidInputError) as error:
            solved(CASO, name, lambda2=half * factor, lambda1=0.05, hessian=way, power_iterations=300)
        assert f"lambda2={half * factor} must exceed" in str(error.value)
        named = float(re.search(r"L/2 = ([\d.e+-]+),", str(error.value))[1])
        assert np.isclose(named, np.linalg.eigvalsh(h)[:, -1] / 2, rtol=1e-4).any() and named > half * factor


@pytest.mark.parametrize("classes", [2, 40])
def test_first_and_second_order_agree_at_high_confidence(classes):
    """Theorems 4 and 5: as p_c -> 1 with equal other classes, H tends to rank one along g, and the maps to parallel.

    With c classes, the second eigenvalue of diag p - p p' tends to 1/c of the first, so that 1/c remains of the angle.
    The last kernel is scaled to L = 1, so that lambda2 = 0.75 is as near to L/2 at every confidence.
    """
    rng = np.random.default_rng(0)
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((60,)), layers.Dense(30, activation="relu"), layers.Dense(classes)])
    zoo.randomise(net, 1)
    x = rng.normal(size=(1, 60))
    first, last = (layer.get_weights() for layer in net.layers)
    hidden = np.maximum(x @ first[0] + first[1], 0)[0]
    kernel = last[0] - np.outer(hidden, hidden @ last[0]) / (hidden @ hidden)  # at x, the bias alone makes the logits
    jacobian = (first[0] * (hidden > 0)) @ kernel
    solvers = [CAFO(net, lambda1=0.0, lambda2=0.75), CASO(net, lambda1=0.0, lambda2=0.75, **EXACT)]
    gaps = []
    for confidence in (1 / classes + 0.05, 0.9, 0.999, 1 - 1e-6, 1 - 1e-9):
        p = np.full(classes, (1 - confidence) / (classes - 1))
        p[0] = confidence
        top = np.linalg.eigvalsh(jacobian @ (np.diag(p) - np.outer(p, p)) @ jacobian.T)[-1]
        net.layers[-1].set_weights([kernel / np.sqrt(top), np.log(p)])
        a, b = (s.analyze(x, 0)[0] for s in solvers)
        gaps.append(1 - abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))
    values, vectors = innv_ext.input_hessian_eigs(net, x, 2, np.zeros(1, int))
    assert values[0, 0] == pytest.approx(1, rel=1e-6)
    limit = 1e-8 if classes == 2 else 0.05
    assert gaps[-1] < limit and abs(vectors[0, 0] @ a) / np.linalg.norm(a) > 1 - limit
    assert values[0, 1] < 0.2
    if classes > 2:
        assert gaps[-1] < 0.5 * gaps[0], gaps


# --- the smooth versions ---------------------------------------------------------------------------------------------


def noisy(xs, copies, scale, seed):
    """x + scale * (max - min) * noise, the same draws for all samples: one list of inputs per copy."""
    found = []
    for j in range(copies):
        found.append([])
        for i, x in enumerate(xs):
            z = np.random.default_rng((seed, j, i)).standard_normal(x.shape[1:], "float32") * np.float32(scale)
            found[j].append(np.stack([row + (row.max() - row.min()) * z for row in x]))
    return found


@pytest.mark.parametrize(("name", "seed"), [("softplus", 0), ("dense", 3), ("smooth_two_inputs", 0)])
def test_smooth_versions_average_gradient_and_hessian(name, seed):
    net, xs, target = make(name)
    points = noisy(xs, 4, 0.3, seed)
    g = np.mean([nets.gradient(net, p, target) for p in points], axis=0)
    h = np.mean([nets.hessian(net, p, target) for p in points], axis=0)
    lambda1 = 0.1 * np.abs(g).max()
    given_ = {"lambda1": lambda1, "augment_by_n": 4, "noise_scale": 0.3, "seed": seed, "batch_size": 5}
    index = selection(net, target)
    d = innv_ext.create_analyzer("smooth_cafo", net, **given_).analyze(fed(xs), index)
    close(nets.flat(keras.tree.flatten(d)), soft(g, lambda1) / 20, 1e-9)
    for way in ("hvp", "auto"):
        found = innv_ext.create_analyzer("smooth_caso", net, hessian=way, **given_, **EXACT).explain(fed(xs), index)
        np.testing.assert_allclose(found.extras["L"], np.maximum(np.linalg.eigvalsh(h)[:, -1], 0), rtol=1e-4)
        lambda2 = found.extras["lambda2"]
        expected = np.array([coordinate_descent(g[i], h[i], lambda1, lambda2[i]) for i in range(3)])
        close(nets.flat(keras.tree.flatten(found.attribution)), expected, 1e-6)


@pytest.mark.parametrize("name", ["smooth_cafo", "smooth_caso"])
def test_noise_is_the_same_for_all_samples_and_batches(name):
    net, (x,), target = make("softplus", count=5)
    given_ = {"augment_by_n": 6, "lambda1": 1e-3}
    expected = innv_ext.create_analyzer(name, net, **given_).analyze(x, target)
    analyzer = innv_ext.create_analyzer(name, net, **given_)
    for size in (1, 2, 64):
        close(analyzer.analyze(x, target, batch_size=size), expected, 1e-10)
    close(analyzer.analyze(x[3:], target[3:]), expected[3:], 1e-10)
    assert not np.allclose(innv_ext.create_analyzer(name, net, seed=1, **given_).analyze(x, target), expected)
    plain = innv_ext.create_analyzer(name, net, lambda1=1e-3, augment_by_n=2, noise_scale=0.0).analyze(x, target)
    close(plain, innv_ext.create_analyzer(name[7:], net, lambda1=1e-3).analyze(x, target), 1e-9)


def test_defaults_of_the_paper():
    net = make("dense")[0]
    for name, copies in (("cafo", 0), ("caso", 0), ("smooth_cafo", 50), ("smooth_caso", 50)):
        analyzer = innv_ext.create_analyzer(name, net)
        assert (analyzer.augment_by_n, analyzer.noise_scale, analyzer.c1) == (copies, 0.15, 10.0)
        assert analyzer.lambda1 == "auto" and analyzer.lambda2 is None


# --- bad input and failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *((n, {k: v}) for n in ("cafo", "caso") for k in ("lambda1", "lambda2", "c1") for v in (-1.0, np.nan, "best")),
        *(("smooth_cafo", {k: v}) for k, v in (("augment_by_n", -1), ("augment_by_n", 2.5), ("noise_scale", np.inf))),
        *(("caso", {k: v}) for k in ("max_iter", "power_iterations") for v in (0, 1.5, True, np.nan)),
        *(("caso", {k: v}) for k, v in (("hessian", "exact"), ("tol", np.nan), ("tol", -1e-3))),
        *(("caso", {k: 0}) for k in ("lambda2", "c1")),
    ],
)
def test_bad_parameters(name, params):
    (key,) = params
    with pytest.raises(InvalidInputError, match=key):
        innv_ext.create_analyzer(name, make("dense")[0], **params)


def test_a_failed_call_leaves_the_analyzer_usable():
    net, (x,), target = make("dense")
    analyzer = CASO(net, lambda1=0.01, lambda2=0.5 * derivatives("dense")[1].max() + 5)
    expected = analyzer.analyze(x, target)
    for bad in (x[:, 1:], np.full_like(x, np.nan), 1e3 * x):
        with contextlib.suppress(InvalidInputError):
            analyzer.analyze(bad, target)
        np.testing.assert_array_equal(analyzer.analyze(x, target), expected)
    with pytest.raises(InvalidInputError, match="out of range"):
        analyzer.analyze(x, 4)
    low = CASO(net, lambda1=0.01, lambda2=1e-6)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="L/2"):
            low.analyze(x, target)
    with pytest.raises(RuntimeError, match="on purpose"):
        CASO(net, neuron_selection_mode=_failing).analyze(x)
    np.testing.assert_array_equal(analyzer.analyze(x, target), expected)


def _failing(y):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("name", ["cafo", "caso", "smooth_caso"])
def test_models_without_a_cross_entropy(name):
    create = innv_ext.create_analyzer
    one = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(1, name="price")])
    with pytest.raises(UnsupportedModelError, match=r"at least two classes.*price.*neuron_selection_mode"):
        create(name, one)
    assert create(name, one, neuron_selection_mode="all", augment_by_n=2).analyze(np.ones((1, 4))).shape == (1, 4)
    with pytest.raises(UnsupportedModelError, match="price"):
        create(name, one, neuron_selection_mode="all").analyze(np.ones((1, 4)), 0)
    for layer in (layers.Softmax(axis=1, name="across"), layers.Softmax(axis=-2, name="across")):
        i = keras.Input((4, 3, 2))
        with pytest.raises(UnsupportedModelError, match=r"across.*last axis"):
            create(name, keras.Model(i, layer(layers.Conv2D(2, 1)(i))))
    i = keras.Input((4, 3, 2))
    with pytest.raises(UnsupportedModelError, match="last axis"):
        create(name, keras.Model(i, keras.ops.softmax(layers.Conv2D(2, 1)(i), axis=1)))
    with pytest.raises(UnsupportedModelError, match="tokens"):
        create(name, zoo.make("tokens").model)
    with pytest.raises(InvalidInputError, match="logits"):
        create(name, make("dense")[0], on="output")


@pytest.mark.parametrize("way", ["hvp", "auto"])
def test_no_convergence_is_told(way):
    """Status, residual and a warning; the last iterate is returned, and it is finite."""
    net, (x,), target = make("dense")
    c1 = 0.01 * derivatives("dense")[1].max()
    analyzer = CASO(net, lambda1=1e-3, c1=c1, max_iter=2, hessian=way, power_iterations=200)
    with pytest.warns(ConvergenceWarning, match=r"caso|CASO") as caught:
        found = analyzer.explain(x, target)
    missed = found.extras["status"] == "max_iter"
    assert missed.any() and f"{missed.sum()} of 3 samples" in str(caught[0].message)
    assert f"{found.extras['kkt_residual'][missed].max():.2g}" in str(caught[0].message)
    assert (found.extras["iterations"] <= 2).all() and np.isfinite(found.attribution).all()
    g, h = derivatives("dense")
    for i in range(3):
        residual = kkt(found.attribution[i], g[i], h[i], 1e-3, found.extras["lambda2"][i]) / np.abs(g[i]).max()
        assert residual == pytest.approx(found.extras["kkt_residual"][i], rel=1e-3, abs=1e-7)
        assert (residual > 1e-4) == missed[i]


@pytest.mark.parametrize("params", [{"hessian": "hvp"}, {"hessian": "auto"}, {"lambda1": 0.01}])
def test_one_sample_that_is_not_finite_spoils_no_other(params):
    """NaN with check_input=False: this sample is marked, the others are as without it."""
    net, (x,), target = make("dense")
    expected = CASO(net, **params).explain(x, target)
    bad = x.copy()
    bad[1, 2] = np.nan
    with pytest.warns(NonFiniteWarning, match="1 of 3"):
        found = CASO(net, check_input=False, **params).explain(bad, target)
    for i in (0, 2):
        close(found.attribution[i], expected.attribution[i], 1e-9)
        assert found.extras["status"][i] == "converged"
    assert found.extras["status"][1] == "failed" and found.extras["finite"].tolist() == [True, False, True]


def test_summary_says_which_loss():
    for name, words in (("dense", "cross-entropy of the selected class"), ("sigmoid", "binary cross-entropy")):
        assert words in str(CASO(make(name)[0])) and "softmax" not in words
    assert "score" in str(CAFO(make("dense")[0], neuron_selection_mode="all"))


def test_an_empty_batch_gives_an_empty_map_and_no_warning():
    net, (x,), _ = make("dense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CASO(net, max_iter=1, c1=1e-3).analyze(x[:0]).shape == (0, *x.shape[1:])
