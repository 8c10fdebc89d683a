"""Sparsity, inside ratios and completeness: against loops, closed forms and properties; nothing is ever NaN."""

import doctest
import importlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import completeness_error, inside_ratio, sparsity

fast = settings(max_examples=60, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))
RNG = np.random.default_rng(0)
VALUES = st.lists(st.one_of(st.just(0.0), st.floats(-1e3, 1e3, allow_subnormal=False)), min_size=1, max_size=9)


# --- sparsity ----------------------------------------------------------------------------------------------------


def gini_twin(values):
    """Mean absolute difference of all pairs over twice the mean."""
    c = np.abs(values)
    if not c.sum():
        return 0.0
    return sum(abs(a - b) for a in c for b in c) / (2 * len(c) * c.sum())


def hurley_rickard(values):
    c = sorted(np.abs(values))
    n = len(c)
    return 1 - 2 * sum(c[k - 1] / sum(c) * (n - k + 0.5) / n for k in range(1, n + 1))


@fast
@given(VALUES)
def test_gini_index(values):
    (found,) = sparsity([values])
    assert found == pytest.approx(gini_twin(values), abs=1e-9)
    if any(values):
        assert found == pytest.approx(hurley_rickard(values), abs=1e-9)
    assert 0 <= found <= 1 - 1 / len(values) + 1e-12


@fast
@given(VALUES, st.floats(1e-3, 1e3), st.randoms())
def test_gini_does_not_depend_on_scale_sign_order_or_copies(values, scale, random):
    (found,) = sparsity([values])
    shuffled = [-scale * v for v in values]
    random.shuffle(shuffled)
    np.testing.assert_allclose(sparsity([shuffled])[0], found, atol=1e-9)
    np.testing.assert_allclose(sparsity([values * 3])[0], found, atol=1e-9)  # cloning


def test_constant_and_zero_maps_are_defined():
    maps = np.stack([np.full((3, 4, 2), value) for value in (0, -7.3, 1e308, 5e-324)])
    assert sparsity(maps).tolist() == [0, 0, 0, 0]
    assert sparsity(maps, kind="zeros").tolist() == [1, 0, 0, 0]
    assert sparsity(maps, kind="zeros", tolerance=0.5).tolist() == [1, 0, 0, 0]
    assert sparsity(np.eye(5)).tolist() == pytest.approx([0.8] * 5)
    assert sparsity(np.zeros((0, 3))).shape == (0,)


def test_share_of_zeros():
    maps = np.array([[0.0, -0.0, 3.0, -4.0], [1e-9, 0.4, -2.0, 0.5]])
    assert sparsity(maps, kind="zeros").tolist() == [0.5, 0.0]
    assert sparsity(maps, kind="zeros", tolerance=1e-6).tolist() == [0.5, 0.25]
    assert sparsity(maps, kind="zeros", tolerance=0.25).tolist() == [0.5, 0.75]  # up to and with a quarter of 2


# --- inside ratio ------------------------------------------------------------------------------------------------


def inside_twin(relevance, inside, kind):
    """Loops over places; relevance (*places, channels), inside (*places)."""
    within = without = 0.0
    for place in np.ndindex(*inside.shape):
        if inside[place]:
            within += np.abs(relevance[place]).sum()
        else:
            without += np.abs(relevance[place]).sum()
    if within + without == 0:
        within, without = float(inside.sum()), float((~inside).sum())
    if kind == "inside_outside":
        return within / without if without else np.inf
    share = within / (within + without)
    return share / inside.mean() if kind == "weighted" else share


SHAPES = {"signal": (7,), "image": (4, 5), "volume": (3, 4, 2)}


@pytest.mark.parametrize("kind", ["inside_total", "weighted", "inside_outside"])
@pytest.mark.parametrize("rank", list(SHAPES))
def test_masks_and_boxes_by_brute_force(rank, kind):
    places = SHAPES[rank]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        relevance = rng.normal(size=(3, *places, 2)) * (rng.uniform(size=(3, *places, 1)) > 0.5)
        starts = np.stack([rng.integers(0, side, 3) for side in places], axis=1)
        stops = np.stack([[rng.integers(a + 1, side + 1) for a in row] for row, side in zip(starts.T, places)], axis=1)
        boxes, masks = np.concatenate([starts, stops], axis=1), np.zeros((3, *places), bool)
        for mask, low, high in zip(masks, starts, stops, strict=True):
            mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
        expected = [inside_twin(r, m, kind) for r, m in zip(relevance, masks, strict=True)]
        first = np.moveaxis(relevance, -1, 1)
        for found in (
            inside_ratio(relevance, masks, kind=kind),
            inside_ratio(relevance, boxes, kind=kind),
            inside_ratio(first, masks, kind=kind, channel_axis=1),
            inside_ratio(first, boxes.astype("uint8"), kind=kind, channel_axis=1),
            inside_ratio(np.abs(relevance).sum(axis=-1), masks, kind=kind),
            inside_ratio(np.abs(relevance).sum(axis=-1), boxes, kind=kind),
            inside_ratio(relevance, np.repeat(masks[..., None], 2, axis=-1), kind=kind),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        one = inside_ratio(relevance, masks[0], kind=kind)
        np.testing.assert_allclose(one, inside_ratio(relevance, boxes[0], kind=kind), rtol=1e-12)
        np.testing.assert_allclose(one, [inside_twin(r, masks[0], kind) for r in relevance], rtol=1e-12)


def test_channels_do_not_cancel():
    """Absolute values, not the sum over channels."""
    relevance = np.zeros((1, 2, 2, 2))
    relevance[0, 0, 0] = [5, -5]
    relevance[0, 1, 1] = [1, 1]
    assert inside_ratio(relevance, [[0, 0, 1, 1]])[0] == pytest.approx(10 / 12)


@fast
@given(st.integers(1, 4), st.integers(0, 999))
def test_shares_of_a_mask_and_its_complement_add_up(channels, seed):
    rng = np.random.default_rng(seed)
    relevance, mask = rng.normal(size=(2, 3, 3, channels)), rng.uniform(size=(2, 3, 3)) > 0.5
    mask[:, 0, 0], mask[:, 2, 2] = True, False
    inside, outside = inside_ratio(relevance, mask), inside_ratio(relevance, ~mask)
    np.testing.assert_allclose(inside + outside, 1)
    ratio = inside_ratio(relevance, mask, kind="inside_outside")
    np.testing.assert_allclose(ratio * inside_ratio(relevance, ~mask, kind="inside_outside"), 1)
    np.testing.assert_allclose(inside_ratio(-1e-200 * relevance, mask), inside)
    np.testing.assert_allclose(inside_ratio(np.ones_like(relevance), mask, kind="weighted"), 1)


def test_maps_and_masks_at_the_ends_are_defined():
    """Zero maps count as constant; everything inside; nothing outside; huge and tiny values."""
    zero, some = np.zeros((1, 2, 2)), np.array([[[3.0, 0.0], [0.0, 0.0]]])
    corner, whole = np.array([[True, False], [False, False]]), np.ones((2, 2), bool)
    expected = {  # kind: (zero map, relevance only inside, only outside, mask of everything, zero map and everything)
        "inside_total": (0.25, 1, 0, 1, 1),
        "weighted": (1, 4, 0, 1, 1),
        "inside_outside": (1 / 3, np.inf, 0, np.inf, np.inf),
    }
    for kind, values in expected.items():
        cases = [(zero, corner), (some, corner), (some, ~corner), (some, whole), (zero, whole)]
        assert [inside_ratio(*case, kind=kind)[0] for case in cases] == pytest.approx(list(values))
    for scale in (1e308, 5e-324):
        assert inside_ratio(np.full((1, 2, 2), scale), corner).tolist() == [0.25]
    rounded = RNG.uniform(size=(50, 7, 7, 3)) * (np.arange(7) < 4)[:, None, None]
    assert (inside_ratio(rounded, [0, 0, 4, 7]) == 1).all()  # exactly, however it was rounded
    assert np.isinf(inside_ratio(rounded, [0, 0, 4, 7], kind="inside_outside")).all()


# --- completeness ------------------------------------------------------------------------------------------------


def test_completeness():
    maps = RNG.normal(size=(4, 3, 2))
    score, reference = RNG.normal(size=4), RNG.normal(size=4)
    found = completeness_error(maps, score, reference)
    for i in range(4):
        difference = abs(maps[i].sum() - (score[i] - reference[i]))
        assert found.absolute[i] == pytest.approx(difference)
        assert found.relative[i] == pytest.approx(difference / abs(score[i] - reference[i]))
    one = completeness_error(maps, score, 0.25)
    np.testing.assert_allclose(one.absolute, completeness_error(maps, score, np.full(4, 0.25)).absolute)


def test_completeness_of_several_inputs():
    """Lists, tuples and dicts add up; a plain nested list is one map."""
    a, b = RNG.normal(size=(3, 4, 2)), RNG.normal(size=(3, 5))
    total = a.sum(axis=(1, 2)) + b.sum(axis=1)
    for maps in ([a, b], (a, b), {"right": b, "left": a}):
        assert completeness_error(maps, total + 1).absolute == pytest.approx([1, 1, 1])
    assert completeness_error([[1, 2], [3, 4]], [3, 8]).absolute.tolist() == [0, 1]
    nested = completeness_error(a.tolist(), a.sum(axis=(1, 2)) + np.arange(3)).absolute
    assert nested == pytest.approx([0, 1, 2], abs=1e-12)
    assert completeness_error([a], a.sum(axis=(1, 2))).absolute == pytest.approx([0, 0, 0], abs=1e-12)


def test_nothing_to_explain_is_defined():
    found = completeness_error([[0.0, 0.0], [1.0, -1.0], [1.0, 0.0]], [2, 2, 2], 2)
    assert found.absolute.tolist() == [0, 0, 1] and found.relative.tolist() == [0, 0, np.inf]


# --- refusals ----------------------------------------------------------------------------------------------------


R, M = np.ones((2, 3, 4, 2)), np.ones((2, 3, 4), bool)
NAN = np.where(np.arange(48).reshape(R.shape) == 30, np.nan, R)
REFUSED = {
    "NaN": (sparsity, (NAN,), {}, r"relevance is NaN or infinite in 1 samples \(first: 1\)"),
    "infinity": (sparsity, ([[1, np.inf]],), {}, "NaN or infinite in 1 samples"),
    "no batch axis": (sparsity, ([1.0, 2.0],), {}, r"relevance has shape \(2,\); maps with a batch axis"),
    "no values": (sparsity, (np.ones((2, 0)),), {}, r"relevance has shape \(2, 0\)"),
    "text": (sparsity, ([["a"]],), {}, "relevance must be an array of real numbers"),
    "kind of sparsity": (sparsity, (R,), {"kind": "l0"}, "kind must be one of 'gini', 'zeros', got 'l0'"),
    "tolerance of gini": (sparsity, (R,), {"tolerance": 0.1}, "tolerance= has no meaning with kind='gini'"),
    "negative tolerance": (sparsity, (R,), {"kind": "zeros", "tolerance": -1}, "at least 0 and at most 1, got -1"),
    "kind of ratio": (inside_ratio, (R, M), {"kind": "iou"}, "kind must be one of 'inside_total', .*got 'iou'"),
    "channel axis": (inside_ratio, (R, M), {"channel_axis": 2}, "channel_axis must be -1 .* or 1"),
    "NaN map": (inside_ratio, (NAN, M), {}, "NaN or infinite in 1 samples"),
    "few masks": (inside_ratio, (R, M[:1]), {}, r"bool and shape \(1, 3, 4\), which does not fit .*\(2, 3, 4, 2\)"),
    "mask of another size": (inside_ratio, (R, M[:, :2]), {}, r"shape \(2, 2, 4\), which does not fit"),
    "mask of numbers": (inside_ratio, (R, M * 1.0), {}, "mask has dtype float64"),
    "mask of 0 and 1": (inside_ratio, (R, M.astype(int)), {}, "mask has dtype int64 .* pass a bool array"),
    "empty mask": (inside_ratio, (R, M & (np.arange(2) == 0)[:, None, None]), {}, r"nothing inside in 1 .*first: 1\)"),
    "empty box": (inside_ratio, (R, [[0, 0, 3, 4], [1, 1, 1, 4]]), {}, r"nothing inside in 1 samples \(first: 1\)"),
    "inverted box": (inside_ratio, (R, [2, 0, 1, 4]), {}, "nothing inside in 2 samples"),
    "box outside": (inside_ratio, (R, [[0, 0, 3, 4], [0, 0, 3, 5]]), {}, r"leave maps of \(3, 4\).*\[0, 0, 3, 5\]"),
    "box below 0": (inside_ratio, (R, [-1, 0, 3, 4]), {}, "leave maps of"),
    "box of a signal": (inside_ratio, (R, [[0, 3], [0, 3]]), {}, r"int64 and shape \(2, 2\), which does not fit"),
    "few boxes": (inside_ratio, (R, [[0, 0, 3, 4]]), {}, r"shape \(1, 4\), which does not fit"),
    "two readings": (inside_ratio, (np.ones((3, 3, 3)), np.eye(3) > 0), {}, "can be read in two ways"),
    "few scores": (completeness_error, (R, [1.0]), {}, r"score must be finite numbers of shape \(2,\).*got \(1,\)"),
    "NaN score": (completeness_error, (R, [1.0, np.nan]), {}, "score must be finite"),
    "references": (completeness_error, (R, [1, 1], [1, 1, 1]), {}, r"reference_score must be .*got \(3,\)"),
    "unequal inputs": (completeness_error, ([R, R[:1]], [1, 1]), {}, r"different numbers of samples: \[2, 1\]"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused(case):
    function, arguments, options, message = REFUSED[case]
    with pytest.raises(InvalidInputError, match=message):
        function(*arguments, **options)


def test_arrays_are_not_changed():
    relevance, mask, boxes = RNG.normal(size=(2, 3, 4, 2)), M.copy(), np.array([[0, 0, 1, 1], [1, 1, 3, 4]])
    copies = relevance.copy(), mask.copy(), boxes.copy()
    sparsity(relevance)
    inside_ratio(relevance, mask)
    inside_ratio(relevance, boxes)
    completeness_error(relevance, [1, 2])
    for array, copy in zip((relevance, mask, boxes), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("module", ["measures", "perturbation", "sensitivity", "systematic"])
def test_examples(module):
    outcome = doctest.testmod(importlib.import_module(f"innv_ext.evaluation.{module}"))
    assert outcome.attempted and not outcome.failed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inside_ratio(np.ones((2, 3)), [[1], [2, 3]]), "mask cannot be read as one array"),
        (lambda: inside_ratio([[1], [1, 2]], np.ones((2, 2), bool)), "relevance cannot be read as one array"),
        (lambda: completeness_error({}, [1.0]), "relevance has no map"),
    ],
    ids=["ragged mask", "ragged relevance", "no map"],
)
def test_what_is_no_array_is_named(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_no_sample_has_no_ratio():
    assert inside_ratio(np.ones((0, 3, 3)), np.ones((3, 3), bool)).shape == (0,)
