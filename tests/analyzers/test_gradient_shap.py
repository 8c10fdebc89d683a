"""GradientSHAP: exact on linear models, integrated gradients over references on others, and as repeatable as all."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers as L
from keras import ops, tree

import innv_ext
from innv_ext.analyzers import registry
from innv_ext.analyzers.gradient.averaged import IntegratedGradients
from innv_ext.analyzers.gradient.gradient_shap import GradientShap
from innv_ext.errors import InvalidInputError, NotFittedError


def shap(model, **params):
    return GradientShap(model, progress=False, **params)


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def close(a, b, rtol=1e-9):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def total(attribution):
    return sum(a.reshape(len(a), -1).sum(axis=1) for a in tree.flatten(attribution))


@pytest.fixture(scope="module")
def smooth():
    """A net with tanh, samples and references."""
    sample = zoo.make("mlp_tanh", "float64")
    return sample.model, sample.inputs(5), sample.inputs(4, seed=1)


@pytest.mark.parametrize("noise_scale", [0.0, 2.0])
def test_linear_models_are_exact(noise_scale):
    """w (x - mean of the references): alpha and noise don't matter where the gradient is constant."""
    model = zoo.build(lambda i: L.Dense(2)(L.Flatten()(i)), (3, 2))
    X, x = data(8, 3, 2), data(4, 3, 2, seed=1)
    w = model.get_weights()[0][:, 1].reshape(3, 2)
    close(shap(model, references=X, samples=24, noise_scale=noise_scale).analyze(x, 1), w * (x - X.mean(axis=0)))


def test_every_reference_counts_the_same():
    """Up to one draw; fewer draws than references take that many of them."""
    model = zoo.build(L.Dense(1, use_bias=False, dtype="float64"), (1,))
    w = model.get_weights()[0][0, 0]
    X = 10.0 ** np.arange(4)[:, None]
    for samples, counts in ((6, [1, 2]), (2, [0, 1])):
        analyzer = shap(model, references=X, samples=samples)
        for analyzer.seed in range(4):
            found = analyzer.analyze(np.zeros((1, 1)))[0, 0]
            digits = [int(d) for d in f"{round(-found / w * samples):04d}"]
            assert sum(digits) == samples and sorted(set(digits)) == counts


def test_converges_to_integrated_gradients(smooth):
    """Averaged over the references; the error of n draws shrinks like 1 / sqrt(n)."""
    model, x, references = smooth
    found = shap(model, references=references, samples=8000, batch_size=4000).explain(x)
    lines = [IntegratedGradients(model, reference_inputs=r).explain(x, found.target) for r in references]
    expected = np.mean([f.attribution for f in lines], axis=0)
    scale = np.abs(expected).max()
    assert np.abs(found.attribution - expected).max() < 0.02 * scale
    few = shap(model, references=references, samples=8).analyze(x)
    assert np.abs(few - expected).max() > 0.02 * scale  # so that the bound above says something
    at_references = np.asarray(model(references))[:, found.target].mean(axis=0)
    np.testing.assert_allclose(total(found.attribution), found.extras["score"] - at_references, atol=0.05)


def test_points_lie_between_references_and_x():
    """f = x^3: the gradient 3 z^2 at z = r + alpha (x - r), seen from outside through the attribution."""
    i = keras.Input((1,), dtype="float64")
    model = keras.Model(i, i * i * i)
    x, r = np.array([[2.0]]), np.array([[-1.0]])
    analyzer, single = shap(model, references=r, samples=1), []
    for analyzer.seed in range(60):
        single.append(analyzer.analyze(x)[0, 0])
    z = np.sqrt(np.array(single) / (3 * 3))  # |r + 3 alpha|, from 0 to 2
    assert z.min() < 0.2 and 1.8 < z.max() <= 2
    assert abs(np.mean(single) - 9) < 5  # f(2) - f(-1), standard deviation 1.3


def test_noise_is_added_in_units_of_x():
    """f = x^2: noise leaves the mean alone; f = x^3: it adds 3 noise_scale^2 (x - r)."""
    i = keras.Input((2,), dtype="float64")
    model = keras.Model(i, ops.sum(i * i * i, axis=1, keepdims=True))
    x, r = np.array([[2.0, 1]]), np.array([[0.0, 0]])
    params = {"references": r, "samples": 4000, "batch_size": 4000}
    plain, noisy = (shap(model, noise_scale=s, **params).analyze(x) for s in (0.0, 1.0))
    close(noisy - plain, 3 * (x - r), 0.2)


@pytest.mark.parametrize("model", ["convnet", "tokens", "masked_lstm", "two_inputs", "uint8", "two_outputs"])
def test_sum_of_other_models(model):
    """About the score minus the mean score of the references."""
    sample = zoo.make(model)
    x, references = sample.inputs(3), sample.inputs(4, seed=1)
    found = shap(sample.model, references=references, samples=400, batch_size=400, **sample.params).explain(x)
    tree.assert_same_structure(found.attribution, x)
    for a, v in zip(tree.flatten(found.attribution), tree.flatten(x), strict=True):
        assert a.shape == v.shape and a.dtype == np.float32
    if model != "masked_lstm":  # the references keep the mask of x
        outputs = zoo.create("gradient", sample.model, **sample.params).explain(references).output
        expected = found.extras["score"] - outputs[:, found.target].mean(axis=0)
        np.testing.assert_allclose(total(found.attribution), expected, atol=0.15 * np.abs(outputs).max())


@pytest.mark.traced
def test_draws_don_t_depend_on_batches(smooth):
    model, x, references = smooth
    analyzer = shap(model, references=references, samples=11, noise_scale=0.3)
    expected = analyzer.analyze(x)
    for size in (1, 3, 7, 100):
        close(analyzer.analyze(x, batch_size=size), expected)
    close(analyzer.analyze(x[3:4]), expected[3:4])
    assert [c.traces for c in analyzer._compiled.values()] == [1, 1]
    close(shap(model, references=references, samples=11, noise_scale=0.3).analyze(x), expected, 1e-12)
    assert not np.allclose(shap(model, references=references, samples=11, noise_scale=0.3, seed=1).analyze(x), expected)


def test_batch_size_bounds_the_forward_samples(smooth):
    model, x, references = smooth
    seen = []

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    shap(model, references=references, samples=9, neuron_selection_mode=counted, batch_size=4).analyze(x)
    assert max(seen) == 4


def test_fit_and_selection(smooth):
    model, x, X = smooth
    with pytest.raises(NotFittedError, match="references="):
        shap(model).analyze(x)
    analyzer = shap(model, background=4, samples=8)
    assert analyzer.fit(X) is analyzer
    same = shap(model, references=analyzer.references_[0], samples=8)
    close(analyzer.analyze(x), same.analyze(x))
    maps = [analyzer.analyze(x, c) for c in range(3)]
    close(analyzer.analyze(x, "all"), sum(maps))
    found = analyzer.explain(x)
    close(found.attribution, np.stack(maps, axis=1)[np.arange(5), found.target])


def test_save_and_load(smooth, tmp_path, monkeypatch):
    model, x, X = smooth
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    innv_ext.register_analyzer("user.gradient_shap", GradientShap)
    for analyzer in (shap(model, samples=5, noise_scale=0.1).fit(X), shap(model, samples=5, references=X)):
        analyzer.save(tmp_path / "saved.innv")
        loaded = innv_ext.load_analyzer(tmp_path / "saved.innv")
        assert type(loaded) is GradientShap and repr(loaded) == repr(analyzer)
        np.testing.assert_array_equal(loaded.analyze(x), analyzer.analyze(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"samples": 0}, "samples must be"),
        ({"noise_scale": -1}, "noise_scale must be"),
        ({"noise_scale": np.nan}, "noise_scale must be"),
        ({"background": 1.5}, "background must be"),
        ({"references": np.zeros((3, 5))}, "references .*shape"),
    ],
)
def test_bad_parameters(smooth, params, message):
    with pytest.raises(InvalidInputError, match=message):
        shap(smooth[0], **params)
