"""The Lanczos method against dense eigenvalues."""

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


def test_any_start_will_do():
    """Orthogonal to the eigenvector, another eigenvector, zero, huge, tiny."""
    h = np.diag([1.0, 5.0, 3.0, -4.0])
    starts = np.array([[1.0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1e300, 1, 1, 1], [1e-300, 1e-301, 0, 0]])
    result = largest_eigenvalue(products_of(np.tile(h, (5, 1, 1))), starts, iterations=200)
    np.testing.assert_allclose(result.values.ravel(), 5, rtol=1e-9)
    plain, scaled = (largest_eigenvalue(products_of(h[None]), s * np.ones((1, 4)), iterations=3) for s in (1, 1e-200))
    np.testing.assert_allclose(scaled.values, plain.values, rtol=1e-12)
    again = largest_eigenvalue(products_of(np.tile(h, (5, 1, 1))), starts, iterations=200)
    np.testing.assert_array_equal(again.values, result.values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_problems_do_not_meet_and_dtypes_stay(dtype):
    start = np.random.default_rng(7).normal(size=(len(MATRICES), 6)).astype(dtype)

    def asked(product):
        def checked(vectors, problems):
            assert vectors.dtype == dtype
            return product(vectors, problems)

        return checked

    together = largest_eigenvalues(asked(products_of(MATRICES)), start, 2)
    assert together.vectors.dtype == dtype and together.values.dtype == np.float64
    for p in range(len(MATRICES)):
        alone = largest_eigenvalues(asked(products_of(MATRICES[p : p + 1])), start[p : p + 1], 2)
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


@pytest.mark.parametrize("smallest", [False, True])
def test_the_largest_one_has_no_axis_of_its_own(smallest):
    start = np.random.default_rng(9).normal(size=(len(MATRICES), 3, 2))
    one = largest_eigenvalue(products_of(MATRICES), start, iterations=4, smallest=smallest)
    several = largest_eigenvalues(products_of(MATRICES), start, 1, iterations=4, smallest=smallest)
    assert isinstance(one, Eigen) and one.products == 4 and one.vectors.shape == start.shape
    np.testing.assert_array_equal(one.values, several.values[:, 0])
    np.testing.assert_array_equal(one.residuals, several.residuals[:, 0])
    check_pairs(one, MATRICES)


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failing_problem_leaves_the_others_alone():
    h = MATRICES[:3].copy()
    start = np.ones((3, 6))
    clean = largest_eigenvalues(products_of(h), start, 2)
    h[1] = np.nan
    result = largest_eigenvalues(products_of(h), start, 2)
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
        ({"k": 0}, "k must be an integer between 1 and the number of components, 3; got 0"),
        ({"k": 4}, "k must be an integer between 1"),
        ({"k": 1.5}, "k must be an integer"),
        ({"k": 3, "iterations": 2}, "iterations must be an integer of at least 3, got 2"),
        ({"product": lambda v, p: v[:, :2]}, r"product must return vectors of shape \(1, 3\), got \(1, 2\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {"product": lambda v, p: v, "start": np.ones((1, 3))} | change
    function = largest_eigenvalues if "k" in arguments else largest_eigenvalue
    with pytest.raises(InvalidInputError, match=message):
        function(**arguments)
