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
from innv_ext.evaluation import quantus, sparsity
from innv_ext.evaluation.quantus import as_quantus_a_batch, as_quantus_explain_func


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


# --- layouts -------------------------------------------------------------------------------------------------------


def test_maps_without_channels_and_inputs_that_were_turned(sample):
    x, targets = sample.inputs(3), np.array([2, 0, 1])
    maps = innv_ext.create_analyzer("gradient", sample.model).analyze(x, targets)
    explain, bare = as_quantus_explain_func("gradient"), as_quantus_explain_func("gradient", reduce="sum")
    first = np.moveaxis(x, -1, 1)
    np.testing.assert_array_equal(explain(sample.model, first, targets), np.moveaxis(maps, -1, 1))
    for given in (x, first):
        np.testing.assert_allclose(bare(sample.model, given, targets), maps.sum(axis=-1), rtol=1e-5, atol=1e-7)
    table = zoo.make("mlp")
    assert bare(table.model, table.inputs(2), [0, 1]).shape == (2, 6)
    turned = zoo.make("channels_first")
    whole = innv_ext.create_analyzer("gradient", turned.model).analyze(turned.inputs(2), [0, 1])
    np.testing.assert_allclose(bare(turned.model, turned.inputs(2), [0, 1]), whole.sum(axis=1), rtol=1e-5, atol=1e-7)
    with pytest.raises(InvalidInputError, match="has shape"):
        explain(sample.model, x[:, :-1], targets)
    with pytest.raises(InvalidInputError, match="Did you mean 'sum'"):
        as_quantus_explain_func("gradient", reduce="summ")
    two = zoo.make("two_inputs")
    with pytest.raises(InvalidInputError, match=r"take one array, but .* several inputs"):
        explain(two.model, two.inputs(2))


def test_a_batch_is_channels_first():
    maps = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    np.testing.assert_array_equal(as_quantus_a_batch(maps, reduce=None), maps.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(as_quantus_a_batch(maps)[:, 0], maps.sum(axis=-1))
    np.testing.assert_allclose(as_quantus_a_batch(maps.transpose(0, 3, 1, 2), channel_axis=1), as_quantus_a_batch(maps))
    np.testing.assert_array_equal(as_quantus_a_batch(maps[..., 0], channel_axis=None)[:, 0], maps[..., 0])
    np.testing.assert_array_equal(as_quantus_a_batch(maps[0, 0]), maps[0, 0])
    for wrong, text in ((maps[0, 0, 0], "batch axis"), ("text", "real numbers")):
        with pytest.raises(InvalidInputError, match=text):
            as_quantus_a_batch(wrong)
    with pytest.raises(InvalidInputError, match="channel_axis must be -1, 1 or None"):
        as_quantus_a_batch(maps, channel_axis=2)


# --- against the library -------------------------------------------------------------------------------------------

SHAPES = {"image": (6, 6, 2), "signal": (12, 2)}
QUIET = {"display_progressbar": False, "disable_warnings": True}


@pytest.fixture(scope="module", params=SHAPES)
def linear(request):
    """(library, model, x, maps): a linear model, whose contributions x * w are exact; the least value of x is 0."""
    library = pytest.importorskip("quantus")
    rng, shape = np.random.default_rng(2), SHAPES[request.param]
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3, use_bias=False)])
    model.set_weights([rng.normal(size=(np.prod(shape), 3))])
    x = rng.uniform(0.1, 1, (3, *shape)).astype("float32")
    x.reshape(3, -1)[:, 0] = 0
    return library, model, x, innv_ext.create_analyzer("input_t_gradient", model).analyze(x, [0, 1, 2])


def score(linear, metric, reduce="sum", **options):
    _, model, x, maps = linear
    explain = as_quantus_explain_func("input_t_gradient", reduce=reduce)
    given = {"a_batch": as_quantus_a_batch(maps, reduce=reduce), "explain_func": explain, **options}
    found = metric(model=model, x_batch=x, y_batch=np.array([0, 1, 2]), channel_first=False, softmax=False, **given)
    return np.array(found if isinstance(found, list) else list(found.values()), "float64")


@pytest.mark.filterwarnings("ignore")
def test_numbers_of_quantus_are_right(linear):
    """Closed forms: Gini index, and deltas of a linear model, which are what its contributions say."""
    library, _, _, maps = linear
    whole = {"normalise": False, "abs": False, **QUIET}
    bare = maps.sum(axis=-1)
    np.testing.assert_allclose(score(linear, library.Sparseness(**QUIET)), sparsity(bare), rtol=1e-4)
    for step, reduce in ((1, None), (2, "sum")):  # every value alone; both channels of a pixel, which tie, together
        deltas = library.FaithfulnessEstimate(features_in_step=step, perturb_baseline=0.0, **whole)
        np.testing.assert_allclose(score(linear, deltas, reduce=reduce), 1, atol=1e-3)
    flip = library.PixelFlipping(features_in_step=1, perturb_baseline=0.0, return_auc_per_sample=False, **whole)
    found = score(linear, flip, reduce=None)
    ordered = -np.sort(-maps.reshape(3, -1), axis=1)
    np.testing.assert_allclose(found, ordered.sum(axis=1, keepdims=True) - np.cumsum(ordered, axis=1), atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_metrics_that_explain_again(linear):
    """Both in the same layout: x * w of a linear model changes with x as x does."""
    library = linear[0]
    sensitive = library.MaxSensitivity(nr_samples=3, lower_bound=1e-4, normalise=False, abs=False, **QUIET)
    assert (score(linear, sensitive) < 0.01).all()
    keras.utils.set_random_seed(0)
    assert np.isfinite(score(linear, library.MPRT(**QUIET))).all()
    assert (np.abs(score(linear, library.RandomLogit(num_classes=3, seed=0, **QUIET))) <= 1).all()
    assert (score(linear, library.Complexity(**QUIET)) > 0).all()
