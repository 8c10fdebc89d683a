"""What is done to models afterwards: low-rank adapters, integers for weights; and rare ways to write one."""

import keras
import numpy as np
import zoo
from example_nets import called, example, uniform
from keras import layers, ops


@example(uniform((6,)), relu="all", final="softmax", linear=True)
def low_rank_adapters():
    parts = [layers.Dense(7, activation="relu"), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((6,)), *parts])
    model.layers[0].enable_lora(2)
    return model


@example(uniform((6,)), relu="all", random=False, final="softmax")
def quantised_int8():
    model = zoo.randomise(keras.Sequential([
        keras.Input((6,)), layers.Dense(7, activation="relu"), layers.Dense(5, activation="relu"),
        layers.Dense(3, activation="softmax"),
    ]), 3)  # fmt: skip
    model.quantize("int8")
    return model


class LowRankDense(layers.Layer):
    """Parameter-efficient tuning written by hand: a frozen layer beside a low-rank one."""

    def __init__(self, original, rank=2, alpha=4, **kwargs):
        super().__init__(**kwargs)
        self.original, self.scale = original, alpha / rank
        self.a = layers.Dense(rank, use_bias=False)
        self.b = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3))

    def call(self, x):
        return self.original(x) + self.b(self.a(x)) * self.scale


@example(uniform((4, 6)), smooth=True, index=2)
def lora_attention():
    i = keras.Input((4, 6))
    y = layers.LayerNormalization()(i)
    q = LowRankDense(layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"))(y)
    k = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")(y)
    scores = ops.softmax(ops.einsum("aecd,abcd->acbe", k, q) / 3**0.5, axis=-1)
    y = ops.reshape(ops.einsum("acbe,aecd->abcd", scores, k), (-1, 4, 6))
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Add()([i, y]))))


class Antirectifier(layers.Layer):
    """Positive and negative parts of normalised samples, each with weights of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1] * 2, shape[-1]), name="kernel")

    def call(self, x):
        x = x - ops.mean(x, axis=-1, keepdims=True)
        both = ops.concatenate([ops.relu(x), ops.relu(-x)], axis=-1)
        both = both / ops.sqrt(ops.sum(ops.square(both), axis=-1, keepdims=True) + 1e-7)
        return ops.matmul(both, self.kernel)


@example(uniform((6,)), relu="some", index=1)
def antirectifier():
    return keras.Sequential([
        keras.Input((6,)), layers.Dense(5), Antirectifier(), layers.Dense(5), Antirectifier(), layers.Dropout(0.5),
        layers.Dense(3),
    ])  # fmt: skip


class HyperNetwork(keras.Model):
    """A network makes the weights of another one, sample by sample."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.weights_of = layers.Dense(4, activation="relu"), layers.Dense(4 * 3 + 3)

    def call(self, x):
        w = self.weights_of(self.hidden(x))
        kernel, bias = ops.reshape(w[:, :12], (-1, 4, 3)), w[:, 12:]
        return ops.squeeze(ops.matmul(x[:, None], kernel), 1) + bias


@example(uniform((4,)), relu="some", index=1)
def hypernetwork():
    return called(HyperNetwork(), (4,))


class Trainer(keras.Model):
    """A functional model inside a subclassed one with its own train_step, as tutorials write GANs and VAEs."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.loss_tracker = inner, keras.metrics.Mean(name="loss")

    def call(self, x, training=None):
        return self.inner(x, training=training)

    def train_step(self, data):
        return {"loss": self.loss_tracker.result()}


@example(uniform((6, 6, 2)), relu="all", index=2, maps=True, linear=True)
def custom_train_step():
    inner = keras.Sequential([
        keras.Input((6, 6, 2)), layers.Conv2D(3, 3, activation="relu"), layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(), layers.Dense(3),
    ])  # fmt: skip
    return called(Trainer(inner), (6, 6, 2))


class ForwardForwardDense(layers.Layer):
    """Rows normalised to unit length, then a dense layer with ReLU."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.relu = layers.Dense(units), layers.ReLU()

    def call(self, x):
        length = ops.norm(x, ord=2, axis=1, keepdims=True) + 1e-4
        return self.relu(self.dense(x / length))


@example(uniform((6,)), relu="some", index=0)
def forward_forward():
    """The goodness of a sample: the sum of the layers' mean squares."""
    i = keras.Input((6,))
    y = ForwardForwardDense(5)(i)
    z = ForwardForwardDense(4)(y)
    goodness = ops.mean(ops.square(y), axis=1, keepdims=True) + ops.mean(ops.square(z), axis=1, keepdims=True)
    return keras.Model(i, goodness)


@example(uniform((5,)), index=0)
def physics_informed():
    """tanh network with a hard boundary condition, a product with the input's distance."""
    i = keras.Input((5,))
    y = layers.Dense(6, activation="tanh")(layers.Dense(6, activation="tanh")(i))
    return keras.Model(i, layers.Dense(1)(y) * ops.prod(1.5 - ops.abs(i), axis=-1, keepdims=True))


@example(lambda rng, n: rng.integers(0, 256, (n, 6, 6, 3)).astype("uint8"), relu="all", final="softmax", maps=True)
def exported_uint8():
    """A classifier of bytes, as it is deployed."""
    i = keras.Input((6, 6, 3), dtype="uint8")
    y = ops.cast(i, "float32") / 127.5 - 1.0
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(uniform((3, 8)), relu="all", index=1, linear=True)
def ensemble_of_views():
    """Views of one object through one encoder, by a reshape that multiplies the batch, averaged."""
    i = keras.Input((3, 8))
    flat = ops.reshape(i, (-1, 8))
    y = layers.Dense(4)(layers.Dense(6, activation="relu")(flat))
    return keras.Model(i, ops.mean(ops.reshape(y, (-1, 3, 4)), axis=1))


@example(uniform((6,)), relu="all", index=0, linear=True)
def distilled_temperature():
    """A student whose logits are divided by a constant array."""
    i = keras.Input((6,))
    y = layers.Dense(5, activation="relu")(i)
    return keras.Model(i, layers.Dense(3)(y) / np.array([2.0, 4.0, 5.0], "float32"))
