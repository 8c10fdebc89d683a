"""Reference samples: given, or a random subset of the training data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core import node_rules, request
from innv_ext.analyzers.core.program import GraphAnalyzer
from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Graph, run
from innv_ext.backend.kinds import Kind
from innv_ext.errors import InvalidInputError, NonFiniteWarning

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class Background(GraphAnalyzer):
    """An analyzer that compares x with reference samples.

    Parameters
    ----------
    references : reference samples, in the structure of the model's inputs; None: drawn from the data in ``fit``
    background : how many samples ``fit`` keeps, each subset of the data with the same probability

    Attributes
    ----------
    references_ : the reference samples, one array per input
    """

    references: Any = None
    background: int = arguments.count(32)

    needs_fit = True
    learns, fit_instead = "reference samples, with which it compares x", "pass references="

    def build(self) -> None:
        """Read the references once it is known what samples look like."""
        super().build()
        self._given: list[np.ndarray] = []
        if self.references is not None:
            try:
                specs = self.input_specs()
                self._given = request.standardize(self.references, self.input_structure_, specs, check=True)
            except InvalidInputError as error:
                raise InvalidInputError(f"references (samples like those to explain): {error}") from error
            if not len(self._given[0]):
                raise InvalidInputError("references is empty; at least one sample is needed.")

    def fit(self, X: Any, *, samples: int | None = None, batch_size: int | None = None) -> Background:
        """Keep a random subset of the data, in one pass; where ``references`` are given they stay.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches
        samples : how many to keep; default: ``background``

        Raises
        ------
        InvalidInputError
            for data that don't fit the model, hold NaN, or are empty; nothing is changed then
        """
        count = arguments.positive_int("samples", self.background if samples is None else samples)
        if self.references is None:
            kept = random_subset(self.training_batches(X, batch_size), count, self.seed)
            held = [a.astype(str) if a.dtype.kind == "O" else a for a in kept]  # a form of strings that files can hold
            self.set_state({f"reference{i}": array for i, array in enumerate(held)})
        return self

    def must_fit(self) -> bool:
        return self.references is None

    @property
    def references_(self) -> list[np.ndarray] | None:
        """The reference samples, given or learnt."""
        learnt = [a.astype(object) if a.dtype.kind == "U" else a for a in self.learnt_list("reference")]
        return self._given or learnt or None

    def references_like(self, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The references, which must have the shape of the samples (models may leave it open)."""
        for reference, x in zip(self.references_, xs, strict=True):
            if reference.shape[1:] != x.shape[1:]:
                raise InvalidInputError(
                    f"The reference samples have shape {reference.shape[1:]}, but x has {x.shape[1:]}; both are needed "
                    f"in one shape."
                )
        return list(self.references_)


def random_subset(batches: Iterable[Sequence[np.ndarray]], count: int, seed: int) -> list[np.ndarray]:
    """``count`` samples drawn without replacement in one pass, all of them where there are fewer.

    Reservoir sampling by random keys: the samples with the smallest keys stay. The same for the same seed and order of
    samples, however they are split into batches.
    """
    rng = np.random.default_rng(seed)
    keys, kept = np.zeros(0), None
    for arrays in batches:
        if kept is not None and any(k.shape[1:] != a.shape[1:] for k, a in zip(kept, arrays, strict=True)):
            shapes = [tuple(a.shape[1:]) for part in (kept, arrays) for a in part]
            raise InvalidInputError(f"Reference samples must have one shape, but the training data have {shapes}.")
        keys = np.concatenate([keys, rng.random(len(arrays[0]))])
        kept = list(arrays) if kept is None else [np.concatenate(pair) for pair in zip(kept, arrays, strict=True)]
        order = np.argsort(keys)[:count]
        keys, kept = keys[order], [a[order] for a in kept]
    assert kept is not None, "data.batches refuses empty data"
    return kept


def per_input(head: Graph, inputs: Sequence[int], values: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    """Attributions of features as attributions of the model's inputs.

    A token takes what the components of its vector have got, of several embeddings together.

    Parameters
    ----------
    head : the embeddings, as split off by ``passes.split_embeddings``
    inputs : the slots of the features
    values : one tensor per feature
    xs : the model's inputs
    """
    found, numbers = dict(zip(inputs, values, strict=True)), run(head.nodes, dict(zip(head.inputs, xs, strict=True)))
    sources = facts.token_inputs(head)
    found = {slot: r for slot, r in found.items() if slot not in sources}
    for node in reversed(head.nodes):
        rs = [found.pop(slot, None) for slot in node.outputs]
        if any(r is None for r in rs):
            continue
        rule = node_rules.embedding if node.kind is Kind.EMBEDDING else node_rules.numbers
        given = rule(node, tuple(numbers[s] for s in node.inputs), (), tuple(rs))
        for slot, r in zip(node.inputs, given, strict=True):
            found[slot] = found[slot] + r if slot in found else r
    return [found.get(s) for s in head.inputs]


def completed(extras: dict[str, Any], argument: str, needed: bool) -> dict[str, Any]:
    """"completeness_error": how far the sum is from f_c(x) - f_c(x0), as a share of it.

    The share is of at least a hundredth of the scores.

    Parameters
    ----------
    argument : what the reference x0 was given as
    needed : whether the map has no meaning without f_c(x0); else there is a warning where that is NaN or infinite

    Raises
    ------
    InvalidInputError
        where f_c(x0) is NaN or infinite but f_c(x) is not
    """
    score, start, total = (extras[k].astype("float64") for k in ("score", "reference_score", "sum"))
    lost = np.flatnonzero(np.isfinite(score) & ~np.isfinite(start))
    if len(lost):
        message = (
            f"The reference's score is NaN or infinite (in {len(lost)} of {len(score)} samples, first: {lost[0]}), "
            f"so there is no difference from it to explain: pass other {argument}=. A mean over tokens, for example, "
            f"has no value if all of them are padding."
        )
        if needed:
            raise InvalidInputError(message)
        warnings.warn(message, NonFiniteWarning, stacklevel=5)
    size = np.maximum(np.abs(score - start), 0.01 * np.maximum(np.abs(score), np.abs(start)))
    return {**extras, "completeness_error": np.abs(total - (score - start)) / np.maximum(size, numerics.TINY)}
