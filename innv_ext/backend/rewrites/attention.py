"""Attention that is one operation, and a softmax with a mask, as the steps that they consist of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.tracing import open_function

Tensor = Any


def split_attention(graph: Graph) -> Graph:
    """``dot_product_attention`` as scores, scale, mask, softmax and weighted sum; ``Softmax(mask=)`` likewise.

    Scores are those that the model computes: no maximum is subtracted, because LRP's map of a softmax is not the same
    for shifted scores.
    """

    def inside(node: Node) -> Graph | None:
        steps = _steps(node)
        return None if steps is None else open_function(steps, [graph.specs[s] for s in node.inputs], facts.is_leaf)

    return graph.expanded(inside)


def is_attention(node: Node) -> bool:
    """Whether ``split_attention`` has something to say about a node."""
    return _steps(node) is not None


def _steps(node: Node) -> Callable[..., Tensor] | None:
    """What a node computes, as a function of its inputs in single operations; None for all other nodes."""
    call, key = node.call, op_key(node.op)
    if not isinstance(call, Call):
        return None
    if key == "dot_product_attention":
        return lambda *xs: _attention(node.op, *_filled(call, xs))
    masked = isinstance(call.kwargs.get("mask"), Arg) and len(call.args) == 1
    if key == "Softmax" and masked and isinstance(node.op.axis, int):
        return lambda *xs: _softmax(node.op.axis, *_filled(call, xs))
    return None


def _filled(call: Call, xs: tuple[Tensor, ...]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call on these tensors."""
    return tree.map_structure(lambda a: xs[a.index] if isinstance(a, Arg) else a, (list(call.args), dict(call.kwargs)))


def _attention(op: Any, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    names = ("query", "key", "value", "bias", "mask", "scale")
    given = {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}
    query, key, value, bias, mask, scale = (given[name] for name in names)
    heads, shared = query.shape[2], key.shape[2]
    if heads != shared:
        key, value = ops.repeat(key, heads // shared, axis=2), ops.repeat(value, heads // shared, axis=2)
    dtype = numerics.wide_dtype(query.dtype)
    if scale is None:
        scale = np.float32(1) / np.sqrt(np.float32(key.shape[-1]))
    if not isinstance(scale, keras.KerasTensor):  # in single precision, as Keras has it with TensorFlow
        scale = float(np.float32(scale))
    query = ops.multiply(query, scale)  # much smaller than the scores
    scores = _cast(ops.einsum("btnh,bsnh->bnts", query, key), dtype)
    if bias is not None:
        scores = ops.add(scores, _cast(bias, dtype))
    if op.is_causal:
        free = None in scores.shape[2:]
        causal = ops.tril(ops.ones_like(scores)) if free else np.tri(*scores.shape[2:], dtype="float32")[None, None]
        causal = _truth(ops.convert_to_tensor(causal))
        mask = causal if mask is None else ops.logical_and(mask, causal)
    weights = ops.softmax(scores if mask is None else ops.where(_truth(mask), scores, _far(dtype)), axis=-1)
    return ops.einsum("bnts,bsnh->btnh", _cast(weights, key.dtype), value)


def _softmax(axis: int, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    (scores,), mask = args, _truth(kwargs["mask"])
    weights = ops.softmax(ops.where(mask, scores, _far(scores.dtype)), axis=axis)
    return ops.where(mask, weights, ops.cast(0.0, weights.dtype))  # rows of which all is closed


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x if x.dtype == dtype else ops.cast(x, dtype)


def _truth(mask: Tensor) -> Tensor:
    return mask if mask.dtype == "bool" else ops.greater(mask, 0.5)


def _far(dtype: str) -> Tensor:
    """A score whose exponential is 0, beside any score that is not closed."""
    return ops.convert_to_tensor(-3e4 if dtype == "float16" else -1e9, dtype)
