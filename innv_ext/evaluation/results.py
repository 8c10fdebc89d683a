"""What the tests found: one base for all results, with statistics over the samples, tables, data frames and dicts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from innv_ext import arguments, files
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting

if TYPE_CHECKING:
    from pandas import DataFrame

Named = dict[str, np.ndarray]
Own = TypeVar("Own", bound="EvaluationResult")
CONFIDENCE = 0.95


class Statistics(NamedTuple):
    """Over the samples of x; everything but the mean is NaN for one sample.

    Attributes
    ----------
    mean : over the samples
    std : standard deviation (of a sample: n - 1)
    error : standard error of the mean
    confidence : half the width of the 95 % confidence interval of the mean (Student's t)
    """

    mean: np.ndarray
    std: np.ndarray
    error: np.ndarray
    confidence: np.ndarray


class EvaluationResult:
    """Base of all results: numbers per sample as statistics, table, data frame, dict and picture.

    A result is a frozen dataclass that says what its numbers are (``axes``, ``columns``, perhaps ``measures``) and how
    they are drawn (``draw``); all else follows.
    """

    derived: ClassVar[tuple[str, ...]] = ()  # properties that are measures, and stand in the dict beside the fields

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        """{axis: its entries} of the columns; empty where these are the columns of the data frame as they are."""
        return {}

    def columns(self) -> dict[str, Any]:
        """{column: array over the axes, or {entry of the first axis: array over the others}}."""
        raise NotImplementedError

    def measures(self) -> dict[str, Any]:
        """What there are statistics of: {measure: array (samples, ...), or {name: such an array}}."""
        return {**self.columns(), **{name: getattr(self, name) for name in self.derived}}

    def statistics(self, of: str | None = None) -> Any:
        """Mean, standard deviation, standard error and 95 % confidence over the samples.

        Parameters
        ----------
        of : a name of ``measures()``; None: all of them

        Returns
        -------
        Statistics or dict
            ``Statistics`` of the measure, or {name: ``Statistics``} where there is one for each name; of all measures
            {measure: either}
        """
        known = self.measures()
        return over_samples(known if of is None else known[arguments.choice("of", of, tuple(known))])

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples."""
        return markdown(("measure", "mean"), self.statistics().items())

    def to_frame(self) -> DataFrame:
        """A pandas data frame: a row for every place along the axes; columns are the axes and ``columns()``.

        InvalidInputError if pandas, an extra, is not installed.
        """
        pandas = files.need("pandas", "to_frame()", ", or take to_dict()")
        axes, columns = self.axes, {}
        if not axes:
            return pandas.DataFrame(self.columns())
        shape = tuple(map(len, axes.values()))
        for (axis, entries), place in zip(axes.items(), np.indices(shape), strict=True):
            columns[axis] = np.array(entries, object if isinstance(entries, tuple) else None)[place.ravel()]
        for column, values in self.columns().items():
            found = np.stack([values[n] for n in next(iter(axes.values()))]) if isinstance(values, dict) else values
            columns[column] = np.broadcast_to(found, shape).ravel()
        return pandas.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and texts as lists and dicts, ready for ``json.dump``."""
        names = [*(f.name for f in fields(self)), *self.derived]
        return {name: as_lists(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls: type[Own], stored: dict[str, Any]) -> Own:
        """The result that ``to_dict`` gave, also after JSON; InvalidInputError where something is missing."""
        names = stored.get("names", ())  # their order is the result's, whatever that of a dict in a file
        ordered = {k: {n: v[n] for n in names} if names and isinstance(v, dict) else v for k, v in stored.items()}
        return from_lists(cls, ordered)

    def draw(self, ax: Any = None) -> Figure:
        """Draw on ``ax``, matplotlib axes, one for each panel; None makes a figure."""
        raise NotImplementedError

    def plot(self, ax: Any = None, *, path: str | os.PathLike[str] | None = None, **options: Any) -> Figure:
        """Draw the result, see ``draw``, and save it.

        Nothing of pyplot is used, so this works without a display; in a notebook the returned figure shows itself.

        Parameters
        ----------
        ax : matplotlib axes to draw on, as many as ``draw`` has panels; None makes a figure
        path : also save the figure there, with at least 150 dots per inch; the suffix says the format
        options : of ``draw``

        Raises
        ------
        InvalidInputError
            for the wrong number of axes, unknown values of options, and where there is nothing to draw
        """
        return plotting.save(self.draw(ax, **options), path)


# --- statistics ----------------------------------------------------------------------------------------------------


def over_samples(values: Any) -> Any:
    """``Statistics`` over the first axis of an array; of a dict, those of its values.

    Examples
    --------
    >>> found = over_samples(np.array([1.0, 3.0]))
    >>> float(found.mean), round(float(found.error), 3), round(float(found.confidence), 3)
    (2.0, 1.0, 12.706)
    """
    if isinstance(values, dict):
        return {name: over_samples(own) for name, own in values.items()}
    count = len(values)
    with np.errstate(invalid="ignore"):  # infinite values have no spread
        mean = values.mean(axis=0)
        std = values.std(axis=0, ddof=1) if count > 1 else np.full_like(mean, np.nan, dtype="float64")
    error = std / np.sqrt(count)
    return Statistics(mean, std, error, error * student_t.ppf((1 + CONFIDENCE) / 2, max(count - 1, 1)))


def shown(found: Statistics) -> str:
    """Mean ± standard error as text."""
    return f"{found.mean:.4g}" + ("" if np.isnan(found.error) else f" ± {found.error:.2g}")


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; statistics are shown as mean ± standard error.

    Examples
    --------
    >>> print(markdown(["a", "b"], [["x|y", 1]]))
    | a | b |
    | --- | --- |
    | x\\|y | 1 |
    """
    texts = [[shown(c) if isinstance(c, Statistics) else str(c).replace("|", "\\|") for c in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *texts])


# --- dicts ---------------------------------------------------------------------------------------------------------


def as_lists(value: Any) -> Any:
    """Results, dataclasses and arrays as dicts and lists, keys as texts."""
    if isinstance(value, EvaluationResult):
        return value.to_dict()
    if is_dataclass(value):
        return {f.name: as_lists(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): as_lists(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_lists(v) for v in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def from_lists(kind: Any, value: Any) -> Any:
    """What ``as_lists`` was given, as its annotations say: dataclasses, tuples and dicts of them, arrays."""
    origin, parts = get_origin(kind), get_args(kind)
    if value is None:
        return None
    if origin in (Union, UnionType):  # "array | None", "array | dict of arrays | None"
        dicts = [part for part in parts if get_origin(part) is dict]
        return from_lists(dicts[0] if dicts and isinstance(value, dict) else parts[0], value)
    if is_dataclass(kind):
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in needed if name not in value]:
            raise InvalidInputError(f"A stored {kind.__name__} lacks {', '.join(missing)}; pass what to_dict() gave.")
        hints = get_type_hints(kind)
        return kind(**{f.name: from_lists(hints[f.name], value[f.name]) for f in fields(kind) if f.name in value})
    if origin is tuple:
        return tuple(from_lists(parts[0], v) for v in value)
    if origin is dict:
        return {parts[0](key): from_lists(parts[1], v) for key, v in value.items()}
    return np.asarray(value) if kind is np.ndarray else value
