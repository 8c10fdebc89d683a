"""Sub-words and words: which tokens belong together, and how they are read.

Markers are what tokenizers write into their tokens: "##" before a part that continues a word (WordPiece), and before
the first part of a word "▁" (SentencePiece), "Ġ" (byte-level BPE, which writes every byte as a letter) or a blank.
Tokenizers of single characters or bytes have blanks as tokens. Without a marker every token is a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

CONTINUES, PIECE, BYTES, BLANK = "##", "\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", " "
CODES = "\x00"  # of tokenizers of single bytes, which are numbered by their values
SHOWN_BLANK = "\N{OPEN BOX}"


class Word(NamedTuple):
    """A word of a text.

    Attributes
    ----------
    text : without the markers of its parts
    relevance : the sum of its tokens
    first, last : the positions of its tokens among those of the text
    special : whether it is a special token
    """

    text: str
    relevance: float
    first: int
    last: int
    special: bool


def marker_of(vocabulary: Iterable[str]) -> str:
    """The marker that most tokens of a vocabulary begin with, "" if none does; of single characters the blank."""
    vocabulary = list(vocabulary)
    if vocabulary == [chr(i) for i in range(256)]:
        return CODES
    if BLANK in vocabulary and max(map(len, vocabulary)) == 1:
        return BLANK
    counts = dict.fromkeys((CONTINUES, PIECE, BYTES, BLANK), 0)
    for token in vocabulary:
        for marker in counts:
            counts[marker] += len(token) > len(marker) and token.startswith(marker)
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else ""


def groups(tokens: Sequence[str], alone: Sequence[bool], marker: str) -> list[range]:
    """The positions of the tokens of each word; those marked in ``alone`` are words by themselves."""
    starts = []
    for i, token in enumerate(tokens):
        free = i == 0 or alone[i] or alone[i - 1]
        if free or _begins(token, marker):
            starts.append(i)
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]


def _begins(token: str, marker: str) -> bool:
    """Whether a token inside a text begins a word."""
    if marker == CONTINUES:
        return not token.startswith(CONTINUES)
    if marker in (BYTES, CODES):
        return _bytes(token, marker)[:1].isspace()
    return token[:1].isspace() or token.startswith(PIECE) if marker else True


def joined(tokens: Sequence[str], marker: str) -> str:
    """The tokens of one word as it is written; blanks around it are left out."""
    if marker == CONTINUES:
        return tokens[0] + "".join(token.removeprefix(CONTINUES) for token in tokens[1:])
    if marker in (BYTES, CODES):
        text = b"".join(_bytes(token, marker) for token in tokens).decode("utf-8", "replace")
    else:
        text = "".join(tokens).replace(PIECE, " ") if marker else tokens[0]
    return text.strip() or text


def shown(token: str, marker: str) -> str:
    """A token as it is drawn: bytes are read, and the blank before a word is an open box."""
    text = _bytes(token, marker).decode("utf-8", "replace") if marker in (BYTES, CODES) else token
    return SHOWN_BLANK + text[1:] if marker in (BYTES, CODES, BLANK) and text.startswith(" ") else text


def words_of(tokens: Sequence[str], relevance: np.ndarray, special: Sequence[bool], marker: str) -> list[Word]:
    """The words of a text without its padding, each with the sum of its tokens; together they have the sum of all."""
    return [
        Word(
            tokens[rows[0]] if special[rows[0]] else joined([tokens[i] for i in rows], marker),
            float(np.sum(relevance[rows.start : rows.stop])),
            rows.start,
            rows.stop - 1,
            bool(special[rows[0]]),
        )
        for rows in groups(tokens, special, marker)
    ]


def _letters() -> dict[str, int]:
    """The letter of each byte in byte-level BPE: printable ones stand for themselves, others from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _letters()


def _bytes(token: str, marker: str) -> bytes:
    """The bytes of a token of single bytes, or of byte-level BPE; special tokens may have other letters."""
    known = _BYTES if marker == BYTES else {chr(i): i for i in range(256)}
    return b"".join(bytes([known[c]]) if c in known else c.encode() for c in token)
