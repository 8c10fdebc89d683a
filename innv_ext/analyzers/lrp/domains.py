"""What can enter the affine nodes whose rules ask for it, in a graph and in the loops in it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.lrp import rules as r
from innv_ext.analyzers.lrp.conserving import Conserving, beside_padding
from innv_ext.backend import traits
from innv_ext.backend.domain import Bounds, Origin, origin
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.loops import ThroughLoop

Tensor = Any


class Domains:
    """The origins of what enters those nodes; ``at`` tells the rules."""

    def __init__(self, graph: Graph, rules: Sequence[Any]):
        self.graph, self.rules = graph, rules
        self.origins: dict[int, Origin] = {}
        self.loops: dict[int, tuple[Origin, Domains]] = {}
        self.bounded: list[tuple[r.Bounded, Node, Origin]] = []
        asks = [isinstance(rule, Conserving) or type(rule) in r.DOMAIN_RULES for rule in rules]
        for node, rule, asking in zip(graph.nodes, rules, asks, strict=True):
            own = rule.rule if isinstance(rule, Conserving) else rule
            if isinstance(rule, ThroughLoop):
                inner = Domains(node.call.inside(graph, node), rule.rules)
                if inner.asks:
                    self.loops[node.index] = origin(graph, node.inputs[0]), inner
            pool = rule is node_rules.winner_takes_all and traits.is_window(node)
            if not asking and not (pool and any(asks)):
                continue
            found = origin(graph, node.inputs[0])
            if isinstance(own, r.InputBounded) or found.filled or graph.within is not None:
                self.origins[node.index] = found
            if isinstance(own, r.Bounded):
                self.bounded.append((own, node, found))
        self.asks = any(asks) or bool(self.loops)

    @property
    def ends(self) -> tuple[Any, Any] | None:
        """The bounds of the model's input that some rule carries on, also in loops."""
        found = [own.ends for own, _, _ in self.bounded if isinstance(own, r.InputBounded)]
        found += [inner.ends for _, inner in self.loops.values() if inner.ends is not None]
        return found[0] if found else None

    def samples(self) -> Iterator[tuple[r.Bounded, tuple[int | None, ...]]]:
        """(rule, shape of a sample) for the bounds that are given with a rule."""
        inputs, specs = self.graph.inputs, self.graph.specs
        for own, node, found in self.bounded:
            carried = isinstance(own, r.InputBounded)
            for slot in [s for s in found.sources if s in inputs] if carried else node.inputs[:1]:
                yield own, specs[slot].shape[1:]
        for found, inner in self.loops.values():
            for own, shape in inner.samples():
                if not isinstance(own, r.InputBounded):
                    yield own, shape
            for own in [own for own, _, _ in inner.bounded if isinstance(own, r.InputBounded)]:
                yield from ((own, specs[s].shape[1:]) for s in found.sources if s in inputs)

    def at(
        self,
        slots: dict[int, Tensor],
        given: dict[int, Bounds] | None = None,
        known: dict[int, Tensor] | None = None,
    ) -> list[Any]:
        """The rules, for these values.

        Parameters
        ----------
        given : the bounds of inputs of the graph; by default all have those of the rule
        known : of which values of inputs are constants, see ``Domain.present``; by default none are
        """
        rules, known = list(self.rules), known or {}

        def bounds(found: Origin, ends: tuple[Any, Any]) -> Bounds:
            return found.bounds(slots, dict.fromkeys(self.graph.inputs, ends) if given is None else given)

        def present(found: Origin) -> Tensor | None:
            return found.present(slots, known) if found.filled or set(known).intersection(found.sources) else None

        for i, found in self.origins.items():
            own = getattr(rules[i], "rule", rules[i])
            within = bounds(found, own.ends) if isinstance(own, r.InputBounded) else None
            rule = beside_padding if rules[i] is node_rules.winner_takes_all else rules[i]
            rules[i] = functools.partial(rule, domain=r.Domain(present(found), within))
        for i, (found, inner) in self.loops.items():
            ends = inner.ends
            rules[i] = _through(inner, None if ends is None else bounds(found, ends), present(found))
        return rules


def _through(inner: Domains, bounds: Bounds | None, present: Tensor | None) -> Any:
    """The rule of a loop whose x has these bounds and constants."""
    x = inner.graph.inputs[0]
    along = [*(bounds or ()), *([] if present is None else [present])]

    def rules(env: Any, now: Sequence[Tensor]) -> list[Any]:
        given = {} if bounds is None else {x: (now[0], now[1])}
        return inner.at(env.slots, given, {} if present is None else {x: now[-1]})

    def through(node: Any, xs: Any, ys: Any, rs: Any) -> list[Tensor | None]:
        return node.call.backward(xs, ys, rs, rules, along)

    return through
