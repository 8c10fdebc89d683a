"""Texts: token numbers to classes, tags and further tokens."""

import keras
import numpy as np
from example_nets import called, example, several, token_numbers
from keras import layers, ops

TOKENS = {"noise": False}


class TokenAndPosition(layers.Layer):
    """Two embeddings, added; ``masked`` hands on a Keras mask."""

    def __init__(self, length, vocabulary, width, masked=False, **kwargs):
        super().__init__(**kwargs)
        self.token = layers.Embedding(vocabulary, width, mask_zero=masked)
        self.position, self.masked = layers.Embedding(length, width), masked

    def call(self, x):
        return self.token(x) + self.position(ops.arange(0, ops.shape(x)[-1], 1))

    def compute_mask(self, x, mask=None):
        return ops.not_equal(x, 0) if self.masked else None


class TransformerBlock(layers.Layer):
    """Post-norm encoder block; ``causal`` for a decoder."""

    def __init__(self, width, heads=2, activation="relu", causal=False, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.causal = layers.MultiHeadAttention(heads, width), causal
        self.mlp = keras.Sequential([layers.Dense(6, activation=activation), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6), layers.LayerNormalization(epsilon=1e-6)]
        self.drops = [layers.Dropout(0.1), layers.Dropout(0.1)]

    def causal_mask(self, x):
        count, steps = ops.shape(x)[0], ops.shape(x)[1]
        mask = ops.cast(ops.arange(steps)[:, None] >= ops.arange(steps), "bool")
        return ops.tile(ops.reshape(mask, (1, steps, steps)), (count, 1, 1))

    def call(self, x, training=False):
        mask = self.causal_mask(x) if self.causal else None
        y = self.norms[0](x + self.drops[0](self.attention(x, x, attention_mask=mask), training=training))
        return self.norms[1](y + self.drops[1](self.mlp(y), training=training))


@example(token_numbers(6, 9), relu="some", final="softmax", **TOKENS)
def text_transformer():
    i = keras.Input((6,), dtype="int32")
    y = layers.GlobalAveragePooling1D()(TransformerBlock(4)(TokenAndPosition(6, 9, 4)(i)))
    y = layers.Dropout(0.1)(layers.Dense(5, activation="relu")(layers.Dropout(0.1)(y)))
    return keras.Model(i, layers.Dense(2, activation="softmax")(y))


@example(token_numbers(5, 9), relu="some", index=(2, 4), smooth=False, final="softmax", **TOKENS)
def masked_language_bert():
    i = keras.Input((5,), dtype="int64")
    y = layers.Embedding(9, 4)(i) + layers.Embedding(5, 4)(ops.arange(5))
    z = layers.Dropout(0.1)(layers.MultiHeadAttention(2, 2)(y, y, y))
    y = layers.LayerNormalization(epsilon=1e-6)(y + z)
    z = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(4)], name="ffn")(y)
    y = layers.LayerNormalization(epsilon=1e-6)(y + z)
    return keras.Model(i, layers.Dense(9, activation="softmax")(y))


@example(token_numbers(5, 9), relu="some", index=(4, 3), **TOKENS)
def mini_gpt():
    i = keras.Input((5,), dtype="int32")
    y = TransformerBlock(4, causal=True)(TokenAndPosition(5, 9, 4)(i))
    return keras.Model(i, layers.Dense(9)(y))


class Switch(layers.Layer):
    """Mixture of experts: each token goes to the best of them, with a capacity, by one-hot products."""

    def __init__(self, experts, width, capacity, **kwargs):
        super().__init__(**kwargs)
        self.experts = [
            keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(width)]) for _ in range(experts)
        ]
        self.route, self.capacity, self.width = layers.Dense(experts), capacity, width

    def build(self, shape):
        self.route.build(shape)
        for one in self.experts:
            one.build((None, self.width))

    def call(self, x):
        flat = ops.reshape(x, (-1, self.width))
        shares = ops.softmax(self.route(flat), axis=-1)
        best = ops.one_hot(ops.argmax(shares, axis=-1), len(self.experts))
        every = ops.stack([one(flat) for one in self.experts], axis=1)
        y = ops.sum(every * ops.expand_dims(best * shares, -1), axis=1)
        return ops.reshape(y, (-1, x.shape[1], self.width))


@example(token_numbers(5, 9), relu="some", final="softmax", stepped=True, **TOKENS)
def switch_transformer():
    i = keras.Input((5,), dtype="int32")
    y = TokenAndPosition(5, 9, 4)(i)
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 4)(y, y))
    y = layers.LayerNormalization()(y + Switch(3, 4, 5)(y))
    y = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling1D()(y))
    return keras.Model(i, layers.Dense(2, activation="softmax")(y))


@example(token_numbers(10, 9), relu="all", final="sigmoid", index=0, linear=True, **TOKENS)
def text_from_scratch():
    i = keras.Input((None,), dtype="int64")
    y = layers.Dropout(0.5)(layers.Embedding(9, 4)(i))
    y = layers.Conv1D(5, 3, padding="valid", activation="relu", strides=2)(y)
    y = layers.Conv1D(5, 3, padding="valid", activation="relu", strides=1)(y)
    y = layers.Dense(5, activation="relu")(layers.GlobalMaxPooling1D()(y))
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(y)))


@example(token_numbers(16, 9), relu="all", final="softmax", maps=True, linear=True, **TOKENS)
def pretrained_word_embeddings():
    table = np.random.default_rng(3).normal(size=(9, 4))
    i = keras.Input((16,), dtype="int32")
    y = layers.Embedding(9, 4, trainable=False, embeddings_initializer=keras.initializers.Constant(table))(i)
    y = layers.MaxPooling1D(2)(layers.Conv1D(5, 3, activation="relu")(y))
    y = layers.GlobalMaxPooling1D()(layers.Conv1D(5, 3, activation="relu")(y))
    y = layers.Dropout(0.5)(layers.Dense(6, activation="relu")(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(token_numbers(6, 9), final="sigmoid", index=0, smooth=True, **TOKENS)
def bidirectional_lstm_imdb():
    i = keras.Input((None,), dtype="int32")
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Embedding(9, 4)(i))
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(layers.Bidirectional(layers.LSTM(3))(y)))


def _one_hot(length, count):
    return lambda rng, n: np.eye(count, dtype="float32")[rng.integers(0, count, (n, length))]


@example(several(_one_hot(5, 4), _one_hot(4, 6)), final="softmax", index=(2, 3), smooth=True)
def sequence_to_sequence_lstm():
    source, target = keras.Input((5, 4), name="source"), keras.Input((4, 6), name="target")
    _, h, c = layers.LSTM(4, return_state=True)(source)
    y, _, _ = layers.LSTM(4, return_sequences=True, return_state=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(6, activation="softmax")(y))


class Decoder(layers.Layer):
    """Causal self-attention and attention to the encoder, whose padding is masked."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.own, self.other = layers.MultiHeadAttention(2, width), layers.MultiHeadAttention(2, width)
        self.mlp = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.supports_masking = True

    def causal(self, x):
        count, steps = ops.shape(x)[0], ops.shape(x)[1]
        mask = ops.reshape(ops.cast(ops.arange(steps)[:, None] >= ops.arange(steps), "int32"), (1, steps, steps))
        return ops.tile(mask, (count, 1, 1))

    def call(self, inputs, mask=None):
        x, encoded = inputs
        causal, padding = self.causal(x), None
        if mask is not None:
            own, other = mask
            causal = causal if own is None else ops.minimum(ops.cast(own[:, None, :], "int32"), causal)
            padding = None if other is None else ops.cast(other[:, None, :], "int32")
        y = self.norms[0](x + self.own(query=x, value=x, key=x, attention_mask=causal))
        z = self.other(query=y, value=encoded, key=encoded, attention_mask=padding)
        y = self.norms[1](y + z)
        return self.norms[2](y + self.mlp(y))


class Encoder(layers.Layer):
    """An encoder block that hands on the mask."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, width)
        self.mlp = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.supports_masking = True

    def call(self, x, mask=None):
        padding = None if mask is None else ops.cast(mask[:, None, :], "int32")
        y = self.norms[0](x + self.attention(query=x, value=x, key=x, attention_mask=padding))
        return self.norms[1](y + self.mlp(y))


@example(several(token_numbers(5, 9, padded=True), token_numbers(4, 8)), relu="some", final="softmax", index=(1, 3),
         **TOKENS, padded=True)  # fmt: skip
def sequence_to_sequence_transformer():
    source, target = keras.Input((5,), dtype="int64", name="source"), keras.Input((4,), dtype="int64", name="target")
    encoded = Encoder(4)(TokenAndPosition(5, 9, 4, masked=True)(source))
    y = Decoder(4)([TokenAndPosition(4, 8, 4, masked=True)(target), encoded])
    return keras.Model([source, target], layers.Dense(8, activation="softmax")(layers.Dropout(0.5)(y)))


class Tagger(keras.Model):
    """Named entities: a class for each word."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.block = TokenAndPosition(6, 9, 4), TransformerBlock(4)
        self.drops = [layers.Dropout(0.1), layers.Dropout(0.1)]
        self.hidden, self.last = layers.Dense(5, activation="relu"), layers.Dense(4, activation="softmax")

    def call(self, x, training=False):
        y = self.drops[0](self.block(self.embedding(x)), training=training)
        return self.last(self.drops[1](self.hidden(y), training=training))


@example(token_numbers(6, 9), relu="some", final="softmax", index=(3, 2), **TOKENS)
def named_entities():
    return called(Tagger(), (6,), dtype="int32")


@example(token_numbers(6, 9, padded=True), final="softmax", index=1, smooth=True, **TOKENS, padded=True)
def masked_lstm_tagger():
    i = keras.Input((6,), dtype="int32")
    y = layers.LSTM(4)(layers.Embedding(9, 4, mask_zero=True)(i))
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@example(several(token_numbers(5, 9), token_numbers(5, 9)), index=1, final="softmax", smooth=True, **TOKENS)
def semantic_similarity():
    """Token numbers and segment numbers into a small BERT, then a bidirectional LSTM and two poolings."""
    ids, kinds = keras.Input((5,), dtype="int32", name="ids"), keras.Input((5,), dtype="int32", name="types")
    y = layers.LayerNormalization()(layers.Embedding(9, 4)(ids) + layers.Embedding(9, 4)(kinds))
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 2)(y, y))
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(y)
    y = layers.GlobalAveragePooling1D()(y)
    return keras.Model([ids, kinds], layers.Dense(3, activation="softmax")(layers.Dropout(0.3)(y)))


@example(several(token_numbers(6, 9), lambda rng, n: np.tile([1, 1, 1, 1, 1, 0], (n, 1)).astype("int32")),
         relu="none", final="softmax", index=2, output=0, smooth=True, **TOKENS, masks=(1,))  # fmt: skip
def question_answering():
    """Start and end of an answer; the attention mask is an input."""
    ids, mask = keras.Input((6,), dtype="int32", name="ids"), keras.Input((6,), dtype="int32", name="mask")
    y = TokenAndPosition(6, 9, 4)(ids)
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 2)(y, y, attention_mask=mask[:, None, :]))
    y = layers.LayerNormalization()(y + layers.Dense(4)(layers.Dense(6, activation="gelu")(y)))
    ends = [layers.Activation("softmax")(layers.Flatten()(layers.Dense(1, use_bias=False)(y))) for _ in range(2)]
    return keras.Model([ids, mask], ends)


@example(token_numbers(6, 9), smooth=True, index=2, **TOKENS)
def text_fnet():
    i = keras.Input((6,), dtype="int32")
    y = TokenAndPosition(6, 9, 4)(i)
    y = layers.LayerNormalization()(y + ops.real(ops.cast(y, "float32")) + ops.fft2((y, ops.zeros_like(y)))[0])
    y = layers.LayerNormalization()(y + layers.Dense(4)(layers.Dense(6, activation="gelu")(y)))
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


@example(lambda rng, n: rng.integers(0, 2, (n, 12)) * 1.0, relu="all", final="sigmoid", index=2, linear=True)
def multi_label_bag_of_words():
    return keras.Sequential([
        keras.Input((12,)), layers.Dense(8, activation="relu"), layers.Dense(6, activation="relu"),
        layers.Dense(4, activation="sigmoid"),
    ])  # fmt: skip


@example(token_numbers(6, 9), relu="some", final="sigmoid", index=0, **TOKENS)
def active_learning_reviews():
    i = keras.Input((6,), dtype="int32")
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Embedding(9, 4)(i))
    y = layers.GlobalMaxPooling1D()(y)
    y = layers.Dropout(0.5)(layers.Dense(5, activation="relu")(y))
    return keras.Model(i, layers.Dense(1, activation="sigmoid")(y))


class HashedEmbedding(layers.Layer):
    """Memory-efficient embeddings: quotient and remainder of the number, multiplied."""

    def __init__(self, buckets, width, **kwargs):
        super().__init__(**kwargs)
        self.buckets = buckets
        self.remainder, self.quotient = layers.Embedding(buckets, width), layers.Embedding(buckets, width)

    def call(self, x):
        return self.remainder(ops.mod(x, self.buckets)) * self.quotient(ops.floor_divide(x, self.buckets))


@example(several(token_numbers(1, 9), token_numbers(1, 9)), final="sigmoid", index=0, smooth=True, **TOKENS)
def memory_efficient_embeddings():
    user, item = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    ends = [layers.Flatten()(HashedEmbedding(3, 4)(x)) for x in (user, item)]
    return keras.Model([user, item], layers.Activation("sigmoid")(layers.Dot(axes=1)(ends)))
