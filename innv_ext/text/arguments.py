"""What users ask for: texts, and one target or position for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from innv_ext.errors import InvalidInputError


def as_texts(texts: Any) -> list[str]:
    """One or several texts as a list; what is empty is refused."""
    found = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, (Sequence, np.ndarray)) else []
    wrong = [text for text in found if not isinstance(text, str)]
    if wrong or not found:
        got = repr(wrong[0]) if wrong else repr(texts)
        raise InvalidInputError(f"texts must be a string or a list of strings, at least one; got {got}.")
    for i, text in enumerate(found):
        if not text.strip():
            raise InvalidInputError(f"texts[{i}] is empty: there is nothing to explain.")
    return [str(text) for text in found]


def per_text(argument: str, value: Any, count: int, read: Callable[[Any], int]) -> np.ndarray:
    """One integer for each text, from one value for all or a list, each turned into a number by ``read``."""
    several = isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value) > 0
    values = list(value) if several else [value] * count
    if len(values) != count:
        raise InvalidInputError(f"{argument} has {len(values)} entries for {count} texts; give one, or one each.")
    return np.array([read(v) for v in values])


def as_int(argument: str, value: Any) -> int:
    """``value`` as an int, if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidInputError(f"{argument} must be an integer, got {value!r}.")
    return int(value)
