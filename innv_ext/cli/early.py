"""What can be seen to be wrong before TensorFlow is loaded, which takes seconds."""

from __future__ import annotations

import contextlib
import difflib
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from innv_ext import arguments
from innv_ext.cli import loading
from innv_ext.cli.files import existing, folder
from innv_ext.cli.names import ANALYZERS, METRICS
from innv_ext.errors import InvalidInputError

PAGES, PICTURES = (".html", ".htm"), (".png", ".pdf", ".svg", ".jpg")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def check(options: Namespace) -> None:
    """Refuse unknown names, files that are missing or hold something else, and places that cannot be written to.

    Raises
    ------
    InvalidInputError
        names the option and the file
    """
    given = vars(options)
    if given.get("module") is not None:
        existing(options.module, "--module")  # it may register analyzers of any name
    else:
        for name in _names(given):
            check_name(name, ANALYZERS, "analyzer")
    for name in given.get("metrics") or ():
        check_name(name, METRICS, "metric")
    if "model" in given:
        check_model(options.model)
    for path in given.get("images") or ():
        _check_samples(existing(path, "IMAGE"))
    if "texts" in given:
        _check_texts(options)
    elif "labels" in given:
        loading.read_neuron(options.neuron, loading.read_labels(options.labels))
    if given.get("fit") is not None and not options.fit.exists():
        raise InvalidInputError(f"--fit: there is no file or folder {options.fit}.")
    if (given.get("preprocess") or "").endswith(".py"):
        existing(Path(options.preprocess), "--preprocess")
    if given.get("report") is not None:
        _check_file("--report", options.report)
    if given.get("out") is not None:
        with folder(options.out, "--out"):
            pass


def _check_texts(options: Namespace) -> None:
    """Refuse texts and files that ``innv-ext text`` cannot take."""
    if labels := loading.read_labels(options.labels):
        loading.read_neuron(options.target, labels, "--target")
    named = [("TEXT", options.texts), ("--completion", options.completion or ())]
    for what, empty in [(what, text) for what, texts in named for text in texts if not text.strip()]:
        raise InvalidInputError(f"{what}: {empty!r} is empty; there is nothing to explain.")
    if options.completion is not None:
        if len(options.completion) != len(options.texts):
            count = f"{len(options.completion)} for {len(options.texts)} texts"
            raise InvalidInputError(f"--completion: one is needed for each TEXT, there are {count}.")
        for option, value in (("--target", options.target), ("--position", options.position)):
            if value is not None:
                raise InvalidInputError(f"{option} goes without --completion, whose tokens are explained one by one.")
    if options.output is not None:
        _check_file("--output", options.output)
        arguments.choice("--output: the suffix", options.output.suffix.lower(), (*PAGES, *PICTURES))


def _check_file(option: str, path: Path) -> None:
    """Refuse a place where no file can be written."""
    if path.is_dir():
        raise InvalidInputError(f"{option}: {path} is a folder; give the name of a file in it.")
    with folder(path.parent, option):
        pass


def _names(given: dict[str, object]) -> Sequence[str]:
    one, several = given.get("analyzer"), given.get("analyzers")
    return [one] if isinstance(one, str) else list(several or ())


def check_name(name: str, known: Sequence[str], what: str) -> None:
    """Refuse an unknown name, with the nearest of those that are known."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        where = "`innv-ext list` tells all names." if what == "analyzer" else f"There are {', '.join(known)}."
        raise InvalidInputError(f"There is no {what} {name!r}.{hint} {where}")


def check_model(path: Path) -> None:
    """Refuse what is no model file by the look of it, and say what to do with models in other forms."""
    if path.is_dir():
        raise InvalidInputError(
            f"MODEL: {path} is a folder{_kind_of_folder(path)}; a .keras file is needed. Build the model with Keras 3, "
            f"load its weights, and write it by model.save('model.keras')."
        )
    existing(path, "MODEL")
    if path.name.endswith(".weights.h5"):
        raise InvalidInputError(
            f"MODEL: {path} holds weights alone: build the model, load them by load_weights, and write both by "
            f"model.save('model.keras')."
        )
    with open(path, "rb") as file:
        start = file.read(len(_HDF5))
    if start != _HDF5 and not start.startswith(b"PK"):
        raise InvalidInputError(
            f"MODEL: {path} cannot be loaded as a Keras model: it is neither a .keras archive nor an HDF5 file (.h5)."
        )
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise InvalidInputError(
            f"MODEL: {path} cannot be loaded as a Keras model: the archive is damaged, as if it were not copied whole."
        )


def _kind_of_folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return " with a TensorFlow SavedModel, which has no layers to explain"
    return ""


def _check_samples(path: Path) -> None:
    """Read the head of a file: whether it holds an array or an image at all."""
    try:
        if path.suffix.lower() in loading.ARRAYS:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                loaded.close()
        else:
            with contextlib.closing(Image.open(path)):
                pass
    except Exception as error:  # numpy and decoders raise whatever a broken file leads to
        kind = "arrays" if path.suffix.lower() in loading.ARRAYS else "an image"
        raise InvalidInputError(f"{path}: cannot be read as {kind}: {error}") from error
