"""Analyzers that are one backward walk over the graph: a rule table and a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.core.program import GraphAnalyzer, select
from innv_ext.analyzers.core.tensor_map import TensorMap
from innv_ext.backend import numerics, walk
from innv_ext.backend.graph import Graph, Node, run
from innv_ext.backend.kinds import Kind
from innv_ext.backend.numerics import floating, widen
from innv_ext.backend.predicates import anything, general, hidden_relu, kind_is
from innv_ext.backend.rules import Rules
from innv_ext.errors import ApproximationWarning

Tensor = Any
TOKEN_RULES = (
    (kind_is(Kind.EMBEDDING), node_rules.embedding_gradient),
    (kind_is(Kind.TOKENS), node_rules.numbers, "rearrange"),
)
GRADIENT_RULES = Rules(*TOKEN_RULES, (anything, node_rules.gradient))


@general
def relus_in_sight(node: Node, graph: Graph) -> bool:
    """Every node that hides no ReLU."""
    return not hidden_relu(node, graph)


# of methods that treat ReLUs, or the neurons behind them, in a way of their own
RULES_BESIDE_RELUS = Rules(*TOKEN_RULES, (relus_in_sight, node_rules.gradient, "gradient"))
RELU_HINT = (
    "A ReLU inside of them would get the plain gradient. Ways out: write the layer with keras.ops, so that it can be "
    "opened; pass unsupported='gradient' if the plain gradient will do; or use 'gradient' or an LRP rule."
)


@dataclass(kw_only=True, eq=False, repr=False)
class ReverseAnalyzer(GraphAnalyzer):
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

    unsupported: str = arguments.one_of("error", "gradient")
    _mappings: list[tuple[Any, ...]] = field(default_factory=list, init=False)

    one_pass = True
    opens_loops = True
    again_ = frozenset[int]()  # slots whose values are computed again instead of kept
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

    def rules_at(self, env: walk.Env) -> Sequence[Any]:
        """One rule per node, for the values of a forward walk."""
        return self.rules_

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

    def bind(self) -> None:
        """One rule per node; nodes that no relevance reaches (denominators, gates, masks) need none."""
        self._mappings = []
        self.mappings()
        table = Rules(*self._mappings).before(self.table())
        self.approximated_: tuple[str, ...] = ()
        if self.unsupported == "gradient":
            missing = [n.name for n in table.missing(self.graph_)]
            self.approximated_ = tuple(missing)
            if missing:
                message = f"Plain gradient through nodes without a rule: {', '.join(missing)}."
                warnings.warn(message, ApproximationWarning, stacklevel=7)
            table = Rules(*table.rows, *GRADIENT_RULES.rows)
        self.rules_ = table.bind(self.graph_, self.hint, idle=node_rules.nothing)

    # --- running -------------------------------------------------------------------------------------------------

    def layer_names(self) -> tuple[str, ...]:
        """Layers whose output still exists as a slot."""
        slots = {s for n in self.graph_.nodes for s in n.outputs}
        return tuple(name for name, slot in self.graph_.layer_slots.items() if slot in slots)

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """One call of the compiled walk."""
        self.check_once(xs)
        run = self.compiled(self._walk_arrays, options)
        return tree.map_structure(np.asarray, run(*xs, index))

    def explain_layer(
        self, layer: str, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any
    ) -> dict[str, Any]:
        """What arrives at a layer, after the last step of the method (``finish``) with what the layer gives as x."""
        self.check_once(xs)
        walk_to = self.compiled(self._walk_to, {"mode": options["mode"], "layer": layer})
        return tree.map_structure(np.asarray, walk_to(*xs, index))

    def _walk_to(self, xs: list[Tensor], index: Tensor, mode: Any, layer: str) -> dict[str, Any]:
        found = self.walk(xs, index, mode, (layer,))
        relevance, slot = found.pop("layers")[layer], self.graph_.layer_slots[layer]
        values = run(self.graph_.nodes, dict(zip(self.graph_.inputs, xs, strict=True)))
        return {**found, "attributions": [self.finish(relevance, values[slot])]}

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
        relevance = walk.backward(graph, env, seeds, self.rules_at(env), frontier, self.again_)
        zeros = [ops.zeros_like(widen(ops.cast(x, "float32") if not floating(x) else x)) for x in xs]
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

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """The walk."""

        def part(xs: list[Tensor], target: Tensor, held: list[Tensor], points: list[Tensor]) -> list[Tensor]:
            return self.walk(xs, target, mode)["attributions"]

        def end(xs: list[Tensor], target: Tensor, held: list[Tensor], totals: list[Tensor]) -> list[Tensor]:
            return [self.finish(a, x) for a, x in zip(totals, xs, strict=True)]

        return TensorMap(part, end, [], lambda found: [])

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """Name what was approximated."""
        return {**extras, "approximated": self.approximated_}

    def summary(self) -> str:
        """One line a node with the rule that it got."""
        table = Rules(*self._mappings).before(self.table())
        return "\n".join([self.head(), *table.describe(self.graph_, self.rules_)])


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
