"""DeepLIFT where x and the reference have different Keras masks: steps that only one of them masks are switched.

A node that reads masks is walked from (x0, mask of x0) to (x, mask of x) by way of all steps that either keeps. First
the steps that x alone keeps are switched on, one by one, value and mask together; then the values of all other steps
move, by the node's own rule; then the steps that the reference alone keeps are switched off. What the output changes at
a switch is the contribution of that step, so that the sum is that of y - y0. No point in between masks everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops, tree

from innv_ext.analyzers.deep_lift.reveal_cancel import At, Found, Parts, Total, reveal_rule
from innv_ext.backend import numerics
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.backend.masking import mask_inputs, reads_masks
from innv_ext.backend.masks import alias, mask_of, with_mask
from innv_ext.backend.numerics import floating, widen
from innv_ext.backend.walk import evaluated, live

Tensor = Any
Tensors = tuple[Tensor, ...]
Multipliers = Sequence[Tensor | None]


def bound(node: Node, graph: Graph, rule: Callable[..., Any], parts: bool) -> Any:
    """The rule of a node whose Rescale rule is ``rule``; with ``parts`` for RevealCancel."""
    if op_key(node.op) == "Masking":
        return Total(masking) if parts else masking
    if not reads_masks(node):
        return reveal_rule(node, graph, rule) if parts else rule
    switched = Switched(rule, mask_inputs(node))
    return MaskedOrNot(switched, reveal_rule(node, graph, rule)) if parts else switched


@dataclass(frozen=True)
class MaskedOrNot:
    """RevealCancel: differences as a whole where masks take part, else the parts of the node's own rule."""

    whole: Switched
    own: Any

    def split(self, at: At, ds: Found) -> Found:
        return self._chosen(at).split(at, ds)

    def multipliers(self, at: At, ds: Found, es: Found, rs: Sequence[Parts]) -> Found:
        return self._chosen(at).multipliers(at, ds, es, rs)

    def _chosen(self, at: At) -> Any:
        return Total(self.whole) if self.whole.points(at.xs, at.x0s) else self.own


def masking(node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
    """The layer Masking: r at steps that x or the reference keeps; where one masks them, all of r (y - y0)."""
    kept, kept0 = mask_of(ys[0]), mask_of(y0s[0])
    r = ops.where(ops.logical_or(kept, kept0)[..., None], rs[0], ops.zeros_like(rs[0]))
    amount = ops.sum(r * (widen(ys[0]) - widen(y0s[0])), axis=-1)
    return [carried(r, widen(xs[0]) - widen(x0s[0]), amount, ops.not_equal(kept, kept0))]


def carried(m: Tensor, d: Tensor, amount: Tensor, at: Tensor) -> Tensor:
    """Multipliers m of differences d (batch, steps ..., ...) that contribute ``amount`` at the steps where ``at``.

    What m d lacks goes to the components of the step in proportion to |m d|, or to d^2 where all of these are 0.
    """
    shape, rows = ops.shape(m), (*ops.shape(at), -1)
    m, d, amount = ops.cast(ops.reshape(m, rows), d.dtype), ops.reshape(d, rows), ops.cast(amount, d.dtype)
    own, squares = ops.abs(m * d), ops.square(d)
    missing = (amount - ops.sum(m * d, axis=-1))[..., None]
    sizes = ops.sum(own, axis=-1, keepdims=True)
    by_size = ops.divide_no_nan(ops.abs(m) * ops.sign(d), sizes)
    by_difference = ops.divide_no_nan(d, ops.sum(squares, axis=-1, keepdims=True))
    more = missing * ops.where(sizes > numerics.TINY, by_size, by_difference)
    return ops.reshape(ops.where(at[..., None], m + more, m), shape)


@dataclass(frozen=True, eq=False)
class Step:
    """The mask of one input of a node: at x, at the reference, and the position of the input that it is, if any."""

    of: int
    mask: Tensor
    mask0: Tensor
    place: int | None

    @property
    def on(self) -> Tensor:
        return ops.logical_and(self.mask, ops.logical_not(self.mask0))

    @property
    def off(self) -> Tensor:
        return ops.logical_and(self.mask0, ops.logical_not(self.mask))


@dataclass(frozen=True, eq=False)
class Switched:
    """``rule`` for a node that may read masks; ``places`` says which inputs are the masks of others."""

    rule: Callable[..., Multipliers]
    places: dict[int, int]

    def points(self, xs: Tensors, x0s: Tensors) -> list[Step]:
        """The masks at x and at the reference; none for nodes that no mask reaches."""
        found = []
        for i, x in enumerate(xs):
            place = self.places.get(i)
            mask, mask0 = (mask_of(ts[i]) if place is None else ts[place] for ts in (xs, x0s))
            if mask is None or mask0 is None or not floating(x):
                continue
            if tuple(mask.shape[1:]) == tuple(x.shape[1 : len(mask.shape)]):
                found.append(Step(i, ops.cast(mask, "bool"), ops.cast(mask0, "bool"), place))
        return found

    def __call__(self, node: Any, xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors) -> Multipliers:
        steps = self.points(xs, x0s)
        if not steps:
            return self.rule(node, xs, x0s, ys, y0s, rs)
        kept = [ops.logical_or(s.mask, s.mask0) for s in steps]
        start = _placed(x0s, xs, steps, [s.on for s in steps], kept)
        end = _placed(xs, x0s, steps, [s.off for s in steps], kept)
        bases = tree.flatten(node.call(*map(alias, start)))
        tops, pullback = evaluated(node, tuple(map(alias, end)))
        found = list(self.rule(live(node, pullback), tuple(map(alias, end)), tuple(start), tops, tuple(bases), rs))
        for step, amount in zip(steps, _switched(node, steps, xs, x0s, ys, y0s, rs), strict=True):
            m, i = found[step.of], step.of
            m = ops.zeros_like(widen(xs[i])) if m is None else m
            found[i] = carried(m, widen(xs[i]) - widen(x0s[i]), amount, ops.logical_or(step.on, step.off))
        return found


def _placed(
    xs: Tensors, others: Tensors, steps: Sequence[Step], where: Sequence[Tensor], masks: Sequence[Tensor]
) -> list[Tensor]:
    """The inputs xs, with those of ``others`` at the steps ``where``, and these masks."""
    found = [alias(x) for x in xs]
    for step, place, mask in zip(steps, where, masks, strict=True):
        x = xs[step.of]
        wide = ops.reshape(place, (*ops.shape(place), *(1 for _ in x.shape[len(place.shape) :])))
        value = ops.where(wide, others[step.of], x)
        found[step.of] = value if step.place is not None else with_mask(value, mask)
        if step.place is not None:
            found[step.place] = ops.cast(mask, xs[step.place].dtype)
    return found


def _switched(
    node: Any, steps: Sequence[Step], xs: Tensors, x0s: Tensors, ys: Tensors, y0s: Tensors, rs: Tensors
) -> list[Tensor]:
    """What each step contributes that one side masks: r times the change of the outputs, the mean over both orders.

    From the reference on steps are switched on, from x on those of the reference; there are as many calls, each of four
    times the batch, as the sample with most such steps has, and none where the masks are equal.
    """

    def four(reference: Tensor, own: Tensor) -> Tensor:
        return ops.concatenate([reference, reference, own, own], axis=0)

    here = [alias(four(a, b)) for a, b in zip(x0s, xs, strict=True)]
    there = [four(b, a) for a, b in zip(x0s, xs, strict=True)]
    masks, flags = [four(s.mask0, s.mask) for s in steps], [four(s.on, s.off) for s in steps]
    befores, weights = [four(a, b) for a, b in zip(y0s, ys, strict=True)], [four(r, r) for r in rs]
    rows = ops.shape(flags[0])[0]
    flat = ops.concatenate([ops.reshape(f, (rows, -1)) for f in flags], axis=1)
    number = ops.cast(flat, "int32")
    forwards, backwards = ops.cumsum(number, axis=1), ops.flip(ops.cumsum(ops.flip(number, 1), axis=1), 1)
    (first, _, second, _), (_, third, _, fourth) = (ops.split(r, 4, axis=0) for r in (forwards, backwards))
    rank = ops.concatenate([first, third, second, fourth], axis=0)

    def switch(k: Tensor, state: list[Tensor]) -> list[Tensor]:
        value, changes = state
        on = _apart(ops.logical_and(flat, rank <= k + 1), flags)
        kept = [ops.logical_or(mask, now) for mask, now in zip(masks, on, strict=True)]
        found = zip(tree.flatten(node.call(*_placed(here, there, steps, on, kept))), befores, weights, strict=True)
        terms = [w * (widen(a) - widen(b)) for a, b, w in found if floating(b)]
        new = sum(ops.sum(ops.reshape(t, (rows, -1)), axis=1) for t in terms)
        now = ops.logical_and(flat, ops.equal(rank, k + 1))
        return [new, changes + ops.where(now, (new - value)[:, None], ops.zeros_like(changes))]

    none = ops.zeros_like(ops.cast(flat, widen(rs[0]).dtype))
    changes = ops.fori_loop(0, ops.max(ops.sum(number, axis=1)), switch, [none[:, 0], none])[1]
    gained, again, lost, once_more = ops.split(changes, 4, axis=0)
    return _apart((gained + again - lost - once_more) / 2, [s.mask for s in steps])


def _apart(flat: Tensor, flags: Sequence[Tensor]) -> list[Tensor]:
    """What was put side by side, in the shapes of the flags."""
    parts, first = [], 0
    for flag in flags:
        last = first + ops.shape(ops.reshape(flag, (ops.shape(flag)[0], -1)))[1]
        parts.append(ops.reshape(flat[:, first:last], ops.shape(flag)))
        first = last
    return parts
