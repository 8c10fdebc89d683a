"""What a comparison found, as plain records: samples, metrics, and what each analyzer gave, cost and could not do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from innv_ext.arguments import choice
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.ordering import OrderingResult
from innv_ext.evaluation.perturbation import PerturbationResult
from innv_ext.evaluation.results import EvaluationResult, Statistics, over_samples, shown

Curves = PerturbationResult | OrderingResult
Data = np.ndarray | dict[str, np.ndarray]  # x or a map: an array, or of several inputs {input: array}

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def flat(data: Data) -> list[np.ndarray]:
    """One array per input."""
    return list(data.values()) if isinstance(data, dict) else [data]


@dataclass(frozen=True)
class Failure:
    """An error that was raised: the name of its class, and its text."""

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, eq=False)
class Cell:
    """One metric of one analyzer.

    Attributes
    ----------
    values : array (samples,), or None
    failure : why there are no values
    note : why the metric says nothing about this analyzer
    warnings : of the metric
    seconds : it took; a metric that takes all maps at once shares its time evenly among them
    """

    values: np.ndarray | None = None
    failure: Failure | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def statistics(self) -> Statistics | None:
        """Mean, standard deviation and standard error over the samples."""
        return None if self.values is None else over_samples(self.values)

    @property
    def text(self) -> str:
        """Mean ± standard error, or what there is instead."""
        if self.failure is not None:
            return "failed"
        return "" if self.values is None else shown(self.statistics)


@dataclass(frozen=True, eq=False)
class Row:
    """One analyzer.

    Attributes
    ----------
    title : in tables and pictures
    analyzer : its registered name, or that of its class
    params : all of its parameters as numbers and texts; those given, if it could not be built
    about : "family", "description", "reference", "sums_to", as in ``list_analyzers``
    build_seconds : to build, fit and, with several samples, explain the first (which traces its functions)
    sample_seconds : per sample of x
    failure : why there are no maps
    warnings : while it was built and explained
    cells : {metric: Cell}; those of an analyzer that failed are empty
    maps : shaped like x, or None
    """

    title: str
    analyzer: str
    params: dict[str, Any]
    about: dict[str, str]
    build_seconds: float
    sample_seconds: float
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    cells: dict[str, Cell] = field(default_factory=dict)
    maps: Data | None = None

    def cell(self, metric: str) -> Cell:
        """That of a metric, empty where the analyzer has none."""
        return self.cells.get(metric, Cell())

    @property
    def problems(self) -> list[str]:
        """Errors and warnings, one text each."""
        of_metrics: dict[str, list[str]] = {}  # the same text once, with all metrics that it is of
        for metric, cell in self.cells.items():
            for text in _problems(cell):
                of_metrics.setdefault(text, []).append(metric)
        return _problems(self) + [f"{', '.join(metrics)} {text}" for text, metrics in of_metrics.items()]


def _problems(of: Cell | Row) -> list[str]:
    failed = [] if of.failure is None else [f"failed: {of.failure}"]
    return failed + [f"warned: {text}" for text in of.warnings]


@dataclass(frozen=True)
class Criterion:
    """A metric of a comparison.

    Attributes
    ----------
    title : in tables and pictures
    name, measures, better, needs, cost, source : as in ``list_metrics``
    params : those given
    """

    title: str
    name: str
    measures: str
    better: str
    needs: tuple[str, ...]
    cost: str
    source: str
    params: dict[str, Any]

    @property
    def header(self) -> str:
        """The title, with an arrow up where more is better and one down where less is."""
        return f"{self.title} {ARROWS[self.better]}".strip()


@dataclass(frozen=True, eq=False)
class Samples:
    """What was explained.

    Attributes
    ----------
    predicted : int array (samples,), the classes predicted at x
    neurons : the explained neuron of each sample, its number or, where the output has more axes, "(0, 1, 2)"
    score : array (samples,), the explained score
    probability : the same neuron behind softmax or sigmoid, where there is one
    labels : int array (samples,), or None
    class_names : {class: name}, or None
    classes : how many classes the output has
    channel_axis : of x and the maps, -1 or 1
    x : array (samples, ...), of several inputs {input: array}; or None where the comparison was read from a file
    """

    predicted: np.ndarray
    neurons: tuple[int | str, ...]
    score: np.ndarray
    probability: np.ndarray | None
    labels: np.ndarray | None
    class_names: dict[int, str] | None
    classes: int
    channel_axis: int
    x: Data | None = None

    def __len__(self) -> int:
        return len(self.score)

    def name(self, number: int) -> str:
        """What a class is called."""
        return str(number) if self.class_names is None else self.class_names.get(int(number), str(number))


@dataclass(frozen=True, eq=False, repr=False)
class Findings(EvaluationResult):
    """All that a report shows; the attributes are told at ``Comparison``."""

    rows: tuple[Row, ...]
    criteria: tuple[Criterion, ...]
    samples: Samples
    curves: dict[str, Curves]
    settings: dict[str, Any]
    versions: dict[str, str]

    def measures(self) -> dict[str, dict[str, np.ndarray]]:
        """{metric: {title: array (samples,)}}, of the analyzers that have the metric."""
        return {
            c.title: {row.title: row.cell(c.title).values for row in self.rows if row.cell(c.title).values is not None}
            for c in self.criteria
        }

    @property
    def maps(self) -> dict[str, Data]:
        """{title: map shaped like x}, of the analyzers that did not fail."""
        return {row.title: row.maps for row in self.rows if row.maps is not None}

    def row(self, title: str) -> Row:
        """The row of this title; InvalidInputError for an unknown one."""
        rows = {row.title: row for row in self.rows}
        return rows[choice("title", title, tuple(rows))]

    def criterion(self, metric: str) -> Criterion:
        """The metric of this title; InvalidInputError for one that was not computed."""
        known = {criterion.title: criterion for criterion in self.criteria}
        return known[choice("metric", metric, tuple(known))]

    def ranking(self, metric: str, *, better: str | None = None) -> list[tuple[str, float]]:
        """(title, mean over the samples) of all analyzers that have the metric, the best first.

        Parameters
        ----------
        metric : its title
        better : "higher" or "lower"; None: what the metric says

        Raises
        ------
        InvalidInputError
            for an unknown metric, or one without a better direction
        """
        better = self.criterion(metric).better if better is None else better
        if better not in ("higher", "lower"):
            raise InvalidInputError(
                f"The metric {metric!r} says what maps are like, not which are better: pass better='higher' or 'lower'."
            )
        means = [(title, float(found.mean)) for title, found in self.statistics(metric).items()]
        return sorted(means, key=lambda entry: place(entry[1], better))


def place(mean: float, better: str) -> tuple[bool, float]:
    """A key by which means are sorted, the best first; the largest where neither is better, what is no number last."""
    return bool(np.isnan(mean)), float(mean) if better == "lower" else -float(mean)


def describe(value: Any) -> Any:
    """A parameter as it can be written to JSON: numbers and texts as they are, everything else described."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= 8 else f"array of {value.dtype}, shape {value.shape}"
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value] if len(value) <= 8 else f"{type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    return getattr(value, "__name__", None) or repr(value)
