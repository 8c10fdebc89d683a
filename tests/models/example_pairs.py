"""Embeddings, and distances between them."""

import keras
from example_images import conv, norm_relu
from example_nets import called, example, uniform
from keras import layers, ops


def _tower():
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.BatchNormalization(), layers.Conv2D(3, 3, activation="tanh"),
        layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(4, activation="tanh"),
    ], name="tower")  # fmt: skip


def _euclidean(pair):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(pair[0] - pair[1]), axis=1, keepdims=True), 1e-7))


@example(uniform((8, 8, 1), (8, 8, 1)), final="sigmoid", index=0, maps=True)
def siamese_contrastive():
    tower, left, right = _tower(), keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    y = layers.Lambda(_euclidean, output_shape=(1,))([tower(left), tower(right)])
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(y)))


class Distances(layers.Layer):
    """Squared distances of an anchor to a positive and a negative."""

    def call(self, anchor, positive, negative):
        return ops.sum(ops.square(anchor - positive), -1), ops.sum(ops.square(anchor - negative), -1)


@example(uniform((6, 6, 2), (6, 6, 2), (6, 6, 2)), relu="some", index=1)
def siamese_triplet():
    i = keras.Input((6, 6, 2))
    y = layers.Flatten()(norm_relu(conv(3, strides=2)(i)))
    y = layers.BatchNormalization()(layers.Dense(5, activation="relu")(y))
    embedding = keras.Model(i, layers.Dense(4)(y), name="embedding")
    inputs = [keras.Input((6, 6, 2), name=n) for n in ("anchor", "positive", "negative")]
    near, far = Distances()(*[embedding(x) for x in inputs])
    return keras.Model(inputs, ops.stack([near, far], axis=1))


@example(uniform((8, 8, 3)), relu="some", index=2, maps=True)
def contrastive_encoder():
    """SimCLR, NNCLR: encoder and projection head, normalised."""
    encoder = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, strides=2, activation="relu"),
        layers.Conv2D(4, 2, strides=2, activation="relu"), layers.Flatten(), layers.Dense(5, activation="relu"),
    ], name="encoder")  # fmt: skip
    head = keras.Sequential([keras.Input((5,)), layers.Dense(5, activation="relu"), layers.Dense(4)], name="head")
    i = keras.Input((8, 8, 3))
    return keras.Model(i, layers.UnitNormalization()(head(encoder(i))))


@example(uniform((8, 8, 3)), relu="all", final="softmax", maps=True, linear=True)
def supervised_contrastive():
    i = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(norm_relu(conv(4, strides=2)(i)))
    encoder = keras.Model(i, y, name="encoder")
    encoder.trainable = False
    i = keras.Input((8, 8, 3))
    y = layers.Dropout(0.5)(layers.Dense(5, activation="relu")(layers.Dropout(0.5)(encoder(i))))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


class InBatch(keras.Model):
    """Metric learning: cosines of all pairs of a batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = layers.Dense(6, activation="relu"), layers.Dense(4)

    def call(self, x):
        y = ops.normalize(self.last(self.first(x)), axis=-1)
        return ops.sum(ops.matmul(y, ops.transpose(y)), axis=1, keepdims=True) * y


@example(uniform((5,)), relu="some", coupled=True)
def metric_learning():
    return called(InBatch(), (5,))


@example(uniform((6, 6, 3)), relu="some", index=1, maps=True)
def metric_embedding():
    i = keras.Input((6, 6, 3))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=2, activation="relu")(i))
    return keras.Model(i, ops.normalize(layers.Dense(3)(y), axis=-1))


@example(uniform((7,), (5,)), relu="some", index=0)
def dual_encoder():
    """Two towers with projections and a scalar product, as in search by text and pictures."""
    ends = []
    inputs = [keras.Input((7,), name="image"), keras.Input((5,), name="caption")]
    for x in inputs:
        y = layers.Dense(4)(x)
        z = layers.Dropout(0.1)(layers.Dense(4)(layers.Activation("relu")(y)))
        ends.append(layers.LayerNormalization()(layers.Add()([y, z])))
    return keras.Model(inputs, layers.Dot(axes=1)(ends))
