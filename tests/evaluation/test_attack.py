"""Attacks on explanations: the gradient of the map against finite differences, bounds, classes, linear models."""

import json

import keras
import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops

import innv_ext
from innv_ext.backend import numerics, walk
from innv_ext.backend.numerics import Compiled
from innv_ext.errors import InvalidInputError, NotFittedError, UnsupportedModelError
from innv_ext.evaluation import attack as attacks
from innv_ext.evaluation import surrogate
from innv_ext.evaluation.attack import attack_interpretation, mass_share
from innv_ext.evaluation.robustness import robustness_metrics, top_weights

RNG = np.random.default_rng(0)


def attack(analyzer, x, **options):
    return attack_interpretation(analyzer, x, **{"epsilon": 0.3, "k": 0.2, "steps": 4, "progress": False, **options})


def tight(name, model, **params):
    """An analyzer whose optimiser runs to the end, so that its map solves its formula."""
    exact = {
        "moreau_grad": {"rho": 0.2, "steps": 400, "tol": 1e-12},
        "sparse_moreau_grad": {"rho": 0.2, "steps": 400, "tol": 1e-12, "eta": 0.05},
        "group_sparse_moreau_grad": {"rho": 0.2, "steps": 400, "tol": 1e-12, "eta": 0.1, "group_size": 2},
        "cafo": {"lambda1": 0.02},
        "smooth_cafo": {"lambda1": 0.02, "augment_by_n": 3},
        "caso": {"lambda1": 0.02, "max_iter": 2000, "tol": 1e-12},
        "smooth_caso": {"lambda1": 0.02, "augment_by_n": 3, "max_iter": 2000, "tol": 1e-12},
        "smoothgrad": {"augment_by_n": 5, "noise_scale": 0.2},
        "integrated_gradients": {"steps": 6, "reference_inputs": 0.3},
        "gradient_shap": {"samples": 5, "noise_scale": 0.1, "references": RNG.uniform(-1, 1, (3, 5, 4, 2))},
    }
    return innv_ext.create_analyzer(name, model, progress=False, **{**exact.get(name, {}), **params})


@pytest.fixture(scope="module")
def smooth_net():
    """A smooth network in float64 for (5, 4, 2) pictures; Keras gets second derivatives of its normalisation wrong."""
    with zoo.precision("float64"):
        i = keras.Input((5, 4, 2))
        y = layers.Conv2D(4, 3, padding="same", activation="softplus")(i)
        y = layers.LayerNormalization()(layers.Flatten()(layers.AveragePooling2D((1, 2))(y)))
        y = layers.Dense(5, activation="tanh")(y)
        model = keras.Model(i, layers.Dense(3, activation="softmax")(y))
    return zoo.randomise(model, 3)


@pytest.fixture(scope="module")
def relu_net():
    return zoo.randomise(keras.Sequential([
        keras.Input((6, 6, 2)), layers.Conv2D(6, 3, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(),
        layers.Dense(12, activation="relu"), layers.Dense(3, activation="softmax"),
    ]), 5)


@pytest.fixture(scope="module")
def trained_net():
    """(model, test images) for a tiny network that tells two kinds of noisy strokes and empty pictures apart."""
    keras.utils.set_random_seed(1)
    y = np.arange(360) % 3
    x = RNG.uniform(0, 0.5, (360, 7, 7, 1)).astype("float32")
    for i, place in enumerate(RNG.integers(1, 6, 360)):
        if y[i] == 1:
            x[i, place] += 0.5
        elif y[i] == 2:
            x[i, :, place] += 0.5
    model = keras.Sequential([
        keras.Input((7, 7, 1)), layers.Conv2D(6, 3, activation="relu"), layers.Flatten(),
        layers.Dense(16, activation="relu"), layers.Dense(3, activation="softmax"),
    ])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x[:300], y[:300], epochs=12, batch_size=30, verbose=0)
    assert np.mean(model.predict(x[300:], verbose=0).argmax(axis=1) == y[300:]) > 0.8
    return model, x[300:312]


@pytest.fixture(scope="module")
def gradient_map(trained_net):
    return innv_ext.create_analyzer("gradient", trained_net[0])


@pytest.fixture(scope="module")
def attacked(trained_net, gradient_map):
    """Three samples, attacked."""
    return attack(gradient_map, trained_net[1][:3])


# --- the derivative of a map -------------------------------------------------------------------------------------

MAPS = """gradient smoothgrad integrated_gradients gradient_shap lrp.epsilon lrp.epsilon_plus_flat cafo smooth_caso
    moreau_grad sparse_moreau_grad group_sparse_moreau_grad""".split()


def differences(function, x, step=1e-5):
    """Central differences of a function (x, rows) -> (rows,) of copies of the samples ``rows``."""
    count, size = len(x), x[0].size
    rows = np.repeat(np.arange(count), size)
    moves = step * np.tile(np.eye(size), (count, 1)).reshape(-1, *x.shape[1:])
    found = (function(x[rows] + moves, rows) - function(x[rows] - moves, rows)) / (2 * step)
    return found.reshape(x.shape)


class HeldMap:
    """The map of the analyzer as its formula says, with constants held: evaluated for finite differences."""

    def __init__(self, analyzer, x, found):
        self.map, self.target = analyzer.tensor_map((x.shape[1:],), "index"), found.target
        held, points = self.map.constants(found), self.map.points
        self.each, self.points = [found.target, *held], points
        count = len(held)

        def run(x, target, *rest):
            held, points = list(rest[:count]), list(rest[count:])
            return self.map.end([x], target, held, self.map.part([x], target, held, points))[0]

        specs = [((None, *a.shape[1:]), a.dtype.name) for a in (x, *self.each, *points)]
        self.run = Compiled(run, specs, False)

    def __call__(self, x, rows):
        return np.asarray(self.run(x, *(a[rows] for a in self.each), *self.points))


@pytest.mark.parametrize("name", MAPS)
def test_gradient_of_the_share_against_finite_differences(smooth_net, name):
    """Where nothing is held constant, the analyzer itself is evaluated, else its formula."""
    x = np.random.default_rng(7).uniform(-1, 1, (2, 5, 4, 2))  # not near a pole of LRP
    analyzer = tight(name, smooth_net)
    found = analyzer.explain(x)
    top = top_weights(found.attribution.reshape(2, -1), 8).reshape(x.shape).astype("float32")
    smooth = surrogate.surrogate_of(analyzer, x, None)
    gradient = surrogate.MapGradient(smooth, x.shape[1:], "index", attacks._mass_share, 4)  # 5 points in chunks of 2
    maps = lambda z, rows: analyzer.analyze(z, found.target[rows], batch_size=1000)
    if analyzer.tensor_map((x.shape[1:],), "index").constants(found):
        maps, scale = HeldMap(analyzer, x, found), np.abs(found.attribution).max()
        np.testing.assert_allclose(maps(x, np.arange(2)), found.attribution, rtol=1e-5, atol=1e-6 * scale)
    expected = differences(lambda z, rows: mass_share(maps(z, rows), top[rows]), x)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(gradient(x, found.target, found, top), expected, atol=2e-5 * np.abs(expected).max())


def test_chunks_of_points_do_not_matter(smooth_net):
    x = RNG.uniform(-1, 1, (2, 5, 4, 2))
    analyzer = tight("smoothgrad", smooth_net)
    found = analyzer.explain(x)
    top = np.ones_like(x, "float32") * (np.arange(2) == 0)
    gradient, each = surrogate.MapGradient(analyzer, x.shape[1:], "index", attacks._mass_share, 2), []
    for size in (2, 5, 100):
        gradient.size = size
        each.append(gradient(x, found.target, found, top))
    assert np.abs(each[0]).max() > 1e-4
    np.testing.assert_allclose(each[1:], [each[0]] * 2, atol=1e-12)


def test_gauss_newton_product_is_the_closed_form():
    """On a piecewise linear network it is H v, with H from the analyzer's exact factor."""
    sample = zoo.make("mlp", "float64")
    x = sample.inputs(3)
    analyzer = innv_ext.create_analyzer("caso", sample.model, lambda1=1e-6, max_iter=2000, tol=1e-12, progress=False)
    found = analyzer.explain(x)
    formula = HeldMap(analyzer, x, found)
    np.testing.assert_allclose(formula(x, np.arange(3)), found.attribution, rtol=1e-6, atol=1e-12)


# --- the surrogate -----------------------------------------------------------------------------------------------

KINKS = {
    "relu": (ops.relu, 0.0),
    "ReLU": (layers.ReLU(dtype="float64"), 0.0),
    "leaky": (layers.LeakyReLU(0.3, dtype="float64"), 0.3),
    "slope": (layers.ReLU(negative_slope=0.2, dtype="float64"), 0.2),
    "maximum": (lambda x: ops.maximum(x, 0.0), 0.0),
}


@pytest.mark.parametrize("kind", KINKS)
@pytest.mark.parametrize("beta", [1.0, 7.0])
def test_softened_kinks(kind, beta):
    call, left = KINKS[kind]
    x = np.array([[-30.0, -1.0, -0.2, 0.0, 0.1, 2.0, 40.0]])
    (y,), pullback = numerics.vjp(surrogate.Softened(call, beta), ops.convert_to_tensor(x, "float64"))
    smooth = left * x + (1 - left) * np.logaddexp(0, beta * x) / beta
    np.testing.assert_allclose(y, smooth, atol=1e-6)
    slopes = left + (1 - left) / (1 + np.exp(-beta * x))
    if kind in ("relu", "ReLU"):  # other ways to write it have another derivative at 0 itself
        np.testing.assert_allclose(pullback(ops.ones_like(y))[0], slopes, atol=1e-6)
    else:
        np.testing.assert_allclose(np.delete(pullback(ops.ones_like(y))[0], 3), np.delete(slopes, 3), atol=1e-6)


def test_softened_prelu_has_a_slope_per_value():
    prelu = layers.PReLU()
    prelu.build((None, 3))
    slopes = np.array([0.1, 0.5, -1.0], "float32")
    prelu.set_weights([slopes])
    x = np.array([[-1.0, 0.5, -0.3]], "float32")
    y = surrogate.Softened(prelu, 5.0)(ops.convert_to_tensor(x))
    np.testing.assert_allclose(y, slopes * x + (1 - slopes) * np.logaddexp(0, 5 * x) / 5, atol=1e-6)


def test_softened_graph_is_the_softplus_network(relu_net):
    analyzer = innv_ext.create_analyzer("gradient", relu_net)
    soft = surrogate.surrogate_of(analyzer, np.zeros((1, 6, 6, 2), "float32"), 4.0)
    x = ops.convert_to_tensor(RNG.uniform(-1, 1, (3, 6, 6, 2)), "float32")
    conv, pool, flatten, dense, last = relu_net.layers
    y = pool(ops.softplus(4 * ops.conv(x, conv.kernel) + 4 * conv.bias) / 4)
    y = ops.softplus(4 * (flatten(y) @ dense.kernel + dense.bias)) / 4
    expected = y @ last.kernel + last.bias
    np.testing.assert_allclose(walk.evaluate(soft.graph_, [x])[0], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(walk.evaluate(analyzer.graph_, [x])[0], expected, atol=1e-2)  # the analyzer stays sharp


def test_relus_that_relevance_passes_stay_sharp(relu_net):
    x = np.zeros((1, 6, 6, 2), "float32")
    for name, softened in (("gradient", 2), ("guided_backprop", 2), ("moreau_grad", 2), ("lrp.epsilon", 0)):
        soft = surrogate.surrogate_of(innv_ext.create_analyzer(name, relu_net), x, 4.0)
        assert sum(isinstance(n.call, surrogate.Softened) for n in soft.graph_.nodes) == softened


def test_without_softplus_the_gradient_of_a_relu_network_is_flat():
    sample = zoo.make("mlp")
    x = sample.inputs(4)
    analyzer = innv_ext.create_analyzer("gradient", sample.model)
    found, slopes = analyzer.explain(x), []
    top = top_weights(found.attribution, 2).astype("float32")
    for beta in (None, 10.0):
        soft = surrogate.surrogate_of(analyzer, x, beta)
        gradient = surrogate.MapGradient(soft, x.shape[1:], "index", attacks._mass_share, 8)
        slopes.append(np.abs(gradient(x, found.target, found, top)).max())
    assert slopes[0] == 0 and slopes[1] > 1e-3


# --- what an attack keeps ----------------------------------------------------------------------------------------


def check(found, model, x, epsilon, value_range=None):
    """Bounds and classes, by a plain prediction; everything else follows from x'."""
    assert found.x_adv.dtype == x.dtype and found.x_adv.shape == x.shape
    norms = np.sqrt(((found.x_adv.astype("float64") - x) ** 2).reshape(len(x), -1).sum(axis=1))
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    assert (norms <= epsilon).all()
    classes = [model.predict(a, verbose=0).argmax(axis=-1) for a in (x, found.x_adv)]
    assert np.array_equal(classes[0], classes[1])
    assert np.array_equal(found.classes, classes[0]) and np.array_equal(found.classes_adv, classes[1])
    if value_range is not None:
        assert found.x_adv.min() >= value_range[0] and found.x_adv.max() <= value_range[1]
    assert (found.mass_adv <= found.mass).all()
    assert np.array_equal(found.success, found.mass_adv < found.mass)


def test_top_k_attack_beats_noise_of_the_same_norm(trained_net, gradient_map):
    (model, x), analyzer = trained_net, gradient_map
    options = {"epsilon": 0.5, "value_range": (0, 1), "steps": 20}
    found, noise = attack(analyzer, x, **options), attack(analyzer, x, method="random", **options)
    for result in (found, noise):
        check(result, model, x, 0.5, (0, 1))
        np.testing.assert_array_equal(result.maps, analyzer.analyze(x))
        np.testing.assert_allclose(result.maps_adv, analyzer.analyze(result.x_adv, result.classes), rtol=1e-6)
        metrics = robustness_metrics(result.maps, result.maps_adv, k=0.2)
        np.testing.assert_allclose(result.metrics.top_k, metrics.top_k)
        np.testing.assert_allclose(result.metrics.ssim, metrics.ssim)
    assert found.success.all()
    assert found.metrics.top_k.mean() < noise.metrics.top_k.mean() - 0.1
    assert found.mass_adv.mean() < noise.mass_adv.mean() - 0.02
    assert found.metrics.distance.mean() > noise.metrics.distance.mean()


def test_shares_of_the_top_k_are_what_the_definition_says(attacked):
    found = attacked
    for i in range(3):
        before, after = np.abs(found.maps[i].ravel()), np.abs(found.maps_adv[i].ravel())
        top = np.argsort(-before)[:10]
        assert found.mass[i] == pytest.approx(before[top].sum() / before.sum(), rel=1e-6)
        assert found.mass_adv[i] == pytest.approx(after[top].sum() / after.sum(), rel=1e-6)


def test_steps_that_change_the_class_are_taken_back(trained_net, gradient_map):
    """With a ball that reaches all classes, and large steps, the class is still kept."""
    model, x = trained_net
    found = attack(gradient_map, x, epsilon=6.0, steps=8, step_size=3.0)
    check(found, model, x, 6.0)
    assert found.success.any()


ALL = "guided_backprop deconvnet deep_taylor pattern.net caso sparse_moreau_grad".split()


@pytest.mark.parametrize("name", zoo.thinned(ALL))
@zoo.quick
def test_every_family_can_be_attacked(relu_net, name):
    x = np.random.default_rng(2).uniform(0, 1, (3, 6, 6, 2)).astype("float32")
    analyzer = zoo.create(name, relu_net, x)
    found = attack(analyzer, x, epsilon=0.5, steps=5, batch_size=2)
    check(found, relu_net, x, 0.5)
    assert found.success.any() or name == "deconvnet"
    assert found.analyzer == name


@pytest.mark.parametrize("name", ["grad_cam", "rc_rde"])
def test_random_directions_work_for_every_analyzer(relu_net, name):
    x = np.random.default_rng(2).uniform(0, 1, (2, 6, 6, 2)).astype("float32")
    analyzer = zoo.create(name, relu_net, x)
    check(attack(analyzer, x, method="random", steps=2), relu_net, x, 0.3)
    with pytest.raises(UnsupportedModelError, match="SmoothGrad"):
        attack(analyzer, x)


MODELS = {"signal": {}, "volume": {}, "channels_first": {}, "free_size": {}, "regression": {},
          "two_outputs": {"output": "second"}, "segmentation": {"neuron_selection": (1, 2, 0)}}


@pytest.mark.parametrize("name", MODELS)
def test_any_rank_and_kind_of_model(name):
    sample, options = zoo.make(name), dict(MODELS[name])
    x = sample.inputs(3)
    x = x.astype("float32")
    kept = x.copy()
    x.flags.writeable = False
    params = {"output": options.pop("output")} if "output" in options else {}
    analyzer = innv_ext.create_analyzer("gradient", sample.model, **params)
    weights = [w.copy() for w in sample.model.get_weights()]
    found = attack(analyzer, x, steps=3, **options)
    assert (found.norms <= 0.3).all() and np.array_equal(found.classes, found.classes_adv)
    assert found.success.any()
    np.testing.assert_array_equal(x, kept)
    assert all(np.array_equal(a, b) for a, b in zip(weights, sample.model.get_weights(), strict=True))


def test_maps_of_linear_models_cannot_be_attacked():
    model = zoo.randomise(keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(3)]), 1)
    x = RNG.normal(size=(5, 6)).astype("float32")
    for method in ("topk", "random"):
        found = attack(innv_ext.create_analyzer("gradient", model), x, method=method, epsilon=1.0)
        assert not found.success.any()
        np.testing.assert_array_equal(found.x_adv, x)
        np.testing.assert_array_equal(found.metrics.top_k, 1)


def test_neurons_stay_those_of_x(trained_net, gradient_map):
    x, analyzer = trained_net[1], gradient_map
    found = attack(analyzer, x[:3], neuron_selection=[2, 0, 1])
    np.testing.assert_allclose(found.maps_adv, analyzer.analyze(found.x_adv, [2, 0, 1]), rtol=1e-5, atol=1e-7)
    total = attack(analyzer, x[:3], neuron_selection="all")
    np.testing.assert_allclose(total.maps_adv, analyzer.analyze(total.x_adv, "all"), rtol=1e-5, atol=1e-7)
    assert total.success.any()


@pytest.mark.parametrize("method", ["topk", "random"])
def test_other_samples_and_batch_sizes_do_not_matter(trained_net, gradient_map, method):
    x, analyzer = trained_net[1], gradient_map
    whole = attack(analyzer, x[:5], method=method)
    pieces = attack(analyzer, x[:5], method=method, batch_size=2)
    np.testing.assert_allclose(pieces.x_adv, whole.x_adv, atol=1e-4)
    if method == "random":
        assert np.abs(attack(analyzer, x[:5], method=method, seed=1).x_adv - whole.x_adv).max() > 0.01


def test_random_directions_have_the_norm_of_the_bound(trained_net, gradient_map):
    found = attack(gradient_map, trained_net[1], method="random", epsilon=0.2)
    np.testing.assert_allclose(found.norms[found.success], 0.2, rtol=1e-4)
    assert found.success.any()


def test_batch_size_bounds_the_forward_samples():
    sizes = []

    class Counting(layers.Layer):
        def call(self, x):
            tf.py_function(lambda t: sizes.append(len(t)), [x], [])
            return x

    i = keras.Input((6,))
    model = zoo.randomise(keras.Model(i, layers.Dense(3)(layers.Dense(5, activation="relu")(Counting()(i)))), 2)
    analyzer = innv_ext.create_analyzer("smoothgrad", model, augment_by_n=7, check_forward=False)
    sizes.clear()
    attack(analyzer, RNG.normal(size=(5, 6)), batch_size=4, steps=2)
    assert max(sizes) == 4


@pytest.mark.traced
def test_one_trace_of_each_function(trained_net, gradient_map, monkeypatch):
    made = []

    class Recorded(Compiled):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(surrogate, "Compiled", Recorded)
    attack(gradient_map, trained_net[1][:5], batch_size=2, steps=3)
    assert [c.traces for c in made] == [1]


def test_warnings_of_the_search_are_not_repeated(trained_net, recwarn):
    model, x = trained_net
    analyzer = innv_ext.create_analyzer("moreau_grad", model, rho=0.5, steps=2, tol=1e-9, progress=False)
    attack(analyzer, x[:2], steps=4)
    told = [w for w in recwarn if issubclass(w.category, innv_ext.errors.ConvergenceWarning)]
    assert len(told) == 2  # of x and of x'


# --- results -----------------------------------------------------------------------------------------------------


def test_result_as_data(attacked):
    found = attacked
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["analyzer"] == "gradient" and stored["epsilon"] == 0.3 and stored["k"] == found.metrics.k == 10
    assert stored["mass_adv"] == found.mass_adv.tolist() and stored["top_k"] == found.metrics.top_k.tolist()
    assert stored["success"] == found.success.tolist() and len(stored["norms"]) == 3
    assert "gradient" in repr(found) and "epsilon=0.3" in repr(found)


def test_plot(attacked, tmp_path):
    found = attacked
    figure = found.plot(samples=2, path=tmp_path / "attack.png")
    assert len(figure.axes) == 8 and (tmp_path / "attack.png").stat().st_size > 5000
    both = np.stack([found.x, found.x_adv])
    for panel, values in ((0, found.x[0]), (2, found.x_adv[0])):
        drawn = figure.axes[panel].images[0].get_array()[..., 0]
        np.testing.assert_allclose(drawn, ((values - both.min()) / np.ptp(both))[..., 0], atol=1e-5)
    assert figure.axes[2].get_xlabel() == f"distance {found.norms[0]:.3g}"
    own = matplotlib.figure.Figure()
    axes = own.subplots(3, 4)
    assert found.plot(axes) is own and axes[2, 1].images
    with pytest.raises(InvalidInputError, match="ax must be"):
        found.plot(own.add_subplot())


def test_plot_of_other_shapes():
    sample = zoo.make("signal")
    found = attack(innv_ext.create_analyzer("gradient", sample.model), sample.inputs(2), steps=2)
    figure = found.plot()
    np.testing.assert_allclose(figure.axes[5].lines[0].get_ydata(), found.maps[1].ravel())


# --- bad input ---------------------------------------------------------------------------------------------------

BAD = {
    "epsilon": ({"epsilon": 0}, "epsilon"),
    "epsilon nan": ({"epsilon": float("nan")}, "epsilon"),
    "steps": ({"steps": 0}, "steps"),
    "step_size": ({"step_size": -1}, "step_size"),
    "k": ({"k": 50}, "1..49"),
    "method": ({"method": "gradient"}, "topk"),
    "range": ({"value_range": (1, 0)}, "low < high"),
    "range shape": ({"value_range": 1}, "value_range"),
    "outside": ({"value_range": (0.4, 0.6)}, "outside"),
    "softplus": ({"softplus": 0}, "softplus"),
    "batch_size": ({"batch_size": 0}, "batch_size"),
    "seed": ({"seed": -1}, "seed"),
    "neuron": ({"neuron_selection": 3}, "neuron_selection"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(trained_net, gradient_map, case):
    options, message = BAD[case]
    with pytest.raises(InvalidInputError, match=message):
        attack(gradient_map, trained_net[1][:2], **options)


def test_bad_inputs(trained_net, gradient_map):
    (model, x), analyzer = trained_net, gradient_map
    for wrong, message in ((x[:0], "nothing"), (x[0], "batch axis"), (x[:1] * np.nan, "NaN")):
        with pytest.raises(InvalidInputError, match=message):
            attack(analyzer, wrong)
    with pytest.raises(InvalidInputError, match="create_analyzer"):
        attack("gradient", x)
    with pytest.raises(NotFittedError):
        attack(innv_ext.create_analyzer("rc_rde", model, rate=2), x, method="random")


@pytest.mark.parametrize("name", ["tokens", "uint8", "shared"])
def test_models_that_cannot_be_attacked(name):
    sample = zoo.make(name)
    with pytest.raises(InvalidInputError, match=r"one input|continuously"):
        attack(innv_ext.create_analyzer("gradient", sample.model), sample.inputs(2))


def test_nodes_without_second_derivative_are_named():
    @tf.custom_gradient
    def square(x):
        return x * x, lambda g: 2 * g * tf.stop_gradient(x)

    class Odd(layers.Layer):
        def call(self, x):
            return square(x)

    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(Odd(name="odd")(i)))
    analyzer = innv_ext.create_analyzer("gradient", model)
    with pytest.raises(UnsupportedModelError, match=r"method='random'.*odd"):
        attack(analyzer, np.ones((1, 4)))
    assert attack(analyzer, np.ones((1, 4)), method="random").metrics.top_k == [1.0]


def test_rounding_is_no_success():
    """A linear model's gradient cannot be moved: x' is x, not a point where the share fell by rounding."""
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    analyzer = innv_ext.create_analyzer("smoothgrad", model, augment_by_n=4, progress=False)
    x = np.random.default_rng(0).random((3, 6, 6, 1)).astype("float32")
    for size in (1, 2, 3):
        found = attack_interpretation(analyzer, x, epsilon=0.2, steps=3, batch_size=size, progress=False)
        assert not found.norms.any()
        assert not found.success.any()
