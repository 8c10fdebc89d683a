"""Segments of inputs that are switched on and off together: superpixels, blocks, columns, or the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments, files
from innv_ext.analyzers.parts.layout import Layout
from innv_ext.analyzers.prediction.masking import MaskingAnalyzer, of_rows
from innv_ext.errors import InvalidInputError

KINDS = ("slic", "grid", "pixel", "component")


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a batch, numbered 0, 1, ... over all inputs of each sample.

    Attributes
    ----------
    labels : per input (batch, *shape), with axes of length 1 where all values of an axis belong together; or with a
        batch axis of length 1 if all samples have the same segments
    counts : number of segments of each sample
    shapes : shape of one sample of each input
    """

    labels: tuple[np.ndarray, ...]
    counts: np.ndarray
    shapes: tuple[tuple[int, ...], ...]

    def keep(self, on: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """Which components of samples ``rows`` stay, from which segments are on, (len(rows), segments)."""
        return [self._spread(on, of_rows(label, rows)) for label in self.labels]

    def maps(self, values: np.ndarray) -> list[np.ndarray]:
        """(batch, segments) values as one map per input."""
        spread = [self._spread(values, label) for label in self.labels]
        return [np.broadcast_to(s, (len(values), *shape)) for s, shape in zip(spread, self.shapes, strict=True)]

    @staticmethod
    def _spread(values: np.ndarray, label: np.ndarray) -> np.ndarray:
        if len(label) == 1:
            return values[:, label[0]]
        return np.take_along_axis(values, label.reshape(len(label), -1), axis=1).reshape(label.shape)

    def sizes(self) -> np.ndarray:
        """Components per segment, (1 or batch, most segments)."""
        most, total = int(self.counts.max()), 0
        for label, shape in zip(self.labels, self.shapes, strict=True):
            places = label.reshape(len(label), -1) + most * np.arange(len(label))[:, None]
            found = np.bincount(places.reshape(-1), minlength=most * len(label)).reshape(len(label), most)
            total = total + found * (int(np.prod(shape)) // max(int(np.prod(label.shape[1:])), 1))
        return np.asarray(total)

    def alike(self, count: int) -> tuple[np.ndarray, Segments]:
        """The samples with ``count`` segments, and their segments."""
        rows = np.flatnonzero(self.counts == count)
        labels = tuple(of_rows(label, rows) for label in self.labels)
        return rows, Segments(labels, self.counts[rows], self.shapes)

    def pictures(self) -> list[np.ndarray]:
        """The labels of every component, one array (batch, *shape) per input, for users."""
        return [
            np.broadcast_to(label, (len(self.counts), *shape)).astype("int32")
            for label, shape in zip(self.labels, self.shapes, strict=True)
        ]


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

    def check_layouts(self, layouts: Sequence[Layout]) -> None:
        """Arrays of labels must fit; scikit-image must be there if it is needed."""
        for given, layout in zip(self.per_input(self.segments), layouts, strict=True):
            kind = segmentation(given, layout)
            if isinstance(kind, str):
                if kind == "slic":
                    superpixels()
            elif not callable(kind):
                checked_labels(kind, layout)

    def segments_of(self, xs: Sequence[np.ndarray], layouts: Sequence[Layout]) -> Segments:
        """The segments of every sample, whatever the others of the batch are."""
        found, counts = [], np.zeros(len(xs[0]), int)
        for given, x, layout in zip(self.per_input(self.segments), xs, layouts, strict=True):
            label = self._labels(segmentation(given, layout), x, layout)
            own = label.reshape(len(label), -1).max(axis=1) + 1
            before = counts[:1] if len(np.unique(counts)) == 1 else counts
            found.append(label + before.reshape(-1, *[1] * len(layout.shape)))
            counts = counts + own
        return Segments(tuple(found), counts, tuple(layout.shape for layout in layouts))

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """The segments in the form of the attribution: one array for a model with one input."""
        labels = extras["segments"]
        return {**extras, "segments": labels[0] if len(labels) == 1 else labels}

    def _labels(self, kind: Any, x: np.ndarray, layout: Layout) -> np.ndarray:
        if isinstance(kind, str):
            if kind == "slic":
                found = np.stack([_slic(one, layout, self.n_segments) for one in x])
                self._warn(found)
                return found
            return grid(kind, layout, self.n_segments)[None]
        if callable(kind):
            return np.stack([checked_labels(kind(one.copy()), layout) for one in x])
        return checked_labels(kind, layout)[None]

    def _warn(self, labels: np.ndarray) -> None:
        """Tell about images that are one single superpixel: nothing can be learnt about their parts."""
        single = np.flatnonzero(labels.reshape(len(labels), -1).max(axis=1) == 0)
        if len(single):
            warnings.warn(
                f"slic found a single superpixel in {len(single)} of {len(labels)} images (first: {single[0]}), whose "
                f"maps are constant; pass segments='grid' for blocks.",
                UserWarning,
                stacklevel=5,
            )


def segmentation(given: Any, layout: Layout) -> Any:
    """What ``segments`` means for this input."""
    if given is None:
        if not layout.positions:
            return "component"
        return "slic" if len(layout.axes) == 2 else "grid"
    if isinstance(given, str):
        arguments.choice("segments", given, KINDS)
        if given == "slic" and not (layout.positions and len(layout.axes) == 2):
            raise InvalidInputError(
                f"segments='slic' makes superpixels of images, but samples of input {layout.number} have shape "
                f"{layout.shape}: pass 'grid' or 'component' (for several inputs a list with one for each)."
            )
    return given


def _merged(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The shape with all channels in one."""
    return tuple(1 if axis == layout.channel_axis else side for axis, side in enumerate(shape))


def checked_labels(labels: Any, layout: Layout) -> np.ndarray:
    """Labels of one sample as 0, 1, 2, ..., with a channel axis.

    Raises
    ------
    InvalidInputError
        for labels that are no integers or don't have the shape of a sample
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"segments must be integer labels, got dtype {array.dtype}.")
    merged = _merged(layout.shape, layout)
    bare = tuple(side for axis, side in enumerate(layout.shape) if axis != layout.channel_axis)
    if array.shape not in (layout.shape, merged, bare):
        raise InvalidInputError(
            f"segments has shape {array.shape}, but samples of input {layout.number} have shape {layout.shape}: pass "
            f"one integer label for every component, or {bare} for all channels of a pixel together."
        )
    shape = layout.shape if array.shape == layout.shape else merged
    return np.unique(array, return_inverse=True)[1].reshape(shape)


def grid(kind: str, layout: Layout, count: int) -> np.ndarray:
    """Labels of components, of pixels, or of about ``count`` blocks with sides in proportion to those of the input."""
    shape = layout.shape if kind == "component" else _merged(layout.shape, layout)
    axes = [axis for axis, side in enumerate(shape) if axis != layout.channel_axis or kind == "component"]
    per_axis = max(1, round(count ** (1 / max(len(axes), 1))))
    label = np.zeros(shape, int)
    for axis in axes:
        side = shape[axis]
        blocks = min(per_axis, side) if kind == "grid" else side
        index = np.arange(side) * blocks // side
        label = label * blocks + index.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return label


def superpixels() -> Callable[..., np.ndarray]:
    """``slic`` of scikit-image, an extra."""
    what = "segments='slic', the default for images,"
    return files.need("skimage.segmentation", what, ", or pass segments='grid'").slic


def _slic(x: np.ndarray, layout: Layout, count: int) -> np.ndarray:
    """Superpixels of one image; three channels count as red, green and blue."""
    picture = np.moveaxis(x, layout.channel_axis, -1).astype("float64")
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low if high > low else 1.0)
    colours = picture.shape[-1] == 3
    compactness = 20.0 if colours else 0.2  # in units of the colour space: Lab has lightness 0..100
    found = superpixels()(picture, count, compactness=compactness, channel_axis=-1, convert2lab=colours, start_label=0)
    return checked_labels(found, layout)
