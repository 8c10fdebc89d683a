"""Every linear layer as bilinear(x, kernel) + bias: equal to the layer, linear in both, scaled along the right axis."""

import functools
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.backend import affine
from innv_ext.backend import linear as kernels
from innv_ext.backend.graph import Arg, Call
from innv_ext.errors import UnsupportedModelError

FIRST = {"data_format": "channels_first"}
F32 = {"dtype": "float32"}  # TensorFlow has no float64 kernels for channels_first or dilated transposition on CPU

# name: (layer class, its arguments, shape of one sample)
LAYERS = {
    "dense": (L.Dense, {"units": 4}, (5,)),
    "dense_3d": (L.Dense, {"units": 4}, (3, 5)),
    "dense_no_bias": (L.Dense, {"units": 4, "use_bias": False}, (5,)),
    "einsum": (L.EinsumDense, {"equation": "abc,cd->abd", "output_shape": (3, 4), "bias_axes": "d"}, (3, 2)),
    "einsum_heads": (L.EinsumDense, {"equation": "abc,cde->abde", "output_shape": (3, 2, 5), "bias_axes": "de"},
                     (3, 4)),
    "einsum_merge": (L.EinsumDense, {"equation": "abcd,cde->abe", "output_shape": (3, 5), "bias_axes": "e"}, (3, 2, 4)),
    "einsum_ellipsis": (L.EinsumDense, {"equation": "...x,xy->...y", "output_shape": 4, "bias_axes": "y"}, (3, 2)),
    "einsum_ellipsis_last": (L.EinsumDense, {"equation": "ab...,bc->ac...", "output_shape": 4, "bias_axes": "c"},
                             (2, 3)),
    "einsum_positions": (L.EinsumDense, {"equation": "abc,cd->abd", "output_shape": (3, 4), "bias_axes": "bd"}, (3, 2)),
    "einsum_transposed": (L.EinsumDense, {"equation": "abc,cd->adb", "output_shape": (4, 3), "bias_axes": "d"}, (3, 2)),
    "einsum_shared_label": (L.EinsumDense, {"equation": "abc,bcd->abd", "output_shape": (3, 4)}, (3, 2)),
    "einsum_scale": (L.EinsumDense, {"equation": "abc,c->abc", "output_shape": (3, 4)}, (3, 4)),
    "conv1d": (L.Conv1D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (6, 2)),
    "conv1d_causal": (L.Conv1D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"}, (6, 2)),
    "conv1d_groups": (L.Conv1D, {"filters": 6, "kernel_size": 2, "groups": 2}, (5, 4)),
    "conv2d": (L.Conv2D, {"filters": 3, "kernel_size": (2, 3), "strides": (2, 1), "padding": "same"}, (4, 5, 2)),
    "conv2d_dilated": (L.Conv2D, {"filters": 3, "kernel_size": 2, "dilation_rate": (2, 1)}, (4, 5, 2)),
    "conv2d_first": (L.Conv2D, {"filters": 4, "kernel_size": 2, **FIRST, **F32}, (2, 4, 3)),
    "conv1d_causal_first": (L.Conv1D, {"filters": 4, "kernel_size": 2, "padding": "causal", **FIRST, **F32}, (2, 5)),
    "conv3d": (L.Conv3D, {"filters": 3, "kernel_size": 2, "strides": (1, 2, 1), "padding": "same"}, (2, 3, 4, 2)),
    "depthwise1d": (L.DepthwiseConv1D, {"kernel_size": 2, "depth_multiplier": 3}, (5, 2)),
    "depthwise2d": (L.DepthwiseConv2D, {"kernel_size": 2, "depth_multiplier": 3, "padding": "same"}, (3, 4, 2)),
    "depthwise2d_first": (L.DepthwiseConv2D, {"kernel_size": 2, "depth_multiplier": 3, **FIRST, **F32}, (2, 3, 4)),
    "conv1d_transpose": (L.Conv1DTranspose, {"filters": 3, "kernel_size": 2, "strides": 2, "output_padding": 1},
                         (4, 2)),
    "conv2d_transpose": (L.Conv2DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
                         (3, 2, 2)),
    "conv2d_transpose_dilated": (L.Conv2DTranspose, {"filters": 3, "kernel_size": 2, "dilation_rate": 2, **F32},
                                 (3, 2, 2)),
    "conv3d_transpose": (L.Conv3DTranspose, {"filters": 3, "kernel_size": 2, "strides": 2}, (2, 1, 2, 2)),
    "separable1d": (L.SeparableConv1D, {"filters": 4, "kernel_size": 3, "depth_multiplier": 2}, (5, 2)),
    "separable2d": (L.SeparableConv2D, {"filters": 5, "kernel_size": 2, "depth_multiplier": 2, "strides": 2,
                                        "padding": "same"}, (3, 4, 2)),
}
SEPARABLE = ("separable1d", "separable2d")


def randomise(layer, name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])


@functools.cache
def built(name, activation="tanh"):
    """(layer with an activation, inputs of mixed sign)."""
    cls, arguments, shape = LAYERS[name]
    layer = cls(activation=activation, **{"dtype": "float64", **arguments})
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, *shape)).astype(layer.compute_dtype))
    try:
        layer(x)
    except tf.errors.InvalidArgumentError:
        pytest.skip("TensorFlow cannot run this layer on this CPU")
    randomise(layer, name)
    return layer, x


def without_activation(name):
    """The layer's own answer before its activation."""
    layer, x = built(name)
    linear, _ = built(name, None)
    linear.set_weights(layer.get_weights())
    return np.asarray(linear(x))


def close(a, b, layer):
    tolerance = 1e-12 if layer.compute_dtype == "float64" else 1e-5
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_affine_is_the_layer_without_its_activation(name):
    layer, x = built(name)
    found, z = kernels.affine_of(layer), without_activation(name)
    close(found(x), z, layer)
    close(np.tanh(z), layer(x), layer)
    bias = found.bias(x)
    assert (bias is None) == (not getattr(layer, "use_bias", getattr(layer, "bias", None) is not None))
    close(z - (0.0 if bias is None else np.asarray(bias)), kernels.bilinear(layer, x, found.kernel()), layer)


@pytest.mark.parametrize("name", LAYERS)
def test_bilinear_is_linear_in_both(name):
    """f(a x + b y, k) = a f(x, k) + b f(y, k), and the same for the kernel."""
    layer, x = built(name)
    k = kernels.affine_of(layer).kernel()
    rng = np.random.default_rng(3)
    y, m = (ops.convert_to_tensor(rng.normal(size=t.shape).astype(layer.compute_dtype)) for t in (x, k))
    f = functools.partial(kernels.bilinear, layer)
    close(f(2.0 * x - 3.0 * y, k), 2.0 * f(x, k) - 3.0 * f(y, k), layer)
    close(f(x, 2.0 * k - 3.0 * m), 2.0 * f(x, k) - 3.0 * f(x, m), layer)


def per_channel(factor, axis, rank):
    shape = [1] * rank
    shape[axis] = -1
    return np.reshape(factor, shape)


@pytest.mark.parametrize("how", ["scale_outputs", "scale_inputs"])
@pytest.mark.parametrize("name", LAYERS)
def test_scaled_kernels(name, how):
    """A factor per output (input) channel in the kernel is the same factor on the output (input)."""
    layer, x = built(name)
    found = kernels.affine_of(layer)
    scale, k = getattr(found, how), found.kernel()
    missing = {"einsum_transposed", "einsum_ellipsis_last", *SEPARABLE} if how == "scale_outputs" else {
        *(n for n in LAYERS if n.startswith("einsum")), "conv1d_groups", *SEPARABLE}
    if name in missing:
        assert scale is None  # no axis of the kernel stands for the channel axis alone
        return
    z = kernels.bilinear(layer, x, k)
    axis = found.channel_axis
    factor = np.random.default_rng(4).normal(size=(z if how == "scale_outputs" else x).shape[axis])
    factor = factor.astype(layer.compute_dtype)
    wide = per_channel(factor, axis, len(x.shape if how == "scale_inputs" else z.shape))
    scaled = kernels.bilinear(layer, x, scale(k, ops.convert_to_tensor(factor)))
    close(scaled, np.asarray(z) * wide if how == "scale_outputs" else kernels.bilinear(layer, x * wide, k), layer)


@pytest.mark.parametrize("name", SEPARABLE)
def test_separable_parts(name):
    """Depthwise, then pointwise with the bias; each part scales like any other."""
    layer, x = built(name)
    depthwise, pointwise = kernels.separable_parts(layer)
    close(pointwise(depthwise(x)), without_activation(name), layer)
    assert depthwise.bias(x) is None
    h = depthwise(x)
    rng = np.random.default_rng(5)
    for part, t in ((depthwise, x), (pointwise, h)):
        k, z = part.kernel(), part.bilinear(t, part.kernel())
        out, inside = (rng.normal(size=v.shape[-1]) for v in (z, t))
        close(part.bilinear(t, part.scale_outputs(k, ops.convert_to_tensor(out))), np.asarray(z) * out, layer)
        scaled = part.scale_inputs(k, ops.convert_to_tensor(inside))
        close(part.bilinear(t, scaled), part.bilinear(t * inside, k), layer)


def test_weights_are_read_when_it_runs():
    layer, x = built("dense")
    found = kernels.affine_of(layer)
    before = np.asarray(found(x))
    old = layer.get_weights()
    layer.set_weights([2 * w for w in old])
    try:
        close(found(x), 2 * before, layer)
    finally:
        layer.set_weights(old)


def test_half_precision_input_is_raised_to_the_weights():
    """A mixed-precision layer computes in float16 but is explained with its float32 weights."""
    layer = L.Dense(3, dtype="mixed_float16")
    x = np.array([[1.0, 2.0, 3.0, 4.0]], "float16")
    layer(x)
    randomise(layer, "mixed")
    received = kernels.affine_of(layer)(ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(received.dtype) == "float32"
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(received, x.astype("float32") @ kernel + bias, rtol=1e-6)


# --- composition -------------------------------------------------------------------------------------------------


FOLDS = ("dense", "dense_3d", "dense_no_bias", "conv1d_causal", "conv2d", "conv2d_first", "conv3d", "depthwise2d",
         "depthwise2d_first", "conv2d_transpose")


@pytest.mark.parametrize("name", FOLDS)
def test_fold_after(name):
    """scale * layer(x) + shift per channel, as one affine map."""
    layer, x = built(name)
    found = kernels.affine_of(layer)
    z = np.asarray(found(x))
    rng = np.random.default_rng(6)
    scale, shift = (rng.normal(size=z.shape[found.channel_axis]).astype(layer.compute_dtype) for _ in range(2))
    folded = affine.fold_after(found, found.channel_axis, lambda: tuple(map(ops.convert_to_tensor, (scale, shift))))
    factor, offset = (per_channel(v, found.channel_axis, z.ndim) for v in (scale, shift))
    close(folded(x), factor * z + offset, layer)


@pytest.mark.parametrize("name", FOLDS)
def test_fold_before(name):
    """layer(scale * x + shift); zero padding stays zero, so the bias is a map."""
    layer, x = built(name)
    found = kernels.affine_of(layer)
    rng = np.random.default_rng(7)
    scale, shift = (rng.normal(size=x.shape[found.channel_axis]).astype(layer.compute_dtype) for _ in range(2))
    folded = affine.fold_before(found, found.channel_axis, lambda: tuple(map(ops.convert_to_tensor, (scale, shift))))
    factor, offset = (per_channel(v, found.channel_axis, len(x.shape)) for v in (scale, shift))
    close(folded(x), found(factor * x + offset), layer)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (3, 4), (2, 3, 3)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_elementwise(axis, shape):
    """kernel * x + bias along any axis, also where another axis has the same length."""
    size = shape[axis]
    rng = np.random.default_rng(8)
    kernel, bias = (ops.convert_to_tensor(rng.normal(size=size)) for _ in range(2))
    found = affine.elementwise(None, axis, lambda: (kernel, bias))
    x = rng.normal(size=(2, *shape))
    wide = [per_channel(np.asarray(v), axis, x.ndim) for v in (kernel, bias)]
    np.testing.assert_allclose(found(ops.convert_to_tensor(x)), wide[0] * x + wide[1], rtol=1e-12)


@pytest.mark.parametrize("params", [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_batchnorm_vectors(params):
    """(mean, 1 / sqrt(variance + epsilon), gamma, beta); ones and zeros where the layer has none."""
    layer = L.BatchNormalization(epsilon=0.05, dtype="float64", **params)
    layer.build((None, 4))
    randomise(layer, "batchnorm")
    layer.moving_variance.assign(np.abs(layer.moving_variance) + 0.1)
    mean, inverse, gamma, beta = (np.asarray(v) for v in affine.batchnorm_vectors(layer))
    x = np.random.default_rng(9).normal(size=(3, 4))
    np.testing.assert_allclose((x - mean) * inverse * gamma + beta, layer(x, training=False), rtol=1e-12)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(np.asarray(layer.moving_variance) + 0.05), rtol=1e-12)


# --- operations with a constant ----------------------------------------------------------------------------------


W = np.random.default_rng(10).normal(size=(4, 3))
OPERATIONS = {
    "matmul": (ops.matmul, (Arg(0), W), (2, 4)),
    "matmul_left": (ops.matmul, (W.T, Arg(0)), (4, 2)),
    "dot": (ops.dot, (Arg(0), W), (2, 4)),
    "einsum": (ops.einsum, ("bti,io->bto", Arg(0), W), (2, 5, 4)),
    "einsum_constant_first": (ops.einsum, ("io,bi->bo", W, Arg(0)), (2, 4)),
    "conv": (ops.conv, (Arg(0), W[None], 1, "same"), (2, 5, 4)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_affine_operation(name):
    """The constant operand is the kernel, on whatever side it stands; the result is linear in it."""
    op, args, shape = OPERATIONS[name]
    call = Call(op, args)
    found = affine.affine_op(call)
    x = ops.convert_to_tensor(np.random.default_rng(11).normal(size=shape))
    np.testing.assert_allclose(found(x), call(x), rtol=1e-12)
    assert found.bias(x) is None
    np.testing.assert_allclose(found.bilinear(x, 2.0 * found.kernel()), 2.0 * np.asarray(call(x)), rtol=1e-12)


@pytest.mark.parametrize("args", [(Arg(0), Arg(1)), (Arg(0), Arg(0)), (W, W.T)])
def test_products_of_two_tensors_are_not_affine(args):
    assert affine.affine_op(Call(ops.matmul, args)) is None


# --- the table ---------------------------------------------------------------------------------------------------


def test_subclasses_count_as_their_base_unless_they_override_call():
    class Same(L.Dense):
        pass

    class Other(L.Dense):
        def call(self, x):
            return super().call(x) ** 2

    assert kernels.linear_kind(Same(3)) is kernels.linear_kind(L.Dense(3))
    assert kernels.linear_kind(Other(3)) is None
    assert kernels.linear_kind(L.LayerNormalization()) is None
    assert kernels.linear_kind("Dense") is None


def test_a_users_layer_is_taught_once():
    """Attribute names or functions; the activation is found too."""

    class Diagonal(keras.layers.Layer):
        def build(self, shape):
            self.d, self.shift = (self.add_weight(shape=(shape[-1],), name=n) for n in ("d", "shift"))
            self.squash = keras.activations.tanh

        def call(self, x):
            return self.squash(x * self.d + self.shift)

    layer = Diagonal(dtype="float64")
    x = ops.convert_to_tensor(np.random.default_rng(12).normal(size=(3, 4)))
    layer(x)
    randomise(layer, "diagonal")
    with pytest.raises(UnsupportedModelError, match="register_bilinear"):
        kernels.bilinear(layer, x, layer.d)
    innv_ext.register_bilinear(Diagonal, kernel="d", bias=lambda layer: layer.shift, activation="squash")(
        lambda layer, x, kernel: x * kernel)
    found = kernels.affine_of(layer)
    np.testing.assert_allclose(np.tanh(found(x)), layer(x), rtol=1e-12)
    assert kernels.linear_kind(layer).activation(layer) is keras.activations.tanh
    assert found.scale_outputs is None and found.scale_inputs is None


def test_only_layer_classes_can_be_taught():
    with pytest.raises(UnsupportedModelError, match="layer class"):
        innv_ext.register_bilinear(L.Dense(3))
