"""Penalties of composite problems f + penalty: value, proximal operator, distance from the optimality condition."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from innv_ext.arguments import Number
from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import check_count, flat, for_problems, one_or_each, per_problem


def soft_threshold(y: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """sign(y) max(|y| - t, 0), the proximal operator of t |.|_1.

    Parameters
    ----------
    y : shape (P, ...)
    t : threshold of at least 0, one number or one per problem

    Returns
    -------
    array of the shape of y, float32 or float64 as y

    Raises
    ------
    InvalidInputError : t is negative or nan, or has another size

    Examples
    --------
    >>> import numpy as np
    >>> soft_threshold(np.array([[3.0, -0.5], [-3.0, 0.5]]), np.array([1.0, 0.25]))
    array([[ 2.  ,  0.  ],
           [-2.75,  0.25]])
    """
    y = _floating(y)
    t = per_problem(_checked_threshold(t, len(y)), y)
    return y - np.clip(y, -t, t)


def group_soft_threshold(y: np.ndarray, t: float | np.ndarray, groups: np.ndarray) -> np.ndarray:
    """y_G max(1 - t / |y_G|_2, 0) for each group G, the proximal operator of t times the sum of the |y_G|_2.

    y, t, what is returned and raised are as of ``soft_threshold``; the norms are computed in float64.

    Parameters
    ----------
    groups : label of each component of one problem, 0..G-1, the same for every problem; InvalidInputError unless
        there is one for each, and each of them is used

    Examples
    --------
    >>> import numpy as np
    >>> group_soft_threshold(np.array([[3.0, 4.0, 0.1]]), 2.5, np.array([0, 0, 1]))
    array([[1.5, 2. , 0. ]])
    """
    y = _floating(y)
    return _shrunk_groups(y, _checked_threshold(t, len(y)), _checked_groups(groups))


class Penalty:
    """Base: a convex function per problem with a proximal operator.

    Arrays have the shape (q, ...) and belong to the problems with the indices ``problems`` (q,).
    """

    def check(self, x: np.ndarray) -> None:
        """Raise InvalidInputError unless the penalty fits problems of the shape (P, ...) of x."""

    def value(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """The penalty at x, (q,) float64."""
        raise NotImplementedError

    def change(self, x: np.ndarray, y: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """value(y) - value(x), (q,) float64, also for neighbours whose values differ by rounding only."""
        raise NotImplementedError

    def prox(self, x: np.ndarray, lengths: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """argmin over u of penalty(u) + |u - x|^2 / (2 length), with one length per problem."""
        raise NotImplementedError

    def norm(self, gradient: np.ndarray) -> np.ndarray:
        """The norm in which residuals are measured, (q,) float64."""
        return np.abs(flat(gradient)).max(axis=1, initial=0).astype(np.float64)

    def residual(self, x: np.ndarray, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """Norm of the smallest element of gradient + subdifferential of the penalty at x, (q,): 0 at a KKT point."""
        raise NotImplementedError


@dataclass(frozen=True)
class Zero(Penalty):
    """No penalty."""

    def value(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return np.zeros(len(x))

    def change(self, x: np.ndarray, y: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return np.zeros(len(x))

    def prox(self, x: np.ndarray, lengths: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return x

    def residual(self, x: np.ndarray, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return self.norm(gradient)


@dataclass(frozen=True, eq=False)
class Weighted(Penalty):
    """Base: has a weight of at least 0, one number or one per problem."""

    weight: float | tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", one_or_each("weight", self.weight, Number()))

    def check(self, x: np.ndarray) -> None:
        check_count("weight", self.weight, len(x))

    def weights(self, problems: np.ndarray) -> np.ndarray:
        """The weight of each of the problems, (q,)."""
        return for_problems("weight", self.weight, problems)


@dataclass(frozen=True)
class L1(Weighted):
    """weight |x|_1.

    Parameters
    ----------
    weight : at least 0, one number or one per problem

    Examples
    --------
    >>> import numpy as np
    >>> x, gradient, problems = np.array([[2.0, 0.0]]), np.array([[-1.0, 3.0]]), np.array([0])
    >>> L1(1.0).residual(x, gradient, problems), L1(3.0).residual(x, gradient, problems)
    (array([2.]), array([2.]))
    """

    def value(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return self.weights(problems) * np.abs(flat(x)).sum(axis=1, dtype=np.float64)

    def change(self, x: np.ndarray, y: np.ndarray, problems: np.ndarray) -> np.ndarray:
        longer = np.abs(flat(y)) - np.abs(flat(x))  # differences first: they are exact for neighbours
        return self.weights(problems) * longer.sum(axis=1, dtype=np.float64)

    def prox(self, x: np.ndarray, lengths: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return soft_threshold(x, lengths * self.weights(problems))

    def residual(self, x: np.ndarray, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """Largest |g_i + weight sign(x_i)|, at x_i = 0 what is left of |g_i| above the weight."""
        weight = per_problem(self.weights(problems), x)
        return self.norm(np.where(x == 0, np.maximum(np.abs(gradient) - weight, 0), gradient + weight * np.sign(x)))


@dataclass(frozen=True, eq=False)
class GroupL2(Weighted):
    """weight times the sum over groups G of |x_G|_2; norms and residuals are the largest 2-norm of a group.

    Parameters
    ----------
    weight : at least 0, one number or one per problem
    groups : label of each component of one problem, 0..G-1
    """

    groups: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "groups", _checked_groups(self.groups))

    def check(self, x: np.ndarray) -> None:
        super().check(x)
        _group_sums(x, self.groups)

    def value(self, x: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return self.weights(problems) * _group_norms(x, self.groups).sum(axis=1)

    def change(self, x: np.ndarray, y: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """|y| - |x| = <y - x, y + x> / (|y| + |x|) for each group."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        both = _group_norms(x, self.groups) + _group_norms(y, self.groups)
        squares = _group_sums((y - x) * (y + x), self.groups)
        longer = np.divide(squares, both, out=np.zeros_like(both), where=both > 0)
        return self.weights(problems) * longer.sum(axis=1)

    def prox(self, x: np.ndarray, lengths: np.ndarray, problems: np.ndarray) -> np.ndarray:
        return _shrunk_groups(x, lengths * self.weights(problems), self.groups)

    def norm(self, gradient: np.ndarray) -> np.ndarray:
        return _group_norms(gradient, self.groups).max(axis=1, initial=0)

    def residual(self, x: np.ndarray, gradient: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """Largest |g_G + weight x_G / |x_G||, at x_G = 0 what is left of |g_G| above the weight."""
        weight, sizes = self.weights(problems)[:, None], _group_norms(x, self.groups)
        pull = np.divide(weight, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        pulled = flat(gradient) + pull[:, self.groups] * flat(x)
        left = _group_norms(pulled, self.groups) - np.where(sizes > 0, 0, weight)
        return np.maximum(left, 0).max(axis=1, initial=0)


def _floating(y: np.ndarray) -> np.ndarray:
    y = np.asarray(y)
    return y if y.dtype.kind == "f" else y.astype(np.float64)


def _checked_threshold(t: float | np.ndarray, count: int) -> np.ndarray:
    given = np.asarray(t, np.float64)
    if given.shape not in ((), (count,)) or not np.all(given >= 0):
        raise InvalidInputError(f"t must be at least 0, one number or one for each of the {count} problems, got {t!r}.")
    return np.broadcast_to(given, (count,))


def _checked_groups(groups: np.ndarray) -> np.ndarray:
    """The labels as a flat array that nobody else can change."""
    labels = np.array(groups).ravel()
    if (
        labels.dtype.kind not in "iu"
        or not len(labels)
        or not np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    ):
        raise InvalidInputError(f"groups must be integer labels 0..G-1, each of them used, got {groups!r}.")
    labels.flags.writeable = False
    return labels


def _group_norms(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """|x_G|_2 per problem and group, (q, G) float64."""
    return np.sqrt(_group_sums(np.square(x, dtype=np.float64), labels))


def _group_sums(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sums over the components of each problem and group, (q, G) float64; refuses labels that do not fit."""
    if len(labels) != flat(x).shape[1]:
        raise InvalidInputError(
            f"groups must have one label per component: {len(labels)} labels for problems of shape {x.shape[1:]}."
        )
    count = int(labels.max()) + 1
    sums = [np.bincount(labels, weights=row, minlength=count) for row in flat(x)]
    return np.array(sums).reshape(len(x), count)


def _shrunk_groups(x: np.ndarray, t: np.ndarray, labels: np.ndarray) -> np.ndarray:
    sizes = _group_norms(x, labels)
    share = np.divide(t[:, None], sizes, out=np.ones_like(sizes), where=sizes > 0)
    factors = np.maximum(1 - share, 0).astype(x.dtype)
    return (flat(x) * factors[:, labels]).reshape(x.shape)
