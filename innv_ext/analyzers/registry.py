"""The names behind ``create_analyzer``, and reading analyzers, which needs names."""

from __future__ import annotations

import copyreg
import difflib
import inspect
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from innv_ext.analyzers.catalogue import ROWS
from innv_ext.analyzers.core import saving
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.core.info import AnalyzerInfo, row
from innv_ext.errors import InvalidInputError, SaveError, UnsupportedModelError

_TABLE: dict[str, AnalyzerInfo] = {info.name: info for info in ROWS}


def list_analyzers() -> list[AnalyzerInfo]:
    """All analyzers as data: name, family, sign, needs, cost, sum, reference.

    Examples
    --------
    >>> [a.name for a in innv_ext.list_analyzers() if a.sums_to == "f_c"]
    """
    return list(_TABLE.values())


def register_analyzer(
    name: str,
    cls: type[Analyzer],
    *,
    description: str = "",
    family: str = "user",
    signed: bool = True,
    needs_relu: bool = False,
    cost: str = "",
    sums_to: str = "",
    reference: str = "",
) -> None:
    """Make ``create_analyzer(name, model)`` build ``cls``, a subclass of ``Analyzer`` or ``ReverseAnalyzer``.

    Raises
    ------
    InvalidInputError
        if ``cls`` is no analyzer class, or the name belongs to another class
    """
    if not (isinstance(cls, type) and issubclass(cls, Analyzer)):
        raise InvalidInputError(f"register_analyzer takes a subclass of innv_ext.analyzers.Analyzer, got {cls!r}.")
    old = _TABLE.get(name)
    if old is not None and old.family != "user":
        raise InvalidInputError(f"The name {name!r} belongs to {old.cls.__name__}; choose another.")
    description = description or (inspect.getdoc(cls) or "").split("\n")[0]
    facts = {"signed": signed, "relu": needs_relu, "cost": cost, "sums_to": sums_to}
    _TABLE[name] = row(name, cls, family, description, reference, **facts)
    copyreg.pickle(cls, _by_archive)


def find(name: str) -> AnalyzerInfo:
    """The row of a name; unknown names get suggestions."""
    if name not in _TABLE:
        close = difflib.get_close_matches(str(name), _TABLE, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        raise InvalidInputError(f"There is no analyzer {name!r}.{hint} innv_ext.list_analyzers() tells all names.")
    return _TABLE[name]


def create_analyzer(name: str, model: keras.Model, **params: Any) -> Analyzer:
    """Build an analyzer by name.

    Parameters
    ----------
    name : one of ``list_analyzers()``, e.g. "gradient", "lrp.epsilon", "deep_taylor"
    model : built keras.Model
    params : the method's parameters and those of ``Analyzer`` (batch_size, seed, neuron_selection_mode, output ...)

    Raises
    ------
    InvalidInputError
        for an unknown name or parameter
    UnsupportedModelError, NoRuleError
        if the method cannot explain the model; the message lists all offending layers

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("lrp.epsilon", model, epsilon=1e-3)
    >>> relevance = analyzer.analyze(x)
    """
    info = find(name)
    analyzer = info.cls(model, **info.constructor_arguments(params))
    analyzer.registered_name_, analyzer.registered_params_ = name, dict(params)
    return analyzer


def class_named(name: str) -> type[Analyzer]:
    """An analyzer class by its name, for loading."""
    for info in _TABLE.values():
        if info.cls.__name__ == name:
            return info.cls
    raise InvalidInputError(f"There is no analyzer class {name!r}; register it with innv_ext.register_analyzer.")


# --- archives ----------------------------------------------------------------------------------------------------


def load_analyzer(path: Any, *, safe_mode: bool = True, custom_objects: dict[str, Any] | None = None) -> Analyzer:
    """Read an analyzer that ``Analyzer.save`` wrote.

    Parameters
    ----------
    path : of the archive, or an open binary file
    safe_mode : refuse models that hold code (Lambda layers); False only for files you trust
    custom_objects : the model's custom layers, and own rules, as for ``keras.models.load_model``

    Raises
    ------
    SaveError
        if the file is not such an archive, or needs rules that are not registered
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("analyzer.json"))
            stored = [_read_arrays(archive.read(name)) for name in ("params.npz", "state.npz")]
            model_bytes = archive.read("model.keras")
        if content.get("format") not in (1, saving.FORMAT):
            raise ValueError(f"it has format {content.get('format')}, this version of innv_ext reads {saving.FORMAT}")
        params = {k: saving.decode(v, stored[0], custom_objects or {}) for k, v in content["params"].items()}
        name, class_name = content["name"], content["class"]
        with tempfile.TemporaryDirectory() as folder:
            model_file = Path(folder) / "model.keras"
            model_file.write_bytes(model_bytes)
            model = keras.models.load_model(model_file, custom_objects=custom_objects, safe_mode=safe_mode)
        analyzer = class_named(class_name)(model, **params) if name is None else create_analyzer(name, model, **params)
        if stored[1]:
            analyzer.set_state(stored[1])
    except UnsupportedModelError:
        raise
    except SaveError as error:
        raise SaveError(f"{path} cannot be loaded: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise SaveError(f"{path} cannot be loaded as an archive of Analyzer.save: {error}") from error
    return analyzer


def _read_arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _restored(data: bytes) -> Analyzer:
    return load_analyzer(io.BytesIO(data), safe_mode=False)  # who unpickles trusts the bytes anyway


def _by_archive(analyzer: Analyzer) -> tuple[Any, ...]:
    """How ``pickle`` and ``copy.deepcopy`` take an analyzer apart: as the bytes of its archive."""
    buffer = io.BytesIO()
    saving.write(analyzer, buffer)
    return _restored, (buffer.getvalue(),)


for _row in ROWS:
    copyreg.pickle(_row.cls, _by_archive)
