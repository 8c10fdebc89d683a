"""What of a graph is no signal though it is computed: masks that are inputs, and deviations that norms divide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from keras import tree

from innv_ext.backend import affine as affines
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Arg, Call, Graph, Node, is_arg
from innv_ext.backend.kinds import CONSTANT_ACTIVATION, FIRST, SHAPE_ONLY, TRUTH, Kind
from innv_ext.backend.masking import mask_arguments

_MASKS_ONLY = {
    Kind.SHAPE,
    Kind.IDENTITY,
    Kind.MAX,
    Kind.LINEAR,
    Kind.RESCALE,
    Kind.PRODUCT,
    Kind.SELECT,
    Kind.TOKENS,
}
_FAR = 1e3  # what closes scores is at least so far from them
_WAVES = frozenset({"sin", "cos"})  # of positions
_PLACES = frozenset({"take", "take_along_axis", "get_item"})  # one input says which values of the other are taken


# --- masks -----------------------------------------------------------------------------------------------------------


def masks(graph: Graph) -> set[int]:
    """The inputs of integers or truth values that only say what counts, or where it stands.

    They, and what sums, products and comparisons make of them alone, are compared, passed as masks or as places, or
    meet the signal of other inputs as masks do: as a factor of whole steps, far away in a sum, or as the condition of a
    choice. What closes steps may number those that are left besides, as ALiBi does, and positions may turn or shift the
    vectors of the signal by sines and cosines. No weights, look-ups or codes read them; a number that is added or
    multiplied as such is a signal.
    """
    users = graph.consumers()

    whole = {s for s in graph.inputs if graph.specs[s].dtype == "bool" or "int" in graph.specs[s].dtype}
    found = {s for s in whole if _only_counts(s, graph, _derived(graph, {s}), users, alone_only=True)}
    while found:
        derived = _derived(graph, found)
        left = {s for s in found if _only_counts(s, graph, derived, users)}
        if left == found:
            break
        found = left
    floats = {s for s in graph.inputs if numerics.is_float(graph.specs[s].dtype)}
    return found | {s for s in floats if _only_compared(s, graph, users)}


def _only_compared(slot: int, graph: Graph, users: dict[int, list[Node]]) -> bool:
    stack, seen = [slot], {slot}
    while stack:
        for node in users[s := stack.pop()]:
            moves, key = node.kind is Kind.SHAPE, traits.activation_key(node)
            if not moves and (key not in TRUTH or (key == "cast" and _is_any_float(node.outputs, graph))):
                return False
            more = [y for y in node.outputs if moves and y not in seen]
            seen.update(more)
            stack.extend(more)
        if s in graph.outputs:
            return False
    return bool(users[slot])


def _is_any_float(slots: Sequence[int], graph: Graph) -> bool:
    return any(numerics.is_float(graph.specs[s].dtype) for s in slots)


def read(node: Node) -> tuple[int, ...]:
    """The slots whose values a node reads, and not their sizes alone."""
    if not isinstance(node.call, Call):
        return node.inputs
    used = {a.index for a in tree.flatten((node.call.args, node.call.kwargs)) if isinstance(a, Arg)}
    return tuple(slot for i, slot in enumerate(node.inputs) if i in used)


def _derived(graph: Graph, slots: set[int]) -> set[int]:
    """The slots that depend on these inputs alone, and those that depend on sizes alone."""
    found = set(slots)
    for node in graph.nodes:
        sizes = traits.activation_key(node) in SHAPE_ONLY
        if sizes or (read(node) and found.issuperset(read(node))):
            found.update(node.outputs)
    return found


def _only_counts(
    slot: int, graph: Graph, derived: set[int], users: dict[int, list[Node]], alone_only: bool = False
) -> bool:
    stack, seen, closes, adds = [slot], {slot}, False, False
    while stack:
        s = stack.pop()
        if s in graph.outputs:
            return False
        for node in users[s]:
            if s not in (given := read(node)):
                continue
            alone, truth = derived.issuperset(given), not _is_any_float(node.outputs, graph)
            on = alone or (truth and node.kind is Kind.SHAPE)  # joined with other masks
            if on and _keeps_masks(node):
                more = [y for y in node.outputs if y not in seen]
                seen.update(more)
                stack.extend(more)
            elif on:
                return False
            elif alone_only or _takes_mask(node, s, graph):
                closes = True
            elif _adds_positions(node, s, graph):
                adds = True
            else:
                return False
    return closes or not adds


def _keeps_masks(node: Node) -> bool:
    key = traits.activation_key(node)
    kept = TRUTH | SHAPE_ONLY | FIRST | CONSTANT_ACTIVATION | _WAVES | {"clip"}
    return node.kind in _MASKS_ONLY or key in kept or traits.is_outer(node)


def _takes_mask(node: Node, slot: int, graph: Graph) -> bool:
    places = {i for i, s in enumerate(node.inputs) if s == slot}
    truth, key = not _is_any_float(node.outputs, graph), traits.activation_key(node)
    if places <= mask_arguments(node) or (truth and key in TRUTH) or key in SHAPE_ONLY:
        return True
    if node.kind is Kind.OPAQUE:  # along which there is no derivative
        return graph.specs[slot].dtype == "bool"
    behind = graph.behind([slot])
    if any(traits.activation_key(n) in _WAVES for n in behind):
        joined = node.kind is Kind.LINEAR or (node.kind is Kind.PRODUCT and traits.factors(node) == "values")
        return joined and _number_of_step(node, behind, graph)
    if node.kind is Kind.PRODUCT:
        factor = traits.factors(node) == "values"
        spans = factor and _spans_steps(graph.specs[slot].shape, graph.specs[node.outputs[0]].shape)
        return spans or any(n.kind in (Kind.LINEAR, Kind.MAX) for n in behind)  # how many there are
    if node.kind is Kind.LINEAR:
        return any(map(_is_far, behind))
    if key == "where":
        return isinstance(node.call, Call) and is_arg(node.call.args[0], *places)
    return key in _PLACES and 0 not in places and not numerics.is_float(graph.specs[slot].dtype)


def _number_of_step(node: Node, behind: Sequence[Node], graph: Graph) -> bool:
    """Whether what a node takes comes of one number for each vector of its signal, not for each component."""
    origins = {s for n in behind for s in n.inputs}.intersection(graph.inputs)
    return all(len(graph.specs[s].shape) < len(graph.specs[node.outputs[0]].shape) for s in origins)


def _adds_positions(node: Node, slot: int, graph: Graph) -> bool:
    """Whether a sum takes the numbers of the steps that a mask leaves."""
    return node.kind is Kind.LINEAR and any(traits.activation_key(n) == "cumsum" for n in graph.behind([slot]))


def _spans_steps(mask: Sequence[int | None], signal: Sequence[int | None]) -> bool:
    """Whether a factor is the same for some axis of a product (channels, heads), but not for a whole sample."""
    own = [1] * (len(signal) - len(mask)) + list(mask)
    spread = [m == 1 != n for m, n in zip(own[1:], signal[1:], strict=True)]
    return any(spread) and not all(m == 1 for m in own[1:])


def _is_far(node: Node) -> bool:
    """Whether a node scales values, or chooses some, so that they are far away from scores."""
    if node.kind not in (Kind.RESCALE, Kind.SELECT) or not isinstance(node.call, Call):
        return False
    numbers = [v for v in tree.flatten((node.call.args, node.call.kwargs)) if not isinstance(v, (str, bool))]
    numbers = [v for v in numbers if isinstance(v, (int, float)) or affines.is_array(v)]
    return any(np.abs(np.asarray(v, "float64")).max(initial=0) >= _FAR for v in numbers)


# --- norms that are written in operations ----------------------------------------------------------------------------


@dataclass
class _Statistics:
    """Which slots are copies, squares ... of which; all by slots."""

    same: dict[int, int] = field(default_factory=dict)  # casts
    means: dict[int, int] = field(default_factory=dict)
    centred: dict[int, int] = field(default_factory=dict)  # x - mean(x)
    squares: dict[int, int] = field(default_factory=dict)
    variances: dict[int, int] = field(default_factory=dict)  # means or sums of squares, and what constants make of them
    deviations: dict[int, int] = field(default_factory=dict)  # roots of these
    inverses: dict[int, int] = field(default_factory=dict)

    def root(self, slot: int) -> int:
        return self.same.get(slot, slot)

    def note(self, node: Node) -> None:
        """Take a node into account."""
        if len(node.outputs) == 1 and isinstance(node.call, Call) and len(node.inputs) in (1, 2):
            (self.note_pair if len(node.inputs) == 2 else self.note_one)(node, traits.activation_key(node))

    def note_pair(self, node: Node, key: str) -> None:
        (x, other), y = node.inputs, node.outputs[0]
        if key in ("subtract", "Subtract") and self.means.get(other) == self.root(x):
            self.centred[y] = self.root(x)
        if key in ("multiply", "Multiply") and self.root(other) == self.root(x):
            self.squares[y] = self.root(x)

    def note_one(self, node: Node, key: str) -> None:
        x, y, kinds = node.inputs[0], node.outputs[0], (Kind.RESCALE, Kind.IDENTITY, Kind.SHAPE)
        if node.kind in kinds or key in CONSTANT_ACTIVATION - {"power"} | {"clip"}:
            for known in (self.means, self.variances, self.deviations, self.inverses):
                known.update({y: known[x]} if x in known else {})
        if node.kind is Kind.IDENTITY:
            self.same[y] = self.root(x)
        if key == "square" or (key == "power" and _exponent(node) == 2):
            self.squares[y] = self.root(x)
        if key == "mean":
            self.means[y] = self.root(x)
        if key in ("mean", "sum") and x in self.squares:
            self.variances[y] = self.squares[x]
        if key == "var":
            self.variances[y] = self.root(x)
        if key == "std" or (key == "sqrt" and x in self.variances):
            self.deviations[y] = self.variances.get(x, self.root(x))
        if x in self.variances and (key == "rsqrt" or (key == "power" and _exponent(node) == -0.5)):
            self.inverses[y] = self.variances[x]
        if x in self.deviations and (key == "reciprocal" or node.kind is Kind.OPAQUE):  # a constant over it
            self.inverses[y] = self.deviations[x]

    def divides(self, slot: int, other: int) -> bool:
        """Whether one factor is the inverse deviation of the other, or of what that is centred from."""
        source, value = self.inverses.get(slot), self.root(other)
        return source is not None and source in (value, self.centred.get(value))


def _exponent(node: Node) -> float | None:
    value = affines.constant_operand(node.call)
    number = value if isinstance(value, (int, float)) or (value is not None and not value.shape) else None
    return None if number is None or not is_arg(node.call.args[0], 0) else float(number)


def deviations() -> tuple[Callable[[Node], None], Callable[[Node], int | None]]:
    """(note, of): to be told all nodes in their order; which factor of a product is 1 over the deviation of the other.

    As in x * rsqrt(mean(x^2) + epsilon): a normalisation, whose deviation is no signal (Achtibat et al. 2024,
    proposition 3.4).
    """
    found = _Statistics()

    def of(node: Node) -> int | None:
        if len(node.inputs) != 2 or traits.factors(node) != "values":
            return None
        return next((i for i in (0, 1) if found.divides(node.inputs[i], node.inputs[1 - i])), None)

    return found.note, of


def is_told(call: Call) -> bool:
    """Whether an operation of two operands has one tensor and one constant, if only for each size."""
    flat = tree.flatten(call.args)
    return len(flat) == len(call.args) == 2 and sum(isinstance(a, Arg) for a in flat) == 1
