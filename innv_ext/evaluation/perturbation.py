"""Perturbation analysis: take the regions of x away in the order of their relevance and watch the score fall."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from matplotlib.figure import Figure

from innv_ext import arguments, files
from innv_ext.analyzers.parts.partition import Partition
from innv_ext.analyzers.parts.replacement import Replacement, fitted
from innv_ext.backend.arrangement import Arrangement, arrangements
from innv_ext.backend.tracing import untouched
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.columns import replacements
from innv_ext.evaluation.features import RANDOM, ranks, read_regions, relevance_of
from innv_ext.evaluation.results import EvaluationResult, Named, markdown, over_samples
from innv_ext.evaluation.subject import (
    Arrays,
    Copies,
    Scores,
    check_model,
    generator,
    maps_by_name,
    per_input,
    read_neurons,
    tell_not_finite,
)

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
    perturbation: str | None = None,
    value: Any = None,
    mean: Any = None,
    std: Any = None,
    data: Any = None,
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
    model, x, on, output, neuron_selection, batch_size, progress : as in ``relevance_ordering``; of several inputs, the
        regions of all are perturbed in one order, and regions, perturbation, value, mean, std and sigma may be a list
        with one entry per input, or a dict by their names
    relevance : array shaped like x (or like it without channels), or a list or dict of them for several inputs; or
        (batch, regions), blocks row by row, input by input; or a dict {name: either} to compare; "random" for a random
        order. Regions of equal relevance are ordered at random
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
        "blur": the sample smoothed by a Gaussian with standard deviations ``sigma``.
        None: what the arguments below belong to; without any "mean", for tables, whose columns have units of their
        own, "gaussian", for tokens "uniform"
    value, mean, std : numbers or arrays that broadcast to one sample, e.g. ``X_train.mean(axis=0)``
    data : training data, as in ``fit`` of analyzers, from which mean and std of each column of a table are taken; None:
        from x, with a warning
    sigma : a number, or one per axis of positions; None: an eighth of each side
    steps : how many regions are perturbed at most; None: all
    aggregate : the relevance of a region is the "mean" or the "sum" of its values
    samples : copies with noise of their own, for "uniform" and "gaussian"; the curve is their mean
    random_baseline : add a row "random", the mean over 5 random orders
    seed : makes noise, ties and random orders repeatable

    Raises
    ------
    InvalidInputError
        for shapes that don't match, NaN, an empty batch, regions larger than x, more steps than regions, missing or
        superfluous arguments of the perturbation

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
    seed, orders = arguments.positive_int("seed", seed, 0), _read_orders(order)
    with untouched(model):
        scores = Scores(model, on, output)
        keys = scores.keys
        maps = maps_by_name(relevance, keys)
        if random_baseline and RANDOM in maps:
            raise InvalidInputError(
                "relevance has the name 'random', which is the baseline's. Give the map another name, or pass "
                "random_baseline=False."
            )
        xs = scores.flat(x)
        index = read_neurons(neuron_selection, scores.output_shape(xs), len(xs[0]))
        arranged = arrangements(scores.graph, [a.shape[1:] for a in xs], pictures=True)
        parts = read_regions(per_input("regions", regions, keys), len(xs[0]), arranged)
        most = int(parts.counts.max())
        count = most if steps is None else arguments.positive_int("steps", steps)
        if count > most:
            raise InvalidInputError(f"steps={steps}, but x has only {most} regions. None perturbs all of them.")
        found = {name: relevance_of(parts, name, values, keys, aggregate) for name, values in maps.items()}
        ranked = [ORDERS[o] * values for o in orders for values in found.values()]
        baseline = RANDOM_ORDERS if random_baseline else 0
        told = {"value": value, "mean": mean, "std": std, "sigma": sigma}
        told = {argument: per_input(argument, given, keys) for argument, given in told.items()}
        given = [{argument: own[i] for argument, own in told.items()} for i in range(len(keys))]
        kinds, read = per_input("perturbation", perturbation, keys), (scores.structure, scores.specs, _TAKES, _usual)
        noise = replacements("perturbation", kinds, data, given, xs, arranged, *read)
        copies = max(own.copies(samples) for own in noise)
        run = _Run(scores, xs, index, parts, ranked, baseline, noise, copies, count, size, seed)
        rows = {f"{name} ({o})" if len(orders) > 1 else name: o for o in orders for name in maps}
        rows |= {RANDOM: RANDOM} if random_baseline else {}
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
        spread : the band around the mean, as in ``OrderingResult.draw``
        """
        scores, aopc = self.statistics("scores"), self.statistics("aopc")
        panels = []
        for order in [o for o in TITLES if o in self.orders]:
            own = self._rows(order, RANDOM)
            curves, numbers = ({name: of[name] for name in own} for of in (scores, aopc))
            panels.append(plotting.Panel(f"score, {TITLES[order]}", curves, numbers, "AOPC", order == "morf"))
        return plotting.draw(ax, self.perturbed, "perturbed regions", panels, spread)

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
    """The checked arguments; ``maps`` has the relevance of regions, (batch, most regions), the first largest."""

    scores: Scores
    xs: Arrays
    index: np.ndarray
    regions: Partition
    maps: Sequence[np.ndarray]
    random_orders: int
    noise: Sequence[Replacement]
    copies: int
    steps: int
    batch_size: int
    seed: int

    def run(self, progress: bool) -> np.ndarray:
        """(2, rows, samples of x, steps + 1): scores and shares of copies of unchanged class."""
        score, target, predicted = self.scores.at(self.xs, self.index, self.batch_size)
        orders = np.array([1] * len(self.maps) + [self.random_orders] * bool(self.random_orders))
        found = np.zeros((2, len(orders), len(self.index), self.steps + 1))
        found[:, :, :, 0] = np.stack([score, np.ones_like(score)])[:, None]
        total = len(self.index) * orders.sum() * self.copies * self.steps
        with files.Progress(int(total), "perturbation_analysis", progress, "copy") as bar:
            for (row, i, step), scores, classes in self.scores.follow(self._perturbed(), target, self.batch_size):
                weight = 1 / (self.copies * orders[row])
                np.add.at(found[0], (row, i, step), weight * scores)
                np.add.at(found[1], (row, i, step), weight * (classes == predicted[i]))
                bar.update(len(scores))
        tell_not_finite("perturbation_analysis", found[0])
        return found

    def _perturbed(self) -> Copies:
        """Perturbed copies, each with its row, sample and step; random orders share the row behind those of maps."""
        for i, j in itertools.product(range(len(self.index)), range(len(self.maps) + self.random_orders)):
            places = self._places(i, j)
            for copy in range(self.copies):
                other = self._other(i, copy)
                for step in range(self.steps):
                    each = zip(places, other, self.xs, strict=True)
                    row = [np.where(p <= step, own, x[i]) for p, own, x in each]
                    yield row, (min(j, len(self.maps)), i, step + 1)

    def _places(self, i: int, j: int) -> list[np.ndarray]:
        """For each value of sample i the number of the step that perturbs it, an array per input."""
        if j < len(self.maps):
            return ranks(self.regions, self.maps[j], i, generator(self.seed, _TIES, i))
        number = j - len(self.maps)  # so that the baseline does not depend on the maps
        return ranks(self.regions, np.zeros_like(self.maps[0]), i, generator(self.seed, _BASELINE, i, number))

    def _other(self, i: int, copy: int) -> list[np.ndarray]:
        """What perturbed regions of sample i hold, an array per input."""
        found = []
        for number, (noise, x) in enumerate(zip(self.noise, self.xs, strict=True)):
            rng = generator(self.seed, _NOISE, i, copy, *[number] * bool(number))
            found.append(fitted(noise.draw(x[i], 1, rng)[0], x.dtype))
        return found


def _usual(one: Arrangement, given: Mapping[str, Any]) -> str:
    """The perturbation that the arguments belong to; without any that of what is no table."""
    told = {"value": "constant", "sigma": "blur", "std": "gaussian", "mean": "mean"}
    plain = "mean" if one.positions else "uniform"
    return next((kind for name, kind in told.items() if given[name] is not None), plain)


def _read_orders(order: Any) -> tuple[str, ...]:
    found = order if isinstance(order, tuple) else (order,)
    known = all(isinstance(o, str) and o in ORDERS for o in found)
    if not found or not known or len(set(found)) < len(found):
        raise InvalidInputError(f"order must be 'morf', 'lerf' or ('morf', 'lerf'), got {order!r}.")
    return found
