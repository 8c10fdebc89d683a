"""What all Rate-Distortion Explanations share: the reference distribution, the distortion, features, the solve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree

from innv_ext import arguments, optim
from innv_ext.analyzers.core import inputs
from innv_ext.analyzers.core.program import GraphAnalyzer, at_input, check_float_inputs
from innv_ext.analyzers.moments import values as moments
from innv_ext.analyzers.moments.rules import MOMENT_RULES
from innv_ext.analyzers.parts.partition import Partition, partition
from innv_ext.analyzers.parts.replacement import Custom
from innv_ext.analyzers.rde.distortion import Context, Distortion
from innv_ext.analyzers.rde.reference import KINDS, LEARNT, Reference, learn
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph
from innv_ext.backend.rules import Rules
from innv_ext.errors import InvalidInputError, NonFiniteWarning, NotFittedError

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
        """Inputs must be numbers that can be mixed with noise."""
        if callable(self.reference) and len(graph.inputs) > 1:
            raise InvalidInputError("A reference sampler needs a model with one input.")
        check_float_inputs(graph, f"{type(self).__name__} mixes inputs with noise")

    def bind(self) -> None:
        """Bind the moment rules, where they are needed."""
        self.moment_table_ = (self.moment_rules or Rules()).before(MOMENT_RULES)
        self.reference_fit_: Any = None
        self.bound_ = moments.bind(self.graph_, self.moment_table_) if self.distortion == "adf" else ()
        self._features: dict[Any, Partition] = {}
        self._contexts: dict[Any, Context] = {}
        shapes = [spec.shape[1:] for spec in self.input_specs()]
        if all(None not in s for s in shapes):
            self.check_count(self.features_of(shapes).count)
            self.given_reference()

    def check_count(self, n: int) -> None:
        """Refuse parameters that don't fit the number of features."""

    def features_of(self, shapes: Sequence[tuple[int, ...]]) -> Partition:
        """The features of inputs of these shapes."""
        key = tuple(tuple(s) for s in shapes)
        if key not in self._features:
            self._features[key] = partition(self.features, arrangements(self.graph_, key))
        return self._features[key]

    # --- the reference distribution ------------------------------------------------------------------------------

    def fit(self, X: Any, *, batch_size: int | None = None) -> RateDistortion:
        """Learn V from data, in one pass: mean and variance, or principal directions too.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches

        Raises
        ------
        InvalidInputError
            for data that don't fit the model, hold NaN, or are empty; nothing is changed then
        """
        if self.reference in LEARNT:
            self.reference_fit_ = learn(self.training_batches(X, batch_size), self.reference, self.rank)
        return self

    def is_fitted(self) -> bool:
        """Whether V is known."""
        return self.reference not in LEARNT or self.mean is not None or self.reference_fit_ is not None

    def not_fitted(self) -> NotFittedError:
        """What to do about an unknown V."""
        return NotFittedError(
            f"{type(self).__name__} replaces components by draws from a reference distribution, which is not known "
            f"yet: call fit(X) with training data, or pass mean= and variance= (or reference='uniform')."
        )

    def state(self) -> dict[str, np.ndarray]:
        """Mean, variance and directions of V."""
        if self.reference_fit_ is None:
            return {}
        means, variances, factor = self.reference_fit_
        arrays = {f"mean{i}": m for i, m in enumerate(means)} | {f"variance{i}": v for i, v in enumerate(variances)}
        return arrays if factor is None else {**arrays, "factor": factor}

    def set_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore V."""
        if arrays:
            count = sum(k.startswith("mean") for k in arrays)
            parts = [[arrays[f"{name}{i}"] for i in range(count)] for name in ("mean", "variance")]
            self.reference_fit_ = (parts[0], parts[1], arrays.get("factor"))

    def given_reference(self, shapes: Sequence[tuple[int, ...]] | None = None) -> Reference:
        """V from the constructor's arguments or from ``fit``."""
        shapes = shapes or [spec.shape[1:] for spec in self.input_specs()]
        if callable(self.reference):
            return Reference([Custom(self.reference, "reference")])
        if self.reference_fit_ is not None:
            return Reference.of(self.reference, *self.reference_fit_)
        means = self._broadcast("mean", 0.0 if self.mean is None else self.mean, shapes)
        variances = self._broadcast("variance", 0.0 if self.variance is None else self.variance, shapes)
        if any((v < 0).any() for v in variances):
            raise InvalidInputError("variance must not be negative anywhere; it holds squared standard deviations.")
        return Reference.of(self.reference, means, variances)

    def _broadcast(self, name: str, value: Any, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        several = len(shapes) > 1 and isinstance(value, (list, tuple, dict))
        values = (
            inputs.flatten_inputs(value, self.input_structure_, self.input_specs())
            if several
            else [value] * len(shapes)
        )
        return [arguments.one_sample(name, part, shape) for part, shape in zip(values, shapes, strict=True)]

    # --- running -------------------------------------------------------------------------------------------------

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """Solve for some samples at once."""
        self.check_once(xs)
        features = self.features_of([x.shape[1:] for x in xs])
        self.check_count(features.count)
        step = self.samples_at_once(features.count, size)
        parts = [
            self._explain_some([x[i : i + step] for x in xs], index[i : i + step], size, features, options["mode"])
            for i in range(0, len(index), step)
        ]
        return tree.map_structure(lambda *a: np.concatenate(a), *parts)

    def _explain_some(self, xs: list[np.ndarray], index: np.ndarray, size: int, features: Partition, mode: Any) -> Any:
        start = tree.map_structure(
            np.asarray, self.compiled(at_input, {"graph": self.graph_, "mode": mode})(*xs, index)
        )
        mode = "index" if mode == "max_activation" else mode
        key = (mode, features)
        reference = self.given_reference([x.shape[1:] for x in xs])
        if key not in self._contexts:
            shapes = tuple(tuple(spec.shape[1:]) for spec in self.input_specs())
            self._contexts[key] = Context(self.graph_, self.bound_, features, mode, reference.covariance, shapes)
        distortion = Distortion(
            self.compiled,
            self._contexts[key],
            reference,
            xs,
            start["target"],
            start["score"],
            size,
            self.samples if self.distortion == "monte_carlo" else 0,
            self.seed,
        )
        return {**start, **self.solve(distortion)}

    def samples_at_once(self, n: int, size: int) -> int:
        """Samples with n features that are solved together; their forward passes are split by ``size`` anyway."""
        return max(1, size // self.problems_per_sample(n))

    def problems_per_sample(self, n: int) -> int:
        """Points that are evaluated at once for one sample with n features."""
        return 1

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
        return result

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """Single-rate maps in the form of the attribution: one array for a model with one input."""
        maps = extras.get("single_rate")
        return {**extras, "single_rate": maps[0]} if maps is not None and len(maps) == 1 else extras

    def summary(self) -> str:
        """The plan: one line a node with its moment rule."""
        if self.distortion == "monte_carlo":
            return f"{self.head()}; {self.samples} Monte Carlo samples per evaluation"
        return "\n".join([self.head(), *moments.describe(self.graph_, self.moment_table_)])
