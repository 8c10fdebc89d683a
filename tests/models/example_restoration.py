"""Pictures to pictures: super-resolution, low light, depth."""

import keras
from example_images import conv, norm_relu
from example_nets import called, example, uniform
from keras import layers, ops


class DepthToSpace(layers.Layer):
    """Channels to blocks of pixels."""

    def __init__(self, block, **kwargs):
        super().__init__(**kwargs)
        self.block = block

    def call(self, x):
        count, high, wide, channels = ops.shape(x)
        b = self.block
        x = ops.reshape(x, [count, high, wide, b, b, channels // b**2])
        x = ops.transpose(x, [0, 1, 3, 2, 4, 5])
        return ops.reshape(x, [count, high * b, wide * b, channels // b**2])


@example(uniform((5, 5, 1)), relu="all", index=(4, 7, 0), maps=True, linear=True)
def super_resolution():
    i = keras.Input((5, 5, 1))
    y = conv(5, 3, activation="relu")(conv(4, 5, activation="relu")(i))
    return keras.Model(i, DepthToSpace(2)(conv(4)(y)))


@example(lambda rng, n: rng.uniform(0, 1, (n, 6, 6, 3)), relu="some", index=(2, 2, 1), maps=True)
def zero_dce():
    """Curves of a picture, by a net with skips, applied to it over and over."""
    i = keras.Input((6, 6, 3))
    first = conv(4, activation="relu")(i)
    second = conv(4, activation="relu")(first)
    third = conv(4, activation="relu")(second)
    fourth = conv(4, activation="relu")(layers.Concatenate()([second, third]))
    curves = conv(9, activation="tanh")(layers.Concatenate()([first, fourth]))
    y = i
    for k in range(3):
        y = y + curves[..., 3 * k : 3 * k + 3] * (ops.square(y) - y)
    return keras.Model(i, y)


def _selective_kernel(a, b):
    """Two scales, each channel weighted by a softmax over them."""
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(layers.Add()([a, b]))
    squeezed = layers.Conv2D(2, 1, activation="relu")(squeezed)
    weights = ops.softmax(ops.stack([layers.Conv2D(4, 1)(squeezed), layers.Conv2D(4, 1)(squeezed)], axis=-1), axis=-1)
    return a * weights[..., 0] + b * weights[..., 1]


def _dual_attention(x):
    y = conv(4)(conv(4, activation="relu")(x))
    pooled = ops.concatenate([ops.max(y, axis=-1, keepdims=True), ops.mean(y, axis=-1, keepdims=True)], axis=-1)
    spatial = y * conv(1, activation="sigmoid")(pooled)
    gate = layers.Conv2D(2, 1, activation="relu")(ops.mean(y, axis=(1, 2), keepdims=True))
    channel = y * layers.Conv2D(4, 1, activation="sigmoid")(gate)
    return layers.Add()([x, layers.Conv2D(4, 1)(layers.Concatenate()([spatial, channel]))])


@example(uniform((6, 6, 3)), relu="some", index=(3, 3, 2), maps=True)
def mirnet():
    i = keras.Input((6, 6, 3))
    y = conv(4)(i)
    low = _dual_attention(layers.Conv2D(4, 1)(layers.MaxPooling2D(2)(y)))
    high = _dual_attention(y)
    y = layers.Add()([y, _selective_kernel(high, layers.UpSampling2D(2, interpolation="bilinear")(low))])
    return keras.Model(i, layers.Add()([i, conv(3)(y)]))


class DepthNet(keras.Model):
    """Downscale blocks, a bottleneck and upscale blocks with skips; lists of blocks in a subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.down = [self._block(f) for f in (4, 5)]
        self.short = [conv(f, 1) for f in (4, 5)]
        self.pool = layers.MaxPooling2D(2)
        self.bottle = conv(5)
        self.up = [self._block(f) for f in (5, 4)]
        self.upsample = layers.UpSampling2D(2, interpolation="nearest")
        self.last = conv(1, activation="tanh")

    @staticmethod
    def _block(filters):
        return keras.Sequential([conv(filters), layers.BatchNormalization(), layers.LeakyReLU(0.2)])

    def call(self, x):
        skips = []
        for block, short in zip(self.down, self.short, strict=True):
            x = short(x) + block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottle(x)
        for block in self.up:
            x = block(ops.concatenate([self.upsample(x), skips.pop()], axis=-1))
        return self.last(x)


@example(uniform((8, 8, 3)), relu="some", index=(1, 6, 0), maps=True)
def depth_estimation():
    return called(DepthNet(), (8, 8, 3))


@example(uniform((8, 8, 1)), relu="all", final="sigmoid", index=(5, 2, 0), maps=True, linear=True)
def denoising_autoencoder():
    i = keras.Input((8, 8, 1))
    y = layers.MaxPooling2D(2, padding="same")(conv(4, activation="relu")(i))
    y = layers.MaxPooling2D(2, padding="same")(conv(4, activation="relu")(y))
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(y)
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(y)
    return keras.Model(i, conv(1, activation="sigmoid")(y))


class ReflectionPadding(layers.Layer):
    """As in CycleGAN's generator."""

    def call(self, x):
        return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")


@example(uniform((6, 6, 3)), relu="some", index=(2, 3, 1), maps=True)
def cycle_gan_generator():
    i = keras.Input((6, 6, 3))
    y = layers.ReLU()(layers.GroupNormalization(-1)(layers.Conv2D(4, 3, use_bias=False)(ReflectionPadding()(i))))
    z = layers.Conv2D(4, 3, use_bias=False)(ReflectionPadding()(y))
    z = layers.ReLU()(layers.GroupNormalization(-1)(z))
    z = layers.GroupNormalization(-1)(layers.Conv2D(4, 3, use_bias=False)(ReflectionPadding()(z)))
    y = layers.Conv2D(3, 3)(ReflectionPadding()(layers.Add()([y, z])))
    return keras.Model(i, layers.Activation("tanh")(y))


@example(uniform((8, 8, 3)), relu="all", index=(1, 2, 0), maps=True, linear=True)
def residual_dense_edsr():
    """EDSR: residual blocks without normalisation, sub-pixel upsampling by a Lambda."""
    i = keras.Input((8, 8, 3))
    first = y = conv(4)(layers.Rescaling(1 / 255)(i))
    for _ in range(2):
        y = layers.Add()([y, conv(4)(conv(4, activation="relu")(y))])
    y = conv(12)(layers.Add()([first, conv(4)(y)]))
    y = layers.Lambda(lambda t: ops.reshape(
        ops.transpose(ops.reshape(t, (-1, 8, 8, 2, 2, 3)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 3)))(y)  # fmt: skip
    return keras.Model(i, layers.Rescaling(255)(conv(3)(y)))


@example(uniform((6, 6, 2)), relu="some", index=(2, 2, 1), maps=True)
def squeeze_unet():
    """Attention gates on the skips of a U-Net."""
    i = keras.Input((6, 6, 2))
    skip = norm_relu(conv(3)(i))
    deep = norm_relu(conv(4)(layers.AveragePooling2D(2)(skip)))
    up = layers.Conv2DTranspose(3, 2, strides=2)(deep)
    gate = layers.Conv2D(1, 1, activation="sigmoid")(layers.ReLU()(layers.Add()([conv(3, 1)(up), conv(3, 1)(skip)])))
    y = layers.Concatenate()([up, layers.Multiply()([skip, gate])])
    return keras.Model(i, layers.Conv2D(2, 1)(norm_relu(conv(3)(y))))
