"""How much two relevance maps of a sample have in common: distance, top-k intersection, SSIM, rank correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from innv_ext import files
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.measures import check_finite, quotient
from innv_ext.evaluation.results import EvaluationResult, shown
from innv_ext.visualization.checks import as_numbers

LABELS = {
    "distance": "distance (0: equal)",
    "top_k": "top {k} in common (1: equal)",
    "ssim": "SSIM (1: equal)",
    "rank_correlation": "rank correlation (1: equal)",
}
_WINDOW = 7  # side of the windows of the SSIM, as in scikit-image


@dataclass(frozen=True, eq=False, repr=False)
class RobustnessMetrics(EvaluationResult):
    """Agreement of two maps, one entry per sample; nothing is NaN.

    Attributes
    ----------
    distance : |a / |a| - b / |b||_2, from 0 (equal) to 2 (opposite); less is more similar
    top_k : share of the k largest magnitudes that both maps have in common, in [0, 1]
    ssim : structural similarity, at most 1
    rank_correlation : Spearman's, of signed values, in [-1, 1]
    k : how many components ``top_k`` compares
    """

    distance: np.ndarray
    top_k: np.ndarray
    ssim: np.ndarray
    rank_correlation: np.ndarray
    k: int

    @property
    def values(self) -> dict[str, np.ndarray]:
        """{metric: array (samples,)}."""
        return {metric: getattr(self, metric) for metric in LABELS}

    def columns(self) -> dict[str, np.ndarray]:
        return self.values

    def draw(self, ax: Any = None) -> Figure:
        """Draw each metric as a row of one axes: grey points are samples, coloured ones means with standard errors."""
        (panel,) = plotting.curve_axes(ax, ("metrics",))
        for row, (name, values) in enumerate(self.values.items()):
            found = self.statistics(name)
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
            panel.plot(values, row + spread, ".", color="#8c8c8c", markersize=4, label=name)
            bars = {"xerr": np.nan_to_num(found.error), "capsize": 3, "color": plotting.COLOURS[0]}
            panel.errorbar(found.mean, row, fmt="o", label=f"mean {name}", **bars)
        panel.set_yticks(range(len(LABELS)), [LABELS[name].format(k=self.k) for name in self.values])
        panel.set_ylim(len(LABELS) - 0.5, -0.5)
        panel.set_xlabel(f"{len(self.distance)} samples, mean ± standard error")
        plotting.tidy(panel)
        return panel.figure.figure

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {shown(found)}" for name, found in self.statistics().items())
        return f"RobustnessMetrics({len(self.distance)} samples, k={self.k}: {means})"


def robustness_metrics(a: Any, b: Any, *, k: int | float = 0.1, channel_axis: int | None = -1) -> RobustnessMetrics:
    """Compare two maps of each sample, e.g. before and after an attack on the explanation.

    Parameters
    ----------
    a, b : arrays (batch, ...) of one shape; the batch is not empty
    k : number of components compared by ``top_k``, or their share (a float below 1; at least one component)
    channel_axis : where (batch, ..., channels) has its channels, 1 for (batch, channels, ...); None: nowhere. The SSIM
        is the mean over channels. Tables (batch, features) have none

    Raises
    ------
    InvalidInputError
        for shapes that differ, an empty batch, NaN or infinite values, k out of range, or without scikit-image

    Notes
    -----
    Distance: Zhang and Farnia (2022), MoreauGrad, equation 6; a zero map is left as it is, so two of them have
    distance 0, and it has 1 from any other. Top-k intersection: Ghorbani et al. (2019), of magnitudes; components that
    tie for the last places share them evenly, and equal maps always have 1. SSIM: Wang et al. (2004), by scikit-image
    with ``data_range=2`` and windows of 7 (less in smaller maps; axes of fewer than 3 entries are repeated at the edge
    up to 3), of each map divided by its largest magnitude. Rank correlation: a constant map has 1 with another one and
    0 with all others.

    Examples
    --------
    >>> import numpy as np
    >>> found = robustness_metrics([[3.0, 4.0, 0.0, 0.0]], [[0.0, 4.0, 3.0, 0.0]], k=2)
    >>> found.distance.round(3).tolist(), found.top_k.tolist()
    ([0.849], [0.5])
    """
    a, b = _maps("a", a), _maps("b", b)
    if a.shape != b.shape:
        raise InvalidInputError(f"a has shape {a.shape} but b has {b.shape}; they must agree.")
    axis = read_channel_axis(channel_axis, a.ndim)
    count = read_k(k, int(np.prod(a.shape[1:])))
    rows = [m.reshape(len(m), -1) for m in (a, b)]
    return RobustnessMetrics(
        np.linalg.norm(_unit(rows[0]) - _unit(rows[1]), axis=1),
        np.minimum(top_weights(rows[0], count), top_weights(rows[1], count)).sum(axis=1) / count,
        similarity(a, b, axis),
        rank_correlation(rows[0], rows[1]),
        count,
    )


def top_weights(flat: np.ndarray, k: int) -> np.ndarray:
    """How much each component of (batch, d) belongs to the k largest magnitudes: 0, 1, or the share of tied ones."""
    sizes = np.abs(flat)
    last = -np.partition(-sizes, k - 1, axis=1)[:, k - 1 : k]
    above, level = sizes > last, sizes == last
    left = k - above.sum(axis=1, keepdims=True)
    return above + level * (left / level.sum(axis=1, keepdims=True))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of the rows of (batch, d); with constant rows 1 if both are, else 0."""
    ranks = [rankdata(rows, axis=1) for rows in (a, b)]
    ra, rb = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    sizes = [np.linalg.norm(r, axis=1) for r in (ra, rb)]
    both = (sizes[0] == 0) & (sizes[1] == 0)
    return np.clip(quotient((ra * rb).sum(axis=1), sizes[0] * sizes[1], both), -1, 1)


def similarity(a: np.ndarray, b: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """SSIM of each pair of maps (batch, ...), each divided by its largest magnitude; the mean over channels."""
    structural_similarity = files.need("skimage.metrics", "The SSIM").structural_similarity
    axis = None if channel_axis is None else channel_axis - 1
    found = np.empty(len(a))
    for i, pair in enumerate(zip(a, b, strict=True)):
        x, y = (_padded(quotient(m, np.abs(m).max()), axis) for m in pair)
        smallest = min(d for j, d in enumerate(x.shape) if j != axis)
        window = min(_WINDOW, smallest - 1 + smallest % 2)
        found[i] = structural_similarity(x, y, win_size=window, data_range=2, channel_axis=axis)
    return found


def read_k(k: Any, size: int) -> int:
    """A number of components, given as such or as a share of all."""
    plain = isinstance(k, (int, float, np.integer, np.floating)) and not isinstance(k, bool)
    whole = isinstance(k, (int, np.integer))
    if not plain or not (1 <= k <= size if whole else 0 < k < 1):
        raise InvalidInputError(f"k must be an integer in 1..{size} or a share between 0 and 1, got {k!r}.")
    return int(k) if whole else max(1, round(k * size))


def read_channel_axis(channel_axis: Any, rank: int) -> int | None:
    """Its position among the axes; None in tables."""
    if channel_axis is None or rank < 3:
        return None
    whole = isinstance(channel_axis, (int, np.integer)) and not isinstance(channel_axis, bool)
    if not whole or channel_axis not in (-1, 1, rank - 1, 1 - rank):
        raise InvalidInputError(
            f"channel_axis must be -1 (channels last), 1 (channels first) or None, got {channel_axis!r}."
        )
    return int(channel_axis) % rank


def _maps(name: str, given: Any) -> np.ndarray:
    array = as_numbers(given, name)
    if array.ndim < 2 or not array.size:
        raise InvalidInputError(f"{name} has shape {array.shape}; maps (batch, ...) are needed, at least one.")
    check_finite(name, array)
    return array


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay. The largest magnitude is divided out first, so that squares don't vanish."""
    rows = quotient(rows, np.abs(rows).max(axis=1, keepdims=True))
    return quotient(rows, np.linalg.norm(rows, axis=1, keepdims=True))


def _padded(values: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """At least 3 entries along each axis but the channels."""
    missing = [0 if j == channel_axis else max(0, 3 - d) for j, d in enumerate(values.shape)]
    return np.pad(values, [(0, m) for m in missing], mode="edge") if any(missing) else values
