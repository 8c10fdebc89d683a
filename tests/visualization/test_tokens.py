"""Texts: colours, places and remarks read back from the artists, and the HTML read back by a parser."""

import doctest
import importlib
import itertools
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError, ZeroMapWarning
from innv_ext.visualization import plot_tokens, tokens_to_html

RNG = np.random.default_rng(0)
TOKENS = [["[CLS]", "a", "really", "good", "film", "[SEP]", "[PAD]", "[PAD]"], ["[CLS]", "so", "bad", "[SEP]"]]
MAPS = {"gradient": RNG.normal(size=(2, 8)), "lrp": 100 * RNG.normal(size=(2, 8))}
DRAWN = [TOKENS[0][:6], TOKENS[1]]  # without padding
WORDS = ["the quick brown fox jumps over a lazy dog and then it sleeps for a very long time".split()]
fast = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def color(value, peak, cmap="seismic"):
    return matplotlib.colormaps[cmap].resampled(1025)(round(1024 * (value / peak + 1) / 2))[:3]


def tokens(axes):
    return [t.get_text() for t in axes.texts if t.get_text() and not t.get_text().startswith(("[4", "[2", "[max"))]


def remarks(axes):
    return [t.get_text() for t in axes.texts if t.get_color() == "#555555"]


def signed(value):
    return f"{value:+.3g}".replace("-", "−")


# --- figure -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["map", "row", "column", "all"])
def test_every_token_has_the_colour_of_its_relevance(scale):
    figure = plot_tokens(TOKENS, MAPS, scale=scale, row_names=["first", "second"], cmap="PuOr")
    panels = np.array(figure.axes[:4]).reshape(2, 2)
    drawn = {name: [maps[i][: len(DRAWN[i])] for i in range(2)] for name, maps in MAPS.items()}
    for i, (j, name) in itertools.product(range(2), enumerate(MAPS)):
        names = [name] if scale in ("map", "column") else list(MAPS)
        rows = [i] if scale in ("map", "row") else range(2)
        peak = max(np.abs(drawn[n][r]).max() for n in names for r in rows)
        grounds = [patch.get_facecolor()[:3] for patch in panels[i, j].patches]
        np.testing.assert_allclose(grounds, [color(v, peak, "PuOr") for v in drawn[name][i]], atol=1e-9)
        assert tokens(panels[i, j])[: len(DRAWN[i])] == DRAWN[i]
        stated = [f"[max {peak:.3g}]"] if scale != "all" else []
        hidden = MAPS[name][i][len(DRAWN[i]) :]
        assert remarks(panels[i, j]) == [f"[{len(hidden)} padding, relevance {signed(hidden.sum())}]", *stated]
    assert [axes.get_title() for axes in panels.flat] == ["gradient", "lrp", "", ""]
    assert [panels[i, 0].texts[-1].get_text() for i in range(2)] == ["first", "second"]


def test_writing_lies_on_its_ground_and_lines_wrap_in_reading_order():
    relevance = RNG.normal(size=(1, len(WORDS[0])))
    for width, size in [(6.0, 8.0), (2.0, 8.0), (2.0, 11.0)]:
        figure = Figure(figsize=(width, 4))
        axes = figure.add_axes((0, 0.2, 1, 0.8))
        plot_tokens(WORDS, relevance, ax=axes, fontsize=size, colorbar=False)
        assert tokens(axes) == WORDS[0]
        words = [t for t in axes.texts if t.get_text()]
        boxes = [(t.get_window_extent(), p.get_window_extent()) for t, p in zip(words, axes.patches, strict=True)]
        for text, ground in boxes:
            assert ground.x0 <= text.x0 and text.x1 <= ground.x1 and ground.y0 <= text.y0 and text.y1 <= ground.y1
        whole, gap = axes.get_window_extent(), 0.03 * figure.dpi
        assert all(ground.x0 >= whole.x0 - 1e-6 and ground.x1 <= whole.x1 + 1e-6 for _, ground in boxes)
        assert all(ground.y1 <= whole.y1 and ground.y0 >= whole.y0 for _, ground in boxes)
        for (_, a), (_, b) in itertools.pairwise(boxes):
            same_line = abs(a.y0 - b.y0) < 1e-6
            if same_line:
                assert b.x0 == pytest.approx(a.x1 + gap)
            else:  # a new line starts only where the token had no room
                assert b.y1 < a.y0 and b.x0 == pytest.approx(whole.x0) and a.x1 + gap + b.width > whole.x1
        lines = len({round(ground.y0, 3) for _, ground in boxes})
        assert lines == 1 + sum(abs(a.y0 - b.y0) > 1e-6 for (_, a), (_, b) in itertools.pairwise(boxes))
        assert lines > 1 or width == 6.0


def test_long_tokens_are_cut_into_pieces_of_one_colour():
    long = "donaudampfschifffahrts" * 4
    axes = plot_tokens([["a", long, "b"]], {"x": [[1.0, -2.0, 0.5]], "y": [[1.0, -2.0, 0.5]]}, scale="all").axes[0]
    pieces = tokens(axes)[1:-1]
    assert "".join(pieces) == long and len(pieces) > 1
    assert {p.get_facecolor()[:3] for p in axes.patches[1:-1]} == {color(-2, 2)}
    whole = axes.get_window_extent()
    for text, patch in zip(axes.texts, axes.patches, strict=False):
        ground, letters = patch.get_window_extent(), text.get_window_extent()
        assert ground.x0 <= letters.x0 and letters.x1 <= ground.x1 <= whole.x1 + 1e-6


def test_small_axes_get_smaller_writing_and_tiny_ones_an_error():
    figure = Figure(figsize=(3, 3))
    axes = figure.add_axes((0, 0, 1, 0.2))
    plot_tokens(WORDS, np.ones((1, len(WORDS[0]))), ax=axes, fontsize=14, colorbar=False)
    assert 3 <= axes.texts[0].get_fontsize() < 14
    assert min(p.get_window_extent().y0 for p in axes.patches) >= axes.get_window_extent().y0
    with pytest.raises(InvalidInputError, match="too small for a text of 18 tokens"):
        plot_tokens(WORDS, np.ones((1, 18)), ax=Figure(figsize=(1, 0.2)).add_subplot())


def test_text_keeps_its_size_when_the_axes_change():
    figure = Figure(figsize=(4, 2))
    axes = figure.add_axes((0, 0, 1, 1))
    plot_tokens(TOKENS[1:], MAPS["lrp"][1:], ax=axes, colorbar=False)
    before = axes.patches[1].get_window_extent()
    axes.set_position((0.25, 0, 0.5, 0.5))
    after = axes.patches[1].get_window_extent()
    assert after.size == pytest.approx(before.size)
    assert after.x0 - before.x0 == pytest.approx(figure.dpi) and before.y1 - after.y1 == pytest.approx(figure.dpi)


@pytest.mark.parametrize("zero", [True, False])
def test_padding_is_grey_on_request_and_has_no_say_in_the_scale(zero):
    relevance = MAPS["lrp"].copy()
    relevance[:, 4:] = 0
    relevance[0, 6:] = 0 if zero else 1e6
    axes = plot_tokens(TOKENS, relevance, pad="grey").axes[0]
    grounds = [p.get_facecolor()[:3] for p in axes.patches]
    assert tokens(axes)[:8] == TOKENS[0] and grounds[6:] == [(0.87, 0.87, 0.87)] * 2
    np.testing.assert_allclose(grounds[3], color(relevance[0, 3], np.abs(relevance[0, :4]).max()))
    assert ("[2 padding, relevance +2e+06]" in remarks(axes)) is not zero
    skipped = plot_tokens(TOKENS, relevance).axes[0]
    assert remarks(skipped)[0] == ("[2 padding, relevance 0]" if zero else "[2 padding, relevance +2e+06]")
    assert len(plot_tokens(TOKENS, relevance, padding=["a", "film"]).axes[0].patches) == 6


def test_what_is_not_finite_is_marked_with_a_warning_at_the_callers_line():
    relevance = {"a": MAPS["lrp"].copy()}
    relevance["a"][0, 1], relevance["a"][1, 6] = np.nan, np.inf  # a token, and padding
    with pytest.warns(UserWarning) as caught:
        figure = plot_tokens(TOKENS, relevance)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert str(caught[0].message).startswith(
        "a: relevance is not finite (NaN or infinite) at 2 token(s) of text(s) [0, 1]"
    )
    assert figure.axes[0].patches[1].get_facecolor()[:3] == (0, 1, 0)
    assert remarks(figure.axes[1])[0] == "[4 padding, relevance not finite]"
    with pytest.warns(UserWarning) as caught:
        tokens_to_html(TOKENS, relevance["a"])
    assert caught[0].filename == __file__ and str(caught[0].message).startswith("relevance is not finite")


def test_embeddings_are_reduced():
    relevance = RNG.normal(size=(2, 8, 4))
    for reduce, values in {"sum": relevance.sum(-1), "norm": np.linalg.norm(relevance, axis=-1)}.items():
        first, second = plot_tokens(TOKENS, relevance, reduce=reduce), plot_tokens(TOKENS, values)
        for a, b in zip(first.axes[:2], second.axes[:2], strict=True):
            np.testing.assert_allclose([p.get_facecolor() for p in a.patches], [p.get_facecolor() for p in b.patches])


def test_empty_texts_zero_maps_and_odd_tokens_are_drawn():
    with pytest.warns(ZeroMapWarning) as caught:
        figure = plot_tokens([[], ["tab\there", "new\nline", "$x$", " "]], [[0.0] * 4, [1.0, 0.0, -1.0, 2.0]])
    figure.canvas.draw()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert not figure.axes[0].patches and remarks(figure.axes[0]) == ["[4 padding, relevance 0]", "[max 0]"]
    assert tokens(figure.axes[1])[:3] == [r"tab\there", r"new\nline", "$x$"]


# --- HTML ---------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects paragraphs of (text, style, title)."""

    def __init__(self, text):
        super().__init__()
        self.paragraphs, self.tags, self.span = [], set(), None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "p":
            self.paragraphs.append([])
        if tag == "span":
            self.span = dict(attrs)
            self.paragraphs[-1].append(["", self.span.get("style"), self.span.get("title")])

    def handle_endtag(self, tag):
        self.span = None if tag == "span" else self.span

    def handle_data(self, data):
        if self.span is not None:
            self.paragraphs[-1][-1][0] += data


def test_html_has_the_colours_and_numbers_of_the_figure():
    read = Reader(tokens_to_html(TOKENS, MAPS["lrp"], scale="all", cmap="PuOr"))
    figure = plot_tokens(TOKENS, MAPS["lrp"], scale="all", cmap="PuOr")
    assert read.tags == {"div", "p", "span"}
    for i, paragraph in enumerate(read.paragraphs):
        words = paragraph[: len(DRAWN[i])]
        assert [text for text, _, _ in words] == DRAWN[i]
        assert [title for _, _, title in words] == [signed(v) for v in MAPS["lrp"][i, : len(words)]]
        for (_, style, _), patch, text in zip(words, figure.axes[i].patches, figure.axes[i].texts, strict=False):
            assert f"background:{to_hex(patch.get_facecolor())};color:{text.get_color()}" in style
        assert [text for text, _, _ in paragraph[len(words) :]] == remarks(figure.axes[i])


@fast
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=5))
def test_html_is_escaped_whatever_the_tokens(words):
    text = tokens_to_html([words], np.ones((1, len(words))), padding=())
    read = Reader(text)
    printable = ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in w) for w in words]
    assert [t for t, _, _ in read.paragraphs[0]] == printable
    assert read.tags == {"div", "p", "span"} and text.isprintable() is False and text.count("\n") == 2


def test_scripts_stay_text():
    text = tokens_to_html([['<script>alert("x")</script>', "&amp;"]], [[1.0, 2.0]])
    assert "<script" not in text and "&lt;script&gt;" in text and "&amp;amp;" in text
    assert not {"http", "url(", "<link", "src="} & {part for part in ("http", "url(", "<link", "src=") if part in text}


# --- errors and documentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [plot_tokens, tokens_to_html])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": []}, r"tokens must be lists of strings, one list per text, at least one; got \[\]"),
        ({"tokens": "ab"}, "tokens must be lists of strings"),
        ({"tokens": ["ab", "cd"]}, "tokens must be lists of strings.*'ab' in it"),
        ({"tokens": [[1, 2], ["a"]]}, "tokens must be lists of strings.*got 1 in it"),
        ({"tokens": TOKENS[:1]}, r"relevance has \(batch, tokens\) \(2, 8\) but tokens has \(1, 8\)"),
        ({"relevance": MAPS["lrp"][:, :7]}, r"tokens\[0\] has 8 tokens but relevance has only 7 per text"),
        ({"relevance": MAPS["lrp"][0]}, r"relevance has shape \(8,\); expected \(batch, tokens\)"),
        ({"relevance": [["a"]]}, "relevance must be an array of real numbers"),
        ({"padding": "[PAD]"}, "padding must be a collection of tokens"),
        ({"pad": "hide"}, "pad must be one of 'skip', 'grey', got 'hide'"),
        ({"scale": "rows"}, "scale must be one of .*got 'rows'.*mean 'row'"),
        ({"cmap": "seismik"}, "cmap must be one of .*got 'seismik'"),
        ({"reduce": "sun"}, "reduce must be one of .*got 'sun'"),
    ],
)
def test_errors_name_the_argument_what_was_got_and_the_remedy(draw, options, message):
    given = {"tokens": TOKENS, "relevance": MAPS["lrp"], **options}
    with pytest.raises(InvalidInputError, match=message):
        draw(given.pop("tokens"), given.pop("relevance"), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fontsize": 0}, "fontsize must be a positive number, got 0"),
        ({"relevance": {}}, "relevance must be an array or a dict of names and arrays; got an empty dict"),
        ({"row_names": ["a"]}, "row_names must be 2 names, one each; got 1"),
        ({"relevance": {"a": MAPS["lrp"], "b": MAPS["lrp"][:, :7]}}, r"relevance\['b'\] has .*\(2, 7\) but tokens"),
    ],
)
def test_errors_of_the_figure_alone(options, message):
    with pytest.raises(InvalidInputError, match=message):
        plot_tokens(TOKENS, **{"relevance": MAPS["lrp"], **options})


def test_html_takes_one_array():
    with pytest.raises(InvalidInputError, match="relevance must be one array"):
        tokens_to_html(TOKENS, MAPS)


@pytest.mark.parametrize("module", ["signals", "tables", "volumes", "tokens"])
def test_documented_examples_run(module):
    outcome = doctest.testmod(importlib.import_module(f"innv_ext.visualization.{module}"))
    assert outcome.attempted and not outcome.failed
