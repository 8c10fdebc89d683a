"""Calls that read the sizes of their inputs: two recordings at two sizes, made into one for any size.

A layer that asks for ``ops.shape(x)[0]`` gets None while it is run symbolically. It is recorded twice instead, at two
batch sizes and lengths; what differs between the recordings is written as the size of an axis of the node's own inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import numerics
from innv_ext.backend.affine import is_array
from innv_ext.backend.graph import Arg, Call, Graph, Node, Recorded, Spec, TooShort, op_key
from innv_ext.backend.kinds import CONSTANT_ACTIVATION, CONSTANT_RESCALE, KINDS, Kind
from innv_ext.errors import UnsupportedModelError

Tensor = Any
Sizes = Sequence[tuple[int, int]]  # of the batch and of the axes behind it, in both recordings
# free lengths that windows and strides divide; short ones for layers that know few positions
_LENGTHS = ((48, 96), (24, 36), (40, 60), (72, 84)), ((7, 11), (4, 6), (8, 10), (12, 14))


def choices(lengths: Sequence[int] = ()) -> list[Sizes]:
    """Sizes to record at, in the order in which they are tried; if ``lengths`` are given, great enough for the longest.

    Each with other sizes on every axis and with the same on all, which masks of pairs of steps need.
    """
    found = [] if lengths else list(_LENGTHS)
    halves = {max(m, 4) for length in lengths for m in (length, length // 2)}  # which convolutions leave of them
    for n in sorted(halves, reverse=True):
        half = max(n // 2, 3)  # with room for longer ones; if there are no more positions, without
        ends = ((n, 2 * n), (n + 4, 2 * n + 12), (n + 8, 2 * n + 20)), ((half, n), (half + 1, n + 3), (half + 2, n + 6))
        found += [((7, 11), *lengths) for lengths in ends]
    return [sizes for apart in found for sizes in (apart, (*apart[:2], *apart[1:2] * 2))]


SMALL = ((2, 3), (4, 6), (8, 10), (12, 14))


@dataclass(frozen=True)
class Size(Recorded):
    """times * (product of the sizes of axes of the inputs) / over + plus - less; ``axes`` has pairs (input, axis)."""

    axes: tuple[tuple[int, int], ...]
    times: int = 1
    over: int = 1
    plus: int = 0
    less: tuple[tuple[int, int], ...] = ()

    def of(self, xs: Sequence[Tensor]) -> Any:
        size = math.prod(ops.shape(xs[index])[axis] for index, axis in self.axes)
        return size * self.times // self.over + self.plus - sum(ops.shape(xs[i])[axis] for i, axis in self.less)


@dataclass(frozen=True)
class Cut:
    """How much of a constant is needed, and what all sizes share: 0 its first end, 1 its middle, 2 its last end."""

    size: Size
    shared: int

    def start(self, longest: Any, length: Any) -> Any:
        """Where a part of this length begins."""
        return (longest - length) * self.shared // 2


@dataclass(frozen=True, eq=False)
class Filled(Recorded):
    """An array that is the same all along some axes, as long as it is needed there.

    Along the axes ``cut`` it is part of what it is for greater sizes: positions, causal masks, tables of distances.
    """

    array: Tensor
    sizes: dict[int, Size]
    cut: dict[int, Cut] = field(default_factory=dict)

    def of(self, xs: Sequence[Tensor]) -> Tensor:
        array, shape = self.array, list(self.array.shape)
        for axis, cut in self.cut.items():
            longest, length = shape[axis], cut.size.of(xs)
            if isinstance(length, int) and length > longest:
                raise TooShort(f"it was recorded for at most {longest} steps, not for {length}")
            start = cut.start(longest, length)
            array, shape[axis] = array[(*(slice(None),) * axis, slice(start, start + length))], length
        for axis, size in self.sizes.items():
            shape[axis] = size.of(xs)
        return ops.broadcast_to(array, shape) if self.sizes else array


@dataclass(frozen=True)
class Sliced(Recorded):
    """A slice with ends that depend on sizes."""

    parts: tuple[Any, Any, Any]

    def of(self, xs: Sequence[Tensor]) -> slice:
        return slice(*(p.of(xs) if isinstance(p, Recorded) else p for p in self.parts))


def is_limited(graph: Graph) -> bool:
    """Whether constants of a graph are known up to some length only."""
    calls = [node.call for node in graph.nodes if isinstance(node.call, Call)]
    flat = (a for call in calls for a in tree.flatten((call.args, call.kwargs, call.settings)))
    return any(isinstance(a, Filled) and a.cut for a in flat)


def at_size(shape: Sequence[int | None], choice: Sizes, number: int, apart: str = "") -> tuple[int, ...]:
    """The shape of an input in the first or second recording: free dimensions have the sizes of their axes.

    So that lengths that are ``apart`` can be told, they are those of the other recording, or "shorter".
    """
    return tuple(_length(choice, axis, number, apart) if d is None else d for axis, d in enumerate(shape))


def _length(choice: Sizes, axis: int, number: int, apart: str) -> int:
    pair = choice[min(axis, 3)]
    if axis and apart == "shorter":
        return max(pair[0] // 2, 2) if number == 0 else pair[1] - 1
    return pair[1 - number if axis and apart else number]


def outputs_of(model: keras.Model, args: Any, kwargs: Any) -> tuple[Any, list[Spec]]:
    """The outputs' structure and shapes of a model that can only be called, from calls at two sizes.

    Raises
    ------
    UnsupportedModelError
        if it takes neither
    """

    def outputs(number: int) -> Any:
        def zeros(kt: Any) -> Any:
            symbolic = isinstance(kt, keras.KerasTensor)
            return ops.zeros(at_size(kt.shape, SMALL, number), kt.dtype) if symbolic else kt

        return model(*tree.map_structure(zeros, args), **kwargs)

    try:
        found = outputs(0), outputs(1)
    except Exception as error:
        raise UnsupportedModelError(
            f"The model {model.name!r} can neither be run on keras.KerasTensor nor be called with batches of 2 and 3 "
            f"samples: {error}. If a batch size is written into it, make it read ops.shape(x)[0]."
        ) from error
    specs = [[Spec(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in tree.flatten(o)] for o in found]
    return found[0], [free(a, b) for a, b in zip(*specs, strict=True)]


def free(a: Spec, b: Spec) -> Spec:
    """The shape that both recordings have, with None where they differ."""
    if len(a.shape) != len(b.shape) or a.dtype != b.dtype:
        raise ValueError("what it computes depends on its input's size")
    return replace(a, shape=tuple(d if d == e else None for d, e in zip(a.shape, b.shape, strict=True)))


def merged(
    a: Node,
    b: Node,
    specs_a: dict[int, Spec],
    specs_b: dict[int, Spec],
    choice: Sizes,
    feeds: Sequence[int] = (),
) -> Node:
    """One node for any size from the same node of both recordings.

    A first axis of unknown size is taken for the batch, as far as nothing else fits. What moves values to a size that
    its input does not tell (tokens of all samples back to samples) takes one of ``feeds`` as another input.

    Raises
    ------
    ValueError
        if they differ in more than sizes
    """
    if (a.name, a.inputs, a.outputs) != (b.name, b.inputs, b.outputs) or type(a.op) is not type(b.op):
        raise ValueError("it does something else for other sizes of its input")
    if not isinstance(a.call, Call) or not isinstance(b.call, Call):
        return a
    others = [slot for slot in feeds if slot not in a.inputs] if KINDS.get(op_key(a.op)) is Kind.SHAPE else []
    for beside in ([], *([slot] for slot in others)):
        inputs = (*a.inputs, *beside)
        with suppress(ValueError):
            return replace(a, call=_merged_call(a, b, inputs, specs_a, specs_b, choice), inputs=inputs)
    return replace(a, call=_merged_call(a, b, a.inputs, specs_a, specs_b, choice))


def _dims(
    inputs: Sequence[int], specs_a: dict[int, Spec], specs_b: dict[int, Spec], choice: Sizes
) -> list[tuple[int, int, tuple[int, int]]]:
    """(input, axis, sizes in both recordings) of what differs between them.

    Numbers of steps are those of what is computed with, rather than of masks, which a layer may leave unused.
    """
    dims = [
        (i, axis, sizes)
        for i, slot in enumerate(inputs)
        for axis, sizes in enumerate(zip(specs_a[slot].shape, specs_b[slot].shape, strict=True))
        if sizes[0] != sizes[1]
    ]
    dims.sort(key=lambda dim: not numerics.is_float(specs_a[inputs[dim[0]]].dtype))
    return dims + [(i, 0, choice[0]) for i, slot in enumerate(inputs) if specs_a[slot].shape[:1] == (None,)]


def untold(
    a: Node, b: Node, specs_a: dict[int, Spec], specs_b: dict[int, Spec], choice: Sizes, feeds: Sequence[int]
) -> dict[int, Any]:
    """Arguments that are constants whose sizes the inputs of their node do not tell but the ``feeds`` do."""
    if not isinstance(a.call, Call) or not isinstance(b.call, Call) or len(a.call.args) != len(b.call.args):
        return {}
    found, own = {}, _dims(a.inputs, specs_a, specs_b, choice)
    for i, (x, y) in enumerate(zip(a.call.args, b.call.args, strict=True)):
        if is_array(x) and is_array(y) and x.shape != y.shape:
            try:
                _merge(x, y, own)
            except ValueError:
                found[i] = _merge(x, y, _dims(feeds, specs_a, specs_b, choice))
    return found


def spec_of(array: Any) -> Spec:
    """Shape and dtype of a constant."""
    return Spec(tuple(array.shape), keras.backend.standardize_dtype(array.dtype))


def with_input(node: Node, place: int, slot: int) -> Node:
    """The node with one more input, in place of one of its arguments."""
    args = list(node.call.args)
    args[place] = Arg(len(node.inputs))
    return replace(node, call=replace(node.call, args=tuple(args)), inputs=(*node.inputs, slot))


def _merged_call(
    a: Node,
    b: Node,
    inputs: Sequence[int],
    specs_a: dict[int, Spec],
    specs_b: dict[int, Spec],
    choice: Sizes,
) -> Call:
    dims = _dims(inputs, specs_a, specs_b, choice)
    args, kwargs = _merge(a.call.args, b.call.args, dims), _merge(a.call.kwargs, b.call.kwargs, dims)
    settings = {}
    if a.op is not b.op and isinstance(a.op, keras.Operation) and not isinstance(a.op, keras.layers.Layer):
        told = [{k: v for k, v in vars(op).items() if not k.startswith("_") and k != "name"} for op in (a.op, b.op)]
        both = {key: (told[0][key], _merge(told[0][key], told[1][key], dims)) for key in told[0]}
        settings = {key: new for key, (old, new) in both.items() if new is not old}
    if op_key(a.op) in CONSTANT_RESCALE | CONSTANT_ACTIVATION:
        args = tuple(_broadcast(value, specs_a[a.inputs[0]].shape) for value in args)
    return Call(a.call.op, args, kwargs, settings, a.call.count)


def _broadcast(value: Any, shape: Sequence[int | None]) -> Any:
    """What an elementwise operation makes as long as its input by itself needs no size."""

    def natural(axis: int, size: Size) -> bool:
        own = axis - value.array.ndim + len(shape)
        return own >= 0 and size == Size(((0, own),))

    filled = isinstance(value, Filled) and not value.cut
    return value.array if filled and all(natural(axis, size) for axis, size in value.sizes.items()) else value


def _merge(a: Any, b: Any, dims: Sequence[tuple[int, int, tuple[int, int]]]) -> Any:
    """``a`` where both are the same, else what stands for the size that makes them differ."""
    if a is b:
        return a
    if is_array(a) and is_array(b):
        return _merge_arrays(a, b, dims)
    if isinstance(a, Filled) and isinstance(b, Filled):  # of a layer inside whose sizes are not told
        if (a.sizes, a.cut) != (b.sizes, b.cut) or not np.array_equal(a.array, b.array):
            raise ValueError("a constant depends on its input's size")
        return a
    if type(a) is not type(b):
        raise ValueError("its arguments depend on its input's size")
    if isinstance(a, (tuple, list)) and len(a) == len(b):
        parts = [_merge(x, y, dims) for x, y in zip(a, b, strict=True)]
        same = all(p is x for p, x in zip(parts, a, strict=True))
        return a if same else type(a)(parts)
    if isinstance(a, dict) and set(a) == set(b):
        found = {key: _merge(a[key], b[key], dims) for key in a}
        return a if all(found[key] is a[key] for key in a) else found
    if isinstance(a, slice):
        parts = tuple(_merge(getattr(a, n), getattr(b, n), dims) for n in ("start", "stop", "step"))
        return Sliced(parts) if any(isinstance(p, Recorded) for p in parts) else a
    if isinstance(a, int) and not isinstance(a, bool) and a != b:
        return _size(a, b, dims)
    if a != b:
        raise ValueError(f"an argument depends on its input's size ({a!r} and {b!r})")
    return a


def _size(a: int, b: int, dims: Sequence[tuple[int, int, tuple[int, int]]]) -> Size:
    """The axis whose size is (a, b), a multiple or part of one or two, one plus a constant, or a difference of two."""
    several = [[d] for d in dims] + [list(pair) for pair in itertools.combinations(dims, 2)]
    for chosen in several:
        m, n = (math.prod(d[2][number] for d in chosen) for number in (0, 1))
        if Fraction(a, m) == Fraction(b, n):
            ratio = Fraction(a, m)
            return Size(tuple(d[:2] for d in chosen), ratio.numerator, ratio.denominator)
    for i, axis, (m, n) in dims:
        if a - m == b - n:
            return Size(((i, axis),), plus=a - m)
    for (i, one, (m, n)), (j, other, (p, q)) in itertools.permutations(dims, 2):
        if (a, b) == (m - p, n - q):
            return Size(((i, one),), less=((j, other),))
    raise ValueError(f"a number depends on its input's size ({a} and {b})")


def _merge_arrays(a: Any, b: Any, dims: Sequence[tuple[int, int, tuple[int, int]]]) -> Any:
    short, long = sorted((np.asarray(a), np.asarray(b)), key=np.size)
    sizes, cut = {}, {}
    if short.ndim != long.ndim:
        raise ValueError("a constant depends on its input's size")
    for axis, (m, n) in enumerate(zip(np.shape(a), np.shape(b), strict=True)):
        if m == n:
            continue
        size, first = _size(m, n, dims), [np.take(array, [0], axis) for array in (short, long)]
        if all(np.array_equal(w, np.broadcast_to(p, w.shape)) for p, w in zip(first, (short, long), strict=True)):
            (short, long), sizes[axis] = first, size
        else:
            cut[axis] = size
    for ends in itertools.product((0, 2, 1), repeat=len(cut)):
        cuts = {axis: Cut(size, end) for (axis, size), end in zip(cut.items(), ends, strict=True)}
        part = long
        for axis, found in cuts.items():
            start = found.start(long.shape[axis], short.shape[axis])
            part = np.take(part, np.arange(start, start + short.shape[axis]), axis)
        if np.array_equal(part, short):
            return Filled(ops.convert_to_tensor(long), sizes, cuts) if sizes or cuts else a
    raise ValueError("a constant depends on its input's size")
