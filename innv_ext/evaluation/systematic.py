"""The systematic study of a data set: is the relevance where the object is?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from innv_ext import arguments, files
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer
from innv_ext.backend import facts
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import inside_and_size
from innv_ext.evaluation.systematic_result import SystematicResult


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

    Returns
    -------
    SystematicResult
        shares of relevance and of places per sample, ``table()``, ``by_size()``, ``statistics(by="class")``, ``plot()``

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
    if not isinstance(model, keras.Model):
        raise InvalidInputError(f"model must be a keras.Model, got {type(model).__name__}.")
    arguments.choice("explain", explain, ("predicted", "label"))
    size = arguments.positive_int("batch_size", batch_size)
    built = _build(model, analyzers)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*built, "size", "predicted", "labels")}
    batches = _batches(data, masks, labels, size)
    for number, batch in enumerate(files.Progress(batches, "systematic_inside_ratio", progress)):
        try:
            found = _measure(batch, built, explain, size)
        except InvalidInputError as error:
            raise InvalidInputError(f"Batch {number} of the data: {error}") from error
        for name, values in found.items():
            parts[name].append(values)
    if not parts["size"] or not sum(map(len, parts["size"])):
        raise InvalidInputError("data is empty: the study needs at least one sample.")
    if 0 < len(parts["labels"]) < len(parts["size"]):
        raise InvalidInputError("Some batches of the data have labels and others don't; give all of them, or none.")
    joined = {name: np.concatenate(values) for name, values in parts.items() if values}
    predicted = joined["predicted"]
    return SystematicResult(
        tuple(built), {name: joined[name] for name in built}, joined["size"], joined.get("labels"), predicted
    )


class _Batch(NamedTuple):
    """Samples with their masks, and their labels if there are any."""

    x: Any
    masks: Any
    labels: Any = None


def _measure(batch: _Batch, built: Mapping[str, Analyzer], explain: str, size: int) -> dict[str, np.ndarray]:
    """Shares inside for each analyzer, the size of the masks, predictions and labels."""
    count, found = len(batch.x), {}
    if batch.labels is not None:
        found["labels"] = _read_labels(batch.labels, count)
    elif explain == "label":
        raise InvalidInputError("explain='label' needs labels: labels= for arrays, (x, masks, labels) for batches.")
    for name, analyzer in built.items():
        channel_axis = 1 if facts.channels_first(analyzer.graph_) else -1
        told = analyzer.explain(batch.x, found["labels"] if explain == "label" else None, batch_size=size)
        found[name], found["size"] = inside_and_size(told.attribution, batch.masks, channel_axis)
        found["predicted"] = told.output.reshape(count, -1).argmax(axis=1) if count else np.zeros(0, "int64")
    return found


# --- checks ------------------------------------------------------------------------------------------------------


def _build(model: keras.Model, analyzers: Any) -> dict[str, Analyzer]:
    if not isinstance(analyzers, Mapping) or not analyzers or not all(isinstance(name, str) for name in analyzers):
        raise InvalidInputError(
            f"analyzers must be a dict {{name: parameters}} or {{name: analyzer}}, e.g. {{'lrp.epsilon': {{}}}}, got "
            f"{analyzers!r}."
        )
    reserved = {"size", "predicted", "labels"} & set(analyzers)
    if reserved:
        raise InvalidInputError(f"analyzers has the name {min(reserved)!r}, which the result uses; choose another.")
    built = {}
    for name, given in analyzers.items():
        if not isinstance(given, (Mapping, Analyzer)):
            raise InvalidInputError(f"analyzers[{name!r}] must be a dict of parameters or an analyzer, got {given!r}.")
        built[name] = given if isinstance(given, Analyzer) else create_analyzer(name, model, **given)
        if built[name].model is not model:
            raise InvalidInputError(f"analyzers[{name!r}] explains another model than the one that is studied.")
        inputs = len(built[name].input_specs())
        if inputs > 1:
            raise InvalidInputError(f"The study needs a model with one input, but {model.name!r} has {inputs}.")
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


def _read_labels(labels: Any, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInputError(
            f"labels must be integers of shape ({count},), one class per sample, got dtype {array.dtype} and shape "
            f"{array.shape}."
        )
    return array.astype("int64")
