"""Base of all analyzers that work on the rewritten graph of the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext.analyzers.core import subject
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.core.subject import ALL, BEST
from innv_ext.backend import numerics, passes, walk
from innv_ext.backend.graph import Graph, Spec, op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.rules import not_differentiable
from innv_ext.backend.squash import cut_softmax, kept_inside
from innv_ext.errors import InnvError, ProbabilityWarning, UnsupportedModelError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class GraphAnalyzer(Analyzer):
    """An analyzer with the graph of one output, its activations split off and a trailing softmax cut.

    Subclasses say in ``batchnorm_form`` how they want batch normalisation, call ``compiled`` for their functions of
    tensors, and may check the model in ``check_model``.
    """

    batchnorm_form = "linear"
    propagates = True
    one_pass = False  # whether the model is called once for each sample, with no other versions of it
    behind_embeddings = False  # whether ``graph_`` starts behind the embeddings of token inputs, which are in ``head_``

    def check_model(self, graph: Graph) -> None:
        """Refuse models for which the method is not defined."""

    def prepare(self) -> None:
        """A last rewrite of ``graph_``."""

    def bind(self) -> None:
        """Bind rules to the nodes of the final graph."""

    def build(self) -> None:
        """Rewrite the graph and check that it still computes what the model does; compile nothing yet."""
        self._whole = graph = self.subject_.form(self.batchnorm_form)
        graph = graph.rebuilt(graph.nodes, outputs=(graph.outputs[self._explained],))
        self.output_position_ = 0
        if self.subject_.batch is not None and not self.one_pass:
            raise UnsupportedModelError(
                f"The model takes exactly {self.subject_.batch} samples at a time, but {self!r} looks at several "
                f"versions of a sample at once. Build the model without a fixed batch size (keras.Input(shape)), or "
                f"use a method of one backward walk such as 'gradient'."
            )
        self.cut_: tuple[str, ...] = ()
        if self.on == "logits":
            graph, self.cut_ = cut_softmax(graph)
            self._warn_of_probabilities(kept_inside(graph))
        self.graph_ = _float_inputs(graph)
        if self.propagates:
            _check_reachable(self.graph_)
        self.check_model(self.graph_)
        self.head_ = Graph((), self.graph_.inputs, self.graph_.inputs, self.graph_.specs, {})
        if self.behind_embeddings:
            self.head_, self.graph_ = passes.split_embeddings(self.graph_)
        self.prepare()
        self.bind()
        self._compiled: dict[Any, Compiled] = {}
        fed = self.input_specs()
        dtypes = [numerics.wide_dtype(s.dtype) if numerics.is_float(s.dtype) else s.dtype for s in fed]
        self._checked = not self.check_forward or self.subject_.is_checked(self.batchnorm_form, self._explained, dtypes)
        if not self._checked and all(None not in spec.shape[1:] for spec in fed):
            own = [replace(s, dtype=self._whole.specs[i].dtype) for s, i in zip(fed, self._whole.inputs, strict=True)]
            self._check([subject.probe(s).astype(d) for s, d in zip(own, dtypes, strict=True)])

    def _warn_of_probabilities(self, kept: Sequence[str]) -> None:
        if kept:
            warnings.warn(
                f"{', '.join(kept)} cannot be cut, because its values are averaged or joined with others before the "
                f"output: the map explains probabilities, not logits. Explain one of the branches, or pass "
                f"on='output' to say that this is meant.",
                ProbabilityWarning,
                stacklevel=6,
            )

    def _check(self, xs: Sequence[np.ndarray]) -> None:
        self.subject_.check(self.model, self.batchnorm_form, self._explained, xs, repr(self))
        self._checked = True

    def check_once(self, xs: Sequence[np.ndarray]) -> None:
        """Check the rewritten graph on a sample if the model's free dimensions put it off so far."""
        if not self._checked:
            pair = [x[: self.subject_.batch or 2] for x in xs]
            rolled = [np.concatenate([x, np.roll(x, 1, axis=-1)]) for x in pair]  # with one sample, another beside it
            self._check(rolled if len(pair[0]) == 1 and self.subject_.batch is None else pair)

    def input_specs(self) -> list[Spec]:
        """What is fed: tokens where the model takes tokens."""
        return [self.head_.specs[s] for s in self.head_.inputs]

    def embedded(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """What ``graph_`` starts from: the inputs, or the vectors of tokens."""
        return walk.evaluate(self.head_, list(xs))

    def at_x(self, xs: Sequence[np.ndarray], index: np.ndarray, mode: Any) -> dict[str, np.ndarray]:
        """"output", "score" and "target" at x: the neuron of each sample, chosen if it was not given."""
        return tree.map_structure(np.asarray, self.compiled(self._at_x, {"mode": mode})(*xs, index))

    def _at_x(self, xs: list[Tensor], index: Tensor, mode: Any) -> dict[str, Tensor]:
        y = widen(walk.evaluate(self.graph_, self.embedded(xs))[0])
        _, score, target = select(y, index, mode)
        return {"output": y, "target": target, "score": score}

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """Choose the neuron at x, and keep to it wherever the method looks."""
        self.check_once(xs)
        start = self.at_x(xs, index, options["mode"])
        return {**start, **self.attribute(xs, start, size, options["mode"])}

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """"attributions" (list) and extras per sample; ``start`` is what ``at_x`` found."""
        raise NotImplementedError

    def compiled(self, function: Callable[..., Any], options: dict[str, Any], extra: Sequence[Any] = ()) -> Compiled:
        """``function(xs, index, *extra, **options)`` compiled for these options with a free batch dimension."""
        key = (function.__name__, *options.values())
        if key not in self._compiled:
            specs = [(spec.shape, spec.dtype) for spec in self.input_specs()]
            count = len(specs)

            def run(*args: Tensor) -> Any:
                return function(list(args[:count]), *args[count:], **options)

            self._compiled[key] = Compiled(
                numerics.restoring(run, self.subject_.assigned) if self.subject_.assigned else run,
                [*specs, ((None,), "int32"), *extra],
                self.jit_compile,
            )
        return self._compiled[key]

    def on_graph(self, graph: Graph) -> GraphAnalyzer:
        """A copy of this analyzer on another graph of the same nodes, e.g. with smooth activations."""
        other = copy.copy(self)
        other.graph_, other._compiled = graph, {}
        return other

    def head(self) -> str:
        """The first line of a summary."""
        return repr(self) + (f"; {', '.join(self.cut_)} cut" if self.cut_ else "; explains the model's output as it is")


def select(y: Tensor, index: Tensor, mode: Any = "index") -> tuple[Tensor, Tensor, Tensor]:
    """(d score / d y, score, flat index of the neuron) for outputs y (batch, ...).

    Parameters
    ----------
    index : flat index (batch,); ``BEST`` for the largest output, ``ALL`` for the sum of all
    mode : "index"; "all", whatever the index; or a function of y that gives the score
    """
    count = ops.shape(y)[0]
    if callable(mode):
        (score,), pullback = numerics.vjp(mode, numerics.identity(y))
        if len(score.shape) != 1:
            raise InnvError(f"The target function must return one score per sample, shape (batch,), got {score.shape}.")
        return pullback(ops.ones_like(score))[0], score, index
    flat = ops.reshape(y, (count, -1))
    index = ops.full_like(index, ALL) if isinstance(mode, str) and mode == "all" else index
    target = ops.where(index == BEST, ops.cast(ops.argmax(flat, axis=1), "int32"), index)
    hot = ops.equal(ops.arange(ops.shape(flat)[1])[None], target[:, None])
    weights = ops.cast(ops.logical_or(hot, (target == ALL)[:, None]), y.dtype)
    return ops.reshape(weights, ops.shape(y)), ops.sum(weights * flat, axis=1), target


def check_float_inputs(graph: Graph, what: str) -> None:
    """Refuse token inputs for methods that move inputs continuously; ``what`` says who does what."""
    for slot in graph.inputs:
        if not numerics.is_float(graph.specs[slot].dtype):
            raise UnsupportedModelError(
                f"{what}, but input {graph.inputs.index(slot)} takes {graph.specs[slot].dtype} numbers (tokens). "
                f"Explain the part of the model behind the embedding: keras.Model(embedding_output, model.output)."
            )


def _float_inputs(graph: Graph) -> Graph:
    """Integer inputs that are not token numbers (pixels 0..255) are fed as floats, so that they get a gradient."""
    users, specs = graph.consumers(), dict(graph.specs)
    for slot in graph.inputs:
        kinds = {n.kind for n in users[slot]}
        tokens = Kind.EMBEDDING in kinds and kinds <= {Kind.EMBEDDING, Kind.DISCRETE}
        if not (numerics.is_float(specs[slot].dtype) or tokens or kinds <= {Kind.DISCRETE, Kind.OPAQUE}):
            specs[slot] = Spec(specs[slot].shape, "float32")
    return replace(graph, specs=specs)


def _check_reachable(graph: Graph) -> None:
    """Refuse models where all that an input does goes through hashing, look-ups, comparisons or casts to integers."""
    smooth, any_path, blocking = set(graph.outputs), set(graph.outputs), []
    for node in reversed(graph.nodes):
        if any_path.intersection(node.outputs):
            any_path.update(node.inputs)
        if not smooth.intersection(node.outputs):
            continue
        open_slots = {s for s in node.inputs if numerics.is_float(graph.specs[s].dtype) or node.kind is Kind.EMBEDDING}
        if not_differentiable(node, graph) or not open_slots:
            blocking.append(node)
        else:
            smooth.update(open_slots)
    blocked = [slot for slot in graph.inputs if slot in any_path and slot not in smooth]
    if blocked:
        names = ", ".join(f"{n.name} ({op_key(n.op)})" for n in reversed(blocking))
        raise UnsupportedModelError(
            f"No gradient reaches input {graph.inputs.index(blocked[0])}, because {names} has none. Explain the "
            f"part of the model behind it: keras.Model(layer.output, model.output)."
        )
