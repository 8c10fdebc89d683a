"""The result of a comparison: table, ranking, dicts, pictures of every kind of data, files; docstrings' examples."""

import doctest
import importlib
import json
import pkgutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import zoo
from comparison_cases import NAMES, TITLE, everything, images, net
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import sem

from innv_ext import comparison
from innv_ext.comparison import Comparison, compare
from innv_ext.comparison.rows import Cell, Criterion, Row, Samples, describe
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import imshow_grid

X = images()


def criterion(title, better="higher"):
    return Criterion(title, title, "", better, (), "", "", {})


def row(title, family="gradient", **values):
    cells = {metric: Cell(None if v is None else np.array(v, "float64")) for metric, v in values.items()}
    return Row(title, title, {}, {"family": family}, 1.0, 0.5, cells=cells, maps=np.zeros((2, 3)))


@pytest.fixture(scope="module")
def small():
    """Made by hand; nothing is run."""
    rows = (row("a|b", up=[1, 3], down=[1, 1]), row("c", up=[4, 4], down=[0, 9]), row("d", up=None, down=[-1, np.inf]))
    x = np.arange(6.0).reshape(2, 3)
    samples = Samples(np.array([0, 1]), (0, 1), np.array([0.5, 2.0]), None, None, None, 2, -1, x)
    criteria = (criterion("up"), criterion("down", "lower"), criterion("flat", "none"))
    return Comparison(rows, criteria, samples, {}, {}, {})


@pytest.fixture(scope="module")
def failing():
    return everything(net(), X)


def test_table(small):
    lines = small.table().split("\n")
    assert lines[0] == "| analyzer | up ↑ | down ↓ | flat | s per sample |"
    assert lines[2] == r"| a\|b | 2 ± 1 | 1 ± 0 |  | 0.5 |" and lines[4] == "| d |  | inf |  | 0.5 |"
    assert len(lines) == 5


def test_table_of_failures(failing):
    table = failing.table().split("\n")
    assert table[7] == f"| broken |{' failed |' * 6}" and table[6].startswith("| pattern.net | failed |")
    cell = failing.row("gradient").cells["gini"].values
    assert f"| {cell.mean():.4g} ± {sem(cell):.2g} |" in table[2]
    assert any(line.startswith("- broken: failed: ZeroDivisionError: <img") for line in table)
    # all metrics for the same reason
    (one,) = [line for line in table if line.startswith("- not finite: ") and " failed: " in line]
    assert all(c.title in one for c in failing.criteria) and one.endswith("(first: 1) are not finite.")


def test_ranking(small):
    assert small.ranking("up") == [("c", 4.0), ("a|b", 2.0)]
    assert small.ranking("down") == [("a|b", 1.0), ("c", 4.5), ("d", np.inf)]
    assert small.ranking("up", better="lower")[0] == ("a|b", 2.0)
    with pytest.raises(InvalidInputError, match="pass better='higher' or 'lower'"):
        small.ranking("flat")
    with pytest.raises(InvalidInputError, match="Did you mean 'down'"):
        small.ranking("dwn")
    with pytest.raises(InvalidInputError, match=r"title must be one of .*got 'e'"):
        small.row("e")
    assert repr(small) == "Comparison(3 analyzers, 3 metrics, 2 samples)"


def test_statistics(small):
    assert {title: float(s.mean) for title, s in small.statistics("up").items()} == {"a|b": 2.0, "c": 4.0}
    assert small.statistics("up")["a|b"].error == pytest.approx(1) and small.statistics("flat") == {}
    assert list(small.statistics()) == ["up", "down", "flat"]
    with pytest.raises(InvalidInputError, match=r"one of 'up', 'down', 'flat', got 'dwn'\. Did you mean 'down'"):
        small.statistics("dwn")


def test_what_is_no_number_comes_last(small):
    rows = (row("x", up=[np.nan, 1]), row("y", up=[np.inf, -np.inf]), *small.rows)
    found = Comparison(rows, small.criteria, small.samples, {}, {}, {})
    for better, first in (("higher", "c"), ("lower", "a|b")):
        assert found.ranking("up", better=better)[0][0] == first
        assert {title for title, _ in found.ranking("up", better=better)[2:]} == {"x", "y"}
    panel = found.plot_metrics().axes[0]
    assert [t.get_text() for t in panel.texts] == ["undefined", "undefined"]


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            same(*pair)
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.filterwarnings("ignore:not finite. relevance is not finite")
def test_dicts(failing):
    stored = failing.to_dict(maps=True)
    again = Comparison.from_dict(json.loads(json.dumps(stored)))
    same(again.to_dict(maps=True), stored)
    assert again.table() == failing.table() and again.samples.neurons == failing.samples.neurons
    assert again.samples.class_names == dict(enumerate(NAMES))
    np.testing.assert_array_equal(again.maps["gradient"], failing.maps["gradient"])
    np.testing.assert_array_equal(again.curves["aopc_morf"].scores["random"],
                                  failing.curves["aopc_morf"].scores["random"])
    assert isinstance(again.plot_metrics(), Figure) and isinstance(again.plot(), Figure)
    without = Comparison.from_dict(failing.to_dict())
    assert without.maps == {} and without.ranking("gini", better="higher") == failing.ranking("gini", better="higher")
    with pytest.raises(InvalidInputError, match="read without x and maps"):
        without.plot()


def test_frame(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    found = small.to_frame()
    assert [*zip(*found.values(), strict=True)][:4] == [
        ("a|b", "up", 0, 1.0), ("a|b", "up", 1, 3.0), ("a|b", "down", 0, 1.0), ("a|b", "down", 1, 1.0)]
    assert list(found) == ["analyzer", "metric", "sample", "value"] and len(found["value"]) == 10
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInputError, match="needs pandas"):
        small.to_frame()


# --- pictures ------------------------------------------------------------------------------------------------------

KINDS = {  # model: panels of two analyzers and two samples, with a colour bar where there is one
    "sequential": 6, "channels_first": 6, "uint8": 6,
    "signal": 2 * 2 * 2 + 1,  # two channels
    "mlp": 4,
    "volume": 2 * 3 * 4 + 1,  # four slices of the input and of two maps
    "tokens": 4 + 1,
}


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_data_has_a_picture(name):
    sample = zoo.make(name)
    found = compare(sample.model, sample.inputs(2), ["input", "random"], metrics=["gini"], progress=False)
    assert len(found.plot().axes) == KINDS[name]
    assert found.samples.channel_axis == (1 if name == "channels_first" else -1)


@pytest.mark.filterwarnings("ignore:not finite. relevance is not finite")
def test_the_grid_is_that_of_the_visualization(failing, tmp_path):
    """Two channels are no colours: the input is their mean."""
    failing.plot(samples=3, path=tmp_path / "a.png")
    imshow_grid(X[:3].mean(axis=-1, keepdims=True), {t: m[:3] for t, m in failing.maps.items()}, labels=[0, 1, 2],
                predictions=failing.samples.predicted[:3], neurons=failing.samples.neurons[:3],
                probabilities=failing.samples.probability[:3], scores=failing.samples.score[:3], class_names=NAMES,
                path=tmp_path / "b.png")
    np.testing.assert_array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))
    assert set(failing.maps) == {"gradient", TITLE, "random", "epsilon", "not finite", "warning"}


@pytest.mark.parametrize(("columns", "panels"), [(13, 4), (12, 24)])
def test_arrays_with_many_columns_are_images(columns, panels):
    x = images(2, (5, columns))
    samples = Samples(np.array([0, 1]), (0, 1), np.array([0.5, 2.0]), None, None, None, 2, -1, x)
    rows = (Row("a", "a", {}, {"family": ""}, 0, 0, maps=x),)
    figure = Comparison(rows, (), samples, {}, {}, {}).plot()
    assert len(figure.axes) - (columns == 12) == panels  # signals have a colour bar


def test_metrics_are_drawn_best_on_top(small):
    figure = small.plot_metrics()
    up, down, flat = figure.axes
    assert [t.get_text() for t in up.get_yticklabels()] == ["c", "a|b"] and up.yaxis_inverted()
    assert [t.get_text() for t in down.get_yticklabels()] == ["a|b", "c", "d"]
    assert up.get_title() == "up ↑" and flat.get_xlabel() == "neither is better"
    points = {float(line.get_xdata()[0]) for line in down.lines if line.get_marker() == "o"}
    assert points == {1.0, 4.5} and [t.get_text() for t in down.texts] == ["infinite"]
    mine = Figure().subplots(1, 3)
    assert small.plot_metrics(mine) is mine[0].figure
    with pytest.raises(InvalidInputError, match="ax must be 3 matplotlib axes"):
        small.plot_metrics(mine[:2])


def test_nothing_to_draw(small):
    with pytest.raises(InvalidInputError, match="has no metrics"):
        Comparison(small.rows, (), small.samples, {}, {}, {}).plot_metrics()
    with pytest.raises(InvalidInputError, match="no analyzer that did not fail"):
        Comparison((), (), small.samples, {}, {}, {}).plot()
    with pytest.raises(InvalidInputError, match="samples must be"):
        small.plot(samples=0)


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.iter_modules(comparison.__path__)))
def test_examples(name):
    assert doctest.testmod(importlib.import_module(f"innv_ext.comparison.{name}")).failed == 0


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:not finite. relevance is not finite")
def test_save(failing, tmp_path):
    failing.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    expected = {"maps.png", "metrics.png", "curves_1.png", "curves_2.png", "table.md", "comparison.json"}
    assert {p.name for p in folder.iterdir()} == expected
    assert (folder / "table.md").read_text("utf-8") == failing.table() + "\n"
    assert Comparison.from_dict(json.loads((folder / "comparison.json").read_text())).table() == failing.table()
    assert all(imread(folder / f).std() > 0.01 for f in expected if f.endswith(".png"))


@pytest.mark.parametrize(("value", "shown"), [
    (3, 3), (None, None), (np.float32(0.5), 0.5), (np.arange(3), [0, 1, 2]), ((1, [2]), [1, [2]]),
    (np.zeros((3, 4)), "array of float64, shape (3, 4)"), (list(range(9)), "list of 9"), ({1: len}, {"1": "len"}),
])
def test_parameters_as_json(value, shown):
    assert describe(value) == shown
    json.dumps(describe(value))
