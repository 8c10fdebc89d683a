"""Checks of plain arguments, and what the fields of an analyzer may hold.

Every refusal names the argument, what was received and what is accepted. A check is a function of (name, value) that
returns the value; ``Spec`` is one that the command line and the documentation can read, too.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext.errors import InvalidInputError

_LISTED = 20  # longer lists of choices are not spelt out


@dataclass(frozen=True)
class Spec:
    """What a number or a name may be.

    Attributes
    ----------
    kind : "integer", "number" or "choice"
    least : the smallest number; ``above``: which is itself excluded
    most : the largest number
    allowed : the choices; for numbers, values that are accepted besides (None, "auto")
    """

    kind: str
    least: float = 0
    above: bool = False
    most: float = np.inf
    allowed: tuple[Any, ...] = ()

    def __call__(self, name: str, value: Any) -> Any:
        """``value``, if it may be ``name``."""
        if self.kind == "choice":
            return choice(name, value, self.allowed)
        if any(value is a or (isinstance(a, str) and isinstance(value, str) and value == a) for a in self.allowed):
            return value
        plain = isinstance(value, (int, np.integer) if self.kind == "integer" else (int, float, np.number))
        fits = plain and not isinstance(value, (bool, np.bool_)) and np.isfinite(value) and value <= self.most
        if not fits or value < self.least or (self.above and value == self.least):
            raise InvalidInputError(f"{name} must be {self.expected}, got {value!r}.")
        return value

    @property
    def expected(self) -> str:
        """In words."""
        if self.kind == "choice":
            return f"one of {', '.join(map(repr, self.allowed))}"
        if self.above:
            text = "a positive number" if self.least == 0 else f"a number above {self.least:g}"
        else:
            text = f"{'an integer' if self.kind == 'integer' else 'a number'} of at least {self.least:g}"
        text += "" if self.most == np.inf else f" and at most {self.most:g}"
        return " or ".join([text, *map(repr, self.allowed)])


def _field(default: Any, spec: Any) -> Any:
    return dataclasses.field(default=default, metadata={"spec": spec})


def count(default: Any, least: int = 1, *also: Any) -> Any:
    """A field for an integer of at least ``least``, or one of the values in ``also``."""
    return _field(default, Spec("integer", least, allowed=also))


def at_least(least: float, default: Any, *also: Any, most: float = np.inf) -> Any:
    """A field for a finite number of at least ``least``, or one of the values in ``also``."""
    return _field(default, Spec("number", least, most=most, allowed=also))


def positive(default: Any, *also: Any) -> Any:
    """A field for a finite number above 0, or one of the values in ``also``."""
    return _field(default, Spec("number", 0, above=True, allowed=also))


def one_of(*allowed: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field for one of several values, the first by default."""
    return _field(allowed[0] if default is dataclasses.MISSING else default, Spec("choice", allowed=allowed))


def check_fields(instance: Any) -> None:
    """Check all fields of a dataclass that have a spec."""
    for f in dataclasses.fields(instance):
        if "spec" in f.metadata:
            f.metadata["spec"](f.name, getattr(instance, f.name))


# --- single values -----------------------------------------------------------------------------------------------


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int, if it is an integer of at least ``least``."""
    return int(Spec("integer", least)(name, value))


def number(name: str, value: Any, *, positive: bool = False, most: float = np.inf) -> float:
    """``value`` as a float, if it is a finite number of at least 0 (or above 0) and at most ``most``."""
    return float(Spec("number", 0, positive, most)(name, value))


def choice(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """``value``, if it is one of ``allowed``; a misspelt name gets suggestions."""
    if any(type(value) is type(a) and value == a for a in allowed):
        return value
    names = [a for a in allowed if isinstance(a, str)] if isinstance(value, str) else []
    close = difflib.get_close_matches(value, names) if names else []  # refuses what is no text
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    known = ", ".join(map(repr, allowed)) if len(allowed) <= _LISTED else f"the {len(allowed)} known names"
    raise InvalidInputError(f"{name} must be one of {known}, got {value!r}.{hint}")


# --- arrays ------------------------------------------------------------------------------------------------------


def as_array(name: str, values: Any) -> np.ndarray:
    """Anything array-like; lists of different lengths are refused."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} cannot be read as one array: {error}") from error


def numbers(name: str, value: Any) -> np.ndarray:
    """Finite numbers as an array, float64."""
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} must be a number or an array of numbers, got {value!r}.") from error
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{name} must be finite, got {value!r}.")
    return array


def one_sample(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A number or array as one sample of ``shape``, float64."""
    try:
        array = np.asarray(value, "float64")
        array = array[0] if array.ndim == len(shape) + 1 and len(array) == 1 else array
        array = np.array(np.broadcast_to(array, shape))
    except (TypeError, ValueError) as error:
        got = f"has shape {np.shape(value)}" if np.ndim(value) else f"is {value!r}"
        raise InvalidInputError(
            f"{name} {got}; numbers are needed that broadcast to one sample {tuple(shape)}."
        ) from error
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{name} holds NaN or infinite values; clean the data that it was computed from.")
    return array
