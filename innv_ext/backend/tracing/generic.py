"""What a ``call`` asks of Keras and a symbolic run answers otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

_NONE = "none"  # a name that no branch has


@contextmanager
def generic() -> Iterator[None]:
    """Within it, a layer with a branch for the running backend takes the one for all others; ``ops.ndim`` is a number.

    In the branch for a backend stand its own functions, which take no KerasTensors. Whether the other computes the same
    is seen when what was recorded is tried out.
    """
    before = keras.config.backend, keras.backend.backend, keras.ops.ndim

    def ndim(x: Any) -> Any:
        return len(x.shape) if isinstance(x, keras.KerasTensor) else before[2](x)

    keras.config.backend = keras.backend.backend = lambda: _NONE
    keras.ops.ndim = ndim
    try:
        yield
    finally:
        keras.config.backend, keras.backend.backend, keras.ops.ndim = before
