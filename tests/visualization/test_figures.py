"""Signals, tables and volumes: colours, positions and numbers read back from the artists, against hand-made ones."""

import itertools
import warnings

import matplotlib
import matplotlib.collections
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError, ZeroMapWarning
from innv_ext.visualization import imshow_grid, plot_signals, plot_tables, plot_tokens, plot_volumes

RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(2, 6, 3))
WAVES = {"gradient": RNG.normal(size=(2, 6, 3)), "lrp": 100 * RNG.normal(size=(2, 6, 3))}
TABLE = RNG.normal(size=(2, 7))
BARS = {"gradient": RNG.normal(size=(2, 7)), "lrp": 100 * RNG.normal(size=(2, 7))}
VOLUMES = RNG.uniform(size=(2, 7, 4, 5))
CUBES = {"gradient": RNG.normal(size=(2, 7, 4, 5, 2)), "lrp": 100 * RNG.normal(size=(2, 7, 4, 5, 2))}
TOKENS = [["a", "good", "film"], ["bad"]]
GREEN = (0, 1, 0)
SCALES = ["map", "row", "column", "all"]
fast = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))


def color(value, peak, cmap="seismic"):
    return matplotlib.colormaps[cmap].resampled(1025)(round(1024 * (value / peak + 1) / 2))[:3]


def peak(maps, name, row, scale):
    """The largest magnitude among the maps that share a scale with this one."""
    names = [name] if scale in ("map", "column") else list(maps)
    rows = [row] if scale in ("map", "row") else range(len(maps[name]))
    return max(float(np.abs(maps[n][r]).max()) for n in names for r in rows)


def collections(axes, label):
    return [c for c in axes.collections if c.get_label() == label]


def bar_axes(figure):
    return next(axes for axes in figure.axes if axes.get_label() == "colorbar")


def bar_ticks(figure):
    return [t.get_text() for t in bar_axes(figure).get_xticklabels()]


def written(axes):
    """All texts of the axes but the labels of ticks that are out of view."""
    found = [axes.title, *axes.texts]
    if axes.axison:
        found += [axes.xaxis.label, axes.yaxis.label]
        for labels, limits, k in [
            (axes.get_xticklabels(), sorted(axes.get_xlim()), 0),
            (axes.get_yticklabels(), sorted(axes.get_ylim()), 1),
        ]:
            found += [t for t in labels if limits[0] <= t.get_position()[k] <= limits[1]]
    return [t for t in found if t.get_text().strip() and t.get_visible()]


def overlapping(figure):
    """Pairs of texts that overlap, and texts that are cut off by the figure."""
    figure.canvas.draw()
    texts = [t for axes in figure.axes for t in written(axes)] + figure.texts
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if not 0 < t.get_rotation() < 90]
    width, height = figure.bbox.width, figure.bbox.height
    cut = [n for n, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    return cut + [
        (n, m)
        for (n, a), (m, b) in itertools.combinations(boxes, 2)
        if a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1
    ]


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_every_sample_has_the_colour_of_its_relevance(scale):
    figure = plot_signals(SIGNALS, WAVES, scale=scale, cmap="PuOr")
    panels = np.array(figure.axes[:12]).reshape(2, 3, 2)
    for i, c, (j, name), t in itertools.product(range(2), range(3), enumerate(WAVES), range(6)):
        (line,) = collections(panels[i, c, j], "signal")
        expected = color(WAVES[name][i, t, c], peak(WAVES, name, i, scale), "PuOr")
        np.testing.assert_allclose(line.get_colors()[t, :3], expected, atol=1e-9)
    (ramp,) = [c for c in bar_axes(figure).collections if isinstance(c, matplotlib.collections.QuadMesh)]
    np.testing.assert_allclose(ramp.cmap([0.0, 0.5, 1.0])[:, :3], [color(v, 1, "PuOr") for v in (-1, 0, 1)])
    assert bar_ticks(figure)[0] == ("−max" if scale != "all" else f"−{peak(WAVES, 'lrp', 0, 'all'):.3g}")


def test_pieces_reach_half_way_to_the_neighbours():
    figure = plot_signals([[1.0, 3.0, 7.0]], [[1.0, -2.0, 0.5]], times=[0, 2, 3])
    (line,) = collections(figure.axes[0], "signal")
    expected = [[(-1, 1), (0, 1), (1, 2)], [(1, 2), (2, 3), (2.5, 5)], [(2.5, 5), (3, 7), (3.5, 7)]]
    np.testing.assert_allclose(line.get_segments(), expected)
    (casing,) = collections(figure.axes[0], "casing")
    np.testing.assert_allclose(casing.get_segments(), expected)
    assert casing.get_linewidth()[0] > line.get_linewidth()[0] and casing.get_zorder() < line.get_zorder()
    assert figure.axes[0].get_xlim() == (-1, 3.5)
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < 1 and top > 7


def test_zero_is_neutral_and_visible_in_the_pixels():
    figure = plot_signals([[0.0] * 5], [[1.0, 0.0, 0.0, 0.0, -1.0]])
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    axes = figure.axes[0]
    for t, expected in [(0, color(1, 1)), (2, (1, 1, 1)), (4, color(-1, 1))]:
        x, y = axes.transData.transform((t, 0))
        column = pixels[:, int(x)]
        row = len(column) - 1 - int(y)
        np.testing.assert_allclose(column[row], expected, atol=0.01)
        around = column[row - 6 : row + 7]  # dots; the grey casing sets even white off from the background
        assert ((around.max(axis=1) < 0.75) & (np.ptp(around, axis=1) < 0.05)).any()


def test_a_signal_of_one_sample_is_drawn():
    (line,) = collections(plot_signals([[4.0]], [[1.0]]).axes[0], "signal")
    np.testing.assert_allclose(line.get_segments(), [[(-0.5, 4), (0, 4), (0.5, 4)]])


def test_relevance_without_channels_holds_for_all_of_them():
    figure = plot_signals(SIGNALS, WAVES["lrp"][..., 0])
    largest = np.abs(WAVES["lrp"][0, :, 0]).max()
    for c, t in itertools.product(range(3), range(6)):
        (line,) = collections(figure.axes[c], "signal")
        np.testing.assert_allclose(line.get_colors()[t, :3], color(WAVES["lrp"][0, t, 0], largest))


def test_channels_first_is_the_same_picture():
    last = plot_signals(SIGNALS, WAVES)
    moved = {name: maps.transpose(0, 2, 1) for name, maps in WAVES.items()}
    first = plot_signals(SIGNALS.transpose(0, 2, 1), moved, channel_axis=1)
    for a, b in zip(last.axes[:12], first.axes[:12], strict=True):
        one, other = collections(a, "signal")[0], collections(b, "signal")[0]
        np.testing.assert_array_equal(one.get_colors(), other.get_colors())
        np.testing.assert_array_equal(one.get_segments(), other.get_segments())


def test_lines_of_channels_keep_their_shape_in_separate_lanes():
    figure = plot_signals(SIGNALS, WAVES, channels="lines", channel_names=["x", "y$", "z"], row_names=["a", "b"])
    panels = np.array(figure.axes[:4]).reshape(2, 2)
    for i, j in np.ndindex(2, 2):
        lines = collections(panels[i, j], "signal")
        middles = [line.get_segments()[t][1][1] for line in lines for t in range(6)]
        drawn = np.array(middles).reshape(3, 6)
        shift = drawn - SIGNALS[i].T
        np.testing.assert_allclose(shift, shift[:, :1].repeat(6, 1), atol=1e-12)
        assert all(upper.min() > lower.max() for upper, lower in itertools.pairwise(drawn))
        ticks = panels[i, j].get_yticks()
        np.testing.assert_allclose(ticks, (drawn.min(axis=1) + drawn.max(axis=1)) / 2)
    assert [t.get_text() for t in panels[0, 0].get_yticklabels()] == ["x", "y$", "z"]
    assert [p.get_ylabel() for p in panels[:, 0]] == ["a", "b"]
    assert [p.get_title().split("\n")[0] for p in panels[0]] == ["gradient", "lrp"]


def test_what_is_not_finite_is_marked_with_warnings_at_the_callers_line():
    x, maps = SIGNALS[..., 0].copy(), {"a": WAVES["lrp"][..., 0].copy()}
    x[0, 2], maps["a"][0, 4], maps["a"][1, 0] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning) as caught:
        figure = plot_signals(x, maps, scale="all")
    messages = [str(w.message) for w in caught]
    assert messages[0].startswith("x is not finite (NaN or infinite) at 1 time step(s) of signal(s) [0]")
    assert messages[1].startswith("a: relevance is not finite (NaN or infinite) at 2 time step(s) of signal(s) [0, 1]")
    assert len(caught) == 2 and all(w.filename == __file__ for w in caught)
    (line,), (missing,) = collections(figure.axes[0], "signal"), collections(figure.axes[0], "missing")
    np.testing.assert_allclose(missing.get_segments(), [[(2, 0), (2, 1)]])
    np.testing.assert_allclose(missing.get_colors()[0, :3], GREEN)
    pieces, colours = np.array(line.get_segments()), line.get_colors()[:, :3]
    assert pieces[:, 1, 0].tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(pieces[1, 2], (1.5, x[0, 1]))  # level towards the gap
    np.testing.assert_allclose(pieces[2, 0], (2.5, x[0, 3]))
    np.testing.assert_allclose(colours[3], GREEN)
    largest = np.abs(maps["a"][np.isfinite(maps["a"])]).max()
    np.testing.assert_allclose(colours[0], color(maps["a"][0, 0], largest))
    assert bar_axes(figure).get_xlabel() == "relevance (green: not finite)"


def test_all_missing_signals_and_zero_maps_are_drawn():
    with pytest.warns() as caught:
        figure = plot_signals([[np.nan, np.nan]], [[0.0, 0.0]])
    assert [w.category for w in caught] == [UserWarning, ZeroMapWarning]
    figure.canvas.draw()
    assert len(collections(figure.axes[0], "missing")[0].get_segments()) == 2 and bar_ticks(figure) == ["", "0", ""]


# --- tables -------------------------------------------------------------------------------------------------


def bars(axes):
    """(label, left, right, colour, text) of each bar from the top."""
    labels = [t.get_text() for t in axes.get_yticklabels()]
    patches = sorted(axes.patches, key=lambda p: p.get_y())
    edges = [sorted((p.get_x(), p.get_x() + p.get_width())) for p in patches]
    return [
        (label, *edge, patch.get_facecolor(), text.get_text())
        for label, edge, patch, text in zip(labels, edges, patches, axes.texts, strict=True)
    ]


@pytest.mark.parametrize("top", [1, 3, 7, 20, None])
def test_bars_are_sorted_and_add_up_to_the_whole(top):
    names = [f"f{k}" for k in range(7)]
    figure = plot_tables(TABLE, BARS, feature_names=names, top=top)
    panels = np.array(figure.axes).reshape(2, 2)
    count = min(top or 7, 7)
    for i, (j, name) in itertools.product(range(2), enumerate(BARS)):
        values = BARS[name][i]
        order = sorted(range(7), key=lambda f: -abs(values[f]))
        drawn = bars(panels[i, j])
        assert len(drawn) == count + (count < 7)
        for f, (label, left, right, colour, text) in zip(order[:count], drawn, strict=False):
            assert label == f"f{f} = {TABLE[i, f]:.3g}".replace("-", "−")
            np.testing.assert_allclose((left, right), sorted((0, values[f])), atol=1e-12)
            np.testing.assert_allclose(colour[:3], color(np.sign(values[f]) * 0.75, 1))
            assert text == f"{values[f]:+.3g}".replace("-", "−")
        if count < 7:
            label, left, right, colour, text = drawn[-1]
            assert label == f"others ({7 - count} features)" and colour[3] < 1
            assert left + right == pytest.approx(sum(values[f] for f in order[count:]))
        assert sum(left + right for _, left, right, *_ in drawn) == pytest.approx(values.sum())
        low, high = panels[i, j].get_xlim()
        assert low == -high and high == pytest.approx(max(abs(e) for _, *edges, _, _ in drawn for e in edges))


def test_one_other_feature_and_ties():
    drawn = bars(plot_tables([[1, 2, 3]], [[1.0, -1.0, 1.0]], top=2).axes[0])
    assert [d[0] for d in drawn] == ["feature 0 = 1", "feature 1 = 2", "others (1 feature)"]


def test_many_features_are_summed_by_default():
    values = np.arange(1.0, 41.0)[None]
    drawn = bars(plot_tables(values, values).axes[0])
    assert len(drawn) == 16 and drawn[-1][0] == "others (25 features)" and drawn[-1][2] == sum(range(1, 26))


@pytest.mark.parametrize("scale", SCALES)
def test_panels_share_the_ends_of_their_axes(scale):
    panels = np.array(plot_tables(TABLE, BARS, scale=scale).axes).reshape(2, 2)
    for i, (j, name) in itertools.product(range(2), enumerate(BARS)):
        assert panels[i, j].get_xlim()[1] == pytest.approx(peak(BARS, name, i, scale))


def test_what_is_not_finite_comes_first_and_is_marked():
    x, values = TABLE.copy(), BARS["lrp"].copy()
    values[0, 3], x[0, 3], x[1, 2] = np.nan, np.nan, np.inf
    with pytest.warns(UserWarning) as caught:
        figure = plot_tables(x, values)
    assert len(caught) == 2 and all(w.filename == __file__ for w in caught)
    label, left, right, colour, text = bars(figure.axes[0])[0]
    assert (label, text) == ("feature 3 = nan", "not finite") and colour[:3] == GREEN
    assert (left, right) == figure.axes[0].get_xlim() and right == pytest.approx(np.nanmax(np.abs(values[0])))
    grounds = [t.get_bbox_patch() for t in figure.axes[0].get_yticklabels()]
    assert grounds[0].get_facecolor()[:3] == GREEN and grounds[1:] == [None] * 6
    values[0, :4] = np.nan
    with pytest.warns(UserWarning, match="4 feature"):
        hidden = bars(plot_tables(TABLE, values, top=2).axes[0])[-1]
    assert hidden[0] == "others (5 features)" and hidden[4] == "not finite" and hidden[3][:3] == GREEN


# --- volumes ------------------------------------------------------------------------------------------------


def shown(axes):
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_slices_have_the_colours_of_the_summed_channels(axis, scale):
    figure = plot_volumes(VOLUMES, CUBES, axis=axis, slices=[0, -1, 2], scale=scale)
    depth = VOLUMES.shape[axis + 1]
    panels = np.array(figure.axes[:18]).reshape(2, 3, 3)
    sums = {name: maps.sum(axis=-1) for name, maps in CUBES.items()}
    for i, (k, z) in itertools.product(range(2), enumerate([0, depth - 1, 2])):
        assert panels[i, 0, k].get_title() == f"slice {z}"
        grey = VOLUMES[i].take(z, axis)
        np.testing.assert_allclose(shown(panels[i, 0, k]), np.repeat(grey[..., None], 3, -1))
        for j, name in enumerate(CUBES, 1):
            values = sums[name][i].take(z, axis)
            largest = peak(sums, name, i, scale)
            expected = [[color(v, largest) for v in row] for row in values]
            np.testing.assert_allclose(shown(panels[i, j, k]), expected, atol=1e-9)


def test_the_input_has_one_range_per_volume():
    x = np.arange(24.0).reshape(1, 3, 2, 4) - 5
    figure = plot_volumes(x, x, slices=3)
    drawn = np.array([shown(axes)[..., 0] for axes in figure.axes[:3]])
    np.testing.assert_allclose(drawn, (x[0] + 5) / 23)
    bytes_ = plot_volumes(x.clip(0).astype(np.uint8), x, slices=3).axes[2]
    np.testing.assert_allclose(shown(bytes_)[..., 1], x[0, 2] / 255)
    ranged = plot_volumes(x, x, slices=3, value_range=(0, 10)).axes[0]
    np.testing.assert_allclose(shown(ranged)[..., 0], (x[0, 0] / 10).clip(0, 1))


def test_colour_volumes_and_channels_first():
    colours = RNG.uniform(size=(1, 3, 4, 5, 3))
    last = plot_volumes(colours, colours, slices=[1])
    first = plot_volumes(np.moveaxis(colours, -1, 1), np.moveaxis(colours, -1, 1), slices=[1], channel_axis=1)
    np.testing.assert_array_equal(shown(last.axes[0]), colours[0, 1])
    for a, b in zip(last.axes[:2], first.axes[:2], strict=True):
        np.testing.assert_array_equal(shown(a), shown(b))


@given(depth=st.integers(1, 30), count=st.integers(1, 12))
@settings(fast, max_examples=8)
def test_spaced_slices_are_in_the_middles_of_equal_parts(depth, count):
    x = np.ones((1, depth, 1, 1))
    figure = plot_volumes(x, x, slices=count, colorbar=False)
    count = min(count, depth)
    drawn = [int(axes.get_title().removeprefix("slice ")) for axes in figure.axes[:count]]
    assert drawn == [int((k + 0.5) * depth / count) for k in range(count)] and len(figure.axes) == 2 * count


def test_most_relevant_slices_weigh_analyzers_equally():
    first, second = np.zeros((2, 6, 2, 2)), np.zeros((2, 6, 2, 2))
    first[0, 4, 0], first[0, 1, 1] = -3, 1  # 6 of 8 in slice 4
    second[0, 2], second[0, 4, 0] = 1000, 500  # 4 of 5 in slice 2
    first[1, 0], second[1, 5] = 1, 1
    panels = plot_volumes(first, {"a": first, "b": second}, slices=2, choose="relevant").axes
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles == ["slice 2", "slice 4", "slice 0", "slice 5"]
    wide, narrow = np.zeros((1, 6, 2, 2)), np.zeros((1, 6, 2, 2))
    wide[0, :3], narrow[0, 4, 0, 0], narrow[0, 5, 0, 0] = 1, 1, 0.6  # shares of a third, against 5 of 8 in slice 4
    best = plot_volumes(wide, {"a": wide, "b": narrow}, slices=1, choose="relevant")
    assert best.axes[0].get_title() == "slice 4"


def test_volumes_mark_what_is_not_finite_and_state_scales():
    maps, x = {name: values.copy() for name, values in CUBES.items()}, VOLUMES.copy()
    maps["lrp"][1, 3, 2, 1, 0], x[0, 3, 0, 0] = np.nan, np.inf
    with pytest.warns(UserWarning) as caught:
        figure = plot_volumes(x, maps, slices=[3], row_names=["p", "q"])
    assert ["voxel(s) of volume(s) [0]" in str(w.message) for w in caught] == [True, False]
    assert "1 voxel(s) of volume(s) [1]" in str(caught[1].message) and caught[1].filename == __file__
    np.testing.assert_array_equal(shown(figure.axes[5])[2, 1], GREEN)
    np.testing.assert_array_equal(shown(figure.axes[0])[0, 0], GREEN)
    assert (shown(figure.axes[5]) == GREEN).all(axis=-1).sum() == 1
    assert [a.get_ylabel().split("\n")[0] for a in figure.axes[:6]] == ["p", "gradient", "lrp", "q", "gradient", "lrp"]
    largest = np.abs(CUBES["gradient"][0].sum(axis=-1)).max()
    assert figure.axes[1].get_ylabel() == f"gradient\nmax {largest:.3g}"


# --- all of them --------------------------------------------------------------------------------------------

FIGURES = {
    "signals": (lambda maps, **o: plot_signals(SIGNALS, maps, channels="lines", **o), WAVES, 4),
    "panels": (lambda maps, **o: plot_signals(SIGNALS, maps, **o), WAVES, 12),
    "tables": (lambda maps, **o: plot_tables(TABLE, maps, **o), BARS, 4),
    "volumes": (lambda maps, **o: plot_volumes(VOLUMES, maps, slices=2, **o), CUBES, 12),
    "tokens": (lambda maps, **o: plot_tokens(TOKENS, maps, **o), {k: v[:, :3] for k, v in BARS.items()}, 4),
    "grid": (
        lambda maps, **o: imshow_grid(VOLUMES[:, 0], maps, labels=[1, 2], scores=[1.0, 2.0], colorbar=True, **o),
        {name: maps[:, 0] for name, maps in CUBES.items()},
        6,
    ),
}
each_figure = pytest.mark.parametrize(("draw", "maps", "count"), FIGURES.values(), ids=FIGURES)


@each_figure
def test_draws_into_given_axes_and_nowhere_else(draw, maps, count):
    figure = Figure(figsize=(9, 9), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1)
    axes, other = upper.subplots(2, count // 2), lower.subplots()
    assert draw(maps, ax=axes) is figure
    fresh = draw(maps)
    for given_axes, own in zip(axes.flat, fresh.axes, strict=False):
        assert given_axes.has_data() or given_axes.texts
        assert len(given_axes.collections) == len(own.collections)
        assert len(given_axes.images) == len(own.images)
        for a, b in zip(given_axes.images, own.images, strict=True):
            np.testing.assert_array_equal(a.get_array(), b.get_array())
        for a, b in zip(given_axes.collections, own.collections, strict=True):
            np.testing.assert_array_equal(a.get_colors(), b.get_colors())
        colours = [[p.get_facecolor() for p in panel.patches] for panel in (given_axes, own)]
        assert colours[0] == colours[1]
    assert not (other.collections or other.images or other.patches or other.texts or other.get_title())
    assert draw(maps, ax=list(axes.flat)) is figure
    with pytest.raises(InvalidInputError, match=rf"ax must be {count} matplotlib axes, row by row"):
        draw(maps, ax=axes.flat[0])
    with pytest.raises(InvalidInputError, match="ax must be"):
        draw(maps, ax=[3] * count)


@each_figure
def test_figures_leave_their_input_alone(draw, maps, count):
    before = {name: values.copy() for name, values in maps.items()}
    frozen = {name: values.copy() for name, values in maps.items()}
    for values in frozen.values():
        values.setflags(write=False)
    draw(frozen, scale="all")
    for name, values in before.items():
        np.testing.assert_array_equal(frozen[name], values)
    assert list(frozen) == list(before)


@each_figure
@pytest.mark.parametrize("scale", ["map", "all"])
def test_no_text_is_cut_off_or_overlaps(draw, maps, count, scale):
    long = dict(zip(["lrp.sequential_preset_a_flat", "integrated_gradients"], maps.values(), strict=True))
    assert overlapping(draw(long, scale=scale)) == []


def test_nothing_is_cut_off_beside_narrow_slices_and_long_names():
    x = RNG.uniform(size=(1, 12, 30, 4))
    long = dict.fromkeys(["lrp.sequential_preset_b_flat_until_idx", "integrated_gradients"], x)
    for axis, slices in [(0, 12), (0, 1), (1, 5)]:
        assert overlapping(plot_volumes(x, {**long, "a": 2 * x}, axis=axis, slices=slices, row_names=["scan"])) == []
    names = [f"the rather long name of the feature number {f}" for f in range(7)]
    figure = plot_tables(1e6 * TABLE, {"a": 1e-7 * TABLE, **dict.fromkeys(long, TABLE)}, feature_names=names, top=3)
    assert overlapping(figure) == [] and min(axes.get_position().width for axes in figure.axes) * 3 > 0.2


@each_figure
@fast
@given(exponent=st.integers(-200, 200), sign=st.sampled_from([-1, 1]))
def test_scale_of_relevance_does_not_matter_and_colours_are_symmetric(draw, maps, count, exponent, sign):
    def colours(values, cmap):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            panels = draw(values, cmap=cmap).axes[:count]
        found = [c.get_colors()[:, :3] for axes in panels for c in axes.collections if c.get_label() == "signal"]
        found += [np.asarray(i.get_array()).reshape(-1, 3) for axes in panels for i in axes.images]
        return np.concatenate([*found, [p.get_facecolor()[:3] for axes in panels for p in axes.patches] or [[0] * 3]])

    mirrored = "gray" if sign > 0 else "gray_r"
    scaled = {name: sign * 2.0**exponent * values for name, values in maps.items()}
    np.testing.assert_allclose(colours(scaled, mirrored), colours(maps, "gray"), atol=1e-9)


@each_figure
def test_dollars_are_no_formulas(draw, maps, count):
    figure = draw(dict(zip(["a$b$", "$"], maps.values(), strict=True)))
    figure.canvas.draw()
    assert any("a$b$" in t.get_text() for t in figure.findobj(matplotlib.text.Text)) or any(
        "a$b$" in axes.get_ylabel() for axes in figure.axes
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_signals(SIGNALS[:0], SIGNALS[:0]), r"x has shape \(0, 6, 3\): there is no signal to draw"),
        (lambda: plot_signals(SIGNALS[0, 0], SIGNALS), r"x has shape \(3,\); expected \(batch, time\).*x\[None\]"),
        (lambda: plot_signals(SIGNALS[:, :0], SIGNALS), "there are no time steps to draw"),
        (lambda: plot_signals(SIGNALS, {}), "maps must be an array or a dict.*got an empty dict"),
        (
            lambda: plot_signals(SIGNALS, {"a": SIGNALS[:, :5]}),
            r"maps\['a'\] has \(batch, time\) \(2, 5\) but x has \(2, 6\)",
        ),
        (lambda: plot_signals(SIGNALS, SIGNALS[..., :2]), "maps has 2 channels but x has 3"),
        (
            lambda: plot_signals(SIGNALS, SIGNALS, channels="stack"),
            "channels must be one of 'panels', 'lines', got 'stack'",
        ),
        (lambda: plot_signals(SIGNALS, SIGNALS, scale="rows"), "scale must be one of .*got 'rows'.*mean 'row'"),
        (lambda: plot_signals(SIGNALS, SIGNALS, cmap="seismik"), "cmap must be one of .*got 'seismik'.*'seismic'"),
        (lambda: plot_signals(SIGNALS, SIGNALS, bad_color="gren"), "bad_color.*'gren'"),
        (lambda: plot_signals(SIGNALS, SIGNALS, times=[0, 1]), "times must be 6 increasing numbers"),
        (lambda: plot_signals(SIGNALS, SIGNALS, times=[0, 1, 2, 2, 3, 4]), "times must be 6 increasing"),
        (lambda: plot_signals(SIGNALS, SIGNALS, channel_names=["a"]), "channel_names must be 3 names.*got 1"),
        (lambda: plot_signals(SIGNALS, SIGNALS, row_names="ab"), "row_names must be 2 names.*got 'ab'"),
        (lambda: plot_signals(SIGNALS, SIGNALS, channel_axis=0), "channel_axis must be -1 .* or 1"),
        (lambda: plot_tables(TABLE[0], TABLE), r"x has shape \(7,\); expected \(batch, features\)\. A single row"),
        (lambda: plot_tables(SIGNALS, TABLE), r"x has shape \(2, 6, 3\)"),
        (lambda: plot_tables(TABLE, TABLE[:, :6]), r"maps has \(batch, features\) \(2, 6\).*they must agree\.$"),
        (lambda: plot_tables(TABLE[:0], TABLE[:0]), "there is no row to draw"),
        (lambda: plot_tables(TABLE, TABLE, top=0), "top must be an integer of at least 1.*got 0"),
        (lambda: plot_tables(TABLE, TABLE, top=2.5), "top must be an integer"),
        (lambda: plot_tables(TABLE, TABLE, feature_names=["a"]), "feature_names must be 7 names"),
        (lambda: plot_tables([["a"]], [[1.0]]), "x must be an array of real numbers"),
        (lambda: plot_volumes(VOLUMES[0], VOLUMES), r"\(batch, depth, height, width\) or that with a channel"),
        (lambda: plot_volumes(VOLUMES[:0], VOLUMES[:0]), "there is no volume to draw"),
        (lambda: plot_volumes(VOLUMES, VOLUMES[:, 1:]), r"maps has .* \(2, 6, 4, 5\) but x has \(2, 7, 4, 5\)"),
        (lambda: plot_volumes(CUBES["lrp"], VOLUMES), "x has 2 channels"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, axis=3), "axis must be 0, 1 or 2.*got 3"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=0), "slices must be at least 1; got 0"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=[7]), r"slices must be in \[-7, 6\] along axis 0"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=[-8]), r"slices must be in \[-7, 6\]"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=[]), "slices must be an integer or a sequence"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=2.0), "slices must be an integer or a sequence"),
        (lambda: plot_volumes(VOLUMES, VOLUMES, slices=[1], choose="relevant"), "choose='relevant' goes with a number"),
        (
            lambda: plot_volumes(VOLUMES, VOLUMES, choose="best"),
            "choose must be one of 'spaced', 'relevant', got 'best'",
        ),
        (lambda: plot_volumes(VOLUMES, VOLUMES, reduce="sun"), "reduce must be one of 'sum', .*got 'sun'"),
    ],
)
def test_errors_name_the_argument_what_was_got_and_the_remedy(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
