"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from innv_ext.errors import InvalidInputError


def writable_file(argument: str, path: Any) -> Path:
    """``path``, if a file can be written there; its folder is made where it is missing.

    Raises
    ------
    InvalidInputError
        if ``path`` is no path, a folder, or in a folder that cannot be written
    """
    found = _as_path(argument, path)
    if found.is_dir():
        raise InvalidInputError(f"{argument}={str(found)!r} is a folder; pass the name of a file in it.")
    writable_folder(argument, found.parent)
    return found


def writable_folder(argument: str, path: Any) -> Path:
    """``path``, if files can be written there; the folder is made where it is missing.

    Raises
    ------
    InvalidInputError
        if ``path`` is no path, or cannot be written
    """
    found = _as_path(argument, path)
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        raise InvalidInputError(
            f"{argument}: nothing can be written to the folder {str(found)!r} ({error.strerror or error}). Choose "
            f"another, or change its permissions."
        ) from error
    return found


def write(path: Path, content: bytes) -> None:
    """Put ``content`` in the file; it holds all of it, or what it held before."""
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.part")  # short, as the name may be as long as names can be
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_path(argument: str, path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InvalidInputError(f"{argument} must be a path, got {path!r}.")
    return Path(path)
