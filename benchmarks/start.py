"""What it costs to start: the first analyzer of a model and the second, the first call and those that follow.

    python benchmarks/start.py [--parts selection sharing rde nodes] [--size 512] [--out out/start.md]

selection: the gradient of EfficientNetB4; ``analyze(x)``, then ``analyze(x, 3)``, then another batch size must compile
once. sharing: building analyzers of ResNet50; the second shares trace and check with the first. rde: the first call of
rc_rde on MobileNetV2 (alpha 0.35, 64 x 64) next to that of the gradient of an equal model. nodes: building lrp.epsilon
for 250 and for 1,000 nodes; it must grow with the nodes, not with their square. Random weights; every number is from
one process, in seconds of the wall clock (nodes: of the processor). Writes a markdown table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import HEADER, environment, ratio, row, seconds, write_parts

import innv_ext

LIMITS = {"second call": 0.5, "second analyzer": 0.25, "rc_rde": 4.0, "1,000 nodes": 10.0, "growth": 6.0}
S = (1.0, "s")


def images(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype("float32")


def selection(size: int) -> str:
    """One compile for every neuron and batch size."""
    model = keras.applications.EfficientNetB4(weights=None, input_shape=(size, size, 3))
    x, analyzers = images(size, 2), []
    built = seconds(lambda: analyzers.append(innv_ext.create_analyzer("gradient", model)))
    (analyzer,) = analyzers
    first = seconds(lambda: analyzer.analyze(x[:1]))
    chosen = seconds(lambda: analyzer.analyze(x[:1], 3))
    pair = seconds(lambda: analyzer.analyze(x))
    again = seconds(lambda: analyzer.analyze(x[:1]))
    traces = sum(function.traces for function in analyzer._compiled.values())
    what = f"gradient of EfficientNetB4 at {size} x {size}"
    return "\n".join([
        f"\n{HEADER}",
        f"| {what}: building; analyze(x) | {built:.2f}; {first:.2f} s | | |",
        ratio("analyze(x, 3) / analyze(x)", chosen, first, LIMITS["second call"], S),
        ratio("two images / analyze(x)", pair, first, None, S),
        ratio("analyze(x) again / analyze(x)", again, first, None, S),
        row("traces", str(traces), "1", traces == 1),
    ])


def sharing() -> str:
    """The second analyzer of a model."""
    model = keras.applications.ResNet50(weights=None)
    names, kept, times = ("gradient", "lrp.epsilon", "lrp.epsilon", "deep_taylor"), [], []
    for i, name in enumerate(names):
        if i == 1:
            kept.clear()  # the plain gradient has another form of the graph
        times.append(seconds(lambda name=name: kept.append(innv_ext.create_analyzer(name, model))))
    lines = [f"\n{HEADER}", f"| ResNet50: building gradient | {times[0]:.2f} s | | |"]
    lines.append(ratio("building lrp.epsilon again / the first time", times[2], times[1], LIMITS["second analyzer"], S))
    lines.append(ratio("deep_taylor / lrp.epsilon, the first", times[3], times[1], LIMITS["second analyzer"], S))
    return "\n".join(lines)


def rde() -> str:
    """Building and first call of rc_rde next to those of the gradient."""
    x, times = images(64, 1), {}
    for name, params in (("warm-up", {}), ("gradient", {}), ("rc_rde", {"reference": "uniform"})):
        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNetV2(weights=None, alpha=0.35, input_shape=(64, 64, 3))
        method = "gradient" if name == "warm-up" else name

        def start(method: str = method, params: dict = params, model: keras.Model = model) -> None:
            innv_ext.create_analyzer(method, model, **params).analyze(x)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times[name] = seconds(start)
    what = "rc_rde / gradient on MobileNetV2, built and called for the first time"
    return f"\n{HEADER}\n" + ratio(what, times["rc_rde"], times["gradient"], LIMITS["rc_rde"], S)


class Stack(keras.Model):
    """The slowest: a subclassed model, of which every layer is called symbolically."""

    def __init__(self, count: int):
        super().__init__()
        self.parts = [keras.layers.Dense(2) for _ in range(count)]

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        for part in self.parts:
            x = part(x)
        return x


class Chain(keras.layers.Layer):
    """Many operations in one layer, which is opened."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        for _ in range(self.count // 2):
            x = keras.ops.tanh(x) * 0.99
        return x


def subclassed(count: int) -> keras.Model:
    model = Stack(count)
    model(np.zeros((1, 2), "float32"))
    return model


def functional(count: int) -> keras.Model:
    i = y = keras.Input((2,))
    for _ in range(count // 2):
        y = keras.layers.Dense(2, activation="relu")(y)
    return keras.Model(i, y)


def one_layer(count: int) -> keras.Model:
    i = keras.Input((2,))
    return keras.Model(i, Chain(count)(i))


def built(model: keras.Model) -> float:
    """Seconds of the processor, which other programs do not add to."""
    start = time.process_time()
    innv_ext.create_analyzer("lrp.epsilon", model)
    return time.process_time() - start


def nodes() -> str:
    """Building an analyzer of ever more nodes."""
    sys.setrecursionlimit(20000)  # Keras itself recurses through a model of a thousand layers
    lines = [f"\n{HEADER}"]
    for build in (functional, one_layer, subclassed):
        innv_ext.create_analyzer("lrp.epsilon", build(20))  # what is loaded at the first use does not count
        models = [build(250), build(1000)]
        few, many = map(built, models)
        lines.append(ratio(f"{build.__name__}: 1,000 nodes / 250 nodes", many, few, LIMITS["growth"], S))
        limit = LIMITS["1,000 nodes"]
        lines.append(row("1,000 nodes", f"{many:.2f} s", f"<= {limit:g} s", many <= limit))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"selection": selection, "sharing": sharing, "rde": rde, "nodes": nodes}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--size", type=int, default=512, help="of EfficientNetB4's images")
    parser.add_argument("--out", type=Path, default=Path("out/start.md"))
    args = parser.parse_args()
    write_parts(environment(), {**parts, "selection": partial(selection, args.size)}, args.parts, args.out)


if __name__ == "__main__":
    main()
