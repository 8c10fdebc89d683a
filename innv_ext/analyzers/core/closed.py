"""Samples that masks close altogether: which inputs can do that, and a warning that says for which samples they do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Graph, op_key
from innv_ext.errors import ClosedMaskWarning


def closing_inputs(graph: Graph, is_mask: Callable[[int, Graph], bool]) -> dict[int, tuple[str, float]]:
    """Position of an input -> (who makes a mask of it, value that is closed).

    These are masks of as many steps as another input has, and what ``Embedding(mask_zero=True)`` and ``Masking`` read.
    """
    users, tokens, found = graph.consumers(), facts.token_sources(graph), {}
    shapes = [graph.specs[slot].shape for slot in graph.inputs]
    for i, slot in enumerate(graph.inputs):
        steps = {s[1] for j, s in enumerate(shapes) if j != i and len(s) > 1}
        beside = len(shapes[i]) > 1 and shapes[i][-1] in steps
        if beside and slot not in tokens and not numerics.is_float(graph.specs[slot].dtype) and is_mask(slot, graph):
            found[i] = "which is a mask", 0.0
        for node in users[slot]:
            if op_key(node.op) == "Masking":
                found[i] = f"as {node.name!r} reads it", float(node.op.mask_value)
    for node in graph.nodes:
        if op_key(node.op) == "Embedding" and node.op.mask_zero and node.inputs[0] in tokens:
            found[graph.inputs.index(tokens[node.inputs[0]])] = f"as {node.name!r} reads it", 0.0
    return found


def tell(closing: Mapping[int, tuple[str, float]], xs: Sequence[np.ndarray], who: str) -> None:
    """Warn of samples of which an input holds nothing but the value that is closed."""
    for i, (reader, value) in closing.items():
        rows = np.flatnonzero((xs[i] == value).reshape(len(xs[i]), -1).all(axis=1)) if xs[i].size else ()
        if len(rows):
            shown = ", ".join(map(str, rows[:5])) + ", ..." * (len(rows) > 5)
            warnings.warn(
                f"{who}: input {i}, {reader}, closes all of {len(rows)} of {len(xs[i])} samples ({shown}). Behind it "
                f"nothing of them is seen: the score may be NaN, and the map may say nothing. Leave them out, or open "
                f"what is no padding.",
                ClosedMaskWarning,
                stacklevel=7,
            )
