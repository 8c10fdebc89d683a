"""From Keras models to graphs; the only place that reads private attributes of Keras."""

from innv_ext.backend.tracing.cells import open_cell
from innv_ext.backend.tracing.generic import sizes_told
from innv_ext.backend.tracing.sizes import is_limited
from innv_ext.backend.tracing.state import fixed_variables, model_tensors, structure, untouched
from innv_ext.backend.tracing.strings import split_strings, takes_strings
from innv_ext.backend.tracing.tracer import open_function, trace
from innv_ext.backend.tracing.trials import try_out

__all__ = [
    "fixed_variables",
    "is_limited",
    "model_tensors",
    "open_cell",
    "open_function",
    "sizes_told",
    "split_strings",
    "structure",
    "takes_strings",
    "trace",
    "try_out",
    "untouched",
]
