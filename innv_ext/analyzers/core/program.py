"""Base of all analyzers that work on the rewritten graph of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext.analyzers.core.base import Analyzer
from innv_ext.backend import numerics, passes, walk
from innv_ext.backend.graph import Graph, Spec, op_key
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.rules import not_differentiable
from innv_ext.backend.tracing import untouched
from innv_ext.errors import InnvError, UnsupportedModelError

Tensor = Any
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


@dataclass(kw_only=True, eq=False, repr=False)
class GraphAnalyzer(Analyzer):
    """An analyzer with the graph of one output, its activations split off and a trailing softmax cut.

    Subclasses say in ``batchnorm_form`` how they want batch normalisation, call ``compiled`` for their functions of
    tensors, and may check the model in ``check_model``.
    """

    batchnorm_form = "linear"
    propagates = True

    def check_model(self, graph: Graph) -> None:
        """Refuse models for which the method is not defined."""

    def prepare(self) -> None:
        """A last rewrite of ``graph_``."""

    def bind(self) -> None:
        """Bind rules to the nodes of the final graph."""

    def build(self) -> None:
        """Rewrite the graph and check that it still computes what the model does; compile nothing yet."""
        self._whole = graph = passes.canonical(self.graph_, self.batchnorm_form)
        graph = graph.rebuilt(graph.nodes, outputs=(graph.outputs[self.output_position_],))
        self.output_position_ = 0
        self.cut_: tuple[str, ...] = ()
        if self.on == "logits":
            graph, self.cut_ = passes.cut_softmax(graph)
        self.graph_ = _float_inputs(graph)
        if self.propagates:
            _check_reachable(self.graph_)
        self.check_model(self.graph_)
        self.prepare()
        self.bind()
        self._compiled: dict[Any, Compiled] = {}
        self._checked = not self.check_forward
        if not self._checked and all(None not in spec.shape[1:] for spec in self.input_specs()):
            self._check_forward(
                [
                    _probe(replace(fed, dtype=self._whole.specs[slot].dtype)).astype(
                        numerics.wide_dtype(fed.dtype) if numerics.is_float(fed.dtype) else fed.dtype
                    )
                    for fed, slot in zip(self.input_specs(), self._whole.inputs, strict=True)
                ]
            )

    def _check_forward(self, xs: Sequence[np.ndarray]) -> None:
        """The rewritten graph must compute what the model computes, on ``xs``."""
        with untouched(self.model):
            own = [x.astype(self._whole.specs[s].dtype) for x, s in zip(xs, self._whole.inputs, strict=True)]
            expected = self.model(tree.pack_sequence_as(self.input_structure_, own), training=False)
            received = walk.evaluate(self._whole, [ops.convert_to_tensor(x) for x in xs])
        dtypes = {self.graph_.specs[s].dtype for node in self.graph_.nodes for s in node.outputs}
        tolerance = (
            5e-2 if dtypes & {"float16", "bfloat16"} else max(_TOLERANCE.get(d, 0.0) for d in dtypes | {"float64"})
        )
        pairs = [ops.convert_to_numpy(widen(t)) for t in tree.flatten(expected)]
        passes.check_equal(pairs, [ops.convert_to_numpy(widen(t)) for t in received], repr(self), tolerance)
        self._checked = True

    def check_once(self, xs: Sequence[np.ndarray]) -> None:
        """Check the rewritten graph on a sample if the model's free dimensions put it off so far."""
        if not self._checked:
            self._check_forward([x[:1] for x in xs])

    def compiled(self, function: Callable[..., Any], options: dict[str, Any], extra: Sequence[Any] = ()) -> Compiled:
        """``function(xs, index, *extra, **options)`` compiled for these options with a free batch dimension."""
        key = (function.__name__, *options.values())
        if key not in self._compiled:
            specs = [((None, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
            count = len(specs)
            self._compiled[key] = Compiled(
                lambda *args: function(list(args[:count]), *args[count:], **options),
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


def select(y: Tensor, index: Tensor, mode: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(d score / d y, score, flat index of the neuron or -1) for outputs y (batch, ...)."""
    count = ops.shape(y)[0]
    flat = ops.reshape(y, (count, -1))
    nothing = -ops.ones_like(index)
    if mode == "all":
        return ops.ones_like(y), ops.sum(flat, axis=1), nothing
    if callable(mode):
        (score,), pullback = numerics.vjp(mode, numerics.identity(y))
        if len(score.shape) != 1:
            raise InnvError(f"The target function must return one score per sample, shape (batch,), got {score.shape}.")
        return pullback(ops.ones_like(score))[0], score, nothing
    best = ops.cast(ops.argmax(flat, axis=1), "int32")
    target = ops.where(index < 0, best, index) if mode == "max_activation" else index
    hot = ops.cast(ops.equal(ops.arange(ops.shape(flat)[1])[None], target[:, None]), y.dtype)
    return ops.reshape(hot, ops.shape(y)), ops.sum(hot * flat, axis=1), target


def at_input(xs: list[Tensor], index: Tensor, graph: Graph, mode: Any) -> dict[str, Tensor]:
    """Output, explained neuron and its score at x."""
    y = widen(walk.evaluate(graph, xs)[0])
    _, score, target = select(y, index, mode)
    return {"output": y, "target": target, "score": score}


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


def _probe(spec: Spec) -> np.ndarray:
    """One repeatable sample to compare the graph with the model; integers stay in the smallest vocabulary."""
    shape = (1, *(int(d) for d in spec.shape[1:] if d is not None))
    rng = np.random.default_rng(0)
    if not numerics.is_float(spec.dtype):
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.uniform(-1, 1, shape).astype(numerics.wide_dtype(spec.dtype))
