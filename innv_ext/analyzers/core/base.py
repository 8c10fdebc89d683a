"""The interface of every analyzer: fit, analyze, explain, save; input checks, neuron selection, batching."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from innv_ext import arguments, files
from innv_ext.analyzers.core import data, finite, request, saving, subject
from innv_ext.analyzers.core.explanation import Explanation, collected
from innv_ext.analyzers.core.tensor_map import TensorMap
from innv_ext.backend import numerics
from innv_ext.backend import tracing as graphs
from innv_ext.backend.graph import Graph, Spec
from innv_ext.errors import InvalidInputError, NotFittedError, SaveError, UnsupportedModelError

Selection = Any  # see ``Analyzer.analyze``


@dataclass(kw_only=True, eq=False, repr=False)
class Analyzer:
    """Base class of all analyzers.

    Parameters
    ----------
    model : built keras.Model; it is never changed
    neuron_selection_mode : "max_activation" (the largest output), "index" (then ``analyze(x, i)``), "all" (the sum
        of all outputs), or a function of the output tensor that returns one score per sample
    class_names : what ``analyze`` may call neurons; of a single neuron the first name is the class of its negative
    output : name or position of the output to explain, for models with several
    on : "logits" cuts a trailing softmax or sigmoid, "output" explains the model's output as it is
    batch_size : most samples in one forward pass, perturbed copies included
    progress : show a progress bar on work longer than three seconds
    seed : makes random methods repeatable
    check_input : refuse NaN and infinite values
    check_forward : compare the traced graph with the model when the analyzer is built
    jit_compile : compile with XLA (faster on accelerators, slower on most CPUs)

    Raises
    ------
    UnsupportedModelError
        if the model is not built, cannot be traced, or the method is not defined for it
    """

    model: keras.Model = field(kw_only=False)
    neuron_selection_mode: Any = arguments.one_of("max_activation", "index", "all", function=True)
    class_names: Sequence[str] | None = arguments.optional(list, tuple)
    output: str | int | None = None
    on: str = arguments.one_of("logits", "output")
    batch_size: int = arguments.count(32)
    progress: bool = arguments.flag(True)
    seed: int = arguments.count(0, least=0)
    check_input: bool = arguments.flag(True)
    check_forward: bool = arguments.flag(True)
    jit_compile: bool = arguments.flag(False)

    needs_fit = False  # whether the class learns from data; ``must_fit`` says whether the object has to
    learns, fit_instead = "from data", ""  # for the error of ``analyze`` before ``fit``
    not_finite = "the model or its gradient has no finite value there"  # why a map may hold NaN though the score is one

    def __post_init__(self) -> None:
        numerics.check_backend()
        if not isinstance(self.model, keras.Model):
            raise InvalidInputError(f"model must be a keras.Model, got {type(self.model).__name__}.")
        arguments.check_fields(self)
        self.check_parameters()
        self.learnt_: dict[str, np.ndarray] = {}  # by ``fit``; it is what is saved
        self.registered_name_: str | None = None
        self.registered_params_: dict[str, Any] = {}
        self._trace()

    def _trace(self) -> None:
        """Look at the model, and again when values changed that its graph holds."""
        self.subject_ = subject.subject_of(self.model)
        self.input_structure_ = self.subject_.input_structure
        self.graph_: Graph = self.subject_.graph
        self.output_position_ = request.output_position(self.model, self.graph_, self.output)
        self._explained = self.output_position_
        self.build()

    def check_parameters(self) -> None:
        """Refuse parameters that don't go together; each is what its field says, nothing is traced yet."""

    def build(self) -> None:
        """Prepare what does not depend on data; the graph is in ``graph_``."""

    # --- the public interface ------------------------------------------------------------------------------------

    def fit(self, X: Any, **kwargs: Any) -> Analyzer:
        """Learn from data; analyzers that need none return themselves.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches
        batch_size : samples that are read at once; default: the analyzer's, and for most methods at least 256

        Raises
        ------
        InvalidInputError
            for data that don't fit the model, hold NaN, or are empty; nothing is changed then
        """
        return self

    def analyze(
        self,
        x: Any,
        neuron_selection: Selection = None,
        *,
        layer: str | None = None,
        return_layers: bool | Sequence[str] = False,
        batch_size: int | None = None,
    ) -> Any:
        """Attribution of every input value to the selected output.

        Parameters
        ----------
        x : array (batch, ...); list or dict of arrays for several inputs
        neuron_selection : one index (or one of ``class_names``) for all samples, or one per sample, shape (batch,); a
            tuple index (or an array (batch, rank - 1)) for outputs of rank > 2; ("contrast", a, b): the score of a
            minus that of b; None follows ``neuron_selection_mode``
        layer : name of a layer (inside a nested model "outer/inner", or "inner" where that is unique): the attribution
            of what it gives to the output, in place of that of x; for methods of one backward walk, averaged gradients
            and ``deep_lift``
        return_layers : also return the relevance that arrives at the output of each layer (True), or of the named ones
        batch_size : overrides the analyzer's

        Returns
        -------
        numpy array shaped like x (list or dict as given), or (batch, ...) like what ``layer`` gives; with
        ``return_layers`` a pair (attribution, {name: array})

        Raises
        ------
        InvalidInputError
            for a wrong shape or dtype, NaN or infinite values, an index out of range, or a layer without attribution
        NotFittedError
            if the analyzer learns from data and ``fit`` was not called
        """
        found = self.explain(x, neuron_selection, layer=layer, return_layers=return_layers, batch_size=batch_size)
        return (found.attribution, found.extras["layers"]) if return_layers else found.attribution

    def explain(
        self,
        x: Any,
        neuron_selection: Selection = None,
        *,
        layer: str | None = None,
        return_layers: bool | Sequence[str] = False,
        trace: bool = False,
        batch_size: int | None = None,
    ) -> Explanation:
        """Like ``analyze``, with the output, the explained neuron and what else the method knows.

        ``trace=True`` adds ``extras["conservation"]``: per node, the relevance that is left over the explained score.
        """
        if trace and not self.layer_names():
            raise InvalidInputError(f"trace=True needs one backward walk, which {type(self).__name__} is not.")
        if not self.is_fitted():
            raise self.not_fitted()
        if self.subject_.is_stale():
            self._trace()
        explain = self.explain_batch
        if layer is not None:
            name = request.one_layer(layer, self.explained_layers(), bool(return_layers) or trace)
            explain = partial(self.explain_layer, name)
        size = arguments.positive_int("batch_size", self.batch_size if batch_size is None else batch_size)
        specs = self.input_specs()
        xs = request.standardize(x, self.input_structure_, specs, self.check_input)
        count = len(xs[0])
        size = self.subject_.whole_batches(count) or size
        shape = (None,) if neuron_selection is None else self.subject_.output_shape(self.model, self._explained, xs)
        chosen = neuron_selection, count, shape, self.class_names
        mode, index = request.resolve_selection(self.neuron_selection_mode, *chosen)
        options = {"mode": mode, "layers": request.layer_names(return_layers, self.layer_names()), "trace": trace}
        if count == 0:  # shapes come from one sample of zeros, which is cut off again
            xs = [request.empty(a, self.subject_.batch or 1) for a in xs]
            index = np.full(len(xs[0]), request.BEST)
        parts = []
        with contextlib.ExitStack() as stack, self.subject_.refusing(self.model, xs):
            stack.enter_context(graphs.untouched(self.model))
            if count == 0:  # nobody wants to hear about the sample of zeros
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            for rows in self._batches(len(xs[0]), size):
                parts.append(explain([a[rows] for a in xs], index[rows], size, **options))
        return self._collect(parts, x if layer is None else None, count)

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """Explain at most ``size`` samples: "attributions" (list), "output", "target", and per-sample extras.

        ``index`` has the flat neuron of each sample (``request.BEST``: the largest output, ``request.ALL``: the sum of
        all). ``options["mode"]`` is "index", or a function of the outputs that takes the neuron's place.
        """
        raise NotImplementedError

    def explain_layer(
        self, layer: str, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any
    ) -> dict[str, Any]:
        """Like ``explain_batch``, with the attribution of a layer as the only one of "attributions"."""
        found = self.explain_batch(xs, index, size, **{**options, "layers": (layer,)})
        relevance = found.pop("layers")[layer]
        return {**found, "attributions": [relevance]}

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """The map as a differentiable function of tensors, for samples of these shapes (one per input).

        ``mode`` is "index", "all" (the sum of all outputs) or a function of the outputs. ``GraphAnalyzer.on_graph``
        says on which graph.

        Raises
        ------
        UnsupportedModelError
            where the method has none
        """
        raise UnsupportedModelError(
            f"{self.registered_name_ or type(self).__name__} gives no map that can be differentiated. These do: all "
            f"methods of one backward walk (gradients, LRP, Deep Taylor, patterns), SmoothGrad, integrated gradients, "
            f"GradientSHAP, CAFO, CASO and MoreauGrad with their variants."
        )

    def per_input(self, value: Any, several: tuple[type, ...] = (list, tuple, dict)) -> list[Any]:
        """A parameter for each input: one of the types ``several`` holds one for each input of a model with several."""
        specs = self.input_specs()
        if isinstance(value, several) and len(specs) > 1:
            return request.flatten_inputs(value, self.input_structure_, specs)
        return [value] * len(specs)

    def layer_names(self) -> tuple[str, ...]:
        """The names that ``return_layers`` accepts; empty where the method has no relevance per layer."""
        return ()

    def explained_layers(self) -> tuple[str, ...]:
        """The names that ``layer`` accepts."""
        return self.layer_names()

    def is_fitted(self) -> bool:
        """Whether ``analyze`` may be called."""
        return bool(self.learnt_) or not self.must_fit()

    def must_fit(self) -> bool:
        """Whether the parameters leave something to learn."""
        return self.needs_fit

    def not_fitted(self) -> NotFittedError:
        """The error of ``analyze`` before ``fit``; ``fit_instead`` says what else would do."""
        other = f", or {self.fit_instead}" if self.fit_instead else ""
        return NotFittedError(
            f"{type(self).__name__} learns {self.learns}: call fit(X) with training data before analyze(x){other}."
        )

    def state(self) -> dict[str, np.ndarray]:
        """What ``fit`` learnt, as arrays."""
        return dict(self.learnt_)

    def set_state(self, arrays: dict[str, Any]) -> None:
        """Take over what ``fit`` found, or what was saved of it."""
        self.learnt_ = {name: np.asarray(array) for name, array in arrays.items()}

    def learnt_list(self, name: str) -> list[np.ndarray]:
        """The learnt arrays ``name0``, ``name1``, ..., one per input."""
        return [self.learnt_[f"{name}{i}"] for i in range(len(self.learnt_)) if f"{name}{i}" in self.learnt_]

    def get_params(self) -> dict[str, Any]:
        """The constructor's arguments without the model."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "model"}

    def save(self, path: Any) -> None:
        """Write model, parameters and learnt state to one archive; see ``innv_ext.load_analyzer``.

        Raises
        ------
        SaveError
            if a parameter is a function or an object that is neither built-in nor registered with
            ``keras.saving.register_keras_serializable``
        OSError
            if the file cannot be written
        """
        path = Path(path)
        files.write(path, lambda file: saving.write(self, file))

    def __reduce_ex__(self, protocol: Any) -> Any:
        cls = type(self).__name__
        raise SaveError(f"{cls} cannot be pickled or deep-copied: call innv_ext.register_analyzer(name, {cls}) first.")

    def __copy__(self) -> Analyzer:
        """A shallow copy on the same model; ``copy.deepcopy`` and ``pickle`` save and load, so the model is copied."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def summary(self) -> str:
        """What the analyzer does, in one line a node where it walks a graph."""
        return repr(self)

    def __repr__(self) -> str:
        changed = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.init and f.name != "model" and repr(getattr(self, f.name)) != repr(f.default)
        }
        shown = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        name = self.registered_name_ or type(self).__name__
        return f"{name}({self.model.name!r}{', ' + shown if shown else ''})"

    def __str__(self) -> str:
        return self.summary()

    def training_batches(self, X: Any, batch_size: int | None = None, least: int = 256) -> Iterator[list[np.ndarray]]:
        """What ``fit`` reads (see there): the inputs of the model, checked, one flat list of arrays per batch.

        ``batch_size`` is the analyzer's by default, and then at least ``least``.
        """
        size = arguments.positive_int("batch_size", max(self.batch_size, least) if batch_size is None else batch_size)
        return data.batches(X, self.input_structure_, self.input_specs(), size)

    def input_specs(self) -> list[Spec]:
        """Shapes and dtypes of the inputs as they are fed."""
        return [self.graph_.specs[s] for s in self.graph_.inputs]

    # --- helpers -------------------------------------------------------------------------------------------------

    def _batches(self, count: int, size: int) -> Iterator[slice]:
        """Slices of at most ``size`` samples."""
        name = self.registered_name_ or type(self).__name__
        for start in files.Progress(range(0, count, size), name, self.progress):
            yield slice(start, min(start + size, count))

    def _collect(self, parts: list[dict[str, Any]], x: Any, count: int) -> Explanation:
        arrays, output, target, extras = collected(parts, count, self.postprocess_array)
        attribution = request.pack_like(x, arrays, self.input_structure_)
        found = Explanation(attribution, output, target, self.finish_extras(extras))
        finite.tell(extras["finite"], found.score, self.registered_name_ or type(self).__name__, self.not_finite)
        return found

    def postprocess_array(self, attribution: np.ndarray) -> np.ndarray:
        """The last step on each attribution array."""
        return attribution

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """Add what follows from the joined extras."""
        return extras
