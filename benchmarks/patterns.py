"""Cost of PatternNet and PatternAttribution: learning the patterns, and explaining with them.

    python benchmarks/patterns.py [--parts fit memory analyze vgg] [--calls 5] [--out out/patterns.md]

The networks are that of examples/mnist.py and VGG16 at 224 x 224, with random weights: cost does not depend on them.
Times are ratios of medians of calls that take turns in one process, so that a busy machine slows both. Peak memory is
that of a process of its own per row (Linux). Writes a markdown table.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import HEADER, environment, median_seconds, mnist, plain_gradient, ratio, row, write_parts

import innv_ext

FIT, GROWTH, ANALYZE, VGG = 6.0, 100, 1.25, 6 * 1024  # required at most: ratio, MiB, ratio, MiB
IMAGES = 9000
SIZES = (1000, 3000, 9000)  # images of the memory test


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random images in [0, 1]."""
    return np.random.default_rng(seed).random((count, *shape), "float32")


def network() -> keras.Model:
    """The paper's network for MNIST."""
    keras.utils.set_random_seed(0)
    return mnist.build_model()


# --- time --------------------------------------------------------------------------------------------------------


def fit(calls: int) -> list[str]:
    """A whole fit against model.predict on the same images."""
    model, rows = network(), []
    x = images(IMAGES, model.input_shape[1:])
    for batch in (32, 128):
        analyzer = innv_ext.create_analyzer("pattern.net", model, progress=False)
        whole, start, predict = median_seconds(
            lambda a=analyzer, b=batch: a.fit(x, batch_size=b),
            lambda a=analyzer, b=batch: a.fit(x[:b], batch_size=b),
            lambda b=batch: model.predict(x, batch_size=b, verbose=0),
            calls=calls,
        )
        name, unit = f"{IMAGES} images, batch {batch}", (1, "s")
        rows.append(ratio(f"fit / predict, MNIST network, {name}", whole, predict, FIT, unit))
        rows.append(ratio(f"the same without tracing (a fit of one batch), {name}", whole - start, predict, None, unit))
    return rows


def analyze(calls: int) -> list[str]:
    """Explaining against a plain compiled gradient."""
    rows = []
    vgg = keras.applications.VGG16(weights=None)
    for title, model, batch, repeats in (
        ("MNIST network", network(), 32, 10 * calls),
        ("VGG16 at 224 x 224", vgg, 4, 3 * calls),
    ):
        x, plain = images(batch, model.input_shape[1:]), plain_gradient(model)
        # cost does not depend on the patterns either
        patterns = {layer.name: layer.get_weights()[0] for layer in model.layers if layer.get_weights()}
        for name in ("pattern.net", "pattern.attribution"):
            analyzer = innv_ext.create_analyzer(name, model, patterns=patterns, progress=False)
            own, gradient = median_seconds(
                lambda a=analyzer, x=x: a.analyze(x), lambda p=plain, x=x: p(x), calls=repeats
            )
            what = f"{name}, analyze / gradient, {title}, batch {batch}"
            rows.append(ratio(what, own, gradient, ANALYZE))
    return rows


# --- memory ------------------------------------------------------------------------------------------------------


def peak() -> float:
    """Peak resident memory of this process so far in MiB; unlike getrusage's, nothing of the parent is in it."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def stream(count: int, shape: tuple[int, ...], batch: int) -> Iterator[np.ndarray]:
    """Batches that exist one at a time."""
    for i in range(0, count, batch):
        yield images(min(batch, count - i), shape, seed=i)


def measure(network_name: str, count: int, batch: int) -> None:
    """Fit in this process and print its peak memory before and after, in MiB."""
    model = keras.applications.VGG16(weights=None) if network_name == "VGG16" else network()
    before = peak()
    warnings.simplefilter("ignore", innv_ext.errors.DeadNeuronWarning)
    analyzer = innv_ext.create_analyzer("pattern.net", model, progress=False)
    analyzer.fit(stream(count, model.input_shape[1:], batch))
    print(f"peak {before:.1f} {peak():.1f}")


def in_process(network_name: str, count: int, batch: int) -> tuple[float, float]:
    """(before, after) of ``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--measure", network_name, str(count), str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = re.search(r"^peak (\S+) (\S+)$", done.stdout, re.MULTILINE).groups()
    return float(before), float(after)


def memory() -> list[str]:
    """Peak memory while the data grow; the images are made batch by batch, so they take none themselves."""
    found = {size: in_process("MNIST", size, 128)[1] for size in SIZES}
    text = ", ".join(f"{size}: {value:.0f} MiB" for size, value in found.items())
    growth = found[SIZES[-1]] - found[SIZES[0]]
    what = f"peak memory of a fit from a generator, {SIZES[-1]} images less {SIZES[0]}, batch 128"
    return [row(what, f"{growth:.0f} MiB ({text})", f"< {GROWTH} MiB", growth < GROWTH)]


def vgg() -> list[str]:
    """A fit of VGG16, whose kernels take 0.5 GiB in float32."""
    before, after = in_process("VGG16", 16, 8)
    text = f"{after / 1024:.2f} GiB ({before / 1024:.2f} GiB before)"
    what = "peak memory of a fit, VGG16 at 224 x 224, 16 images, batch 8"
    return [row(what, text, f"< {VGG / 1024:g} GiB", after < VGG)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--calls", type=int, default=5, help="of each function that is timed")
    parser.add_argument("--out", type=Path, default=Path("out/patterns.md"))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # what in_process starts
    args = parser.parse_args()
    if args.measure is not None:
        name, count, batch = args.measure
        measure(name, int(count), int(batch))
        return
    warnings.simplefilter("ignore", innv_ext.errors.DeadNeuronWarning)
    head = f"{environment()}; medians of calls that take turns.\n\n{HEADER}"
    parts = {name: lambda part=part: "\n".join(part(args.calls)) for name, part in PARTS.items()}
    write_parts(head, parts, args.parts, args.out)


PARTS = {"fit": fit, "memory": lambda calls: memory(), "analyze": analyze, "vgg": lambda calls: vgg()}

if __name__ == "__main__":
    main()
