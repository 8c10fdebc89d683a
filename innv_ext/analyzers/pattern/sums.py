"""Learning patterns: streaming moments of the inputs and outputs of every affine node, in one pass over the data."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from innv_ext import files
from innv_ext.backend import numerics
from innv_ext.backend.graph import Graph, run
from innv_ext.backend.kinds import Kind
from innv_ext.backend.neurons import Neurons
from innv_ext.errors import InvalidInputError

Tensor = Any
TYPES = {"relu": +1, "relu.positive": +1, "relu.negative": -1, "linear": 0}


@dataclass(eq=False)
class ActivationMoments:
    """Sums over all samples and positions so far of one affine node, float64.

    u is the output without bias, less ``shift`` (its mean in the first batch, against cancellation); m is the mask.

    Attributes
    ----------
    xu, x : sums of m x u and of m x for each kernel entry, kernel-shaped
    masked : sum of m per neuron
    u : sum of u per neuron, over all samples
    count : samples times positions
    shift : per neuron
    """

    xu: np.ndarray
    x: np.ndarray
    masked: np.ndarray
    u: np.ndarray
    count: float
    shift: np.ndarray

    @classmethod
    def start(cls, kernel_shape: Sequence[int], shift: np.ndarray) -> ActivationMoments:
        """No sample yet."""
        zeros = np.zeros(len(shift))
        return cls(np.zeros(kernel_shape), np.zeros(kernel_shape), zeros, zeros.copy(), 0.0, shift)

    def add(self, xu: Any, x: Any, masked: Any, u: Any, count: Any) -> None:
        for total, part in ((self.xu, xu), (self.x, x), (self.masked, masked), (self.u, u)):
            np.add(total, np.asarray(part), out=total)
        self.count += float(count)

    def pattern(self, neurons: Neurons, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """a = (E_m[x u] - E_m[x] E[u]) / (w . (...)), and which neurons have none (a = 0): (kernel-shaped, (count,)).

        Uses up the sums. Source: Kindermans et al. 2018, equations 6 to 8.
        """
        masked = np.maximum(self.masked, 1)
        covariance, rest = self.xu, self.x  # kernels may be large: all in place
        covariance /= neurons.spread(masked)
        rest *= neurons.spread(self.u / (max(self.count, 1) * masked))
        covariance -= rest
        np.multiply(covariance, kernel, out=rest)
        norm = neurons.gathered(rest)
        size = neurons.gathered(np.abs(rest, out=rest))
        # against the largest value that the sum could have, a norm below rounding of float32 is noise
        dead = (self.masked == 0) | (np.abs(norm) <= 1e-6 * size)
        covariance *= neurons.spread(np.where(dead, 0, 1 / np.where(dead, 1, norm)))
        return covariance, dead


def moment_sums(
    xs: list[Tensor], index: Tensor, *shifts: Tensor, graph: Graph, neurons: tuple[Neurons, ...], sign: int
) -> list[tuple[Tensor, ...]]:
    """Per affine node the sums that ``ActivationMoments.add`` takes; no patch of a convolution is ever cut out.

    The sum over samples and positions of m u x is the derivative of sum m u (w . x) with respect to w.
    """
    slots, found = dict(zip(graph.inputs, xs, strict=True)), []
    affine_nodes = zip(neurons, shifts, strict=True)
    for node in graph.nodes:
        if node.kind is not Kind.AFFINE:
            slots = run((node,), slots)
            continue
        (own, shift), affine, x = next(affine_nodes), node.call, slots[node.inputs[0]]
        kernel = numerics.identity(affine.kernel())
        wide = affine.cast(x, kernel)
        u, y = affine.parts(x)
        (_,), pullback = numerics.vjp(partial(affine.bilinear, wide), kernel)
        shifted = u - ops.cast(own.shaped(shift, len(u.shape)), u.dtype)
        mask = ops.ones_like(u) if not sign else ops.cast((y if sign > 0 else -y) > 0, u.dtype)
        sums = (pullback(mask * shifted)[0], pullback(mask)[0], own.pooled(mask), own.pooled(shifted))
        found.append((*sums, ops.cast(ops.size(u), "float64") / own.count))
        slots[node.outputs[0]] = y
    return found


def save_moments(path: Path, moments: Iterable[ActivationMoments], batches: int, signature: str) -> None:
    """Write the state of a fit; the file is replaced only when it is complete."""
    arrays: dict[str, np.ndarray] = {"batches": np.array(batches), "signature": np.array(signature)}
    for i, m in enumerate(moments):
        arrays |= {f"{name}{i}": np.asarray(value) for name, value in vars(m).items()}
    files.write(path, lambda file: np.savez(file, **arrays))


def load_moments(path: Path, signature: str) -> tuple[list[ActivationMoments], int]:
    """What ``save_moments`` wrote, for the same model and pattern type."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = str(arrays["signature"])
            count = sum(k.startswith("xu") for k in arrays)
            names = [f.name for f in fields(ActivationMoments)]
            moments = [ActivationMoments(*(arrays[f"{name}{i}"] for name in names)) for i in range(count)]
            batches = int(arrays["batches"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"resume_from={str(path)!r} is no state of an interrupted fit: {error}") from error
    if found != signature:
        raise InvalidInputError(
            f"resume_from={str(path)!r} belongs to another fit ({found}), this one is {signature}. Remove the file."
        )
    return moments, batches
