"""Moment rules of activations: exact where they are piecewise linear, by quadrature where they are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from innv_ext.analyzers.moments import gaussian
from innv_ext.analyzers.moments.values import Moments
from innv_ext.backend import traits
from innv_ext.backend.graph import Graph, Node

Tensor = Any
Values = tuple[Any, ...]
SMOOTH = """elu ELU selu celu gelu silu swish mish softplus softsign sigmoid hard_silu hard_swish tanh tanh_shrink
    squareplus log_sigmoid sparse_plus sparse_sigmoid expm1 exp2 erf erfc sin cos arctan arcsinh"""


def relu(node: Node, values: Values) -> Sequence[Moments]:
    """ReLU, exact for a Gaussian."""
    x = values[0]
    return [x.scaled(node, *gaussian.relu_moments(x.mean, x.variance(), gain=bool(x.factors)))]


def piecewise_linear(node: Node, values: Values) -> Sequence[Moments]:
    """Leaky, capped and thresholded ReLUs, hard sigmoid and tanh, abs, clip: exact for a Gaussian."""
    x = values[0]
    found = gaussian.piecewise_linear_moments(x.mean, x.variance(), *traits.pieces(node), gain=bool(x.factors))
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
    pieces = traits.pieces(node) if len(node.inputs) == 1 else None
    return pieces is not None and traits.activation_key(node) != "PReLU" and pieces == ([0.0], [0.0, 1.0], [0.0, 0.0])


def has_pieces(node: Node, graph: Graph) -> bool:
    """A piecewise linear activation whose pieces are known."""
    return len(node.inputs) == 1 and traits.pieces(node) is not None
