"""Perturbation analysis: take the regions of x away in the order of their relevance and watch the score fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from matplotlib.figure import Figure

from innv_ext import arguments, files
from innv_ext.analyzers.parts.partition import Partition
from innv_ext.analyzers.parts.replacement import Replacement, fitted, replacement
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.tracing import untouched
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.features import RANDOM, ranks, read_regions, relevance_of
from innv_ext.evaluation.results import EvaluationResult, Named, bands, markdown, over_samples
from innv_ext.evaluation.subject import Scores, check_model, generator, maps_by_name, read_neurons

ORDERS = {"morf": 1, "lerf": -1}  # the sign of the relevance whose largest values come first
TITLES = {"morf": "most relevant first", "lerf": "least relevant first"}
RANDOM_ORDERS = 5  # the baseline is their mean
_NOISE, _TIES, _BASELINE = 0, 1, 2  # streams of random numbers
_TAKES = {"mean": ("mean",), "constant": ("value",), "uniform": (), "gaussian": ("mean", "std"), "inversion": ()}
_TAKES["blur"] = ("sigma",)  # what each perturbation may be told


def perturbation_analysis(
    model: keras.Model,
    x: Any,
    relevance: Any,
    *,
    regions: Any = None,
    order: str | tuple[str, ...] = "morf",
    perturbation: str = "mean",
    value: Any = None,
    mean: Any = None,
    std: Any = None,
    sigma: Any = None,
    steps: int | None = None,
    aggregate: str = "mean",
    samples: int = 10,
    random_baseline: bool = True,
    on: str = "output",
    output: str | int | None = None,
    neuron_selection: Any = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> PerturbationResult:
    """Perturb the regions of x one after the other, the most relevant first: the faster the score falls, the better.

    After step s, the s first regions are perturbed. What a perturbed region holds is the same for all later steps and
    for all maps that are compared: it depends on the seed, the position of the sample in x and the copy's number only.

    Parameters
    ----------
    model : built keras.Model with one input; it is never changed
    x : array (batch, ...)
    relevance : array shaped like x (or like it without channels), or (batch, regions), blocks row by row; or a dict
        {name: either} to compare; "random" for a random order. Regions of equal relevance are ordered at random
    regions : an integer or a tuple with one size per axis of positions: blocks with all channels of their positions,
        cut off at the far sides if these are no multiples; pictures without a channel axis need one size per axis.
        "component" (every value), "pixel" (all channels of a pixel or time step), or an int array of labels
        (superpixels) for one sample or per sample, with or without the channel axis; a sample with fewer regions than
        others keeps its last score for the steps that it has not got. None: blocks of an eighth of each
        side; single columns of tables, single tokens
    order : "morf" (most relevant first), "lerf" (least relevant first), or a tuple of both
    perturbation : what a perturbed region holds, rounded where the model takes whole numbers.
        "mean": the mean of each channel of the sample, or ``mean``; "constant": ``value``; "uniform": uniform noise
        over [min, max] of the sample; "gaussian": noise in place of the values, N(mean, std^2), by default with mean
        and standard deviation of each channel of the sample; "inversion": max + min - x, extremes of the sample;
        "blur": the sample smoothed by a Gaussian with standard deviations ``sigma``
    value, mean, std : numbers or arrays that broadcast to one sample, e.g. ``X_train.mean(axis=0)``
    sigma : a number, or one per axis of positions; None: an eighth of each side
    steps : how many regions are perturbed at most; None: all
    aggregate : the relevance of a region is the "mean" or the "sum" of its values
    samples : copies with noise of their own, for "uniform" and "gaussian"; the curve is their mean
    random_baseline : add a row "random", the mean over 5 random orders
    on : "output" follows the model's output (probabilities behind a softmax), "logits" cuts a trailing softmax or
        sigmoid
    output : name or position of the output, for models with several
    neuron_selection : the neuron whose score is followed: one index, one per sample, or tuple indices for outputs of
        rank > 2; None: the largest output at x
    batch_size : most samples in one forward pass, perturbed copies included
    seed : makes noise, ties and random orders repeatable
    progress : show a progress bar on work longer than three seconds

    Returns
    -------
    PerturbationResult
        curves per map and sample, ``aopc``, ``table()``, ``plot()``, ``to_dict()``, ``to_frame()``

    Raises
    ------
    InvalidInputError
        for shapes that don't match, NaN, an empty batch, regions larger than x, more steps than regions, missing or
        superfluous arguments of the perturbation, or a model with several inputs

    Notes
    -----
    Samek et al. (2017), "Evaluating the visualization of what a deep neural network has learned", where it is called
    region perturbation. A region's perturbation does not depend on what was perturbed before.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[4.0], [2.0], [1.0]])])
    >>> maps = {"good": [[4.0, 2.0, 1.0]], "bad": [[1.0, 2.0, 4.0]]}
    >>> result = perturbation_analysis(model, np.ones((1, 3)), maps, perturbation="constant", value=0)
    >>> result.scores["good"].tolist(), result.scores["bad"].tolist()
    ([[7.0, 3.0, 1.0, 0.0]], [[7.0, 6.0, 4.0, 0.0]])
    >>> result.aopc["good"].tolist()
    [4.25]
    """
    check_model(model)
    size, samples = arguments.positive_int("batch_size", batch_size), arguments.positive_int("samples", samples)
    orders, maps = _read_orders(order), _read_maps(relevance, random_baseline)
    seed = arguments.positive_int("seed", seed, 0)
    with untouched(model):
        scores = Scores(model, on, output, "perturbation_analysis")
        array = scores.samples(x)
        index = read_neurons(neuron_selection, scores.output_shape(array), len(array))
        (one,) = arrangements(scores.graph, [array.shape[1:]], pictures=True)
        parts = read_regions(regions, len(array), one)
        given = {"value": value, "mean": mean, "std": std, "sigma": sigma}
        noise = replacement("perturbation", perturbation, one, _TAKES, given)
        count = _read_steps(steps, int(parts.counts.max()))
        found = {name: relevance_of(parts, name, values, aggregate) for name, values in maps.items()}
        ranked = [ORDERS[o] * values for o in orders for values in found.values()]
        baseline = RANDOM_ORDERS if random_baseline else 0
        run = _Run(scores, array, index, parts, ranked, baseline, noise, noise.copies(samples), count, size, seed)
        rows = _rows(orders, tuple(maps), random_baseline)
        found = [dict(zip(rows, values, strict=True)) for values in run.run(progress)]
    return PerturbationResult(np.arange(count + 1), tuple(rows), tuple(rows.values()), *found)


# --- the result ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationResult(EvaluationResult):
    """Curves of a perturbation analysis.

    Attributes
    ----------
    perturbed : int array (steps + 1,), 0, 1, 2, ...: the number of perturbed regions
    names : the rows: the relevance maps in the order given, "name (morf)" and "name (lerf)" where both orders were
        asked for, and "random", the mean over random orders, if it was
    orders : "morf", "lerf" or "random" for each row
    scores : {name: array (samples of x, steps + 1)}, the score of the neuron
    agreement : {name: array (samples of x, steps + 1)}, share of copies that are classified as x is

    Examples
    --------
    >>> curves = {"a": np.array([[1.0, 0.5, 0.0], [3.0, 0.0, 0.0]])}
    >>> result = PerturbationResult(np.arange(3), ("a",), ("morf",), curves, {"a": np.ones((2, 3))})
    >>> result.aopc["a"].tolist()
    [0.5, 2.0]
    >>> float(result.statistics("aopc")["a"].mean)
    1.25
    """

    perturbed: np.ndarray
    names: tuple[str, ...]
    orders: tuple[str, ...]
    scores: Named
    agreement: Named
    derived: ClassVar[tuple[str, ...]] = ("aopc",)

    @property
    def aopc(self) -> Named:
        """{name: array (samples of x,)}: area over the perturbation curve, the mean of f(x_0) - f(x_k), k = 0..steps.

        Large is good for the most relevant first, small for the least relevant first. Samek et al. (2017).
        """
        return {name: (curve[:, :1] - curve).mean(axis=1) for name, curve in self.scores.items()}

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        samples = range(len(self.scores[self.names[0]]))
        return {"relevance": self.names, "sample": samples, "perturbed": self.perturbed}

    def columns(self) -> dict[str, Named]:
        return {"score": self.scores, "agreement": self.agreement}

    def measures(self) -> dict[str, Named]:
        return {"scores": self.scores, "agreement": self.agreement, "aopc": self.aopc}

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples of x: per order, the best first."""
        aopc = self.statistics("aopc")
        rows = [
            (name, order, aopc[name], over_samples(self.agreement[name].mean(axis=1)))
            for order in dict.fromkeys(self.orders)
            for name in self._ranked(order)
        ]
        return markdown(("relevance", "order", "AOPC", "mean agreement"), rows)

    def draw(self, ax: Any = None, *, spread: str = "error") -> Figure:
        """Draw the score over the number of perturbed regions, a panel for each order; legends sorted by AOPC.

        Parameters
        ----------
        ax : matplotlib axes to draw on, two where both orders were asked for; None makes a figure
        spread : the band around the mean: ± standard "error", its 95 % "confidence" interval (Student's t), or ± "std"
            (standard deviation over the samples of x)

        Raises
        ------
        InvalidInputError
            for the wrong number of axes, or an unknown ``spread``
        """
        shown, aopc = bands(self.statistics("scores"), spread), self.statistics("aopc")
        names = {order: self._rows(order, RANDOM) for order in TITLES if order in self.orders}
        panels = [
            plotting.Panel(
                f"score, {TITLES[order]}",
                {name: shown[name] for name in own},
                {name: float(aopc[name].mean) for name in own},
                "AOPC",
                order == "morf",
            )
            for order, own in names.items()
        ]
        axes = plotting.curve_axes(ax, [TITLES[order] for order in names], len(next(iter(names.values()))))
        return plotting.draw(axes, self.perturbed, "perturbed regions", panels)

    def _rows(self, *orders: str) -> list[str]:
        return [name for name, own in zip(self.names, self.orders, strict=True) if own in orders]

    def _ranked(self, order: str) -> list[str]:
        """The rows of this order, the best first."""
        return sorted(self._rows(order), key=lambda name: self.aopc[name].mean(), reverse=order == "morf")

    def __repr__(self) -> str:
        first = self.orders[0]
        counts = f"{len(self.names)} rows, {len(self.axes['sample'])} samples, {len(self.perturbed) - 1} steps"
        return f"PerturbationResult({counts}; best {first}: {self._ranked(first)[0]!r})"


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Run:
    """The checked arguments.

    ``maps`` has the relevance of regions, (batch, most regions), the first to be perturbed largest. Every perturbed
    copy has a number; ``grid`` unravels it to (sample, order, copy, step), random orders behind the maps'.
    """

    scores: Scores
    x: np.ndarray
    index: np.ndarray
    regions: Partition
    maps: Sequence[np.ndarray]
    random_orders: int
    noise: Replacement
    copies: int
    steps: int
    batch_size: int
    seed: int

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """How many samples, orders, copies and steps there are."""
        return len(self.x), len(self.maps) + self.random_orders, self.copies, self.steps

    def run(self, progress: bool) -> np.ndarray:
        """(2, rows, samples of x, steps + 1): scores and shares of copies of unchanged class."""
        score, target, predicted = self.scores.at(self.x, self.index, self.batch_size)
        orders = [1] * len(self.maps) + [self.random_orders] * bool(self.random_orders)
        found = np.zeros((2, len(orders), len(self.x), self.steps + 1))
        found[:, :, :, 0] = np.stack([score, np.ones_like(score)])[:, None]
        total, size = int(np.prod(self.grid)), self.batch_size
        for first in files.Progress(range(0, total, size), "perturbation_analysis", progress):
            i, j, copy, step = np.unravel_index(np.arange(first, min(first + size, total)), self.grid)
            scores, _, classes = self.scores(self._perturbed(i, j, copy, step), target[i])
            row = np.minimum(j, len(self.maps))
            weight = 1 / (self.copies * np.array(orders)[row])
            np.add.at(found[0], (row, i, step + 1), weight * scores)
            np.add.at(found[1], (row, i, step + 1), weight * (classes == predicted[i]))
        return found

    def _perturbed(self, i: np.ndarray, j: np.ndarray, copy: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The perturbed copies of these numbers; places and replacements are computed once for neighbours."""
        lines, line = np.unique(i * self.grid[1] + j, return_inverse=True)
        draws, draw = np.unique(i * self.copies + copy, return_inverse=True)
        places = np.stack([self._places(*divmod(n, self.grid[1])) for n in lines])
        others = np.stack([self._other(*divmod(n, self.copies)) for n in draws])
        last = step.reshape(-1, *[1] * (self.x.ndim - 1))
        return np.where(places[line] <= last, others[draw], self.x[i])

    def _places(self, i: int, j: int) -> np.ndarray:
        """For each value of sample i the number of the step that perturbs it."""
        if j < len(self.maps):
            return ranks(self.regions, self.maps[j], i, generator(self.seed, _TIES, i))
        number = j - len(self.maps)  # so that the baseline does not depend on the maps
        return ranks(self.regions, np.zeros_like(self.maps[0]), i, generator(self.seed, _BASELINE, i, number))

    def _other(self, i: int, copy: int) -> np.ndarray:
        """What perturbed regions of sample i hold."""
        return fitted(self.noise.draw(self.x[i], 1, generator(self.seed, _NOISE, i, copy))[0], self.x.dtype)


# --- checks --------------------------------------------------------------------------------------------------------


def _read_orders(order: Any) -> tuple[str, ...]:
    found = order if isinstance(order, tuple) else (order,)
    known = all(isinstance(o, str) and o in ORDERS for o in found)
    if not found or not known or len(set(found)) < len(found):
        raise InvalidInputError(f"order must be 'morf', 'lerf' or ('morf', 'lerf'), got {order!r}.")
    return found


def _read_maps(relevance: Any, random_baseline: bool) -> dict[str, Any]:
    """{name: map}; the name of the baseline must be free."""
    maps = maps_by_name(relevance)
    if random_baseline and RANDOM in maps:
        raise InvalidInputError(
            "relevance has the name 'random', which is the baseline's. Give the map another name, or pass "
            "random_baseline=False."
        )
    return maps


def _read_steps(steps: Any, regions: int) -> int:
    if steps is None:
        return regions
    if arguments.positive_int("steps", steps) > regions:
        raise InvalidInputError(f"steps={steps}, but x has only {regions} regions. None perturbs all of them.")
    return int(steps)


def _rows(orders: tuple[str, ...], names: tuple[str, ...], random_baseline: bool) -> dict[str, str]:
    """{name of the row: its order}; the order is part of the name where there are two."""
    rows = {f"{name} ({o})" if len(orders) > 1 else name: o for o in orders for name in names}
    return {**rows, RANDOM: RANDOM} if random_baseline else rows
