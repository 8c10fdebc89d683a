"""Small models of texts, and a task and a tokenizer with the methods of keras-hub's."""

import keras
import numpy as np
from keras import layers, ops

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "bad", "play", "##ed", "##ing", "not", "it"]


def weighted(model, seed=0):
    """Random weights, biases too, so that nothing is zero by chance."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def vectorization(**options):
    return layers.TextVectorization(vocabulary=["a", "fine", "film", "bad", "not", "it"], **options)


def strings(mask=False, **options):
    """Strings -> TextVectorization -> embedding -> mean of features -> two classes."""
    text, words = keras.Input((1,), dtype="string"), vectorization(**options)
    x = layers.Dense(4, activation="tanh")(layers.Embedding(8, 3, mask_zero=mask)(words(text)))
    x = layers.GlobalAveragePooling1D()(x)
    return weighted(keras.Model(text, layers.Dense(2, activation="softmax")(x), name="reviews")), words


def transformer(size=len(WORDS), length=None, name="lm"):
    """Token numbers -> logits of the next token at every position, by one causal block."""
    x = keras.Input((length,), dtype="int32", name="token_ids")
    h = layers.Embedding(size, 6)(x)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 3)(h, h, use_causal_mask=True))
    h = h + layers.Dense(6)(layers.Dense(8, activation="gelu")(h))
    return weighted(keras.Model(x, layers.Dense(size)(h), name=name), 1)


class Pieces:
    """A tokenizer like those of keras-hub, of word pieces."""

    special_token_ids = [WORDS.index("[CLS]"), WORDS.index("[SEP]"), WORDS.index("[PAD]")]
    pad_token_id = 0

    def __call__(self, texts):
        return [[i for word in text.split() for i in self.pieces(word)] for text in texts]

    def pieces(self, word):
        for end in ("ed", "ing"):
            if word.endswith(end) and word.removesuffix(end) in WORDS:
                return [WORDS.index(word.removesuffix(end)), WORDS.index(f"##{end}")]
        return [WORDS.index(word) if word in WORDS else 1]

    def get_vocabulary(self):
        return list(WORDS)

    def id_to_token(self, number):
        if not 0 <= number < len(WORDS):
            raise ValueError(f"{number} is out of range")
        return WORDS[number]

    def token_to_id(self, token):
        if token not in WORDS:
            raise ValueError(f"{token!r} is not in the vocabulary")
        return WORDS.index(token)


class Packer:
    """A preprocessor like those of keras-hub for classifiers: what does not fit is cut off in silence."""

    def __init__(self, length=8):
        self.tokenizer, self.sequence_length = Pieces(), length

    def packed(self, texts, end=True):
        ids = np.zeros((len(texts), self.sequence_length), "int32")
        for row, numbers in zip(ids, self.tokenizer(texts), strict=True):
            ends = [3] if end else []
            whole = [2, *numbers[: self.sequence_length - 1 - len(ends)], *ends]
            row[: len(whole)] = whole
        return {"token_ids": ids, "padding_mask": ids != 0}

    def __call__(self, texts):
        return {**self.packed(texts), "segment_ids": np.zeros((len(texts), self.sequence_length), "int32")}


class Generator(Packer):
    """The same for models that tell the next token."""

    def generate_preprocess(self, texts):
        return self.packed(texts, end=False)


class Task(keras.Model):
    """A functional model with a preprocessor."""

    def __init__(self, inputs, outputs, preprocessor, **options):
        super().__init__(inputs, outputs, **options)
        self.preprocessor = preprocessor


def classifier(length=8):
    """A task of three classes that embeds tokens and segments, and takes the mean of what is no padding."""
    names = ("token_ids", "segment_ids", "padding_mask")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    h = layers.Embedding(len(WORDS), 5)(inputs["token_ids"]) + layers.Embedding(2, 5)(inputs["segment_ids"])
    kept = ops.expand_dims(ops.cast(ops.cast(inputs["padding_mask"], "bool"), "float32"), -1)
    mean = ops.sum(layers.Dense(5, activation="relu")(h) * kept, axis=1) / ops.sum(kept, axis=1)
    return weighted(Task(inputs, layers.Dense(3)(mean), Packer(length), name="task"), 2)


def causal(length=8):
    """A task that tells the next token."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    mask = ops.cast(inputs["padding_mask"], "bool")
    h = layers.Embedding(len(WORDS), 6)(inputs["token_ids"])
    looked = layers.MultiHeadAttention(2, 3)(h, h, attention_mask=ops.expand_dims(mask, 1), use_causal_mask=True)
    h = layers.LayerNormalization()(h + looked)
    return weighted(Task(inputs, layers.Dense(len(WORDS))(h), Generator(length), name="next"), 3)
