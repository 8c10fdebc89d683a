"""The systematic study of a data set: is the relevance where the object is?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from innv_ext import arguments, files
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation import plotting
from innv_ext.evaluation.measures import RATIOS, as_ratio, inside_and_size
from innv_ext.evaluation.results import EvaluationResult, Named, Statistics, markdown, over_samples
from innv_ext.evaluation.subject import OneInput, read_labels

SHOWN_CLASSES = 10


def systematic_inside_ratio(
    model: keras.Model,
    data: Any,
    masks: Any = None,
    *,
    analyzers: Mapping[str, Any],
    labels: Any = None,
    explain: str = "predicted",
    batch_size: int = 32,
    progress: bool = True,
) -> SystematicResult:
    """Explain every sample of a data set and measure how much relevance lies inside its mask or bounding box.

    Classes whose relevance lies outside of their objects are classes that the model tells by something else: the
    background, or a watermark.

    Parameters
    ----------
    model : built keras.Model with one input; it is never changed
    data : array (batch, ...), then ``masks`` is needed; or an iterable of batches (x, masks) or (x, masks, labels),
        also a keras ``PyDataset``, of which one batch at a time is held
    masks : as in ``inside_ratio``: bool masks or int boxes, one per sample
    analyzers : {name: parameters} of ``create_analyzer``, or {any name: analyzer of this model}; those that learn from
        data must come fitted
    labels : int array (batch,), the true classes
    explain : the "predicted" class (the largest output) or the "label"
    batch_size : most samples in one forward pass, perturbed copies included; arrays are cut into batches of this size
    progress : show a progress bar on work longer than three seconds

    Raises
    ------
    InvalidInputError
        for unknown analyzers, missing masks or labels, masks without any place, shapes that don't match (the batch is
        named), or no data

    Notes
    -----
    Section V.4.5 of the thesis behind iNNvestigate: absolute relevance inside and outside of the bounding boxes of
    ImageNet, where "basketball" had the lowest ratio, because the network looked at the scenery.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    >>> x, boxes = np.ones((6, 4, 4, 1)), np.tile([0, 0, 2, 2], (6, 1))
    >>> result = systematic_inside_ratio(model, x, boxes, analyzers={"input": {}})
    >>> result.ratio("inside_total")["input"].tolist()
    [0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    arguments.choice("explain", explain, ("predicted", "label"))
    size = arguments.positive_int("batch_size", batch_size)
    channel_axis = 1 if OneInput(model, "systematic_inside_ratio").channels_first[0] else -1
    built, parts = _build(model, analyzers), []
    batches = _batches(data, masks, labels, size)
    for number, batch in enumerate(files.Progress(batches, "systematic_inside_ratio", progress)):
        try:
            parts.append(_measure(batch, built, explain, channel_axis, size))
        except InvalidInputError as error:
            raise InvalidInputError(f"Batch {number} of the data: {error}") from error
    if not sum(len(part.size) for part in parts):
        raise InvalidInputError("data is empty: the study needs at least one sample.")
    known = [part.labels for part in parts if part.labels is not None]
    if 0 < len(known) < len(parts):
        raise InvalidInputError("Some batches of the data have labels and others don't; give all of them, or none.")
    inside = {name: np.concatenate([part.inside[name] for part in parts]) for name in built}
    sizes, predicted = (np.concatenate([getattr(part, of) for part in parts]) for of in ("size", "predicted"))
    return SystematicResult(tuple(built), inside, sizes, np.concatenate(known) if known else None, predicted)


# --- the result ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class SystematicResult(EvaluationResult):
    """How much relevance of each sample of a data set lies inside its mask.

    Attributes
    ----------
    names : the analyzers, in the order given
    inside : {name: array (samples,)}, relevance inside over all, absolute values
    size : array (samples,), the share of places that are inside the mask
    labels : int array (samples,), the true classes, or None
    predicted : int array (samples,), the flat index of the largest output

    Examples
    --------
    >>> inside = {"a": np.array([0.9, 0.8, 0.1])}
    >>> result = SystematicResult(("a",), inside, np.full(3, 0.4), np.array([0, 0, 7]), np.array([0, 0, 7]))
    >>> result.concentrated()["a"].tolist()
    [True, True, False]
    >>> round(float(result.statistics("weighted", by="class")["a"][7].mean), 3)
    0.25
    """

    names: tuple[str, ...]
    inside: Named
    size: np.ndarray
    labels: np.ndarray | None
    predicted: np.ndarray

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        return {"analyzer": self.names, "sample": range(len(self.size))}

    def columns(self) -> dict[str, Any]:
        own = {"class": self.classes, "predicted": self.predicted, "size": self.size}
        return {**own, **{kind: self.ratio(kind) for kind in RATIOS}}

    def measures(self) -> dict[str, Named]:
        return {**{kind: self.ratio(kind) for kind in RATIOS}, "concentrated": self.concentrated()}

    @property
    def classes(self) -> np.ndarray:
        """The class of each sample: its label, or what was predicted if there are no labels."""
        return self.predicted if self.labels is None else self.labels

    def ratio(self, kind: str = "weighted") -> Named:
        """{name: array (samples,)}, the ratio of this kind; see ``inside_ratio``."""
        arguments.choice("kind", kind, RATIOS)
        return {name: as_ratio(self.inside[name], self.size, kind) for name in self.names}

    def concentrated(self, threshold: float = 0.5) -> Named:
        """{name: bool array (samples,)}: whether more than this share of the relevance lies inside."""
        threshold = arguments.number("threshold", threshold, most=1)
        return {name: self.inside[name] > threshold for name in self.names}

    def statistics(self, of: str = "weighted", *, by: str | None = None) -> dict[str, Any]:
        """{name: Statistics} over the samples, or {name: {class: Statistics}}.

        Parameters
        ----------
        of : "inside_total", "weighted" or "inside_outside" (infinite where nothing is outside), or "concentrated" (the
            share of samples with more than half of the relevance inside)
        by : None, or "class"
        """
        values = self.measures()[arguments.choice("of", of, (*RATIOS, "concentrated"))]
        if arguments.choice("by", by, (None, "class")) is None:
            return over_samples(values)
        rows = {int(c): self.classes == c for c in np.unique(self.classes)}
        return over_samples({name: {c: row[own] for c, own in rows.items()} for name, row in values.items()})

    def by_size(self, *, bins: int = 10, threshold: float = 0.5) -> tuple[np.ndarray, dict[str, Statistics]]:
        """Which share of the samples has its relevance concentrated inside, by the size of the mask.

        Parameters
        ----------
        bins : how many, evenly spaced over sizes from 0 to 1; empty ones are left out
        threshold : the share of relevance that counts as concentrated when it is exceeded

        Returns
        -------
        sizes : array (bins with samples,), the mean size in each
        shares : {name: Statistics} of such arrays
        """
        bins = arguments.positive_int("bins", bins)
        place = np.minimum((self.size * bins).astype(int), bins - 1)
        rows = [place == b for b in np.unique(place)]
        sizes = np.array([self.size[own].mean() for own in rows])
        found = {}
        for name, values in self.concentrated(threshold).items():
            found[name] = Statistics(*map(np.array, zip(*(over_samples(values[own]) for own in rows), strict=True)))
        return sizes, found

    def table(self, kind: str = "weighted", *, classes: int = SHOWN_CLASSES) -> str:
        """A markdown table per analyzer and class, mean ± standard error, the lowest ratio first.

        Parameters
        ----------
        kind : the ratio that is shown and says the order
        classes : how many of the lowest classes are listed, below the line of all samples
        """
        classes = arguments.positive_int("classes", classes)
        whole, dense = self.statistics(kind), self.statistics("concentrated")
        dense_class = self.statistics("concentrated", by="class")
        counts = dict(zip(*np.unique(self.classes, return_counts=True), strict=True))
        rows: list[tuple[Any, ...]] = []
        for name in self.names:
            rows.append((name, "all", len(self.size), whole[name], dense[name]))
            lowest = list(self._by_class(name, kind).items())[:classes]
            rows += [(name, c, counts[c], found, dense_class[name][c]) for c, found in lowest]
        return markdown(("analyzer", "class", "samples", kind, "concentrated"), rows)

    def _by_class(self, name: str, kind: str = "weighted") -> dict[int, Statistics]:
        """{class: Statistics} of one analyzer, the lowest mean first."""
        return dict(sorted(self.statistics(kind, by="class")[name].items(), key=lambda entry: entry[1].mean))

    def draw(self, ax: Any = None, *, kind: str = "weighted") -> Figure:
        """Draw the share of concentrated samples by size, and the ratio of the lowest classes, ± standard errors.

        Parameters
        ----------
        kind : the ratio of the second panel, which must be finite; its order is that of the first analyzer
        """
        if not all(np.isfinite(values).all() for values in self.ratio(kind).values()):
            raise InvalidInputError(f"kind={kind!r} is infinite for some samples; take 'weighted' or 'inside_total'.")
        left, right = plotting.curve_axes(ax, ("by size", "by class"), len(self.names))
        sizes, shares = self.by_size()
        overall, meaning = self.statistics("concentrated"), "more than half of the relevance inside"
        panel = plotting.Panel("share of samples", shares, overall, meaning, True, (0, 1.02), "o")
        self._draw_classes(right, kind)
        return plotting.draw(left, sizes, "size of the mask (share of places)", [panel])

    def _draw_classes(self, ax: Axes, kind: str) -> None:
        """Points with error bars for the lowest classes."""
        of = list(self._by_class(self.names[0], kind))
        lowest = of[:SHOWN_CLASSES]
        for j, (name, found) in enumerate(self.statistics(kind, by="class").items()):
            means, errors = (np.array([getattr(found[c], field) for c in lowest]) for field in ("mean", "error"))
            places = np.arange(len(lowest)) + 0.5 * ((j + 0.5) / len(self.names) - 0.5)
            colour = plotting.look(j)["color"]
            ax.errorbar(places, means, np.nan_to_num(errors), fmt="o", markersize=4, color=colour, label=name)
        if kind == "weighted":
            ax.axhline(1, color="#888888", linewidth=0.8, zorder=0)  # relevance that is spread evenly
        ax.set_xticks(np.arange(len(lowest)), [str(c) for c in lowest])
        ax.set(xlabel=f"class (lowest {len(lowest)} of {len(of)})", ylabel=f"{kind} ratio")
        ax.set_ylim(bottom=0)
        plotting.tidy(ax)

    def __repr__(self) -> str:
        lowest = list(self._by_class(self.names[0]))
        counts = f"{len(self.names)} analyzers, {len(self.size)} samples, {len(lowest)} classes"
        return f"SystematicResult({counts}; lowest class of {self.names[0]!r}: {lowest[0]})"


# --- the run -------------------------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    """Samples with their masks, and their labels if there are any."""

    x: Any
    masks: Any
    labels: Any = None


def _measure(
    batch: _Batch, built: Mapping[str, Analyzer], explain: str, channel_axis: int, size: int
) -> SystematicResult:
    """The result of one batch."""
    count, inside = len(batch.x), {}
    labels = None if batch.labels is None else read_labels(batch.labels, count)
    if explain == "label" and labels is None:
        raise InvalidInputError("explain='label' needs labels: labels= for arrays, (x, masks, labels) for batches.")
    for name, analyzer in built.items():
        told = analyzer.explain(batch.x, labels if explain == "label" else None, batch_size=size)
        inside[name], places = inside_and_size(told.attribution, batch.masks, channel_axis)
        predicted = told.output.reshape(count, -1).argmax(axis=1) if count else np.zeros(0, "int64")
    return SystematicResult(tuple(built), inside, places, labels, predicted)


# --- checks --------------------------------------------------------------------------------------------------------


def _build(model: keras.Model, analyzers: Any) -> dict[str, Analyzer]:
    if not isinstance(analyzers, Mapping) or not analyzers or not all(isinstance(name, str) for name in analyzers):
        raise InvalidInputError(
            f"analyzers must be a dict {{name: parameters}} or {{name: analyzer}}, e.g. {{'lrp.epsilon': {{}}}}, got "
            f"{analyzers!r}."
        )
    built = {}
    for name, given in analyzers.items():
        if not isinstance(given, (Mapping, Analyzer)):
            raise InvalidInputError(f"analyzers[{name!r}] must be a dict of parameters or an analyzer, got {given!r}.")
        built[name] = given if isinstance(given, Analyzer) else create_analyzer(name, model, **given)
        if built[name].model is not model:
            raise InvalidInputError(f"analyzers[{name!r}] explains another model than the one that is studied.")
    return built


def _batches(data: Any, masks: Any, labels: Any, size: int) -> Iterator[_Batch]:
    if masks is None and labels is not None:
        raise InvalidInputError("labels= goes with arrays; batches bring their own: (x, masks, labels).")
    if masks is not None:
        named = {"data": data, "masks": masks, "labels": labels}
        arrays = [arguments.as_array(name, a) if a is not None else None for name, a in named.items()]
        counts = [len(a) if a.ndim else 0 for a in arrays if a is not None]
        if len(set(counts)) > 1:
            raise InvalidInputError(f"x, masks and labels need one entry per sample, but have {counts}.")
        return (_Batch(*(a if a is None else a[i : i + size] for a in arrays)) for i in range(0, counts[0], size))
    if isinstance(data, keras.utils.PyDataset):
        return (_read_batch(data[i]) for i in range(data.num_batches or 0))
    if isinstance(data, (np.ndarray, Mapping)) or not isinstance(data, Iterable):
        raise InvalidInputError(
            f"data is {type(data).__name__} without masks: pass masks=, or an iterable of batches (x, masks)."
        )
    return map(_read_batch, data)


def _read_batch(batch: Any) -> _Batch:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        got = f"{len(batch)} entries" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InvalidInputError(f"Batches of the data must be (x, masks) or (x, masks, labels), got {got}.")
    return _Batch(*map(np.asarray, batch))
