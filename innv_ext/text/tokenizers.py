"""Texts to token numbers and back, whatever the tokenizer: a Keras layer, a keras-hub tokenizer, a function."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.text.words import marker_of

UNKNOWN = ("[UNK]", "<unk>", "<UNK>", "[OOV]", "<oov>", "<OOV>", "\N{DOUBLE QUESTION MARK}")
FILLING = ("", "[PAD]", "<pad>", "<PAD>")
SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[START]", "[END]", "<s>", "</s>", "<mask>", "<bos>", "<eos>", "<|endoftext|>")

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True, eq=False)
class Coder:
    """A tokenizer as texts are explained with it.

    Attributes
    ----------
    encode : texts -> their token numbers, without padding and without special tokens around them
    text_of : number -> token; None for numbers that no token has
    number_of : token -> number, None where it has none
    special : the numbers of tokens that are no text, such as [CLS]
    pad : the number that fills up
    marker : what tells the beginning of a word, or its continuation, see ``innv_ext.text.words``
    limit : tokens that a text may have at most
    """

    encode: Encode
    text_of: Callable[[int], str | None]
    number_of: Callable[[str], int | None]
    special: frozenset[int] = frozenset()
    pad: int = 0
    marker: str = ""
    limit: int | None = None

    def token(self, number: int) -> str:
        """The token of a number; one without a token is written as the number."""
        found = self.text_of(int(number))
        return f"[{int(number)}]" if found is None else found

    def number(self, token: str, argument: str) -> int:
        """The number of a token as the vocabulary has it, or of a text that is one token.

        Raises
        ------
        InvalidInputError
            if it is several tokens, or not in the vocabulary
        """
        found = self.number_of(token)
        if found is not None:
            return found
        numbers = self.encode([token])[0]
        if len(numbers) > 1:
            parts = ", ".join(repr(self.token(n)) for n in numbers)
            raise InvalidInputError(f"{argument} {token!r} is {len(numbers)} tokens ({parts}); give one of them.")
        if not numbers or self.token(numbers[0]) in UNKNOWN:
            raise InvalidInputError(f"{argument} {token!r} is not in the vocabulary of the tokenizer.")
        return numbers[0]


def coder_of(tokenizer: Any, vocabulary: Sequence[str] | Mapping[str, int] | None = None) -> Coder:
    """The ``Coder`` for what users pass as ``tokenizer=``.

    Raises
    ------
    InvalidInputError
        for what is no tokenizer, and for a function without a vocabulary
    """
    if isinstance(tokenizer, keras.layers.TextVectorization):
        return of_vectorization(tokenizer)
    if hasattr(tokenizer, "id_to_token") and hasattr(tokenizer, "token_to_id"):
        return of_hub(tokenizer)
    if callable(tokenizer):
        return of_function(tokenizer, vocabulary)
    raise InvalidInputError(
        f"tokenizer must be a TextVectorization layer, a tokenizer of keras-hub, or a function from a text to the list "
        f"of its tokens; got {tokenizer!r}."
    )


def of_vectorization(layer: keras.layers.TextVectorization) -> Coder:
    """The words of a TextVectorization layer; numbers are those of its output mode "int"."""
    config = layer.get_config()
    ways = {k: config[k] for k in ("standardize", "split", "ngrams", "encoding")}
    # the layer itself fills up and cuts off, and might count: its twin says how many tokens there are
    twin = keras.layers.TextVectorization(**ways, ragged=True, vocabulary=_own_words(layer))
    known = _Vocabulary({str(token): i for i, token in enumerate(twin.get_vocabulary())})
    limit = config["output_sequence_length"]
    return Coder(lambda texts: as_rows(twin(list(texts))), known.text, known.number, marker=known.marker(), limit=limit)


def _own_words(layer: keras.layers.TextVectorization) -> list[str]:
    words = list(layer.get_vocabulary(include_special_tokens=False))
    if not words:
        raise InvalidInputError(f"tokenizer: {layer.name!r} has no vocabulary yet; call its adapt(texts) first.")
    return words


def of_hub(tokenizer: Any) -> Coder:
    """The tokens of a keras-hub tokenizer, or of what has the same methods."""

    def text(number: int) -> str | None:
        try:
            return str(tokenizer.id_to_token(number))
        except (ValueError, KeyError, IndexError):
            return None

    def numbered(token: str) -> int | None:
        try:
            found = int(tokenizer.token_to_id(token))
        except (ValueError, KeyError, TypeError):
            return None
        return found if text(found) == token else None  # others are told to be the unknown token

    special = {int(n) for n in getattr(tokenizer, "special_token_ids", ()) or ()}
    pad = getattr(tokenizer, "pad_token_id", None)
    try:
        known = list(tokenizer.get_vocabulary())
    except (AttributeError, NotImplementedError):
        known = [text(i) or "" for i in range(int(tokenizer.vocabulary_size()))]
    return Coder(
        lambda texts: as_rows(tokenizer(list(texts))),
        text,
        numbered,
        frozenset(special),
        0 if pad is None else int(pad),
        marker_of(known),
    )


def of_function(function: Callable[[str], Any], vocabulary: Sequence[str] | Mapping[str, int] | None) -> Coder:
    """A function from a text to its tokens or their numbers, and the vocabulary that says which is which."""
    if vocabulary is None:
        own = getattr(function, "get_vocabulary", None)
        vocabulary = own() if callable(own) else getattr(function, "vocabulary", None)
    if vocabulary is None or isinstance(vocabulary, str) or not len(vocabulary):
        raise InvalidInputError(
            f"vocabulary must be the list of all tokens, by their numbers, or {{token: number}}, for a tokenizer= that "
            f"is a function; got {vocabulary!r}."
        )
    pairs = vocabulary.items() if isinstance(vocabulary, Mapping) else ((t, i) for i, t in enumerate(vocabulary))
    known = _Vocabulary({str(token): int(number) for token, number in pairs})
    unknown = next((known.numbers[token] for token in UNKNOWN if token in known.numbers), None)

    def number(token: Any) -> int:
        if isinstance(token, (int, np.integer)):
            return int(token)
        found = known.number(token)
        found = unknown if found is None else found
        if found is None:
            close = difflib.get_close_matches(str(token), known.numbers, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InvalidInputError(
                f"vocabulary has no token {token!r}, which the tokenizer makes, and none for unknown ones "
                f"({UNKNOWN[0]}).{hint}"
            )
        return found

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[number(token) for token in np.asarray(function(text), object).ravel().tolist()] for text in texts]

    special = frozenset(known.numbers[token] for token in SPECIAL if token in known.numbers)
    pad = next((known.numbers[token] for token in FILLING if token in known.numbers), 0)
    return Coder(encode, known.text, known.number, special, pad, known.marker())


class _Vocabulary:
    """Tokens and their numbers."""

    def __init__(self, numbers: dict[str, int]):
        self.numbers = numbers
        self.tokens = {number: token for token, number in numbers.items()}

    def text(self, number: int) -> str | None:
        return self.tokens.get(number)

    def number(self, token: str) -> int | None:
        return self.numbers.get(token)

    def marker(self) -> str:
        return marker_of(self.numbers)


def as_rows(found: Any) -> list[list[int]]:
    """Token numbers of several texts, whatever holds them: lists, an array, a ragged tensor."""
    rows = found.to_list() if hasattr(found, "to_list") else found
    rows = rows if isinstance(rows, list) else np.asarray(keras.ops.convert_to_numpy(rows)).tolist()
    listed = [row if isinstance(row, list) else np.ravel(np.asarray(row)).tolist() for row in rows]
    return [[int(n) for n in row] for row in listed]


def limited(coder: Coder, limit: int | None) -> Coder:
    """``coder`` with a limit that may be lower than its own."""
    known = [n for n in (coder.limit, limit) if n is not None]
    return replace(coder, limit=min(known, default=None))
