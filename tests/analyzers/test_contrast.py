"""("contrast", a, b): the score of one neuron minus that of another, in every method that takes a score."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers as L

import innv_ext
from innv_ext import evaluation
from innv_ext.errors import InvalidInputError

X = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
SCORED = "gradient smoothgrad integrated_gradients gradient_shap occlusion kernel_shap lime deep_lift deep_shap".split()
LINEAR = ["gradient", "lrp.epsilon", "lrp.attnlrp", "integrated_gradients", "occlusion", "kernel_shap", "deep_lift"]


def model(seed=0):
    keras.utils.set_random_seed(seed)
    return zoo.build(lambda i: L.Dense(4, activation="softmax")(L.Dense(6, activation="tanh")(i)), (5,))


@pytest.fixture(scope="module")
def net():
    return model()


def made(name, net, **params):
    analyzer = innv_ext.create_analyzer(name, net, **params)
    return analyzer.fit(X) if analyzer.needs_fit and not analyzer.is_fitted() else analyzer


@pytest.mark.parametrize("name", LINEAR)
def test_the_map_of_a_contrast_is_a_difference_where_maps_are_linear_in_the_score(name, net):
    analyzer = made(name, net)
    found = analyzer.explain(X, ("contrast", 2, 0))
    np.testing.assert_allclose(found.attribution, analyzer.analyze(X, 2) - analyzer.analyze(X, 0), atol=1e-5)
    np.testing.assert_allclose(found.score, analyzer.explain(X, 2).score - analyzer.explain(X, 0).score, atol=1e-5)
    assert found.target.tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", [*SCORED, "rise", "moreau_grad", "rc_rde", "grad_cam", "guided_backprop"])
def test_a_contrast_is_the_neuron_of_a_model_that_subtracts(name, net):
    """Also where maps are not linear in the score; the last layer computes in single precision."""
    images = name in ("rise", "grad_cam")
    if images or name == "guided_backprop":
        build = lambda i: L.Dense(3)(L.Flatten()(L.Conv2D(2, 3, activation="relu")(i)))
        whole, x = zoo.build(build, (6, 6, 1)), np.random.default_rng(1).normal(size=(2, 6, 6, 1)).astype("float32")
    else:
        whole, x = zoo.build(lambda i: L.Dense(4)(L.Dense(6, activation="tanh")(i)), (5,)), X
    head = L.Dense(1)
    minus = keras.Model(whole.inputs, head(whole.output))
    weights = np.zeros((whole.output_shape[-1], 1))
    weights[1], weights[2] = 1, -1
    head.set_weights([weights, np.zeros(1)])
    params = {"rc_rde": {"reference": "uniform", "rate": 2}, "moreau_grad": {"rho": 0.1}}.get(name, {})
    pair = []
    for net, selection in ((whole, ("contrast", 1, 2)), (minus, 0)):
        analyzer = innv_ext.create_analyzer(name, net, **params)
        if analyzer.needs_fit and not analyzer.is_fitted():
            analyzer.fit(x)
        pair.append(analyzer.explain(x, selection))
    np.testing.assert_allclose(pair[0].score, pair[1].score, atol=1e-5)
    np.testing.assert_allclose(pair[0].attribution, pair[1].attribution, atol=2e-4)


def test_one_for_each_sample_names_and_places(net):
    gradient = innv_ext.create_analyzer("gradient", net, class_names=["a", "b", "c", "d"])
    found = gradient.analyze(X, ("contrast", [0, 1, 2], [3, 2, 1]))
    pairs = enumerate([(0, 3), (1, 2), (2, 1)])
    single = [gradient.analyze(X[i : i + 1], ("contrast", a, b))[0] for i, (a, b) in pairs]
    np.testing.assert_allclose(found, single, atol=1e-6)
    np.testing.assert_allclose(gradient.analyze(X, ("contrast", "b", "d")), gradient.analyze(X, ("contrast", 1, 3)))
    assert [f.traces for f in gradient._compiled.values()] == [1]
    deep = zoo.build(lambda i: L.Dense(3)(L.Reshape((2, 3))(L.Dense(6)(i))), (5,))
    gradient = innv_ext.create_analyzer("gradient", deep)
    expected = gradient.analyze(X, (1, 2)) - gradient.analyze(X, (0, 1))
    np.testing.assert_allclose(gradient.analyze(X, ("contrast", (1, 2), (0, 1))), expected, atol=1e-6)


def test_many_neurons():
    """The number of a pair of a hundred thousand neurons needs more than 32 bits."""
    net = zoo.build(L.Dense(100_000, use_bias=False), (2,))
    found = innv_ext.create_analyzer("gradient", net).analyze(X[:1, :2], ("contrast", 99_999, 70_000))
    kernel = np.asarray(net.layers[-1].kernel)
    np.testing.assert_allclose(found[0], kernel[:, 99_999] - kernel[:, 70_000], rtol=1e-6)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (("contrast", 1), r"\('contrast', a, b\) is the score"),
        (("contrast", 1, 1), "of a neuron with itself"),
        (("contrast", 1, "all"), "needs two neurons"),
        (("contrast", 1, 4), "neuron_selection 4 .* out of range"),
    ],
)
def test_bad_contrasts(selection, message, net):
    with pytest.raises(InvalidInputError, match=message):
        innv_ext.create_analyzer("gradient", net).analyze(X, selection)


def test_methods_and_tests_that_need_one_neuron_say_so(net):
    with pytest.raises(InvalidInputError, match="has no cross-entropy"):
        innv_ext.create_analyzer("cafo", net).analyze(X, ("contrast", 1, 2))
    with pytest.raises(InvalidInputError, match="no single neuron"):
        evaluation.relevance_ordering(net, X, X, neuron_selection=("contrast", 1, 2))
