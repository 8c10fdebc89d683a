"""The matrix of tokens: colours, values and blanks read back from the artists, and the table by a parser."""

import doctest
import importlib
import itertools
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError, ZeroMapWarning
from innv_ext.visualization import plot_token_matrix, token_matrix_to_html

TARGETS, SOURCES = ["sat", "on $x$", "<b>"], ["the", "cat", "\n", "$a_1$"]
VALUES = np.array([[0.4, -2.0, 9.0, 9.0], [0.0, 0.25, 1.26, 9.0], [-0.01, 0.5, 1.0, -1.5]])
ABSENT = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
MASKED = np.ma.array(VALUES, mask=ABSENT)
WRITTEN = ["+0.4", "−2.0", "0.0", "+0.2", "+1.3", "0.0", "+0.5", "+1.0", "−1.5"]


def colour(value, peak):
    return matplotlib.colormaps["seismic"].resampled(1025)(round(1024 * (value / peak + 1) / 2))[:3]


def ground(axes):
    return np.asarray(axes.images[0].get_array())


def test_cells_have_the_colour_of_their_relevance_and_absent_ones_none():
    figure = plot_token_matrix(TARGETS, SOURCES, MASKED)
    axes, peak = figure.axes[0], 2.0  # what is absent has no say in the scale
    for (i, j), absent in np.ndenumerate(ABSENT):
        expected = (1, 1, 1) if absent else colour(VALUES[i, j], peak)
        np.testing.assert_allclose(ground(axes)[i, j], expected, atol=1e-9)
    assert [t.get_text() for t in axes.texts] == WRITTEN
    assert [t.get_position() for t in axes.texts] == [(j, i) for i, j in np.argwhere(~ABSENT)]
    assert [t.get_text() for t in axes.get_yticklabels()] == TARGETS
    assert [t.get_text() for t in axes.get_xticklabels()] == ["the", "cat", "\\n", "$a_1$"]
    assert not any(t.get_parse_math() for t in [*axes.get_xticklabels(), *axes.get_yticklabels()])


def test_values_fit_into_their_cells_and_labels_beside_them():
    axes = plot_token_matrix(TARGETS, SOURCES, 100 * MASKED).axes[0]
    panel = axes.get_window_extent()
    width, height = panel.width / len(SOURCES), panel.height / len(TARGETS)
    for text in axes.texts:
        box, (j, i) = text.get_window_extent(), text.get_position()
        assert panel.x0 + j * width <= box.x0 and box.x1 <= panel.x0 + (j + 1) * width
        assert panel.y1 - (i + 1) * height <= box.y0 and box.y1 <= panel.y1 - i * height
    labels = [t.get_window_extent() for t in axes.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(labels)) and labels[0].y0 >= panel.y1
    assert all(t.get_window_extent().x1 <= panel.x0 for t in axes.get_yticklabels())


def test_values_are_written_where_they_are_few():
    large = np.ones((3, 81))
    assert not plot_token_matrix(TARGETS, ["a"] * 81, large).axes[0].texts
    assert len(plot_token_matrix(TARGETS, ["a"] * 81, large, values=True).axes[0].texts) == 243
    assert not plot_token_matrix(TARGETS, SOURCES, MASKED, values=False).axes[0].texts


@pytest.mark.parametrize(
    ("value", "text", "note"), [(4e-7, "+4.0", "in 1e−7"), (4e5, "+4.0", "in 1e5"), (40, "+40", "")]
)
def test_very_small_and_large_values_share_a_power_of_ten(value, text, note):
    axes = plot_token_matrix(TARGETS[:1], SOURCES[:1], [[value]]).axes[0]
    assert (axes.texts[0].get_text(), axes.get_title()) == (text, note)


@pytest.mark.parametrize("scale", ["map", "all"])
def test_several_maps_side_by_side(scale):
    maps = {"gradient": MASKED, "lrp": 10 * MASKED}
    figure = plot_token_matrix(TARGETS, SOURCES, maps, scale=scale)
    first, second = figure.axes[:2]
    np.testing.assert_allclose(ground(first)[0, 0], colour(0.4, 2.0 if scale == "map" else 20.0), atol=1e-9)
    np.testing.assert_allclose(ground(second)[0, 0], colour(4.0, 20.0), atol=1e-9)
    assert [a.get_title() for a in (first, second)] == (
        ["gradient\nmax 2", "lrp\nmax 20"] if scale == "map" else ["gradient", "lrp"]
    )
    assert [t.get_text() for t in second.get_yticklabels()] == [""] * 3


def test_given_axes_and_files(tmp_path):
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots()
    assert plot_token_matrix(TARGETS, SOURCES, MASKED, ax=axes, path=tmp_path / "m.png") is figure
    assert (tmp_path / "m.png").stat().st_size > 1000
    with pytest.raises(InvalidInputError, match="columns of values have no room"):
        plot_token_matrix(TARGETS[:1], ["a"] * 60, np.ones((1, 60)), ax=Figure(figsize=(2, 2)).subplots())


def test_values_that_are_not_finite_and_maps_of_zeros():
    with pytest.warns(UserWarning, match="not finite .* at 1 cell"):
        axes = plot_token_matrix(["a"], ["b", "c"], [[np.nan, 1.0]]).axes[0]
    np.testing.assert_array_equal(ground(axes)[0, 0], (0, 1, 0))
    assert [t.get_text() for t in axes.texts] == ["?", "+1.0"]
    with pytest.warns(ZeroMapWarning):
        axes = plot_token_matrix(["a"], ["b", "c"], np.zeros((1, 2))).axes[0]
    assert [t.get_text() for t in axes.texts] == ["0.0", "0.0"]


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.styles = [], {}

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.styles[len(self.rows) - 1, len(self.rows[-1]) - 1] = dict(attrs)

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def test_the_table_has_the_same_tokens_values_and_colours():
    cells = Cells()
    cells.feed(token_matrix_to_html(TARGETS, SOURCES, MASKED))
    assert cells.rows[0] == ["", "the", "cat", "\\n", "$a_1$"]
    assert [row[0] for row in cells.rows[1:]] == TARGETS
    values = [cells.rows[i + 1][j + 1] for i, j in np.argwhere(~ABSENT)]
    assert values == WRITTEN and all(cells.rows[i + 1][j + 1] == "" for i, j in np.argwhere(ABSENT))
    style = cells.styles[1, 2]
    assert f"background:{to_hex(colour(-2.0, 2.0))};color:#ffffff" in style["style"] and style["title"] == "−2"
    assert cells.styles[1, 3] == {}
    with pytest.raises(InvalidInputError, match="must be one array"):
        token_matrix_to_html(TARGETS, SOURCES, {"a": MASKED})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ab", SOURCES, VALUES), "targets must be a list of strings"),
        ((TARGETS, [], VALUES), "sources must be a list of strings"),
        ((TARGETS, [1, 2, 3, 4], VALUES), "sources must be a list of strings"),
        ((TARGETS, SOURCES, VALUES.T), r"has shape \(4, 3\), but there are 3 targets and 4 sources"),
        ((TARGETS, SOURCES, {"m": VALUES[0]}), r"relevance\['m'\] has shape \(4,\)"),
        ((TARGETS, SOURCES, {}), "empty dict"),
        ((TARGETS, SOURCES, np.full((3, 4), "a")), "must be an array of real numbers"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        plot_token_matrix(*arguments)


def test_examples_in_docstrings():
    module = importlib.import_module("innv_ext.visualization.token_matrix")
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_names_of_texts_stand_in_the_html_of_tokens():
    from innv_ext.visualization import tokens_to_html

    page = tokens_to_html([["a"], ["b"]], [[1.0], [2.0]], row_names=["<one>", ""])
    assert page.count("&lt;one&gt;</span> <span") == 1 and "<one>" not in page
    with pytest.raises(InvalidInputError, match="row_names must be 2 names"):
        tokens_to_html([["a"], ["b"]], [[1.0], [2.0]], row_names=["one"])
