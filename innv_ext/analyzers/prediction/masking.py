"""What all methods share that replace parts of x and look at the score: the forward passes, and segments of x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.program import GraphAnalyzer
from innv_ext.analyzers.parts.partition import Partition, numbered, segmentation, segments_of, superpixels
from innv_ext.backend.arrangement import Arrangement, arrangements
from innv_ext.backend.numerics import Compiled

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class MaskingAnalyzer(GraphAnalyzer):
    """Base: the score at many versions of x with something replaced; the neuron is the one that is selected at x.

    Subclasses check their parameters for inputs of known shape in ``check_inputs``.
    """

    propagates = False  # nothing flows back: models without gradients are fine
    not_finite = (
        "versions of x with parts replaced have no finite score, as has a mean over tokens that are all padding; pass "
        "another reference="
    )

    def bind(self) -> None:
        """Check what depends on the shapes, unless the model leaves them open."""
        shapes = [spec.shape[1:] for spec in self.input_specs()]
        if all(None not in shape for shape in shapes):
            self.check_inputs(arrangements(self.graph_, shapes))

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        """Refuse parameters that don't fit inputs like these."""

    def arranged(self, xs: Sequence[np.ndarray]) -> list[Arrangement]:
        """The arrangement of inputs like these."""
        return arrangements(self.graph_, [x.shape[1:] for x in xs])

    def per_input(self, value: Any, several: tuple[type, ...] = (list, dict)) -> list[Any]:
        """A tuple is one value for all inputs: the sides of a patch."""
        return super().per_input(value, several)

    def score(self, mode: Any) -> Compiled:
        """The compiled score of samples and neurons."""
        return self.compiled(self._score, {"mode": mode})

    def _score(self, xs: list[Tensor], index: Tensor, mode: Any) -> Tensor:
        return self._at_x(xs, index, mode)["score"]

    def summary(self) -> str:
        return self.head()


@dataclass(kw_only=True, eq=False, repr=False)
class SegmentAnalyzer(MaskingAnalyzer):
    """Base of methods that give one value to each segment of x.

    Parameters
    ----------
    segments : "slic" (superpixels of an image, by scikit-image), "grid" (blocks), "pixel" (all channels together),
        "component", an integer array of labels shaped like one sample (or like it without channels), or a function
        x -> labels of one sample. None: slic for images, grid for signals and volumes, single tokens, single columns of
        tables. A list or dict has one of these for each input of a model with several.
    n_segments : about how many superpixels or blocks
    """

    segments: Any = None
    n_segments: int = arguments.count(50)

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        """Arrays of labels must fit; scikit-image must be there if it is needed."""
        for given, one in zip(self.per_input(self.segments), arranged, strict=True):
            if isinstance(kind := segmentation(given, one), str) and kind == "slic":
                superpixels()

    def segments_of(self, xs: Sequence[np.ndarray]) -> Partition:
        """The segments of every sample, whatever the others of the batch are."""
        arranged = self.arranged(xs)
        parts = zip(self.per_input(self.segments), xs, arranged, strict=True)
        return numbered(arranged, [segments_of(*part, self.n_segments) for part in parts], len(xs[0]))

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """The segments in the form of the attribution: one array for a model with one input."""
        labels = extras["segments"]
        return {**extras, "segments": labels[0] if len(labels) == 1 else labels}
