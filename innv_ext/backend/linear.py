"""Linear layers taught once: z = bilinear(x, kernel) + bias.

LRP changes the kernel or the input, Deep Taylor too, PatternNet replaces the kernel, density filtering squares it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from innv_ext.backend import numerics
from innv_ext.backend.affine import Affine, ScaleKernel, along, read
from innv_ext.backend.graph import Call, op_key
from innv_ext.backend.masks import keep_mask
from innv_ext.errors import UnsupportedModelError

Tensor = Any


@dataclass(frozen=True)
class LinearKind:
    """How to read one layer class; a row of the table that ``register_bilinear`` fills."""

    bilinear: Callable[[Any, Tensor, Tensor], Tensor]
    kernel: Callable[[Any], Tensor]
    bias: Callable[[Any], Tensor | None]
    activation: Callable[[Any], Callable[..., Any] | None]
    channel_axis: Callable[[Any], int]
    scale_outputs: Callable[[Any], ScaleKernel | None] = lambda layer: None
    scale_inputs: Callable[[Any], ScaleKernel | None] = lambda layer: None
    by_user: bool = True


_TABLE: dict[type, LinearKind] = {}


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda layer: getattr(layer, name, None)


def register_bilinear(
    layer_class: type,
    *,
    kernel: Callable[[Any], Tensor] | str = "kernel",
    bias: Callable[[Any], Tensor | None] | str = "bias",
    activation: Callable[[Any], Any] | str = "activation",
    channel_axis: int = -1,
) -> Callable[[Callable[[Any, Tensor, Tensor], Tensor]], Callable[[Any, Tensor, Tensor], Tensor]]:
    """Teach innv_ext a linear layer: every LRP, Deep Taylor and pattern rule follows from it.

    Parameters
    ----------
    layer_class : the Keras layer class (subclasses are registered on their own)
    kernel, bias, activation : attribute names, or functions of the layer; ``bias`` and ``activation`` may yield None
    channel_axis : axis of the output along which ``bias`` lies

    Returns
    -------
    decorator for ``bilinear(layer, x, kernel) -> z``: the layer's output without bias and activation

    Examples
    --------
    >>> import keras, innv_ext
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones")
    ...     def call(self, x):
    ...         return x * self.kernel
    >>> @innv_ext.register_bilinear(Scale)
    ... def scale_bilinear(layer, x, kernel):
    ...     return x * kernel
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise UnsupportedModelError(f"register_bilinear takes a Keras layer class, got {layer_class!r}.")
    read = [_attribute(f) if isinstance(f, str) else f for f in (kernel, bias, activation)]

    def register(bilinear: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
        _TABLE[layer_class] = LinearKind(bilinear, *read, channel_axis=lambda layer: channel_axis)
        return bilinear

    return register


@dataclass(frozen=True, eq=False)
class Quantised(Affine):
    """A quantised Dense layer: evaluated as Keras does, rounding its inputs; its kernel is the dequantised one.

    That is also how Keras differentiates it. Nothing can be folded into its kernel.
    """

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output without and with the bias."""
        x_wide = self.cast(x, self.kernel())
        z, bias = bare(self.layer).quantized_call(x_wide), self.bias(x_wide)
        return z if bias is None else z - bias, keep_mask(x, z)


def bare(layer: Any) -> Any:
    """The same layer, with the same variables, without its activation."""
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__, activation=None)
    return twin


def quantised_affine(layer: Any) -> Affine | None:
    """The affine part of a quantised layer; None for those whose dequantised kernel is not known."""
    mode = getattr(layer, "quantization_mode", None)
    if op_key(layer) != "Dense" or mode not in ("int8", "int4") or not hasattr(bare(layer), "quantized_call"):
        return None

    def kernel() -> Tensor:
        if mode == "int8" and not layer.lora_enabled:
            return ops.divide(ops.cast(layer.kernel, "float32"), read(layer.kernel_scale))
        zeros = ops.zeros((layer.units, layer.input_spec.axes[-1]))  # each row is the gradient of one neuron
        _, pullback = numerics.vjp(bare(layer).quantized_call, zeros)
        return ops.transpose(pullback(ops.eye(layer.units))[0])

    return Quantised(
        layer, ops.matmul, kernel, lambda x: None if layer.bias is None else read(layer.bias)
    )


def reversed_affine(call: Call) -> Affine | None:
    """A call of ReversibleEmbedding from vectors back to the vocabulary, without its soft cap; None for all others."""
    layer = call.op
    if not reverses(call) or layer.quantization_mode:
        return None

    def kernel() -> Tensor:
        return ops.transpose(read(layer.embeddings)) if layer.tie_weights else read(layer.reverse_embeddings)

    return Affine(layer, ops.matmul, kernel, lambda x: None, -1, _scale_axis(-1), _scale_axis(-2))


def reverses(call: Call) -> bool:
    """Whether a call of ReversibleEmbedding goes from vectors to the vocabulary."""
    return bool(call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False))


def soft_cap(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """What a ReversibleEmbedding does to its logits: cap tanh(z / cap)."""
    cap = layer.logit_soft_cap
    return None if cap is None else lambda z: ops.multiply(ops.tanh(ops.divide(z, cap)), cap)


def linear_kind(layer: Any) -> LinearKind | None:
    """The row of ``layer``'s class, None if it is not a plain linear layer (quantised ones: ``quantised_affine``)."""
    if not isinstance(layer, keras.layers.Layer) or getattr(layer, "quantization_mode", None):
        return None
    if type(layer) in _TABLE:
        return _TABLE[type(layer)]
    base = getattr(keras.layers, op_key(layer), None)
    return _TABLE.get(base) if base is not None else None


def bilinear(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    """The output of a linear layer without bias and activation, for any input and kernel of the layer's shapes."""
    row = linear_kind(layer)
    if row is None:
        raise UnsupportedModelError(
            f"{type(layer).__name__} {layer.name!r} is not a linear layer known to innv_ext; "
            f"teach it with innv_ext.register_bilinear({type(layer).__name__})."
        )
    return row.bilinear(layer, x, kernel)


def affine_of(layer: Any) -> Affine:
    """The affine part of a registered linear layer."""
    row = linear_kind(layer)
    assert row is not None
    axis = row.channel_axis(layer)

    def bias(x: Tensor) -> Tensor | None:
        b = row.bias(layer)
        return None if b is None else along(read(b), axis)

    return Affine(
        layer,
        lambda x, kernel: row.bilinear(layer, x, kernel),
        lambda: read(row.kernel(layer)),
        bias,
        axis,
        row.scale_outputs(layer),
        row.scale_inputs(layer),
        ops.add,
    )


def affine_part(call: Any) -> tuple[Affine | None, Any]:
    """(affine map, activation) of a recorded call of a linear layer; (None, None) for all others."""
    layer = call.op if isinstance(call, Call) and op_key(call.op) != "Embedding" else None
    if op_key(layer) == "ReversibleEmbedding":
        return reversed_affine(call), soft_cap(layer)
    row = linear_kind(layer)
    if row is not None:
        return affine_of(layer), row.activation(layer)
    return quantised_affine(layer), getattr(layer, "activation", None)


# --- the layers of Keras -----------------------------------------------------------------------------------------


def _scale_axis(axis: int) -> ScaleKernel:
    return lambda kernel, factor: kernel * along(factor, axis)


def _spatial(layer: Any) -> dict[str, Any]:
    return {"strides": layer.strides, "dilation_rate": layer.dilation_rate, "data_format": layer.data_format}


def _channels(layer: Any) -> int:
    return -1 if layer.data_format == "channels_last" else -(layer.rank + 1)


def _dense(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.matmul(x, kernel)


def _einsum_dense(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.einsum(layer.equation, x, kernel)


def _conv(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    padding = layer.padding
    if padding == "causal":
        steps = (layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0)
        x = ops.pad(x, [(0, 0), steps, (0, 0)] if layer.data_format == "channels_last" else [(0, 0), (0, 0), steps])
        padding = "valid"
    return ops.conv(x, kernel, padding=padding, **_spatial(layer))


def _conv_transpose(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.conv_transpose(x, kernel, padding=layer.padding, output_padding=layer.output_padding, **_spatial(layer))


def _depthwise(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.depthwise_conv(x, kernel, padding=layer.padding, **_spatial(layer))


def _pointwise(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.conv(x, kernel, padding="valid", data_format=layer.data_format)


def _separable(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return _pointwise(layer, _depthwise(layer, x, layer.depthwise_kernel), kernel)


def _embedding(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return ops.take(kernel, ops.cast(x, "int32"), axis=0)


def _einsum_scale(layer: Any) -> ScaleKernel | None:
    kernel, output = layer.equation.replace("->", ",").split(",")[1:]
    kernel = kernel.replace("...", "")
    return _scale_axis(kernel.index(output[-1]) - len(kernel)) if output and output[-1] in kernel else None


def _scale_multiplier(kernel: Tensor, factor: Tensor) -> Tensor:
    """A depthwise kernel (..., in, multiplier) has output channel in * multiplier + m."""
    return kernel * ops.reshape(factor, ops.shape(kernel)[-2:])


_COMMON = {
    "kernel": _attribute("kernel"),
    "bias": _attribute("bias"),
    "activation": _attribute("activation"),
    "by_user": False,
}


def _last(layer: Any) -> int:
    return -1


def _add(names: str, function: Callable[[Any, Tensor, Tensor], Tensor], **row: Any) -> None:
    for name in names.split():
        _TABLE[getattr(keras.layers, name)] = LinearKind(function, **{**_COMMON, **row})


_add(
    "Dense", _dense, channel_axis=_last, scale_outputs=lambda _: _scale_axis(-1), scale_inputs=lambda _: _scale_axis(-2)
)
_add("EinsumDense", _einsum_dense, channel_axis=_last, scale_outputs=_einsum_scale)
_add(
    "Conv1D Conv2D Conv3D",
    _conv,
    channel_axis=_channels,
    scale_outputs=lambda _: _scale_axis(-1),
    scale_inputs=lambda layer: _scale_axis(-2) if layer.groups == 1 else None,
)
_add(
    "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    _conv_transpose,
    channel_axis=_channels,
    scale_outputs=lambda _: _scale_axis(-2),
    scale_inputs=lambda _: _scale_axis(-1),
)
_add(
    "DepthwiseConv1D DepthwiseConv2D",
    _depthwise,
    channel_axis=_channels,
    scale_outputs=lambda _: _scale_multiplier,
    scale_inputs=lambda _: _scale_axis(-2),
)
_add("SeparableConv1D SeparableConv2D", _separable, channel_axis=_channels, kernel=_attribute("pointwise_kernel"))
_add(
    "Embedding",
    _embedding,
    channel_axis=_last,
    kernel=_attribute("embeddings"),
    bias=lambda _: None,
    activation=lambda _: None,
)


def separable_parts(layer: Any) -> tuple[Affine, Affine]:
    """The depthwise and the pointwise half of a separable convolution, each affine with its own kernel."""
    axis = _channels(layer)
    depthwise = Affine(
        layer,
        lambda x, k: _depthwise(layer, x, k),
        lambda: read(layer.depthwise_kernel),
        lambda x: None,
        axis,
        _scale_multiplier,
        _scale_axis(-2),
    )
    pointwise = replace(
        affine_of(layer),
        bilinear=lambda x, k: _pointwise(layer, x, k),
        scale_outputs=_scale_axis(-1),
        scale_inputs=_scale_axis(-2),
    )
    return depthwise, pointwise
