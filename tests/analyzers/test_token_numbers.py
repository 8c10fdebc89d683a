"""Token numbers are told by what reads them, not by the dtype that they arrive in."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.analyzers.core import subject
from innv_ext.backend import facts
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.evaluation import perturbation_analysis

IDS = np.random.default_rng(0).integers(1, 20, (3, 6))


def net(dtype):
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), dtype=dtype)
    h = L.Embedding(20, 4, mask_zero=True, embeddings_initializer="normal")(i)
    h = L.GlobalAveragePooling1D()(L.Dense(5, activation="relu")(h))
    return keras.Model(i, L.Dense(3)(h))


def tokens(function, *inputs):
    graph = subject.subject_of(keras.Model(list(inputs), function(*inputs))).form()
    return {graph.inputs.index(slot) for slot in facts.token_inputs(graph)}


def test_token_inputs():
    """Read by an embedding, and else by masks only; neither values nor one-hot codes nor what is added up as well."""
    ids, values = keras.Input((6,)), keras.Input((6,))
    embed = L.Embedding(20, 4, mask_zero=True)
    assert tokens(lambda a, b: L.Dense(2)(ops.concatenate([L.GRU(2)(embed(a)), b], axis=1)), ids, values) == {0}
    assert tokens(lambda a: ops.sum(embed(a), axis=1) + ops.cast(ops.greater(a, 3), "float32")[:, :4], ids) == {0}
    assert tokens(lambda a: ops.sum(embed(a), axis=2) + a, ids) == set()
    assert tokens(lambda a: embed(ops.reshape(ops.cast(a, "int32")[:, 1:5], (-1, 2, 2))), ids) == {0}
    assert tokens(lambda a: ops.sum(embed(ops.reshape(a, (-1, 3, 2))), axis=(1, 3)) + a[:, :2], ids) == set()
    table = ops.convert_to_tensor(np.ones((20, 4)))
    assert tokens(lambda a: ops.take(table, ops.cast(a, "int32"), axis=0), ids) == {0}
    assert tokens(lambda a: ops.one_hot(a, 5), keras.Input((6,), dtype="int32")) == set()


@pytest.mark.parametrize("name", ["cafo", "caso", "moreau_grad", "prediction_difference", "rc_rde"])
def test_methods_that_move_inputs_refuse_them_in_either_dtype(name):
    options = {"rate": 0.3} if name == "rc_rde" else {}
    for dtype in ("int32", "float32"):
        with pytest.raises(UnsupportedModelError, match=r"input 0 takes int32 numbers \(tokens\)"):
            innv_ext.create_analyzer(name, net(dtype), **options)


@pytest.mark.parametrize("name", ["gradient", "grad_cam", "occlusion"])
def test_others_give_the_same_map_in_either_dtype(name):
    options = {"reference": 1} if name == "occlusion" else {}
    maps = [
        innv_ext.create_analyzer(name, net(dtype), **options).analyze(IDS.astype(dtype), 1)
        for dtype in ("int32", "float32")
    ]
    assert maps[1].dtype == np.float32 and maps[0].any()
    np.testing.assert_array_equal(*maps)


def test_fractions_are_no_tokens():
    analyzer = innv_ext.create_analyzer("gradient", net("float32"))
    with pytest.raises(InvalidInputError, match="must hold whole numbers"):
        analyzer.analyze(IDS + 0.5)
    curves = [
        perturbation_analysis(net(d), IDS.astype(d), np.ones((3, 6)), perturbation="uniform", progress=False).scores
        for d in ("int32", "float32")
    ]
    np.testing.assert_array_equal(curves[0]["relevance"], curves[1]["relevance"])


def test_tokens_beyond_the_vocabulary_are_named():
    """TensorFlow raises on the CPU and looks up zeros elsewhere."""
    for name in ("gradient", "lrp.epsilon", "integrated_gradients", "deep_lift", "occlusion", "grad_cam"):
        analyzer = innv_ext.create_analyzer(name, net("int32"), progress=False)
        for bad in (20, -1):
            ids = np.where(np.arange(6) == 2, bad, IDS)
            with pytest.raises(InvalidInputError, match=r"token numbers from -?\d+ to \d+, but .*embedding.* 20 rows"):
                analyzer.analyze(ids)


@pytest.mark.parametrize("name", ["integrated_gradients", "deep_lift"])
def test_tables_of_counted_positions_are_held(name):
    """Positions that are counted from what is no padding: the map is that of the model with these positions."""
    keras.utils.set_random_seed(0)
    first, second = (L.Embedding(n, 4, embeddings_initializer="normal") for n in (9, 8))
    seen = lambda ids: ops.cast(ops.not_equal(ids, 0), "int32")
    head = keras.Sequential([L.Activation("tanh"), L.Flatten(), L.Dense(2)])
    ids = keras.Input((6,), dtype="int32")
    model = keras.Model(ids, head(first(ids) + second(ops.cumsum(seen(ids), axis=1) * seen(ids))))
    x = np.array([[4, 5, 6, 7, 8, 1]])
    own = keras.Input((6,), dtype="int32")
    held = keras.Model(own, head(first(own) + ops.convert_to_tensor(np.asarray(second(np.arange(1, 7))))))
    # a reference without padding has the same positions
    maps = [innv_ext.create_analyzer(name, m, reference_inputs=1).analyze(x, 1) for m in (model, held)]
    assert np.abs(maps[1]).max() > 1e-4
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-7)


def test_tables_of_codes_are_no_tables_of_tokens():
    """The nearest of some vectors, with a gradient that passes by: the choice is no number of the input."""
    codes = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(5, 3)).astype("float32"))
    x = keras.Input((4, 3))
    nearest = ops.take(codes, ops.argmax(ops.matmul(x, ops.transpose(codes)), axis=-1), axis=0)
    dense = L.Dense(2)
    model = keras.Model(x, dense(L.Flatten()(x + ops.stop_gradient(nearest - x))))
    values = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("float32")
    found = innv_ext.create_analyzer("integrated_gradients", model).analyze(values, 1)
    np.testing.assert_allclose(found, values * np.asarray(dense.kernel)[:, 1].reshape(4, 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_tables_that_look_up_chosen_numbers(dtype):
    """A second table knows fewer numbers: the gradient reaches both, but no reference takes their place."""
    ids = keras.Input((4,), dtype=dtype)
    few = ops.where(ids < 5, ids, ops.zeros_like(ids))
    first, second = (keras.layers.Embedding(n, 3, embeddings_initializer="normal") for n in (9, 5))
    dense = keras.layers.Dense(2)
    model = keras.Model(ids, dense(keras.layers.Flatten()(first(ids) + ops.tanh(second(few)))))
    x = np.array([[1, 4, 7, 8], [0, 2, 3, 5]])
    if dtype == "float32":
        with pytest.raises(UnsupportedModelError):
            innv_ext.create_analyzer("integrated_gradients", model)
        return
    found = innv_ext.create_analyzer("gradient", model).analyze(x, 1)
    kernel = np.asarray(dense.kernel)[:, 1].reshape(4, 3)
    vectors, other = np.asarray(first.embeddings)[x], np.asarray(second.embeddings)[np.where(x < 5, x, 0)]
    expected = (vectors * kernel).sum(-1) + np.where(x < 5, (other * (1 - np.tanh(other) ** 2) * kernel).sum(-1), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for name in ("integrated_gradients", "deep_lift", "gradient_shap"):
        with pytest.raises(UnsupportedModelError, match="computed or chosen"):
            innv_ext.create_analyzer(name, model, **({"references": x} if name == "gradient_shap" else {}))
