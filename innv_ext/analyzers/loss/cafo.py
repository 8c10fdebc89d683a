"""First-order interpretation of the loss: CAFO (Singla, Wallace, Feng and Feizi 2019), and what CASO shares with it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.base import Explanation
from innv_ext.analyzers.core.program import GraphAnalyzer, check_float_inputs
from innv_ext.analyzers.core.request import ALL, contrasted
from innv_ext.analyzers.core.tensor_map import TensorMap, field_map, flat_attribution, soft_threshold
from innv_ext.analyzers.loss.curvature import Curvature, Loss, loss_gradient
from innv_ext.analyzers.loss.objective import FirstOrder, Solutions, choose_lambda1
from innv_ext.analyzers.parts.partition import partition
from innv_ext.backend import facts
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph, op_key
from innv_ext.backend.kinds import SIGMOID
from innv_ext.errors import ConvergenceWarning, InvalidInputError, NonFiniteWarning, UnsupportedModelError


@dataclass(kw_only=True, eq=False, repr=False)
class CAFO(GraphAnalyzer):
    """The step D that raises the loss most among sparse, short ones, to first order.

    maximise over D: g.D - lambda1 |D|_1 - lambda2 |D|_2^2, so D = soft_threshold(g, lambda1) / (2 lambda2); g is the
    gradient of the cross-entropy l = -log p_c of the class c that is selected at x (equations 3 and 4 of the paper).
    A model with sigmoid outputs has one binary cross-entropy per output. With neuron_selection_mode="all" or a function
    of the outputs, that score takes the place of the loss.

    ``explain(x).extras`` has per sample: lambda1, lambda2, L (the largest eigenvalue of the Hessian; 0 without one),
    sparsity (share of zeros), objective (the maximum), kkt_residual (relative), iterations and status.

    Parameters
    ----------
    lambda1 : weight of the l1 norm, or "auto": of 1e-5, 1e-4, ... the one with the largest true loss at x + D among
        those that leave 75 % or more of D zero but not all; where there is none, found by bisection
    lambda2 : weight of the squared l2 norm; None: L / 2 + c1 (CAFO has no Hessian, so L = 0)
    c1 : by how much lambda2 exceeds L / 2
    augment_by_n : 0, or the number of noisy copies of x over which g and the Hessian are averaged (the smooth versions)
    noise_scale : standard deviation of the noise in shares of (max x - min x)

    Examples
    --------
    >>> d = innv_ext.create_analyzer("cafo", model, lambda1=0.01).analyze(x)
    """

    lambda1: Any = arguments.at_least(0, "auto")
    lambda2: float | None = arguments.positive(None)
    c1: float = arguments.positive(10.0)
    augment_by_n: int = arguments.count(0, least=0)
    noise_scale: float = arguments.at_least(0, 0.15)

    batchnorm_form = "fold"

    # --- building ------------------------------------------------------------------------------------------------

    def check_parameters(self) -> None:
        if self.on != "logits":
            name = type(self).__name__
            raise InvalidInputError(f"{name} differentiates the cross-entropy of the logits: use on='logits'.")

    def check_model(self, graph: Graph) -> None:
        check_float_inputs(graph, f"{type(self).__name__} moves the input continuously")
        self._squashed = [n for n in self._whole.nodes if n.name in self.cut_]
        self._binary = any(facts.activation_key(n) in SIGMOID for n in self._squashed)
        if self.neuron_selection_mode in ("max_activation", "index"):
            self._check_classes(graph)

    def _check_classes(self, graph: Graph) -> None:
        shape = graph.specs[graph.outputs[0]].shape
        for node in self._squashed:
            if getattr(node.op, "axis", -1) not in (-1, len(shape) - 1):
                raise UnsupportedModelError(
                    f"{node.name!r} normalises over axis {node.op.axis}; the cross-entropy needs classes on the last "
                    f"axis. Permute the output."
                )
        if not self._binary and (len(shape) < 2 or shape[-1] in (None, 1)):
            last = graph.producer()[graph.outputs[0]]
            raise UnsupportedModelError(
                f"The cross-entropy needs a fixed number of at least two classes, or sigmoid outputs, but "
                f"{last.name!r} ({op_key(last.op)}) gives shape {shape}. Pass a score to explain instead: "
                f"neuron_selection_mode=lambda y: y[:, 0]."
            )

    def bind(self) -> None:
        self._loss = functools.cache(self._loss_of)  # kept, since functions are compiled for each

    def _loss_of(self, shapes: tuple[tuple[int, ...], ...], mode: Any) -> Loss:
        if mode == "index":
            self._check_classes(self.graph_)
        return Loss(self.graph_, partition("component", arrangements(self.graph_, shapes)), mode, self._binary)

    # --- running -------------------------------------------------------------------------------------------------

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        """All samples and all their lambda1 at once."""
        curvature = self.curvature(xs, self.single(start), size, mode)
        g = curvature.gradient()
        broken = ~np.isfinite(g).all(axis=1)
        g[broken] = 0
        problem = self.problem(curvature, g)
        if self.lambda1 == "auto":
            found = choose_lambda1(problem, curvature.value)
        else:
            found = problem.solve(np.arange(len(g)), np.full(len(g), float(self.lambda1)))
        found.step[broken], found.status[broken], found.residual[broken] = np.nan, "failed", np.nan
        self._report(found)
        return {
            "attributions": curvature.loss.features.maps(found.step.astype(curvature.dtype)),
            "lambda1": found.lambda1,
            "lambda2": problem.lambda2,
            "L": problem.largest,
            "sparsity": found.sparsity,
            "objective": found.objective,
            "kkt_residual": found.residual,
            "iterations": found.iterations,
            "status": found.status,
        }

    @staticmethod
    def single(start: dict[str, np.ndarray]) -> np.ndarray:
        """The targets of what ``at_x`` found; refuses contrasts."""
        if (contrasted(start["target"], start["output"])[1] >= 0).any():
            raise InvalidInputError(
                "A contrast of two neurons has no cross-entropy, which CAFO and CASO explain: pass a function of the "
                "outputs as neuron_selection_mode=, which is taken as a score."
            )
        return start["target"]

    def curvature(self, xs: list[np.ndarray], target: np.ndarray, size: int, mode: Any) -> Curvature:
        """The loss around x."""
        shapes = tuple(x.shape[1:] for x in xs)
        if mode == "index" and target[0] == ALL:  # the sum of all outputs is a score as it is
            mode = "all"
        return Curvature(self.compiled, self._loss(shapes, mode), xs, target, self._noise(shapes), size)

    def tensor_map(self, shapes: Sequence[tuple[int, ...]], mode: Any) -> TensorMap:
        """soft_threshold(g + H D, lambda1) / (2 lambda2), which D solves, with D and both weights held constant."""
        loss = self._loss_of(tuple(shapes), mode)

        def held(found: Explanation) -> list[np.ndarray]:
            step = flat_attribution(self, found)
            return [step, *(found.extras[name][:, None].astype(step.dtype) for name in ("lambda1", "lambda2"))]

        return field_map(
            lambda xs, target, step: self.model_gradient(xs, target, step, loss),
            lambda total, constants: soft_threshold(total, constants[1]) / (2 * constants[2]),
            loss.features,
            self._noise(shapes),
            held,
        )

    def model_gradient(self, xs: list[Any], target: Any, step: Any, loss: Loss) -> Any:
        """Gradient of the model of the loss around x at x + step, (batch, d)."""
        return loss_gradient(xs, target, loss)

    def _noise(self, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray] | None:
        """The same draws for all samples, so that a map does not depend on its batch."""
        if not self.augment_by_n:
            return None
        draws = [
            [np.random.default_rng((self.seed, j, i)).standard_normal(s, "float32") for j in range(self.augment_by_n)]
            for i, s in enumerate(shapes)
        ]
        return [np.stack(d) * np.float32(self.noise_scale) for d in draws]

    def problem(self, curvature: Curvature, g: np.ndarray) -> FirstOrder:
        """What is maximised."""
        largest = np.zeros(len(g))
        return FirstOrder(g, self.quadratic(largest), largest)

    def quadratic(self, largest: np.ndarray) -> np.ndarray:
        """lambda2 of each sample, by the largest eigenvalue of its Hessian."""
        return largest / 2 + self.c1 if self.lambda2 is None else np.full(len(largest), float(self.lambda2))

    def _report(self, found: Solutions) -> None:
        name = self.registered_name_ or type(self).__name__
        failed = np.flatnonzero(found.status == "failed")
        if len(failed):
            warnings.warn(
                f"{name}: the gradient or the Hessian of {len(failed)} of {len(found.status)} samples (first: "
                f"{failed[0]} of its batch) is NaN or infinite; their maps are NaN.",
                NonFiniteWarning,
                stacklevel=6,
            )
        missed = np.flatnonzero((found.status != "converged") & (found.status != "failed"))
        if len(missed):
            warnings.warn(
                f"{name}: {len(missed)} of {len(found.status)} samples did not reach the relative KKT residual tol "
                f"(largest: {np.nanmax(found.residual[missed]):.2g}); the last iterates are returned. Raise max_iter "
                f"or tol.",
                ConvergenceWarning,
                stacklevel=6,
            )

    def summary(self) -> str:
        if self.neuron_selection_mode not in ("max_activation", "index"):
            return f"{self.head()}\nstep along the gradient of the score"
        kind = "binary cross-entropy of the selected output" if self._binary else "cross-entropy of the selected class"
        return f"{self.head()}\nstep along the gradient of the {kind}"


def smooth(augment_by_n: int = 50, noise_scale: float = 0.15) -> dict[str, Any]:
    """Parameters of the smooth versions."""
    return {"augment_by_n": augment_by_n, "noise_scale": noise_scale}
