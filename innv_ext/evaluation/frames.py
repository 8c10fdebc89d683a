"""Results as pandas data frames; pandas is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from innv_ext import files
from innv_ext.evaluation.statistics import Named

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(columns: Mapping[str, Any]) -> DataFrame:
    """A data frame of these columns.

    Raises
    ------
    InvalidInputError
        without pandas
    """
    return files.need("pandas", "to_frame()", ", or take to_dict()").DataFrame(dict(columns))


def curve_frame(names: Sequence[str], axis: str, positions: np.ndarray, curves: Mapping[str, Named]) -> DataFrame:
    """One row per map, sample and position along the curves.

    Parameters
    ----------
    names : of the maps
    axis : what the positions are called
    positions : array (positions,)
    curves : {column: {name: array (samples, positions)}}
    """
    samples, count = next(iter(curves.values()))[names[0]].shape
    return frame(
        {
            "relevance": np.repeat(np.array(names, object), samples * count),
            "sample": np.tile(np.repeat(np.arange(samples), count), len(names)),
            axis: np.tile(positions, len(names) * samples),
            **{column: np.concatenate([found[name].ravel() for name in names]) for column, found in curves.items()},
        }
    )
