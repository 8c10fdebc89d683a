"""Does an explanation depend on what the model has learnt? Layers are re-initialised and the maps compared."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree
from matplotlib.figure import Figure

from innv_ext import arguments, files
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer
from innv_ext.backend import numerics
from innv_ext.backend.graph import op_key
from innv_ext.backend.kinds import KINDS, Kind
from innv_ext.backend.tracing import model_tensors, untouched
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.evaluation.measures import check_finite
from innv_ext.evaluation.plotting import COLOURS, DASHES, axes_for
from innv_ext.evaluation.results import EvaluationResult, markdown, over_samples, shown
from innv_ext.evaluation.robustness import rank_correlation, read_channel_axis, similarity
from innv_ext.evaluation.subject import OneInput, check_analyzer, generator, same_neurons

Factory = Callable[[keras.Model], Analyzer]
METRICS = {
    "rank_correlation": "rank correlation",
    "absolute_rank_correlation": "rank correlation of magnitudes",
    "ssim": "SSIM",
}
ORDERS, WAYS = ("cascading", "independent"), ("initializer", "permutation")


def randomization_check(
    model: keras.Model,
    analyzer: str | Factory,
    x: Any,
    *,
    params: Mapping[str, Any] | None = None,
    order: str = "cascading",
    how: str = "initializer",
    neuron_selection: Any = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> RandomizationResult:
    """Re-initialise the layers of a clone of the model and compare the maps with the original ones.

    A map that stays the same when the weights are random says little about what the model has learnt. The model itself
    is not touched. Explained are always the neurons that are explained with the original weights.

    Parameters
    ----------
    model : built keras.Model with one input
    analyzer : a name, or a function (model) -> analyzer, e.g. one that fits it too; it is called anew at each stage
    x : array (batch, ...)
    params : of the named analyzer
    order : "cascading": from the top down, each stage randomises one layer more; "independent": one layer at a time
    how : "initializer": new draws of each layer's own initialisers (batch statistics too go back to 0 and 1);
        "permutation": the values of each weight are shuffled
    neuron_selection : as in ``analyze``
    batch_size : most forward samples at once
    seed : makes the new weights repeatable
    progress : show a progress bar on work longer than three seconds

    Raises
    ------
    InvalidInputError
        for an unknown analyzer, order or way, several inputs, or maps that are not finite
    UnsupportedModelError
        for a model without weights, or one that Keras cannot clone

    Notes
    -----
    Adebayo et al. (2018), "Sanity checks for saliency maps", section 3. An initialiser with a seed of its own gives the
    weights with which training began: use "permutation" with such. Layers that prepare the data (Normalization,
    lookups) keep their state. SSIM as in ``robustness_metrics``.

    Examples
    --------
    >>> found = randomization_check(model, "lrp.epsilon", x)
    >>> print(found.table())
    """
    arguments.choice("order", order, ORDERS)
    arguments.choice("how", how, WAYS)
    size, seed = arguments.positive_int("batch_size", batch_size), arguments.positive_int("seed", seed, 0)
    subject = OneInput(model, "randomization_check")
    array, axis = subject.samples(x), 1 if subject.channels_first[0] else -1
    make = _factory(analyzer, dict(params or {}), size)
    clone, fresh = _clone(model, array[:1], seed)
    units = _units(clone)
    if not units:
        raise UnsupportedModelError(f"{model.name!r} has no weights to randomise.")
    if how == "permutation":
        fresh = {name: _shuffled(layer, seed, i) for i, (name, layer) in enumerate(units)}
    _check_equal(model, clone, array[:size])
    explainer = make(clone)
    first = explainer.explain(array, neuron_selection, batch_size=size)
    original, selection = np.asarray(first.attribution), same_neurons(first, neuron_selection)
    check_finite("The map", original)
    kept, found = {name: _values(layer) for name, layer in units}, []
    for name, layer in files.Progress(units[::-1], "randomization_check", progress, "stage"):
        layer.set_weights(fresh[name])
        if not isinstance(analyzer, str):  # named ones read the weights anew
            explainer = make(clone)
        maps = np.asarray(explainer.analyze(array, selection, batch_size=size))
        check_finite("The map", maps)
        found.append(_compare(original, maps, axis))
        if order == "independent":
            layer.set_weights(kept[name])
    stages = tuple(name for name, _ in units[::-1])
    title = analyzer if isinstance(analyzer, str) else getattr(analyzer, "__name__", type(analyzer).__name__)
    return RandomizationResult(stages, *(np.stack(values) for values in zip(*found, strict=True)), order, title)


# --- the result ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class RandomizationResult(EvaluationResult):
    """Agreement of maps with those of the original weights; 1 is equal.

    Attributes
    ----------
    stages : the layer that was randomised at each stage, from the top down
    rank_correlation, absolute_rank_correlation : Spearman's, of the values and of their magnitudes, (stages, samples)
    ssim : (stages, samples)
    order : "cascading" or "independent"
    analyzer : its name
    """

    stages: tuple[str, ...]
    rank_correlation: np.ndarray
    absolute_rank_correlation: np.ndarray
    ssim: np.ndarray
    order: str
    analyzer: str

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        return {"stage": self.stages, "sample": range(self.ssim.shape[1])}

    def columns(self) -> dict[str, np.ndarray]:
        return {of: getattr(self, of) for of in METRICS}

    def measures(self) -> dict[str, np.ndarray]:
        return {of: values.T for of, values in self.columns().items()}

    def table(self) -> str:
        """A markdown table, mean ± standard error over the samples."""
        rows = [(stage, *(over_samples(getattr(self, of)[i]) for of in METRICS)) for i, stage in enumerate(self.stages)]
        return markdown(("randomised", *METRICS.values()), rows)

    def draw(self, ax: Any = None) -> Figure:
        """Draw the means over the stages, with standard errors, on one axes."""
        size = (2.5 + 0.45 * len(self.stages), 4)
        (panel,) = axes_for(ax, (1, 1), "agreement", size, dpi=None).flat
        places = np.arange(len(self.stages) + 1)
        for j, (of, label) in enumerate(METRICS.items()):
            found = self.statistics(of)
            means, errors = np.append(1.0, found.mean), np.append(0.0, np.nan_to_num(found.error))
            panel.errorbar(places, means, errors, color=COLOURS[j], linestyle=DASHES[j], marker="o", ms=3, label=label)
        panel.set_xticks(places, ["original", *self.stages], rotation=45, ha="right", fontsize=8)
        panel.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        before = "up to this layer, from the top" if self.order == "cascading" else "at this layer alone"
        panel.set(title=self.analyzer, xlabel=f"random weights {before}", ylabel="agreement with the original map")
        panel.set_ylim(top=1.05)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
        return panel.figure.figure

    def __repr__(self) -> str:
        last = shown(over_samples(self.absolute_rank_correlation[-1]))
        return (
            f"RandomizationResult({self.analyzer!r}, {self.order!r}, {len(self.stages)} stages, {self.ssim.shape[1]} "
            f"samples; rank correlation of magnitudes at the last: {last})"
        )


# --- the clone and its analyzer ------------------------------------------------------------------------------------


def _factory(analyzer: Any, params: dict[str, Any], size: int) -> Factory:
    """What makes the analyzer of a clone."""
    if isinstance(analyzer, str):
        return lambda clone: create_analyzer(analyzer, clone, **{"batch_size": size, **params})
    if not callable(analyzer) or isinstance(analyzer, Analyzer):
        raise InvalidInputError(
            f"analyzer must be a name or a function (model) -> analyzer, got {analyzer!r}: it explains a clone."
        )
    if params:
        raise InvalidInputError(f"params= are of a named analyzer; {analyzer!r} can set {sorted(params)} itself.")
    return lambda clone: check_analyzer(analyzer(clone))


def _compare(a: np.ndarray, b: np.ndarray, channel_axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank correlation of values and of magnitudes, SSIM: arrays (batch,)."""
    rows = [m.reshape(len(m), -1) for m in (a, b)]
    signed, absolute = rank_correlation(*rows), rank_correlation(*(np.abs(r) for r in rows))
    axis = read_channel_axis(channel_axis, a.ndim)
    return signed, absolute, similarity(a.astype("float64"), b.astype("float64"), axis)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initialisers without a seed take one from Python's generator, which is put back.

    Not the numbers that ``keras.utils.set_random_seed(seed)`` gave when the model was made: they are its first weights.
    """
    state = random.getstate()
    random.seed(f"randomization_check {seed}")
    try:
        yield
    finally:
        random.setstate(state)


def _clone(model: keras.Model, sample: np.ndarray, seed: int) -> tuple[keras.Model, dict[str, list[np.ndarray]]]:
    """A clone with the weights of the model, and {layer: freshly initialised values}."""
    try:
        with untouched(model), _seeded(seed):
            clone = keras.models.clone_model(model)
            if not clone.built:
                clone(tree.pack_sequence_as(model_tensors(model)[0], [sample]), training=False)
        fresh = {name: _values(layer) for name, layer in _units(clone)}
        clone.set_weights(model.get_weights())
        for _, layer in _layers(clone):
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it works with values that it derives from its weights
    except Exception as error:  # whatever a user's own layer raises
        raise UnsupportedModelError(
            f"Keras cannot clone {model.name!r} ({type(error).__name__}: {error}). Its own layers and model class need "
            f"get_config() and from_config(); functions in Lambda layers can become layers."
        ) from error
    return clone, fresh


def _units(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    """(name, layer) with learnt weights, from the input up; shared layers count once."""
    found: list[tuple[str, keras.layers.Layer]] = []
    for name, layer in _layers(model):
        learns = layer.weights and KINDS.get(op_key(layer)) not in (Kind.RESCALE, Kind.DISCRETE)
        if learns and not any(layer is other for _, other in found):
            found.append((name, layer))
    return found


def _layers(model: keras.Model, path: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers with their names, nested models opened."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer, f"{path}{layer.name}/")
        else:
            yield f"{path}{layer.name}", layer


def _values(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [np.array(w) for w in layer.get_weights()]


def _shuffled(layer: keras.layers.Layer, seed: int, number: int) -> list[np.ndarray]:
    rng = generator(seed, number)
    return [rng.permutation(v.ravel()).reshape(v.shape) for v in _values(layer)]


def _check_equal(model: keras.Model, clone: keras.Model, x: np.ndarray) -> None:
    """With the same weights a clone must compute the same."""
    outputs = []
    for m in (model, clone):
        with untouched(m):
            outputs.append(tree.flatten(m(tree.pack_sequence_as(model_tensors(m)[0], [x]), training=False)))
    if not all(numerics.close(a, b) for a, b in zip(*outputs, strict=True)):
        raise UnsupportedModelError(
            f"A clone of {model.name!r} with the same weights computes something else: get_config() of its layers or "
            f"of its class leaves something out."
        )
