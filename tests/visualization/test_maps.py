"""The pictures against slow pixel loops, hand-computed values and properties."""

import doctest
import importlib
import math
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from innv_ext.errors import InvalidInputError
from innv_ext.visualization import (
    back_project,
    blend,
    graymap,
    heatmap,
    mask_input,
    reduce_channels,
    scale_input,
    to_rgb,
)

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(3, 5, 4, 3))
IMAGES = RNG.uniform(size=(3, 5, 4, 3))
SEGMENTS = np.arange(20).reshape(5, 4) // 3

DRAWN = {
    "graymap": lambda r, x: graymap(r),
    "graymap_norm": lambda r, x: graymap(r, "norm"),
    "heatmap": lambda r, x: heatmap(r),
    "heatmap_max_abs": lambda r, x: heatmap(r, "max_abs"),
    "heatmap_curved": lambda r, x: heatmap(r, gamma=0.5, percentile=90),
    "scale_input": scale_input,
    "mask_input": lambda r, x: mask_input(r, x, 0.3),
    "mask_segments": lambda r, x: mask_input(r, x, 0.3, np.zeros(r.shape[1:3], int)),
    "blend": blend,
    "back_project": lambda r, x: back_project(r),
}
each_drawing = pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
relevances = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.uint8]),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3])),
)
fast = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def quiet(draw, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return draw(*args, **options)


def pixels(array):
    return [(b, i, j) for b in range(array.shape[0]) for i in range(array.shape[1]) for j in range(array.shape[2])]


def loop(maps, combine):
    """One number per pixel, computed channel list by channel list."""
    result = np.empty(maps.shape[:3])
    for p in pixels(maps):
        result[p] = combine([float(v) for v in maps[p]])
    return result


# --- channels -----------------------------------------------------------------------------------------------


COMBINE = {
    "sum": sum,
    "mean": lambda vs: sum(vs) / len(vs),
    "norm": lambda vs: math.sqrt(sum(v * v for v in vs)),
    "max_abs": lambda vs: max(vs, key=abs),
}


@pytest.mark.parametrize("name", COMBINE)
def test_reductions_equal_pixel_loops(name):
    np.testing.assert_allclose(reduce_channels(MAPS, name), loop(MAPS, COMBINE[name]))
    first = np.moveaxis(MAPS, -1, 1)
    np.testing.assert_array_equal(reduce_channels(first, name, channel_axis=1), reduce_channels(MAPS, name))


def test_one_channel_is_kept_but_for_the_norm():
    maps = MAPS[..., 0]
    for name in COMBINE:
        np.testing.assert_allclose(reduce_channels(maps, name), np.abs(maps) if name == "norm" else maps)


def test_norm_survives_values_whose_squares_do_not():
    np.testing.assert_allclose(reduce_channels([[[[3e200, 4e200]]]], "norm"), [[[5e200]]])
    np.testing.assert_allclose(reduce_channels([[[[3e-200, 4e-200]]]], "norm"), [[[5e-200]]])


def test_integer_sums_do_not_wrap_around():
    assert reduce_channels(np.full((1, 1, 1, 3), 100, np.int8))[0, 0, 0] == 300
    assert graymap(np.array([[[-128, 64]]], np.int8))[0, 0, 0, 0] == 1


def test_callable_reduction_gets_a_copy_and_the_last_axis():
    maps = MAPS.copy()

    def spoil(values, axis):
        result = np.median(values, axis=axis)
        values[:] = 0
        return result

    np.testing.assert_allclose(reduce_channels(np.moveaxis(maps, -1, 1), spoil, 1), np.median(MAPS, axis=-1))
    np.testing.assert_array_equal(maps, MAPS)
    with pytest.raises(InvalidInputError, match=r"reduce returned shape \(3, 5, 4, 3\).*expected \(3, 5, 4\)"):
        reduce_channels(maps, lambda values, axis: values)


# --- the six drawings against pixel loops -------------------------------------------------------------------


def color(name, value):
    return matplotlib.colormaps[name].resampled(100_001)(value)[:3]


def test_graymap_is_the_scaled_magnitude():
    magnitude = loop(np.abs(MAPS), sum)
    drawn = graymap(MAPS)
    for p in pixels(MAPS):
        np.testing.assert_allclose(drawn[p], magnitude[p] / magnitude[p[0]].max(), atol=1 / 1024)


def test_graymap_channels_do_not_cancel():
    drawn = graymap([[[[1.0, -1.0], [0.0, 0.0]]]])
    np.testing.assert_array_equal(drawn[0, 0], [[1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("gamma", [1.0, 0.5, 2.0])
def test_heatmap_is_symmetric_around_the_centre(gamma):
    total = loop(MAPS, sum)
    drawn = heatmap(MAPS, gamma=gamma)
    for p in pixels(MAPS):
        unit = total[p] / np.abs(total[p[0]]).max()
        curved = math.copysign(abs(unit) ** gamma, unit)
        np.testing.assert_allclose(drawn[p], color("seismic", 0.5 + curved / 2), atol=0.005)
    np.testing.assert_allclose(heatmap(-MAPS, cmap="gray"), 1 - heatmap(MAPS, cmap="gray"))


@pytest.mark.parametrize("cmap", ["seismic", "RdBu_r", "gray", matplotlib.colormaps["coolwarm"]])
def test_zero_relevance_is_exactly_the_centre(cmap):
    drawn = heatmap([[[-1.0, 0.0, 0.3]]], cmap=cmap)
    centre = matplotlib.colormaps.get_cmap(cmap).resampled(3)(1)[:3]
    np.testing.assert_allclose(drawn[0, 0, 1], centre, atol=1e-12)
    assert (heatmap([[[0.0, 1.0]]])[0, 0, 0] == 1).all()  # pure white, which 256 entries of seismic don't have


def test_heatmap_scale_is_shared_and_clips():
    maps = [[[1.0, -4.0]], [[2.0, 8.0]]]
    drawn = heatmap(maps, cmap="gray", scale=4)[:, 0, :, 0]
    np.testing.assert_allclose(drawn, [[0.625, 0.0], [0.75, 1.0]], atol=1 / 1024)
    drawn = heatmap(maps, cmap="gray", scale=[4, 8])[:, 0, :, 0]
    np.testing.assert_allclose(drawn, [[0.625, 0.0], [0.625, 1.0]], atol=1 / 1024)


def test_percentile_clips_outliers_and_falls_back_on_sparse_maps():
    maps = np.r_[np.ones(99), 1000.0].reshape(1, 10, 10)
    assert heatmap(maps, cmap="gray", percentile=90)[0, 0, 0, 0] == 1
    assert heatmap(maps, cmap="gray")[0, 0, 0, 0] < 0.51
    assert graymap(-maps, percentile=90)[0, 0, 0, 0] == 1 and graymap(-maps)[0, 0, 0, 0] < 0.01
    sparse = np.zeros((1, 10, 10))
    sparse[0, 3, 3] = 5.0
    np.testing.assert_array_equal(heatmap(sparse, percentile=90), heatmap(sparse))


def test_scale_input_multiplies_by_the_scaled_magnitude():
    magnitude = loop(np.abs(MAPS), sum)
    drawn = scale_input(MAPS, IMAGES)
    for p in pixels(MAPS):
        np.testing.assert_allclose(drawn[p], IMAGES[p] * magnitude[p] / magnitude[p[0]].max())


def test_mask_input_keeps_the_most_relevant_share():
    total = loop(MAPS, sum)
    drawn = mask_input(MAPS, IMAGES, share=0.25)
    for b, i, j in pixels(MAPS):
        better = sum(total[b, k, m] > total[b, i, j] for k in range(5) for m in range(4))
        np.testing.assert_array_equal(drawn[b, i, j], IMAGES[b, i, j] if better < 5 else 0)


def test_mask_input_ties_go_to_the_first_pixels_and_nothing_unpositive_is_kept():
    drawn = mask_input(np.ones((1, 2, 5)), np.ones((1, 2, 5)), share=0.3)
    np.testing.assert_array_equal(drawn[0, :, :, 0], [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    drawn = mask_input([[[0.0, 2.0, -3.0, 1.0]]], np.ones((1, 1, 4)), share=1)
    np.testing.assert_array_equal(drawn[0, 0, :, 0], [0, 1, 0, 1])
    drawn = mask_input(MAPS[:1], IMAGES[:1], share=1e-9)
    assert (drawn.sum(axis=-1) > 0).sum() == 1


@pytest.mark.parametrize("rank", ["max", "mean", "sum"])
def test_mask_input_keeps_the_most_relevant_segments(rank):
    combine = {"max": max, "mean": lambda v: sum(v) / len(v), "sum": sum}[rank]
    maps = np.abs(MAPS)
    total = loop(maps, sum)
    drawn = mask_input(maps, IMAGES, 0.4, SEGMENTS * 7 - 20, segment_score=rank)
    for b in range(3):
        scores = []
        for label in range(7):
            scores.append(combine([total[b, i, j] for _, i, j in pixels(maps[:1]) if SEGMENTS[i, j] == label]))
        kept = sorted(range(7), key=lambda label: -scores[label])[:3]
        for _, i, j in pixels(maps[:1]):
            np.testing.assert_array_equal(drawn[b, i, j], IMAGES[b, i, j] if SEGMENTS[i, j] in kept else 0)


def test_segments_may_differ_between_images_and_tie_to_the_lower_label():
    segments = np.array([[[1, 1, 0, 0]], [[5, 9, 9, 5]]])
    drawn = mask_input(np.ones((2, 1, 4)), np.ones((2, 1, 4)), 0.5, segments)
    np.testing.assert_array_equal(drawn[:, 0, :, 0], [[0, 0, 1, 1], [1, 0, 0, 1]])


def test_ties_are_deterministic_in_large_maps():
    maps = RNG.integers(1, 4, size=(1, 40, 40))
    drawn = mask_input(maps, np.ones((1, 40, 40)), share=0.5)[0, ..., 0].ravel()
    kept = sorted(range(1600), key=lambda pixel: -maps.flat[pixel])[:800]  # Python's sort keeps the order of ties
    assert set(np.flatnonzero(drawn)) == set(kept)


def test_segment_means_leave_out_what_is_not_finite():
    maps = np.array([[[np.nan, 3.0, 2.0, 2.0]]])
    drawn = quiet(mask_input, maps, np.ones((1, 1, 4)), 0.5, [[0, 0, 1, 1]], segment_score="mean")
    np.testing.assert_array_equal(drawn[0, 0, 1:, 0], [1, 0, 0])


def test_segment_scores_leave_out_what_is_not_finite():
    maps = np.array([[[np.nan, 9.0, 1.0, 1.0, np.nan, np.inf]]])
    drawn = quiet(mask_input, maps, np.ones((1, 1, 6)), 0.3, [[0, 0, 1, 1, 2, 2]])
    green, white, black = [0, 1, 0], [1, 1, 1], [0, 0, 0]
    np.testing.assert_array_equal(drawn[0, 0], [green, white, black, black, green, green])


def test_blend_weighs_by_the_blurred_magnitude():
    magnitude = loop(np.abs(MAPS), sum)
    drawn = blend(MAPS, IMAGES, alpha=0.6, sigma=0, cmap="viridis")
    for p in pixels(MAPS):
        unit = magnitude[p] / magnitude[p[0]].max()
        expected = (1 - 0.6 * unit) * IMAGES[p] + 0.6 * unit * np.array(color("viridis", unit))
        np.testing.assert_allclose(drawn[p], expected, atol=0.01)


def test_blend_blurs_each_image_on_its_own():
    maps = np.zeros((2, 9, 9))
    maps[0, 4, 4] = maps[1, 0, 0] = 1
    weight = blend(maps, np.zeros_like(maps), cmap="binary_r", sigma=1.5)[..., 0]
    offsets = np.arange(-4, 5)
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    np.testing.assert_allclose(weight[0], np.outer(gauss, gauss) ** 2, atol=0.01)  # weight times grey level
    assert weight[1, 8, 8] == 0
    np.testing.assert_array_equal(blend(maps[1:], maps[1:], sigma=1.5), blend(maps, maps, sigma=1.5)[1:])


def test_back_projection_keeps_channels():
    drawn = back_project(MAPS)
    for p in pixels(MAPS):
        np.testing.assert_allclose(drawn[p], 0.5 + MAPS[p] / (2 * np.abs(MAPS[p[0]]).max()))
    grey = back_project(MAPS[..., 0], scale=10.0)
    np.testing.assert_allclose(grey, 0.5 + MAPS[..., :1].repeat(3, -1) / 20)


# --- images -------------------------------------------------------------------------------------------------


def test_to_rgb_by_kind_of_image():
    np.testing.assert_allclose(to_rgb(np.array([[[0, 51, 255]]], np.uint8))[0, 0, :, 2], [0, 0.2, 1])
    np.testing.assert_array_equal(to_rgb(IMAGES), IMAGES)
    np.testing.assert_array_equal(to_rgb(np.moveaxis(IMAGES, -1, 1), channel_axis=1), IMAGES)
    np.testing.assert_array_equal(to_rgb(np.array([[[True, False]]]))[0, 0, :, 0], [1, 0])
    np.testing.assert_array_equal(to_rgb([[[-2, 0, 2]], [[0, 10, 40]]])[:, 0, :, 0], [[0, 0.5, 1], [0, 0.25, 1]])
    np.testing.assert_array_equal(to_rgb([[[-2, 0, 2, 9]]], value_range=(0, 4))[0, 0, :, 0], [0, 0, 0.5, 1])
    np.testing.assert_array_equal(to_rgb(np.full((1, 2, 2, 1), 7.0)), np.full((1, 2, 2, 3), 0.5))
    np.testing.assert_array_equal(to_rgb([[[-1e308, 0, 1e308]]])[0, 0, :, 0], [0, 0.5, 1])


def test_images_are_shown_the_same_in_overlays():
    images = (IMAGES * 255).astype(np.uint8)
    kept = mask_input(np.ones_like(MAPS), images, share=1)
    np.testing.assert_array_equal(kept, to_rgb(images))
    kept = mask_input(np.ones_like(MAPS), IMAGES * 2 - 1, share=1, value_range=(-1, 1))
    np.testing.assert_allclose(kept, IMAGES)


# --- zero and non-finite maps -------------------------------------------------------------------------------


NEUTRAL = {
    "graymap": (lambda r, x: graymap(r), 0.0),
    "heatmap": (lambda r, x: heatmap(r), 1.0),
    "scale_input": (scale_input, 0.0),
    "mask_input": (mask_input, 0.0),
    "blend": (blend, IMAGES[1]),
    "back_project": (lambda r, x: back_project(r), 0.5),
}


@pytest.mark.parametrize(("draw", "neutral"), NEUTRAL.values(), ids=NEUTRAL)
def test_zero_maps_are_neutral_with_one_warning_at_the_callers_line(draw, neutral):
    maps = MAPS.copy()
    maps[1] = 0
    with pytest.warns(UserWarning) as caught:
        drawn = draw(maps, IMAGES)
    assert len(caught) == 1 and "[1]" in str(caught[0].message) and caught[0].filename == __file__
    np.testing.assert_array_equal(drawn[1], np.broadcast_to(neutral, drawn[1].shape))
    np.testing.assert_array_equal(drawn[[0, 2]], draw(MAPS[[0, 2]], IMAGES[[0, 2]]))


@each_drawing
def test_non_finite_pixels_are_marked_counted_and_leave_the_rest_alone(draw):
    maps = MAPS.copy()
    maps[0, 1, 2, 0], maps[2, 0, 0], maps[2, 3, 3] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning, match=r"not finite .* at 3 pixel\(s\) of image\(s\) \[0, 2\]") as caught:
        drawn = draw(maps, IMAGES)
    assert len(caught) == 1 and caught[0].filename == __file__
    for p in [(0, 1, 2), (2, 0, 0), (2, 3, 3)]:
        np.testing.assert_array_equal(drawn[p], [0, 1, 0])
    np.testing.assert_array_equal(drawn[1], draw(MAPS, IMAGES)[1])
    assert (drawn >= 0).all() and (drawn <= 1).all()


def test_scale_comes_from_finite_values():
    drawn = quiet(heatmap, [[[np.inf, 2.0, -4.0, 0.0]]], cmap="gray", bad_color="magenta")
    np.testing.assert_allclose(drawn[0, 0], [[1, 0, 1], [0.75] * 3, [0] * 3, [0.5] * 3])
    drawn = quiet(heatmap, [[[np.inf, 2.0, 4.0, 0.0]]], cmap="gray", percentile=50)
    np.testing.assert_allclose(drawn[0, 0, 1:, 0], [1, 1, 0.5])


@each_drawing
def test_all_nan_maps_are_marked_and_not_called_zero(draw):
    with pytest.warns(UserWarning, match="at 20 pixel") as caught:
        drawn = draw(np.full((1, 5, 4, 3), np.nan), IMAGES[:1])
    assert len(caught) == 1 and (drawn == [0, 1, 0]).all()


def test_non_finite_images_are_marked():
    images = IMAGES.copy()
    images[1, 2, 2, 1] = np.inf
    with pytest.warns(UserWarning, match=r"image is not finite .* at 1 pixel\(s\) of image\(s\) \[1\]"):
        drawn = to_rgb(images, bad_color=(1, 0, 1))
    np.testing.assert_array_equal(drawn[1, 2, 2], [1, 0, 1])
    with pytest.warns(UserWarning, match="image is not finite"):
        assert (blend(MAPS, images)[1, 2, 2] == [0, 1, 0]).all()


def test_nothing_hides_what_is_not_finite():
    with pytest.warns(UserWarning, match="at 1 pixel"):
        drawn = heatmap([[[[np.nan, 1.0]], [[1.0, 1.0]]]], reduce=np.nansum)
    np.testing.assert_array_equal(drawn[0, 0], [[0, 1, 0]])
    with pytest.warns(UserWarning, match="at 1 pixel"):  # finite channels, but an infinite sum
        drawn = heatmap([[[[1e308, 1e308], [1.0, 1.0]]]], cmap="gray")
    np.testing.assert_array_equal(drawn[0, 0], [[0, 1, 0], [1, 1, 1]])


def test_image_range_comes_from_finite_values():
    drawn = quiet(to_rgb, [[[np.nan, 5.0, 10.0]]])
    np.testing.assert_array_equal(drawn[0, 0, 1:, 0], [0, 1])


def test_cancelling_infinities_raise_no_other_warning():
    with pytest.warns(UserWarning) as caught:
        heatmap([[[[np.inf, -np.inf]], [[1.0, 1.0]]]])
    assert [w.category for w in caught] == [UserWarning]


# --- properties ---------------------------------------------------------------------------------------------


@each_drawing
@fast
@given(maps=relevances)
def test_output_is_rgb_in_range_and_inputs_are_untouched(draw, maps):
    images = np.linspace(0, 1, maps.size).reshape(maps.shape)
    before = maps.copy(), images.copy()
    maps.setflags(write=False)
    images.setflags(write=False)
    drawn = quiet(draw, maps, images)
    assert drawn.shape == (*maps.shape[:3], 3) and drawn.dtype == np.float64
    assert (drawn >= 0).all() and (drawn <= 1).all()
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(images, before[1])
    drawn[:] = -1  # a result that shares memory with an input would now have changed it
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(images, before[1])


@each_drawing
@fast
@given(exponent=st.integers(-300, 300), seed=st.integers(0, 100))
def test_scale_of_relevance_does_not_matter(draw, exponent, seed):
    maps = np.random.default_rng(seed).normal(size=(2, 4, 5, 3))
    images = np.full_like(maps, 0.5)
    np.testing.assert_allclose(draw(maps * 2.0**exponent, images), draw(maps, images), atol=1e-9)


@each_drawing
@fast
@given(order=st.permutations(range(3)))
def test_images_do_not_influence_each_other(draw, order):
    np.testing.assert_array_equal(draw(MAPS[order], IMAGES[order]), draw(MAPS, IMAGES)[order])


@each_drawing
def test_empty_batches_and_lists_work(draw):
    assert draw(MAPS[:0], IMAGES[:0]).shape == (0, 5, 4, 3)


@fast
@given(hnp.arrays(np.float64, (2, 3, 3, 1), elements=st.floats(-1e300, 1e300)))
def test_to_rgb_stays_in_range(images):
    drawn = to_rgb(images)
    assert (drawn >= 0).all() and (drawn <= 1).all()


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: reduce_channels(MAPS, "summ"),
            "reduce must be one of 'sum', 'mean', 'norm', 'max_abs', got 'summ'.*mean 'sum'",
        ),
        (lambda: heatmap(MAPS, reduce=None), "reduce must be one of 'sum', .*got None"),
        (lambda: heatmap(MAPS, cmap="seismik"), "cmap must be one of the .* known names, got 'seismik'.*'seismic'"),
        (lambda: heatmap(MAPS[0, 0]), r"relevance has shape \(4, 3\).*relevance\[None\]"),
        (lambda: graymap(MAPS[None]), r"shape \(1, 3, 5, 4, 3\)"),
        (lambda: graymap(np.zeros((2, 0, 4))), r"shape \(2, 0, 4\): there are no pixels"),
        (lambda: graymap(MAPS + 1j), "real numbers; got dtype complex128"),
        (lambda: graymap([[["a"]]]), "relevance must be an array of real numbers"),
        (lambda: graymap([[[1], [1, 2]]]), "relevance must be an array of real numbers"),
        (lambda: graymap(MAPS, channel_axis=2), "channel_axis must be -1 .* or 1 .*; got 2"),
        (lambda: heatmap(MAPS, scale=-1), "scale must be positive and finite"),
        (lambda: heatmap(MAPS, scale=0), "scale must be positive and finite"),
        (lambda: heatmap(MAPS, scale=np.nan), "scale must be positive and finite"),
        (lambda: heatmap(MAPS, scale=[1, 2]), r"shape \(3,\); got shape \(2,\)"),
        (lambda: heatmap(MAPS, scale=1, percentile=99), "percentile=99 has no effect"),
        (lambda: heatmap(MAPS, percentile=0), "percentile must be a positive number and at most 100, got 0"),
        (lambda: heatmap(MAPS, gamma=0), "gamma must be a positive number, got 0"),
        (lambda: heatmap(MAPS, gamma=[1, 2]), r"gamma must be a positive number, got \[1, 2\]"),
        (lambda: heatmap(MAPS, bad_color="gren"), "bad_color.*'gren'"),
        (lambda: scale_input(MAPS, IMAGES[:2]), r"\(3, 5, 4\) but image has \(2, 5, 4\)"),
        (lambda: blend(MAPS, IMAGES, alpha=2), "alpha must be a positive number and at most 1, got 2"),
        (lambda: blend(MAPS, IMAGES, sigma=-1), "sigma must be a number of at least 0, got -1"),
        (lambda: mask_input(MAPS, IMAGES, share=0), "share must be a positive number and at most 1, got 0"),
        (
            lambda: mask_input(MAPS, IMAGES, 0.1, SEGMENTS[:2]),
            r"shape \(5, 4\) or \(3, 5, 4\).*shape \(2, 4\)",
        ),
        (lambda: mask_input(MAPS, IMAGES, 0.1, SEGMENTS * 1.0), "integer label per pixel.*float64"),
        (
            lambda: mask_input(MAPS, IMAGES, segment_score="median"),
            "segment_score must be one of 'max', 'mean', 'sum', got 'median'",
        ),
        (
            lambda: to_rgb(np.zeros((1, 2, 2, 4))),
            r"image has 4 channels \(shape \(1, 2, 2, 4\).*image\[..., :3\]",
        ),
        (lambda: to_rgb(IMAGES, value_range=(1, 0)), r"value_range must be \(low, high\).*\(1, 0\)"),
        (lambda: back_project(np.zeros((1, 2, 2, 2))), "relevance has 2 channels"),
    ],
)
def test_errors_name_the_argument_what_was_got_and_the_remedy(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_relevance_and_image_may_differ_in_channels():
    drawn = scale_input(np.ones((3, 5, 4)), IMAGES)
    np.testing.assert_allclose(drawn, IMAGES)


@pytest.mark.parametrize("module", ["scaling", "images", "maps", "overlays", "grid"])
def test_documented_examples_run(module):
    outcome = doctest.testmod(importlib.import_module(f"innv_ext.visualization.{module}"))
    assert outcome.attempted and not outcome.failed
