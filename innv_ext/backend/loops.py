"""Loops over the steps of a recurrent layer: one node, whose call holds the graph of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras import ops

from innv_ext.backend import numerics, walk
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Graph, Node, Spec, run
from innv_ext.backend.masks import mask_of, with_mask
from innv_ext.backend.numerics import widen

Tensor = Any
Tensors = Sequence[Tensor]
RulesAt = Callable[[walk.Env, Tensors], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Loop:
    """The steps of a recurrent layer: (x, initial states, mask) -> (outputs, states), both of every step.

    x is (batch, steps, ...), and so are the outputs and each of the states; the mask is (batch, steps). A step that is
    masked keeps the states, and puts out what the step before it did, or zeros. Half precision is computed in float32.

    Attributes
    ----------
    layer : the recurrent layer
    body : graph of one step, (x_t, states before it) -> (output_t, states behind it)
    initial : ``(samples) -> states`` where these are no inputs of the node, else None
    masked : whether the last input of the node is the mask; else it is that of x, if x has one
    zeros : whether masked steps put out zeros; they do before the first step that counts in any case
    backwards : whether the steps of x were turned around
    from_zeros : whether states that are no inputs are zeros
    """

    layer: Any
    body: Graph
    initial: Callable[[Any], Tensors] | None
    masked: bool
    zeros: bool
    backwards: bool
    from_zeros: bool = False

    has_rule = True  # which is ``ThroughLoop``: nobody needs its pullback

    def __call__(self, *xs: Tensor) -> list[Tensor]:
        x, states, mask = self.parts(xs)
        body, outputs = self.at_hand(), self.body.outputs
        slots = outputs if mask is not None else tuple(dict.fromkeys(outputs))  # an output often is a state, too
        held = self.held(x, mask)

        def step(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            values = run(body.nodes, dict(zip(body.inputs, (now[0], *before[: len(states)]), strict=True)))
            if mask is None:
                return [values[s] for s in outputs[1:]], [values[s] for s in slots]
            new = [widen(values[s]) for s in outputs]
            old = [*(before[len(states) :] or [ops.zeros_like(new[0])]), *before[: len(states)]]
            new = [ops.where(per_row(now[1], a), a, b) for a, b in zip(new, old, strict=True)]
            return [*new[1:], *(new[:1] if held else [])], new

        fed = [swapped(x)] if mask is None else [swapped(x), swapped(mask)]
        kinds = [wide(self.body.specs[s]) for s in slots]
        _, found = numerics.scan(step, [*states, *held], fed, kinds)
        if mask is None:
            by_slot = dict(zip(slots, map(swapped, found), strict=True))
            return [by_slot[s] for s in outputs]
        ys = [swapped(y) for y in found]
        if getattr(self.layer, "supports_masking", False):
            with_mask(ys[0], ops.flip(mask, axis=1) if self.backwards else mask)
        return ys

    def backward(
        self, xs: Tensors, ys: Tensors, rs: Tensors, rules: Sequence[Any] | RulesAt, along: Tensors = ()
    ) -> list[Tensor | None]:
        """The relevance of the inputs from that of the outputs, by a walk through every step from the last.

        What is inside a step is computed anew from x and the states before it. A masked step leaves the relevance of
        the states as it is; that of its output goes to the step that it repeats, or is lost if it puts out zeros.

        Parameters
        ----------
        rules : one rule per node of ``body``, or what gives them for the values of a step
        along : more tensors (..., steps, ...) with the second axis along the steps, for ``rules(env, along_t)``
        """
        x, states, mask = self.parts(xs)
        body, count = self.at_hand(), len(states)
        held = [widen(h) for h in self.held(x, mask)]
        told = [*self.states_before(xs, ys), *rs, x, *along, *([] if mask is None else [mask])]

        def step(later: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            old, found, x_t, *more = now[:count], now[count : 2 * count + 1], *now[2 * count + 1 :]
            arriving = [a + b for a, b in zip(found, [*(later[count:] or [0.0]), *later[:count]], strict=True)]
            walked, passed = arriving, []
            if mask is not None:
                counts = [per_row(more[-1], r) for r in arriving]
                nothing = [ops.zeros_like(r) for r in arriving]
                walked = [ops.where(c, r, z) for c, r, z in zip(counts, arriving, nothing, strict=True)]
                passed = [ops.where(c, z, r) for c, r, z in zip(counts, arriving, nothing, strict=True)]
            env = walk.forward(body, [x_t, *old])
            seeds: dict[int, Tensor] = {}
            for slot, r in zip(body.outputs, walked, strict=True):
                seeds[slot] = seeds[slot] + r if slot in seeds else r
            bound = rules(env, more[: len(along)]) if callable(rules) else rules
            relevance = walk.backward(body, env, seeds, bound)
            r_x, *r_states = (
                relevance.get(s, ops.zeros_like(widen(v))) for s, v in zip(body.inputs, [x_t, *old], strict=True)
            )
            if mask is not None:
                r_x = ops.where(per_row(more[-1], r_x), r_x, ops.zeros_like(r_x))
                r_states = [
                    ops.where(per_row(more[-1], r), r, p) for r, p in zip(r_states, passed[1:], strict=True)
                ]
            return [*r_states, *(passed[:1] if held else [])], [r_x]

        start = [ops.zeros_like(s, dtype=r.dtype) for s, r in zip(states, rs[1:], strict=True)]
        kind = wide(self.body.specs[self.body.inputs[0]])
        r_states, (r_x,) = numerics.scan(step, [*start, *held], list(map(swapped, told)), [kind], backwards=True)
        given = [] if self.initial is not None else r_states[:count]
        found = [ops.cast(r, widen(x).dtype) for r, x in zip([swapped(r_x), *given], xs, strict=False)]
        return [*found, *([None] if self.masked else [])]

    def states_before(self, xs: Tensors, ys: Tensors) -> list[Tensor]:
        """Each of the states in front of every step, (batch, steps, ...)."""
        states = self.parts(xs)[1]
        pairs = zip(states, ys[1:], strict=True)
        return [ops.concatenate([s[:, None], ops.cast(y[:, :-1], s.dtype)], axis=1) for s, y in pairs]

    def inside(self, graph: Graph, node: Node) -> Graph:
        """``body``, with the graph and the node that it belongs to."""
        return replace(self.body, within=(graph, node))

    def parts(self, xs: Tensors) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """x, the initial states and the mask, if there is one."""
        specs = [self.body.specs[s] for s in self.body.inputs]
        x = ops.cast(xs[0], specs[0].dtype)
        given = xs[1 : len(specs)] if self.initial is None else self.initial(ops.shape(x)[0])
        states = [ops.cast(s, spec.dtype) for s, spec in zip(given, specs[1:], strict=True)]
        mask = xs[-1] if self.masked else mask_of(xs[0])
        return x, states, None if mask is None else ops.cast(mask, "bool")

    def held(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Zeros like an output, where masked steps repeat the one before them."""
        if mask is None or self.zeros:
            return []
        shape, dtype = wide(self.body.specs[self.body.outputs[0]])
        return [ops.zeros((ops.shape(x)[0], *shape[1:]), dtype=dtype)]

    def at_hand(self) -> Graph:
        """The body with the weights read here and now, outside of the loop."""
        nodes = []
        for node in self.body.nodes:
            if isinstance(node.call, Affine):
                kernel = node.call.kernel()
                node = replace(node, call=replace(node.call, kernel=lambda kernel=kernel: kernel))
            nodes.append(node)
        return replace(self.body, nodes=tuple(nodes))


@dataclass(frozen=True, eq=False)
class ThroughLoop:
    """The rule of a loop: the rules of the nodes of one step, in a walk through all steps."""

    rules: tuple[Any, ...]

    def __call__(self, node: Any, xs: Tensors, ys: Tensors, rs: Tensors) -> list[Tensor | None]:
        return node.call.backward(xs, ys, rs, self.rules)


def everywhere(graph: Graph) -> Iterator[tuple[Node, Graph]]:
    """All nodes, each with the graph that it is in; those of one step behind the node of the loop."""
    for node in graph.nodes:
        yield node, graph
        if isinstance(node.call, Loop):
            yield from everywhere(node.call.inside(graph, node))


def swapped(x: Tensor) -> Tensor:
    """The first two axes, of samples and of steps, the other way around."""
    return ops.swapaxes(x, 0, 1)


def per_row(mask: Tensor, x: Tensor) -> Tensor:
    """One value per sample, to broadcast against x."""
    return ops.reshape(mask, (-1, *(1 for _ in x.shape[1:])))


def wide(spec: Spec) -> tuple[tuple[int | None, ...], str]:
    """The shape of a slot, and the dtype in which a loop computes it."""
    return spec.shape, numerics.wide_dtype(spec.dtype)
