"""From texts to what a model takes: token numbers, padding, and the inputs that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from innv_ext.analyzers import Analyzer
from innv_ext.backend import facts, numerics
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.text.tokenizers import Coder

TOKENS = ("token_ids", "input_ids", "tokens")  # what an input of token numbers is called
MASKS, SEGMENTS = ("padding_mask", "attention_mask", "mask"), facts.SEGMENTS


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Texts as the model takes them.

    Attributes
    ----------
    x : what the analyzer is fed with
    ids : token numbers (batch, T)
    real : (batch, T), False for padding
    """

    x: Any
    ids: np.ndarray
    real: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each text, (batch,)."""
        return self.real.sum(axis=1)


class Feed:
    """The inputs of a model of token numbers.

    Attributes
    ----------
    names : of the inputs, in order
    place : position of the one that takes token numbers

    Raises
    ------
    UnsupportedModelError
        if there is none, or it is not told which it is
    """

    def __init__(self, analyzer: Analyzer):
        structure, specs = analyzer.input_structure_, analyzer.input_specs()
        flat = tree.flatten(structure)
        named = [getattr(kt, "name", f"input {i}") for i, kt in enumerate(flat)]
        self.names = sorted(structure) if isinstance(structure, dict) else named
        self.model = analyzer.model.name
        self.place = self._place(analyzer, len(specs))
        spec = specs[self.place]
        if numerics.is_float(spec.dtype) or len(spec.shape) != 2:
            shape = ", ".join("any" if d is None else str(d) for d in spec.shape[1:])
            raise UnsupportedModelError(
                f"{self.model!r} takes {spec.dtype} values (batch, {shape}), no token numbers (batch, tokens): there "
                f"are no texts to explain. Use innv_ext.create_analyzer on what the model takes."
            )
        self.length = spec.shape[1]
        self.dtypes = [s.dtype for s in specs]

    def _place(self, analyzer: Analyzer, count: int) -> int:
        known = [i for i, name in enumerate(self.names) if name in TOKENS]
        graph = analyzer.subject_.form()
        found = [graph.inputs.index(slot) for slot in sorted(facts.token_inputs(graph))]
        candidates = known or found if count > 1 else [0]
        if len(candidates) != 1:
            raise UnsupportedModelError(
                f"Which of the inputs {', '.join(self.names)} of {self.model!r} takes the tokens of a text is not "
                f"told; name it {TOKENS[0]!r}, or use innv_ext.create_analyzer on what the model takes."
            )
        return candidates[0]

    def tokens_of(self, maps: Any) -> np.ndarray:
        """The part of a map, or of x, that belongs to the tokens."""
        return maps[self.names[self.place]] if isinstance(maps, dict) else maps

    def pack(self, rows: Sequence[Sequence[int]], coder: Coder) -> TokenBatch:
        """Rows of token numbers as one batch, filled up at the end.

        Raises
        ------
        InvalidInputError
            for a row without tokens, or with more than the model takes
        """
        for i, row in enumerate(rows):
            self.check(i, len(row), coder)
        lengths = np.array([len(row) for row in rows])
        real = np.arange(self.length or lengths.max())[None] < lengths[:, None]
        ids = np.full(real.shape, coder.pad, "int32")
        ids[real] = np.concatenate([np.asarray(row, "int32") for row in rows])
        return TokenBatch(self.named({self.names[self.place]: ids}, real), ids, real)

    def check(self, i: int, count: int, coder: Coder) -> None:
        """Refuse text ``i`` if it has no tokens, or more than the model takes."""
        limit = min((n for n in (self.length, coder.limit) if n is not None), default=count)
        if not count:
            raise no_tokens(i)
        if count > limit:
            raise too_long(i, count, limit, self.model)

    def named(self, given: dict[str, Any], real: np.ndarray) -> Any:
        """All inputs: those ``given``, masks of what is no padding, and segments of zeros."""
        if len(self.names) == 1:
            return given[self.names[0]]
        found = {}
        for name, dtype in zip(self.names, self.dtypes, strict=True):
            if name in given:
                found[name] = given[name]
            elif name in MASKS:
                found[name] = real.astype(dtype)
            elif name in SEGMENTS:
                found[name] = np.zeros(real.shape, dtype)
            else:
                raise UnsupportedModelError(
                    f"The input {name!r} of {self.model!r} does not follow from a text. Use innv_ext.create_analyzer "
                    f"on what the model takes."
                )
        return found


def no_tokens(i: int, name: str = "texts") -> InvalidInputError:
    """The error of a text of which nothing is left."""
    return InvalidInputError(f"{name}[{i}] has no tokens: it is empty, or holds nothing that is a token.")


def too_long(i: int, count: int, limit: int, model: str) -> InvalidInputError:
    """The error of a text that does not fit."""
    return InvalidInputError(
        f"texts[{i}] has {count} tokens, but {model!r} takes {limit} at most. Shorten the text, or raise the limit "
        f"where the model has it (sequence_length of a preprocessor, output_sequence_length of TextVectorization)."
    )


class TextReader:
    """Texts that a tokenizer turns into token numbers, which are all that the model takes."""

    reads_order = True  # whether the model sees the tokens one by one

    def __init__(self, analyzer: Analyzer, coder: Coder):
        self.coder, self.feed = coder, Feed(analyzer)

    def read(self, texts: Sequence[str]) -> TokenBatch:
        """The texts as one batch."""
        return self.pack(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of prompts, with the special tokens that belong before a text."""
        return self.coder.encode(texts)

    def pack(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        """Rows of token numbers as one batch."""
        return self.feed.pack(rows, self.coder)

    def check(self, i: int, count: int) -> None:
        """Refuse so many tokens for text ``i`` if the model does not take them."""
        self.feed.check(i, count, self.coder)

    def relevance(self, maps: Any, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        """Relevance (batch, T) of the tokens, and (batch,) of what else is fed, such as segments."""
        own = self.feed.tokens_of(maps)
        others = [m.sum(axis=1) for m in tree.flatten(maps) if m is not own]
        return own, np.sum(others, axis=0) if others else np.zeros(len(own))


class PreprocessedReader(TextReader):
    """A task with a preprocessor, as in keras-hub: it adds special tokens, masks and segments."""

    def __init__(self, analyzer: Analyzer, coder: Coder, preprocessor: Any):
        super().__init__(analyzer, coder)
        self.preprocessor = preprocessor
        self.generates = hasattr(preprocessor, "generate_preprocess")

    def read(self, texts: Sequence[str]) -> TokenBatch:
        return self.pack(self.rows(texts)) if self.generates else self._preprocessed(texts)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.generates:
            batch = self._preprocessed(texts)
        else:
            batch = self._batch(self.preprocessor.generate_preprocess(list(texts)), texts)
        return [ids[real].tolist() for ids, real in zip(batch.ids, batch.real, strict=True)]

    def _preprocessed(self, texts: Sequence[str]) -> TokenBatch:
        found = self.preprocessor(list(texts))
        if isinstance(found, tuple):
            raise UnsupportedModelError(
                f"The preprocessor of {self.feed.model!r} ({type(self.preprocessor).__name__}) makes training data of "
                f"a text, not what a prediction needs. Use innv_ext.create_analyzer on what the model takes."
            )
        return self._batch(found, texts)

    def _batch(self, found: Any, texts: Sequence[str]) -> TokenBatch:
        """What a preprocessor made, without columns that are padding in all texts and masked."""
        feed = self.feed
        given = found if isinstance(found, dict) else {feed.names[feed.place]: found}
        if feed.names[feed.place] not in given:
            raise UnsupportedModelError(
                f"The preprocessor of {feed.model!r} gives {', '.join(given)}; {feed.names[feed.place]!r} is needed."
            )
        arrays = {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in given.items()}
        ids = arrays[feed.names[feed.place]]
        key = next((name for name in MASKS if name in arrays), None)
        real = (ids != self.coder.pad) if key is None else arrays[key].astype(bool)
        self._check(texts, ids, real)
        if key in feed.names and feed.length is None:
            width = int(np.flatnonzero(real.any(axis=0))[-1]) + 1
            arrays = {name: a[:, :width] if a.shape == ids.shape else a for name, a in arrays.items()}
            ids, real = ids[:, :width], real[:, :width]
        return TokenBatch(feed.named(arrays, real), ids, real)

    def _check(self, texts: Sequence[str], ids: np.ndarray, real: np.ndarray) -> None:
        """Refuse what was cut off in silence, and texts without tokens."""
        for i, whole in enumerate(self.coder.encode(texts)):
            row = ids[i][real[i]].tolist()
            if not whole:
                raise no_tokens(i)
            starts = range(len(row) - len(whole) + 1)
            if len(row) == ids.shape[1] and not any(row[k : k + len(whole)] == whole for k in starts):
                added = sum(n in self.coder.special for n in row) - sum(n in self.coder.special for n in whole)
                raise too_long(i, len(whole) + max(added, 0), ids.shape[1], self.feed.model)


class CountingReader(TextReader):
    """TextVectorization that counts words, or marks them: a column per word of the vocabulary.

    A word's relevance is shared by the places where it stands in the text.
    """

    reads_order = False

    def __init__(self, analyzer: Analyzer, coder: Coder, layer: keras.layers.TextVectorization):
        self.coder, self.layer = coder, layer

    def check(self, i: int, count: int) -> None:
        raise InvalidInputError(f"completion= explains next tokens, but {self.layer.name!r} counts words.")

    def read(self, texts: Sequence[str]) -> TokenBatch:
        rows = self.coder.encode(texts)
        for i, row in enumerate(rows):
            if not row:
                raise no_tokens(i)
        lengths = np.array([len(row) for row in rows])
        real = np.arange(lengths.max())[None] < lengths[:, None]
        ids = np.zeros(real.shape, "int32")
        ids[real] = np.concatenate(rows)
        x = np.asarray(keras.ops.convert_to_numpy(self.layer(list(texts))))
        return TokenBatch(x, ids, real)

    def relevance(self, maps: Any, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        columns = batch.ids - 1  # where words are counted, no column is for padding
        rows = np.arange(len(columns))[:, None]
        times = (columns[:, :, None] == columns[:, None, :]).sum(axis=2)
        absent = np.ones(maps.shape, bool)
        absent[np.nonzero(batch.real)[0], columns[batch.real]] = False
        return np.where(batch.real, maps[rows, columns] / times, 0.0), np.where(absent, maps, 0.0).sum(axis=1)


def reader_of(analyzer: Analyzer, coder: Coder, layer: Any, preprocessor: Any) -> TextReader:
    """How texts come into the model of an analyzer."""
    if layer is not None and layer.get_config()["output_mode"] != "int":
        return CountingReader(analyzer, coder, layer)
    if preprocessor is not None:
        return PreprocessedReader(analyzer, coder, preprocessor)
    return TextReader(analyzer, coder)
