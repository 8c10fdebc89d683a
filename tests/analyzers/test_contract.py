"""What every analyzer promises, whatever it computes: one table (``list_analyzers``) drives all of it.

A new analyzer comes under this suite by being registered; where it needs parameters, it gets a row in ``zoo.PARAMS``.
"""

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, tree

import innv_ext
from innv_ext.analyzers import Analyzer, ReverseAnalyzer
from innv_ext.analyzers.core.node_rules import LayerNorm, ScaleShift
from innv_ext.analyzers.lrp.rules import AlphaBeta, Bounded, Epsilon, Flat, Gamma, ZPlus
from innv_ext.analyzers.rde.rate_distortion import RateDistortion
from innv_ext.backend.kinds import Kind
from innv_ext.backend.predicates import centres, convolution, dense, kind_is, shifted
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError, NotFittedError, UnsupportedModelError

ROTATION, RARER = 8, {"recurrent": 18, "masked_lstm": 18, "transformer": 12}  # every eighth analyzer meets a model
SEEDED = (  # maps depend on the seed
    "random smoothgrad smooth_cafo smooth_caso deep_shap gradient_shap lime kernel_shap prediction_difference rise"
).split()
pytestmark = zoo.QUICK


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    info: Any
    model: Any
    x: np.ndarray
    analyzer: Any
    expected: np.ndarray


def _cases():
    """Composites and aliases are other names of rules that are here, in ``PRESETS`` and in the tests by name below."""
    for name in zoo.NAMES:
        yield pytest.param(name, marks=[pytest.mark.traced, *([] if name in zoo.BASIC else [pytest.mark.slow])])


@pytest.fixture(scope="module", params=_cases())
def case(request):
    """Each analyzer on a convolutional net in float64, built and compiled once."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(7)
    analyzer = zoo.create(request.param, sample.model, x)
    return Case(request.param, zoo.INFOS[request.param], sample.model, x, analyzer, analyzer.analyze(x))


def close(a, b, rtol=1e-9):
    """Equal up to rounding, in the scale of the whole map."""
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(initial=0), 1e-12))


# --- the result --------------------------------------------------------------------------------------------------


def test_shape_dtype_and_finiteness(case):
    assert isinstance(case.expected, np.ndarray)
    assert case.expected.shape == case.x.shape
    assert case.expected.dtype == np.float64
    assert np.isfinite(case.expected).all()
    assert np.abs(case.expected).max() > 0


def test_repeatable(case, step_by_step):
    """The same map again, traced or step by step, and from another analyzer of the same seed.

    The seed matters for random methods only. The caller's array is left alone.
    """
    before = case.x.copy()
    close(case.analyzer.analyze(case.x), case.expected)
    np.testing.assert_array_equal(case.x, before)
    other = zoo.create(case.name, case.model, case.x, seed=1).analyze(case.x)
    if case.name not in SEEDED:
        close(other, case.expected)
    else:
        assert not np.allclose(other, case.expected)
        close(zoo.create(case.name, case.model, case.x, seed=0).analyze(case.x), case.expected)


def test_independent_of_the_batch(case):
    close(case.analyzer.analyze(case.x), case.expected, 1e-12)
    close(case.analyzer.analyze(case.x, batch_size=2), case.expected)
    if case.name in zoo.NOISE:
        return
    close(np.concatenate([case.analyzer.analyze(case.x[i : i + 1]) for i in range(7)]), case.expected)
    order = np.random.default_rng(1).permutation(7)
    close(case.analyzer.analyze(case.x[order]), case.expected[order])


def test_one_trace_for_all_batch_sizes(case):
    case.analyzer.analyze(case.x[:2])
    before = dict(vars(case.analyzer).get("_compiled", {}))
    assert before or not isinstance(case.analyzer, (ReverseAnalyzer, RateDistortion))
    for count in (1, 3, 5):
        case.analyzer.analyze(case.x[:count])
    compiled = vars(case.analyzer).get("_compiled", {})
    assert list(compiled) == list(before) and all(compiled[key] is before[key] for key in before)
    assert {key: c.traces for key, c in compiled.items()} == dict.fromkeys(compiled, 1)


def test_number_types_of_the_input(case):
    """Whatever the dtype or container, equal numbers get equal maps."""
    x = np.random.default_rng(2).integers(0, 2, case.x.shape)
    expected = case.analyzer.analyze(x.astype("float32"))
    for dtype in ("float64", "float16", "int32", "int64", "uint8", "bool"):
        received = case.analyzer.analyze(x.astype(dtype))
        assert received.dtype == np.float64
        np.testing.assert_array_equal(received, expected, err_msg=dtype)
    for container in (x.tolist(), tf.constant(x, "float32"), keras.ops.convert_to_tensor(x)):
        np.testing.assert_array_equal(case.analyzer.analyze(container), expected)


@pytest.mark.parametrize(
    ("name", "convolutions", "epsilon", "first"),
    [
        ("sequential_preset_a", AlphaBeta(1.0, 0.0), 0.1, {}),
        ("sequential_preset_b", AlphaBeta(2.0, 1.0), 0.1, {}),
        ("sequential_preset_a_flat", AlphaBeta(1.0, 0.0), 0.1, {"input_layer_rule": Flat()}),
        ("sequential_preset_b_flat", AlphaBeta(2.0, 1.0), 0.1, {"input_layer_rule": Flat()}),
        ("epsilon_plus", ZPlus(), 1e-7, {}),
        ("epsilon_plus_flat", ZPlus(), 1e-7, {"input_layer_rule": Flat()}),
        ("epsilon_gamma_box", Gamma(0.25), 1e-7, {"input_layer_rule": Bounded(-3.0, 3.0)}),
        ("epsilon_alpha2_beta1", AlphaBeta(2.0, 1.0), 1e-7, {}),
        ("epsilon_alpha2_beta1_flat", AlphaBeta(2.0, 1.0), 1e-7, {"input_layer_rule": Flat()}),
        (
            "sequential_preset_b_flat_until_idx",
            AlphaBeta(2.0, 1.0),
            0.1,
            {"until_layer": 1, "until_layer_rule": Flat()},
        ),
    ],
)
def test_composites_are_tables(name, convolutions, epsilon, first):
    """Of rules that the contract holds one by one; ``test_rules_affine.PRESETS`` holds their maps."""
    beside = [(kind_is(Kind.BATCHNORM), ScaleShift(epsilon)), (shifted, ScaleShift(epsilon))]
    rules = (convolution, convolutions), (dense, Epsilon(epsilon)), *beside, (centres, LayerNorm(epsilon))
    table = Rules(*rules)
    params = zoo.create(f"lrp.{name}", zoo.make("convnet").model).get_params()
    assert repr(params["rule"]) == repr(table)
    by_layer = {"input_layer_rule": None, "until_layer": None, "until_layer_rule": "flat", **first}
    assert repr({key: params[key] for key in by_layer}) == repr(by_layer)


# --- selecting a neuron ------------------------------------------------------------------------------------------


def test_neuron_per_sample(case):
    """One index per sample explains each sample's own neuron; the largest output is the default."""
    found = case.analyzer.explain(case.x)
    best = np.argmax(found.output, axis=1)
    np.testing.assert_array_equal(found.target, best)
    close(case.analyzer.analyze(case.x, best), case.expected)
    index = np.arange(7) % 3
    mixed = case.analyzer.analyze(case.x, index)
    for i in range(3):
        alone = case.analyzer.analyze(case.x, i)
        close(mixed[index == i], alone[index == i])
        if case.info.family != "baseline":
            assert not np.allclose(alone, case.analyzer.analyze(case.x, (i + 1) % 3))


def test_explain_tells_output_target_and_extras(case):
    found = case.analyzer.explain(case.x, 2)
    np.testing.assert_array_equal(found.attribution, case.analyzer.analyze(case.x, 2))
    shifted = np.exp(found.output - found.output.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    close(softmax, case.model(case.x), 1e-9)  # the softmax was cut, and nothing else
    np.testing.assert_array_equal(found.target, np.full(7, 2))
    close(found.extras["score"], found.output[:, 2])
    close(found.extras["sum"], found.attribution.reshape(7, -1).sum(axis=1))
    assert found.extras["finite"].shape == (7,) and found.extras["finite"].all()
    if isinstance(case.analyzer, ReverseAnalyzer):
        assert found.extras["approximated"] == ()


def test_mode_all_explains_the_sum_of_the_outputs(case, step_by_step):
    """For every analyzer: the same as the sum as a target function; linear methods: the sum of the maps."""
    received = zoo.create(case.name, case.model, case.x).explain(case.x, "all")
    close(received.extras["score"], received.output.sum(axis=1))
    np.testing.assert_array_equal(received.target, np.full(7, -1))
    if case.name in ("gradient", "input_t_gradient", "integrated_gradients", "lrp.z", "lrp.alpha_2_beta_1", "lrp.flat"):
        close(received.attribution, sum(case.analyzer.analyze(case.x, i) for i in range(3)))


# --- layers and print --------------------------------------------------------------------------------------------


def test_relevance_of_layers_and_trace(case):
    if not case.analyzer.layer_names():
        with pytest.raises(InvalidInputError, match="no relevance per layer"):
            case.analyzer.analyze(case.x, return_layers=True)
        with pytest.raises(InvalidInputError, match="trace=True"):
            case.analyzer.explain(case.x, trace=True)
        return
    everything = case.analyzer.explain(case.x, return_layers=True, trace=True)
    close(everything.attribution, case.expected)
    found, traced = everything.extras["layers"], everything.extras["conservation"]
    assert set(found) == {layer.name for layer in case.model.layers[1:]}  # all but the input layer
    for layer in case.model.layers[1:]:
        assert found[layer.name].shape == (7, *layer.output.shape[1:])
        assert np.isfinite(found[layer.name]).all()
    assert list(traced) and set(traced) == {node.name for node in case.analyzer.graph_.nodes}
    if case.info.family in ("lrp", "deep_taylor"):  # the first node hands over to the input
        close(traced[case.analyzer.graph_.nodes[0].name], everything.extras["sum"] / everything.extras["score"])
    if case.name not in zoo.BASIC:  # another compilation, and the same code
        return
    wanted = case.model.layers[2].name
    attribution, one = case.analyzer.analyze(case.x, return_layers=[wanted], batch_size=3)
    close(attribution, case.expected)
    assert list(one) == [wanted]
    close(one[wanted], found[wanted])


def test_print_lists_every_node_with_its_rule(case):
    lines = str(case.analyzer).splitlines()
    assert repr(case.analyzer) in lines[0] and case.model.name in lines[0]
    assert (zoo.INFOS[case.name].name in lines[0]) and case.analyzer.summary() == str(case.analyzer)
    if not isinstance(case.analyzer, (ReverseAnalyzer, RateDistortion)):
        return
    assert "softmax cut" in lines[0]
    assert len(lines) == 1 + len(case.analyzer.graph_.nodes)
    for layer in case.model.layers[1:]:
        mine = [line for line in lines[1:] if layer.name in line.split()[1].split("/")]
        assert mine and type(layer).__name__ in " ".join(mine), layer.name


# --- the model is left alone -------------------------------------------------------------------------------------


def snapshot(model):
    """Everything of a model that an analyzer might disturb."""
    flat = list(model._flatten_layers())
    return {
        "variables": [np.asarray(v).copy() for v in model.variables],
        "losses": [np.asarray(v).copy() for v in model.losses],
        "nodes": [(layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in flat],
        "attributes": [dict(vars(layer)) for layer in flat],
        "trainable": [layer.trainable for layer in flat],
        "policy": keras.config.dtype_policy().name,
        "learning": [layer.name for layer in flat if getattr(layer, "training", None)],
    }


def same(before, after):
    for key, value in before.items():
        if key in ("variables", "losses"):
            assert len(value) == len(after[key]), key
            for a, b in zip(value, after[key], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=key)
        elif key == "attributes":  # the very same objects
            for a, b in zip(value, after[key], strict=True):
                assert sorted(a) == sorted(b)
                assert [k for k in a if a[k] is not b[k]] == []
        else:
            assert value == after[key], key


def trained(model, x):
    """A tape run and a training step; the weights are put back."""
    weights = model.get_weights()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True) ** 2)
    assert all(g is not None for g in tape.gradient(loss, model.trainable_variables))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.train_on_batch(x, np.zeros(model(x).shape))
    moved = any(not np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    model.set_weights(weights)
    return moved


def failing(y):
    raise RuntimeError("on purpose")


def test_model_is_unchanged_after_success_and_after_an_exception(case):
    config, predicted = case.model.to_json(), case.model.predict_on_batch(case.x)
    before = snapshot(case.model)
    case.analyzer.analyze(case.x)
    if case.analyzer.layer_names():
        case.analyzer.explain(case.x, return_layers=True, trace=True)
    same(before, snapshot(case.model))
    broken = zoo.create(case.name, case.model, case.x, neuron_selection_mode=failing)
    with pytest.raises(RuntimeError, match="on purpose"):
        broken.analyze(case.x)
    with pytest.raises(InvalidInputError):
        case.analyzer.analyze(case.x[:, :-1])
    same(before, snapshot(case.model))
    assert case.model.to_json() == config
    np.testing.assert_array_equal(case.model.predict_on_batch(case.x), predicted)
    assert trained(case.model, case.x)
    close(case.analyzer.analyze(case.x), case.expected)


def test_weights_are_read_when_it_runs(case, request):
    """Further training shows up in an analyzer that was built before."""
    learns_weights = case.info.needs_fit and case.info.family != "rde"  # RDE learns how the data are distributed
    if learns_weights or case.info.family == "baseline" or case.name not in zoo.BASIC:
        return
    weights = case.model.get_weights()
    try:
        case.model.set_weights([1.3 * w + 0.05 for w in weights])
        received = case.analyzer.analyze(case.x)
        request.getfixturevalue("step_by_step")  # what is built now
        close(received, zoo.create(case.name, case.model, case.x).analyze(case.x), 1e-9)
        assert not np.allclose(received, case.expected)
    finally:
        case.model.set_weights(weights)
    close(case.analyzer.analyze(case.x), case.expected)


def test_batch_size_bounds_the_forward_samples(case, traced_late):
    """Perturbed copies count: no forward pass sees more samples than ``batch_size``."""
    seen = []

    def counted(y):
        tf.py_function(lambda n: seen.append(int(n)), [tf.shape(y)[0]], [])
        return y[:, 0]

    zoo.create(case.name, case.model, case.x, neuron_selection_mode=counted, batch_size=2).analyze(case.x)
    assert seen and max(seen) <= 2


# --- the zoo -----------------------------------------------------------------------------------------------------


def _pairs():
    for i, model in enumerate(zoo.MODELS):
        for j, name in enumerate(zoo.NAMES):
            if (i + j) % RARER.get(model, ROTATION) == 0:
                marks = [pytest.mark.slow] if (i + 2 * j) % 3 != 1 else []
                marks += [pytest.mark.traced] if (i + 2 * j) % 3 == 0 or (i + j) // ROTATION % 3 == 0 else []
                yield pytest.param(model, name, id=f"{model}-{name}", marks=marks)


def _dtype(model):
    return "float32" if model in zoo.FLOAT32_ONLY else "float64"


@pytest.mark.parametrize(("model", "name"), list(_pairs()))
def test_zoo(model, name):
    """Every kind of model: maps like the input, by sample, with the model untouched; or a refusal."""
    sample = zoo.make(model, _dtype(model))
    if not zoo.applies(name, sample):
        with pytest.raises(UnsupportedModelError):
            zoo.create(name, sample.model, **sample.params)
        return
    x = sample.inputs(3)
    before = snapshot(sample.model)
    # a Gaussian learnt from three samples hardly differs from x: there would be little but rounding to compare
    data = sample.inputs(64) if name == "prediction_difference" else x
    analyzer = zoo.create(name, sample.model, data, **sample.params)
    found = analyzer.explain(x)
    same(before, snapshot(sample.model))
    tree.assert_same_structure(found.attribution, x)
    rtol = 1e-4 if _dtype(model) == "float32" else 1e-8
    second = analyzer.analyze(tree.map_structure(lambda v: v[1:2], x))
    for v, a, one in zip(*map(tree.flatten, (x, found.attribution, second)), strict=True):
        assert a.shape == v.shape and np.isfinite(a).all()
        assert a.dtype == (v.dtype if v.dtype.kind == "f" else a.dtype) and a.dtype.kind == "f"
        assert name in zoo.NOISE or one.shape == (1, *v.shape[1:])
        if name not in zoo.NOISE:
            close(a[1:2], one, rtol)
    assert found.extras["score"].shape == (3,)


@pytest.mark.traced
@pytest.mark.parametrize("model", zoo.thinned(m for m in zoo.MODELS if m not in ("tokens", "masked_lstm", "uint8")))
def test_gradient_of_every_model_equals_the_tape(model):
    """``on="output"`` and the model itself under a tape need nothing of the package in common."""
    sample = zoo.make(model, _dtype(model))
    x = tree.map_structure(tf.constant, sample.inputs(3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = sample.model(x, training=False)
        y = y[1] if sample.params else y  # output="second"
        flat = tf.reshape(y, (3, -1))
        top = tf.reduce_max(flat, axis=1)
    expected = tape.gradient(top, x)
    found = zoo.create("gradient", sample.model, on="output", **sample.params).explain(sample.inputs(3))
    close(found.output, y, 1e-6 if _dtype(model) == "float32" else 1e-12)
    for a, e in zip(tree.flatten(found.attribution), tree.flatten(expected), strict=True):
        close(a, e, 1e-4 if _dtype(model) == "float32" else 1e-9)


@pytest.mark.parametrize("model", zoo.MODELS)
def test_refusals_come_when_the_analyzer_is_built(model):
    """What doesn't apply is refused here, not in ``analyze``."""
    sample = zoo.make(model, _dtype(model))
    for name in [n for n in zoo.NAMES if not zoo.applies(n, sample)]:
        with pytest.raises(UnsupportedModelError) as refusal:
            zoo.create(name, sample.model, **sample.params)
        assert len(str(refusal.value)) > 60, "a refusal says why and what to do"


# --- what list_analyzers says ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bias_free():
    """A bias-free ReLU net wide enough that every neuron has positive and negative contributions."""
    with zoo.precision("float64"):
        net = keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(6, 3, use_bias=False, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2D(8, 2, use_bias=False, activation="relu"),
                layers.Flatten(),
                layers.Dense(24, use_bias=False, activation="relu"),
                layers.Dense(4, use_bias=False),
            ]
        )
    zoo.randomise(net, 3)
    return net, np.random.default_rng(4).uniform(-1, 1, (5, 8, 8, 2))


def test_rows_are_complete():
    infos = innv_ext.list_analyzers()
    assert len({i.name for i in infos}) == len(infos) >= 37
    for info in infos:
        assert info.description and info.cost and issubclass(info.cls, Analyzer), info.name
        assert info.reference or info.family in ("baseline", "user"), info.name
        assert info.needs_fit == info.cls.needs_fit, info.name


def test_the_example_of_the_documentation():
    assert "lrp.z_plus" in [a.name for a in innv_ext.list_analyzers() if a.sums_to == "f_c"]


@pytest.mark.parametrize("name", zoo.by_rule(zoo.NAMES))
def test_sum_and_sign(name, bias_free):
    """What is said to sum to f_c does on a bias-free net without stabiliser.

    ``signed=False`` means no negative value for a positive score; ``signed=True`` that there are some.
    """
    net, x = bias_free
    info = zoo.INFOS[name]
    params = {"epsilon": 1e-13} if "epsilon" in info.parameters() else {}
    params.update({"rule": "z"} if name == "lrp.rule_until_idx" else {})
    analyzer = zoo.create(name, net, x, **params)
    found = analyzer.explain(x)
    score = found.extras["score"]
    assert (score > 0).all()
    total = found.attribution.reshape(len(x), -1).sum(axis=1)
    if info.sums_to == "at most k":
        assert (total <= analyzer.rate * (1 + 1e-12)).all()
    elif info.sums_to and not info.sums_to.startswith("f_c(x) - "):
        close(total, score, 1e-8)
    maps = analyzer.analyze(np.abs(x)) if name == "lrp.z_plus_fast" else found.attribution  # made for x >= 0
    if info.signed and name != "lrp.z_plus_fast":
        assert (maps < 0).any()
    else:
        assert (maps >= 0).all() and (maps > 0).any()


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if zoo.INFOS[n].sums_to in ("f_c", "relu(f_c)")])
def test_sum_with_biases(name):
    """Methods that leave biases out of the denominators conserve the score of any net."""
    sample = zoo.make("convnet", "float64")
    found = zoo.create(name, sample.model).explain(sample.inputs(7))
    assert (found.extras["score"] > 0).all()
    close(found.attribution.reshape(7, -1).sum(axis=1), found.extras["score"], 1e-8)


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if zoo.INFOS[n].sums_to == "f_c(x) - f_c(reference)"])
def test_sum_relative_to_a_reference(name):
    smooth = zoo.make("mlp_tanh", "float64")
    found = zoo.create(name, smooth.model, steps=40).explain(smooth.inputs(3))
    at_zero = np.asarray(smooth.model(np.zeros((3, 6))))[np.arange(3), found.target]
    close(found.attribution.sum(axis=1), found.extras["score"] - at_zero, 1e-9)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_needs_relu(name):
    sample = zoo.make("mlp_tanh")
    if not zoo.INFOS[name].needs_relu:
        if zoo.applies(name, sample):
            zoo.create(name, sample.model)
        return
    with pytest.raises(UnsupportedModelError, match="tanh"):
        zoo.create(name, sample.model)


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if zoo.INFOS[n].needs_fit])
def test_needs_fit(name):
    sample = zoo.make("convnet")
    with pytest.raises(NotFittedError, match="fit"):
        zoo.create(name, sample.model).analyze(sample.inputs(2))


def test_defaults_are_what_is_listed(case, step_by_step):
    """Passing every listed default explicitly changes nothing; what has no default is refused when it is missing."""
    given = zoo.PARAMS.get(case.name, {})
    listed = case.info.parameters()
    needed = [k for k, default in listed.items() if default is inspect.Parameter.empty]
    assert set(needed) <= set(given)
    if needed:
        with pytest.raises(InvalidInputError, match=needed[0]):
            innv_ext.create_analyzer(case.name, case.model)
    explicit = {**{k: v for k, v in listed.items() if k not in needed}, **given}
    close(innv_ext.create_analyzer(case.name, case.model, **explicit).fit(case.x).analyze(case.x), case.expected)


@pytest.mark.parametrize("alias", zoo.ALIASES)
def test_aliases(alias):
    sample = zoo.make("residual", "float64")
    x = sample.inputs(2)
    maps = [zoo.create(name, sample.model).analyze(x) for name in (alias, zoo.ALIASES[alias])]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("name", zoo.by_rule(zoo.NAMES))
def test_fit_returns_the_analyzer_and_arguments_are_attributes(name):
    sample = zoo.make("convnet")
    analyzer = zoo.create(name, sample.model, batch_size=5)
    assert analyzer.fit(sample.inputs(4)) is analyzer
    assert analyzer.batch_size == 5 and analyzer.model is sample.model
    assert all(getattr(analyzer, k) is v for k, v in analyzer.get_params().items())


def test_a_warning_tells_which_samples_have_no_positive_score():
    """Deep Taylor: zero maps and one warning, instead of wrong signs."""
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(6)
    logits = zoo.create("gradient", sample.model).explain(x).output
    index = np.argmin(logits, axis=1)
    assert (logits.min(axis=1) < 0).any() and (logits.min(axis=1) > 0).any()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = zoo.create("deep_taylor", sample.model).analyze(x, index)
    dead = logits.min(axis=1) <= 0
    assert (maps[dead] == 0).all() and (maps[~dead] > 0).any()
    assert len([w for w in caught if f"{dead.sum()} samples (first: {np.flatnonzero(dead)[0]})" in str(w.message)]) == 1
