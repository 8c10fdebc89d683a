"""Vision transformers and mixers."""

import keras
import numpy as np
from example_images import conv
from example_nets import called, example, uniform
from keras import layers, ops


def feed_forward(y, hidden, out, activation="gelu"):
    return layers.Dense(out)(layers.Dropout(0.1)(layers.Dense(hidden, activation=activation)(y)))


def encoder_block(y, width, heads=2, activation="gelu"):
    z = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Add()([layers.MultiHeadAttention(heads, width // heads, dropout=0.1)(z, z), y])
    return layers.Add()([feed_forward(layers.LayerNormalization(epsilon=1e-6)(y), 2 * width, width, activation), y])


class Patches(layers.Layer):
    """Pictures to rows of patches, by reshape and transpose on the sizes that ``ops.shape`` tells."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, x):
        count, high, wide, channels = ops.shape(x)
        rows, columns = high // self.size, wide // self.size
        x = ops.reshape(x, (count, rows, self.size, columns, self.size, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (count, rows * columns, self.size**2 * channels))


class ExtractedPatches(layers.Layer):
    """The same by ``ops.image.extract_patches`` and the batch size."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, x):
        patches = ops.image.extract_patches(x, size=self.size)
        return ops.reshape(patches, (ops.shape(x)[0], patches.shape[1] * patches.shape[2], patches.shape[3]))


class PatchEncoder(layers.Layer):
    """A projection and an embedding of positions; with a class token in front where ``token``."""

    def __init__(self, count, width, token=False, **kwargs):
        super().__init__(**kwargs)
        self.count, self.token = count, token
        self.projection, self.places = layers.Dense(width), layers.Embedding(count, width)
        self.first = self.add_weight(shape=(1, 1, width), name="class_token") if token else None

    def call(self, x):
        y = self.projection(x) + self.places(ops.expand_dims(ops.arange(0, self.count, 1), 0))
        if not self.token:
            return y
        width = y.shape[-1]
        return ops.concatenate([ops.broadcast_to(self.first, [ops.shape(x)[0], 1, width]), y], axis=1)


@example(uniform((8, 8, 3)), smooth=True)
def vit():
    i = keras.Input((8, 8, 3))
    y = PatchEncoder(4, 6)(Patches(4)(i))
    for _ in range(2):
        y = encoder_block(y, 6)
    y = layers.Dropout(0.5)(layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(y)))
    return keras.Model(i, layers.Dense(3)(feed_forward(y, 8, 5)))


@example(uniform((8, 8, 3)), final="softmax", smooth=True)
def vit_class_token():
    i = keras.Input((8, 8, 3))
    y = encoder_block(PatchEncoder(4, 6, token=True)(ExtractedPatches(4)(i)), 6)
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.LayerNormalization()(y)[:, 0]))


@example(uniform((8, 8, 3)), index=3, smooth=True)
def object_detection_vit():
    i = keras.Input((8, 8, 3))
    y = encoder_block(PatchEncoder(16, 4)(Patches(2)(i)), 4)
    y = layers.Flatten()(layers.LayerNormalization()(y))
    return keras.Model(i, layers.Dense(4)(feed_forward(layers.Dropout(0.3)(y), 6, 5)))


class ShiftedPatches(layers.Layer):
    """A picture and its four diagonal shifts as patches (vision transformers for small data)."""

    def __init__(self, size, width, **kwargs):
        super().__init__(**kwargs)
        self.size, self.norm, self.projection = size, layers.LayerNormalization(epsilon=1e-6), layers.Dense(width)

    def call(self, x):
        half, (high, wide) = self.size // 2, x.shape[1:3]
        shifted = [x]
        for top, left in ((0, 0), (0, 2 * half), (2 * half, 0), (2 * half, 2 * half)):
            padded = ops.pad(x, [[0, 0], [half, half], [half, half], [0, 0]])
            shifted.append(padded[:, top : top + high, left : left + wide, :])
        y = ops.image.extract_patches(ops.concatenate(shifted, axis=-1), size=self.size)
        return self.projection(self.norm(ops.reshape(y, (-1, y.shape[1] * y.shape[2], y.shape[-1]))))


class LocalityAttention(layers.MultiHeadAttention):
    """A learnt temperature, and no token looks at itself."""

    def build(self, query_shape, value_shape, key_shape=None):
        super().build(query_shape, value_shape, key_shape)
        self.tau = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.7), name="tau")

    def _compute_attention(self, query, key, value, attention_mask=None, training=None, *args):
        scores = ops.einsum(self._dot_product_equation, key, query * (1.0 / self.tau))
        weights = self._dropout_layer(self._masked_softmax(scores, attention_mask), training=training)
        return ops.einsum(self._combine_equation, weights, value), weights


@example(uniform((8, 8, 3)), index=2, smooth=True)
def vit_small_data():
    diagonal = np.logical_not(np.eye(4, dtype=bool))[None]
    i = keras.Input((8, 8, 3))
    y = ShiftedPatches(4, 6)(i)
    z = layers.LayerNormalization()(y)
    y = layers.Add()([LocalityAttention(2, 3)(z, z, attention_mask=diagonal), y])
    y = layers.Add()([feed_forward(layers.LayerNormalization()(y), 8, 6), y])
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


class StochasticDepth(layers.Layer):
    """Drops whole residual branches in training, with a mask of the batch size."""

    def __init__(self, drop, **kwargs):
        super().__init__(**kwargs)
        self.drop, self.seed_generator = drop, keras.random.SeedGenerator(1337)

    def call(self, x, training=None):
        if training:
            shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
            kept = ops.floor(1 - self.drop + keras.random.uniform(shape, 0, 1, seed=self.seed_generator))
            return x / (1 - self.drop) * kept
        return x


class SequencePooling(layers.Layer):
    """Softmax weights over positions instead of a class token."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.Dense(1)

    def call(self, x):
        weights = ops.transpose(ops.softmax(self.attention(x), axis=1), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), -2)


@example(uniform((8, 8, 3)), relu="some", index=1)
def compact_convolutional_transformer():
    i = keras.Input((8, 8, 3))
    y = layers.ZeroPadding2D(1)(i)
    y = layers.Conv2D(6, 3, strides=2, use_bias=False, activation="relu")(y)
    y = layers.MaxPooling2D(3, 2, "same")(layers.ZeroPadding2D(1)(y))
    y = ops.reshape(y, (-1, y.shape[1] * y.shape[2], y.shape[3]))
    z = layers.LayerNormalization(epsilon=1e-5)(y)
    y = layers.Add()([StochasticDepth(0.1)(layers.MultiHeadAttention(2, 6)(z, z)), y])
    y = layers.Add()([StochasticDepth(0.1)(feed_forward(layers.LayerNormalization()(y), 6, 6)), y])
    return keras.Model(i, layers.Dense(3)(SequencePooling()(layers.LayerNormalization()(y))))


class WindowAttention(layers.Layer):
    """Attention inside windows, with a bias by relative position."""

    def __init__(self, width, side, heads, **kwargs):
        super().__init__(**kwargs)
        self.side, self.heads, self.scale = side, heads, (width // heads) ** -0.5
        self.qkv, self.proj = layers.Dense(3 * width), layers.Dense(width)
        at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
        between = (at[:, :, None] - at[:, None, :]).transpose(1, 2, 0) + side - 1
        self.between = (between[..., 0] * (2 * side - 1) + between[..., 1]).reshape(-1)

    def build(self, shape):
        self.table = self.add_weight(shape=((2 * self.side - 1) ** 2, self.heads), name="relative")

    def call(self, x, mask=None):
        _, size, channels = x.shape
        each = channels // self.heads
        qkv = ops.transpose(ops.reshape(self.qkv(x), (-1, size, 3, self.heads, each)), (2, 0, 3, 1, 4))
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))
        bias = ops.reshape(ops.take(self.table, self.between, axis=0), (size, size, -1))
        scores = scores + ops.expand_dims(ops.transpose(bias, (2, 0, 1)), 0)
        if mask is not None:
            windows = mask.shape[0]
            scores = ops.reshape(scores, (-1, windows, self.heads, size, size)) + mask[None, :, None]
            scores = ops.reshape(scores, (-1, self.heads, size, size))
        y = ops.matmul(ops.softmax(scores, axis=-1), v)
        return self.proj(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, size, channels)))


class SwinBlock(layers.Layer):
    """Windows become samples: the batch is multiplied by their number, and divided again."""

    def __init__(self, width, side, window, shift, **kwargs):
        super().__init__(**kwargs)
        self.side, self.window, self.shift, self.width = side, window, shift, width
        self.norms = [layers.LayerNormalization(epsilon=1e-5), layers.LayerNormalization(epsilon=1e-5)]
        self.attention = WindowAttention(width, window, 2)
        self.hidden, self.out = layers.Dense(2 * width, activation="gelu"), layers.Dense(width)
        self.mask = None
        if shift:
            regions, count = np.zeros((side, side)), 0
            cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
            for rows in cuts:
                for columns in cuts:
                    regions[rows, columns] = count
                    count += 1
            n = side // window
            flat = regions.reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(-1, window**2)
            self.mask = np.where(flat[:, None] != flat[:, :, None], -100.0, 0.0).astype("float32")

    def call(self, x):
        n, w = self.side // self.window, self.window
        y = ops.reshape(self.norms[0](x), (-1, self.side, self.side, self.width))
        if self.shift:
            y = ops.roll(y, shift=[-self.shift, -self.shift], axis=[1, 2])
        y = ops.transpose(ops.reshape(y, (-1, n, w, n, w, self.width)), (0, 1, 3, 2, 4, 5))
        y = self.attention(ops.reshape(y, (-1, w * w, self.width)), mask=self.mask)
        y = ops.transpose(ops.reshape(y, (-1, n, n, w, w, self.width)), (0, 1, 3, 2, 4, 5))
        y = ops.reshape(y, (-1, self.side, self.side, self.width))
        if self.shift:
            y = ops.roll(y, shift=[self.shift, self.shift], axis=[1, 2])
        x = x + ops.reshape(y, (-1, self.side**2, self.width))
        return x + self.out(self.hidden(self.norms[1](x)))


class PatchMerging(layers.Layer):
    """Each two by two tokens into one."""

    def __init__(self, side, width, **kwargs):
        super().__init__(**kwargs)
        self.side, self.width, self.linear = side, width, layers.Dense(2 * width, use_bias=False)

    def call(self, x):
        x = ops.reshape(x, (-1, self.side, self.side, self.width))
        parts = [x[:, a::2, b::2, :] for b in (0, 1) for a in (0, 1)]
        return self.linear(ops.reshape(ops.concatenate(parts, axis=-1), (-1, self.side**2 // 4, 4 * self.width)))


@example(uniform((8, 8, 3)), final="softmax", smooth=True)
def swin():
    i = keras.Input((8, 8, 3))
    y = PatchEncoder(16, 4)(ExtractedPatches(2)(i))
    y = SwinBlock(4, 4, 2, 0)(y)
    y = SwinBlock(4, 4, 2, 1)(y)
    y = layers.GlobalAveragePooling1D()(PatchMerging(4, 4)(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((8, 8, 3)), index=2, smooth=True)
def external_attention():
    """EANet: attention to two small learnt memories, normalised twice."""
    i = keras.Input((8, 8, 3))
    y = PatchEncoder(4, 6)(Patches(4)(i))
    z = layers.LayerNormalization()(y)
    q = ops.transpose(ops.reshape(layers.Dense(12)(z), (-1, 4, 2, 6)), (0, 2, 1, 3))
    weights = ops.softmax(layers.Dense(5)(q), axis=2)
    weights = weights / (1e-9 + ops.sum(weights, axis=-1, keepdims=True))
    z = ops.reshape(ops.transpose(layers.Dense(6)(weights), (0, 2, 1, 3)), (-1, 4, 12))
    y = layers.Add()([layers.Dense(6)(z), y])
    y = layers.Add()([feed_forward(layers.LayerNormalization()(y), 8, 6), y])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


class Perceiver(keras.Model):
    """A learnt latent array looks at the pixels by cross-attention, then at itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.encode = Patches(2), PatchEncoder(16, 5)
        self.norms = [layers.LayerNormalization() for _ in range(5)]
        self.cross = layers.Attention(use_scale=True)
        self.qkv = [layers.Dense(5) for _ in range(3)]
        self.inner = layers.MultiHeadAttention(2, 3)
        self.mlp = keras.Sequential([layers.Dense(8, activation="gelu"), layers.Dense(5)])
        self.last = layers.Dense(3)

    def build(self, shape):
        self.latent = self.add_weight(shape=(4, 5), name="latent")
        super().build(shape)

    def call(self, x):
        data = self.norms[0](self.encode(self.patches(x)))
        latent = ops.expand_dims(self.latent, 0)
        q, k, v = self.qkv[0](self.norms[1](latent)), self.qkv[1](data), self.qkv[2](data)
        q = ops.broadcast_to(q, (ops.shape(x)[0], 4, 5))
        latent = self.cross([q, v, k]) + latent
        latent = latent + self.mlp(self.norms[2](latent))
        z = self.norms[3](latent)
        latent = latent + self.inner(z, z)
        return self.last(ops.mean(self.norms[4](latent), axis=1))


@example(uniform((8, 8, 3)), index=2, smooth=True)
def perceiver():
    return called(Perceiver(), (8, 8, 3))


def _tokens_of(i):
    return layers.Dense(6)(Patches(4)(i))


def _mixer_head(i, y):
    return keras.Model(i, layers.Dense(3)(layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(y))))


class MixerBlock(layers.Layer):
    """Dense over tokens, then over channels."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.over_tokens = keras.Sequential([layers.Dense(count, activation="gelu"), layers.Dense(count)])
        self.over_channels = keras.Sequential([layers.Dense(width, activation="gelu"), layers.Dense(width)])
        self.norm = layers.LayerNormalization(epsilon=1e-6)

    def build(self, shape):
        self.over_tokens.build((None, shape[2], shape[1]))
        self.over_channels.build(shape)
        self.norm.build(shape)

    def call(self, x):
        x = x + ops.transpose(self.over_tokens(ops.transpose(self.norm(x), (0, 2, 1))), (0, 2, 1))
        return x + self.over_channels(self.norm(x))


@example(uniform((8, 8, 3)), smooth=True)
def mlp_mixer():
    i = keras.Input((8, 8, 3))
    return _mixer_head(i, MixerBlock(4, 6)(MixerBlock(4, 6)(_tokens_of(i))))


class FNetBlock(layers.Layer):
    """The real part of a two-dimensional Fourier transform mixes tokens and channels."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.mlp = keras.Sequential([layers.Dense(width, activation="gelu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6), layers.LayerNormalization(epsilon=1e-6)]

    def call(self, x):
        x = self.norms[0](x + ops.fft2((x, ops.zeros_like(x)))[0])
        return self.norms[1](x + self.mlp(x))


@example(uniform((8, 8, 3)), smooth=True)
def fnet():
    i = keras.Input((8, 8, 3))
    return _mixer_head(i, FNetBlock(6)(_tokens_of(i)))


class GatedMLP(layers.Layer):
    """gMLP: a spatial gating unit."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.wide = keras.Sequential([layers.Dense(2 * width, activation="gelu")])
        self.narrow, self.over_tokens = layers.Dense(width), layers.Dense(count, bias_initializer="ones")
        self.norms = [layers.LayerNormalization(epsilon=1e-6), layers.LayerNormalization(epsilon=1e-6)]

    def call(self, x):
        u, v = ops.split(self.wide(self.norms[0](x)), 2, axis=-1)
        v = ops.transpose(self.over_tokens(ops.transpose(self.norms[1](v), (0, 2, 1))), (0, 2, 1))
        return x + self.narrow(u * v)


@example(uniform((8, 8, 3)), smooth=True)
def gmlp():
    i = keras.Input((8, 8, 3))
    return _mixer_head(i, GatedMLP(4, 6)(_tokens_of(i)))


@example(uniform((8, 8, 3)), final="softmax", smooth=True, maps=True)
def mobile_vit():
    """Convolutions unfold into patches, a transformer looks across them, and they fold again; a fixed reshape."""
    i = keras.Input((8, 8, 3))
    y = conv(4, strides=2, activation="silu")(i)
    local = layers.Conv2D(4, 1, activation="silu")(conv(4, activation="silu")(y))
    z = layers.Reshape((2, 8, 4))(local)
    n = layers.LayerNormalization()(z)
    z = layers.Add()([layers.MultiHeadAttention(2, 2)(n, n), z])
    z = layers.Add()([feed_forward(layers.LayerNormalization()(z), 6, 4, "silu"), z])
    folded = layers.Conv2D(4, 1, activation="silu")(layers.Reshape((4, 4, 4))(z))
    y = conv(4, activation="silu")(layers.Concatenate(axis=-1)([y, folded]))
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


class LayerScale(layers.Layer):
    """A learnt factor per channel on a residual branch."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones", name="gamma")

    def call(self, x):
        return x * self.gamma


class ClassAttention(layers.Layer):
    """A class token of the batch size looks at all patches (CaiT, PatchConvNet)."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.query, self.attention = layers.Embedding(1, width), layers.MultiHeadAttention(1, width)
        self.scale, self.norm = LayerScale(), layers.LayerNormalization()

    def call(self, x):
        token = self.query(ops.zeros((ops.shape(x)[0], 1), dtype="int32"))
        both = self.norm(ops.concatenate([token, x], axis=1))
        return ops.squeeze(token + self.scale(self.attention(both[:, :1], both)), 1)


@example(uniform((8, 8, 3)), index=2, maps=True, smooth=True)
def patch_convnet():
    i = keras.Input((8, 8, 3))
    y = conv(4, strides=2, activation="gelu")(i)
    z = layers.DepthwiseConv2D(3, padding="same", activation="gelu")(layers.LayerNormalization()(y))
    gate = layers.Dense(2, activation="gelu")(layers.GlobalAveragePooling2D(keepdims=True)(z))
    z = layers.Multiply()([z, layers.Dense(4, activation="sigmoid")(gate)])
    y = layers.Add()([y, LayerScale()(layers.Conv2D(4, 1)(z))])
    return keras.Model(i, layers.Dense(3)(ClassAttention(4)(layers.Reshape((-1, 4))(y))))
