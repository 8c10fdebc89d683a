"""The relevance ordering test: keep the most relevant features, randomise the rest, watch the score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from innv_ext import arguments, files
from innv_ext.analyzers.parts.partition import Partition
from innv_ext.analyzers.parts.replacement import Replacement, Sampler
from innv_ext.backend.arrangement import Arrangement, arrangements
from innv_ext.backend.tracing import untouched
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.columns import replacements
from innv_ext.evaluation.features import ranks, read_features, relevance_of
from innv_ext.evaluation.results import EvaluationResult, Named, markdown
from innv_ext.evaluation.subject import (
    Arrays,
    Copies,
    Scores,
    check_model,
    generator,
    maps_by_name,
    per_input,
    read_classes,
    read_neurons,
    tell_not_finite,
)

# the vertical axis' label and upper end, and whether a large area is good
PANELS = {
    "distortion": ("distortion (squared change of the output)", None, False),
    "accuracy": ("accuracy", 1.02, True),
}
_NOISE, _TIES = 0, 1  # streams of random numbers
_TAKES = {"uniform": (), "gaussian": ("mean", "std"), "constant": ("mean",)}  # what each kind of noise needs


def relevance_ordering(
    model: keras.Model,
    x: Any,
    relevance: Any,
    *,
    neuron_selection: Any = None,
    labels: Any = None,
    noise: str | Sampler | None = None,
    mean: Any = None,
    std: Any = None,
    data: Any = None,
    rates: Any = 51,
    samples: int = 64,
    features: Any = "component",
    on: str = "output",
    output: str | int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> OrderingResult:
    """Test orders of relevance: the faster the model recovers while the rest of x is random, the better.

    For every rate, the round(rate * n) most relevant of n features keep their values and the others are replaced by
    noise. The distortion is the mean of (score(x) - score(perturbed x))^2 over ``samples`` draws, the accuracy the
    share of perturbed copies that are classified as ``labels``. Noise is drawn anew for each rate and each copy, but is
    the same for all maps that are compared: it depends on the seed, the position of the sample in x, the rate's number
    and the copy's number only.

    Parameters
    ----------
    model : built keras.Model; it is never changed. Where it has several inputs, the features are those of all of them
        together, and whatever is told about samples (noise, mean, std, features) may be a list with one entry per
        input, or a dict by their names
    x : array (batch, ...), or a list or dict of arrays for a model with several inputs
    relevance : array shaped like x, or a list or dict of them for several inputs; or (batch, features); "random" for a
        random order; or a dict {name: either} to compare. Larger means more relevant; equals are ordered at random
    neuron_selection : the neuron whose score is followed: one index, one per sample, or tuple indices for outputs of
        rank > 2; None: the largest output at x
    labels : int array (batch,), the classes that count as right; None: the classes predicted at x. A single output
        neuron has the classes 0 and 1, told apart by 0.5 behind a sigmoid and by 0 otherwise
    noise : "uniform" over [min, max] of each sample; "gaussian", N(mean, std^2); "constant", ``mean``; or a function
        (x (batch, ...), samples, rng) -> (batch, samples, ...), called with one sample at a time. Where the model takes
        whole numbers, noise is rounded. None: "gaussian" for tables, whose columns have units of their own, and where
        mean and std are given; else "uniform"
    mean, std : numbers or arrays that broadcast to one sample, e.g. ``X_train.mean(axis=0)``
    data : training data, as in ``fit`` of analyzers, from which mean and std of each column of a table are taken; None:
        from x, with a warning
    rates : how many rates, evenly spaced from 0 to 1, or an increasing array of shares
    samples : noisy copies per sample of x and rate
    features : what is kept or randomised as one: "component" (every value), "pixel" (all channels of a pixel or
        time step; its relevance is their sum), or an int array of labels (superpixels; sums too) for one
        sample or per sample, with or without the channel axis
    on : "output" follows the model's output (probabilities behind a softmax), "logits" cuts a trailing softmax or
        sigmoid
    output : name or position of the output, for models with several
    batch_size : most samples in one forward pass, perturbed copies included
    seed : makes noise and ties repeatable
    progress : show a progress bar on work longer than three seconds

    Raises
    ------
    InvalidInputError
        for shapes that don't match, NaN, an empty batch, rates that are no increasing shares, labels or neurons out of
        range, or missing mean or std

    Notes
    -----
    Macdonald et al. (2019), "A rate-distortion framework for explaining neural network decisions"; Macdonald et al.
    (2022), "Interpretable Neural Networks with Frank-Wolfe", sections 2.2 and 4. A variant of pixel flipping (Samek et
    al. 2017).

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[4.0], [2.0], [1.0]])])
    >>> maps = {"good": [[4.0, 2.0, 1.0]], "bad": [[1.0, 2.0, 4.0]]}
    >>> result = relevance_ordering(model, np.ones((1, 3)), maps, noise="constant", mean=0, rates=4)
    >>> result.distortion["good"].tolist()
    [[49.0, 9.0, 1.0, 0.0]]
    >>> result.distortion["bad"].tolist()
    [[49.0, 36.0, 16.0, 0.0]]
    """
    check_model(model)
    size, samples = arguments.positive_int("batch_size", batch_size), arguments.positive_int("samples", samples)
    shares, seed = _read_rates(rates), arguments.positive_int("seed", seed, 0)
    with untouched(model):
        scores = Scores(model, on, output)
        xs, keys = scores.flat(x), scores.keys
        shape, count = scores.output_shape(xs), len(xs[0])
        index = read_neurons(neuron_selection, shape, count)
        right = read_classes(labels, shape, count)
        arranged = arrangements(scores.graph, [a.shape[1:] for a in xs], pictures=True)
        grouping = read_features(per_input("features", features, keys), count, arranged)
        maps = {n: relevance_of(grouping, n, values, keys) for n, values in maps_by_name(relevance, keys).items()}
        kinds, means, stds = (per_input(*of, keys) for of in (("noise", noise), ("mean", mean), ("std", std)))
        given = [{"mean": m, "std": s} for m, s in zip(means, stds, strict=True)]
        read = (scores.structure, scores.specs, _TAKES, _usual)
        drawn = replacements("noise", kinds, data, given, xs, arranged, *read, needed=tuple(_TAKES), functions=True)
        test = _Test(scores, xs, index, right, shares, drawn, samples, grouping, size, seed)
        found = [dict(zip(maps, values, strict=True)) for values in test.run(list(maps.values()), progress)]
    return OrderingResult(shares, tuple(maps), *found)


# --- the result ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class OrderingResult(EvaluationResult):
    """Curves of the relevance ordering test.

    Attributes
    ----------
    rates : array (rates,), the shares of features that were kept
    names : the relevance maps, in the order given
    distortion : {name: array (samples of x, rates)}, mean squared change of the score; less is better
    accuracy : {name: array (samples of x, rates)}, share of copies classified as the label; more is better

    Examples
    --------
    >>> rates = np.array([0.0, 1.0])
    >>> curves = {"a": np.array([[1.0, 0.0], [3.0, 0.0]])}
    >>> result = OrderingResult(rates, ("a",), curves, {"a": np.ones((2, 2))})
    >>> result.distortion_area["a"].tolist()
    [0.5, 1.5]
    >>> float(result.statistics("distortion_area")["a"].error)
    0.5
    """

    rates: np.ndarray
    names: tuple[str, ...]
    distortion: Named
    accuracy: Named
    derived: ClassVar[tuple[str, ...]] = ("distortion_area", "accuracy_area")

    @property
    def distortion_area(self) -> Named:
        """{name: array (samples of x,)}: area under the distortion over the rate, by the trapezoid rule."""
        return {name: trapezoid(self.distortion[name], self.rates, axis=1) for name in self.names}

    @property
    def accuracy_area(self) -> Named:
        """{name: array (samples of x,)}: area under the accuracy over the rate, by the trapezoid rule."""
        return {name: trapezoid(self.accuracy[name], self.rates, axis=1) for name in self.names}

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        samples = range(len(self.distortion[self.names[0]]))
        return {"relevance": self.names, "sample": samples, "rate": self.rates}

    def columns(self) -> dict[str, Named]:
        return {"distortion": self.distortion, "accuracy": self.accuracy}

    def table(self) -> str:
        """A markdown table of the areas, mean ± standard error over the samples of x; least distortion first."""
        areas = [self.statistics(of) for of in self.derived]
        ranked = sorted(self.names, key=lambda n: areas[0][n].mean)
        rows = [(name, *(of[name] for of in areas)) for name in ranked]
        return markdown(("relevance", "distortion area", "accuracy area"), rows)

    def draw(self, ax: Any = None, *, spread: str = "error") -> Figure:
        """Draw distortion and accuracy over the rate, two panels: mean curves with a shaded spread, sorted by area.

        Parameters
        ----------
        spread : what is shaded: ± standard "error" of the mean, its 95 % "confidence" interval (Student's t), or ±
            "std" (standard deviation over the samples of x, as in the paper)

        Notes
        -----
        Figures 4 and 6 of Macdonald et al. (2022), "Interpretable Neural Networks with Frank-Wolfe".
        """
        panels = [
            plotting.Panel(label, self.statistics(of), self.statistics(f"{of}_area"), "area", more_is_better, (0, top))
            for of, (label, top, more_is_better) in PANELS.items()
        ]
        return plotting.draw(ax, self.rates, "rate (non-randomised components)", panels, spread)

    def __repr__(self) -> str:
        best = min(self.names, key=lambda n: self.distortion_area[n].mean())
        counts = f"{len(self.names)} maps, {len(self.axes['sample'])} samples, {len(self.rates)} rates"
        return f"OrderingResult({counts}; least distortion: {best!r})"


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Test:
    """The checked arguments."""

    scores: Scores
    xs: Arrays
    index: np.ndarray
    labels: np.ndarray | None
    rates: np.ndarray
    noise: Sequence[Replacement]
    samples: int
    features: Partition
    batch_size: int
    seed: int

    def run(self, maps: Sequence[np.ndarray], progress: bool) -> np.ndarray:
        """(2, maps, samples of x, rates): distortion and accuracy."""
        score, target, predicted = self.scores.at(self.xs, self.index, self.batch_size)
        labels = predicted if self.labels is None else self.labels
        copies = max(noise.copies(self.samples) for noise in self.noise)
        kept = np.rint(self.rates * self.features.counts[:, None]).astype("int64")  # features, per sample and rate
        sums = np.zeros((2, len(maps), *kept.shape))
        with files.Progress(kept.size, "relevance_ordering", progress, "rate") as bar:
            perturbed = self._perturbed(maps, kept, copies, bar)
            for (j, i, r), scores, classes in self.scores.follow(perturbed, target, self.batch_size):
                np.add.at(sums[0], (j, i, r), (score[i] - scores) ** 2)
                np.add.at(sums[1], (j, i, r), classes == labels[i])
        for i, r in np.argwhere(kept == 0):  # all is perturbed: whatever the order
            sums[:, :, i, r] = sums[:, :1, i, r]
        for i, r in np.argwhere(kept == self.features.counts[:, None]):  # nothing is perturbed
            sums[1, :, i, r] = copies * (predicted[i] == labels[i])
        tell_not_finite("relevance_ordering", sums[0])
        return sums / copies

    def _perturbed(self, maps: Sequence[np.ndarray], kept: np.ndarray, copies: int, bar: files.Progress) -> Copies:
        """Perturbed copies, each with its map, sample and rate; those of the first map where no feature is kept."""
        for i in range(len(self.index)):
            places = [ranks(self.features, values, i, generator(self.seed, _TIES, i)) for values in maps]
            for r, count in enumerate(kept[i]):
                if count < self.features.counts[i]:
                    for pieces in self._noise(i, r, copies):
                        for j, place in enumerate(places if count else places[:1]):
                            each = zip(place, self.xs, pieces, strict=True)
                            rows = [np.where(own < count, x[i], piece) for own, x, piece in each]
                            yield from ((row, (j, i, r)) for row in zip(*rows, strict=True))
                bar.update()

    def _noise(self, i: int, r: int, copies: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Copies of sample i for one rate, at most ``batch_size`` at a time, an array per input."""
        streams = [generator(self.seed, _NOISE, i, r, *[number] * bool(number)) for number in range(len(self.xs))]
        each = zip(self.noise, self.xs, streams, strict=True)
        return zip(*(noise.pieces(x[i], copies, rng, self.batch_size) for noise, x, rng in each), strict=True)


def _usual(one: Arrangement, given: Mapping[str, Any]) -> str:
    """The noise of what is no table."""
    return "uniform" if all(value is None for value in given.values()) else "gaussian"


def _read_rates(rates: Any) -> np.ndarray:
    """Increasing shares."""
    if isinstance(rates, (int, np.integer)) and not isinstance(rates, bool):
        if rates < 2:
            raise InvalidInputError(f"rates={rates}: a curve needs at least 2.")
        return np.linspace(0, 1, rates)
    try:
        array = np.array(rates, "float64")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"rates must be an integer or an array of shares, got {rates!r}.") from error
    if array.ndim != 1 or len(array) < 2:
        raise InvalidInputError(f"rates must be an integer or at least two shares, shape (rates,), got {rates!r}.")
    if not ((array >= 0) & (array <= 1)).all() or (np.diff(array) <= 0).any():
        raise InvalidInputError(f"rates must increase and lie in [0, 1], got {array.tolist()}.")
    return array
