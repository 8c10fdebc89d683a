"""Graphs: nodes and edges inside a sample, nodes that are the samples, molecules."""

import keras
import numpy as np
from example_nets import called, example, several, token_numbers, uniform
from keras import layers, ops

EDGES = np.array([[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2], [0, 0], [1, 1], [2, 2], [3, 3]])


class GraphAttention(layers.Layer):
    """Scores of edges by gather, a softmax over the edges of a node by segment sums; (batch, nodes, features)."""

    def __init__(self, units, count, **kwargs):
        super().__init__(**kwargs)
        self.units, self.count = units, count
        self.to, self.of = EDGES[:, 0], EDGES[:, 1]
        self.members = np.eye(count, dtype="float32")[self.to]

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.attention = self.add_weight(shape=(2 * self.units, 1), name="attention")

    def call(self, x):
        y = ops.matmul(x, self.kernel)
        ends = ops.concatenate([ops.take(y, self.to, axis=1), ops.take(y, self.of, axis=1)], axis=-1)
        scores = ops.squeeze(ops.leaky_relu(ops.matmul(ends, self.attention)), -1)
        scores = ops.exp(ops.clip(scores, -2, 2))
        totals = ops.matmul(scores, self.members)
        shares = scores / ops.take(totals, self.to, axis=1)
        messages = ops.expand_dims(shares, -1) * ops.take(y, self.of, axis=1)
        return ops.einsum("bef,en->bnf", messages, self.members)


@example(uniform((4, 5)), relu="some", index=(2, 1))
def graph_attention():
    i = keras.Input((4, 5))
    y = ops.relu(ops.concatenate([GraphAttention(3, 4)(i), GraphAttention(3, 4)(i)], axis=-1))
    return keras.Model(i, layers.Dense(3)(GraphAttention(4, 4)(y) + layers.Dense(4)(y)))


class NodeAttention(GraphAttention):
    """The published form: nodes are the rows of the batch."""

    def call(self, x):
        y = ops.matmul(x, self.kernel)
        ends = ops.concatenate([ops.take(y, self.to, axis=0), ops.take(y, self.of, axis=0)], axis=-1)
        scores = ops.exp(ops.clip(ops.squeeze(ops.leaky_relu(ops.matmul(ends, self.attention)), -1), -2, 2))
        totals = ops.segment_sum(scores, ops.convert_to_tensor(self.to), num_segments=self.count)
        shares = scores / ops.take(totals, self.to, axis=0)
        messages = ops.expand_dims(shares, -1) * ops.take(y, self.of, axis=0)
        return ops.segment_sum(messages, ops.convert_to_tensor(self.to), num_segments=self.count)


@example(lambda rng, n: rng.uniform(-1, 1, (4, 5)), coupled=True)
def graph_attention_rows():
    i = keras.Input((5,))
    return keras.Model(i, layers.Dense(3)(ops.relu(NodeAttention(4, 4)(i))))


class NodeClassifier(keras.Model):
    """Citations: the input is the number of a paper, the graph and its features are in the model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.features = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
        self.adjacency = np.zeros((4, 4), "float32")
        self.adjacency[EDGES[:, 0], EDGES[:, 1]] = 1 / 3
        self.before, self.update = layers.Dense(4, activation="gelu"), layers.Dense(4, activation="gelu")
        self.last = layers.Dense(3)

    def call(self, numbers):
        y = self.before(ops.convert_to_tensor(self.features))
        y = y + self.update(ops.concatenate([y, ops.matmul(self.adjacency, y)], axis=-1))
        return self.last(ops.take(y, ops.squeeze(numbers, -1), axis=0))


@example(token_numbers(1, 4), index=1, noise=False, relu="all")  # no activation between the number and the output
def citation_nodes():
    return called(NodeClassifier(), (1,), dtype="int32")


def _adjacency(rng, n):
    a = rng.integers(0, 2, (n, 2, 4, 4))
    return np.maximum(a, a.transpose(0, 1, 3, 2)).astype("float32")


class RelationalConv(layers.Layer):
    """Adjacency by kind of bond times features times a kernel by kind, summed and activated."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shapes):
        kinds, width = shapes[0][1], shapes[1][2]
        self.kernel = self.add_weight(shape=(kinds, width, self.units), name="kernel")
        self.bias = self.add_weight(shape=(kinds, 1, self.units), name="bias")

    def call(self, inputs):
        adjacency, features = inputs
        x = ops.matmul(adjacency, ops.expand_dims(features, 1))
        return ops.relu(ops.sum(ops.matmul(x, self.kernel) + self.bias, axis=1))


@example(several(_adjacency, uniform((4, 3))), relu="some", index=0)
def molecule_discriminator():
    """R-GCN of a molecule GAN: adjacency tensor and features of atoms."""
    adjacency, features = keras.Input((2, 4, 4), name="bonds"), keras.Input((4, 3), name="atoms")
    y = RelationalConv(4)([adjacency, RelationalConv(4)([adjacency, features])])
    y = layers.Dense(5, activation="relu")(layers.GlobalAveragePooling1D()(y))
    return keras.Model([adjacency, features], layers.Dense(1)(y))


class MessagePassing(layers.Layer):
    """Edge features make matrices for messages; a GRU cell updates atoms."""

    def __init__(self, units, steps, **kwargs):
        super().__init__(**kwargs)
        self.units, self.steps = units, steps
        self.matrices, self.update = layers.Dense(units * units), layers.GRUCell(units)

    def build(self, shapes):
        self.matrices.build(shapes[1])
        self.update.build((None, self.units))

    def call(self, inputs):
        atoms, bonds = inputs
        nodes = atoms.shape[1]
        matrices = ops.reshape(self.matrices(bonds), (-1, nodes, nodes, self.units, self.units))
        for _ in range(self.steps):
            messages = ops.einsum("bijuv,bjv->biu", matrices, atoms)
            flat, _ = self.update(ops.reshape(messages, (-1, self.units)), [ops.reshape(atoms, (-1, self.units))])
            atoms = ops.reshape(flat, (-1, nodes, self.units))
        return atoms


@example(several(uniform((3, 4)), uniform((3, 3, 2))), relu="some", final="sigmoid", index=0)
def molecule_messages():
    atoms, bonds = keras.Input((3, 4), name="atoms"), keras.Input((3, 3, 2), name="bonds")
    y = MessagePassing(4, 2)([atoms, bonds])
    z = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 4)(y, y))
    y = layers.Dense(5, activation="relu")(layers.GlobalAveragePooling1D()(z))
    return keras.Model([atoms, bonds], layers.Dense(1, activation="sigmoid")(y))


@example(several(uniform((4, 3)), lambda rng, n: np.tile([[0, 1], [1, 2], [2, 3], [3, 0]], (n, 1, 1)).astype("int32")),
         relu="some", index=1, noise=False, masks=(1,))  # fmt: skip
def edges_as_input():
    """Each sample brings its own edges: gather by an input of whole numbers."""
    nodes, edges = keras.Input((4, 3), name="nodes"), keras.Input((4, 2), dtype="int32", name="edges")
    y = layers.Dense(4, activation="relu")(nodes)
    sources = ops.take_along_axis(y, ops.expand_dims(edges[:, :, 0], -1), axis=1)
    targets = ops.one_hot(edges[:, :, 1], 4)
    y = y + ops.matmul(ops.transpose(targets, (0, 2, 1)), sources)
    return keras.Model([nodes, edges], layers.Dense(2)(ops.max(y, axis=1)))
