"""Sequences and texts that a model cannot take, or that it does not see: typed errors and warnings with a way out."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
import innv_ext.text
from innv_ext.errors import ClosedMaskWarning, InvalidInputError, NoRuleError

WORDS = ["[PAD]", "a", "b", "c", "d"]
RNG = np.random.default_rng(0)


class Positions(L.Layer):
    """Adds a learnt vector to each of at most eight steps."""

    def build(self, shape):
        self.table = L.Embedding(8, shape[-1])
        self.table.build((None,))
        super().build(shape)

    def call(self, x):
        return x + self.table(ops.arange(ops.shape(x)[1]))


def decoder(length=None):
    """Next tokens at every position."""
    x = keras.Input((length,), dtype="int32")
    h = Positions()(L.Embedding(5, 4)(x))
    return keras.Model(x, L.Dense(5)(h + L.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True)))


def explained(model, text, **options):
    return innv_ext.text.explain(model, text, "gradient", tokenizer=str.split, vocabulary=WORDS, **options)


@pytest.mark.parametrize("length", [None, 8])
def test_a_prompt_longer_than_the_context(length):
    model = decoder(length)
    assert explained(model, "a b c", target=1).relevance.shape[0] == 1
    with pytest.raises(InvalidInputError, match=r"Shorten"):
        explained(model, "a b c " * 3, target=1)
    with pytest.raises(InvalidInputError, match=r"Shorten"):
        explained(model, "a b c", completion=" d" * 7)
    analyzer = innv_ext.create_analyzer("gradient", model)
    with pytest.raises(InvalidInputError):
        analyzer.analyze(np.ones((2, 9), "int32"), (0, 0))
    assert analyzer.analyze(np.ones((2, 8), "int32"), (0, 0)).shape == (2, 8)  # a failed call leaves it usable


@pytest.mark.parametrize("target", [5, -1, "unheard"])
def test_a_target_outside_the_vocabulary(target):
    with pytest.raises(InvalidInputError, match=r"target|vocabulary"):
        explained(decoder(6), "a b", target=target)


def test_strings_for_a_model_of_numbers():
    model = decoder(6)
    with pytest.raises(InvalidInputError, match=r"innv_ext\.text\.explain"):
        innv_ext.create_analyzer("gradient", model).analyze(["a b"])
    with pytest.raises(InvalidInputError, match=r"tokenizer="):
        innv_ext.text.explain(model, "a b")


# --- masks that close everything --------------------------------------------------------------------------------------


def attended(h, beside=(), mask=None):
    h = h + L.MultiHeadAttention(2, 2)(h, h, attention_mask=mask)
    return L.Dense(2)(h[:, 0])


def embedded():
    x = keras.Input((4,), dtype="int32")
    tokens = L.Embedding(5, 4, mask_zero=True)(x)
    return keras.Model(x, attended(tokens)), np.array([[1, 2, 0, 0], [0, 0, 0, 0]])


def masking():
    x = keras.Input((4, 3))
    series = RNG.normal(size=(2, 4, 3)).astype("float32")
    series[1] = -1
    return keras.Model(x, L.Dense(2)(L.LSTM(3)(L.Masking(mask_value=-1.0)(x)))), series


def padding():
    x, real = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    y = attended(L.Embedding(5, 4)(x), mask=ops.cast(real, "bool")[:, None])
    return keras.Model([x, real], y), [np.ones((2, 4), "int32"), np.array([[1, 1, 0, 0], [0, 0, 0, 0]])]


def pairs():
    x, mask = keras.Input((None, 4)), keras.Input((None, None), dtype="bool")
    seen = np.ones((2, 3, 3), bool)
    seen[1] = False
    return keras.Model([x, mask], attended(x, mask=mask)), [RNG.normal(size=(2, 3, 4)), seen]


@pytest.mark.parametrize("case", [embedded, masking, padding, pairs])
def test_samples_that_a_mask_closes_are_told(case):
    model, x = case()
    analyzer = innv_ext.create_analyzer("lrp.attnlrp", model)
    with pytest.warns(ClosedMaskWarning, match=r"1 of 2 samples \(1\).*Leave them out"):
        found = analyzer.explain(x, 0)
    assert found.extras["finite"].all()
    analyzer.explain([part[:1] for part in x] if isinstance(x, list) else x[:1], 0)  # without a warning


def test_flags_are_no_masks():
    """Numbers beside numbers, all of which may be zero."""
    flags, x = keras.Input((3,), dtype="bool"), keras.Input((4,))
    model = keras.Model([flags, x], L.Dense(2)(L.Concatenate()([ops.cast(flags, "float32"), x])))
    innv_ext.create_analyzer("gradient", model).analyze([np.zeros((2, 3), bool), np.ones((2, 4))])


# --- recurrent cells --------------------------------------------------------------------------------------------------


class Counting(L.Layer):
    """A cell whose call changes a variable."""

    state_size = output_size = 3

    def build(self, shape):
        self.inner = L.Dense(3)
        self.inner.build((None, shape[-1]))
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        super().build(shape)

    def call(self, x, states, training=False):
        self.calls.assign(self.calls + 1)
        h = ops.tanh(self.inner(x) + states[0])
        return h, [h]


@pytest.mark.parametrize("name", ["lrp.attnlrp", "lrp.epsilon", "deep_taylor"])
def test_a_cell_that_changes_variables_is_refused_by_name(name):
    x = keras.Input((5, 2))
    model = keras.Model(x, L.Dense(2)(L.RNN(Counting(), name="counter")(x)))
    with pytest.raises(NoRuleError, match=r"counter .*it changes the variable 'calls'[\s\S]*unsupported='gradient'"):
        innv_ext.create_analyzer(name, model)
