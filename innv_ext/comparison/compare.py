"""Many analyzers on the same samples, measured by many metrics, in one call."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import tree

from innv_ext import files
from innv_ext.comparison.context import Context, Setting, as_data
from innv_ext.comparison.explaining import Outcome, Plan, attempt, explain
from innv_ext.comparison.metrics import Together
from innv_ext.comparison.reading import Chosen, possible, read_analyzers, read_metrics, read_samples
from innv_ext.comparison.result import Comparison
from innv_ext.comparison.rows import Cell, Criterion, Curves, Failure, Row, describe, flat
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.subject import check_model


def compare(
    model: keras.Model,
    x: Any,
    analyzers: Sequence[Any] | Mapping[str, Any],
    *,
    metrics: Sequence[Any] | Mapping[str, Any] | None = None,
    fit: Any = None,
    labels: Any = None,
    masks: Any = None,
    neuron_selection: Any = None,
    on: str = "logits",
    output: str | int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    report: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Explain the same neurons by many analyzers and measure their maps.

    An analyzer or a metric that raises an error does not end the comparison: the error stands in its row.

    Parameters
    ----------
    model : built keras.Model; it is never changed
    x : array (batch, ...), or a list or dict of arrays for a model with several inputs. Metrics see a dict then, and
        those that are of a single array ("inside_ratio", "attack_top_k", "randomization") refuse such models
    analyzers : a list of names, of pairs (name, parameters) and of analyzers of this model; or a dict {title: name},
        {name: parameters}, {title: (name, parameters)}, {title: analyzer}. The name "random" is the baseline
    metrics : names of ``list_metrics()``, functions (context) -> array (batch,) and ``Metric`` rows, as a list or a
        dict like ``analyzers``. None: "aopc_morf", "ordering_distortion", "max_sensitivity" (unless x holds tokens),
        "gini", "completeness_error", and with masks "inside_ratio"
    fit : training data for the named analyzers that cannot do without; each of them reads them anew, so no generator
        that can be read only once. Others are not fitted, also where they could be: pass such an analyzer itself.
        Also mean and deviation of each column of a table, to which metrics that perturb x keep (without ``fit`` those
        of x, with a warning)
    labels : int array (batch,), the true classes
    masks : where the object is, as in ``inside_ratio``
    neuron_selection : the explained neuron: one index, one per sample, or tuple indices for outputs of rank > 2; None:
        the largest output at x
    on : "logits": the analyzers explain the score before a trailing softmax or sigmoid; "output": behind it. Metrics
        that perturb x follow the model's output unless they have the parameter ``on``
    output : name or position of the output, for models with several
    batch_size : most samples in one forward pass, perturbed copies included
    seed : of all random analyzers and metrics
    progress : show a progress bar on work longer than three seconds
    class_names : sequence, or dict {class: name}
    report : also write a report to this file, see ``Comparison.report``
    out : also write pictures, the table and the numbers to this folder, see ``Comparison.save``

    Returns
    -------
    Comparison
        rows, ``table()``, ``ranking()``, ``plot()``, ``plot_metrics()``, ``report()``, ``save()``, ``to_dict()``

    Raises
    ------
    InvalidInputError
        before anything is explained: for unknown analyzers, metrics or parameters (with the nearest names), inputs,
        labels, masks or, of tables, training data that don't fit, a metric without the masks that it needs or of a
        model that it does not take, and files that cannot be written

    Notes
    -----
    Maps with NaN or infinite values are shown, but not measured. Seconds per sample are measured on all samples, after
    a first call with one of them (unless there is only one): functions are traced then, which counts as building.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> found = compare(model, np.ones((3, 4)), ["input_t_gradient", "random"], metrics=["gini"], progress=False)
    >>> [row.title for row in found.rows], found.rows[0].cells["gini"].values.shape
    (['input_t_gradient', 'random'], (3,))
    """
    check_model(model)
    plans, named = read_analyzers(analyzers, model, output), read_metrics(metrics)
    setting, samples = read_samples(
        model,
        x,
        fit=fit,
        labels=labels,
        masks=masks,
        neuron_selection=neuron_selection,
        on=on,
        output=output,
        batch_size=batch_size,
        seed=seed,
        class_names=class_names,
        columns=named is None or any(m.metric.learns and not {*m.metric.learns} & {*m.params} for m in named),
    )
    chosen = possible(named, setting)
    if setting.columns is not None:
        setting.columns.warn("fit=")
    file = None if report is None else files.writable_file("report", report)
    folder = None if out is None else files.writable_folder("out", out)
    rows, curves = _Explaining(setting, plans, chosen).run(progress)
    criteria = tuple(_criterion(c) for c in chosen)
    found = Comparison(tuple(rows), criteria, samples, curves, _settings(setting, neuron_selection), _versions())
    if folder is not None:
        found.save(folder)
    if file is not None:
        found.report(file)
    return found


@dataclass(frozen=True, eq=False)
class _Explaining:
    """The checked arguments."""

    setting: Setting
    plans: Sequence[Plan]
    metrics: Sequence[Chosen]

    def run(self, progress: bool) -> tuple[list[Row], dict[str, Curves]]:
        """The rows, and the curves of the metrics that have such."""
        total = len(self.plans) * (1 + len(self.metrics))
        with files.Progress(total, "compare", progress, "step") as bar:
            rows = [self._row(plan, bar) for plan in self.plans]
            curves = {}
            for metric in self.metrics:
                if metric.metric.together:
                    curves |= self._together(metric, rows)
                    bar.update(len(rows), metric.title)
        return rows, curves

    def _row(self, plan: Plan, bar: files.Progress) -> Row:
        """One analyzer, with the metrics that look at it alone; it is let go of afterwards."""
        row, context = self._explain(plan)
        bar.update(note=plan.title)
        for metric in (m for m in self.metrics if not m.metric.together):
            row.cells[metric.title] = self._alone(metric, row, context)
            bar.update(note=f"{plan.title}, {metric.title}")
        return row

    def _explain(self, plan: Plan) -> tuple[Row, Context | None]:
        setting, count = self.setting, len(self.setting)
        built = attempt(lambda: self._built(plan))
        failed = built.failure is not None
        ran = Outcome(None, built.failure) if failed else attempt(lambda: explain(built.value, setting))
        maps = None if ran.failure is not None else as_data(ran.value.attribution)
        params = plan.params if failed else built.value.get_params()
        row = Row(
            plan.title,
            plan.name,
            {name: describe(value) for name, value in params.items()},
            {k: getattr(plan.info, k, "") for k in ("family", "description", "reference", "sums_to")},
            built.seconds,
            ran.seconds / count,
            ran.failure,
            tuple(dict.fromkeys(built.warnings + ran.warnings)),
            {},
            maps,
        )
        if maps is None:
            return row, None
        return row, Context(
            **vars(setting),
            title=plan.title,
            analyzer=built.value,
            explanation=ran.value,
            sums_to=row.about["sums_to"],
            remake=plan.remake(setting),
        )

    def _built(self, plan: Plan) -> Any:
        """The analyzer, after a first call that traces its functions."""
        analyzer = plan.build(self.setting.model, self.setting)
        if len(self.setting) > 1:
            first = tree.map_structure(lambda array: array[:1], self.setting.x)
            first = replace(self.setting, x=first, neurons=self.setting.neurons[:1])
            explain(analyzer, first)
        return analyzer

    def _alone(self, metric: Chosen, row: Row, context: Context | None) -> Cell:
        failure = _not_finite(row)
        if context is None or failure is not None:
            return Cell(failure=failure)
        return Cell(*attempt(lambda: self._values(metric.title, metric.metric.function(context, **metric.params))))

    def _together(self, metric: Chosen, rows: Sequence[Row]) -> dict[str, Curves]:
        """All maps that can be measured at once; the cells are put into the rows."""
        for row in rows:
            row.cells[metric.title] = Cell(failure=_not_finite(row))
        usable = [row for row in rows if row.maps is not None and row.cells[metric.title].failure is None]
        if not usable:
            return {}
        maps = {row.title: row.maps for row in usable}
        found = attempt(lambda: self._all(metric, maps))
        for row in usable:
            values = None if found.value is None else found.value.values[row.title]
            row.cells[metric.title] = Cell(*found._replace(value=values, seconds=found.seconds / len(usable)))
        return {} if found.value is None else {metric.title: found.value.curves}

    def _all(self, metric: Chosen, maps: dict[str, np.ndarray]) -> Together:
        found = metric.metric.function(self.setting, maps, **metric.params)
        return Together({t: self._values(metric.title, found.values[t]) for t in maps}, found.curves)

    def _values(self, title: str, values: Any) -> np.ndarray:
        array, count = np.asarray(values, "float64"), len(self.setting)
        if array.shape != (count,):
            raise InvalidInputError(
                f"The metric {title!r} returned an array of shape {array.shape}; one number per sample is needed, "
                f"({count},)."
            )
        return array


def _not_finite(row: Row) -> Failure | None:
    """Why maps cannot be measured, if they cannot."""
    if row.maps is None:
        return None
    finite = np.all([np.isfinite(maps).reshape(len(maps), -1).all(axis=1) for maps in flat(row.maps)], axis=0)
    if finite.all():
        return None
    text = f"The maps of {(~finite).sum()} samples (first: {finite.argmin()}) are not finite."
    return Failure("InvalidInputError", text)


def _criterion(chosen: Chosen) -> Criterion:
    metric = chosen.metric
    params = {name: describe(value) for name, value in chosen.params.items()}
    own = (metric.name, metric.measures, metric.better, metric.needs, metric.cost, metric.source)
    return Criterion(chosen.title, *own, params)


def _settings(setting: Setting, neuron_selection: Any) -> dict[str, Any]:
    """What makes the comparison repeatable, as texts and numbers."""
    named = setting.x if isinstance(setting.x, dict) else {"x": setting.x}
    ranges = {name: [float(x.min()), float(x.max())] for name, x in named.items()}
    explained = "largest output at x" if neuron_selection is None else describe(np.asarray(neuron_selection))
    return {
        "model": setting.model.name,
        "model class": type(setting.model).__name__,
        "parameters of the model": int(setting.model.count_params()),
        "x": _described(setting.x),
        "range of x": ranges if isinstance(setting.x, dict) else ranges["x"],
        "neuron_selection": explained,
        "on": setting.on,
        "output": setting.output,
        "labels": setting.labels is not None,
        "masks": setting.masks is not None,
        "fit": _described(setting.fit),
        **({} if setting.columns is None else {"columns": setting.columns.source}),
        "batch_size": setting.batch_size,
        "seed": setting.seed,
    }


def _described(data: Any) -> str | None:
    if isinstance(data, dict) and all(isinstance(own, np.ndarray) for own in data.values()):
        return "; ".join(f"{name}: {own.dtype}, shape {own.shape}" for name, own in data.items())
    if isinstance(data, np.ndarray):
        return f"{data.dtype}, shape {data.shape}"
    return None if data is None else type(data).__name__


def _versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    found = {}
    for name in ("innv_ext", "keras", "tensorflow", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from its source, or installed under another name
            found[name] = "unknown"
    return {**found, "python": platform.python_version(), "platform": platform.system()}
