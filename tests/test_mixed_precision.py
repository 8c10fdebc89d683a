"""Half precision, double precision and quantised layers: same maps as the float32 twin, nothing underflows."""

import keras
import numpy as np
import pytest
from keras import layers as L

import innv_ext
from innv_ext.errors import NoRuleError

SHAPE = (6, 6, 3)
ANALYZERS = {
    "gradient": {}, "guided_backprop": {}, "smoothgrad": {"augment_by_n": 8}, "integrated_gradients": {"steps": 16},
    "lrp.epsilon": {"epsilon": 1e-3}, "lrp.alpha_1_beta_0": {}, "lrp.z_plus": {}, "deep_taylor": {},
}
POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")
# per dtype: 1 - cosine and relative difference of norms; float16 has 11 bits of mantissa, bfloat16 has 8
CLOSE = {"float64": (1e-8, 1e-5), "float16": (5e-4, 0.01), "bfloat16": (5e-3, 0.05)}
# these see every ReLU whose pre-activation changes its sign by rounding
GATED = {"gradient": 0.02, "guided_backprop": 0.02}


def network(policy, scale=1.0, last="softmax"):
    """Convolution, batch normalisation, residual, separable convolution, pooling, dense head.

    No max pooling: where two values are as good as equal, rounding picks another winner and the relevance moves.
    """
    dtype = keras.DTypePolicy(policy)
    x = keras.Input(SHAPE, dtype="float64" if policy == "float64" else "float32")
    h = L.Conv2D(6, 3, padding="same", dtype=dtype)(x)
    h = L.ReLU(dtype=dtype)(L.BatchNormalization(dtype=dtype)(h))
    h = L.Add(dtype=dtype)([h, L.SeparableConv2D(6, 3, padding="same", activation="relu", dtype=dtype)(h)])
    h = L.AveragePooling2D(2, dtype=dtype)(h)
    h = L.Dense(8, "relu", dtype=dtype)(L.Flatten(dtype=dtype)(h))
    h = L.Rescaling(scale, dtype=dtype)(L.Dense(4, dtype=dtype)(h)) if scale != 1.0 else L.Dense(4, dtype=dtype)(h)
    model = keras.Model(x, L.Activation(last, dtype=dtype)(h), name=f"net_{policy}")
    rng = np.random.default_rng(0)
    for v in model.variables:
        low, high = (0.5, 1.5) if "variance" in v.path or "gamma" in v.path else (-0.5, 0.5)
        v.assign(rng.uniform(low, high, v.shape))
    return model


@pytest.fixture(scope="module")
def pictures():
    """Eight pictures with values that float16 holds exactly, so that the input is the same for all."""
    return np.round(np.random.default_rng(1).uniform(-1, 1, (8, *SHAPE)) * 256).astype("float32") / 256


@pytest.fixture(scope="module")
def maps(pictures):
    """The maps of a network, computed once per (policy, analyzer), all for class 1."""
    models, found = {}, {}

    def get(policy, analyzer):
        if (policy, analyzer) not in found:
            if policy not in models:
                models[policy] = network(policy)
            made = innv_ext.create_analyzer(analyzer, models[policy], **ANALYZERS[analyzer])
            found[policy, analyzer] = made.explain(pictures, neuron_selection=1)
        return found[policy, analyzer]

    return get


def cosine(a, b):
    a, b = np.float64(a.ravel()), np.float64(b.ravel())
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.filterwarnings("ignore:Deep Taylor explains positive scores only")
@pytest.mark.parametrize("analyzer", ANALYZERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_maps_are_those_of_the_float32_twin(policy, analyzer, maps):
    wanted, found = maps("float32", analyzer), maps(policy, analyzer)
    dtype = np.float64 if policy == "float64" else np.float32
    assert found.attribution.dtype == dtype and found.output.dtype == dtype
    assert np.isfinite(found.attribution).all() and found.extras["finite"].all()
    np.testing.assert_allclose(found.output, wanted.output, atol=0.05 * np.abs(wanted.output).max())
    for a, b in zip(found.attribution, wanted.attribution, strict=True):
        if not b.any():  # Deep Taylor explains positive scores only
            assert analyzer == "deep_taylor" and not a.any()
            continue
        angle, size = CLOSE[policy.removeprefix("mixed_")]
        assert cosine(a, b) > 1 - (angle if policy == "float64" else max(angle, GATED.get(analyzer, 0.0)))
        ratio = np.linalg.norm(np.float64(a)) / np.linalg.norm(np.float64(b))
        assert abs(ratio - 1) < (size if policy == "float64" else max(size, GATED.get(analyzer, 0.0)))


def test_the_twins_are_not_trivially_equal(maps):
    """Half precision does change the forward pass: the comparison above compares something."""
    exact = maps("float64", "gradient").output
    for policy in ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16"):
        assert np.abs(maps(policy, "gradient").output - exact).max() > 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "analyzer",
    ["gradient", "guided_backprop", "smoothgrad", "integrated_gradients", "lrp.epsilon", "lrp.alpha_1_beta_0"],
)
def test_tiny_gradients_do_not_underflow(policy, analyzer, pictures):
    """Scores of 1e-3 over four layers whose factors cancel: derivatives of 1e-8, which float16 rounds to zero."""

    def deep(policy):
        dtype = keras.DTypePolicy(policy)
        x = keras.Input(SHAPE)
        h = L.Flatten(dtype=dtype)(x)
        for _ in range(4):
            h = L.Dense(32, "relu", use_bias=False, dtype=dtype)(h)
        model = keras.Model(x, L.Dense(3, use_bias=False, dtype=dtype)(h))
        rng = np.random.default_rng(0)
        for v in model.variables:
            v.assign(rng.uniform(-0.005, 0.02, v.shape))
        return model

    options = {**ANALYZERS[analyzer], **({"epsilon": 1e-9} if analyzer == "lrp.epsilon" else {})}
    x = np.abs(pictures[:2])
    wanted = innv_ext.create_analyzer(analyzer, deep("float32"), **options).analyze(x, neuron_selection=0)
    found = innv_ext.create_analyzer(analyzer, deep(policy), **options).analyze(x, neuron_selection=0)
    assert 0 < np.abs(wanted).max() < 1e-3
    assert found.dtype == np.float32 and np.isfinite(found).all()
    for a, b in zip(found, wanted, strict=True):
        assert cosine(a, b) > 0.99
        assert 0.9 < np.linalg.norm(np.float64(a)) / np.linalg.norm(np.float64(b)) < 1.1


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_a_gradient_of_one_millionth(policy, pictures):
    """1e-6 and below: the smallest normal float16 is 6e-5, the smallest number at all 6e-8."""
    for scale in (1e-6, 1e-9):
        reference, half = network("float32", 1.0, "linear"), network(policy, 1.0, "linear")
        x = pictures[:2]

        def weak(y, scale=scale):
            return scale * y[:, 2]

        wanted = scale * innv_ext.create_analyzer("gradient", reference).analyze(x, neuron_selection=2)
        analyzer = innv_ext.create_analyzer("gradient", half, neuron_selection_mode=weak)
        for a, b in zip(analyzer.analyze(x), wanted, strict=True):
            assert np.isfinite(a).all() and cosine(a, b) > 0.99
            assert 0.95 < np.linalg.norm(np.float64(a)) / np.linalg.norm(np.float64(b)) < 1.05


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_large_gradients_do_not_overflow(policy, pictures):
    """float16 ends at 65504."""
    reference, half = network("float32", 1.0, "linear"), network(policy, 1.0, "linear")
    x = pictures[:2]

    def strong(y):
        return 1e7 * y[:, 2]

    wanted = 1e7 * innv_ext.create_analyzer("gradient", reference).analyze(x, neuron_selection=2)
    found = innv_ext.create_analyzer("gradient", half, neuron_selection_mode=strong).analyze(x)
    assert np.isfinite(found).all() and cosine(found, wanted) > 0.99


def test_samples_of_a_batch_do_not_share_a_scale(pictures):
    """A sample with a tiny gradient keeps its map beside one with a huge gradient."""
    half = network("mixed_float16", 1.0, "linear")

    def uneven(y):
        return y[:, 2] * keras.ops.convert_to_tensor([1e6, 1e-6])

    both = innv_ext.create_analyzer("gradient", half, neuron_selection_mode=uneven).analyze(pictures[:2])
    plain = innv_ext.create_analyzer("gradient", half).analyze(pictures[:2], neuron_selection=2)
    for a, b, scale in zip(both, plain, (1e6, 1e-6), strict=True):
        np.testing.assert_allclose(a / scale, b, rtol=0.02, atol=0.01 * np.abs(b).max())


def test_completeness_in_half_precision(maps):
    """Integrated gradients sum to f(x) - f(0) up to the rounding of the forward pass."""
    model = network("mixed_float16")
    found = maps("mixed_float16", "integrated_gradients")
    logits = innv_ext.model_wo_softmax(model)
    base = np.asarray(logits(np.zeros((1, *SHAPE), "float32")), "float32")[:, 1]
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"] - base, atol=0.05)


def test_conservation_in_half_precision(maps):
    """z+ leaves no bias in the denominators: the relevance is carried in float32 and sums to the score."""
    for policy in ("mixed_float16", "mixed_bfloat16", "float16"):
        found = maps(policy, "lrp.z_plus")
        np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=0.03)


def test_a_nested_model_in_another_precision(pictures):
    """The values are cast where the policies meet; the map is that of the flat twin."""
    i = keras.Input((6, 6, 4), dtype="float16")
    half = keras.DTypePolicy("float16")
    inner = keras.Model(i, L.Flatten(dtype=half)(L.Conv2D(3, 3, activation="relu", dtype=half)(i)), name="inner")
    x = keras.Input(SHAPE)
    model = keras.Model(x, L.Dense(2)(inner(L.Conv2D(4, 1)(x))))
    y = keras.Input(SHAPE)
    h = L.Conv2D(3, 3, activation="relu")(L.Conv2D(4, 1)(y))
    twin = keras.Model(y, L.Dense(2)(L.Flatten()(h)))
    by_shape = {tuple(v.shape): v for v in twin.variables}
    for v in model.variables:
        by_shape[tuple(v.shape)].assign(keras.ops.cast(v, "float32"))
    for name in ("gradient", "lrp.epsilon", "guided_backprop"):
        a, b = (innv_ext.create_analyzer(name, m).analyze(pictures[:2], neuron_selection=1) for m in (model, twin))
        assert a.dtype == np.float32 and cosine(a, b) > 0.999


def test_the_global_policy(pictures):
    """keras.config.set_dtype_policy is what users write."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layers = [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(2), L.Flatten(), L.Dense(3, "softmax")]
        model = keras.Sequential([keras.Input(SHAPE), *layers])
        found = innv_ext.create_analyzer("lrp.epsilon", model).explain(pictures)
    finally:
        keras.config.set_dtype_policy(before)
    assert found.attribution.dtype == np.float32 and found.extras["finite"].all()
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=0.05, atol=0.01)


# --- quantised layers ---------------------------------------------------------------------------------------------


@pytest.fixture
def quantised():
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(5, "relu", name="plain"), L.Dense(4, "relu", name="squeezed")]
    )
    model.add(L.Dense(3, name="head"))
    model.get_layer("squeezed").quantize("int8")
    return model


@pytest.fixture
def unopened():
    """A quantised layer whose dequantised kernel is not known."""
    x, squeezed = keras.Input((6,)), L.EinsumDense("ab,bc->ac", 4, name="squeezed")
    model = keras.Model(x, L.Dense(3, name="head")(squeezed(L.Dense(6, "relu", name="plain")(x))))
    squeezed.quantize("int8")
    return model


@pytest.mark.parametrize("name", ["lrp.epsilon", "lrp.z_plus", "deep_taylor"])
def test_a_quantised_layer_without_a_kernel_is_refused_by_name(name, unopened):
    """The layers around it are not accused."""
    with pytest.raises(NoRuleError) as error:
        innv_ext.create_analyzer(name, unopened)
    assert "- squeezed (EinsumDense" in str(error.value) and "quantised (int8)" in str(error.value)
    assert "- plain (" not in str(error.value) and "- head (" not in str(error.value)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_relevance_goes_through_the_dequantised_kernel(mode):
    """That of the float layer with the kernel that unit vectors show (which are rounded exactly)."""
    keras.utils.set_random_seed(0)
    dense = L.Dense(4, "softmax", bias_initializer="normal")
    model = keras.Sequential([keras.Input((6,)), dense])
    dense.quantize(mode)
    logits = innv_ext.model_wo_softmax(model)
    bias = np.asarray(dense.bias)
    kernel = logits.predict(np.eye(6, dtype="float32"), verbose=0) - bias
    x = np.abs(np.random.default_rng(0).normal(size=(5, 6))).astype("float32")
    score, w = logits.predict(x, verbose=0)[:, 1], kernel[:, 1]
    received = {name: innv_ext.create_analyzer(name, model).explain(x, 1) for name in
                ("lrp.z", "lrp.z_plus", "lrp.w_square", "gradient", "input_t_gradient")}
    parts = x * np.maximum(w, 0)
    expected = {
        "lrp.z": x * w, "lrp.z_plus": parts / parts.sum(axis=1, keepdims=True) * score[:, None],
        "lrp.w_square": w**2 / (w**2).sum() * score[:, None], "gradient": np.tile(w, (5, 1)),
        "input_t_gradient": x * w,
    }
    for name, found in received.items():
        np.testing.assert_allclose(found.score, score, rtol=1e-5)
        np.testing.assert_allclose(found.attribution, expected[name], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_quantised_layer_is_that_of_keras(quantised):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    found = innv_ext.create_analyzer("gradient", quantised).analyze(x, neuron_selection=0)
    assert np.isfinite(found).all() and found.any()
    # Keras passes the derivative through the rounding: close to that of the same weights in float
    plain, squeezed, head = quantised.layers
    kernel = np.asarray(squeezed._kernel, "float32") / np.asarray(squeezed.kernel_scale, "float32")
    w, v = np.asarray(plain.kernel), np.asarray(head.kernel)
    h = x @ w
    z = np.maximum(h, 0) @ kernel
    expected = (((z > 0) * v[:, 0]) @ kernel.T * (h > 0)) @ w.T
    assert cosine(found, expected) > 0.99


def test_plain_gradient_can_be_asked_for_at_a_quantised_layer(unopened):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    with pytest.warns(UserWarning, match="squeezed"):
        analyzer = innv_ext.create_analyzer("lrp.epsilon", unopened, unsupported="gradient")
    found = analyzer.explain(x)
    assert found.extras["finite"].all() and "squeezed" in found.extras["approximated"]
