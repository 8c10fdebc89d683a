"""``layer=``: attributions of what a layer gives, against tapes on the halves of a model, and sums that must hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers

from innv_ext.analyzers import create_analyzer
from innv_ext.errors import InvalidInputError


def close(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


def net(around=False):
    """A convolution, a dense layer, a curved one; ``around`` adds a path past the dense layer."""
    with zoo.precision("float64"):
        i = keras.Input((5, 5, 2), name="in")
        a = layers.Conv2D(3, 3, activation="relu", name="conv")(i)
        b = layers.Dense(6, activation="tanh", name="dense")(layers.Flatten()(a))
        y = layers.Concatenate()([b, layers.GlobalAveragePooling2D()(a)]) if around else b
        y = layers.Dense(5, activation="tanh", name="curved")(y)
        return zoo.randomise(keras.Model(i, layers.Dense(3, name="scores")(y)))


def halves(model, name):
    """(x -> what the layer gives, and what passes it by), (both -> scores), for the model of ``net``."""
    rest = [layer for layer in model.layers if isinstance(layer, (layers.Concatenate, layers.GlobalAveragePooling2D))]
    last, scores = model.layers[-2:]
    conv, dense = model.get_layer("conv"), model.get_layer("dense")

    def upper(a, beside):
        b = dense(tf.reshape(a, (len(a), -1))) if name == "conv" else a
        source = a if name == "conv" else beside
        return scores(last(tf.concat([b, tf.reduce_mean(source, (1, 2))], 1) if rest else b))

    def lower(x):
        a = conv(x)
        return (a if name == "conv" else dense(tf.reshape(a, (len(a), -1)))), a

    return lower, upper


def slope(upper, a, beside, index):
    with tf.GradientTape() as tape:
        tape.watch(a)
        y = tf.gather(upper(a, beside), index, batch_dims=1)
    return np.asarray(tape.gradient(y, a))


X = np.random.default_rng(0).normal(size=(4, 5, 5, 2))
INDEX = [2, 0, 1, 1]


@pytest.mark.parametrize("name", ["conv", "dense"])
def test_gradients_of_layers(name):
    """df_c/da, its postprocess, a times it, and its mean over noise at the input."""
    model = net(around=True)
    lower, upper = halves(model, name)
    a, beside = lower(tf.constant(X))
    g = slope(upper, a, beside, INDEX)
    close(create_analyzer("gradient", model).analyze(X, INDEX, layer=name), g)
    close(create_analyzer("gradient", model, postprocess="square").analyze(X, INDEX, layer=name), g**2)
    found = create_analyzer("input_t_gradient", model).explain(X, INDEX, layer=name, batch_size=3)
    close(found.attribution, a * g)
    close(found.extras["sum"], np.sum(a * g, axis=tuple(range(1, g.ndim))))
    close(found.output, model(X))
    np.testing.assert_array_equal(found.target, INDEX)
    smooth = create_analyzer("smoothgrad", model, augment_by_n=5, noise_scale=0.5, postprocess="abs", noise="absolute")
    (noise,) = smooth.draws(slice(0, 5), [X.shape[1:]])
    copies = [lower(tf.constant(X + 0.5 * e)) for e in noise]
    expected = np.mean([np.abs(slope(upper, *both, INDEX)) for both in copies], axis=0)
    for size in (32, 4, 1):
        close(smooth.analyze(X, INDEX, layer=name, batch_size=size), expected, 1e-7)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("name", ["conv", "dense"])
def test_integrated_gradients_of_layers(name, around):
    """On the line from a(x0) to a(x), what passes by held at x; sums to what the layer's value changes."""
    model = net(around)
    lower, upper = halves(model, name)
    (a, beside), (a0, _) = lower(tf.constant(X)), lower(tf.constant(np.full_like(X, 0.3)))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = sum(
        w / 2 * slope(upper, a0 + (t + 1) / 2 * (a - a0), beside, INDEX) * np.asarray(a - a0)
        for t, w in zip(nodes, weights, strict=True)
    )
    analyzer = create_analyzer("integrated_gradients", model, steps=40, reference_inputs=0.3)
    at_input = analyzer.analyze(X, INDEX)
    found = analyzer.explain(X, INDEX, layer=name)
    close(found.attribution, expected)
    close(analyzer.analyze(X, INDEX, layer=name, batch_size=3), expected)
    pick = (np.arange(4), INDEX)
    moved = np.asarray(model(X))[pick] - np.asarray(upper(a0, beside))[pick]
    close(found.extras["sum"], moved, 1e-6)
    if not around or name == "conv":  # all paths go through the layer
        close(found.extras["sum"], moved, 1e-6)
        close(moved, np.asarray(model(X))[pick] - np.asarray(model(np.full_like(X, 0.3)))[pick])
    close(analyzer.analyze(X, INDEX), at_input, 1e-12)


def test_gradient_shap_of_layers():
    """With one reference and many draws: integrated gradients of the layer; noise in units of x is refused."""
    model = net()
    line = create_analyzer("integrated_gradients", model, steps=40, reference_inputs=0.3).analyze(X, 1, layer="dense")
    shap = create_analyzer("gradient_shap", model, references=np.full((1, 5, 5, 2), 0.3), samples=400)
    found = shap.analyze(X, 1, layer="dense")
    assert np.abs(found - line).max() < 0.1 * np.abs(line).max()
    two = create_analyzer("gradient_shap", model, references=X[:2], samples=4)
    t, weights, number = two.points()
    lower, upper = halves(model, "dense")
    (a, _), (a0, _) = lower(tf.constant(X)), lower(tf.constant(X[:2]))
    expected = sum(
        w * slope(upper, a0[n] + s * (a - a0[n]), None, [1] * 4) * (a - a0[n])
        for s, w, n in zip(t, weights, number, strict=True)
    )
    close(two.analyze(X, 1, layer="dense"), expected)
    with pytest.raises(InvalidInputError, match=r"noise_scale=0, got 0\.5"):
        create_analyzer("gradient_shap", model, references=X[:2], noise_scale=0.5).analyze(X, layer="dense")


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.alpha_2_beta_1", "deep_lift", "pattern.net", "guided_backprop"])
@zoo.quick
def test_relevance_of_a_layer_is_what_arrives_there(name):
    """The same as ``return_layers``, with its sum in the extras; after another fit, too."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(5)
    analyzer = zoo.create(name, sample.model, x)
    for data in (None, sample.inputs(6, seed=1)):
        analyzer = analyzer if data is None else analyzer.fit(data)
        whole = analyzer.explain(x, return_layers=True).extras["layers"]
        for layer in sample.model.layers[1:4]:
            found = analyzer.explain(x, layer=layer.name)
            close(found.attribution, whole[layer.name])
            close(found.extras["sum"], whole[layer.name].reshape(5, -1).sum(axis=1))
            assert "layers" not in found.extras


def test_references_that_are_learnt_again():
    model = net()
    analyzer = create_analyzer("gradient_shap", model, samples=4, background=2)
    maps = []
    for data in (X, X + 1):
        maps.append(analyzer.fit(data).analyze(X, 1, layer="conv"))
        references = analyzer.references_
        close(maps[-1], create_analyzer("gradient_shap", model, samples=4, references=references[0]).analyze(
            X, 1, layer="conv"))  # fmt: skip
    assert not np.allclose(*maps)


def test_embeddings_masks_and_names_inside_of_models():
    sample = zoo.make("masked_lstm", "float64")
    x = sample.inputs(3)
    embedding = next(layer for layer in sample.model.layers if isinstance(layer, layers.Embedding))
    vectors = np.asarray(embedding(x))
    analyzer = create_analyzer("integrated_gradients", sample.model, steps=8)
    found = analyzer.explain(x, layer=embedding.name)
    assert found.attribution.shape == vectors.shape
    close(found.attribution.sum(axis=-1), analyzer.analyze(x), 1e-7)  # a token takes what its vector has got
    gradient = create_analyzer("gradient", sample.model).analyze(x, found.target, layer=embedding.name)
    smooth = create_analyzer("smoothgrad", sample.model, augment_by_n=2, noise_scale=0)
    close(smooth.analyze(x, found.target, layer=embedding.name), gradient, 1e-6)
    nested = zoo.make("nested")
    x = nested.inputs(2)
    for name in ("gradient", "integrated_gradients"):
        analyzer = zoo.create(name, nested.model)
        full = analyzer.analyze(x, layer="base/base_conv")
        assert full.shape == (2, 6, 6, 3) and full.any()
        np.testing.assert_array_equal(full, analyzer.analyze(x, layer="base_conv"))


def test_several_inputs_have_one_map_of_a_layer():
    """What the other input adds passes the layer by; a dict goes in, an array comes out."""
    sample = zoo.make("dict_inputs", "float64")
    x = sample.inputs(3)
    conv = next(layer for layer in sample.model.layers if isinstance(layer, layers.Conv2D))
    shape = (3, *conv.output.shape[1:])
    gradient = create_analyzer("gradient", sample.model).explain(x, 1, layer=conv.name)
    line = create_analyzer("integrated_gradients", sample.model, steps=3).explain(x, 1, layer=conv.name)
    assert gradient.attribution.shape == line.attribution.shape == shape
    still = {"image": np.zeros_like(x["image"]), "table": x["table"]}
    ends = [create_analyzer("gradient", sample.model).explain(z, 1).score for z in (x, still)]
    close(line.extras["sum"], ends[0] - ends[1], 1e-7)
    none = {key: value[:0] for key, value in x.items()}
    assert create_analyzer("gradient", sample.model).analyze(none, layer=conv.name).shape == (0, *shape[1:])


@pytest.mark.traced
def test_points_of_a_layer_count_as_samples():
    """No forward pass of the part behind it sees more than ``batch_size`` samples; one trace serves all sizes."""
    seen = []

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    for name in ("integrated_gradients", "smoothgrad"):
        zoo.create(name, net(), neuron_selection_mode=counted, batch_size=2).analyze(X, layer="dense")
        assert seen and max(seen) <= 2
        analyzer = zoo.create(name, net())
        for count in (4, 1, 3):
            analyzer.analyze(X[:count], layer="dense")
            analyzer.analyze(X[:count], layer="conv")
        assert {c.traces for c in analyzer._compiled.values()} == {1}


@pytest.mark.parametrize("name", "random occlusion kernel_shap rise deep_shap cafo rc_rde moreau_grad".split())
def test_methods_without_layers_say_which_have_them(name):
    x = X.astype("float32")
    analyzer = zoo.create(name, net(), x)
    with pytest.raises(InvalidInputError, match=r"no attribution of a layer.*integrated_gradients.*LRP"):
        analyzer.analyze(x, layer="dense")


def test_bad_layers():
    for name in ("gradient", "integrated_gradients", "deep_lift"):
        analyzer = create_analyzer(name, net())
        for bad in ("missing", "in", 3, True):
            with pytest.raises(InvalidInputError, match=f"no single layer {bad!r}; known are conv.*dense"):
                analyzer.analyze(X, layer=bad)
        for more in ({"return_layers": True}, {"return_layers": ["conv"]}):
            with pytest.raises(InvalidInputError, match="without return_layers and trace"):
                analyzer.analyze(X, layer="dense", **more)
    with pytest.raises(InvalidInputError, match="without return_layers and trace"):
        create_analyzer("gradient", net()).explain(X, layer="dense", trace=True)
