"""Perturbation analysis: against plain loops over every step, all permutations, and what must not matter."""

import itertools
import json
import tracemalloc
import warnings

import keras
import matplotlib.figure
import numpy as np
import pytest
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from test_ordering import counting, linear, predict, snapshot

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import PerturbationResult, relevance_ordering, subject
from innv_ext.evaluation.perturbation import RANDOM_ORDERS, perturbation_analysis

fast = settings(max_examples=6, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck))
RNG = np.random.default_rng(0)


def analysis(model, x, relevance, **options):
    return perturbation_analysis(model, x, relevance, **{"progress": False, "random_baseline": False, **options})


def zeroed(model, x, relevance, **options):
    """Perturbed values become 0."""
    return analysis(model, x, relevance, perturbation="constant", value=0, **options)


def run(model, x):
    """The outputs of all samples at once, in double precision."""
    with zoo.precision("float64"):
        return np.asarray(model(x, training=False))


def twin(model, x, orders, others):
    """Scores and agreement by loops: ``orders[i]`` lists masks of regions, ``others[i]`` copies of replacements."""
    clean, rows = run(model, x), []
    steps = max(map(len, orders))
    for i in range(len(x)):
        for other in others[i]:
            copy = x[i].copy()
            rows.append(copy)
            for mask in [*orders[i], *[np.zeros_like(x[i], bool)] * (steps - len(orders[i]))]:
                copy = copy.copy()
                copy[mask] = other[mask]
                rows.append(copy)
    outputs, found = iter(run(model, np.array(rows))), np.zeros((2, len(x), steps + 1))
    for i in range(len(x)):
        best = clean[i].argmax()
        for _, k in itertools.product(others[i], range(steps + 1)):
            output = next(outputs)
            found[0, i, k] += output[best] / len(others[i])
            found[1, i, k] += (output.argmax() == best) / len(others[i])
    return found


def masks_of(labels):
    return {int(g): labels == g for g in np.unique(labels)}


def ordered(masks, relevance, reduce=np.mean, sign=1):
    """The masks of the regions, the most relevant first."""
    return [masks[g] for g in sorted(masks, key=lambda g: -sign * reduce(relevance[masks[g]]))]


def agrees(result, expected, name="relevance"):
    np.testing.assert_allclose(result.scores[name], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.agreement[name], expected[1], atol=1e-12)


# --- against plain loops -----------------------------------------------------------------------------------------


def blocks(*sizes):
    """Labels of blocks, row by row, by division."""
    shape = (5, 4, 3)
    found = np.zeros(shape, int)
    for place in np.ndindex(*shape):
        for p, size in zip(place, sizes, strict=True):
            found[place] = 100 * found[place] + p // size
    return found


SEGMENTS = RNG.integers(0, 5, (5, 4))
REGIONS = {
    "int": (2, blocks(2, 2, 3)),  # the last row of blocks is cut off
    "one size per axis": ((3, 1), blocks(3, 1, 3)),
    "with channels": ((2, 4, 2), blocks(2, 4, 2)),
    "all": ((5, 4), np.zeros((5, 4, 3), int)),
    "default": (None, blocks(1, 1, 3)),
    "pixel": ("pixel", blocks(1, 1, 3)),
    "component": ("component", np.arange(60).reshape(5, 4, 3)),
    "segments": (SEGMENTS * 7 - 3, np.repeat(SEGMENTS[..., None], 3, axis=2)),
    "values": (np.arange(60).reshape(5, 4, 3) % 11, np.arange(60).reshape(5, 4, 3) % 11),
}


@pytest.mark.parametrize(("kind", "aggregate"), [(k, "mean") for k in REGIONS] + [("int", "sum"), ("segments", "sum")])
def test_regions_by_brute_force(picture_net, kind, aggregate):
    regions, labels = REGIONS[kind]
    x, relevance = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.normal(1, 1, size=(3, 5, 4, 3))
    reduce = np.mean if aggregate == "mean" else np.sum
    means = np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)
    result = analysis(picture_net[0], x, relevance, regions=regions, aggregate=aggregate, batch_size=7)
    orders = [ordered(masks_of(labels), r, reduce) for r in relevance]
    agrees(result, twin(picture_net[0], x, orders, means[:, None]))
    assert result.perturbed.tolist() == list(range(len(orders[0]) + 1)) and result.orders == ("morf",)


def test_segments_of_every_sample(picture_net):
    """Samples with fewer segments stay wholly perturbed; no segments' relevance leaks from padding."""
    x, relevance = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.normal(size=(3, 5, 4, 3))
    labels = np.stack([SEGMENTS, SEGMENTS % 2, np.zeros_like(SEGMENTS)])
    result = zeroed(picture_net[0], x, relevance, regions=labels)
    orders = [ordered(masks_of(np.repeat(row[..., None], 3, axis=2)), r) for row, r in zip(labels, relevance)]
    assert list(map(len, orders)) == [5, 2, 1]
    agrees(result, twin(picture_net[0], x, orders, np.zeros((3, 1, 5, 4, 3))))


@pytest.mark.parametrize("on", ["output", "logits"])
def test_orders_steps_and_maps_without_channels(picture_net, on):
    model = picture_net[on == "logits"]
    x, maps = RNG.uniform(-1, 1, (2, 5, 4, 3)), {n: RNG.normal(size=(2, 5, 4)) for n in "ab"}
    result = zeroed(picture_net[0], x, maps, regions=2, order=("morf", "lerf"), steps=4, on=on)
    assert result.names == ("a (morf)", "b (morf)", "a (lerf)", "b (lerf)")
    assert result.orders == ("morf", "morf", "lerf", "lerf")
    masks = masks_of(blocks(2, 2, 3))
    for name, order in itertools.product("ab", (("morf", 1), ("lerf", -1))):
        wide = np.repeat(maps[name][..., None], 3, axis=3)
        orders = [ordered(masks, r, sign=order[1])[:4] for r in wide]
        agrees(result, twin(model, x, orders, np.zeros((2, 1, 5, 4, 3))), f"{name} ({order[0]})")
    lerf = zeroed(picture_net[0], x, maps["b"], regions=2, order="lerf", steps=4, on=on)
    np.testing.assert_allclose(lerf.scores["relevance"], result.scores["b (lerf)"], rtol=1e-9)
    given = np.stack([[r[masks[g]].mean() for g in masks] for r in np.repeat(maps["a"][..., None], 3, axis=3)])
    per_region = zeroed(picture_net[0], x, given, regions=2, steps=4, on=on)
    np.testing.assert_allclose(per_region.scores["relevance"], result.scores["a (morf)"], rtol=1e-9)


def test_regions_with_relevance_of_their_own_are_not_averaged():
    """Segments of one and of three columns: a value per segment stays as it is, whatever the aggregate."""
    x, labels = np.ones((1, 4)), np.array([0, 1, 1, 1])
    w = [1.0, 2.0, 2.0, 2.0]
    assert zeroed(linear(w), x, [[1.0, 2.0]], regions=labels).scores["relevance"].tolist() == [[7.0, 1.0, 0.0]]
    assert zeroed(linear(w), x, [[3.0, 2.0, 2.0, 2.0]], regions=labels).scores["relevance"].tolist() == [[7, 6, 0]]
    summed = zeroed(linear(w), x, [[3.0, 2.0, 2.0, 2.0]], regions=labels, aggregate="sum")
    assert summed.scores["relevance"].tolist() == [[7, 1, 0]]


# --- perturbations -----------------------------------------------------------------------------------------------


def stream(*key):
    return np.random.default_rng(np.random.SeedSequence(5, spawn_key=key))


def gaussian(x, i, k):
    mean, std = (f(x[i], axis=(0, 1), keepdims=True) for f in (np.mean, np.std))
    return mean + std * stream(0, i, k).standard_normal(x[i].shape)


PERTURBATIONS = {
    "mean": ({}, lambda x, i, k: np.broadcast_to(x[i].mean(axis=(0, 1)), x[i].shape)),
    "given mean": ({"perturbation": "mean", "mean": [0.1, 0.2, 0.3]},
                   lambda x, i, k: np.broadcast_to([0.1, 0.2, 0.3], x[i].shape)),
    "constant": ({"value": 0.7}, lambda x, i, k: np.full(x[i].shape, 0.7)),
    "uniform": ({"samples": 3}, lambda x, i, k: x[i].min() + np.ptp(x[i]) * stream(0, i, k).random(x[i].shape)),
    "gaussian": ({"samples": 3}, gaussian),
    "given gaussian": ({"perturbation": "gaussian", "samples": 2, "mean": 0.5, "std": [1, 2, 3]},
                       lambda x, i, k: 0.5 + np.array([1, 2, 3]) * stream(0, i, k).standard_normal(x[i].shape)),
    "inversion": ({}, lambda x, i, k: x[i].max() + x[i].min() - x[i]),
    "blur": ({"sigma": (1.5, 0.7)},
             lambda x, i, k: np.stack([ndimage.gaussian_filter(x[i][..., c], (1.5, 0.7), mode="nearest")
                                       for c in range(3)], axis=-1)),
}


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_perturbations_by_brute_force(picture_net, name):
    """Noise has one keyed generator per sample and copy, and stays the same over the steps."""
    options, other = PERTURBATIONS[name]
    x, relevance = RNG.uniform(-1, 1, (2, 5, 4, 3)), RNG.normal(size=(2, 5, 4, 3))
    options = {"perturbation": name, "regions": 2, "seed": 5, **options}
    others = [[other(x, i, k) for k in range(options.get("samples", 1))] for i in range(2)]
    orders = [ordered(masks_of(blocks(2, 2, 3)), r) for r in relevance]
    expected = twin(picture_net[0], x, orders, others)
    for size in (3, 100):
        agrees(analysis(picture_net[0], x, relevance, batch_size=size, **options), expected)


def test_default_blur_is_an_eighth_of_each_side():
    x = RNG.uniform(size=(1, 16, 24, 2))
    w = RNG.normal(size=(16, 24, 2))
    result = analysis(linear(w), x, "random", regions=(16, 24), perturbation="blur")
    smooth = ndimage.gaussian_filter(x[0], (2, 3, 0), mode="nearest")
    assert result.scores["random"][0, 1] == pytest.approx((w * smooth).sum(), rel=1e-9)


@pytest.mark.parametrize("channel", [0, 2])
@pytest.mark.parametrize("perturbation", ["constant", "mean", "uniform", "gaussian", "inversion", "blur"])
def test_all_channels_of_a_region_change(channel, perturbation):
    """A net that sees one channel notices every perturbation of every region."""
    w = np.zeros((4, 4, 3))
    w[..., channel] = RNG.uniform(1, 2, (4, 4))
    x = RNG.uniform(0, 1, (1, 4, 4, 3))
    value = {"value": 0.5} if perturbation == "constant" else {}
    result = analysis(linear(w), x, "random", regions=2, perturbation=perturbation, samples=2, **value)
    assert (np.abs(np.diff(result.scores["random"][0])) > 1e-6).all()


def test_channels_first():
    """The model's layers say where the channels are: regions, means and blurs follow."""
    first = zoo.make("channels_first").model
    x, relevance = RNG.uniform(-1, 1, (2, 2, 6, 6)), RNG.normal(size=(2, 2, 6, 6))
    labels = (np.arange(6)[:, None] // 3) * 3 + np.arange(6) // 2
    orders = [ordered(masks_of(np.stack([labels] * 2)), r) for r in relevance]
    axes = {"axis": (2, 3), "keepdims": True}
    others = {
        "mean": np.broadcast_to(x.mean(**axes), x.shape),
        "blur": ndimage.gaussian_filter(x, (0, 0, 1, 2), mode="nearest"),
        "gaussian": np.stack([x.mean(**axes)[i] + x.std(**axes)[i] * stream(0, i, 0).standard_normal((2, 6, 6), "f")
                              for i in range(2)]),
    }
    for perturbation, other in others.items():
        given = {"sigma": (1, 2)} if perturbation == "blur" else {}
        result = analysis(first, x, relevance, regions=(3, 2), perturbation=perturbation, samples=1, seed=5, **given)
        expected = twin(first, x, orders, other[:, None])
        np.testing.assert_allclose(result.scores["relevance"], expected[0], rtol=1e-4, atol=1e-5)


KINDS = "transformer tokens signal volume segmentation regression uint8 two_outputs".split()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model(name):
    """One step that perturbs one position with all its channels; what the model says about that sample."""
    sample = zoo.make(name, "float32" if name in zoo.FLOAT32_ONLY else "float64")
    drawn = sample.inputs(4)
    x = drawn[0] if isinstance(drawn, list) else drawn
    table = x.ndim == 2
    places = x.shape[1:] if table else x.shape[1:-1]
    relevance = np.stack([np.random.default_rng(i).permutation(int(np.prod(places))).reshape(places) for i in range(4)])
    changed = np.stack([r == r.max() for r in relevance])
    mask = changed if table else np.broadcast_to(changed[..., None], x.shape)
    result = zeroed(sample.model, drawn, relevance, regions=None if table else 1, steps=1, batch_size=3,
                    **{k: v for k, v in sample.params.items() if k == "output"})

    def outputs(z):
        y = predict(sample.model, z.astype(x.dtype))
        return np.asarray(y[1] if name == "two_outputs" else y, "float64")

    clean, after = outputs(x), outputs(np.where(mask, 0, x))
    for i in range(4):
        place = np.unravel_index(clean[i].argmax(), clean[i].shape)
        assert result.scores["relevance"][i] == pytest.approx([clean[i][place], after[i][place]], rel=1e-4, abs=1e-6)
        rows = [y[i][place[:-1]] for y in (clean, after)]
        equal = (rows[0] > 0) == (rows[1] > 0) if len(rows[0]) == 1 else rows[0].argmax() == rows[1].argmax()
        assert result.agreement["relevance"][i].tolist() == [1, equal]


def test_bytes_are_pictures_and_are_rounded():
    """Whole numbers of rank > 2 have channels, means and blurs; what replaces them is rounded, never truncated."""
    sample = zoo.make("uint8")
    x = sample.inputs(1)
    x[0, ..., 0] = RNG.integers(100, 109, (6, 6))
    x[0, 0, 0, 0] += (24 - int(x.sum())) % 36  # the mean has the fraction 2/3
    assert x.mean() % 1 == pytest.approx(2 / 3)
    result = analysis(sample.model, x, "random", regions=6)
    full = np.full_like(x, round(x.mean()))
    clean, after = (predict(sample.model, z)[0] for z in (x, full))
    assert result.scores["random"][0] == pytest.approx([clean.max(), after[clean.argmax()]], rel=1e-4)
    blurred = np.rint(ndimage.gaussian_filter(x[0].astype("float64"), (2, 1, 0), mode="nearest"))[None]
    result = analysis(sample.model, x, "random", regions=6, perturbation="blur", sigma=(2, 1))
    assert result.scores["random"][0, 1] == pytest.approx(
        predict(sample.model, blurred.astype("uint8"))[0][clean.argmax()], rel=1e-4)


# --- what a good explanation gets --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_perfect_and_inverted_explanations_are_the_extremes_of_all_orders(seed):
    """A linear model: contributions w x in MoRF order against all 24 permutations, computed one by one."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=4), rng.normal(size=(2, 4))
    permutations = {str(p): np.array(p, float) for p in itertools.permutations(range(4))}
    maps = {name: np.tile(p, (2, 1)) for name, p in permutations.items()} | {"good": w * x, "bad": -w * x}
    result = zeroed(linear(w), x, maps)
    by_hand = {}
    for name, p in permutations.items():
        drops = [[sum(w[f] * x[i, f] for f in np.argsort(-p)[:k]) for k in range(5)] for i in range(2)]
        by_hand[name] = np.mean(drops, axis=1)
        np.testing.assert_allclose(result.aopc[name], by_hand[name], atol=1e-12)
    every = np.stack(list(by_hand.values()))
    np.testing.assert_allclose(result.aopc["good"], every.max(axis=0), atol=1e-12)
    np.testing.assert_allclose(result.aopc["bad"], every.min(axis=0), atol=1e-12)
    lerf = zeroed(linear(w), x, maps, order="lerf")
    np.testing.assert_allclose(lerf.aopc["good"], every.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(lerf.aopc["bad"], every.max(axis=0), atol=1e-12)


def test_perfect_explanation_of_an_image():
    """Sums over blocks of unequal size are the contributions: no permutation of the 4 blocks does better."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 3, 2)), rng.normal(size=(1, 3, 3, 2))
    maps = {str(p): [np.array(p, float)] for p in itertools.permutations(range(4))} | {"good": w * x, "bad": -w * x}
    result = zeroed(linear(w), x, maps, regions=2, aggregate="sum")
    every = [result.aopc[name][0] for name in maps if name not in ("good", "bad")]
    assert result.aopc["good"][0] == pytest.approx(max(every)) and result.aopc["bad"][0] == pytest.approx(min(every))
    assert max(every) > min(every) + 0.1


@fast
@given(st.integers(1, 7), st.integers(0, 999), st.sampled_from(["morf", "lerf"]))
def test_a_linear_model_loses_the_contributions_in_order(n, seed, order):
    rng = np.random.default_rng(seed)
    w, x, m = rng.normal(size=n), rng.normal(size=(2, n)), rng.normal(size=n)
    relevance = np.stack([rng.permutation(n) for _ in range(2)])
    result = analysis(linear(w, 0.3), x, relevance, perturbation="mean", mean=m, order=order, steps=max(1, n - 1))
    for i in range(2):
        places = np.argsort(relevance[i] if order == "lerf" else -relevance[i])
        lost = np.concatenate([[0], np.cumsum((w * (x[i] - m))[places])])[: max(1, n - 1) + 1]
        np.testing.assert_allclose(result.scores["relevance"][i], w @ x[i] + 0.3 - lost, atol=1e-10)


# --- the baseline and ties ---------------------------------------------------------------------------------------


def test_baseline_is_the_mean_over_random_orders(picture_net):
    x, maps = RNG.uniform(-1, 1, (2, 5, 4, 3)), {"a": RNG.normal(size=(2, 5, 4, 3)), "b": RNG.normal(size=(2, 5, 4, 3))}
    result = zeroed(picture_net[0], x, maps, regions=2, random_baseline=True, seed=5, batch_size=11)
    assert result.names == ("a", "b", "random") and result.orders == ("morf", "morf", "random")
    masks = list(masks_of(blocks(2, 2, 3)).values())
    found = []
    for j in range(RANDOM_ORDERS):
        places = [stream(2, i, j).permutation(6) for i in range(2)]
        orders = [[masks[g] for g in np.argsort(p)] for p in places]
        found.append(twin(picture_net[0], x, orders, np.zeros((2, 1, 5, 4, 3))))
    agrees(result, np.mean(found, axis=0), "random")
    assert np.std([f[0] for f in found], axis=0)[:, 1:-1].min() > 1e-6  # they differ
    alone = zeroed(picture_net[0], x, maps["b"], regions=2, random_baseline=True, seed=5, order=("morf", "lerf"))
    np.testing.assert_allclose(alone.scores["relevance (morf)"], result.scores["b"], rtol=1e-9)
    np.testing.assert_allclose(alone.scores["random"], result.scores["random"], rtol=1e-9)


def first_perturbed(relevance, x, **options):
    """The column that goes first, per sample: powers of two tell which."""
    n = x.shape[1]
    result = zeroed(linear(2.0 ** np.arange(n)), x, relevance, steps=1, **options)
    (curve,) = result.scores.values()
    return np.log2(curve[:, 0] - curve[:, 1]).round().astype(int)


def test_ties_are_broken_at_random_and_repeatably():
    x = np.ones((400, 5))
    drawn = first_perturbed(np.zeros((400, 5)), x)
    assert stats.chisquare(np.bincount(drawn, minlength=5)).pvalue > 1e-3
    np.testing.assert_array_equal(first_perturbed(np.full((400, 5), -3.5), x, batch_size=7), drawn)
    np.testing.assert_array_equal(first_perturbed(np.zeros((400, 5)), x, order="lerf"), drawn)
    np.testing.assert_array_equal(first_perturbed("random", x[:250]), drawn[:250])
    assert (first_perturbed("random", x, seed=1) != drawn).mean() > 0.5


# --- what must not matter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("perturbation", ["uniform", "gaussian", "blur"])
def test_batch_size_other_samples_and_other_maps_do_not_matter(picture_net, perturbation):
    x, relevance = RNG.uniform(-1, 1, (3, 5, 4, 3)), RNG.integers(0, 3, (3, 5, 4, 3))  # many equals
    options = {"regions": 2, "perturbation": perturbation, "samples": 3}
    whole = analysis(picture_net[0], x, {"a": relevance, "b": "random"}, batch_size=1000, **options)
    for size in (1, 4):
        again = analysis(picture_net[0], x, {"b": "random", "a": relevance}, batch_size=size, **options)
        for name in "ab":
            np.testing.assert_allclose(again.scores[name], whole.scores[name], rtol=1e-9)
            np.testing.assert_allclose(again.agreement[name], whole.agreement[name], rtol=1e-12)
    other = x.copy()
    other[[0, 2]] = 3 * other[[2, 0]] + 1
    mixed = analysis(picture_net[0], other, relevance, **options)
    np.testing.assert_allclose(mixed.scores["relevance"][1], whole.scores["a"][1], rtol=1e-9)


def test_neuron_selection(picture_net):
    model, logits = picture_net
    x, neurons = RNG.uniform(-1, 1, (3, 5, 4, 3)), np.array([2, 0, 3])
    result = zeroed(model, x, "random", regions=(5, 4), neuron_selection=neurons, on="logits")
    clean, empty = predict(logits, x), predict(logits, np.zeros_like(x))
    expected = np.stack([[clean[i, c], empty[i, c]] for i, c in enumerate(neurons)])
    np.testing.assert_allclose(result.scores["random"], expected, rtol=1e-9)
    assert result.agreement["random"][:, 1].tolist() == (clean.argmax(1) == empty.argmax(1)).tolist()


@pytest.mark.parametrize("size", [1, 5, 64])
def test_batch_size_bounds_the_forward_samples(size):
    model, seen = counting(6)
    options = {"perturbation": "uniform", "samples": 7, "steps": 4, "random_baseline": True, "batch_size": size}
    analysis(model, RNG.uniform(size=(3, 6)), {"a": np.arange(18).reshape(3, 6), "b": "random"}, **options)
    copies = 3 * 7 * 4 * (2 + RANDOM_ORDERS)
    assert max(seen) <= size and sum(seen) == 3 + copies and len(seen) == -(-3 // size) + -(-copies // size)
    seen.clear()
    zeroed(model, RNG.uniform(size=(3, 6)), "random", samples=7, batch_size=size)
    assert sum(seen) == 3 + 3 * 6  # equal copies are evaluated once


@pytest.mark.traced
def test_one_trace(monkeypatch):
    made = []

    class Spy(subject.Compiled):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(subject, "Compiled", Spy)
    analysis(zoo.make("convnet").model, RNG.uniform(size=(3, 6, 6, 2)), "random", batch_size=4)
    assert [m.traces for m in made] == [1]


def test_memory_does_not_grow_with_the_copies():
    """6 * 50 * 20 copies of 1000 float64 values would be 48 MB."""
    model, x = linear(np.ones(1000)), RNG.uniform(size=(6, 1000))
    tracemalloc.start()
    analysis(model, x, x, perturbation="uniform", samples=20, steps=50, batch_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize("name", ["convnet", "nested", "noisy"])
def test_model_inputs_and_generators_are_left_alone(name):
    sample = zoo.make(name)
    x = sample.inputs(2)
    relevance, state = RNG.normal(size=x.shape), np.random.get_state()[1].copy()
    copies = x.copy(), relevance.copy()
    variables, attributes, nodes = snapshot(sample.model)
    analysis(sample.model, x, relevance, perturbation="uniform", random_baseline=True, steps=2)
    after = snapshot(sample.model)
    assert all(np.array_equal(a, b) for a, b in zip(variables, after[0], strict=True)) and nodes == after[2]
    for a, b in zip(attributes, after[1], strict=True):
        assert sorted(a) == sorted(b) and [k for k in a if a[k] is not b[k]] == []
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(relevance, copies[1])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


# --- the result --------------------------------------------------------------------------------------------------


def made_up(samples=4, orders=("morf", "morf", "random"), names=("slow", "a|b $x$", "random")):
    rng = np.random.default_rng(1)
    curves = {n: 3 - 0.5 * j - np.arange(3) * j + rng.uniform(size=(samples, 3)) for j, n in enumerate(names)}
    return PerturbationResult(np.arange(3), names, orders, curves, {n: rng.uniform(size=(samples, 3)) for n in names})


def test_aopc_and_statistics():
    result = made_up()
    for name in result.names:
        c = result.scores[name]
        by_hand = [sum(row[0] - row[k] for k in range(3)) / 3 for row in c]
        np.testing.assert_allclose(result.aopc[name], by_hand, rtol=1e-12)
        found = result.statistics("aopc")[name]
        low, high = stats.t.interval(0.95, 3, np.mean(by_hand), stats.sem(by_hand))
        assert (found.mean - found.confidence, found.mean + found.confidence) == pytest.approx((low, high))
        assert (found.error, found.std) == pytest.approx((stats.sem(by_hand), np.std(by_hand, ddof=1)))
        np.testing.assert_allclose(result.statistics("scores")[name].mean, c.mean(axis=0))
    one = made_up(1).statistics("agreement")["slow"]
    assert np.isfinite(one.mean).all() and np.isnan([one.std, one.error, one.confidence]).all()
    with pytest.raises(InvalidInputError, match="of must be one of 'scores', 'agreement', 'aopc', got 'area'"):
        result.statistics("area")


def test_table_and_repr():
    """Within an order the best comes first: the largest AOPC of MoRF, the smallest of LeRF."""
    header, rule, *rows = made_up().table().splitlines()
    assert header == "| relevance | order | AOPC | mean agreement |" and rule.count("---") == 4
    assert [r.split(" | ")[0] for r in rows] == ["| a\\|b $x$", "| slow", "| random"]
    aopc = made_up().aopc["slow"]
    assert f"| morf | {aopc.mean():.4g} ± {stats.sem(aopc):.2g} |" in rows[1]
    lerf = made_up(orders=("lerf", "lerf", "random"))
    assert [r.split(" | ")[0] for r in lerf.table().splitlines()[2:]] == ["| slow", "| a\\|b $x$", "| random"]
    assert repr(lerf) == "PerturbationResult(3 rows, 4 samples, 2 steps; best lerf: 'slow')"
    assert "nan" not in made_up(1).table()


def test_json_round_trip():
    result = made_up()
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["aopc"]["slow"] == result.aopc["slow"].tolist()
    again = PerturbationResult.from_dict(stored)
    assert again.to_dict() == stored and again.table() == result.table()


@pytest.mark.parametrize("spread", ["error", "confidence", "std"])
def test_plot_shows_means_and_bands(spread, tmp_path):
    result = made_up()
    figure = result.plot(spread=spread, path=tmp_path / "curves.png")
    assert isinstance(figure, matplotlib.figure.Figure) and (tmp_path / "curves.png").stat().st_size > 5000
    (panel,) = figure.axes
    assert panel.get_ylabel() == "score, most relevant first" and panel.get_xlabel() == "perturbed regions"
    assert [line.get_label() for line in panel.get_lines()] == list(result.names)
    for line, band in zip(panel.get_lines(), panel.collections, strict=True):
        found = result.statistics("scores")[line.get_label()]
        np.testing.assert_array_equal(line.get_ydata(), found.mean)
        heights = band.get_paths()[0].vertices
        top = [heights[heights[:, 0] == k, 1].max() for k in range(3)]
        np.testing.assert_allclose(top, found.mean + getattr(found, spread))
    texts = [t.get_text() for t in panel.get_legend().get_texts()]
    areas = sorted((-a.mean(), n) for n, a in result.aopc.items())
    assert texts == [f"{n} ({-a:.3g})".replace("$", r"\$") for a, n in areas]


def test_two_orders_have_two_panels_and_share_the_baseline():
    result = made_up(orders=("morf", "lerf", "random"), names=("a (morf)", "a (lerf)", "random"))
    left, right = result.plot().axes
    assert [line.get_label() for line in left.get_lines()] == ["a (morf)", "random"]
    assert [line.get_label() for line in right.get_lines()] == ["a (lerf)", "random"]
    lerf = {n: result.aopc[n].mean() for n in ("a (lerf)", "random")}
    assert right.get_legend().get_texts()[0].get_text().startswith(min(lerf, key=lerf.get))
    own = matplotlib.figure.Figure()
    axes = own.subplots(1, 2)
    assert result.plot(axes) is own and [len(a.get_lines()) for a in axes] == [2, 2]
    single = matplotlib.figure.Figure().subplots()
    assert made_up().plot(single) is single.figure and not made_up(1).plot().axes[0].collections
    with pytest.raises(InvalidInputError, match="ax must be two matplotlib axes"):
        result.plot(single)
    with pytest.raises(InvalidInputError, match="ax must be one matplotlib axes"):
        made_up().plot(axes)
    with pytest.raises(InvalidInputError, match="spread must be one of 'error', 'confidence', 'std', got 'iqr'"):
        result.plot(spread="iqr")


# --- refusals ----------------------------------------------------------------------------------------------------


X, R = np.linspace(-1, 1, 12).reshape(2, 6), np.arange(12.0).reshape(2, 6)
PICTURE = {"model": "convnet", "x": np.zeros((2, 6, 6, 2)), "relevance": "random", "perturbation": "mean",
           "value": None}
TOKENS = {"model": "tokens", "x": np.ones((2, 6), int), "value": None}
REFUSED = {
    "few values": ({"relevance": R[:, :5]}, r"relevance 'relevance' has shape \(2, 5\), but x has \(2, 6\)"),
    "few samples": ({"relevance": {"lrp": R[:1]}}, r"relevance 'lrp' has shape \(1, 6\)"),
    "NaN": ({"relevance": np.where(R == 8, np.nan, R)}, r"is NaN in 1 samples \(first: 1\)"),
    "no map": ({"relevance": {}}, "relevance must be an array or a dict"),
    "name": ({"relevance": {"random": R}, "random_baseline": True}, "the name 'random', which is the baseline's"),
    "empty": ({"x": X[:0], "relevance": R[:0]}, r"x has shape \(0, 6\); there is nothing to explain"),
    "wrong x": ({"x": X[0]}, "Add the batch axis"),
    "order": ({"order": "roar"}, "order must be 'morf', 'lerf' or .*got 'roar'"),
    "order twice": ({"order": ("morf", "morf")}, "order must be"),
    "no order": ({"order": ()}, "order must be"),
    "list of orders": ({"order": ["morf"]}, "order must be"),
    "aggregate": ({"aggregate": "max"}, "aggregate must be one of 'mean', 'sum', got 'max'"),
    "steps": ({"steps": 7}, "steps=7, but x has only 6 regions"),
    "no steps": ({"steps": 0}, "steps must be an integer of at least 1"),
    "samples": ({"samples": 0}, "samples must be an integer of at least 1"),
    "batch size": ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    "seed": ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    "on": ({"on": "softmax"}, "on must be one of 'output', 'logits'"),
    "neuron": ({"neuron_selection": 3}, "neuron_selection 3 .* out of range"),
    "all neurons": ({"neuron_selection": "all"}, "no single neuron"),
    "no model": ({"model": 3}, "model must be a keras.Model, got int"),
    "blocks of a table": ({"regions": 2}, "regions=2 has no meaning for a table"),
    "regions as text": ({"regions": "slic"}, "regions must be 'component', 'pixel' or an int array"),
    "regions as flag": ({"regions": True}, "regions must be .*dtype bool"),
    "short labels": ({"regions": np.zeros(5, int)}, r"regions has shape \(5,\)"),
    "large block": ({**PICTURE, "regions": 7}, "regions=7 is larger than a side"),
    "no block": ({**PICTURE, "regions": 0}, "regions must be an integer of at least 1, got 0"),
    "three axes": ({**PICTURE, "regions": (1, 1, 1, 1)}, "has 4 sizes"),
    "perturbation": ({"perturbation": "zero"}, "perturbation must be one of 'mean', 'constant', .*got 'zero'"),
    "no value": ({"value": None}, "perturbation='constant' needs value="),
    "value shape": ({"value": np.zeros(5)}, r"value has shape \(5,\).*one sample \(6,\)"),
    "value NaN": ({"value": np.nan}, "value holds NaN"),
    "mean for constant": ({"mean": 1}, "mean= has no meaning with perturbation='constant'"),
    "sigma for constant": ({"sigma": 1}, "sigma= has no meaning with perturbation='constant'"),
    "value for mean": ({"perturbation": "mean"}, "value= has no meaning with perturbation='mean'"),
    "mean of a table": ({"perturbation": "mean", "value": None}, "holds the columns of a table: pass mean="),
    "noise of a table": ({"perturbation": "gaussian", "value": None}, "a table: pass mean= and std="),
    "data for constant": ({"data": X}, "data= has no meaning with perturbation='constant'"),
    "blur of a table": ({"perturbation": "blur", "value": None}, "a table: choose another perturbation"),
    "mean of tokens": ({**TOKENS, "perturbation": "mean"}, "holds tokens: pass mean="),
    "no std": ({"perturbation": "gaussian", "value": None, "mean": 0}, "mean= and std=, or neither .*std= is missing"),
    "negative std": ({"perturbation": "gaussian", "value": None, "mean": 0, "std": -1}, "std must not be negative"),
    "sigma": ({**PICTURE, "perturbation": "blur", "sigma": -1}, "sigma must be a positive number, got -1"),
    "sigmas": ({**PICTURE, "perturbation": "blur", "sigma": (1, 2, 3)}, "has 3 entries, but .* have 2 axes"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused_before_anything_is_computed(case, monkeypatch):
    changed, message = REFUSED[case]

    def computed(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(subject.Scores, "__call__", computed)
    arguments = {"model": "mlp", "x": X, "relevance": R, "perturbation": "constant", "value": 0, **changed}
    model = arguments.pop("model")
    model = zoo.make(model).model if isinstance(model, str) else model
    with pytest.raises(InvalidInputError, match=message):
        analysis(model, arguments.pop("x"), arguments.pop("relevance"), **arguments)


def test_maps_are_told_from_values_per_region_by_their_shape_alone():
    """Labels per sample, as many regions as columns in one of them: the means of the other sample are means still."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    net.set_weights([np.ones((4, 1))])
    x, relevance = np.ones((2, 4)), np.array([[1, 2, 3, 4.0], [2, 2, 2, 5.0]])
    labels = np.array([[0, 1, 2, 3], [0, 0, 0, 1]])
    options = {"perturbation": "constant", "value": 0, "random_baseline": False, "progress": False}
    both = perturbation_analysis(net, x, relevance, regions=labels, **options).scores["relevance"]
    alone = perturbation_analysis(net, x[1:], relevance[1:], regions=labels[1:], **options).scores["relevance"]
    np.testing.assert_allclose(alone, [[4, 3, 0]])
    np.testing.assert_allclose(both, [[4, 3, 2, 1, 0], [4, 3, 0, 0, 0]])


# --- tables --------------------------------------------------------------------------------------------------------


def test_tables_are_perturbed_column_by_column_unless_told_otherwise():
    """Means and deviations of ``data``, or of x; in closed form, for both tests of orders."""
    rng, units = np.random.default_rng(0), np.array([100.0, 1.0])
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    net.set_weights([np.array([[1.0], [2.0]]) / units[:, None]])
    x, data = rng.normal(2, 1, (4, 2)) * units, rng.normal(1, 1, (3000, 2)) * units
    for own in (None, data):
        known = x if own is None else own
        mean, std = known.mean(axis=0), known.std(axis=0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = analysis(net, x, x, data=own, samples=3000).scores["relevance"]
            kept = relevance_ordering(net, x, "random", data=own, rates=2, samples=3000, progress=False)
        texts = [str(w.message) for w in told if w.category is UserWarning]
        assert len(texts) == (2 if own is None else 0)
        assert all("those of the 4 samples of x. Pass training data, data=" in text for text in texts)
        assert all(w.filename == __file__ for w in told if w.category is UserWarning)
        np.testing.assert_allclose(found[:, 2], np.tile(mean @ [0.01, 2], 4), atol=0.2)
        distortion = ((x - mean) @ [0.01, 2]) ** 2 + ([0.01, 2] * std) @ ([0.01, 2] * std)
        np.testing.assert_allclose(kept.distortion["random"][:, 0], distortion, rtol=0.15)
    centre = analysis(net, x, x, perturbation="mean", data=data).scores["relevance"]
    np.testing.assert_allclose(centre[:, 2], np.tile(data.mean(axis=0) @ [0.01, 2], 4), rtol=1e-4)
    with pytest.warns(UserWarning, match="over the range of a whole sample mixes their units"):
        alone = analysis(net, x[:1], x[:1])
    plain = analysis(net, x[:1], x[:1], perturbation="uniform")
    np.testing.assert_array_equal(alone.scores["relevance"], plain.scores["relevance"])


def test_tokens_are_perturbed_by_other_tokens():
    sample = zoo.make("tokens")
    options = {"random_baseline": False, "progress": False, "samples": 3}
    usual, uniform = (perturbation_analysis(sample.model, sample.inputs(2), "random", perturbation=kind, **options)
                      for kind in (None, "uniform"))
    np.testing.assert_array_equal(usual.scores["random"], uniform.scores["random"])
