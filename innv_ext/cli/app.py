"""From arguments to an exit code: 0 fine, 1 an analyzer failed, 2 usage and input errors, 130 interrupted."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence

from innv_ext.cli.parser import parse
from innv_ext.errors import InnvError, InvalidInputError

_TOLD = (UserWarning, RuntimeWarning)  # the warnings that say something about maps, not about code
FINE, FAILED, MISUSED, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : the arguments without the program's name; default: those of the process

    Returns
    -------
    the exit code; errors are one line on the standard error, with a traceback before it if ``--debug`` is given

    Examples
    --------
    >>> main(["--version"])
    innv-ext 0.2.0
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _any_text():
            try:
                code = _run(parse(arguments))
            except SystemExit as stop:  # of --help and --version
                code = int(stop.code or FINE)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _tell("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _tell(
            f"error: {_message(error)}", MISUSED if isinstance(error, (InvalidInputError, OSError)) else FAILED
        )
    return code


def _run(options: Namespace) -> int:
    from innv_ext.cli import early  # needs numpy, for which --help does not wait

    early.check(options)
    with _quiet_start():
        from innv_ext.cli import compare, explain, listing, text
    commands = {"explain": explain.explain, "compare": compare.compare}
    commands |= {"list": listing.list_names, "summary": listing.summary, "text": text.text}
    with _relayed_warnings(options.quiet):
        return commands[options.command](options)


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, (InnvError, OSError)) and text else f"{type(error).__name__}: {text}"


def _tell(text: str, code: int = FINE) -> int:
    sys.stderr.write(f"innv-ext: {text}\n")
    return code


@contextlib.contextmanager
def _any_text() -> Iterator[None]:
    """An encoding that lacks a sign must not cost the result: the sign is written as its number."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    before = [s.errors for s in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


@contextlib.contextmanager
def _relayed_warnings(quiet: bool) -> Iterator[None]:
    """Tell each warning once, as one line, after the work; with ``quiet`` none."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            texts = [" ".join(str(w.message).split()) for w in caught if issubclass(w.category, _TOLD)]
            for text in [] if quiet else dict.fromkeys(texts):
                _tell(f"warning: {text}")


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Load TensorFlow without its start-up notes, which C++ writes before it reads any setting.

    The environment and the standard error are put back afterwards; Python errors are raised as usual.
    """
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        for name in added:
            os.environ.pop(name, None)
