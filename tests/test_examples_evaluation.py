"""The examples of evaluation and comparison: as users run them, and their parts against plain loops."""

import itertools
import re

import keras
import numpy as np
import pytest
from example_checks import ROOT, check_picture, main_of, markdown_rows, pixels, run
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import spearmanr

from innv_ext.evaluation.plotting import COLOURS


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))


def only(mapping, *names):
    """These entries, in the order of the mapping."""
    return {name: value for name, value in mapping.items() if name in names}


def tables(text):
    """The rows of every markdown table in a text."""
    return [markdown_rows(part) for part in text.split("\n\n") if part.startswith("| ")]


def picture_of(path):
    """Levels 0..255."""
    return np.rint(imread(path)[..., :3] * 255).astype(int)


def right(output):
    """The shares of right test images of the networks, in percent."""
    return [float(share) for share in re.findall(r"\.keras: (\d+\.\d)% of \d+ test images right", output)]


def linear(weights):
    """A network whose scores are sums of pixels, (side, side, classes)."""
    side, _, classes = weights.shape
    stack = [keras.Input((side, side, 1)), keras.layers.Flatten(), keras.layers.Dense(classes, use_bias=False)]
    model = keras.Sequential([*stack, keras.layers.Softmax()])
    model.layers[1].set_weights([weights.reshape(-1, classes)])
    return model


# --- systematic --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_systematic_finds_the_mark_that_the_accuracy_hides(tmp_path):
    out = tmp_path / "out" / "systematic"
    done = run("systematic.py", "--images", 50, "--epochs", 8, cwd=tmp_path)
    assert done.stderr == ""
    assert len(right(done.stdout)) == 2
    assert min(right(done.stdout)) > 95
    studies, trials = tables((out / "systematic.md").read_text(encoding="utf-8"))
    assert [studies, trials] == tables(done.stdout)
    assert len(studies) == 9
    for title, share, name, at_digit, at_corner, verdict in studies:
        cheats = title == "trained on marked, tested on marked digits"
        assert float(share.rstrip("%")) > 90
        if cheats:
            assert at_digit.startswith("3: "), name
            assert at_corner.startswith("lower left: "), name
        if name != "gradient":  # it does not know the values of the pixels
            assert verdict == ("**3, lower left**" if cheats else "none"), (title, name)
    marked, clean = ([float(cell.rstrip("%")) for cell in row[1:]] for row in trials)
    assert marked[0] - marked[1] > 30  # what the network knows of a 3 is the mark
    assert marked[3] > clean[3] + 30

    picture = picture_of(out / "study.png")
    assert picture.shape == (810, 1875, 3)
    for colour in COLOURS[:3]:
        assert pixels(picture[:400], colour) > 300, colour
    assert [pixels(part[400:], "#7f2704") > 500 for part in np.array_split(picture, 3, axis=1)] == [True, False, False]
    check_picture(out / "maps.png", (4, 5), 2000)


def test_systematic_measures_what_plain_loops_find():
    import systematic as example

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 16, 3)).astype("float32")
    model, x = linear(weights), rng.random((9, 16, 16, 1)).astype("float32")
    x[:, :3] = x[:, :, 12:] = 0
    x[0, :5] = 0
    objects = example.boxes(x)
    assert objects[0].tolist() == [5, 0, 16, 12]
    assert objects[1].tolist() == [3, 0, 16, 12]
    labels = np.arange(9) % 3
    study = example.run_study("linear", model, x, labels, objects)
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    assert study.right == np.mean(predicted == labels)
    for label in range(3):
        outside = size = 0
        corners = np.zeros(4)
        for i in np.flatnonzero(labels == label):
            relevance = np.abs(weights[..., predicted[i]])
            top, left, bottom, end = objects[i]
            outside += 1 - relevance[top:bottom, left:end].sum() / relevance.sum()
            size += 1 - (bottom - top) * (end - left) / 256
            parts = relevance[:4, :4], relevance[:4, 12:], relevance[12:, :4], relevance[12:, 12:]
            corners += [part.mean() / relevance.mean() / 3 for part in parts]
        assert study.outside["gradient"][label] == pytest.approx(outside / size, rel=1e-5)
        np.testing.assert_allclose(study.corners["gradient"][:, label], corners, rtol=1e-5)


def test_systematic_suspects_what_stands_out_alone():
    import systematic as example

    corners = np.array([[9.0, 1, 0], [0, 2, 0], [0, 7, 0], [0, 3, 0]])

    def suspect(*outside):
        return example.Study("", 1.0, {"a": np.array(outside)}, {"a": corners}).suspect("a")

    assert suspect(0.1, 0.5, 0.0) == (1, "lower left", True)
    assert suspect(0.1, 0.29, 0.0) == (1, "lower left", False)  # not three times the second
    assert suspect(0.01, 0.24, 0.0) == (1, "lower left", False)  # too little at all
    assert suspect(0.5, 0.1, 0.1) == (0, "upper left", True)

    x = np.full((4, 16, 16, 1), 0.5, "float32")
    marked = example.mark_class(x, np.array([3, 1, 3, 0]))
    assert (x == 0.5).all()
    assert (marked[[1, 3]] == 0.5).all()
    assert marked[2, 13:, :3, 0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    marked[:, 13:, :3] = 0.5
    assert (marked == 0.5).all()


# --- misclassified -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_misclassified_explains_its_worst_mistake_and_erases_it(tmp_path):
    out = tmp_path / "out" / "misclassified"
    done = run("misclassified.py", "--steps", 130, cwd=tmp_path)
    assert done.stderr == ""
    assert right(done.stdout)[0] >= 80
    wrong, true, predicted = re.search(r"Test image (\d+) is a (\d) and taken for a (\d) with", done.stdout).groups()
    assert 0 <= int(wrong) < 179
    assert true != predicted
    (table,) = tables((out / "misclassified.md").read_text(encoding="utf-8"))
    assert [table] == tables(done.stdout)
    assert len(table) == 13
    turned = {name: float(share.rstrip("%")) for name, *_, share in table}
    for name, part, alike, margins, now, share in table[:-1]:
        before, after = map(float, margins.split(" -> "))
        assert before > 0, name
        assert (now[0] == predicted) <= (after > 0), name
        assert (now[0] == true) <= (after < 0), name
        assert len(part.split()) == 2, name
        assert -1 <= float(alike) <= 1, name
        assert 0 <= float(share.rstrip("%")) <= 100, name
    for name in ("integrated_gradients", "occlusion 5 2"):
        assert turned[name] > turned["random ink"], name
    check_picture(out / "maps.png", (4, 13), 4000)
    check_picture(out / "erased.png", (4, 7), 3000)
    assert pixels(picture_of(out / "erased.png"), (0.0, 0.45, 0.7)) > 12 * 1000  # what was erased


def test_misclassified_erases_the_pixels_with_the_largest_keys():
    import misclassified as example

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((10, 10, 4)).astype("float32")
    logits = keras.Sequential(linear(weights).layers[:-1])
    x, keys = rng.random((5, 10, 10, 1)).astype("float32"), rng.random((5, 10, 10))
    predicted, true = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 0, 2])
    before = x.copy()
    found = example.erase(logits, x, keys, predicted, true)
    np.testing.assert_array_equal(x, before)
    for i in range(5):
        image = before[i, ..., 0].copy()
        for place in sorted(np.ndindex(10, 10), key=lambda p: -keys[i][p])[:10]:
            image[place] = 0
        np.testing.assert_array_equal(found.images[i, ..., 0], image)
        scores = [(image * weights[..., c]).sum() for c in range(4)]
        assert found.margins[i] == pytest.approx(scores[predicted[i]] - scores[true[i]], abs=1e-4)
        assert found.found[i] == np.argmax(scores)
        assert found.probabilities[i] == pytest.approx(np.exp(max(scores)) / np.exp(scores).sum(), rel=1e-4)

    differences = rng.standard_normal((4, 7, 7))
    each = [[spearmanr(a.ravel(), b.ravel())[0] for b in differences] for a in differences]
    alike = [np.mean([each[i][j] for j in range(4) if j != i]) for i in range(4)]
    np.testing.assert_allclose(example.agreement(differences), alike)
    for i, name in enumerate(example.PARTS):
        map_ = np.zeros((28, 28))
        map_[(4, 14, 24)[i // 3], (4, 14, 24)[i % 3]] = 1
        assert example.blamed_part(map_) == name
    assert example.PARTS[0] == "upper left"
    assert example.PARTS[5] == "middle right"


def test_misclassified_sorts_mistakes_by_certainty():
    import misclassified as example
    import mnist

    weights = np.eye(9, 9).reshape(3, 3, 9).astype("float32")
    x = np.zeros((4, 3, 3, 1), "float32")
    for i, (label, strength) in enumerate(((2, 1), (4, 5), (6, 3), (8, 9))):
        x[i].flat[label] = strength
    digits = mnist.Digits("four", x, x, np.zeros(4), np.array([0, 0, 0, 8]))
    assert example.mistakes(linear(weights), digits).tolist() == [1, 2, 0]
    digits = mnist.Digits("four", x, x, np.zeros(4), np.array([2, 4, 6, 8]))
    with pytest.raises(SystemExit, match="gets all 4 test images right"):
        example.mistakes(linear(weights), digits)


# --- compare_methods ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compare_methods_measures_and_draws(tmp_path, monkeypatch, capfd):
    import compare_methods as example

    names = (
        "gradient",
        "integrated_gradients",
        "lrp.epsilon",
        "guided_backprop",
        "deep_taylor",
        "pattern.net",
        "random",
    )
    monkeypatch.setattr(example, "ANALYZERS", only(example.ANALYZERS, *names))
    printed = main_of(example, "--images", 3, "--steps", 130, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    out = tmp_path / "out" / "compare_methods"
    assert right(printed)[0] >= 80
    text = (out / "compare_methods.md").read_text(encoding="utf-8")
    assert text in printed
    (table,) = tables(text)
    assert sorted(name for name, *_ in table) == sorted(names)
    aopc = {name: float(cell.split()[0]) for name, cell, *_ in table}
    assert min(aopc["integrated_gradients"], aopc["lrp.epsilon"]) > aopc["random"]
    assert "failed" not in text
    for metric in ("aopc_morf", "ordering_distortion", "max_sensitivity", "completeness_error"):
        assert re.search(rf"^- {metric}: best are ", text, re.MULTILINE), metric
    assert re.search(r"^- criteria that agree most: \w+ and \w+ \(-?\d\.\d\d\); least: ", text, re.MULTILINE)
    check_picture(out / "maps.png", (3, 7), 4000)
    assert pixels(picture_of(out / "metrics.png"), COLOURS[0]) > 1000
    assert pixels(picture_of(out / "agreement.png"), "#7f3b08") > 5000  # a method agrees with itself
    assert "guided_backprop" in (out / "report.html").read_text(encoding="utf-8")


def test_compare_methods_correlates_maps_and_rankings():
    import compare_methods as example

    from innv_ext.comparison import compare

    rng = np.random.default_rng(0)
    model = linear(rng.standard_normal((4, 4, 3)).astype("float32"))
    x = rng.random((5, 4, 4, 1)).astype("float32")
    names = ["gradient", "input_t_gradient", "integrated_gradients", "smoothgrad", "occlusion", "random"]
    analyzers = {name: {"patch": 1} if name == "occlusion" else {} for name in names}
    metrics = {"aopc_morf": {}, "max_sensitivity": {}, "gini": {}, "completeness_error": {}}
    found = compare(model, x, analyzers, metrics=metrics, progress=False)

    titles, matrix = example.map_agreement(found)
    assert sorted(titles) == sorted(names)
    for (i, a), (j, b) in itertools.product(enumerate(titles), repeat=2):
        per_image = [spearmanr(p.ravel(), q.ravel())[0] for p, q in zip(found.maps[a], found.maps[b], strict=True)]
        assert matrix[i, j] == pytest.approx(np.mean(per_image), abs=1e-6)

    criteria, matrix = example.criterion_agreement(found)
    assert criteria == ["aopc_morf", "max_sensitivity"]  # gini has no better, completeness too few methods
    places = [{title: i for i, (title, _) in enumerate(found.ranking(name))} for name in criteria]
    ranked = [[place[name] for name in names[:-1]] for place in places]
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(spearmanr(*ranked)[0])
    assert np.diag(matrix).tolist() == [1, 1]


# --- batchnorm_rules ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batchnorm_rules_compares_and_draws(tmp_path, monkeypatch, capfd):
    import batchnorm_rules as example

    monkeypatch.setattr(example, "NETWORKS", ("BN before",))
    printed = main_of(example, "--images", 6, "--epochs", 2, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    out = tmp_path / "out" / "batchnorm_rules"
    assert len(right(printed)) == 1
    (table,) = tables((out / "batchnorm_rules.md").read_text(encoding="utf-8"))
    assert [table] == tables(printed)
    assert len(table) == 2 * 4
    for network, rule, option, _, distance, correlation in table:
        away, alike = (float(cell.split()[0]) for cell in (distance, correlation))
        if option == "fold":
            assert away < 1e-3, (network, rule)
            assert alike > 0.999, (network, rule)
        else:
            assert away > 1e-3, (network, rule, option)
    check_picture(out / "maps.png", (4, 5), 4000)
    picture = picture_of(out / "numbers.png")
    for colour in COLOURS[:4]:
        assert pixels(picture[:, :860], colour) > 100, colour
        assert pixels(picture[:, 860:], colour) > 100, colour


@pytest.mark.parametrize(
    ("network", "gone", "left"), [("BN after", 4, 0), ("BN before", 4, 0), ("pre-activation", 2, 3)]
)
def test_batchnorm_rules_merges_by_hand_without_changing_the_network(network, gone, left, monkeypatch):
    import batchnorm_rules as example

    monkeypatch.setattr(example, "RULES", only(example.RULES, "lrp.epsilon"))
    monkeypatch.setattr(example, "OPTIONS", ("fold", "two_linear"))
    rng = np.random.default_rng(0)
    model = example.build(network)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([rng.uniform(*span, shape) for span in ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2))])
    x = rng.random((4, 16, 16, 1)).astype("float32")
    merged, *counts = example.merge(network, model)
    assert counts == [gone, left]
    norms = [layer for layer in merged.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == left
    np.testing.assert_allclose(merged.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    found = example.explain(network, model, merged, x)
    told = found[network, "lrp.epsilon", "two_linear"]
    by_hand = found[network, "lrp.epsilon", "fold"].maps.reshape(4, -1)
    for i, maps in enumerate(told.maps.reshape(4, -1)):
        gap = np.linalg.norm(maps - by_hand[i]) / np.linalg.norm(by_hand[i])
        assert told.distance[i] == pytest.approx(gap, rel=0.02, abs=1e-3)
        assert told.correlation[i] == pytest.approx(spearmanr(maps, by_hand[i])[0], abs=0.01)


# --- architectures -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::innv_ext.errors.ZeroMapWarning")
def test_architectures_explains_them_all_and_draws(tmp_path, monkeypatch, capfd):
    import architectures as example

    methods = ("gradient", "deep_taylor", "lrp.epsilon_plus", "occlusion")
    monkeypatch.setattr(example, "ANALYZERS", only(example.ANALYZERS, *methods))
    titles = ["perceptron", "residual", "transformer"]
    monkeypatch.setattr(example, "ARCHITECTURES", only(example.ARCHITECTURES, *titles))
    printed = main_of(example, "--images", 4, "--epochs", 1, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    out = tmp_path / "out" / "architectures"
    assert len(right(printed)) == 3
    networks, measured = tables((out / "architectures.md").read_text(encoding="utf-8"))
    assert [networks, measured] == tables(printed)
    assert [name for name, *_ in networks] == titles
    assert all(-1 <= float(cell) <= 1 for row in networks for cell in row[3:])
    assert [name for name, *_ in measured] == list(methods)
    for name, *gini, agreement in measured:
        assert (gini[-1] == "-") == (name == "deep_taylor")
        assert all(0 <= float(g) <= 1 for g in gini[:-1])
        assert -1 <= float(agreement) <= 1
    check_picture(out / "maps.png", (3, 5), 3000)
    assert pixels(picture_of(out / "numbers.png")[:, 800:], COLOURS[0]) > 7 * 50


def test_architectures_measures_what_plain_loops_find():
    import architectures as example

    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((6, 5, 5, 1)) for _ in range(3)]
    maps[2] = maps[0] ** 3 + 0.1 * maps[1]
    each = [spearmanr(a[i].ravel(), b[i].ravel())[0] for a, b in itertools.combinations(maps, 2) for i in range(6)]
    assert example.correlations(maps) == pytest.approx(np.mean(each))
    assert example.correlations([maps[0], np.ones((6, 5, 5, 1))]) == 0  # constant maps have no order

    def explained(predicted, methods):
        none = np.zeros(4)
        return example.Explained(None, 1.0, np.array(predicted), none, none, methods)

    every = dict(zip(example.ANALYZERS, itertools.cycle(maps)))
    fewer = {name: m[::-1] for name, m in every.items() if name != "deep_taylor"}
    found = {
        "a": explained([1, 2, 0, 4], every),
        "b": explained([1, 2, 3, 0], fewer),
        "c": explained([1, 0, 3, 0], every),
    }
    assert example.choose(found, np.array([1, 2, 3, 4])) == 1  # two right; the first is clear to all
    assert example.choose(found, np.array([1, 9, 9, 9])) == 1  # none right comes before all right
    numbers = example.measure(found)
    assert numbers.common == [name for name in example.ANALYZERS if name != "deep_taylor"]
    place = list(example.ANALYZERS).index("deep_taylor")
    assert np.isnan(numbers.gini).tolist() == [[i == 1 and j == place for j in range(10)] for i in range(3)]
    flat = np.sort(np.abs(maps[0]).reshape(6, -1), axis=1)
    gini = [2 * (np.arange(1, 26) * row).sum() / (25 * row.sum()) - 26 / 25 for row in flat]
    assert numbers.gini[0, 0] == pytest.approx(np.mean(gini))
    assert numbers.on_method["deep_taylor"] == pytest.approx(1)
    own = [[m[name] for name in numbers.common] for m in (every, fewer)]
    assert numbers.on_network["b"] == pytest.approx(example.correlations(own[1]))
    assert numbers.on_network["a"] == pytest.approx(numbers.on_network["b"])  # the same images in another order


# --- what they share ---------------------------------------------------------------------------------------------


def test_matrices_are_drawn_with_legible_numbers():
    import _common

    axes = Figure().subplots()
    values = np.array([[0.96, -0.04], [np.nan, -1.0]])
    _common.draw_matrix(axes, values, (["first", "second"], [0, 1]), "PuOr_r", (-1, 1))
    texts = [(t.get_text(), t.get_position(), t.get_color()) for t in axes.texts]
    assert texts == [("1.0", (0, 0), "white"), ("0.0", (1, 0), "#222222"), ("\N{MINUS SIGN}1.0", (1, 1), "white")]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["first", "second"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1"]
    np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), values)


def test_tables_are_written_as_they_are_printed(tmp_path):
    import _common

    text = _common.write_tables(tmp_path / "found.md", "| a |", "words ±")
    assert text == "| a |\n\nwords ±"
    assert (tmp_path / "found.md").read_text(encoding="utf-8") == text + "\n"


def test_examples_without_own_data_refuse_it(tmp_path, monkeypatch, capsys):
    import _common

    monkeypatch.setattr("sys.argv", ["example.py", "--data", "x.npz"])
    with pytest.raises(SystemExit) as stop:
        _common.read_options("What it does.", "out/here", own_data=False)
    assert stop.value.code == 2
    assert "unrecognized arguments: --data" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["example.py"])
    assert "data" not in vars(_common.read_options("What it does.", "out/here", own_data=False))


@pytest.mark.slow
def test_robustness_attacks_and_draws(tmp_path, monkeypatch, capfd):
    import robustness as example

    out = tmp_path / "out" / "robustness"
    names = ("gradient", "integrated gradients", "sparse MoreauGrad, smoothed")
    monkeypatch.setattr(example, "ANALYZERS", only(example.ANALYZERS, *names))
    monkeypatch.setattr(example, "STRENGTHS", (0.25, 2.0))
    options = ("--images", 2, "--steps", 3)
    text = main_of(example, *options, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    assert right(text)[0] >= 90
    table = markdown_rows((out / "robustness.md").read_text(encoding="utf-8"))
    assert table == markdown_rows(text)
    reached = {(name, attack, float(epsilon)): float(d.split()[0]) for name, attack, epsilon, d, *_ in table}
    assert set(reached) == set(itertools.product(names, ("topk", "random"), (0.25, 2.0)))
    for name in names:
        assert 0 < reached[name, "topk", 0.25] < reached[name, "topk", 2.0] < 2, name
        assert reached[name, "random", 2.0] < reached[name, "topk", 2.0], name
    assert re.search(r"the most robust first: .*gradient \(0\.\d\d\)", text)
    picture = picture_of(out / "robustness.png")
    assert picture.shape == (630, 1650, 3)
    for colour in COLOURS[:3]:
        assert pixels(picture, colour) > 100, colour
    check_picture(out / "maps.png", (2, 4), 3000)
