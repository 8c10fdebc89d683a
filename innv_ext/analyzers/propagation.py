"""Analyzers that are one backward walk over the graph: a rule table and a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext.analyzers import inputs as checks
from innv_ext.analyzers import node_rules
from innv_ext.analyzers.base import Analyzer
from innv_ext.backend import numerics, passes, walk
from innv_ext.backend.graph import untouched
from innv_ext.backend.kinds import Kind
from innv_ext.backend.nodes import Graph, Node, Spec, op_key
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.rules import Rules, anything, kind_is, not_differentiable
from innv_ext.errors import ApproximationWarning, InnvError, UnsupportedModelError

Tensor = Any
GRADIENT_RULES = Rules((kind_is(Kind.EMBEDDING), node_rules.embedding_gradient), (anything, node_rules.gradient))
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


@dataclass(kw_only=True, eq=False, repr=False)
class ReverseAnalyzer(Analyzer):
    """Base of all methods that walk the graph backwards; by itself the plain gradient.

    Subclasses give ``table()`` (the rules), ``seed_relevance()`` (what enters at the output) and, where the default
    form of the graph does not fit, ``batchnorm_form``. ``add_conditional_reverse_mapping`` adds rules in front of the
    table.

    Parameters
    ----------
    unsupported : "error" refuses models with nodes that have no rule; "gradient" back-propagates through them,
        warns, and lists them in ``extras["approximated"]``

    Examples
    --------
    >>> class MyGuidedBackprop(ReverseAnalyzer):
    ...     def mappings(self):
    ...         self.add_conditional_reverse_mapping(
    ...             lambda op: op is keras.activations.relu,
    ...             lambda node, xs, ys, rs: node.pullback(keras.ops.relu(rs[0])),
    ...             name="guided_backprop",
    ...         )
    """

    unsupported: str = "error"
    _mappings: list[tuple[Any, ...]] = field(default_factory=list, init=False)

    batchnorm_form = "linear"
    propagates = True
    hint = (
        "Ways out: give a rule (rules=Rules((named('layer'), rule))), pass unsupported='gradient' to back-propagate "
        "plainly through these nodes, or explain a model without them."
    )

    # --- what a method defines -----------------------------------------------------------------------------------

    def mappings(self) -> None:
        """Call ``add_conditional_reverse_mapping`` here."""

    def table(self) -> Rules:
        """The rules of the method."""
        return GRADIENT_RULES

    def seed_relevance(self, y: Tensor, weights: Tensor) -> Tensor:
        """What enters the walk at output y; ``weights`` is the derivative of the explained score with respect to y."""
        return weights

    def check_model(self, graph: Graph) -> None:
        """Refuse models for which the method is not defined."""

    def prepare(self) -> None:
        """A last rewrite of ``graph_`` before the rules are bound."""

    def finish(self, attribution: Tensor, x: Tensor) -> Tensor:
        """The last step on tensors, per input."""
        return attribution

    def add_conditional_reverse_mapping(
        self, condition: Callable[[Any], bool], mapping: Any, name: str | None = None
    ) -> None:
        """Use ``mapping(node, xs, ys, rs)`` for nodes whose layer, operation or activation meets ``condition``.

        Earlier mappings win. To be called in ``mappings``. Source: thesis, section V.3.2.2.
        """
        self._mappings.append((lambda node, graph: bool(condition(node.op)), mapping, name or "mapping"))

    # --- building ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Rewrite the graph, bind the rules, compile nothing yet."""
        checks.choice("unsupported", self.unsupported, ("error", "gradient"))
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
        self.mappings()
        table = Rules(*self._mappings).before(self.table())
        self.approximated_: tuple[str, ...] = ()
        if self.unsupported == "gradient":
            missing = [n.name for n in self.graph_.nodes if table.match(n, self.graph_) is None]
            self.approximated_ = tuple(missing)
            if missing:
                message = f"Plain gradient through nodes without a rule: {', '.join(missing)}."
                warnings.warn(message, ApproximationWarning, stacklevel=6)
            table = Rules(*table.rows, *GRADIENT_RULES.rows)
        self.rules_ = table.bind(self.graph_, self.hint)
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

    # --- running -------------------------------------------------------------------------------------------------

    def layer_names(self) -> tuple[str, ...]:
        """Layers whose output still exists as a slot."""
        slots = {s for n in self.graph_.nodes for s in n.outputs}
        return tuple(name for name, slot in self.graph_.layer_slots.items() if slot in slots)

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """One call of the compiled walk."""
        if not self._checked:
            self._check_forward([x[:1] for x in xs])
        run = self.compiled(self._walk_arrays, options)
        return tree.map_structure(np.asarray, run(*xs, index))

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

    def _walk_arrays(
        self, xs: list[Tensor], index: Tensor, mode: Any, layers: Sequence[str], trace: bool
    ) -> dict[str, Any]:
        found = self.walk(xs, index, mode, layers, trace)
        found["attributions"] = [self.finish(a, x) for a, x in zip(found["attributions"], xs, strict=True)]
        return found

    def walk(
        self, xs: Sequence[Tensor], index: Tensor, mode: Any, layers: Sequence[str] = (), trace: bool = False
    ) -> dict[str, Any]:
        """The differentiable core: forward and backward walk on tensors."""
        graph = self.graph_
        env = walk.forward(graph, xs)
        y = widen(env.slots[graph.outputs[0]])
        weights, score, target = select(y, index, mode)
        sums: dict[str, Tensor] = {}
        frontier = _Frontier(graph, score, sums) if trace else None
        seeds = {graph.outputs[0]: self.seed_relevance(y, weights)}
        relevance = walk.backward(graph, env, seeds, self.rules_, frontier)
        zeros = [ops.zeros_like(widen(ops.cast(x, "float32") if not x.dtype.is_floating else x)) for x in xs]
        found: dict[str, Any] = {
            "attributions": [relevance.get(s, z) for s, z in zip(graph.inputs, zeros, strict=True)],
            "output": y,
            "target": target,
            "score": score,
        }
        if layers:
            found["layers"] = {
                name: relevance.get(slot, ops.zeros_like(widen(env.slots[slot])))
                for name in layers
                if (slot := graph.layer_slots[name]) is not None
            }
        if trace:
            found["conservation"] = sums
        return found

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """Name what was approximated."""
        return {**extras, "approximated": self.approximated_}

    def summary(self) -> str:
        """One line a node with the rule that it got."""
        table = Rules(*self._mappings).before(self.table())
        head = repr(self) + (f"; {', '.join(self.cut_)} cut" if self.cut_ else "; explains the model's output as it is")
        width = max((len(n.name) for n in self.graph_.nodes), default=0)
        lines = []
        for node, rule in zip(self.graph_.nodes, self.rules_, strict=True):
            row = table.match(node, self.graph_)
            label = row[2] if row is not None and len(row) > 2 else getattr(rule, "__name__", repr(rule))
            flag = " x>=0" if node.nonnegative and all(node.nonnegative) else ""
            lines.append(f"{node.index:4d}  {node.name:{width}s}  {op_key(node.op):22s}  {label}{flag}")
        return "\n".join([head, *lines])


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


class _Frontier:
    """Relevance that is still on its way, after each node, as a share of the explained score."""

    def __init__(self, graph: Graph, score: Tensor, sums: dict[str, Tensor]):
        self.score, self.sums = score, sums
        self.writer = {slot: n.index for slot, n in graph.producer().items()}

    def __call__(self, node: Node, relevance: dict[int, Tensor]) -> None:
        total = 0.0
        for slot, r in relevance.items():
            if self.writer.get(slot, -1) < node.index:
                total = total + ops.sum(ops.reshape(r, (ops.shape(r)[0], -1)), axis=1)
        self.sums[node.name] = numerics.safe_divide(total + ops.zeros_like(self.score), self.score)


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
