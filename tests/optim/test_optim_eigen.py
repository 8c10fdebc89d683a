"""Power iteration and Lanczos against dense eigenvalues."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innv_ext.errors import InvalidInputError
from innv_ext.optim import Eigen, largest_eigenvalue, largest_eigenvalues

fast = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SPECTRA = {
    "positive": [5.0, 3.0, 2.0, 1.0, 0.5, 0.1],
    "indefinite, positive dominates": [5.0, 2.0, 1.0, 0.0, -1.0, -3.0],
    "indefinite, negative dominates": [3.0, 1.0, 0.5, 0.0, -2.0, -5.0],
    "equal moduli": [4.0, 1.0, 0.0, 0.0, -1.0, -4.0],
    "nearly equal moduli": [4.0, 1.0, 0.0, 0.0, -1.0, -4.1],
    "negative definite": [-0.5, -2.0, -3.0, -3.5, -4.0, -5.0],
    "rank 1": [7.0, 0, 0, 0, 0, 0],
    "negative rank 1": [0, 0, 0, 0, 0, -7.0],
    "zero": [0, 0, 0, 0, 0, 0],
    "identity": [2, 2, 2, 2, 2, 2],
    "minus identity": [-2, -2, -2, -2, -2, -2],
    "double": [3.0, 3.0, 1.0, 0.5, -1.0, -1.0],
    "tiny": [3e-20, 2e-20, 1e-20, 0, 0, -1e-20],
}


def matrix(spectrum, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))[0]
    return basis @ np.diag(spectrum) @ basis.T


MATRICES = np.array([matrix(s, seed) for seed, s in enumerate(SPECTRA.values())])


def products_of(h):
    """Row by row, so that rows do not depend on their company."""

    def product(vectors, problems):
        rows = [h[p].astype(vectors.dtype) @ v.ravel() for v, p in zip(vectors, problems, strict=True)]
        return np.array(rows, vectors.dtype).reshape(vectors.shape)

    return product


def power_twin(h, v, iterations, shift=0.0):
    """The plain loop on one dense matrix: Rayleigh quotients of all steps."""
    quotients = []
    for _ in range(iterations):
        quotients.append(v @ h @ v)
        v = h @ v + shift * v
        v /= np.linalg.norm(v)
    return quotients


def check_pairs(result, h):
    """Values are Rayleigh quotients of unit vectors and the residuals those of the pairs."""
    for p in range(len(h)):
        for value, v, residual in zip(
            np.atleast_1d(result.values[p]),
            result.vectors[p].reshape(-1, h.shape[1]),
            np.atleast_1d(result.residuals[p]),
            strict=True,
        ):
            scale = np.linalg.norm(h[p]) + 1e-300
            assert np.linalg.norm(v) == pytest.approx(1, abs=1e-12)
            assert value == pytest.approx(v @ h[p] @ v, abs=1e-13 * scale)
            assert residual == pytest.approx(np.linalg.norm(h[p] @ v - value * v), abs=1e-12 * scale)
            distance = np.abs(np.linalg.eigvalsh(h[p]) - value).min()
            assert distance <= residual + 1e-13 * scale  # the residual theorem


@pytest.mark.parametrize("smallest", [False, True])
def test_power_iteration_finds_the_algebraic_extreme(smallest):
    start = np.random.default_rng(9).normal(size=(len(MATRICES), 6))
    result = largest_eigenvalue(products_of(MATRICES), start, iterations=1000, smallest=smallest)
    assert isinstance(result, Eigen) and result.values.shape == result.residuals.shape == (len(MATRICES),)
    expected = np.linalg.eigvalsh(MATRICES)[:, 0 if smallest else -1]
    scale = np.abs(MATRICES).max(axis=(1, 2)) + 1e-300
    np.testing.assert_allclose(result.values / scale, expected / scale, atol=1e-9)
    check_pairs(result, MATRICES)
    assert result.values[list(SPECTRA).index("zero")] == 0


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_power_iteration_stops_on_the_safe_side(smallest, iterations):
    start = np.random.default_rng(8).normal(size=(len(MATRICES), 6))
    result = largest_eigenvalue(products_of(MATRICES), start, iterations=iterations, smallest=smallest)
    true = np.linalg.eigvalsh(MATRICES)
    slack = 1e-13 * np.abs(true).max(axis=1)
    assert np.all(result.values >= true[:, 0] - slack) and np.all(result.values <= true[:, -1] + slack)
    assert result.products <= 2 * iterations
    check_pairs(result, MATRICES)


def test_the_steps_are_those_of_a_plain_loop():
    """The start is nearly free of the fixed perturbation when that is subtracted beforehand."""
    rng = np.random.default_rng(0)
    noise = np.random.default_rng(0).standard_normal(6)
    cases = [(matrix(SPECTRA[name], 3), rng.normal(size=6)) for name in list(SPECTRA)[:3]]
    # the best quotient is an early one, before the large eigenvalues of both signs take over
    cases.append((np.diag([5.0, 4.0, -4.9, 0, 0, 0]), np.array([0.3, 1.0, 0.3, 0, 0, 0])))
    falls = 0
    for h, start in cases:
        v = start / np.linalg.norm(start) + 0.1 * noise / np.linalg.norm(noise)
        v /= np.linalg.norm(v)
        for iterations in range(1, 11):
            quotients, last = power_twin(h, v, iterations), v
            for _ in range(iterations - 1):
                last = h @ last / np.linalg.norm(h @ last)
            size = np.linalg.norm(h @ last)
            if quotients[-1] < size / 2:
                quotients += power_twin(h, v, iterations, shift=size)
            falls += quotients[-1] < max(quotients)
            result = largest_eigenvalue(products_of(h[None]), start[None], iterations=iterations, tol=0)
            assert result.values[0] == pytest.approx(max(quotients), abs=1e-12)
    assert falls


def test_a_vector_that_the_shift_annihilates():
    """Without a tolerance, rounding decides when to stop."""
    h = np.array([-2 * np.eye(6), np.zeros((6, 6)), -7 * np.eye(6)])
    for dtype in ("float32", "float64"):
        start = np.random.default_rng(1).normal(size=(3, 6)).astype(dtype)
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            result = largest_eigenvalue(products_of(h), start, tol=0)
        np.testing.assert_allclose(result.values, [-2, 0, -7], rtol=1e-6)


def test_products_are_saved():
    """Converged problems are left out, and only those that need it get the shift."""
    h = np.array([matrix(SPECTRA["rank 1"]), matrix(SPECTRA["positive"]), matrix(SPECTRA["negative definite"])])
    seen = []

    def product(vectors, problems):
        seen.append(list(problems))
        assert vectors.shape == (len(problems), 2, 3)
        return products_of(h)(vectors, problems)

    result = largest_eigenvalue(product, np.ones((3, 2, 3)), iterations=8)
    assert result.vectors.shape == (3, 2, 3) and result.products == len(seen) == 16
    assert seen[:2] == [[0, 1, 2]] * 2 and seen[2:8] == [[1, 2]] * 6 and seen[8:] == [[2]] * 8


@pytest.mark.parametrize("function", [largest_eigenvalue, lambda *a, **k: largest_eigenvalues(*a, 1, **k)])
def test_any_start_will_do(function):
    """Orthogonal to the eigenvector, another eigenvector, zero, huge, tiny."""
    h = np.diag([1.0, 5.0, 3.0, -4.0])
    starts = np.array([[1.0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1e300, 1, 1, 1], [1e-300, 1e-301, 0, 0]])
    result = function(products_of(np.tile(h, (5, 1, 1))), starts, iterations=200)
    np.testing.assert_allclose(result.values.ravel(), 5, rtol=1e-9)
    plain, scaled = (function(products_of(h[None]), s * np.ones((1, 4)), iterations=3) for s in (1, 1e-200))
    np.testing.assert_allclose(scaled.values, plain.values, rtol=1e-12)
    again = function(products_of(np.tile(h, (5, 1, 1))), starts, iterations=200)
    np.testing.assert_array_equal(again.values, result.values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_problems_do_not_meet_and_dtypes_stay(dtype):
    start = np.random.default_rng(7).normal(size=(len(MATRICES), 6)).astype(dtype)

    def asked(product):
        def checked(vectors, problems):
            assert vectors.dtype == dtype
            return product(vectors, problems)

        return checked

    for function in (largest_eigenvalue, lambda p, s: largest_eigenvalues(p, s, 2)):
        together = function(asked(products_of(MATRICES)), start)
        assert together.vectors.dtype == dtype and together.values.dtype == np.float64
        for p in range(len(MATRICES)):
            alone = function(asked(products_of(MATRICES[p : p + 1])), start[p : p + 1])
            np.testing.assert_array_equal(alone.values[0], together.values[p])
            np.testing.assert_array_equal(alone.vectors[0], together.vectors[p])
    exact = np.linalg.eigvalsh(MATRICES)[:, ::-1][:, :2]
    scale = np.abs(MATRICES).max(axis=(1, 2))[:, None] + 1e-300
    np.testing.assert_allclose(together.values / scale, exact / scale, atol=1e-5 if dtype == "float32" else 1e-12)


# --- several eigenvalues -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_lanczos_is_exact_on_small_operators(k, smallest):
    """Multiple eigenvalues too: the Krylov space is continued when it is exhausted."""
    start = np.random.default_rng(6).normal(size=(len(MATRICES), 3, 2))
    result = largest_eigenvalues(products_of(MATRICES), start, k, smallest=smallest)
    expected = np.linalg.eigvalsh(MATRICES)
    expected = expected[:, :k] if smallest else expected[:, ::-1][:, :k]
    scale = np.abs(MATRICES).max(axis=(1, 2))[:, None] + 1e-300
    np.testing.assert_allclose(result.values / scale, expected / scale, atol=1e-12)
    assert result.vectors.shape == (len(MATRICES), k, 3, 2) and result.products == 6
    check_pairs(result, MATRICES)
    for vectors in result.vectors.reshape(-1, k, 6):
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-12)


@fast
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(5, 15), st.booleans())
def test_lanczos_is_the_best_in_its_krylov_space(seed, k, steps, smallest):
    """Against a dense projection on the span of v, Hv, H^2 v, ...; and never beyond the true values."""
    rng = np.random.default_rng(seed)
    h = matrix(rng.normal(size=30), seed)
    start = rng.normal(size=30)
    noise = np.random.default_rng(0).standard_normal(30)
    v = start / np.linalg.norm(start) + 0.1 * noise / np.linalg.norm(noise)
    krylov = [v]
    for _ in range(steps - 1):
        krylov.append(h @ np.linalg.qr(np.array(krylov).T)[0][:, -1])
    basis = np.linalg.qr(np.array(krylov).T)[0]
    ritz, true = np.linalg.eigvalsh(basis.T @ h @ basis), np.linalg.eigvalsh(h)
    if not smallest:
        ritz, true = ritz[::-1], true[::-1]
    result = largest_eigenvalues(products_of(h[None]), start[None], k, iterations=steps, smallest=smallest)
    np.testing.assert_allclose(result.values[0], ritz[:k], atol=1e-8)
    beyond = (true[:k] - result.values[0]) if smallest else (result.values[0] - true[:k])
    assert np.all(beyond <= 1e-12) and result.products == steps
    check_pairs(result, h[None])


def test_lanczos_beats_power_iteration():
    rng = np.random.default_rng(0)
    h = np.array([matrix(np.sort(rng.uniform(0, 1, 60)), p) for p in range(5)])
    start, true = rng.normal(size=(5, 60)), np.linalg.eigvalsh(h)[:, -1]
    power = largest_eigenvalue(products_of(h), start, iterations=20, tol=0)
    lanczos = largest_eigenvalues(products_of(h), start, 1, iterations=20)
    assert power.products == lanczos.products == 20
    assert np.all(true - lanczos.values[:, 0] < 0.1 * (true - power.values))


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [largest_eigenvalue, lambda p, s: largest_eigenvalues(p, s, 2)])
def test_a_failing_problem_leaves_the_others_alone(function):
    h = MATRICES[:3].copy()
    start = np.ones((3, 6))
    clean = function(products_of(h), start)
    h[1] = np.nan
    result = function(products_of(h), start)
    assert np.isnan(result.values[1]).all() and np.isnan(result.residuals[1]).all()
    np.testing.assert_array_equal(result.values[[0, 2]], clean.values[[0, 2]])


def test_no_problem_at_all():
    none = products_of(np.zeros((0, 3, 3)))
    assert largest_eigenvalue(none, np.zeros((0, 3))).values.shape == (0,)
    assert largest_eigenvalues(none, np.zeros((0, 3)), 2).vectors.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": np.zeros(3)}, "start must be a float32 or float64 array"),
        ({"start": np.zeros((1, 3), int)}, "start must be a float32 or float64 array"),
        ({"start": np.zeros((1, 0))}, "start must be"),
        ({"start": np.full((1, 3), np.inf)}, "start contains values that are not finite"),
        ({"iterations": 0}, "iterations must be an integer of at least"),
        ({"iterations": 2.5}, "iterations must be an integer"),
        ({"iterations": True, "k": 2}, "iterations must be an integer"),
        ({"tol": -1.0}, "tol must not be negative"),
        ({"k": 0}, "k must be an integer between 1 and the number of components, 3; got 0"),
        ({"k": 4}, "k must be an integer between 1"),
        ({"k": 1.5}, "k must be an integer"),
        ({"k": 3, "iterations": 2}, "at least k = 3, got 2"),
        ({"product": lambda v, p: v[:, :2]}, r"product must return vectors of shape \(1, 3\), got \(1, 2\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {"product": lambda v, p: v, "start": np.ones((1, 3))} | change
    function = largest_eigenvalues if "k" in arguments else largest_eigenvalue
    with pytest.raises(InvalidInputError, match=message):
        function(**arguments)
