"""The metrics as data: one row a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from innv_ext import arguments
from innv_ext.comparison import functions
from innv_ext.comparison.context import Setting
from innv_ext.comparison.entries import Entry, read_entries, unique
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import inside_and_size

BETTER = ("higher", "lower", "none")


@dataclass(frozen=True)
class Metric:
    """What ``list_metrics`` tells about one metric; ``compare`` takes such a row for a metric of your own, too.

    Attributes
    ----------
    name : for ``compare(..., metrics=[name])``
    function : (context, **params) -> array (batch,), see ``innv_ext.comparison.Context``
    measures : one sentence
    better : "higher", "lower", or "none" where neither is
    needs : "masks", "float input", "scikit-image"
    takes : the names of its parameters, as in the function of ``innv_ext.evaluation`` behind it; None: not checked
    cost : forward passes or maps per sample
    source : the paper
    together : whether ``function`` is called once, (setting, {title: maps}, **params) -> Together

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


class Chosen(NamedTuple):
    """A metric that is used, by its title in the table."""

    title: str
    metric: Metric
    params: dict[str, Any]


_AOPC = ("regions", "perturbation", "value", "mean", "std", "sigma", "steps", "aggregate", "samples", "on")
_ORDERING = ("noise", "mean", "std", "rates", "samples", "features", "on")
_SAMEK = "Samek et al. 2017"
_MACDONALD = "Macdonald et al. 2022"

METRICS = (
    Metric(
        "aopc_morf",
        functions.aopc_morf,
        "how fast the score falls while regions are perturbed, the most relevant first: mean of f(x) - f(x_k)",
        "higher",
        takes=_AOPC,
        cost="regions",
        source=_SAMEK,
        together=True,
    ),
    Metric(
        "aopc_lerf",
        functions.aopc_lerf,
        "how fast the score falls while regions are perturbed, the least relevant first: mean of f(x) - f(x_k)",
        "lower",
        takes=_AOPC,
        cost="regions",
        source=_SAMEK,
        together=True,
    ),
    Metric(
        "ordering_distortion",
        functions.ordering_distortion,
        "squared change of the score while only the most relevant values are kept and the others are noise: area "
        "under the curve over the share that is kept",
        "lower",
        takes=_ORDERING,
        cost="rates * samples",
        source=_MACDONALD,
        together=True,
    ),
    Metric(
        "ordering_accuracy",
        functions.ordering_accuracy,
        "share of right classes while only the most relevant values are kept and the others are noise: area under "
        "the curve over the share that is kept",
        "higher",
        takes=_ORDERING,
        cost="rates * samples",
        source=_MACDONALD,
        together=True,
    ),
    Metric(
        "max_sensitivity",
        functions.max_sensitivity,
        "largest relative change of the map at random points near x (radius: 2 % of the range of x)",
        "lower",
        ("float input",),
        ("radius", "samples", "norm", "kind"),
        "10 maps",
        "Yeh et al. 2019",
    ),
    Metric(
        "gini",
        functions.gini,
        "how few values hold the relevance: Gini index of the magnitudes, 0 if all are equal, 1 if one holds all",
        takes=("kind", "tolerance"),
        source="Hurley and Rickard 2009",
    ),
    Metric(
        "completeness_error",
        functions.completeness,
        "difference of the map's sum from what the method says that it sums to, over its size; empty where it says "
        "nothing",
        "lower",
        takes=("kind",),
        source="Sundararajan et al. 2017",
    ),
    Metric(
        "inside_ratio",
        functions.inside,
        "share of the relevance (magnitudes) inside the mask",
        "higher",
        ("masks",),
        ("kind",),
        source="Kohlbrenner et al. 2020",
    ),
    Metric(
        "attack_top_k",
        functions.attack_top_k,
        "share of the 10 % most relevant values that stay so under an attack on the map which keeps the class (L2 "
        "norm: 2 % of the range of x in every value)",
        "higher",
        ("float input", "scikit-image"),
        ("epsilon", "k", "steps", "step_size", "method", "value_range", "softplus"),
        "30 maps and their gradients",
        "Ghorbani et al. 2019",
    ),
    Metric(
        "randomization",
        functions.randomization,
        "rank correlation of the magnitudes with maps of random weights, randomised from the top layer down: mean "
        "over the stages",
        "lower",
        ("scikit-image",),
        ("order", "how"),
        "a map per layer",
        "Adebayo et al. 2018",
    ),
)
USUAL = ("aopc_morf", "ordering_distortion", "max_sensitivity", "gini", "completeness_error")
_TABLE = {metric.name: metric for metric in METRICS}


def list_metrics() -> list[Metric]:
    """All metrics of ``compare`` as data: name, what it measures, which direction is better, needs, cost, source.

    Examples
    --------
    >>> [m.name for m in list_metrics() if "masks" in m.needs]
    ['inside_ratio']
    """
    return list(METRICS)


def read_metrics(given: Any) -> list[Chosen] | None:
    """The metrics that are named; ``given`` as in ``compare``, None stays so.

    Raises
    ------
    InvalidInputError
        for unknown names or parameters, and titles that stand twice
    """
    if given is None:
        return None
    found = [_chosen(entry) for entry in read_entries("metrics", given)]
    unique("metrics", [chosen.title for chosen in found])
    return found


def usual_metrics(setting: Setting) -> list[Chosen]:
    """The metrics of whoever names none."""
    names = [*USUAL, "inside_ratio"] if setting.masks is not None else USUAL
    floats = setting.x.dtype.kind == "f"
    return [Chosen(n, _TABLE[n], {}) for n in names if floats or "float input" not in _TABLE[n].needs]


def possible(metrics: list[Chosen], setting: Setting) -> list[Chosen]:
    """The same metrics.

    Raises
    ------
    InvalidInputError
        where one of them needs what is not there
    """
    for chosen in metrics:
        needs = chosen.metric.needs
        if "masks" in needs and setting.masks is None:
            raise InvalidInputError(f"The metric {chosen.title!r} needs masks=, which say where the object is.")
        if "float input" in needs and setting.x.dtype.kind != "f":
            raise InvalidInputError(
                f"The metric {chosen.title!r} moves x by a little, but the model takes {setting.x.dtype} numbers."
            )
    return metrics


def _chosen(entry: Entry) -> Chosen:
    thing, params = entry.thing, entry.params
    if isinstance(thing, str):
        metric = _TABLE[arguments.choice("metrics", thing, tuple(_TABLE))]
    elif isinstance(thing, Metric):
        metric = thing
        arguments.choice(f"better of the metric {metric.name!r}", metric.better, BETTER)
    elif callable(thing):
        name = getattr(thing, "__name__", type(thing).__name__)
        metric = Metric(name, thing, " ".join((thing.__doc__ or "").split("\n\n")[0].split()))
    else:
        raise InvalidInputError(
            f"metrics has the entry {thing!r}; pass names ({', '.join(_TABLE)}), functions of a context, or Metric "
            f"rows."
        )
    if metric.takes is not None:
        for name in params:
            arguments.choice(f"metrics: parameter of {metric.name!r}", name, metric.takes)
    return Chosen(entry.title or metric.name, metric, params)


def check_masks(masks: Any, x: Any, channel_axis: int) -> None:
    """Refuse masks that don't fit before anything is explained."""
    if masks is not None:
        inside_and_size(x, masks, channel_axis)
