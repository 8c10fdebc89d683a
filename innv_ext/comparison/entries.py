"""Lists and dicts of things by name, as ``compare`` takes them for analyzers and for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from innv_ext.errors import InvalidInputError


class Entry(NamedTuple):
    """One thing of such a list.

    Attributes
    ----------
    title : what it is called; None where it has to say so itself
    thing : a name or an object
    params : its parameters
    """

    title: str | None
    thing: Any
    params: dict[str, Any]


def read_entries(argument: str, given: Any) -> list[Entry]:
    """The entries of a list or a dict.

    Parameters
    ----------
    argument : its name, for errors
    given : a list of names, pairs (name, parameters) and objects; or a dict {name: parameters}, {title: name},
        {title: (name, parameters)}, {title: object}

    Raises
    ------
    InvalidInputError
        for anything else, or where nothing is listed

    Examples
    --------
    >>> read_entries("metrics", {"small": ("gini", {"a": 1})})
    [Entry(title='small', thing='gini', params={'a': 1})]
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, (Mapping, list, tuple)) or not given:
        raise InvalidInputError(
            f"{argument} must be a list of names or a dict {{name: parameters}} with at least one entry, got {given!r}."
        )
    if isinstance(given, Mapping):
        return [_of_dict(argument, title, value) for title, value in given.items()]
    return [_of_list(argument, value) for value in given]


def writable_text(argument: str, text: str) -> str:
    """``text`` if it can be written; half of a pair of surrogates cannot.

    Raises
    ------
    InvalidInputError
        otherwise
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{argument} has the text {text!r}, which is no valid Unicode.") from error
    return text


def unique(argument: str, titles: list[str]) -> None:
    """Refuse a title that stands twice."""
    twice = sorted({t for t in titles if titles.count(t) > 1})
    if twice:
        raise InvalidInputError(
            f"{argument} has {', '.join(map(repr, twice))} more than once; tell them apart with a dict "
            f"{{title: (name, parameters)}}."
        )


def _of_dict(argument: str, title: Any, value: Any) -> Entry:
    if not isinstance(title, str) or not title:
        raise InvalidInputError(f"{argument} must have texts as keys, got {title!r}.")
    writable_text(argument, title)
    if isinstance(value, Mapping):
        return Entry(title, title, _params(argument, value))
    pair = _pair(argument, value)
    return Entry(title, *(pair or (value, {})))


def _of_list(argument: str, value: Any) -> Entry:
    thing, params = _pair(argument, value) or (value, {})
    if isinstance(thing, Mapping):
        raise InvalidInputError(f"{argument} has the entry {value!r} in a list; pass names, or one dict for all.")
    return Entry(thing if isinstance(thing, str) else None, thing, params)


def _pair(argument: str, value: Any) -> tuple[Any, dict[str, Any]] | None:
    """(name, parameters) if ``value`` is such a pair."""
    if not isinstance(value, tuple):
        return None
    if len(value) != 2 or not isinstance(value[1], Mapping):
        raise InvalidInputError(f"{argument} has the entry {value!r}; a tuple must be (name, parameters).")
    return value[0], _params(argument, value[1])


def _params(argument: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in given):
        raise InvalidInputError(f"{argument} has parameters whose names are no texts: {dict(given)!r}.")
    return dict(given)
