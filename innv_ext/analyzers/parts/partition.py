"""How samples are divided: into components, pixels, blocks, superpixels, or by labels of the user's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments, files
from innv_ext.backend.arrangement import Arrangement
from innv_ext.errors import InvalidInputError

Tensor = Any
Arrays = Sequence[np.ndarray]
SEGMENTS = ("slic", "grid", "pixel", "component")


@dataclass(frozen=True, eq=False)
class Partition:
    """Which part each value of a sample belongs to; parts are numbered 0, 1, ... over all inputs.

    Attributes
    ----------
    inputs : how the values of each input are arranged
    labels : per input (batch, *shape), or (1, *shape) where all samples have the same parts; with axes of length 1
        where all values of an axis belong together
    counts : number of parts of each sample
    """

    inputs: tuple[Arrangement, ...]
    labels: tuple[np.ndarray, ...]
    counts: np.ndarray

    @property
    def count(self) -> int:
        """Parts of the sample that has most of them."""
        return int(self.counts.max())

    def expand(self, values: Tensor) -> list[Tensor]:
        """A tensor (batch, parts) as one per input, broadcastable to (batch, *shape); for parts of all samples."""
        found = []
        for label in self.labels:
            flat = label.reshape(-1)
            run = (np.diff(flat) == 1).all()  # to cut out is cheaper than to gather
            part = values[:, flat[0] : flat[-1] + 1] if run else ops.take(values, flat.astype("int32"), axis=1)
            found.append(ops.reshape(part, (-1, *label.shape[1:])))
        return found

    def maps(self, values: np.ndarray) -> list[np.ndarray]:
        """An array (..., parts) as one map per input, (..., *shape)."""
        lead = values.shape[:-1]
        return [
            np.ascontiguousarray(np.broadcast_to(_spread(values, label), (*lead, *one.shape)))
            for label, one in zip(self.labels, self.inputs, strict=True)
        ]

    def mixed(self, xs: Arrays, others: Arrays, on: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """The xs of samples ``rows`` in the parts that are ``on``, (len(rows), parts); the others elsewhere."""
        parts = zip(self.labels, xs, others, strict=True)
        return [np.where(_spread(on, of_rows(label, rows)), x, other) for label, x, other in parts]

    def sums(self, values: Arrays) -> np.ndarray:
        """One array per input, (batch, *shape) or shaped like the labels, added up over each part: (batch, parts)."""
        found = np.zeros((len(values[0]), self.count), values[0].dtype)
        for label, given in zip(self.labels, values, strict=True):
            for row, i, v in zip(found, np.broadcast_to(label, given.shape), given, strict=True):
                row += np.bincount(i.ravel(), v.ravel(), self.count)
        return found

    def sizes(self) -> np.ndarray:
        """Components of each part, (batch, parts)."""
        return self.sums([np.broadcast_to(1.0, (len(self.counts), *one.shape)) for one in self.inputs])

    def pictures(self) -> list[np.ndarray]:
        """The labels of every component, one array (batch, *shape) per input, for users."""
        return self.maps(np.tile(np.arange(self.count, dtype="int32"), (len(self.counts), 1)))

    def alike(self, count: int) -> tuple[np.ndarray, Partition]:
        """The samples with ``count`` parts, and their partition."""
        rows = np.flatnonzero(self.counts == count)
        labels = tuple(of_rows(label, rows) for label in self.labels)
        return rows, replace(self, labels=labels, counts=self.counts[rows])


def of_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array[rows]``, where an array of length 1 stands for all rows."""
    return array if len(array) == 1 else array[rows]


def _spread(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    if len(label) == 1:
        return values[..., label[0]]
    return np.take_along_axis(values, label.reshape(len(label), -1), axis=1).reshape(label.shape)


# --- reading it --------------------------------------------------------------------------------------------------


def partition(kind: Any, arranged: Sequence[Arrangement], name: str = "features") -> Partition:
    """The same parts in all samples.

    ``kind`` is "component", "pixel" (all channels of a pixel or time step), or an integer array of labels 0, 1, 2 ...
    of the only input, shaped like a sample, or like it without its channels.
    """
    if isinstance(kind, str):
        return numbered(arranged, [labels_of(kind, one, name) for one in arranged])
    if len(arranged) > 1:
        raise InvalidInputError(f"{name} as labels needs a model with one input, this one has {len(arranged)}.")
    labels, given = labels_of(kind, arranged[0], name), np.ravel(kind)
    if not np.array_equal(labels.ravel(), given):
        raise InvalidInputError(
            f"{name} must use every label 0, 1, ..., n - 1; got {labels.max() + 1} labels from {given.min()} to "
            f"{given.max()}. np.unique(labels, return_inverse=True)[1] renumbers them."
        )
    return numbered(arranged, [labels])


def numbered(arranged: Sequence[Arrangement], labels: Sequence[np.ndarray], batch: int = 1) -> Partition:
    """A partition from labels 0, 1, ... of each input, (1 or batch, *shape)."""
    found, counts = [], np.zeros(batch, int)
    for label in labels:
        before = counts[:1] if (counts == counts[0]).all() else counts
        found.append(label + before.reshape(-1, *[1] * (label.ndim - 1)))
        counts = counts + label.reshape(len(label), -1).max(axis=1) + 1
    return Partition(tuple(arranged), tuple(found), counts)


def labels_of(kind: Any, one: Arrangement, name: str, batch: int | None = None) -> np.ndarray:
    """Labels 0, 1, ... of one input, (1 or batch, *shape), with one channel where all channels belong together.

    ``kind`` is as for ``partition``, with any integers; if ``batch`` is given, also so many arrays, one a sample.
    """
    if isinstance(kind, str):
        if kind not in ("component", "pixel"):
            raise InvalidInputError(f"{name} must be 'component', 'pixel' or an int array of labels, got {kind!r}.")
        return blocks(one.shape, one.along(1) if kind == "pixel" else [1] * len(one.shape))
    array = arguments.as_array(name, kind)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{name} must be 'component', 'pixel' or an array of integer labels, got dtype {array.dtype}."
        )
    forms = {one.bare: one.merged, one.merged: one.merged, one.shape: one.shape}
    alone = array.shape in forms
    form = array.shape if alone else array.shape[1:]
    if form not in forms or not (alone or len(array) == batch):
        each = "" if batch is None else f", each with or without a batch axis of {batch}"
        raise InvalidInputError(
            f"{name} has shape {array.shape}, but samples of input {one.number} have shape {one.shape}: pass one "
            f"integer label for every component, or {one.bare} for all channels of a pixel together{each}."
        )
    rows = array.reshape(1 if alone else len(array), *forms[form])
    return np.stack([np.unique(row, return_inverse=True)[1].reshape(row.shape) for row in rows])


def blocks(shape: Sequence[int], sides: Sequence[int]) -> np.ndarray:
    """Labels (1, *shape) of blocks with these sides, which are smaller at borders that they don't divide."""
    return _lattice([np.arange(length) // side for length, side in zip(shape, sides, strict=True)])


def grid(one: Arrangement, count: int) -> np.ndarray:
    """Labels (1, *shape) of about ``count`` blocks with sides in proportion to those of the input, all channels."""
    wholes = [axis == one.channel_axis for axis in range(len(one.shape))]
    per_axis = max(1, round(count ** (1 / max(wholes.count(False), 1))))
    parts = [1 if whole else min(per_axis, side) for whole, side in zip(wholes, one.shape, strict=True)]
    return _lattice([np.arange(side) * n // side for side, n in zip(one.shape, parts, strict=True)])


def _lattice(index: Sequence[np.ndarray]) -> np.ndarray:
    """Labels from the number of the part along every axis; axes with one part have length 1."""
    index = [i if i[-1] else i[:1] for i in index]
    counts = [int(i[-1]) + 1 for i in index]
    return np.arange(int(np.prod(counts))).reshape(counts)[np.ix_(*index)][None]


# --- segments of x -----------------------------------------------------------------------------------------------


def segmentation(given: Any, one: Arrangement) -> Any:
    """What ``segments`` means for this input: one of ``SEGMENTS``, a function, or labels, which are checked."""
    if given is None:
        if not one.positions:
            return "component"
        return "slic" if len(one.axes) == 2 else "grid"
    if isinstance(given, str):
        arguments.choice("segments", given, SEGMENTS)
        if given == "slic" and not (one.positions and len(one.axes) == 2):
            raise InvalidInputError(
                f"segments='slic' makes superpixels of images, but samples of input {one.number} have shape "
                f"{one.shape}: pass 'grid' or 'component' (for several inputs a list with one for each)."
            )
    elif not callable(given):
        labels_of(given, one, "segments")
    return given


def segments_of(given: Any, x: np.ndarray, one: Arrangement, count: int) -> np.ndarray:
    """Labels 0, 1, ... of an input x (batch, ...), (1 or batch, *shape); whatever the others of the batch are."""
    kind = segmentation(given, one)
    if callable(kind):
        return np.concatenate([labels_of(kind(sample.copy()), one, "segments") for sample in x])
    if not isinstance(kind, str) or kind in ("pixel", "component"):
        return labels_of(kind, one, "segments")
    if kind == "grid":
        return grid(one, count)
    labels = np.concatenate([slic(sample, one, count) for sample in x])
    single = np.flatnonzero(labels.reshape(len(labels), -1).max(axis=1) == 0)
    if len(single):  # nothing can be learnt about its parts
        warnings.warn(
            f"slic found a single superpixel in {len(single)} of {len(labels)} images (first: {single[0]}), whose maps "
            f"are constant; pass segments='grid' for blocks.",
            UserWarning,
            stacklevel=5,
        )
    return labels


def superpixels() -> Callable[..., np.ndarray]:
    """``slic`` of scikit-image, an extra."""
    what = "segments='slic', the default for images,"
    return files.need("skimage.segmentation", what, ", or pass segments='grid'").slic


def slic(x: np.ndarray, one: Arrangement, count: int) -> np.ndarray:
    """Superpixels of one image, (1, *shape); three channels count as red, green and blue."""
    picture = np.moveaxis(x, one.channel_axis, -1).astype("float64")
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low if high > low else 1.0)
    colours = picture.shape[-1] == 3
    compactness = 20.0 if colours else 0.2  # in units of the colour space: Lab has lightness 0..100
    found = superpixels()(picture, count, compactness=compactness, channel_axis=-1, convert2lab=colours, start_label=0)
    return labels_of(found, one, "segments")


def as_maps(values: Sequence[np.ndarray], xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps in the dtype of the inputs; float32 for tokens."""
    return [v.astype(x.dtype if x.dtype.kind == "f" else "float32") for v, x in zip(values, xs, strict=True)]
