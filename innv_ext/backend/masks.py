"""How Keras masks travel with tensors; the only file that touches their attribute."""

from __future__ import annotations

from typing import Any

from keras import ops

from innv_ext.backend import numerics

Tensor = Any


def mask_of(x: Tensor) -> Tensor | None:
    """The Keras mask of ``x``, if it has one."""
    return getattr(x, "_keras_mask", None)


def with_mask(y: Tensor, mask: Tensor | None) -> Tensor:
    """Give ``y`` a Keras mask; None leaves it as it is."""
    if mask is not None:
        y._keras_mask = mask
    return y


def keep_mask(x: Tensor, y: Tensor) -> Tensor:
    """Give ``y`` the Keras mask of ``x``, as a layer that supports masking does."""
    return with_mask(y, mask_of(x))


def alias(x: Tensor) -> Tensor:
    """A tensor of its own with the value of ``x``, keeping the Keras mask."""
    return keep_mask(x, numerics.identity(x))


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """A tensor of its own with the value of ``x`` and a Keras mask."""
    return with_mask(numerics.identity(x), mask)


def repeat_rows(x: Tensor, times: Tensor) -> Tensor:
    """Each sample ``times`` times in a row, with its Keras mask."""
    mask = mask_of(x)
    return with_mask(ops.repeat(x, times, axis=0), None if mask is None else ops.repeat(mask, times, axis=0))
