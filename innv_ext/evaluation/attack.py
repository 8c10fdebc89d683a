"""Attacks on explanations: a small change of the input that moves the relevance elsewhere but keeps the class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments, files
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.backend import numerics
from innv_ext.backend.numerics import safe_divide
from innv_ext.backend.tracing import untouched
from innv_ext.errors import ConvergenceWarning, InvalidInputError, NonFiniteWarning, ZeroMapWarning
from innv_ext.evaluation.attack_result import AttackResult
from innv_ext.evaluation.measures import check_finite, quotient
from innv_ext.evaluation.robustness import read_k, robustness_metrics, top_weights
from innv_ext.evaluation.subject import Scores, check_analyzer, generator, rows_of, same_neurons
from innv_ext.evaluation.surrogate import MapGradient, surrogate_of

Tensor = Any
METHODS = ("topk", "random")
_LEAST = 1e-6  # by how much a share must fall: less is rounding
_INSIDE = 1 - 1e-6  # what rounding to float32 may add to a norm


def attack_interpretation(
    analyzer: Analyzer,
    x: Any,
    *,
    epsilon: float,
    k: int | float = 0.1,
    steps: int = 30,
    step_size: float | None = None,
    method: str = "topk",
    neuron_selection: Any = None,
    value_range: tuple[float, float] | None = None,
    softplus: float | None = 30.0,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AttackResult:
    """Look for x' with |x' - x|_2 <= epsilon and the same class whose map puts less weight on the top k of x's map.

    What is lowered is the share of the magnitudes of the map that lies on the k components with the largest magnitudes
    at x. "topk" goes down the gradient of that share, in steps of fixed length, projected onto the ball and the value
    range. A step that changes the predicted class is taken back, and the next ones are half as long; where the gradient
    is 0 (piecewise constant maps) the step is random. All is measured on the analyzer itself; only the direction comes
    from a surrogate with softplus(beta x) / beta in place of ReLU, because in ReLU networks the derivative of a
    gradient is 0 almost everywhere. Optimisers (CASO, MoreauGrad) are followed through the formula that their result
    solves, with the displacement that they found at each step held constant. "random" tries ``steps`` random directions
    at distance epsilon. The best x' is returned, x itself where there is none.

    Parameters
    ----------
    analyzer : what explains; "topk" works for all methods of one backward walk (gradients, LRP, Deep Taylor, patterns),
        SmoothGrad, integrated gradients, GradientSHAP, CAFO, CASO and MoreauGrad, "random" for every analyzer
    x : array (batch, ...) of floats, for a model with one input; it is not changed
    epsilon : largest |x' - x|_2 of a sample
    k : number of components, or their share (a float below 1)
    steps : gradients, or random directions
    step_size : length of a step; None: 2.5 epsilon / steps
    method : "topk" or "random"
    neuron_selection : as in ``analyze``; the neuron explained at x is the one explained at x'
    value_range : (low, high) of the values of x', which x must keep too; None: any
    softplus : beta; None: no surrogate, for networks that are smooth anyway
    batch_size : most samples (times noisy copies or steps of the analyzer) at once; None: the analyzer's
    seed : makes "random" repeatable
    progress : show a progress bar on work longer than three seconds

    Raises
    ------
    InvalidInputError
        for arguments out of range, x outside of ``value_range``, integer inputs, several inputs, an empty batch, or
        maps that are not finite
    UnsupportedModelError
        for "topk" with an analyzer that has no differentiable map, or a model without second derivatives

    Notes
    -----
    Ghorbani, Abid and Zou (2019), "Interpretation of neural networks is fragile": the top-k attack; Levine, Singla and
    Feizi (2019): the bound in L2; Dombrowski et al. (2019), "Explanations can be manipulated and geometry is to blame":
    softplus. Zhang and Farnia (2022), MoreauGrad, section 6.4, compare methods by it.

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("gradient", model)
    >>> found = attack_interpretation(analyzer, x, epsilon=0.5, value_range=(0, 1))
    >>> found.metrics.top_k.mean(), found.plot(path="attack.png")
    """
    own = check_analyzer(analyzer).batch_size
    size = arguments.positive_int("batch_size", own if batch_size is None else batch_size)
    arguments.choice("method", method, METHODS)
    epsilon = arguments.number("epsilon", epsilon, positive=True)
    steps, seed = arguments.positive_int("steps", steps), arguments.positive_int("seed", seed, 0)
    length = 2.5 * epsilon / steps if step_size is None else arguments.number("step_size", step_size, positive=True)
    beta = None if softplus is None else arguments.number("softplus", softplus, positive=True)
    bounds = _read_range(value_range)
    with untouched(analyzer.model):
        scores = Scores(analyzer.model, "output", analyzer.output)
        scores.need_one("attack_interpretation")
        array = _read_x(x, scores, bounds)
        count = read_k(k, int(np.prod(array.shape[1:])))
        before = analyzer.explain(array, neuron_selection, batch_size=size)
        maps, selection = np.asarray(before.attribution), same_neurons(before, neuron_selection)
        check_finite("The map", maps)
        top = top_weights(maps.reshape(len(maps), -1), count).reshape(maps.shape).astype("float32")
        mass = mass_share(maps, top)
        _, position, classes = scores.at([array], before.target, size)
        gradient = None
        if method == "topk":
            mode = selection if isinstance(selection, str) else analyzer.neuron_selection_mode
            mode = "index" if (before.target >= 0).all() else mode
            gradient = MapGradient(surrogate_of(analyzer, array, beta), array.shape[1:], mode, _mass_share, size)
        at_x = (mass, top, before.target, selection, position, classes)
        search = _Search(analyzer, scores, array, *at_x, gradient, epsilon, steps, length, bounds, size, seed)
        found = search.run(progress)
        after = np.asarray(analyzer.explain(found, selection, batch_size=size).attribution)
        classes_after = scores.at([found], position, size)[2]  # verified by another forward pass
    axis = 1 if scores.channels_first[0] else -1
    return AttackResult(
        x=array,
        x_adv=found,
        maps=maps,
        maps_adv=after,
        mass=mass,
        mass_adv=mass_share(after, top),
        metrics=robustness_metrics(maps, after, k=count, channel_axis=axis),
        norms=_norms(found, array),
        classes=classes,
        classes_adv=classes_after,
        epsilon=epsilon,
        method=method,
        analyzer=analyzer.registered_name_ or type(analyzer).__name__,
        channel_axis=axis,
    )


def mass_share(maps: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The share of the magnitudes of (batch, ...) that lies on the components with weights ``top``; 0 of zero maps."""
    flat, weights = (a.reshape(len(a), -1).astype("float64") for a in (np.abs(maps), top))
    return quotient((flat * weights).sum(axis=1), flat.sum(axis=1))


def _mass_share(m: Tensor, top: Tensor) -> Tensor:
    """``mass_share`` of tensors."""
    axes, sizes = tuple(range(1, len(m.shape))), ops.abs(m)
    return safe_divide(ops.sum(sizes * ops.cast(top, m.dtype), axis=axes), ops.sum(sizes, axis=axes))


@dataclass(frozen=True, eq=False)
class _Search:
    """The checked arguments, and what holds at x; without a gradient directions are random."""

    analyzer: Analyzer
    scores: Scores
    x: np.ndarray
    mass: np.ndarray
    top: np.ndarray
    target: np.ndarray
    selection: Any
    position: np.ndarray
    classes: np.ndarray
    gradient: MapGradient | None
    epsilon: float
    steps: int
    step_size: float
    value_range: tuple[float, float] | None
    batch_size: int
    seed: int

    def run(self, progress: bool) -> np.ndarray:
        """The best x' of every sample, ``batch_size`` of them at a time."""
        best, starts = self.x.copy(), range(0, len(self.x), self.batch_size)
        with files.Progress(len(starts) * self.steps, "attack", progress, "step") as bar, warnings.catch_warnings():
            for category in (ConvergenceWarning, NonFiniteWarning, ZeroMapWarning):  # told of x and x', not in between
                warnings.simplefilter("ignore", category)
            for start in starts:
                rows = slice(start, start + self.batch_size)
                best[rows] = self._best(rows, bar)
        return best

    def _best(self, rows: slice, bar: files.Progress) -> np.ndarray:
        x, top = self.x[rows], self.top[rows]
        point, best, lowest = x.copy(), x.copy(), self.mass[rows].copy()
        lengths, found = np.full(len(x), self.step_size), self._explain(x, rows)
        for number in range(self.steps):
            direction = self._directions(rows, number)
            if self.gradient is None:
                trial = x + self.epsilon * direction
            else:
                slope = _unit_samples(self.gradient(point, self.target[rows], found, top).astype("float64"))
                flat = ~slope.reshape(len(x), -1).any(axis=1)
                slope[flat] = direction[flat]
                trial = point - lengths.reshape(-1, *[1] * (x.ndim - 1)) * slope
            trial = self._feasible(trial, x)
            same = self.scores([trial], self.position[rows])[2] == self.classes[rows]
            kept = same & (_norms(trial, x) <= self.epsilon)  # after rounding
            point[kept] = trial[kept]
            lengths[~kept] /= 2
            found = self._explain(point, rows)
            mass = _usable_mass(np.asarray(found.attribution), top)
            better = kept & (mass < lowest - _LEAST)
            best[better], lowest[better] = point[better], mass[better]
            bar.update()
        return best

    def _explain(self, x: np.ndarray, rows: slice) -> Any:
        return self.analyzer.explain(x, rows_of(self.selection, rows), batch_size=self.batch_size)

    def _directions(self, rows: slice, number: int) -> np.ndarray:
        """One random direction per sample, of length 1, whatever the batch."""
        drawn = [generator(self.seed, i, number) for i in range(*rows.indices(len(self.x)))]
        return _unit_samples(np.stack([rng.standard_normal(self.x.shape[1:]) for rng in drawn]))

    def _feasible(self, trial: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The next point in the ball and in the range; clipping towards x, which is in both, keeps the norm."""
        step = trial.astype("float64") - x
        sizes = np.linalg.norm(step.reshape(len(x), -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
        near = x + step * np.minimum(1, quotient(self.epsilon * _INSIDE, sizes, 1.0))
        near = near if self.value_range is None else np.clip(near, *self.value_range)
        return near.astype(x.dtype)


def _usable_mass(maps: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The share to be lowered; maps that are not finite, or zero, count as no success."""
    flat = maps.reshape(len(maps), -1)
    usable = np.isfinite(flat).all(axis=1) & flat.any(axis=1)
    return np.where(usable, mass_share(np.nan_to_num(maps), top), np.inf)


def _unit_samples(values: np.ndarray) -> np.ndarray:
    """Samples of length 1; those that are zero or not finite become zero."""
    flat = values.reshape(len(values), -1)
    flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, 0)
    return quotient(flat, np.linalg.norm(flat, axis=1, keepdims=True)).reshape(values.shape)


def _norms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm((a.astype("float64") - b).reshape(len(a), -1), axis=1)


# --- checks --------------------------------------------------------------------------------------------------------


def _read_range(value_range: Any) -> tuple[float, float] | None:
    if value_range is None:
        return None
    bounds = arguments.as_array("value_range", value_range)
    if bounds.shape != (2,) or bounds.dtype.kind not in "iuf" or not bounds[0] < bounds[1]:
        raise InvalidInputError(f"value_range must be (low, high) with low < high, or None, got {value_range!r}.")
    return float(bounds[0]), float(bounds[1])


def _read_x(x: Any, scores: Scores, value_range: tuple[float, float] | None) -> np.ndarray:
    taken = scores.specs[0].dtype
    if not numerics.is_float(taken):
        raise InvalidInputError(
            f"The attack moves x continuously, but the model takes {taken} numbers. Attack the part of the model "
            f"behind the embedding or the cast: keras.Model(layer.output, model.output)."
        )
    (array,) = scores.flat(x)
    if value_range is not None and (array.min() < value_range[0] or array.max() > value_range[1]):
        raise InvalidInputError(
            f"x holds values from {array.min():g} to {array.max():g}, outside of value_range={value_range}."
        )
    return array
