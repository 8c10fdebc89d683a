"""MoreauGrad: closed forms on linear scores, the paper's theorems, Algorithm 1, groups, rho from data, bad input."""

import keras
import numpy as np
import pytest
import second_order_nets as nets
import tensorflow as tf
import zoo
from keras import layers, tree
from second_order_nets import close, fed, linear, make

import innv_ext
from innv_ext.analyzers import GroupSparseMoreauGrad, MoreauGrad, SparseMoreauGrad
from innv_ext.analyzers.parts import partition
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import (
    ConvergenceWarning,
    InvalidInputError,
    NonFiniteWarning,
    UnsupportedModelError,
    ZeroMapWarning,
)

NAMES = ("moreau_grad", "sparse_moreau_grad", "group_sparse_moreau_grad")
EXACT = {"steps": 3000, "tol": 1e-11, "progress": False}
create = innv_ext.create_analyzer


def soft(v, t):
    """Soft threshold."""
    return np.sign(v) * np.maximum(np.abs(v) - t, 0)


def blocks(shapes, size, channels_first):
    """The labels of blocks, for the flat components of all inputs."""
    axes = [range(1, len(s)) if channels_first else range(len(s) - 1) for s in shapes]
    arranged = [Arrangement(i, s, tuple(a), False) for i, (s, a) in enumerate(zip(shapes, axes, strict=True))]
    parts = partition.numbered(arranged, [partition.blocks(one.shape, one.along(size)) for one in arranged])
    return np.concatenate([label.reshape(-1) for label in parts.pictures()])


def group_soft(v, t, labels):
    """Group soft threshold of rows."""
    found = np.zeros_like(v)
    for row, out in zip(v, found, strict=True):
        for g in np.unique(labels):
            norm = np.linalg.norm(row[labels == g])
            if norm > t:
                out[labels == g] = (1 - t / norm) * row[labels == g]
    return found


def score(net, xs, target):
    """The logits of the targets."""
    y = tf.reshape(net(list(xs) if len(xs) > 1 else xs[0], training=False), (len(target), -1))
    return tf.gather(y, np.asarray(target)[:, None], batch_dims=1)[:, 0]


def gradient(net, xs, target):
    """Their gradients as vectors, by TensorFlow on the model itself."""
    tensors = [tf.constant(x) for x in xs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = score(net, tensors, target)
    return nets.flat([np.asarray(g) for g in tape.gradient(value, tensors)])


def weak_convexity(net, x, target):
    """How far f bends down at x: max(0, - the smallest eigenvalue of its Hessian), largest over the samples."""
    d, h = x[0].size, 1e-5
    points = [np.repeat(x, d, axis=0).reshape(-1, d) + s * np.tile(h * np.eye(d), (len(x), 1)) for s in (1, -1)]
    ends = [gradient(net, [p.reshape(-1, *x.shape[1:])], np.repeat(target, d)) for p in points]
    hessian = ((ends[0] - ends[1]) / (2 * h)).reshape(len(x), d, d)
    return np.maximum(-np.linalg.eigvalsh(hessian)[:, 0], 0).max()


# --- linear scores -----------------------------------------------------------------------------------------------


W = np.random.default_rng(0).normal(size=(6, 3))
X = np.random.default_rng(1).normal(size=(4, 6))
LABELS = np.array([0, 0, 1, 2, 2, 2])
LINEAR = {
    "moreau_grad": ({}, lambda w: w),
    "sparse_moreau_grad": ({"eta": 0.6}, lambda w: soft(w, 0.6)),
    "group_sparse_moreau_grad": ({"eta": 0.9, "groups": LABELS}, lambda w: group_soft(w, 0.9, LABELS)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rho", [0.01, 30.0])
def test_linear_scores(name, rho):
    """w_c, and its (group) soft threshold, for every rho, with FISTA and with one step of Algorithm 1."""
    params, expected = LINEAR[name]
    net, index = linear(W, np.ones(3)), np.array([0, 1, 2, 1])
    wanted = expected(W.T[index])
    assert (wanted != 0).any() and (name == "moreau_grad" or (wanted == 0).any())
    one_step = {"accelerate": False, "step_size": rho, "steps": 1}
    for extra in ({}, one_step, {"tol": 1e-9}, {**one_step, "steps": 5, "average": 2}):
        found = create(name, net, rho=rho, **params, **extra).explain(X, index)
        close(found.attribution, wanted, 1e-9 if "accelerate" in extra else 1e-5)
        np.testing.assert_array_equal(found.attribution == 0, wanted == 0)
    step = -rho * wanted
    value = np.einsum("ni,ni->n", X + step, W.T[index]) + 1 + (step**2).sum(axis=1) / (2 * rho)
    if name == "sparse_moreau_grad":
        value += 0.6 * np.abs(step).sum(axis=1)
    if name == "group_sparse_moreau_grad":
        value += 0.9 * sum(np.linalg.norm(step[:, g == LABELS], axis=1) for g in range(3))
    np.testing.assert_allclose(found.extras["objective"], value, rtol=1e-9)
    np.testing.assert_array_equal(found.extras["rho"], rho)


@pytest.mark.parametrize("name", NAMES)
def test_eta_zero_is_moreau_grad(name):
    net, xs, _ = make("softplus")
    params = {} if name == "moreau_grad" else {"eta": 0.0}
    expected = MoreauGrad(net, rho=0.3, **EXACT).analyze(xs[0])
    close(create(name, net, rho=0.3, **params, **EXACT).analyze(xs[0]), expected, 1e-7)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_large_eta_gives_zero_and_a_warning(name):
    net = linear(W)
    analyzer = create(name, net, eta=1e3)
    with pytest.warns(ZeroMapWarning, match=r"4 of 4.*eta=1000"):
        found = analyzer.explain(X)
    assert (found.attribution == 0).all() and not np.signbit(found.attribution).any()
    assert (found.extras["residual"] == 0).all() and (found.extras["status"] == "converged").all()


# --- the theorems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softplus", "smooth_two_inputs"])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.filterwarnings("ignore::innv_ext.errors.ZeroMapWarning")
def test_the_map_is_the_gradient_at_the_minimiser(name, kind):
    """Theorems 1 and 2: x* - x = ST(-rho grad f(x*), rho eta), and without a penalty the map is grad f(x*)."""
    net, xs, _ = make(name)
    rho, eta = 0.2, {"sparse_moreau_grad": 0.15, "group_sparse_moreau_grad": 0.6}.get(kind, 0.0)
    params = {} if kind == "moreau_grad" else {"eta": eta}
    params |= {"group_size": 2} if kind == "group_sparse_moreau_grad" else {}
    found = create(kind, net, rho=rho, **params, **EXACT).explain(fed(xs))
    assert (found.extras["status"] == "converged").all()
    maps = nets.flat(tree.flatten(found.attribution))
    there = gradient(net, nets.shift(xs, -rho * maps), found.target)
    labels = blocks([x.shape[1:] for x in xs], 2, False)
    expected = {
        "moreau_grad": there,
        "sparse_moreau_grad": -soft(-rho * there, rho * eta) / rho,
        "group_sparse_moreau_grad": -group_soft(-rho * there, rho * eta, labels) / rho,
    }[kind]
    close(maps, expected, 1e-6)
    assert not np.allclose(there, gradient(net, xs, found.target), rtol=1e-2)
    assert kind == "moreau_grad" or (maps == 0).any()


def test_the_map_is_the_gradient_of_the_envelope():
    """Definition 2, by differences of the objective."""
    net, (x,), _ = make("softplus")
    analyzer = MoreauGrad(net, rho=0.3, neuron_selection_mode="index", **EXACT)
    for i in range(2):
        points = np.concatenate([x[i] + s * 1e-4 * np.eye(5) for s in (1, -1)])
        up, down = np.split(analyzer.explain(points, 1).extras["objective"], 2)
        close(analyzer.analyze(x[i : i + 1], 1)[0], (up - down) / 2e-4, 1e-6)


@pytest.mark.parametrize("name", ["tanh", "max_pooling"])
def test_small_rho_gives_the_gradient(name):
    net, (x,), target = make(name)
    expected = zoo.create("gradient", net).analyze(x, target)
    close(MoreauGrad(net, rho=1e-7).analyze(x, target), expected, 1e-4)
    close(MoreauGrad(net, rho=1e-7, accelerate=False, steps=200).analyze(x, target), expected, 1e-4)
    single = nets.build(name, "float32")
    single.set_weights(net.get_weights())
    close(MoreauGrad(single, rho=1e-4).analyze(x.astype("float32"), target), expected, 1e-2)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.filterwarnings("ignore::innv_ext.errors.ConvergenceWarning")
def test_robustness_of_weakly_convex_scores(kind):
    """Corollaries 1 and 2: |map(x + delta) - map(x)| <= |delta| / min(rho, 1/lambda - rho).

    The bound of MoreauGrad is on the map itself; with a penalty, too. It fails for the plain gradient of a steep score.
    """
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="softplus"), layers.Dense(1)])
    rng = np.random.default_rng(0)
    net.set_weights([rng.normal(size=(4, 8)) * 3, rng.normal(size=8), rng.normal(size=(8, 1)), np.zeros(1)])
    x = rng.normal(size=(40, 4))
    lam = weak_convexity(net, np.concatenate([x, rng.normal(size=(200, 4)) * 0.5]), np.zeros(240, int))
    # a bound for all x: softplus'' <= 1/4
    w, v = net.get_weights()[0], net.get_weights()[2][:, 0]
    bound = np.linalg.norm((w * np.maximum(-v, 0)) @ w.T, 2) / 4
    assert 0 < lam <= bound * 1.001
    rho = 0.5 / bound
    params = {} if kind == "moreau_grad" else {"eta": 0.3}
    analyzer = create(kind, net, rho=rho, **params, **EXACT)
    delta = rng.normal(size=x.shape) * 10.0 ** rng.uniform(-3, 0, (40, 1))
    moved = np.linalg.norm(analyzer.analyze(x + delta) - analyzer.analyze(x), axis=1)
    limit = np.linalg.norm(delta, axis=1) / min(rho, 1 / bound - rho)
    assert (moved <= limit * (1 + 1e-6)).all() and (moved > 1e-3 * limit).any()


# --- Algorithm 1 ---------------------------------------------------------------------------------------------------


def algorithm_1(net, xs, target, rho, gamma, steps, prox, average=0, sigma=0.0, samples=1, seed=0):
    """The updates as the paper prints them; the map (x - x*) / rho. Works on lists of inputs."""
    x = nets.flat(xs)
    shapes = [v.shape[1:] for v in xs]
    spans = [(v.reshape(len(v), -1).max(axis=1) - v.reshape(len(v), -1).min(axis=1))[:, None] for v in xs]
    u, recent = x.copy(), []
    for t in range(steps):
        draws = [np.zeros((1, np.prod(s, dtype=int))) for s in shapes]
        if sigma:
            for i, s in enumerate(shapes):
                z = np.random.default_rng((seed, t, i)).standard_normal((samples, *s), "float32")
                draws[i] = (np.float32(sigma) * z).reshape(samples, -1)
        g = 0
        for j in range(len(draws[0])):
            noise = np.concatenate([span * draw[j] for span, draw in zip(spans, draws, strict=True)], axis=1)
            g = g + gradient(net, nets.shift(xs, u - x + noise), target) / len(draws[0])
        u = (1 - gamma / rho) * u - gamma * (g - x / rho)
        u = prox(u - x, gamma) + x
        recent.append(u)
    u = np.mean(recent[-average:], axis=0) if average else u
    return (x - u) / rho


PROX = {
    "moreau_grad": ({}, lambda v, t: v),
    "sparse_moreau_grad": ({"eta": 0.1}, lambda v, t: soft(v, 0.1 * t)),
    "group_sparse_moreau_grad": ({"eta": 0.2, "group_size": 2}, None),
}


@pytest.mark.parametrize("name", ["smooth_two_inputs", "max_pooling"])
@pytest.mark.parametrize("kind", NAMES)
def test_algorithm_1_as_printed(kind, name):
    """Exactly T updates of length 0.1 rho or ``step_size``, on smooth and on ReLU nets; the mean of the last ones."""
    net, xs, _ = make(name)
    logits = net if net.layers[-1].activation.__name__ == "linear" else _without_softmax(net)
    params, prox = PROX[kind]
    labels = blocks([x.shape[1:] for x in xs], 2, False)
    prox = prox or (lambda v, t: group_soft(v, 0.2 * t, labels))
    given = {"rho": 0.4, "accelerate": False, **params}
    for extra, gamma, average in (({}, 0.04, 0), ({"step_size": 0.1, "average": 4}, 0.1, 4)):
        found = create(kind, net, steps=7, **extra, **given).explain(fed(xs))
        expected = algorithm_1(logits, xs, found.target, 0.4, gamma, 7, prox, average)
        close(nets.flat(tree.flatten(found.attribution)), expected, 1e-10)
        np.testing.assert_array_equal(found.extras["iterations"], 7)
        np.testing.assert_array_equal(found.extras["status"], "max_iter")
        value = _envelope(logits, xs, -0.4 * expected, found.target, kind, params, labels)
        np.testing.assert_allclose(found.extras["objective"], value, rtol=1e-9)
        assert np.isfinite(found.extras["residual"]).all()


def _without_softmax(net):
    with zoo.precision("float64"):
        twin = keras.models.clone_model(net)
    twin.set_weights(net.get_weights())
    twin.layers[-1].activation = keras.activations.linear
    return twin


def _envelope(net, xs, step, target, kind, params, labels):
    value = np.asarray(score(net, nets.shift(xs, step), target)) + (step**2).sum(axis=1) / 0.8
    if kind == "sparse_moreau_grad":
        value += params["eta"] * np.abs(step).sum(axis=1)
    if kind == "group_sparse_moreau_grad":
        value += params["eta"] * sum(np.linalg.norm(step[:, labels == g], axis=1) for g in np.unique(labels))
    return value


@pytest.mark.parametrize(("kind", "name"), [("moreau_grad", "softplus"), ("sparse_moreau_grad", "smooth_two_inputs")])
def test_smoothing_draws_noise_anew_at_every_update(kind, name):
    net, xs, _ = make(name)
    params, prox = PROX[kind]
    given = {"smoothing": 0.2, "samples": 3, "seed": 4, "rho": 0.4, "steps": 5, "batch_size": 4, **params}
    found = create(kind, net, **given).explain(fed(xs))
    expected = algorithm_1(net, xs, found.target, 0.4, 0.04, 5, prox, 0, 0.2, 3, 4)
    close(nets.flat(tree.flatten(found.attribution)), expected, 1e-6)


def test_averaging_settles_on_a_kink():
    """On |x| the iterates jump around the kink; their mean depends little on where they stop."""
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input((1,)), layers.Dense(2, activation="relu"), layers.Dense(1)])
    net.set_weights([np.array([[1.0, -1.0]]), np.zeros(2), np.ones((2, 1)), np.zeros(1)])
    x = np.array([[0.33], [-0.57], [2.5]])  # rho = 1: x* = soft(x, 1)
    spread, error = [], []
    for average in (0, 60):
        given = {"rho": 1.0, "accelerate": False, "step_size": 0.1, "average": average}
        maps = np.stack([MoreauGrad(net, steps=n, **given).analyze(x) for n in (100, 101, 102)])
        spread.append(np.ptp(maps[:, :2], axis=0).max())
        error.append(np.abs(maps - x + soft(x, 1)).max())
    assert spread[1] < 0.05 * spread[0] and max(error) < 0.2
    assert error[1] < error[0]


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("moreau_grad", {}),
        ("moreau_grad", {"smoothing": 0.1, "samples": 3}),
        ("sparse_moreau_grad", {"accelerate": False, "average": 3}),
        ("sparse_moreau_grad", {}),
        ("group_sparse_moreau_grad", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::innv_ext.errors.ConvergenceWarning")
def test_samples_are_independent_of_their_batch(name, params):
    net, xs, _ = make("smooth_two_inputs", count=5)
    analyzer = create(name, net, rho=0.3, steps=30, **({} if name == "moreau_grad" else {"eta": 0.05}), **params)
    expected = analyzer.explain(xs)
    maps = nets.flat(expected.attribution)
    for size in (1, 2, 4):
        found = analyzer.explain(xs, batch_size=size)
        close(nets.flat(found.attribution), maps, 1e-9)
        np.testing.assert_array_equal(found.extras["iterations"], expected.extras["iterations"])
    order = np.array([3, 0, 4])
    found = analyzer.explain([x[order] for x in xs])
    close(nets.flat(found.attribution), maps[order], 1e-9)
    np.testing.assert_allclose(found.extras["objective"], expected.extras["objective"][order], rtol=1e-9)
    np.testing.assert_array_equal(found.extras["status"], expected.extras["status"][order])


def test_seeds_matter_with_smoothing_only():
    net, xs, _ = make("softplus")
    for smoothing in (0.0, 0.2):
        a, b, c = (
            MoreauGrad(net, rho=0.3, smoothing=smoothing, samples=3, steps=10, seed=s).analyze(xs[0]) for s in (0, 0, 1)
        )
        np.testing.assert_array_equal(a, b)
        assert np.allclose(a, c) == (not smoothing)


# --- what is explained ---------------------------------------------------------------------------------------------


def test_the_score_is_the_logit_or_the_probability():
    """``on="output"`` differentiates the softmax; the class stays the one at x."""
    net, (x,), _ = make("dense")
    index = np.array([3, 0, 1])
    logits = _without_softmax(net)
    for on, model in (("logits", logits), ("output", net)):
        found = MoreauGrad(net, rho=0.2, on=on, accelerate=False, steps=6).explain(x, index)
        expected = algorithm_1(model, [x], index, 0.2, 0.02, 6, lambda v, t: v)
        close(found.attribution, expected, 1e-9)
        np.testing.assert_allclose(found.score, np.asarray(model(x))[np.arange(3), index], rtol=1e-9)


def test_the_class_is_the_one_at_x():
    """With a wide envelope another class wins at x*; the score is still that of x's class."""
    net = linear(np.array([[4.0, 0.0], [0.0, 1.0]]))
    x = np.array([[1.0, 0.5]])
    found = MoreauGrad(net, rho=1.0).explain(x)
    assert np.argmax(net(x - found.attribution)) == 1 and found.target[0] == 0
    np.testing.assert_allclose(found.attribution, [[4.0, 0.0]], atol=1e-6)


def test_all_outputs_and_functions_of_them():
    net = linear(W)
    close(MoreauGrad(net, rho=0.5).analyze(X, "all"), np.tile(W.sum(axis=1), (4, 1)), 1e-6)
    by_function = MoreauGrad(net, rho=0.5, neuron_selection_mode=lambda y: y[:, 0] - 2 * y[:, 2]).analyze(X)
    close(by_function, np.tile(W[:, 0] - 2 * W[:, 2], (4, 1)), 1e-6)
    segmentation, (x,), _ = make("segmentation")
    given = {"rho": 1e-6, "accelerate": False, "steps": 150}
    expected = zoo.create("gradient", segmentation).analyze(x, (0, 1, 2))
    close(MoreauGrad(segmentation, **given).analyze(x, (0, 1, 2)), expected, 1e-4)


def test_inputs_in_any_structure():
    net, xs, _ = make("smooth_two_inputs")
    analyzer = GroupSparseMoreauGrad(net, rho=0.2, eta=0.05, group_size=2)
    expected = analyzer.analyze(xs)
    assert [e.shape for e in expected] == [x.shape for x in xs]
    named = analyzer.analyze({"table": xs[1], "image": xs[0]})
    for a, b in ((named["image"], expected[0]), (named["table"], expected[1])):
        np.testing.assert_array_equal(a, b)


# --- groups --------------------------------------------------------------------------------------------------------


def test_blocks_by_a_loop():
    """Squares of images over all channels, cubes of volumes, runs of signals and columns; smaller at borders."""
    cases = [
        ((5, 4, 3), 2, False),
        ((3, 5, 4), 2, True),
        ((5, 4, 3), 9, False),
        ((3, 2, 4, 2), 2, False),
        ((7, 2), 3, False),
        ((2, 7), 3, True),
        ((7,), 3, True),
        ((4, 4, 1), 1, False),
    ]
    for shape, size, first in cases:
        labels = blocks([shape], size, first).reshape(shape)
        seen = {}
        for place in np.ndindex(shape):
            spatial = place if len(shape) < 2 else (place[1:] if first else place[:-1])
            seen.setdefault(tuple(i // size for i in spatial), set()).add(int(labels[place]))
        assert all(len(v) == 1 for v in seen.values()), shape
        assert sorted(v.pop() for v in seen.values()) == list(range(len(seen))), shape
    both = blocks([(4, 4, 2), (5,)], 2, False)
    np.testing.assert_array_equal(both[:32], blocks([(4, 4, 2)], 2, False))
    np.testing.assert_array_equal(both[32:], blocks([(5,)], 2, False) + 4)


@pytest.mark.parametrize("shape", [(5, 4, 2), (4, 3, 3, 2), (7, 2), (7,)])
def test_whole_blocks_are_zero(shape):
    """On a linear score the map is the group soft threshold over the blocks."""
    d = int(np.prod(shape))
    w = np.random.default_rng(2).normal(size=(d, 2))
    with zoo.precision("float64"):
        net = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(2)])
    net.set_weights([w, np.zeros(2)])
    labels = blocks([shape], 2, False)
    eta = np.median([np.linalg.norm(w[labels == g, 1]) for g in np.unique(labels)])
    found = GroupSparseMoreauGrad(net, eta=eta, group_size=2, rho=0.7).analyze(np.zeros((1, *shape)), 1)
    expected = group_soft(w[None, :, 1], eta, labels).reshape(1, *shape)
    close(found, expected, 1e-6)
    assert (found == 0).any() and (found != 0).any()


def test_channels_first_blocks():
    """A model with channels first gets the blocks of its transposed twin (float32: no float64 kernel on the CPU)."""
    first = layers.Conv2D(3, 2, data_format="channels_first")
    net = keras.Sequential([keras.Input((2, 4, 4)), first, layers.GlobalAveragePooling2D("channels_first")])
    analyzer = GroupSparseMoreauGrad(net, eta=0.02, group_size=2, rho=0.1)
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype("float32")
    try:
        found = analyzer.analyze(x)
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
        pytest.skip("this TensorFlow has no channels_first convolution on this device")
    for sample in found:
        by_block = sample.reshape(2, 2, 2, 2, 2).transpose(1, 3, 0, 2, 4).reshape(4, -1)
        assert set(np.count_nonzero(by_block, axis=1)) <= {0, 8}


@pytest.mark.filterwarnings("ignore::innv_ext.errors.ZeroMapWarning")
def test_labels_of_pixels_and_of_components():
    """Shaped like a sample, or like it without its channels."""
    net, (x,), _ = make("smooth_residual")
    pixels = np.arange(16).reshape(4, 4) // 4
    norms = np.linalg.norm(zoo.create("gradient", net).analyze(x).reshape(3, 4, 8), axis=2)
    given = {"eta": float(np.median(norms)), "rho": 0.01, "accelerate": False, "steps": 20}
    a = GroupSparseMoreauGrad(net, groups=pixels, **given).analyze(x)
    b = GroupSparseMoreauGrad(net, groups=np.repeat(pixels[..., None], 2, axis=2).tolist(), **given).analyze(x)
    np.testing.assert_array_equal(a, b)
    rows = (a != 0).sum(axis=(2, 3))
    assert (a != 0).any() and (a == 0).any() and set(rows.ravel()) <= {0, 8}
    for ones in (np.arange(32).reshape(4, 4, 2), "component"):
        alone = GroupSparseMoreauGrad(net, groups=ones, **given).analyze(x)
        close(alone, SparseMoreauGrad(net, **given).analyze(x), 1e-12)


# --- rho from data -------------------------------------------------------------------------------------------------


def test_rule_of_thumb_for_rho(tmp_path):
    """1 / sqrt(mean |X|_2), in one pass over arrays, data sets and generators; 1 without data; kept when saved."""
    net = linear(W)
    data = np.random.default_rng(3).normal(size=(70, 6)) * 5
    expected = 1 / np.sqrt(np.linalg.norm(data, axis=1).mean())
    plain = MoreauGrad(net)
    assert plain.explain(X).extras["rho"].tolist() == [1.0] * 4 and "rho = 1;" in str(plain)
    sets = {
        "array": data,
        "list": data.tolist(),
        "tf.data": tf.data.Dataset.from_tensor_slices(data).batch(9),
        "with targets": tf.data.Dataset.from_tensor_slices((data, np.zeros(70))).batch(70),
        "generator": (data[i : i + 7] for i in range(0, 70, 7)),
    }
    for kind, given in sets.items():
        analyzer = MoreauGrad(net)
        assert analyzer.fit(given, batch_size=16) is analyzer
        np.testing.assert_allclose(analyzer.explain(X).extras["rho"], expected, rtol=1e-6, err_msg=kind)
    analyzer.save(tmp_path / "a.innv")
    loaded = innv_ext.load_analyzer(tmp_path / "a.innv")
    np.testing.assert_array_equal(loaded.explain(X).extras["rho"], analyzer.explain(X).extras["rho"])
    np.testing.assert_array_equal(loaded.analyze(X), analyzer.analyze(X))
    given = MoreauGrad(net, rho=0.3).fit(data)
    np.testing.assert_array_equal(given.explain(X).extras["rho"], 0.3)


def test_rule_of_thumb_of_several_inputs():
    """|X|_2 is taken over all inputs together; the solution is that of the number itself."""
    net, xs, _ = make("smooth_two_inputs")
    analyzer = SparseMoreauGrad(net, eta=0.05).fit(xs)
    rho = 1 / np.sqrt(np.linalg.norm(nets.flat(xs), axis=1).mean())
    assert analyzer.current_rho() == pytest.approx(rho, rel=1e-9)
    for a, b in zip(analyzer.analyze(xs), SparseMoreauGrad(net, eta=0.05, rho=rho).analyze(xs), strict=True):
        close(a, b, 1e-6)


def test_a_failed_fit_changes_nothing():
    net = linear(W)
    analyzer = MoreauGrad(net).fit(3 * X)
    before = analyzer.current_rho()
    bad = X.copy()
    bad[2, 1] = np.nan
    for given, words in ((bad, "NaN"), (X[:0], "empty"), (0 * X, "zero"), (X[:, 1:], "shape"), (3, "iterable")):
        with pytest.raises(InvalidInputError, match=words):
            analyzer.fit(given)
        assert analyzer.current_rho() == before
    for size in (0, -1, 2.5):
        with pytest.raises(InvalidInputError, match="batch_size"):
            analyzer.fit(X, batch_size=size)


# --- bad input and failures ----------------------------------------------------------------------------------------


BAD = {
    "moreau_grad": [
        ("rho", 0),
        ("rho", -1.0),
        ("rho", np.nan),
        ("rho", "wide"),
        ("rho", None),
        ("steps", 0),
        ("steps", 1.5),
    ],
    "sparse_moreau_grad": [("eta", -0.1), ("eta", np.nan), ("eta", "auto"), ("step_size", 0.0), ("tol", -1.0)],
    "group_sparse_moreau_grad": [("group_size", 0), ("group_size", 2.5), ("samples", 0), ("smoothing", -0.1)],
}


@pytest.mark.parametrize(("name", "key", "value"), [(n, k, v) for n, rows in BAD.items() for k, v in rows])
def test_bad_parameters(name, key, value):
    with pytest.raises(InvalidInputError, match=key):
        create(name, linear(W), **{key: value})


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (np.arange(5), "shape"),
        (np.arange(6.0), "integer"),
        (np.array([0, 0, 2, 2, 3, 3]), "every label"),
        (np.array([-1, 0, 1, 2, 3, 4]), "every label"),
    ],
)
def test_bad_labels(groups, words):
    with pytest.raises(InvalidInputError, match=words):
        GroupSparseMoreauGrad(linear(W), groups=groups)


def test_requests_that_contradict_each_other():
    with pytest.raises(InvalidInputError, match="accelerate=False"):
        MoreauGrad(linear(W), average=5)
    with pytest.raises(InvalidInputError, match="average"):
        MoreauGrad(linear(W), average=-1, accelerate=False)
    with pytest.raises(InvalidInputError, match="one input"):
        GroupSparseMoreauGrad(make("smooth_two_inputs")[0], groups=np.zeros(13, int))
    for name in NAMES:
        with pytest.raises(UnsupportedModelError, match="tokens"):
            create(name, zoo.make("tokens").model)


@pytest.mark.parametrize("name", NAMES)
def test_no_convergence_is_told(name):
    """Status, residual and one warning; the iterate is returned."""
    net, (x,), _ = make("softplus")
    params = {} if name == "moreau_grad" else {"eta": 0.02}
    analyzer = create(name, net, rho=2.0, steps=2, tol=1e-9, **params)
    with pytest.warns(ConvergenceWarning, match=name) as caught:
        found = analyzer.explain(x)
    missed = found.extras["status"] != "converged"
    assert missed.all() and "3 of 3 samples" in str(caught[0].message) and len(caught) == 1
    assert f"{found.extras['residual'].max():.2g}" in str(caught[0].message)
    assert (found.extras["residual"] > 1e-9).all() and (found.extras["iterations"] <= 2).all()
    assert np.isfinite(found.attribution).all() and (found.attribution != 0).any()


@pytest.mark.parametrize("params", [{}, {"accelerate": False}])
@pytest.mark.parametrize("name", NAMES)
def test_one_sample_that_is_not_finite_spoils_no_other(name, params):
    net, (x,), target = make("softplus")
    params = {"rho": 0.2, **params} | ({} if name == "moreau_grad" else {"eta": 0.02})
    expected = create(name, net, **params).analyze(x, target)
    bad = x.copy()
    bad[1, 2] = np.nan
    with pytest.warns(ConvergenceWarning, match="1 of 3"), pytest.warns(NonFiniteWarning, match="1 of 3 samples"):
        found = create(name, net, check_input=False, **params).explain(bad, target)
    close(found.attribution[[0, 2]], expected[[0, 2]], 1e-9)
    assert found.extras["status"][1] == "failed" and "failed" not in found.extras["status"][[0, 2]]


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_call_leaves_the_analyzer_usable(name):
    net = linear(W)
    analyzer = create(name, net, rho=0.5)
    expected = analyzer.analyze(X)
    for bad in (X[:, 1:], np.full_like(X, np.nan), "x"):
        with pytest.raises(InvalidInputError):
            analyzer.analyze(bad)
    with pytest.raises(InvalidInputError, match="out of range"):
        analyzer.analyze(X, 3)
    np.testing.assert_array_equal(analyzer.analyze(X), expected)


def test_summary():
    text = str(MoreauGrad(linear(W), rho=0.25, accelerate=False, steps=7))
    assert "rho = 0.25" in text and "Algorithm 1, 7 updates" in text
    text = str(create("sparse_moreau_grad", linear(W), smoothing=0.1, samples=5))
    assert "sparse_moreau_grad" in text and "5 noisy copies" in text
    assert "FISTA" in str(GroupSparseMoreauGrad(linear(W)))
