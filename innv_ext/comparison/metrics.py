"""The metrics: the tests of ``innv_ext.evaluation`` as one number per sample, and what is told about each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.gradient.averaged import IntegratedGradients
from innv_ext.comparison.context import Context, NotApplicable, Setting
from innv_ext.comparison.rows import Curves, Data, flat
from innv_ext.evaluation.attack import attack_interpretation
from innv_ext.evaluation.measures import completeness_error, inside_ratio, sparsity
from innv_ext.evaluation.ordering import relevance_ordering
from innv_ext.evaluation.perturbation import perturbation_analysis
from innv_ext.evaluation.randomization import randomization_check
from innv_ext.evaluation.sensitivity import sensitivity

Maps = Mapping[str, Data]
RANDOM = "random"  # the baseline's name in curves
SHARE = 0.02  # of the range of x: how far "a little" is, where the caller doesn't say
DEVIATIONS = 0.1  # of each column of a table: the same
# parameters of the tests that a comparison sets itself
SET = {"neuron_selection", "labels", "output", "channel_axis", "params", "random_baseline"}
SET |= {"batch_size", "seed", "progress"}


@dataclass(frozen=True)
class Metric:
    """What ``list_metrics`` tells about one metric; ``compare`` takes such a row for a metric of your own, too.

    Attributes
    ----------
    name : for ``compare(..., metrics=[name])``
    function : (context, **params) -> array (batch,), see ``innv_ext.comparison.Context``
    measures : one sentence
    better : "higher", "lower", or "none" where neither is
    needs : "masks", "float input", "one input", "scikit-image"
    takes : the names of its parameters, as in the function of ``innv_ext.evaluation`` behind it; None: not checked
    cost : forward passes or maps per sample
    source : the paper
    together : whether ``function`` is called once, (setting, {title: maps}, **params) -> Together
    alone : why it takes one input only
    learns : the parameters that stand instead of what columns of tables are like, for metrics that make use of that

    Examples
    --------
    >>> peak = Metric("peak", lambda context: abs(context.relevance).max(axis=(1, 2, 3)), "largest magnitude")
    """

    name: str
    function: Callable[..., Any]
    measures: str = ""
    better: str = "none"
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] | None = None
    cost: str = ""
    source: str = ""
    together: bool = False
    learns: tuple[str, ...] = ()
    alone: str = ""


class Together(NamedTuple):
    """What a metric of all maps found."""

    values: Mapping[str, np.ndarray]  # {title: array (batch,)}
    curves: Curves  # the result behind them, which can be drawn


# --- all maps at once ----------------------------------------------------------------------------------------------


def _aopc(setting: Setting, maps: Maps, *, order: str, **options: Any) -> Together:
    options = {"data": setting.columns, **options, "order": order, "output": setting.output, **_common(setting)}
    found = perturbation_analysis(setting.model, setting.x, dict(maps), random_baseline=RANDOM not in maps, **options)
    return Together({title: found.aopc[title] for title in maps}, found)


def _ordering(
    setting: Setting, maps: Maps, *, area: str, rates: Any = 11, samples: int = 8, **options: Any
) -> Together:
    """Fewer rates and samples than usual: a comparison averages over the samples of x."""
    options = {"data": setting.columns, **options, "rates": rates, "samples": samples, "output": setting.output}
    options |= _common(setting)
    relevance = {**maps, RANDOM: maps.get(RANDOM, RANDOM)}
    found = relevance_ordering(setting.model, setting.x, relevance, labels=setting.labels, **options)
    areas = getattr(found, area)
    return Together({title: areas[title] for title in maps}, found)


def _common(setting: Setting) -> dict[str, Any]:
    chosen = {"neuron_selection": setting.neurons, "batch_size": setting.batch_size}
    return {**chosen, "seed": setting.seed, "progress": False}


# --- one analyzer --------------------------------------------------------------------------------------------------


def _max_sensitivity(context: Context, radius: float | None = None, **options: Any) -> np.ndarray:
    radius = _radius(context) if radius is None else radius
    return sensitivity(context.analyzer, context.x, radius=radius, **_common(context), **options)


def _radius(context: Context) -> Any:
    """How far each value may move: within the deviation of its column, or the range of its input."""
    known = context.columns.columns if context.columns is not None else {}
    found: list[Any] = [SHARE * span for span in context.spans]
    for number, x in enumerate(context.xs):
        if number in known:
            found[number] = DEVIATIONS * known[number].std
        elif context.columns is not None and x.ndim < 3:  # of a single row only its own size is known
            found[number] = SHARE * np.abs(x).mean(axis=0)
    if not any(np.any(radius) for radius in found):
        raise NotApplicable("x is constant, so that its range says nothing about radius; pass radius=")
    return found if len(found) > 1 else found[0]


def _gini(context: Context, **options: Any) -> np.ndarray:
    maps = [own.reshape(len(own), -1) for own in flat(context.relevance)]
    return sparsity(np.concatenate(maps, axis=1), **options)


def _inside(context: Context, **options: Any) -> np.ndarray:
    return inside_ratio(context.relevance, context.masks, channel_axis=context.channel_axis, **options)


def _completeness(context: Context, kind: str = "relative") -> np.ndarray:
    arguments.choice("kind", kind, ("relative", "absolute"))
    if "f_c" not in context.sums_to:
        raise NotApplicable("the method does not say that its maps sum to the score")
    score = np.asarray(context.explanation.score, "float64")
    score = np.maximum(score, 0) if context.sums_to.startswith("relu") else score
    found = completeness_error(context.relevance, score, _reference_score(context))
    return {"relative": found.relative, "absolute": found.absolute}[kind]


def _reference_score(context: Context) -> Any:
    """What the explained neurons are worth where the method starts to count; 0 where it has no such place."""
    extras, analyzer = context.explanation.extras, context.analyzer
    for name in ("reference_score", "base"):
        if name in extras:
            return np.asarray(extras[name], "float64")
    if isinstance(analyzer, IntegratedGradients):
        at = [np.repeat(reference, len(context), axis=0) for reference in analyzer.references_like(context.xs)]
        at = dict(zip(context.x, at, strict=True)) if isinstance(context.x, dict) else at[0]
        return np.asarray(analyzer.explain(at, context.neurons, batch_size=context.batch_size).score, "float64")
    return 0.0


def _attack_top_k(context: Context, epsilon: float | None = None, **options: Any) -> np.ndarray:
    if epsilon is None and context.columns is not None:
        raise NotApplicable("columns have units of their own, so that one epsilon= for all of them has to be passed")
    if epsilon is None:
        (span,) = context.spans
        if not span:
            raise NotApplicable("x is constant, so that its range says nothing about epsilon; pass epsilon=")
        epsilon = SHARE * span * float(np.sqrt(np.prod(context.x.shape[1:])))
    found = attack_interpretation(context.analyzer, context.x, epsilon=epsilon, **_common(context), **options)
    return found.metrics.top_k


def _randomization(context: Context, **options: Any) -> np.ndarray:
    found = randomization_check(context.model, context.remake, context.x, **_common(context), **options)
    return found.absolute_rank_correlation.mean(axis=0)


# --- the table -----------------------------------------------------------------------------------------------------


def _takes(test: Callable[..., Any], *fixed: str) -> tuple[str, ...]:
    """The parameters of a test that are left to the user."""
    own = [p.name for p in inspect.signature(test).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return tuple(name for name in own if name not in SET and name not in fixed)


def _falling(order: str, first: str, better: str) -> Metric:
    return Metric(
        f"aopc_{order}",
        partial(_aopc, order=order),
        f"how fast the score falls while regions are perturbed, the {first} relevant first: mean of f(x) - f(x_k)",
        better,
        takes=_takes(perturbation_analysis, "order"),
        cost="regions",
        source="Samek et al. 2017",
        together=True,
        learns=("perturbation", "value", "mean", "std", "sigma", "data"),
    )


def _keeping(what: str, measures: str, better: str) -> Metric:
    return Metric(
        f"ordering_{what}",
        partial(_ordering, area=f"{what}_area"),
        f"{measures} while only the most relevant values are kept and the others are noise: area under the curve over "
        "the share that is kept",
        better,
        takes=_takes(relevance_ordering),
        cost="rates * samples",
        source="Macdonald et al. 2022",
        together=True,
        learns=("noise", "mean", "std", "data"),
    )


METRICS = (
    _falling("morf", "most", "higher"),
    _falling("lerf", "least", "lower"),
    _keeping("distortion", "squared change of the score", "lower"),
    _keeping("accuracy", "share of right classes", "higher"),
    Metric(
        "max_sensitivity",
        _max_sensitivity,
        "largest relative change of the map at random points near x (radius: 2 % of the range of x, "
        "in tables a tenth of each column's deviation)",
        "lower",
        ("float input",),
        _takes(sensitivity),
        "10 maps",
        "Yeh et al. 2019",
        learns=("radius",),
    ),
    Metric(
        "gini",
        _gini,
        "how few values hold the relevance: Gini index of the magnitudes, 0 if all are equal, 1 if one holds all",
        takes=_takes(sparsity),
        source="Hurley and Rickard 2009",
    ),
    Metric(
        "completeness_error",
        _completeness,
        "difference of the map's sum from what the method says that it sums to, over its size; empty where it says "
        "nothing",
        "lower",
        takes=("kind",),
        source="Sundararajan et al. 2017",
    ),
    Metric(
        "inside_ratio",
        _inside,
        "share of the relevance (magnitudes) inside the mask",
        "higher",
        ("masks", "one input"),
        _takes(inside_ratio),
        source="Kohlbrenner et al. 2020",
        alone="a mask is that of one array",
    ),
    Metric(
        "attack_top_k",
        _attack_top_k,
        "share of the 10 % most relevant values that stay so under an attack on the map which keeps the class (L2 "
        "norm: 2 % of the range of x in every value; empty for tables without epsilon)",
        "higher",
        ("float input", "one input", "scikit-image"),
        _takes(attack_interpretation),
        "30 maps and their gradients",
        "Ghorbani et al. 2019",
        alone="the attack moves one array within one distance",
        learns=("epsilon",),
    ),
    Metric(
        "randomization",
        _randomization,
        "rank correlation of the magnitudes with maps of random weights, randomised from the top layer down: mean "
        "over the stages",
        "lower",
        ("one input", "scikit-image"),
        _takes(randomization_check),
        "a map per layer",
        "Adebayo et al. 2018",
        alone="it compares pictures of one map",
    ),
)
USUAL = ("aopc_morf", "ordering_distortion", "max_sensitivity", "gini", "completeness_error")
TABLE = {metric.name: metric for metric in METRICS}


def list_metrics() -> list[Metric]:
    """All metrics of ``compare`` as data: name, what it measures, which direction is better, needs, cost, source.

    Examples
    --------
    >>> [m.name for m in list_metrics() if "masks" in m.needs]
    ['inside_ratio']
    """
    return list(METRICS)
