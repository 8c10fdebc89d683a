"""Moment rules of activations: exact where they are piecewise linear, by quadrature where they are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from innv_ext.analyzers.moments import gaussian
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import facts
from innv_ext.backend.affine import constant_operand, read
from innv_ext.backend.graph import Call, Graph, Node, op_key

Tensor = Any
Values = tuple[Any, ...]
Pieces = tuple[list[float], list[Any], list[Any]]  # knots, slopes, offsets
SMOOTH = """elu ELU selu celu gelu silu swish mish softplus softsign sigmoid hard_silu hard_swish tanh tanh_shrink
    squareplus log_sigmoid sparse_plus sparse_sigmoid expm1 exp2 erf erfc sin cos arctan arcsinh"""


def relu(node: Node, values: Values) -> Sequence[Moments]:
    """ReLU, exact for a Gaussian."""
    x = values[0]
    return [x.scaled(node, *gaussian.relu_moments(x.mean, x.variance(), gain=bool(x.factors)))]


def piecewise_linear(node: Node, values: Values) -> Sequence[Moments]:
    """Leaky, capped and thresholded ReLUs, hard sigmoid and tanh, abs, clip: exact for a Gaussian."""
    x = values[0]
    found = gaussian.piecewise_linear_moments(x.mean, x.variance(), *_pieces(node), gain=bool(x.factors))
    return [x.scaled(node, *found)]


def quadrature(node: Node, values: Values) -> Sequence[Moments]:
    """Smooth activations: Gauss-Hermite quadrature with 16 nodes."""
    x = values[0]
    return [x.scaled(node, *gaussian.quadrature_moments(node.call, x.mean, x.variance(), gain=bool(x.factors)))]


def square(node: Node, values: Values) -> Sequence[Moments]:
    """x^2, exact for a Gaussian."""
    return [values[0].scaled(node, *gaussian.square_moments(values[0].mean, values[0].variance()))]


def exponential(node: Node, values: Values) -> Sequence[Moments]:
    """exp(x), exact for a Gaussian."""
    return [values[0].scaled(node, *gaussian.exp_moments(values[0].mean, values[0].variance()))]


def plain_relu(node: Node, graph: Graph) -> bool:
    """max(x, 0) in any form."""
    pieces = _pieces(node) if len(node.inputs) == 1 else None
    return pieces is not None and facts.activation_key(node) != "PReLU" and pieces == ([0.0], [0.0, 1.0], [0.0, 0.0])


def has_pieces(node: Node, graph: Graph) -> bool:
    """A piecewise linear activation whose pieces are known."""
    return len(node.inputs) == 1 and _pieces(node) is not None


def _pieces(node: Node) -> Pieces | None:
    """Knots, and slope and offset of each piece between them; None for other functions."""
    key = facts.activation_key(node)
    op = node.op.activation if op_key(node.op) == "Activation" else node.op
    if key in _FIXED:
        return _FIXED[key]
    if key == "PReLU":
        return [0.0], [read(op.alpha), 1.0], [0.0, 0.0]
    if key in ("relu", "ReLU"):
        settings = [_setting(node, op, name) for name in ("negative_slope", "threshold", "max_value")]
        return _relu_pieces(*settings) if all(s is None or np.ndim(s) == 0 for s in settings) else None
    if key in ("leaky_relu", "LeakyReLU"):
        slope = _setting(node, op, "negative_slope")
        return [0.0], [0.2 if slope is None else float(slope), 1.0], [0.0, 0.0]
    if key == "soft_shrink":
        at = _setting(node, op, "threshold")
        at = 0.5 if at is None else float(at)
        return [-at, at], [1.0, 0.0, 1.0], [at, 0.0, -at]
    if key == "clip" and np.ndim(op.x_min) == np.ndim(op.x_max) == 0:
        low, high = float(op.x_min), float(op.x_max)
        return [low, high], [0.0, 1.0, 0.0], [low, 0.0, high]
    if key in ("maximum", "fmax", "minimum", "fmin") and isinstance(node.call, Call):
        at = constant_operand(node.call)
        if np.ndim(at) == 0:
            above = key in ("maximum", "fmax")
            return [float(at)], [0.0, 1.0] if above else [1.0, 0.0], [float(at), 0.0] if above else [0.0, float(at)]
    return None


_FIXED: dict[str, Pieces] = {
    "relu6": ([0.0, 6.0], [0.0, 1.0, 0.0], [0.0, 0.0, 6.0]),
    "hard_sigmoid": ([-3.0, 3.0], [0.0, 1 / 6, 0.0], [0.0, 0.5, 1.0]),
    "hard_tanh": ([-1.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]),
    "abs": ([0.0], [-1.0, 1.0], [0.0, 0.0]),
    "absolute": ([0.0], [-1.0, 1.0], [0.0, 0.0]),
    "fabs": ([0.0], [-1.0, 1.0], [0.0, 0.0]),
}


def _setting(node: Node, op: Any, name: str) -> Any:
    """A parameter of an activation, whether recorded with the call or kept by the layer or operation."""
    recorded = node.call.kwargs if isinstance(node.call, Call) else {}
    return recorded.get(name, getattr(op, name, None))


def _relu_pieces(slope: Any, threshold: Any, cap: Any) -> Pieces | None:
    slope, threshold = float(slope or 0.0), float(threshold or 0.0)
    if cap is not None and not 0 <= threshold <= cap:
        return None  # Keras clips to [0, cap] as well, which makes one more kink
    pieces = [threshold], [slope, 1.0], [-slope * threshold if slope else 0.0, 0.0]
    if cap is not None:
        pieces[0].append(float(cap))
        pieces[1].append(0.0)
        pieces[2].append(float(cap))
    return pieces
