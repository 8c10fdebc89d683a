"""NaN and infinite values in what an analyzer found: which samples have some, and a warning that says so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from innv_ext.errors import NonFiniteWarning


def of_samples(maps: Sequence[np.ndarray], score: np.ndarray) -> np.ndarray:
    """Whether score and map of each sample are finite, (batch,); ``maps`` are (batch, values), one per input."""
    return np.all([np.isfinite(score), *(np.isfinite(m).all(axis=1) for m in maps)], axis=0)


def tell(finite: np.ndarray, score: np.ndarray, name: str, why: str) -> None:
    """Warn of samples that are not finite; ``why`` is what the map may have it from where the score is finite."""
    for wrong, what, reason in (
        (~np.isfinite(score), "score", "check x, the model's weights, and samples that it masks altogether"),
        (np.isfinite(score) & ~finite, "map", why),
    ):
        rows = np.flatnonzero(wrong)
        if len(rows):
            shown = ", ".join(map(str, rows[:5])) + ", ..." * (len(rows) > 5)
            warnings.warn(
                f"{name}: the {what} of {len(rows)} of {len(score)} samples ({shown}) is NaN or infinite: {reason}. "
                f"extras['finite'] says which are usable.",
                NonFiniteWarning,
                stacklevel=4,
            )
