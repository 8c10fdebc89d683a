"""What models that people have do beside computing: see other samples, keep states, take masks, stop gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import InvalidInputError, ProbabilityWarning, UnsupportedModelError

RNG = np.random.default_rng(0)


def create(name, model, **options):
    return innv_ext.create_analyzer(name, model, progress=False, **options)


def tape(model, x, neuron, of=0):
    """The gradient by TensorFlow itself; x: a list of arrays."""
    at = [tf.constant(a) for a in x]
    with tf.GradientTape() as t:
        t.watch(at[of])
        score = tf.reduce_sum(model(at if len(at) > 1 else at[0], training=False)[:, neuron])
    return t.gradient(score, at[of]).numpy()


# --- samples that see each other -----------------------------------------------------------------------------------


class Coupled(L.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


COUPLED = {
    "product": lambda x: x + ops.matmul(ops.matmul(x, ops.transpose(x)), x) / 4.0,
    "mean": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "neighbour": lambda x: x + ops.roll(x, 1, axis=0),
}


@pytest.mark.parametrize("name", COUPLED)
def test_samples_that_see_each_other_are_refused(name):
    i = keras.Input((4,))
    model = keras.Model(i, L.Dense(3)(Coupled(COUPLED[name])(i)))
    with pytest.raises(UnsupportedModelError, match=r"depends on the other samples.*check_forward=False"):
        create("gradient", model)
    x = RNG.normal(size=(3, 4)).astype("float32")
    whole = create("gradient", model, check_forward=False).analyze(x, 1)
    np.testing.assert_allclose(whole, tape(model, [x], 1), rtol=1e-4, atol=1e-6)


def test_samples_that_see_each_other_are_found_at_the_first_call_where_lengths_are_free():
    i = keras.Input((None, 4))
    model = keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(Coupled(COUPLED["mean"])(i))))
    analyzer = create("gradient", model)
    for count in (1, 3):
        with pytest.raises(UnsupportedModelError, match="depends on the other samples"):
            analyzer.analyze(RNG.normal(size=(count, 5, 4)))


def test_broadcasting_over_the_batch_is_no_coupling():
    """keras.ops.add takes (n, 1, 1) for a bias where there are n channels: the check has another number of samples."""
    i = keras.Input((4, 2))
    pooled = L.AveragePooling1D(2)(i)
    model = keras.Model(i, L.Flatten()(L.Add()([pooled, ops.mean(i, axis=(1, 2), keepdims=True)])))
    x = RNG.normal(size=(5, 4, 2)).astype("float32")
    np.testing.assert_allclose(create("gradient", model).analyze(x, 1), tape(model, [x], 1), rtol=1e-5)


# --- fixed batches and states --------------------------------------------------------------------------------------


def test_a_batch_size_in_a_layer_is_named():
    i = keras.Input((4, 4))
    model = keras.Model(i, L.Flatten()(Coupled(lambda x: ops.reshape(ops.reshape(x, (8, 4)), (2, 4, 4)))(i)))
    for name in ("gradient", "occlusion"):
        with pytest.raises(UnsupportedModelError, match=r"(?s)batch of \d+ samples.*ops\.shape"):
            create(name, model)


@pytest.mark.parametrize("cell", [L.LSTM, L.SimpleRNN])
def test_stateful_layers(cell):
    """The state is that of now in every call, and stays it; so many samples at a time as the model takes."""
    i = keras.Input(batch_shape=(2, 5, 3))
    rnn = cell(4, stateful=True)
    model = keras.Model(i, L.Dense(2)(rnn(i)))
    x = RNG.normal(size=(4, 5, 3)).astype("float32")
    model(x[:2])
    states = [np.array(v) for v in keras.tree.flatten(rnn.states)]
    assert all(np.abs(s).max() > 0 for s in states)

    def expected(part):
        found = tape(model, [part], 1)
        for variable, value in zip(keras.tree.flatten(rnn.states), states, strict=True):
            variable.assign(value)
        return found

    wanted = np.concatenate([expected(x[:2]), expected(x[2:])])
    analyzer = create("gradient", model)
    for _ in range(2):
        np.testing.assert_allclose(analyzer.analyze(x, 1), wanted, rtol=1e-5, atol=1e-7)
        for variable, value in zip(keras.tree.flatten(rnn.states), states, strict=True):
            np.testing.assert_array_equal(np.asarray(variable), value)
    with pytest.raises(InvalidInputError, match="exactly 2 samples at a time; x has 3"):
        analyzer.analyze(x[:3], 1)
    for name in ("integrated_gradients", "occlusion", "kernel_shap"):
        with pytest.raises(UnsupportedModelError, match="exactly 2 samples at a time"):
            create(name, model)


def test_a_random_output_beside_the_one_that_is_explained():
    class Sampling(L.Layer):
        def call(self, pair):
            return pair[0] + ops.exp(pair[1]) * keras.random.normal(ops.shape(pair[0]))

    i = keras.Input((6,))
    mean, spread = L.Dense(3, name="mean")(i), L.Dense(3, name="spread")(i)
    model = keras.Model(i, [mean, spread, Sampling(name="z")([mean, spread])])
    x = RNG.normal(size=(2, 6)).astype("float32")
    found = create("lrp.epsilon", model, output="mean").explain(x, 1)
    np.testing.assert_allclose(found.score, np.asarray(model(x)[0])[:, 1], rtol=1e-5)


# --- inputs that are masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
@pytest.mark.parametrize("name", ["gradient", "lrp.epsilon", "integrated_gradients", "deep_lift"])
def test_an_input_that_is_only_a_mask_gets_zeros(name, dtype):
    """The other is explained as with the mask held."""
    f, k = keras.Input((5, 4)), keras.Input((5,), dtype=dtype)
    on = ops.expand_dims(k if dtype == "bool" else ops.not_equal(k, 0), -1)
    h = ops.where(on, L.Dense(4)(f), 0.0)
    model = keras.Model([f, k], L.Dense(2)(L.Flatten()(h)))
    x = [RNG.normal(size=(3, 5, 4)).astype("float32"), (RNG.uniform(size=(3, 5)) > 0.4).astype(dtype)]
    found = create(name, model).analyze(x, 1)
    assert found[1].shape == (3, 5) and not np.any(found[1])
    assert not np.any(found[0][~x[1].astype(bool)]) and np.abs(found[0]).max() > 0
    if name == "gradient":
        np.testing.assert_allclose(found[0], tape(model, x, 1), rtol=1e-5, atol=1e-7)


# --- layers without gradient ---------------------------------------------------------------------------------------


class Rounds(L.Layer):
    def call(self, x):
        return tf.round(x)


@pytest.mark.parametrize("step", [ops.floor, ops.round, Rounds(name="rounds")])
def test_what_stops_the_gradient_is_named(step):
    i, j = keras.Input((4,)), keras.Input((4,))
    alone, beside = keras.Model(i, L.Dense(2)(step(i))), keras.Model([i, j], L.Dense(2)(step(i) + j))
    for model in (alone, beside):
        for name in ("gradient", "integrated_gradients"):
            with pytest.raises(UnsupportedModelError, match=r"No gradient reaches input 0, because .*(floor|round)"):
                create(name, model)
    passed = keras.Model(i, L.Dense(2)(L.Concatenate()([step(i), i])))  # another path
    assert np.abs(create("gradient", passed).analyze(np.ones((2, 4), "float32"), 1)).max() > 0


def test_one_hot_codes_beside_an_embedding_are_named():
    i = keras.Input((4,), dtype="int32")
    vectors = L.Flatten()(L.Embedding(5, 2)(i))
    codes = L.CategoryEncoding(5, output_mode="multi_hot")(i)
    with pytest.raises(UnsupportedModelError, match=r"category_encoding"):
        create("gradient", keras.Model(i, L.Dense(2)(L.Concatenate()([vectors, codes]))))


# --- probabilities that cannot be cut --------------------------------------------------------------------------------


def test_a_mean_of_probabilities_is_told():
    i = keras.Input((4,))
    model = keras.Model(i, L.Average()([L.Dense(3, activation="softmax")(i), L.Dense(3, activation="softmax")(i)]))
    with pytest.warns(ProbabilityWarning, match=r"softmax.*averaged.*on='output'"):
        found = create("gradient", model).explain(np.ones((2, 4), "float32"), 1)
    np.testing.assert_allclose(found.score, np.asarray(model(np.ones((2, 4))))[:, 1], rtol=1e-5)
    create("gradient", model, on="output")  # says nothing


# --- classes by name -------------------------------------------------------------------------------------------------


def test_classes_by_name():
    i = keras.Input((4,))
    model, x = keras.Model(i, L.Dense(3, activation="softmax")(i)), RNG.normal(size=(3, 4)).astype("float32")
    names = ["cat", "dog", "all"]
    analyzer = create("lrp.epsilon", model, class_names=names)
    np.testing.assert_array_equal(analyzer.analyze(x, "dog"), analyzer.analyze(x, 1))
    np.testing.assert_array_equal(analyzer.analyze(x, "all"), analyzer.analyze(x, 2))  # a name comes first
    np.testing.assert_array_equal(analyzer.analyze(x, ["dog", "cat", "cat"]), analyzer.analyze(x, [1, 0, 0]))
    with pytest.raises(InvalidInputError, match=r"cat, dog, all.*got 'dgo'.*Did you mean 'dog'"):
        analyzer.analyze(x, "dgo")
    with pytest.raises(InvalidInputError, match=r"got 'dog'.*class_names="):
        create("gradient", model).analyze(x, "dog")
    with pytest.raises(InvalidInputError, match="neuron_selection_mode="):
        analyzer.analyze(x, lambda y: y[:, 0])


def test_both_classes_of_a_single_sigmoid():
    i = keras.Input((4,))
    model, x = keras.Model(i, L.Dense(1, activation="sigmoid")(i)), RNG.normal(size=(3, 4)).astype("float32")
    for name in ("gradient", "lrp.epsilon", "occlusion", "integrated_gradients"):
        analyzer = create(name, model, class_names=("no", "yes"))
        no, yes = (analyzer.explain(x, label) for label in ("no", "yes"))
        np.testing.assert_allclose(no.attribution, -yes.attribution, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(no.score, -yes.score, rtol=1e-6)
        np.testing.assert_array_equal(yes.attribution, analyzer.analyze(x, 0))
        with pytest.raises(InvalidInputError, match="once for each"):
            analyzer.analyze(x, ["no", "yes", "no"])
    with pytest.raises(InvalidInputError, match=r"neuron_selection 1 .*class_names=\[a, b\]"):
        create("gradient", model).analyze(x, 1)


def test_a_layer_that_is_misspelt():
    i = keras.Input((4,))
    model = keras.Model(i, L.Dense(3, name="logits")(L.Dense(5, name="hidden")(i)))
    with pytest.raises(InvalidInputError, match="no single layer 'hiden'; did you mean hidden"):
        create("gradient", model).analyze(np.ones((2, 4)), return_layers=["hiden"])


class LooksUp(L.Layer):
    """Stays one node: beside a signal it takes numbers that it looks up by a function of TensorFlow."""

    def call(self, x, numbers):
        return tf.nn.bias_add(x, tf.constant([0.0, 1.0, 2.0])) + tf.cast(tf.gather([1, 2, 3], numbers), x.dtype)


def test_only_what_lies_behind_an_input_is_named():
    i, numbers = keras.Input((3,)), keras.Input((3,), dtype="int32")
    beside = ops.cast(ops.floor(i), "float32") * L.Dense(3)(i)  # stops a gradient, too, but not that of the numbers
    model = keras.Model([i, numbers], L.Dense(2)(LooksUp(name="looks_up")(beside, numbers)))
    with pytest.raises(UnsupportedModelError, match=r"reaches input 1, because looks_up [(]custom:LooksUp[)] has none"):
        create("gradient", model)
