"""First-order (delta) rules: softmax and normalisation by the statistics of the sample itself.

The mean is f(mean); the covariance goes through the Jacobian J of f at the mean: J squared, entry by entry, on the
independent variance, J on each direction. Both have closed forms, so that J is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from innv_ext.analyzers.moments.values import Moments, each, per_direction
from innv_ext.backend.graph import Graph, Node, op_key

Tensor = Any
Values = tuple[Any, ...]


def softmax(node: Node, values: Values) -> Sequence[Moments]:
    """J_ij = p_i (delta_ij - p_j)."""
    x = values[0]
    return [softmax_moments(x, node.call(x.mean), _axes(node, len(x.mean.shape)))]


def softmax_moments(x: Moments, p: Tensor, axis: tuple[int, ...]) -> Moments:
    """The moments of softmax(x), whose value at the mean is ``p``."""

    def squared(v: Tensor) -> Tensor:
        return p * p * ((1 - 2 * p) * v + ops.sum(p * p * v, axis=axis, keepdims=True))

    def through(t: Tensor, p: Tensor) -> Tensor:
        return p * (t - ops.sum(p * t, axis=axis, keepdims=True))

    return _delta(x, p, squared, through, (p,))


def normalise(node: Node, values: Values) -> Sequence[Moments]:
    """y = (x - mean) / scale * gamma + beta with statistics over some axes of x itself."""
    x = values[0]
    y, layer, rank = node.call(x.mean), node.op, len(x.mean.shape)
    if op_key(layer) == "GroupNormalization":
        view, unview, axes = _groups(layer, x.mean)
    else:
        view, unview, axes = (lambda t: t), (lambda t: t), _axes(node, rank)
    centred, epsilon, mean_square = _statistics(layer)
    flat = view(x.mean)
    mu = ops.mean(flat, axis=axes, keepdims=True) if centred else 0.0
    spread = ops.mean(ops.square(flat - mu), axis=axes, keepdims=True)
    count = ops.cast(ops.size(flat), flat.dtype) / ops.cast(ops.size(spread), flat.dtype)
    inverse = ops.rsqrt((spread if mean_square else spread * count) + epsilon)
    hat = (flat - mu) * inverse
    # d hat_i / d x_j = inverse (delta_ij - centred / n - hat_i hat_j / m), m = n for a mean square, 1 for a sum
    n, m = count, count if mean_square else ops.ones_like(count)
    one = 1.0 if centred else 0.0
    gamma = _gamma(layer, y)

    def squared(v: Tensor) -> Tensor:
        v = view(v)
        s0, s1, s2 = (ops.sum(v * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat, hat * hat))
        diagonal = v * (1 - 2 * one / n - 2 * hat * hat / m)
        rest = one * s0 / (n * n) + 2 * one * hat * s1 / (n * m) + hat * hat * s2 / (m * m)
        return unview(inverse * inverse * (diagonal + rest)) * ops.square(gamma)

    def through(t: Tensor, hat: Tensor, inverse: Tensor) -> Tensor:
        t = view(t)
        s0, s1 = (ops.sum(t * w, axis=axes, keepdims=True) for w in (ops.ones_like(hat), hat))
        return unview(inverse * (t - one * s0 / n - hat * s1 / m)) * gamma

    return [_delta(x, y, squared, through, (hat, inverse))]


def can_normalise(node: Node, graph: Graph) -> bool:
    """The normalising layers of Keras whose statistics are known."""
    known = ("LayerNormalization", "RMSNormalization", "UnitNormalization", "GroupNormalization")
    return op_key(node.op) in known and not getattr(node.op, "rms_scaling", False)


def _delta(
    x: Moments, y: Tensor, squared: Callable[..., Tensor], through: Callable[..., Tensor], saved: tuple[Tensor, ...]
) -> Moments:
    factors = {
        k: each(lambda t, f=f: through(t, *(per_direction(s, f) for s in saved)), f) for k, f in x.factors.items()
    }
    return Moments(y, ops.relu(squared(x.var)), factors, x.full)


def _axes(node: Node, rank: int) -> tuple[int, ...]:
    op = node.op.activation if op_key(node.op) == "Activation" else node.op
    axis = getattr(op, "axis", -1)
    return tuple(sorted(a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])))


def _statistics(layer: Any) -> tuple[bool, float, bool]:
    """(mean subtracted, epsilon, scale is the root of the mean square and not of the sum of squares)."""
    key = op_key(layer)
    if key == "UnitNormalization":
        return False, 1e-12, False
    return key != "RMSNormalization", float(layer.epsilon), True


def _gamma(layer: Any, y: Tensor) -> Tensor:
    """The layer's scale, shaped to broadcast against y."""
    scale = layer.scale if op_key(layer) == "RMSNormalization" else getattr(layer, "gamma", None)
    if scale is None:
        return ops.ones_like(y[:1])
    rank = len(y.shape)
    axis = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axes = [a % rank for a in axis]
    shape = [y.shape[a] if a in axes else 1 for a in range(rank)]
    return ops.reshape(ops.convert_to_tensor(scale), shape)


def _groups(layer: Any, x: Tensor) -> tuple[Any, Any, tuple[int, ...]]:
    """Views with the channels split into groups, and the axes over which a group has its statistics."""
    rank = len(x.shape)
    axis = layer.axis % rank
    channels = x.shape[axis]
    groups = channels if layer.groups == -1 else layer.groups

    def view(t: Tensor) -> Tensor:
        shape = ops.shape(t)
        return ops.reshape(t, (*shape[:axis], groups, channels // groups, *shape[axis + 1 :]))

    def unview(t: Tensor) -> Tensor:
        shape = ops.shape(t)
        return ops.reshape(t, (*shape[:axis], channels, *shape[axis + 2 :]))

    return view, unview, tuple(a for a in range(1, rank + 1) if a != axis)
