"""``innv-ext compare``: several analyzers and metrics on the same samples."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from typing import Any

from innv_ext.analyzers.registry import find
from innv_ext.cli import loading, models
from innv_ext.cli.files import folder
from innv_ext.cli.reading import Reader, make_reader, stacked, training_data
from innv_ext.comparison import Comparison
from innv_ext.comparison import compare as run_comparison
from innv_ext.errors import InvalidInputError


def compare(options: Namespace) -> int:
    """Write the table to the standard output, the report and the pictures to files; 1 if an analyzer failed."""
    own = models.definitions(options)
    params = _params(options)
    for name in options.analyzers:
        models.check_fit(find(name), options)
        find(name).constructor_arguments(params[name])
    labels = loading.read_labels(options.labels)
    neuron = loading.read_neuron(options.neuron, labels)
    with contextlib.ExitStack() as stack:
        if options.out is not None:
            stack.enter_context(folder(options.out, "--out"))
        if options.report is not None:
            stack.enter_context(folder(options.report.parent, "--report"))
        reader = make_reader(options, models.load_model(options, own))
        models.check_labels(labels, reader.subject, options.output)
        found = _run(options, reader, params, neuron, labels)
    sys.stdout.write(found.table() + "\n")
    failed = [row for row in found.rows if row.failure is not None]
    for row in failed:
        sys.stderr.write(f"innv-ext: {row.title} failed: {' '.join(str(row.failure).split())}\n")
    return 1 if failed else 0


def _params(options: Namespace) -> dict[str, dict[str, Any]]:
    """The parameters of each analyzer, from NAME:KEY=VALUE."""
    found: dict[str, dict[str, Any]] = {name: {} for name in options.analyzers}
    for key, value in options.param:
        name, colon, parameter = key.partition(":")
        if not colon or name not in found:
            raise InvalidInputError(
                f"--param {key}: say whose parameter it is, NAME:KEY=VALUE with one of {', '.join(found)}."
            )
        found[name][parameter] = value
    return found


def _run(
    options: Namespace, reader: Reader, params: dict[str, dict[str, Any]], neuron: Any, labels: dict[int, str]
) -> Comparison:
    samples = list(reader.samples(*options.images))
    shapes = {sample.shapes if len(sample.shapes) > 1 else sample.shapes[0] for sample in samples}
    if len(shapes) != 1:
        raise InvalidInputError(f"compare needs samples of one size, got {sorted(shapes)}. Resize the images.")
    data = None if options.fit is None else training_data(options.fit, reader, options.batch_size)
    return run_comparison(
        reader.subject.model,
        stacked(samples),
        {name: (name, params[name]) for name in options.analyzers},
        metrics=None if options.metrics is None else list(options.metrics),
        fit=data,
        neuron_selection=neuron,
        output=options.output,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=not options.quiet and sys.stderr.isatty(),
        class_names=labels or None,
        report=options.report,
        out=options.out,
    )
