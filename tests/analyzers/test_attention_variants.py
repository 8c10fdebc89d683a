"""AttnLRP and CP-LRP on what newer transformers have: positions in scores, windows, caps, shared heads, experts.

Each network is one function. As a layer it is opened and explained; with parts of it held constant, its gradient times
the input is the map (Arras et al. 2025, arXiv 2502.15886).
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.backend import numerics

STEPS, WIDTH, HEADS, EXPERTS = 5, 8, 2, 4
TINY = 1e-13


class Plain:
    """The network as it is."""

    def product(self, f, a, b):
        return f(a, b)

    def active(self, f, x):
        return f(x)

    def held(self, x):
        return x

    def gate(self, x):
        return x

    weights = gate


class AttnLRP(Plain):
    """Products are the mean of both ways to hold a factor; activations are a constant times their input."""

    def product(self, f, a, b):
        return (f(a, ops.stop_gradient(b)) + f(ops.stop_gradient(a), b)) / 2

    def active(self, f, x):
        return x * ops.stop_gradient(f(x) / x)

    def held(self, x):
        return ops.stop_gradient(x)


class CPLRP(AttnLRP):
    """Attention weights and gates are constants."""

    def product(self, f, a, b):
        return f(a, b)

    def gate(self, x):
        return ops.stop_gradient(x)

    weights = gate


class Network(L.Layer):
    """One block of attention, one of experts or of gates, and a head, without biases."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def build(self, shape):
        add = functools.partial(self.add_weight, initializer=keras.initializers.RandomNormal(stddev=0.6))
        shared = HEADS // 2 if self.kind == "shared heads" else HEADS
        size = WIDTH // HEADS
        self.wq, self.wo = add(shape=(WIDTH, HEADS, size)), add(shape=(HEADS, size, WIDTH))
        self.wk, self.wv = add(shape=(WIDTH, shared, size)), add(shape=(WIDTH, shared, size))
        self.bias = add(shape=(HEADS, 2 * STEPS - 1))
        self.router = add(shape=(WIDTH, EXPERTS))
        self.up, self.gates = add(shape=(EXPERTS, WIDTH, 6)), add(shape=(EXPERTS, WIDTH, 6))
        self.down, self.head = add(shape=(EXPERTS, 6, WIDTH)), add(shape=(WIDTH, 3))

    def call(self, x):
        return self.logits(x, Plain())

    def logits(self, x, how):
        h = x + self.attention(self.norm(x, how), how)
        h = h + (self.experts if "experts" in self.kind else self.inner)(self.norm(h, how), how)
        return ops.matmul(ops.mean(h, axis=1), self.head)

    def norm(self, x, how):
        return x / how.held(ops.sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6))

    def attention(self, x, how):
        q, k, v = (ops.einsum("btd,dnh->btnh", x, w) for w in (self.wq, self.wk, self.wv))
        if self.kind == "shared heads":
            k, v = ops.repeat(k, 2, axis=2), ops.repeat(v, 2, axis=2)
        if self.kind == "rotary":
            q, k = self.turned(q), self.turned(k)
        scores = how.product(lambda a, b: ops.einsum("btnh,bsnh->bnts", a, b), q, k) / np.sqrt(WIDTH / HEADS)
        apart = np.arange(STEPS)[:, None] - np.arange(STEPS)
        if self.kind == "alibi":
            scores = scores - np.abs(apart) * np.array([0.5, 0.25])[:, None, None]
        if self.kind == "relative bias":
            scores = scores + ops.take(self.bias, apart + STEPS - 1, axis=1)
        if self.kind == "soft cap":
            scores = how.active(ops.tanh, scores / 0.7) * 0.7
        if self.kind == "sliding window":
            open_ = ops.convert_to_tensor((apart >= 0) & (apart < 3))
            scores = ops.where(open_, scores, ops.cast(-1e9, scores.dtype))
        weights = how.weights(ops.softmax(scores, axis=-1))
        y = how.product(lambda a, b: ops.einsum("bnts,bsnh->btnh", a, b), weights, v)
        return ops.einsum("btnh,nhd->btd", y, self.wo)

    def turned(self, x):
        """Rotary positions on halves of each head."""
        a, b = ops.split(x, 2, axis=-1)
        size = WIDTH // HEADS // 2
        angle = (np.arange(STEPS)[:, None] / 10.0 ** (np.arange(size) / size))[:, None]
        cos, sin = np.cos(angle), np.sin(angle)
        return ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def inner(self, x, how, expert=0):
        """SwiGLU, or GEGLU."""
        f = ops.silu if self.kind != "geglu" else functools.partial(ops.gelu, approximate=True)
        gate = how.gate(how.active(f, ops.matmul(x, self.gates[expert])))
        return ops.matmul(how.product(ops.multiply, gate, ops.matmul(x, self.up[expert])), self.down[expert])

    def experts(self, x, how):
        """The two best of four, weighted by the router, whose weights may be made to sum to one."""
        shares = ops.softmax(ops.matmul(x, self.router), axis=-1)
        least = ops.top_k(shares, 2)[0][..., -1:]
        chosen = ops.cast(ops.greater_equal(shares, ops.stop_gradient(least)), shares.dtype)
        shares = shares * chosen
        if self.kind == "normalised experts":
            shares = shares / how.held(ops.sum(shares, axis=-1, keepdims=True))
        shares = how.gate(shares)
        every = ops.stack([self.inner(x, how, e) for e in range(EXPERTS)], axis=-1)
        return ops.sum(how.product(ops.multiply, shares[..., None, :], every), axis=-1)


KINDS = ["rotary", "alibi", "soft cap", "sliding window", "experts"]
KINDS += [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("plain", "relative bias", "shared heads", "geglu", "normalised experts")
]


def network(kind, dtype="float64"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((STEPS, WIDTH), dtype=dtype)
    layer = Network(kind, dtype=dtype)
    return keras.Model(inputs, layer(inputs)), layer


def signals(dtype="float64"):
    return np.random.default_rng(2).normal(size=(3, STEPS, WIDTH)).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "how"), [("lrp.attnlrp", AttnLRP()), ("lrp.cp_lrp", CPLRP())])
def test_the_map_is_x_times_a_modified_gradient(kind, name, how):
    model, layer = network(kind)
    x = signals()
    (y,), pullback = numerics.vjp(lambda t: layer.logits(t, how)[:, 1], ops.convert_to_tensor(x))
    expected = x * np.asarray(pullback(ops.ones_like(y))[0])
    found = innv_ext.create_analyzer(name, model, epsilon=TINY).explain(x, 1)
    np.testing.assert_allclose(found.score, y, rtol=1e-9)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-6 * np.abs(expected).max())
    if name == "lrp.cp_lrp":  # there is no bias anywhere
        np.testing.assert_allclose(found.extras["sum"], found.score, rtol=1e-8)
