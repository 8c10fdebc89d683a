"""How Keras masks travel with tensors; the only file that touches their attribute."""

from __future__ import annotations

from collections.abc import Callable
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


def unmasked(x: Tensor) -> Tensor:
    """``x`` itself, from now on without a Keras mask."""
    if mask_of(x) is not None:
        x._keras_mask = None
    return x


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
    return _with_rows(x, lambda t: ops.repeat(t, times, axis=0))


def tile_rows(x: Tensor, times: Tensor) -> Tensor:
    """All samples, and all of them again, ``times`` times, with their Keras masks."""
    return _with_rows(x, lambda t: ops.tile(t, (times, *(1 for _ in t.shape[1:]))))


def alike(x0: Tensor, x: Tensor) -> Tensor:
    """x0, one sample for all or one for each, with as many rows as x; its Keras mask stays its own."""
    mask0, mask = mask_of(x0), mask_of(x)
    spread = mask0 if mask0 is None or mask is None else ops.logical_or(mask0, ops.zeros_like(mask))
    return with_mask(x0 + ops.zeros_like(x), spread)


def _with_rows(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    mask = mask_of(x)
    return with_mask(change(x), None if mask is None else change(mask))


class KeepMask:
    """An activation function as a node: the Keras mask of its input stays."""

    def __init__(self, fn: Callable[..., Tensor]):
        self.fn = fn

    def __call__(self, x: Tensor) -> Tensor:
        return keep_mask(x, self.fn(x))
