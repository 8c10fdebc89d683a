"""What explanations of texts hold, and how they are drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from innv_ext import files
from innv_ext.analyzers import Explanation
from innv_ext.text.words import Word, shown, words_of
from innv_ext.visualization import plot_token_matrix, plot_tokens, token_matrix_to_html, tokens_to_html
from innv_ext.visualization.panels import shorten
from innv_ext.visualization.reading import signed_text


@dataclass(frozen=True, eq=False)
class TextExplanation:
    """Texts with the relevance of their tokens; see ``innv_ext.text.explain``.

    Attributes
    ----------
    texts : the texts, as given
    tokens : per text its T tokens as the vocabulary has them, padding included
    ids : token numbers (batch, T)
    relevance : (batch, T), summed over the components of each token's embedding
    special : (batch, T), True for tokens that the tokenizer adds, such as [CLS]
    padding : (batch, T), True for what only fills up
    elsewhere : (batch,), relevance of what else is fed (segments), or of words that are counted but not in the text
    scores : (batch,), explained
    targets : (batch,), the class, or the token, whose score it is; -1 where it is not a single one
    target_names : what these are called
    positions : (batch,), the tokens at whose output was looked, counted without padding; None for models with one
        output per text
    marker : what tells the tokenizer's words from parts of words, see ``words``
    x : what the analyzer was fed with
    explanation : all that the analyzer found
    """

    texts: list[str]
    tokens: list[list[str]]
    ids: np.ndarray
    relevance: np.ndarray
    special: np.ndarray
    padding: np.ndarray
    elsewhere: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    target_names: list[str]
    positions: np.ndarray | None
    marker: str
    x: Any
    explanation: Explanation

    def words(self) -> list[list[Word]]:
        """The words of each text without its padding, each with the sum of the relevance of its tokens.

        Parts of words are told by the tokenizer's marker: "##" (WordPiece), "Ġ" or a blank (byte-level BPE), "▁"
        (SentencePiece). Without one, every token is a word. Special tokens are words by themselves.
        """
        found = []
        for i, tokens in enumerate(self.tokens):
            kept = np.flatnonzero(~self.padding[i])
            own = [tokens[k] for k in kept]
            found.append(words_of(own, self.relevance[i, kept], self.special[i, kept].tolist(), self.marker))
        return found

    def plot(self, path: str | os.PathLike[str] | None = None, *, words: bool = False, **options: Any) -> Figure:
        """Draw the texts by ``innv_ext.visualization.plot_tokens``, a row for each.

        Parameters
        ----------
        path : also save the figure here; the suffix says the format
        words : draw words in place of tokens
        options : further arguments of ``plot_tokens``
        """
        tokens, relevance = self._drawn(words)
        captions = ["\n".join(parts) for parts in self._captions(words)]
        return plot_tokens(tokens, relevance, **{"row_names": captions, "pad": "grey", **options, "path": path})

    def to_html(self, path: str | os.PathLike[str] | None = None, *, words: bool = False, **options: Any) -> str:
        """Write the texts as HTML by ``innv_ext.visualization.tokens_to_html``, also to the file ``path``."""
        tokens, relevance = self._drawn(words)
        captions = ["; ".join(parts) for parts in self._captions(words)]
        return _written(tokens_to_html(tokens, relevance, **{"row_names": captions, "pad": "grey", **options}), path)

    def _captions(self, words: bool) -> list[list[str]]:
        """What is explained in each text, and what relevance is not in its tokens, or its words."""
        named = [shorten(shown(name, self.marker)) for name in self.target_names]
        numbers = [f"{name}: {signed_text(score)}" for name, score in zip(named, self.scores, strict=True)]
        hidden = np.where(self.padding & words, self.relevance, 0.0).sum(axis=1)
        others = [
            [f"{what} {signed_text(rest)}" for what, rest in (("padding", p), ("elsewhere", e)) if rest]
            for p, e in zip(hidden, self.elsewhere, strict=True)
        ]
        return [[number, *rest] for number, rest in zip(numbers, others, strict=True)]

    def _drawn(self, words: bool) -> tuple[list[list[str]], np.ndarray]:
        """Texts and relevance as the figures take them: padding comes last, behind words there is none."""
        found = self.words() if words else None
        texts, rows = [], []
        for i, tokens in enumerate(self.tokens):
            real = ~self.padding[i]
            own = [tokens[k] for k in np.flatnonzero(real)]
            listed = [shown(token, self.marker) for token in own] if found is None else [w.text for w in found[i]]
            values = self.relevance[i, real] if found is None else [w.relevance for w in found[i]]
            texts.append([text or " " for text in listed])  # "" would be padding
            rows.append(np.concatenate([values, self.relevance[i, ~real] if found is None else []]))
        relevance = np.zeros((len(rows), max(map(len, rows))))
        for row, values in zip(relevance, rows, strict=True):
            row[: len(values)] = values
        return texts, relevance


@dataclass(frozen=True, eq=False)
class CompletionExplanation:
    """The tokens of a completion, each with a map of all that stands before it; see ``innv_ext.text.explain``.

    Attributes
    ----------
    text, completion : as given
    sources : the tokens that were read: those of the text and of the completion without its last
    targets : the tokens of the completion, each explained at the position before it
    target_ids : their numbers
    relevance : (targets, sources); NaN where a source comes later than what was read, so that it was not there
    special : (sources,), True for tokens that the tokenizer adds
    elsewhere : (targets,), relevance of padding and of inputs that are no tokens; 0 for models that look only back
    scores : (targets,), output[position, token]
    marker : what tells the tokenizer's words from parts of words
    explanation : all that the analyzer found, a sample per target, of this text and of those explained beside it
    """

    text: str
    completion: str
    sources: list[str]
    targets: list[str]
    target_ids: np.ndarray
    relevance: np.ndarray
    special: np.ndarray
    elsewhere: np.ndarray
    scores: np.ndarray
    marker: str
    explanation: Explanation

    def words(self) -> tuple[list[str], np.ndarray]:
        """(words, relevance (targets, words)): the sources merged into words by summation, NaN where all is NaN."""
        found = self._words()
        merged = [np.nansum(self.relevance[:, word.first : word.last + 1], axis=1) for word in found]
        absent = [np.isnan(self.relevance[:, word.first]) for word in found]
        return [word.text for word in found], np.where(np.stack(absent, 1), np.nan, np.stack(merged, 1))

    def _words(self) -> list[Word]:
        """The words of the sources; their relevance is that of the last target."""
        return words_of(self.sources, self.relevance[-1], self.special.tolist(), self.marker)

    def plot(self, path: str | os.PathLike[str] | None = None, *, words: bool = False, **options: Any) -> Figure:
        """Draw the matrix by ``innv_ext.visualization.plot_token_matrix``; later sources stay blank.

        Parameters
        ----------
        path : also save the figure here; the suffix says the format
        words : merge the sources into words
        options : further arguments of ``plot_token_matrix``
        """
        return plot_token_matrix(*self._drawn(words), **{**options, "path": path})

    def to_html(self, path: str | os.PathLike[str] | None = None, *, words: bool = False, **options: Any) -> str:
        """Write the matrix as an HTML table by ``token_matrix_to_html``, also to the file ``path``."""
        return _written(token_matrix_to_html(*self._drawn(words), **options), path)

    def _drawn(self, words: bool) -> tuple[Sequence[str], Sequence[str], np.ma.MaskedArray]:
        names, relevance = self.words() if words else (self._shown(self.sources), self.relevance)
        later = len(self.sources) - len(self.targets) + 1 + np.arange(len(self.targets))
        columns = np.array([word.first for word in self._words()]) if words else np.arange(len(self.sources))
        return self._shown(self.targets), names, np.ma.array(relevance, mask=columns[None] >= later[:, None])

    def _shown(self, tokens: Sequence[str]) -> list[str]:
        return [shown(token, self.marker) for token in tokens]


def _written(html: str, path: str | os.PathLike[str] | None) -> str:
    """``html``, after it was written to the file ``path`` as a page of its own."""
    if path is not None:
        page = f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>\n{html}\n</body></html>\n'
        files.write(files.writable_file("path", path), page.encode("utf-8"))
    return html
