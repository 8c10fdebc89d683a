"""What a test asks of the model: scores, classes and neurons of x and of changed copies; maps of the same neurons."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core import request, subject
from innv_ext.analyzers.core.base import Analyzer, Explanation
from innv_ext.analyzers.core.reverse import select
from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Spec
from innv_ext.backend.models import model_wo_softmax
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.errors import InvalidInputError, NonFiniteWarning
from innv_ext.evaluation.features import RANDOM

Tensor = Any
Arrays = Sequence[np.ndarray]  # one per input
Copies = Iterator[tuple[Arrays, tuple[int, int, int]]]  # of samples, with their places: map, sample, on the curve


def check_model(model: Any) -> None:
    """Refuse what is no model."""
    if not isinstance(model, keras.Model):
        raise InvalidInputError(f"model must be a keras.Model, got {type(model).__name__}.")


def generator(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each key, whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


# --- the model -----------------------------------------------------------------------------------------------------


class Inputs:
    """A traced model, and what it takes.

    Attributes
    ----------
    keys : what the inputs are called where several of them stand in a dict
    """

    def __init__(self, model: keras.Model):
        check_model(model)
        self.model, self.subject = model, subject.subject_of(model)
        self.subject.refuse_strings("a test of maps")
        self.structure, self.graph = self.subject.input_structure, self.subject.form()
        named = [getattr(tensor, "name", f"input {i}") for i, tensor in enumerate(tree.flatten(self.structure))]
        self.keys = sorted(self.structure) if isinstance(self.structure, dict) else named
        self.channels_first = facts.channels_first(self.graph)
        tokens, specs = facts.token_inputs(self.graph), self.graph.specs
        self.specs = [replace(specs[s], dtype="int32") if s in tokens else specs[s] for s in self.graph.inputs]

    def flat(self, x: Any) -> list[np.ndarray]:
        """x as the model takes it, one array per input; what does not fit, holds NaN, or is empty is refused."""
        arrays = request.standardize(x, self.structure, self.specs, True)
        for array in arrays:
            if not array.size:
                raise InvalidInputError(f"x has shape {array.shape}; there is nothing to explain.")
        return arrays

    def packed(self, arrays: Sequence[np.ndarray]) -> Any:
        """An array, or {input: array} of several."""
        return arrays[0] if len(arrays) == 1 else dict(zip(self.keys, arrays, strict=True))

    def need_one(self, caller: str) -> Spec:
        """The only input; InvalidInputError in the name of ``caller`` if there are others."""
        if len(self.specs) > 1:
            raise InvalidInputError(
                f"{caller} takes models with one input, but {self.model.name!r} has {len(self.keys)}: {self.keys}. "
                f"Hold the others fixed: keras.Model(a, model([a, b])) with a = keras.Input(...) and b a function of a."
            )
        return self.specs[0]


class OneInput(Inputs):
    """A traced model with one input; others are refused in the name of ``caller``."""

    def __init__(self, model: keras.Model, caller: str):
        super().__init__(model)
        self.spec = self.need_one(caller)

    def samples(self, x: Any) -> np.ndarray:
        """x as the model takes it; what does not fit, holds NaN, or is empty is refused."""
        return self.flat(x)[0]


class Scores(Inputs):
    """The score of one neuron and the predicted class, compiled once.

    Parameters
    ----------
    on : "output", or "logits" (a trailing softmax or sigmoid is cut)
    output : name or position of the output, for models with several
    """

    def __init__(self, model: keras.Model, on: str, output: str | int | None):
        numerics.check_backend()
        arguments.choice("on", on, ("output", "logits"))
        super().__init__(model)
        self.position = request.output_position(model, self.graph, output)
        self.scorer = model if on == "output" else model_wo_softmax(model)
        self.threshold = 0.5 if on == "output" and self._squashed() else 0.0
        fed = [numerics.wide_dtype(s.dtype) if numerics.is_float(s.dtype) else s.dtype for s in self.specs]
        taken = [((None, *s.shape[1:]), dtype) for s, dtype in zip(self.specs, fed, strict=True)]
        self._run = Compiled(self._forward, [((None,), "int64"), *taken], False)

    def _squashed(self) -> bool:
        """Whether the output is a probability."""
        whole = self.subject.form()
        return bool(cut_softmax(whole.rebuilt(whole.nodes, outputs=(whole.outputs[self.position],)))[1])

    def output_shape(self, xs: Arrays) -> tuple[int | None, ...]:
        """The shape of the output, worked out for x where the model leaves dimensions free."""
        return self.subject.output_shape(self.model, self.position, xs)

    def __call__(self, xs: Arrays, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(score in float64, flat index of the neuron, predicted class) per sample; index -1: the largest output.

        The class is the largest entry of the last axis at the neuron's position. A single neuron has the classes 0 and
        1, told apart by 0.5 where it is a probability and by 0 otherwise.
        """
        score, target, predicted = (np.asarray(t) for t in self._run(index, *xs))
        return score.astype("float64"), target, predicted

    def at(self, xs: Arrays, index: np.ndarray, size: int) -> list[np.ndarray]:
        """The same for many samples, ``size`` at a time."""
        rows = [slice(start, start + size) for start in range(0, len(index), size)]
        parts = [self([x[s] for x in xs], index[s]) for s in rows]
        return [np.concatenate(p) for p in zip(*parts, strict=True)]

    def follow(self, copies: Copies, index: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, ...]]:
        """(places (3, n), score, predicted class) of changed copies, ``size`` at a time."""
        while batch := list(itertools.islice(copies, size)):
            rows, places = zip(*batch, strict=True)
            where = np.array(places).T
            score, _, predicted = self([np.stack(own) for own in zip(*rows, strict=True)], index[where[1]])
            yield where, score, predicted

    def _forward(self, index: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.scorer(tree.pack_sequence_as(self.structure, list(xs)), training=False)
        y = widen(tree.flatten(outputs)[self.position])
        _, score, target = select(y, index)
        classes = ops.shape(y)[-1] if len(y.shape) > 1 else 1
        rows = ops.reshape(y, (ops.shape(y)[0], -1, classes))
        row = ops.take_along_axis(rows, (target // classes)[:, None, None], axis=1)[:, 0]
        if row.shape[-1] == 1:
            return score, target, ops.cast(row[:, 0] > self.threshold, "int32")
        return score, target, ops.cast(ops.argmax(row, axis=-1), "int32")


def tell_not_finite(caller: str, values: np.ndarray) -> None:
    """Warn of samples with NaN or infinite values among ``values`` (..., samples, steps)."""
    bad = ~np.isfinite(values).all(axis=(*range(values.ndim - 2), -1))
    if bad.any():
        warnings.warn(
            f"{caller}: {bad.sum()} of {len(bad)} samples (first: {np.flatnonzero(bad)[0]}) have NaN or infinite "
            f"scores where parts of them are replaced, as has a mean over tokens that are all padding. Pass other "
            f"noise= or value=, or leave these samples out.",
            NonFiniteWarning,
            stacklevel=4,
        )


# --- arguments -----------------------------------------------------------------------------------------------------


def per_input(argument: str, given: Any, keys: Sequence[str]) -> list[Any]:
    """What holds for each input: of several, a list with one each, or a dict (None where a key is missing)."""
    if len(keys) == 1 or not isinstance(given, (list, Mapping)):
        return [given] * len(keys)
    if isinstance(given, Mapping):
        for key in given:
            arguments.choice(f"{argument}: input", key, tuple(keys))
        return [given.get(key) for key in keys]
    if len(given) != len(keys):
        raise InvalidInputError(f"{argument} has {len(given)} entries, but the model has the inputs {list(keys)}.")
    return given


def maps_by_name(relevance: Any, keys: Sequence[str]) -> dict[str, Any]:
    """{name: map}; a single map is called "relevance", a random order "random"."""
    one_of_several = len(keys) > 1 and isinstance(relevance, Mapping) and set(relevance) == set(keys)
    one_of_several = one_of_several and not any(isinstance(v, (str, Mapping)) for v in relevance.values())
    if not isinstance(relevance, Mapping) or one_of_several:
        return {RANDOM if isinstance(relevance, str) else "relevance": relevance}
    wrong = [name for name in relevance if not isinstance(name, str)]
    if wrong or not relevance:
        raise InvalidInputError(f"relevance must be an array or a dict {{name: array}}, got keys {list(relevance)}.")
    return dict(relevance)


def read_neurons(selection: Any, shape: tuple[int | None, ...], count: int) -> np.ndarray:
    """The flat index of the neuron per sample; -1 stands for the largest output."""
    _, index = request.resolve_selection("max_activation", selection, count, shape)
    if (index == request.ALL).any():
        raise InvalidInputError("neuron_selection='all' is no single neuron; give one index per sample, or None.")
    if request.is_contrast(selection):
        raise InvalidInputError(f"neuron_selection={selection!r} is no single neuron; give one index per sample.")
    return index


def read_labels(labels: Any, count: int) -> np.ndarray:
    """One class per sample, int64."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInputError(
            f"labels must be integers of shape ({count},), one class per sample, got dtype {array.dtype} and shape "
            f"{array.shape}."
        )
    return array.astype("int64")


def read_classes(labels: Any, shape: tuple[int | None, ...], count: int) -> np.ndarray | None:
    """One class per sample, of an output of this shape; None stays so."""
    if labels is None:
        return None
    array = read_labels(labels, count)
    classes = shape[-1] if len(shape) > 1 else 1
    classes = 2 if classes == 1 else classes
    wrong = np.flatnonzero((array < 0) | (array >= (np.inf if classes is None else classes)))
    if wrong.size:
        raise InvalidInputError(
            f"labels holds {array[wrong[0]]} (sample {wrong[0]}), which is out of range; valid are 0..{classes - 1}."
        )
    return array


# --- maps ----------------------------------------------------------------------------------------------------------


def same_neurons(found: Explanation, neuron_selection: Any) -> Any:
    """A ``neuron_selection`` for the neurons that were explained, whatever the largest output is elsewhere.

    Where a sample's score is no single neuron, ``neuron_selection`` is returned as it was given.
    """
    if request.is_contrast(neuron_selection):
        raise InvalidInputError(f"neuron_selection={neuron_selection!r} is no single neuron; give an index per sample.")
    if (found.target < 0).any():
        return neuron_selection
    shape = found.output.shape[1:]
    return found.target if len(shape) < 2 else np.stack(np.unravel_index(found.target, shape), axis=1)


def rows_of(selection: Any, rows: slice | np.ndarray) -> Any:
    """The part of a selection that belongs to some samples."""
    return selection[rows] if isinstance(selection, np.ndarray) else selection


def check_analyzer(analyzer: Any) -> Analyzer:
    """``analyzer`` if it is one."""
    if not isinstance(analyzer, Analyzer):
        raise InvalidInputError(
            f"analyzer must be an analyzer, e.g. innv_ext.create_analyzer('gradient', model), got {analyzer!r}."
        )
    return analyzer
