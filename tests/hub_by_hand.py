"""Three models of keras-hub written by hand from their weights: the twins of AttnLRP.

Its map is the input times the gradient of the network in which is held constant what the rules hold constant: the
deviation in a norm, the ratio act(x) / x of an activation, and of each product one factor after the other, half each
(Arras et al. 2025, arXiv 2502.15886).
"""

import numpy as np
from keras import ops


def held(x, modified):
    return ops.stop_gradient(x) if modified else x


def product(f, a, b, modified):
    if not modified:
        return f(a, b)
    return (f(a, ops.stop_gradient(b)) + f(ops.stop_gradient(a), b)) / 2


def active(fn, x, modified):
    return x * ops.stop_gradient(fn(x) / x) if modified else fn(x)


def rms(x, layer, modified):
    return x / held(ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + layer.epsilon), modified) * layer.scale


def norm(x, layer, modified):
    c = x - ops.mean(x, axis=-1, keepdims=True)
    return (
        c / held(ops.sqrt(ops.mean(c * c, axis=-1, keepdims=True) + layer.epsilon), modified) * layer.gamma + layer.beta
    )


def project(x, layer, equation):
    y = ops.einsum(equation, x, layer.kernel)
    return y if layer.bias is None else y + layer.bias


def dense(x, layer):
    return project(x, layer, "btd,de->bte")


def attend(q, k, v, allowed, modified):
    """Heads (batch, tokens, heads, width); ``allowed`` is (batch, queries, keys)."""
    scores = product(lambda a, b: ops.einsum("btnh,bsnh->bnts", a, b), q, k, modified) / np.sqrt(q.shape[-1])
    weights = ops.softmax(ops.where(allowed[:, None], scores, -1e9), axis=-1)
    return product(lambda a, b: ops.einsum("bnts,bsnh->btnh", a, b), weights, v, modified)


def heads(x, layer, allowed, modified):
    """Keras' MultiHeadAttention of ``x`` to itself."""
    parts = (layer._query_dense, layer._key_dense, layer._value_dense)
    q, k, v = (project(x, part, "btd,dnh->btnh") for part in parts)
    return project(attend(q, k, v, allowed, modified), layer._output_dense, "btnh,nhd->btd")


def rotated(x, wavelength=10000.0):
    """Rotary positions: pairs of the first and the second half of the components, (batch, tokens, heads, width)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / wavelength ** (np.arange(half) / half)
    cos, sin = (ops.cast(f(angles)[None, :, None], x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def llama(model, h, given, modified):
    """LlamaCausalLM from embedded tokens ``h``: logits (batch, tokens, vocabulary)."""
    count = h.shape[1]
    allowed = np.tri(count, dtype=bool)[None] & given["padding_mask"].astype(bool)[:, None, :]
    for block in model.backbone.transformer_layers:
        n, own = rms(h, block._self_attention_layernorm, modified), block._self_attention_layer
        q, k, v = (project(n, part, "btd,dnh->btnh") for part in (own._query_dense, own._key_dense, own._value_dense))
        k, v = (ops.repeat(t, own.num_key_value_groups, axis=2) for t in (rotated(k), v))
        y = attend(rotated(q), k, v, allowed, modified)
        h = h + project(y, own._output_dense, "btnh,nhd->btd")
        n = rms(h, block._feedforward_layernorm, modified)
        gate = active(ops.silu, dense(n, block._feedforward_gate_dense), modified)
        inner = product(ops.multiply, gate, dense(n, block._feedforward_intermediate_dense), modified)
        h = h + dense(inner, block._feedforward_output_dense)
    h = rms(h, model.backbone.layer_norm, modified)
    return ops.matmul(h, model.backbone.token_embedding.reverse_embeddings)


def bert(model, h, given, modified):
    """BertTextClassifier from embedded tokens ``h``: logits (batch, classes)."""
    own = model.backbone
    positions = own.position_embedding.position_embeddings[: h.shape[1]]
    h = h + positions + ops.take(own.segment_embedding.embeddings, given["segment_ids"], axis=0)
    h = norm(h, own.embeddings_layer_norm, modified)
    allowed = given["padding_mask"].astype(bool)[:, None, :]
    for block in own.transformer_layers:
        y = heads(h, block._self_attention_layer, allowed, modified)
        h = norm(h + y, block._self_attention_layer_norm, modified)
        inner = dense(h, block._feedforward_intermediate_dense)
        inner = active(lambda t: ops.gelu(t, approximate=True), inner, modified)
        h = norm(h + dense(inner, block._feedforward_output_dense), block._feedforward_layer_norm, modified)
    pooled = active(ops.tanh, dense(h[:, :1], own.pooled_dense), modified)
    return dense(pooled, model.output_dense)[:, 0]


def vit(model, x, given, modified):
    """ViTImageClassifier from pixels ``x``: logits (batch, classes)."""
    patching, encoder = model.backbone.layers[1:3]
    conv, side = patching.patch_embedding, patching.patch_size[0]
    n = x.shape[1] // side
    patches = ops.transpose(ops.reshape(x, (-1, n, side, n, side, 3)), (0, 1, 3, 2, 4, 5))
    patches = ops.reshape(patches, (-1, n * n, side * side * 3))
    h = ops.matmul(patches, ops.reshape(conv.kernel, (side * side * 3, -1))) + conv.bias
    h = ops.concatenate([ops.repeat(patching.class_token, len(x), axis=0), h], axis=1)
    h = h + patching.position_embedding.embeddings
    allowed = np.ones((1, h.shape[1], h.shape[1]), bool)
    for block in encoder.encoder_layers:
        h = h + heads(norm(h, block.layer_norm_1, modified), block.mha, allowed, modified)
        inner = dense(norm(h, block.layer_norm_2, modified), block.mlp.dense_1)
        inner = active(lambda t: ops.gelu(t, approximate=False), inner, modified)
        h = h + dense(inner, block.mlp.dense_2)
    h = norm(h, encoder.layer_norm, modified)
    return dense(h[:, :1], model.output_dense)[:, 0]
