"""Affine maps z = bilinear(x, kernel) + bias and how they are composed: folding, batch normalisation, operations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from innv_ext.backend import numerics
from innv_ext.backend.graph import Arg, Call
from innv_ext.backend.masks import keep_mask

Tensor = Any
ScaleKernel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Affine:
    """One affine node. Weights are read when it is evaluated, never when it is built.

    Attributes
    ----------
    layer : the Keras layer (or operation) it came from
    bilinear : ``(x, kernel) -> z``, linear in both
    kernel : ``() -> kernel``
    bias : ``(x) -> bias`` broadcastable against z, or None
    channel_axis : axis of z (negative) along which the output channels lie
    scale_outputs, scale_inputs : ``(kernel, factor per channel) -> kernel``, or None where the kernel has no such axis
    add : how the bias is added; layers of Keras use ``keras.ops.add``, which takes a vector as long as the last axis
        for a channels-last bias whatever its shape
    """

    layer: Any
    bilinear: Callable[[Tensor, Tensor], Tensor]
    kernel: Callable[[], Tensor]
    bias: Callable[[Tensor], Tensor | None]
    channel_axis: int = -1
    scale_outputs: ScaleKernel | None = None
    scale_inputs: ScaleKernel | None = None
    add: Callable[[Tensor, Tensor], Tensor] = operator.add

    def __call__(self, x: Tensor) -> Tensor:
        return self.parts(x)[1]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output without and with the bias."""
        kernel = self.kernel()
        x_wide = self.cast(x, kernel)
        u, bias = self.bilinear(x_wide, kernel), self.bias(x_wide)
        z = u if bias is None else self.add(u, bias)
        return u, keep_mask(x, z) if getattr(self.layer, "supports_masking", False) else z

    @staticmethod
    def cast(x: Tensor, kernel: Tensor) -> Tensor:
        """``x`` in the dtype of the weights; in half precision both are float32."""
        dtype = keras.backend.standardize_dtype(kernel.dtype)
        return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def read(weight: Any) -> Tensor:
    """The value of a weight now, in float32 or float64."""
    return numerics.widen(ops.convert_to_tensor(weight))


def along(vector: Tensor, axis: int) -> Tensor:
    """A per-channel vector shaped to broadcast along the negative ``axis``; other ranks are left alone."""
    return vector if axis == -1 or len(vector.shape) != 1 else ops.reshape(vector, [-1] + [1] * (-axis - 1))


def batchnorm_vectors(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean, 1 / sqrt(variance + epsilon), gamma, beta) of a BatchNormalization layer in inference."""
    mean, variance = read(layer.moving_mean), read(layer.moving_variance)
    gamma = read(layer.gamma) if layer.scale else ops.ones_like(mean)
    beta = read(layer.beta) if layer.center else ops.zeros_like(mean)
    return mean, ops.rsqrt(variance + layer.epsilon), gamma, beta


def elementwise(layer: Any, axis: int, vectors: Callable[[], tuple[Tensor, Tensor]]) -> Affine:
    """z = kernel * x + bias per channel, with ``vectors() = (kernel, bias)``."""
    return Affine(
        layer,
        lambda x, kernel: x * kernel,
        lambda: along(vectors()[0], axis),
        lambda x: along(vectors()[1], axis),
        axis,
        lambda kernel, factor: kernel * along(factor, axis),
        lambda kernel, factor: kernel * along(factor, axis),
    )


def fold_after(affine: Affine, axis: int, scale_shift: Callable[[], tuple[Tensor, Tensor]]) -> Affine:
    """``affine`` followed by y = scale * z + shift per channel, as one affine map."""

    def bias(x: Tensor) -> Tensor:
        (scale, shift), b = scale_shift(), affine.bias(x)
        return along(shift, axis) if b is None else b * along(scale, axis) + along(shift, axis)

    return replace(
        affine, kernel=lambda: affine.scale_outputs(affine.kernel(), scale_shift()[0]), bias=bias, add=operator.add
    )


def fold_before(affine: Affine, axis: int, scale_shift: Callable[[], tuple[Tensor, Tensor]]) -> Affine:
    """y = scale * x + shift per channel followed by ``affine``; exact also with zero padding (the bias is a map)."""

    def bias(x: Tensor) -> Tensor:
        constant = ops.zeros_like(x[:1]) + along(scale_shift()[1], axis)
        shifted, b = affine.bilinear(constant, affine.kernel()), affine.bias(x)
        return shifted if b is None else shifted + b

    return replace(
        affine, kernel=lambda: affine.scale_inputs(affine.kernel(), scale_shift()[0]), bias=bias, add=operator.add
    )


def affine_op(call: Call) -> Affine | None:
    """An operation such as ``ops.matmul(x, w)`` with one tensor and one constant operand, as an affine node."""
    positional = list(call.args) + [v for v in call.kwargs.values() if isinstance(v, Arg)]
    constants = [(i, a) for i, a in enumerate(call.args) if is_array(a)]
    if sum(isinstance(a, Arg) for a in positional) != 1 or len(constants) != 1:
        return None
    place, constant = constants[0]

    def product(x: Tensor, kernel: Tensor) -> Tensor:
        args = list(call.args)
        args[place] = kernel
        return replace(call, args=tuple(args))(x)

    return Affine(call.op, product, lambda: read(constant), lambda x: None)


def constant_operand(call: Call) -> Any | None:
    """The constant of a two-operand operation with one tensor, or None."""
    constants = [a for a in call.args if is_array(a) or isinstance(a, (int, float))]
    tensors = [a for a in call.args if isinstance(a, Arg)]
    return constants[0] if len(constants) == 1 and len(tensors) == 1 else None


def is_array(value: Any) -> bool:
    """Whether an argument is an array or variable."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, keras.KerasTensor)
