"""What the relevance ordering test found: curves per sample, areas, a table and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.frames import curve_frame
from innv_ext.evaluation.statistics import Named, Statistics, cell, over_samples, shown

if TYPE_CHECKING:
    from pandas import DataFrame

# the vertical axis' label and upper end, and whether a large area is good
PANELS = {
    "distortion": ("distortion (squared change of the output)", None, False),
    "accuracy": ("accuracy", 1.02, True),
}


@dataclass(frozen=True, eq=False, repr=False)
class OrderingResult:
    """Curves of the relevance ordering test.

    Attributes
    ----------
    rates : array (rates,), the shares of features that were kept
    names : the relevance maps, in the order given
    distortion : {name: array (samples of x, rates)}, mean squared change of the score; less is better
    accuracy : {name: array (samples of x, rates)}, share of copies classified as the label; more is better

    Examples
    --------
    >>> rates = np.array([0.0, 1.0])
    >>> curves = {"a": np.array([[1.0, 0.0], [3.0, 0.0]])}
    >>> result = OrderingResult(rates, ("a",), curves, {"a": np.ones((2, 2))})
    >>> result.distortion_area["a"].tolist()
    [0.5, 1.5]
    >>> float(result.statistics("distortion_area")["a"].error)
    0.5
    """

    rates: np.ndarray
    names: tuple[str, ...]
    distortion: Named
    accuracy: Named

    @property
    def distortion_area(self) -> Named:
        """{name: array (samples of x,)}: area under the distortion over the rate, by the trapezoid rule."""
        return {name: trapezoid(self.distortion[name], self.rates, axis=1) for name in self.names}

    @property
    def accuracy_area(self) -> Named:
        """{name: array (samples of x,)}: area under the accuracy over the rate, by the trapezoid rule."""
        return {name: trapezoid(self.accuracy[name], self.rates, axis=1) for name in self.names}

    def statistics(self, of: str) -> dict[str, Statistics]:
        """Mean, standard deviation and standard error over the samples of x, per name.

        Parameters
        ----------
        of : "distortion" or "accuracy" (arrays (rates,)), "distortion_area" or "accuracy_area" (numbers)

        Raises
        ------
        InvalidInputError
            for another name
        """
        curves = {"distortion": lambda: self.distortion, "accuracy": lambda: self.accuracy}
        areas = {"distortion_area": lambda: self.distortion_area, "accuracy_area": lambda: self.accuracy_area}
        known = curves | areas
        if of not in known:
            raise InvalidInputError(f"of must be one of {', '.join(map(repr, known))}, got {of!r}.")
        return {name: over_samples(values) for name, values in known[of]().items()}

    def table(self) -> str:
        """A markdown table of the areas, mean ± standard error over the samples of x; least distortion first."""
        distortion, accuracy = self.statistics("distortion_area"), self.statistics("accuracy_area")
        lines = ["| relevance | distortion area | accuracy area |", "| --- | --- | --- |"]
        for name in sorted(self.names, key=lambda n: distortion[n].mean):
            lines.append(f"| {cell(name)} | {shown(distortion[name])} | {shown(accuracy[name])} |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Curves and areas as lists and floats, ready for ``json.dump``."""
        fields = ("distortion", "accuracy", "distortion_area", "accuracy_area")
        lists = {f: {name: values.tolist() for name, values in getattr(self, f).items()} for f in fields}
        return {"rates": self.rates.tolist(), "names": list(self.names), **lists}

    def to_frame(self) -> DataFrame:
        """The curves as a pandas data frame: one row per map, sample of x and rate.

        Raises
        ------
        InvalidInputError
            if pandas, an extra, is not installed
        """
        curves = {"distortion": self.distortion, "accuracy": self.accuracy}
        return curve_frame(self.names, "rate", self.rates, curves)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> OrderingResult:
        """What ``to_dict`` gave; the areas follow from the curves."""
        curves = [{name: np.asarray(stored[f][name]) for name in stored["names"]} for f in ("distortion", "accuracy")]
        return cls(np.asarray(stored["rates"]), tuple(stored["names"]), *curves)

    def plot(
        self,
        ax: Sequence[Axes] | None = None,
        *,
        spread: str = "error",
        path: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draw distortion and accuracy over the rate: mean curves with a shaded spread, legends sorted by area.

        Nothing of pyplot is used, so this works without a display; in a notebook the returned figure shows itself.

        Parameters
        ----------
        ax : two matplotlib axes to draw on; None makes a figure
        spread : what is shaded: ± standard "error" of the mean, or ± "std" (standard deviation over the samples of x,
            as in the paper)
        path : also save the figure there; the suffix says the format

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidInputError
            if ``ax`` is not two axes, or for an unknown ``spread``

        Notes
        -----
        Figures 4 and 6 of Macdonald et al. (2022), "Interpretable Neural Networks with Frank-Wolfe".
        """
        if spread not in ("error", "std"):
            raise InvalidInputError(f"spread must be 'error' or 'std', got {spread!r}.")
        panels = [
            plotting.Panel(
                label,
                {name: (found.mean, getattr(found, spread)) for name, found in self.statistics(of).items()},
                {name: float(found.mean) for name, found in self.statistics(f"{of}_area").items()},
                "area",
                more_is_better,
                (0, top),
            )
            for of, (label, top, more_is_better) in PANELS.items()
        ]
        axes = plotting.axes_for(ax, tuple(PANELS), len(self.names))
        figure = plotting.draw(axes, self.rates, "rate (non-randomised components)", panels)
        return plotting.save(figure, path)

    def __repr__(self) -> str:
        samples = len(self.distortion[self.names[0]])
        best = min(self.names, key=lambda n: self.distortion_area[n].mean())
        return (
            f"OrderingResult({len(self.names)} maps, {samples} samples, {len(self.rates)} rates; least distortion: "
            f"{best!r})"
        )
