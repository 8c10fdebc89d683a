"""What is refused, with which words; and that an analyzer works as before after each refusal.

A message names the argument, what was received, and the way out.
"""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers

import innv_ext
from innv_ext import arguments
from innv_ext.analyzers import LRP, IntegratedGradients, ReverseAnalyzer
from innv_ext.analyzers.lrp.rules import Epsilon
from innv_ext.backend import tracing
from innv_ext.backend.predicates import named
from innv_ext.backend.rules import Rules
from innv_ext.errors import (
    ApproximationWarning,
    InnvError,
    InvalidInputError,
    NonFiniteWarning,
    NoRuleError,
    UnsupportedModelError,
)

create = innv_ext.create_analyzer
FEW = ["gradient", "smoothgrad", "lrp.epsilon", "random"]


@pytest.fixture(scope="module", params=FEW)
def ready(request):
    """(analyzer, x, its map) on the multi-layer perceptron: 6 features, 3 classes."""
    sample = zoo.make("mlp")
    x = sample.inputs(4)
    analyzer = zoo.create(request.param, sample.model)
    return analyzer, x, analyzer.analyze(x)


def refused(message, call, *args, error=InvalidInputError, **kwargs):
    """The call raises, and the message has all the words."""
    words = [message] if isinstance(message, str) else message
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is missing in: {caught.value}"


def with_value(x, value):
    y = np.array(x)
    y[2, 3] = value
    return y


BAD_X = {
    "nan": (lambda x: with_value(x, np.nan), ["NaN or infinite", "1 samples", "first: 2", "check_input=False"]),
    "inf": (lambda x: with_value(x, -np.inf), ["NaN or infinite", "first: 2"]),
    "one sample without batch axis": (lambda x: x[0], [r"\(6,\)", r"\(batch, 6\)", r"x\[None\]"]),
    "rank": (lambda x: x[:, :, None], [r"\(4, 6, 1\)", r"\(batch, 6\)"]),
    "features": (lambda x: x[:, :5], [r"\(4, 5\)", r"\(batch, 6\)"]),
    "strings": (lambda x: x.astype(str), ["dtype", "numbers"]),
    "objects": (lambda x: x.astype(object), ["dtype object", "numbers"]),
    "dates": (lambda x: x.astype("int64").astype("datetime64[s]"), ["dtype", "numbers"]),
    "complex": (lambda x: x.astype("complex64"), ["complex64", "numbers"]),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], ["array"]),
    "none": (lambda x: None, ["dtype|None"]),
    "wrong keys": (lambda x: {"other": x}, ["other", "keys"]),
    "two arrays": (lambda x: [x, x], [r"\(2, 4, 6\)|1 input"]),
}


@pytest.mark.parametrize("bad", BAD_X)
def test_bad_arrays(ready, bad):
    analyzer, x, expected = ready
    make, words = BAD_X[bad]
    refused(words, analyzer.analyze, make(x))
    refused(words, analyzer.explain, make(x))
    np.testing.assert_array_equal(analyzer.analyze(x), expected)


BAD_SELECTION = {
    "too large": (3, ["3", "out of range", "3 neurons", r"0\.\.2"]),
    "too large for one sample": ([0, 1, 2, 7], ["7", "sample 3", "out of range"]),
    "negative": (-1, ["-1", "out of range"]),
    "too short": ([0, 1], [r"\(2,\)", "4 samples"]),
    "too long": ([0, 1, 2, 0, 1], [r"\(5,\)", "4 samples"]),
    "float": (1.0, ["integers", "float64"]),
    "floats": ([0.0, 1.0, 2.0, 0.0], ["integers"]),
    "boolean": (True, ["integers", "bool"]),
    "word": ("best", ["best", "max_activation"]),
    "matrix": (np.zeros((4, 3), int), [r"\(4, 3\)", r"\(4,\)"]),
    "none among them": ([0, None, 1, 2], ["integers"]),
}


@pytest.mark.parametrize("bad", BAD_SELECTION)
def test_bad_neuron_selection(ready, bad):
    analyzer, x, expected = ready
    value, words = BAD_SELECTION[bad]
    refused(words, analyzer.analyze, x, value)
    np.testing.assert_array_equal(analyzer.analyze(x), expected)


def test_index_mode_needs_an_index():
    sample = zoo.make("mlp")
    x = sample.inputs(2)
    analyzer = create("gradient", sample.model, neuron_selection_mode="index")
    refused(["index", "neuron_selection"], analyzer.analyze, x)
    np.testing.assert_array_equal(analyzer.analyze(x, 1), create("gradient", sample.model).analyze(x, 1))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "all"])
def test_bad_batch_size(ready, size):
    analyzer, x, expected = ready
    refused(["batch_size", "at least 1", re.escape(repr(size))], analyzer.analyze, x, batch_size=size)
    refused("batch_size", zoo.create, "gradient", zoo.make("mlp").model, batch_size=size)
    np.testing.assert_array_equal(analyzer.analyze(x), expected)


def test_unknown_layers(ready):
    analyzer, x, expected = ready
    words = ["no_such_layer", "known are"] if analyzer.layer_names() else ["no relevance per layer"]
    refused(words, analyzer.analyze, x, return_layers=["no_such_layer"])
    np.testing.assert_array_equal(analyzer.analyze(x), expected)


def test_trace_needs_a_backward_walk():
    sample = zoo.make("mlp")
    for name in ("smoothgrad", "integrated_gradients", "input", "random"):
        refused(["trace=True", "backward walk"], zoo.create(name, sample.model).explain, sample.inputs(1), trace=True)


# --- what is not refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.by_rule(zoo.NAMES))
@zoo.quick
def test_an_empty_batch_of_a_table(name):
    _an_empty_batch("mlp", name)


@pytest.mark.parametrize("name", FEW)
@zoo.quick
def test_an_empty_batch_of_two_inputs(name):
    _an_empty_batch("two_inputs", name)


def _an_empty_batch(model, name):
    sample = zoo.make(model if zoo.applies(name, zoo.make(model)) else "convnet")
    x = keras.tree.map_structure(lambda a: a[:0], sample.inputs(2))
    analyzer = zoo.create(name, sample.model, sample.inputs(4))
    found = analyzer.explain(x)
    for a, v in zip(keras.tree.flatten(found.attribution), keras.tree.flatten(x), strict=True):
        assert a.shape == v.shape and a.dtype == np.float32
    assert found.output.shape == (0, 3) and found.target.shape == (0,)
    arrays = {k: v for k, v in found.extras.items() if isinstance(v, np.ndarray)}
    assert arrays and all(len(v) == 0 for v in arrays.values())
    if model == "mlp":
        assert analyzer.analyze(x, np.zeros(0, int)).shape == x.shape


def test_unchecked_input_is_explained_all_the_same():
    """``check_input=False``: the sample with the NaN is marked, the others are as without it."""
    sample = zoo.make("mlp")
    x = sample.inputs(4)
    for name in ("input_t_gradient", "lrp.epsilon"):
        analyzer = create(name, sample.model, check_input=False)
        with pytest.warns(NonFiniteWarning, match=r"score of 1 of 4 samples \(2\)"):
            found = analyzer.explain(with_value(x, np.nan), 1)
        np.testing.assert_array_equal(found.extras["finite"], [True, True, False, True])
        expected = create(name, sample.model).analyze(x, 1)
        others = [0, 1, 3]
        np.testing.assert_allclose(found.attribution[others], expected[others], rtol=1e-6, atol=1e-7)


# --- building an analyzer ----------------------------------------------------------------------------------------


def test_unknown_names():
    net = zoo.make("mlp").model
    refused(["'gradeint'", "Did you mean", "'gradient'", "list_analyzers"], create, "gradeint", net)
    refused(["lrp.epsilon_plsu", "'lrp.epsilon_plus'"], create, "lrp.epsilon_plsu", net)
    refused(["qqqq", "list_analyzers"], create, "qqqq", net)
    refused(["None", "list_analyzers"], create, None, net)


def test_unknown_and_missing_parameters():
    net = zoo.make("mlp").model
    refused(["lrp.epsilon", "epsilom", "Did you mean 'epsilon'"], create, "lrp.epsilon", net, epsilom=1)
    refused(["smoothgrad", "steps", "augment_by_n"], create, "smoothgrad", net, steps=3)
    refused(["'gradient'", "epsilon"], create, "gradient", net, epsilon=0.1)
    refused(["deep_taylor.bounded", "low, high"], create, "deep_taylor.bounded", net)
    refused(["deep_taylor.bounded", "high"], create, "deep_taylor.bounded", net, low=0)
    for name in ("deep_taylor.bounded", "lrp.epsilon_gamma_box"):
        for low, words in (
            ("a", ["low", "'a'"]),
            (float("nan"), ["low", "finite", "nan"]),
            (2, ["low", "exceed", "2"]),
            ([0, 0], ["low", r"\(2,\)", "one sample"]),
        ):
            refused(words, create, name, net, low=low, high=1)
    refused(["until_layer"], create, "lrp.sequential_preset_b_flat_until_idx", net)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("gradient", {"postprocess": "cube"}, ["postprocess", "'abs'", "'cube'"]),
        ("gradient", {"neuron_selection_mode": "min"}, ["neuron_selection_mode", "'min'", "max_activation"]),
        ("gradient", {"on": "softmax"}, ["on", "'softmax'", "logits"]),
        ("gradient", {"unsupported": "ignore"}, ["unsupported", "'ignore'", "'gradient'"]),
        ("smoothgrad", {"augment_by_n": 0}, ["augment_by_n", "at least 1", "0"]),
        ("smoothgrad", {"noise_scale": -1.0}, ["noise_scale", "at least 0", "-1"]),
        ("smoothgrad", {"noise_scale": float("nan")}, ["noise_scale", "nan"]),
        ("smoothgrad", {"noise": "pink"}, ["noise", "'pink'", "'relative'"]),
        ("integrated_gradients", {"steps": 2.0}, ["steps", "integer", "2.0"]),
        ("integrated_gradients", {"method": "simpson"}, ["method", "'simpson'", "'gausslegendre'"]),
        ("lrp", {"rule": "delta"}, ["rule", "'delta'", "epsilon"]),
        ("lrp", {"rule": 3}, ["rule", "3"]),
        ("lrp", {"rules": [("conv", Epsilon())]}, ["rules", "Rules", r"\[\('conv'"]),
        ("lrp", {"input_layer_rule": "square"}, ["input_layer_rule", "'square'", "w_square"]),
        ("lrp", {"batchnorm": "merge"}, ["batchnorm", "'merge'", "'fold'"]),
        ("lrp", {"gate": "both"}, ["gate", "'both'", "signal"]),
        ("lrp", {"until_layer": 99}, ["until_layer=99", "out of range"]),
        ("lrp", {"until_layer": "no_such"}, ["until_layer='no_such'", "it has"]),
        ("lrp.alpha_beta", {"alpha": 2.0, "beta": 2.0}, ["alpha - beta = 1", "alpha=2.0", "beta=2.0"]),
        ("lrp.epsilon", {"epsilon": "abc"}, ["epsilon", "at least 0", "'abc'"]),
        ("lrp.epsilon_plus", {"epsilon": -1}, ["epsilon", "at least 0", "-1"]),
        ("lrp.gamma", {"bias": 1}, ["bias", "True, False", "1"]),
        ("lrp.alpha_beta", {"alpha": 0.5, "beta": -0.5}, ["beta", "at least 0", "-0.5"]),
        ("deep_taylor", {"low": 0.0}, ["low and high"]),
        ("deep_taylor.bounded", {"low": 1.0, "high": 0.0}, ["low", "exceed", "high"]),
    ],
)
def test_bad_parameters(name, params, words):
    refused(words, create, name, zoo.make("mlp").model, **params)


FREE = {  # read together with the model or the data, or of many kinds: they have checks of their own
    *"output patterns references reference_inputs rule input_layer_rule until_layer_rule low high".split(),
    *"mean variance features rate rates weights groups segments reference patch stride inner outer grid".split(),
}
CLASSES = sorted({row.cls for row in innv_ext.list_analyzers() if row.family != "user"}, key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_parameter_says_what_it_may_be(cls, monkeypatch):
    """Defaults fit; anything else is refused by name before the model is looked at."""
    monkeypatch.setattr(tracing, "trace", lambda *args: pytest.fail("traced"))
    net = zoo.make("mlp").model
    for f in dataclasses.fields(cls):
        if not f.init or f.name == "model":
            continue
        spec = f.metadata.get("spec")
        assert spec is not None or f.name in FREE, f.name
        if spec is not None:
            assert spec(f.name, f.default) is f.default
            refused([f"^{f.name} must be ", "got <object object"], cls, net, **{f.name: object()})


@pytest.mark.parametrize(
    ("field", "good", "bad", "expected"),
    [
        (arguments.count(3), [1, np.int64(5), 10**400], [0, -1, 1.0, True, None, "3", np.array(3)], "an integer of at"),
        (arguments.count(None), [None, 1], [0, "None"], "an integer of at least 1 or None, got"),
        (arguments.count(0, least=0), [0, 4], [-1, False], "an integer of at least 0, got"),
        (arguments.at_least(0, 0.5), [0, 0.0, np.float32(2)], [-1e-9, np.nan, np.inf, 1j, True], "a number of at le"),
        (arguments.at_least(0, "auto"), ["auto", 0], ["Auto", None], "a number of at least 0 or 'auto', got"),
        (arguments.positive(None), [None, 1e-300], [0, 0.0, -1, np.inf, "1"], "a positive number or None, got"),
        (arguments.flag(True), [True, False, np.True_], [0, 1, "yes", None], "one of True, False, got"),
        (arguments.one_of(None, "abs"), [None, "abs", np.str_("abs")], ["None", 0, ["abs"]], "one of None, 'abs', got"),
        (arguments.one_of("a", "b", function=True), ["b", len], ["c", 1], "one of 'a', 'b' or a function, got"),
        (arguments.optional(int, str), [None, 1, "a"], [True, 1.5], "of type int or str or None, got"),
    ],
)
def test_specs(field, good, bad, expected):
    spec = field.metadata["spec"]
    for value in good:
        assert spec("name", value) is value
    for value in bad:
        refused(["^name must be " + re.escape(expected), re.escape(repr(value))], spec, "name", value)


def test_a_misspelt_choice_gets_suggestions():
    refused("Did you mean 'relative'", create, "smoothgrad", zoo.make("mlp").model, noise="relativ")


def test_reference_of_the_wrong_shape():
    sample = zoo.make("mlp")
    x = sample.inputs(2)
    analyzer = IntegratedGradients(sample.model, reference_inputs=np.zeros(5))
    refused(["reference_inputs", r"\(5,\)", r"\(6,\)"], analyzer.analyze, x)
    two = zoo.make("two_inputs")
    refused("2 inputs", create("integrated_gradients", two.model, reference_inputs=[0]).analyze, two.inputs(2))


def test_target_function_of_the_wrong_shape():
    sample = zoo.make("mlp")
    analyzer = create("gradient", sample.model, neuron_selection_mode=lambda y: y)
    refused(["one score per sample", "batch"], analyzer.analyze, sample.inputs(2), error=InnvError)


# --- models ------------------------------------------------------------------------------------------------------


def test_not_a_model():
    refused(["keras.Model", "function"], create, "gradient", lambda x: x)
    refused(["keras.Model", "Dense"], create, "gradient", layers.Dense(3))
    refused(["keras.Model", "str"], create, "gradient", "model.keras")


class Plain(keras.Model):
    """A subclassed model, not built."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("net", [lambda: keras.Sequential([layers.Dense(3)]), Plain], ids=["sequential", "subclassed"])
@pytest.mark.filterwarnings("ignore:`build..` was called on layer")
def test_not_built(net):
    """The message says how to build it; each of the ways works."""
    words = ["not built", "Call it once|Call it", r"build\(", "keras.Input"]
    refused(words, create, "gradient", net(), error=UnsupportedModelError)
    called = net()
    called(np.zeros((1, 4), "float32"))
    assert create("gradient", called).analyze(np.ones((2, 4))).shape == (2, 4)
    built = net()
    built.build((None, 4))
    assert create("gradient", built).analyze(np.ones((2, 4))).shape == (2, 4)


@pytest.mark.parametrize(
    ("shape", "given", "hint"),
    [
        ((8, 8, 1), (8, 8, 1), r"batch axis: x\[None\]"), ((8, 8, 1), (3, 8, 8), r"channel: x\[\.\.\., None\]"),
        ((1, 8, 8), (3, 8, 8), r"channel: x\[:, None\]"),
        ((None, None, 1), (3, 8, 8), r"channel: x\[\.\.\., None\]"),
        ((8, 8, 3), (3, 8, 8), r"\(batch, 8, 8, 3\)\.$"), ((8, 1), (8, 1, 1), r"\(batch, 8, 1\)\.$"),
    ],
)
def test_the_axis_that_is_missing(shape, given, hint):
    """The hint is the one that helps, if any does."""
    inputs = keras.Input(shape)
    net = keras.Model(inputs, layers.Dense(2)(keras.ops.mean(inputs, axis=(1, 2) if len(shape) > 2 else 1)))
    refused(hint, create("gradient", net).analyze, np.zeros(given))


class Heads(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Dense(3), layers.Dense(2)

    def call(self, x):
        return {"logits": self.one(x), "aux": self.two(x)}


def dicts_of_outputs():
    x = keras.Input((6,))
    heads = Heads()
    heads(np.zeros((1, 6), "float32"))
    crossed = {key: layers.Dense(2, name=name)(x) for key, name in ("ab", "ba")}
    return {
        "layers are called like the other key": keras.Model(x, crossed),
        "not in order": keras.Model(x, {"z": layers.Dense(2, name="n1")(x), "y": layers.Dense(3, name="n2")(x)}),
        "subclassed": heads,
    }


@pytest.mark.parametrize("kind", ["layers are called like the other key", "not in order", "subclassed"])
def test_an_output_is_called_as_predict_calls_it(kind):
    """A key of the dict; a position counts the sorted keys, and names of layers that are no keys still do."""
    net = dicts_of_outputs()[kind]
    x = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    predicted = net.predict(x, verbose=0)
    for position, key in enumerate(sorted(predicted)):
        for output in (key, position):
            found = create("gradient", net, output=output).explain(x).output
            np.testing.assert_allclose(found, predicted[key], rtol=1e-5, atol=1e-6)
    refused([r"output='c'", *map(repr, predicted)], create, "gradient", net, output="c")
    if kind == "not in order":
        found = create("gradient", net, output="n1").explain(x).output
        np.testing.assert_allclose(found, predicted["z"], rtol=1e-5, atol=1e-6)


class Eager(keras.Model):
    """A ``call`` that leaves Keras, so that it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return tf.sort(self.dense(x))


def test_a_call_that_cannot_be_traced_has_gradients_but_no_rules():
    net, x = Eager(), np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    net(x)
    with tf.GradientTape() as tape:
        tape.watch(at := tf.constant(x))
        score = net(at)[:, 1]
    np.testing.assert_allclose(create("gradient", net).analyze(x, 1), tape.gradient(score, at), rtol=1e-5)
    words = [re.escape(net.name), "Eager", "KerasTensor"]
    refused(words, create, "lrp.epsilon", net, error=UnsupportedModelError)


def test_several_outputs():
    net = zoo.make("two_outputs").model
    refused(["2 outputs", "output=", "first", "second"], create, "gradient", net)
    refused(["'third'", "first", "second"], create, "gradient", net, output="third")
    refused(["output=2", "2 outputs"], create, "gradient", net, output=2)
    refused(["output=-3", "2 outputs"], create, "gradient", net, output=-3)
    refused("output", create, "gradient", zoo.make("mlp").model, output=1)


def test_several_inputs():
    sample = zoo.make("two_inputs")
    image, table = sample.inputs(3)
    analyzer = create("gradient", sample.model)
    expected = analyzer.analyze([image, table])
    refused(["2 inputs", "image", "table", "1 arrays"], analyzer.analyze, [image])
    refused(["2 inputs", "ndarray"], analyzer.analyze, image)
    refused(["keys", "picture", "image", "table"], analyzer.analyze, {"picture": image, "table": table})
    refused(["keys", "image", "table"], analyzer.analyze, {"image": image})
    refused(["different numbers of samples", r"\[3, 2\]"], analyzer.analyze, [image, table[:2]])
    refused(["table", r"\(3, 5\)", r"\(batch, 4\)"], analyzer.analyze, [image, np.zeros((3, 5))])
    refused(["'image'", r"\(3, 4\)"], analyzer.analyze, [table, image])  # swapped
    for a, e in zip(analyzer.analyze([image, table]), expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_tokens_must_be_whole_numbers():
    sample = zoo.make("tokens")
    x = sample.inputs(2)
    analyzer = create("gradient", sample.model)
    expected = analyzer.analyze(x)
    refused(["whole numbers", "fractions"], analyzer.analyze, x + 0.5)
    np.testing.assert_array_equal(analyzer.analyze(x.astype("float64")), expected)


def test_methods_that_are_not_defined_for_the_model():
    """The message names the non-linearity and an alternative."""
    net = zoo.make("mlp_tanh").model
    for name in ("guided_backprop", "deconvnet"):
        refused(["tanh", "gradient"], create, name, net, error=UnsupportedModelError)
    refused(["tanh", "ReLU", "lrp"], create, "deep_taylor", net, error=UnsupportedModelError)
    softmax = zoo.make("mlp").model
    refused(["softmax", "on='logits'"], create, "deep_taylor", softmax, on="output", error=UnsupportedModelError)


# --- layers without a rule ---------------------------------------------------------------------------------------


class Sorted(layers.Layer):
    """A layer that leaves Keras: nothing is known about it but its gradient."""

    def call(self, x):
        return tf.sort(x, axis=-1)


def _two_foreign_layers(use_bias=True):
    i = keras.Input((6,))
    y = Sorted(name="first_sort")(layers.Dense(5, activation="relu", use_bias=use_bias)(i))
    dense = layers.Dense(4, use_bias=use_bias)
    inner = keras.Sequential([keras.Input((5,)), dense, Sorted(name="second_sort")], name="inner")
    return keras.Model(i, layers.Dense(2, use_bias=use_bias)(inner(y)))


@pytest.fixture(scope="module")
def foreign():
    keras.utils.set_random_seed(1)
    return _two_foreign_layers()


def test_all_offending_layers_are_listed(foreign):
    """Name, class and position of each, why it could not be opened, and the ways out."""
    words = [
        "first_sort",
        "second_sort",
        "inner/second_sort",
        "Sorted",
        r"model.layers\[2\]",
        r"model.layers\[3\]",
        "KerasTensor",
        "rules=",
        "unsupported='gradient'",
        "named",
    ]
    for name in ("lrp.epsilon", "deep_taylor"):
        refused(words, create, name, foreign, error=NoRuleError)
    refused(words[:4], LRP, foreign, error=UnsupportedModelError)


def test_way_out_by_a_rule(foreign):
    """A rule for one of them: the other one is still refused; rules for both work."""

    def keep(node, xs, ys, rs):
        return node.pullback(*rs)

    with pytest.raises(NoRuleError) as caught:
        create("lrp.epsilon", foreign, rules=Rules((named("first_sort"), keep)))
    assert "second_sort" in str(caught.value) and "first_sort" not in str(caught.value)
    analyzer = create("lrp.epsilon", foreign, rules=Rules((named("first_sort", "second_sort"), keep)))
    assert np.isfinite(analyzer.analyze(np.ones((2, 6)))).all()


def test_way_out_by_the_gradient(foreign):
    """Warned once, marked in the result, and the same as a rule that back-propagates."""
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6)).astype("float32")
    with pytest.warns(ApproximationWarning, match="first_sort.*second_sort") as caught:
        analyzer = create("lrp.epsilon", foreign, unsupported="gradient")
    assert len(caught) == 1
    found = analyzer.explain(x)
    assert set(found.extras["approximated"]) == {"first_sort", "inner/second_sort"}
    rules = Rules((named("first_sort", "second_sort"), lambda node, xs, ys, rs: node.pullback(*rs)))
    np.testing.assert_array_equal(found.attribution, create("lrp.epsilon", foreign, rules=rules).analyze(x))


@pytest.mark.filterwarnings("ignore::innv_ext.errors.ApproximationWarning")
def test_the_gradient_through_a_layer_that_moves_values_conserves():
    with zoo.precision("float64"):
        free = zoo.randomise(_two_foreign_layers(use_bias=False), 2)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6))
    found = create("lrp.z", free, unsupported="gradient").explain(x)
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-9)


def test_nothing_to_approximate(recwarn):
    sample = zoo.make("convnet")
    found = create("lrp.epsilon", sample.model, unsupported="gradient").explain(sample.inputs(2))
    assert found.extras["approximated"] == ()
    assert not [w for w in recwarn if issubclass(w.category, ApproximationWarning)]


def test_gradient_methods_take_any_differentiable_layer(foreign):
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6)).astype("float32")
    with tf.GradientTape() as tape:
        t = tf.constant(x)
        tape.watch(t)
        top = tf.reduce_max(foreign(t), axis=1)
    np.testing.assert_allclose(create("gradient", foreign).analyze(x), tape.gradient(top, t), rtol=1e-5, atol=1e-7)


class Random(layers.Layer):
    """Random in inference too, so that no second forward pass can agree with the first."""

    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def test_a_model_that_cannot_be_reproduced():
    net = keras.Sequential([keras.Input((4,)), Random(), layers.Dense(2)])
    refused(["computes something else", "check_forward=False"], create, "gradient", net, error=InnvError)
    assert create("gradient", net, check_forward=False).analyze(np.ones((2, 4))).shape == (2, 4)


def test_number_free_input():
    """Strings and lookups have no gradient; the message says where to start instead."""
    net = keras.Sequential([keras.Input((3,), dtype="int32"), layers.CategoryEncoding(5, "multi_hot"), layers.Dense(2)])
    words = ["category_encoding", "(?i)no gradient", "keras.Model"]
    refused(words, create, "gradient", net, error=UnsupportedModelError)


def test_errors_are_both_of_ours_and_builtin():
    """Callers may catch ValueError without knowing this package."""
    for error in (InvalidInputError, UnsupportedModelError, NoRuleError):
        assert issubclass(error, InnvError) and issubclass(error, ValueError)
    assert issubclass(NoRuleError, UnsupportedModelError)
    assert isinstance(create("gradient", zoo.make("mlp").model), ReverseAnalyzer)
