"""The arguments of ``compare``, checked before anything runs: analyzers and metrics by name, and the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.analyzers.registry import create_analyzer, find
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.tracing import untouched
from innv_ext.comparison.context import Setting
from innv_ext.comparison.explaining import Plan
from innv_ext.comparison.metrics import TABLE, USUAL, Metric
from innv_ext.comparison.rows import Samples
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.columns import distribution
from innv_ext.evaluation.measures import inside_and_size
from innv_ext.evaluation.subject import Scores, read_classes, read_neurons

BETTER = ("higher", "lower", "none")


# --- analyzers -----------------------------------------------------------------------------------------------------


def read_analyzers(given: Any, model: keras.Model, output: str | int | None) -> list[Plan]:
    """What to run; ``given`` as in ``compare``."""
    plans = [_plan(entry, model, output) for entry in read_entries("analyzers", given)]
    unique("analyzers", [plan.title for plan in plans])
    if any(plan.title == "random" != plan.name for plan in plans):
        raise InvalidInputError("analyzers: the title 'random' is that of the baseline; give the analyzer another.")
    return plans


def _plan(entry: Entry, model: keras.Model, output: str | int | None) -> Plan:
    thing, params = entry.thing, entry.params
    if isinstance(thing, str):
        info = find(thing)
        if not set(params) <= set(info.parameters()) or not set(info.required()) <= set(params):
            create_analyzer(thing, model, **params)  # says what is wrong, before anything runs
        if params.get("output", output) != output:
            raise InvalidInputError(
                f"{thing!r} has output={params['output']!r}, but all analyzers must explain the same: pass "
                f"compare(..., output={params['output']!r})."
            )
        return Plan(entry.title or thing, thing, params, None, info)
    if not isinstance(thing, Analyzer) or params:
        raise InvalidInputError(
            f"analyzers has the entry {thing!r}; pass names of innv_ext.list_analyzers(), with parameters or without, "
            f"or analyzers of this model."
        )
    if thing.model is not model or thing.output != output:
        differs = "model" if thing.model is not model else "output"
        raise InvalidInputError(f"The analyzer {thing!r} explains another {differs} than compare does.")
    name = thing.registered_name_ or type(thing).__name__
    info = find(name) if thing.registered_name_ else None
    return Plan(entry.title or name, name, thing.get_params(), thing, info)


# --- metrics -------------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """A metric that is used, by its title in the table."""

    title: str
    metric: Metric
    params: dict[str, Any]


def read_metrics(given: Any) -> list[Chosen] | None:
    """The metrics that are named; ``given`` as in ``compare``, None stays so."""
    if given is None:
        return None
    found = [_chosen(entry) for entry in read_entries("metrics", given)]
    unique("metrics", [chosen.title for chosen in found])
    return found


def possible(metrics: list[Chosen] | None, setting: Setting) -> list[Chosen]:
    """The same metrics, if all that they need is there; for None, those of the usual ones that are possible."""
    whole = [x.dtype for x in setting.xs if x.dtype.kind != "f"]
    if metrics is None:
        names = [*USUAL, "inside_ratio"] if setting.masks is not None else USUAL
        return [Chosen(n, TABLE[n], {}) for n in names if not whole or "float input" not in TABLE[n].needs]
    for chosen in metrics:
        needs = chosen.metric.needs
        if "masks" in needs and setting.masks is None:
            raise InvalidInputError(f"The metric {chosen.title!r} needs masks=, which say where the object is.")
        if "one input" in needs and isinstance(setting.x, dict):
            raise InvalidInputError(
                f"The metric {chosen.title!r} takes models with one input, because {chosen.metric.alone}; this one has "
                f"{list(setting.x)}."
            )
        if "float input" in needs and whole:
            raise InvalidInputError(
                f"The metric {chosen.title!r} moves x by a little, but the model takes {whole[0]} numbers."
            )
    return metrics


def _chosen(entry: Entry) -> Chosen:
    thing, params = entry.thing, entry.params
    if isinstance(thing, str):
        metric = TABLE[arguments.choice("metrics", thing, tuple(TABLE))]
    elif isinstance(thing, Metric):
        metric = thing
        arguments.choice(f"better of the metric {metric.name!r}", metric.better, BETTER)
    elif callable(thing):
        name = getattr(thing, "__name__", type(thing).__name__)
        metric = Metric(name, thing, " ".join((thing.__doc__ or "").split("\n\n")[0].split()))
    else:
        raise InvalidInputError(
            f"metrics has the entry {thing!r}; pass names ({', '.join(TABLE)}), functions of a context, or Metric rows."
        )
    if metric.takes is not None:
        for name in params:
            arguments.choice(f"metrics: parameter of {metric.name!r}", name, metric.takes)
    return Chosen(entry.title or metric.name, metric, params)


# --- samples -------------------------------------------------------------------------------------------------------


def read_samples(
    model: keras.Model,
    x: Any,
    *,
    fit: Any,
    labels: Any,
    masks: Any,
    neuron_selection: Any,
    on: str,
    output: str | int | None,
    batch_size: int,
    seed: int,
    class_names: Any,
    columns: bool,
) -> tuple[Setting, Samples]:
    """Check the arguments of ``compare`` that say what is explained, and look at x once: neurons, classes, scores."""
    size, seed = arguments.positive_int("batch_size", batch_size), arguments.positive_int("seed", seed, 0)
    names = _read_names(class_names)
    with untouched(model):
        scores = Scores(model, on, output)
        xs = scores.flat(x)
        count, shape = len(xs[0]), scores.output_shape(xs)
        index = read_neurons(neuron_selection, shape, count)
        classes = shape[-1] if len(shape) > 1 else 1
        true = read_classes(labels, shape, count)
        channel_axis = 1 if scores.channels_first[0] else -1
        if masks is not None and len(xs) > 1:
            raise InvalidInputError(f"masks are those of one input, but the model has {scores.keys}; leave them out.")
        if masks is not None:
            inside_and_size(xs[0], masks, channel_axis)  # refuses masks that don't fit
        score, target, predicted = scores.at(xs, index, size)
        probability = None
        if on == "logits":
            found = Scores(model, "output", output).at(xs, target, size)[0]
            probability = None if np.array_equal(found, score) else found
    neurons = target if len(shape) < 3 else np.stack(np.unravel_index(target, shape[1:]), axis=1)
    arranged = arrangements(scores.graph, [a.shape[1:] for a in xs], pictures=True)
    known = distribution(fit, xs, arranged, scores.structure, scores.specs) if columns else None
    packed = scores.packed(xs)
    setting = Setting(model, packed, neurons, true, masks, fit, on, output, channel_axis, size, seed, known)
    shown = tuple(int(n) if np.ndim(n) == 0 else str(tuple(n.tolist())) for n in neurons)
    return setting, Samples(predicted, shown, score, probability, true, names, classes, channel_axis, packed)


def _read_names(class_names: Any) -> dict[int, str] | None:
    """{class: name}; classes without one keep their number."""
    if class_names is None:
        return None
    if isinstance(class_names, Mapping) and all(isinstance(c, (int, np.integer)) for c in class_names):
        return {int(c): writable_text("class_names", str(name)) for c, name in class_names.items()}
    if isinstance(class_names, (str, bytes, Mapping)) or not isinstance(class_names, (Sequence, np.ndarray)):
        raise InvalidInputError(f"class_names must be a sequence of names or {{class: name}}, got {class_names!r}.")
    return {c: writable_text("class_names", str(name)) for c, name in enumerate(class_names)}


# --- lists and dicts of things by name -----------------------------------------------------------------------------


class Entry(NamedTuple):
    """One thing of such a list."""

    title: str | None  # what it is called; None where it has to say so itself
    thing: Any  # a name or an object
    params: dict[str, Any]


def read_entries(argument: str, given: Any) -> list[Entry]:
    """The entries of a list of names, pairs (name, parameters) and objects, or of a dict.

    A dict holds {name: parameters}, {title: name}, {title: (name, parameters)}, {title: object}.

    Examples
    --------
    >>> read_entries("metrics", {"small": ("gini", {"a": 1})})
    [Entry(title='small', thing='gini', params={'a': 1})]
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, (Mapping, list, tuple)) or not given:
        raise InvalidInputError(
            f"{argument} must be a list of names or a dict {{name: parameters}} with at least one entry, got {given!r}."
        )
    if isinstance(given, Mapping):
        return [_titled(argument, title, value) for title, value in given.items()]
    return [_untitled(argument, value) for value in given]


def unique(argument: str, titles: list[str]) -> None:
    """Refuse a title that stands twice."""
    twice = sorted({t for t in titles if titles.count(t) > 1})
    if twice:
        raise InvalidInputError(
            f"{argument} has {', '.join(map(repr, twice))} more than once; tell them apart with a dict "
            f"{{title: (name, parameters)}}."
        )


def _titled(argument: str, title: Any, value: Any) -> Entry:
    if not isinstance(title, str) or not title:
        raise InvalidInputError(f"{argument} must have texts as keys, got {title!r}.")
    writable_text(argument, title)
    return Entry(title, *_pair(argument, (title, value) if isinstance(value, Mapping) else value))


def _untitled(argument: str, value: Any) -> Entry:
    thing, params = _pair(argument, value)
    if isinstance(thing, Mapping):
        raise InvalidInputError(f"{argument} has the entry {value!r} in a list; pass names, or one dict for all.")
    return Entry(thing if isinstance(thing, str) else None, thing, params)


def _pair(argument: str, value: Any) -> tuple[Any, dict[str, Any]]:
    """A name or an object, and its parameters, where it is given as such a pair."""
    if not isinstance(value, tuple):
        return value, {}
    if len(value) != 2 or not isinstance(value[1], Mapping):
        raise InvalidInputError(f"{argument} has the entry {value!r}; a tuple must be (name, parameters).")
    thing, params = value[0], dict(value[1])
    if not all(isinstance(key, str) for key in params):
        raise InvalidInputError(f"{argument} has parameters whose names are no texts: {params!r}.")
    return thing, params


def writable_text(argument: str, text: str) -> str:
    """``text`` if it can be written; half of a pair of surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{argument} has the text {text!r}, which is no valid Unicode.") from error
    return text
