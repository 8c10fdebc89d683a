"""Moments through a graph: one rule per node, and one step after the other through the loops of recurrent layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras import ops, tree

from innv_ext.analyzers.moments.values import Moments, as_moments, per_direction
from innv_ext.backend import numerics, traits, walk
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.kinds import SHAPE_ONLY
from innv_ext.backend.loops import Loop, ThroughLoop, per_row, swapped, wide
from innv_ext.backend.rules import Rules
from innv_ext.errors import UnsupportedModelError

Tensor = Any
Values = tuple[Any, ...]


def bind(graph: Graph, table: Rules, moving: Sequence[int] | None = None) -> tuple[Any, ...]:
    """One moment rule per node.

    Parameters
    ----------
    moving : positions of the inputs that are random; by default all that hold floats

    Raises
    ------
    NoRuleError
        names the nodes without a rule, and the ways out
    """
    hint = (
        "Ways out: distortion='monte_carlo' needs no moment rules; or teach the node with moment_rules="
        "Rules((named('layer'), rule)), rule(node, values) -> [Moments(mean, var)]."
    )
    reached = functools.cache(lambda part: _reached(part, moving if part is graph else None))
    unreached = Rules((lambda node, graph: not reached(graph).intersection(node.inputs), evaluated, "not random"))
    return _through_loops(table.before(unreached).bind(graph, hint, "moment rule"))


def _reached(graph: Graph, moving: Sequence[int] | None) -> set[int]:
    """The slots that are random."""
    given = graph.inputs if moving is None else [graph.inputs[i] for i in moving]
    reached = {slot for slot in given if numerics.is_float(graph.specs[slot].dtype)}
    for node in graph.nodes:
        if reached.intersection(node.inputs) and traits.activation_key(node) not in SHAPE_ONLY:
            reached.update(node.outputs)
    return reached


def _through_loops(rules: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(StepMoments(_through_loops(r.rules)) if isinstance(r, ThroughLoop) else r for r in rules)


def check_loops(graph: Graph) -> None:
    """Refuse loops where all covariances are kept: every node of every step would add directions.

    Raises
    ------
    UnsupportedModelError
        names the first of them
    """
    for node in graph.nodes:
        if isinstance(node.call, Loop):
            raise _no_full(node)


def _no_full(node: Node) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"reference='full' keeps all covariances, but their number would grow with every step of {node.name!r} "
        f"({op_key(node.op)}). Use reference='gaussian' or 'low_rank', or distortion='monte_carlo'."
    )


def evaluated(node: Node, values: Values) -> Sequence[Any]:
    """A node that nothing random reaches."""
    return tree.flatten(node.call(*values))


def outputs(rules: Sequence[Any], node: Node, values: Values) -> Sequence[Any]:
    """What a node makes of ``values``, by its rule; where nothing random arrives it is evaluated.

    Moments are kept in single or double precision, whatever a layer computes in.
    """
    found = (rules[node.index] if any(isinstance(v, Moments) for v in values) else evaluated)(node, values)
    return [_widened(y) if isinstance(y, Moments) else y for y in found]


def _widened(x: Moments) -> Moments:
    factors = {k: numerics.widen(f) for k, f in x.factors.items()}
    return replace(x, mean=numerics.widen(x.mean), var=numerics.widen(x.var), factors=factors)


def propagate(graph: Graph, rules: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """The moments of the graph's first output."""
    return _slots(graph, rules, inputs)[graph.outputs[0]]


def _slots(graph: Graph, rules: Sequence[Any], inputs: Sequence[Any]) -> dict[int, Any]:
    return walk.forward(graph, inputs, [functools.partial(outputs, rules)] * len(graph.nodes)).slots


@dataclass(frozen=True, eq=False)
class StepMoments(ThroughLoop):
    """The moments of all steps of a loop, one after the other; ``rules`` are those of the nodes of one step.

    In "diagonal" mode the values of a step count as independent of one another, as they do behind any layer; with
    directions, what the steps have in common through these is kept. Masked steps keep the moments of the states.
    """

    def __call__(self, node: Node, values: Values) -> Sequence[Moments]:
        loop: Loop = node.call
        x, states, mask = _parts(loop, values)
        if any(s.full for s in (x, *states)):
            raise _no_full(node)
        body, count, labels = loop.at_hand(), len(states), tuple(x.factors)
        held = [Moments(h, ops.zeros_like(h)) for h in loop.held(x.mean, mask)]

        def flat(values: Sequence[Moments]) -> list[Tensor]:
            return [t for v in values for t in (v.mean, v.var, *(v.factors[k] for k in labels))]

        def unflat(tensors: Sequence[Tensor]) -> list[Moments]:
            parts = (tensors[i : i + 2 + len(labels)] for i in range(0, len(tensors), 2 + len(labels)))
            return [Moments(mean, var, dict(zip(labels, factors, strict=True))) for mean, var, *factors in parts]

        def step(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            old, (x_t,) = unflat(before), unflat(now[: 2 + len(labels)])
            slots = _slots(body, self.rules, [x_t, *old[:count]])
            new = [_filled(as_moments(slots[s]), x_t.factors) for s in body.outputs]
            if mask is not None:
                first = old[count:] or [_filled(as_moments(ops.zeros_like(new[0].mean)), x_t.factors)]
                pairs = zip(flat(new), flat([*first, *old[:count]]), strict=True)
                new = unflat([ops.where(per_row(now[-1], a), a, b) for a, b in pairs])
            return flat([*new[1:], *(new[:1] if held else [])]), flat(new)

        fed = [swapped(x.mean), swapped(x.var), *(ops.moveaxis(f, 2, 0) for f in x.factors.values())]
        kinds = []
        for shape, dtype in (wide(body.specs[s]) for s in body.outputs):
            along = (shape[0], None, *shape[1:])
            kinds.extend([(shape, dtype)] * 2 + [(along, dtype)] * len(labels))
        start = flat([*states, *(_filled(h, {k: f[:, :, 0] for k, f in x.factors.items()}) for h in held)])
        _, ys = numerics.scan(step, start, [*fed, *([] if mask is None else [swapped(mask)])], kinds)
        return [
            Moments(swapped(y.mean), swapped(y.var), {k: ops.moveaxis(f, 0, 2) for k, f in y.factors.items()})
            for y in unflat(ys)
        ]


def _parts(loop: Loop, values: Values) -> tuple[Moments, list[Moments], Tensor | None]:
    """x, the initial states and the mask; x and the states have the same directions."""
    given = [as_moments(v) for v in values]
    x, states, mask = loop.parts([v.mean for v in given])
    own = given[1 : 1 + len(states)] if loop.initial is None else map(as_moments, states)
    own = [given[0], *own]
    like = {k: f for v in reversed(own) for k, f in v.factors.items()}
    found = [
        _filled(v.mapped(lambda t, y=y: ops.cast(t, y.dtype)), like) for v, y in zip(own, [x, *states], strict=True)
    ]
    return found[0], found[1:], mask


def _filled(x: Moments, like: dict[int, Tensor]) -> Moments:
    """x with all directions of ``like``, in their order; those that it has not are zero."""
    nothing = ops.zeros_like(x.mean)
    factors = {k: x.factors[k] if k in x.factors else per_direction(nothing, f) for k, f in like.items()}
    return Moments(x.mean, x.var, factors, x.full)
