"""Which analyzers run on keras-hub's models: makes the table of docs/hub.md.

    python benchmarks/hub.py [--models BertTextClassifier ...] [--out docs/hub_table.md]

A tiny model with random weights of every task, and of every backbone without one; nothing is downloaded. Reasons of
refusals are those that the tests expect; any other error ends the run.
"""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT / "tests"))

import hub_models
import keras
import keras_hub
import numpy as np
from hub_refusals import ANALYZERS, refusal

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


def cell(analyzer: str, found: Any) -> str:
    """What a map says: the share of the score that arrives, or what is missing of the difference to the reference."""
    if analyzer == "deep_lift":
        error = max(float(found.extras["completeness_error"].max()), 1e-6)
        return f"yes, < {10 ** np.ceil(np.log10(error)):.0e}"
    if analyzer.startswith("lrp"):
        parts = keras.tree.flatten(found.attribution)
        total = sum(float(part[0].sum(dtype="float64")) for part in parts)
        return f"yes, {total / float(found.score[0]):.2f}"
    return "yes"


def row(name: str, notes: list[str]) -> str:
    """The line of a model; reasons that are new are added to ``notes``."""
    model = hub_models.build(name)
    x, cells = hub_models.inputs(model), []
    for analyzer in ANALYZERS:
        expected = refusal(name, analyzer)
        try:
            own = innv_ext.create_analyzer(analyzer, model, output=hub_models.explained(model), progress=False)
            found = own.explain(x)
            if expected is not None:
                raise RuntimeError(f"{analyzer} of {name} runs, which the table of refusals does not know")
            cells.append(cell(analyzer, found))
        except UnsupportedModelError:
            if expected is None:
                raise
            if expected[1] not in notes:
                notes.append(expected[1])
            cells.append(f"no ({notes.index(expected[1]) + 1})")
    return f"| {name} | {model.count_params():,} | {' | '.join(cells)} |"


def table(names: Sequence[str]) -> str:
    """All models, by what they do."""
    notes: list[str] = []
    rows: dict[str, list[str]] = {title: [] for title in BASES.values()}
    for name in names:
        line = row(name, notes)
        print(line, flush=True)
        rows[group(name)].append(line)
        keras.backend.clear_session()
        gc.collect()
    parts = [f"**{title}**\n\n{HEAD}\n" + "\n".join(lines) for title, lines in rows.items() if lines]
    reasons = [f"{i}. {reason}" for i, reason in enumerate(notes, 1)]
    return "\n\n".join([*parts, *(["Why not:\n\n" + "\n".join(reasons)] if reasons else [])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=hub_models.LISTED, default=hub_models.LISTED, metavar="MODEL")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "hub_table.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.write_text(table(args.models), encoding="utf-8")


if __name__ == "__main__":
    main()
