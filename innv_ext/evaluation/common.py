"""What the tests of this folder share: arguments they all take, and the pass over the unperturbed samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from innv_ext.analyzers.core import inputs
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.features import RANDOM
from innv_ext.evaluation.scores import Scores


def named(relevance: Any) -> dict[str, Any]:
    """{name: map}; a single map is called "relevance", a random order "random"."""
    if not isinstance(relevance, Mapping):
        return {RANDOM if isinstance(relevance, str) else "relevance": relevance}
    wrong = [name for name in relevance if not isinstance(name, str)]
    if wrong or not relevance:
        raise InvalidInputError(f"relevance must be an array or a dict {{name: array}}, got keys {list(relevance)}.")
    return dict(relevance)


def read_seed(seed: Any) -> int:
    """``seed`` if it is an integer of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidInputError(f"seed must be an integer of at least 0, got {seed!r}.")
    return int(seed)


def generator(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each key, whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def read_neurons(selection: Any, shape: tuple[int | None, ...], count: int) -> np.ndarray:
    """The flat index of the neuron per sample; -1 stands for the largest output."""
    mode, index = inputs.resolve_selection("max_activation", selection, count, shape)
    if mode == "all":
        raise InvalidInputError("neuron_selection='all' is no single neuron; give one index per sample, or None.")
    return index


def read_labels(labels: Any, shape: tuple[int | None, ...], count: int) -> np.ndarray | None:
    """One class per sample."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInputError(
            f"labels must be integers of shape ({count},), one class per sample, got dtype {array.dtype} and shape "
            f"{array.shape}."
        )
    classes = shape[-1] if len(shape) > 1 else 1
    classes = 2 if classes == 1 else classes
    wrong = np.flatnonzero((array < 0) | (array >= (np.inf if classes is None else classes)))
    if wrong.size:
        raise InvalidInputError(
            f"labels holds {array[wrong[0]]} (sample {wrong[0]}), which is out of range; valid are 0..{classes - 1}."
        )
    return array


def at_x(scores: Scores, x: np.ndarray, index: np.ndarray, size: int) -> list[np.ndarray]:
    """Score, neuron and class of the unperturbed samples, ``size`` at a time."""
    rows = [slice(start, start + size) for start in range(0, len(x), size)]
    parts = [scores(x[s], index[s]) for s in rows]
    return [np.concatenate(p) for p in zip(*parts, strict=True)]
