"""Tables summed up over a data set: bars, and a point per sample, read back from the figure."""

import numpy as np
import pytest

from innv_ext.errors import InvalidInputError
from innv_ext.visualization import plot_tables

RNG = np.random.default_rng(0)
DATA, MAPS = RNG.normal(size=(40, 6)), RNG.normal(size=(40, 6)) * [0.1, 3, 1, 2, 0.2, 0.3]
NAMES = list("abcdef")


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_bars_are_mean_magnitudes_that_add_up():
    figure = plot_tables(DATA, {"m": MAPS, "half": MAPS[:, ::-1] / 2}, kind="bars", feature_names=NAMES, top=3)
    means = np.abs(MAPS).mean(axis=0)
    for axes, values, names in zip(figure.axes, (means, means[::-1] / 2), (NAMES, NAMES), strict=True):
        order = np.argsort(-values)[:3]
        widths = [patch.get_width() for patch in axes.patches]
        np.testing.assert_allclose(widths, [*values[order], values.sum() - values[order].sum()])
        assert labels(axes) == [*(names[f] for f in order), "others (3 features)"]
        assert axes.get_xlim() == (0, max(widths)) and axes.get_xlabel() == "mean |relevance|"
    shared = plot_tables(DATA, {"m": MAPS, "half": MAPS / 2}, kind="bars", scale="row")
    assert len({axes.get_xlim() for axes in shared.axes}) == 1


def test_points_stand_at_their_relevance_in_the_colour_of_the_value():
    figure = plot_tables(DATA, MAPS, kind="beeswarm", feature_names=NAMES, top=4)
    axes, bar = figure.axes
    assert labels(axes) == ["b", "d", "c", "f", "others (2 features)"] and bar.get_xlabel() == "value of the feature"
    for row, (points, name) in enumerate(zip(axes.collections, labels(axes), strict=True)):
        x, y = points.get_offsets().T
        if name == "others (2 features)":
            np.testing.assert_allclose(x, MAPS[:, [0, 4]].sum(axis=1))
            continue
        f = NAMES.index(name)
        np.testing.assert_allclose(x, MAPS[:, f])
        assert (abs(y - row) < 0.5).all()
        red = points.get_facecolors()[:, 0] - points.get_facecolors()[:, 2]  # grows with the value, but for the tails
        inner = np.argsort(DATA[:, f])[3:-3]
        assert (np.diff(red[inner]) >= -1e-9).all() and red[inner[-1]] - red[inner[0]] > 0.8
    assert axes.get_xlim()[0] < MAPS.min() and axes.get_xlim()[1] > MAPS.max()


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_points_at_one_place_stand_beside_each_other(count):
    figure = plot_tables(np.arange(count * 2.0).reshape(count, 2), np.ones((count, 2)), kind="beeswarm")
    for row, points in enumerate(figure.axes[0].collections):
        y = np.sort(points.get_offsets()[:, 1])
        assert len(np.unique(np.round(y, 9))) == count and abs(y - row).max() < 0.5
        np.testing.assert_allclose(np.diff(y), np.diff(y)[:1].repeat(count - 1))


def test_missing_values_and_relevance_in_summaries():
    data, maps = DATA.copy(), MAPS.copy()
    data[:5, 1], maps[7, 1] = np.nan, np.inf
    with pytest.warns(UserWarning, match="not finite"):
        axes = plot_tables(data, maps, kind="beeswarm").axes[0]
        widths = [patch.get_width() for patch in plot_tables(data, maps, kind="bars").axes[0].patches]
    points = axes.collections[0]
    assert (points.get_facecolors()[:5, :3] == [0, 1, 0]).all() and len(points.get_offsets()) == 39
    assert [t.get_text() for t in axes.texts] == ["1 not finite"]
    np.testing.assert_allclose(widths[0], np.abs(np.delete(maps[:, 1], 7)).mean())
    rare = np.zeros((40, 1))
    rare[3] = 1
    colours = plot_tables(rare, MAPS[:, :1], kind="beeswarm").axes[0].collections[0].get_facecolors()
    assert colours[3, 0] > 0.8 > 0.2 > colours[0, 0]
    wrong = [({"kind": "swarm"}, "kind must be one of"), ({"row_names": NAMES}, "row_names has no meaning")]
    for options, text in [*wrong, ({"kind": "bars", "cmap": "gray"}, "cmap has no meaning with kind='bars'")]:
        with pytest.raises(InvalidInputError, match=text):
            plot_tables(DATA, MAPS, **{"kind": "beeswarm", **options})
