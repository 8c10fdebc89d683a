"""The comparison grid: pictures, texts, scales and layout, read back from the figure or the saved file."""

import ast
import itertools
import pathlib

import matplotlib.collections
import matplotlib.colors
import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

import innv_ext.visualization
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import (
    back_project,
    blend,
    graymap,
    heatmap,
    imshow_grid,
    mask_input,
    scale_input,
    to_rgb,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(3, 8, 8))
MAPS = {"gradient": RNG.normal(size=(3, 8, 8, 1)), "lrp.epsilon": 100 * RNG.normal(size=(3, 8, 8, 1))}
NAMES = [
    *["gradient", "smoothgrad", "integrated_gradients", "input_t_gradient", "guided_backprop", "deconvnet"],
    *["deep_taylor.bounded", "lrp.alpha_2_beta_1_IB", "lrp.sequential_preset_a_flat", "pattern.net"],
    *["lrp.sequential_preset_b_flat_until_idx", "pattern.attribution", "rde.frank_wolfe", "caso.smooth"],
]


def picture(figure, row, name):
    axes = next(a for a in figure.axes if a.get_label() == f"{row}, {name}")
    return axes.images[0].get_array()


def written(figure):
    """All that is written but the labels of ticks."""
    found = [t for axes in figure.axes for t in (axes.title, *axes.texts)] + figure.texts
    return [t for t in found if t.get_text()]


def texts(figure):
    return [text.get_text() for text in written(figure)]


def caption(figure):
    return " ".join(t.get_text().replace("\n", " ") for t in figure.texts)


def bar_colours(figure):
    """Of the least, the middle and the largest value."""
    (ramp,) = [c for c in figure.axes[-1].collections if isinstance(c, matplotlib.collections.QuadMesh)]
    return ramp.cmap(ramp.norm([-1.0, 0.0, 1.0]))[:, :3]


# --- pictures and scales ------------------------------------------------------------------------------------


def test_rows_are_images_and_columns_analyzers():
    figure = imshow_grid(IMAGES, MAPS)
    assert [a.get_label() for a in figure.axes[:4]] == [
        "0, input",
        "0, gradient",
        "0, lrp.epsilon",
        "1, input",
    ]
    assert len(figure.axes) == 9
    for row in range(3):
        np.testing.assert_array_equal(picture(figure, row, "input"), to_rgb(IMAGES)[row])
        for name, maps in MAPS.items():
            np.testing.assert_array_equal(picture(figure, row, name), heatmap(maps)[row])
    boxes = [a.get_position() for a in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 < boxes[1].x1 < boxes[2].x0 and boxes[3].y1 < boxes[0].y0


def test_each_column_may_have_its_own_mode():
    colors = RNG.normal(size=(3, 8, 8, 3))
    modes = {
        "graymap": graymap(colors, "norm"),
        "heatmap": heatmap(colors, "norm"),
        "scale_input": scale_input(colors, IMAGES, reduce="norm"),
        "mask_input": mask_input(colors, IMAGES, reduce="norm"),
        "blend": blend(colors, IMAGES, reduce="norm"),
        "back_project": back_project(colors),
    }
    paired = imshow_grid(IMAGES, {mode: (colors, mode) for mode in modes}, reduce="norm")
    named = imshow_grid(IMAGES, dict.fromkeys(modes, colors), modes={m: m for m in modes}, reduce="norm")
    for mode, expected in modes.items():
        np.testing.assert_array_equal(picture(paired, 1, mode), expected[1])
        np.testing.assert_array_equal(picture(named, 1, mode), expected[1])
        single = imshow_grid(IMAGES, {"x": colors}, mode=mode, reduce="norm")
        np.testing.assert_array_equal(picture(single, 1, "x"), expected[1])


def test_a_function_draws_from_copies_of_what_was_given():
    def draw(relevance, images):
        drawn = heatmap(relevance, gamma=0.5, channel_axis=1)
        relevance[:], images[:] = 0, 0
        return drawn

    first, images = np.moveaxis(MAPS["gradient"], -1, 1).copy(), IMAGES[:, None].copy()
    figure = imshow_grid(images, {"a": (first, draw)}, channel_axis=1)
    np.testing.assert_array_equal(picture(figure, 2, "a"), heatmap(MAPS["gradient"], gamma=0.5)[2])
    np.testing.assert_array_equal(first[:, 0], MAPS["gradient"][..., 0])
    np.testing.assert_array_equal(images[:, 0], IMAGES)
    assert "Drawn by the function given." in caption(figure)


@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_channel_axis_holds_for_images_and_maps(channel_axis):
    images, maps = RNG.uniform(size=(2, 8, 8, 3)), RNG.normal(size=(2, 8, 8, 3))
    moved = np.moveaxis(images, -1, channel_axis), np.moveaxis(maps, -1, channel_axis)
    for mode, expected in {"heatmap": heatmap(maps), "blend": blend(maps, images)}.items():
        figure = imshow_grid(moved[0], {"a": moved[1]}, mode=mode, channel_axis=channel_axis)
        np.testing.assert_array_equal(picture(figure, 1, "a"), expected[1])
        np.testing.assert_array_equal(picture(figure, 1, "input"), images[1])


def test_shared_scales_equal_hand_made_ones():
    values = np.array([maps[..., 0] for maps in MAPS.values()])  # (columns, rows, H, W)
    for scale, axes in {"map": (2, 3), "row": (0, 2, 3), "column": (1, 2, 3), "all": None}.items():
        shared = np.broadcast_to(np.abs(values).max(axis=axes, keepdims=True), (2, 3, 1, 1))
        figure = imshow_grid(IMAGES, MAPS, scale=scale)
        for (j, name), row in itertools.product(enumerate(MAPS), range(3)):
            expected = heatmap(MAPS[name], scale=shared[j, :, 0, 0])[row]
            np.testing.assert_array_equal(picture(figure, row, name), expected)


@pytest.mark.parametrize("scale", ["row", "column", "all"])
def test_only_columns_of_the_same_mode_share_a_scale(scale):
    maps = {
        "a": MAPS["gradient"],
        "big": (1e6 * MAPS["gradient"], "graymap"),
        "p": (MAPS["gradient"], "back_project"),
    }
    alone = imshow_grid(IMAGES, {"a": MAPS["gradient"]}, scale=scale)
    together = imshow_grid(IMAGES, maps, scale=scale)
    np.testing.assert_array_equal(picture(together, 1, "a"), picture(alone, 1, "a"))
    shared = np.abs(MAPS["gradient"]).max(axis=None if scale != "row" else (1, 2, 3))
    expected = back_project(MAPS["gradient"], scale=shared)
    np.testing.assert_array_equal(picture(together, 1, "p"), expected[1])


def test_shared_scales_leave_out_what_is_not_finite():
    maps = {name: values.copy() for name, values in MAPS.items()}
    maps["gradient"][0, 0, 0] = np.inf
    with pytest.warns(UserWarning, match="gradient: relevance is not finite"):
        figure = imshow_grid(IMAGES, maps, scale="all")
    largest = max(np.abs(v[np.isfinite(v)]).max() for v in maps.values())
    np.testing.assert_array_equal(picture(figure, 1, "gradient"), heatmap(maps["gradient"][1:2], scale=largest)[0])
    assert "Green: not finite." in caption(figure)


def test_warnings_name_the_column_and_zero_maps_are_marked():
    maps = {name: values.copy() for name, values in MAPS.items()}
    maps["lrp.epsilon"][1] = 0
    with pytest.warns(UserWarning) as caught:
        figure = imshow_grid(IMAGES, maps, scale="row")
    assert [str(w.message)[:30] for w in caught] == ["lrp.epsilon: relevance is zero"]
    assert caught[0].filename == __file__
    marked = [a.get_label() for a in figure.axes if a.texts]
    assert marked == ["1, lrp.epsilon"]
    images = IMAGES.copy()
    images[0, 0, 0] = np.nan
    with pytest.warns(UserWarning, match="input: image is not finite") as caught:
        imshow_grid(images, MAPS)
    assert caught[0].filename == __file__


def test_inputs_are_not_modified():
    images, maps = IMAGES.copy(), {name: values.copy() for name, values in MAPS.items()}
    imshow_grid(images, maps, scale="all", colorbar=True)
    np.testing.assert_array_equal(images, IMAGES)
    for name, values in MAPS.items():
        np.testing.assert_array_equal(maps[name], values)


@pytest.mark.parametrize("cmap", ["PuOr_r", matplotlib.colormaps["coolwarm"]])
def test_another_colour_map_reaches_heatmaps_bar_and_caption(cmap):
    figure = imshow_grid(IMAGES, {**MAPS, "g": (IMAGES, "graymap")}, cmap=cmap, colorbar=True, scale="all")
    largest = max(np.abs(values).max() for values in MAPS.values())
    expected = heatmap(MAPS["gradient"], cmap=cmap, scale=largest)[1]
    np.testing.assert_array_equal(picture(figure, 1, "gradient"), expected)
    np.testing.assert_array_equal(picture(figure, 1, "g"), graymap(IMAGES, scale=IMAGES.max())[1])
    ramp = heatmap([[[-1.0, 0.0, 1.0]]], cmap=cmap)[0, 0]
    np.testing.assert_allclose(bar_colours(figure), ramp)
    assert f"colour map {'coolwarm' if cmap != 'PuOr_r' else cmap}, negative to positive" in caption(figure)


def test_draws_into_given_axes_with_all_texts_beside_them():
    figure = matplotlib.figure.Figure(figsize=(9, 6))
    panels = figure.subplots(3, 3)
    options = {"labels": [0, 1, 2], "predictions": [0, 2, 2], "scores": [1, -2.5, 3], "scale": "all"}
    options["cmap"] = "coolwarm"
    assert imshow_grid(IMAGES, MAPS, ax=panels, colorbar=True, **options) is figure
    own = imshow_grid(IMAGES, MAPS, **options)
    for row, name in itertools.product(range(3), ["input", *MAPS]):
        np.testing.assert_array_equal(picture(figure, row, name), picture(own, row, name))
    assert [axes.get_title() for axes in panels[0]] == ["input", "gradient", "lrp.epsilon"]
    left, right = ([[t.get_text() for t in axes.texts] for axes in panels[:, j]] for j in (0, 2))
    assert left[1] == ["label: 1", "pred: 2"] and right[1] == ["score: −2.5"]
    assert [t.get_color() for t in panels[1, 0].texts] == ["#222222", "#c00000"]
    assert left[2][-1].replace("\n", " ") == caption(own)
    boxes = [t.get_window_extent() for t in panels[1, 0].texts]
    assert boxes[0].y0 >= boxes[1].y1 and max(b.x1 for b in boxes) < panels[1, 0].get_window_extent().x0
    assert panels[1, 2].texts[0].get_window_extent().x0 > panels[1, 2].get_window_extent().x1
    ticks = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
    np.testing.assert_allclose(bar_colours(figure), heatmap([[[-1.0, 0.0, 1.0]]], cmap="coolwarm")[0, 0])
    largest = max(np.abs(values).max() for values in MAPS.values())
    assert ticks == [f"−{largest:.3g}", "0", f"+{largest:.3g}"]
    assert figure.get_size_inches().tolist() == [9, 6]


# --- texts --------------------------------------------------------------------------------------------------


def test_side_texts_and_red_wrong_predictions():
    figure = imshow_grid(
        IMAGES,
        MAPS,
        labels=[0, 1, 2],
        predictions=np.array([0, 2, 2]),
        neurons=[1, 1, 1],
        probabilities=[0.25, 1, 0.5],
        scores=[1, -2.5, 1e-7],
        class_names=["zero", "one", "two"],
    )
    found = texts(figure)
    for expected in ["label: zero", "label: one", "label: two", "pred: zero", "prob: 0.250", "prob: 1.000"]:
        assert expected in found
    assert found.count("neuron: one") == 3 and "score: −2.5" in found
    red = [t.get_text() for t in written(figure) if t.get_color() == "#c00000"]
    assert red == ["pred: two"]


@pytest.mark.parametrize(
    ("labels", "predictions", "names", "wrong"),
    [
        (["crane", "cat"], ["crane", "dog"], None, 1),
        ([0, 1], [1, 1], ["crane", "crane"], 1),  # two classes of one name
        ([0, 1], ["crane", "cat"], {0: "crane", 1: "dog"}, 1),
        (np.array([True, False]), np.array([1, 1], np.uint8), None, 1),
        (["a", "b"], None, None, 0),
        (None, [3, 4], None, 0),
    ],
)
def test_predictions_are_compared_as_classes(labels, predictions, names, wrong):
    figure = imshow_grid(IMAGES[:2], {"a": IMAGES[:2]}, labels=labels, predictions=predictions, class_names=names)
    assert sum(t.get_color() == "#c00000" for t in written(figure)) == wrong


def test_caption_states_reduction_and_scaling():
    expected = "Channels: sum. Each map scaled symmetrically to its own maximum; red positive, blue negative."
    three = {name: np.repeat(np.asarray(m), 3, axis=-1) for name, m in MAPS.items()}
    assert caption(imshow_grid(IMAGES, three)) == expected
    assert caption(imshow_grid(IMAGES, MAPS)) == expected.removeprefix("Channels: sum. ")
    found = caption(imshow_grid(IMAGES, three, reduce="max_abs", scale="row", modes={"gradient": "graymap"}))
    assert "graymap – Channels: max_abs of magnitudes. Each map scaled to the maximum of its row" in found
    assert "heatmap (lrp.epsilon) – Channels: max_abs." in found
    found = caption(imshow_grid(IMAGES, three, reduce=lambda v, axis: v.sum(axis)))
    assert found.startswith("Channels: <lambda>.")


def test_titles_replace_names_and_nothing_is_parsed_as_math():
    figure = imshow_grid(IMAGES, {**MAPS, "a$b$": IMAGES}, titles={"gradient": "Saliency"}, labels=["$1", "$2", "$"])
    figure.canvas.draw()
    assert {"Saliency", "lrp.epsilon", "a$b$", "label: $1"} <= set(texts(figure)) and "gradient" not in texts(figure)
    assert not any(t.get_parse_math() for t in written(figure))


def test_colorbar_shows_the_colours_of_the_heatmaps():
    figure = imshow_grid(IMAGES, MAPS, colorbar=True)
    bar = figure.axes[-1]
    assert [t.get_text() for t in bar.get_xticklabels()] == ["−max", "0", "+max"]
    np.testing.assert_allclose(bar_colours(figure), heatmap([[[-1.0, 0.0, 1.0]]])[0, 0])
    figure = imshow_grid(IMAGES, {"a": np.full_like(IMAGES, -2.5)}, colorbar=True, scale="all")
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["−2.5", "0", "+2.5"]


# --- layout -------------------------------------------------------------------------------------------------


def boxes(figure):
    """Everything that must not overlap, as (name, box in dots)."""
    figure.canvas.draw()
    found = [(a.get_label(), a.get_window_extent()) for a in figure.axes]
    found += [(t.get_text(), t.get_window_extent()) for t in figure.axes[-1].get_xticklabels()]
    return found + [(t.get_text(), t.get_window_extent()) for t in written(figure)]


@pytest.mark.parametrize(
    ("shape", "cell"),
    [((28, 28), 0.8), ((40, 6), 0.8), ((3, 30), 0.8), ((300, 200), 0.8), ((8, 8), 0.3), ((1, 1), 0.3)],
)
def test_nothing_overlaps_with_many_analyzers(shape, cell):
    images = RNG.uniform(size=(2, *shape))
    figure = imshow_grid(
        images,
        dict.fromkeys(NAMES, images),
        labels=[3, 4],
        predictions=[3, 5],
        neurons=[1, 2],
        probabilities=[0.5, 0.25],
        scores=[-1234.5, 3],
        class_names=["an uncommonly long name of a class"] * 10,
        modes={"pattern.net": "back_project"},
        colorbar=True,
        cell=cell,
    )
    width, height = figure.get_size_inches() * figure.dpi
    found = boxes(figure)
    for (name, a), (other, b) in itertools.combinations(found, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, (name, other)
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for _, b in found)
    panels = [a.get_window_extent() for a in figure.axes[:15]]  # the columns are equally far apart, to the dot
    np.testing.assert_allclose(np.diff([p.x0 for p in panels]), panels[1].x0 - panels[0].x0, atol=1.01)
    assert {round(p.width) for p in panels} == {round(panels[0].width)}


def test_long_names_are_wrapped_and_narrow_columns_move_apart():
    maps = {"lrp.sequential_preset_a_flat": IMAGES, "lrp.z": IMAGES}
    wide, narrow = imshow_grid(IMAGES, maps), imshow_grid(IMAGES, maps, cell=0.2)
    assert "lrp.sequential_\npreset_a_flat" in texts(wide) and "lrp.z" in texts(wide)
    assert "lrp.\nsequential_\npreset_a_\nflat" in texts(narrow) and "lrp.z" in texts(narrow)
    gaps = [figure.axes[1].get_window_extent().x0 - figure.axes[0].get_window_extent().x1 for figure in (wide, narrow)]
    assert gaps[0] < 0.06 * wide.dpi and 0.2 * narrow.dpi < gaps[1] < 0.3 * narrow.dpi


def test_small_images_are_saved_crisp(tmp_path):
    path = tmp_path / "grid.png"
    figure = imshow_grid(IMAGES, MAPS, labels=[1, 2, 3], colorbar=True, path=path)
    saved = matplotlib.image.imread(path)[..., :3]
    for row, name in itertools.product(range(3), ["input", *MAPS]):
        axes = next(a for a in figure.axes if a.get_label() == f"{row}, {name}")
        box = axes.get_window_extent()
        assert box.x0 == pytest.approx(round(box.x0)) and box.width == pytest.approx(160)  # 20 dots per pixel
        top, left = saved.shape[0] - round(box.y1), round(box.x0)
        cell = saved[top : top + 160, left : left + 160].reshape(8, 20, 8, 20, 3)[:, 2:-2, :, 2:-2]
        expected = np.asarray(picture(figure, row, name))[:, None, :, None]
        np.testing.assert_allclose(cell, np.broadcast_to(expected, cell.shape), atol=1 / 255)


def test_large_images_are_averaged_and_not_thinned_out():
    maps = np.zeros((1, 400, 400))
    maps[:, 1::2] = 1  # "nearest" at 160 dots would show only some of the lines
    figure = imshow_grid(maps, {"a": maps})
    assert all(a.images[0].get_interpolation() != "nearest" for a in figure.axes)
    assert {a.images[0].get_interpolation() for a in imshow_grid(IMAGES, MAPS).axes} == {"nearest"}


def test_saves_by_suffix_and_draws_into_a_given_figure(tmp_path):
    given = matplotlib.figure.Figure()
    assert imshow_grid(IMAGES, MAPS, figure=given, path=tmp_path / "a.pdf") is given
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    new = imshow_grid(IMAGES, MAPS)
    np.testing.assert_array_equal(given.get_size_inches(), new.get_size_inches())
    with pytest.raises(InvalidInputError, match="empty matplotlib Figure"):
        imshow_grid(IMAGES, MAPS, figure=given)


def test_same_figure_under_other_matplotlib_settings(tmp_path):
    imshow_grid(IMAGES, MAPS, path=tmp_path / "a.png")
    with matplotlib.rc_context({"savefig.bbox": "tight", "figure.facecolor": "black", "savefig.dpi": 50}):
        imshow_grid(IMAGES, MAPS, path=tmp_path / "b.png")
    first, second = (matplotlib.image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(first, second)


def test_package_imports_only_arrays_and_matplotlib_without_pyplot():
    allowed = {"numpy", "scipy", "matplotlib", "innv_ext.arguments", "innv_ext.errors", "innv_ext.files"}
    allowed |= {"innv_ext.visualization"}
    standard = {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "html",
        "io",
        "os",
        "re",
        "typing",
        "warnings",
    }
    for path in pathlib.Path(innv_ext.visualization.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) < 300
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in standard or any(name.startswith(ok) for ok in allowed), (
                    path.name,
                    name,
                )
                assert "pyplot" not in name


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": {}}, "maps must be a dict of at least one"),
        ({"maps": [IMAGES]}, "maps must be a dict.*got list"),
        ({"maps": {"a": IMAGES[:2]}}, r"maps\['a'\].*\(2, 8, 8\) but image has \(3, 8, 8\)"),
        ({"maps": {"a": IMAGES[0]}}, r"maps\['a'\] has shape \(8, 8\)"),
        ({"maps": {"a": (IMAGES, "heatmpa")}}, r"mode of maps\['a'\] must be one of .*got 'heatmpa'.*mean 'heatmap'"),
        ({"maps": {"a": (IMAGES, "heatmap")}, "modes": {"a": "graymap"}}, "give only one of them"),
        (
            {"maps": {"a": (IMAGES, lambda r, x: r)}},
            r"draws maps\['a'\] must return floats .* \(3, 8, 8, 3\)",
        ),
        ({"maps": {"a": (IMAGES, lambda r, x: 2 * to_rgb(r))}}, r"must return floats in \[0, 1\]"),
        ({"mode": "heat"}, "mode of maps"),
        ({"modes": {"gradeint": "graymap"}}, r"modes names \['gradeint'\].*\['gradient', 'lrp.epsilon'\]"),
        ({"titles": {"gradeint": "x"}}, r"titles names \['gradeint'\]"),
        ({"scale": "rows"}, "scale must be one of 'map', 'row', 'column', 'all', got 'rows'.*mean 'row'"),
        ({"reduce": "sun"}, "reduce must be one of .*got 'sun'"),
        ({"cell": 0}, "cell must be a positive number, got 0"),
        ({"colorbar": True, "mode": "graymap"}, "colorbar=True needs a column in mode 'heatmap'"),
        ({"labels": [1, 2]}, r"labels must hold one class per row.*\(3,\); got int64 of shape \(2,\)"),
        ({"predictions": np.eye(3)}, r"predictions must .*predictions.argmax\(axis=1\)"),
        ({"labels": [1, 2, 3], "class_names": ["a", "b"]}, r"labels contains 2, .*\(2 names\)"),
        ({"neurons": [-1, 0, 0], "class_names": ["a", "b"]}, "neurons contains -1"),
        ({"probabilities": np.eye(3)}, r"probabilities has shape \(3, 3\).*max\(axis=1\)"),
        ({"scores": ["high", "low", "low"]}, "scores must be an array of real numbers"),
        ({"images": np.zeros((0, 8, 8))}, "there is no row to draw"),
        ({"images": np.zeros((3, 8, 8, 2))}, "image has 2 channels"),
        ({"figure": 3}, "empty matplotlib Figure"),
        ({"ax": [3]}, "ax must be 9 matplotlib axes, row by row"),
        ({"ax": [3], "figure": matplotlib.figure.Figure()}, "figure and ax were both given"),
        ({"cmap": "seismik"}, "cmap must be one of .*got 'seismik'.*'seismic'"),
    ],
)
def test_errors_name_the_argument_what_was_got_and_the_remedy(options, message):
    with pytest.raises(InvalidInputError, match=message):
        imshow_grid(**{"images": IMAGES, "maps": MAPS, **options})


def test_percentile_and_gamma_reach_the_heatmaps_and_the_caption():
    relevance = np.random.default_rng(0).normal(size=(2, 6, 6))
    figure = imshow_grid(np.zeros((2, 6, 6)), {"a": relevance}, percentile=90, gamma=0.5)
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, heatmap(relevance, percentile=90, gamma=0.5)[0])
    caption = " ".join(text.get_text() for text in figure.texts)
    assert "90 % percentile" in caption and "power 0.5" in caption
    assert "Channels" not in caption  # there is only one
    with pytest.raises(InvalidInputError, match="scale='map'"):
        imshow_grid(np.zeros((2, 6, 6)), {"a": relevance}, percentile=90, scale="row")
