"""Tokens with the colours of their relevance, before anything is laid out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import Colormap

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.checks import TEXT, Mask, as_batch
from innv_ext.visualization.reading import Maps, named, peak_text, read_maps, signed_text
from innv_ext.visualization.scaling import Color, Reduction

PADDING = ("", "[PAD]", "<pad>", "<PAD>")
_GREY, _WHITE = (0.87, 0.87, 0.87), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Token:
    """A token, or a remark on a white ground: its text, the ground and the relevance in words."""

    text: str
    ground: tuple[float, ...] = _WHITE
    note: str = ""
    remark: bool = False

    @property
    def writing(self) -> str:
        """Black or white, whichever has the higher contrast: at least 4.5 : 1 on every ground."""
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in self.ground]
        luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))  # WCAG 2, relative luminance
        return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


@dataclass(frozen=True, eq=False)
class Texts:
    """Checked texts, with the mask (batch, T) of what is padding, and the maps of all analyzers."""

    tokens: list[list[str]]
    padded: Mask
    maps: list[Maps]
    pad: str

    def coloured(self, column: int, row: int, cmap: str | Colormap, bad_color: Color) -> list[Token]:
        """The tokens of a text, and what must be said of its padding and its scale."""
        found = self.maps[column]
        colours = found.colours(row, cmap, bad_color)
        relevance = np.where(found.bad[row], np.nan, found.values[row])
        drawn = []
        for k, text in enumerate(self.tokens[row]):
            if self.padded[row, k] and self.pad == "skip":
                continue
            ground = _GREY if self.padded[row, k] else tuple(colours[k].tolist())
            drawn.append(Token(printable(text), ground, signed_text(relevance[k])))
        hidden = relevance[self.padded[row]]
        told = hidden.size and (self.pad == "skip" or hidden.any())
        remarks = [f"{hidden.size} padding, relevance {signed_text(hidden.sum())}" if told else ""]
        remarks.append(peak_text(found, row, self.maps))
        return [*drawn, *(Token(f"[{remark}]", remark=True) for remark in remarks if remark)]


def read_texts(
    tokens: Sequence[Sequence[str]],
    relevance: Any,
    *,
    padding: Collection[str],
    pad: str,
    reduce: Reduction,
    scale: str,
    bad_color: Color,
) -> Texts:
    """Check the arguments of a public function, which calls this directly; padding has no say in the scales."""
    choice("pad", pad, ("skip", "grey"))
    texts = _as_texts(tokens)
    if isinstance(padding, str):
        raise InvalidInputError(f"padding must be a collection of tokens, e.g. ({padding!r},); got {padding!r}.")
    first = next(iter(named(relevance, "relevance").values()))
    length = as_batch(first, "relevance", kind=TEXT).shape[1]
    for i, text in enumerate(texts):
        if len(text) > length:
            raise InvalidInputError(
                f"tokens[{i}] has {len(text)} tokens but relevance has only {length} per text; cut the text as the "
                f"model did."
            )
    padded = np.array([[k >= len(text) or text[k] in padding for k in range(length)] for text in texts])
    maps = read_maps(
        relevance,
        np.empty((*padded.shape, 1)),
        TEXT,
        scale=scale,
        bad_color=bad_color,
        reduce=reduce,
        arguments=("relevance", "tokens"),
        stacklevel=5,
        ignored=padded,
    )
    return Texts(texts, padded, maps, pad)


def _as_texts(tokens: Sequence[Sequence[str]]) -> list[list[str]]:
    listed = [] if isinstance(tokens, str) else list(tokens)
    texts = [[] if isinstance(text, str) else list(text) for text in listed]
    wrong = [given for given in listed if isinstance(given, str)]
    wrong += [token for text in texts for token in text if not isinstance(token, str)]
    if wrong or not texts:
        got = f"{wrong[0]!r} in it" if wrong else repr(tokens)
        raise InvalidInputError(f"tokens must be lists of strings, one list per text, at least one; got {got}.")
    return texts


def printable(text: str) -> str:
    """Line breaks and other control characters, spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
