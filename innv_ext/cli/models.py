"""Model files, names of outputs, and analyzers by name."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from innv_ext.analyzers import create_analyzer
from innv_ext.analyzers.core.info import AnalyzerInfo
from innv_ext.analyzers.core.request import output_position
from innv_ext.cli.files import run_module
from innv_ext.errors import InnvError, InvalidInputError, UnsupportedModelError
from innv_ext.evaluation.subject import Inputs


class AnalyzerFailed(InnvError):
    """An analyzer cannot explain this model, or broke."""


@contextlib.contextmanager
def failures(name: str) -> Iterator[None]:
    """What an analyzer raises names it; bad input and interrupts stay what they are."""
    try:
        yield
    except InvalidInputError:
        raise
    except InnvError as error:
        raise AnalyzerFailed(f"{name}: {error}") from error
    except Exception as error:
        raise AnalyzerFailed(f"{name} failed with {type(error).__name__}: {error}") from error


def definitions(options: Namespace) -> dict[str, Any]:
    """The classes and functions that ``--module`` defines; analyzers that it registers are known afterwards."""
    if options.module is None:
        return {}
    found = vars(run_module(options.module, "--module"))
    return {k: v for k, v in found.items() if callable(v) and not k.startswith("_")}


def load_model(options: Namespace, custom_objects: dict[str, Any]) -> keras.Model:
    """The model of a command line."""
    try:
        model = keras.models.load_model(
            options.model, custom_objects=custom_objects, compile=False, safe_mode=not options.unsafe
        )
    except Exception as error:  # whatever the file holds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "No model config" in reason:  # of an HDF5 file that was written by save_weights
            reason = "it holds weights alone; build the model, load them, and write both by model.save('model.keras')."
        raise InvalidInputError(
            f"{options.model} cannot be loaded as a Keras model: {reason} (Custom layers: --module "
            f"FILE.py. Lambda layers of a file that you trust: --unsafe.)"
        ) from error
    if not isinstance(model, keras.Model):
        raise InvalidInputError(f"{options.model} holds a {type(model).__name__}, a keras.Model is needed.")
    return model


def build(
    row: AnalyzerInfo,
    model: keras.Model,
    params: Mapping[str, Any],
    progress: bool = True,
    make: Callable[..., Any] = create_analyzer,
) -> Any:
    """The analyzer of that name, or what ``make`` makes of (name, model, params) in its place.

    ``progress`` holds where the parameters don't say anything about it.
    """
    with failures(row.name):
        try:
            return make(row.name, model, **{"progress": progress, **params})
        except UnsupportedModelError:
            raise
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError) or not params:
                raise
            given = ", ".join(f"{k}={v!r}" for k, v in params.items())
            raise InvalidInputError(f"{row.name} refuses its parameters ({given}): {error}") from error


def check_fit(row: AnalyzerInfo, options: Namespace) -> None:
    """Analyzers that learn need data."""
    if row.needs_fit and options.fit is None:
        raise InvalidInputError(f"{row.name} learns from data: give some with --fit FOLDER or --fit X.npz.")


def check_labels(labels: Mapping[int, str], subject: Inputs, output: str | int | None) -> bool:
    """One name per output, or two of a single one, which is told; a list that is off by one would name all wrongly."""
    graph = subject.graph
    shape = graph.specs[graph.outputs[output_position(subject.model, graph, output)]].shape
    shared = len(shape) == 2 and shape[1] == 1 and set(labels) == {0, 1}
    if labels and len(shape) == 2 and shape[1] is not None and set(labels) != set(range(shape[1])) and not shared:
        raise InvalidInputError(f"--labels has {len(labels)} names, but the model has {shape[1]} outputs.")
    return shared
