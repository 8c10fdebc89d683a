"""What a ``call`` asks of Keras and a symbolic run answers otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import tree

from innv_ext.backend.tracing.state import runs_recorded_graph

_NONE = "none"  # a name that no branch has


@contextmanager
def generic() -> Iterator[None]:
    """Within it, a layer with a branch for the running backend takes the one for all others.

    In the branch for a backend stand its own functions, which take no KerasTensors. Whether the other computes the same
    is seen when what was recorded is tried out.
    """
    before = keras.config.backend, keras.backend.backend
    keras.config.backend = keras.backend.backend = lambda: _NONE
    try:
        yield
    finally:
        keras.config.backend, keras.backend.backend = before


@contextmanager
def calls_inside(run: Callable[[Any, Any, Any], Any], wanted: Callable[[Any], bool]) -> Iterator[None]:
    """Within it ``run(layer, args, kwargs)`` takes the place of calls on KerasTensors of layers that are ``wanted``.

    Other layers say the sizes of their outputs, see ``sizes_told``.
    """
    plain = keras.layers.Layer.__call__

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        inside = _symbolic(args, kwargs) and layer.built and wanted(layer)
        return run(layer, args, kwargs) if inside else plain(layer, *args, **kwargs)

    keras.layers.Layer.__call__ = called
    try:
        with sizes_told():
            yield
    finally:
        keras.layers.Layer.__call__ = plain


@contextmanager
def sizes_told() -> Iterator[None]:
    """Within it layers say all sizes of their outputs on KerasTensors if they know those of their inputs.

    ``EinsumDense(output_shape=(None, 2, 4))`` by itself says None for a number of steps that it is told.
    """
    spec = keras.layers.Layer.symbolic_call

    def told(layer: Any, *args: Any, **kwargs: Any) -> Any:
        for kt in _symbolic(args, kwargs):
            object.__setattr__(kt, "_sparse", False)  # which Keras says of products with variables
        found = spec(layer, *args, **kwargs)
        vague = any(None in kt.shape for kt in _symbolic(found)) and runs_recorded_graph(layer) is False
        if vague and not any(None in kt.shape for kt in _symbolic(args, kwargs)):
            return keras.Operation.compute_output_spec(layer, *args, **kwargs)
        return found

    keras.layers.Layer.symbolic_call = told
    try:
        yield
    finally:
        keras.layers.Layer.symbolic_call = spec


def _symbolic(*values: Any) -> list[keras.KerasTensor]:
    return [kt for kt in tree.flatten(values) if isinstance(kt, keras.KerasTensor)]
