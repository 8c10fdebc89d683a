"""Image and array files as samples of a model's input."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import tree
from PIL import Image, ImageOps

from innv_ext.backend import numerics
from innv_ext.cli.loading import ARRAYS, load_array, load_arrays, open_image
from innv_ext.cli.models import failures
from innv_ext.cli.preprocessing import Preprocessing, read_preprocessing
from innv_ext.comparison.rows import Data, flat
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.subject import Inputs

Array = np.ndarray
_PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample.

    Attributes
    ----------
    x : what the model takes; of several inputs {input: array}
    shown : what a picture of it shows, channels last: an image before its preprocessing, otherwise ``x``
    image : whether it comes from an image file
    """

    x: Data
    shown: Data
    image: bool

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """One per input."""
        return tuple(x.shape for x in flat(self.x))


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads files as samples of a model.

    Attributes
    ----------
    subject : the traced model
    stretch : whether images lose their proportions instead of their margins
    preprocessing : what happens to the values
    """

    subject: Inputs
    stretch: bool
    preprocessing: Preprocessing

    def samples(self, *paths: Path) -> Iterator[Sample]:
        """All samples of some files; one that cannot be read, or does not fit the model, is named."""
        for path in paths:
            image = path.suffix.lower() not in ARRAYS
            try:
                found = self._arrays(path, image) if len(self.subject.keys) == 1 else self._named(path)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}: {error}") from error
            for i in range(len(flat(found[0])[0])):
                yield Sample(*(tree.map_structure(lambda array, i=i: array[i], own) for own in found), image)

    def _arrays(self, path: Path, image: bool) -> tuple[Array, Array]:
        """The samples of a file as the model takes them, and what pictures of them show."""
        rank, first = len(self.subject.specs[0].shape), self.subject.channels_first[0]
        if image:
            given = self._picture(path)
        else:
            array = load_array(path)
            given = _channels_last(array[None] if array.ndim == rank - 1 else array, first)
        x = self.preprocessing(given, image)
        grey = image and rank == 3  # the model takes (height, width)
        (x,) = self.subject.flat(x[..., 0] if grey else _channels_first(x, first))
        return x, given if image else _channels_last(x, first)

    def _named(self, path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
        """The samples of an .npz file that has an array for every input."""
        keys = self.subject.keys
        if path.suffix.lower() != ".npz":
            raise InvalidInputError(f"the model has the inputs {', '.join(keys)}: give .npz with an array for each.")
        arrays = load_arrays(path)
        if missing := [key for key in keys if key not in arrays]:
            raise InvalidInputError(
                f"has the arrays {', '.join(arrays)}, but the model has the inputs {', '.join(keys)}: "
                f"{', '.join(missing)} missing."
            )
        given = [arrays[key] for key in keys]
        if all(array.ndim == len(spec.shape) - 1 for array, spec in zip(given, self.subject.specs, strict=True)):
            given = [array[None] for array in given]  # one sample
        x = self.subject.flat(dict(zip(keys, given, strict=True)))
        shown = [_channels_last(array, first) for array, first in zip(x, self.subject.channels_first, strict=True)]
        return dict(zip(keys, x, strict=True)), dict(zip(keys, shown, strict=True))

    def _picture(self, path: Path) -> Array:
        """An image in the model's size, (1, height, width, channels), uint8."""
        shape, first = self.subject.specs[0].shape[1:], self.subject.channels_first[0]
        if len(shape) not in (2, 3):
            raise InvalidInputError(f"the model takes samples of shape {shape}, no images. Give arrays: .npy or .npz.")
        channels = 1 if len(shape) == 2 else shape[0 if first else -1]
        size = shape[1:] if first and len(shape) == 3 else shape[:2]
        mode = _PILLOW_MODES.get(3 if channels is None else channels)
        if mode is None:
            raise InvalidInputError(f"the model takes {channels} channels; files have 1, 3 or 4. Give arrays: .npy.")
        image = open_image(path).convert(mode)
        target = _size(image, size)
        resize = Image.Image.resize if self.stretch else ImageOps.fit
        return np.asarray(resize(image, target, Image.Resampling.BILINEAR)).reshape(1, target[1], target[0], -1)


def make_reader(options: Namespace, model: keras.Model) -> Reader:
    """The reader for a command line and a model."""
    with failures(options.command):
        subject = Inputs(model)
    given = [f"--{name}" for name in ("scale", "mean", "std", "preprocess") if getattr(options, name) is not None]
    if given and len(subject.keys) > 1:
        raise InvalidInputError(
            f"{given[0]} is for models with one input, but this one has {', '.join(subject.keys)}: give arrays as the "
            f"model takes them."
        )
    preprocessing = read_preprocessing(options, integers=not numerics.is_float(subject.specs[0].dtype))
    return Reader(subject, options.resize == "stretch", preprocessing)


def _size(image: Image.Image, size: Sequence[int | None]) -> tuple[int, int]:
    """Width and height that the model takes; what it leaves open keeps the proportions."""
    height, width = size
    if height is None and width is None:
        return image.size
    if height is None:
        return width, max(1, round(width * image.height / image.width))
    return width or max(1, round(height * image.width / image.height)), height


def _channels_last(x: Array, channels_first: bool) -> Array:
    return np.moveaxis(x, 1, -1) if channels_first and x.ndim > 2 else x


def _channels_first(x: Array, channels_first: bool) -> Array:
    return np.moveaxis(x, -1, 1) if channels_first and x.ndim > 2 else x


def batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """At most ``size`` samples of one shape at a time, in order."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == size or sample.shapes != batch[0].shapes or sample.image != batch[0].image):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def stacked(batch: Sequence[Sample]) -> Data:
    """Samples of one shape as the model takes them."""
    return tree.map_structure(lambda *arrays: np.stack(arrays), *(sample.x for sample in batch))


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What ``fit`` reads, as often as it likes: batches of the samples of some files."""

    reader: Reader
    paths: Sequence[Path]
    size: int

    def __iter__(self) -> Iterator[Data]:
        for batch in batches(self.reader.samples(*self.paths), self.size):
            yield stacked(batch)


def training_data(path: Path, reader: Reader, size: int) -> TrainingData:
    """The data of ``--fit``: a file, or all images and .npy files in a folder and the folders in it."""
    if path.is_file():
        return TrainingData(reader, [path], size)
    if not path.is_dir():
        raise InvalidInputError(f"--fit: there is no file or folder {path}.")
    known = {*Image.registered_extensions(), ".npy"} if len(reader.subject.keys) == 1 else {".npz"}
    paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file())
    wanted = "images and no .npy files" if len(reader.subject.keys) == 1 else ".npz files"
    if not paths:
        raise InvalidInputError(f"--fit: there are no {wanted} in {path}.")
    return TrainingData(reader, paths, size)
