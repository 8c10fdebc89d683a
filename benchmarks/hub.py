"""Which analyzers run on keras-hub's models: makes the table of docs/hub.md.

    python benchmarks/hub.py [--models BertTextClassifier ...] [--out docs/hub_table.md]

A tiny model with random weights of every task, and of every backbone without one; nothing is downloaded. With
``--models`` the rows of the others stay as they are in the file. Reasons of refusals are those that the tests expect:
what is not among them is told at the end, with exit code 1.
"""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT / "tests"))

import hub_models
import keras
import keras_hub
import numpy as np
from hub_refusals import ANALYZERS, REFUSED, refusal

import innv_ext
from innv_ext.errors import UnsupportedModelError

BASES = {
    "TextClassifier": "Classifiers of texts",
    "MaskedLM": "Masked words",
    "TextEmbedder": "Embeddings of texts",
    "Seq2SeqLM": "From sequence to sequence",
    "CausalLM": "The next token",
    "ImageClassifier": "Classifiers of images",
    "ImageSegmenter": "Segmentation",
    "ObjectDetector": "Detection",
    "DepthEstimator": "Depth",
    "Backbone": "Backbones without a task",
}
HEAD = f"| Model | Weights | {' | '.join(f'`{name}`' for name in ANALYZERS)} |\n|---|--:|{'---|' * len(ANALYZERS)}"


def group(name: str) -> str:
    """The heading under which a model stands."""
    cls = getattr(keras_hub.models, name)
    return next(title for base, title in BASES.items() if issubclass(cls, getattr(keras_hub.models, base)))


def cell(name: str, analyzer: str, found: Any) -> str:
    """What a map says: what is missing of the difference to the reference, or the share of the score that arrives."""
    if analyzer == "deep_lift":
        error = max(float(found.extras["completeness_error"].max()), 1e-6)
        return f"yes, < {10 ** np.ceil(np.log10(error)):.0e}"
    if analyzer.startswith("lrp") and name in hub_models.WITHOUT_BIAS:
        total = sum(float(part[0].sum(dtype="float64")) for part in keras.tree.flatten(found.attribution))
        return f"yes, {total / float(found.score[0]):.2f}"
    return "yes"


def row(name: str) -> tuple[str, list[str]]:
    """The line of a model, and what came otherwise than the table of refusals says."""
    model = hub_models.build(name)
    x, cells, surprises = hub_models.inputs(model), [], []
    for analyzer in ANALYZERS:
        expected = refusal(name, analyzer)
        try:
            own = innv_ext.create_analyzer(analyzer, model, output=hub_models.explained(model), progress=False)
            cells.append(cell(name, analyzer, own.explain(x)))
            if expected is not None:
                surprises.append(f"{name}, {analyzer}: runs")
        except UnsupportedModelError as error:
            cells.append("no")
            if expected is None or expected[0].lower() not in str(error).lower():
                surprises.append(f"{name}, {analyzer}: {error}")
    return f"| {name} | {model.count_params():,} | {' | '.join(cells)} |", surprises


def table(rows: Mapping[str, str]) -> str:
    """The lines of all models, by what they do, and why some are refused."""
    parts = []
    for title in BASES.values():
        lines = [rows[name] for name in hub_models.LISTED if name in rows and group(name) == title]
        parts += [f"**{title}**\n\n{HEAD}\n" + "\n".join(lines)] if lines else []
    reasons = {why: [name for name, (*_, own) in REFUSED.items() if own == why] for *_, why in REFUSED.values()}
    listed = [f"- {', '.join(names)}: {why}" for why, names in reasons.items()]
    return "\n\n".join([*parts, "**Why not**\n\n" + "\n".join(listed)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=hub_models.LISTED, default=hub_models.LISTED, metavar="MODEL")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "hub_table.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    before = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    rows = {line.split(" | ")[0].strip("| "): line for line in before if line.startswith("| ")}
    surprises = []
    for name in args.models:
        rows[name], found = row(name)
        surprises += found
        print(rows[name], *found, sep="\n", flush=True)
        args.out.write_text(table(rows), encoding="utf-8")
        keras.backend.clear_session()
        gc.collect()
    sys.exit("\n".join(surprises) or None)


if __name__ == "__main__":
    main()
