"""Randomisation checks: exact values on linear models, what stays the same, what is left alone."""

import json
import random

import keras
import matplotlib.figure
import numpy as np
import pytest
import zoo
from keras import layers
from scipy.stats import spearmanr

import innv_ext
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.evaluation import randomization
from innv_ext.evaluation.randomization import randomization_check
from innv_ext.evaluation.robustness import robustness_metrics

MEASURES = ("rank_correlation", "absolute_rank_correlation", "ssim")


def check(model, analyzer, x, **options):
    return randomization_check(model, analyzer, x, progress=False, **options)


class Recording:
    """A factory of gradient analyzers that keeps the weights with which it is asked."""

    def __init__(self):
        self.weights = []

    def __call__(self, clone):
        self.weights.append({w.path: w.numpy().copy() for w in clone.weights})
        self.last = innv_ext.create_analyzer("gradient", clone)
        return self.last


def changed(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.fixture(scope="module")
def net():
    """Convolution, batch normalisation, a nested head."""
    head = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu", name="hidden"),
                             layers.Dense(3, name="scores")], name="head")
    i = keras.Input((6, 6, 2))
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, name="conv")(i)))
    return zoo.randomise(keras.Model(i, head(layers.GlobalAveragePooling2D()(y))), 3)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).uniform(-1, 1, (4, 6, 6, 2)).astype("float32")


STAGES = ("head/scores", "head/hidden", "norm", "conv")


def test_maps_that_do_not_depend_on_the_weights(net, x):
    found = check(net, "input", x)
    assert found.stages == STAGES
    for measure in MEASURES:
        np.testing.assert_allclose(getattr(found, measure), np.ones((4, 4)), atol=1e-12)


@pytest.mark.parametrize("how", ["initializer", "permutation"])
def test_a_linear_model_depends_on_nothing_else(how):
    """The gradient is the column of the weights itself: correlated as old and new columns are."""
    model = zoo.randomise(keras.Sequential([keras.Input((40,)), layers.Dense(3)]), 1)
    x, recording = np.random.default_rng(2).normal(size=(3, 40)), Recording()
    found = check(model, recording, x, how=how, neuron_selection=[2, 0, 1])
    old, new = (next(v for k, v in w.items() if k.endswith("kernel")) for w in recording.weights)
    for i, c in enumerate([2, 0, 1]):
        assert found.rank_correlation[0, i] == pytest.approx(spearmanr(old[:, c], new[:, c]).statistic)
        expected = spearmanr(abs(old[:, c]), abs(new[:, c])).statistic
        assert found.absolute_rank_correlation[0, i] == pytest.approx(expected)
        assert found.ssim[0, i] == pytest.approx(robustness_metrics(old[None, :, c], new[None, :, c]).ssim[0])
    assert np.abs(found.rank_correlation).max() < 0.6


def test_stages_compare_with_the_original_map(net, x):
    """By hand: the maps of the recorded weights."""
    recording = Recording()
    found = check(net, recording, x)
    analyzer, clone = recording.last, recording.last.model
    maps = []
    target = None
    for weights in recording.weights:
        clone.set_weights([weights[w.path] for w in clone.weights])
        explained = analyzer.explain(x, target)
        target = explained.target if target is None else target  # the neurons of the original weights
        maps.append(explained.attribution)
    np.testing.assert_allclose(maps[0], innv_ext.create_analyzer("gradient", net).analyze(x), rtol=1e-5, atol=1e-7)
    for stage, other in enumerate(maps[1:]):
        expected = robustness_metrics(maps[0], other)
        np.testing.assert_allclose(found.rank_correlation[stage], expected.rank_correlation, atol=1e-9)
        np.testing.assert_allclose(found.ssim[stage], expected.ssim, atol=1e-9)


LAYERS = [{"scores"}, {"hidden"}, {"norm"}, {"conv"}]


@pytest.mark.parametrize("how", ["initializer", "permutation"])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_which_weights_change(net, x, order, how):
    recording = Recording()
    check(net, recording, x, order=order, how=how)
    original, *stages = recording.weights
    assert len(stages) == 4
    for i, weights in enumerate(stages):
        expected = set.union(*LAYERS[: i + 1]) if order == "cascading" else LAYERS[i]
        assert {path.split("/")[-2] for path in changed(original, weights)} == expected
    last = stages[-1] if order == "cascading" else stages[2]
    norm = {path.split("/")[-1]: v for path, v in last.items() if "/norm/" in f"/{path}"}
    if how == "initializer":  # batch statistics as in a new layer
        assert (norm["moving_mean"] == 0).all() and (norm["moving_variance"] == 1).all() and (norm["gamma"] == 1).all()
    else:
        for path in changed(original, stages[-1]):
            np.testing.assert_array_equal(np.sort(stages[-1][path].ravel()), np.sort(original[path].ravel()))


def test_new_weights_are_those_of_the_initialisers(x):
    seven = keras.initializers.Constant(7.0)
    model = zoo.randomise(keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(),
                                            layers.Dense(2, bias_initializer=seven)]), 1)
    recording = Recording()
    check(model, recording, x)
    kernel, bias = recording.weights[1].values()
    assert (bias == 7).all()
    assert np.abs(kernel).max() <= np.sqrt(6 / 74) and np.unique(kernel).size == 144  # Glorot's


def test_the_seed_repeats_and_is_not_that_of_the_models_own_weights(x):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(4), layers.Dense(3)])
    runs = [Recording() for _ in range(3)]
    state = random.getstate()
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        check(model, run, x[:1], seed=seed)
    assert random.getstate() == state
    first, again, other = (np.concatenate([v.ravel() for v in run.weights[-1].values()]) for run in runs)
    own = np.concatenate([w.numpy().ravel() for w in model.weights])
    np.testing.assert_array_equal(first, again)
    kernels = own != 0
    assert not (first == other)[kernels].any() and not (first == own)[kernels].any()


@pytest.mark.parametrize("name", ["subclassed", "custom_layer", "channels_first", "tokens", "noisy"])
def test_the_model_is_left_alone(name):
    sample = zoo.fresh(name)
    x, before = sample.inputs(2), [w.copy() for w in sample.model.get_weights()]
    outputs = sample.model.predict(x, verbose=0)
    fields = {layer.name: set(vars(layer)) for layer in sample.model.layers}
    found = check(sample.model, "gradient", x)
    assert np.isfinite(found.ssim).all() and (np.abs(found.rank_correlation) <= 1).all()
    assert all(np.array_equal(a, b) for a, b in zip(before, sample.model.get_weights(), strict=True))
    np.testing.assert_array_equal(sample.model.predict(x, verbose=0), outputs)
    assert {layer.name: set(vars(layer)) for layer in sample.model.layers} == fields


def test_shared_layers_count_once_and_preparation_is_kept():
    i = keras.Input((5,))
    normalise, twice = layers.Normalization(mean=1.0, variance=4.0), layers.Dense(5, activation="relu", name="twice")
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(3, 2, (50, 5)))
    model = keras.Model(i, layers.Dense(2, name="last")(twice(twice(adapted(normalise(i))))))
    recording = Recording()
    found = check(model, recording, np.ones((2, 5)))
    assert found.stages == ("last", "twice")
    assert {p.split("/")[-2] for p in changed(recording.weights[0], recording.weights[-1])} <= {"last", "twice"}


@zoo.quick
def test_factories_fit_at_every_stage(net, x):
    fitted = []

    def patterns(model):
        analyzer = innv_ext.create_analyzer("pattern.net", model, progress=False).fit(x)
        fitted.append(analyzer)
        return analyzer

    found = check(net, patterns, x)
    assert len(fitted) == 5 and found.analyzer == "patterns"


# --- results -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(net, x):
    return check(net, "gradient", x, params={"postprocess": "abs"})


def test_parameters_reach_the_analyzer(net, x, result):
    np.testing.assert_allclose(result.rank_correlation, result.absolute_rank_correlation, atol=1e-12)
    assert np.abs(check(net, "gradient", x).rank_correlation - result.rank_correlation).max() > 0.1


def test_result_as_data(result):
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["stages"] == list(STAGES) and stored["order"] == "cascading" and stored["analyzer"] == "gradient"
    assert stored["ssim"] == result.ssim.tolist() and np.shape(stored["rank_correlation"]) == (4, 4)
    assert result.table().splitlines()[2].startswith(f"| head/scores | {result.rank_correlation[0].mean():.4g}")
    np.testing.assert_allclose(result.statistics("ssim").mean, result.ssim.mean(axis=1))
    assert "4 stages, 4 samples" in repr(result)
    with pytest.raises(InvalidInputError, match="'ssim'"):
        result.statistics("psnr")


def test_plot(result, tmp_path):
    figure = result.plot(path=tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 5000
    lines = {line.get_label(): line for line in figure.axes[0].containers}
    drawn = lines["SSIM"][0].get_ydata()
    np.testing.assert_allclose(drawn, [1, *result.ssim.mean(axis=1)])
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert labels == ["original", *STAGES]
    own = matplotlib.figure.Figure()
    assert result.plot(own.add_subplot()) is own
    with pytest.raises(InvalidInputError, match="ax must be"):
        result.plot("here")


# --- bad input ---------------------------------------------------------------------------------------------------


class Forgetful(layers.Layer):
    """get_config leaves out what call needs."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"name": self.name}


BAD = {
    "model": (lambda net, x: check("net", "gradient", x), InvalidInputError, "keras.Model"),
    "name": (lambda net, x: check(net, "gradeint", x), InvalidInputError, "'gradient'"),
    "analyzer": (lambda net, x: check(net, innv_ext.create_analyzer("gradient", net), x), InvalidInputError, "clone"),
    "factory": (lambda net, x: check(net, lambda model: 3, x), InvalidInputError, "create_analyzer"),
    "params": (lambda net, x: check(net, Recording(), x, params={"a": 1}), InvalidInputError, "params="),
    "order": (lambda net, x: check(net, "gradient", x, order="up"), InvalidInputError, "cascading"),
    "how": (lambda net, x: check(net, "gradient", x, how="zero"), InvalidInputError, "permutation"),
    "seed": (lambda net, x: check(net, "gradient", x, seed=-1), InvalidInputError, "seed"),
    "empty": (lambda net, x: check(net, "gradient", x[:0]), InvalidInputError, "nothing"),
    "shape": (lambda net, x: check(net, "gradient", x[0]), InvalidInputError, "batch axis"),
    "inputs": (lambda net, x: check(zoo.make("shared").model, "gradient", zoo.make("shared").inputs(2)),
               InvalidInputError, "one input"),
    "lambda": (lambda net, x: check(zoo.make("lambda_layer").model, "gradient", np.ones((1, 6))),
               UnsupportedModelError, "cannot clone"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(net, x, case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(net, x)


def test_models_that_cannot_be_randomised():
    i = keras.Input((3,))
    with pytest.raises(UnsupportedModelError, match="no weights"):
        check(keras.Model(i, layers.ReLU()(i)), "gradient", np.ones((1, 3)))
    with pytest.raises(UnsupportedModelError, match="something else"):
        check(keras.Model(i, layers.Dense(2)(Forgetful(3.0)(i))), "gradient", np.ones((1, 3)))
    assert randomization.ORDERS == ("cascading", "independent")
