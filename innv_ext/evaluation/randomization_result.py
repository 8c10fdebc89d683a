"""What a randomisation check found: agreement with the original maps per stage and sample, a table and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.frames import frame
from innv_ext.evaluation.plotting import COLOURS, DASHES, save
from innv_ext.evaluation.statistics import Statistics, cell, over_samples, shown

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = {
    "rank_correlation": "rank correlation",
    "absolute_rank_correlation": "rank correlation of magnitudes",
    "ssim": "SSIM",
}


@dataclass(frozen=True, eq=False, repr=False)
class RandomizationResult:
    """Agreement of maps with those of the original weights; 1 is equal.

    Attributes
    ----------
    stages : the layer that was randomised at each stage, from the top down
    rank_correlation, absolute_rank_correlation : Spearman's, of the values and of their magnitudes, (stages, samples)
    ssim : (stages, samples)
    order : "cascading" or "independent"
    analyzer : its name
    """

    stages: tuple[str, ...]
    rank_correlation: np.ndarray
    absolute_rank_correlation: np.ndarray
    ssim: np.ndarray
    order: str
    analyzer: str

    def statistics(self, of: str) -> Statistics:
        """Mean, standard deviation and standard error over the samples, arrays (stages,), of one of the measures.

        Raises
        ------
        InvalidInputError
            for another name
        """
        if of not in METRICS:
            raise InvalidInputError(f"of must be one of {', '.join(map(repr, METRICS))}, got {of!r}.")
        return over_samples(getattr(self, of).T)

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples."""
        lines = [f"| randomised | {' | '.join(METRICS.values())} |", "| --- | --- | --- | --- |"]
        for i, stage in enumerate(self.stages):
            cells = [shown(over_samples(getattr(self, of)[i])) for of in METRICS]
            lines.append(f"| {cell(stage)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Names and lists, ready for ``json.dump``."""
        values = {of: getattr(self, of).tolist() for of in METRICS}
        return {"analyzer": self.analyzer, "order": self.order, "stages": list(self.stages), **values}

    def to_frame(self) -> DataFrame:
        """One row per stage and sample; needs pandas."""
        stages, samples = self.ssim.shape
        return frame(
            {
                "stage": np.repeat(np.array(self.stages, object), samples),
                "sample": np.tile(np.arange(samples), stages),
                **{of: getattr(self, of).ravel() for of in METRICS},
            }
        )

    def plot(self, ax: Axes | None = None, *, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the means over the stages, with standard errors; nothing of pyplot is used.

        Parameters
        ----------
        ax : matplotlib axes to draw on; None makes a figure
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            if ``ax`` is not axes
        """
        if ax is None:
            figure = Figure(figsize=(2.5 + 0.45 * len(self.stages), 4), facecolor="white", layout="constrained")
            FigureCanvasAgg(figure)
            ax = figure.subplots()
        if not isinstance(ax, Axes):
            raise InvalidInputError(f"ax must be matplotlib axes, got {ax!r}.")
        places = np.arange(len(self.stages) + 1)
        for j, (of, label) in enumerate(METRICS.items()):
            found = self.statistics(of)
            means, errors = np.append(1.0, found.mean), np.append(0.0, np.nan_to_num(found.error))
            ax.errorbar(places, means, errors, color=COLOURS[j], linestyle=DASHES[j], marker="o", ms=3, label=label)
        ax.set_xticks(places, ["original", *self.stages], rotation=45, ha="right", fontsize=8)
        ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        before = "up to this layer, from the top" if self.order == "cascading" else "at this layer alone"
        ax.set(title=self.analyzer, xlabel=f"random weights {before}", ylabel="agreement with the original map")
        ax.set_ylim(top=1.05)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=8, frameon=False)
        return save(ax.figure.figure, path)

    def __repr__(self) -> str:
        last = shown(over_samples(self.absolute_rank_correlation[-1]))
        return (
            f"RandomizationResult({self.analyzer!r}, {self.order!r}, {len(self.stages)} stages, {self.ssim.shape[1]} "
            f"samples; rank correlation of magnitudes at the last: {last})"
        )
