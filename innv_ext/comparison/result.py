"""What a comparison found: a table, rankings, pictures, a report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.comparison import files, pictures, stored_form
from innv_ext.comparison.report import page
from innv_ext.comparison.rows import Cell, Criterion, Row, Samples, place
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.frames import frame
from innv_ext.evaluation.perturbation_result import PerturbationResult
from innv_ext.evaluation.result import OrderingResult
from innv_ext.evaluation.statistics import cell as in_table
from innv_ext.visualization.panels import png, save

if TYPE_CHECKING:
    from pandas import DataFrame

Curves = PerturbationResult | OrderingResult
_KINDS: dict[str, type[Curves]] = {"perturbation": PerturbationResult, "ordering": OrderingResult}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Analyzers, what they said about the same neurons, and how good that was.

    Attributes
    ----------
    rows : one per analyzer, in the order given
    criteria : the metrics
    samples : x, classes, explained neurons
    curves : {metric: result}, for metrics that are areas under curves
    settings, versions : texts and numbers that make the comparison repeatable
    """

    rows: tuple[Row, ...]
    criteria: tuple[Criterion, ...]
    samples: Samples
    curves: dict[str, Curves]
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """{title: array shaped like x}, of the analyzers that did not fail."""
        return {row.title: row.maps for row in self.rows if row.maps is not None}

    def row(self, title: str) -> Row:
        """The row of this title.

        Raises
        ------
        InvalidInputError
            for an unknown title
        """
        rows = {row.title: row for row in self.rows}
        return rows[arguments.choice("title", title, tuple(rows))]

    def criterion(self, metric: str) -> Criterion:
        """The metric of this title.

        Raises
        ------
        InvalidInputError
            for a metric that was not computed
        """
        known = {criterion.title: criterion for criterion in self.criteria}
        return known[arguments.choice("metric", metric, tuple(known))]

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
        found = [(row.title, row.cells[metric].statistics) for row in self.rows if metric in row.cells]
        means = [(title, float(statistics.mean)) for title, statistics in found if statistics is not None]
        return sorted(means, key=lambda entry: place(entry[1], better))

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples, with errors and warnings below."""
        headers = ["analyzer", *(c.header for c in self.criteria), "s per sample"]
        lines = [f"| {' | '.join(map(in_table, headers))} |", f"| {' | '.join(['---'] * len(headers))} |"]
        for row in self.rows:
            cells = [row.cells.get(c.title, Cell()).text for c in self.criteria]
            cells = [*cells, f"{row.sample_seconds:.3g}"] if row.failure is None else ["failed"] * (len(cells) + 1)
            lines.append(f"| {' | '.join([in_table(row.title), *cells])} |")
        problems = [f"- {row.title}: {' '.join(text.split())}" for row in self.rows for text in row.problems]
        return "\n".join([*lines, "", *problems] if problems else lines)

    def to_frame(self) -> DataFrame:
        """One row per analyzer, metric and sample, as a pandas data frame.

        Raises
        ------
        InvalidInputError
            if pandas, an extra, is not installed
        """
        found = [
            (row.title, metric, i, value)
            for row in self.rows
            for metric, cell in row.cells.items()
            if cell.values is not None
            for i, value in enumerate(cell.values.tolist())
        ]
        columns = zip(*found, strict=True) if found else [()] * 4
        return frame(dict(zip(("analyzer", "metric", "sample", "value"), map(list, columns), strict=True)))

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """All numbers and texts as lists and dicts, ready for ``json.dump``.

        Parameters
        ----------
        maps : also x and the maps, which can be large; without them ``from_dict`` gives a comparison without pictures
        """
        rows = [asdict(row if maps else replace(row, maps=None)) for row in self.rows]
        samples = asdict(self.samples if maps else replace(self.samples, x=None))
        kinds = {cls: kind for kind, cls in _KINDS.items()}
        curves = {m: {"kind": kinds[type(found)], **found.to_dict()} for m, found in self.curves.items()}
        return stored_form.as_lists(
            {
                "rows": rows,
                "criteria": [asdict(c) for c in self.criteria],
                "samples": samples,
                "curves": curves,
                "settings": self.settings,
                "versions": self.versions,
            }
        )

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Comparison:
        """What ``to_dict`` gave, also after a way through JSON."""
        return cls(
            tuple(stored_form.read_row(row) for row in stored["rows"]),
            tuple(stored_form.read_criterion(criterion) for criterion in stored["criteria"]),
            stored_form.read_samples(stored["samples"]),
            {metric: _KINDS[found["kind"]].from_dict(found) for metric, found in stored["curves"].items()},
            stored["settings"],
            stored["versions"],
        )

    def plot(
        self,
        ax: Axes | Sequence[Axes] | np.ndarray | None = None,
        *,
        samples: int = 8,
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw the maps: images in a grid, signals as lines, tables as bars, volumes in slices, tokens as text.

        Channels of images and volumes that are no colours are averaged. Arrays (batch, H, W) with more than 12 columns
        are drawn as images.

        Parameters
        ----------
        ax : matplotlib axes, as many as the function of ``innv_ext.visualization`` for this kind of data wants; None
            makes a figure
        samples : the first ones are drawn, at most so many
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            where there are no maps, because all analyzers failed or the comparison was read without them
        """
        count = min(arguments.positive_int("samples", samples), len(self.samples))
        return save(pictures.draw_maps(self.samples, self.maps, range(count), ax), path)

    def plot_metrics(
        self, ax: Axes | Sequence[Axes] | np.ndarray | None = None, *, path: str | os.PathLike[str] | None = None
    ) -> Figure:
        """Draw a panel per metric: means with standard errors over the samples, the best on top.

        Parameters
        ----------
        ax : one matplotlib axes per metric; None makes a figure
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            for the wrong number of axes
        """
        return save(pictures.draw_metrics(self.rows, self.criteria, ax), path)

    def report(self, path: str | os.PathLike[str], *, samples: int = 12) -> None:
        """Write one HTML file with everything: table, curves, pictures, errors, settings; it needs no network.

        Parameters
        ----------
        path : of the file; its folder is made where it is missing
        samples : pictures of the first ones are shown, at most so many

        Raises
        ------
        InvalidInputError
            if the file cannot be written
        """
        file = files.writable_file("path", path)
        count = min(arguments.positive_int("samples", samples), len(self.samples))
        files.write(file, page(self, count).encode("utf-8", "replace"))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write maps.png, metrics.png, a picture of each metric's curves, table.md and comparison.json.

        Numbers that are not finite stand in comparison.json as Python writes and reads them: NaN, Infinity.

        Parameters
        ----------
        folder : made where it is missing

        Raises
        ------
        InvalidInputError
            if nothing can be written there
        """
        target = files.writable_folder("folder", folder)
        drawn = {f"curves_{i}.png": found.plot() for i, found in enumerate(self.curves.values(), 1)}
        if self.criteria:
            drawn["metrics.png"] = self.plot_metrics()
        if self.maps and pictures.kind_of(self.samples) is not None:
            drawn["maps.png"] = self.plot()
        for name, figure in drawn.items():
            files.write(target / name, png(figure))
        files.write(target / "table.md", f"{self.table()}\n".encode("utf-8", "replace"))
        files.write(target / "comparison.json", json.dumps(self.to_dict(), indent=1).encode())

    def __repr__(self) -> str:
        failed = sum(row.failure is not None for row in self.rows)
        return (
            f"Comparison({len(self.rows)} analyzers{f', {failed} failed' if failed else ''}, {len(self.criteria)} "
            f"metrics, {len(self.samples)} samples)"
        )
