"""A model as all its analyzers see it."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.analyzers.core import request
from innv_ext.backend import facts, numerics, passes, tracing, walk
from innv_ext.backend.graph import Graph, Spec, TooShort
from innv_ext.backend.numerics import widen
from innv_ext.errors import InnvError, InvalidInputError, UnsupportedModelError

_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
_LONG, _FEW = 64, 11  # steps of sequences that are compared on fewer


class Subject:
    """What all analyzers of one model share: its graph, the forms of it, and which of these were compared with it.

    Weights are not kept: functions read them when they run.
    """

    def __init__(self, model: keras.Model, lengths: Sequence[int] = ()):
        self.input_structure = tracing.model_tensors(model)[0]
        self.graph = tracing.trace(model, facts.is_leaf, lengths)
        self._limited = tracing.is_limited(self.graph)
        self._fitting: set[Any] = set()  # shapes of samples
        self.structure, self._kept = tracing.structure(model)
        self._held = [(variable, np.array(variable)) for variable in self.graph.made_of]
        self._fullest = passes.fullest(self.graph)
        self._forms: dict[passes.Form, Graph] = {}
        self._checked: set[Any] = set()
        listed = set(map(id, model.variables))
        # variables that a call of the model assigns: states of recurrent layers, and what else is seen to change
        self.assigned = [v for v in tracing.fixed_variables(model) if id(v) not in listed]

    def form(self, form: passes.Form = passes.PLAIN) -> Graph:
        """The graph as ``passes.canonical`` gives it."""
        key = form.within(self._fullest)  # so that methods share it
        if key not in self._forms:
            graph = self._forms[key] = passes.canonical(self.graph, key)
            known = {id(variable) for variable, _ in self._held}
            self._held.extend((v, np.array(v)) for v in graph.made_of if id(v) not in known)
        return self._forms[key]

    def output_shape(self, model: keras.Model, position: int, xs: Sequence[np.ndarray]) -> tuple[int | None, ...]:
        """The shape of an output, worked out symbolically for inputs like ``xs`` where the model leaves sizes free."""
        shape = self.graph.specs[self.graph.outputs[position]].shape
        if None not in shape[1:]:
            return shape
        with self.refusing(model, xs):
            return tuple(self._symbolic(model, xs)[position].shape)

    def _symbolic(self, model: keras.Model, xs: Sequence[np.ndarray]) -> list[keras.KerasTensor]:
        """The outputs for samples like ``xs``, without computing them."""
        symbols = [keras.KerasTensor((2, *x.shape[1:]), request.dtype_of(x)) for x in xs]
        with tracing.untouched(model), tracing.sizes_told():
            return walk.evaluate(self.graph, symbols)

    def fits(self, model: keras.Model, xs: Sequence[np.ndarray]) -> bool:
        """Whether the graph knows its constants (positions, causal masks) for samples as long as these.

        If not, ``subject_of(model, xs)`` does.
        """
        shapes = tuple(x.shape[1:] for x in xs)
        if self._limited and shapes not in self._fitting:
            try:
                self._symbolic(model, xs)
            except TooShort:
                return False
            except Exception:  # whatever a foreign call() raises on KerasTensors
                pass
            self._fitting.add(shapes)
        return True

    @contextlib.contextmanager
    def refusing(self, model: keras.Model, xs: Sequence[np.ndarray]) -> Iterator[None]:
        """Say of whatever else fails within it that x does not fit, if the model cannot be called on it.

        Raises
        ------
        InvalidInputError
            for lengths that no input declares, but a table of positions has
        """
        try:
            yield
        except InnvError:
            raise
        except Exception as error:
            self.refuse_too_long(model, xs, error)
            raise

    def refuse_too_long(self, model: keras.Model, xs: Sequence[np.ndarray], error: Exception) -> None:
        """Raise InvalidInputError if the model cannot be called on samples like these."""
        flat = [ops.convert_to_tensor(x[:1]) for x in xs]
        try:
            with tracing.untouched(model), self._stateless(model):
                model(tree.pack_sequence_as(self.input_structure, flat), training=False)
        except Exception:
            shapes = ", ".join(str(x.shape[1:]) for x in xs)
            raise InvalidInputError(
                f"{model.name!r} cannot be called on samples of shape {shapes}. Shorten what is longer than the "
                f"model takes (a table of positions has a last one). {type(error).__name__}: {error}"
            ) from error

    def refuse_strings(self, who: str) -> None:
        """Raise UnsupportedModelError where an input takes strings, for methods that do more than call the model."""
        for i, slot in enumerate(self.graph.inputs):
            if self.graph.specs[slot].dtype == "string":
                readers = ", ".join(n.name for n in self.graph.consumers()[slot])
                raise UnsupportedModelError(
                    f"Input {i} takes strings, but {who} needs numbers. 'occlusion', 'lime' and 'kernel_shap' replace "
                    f"whole strings, innv_ext.text.explain tells the tokens of texts; for others take the part of the "
                    f"model behind {readers}, on what is computed there."
                )

    def is_stale(self) -> bool:
        """Whether variables whose values the graph holds (a slice of positions) have other values by now."""
        return any(not np.array_equal(value, variable) for variable, value in self._held)

    def is_checked(self, form: passes.Form, position: int, dtypes: Sequence[str]) -> bool:
        """Whether this form was found right for this output and inputs of these dtypes."""
        return (form.within(self._fullest), position, tuple(dtypes)) in self._checked

    def check(self, model: keras.Model, form: passes.Form, position: int, xs: Sequence[np.ndarray], who: str) -> None:
        """Compare a form of the graph with the model on some samples, and on one alone, unless that was done before.

        Raises
        ------
        UnsupportedModelError
            if the model cannot be called with so many samples, or if a sample changes the output of another
        InnvError
            if the graph computes something else
        """
        key = (form.within(self._fullest), position, tuple(request.dtype_of(x) for x in xs))
        if key in self._checked:
            return
        graph = self.form(form)
        graph = graph.rebuilt(graph.nodes, outputs=(graph.outputs[position],))
        dtypes = {graph.specs[s].dtype for node in graph.nodes for s in node.outputs}
        half = dtypes & {"float16", "bfloat16"}
        tolerance = 5e-2 if half else max(_TOLERANCE.get(d, 0.0) for d in dtypes | {"float64"})
        with tracing.untouched(model):
            if self._agree_on_few_steps(model, graph, position, xs, tolerance):
                self._checked.add(key)
                return
            try:
                expected, found, alone = self._both(model, model, graph, position, xs)
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

    def _agree_on_few_steps(
        self, model: keras.Model, graph: Graph, position: int, xs: Sequence[np.ndarray], tolerance: float
    ) -> bool:
        """Whether graph and model agree on the first steps of xs, if the model takes fewer than it declares.

        Most networks on sequences do, and the whole length takes as long as an explanation. Where it is not declared,
        the graph has something to say about lengths, and is compared at the one that is asked for.
        """
        specs = [self.graph.specs[s] for s in self.graph.inputs]
        long = [len(s.shape) == (3 if numerics.is_float(s.dtype) else 2) for s in specs]
        lengths = {s.shape[1] for s, cut in zip(specs, long, strict=True) if cut}
        fixed = all(None not in s.shape[1:] for s in specs)
        if not fixed or len(lengths) != 1 or max(lengths) < _LONG:
            return False
        sizes = {d for spec in graph.specs.values() for d in spec.shape}
        few = next(n for n in itertools.count(_FEW) if n not in sizes)
        try:
            short = [x[:, :few] if cut else x for x, cut in zip(xs, long, strict=True)]
            # call() alone does not insist on the declared shape
            expected, found, alone = self._both(model, model.call, graph, position, short)
        except Exception:  # whatever a foreign call() raises on shapes that it was not made for
            return False
        alike = max(passes.difference(expected, found), passes.difference(expected[:1], alone)) <= tolerance
        return bool(alike and np.isfinite(expected).all())

    def _both(
        self, model: keras.Model, call: Callable[..., Any], graph: Graph, position: int, xs: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the model gives for xs, what the graph gives, and what that gives for the first sample alone."""
        own = [request.as_dtype(x, graph.specs[s].dtype) for x, s in zip(xs, graph.inputs, strict=True)]
        with self._stateless(model):
            outputs = call(tree.pack_sequence_as(self.input_structure, own), training=False)
            expected = ops.convert_to_numpy(widen(tree.flatten(outputs)[position]))
        with self._stateless(model):
            found = _evaluated(graph, xs)
        return expected, found, _evaluated(graph, [x[:1] for x in xs]) if self.batch is None else expected[:1]

    @property
    def probes(self) -> int:
        """A number of samples that is no other size: keras.ops.add takes (n, 1, 1) for a bias of n channels."""
        sizes = {d for spec in self.graph.specs.values() for d in spec.shape[1:]}
        return self.batch or next(n for n in itertools.count(2) if n not in sizes)

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
                    if all(variable is not known for known in self.assigned):
                        self.assigned.append(variable)


def _evaluated(graph: Graph, xs: Sequence[np.ndarray]) -> np.ndarray:
    return ops.convert_to_numpy(widen(walk.evaluate(graph, [ops.convert_to_tensor(x) for x in xs])[0]))


_SUBJECTS: weakref.WeakKeyDictionary[keras.Model, weakref.ref[Subject]] = weakref.WeakKeyDictionary()


def subject_of(model: keras.Model, xs: Sequence[np.ndarray] = ()) -> Subject:
    """The ``Subject`` that analyzers of this model have already, or a new one if there is none or layers changed.

    It knows its constants for samples as long as those of ``xs``, see ``Subject.fits``.
    """
    held = _SUBJECTS.get(model)
    found = held() if held is not None else None
    if found is None or found.is_stale() or found.structure != tracing.structure(model)[0]:
        found = Subject(model)
    if xs and not found.fits(model, xs):
        lengths = found.graph.lengths(xs)
        found = Subject(model, sorted(lengths))
        if not found.fits(model, xs):
            error = UnsupportedModelError(
                f"What {model.name!r} makes of the length of its input is not known for {max(lengths)} steps; take "
                f"fewer, or give keras.Input a fixed length."
            )
            found.refuse_too_long(model, xs, error)
            raise error
    if held is None or found is not held():
        _SUBJECTS[model] = weakref.ref(found)  # those who use it hold it, so that a model is never kept alive
    return found


def probe(spec: Spec, count: int) -> np.ndarray:
    """Repeatable samples to compare the graph with the model; integers stay in the smallest vocabulary."""
    shape = (count, *(int(d) for d in spec.shape[1:] if d is not None))
    rng = np.random.default_rng(0)
    if not numerics.is_float(spec.dtype):
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.uniform(-1, 1, shape).astype(numerics.wide_dtype(spec.dtype))
