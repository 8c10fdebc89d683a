"""Cost of the methods on sequences as a ratio to a plain compiled gradient of the same model.

    python benchmarks/sequences.py [--parts recurrent tracing transformer long memory] [--steps 128] [--calls 7]
                                   [--out out/sequences.md]

Random weights. ``recurrent``: LSTM(128) over 256 steps of 64 values, batch 32, and a GRU of the same size.
``tracing``: whether the first call depends on the number of steps. ``transformer``: an encoder of the size of BERT-
base behind its embedding (12 layers, 768, 12 heads), batch 2; ``long``: with 1,024 steps, one sample; ``memory``: of
one, two and four of these, which takes 16 GiB. Baseline and analyzers take turns in one process, so that a busy
machine slows all of them.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import HEADER, PeakMemory, environment, median_seconds, plain_gradient, ratio, row, seconds, write_parts

import innv_ext

BATCH, STEPS, WIDTH, UNITS = 32, 256, 64, 128
REQUIRED = {"lrp.epsilon": 3.0}
ANALYZERS = ("gradient", "lrp.epsilon", "lrp.alpha_2_beta_1")
LENGTHS = (64, 256, 1024)
METHODS = ("gradient", "lrp.attnlrp", "lrp.cp_lrp")


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


def transformer(calls: int, steps: int = 128, batch: int = 2) -> str:
    """Attention in steps, against the gradient of the model as Keras runs it.

    First calls (building, comparing with the model, tracing, running) and peak memory are those of processes of their
    own; a heap that grew before would hide what is taken from it.
    """
    lines = [f"\n### Transformer, 12 layers of 768, {steps} steps, batch {batch}\n", HEADER]
    model, x = encoder(steps), np.random.default_rng(0).normal(size=(batch, steps, 768)).astype("float32")
    baseline = functools.partial(plain_gradient(model), x)
    first, room = alone("plain", steps, batch)
    for name in METHODS:
        limits = (None, None, None) if name == "gradient" else (1.25, 1.5, 1.25)
        run = functools.partial(innv_ext.create_analyzer(name, model).analyze, x)
        plain, own = median_seconds(baseline, run, calls=calls)
        own_first, held = alone(name, steps, batch)
        lines.append(ratio(name, own, plain, limits[0]))
        lines.append(ratio(f"{name}: built and called for the first time", own_first, first, limits[1]))
        lines.append(ratio(f"{name}: peak memory", held, room, limits[2], (1.0, "MiB")))
    return "\n".join(lines)


def memory(calls: int, steps: int = 1024) -> str:
    """Peak memory of one, two and four samples: what two more take is twice of what one more takes."""
    lines = [f"\n### Memory of batches, {steps} steps\n", HEADER]
    for name in METHODS[1:]:
        one, two, four = (alone(name, steps, batch)[1] for batch in (1, 2, 4))
        more = (four - two) / 2 / (two - one)
        found = f"{one:.0f}, {two:.0f} and {four:.0f} MiB; {more:.2f} times as much a sample"
        lines.append(row(f"{name}: memory of 1, 2 and 4 samples", found, "<= 1.15", more <= 1.15))
    return "\n".join(lines)


def tracing(calls: int) -> str:
    """Tracing a loop: the first call of sequences of more steps, without what the steps themselves take."""
    lines = ["\n### Tracing of LSTM(128), one sample\n", HEADER]
    for name in ANALYZERS[:2]:
        _traced(name, 64)
        times = [[_traced(name, steps) for steps in LENGTHS] for _ in range(calls)]
        taken = [statistics.median(column) for column in zip(*times, strict=True)]
        found = ", ".join(f"{steps} steps {1e3 * t:.0f} ms" for steps, t in zip(LENGTHS, taken, strict=True))
        what = f"{name}: first call without the time of a second"
        lines.append(row(what, found, "<= 1.3 times", max(taken) <= 1.3 * min(taken)))
    return "\n".join(lines)


def _traced(name: str, steps: int) -> float:
    inputs = keras.Input((steps, WIDTH))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.LSTM(UNITS)(inputs)))
    x = np.random.default_rng(0).normal(size=(1, steps, WIDTH)).astype("float32")
    run = functools.partial(innv_ext.create_analyzer(name, model, check_forward=False).analyze, x)
    return seconds(run) - seconds(run)


def alone(name: str, steps: int, batch: int) -> tuple[float, float]:
    """Seconds of the first call of a method on the transformer, and its peak memory in MiB, in a new process."""
    call = [sys.executable, __file__, "--alone", name, str(steps), str(batch)]
    first, held = subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(first), float(held)


def first_call(name: str, steps: int, batch: int) -> str:
    """What ``alone`` reads."""
    model, x = encoder(steps), np.random.default_rng(0).normal(size=(batch, steps, 768)).astype("float32")
    with PeakMemory() as used:
        start = time.perf_counter()
        run = plain_gradient(model) if name == "plain" else innv_ext.create_analyzer(name, model).analyze
        run(x)
        first = time.perf_counter() - start
        run(x)
    return f"{first} {used.peak - used.start}"


PARTS: dict[str, Callable[..., str]] = {
    "recurrent": recurrent,
    "tracing": tracing,
    "transformer": transformer,
    "long": functools.partial(transformer, steps=1024, batch=1),
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--steps", type=int, default=128, help="of the transformer")
    parser.add_argument("--out", type=Path, default=Path("out/sequences.md"))
    parser.add_argument("--alone", nargs=3, metavar=("METHOD", "STEPS", "BATCH"), help="first call and memory only")
    args = parser.parse_args()
    if args.alone:
        print(first_call(args.alone[0], *map(int, args.alone[1:])))
        return
    parts = {name: functools.partial(part, args.calls) for name, part in PARTS.items()}
    parts["transformer"] = functools.partial(transformer, args.calls, args.steps)
    write_parts(f"{environment()}; median of {args.calls} calls.", parts, args.parts, args.out)


if __name__ == "__main__":
    main()
