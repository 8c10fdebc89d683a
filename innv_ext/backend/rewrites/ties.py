"""First derivatives that TensorFlow gets wrong at ties and zeros: the same functions, written so that it does not.

Keras builds them out of maxima and minima (which give a tie to their first operand), or TensorFlow divides by a factor,
or inverts a matrix. Where a function has a kink, any slope between those of both sides is right; ``maximum`` and
``minimum`` themselves stay as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from innv_ext.backend import traits
from innv_ext.backend.graph import Call, Graph, Node
from innv_ext.backend.masks import KeepMask

Tensor = Any
LARGEST_MATRIX = 16  # determinants of larger ones are left to TensorFlow: ours takes n^4 products


def derivatives_at_ties(graph: Graph) -> Graph:
    """The same graph with calls whose first (and second) derivatives are right everywhere."""
    return graph.rebuilt([_rewritten(node, graph) for node in graph.nodes])


def _rewritten(node: Node, graph: Graph) -> Node:
    key = traits.activation_key(node)
    if key == "celu":
        return replace(node, call=KeepMask(functools.partial(celu, alpha=_alpha(node))))
    shape = graph.specs[node.inputs[0]].shape if node.inputs else ()
    fn = _FUNCTIONS.get(key, lambda op, shape: None)(node.op, shape)
    return node if fn is None or not isinstance(node.call, Call) else replace(node, call=replace(node.call, op=fn))


def _alpha(node: Node) -> float:
    given = node.call.kwargs.get("alpha") if isinstance(node.call, Call) else None
    return float(getattr(node.op, "alpha", 1.0) if given is None else given)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha (exp(x / alpha) - 1) below; TensorFlow has slope 2 at 0."""
    return ops.where(x > 0, x, alpha * ops.expm1(ops.minimum(x, ops.zeros_like(x)) / alpha))


def logaddexp(x1: Tensor, x2: Tensor, base: float = 1.0) -> Tensor:
    """log(exp(x1) + exp(x2)); equal operands share its slope. ``base`` is the logarithm of the base."""
    x1, x2 = _floats(x1, x2)
    first = x1 > x2
    high, low = ops.where(first, x1, x2), ops.where(first, x2, x1)
    return high + ops.softplus(base * (low - high)) / base


def hypot(x1: Tensor, x2: Tensor) -> Tensor:
    """The length of (x1, x2); its slope at (0, 0), where it has none, is 0."""
    x1, x2 = _floats(x1, x2)
    scale = ops.maximum(ops.abs(x1), ops.abs(x2))  # whatever it is, it cancels
    silent = scale == 0
    one = ops.ones_like(scale)
    scale = ops.where(silent, one, scale)
    squares = ops.square(x1 / scale) + ops.square(x2 / scale)
    return ops.where(silent, ops.zeros_like(scale), scale * ops.sqrt(ops.where(silent, one, squares)))


def sinc(x: Tensor) -> Tensor:
    """sin(pi x) / (pi x), by its power series near 0, where TensorFlow's derivative is NaN."""
    t = _floats(x)[0] * math.pi
    near = ops.abs(t) < 0.1
    s = ops.square(ops.where(near, t, ops.zeros_like(t)))
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72)))
    far = ops.where(near, ops.ones_like(t), t)
    return ops.where(near, series, ops.sin(far) / far)


def _floats(*xs: Any) -> tuple[Tensor, ...]:
    """Operands in the floating-point type of the result."""
    dtype = keras.backend.result_type(*(x.dtype for x in xs if hasattr(x, "dtype")), float)
    return tuple(ops.convert_to_tensor(x, dtype=dtype) for x in xs)


def cumprod(x: Tensor, axis: int) -> Tensor:
    """Products of all values up to each one, in log2(n) steps; TensorFlow divides by the factors."""
    x = ops.moveaxis(x, axis, 0)
    step, count = 1, x.shape[0]
    while step < count:
        x = ops.concatenate([x[:step], x[step:] * x[:-step]], axis=0)
        step *= 2
    return ops.moveaxis(x, 0, axis)


def prod(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Products over axes, by halves; TensorFlow's first derivative is right, its second one that of ``cumprod``."""
    for axis in sorted(axes, reverse=True):
        x = ops.moveaxis(x, axis, 0)
        while x.shape[0] > 1:
            half = x.shape[0] // 2
            x = ops.concatenate([x[:half] * x[half : 2 * half], x[2 * half :]], axis=0)
        x = ops.moveaxis(x, 0, axis) if keepdims else x[0]
    return x


def det(a: Tensor) -> Tensor:
    """Determinants as polynomials of the entries (Bird 2011): singular matrices have derivatives too."""
    size = a.shape[-1]
    above = ops.triu(ops.ones_like(a), 1)
    unit = ops.cast(ops.eye(size), a.dtype)
    found = a
    for _ in range(size - 1):
        diagonal = ops.diagonal(found, axis1=-2, axis2=-1)
        behind = ops.sum(diagonal, axis=-1, keepdims=True) - ops.cumsum(diagonal, axis=-1)
        found = -ops.matmul(above * found - unit * ops.expand_dims(behind, -1), a)
    return found[..., 0, 0]


def _cumprod(op: Any, shape: tuple[int | None, ...]) -> Callable[..., Tensor] | None:
    if op.axis is None or not shape[op.axis] or op.dtype is not None:
        return None
    return functools.partial(cumprod, axis=op.axis)


def _prod(op: Any, shape: tuple[int | None, ...]) -> Callable[..., Tensor] | None:
    if op.axis is None or op.dtype is not None:
        return None
    named = op.axis if isinstance(op.axis, (list, tuple)) else (op.axis,)
    axes = tuple(a % len(shape) for a in named)
    return functools.partial(prod, axes=axes, keepdims=op.keepdims) if all(shape[a] for a in axes) else None


_FUNCTIONS: dict[str, Callable[[Any, tuple[int | None, ...]], Callable[..., Tensor] | None]] = {
    "logaddexp": lambda op, shape: logaddexp,
    "logaddexp2": lambda op, shape: functools.partial(logaddexp, base=math.log(2.0)),
    "hypot": lambda op, shape: hypot,
    "sinc": lambda op, shape: sinc,
    "cumprod": _cumprod,
    "prod": _prod,
    "det": lambda op, shape: det if shape[-1] and shape[-1] <= LARGEST_MATRIX else None,
}
