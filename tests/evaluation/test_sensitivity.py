"""Sensitivity: closed forms of quadratic models, an analyzer of known maps, and plain loops over the points."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from scipy import stats
from test_ordering import counting, linear

import innv_ext
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.errors import InvalidInputError, NotFittedError
from innv_ext.evaluation.sensitivity import sensitivity

RNG = np.random.default_rng(0)


def measured(analyzer, x, **options):
    return sensitivity(analyzer, x, **{"progress": False, **options})


@dataclass(kw_only=True, eq=False, repr=False)
class Known(Analyzer):
    """``function`` of x as the map; keeps all x and neurons that it was asked for."""

    function: object = None

    def build(self):
        self.asked, self.neurons = [], []

    def explain_batch(self, xs, index, size, **options):
        assert len(xs[0]) <= size
        self.asked.append(np.stack(xs, axis=1) if len(xs) > 1 else xs[0])
        self.neurons.append(index)
        count = len(xs[0])
        y = np.stack([xs[0].reshape(count, -1)[:, 0], -xs[0].reshape(count, -1)[:, 0]], axis=1)
        target = np.where(index < 0, y.argmax(axis=1), index)
        return {"attributions": [self.function(x) for x in xs], "output": y, "target": target, "score": y[:, 0]}


def two_outputs(shape):
    i = keras.Input(shape if isinstance(shape, tuple) else (shape,), dtype="float64")
    return keras.Model(i, layers.Dense(2)(layers.Flatten()(i)))


@pytest.fixture(scope="module")
def square():
    """f(x) = sum of x^2 / 2 (and minus that), float64: the gradient is x, of which nothing cancels."""
    with zoo.precision("float64"):
        i = keras.Input((4,))
        half = layers.Lambda(lambda t: ops.sum(t * t, axis=1, keepdims=True) / 2, output_shape=(1,))(i)
        return keras.Model(i, layers.Concatenate()([half, -half]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_for_each_value_is_a_change_of_units(square, norm):
    """map(x) = x: x and radius in other units move as far, and a radius of 0 holds a value."""
    analyzer, x = Known(square, function=lambda z: z), np.ones((1, 4))
    radius = np.array([0.1, 0.2, 0.0, 0.4])
    measured(analyzer, x, radius=radius, norm=norm, samples=50)
    moved = np.concatenate(analyzer.asked[1:]) - x
    analyzer.asked.clear()
    measured(analyzer, x, radius=1.0, norm=norm, samples=50)
    np.testing.assert_allclose(moved, radius * (np.concatenate(analyzer.asked[1:]) - x), rtol=1e-9, atol=1e-15)
    two = zoo.make("two_inputs")
    both = innv_ext.create_analyzer("gradient", two.model)
    found = measured(both, two.inputs(2), radius=[0.02, np.full(4, 0.02)], samples=2)
    np.testing.assert_array_equal(found, measured(both, two.inputs(2), radius=0.02, samples=2))
    for wrong, text in (([0.1], "radius has 1 entries"), (np.zeros(4), "not 0 everywhere"), (-np.ones(4), "negative")):
        with pytest.raises(InvalidInputError, match=text):
            measured(both if isinstance(wrong, list) else analyzer, two.inputs(2) if isinstance(wrong, list) else x,
                     radius=wrong)


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_loops(norm, kind):
    """map(z) = sin z: the points that were asked for tell the values."""
    x = RNG.normal(size=(3, 2, 5))
    known = Known(two_outputs((2, 5)), function=np.sin)
    found = measured(known, x, radius=0.3, samples=7, norm=norm, kind=kind, batch_size=4)
    points = np.concatenate(known.asked[1:]).reshape(3, 7, 10)
    flat = x.reshape(3, 1, 10)
    reach = np.abs(points - flat).max(axis=2) if norm == "linf" else np.linalg.norm(points - flat, axis=2)
    assert (reach <= 0.3 + 1e-12).all() and reach.min() < reach.max()
    for i in range(3):
        values = [np.sqrt(((np.sin(z) - np.sin(flat[i, 0])) ** 2).sum() / (np.sin(flat[i, 0]) ** 2).sum())
                  for z in points[i]]
        assert found[i] == pytest.approx(max(values) if kind == "max" else sum(values) / 7, rel=1e-9)


def test_points_are_uniform_in_the_ball():
    """Radius^d of an L2 ball and every coordinate of a cube are uniform; directions are even."""
    x = np.zeros((400, 3))
    for norm in ("l2", "linf"):
        known = Known(two_outputs(3), function=lambda z: z + 1)
        measured(known, x, radius=2.0, samples=5, norm=norm, batch_size=1000)
        points = np.concatenate(known.asked[1:])
        assert len(np.unique(points, axis=0)) == 2000
        if norm == "l2":
            radii = np.linalg.norm(points, axis=1)
            assert stats.kstest((radii / 2) ** 3, "uniform").pvalue > 1e-3
            points = points / radii[:, None]  # Archimedes: a coordinate of an even direction is uniform
        for column in points.T:
            assert stats.kstest(column / np.abs(points).max(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        assert np.abs(np.corrcoef(points.T) - np.eye(3)).max() < 0.1


def test_gradient_of_a_square(square):
    """map(z) = z: the largest of |z - x| / |x| is at most radius / |x|, and nearly that for many points."""
    x = RNG.normal(size=(4, 4)) + 3
    gradient = innv_ext.create_analyzer("gradient", square, on="output")
    found = measured(gradient, x, radius=0.5, samples=200, norm="l2")
    bound = 0.5 / np.linalg.norm(x, axis=1)
    assert (found <= bound + 1e-9).all() and (found > 0.95 * bound).all()
    scaled = measured(gradient, x, radius=0.5, samples=200, norm="l2", neuron_selection=1)
    np.testing.assert_allclose(scaled, found, rtol=1e-9)
    mean = measured(gradient, x, radius=0.5, samples=200, norm="l2", kind="mean")
    np.testing.assert_allclose(mean, 0.8 * bound, rtol=0.05)  # E |z| = d / (d + 1) in the unit ball


def test_a_constant_map_is_not_sensitive():
    model = linear(RNG.normal(size=5))
    gradient = innv_ext.create_analyzer("gradient", model)
    assert measured(gradient, RNG.normal(size=(3, 5)), radius=9.0).tolist() == [0, 0, 0]


def test_zero_maps_are_defined():
    x = np.ones((2, 3))
    still = Known(two_outputs(3), function=np.zeros_like)
    assert measured(still, x).tolist() == [0, 0]
    wakes = Known(two_outputs(3), function=lambda z: np.where(z == 1, 0, z))
    assert measured(wakes, x).tolist() == [np.inf, np.inf]


def test_the_neuron_of_x_is_explained_everywhere():
    """Near 0 the largest output changes within the ball, but not the neuron that is explained."""
    x = np.array([[0.01, 0], [-0.01, 0]])
    with zoo.precision("float64"):
        i = keras.Input((2,))
        net = keras.Model(i, layers.Dense(2, use_bias=False)(i))
    net.set_weights([np.array([[1.0, -1.0], [0.0, 0.0]])])
    known = Known(net, function=lambda z: z)
    measured(known, x, radius=1.0, samples=20)
    moved = np.concatenate(known.asked[1:])[:, 0]
    assert (moved.reshape(2, 20) > 0).any(axis=1).all() and (moved.reshape(2, 20) < 0).any(axis=1).all()
    assert np.concatenate(known.neurons[1:]).tolist() == [0] * 20 + [1] * 20
    gradient = innv_ext.create_analyzer("gradient", net)
    assert measured(gradient, x, radius=1.0).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["segmentation", "two_inputs", "dict_inputs", "two_outputs", "regression", "volume"])
def test_every_kind_of_model(name):
    """Several inputs move and are measured together; outputs of any rank keep their neuron."""
    sample = zoo.make(name, "float32" if name in zoo.FLOAT32_ONLY else "float64")
    x = sample.inputs(3)
    analyzer = innv_ext.create_analyzer("input_t_gradient", sample.model, **sample.params)
    found = measured(analyzer, x, radius=0.1, samples=4)
    assert found.shape == (3,) and np.isfinite(found).all() and (found > 0).all()
    fixed = measured(analyzer, x, radius=0.1, samples=4, neuron_selection=sample.index)
    assert np.isfinite(fixed).all()
    np.testing.assert_allclose(measured(analyzer, x, radius=0.1, samples=4, batch_size=5), found, rtol=1e-3, atol=1e-6)


def test_two_inputs_against_loops():
    """The ball is over both inputs, so is the norm of the map."""
    x = [RNG.normal(size=(2, 5)), RNG.normal(size=(2, 5))]
    known = Known(zoo.make("shared", "float64").model, function=np.sin)
    found = measured(known, x, radius=0.7, samples=6, norm="l2", batch_size=32)
    start, points = np.stack(x, axis=1), known.asked[1].reshape(2, 6, 2, 5)
    reach = np.sqrt(((points - start[:, None]) ** 2).sum(axis=(2, 3)))
    assert (reach <= 0.7 + 1e-9).all() and reach.max() > 0.5
    change = np.sqrt(((np.sin(points) - np.sin(start)[:, None]) ** 2).sum(axis=(2, 3)))
    np.testing.assert_allclose(found, change.max(axis=1) / np.sqrt((np.sin(start) ** 2).sum(axis=(1, 2))), rtol=1e-6)


def test_batch_size_and_other_samples_do_not_matter():
    sample = zoo.make("convnet", "float64")
    x = sample.inputs(3)
    analyzer = innv_ext.create_analyzer("lrp.epsilon", sample.model)
    whole = measured(analyzer, x, samples=5)
    for size in (1, 4):
        np.testing.assert_allclose(measured(analyzer, x, samples=5, batch_size=size), whole, rtol=1e-6)
    np.testing.assert_allclose(measured(analyzer, x[:2], samples=5), whole[:2], rtol=1e-6)
    assert (measured(analyzer, x, samples=5, seed=1) != whole).all()
    assert measured(analyzer, x[:0]).shape == (0,)


def test_batch_size_bounds_the_forward_samples():
    model, seen = counting(6)
    analyzer = innv_ext.create_analyzer("occlusion", model, check_forward=False)
    seen.clear()
    x = RNG.uniform(size=(3, 6))
    copy = x.copy()
    measured(analyzer, x, samples=3, batch_size=4)
    assert max(seen) <= 4 and sum(seen) >= 3 * 7 * 4
    np.testing.assert_array_equal(x, copy)


REFUSED = {
    "no analyzer": ({"analyzer": "gradient"}, "analyzer must be an analyzer, .*got 'gradient'"),
    "radius": ({"radius": 0}, "radius must be a positive number, got 0"),
    "infinite radius": ({"radius": np.inf}, "radius must be a positive number"),
    "samples": ({"samples": 0}, "samples must be an integer of at least 1"),
    "norm": ({"norm": "l1"}, "norm must be one of 'linf', 'l2', got 'l1'"),
    "kind": ({"kind": "median"}, "kind must be one of 'max', 'mean', got 'median'"),
    "seed": ({"seed": 1.5}, "seed must be an integer"),
    "batch size": ({"batch_size": 0}, "batch_size must be an integer"),
    "shape": ({"x": np.ones((1, 5))}, r"has shape \(1, 5\), but the model takes"),
    "neuron": ({"neuron_selection": 9}, "neuron_selection 9 .* out of range"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused(case):
    changed, message = REFUSED[case]
    gradient = innv_ext.create_analyzer("gradient", zoo.make("mlp").model)
    arguments = {"analyzer": gradient, "x": np.ones((1, 6)), **changed}
    with pytest.raises(InvalidInputError, match=message):
        measured(arguments.pop("analyzer"), arguments.pop("x"), **arguments)


def test_tokens_and_unfitted_analyzers_are_refused():
    tokens = zoo.make("tokens")
    with pytest.raises(InvalidInputError, match=r"whole numbers .* which cannot move by a little"):
        measured(innv_ext.create_analyzer("gradient", tokens.model), tokens.inputs(2))
    with pytest.raises(NotFittedError):
        measured(innv_ext.create_analyzer("pattern.net", zoo.make("mlp").model), np.ones((1, 6)))
