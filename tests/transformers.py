"""Small transformers in two forms: of Keras' layers, and by hand in keras.ops with the weights of those.

The form by hand is also the twin of AttnLRP: its gradient with the parts held constant that AttnLRP holds constant,
times the input, is the map (Arras et al. 2025, arXiv 2502.15886).
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

TOKENS, LENGTH = 11, 6


class Positions(L.Layer):
    """Learnt positions, added."""

    supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="normal")

    def call(self, x):
        return x + self.table


def transformer(
    blocks=1,
    heads=2,
    width=8,
    norm="layer",
    gate=False,
    causal=False,
    padded=False,
    bias=True,
    shared=None,
    pool="mean",
    dtype="float64",
    seed=0,
):
    """A model of token numbers with layers that ``by_hand`` finds by their names.

    Parameters
    ----------
    norm : "layer" or "rms", in front of attention and of the inner network
    gate : SwiGLU in place of GELU
    padded : token 0 is padding
    shared : number of key and value heads, by GroupQueryAttention
    pool : "mean", or the number of the token that is read
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        keras.utils.set_random_seed(seed)

        def normed(h, name):
            if norm == "rms":
                return L.RMSNormalization(name=name)(h)
            return L.LayerNormalization(center=bias, name=name)(h)

        x = keras.Input((LENGTH,), dtype="int32")
        h = L.Embedding(TOKENS, width, mask_zero=padded, name="embed", embeddings_initializer="normal")(x)
        h = Positions(name="positions")(h) if bias else h
        for b in range(blocks):
            n = normed(h, f"norm_a{b}")
            options = {"use_bias": bias, "name": f"attention{b}"}
            if shared is None:
                attend = L.MultiHeadAttention(heads, width // heads, **options)
            else:
                attend = L.GroupQueryAttention(width // heads, heads, shared, **options)
            h = L.Add()([h, attend(n, n, use_causal_mask=causal)])
            n = normed(h, f"norm_b{b}")
            inner = L.Dense(2 * width, use_bias=bias, name=f"up{b}")(n)
            if gate:
                inner = ops.silu(inner) * L.Dense(2 * width, use_bias=bias, name=f"gate{b}")(n)
            else:
                inner = L.Activation("gelu")(inner)
            h = L.Add()([h, L.Dense(width, use_bias=bias, name=f"down{b}")(inner)])
        h = normed(h, "norm_end")
        h = ops.mean(h, axis=1) if pool == "mean" else h[:, pool]
        model = keras.Model(x, L.Dense(3, use_bias=bias, name="head")(h))
    finally:
        keras.config.set_dtype_policy(policy)
    for v in model.trainable_variables:  # biases and scales that matter
        if len(v.shape) == 1:
            v.assign(v + 0.3 * np.random.default_rng(len(v.path)).normal(size=v.shape))
    model.options = {"blocks": blocks, "norm": norm, "gate": gate, "causal": causal, "padded": padded}
    model.options |= {"bias": bias, "pool": pool}
    return model


def tokens(padded=False, seed=0):
    """Three samples; with padding behind the second and the third."""
    x = np.random.default_rng(seed).integers(1, TOKENS, (3, LENGTH))
    if padded:
        x[1, -1:], x[2, 2:] = 0, 0
    return x


def by_hand(model, h, mask=None, held=lambda t: t, halves=False, frozen=False):
    """Logits of embedded tokens ``h``, by the weights of ``model``.

    Parameters
    ----------
    mask : which tokens are none of padding, (batch, tokens)
    held : what is held constant: deviations of norms, ratios of activations
    halves : each product is the mean of both ways to hold one factor
    frozen : attention weights and gates are held, whole
    """
    o = model.options

    def dense(t, name):
        layer = model.get_layer(name)
        y = ops.matmul(t, layer.kernel)
        return y + layer.bias if layer.bias is not None else y

    def norm(t, name):
        layer = model.get_layer(name)
        if o["norm"] == "rms":
            return t / held(ops.sqrt(ops.mean(t * t, axis=-1, keepdims=True) + layer.epsilon)) * layer.scale
        c = t - ops.mean(t, axis=-1, keepdims=True)
        y = c / held(ops.sqrt(ops.mean(c * c, axis=-1, keepdims=True) + layer.epsilon)) * layer.gamma
        return y + layer.beta if layer.beta is not None else y

    def product(f, a, b):
        return (f(a, ops.stop_gradient(b)) + f(ops.stop_gradient(a), b)) / 2 if halves else f(a, b)

    def active(t, fn):
        return t * held(fn(t) / t) if halves or frozen else fn(t)

    if o["bias"]:
        h = h + model.get_layer("positions").table
    for i in range(o["blocks"]):
        layer, n = model.get_layer(f"attention{i}"), norm(h, f"norm_a{i}")

        def project(t, own, equation="btd,dnh->btnh"):
            y = ops.einsum(equation, t, own.kernel)
            return y if own.bias is None else y + own.bias

        q, k, v = (project(n, own) for own in (layer._query_dense, layer._key_dense, layer._value_dense))
        repeats = q.shape[2] // k.shape[2]
        if repeats > 1:
            k, v = ops.repeat(k, repeats, axis=2), ops.repeat(v, repeats, axis=2)
        scores = product(lambda a, b: ops.einsum("btnh,bsnh->bnts", a, b), q, k) * (1 / np.sqrt(q.shape[-1]))
        allowed = np.tri(LENGTH, dtype=bool) if o["causal"] else np.ones((LENGTH, LENGTH), bool)
        allowed = ops.convert_to_tensor(allowed[None, None])
        if mask is not None:
            allowed = ops.logical_and(allowed, mask[:, None, None])
        a = ops.softmax(ops.where(allowed, scores, ops.cast(-1e9, scores.dtype)), axis=-1)
        a = ops.stop_gradient(a) if frozen else a
        y = product(lambda a, v: ops.einsum("bnts,bsnh->btnh", a, v), a, v)
        h = h + project(y, layer._output_dense, "btnh,nhd->btd")
        n = norm(h, f"norm_b{i}")
        inner = dense(n, f"up{i}")
        if o["gate"]:
            other, gate = dense(n, f"gate{i}"), active(inner, ops.silu)
            inner = ops.stop_gradient(gate) * other if frozen else product(ops.multiply, gate, other)
        else:
            inner = active(inner, lambda t: ops.gelu(t, approximate=False))
        h = h + dense(inner, f"down{i}")
    h = norm(h, "norm_end")
    return dense(ops.mean(h, axis=1) if o["pool"] == "mean" else h[:, o["pool"]], "head")


class ByHand(L.Layer):
    """``by_hand`` as a layer, which is opened: the same network in single operations."""

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, x):
        mask = ops.not_equal(x, 0) if self.model.options["padded"] else None
        return by_hand(self.model, ops.take(self.model.get_layer("embed").embeddings, x, axis=0), mask)
