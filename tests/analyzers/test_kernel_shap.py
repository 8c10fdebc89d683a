"""Kernel SHAP against Shapley values by their definition, and its regression against the constrained least squares."""

from itertools import combinations, permutations
from math import comb, factorial

import keras
import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from innv_ext.analyzers.prediction.kernel_shap import KernelShap, shapley_coalitions, solve
from innv_ext.errors import InvalidInputError, NotFittedError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def by_subsets(worth, n):
    """phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))."""
    phi = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for s in combinations(others, size):
                share = factorial(size) * factorial(n - size - 1) / factorial(n)
                phi[i] += share * (worth(frozenset(s) | {i}) - worth(frozenset(s)))
    return phi


def by_permutations(worth, n):
    """The mean over all orders of what a player adds to those before it."""
    phi = np.zeros(n)
    for order in permutations(range(n)):
        for k, player in enumerate(order):
            phi[player] += worth(frozenset(order[: k + 1])) - worth(frozenset(order[:k]))
    return phi / factorial(n)


def coalition_worth(score, x, labels, references):
    """v(S) = the mean score over references with the segments in S from x; all 2^n at once, then a dictionary."""
    n = labels.max() + 1
    sets = [frozenset(c) for size in range(n + 1) for c in combinations(range(n), size)]
    rows = [np.where(np.isin(labels, list(s)), x, r) for s in sets for r in references]
    values = score(np.stack(rows)).reshape(len(sets), len(references)).mean(axis=1)
    return dict(zip(sets, values, strict=True)).__getitem__


def probability(model, index):
    return lambda x: np.asarray(model(x))[:, index]


def dense(width, dtype="float64"):
    with zoo.precision(dtype):
        net = keras.Sequential([keras.Input((width,)), layers.Dense(9, activation="relu"),
                                layers.Dense(3, activation="softmax")])  # fmt: skip
    return zoo.randomise(net)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --- exact values ------------------------------------------------------------------------------------------------


def test_ten_features_are_exact():
    net, x, references = dense(10), draws(2, 10), draws(3, 10, seed=1)
    analyzer = KernelShap(net, references=references, samples=1022, on="output", batch_size=512)
    found = analyzer.explain(x, [2, 0])
    for i, index in enumerate([2, 0]):
        worth = coalition_worth(probability(net, index), x[i], np.arange(10), references)
        close(found.attribution[i], by_subsets(worth, 10), 1e-8)
        close(found.extras["base"][i], worth(frozenset()))
        close(found.attribution[i].sum(), worth(frozenset(range(10))) - worth(frozenset()))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_segments_are_exact(n):
    """Segments of an image: the value of each is spread over its components, so that the sum stays."""
    sample = zoo.make("convnet", "float64")
    x, references = sample.inputs(2), sample.inputs(2, seed=5)
    labels = np.random.default_rng(3).permutation(np.arange(36) % n).reshape(6, 6)
    found = KernelShap(sample.model, references=references, segments=labels, on="output").explain(x, 1)
    full = np.broadcast_to(labels[..., None], (6, 6, 2))
    for i in range(2):
        phi = by_permutations(coalition_worth(probability(sample.model, 1), x[i], full, references), n)
        close(found.attribution[i], (phi / np.bincount(full.reshape(-1)))[full], 1e-8)
    mean = probability(sample.model, 1)(references).mean()
    close(found.extras["sum"], found.extras["score"] - mean, 1e-8)
    np.testing.assert_array_equal(found.extras["segments"], np.broadcast_to(full, x.shape))


def test_several_inputs():
    sample = zoo.make("two_inputs", "float64")
    (image, table), (image0, table0) = sample.inputs(2), sample.inputs(3, seed=4)
    labels = (np.arange(36) // 12).reshape(6, 6, 1)
    analyzer = KernelShap(sample.model, references=[image0, table0], segments=[labels, None], on="output")
    found = analyzer.analyze([image, table], 2)
    both, flat0 = np.concatenate([labels.reshape(-1), 3 + np.arange(4)]), np.hstack([image0.reshape(3, -1), table0])

    def score(f):
        return np.asarray(sample.model([f[:, :36].reshape(-1, 6, 6, 1), f[:, 36:]]))[:, 2]

    for i in range(2):
        flat = np.concatenate([image[i].reshape(-1), table[i]])
        phi = by_subsets(coalition_worth(score, flat, both, flat0), 7)
        close(found[0][i].reshape(-1), phi[both[:36]] / 12, 1e-8)
        close(found[1][i], phi[3:], 1e-8)


def test_tokens_are_replaced_by_those_of_the_references():
    sample = zoo.make("tokens", "float64")
    x, references = sample.inputs(2), sample.inputs(3, seed=8)
    found = KernelShap(sample.model, references=references).analyze(x, 0)
    for i in range(2):
        worth = coalition_worth(probability(sample.model, 0), x[i], np.arange(6), references)
        close(found[i], by_subsets(worth, 6), 1e-5)


# --- too many features to enumerate ------------------------------------------------------------------------------


def linear(width):
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((width,)), layers.Dense(2)])
    return zoo.randomise(net)


@pytest.mark.parametrize("samples", [60, 61, 100, 1000])
def test_additive_scores_are_exact_with_any_samples(samples):
    """w (x - mean reference), even with the fewest coalitions."""
    net, x, references = linear(30), draws(3, 30), draws(4, 30, seed=1)
    found = KernelShap(net, references=references, samples=samples, batch_size=500).analyze(x, 1)
    close(found, net.get_weights()[0][:, 1] * (x - references.mean(axis=0)), 1e-7)


@pytest.mark.parametrize("samples", [24, 40, 150, 700])
def test_the_sum_is_exact_and_the_error_small(samples):
    net, x, references = dense(12), draws(3, 12), draws(2, 12, seed=1)
    options = {"references": references, "on": "output", "batch_size": 512}
    exact = KernelShap(net, samples=4094, **options).analyze(x)
    found = KernelShap(net, samples=samples, **options).explain(x)
    close(found.extras["sum"], exact.sum(axis=1), 1e-9)
    close(found.extras["sum"], found.extras["score"] - found.extras["base"], 1e-9)
    error = np.abs(found.attribution - exact).max() / np.abs(exact).max()
    assert 0 < error < {24: 0.5, 40: 0.5, 150: 0.25, 700: 0.1}[samples]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 14), st.integers(0, 400), st.integers(0, 99))
def test_coalitions(n, more, seed):
    """Distinct, closed under complements, at most ``samples``; whole sizes have the weight of the kernel."""
    samples = min(2 * n, 2**n - 2) + more
    on, weights = shapley_coalitions(n, samples, np.random.default_rng(seed))
    assert on.shape == (len(weights), n) and len(on) <= samples
    rows = {tuple(r): w for r, w in zip(on.tolist(), weights, strict=True)}
    assert len(rows) == len(on) and (weights > 0).all()
    sizes = on.sum(axis=1)
    assert ((sizes > 0) & (sizes < n)).all()
    for row, w in rows.items():
        assert abs(rows[tuple(not r for r in row)] - w) < 1e-12
    mass = {s: (n - 1) / (s * (n - s)) for s in range(1, n)}
    outside = True
    for s in range(1, n // 2 + 1):
        of_size = weights[sizes == s]
        outside = outside and len(of_size) == comb(n, s) and np.ptp(of_size) < 1e-12
        if outside:
            np.testing.assert_allclose(of_size.sum(), mass[s])
    if samples >= 2**n - 2:
        assert len(on) == 2**n - 2 and (n == 1 or outside)


def test_drawn_coalitions_follow_the_kernel():
    """Of the sizes that aren't enumerated, each gets its share of the weight, each player the same."""
    n, samples = 20, 40 + 4000
    shares, players = np.zeros(n), np.zeros(n)
    for seed in range(3):  # sizes 1 and 19 fit, 2 and 18 as well, 3 and 17 (2280) as well, then 4..16 are drawn
        on, weights = shapley_coalitions(n, samples, np.random.default_rng(seed))
        sizes = on.sum(axis=1)
        shares += np.bincount(sizes, weights, n) / 3
        players += weights[sizes == 10] @ on[sizes == 10]
    expected = np.array([0, *((n - 1) / (s * (n - s)) for s in range(1, n))])
    np.testing.assert_allclose(shares[[1, 2, 3, 17, 18, 19]], expected[[1, 2, 3, 17, 18, 19]])
    np.testing.assert_allclose(shares[4:17], expected[4:17], rtol=0.15)
    np.testing.assert_allclose(shares.sum(), expected.sum())
    np.testing.assert_allclose(players / players.mean(), 1, atol=0.2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 7), st.integers(0, 99))
def test_the_regression(n, seed):
    """Against the dense system of the Lagrange conditions, for several right-hand sides at once."""
    rng = np.random.default_rng(seed)
    on, weights = shapley_coalitions(n, 2 * n + 3, rng)
    values, empty, full = rng.normal(size=(3, len(on))), rng.normal(size=3), rng.normal(size=3)
    found = solve(on, weights, values, empty, full)
    z = on.astype(float)
    for v, v0, v1, phi in zip(values, empty, full, found, strict=True):
        system = np.block([[z.T @ np.diag(weights) @ z, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
        expected = np.linalg.solve(system, np.append(z.T @ (weights * (v - v0)), v1 - v0))[:-1]
        np.testing.assert_allclose(phi, expected, atol=1e-9)
        assert abs(phi.sum() - (v1 - v0)) < 1e-12


def test_seeds():
    net, x = dense(12), draws(2, 12)
    make = lambda **options: KernelShap(net, references=draws(2, 12, seed=1), samples=60, **options).analyze(x)
    np.testing.assert_array_equal(make(), make())
    assert not np.allclose(make(), make(seed=1))
    close(make(), make(batch_size=7), 1e-9)


def test_samples_of_a_batch_may_have_different_numbers_of_segments():
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(4)

    def some(one):  # 3 to 6 runs of rows
        return (np.arange(6) * (3 + int(10 * abs(one[0, 0, 0])) % 4) // 6)[:, None].repeat(6, 1)

    analyzer = KernelShap(sample.model, references=sample.inputs(2, seed=1), segments=some)
    found = analyzer.explain(x)
    counts = found.extras["segments"].reshape(4, -1).max(axis=1) + 1
    assert len(set(counts)) > 1
    close(found.attribution, np.concatenate([analyzer.analyze(one[None]) for one in x]))
    close(found.extras["sum"], found.extras["score"] - found.extras["base"], 1e-8)


# --- references --------------------------------------------------------------------------------------------------


def test_fit_keeps_a_random_subset():
    net, data = dense(5), draws(40, 5, seed=2)
    analyzer = KernelShap(net, background=6, seed=3)
    assert not analyzer.is_fitted() and analyzer.fit(data) is analyzer
    (kept,) = analyzer.references_
    assert kept.shape == (6, 5) and all((row == data).all(axis=1).any() for row in kept)
    assert len(np.unique(kept, axis=0)) == 6
    x = draws(2, 5)
    close(analyzer.analyze(x), KernelShap(net, references=kept).analyze(x))
    assert KernelShap(net).fit(data).references_[0].shape == (16, 5)
    again = KernelShap(net, background=6, seed=3)
    again.set_state(analyzer.state())
    np.testing.assert_array_equal(again.analyze(x), analyzer.analyze(x))


def test_refusals():
    sample = zoo.make("mlp")
    x = sample.inputs(2)
    with pytest.raises(NotFittedError, match=r"fit.*references"):
        KernelShap(sample.model).analyze(x)
    with pytest.raises(InvalidInputError, match=r"references.*\(3, 5\)"):
        KernelShap(sample.model, references=np.zeros((3, 5)))
    for name in ("samples", "background", "n_segments"):
        with pytest.raises(InvalidInputError, match=name):
            KernelShap(sample.model, **{name: 0})
    few = KernelShap(sample.model, references=x, samples=11)
    with pytest.raises(InvalidInputError, match=r"samples=11.*6 segments.*samples=12"):
        few.analyze(x)
    with pytest.raises(InvalidInputError, match="segments"):
        KernelShap(sample.model, segments=np.zeros(3, int))


@pytest.mark.parametrize("size", [1, 5, 64])
def test_batches_are_bounded(size):
    """2 samples x (6 coalitions and the empty one) x 3 references."""
    sample, seen = zoo.make("mlp", "float64"), []
    x, labels = sample.inputs(2), np.arange(6) // 2
    options = {"references": sample.inputs(3, seed=1), "segments": labels}
    expected = KernelShap(sample.model, **options).analyze(x)
    analyzer = KernelShap(sample.model, batch_size=size, **options)
    score = analyzer.score
    analyzer.score = lambda mode: lambda *arrays: (seen.append(len(arrays[0])), score(mode)(*arrays))[1]
    close(analyzer.analyze(x), expected)
    assert max(seen) <= size and sum(seen) == 2 * 7 * 3
