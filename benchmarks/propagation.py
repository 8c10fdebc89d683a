"""Cost of the propagation and gradient analyzers as a ratio to a plain compiled gradient of the same model.

    python benchmarks/propagation.py [--networks VGG16 ResNet50] [--batches 4 8] [--calls 5] [--out out/propagation.md]

Random weights, 224 x 224 images, everything in one process: the baseline is timed again next to every analyzer, so
that a busy machine slows both. Writes a markdown table: seconds of the first call (building, tracing, running),
median of the steady calls, its ratio to the baseline, peak resident memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import PeakMemory, environment, plain_gradient, seconds

import innv_ext

REQUIRED = {
    "gradient": 1.1,
    "guided_backprop": 1.15,
    "deconvnet": 1.15,
    "lrp.z": 1.25,
    "lrp.epsilon": 1.25,
    "lrp.z_plus": 1.7,
    "lrp.alpha_1_beta_0": 1.7,
    "deep_taylor": 1.7,
    "lrp.alpha_2_beta_1": 3.2,
    "lrp.sequential_preset_a": 1.8,
}
PARAMETERS = {
    "deep_taylor.bounded": {"low": -1.0, "high": 1.0},
    "lrp.epsilon_gamma_box": {"low": -1.0, "high": 1.0},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer": 4},
    "smoothgrad": {"augment_by_n": 8},
    "integrated_gradients": {"steps": 8},
}


def walks() -> list[str]:
    """The names of the analyzers that walk the graph with nothing to learn first."""
    families = ("gradient", "lrp", "deep_taylor")
    return [a.name for a in innv_ext.list_analyzers() if a.family in families and not a.needs_fit]


def measure(model: keras.Model, name: str, batches: list[int], calls: int, baseline: Callable) -> list[dict]:
    """One row per batch size; baseline and analyzer take turns."""
    shape, rng, rows = model.input_shape[1:], np.random.default_rng(0), []
    images = {b: rng.uniform(-1, 1, (b, *shape)).astype("float32") for b in batches}
    with PeakMemory() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        analyzer = innv_ext.create_analyzer(name, model, **PARAMETERS.get(name, {}))
        analyzer.analyze(images[batches[0]])
        first = time.perf_counter() - start
        for batch in batches:
            x = images[batch]
            analyzer.analyze(x)
            pairs = [(seconds(lambda x=x: baseline(x)), seconds(lambda x=x: analyzer.analyze(x))) for _ in range(calls)]
            plain, own = (statistics.median(p) for p in zip(*pairs, strict=True))
            rows.append(
                {"name": name, "batch": batch, "first": first, "plain": plain, "own": own, "ratio": own / plain}
            )
        traces = {c.traces for c in analyzer._compiled.values()}
    assert traces <= {1}, f"{name} was traced again for a second batch size"
    return [{**row, "memory": memory.peak} for row in rows]


def table(network: str, rows: list[dict]) -> str:
    lines = [
        f"\n### {network}, 224 x 224, random weights\n",
        "| analyzer | batch | first call s | plain gradient s | steady call s | ratio | required | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        limit = REQUIRED.get(r["name"]) if network == "VGG16" and r["batch"] == 4 else None
        verdict = "" if limit is None else f"<= {limit}" + ("" if r["ratio"] <= limit else " MISSED")
        lines.append(
            f"| {r['name']} | {r['batch']} | {r['first']:.2f} | {r['plain']:.3f} | {r['own']:.3f} | "
            f"{r['ratio']:.2f} | {verdict} | {r['memory']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["VGG16", "ResNet50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--analyzers", nargs="+", default=walks())
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/propagation.md"))
    args = parser.parse_args()
    text = (
        f"{environment()}; median of {args.calls} calls; smoothgrad and integrated_gradients with 8 points.\n"
    )
    for network in args.networks:
        model = getattr(keras.applications, network)(weights=None)
        baseline = plain_gradient(model)
        baseline(np.zeros((1, *model.input_shape[1:]), "float32"))
        rows = []
        for name in args.analyzers:
            rows += measure(model, name, args.batches, args.calls, baseline)
            print("\n".join(table(network, rows).splitlines()[-len(args.batches) :]), flush=True)
        text += table(network, rows) + "\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
