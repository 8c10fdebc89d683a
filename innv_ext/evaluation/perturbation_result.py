"""What the perturbation analysis found: curves per sample, the area over them, a table and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.evaluation import plotting
from innv_ext.evaluation.features import RANDOM
from innv_ext.evaluation.frames import curve_frame
from innv_ext.evaluation.statistics import Named, Statistics, cell, over_samples, shown

if TYPE_CHECKING:
    from pandas import DataFrame

TITLES = {"morf": "most relevant first", "lerf": "least relevant first"}


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationResult:
    """Curves of a perturbation analysis.

    Attributes
    ----------
    perturbed : int array (steps + 1,), 0, 1, 2, ...: the number of perturbed regions
    names : the rows: the relevance maps in the order given, "name (morf)" and "name (lerf)" where both orders were
        asked for, and "random", the mean over random orders, if it was
    orders : "morf", "lerf" or "random" for each row
    scores : {name: array (samples of x, steps + 1)}, the score of the neuron
    agreement : {name: array (samples of x, steps + 1)}, share of copies that are classified as x is

    Examples
    --------
    >>> curves = {"a": np.array([[1.0, 0.5, 0.0], [3.0, 0.0, 0.0]])}
    >>> result = PerturbationResult(np.arange(3), ("a",), ("morf",), curves, {"a": np.ones((2, 3))})
    >>> result.aopc["a"].tolist()
    [0.5, 2.0]
    >>> float(result.statistics("aopc")["a"].mean)
    1.25
    """

    perturbed: np.ndarray
    names: tuple[str, ...]
    orders: tuple[str, ...]
    scores: Named
    agreement: Named

    @property
    def aopc(self) -> Named:
        """{name: array (samples of x,)}: area over the perturbation curve, the mean of f(x_0) - f(x_k), k = 0..steps.

        Large is good for the most relevant first, small for the least relevant first. Samek et al. (2017).
        """
        return {name: (curve[:, :1] - curve).mean(axis=1) for name, curve in self.scores.items()}

    def statistics(self, of: str) -> dict[str, Statistics]:
        """Mean, standard deviation, standard error and 95 % confidence over the samples of x, per row.

        Parameters
        ----------
        of : "scores" or "agreement" (arrays (steps + 1,)), or "aopc" (numbers)

        Raises
        ------
        InvalidInputError
            for another name
        """
        arguments.choice("of", of, ("scores", "agreement", "aopc"))
        return {name: over_samples(values) for name, values in getattr(self, of).items()}

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples of x: per order, the best first."""
        aopc = self.statistics("aopc")
        lines = ["| relevance | order | AOPC | mean agreement |", "| --- | --- | --- | --- |"]
        for order in dict.fromkeys(self.orders):
            for name in self._ranked(order):
                agreement = over_samples(self.agreement[name].mean(axis=1))
                lines.append(f"| {cell(name)} | {order} | {shown(aopc[name])} | {shown(agreement)} |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Curves and areas as lists and floats, ready for ``json.dump``."""
        lists = {
            of: {name: values.tolist() for name, values in getattr(self, of).items()}
            for of in ("scores", "agreement", "aopc")
        }
        return {
            "perturbed": self.perturbed.tolist(),
            "names": list(self.names),
            "orders": list(self.orders),
            **lists,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> PerturbationResult:
        """What ``to_dict`` gave; the areas follow from the curves."""
        curves = [{name: np.asarray(stored[of][name]) for name in stored["names"]} for of in ("scores", "agreement")]
        return cls(np.asarray(stored["perturbed"]), tuple(stored["names"]), tuple(stored["orders"]), *curves)

    def to_frame(self) -> DataFrame:
        """The curves as a pandas data frame: one row per map, sample of x and step.

        Raises
        ------
        InvalidInputError
            if pandas, an extra, is not installed
        """
        curves = {"score": self.scores, "agreement": self.agreement}
        return curve_frame(self.names, "perturbed", self.perturbed, curves)

    def plot(
        self,
        ax: Axes | Sequence[Axes] | None = None,
        *,
        spread: str = "error",
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw the score over the number of perturbed regions, a panel for each order; legends sorted by AOPC.

        Nothing of pyplot is used, so this works without a display; in a notebook the returned figure shows itself.

        Parameters
        ----------
        ax : matplotlib axes to draw on, two where both orders were asked for; None makes a figure
        spread : the band around the mean: ± standard "error", its 95 % "confidence" interval (Student's t), or ± "std"
            (standard deviation over the samples of x)
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            for the wrong number of axes, or an unknown ``spread``
        """
        arguments.choice("spread", spread, ("error", "confidence", "std"))
        orders = [o for o in TITLES if o in self.orders]
        panels = [self._panel(order, spread) for order in orders]
        axes = plotting.axes_for(ax, [TITLES[o] for o in orders], len(self._of(orders[0])))
        figure = plotting.draw(axes, self.perturbed, "perturbed regions", panels)
        return plotting.save(figure, path)

    def _panel(self, order: str, spread: str) -> plotting.Panel:
        """The curves of one order and of the baseline."""
        names, scores, aopc = self._of(order), self.statistics("scores"), self.statistics("aopc")
        return plotting.Panel(
            f"score, {TITLES[order]}",
            {name: (scores[name].mean, getattr(scores[name], spread)) for name in names},
            {name: float(aopc[name].mean) for name in names},
            "AOPC",
            order == "morf",
        )

    def _of(self, order: str) -> list[str]:
        """The rows of one order, with the baseline."""
        return [name for name, own in zip(self.names, self.orders, strict=True) if own in (order, RANDOM)]

    def _ranked(self, order: str) -> list[str]:
        """The rows of exactly this order, the best first."""
        names = [name for name, own in zip(self.names, self.orders, strict=True) if own == order]
        return sorted(names, key=lambda name: self.aopc[name].mean(), reverse=order == "morf")

    def __repr__(self) -> str:
        samples, first = len(self.scores[self.names[0]]), self.orders[0]
        return (
            f"PerturbationResult({len(self.names)} rows, {samples} samples, {len(self.perturbed) - 1} steps; best "
            f"{first}: {self._ranked(first)[0]!r})"
        )
