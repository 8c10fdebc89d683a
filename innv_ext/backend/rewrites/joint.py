"""Sums of affine maps in a recurrent cell, x W + h U + b, as one affine map of [x, h] with the kernel [W; U].

Rules of affine nodes share relevance among all that goes into a neuron; written as two products and a sum, each of the
two would have a denominator of its own. What is cut out of such a sum (the gates) becomes a sum of its own, and what is
added without weights (r * (h U) in a GRU) takes part with the weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext.backend import affine as affines
from innv_ext.backend import facts, traits
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Call, Graph, Node, Spec, op_key
from innv_ext.backend.kinds import Kind

Tensor = Any


@dataclass(frozen=True, eq=False)
class _Part:
    """A term of a sum: ``affine`` of a slot, or the slot itself."""

    slot: int
    affine: Affine | None

    def bias(self, x: Tensor) -> Tensor | None:
        return None if self.affine is None else self.affine.bias(x)


@dataclass(frozen=True, eq=False)
class _Sum:
    """What one affine node will compute; ``node`` is the first of those it stands for."""

    node: Node
    parts: tuple[_Part, ...]
    constants: tuple[Any, ...] = ()

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(self.node, (*self.parts, *other.parts), (*self.constants, *other.constants))

    def columns(self, first: int, last: int, width: int) -> _Sum:
        """Some of the neurons."""

        def cut(value: Any) -> Any:
            whole = affines.is_array(value) and len(value.shape) and value.shape[-1] == width
            return ops.convert_to_tensor(value)[..., first:last] if whole else value

        def narrowed(part: _Part) -> _Part:
            own = part.affine
            kernel, bias = (lambda: own.kernel()[:, first:last]), (lambda x: cut(own.bias(x)))
            return replace(part, affine=replace(own, kernel=kernel, bias=bias))

        constants = tuple((lambda c=c: cut(c())) for c in self.constants)
        node = replace(self.node, name=f"{self.node.name}[{first}:{last}]")
        return _Sum(node, tuple(map(narrowed, self.parts)), constants)


def join_sums(graph: Graph) -> Graph:
    """The same graph with one affine node for each sum of affine maps."""
    return _Joiner(graph).joined()


class _Joiner:
    def __init__(self, graph: Graph):
        self.graph, self.users = graph, graph.consumers()
        self.specs = dict(graph.specs)
        self.nodes: list[Node] = []
        self.sums: dict[int, _Sum] = {}  # that are not written yet
        self.packed: dict[tuple[int, ...], int] = {}

    def joined(self) -> Graph:
        for node in self.graph.nodes:
            found = self.absorbed(node)
            if found is not None:
                self.sums.update(zip(node.outputs, found, strict=True))
                continue
            for slot in node.inputs:
                self.write(slot)
            self.nodes.append(node)
        for slot in self.graph.outputs:
            self.write(slot)
        return replace(self.graph, specs=self.specs).rebuilt(self.nodes)

    # --- what goes into a sum ------------------------------------------------------------------------------------

    def absorbed(self, node: Node) -> list[_Sum] | None:
        """The sums that the node's outputs are; None where it stays a node of its own."""
        if facts.kind_of(node) is Kind.AFFINE:
            return [_Sum(node, (_Part(node.inputs[0], node.call),))]
        if not any(slot in self.sums for slot in node.inputs):
            return None
        if op_key(node.op) in ("add", "Add") and isinstance(node.call, Call):
            return self.added(node)
        return self.cut(node) if facts.kind_of(node) is Kind.SHAPE else None

    def added(self, node: Node) -> list[_Sum] | None:
        shape = self.specs[node.outputs[0]].shape
        if not all(self.alone(s) for s in node.inputs if s in self.sums):
            return None
        if any(self.specs[s].shape != shape for s in node.inputs):
            return None
        if len(node.inputs) == 1:
            constant = affines.constant_operand(node.call)
            if constant is None:
                return None
            own = self.sums[node.inputs[0]]
            return [replace(own, constants=(*own.constants, lambda: constant))]
        terms = [self.sums.get(s, _Sum(node, (_Part(s, None),))) for s in node.inputs]
        terms.sort(key=lambda term: term.parts[0].affine is None)
        total = terms[0]
        for term in terms[1:]:
            total = total.plus(term)
        return [total] if self.dense(total) or self.static(total) else None

    def alone(self, slot: int) -> bool:
        return len(self.users[slot]) == 1 and slot not in self.graph.outputs

    def dense(self, total: _Sum) -> bool:
        """Whether all parts are vectors times matrices, or vectors."""

        def holds(part: _Part) -> bool:
            x = self.specs[part.slot].shape
            if part.affine is None:
                return len(x) == 2
            kernel = part.affine.kernel().shape
            product = op_key(part.affine.layer) in ("Dense", "matmul", "dot")
            return product and len(x) == len(kernel) == 2 and x[1] == kernel[0]

        return all(map(holds, total.parts))

    def static(self, total: _Sum) -> bool:
        return all(None not in self.specs[part.slot].shape[1:] for part in total.parts)

    def cut(self, node: Node) -> list[_Sum] | None:
        """Columns of a sum, if nothing else is read of it."""
        slot, shape = node.inputs[0], self.specs[node.inputs[0]].shape
        own = self.sums[slot]
        weighted = all(part.affine is not None for part in own.parts)
        if slot in self.graph.outputs or len(shape) != 2 or shape[1] is None or not weighted or not self.dense(own):
            return None
        ranges = [_columns(user, shape[1]) for user in self.users[slot]]
        if any(found is None for found in ranges):
            return None
        return [own.columns(first, last, shape[1]) for first, last in _columns(node, shape[1]) or []]

    # --- what comes of it ----------------------------------------------------------------------------------------

    def write(self, slot: int) -> None:
        """Append the node of a sum."""
        if slot not in self.sums:
            return
        total = self.sums.pop(slot)
        if len(total.parts) == 1:
            part = total.parts[0]
            self.write(part.slot)
            bias = _bias(total, lambda x: [x])
            self.append(total, replace(part.affine, bias=bias, add=ops.add), part.slot, slot)
            return
        for part in total.parts:
            self.write(part.slot)
        make = _rows if self.dense(total) else _flat
        shapes = [self.specs[part.slot].shape[1:] for part in total.parts]
        self.append(total, make(total, shapes), self.pack(total, flat=make is _flat), slot)

    def append(self, total: _Sum, call: Affine, x: int, slot: int) -> None:
        self.nodes.append(replace(total.node, call=call, inputs=(x,), outputs=(slot,)))

    def pack(self, total: _Sum, flat: bool) -> int:
        """The slot of all inputs of the parts in a row."""
        slots = tuple(part.slot for part in total.parts)
        if slots not in self.packed:
            sizes = [int(np.prod(self.specs[s].shape[1:])) for s in slots]
            first = self.specs[slots[0]]
            new = self.packed[slots] = max(self.specs) + 1
            self.specs[new] = Spec((first.shape[0], sum(sizes)), first.dtype)
            name = f"{total.node.name}/concatenate"
            call = _side_by_side if flat else lambda *xs: ops.concatenate(xs, axis=-1)
            self.nodes.append(
                replace(total.node, name=name, op=ops.concatenate, call=call, inputs=slots, outputs=(new,))
            )
        return self.packed[slots]


def _columns(node: Node, width: int) -> list[tuple[int, int]] | None:
    """Which columns of a matrix each output of the node holds; None where it does something else."""
    if facts.kind_of(node) is not Kind.SHAPE or len(node.inputs) != 1 or traits.may_fill(node):
        return None
    try:
        parts = tree.flatten(node.call(ops.reshape(ops.arange(2.0 * width), (2, width))))
    except Exception:  # it takes no matrix of two rows
        return None
    found = []
    for part in map(np.asarray, parts):
        if part.ndim != 2 or not part.size:
            return None
        first, last = int(part[0, 0]), int(part[0, 0]) + part.shape[1]
        if not np.array_equal(part, np.add.outer([0, width], np.arange(first, last))):
            return None
        found.append((first, last))
    return found


def _side_by_side(*xs: Tensor) -> Tensor:
    return ops.concatenate([ops.reshape(x, (ops.shape(x)[0], int(np.prod(x.shape[1:])))) for x in xs], axis=-1)


def _bias(total: _Sum, apart: Callable[[Tensor], Sequence[Tensor]]) -> Callable[[Tensor], Tensor | None]:
    """All that is added, for the packed inputs of the parts."""

    def bias(x: Tensor) -> Tensor | None:
        own = [part.bias(x_i) for part, x_i in zip(total.parts, apart(x), strict=True)]
        found = [ops.cast(b, x.dtype) for b in (*own, *(c() for c in total.constants)) if b is not None]
        return sum(found[1:], found[0]) if found else None

    return bias


def _cuts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = np.cumsum(sizes).tolist()
    return list(zip([0, *ends], ends, strict=False))


def _rows(total: _Sum, shapes: Sequence[tuple[int, ...]]) -> Affine:
    """Matrices one below the other; a row of ones stands for each vector that is only added."""
    affine_parts = [part.affine for part in total.parts if part.affine is not None]
    cuts = _cuts([shape[0] for shape in shapes])
    weighted = cuts[len(affine_parts) - 1][1]

    def kernel() -> Tensor:
        found = [affine.kernel() for affine in affine_parts]
        ones = ops.ones((1, found[0].shape[1]), dtype=found[0].dtype)
        return ops.concatenate([*found, *(ones for _ in total.parts[len(affine_parts) :])], axis=0)

    def product(x: Tensor, rows: Tensor) -> Tensor:
        if weighted == cuts[-1][1]:
            return ops.matmul(x, rows)
        y = ops.matmul(x[:, :weighted], rows[:weighted])
        for i, (first, last) in enumerate(cuts[len(affine_parts) :]):
            y = y + x[:, first:last] * rows[weighted + i]
        return y

    bias = _bias(total, lambda x: [x[:, first:last] for first, last in cuts])
    return Affine(affine_parts[0].layer, product, kernel, bias, add=ops.add)


def _flat(total: _Sum, shapes: Sequence[tuple[int, ...]]) -> Affine:
    """Kernels of any kind in a row; one number, 1, stands for what is only added."""
    cuts = _cuts([int(np.prod(shape)) for shape in shapes])

    def kernels() -> list[Tensor]:
        found = [None if part.affine is None else part.affine.kernel() for part in total.parts]
        ones = ops.ones((1,), dtype=found[0].dtype)
        return [ones if k is None else k for k in found]

    kernel_shapes = [tuple(k.shape) for k in kernels()]
    places = _cuts([int(np.prod(shape)) for shape in kernel_shapes])

    def apart(x: Tensor) -> list[Tensor]:
        return [ops.reshape(x[:, a:b], (-1, *shape)) for (a, b), shape in zip(cuts, shapes, strict=True)]

    def product(x: Tensor, kernel: Tensor) -> Tensor:
        found = []
        for part, x_i, (a, b), shape in zip(total.parts, apart(x), places, kernel_shapes, strict=True):
            own = ops.reshape(kernel[a:b], shape)
            found.append(x_i * own if part.affine is None else part.affine.bilinear(x_i, own))
        return sum(found[1:], found[0])

    def kernel() -> Tensor:
        return ops.concatenate([ops.reshape(k, (-1,)) for k in kernels()], axis=0)

    first = total.parts[0].affine
    return Affine(first.layer, product, kernel, _bias(total, apart), first.channel_axis)
