"""Moment rules of products of random tensors: gates, matrix products, attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.moments import gaussian
from innv_ext.analyzers.moments import normalisation as moment_norm
from innv_ext.analyzers.moments.values import (
    Moments,
    combined,
    covariance,
    each,
    is_full,
    is_random,
    mean_of,
    per_direction,
    squares,
    var_of,
)
from innv_ext.backend import traits
from innv_ext.backend.graph import Call, Graph, Node

Tensor = Any
Values = tuple[Any, ...]


def product(node: Node, values: Values) -> Sequence[Moments]:
    """Elementwise products, exact for two Gaussians; x times x is the square of x."""
    powers = {
        slot: _power(node, value, node.inputs.count(slot)) for slot, value in zip(node.inputs, values, strict=True)
    }
    return [functools.reduce(functools.partial(_product, node), powers.values())]


def _power(node: Node, x: Any, n: int) -> Any:
    """x^n, exact for a Gaussian: quadrature has nodes enough for n < 16."""
    if n == 1:
        return x
    if not is_random(x):
        return x**n
    return x.scaled(node, *gaussian.quadrature_moments(lambda t: t**n, x.mean, x.variance(), gain=bool(x.factors)))


def _product(node: Node, a: Any, b: Any) -> Any:
    factors: dict[int, Tensor] = {}
    for x, other in ((a, b), (b, a)):
        for k, f in x.factors.items() if is_random(x) else ():
            part = f * ops.expand_dims(mean_of(other), 1)
            factors[k] = factors[k] + part if k in factors else part
    if not (is_random(a) and is_random(b)):
        x, fixed = (a, b) if is_random(a) else (b, a)
        return Moments(x.mean * fixed, x.var * fixed * fixed, factors, x.full)
    moments = gaussian.product_moments(a.mean, a.variance(), b.mean, b.variance(), covariance(a, b))
    return combined(node, *moments, factors, a.full)


def matrix_product(node: Node, values: Values) -> Sequence[Moments]:
    """Matrix products of two random tensors: exact if they and their components are independent."""
    return [_bilinear(node, node.call, *values)]


def _bilinear(node: Node, call: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Moments:
    ma, mb = mean_of(a), mean_of(b)
    va, vb = (v.variance() if is_random(v) else ops.zeros_like(v) for v in (a, b))
    rest = call(va, vb) + call(var_of(a), ops.square(mb)) + call(ops.square(ma), var_of(b))
    factors: dict[int, Tensor] = {}
    for x, other, product_with in ((a, mb, call), (b, ma, lambda t, fixed: call(fixed, t))):
        for k, f in x.factors.items() if is_random(x) else ():
            part = each(functools.partial(_with, product_with, per_direction(other, f)), f)
            factors[k] = factors[k] + part if k in factors else part
    return combined(node, call(ma, mb), rest + squares(factors), factors, is_full((a, b)))


def _with(function: Callable[[Tensor, Tensor], Tensor], fixed: Tensor, t: Tensor) -> Tensor:
    return function(t, fixed)


def attention(node: Node, values: Values) -> Sequence[Moments]:
    """softmax(q k^T * scale) v, each product as if its factors were independent, the softmax to first order."""
    query, key, value = values
    scale = node.call.kwargs.get("scale") if isinstance(node.call, Call) else None
    query = _times(query, 1 / np.sqrt(mean_of(query).shape[-1]) if scale is None else float(scale))
    scores = _bilinear(node, lambda q, k: ops.einsum("btnh,bsnh->bnts", q, k), query, key)
    shares = moment_norm.softmax_moments(scores, ops.softmax(scores.mean, axis=-1), (-1,))
    return [_bilinear(node, lambda p, v: ops.einsum("bnts,bsnh->btnh", p, v), shares, value)]


def _times(x: Any, number: float) -> Any:
    if not is_random(x):
        return x * number
    return Moments(x.mean * number, x.var * number**2, {k: f * number for k, f in x.factors.items()}, x.full)


def plain_attention(node: Node, graph: Graph) -> bool:
    """Attention without mask, bias or causality."""
    if traits.factors(node) != "attention" or len(node.inputs) != 3:
        return False
    options = {**vars(node.op), **(node.call.kwargs if isinstance(node.call, Call) else {})}
    return all(options.get(name) is None or options[name] is False for name in ("bias", "mask", "is_causal"))


def bilinear_in_two(node: Node, graph: Graph) -> bool:
    """Exactly two tensors come in, nothing else takes part, and neither is normalised first."""
    return len(node.inputs) == 2 and not traits.has_constants(node) and traits.is_multilinear(node)
