"""DeepLIFT through loops: the multipliers of one step after the other, from the last, by the rules of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from innv_ext.analyzers.deep_lift.differences import Differences
from innv_ext.analyzers.deep_lift.switching import bound
from innv_ext.backend.graph import Graph, run
from innv_ext.backend.loops import ThroughLoop
from innv_ext.backend.rules import Rules

Tensor = Any
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class StepByStep(ThroughLoop):
    """A loop at x and at the reference, which have the same mask; ``rules`` are those of DeepLIFT for one step.

    What goes through a step is its multipliers, so that nothing is lost however many steps there are.
    """

    def __call__(self, node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Any:
        loop = node.call

        def rules(env: Any, now: Sequence[Tensor]) -> Sequence[Any]:
            slots0 = run(env.nodes, dict(zip(loop.body.inputs, now, strict=True)))
            return Differences(env, slots0, self.rules).rules

        return loop.backward(xs, ys, rs, rules, [x0s[0], *loop.states_before(x0s, y0s)])


def bound_all(graph: Graph, rules: Sequence[Any], own: Rules) -> tuple[Any, ...]:
    """The Rescale rules of all nodes, with masks, and in loops; those that a user's table has stay as they are."""
    found = []
    for node, rule in zip(graph.nodes, rules, strict=True):
        if isinstance(rule, ThroughLoop):
            rule = StepByStep(bound_all(node.call.inside(graph, node), rule.rules, own))
        found.append(rule if own.match(node, graph) else bound(node, graph, rule, parts=False))
    return tuple(found)
