"""What a comparison found: a table, rankings, pictures, a report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from innv_ext import arguments, files
from innv_ext.comparison import pictures
from innv_ext.comparison.report import page
from innv_ext.comparison.rows import Curves, Findings
from innv_ext.evaluation.ordering import OrderingResult
from innv_ext.evaluation.perturbation import PerturbationResult
from innv_ext.evaluation.plotting import save
from innv_ext.evaluation.results import EvaluationResult, markdown
from innv_ext.visualization.panels import png

KINDS: dict[str, type[Curves]] = {"perturbation": PerturbationResult, "ordering": OrderingResult}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Findings):
    """Analyzers, what they said about the same neurons, and how good that was.

    Attributes
    ----------
    rows : one per analyzer, in the order given
    criteria : the metrics
    samples : x, classes, explained neurons
    curves : {metric: result}, for metrics that are areas under curves
    settings, versions : texts and numbers that make the comparison repeatable
    """

    def columns(self) -> dict[str, list[Any]]:
        """Analyzer, metric, sample and value, wherever there is a number."""
        found = [
            (row.title, metric, i, value)
            for row in self.rows
            for metric, cell in row.cells.items()
            if cell.values is not None
            for i, value in enumerate(cell.values.tolist())
        ]
        columns = zip(*found, strict=True) if found else [()] * 4
        return dict(zip(("analyzer", "metric", "sample", "value"), map(list, columns), strict=True))

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples, with errors and warnings below."""
        lines = []
        for row in self.rows:
            cells = [row.cell(c.title).text for c in self.criteria]
            cells = [*cells, f"{row.sample_seconds:.3g}"] if row.failure is None else ["failed"] * (len(cells) + 1)
            lines.append([row.title, *cells])
        found = markdown(["analyzer", *(c.header for c in self.criteria), "s per sample"], lines)
        problems = [f"- {row.title}: {' '.join(text.split())}" for row in self.rows for text in row.problems]
        return "\n".join([found, "", *problems] if problems else [found])

    def to_dict(self, *, maps: bool = False) -> dict[str, Any]:
        """All numbers and texts as lists and dicts, ready for ``json.dump``.

        Parameters
        ----------
        maps : also x and the maps, which can be large; without them ``from_dict`` gives a comparison without pictures
        """
        found = self
        if not maps:
            rows = tuple(replace(row, maps=None) for row in self.rows)
            found = replace(self, rows=rows, samples=replace(self.samples, x=None))
        kinds = {cls: kind for kind, cls in KINDS.items()}
        curves = {metric: {"kind": kinds[type(of)], **of.to_dict()} for metric, of in self.curves.items()}
        return {**EvaluationResult.to_dict(found), "curves": curves}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Comparison:
        curves = {metric: KINDS[of["kind"]].from_dict(of) for metric, of in stored["curves"].items()}
        return replace(super().from_dict({**stored, "curves": {}}), curves=curves)

    def draw(self, ax: Any = None, *, samples: int = 8, input: str | None = None) -> Figure:
        """Draw the maps: images in a grid, signals as lines, tables as bars, volumes in slices, tokens as text.

        Channels of images and volumes that are no colours are averaged. Arrays (batch, H, W) with more than 12 columns
        are drawn as images.

        Parameters
        ----------
        ax : matplotlib axes, as many as the function of ``innv_ext.visualization`` for this kind of data wants; None
            makes a figure
        samples : the first ones are drawn, at most so many
        input : the name of the input, for models with several; None: the first one that there is a picture of

        Raises
        ------
        InvalidInputError
            for an input that does not exist or that there is no picture of, and where there are no maps, because all
            analyzers failed or the comparison was read without them
        """
        count = min(arguments.positive_int("samples", samples), len(self.samples))
        _, of_input, maps = pictures.view(self.samples, self.maps, input)
        return pictures.draw_maps(of_input, maps, range(count), ax)

    def plot_metrics(self, ax: Any = None, *, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw a panel per metric: means with standard errors over the samples, the best on top.

        Parameters
        ----------
        ax : one matplotlib axes per metric; None makes a figure
        path : also save the figure there; the suffix says the format

        Raises
        ------
        InvalidInputError
            for the wrong number of axes, or without metrics
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

        Of several inputs each has a picture of its own, maps_1.png, maps_2.png ...
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
        for i, (name, *_) in enumerate(pictures.views(self.samples, self.maps), 1):
            drawn["maps.png" if name is None else f"maps_{i}.png"] = self.plot(input=name)
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
