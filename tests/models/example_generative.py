"""Generators, encoders with random parts, critics, flows, diffusion, radiance fields."""

import keras
import numpy as np
from example_images import conv
from example_nets import called, example, several, token_numbers, uniform
from keras import layers, ops


class Sampling(layers.Layer):
    """mean + deviation * noise."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_variance = inputs
        count, width = ops.shape(mean)
        noise = keras.random.normal(shape=(count, width), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


@example(uniform((8, 8, 1)), relu="all", output=0, index=1, maps=True, linear=True)
def vae_encoder():
    """Three outputs, of which the last is random; the mean is explained."""
    i = keras.Input((8, 8, 1))
    y = conv(4, strides=2, activation="relu")(conv(3, strides=2, activation="relu")(i))
    y = layers.Dense(5, activation="relu")(layers.Flatten()(y))
    mean, log_variance = layers.Dense(2, name="z_mean")(y), layers.Dense(2, name="z_log_var")(y)
    return keras.Model(i, [mean, log_variance, Sampling()([mean, log_variance])])


@example(uniform((2,)), relu="all", final="sigmoid", index=(5, 3, 0), linear=True)
def vae_decoder():
    i = keras.Input((2,))
    y = layers.Reshape((2, 2, 3))(layers.Dense(12, activation="relu")(i))
    y = layers.Conv2DTranspose(4, 3, activation="relu", strides=2, padding="same")(y)
    y = layers.Conv2DTranspose(3, 3, activation="relu", strides=2, padding="same")(y)
    return keras.Model(i, layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")(y))


@example(uniform((8, 8, 3)), relu="all", final="sigmoid", index=0, maps=True, linear=True)
def dcgan_discriminator():
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 4, strides=2, padding="same"), layers.LeakyReLU(negative_slope=0.2),
        layers.Conv2D(4, 4, strides=2, padding="same"), layers.LeakyReLU(negative_slope=0.2), layers.Flatten(),
        layers.Dropout(0.2), layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip


@example(several(uniform((6, 6, 1)), token_numbers(1, 5)), relu="all", index=0, noise=False, linear=True)
def conditional_discriminator():
    """The class as further channels: an embedding, repeated over the picture."""
    image, label = keras.Input((6, 6, 1), name="image"), keras.Input((1,), dtype="int32", name="label")
    planes = ops.reshape(ops.repeat(layers.Flatten()(layers.Embedding(5, 2)(label)), 36, axis=0), (-1, 6, 6, 2))
    y = layers.LeakyReLU(0.2)(conv(4, strides=2)(layers.Concatenate()([image, planes])))
    y = layers.GlobalMaxPooling2D()(layers.LeakyReLU(0.2)(conv(4, strides=2)(y)))
    return keras.Model([image, label], layers.Dense(1)(y))


class VectorQuantizer(layers.Layer):
    """The nearest row of a codebook, with a straight-through gradient."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.count, self.width = count, width

    def build(self, shape):
        self.codes = self.add_weight(shape=(self.width, self.count), initializer="random_uniform", name="codes")

    def call(self, x):
        flat = ops.reshape(x, [-1, self.width])
        lengths = ops.sum(flat**2, axis=1, keepdims=True) + ops.sum(self.codes**2, axis=0)
        hot = ops.one_hot(ops.argmin(lengths - 2 * ops.matmul(flat, self.codes), axis=1), self.count)
        quantised = ops.reshape(ops.matmul(hot, ops.transpose(self.codes)), ops.shape(x))
        return x + ops.stop_gradient(quantised - x)


@example(uniform((8, 8, 1)), relu="some", index=(3, 4, 0), maps=True, stepped=True)
def vq_vae():
    i = keras.Input((8, 8, 1))
    y = conv(3, 1)(conv(4, strides=2, activation="relu")(i))
    y = VectorQuantizer(6, 3)(y)
    y = layers.Conv2DTranspose(4, 3, activation="relu", strides=2, padding="same")(y)
    return keras.Model(i, layers.Conv2DTranspose(1, 3, padding="same")(y))


@example(uniform((8, 8, 1)), relu="all", index=0, maps=True, linear=True)
def wgan_critic():
    i = keras.Input((8, 8, 1))
    y = layers.ZeroPadding2D(((1, 1), (1, 1)))(i)
    for filters in (3, 4):
        y = layers.Dropout(0.3)(layers.LeakyReLU(0.2)(conv(filters, 5, strides=2)(y)))
    return keras.Model(i, layers.Dense(1)(layers.Dropout(0.2)(layers.Flatten()(y))))


class MaskedConv(layers.Layer):
    """A convolution that sees only the pixels before; the masked kernel is made in call or in build."""

    def __init__(self, kind, **options):
        super().__init__()
        self.kind, self.conv = kind, layers.Conv2D(**options)

    def build(self, shape):
        self.conv.build(shape)
        self.mask = np.zeros(self.conv.kernel.shape, "float32")
        half = self.conv.kernel.shape[0] // 2
        self.mask[:half] = 1
        self.mask[half, :half] = 1
        if self.kind == "B":
            self.mask[half, half] = 1

    def call(self, x):
        y = ops.conv(x, self.conv.kernel * self.mask, strides=1, padding="same")
        return ops.relu(y + self.conv.bias)


@example(lambda rng, n: rng.integers(0, 2, (n, 6, 6, 1)).astype("float32"), relu="all", final="sigmoid",
         index=(4, 4, 0), linear=True)  # fmt: skip
def pixel_cnn():
    i = keras.Input((6, 6, 1))
    y = MaskedConv("A", filters=4, kernel_size=5)(i)
    z = layers.Conv2D(3, 1, activation="relu")(y)
    z = layers.Conv2D(4, 1, activation="relu")(MaskedConv("B", filters=3, kernel_size=3)(z))
    y = MaskedConv("B", filters=4, kernel_size=1)(layers.Add()([y, z]))
    return keras.Model(i, layers.Conv2D(1, 1, activation="sigmoid")(y))


class RealNVP(keras.Model):
    """Coupling layers under alternating masks; the log-density under a standard normal is explained."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.masks = np.array([[0, 1], [1, 0]] * 2, "float32")
        self.nets = [self._net() for _ in range(4)]

    @staticmethod
    def _net():
        i = keras.Input((2,))
        s = layers.Dense(2, activation="tanh")(layers.Dense(6, activation="relu")(i))
        return keras.Model(i, [s, layers.Dense(2)(layers.Dense(6, activation="relu")(i))])

    def call(self, x):
        log_det = ops.zeros((ops.shape(x)[0],))
        for mask, net in list(zip(self.masks, self.nets, strict=True))[::-1]:
            kept, reverse = x * mask, 1 - mask
            s, t = net(kept)
            s, t = s * reverse, t * reverse
            x = reverse * (x - t) * ops.exp(-s) + kept
            log_det = log_det - ops.sum(s, axis=1)
        density = -0.5 * ops.sum(ops.square(x), axis=1) - np.log(2 * np.pi)
        return ops.expand_dims(density + log_det, -1)


@example(uniform((2,)), relu="some", index=0)
def real_nvp():
    return called(RealNVP(), (2,))


def _sinusoids(x):
    frequencies = ops.exp(ops.linspace(ops.log(1.0), ops.log(50.0), 2))
    angles = ops.cast(2.0 * np.pi * frequencies, "float32")
    return ops.concatenate([ops.sin(angles * x), ops.cos(angles * x)], axis=3)


@example(several(uniform((8, 8, 3)), lambda rng, n: rng.uniform(0.1, 0.9, (n, 1, 1, 1))), index=(3, 4, 1), maps=True)
def ddim_unet():
    """Noisy pictures and the variance of their noise, the latter as sinusoids, upsampled."""

    def block(y, width):
        short = y if y.shape[-1] == width else layers.Conv2D(width, 1)(y)
        y = conv(width, activation="swish")(layers.BatchNormalization(center=False, scale=False)(y))
        return layers.Add()([conv(width)(y), short])

    image, variance = keras.Input((8, 8, 3), name="image"), keras.Input((1, 1, 1), name="variance")
    e = layers.UpSampling2D(8, interpolation="nearest")(layers.Lambda(_sinusoids, output_shape=(1, 1, 4))(variance))
    y = skip = block(layers.Concatenate()([layers.Conv2D(4, 1)(image), e]), 4)
    y = block(layers.AveragePooling2D(2)(y), 5)
    y = layers.UpSampling2D(2, interpolation="bilinear")(y)
    y = block(layers.Concatenate()([y, skip]), 4)
    return keras.Model([image, variance], layers.Conv2D(3, 1, kernel_initializer="zeros")(y))


class TimeEmbedding(layers.Layer):
    """Sines and cosines of a time step that is a whole number."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        half = width // 2
        self.rates = np.exp(np.arange(half) * -np.log(100) / max(half - 1, 1)).astype("float32")

    def call(self, t):
        t = ops.cast(t, "float32")[:, None] * self.rates[None]
        return ops.concatenate([ops.sin(t), ops.cos(t)], axis=-1)


@example(several(uniform((6, 6, 2)), lambda rng, n: rng.integers(0, 100, (n,)).astype("int64")), index=(2, 3, 1),
         maps=True)  # fmt: skip
def ddpm_unet():
    """Group normalisation, SiLU, a time step as a scalar input, attention over pixels."""
    image, time = keras.Input((6, 6, 2), name="image"), keras.Input((), dtype="int64", name="time")
    t = layers.Dense(4)(layers.Dense(4, activation="swish")(TimeEmbedding(4)(time)))
    y = conv(4)(image)
    z = conv(4)(ops.silu(layers.GroupNormalization(2)(y)))
    z = layers.Add()([z, layers.Dense(4)(ops.silu(t))[:, None, None, :]])
    y = layers.Add()([conv(4)(ops.silu(layers.GroupNormalization(2)(z))), y])
    n = layers.GroupNormalization(2)(y)
    q, k, v = (layers.Dense(4)(n) for _ in range(3))
    scores = ops.einsum("bhwc,bxyc->bhwxy", q, k) * 4**-0.5
    shares = ops.reshape(ops.softmax(ops.reshape(scores, (-1, 6, 6, 36)), -1), (-1, 6, 6, 6, 6))
    y = y + layers.Dense(4)(ops.einsum("bhwxy,bxyc->bhwc", shares, v))
    return keras.Model([image, time], conv(2)(ops.silu(layers.GroupNormalization(2)(y))))


@example(uniform((4, 7)), relu="all", index=(2, 3), linear=True)
def nerf():
    """Encoded points along a ray; colours and densities rendered to one colour by cumulative products."""
    i = keras.Input((4, 7))
    y = i
    for k in range(3):
        y = layers.Dense(6, activation="relu")(y)
        if k == 1:
            y = layers.Concatenate(axis=-1)([y, i])
    return keras.Model(i, layers.Dense(4)(y))


@example(uniform((4, 5)), relu="some", index=1)
def nerf_rendered():
    i = keras.Input((4, 5))
    y = layers.Dense(4)(layers.Dense(8, activation="relu")(i))
    colour, density = ops.sigmoid(y[..., :3]), ops.relu(y[..., 3])
    alpha = 1.0 - ops.exp(-density * 0.5)
    before = ops.cumprod(1.0 - alpha + 1e-6, axis=-1) / (1.0 - alpha + 1e-6)
    return keras.Model(i, ops.sum((alpha * before)[..., None] * colour, axis=-2))


@example(uniform((8, 8, 2)), relu="all", index=0, maps=True, random=False, linear=True)
def spectral_critic():
    return keras.Sequential([
        keras.Input((8, 8, 2)), layers.SpectralNormalization(conv(3, 4, strides=2)), layers.LeakyReLU(0.2),
        layers.SpectralNormalization(conv(4, 4, strides=2)), layers.LeakyReLU(0.2), layers.Flatten(),
        layers.SpectralNormalization(layers.Dense(1)),
    ])  # fmt: skip


class AdaptiveNorm(layers.Layer):
    """StyleGAN: features normalised by their own statistics, scaled and shifted by a style."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.shift = layers.Dense(channels), layers.Dense(channels)

    def call(self, inputs):
        x, style = inputs
        mean, variance = ops.mean(x, axis=(1, 2), keepdims=True), ops.var(x, axis=(1, 2), keepdims=True)
        x = (x - mean) / ops.sqrt(variance + 1e-5)
        return x * (self.scale(style)[:, None, None] + 1.0) + self.shift(style)[:, None, None]


@example(uniform((4,)), relu="some", index=(2, 3, 1))
def style_gan():
    i = keras.Input((4,))
    z = i * ops.rsqrt(ops.mean(ops.square(i), axis=-1, keepdims=True) + 1e-8)
    style = layers.LeakyReLU(0.2)(layers.Dense(4)(z))
    y = layers.Reshape((2, 2, 4))(layers.Dense(16)(style))
    y = AdaptiveNorm(4)([layers.LeakyReLU(0.2)(conv(4)(layers.UpSampling2D(2)(y))), style])
    return keras.Model(i, layers.Conv2D(3, 1)(y))
