#!/usr/bin/env bash
# What keras.utils.set_random_seed costs the operations that follow it.
#
# Versions: tensorflow 2.21.0, keras 3.15.1, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: setting the seeds stores a few numbers; operations that draw nothing run as fast after it as
#   before it.
# Seen: TensorFlow's seed is set by emptying the cache of eager kernels, of all operations, random or not. Each of them is
#   made anew when it is called next: eight small operations that took 0.2 ms take more than ten times as long right after
#   (about 80 times where it was tried). A test suite that seeds before every test, or a loop that seeds in every round,
#   pays for it each time (a fifth to a quarter of the time of such tests here). Seeding Python's random and numpy, from
#   which Keras' initialisers draw their seeds, costs nothing of the kind.
# Source: run; the clearing is in tensorflow/python/eager/context.py, _set_global_seed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$folder/run.py" <<'PYTHON'
import random
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

x = tf.ones((4, 4))


def work():
    for call in (tf.nn.relu, tf.tanh, tf.reduce_sum, tf.transpose, tf.exp, tf.sin, tf.square, tf.abs):
        call(x)


def seconds(before):
    found = []
    for _ in range(31):
        before()
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def standard_library():
    random.seed(0)
    np.random.seed(0)


work()
plain = seconds(lambda: None)
for name, seed in (("random and numpy", standard_library), ("keras.utils.set_random_seed", lambda: keras.utils.set_random_seed(0))):
    print(f"after {name}: {'more than ten times' if seconds(seed) > 10 * plain else 'less than ten times'} as long")
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null >"$folder/seen"
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
after random and numpy: less than ten times as long
after keras.utils.set_random_seed: more than ten times as long
EXPECTED
echo "as it was"
