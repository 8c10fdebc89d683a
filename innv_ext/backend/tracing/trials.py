"""What was recorded symbolically is run on values, and compared with the call that it was recorded of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import numerics
from innv_ext.backend.graph import Call, Node, Spec, TooShort, run
from innv_ext.backend.masks import with_mask

Tensor = Any


def try_out(
    call: Call | None,
    feeds: Sequence[int],
    masks: Sequence[int | None],
    specs: dict[int, Spec],
    nodes: Sequence[Node],
    outputs: Sequence[int],
    padded: bool = False,
    apart: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Raise ValueError unless ``nodes`` compute what ``call`` does at two sizes; without a call, unless they run.

    This finds calls that read sizes or draw random numbers, which a symbolic run freezes. ``masks`` are the slots of
    the Keras masks that go with the tensors of the slots ``feeds``; ``padded`` inputs end in zeros. The slots ``apart``
    have other lengths, see ``lengths_apart``.
    """
    free = any(None in specs[slot].shape[1:] for slot in feeds)
    tries = [*_TRIES, *(((2, 3), (n, n)) for n in _tables(call))] if free else _TRIES[:2]
    for batches, lengths in tries:
        others = {"": lengths, "other": lengths[::-1], "shorter": [n - 1 for n in lengths]}
        own = [{s: others[apart.get(s, "")][i] for s in specs} for i in (0, 1)]
        cases = [_case(feeds, masks, specs, n, lengths, padded) for n, lengths in zip(batches, own, strict=True)]
        try:
            expected = [[] if call is None else tree.flatten(call(*(slots[s] for s in feeds))) for slots in cases]
        except Exception:
            if (batches, lengths) == tries[-1]:
                raise
            continue
        try:
            found = [run(nodes, slots) for slots in cases]
            break
        except TooShort:
            if (batches, lengths) == tries[-1]:
                raise
    for values, wanted in zip(found, expected, strict=True):
        if wanted and not all(numerics.close(e, values[slot]) for e, slot in zip(wanted, outputs, strict=True)):
            raise ValueError(
                "run symbolically it computes something else: it is random, reads its batch size or takes off masks"
            )


# batches and lengths of free dimensions, in the order in which they are tried; windows need multiples of their number
_TRIES = (((2, 3), (12, 18)), ((48, 96), (12, 18)), ((2, 3), (4, 6)), ((2, 3), (2, 3)), ((2, 3), (64, 96)))

_LONGEST = 4096  # of the tables that are tried


def _tables(call: Call | None) -> list[int]:
    """Numbers of rows of the variables of a layer: one that adds a whole table of positions takes no other length."""
    weights = call.op.weights if call is not None and isinstance(call.op, keras.layers.Layer) else ()
    return sorted({w.shape[0] for w in weights if len(w.shape) == 2 and w.shape[0] <= _LONGEST})


def lengths_apart(
    call: Call, feeds: Sequence[int], masks: Sequence[int | None], specs: dict[int, Spec]
) -> dict[int, str]:
    """The slots whose free lengths are not tied to that of the first: encoded texts beside those that are decoded.

    "other" lengths will do for them, or only "shorter" ones (a text behind a picture). ``call`` is tried with two
    lengths, of as few slots as it takes.
    """
    pairs = {slot: mask for slot, mask in zip(feeds, masks, strict=True) if None in specs[slot].shape[1:]}
    first, *others = pairs or {-1: None}
    for count in range(len(others) if len(others) < 6 else 0):
        for tied in itertools.combinations(others, count):
            apart = set(others).difference(tied)
            apart |= {pairs[slot] for slot in apart} - {pairs[slot] for slot in (first, *tied)} - {None}

            def runs(length: int, other: int, apart: set[int] = apart) -> bool:
                lengths = {slot: other if slot in apart else length for slot in specs}
                slots = _case(feeds, masks, specs, 2, lengths, False)
                try:
                    call(*(slots[s] for s in feeds))
                except Exception:
                    return False
                return True

            less, more = runs(6, 4), runs(4, 6)
            if less or more:
                shorter = apart if less else {s for slot in (first, *tied) for s in (slot, pairs[slot])} - {None}
                return dict.fromkeys(shorter, "other" if less and more else "shorter")
    return {}


def _case(
    feeds: Sequence[int],
    masks: Sequence[int | None],
    specs: dict[int, Spec],
    batch: int,
    lengths: dict[int, int],
    padded: bool,
) -> dict[int, Tensor]:
    """Values of the slots, with their masks: small floats, token numbers 0 and 1, masks that close the last place."""

    def sample(spec: Spec, length: int) -> Tensor:
        shape = tuple((length if axis else batch) if d is None else d for axis, d in enumerate(spec.shape))
        rng = np.random.default_rng(batch)
        if spec.dtype == "bool":
            return ops.convert_to_tensor(np.broadcast_to(np.arange(shape[-1]) < max(shape[-1] - 1, 1), shape))
        values = rng.uniform(-1, 1, shape) if numerics.is_float(spec.dtype) else rng.integers(0, 2, shape)
        if padded and len(shape) > 1:  # floats may be numbers of tokens
            values = np.abs(values) * (2 if numerics.is_float(spec.dtype) else 1)
            values[:, -1] = 0
        return ops.convert_to_tensor(values, spec.dtype)

    slots = {slot: sample(specs[slot], lengths[slot]) for slot in {*feeds, *masks} - {None}}
    for slot, mask in zip(feeds, masks, strict=True):
        if mask is not None:
            with_mask(slots[slot], slots[mask])
    return slots
