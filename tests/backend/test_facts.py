# ruff: noqa: PLW0108 - layers are made when a test runs, not when this file is imported
"""What the graph claims to know is true for sampled values, and it knows what it should."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

from innv_ext.backend import facts, passes, walk
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.tracing import trace


def canonical(model, mode="fold"):
    return passes.canonical(trace(model, facts.is_leaf), passes.Form(mode))


def randomise(model, seed=1):
    """Random weights of both signs and trained-looking statistics."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if keras.backend.standardize_dtype(v.dtype).startswith("float"):
            low, high = (0.3, 3.0) if "variance" in v.path else (-1.5, 1.5)
            v.assign(rng.uniform(low, high, v.shape))
    return model


def feed(graph, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for spec in (graph.specs[s] for s in graph.inputs):
        shape = (32, *spec.shape[1:])
        values = 2 * rng.normal(size=shape) if spec.dtype.startswith("float") else rng.integers(0, 3, shape)
        found.append(ops.convert_to_tensor(values.astype(spec.dtype)))
    return found


def assert_claims_hold(model):
    """Whatever is claimed to be non-negative is so on normal inputs; returns the graph."""
    graph = canonical(randomise(model))
    env = walk.forward(graph, feed(graph))
    for node, xs in zip(graph.nodes, env.xs, strict=True):
        assert len(node.nonnegative) == len(node.inputs)
        for flag, x in zip(node.nonnegative, xs, strict=True):
            assert not flag or float(np.min(np.asarray(x))) >= 0, f"{node.name} claims a non-negative input"
    return graph


def model_of(function, shape=(6,), inputs=1):
    """Something at the end reads the value, so that the claim is visible as a flag."""
    xs = [keras.Input(shape) for _ in range(inputs)]
    y = function(*xs)
    return keras.Model(xs, keras.layers.Identity(name="reader")(y))


def claim(function, shape=(6,), inputs=1):
    """Whether the output of ``function`` is claimed to be non-negative (and the claims are true)."""
    graph = assert_claims_hold(model_of(function, shape, inputs))
    (reader,) = [n for n in graph.nodes if n.name == "reader"]
    return reader.nonnegative == (True,)


# --- what is non-negative -----------------------------------------------------------------------------------------


class Half(L.Layer):
    def call(self, x):
        return ops.relu(x) * ops.sigmoid(x)


relu = ops.relu
IMAGE = (6, 6, 2)
YES = {
    "relu op": (relu, (6,)),
    "relu layer": (lambda x: L.ReLU()(x), (6,)),
    "relu activation": (lambda x: L.Activation("relu")(x), (6,)),
    "fused relu": (lambda x: L.Dense(3, "relu")(x), (6,)),
    "relu6": (ops.relu6, (6,)),
    "capped relu": (lambda x: L.ReLU(max_value=0.5)(x), (6,)),
    "relu with a positive threshold": (lambda x: L.ReLU(threshold=0.5)(x), (6,)),
    "maximum with zero": (lambda x: ops.maximum(x, 0.0), (6,)),
    "sigmoid": (ops.sigmoid, (6,)), "fused sigmoid": (lambda x: L.Dense(3, "sigmoid")(x), (6,)),
    "hard sigmoid": (ops.hard_sigmoid, (6,)), "softmax": (ops.softmax, (6,)),
    "softmax layer": (lambda x: L.Softmax()(x), (6,)),
    "softplus": (ops.softplus, (6,)), "exp": (ops.exp, (6,)), "square": (ops.square, (6,)), "abs": (ops.abs, (6,)),
    "squareplus": (ops.squareplus, (6,)), "sparsemax": (ops.sparsemax, (6,)),
    "max pooling": (lambda x: L.MaxPooling2D(2)(relu(x)), IMAGE),
    "max pooling, same": (lambda x: L.MaxPooling2D(3, 2, padding="same")(relu(x)), IMAGE),
    "average pooling": (lambda x: L.AveragePooling2D(2)(relu(x)), IMAGE),
    "average pooling, same": (lambda x: L.AveragePooling2D(3, 2, padding="same")(relu(x)), IMAGE),
    "global average pooling": (lambda x: L.GlobalAveragePooling2D()(relu(x)), IMAGE),
    "global max pooling": (lambda x: L.GlobalMaxPooling2D()(relu(x)), IMAGE),
    "adaptive pooling": (lambda x: L.AdaptiveAveragePooling2D(2)(L.AdaptiveMaxPooling2D(4)(relu(x))), IMAGE),
    "pooling ops": (lambda x: ops.average_pool(ops.max_pool(relu(x), 2), 2), IMAGE),
    "add": (lambda x: L.Add()([relu(x), ops.sigmoid(x)]), (6,)),
    "add op": (lambda x: relu(x) + ops.softplus(x), (6,)),
    "average": (lambda x: L.Average()([relu(x), ops.sigmoid(x)]), (6,)),
    "concatenate": (lambda x: L.Concatenate()([relu(x), ops.sigmoid(x)]), (6,)),
    "stack": (lambda x: ops.stack([relu(x), relu(-x)], axis=1), (6,)),
    "multiply": (lambda x: L.Multiply()([relu(x), ops.sigmoid(x)]), (6,)),
    "product with one gate": (lambda x: Half()(x), (6,)),
    "maximum of one": (lambda x: L.Maximum()([relu(x), x]), (6,)),
    "maximum op of one": (lambda x: ops.maximum(x, relu(-x)), (6,)),
    "minimum of both": (lambda x: L.Minimum()([relu(x), relu(-x)]), (6,)),
    "sum and mean": (lambda x: ops.sum(ops.mean(relu(x), axis=1), axis=1), IMAGE),
    "max": (lambda x: ops.max(relu(x), axis=1), IMAGE),
    "zero padding": (lambda x: L.ZeroPadding2D(1)(relu(x)), IMAGE),
    "cropping": (lambda x: L.Cropping2D(1)(relu(x)), IMAGE),
    "up-sampling": (lambda x: L.UpSampling2D(2)(relu(x)), IMAGE),
    "bilinear up-sampling": (lambda x: L.UpSampling2D(2, interpolation="bilinear")(relu(x)), IMAGE),
    "flatten": (lambda x: L.Flatten()(relu(x)), IMAGE),
    "reshape and permute": (lambda x: L.Permute((2, 1))(L.Reshape((12, 6))(relu(x))), IMAGE),
    "slice": (lambda x: relu(x)[:, 1:3], IMAGE),
    "transpose": (lambda x: ops.transpose(relu(x), (0, 2, 1, 3)), IMAGE),
    "repeat": (lambda x: L.RepeatVector(3)(relu(x)), (6,)),
    "dropout": (lambda x: L.Dropout(0.5)(relu(x)), (6,)),
    "identity": (lambda x: L.ActivityRegularization(0.1)(L.GaussianNoise(0.1)(relu(x))), (6,)),
    "chain": (lambda x: L.Flatten()(L.Add()([L.MaxPooling2D(2)(relu(x)), L.AveragePooling2D(2)(relu(x))])), IMAGE),
}


@pytest.mark.parametrize("name", YES)
def test_non_negative_slots_are_found(name):
    function, shape = YES[name]
    assert claim(function, shape)


def custom_leaky(x):
    return keras.activations.relu(x, negative_slope=0.1)


NO = {
    "input": (lambda x: x, (6,)),
    "dense": (lambda x: L.Dense(3)(relu(x)), (6,)),
    "convolution": (lambda x: L.Conv2D(3, 2)(relu(x)), IMAGE),
    "depthwise": (lambda x: L.DepthwiseConv2D(2)(relu(x)), IMAGE),
    "separable": (lambda x: L.SeparableConv2D(2, 2)(relu(x)), IMAGE),
    "transposed": (lambda x: L.Conv2DTranspose(2, 2)(relu(x)), IMAGE),
    "einsum": (lambda x: L.EinsumDense("abc,cd->abd", (6, 3))(relu(x)), (6, 2)),
    "matmul with weights": (lambda x: ops.matmul(relu(x), -np.ones((6, 3), "float32")), (6,)),
    "matmul with weights and a bias": (lambda x: ops.matmul(relu(x), -np.ones((6, 3), "float32")) + 1.0, (6,)),
    "einsum with weights": (lambda x: ops.einsum("bi,ij->bj", relu(x), -np.ones((6, 3), "float32")), (6,)),
    "inner product with weights": (lambda x: ops.inner(relu(x), -np.ones((3, 6), "float32")), (6,)),
    "kronecker product with weights": (lambda x: ops.kron(relu(x), -np.ones((1, 2), "float32")), (6,)),
    "batch normalisation": (lambda x: L.BatchNormalization()(relu(x)), (6,)),
    "layer normalisation": (lambda x: L.LayerNormalization()(relu(x)), (6,)),
    "leaky relu": (lambda x: L.LeakyReLU(0.1)(x), (6,)),
    "leaky relu op": (lambda x: ops.leaky_relu(x, 0.1), (6,)),
    "relu with a slope": (lambda x: L.ReLU(negative_slope=0.1)(x), (6,)),
    "relu function with a slope": (custom_leaky, (6,)),
    "fused function with a slope": (lambda x: L.Dense(3, activation=custom_leaky)(x), (6,)),
    "activation of a leaky layer": (lambda x: L.Activation(L.ReLU(negative_slope=0.1))(x), (6,)),
    "fused leaky layer": (lambda x: L.Dense(3, activation=L.ReLU(negative_slope=0.1))(x), (6,)),
    "prelu": (lambda x: L.PReLU(alpha_initializer="ones")(x), (6,)),
    "relu function with a negative threshold": (lambda x: keras.activations.relu(x, threshold=-1.0), (6,)),
    "tanh": (ops.tanh, (6,)), "elu": (ops.elu, (6,)), "gelu": (ops.gelu, (6,)), "silu": (ops.silu, (6,)),
    "log_softmax": (ops.log_softmax, (6,)), "hard tanh": (ops.hard_tanh, (6,)),
    "maximum with a negative constant": (lambda x: ops.maximum(x, -0.5), (6,)),
    "maximum with a constant array": (lambda x: ops.maximum(x, np.array([0, 0, 0, 0, 0, -1], "float32")), (6,)),
    "minimum with zero": (lambda x: ops.minimum(x, 0.0), (6,)),
    "minimum of one": (lambda x: L.Minimum()([relu(x), x]), (6,)),
    "minimum with a negative constant": (lambda x: ops.minimum(relu(x), -0.5), (6,)),
    "smallest with a negative initial value": (lambda x: ops.min(relu(x), axis=1, initial=-1.0), (6,)),
    "clip": (lambda x: ops.clip(relu(x), -1.0, -0.5), (6,)),
    "add of one": (lambda x: L.Add()([relu(x), x]), (6,)),
    "concatenate of one": (lambda x: L.Concatenate()([relu(x), x]), (6,)),
    "multiply of one": (lambda x: relu(x) * x, (6,)),
    "subtract": (lambda x: L.Subtract()([relu(x), ops.sigmoid(x)]), (6,)),
    "subtract op": (lambda x: relu(x) - ops.sigmoid(x), (6,)),
    "minus a constant": (lambda x: relu(x) - 1.0, (6,)),
    "plus a negative constant": (lambda x: relu(x) + (-1.0), (6,)),
    "times a negative constant": (lambda x: relu(x) * -1.0, (6,)),
    "divided by a negative constant": (lambda x: relu(x) / -2.0, (6,)),
    "negative": (lambda x: -relu(x), (6,)),
    "rescaling": (lambda x: L.Rescaling(-1.0)(x), (6,)),
    "rescaling of relu": (lambda x: L.Rescaling(1.0, offset=-1.0)(relu(x)), (6,)),
    "normalization": (lambda x: L.Normalization(mean=[1.0] * 6, variance=[1.0] * 6)(relu(x)), (6,)),
    "padding with a negative constant": (lambda x: ops.pad(relu(x), [(0, 0), (1, 1)], constant_values=-1.0), (6,)),
    "concatenated with a constant": (lambda x: ops.concatenate([relu(x), -np.ones((32, 1), "float32")], 1), (6,)),
    "stacked with a constant": (lambda x: ops.append(relu(x), -np.ones((32, 1), "float32"), axis=1), (6,)),
    "added constant in a list": (lambda x: L.Add()([relu(x), -ops.ones((1, 6))]), (6,)),
    "multiplied constant in a list": (lambda x: L.Multiply()([relu(x), -ops.ones((1, 6))]), (6,)),
    "weighted average": (lambda x: ops.average(relu(x), axis=1, weights=np.array([3, -1, -1], "float32")), (3,)),
    "bicubic up-sampling": (lambda x: L.UpSampling2D(2, interpolation="bicubic")(relu(x)), IMAGE),
    "bicubic resizing": (lambda x: ops.image.resize(relu(x), (9, 9), interpolation="bicubic"), IMAGE),
    "bicubic resizing layer": (lambda x: L.Resizing(9, 9, interpolation="lanczos3")(relu(x)), IMAGE),
    "resizing that fills up": (lambda x: L.Resizing(6, 9, pad_to_aspect_ratio=True, fill_value=-1.0)(relu(x)), IMAGE),
    "differences": (lambda x: ops.diff(relu(x)), (6,)),
    "cumulated input": (lambda x: ops.cumsum(x, axis=1), (6,)),
    "where": (lambda x: ops.where(x > 0, relu(x), -1.0), (6,)),
    "max pooling of the input": (lambda x: L.MaxPooling2D(2)(x), IMAGE),
    "log of softmax": (lambda x: ops.log(ops.softmax(x)), (6,)),
    "sine of relu": (lambda x: ops.sin(relu(x)), (6,)),
    "recurrent": (lambda x: L.GRU(3)(relu(x)), (6, 2)),
}


@pytest.mark.parametrize("name", NO)
def test_what_may_be_negative_is_not_claimed(name):
    function, shape = NO[name]
    assert not claim(function, shape)


def test_integer_and_embedded_inputs_are_not_claimed():
    x = keras.Input((4,), dtype="int32")
    graph = assert_claims_hold(keras.Model(x, L.Dense(2)(L.Flatten()(L.Embedding(5, 3)(x)))))
    assert not any(any(n.nonnegative) for n in graph.nodes)


def test_flags_are_per_input():
    x = keras.Input((4,))
    total = L.Add()([L.Dense(3, "relu")(x), L.Dense(3)(x), L.Dense(3, "sigmoid")(x)])
    graph = assert_claims_hold(keras.Model(x, total))
    assert graph.nodes[-1].nonnegative == (True, False, True)


def test_weights_after_training_do_not_matter():
    """The flags are symbolic: no value of the weights may turn them wrong."""
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2)(L.Dense(3, "relu")(L.BatchNormalization()(L.Dense(3, "relu")(x)))))
    for seed in range(3):
        graph = assert_claims_hold(randomise(model, seed))
    affine = [n for n in graph.nodes if n.kind is Kind.AFFINE]
    assert [n.nonnegative for n in affine] == [(False,), (True,), (True,)]  # the middle one has swallowed the BN


# --- random graphs ------------------------------------------------------------------------------------------------

UNARY = [
    relu, ops.tanh, ops.sigmoid, ops.softmax, ops.leaky_relu, ops.exp, ops.square, ops.relu6, ops.negative,
    lambda x: keras.activations.relu(x, threshold=-0.5), lambda x: L.ReLU(threshold=0.2)(x), lambda x: L.LeakyReLU()(x),
    lambda x: L.ReLU(negative_slope=0.1)(x), lambda x: x - 0.5, lambda x: x * 2.0,
    lambda x: ops.maximum(x, 0.0), lambda x: ops.maximum(x, -1.0), lambda x: ops.minimum(x, 1.0), lambda x: x[:, ::-1],
    lambda x: L.Dense(4)(x), lambda x: L.Dense(4, "relu")(x), lambda x: L.BatchNormalization()(x),
    lambda x: L.BatchNormalization(scale=False)(x), lambda x: L.LayerNormalization()(x), lambda x: L.Dropout(0.5)(x),
    lambda x: L.MaxPooling1D(2, 1, padding="same")(x), lambda x: L.AveragePooling1D(2, 1, padding="same")(x),
    lambda x: L.Cropping1D((1, 0))(L.ZeroPadding1D((0, 1))(x)), lambda x: ops.roll(x, 1, axis=1),
    lambda x: L.Conv1D(4, 2, padding="same")(x), lambda x: ops.cumsum(x, axis=1), lambda x: x / (1.0 + ops.exp(x)),
    lambda x: x * ops.mean(x, axis=1, keepdims=True), lambda x: ops.matmul(x, ops.ones((4, 4)) - 2 * ops.eye(4)),
    lambda x: ops.clip(x, -0.5, 0.5), lambda x: ops.abs(x), lambda x: x ** 2, lambda x: x ** 3.0,
]
BINARY = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, ops.maximum, ops.minimum,
    lambda a, b: L.Add()([a, b]), lambda a, b: L.Subtract()([a, b]), lambda a, b: L.Average()([a, b]),
    lambda a, b: L.Multiply()([a, b]), lambda a, b: L.Maximum()([a, b]), lambda a, b: L.Minimum()([a, b]),
    lambda a, b: L.Concatenate(axis=1)([a[:, :2], b[:, 2:]]), lambda a, b: a / (1.0 + ops.square(b)),
    lambda a, b: ops.matmul(ops.softmax(ops.matmul(a, ops.transpose(b, (0, 2, 1)))), b),
    lambda a, b: ops.where(a > b, a, b),
]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_claims_hold_on_random_graphs(data):
    x = keras.Input((4, 4))
    values = [x]
    for _ in range(data.draw(st.integers(3, 8))):
        pick = st.sampled_from(values)
        if data.draw(st.booleans()):
            values.append(data.draw(st.sampled_from(UNARY))(data.draw(pick)))
        else:
            values.append(data.draw(st.sampled_from(BINARY))(data.draw(pick), data.draw(pick)))
    assert_claims_hold(keras.Model(x, [L.Identity()(v) for v in values[1:]]))


# --- first --------------------------------------------------------------------------------------------------------


def first(model, mode="fold"):
    return {n.name for n in canonical(model, mode).nodes if n.first}


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.parametrize(
    ("shape", "before"),
    [
        ((6,), lambda: []),
        ((6,), lambda: [L.Rescaling(2.0)]),
        ((6,), lambda: [L.Normalization(mean=0.5, variance=2.0), L.Reshape((3, 2))]),
        (IMAGE, lambda: [L.ZeroPadding2D(1), L.Cropping2D(1), L.Permute((2, 1, 3)), L.Flatten()]),
        ((6,), lambda: [L.Identity(), L.Dropout(0.5), L.GaussianNoise(0.1)]),
        (IMAGE, lambda: [L.Reshape((12, 6)), L.UpSampling1D(2)]),
        ((6,), lambda: [L.Lambda(lambda x: (x - 0.5) / 0.25), L.Lambda(lambda x: -x[:, 1:])]),
    ],
)
def test_the_first_affine_node_is_found_through_what_only_moves_and_rescales(shape, before):
    model = sequential(shape, *before(), L.Dense(3, "relu", name="d"), L.Dense(2, name="later"))
    assert first(model) == {"d"}


def test_batchnorm_at_the_input_is_looked_through():
    for mode in ("fold", "linear", "two_linear"):
        assert first(sequential((6,), L.BatchNormalization(), L.Dense(3, name="d"), L.Dense(2)), mode) == {"d"}
        kept = sequential((5, 6), L.BatchNormalization(axis=1), L.Dense(3, name="d"), L.Dense(2))
        assert first(kept, mode) == {"d"}


def test_a_non_linearity_hides_the_input():
    assert first(sequential((6,), L.ReLU(), L.Dense(3))) == set()


def test_every_path_from_an_input_has_its_first_affine_node():
    x, y = keras.Input((6,)), keras.Input((4,))
    a = L.Dense(3, "relu", name="a")(x)
    b = L.Dense(3, "relu", name="b")(L.Rescaling(2.0)(y))
    c = L.Dense(3, name="c")(L.Concatenate()([a, y]))  # reads the input and a hidden layer
    d = L.Dense(3, name="d")(L.Concatenate()([a, b]))
    assert first(keras.Model([x, y], L.Add()([c, d]))) == {"a", "b", "c"}


def test_first_of_shared_and_nested_layers():
    inner = sequential((6,), L.Dense(6, "relu", name="one"), L.Dense(6, name="two"))
    inner.name = "inner"
    x = keras.Input((6,))
    assert first(keras.Model(x, inner(inner(x)))) == {"inner/one"}


def test_both_halves_of_a_separable_convolution_are_not_first():
    assert first(sequential(IMAGE, L.SeparableConv2D(3, 2, name="s"))) == {"s/depthwise"}


# --- kinds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x + 1.0, Kind.RESCALE), (lambda x: 1.0 - x, Kind.RESCALE), (lambda x: x * 2.0, Kind.RESCALE),
        (lambda x: x / 2.0, Kind.RESCALE), (lambda x: 2.0 / x, Kind.OPAQUE), (lambda x: -x, Kind.RESCALE),
        (lambda x: x + np.ones(6, "float32"), Kind.RESCALE), (lambda x: x + x, Kind.LINEAR),
        (lambda x: x - x, Kind.LINEAR),
        (lambda x: x * x, Kind.PRODUCT), (lambda x: x / x, Kind.PRODUCT),
        (lambda x: ops.maximum(x, 0.0), Kind.ACTIVATION),
        (lambda x: ops.maximum(x, x), Kind.MAX), (lambda x: x ** 2.0, Kind.ACTIVATION),
        (lambda x: ops.matmul(x, ops.ones((6, 2))), Kind.AFFINE), (lambda x: ops.sum(x, axis=1), Kind.LINEAR),
        (lambda x: ops.max(x, axis=1), Kind.MAX), (lambda x: x[:, 2:], Kind.SHAPE),
        (lambda x: ops.tanh(x), Kind.ACTIVATION),
        (lambda x: L.LayerNormalization()(x), Kind.NORM), (lambda x: L.BatchNormalization()(x), Kind.BATCHNORM),
        (lambda x: L.Dropout(0.5)(x), Kind.IDENTITY), (lambda x: ops.sort(x), Kind.SELECT),
        (lambda x: ops.cast(x, "float32"), Kind.IDENTITY), (lambda x: ops.floor(x), Kind.DISCRETE),
        (lambda x: L.Activation("gelu")(x), Kind.ACTIVATION), (lambda x: ops.stop_gradient(x), Kind.IDENTITY),
        (lambda x: L.Dense(2)(x), Kind.AFFINE), (lambda x: L.Activation("linear")(x), Kind.IDENTITY),
    ],
)
def test_kinds(function, kind):
    x = keras.Input((6,))
    (node,) = canonical(keras.Model(x, function(x))).nodes
    assert node.kind is kind


def test_kinds_of_products_of_matrices():
    a, b = keras.Input((4, 3)), keras.Input((3, 2))
    for product in (ops.matmul(a, b), ops.einsum("bij,bjk->bik", a, b), L.Dot(axes=(2, 1))([a, b])):
        assert canonical(keras.Model([a, b], product)).nodes[-1].kind is Kind.PRODUCT


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (relu, True), (lambda x: L.ReLU(max_value=6)(x), True), (lambda x: L.LeakyReLU()(x), True),
        (lambda x: L.PReLU()(x), True), (ops.relu6, True),
        (lambda x: ops.maximum(x, 0), True), (lambda x: ops.maximum(0.0, x), True),
        (lambda x: L.Activation("relu")(x), True),
        (lambda x: L.Dense(2, "relu")(x), True), (lambda x: L.Dense(2, activation=L.LeakyReLU())(x), True),
        (lambda x: keras.activations.leaky_relu(x), True), (lambda x: ops.maximum(x, 1.0), False), (ops.elu, False),
        (ops.tanh, False), (ops.gelu, False), (lambda x: L.Activation("sigmoid")(x), False),
        (lambda x: L.MaxPooling1D(1)(x), False),
    ],
)
def test_relu_like(function, wanted):
    x = keras.Input((6, 2))
    assert facts.is_relu_like(canonical(keras.Model(x, function(x))).nodes[-1]) is wanted


# --- the signal of a product --------------------------------------------------------------------------------------


def signal(function, *shapes):
    """The op_key of what feeds the signal input of the last product, or None."""
    xs = [keras.Input(s) for s in shapes]
    graph = canonical(keras.Model(xs, function(*xs)))
    node = [n for n in graph.nodes if n.kind is Kind.PRODUCT][-1]
    if len(node.signal) != 1:
        return None
    source = graph.producer().get(node.inputs[node.signal[0]])
    return "input" if source is None else source.name if source.name in ("v", "s") else op_key(source.op)


def squeeze_excite(x):
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    return L.Multiply()([L.Conv2D(2, 1, activation="sigmoid")(s), L.ReLU()(x)])


def attention(x):
    q, k, v = L.Dense(3)(x), L.Dense(3)(x), L.Dense(3, name="v")(x)
    return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 3.0), v)


@pytest.mark.parametrize(
    ("function", "shapes", "wanted"),
    [
        (lambda x: x * ops.sigmoid(x), [(6,)], "input"), (lambda x: ops.sigmoid(x) * x, [(6,)], "input"),
        (lambda x: ops.tanh(L.Dense(6)(x)) * L.ReLU()(x), [(6,)], "ReLU"),
        (lambda x: ops.hard_sigmoid(x) * ops.gelu(x), [(6,)], "gelu"),
        (lambda x: L.Multiply()([ops.reshape(ops.sigmoid(x), (-1, 6)), ops.sin(x)]), [(6,)], "sin"),
        (lambda x: (1.0 - ops.sigmoid(x)) * ops.sin(x), [(6,)], "sin"),  # rescaling a gate leaves a gate
        (squeeze_excite, [(4, 4, 2)], "ReLU"),
        (lambda x: x * ops.mean(x, axis=1, keepdims=True), [(6,)], "input"),  # broadcast: not the signal
        (lambda x, y: L.Multiply()([L.Reshape((1, 2))(y), x]), [(5, 2), (2,)], "input"),
        (attention, [(5, 4)], "v"),
        (lambda x: x / ops.exp(x), [(6,)], "input"),
        (lambda x: x * x, [(6,)], None), (lambda x, y: x * y, [(6,), (6,)], None),
        # what a recurrent cell lets through: a tanh is a gate only where nothing else is
        (lambda x: ops.sigmoid(x) * ops.tanh(x), [(6,)], "tanh"),
        (lambda x: ops.tanh(x) * ops.softmax(x), [(6,)], "tanh"),
        (lambda x: L.Multiply()([ops.hard_sigmoid(x), ops.reshape(2 * ops.tanh(x), (-1, 6))]), [(6,)], "reshape"),
        (lambda x: ops.sigmoid(x) * L.Activation("hard_tanh")(x), [(6,)], "Activation"),
        (lambda x: ops.tanh(x) * ops.tanh(L.Dense(6)(x)), [(6,)], None),
        (lambda x: ops.sigmoid(x) * ops.sigmoid(L.Dense(6)(x)), [(6,)], None),
        (lambda x, y: L.Dot(axes=1)([x, y]), [(6,), (6,)], None),
        (lambda x, y: ops.matmul(x, y), [(4, 3), (3, 5)], None),
    ],
)
def test_signal(function, shapes, wanted):
    assert signal(function, *shapes) == wanted


def test_signal_of_fused_attention_is_the_value():
    x = keras.Input((5, 4))
    graph = canonical(keras.Model(x, L.MultiHeadAttention(2, 3, name="a")(x, x)))
    products = [n for n in graph.nodes if n.kind is Kind.PRODUCT]
    value = graph.producer()[products[-1].inputs[products[-1].signal[0]]]
    assert value.name.startswith("a/value")


# --- the place of channels ---------------------------------------------------------------------------------------

FIRST, LAST = {"data_format": "channels_first"}, {"data_format": "channels_last"}


@pytest.mark.parametrize(
    ("shape", "steps", "wanted"),
    [
        ((12, 2), [L.Conv1D(6, 3, **LAST), L.GlobalAveragePooling1D(**FIRST)], False),  # the mean of features
        ((12, 2), [L.Dense(6), L.GlobalMaxPooling1D(**FIRST)], False),
        ((2, 12), [L.Conv1D(6, 3, **FIRST), L.GlobalAveragePooling1D(**FIRST)], True),
        ((2, 12), [L.MaxPooling1D(2, **FIRST), L.GlobalMaxPooling1D(**FIRST)], True),
        ((2, 6, 6), [L.BatchNormalization(axis=1), L.GlobalAveragePooling2D(**FIRST)], True),
        ((2, 6, 6), [L.Conv2D(3, 3, **FIRST), L.Permute((2, 3, 1)), L.MaxPooling2D(2, **LAST)], True),
        ((6, 6, 2), [L.Conv2D(3, 3, **LAST), L.Permute((3, 1, 2)), L.MaxPooling2D(2, **FIRST)], False),
        ((2, 6, 6), [L.ZeroPadding2D(1, **FIRST), L.Flatten()], True),
        ((6, 6, 2), [L.Permute((3, 1, 2)), L.Conv2D(3, 3, **FIRST)], False),
        ((2, 6, 6), [L.Permute((2, 3, 1)), L.ReLU(), L.Conv2D(3, 3, **LAST)], True),
        ((6, 6, 2), [lambda x: keras.ops.moveaxis(x, -1, 1), L.ReLU(), L.MaxPooling2D(2, **FIRST)], False),
        ((2, 6, 6), [lambda x: keras.ops.transpose(x, (0, 3, 2, 1)), L.Conv2D(3, 3, **LAST)], True),
        ((6, 2), [L.Dense(3)], False),
    ],
)
def test_where_the_inputs_have_their_channels(shape, steps, wanted):
    """The first layer with a format knows; a pooling over all steps of a signal may as well average its features."""
    x = y = keras.Input(shape)
    for step in steps:
        y = step(y)
    assert facts.channels_first(canonical(keras.Model(x, y))) == (wanted,)


def test_each_input_and_each_layer_has_its_own_place_of_channels():
    a, b = keras.Input((2, 6, 6)), keras.Input((6, 6, 2))
    first, last = L.Conv2D(3, 3, **FIRST, name="first")(a), L.Conv2D(3, 3, **LAST, name="last")(b)
    turned = L.Permute((2, 3, 1), name="turned")(L.ReLU(name="relu")(first))
    both = L.Add(name="both")([turned, last])
    graph = canonical(keras.Model([a, b], L.Dense(2)(L.Flatten()(both))))
    assert facts.channels_first(graph) == (True, False)
    axes = facts.channel_axes(graph)
    found = {name: axes[slot] for name, slot in graph.layer_slots.items() if slot in axes}
    assert {k: found[k] for k in ("first", "relu", "turned", "last", "both")} == {
        "first": 1, "relu": 1, "turned": 3, "last": 3, "both": 3
    }  # fmt: skip
    shapes = [graph.specs[slot].shape[1:] for slot in graph.inputs]
    assert [one.axes for one in arrangements(graph, shapes)] == [(1, 2), (0, 1)]


def test_flatten_does_not_say_where_channels_are():
    """That of another branch may come first; its format is the default, whatever the rest of the model has."""
    table, image = keras.Input((3, 2)), keras.Input((2, 6, 6))
    y = [L.Flatten()(table), L.Flatten()(L.Conv2D(3, 3, **FIRST)(image))]
    graph = canonical(keras.Model([table, image], L.Dense(2)(L.Concatenate()(y))))
    assert op_key(graph.nodes[0].op) == "Flatten"
    assert facts.channels_first(graph) == (False, True)


# --- ancestors ----------------------------------------------------------------------------------------------------


def test_what_slots_depend_on():
    x = keras.Input((4,))
    a = L.Dense(3, name="a")(x)
    b = L.Dense(3, name="b")(x)
    graph = canonical(keras.Model(x, [L.Add(name="c")([a, b]), L.ReLU(name="d")(b)]))
    at = {n.name: n for n in graph.nodes}
    assert {n.index for n in graph.behind({at["d"].outputs[0]})} == {at["d"].index, at["b"].index}
    assert {n.index for n in graph.behind({at["a"].outputs[0]})} == {at["a"].index}
    assert {n.index for n in graph.behind(set(graph.outputs))} == {n.index for n in graph.nodes}
    assert {n.index for n in graph.behind(set(graph.inputs))} == set()
