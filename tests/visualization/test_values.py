"""What large and masked arrays become: values are averaged before they get colours, and masked values count as none."""

import os

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import innv_ext
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import inside_ratio, sparsity
from innv_ext.visualization import heatmap, imshow_grid, plot_signals, plot_tables, plot_tokens, plot_volumes, to_rgb


def cell(figure, path, axes):
    """The inner dots of the picture of some axes, as they are in the saved file."""
    figure.savefig(path, facecolor="white")
    saved = matplotlib.image.imread(path)[..., :3]
    box = axes.get_window_extent()
    top, left = saved.shape[0] - round(box.y1), round(box.x0)
    return saved[top : top + round(box.height), left : left + round(box.width)][4:-4, 4:-4]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("sides", [(640, 640), (640, 320)])
def test_fine_patterns_of_both_signs_are_neutral(tmp_path, gamma, sides):
    """Not the darkest of all colours, which the mean of the darkest red and blue is."""
    y, x = np.indices(sides)
    maps = np.where((y + x) % 2, 1.0, -1.0)[None]
    figure = imshow_grid(np.zeros_like(maps), {"a": maps}, gamma=gamma)
    dots = cell(figure, tmp_path / "a.png", figure.axes[1])
    assert dots.shape[0] < sides[0] / 2 and dots.min() > 0.9  # darkest: 0
    volumes = plot_volumes(np.zeros((1, 2, *sides)), maps[:, None].repeat(2, axis=1), slices=1)
    assert cell(volumes, tmp_path / "b.png", volumes.axes[1]).min() > 0.8  # 1.6 values a dot
    axes = Figure(dpi=100).subplots(1, 2)
    imshow_grid(np.zeros_like(maps), {"a": maps}, gamma=gamma, ax=axes)
    assert cell(axes[0].figure, tmp_path / "c.png", axes[1]).min() > 0.7


@pytest.mark.parametrize("options", [{}, {"gamma": 0.5}, {"percentile": 90.0}, {"scale": "all"}, {"cmap": "PiYG"}])
def test_a_dot_has_the_colour_of_the_mean_of_its_values(tmp_path, options):
    """Blocks of 4 x 4 values with a mean and noise around it, a dot each: against a map of the means."""
    rng = np.random.default_rng(0)
    means = np.repeat(np.repeat(rng.uniform(-0.5, 0.5, (4, 4)), 160, axis=0), 160, axis=1)[None]
    noise = np.where(np.indices((640, 640)).sum(axis=0) % 2, 0.5, -0.5)
    figure = imshow_grid(np.zeros((1, 640, 640)), {"a": means + noise, "b": means}, **options)
    dots = cell(figure, tmp_path / "a.png", figure.axes[1])
    top = np.percentile(np.abs(means + noise), options.get("percentile", 100))
    flat = {k: v for k, v in options.items() if k in ("gamma", "cmap")}
    halves = [np.clip((means + own) / top, -1, 1) for own in (0.5, -0.5)]
    expected = heatmap(np.mean(halves, axis=0), scale=1, **flat)[0]
    for i, j in np.ndindex(4, 4):
        middle = dots[40 * i + 12 : 40 * i + 22, 40 * j + 12 : 40 * j + 22].reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(middle, expected[160 * i + 80, 160 * j + 80], atol=0.03)


def test_values_that_are_not_finite_stay_marked_where_pictures_shrink(tmp_path):
    maps = np.ones((1, 640, 640))
    maps[0, 300:320, 300:320] = np.nan
    with pytest.warns(UserWarning, match=r"not finite .* at 400 pixel"):
        figure = imshow_grid(np.zeros_like(maps), {"a": maps})
    dots = cell(figure, tmp_path / "a.png", figure.axes[1])
    green = (dots == [0, 1, 0]).all(axis=-1)
    assert 9 <= green.sum() <= 120 and green[73:75, 73:75].any()


# --- files ---------------------------------------------------------------------------------------------------------

ROW = np.ones((1, 4))
PLOTS = {
    "grid": lambda **o: imshow_grid(np.zeros((1, 4, 4)), {"a": np.ones((1, 4, 4))}, **o),
    "signals": lambda **o: plot_signals(ROW, ROW, **o), "tables": lambda **o: plot_tables(ROW, ROW, **o),
    "tokens": lambda **o: plot_tokens([["a"] * 4], ROW, **o),
    "volumes": lambda **o: plot_volumes(np.zeros((1, 4, 4, 4)), np.ones((1, 4, 4, 4)), slices=1, **o),
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_saved(name, tmp_path):
    draw = PLOTS[name]
    figure = draw(path=tmp_path / "new" / "a.png")
    whole = matplotlib.image.imread(tmp_path / "new" / "a.png")
    assert whole.shape[:2] == tuple(round(s * figure.dpi) for s in figure.get_size_inches()[::-1])
    draw(path=str(tmp_path / "a.PDF"))
    assert (tmp_path / "a.PDF").read_bytes().startswith(b"%PDF") and sorted(os.listdir(tmp_path)) == ["a.PDF", "new"]
    with pytest.raises(InvalidInputError, match=r"path: the suffix must be one of .*'png'.*got 'xyz'"):
        draw(path=tmp_path / "a.xyz")
    with pytest.raises(InvalidInputError, match="is a folder; pass the name of a file in it"):
        draw(path=tmp_path / "new")
    with pytest.raises(InvalidInputError, match=r"nothing can be written to the folder .*a\.PDF"):
        draw(path=tmp_path / "a.PDF" / "b.png")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_names_the_file(tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*full\.png"):
        plot_tables(ROW, ROW, path=tmp_path / "full.png")
    assert os.listdir(tmp_path) == ["full.png"] and os.path.exists("/dev/full")


# --- masked arrays -------------------------------------------------------------------------------------------------


def test_masked_values_are_marked_like_those_that_are_not_finite():
    values = np.ma.array(np.linspace(-1, 1, 16).reshape(1, 4, 4), mask=np.eye(4, dtype=bool)[None])
    values.data[values.mask] = 1e9  # what lies below a mask has no say in the scale
    holes = values.filled(np.nan)
    with pytest.warns(UserWarning, match="not finite"):
        np.testing.assert_array_equal(heatmap(values), heatmap(holes))
        np.testing.assert_array_equal(heatmap([values[0]]), heatmap(holes))
        np.testing.assert_array_equal(to_rgb(values), to_rgb(holes))
        bytes_ = np.ma.array(np.arange(16, dtype="uint8").reshape(1, 4, 4) * 10, mask=values.mask)
        shown = to_rgb(bytes_)
        np.testing.assert_allclose(shown[0, 0, 1], 10 / 255)
        grids = [imshow_grid(x, {"a": x}) for x in (values, holes)]
        pairs = [[a.images[0].get_array() for a in grid.axes] for grid in grids]
        for one, other in zip(*pairs, strict=True):
            np.testing.assert_array_equal(one, other)
        drawn = [plot_tables(x[0], x[0]).axes[0].get_yticklabels() for x in (values, holes)]
        assert [t.get_text() for t in drawn[0]] == [t.get_text() for t in drawn[1]]
        plot_signals(values[0], values[0])
        plot_tokens([["a"] * 4] * 4, values[0])
        volume = plot_volumes(np.ma.array(bytes_[:, None]), np.ma.array(values[:, None]), slices=1)
    assert (volume.axes[0].images[0].get_array()[0, 0] == [0, 1, 0]).all()


def test_masked_values_are_not_explained_or_measured():
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ma.array(np.ones((2, 3)), mask=[[0, 0, 1], [0, 0, 0]])
    gradient = innv_ext.create_analyzer("gradient", model)
    for given in (x, [x[0], x[1]]):
        with pytest.raises(InvalidInputError, match=r"x for .* is a masked array with 1 masked values.*filled"):
            gradient.analyze(given, 0)
    np.testing.assert_array_equal(*(gradient.analyze(whole(np.ones((2, 3))), 0) for whole in (np.ma.array, np.array)))
    for data in (x, [(x, np.zeros(2))]):
        with pytest.raises(InvalidInputError, match="masked"):
            innv_ext.create_analyzer("gradient_shap", model).fit(iter(data) if isinstance(data, list) else data)
    with pytest.raises(InvalidInputError, match="masked"):
        inside_ratio(x, [0, 2])
    with pytest.raises(InvalidInputError, match="NaN"):
        sparsity(x)
