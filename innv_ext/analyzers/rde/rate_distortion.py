"""What all Rate-Distortion Explanations share: the reference distribution, the distortion, features, the solve."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree

from innv_ext import arguments, optim
from innv_ext.analyzers.core.program import GraphAnalyzer, check_float_inputs
from innv_ext.analyzers.moments import filtering as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.parts.partition import partition
from innv_ext.analyzers.parts.replacement import Custom
from innv_ext.analyzers.rde.distortion import Distortion, Problem
from innv_ext.analyzers.rde.reference import KINDS, LEARNT, Reference, learn
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph
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
        or a function ``(x (batch, ...), samples, rng) -> (batch, samples, ...)``, with distortion="monte_carlo"
    mean, variance : numbers or arrays that broadcast to one sample
    rank : directions of "low_rank"
    distortion : "adf": by assumed density filtering, deterministic, one forward pass of moments; "monte_carlo": by
        ``samples`` draws, the same in every evaluation of a solve; for any model
    samples : draws per evaluation
    features : "component", "pixel" (one s for all channels), or an integer array of labels (superpixels)
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
    fit_instead = "pass mean= and variance= (or reference='uniform')"

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
        if callable(self.reference) and len(graph.inputs) > 1:
            raise InvalidInputError("A reference sampler needs a model with one input.")
        check_float_inputs(graph, f"{type(self).__name__} mixes inputs with noise")

    def bind(self) -> None:
        """Bind the moment rules, where they are needed; check what depends on the shapes of the inputs."""
        self.moment_table_ = (self.moment_rules or Rules()).before(MOMENT_RULES)
        self.bound_ = moments.bind(self.graph_, self.moment_table_) if self._filters else ()
        if self._filters and self.reference == "full":
            moments.check_loops(self.graph_)
        self._problem = functools.cache(self._problem_of)
        shapes = tuple(spec.shape[1:] for spec in self.input_specs())
        if all(None not in s for s in shapes):
            self.whole_rates(self._problem(shapes, "index").features.count)
            self.given_reference()

    def _problem_of(self, shapes: tuple[tuple[int, ...], ...], mode: Any) -> Problem:
        features = partition(self.features, arrangements(self.graph_, shapes))
        return Problem(self.graph_, self.bound_, features, mode, self.reference == "full")

    # --- the reference distribution ------------------------------------------------------------------------------

    def fit(self, X: Any, *, batch_size: int | None = None) -> RateDistortion:
        """Learn V from data, in one pass: mean and variance, or principal directions too."""
        if self.reference in LEARNT:
            self.set_state(learn(self.training_batches(X, batch_size), self.reference, self.rank))
        return self

    def must_fit(self) -> bool:
        return self.reference in LEARNT and self.mean is None

    def given_reference(self, shapes: Sequence[tuple[int, ...]] | None = None) -> Reference:
        """V from the constructor's arguments or from ``fit``."""
        shapes = shapes or [spec.shape[1:] for spec in self.input_specs()]
        if callable(self.reference):
            return Reference([Custom(self.reference, "reference")])
        if self.learnt_:
            learnt = self.learnt_list("mean"), self.learnt_list("variance"), self.learnt_.get("factor")
            return Reference.of(self.reference, *learnt)
        found = []
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            given = zip(self.per_input(0.0 if value is None else value), shapes, strict=True)
            found.append([arguments.one_sample(name, one, shape) for one, shape in given])
        if any((v < 0).any() for v in found[1]):
            raise InvalidInputError("variance must not be negative anywhere; it holds squared standard deviations.")
        return Reference.of(self.reference, *found)

    # --- running -------------------------------------------------------------------------------------------------

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        shapes = tuple(x.shape[1:] for x in xs)
        context, reference = self._problem(shapes, mode), self.given_reference(shapes)
        step = self.samples_at_once(context.features.count, size)
        draws = self.samples if self.distortion == "monte_carlo" else 0
        parts = []
        for rows in (slice(i, i + step) for i in range(0, len(xs[0]), step)):
            some = [x[rows] for x in xs], start["target"][rows], start["score"][rows]
            parts.append(self.solve(Distortion(self.compiled, context, reference, *some, size, draws, self.seed)))
        return tree.map_structure(lambda *a: np.concatenate(a), *parts)

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
        features, dtype = distortion.context.features, distortion.xs[0].dtype
        if self.start == "uniform":
            return np.ones((len(distortion.xs[0]), features.count), dtype)
        wide = [x.astype("float64") for x in distortion.xs]  # squares of huge inputs must not overflow
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
