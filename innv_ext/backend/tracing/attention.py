"""The attention layers of Keras from their own sublayers and ``keras.ops``.

Newer Keras computes attention with functions of its backend, which take no KerasTensors. While a layer is opened, the
methods that do so are replaced by those below, which compute the same; what a subclass overrides stays its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext.backend.masks import mask_of, unmasked, with_mask

Tensor = Any


@contextmanager
def symbolic(op: Any) -> Iterator[None]:
    """Within it the ``call`` of an attention layer runs on KerasTensors; other layers stay as they are."""
    family = next((cls for cls in _METHODS if isinstance(op, cls)), None)
    methods = _METHODS.get(family, {})
    own = {name: fn for name, fn in methods.items() if getattr(type(op), name, None) is getattr(family, name, None)}
    for name, fn in own.items():
        object.__setattr__(op, name, functools.partial(fn, op))
    try:
        yield
    finally:
        for name in own:
            object.__delattr__(op, name)


# --- MultiHeadAttention and GroupedQueryAttention ---------------------------------------------------------------------


def _setting(op: Any, name: str, default: Any = None) -> Any:
    """What one of the two layers keeps under a private name and the other under a public one."""
    return getattr(op, f"_{name}", getattr(op, name, default))


def _project(
    op: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    query_mask: Tensor | None = None,
    value_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    return_attention_scores: bool = False,
    training: bool | None = None,
    use_causal_mask: bool = False,
) -> Any:
    key, grouped = value if key is None else key, isinstance(op, _GROUPED)
    family = _GROUPED if grouped else keras.layers.MultiHeadAttention
    if not grouped:  # it reads the mask of the query from the tensor, and its sublayers see none
        query_mask = mask_of(query)
        query, value, key = unmasked(query), unmasked(value), unmasked(key)
    masks = (query_mask, value_mask, key_mask, attention_mask, _setting(op, "sliding_window"))
    # one operation of the backend does it all; else the causal mask needs lengths that projections may not declare
    fused = op.dropout == 0 and not return_attention_scores and len(query.shape) == 3
    fused = fused and type(op)._compute_attention is family._compute_attention
    only_causal = use_causal_mask and fused and all(m is None for m in masks)
    if not only_causal:
        attention_mask = op._compute_attention_mask(
            query,
            value,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
        )
    gate = op._gate_dense(query) if _setting(op, "use_gate", False) else None
    query, key, value = op._query_dense(query), op._key_dense(key), op._value_dense(value)
    options = {"use_causal_mask": True} if only_causal else {}
    if grouped:
        op._return_attention_scores = return_attention_scores
        key, value = ops.repeat(key, op.num_repeats, axis=2), ops.repeat(value, op.num_repeats, axis=2)
    else:
        options |= {"return_attention_scores": True} if return_attention_scores else {}
    y, scores = op._compute_attention(query, key, value, attention_mask=attention_mask, training=training, **options)
    y = op._output_dense(y if gate is None else ops.multiply(y, gate))
    y = y if grouped else with_mask(y, query_mask)
    return (y, scores) if return_attention_scores else y


def _attend(
    op: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    training: bool | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> tuple[Tensor, Tensor | None]:
    grouped, mask = isinstance(op, _GROUPED), attention_mask
    scale = op._inverse_sqrt_head_dim if grouped else op._inverse_sqrt_key_dim
    heads = -3 if grouped else -2 * len(op._attention_axes) - 1  # the axis of the heads among the scores
    scores_wanted = op._return_attention_scores if grouped else return_attention_scores
    if not (op.dropout > 0 or scores_wanted or len(query.shape) != 4):
        y = ops.dot_product_attention(
            query=query,
            key=key,
            value=value,
            bias=None,
            mask=None if mask is None else ops.cast(_at_rank(mask, 4, heads), "bool"),
            scale=scale,
            is_causal=use_causal_mask,
            flash_attention=_setting(op, "flash_attention"),
        )
        return y, None
    if use_causal_mask:
        mask = _both(None if mask is None else ops.cast(mask, "bool"), _causal(query, key))
    query = ops.multiply(query, ops.cast(scale, query.dtype))  # as Keras, in single precision
    scores = ops.einsum(op._dot_product_equation, *((query, key) if grouped else (key, query)))
    scores = op._masked_softmax(scores, mask)
    kept = op._dropout_layer(scores, training=training) if op.dropout > 0 else scores
    return ops.einsum(op._combine_equation, kept, value), scores


def _masked_softmax(op: Any, scores: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    heads = -3 if isinstance(op, _GROUPED) else -2 * len(op._attention_axes) - 1
    mask = None if attention_mask is None else _at_rank(attention_mask, len(scores.shape), heads)
    return op._softmax(scores, mask=mask)


def _attention_mask(
    op: Any,
    query: Tensor,
    value: Tensor,
    query_mask: Tensor | None = None,
    value_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    use_causal_mask: bool = False,
) -> Tensor | None:
    """What every query may look at, (batch, queries, keys): all masks together."""
    found, window = None, _setting(op, "sliding_window")
    for mask, axis in ((query_mask, -1), (value_mask, -2), (key_mask, -2)):
        if mask is not None:
            found = _both(found, ops.expand_dims(ops.cast(mask, "bool"), axis))
    if use_causal_mask:
        found = _both(found, _causal(query, value))
    if window is not None:
        found = _both(found, _window(query, value, window))
    given = None if attention_mask is None else ops.cast(attention_mask, "bool")
    return given if found is None else _both(given, found)


def _both(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else ops.logical_and(a, b)


def _places(x: Tensor, axis: int) -> Any:
    """0, 1, ... along an axis of a tensor, (1, length); (batch, length) where the length is known at run time only."""
    axis = axis % len(x.shape)
    if x.shape[axis] is not None:
        return np.arange(x.shape[axis])[None]
    first = x[tuple(slice(None) if a in (0, axis) else 0 for a in range(len(x.shape)))]
    return ops.subtract(ops.cumsum(ops.ones_like(first, dtype="int32"), axis=1), 1)


def _pairs(queries: Any, keys: Any, allowed: Callable[[Any, Any], Tensor]) -> Tensor:
    """Which places of the queries and of the keys belong together, (1 or batch, queries, keys)."""
    return allowed(ops.expand_dims(queries, 2), ops.expand_dims(keys, 1))


def _causal(query: Tensor, key: Tensor) -> Tensor:
    return _pairs(_places(query, 1), _places(key, 1), ops.greater_equal)


def _window(query: Tensor, key: Tensor, size: int) -> Tensor:
    near = _places(query, 1), _places(key, 1)
    return _pairs(*near, lambda i, j: ops.less(ops.abs(ops.subtract(i, j)), size))


def _at_rank(mask: Tensor, rank: int, axis: int) -> Tensor:
    for _ in range(rank - len(mask.shape)):
        mask = ops.expand_dims(mask, axis=axis)
    return mask


# --- Attention and AdditiveAttention ----------------------------------------------------------------------------------


def _dot_scores(op: Any, query: Tensor, key: Tensor) -> Tensor:
    if op.score_mode == "dot":
        scores = ops.matmul(query, ops.swapaxes(key, -2, -1))
        return scores if op.scale is None else ops.multiply(scores, op.scale)
    pairs = ops.add(ops.expand_dims(query, axis=-2), ops.expand_dims(key, axis=-3))
    pairs = pairs if op.scale is None else ops.multiply(pairs, op.scale)
    return ops.multiply(ops.sum(ops.tanh(pairs), axis=-1), op.concat_score_weight)


def _additive_scores(op: Any, query: Tensor, key: Tensor) -> Tensor:
    pairs = ops.tanh(ops.add(ops.expand_dims(query, axis=-2), ops.expand_dims(key, axis=-3)))
    return ops.sum(ops.multiply(pairs, op.scale if op.use_scale else 1.0), axis=-1)


def _score_mask(op: Any, scores: Tensor, v_mask: Tensor | None, use_causal_mask: bool) -> Tensor | None:
    if not use_causal_mask:
        return v_mask
    causal = _pairs(_places(scores, -2), _places(scores, -1), ops.greater_equal)
    return causal if v_mask is None else ops.logical_and(ops.expand_dims(v_mask, axis=-2), causal)


@functools.cache
def _closed_rows_are_zero() -> bool:
    """Whether the running Keras lets a query that may look at nothing see nothing, or the mean of all values."""
    two = ops.ones((1, 2, 1))
    return not np.any(keras.layers.Attention(name="any")([two, two], mask=[None, ops.zeros((1, 2), dtype="bool")]))


def _apply_scores(
    op: Any, scores: Tensor, value: Tensor, scores_mask: Tensor | None = None, training: bool = False
) -> tuple[Tensor, Tensor]:
    closed = None
    if scores_mask is not None:
        closed = ops.logical_not(scores_mask)
        closed = ops.expand_dims(closed, axis=-2) if len(closed.shape) == 2 else closed
        far = 65504.0 if scores.dtype == "float16" else 1.0e9
        scores = ops.where(closed, -far if _closed_rows_are_zero() else ops.subtract(scores, far), scores)
    weights = ops.softmax(scores, axis=-1)
    if closed is not None and _closed_rows_are_zero():
        weights = ops.where(closed, 0.0, weights)
    if training and op.dropout > 0:
        weights = keras.random.dropout(weights, op.dropout, seed=op.seed_generator)
    return ops.matmul(weights, value), weights


def _weigh(
    op: Any,
    inputs: Any,
    mask: Any = None,
    training: bool = False,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    query, value, *rest = inputs
    query_mask, value_mask = mask[:2] if mask else (None, None)
    scores = op._calculate_scores(query=query, key=rest[0] if rest else value)
    scores_mask = op._calculate_score_mask(scores, value_mask, use_causal_mask)
    y, scores = op._apply_scores(scores=scores, value=value, scores_mask=scores_mask, training=training)
    if query_mask is not None:
        y = ops.where(ops.expand_dims(query_mask, axis=-1), y, 0)
    return (y, scores) if return_attention_scores else y


_GROUPED = keras.layers.GroupQueryAttention
_HEADS = {
    "call": _project,
    "_compute_attention": _attend,
    "_compute_attention_mask": _attention_mask,
    "_masked_softmax": _masked_softmax,
}
_WEIGHED = {"call": _weigh, "_calculate_score_mask": _score_mask, "_apply_scores": _apply_scores}
# the methods of Keras that handle tensors; of several classes the first that fits
_METHODS: dict[Any, dict[str, Callable[..., Any]]] = {
    keras.layers.MultiHeadAttention: _HEADS,
    _GROUPED: _HEADS,
    keras.layers.AdditiveAttention: {**_WEIGHED, "_calculate_scores": _additive_scores},
    keras.layers.Attention: {**_WEIGHED, "_calculate_scores": _dot_scores},
}
