"""The map of an analyzer as a differentiable function of tensors: what an attack on explanations follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import optim
from innv_ext.analyzers.core import request
from innv_ext.analyzers.parts.partition import Partition
from innv_ext.backend.numerics import widen

Tensor = Any
Tensors = list[Tensor]


@dataclass(frozen=True, eq=False)
class TensorMap:
    """map(x) = end(x, sum over points of part(x, points)), differentiable in x.

    A method that averages over points (noisy copies, positions on a line) is taken in chunks of points, so that memory
    stays bounded; all others have the one point without arrays. What an optimiser found is held constant.

    Attributes
    ----------
    part : (xs, target, constants, points) -> tensors (batch, ...), summed over the points given
    end : (xs, target, constants, totals) -> one map per input
    points : arrays (points, ...); empty for methods without points
    constants : explanation at x -> arrays (batch, ...)
    """

    part: Callable[[Tensors, Tensor, Tensors, Tensors], Tensors]
    end: Callable[[Tensors, Tensor, Tensors, Tensors], Tensors]
    points: list[np.ndarray]
    constants: Callable[[Any], list[np.ndarray]]


def field_map(
    field: Callable[[Tensors, Tensor, Tensor], Tensor],
    shrink: Callable[[Tensor, Tensors], Tensor],
    features: Partition,
    noise: Sequence[np.ndarray] | None,
    constants: Callable[[Any], list[np.ndarray]],
) -> TensorMap:
    """shrink(mean of field(z, target, step) over noisy copies z of x), a flat vector, in the shape of the inputs.

    Parameters
    ----------
    field : (points z, target, step) -> tensor (rows, d)
    shrink : (tensor (batch, d), constants) -> tensor (batch, d)
    features : how flat vectors cover the inputs
    noise : one array (copies, ...) per input, in units of x's range; None: x itself
    constants : explanation -> [step (batch, d), more]
    """
    draws = [] if noise is None else list(noise)
    copies = len(draws[0]) if draws else 1

    def part(xs: Tensors, target: Tensor, held: Tensors, points: Tensors) -> Tensors:
        if not points:
            return [field(xs, target, held[0])]
        count = ops.shape(points[0])[0]
        rows = [_copies(x, n) for x, n in zip(xs, points, strict=True)]
        found = field(rows, ops.repeat(target, count), ops.repeat(held[0], count, axis=0))
        return [ops.sum(ops.reshape(found, (-1, count, features.count)), axis=1) / copies]

    def end(xs: Tensors, target: Tensor, held: Tensors, totals: Tensors) -> Tensors:
        return features.expand(shrink(totals[0], held))

    return TensorMap(part, end, draws, constants)


def _copies(x: Tensor, noise: Tensor) -> Tensor:
    """x + range of x times each of the draws, (batch * draws, ...)."""
    axes = tuple(range(1, len(x.shape)))
    wide = widen(x)
    spread = ops.max(wide, axis=axes, keepdims=True) - ops.min(wide, axis=axes, keepdims=True)
    moved = wide[:, None] + spread[:, None] * ops.cast(noise, wide.dtype)[None]
    return ops.cast(ops.reshape(moved, (-1, *ops.shape(x)[1:])), x.dtype)


def soft_threshold(v: Tensor, threshold: Tensor) -> Tensor:
    """sign(v) max(|v| - threshold, 0)."""
    return ops.relu(v - threshold) - ops.relu(-v - threshold)


def shrunk(v: Tensor, penalty: optim.Penalty) -> Tensor:
    """The proximal operator of the penalty at v (batch, d)."""
    if isinstance(penalty, optim.L1):
        return soft_threshold(v, penalty.weight)
    if isinstance(penalty, optim.GroupL2):
        labels = ops.convert_to_tensor(penalty.groups)
        squares = ops.transpose(ops.segment_sum(ops.transpose(ops.square(v)), labels, int(penalty.groups.max()) + 1))
        sizes = ops.sqrt(ops.maximum(squares, ops.cast(1e-30, v.dtype)))  # sqrt has no derivative at 0
        return v * ops.take(ops.relu(1 - penalty.weight / sizes), labels, axis=1)
    return v


def flat_attribution(analyzer: Any, found: Any) -> np.ndarray:
    """The attribution of an explanation as one vector a sample, (batch, d)."""
    arrays = request.flatten_inputs(found.attribution, analyzer.input_structure_, analyzer.input_specs())
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
