"""What keras.ops does not offer: vjp, loops, compiled functions; TensorFlow's part is in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext.backend.numerics.tensorflow import (
    Compiled,
    custom_gradient,
    erfc,
    identity,
    linearized,
    not_before,
    rectifies,
    restoring,
    run_symbolically,
    scan,
    second_derivative,
    with_slope,
    without_gradient,
)
from innv_ext.errors import UnsupportedModelError

__all__ = [
    "TINY",
    "Compiled",
    "check_backend",
    "close",
    "custom_gradient",
    "erfc",
    "floating",
    "hvp",
    "identity",
    "is_float",
    "negative",
    "not_before",
    "positive",
    "recompute",
    "rectifies",
    "restoring",
    "run_symbolically",
    "safe_divide",
    "scan",
    "second_derivative",
    "vjp",
    "wide_dtype",
    "widen",
    "with_slope",
    "without_gradient",
]

Tensor = Any
TINY = 1e-30  # denominators below this count as zero; r / TINY still fits into float32 for relevance up to 1e8


def check_backend() -> None:
    """Refuse every Keras backend but TensorFlow: the module beside this one is all that another would take.

    Raises
    ------
    UnsupportedModelError
        says how to set the backend
    """
    if keras.config.backend() != "tensorflow":
        raise UnsupportedModelError(
            f"innv_ext runs on the TensorFlow backend of Keras, but keras.config.backend() is "
            f"{keras.config.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow."
        )


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` (a Keras dtype string) is a floating-point type."""
    return dtype.startswith(("float", "bfloat"))


def floating(x: Tensor) -> bool:
    """Whether a tensor holds floating-point values."""
    return is_float(keras.backend.standardize_dtype(x.dtype))


def wide_dtype(dtype: str) -> str:
    """The dtype in which relevance of ``dtype`` tensors is carried: half precision becomes float32."""
    return dtype if dtype in ("float32", "float64") else "float32"


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 or float64."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == wide_dtype(dtype) else ops.cast(x, wide_dtype(dtype))


def recompute(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` evaluated again in the backward pass instead of keeping its intermediate values."""

    def evaluate(*xs: Tensor) -> Any:
        def gradient(*upstream: Tensor) -> tuple[Tensor | None, ...]:
            return vjp(fn, *xs)[1](*upstream)

        return fn(*xs), gradient

    return custom_gradient(evaluate)


def vjp(fn: Callable[..., Any], *xs: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., tuple[Tensor | None, ...]]]:
    """Evaluate ``fn`` once and return its outputs with their pullback.

    Parameters
    ----------
    fn : callable of tensors that returns a tensor or a (nested) list of tensors
    xs : tensors; integer ones are passed on but get no gradient

    Returns
    -------
    ys : tuple of tensors, the flattened outputs
    pullback : ``pullback(*rs)`` gives one gradient per input (None for integer inputs); it may be called more
        than once, shares the forward pass, and takes None for an output without cotangent. Gradients are float32 or
        float64; where float16 takes part they are scaled to its range and back, sample by sample, so that nothing
        underflows.
    """
    floats = [i for i, x in enumerate(xs) if floating(x)]
    outputs, pull = linearized(fn, xs, floats)
    ys = tuple(outputs)

    def pullback(*rs: Tensor | None) -> tuple[Tensor | None, ...]:
        targets = [i for i, (y, r) in enumerate(zip(ys, rs, strict=True)) if r is not None and floating(y)]
        gradients: list[Tensor | None] = [None] * len(xs)
        if not targets or not floats:
            return tuple(gradients)
        half = any(keras.backend.standardize_dtype(t.dtype) == "float16" for t in (*ys, *xs))
        cotangents, scale = _fit_range([ys[i] for i in targets], [rs[i] for i in targets], half)
        for i, g in zip(floats, pull(targets, cotangents), strict=True):
            g = widen(g)
            gradients[i] = g if scale is None else g * ops.reshape(scale, [-1] + [1] * (len(g.shape) - 1))
        return tuple(gradients)

    return ys, pullback


def hvp(gradient: Callable[..., Sequence[Tensor]], xs: Sequence[Tensor], vs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Hessian-vector products, one per sample, from the gradient of a score per sample.

    Double backward: the vjp of the gradient, which is H v because H is symmetric. Forward-over-reverse was about twice
    as slow on every network that was measured (benchmarks/second_order.py).

    Parameters
    ----------
    gradient : ``(*xs) -> one gradient per x``
    xs : tensors (batch, ...)
    vs : one direction per x, of its shape

    Returns
    -------
    one tensor per x
    """
    return vjp(gradient, *xs)[1](*vs)


def _fit_range(ys: list[Tensor], rs: list[Tensor], half: bool) -> tuple[list[Tensor], Tensor | None]:
    """Cotangents in the dtype of their outputs, and the factor per sample that was divided out for float16."""
    if not half:
        return [ops.cast(r, y.dtype) for y, r in zip(ys, rs, strict=True)], None
    peaks = [ops.max(ops.abs(ops.reshape(widen(r), [ops.shape(r)[0], -1])), axis=1) for r in rs]
    scale = ops.max(ops.stack(peaks), axis=0)
    scale = ops.where(scale > 0, scale, ops.ones_like(scale))
    scaled = [widen(r) / ops.reshape(scale, [-1] + [1] * (len(r.shape) - 1)) for r in rs]
    return [ops.cast(r, y.dtype) for y, r in zip(ys, scaled, strict=True)], scale


def safe_divide(r: Tensor, z: Tensor, epsilon: float = 0.0, sign: int = 0) -> Tensor:
    """``r / stabilise(z)`` with stabilise(z) = z + epsilon * sign(z) and sign(0) = +1.

    With ``epsilon=0`` only exact zeros (|z| < 1e-30) are stabilised, by 1e-7. Where all terms of z are known to have
    one ``sign`` (+1 or -1), z = 0 means that there is nothing to share: the result is 0 there, and where rounding (fast
    convolutions on accelerators) gave z the other sign.
    """
    z = not_before(r, z)
    if sign:
        return ops.divide_no_nan(r if sign > 0 else -r, ops.relu(z - TINY if sign > 0 else -z - TINY))
    size = epsilon or 1e-7
    side = ops.where(z < 0, ops.convert_to_tensor(-size, z.dtype), ops.convert_to_tensor(size, z.dtype))
    return r / (z + side if epsilon else ops.where(ops.abs(z) < TINY, side, z))


def positive(t: Tensor) -> Tensor:
    """max(t, 0)."""
    return ops.relu(t)


def negative(t: Tensor) -> Tensor:
    """min(t, 0)."""
    return ops.minimum(t, ops.cast(0.0, t.dtype))  # one pass over large kernels, unlike -relu(-t)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to a hundredth of a percent of the largest value (a tenth in half precision)."""
    half = any(keras.backend.standardize_dtype(t.dtype) in ("float16", "bfloat16") for t in (a, b))
    a, b = (ops.convert_to_numpy(ops.cast(t, "float64")) for t in (a, b))
    return a.shape == b.shape and np.allclose(
        a, b, rtol=0, atol=(0.1 if half else 1e-4) * max(np.abs(a).max(initial=0), 1e-6)
    )
