"""The systematic study: against loops over samples, a planted watermark, streams of batches, and the result."""

import json
import tracemalloc

import keras
import matplotlib.figure
import numpy as np
import pytest
import zoo
from keras import layers
from test_ordering import counting, snapshot

import innv_ext
from innv_ext.errors import InvalidInputError, NotFittedError
from innv_ext.evaluation.measures import inside_ratio
from innv_ext.evaluation.systematic import SystematicResult, systematic_inside_ratio

RNG = np.random.default_rng(0)


def study(model, data, masks=None, **options):
    return systematic_inside_ratio(model, data, masks, **{"progress": False, "analyzers": {"gradient": {}}, **options})


@pytest.fixture(scope="module")
def net():
    return zoo.make("convnet", "float64")


def boxes_for(count, side=6, seed=0):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, side - 1, (count, 2))
    return np.concatenate([starts, rng.integers(starts + 1, side + 1)], axis=1)


# --- against loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inside_total", "weighted", "inside_outside"])
def test_against_loops(net, kind):
    """One sample and one analyzer at a time; masks and boxes; parameters reach the analyzers."""
    x, boxes = net.inputs(7), boxes_for(7)
    built = innv_ext.create_analyzer("lrp.epsilon", net.model, epsilon=0.5)
    result = study(net.model, x, boxes, analyzers={"lrp.epsilon": {"epsilon": 0.5}, "size": built, "gradient": {}},
                   batch_size=3)
    assert result.names == ("lrp.epsilon", "size", "gradient") and result.labels is None
    gradient = innv_ext.create_analyzer("gradient", net.model)
    for i in range(7):
        for name, analyzer in (("lrp.epsilon", built), ("size", built), ("gradient", gradient)):
            magnitudes = np.abs(analyzer.analyze(x[i: i + 1])[0])
            a, b, c, d = boxes[i]
            within, total = magnitudes[a:c, b:d].sum(), magnitudes.sum()
            size = (c - a) * (d - b) / 36
            expected = {"inside_total": within / total, "weighted": within / total / size,
                        "inside_outside": within / (total - within)}
            assert result.ratio(kind)[name][i] == pytest.approx(expected[kind], rel=1e-6)
        assert result.size[i] == pytest.approx(size)
    with zoo.precision("float64"):
        np.testing.assert_array_equal(result.predicted, net.model.predict(x, verbose=0).argmax(axis=1))
    masks = np.zeros((7, 6, 6), bool)
    for mask, (a, b, c, d) in zip(masks, boxes, strict=True):
        mask[a:c, b:d] = True
    same = study(net.model, x, masks, batch_size=7)
    np.testing.assert_allclose(same.inside["gradient"], result.inside["gradient"], rtol=1e-6)


def test_channels_first():
    sample = zoo.make("channels_first")
    x, boxes = sample.inputs(3), boxes_for(3)
    maps = innv_ext.create_analyzer("gradient", sample.model).analyze(x)
    expected = inside_ratio(np.moveaxis(maps, 1, -1), boxes)
    np.testing.assert_allclose(study(sample.model, x, boxes).inside["gradient"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["signal", "volume"])
def test_signals_and_volumes(name):
    sample = zoo.make(name)
    x = sample.inputs(3)
    masks = RNG.uniform(size=x.shape[:-1]) > 0.5
    expected = inside_ratio(innv_ext.create_analyzer("gradient", sample.model).analyze(x), masks)
    np.testing.assert_allclose(study(sample.model, x, masks).inside["gradient"], expected, rtol=1e-5)


def test_the_label_or_the_prediction_is_explained(net):
    x, boxes, labels = net.inputs(6), boxes_for(6), np.array([0, 1, 2, 0, 1, 2])
    result = study(net.model, x, boxes, labels=labels, explain="label", batch_size=4)
    expected = inside_ratio(innv_ext.create_analyzer("gradient", net.model).analyze(x, labels), boxes)
    np.testing.assert_allclose(result.inside["gradient"], expected, rtol=1e-6)
    predicted = study(net.model, x, boxes, labels=labels)
    assert (predicted.predicted != labels).any() and (predicted.inside["gradient"] != expected).any()
    np.testing.assert_array_equal(predicted.predicted, result.predicted)
    np.testing.assert_array_equal(predicted.classes, labels)


# --- streams -----------------------------------------------------------------------------------------------------


class Pieces(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        return self.batches[i]


@pytest.mark.parametrize("form", ["generator", "list", "PyDataset", "tf.data"])
def test_streams_of_batches_give_what_arrays_give(net, form):
    import tensorflow as tf

    x, boxes, labels = net.inputs(7), boxes_for(7), np.arange(7) % 3
    whole = study(net.model, x, boxes, labels=labels, batch_size=100)
    batches = [(x[i: i + 3], boxes[i: i + 3], labels[i: i + 3]) for i in range(0, 7, 3)]
    data = {"generator": iter(batches), "list": batches, "PyDataset": Pieces(batches),
            "tf.data": tf.data.Dataset.from_tensor_slices((x, boxes, labels)).batch(3)}[form]
    result = study(net.model, data, batch_size=2)
    np.testing.assert_allclose(result.inside["gradient"], whole.inside["gradient"], rtol=1e-6)
    for of in ("size", "labels", "predicted"):
        np.testing.assert_array_equal(getattr(result, of), getattr(whole, of))


@pytest.mark.parametrize("size", [1, 4])
def test_batch_size_bounds_the_forward_samples(size):
    model, seen = counting(6)
    masks = np.ones((10, 6), bool)
    batches = [(RNG.uniform(size=(10, 6)), masks)]
    occlusion = innv_ext.create_analyzer("occlusion", model, check_forward=False)
    for data in ((batches[0][0], masks), (batches,)):
        seen.clear()
        study(model, *data, analyzers={"o": occlusion}, batch_size=size)
        assert max(seen) <= size and sum(seen) >= 10 * 7


def test_memory_grows_with_the_batch_not_with_the_data_set():
    """60 batches of 32 pictures of 4096 float32 values would be 31 MB, their maps as much."""
    i = keras.Input((64, 64, 1))
    model = keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling2D()(i)))
    analyzer = innv_ext.create_analyzer("input", model)

    def batches():
        for k in range(60):
            yield np.full((32, 64, 64, 1), 1.0 + k, "float32"), np.tile([0, 0, 8, 8], (32, 1))

    study(model, list(batches())[:1], analyzers={"input": analyzer})
    tracemalloc.start()
    result = study(model, batches(), analyzers={"input": analyzer})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result.size) == 60 * 32 and peak < 12e6


def test_model_and_data_are_left_alone(net):
    x, boxes = net.inputs(3), boxes_for(3)
    copies, (variables, _, nodes) = (x.copy(), boxes.copy()), snapshot(net.model)
    study(net.model, x, boxes)
    after = snapshot(net.model)
    assert all(np.array_equal(a, b) for a, b in zip(variables, after[0], strict=True)) and nodes == after[2]
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(boxes, copies[1])


# --- what the study is for ---------------------------------------------------------------------------------------


def test_a_planted_watermark_stands_out():
    """Class 2 is told by a corner, the others by what is in the box: its ratio is the lowest, far from the others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    x = 0.1 * rng.uniform(size=(60, 8, 8, 1))
    x[labels == 0, 3, 3], x[labels == 1, 4, 4], x[labels == 2, 0, 0] = 1, 1, 1
    w = np.zeros((8, 8, 3))
    w[3, 3, 0] = w[4, 4, 1] = w[0, 0, 2] = 5
    i = keras.Input((8, 8, 1))
    model = keras.Model(i, layers.Dense(3, activation="softmax")(layers.Flatten()(i)))
    model.set_weights([w.reshape(64, 3), np.zeros(3)])
    boxes = np.tile([2, 2, 6, 6], (60, 1))
    result = study(model, x, boxes, labels=labels, analyzers={"input_t_gradient": {}, "random": {}})
    by_class = result.statistics("weighted", by="class")["input_t_gradient"]
    assert by_class[2].mean < 0.2 and min(by_class[0].mean, by_class[1].mean) > 3
    assert result.table().splitlines()[3].startswith("| input_t_gradient | 2 |")
    assert repr(result).endswith("3 classes; lowest class of 'input_t_gradient': 2)")
    share = result.statistics("concentrated", by="class")
    assert [share["input_t_gradient"][c].mean for c in range(3)] == [1, 1, 0]
    chance = result.statistics("weighted")["random"]
    assert abs(chance.mean - 1) < 4 * chance.error  # random maps don't prefer any place


# --- the result --------------------------------------------------------------------------------------------------


def made_up(count=40, seed=0, labels=True):
    rng = np.random.default_rng(seed)
    inside = {"a": rng.uniform(size=count), "b|c": rng.uniform(size=count)}
    classes = rng.integers(0, 4, count) * 10
    size = rng.uniform(0.01, 1, count)
    return SystematicResult(("a", "b|c"), inside, size, classes if labels else None, rng.integers(0, 4, count))


def test_statistics_by_class_and_by_size():
    result = made_up()
    for of in ("inside_total", "weighted", "inside_outside", "concentrated"):
        values = result.concentrated() if of == "concentrated" else result.ratio(of)
        for name, found in result.statistics(of, by="class").items():
            assert sorted(found) == [0, 10, 20, 30]
            for c, s in found.items():
                own = [float(values[name][i]) for i in range(40) if result.labels[i] == c]
                assert s.mean == pytest.approx(np.mean(own)) and s.std == pytest.approx(np.std(own, ddof=1))
        assert result.statistics(of)["a"].mean == pytest.approx(values["a"].mean())
    sizes, shares = result.by_size(bins=4, threshold=0.3)
    for b in range(4):
        own = [i for i in range(40) if b / 4 <= result.size[i] < (b + 1) / 4]
        assert sizes[b] == pytest.approx(result.size[own].mean())
        for name in result.names:
            found = shares[name].mean[b]
            assert found == pytest.approx(np.mean([result.inside[name][i] > 0.3 for i in own]))
    assert (made_up(labels=False).classes == made_up().predicted).all()


def test_bins_without_samples_are_left_out_and_whole_masks_belong_to_the_last():
    inside = {"a": np.array([0.4, 1.0, 0.6])}
    result = SystematicResult(("a",), inside, np.array([0.1, 1.0, 0.95]), None, np.zeros(3, int))
    sizes, shares = result.by_size()
    assert sizes.tolist() == [0.1, 0.975] and shares["a"].mean.tolist() == [0, 1]
    assert np.isnan(shares["a"].error[0]) and shares["a"].error[1] == 0
    assert result.concentrated(1)["a"].tolist() == [False] * 3  # more than all is impossible


def test_table_lists_the_lowest_classes_first():
    result = made_up()
    header, rule, *rows = result.table(classes=2).splitlines()
    assert header == "| analyzer | class | samples | weighted | concentrated |" and rule.count("---") == 5
    assert [row.split(" | ")[0] for row in rows] == ["| a"] * 3 + ["| b\\|c"] * 3
    for name, part in (("a", rows[:3]), ("b|c", rows[3:])):
        values = result.ratio()[name]
        means = {c: values[result.labels == c].mean() for c in (0, 10, 20, 30)}
        lowest = sorted(means, key=means.get)[:2]
        assert [row.split(" | ")[1] for row in part] == ["all", *map(str, lowest)]
        assert part[0].split(" | ")[2] == "40" and f"| {values.mean():.4g} ±" in part[0]
        assert part[1].split(" | ")[2] == str((result.labels == lowest[0]).sum())
        assert f"| {means[lowest[0]]:.4g} ±" in part[1]


@pytest.mark.parametrize("labels", [True, False])
def test_json_round_trip(labels):
    result = made_up(labels=labels)
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    again = SystematicResult.from_dict(stored)
    assert again.to_dict() == stored and again.table() == result.table() and repr(again) == repr(result)


def test_plot(tmp_path):
    result = made_up()
    figure = result.plot(path=tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 5000
    left, right = figure.axes
    sizes, shares = result.by_size()
    for line, name in zip(left.get_lines(), result.names, strict=True):
        assert line.get_label() == name and line.get_marker() == "o"  # seen even if all masks have one size
        np.testing.assert_array_equal(line.get_xdata(), sizes)
        np.testing.assert_array_equal(line.get_ydata(), shares[name].mean)
    means = {c: s.mean for c, s in result.statistics(by="class")["a"].items()}
    assert [t.get_text() for t in right.get_xticklabels()] == [str(c) for c in sorted(means, key=means.get)]
    first = right.containers[0].lines[0]
    np.testing.assert_allclose(first.get_ydata(), sorted(means.values()))
    own = matplotlib.figure.Figure()
    axes = own.subplots(1, 2)
    assert result.plot(axes, kind="inside_total") is own and axes[1].get_ylabel() == "inside_total ratio"
    assert isinstance(made_up(1).plot(), matplotlib.figure.Figure)  # a single sample has no spread
    whole = SystematicResult(("a",), {"a": np.ones(2)}, np.full(2, 0.5), None, np.zeros(2, int))
    with pytest.raises(InvalidInputError, match="kind='inside_outside' is infinite for some samples"):
        whole.plot(kind="inside_outside")
    with pytest.raises(InvalidInputError, match="ax must be two matplotlib axes"):
        result.plot(axes[0])


@pytest.mark.parametrize(("call", "message"), [
    (lambda r: r.ratio("iou"), "kind must be one of 'inside_total'"),
    (lambda r: r.statistics("size"), "of must be one of .*got 'size'"),
    (lambda r: r.statistics(by="predicted"), "by must be one of None, 'class', got 'predicted'"),
    (lambda r: r.by_size(bins=0), "bins must be an integer of at least 1"),
    (lambda r: r.concentrated(1.5), "threshold must be .* at most 1, got 1.5"),
    (lambda r: r.table(classes=0), "classes must be an integer of at least 1"),
    (lambda r: r.table("iou"), "of must be one of"),
])
def test_wrong_questions_to_the_result(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call(made_up())


# --- refusals ----------------------------------------------------------------------------------------------------


X, BOXES = np.ones((4, 6, 6, 2)), np.tile([0, 0, 3, 3], (4, 1))
EMPTY = np.where(np.arange(4)[:, None] == 3, [0, 0, 0, 3], BOXES)
REFUSED = {
    "no model": ({"model": None}, "model must be a keras.Model, got NoneType"),
    "no masks": ({"masks": None}, "data is ndarray without masks: pass masks="),
    "no data": ({"data": 3, "masks": None}, "data is int without masks"),
    "few masks": ({"masks": BOXES[:3]}, r"one entry per sample, but have \[4, 3\]"),
    "masks that don't fit": ({"masks": np.ones((4, 5, 6), bool)}, "Batch 0 of the data: mask has dtype bool and"),
    "empty mask": ({"masks": EMPTY, "batch_size": 2}, r"Batch 1 of the data: mask has nothing inside .*first: 1\)"),
    "empty": ({"data": X[:0], "masks": BOXES[:0]}, "data is empty"),
    "no batches": ({"data": [], "masks": None}, "data is empty"),
    "batches without masks": ({"data": [X], "masks": None}, "must be .x, masks. or .x, masks, labels., got ndarray"),
    "long batches": ({"data": [(X, BOXES, 1, 2)], "masks": None}, "got 4 entries"),
    "some labels": ({"data": [(X, BOXES), (X, BOXES, [0, 1, 2, 0])], "masks": None}, "Some batches .* have labels"),
    "labels for batches": ({"data": [(X, BOXES)], "masks": None, "labels": [0]}, "labels= goes with arrays"),
    "float labels": ({"labels": np.ones(4)}, r"labels must be integers of shape \(4,\).*float64"),
    "one-hot labels": ({"labels": np.eye(4, 3, dtype=int)}, r"labels must be integers .*\(4, 3\)"),
    "no labels": ({"explain": "label"}, "explain='label' needs labels"),
    "explain": ({"explain": "true"}, "explain must be one of 'predicted', 'label', got 'true'"),
    "label out of range": ({"explain": "label", "labels": [0, 1, 2, 3]}, "neuron_selection 3 .* out of range"),
    "batch size": ({"batch_size": 0}, "batch_size must be an integer"),
    "list of analyzers": ({"analyzers": ["gradient"]}, "analyzers must be a dict"),
    "no analyzers": ({"analyzers": {}}, "analyzers must be a dict"),
    "unknown analyzer": ({"analyzers": {"gradeint": {}}}, "no analyzer 'gradeint'. Did you mean 'gradient'"),
    "unknown parameter": ({"analyzers": {"lrp.epsilon": {"eps": 1}}}, "no parameter 'eps'"),
    "no parameters": ({"analyzers": {"gradient": None}}, r"analyzers\['gradient'\] must be a dict of parameters or an"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused(case, net):
    changed, message = REFUSED[case]
    arguments = {"model": net.model, "data": X, "masks": BOXES, **changed}
    with pytest.raises(InvalidInputError, match=message):
        study(arguments.pop("model"), arguments.pop("data"), arguments.pop("masks"), **arguments)


def test_other_models_several_inputs_and_unfitted_analyzers(net):
    other = innv_ext.create_analyzer("gradient", zoo.make("sequential").model)
    with pytest.raises(InvalidInputError, match="explains another model"):
        study(net.model, X, BOXES, analyzers={"a": other})
    with pytest.raises(InvalidInputError, match=r"systematic_inside_ratio takes models with one input, but .* has 2"):
        study(zoo.make("two_inputs").model, X, BOXES)
    with pytest.raises(NotFittedError):
        study(net.model, X, BOXES, analyzers={"pattern.net": {}})
