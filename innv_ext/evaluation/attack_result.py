"""What an attack on explanations found: inputs, maps and measures per sample, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.plotting import COLOURS, axes_for
from innv_ext.evaluation.results import EvaluationResult, as_lists, over_samples, shown
from innv_ext.evaluation.robustness import RobustnessMetrics
from innv_ext.visualization import heatmap, to_rgb

TITLES = ("x", "map of x", "attacked x'", "map of x'")
_SIDE = 1.7  # inches of a panel


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult(EvaluationResult):
    """An attack on explanations.

    Attributes
    ----------
    x, x_adv : arrays (batch, ...), before and after; None where the result was read from a dict
    maps, maps_adv : what the analyzer says of them; None like x
    mass, mass_adv : share of the magnitudes that lies on the top k of ``maps``; the attack lowers it
    metrics : ``robustness_metrics(maps, maps_adv)``
    norms : |x_adv - x|_2
    classes, classes_adv : predicted at x and x_adv; they are equal
    epsilon : the bound of ``norms``
    method : "topk" or "random"
    analyzer : its name
    channel_axis : where x has its channels, if it has any
    """

    x: np.ndarray | None
    x_adv: np.ndarray | None
    maps: np.ndarray | None
    maps_adv: np.ndarray | None
    mass: np.ndarray
    mass_adv: np.ndarray
    metrics: RobustnessMetrics
    norms: np.ndarray
    classes: np.ndarray
    classes_adv: np.ndarray
    epsilon: float
    method: str
    analyzer: str
    channel_axis: int = -1

    @property
    def success(self) -> np.ndarray:
        """Whether the share on the top k fell: booleans (batch,)."""
        return self.mass_adv < self.mass

    def columns(self) -> dict[str, np.ndarray]:
        """{name: array (batch,)} of all that is one number per sample."""
        own = {name: getattr(self, name) for name in ("mass", "mass_adv", "norms", "classes", "classes_adv", "success")}
        return {**self.metrics.values, **own}

    def to_dict(self) -> dict[str, Any]:
        """Settings and one list per measure, ready for ``json.dump``; inputs and maps are left out."""
        settings = {"analyzer": self.analyzer, "method": self.method, "epsilon": self.epsilon, "k": self.metrics.k}
        return as_lists({**settings, **self.columns()})

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> AttackResult:
        """The result that ``to_dict`` gave, without inputs and maps, so that it cannot be drawn."""
        left_out = dict.fromkeys(("x", "x_adv", "maps", "maps_adv"))
        return super().from_dict({**left_out, "metrics": stored, **stored})

    def draw(self, ax: Any = None, *, samples: int = 4) -> Figure:
        """Draw the first samples, one a row: x, its map, the attacked x', its map; images, or curves for other shapes.

        Red raises the score, blue lowers it; each map has its own scale.

        Parameters
        ----------
        ax : array of matplotlib axes (samples, 4); None makes a figure
        samples : rows at most
        """
        if self.x is None:
            raise InvalidInputError("There is nothing to draw: the result was read without inputs and maps.")
        count = min(arguments.positive_int("samples", samples), len(self.x))
        size = (4 * _SIDE, count * (_SIDE + 0.25) + 0.3)
        axes = axes_for(ax, (count, 4), f"{count} samples, {len(TITLES)} panels each", size, dpi=None)
        images = self.x.ndim == 4 and self.x.shape[self.channel_axis] in (1, 3)
        for j, arrays in enumerate((self.x, self.maps, self.x_adv, self.maps_adv)):
            axes[0, j].set_title(TITLES[j], fontsize=9)
            for i in range(count):
                (self._draw_image if images else _draw_curve)(axes[i, j], arrays[i], j)
        for i in range(count):
            axes[i, 0].set_ylabel(f"class {self.classes[i]}", fontsize=8)
            axes[i, 2].set_xlabel(f"distance {self.norms[i]:.3g}", fontsize=8)
            kept = f"top-{self.metrics.k} kept {self.metrics.top_k[i]:.0%}, SSIM {self.metrics.ssim[i]:.2f}"
            axes[i, 3].set_xlabel(kept, fontsize=8)
        return axes[0, 0].figure.figure

    def _draw_image(self, panel: Axes, values: np.ndarray, column: int) -> None:
        if column % 2:
            picture = heatmap(values[None], channel_axis=self.channel_axis)
        else:
            bounds = (min(self.x.min(), self.x_adv.min()), max(self.x.max(), self.x_adv.max()))
            picture = to_rgb(values[None], channel_axis=self.channel_axis, value_range=bounds)
        panel.imshow(picture[0], interpolation="nearest")
        panel.set(xticks=[], yticks=[])

    def __repr__(self) -> str:
        overlap = shown(over_samples(self.metrics.top_k))
        return (
            f"AttackResult({self.analyzer!r}, {self.method!r}, epsilon={self.epsilon:g}, {len(self.norms)} samples, "
            f"{self.success.mean():.0%} lowered; top-{self.metrics.k} kept {overlap})"
        )


def _draw_curve(panel: Axes, values: np.ndarray, column: int) -> None:
    panel.plot(values.ravel(), color=COLOURS[column % 2], linewidth=1)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
