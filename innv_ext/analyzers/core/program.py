"""Base of all analyzers that work on the rewritten graph of the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext import files
from innv_ext.analyzers.core import closed, subject
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.core.request import ALL, BEST
from innv_ext.backend import constants, facts, numerics, passes, walk
from innv_ext.backend.graph import Graph, Node, Spec, op_key
from innv_ext.backend.kinds import STEPS, Kind
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.backend.predicates import not_differentiable
from innv_ext.backend.rewrites.squash import cut_softmax, kept_inside
from innv_ext.errors import InnvError, InvalidInputError, ProbabilityWarning, UnsupportedModelError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class GraphAnalyzer(Analyzer):
    """An analyzer with the graph of one output, its activations split off and a trailing softmax cut.

    Subclasses say in ``batchnorm_form`` how they want batch normalisation, call ``compiled`` for their functions of
    tensors, and may check the model in ``check_model``.
    """

    batchnorm_form = "linear"
    attention_steps = False  # whether attention is split into scores, softmax and weighted sum
    propagates = True
    takes_strings = False  # whether an input may hold strings: the method only calls the model
    one_pass = False  # whether the model is called once for each sample, with no other versions of it
    through_steps = False  # whether the method has something to say at floor, round ..., which have no gradient
    opens_loops = False  # whether recurrent layers are loops over the nodes of one step, see ``rewrites.loops``
    behind_embeddings = False  # whether ``graph_`` starts behind the embeddings of token inputs, which are in ``head_``

    def check_model(self, graph: Graph) -> None:
        """Refuse models for which the method is not defined."""

    def prepare(self) -> None:
        """A last rewrite of ``graph_``."""

    def bind(self) -> None:
        """Bind rules to the nodes of the final graph."""

    def build(self) -> None:
        """Rewrite the graph and check that it still computes what the model does; compile nothing yet."""
        if not self.takes_strings:
            self.subject_.refuse_strings(type(self).__name__)
        self._whole = graph = self.subject_.form(self._form)
        graph = graph.rebuilt(graph.nodes, outputs=(graph.outputs[self._explained],))
        self.output_position_ = 0
        if self.subject_.batch is not None and not self.one_pass:
            raise UnsupportedModelError(
                f"The model takes exactly {self.subject_.batch} samples at a time, but {self!r} looks at several "
                f"versions of a sample at once. Build the model without a fixed batch size (keras.Input(shape)), or "
                f"use a method of one backward walk such as 'gradient'."
            )
        self.cut_: tuple[str, ...] = ()
        if self.on == "logits":
            graph, self.cut_ = cut_softmax(graph)
            self._warn_of_probabilities(kept_inside(graph))
        self.graph_ = _as_fed(graph)
        if self.propagates:
            _check_reachable(self.graph_, self.through_steps)
        else:
            _check_sizes(self.graph_)
        self.check_model(self.graph_)
        self.head_ = Graph((), self.graph_.inputs, self.graph_.inputs, self.graph_.specs, {})
        if self.behind_embeddings:
            self.head_, self.graph_ = passes.split_embeddings(self.graph_)
            _check_split(self.graph_)
        self.prepare()
        self.bind()
        self._vocabulary = facts.vocabularies(self._whole)
        self._closing = closed.closing_inputs(self._whole)
        self._compiled: dict[Any, Compiled] = {}
        fed = self.input_specs()
        dtypes = [numerics.wide_dtype(s.dtype) if numerics.is_float(s.dtype) else s.dtype for s in fed]
        self._checked = not self.check_forward or self.subject_.is_checked(self._form, self._explained, dtypes)
        known = all(None not in spec.shape[1:] and spec.dtype != "string" for spec in fed)
        if not self._checked and known:  # which strings a model takes is not known
            own = [replace(s, dtype=self._whole.specs[i].dtype) for s, i in zip(fed, self._whole.inputs, strict=True)]
            count = self.subject_.probes
            self._check([subject.probe(s, count).astype(d) for s, d in zip(own, dtypes, strict=True)])

    @property
    def _form(self) -> passes.Form:
        return passes.Form(self.batchnorm_form, self.attention_steps, self.opens_loops)

    def _warn_of_probabilities(self, kept: Sequence[str]) -> None:
        if kept:
            warnings.warn(
                f"{', '.join(kept)} cannot be cut, because its values are averaged or joined with others before the "
                f"output: the map explains probabilities, not logits. Explain one of the branches, or pass "
                f"on='output' to say that this is meant.",
                ProbabilityWarning,
                stacklevel=6,
            )

    def _check(self, xs: Sequence[np.ndarray]) -> None:
        self.subject_.check(self.model, self._form, self._explained, xs, repr(self))
        self._checked = True

    def check_once(self, xs: Sequence[np.ndarray]) -> None:
        """Check numbers of tokens and masks, and the rewritten graph if free dimensions put that off so far.

        Raises
        ------
        InvalidInputError
            for tokens that an embedding does not know
        """
        self.check_tokens(xs)
        closed.tell(self._closing, xs, self.registered_name_ or type(self).__name__)
        if not self._checked:
            count = self.subject_.probes
            cycled = [x[np.arange(count) % len(x)] for x in xs]
            self._check([np.concatenate([x[:1], np.roll(x[1:], 1, axis=-1)]) for x in cycled])  # beside other samples

    def check_tokens(self, xs: Sequence[np.ndarray]) -> None:
        """Raise InvalidInputError for tokens that an embedding does not know."""
        for i, (rows, name) in self._vocabulary.items():
            if xs[i].size and not (xs[i].min() >= 0 and xs[i].max() < rows):
                raise InvalidInputError(
                    f"x for input {i} holds token numbers from {xs[i].min()} to {xs[i].max()}, but the table of "
                    f"{name!r} has {rows} rows (0..{rows - 1})."
                )

    def input_specs(self) -> list[Spec]:
        """What is fed: tokens where the model takes tokens."""
        return [self.head_.specs[s] for s in self.head_.inputs]

    def embedded(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """What ``graph_`` starts from: the inputs, or the vectors of tokens."""
        return walk.evaluate(self.head_, list(xs))

    def at_x(self, xs: Sequence[np.ndarray], index: np.ndarray, mode: Any) -> dict[str, np.ndarray]:
        """ "output", "score" and "target" at x: the neuron of each sample, chosen if it was not given."""
        return tree.map_structure(np.asarray, self.compiled(self._at_x, {"mode": mode})(*xs, index))

    def _at_x(self, xs: list[Tensor], index: Tensor, mode: Any) -> dict[str, Tensor]:
        y = widen(walk.evaluate(self.graph_, self.embedded(xs))[0])
        _, score, target = select(y, index, mode)
        return {"output": y, "target": target, "score": score}

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """Choose the neuron at x, and keep to it wherever the method looks."""
        self.check_once(xs)
        start = self.at_x(xs, index, options["mode"])
        return {**start, **self.attribute(xs, start, size, options["mode"])}

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """ "attributions" (list) and extras per sample; ``start`` is what ``at_x`` found."""
        raise NotImplementedError

    def scores(
        self,
        run: Callable[..., Any],
        versions: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
        count: int,
        target: np.ndarray,
        size: int,
        draws: int = 1,
    ) -> np.ndarray:
        """The scores of ``count`` versions of each sample, (batch, count), each the mean over ``draws``; float64.

        Parameters
        ----------
        run : the compiled score of versions and neurons
        versions : (rows, which) -> for every k draw ``which[k] % draws`` of version ``which[k] // draws`` of sample
            ``rows[k]``, what ``run`` takes of them; asked for at most ``size`` of them at once
        target : neuron of each sample
        """
        each = count * draws
        total, found = len(target) * each, np.zeros(len(target) * count)
        name = f"{self.registered_name_ or type(self).__name__}: forward passes"
        for first in files.Progress(range(0, total, size), name, self.progress):
            numbers = np.arange(first, min(first + size, total))
            rows, which = np.divmod(numbers, each)
            scores, place = np.asarray(run(*versions(rows, which), target[rows])), numbers // draws
            found[place[0] : place[-1] + 1] += np.bincount(place - place[0], scores)
        return found.reshape(len(target), count) / draws

    def compiled(self, function: Callable[..., Any], options: dict[str, Any], extra: Sequence[Any] = ()) -> Compiled:
        """``function(xs, index, *extra, **options)`` compiled for these options with a free batch dimension."""
        key = (function.__name__, *options.values())
        if key not in self._compiled:
            specs = [(spec.shape, spec.dtype) for spec in self.input_specs()]
            count = len(specs)

            def run(*args: Tensor) -> Any:
                return function(list(args[:count]), *args[count:], **options)

            self._compiled[key] = Compiled(
                numerics.restoring(run, self.subject_.assigned) if self.subject_.assigned else run,
                [*specs, ((None,), "int64"), *extra],
                self.jit_compile,
            )
        return self._compiled[key]

    def on_graph(self, graph: Graph) -> GraphAnalyzer:
        """A copy of this analyzer on another graph of the same nodes, e.g. with smooth activations."""
        other = copy.copy(self)
        other.graph_, other._compiled = graph, {}
        return other

    def head(self) -> str:
        """The first line of a summary."""
        return repr(self) + (f"; {', '.join(self.cut_)} cut" if self.cut_ else "; explains the model's output as it is")


def select(y: Tensor, index: Tensor, mode: Any = "index") -> tuple[Tensor, Tensor, Tensor]:
    """(d score / d y, score, flat index of the neuron) for outputs y (batch, ...).

    Parameters
    ----------
    index : flat index (batch,), or number of a contrast; ``BEST`` for the largest output, ``ALL`` for the sum of all
    mode : "index"; "all", whatever the index; or a function of y that gives the score
    """
    count = ops.shape(y)[0]
    if callable(mode):
        (score,), pullback = numerics.vjp(mode, numerics.identity(y))
        if len(score.shape) != 1:
            raise InnvError(f"The target function must return one score per sample, shape (batch,), got {score.shape}.")
        return pullback(ops.ones_like(score))[0], score, index
    flat = ops.reshape(y, (count, -1))
    index = ops.full_like(index, ALL) if isinstance(mode, str) and mode == "all" else index
    target = ops.where(index == BEST, ops.cast(ops.argmax(flat, axis=1), index.dtype), index)
    neurons = ops.cast(ops.shape(flat)[1], index.dtype)
    places, pair = ops.cast(ops.arange(ops.shape(flat)[1]), index.dtype)[None], target >= neurons
    hot = ops.equal(places, ops.where(pair, target % neurons, target)[:, None])
    less = ops.equal(places, ops.where(pair, target // neurons - 1, -1)[:, None])
    weights = ops.cast(ops.logical_or(hot, (target == ALL)[:, None]), y.dtype) - ops.cast(less, y.dtype)
    return ops.reshape(weights, ops.shape(y)), ops.sum(weights * flat, axis=1), target


def check_float_inputs(graph: Graph, what: str, instead: str = "") -> None:
    """Refuse token inputs for methods that move inputs continuously: ``what`` does so, ``instead`` is another way."""
    for slot in graph.inputs:
        if not numerics.is_float(graph.specs[slot].dtype):
            raise UnsupportedModelError(
                f"{what}, but input {graph.inputs.index(slot)} takes {graph.specs[slot].dtype} numbers (tokens). "
                f"{instead}Explain the part of the model behind the embedding: keras.Model(embedding_output, "
                f"model.output)."
            )


def _check_split(graph: Graph) -> None:
    """Refuse tables that look up numbers which were computed or chosen before: nothing can take the vectors' place.

    What is looked up by a mask (positions that are counted), or by a choice (codes), has no vectors of its own.
    """
    numbers, tables = set(graph.inputs), []
    for node in graph.nodes:
        if numbers.intersection(node.inputs):
            tables += [node] if node.kind is Kind.EMBEDDING else []
            truth = node.kind is Kind.DISCRETE or any(graph.specs[s].dtype == "bool" for s in node.outputs)
            numbers.update(() if truth else node.outputs)
    if tables:
        names = ", ".join(n.name for n in tables)
        raise UnsupportedModelError(
            f"{names}: the numbers that are looked up are not those of an input, but computed or chosen from them "
            f"(where, arithmetic), so that no reference can take the place of their vectors. Methods of one backward "
            f"walk ('gradient', 'input_t_gradient'), or those that only call the model ('occlusion'), need none."
        )


def _as_fed(graph: Graph) -> Graph:
    """Token numbers and masks are fed as integers, others (pixels 0..255) as floats, so that they get a gradient."""
    users, specs, tokens = graph.consumers(), dict(graph.specs), facts.token_inputs(graph)
    masks = constants.masks(graph)
    for slot in graph.inputs:
        kinds, real = {n.kind for n in users[slot]}, numerics.is_float(specs[slot].dtype)
        if specs[slot].dtype == "string":
            continue
        if slot in tokens and real:
            specs[slot] = Spec(specs[slot].shape, "int32")
        elif not (real or slot in tokens or kinds <= {Kind.DISCRETE, Kind.OPAQUE} or slot in masks):
            specs[slot] = Spec(specs[slot].shape, "float32")
    return replace(graph, specs=specs)


def _tried(node: Node, graph: Graph, run: Callable[..., Any]) -> Any:
    """``run(call, specs)`` for a node of foreign code, or UnsupportedModelError if that takes no free sizes."""
    try:
        return run(node.call, [(graph.specs[s].shape, graph.specs[s].dtype) for s in node.inputs])
    except Exception as error:
        raise UnsupportedModelError(
            f"{node.name} ({op_key(node.op)}) cannot be run on tensors of free sizes, as it is when a function of "
            f"TensorFlow is made of it: {error}. Give keras.Input fixed sizes, or write the layer with keras.ops."
        ) from error


def _check_sizes(graph: Graph) -> None:
    """Refuse layers of foreign code that only take numbers of Python for sizes which the model leaves free."""
    for node in graph.nodes:
        if node.kind is Kind.OPAQUE and any(None in graph.specs[s].shape[1:] for s in node.inputs):
            _tried(node, graph, numerics.run_symbolically)


def _check_reachable(graph: Graph, through_steps: bool) -> None:
    """Refuse models where all that an input does goes through nodes without a gradient.

    These are hashing, look-ups, rounding and casts to integers; an input that is only compared or cast is a mask, which
    gets zeros beside other inputs.
    """
    smooth, any_path = set(graph.outputs), set(graph.outputs)
    closed_at: list[tuple[Node, set[int]]] = []  # the inputs that get nothing from a node, from the last node on
    for node in reversed(graph.nodes):
        if any_path.intersection(node.outputs):
            any_path.update(node.inputs)
        if not smooth.intersection(node.outputs):
            continue
        open_slots = {s for s in node.inputs if numerics.is_float(graph.specs[s].dtype)}
        if node.kind in (Kind.EMBEDDING, Kind.TOKENS):
            open_slots = set(node.inputs)
        elif not_differentiable(node, graph):
            open_slots = set()
        elif node.kind in (Kind.OPAQUE, Kind.DISCRETE) and not (through_steps and op_key(node.op) in STEPS):
            dead = _tried(node, graph, numerics.without_gradient)
            open_slots -= {s for i, s in enumerate(node.inputs) if i in dead}
        smooth.update(open_slots)
        closed_at.append((node, {*node.inputs} - open_slots))
    blocked = [slot for slot in graph.inputs if slot in any_path and slot not in smooth]
    beside = [(slot, n) for slot, n in facts.beside_tokens(graph) if any_path.intersection(n.outputs) and not blocked]
    blocked = blocked or [slot for slot, _ in beside[:1]]
    if smooth.intersection(graph.inputs):
        masks = constants.masks(graph) - facts.token_inputs(graph)
        blocked = [slot for slot in blocked if slot not in masks]
    if blocked:
        reached = graph.reached(blocked[0])
        blocking = [n for _, n in beside[:1]] or [n for n, slots in reversed(closed_at) if slots & reached]
        names = ", ".join(f"{n.name} ({op_key(n.op)})" for n in blocking)
        raise UnsupportedModelError(
            f"No gradient reaches input {graph.inputs.index(blocked[0])}, because {names} has none. Explain the "
            f"part of the model behind it: keras.Model(layer.output, model.output)."
        )
