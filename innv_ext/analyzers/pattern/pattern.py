"""PatternNet and PatternAttribution (Kindermans et al. 2018): walks with learnt patterns in place of weights."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments, files
from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.core.reverse import RELU_HINT, TOKEN_RULES, ReverseAnalyzer, relus_in_sight
from innv_ext.analyzers.pattern.sums import TYPES, ActivationMoments, load_moments, moment_sums, save_moments
from innv_ext.backend import numerics
from innv_ext.backend.graph import Graph, Node
from innv_ext.backend.kinds import Kind
from innv_ext.backend.neurons import neurons_of
from innv_ext.backend.numerics import widen
from innv_ext.backend.predicates import general, kind_is
from innv_ext.backend.rules import Rules
from innv_ext.errors import DeadNeuronWarning, InvalidInputError

Tensor = Any
CHUNK_BYTES = 2**29  # of activations in one pass of ``fit``


@general
def in_sight(node: Node, graph: Graph) -> bool:
    """Every node but those that hide ReLUs, and recurrent layers, whose weights would act without patterns."""
    return node.kind is not Kind.RECURRENT and relus_in_sight(node, graph)


BESIDE_NEURONS = Rules(*TOKEN_RULES, (in_sight, node_rules.gradient, "gradient"))


@dataclass(kw_only=True, eq=False, repr=False)
class PatternNet(ReverseAnalyzer):
    """The gradient's walk with the pattern a of each neuron in place of its weights w.

    a = (E_m[x u] - E_m[x] E[u]) / (w . (E_m[x u] - E_m[x] E[u])) is the direction of the signal in the inputs x of a
    neuron, u = w . x without bias; m masks the samples (for convolutions: positions) where the neuron fires. What does
    not change u is noise, which weights must cancel and patterns do not show. The walk starts with f_c.

    Parameters
    ----------
    pattern_type : "relu" (m: u + b > 0), "relu.negative" (u + b <= 0 turned around), "linear" (all samples)
    patterns : {node name: array shaped like its kernel} instead of ``fit``, as in ``patterns_``

    Attributes
    ----------
    patterns_ : what ``fit`` learnt

    Examples
    --------
    >>> signal = innv_ext.create_analyzer("pattern.net", model).fit(X_train).analyze(x)
    """

    pattern_type: str = arguments.one_of(*TYPES)
    patterns: dict[str, np.ndarray] | None = None

    hint = (
        "Patterns are learnt of neurons in sight, not of those inside of recurrent layers, which would be others at "
        f"every step. {RELU_HINT}"
    )
    batchnorm_form = "fold"
    opens_loops = False  # there are no patterns of what is inside
    needs_fit = True
    learns, fit_instead = "the pattern of every neuron", "pass patterns="
    multiplies = False  # whether patterns are multiplied by the weights

    def prepare(self) -> None:
        self._affine = [node for node in self.graph_.nodes if node.kind is Kind.AFFINE]
        names = [node.name for node in self._affine]
        calls = [names[: i + 1].count(name) for i, name in enumerate(names)]  # a shared layer has a pattern for each
        self._keys = [name if call == 1 else f"{name}#{call}" for name, call in zip(names, calls, strict=True)]
        self._tensors: dict[int, Tensor] = {}

    def build(self) -> None:
        super().build()
        if self.patterns is not None:
            self._accept(self._checked_patterns(self.patterns))

    def table(self) -> Rules:
        """Patterns at affine nodes, the gradient elsewhere."""
        return Rules((kind_is(Kind.AFFINE), self._by_pattern, "pattern")).before(
            Rules((kind_is(Kind.BATCHNORM), self._scaling, "pattern of one input")).before(BESIDE_NEURONS)
        )

    def seed_relevance(self, y: Tensor, weights: Tensor) -> Tensor:
        return weights * y

    def _by_pattern(self, node: Node, xs: Any, ys: Any, rs: Any) -> Any:
        affine = node.call
        kernel = affine.kernel()
        pattern = ops.cast(self._tensors[node.index], kernel.dtype)
        used = kernel * pattern if self.multiplies else pattern
        x = affine.cast(xs[0], kernel)
        return [numerics.vjp(lambda t: affine.bilinear(t, used), x)[1](rs[0])[0]]

    def _scaling(self, node: Node, xs: Any, ys: Any, rs: Any) -> Any:
        """A batch normalisation that could not be folded: each neuron has one input, so w a = 1."""
        if self.multiplies:
            return [rs[0]]
        affine, x = node.call, widen(xs[0])
        gain = affine.bilinear(ops.ones_like(x), affine.kernel())
        return [numerics.safe_divide(rs[0], gain)]

    # --- fitting -------------------------------------------------------------------------------------------------

    def fit(
        self, X: Any, batch_size: int | None = None, *, resume_from: Any = None, save_every: int = 100
    ) -> PatternNet:
        """Learn the patterns, in one pass over the data.

        The sums are shifted by the means of the first batch and kept in float64, so that neither the order nor the
        size of the batches matters (beyond float32's rounding within a batch). Memory: two float64 arrays per kernel,
        and the activations of at most one batch, which is split where they would take more than half a GiB.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches
        batch_size : samples per batch of arrays; default: the analyzer's ``batch_size``
        resume_from : path of a state file (.npz), written every ``save_every`` batches and at the end. Where it exists,
            the fit goes on behind the batches that are in it: X must bring the same batches again, and the model must
            have the same weights
        save_every : batches between two states

        Raises
        ------
        InvalidInputError
            for data that don't fit the model, hold NaN (the batch is named) or are empty, and for a state of another
            model or pattern type; what was learnt before stays

        Warns
        -----
        DeadNeuronWarning
            for neurons that never fired, or whose output does not vary with any input: their pattern is 0
        """
        arguments.positive_int("save_every", save_every)
        neurons = tuple(neurons_of(node, self.graph_) for node in self._affine)
        path = None if resume_from is None else Path(resume_from)
        signature = "" if path is None else self._signature()
        moments, done = load_moments(path, signature) if path is not None and path.exists() else ([], 0)
        number = 0
        found = self.training_batches(X, batch_size, 1)
        name = self.registered_name_ or type(self).__name__
        for number, xs in enumerate(files.Progress(found, f"{name}.fit", self.progress)):
            if number < done:
                continue
            moments = moments or self._start(xs, neurons)
            for sums in self._sums(xs, neurons, [own.shift for own in moments]):
                for own in moments:
                    own.add(*sums.pop(0))  # freed one by one: together they are as large as the model
            if path is not None and (number + 1) % save_every == 0:
                save_moments(path, moments, number + 1, signature)
        if number + 1 < done:
            raise InvalidInputError(
                f"X has {number + 1} batches, but resume_from={str(path)!r} already holds {done}: other data, or "
                f"another batch_size?"
            )
        if path is not None:
            save_moments(path, moments, number + 1, signature)
        patterns, dead = {}, {}
        for key, node, own in zip(self._keys, self._affine, neurons, strict=True):
            kernel = ops.convert_to_numpy(node.call.kernel())
            pattern, silent = moments.pop(0).pattern(own, kernel)
            patterns[key] = pattern.astype(kernel.dtype)
            del pattern
            dead[key] = int(silent.sum())
        self._warn(dead, neurons)
        self._accept(patterns)
        return self

    def _start(self, xs: list[np.ndarray], neurons: Any) -> list[ActivationMoments]:
        sums = next(self._sums(xs, neurons, [np.zeros(own.count) for own in neurons]))
        shifts = [np.asarray(u, "float64") / float(count) for *_, u, count in sums]
        return [ActivationMoments.start(n.call.kernel().shape, s) for n, s in zip(self._affine, shifts, strict=True)]

    def _sums(self, xs: list[np.ndarray], neurons: Any, shifts: list[np.ndarray]) -> Iterator[list[Any]]:
        """What ``ActivationMoments.add`` takes, for a part of the samples at a time."""
        options = {"graph": self.graph_, "neurons": neurons, "sign": TYPES[self.pattern_type]}
        run, rows = self.compiled(moment_sums, options, [((None,), "float64")] * len(shifts)), self._chunk(xs)
        for start in range(0, len(xs[0]), rows):
            part = [x[start : start + rows] for x in xs]
            yield run(*part, np.zeros(len(part[0]), "int32"), *shifts)

    def _chunk(self, xs: list[np.ndarray]) -> int:
        """Samples whose activations fit into CHUNK_BYTES."""
        free = int(np.prod([d for x in xs for d in x.shape[1:]]))
        sizes = [
            np.prod([free if d is None else d for d in self.graph_.specs[s].shape[1:]], dtype=float)
            for node in self.graph_.nodes
            for s in node.outputs
        ]
        return max(1, min(len(xs[0]), int(CHUNK_BYTES / (4 * max(sum(sizes), 1)))))

    def _signature(self) -> str:
        """What a state file belongs to: pattern type, kernels and all weights, on which the activations depend."""
        weights = 0
        for weight in self.model.weights:
            weights = zlib.crc32(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes(), weights)
        shapes = [tuple(node.call.kernel().shape) for node in self._affine]
        kernels = ", ".join(f"{k} {s}" for k, s in zip(self._keys, shapes, strict=True))
        return f"{self.pattern_type}: {kernels}; weights {weights:08x}"

    def _warn(self, dead: dict[str, int], neurons: Any) -> None:
        total = sum(dead.values())
        if total:
            worst = sorted((k for k in dead if dead[k]), key=lambda k: -dead[k])
            listed = ", ".join(f"{k}: {dead[k]}" for k in worst[:5])
            warnings.warn(
                f"{total} of {sum(n.count for n in neurons)} neurons never fired on the data, or do not vary with "
                f"their input ({listed}{', ...' if len(worst) > 5 else ''}); their pattern is 0.",
                DeadNeuronWarning,
                stacklevel=3,
            )

    # --- the learnt state ----------------------------------------------------------------------------------------

    def _checked_patterns(self, given: dict[str, Any]) -> dict[str, np.ndarray]:
        if not isinstance(given, dict) or set(given) != set(self._keys):
            got = sorted(given) if isinstance(given, dict) else type(given).__name__
            raise InvalidInputError(f"patterns must have one array for each of {sorted(self._keys)}, got {got}.")
        found = {}
        for key, node in zip(self._keys, self._affine, strict=True):
            shape, array = tuple(node.call.kernel().shape), np.asarray(given[key])
            if array.shape != shape or not np.all(np.isfinite(array)):
                raise InvalidInputError(
                    f"patterns[{key!r}] must be finite numbers of shape {shape}, like the kernel; got {array.shape}."
                )
            found[key] = array
        return found

    def _accept(self, patterns: dict[str, np.ndarray]) -> None:
        self.set_state({f"{i}": patterns[key] for i, key in enumerate(self._keys)})

    def set_state(self, arrays: dict[str, Any]) -> None:
        super().set_state(arrays)
        self._tensors = {n.index: ops.convert_to_tensor(self.learnt_[f"{i}"]) for i, n in enumerate(self._affine)}
        self._compiled = {}  # walks hold the patterns that they were traced with

    @property
    def patterns_(self) -> dict[str, np.ndarray] | None:
        """{node name: pattern}, learnt or given."""
        return {key: self.learnt_[f"{i}"] for i, key in enumerate(self._keys)} if self.learnt_ else None


@dataclass(kw_only=True, eq=False, repr=False)
class PatternAttribution(PatternNet):
    """The gradient's walk with w * a in place of the weights w: how much each input contributes to the signal.

    See ``PatternNet`` for the patterns a.

    Parameters
    ----------
    pattern_type, patterns : see ``PatternNet``

    Examples
    --------
    >>> a = innv_ext.create_analyzer("pattern.attribution", model).fit(X_train)
    >>> relevance = a.analyze(x)
    """

    multiplies = True
