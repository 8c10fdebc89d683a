"""What a backward walk of DeepLIFT knows: every slot at x and at the reference, and what a multiplier is worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from keras import ops, tree

from innv_ext.analyzers.deep_lift.reveal_cancel import At, Parts, total_parts
from innv_ext.backend import numerics
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.masks import alias, keep_mask
from innv_ext.backend.numerics import widen
from innv_ext.backend.walk import Env

Tensor = Any


def masks_samples(head: Graph, graph: Graph) -> bool:
    """Whether a mask of x, or an integer input, may take part at the reference: then it needs a row for each sample."""
    sources = [n for n in graph.nodes if op_key(n.op) in ("Masking", "Embedding") or op_key(n.op).startswith("custom:")]
    tokens = bool(head.nodes) or not all(numerics.is_float(graph.specs[s].dtype) for s in graph.inputs)
    return tokens or bool(sources) or any(_mask_arguments(n) for n in graph.nodes)


def at_reference(graph: Graph, env: Env, bases: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every slot at the reference; integer inputs and masks are those of x."""
    slots = dict(zip(graph.inputs, bases, strict=True))
    for node in env.nodes:
        masks = _mask_arguments(node)
        x0s = [
            env.slots[s] if i in masks else keep_mask(env.slots[s], alias(slots[s])) for i, s in enumerate(node.inputs)
        ]
        if op_key(node.op) == "Masking":  # zeroes masked steps: linear, once the mask is that of x
            ys: Sequence[Tensor] = [ops.cast(node.pullback(x0s[0])[0], x0s[0].dtype)]
        else:
            ys = tree.flatten(node.call(*x0s))
        slots.update(zip(node.outputs, ys, strict=True))
    return slots


def _mask_arguments(node: Node) -> set[int]:
    """Positions of the inputs that were passed as ``mask=``, ``attention_mask=`` ..."""
    named = node.call.kwargs if isinstance(node.call, Call) else {}
    return {a.index for name in named if "mask" in name for a in tree.flatten(named[name]) if isinstance(a, Arg)}


class Differences:
    """One multiplier per value: the Rescale rule.

    Attributes
    ----------
    rules : one rule per node for ``walk.backward``
    """

    def __init__(self, env: Env, slots0: dict[int, Tensor], rules: Sequence[Any]):
        self.env, self.slots0 = env, slots0
        self.rules = [partial(self.multipliers, rule) for rule in rules]

    def seed(self, weights: Tensor) -> Any:
        """What enters at the output."""
        return weights

    def multipliers(self, rule: Any, node: Any, xs: Any, ys: Any, rs: Any) -> Any:
        """What a rule gives to the inputs of its node."""
        at = self._at(node)
        return rule(node, at.xs, at.x0s, at.ys, at.y0s, rs)

    def contribution(self, slot: int, m: Any) -> Tensor:
        """m (x - x0)."""
        return m * (widen(self.env.slots[slot]) - widen(self.slots0[slot]))

    def left(self, graph: Graph, total: Tensor, sums: dict[str, Tensor], node: Node, found: dict[int, Any]) -> None:
        """Add to ``sums`` what is still to be walked after a node, as a share of the total difference."""
        writer = {slot: n.index for slot, n in graph.producer().items()}
        shares = [self.contribution(s, m) for s, m in found.items() if writer.get(s, -1) < node.index]
        rest = sum((ops.sum(ops.reshape(c, (ops.shape(c)[0], -1)), axis=1) for c in shares), ops.zeros_like(total))
        sums[node.name] = numerics.safe_divide(rest, total)

    def _at(self, node: Any) -> At:
        """The node with its values; layers may have taken the masks off the tensors that they were called with."""
        xs, x0s = ([alias(slots[s]) for s in node.inputs] for slots in (self.env.slots, self.slots0))
        ys, y0s = ([slots[s] for s in node.outputs] for slots in (self.env.slots, self.slots0))
        return At(node, tuple(xs), tuple(x0s), tuple(ys), tuple(y0s))


class PartedDifferences(Differences):
    """A multiplier for the positive and one for the negative part of each difference: RevealCancel."""

    def __init__(self, env: Env, slots0: dict[int, Tensor], rules: Sequence[Any], inputs: Sequence[int]):
        super().__init__(env, slots0, rules)
        values = ([slots[s] for s in inputs] for slots in (env.slots, slots0))
        self.parts = dict(zip(inputs, total_parts(*values), strict=True))
        for node, rule in zip(env.nodes, rules, strict=True):
            found = rule.split(self._at(node), [self.parts[s] for s in node.inputs])
            self.parts.update(zip(node.outputs, found, strict=True))

    def seed(self, weights: Tensor) -> Parts:
        """The same for both parts of the output."""
        return Parts(weights, weights)

    def multipliers(self, rule: Any, node: Any, xs: Any, ys: Any, rs: Any) -> Any:
        """The multipliers of both parts; outputs that nothing came from have a plain zero."""
        ds, es = ([self.parts[s] for s in slots] for slots in (node.inputs, node.outputs))
        parts = [r if isinstance(r, Parts) else Parts(r, r) for r in rs]
        return rule.multipliers(self._at(node), ds, es, parts)

    def contribution(self, slot: int, m: Parts) -> Tensor:
        """m+ D+ and m- D-."""
        d = self.parts[slot]
        return m.plus * d.plus + m.minus * d.minus
