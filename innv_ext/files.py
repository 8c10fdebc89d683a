"""What leaves Python's memory: files that appear whole or not at all, progress on the terminal, optional packages."""

from __future__ import annotations

import contextlib
import importlib
import math
import operator
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from rich import progress as bars
from rich.console import Console

from innv_ext.errors import InvalidInputError

DELAY, PAUSE = 3.0, 0.1  # seconds before a bar appears, and between two drawings of it
BARS = bars.Progress(  # one for all: rich has one live display at a time, so nested loops and threads share it
    bars.TextColumn("{task.description}", markup=False),
    bars.BarColumn(20),
    bars.TextColumn("{task.fields[state]}", markup=False),
    console=Console(stderr=True),
    transient=True,
    auto_refresh=False,
    redirect_stdout=False,
    redirect_stderr=False,
)
_LOCK = threading.Lock()
_PACKAGES = {  # by module: the package, and our extra that has it
    "pandas": ("pandas", "pandas"),
    "skimage": ("scikit-image", "segments"),
    "sklearn": ("scikit-learn", "segments"),
}


# --- files -------------------------------------------------------------------------------------------------------


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


def write(path: Path, content: bytes | Callable[[BinaryIO], Any]) -> None:
    """Put ``content``, bytes or a function that writes them, in the file; it holds all of it, or what it held before.

    Raises
    ------
    OSError
        if it cannot be written; the error is the one that Python raises, and names ``path``
    """
    special = path.exists() and not path.is_file()  # a pipe or a device stays what it is
    # a short name, as that of the file may be as long as names can be
    temporary = path if special else path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with open(temporary, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        if not special:
            os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if not special:
            with contextlib.suppress(OSError):  # it has its name by now, or was never made
                temporary.unlink()


def _as_path(argument: str, path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InvalidInputError(f"{argument} must be a path, got {path!r}.")
    return Path(path)


# --- optional packages ---------------------------------------------------------------------------------------------


def need(module: str, what: str, instead: str = "") -> ModuleType:
    """The module of an optional package, e.g. ``need("pandas", "to_frame()", ", or take to_dict()")``.

    Raises
    ------
    InvalidInputError
        if it is not installed; the message names ``what`` needs it, how to install it, and what to do ``instead``
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package, extra = _PACKAGES[module.partition(".")[0]]
        raise InvalidInputError(
            f"{what} needs {package}, which is not installed: pip install {package}, or 'innv_ext[{extra}]'{instead}."
        ) from error


# --- progress ------------------------------------------------------------------------------------------------------


class Progress:
    """A bar on the standard error, if that is a terminal, while work takes longer than three seconds.

    Parameters
    ----------
    steps : to iterate over, or their number if ``update`` tells of each
    what : the label
    show : if False, or if there is one step only, nothing is ever shown
    unit : what a step is

    Examples
    --------
    >>> [step for step in Progress(range(3), "squares", unit="number")]
    [0, 1, 2]
    >>> with Progress(2, "halves") as bar:
    ...     bar.update(note="the first")
    ...     bar.update()
    """

    def __init__(self, steps: Iterable[Any] | int, what: str, show: bool = True, unit: str = "batch"):
        self.steps, self.what, self.unit, self.note = steps, what, unit, ""
        self.total = steps if isinstance(steps, int) else operator.length_hint(steps) or None
        self.done, self._start, self._task = 0, time.monotonic(), None
        seen = show and self.total != 1 and BARS.console.is_interactive
        self._next = self._start + DELAY if seen else math.inf

    def __iter__(self) -> Iterator[Any]:
        with self:
            for step in self.steps:
                yield step
                self.update()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.clear()

    def update(self, steps: int = 1, note: str | None = None) -> None:
        """So many steps more are done; ``note`` stands behind them from now on."""
        self.done += steps
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PAUSE
        state = f"{self.done}/{self.total or '?'} {self.unit}"
        if self.total and self.done:
            left = round((now - self._start) / self.done * (self.total - self.done))
            state += f", {left // 60}:{left % 60:02} left"
        state += f", {self.note}" if self.note else ""
        with _LOCK:
            if self._task is None:
                BARS.start()
                BARS.console.show_cursor(True)  # which a loop that fails could leave hidden
                self._task = BARS.add_task(self.what, total=self.total, state="")
            BARS.update(self._task, completed=self.done, state=state, refresh=True)

    def clear(self) -> None:
        """Take the bar off the screen, until the next update."""
        with _LOCK:
            if self._task is not None:
                BARS.remove_task(self._task)
                BARS.refresh()
                self._task = None
                if not BARS.task_ids:
                    BARS.stop()
