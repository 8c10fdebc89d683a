"""Which output neuron each entry of a kernel belongs to, for any affine node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext.backend import numerics
from innv_ext.backend.affine import Affine
from innv_ext.backend.graph import Graph, Node, op_key
from innv_ext.errors import UnsupportedModelError

Tensor = Any
PROBE = 8  # positions along a free dimension that are tried


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of an affine node: its outputs, pooled over the positions that share weights.

    Attributes
    ----------
    axes, sizes : axes of the output (negative) that number the neurons; the others are samples and positions
    owner : neuron of each kernel entry; broadcastable to the kernel's shape, since it rarely depends on all axes
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    owner: np.ndarray

    @property
    def count(self) -> int:
        """Number of neurons."""
        return int(np.prod(self.sizes))

    def pooled(self, z: Tensor) -> Tensor:
        """Outputs (batch, ...) summed over samples and positions: (count,)."""
        rank = len(z.shape)
        kept = [a % rank for a in self.axes]
        return ops.reshape(ops.sum(z, axis=[a for a in range(rank) if a not in kept]), (-1,))

    def shaped(self, values: Tensor, rank: int) -> Tensor:
        """One value per neuron, (count,), to broadcast against outputs of that rank."""
        kept = {a % rank: s for a, s in zip(self.axes, self.sizes, strict=True)}
        return ops.reshape(values, [kept.get(a, 1) for a in range(rank)])

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per neuron, to broadcast against the kernel."""
        return values[self.owner]

    def gathered(self, kernel: np.ndarray) -> np.ndarray:
        """The sum of kernel-shaped values over the entries of each neuron."""
        constant = tuple(a for a, n in enumerate(self.owner.shape) if n == 1)
        sums = kernel.sum(axis=constant, keepdims=True, dtype=np.float64)
        return np.bincount(self.owner.reshape(-1), sums.reshape(-1), self.count)


def neurons_of(node: Node, graph: Graph) -> Neurons:
    """The neurons of an affine node.

    Where the node can scale its kernel by output channel, that tells the owners. Else they are found by
    differentiation: for an input of ones, the derivative of the sum of (number of the neuron times its outputs) with
    respect to an entry, over that of the plain sum, is the neuron's number.

    Raises
    ------
    UnsupportedModelError : an entry takes part in several neurons
    """
    affine, axes = node.call, _axes(node)
    assert isinstance(affine, Affine)
    kernel = affine.kernel()
    outputs = graph.specs[node.outputs[0]].shape
    if len(axes) == 1 and outputs[axes[0]] is not None:
        owner = _by_scaling(affine, tuple(kernel.shape), int(outputs[axes[0]]))
        if owner is not None:
            return Neurons(axes, (int(outputs[axes[0]]),), owner)
    shape = [1] + [PROBE if d is None else d for d in graph.specs[node.inputs[0]].shape[1:]]
    x = ops.ones(shape, dtype=kernel.dtype)
    (z,), pullback = numerics.vjp(lambda k: affine.bilinear(x, k), ops.ones_like(kernel))
    sizes = tuple(int(z.shape[a]) for a in axes)
    rank = len(z.shape)
    numbers = np.arange(int(np.prod(sizes)), dtype="float64")
    numbers = numbers.reshape([int(z.shape[a]) if a - rank in axes else 1 for a in range(rank)])
    owner, seen = _owners(z, pullback, numbers, node)
    for axis in range(owner.ndim):  # one entry stands for all where the axis doesn't matter
        first = np.take(owner, [0], axis=axis)
        if np.all((owner == first) | ~seen):
            owner, seen = first, np.any(seen, axis=axis, keepdims=True)
    return Neurons(axes, sizes, owner)


def _by_scaling(affine: Affine, kernel: tuple[int, ...], count: int) -> np.ndarray | None:
    """Scale tiny kernels by the channels' numbers: where the shape stays, the numbers lie along the right axes."""
    if affine.scale_outputs is None:
        return None
    rank = len(kernel)
    for kept in [(a,) for a in reversed(range(rank))] + ([(rank - 2, rank - 1)] if rank > 1 else []):
        small = [kernel[a] if a in kept else 1 for a in range(rank)]
        if np.prod(small) != count:
            continue
        try:
            scaled = affine.scale_outputs(ops.ones(small), ops.arange(count, dtype="float32"))
        except (ValueError, TypeError):
            continue
        owner = np.rint(ops.convert_to_numpy(scaled)).astype("int32")
        if list(owner.shape) == small and np.array_equal(np.sort(owner.reshape(-1)), np.arange(count)):
            return owner
    return None


def _owners(z: Tensor, pullback: Any, numbers: np.ndarray, node: Node) -> tuple[np.ndarray, np.ndarray]:
    def total(weights: np.ndarray) -> np.ndarray:
        cotangent = np.broadcast_to(weights, z.shape)
        return ops.convert_to_numpy(pullback(ops.convert_to_tensor(cotangent, dtype=z.dtype))[0]).astype("float64")

    ones = total(np.ones_like(numbers))
    scale = max(numbers.size - 1, 1)
    seen = ones > 0.5
    safe = np.where(seen, ones, 1)
    mean = total(numbers / scale) / safe
    owner = np.clip(np.rint(mean * scale), 0, numbers.size - 1).astype("int32")
    # an entry of several neurons would have the mean of their marks, which is the mark of none
    marks = np.random.default_rng(0).random(numbers.size)
    mark = total(marks[numbers.astype("int64")]) / safe
    if np.any(np.abs(mean * scale - owner)[seen] > 0.25) or np.any(np.abs(mark - marks[owner])[seen] > 1e-2):
        raise UnsupportedModelError(
            f"{node.name!r} ({op_key(node.op)}) uses some of its weights for several output neurons, so that it has no "
            f"pattern per neuron. Use another method, or give channel_axis to register_bilinear."
        )
    return np.where(seen, owner, 0), seen


def _axes(node: Node) -> tuple[int, ...]:
    """The output axes along which neurons have weights of their own."""
    affine, key = node.call, op_key(node.op)
    equation = getattr(affine.layer, "equation", None) or getattr(affine.layer, "subscripts", None)
    if key in ("EinsumDense", "einsum") and equation:
        left, output = equation.replace(" ", "").split("->")
        kernel = left.split(",")[1]
        return tuple(i - len(output) for i, c in enumerate(output) if c in kernel and c != ".") or (-1,)
    return (affine.channel_axis,)
