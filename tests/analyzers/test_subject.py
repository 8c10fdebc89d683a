"""What analyzers of one model share: traced and checked once, compiled once for all neurons, let go with the model."""

import copy
import gc
import pickle
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops

import innv_ext
from innv_ext.analyzers.core import subject
from innv_ext.analyzers.core.request import ALL, BEST
from innv_ext.analyzers.core.subject import Subject, subject_of
from innv_ext.backend import passes, tracing
from innv_ext.errors import InnvError, InvalidInputError, SaveError, UnsupportedModelError

pytestmark = zoo.QUICK


def gradient_of(model, x, index=None):
    return innv_ext.create_analyzer("gradient", model, on="output").analyze(x, index)


def dense_net():
    net = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(3)])
    return zoo.randomise(net)


X = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype("float32")


# --- one compile -------------------------------------------------------------------------------------------------

ONE_OF_EACH = (
    "gradient lrp.epsilon integrated_gradients deep_lift deep_shap gradient_shap occlusion lime grad_cam pattern.net "
    "caso moreau_grad rc_rde"
).split()


@pytest.mark.traced
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_trace_for_every_neuron_and_batch_size(name):
    """The largest output, one, one per sample, another batch size: the functions of the first call serve all."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(5)
    analyzer = zoo.create(name, sample.model, x)
    analyzer.analyze(x)
    before = set(analyzer._compiled)
    analyzer.analyze(x, 2)
    analyzer.analyze(x[:2], [0, 1])
    if name not in ("caso", "prediction_difference"):  # of which the sum of all outputs is another problem
        analyzer.analyze(x, "all")
    assert set(analyzer._compiled) == before
    assert {function.traces for function in analyzer._compiled.values()} == {1}


def test_selections_are_what_they_were_as_modes():
    """"all" and a function of the outputs; the target is told as -1 where it is no single neuron."""
    model = dense_net()
    summed = innv_ext.create_analyzer("gradient", model, neuron_selection_mode="all").explain(X)
    each = sum(gradient_of(model, X, i) for i in range(3))
    np.testing.assert_allclose(summed.attribution, each, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(summed.target, [-1] * 3)
    by_function = innv_ext.create_analyzer("gradient", model, neuron_selection_mode=lambda y: y[:, 0] + y[:, 2])
    np.testing.assert_allclose(
        by_function.analyze(X), gradient_of(model, X, 0) + gradient_of(model, X, 2), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(by_function.explain(X).target, [-1] * 3)
    assert BEST < 0 and ALL < 0 and BEST != ALL


# --- one trace and one check -------------------------------------------------------------------------------------


def test_analyzers_of_a_model_share_graph_and_check(monkeypatch):
    checked, traced = [], []
    compare, trace = passes.check_equal, tracing.trace
    monkeypatch.setattr(passes, "check_equal", lambda *args: checked.append(args[2]) or compare(*args))
    monkeypatch.setattr(tracing, "trace", lambda *args: traced.append(args[0]) or trace(*args))
    model = dense_net()
    first = innv_ext.create_analyzer("lrp.epsilon", model)
    second = innv_ext.create_analyzer("lrp.gamma", model)
    assert len(checked) == len(traced) == 1
    assert first.subject_ is second.subject_
    innv_ext.create_analyzer("lrp.epsilon", model, batchnorm="linear")  # another form of the graph
    assert len(checked) == 2 and len(traced) == 1


def test_a_check_that_was_left_out_is_made_up_for(monkeypatch):
    checked = []
    compare = passes.check_equal
    monkeypatch.setattr(passes, "check_equal", lambda *args: checked.append(args[2]) or compare(*args))
    model = dense_net()
    first = innv_ext.create_analyzer("gradient", model, check_forward=False)
    assert not checked
    second = innv_ext.create_analyzer("gradient", model)
    assert len(checked) == 1 and first.subject_ is second.subject_


def attending(head):
    inputs = keras.Input((96, 6))
    return zoo.randomise(keras.Model(inputs, layers.Dense(3)(head(layers.MultiHeadAttention(2, 3)(inputs, inputs)))))


def positions(h):
    return layers.GlobalAveragePooling1D()(h + np.linspace(0, 1, 96, dtype="float32")[:, None])


HEADS = {
    "mean": (layers.GlobalAveragePooling1D(), [11]),
    "last": (lambda h: h[:, -1], [11]),
    "as long as declared": (layers.Flatten(), [11, 96]),
    "constants of every step": (positions, [11, 96]),
    "a later step": (lambda h: h[:, 50], [11, 96]),
    "nothing of the first steps": (lambda h: layers.GlobalAveragePooling1D()(h[:, 50:]), [11, 96]),
}


@pytest.mark.parametrize("kind", HEADS)
def test_long_sequences_are_compared_on_few_steps_where_the_model_takes_them(kind, monkeypatch):
    head, lengths = HEADS[kind]
    seen, both = [], Subject._both
    monkeypatch.setattr(Subject, "_both", lambda *args: seen.append(args[-1][0].shape[1]) or both(*args))
    model = attending(head)
    innv_ext.create_analyzer("lrp.epsilon", model)
    assert seen == lengths
    assert model.input_shape == (None, 96, 6)


def test_what_few_steps_do_not_show_is_found_on_all(monkeypatch):
    """Samples that see each other, and a graph that computes something else."""
    coupled = attending(lambda h: layers.GlobalAveragePooling1D()(h) - ops.mean(h, axis=(0, 1)))
    with pytest.raises(UnsupportedModelError, match="depends on the other samples"):
        innv_ext.create_analyzer("gradient", coupled)
    evaluated = subject._evaluated
    monkeypatch.setattr(subject, "_evaluated", lambda graph, xs: evaluated(graph, xs) + 0.1)
    with pytest.raises(InnvError, match="computes something else"):
        innv_ext.create_analyzer("gradient", attending(layers.GlobalAveragePooling1D()))


class Scaled(layers.Layer):
    """A user's layer whose attribute is part of what it computes."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


def scaled_net():
    return keras.Sequential([keras.Input((4,)), Scaled(2.0), layers.Dense(3)])


def nested_net():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu", name="inside")], name="inner")
    return keras.Sequential([keras.Input((4,)), inner, layers.Dense(3)])


def another_layer(model):
    model.add(layers.Dense(2))


def a_replaced_layer(model):
    model.pop()
    model.add(layers.Dense(3, kernel_initializer="ones"))


def another_activation(model):
    model.layers[0].activation = keras.activations.tanh


def another_attribute(model):
    model.layers[0].factor = 5.0


def inside_a_model(model):
    model.get_layer("inner").get_layer("inside").activation = keras.activations.softplus


def lora(model):
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 5)))


CHANGES = [
    (dense_net, another_layer),
    (dense_net, a_replaced_layer),
    (dense_net, another_activation),
    (dense_net, lora),
    (scaled_net, another_attribute),
    (nested_net, inside_a_model),
]


@pytest.mark.parametrize(("build", "change"), CHANGES, ids=[change.__name__ for _, change in CHANGES])
def test_a_changed_structure_is_noticed(build, change):
    """A new analyzer explains the model as it is now: its gradient is that of finite differences."""
    model = build()
    old = innv_ext.create_analyzer("gradient", model)
    change(model)
    new = innv_ext.create_analyzer("gradient", model)
    assert new.subject_ is not old.subject_
    step = np.eye(4, dtype="float32")[:, None] * 1e-2
    score = [[np.asarray(model(X + s * d))[:, 0] for d in step] for s in (1, -1)]
    slopes = (np.array(score[0]) - np.array(score[1])).T / 2e-2
    np.testing.assert_allclose(new.analyze(X, 0), slopes, rtol=1e-2, atol=2e-3)


def test_use_and_training_are_no_change_and_weights_are_read_fresh():
    model = dense_net()
    first = innv_ext.create_analyzer("gradient", model)
    model.predict(X, verbose=0)
    model.compile("sgd", "mse")
    model.fit(X, np.ones((3, 3)), verbose=0)
    keras.Model(model.inputs, model.layers[0].output)
    model.set_weights([2 * w for w in model.get_weights()])
    second = innv_ext.create_analyzer("gradient", model)
    assert second.subject_ is first.subject_
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    np.testing.assert_allclose(second.analyze(X), gradient_of(twin, X), rtol=1e-6)


def test_a_model_is_let_go_with_its_analyzers():
    model = dense_net()
    analyzer = innv_ext.create_analyzer("gradient", model)
    analyzer.analyze(X)
    assert subject_of(model) is analyzer.subject_
    seen = weakref.ref(model)
    del model, analyzer
    keras.backend.clear_session()
    gc.collect()
    assert seen() is None


# --- copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lrp.gamma", "integrated_gradients", "pattern.attribution", "rc_rde", "lime"])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deepcopy", "pickle"])
def test_copies_by_way_of_the_archive(name, way):
    """They explain alike, with a model of their own."""
    sample = zoo.fresh("mlp")
    x = sample.inputs(3)
    analyzer = zoo.create(name, sample.model, x, batch_size=2)
    other = way(analyzer)
    assert other.model is not analyzer.model and repr(other) == repr(analyzer)
    expected = analyzer.analyze(x)
    np.testing.assert_allclose(other.analyze(x), expected, rtol=1e-6, atol=1e-7)
    sample.model.set_weights([0 * w for w in sample.model.get_weights()])
    np.testing.assert_allclose(other.analyze(x), expected, rtol=1e-6, atol=1e-7)


def test_a_shallow_copy_keeps_the_model():
    analyzer = innv_ext.create_analyzer("gradient", dense_net())
    other = copy.copy(analyzer)
    assert other.model is analyzer.model
    other.seed = 3
    assert analyzer.seed == 0
    np.testing.assert_array_equal(other.analyze(X), analyzer.analyze(X))


def test_what_cannot_be_copied_says_so():
    class Own(innv_ext.analyzers.Gradient):
        pass

    analyzer = Own(dense_net())
    for way in (copy.deepcopy, pickle.dumps):
        with pytest.raises(SaveError, match=r"Own cannot be pickled .* innv_ext\.register_analyzer\(name, Own\)"):
            way(analyzer)
    by_function = innv_ext.create_analyzer("gradient", dense_net(), neuron_selection_mode=lambda y: y[:, 0])
    with pytest.raises(SaveError, match="neuron_selection_mode=<function"):
        pickle.dumps(by_function)


def test_data_sets_are_explained_batch_by_batch():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    analyzer, x = zoo.create("gradient", model), np.ones((4, 3), "float32")

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, i):
            return x

    for data in (tf.data.Dataset.from_tensor_slices(x).batch(2), iter([x]), Batches()):
        with pytest.raises(InvalidInputError, match=r"x is a .*, but one batch at a time is explained: .*Dataset"):
            analyzer.analyze(data, 0)
