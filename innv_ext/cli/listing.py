"""``innv-ext list`` and ``innv-ext summary``."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from innv_ext.analyzers import AnalyzerInfo, list_analyzers
from innv_ext.analyzers.registry import find
from innv_ext.arguments import choice
from innv_ext.cli import models


def list_names(options: Namespace) -> int:
    """One line an analyzer, or all that is known as JSON."""
    models.definitions(options)
    rows = list_analyzers()
    if options.family is not None:
        choice("--family", options.family, sorted({row.family for row in rows}))
        rows = [row for row in rows if row.family == options.family]
    if options.json:
        sys.stdout.write(json.dumps([_as_data(row) for row in rows], indent=1, default=repr) + "\n")
        return 0
    name, family = max(len(row.name) for row in rows), max(len(row.family) for row in rows)
    for row in rows:
        needs = [f"--param {k}=..." for k in row.required()] + ["--fit"] * row.needs_fit
        note = f" (needs {', '.join(needs)})" if needs else ""
        sys.stdout.write(f"{row.name:{name}}  {row.family:{family}}  {row.description}{note}\n")
    return 0


def _as_data(row: AnalyzerInfo) -> dict[str, Any]:
    shown = ("name", "family", "description", "signed", "needs_relu", "needs_fit", "cost", "sums_to", "reference")
    required = row.required()
    defaults = {k: v for k, v in row.parameters().items() if k not in required}
    return {**{k: vars(row)[k] for k in shown}, "required": required, "parameters": defaults}


def summary(options: Namespace) -> int:
    """Which rule each node gets."""
    own = models.definitions(options)
    row, params = find(options.analyzer), dict(options.param)
    analyzer = models.build(row, models.load_model(options, own), params)
    sys.stdout.write(analyzer.summary() + "\n")
    return 0
