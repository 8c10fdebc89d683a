"""Tables, recommendations, decisions."""

import keras
import numpy as np
from example_nets import called, example, several, token_numbers, uniform
from keras import layers, ops

TOKENS = {"noise": False}


def _block(y, width, activation="gelu"):
    z = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([layers.MultiHeadAttention(2, width)(y, y), y]))
    h = layers.Dense(width)(layers.Dense(width, activation=activation)(z))
    return layers.LayerNormalization(epsilon=1e-6)(layers.Add()([h, z]))


@example(several(token_numbers(1, 5), token_numbers(1, 6), uniform((3,))), relu="some", final="sigmoid", index=0,
         **TOKENS)  # fmt: skip
def tab_transformer():
    kinds = [keras.Input((1,), dtype="int32", name=n) for n in ("work", "education")]
    numbers = keras.Input((3,), name="numbers")
    columns = [layers.Embedding(c, 4)(k) for c, k in zip((5, 6), kinds, strict=True)]
    y = layers.Concatenate(axis=1)(columns) + layers.Embedding(2, 4)(ops.arange(2))
    y = layers.Flatten()(_block(y, 4))
    y = layers.Concatenate()([y, layers.LayerNormalization(epsilon=1e-6)(numbers)])
    y = layers.Dense(6, activation="selu")(layers.BatchNormalization()(y))
    y = layers.Dense(5, activation="relu")(y)
    return keras.Model([*kinds, numbers], layers.Dense(1, activation="sigmoid")(y))


class NumberTokens(layers.Layer):
    """Each number times a vector of its own, and a class token in front."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.width), name="w")
        self.b = self.add_weight(shape=(shape[-1], self.width), name="b")
        self.first = self.add_weight(shape=(1, 1, self.width), name="first")

    def call(self, x):
        y = ops.expand_dims(x, -1) * self.w + self.b
        return ops.concatenate([ops.repeat(self.first, ops.shape(x)[0], axis=0), y], axis=1)


@example(uniform((5,)), relu="some", index=1)
def ft_transformer():
    i = keras.Input((5,))
    y = layers.LayerNormalization()(_block(NumberTokens(4)(i), 4, "relu")[:, 0, :])
    return keras.Model(i, layers.Dense(2)(ops.relu(y)))


@example(several(uniform((4,)), token_numbers(1, 6)), relu="all", final="softmax", linear=True, **TOKENS)
def wide_and_deep():
    numbers, kind = keras.Input((4,), name="numbers"), keras.Input((1,), dtype="int32", name="kind")
    wide = layers.BatchNormalization()(layers.Concatenate()([numbers, layers.CategoryEncoding(6, "one_hot")(kind)]))
    deep = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(6, 3)(kind))])
    for units in (6, 5):
        deep = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(deep))))
    y = layers.Concatenate()([wide, deep])
    return keras.Model([numbers, kind], layers.Dense(3, activation="softmax")(y))


@example(uniform((6,)), relu="some", final="softmax", index=2)
def deep_and_cross():
    i = keras.Input((6,))
    first = cross = layers.BatchNormalization()(i)
    for _ in range(2):
        cross = first * layers.Dense(6)(cross) + cross
    deep = layers.Dense(5, activation="relu")(first)
    y = layers.Concatenate()([layers.BatchNormalization()(cross), deep])
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


class GatedLinearUnit(layers.Layer):
    """linear * sigmoid."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.linear, self.gate = layers.Dense(units), layers.Dense(units, activation="sigmoid")

    def call(self, x):
        return self.linear(x) * self.gate(x)


class GatedResidual(layers.Layer):
    """ELU, a gated linear unit, a residual and a normalisation."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.elu, self.linear = layers.Dense(units, activation="elu"), layers.Dense(units)
        self.gated, self.norm = GatedLinearUnit(units), layers.LayerNormalization()
        self.project = layers.Dense(units)

    def call(self, x):
        y = self.gated(self.linear(self.elu(x)))
        return self.norm((self.project(x) if x.shape[-1] != self.units else x) + y)


class VariableSelection(layers.Layer):
    """Each feature through a gated residual of its own; a softmax over features weights their sum."""

    def __init__(self, count, units, **kwargs):
        super().__init__(**kwargs)
        self.each = [GatedResidual(units) for _ in range(count)]
        self.joint, self.weights_of = GatedResidual(units), layers.Dense(count, activation="softmax")

    def call(self, inputs):
        shares = ops.expand_dims(self.weights_of(self.joint(ops.concatenate(inputs, axis=-1))), -1)
        y = ops.stack([one(x) for one, x in zip(self.each, inputs, strict=True)], axis=1)
        return ops.squeeze(ops.matmul(ops.transpose(shares, [0, 2, 1]), y), 1)


@example(uniform((3,)), final="sigmoid", index=0, smooth=True)
def variable_selection():
    i = keras.Input((3,))
    parts = [layers.Dense(4)(ops.expand_dims(i[:, k], -1)) for k in range(3)]
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(VariableSelection(3, 4)(parts)))


@example(several(uniform((1,)), uniform((1,)), token_numbers(1, 5)), final="sigmoid", index=0, smooth=True, **TOKENS)
def gated_residual_columns():
    inputs = [keras.Input((1,), name="a"), keras.Input((1,), name="b"), keras.Input((1,), dtype="int32", name="c")]
    parts = [layers.Dense(4)(x) for x in inputs[:2]] + [layers.Flatten()(layers.Embedding(5, 4)(inputs[2]))]
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(VariableSelection(3, 4)(parts)))


class NeuralTree(keras.Model):
    """A soft decision tree of which the routes are built level by level, from a few of the features."""

    def __init__(self, depth, features, classes, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.leaves = depth, 2**depth
        self.used = np.eye(features, dtype="float32")[np.random.default_rng(0).choice(features, 4, replace=False)]
        self.decide = layers.Dense(self.leaves, activation="sigmoid")
        self.classes = classes

    def build(self, shape):
        self.pi = self.add_weight(shape=(self.leaves, self.classes), name="pi")
        super().build(shape)

    def call(self, x):
        count = ops.shape(x)[0]
        x = ops.matmul(x, ops.transpose(self.used))
        decisions = ops.expand_dims(self.decide(x), axis=2)
        decisions = ops.concatenate([decisions, 1 - decisions], axis=2)
        mu = ops.ones([count, 1, 1])
        begin, end = 1, 2
        for level in range(self.depth):
            mu = ops.reshape(mu, [count, -1, 1])
            mu = ops.tile(mu, (1, 1, 2)) * decisions[:, begin:end, :]
            begin, end = end, end + 2 ** (level + 1)
        return ops.matmul(ops.reshape(mu, [count, self.leaves]), ops.softmax(self.pi))


@example(uniform((6,)), index=2, smooth=True)
def neural_decision_tree():
    return called(NeuralTree(3, 6, 3), (6,))


class Forest(keras.Model):
    """The mean of trees behind a normalisation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()
        self.trees = [NeuralTree(2, 6, 3) for _ in range(2)]

    def call(self, x):
        x = self.norm(x)
        total = ops.zeros([ops.shape(x)[0], 3])
        for tree in self.trees:
            total += tree(x)
        return total / len(self.trees)


@example(uniform((6,)), index=1, smooth=True)
def neural_decision_forest():
    return called(Forest(), (6,))


class Recommender(keras.Model):
    """Two embeddings with biases, a scalar product over the last axis of each pair, a sigmoid."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.user, self.user_bias = layers.Embedding(8, 4), layers.Embedding(8, 1)
        self.movie, self.movie_bias = layers.Embedding(9, 4), layers.Embedding(9, 1)

    def call(self, pair):
        user, movie = self.user(pair[:, 0]), self.movie(pair[:, 1])
        dot = ops.sum(user * movie, axis=-1, keepdims=True)
        return ops.nn.sigmoid(dot + self.user_bias(pair[:, 0]) + self.movie_bias(pair[:, 1]))


@example(token_numbers(2, 8), relu="some", final="sigmoid", index=0, smooth=True, **TOKENS)
def collaborative_filtering():
    return called(Recommender(), (2,), dtype="int32")


class CoupledRecommender(Recommender):
    """As published: ``tensordot`` over both axes is one number for the whole batch."""

    def call(self, pair):
        user, movie = self.user(pair[:, 0]), self.movie(pair[:, 1])
        return ops.nn.sigmoid(ops.tensordot(user, movie, 2) + self.user_bias(pair[:, 0]) + self.movie_bias(pair[:, 1]))


@example(token_numbers(2, 8), final="sigmoid", index=0, coupled=True, **TOKENS)
def collaborative_filtering_tensordot():
    return called(CoupledRecommender(), (2,), dtype="int32")


@example(several(token_numbers(4, 9), uniform((4, 1)), token_numbers(1, 9)), relu="some", index=0, **TOKENS)
def behavior_sequence_transformer():
    movies = keras.Input((4,), dtype="int32", name="movies")
    ratings, target = keras.Input((4, 1), name="ratings"), keras.Input((1,), dtype="int32", name="target")
    table = layers.Embedding(9, 4)
    y = (table(movies) + layers.Embedding(4, 4)(ops.arange(4))) * ratings
    y = layers.Concatenate(axis=1)([y, table(target)])
    z = layers.Add()([y, layers.Dropout(0.1)(layers.MultiHeadAttention(2, 4)(y, y))])
    z = layers.LeakyReLU()(layers.LayerNormalization()(z))
    y = layers.Flatten()(layers.LayerNormalization()(layers.Add()([z, layers.Dense(4)(z)])))
    y = layers.Dropout(0.1)(layers.LeakyReLU()(layers.BatchNormalization()(layers.Dense(6)(y))))
    return keras.Model([movies, ratings, target], layers.Dense(1)(y))


class FourierFeatures(layers.Layer):
    """cos(x w + b), fixed: a Gaussian kernel machine."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.count), trainable=False, name="w")
        self.b = self.add_weight(shape=(self.count,), trainable=False, name="b")

    def call(self, x):
        return ops.cos(ops.matmul(x, self.w) + self.b) * np.sqrt(2 / self.count).astype("float32")


@example(uniform((5,)), index=1, smooth=True)
def quasi_svm():
    return keras.Sequential([keras.Input((5,)), FourierFeatures(12), layers.Dense(3)])


def _row(rng, n):
    return {
        "age": rng.normal(50, 10, (n, 1)), "pressure": rng.normal(130, 10, (n, 1)),
        "sex": rng.integers(0, 2, (n, 1)).astype("int64"), "pain": rng.integers(1, 5, (n, 1)).astype("int64"),
    }  # fmt: skip


@example(_row, relu="all", final="sigmoid", index=0, random=False, **TOKENS)
def structured_data():
    """Numbers normalised, categories looked up and encoded, in one model with a dict of inputs."""
    rng = np.random.default_rng(0)
    inputs = {n: keras.Input((1,), name=n) for n in ("age", "pressure")}
    parts = []
    for name, i in inputs.items():
        norm = layers.Normalization()
        norm.adapt(rng.normal({"age": 50, "pressure": 130}[name], 10, (64, 1)).astype("float32"))
        parts.append(norm(i))
    for name, vocabulary in (("sex", [0, 1]), ("pain", [1, 2, 3, 4])):
        inputs[name] = keras.Input((1,), name=name, dtype="int64")
        parts.append(layers.IntegerLookup(vocabulary=vocabulary, output_mode="one_hot")(inputs[name]))
    y = layers.Dropout(0.5)(layers.Dense(6, activation="relu")(layers.Concatenate()(parts)))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(y))


@example(several(token_numbers(1, 50), uniform((3,))), relu="all", index=1, **TOKENS)
def hashed_categories():
    kind, numbers = keras.Input((1,), dtype="int64", name="kind"), keras.Input((3,), name="numbers")
    y = layers.Flatten()(layers.Embedding(8, 3)(layers.Hashing(8)(kind)))
    y = layers.Dense(5, activation="relu")(layers.Concatenate()([y, numbers]))
    return keras.Model([kind, numbers], layers.Dense(2)(y))


@example(uniform((7,)), relu="all", final="sigmoid", index=0, linear=True)
def imbalanced_fraud():
    return keras.Sequential([
        keras.Input((7,)), layers.Dense(8, activation="relu"), layers.Dense(8, activation="relu"), layers.Dropout(0.3),
        layers.Dense(6, activation="relu"), layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip


class NormalHead(layers.Layer):
    """Mean and positive deviation of a normal distribution, as a stack."""

    def call(self, x):
        mean, raw = ops.split(x, 2, axis=-1)
        return ops.concatenate([mean, 1e-3 + ops.softplus(0.05 * raw)], axis=-1)


@example(uniform((4,)), index=1, smooth=True)
def probabilistic_regression():
    i = keras.Input((4,))
    y = layers.Dense(6, activation="sigmoid")(layers.BatchNormalization()(i))
    return keras.Model(i, NormalHead()(layers.Dense(2)(layers.Dense(6, activation="sigmoid")(y))))


@example(uniform((3,)), relu="some", index=4, linear=True)
def mixture_density():
    """Shares, means and deviations of a mixture of Gaussians."""
    i = keras.Input((3,))
    y = layers.Dense(8, activation="relu")(i)
    parts = [layers.Dense(3, activation="softmax")(y), layers.Dense(3)(y), ops.exp(layers.Dense(3)(y))]
    return keras.Model(i, layers.Concatenate()(parts))


@example(uniform((4,)), relu="all", final="softmax", output=0, linear=True)
def actor_critic():
    i = keras.Input((4,))
    common = layers.Dense(8, activation="relu")(i)
    return keras.Model(i, [layers.Dense(3, activation="softmax")(common), layers.Dense(1)(common)])


@example(lambda rng, n: rng.uniform(0, 255, (n, 4, 12, 12)), relu="all", index=2, maps=True, linear=True, first=True)
def deep_q_learning():
    """Frames first, turned by a Lambda as in the published example."""
    return keras.Sequential([
        keras.Input((4, 12, 12)), layers.Lambda(lambda t: ops.transpose(t, [0, 2, 3, 1]), output_shape=(12, 12, 4)),
        layers.Rescaling(1 / 255), layers.Conv2D(4, 4, strides=2, activation="relu"),
        layers.Conv2D(4, 3, strides=1, activation="relu"), layers.Flatten(), layers.Dense(6, activation="relu"),
        layers.Dense(3, activation="linear"),
    ])  # fmt: skip


@example(uniform((3,), (1,)), relu="all", index=0, linear=True)
def ddpg_critic():
    state, action = keras.Input((3,), name="state"), keras.Input((1,), name="action")
    y = layers.Dense(6, activation="relu")(layers.Dense(4, activation="relu")(state))
    y = layers.Dense(6, activation="relu")(layers.Concatenate()([y, layers.Dense(4, activation="relu")(action)]))
    return keras.Model([state, action], layers.Dense(1)(y))


@example(uniform((3,)), relu="some", index=0)
def ddpg_actor():
    i = keras.Input((3,))
    y = layers.Dense(6, activation="relu")(layers.Dense(6, activation="relu")(i))
    return keras.Model(i, layers.Dense(1, activation="tanh")(y) * 2.0)
