"""The columns of tables, each of which has a unit of its own: what their values are like, and noise to that measure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from innv_ext.analyzers.core import data as training
from innv_ext.analyzers.parts.replacement import Replacement, RunningMoments, replacement
from innv_ext.backend.arrangement import Arrangement
from innv_ext.backend.graph import Spec
from innv_ext.errors import InvalidInputError

_READ = 4096  # samples of arrays at a time


class Columns(NamedTuple):
    """Mean and standard deviation of each column of a table, float64."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True, eq=False)
class Distribution:
    """What the columns of the tables among a model's inputs are like.

    Attributes
    ----------
    columns : by the number of the input; none of x where its samples are all the same
    source : where they are from, as text
    guessed : whether there were no training data
    """

    columns: Mapping[int, Columns]
    source: str
    guessed: bool

    def warn(self, argument: str, stacklevel: int = 3) -> None:
        """Say so if there were no training data, which ``argument`` would have."""
        if self.guessed:
            text = f"The means and deviations of a table's columns are {self.source}. Pass training data, {argument}."
            warnings.warn(text, UserWarning, stacklevel=stacklevel)


def is_table(one: Arrangement) -> bool:
    """Whether the values of an input are columns."""
    return not one.axes and not one.tokens


def distribution(
    data: Any, xs: Sequence[np.ndarray], arranged: Sequence[Arrangement], structure: Any, specs: Sequence[Spec]
) -> Distribution | None:
    """Of the tables among the inputs, from data in any form that ``fit`` takes, or x; None where there is no table."""
    tables = [one.number for one in arranged if is_table(one)]
    if not tables or isinstance(data, Distribution):
        return data if tables else None
    found = {number: RunningMoments(int(np.prod(arranged[number].shape)), False) for number in tables}
    for arrays in [xs] if data is None else training.batches(data, structure, specs, _READ):
        for number, moments in found.items():
            moments.add(arrays[number].reshape(len(arrays[number]), -1).astype("float64"))
    columns = {}
    for number, of in found.items():
        shape = arranged[number].shape
        columns[number] = Columns(of.mean.reshape(shape), np.sqrt(of.scatter / of.count).reshape(shape))
    if data is not None:
        return Distribution(columns, "those of the training data", False)
    if any(of.std.any() for of in columns.values()):
        return Distribution(columns, f"those of the {len(xs[0])} samples of x", True)
    return Distribution({}, "unknown, and noise over the range of a whole sample mixes their units", True)


def replacements(
    argument: str,
    kinds: Sequence[Any],
    data: Any,
    given: Sequence[Mapping[str, Any]],
    xs: Sequence[np.ndarray],
    arranged: Sequence[Arrangement],
    structure: Any,
    specs: Sequence[Spec],
    takes: Mapping[str, tuple[str, ...]],
    usual: Callable[[Arrangement, Mapping[str, Any]], str],
    *,
    needed: Collection[str] = ("constant",),
    functions: bool = False,
) -> list[Replacement]:
    """What takes the place of values, one for each input; further arguments are those of ``replacement``.

    Parameters
    ----------
    kinds : for each input; None: "gaussian" like the columns of tables, ``usual`` for others and where ``given`` holds
        anything
    data : a ``Distribution``, or training data; completes what is missing in ``given``. None: x, where kinds are None
    given : {argument: value}, for each input
    """
    _check_data(data, argument, kinds, arranged, takes)
    told = [any(value is not None for value in own.values()) for own in given]
    tables = [is_table(one) and kind is None for one, kind in zip(arranged, kinds, strict=True)]
    unknown = any(table and not says for table, says in zip(tables, told, strict=True))
    known = distribution(data, xs, arranged, structure, specs) if data is not None or unknown else None
    if known is not None and not isinstance(data, Distribution):
        known.warn("data=, or mean= and std=", stacklevel=4)
    found = []
    for one, kind, own, says in zip(arranged, kinds, given, told, strict=True):
        columns = None if known is None else known.columns.get(one.number)
        chosen, own = usual(one, own) if kind is None else kind, dict(own)
        if kind is None and not says and columns is not None:
            chosen = "gaussian"
        for name in takes.get(chosen, ()) if columns is not None and isinstance(chosen, str) else ():
            own[name] = getattr(columns, name, None) if own[name] is None else own[name]
        found.append(replacement(argument, chosen, one, takes, own, needed, functions))
    return found


def _check_data(
    data: Any, argument: str, kinds: Sequence[Any], arranged: Sequence[Arrangement], takes: Mapping[str, Any]
) -> None:
    """Refuse training data that nothing would be made of."""
    if data is None or isinstance(data, Distribution):
        return
    of_tables = [kind for kind, one in zip(kinds, arranged, strict=True) if is_table(one)]
    if not of_tables:
        raise InvalidInputError(
            "data= says what the columns of tables are like, but the model takes none; leave it out."
        )
    for kind in of_tables:
        if callable(kind) or (isinstance(kind, str) and not {"mean", "std"} & set(takes.get(kind, ("mean",)))):
            raise InvalidInputError(f"data= has no meaning with {argument}={kind!r}; leave it out.")
