"""Every moment rule on one layer or operation at a time.

Linear nodes must be exact: against the dense matrix W of the node, mean m W + b, variance v W^2, directions F W. Other
nodes are compared with samples of the very distribution that a rule is about, x = m + F z + sqrt(v) e: mean, variance,
and covariance with z, which is what the directions of the output stand for. First-order rules are compared with the
Jacobian, taken by finite differences.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import twins
import zoo
from keras import layers as L
from keras import ops
from scipy import special
from twins import flat

from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import facts, passes, walk
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError

SAMPLES = 200_000
RANK = 3


# --- building and running ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Net:
    """A small model, its graph, and one rule per node; ``shapes`` are those of its inputs."""

    model: Any
    graph: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    def __call__(self, *inputs):
        rules = moments.bind(self.graph, MOMENT_RULES)
        return moments.propagate(self.graph, rules, inputs)

    def labels(self):
        """The rows of the table that are used."""
        found = (MOMENT_RULES.match(node, self.graph) for node in self.graph.nodes)
        return {MOMENT_RULES.rows.index(row) for row in found if row is not None}

    def joint(self, x):
        """The model as a function of all inputs in one row of numbers, as numpy."""
        parts, start = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            parts.append(np.reshape(x[:, start : start + size], (-1, *shape)).astype(self.dtype))
            start += size
        return flat(walk.evaluate(self.graph, [tf.constant(p) for p in parts])[0])


def net_of(function, *shapes, dtype="float64", batchnorm="fold", seed=0):
    """``function(*inputs)`` of Keras tensors (or a layer) as a net with random weights."""
    with zoo.precision(dtype):
        inputs = [keras.Input(shape) for shape in shapes]
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], function(*inputs))
    zoo.randomise(model, seed)
    form = passes.Form(batchnorm, attention=True, loops=True)
    return Net(model, passes.canonical(trace(model, facts.is_leaf), form), shapes, dtype)


def random_input(shapes, kind, batch=2, scale=1.0, seed=0):
    """(m, v, F) with all inputs in one row; the directions are shared by the inputs."""
    rng = np.random.default_rng(seed)
    size = sum(int(np.prod(s)) for s in shapes)
    m, v, F = rng.normal(size=(batch, size)), scale**2 * rng.uniform(0.1, 1, (batch, size)), None
    if kind == "low_rank":
        F = scale * rng.normal(size=(batch, RANK, size)) / np.sqrt(RANK)
    if kind == "full":
        v, F = np.zeros_like(v), scale * rng.normal(size=(batch, size, size)) / np.sqrt(size)
    return m, v, F


def as_moments(net, m, v, F=None, full=False):
    """One ``Moments`` per input."""
    found, start = [], 0
    for shape in net.shapes:
        part = slice(start, start + int(np.prod(shape)))
        start = part.stop
        factor = None if F is None else tf.constant(F[..., part].reshape(*F.shape[:2], *shape).astype(net.dtype))
        values = (tf.constant(a[:, part].reshape(-1, *shape).astype(net.dtype)) for a in (m, v))
        found.append(Moments.of_input(*values, factor, full))
    return found


def directions(y):
    """All directions of the output (batch, rank, values)."""
    return np.concatenate([np.asarray(f).reshape(*f.shape[:2], -1) for f in y.factors.values()], axis=1)


def close(received, expected, tolerance=1e-9):
    expected = np.asarray(expected)
    scale = np.abs(expected).max() if expected.size else 0.0
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * scale)


# --- linear nodes ------------------------------------------------------------------------------------------------


def one(cls, *args, **options):
    """x -> a new layer (x); layers take the precision in which they are made."""

    def call(x):
        return cls(*args, **options)(x)

    return call


def joined(cls, *args, **options):
    """Tensors -> a new layer (list of tensors)."""
    return lambda *xs: cls(*args, **options)(list(xs))


IMAGE, SIGNAL, CUBE, FIRST = (5, 6, 2), (7, 2), (4, 3, 4, 2), (2, 5, 6)
CF = {"data_format": "channels_first"}
RNG = np.random.default_rng(11)
KERNEL, VECTOR = RNG.normal(size=(4, 3)), RNG.normal(size=4)

LINEAR = {  # name: (function, shapes of the inputs)
    # affine layers
    "dense": (one(L.Dense, 3), (4,)),
    "dense_last_axis": (one(L.Dense, 3, use_bias=False), (3, 4)),
    "einsum_dense": (one(L.EinsumDense, "abc,cde->abde", output_shape=(None, 2, 3), bias_axes="e"), (3, 4)),
    "conv1d": (one(L.Conv1D, 3, 3), SIGNAL),
    "conv1d_causal": (one(L.Conv1D, 3, 2, dilation_rate=2, padding="causal"), SIGNAL),
    "conv2d": (one(L.Conv2D, 3, (2, 3)), IMAGE),
    "conv2d_same_strides": (one(L.Conv2D, 3, 3, strides=2, padding="same"), IMAGE),
    "conv2d_dilated": (one(L.Conv2D, 3, 2, dilation_rate=2), IMAGE),
    "conv2d_groups": (one(L.Conv2D, 4, 2, groups=2, padding="same"), IMAGE),
    "conv2d_channels_first": (one(L.Conv2D, 3, 3, **CF), FIRST),
    "conv3d": (one(L.Conv3D, 2, 2), CUBE),
    "conv3d_same": (one(L.Conv3D, 2, 2, strides=2, padding="same"), CUBE),
    "conv1d_transpose": (one(L.Conv1DTranspose, 3, 3, strides=2), SIGNAL),
    "conv2d_transpose": (one(L.Conv2DTranspose, 3, 3, strides=2, padding="same"), IMAGE),
    "conv3d_transpose": (one(L.Conv3DTranspose, 2, 2, strides=2), CUBE),
    "depthwise1d": (one(L.DepthwiseConv1D, 3, padding="same"), SIGNAL),
    "depthwise2d": (one(L.DepthwiseConv2D, 3, depth_multiplier=2), IMAGE),
    "matmul_constant": (lambda x: ops.matmul(x, tf.constant(KERNEL)) + tf.constant(VECTOR[:3]), (4,)),
    "einsum_constant": (lambda x: ops.einsum("bij,jk->bki", x, tf.constant(KERNEL)), (3, 4)),
    # batch normalisation
    "batchnorm_after": (lambda x: L.BatchNormalization()(L.Conv2D(3, 3)(x)), IMAGE),
    "batchnorm_before": (lambda x: L.Conv2D(3, 3, padding="same")(L.BatchNormalization()(x)), IMAGE),
    "batchnorm_alone": (one(L.BatchNormalization), IMAGE),
    "batchnorm_axis": (one(L.BatchNormalization, axis=1, scale=False), IMAGE),
    # averages
    "average_pool": (one(L.AveragePooling2D, 2), IMAGE),
    "average_pool_strides": (one(L.AveragePooling2D, (3, 2), strides=(1, 2)), IMAGE),
    "average_pool_same": (one(L.AveragePooling2D, 3, strides=2, padding="same"), IMAGE),
    "average_pool_same_overlap": (one(L.AveragePooling2D, (2, 3), strides=1, padding="same"), IMAGE),
    "average_pool_gaps": (one(L.AveragePooling2D, 2, strides=3), IMAGE),
    "average_pool_1d": (one(L.AveragePooling1D, 3, strides=2, padding="same"), SIGNAL),
    "average_pool_3d": (one(L.AveragePooling3D, 2, strides=1), CUBE),
    "average_pool_3d_same": (one(L.AveragePooling3D, 2, padding="same"), CUBE),
    "average_pool_channels_first": (one(L.AveragePooling2D, 3, 2, padding="same", **CF), FIRST),
    "average_pool_op": (lambda x: ops.average_pool(x, 2, strides=1, padding="same"), IMAGE),
    "global_average": (one(L.GlobalAveragePooling2D), IMAGE),
    "global_average_1d": (one(L.GlobalAveragePooling1D, keepdims=True), SIGNAL),
    "global_average_3d": (one(L.GlobalAveragePooling3D), CUBE),
    "global_average_channels_first": (one(L.GlobalAveragePooling2D, **CF), FIRST),
    "adaptive_average": (one(L.AdaptiveAveragePooling2D, (2, 3)), IMAGE),
    "mean": (lambda x: ops.mean(x, axis=(1, 3)), IMAGE),
    # sums
    "sum": (lambda x: ops.sum(x, axis=2, keepdims=True), IMAGE),
    "cumsum": (lambda x: ops.cumsum(x, axis=1), SIGNAL),
    "add": (joined(L.Add), (4,), (4,)),
    "add_broadcast": (lambda x, y: x + y, (3, 1), (3, 4)),
    "add_three": (joined(L.Add), (4,), (4,), (4,)),
    "add_same": (lambda x: L.Add()([x, x]), (4,)),
    "add_same_of_three": (lambda x, y: L.Add()([x, y, x]), (4,), (4,)),
    "subtract": (joined(L.Subtract), (4,), (4,)),
    "subtract_same": (lambda x: L.Subtract()([x, x]), (4,)),
    "subtract_op": (lambda x, y: x - y, (4,), (4,)),
    "average": (joined(L.Average), (4,), (4,), (4,)),
    "average_same": (lambda x, y: L.Average()([x, x, y]), (4,), (4,)),
    "average_op": (lambda x: ops.average(x, axis=1, weights=tf.constant(VECTOR[:3])), (3, 4)),
    # shapes
    "concatenate": (joined(L.Concatenate), (3, 4), (3, 2)),
    "concatenate_same": (lambda x: L.Concatenate(axis=1)([x, x]), (3, 4)),
    "concatenate_constant": (lambda x: ops.concatenate([x, ops.ones_like(x)], axis=1), (3, 4)),
    "stack": (lambda x, y: ops.stack([x, y], axis=1), (4,), (4,)),
    "split": (lambda x: ops.split(x, 2, axis=1)[1], (4, 3)),
    "zero_padding": (one(L.ZeroPadding2D, ((1, 2), (0, 1))), IMAGE),
    "zero_padding_1d": (one(L.ZeroPadding1D, 2), SIGNAL),
    "zero_padding_3d": (one(L.ZeroPadding3D, 1), CUBE),
    "pad_with_a_number": (lambda x: ops.pad(x, [(0, 0), (1, 2), (0, 0)], constant_values=3.0), SIGNAL),
    "pad_reflect": (lambda x: ops.pad(x, [(0, 0), (1, 2), (0, 0)], mode="reflect"), SIGNAL),
    "cropping": (one(L.Cropping2D, ((1, 0), (2, 1))), IMAGE),
    "center_crop": (one(L.CenterCrop, 3, 4), IMAGE),
    "center_crop_larger": (one(L.CenterCrop, 6, 7), (4, 5, 2)),
    "up_sampling_1d": (one(L.UpSampling1D, 3), SIGNAL),
    "up_sampling": (one(L.UpSampling2D, (2, 3)), (3, 2, 2)),
    "up_sampling_bilinear": (one(L.UpSampling2D, 2, interpolation="bilinear"), (3, 4, 2)),
    "up_sampling_3d": (one(L.UpSampling3D, 2), (2, 3, 2, 1)),
    "resizing": (one(L.Resizing, 3, 4), IMAGE),
    "resizing_larger": (one(L.Resizing, 7, 9), IMAGE),
    "reshape": (one(L.Reshape, (4, 15)), IMAGE),
    "permute": (one(L.Permute, (3, 1, 2)), IMAGE),
    "flatten": (one(L.Flatten), IMAGE),
    "repeat": (one(L.RepeatVector, 3), (4,)),
    "slice": (lambda x: x[:, ::2, 1:], SIGNAL),
    # rescaling and identity
    "rescaling": (one(L.Rescaling, 0.25, offset=-1.0), IMAGE),
    "normalization": (one(L.Normalization, mean=[0.3, -1.0], variance=[2.0, 0.5]), IMAGE),
    "constants": (lambda x: (2.0 - x) / 3.0 * tf.constant(VECTOR) + 0.5, (3, 4)),
    "dropout": (lambda x: L.Dropout(0.5)(L.GaussianNoise(1.0)(x)), (4,)),
    "negative": (lambda x: -x, (4,)),
    "choice": (lambda x, y: ops.where(tf.constant(VECTOR > 0), x, y), (3, 4), (1, 4)),
    "choice_of_a_number": (lambda x: ops.where(tf.constant(VECTOR > 0), 7.0, x), (3, 4)),
    "quotient_of_constants": (lambda x: x / tf.constant(VECTOR), (3, 4)),
}  # fmt: skip
SINGLE = {"conv3d", "conv3d_same", "conv3d_transpose", "average_pool_3d", "average_pool_3d_same", "up_sampling_3d"}
SINGLE |= {n for n in LINEAR if n.endswith("channels_first")} | {
    "resizing",
    "resizing_larger",
    "up_sampling_bilinear",
    "center_crop_larger",
}


def linear_net(name, **options):
    function, *shapes = LINEAR[name]
    return net_of(function, *shapes, dtype="float32" if name in SINGLE else "float64", **options)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_nodes(name):
    """Mean, variance of independent inputs, and directions, from the matrix of the node."""
    net = linear_net(name)
    tolerance = 1e-9 if net.dtype == "float64" else 2e-5
    size = sum(int(np.prod(s)) for s in net.shapes)
    W, b = twins.matrix_of(net.joint, (size,))
    m, v, F = random_input(net.shapes, "low_rank")
    y = net(*as_moments(net, m, v, F))
    close(flat(y.mean), m @ W + b, tolerance)
    close(flat(y.var), v @ W**2, tolerance)
    close(directions(y), F @ W, tolerance)
    close(flat(y.variance()), v @ W**2 + ((F @ W) ** 2).sum(axis=1), tolerance)
    alone = net(*as_moments(net, m, v))
    assert not alone.factors and not alone.full
    close(flat(alone.var), v @ W**2, tolerance)


@pytest.mark.parametrize("name", ["conv2d_same_strides", "average_pool_same", "batchnorm_before", "add_same_of_three",
                                  "concatenate_same", "up_sampling", "constants", "split"])  # fmt: skip
def test_linear_nodes_keep_all_covariances(name):
    """C -> W^T C W."""
    net = linear_net(name)
    W, b = twins.matrix_of(net.joint, (sum(int(np.prod(s)) for s in net.shapes),))
    m, v, F = random_input(net.shapes, "full")
    y = net(*as_moments(net, m, v, F, full=True))
    assert y.full
    close(flat(y.mean), m @ W + b)
    G = directions(y)
    close(np.swapaxes(G, 1, 2) @ G, W.T @ (np.swapaxes(F, 1, 2) @ F) @ W)


def test_separable_convolutions_are_two_nodes():
    """In "diagonal" mode what lies between the two halves counts as independent; directions are exact."""
    with zoo.precision("float64"):
        layer = L.SeparableConv2D(3, 3, depth_multiplier=2, padding="same")
        net = net_of(layer, IMAGE)
        first = net_of(L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False), IMAGE)
    first.model.layers[-1].set_weights([layer.depthwise_kernel.numpy()])
    size = int(np.prod(IMAGE))
    W, b = twins.matrix_of(net.joint, (size,))
    D, _ = twins.matrix_of(first.joint, (size,))
    P = np.kron(np.eye(30), layer.pointwise_kernel.numpy()[0, 0])
    m, v, F = random_input([IMAGE], "low_rank")
    y = net(*as_moments(net, m, v, F))
    close(D @ P, W)
    close(flat(y.mean), m @ W + b)
    close(flat(y.var), v @ D**2 @ P**2)
    close(directions(y), F @ W)


@pytest.mark.parametrize("batchnorm", ["linear", "two_linear", "fold"])
@pytest.mark.parametrize("name", ["batchnorm_after", "batchnorm_before"])
def test_batch_normalisation_folded_or_not(name, batchnorm):
    """The mean and the directions don't depend on the form, nor does the variance: it is one per component."""
    net, folded = linear_net(name, batchnorm=batchnorm), linear_net(name)
    m, v, F = random_input(net.shapes, "low_rank")
    y, expected = (n(*as_moments(n, m, v, F)) for n in (net, folded))
    close(flat(y.mean), flat(expected.mean))
    close(flat(y.var), flat(expected.var))
    close(directions(y), directions(expected))


def test_a_random_and_a_fixed_input():
    """Sums and concatenations with a tensor that is not random."""
    for join in (lambda x, y: x + y, lambda x, y: L.Concatenate()([y, x]), joined(L.Average)):
        net = net_of(join, (4,), (4,))
        W, b = twins.matrix_of(net.joint, (8,))
        m, v, F = random_input([(4,), (4,)], "low_rank")
        first, second = as_moments(net, m, v, F)
        y = net(first, second.mean)
        close(flat(y.mean), m @ W + b)
        close(flat(y.var), v[:, :4] @ W[:4] ** 2)
        close(directions(y), F[..., :4] @ W[:4])


def test_a_direction_of_one_input_only():
    """Labels that one operand lacks count as zero there."""
    net = net_of(joined(L.Concatenate), (4,), (3,))
    m, v, F = random_input([(4,), (3,)], "low_rank")
    first, second = as_moments(net, m, v, F)
    other = Moments(second.mean, second.var, {7: second.factors[-1][:, :2]})
    y = net(first, other)
    np.testing.assert_array_equal(np.asarray(y.factors[-1]), np.concatenate([F[..., :4], np.zeros((2, RANK, 3))], -1))
    np.testing.assert_array_equal(np.asarray(y.factors[7]), np.concatenate([np.zeros((2, 2, 4)), F[:, :2, 4:]], -1))


# --- against samples ---------------------------------------------------------------------------------------------


def sampled(net, m, v, F, seed=1):
    """Per sample of the batch: outputs (SAMPLES, values) and z (SAMPLES, rank), in one call of the model each."""
    rng = np.random.default_rng(seed)
    for i in range(len(m)):
        z = rng.standard_normal((SAMPLES, 1 if F is None else F.shape[1]))
        x = m[i] + np.sqrt(v[i]) * rng.standard_normal((SAMPLES, m.shape[1])) + (0 if F is None else z @ F[i])
        yield net.joint(x), z


def agree(y, net, m, v, F, mean_error=0.0, variance_error=0.0):
    """Mean, variance and covariance with z within five standard errors and the stated error of the rule.

    ``mean_error`` is in units of the largest standard deviation, ``variance_error`` in units of the largest variance.
    """
    for i, (values, z) in enumerate(sampled(net, m, v, F)):
        mean, centred = values.mean(axis=0), values - values.mean(axis=0)
        variance = (centred**2).mean(axis=0)
        error = 5 * np.sqrt(variance / SAMPLES) + mean_error * np.sqrt(variance.max()) + 1e-12
        assert (np.abs(flat(y.mean)[i] - mean) <= error).all(), (flat(y.mean)[i], mean, error)
        error = (
            5 * np.sqrt(((centred**2 - variance) ** 2).mean(axis=0) / SAMPLES) + variance_error * variance.max() + 1e-12
        )
        assert (np.abs(flat(y.variance())[i] - variance) <= error).all(), (flat(y.variance())[i], variance, error)
        if F is None:
            continue
        covariance = z.T @ centred / SAMPLES
        noise = np.sqrt(((z[:, :, None] * centred[:, None]) ** 2).mean(axis=0) / SAMPLES) if z.shape[1] < 9 else 0.01
        error = 5 * noise + variance_error * np.sqrt(variance.max()) + 1e-12
        found = np.asarray(y.factors[-1])[i].reshape(covariance.shape)
        assert (np.abs(found - covariance) <= error).all(), np.abs(found - covariance).max()


ACTIVATIONS = {
    "relu": ops.relu,
    "relu_layer": one(L.ReLU),
    "maximum_with_0": lambda x: ops.maximum(x, 0.0),
    "relu6": lambda x: ops.relu6(x + 3.0),
    "capped": one(L.ReLU, max_value=0.8, negative_slope=0.3, threshold=0.2),
    "leaky": one(L.LeakyReLU, 0.1),
    "leaky_function": one(L.Activation, "leaky_relu"),
    "prelu": one(L.PReLU),
    "prelu_shared": lambda x: L.PReLU(shared_axes=[1])(L.Reshape((2, 3))(x)),
    "abs": ops.abs,
    "hard_sigmoid": lambda x: ops.hard_sigmoid(2 * x),
    "hard_tanh": one(L.Activation, "hard_tanh"),
    "soft_shrink": lambda x: ops.soft_shrink(x, 0.3),
    "soft_shrink_function": one(L.Activation, "soft_shrink"),
    "clip": lambda x: ops.clip(x, -0.4, 0.9),
    "at_least": lambda x: ops.maximum(x, -0.4),
    "at_most": lambda x: ops.minimum(x, 0.5),
    "square": ops.square,
    "x_times_x": lambda x: x * x,
    "multiply_x_x": lambda x: L.Multiply()([x, x]),
    "cube": lambda x: x**3,
    "exp": lambda x: ops.exp(0.5 * x),
    "exponential": lambda x: L.Activation("exponential")(0.5 * x),
    "sigmoid": ops.sigmoid,
    "tanh": lambda x: L.Activation("tanh")(x / 2),
    "gelu": keras.activations.gelu,
    "gelu_approximate": lambda x: ops.gelu(x, approximate=True),
    "silu": ops.silu,
    "mish": one(L.Activation, "mish"),
    "softplus": ops.softplus,
    "fused": one(L.Dense, 3, activation="sigmoid"),
}
ROUGH = {"elu": one(L.ELU, 0.7), "selu": ops.selu, "hard_silu": ops.hard_silu}


@pytest.mark.parametrize("name", zoo.thinned([*ACTIVATIONS, *ROUGH]))
def test_activations(name):
    """In low rank with independent noise besides; the gain says what is left of the covariance with z (Stein)."""
    net = net_of({**ACTIVATIONS, **ROUGH}[name], (6,), seed=zlib.crc32(name.encode()))
    m, v, F = random_input([(6,)], "low_rank", batch=1, scale=0.6)
    y = net(*as_moments(net, m, v, F))
    rough = {"mean_error": 0.01, "variance_error": 0.02} if name in ROUGH else {}
    agree(y, net, m, v, F, **rough)


@pytest.mark.parametrize("name", ["relu", "leaky", "sigmoid", "square"])
def test_activations_with_a_full_covariance(name):
    """C_ij becomes gain_i gain_j C_ij off the diagonal, the marginal variance is exact."""
    net = net_of(ACTIVATIONS[name], (6,))
    m, v, F = random_input([(6,)], "full", batch=1)
    y = net(*as_moments(net, m, v, F, full=True))
    agree(y, net, m, v, F)
    marginal = net(*as_moments(net, m, (F**2).sum(axis=1)))
    close(flat(y.mean), flat(marginal.mean))
    close(flat(y.variance()), flat(marginal.var))
    G, own = directions(y)[0], np.asarray(y.factors[-1])[0]
    gain = (own / F[0]).mean(axis=0)
    np.testing.assert_allclose(own, F[0] * gain, rtol=1e-9)
    received, expected = G.T @ G, gain[:, None] * gain * (F[0].T @ F[0])
    off = ~np.eye(6, dtype=bool)
    close(received[off], expected[off])


# --- products ----------------------------------------------------------------------------------------------------

PRODUCTS = {  # exact for independent operands
    "multiply": (joined(L.Multiply), (4,), (4,)),
    "gate": (joined(L.Multiply), (2, 3, 4), (1, 1, 4)),
    "three_factors": (joined(L.Multiply), (3,), (3,), (3,)),
    "matmul": (ops.matmul, (2, 3), (3, 4)),
    "einsum": (lambda x, y: ops.einsum("bij,bkj->bik", x, y), (2, 3), (4, 3)),
    "dot": (joined(L.Dot, axes=2), (2, 3), (4, 3)),
    "variance": (lambda x: ops.var(x, axis=-1, keepdims=True), (2, 5)),
    "variance_over_axes": (lambda x: ops.var(x, axis=(1, 2)), (2, 5)),
}
ALONE = ("three_factors", "variance", "variance_over_axes")


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_independent_tensors(name):
    function, *shapes = PRODUCTS[name]
    net = net_of(function, *shapes)
    m, v, _ = random_input(shapes, "diagonal", batch=1)
    y = net(*as_moments(net, m, v))
    assert not y.factors
    agree(y, net, m, v, None)


@pytest.mark.parametrize("name", ["multiply", "gate"])
def test_elementwise_products_of_correlated_tensors(name):
    """Directions of both operands are known, so mean, variance and covariance with z are exact."""
    function, *shapes = PRODUCTS[name]
    net = net_of(function, *shapes)
    m, v, F = random_input(shapes, "low_rank", batch=1)
    y = net(*as_moments(net, m, v, F))
    agree(y, net, m, v, F)


def independent(v):
    """Noise of variance v as directions, one a component."""
    return np.sqrt(v)[:, None] * np.eye(v.shape[1])


@pytest.mark.parametrize("name", PRODUCTS)
def test_no_variance_is_lost_in_full_mode(name):
    """The same noise, as directions: the marginal variance of the result is the same."""
    function, *shapes = PRODUCTS[name]
    net = net_of(function, *shapes)
    m, v, _ = random_input(shapes, "diagonal")
    expected, y = net(*as_moments(net, m, v)), net(*as_moments(net, m, 0 * v, independent(v), full=True))
    assert not np.asarray(y.var).any()
    if name in ("multiply", "gate", "three_factors"):
        close(flat(y.mean), flat(expected.mean))
        close(flat(y.variance()), flat(expected.variance()))
    else:  # also the first-order part of the sum over the inner axis is known
        J, own = jacobians(net, m), flat(expected.variance()) - np.einsum("bi,bij->bj", v, jacobians(net, m) ** 2)
        close(flat(y.variance()), np.einsum("bi,bij->bj", v, J**2) + own, 1e-6)


@pytest.mark.parametrize("name", ["matmul", "einsum", "dot"])
def test_directions_of_matrix_products(name):
    """d (x y) = dx y + x dy at the mean."""
    function, *shapes = PRODUCTS[name]
    net = net_of(function, *shapes)
    m, v, F = random_input(shapes, "low_rank")
    y = net(*as_moments(net, m, v, F))
    close(directions(y), F @ jacobians(net, m), 1e-6)


@pytest.mark.parametrize("name", [n for n in PRODUCTS if n not in ALONE])
def test_a_random_times_a_fixed_tensor(name):
    """Linear in the random one, so as exact as a linear node."""
    function, *shapes = PRODUCTS[name]
    net = net_of(function, *shapes)
    m, v, F = random_input(shapes, "low_rank")
    first, second = as_moments(net, m, v, F)
    size = int(np.prod(shapes[0]))
    y = net(first, second.mean)
    for i in range(2):
        fixed = m[i : i + 1, size:]
        W, b = twins.matrix_of(lambda x, f=fixed: net.joint(np.hstack([x, np.repeat(f, len(x), 0)])), (size,))
        close(flat(y.mean)[i], m[i, :size] @ W + b)
        close(directions(y)[i], F[i][:, :size] @ W)
        close(flat(y.var)[i], v[i, :size] @ W**2)


@pytest.mark.parametrize("count", [3, 4])
def test_powers_written_as_products(count):
    """x y x has the moments of x^2 y, not those of three independent factors."""
    net = net_of(lambda x, y: L.Multiply()([x, y, *[x] * (count - 1)]), (3,), (3,))
    m, v, _ = random_input(net.shapes, "diagonal", batch=1, scale=0.4)
    agree(net(*as_moments(net, m, v)), net, m, v, None)


# --- first-order rules -------------------------------------------------------------------------------------------


def jacobians(net, m, h=1e-4):
    """d y_j / d x_i (batch, inputs, outputs) by central differences of fourth order."""
    found = []
    for row in m:
        steps = h * np.eye(len(row))
        at = {k: net.joint(row + k * steps) for k in (-2, -1, 1, 2)}
        found.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h))
    return np.stack(found)


FIRST_ORDER = {
    "softmax": (one(L.Softmax), (2, 4)),
    "softmax_op": (lambda x: ops.softmax(x, axis=1), (3, 4)),
    "softmax_activation": (one(L.Activation, "softmax"), (5,)),
    "softmax_axes": (one(L.Softmax, axis=(1, 2)), (2, 3, 2)),
    "layer_norm": (one(L.LayerNormalization, epsilon=0.01), (3, 4)),
    "layer_norm_axes": (one(L.LayerNormalization, axis=(1, 2)), (3, 2, 2)),
    "layer_norm_axis_1": (one(L.LayerNormalization, axis=1, center=False), (4, 2)),
    "layer_norm_plain": (one(L.LayerNormalization, scale=False, center=False), (5,)),
    "rms_norm": (one(L.RMSNormalization, epsilon=0.1), (3, 4)),
    "unit_norm": (one(L.UnitNormalization), (3, 4)),
    "unit_norm_axes": (one(L.UnitNormalization, axis=(1, 2)), (3, 2, 2)),
    "group_norm": (one(L.GroupNormalization, 2), (3, 2, 4)),
    "group_norm_axis_1": (one(L.GroupNormalization, 2, axis=1, epsilon=0.1), (4, 3)),
    "instance_norm": (one(L.GroupNormalization, -1), (5, 3)),
    "layer_norm_operation": (lambda x: ops.layer_normalization(x, tf.constant(VECTOR), tf.constant(VECTOR)), (3, 4)),
    "rms_norm_operation": (lambda x: ops.rms_normalization(x, tf.constant(VECTOR), epsilon=0.1), (3, 4)),
    "log_softmax": (lambda x: ops.log_softmax(x, axis=1), (3, 4)),
    "log_of_a_sum": (lambda x: ops.logsumexp(x, axis=1), (3, 4)),
    "quotient": (lambda x, y: x / (y + 5.0), (3, 4), (3, 1)),
    "reciprocal": (lambda x: 2.0 / (x + 5.0), (4,)),
    "root": (lambda x: ops.rsqrt(x + 5.0), (4,)),
    "logarithm": (lambda x: ops.log(x + 5.0), (4,)),
    "power": (lambda x: (x + 5.0) ** -1.5, (4,)),
}


def first_order_net(name):
    function, *shapes = FIRST_ORDER[name]
    return net_of(function, *shapes)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order_rules(name):
    """y = f(m), v -> (J * J) v, F -> J F."""
    net = first_order_net(name)
    m, v, F = random_input(net.shapes, "low_rank", scale=0.3)
    y = net(*as_moments(net, m, v, F))
    J = jacobians(net, m)
    close(flat(y.mean), net.joint(m))
    close(flat(y.var), np.einsum("bi,bij->bj", v, J**2), 1e-7)
    close(directions(y), F @ J, 1e-7)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "rms_norm", "unit_norm", "group_norm"])
def test_first_order_rules_at_small_variance(name):
    net = first_order_net(name)
    m, v, F = random_input(net.shapes, "low_rank", batch=1, scale=0.01)
    agree(net(*as_moments(net, m, v, F)), net, m, v, F, mean_error=0.05, variance_error=0.01)


@pytest.mark.parametrize("name", ["softmax", "group_norm"])
def test_first_order_rules_with_a_full_covariance(name):
    """C -> J^T C J, and nothing is added to the diagonal."""
    net = first_order_net(name)
    m, v, F = random_input(net.shapes, "full", scale=0.3)
    y = net(*as_moments(net, m, v, F, full=True))
    G, J = directions(y), jacobians(net, m)
    assert y.full
    close(np.swapaxes(G, 1, 2) @ G, np.swapaxes(J, 1, 2) @ np.swapaxes(F, 1, 2) @ F @ J, 1e-7)


def attention_net(**options):
    return net_of(lambda q, k, v: ops.dot_product_attention(q, k, v, **options), (3, 2, 4), (4, 2, 4), (4, 2, 4))


def test_attention():
    """The mean is that of the means; directions follow the Jacobian; small variances agree with samples."""
    net = attention_net()
    m, v, F = random_input(net.shapes, "low_rank", scale=0.01, batch=1)
    y = net(*as_moments(net, m, v, F))
    close(flat(y.mean), net.joint(m))
    close(directions(y), F @ jacobians(net, m), 1e-6)
    values = [m, v * (np.arange(m.shape[1]) >= 56)]  # noise in the values alone: nothing is neglected
    agree(net(*as_moments(net, *values)), net, *values, None)


def test_no_variance_of_attention_is_lost_in_full_mode():
    """Noise in a score is kept up to the result: both the noise that the scores inherit and that they add."""
    net = attention_net()
    m, v, _ = random_input(net.shapes, "diagonal", batch=1, scale=0.5)
    v *= np.arange(m.shape[1]) < 56  # the values are fixed
    y = net(*as_moments(net, m, 0 * v, independent(v), full=True))
    first_order = np.einsum("bi,bij->bj", v, jacobians(net, m) ** 2)
    (q, vq), (k, vk), (x, _) = (
        [part[:, a:b].reshape(1, -1, 2, 4) for part in (m, v)] for a, b in ((0, 24), (24, 56), (56, 88))
    )
    p = special.softmax(np.einsum("btnh,bsnh->bnts", q, k) / 2, axis=-1)
    J = p[..., :, None] * (np.eye(4) - p[..., None, :])
    weights = np.einsum("bntus,bsnh->btnhu", J, x)  # d result / d scores
    added = np.einsum("bntu,btnhu->btnh", np.einsum("btnh,bsnh->bnts", vq, vk) / 4, weights**2)
    close(flat(y.variance()), first_order + flat(added), 1e-6)


@pytest.mark.parametrize("scale", [None, 0.25, 2.0])
def test_attention_takes_scores_as_independent(scale):
    """Stated in the rule: scores are exact and then independent, softmax and weighted sum are to first order."""
    net = attention_net(scale=scale)
    scale = 1 / np.sqrt(4) if scale is None else scale
    m, v, _ = random_input(net.shapes, "diagonal", scale=0.02)
    (q, vq), (k, vk), (x, vx) = (
        [flat_part[:, a:b].reshape(2, -1, 2, 4) for flat_part in (m, v)] for a, b in ((0, 24), (24, 56), (56, 88))
    )
    scores = np.einsum("btnh,bsnh->bnts", q, k) * scale
    spread = [np.einsum("btnh,bsnh->bnts", a, b) * scale**2 for a, b in ((vq, vk), (vq, k * k), (q * q, vk))]
    p = special.softmax(scores, axis=-1)
    J = p[..., :, None] * (np.eye(4) - p[..., None, :])
    vp = np.einsum("bnts,bntus->bntu", sum(spread), J**2)
    o = np.einsum("bnts,bsnh->btnh", p, x)
    away = (x[:, None] - o[:, :, None]) ** 2  # (batch, t, s, n, h)
    expected = np.einsum("bnts,btsnh->btnh", p**2 * sum(spread), away) + np.einsum("bnts,bsnh->btnh", p**2 + vp, vx)
    y = net(*as_moments(net, m, v))
    close(flat(y.mean), net.joint(m))
    close(np.asarray(y.var), expected)


# --- maxima ------------------------------------------------------------------------------------------------------


def clark(a, b):
    """(mean, variance) of the larger of two independent Gaussians; the textbook formulas."""
    (m1, v1), (m2, v2) = a, b
    s = np.sqrt(v1 + v2)
    t = (m1 - m2) / s
    phi, Phi, rest = np.exp(-t * t / 2) / np.sqrt(2 * np.pi), special.ndtr(t), special.ndtr(-t)
    first = m1 * Phi + m2 * rest + s * phi
    second = (m1**2 + v1) * Phi + (m2**2 + v2) * rest + (m1 + m2) * s * phi
    return first, second - first**2


def windows(length, pool, stride, same):
    """The positions of each window along one axis."""
    count = -(-length // stride) if same else (length - pool) // stride + 1
    pad = max((count - 1) * stride + pool - length, 0) // 2 if same else 0
    return [range(max(k * stride - pad, 0), min(k * stride - pad + pool, length)) for k in range(count)]


def pooled(m, v, pool, strides, same):
    """Clark's maximum over each window in row-major order; m, v (height, width)."""
    rows, columns = (windows(n, p, s, same) for n, p, s in zip(m.shape, pool, strides, strict=True))
    found = np.empty((2, len(rows), len(columns)))
    for i, ys in enumerate(rows):
        for j, xs in enumerate(columns):
            first, *rest = [(m[a, b], v[a, b]) for a in ys for b in xs]
            for other in rest:
                first = clark(first, other)
            found[:, i, j] = first
    return found


POOLS = {  # pool, strides, padding, data_format
    "valid": ((2, 2), (2, 2), "valid", "channels_last"),
    "overlapping": ((3, 2), (1, 1), "valid", "channels_last"),
    "same": ((3, 3), (2, 2), "same", "channels_last"),
    "same_strides": ((2, 3), (1, 2), "same", "channels_last"),
    "gaps": ((2, 2), (3, 3), "valid", "channels_last"),
    "first": ((2, 2), (2, 1), "same", "channels_first"),
}


@pytest.mark.parametrize("operation", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_max_pooling(name, operation):
    """The sequential maximum of the window's values; padding never wins, not even against very negative values."""
    pool, strides, padding, form = POOLS[name]
    options = {"strides": strides, "padding": padding, "data_format": form}
    shape = IMAGE if form == "channels_last" else FIRST
    layer = (lambda x: ops.max_pool(x, pool, **options)) if operation else L.MaxPooling2D(pool, **options)
    net = net_of(layer, shape, dtype="float32" if form == "channels_first" else "float64")
    m, v, _ = random_input([shape], "diagonal", batch=2)
    m[1] -= 1000
    y = net(*as_moments(net, m, v))
    axis = 3 if form == "channels_last" else 1
    for i in range(2):
        for c in range(2):
            picture, spread = (np.take(a[i].reshape(shape), c, axis - 1) for a in (m, v))
            shift = picture.mean()  # the textbook formulas cancel
            mean, variance = pooled(picture - shift, spread, pool, strides, padding == "same")
            tolerance = 1e-9 if net.dtype == "float64" else 1e-4
            close(np.take(np.asarray(y.mean)[i], c, axis - 1) - shift, mean, tolerance)
            close(np.take(np.asarray(y.var)[i], c, axis - 1), variance, tolerance)


MAXIMA = {  # two values a window: exact
    "pool_1d": (one(L.MaxPooling1D, 2), (6, 2)),
    "pool_3d": (one(L.MaxPooling3D, (1, 1, 2)), (2, 1, 4, 2)),
    "global": (one(L.GlobalMaxPooling2D), (1, 2, 3)),
    "global_1d_keepdims": (one(L.GlobalMaxPooling1D, keepdims=True), (2, 3)),
    "global_channels_first": (one(L.GlobalMaxPooling2D, **CF), (3, 2, 1)),
    "axis": (lambda x: ops.max(x, axis=1), (2, 3)),
    "axis_keepdims": (lambda x: ops.amax(x, axis=-1, keepdims=True), (3, 2)),
    "maximum": (joined(L.Maximum), (4,), (4,)),
    "minimum": (joined(L.Minimum), (4,), (4,)),
    "maximum_op": (ops.maximum, (4,), (4,)),
    "minimum_op": (ops.minimum, (3, 4), (1, 4)),
}


@pytest.mark.parametrize("kind", ["diagonal", "low_rank"])
@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_of_two(name, kind):
    function, *shapes = MAXIMA[name]
    net = net_of(function, *shapes, dtype="float32" if name == "pool_3d" else "float64")
    m, v, F = random_input(shapes, kind, batch=1)
    y = net(*as_moments(net, m, v, F))
    agree(y, net, m, v, F)


MANY = {
    "global": (one(L.GlobalMaxPooling2D), (2, 3, 3)),
    "axes": (lambda x: ops.max(x, axis=(1, 2)), (2, 3, 3)),
    "pool": (one(L.MaxPooling2D, (2, 3)), (2, 3, 3)),
    "of_three": (lambda x: L.Maximum()([x[:, 0], x[:, 1], x[:, 2]]), (3, 4)),
    "least_of_three": (lambda x: L.Minimum()([x[:, 0], x[:, 1], x[:, 2]]), (3, 4)),
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("kind", zoo.thinned(["low_rank", "diagonal", "full"], 3))
def test_maxima_of_many_are_close(name, kind):
    """The maximum of Gaussians is no Gaussian: Clark's repeated maximum of six has up to a fifth less variance."""
    function, *shapes = MANY[name]
    net = net_of(function, *shapes)
    m, v, F = random_input(shapes, kind, batch=2)
    y = net(*as_moments(net, m, v, F, kind == "full"))
    agree(y, net, m, v, F, mean_error=0.08, variance_error=0.2)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_tournament_of_halves(count):
    """The first half against the second, the odd one waits."""
    net = net_of(lambda x: ops.max(x, axis=1), (count, 2))
    m, v, _ = random_input(net.shapes, "diagonal")
    y = net(*as_moments(net, m, v))
    field = [(a, b) for a, b in zip(*(np.moveaxis(t.reshape(2, count, 2), 1, 0) for t in (m, v)), strict=True)]
    while len(field) > 1:
        half = len(field) // 2
        field = [clark(field[i], field[half + i]) for i in range(half)] + field[2 * half :]
    close(flat(y.mean), field[0][0])
    close(flat(y.var), field[0][1])


def test_maxima_with_a_clear_winner():
    """All of the winner's distribution passes, and no direction of the others."""
    for function in (one(L.GlobalMaxPooling1D), one(L.MaxPooling1D, 5), lambda x: ops.max(x, axis=1)):
        net = net_of(function, (5, 1))
        m, v, F = random_input([(5, 1)], "low_rank", scale=0.1)
        m = np.array([[0.0, 9, 1, 2, 3], [-7, -9, -9, -1, -8]])
        y = net(*as_moments(net, m, v, F))
        for i, winner in enumerate((1, 3)):
            close(flat(y.mean)[i], m[i, winner : winner + 1])
            close(flat(y.var)[i], v[i, winner : winner + 1])
            close(directions(y)[i, :, 0], F[i, :, winner])


def test_maximum_with_a_fixed_tensor():
    net = net_of(joined(L.Maximum), (4,), (4,))
    m, v, F = random_input([(4,), (4,)], "low_rank", batch=1)
    m = m / 2
    v[:, 4:], F[..., 4:] = 0, 0
    first, second = as_moments(net, m, v, F)
    agree(net(first, second.mean), net, m, v, F)
    agree(net(second.mean, first), net, m, v, F)


# --- the rest ----------------------------------------------------------------------------------------------------


REFUSED = {  # what a rule for its kind would get wrong: a table without a row for it says so
    "std": (lambda x: ops.std(x, axis=1), (4,)),
    "least_over_an_axis": (lambda x: ops.min(x, axis=1), (4,)),
    "sorted": (ops.sort, (4,)),
    "random_scale_of_a_norm": (lambda x, g: ops.rms_normalization(x, g[0]), (4,), (4,)),
    "einsum_with_a_constant": (lambda x, y: ops.einsum("bi,bj,ij->b", x, y, tf.ones((4, 4), x.dtype)), (4,), (4,)),
    "largest_with_a_starting_value": (lambda x: ops.max(x, axis=1, initial=0.5), (4,)),
    "capped_below_0": (lambda x: keras.activations.relu(x, threshold=-0.5, max_value=1.0), (4,)),
    "rms_scaling": (one(L.LayerNormalization, rms_scaling=True), (4,)),
    "global_max_of_any_size": (one(L.GlobalMaxPooling1D), (None, 2)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule(name):
    function, *shapes = REFUSED[name]
    net = net_of(function, *shapes)
    with pytest.raises(NoRuleError, match="monte_carlo"):
        moments.bind(net.graph, MOMENT_RULES)


@pytest.mark.parametrize("size", [(None, None, 2), (64, 64, 16)])
def test_copying_needs_no_matrix(size):
    """Nearest up-sampling of tensors of any size; only a matrix would need to know it, and to fit into memory."""
    net = net_of(one(L.UpSampling2D, 2), size)
    (rule,) = moments.bind(net.graph, MOMENT_RULES)
    v = np.random.default_rng(0).uniform(size=(1, 3, 4, size[-1]))
    (y,) = rule(net.graph.nodes[0], (Moments(*(tf.constant(a) for a in (-v, v))),))
    np.testing.assert_array_equal(np.asarray(y.var), v.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_array_equal(np.asarray(y.mean), -np.asarray(y.var))


def test_what_depends_on_shapes_only():
    net = net_of(lambda x: x + 2 * ops.ones_like(x), (4,))
    m, v, F = random_input([(4,)], "low_rank")
    y = net(*as_moments(net, m, v, F))
    close(flat(y.mean), m + 2)
    close(flat(y.var), v)
    close(directions(y), F)


def test_every_row_of_the_table_is_tested():
    nets = [linear_net(name) for name in LINEAR]
    nets += [net_of(f, (6,)) for f in ACTIVATIONS.values()]
    nets += [net_of(f, *shapes) for f, *shapes in (*PRODUCTS.values(), *FIRST_ORDER.values(), *MAXIMA.values())]
    nets += [attention_net(), net_of(L.MaxPooling2D(2), IMAGE), net_of(lambda x: x + ops.ones_like(x), (4,))]
    used = set().union(*(net.labels() for net in nets))
    assert used == set(range(len(MOMENT_RULES.rows))), [
        MOMENT_RULES.rows[i][2] for i in set(range(len(MOMENT_RULES.rows))) - used
    ]
