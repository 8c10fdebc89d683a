"""What one operation does in numbers, asked for instead of recognised by name; every function is of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import affine as affines
from innv_ext.backend.graph import Arg, Call, Node, Recorded, is_arg, op_key
from innv_ext.backend.kinds import KEEPS_SIGN, SOFTMAX, Kind

Tensor = Any
Pieces = tuple[list[float], list[Any], list[Any]]  # knots, slopes, offsets


def operation(node: Node) -> Any:
    """The layer, operation or activation function itself: what ``Activation`` wraps."""
    return node.op.activation if op_key(node.op) == "Activation" else node.op


def activation_key(node: Node) -> str:
    """The name of a node's operation: ``Activation("relu")`` is "relu"."""
    return op_key(operation(node))


# --- sums and products -------------------------------------------------------------------------------------------


def signs(node: Node) -> tuple[int, ...]:
    """+1 or -1, with which each input enters a sum."""
    taken = activation_key(node) in ("subtract", "Subtract")
    return tuple(-1 if taken and i == 1 else 1 for i in range(len(node.inputs)))


def factors(node: Node) -> str:
    """How a product combines its inputs: "values" one by one, in "sums" of products, as "quotient" or "attention"."""
    key = activation_key(node)
    if "divide" in key:
        return "quotient"
    return {"multiply": "values", "Multiply": "values", "dot_product_attention": "attention"}.get(key, "sums")


def is_multilinear(node: Node) -> bool:
    """Products that are linear in each of their factors: no quotients, no attention in one node."""
    return factors(node) in ("values", "sums")


def summed_axes(node: Node, *ranks: int) -> tuple[int | None, int | None]:
    """The axis of each of two factors over which a matrix product sums, if it is one; (None, None) where in doubt."""
    key, call, nothing = activation_key(node), node.call, (None, None)
    given = call.args[-2:] if isinstance(call, Call) else ()
    if len(ranks) != 2 or len(given) != 2 or not all(map(is_arg, given, (0, 1))):
        return nothing
    if key == "matmul":
        return (ranks[0] - 1, ranks[1] - 2) if min(ranks) > 1 else nothing
    terms, _, out = getattr(node.op, "subscripts", "").replace(" ", "").partition("->")
    pair = terms.split(",")
    if key != "einsum" or len(pair) != 2 or "." in terms:
        return nothing
    summed = (set(pair[0]) | set(pair[1])) - set(out)
    shared = summed & set(pair[0]) & set(pair[1])
    return (pair[0].index(*shared), pair[1].index(*shared)) if len(summed) == len(shared) == 1 else nothing


def is_outer(node: Node) -> bool:
    """Whether an einsum sums over nothing: every number of the result is a product of two."""
    given, _, out = getattr(node.op, "subscripts", "").replace(" ", "").partition("->")
    return activation_key(node) == "einsum" and bool(out) and set(given) <= {*out, ",", "."}


def shifts(node: Node) -> bool:
    """Whether a rescaling y = a x + b has a b."""
    key = activation_key(node)
    offset = getattr(node.op, "offset", 0.0) if key == "Rescaling" else 0.0
    return key in ("add", "subtract", "Normalization") or bool(np.any(np.asarray(offset) != 0))


def has_constants(node: Node) -> bool:
    """Whether arrays or starting values take part beside the node's inputs."""
    if not isinstance(node.call, Call):
        return False
    flat = tree.flatten((node.call.args, node.call.kwargs))
    given = any(affines.is_array(a) or (isinstance(a, Recorded) and not isinstance(a, Arg)) for a in flat)
    return given or getattr(node.op, "initial", None) is not None


def may_fill(node: Node) -> bool:
    """Whether constants stand between the values of the inputs: those of a call, or of padding."""
    pads = activation_key(node) in ("pad", "pad_images") or getattr(node.op, "pad_to_aspect_ratio", False)
    return pads or has_constants(node)


def fills(node: Node) -> bool:
    """Whether a node that moves values puts constants, zeros too, between them."""
    key = activation_key(node)
    return node.kind is Kind.SHAPE and (key.startswith("ZeroPadding") or key in ("tril", "triu") or may_fill(node))


def overshoots(node: Node) -> bool:
    """Whether an interpolation has negative weights."""
    return getattr(node.op, "interpolation", "nearest") not in ("nearest", "bilinear")


def keeps_sign(node: Node) -> bool:
    """Whether no output is negative where no input is; "no" where in doubt."""
    adds = node.kind in (Kind.LINEAR, Kind.PRODUCT) and activation_key(node) in KEEPS_SIGN
    moves = node.kind in (Kind.SHAPE, Kind.IDENTITY, Kind.MAX)
    return (adds or moves) and not (overshoots(node) or may_fill(node))


# --- axes ----------------------------------------------------------------------------------------------------------


def positions(node: Node, rank: int) -> tuple[int, ...]:
    """The axes beside batch and channels, along which windows move and over which global pooling goes."""
    first = 2 if node.op.data_format == "channels_first" else 1
    return tuple(range(first, first + rank - 2))


def axes(node: Node, rank: int) -> tuple[int, ...]:
    """The axes that a reduction, softmax or normalisation names, in order; empty for nodes without such."""
    op = operation(node)
    if op_key(op).startswith("Global"):
        return positions(node, rank)
    axis = getattr(op, "axis", -1 if op_key(op) in SOFTMAX else ())
    several = range(rank) if axis is None else axis if isinstance(axis, (list, tuple)) else (axis,)
    return tuple(sorted(a % rank for a in several))


def is_window(node: Node) -> bool:
    """Whether a node pools over windows that move, not over whole axes or several operands."""
    return len(node.inputs) == 1 and hasattr(node.op, "pool_size")


def windows(node: Node, x: Tensor) -> list[tuple[int, int, int, Any, tuple[Any, Any]]]:
    """(axis, size, stride, count, padding on both sides) of the windows of a pooling, along each axis of positions."""
    op, found = node.op, []
    moving = positions(node, len(x.shape))
    each = [(v,) * len(moving) if isinstance(v, int) else v for v in (op.pool_size, op.strides or op.pool_size)]
    for axis, size, stride in zip(moving, *each, strict=True):
        length = ops.shape(x)[axis]
        count = (length - (1 if op.padding == "same" else size)) // stride + 1
        missing = (count - 1) * stride + size - length  # negative where the last values are in no window
        missing = max(missing, 0) if isinstance(missing, int) else ops.maximum(missing, 0)
        found.append((axis, size, stride, count, (missing // 2, missing - missing // 2)))
    return found


# --- normalisation -------------------------------------------------------------------------------------------------


def statistics(node: Node) -> tuple[bool, float, bool, Any] | None:
    """(mean subtracted, epsilon, scale is the root of the mean square and not of the sum of squares, gamma or None).

    None for all but the normalisations by statistics of the sample itself.
    """
    key, layer = activation_key(node), node.op
    if key == "UnitNormalization":
        return False, 1e-12, False, None
    if key == "RMSNormalization":
        return False, float(layer.epsilon), True, layer.scale
    if key in ("LayerNormalization", "GroupNormalization") and not getattr(layer, "rms_scaling", False):
        return True, float(layer.epsilon), True, layer.gamma
    return None


def centres(node: Node) -> bool:
    """Layer and group normalisation, as layer or operation: the mean of the sample is subtracted."""
    named = activation_key(node) in ("LayerNormalization", "GroupNormalization", "layer_normalization")
    return named and not getattr(operation(node), "rms_scaling", False)


def scale_and_shift(node: Node) -> tuple[float, Any, Any]:
    """(epsilon, gamma, beta) of a node that ``centres``; each of the latter a variable, ``Arg`` or None."""
    op = operation(node)
    given = {"gamma": getattr(op, "gamma", None), "beta": getattr(op, "beta", None)}
    if not isinstance(op, keras.layers.Layer):
        given |= {**dict(zip(("x", "gamma", "beta"), node.call.args, strict=False)), **node.call.kwargs}
    epsilon = keras.config.epsilon() if op.epsilon is None else float(op.epsilon)
    return epsilon, given["gamma"], given["beta"]


def groups(node: Node, x: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...]]:
    """(view, back, axes) for a normalisation of x: ``view(x)`` has its statistics over ``axes``."""
    named, rank = axes(node, len(x.shape)), len(x.shape)
    if activation_key(node) != "GroupNormalization":
        return (lambda t: t), (lambda t: t), named
    axis, channels, count = named[0], x.shape[named[0]], node.op.groups

    def view(t: Tensor) -> Tensor:
        shape = ops.shape(t)
        return ops.reshape(t, (*shape[:axis], count, channels // count, *shape[axis + 1 :]))

    def back(t: Tensor) -> Tensor:
        shape = ops.shape(t)
        return ops.reshape(t, (*shape[:axis], channels, *shape[axis + 2 :]))

    return view, back, tuple(a for a in range(1, rank + 1) if a != axis)


def broadcast(vector: Any, named: tuple[int, ...], y: Tensor) -> Tensor:
    """A scale or shift with one value per index of the named axes, to broadcast against y."""
    return ops.reshape(ops.convert_to_tensor(vector), [s if a in named else 1 for a, s in enumerate(y.shape)])


# --- maxima and activations ------------------------------------------------------------------------------------------


def takes_least(node: Node) -> bool:
    """A minimum, not a maximum."""
    return "min" in activation_key(node).lower()


def pieces(node: Node) -> Pieces | None:
    """Knots of a piecewise linear activation, and slope and offset of each piece between them; None for others."""
    key, op = activation_key(node), operation(node)
    if key == "PReLU":
        return [0.0], [affines.read(op.alpha), 1.0], [0.0, 0.0]
    if key not in _PIECES:
        return None
    defaults, found = _PIECES[key]
    recorded = node.call.kwargs if isinstance(node.call, Call) else {}
    given = {name: recorded.get(name, getattr(op, name, None)) for name in defaults}
    if "constant" in defaults:
        given["constant"] = affines.constant_operand(node.call)
    given = {name: defaults[name] if value is None else value for name, value in given.items()}
    scalar = not any(v is None or np.ndim(v) for v in given.values())
    return found(*map(float, given.values())) if scalar else None


def _relu(slope: float, threshold: float, cap: float) -> Pieces | None:
    below = -slope * threshold
    if cap == np.inf:
        return [threshold], [slope, 1.0], [below, 0.0]
    # Keras clips to [0, cap] as well, which may make one more kink
    return ([threshold, cap], [slope, 1.0, 0.0], [below, 0.0, cap]) if 0 <= threshold <= cap else None


_PIECES: dict[str, tuple[dict[str, float | None], Callable[..., Pieces | None]]] = {  # settings, pieces from these
    "relu": ({"negative_slope": 0.0, "threshold": 0.0, "max_value": np.inf}, _relu),
    "leaky_relu": ({"negative_slope": 0.2}, lambda a: ([0.0], [a, 1.0], [0.0, 0.0])),
    "relu6": ({}, lambda: ([0.0, 6.0], [0.0, 1.0, 0.0], [0.0, 0.0, 6.0])),
    "abs": ({}, lambda: ([0.0], [-1.0, 1.0], [0.0, 0.0])),
    "hard_sigmoid": ({}, lambda: ([-3.0, 3.0], [0.0, 1 / 6, 0.0], [0.0, 0.5, 1.0])),
    "hard_tanh": ({}, lambda: ([-1.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0])),
    "soft_shrink": ({"threshold": 0.5}, lambda t: ([-t, t], [1.0, 0.0, 1.0], [t, 0.0, -t])),
    "clip": ({"x_min": None, "x_max": None}, lambda a, b: ([a, b], [0.0, 1.0, 0.0], [a, 0.0, b])),
    "maximum": ({"constant": None}, lambda c: ([c], [0.0, 1.0], [c, 0.0])),
    "minimum": ({"constant": None}, lambda c: ([c], [1.0, 0.0], [0.0, c])),
}
_SAME = "ReLU relu, LeakyReLU leaky_relu, absolute abs, fabs abs, fmax maximum, fmin minimum"
_PIECES |= {name: _PIECES[other] for name, other in map(str.split, _SAME.split(","))}
