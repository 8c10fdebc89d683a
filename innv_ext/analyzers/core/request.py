"""What users pass to ``analyze``: samples, the choice of a neuron, layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend.graph import Graph, Spec
from innv_ext.errors import InvalidInputError

BEST, ALL = -1, -2  # in place of the flat index of a neuron: the largest output, the sum of all
CONTRAST = "contrast"  # two neurons a and b of n are the number a + (b + 1) n


def output_position(model: keras.Model, graph: Graph, output: str | int | None) -> int:
    """The position of the output to explain: the keys of a dict count before the names of layers."""
    count = len(graph.outputs)
    layers = list(getattr(model, "output_names", None) or [])
    names = list(graph.keys) or layers
    if output is None:
        if count > 1:
            raise InvalidInputError(
                f"The model has {count} outputs; say which one to explain with output= (a position, or one of {names})."
            )
        return 0
    if isinstance(output, str):
        known = names if output in names else layers
        if output not in known:
            raise InvalidInputError(f"output={output!r} is not an output of the model; it has {names}.")
        return known.index(output)
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
    if isinstance(x, (keras.utils.PyDataset, Iterator)) or hasattr(x, "element_spec"):
        raise InvalidInputError(
            f"x is a {type(x).__name__}, but one batch at a time is explained: for batch in data (a Dataset, or any "
            f"iterable): analyzer.analyze(batch), without the labels."
        )
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
        refuse_masked(value, f"x for {name!r}")
        try:
            array = np.asarray(value)
        except Exception as error:
            raise InvalidInputError(f"x for {name!r} cannot be read as one array: {error}") from error
        arrays.append(_checked(array, spec, name, check))
    counts = {len(a) for a in arrays}
    if len(counts) > 1:
        raise InvalidInputError(f"The inputs have different numbers of samples: {[len(a) for a in arrays]}.")
    return arrays


def refuse_masked(values: Any, what: str) -> None:
    """Refuse masked arrays, of whose masked values numpy would silently take what lies below the mask."""
    parts = values if isinstance(values, (list, tuple)) else [values]
    masked = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if np.ma.isMaskedArray(part))
    if masked:
        raise InvalidInputError(
            f"{what} is a masked array with {masked} masked values, which models don't know: fill them, "
            f"x.filled(value), or leave these samples out."
        )


def _fits(shape: Sequence[int], spec: Spec) -> bool:
    own = spec.shape[1:]
    return len(shape) == len(own) + 1 and all(s is None or s == d for s, d in zip(own, shape[1:], strict=True))


def dtype_of(array: np.ndarray) -> str:
    """The dtype as Keras calls it: arrays of objects hold strings."""
    return "string" if array.dtype.kind == "O" else array.dtype.name


def as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` in a dtype of Keras."""
    return array if dtype == "string" else array.astype(dtype)


def empty(array: np.ndarray, count: int) -> np.ndarray:
    """``count`` samples like those of ``array``, of zeros or empty strings."""
    return np.full((count, *array.shape[1:]), "" if array.dtype.kind == "O" else 0, array.dtype)


def _as_strings(array: np.ndarray, name: str) -> np.ndarray:
    """An array of str objects; bytes are read as UTF-8."""
    flat = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.ravel().tolist()]
    wrong = next((v for v in flat if not isinstance(v, str)), None)
    if wrong is not None or not (flat or array.dtype.kind in "USO"):
        raise InvalidInputError(f"x for {name!r} must hold strings, got {array.dtype if wrong is None else wrong!r}.")
    return np.array(flat, object).reshape(array.shape)


def _checked(array: np.ndarray, spec: Spec, name: str, check: bool) -> np.ndarray:
    if spec.dtype == "string":
        array = _as_strings(array, name)
    elif array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        hint = " Texts are explained by innv_ext.text.explain." if array.dtype.kind in "SUO" else ""
        raise InvalidInputError(f"x for {name!r} has dtype {array.dtype}; numbers are needed ({spec.dtype}).{hint}")
    shape = array.shape
    if not _fits(shape, spec):
        expected = "(batch, " + ", ".join("any" if s is None else str(s) for s in spec.shape[1:]) + ")"
        ways = {
            " Add the batch axis: x[None].": (1, *shape),
            " Add the axis of the channel: x[..., None].": (*shape, 1),
            " Add the axis of the channel: x[:, None].": (*shape[:1], 1, *shape[1:]),
        }
        hint = next((way for way, added in ways.items() if _fits(added, spec)), "")
        raise InvalidInputError(f"x for {name!r} has shape {shape}, but the model takes {expected}.{hint}")
    if check and array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise InvalidInputError(
            f"x for {name!r} holds NaN or infinite values in {len(bad)} samples (first: {bad[0]}). Clean the data, "
            f"or pass check_input=False to explain it all the same."
        )
    if spec.dtype == "string":
        return array
    target = "float32" if spec.dtype in ("float16", "bfloat16") else spec.dtype
    if not target.startswith("float"):  # token numbers
        whole = array.astype("int64")
        if array.dtype.kind == "f" and not np.array_equal(whole, array):
            raise InvalidInputError(f"x for {name!r} must hold whole numbers ({target}), got fractions.")
    return np.ascontiguousarray(array.astype(target))


def is_contrast(selection: Any) -> bool:
    """Whether this means two neurons."""
    listed = isinstance(selection, (tuple, list)) and len(selection) > 0
    return listed and isinstance(selection[0], str) and selection[0] == CONTRAST


def contrasted(index: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(neuron, the one whose score is taken from it, or -1) of numbers of neurons of an output (batch, ...)."""
    neurons = int(np.prod(output.shape[1:]))
    second = np.where(index >= 0, index // neurons - 1, -1)
    return np.where(second >= 0, index % neurons, index), second


def resolve_selection(
    mode: Any, selection: Any, count: int, shape: tuple[int | None, ...], class_names: Sequence[str] | None = None
) -> tuple[Any, np.ndarray]:
    """(mode, flat neuron per sample): BEST and ALL are neurons, too, so that mode is "index" or a function."""
    if callable(selection):
        raise InvalidInputError(
            "neuron_selection is a function; give it as neuron_selection_mode= when the analyzer is made."
        )
    if is_contrast(selection) and CONTRAST not in (class_names or ()):
        return "index", _pair(selection, count, shape, class_names)
    known = list(class_names or ())
    special = isinstance(selection, str) and selection in ("max_activation", "all") and selection not in known
    if selection is not None and not special:
        chosen = np.asarray(selection)
        if any(isinstance(name, str) for name in chosen.ravel().tolist()):
            chosen = _numbers_of(chosen, known)
            if shape[1:] in ((), (1,)) and len(known) == 2:
                return _one_of_two(chosen, count)
        return "index", _flat_index(chosen, count, shape)
    if selection is None and isinstance(mode, str) and mode == "index" and count:
        raise InvalidInputError("neuron_selection_mode='index' needs an index: analyze(x, neuron_selection).")
    chosen = mode if selection is None else selection
    return chosen if callable(chosen) else "index", np.full(count, ALL if chosen == "all" else BEST)


def _pair(
    selection: Sequence[Any], count: int, shape: tuple[int | None, ...], class_names: Sequence[str] | None
) -> np.ndarray:
    """The number of both neurons of each sample."""
    if len(selection) != 3:
        raise InvalidInputError(
            f"neuron_selection=('contrast', a, b) is the score of neuron a minus that of neuron b; got {selection!r}."
        )
    both = [resolve_selection("index", one, count, shape, class_names) for one in selection[1:]]
    modes, found = zip(*both, strict=True)
    if any(callable(mode) for mode in modes) or any((index < 0).any() for index in found):
        raise InvalidInputError(f"The contrast {selection!r} needs two neurons, by their numbers or names.")
    if (found[0] == found[1]).any():
        raise InvalidInputError(f"The contrast {selection!r} is of a neuron with itself, which is 0.")
    return found[0] + (found[1] + 1) * int(np.prod(shape[1:] or (1,)))


def _numbers_of(names: np.ndarray, known: list[str]) -> np.ndarray:
    """The numbers of classes that are called by their names."""
    for name in names.ravel().tolist():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else "" if known else " Names need class_names=."
            among = f"names of classes ({', '.join(map(str, known[:20]))}), " if known else ""
            raise InvalidInputError(
                f"neuron_selection must be indices, {among}'max_activation' or 'all', got {name!r}.{hint}"
            )
    return np.array([known.index(name) for name in names.ravel().tolist()]).reshape(names.shape)


def _one_of_two(chosen: np.ndarray, count: int) -> tuple[Any, np.ndarray]:
    """Of a single neuron, the second class is its score, the first one the negative of that."""
    if len(set(chosen.ravel().tolist())) > 1:
        raise InvalidInputError(
            "A single neuron stands for two classes, of which one a call can be explained; call analyze once for each."
        )
    first = not chosen.ravel()[0]
    return (negative_score if first else "index"), np.full(count, BEST if first else 0)


def negative_score(y: Any) -> Any:
    """The score of the first of two classes that share a neuron (batch, 1)."""
    return -ops.reshape(y, (ops.shape(y)[0],))


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
                + (" With class_names=[a, b] both classes of a single neuron have names." if size == 1 else "")
            )
    flat = np.ravel_multi_index(tuple(index.T), dims or (1,)) if count else np.zeros(0)
    return np.asarray(flat, "int64")


def layer_names(
    wanted: bool | Sequence[str], known: Sequence[str], argument: str = "return_layers"
) -> tuple[str, ...]:
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
            near = difflib.get_close_matches(str(name), known, 3) or known
            raise InvalidInputError(
                f"{argument}: no single layer {name!r}; {'did you mean' if near is not known else 'known are'} "
                f"{', '.join(near)}."
            )
        found.append(matches[0])
    return tuple(found)


def one_layer(wanted: str, known: Sequence[str], more: bool) -> str:
    """The layer of which the attribution is asked for; ``more``: whether other layers or a trace are, too."""
    if not known:
        raise InvalidInputError(
            "layer: this method has no attribution of a layer. These do: gradient, input_t_gradient, smoothgrad, "
            "integrated_gradients, gradient_shap, guided_backprop, deconvnet, deep_lift, and all of LRP, Deep Taylor "
            "and the patterns. With others explain the part behind it: keras.Model(layer.output, model.output)."
        )
    if more:
        raise InvalidInputError("layer goes without return_layers and trace, which are about the whole walk.")
    return layer_names([wanted], known, "layer")[0]


def pack_like(x: Any, arrays: list[np.ndarray], structure: Any) -> Any:
    """The attributions in the structure of ``x``; None stands for a single array."""
    if isinstance(x, dict):
        keys = sorted(structure) if isinstance(structure, dict) else [_name(structure, i) for i in range(len(arrays))]
        named = dict(zip(keys, arrays, strict=True))
        return {k: named[k] for k in x}
    if len(arrays) == 1:
        wrapped = isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == arrays[0].ndim
        return [arrays[0]] if wrapped else arrays[0]
    return tuple(arrays) if isinstance(x, tuple) else arrays
