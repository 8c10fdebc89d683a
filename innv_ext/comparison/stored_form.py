"""The parts of a comparison as lists and dicts, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from innv_ext.comparison.rows import Cell, Criterion, Failure, Row, Samples

_ARRAYS = ("predicted", "score", "probability", "labels", "x")  # of Samples


def as_lists(value: Any) -> Any:
    """Arrays and tuples as lists, keys as texts."""
    if isinstance(value, dict):
        return {str(k): as_lists(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_lists(v) for v in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def read_samples(stored: dict[str, Any]) -> Samples:
    """The samples of their dict."""
    found = {name: _as_array(value) if name in _ARRAYS else value for name, value in stored.items()}
    names = found["class_names"]
    found["class_names"] = None if names is None else {int(c): name for c, name in names.items()}
    return Samples(**{**found, "neurons": tuple(found["neurons"])})


def read_criterion(stored: dict[str, Any]) -> Criterion:
    """The metric of its dict."""
    return Criterion(**{**stored, "needs": tuple(stored["needs"])})


def read_row(stored: dict[str, Any]) -> Row:
    """The analyzer's row of its dict."""
    found = {**stored, "failure": _read_failure(stored["failure"]), "maps": _as_array(stored["maps"])}
    found["warnings"] = tuple(stored["warnings"])
    found["cells"] = {metric: _read_cell(cell) for metric, cell in stored["cells"].items()}
    return Row(**found)


def _read_cell(stored: dict[str, Any]) -> Cell:
    found = {**stored, "values": _as_array(stored["values"]), "failure": _read_failure(stored["failure"])}
    return Cell(**{**found, "warnings": tuple(stored["warnings"])})


def _read_failure(stored: dict[str, str] | None) -> Failure | None:
    return None if stored is None else Failure(**stored)


def _as_array(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value)
