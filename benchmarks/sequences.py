"""Cost of the methods on sequences as a ratio to a plain compiled gradient of the same model.

    python benchmarks/sequences.py [--parts recurrent transformer] [--steps 128] [--calls 7] [--out out/sequences.md]

Random weights. ``recurrent``: LSTM(128) over 256 steps of 64 values, batch 32, and a GRU of the same size.
``transformer``: an encoder of the size of BERT-base behind its embedding (12 layers, 768, 12 heads), batch 2. Baseline
and analyzers take turns in one process, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import HEADER, PeakMemory, environment, median_seconds, plain_gradient, ratio, write_parts

import innv_ext

BATCH, STEPS, WIDTH, UNITS = 32, 256, 64, 128
REQUIRED = {"lrp.epsilon": 3.0}
ANALYZERS = ("gradient", "lrp.epsilon", "lrp.alpha_2_beta_1")


def recurrent(calls: int) -> str:
    """Loops over the steps of a layer."""
    lines = [f"\n### Recurrent layers, {STEPS} steps, {UNITS} units, batch {BATCH}\n", HEADER]
    x = np.random.default_rng(0).normal(size=(BATCH, STEPS, WIDTH)).astype("float32")
    for layer in (keras.layers.LSTM, keras.layers.GRU):
        inputs = keras.Input((STEPS, WIDTH))
        model = keras.Model(inputs, keras.layers.Dense(10)(layer(UNITS)(inputs)))
        baseline = functools.partial(plain_gradient(model), x)
        for name in ANALYZERS:
            with PeakMemory() as memory:
                run = functools.partial(innv_ext.create_analyzer(name, model).analyze, x)
                plain, own = median_seconds(baseline, run, calls=calls)
            what = f"{name}, {layer.__name__} ({memory.peak - memory.start:.0f} MiB more)"
            lines.append(ratio(what, own, plain, REQUIRED.get(name) if layer is keras.layers.LSTM else None))
    return "\n".join(lines)


def encoder(steps: int) -> keras.Model:
    """BERT-base behind its embedding: blocks with the norms behind the sums."""
    layers = keras.layers
    inputs = h = keras.Input((steps, 768))
    for _ in range(12):
        h = layers.LayerNormalization()(h + layers.MultiHeadAttention(12, 64)(h, h))
        inner = layers.Dense(3072, activation="gelu")(h)
        h = layers.LayerNormalization()(h + layers.Dense(768)(inner))
    return keras.Model(inputs, layers.Dense(2)(h[:, 0]))


def transformer(calls: int, steps: int = 128) -> str:
    """Attention in steps, against the gradient of the model as Keras runs it."""
    lines = [f"\n### Transformer, 12 layers of 768, {steps} steps, batch 2\n", HEADER]
    model, x = encoder(steps), np.random.default_rng(0).normal(size=(2, steps, 768)).astype("float32")
    with PeakMemory() as memory:
        start = time.perf_counter()
        baseline = functools.partial(plain_gradient(model), x)
        baseline()
        first = time.perf_counter() - start
        baseline()
    room = memory.peak - memory.start
    for name in ("gradient", "lrp.attnlrp", "lrp.cp_lrp"):
        with PeakMemory() as memory:
            start = time.perf_counter()
            run = functools.partial(innv_ext.create_analyzer(name, model).analyze, x)
            run()
            own_first = time.perf_counter() - start
            plain, own = median_seconds(baseline, run, calls=calls)
        held = memory.peak - memory.start
        lines.append(ratio(name, own, plain, None if name == "gradient" else 1.25))
        lines.append(ratio(f"{name}: built and called for the first time", own_first, first, 1.5))
        lines.append(f"| {name}: peak memory | {held:.0f} MiB more than before, the gradient {room:.0f} | | |")
    return "\n".join(lines)


PARTS: dict[str, Callable[..., str]] = {"recurrent": recurrent, "transformer": transformer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--steps", type=int, default=128, help="of the transformer")
    parser.add_argument("--out", type=Path, default=Path("out/sequences.md"))
    args = parser.parse_args()
    parts = {name: functools.partial(part, args.calls) for name, part in PARTS.items()}
    parts["transformer"] = functools.partial(transformer, args.calls, args.steps)
    write_parts(f"{environment()}; median of {args.calls} calls.", parts, args.parts, args.out)


if __name__ == "__main__":
    main()
