"""compare: the numbers are those of the evaluation functions, and what goes wrong becomes part of the result."""

import json

import keras
import numpy as np
import pytest
import zoo
from comparison_cases import Broken, Flat, Interrupted, NotFinite, Warning, everything, images, net
from keras import layers

import innv_ext
from innv_ext.analyzers import Gradient
from innv_ext.comparison import Comparison, Metric, NotApplicable, compare, list_metrics
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.attack import attack_interpretation
from innv_ext.evaluation.measures import inside_ratio, sparsity
from innv_ext.evaluation.ordering import relevance_ordering
from innv_ext.evaluation.perturbation import perturbation_analysis
from innv_ext.evaluation.randomization import randomization_check
from innv_ext.evaluation.sensitivity import sensitivity
from innv_ext.evaluation.subject import Scores

LABELS = np.array([0, 2, 1, 0])
MASKS = np.array([[0, 0, 3, 3]] * 3 + [[2, 2, 6, 6]])


def run(model, x, analyzers, **options):
    return compare(model, x, analyzers, progress=False, **{"metrics": ["gini"], **options})


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def x():
    return images()


# --- values --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(model, x):
    metrics = {
        "morf": ("aopc_morf", {"regions": 2}), "lerf": ("aopc_lerf", {"perturbation": "inversion", "steps": 5}),
        "ordering_distortion": {"rates": 4, "samples": 3}, "ordering_accuracy": {"rates": 4, "samples": 3},
        "sensitive": ("max_sensitivity", {"radius": 0.1, "samples": 3}), "usual": "max_sensitivity", "gini": {},
        "zeros": ("gini", {"kind": "zeros"}), "inside_ratio": {"kind": "weighted"},
        "attack_top_k": {"epsilon": 0.3, "steps": 3}, "randomization": {},
    }
    return run(model, x, ["gradient", "input_t_gradient"], metrics=metrics, labels=LABELS, masks=MASKS, seed=5)


def direct(model, x, analyzer, maps):
    """Every metric of ``measured`` by a call of its own, for one analyzer alone."""
    common = {"progress": False, "seed": 5}
    morf = perturbation_analysis(model, x, maps, regions=2, random_baseline=False, **common)
    lerf = perturbation_analysis(model, x, maps, order="lerf", perturbation="inversion", steps=5,
                                 random_baseline=False, **common)
    ordering = relevance_ordering(model, x, maps, rates=4, samples=3, labels=LABELS, **common)
    radius = 0.02 * (x.max() - x.min())
    return {
        "morf": morf.aopc["relevance"], "lerf": lerf.aopc["relevance"],
        "ordering_distortion": ordering.distortion_area["relevance"],
        "ordering_accuracy": ordering.accuracy_area["relevance"],
        "sensitive": sensitivity(analyzer, x, radius=0.1, samples=3, **common),
        "usual": sensitivity(analyzer, x, radius=radius, **common),
        "gini": sparsity(maps), "zeros": sparsity(maps, kind="zeros"),
        "inside_ratio": inside_ratio(maps, MASKS, kind="weighted"),
        "attack_top_k": attack_interpretation(analyzer, x, epsilon=0.3, steps=3, **common).metrics.top_k,
        "randomization": randomization_check(model, analyzer.registered_name_, x, **common)
        .absolute_rank_correlation.mean(axis=0),
    }


def test_values_are_those_of_the_evaluation_functions(measured, model, x):
    """Also where another analyzer is measured beside it."""
    analyzer, row = innv_ext.create_analyzer("input_t_gradient", model), measured.row("input_t_gradient")
    np.testing.assert_allclose(row.maps, analyzer.analyze(x), rtol=1e-6)
    expected = direct(model, x, analyzer, row.maps)
    assert row.failure is None and set(row.cells) == set(expected)
    for metric, values in expected.items():
        assert row.cells[metric].failure is None, row.cells[metric].failure
        np.testing.assert_allclose(row.cells[metric].values, values, rtol=1e-5, atol=1e-7, err_msg=metric)
    assert len(np.unique(row.cells["morf"].values)) == 4
    assert not np.allclose(row.cells["morf"].values, measured.row("gradient").cells["morf"].values)


def test_usual_metrics(model, x):
    usual = ["aopc_morf", "ordering_distortion", "max_sensitivity", "gini", "completeness_error"]
    found = run(model, x[:2], ["input"], metrics=None, masks=MASKS[:2])
    assert [c.title for c in found.criteria] == [*usual, "inside_ratio"]
    assert [c.better for c in found.criteria] == ["higher", "lower", "lower", "none", "lower", "higher"]
    assert set(found.curves) == {"aopc_morf", "ordering_distortion"}
    assert "random" in found.curves["aopc_morf"].names and "random" in found.curves["ordering_distortion"].names
    assert [row.title for row in found.rows] == ["input"]  # the baseline of the curves is no row


def test_tokens_get_metrics_that_do_not_move_them():
    sample = zoo.make("tokens")
    found = run(sample.model, sample.inputs(3), ["random", "gradient"], metrics=None)
    assert "max_sensitivity" not in [c.title for c in found.criteria] and len(found.criteria) == 4
    assert all(row.problems == [] for row in found.rows), found.table()
    with pytest.raises(InvalidInputError, match="moves x by a little, but the model takes int32"):
        run(sample.model, sample.inputs(3), ["random"], metrics=["max_sensitivity"])


@pytest.mark.filterwarnings("default:Deep Taylor explains positive scores only")
def test_sums_by_hand():
    """A linear model: contributions are exact; biases, half a step and the reference are what is missing."""
    linear = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    linear.set_weights([np.array([[2.0], [3.0]]), np.array([4.0])])
    analyzers = {"lrp": ("lrp.z_IB", {}), "absorbed": ("lrp.epsilon", {}), "gradient": "gradient",
                 "ig": ("integrated_gradients", {"steps": 3, "reference_inputs": [1.0, 0.0]}),
                 "dl": ("deep_lift", {"reference_inputs": [1.0, 0.0]}), "dt": ("deep_taylor", {})}
    data = np.array([[1.0, 2.0], [-3.0, -1.0]])  # scores 12 and -5
    found = run(linear, data, analyzers, metrics={"r": "completeness_error", "a": ("completeness_error",
                                                                                     {"kind": "absolute"})})
    values = {row.title: (row.cells["r"].values, row.cells["a"].values) for row in found.rows}
    for exact in ("lrp", "ig", "dl"):
        np.testing.assert_allclose(values[exact], 0, atol=1e-5, err_msg=exact)
    np.testing.assert_allclose(values["absorbed"], [[4 / 12, 4 / 5], [4, 4]], rtol=1e-5)
    assert values["gradient"] == (None, None) and found.row("gradient").cells["r"].failure is None
    assert "does not say" in found.row("gradient").cells["r"].note
    assert values["dt"][1][1] == 0  # relu(f_c) is 0, and so is the map


@pytest.mark.parametrize("given", [None, [2, 0, 1, 1]])
def test_all_explain_the_same_neurons(model, x, given):
    """Those of the unperturbed samples, also where an analyzer or metric works elsewhere."""
    seen = {}

    def target(context):
        seen[context.title] = context.explanation.target
        return context.neurons

    found = run(model, x, ["gradient", ("smoothgrad", {"augment_by_n": 2})], metrics=[target], neuron_selection=given)
    probabilities = np.asarray(model(x))
    expected = probabilities.argmax(axis=1) if given is None else given
    assert set(seen) == {"gradient", "smoothgrad"}
    for title, targets in seen.items():
        np.testing.assert_array_equal(targets, expected)
        np.testing.assert_array_equal(found.row(title).cells["target"].values, expected)
    assert found.samples.neurons == tuple(expected)
    np.testing.assert_allclose(found.samples.probability, probabilities[np.arange(4), expected], rtol=1e-5)
    np.testing.assert_array_equal(found.samples.predicted, probabilities.argmax(axis=1))
    logits = np.asarray(innv_ext.model_wo_softmax(model)(x))
    np.testing.assert_allclose(found.samples.score, logits[np.arange(4), expected], rtol=1e-4)


def test_output_and_on():
    sample = zoo.make("two_outputs")
    found = run(sample.model, sample.inputs(2), ["gradient", ("gradient", {"output": "second"})][:1], output="second",
                metrics=["aopc_morf"], fit=sample.inputs(4))
    direct_map = zoo.create("gradient", sample.model, output="second").analyze(sample.inputs(2))
    np.testing.assert_allclose(found.row("gradient").maps, direct_map, rtol=1e-6)
    probability = run(net((6,)), images(3, (6,)), ["gradient"], on="output")
    assert probability.samples.probability is None and (probability.samples.score <= 1).all()
    assert probability.row("gradient").params["on"] == "output"


def test_outputs_with_more_axes():
    sample = zoo.make("segmentation")
    given = [[1, 2, 0], [0, 0, 1]]
    found = run(sample.model, sample.inputs(2), ["gradient"], neuron_selection=given, metrics=["aopc_morf", "gini"])
    assert found.samples.neurons == ("(1, 2, 0)", "(0, 0, 1)") and found.row("gradient").problems == []
    np.testing.assert_allclose(found.row("gradient").maps,
                               zoo.create("gradient", sample.model).analyze(sample.inputs(2), given), rtol=1e-6)


def test_a_user_s_metric(model, x):
    def own(context, power=1):
        """Mean magnitude

        and more.
        """
        assert context.model is model and context.labels is None and context.channel_axis == -1
        return (np.abs(context.relevance) ** power).mean(axis=(1, 2, 3))

    def nothing(context):
        raise NotApplicable("not today")

    metrics = {"one": own, "two": (own, {"power": 2}), "row": Metric("own", own, "mean", "lower"), "none": nothing}
    found = run(model, x, ["gradient"], metrics=metrics)
    maps, cells = found.row("gradient").maps, found.row("gradient").cells
    np.testing.assert_allclose(cells["one"].values, np.abs(maps).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(cells["two"].values, (maps**2).mean(axis=(1, 2, 3)))
    said = [(c.measures, c.better) for c in found.criteria[:3]]
    assert said == [("Mean magnitude", "none"), ("Mean magnitude", "none"), ("mean", "lower")]
    assert cells["none"].note == "not today" and found.row("gradient").problems == []


def test_batch_size_bounds_the_forward_samples_and_does_not_matter(model, monkeypatch):
    seen = []
    call = Scores.__call__
    monkeypatch.setattr(Scores, "__call__", lambda self, x, index: (seen.append(len(x)), call(self, x, index))[1])

    class Watched(Gradient):
        def explain_batch(self, xs, index, size, **options):
            seen.extend([len(xs[0]), size])
            return super().explain_batch(xs, index, size, **options)

    metrics = {"aopc_morf": {"steps": 4}, "ordering_distortion": {"rates": 3}, "max_sensitivity": {"samples": 4},
               "attack_top_k": {"steps": 2}, "randomization": {"order": "independent"}}
    row = run(model, images(5), [Watched(model)], metrics=metrics, batch_size=3).rows[0]
    assert row.problems == [] and len(seen) > 50 and max(seen) == 3
    del metrics["attack_top_k"], metrics["randomization"]
    other = run(model, images(5), [Watched(model)], metrics=metrics, batch_size=64).rows[0]
    for metric, cell in other.cells.items():
        np.testing.assert_allclose(cell.values, row.cells[metric].values, rtol=1e-4, atol=1e-6)


def test_remake(model, x):
    """Analyzers that learn from data are made anew for each state of a model, others once for each model."""
    other, kept = net(seed=5), []

    def own(context):
        first, second, third = (context.remake(m) for m in (other, other, model))
        kept.append((first is second, first.model is other, third.model is model, second.is_fitted()))
        return np.zeros(4)

    run(model, x, {"a": "gradient", "b": "pattern.net", "c": Gradient(model)}, fit=x, metrics=[own])
    assert kept == [(True, True, True, True), (False, True, True, True), (True, True, True, True)]


def test_nothing_is_changed(model, x):
    weights, kept = model.get_weights(), x.copy()
    given = innv_ext.create_analyzer("pattern.net", model)
    found = run(model, x, {"named": "pattern.net", "given": given}, fit=x, metrics=["max_sensitivity"])
    assert found.row("named").failure is None and found.row("given").failure.type == "NotFittedError"
    assert not given.is_fitted() and "fit it before" in found.row("given").failure.message
    np.testing.assert_array_equal(x, kept)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@zoo.quick
def test_only_analyzers_that_need_data_are_fitted(model, x):
    made = {"fitted": innv_ext.create_analyzer("moreau_grad", model, steps=2).fit(x)}
    found = run(model, x, {"named": ("moreau_grad", {"steps": 2}), **made}, fit=x)
    plain = innv_ext.create_analyzer("moreau_grad", model, steps=2).analyze(x)
    np.testing.assert_allclose(found.row("named").maps, plain, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found.row("fitted").maps, plain, rtol=1e-2)


def test_given_analyzers(model, x):
    given = innv_ext.create_analyzer("smoothgrad", model, augment_by_n=2, progress=False)
    found = run(model, x, [given, Warning(model)], metrics=["gini", "randomization"])
    assert [row.title for row in found.rows] == ["smoothgrad", "Warning"]
    np.testing.assert_allclose(found.row("smoothgrad").maps, given.analyze(x), rtol=1e-6)
    assert found.row("smoothgrad").params["augment_by_n"] == 2
    assert found.row("Warning").cells["randomization"].failure is None


@pytest.mark.filterwarnings("ignore:look <here>")
@pytest.mark.filterwarnings("ignore:code is old:DeprecationWarning")
def test_times(model, x):
    """A sample's seconds are those of one, and the first call counts as building."""
    class Slow(Warning):
        def explain_batch(self, xs, *args, **options):
            clock.sleep(0.05 * len(xs[0]))
            return super().explain_batch(xs, *args, **options)

    import time as clock

    Slow(model).explain(x)
    row = run(model, x, [Slow(model)]).rows[0]
    assert row.build_seconds >= 0.05 and 0.05 <= row.sample_seconds < 0.2
    assert run(model, x[:1], [Slow(model)]).rows[0].sample_seconds >= 0.05


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failing(model, x):
    return everything(model, x)


def test_failures_are_rows(failing):
    types = {row.title: row.failure.type for row in failing.rows if row.failure is not None}
    assert types == {"broken": "ZeroDivisionError", "pattern.net": "NotFittedError"}
    assert "fit=X_train" in failing.row("pattern.net").failure.message
    assert failing.row("broken").failure.message.startswith("<img src=x")
    for title in types:
        assert all(c.values is None for c in failing.row(title).cells.values()) and failing.row(title).maps is None
    for title in ("gradient", "epsilon", "random", "warning"):
        cells = failing.row(title).cells
        assert all((cells[m].values is None) == (m == "completeness_error" and title != "epsilon") for m in cells)


def test_maps_that_are_not_finite(failing, model, x):
    row = failing.row("not finite")
    assert row.failure is None and np.isnan(row.maps).sum() == 1
    assert all("1 samples (first: 1) are not finite" in cell.failure.message for cell in row.cells.values())
    alone = run(model, x, [NotFinite(model)], metrics=["aopc_morf"])
    assert alone.curves == {} and alone.rows[0].cells["aopc_morf"].failure is not None


def test_warnings_are_kept_once(failing, recwarn):
    assert failing.row("warning").warnings == ("UserWarning: look <here>",)
    assert failing.row("gradient").problems == [] and not recwarn.list
    assert "- warning: warned: UserWarning: look <here>" in failing.table()


def test_a_metric_that_fails(model, x):
    def wrong(context):
        return np.zeros(3)

    def breaks(context):
        if context.title == "gradient":
            raise KeyError("no")
        return np.arange(4)

    found = run(model, x, ["gradient", "input"], metrics={"wrong": wrong, "breaks": breaks, "gini": {},
                                                          "aopc_morf": {"regions": 99}})
    assert found.row("gradient").cells["wrong"].failure.message.startswith("The metric 'wrong' returned an array of")
    assert found.row("gradient").cells["breaks"].failure.type == "KeyError"
    np.testing.assert_array_equal(found.row("input").cells["breaks"].values, np.arange(4))
    assert found.row("input").cells["gini"].values is not None
    assert {row.cells["aopc_morf"].failure.type for row in found.rows} == {"InvalidInputError"}
    assert "failed" in found.table() and found.curves == {}


def test_a_map_of_another_shape(model, x):
    row = run(model, x, [Flat(model)]).rows[0]
    assert row.failure.message == "The maps have shape (1, 6, 6), but x has (1, 6, 6, 2)."


def test_an_interruption_passes(model, x):
    with pytest.raises(KeyboardInterrupt):
        run(model, x, ["gradient", Interrupted(model)])


def test_all_fail(model, x):
    found = run(model, x, [Broken(model)], metrics=["aopc_morf", "gini"])
    assert found.maps == {} and found.ranking("aopc_morf") == [] and "failed | failed" in found.table()


def test_what_the_method_cannot_explain():
    sample = zoo.make("mlp_tanh")
    found = run(sample.model, sample.inputs(2), ["deep_taylor", "gradient"])
    assert found.row("deep_taylor").failure.type == "UnsupportedModelError" and found.row("gradient").failure is None


# --- bad input: nothing runs ---------------------------------------------------------------------------------------

BAD = [
    ({"analyzers": ["gradiant"]}, "There is no analyzer 'gradiant'. Did you mean 'gradient'"),
    ({"analyzers": {"a": "gradiant"}}, "Did you mean 'gradient'"),
    ({"analyzers": {"lrp.epsilon": {"epsilom": 1}}}, "has no parameter 'epsilom'. Did you mean 'epsilon'?"),
    ({"analyzers": ["deep_taylor.bounded"]}, "'deep_taylor.bounded' needs the parameter low, high"),
    ({"analyzers": ["gradient", "gradient"]}, "'gradient' more than once"),
    ({"analyzers": "gradient"}, "must be a list of names"),
    ({"analyzers": []}, "at least one entry"),
    ({"analyzers": {1: "gradient"}}, "texts as keys"),
    ({"analyzers": [{"gradient": {}}]}, "in a list"),
    ({"analyzers": [("gradient", 1)]}, r"must be \(name, parameters\)"),
    ({"analyzers": [3]}, "has the entry 3"),
    ({"analyzers": [("gradient", {"output": "other"})]}, "output='other'"),
    ({"metrics": ["aopc"]}, "Did you mean 'aopc_morf'|Did you mean 'aopc_lerf'"),
    ({"metrics": {"gini": {"sort": 1}}}, "parameter of 'gini' must be one of .*got 'sort'"),
    ({"metrics": ["inside_ratio"]}, "needs masks="),
    ({"metrics": [3]}, "has the entry 3"),
    ({"metrics": ["gini", "gini"]}, "'gini' more than once"),
    ({"metrics": [Metric("m", lambda c: c, better="up")]}, "better"),
    ({"labels": [0, 1, 2, 3]}, r"labels holds 3 \(sample 3\)"),
    ({"labels": [0.0, 1, 2, 0]}, "labels must be integers"),
    ({"labels": [0, 1]}, r"shape \(4,\)"),
    ({"masks": np.zeros((4, 6, 6), bool)}, "nothing inside"),
    ({"masks": np.zeros((4, 5, 6), bool)}, "does not fit"),
    ({"x": images()[:, :5]}, "has shape"),
    ({"x": images()[:0]}, "nothing to explain"),
    ({"x": images() * np.nan}, "NaN"),
    ({"neuron_selection": 3}, "out of range"),
    ({"neuron_selection": "all"}, "no single neuron"),
    ({"batch_size": 0}, "batch_size"),
    ({"seed": -1}, "seed"),
    ({"on": "score"}, "on must be"),
    ({"output": "other", "analyzers": ["gradient"]}, "not an output"),
    ({"class_names": "abc"}, "class_names"),
    ({"class_names": {"a": "b"}}, "class_names"),
    ({"class_names": ["a", "\ud800", "c"]}, "class_names has the text .* no valid Unicode"),
    ({"analyzers": {"\ud800": "gradient"}}, "analyzers has the text .* no valid Unicode"),
    ({"analyzers": {"random": "gradient"}}, "'random' is that of the baseline"),
    ({"output": (1, 0), "analyzers": ["gradient"]}, "output must be a name or a position"),
    ({"output": 0.0, "analyzers": ["gradient"]}, "output must be a name or a position"),
    ({"model": 3}, "must be a keras.Model"),
    ({"report": 3}, "report must be a path"),
    ({"out": 3}, "out must be a path"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[f"{i} {next(iter(g))}" for i, (g, _) in enumerate(BAD)])
def test_bad_input_is_refused_before_anything_runs(model, given, message):
    ran = []

    class Watched(Broken):
        def explain(self, *args, **options):
            ran.append(1)
            return super().explain(*args, **options)

    arguments = {"model": model, "x": images(), "analyzers": [Watched(model)], **given}
    with pytest.raises(InvalidInputError, match=message):
        compare(arguments.pop("model"), arguments.pop("x"), arguments.pop("analyzers"), progress=False, **arguments)
    assert not ran


def test_analyzers_of_other_models_and_outputs(model, x):
    with pytest.raises(InvalidInputError, match="explains another model"):
        run(model, x, [innv_ext.create_analyzer("gradient", net(seed=4))])
    sample = zoo.make("two_outputs")
    with pytest.raises(InvalidInputError, match="explains another output"):
        run(sample.model, sample.inputs(2), [zoo.create("gradient", sample.model, output="second")], output=0)


def test_files_that_cannot_be_written_are_refused_before_anything_runs(model, x, tmp_path):
    (tmp_path / "file").write_text("x")
    for given in ({"report": tmp_path / "file" / "r.html"}, {"report": tmp_path}, {"out": tmp_path / "file"}):
        with pytest.raises(InvalidInputError, match=next(iter(given))):
            run(model, x, [Interrupted(model)], **given)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_list_metrics():
    found = {m.name: m for m in list_metrics()}
    assert len(found) == 10 and all(m.measures and m.source and m.better in ("higher", "lower", "none")
                                    for m in found.values())
    assert [m.name for m in found.values() if "masks" in m.needs] == ["inside_ratio"]
    assert found["attack_top_k"].takes == ("epsilon", "k", "steps", "step_size", "method", "value_range", "softplus")
    assert found["aopc_morf"].takes == found["aopc_lerf"].takes == (
        "regions", "perturbation", "value", "mean", "std", "data", "sigma", "steps", "aggregate", "samples", "on")
    assert found["randomization"].takes == ("order", "how") and found["inside_ratio"].takes == ("kind",)
    assert found["ordering_accuracy"].takes == ("noise", "mean", "std", "data", "rates", "samples", "features", "on")


def test_progress(model, x, capsys):
    compare(model, x, ["gradient"], metrics=["gini"])
    assert capsys.readouterr().err == ""  # nothing on short work
    assert isinstance(compare(model, x[:1], ["random"], metrics=["gini"], progress=False), Comparison)


def test_constant_samples_have_no_range_to_move_in(model):
    found = compare(
        model, np.zeros((2, 6, 6, 2)), ["gradient"], metrics=["max_sensitivity", "attack_top_k"], progress=False
    )
    cells = found.rows[0].cells
    assert "pass radius=" in cells["max_sensitivity"].note
    assert "pass epsilon=" in cells["attack_top_k"].note
    assert all(cell.failure is None and cell.values is None for cell in cells.values())


def test_a_kind_of_completeness_that_does_not_exist_is_named(model):
    metrics = {"completeness_error": {"kind": "foo"}}
    found = compare(model, images(), ["lrp.z", "gradient"], metrics=metrics, progress=False)
    for row in found.rows:
        assert "kind must be one of 'relative', 'absolute', got 'foo'" in str(row.cells["completeness_error"].failure)


def test_the_perturbation_of_a_table_follows_what_it_is_told():
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(3, 5))
    gradient = innv_ext.create_analyzer("input_t_gradient", net).analyze(x)
    ways = (({"mean": x.mean(0)}, "mean"), ({"value": 0}, "constant"), ({"perturbation": "uniform"}, "uniform"))
    for told, kind in ways:
        found = compare(net, x, ["input_t_gradient"], metrics={"aopc_morf": told}, progress=False)
        told = {"perturbation": kind, **told}
        direct = perturbation_analysis(net, x, {"a": gradient}, progress=False, **told)
        np.testing.assert_allclose(found.rows[0].cells["aopc_morf"].values, direct.aopc["a"], rtol=1e-5, atol=1e-6)


UNITS = np.array([1000.0, 1.0, 0.01, 5.0])


def weighed():
    """A linear score of columns with units of their own, and data with one deviation of each unit."""
    rng = np.random.default_rng(1)
    with zoo.precision("float64"):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [4.0], [8.0], [0.0]]) / UNITS[:, None]])
    return model, UNITS * (3 + rng.normal(size=(6, 4))), UNITS * (3 + rng.normal(size=(5000, 4)))


def test_tables_are_perturbed_like_the_training_data():
    """E (score lost)^2 = (sum of w (x - mean))^2 + sum of w^2 std^2, with moments of fit=; and each radius by hand."""
    model, x, data = weighed()
    w, mean, std = np.array([1, 4, 8, 0.0]) / UNITS, data.mean(axis=0), data.std(axis=0)
    metrics = {"ordering_distortion": {"rates": [0, 1], "samples": 4000}, "aopc_morf": {"samples": 2000},
               "max_sensitivity": {"samples": 2}}
    for fit in (data, iter([data[:1000], data[1000:]])):  # an array, or batches
        found = run(model, x, ["input_t_gradient", "random"], metrics=metrics, fit=fit)
        area = ((x - mean) @ w) ** 2 + (w**2 * std**2).sum()
        np.testing.assert_allclose(found.rows[0].cells["ordering_distortion"].values, area / 2, rtol=0.1)
        order = np.argsort(-w * x, axis=1)
        lost = np.cumsum(np.take_along_axis(w * (x - mean), order, axis=1), axis=1).sum(axis=1) / 5
        np.testing.assert_allclose(found.rows[0].cells["aopc_morf"].values, lost, atol=0.45)
        radius = sensitivity(innv_ext.create_analyzer("input_t_gradient", model), x, radius=0.1 * std, samples=2)
        np.testing.assert_allclose(found.rows[0].cells["max_sensitivity"].values, radius, rtol=1e-6)
    assert found.settings["columns"] == "those of the training data" and not found.rows[0].problems


def test_no_unit_of_a_column_decides():
    """The same model of the same data in other units has the same numbers."""
    model, x, data = weighed()
    with zoo.precision("float64"):
        plain = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False)])
    plain.set_weights([model.get_weights()[0] * UNITS[:, None]])
    found = run(model, x, ["input_t_gradient", "random"], metrics=None, fit=data)
    other = run(plain, x / UNITS, ["input_t_gradient", "random"], metrics=None, fit=data / UNITS)
    assert len(found.criteria) == 5 and found.row("input_t_gradient").problems == []
    for metric, of in found.measures().items():
        for title, values in of.items():
            np.testing.assert_allclose(values, other.measures()[metric][title], rtol=1e-6, atol=1e-9, err_msg=metric)
    ranking = dict(found.ranking("aopc_morf"))
    assert ranking["input_t_gradient"] > 1.5 * ranking["random"]


def test_tables_without_training_data_are_a_warning():
    model, x, _ = weighed()
    with pytest.warns(UserWarning, match="columns are those of the 6 samples of x. Pass training data, fit="):
        found = run(model, x, ["gradient"], metrics=["aopc_morf"])
    assert found.settings["columns"] == "those of the 6 samples of x"
    with pytest.warns(UserWarning, match="mixes their units. Pass training data, fit="):
        alone = run(model, x[:1], ["input_t_gradient"], metrics=["ordering_distortion", "max_sensitivity"])
    direct = sensitivity(innv_ext.create_analyzer("input_t_gradient", model), x[:1], radius=0.02 * abs(x[0]))
    np.testing.assert_allclose(alone.rows[0].cells["max_sensitivity"].values, direct, rtol=1e-6)
    run(model, x, ["gradient"], metrics={"aopc_morf": {"mean": x.mean(axis=0)}, "gini": {}})  # is told: no warning
    with pytest.raises(InvalidInputError, match="Batch 0 of the training data"):
        run(model, x, [Interrupted(model)], metrics=["aopc_morf"], fit=x[:, :3])
    endless = ([x] for _ in iter(int, 1))  # is not read where nothing asks for it
    assert run(model, x, ["gradient"], metrics=["gini"], fit=endless).rows[0].problems == []
    noted = run(model, x, ["gradient"], metrics=["attack_top_k"], fit=x).rows[0].cells["attack_top_k"]
    assert "units of their own" in noted.note and noted.failure is None


# --- several inputs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["two_inputs", "dict_inputs"])
def several(request):
    sample = zoo.make(request.param)
    x = sample.inputs(3)
    metrics = {"aopc_morf": {"regions": [2, None], "samples": 2}, "ordering_distortion": {"rates": 3, "samples": 2},
               "max_sensitivity": {"samples": 2}, "gini": {}, "completeness_error": {}}
    metrics["mine"] = lambda context: context.relevance["table"].sum(axis=1) - context.x["table"].sum(axis=1)
    analyzers = ["gradient", "integrated_gradients", "random"]
    found = run(sample.model, x, analyzers, metrics=metrics, fit=sample.inputs(9), labels=[0, 1, 2])
    return sample, x, found


def test_models_with_several_inputs(several, tmp_path):
    sample, x, found = several
    named = x if isinstance(x, dict) else dict(zip(("image", "table"), x, strict=True))
    maps = zoo.create("gradient", sample.model).analyze(named)
    row = found.row("gradient")
    assert all(row.problems == [] for row in found.rows) and set(row.maps) == {"image", "table"}
    for name, own in maps.items():
        np.testing.assert_allclose(row.maps[name], own, rtol=1e-5, atol=1e-7)
    data = sample.inputs(9)
    common = {"data": data, "progress": False, "neuron_selection": np.array(found.samples.neurons)}
    morf = perturbation_analysis(sample.model, x, {"m": maps}, regions=[2, None], samples=2, **common).aopc["m"]
    np.testing.assert_allclose(row.cells["aopc_morf"].values, morf, rtol=1e-4, atol=1e-6)
    kept = relevance_ordering(sample.model, x, maps, rates=3, samples=2, labels=[0, 1, 2], **common)
    np.testing.assert_allclose(row.cells["ordering_distortion"].values, kept.distortion_area["relevance"], rtol=1e-4)
    table = (data["table"] if isinstance(data, dict) else data[1]).astype("float64")
    radius = [0.02 * np.ptp(named["image"]), 0.1 * table.std(axis=0)]
    moved = sensitivity(zoo.create("gradient", sample.model), x, radius=radius, samples=2, progress=False)
    np.testing.assert_allclose(row.cells["max_sensitivity"].values, moved, rtol=1e-4, atol=1e-6)
    flat = np.concatenate([maps["image"].reshape(3, -1), maps["table"]], axis=1)
    np.testing.assert_allclose(row.cells["gini"].values, sparsity(flat), rtol=1e-5)
    np.testing.assert_allclose(row.cells["mine"].values, (maps["table"] - named["table"]).sum(axis=1), rtol=1e-4)
    assert (found.row("integrated_gradients").cells["completeness_error"].values < 0.1).all()


def test_pictures_and_files_of_several_inputs(several, tmp_path):
    _, _, found = several
    assert len(found.plot().axes) == 3 * 4 and len(found.plot(input="table").axes) > 3
    with pytest.raises(InvalidInputError, match="input must be one of 'image', 'table', got 'tabel'"):
        found.plot(input="tabel")
    found.save(tmp_path)
    found.report(tmp_path / "report.html", samples=1)
    assert {"maps_1.png", "maps_2.png", "comparison.json"} <= {p.name for p in tmp_path.iterdir()}
    page = (tmp_path / "report.html").read_text()
    assert "input image" in page and "input table" in page and "image: float32, shape (3, 6, 6, 1)" in page
    again = Comparison.from_dict(json.loads(json.dumps(found.to_dict(maps=True))))
    np.testing.assert_allclose(again.maps["gradient"]["table"], found.maps["gradient"]["table"])
    assert again.table() == found.table() and len(again.plot(input="image").axes) == 3 * 4


def test_metrics_of_one_array_say_why_they_refuse_several_inputs():
    sample = zoo.make("two_inputs")
    for name, why in (("attack_top_k", "moves one array"), ("randomization", "pictures of one map")):
        with pytest.raises(InvalidInputError, match=rf"'{name}' takes models with one input, because .*{why}.*'table'"):
            run(sample.model, sample.inputs(2), ["gradient"], metrics=[name], fit=sample.inputs(4))
    with pytest.raises(InvalidInputError, match=r"masks are those of one input, but the model has .*'image'"):
        run(sample.model, sample.inputs(2), ["gradient"], masks=[0, 0, 3, 3], fit=sample.inputs(4))
