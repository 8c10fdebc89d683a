"""Checks of plain arguments, and what the fields of analyzers and rules may hold.

Every refusal names the argument, what is accepted and what was received. What a value may be is ``Allowed``: a function
of (name, value) that returns the value or refuses it. A dataclass says it of a field by its default::

    samples: int = count(64)
    noise: str = one_of("relative", "absolute")
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext.errors import InvalidInputError

_LISTED = 20  # longer lists of choices are not spelt out


class Allowed:
    """What a value may be; subclasses say it in words and in code."""

    def expected(self) -> str:
        """It must be ..."""
        raise NotImplementedError

    def fits(self, value: Any) -> bool:
        raise NotImplementedError

    def hint(self, value: Any) -> str:
        """What may have been meant."""
        return ""

    def __call__(self, name: str, value: Any) -> Any:
        if not self.fits(value):
            raise InvalidInputError(f"{name} must be {self.expected()}, got {value!r}.{self.hint(value)}")
        return value


@dataclass(frozen=True)
class Number(Allowed):
    """A finite number from ``least`` (or, if ``positive``, above 0) to ``most``, or one of the values in ``also``."""

    whole: bool = False
    least: float = 0
    positive: bool = False
    most: float = np.inf
    also: tuple[Any, ...] = ()

    def expected(self) -> str:
        kind = "an integer" if self.whole else "a number"
        text = "a positive number" if self.positive else f"{kind} of at least {self.least:g}"
        text += "" if self.most == np.inf else f" and at most {self.most:g}"
        return " or ".join([text, *map(repr, self.also)])

    def fits(self, value: Any) -> bool:
        kinds = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return any(type(value) is type(a) and value == a for a in self.also)
        return self.least <= value <= self.most and value < np.inf and not (self.positive and value == 0)


@dataclass(frozen=True)
class Choice(Allowed):
    """One of the values in ``allowed``, or, if ``function``, what can be called; ``also`` says what else is."""

    allowed: tuple[Any, ...]
    function: bool = False
    also: str = ""

    def expected(self) -> str:
        few = len(self.allowed) <= _LISTED
        known = ", ".join(map(repr, self.allowed)) if few else f"the {len(self.allowed)} known names"
        return f"one of {known}" + (" or a function" if self.function else self.also)

    def fits(self, value: Any) -> bool:
        plain = value.item() if isinstance(value, (np.bool_, np.str_)) else value
        return any(type(plain) is type(a) and plain == a for a in self.allowed) or (self.function and callable(value))

    def hint(self, value: Any) -> str:
        names = [a for a in self.allowed if isinstance(a, str)]
        close = difflib.get_close_matches(value, names) if isinstance(value, str) else []
        return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


@dataclass(frozen=True)
class Instance(Allowed):
    """An object of one of some classes, or None."""

    classes: tuple[type, ...]

    def expected(self) -> str:
        return f"of type {' or '.join(c.__name__ for c in self.classes)} or None"

    def fits(self, value: Any) -> bool:
        return value is None or (isinstance(value, self.classes) and not isinstance(value, bool))


# --- fields ------------------------------------------------------------------------------------------------------


def _field(default: Any, spec: Allowed) -> Any:
    return dataclasses.field(default=default, metadata={"spec": spec})


def _number(default: Any, **bounds: Any) -> Any:
    """A default that is no number (None, "auto") is accepted besides."""
    plain = isinstance(default, (int, float))
    return _field(default, Number(**bounds, also=() if plain else (default,)))


def count(default: Any, least: int = 1) -> Any:
    """A field for an integer of at least ``least``; a default that is none (None) is accepted, too."""
    return _number(default, whole=True, least=least)


def at_least(least: float, default: Any) -> Any:
    """A field for a finite number of at least ``least``; a default that is none ("auto") is accepted, too."""
    return _number(default, least=least)


def positive(default: Any) -> Any:
    """A field for a finite number above 0; a default that is none (None, "auto") is accepted, too."""
    return _number(default, positive=True)


def one_of(*allowed: Any, default: Any = dataclasses.MISSING, function: bool = False) -> Any:
    """A field for one of several values, by default the first; with ``function`` also for any function."""
    return _field(allowed[0] if default is dataclasses.MISSING else default, Choice(allowed, function))


def flag(default: bool) -> Any:
    """A field for True or False."""
    return _field(default, Choice((True, False)))


def optional(*classes: type) -> Any:
    """A field for an object of one of some classes; None by default."""
    return _field(None, Instance(classes))


def check_fields(owner: Any, values: Mapping[str, Any] | None = None) -> None:
    """Check all fields of a dataclass's object that have a spec; or ``values`` that a dataclass may be made with."""
    values = vars(owner) if values is None else values
    for f in dataclasses.fields(owner):
        if f.name in values and "spec" in f.metadata:
            f.metadata["spec"](f.name, values[f.name])


# --- single values -----------------------------------------------------------------------------------------------


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int, if it is an integer of at least ``least``."""
    return int(Number(True, least)(name, value))


def number(name: str, value: Any, *, positive: bool = False, most: float = np.inf) -> float:
    """``value`` as a float, if it is a finite number of at least 0 (or above 0) and at most ``most``."""
    return float(Number(False, 0, positive, most)(name, value))


def choice(name: str, value: Any, allowed: Collection[Any], also: str = "") -> Any:
    """``value``, if it is one of ``allowed``; a misspelt name gets suggestions. ``also``: what else is told to be."""
    return Choice(tuple(allowed), also=also)(name, value)


# --- arrays ------------------------------------------------------------------------------------------------------


def as_array(name: str, values: Any) -> np.ndarray:
    """Anything array-like; lists of different lengths and masked values are refused."""
    if np.ma.is_masked(values):
        raise InvalidInputError(f"{name} is a masked array with masked values: fill them, {name}.filled(...).")
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
