"""The reference distribution V: what ``fit`` learns, from whatever form of data, and what is drawn from it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers
from rde_nets import cloud, distortion_of, relu_net

import innv_ext
from innv_ext.analyzers.parts.replacement import Custom, Uniform
from innv_ext.analyzers.rde.rates import RateConstrainedRDE
from innv_ext.analyzers.rde.reference import Reference
from innv_ext.errors import InvalidInputError

N = 5
X = cloud(N, 57)
KINDS = ("gaussian", "low_rank", "full")


@pytest.fixture(scope="module")
def net():
    return relu_net(N, (4,))


def learnt(model, data, **params):
    """The arrays that ``fit`` learns."""
    return RateConstrainedRDE(model, rate=2, progress=False, **params).fit(data).state()


def covariance(state):
    """Of all components, from what was learnt."""
    own = np.diag(np.concatenate([state[f"variance{i}"].ravel() for i in range(2) if f"variance{i}" in state]))
    return own + (state["factor"].T @ state["factor"] if "factor" in state else 0)


def same(a, b, tolerance=1e-9):
    assert set(a) == set(b)
    for key in a:
        if key == "factor":  # the sign of a direction is free
            np.testing.assert_allclose(a[key].T @ a[key], b[key].T @ b[key], rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=key)


# --- what is learnt ------------------------------------------------------------------------------------------------


def test_mean_and_variance_of_the_data(net):
    state = learnt(net, X)
    np.testing.assert_allclose(state["mean0"], X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(state["variance0"], X.var(axis=0), rtol=1e-12)
    assert set(state) == {"mean0", "variance0"}


def test_covariance_of_the_data(net):
    """All of it in "full" and in "low_rank" at full rank; at a lower rank the leading directions, by their variance."""
    expected = np.cov(X.T, bias=True)
    for params in ({"reference": "full"}, {"reference": "low_rank", "rank": N}, {"reference": "low_rank", "rank": 99}):
        state = learnt(net, X, **params)
        np.testing.assert_allclose(covariance(state), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(state["mean0"], X.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(state["variance0"], np.zeros(N))
    values, vectors = np.linalg.eigh(expected)
    for rank in (1, 3):
        state = learnt(net, X, reference="low_rank", rank=rank)
        assert state["factor"].shape == (rank, N)
        leading = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
        np.testing.assert_allclose(covariance(state), leading, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.sum(state["factor"] ** 2, axis=1), values[::-1][:rank], rtol=1e-9)


@pytest.mark.parametrize("reference", KINDS)
def test_one_pass_in_any_batches_and_order(net, reference):
    """An iterator is read once; sizes of 1 and an order of its own change nothing. A large mean costs no digits."""
    far = X + 1e4
    expected = learnt(net, far, reference=reference)
    np.testing.assert_allclose(np.diag(covariance(expected)), far.var(axis=0), rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(far))
    for cuts in ([], [1, 2, 3, 30], [20, 40], range(1, len(far))):
        reads = []
        parts = (reads.append(0) or part for part in np.split(far[order], list(cuts)))
        same(learnt(net, parts, reference=reference), expected)
        assert len(reads) == len(cuts) + 1
    analyzer = RateConstrainedRDE(net, rate=2, reference=reference, progress=False)
    for size in (1, 10, 100):
        same(analyzer.fit(far, batch_size=size).state(), expected)
    same(analyzer.fit(far[:7]).fit(far).state(), expected)  # fit starts again


class Sequence(keras.utils.PyDataset):
    """Batches of 20, with or without targets."""

    def __init__(self, data, targets):
        super().__init__()
        self.data, self.targets = data, targets

    def __len__(self):
        return (len(self.data) + 19) // 20

    def __getitem__(self, i):
        part = self.data[20 * i : 20 * (i + 1)]
        return (part, np.zeros(len(part))) if self.targets else part


def tensors(data, *more):
    return tf.data.Dataset.from_tensor_slices((data, *more) if more else data).batch(10)


FORMS = {
    "list of rows": lambda x: x.tolist(),
    "list of one array": lambda x: [x],
    "tensor": tf.constant,
    "float32": lambda x: x.astype("float32"),
    "generator": lambda x: (p for p in np.array_split(x, 4)),
    "generator with targets": lambda x: ((p, np.ones(len(p)), None) for p in np.array_split(x, 4)),
    "PyDataset": lambda x: Sequence(x, False),
    "PyDataset with targets": lambda x: Sequence(x, True),
    "tf.data": tensors,
    "tf.data with targets": lambda x: tensors(x, np.zeros(len(x))),
    "tf.data with targets and weights": lambda x: tensors(x, np.zeros(len(x)), np.ones(len(x))),
    "map": lambda x: map(tf.constant, np.array_split(x, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_data(net, form):
    tolerance = 1e-6 if form == "float32" else 1e-9
    same(learnt(net, FORMS[form](X), reference="full"), learnt(net, X, reference="full"), tolerance)


def test_several_inputs():
    """Lists, tuples, dicts by name and data sets of them; directions are shared by all inputs."""
    for name in ("two_inputs", "dict_inputs"):
        sample = zoo.make(name, "float64")
        given = sample.inputs(30)
        image, table = given if name == "two_inputs" else (given["image"], given["table"])
        joined = np.concatenate([image.reshape(30, -1), table], axis=1)
        named = {"image": image, "table": table}
        forms = [
            named,
            dict(reversed(named.items())),
            ({k: v[i : i + 10] for k, v in named.items()} for i in (0, 10, 20)),
            tensors(named),
            tensors(named, np.zeros(30)),
        ]
        if name == "two_inputs":
            forms += [[image, table], (image, table), ([image[i:], table[i:]] for i in (0,))]
            forms.append(((image[i : i + 15], table[i : i + 15]), np.zeros(15)) for i in (0, 15))
        for form in forms:
            state = learnt(sample.model, form, reference="low_rank", rank=40)
            first = "mean0" if state["mean0"].ndim == 3 else "mean1"
            np.testing.assert_allclose(state[first], image.mean(axis=0), rtol=1e-9, atol=1e-12)
            if first == "mean0":
                np.testing.assert_allclose(covariance(state), np.cov(joined.T, bias=True), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def wide():
    """More components than a covariance matrix is formed for."""
    return keras.Sequential([keras.Input((4100,)), layers.Dense(2)])


def test_incremental_principal_directions(wide):
    """Exact for data of a lower rank; else the captured variance is that of the exact directions, within 2 %."""
    rng = np.random.default_rng(0)
    low = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4100)) + rng.normal(size=4100)
    state = learnt(wide, low, reference="low_rank", rank=6)
    assert state["factor"].shape == (6, 4100)
    centred = (low - low.mean(axis=0)) / np.sqrt(60)
    np.testing.assert_allclose(state["mean0"], low.mean(axis=0), atol=1e-6)
    probe = rng.normal(size=(4100, 5))
    for a, b in zip(state["factor"].T @ (state["factor"] @ probe), centred.T @ (centred @ probe), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    noisy = low + rng.normal(size=low.shape)
    centred = (noisy - noisy.mean(axis=0)) / np.sqrt(60)
    exact = np.linalg.svd(centred, full_matrices=False)[1][:6] ** 2
    for size in (12, 60):
        parts = np.array_split(noisy, 60 // size)
        factor = learnt(wide, iter(parts), reference="low_rank", rank=6)["factor"]
        np.testing.assert_allclose(np.sum(factor**2, axis=1)[:4], exact[:4], rtol=0.02)
        unit = factor / np.linalg.norm(factor, axis=1, keepdims=True)
        np.testing.assert_allclose(unit @ unit.T, np.eye(6), atol=1e-8)
        assert 0.98 * exact.sum() < np.sum((centred @ unit.T) ** 2) <= exact.sum() * (1 + 1e-9)


def test_limits_of_large_inputs(wide):
    data = np.random.default_rng(0).normal(size=(5, 4100))
    with pytest.raises(InvalidInputError, match=r"4100 x 4100.*4096.*low_rank"):
        learnt(wide, data, reference="full")
    with pytest.raises(InvalidInputError, match=r"rank=6.*at least 6 samples"):
        learnt(wide, data, reference="low_rank", rank=6)


# --- what a failure leaves -----------------------------------------------------------------------------------------


def broken_generator():
    yield X[:10]
    raise OSError("disk gone")


FAILURES = {
    "nan in the second batch": (lambda: iter([X, np.full((3, N), np.nan)]), InvalidInputError, "Batch 1.*NaN"),
    "infinite": (lambda: np.where(X > 1, np.inf, X), InvalidInputError, "infinite"),
    "wrong shape": (lambda: X[:, :3], InvalidInputError, r"\(57, 3\)"),
    "wrong shape later": (lambda: iter([X, X[:, :3]]), InvalidInputError, "Batch 1"),
    "no samples": (lambda: X[:0], InvalidInputError, "empty"),
    "no batches": (lambda: iter([]), InvalidInputError, "empty"),
    "words": (lambda: np.full((3, N), "a"), InvalidInputError, "numbers"),
    "a number": (lambda: 3, InvalidInputError, "int"),
    "nothing": (lambda: None, InvalidInputError, "NoneType"),
    "an error of the data": (broken_generator, OSError, "disk gone"),
}


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_fit_leaves_the_old_reference(net, reference, failure):
    make, error, words = FAILURES[failure]
    analyzer = RateConstrainedRDE(net, rate=2, reference=reference, progress=False).fit(X)
    before = {k: v.copy() for k, v in analyzer.state().items()}
    with pytest.raises(error, match=words):
        analyzer.fit(make())
    assert set(before) == set(analyzer.state())
    for key, value in analyzer.state().items():
        np.testing.assert_array_equal(value, before[key])
    fresh = RateConstrainedRDE(net, rate=2, reference=reference, progress=False)
    with pytest.raises(error, match=words):
        fresh.fit(make())
    assert not fresh.is_fitted() and fresh.state() == {}


# --- draws ---------------------------------------------------------------------------------------------------------

KEYS = [(5, 0, j) for j in range(6000)]


def moments_of(drawn):
    """Mean, covariance and their standard errors, of draws (1, count, n)."""
    v = drawn[0]
    mean, cov = v.mean(axis=0), np.cov(v.T)
    var = np.diag(cov)
    errors = np.sqrt(var / len(v)), np.sqrt((np.outer(var, var) + cov**2) / len(v))
    return mean, cov, *errors


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_the_data(net, kind):
    """Within five standard errors; "gaussian" draws components independently."""
    analyzer = RateConstrainedRDE(net, rate=2, reference=kind, rank=N, progress=False).fit(X)
    mean, cov, mean_error, cov_error = moments_of(analyzer.given_reference().draw([X[:1]], KEYS)[0])
    expected = np.cov(X.T, bias=True)
    expected = np.diag(np.diag(expected)) if kind == "gaussian" else expected
    assert (np.abs(mean - X.mean(axis=0)) < 5 * mean_error).all()
    assert (np.abs(cov - expected) < 5 * cov_error).all()


def test_moments_of_the_range():
    """Draws and moments of "uniform" belong to each sample's own range."""
    x = np.stack([np.linspace(-1, 3, N), np.linspace(10, 11, N)])
    reference = Reference([Uniform()])
    drawn = np.concatenate([reference.draw([one[None]], KEYS)[0] for one in x])
    assert drawn.shape == (2, len(KEYS), N)
    (means,), (variances,), factors = reference.moments([x])
    assert not factors
    for i, (low, high) in enumerate([(-1, 3), (10, 11)]):
        assert low <= drawn[i].min() < low + 0.01 * (high - low)
        assert high >= drawn[i].max() > high - 0.01 * (high - low)
        mean, cov, mean_error, cov_error = moments_of(drawn[i : i + 1])
        assert (np.abs(mean - means[i]) < 5 * mean_error).all()
        assert (np.abs(cov - np.diag(variances[i])) < 5 * cov_error).all()


def test_constant(net):
    """All draws are the mean: a number, an array, or 0."""
    for given, expected in ((None, 0.0), (0.5, 0.5), (np.arange(5.0), np.arange(5.0))):
        analyzer = RateConstrainedRDE(net, rate=2, reference="constant", mean=given)
        (drawn,) = analyzer.given_reference().draw([X[:1]], KEYS[:4])
        np.testing.assert_array_equal(drawn, np.broadcast_to(expected, (1, 4, N)))
        (mean,), (variance,), _ = analyzer.given_reference().moments([X[:1]])
        np.testing.assert_array_equal(mean, np.broadcast_to(expected, (1, N)))
        np.testing.assert_array_equal(variance, np.zeros((1, N)))


@pytest.mark.parametrize("kind", ["gaussian", "low_rank", "uniform", "sampler"])
def test_equal_keys_give_equal_draws(kind):
    """In any order and company; other keys, others. Each input of a model has noise of its own."""
    x = [X[:1]] if kind == "sampler" else [X[:1], X[:1, :3]]
    if kind == "sampler":
        sampler = lambda x, count, rng: x[:, None] + rng.normal(size=(len(x), count, N))
        reference = Reference([Custom(sampler, "reference")])
    else:
        factor = np.random.default_rng(0).normal(size=(2, 8)) if kind == "low_rank" else None
        reference = Reference.of(kind, [np.zeros(5), np.zeros(3)], [np.ones(5), np.ones(3)], factor)
    together = reference.draw(x, KEYS[:4])
    for j in (3, 1):
        for a, b in zip(reference.draw(x, [KEYS[j]]), together, strict=True):
            np.testing.assert_allclose(a[:, 0], b[:, j], rtol=1e-12)
    assert not np.allclose(together[0][:, 0], together[0][:, 1])
    assert not np.allclose(together[0][:, 0], reference.draw(x, [(6, 0, 0)])[0][:, 0])
    if len(together) > 1:
        assert not np.allclose(together[0][:, :, :3], together[1])


def test_samplers_are_checked(net):
    x = X[:3]
    params = {"distortion": "monte_carlo", "samples": 2, "rate": 2, "max_iter": 2, "progress": False}
    seen = []

    def good(x, samples, rng):
        seen.append((x.shape, samples, type(rng)))
        return rng.choice(X, (len(x), samples))

    maps = RateConstrainedRDE(net, reference=good, **params).analyze(x)
    assert maps.shape == x.shape and np.isfinite(maps).all()
    assert set(seen) == {((1, N), 1, np.random.Generator)}
    bad = {
        "axis": lambda x, samples, rng: rng.normal(size=x.shape),
        "count": lambda x, samples, rng: rng.normal(size=(len(x), samples + 1, N)),
        "nan": lambda x, samples, rng: np.full((len(x), samples, N), np.nan),
        "none": lambda x, samples, rng: None,
    }
    for name, sampler in bad.items():
        with pytest.raises(InvalidInputError, match=r"\(batch, samples, \.\.\.\) = \(1, 1, 5\)"):
            RateConstrainedRDE(net, reference=sampler, **params).analyze(x)
            pytest.fail(name)


# --- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distortion", ["adf", "monte_carlo"])
@pytest.mark.parametrize("reference", KINDS)
def test_saving_keeps_the_reference(net, tmp_path, reference, distortion):
    params = {"reference": reference, "distortion": distortion, "samples": 3, "rank": 2, "max_iter": 3, "rate": 2}
    analyzer = innv_ext.create_analyzer("rc_rde", net, progress=False, **params).fit(X)
    expected = analyzer.analyze(X[:3])
    analyzer.save(tmp_path / "a.innv")
    loaded = innv_ext.load_analyzer(tmp_path / "a.innv")
    assert set(loaded.state()) == set(analyzer.state()) and loaded.is_fitted()
    for key, value in analyzer.state().items():
        np.testing.assert_array_equal(loaded.state()[key], value)
    np.testing.assert_array_equal(loaded.analyze(X[:3]), expected)


def test_saving_what_was_given_or_not_learnt(net, tmp_path):
    """Arrays among the arguments travel too; an analyzer that was not fitted is not fitted afterwards."""
    arrays = {"mean": X.mean(axis=0), "variance": X.var(axis=0), "features": np.arange(N) // 2}
    analyzer = innv_ext.create_analyzer("rc_rde", net, progress=False, max_iter=3, rate=2, **arrays)
    analyzer.save(tmp_path / "a.innv")
    np.testing.assert_array_equal(innv_ext.load_analyzer(tmp_path / "a.innv").analyze(X[:3]), analyzer.analyze(X[:3]))
    innv_ext.create_analyzer("mr_rde", net, rates=(1, 2)).save(tmp_path / "b.innv")
    assert not innv_ext.load_analyzer(tmp_path / "b.innv").is_fitted()


def test_given_and_learnt_moments_are_the_same(net):
    given = {"mean": X.mean(axis=0), "variance": X.var(axis=0)}
    s = np.random.default_rng(0).uniform(size=(2, N))
    parts = [distortion_of(net, X[:2], fit, 0, **params) for fit, params in ((X, {}), (None, given))]
    for a, b in zip(*(d(s, np.arange(2), np.zeros(2, int)) for d in parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
