"""A model as all its analyzers see it, and what users pass to ``analyze``: samples, the choice of a neuron, layers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.backend import facts, numerics, passes, tracing, walk
from innv_ext.backend.graph import Graph, Spec
from innv_ext.backend.numerics import widen
from innv_ext.errors import InvalidInputError, UnsupportedModelError

BEST, ALL = -1, -2  # in place of the flat index of a neuron: the largest output, the sum of all
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


class Subject:
    """What all analyzers of one model share: its graph, the forms of it, and which of these were compared with it.

    Weights are not kept: functions read them when they run.
    """

    def __init__(self, model: keras.Model):
        self.input_structure = tracing.model_tensors(model)[0]
        self.graph = tracing.trace(model, facts.is_leaf)
        self.structure, self._kept = tracing.structure(model)
        self._held = [np.array(variable) for variable in self.graph.made_of]
        self._forms: dict[str, Graph] = {}
        self._checked: set[Any] = set()
        self.assigned: list[Any] = []  # variables that a call of the model assigns: states of recurrent layers

    def form(self, batchnorm: str) -> Graph:
        """The graph as ``passes.canonical`` gives it."""
        if batchnorm not in self._forms:
            self._forms[batchnorm] = passes.canonical(self.graph, batchnorm)
        return self._forms[batchnorm]

    def output_shape(self, model: keras.Model, position: int, xs: Sequence[np.ndarray]) -> tuple[int | None, ...]:
        """The shape of an output, worked out symbolically for inputs like ``xs`` where the model leaves sizes free."""
        shape = self.graph.specs[self.graph.outputs[position]].shape
        if None not in shape[1:]:
            return shape
        with tracing.untouched(model):
            symbols = [keras.KerasTensor((2, *x.shape[1:]), x.dtype.name) for x in xs]
            return tuple(walk.evaluate(self.graph, symbols)[position].shape)

    def is_stale(self) -> bool:
        """Whether variables whose values the graph holds (a slice of positions) have other values by now."""
        pairs = zip(self._held, self.graph.made_of, strict=True)
        return any(not np.array_equal(value, variable) for value, variable in pairs)

    def is_checked(self, batchnorm: str, position: int, dtypes: Sequence[str]) -> bool:
        """Whether this form was found right for this output and inputs of these dtypes."""
        return (batchnorm, position, tuple(dtypes)) in self._checked

    def check(self, model: keras.Model, batchnorm: str, position: int, xs: Sequence[np.ndarray], who: str) -> None:
        """Compare a form of the graph with the model on two samples, and on one alone, unless that was done before.

        Raises
        ------
        UnsupportedModelError
            if the model cannot be called with so many samples, or if a sample changes the output of another
        InnvError
            if the graph computes something else
        """
        key = (batchnorm, position, tuple(x.dtype.name for x in xs))
        if key in self._checked:
            return
        graph = self.form(batchnorm)
        graph = graph.rebuilt(graph.nodes, outputs=(graph.outputs[position],))
        own = [x.astype(graph.specs[s].dtype) for x, s in zip(xs, graph.inputs, strict=True)]
        dtypes = {graph.specs[s].dtype for node in graph.nodes for s in node.outputs}
        half = dtypes & {"float16", "bfloat16"}
        tolerance = 5e-2 if half else max(_TOLERANCE.get(d, 0.0) for d in dtypes | {"float64"})
        with tracing.untouched(model):
            try:
                with self._stateless(model):
                    outputs = model(tree.pack_sequence_as(self.input_structure, own), training=False)
                    expected = ops.convert_to_numpy(widen(tree.flatten(outputs)[position]))
                with self._stateless(model):
                    found = _evaluated(graph, xs)
                alone = _evaluated(graph, [x[:1] for x in xs]) if self.batch is None else expected[:1]
            except Exception as error:
                raise UnsupportedModelError(
                    f"The model cannot be called with a batch of {len(xs[0])} samples, or not with one alone: {error}. "
                    f"If a batch size is written into a layer, make it read ops.shape(x)[0] or give it to keras.Input."
                ) from error
        passes.check_equal([expected], [found], who, tolerance)
        if not passes.difference(expected[:1], alone) <= tolerance:
            raise UnsupportedModelError(
                "The output of a sample depends on the other samples in its batch, so that it has no map of its own. "
                "Give the model one input that holds all of what belongs together, or pass check_forward=False for "
                "maps that are of the whole batch."
            )
        self._checked.add(key)

    @property
    def batch(self) -> int | None:
        """The number of samples that the model takes at a time, if it is fixed."""
        return next((d for s in self.graph.inputs if (d := self.graph.specs[s].shape[0]) is not None), None)

    def whole_batches(self, count: int) -> int | None:
        """``batch``, of which ``count`` samples must be a multiple.

        Raises
        ------
        InvalidInputError
            if they are not
        """
        if self.batch is not None and count % self.batch:
            raise InvalidInputError(
                f"The model takes exactly {self.batch} samples at a time; x has {count}, which is no multiple of it."
            )
        return self.batch

    @contextlib.contextmanager
    def _stateless(self, model: keras.Model) -> Iterator[None]:
        """Put back what a call of the model assigns, and remember which variables these are."""
        variables = tracing.fixed_variables(model)
        before = [np.array(v) for v in variables]
        try:
            yield
        finally:
            for variable, value in zip(variables, before, strict=True):
                if not np.array_equal(value, variable):
                    variable.assign(value)
                    self.assigned.append(variable)


def _evaluated(graph: Graph, xs: Sequence[np.ndarray]) -> np.ndarray:
    return ops.convert_to_numpy(widen(walk.evaluate(graph, [ops.convert_to_tensor(x) for x in xs])[0]))


_SUBJECTS: weakref.WeakKeyDictionary[keras.Model, weakref.ref[Subject]] = weakref.WeakKeyDictionary()


def subject_of(model: keras.Model) -> Subject:
    """The ``Subject`` that analyzers of this model have already, or a new one if there is none or layers changed."""
    held = _SUBJECTS.get(model)
    found = held() if held is not None else None
    if found is None or found.is_stale() or found.structure != tracing.structure(model)[0]:
        found = Subject(model)
        _SUBJECTS[model] = weakref.ref(found)  # those who use it hold it, so that a model is never kept alive
    return found


def probe(spec: Spec) -> np.ndarray:
    """Two repeatable samples to compare the graph with the model; integers stay in the smallest vocabulary."""
    shape = (spec.shape[0] or 2, *(int(d) for d in spec.shape[1:] if d is not None))
    rng = np.random.default_rng(0)
    if not numerics.is_float(spec.dtype):
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.uniform(-1, 1, shape).astype(numerics.wide_dtype(spec.dtype))


# --- what users pass -----------------------------------------------------------------------------------------------


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


def _fits(shape: Sequence[int], spec: Spec) -> bool:
    own = spec.shape[1:]
    return len(shape) == len(own) + 1 and all(s is None or s == d for s, d in zip(own, shape[1:], strict=True))


def _checked(array: np.ndarray, spec: Spec, name: str, check: bool) -> np.ndarray:
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise InvalidInputError(f"x for {name!r} has dtype {array.dtype}; numbers are needed ({spec.dtype}).")
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
    target = "float32" if spec.dtype in ("float16", "bfloat16") else spec.dtype
    if not target.startswith("float"):  # token numbers
        whole = array.astype("int64")
        if array.dtype.kind == "f" and not np.array_equal(whole, array):
            raise InvalidInputError(f"x for {name!r} must hold whole numbers ({target}), got fractions.")
    return np.ascontiguousarray(array.astype(target))


def resolve_selection(mode: Any, selection: Any, count: int, shape: tuple[int | None, ...]) -> tuple[Any, np.ndarray]:
    """(mode, flat neuron per sample): BEST and ALL are neurons, too, so that mode is "index" or a function."""
    if isinstance(selection, str) and selection not in ("max_activation", "all"):
        raise InvalidInputError(f"neuron_selection must be indices, 'max_activation' or 'all', got {selection!r}.")
    if selection is not None and not isinstance(selection, str):
        return "index", _flat_index(selection, count, shape)
    if selection is None and isinstance(mode, str) and mode == "index" and count:
        raise InvalidInputError("neuron_selection_mode='index' needs an index: analyze(x, neuron_selection).")
    chosen = mode if selection is None else selection
    return chosen if callable(chosen) else "index", np.full(count, ALL if chosen == "all" else BEST, "int32")


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
