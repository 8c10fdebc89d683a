"""What a backward walk of DeepLIFT knows: every slot at x and at the reference, and what a multiplier is worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from keras import ops

from innv_ext.analyzers.deep_lift.reveal_cancel import At, Parts, total_parts
from innv_ext.backend import numerics
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.masking import mask_arguments
from innv_ext.backend.masks import alias, alike
from innv_ext.backend.numerics import floating, widen
from innv_ext.backend.walk import Env

Tensor = Any


_MIXES_AXES = frozenset("reshape transpose swapaxes moveaxis rearrange ravel repeat tile concatenate vstack".split())


def needs_rows(head: Graph, graph: Graph) -> bool:
    """Whether the reference needs a row for each sample.

    It does where masks or an integer input may take part, and where axes may move into the batch (frames, windows).
    """
    if any(op_key(n.op) in _MIXES_AXES for n in graph.nodes):
        return True
    sources = [n for n in graph.nodes if op_key(n.op) in ("Masking", "Embedding") or op_key(n.op).startswith("custom:")]
    tokens = bool(head.nodes) or not all(numerics.is_float(graph.specs[s].dtype) for s in graph.inputs)
    return tokens or bool(sources) or any(mask_arguments(n) for n in graph.nodes)


def spread(head: Graph, graph: Graph, bases: Sequence[Tensor], xs: Sequence[Tensor]) -> list[Tensor]:
    """Reference features with as many rows as those of x; integers that are no tokens are those of x."""
    tokens = {s for node in head.nodes for s in node.inputs}
    return [
        alike(x0, x) if floating(x) or slot in tokens else x
        for slot, x0, x in zip(graph.inputs, bases, xs, strict=True)
    ]


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
