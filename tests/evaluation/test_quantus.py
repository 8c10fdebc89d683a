"""The adaptor for Quantus: same maps as the analyzer, one analyzer per model, no model kept alive."""

import gc
import weakref

import keras
import numpy as np
import pytest
import zoo
from keras import layers

import innv_ext
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import quantus
from innv_ext.evaluation.quantus import as_quantus_explain_func


@pytest.fixture(scope="module")
def sample():
    return zoo.make("convnet")


def test_maps_are_those_of_the_analyzer(sample):
    x, targets = sample.inputs(3).astype("float32"), np.array([2, 0, 1])
    explain = as_quantus_explain_func("lrp.epsilon", epsilon=0.01)
    analyzer = innv_ext.create_analyzer("lrp.epsilon", sample.model, epsilon=0.01)
    found = explain(model=sample.model, inputs=x, targets=targets, device="cpu", nr_channels=2)
    np.testing.assert_array_equal(found, analyzer.analyze(x, targets))
    assert isinstance(found, np.ndarray) and found.shape == x.shape
    np.testing.assert_array_equal(explain(sample.model, x), analyzer.analyze(x))
    np.testing.assert_array_equal(explain(sample.model, x, list(targets)), found)


def test_one_analyzer_per_model(sample, monkeypatch):
    made = []

    def counted(*args, **params):
        made.append(args)
        return innv_ext.create_analyzer(*args, **params)

    monkeypatch.setattr(quantus, "create_analyzer", counted)
    explain, other = as_quantus_explain_func("gradient"), zoo.make("sequential")
    for model in (sample.model, other.model, sample.model, other.model):
        explain(model, sample.inputs(2), [0, 1])
    assert [args[1] is sample.model for args in made] == [True, False]


def test_weights_are_read_at_each_call():
    model = zoo.fresh("mlp").model
    explain, x = as_quantus_explain_func("gradient"), np.ones((1, 6), "float32")
    before = explain(model, x, [0])
    model.set_weights([2 * w if w.ndim > 1 else 0 * w for w in model.get_weights()])
    after = explain(model, x, [0])
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(after, innv_ext.create_analyzer("gradient", model).analyze(x, [0]))


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "moreau_grad", "occlusion"])
@zoo.quick
def test_models_are_not_kept_alive(name):
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(layers.Dense(3, activation="softplus")(i)))
    explain = as_quantus_explain_func(name, **zoo.PARAMS.get(name, {}))
    assert explain(model, np.ones((2, 4)), [0, 1]).shape == (2, 4)
    assert explain(model, np.ones((2, 4)), [0, 1]).shape == (2, 4)
    alive = weakref.ref(model)
    del model, i
    gc.collect()
    assert alive() is None
    assert explain(zoo.make("mlp").model, np.ones((1, 6))).shape == (1, 6)


@zoo.quick
def test_an_analyzer_explains_its_own_model_itself_and_others_by_its_parameters(sample):
    x = sample.inputs(3)
    analyzer = innv_ext.create_analyzer("pattern.net", sample.model, progress=False).fit(x)
    explain = as_quantus_explain_func(analyzer)
    np.testing.assert_array_equal(explain(sample.model, x, [0, 1, 2]), analyzer.analyze(x, [0, 1, 2]))
    twin = keras.models.clone_model(sample.model)
    twin.set_weights([1.5 * w for w in sample.model.get_weights()])
    expected = innv_ext.create_analyzer("pattern.net", twin, progress=False)
    expected.set_state(analyzer.state())
    np.testing.assert_array_equal(explain(twin, x, [0, 1, 2]), expected.analyze(x, [0, 1, 2]))


def test_bad_input(sample):
    with pytest.raises(InvalidInputError, match="'gradient'"):
        as_quantus_explain_func("gradeint")
    with pytest.raises(InvalidInputError, match="a name with parameters"):
        as_quantus_explain_func(3)
    with pytest.raises(InvalidInputError, match="a name with parameters"):
        as_quantus_explain_func(innv_ext.create_analyzer("gradient", sample.model), postprocess="abs")
    explain = as_quantus_explain_func("gradient")
    with pytest.raises(InvalidInputError, match="must be a keras"):
        explain("model", sample.inputs(2), [0, 1])
    with pytest.raises(InvalidInputError, match="out of range"):
        explain(sample.model, sample.inputs(2), [0, 3])
    with pytest.raises(InvalidInputError, match="no parameter"):
        as_quantus_explain_func("gradient", epsilon=1)(sample.model, sample.inputs(2), [0, 1])
