"""Nets, and slow derivatives of their cross-entropy, that the tests of CAFO, CASO and input Hessians share.

Gradients come from TensorFlow on the Keras model itself, Hessians from central differences of these gradients.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
import zoo
from keras import layers, ops

from innv_ext.analyzers import CASO

SMOOTH, PIECEWISE = {}, {}
BINARY, FLOAT32 = {"sigmoid", "sigmoid_map"}, {"volume"}  # no float64 kernel for 3-d pooling on the CPU
RTOL = {"volume": 1e-5, "bilinear": 1e-4}  # TensorFlow interpolates in float32; of all others 1e-7


def _add(table):
    return lambda builder: table.setdefault(builder.__name__, builder)


def _image_net(*parts, shape=(4, 4, 2), classes=3):
    return keras.Sequential([keras.Input(shape), *parts, layers.Flatten(), layers.Dense(classes)])


@_add(SMOOTH)
def softplus():
    return keras.Sequential([keras.Input((5,)), layers.Dense(7, activation="softplus"), layers.Dense(3)])


@_add(SMOOTH)
def tanh():
    parts = [layers.Dense(6, activation="tanh"), layers.Dense(6, activation="tanh")]
    return keras.Sequential([keras.Input((5,)), *parts, layers.Dense(3, activation="softmax")])


@_add(SMOOTH)
def gelu():
    return _image_net(layers.Conv2D(3, 2, activation="gelu"), layers.MaxPooling2D(2))


@_add(SMOOTH)
def layernorm():
    i = keras.Input((4, 3))
    y = layers.Add()([i, layers.LayerNormalization()(layers.Dense(3)(i))])
    y = layers.GroupNormalization(3)(layers.Dense(6, activation="elu")(y))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


@_add(SMOOTH)
def attention():
    i = keras.Input((4, 3))
    y = layers.Add()([i, layers.MultiHeadAttention(2, 3)(i, i)])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.UnitNormalization()(y))))


@_add(SMOOTH)
def smooth_residual():
    i = keras.Input((4, 4, 2))
    y = layers.Conv2D(2, 3, padding="same", activation="silu")(i)
    z = layers.BatchNormalization()(layers.Conv2D(2, 3, padding="same")(y))
    y = layers.AveragePooling2D(2)(layers.Activation("sigmoid")(layers.Add()([y, z])))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


@_add(SMOOTH)
def smooth_two_inputs():
    a, b = keras.Input((3, 3, 1), name="image"), keras.Input((4,), name="table")
    y = layers.Flatten()(layers.Conv2D(2, 2, activation="softplus")(a))
    y = layers.Concatenate()([y, layers.Dense(3, activation="tanh")(b)])
    return keras.Model([a, b], layers.Dense(3)(layers.Dense(4, activation="softplus")(y)))


@_add(SMOOTH)
def bilinear():
    """Up-sampling by interpolation between convolutions, as in segmentation."""
    parts = [layers.Conv2D(2, 2), layers.UpSampling2D(2, interpolation="bilinear"), layers.Activation("softplus")]
    return _image_net(*parts, shape=(3, 3, 2))


@_add(SMOOTH)
def norms():
    """Normalisation over every axis, and by operations: TensorFlow's moments hold the mean constant in the variance."""
    i = keras.Input((4, 3, 2))
    y = layers.LayerNormalization(axis=(1, 3), epsilon=0.1)(i)
    y = layers.GroupNormalization(2, axis=1, scale=False)(layers.Activation("tanh")(y))
    y = ops.layer_normalization(layers.Dense(3)(y), axis=-1, epsilon=0.1)
    mean, variance = ops.moments(y, axes=[1])
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(layers.Concatenate()([mean, ops.sqrt(variance)]))))


@_add(SMOOTH)
def gated():
    i = keras.Input((5,))
    return keras.Model(i, layers.Dense(3)(layers.Dense(4, activation="relu")(i) * layers.Dense(4)(i)))


@_add(PIECEWISE)
def dense():
    parts = [layers.Dense(8, activation="relu"), layers.Dense(6), layers.LeakyReLU(0.2)]
    return keras.Sequential([keras.Input((6,)), *parts, layers.Dense(4, activation="softmax")])


@_add(PIECEWISE)
def two_classes():
    return keras.Sequential([keras.Input((5,)), layers.Dense(6, activation="relu"), layers.Dense(2)])


@_add(PIECEWISE)
def max_pooling():
    return _image_net(layers.Conv2D(4, 2, activation="relu", padding="same"), layers.MaxPooling2D(2))


@_add(PIECEWISE)
def average_pooling():
    return _image_net(layers.Conv2D(4, 2, padding="same"), layers.PReLU(), layers.AveragePooling2D(2))


@_add(PIECEWISE)
def global_pooling():
    """Nothing but a maximum between input and logits."""
    return _image_net(layers.GlobalMaxPooling2D(), shape=(3, 3, 4))


@_add(PIECEWISE)
def batchnorm():
    parts = [layers.Conv2D(3, 2), layers.BatchNormalization(), layers.ReLU(6.0), layers.BatchNormalization()]
    return _image_net(*parts)


@_add(PIECEWISE)
def residual():
    i = keras.Input((4, 4, 2))
    y = layers.Conv2D(2, 3, padding="same", activation="relu")(i)
    y = layers.ReLU()(layers.Add()([y, layers.Conv2D(2, 3, padding="same")(y)]))
    y = layers.Maximum()([y, layers.Conv2D(2, 1)(y)])
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


@_add(PIECEWISE)
def shared():
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu")])
    return keras.Model([a, b], layers.Dense(3)(layers.Concatenate()([tower(a), tower(b)])))


@_add(PIECEWISE)
def two_inputs():
    a, b = keras.Input((3, 3, 1), name="image"), keras.Input((4,), name="table")
    y = layers.Flatten()(layers.Conv2D(2, 2, activation="relu")(a))
    return keras.Model([a, b], layers.Dense(3)(layers.Concatenate()([y, layers.Dense(3, activation="relu")(b)])))


@_add(PIECEWISE)
def sigmoid():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(4, activation="sigmoid")(layers.Dense(5, activation="relu")(i)))


@_add(PIECEWISE)
def sigmoid_map():
    i = keras.Input((3, 3, 2))
    return keras.Model(i, layers.Conv2D(2, 2, activation="sigmoid")(layers.Conv2D(3, 1, activation="relu")(i)))


@_add(PIECEWISE)
def segmentation():
    i = keras.Input((3, 3, 2))
    return keras.Model(i, layers.Conv2D(3, 2, activation="softmax")(layers.Conv2D(4, 1, activation="relu")(i)))


@_add(PIECEWISE)
def volume():
    parts = [layers.Conv3D(3, 2, activation="relu"), layers.MaxPooling3D(2, 1), layers.AveragePooling3D(2, 1)]
    return _image_net(*parts, shape=(4, 4, 4, 1))


NETS = {**SMOOTH, **PIECEWISE}


def build(name, dtype):
    """A net with random weights."""
    keras.utils.set_random_seed(0)
    with zoo.precision(dtype):
        net = NETS[name]()
    return zoo.randomise(net, len(name))


@functools.cache
def make(name, dtype="float64", count=3):
    """(net, inputs as a list, the flat index of a class per sample)."""
    net = build(name, "float32" if name in FLOAT32 else dtype)
    rng = np.random.default_rng(1)
    xs = [rng.uniform(-1, 1, (count, *i.shape[1:])).astype(i.dtype) for i in net.inputs]
    return net, xs, np.arange(count) * 5 % int(np.prod(net.output_shape[1:]))


def fed(xs):
    """As the model takes it."""
    return xs[0] if len(xs) == 1 else xs


def selection(net, target):
    """Flat indices as ``neuron_selection``."""
    shape = net.output_shape[1:]
    return target if len(shape) == 1 else np.stack(np.unravel_index(target, shape), axis=1)


def flat(arrays):
    """One vector per sample from one array per input."""
    return np.concatenate([np.reshape(a, (len(a), -1)) for a in arrays], axis=1).astype("float64")


def shift(xs, step):
    """x + step, in float64 where x is."""
    ends = np.cumsum([x[0].size for x in xs])[:-1]
    parts = np.split(step, ends, axis=1)
    return [x + p.reshape(x.shape).astype(x.dtype) for x, p in zip(xs, parts, strict=True)]


def loss(net, xs, target):
    """-log of the probability of the target, from the output of the whole model."""
    y = net(xs[0] if len(xs) == 1 else list(xs), training=False)
    last = net.layers[-1]
    key = last.activation.__name__
    log_p = ops.log(y) if key in ("softmax", "sigmoid") else ops.log_softmax(y)
    return -tf.gather(tf.reshape(log_p, (len(target), -1)), target[:, None], batch_dims=1)[:, 0]


def gradient(net, xs, target):
    """dl/dx, (samples, d)."""
    tensors = [tf.constant(x) for x in xs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(net, tensors, np.asarray(target))
    return flat([np.asarray(g) for g in tape.gradient(value, tensors, unconnected_gradients="zero")])


def hessian(net, xs, target, h=1e-5):
    """d2l/dx2, (samples, d, d): five-point differences of the gradient along each axis."""
    count, d = len(target), flat(xs).shape[1]
    total = 0.0
    for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = shift([np.repeat(x, d, axis=0) for x in xs], np.tile(steps * h * np.eye(d), (count, 1)))
        total = total + weight * gradient(net, moved, np.repeat(target, d))
    found = (total / (12 * h)).reshape(count, d, d)
    return (found + np.swapaxes(found, 1, 2)) / 2


def hessian_of_pieces(net, xs):
    """J (diag p - p p') J' with the Jacobian J of the logits, for piecewise linear nets that end with logits."""
    x = tf.constant(xs[0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = net(x, training=False)
    jacobian = np.asarray(tape.batch_jacobian(y, x), "float64").reshape(len(x), y.shape[1], -1)
    p = np.asarray(ops.softmax(y), "float64")
    return np.swapaxes(jacobian, 1, 2) @ (p[:, :, None] * (np.eye(p.shape[1]) - p[:, None])) @ jacobian


@functools.cache
def derivatives(name):
    """(g, H) of ``make(name)``; differences of float32 gradients would cross kinks or drown in rounding."""
    net, xs, target = make(name)
    if name in FLOAT32:
        return gradient(net, xs, target), hessian_of_pieces(net, xs)
    return gradient(net, xs, target), hessian(net, xs, target, 1e-2 if name in RTOL else 1e-5)


def curvature(net, xs, target, size=64, mode="index", **params):
    """What CASO uses: (analyzer, gradient and Hessian of the loss at x)."""
    analyzer = CASO(net, progress=False, **params)
    return analyzer, analyzer.curvature(list(xs), np.asarray(target, "int32"), size, mode)


def columns(curve):
    """All products with unit vectors: H, (samples, d, d)."""
    count, d = len(curve.target), curve.loss.features.count
    products = curve.product(np.tile(np.eye(d), (count, 1)), np.repeat(np.arange(count), d))
    return products.reshape(count, d, d)


def linear(w, b=None, dtype="float64"):
    """The logits x w + b."""
    with zoo.precision(dtype):
        net = keras.Sequential([keras.Input((w.shape[0],)), layers.Dense(w.shape[1])])
    net.set_weights([w, np.zeros(w.shape[1]) if b is None else b])
    return net


def close(a, b, rtol):
    """Equal up to rounding, in the scale of all values."""
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())
