"""Folders to write to, and the user's Python files."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from innv_ext.errors import InvalidInputError
from innv_ext.files import writable_folder


def existing(path: Path, what: str) -> Path:
    """``path`` if there is such a file."""
    if not path.is_file():
        raise InvalidInputError(f"{what}: there is no file {path}.")
    return path


@contextlib.contextmanager
def folder(path: Path, option: str) -> Iterator[Path]:
    """A folder that can be written to, made where there is none; taken away again if nothing came into it."""
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        yield writable_folder(option, path)
    finally:
        for empty in made:
            with contextlib.suppress(OSError):  # there are files in it
                empty.rmdir()


def run_module(path: Path, option: str) -> ModuleType:
    """Import a Python file by its path.

    It goes by its name, as models look up their custom layers by module; a name that is taken gets a prefix.

    Raises
    ------
    InvalidInputError
        if there is no such file, or it fails
    """
    existing(path, option)
    name = path.stem if path.stem not in sys.modules else f"innv_ext_cli_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{option}: {path} is no Python file (.py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InvalidInputError(f"{option}: {path} fails with {type(error).__name__}: {error}") from error
    return module
