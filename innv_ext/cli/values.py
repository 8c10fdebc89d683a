"""What stands behind options, from text to values."""

from __future__ import annotations

import ast
import math
from argparse import ArgumentTypeError
from typing import Any

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def numbers(text: str) -> tuple[float, ...]:
    """Finite numbers with commas between them.

    Examples
    --------
    >>> numbers("0.5,-1")
    (0.5, -1.0)
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ArgumentTypeError(f"needs numbers with commas between them, got {text!r}")
    return found


def positives(text: str) -> tuple[float, ...]:
    """Numbers above 0."""
    found = numbers(text)
    if min(found) <= 0:
        raise ArgumentTypeError(f"needs numbers above 0, got {text!r}")
    return found


def scale(text: str) -> tuple[float, ...]:
    """LOW,HIGH: what 0 and 255 become."""
    found = numbers(text)
    if len(found) != 2 or found[0] >= found[1]:
        raise ArgumentTypeError(f"needs LOW,HIGH with LOW below HIGH, e.g. 0,1 or -1,1, got {text!r}")
    return found


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(found):
        raise ArgumentTypeError(f"needs names with commas between them, got {text!r}")
    return found


def neuron(text: str) -> int | tuple[int, ...] | str:
    """A number, several for an output with more axes, or a label.

    Examples
    --------
    >>> neuron("3"), neuron("2,0,1"), neuron("tabby")
    (3, (2, 0, 1), 'tabby')
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        return text
    return found[0] if len(found) == 1 else found


def param(text: str) -> tuple[str, Any]:
    """KEY=VALUE; what reads like a Python number, list, tuple, true, false or none is one, anything else a text.

    Examples
    --------
    >>> param("epsilon=1e-3"), param("low=-1,0,1"), param("rule=gamma"), param("bias=false")
    (('epsilon', 0.001), ('low', (-1, 0, 1)), ('rule', 'gamma'), ('bias', False))
    """
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise ArgumentTypeError(f"needs KEY=VALUE, e.g. epsilon=0.001, got {text!r}")
    return key.strip(), _literal(value.strip())


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, (int, float, str, list, tuple, dict)) else text
