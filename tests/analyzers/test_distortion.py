"""The distortion D(s) and its gradient, against closed forms, loops over the same draws, samples and differences."""

import functools

import keras
import numpy as np
import pytest
import rde_nets
import zoo
from keras import layers, ops
from rde_nets import at, cloud, distortion_of, linear, relu_moments, relu_net

RNG = np.random.default_rng(3)
LABELS = RNG.permutation(np.arange(36) % 5).reshape(6, 6)


def close(received, expected, tolerance=1e-9):
    expected = np.asarray(expected)
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# --- closed forms ------------------------------------------------------------------------------------------------


def test_linear_model_with_independent_noise():
    """D = (sum w (1-s) (x-mu))^2 + sum w^2 (1-s)^2 sigma^2, each sample with its own neuron."""
    model, w, _ = linear(n=6, outputs=3)
    x, index = RNG.normal(size=(4, 6)), np.array([2, 0, 1, 1])
    mu, variance = RNG.normal(size=6), RNG.uniform(0.1, 2, 6)
    d = distortion_of(model, x, neuron=index, mean=mu, variance=variance)
    s = RNG.uniform(size=(4, 6))
    value, gradient = at(d, s)
    a, free = w.T[index], 1 - s
    bias = np.sum(a * free * (x - mu), axis=1)
    close(value, bias**2 + np.sum(a**2 * free**2 * variance, axis=1), 1e-12)
    close(gradient, -2 * bias[:, None] * a * (x - mu) - 2 * a**2 * free * variance, 1e-12)


@pytest.mark.parametrize("reference", ["low_rank", "full"])
def test_linear_model_with_the_covariance_of_the_data(reference):
    """Exact in both modes that know correlations; the sum of the outputs as the score."""
    model, w, _ = linear(n=5, outputs=2)
    X, x, s = cloud(5), RNG.normal(size=(3, 5)), RNG.uniform(size=(3, 5))
    d = distortion_of(model, x, X, "all", reference=reference, rank=5)
    twin = [rde_nets.Quadratic(w.sum(axis=1), row, X.mean(axis=0), np.cov(X.T, bias=True)) for row in x]
    value, gradient = at(d, s)
    close(value, [t(row) for t, row in zip(twin, s, strict=True)])
    close(gradient, [t.gradient(row) for t, row in zip(twin, s, strict=True)])


def test_linear_model_with_a_range_and_a_constant():
    """ "uniform": mean (a + b) / 2 and variance (b - a)^2 / 12 of each sample's own range; "constant": no variance."""
    model, w, _ = linear(n=6)
    x, s = RNG.normal(size=(3, 6)), RNG.uniform(size=(3, 6))
    value = at(distortion_of(model, x, reference="uniform"), s)[0]
    low, high = x.min(axis=1), x.max(axis=1)
    for i in range(3):
        mu, spread = np.full(6, (low[i] + high[i]) / 2), np.eye(6) * (high[i] - low[i]) ** 2 / 12
        close(value[i], rde_nets.Quadratic(w[:, 0], x[i], mu, spread)(s[i]))
    value = at(distortion_of(model, x, reference="constant", mean=0.7), s)[0]
    close(value, [rde_nets.Quadratic(w[:, 0], row, 0.7, np.zeros((6, 6)))(t) for row, t in zip(x, s, strict=True)])


# --- density filtering of ReLU nets --------------------------------------------------------------------------------


def filtered(model, x, s, mean, variance, factor, full, weights):
    """D of a net of dense layers for one sample: moments through each layer, (m, v, F) as in the papers."""
    m, v, F = s * x + (1 - s) * mean, (1 - s) ** 2 * variance, (1 - s) * factor
    for layer in model.layers:
        w, b = (np.asarray(t) for t in layer.get_weights())
        m, v, F = m @ w + b, v @ w**2, F @ w
        if layer is not model.layers[-1]:
            m, total, share = relu_moments(m, v + np.sum(F**2, axis=0))
            F = F * share
            v = total - np.sum(F**2, axis=0)
            if full:
                v, F = np.zeros_like(v), np.concatenate([F, np.diag(np.sqrt(v))])
    score = np.asarray(model(x[None]))[0] @ weights
    return (score - m @ weights) ** 2 + v @ weights**2 + np.sum((F @ weights) ** 2)


@pytest.mark.parametrize("reference", ["gaussian", "low_rank", "full"])
@pytest.mark.parametrize("neuron", [1, "all"])
def test_density_filtering(reference, neuron):
    model = relu_net(5, (7, 6))
    X, x = cloud(5), RNG.normal(size=(3, 5))
    s = RNG.uniform(0.1, 0.9, (3, 5))
    value = at(distortion_of(model, x, X, neuron, reference=reference, rank=3), s)[0]
    weights = np.ones(3) if neuron == "all" else np.eye(3)[neuron]
    variance, factor = X.var(axis=0), np.zeros((0, 5))
    if reference != "gaussian":
        values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
        factor = (vectors * np.sqrt(values)).T[-3 if reference == "low_rank" else 0 :]
        variance = np.zeros(5)
    close(
        value,
        [
            filtered(model, a, t, X.mean(axis=0), variance, factor, reference == "full", weights)
            for a, t in zip(x, s, strict=True)
        ],
    )


@pytest.mark.parametrize("hidden", [(12,), (9, 8)])
def test_full_covariance_is_close_to_plain_sampling(hidden):
    """numpy alone: 200 000 draws of the data's Gaussian through the net. The noise is small, as the covariance of two
    ReLUs is first-order; the mode without covariances is much farther off."""
    model, X = relu_net(6, hidden), cloud(6)
    X = X.mean(axis=0) + 0.2 * (X - X.mean(axis=0))
    rng = np.random.default_rng(3)
    x, s = rng.normal(size=(6, 6)), rng.uniform(0, 0.8, (6, 6))
    v = np.random.default_rng(0).multivariate_normal(X.mean(axis=0), np.cov(X.T, bias=True), 200_000)
    expected = []
    for a, t in zip(x, s, strict=True):
        y = t * a + (1 - t) * v
        for layer in model.layers:
            w, b = layer.get_weights()
            y = y @ w + b
            y = y if layer is model.layers[-1] else np.maximum(y, 0)
        expected.append(np.mean((np.asarray(model(a[None]))[0, 1] - y[:, 1]) ** 2))
    error = {
        mode: np.abs(at(distortion_of(model, x, X, 1, reference=mode), s)[0] / expected - 1)
        for mode in ("full", "gaussian")
    }
    assert error["full"].max() < 0.05
    assert error["full"].mean() < error["gaussian"].mean() / 10


# --- Monte Carlo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["gaussian", "low_rank", "uniform", "constant", "sampler"])
def test_monte_carlo_equals_a_loop_over_the_same_draws(reference):
    """One draw after the other through the model itself; points of one stream share their draws, others do not."""
    model, X = relu_net(5), cloud(5)
    x, samples, seed = RNG.normal(size=(3, 5)), 7, 11

    def sampler(x, count, rng):
        return x[:, None] * rng.uniform(0.5, 1.5, (len(x), count, 5))

    kind = sampler if reference == "sampler" else reference
    options = {"mean": 0.3} if reference == "constant" else {}
    d = distortion_of(model, x, X, 2, reference=kind, distortion="monte_carlo", samples=samples, seed=seed, **options)
    s, rows, streams = RNG.uniform(size=(6, 5)), np.array([0, 1, 2, 2, 1, 0]), np.array([0, 0, 0, 1, 1, 0])
    value, gradient = at(d, s, rows, streams)
    mu = X.mean(axis=0)
    for i, (row, stream) in enumerate(zip(rows, streams, strict=True)):
        total = 0.0
        for j in range(samples):
            rng, a = np.random.default_rng((seed, stream, j)), x[row]
            if reference == "gaussian":
                v = mu + X.std(axis=0) * rng.standard_normal(5)
            elif reference == "low_rank":
                rng.standard_normal(5)  # the independent part, of variance 0
                v = mu + rng.standard_normal(5) @ d.reference.factor
            elif reference == "uniform":
                v = a.min() + rng.random(5) * (a.max() - a.min())
            elif reference == "constant":
                v = np.full(5, 0.3)
            else:
                v = sampler(a[None], 1, rng)[0, 0]
            mixed = s[i] * a + (1 - s[i]) * v
            total += (np.asarray(model(a[None]))[0, 2] - np.asarray(model(mixed[None]))[0, 2]) ** 2
        close(value[i], total / samples, 1e-10)
    assert gradient.shape == (6, 5)


def test_monte_carlo_converges_to_the_closed_form():
    """Within four standard errors of the squared scores, on a linear model."""
    model, w, _ = linear(n=4)
    x, s, mu, variance = RNG.normal(size=(2, 4)), RNG.uniform(size=(2, 4)), RNG.normal(size=4), RNG.uniform(0.5, 2, 4)
    samples = 4000
    d = distortion_of(model, x, mean=mu, variance=variance, distortion="monte_carlo", samples=samples)
    for i, value in enumerate(at(d, s)[0]):
        exact = rde_nets.Quadratic(w[:, 0], x[i], mu, np.diag(variance))
        bias, spread = ((1 - s[i]) @ exact.d) ** 2, (1 - s[i]) @ exact.c @ (1 - s[i])
        error = np.sqrt((2 * spread**2 + 4 * bias * spread) / samples)  # of the square of a Gaussian
        assert abs(value - exact(s[i])) < 4 * error


# --- gradients and ends of the path, for all combinations --------------------------------------------------------


def smallest(y):
    """A target function that isn't linear."""
    return ops.sum(ops.tanh(y), axis=1) * y[:, 0]


def image_net():
    return zoo.make("convnet", "float64").model


@functools.cache
def channels_first():
    """Channels first without a convolution, which has no float64 kernel there."""
    with zoo.precision("float64"):
        net = keras.Sequential(
            [
                keras.Input((2, 3, 4)),
                layers.BatchNormalization(axis=1),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(data_format="channels_first"),
                layers.Dense(3),
            ]
        )
    return zoo.randomise(net, 5)


def two_inputs():
    return zoo.make("two_inputs", "float64").model


def segmentation():
    return zoo.make("segmentation", "float64").model


MC = {"distortion": "monte_carlo", "samples": 3}
CASES = {  # (model, neuron or target function, parameters, number of features)
    "diagonal": (relu_net, 1, {}, 5),
    "low rank": (relu_net, "all", {"reference": "low_rank", "rank": 2}, 5),
    "full": (relu_net, None, {"reference": "full"}, 5),
    "target function": (relu_net, smallest, {"reference": "low_rank", "rank": 2}, 5),
    "uniform": (relu_net, 0, {"reference": "uniform"}, 5),
    "components of an image": (image_net, 2, {}, 72),
    "pixels": (image_net, None, {"features": "pixel"}, 36),
    "superpixels": (image_net, 1, {"features": LABELS, "reference": "low_rank", "rank": 3}, 5),
    "labels per component": (image_net, 1, {"features": np.stack([LABELS, LABELS + 5], -1), **MC}, 10),
    "channels first": (channels_first, 1, {"features": "pixel"}, 12),
    "channels first, sampled": (channels_first, "all", {"features": "pixel", **MC}, 12),
    "two inputs": (two_inputs, 1, {"reference": "low_rank", "rank": 2}, 40),
    "two inputs, sampled": (two_inputs, "all", {"reference": "full", "features": "pixel", **MC}, 40),
    "sampled": (relu_net, None, MC, 5),
    "sampled target function": (relu_net, smallest, {"reference": "uniform", **MC}, 5),
    "rank 3 output": (segmentation, (1, 2, 0), {"features": "pixel"}, 16),
}


@functools.cache
def built(name):
    make, neuron, params, n = CASES[name]
    model, rng = make(), np.random.default_rng(7)
    shapes = [t.shape[1:] for t in model.inputs]
    X, x = ([rng.uniform(-1, 1, (size, *shape)) for shape in shapes] for size in (20, 2))
    X, x = (a if len(shapes) > 1 else a[0] for a in (X, x))
    mode = {"neuron_selection_mode": neuron} if callable(neuron) else {}
    return distortion_of(model, x, X, None if mode else neuron, **mode, **params), n, model, x


@pytest.mark.parametrize("name", zoo.thinned(CASES))
def test_gradient_by_differences(name):
    """Central differences of D at random points of two samples."""
    d, n, *_ = built(name)
    assert d.context.features.count == n
    s, h = np.random.default_rng(8).uniform(0.1, 0.9, (2, n)), 1e-6
    gradient = at(d, s)[1]
    for row in range(2):
        ups, downs = s[row] + h * np.eye(n), s[row] - h * np.eye(n)
        expected = (at(d, ups, row)[0] - at(d, downs, row)[0]) / (2 * h)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(gradient[row], expected, rtol=1e-5, atol=1e-7 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_when_everything_is_kept(name):
    """D(1) = 0 with a finite gradient; D at other points is positive."""
    d, n, *_ = built(name)
    value, gradient = at(d, np.ones((2, n)))
    scale = at(d, np.full((2, n), 0.3))[0]
    assert (scale > 0).all()
    assert (np.abs(value) <= 1e-10 * scale).all() and np.isfinite(gradient).all()


def test_a_feature_moves_all_of_its_components():
    """One s per pixel or label is the same as equal s for its components; the gradient is the sum of theirs."""
    X, x = RNG.uniform(-1, 1, (20, 6, 6, 2)), RNG.uniform(-1, 1, (2, 6, 6, 2))
    single = distortion_of(image_net(), x, X, 1)
    for features, members in (("pixel", np.repeat(np.arange(36), 2)), (LABELS, np.repeat(LABELS.ravel(), 2))):
        d, n = distortion_of(image_net(), x, X, 1, features=features), members.max() + 1
        s = RNG.uniform(size=(2, n))
        value, gradient = at(d, s)
        expected, parts = at(single, s[:, members])
        close(value, expected)
        close(gradient, np.stack([np.bincount(members, p) for p in parts]))


def test_pixels_of_other_layouts():
    """Channels first: the channels are the first axis; a table's columns are pixels of their own."""
    maps = distortion_of(channels_first(), np.ones((1, 2, 3, 4)), reference="uniform", features="pixel")
    found = maps.context.features.maps(np.arange(12.0)[None])[0]
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(12.0).reshape(1, 1, 3, 4), (1, 2, 3, 4)))
    two = zoo.make("two_inputs", "float64")
    d = distortion_of(two.model, two.inputs(1), reference="uniform", features="pixel")
    image, table = d.context.features.maps(np.arange(40.0)[None])
    np.testing.assert_array_equal(image[0, :, :, 0], np.arange(36.0).reshape(6, 6))
    np.testing.assert_array_equal(table[0], np.arange(36.0, 40.0))


def test_any_split_into_batches_gives_the_same():
    """Values and gradients for every ``size``, also below the number of draws."""
    for name in ("two inputs", "two inputs, sampled"):
        d, n, *_ = built(name)
        s, rows, streams = RNG.uniform(size=(5, n)), np.array([0, 1, 1, 0, 1]), np.arange(5) % 2
        before = d.size
        expected = at(d, s, rows, streams)
        try:
            for size in (1, 2, 4, 7):
                d.size = size
                for received, right in zip(at(d, s, rows, streams), expected, strict=True):
                    close(received, right, 1e-12)
        finally:
            d.size = before
