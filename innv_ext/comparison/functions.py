"""The functions behind the metrics: the tests of ``innv_ext.evaluation``, one number per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.gradient.averaged import IntegratedGradients
from innv_ext.comparison.context import Context, NotApplicable, Setting
from innv_ext.evaluation.attack import attack_interpretation
from innv_ext.evaluation.measures import completeness_error, inside_ratio, sparsity
from innv_ext.evaluation.ordering import relevance_ordering
from innv_ext.evaluation.perturbation import perturbation_analysis
from innv_ext.evaluation.perturbation_result import PerturbationResult
from innv_ext.evaluation.randomization import randomization_check
from innv_ext.evaluation.result import OrderingResult
from innv_ext.evaluation.sensitivity import sensitivity

Maps = Mapping[str, np.ndarray]
RANDOM = "random"  # the baseline's name in curves
SHARE = 0.02  # of the range of x: how far "a little" is, where the caller doesn't say


class Together(NamedTuple):
    """What a metric of all maps found.

    Attributes
    ----------
    values : {title: array (batch,)}
    curves : the result behind them, which can be drawn
    """

    values: Maps
    curves: PerturbationResult | OrderingResult


# --- all maps at once ----------------------------------------------------------------------------------------------


def aopc_morf(setting: Setting, maps: Maps, **options: Any) -> Together:
    """Area over the perturbation curve, the most relevant regions first."""
    return _aopc(setting, maps, "morf", **options)


def aopc_lerf(setting: Setting, maps: Maps, **options: Any) -> Together:
    """Area over the perturbation curve, the least relevant regions first."""
    return _aopc(setting, maps, "lerf", **options)


def _aopc(setting: Setting, maps: Maps, order: str, perturbation: str | None = None, **options: Any) -> Together:
    if perturbation is None:  # tables and texts have no neighbours of one kind to take a mean of
        told = {"value": "constant", "sigma": "blur", "std": "gaussian", "mean": "mean"}
        usual = "mean" if setting.x.ndim > 2 else "uniform"
        perturbation = next((told[name] for name in told if options.get(name) is not None), usual)
    found = perturbation_analysis(
        setting.model,
        setting.x,
        dict(maps),
        order=order,
        perturbation=perturbation,
        random_baseline=RANDOM not in maps,
        **_common(setting),
        **options,
    )
    return Together({title: found.aopc[title] for title in maps}, found)


def ordering_distortion(setting: Setting, maps: Maps, **options: Any) -> Together:
    """Area under the distortion of the relevance ordering test."""
    found = _ordering(setting, maps, **options)
    return Together({title: found.distortion_area[title] for title in maps}, found)


def ordering_accuracy(setting: Setting, maps: Maps, **options: Any) -> Together:
    """Area under the accuracy of the relevance ordering test."""
    found = _ordering(setting, maps, **options)
    return Together({title: found.accuracy_area[title] for title in maps}, found)


def _ordering(setting: Setting, maps: Maps, rates: Any = 11, samples: int = 8, **options: Any) -> OrderingResult:
    """Fewer rates and samples than usual: a comparison averages over the samples of x."""
    return relevance_ordering(
        setting.model,
        setting.x,
        {**maps, RANDOM: maps.get(RANDOM, RANDOM)},
        rates=rates,
        samples=samples,
        labels=setting.labels,
        **_common(setting),
        **options,
    )


def _common(setting: Setting) -> dict[str, Any]:
    return {
        "neuron_selection": setting.neurons,
        "output": setting.output,
        "batch_size": setting.batch_size,
        "seed": setting.seed,
        "progress": False,
    }


# --- one analyzer --------------------------------------------------------------------------------------------------


def max_sensitivity(context: Context, radius: float | None = None, **options: Any) -> np.ndarray:
    """Largest relative change of the map near x."""
    return sensitivity(
        context.analyzer,
        context.x,
        radius=SHARE * _span(context, "radius") if radius is None else radius,
        neuron_selection=context.neurons,
        batch_size=context.batch_size,
        seed=context.seed,
        progress=False,
        **options,
    )


def gini(context: Context, **options: Any) -> np.ndarray:
    """Gini index of the magnitudes."""
    return sparsity(context.relevance, **options)


def inside(context: Context, **options: Any) -> np.ndarray:
    """Relevance inside the mask."""
    return inside_ratio(context.relevance, context.masks, channel_axis=context.channel_axis, **options)


def completeness(context: Context, kind: str = "relative") -> np.ndarray:
    """How far the sum of the map is from what the method says that it sums to."""
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
        (reference,) = analyzer.references([context.x.shape[1:]])
        at = np.repeat(reference, len(context.x), axis=0)
        return np.asarray(analyzer.explain(at, context.neurons, batch_size=context.batch_size).score, "float64")
    return 0.0


def _span(context: Context, parameter: str) -> float:
    """The range of x, which says what a little is."""
    if not context.span:
        raise NotApplicable(f"x is constant, so that its range says nothing about {parameter}; pass {parameter}=")
    return context.span


def attack_top_k(context: Context, epsilon: float | None = None, **options: Any) -> np.ndarray:
    """Share of the most relevant components that an attack on the explanation leaves in place."""
    if epsilon is None:
        epsilon = SHARE * _span(context, "epsilon") * float(np.sqrt(np.prod(context.x.shape[1:])))
    found = attack_interpretation(
        context.analyzer,
        context.x,
        epsilon=epsilon,
        neuron_selection=context.neurons,
        batch_size=context.batch_size,
        seed=context.seed,
        progress=False,
        **options,
    )
    return found.metrics.top_k


def randomization(context: Context, **options: Any) -> np.ndarray:
    """Agreement of the maps with those of random weights."""
    found = randomization_check(
        context.model,
        context.remake,
        context.x,
        neuron_selection=context.neurons,
        batch_size=context.batch_size,
        seed=context.seed,
        progress=False,
        **options,
    )
    return found.absolute_rank_correlation.mean(axis=0)
