"""Every rewrite keeps what the graph computes, and does what it is for."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops, tree

import innv_ext
from innv_ext.backend import facts, passes, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.backend.tracing import trace
from innv_ext.errors import InnvError

MODES = ("fold", "linear", "two_linear", "hui_binder")


@pytest.fixture(autouse=True, scope="module")
def _double():
    """All models of this file compute in float64, so that a rewrite cannot hide behind rounding."""
    with zoo.precision("float64"):
        yield


def traced(model):
    return trace(model, facts.is_leaf)


def randomise(model, seed=1):
    """Trained-looking weights: variances over four orders of magnitude, statistics and biases not zero."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if not keras.backend.standardize_dtype(v.dtype).startswith("float"):
            continue
        values = 10 ** rng.uniform(-2, 2, v.shape) if "variance" in v.path else rng.uniform(-1, 1, v.shape)
        v.assign(values)
    return model


def feed(graph, seed=2):
    rng = np.random.default_rng(seed)
    found = []
    for spec in (graph.specs[s] for s in graph.inputs):
        shape = (3, *spec.shape[1:])
        values = rng.normal(size=shape) if spec.dtype.startswith("float") else rng.integers(0, 3, shape)
        found.append(ops.convert_to_tensor(values.astype(spec.dtype)))
    return found


def expected(model, xs):
    return [np.asarray(y) for y in tree.flatten(model(tree.pack_sequence_as(model._inputs_struct, xs), training=False))]


def assert_computes(graph, xs, wanted, tolerance=1e-10):
    """Same values as the model, and a well-formed program with true shapes."""
    env = walk.forward(graph, xs)
    for w, slot in zip(wanted, graph.outputs, strict=True):
        found = np.asarray(env.slots[slot])
        assert found.shape == w.shape
        np.testing.assert_allclose(found, w, rtol=tolerance, atol=tolerance * max(np.abs(w).max(), 1e-300))
    assert [n.index for n in graph.nodes] == list(range(len(graph.nodes)))
    assert len({n.name for n in graph.nodes}) == len(graph.nodes)
    written = set(graph.inputs)
    for node, ys in zip(graph.nodes, env.ys, strict=True):
        assert written.issuperset(node.inputs) and not written.intersection(node.outputs)
        written.update(node.outputs)
        for slot, y in zip(node.outputs, ys, strict=True):
            spec = graph.specs[slot]
            assert spec.dtype == keras.backend.standardize_dtype(y.dtype)
            assert all(s is None or s == d for s, d in zip(spec.shape, y.shape, strict=True))
    return env


def assert_affine(graph, env):
    """z = bilinear(x, kernel) + bias: bilinear in both, and the bias doesn't depend on the values of x."""
    for node, xs, ys in zip(graph.nodes, env.xs, env.ys, strict=True):
        if node.kind not in (Kind.AFFINE, Kind.BATCHNORM):
            continue
        (x,), (z,), call = xs, ys, node.call
        kernel, bias = call.kernel(), call.bias(x)
        zero = np.asarray(call.bilinear(ops.zeros_like(x), kernel))
        assert not zero.any() and not np.asarray(call.bilinear(x, ops.zeros_like(kernel))).any()
        linear = call.bilinear(-2.0 * x, 3.0 * kernel) / -6.0
        total = linear if bias is None else linear + bias
        np.testing.assert_allclose(np.asarray(total), np.asarray(z), rtol=1e-8, atol=1e-10 * np.abs(z).max())


def assert_all_passes(model):
    """Each pass alone, and the canonical form in every mode, against the model; again after training."""
    graph = traced(model)
    xs = feed(graph)
    split = passes.split_activations(graph)
    forms = {
        "split_activations": split,
        "split_separable": passes.split_separable(split),
        "open_custom_functions": passes.open_custom_functions(split),
        "affine_operations": passes.affine_operations(graph),
        "batchnorm_nodes": passes.batchnorm_nodes(graph),
        "split_batchnorm": passes.split_batchnorm(split),
        "fold_batchnorm": passes.fold_batchnorm(split),
        **{mode: passes.canonical(graph, passes.Form(mode)) for mode in MODES},
    }
    for seed in (1, 2):  # the second time with other weights, set after the graphs were made
        randomise(model, seed)
        wanted = expected(model, xs)
        for name, form in forms.items():
            env = assert_computes(form, xs, wanted)
            if name in MODES:
                assert_affine(form, env)
    return forms


def keys(graph):
    return [op_key(n.op) for n in graph.nodes]


def kinds(graph):
    return [n.kind for n in graph.nodes]


def count(graph, kind):
    return kinds(graph).count(kind)


def chain(shape, *layers):
    x = y = keras.Input(shape)
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


# --- random models ------------------------------------------------------------------------------------------------


def swish_like(x):
    """A user's activation function."""
    return x * ops.sigmoid(1.5 * x)


ACTIVATIONS = st.sampled_from([None, "relu", "tanh", "gelu", "softmax", swish_like])
STEPS = {
    4: {
        "conv": lambda a, n: L.Conv2D(n, 2, padding="same", activation=a),
        "strided": lambda a, n: L.Conv2D(n, 3, strides=2, padding="same", activation=a, use_bias=False),
        "depthwise": lambda a, n: L.DepthwiseConv2D(2, padding="same", depth_multiplier=2, activation=a),
        "separable": lambda a, n: L.SeparableConv2D(n, 2, padding="same", depth_multiplier=2, activation=a),
        "transpose": lambda a, n: L.Conv2DTranspose(n, 2, padding="same", activation=a),
        "dense": lambda a, n: L.Dense(n, activation=a),
        "bn": lambda a, n: L.BatchNormalization(scale=n % 2 == 0, center=n % 3 == 0),
        "bn1": lambda a, n: L.BatchNormalization(axis=1),
        "pool": lambda a, n: L.AveragePooling2D(2, 1, padding="same"),
        "add": lambda a, n: lambda x: L.Add()([x, L.Activation(a or "linear")(x)]),
        "flat": lambda a, n: L.Reshape((-1,)),
    },
    3: {
        "conv": lambda a, n: L.Conv1D(n, 2, padding="causal", dilation_rate=2, activation=a),
        "separable": lambda a, n: L.SeparableConv1D(n, 2, padding="same", activation=a),
        "einsum": lambda a, n: L.EinsumDense("abc,cd->abd", (None, n), bias_axes="d", activation=a),
        "dense": lambda a, n: L.Dense(n, activation=a),
        "bn": lambda a, n: L.BatchNormalization(),
        "bn1": lambda a, n: L.BatchNormalization(axis=1, scale=False),
        "matmul": lambda a, n: lambda x: ops.matmul(x, np.linspace(-1, 1, n * x.shape[-1]).reshape(-1, n)) + 0.5,
        "pad": lambda a, n: L.ZeroPadding1D(1),
        "flat": lambda a, n: L.Flatten(),
    },
    2: {
        "dense": lambda a, n: L.Dense(n, activation=a),
        "bn": lambda a, n: L.BatchNormalization(center=False),
        "activation": lambda a, n: L.Activation(a or "linear"),
        "gate": lambda a, n: lambda x: x * ops.sigmoid(x),
    },
}
SHAPES = {4: (4, 4, 2), 3: (5, 3), 2: (4,)}


@st.composite
def models(draw):
    """Chains of two to five random steps with a residual branch at times."""
    x = y = keras.Input(SHAPES[draw(st.sampled_from([4, 4, 3, 2]))])
    for _ in range(draw(st.integers(2, 5))):
        table = STEPS[len(y.shape)]
        step = table[draw(st.sampled_from(sorted(table)))]
        z = step(draw(ACTIVATIONS), draw(st.integers(1, 4)))(y)
        y = L.Add()([y, z]) if z.shape == y.shape and draw(st.booleans()) else z
    return keras.Model(x, y)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(models())
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")  # initialisers do
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_every_pass_keeps_the_values_of_random_models(model):
    assert_all_passes(model)


# --- split_activations, split_separable, custom functions ---------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda a: L.Dense(3, activation=a), (4,)), (lambda a: L.Conv1D(3, 2, activation=a), (5, 2)),
        (lambda a: L.Conv2D(3, 2, activation=a), (4, 4, 2)), (lambda a: L.Conv3D(3, 2, activation=a), (3, 3, 3, 2)),
        (lambda a: L.Conv1DTranspose(3, 2, activation=a), (5, 2)),
        (lambda a: L.Conv2DTranspose(3, 2, strides=2, output_padding=1, activation=a), (4, 4, 2)),
        (lambda a: L.Conv3DTranspose(3, 2, activation=a), (3, 3, 3, 2)),
        (lambda a: L.DepthwiseConv1D(2, activation=a), (5, 2)),
        (lambda a: L.DepthwiseConv2D(2, activation=a), (4, 4, 2)),
        (lambda a: L.EinsumDense("ab,bc->ac", 3, bias_axes="c", activation=a), (4,)),
    ],
)
def test_a_fused_activation_becomes_a_node_of_its_own(layer, shape):
    forms = assert_all_passes(chain(shape, layer("relu")))
    graph = forms["fold"]
    assert kinds(graph) == [Kind.AFFINE, Kind.ACTIVATION] and keys(graph)[1] == "relu"
    affine, activation = graph.nodes
    assert activation.name == f"{affine.name}/relu" and activation.layers == affine.layers
    assert activation.position == affine.position
    # the layer's slot is its output, behind the activation
    assert graph.layer_slots[affine.name] == activation.outputs[0] == graph.outputs[0]
    assert kinds(assert_all_passes(chain(shape, layer(None)))["fold"]) == [Kind.AFFINE]


@pytest.mark.parametrize("activation", [L.PReLU, L.LeakyReLU, lambda: L.ReLU(max_value=0.5, negative_slope=0.1)])
def test_a_layer_as_activation_is_a_node(activation):
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(3, activation=activation())(x))
    if not model.layers[-1].activation.built:
        model.layers[-1].activation.build((None, 3))
    graph = assert_all_passes(model)["fold"]
    assert kinds(graph) == [Kind.AFFINE, Kind.ACTIVATION]


@pytest.mark.parametrize("dims", [1, 2])
def test_a_separable_convolution_becomes_two_affine_nodes(dims):
    layer = getattr(L, f"SeparableConv{dims}D")(3, 2, depth_multiplier=2, strides=2, padding="same", activation="relu")
    graph = assert_all_passes(chain((5, 5, 2)[-dims - 1:], layer))["fold"]
    assert kinds(graph) == [Kind.AFFINE, Kind.AFFINE, Kind.ACTIVATION]
    assert [n.name.rsplit("/", 1)[1] for n in graph.nodes] == ["depthwise", "pointwise", "relu"]
    assert graph.specs[graph.nodes[0].outputs[0]].shape[-1] == 4  # 2 channels times multiplier 2
    assert graph.nodes[0].call.bias(ops.zeros((1, *(5,) * dims, 2))) is None


def doubled(x):
    return 2.0 * ops.relu(x)


def tf_softsign(x):
    return tf.nn.softsign(x)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (doubled, ["relu", "multiply"]), (swish_like, ["multiply", "sigmoid", "multiply"]),
        (lambda x: keras.activations.relu(x, negative_slope=0.2) + 1.0, ["relu", "add"]),
        (lambda x: swish_like(doubled(x)), ["relu", "multiply", "multiply", "sigmoid", "multiply"]),
        (tf_softsign, ["custom:tf_softsign"]),
        (lambda x: x, ["custom:<lambda>"]),
    ],
)
def test_open_custom_functions(function, wanted):
    for model in (chain((4,), L.Dense(3, activation=function)), chain((4,), L.Dense(3), L.Activation(function))):
        graph = assert_all_passes(model)["fold"]
        found = [facts.activation_key(n) for n in graph.nodes[1:]]
        assert found == wanted or (found == ["leaky_relu", "add"] and wanted == ["relu", "add"])
        assert {n.layers for n in graph.nodes[1:]} == {graph.nodes[-1].layers}


def test_keras_own_activations_are_not_opened():
    graph = passes.canonical(traced(chain((4,), L.Dense(3, activation="gelu"), L.Activation("silu"))))
    assert [facts.activation_key(n) for n in graph.nodes] == ["Dense", "gelu", "silu"]


# --- affine_operations --------------------------------------------------------------------------------------------

W, B = np.linspace(-1, 1, 12).reshape(4, 3), np.array([0.5, -1.0, 2.0])


class Linear(L.Layer):
    """A user's dense layer."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.b = self.add_weight(shape=(3,), name="b")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b


def own_linear(x):
    return Linear()(x)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: ops.matmul(x, W) + B, (4,)), (lambda x: ops.add(B, x @ W), (4,)), (lambda x: x @ W, (5, 4)),
        (lambda x: ops.einsum("bti,ij->btj", x, W) + B, (5, 4)), (lambda x: ops.dot(x, W) + 1.0, (4,)),
        (lambda x: ops.tensordot(x, W, axes=[[2], [0]]) + np.ones((5, 3)), (5, 4)),
        (lambda x: ops.matmul(W.T[None], x), (4, 2)), (own_linear, (5, 4)),
        (lambda x: ops.conv(x, W.reshape(2, 2, 3), strides=1, padding="same") + B, (5, 2)),
        (lambda x: ops.depthwise_conv(x, W.reshape(2, 2, 3), padding="valid"), (5, 2)),
    ],
)
def test_products_with_constants_are_one_affine_node(function, shape):
    x = keras.Input(shape)
    graph = assert_all_passes(keras.Model(x, function(x)))["fold"]
    assert kinds(graph) == [Kind.AFFINE]


def test_a_sum_that_changes_the_shape_is_no_bias():
    x = keras.Input((4,))
    graph = assert_all_passes(keras.Model(x, ops.matmul(x, W) + np.ones((2, 1, 3))))["fold"]
    assert kinds(graph)[0] is Kind.AFFINE and len(graph.nodes) == 2


def test_a_product_with_other_readers_keeps_its_own_value():
    x = keras.Input((4,))
    z = ops.matmul(x, W)
    graph = assert_all_passes(keras.Model(x, (z + B) * ops.tanh(z)))["fold"]
    assert kinds(graph) == [Kind.AFFINE, Kind.RESCALE, Kind.ACTIVATION, Kind.PRODUCT]
    graph = assert_all_passes(keras.Model(x, [z, z + B]))["fold"]  # also where the reader is the model's user
    assert kinds(graph) == [Kind.AFFINE, Kind.RESCALE]


def test_a_product_of_two_inputs_is_not_affine():
    a, b = keras.Input((4, 3)), keras.Input((3, 2))
    graph = assert_all_passes(keras.Model([a, b], ops.matmul(a, b)))["fold"]
    assert kinds(graph) == [Kind.PRODUCT]
    graph = assert_all_passes(keras.Model(a, ops.matmul(a, ops.transpose(a, (0, 2, 1)))))["fold"]
    assert kinds(graph) == [Kind.SHAPE, Kind.PRODUCT]


COSINES = {"one axis": ((4, 3), (4, 3), -1), "two axes": ((4, 3), (3, 5), (2, 1)), "vectors": ((6,), (6,), 1)}


@pytest.mark.parametrize("name", COSINES)
def test_a_cosine_is_two_normalisations_and_a_product(name):
    first, second, axes = COSINES[name]
    a, b = keras.Input(first), keras.Input(second)
    graphs = assert_all_passes(keras.Model([a, b], L.Dot(axes, normalize=True)([a, b])))
    assert kinds(graphs["linear"]) == [Kind.NORM, Kind.NORM, Kind.PRODUCT]


@pytest.mark.filterwarnings("ignore:DeepLIFT:innv_ext.errors.ApproximationWarning")  # a norm jumps at a reference of 0
@pytest.mark.parametrize("name", ["lrp.epsilon", "deep_lift", "gradient", "l_rde"])
def test_a_cosine_is_explained_as_its_parts_are(name):
    """A Siamese net with Dot(normalize=True), and with UnitNormalization in front of Dot."""
    keras.utils.set_random_seed(0)
    a, b, unit, dense = keras.Input((6,)), keras.Input((6,)), L.UnitNormalization(), L.Dense(4)
    one = keras.Model([a, b], L.Dot(-1, normalize=True)([dense(a), dense(b)]))
    two = keras.Model([a, b], L.Dot(-1)([unit(dense(a)), unit(dense(b))]))
    x = [np.random.default_rng(k).normal(size=(2, 6)).astype("float32") for k in (0, 1)]
    found = [zoo.create(name, model, x).analyze(x) for model in (one, two)]
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5 * np.abs(second).max())


# --- batch normalisation ------------------------------------------------------------------------------------------


def bn(**kwargs):
    return L.BatchNormalization(**kwargs)


FOLDED = {
    "after_dense": lambda: chain((4,), L.Dense(3), bn(), L.ReLU()),
    "after_dense_without_bias": lambda: chain((4,), L.Dense(3, use_bias=False), bn()),
    "after_dense_axis_1": lambda: chain((4,), L.Dense(3), bn(axis=1)),
    "after_dense_on_a_sequence": lambda: chain((5, 4), L.Dense(3), bn()),
    "after_conv1d": lambda: chain((5, 2), L.Conv1D(3, 2), bn(), L.ReLU()),
    "after_conv1d_causal": lambda: chain((5, 2), L.Conv1D(3, 2, padding="causal"), bn()),
    "after_conv2d": lambda: chain((4, 4, 2), L.Conv2D(3, 2, padding="same"), bn()),
    "after_conv3d": lambda: chain((3, 3, 3, 2), L.Conv3D(3, 2), bn()),
    "after_depthwise1d": lambda: chain((5, 2), L.DepthwiseConv1D(2, depth_multiplier=3), bn()),
    "after_depthwise2d": lambda: chain((4, 4, 2), L.DepthwiseConv2D(2, depth_multiplier=3), bn()),
    "after_separable1d": lambda: chain((5, 2), L.SeparableConv1D(3, 2, depth_multiplier=2), bn()),
    "after_separable2d": lambda: chain((4, 4, 2), L.SeparableConv2D(3, 2), bn()),
    "after_transpose1d": lambda: chain((5, 2), L.Conv1DTranspose(3, 2, strides=2), bn()),
    "after_transpose2d": lambda: chain((4, 4, 2), L.Conv2DTranspose(3, 3, strides=2, padding="same"), bn()),
    "after_transpose3d": lambda: chain((3, 3, 3, 2), L.Conv3DTranspose(3, 2), bn()),
    "after_einsum": lambda: chain((5, 4), L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), bn()),
    "after_einsum_heads": lambda: chain((5, 4), L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), bn()),
    "before_dense": lambda: chain((4,), bn(), L.Dense(3, "relu")),
    "before_dense_without_bias": lambda: chain((4,), bn(), L.Dense(3, use_bias=False)),
    "before_dense_on_a_sequence": lambda: chain((5, 4), bn(), L.Dense(3)),
    "before_conv1d_causal": lambda: chain((5, 2), bn(), L.Conv1D(3, 2, padding="causal", dilation_rate=2)),
    "before_conv2d_same": lambda: chain((4, 4, 2), bn(), L.Conv2D(3, 3, padding="same")),
    "before_conv2d_strided_same": lambda: chain((5, 4, 2), bn(), L.Conv2D(3, 3, strides=2, padding="same")),
    "before_conv3d": lambda: chain((3, 3, 3, 2), bn(), L.Conv3D(3, 2, padding="same", use_bias=False)),
    "before_depthwise2d": lambda: chain((4, 4, 2), bn(), L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)),
    "before_separable2d": lambda: chain((4, 4, 2), bn(), L.SeparableConv2D(3, 3, padding="same")),
    "before_transpose2d_same": lambda: chain((4, 4, 2), bn(), L.Conv2DTranspose(3, 3, strides=2, padding="same")),
    "without_scale": lambda: chain((4,), L.Dense(3), bn(scale=False)),
    "without_center": lambda: chain((4,), L.Dense(3), bn(center=False)),
    "without_both": lambda: chain((4,), bn(center=False, scale=False), L.Dense(3)),
    "two_in_a_row_after": lambda: chain((4,), L.Dense(3), bn(), bn()),
    "between_two_dense": lambda: chain((4,), L.Dense(3), bn(), L.Dense(2)),
    "around_dense": lambda: chain((4,), bn(), L.Dense(3), bn(), L.ReLU()),
}
KEPT = {  # models with batch normalisation that has no affine neighbour of its own: how many stay elementwise
    "alone": (1, lambda: chain((4,), bn())),
    "behind_relu_at_the_output": (1, lambda: chain((4,), L.Dense(3, "relu"), bn())),
    "axis_1_of_a_sequence": (1, lambda: chain((5, 4), L.Dense(3), bn(axis=1))),
    "axis_1_before_conv2d": (1, lambda: chain((5, 4, 2), bn(axis=1), L.Conv2D(3, 2))),
    "axis_2_before_conv2d": (1, lambda: chain((5, 4, 2), bn(axis=2), L.Conv2D(3, 2))),
    "before_einsum": (1, lambda: chain((5, 4), bn(), L.EinsumDense("abc,cd->abd", (None, 3)))),
    "after_einsum_that_moves_axes": (1, lambda: chain((5, 4), L.EinsumDense("abc,cd->adb", (3, 5)), bn())),
    "before_pooling": (1, lambda: chain((4, 4, 2), L.ReLU(), bn(), L.MaxPooling2D(2), L.Conv2D(3, 2))),
    "before_padding": (1, lambda: chain((4, 4, 2), bn(), L.ZeroPadding2D(1), L.Conv2D(3, 2))),
}


@pytest.mark.parametrize("name", zoo.thinned(FOLDED))
def test_batchnorm_is_folded_into_its_affine_neighbour(name):
    forms = assert_all_passes(FOLDED[name]())
    assert count(forms["fold"], Kind.BATCHNORM) == 0
    before = sum(op_key(n.op) == "BatchNormalization" for n in forms["split_separable"].nodes)
    assert count(forms["linear"], Kind.BATCHNORM) == count(forms["hui_binder"], Kind.BATCHNORM) == before
    assert count(forms["two_linear"], Kind.BATCHNORM) == 2 * before
    assert count(forms["fold"], Kind.AFFINE) == count(forms["linear"], Kind.AFFINE)


@pytest.mark.parametrize("name", KEPT)
def test_batchnorm_without_an_affine_neighbour_stays_elementwise(name):
    kept, build = KEPT[name]
    assert count(assert_all_passes(build())["fold"], Kind.BATCHNORM) == kept


@pytest.mark.parametrize(("place", "kept"), [("after", 0), ("before", 1)])
def test_grouped_convolutions_take_batchnorm_behind_them_only(place, kept):
    """In front, each group sees its own channels only, so the kernel has no axis for all of them."""
    conv = L.Conv2D(6, 2, groups=2)  # compiled by Keras at each call on a CPU: one mode is enough
    model = randomise(chain((4, 4, 4), *([conv, bn()] if place == "after" else [bn(), conv])))
    graph = passes.canonical(traced(model), passes.Form("fold"))
    assert count(graph, Kind.BATCHNORM) == kept
    xs = feed(graph)
    assert_computes(graph, xs, expected(model, xs))


def test_batchnorm_with_channels_first():
    """axis=1 behind a convolution with channels first is its channel axis."""
    conv = L.Conv2D(3, 2, padding="same", data_format="channels_first")
    model = chain((2, 5, 4), conv, bn(axis=1), L.ReLU())
    try:
        expected(model, feed(traced(model)))
    except Exception as error:
        pytest.skip(f"this build of TensorFlow has no such convolution: {type(error).__name__}")
    assert count(assert_all_passes(model)["fold"], Kind.BATCHNORM) == 0
    after = L.Conv2D(3, 3, padding="same", data_format="channels_first")
    assert count(assert_all_passes(chain((2, 5, 4), bn(axis=1), after))["fold"], Kind.BATCHNORM) == 0
    last = chain((2, 5, 4), L.Conv2D(3, 2, data_format="channels_first"), bn(axis=-1))
    assert count(assert_all_passes(last)["fold"], Kind.BATCHNORM) == 1
    separable = L.SeparableConv2D(3, 2, data_format="channels_first", activation="relu")
    assert count(assert_all_passes(chain((2, 5, 4), separable, bn(axis=1), L.ReLU()))["fold"], Kind.BATCHNORM) == 1


def test_folding_gives_the_hand_folded_kernel_and_bias():
    model = randomise(chain((4,), L.Dense(3), bn(epsilon=0.1)))
    dense, norm = model.layers[1:]
    gamma, beta, mean, variance = (np.asarray(v) for v in norm.weights)
    factor = gamma / np.sqrt(variance + 0.1)
    (node,) = passes.canonical(traced(model), passes.Form("fold")).nodes
    np.testing.assert_allclose(np.asarray(node.call.kernel()), np.asarray(dense.kernel) * factor, rtol=1e-12)
    bias = (np.asarray(dense.bias) - mean) * factor + beta
    np.testing.assert_allclose(np.asarray(node.call.bias(ops.zeros((1, 4)))), bias, rtol=1e-12)


def test_two_linear_normalises_then_scales():
    model = randomise(chain((4,), bn(epsilon=0.1)))
    gamma, beta, mean, variance = (np.asarray(v) for v in model.layers[1].weights)
    graph = passes.canonical(traced(model), passes.Form("two_linear"))
    assert [n.name.rsplit("/", 1)[1] for n in graph.nodes] == ["normalise", "scale"]
    xs = feed(graph)
    env = walk.forward(graph, xs)
    normalised = (np.asarray(xs[0]) - mean) / np.sqrt(variance + 0.1)
    np.testing.assert_allclose(np.asarray(env.ys[0][0]), normalised, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(graph.nodes[1].call.kernel()), gamma, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(env.ys[1][0]), normalised * gamma + beta, rtol=1e-10)


def test_batchnorm_behind_an_addition_stays_elementwise_unless_a_layer_follows():
    x = keras.Input((4,))
    total = L.Add()([L.Dense(3)(x), L.Dense(3)(x)])
    assert count(assert_all_passes(keras.Model(x, L.ReLU()(bn()(total))))["fold"], Kind.BATCHNORM) == 1
    assert count(assert_all_passes(keras.Model(x, L.Dense(2)(bn()(total))))["fold"], Kind.BATCHNORM) == 0


def test_batchnorm_with_several_readers():
    x = keras.Input((4,))
    h = bn()(L.ReLU()(x))
    two = keras.Model(x, L.Add()([L.Dense(2)(h), L.Dense(2)(h)]))
    assert count(assert_all_passes(two)["fold"], Kind.BATCHNORM) == 0  # goes into both
    mixed = keras.Model(x, L.Concatenate()([L.Dense(2)(h), ops.tanh(h)]))
    assert count(assert_all_passes(mixed)["fold"], Kind.BATCHNORM) == 1  # tanh needs its value
    output = keras.Model(x, [h, L.Dense(2)(h)])
    assert count(assert_all_passes(output)["fold"], Kind.BATCHNORM) == 1  # so does the user
    same = L.Dense(2)
    assert count(assert_all_passes(keras.Model(x, same(h) * same(h)))["fold"], Kind.BATCHNORM) == 0


def test_an_affine_layer_with_several_readers_is_not_changed_for_one_of_them():
    x = keras.Input((4,))
    z = L.Dense(3)(x)
    for outputs in (L.Concatenate()([bn()(z), ops.tanh(z)]), [z, bn()(z)], L.Add()([bn()(z), bn()(z)])):
        assert_all_passes(keras.Model(x, outputs))
    split = keras.Model(x, L.Add()([bn()(z), ops.tanh(z)]))
    assert count(assert_all_passes(split)["fold"], Kind.BATCHNORM) == 1


def test_shared_layers_are_folded_per_call():
    a, b = keras.Input((4,)), keras.Input((4,))
    dense, norm = L.Dense(4), bn()
    model = keras.Model([a, b], L.Subtract()([norm(dense(a)), norm(ops.tanh(norm(dense(b))))]))
    assert count(assert_all_passes(model)["fold"], Kind.BATCHNORM) == 1
    model = keras.Model([a, b], [norm(dense(a)), dense(b)])  # the second use has no normalisation behind it
    assert count(assert_all_passes(model)["fold"], Kind.BATCHNORM) == 0


@pytest.mark.parametrize("variance", [0.0, 1e-12, 1e12])
@pytest.mark.parametrize("place", ["after", "before"])
def test_extreme_variances(variance, place):
    layers = [L.Conv2D(3, 2, padding="same"), bn()] if place == "after" else [bn(), L.Conv2D(3, 2, padding="same")]
    model = randomise(chain((4, 4, 3), *layers))
    norm = next(layer for layer in model.layers if isinstance(layer, L.BatchNormalization))
    norm.moving_variance.assign(np.full(3, variance))
    graph = traced(model)
    xs = feed(graph)
    for mode in MODES:
        assert_computes(passes.canonical(graph, passes.Form(mode)), xs, expected(model, xs))


def test_batchnorm_that_a_keras_mask_reaches():
    x = keras.Input((6,), dtype="int32")
    h = L.Embedding(5, 3, mask_zero=True)(x)
    for model in (
        keras.Model(x, L.LSTM(2)(bn()(h))),
        keras.Model(x, L.GlobalAveragePooling1D()(bn()(L.Dense(4, "relu")(h)))),
        keras.Model(x, L.LSTM(2)(L.Dense(4)(bn()(h)))),
        keras.Model(x, L.LSTM(2)(bn()(L.Dense(4)(h)))),
    ):
        randomise(model)
        graph = traced(model)
        tokens = ops.convert_to_tensor(np.array([[1, 2, 0, 0, 3, 0], [4, 0, 0, 0, 0, 0]], "int32"))
        for mode in MODES:
            assert_computes(passes.canonical(graph, passes.Form(mode)), [tokens], expected(model, [tokens]))


def test_layer_slots_survive_folding():
    """Relevance per layer: the folded pair shares a slot, all others keep their value."""
    x = keras.Input((4,))
    h = L.ReLU(name="r")(bn(name="n1")(L.Dense(3, name="d1")(x)))
    model = randomise(keras.Model(x, L.Dense(2, name="d2")(bn(name="n2")(h))))
    graph = passes.canonical(traced(model), passes.Form("fold"))
    xs = feed(graph)
    slots = walk.forward(graph, xs).slots
    for layer, shown in {"d1": "n1", "n1": "n1", "r": "r", "n2": "r", "d2": "d2"}.items():
        value = keras.Model(model.input, model.get_layer(shown).output)(xs[0], training=False)
        np.testing.assert_allclose(np.asarray(slots[graph.layer_slots[layer]]), np.asarray(value), rtol=1e-10)


# --- cut_softmax --------------------------------------------------------------------------------------------------


def dense_then(last):
    x = keras.Input((4,))
    return keras.Model(x, last(L.Dense(3, name="logits")(x)))


def nested(last):
    i = keras.Input((4,))
    inner = keras.Model(i, L.Dense(3, last, name="head")(i), name="inner")
    x = keras.Input((4,))
    return keras.Model(x, keras.Sequential([keras.Input((4,)), inner], name="outer")(x))


def own_softmax(z):
    return ops.softmax(z / 2.0)


SOFTMAX, SIGMOID = keras.activations.softmax, keras.activations.sigmoid
CUT = {
    "fused": (lambda: chain((4,), L.Dense(3, "softmax")), SOFTMAX),
    "layer": (lambda: dense_then(L.Softmax()), SOFTMAX),
    "activation": (lambda: dense_then(L.Activation("softmax")), SOFTMAX),
    "operation": (lambda: dense_then(ops.softmax), SOFTMAX),
    "nested": (lambda: nested("softmax"), SOFTMAX),
    "sigmoid": (lambda: chain((4,), L.Dense(1, "sigmoid")), SIGMOID),
    "sigmoid_operation": (lambda: dense_then(ops.sigmoid), SIGMOID),
    "log_softmax": (lambda: dense_then(ops.log_softmax), ops.log_softmax),
    "behind_it_dropout": (lambda: chain((4,), L.Dense(3, "softmax"), L.Dropout(0.5), L.Identity()), SOFTMAX),
    "convolution": (lambda: chain((4, 4, 2), L.Conv2D(3, 1, activation="softmax")), SOFTMAX),
    "twice": (lambda: chain((4,), L.Dense(3, "softmax"), L.Softmax()), lambda z: SOFTMAX(SOFTMAX(z))),
    "users_function": (lambda: chain((4,), L.Dense(3, activation=own_softmax)), SOFTMAX),
    "batchnorm_before": (lambda: chain((4,), L.Dense(3), bn(), L.Softmax()), SOFTMAX),
}


@pytest.mark.parametrize("name", CUT)
def test_a_trailing_softmax_is_cut(name):
    build, squash = CUT[name]
    model = randomise(build())
    graph = passes.canonical(traced(model), passes.Form("fold"))
    cut, names = cut_softmax(graph)
    assert len(names) == (2 if name == "twice" else 1) and set(names) <= {n.name for n in graph.nodes}
    assert not set(names).intersection(n.name for n in cut.nodes)
    assert not {"softmax", "sigmoid", "Softmax"}.intersection(facts.activation_key(n) for n in cut.nodes)
    xs = feed(graph)
    (wanted,), (logits,) = expected(model, xs), walk.evaluate(cut, xs)
    assert np.abs(np.asarray(logits) - wanted).max() > 1e-3
    np.testing.assert_allclose(np.asarray(squash(logits)), wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", CUT)
def test_layer_slots_of_a_cut_layer_are_the_logits(name):
    graph = passes.canonical(traced(CUT[name][0]()), passes.Form("fold"))
    cut, _ = cut_softmax(graph)
    written = set(cut.inputs).union(*(n.outputs for n in cut.nodes))
    for layer, slot in graph.layer_slots.items():
        if slot == graph.outputs[0]:
            assert cut.layer_slots[layer] == cut.outputs[0]
        elif slot in written:
            assert cut.layer_slots[layer] == slot


def test_model_wo_softmax():
    model = randomise(nested("softmax"))
    logits = innv_ext.model_wo_softmax(model)
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(np.asarray(SOFTMAX(logits(x))), np.asarray(model(x)), rtol=1e-9)
    model.variables[0].assign(model.variables[0] * 2)  # the weights are shared, not copied
    np.testing.assert_allclose(np.asarray(SOFTMAX(logits(x))), np.asarray(model(x)), rtol=1e-9)
    plain = chain((4,), L.Dense(3, "relu"))
    assert innv_ext.model_wo_softmax(plain) is plain


@pytest.mark.parametrize(
    "model",
    [
        lambda: chain((4,), L.Dense(3, "softmax"), L.Dense(2)),
        lambda: dense_then(lambda z: ops.softmax(z) * 2.0),
        lambda: dense_then(lambda z: ops.concatenate([ops.softmax(z), z])),
        lambda: chain((4, 4, 2), L.Softmax(), L.ZeroPadding2D(1)),
        lambda: chain((4, 4, 2), L.Softmax(), L.UpSampling2D(2, interpolation="bilinear")),
        lambda: chain((4,), L.Dense(3, "tanh")),
        lambda: chain((4,), L.Dense(3, "softmax"), L.ReLU()),
        lambda: chain((4,), L.Dense(3), L.Identity()),
    ],
)
def test_nothing_else_is_cut(model):
    graph = passes.canonical(traced(model()))
    cut, names = cut_softmax(graph)
    assert cut is graph and names == ()


MOVED = {
    "flatten": ((4, 4, 2), L.Flatten()),
    "permute": ((4, 4, 2), L.Permute((3, 1, 2))),
    "crop": ((4, 4, 2), L.Cropping2D(1)),
    "up_sampling": ((4, 4, 2), L.UpSampling2D(2)),
    "heads": ((4,), lambda p: L.Concatenate()([p, L.Reshape((2, 2))(p)[:, 0]])),
    "slice": ((4,), lambda p: p[:, 1:]),
    "dropout": ((4, 2), lambda p: L.Dropout(0.5)(L.Reshape((16,))(p))),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_softmax_whose_values_are_only_moved_is_cut(name):
    """Against the model without it; the softmax itself stays where something else reads it."""
    shape, move = MOVED[name]
    x = keras.Input(shape)
    z = L.Dense(4)(x)
    model = randomise(keras.Model(x, [move(L.Softmax()(z)), move(z)]))
    graph = passes.canonical(traced(model))
    cut, names = cut_softmax(graph)
    assert names and "Softmax" not in keys(cut)
    found = walk.evaluate(cut, feed(graph))
    np.testing.assert_array_equal(np.asarray(found[0]), np.asarray(found[1]))
    assert cut_softmax(graph, moved=False) == (graph, ())


@pytest.mark.parametrize("joined_first", [True, False])
def test_what_is_joined_with_other_values_here_may_be_cut_elsewhere(joined_first):
    """The moved softmax is an output of its own, and part of one that stays as it is."""
    x = keras.Input((4,))
    z = L.Dense(4)(x)
    p = L.Softmax(name="p")(z)
    moved = L.Reshape((2, 2))(p)
    joined = L.Concatenate()([L.Flatten()(moved), z])
    outputs = [joined, moved] if joined_first else [moved, joined]
    model = randomise(keras.Model(x, outputs))
    graph = passes.canonical(traced(model))
    cut, names = cut_softmax(graph)
    xs = feed(graph)
    found = dict(zip(("joined", "moved") if joined_first else ("moved", "joined"), walk.evaluate(cut, xs), strict=True))
    whole = dict(zip(("joined", "moved") if joined_first else ("moved", "joined"), expected(model, xs), strict=True))
    np.testing.assert_allclose(np.asarray(found["joined"]), whole["joined"], rtol=1e-9)
    logits = np.asarray(found["joined"])[:, 4:]
    np.testing.assert_allclose(np.asarray(found["moved"]).reshape(-1, 4), logits, rtol=1e-9)
    assert names == ("p",)


def test_several_outputs_are_cut_each_on_its_own():
    x = keras.Input((4,))
    h = L.Dense(5, "relu")(x)
    z = L.Dense(3)(h)
    p = L.Softmax()(z)
    gated = L.Dense(2)(p)  # here the softmax stands in the middle
    model = randomise(keras.Model(x, [p, L.Dense(1, "sigmoid")(h), z, gated, L.Dense(2, "tanh")(h)]))
    graph = passes.canonical(traced(model))
    cut, names = cut_softmax(graph)
    assert len(names) == 2
    xs = feed(graph)
    wanted, found = expected(model, xs), [np.asarray(y) for y in walk.evaluate(cut, xs)]
    np.testing.assert_allclose(np.asarray(SOFTMAX(found[0])), wanted[0], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(SIGMOID(found[1])), wanted[1], rtol=1e-9)
    for i in (2, 3, 4):
        np.testing.assert_allclose(found[i], wanted[i], rtol=1e-10)
    np.testing.assert_array_equal(found[0], found[2])


def test_a_model_that_is_nothing_but_softmax():
    x = keras.Input((4,))
    cut, names = cut_softmax(passes.canonical(traced(keras.Model(x, L.Softmax()(x)))))
    assert cut.nodes == () and cut.outputs == cut.inputs and len(names) == 1


# --- split_embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
def test_split_embeddings(mask):
    x, other = keras.Input((6,), dtype="int32"), keras.Input((3,))
    h = L.Add()([L.Embedding(5, 4, mask_zero=mask)(x), L.Embedding(5, 4)(x)])
    model = randomise(keras.Model([x, other], L.Concatenate()([L.LSTM(2)(h), other])))
    graph = passes.canonical(traced(model))
    head, main = passes.split_embeddings(graph)
    assert keys(head) == ["Embedding", "Embedding"] and "Embedding" not in keys(main)
    assert head.outputs == main.inputs and head.inputs == graph.inputs
    xs = [ops.convert_to_tensor(np.array([[1, 2, 0, 0, 0, 0]] * 2, "int32")), ops.ones((2, 3), dtype="float64")]
    found = walk.evaluate(main, walk.evaluate(head, xs))
    np.testing.assert_allclose(np.asarray(found[0]), expected(model, xs)[0], rtol=1e-10)


def test_split_embeddings_of_a_model_without_tokens():
    graph = passes.canonical(traced(chain((4,), L.Dense(3))))
    head, main = passes.split_embeddings(graph)
    assert head.nodes == () and head.outputs == graph.inputs == main.inputs and len(main.nodes) == 1


# --- check_equal --------------------------------------------------------------------------------------------------


def test_check_equal():
    a = np.array([1.0, -2.0])
    passes.check_equal([a], [a + 1e-7], "it", 1e-6)
    passes.check_equal([np.zeros(0)], [np.zeros(0)], "it", 1e-6)
    for other in (a + 1e-5, a[:1], np.array([1.0, np.nan]), a[None]):
        with pytest.raises(InnvError, match="it computes something else"):
            passes.check_equal([a], [other], "it", 1e-6)
    with_nan = np.array([1.0, np.nan, np.inf])  # a logarithm of the probe's negative values: the model yields it too
    passes.check_equal([with_nan], [with_nan + 1e-7], "it", 1e-6)
    for other in (np.array([1.0, np.nan, -np.inf]), np.array([1.0, 2.0, np.inf]), np.array([1.1, np.nan, np.inf])):
        with pytest.raises(InnvError):
            passes.check_equal([with_nan], [other], "it", 1e-6)
    with pytest.raises(InnvError):  # the scale is that of the largest value, not of each
        passes.check_equal([a, a], [a, a * 1.1], "it", 1e-6)


def test_the_four_modes_agree_on_a_deep_net():
    """Errors of folding would add up."""
    layers = itertools.chain.from_iterable((L.Conv1D(3, 2, padding="same"), bn(), L.ReLU()) for _ in range(8))
    model = randomise(chain((6, 3), *layers))
    for v in model.variables:
        if "variance" in v.path:
            v.assign(np.full(v.shape, 0.5))
    graph = traced(model)
    xs = feed(graph)
    for mode in MODES:
        assert_computes(passes.canonical(graph, passes.Form(mode)), xs, expected(model, xs))
