"""Explanations of texts by any analyzer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.analyzers import Analyzer, Explanation, create_analyzer, list_analyzers
from innv_ext.analyzers.core import request
from innv_ext.analyzers.registry import class_named
from innv_ext.backend import tracing
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.text.arguments import as_int, as_texts, per_text
from innv_ext.text.feeding import TokenBatch, no_tokens, reader_of
from innv_ext.text.results import CompletionExplanation, TextExplanation
from innv_ext.text.tokenizers import Coder, coder_of, limited


class TextExplainer:
    """Explains texts: a model with what makes token numbers of texts, and an analyzer, built once.

    Parameters
    ----------
    model : a task of keras-hub (with its preprocessor), a model of strings with a TextVectorization layer, or a model
        of token numbers
    analyzer : a name of ``innv_ext.list_analyzers()``, or a class of ``innv_ext.analyzers`` or its name
    tokenizer : for models of token numbers: a TextVectorization layer, a tokenizer of keras-hub, or a function from a
        text to the list of its tokens or their numbers
    vocabulary : of a function that has no attribute ``vocabulary``: the list of all tokens, by their numbers, or
        {token: number}
    params : parameters of the analyzer

    Attributes
    ----------
    analyzer : the analyzer; of models of strings it explains the part behind TextVectorization
    model : what it explains
    output_shape : of the explained output, with None for sizes that are free

    Raises
    ------
    InvalidInputError
        for a model without preprocessing and no ``tokenizer``, and for wrong parameters
    UnsupportedModelError
        for models that take no token numbers, and those that the analyzer cannot explain

    Examples
    --------
    >>> words = keras.layers.TextVectorization(vocabulary=["a", "fine", "film"])
    >>> stack = [keras.Input((1,), dtype="string"), words, keras.layers.Embedding(5, 2)]
    >>> classifier = keras.Sequential([*stack, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
    >>> found = TextExplainer(classifier, "lrp.epsilon").explain(["A fine film!", "fine"], target=1)
    >>> found.tokens, found.relevance.shape
    ([['a', 'fine', 'film'], ['fine', '', '']], (2, 3))
    """

    def __init__(
        self,
        model: keras.Model,
        analyzer: str | type[Analyzer] = "input_t_gradient",
        *,
        tokenizer: Any = None,
        vocabulary: Sequence[str] | Mapping[str, int] | None = None,
        **params: Any,
    ):
        self.model, coder, layer, preprocessor = _taken_apart(model, tokenizer, vocabulary)
        self.analyzer = _analyzer(analyzer, self.model, params)
        self.coder = coder
        self._reader = reader_of(self.analyzer, coder, layer, preprocessor)
        graph = self.analyzer.subject_.graph
        self._output = request.output_position(self.model, graph, self.analyzer.output)
        self.output_shape = graph.specs[graph.outputs[self._output]].shape

    def fit(self, texts: Sequence[str], **kwargs: Any) -> TextExplainer:
        """Let an analyzer that learns from data learn from texts; see ``Analyzer.fit``."""
        self.analyzer.fit(self._reader.read(as_texts(texts)).x, **kwargs)
        return self

    def explain(
        self,
        texts: str | Sequence[str],
        target: Any = None,
        *,
        position: int | Sequence[int] | None = None,
        completion: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> TextExplanation | CompletionExplanation | list[CompletionExplanation]:
        """Explain texts of any lengths as one batch; parameters, results and errors as in ``innv_ext.text.explain``."""
        listed = as_texts(texts)
        if completion is not None:
            given = {"target": target, "position": position}
            clash = [name for name, value in given.items() if value is not None]
            if clash:
                raise InvalidInputError(f"{clash[0]}= goes without completion=, whose tokens are explained one by one.")
            found = self._completions(listed, completion, batch_size)
            return found[0] if isinstance(texts, str) else found
        batch = self._reader.read(listed)
        positions, selection = None, target
        if self._has_positions(batch):
            mode = self.analyzer.neuron_selection_mode
            if target is not None or position is not None or mode == "max_activation":
                positions, selection = self._selection(batch, target, position)
        elif position is not None:
            raise self._no_positions("position")
        found = self.analyzer.explain(batch.x, selection, batch_size=batch_size)
        return self._result(listed, batch, found, positions)

    # --- one map a text ------------------------------------------------------------------------------------------

    def _has_positions(self, batch: TokenBatch) -> bool:
        """Whether the output has an axis of tokens: (batch, tokens, values)."""
        shape = self.output_shape
        return self._reader.reads_order and len(shape) == 3 and shape[1] in (None, batch.ids.shape[1])

    def _no_positions(self, argument: str) -> InvalidInputError:
        shape = ", ".join("any" if d is None else str(d) for d in self.output_shape[1:])
        return InvalidInputError(
            f"{argument}= is for models that give an output for every token, (batch, tokens, vocabulary); that of "
            f"{self.model.name!r} is (batch, {shape})."
        )

    def _selection(self, batch: TokenBatch, target: Any, position: Any) -> tuple[np.ndarray, np.ndarray]:
        """Positions (batch,) without padding, and ``neuron_selection`` (batch, 2)."""
        count = len(batch.ids)
        last = batch.lengths - 1
        positions = last if position is None else per_text("position", position, count, partial(as_int, "position"))
        bad = (positions >= batch.lengths) | (positions < -batch.lengths)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise InvalidInputError(
                f"position {positions[i]} is out of range for texts[{i}], which has {batch.lengths[i]} tokens."
            )
        positions = positions % batch.lengths
        columns = np.array([np.flatnonzero(real)[p] for real, p in zip(batch.real, positions, strict=True)])
        if target is None:
            chosen = self._likeliest(batch.x, columns)
        else:
            chosen = per_text("target", target, count, self._number)
        return positions, np.stack([columns, chosen], axis=1)

    def _number(self, target: Any) -> int:
        """The number of a target at a position: of a class by its name, or of a token."""
        if isinstance(target, str):
            names = list(self.analyzer.class_names or ())
            number = names.index(target) if target in names else self.coder.number(target, "target")
        else:
            number = as_int("target", target)
        size = self.output_shape[-1]
        if size is not None and not 0 <= number < size:
            raise InvalidInputError(f"target {target!r} is out of range: there are {size} values at each position.")
        return number

    def _likeliest(self, x: Any, columns: np.ndarray) -> np.ndarray:
        """The largest output at a position of each text."""
        analyzer, best = self.analyzer, []
        flat = request.standardize(x, analyzer.input_structure_, analyzer.input_specs(), True)
        with tracing.untouched(self.model):
            for start in range(0, len(columns), analyzer.batch_size):
                rows = slice(start, start + analyzer.batch_size)
                inputs = tree.pack_sequence_as(analyzer.input_structure_, [a[rows] for a in flat])
                y = ops.convert_to_numpy(tree.flatten(self.model(inputs, training=False))[self._output])
                best.append(y[np.arange(len(y)), columns[rows]].argmax(axis=-1))
        return np.concatenate(best)

    def _result(
        self, texts: list[str], batch: TokenBatch, found: Explanation, positions: np.ndarray | None
    ) -> TextExplanation:
        relevance, elsewhere = self._reader.relevance(found.attribution, batch)
        targets = found.target if positions is None else found.target % found.output.shape[-1]
        return TextExplanation(
            texts,
            [[self.coder.token(n) for n in row] for row in batch.ids],
            batch.ids,
            relevance,
            np.isin(batch.ids, list(self.coder.special)) & batch.real,
            ~batch.real,
            elsewhere,
            found.score,
            targets,
            [self._name(int(t), positions is not None) for t in targets],
            positions,
            self.coder.marker,
            batch.x,
            found,
        )

    def _name(self, target: int, is_token: bool) -> str:
        names = list(self.analyzer.class_names or ())
        if 0 <= target < len(names):
            return names[target]
        if is_token:
            return self.coder.token(target)
        return "all" if target < 0 else str(target)

    # --- one map a token of a completion -------------------------------------------------------------------------

    def _completions(self, texts: list[str], completion: Any, batch_size: int | None) -> list[CompletionExplanation]:
        """Every token after what stands before it: all of them are samples of one batch."""
        endings = [completion] if isinstance(completion, str) else list(completion)
        if len(endings) != len(texts) or not all(isinstance(ending, str) for ending in endings):
            raise InvalidInputError(f"completion must be one text for each of {len(texts)}; got {completion!r}.")
        prompts, added = self._reader.rows(texts), self.coder.encode(endings)
        for i, numbers in enumerate(added):
            if not numbers:
                raise no_tokens(i, "completion")
            self._reader.check(i, len(prompts[i]) + len(numbers) - 1)
        rows = [[*a, *b[:k]] for a, b in zip(prompts, added, strict=True) for k in range(len(b))]
        batch = self._reader.pack(rows)
        if not self._has_positions(batch):
            raise self._no_positions("completion")
        chosen = [self._number(number) for numbers in added for number in numbers]
        found = self.analyzer.explain(batch.x, np.stack([batch.lengths - 1, chosen], 1), batch_size=batch_size)
        relevance, elsewhere = self._reader.relevance(found.attribution, batch)
        elsewhere = elsewhere + np.where(batch.real, 0.0, relevance).sum(axis=1)
        relevance = np.where(batch.real, relevance, np.nan)
        ends = np.cumsum([len(numbers) for numbers in added])
        results = []
        for i, (end, numbers) in enumerate(zip(ends, added, strict=True)):
            own, sources = slice(end - len(numbers), end), [*prompts[i], *numbers[:-1]]
            results.append(
                CompletionExplanation(
                    texts[i],
                    endings[i],
                    [self.coder.token(n) for n in sources],
                    [self.coder.token(n) for n in numbers],
                    np.array(numbers),
                    relevance[own, : len(sources)],
                    np.isin(sources, list(self.coder.special)),
                    elsewhere[own],
                    found.score[own],
                    self.coder.marker,
                    found,
                )
            )
        return results


def explain(
    model: keras.Model,
    texts: str | Sequence[str],
    analyzer: str | type[Analyzer] = "input_t_gradient",
    *,
    target: Any = None,
    position: int | Sequence[int] | None = None,
    completion: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    vocabulary: Sequence[str] | Mapping[str, int] | None = None,
    **params: Any,
) -> TextExplanation | CompletionExplanation | list[CompletionExplanation]:
    """Explain what a model makes of texts, token by token; for many calls see ``TextExplainer``.

    Parameters
    ----------
    model, tokenizer, vocabulary : as in ``TextExplainer``
    texts : a text, or several of any lengths, which are one batch
    analyzer : a name of ``innv_ext.list_analyzers()``, or a class of ``innv_ext.analyzers`` or its name
    target : whose score is explained: a class (or one of ``class_names``), or, for models with an output for every
        token (batch, tokens, vocabulary), the next token, as a string or a number; one for all texts or a list with one
        each; None: the largest, or the likeliest
    position : for such models, the token at whose output is looked, which tells the next one: 0 is the first one,
        special tokens before the text included, -1 the last; by default the last
    completion : for such models, what follows the text (for each text, if there are several). Its tokens are explained
        one by one, each after all that stands before it; a tokenizer that marks blanks wants the blank before it
    params : parameters of the analyzer, such as ``epsilon``, ``batch_size``, ``class_names``

    Returns
    -------
    ``TextExplanation``; with ``completion`` a ``CompletionExplanation``, or a list of them for a list of texts

    Raises
    ------
    InvalidInputError
        for texts that are empty or longer than the model takes, a target or position that is not there, a model of
        token numbers without ``tokenizer``, and wrong parameters
    UnsupportedModelError
        for models that take no token numbers, and those that the analyzer cannot explain

    Examples
    --------
    >>> stack = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(5, 3), keras.layers.LSTM(4)]
    >>> classifier = keras.Sequential([*stack, keras.layers.Dense(2)])
    >>> words = ["[PAD]", "a", "fine", "bad", "film"]
    >>> found = explain(classifier, "a fine film", "gradient", target=1, tokenizer=str.split, vocabulary=words)
    >>> [word.text for word in found.words()[0]], found.target_names
    (['a', 'fine', 'film'], ['1'])
    """
    explainer = TextExplainer(model, analyzer, tokenizer=tokenizer, vocabulary=vocabulary, **params)
    return explainer.explain(texts, target, position=position, completion=completion)


def _taken_apart(model: Any, tokenizer: Any, vocabulary: Any) -> tuple[keras.Model, Coder, Any, Any]:
    """(model of token numbers, tokenizer, TextVectorization layer or None, preprocessor or None)."""
    if not isinstance(model, keras.Model):
        raise InvalidInputError(f"model must be a keras.Model or a task of keras-hub, got {type(model).__name__}.")
    preprocessor = getattr(model, "preprocessor", None)
    if tokenizer is None and getattr(preprocessor, "tokenizer", None) is not None:
        coder = coder_of(preprocessor.tokenizer, vocabulary)
        return model, limited(coder, getattr(preprocessor, "sequence_length", None)), None, preprocessor
    if tracing.takes_strings(model):
        if tokenizer is not None:
            raise InvalidInputError(f"tokenizer= is for models of token numbers; {model.name!r} takes strings.")
        layer, behind = tracing.split_strings(model)
        return behind, coder_of(layer), layer, None
    hidden = [layer.name for layer in model.layers if isinstance(layer, keras.layers.TextVectorization)]
    if tokenizer is None and hidden:  # not of a recorded graph
        raise UnsupportedModelError(
            f"{model.name!r} reads texts by {hidden[0]!r} inside a call written by hand, which cannot be taken apart. "
            f"Build it as a functional model, or explain the part behind that layer, with the layer as tokenizer=."
        )
    if tokenizer is None:
        raise InvalidInputError(
            f"{model.name!r} takes no strings, and has no preprocessor with a tokenizer: give tokenizer=, a "
            f"TextVectorization layer, a tokenizer of keras-hub, or a function from a text to its tokens (with "
            f"vocabulary=)."
        )
    return model, coder_of(tokenizer, vocabulary), None, None


def _analyzer(analyzer: Any, model: keras.Model, params: Mapping[str, Any]) -> Analyzer:
    if isinstance(analyzer, str):
        classes = {info.cls.__name__ for info in list_analyzers()}
        if analyzer not in classes:
            return create_analyzer(analyzer, model, **params)
        analyzer = class_named(analyzer)
    if not (isinstance(analyzer, type) and issubclass(analyzer, Analyzer)):
        raise InvalidInputError(f"analyzer must be a name of innv_ext.list_analyzers() or a class, got {analyzer!r}.")
    return analyzer(model, **params)
