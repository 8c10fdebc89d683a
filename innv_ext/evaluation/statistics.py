"""Means over the samples of x, how sure they are, and how tables show them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

Named = dict[str, np.ndarray]
CONFIDENCE = 0.95


class Statistics(NamedTuple):
    """Over the samples of x; everything but the mean is NaN for one sample.

    Attributes
    ----------
    mean : over the samples
    std : standard deviation (of a sample: n - 1)
    error : standard error of the mean
    confidence : half the width of the 95 % confidence interval of the mean (Student's t)
    """

    mean: np.ndarray
    std: np.ndarray
    error: np.ndarray
    confidence: np.ndarray


def over_samples(values: np.ndarray) -> Statistics:
    """Statistics over the first axis.

    Examples
    --------
    >>> found = over_samples(np.array([1.0, 3.0]))
    >>> float(found.mean), round(float(found.error), 3), round(float(found.confidence), 3)
    (2.0, 1.0, 12.706)
    """
    mean, count = values.mean(axis=0), len(values)
    with np.errstate(invalid="ignore"):  # ratios may be infinite
        std = values.std(axis=0, ddof=1) if count > 1 else np.full_like(mean, np.nan, dtype="float64")
    error = std / np.sqrt(count)
    return Statistics(mean, std, error, error * student_t.ppf((1 + CONFIDENCE) / 2, max(count - 1, 1)))


def shown(found: Statistics) -> str:
    """Mean ± standard error as text."""
    return f"{found.mean:.4g}" + ("" if np.isnan(found.error) else f" ± {found.error:.2g}")


def cell(name: str) -> str:
    """A name in a cell of a markdown table."""
    return name.replace("|", "\\|")
