"""MoreauGrad: the gradient of the Moreau envelope of a score (Zhang and Farnia 2022), vanilla and sparse."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments, optim
from innv_ext.analyzers.core.base import Explanation
from innv_ext.analyzers.core.program import GraphAnalyzer, check_float_inputs, select
from innv_ext.analyzers.core.tensor_map import TensorMap, field_map, flat_attribution, shrunk
from innv_ext.analyzers.loss.curvature import around, flat, shifted
from innv_ext.analyzers.parts.partition import Partition, blocks, numbered, partition
from innv_ext.backend import numerics, walk
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph
from innv_ext.backend.numerics import widen
from innv_ext.errors import ConvergenceWarning, InvalidInputError, ZeroMapWarning

Tensor = Any


def score_gradient(
    xs: list[Tensor], target: Tensor, step: Tensor, graph: Graph, features: Partition, mode: Any
) -> tuple[Tensor, Tensor]:
    """The score f_c of the neuron that was selected at x and its gradient at x + step: (batch,), (batch, d)."""
    (y,), pullback = numerics.vjp(lambda *x: walk.evaluate(graph, x)[0], *shifted(xs, step, features))
    seed, value, _ = select(widen(y), target, mode)
    return value, flat(pullback(seed))


@dataclass(kw_only=True, eq=False, repr=False)
class MoreauGrad(GraphAnalyzer):
    """The gradient of the Moreau envelope of the score f_c at x.

    x* = argmin over u of f_c(u) + |u - x|^2 / (2 rho), and the map is (x - x*) / rho, which tends to df_c/dx as
    rho -> 0 and equals the gradient at x* (Definition 2 and Theorem 1 of the paper; its Algorithm 1 prints the opposite
    sign). c is fixed at x.

    ``explain(x).extras`` has per sample: objective (the envelope), residual (relative KKT residual), iterations,
    status and rho. Algorithm 1's own stops say "max_iter".

    Parameters
    ----------
    rho : width of the envelope, in units of x squared over the score's; "auto": 1 / sqrt(mean |X|_2) of the data given
        to ``fit``, or 1 without. Where f_c bends down by more than 1 / rho, the envelope has several local minima
    steps : with ``accelerate`` the most gradients, else the number of updates
    tol : relative KKT residual at which the accelerated mode stops
    step_size : length of the updates; default 0.1 rho. The accelerated mode finds its own, up to ``step_size`` if given
    accelerate : FISTA with backtracking; False: Algorithm 1 of the paper, exactly ``steps`` updates
    average : Algorithm 1 only: the mean of the last ``average`` iterates (0: the last one); on ReLU networks the
        minimiser often sits on a kink, around which iterates jump
    smoothing : regularised mode: the gradient is the mean over ``samples`` copies with Gaussian noise of ``smoothing``
        times (max x - min x), drawn anew at each of the updates of Algorithm 1; 0: no noise
    samples : noisy copies per update

    Examples
    --------
    >>> maps = innv_ext.create_analyzer("moreau_grad", model).fit(X_train).analyze(x)
    """

    rho: Any = arguments.positive("auto")
    steps: int = arguments.count(100)
    tol: float = arguments.at_least(0, 1e-3)
    step_size: float | None = arguments.positive(None)
    accelerate: bool = arguments.flag(True)
    average: int = arguments.count(0, least=0)
    smoothing: float = arguments.at_least(0, 0.0)
    samples: int = arguments.count(16)

    batchnorm_form = "fold"
    eta = 0.0

    # --- building ------------------------------------------------------------------------------------------------

    def check_parameters(self) -> None:
        if self.average and self._accelerated():
            raise InvalidInputError("average= is of Algorithm 1, whose iterates jump: pass accelerate=False with it.")

    def check_model(self, graph: Graph) -> None:
        check_float_inputs(graph, f"{type(self).__name__} moves the input continuously")

    def _accelerated(self) -> bool:
        return self.accelerate and not self.smoothing

    def bind(self) -> None:
        """Features of inputs by their shapes: kept, since functions are compiled for each."""
        self._features = functools.cache(lambda shapes: partition("component", arrangements(self.graph_, shapes)))

    # --- rho -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, *, batch_size: int | None = None) -> MoreauGrad:
        """Learn the mean of |X|_2 for rho="auto" (the paper's rule of thumb), in one pass.

        Raises
        ------
        InvalidInputError
            besides, for data that are zero everywhere
        """
        total, count = 0.0, 0
        for xs in self.training_batches(X, batch_size):
            squares = sum(np.square(x.reshape(len(x), -1), dtype="float64").sum(axis=1) for x in xs)
            total, count = total + float(np.sqrt(squares).sum()), count + len(xs[0])
        if not total > 0:
            raise InvalidInputError("X is zero everywhere, so that rho = 1 / sqrt(mean |X|_2) is infinite: pass rho=.")
        self.set_state({"mean_norm": total / count})
        return self

    def current_rho(self) -> float:
        if self.rho != "auto":
            return float(self.rho)
        return 1 / math.sqrt(float(self.learnt_.get("mean_norm", 1.0)))

    # --- running -------------------------------------------------------------------------------------------------

    def penalty(self, shapes: tuple[tuple[int, ...], ...]) -> optim.Penalty:
        """What is added to the envelope, as a function of u - x."""
        return optim.Zero()

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        index, shapes = start["target"], tuple(x.shape[1:] for x in xs)
        features, penalty, rho = self._features(shapes), self.penalty(shapes), self.current_rho()
        if self._accelerated():
            solver = optim.Fista(penalty, length=self.step_size or rho)
        else:
            length = self.step_size or 0.1 * rho
            solver = optim.ProximalGradient(penalty, length=length, backtracking=False, average=self.average)
        objective = self._objective(features, xs, index, size, mode)
        result = optim.run(
            solver,
            objective,
            np.zeros((len(index), features.count), np.result_type(np.float32, *xs)),
            max_iter=self.steps,
            tol=self.tol,
            progress=self.progress,
            description=self.registered_name_ or type(self).__name__,
        )
        self._report(result)
        value, residual = result.value, result.gap
        if self.average > 1:  # the mean of some iterates was not evaluated yet
            everything = np.arange(len(index))
            value, gradient = objective(result.x, everything)
            value += penalty.value(result.x, everything)
            residual = penalty.residual(result.x, gradient, everything) / result.state.scale
        extras = {
            "objective": value,
            "residual": residual,
            "iterations": result.iterations,
            "status": np.array([s.name.lower() for s in result.status], dtype="U10"),
            "rho": np.full(len(index), rho),
        }
        maps = -result.x / rho + 0.0  # components that did not move are 0, not -0
        return {"attributions": features.maps(maps.astype(result.x.dtype)), **extras}

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """The gradient at x*, shrunk by the penalty (which the map solves), with x* - x held constant."""
        features, penalty = self._features(tuple(shapes)), self.penalty(tuple(shapes))

        def held(found: Explanation) -> list[np.ndarray]:
            step = flat_attribution(self, found)
            return [(-found.extras["rho"][:, None] * step).astype(step.dtype)]

        return field_map(
            lambda xs, target, step: score_gradient(xs, target, step, self.graph_, features, mode)[1],
            lambda total, constants: shrunk(total, penalty),
            features,
            self._noise(0, shapes),
            held,
        )

    def _objective(
        self, features: Partition, xs: list[np.ndarray], target: np.ndarray, size: int, mode: Any
    ) -> optim.Objective:
        """f_c(x + step) + |step|^2 / (2 rho), with the mean of f_c over noisy copies in the regularised mode."""
        calls, rho, options = itertools.count(), self.current_rho(), {"features": features, "mode": mode}

        def objective(step: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            extra = [((None, step.shape[1]), step.dtype.name)]
            run = self.compiled(score_gradient, {"graph": self.graph_, **options}, extra)
            noise = self._noise(next(calls), [x.shape[1:] for x in xs])
            copies = 1 if noise is None else self.samples
            values, gradients = np.zeros(len(step)), np.zeros_like(step)
            for places, points in around(xs, problems, noise, size):
                value, gradient = run(*points, target[problems[places]], step[places])
                np.add.at(values, places, np.asarray(value))
                np.add.at(gradients, places, np.asarray(gradient))
            values, gradients = values / copies, gradients / gradients.dtype.type(copies)
            squares = np.square(step, dtype="float64").sum(axis=1)
            return values + squares / (2 * rho), gradients + step / gradients.dtype.type(rho)

        return objective

    def _noise(self, call: int, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray] | None:
        """Fresh draws at each step, the same for all samples."""
        if not self.smoothing:
            return None
        scale = np.float32(self.smoothing)
        return [
            scale * np.random.default_rng((self.seed, call, i)).standard_normal((self.samples, *s), "float32")
            for i, s in enumerate(shapes)
        ]

    def _report(self, result: optim.Result) -> None:
        name = self.registered_name_ or type(self).__name__
        missed = ~result.converged if self._accelerated() else result.status == optim.Status.FAILED
        if missed.any():
            worst = np.nanmax(result.gap[missed]) if np.isfinite(result.gap[missed]).any() else np.nan
            warnings.warn(
                f"{name}: {missed.sum()} of {len(missed)} samples did not reach the relative KKT residual "
                f"tol={self.tol} (largest: {worst:.2g}); the best iterates are returned. Networks of ReLUs have minima "
                f"on kinks, where it is not reached: use a smaller rho, smoothing=, or accelerate=False.",
                ConvergenceWarning,
                stacklevel=5,
            )
        zero = np.flatnonzero(~result.x.any(axis=1) & (result.status != optim.Status.FAILED))
        if len(zero) and self.eta:
            warnings.warn(
                f"{name}: the maps of {len(zero)} of {len(missed)} samples (first: {zero[0]} of its batch) are zero, "
                f"because eta={self.eta} exceeds their gradients. Use a smaller eta.",
                ZeroMapWarning,
                stacklevel=5,
            )

    def summary(self) -> str:
        way = "FISTA with backtracking" if self._accelerated() else f"Algorithm 1, {self.steps} updates"
        noise = f", gradients over {self.samples} noisy copies" if self.smoothing else ""
        return f"{self.head()}\nrho = {self.current_rho():.4g}; {way}{noise}"


@dataclass(kw_only=True, eq=False, repr=False)
class SparseMoreauGrad(MoreauGrad):
    """MoreauGrad with eta |u - x|_1 added (Definitions 4 and 5): the map is sparse.

    On a linear score it is soft_threshold(w_c, eta). See ``MoreauGrad`` for the other parameters.

    Parameters
    ----------
    eta : weight of the l1 norm, in units of the gradient; 0: MoreauGrad
    """

    eta: float = arguments.at_least(0, 0.05)

    def penalty(self, shapes: tuple[tuple[int, ...], ...]) -> optim.Penalty:
        return optim.L1(float(self.eta))


@dataclass(kw_only=True, eq=False, repr=False)
class GroupSparseMoreauGrad(SparseMoreauGrad):
    """MoreauGrad with eta times the sum of |(u - x)_G|_2 over groups G of components added: whole groups are zero.

    On a linear score it is the group soft threshold of w_c. See ``MoreauGrad`` for the other parameters.

    Parameters
    ----------
    eta : weight of the group norm, in units of the gradient's norm over a group
    group_size : side of the blocks over all channels that are the groups (squares of an image, cubes of a volume,
        runs of a signal or table); blocks are smaller at a border that it does not divide
    groups : an integer array of labels 0, 1, ... instead, shaped like a sample, or like it without its channels; or
        "pixel" (all channels together) or "component"
    """

    group_size: int = arguments.count(4)
    groups: Any = None

    def check_model(self, graph: Graph) -> None:
        super().check_model(graph)
        shapes = tuple(graph.specs[s].shape[1:] for s in graph.inputs)
        if all(None not in s for s in shapes):
            self.penalty(shapes)

    def penalty(self, shapes: tuple[tuple[int, ...], ...]) -> optim.Penalty:
        arranged = arrangements(self.graph_, shapes)
        if self.groups is None:
            parts = numbered(arranged, [blocks(one.shape, one.along(self.group_size)) for one in arranged])
        else:
            parts = partition(self.groups, arranged, "groups")
        labels = np.concatenate([label.reshape(-1) for label in parts.pictures()])
        return optim.GroupL2(float(self.eta), labels)
