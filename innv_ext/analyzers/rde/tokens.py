"""Tokens as features: what is kept of a token is a share of its vector, and noise takes the place of the rest.

The solvers see what lies behind the embeddings: vectors (batch, tokens, components), each with one s for all of its
components. Maps have the shape of the token numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.parts.partition import Partition, blocks, partition
from innv_ext.analyzers.parts.replacement import Replacement, RunningMoments
from innv_ext.backend import facts, numerics, traits
from innv_ext.backend.arrangement import Arrangement, arrangements
from innv_ext.backend.graph import Graph, Node, op_key, run
from innv_ext.backend.kinds import Kind
from innv_ext.errors import InvalidInputError, UnsupportedModelError

Tensor = Any
Arrays = list[np.ndarray]
Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Vectors:
    """How a graph that starts behind the embeddings is fed, and which features its inputs have; like a ``Partition``.

    Attributes
    ----------
    moving : positions among the graph's inputs of those that are mixed with noise
    parts : of the moving inputs
    shown : parts of the inputs of the model that have features
    at : positions of these
    shapes : of one sample of every input of the model
    """

    moving: tuple[int, ...]
    parts: Partition
    shown: Partition
    at: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Features of a sample."""
        return self.shown.count

    def expand(self, values: Tensor) -> list[Tensor]:
        """A tensor (batch, features) as one per moving input."""
        return self.parts.expand(values)

    def sums(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Values of the moving inputs, added up over each feature."""
        return self.parts.sums(values)

    def maps(self, values: np.ndarray) -> list[np.ndarray]:
        """An array (..., features) as one map per input of the model; zeros where nothing moves."""
        found = [np.zeros((*values.shape[:-1], *shape), values.dtype) for shape in self.shapes]
        for i, one in zip(self.at, self.shown.maps(values), strict=True):
            found[i] = one
        return found


def vectors(kind: Any, whole: Graph, head: Graph, graph: Graph, shapes: Shapes, names: Sequence[str]) -> Vectors:
    """The features of a model of tokens, or of sequences.

    Parameters
    ----------
    kind : "token", or an array of labels of the only input
    whole : the model, from which ``head`` turns the numbers of tokens into vectors, and ``graph`` goes on
    shapes : of one sample of each input
    names : of the inputs
    """
    fed, pairs = sources(whole, names), moving(whole, head, graph, names)
    arranged = [one for one in arrangements(whole, shapes) if one.number in fed]
    if isinstance(kind, str):
        shown = _numbered([_of_tokens(one) for one in arranged], arranged)
    else:
        shown = partition(kind, arranged)
    slots = {whole.inputs[one.number]: label for one, label in zip(arranged, shown.labels, strict=True)}
    labels = {**slots, **_behind(head, slots)}
    return Vectors(
        tuple(i for i, _ in pairs),
        Partition((), tuple(labels[graph.inputs[i]] for i, _ in pairs), shown.counts),
        shown,
        tuple(one.number for one in arranged),
        tuple(map(tuple, shapes)),
    )


def moving(whole: Graph, head: Graph, graph: Graph, names: Sequence[str]) -> list[tuple[int, int]]:
    """(position among the inputs of ``graph``, position of the input it comes of) of all that is mixed with noise."""
    fed, origin = sources(whole, names), facts.token_sources(whole)
    of = {whole.inputs[i]: i for i in fed}
    of |= {n.outputs[0]: of[origin[n.inputs[0]]] for n in tables(head) if origin[n.inputs[0]] in of}
    floats = [numerics.is_float(graph.specs[s].dtype) for s in graph.inputs]
    return [(i, of[s]) for i, (s, real) in enumerate(zip(graph.inputs, floats, strict=True)) if real and s in of]


def sources(whole: Graph, names: Sequence[str]) -> list[int]:
    """The inputs that have features: tokens and floats, not masks, nor what says of what kind tokens are.

    Raises
    ------
    UnsupportedModelError
        if there is none
    """
    tokens, found = facts.token_inputs(whole), []
    for i, slot in enumerate(whole.inputs):
        if names[i] not in facts.SEGMENTS and (slot in tokens or numerics.is_float(whole.specs[slot].dtype)):
            found.append(i)
    if not found:
        raise UnsupportedModelError(
            "features='token' replaces vectors of tokens, or steps of sequences, but no input of this model holds such."
        )
    return found


def tables(head: Graph) -> list[Node]:
    """The nodes that turn numbers into vectors."""
    return [n for n in head.nodes if n.kind is Kind.EMBEDDING]


def _of_tokens(one: Arrangement) -> np.ndarray:
    """One label per token, or step of a sequence; single columns of a table."""
    if not one.tokens and len(one.axes) > 1:
        raise InvalidInputError(
            f"features='token' is for tokens and sequences (steps, channels), but samples of input {one.number} have "
            f"shape {one.shape}: pass features='pixel', or an array of labels."
        )
    return blocks(one.shape, [1] * len(one.shape) if one.tokens or not one.axes else one.along(1))


def _numbered(labels: Sequence[np.ndarray], arranged: Sequence[Arrangement]) -> Partition:
    found, count = [], 0
    for label in labels:
        found.append(label + count)
        count += int(label.max()) + 1
    return Partition(tuple(arranged), tuple(found), np.array([count]))


def _behind(head: Graph, slots: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The labels of vectors, from those of token numbers: what moves the numbers moves their labels."""
    moved = set().union(*map(head.reached, slots))
    movers = [n for n in head.nodes if n.kind is Kind.TOKENS and n.outputs[0] in moved]
    for node in movers:
        if traits.fills(replace(node, kind=Kind.SHAPE)):
            raise UnsupportedModelError(
                f"{node.name!r} ({op_key(node.op)}) puts constants between the numbers of tokens, which are no "
                f"features. Explain the part of the model behind the embedding: keras.Model(embedding_output, "
                f"model.output)."
            )
    given = {s: ops.convert_to_tensor(label, "int32") for s, label in slots.items() if s in head.inputs}
    values, found = run(movers, given), {}
    for node in tables(head):
        if node.inputs[0] in values:
            moved = ops.convert_to_numpy(ops.cast(values[node.inputs[0]], "int32"))
            found[node.outputs[0]] = moved.astype(int)[..., None]
    return found


# --- what takes the place of vectors ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows(Replacement):
    """Rows (rows, components) of a table, each as likely as any other."""

    rows: np.ndarray

    of_sample = False

    def draw(self, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        return self.rows[rng.integers(0, len(self.rows), (count, *x.shape[:-1]))]

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = self.rows.astype("float64")
        found = (np.broadcast_to(a.astype(x.dtype), (1, *x.shape[1:])) for a in (wide.mean(axis=0), wide.var(axis=0)))
        return tuple(np.ascontiguousarray(a) for a in found)


def vocabulary(node: Node) -> Rows:
    """The table of a node, without the row of padding."""
    count = getattr(node.op, "input_dim", None) or node.call.args[0].shape[0]  # of a layer, or of a table by itself
    first = 1 if getattr(node.op, "mask_zero", False) else 0
    return Rows(np.asarray(numerics.widen(node.call(ops.arange(first, int(count))))))


def real(head: Graph, slot: int, slots: dict[int, Tensor]) -> np.ndarray | None:
    """Which vectors of a slot are none of the padding of ``mask_zero``; None where there are no vectors."""
    for node in tables(head):
        if node.outputs[0] == slot:
            numbers = ops.convert_to_numpy(slots[node.inputs[0]])
            return numbers != 0 if getattr(node.op, "mask_zero", False) else np.ones(numbers.shape, bool)
    return None


def learn_vectors(batches: Iterator[tuple[Arrays, Arrays]]) -> dict[str, np.ndarray]:
    """Mean and variance of the components of vectors, wherever in a sample they are; of other inputs of every value.

    Parameters
    ----------
    batches : (values of the moving inputs, which of their vectors count; None for other inputs)

    Raises
    ------
    InvalidInputError
        if all is padding
    """
    moments: list[RunningMoments] = []
    shapes: list[tuple[int, ...]] = []
    for arrays, kept in batches:
        rows = [
            a.reshape(len(a), -1) if k is None else a[np.broadcast_to(k, a.shape[:-1])]
            for a, k in zip(arrays, kept, strict=True)
        ]
        if not moments:
            moments = [RunningMoments(r.shape[1], matrix=False) for r in rows]
            shapes = [a.shape[1:] if k is None else a.shape[-1:] for a, k in zip(arrays, kept, strict=True)]
        for one, r in zip(moments, rows, strict=True):
            if len(r):
                one.add(r.astype("float64"))
    if not all(m.count for m in moments):
        raise InvalidInputError("All tokens of the training data are padding: there is nothing to learn from.")
    found = {}
    for i, (m, shape) in enumerate(zip(moments, shapes, strict=True)):
        found |= {f"mean{i}": m.mean.reshape(shape), f"variance{i}": (m.scatter / m.count).reshape(shape)}
    return found
