"""Slow, obvious reference versions of the relevance rules, in numpy float64, from the formulas alone.

Everything affine is a dense matrix here: ``W`` (inputs x outputs, both flattened) and ``b`` (outputs), found by feeding
unit vectors to the layer. A rule takes ``x`` (batch, inputs), ``W``, ``b`` and ``r`` (batch, outputs) and returns the
relevance of the inputs (batch, inputs). Nothing here uses innv_ext.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


def flat(a):
    """(batch, anything) as (batch, values) in float64."""
    a = np.asarray(a, "float64")
    return a.reshape(len(a), -1)


# --- dense matrices ----------------------------------------------------------------------------------------------


def matrix_of(function, shape, dtype="float64"):
    """(W, b) of an affine ``function`` of batches of ``shape``: its answers to unit vectors, less that to zero."""
    size = int(np.prod(shape))
    probes = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape).astype(dtype)
    answers = flat(function(probes))
    return answers[1:] - answers[0], answers[0]


@contextmanager
def other_weights(layer, kernel):
    """The layer with ``kernel(its first weight)`` as first weight and zeros in all others."""
    before = layer.get_weights()
    layer.set_weights([kernel(w) if i == 0 else np.zeros_like(w) for i, w in enumerate(before)])
    try:
        yield layer
    finally:
        layer.set_weights(before)


def dense_matrix(layer, shape):
    """(W, b) of a built affine Keras layer without activation, for inputs of ``shape`` (no batch axis).

    Its first weight must be the kernel. W is found without the bias, so that its entries are exact.
    """
    with other_weights(layer, lambda w: w):
        W = matrix_of(layer, shape, layer.compute_dtype)[0]
    return W, flat(layer(np.zeros((1, *shape), layer.compute_dtype)))[0]


def connections(layer, shape):
    """Which input feeds which output (0 or 1): the dense matrix of the layer with a kernel of ones.

    An entry of the matrix of a linear layer is a single weight of its kernel, so this is 0 or 1; zero padding is
    no input and does not appear.
    """
    with other_weights(layer, np.ones_like):
        return matrix_of(layer, shape, layer.compute_dtype)[0]


@dataclass(frozen=True)
class Matrix:
    """One affine step of a net: matrix, bias, and which entries exist."""

    W: np.ndarray
    b: np.ndarray
    C: np.ndarray

    @classmethod
    def of(cls, layer, shape):
        """From a built layer whose first weight is the kernel."""
        return cls(*dense_matrix(layer, shape), connections(layer, shape))

    def __call__(self, x):
        return x @ self.W + self.b


def pos(a):
    return np.where(a > 0, a, 0.0)


def neg(a):
    return np.where(a < 0, a, 0.0)


# --- the rules of affine nodes -----------------------------------------------------------------------------------


def stabilise(z, epsilon=0.0):
    """z + epsilon * sign(z) with sign(0) = +1; without epsilon only z = 0 is moved."""
    z = np.asarray(z, "float64")
    if epsilon == 0:
        return np.where(z == 0, 1e-7, z)
    return z + epsilon * np.where(z < 0, -1.0, 1.0)


def shares(c, rest, r, epsilon=0.0):
    """R_i = sum_j c_ij r_j / stabilise(sum_i c_ij + rest_j) for contributions c (batch, inputs, outputs)."""
    z = c.sum(axis=1) + rest
    return (c * (r / stabilise(z, epsilon))[:, None, :]).sum(axis=2)


def contributions(x, W):
    """c_ij = x_i w_ij, per sample."""
    return x[:, :, None] * W[None]


def epsilon(x, W, b, r, epsilon=1e-7, bias=True):
    return shares(contributions(x, W), b if bias else 0.0, r, epsilon)


def z(x, W, b, r, bias=True):
    return epsilon(x, W, b, r, 0.0, bias)


def alpha_beta(x, W, b, r, alpha=2.0, beta=1.0, bias=True):
    """alpha * positive part - beta * negative part; b+ belongs to the positive denominator, b- to the negative."""
    c, b = contributions(x, W), b if bias else np.zeros_like(b)
    return alpha * shares(pos(c), pos(b), r) - beta * shares(neg(c), neg(b), r)


def gamma(x, W, b, r, gamma=0.25, bias=True):
    """Contributions c + gamma c+ where z > 0 and c + gamma c- elsewhere; the bias is one contribution more."""
    c, b = contributions(x, W), b if bias else np.zeros_like(b)
    up = (c.sum(axis=1) + b) > 0
    c = c + gamma * np.where(up[:, None, :], pos(c), neg(c))
    b = b + gamma * np.where(up, pos(b), neg(b))
    return shares(c, b, r)


def z_plus(x, W, b, r):
    """x+ w+ + x- w-, which is x w+ on non-negative inputs."""
    return shares(pos(contributions(x, W)), 0.0, r)


def z_plus_fast(x, W, b, r):
    return shares(contributions(x, pos(W)), 0.0, r)


def w_square(x, W, b, r):
    return shares(np.broadcast_to(W**2, (len(x), *W.shape)), 0.0, r)


def flat_rule(x, C, b, r):
    """The same for every input that exists; takes the connections instead of the weights."""
    return shares(np.broadcast_to(C, (len(x), *C.shape)), 0.0, r)


def bounded(x, W, b, r, low=0.0, high=1.0, shape=None):
    """z^B: x w - low w+ - high w-; low and high broadcast to one sample of ``shape``."""
    low, high = (np.broadcast_to(v, shape or x.shape[1:]).reshape(-1) for v in (low, high))
    c = contributions(x, W) - low[None, :, None] * pos(W) - high[None, :, None] * neg(W)
    return shares(c, 0.0, r)


def hui_binder(x, W, b, r):
    """Weights 2 and -1 for x+ w+ and x+ w-, 0 for negative inputs, for a diagonal W (batch normalisation)."""
    up = shares(contributions(pos(x), pos(W)), pos(b), r)
    down = shares(contributions(pos(x), neg(W)), neg(b), r)
    return 2 * up - down


def linear(x, W, r):
    """The Z rule of a linear node without a kernel; an output of zero spreads in proportion to |w|: none is lost."""
    y = x @ W
    by_share = contributions(x, W) / np.where(y == 0, 1.0, y)[:, None, :]
    evenly = np.abs(W) / np.maximum(np.abs(W).sum(axis=0), 1e-300)
    return (np.where(y[:, None, :] == 0, evenly, by_share) * r[:, None, :]).sum(axis=2)


# --- max pooling and batch normalisation -------------------------------------------------------------------------


def max_pool(x, r, windows):
    """Winner takes all: ``windows`` lists, for each output value, its input positions in row-major order."""
    found = np.zeros_like(x)
    for sample in range(len(x)):
        for j, window in enumerate(windows):
            winner = max(window, key=lambda i: x[sample, i])  # max() keeps the first of equal values
            found[sample, winner] += r[sample, j]
    return found


def batchnorm_vectors(layer):
    """(scale, shift) per channel of a BatchNormalization layer in inference: y = scale * x + shift."""
    mean, variance = (np.asarray(v, "float64") for v in (layer.moving_mean, layer.moving_variance))
    gamma = np.asarray(layer.gamma, "float64") if layer.scale else np.ones_like(mean)
    beta = np.asarray(layer.beta, "float64") if layer.center else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def diagonal(scale, shift, shape, axis):
    """(W, b) of y = scale * x + shift along ``axis`` (batch axis counted, as in Keras) of one sample of ``shape``."""
    along = [1] * len(shape)
    along[axis - 1 if axis > 0 else axis] = -1
    scale, shift = (np.broadcast_to(np.reshape(v, along), shape).reshape(-1) for v in (scale, shift))
    return np.diag(scale), shift


# --- whole nets --------------------------------------------------------------------------------------------------


def chain(x, steps, seed):
    """Relevance of x through [(Matrix, rule), ...] with a ReLU between two steps.

    ``seed(y)`` is what enters at the end; ``rule(x, matrix, r)`` explains one step.
    """
    inputs = []
    for k, (matrix, _) in enumerate(steps):
        inputs.append(x)
        y = matrix(x)
        x = pos(y) if k + 1 < len(steps) else y
    r = seed(y)
    for (matrix, rule), x in zip(reversed(steps), reversed(inputs)):
        r = rule(x, matrix, r)
    return r
