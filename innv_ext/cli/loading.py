"""Files of arrays, images and names; nothing here needs TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from innv_ext import arguments
from innv_ext.cli.files import existing
from innv_ext.errors import InvalidInputError

Array = np.ndarray
ARRAYS = (".npy", ".npz")


def load_array(path: Path) -> Array:
    """The array of an .npy file, or of an .npz file: the only one, or the one named x."""
    found = load_arrays(path)
    if len(found) > 1 and "x" not in found:
        raise InvalidInputError(f"has the arrays {list(found)}; name the one to read x.")
    return found["x"] if "x" in found else next(iter(found.values()))


def load_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file by their names; the one of an .npy file is called x."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            found = {name: loaded[name] for name in loaded}
    except Exception as error:  # numpy raises whatever a broken file leads to
        raise InvalidInputError(f"cannot be read as arrays: {error}") from error
    if not found:
        raise InvalidInputError("holds no arrays.")
    return found


def open_image(path: Path) -> Image.Image:
    """An image, turned upright, with 8 bits per channel."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits
                image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65535) / 257).astype("uint8"))
    except Exception as error:  # decoders raise whatever a broken file leads to
        raise InvalidInputError(f"cannot be read as an image: {error}") from error
    if image.mode == "F":
        raise InvalidInputError("has floating-point pixels, whose range nobody knows. Give it as .npy.")
    return image


def read_labels(path: Path | None) -> dict[int, str]:
    """Output number -> name, from lines, a JSON list, or a JSON object {number: name or [..., name]}."""
    if path is None:
        return {}
    try:
        text = existing(path, "--labels").read_text(encoding="utf-8-sig")
        if not text.lstrip().startswith(("[", "{")):
            return dict(enumerate(line.strip() for line in text.strip().splitlines()))
        found = json.loads(text)
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        # Keras' imagenet_class_index.json has [WordNet number, name]
        names = {int(k): v[-1] if isinstance(v, list) else v for k, v in pairs}
        if not all(isinstance(name, (str, int, float)) for name in names.values()):
            raise ValueError("names are needed, not objects")
        return {k: str(name) for k, name in names.items()}
    except (ValueError, IndexError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"--labels: {path} has neither lines of text nor a JSON list or object: {error}"
        ) from error


def read_neuron(
    neuron: int | tuple[int, ...] | str | None, labels: Mapping[int, str], option: str = "--neuron"
) -> int | tuple[int, ...] | None:
    """The number of a label; case does not matter, and it must be the label of one output only."""
    if not isinstance(neuron, str):
        return neuron
    if not labels:
        raise InvalidInputError(f"{option} {neuron!r} is no number; names need a file of them: --labels FILE.")
    names = {k: v.casefold() for k, v in labels.items()}
    name = arguments.choice(option, neuron.casefold(), tuple(names.values()))
    found = [k for k, v in names.items() if v == name]
    if len(found) > 1:
        raise InvalidInputError(f"{option} {neuron!r} is the name of several outputs: {found}. Give the number.")
    return found[0]
