"""Reads what users pass to ``analyze``: samples, the choice of a neuron, layers; packs maps like the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from innv_ext.backend.graph import Graph, Spec
from innv_ext.errors import InvalidInputError


def output_position(model: keras.Model, graph: Graph, output: str | int | None) -> int:
    """The position of the output to explain."""
    count = len(graph.outputs)
    names = list(getattr(model, "output_names", None) or [])
    if output is None:
        if count > 1:
            raise InvalidInputError(
                f"The model has {count} outputs; say which one to explain with output= (a position, or one of {names})."
            )
        return 0
    if isinstance(output, str):
        if output not in names:
            raise InvalidInputError(f"output={output!r} is not an output of the model; it has {names}.")
        return names.index(output)
    if isinstance(output, bool) or not isinstance(output, (int, np.integer)):
        raise InvalidInputError(f"output must be a name or a position, got {output!r}.")
    if not -count <= output < count:
        raise InvalidInputError(f"output={output} is out of range for a model with {count} outputs.")
    return output % count


def _name(structure: Any, i: int) -> str:
    flat = tree.flatten(structure)
    return getattr(flat[i], "name", f"input {i}")


def flatten_inputs(x: Any, structure: Any, specs: Sequence[Spec]) -> list[Any]:
    """One value per input of the model from a list, a dict or a single array."""
    count = len(specs)
    names = [_name(structure, i) for i in range(count)]
    if isinstance(x, dict):
        keys = sorted(structure) if isinstance(structure, dict) else names
        if set(x) != set(keys):
            raise InvalidInputError(f"x has the keys {sorted(x)}, but the model's inputs are {sorted(keys)}.")
        return [x[k] for k in keys]
    if count == 1:
        single = isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == len(specs[0].shape)
        return [x[0]] if single else [x]
    flat = tree.flatten(x) if isinstance(x, (list, tuple)) else None
    if flat is None or len(x) != count:
        got = type(x).__name__ if flat is None else f"{len(x)} arrays"
        raise InvalidInputError(
            f"The model has {count} inputs {names}; pass a list or dict of {count} arrays, got {got}."
        )
    return list(x)


def standardize(x: Any, structure: Any, specs: Sequence[Spec], check: bool) -> list[np.ndarray]:
    """The inputs as a flat list of arrays in the model's shapes and dtypes.

    Integers, booleans, float64 and float16 are converted to the dtype of the model's input.
    """
    arrays = []
    for i, (value, spec) in enumerate(zip(flatten_inputs(x, structure, specs), specs, strict=True)):
        name = _name(structure, i)
        try:
            array = np.asarray(value)
        except Exception as error:
            raise InvalidInputError(f"x for {name!r} cannot be read as one array: {error}") from error
        arrays.append(_checked(array, spec, name, check))
    counts = {len(a) for a in arrays}
    if len(counts) > 1:
        raise InvalidInputError(f"The inputs have different numbers of samples: {[len(a) for a in arrays]}.")
    return arrays


def _checked(array: np.ndarray, spec: Spec, name: str, check: bool) -> np.ndarray:
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise InvalidInputError(f"x for {name!r} has dtype {array.dtype}; numbers are needed ({spec.dtype}).")
    fits = array.ndim == len(spec.shape) and all(
        s is None or s == d for s, d in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        expected = "(batch, " + ", ".join("any" if s is None else str(s) for s in spec.shape[1:]) + ")"
        hint = " Add the batch axis: x[None]." if array.ndim == len(spec.shape) - 1 else ""
        raise InvalidInputError(f"x for {name!r} has shape {array.shape}, but the model takes {expected}.{hint}")
    if check and array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise InvalidInputError(
            f"x for {name!r} holds NaN or infinite values in {len(bad)} samples (first: {bad[0]}). Clean the data, "
            f"or pass check_input=False to explain it all the same."
        )
    target = "float32" if spec.dtype in ("float16", "bfloat16") else spec.dtype
    if not target.startswith("float"):  # token numbers
        whole = array.astype("int64")
        if array.dtype.kind == "f" and not np.array_equal(whole, array):
            raise InvalidInputError(f"x for {name!r} must hold whole numbers ({target}), got fractions.")
    return np.ascontiguousarray(array.astype(target))


def resolve_selection(mode: Any, selection: Any, count: int, shape: tuple[int | None, ...]) -> tuple[Any, np.ndarray]:
    """(mode, flat neuron index per sample); index -1 stands for the largest output."""
    if selection is None:
        if mode == "index" and count:
            raise InvalidInputError("neuron_selection_mode='index' needs an index: analyze(x, neuron_selection).")
        return mode, np.full(count, -1, "int32")
    if isinstance(selection, str):
        if selection not in ("max_activation", "all"):
            raise InvalidInputError(f"neuron_selection must be indices, 'max_activation' or 'all', got {selection!r}.")
        return selection, np.full(count, -1, "int32")
    return "index", _flat_index(selection, count, shape)


def _flat_index(selection: Any, count: int, shape: tuple[int | None, ...]) -> np.ndarray:
    index = np.asarray(selection)
    if index.dtype.kind not in "iu":
        raise InvalidInputError(f"neuron_selection must be integers, got dtype {index.dtype}.")
    dims = shape[1:]
    width = max(len(dims), 1)
    if width == 1 and index.ndim == 0:
        index = np.full((count, 1), index)
    elif width > 1 and index.shape == (width,):
        index = np.broadcast_to(index, (count, width))
    elif width == 1 and index.shape == (count,):
        index = index[:, None]
    if index.shape != (count, width):
        expected = (
            f"one integer or shape ({count},)" if width == 1 else f"a tuple of {width} or shape ({count}, {width})"
        )
        raise InvalidInputError(
            f"neuron_selection has shape {np.shape(selection)}, expected {expected} for {count} samples."
        )
    if any(d is None for d in dims):
        raise InvalidInputError(f"neuron_selection needs an output of known shape, but it is {shape}.")
    for axis, size in enumerate(dims or (1,)):
        bad = (index[:, axis] < 0) | (index[:, axis] >= size)
        if bad.any():
            raise InvalidInputError(
                f"neuron_selection {int(index[bad][0, axis])} (sample {int(np.flatnonzero(bad)[0])}) is out of range "
                f"for an output of {size} neurons; valid are 0..{size - 1}."
            )
    flat = np.ravel_multi_index(tuple(index.T), dims or (1,)) if count else np.zeros(0)
    return np.asarray(flat, "int32")


def layer_names(wanted: bool | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The layers of which relevance is returned."""
    if wanted is False or wanted is None:
        return ()
    if not known:
        raise InvalidInputError("return_layers: this method has no relevance per layer.")
    if wanted is True:
        return tuple(known)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    found = []
    for name in names:
        matches = [k for k in known if k == name] or [k for k in known if k.split("/")[-1] == name]
        if len(matches) != 1:
            raise InvalidInputError(f"return_layers: no single layer {name!r}; known are {', '.join(known)}.")
        found.append(matches[0])
    return tuple(found)


def pack_like(x: Any, arrays: list[np.ndarray], structure: Any) -> Any:
    """The attributions in the structure of ``x``."""
    if isinstance(x, dict):
        keys = sorted(structure) if isinstance(structure, dict) else [_name(structure, i) for i in range(len(arrays))]
        named = dict(zip(keys, arrays, strict=True))
        return {k: named[k] for k in x}
    if len(arrays) == 1:
        wrapped = isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == arrays[0].ndim
        return [arrays[0]] if wrapped else arrays[0]
    return tuple(arrays) if isinstance(x, tuple) else arrays
