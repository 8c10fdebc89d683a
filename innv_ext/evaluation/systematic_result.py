"""What the systematic study found: shares per sample, by class and by size, a table and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.frames import frame
from innv_ext.evaluation.measures import RATIOS, as_ratio
from innv_ext.evaluation.statistics import Named, Statistics, cell, over_samples, shown

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN_CLASSES = 10


@dataclass(frozen=True, eq=False, repr=False)
class SystematicResult:
    """How much relevance of each sample of a data set lies inside its mask.

    Attributes
    ----------
    names : the analyzers, in the order given
    inside : {name: array (samples,)}, relevance inside over all, absolute values
    size : array (samples,), the share of places that are inside the mask
    labels : int array (samples,), the true classes, or None
    predicted : int array (samples,), the flat index of the largest output

    Examples
    --------
    >>> inside = {"a": np.array([0.9, 0.8, 0.1])}
    >>> result = SystematicResult(("a",), inside, np.full(3, 0.4), np.array([0, 0, 7]), np.array([0, 0, 7]))
    >>> result.concentrated()["a"].tolist()
    [True, True, False]
    >>> round(float(result.statistics("weighted", by="class")["a"][7].mean), 3)
    0.25
    """

    names: tuple[str, ...]
    inside: Named
    size: np.ndarray
    labels: np.ndarray | None
    predicted: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The class of each sample: its label, or what was predicted if there are no labels."""
        return self.predicted if self.labels is None else self.labels

    def ratio(self, kind: str = "weighted") -> Named:
        """{name: array (samples,)}, the ratio of this kind; see ``inside_ratio``."""
        arguments.choice("kind", kind, RATIOS)
        return {name: as_ratio(self.inside[name], self.size, kind) for name in self.names}

    def concentrated(self, threshold: float = 0.5) -> Named:
        """{name: bool array (samples,)}: whether more than this share of the relevance lies inside."""
        threshold = arguments.number("threshold", threshold, most=1)
        return {name: self.inside[name] > threshold for name in self.names}

    def statistics(self, of: str = "weighted", *, by: str | None = None) -> dict[str, Any]:
        """Mean, standard deviation and errors over the samples.

        Parameters
        ----------
        of : "inside_total", "weighted" or "inside_outside" (infinite where nothing is outside), or "concentrated" (the
            share of samples with more than half of the relevance inside)
        by : None, or "class"

        Returns
        -------
        dict
            {name: Statistics}, by class {name: {class: Statistics}}

        Raises
        ------
        InvalidInputError
            for another ``of`` or ``by``
        """
        arguments.choice("of", of, (*RATIOS, "concentrated"))
        arguments.choice("by", by, (None, "class"))
        values = self.concentrated() if of == "concentrated" else self.ratio(of)
        if by is None:
            return {name: over_samples(row) for name, row in values.items()}
        rows = {int(c): self.classes == c for c in np.unique(self.classes)}
        return {name: {c: over_samples(row[own]) for c, own in rows.items()} for name, row in values.items()}

    def by_size(self, *, bins: int = 10, threshold: float = 0.5) -> tuple[np.ndarray, dict[str, Statistics]]:
        """Which share of the samples has its relevance concentrated inside, by the size of the mask.

        Parameters
        ----------
        bins : how many, evenly spaced over sizes from 0 to 1; empty ones are left out
        threshold : the share of relevance that counts as concentrated when it is exceeded

        Returns
        -------
        sizes : array (bins with samples,), the mean size in each
        shares : {name: Statistics} of such arrays
        """
        bins = arguments.positive_int("bins", bins)
        place = np.minimum((self.size * bins).astype(int), bins - 1)
        rows = [place == b for b in np.unique(place)]
        sizes = np.array([self.size[own].mean() for own in rows])
        found = {}
        for name, values in self.concentrated(threshold).items():
            found[name] = Statistics(*map(np.array, zip(*(over_samples(values[own]) for own in rows), strict=True)))
        return sizes, found

    def table(self, kind: str = "weighted", *, classes: int = SHOWN_CLASSES) -> str:
        """A markdown table per analyzer and class, mean ± standard error, the lowest ratio first.

        Parameters
        ----------
        kind : the ratio that is shown and says the order
        classes : how many of the lowest classes are listed, below the line of all samples
        """
        classes = arguments.positive_int("classes", classes)
        whole, of_class = self.statistics(kind), self.statistics(kind, by="class")
        dense, dense_class = self.statistics("concentrated"), self.statistics("concentrated", by="class")
        counts = dict(zip(*np.unique(self.classes, return_counts=True), strict=True))
        lines = [f"| analyzer | class | samples | {kind} | concentrated |", "| --- | --- | --- | --- | --- |"]
        for name in self.names:
            rows = [("all", len(self.size), whole[name], dense[name])]
            lowest = sorted(counts, key=lambda c, of=of_class[name]: of[c].mean)[:classes]
            rows += [(str(c), counts[c], of_class[name][c], dense_class[name][c]) for c in lowest]
            lines += [f"| {cell(name)} | {c} | {n} | {shown(r)} | {shown(d)} |" for c, n, r, d in rows]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as lists, ready for ``json.dump``."""
        return {
            "names": list(self.names),
            "inside": {name: self.inside[name].tolist() for name in self.names},
            "size": self.size.tolist(),
            "labels": None if self.labels is None else self.labels.tolist(),
            "predicted": self.predicted.tolist(),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> SystematicResult:
        """What ``to_dict`` gave."""
        inside = {name: np.asarray(stored["inside"][name]) for name in stored["names"]}
        labels = None if stored["labels"] is None else np.asarray(stored["labels"])
        return cls(tuple(stored["names"]), inside, np.asarray(stored["size"]), labels, np.asarray(stored["predicted"]))

    def to_frame(self) -> DataFrame:
        """A pandas data frame with one row per analyzer and sample.

        Raises
        ------
        InvalidInputError
            if pandas, an extra, is not installed
        """
        count, number = len(self.size), len(self.names)
        columns = {
            "analyzer": np.repeat(np.array(self.names, object), count),
            "sample": np.tile(np.arange(count), number),
            "class": np.tile(self.classes, number),
            "predicted": np.tile(self.predicted, number),
            "size": np.tile(self.size, number),
        }
        return frame({**columns, **{k: np.concatenate(list(self.ratio(k).values())) for k in RATIOS}})

    def plot(
        self,
        ax: Sequence[Axes] | None = None,
        *,
        kind: str = "weighted",
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw the share of concentrated samples by size, and the ratio of the lowest classes, ± standard errors.

        Nothing of pyplot is used, so this works without a display; in a notebook the returned figure shows itself.

        Parameters
        ----------
        ax : two matplotlib axes to draw on; None makes a figure
        kind : the ratio of the right panel; its order is that of the first analyzer
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            if ``ax`` is not two axes, or for an unknown ``kind``, or infinite ratios
        """
        if not all(np.isfinite(values).all() for values in self.ratio(kind).values()):
            raise InvalidInputError(f"kind={kind!r} is infinite for some samples; take 'weighted' or 'inside_total'.")
        left, right = plotting.axes_for(ax, ("by size", "by class"), len(self.names))
        sizes, shares = self.by_size()
        overall = {name: float(found.mean) for name, found in self.statistics("concentrated").items()}
        curves = {name: (found.mean, found.error) for name, found in shares.items()}
        panel = plotting.Panel(
            "share of samples", curves, overall, "more than half of the relevance inside", True, (0, 1.02), "o"
        )
        figure = plotting.draw([left], sizes, "size of the mask (share of places)", [panel])
        self._draw_classes(right, kind)
        return plotting.save(figure, path)

    def _draw_classes(self, ax: Axes, kind: str) -> None:
        """Points with error bars for the lowest classes."""
        found = self.statistics(kind, by="class")
        of = found[self.names[0]]
        lowest = sorted(of, key=lambda c: of[c].mean)[:SHOWN_CLASSES]
        for j, name in enumerate(self.names):
            means, errors = (np.array([getattr(found[name][c], f) for c in lowest]) for f in ("mean", "error"))
            places = np.arange(len(lowest)) + 0.5 * ((j + 0.5) / len(self.names) - 0.5)
            colour = plotting.look(j)["color"]
            ax.errorbar(places, means, np.nan_to_num(errors), fmt="o", markersize=4, color=colour, label=name)
        if kind == "weighted":
            ax.axhline(1, color="#888888", linewidth=0.8, zorder=0)  # relevance that is spread evenly
        ax.set_xticks(np.arange(len(lowest)), [str(c) for c in lowest])
        ax.set(xlabel=f"class (lowest {len(lowest)} of {len(of)})", ylabel=f"{kind} ratio")
        ax.set_ylim(bottom=0)
        plotting.tidy(ax)

    def __repr__(self) -> str:
        of = self.statistics(by="class")[self.names[0]]
        return (
            f"SystematicResult({len(self.names)} analyzers, {len(self.size)} samples, {len(of)} classes; lowest class "
            f"of {self.names[0]!r}: {min(of, key=lambda c: of[c].mean)})"
        )
