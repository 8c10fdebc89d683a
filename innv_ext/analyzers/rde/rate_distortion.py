"""What all Rate-Distortion Explanations share: the reference distribution, the distortion, features, the solve."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext import arguments, optim
from innv_ext.analyzers.core.program import GraphAnalyzer, check_float_inputs
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.parts.partition import partition
from innv_ext.analyzers.parts.replacement import Custom
from innv_ext.analyzers.rde import masks, tokens
from innv_ext.analyzers.rde.distortion import Distortion, Problem
from innv_ext.analyzers.rde.reference import KINDS, LEARNT, Reference, learn
from innv_ext.backend import facts, numerics
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph, run
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError, NonFiniteWarning

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class RateDistortion(GraphAnalyzer):
    """Base of all Rate-Distortion Explanations.

    D(s) = E_v (score(x) - score(s x + (1 - s) v))^2 over v from a reference distribution V.

    Parameters
    ----------
    reference : V. "gaussian": mean and variance of each component, from ``fit(X)`` or ``mean=`` and ``variance=``;
        "low_rank": the ``rank`` leading principal directions of ``fit(X)``; "full": the covariance matrix of
        ``fit(X)``, for small inputs; "uniform" over [min x, max x] of each sample; "constant": ``mean=`` (default 0);
        "vocabulary": rows of the table of an embedding, each as likely as any other, with features="token";
        or a function ``(x (batch, ...), samples, rng) -> (batch, samples, ...)``, with distortion="monte_carlo"
    mean, variance : numbers or arrays that broadcast to one sample
    rank : directions of "low_rank"
    distortion : "adf": by assumed density filtering, deterministic, one forward pass of moments; "monte_carlo": by
        ``samples`` draws, the same in every evaluation of a solve; for any model
    samples : draws per evaluation
    features : "component", "pixel" (one s for all channels), "token", or an integer array of labels (superpixels, or
        words of tokens). "token": one s for each token, or for each step of a sequence of floats. Noise replaces the
        vectors that embeddings give: ``fit`` learns mean and variance of the components of all vectors together, the
        padding of ``mask_zero`` aside; ``mean`` and ``variance`` are those of vectors, x of a sampler holds vectors.
        Numbers stay what they are for masks, and inputs called "segment_ids" or "token_type_ids" stay as a whole
    moment_rules : ``Rules`` of your own before the built-in moment rules
    start : where solvers start: "deviation": at s proportional to E (x - v)^2 (capped at 1), which leads to much better
        local minima than "uniform" (the same s everywhere, the paper's)
    solver, step, max_iter, tol : see the subclasses; a solve makes at most ``max_iter + 1`` evaluations of value and
        gradient per problem and stops where the dual gap is at most ``tol``
    """

    reference: Any = arguments.one_of(*KINDS, function=True)
    mean: Any = None
    variance: Any = None
    rank: int = arguments.count(16)
    distortion: str = arguments.one_of("adf", "monte_carlo")
    samples: int = arguments.count(16)
    features: Any = "component"
    moment_rules: Rules | None = arguments.optional(Rules)
    start: str = arguments.one_of("deviation", "uniform")
    max_iter: int = arguments.count(50, least=0)
    tol: float = arguments.at_least(0, 1e-7)

    batchnorm_form = "fold"
    needs_fit = True
    learns = "the reference distribution, draws of which replace components"
    fit_instead = "pass mean= and variance= (or reference='uniform'; with features='token' 'vocabulary')"

    @property
    def _filters(self) -> bool:
        return self.distortion == "adf"

    attention_steps = opens_loops = _filters  # moment rules are those of single steps

    # --- building ------------------------------------------------------------------------------------------------

    def check_parameters(self) -> None:
        if callable(self.reference) and self.distortion != "monte_carlo":
            raise InvalidInputError("A reference sampler has no moments: pass distortion='monte_carlo'.")
        if self.reference != "gaussian" and self.variance is not None:
            raise InvalidInputError(f"variance= belongs to reference='gaussian', not to {self.reference!r}.")
        if self.reference not in ("gaussian", "constant") and self.mean is not None:
            raise InvalidInputError(f"mean= belongs to reference='gaussian' or 'constant', not to {self.reference!r}.")
        if self.reference == "gaussian" and (self.mean is None) != (self.variance is None):
            raise InvalidInputError("Give mean= and variance= together, or neither and call fit(X).")

    def check_model(self, graph: Graph) -> None:
        named = isinstance(self.features, str)
        self.behind_embeddings = self.features == "token" if named else bool(facts.token_inputs(graph))
        if not self.behind_embeddings:
            self._moving = [(i, i) for i in range(len(graph.inputs))]
            instead = "Pass features='token', with one value for the vector of each token. "
            check_float_inputs(graph, f"{type(self).__name__} mixes inputs with noise", instead)
        self._fed = graph

    def prepare(self) -> None:
        """What is mixed with noise, and a copy of this analyzer that is fed with vectors."""
        if self.behind_embeddings:
            self._moving = tokens.moving(self._fed, self.head_, self.graph_, self._names)
            if self.reference in ("low_rank", "full") and tokens.tables(self.head_):
                raise InvalidInputError(
                    f"reference={self.reference!r} has directions in which all tokens of a sample vary together, which "
                    f"their numbers don't: use 'gaussian', 'vocabulary', 'uniform' or 'constant'."
                )
        vectors = {n.outputs[0] for n in tokens.tables(self.head_)}
        if self.reference == "vocabulary" and not vectors.issuperset(self._moved(self.graph_.inputs)):
            raise InvalidInputError("reference='vocabulary' takes rows of embeddings, but other inputs move besides.")
        if callable(self.reference) and len(self._moving) > 1:
            raise InvalidInputError("A reference sampler needs a model with one input, or one embedding.")
        self.head_, self.graph_ = masks.held(self.head_, self.graph_)
        self._inner = self.on_graph(self.graph_)
        specs = {slot: self.graph_.specs[slot] for slot in self.graph_.inputs}
        for slot, spec in specs.items() if self.head_.nodes else ():  # vectors in half precision are mixed in single
            if numerics.is_float(spec.dtype):
                specs[slot] = replace(spec, dtype=numerics.wide_dtype(spec.dtype))
        self._inner.head_ = Graph((), self.graph_.inputs, self.graph_.inputs, specs, {})

    def _moved(self, values: Sequence[Any]) -> list[Any]:
        return [values[i] for i, _ in self._moving]

    @property
    def _names(self) -> list[str]:
        """What the inputs are called."""
        flat = tree.flatten(self.input_structure_)
        keys = self.input_structure_ if isinstance(self.input_structure_, dict) else ()
        return sorted(keys) or [getattr(one, "name", "") for one in flat]

    def bind(self) -> None:
        """Bind the moment rules, where they are needed; check what depends on the shapes of the inputs."""
        self.moment_table_ = (self.moment_rules or Rules()).before(MOMENT_RULES)
        positions = [i for i, _ in self._moving]
        self.bound_ = moments.bind(self.graph_, self.moment_table_, positions) if self._filters else ()
        if self._filters and self.reference == "full":
            moments.check_loops(self.graph_)
        self._problem = functools.cache(self._problem_of)
        shapes = tuple(spec.shape[1:] for spec in self.input_specs())
        if all(None not in s for s in shapes):
            self.whole_rates(self._problem(shapes, "index").features.count)
            self.given_reference()

    def _problem_of(self, shapes: tuple[tuple[int, ...], ...], mode: Any) -> Problem:
        if self.behind_embeddings:
            features = tokens.vectors(self.features, self._fed, self.head_, self.graph_, shapes, self._names)
        else:
            features = partition(self.features, arrangements(self._fed, shapes))
        positions = tuple(i for i, _ in self._moving)
        return Problem(self.graph_, self.bound_, features, mode, self.reference == "full", positions)

    # --- the reference distribution ------------------------------------------------------------------------------

    def fit(self, X: Any, *, batch_size: int | None = None) -> RateDistortion:
        """Learn V from data, in one pass: mean and variance, or principal directions too."""
        if self.reference in LEARNT and self.behind_embeddings:
            self.set_state(tokens.learn_vectors(map(self._with_padding, self.training_batches(X, batch_size))))
        elif self.reference in LEARNT:
            self.set_state(learn(self.training_batches(X, batch_size), self.reference, self.rank))
        return self

    def _with_padding(self, xs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """What moves, and which vectors are none of padding."""
        self.check_tokens(xs)
        given = [ops.convert_to_tensor(x, spec.dtype) for x, spec in zip(xs, self.input_specs(), strict=True)]
        slots = run(self.head_.nodes, dict(zip(self.head_.inputs, given, strict=True)))
        return [np.asarray(slots[s]) for s in self._moved(self.graph_.inputs)], [
            tokens.real(self.head_, s, slots) for s in self._moved(self.graph_.inputs)
        ]

    def must_fit(self) -> bool:
        return self.reference in LEARNT and self.mean is None

    def given_reference(self, shapes: Sequence[tuple[int, ...]] | None = None) -> Reference:
        """V from the constructor's arguments or from ``fit``."""
        shapes = shapes or [self.graph_.specs[slot].shape[1:] for slot in self._moved(self.graph_.inputs)]
        if callable(self.reference):
            return Reference([Custom(self.reference, "reference")])
        if self.reference == "vocabulary":
            by_slot = {n.outputs[0]: n for n in tokens.tables(self.head_)}
            return Reference([tokens.vocabulary(by_slot[slot]) for slot in self._moved(self.graph_.inputs)])
        if self.learnt_:
            learnt = [
                [np.broadcast_to(a, shape) for a, shape in zip(self.learnt_list(name), shapes, strict=True)]
                for name in ("mean", "variance")
            ]
            return Reference.of(self.reference, *learnt, self.learnt_.get("factor"))
        found = []
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            each = self.per_input(0.0 if value is None else value)
            given = zip((each[source] for _, source in self._moving), shapes, strict=True)
            found.append([arguments.one_sample(name, one, shape) for one, shape in given])
        if any((v < 0).any() for v in found[1]):
            raise InvalidInputError("variance must not be negative anywhere; it holds squared standard deviations.")
        return Reference.of(self.reference, *found)

    # --- running -------------------------------------------------------------------------------------------------

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        context = self._problem(tuple(x.shape[1:] for x in xs), mode)
        if self.head_.nodes:
            xs = [np.asarray(v) for v in self.compiled(self._vectors, {})(*xs, start["target"])]
        reference = self.given_reference([x.shape[1:] for x in context.moved(xs)])
        step = self.samples_at_once(context.features.count, size)
        draws = self.samples if self.distortion == "monte_carlo" else 0
        parts = []
        for rows in (slice(i, i + step) for i in range(0, len(xs[0]), step)):
            some = [x[rows] for x in xs], start["target"][rows], start["score"][rows]
            parts.append(
                self.solve(Distortion(self._inner.compiled, context, reference, *some, size, draws, self.seed))
            )
        return tree.map_structure(lambda *a: np.concatenate(a), *parts)

    def _vectors(self, xs: list[Tensor], index: Tensor) -> list[Tensor]:
        """What ``graph_`` is fed with."""
        return [numerics.widen(v) if numerics.floating(v) else v for v in self.embedded(xs)]

    def whole_rates(self, n: int) -> list[int]:
        """The rates at which a sample with n features is solved as numbers of features; refuses what doesn't fit n."""
        return []

    def samples_at_once(self, n: int, size: int) -> int:
        """Samples with n features that are solved together; their forward passes are split by ``size`` anyway."""
        return max(1, size // max(1, len(self.whole_rates(n))))

    def solve(self, distortion: Distortion) -> dict[str, Any]:
        """The attributions (list) and extras per sample."""
        raise NotImplementedError

    def starting_weights(self, distortion: Distortion) -> np.ndarray:
        """Positive weights of the features, (batch, n), to which a start is proportional."""
        features, xs = distortion.context.features, distortion.context.moved(distortion.xs)
        dtype = xs[0].dtype
        if self.start == "uniform":
            return np.ones((len(xs[0]), features.count), dtype)
        wide = [x.astype("float64") for x in xs]  # squares of huge inputs must not overflow
        deviation = np.nan_to_num(features.sums(distortion.reference.deviation(wide, self.seed)))  # unchecked inputs
        scale = deviation.mean(axis=1, keepdims=True)
        scale[scale == 0] = 1
        return (deviation / scale + 1e-3).astype(dtype)  # never zero: any rate must be reachable

    def minimize(self, solver: optim.Solver, distortion: Distortion, objective: Any, x0: np.ndarray) -> optim.Result:
        """Run a solver with a progress bar; name the node where an objective became NaN or infinite."""
        name = self.registered_name_ or type(self).__name__
        result = optim.run(
            solver, objective, x0, max_iter=self.max_iter, tol=self.tol, progress=self.progress, description=name
        )
        failed = np.flatnonzero(result.status == optim.Status.FAILED)
        if len(failed):
            node = distortion.culprit()
            warnings.warn(
                f"{name}: the distortion became NaN or infinite in {len(failed)} of {len(x0)} problems"
                f"{f' (first at node {node!r})' if node else ''}; the last finite point is returned.",
                NonFiniteWarning,
                stacklevel=3,
            )
        return dataclasses.replace(result, x=np.clip(result.x, 0, 1))  # sums of many vertices may round beyond

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """Single-rate maps in the form of the attribution: one array for a model with one input."""
        maps = extras.get("single_rate")
        return {**extras, "single_rate": maps[0]} if maps is not None and len(maps) == 1 else extras

    def summary(self) -> str:
        if self.distortion == "monte_carlo":
            return f"{self.head()}; {self.samples} Monte Carlo samples per evaluation"
        return "\n".join([self.head(), *self.moment_table_.describe(self.graph_, self.bound_)])
