"""The two walks over a graph: forward (values) and backward (relevance, or gradients)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from keras import ops, tree

from innv_ext.backend import numerics
from innv_ext.backend.again import Again
from innv_ext.backend.graph import Graph, Node, op_key, run
from innv_ext.backend.masks import alias
from innv_ext.errors import InvalidInputError

Tensor = Any
ReverseRule = Callable[[Node, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]], Sequence[Tensor | None]]
ForwardRule = Callable[[Node, tuple[Any, ...]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class LiveNode(Node):
    """A node during a walk: ``pullback(*rs)`` is the vjp of this very call, so the forward pass is shared."""

    pullback: Callable[..., tuple[Tensor | None, ...]] = lambda *rs: ()


@dataclass(frozen=True, eq=False)
class Env:
    """The values of a forward walk: per slot, and per node its own inputs and outputs."""

    slots: dict[int, Any]
    nodes: tuple[LiveNode, ...] = ()
    xs: tuple[tuple[Any, ...], ...] = ()
    ys: tuple[tuple[Any, ...], ...] = ()


def live(node: Node, pullback: Callable[..., tuple[Tensor | None, ...]]) -> LiveNode:
    """``node`` with its pullback."""
    return LiveNode(**{f.name: getattr(node, f.name) for f in fields(Node)}, pullback=pullback)


def forward(graph: Graph, inputs: Sequence[Any], rules: Sequence[ForwardRule] | None = None) -> Env:
    """Run the graph.

    Parameters
    ----------
    inputs : one tensor per ``graph.inputs``
    rules : one forward rule per node (``Rules.bind``), for values that are not tensors; by default every node is
        evaluated and its pullback kept for ``backward``
    """
    slots = dict(zip(graph.inputs, inputs, strict=True))
    nodes, all_xs, all_ys = [], [], []
    for node in graph.nodes:
        if rules is not None:
            xs = tuple(slots[s] for s in node.inputs)
            ys = tuple(rules[node.index](node, xs))
        else:
            xs = tuple(alias(slots[s]) for s in node.inputs)
            ys, pullback = evaluated(node, xs)
            nodes.append(live(node, pullback))
        slots.update(zip(node.outputs, ys, strict=True))
        all_xs.append(xs)
        all_ys.append(ys)
    return Env(slots, tuple(nodes), tuple(all_xs), tuple(all_ys))


def evaluated(node: Node, xs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Callable[..., Any]]:
    """Outputs and pullback of a node; that of a loop, which takes long to derive, only when it is asked for."""
    if getattr(node.call, "has_rule", False):

        def pullback(*rs: Tensor | None) -> tuple[Tensor | None, ...]:
            return numerics.vjp(node.call, *xs)[1](*rs)

        return tuple(tree.flatten(node.call(*xs))), pullback
    return numerics.vjp(node.call, *xs)


def evaluate(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The graph's outputs, without keeping anything: run eagerly, values are dropped behind their last use."""
    slots, last = dict(zip(graph.inputs, inputs, strict=True)), {s: n.index for n in graph.nodes for s in n.inputs}
    for node in graph.nodes:
        slots.update(run([node], {s: slots[s] for s in node.inputs}))
        for slot in {*node.inputs} - {*graph.outputs}:
            if last[slot] == node.index:
                del slots[slot]
    return [slots[s] for s in graph.outputs]


def backward(
    graph: Graph,
    env: Env,
    seeds: dict[int, Tensor],
    rules: Sequence[ReverseRule],
    after_node: Callable[[Node, dict[int, Tensor]], None] | None = None,
    again: frozenset[int] = frozenset(),
) -> dict[int, Tensor]:
    """Walk from the seeds to the inputs, one rule per node; returns the relevance of every slot that got any.

    ``after_node(node, relevance)`` is called after each node, for traces; rules see values of the slots ``again`` that
    are computed a second time, so that nobody keeps them.
    """
    relevance, anew = dict(seeds), Again(again, graph, env.xs)
    for live_node, xs, ys in zip(reversed(env.nodes), reversed(env.xs), reversed(env.ys), strict=True):
        found = [relevance.get(s) for s in live_node.outputs]
        if all(r is None for r in found):
            continue
        rs = tuple(ops.zeros_like(numerics.widen(y)) if r is None else r for r, y in zip(found, ys, strict=True))
        xs, ys = anew.values(live_node.inputs, xs, rs[0]), anew.values(live_node.outputs, ys, rs[0])
        rule = rules[live_node.index]
        given = _checked(rule(live_node, xs, ys, rs), live_node, rule, xs)
        for slot, r in zip(live_node.inputs, given, strict=True):
            if r is not None:
                relevance[slot] = relevance[slot] + r if slot in relevance else r
        if after_node is not None:
            after_node(live_node, relevance)
    return relevance


def _checked(found: Any, node: Node, rule: ReverseRule, xs: Sequence[Any]) -> Sequence[Tensor | None]:
    """What a rule returned; raises unless it is one relevance per input. Shapes are static: this costs no time."""
    fault = ""
    if not isinstance(found, (list, tuple)):
        fault = f"returned {'a bare tensor' if hasattr(found, 'shape') else repr(found)}"
    elif len(found) != len(xs):
        fault = f"returned {len(found)} values"
    else:
        for i, (r, x) in enumerate(zip(found, xs, strict=True)):
            shape = () if isinstance(r, (int, float)) else getattr(r, "shape", None)
            if shape is not None and not _alike(tuple(shape), tuple(x.shape)):
                fault = f"returned relevance of shape {tuple(shape)} for input {i}, which has {tuple(x.shape)}"
    if not fault:
        return found
    name = getattr(rule, "__name__", repr(rule))
    raise InvalidInputError(
        f"Rule {name} {fault} at node {node.name!r} ({op_key(node.op)}); a rule returns a list with one relevance per "
        f"input, of the input's shape, or None for inputs that get nothing. This node has {len(xs)} inputs."
    )


def _alike(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> bool:
    return len(a) == len(b) and all(m is None or n is None or m == n for m, n in zip(a, b, strict=True))
