"""The Gaussian of the patches of data: streaming moments, draws of an inner patch given its surroundings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import linalg

from innv_ext.analyzers.parts.replacement import RunningMoments
from innv_ext.analyzers.parts.windows import Windows, components, windows
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.errors import InvalidInputError

LIMIT = 4096  # components of a patch up to which a covariance matrix is formed
CHUNK = 2**22  # numbers in the patches that are looked at together
RIDGE = 1e-6  # added to correlations, so that constant components don't make them singular


@dataclass(eq=False)
class PatchGaussian:
    """Mean and covariance of all patches of one size, with all channels.

    Attributes
    ----------
    outer : sides of a patch along every axis of a sample
    mean, covariance : of the m components of a patch
    low, high : the range of the data in each component: of its channel, or of its column
    """

    outer: Sizes
    mean: np.ndarray
    covariance: np.ndarray
    low: np.ndarray
    high: np.ndarray
    _known: dict[tuple[Sizes, Sizes], Conditional] = field(default_factory=dict)

    def conditional(self, inner: Sizes, offset: Sizes) -> Conditional:
        """The Gaussian of the ``inner`` patch at ``offset`` in the outer one, given the rest of the outer one.

        From the inverse of the correlation matrix, which serves all offsets.
        """
        if (inner, offset) not in self._known:
            inside = np.zeros(self.outer, bool)
            inside[tuple(slice(o, o + i) for o, i in zip(offset, inner, strict=True))] = True
            own, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
            scale, spread = self.scale, np.linalg.inv(self.precision[np.ix_(own, own)])
            gain = -(spread @ self.precision[np.ix_(own, rest)]) * (scale[own][:, None] / scale[rest][None])
            root = scale[own][:, None] * np.linalg.cholesky((spread + spread.T) / 2)
            self._known[inner, offset] = Conditional(own, rest, gain, root)
        return self._known[inner, offset]

    @cached_property
    def scale(self) -> np.ndarray:
        """Standard deviations; 1 for constant components."""
        deviation = np.sqrt(np.diag(self.covariance))
        return np.where(deviation > 0, deviation, 1.0)

    @cached_property
    def precision(self) -> np.ndarray:
        """The inverse of the correlation matrix."""
        correlation = self.covariance / np.outer(self.scale, self.scale)
        factor = linalg.cho_factor(correlation + RIDGE * np.eye(len(correlation)))
        return linalg.cho_solve(factor, np.eye(len(correlation)))

    def draw(self, patches: np.ndarray, inner: Sizes, offset: Sizes, normal: np.ndarray) -> tuple[np.ndarray, ...]:
        """New values of the inner patch of ``patches`` (count, m), within the data's range, and where they belong.

        ``normal`` are standard normal draws (count, components of the inner patch).
        """
        given = self.conditional(inner, offset)
        mean = self.mean[given.own] + (patches[:, given.rest] - self.mean[given.rest]) @ given.gain.T
        values = mean + normal @ given.root.T
        return np.clip(values, self.low[given.own], self.high[given.own]), given.own


@dataclass(frozen=True, eq=False)
class Conditional:
    """x_own given x_rest: mean_own + gain (x_rest - mean_rest), covariance root root'."""

    own: np.ndarray
    rest: np.ndarray
    gain: np.ndarray
    root: np.ndarray


def surroundings(parts: Windows, outer: Sizes, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of outer windows around windows ``which``, as central as the input allows, and of these in them."""
    corners, middle = parts.corners(which), (np.array(outer, int) - np.array(parts.size, int)) // 2
    around = np.clip(corners - middle, 0, np.array(parts.shape, int) - np.array(outer, int))
    return around, corners - around


class PatchMoments:
    """Accumulates mean, covariance and range of patches over batches of samples."""

    def __init__(self, one: Arrangement, outer: Sizes, stride: int):
        self.one, self.outer, self.stride = one, outer, stride
        self.m = int(np.prod(outer))
        if self.m > LIMIT:
            raise InvalidInputError(
                f"outer={outer} has {self.m} components with a covariance of {self.m} x {self.m}; up to {LIMIT} are "
                f"supported. Pass a smaller outer= (or explain fewer columns)."
            )
        self.running = RunningMoments(self.m, True)
        whole = [
            o == side and axis not in one.axes for axis, (o, side) in enumerate(zip(outer, one.shape, strict=True))
        ]
        self.pooled = (0, *(axis + 1 for axis, alone in enumerate(whole) if not alone))
        self.low, self.high = np.array(np.inf), np.array(-np.inf)

    def add(self, x: np.ndarray) -> None:
        """Take all patches of samples x (batch, *shape)."""
        one = replace(self.one, shape=x.shape[1:])
        if any(o > side for o, side in zip(self.outer, one.shape, strict=True)):
            raise InvalidInputError(
                f"A sample of shape {one.shape} in the training data is smaller than outer={self.outer}."
            )
        self.low = np.minimum(self.low, x.min(axis=self.pooled, keepdims=True)[0])
        self.high = np.maximum(self.high, x.max(axis=self.pooled, keepdims=True)[0])
        grid = windows(one, self.outer, tuple(self.stride for _ in self.outer))
        flat, step = x.reshape(len(x), -1), max(1, CHUNK // (self.m * len(x)))
        for first in range(0, grid.count, step):
            which = np.arange(first, min(first + step, grid.count))
            at = components(one.shape, grid.corners(which), self.outer)
            self.running.add(flat[:, at].reshape(-1, self.m).astype("float64"))

    def gaussian(self) -> PatchGaussian:
        low, high = (np.broadcast_to(a, self.outer).reshape(-1).copy() for a in (self.low, self.high))
        return PatchGaussian(self.outer, self.running.mean.copy(), self.running.scatter / self.running.count, low, high)
