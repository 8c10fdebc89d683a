"""Attention's scores are computed again in the backward walk: which values, and the same map as with kept ones."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.backend import again
from innv_ext.backend.graph import op_key

WIDTH, HEADS = 6, 2


class Attending(L.Layer):
    """Attention in single operations; ``scored`` is what happens to q k before the softmax."""

    def __init__(self, scored):
        super().__init__()
        self.scored = scored
        self.parts = [L.Dense(WIDTH) for _ in range(3)]

    def call(self, x):
        q, k, v = (ops.reshape(part(x), (-1, x.shape[1], HEADS, WIDTH // HEADS)) for part in self.parts)
        scores = self.scored(ops.einsum("btnh,bsnh->bnts", q, k))
        return ops.reshape(ops.einsum("bnts,bsnh->btnh", ops.softmax(scores), v), ops.shape(x))


def causal(scores):
    return ops.where(np.tri(5, dtype=bool), scores, -1e9)


SCORED = {
    "nothing": (lambda s: s, 1),
    "scale": (lambda s: s * 0.5, 2),
    "mask": (causal, 2),
    "bias and cap": (lambda s: ops.tanh(s / 3) * 3 + np.linspace(0, 1, 5, dtype="float32"), 5),
}


def attending(scored):
    inputs = keras.Input((5, WIDTH))
    h = Attending(scored)(inputs)
    outputs = L.Dense(3, activation="softmax")(L.GlobalAveragePooling1D()(L.Dense(4, activation="relu")(h)))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("name", ["lrp.attnlrp", "lrp.cp_lrp", "lrp.epsilon"])
@pytest.mark.parametrize("kind", SCORED)
def test_scores_are_computed_again_with_the_same_map(kind, name):
    """The slots from the product of queries and keys to the softmax, and no others."""
    scored, count = SCORED[kind]
    model, x = attending(scored), np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype("float32")
    analyzer = innv_ext.create_analyzer(name, model)
    writers = analyzer.graph_.producer()
    keys = [op_key(writers[slot].op) for slot in sorted(analyzer.again_)]
    assert len(keys) == count and keys[0] == "einsum" and not {"softmax", "Dense", "matmul"}.intersection(keys)
    kept = innv_ext.create_analyzer(name, model)
    kept.again_ = frozenset()
    found, expected = analyzer.analyze(x, 1), kept.analyze(x, 1)
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def test_layers_of_keras_too():
    inputs = keras.Input((5, WIDTH))
    h = L.MultiHeadAttention(HEADS, 3)(inputs, inputs, use_causal_mask=True)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(h)))
    analyzer = innv_ext.create_analyzer("lrp.attnlrp", model)
    writers = analyzer.graph_.producer()
    assert [op_key(writers[slot].op) for slot in sorted(analyzer.again_)] == ["einsum", "where"]


def test_nothing_without_a_product_or_for_gradients():
    """A softmax over weighted sums, as of a classifier, and methods that do not ask for scores."""
    model = attending(SCORED["scale"][0])
    assert not innv_ext.create_analyzer("gradient", model).again_
    inputs = keras.Input((5, WIDTH))
    plain = keras.Model(inputs, L.Dense(2)(ops.softmax(L.Dense(3)(L.Flatten()(inputs)))))
    analyzer = innv_ext.create_analyzer("lrp.epsilon", plain)
    assert not analyzer.again_ and again.scores(analyzer.graph_) == frozenset()
