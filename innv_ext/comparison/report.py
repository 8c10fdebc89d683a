"""The report of a comparison: one HTML page with everything inside."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from innv_ext.comparison import pictures
from innv_ext.comparison.markup import Markup, document, join, picture, rows, tag
from innv_ext.comparison.rows import Cell, Criterion, Findings, Row
from innv_ext.comparison.style import SCRIPT, STYLE

WIDTH = {"image": 6, "signal": 4, "table": 3, "tokens": 3, "volume": 4}  # analyzers side by side in one picture
CELL = 1.2  # inches of an image
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "none": "neither is better"}


def page(found: Findings, samples: int) -> str:
    """The report, with pictures of the first samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pictures mark what they would warn of
        sections = [
            ("Results", _results(found)),
            ("Errors and warnings", _problems(found)),
            ("Metrics", _metric_pictures(found)),
            ("Curves", _curves(found)),
            ("Samples", _samples(found, samples)),
            ("What the metrics mean", _meanings(found)),
            ("Analyzers", _analyzers(found)),
            ("Settings", _settings(found)),
        ]
    title = f"Explanations of {found.settings.get('model', 'a model')} compared"
    failed = sum(row.failure is not None for row in found.rows)
    lead = f"{len(found.rows)} analyzers, {len(found.criteria)} metrics, {len(found.samples)} samples"
    lead += f"; {failed} analyzer{'s' if failed > 1 else ''} failed." if failed else "."
    shown = [tag("section", tag("h2", name), content) for name, content in sections if content]
    body = tag("main", tag("h1", title), tag("p", lead, class_="soft"), shown)
    return document(title, body, STYLE, SCRIPT)


# --- the table -----------------------------------------------------------------------------------------------------


def _results(found: Findings) -> Markup:
    best = {c.title: _best(found, c) for c in found.criteria}
    heads = [_head("Analyzer", "ascending", "the title", number=False)]
    for c in found.criteria:
        heads.append(_head(c.header, "descending" if c.better == "higher" else "ascending", c.measures))
    heads += [
        _head("s per sample ↓", "ascending", "seconds to explain a sample, tracing left out where there are several"),
        _head("s to build ↓", "ascending", "seconds to build, fit and, with several samples, explain the first"),
    ]
    lines = [_line(row, found.criteria, best) for row in found.rows]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", lines), id="results")
    note = (
        "Mean over the samples ± standard error. ↑: higher is better, ↓: lower is better; the best mean is bold. A "
        "click on a header sorts, the best first; another one turns the order."
    )
    status = tag("p", id="sorted", role="status", class_="soft")
    return join(tag("p", note, class_="soft"), tag("div", table, class_="scroll"), status)


def _head(text: str, first: str, title: str, number: bool = True) -> Markup:
    button = tag("button", text, type="button", title=title)
    return tag("th", button, scope="col", aria_sort="none", data_first=first, class_="number" if number else None)


def _line(row: Row, criteria: Sequence[Criterion], best: Mapping[str, Sequence[str]]) -> Markup:
    cells = [tag("th", row.title, scope="row", data_value=row.title)]
    for criterion in criteria:
        cells.append(_cell(row, row.cell(criterion.title), row.title in best[criterion.title]))
    if row.failure is None:
        cells.append(_number(f"{row.sample_seconds:.3g}", row.sample_seconds))
        cells.append(_number(f"{row.build_seconds:.3g}", row.build_seconds))
    else:
        cells += [tag("td"), tag("td")]
    return tag("tr", cells)


def _cell(row: Row, cell: Cell, best: bool) -> Markup:
    failure = row.failure if row.failure is not None else cell.failure
    if failure is not None:
        return tag("td", failure.type, class_="number failed", title=str(failure))
    if cell.values is None:
        return tag("td", "—" if cell.note else "", title=cell.note or None, class_="number soft")
    return _number(cell.text, float(cell.statistics.mean), best)


def _number(text: str, value: float, best: bool = False) -> Markup:
    sortable = None if np.isnan(value) else repr(value).replace("inf", "Infinity")
    return tag("td", text, class_="number best" if best else "number", data_value=sortable)


def _best(found: Findings, criterion: Criterion) -> list[str]:
    """The titles with the best mean; none where there is nothing to choose."""
    if criterion.better == "none":
        return []
    ranking = [(title, mean) for title, mean in found.ranking(criterion.title) if not np.isnan(mean)]
    return [title for title, mean in ranking if mean == ranking[0][1]] if len(ranking) > 1 else []


def _problems(found: Findings) -> Markup | None:
    lines = []
    for row in found.rows:
        for text in row.problems:
            shown = tag("span", text, class_="soft" if "warned: " in text else "failed")
            lines.append(tag("li", tag("strong", row.title), ": ", shown))
    return tag("ul", lines) if lines else None


# --- pictures ------------------------------------------------------------------------------------------------------


def _metric_pictures(found: Findings) -> Markup | None:
    if not found.criteria:
        return None
    drawn = pictures.draw_metrics(found.rows, found.criteria)
    names = ", ".join(c.title for c in found.criteria)
    caption = "Means with standard errors, the best on top (the largest where neither is better); baselines are grey."
    shown = picture(drawn, f"Means of {names} per analyzer; the numbers are in the table.")
    return tag("figure", shown, tag("figcaption", caption))


def _curves(found: Findings) -> list[Markup] | None:
    shown = []
    for metric, curves in found.curves.items():
        drawn = picture(curves.plot(), f"Curves behind {metric}, one per analyzer.")
        caption = "Means over the samples with standard errors; random: a random order of the regions or values."
        shown.append(tag("figure", tag("h3", metric), drawn, tag("figcaption", caption)))
    return shown or None


def _samples(found: Findings, count: int) -> list[Markup] | None:
    views = pictures.views(found.samples, found.maps)
    if not views:
        return None
    total = len(found.samples)
    lead = f"The first {count} of {total} samples. " if count < total else ""
    lead += "Every map has its own scale: compare where it is strong, not how strong it is."
    return [tag("p", lead, class_="soft"), *(_sample(found, i, views) for i in range(count))]


def _sample(found: Findings, i: int, views: Sequence[pictures.View]) -> Markup:
    samples, drawn = found.samples, []
    for name, of_input, maps in views:
        titles, wide = list(maps), WIDTH[pictures.kind_of(of_input)]
        drawn += [] if name is None else [tag("p", f"input {name}", class_="soft")]
        for group in (titles[j : j + wide] for j in range(0, len(titles), wide)):
            figure = pictures.draw_maps(of_input, {title: maps[title] for title in group}, [i], cell=CELL)
            about = f"Sample {i} and its maps by {', '.join(group)}."
            drawn.append(picture(figure, about if name is None else f"{about[:-1]}, input {name}."))
    neuron = samples.neurons[i]
    about = f"explained neuron {samples.name(neuron) if samples.classes > 1 and isinstance(neuron, int) else neuron}"
    about += f", score {samples.score[i]:.4g}"
    about += "" if samples.probability is None else f", probability {samples.probability[i]:.4g}"
    shown = [row for row in found.rows if row.maps is not None]
    numbers = [(row.title, *(_of_sample(row.cell(c.title), i) for c in found.criteria)) for row in shown]
    table = rows(numbers, header=["Analyzer", *(c.header for c in found.criteria)])
    details = tag("details", tag("summary", "Numbers of this sample"), table)
    heading = tag("h3", f"Sample {pictures.caption(samples, i)}")
    return tag("figure", heading, drawn, tag("figcaption", about), details if found.criteria else None)


def _of_sample(cell: Cell, i: int) -> str:
    return "" if cell.values is None else f"{cell.values[i]:.4g}"


# --- explanations --------------------------------------------------------------------------------------------------


def _meanings(found: Findings) -> Markup | None:
    if not found.criteria:
        return None
    entries = [
        (c.header, "" if c.name == c.title else c.name, c.measures, DIRECTIONS[c.better], _listed(c.params), c.source)
        for c in found.criteria
    ]
    return rows(entries, header=["Metric", "Name", "Measures", "Direction", "Parameters", "Source"])


def _analyzers(found: Findings) -> Markup:
    about = ("family", "description", "sums_to", "reference")
    entries = [
        (row.title, row.analyzer, *(row.about[key] for key in about), tag("code", _listed(row.params)))
        for row in found.rows
    ]
    return rows(entries, header=["Title", "Name", "Family", "What it is", "Maps sum to", "Source", "All parameters"])


def _settings(found: Findings) -> Markup:
    settings = [(name, _text(value)) for name, value in found.settings.items()]
    return join(rows(settings), tag("h3", "Versions"), rows(found.versions.items()))


def _listed(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


def _text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "none" if value is None else str(value)
