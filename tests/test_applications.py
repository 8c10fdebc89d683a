"""The networks of keras.applications: traced exactly, and explained finitely by every family of rules.

Random weights would make the signal vanish (logits of 1e-12 in MobileNetV2) and every check below empty. So batch
normalisations get the statistics of a batch, as after training, and networks without them He-sized kernels.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import applications
from keras import layers as L

import innv_ext
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import facts, passes, walk
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.backend.tracing import trace
from innv_ext.errors import UnsupportedModelError

pytestmark = pytest.mark.traced  # eager execution rounds differently, and a hundred layers amplify that
SIZES = {
    "VGG16": 32, "ResNet50": 32, "ResNet50V2": 32, "MobileNetV2": 32, "EfficientNetB0": 32, "DenseNet121": 32,
    "Xception": 71, "InceptionV3": 75, "NASNetMobile": 32, "ConvNeXtTiny": 32,
}
ANALYZERS = ("gradient", "guided_backprop", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.sequential_preset_a")
NOT_DEFINED = {("EfficientNetB0", "guided_backprop"): "silu", ("ConvNeXtTiny", "guided_backprop"): "gelu"}
FAST = {
    "VGG16": ("guided_backprop",),
}
CLASSES = 10


def pictures(name, count):
    """In the range that the network expects: these two rescale 0..255 themselves."""
    size = SIZES[name]
    low, high = (0, 255) if name in ("EfficientNetB0", "ConvNeXtTiny") else (-1, 1)
    return np.random.default_rng(0).uniform(low, high, (count, size, size, 3)).astype("float32")


def calibrate(model, x):
    """Statistics of a batch into every BatchNormalization; He-sized kernels where there is none."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, L.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    rng = np.random.default_rng(1)
    for v in model.variables:
        if v.path.endswith("kernel") and not norms:
            v.assign(v * np.sqrt(2.0))
        if v.path.endswith(("beta", "bias")):
            v.assign(0.1 * rng.normal(size=v.shape))
    return model


@pytest.fixture(scope="module")
def networks():
    """Each network once, with its twin that ends at the logits."""
    made = {}

    def get(name, dtype="float32"):
        if (name, dtype) not in made:
            made.clear()  # one at a time: memory
            keras.utils.set_random_seed(0)
            options = {"weights": None, "classes": CLASSES, "input_shape": (SIZES[name], SIZES[name], 3)}
            with zoo.precision(dtype):
                model = calibrate(getattr(applications, name)(**options), pictures(name, 8))
                twin = getattr(applications, name)(**options, classifier_activation=None)
            twin.set_weights(model.get_weights())
            made[name, dtype] = model, twin
        return made[name, dtype]

    return get


@tf.function  # compiled as the analyzers are
def logit_gradient(twin, x, target):
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.gather(twin(x, training=False), target[:, None], batch_dims=1)
    return tape.gradient(score, x)


def networks_of(fast):
    """The names as parameters; those not in ``fast`` are slow."""
    return [pytest.param(n, marks=() if n in fast else pytest.mark.slow, id=n) for n in SIZES]


def cases():
    for name in SIZES:
        for analyzer in ANALYZERS:
            fast = analyzer in FAST.get(name, ())
            yield pytest.param(name, analyzer, marks=() if fast else pytest.mark.slow, id=f"{name}-{analyzer}")


@pytest.mark.parametrize("name", networks_of(FAST))
def test_the_traced_network_is_the_network(name, networks):
    model, _ = networks(name)
    x = tf.constant(pictures(name, 2))
    before = {id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()}
    graph = trace(model, facts.is_leaf)
    expected = np.asarray(model(x, training=False))
    assert np.ptp(expected, axis=1).min() > 1e-3  # the pictures reach the output
    np.testing.assert_array_equal(np.asarray(walk.evaluate(graph, [x])[0]), expected)
    assert not [n.name for n in graph.nodes if n.note]  # nothing had to stay closed
    after = {id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()}
    assert before == after


@pytest.mark.parametrize("name", networks_of([]))
def test_moments_pass_through_networks(name, networks):
    """Every node has a moment rule. Without noise the mean is the logits; tiny directions follow the gradient.

    In float64: in float32 the folded and the plain network see ReLUs close to 0 on different sides.
    """
    model, twin = networks(name, "float64")
    graph, _ = cut_softmax(passes.canonical(trace(model, facts.is_leaf), passes.Form("fold")))
    rules = moments.bind(graph, MOMENT_RULES)
    x = pictures(name, 2).astype("float64")
    logits = np.asarray(twin(x, training=False))
    unit = np.ptp(x) / 2  # of pictures in -1..1 or 0..255
    direction = np.random.default_rng(2).normal(size=(2, 1, *x.shape[1:])) * unit
    scale = 1e-12

    def filtered(mean, var, factor):
        y = moments.propagate(graph, rules, [Moments.of_input(mean, var, factor)])
        return y.mean, y.var, y.factors[-1]

    run = tf.function(filtered, autograph=False)
    mean, var, factor = (np.asarray(t) for t in run(tf.constant(x), tf.zeros_like(x), tf.constant(scale * direction)))
    np.testing.assert_allclose(mean, logits, rtol=1e-6, atol=1e-6 * np.abs(logits).max())
    top = logits.argmax(axis=1)
    gradient = np.asarray(logit_gradient(twin, tf.constant(x), tf.constant(top)))
    expected = (gradient * direction[:, 0]).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(factor[[0, 1], 0, top] / scale, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    noise = tf.fill(x.shape, 0.01 * unit**2)
    mean, var, factor = (np.asarray(t) for t in run(tf.constant(x), noise, tf.constant(0 * direction)))
    assert np.isfinite(mean).all() and np.isfinite(var).all() and (var > 0).all() and not factor.any()


@pytest.mark.parametrize(("name", "analyzer"), list(cases()))
def test_networks_are_explained(name, analyzer, networks):
    model, twin = networks(name)
    if (name, analyzer) in NOT_DEFINED:
        with pytest.raises(UnsupportedModelError, match=NOT_DEFINED[name, analyzer]):
            innv_ext.create_analyzer(analyzer, model)
        return
    x = pictures(name, 2)
    found = innv_ext.create_analyzer(analyzer, model).explain(x)
    logits = np.asarray(twin(x, training=False))
    np.testing.assert_array_equal(found.target, logits.argmax(axis=1))
    # folding batch normalisation re-orders float32 sums of a hundred layers
    np.testing.assert_allclose(found.output, logits, rtol=2e-3, atol=2e-3 * np.abs(logits).max())
    attribution = found.attribution
    assert attribution.shape == x.shape and attribution.dtype == np.float32 and np.isfinite(attribution).all()
    assert (np.abs(attribution).reshape(2, -1).max(axis=1) > 0).all()
    if analyzer == "gradient":
        expected = np.asarray(logit_gradient(twin, tf.constant(x), found.target))
        np.testing.assert_allclose(attribution, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    if analyzer == "lrp.alpha_1_beta_0" and (found.extras["score"] > 0).all() and name == "VGG16":
        assert attribution.min() >= 0  # positive contributions only, none of them through a product
