"""One picture of one sample and its map, by what the sample is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from innv_ext import arguments
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import imshow_grid, plot_signals, plot_tables, plot_tokens, plot_volumes
from innv_ext.visualization.columns import MODES
from innv_ext.visualization.panels import DPI, png, shorten

Array = np.ndarray
_CELL = 1.6  # inches: the shorter a picture, the larger its pixels


@dataclass(frozen=True)
class Caption:
    """What is written beside a map: predicted and chosen output, score."""

    prediction: str | None
    neuron: str | None
    score: float

    def __str__(self) -> str:
        parts = [("pred", self.prediction), ("neuron", self.neuron), ("score", f"{self.score:.4g}")]
        return ", ".join(f"{name}: {shorten(value)}" for name, value in parts if value is not None)


def check_mode(mode: str, ranks: Sequence[int], image: bool) -> None:
    """Refuse unknown modes, all but heatmaps for what is no image, and what has no input that can be drawn."""
    arguments.choice("--mode", mode, MODES)
    if not any(map(can_be_drawn, ranks)):
        raise InvalidInputError(f"Samples with {', '.join(map(str, ranks))} axes cannot be drawn.")
    if mode != "heatmap" and not image and 3 not in ranks:
        raise InvalidInputError(f"--mode {mode} is for images; signals, tables, volumes and tokens have only heatmap.")


def can_be_drawn(rank: int) -> bool:
    """Whether there is a picture of samples with so many axes."""
    return 1 <= rank <= 4


def draw(shown: Array, relevance: Array, image: bool, name: str, caption: Caption, mode: str) -> bytes:
    """A PNG of one sample and its map, both channels last."""
    rank = relevance.ndim
    if image or rank == 3:
        return png(_image(shown, relevance, name, caption, mode))
    return png(_KINDS[rank](shown[None], {name: relevance[None]}, [str(caption)]))


def _image(shown: Array, relevance: Array, name: str, caption: Caption, mode: str) -> Figure:
    maps = relevance if relevance.ndim == 3 else relevance[..., None]
    beside: dict[str, Any] = {"predictions": caption.prediction, "neurons": caption.neuron, "scores": caption.score}
    return imshow_grid(
        _visible(shown)[None],
        {name: maps[None]},
        **{key: [value] for key, value in beside.items() if value is not None},
        mode=mode,
        cell=max(_CELL, max(shown.shape[:2]) / DPI),
    )


def _visible(shown: Array) -> Array:
    """Grey or RGB as it is, the first three of four channels (the last is opacity), otherwise their mean."""
    if shown.shape[-1] in (1, 3):
        return shown
    return shown[..., :3] if shown.shape[-1] == 4 else shown.mean(axis=-1, keepdims=True)


def _row(x: Array, maps: dict[str, Array], names: list[str]) -> Figure:
    if x.dtype.kind == "f":
        return plot_tables(x, maps, row_names=names)
    return plot_tokens([[str(token) for token in row] for row in x], maps, row_names=names)


_KINDS: dict[int, Callable[[Array, dict[str, Array], list[str]], Figure]] = {
    1: _row,
    2: lambda x, maps, names: plot_signals(x, maps, row_names=names),
    4: lambda x, maps, names: plot_volumes(_visible(x), maps, row_names=names),
}
