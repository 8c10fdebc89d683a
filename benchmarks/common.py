"""What the benchmarks share: times that take turns, peak memory, the plain gradient, tables."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import keras
import mnist  # noqa: F401 - that of the examples, for those who import from here
import numpy as np
import tensorflow as tf

import innv_ext

HEADER = "| what | measured | required | holds |\n|---|---|---|---|"


def environment() -> str:
    """What was measured with."""
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    return f"{versions}, {os.cpu_count()} cores"


def row(what: str, found: str, limit: str, holds: bool) -> str:
    """A line under HEADER."""
    return f"| {what} | {found} | {limit} | {'yes' if holds else 'MISSED'} |"


def ratio(what: str, own: float, other: float, limit: float | None, unit: tuple[float, str] = (1e3, "ms")) -> str:
    """A line under HEADER: the ratio of two times and what it is made of; without a limit just that."""
    factor, name = unit
    text = f"{own / other:.2f} ({own * factor:.2f} {name} / {other * factor:.2f} {name})"
    return f"| {what} | {text} | | |" if limit is None else row(what, text, f"<= {limit:g}", own <= limit * other)


def write_parts(head: str, parts: Mapping[str, Callable[[], str]], chosen: list[str], out: Path) -> None:
    """Run the chosen parts, print what each finds and write it all."""
    print(head, flush=True)
    text = head + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        found = parts[part]()
        print(found, flush=True)
        text += found + "\n"
        out.write_text(text, encoding="utf-8")


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_seconds(*functions: Callable[[], object], calls: int = 15) -> list[float]:
    """Median time of each function, taking turns, so that a busy machine slows all of them."""
    for function in functions:
        function()
    times = [[seconds(function) for function in functions] for _ in range(calls)]
    return [statistics.median(t) for t in zip(*times, strict=True)]


class PeakMemory:
    """Peak resident memory of this process in MiB while the block runs, sampled every 5 ms (Linux).

    Attributes
    ----------
    start : at the beginning
    peak : the largest since then
    """

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    @staticmethod
    def _now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._now())

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()


def plain_gradient(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """What a careful user writes by hand: the largest logit's gradient, compiled, free batch dimension."""
    logits = innv_ext.model_wo_softmax(model)

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), "float32")])
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_max(logits(x, training=False), axis=1)
        return tape.gradient(score, x)

    return lambda x: gradient(tf.constant(x)).numpy()
