"""Transformers of the examples: positions, class tokens and blocks, built from Keras' own layers."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

Tensor = keras.KerasTensor


def waves(shape: tuple[int, int], dtype: str | None = None) -> Tensor:
    """Sines and cosines of positions, (steps, width), from fast to slow: neighbours are alike (an initializer)."""
    steps, width = shape
    angles = np.arange(steps)[:, None] / 50 ** np.linspace(0, 1, width // 2, endpoint=False)
    return ops.convert_to_tensor(0.3 * np.concatenate([np.sin(angles), np.cos(angles)], axis=1), dtype)


@keras.saving.register_keras_serializable("innv_ext_examples")
class Positions(layers.Layer):
    """Adds a learnt vector to each position; masks go on to the next layer."""

    supports_masking = True

    def build(self, shape: tuple[int | None, ...]) -> None:
        """A table (steps, width)."""
        self.table = self.add_weight(shape=shape[1:], initializer=waves, name="table")

    def call(self, x: Tensor) -> Tensor:
        """Vectors (batch, steps, width) at their positions."""
        return x + self.table


@keras.saving.register_keras_serializable("innv_ext_examples")
class ClassToken(layers.Layer):
    """Puts a learnt vector, the same for all samples, in front of the others."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """One vector."""
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal", name="token")

    def call(self, x: Tensor) -> Tensor:
        """(batch, steps, width) -> (batch, 1 + steps, width)."""
        return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)


def block(h: Tensor, heads: int, key_dim: int, dropout: float = 0.1) -> Tensor:
    """Attention without biases and two dense layers, each behind layer normalisation and beside a residual connection.

    Query and key weights start out equal, so that at first tokens look at tokens like themselves and at their
    neighbours: from there small networks on little data find their way faster.
    """
    width = h.shape[-1]
    normed = layers.LayerNormalization()(h)
    attention = layers.MultiHeadAttention(heads, key_dim, use_bias=False)
    h = layers.Add()([h, layers.Dropout(dropout)(attention(normed, normed))])
    attention.query_dense.kernel.assign(attention.key_dense.kernel)
    inner = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(h))
    return layers.Add()([h, layers.Dropout(dropout)(layers.Dense(width)(inner))])
