"""The archive of an analyzer: a zip of the model (.keras), json parameters and npz arrays; no pickle anywhere.

Writing knows no names of analyzers; ``registry`` reads. Objects are written as the name that they are registered under
with ``keras.saving.register_keras_serializable``, and what they were made with: rules, predicates and tables of rules.
"""

from __future__ import annotations

import inspect
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from innv_ext.backend.kinds import Kind
from innv_ext.errors import SaveError

FORMAT = 2  # 1 knew the rules of LRP only


def write(analyzer: Any, file: BinaryIO) -> None:
    """Write the archive of an analyzer.

    Raises
    ------
    SaveError
        if a parameter can't be written without pickle
    """
    arrays: dict[str, np.ndarray] = {}
    named = analyzer.registered_name_ is not None
    params = analyzer.registered_params_ if named else analyzer.get_params()
    content = {
        "format": FORMAT,
        "name": analyzer.registered_name_,
        "class": type(analyzer).__name__,
        "params": {k: encode(v, k, arrays) for k, v in params.items()},
    }
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file, "w") as archive:
        model = Path(folder) / "model.keras"
        analyzer.model.save(model)
        archive.writestr("analyzer.json", json.dumps(content, indent=1))
        archive.write(model, "model.keras")
        for name, stored in (("params.npz", arrays), ("state.npz", analyzer.learnt_)):
            buffer = io.BytesIO()
            np.savez(buffer, **stored)
            archive.writestr(name, buffer.getvalue())


def encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A parameter as json; its arrays go into ``arrays``."""
    if isinstance(value, Kind):
        return {"kind": value.value}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubU":
        key = f"param{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [encode(v, name, arrays) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: encode(v, name, arrays) for k, v in value.items()}}
    if isinstance(value, type) or inspect.isroutine(value):
        return {"registered": _registered(value) or _refuse(name, value)}
    found = _registered(type(value)) or _refuse(name, value)
    return {"object": found, "config": {k: encode(v, name, arrays) for k, v in value.get_config().items()}}


def decode(value: Any, arrays: dict[str, np.ndarray], custom: dict[str, Any]) -> Any:
    """What ``encode`` was given; ``custom`` has objects that are not registered, by name."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    for kind in (tuple, list):
        if kind.__name__ in value:
            return kind(decode(v, arrays, custom) for v in value[kind.__name__])
    if "dict" in value:
        return {k: decode(v, arrays, custom) for k, v in value["dict"].items()}
    if "kind" in value:
        return Kind(value["kind"])
    if "registered" in value:
        return _found(value["registered"], custom)
    if "rule" in value:  # format 1
        value = {"object": f"innv_ext>{value['rule']}", "config": value["fields"]}
    cls, config = _found(value["object"], custom), {k: decode(v, arrays, custom) for k, v in value["config"].items()}
    return cls.from_config(config) if hasattr(cls, "from_config") else cls(**config)


def _registered(thing: Any) -> str | None:
    """The name under which Keras finds a class or function again."""
    name = keras.saving.get_registered_name(thing)
    if keras.saving.get_registered_object(name) is thing:
        return name
    known = isinstance(thing, type) and getattr(keras.layers, thing.__name__, None) is thing
    return f"keras.layers>{thing.__name__}" if known else None


def _found(name: str, custom: dict[str, Any]) -> Any:
    found = keras.saving.get_registered_object(name, custom_objects=custom)
    if found is None and name.startswith("keras.layers>"):
        found = getattr(keras.layers, name.partition(">")[2], None)
    if found is None:
        raise SaveError(
            f"{name!r} is not registered in this process: import the module that decorates it with "
            f"keras.saving.register_keras_serializable, or pass custom_objects={{{name!r}: ...}}."
        )
    return found


def _refuse(name: str, value: Any) -> Any:
    raise SaveError(
        f"The parameter {name}={value!r} cannot be written without pickle. Use named analyzers and rules (e.g. "
        f"'lrp.epsilon'), decorate your own class or function with keras.saving.register_keras_serializable(), or "
        f"rebuild the analyzer with create_analyzer after loading the model."
    )
