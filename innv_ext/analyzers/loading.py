"""Saving and loading analyzers: a zip of the model (.keras), json parameters and npz arrays; no pickle anywhere."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from innv_ext import files
from innv_ext.analyzers import registry
from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.lrp import rules as r_rules
from innv_ext.errors import SaveError, UnsupportedModelError

FORMAT = 1
_RULES = {cls.__name__: cls for cls in (*r_rules.AffineRule.__subclasses__(), node_rules.Gate)}


def _encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        key = f"param{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, name, arrays) for v in value]}
    if isinstance(value, list):
        return {"list": [_encode(v, name, arrays) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _encode(v, name, arrays) for k, v in value.items()}}
    if is_dataclass(value) and _RULES.get(type(value).__name__) is type(value):
        content = {f.name: _encode(getattr(value, f.name), name, arrays) for f in fields(value)}
        return {"rule": type(value).__name__, "fields": content}
    raise SaveError(
        f"The parameter {name}={value!r} cannot be written without pickle. Use named analyzers and rules (e.g. "
        f"'lrp.epsilon'), or rebuild the analyzer with create_analyzer after loading the model."
    )


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_decode(v, arrays) for v in value["tuple"])
    if "list" in value:
        return [_decode(v, arrays) for v in value["list"]]
    if "dict" in value:
        return {k: _decode(v, arrays) for k, v in value["dict"].items()}
    return _RULES[value["rule"]](**{k: _decode(v, arrays) for k, v in value["fields"].items()})


def save_analyzer(analyzer: Analyzer, path: Any) -> None:
    """Write ``analyzer`` to ``path``; the file appears only when it is complete.

    Raises
    ------
    SaveError
        if a parameter is a function or table that has no name
    """
    path, arrays = Path(path), {}
    named = analyzer.registered_name_ is not None
    params = analyzer.registered_params_ if named else analyzer.get_params()
    content = {
        "format": FORMAT,
        "name": analyzer.registered_name_,
        "class": type(analyzer).__name__,
        "params": {k: _encode(v, k, arrays) for k, v in params.items()},
    }
    state = analyzer.state()
    with tempfile.TemporaryDirectory() as folder:
        model_file = Path(folder) / "model.keras"
        analyzer.model.save(model_file)

        def write(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("analyzer.json", json.dumps(content, indent=1))
                archive.write(model_file, "model.keras")
                for name, stored in (("params.npz", arrays), ("state.npz", state)):
                    buffer = io.BytesIO()
                    np.savez(buffer, **stored)
                    archive.writestr(name, buffer.getvalue())

        files.write(path, write)


def load_analyzer(path: Any, *, safe_mode: bool = True, custom_objects: dict[str, Any] | None = None) -> Analyzer:
    """Read an analyzer that ``Analyzer.save`` wrote.

    Parameters
    ----------
    safe_mode : refuse models that hold code (Lambda layers); False only for files you trust
    custom_objects : the model's custom layers, as for ``keras.models.load_model``

    Raises
    ------
    SaveError
        if the file is not such an archive
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("analyzer.json"))
            stored = [_read_arrays(archive.read(name)) for name in ("params.npz", "state.npz")]
            model_bytes = archive.read("model.keras")
        if content.get("format") != FORMAT:
            raise ValueError(f"it has format {content.get('format')}, this version of innv_ext reads {FORMAT}")
        params = {k: _decode(v, stored[0]) for k, v in content["params"].items()}
        name, class_name = content["name"], content["class"]
        with tempfile.TemporaryDirectory() as folder:
            model_file = Path(folder) / "model.keras"
            model_file.write_bytes(model_bytes)
            model = keras.models.load_model(model_file, custom_objects=custom_objects, safe_mode=safe_mode)
        if name is not None:
            analyzer = registry.create_analyzer(name, model, **params)
        else:
            analyzer = registry.class_named(class_name)(model, **params)
        analyzer.set_state(stored[1])
    except UnsupportedModelError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise SaveError(f"{path} cannot be loaded as an archive of Analyzer.save: {error}") from error
    return analyzer


def _read_arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
