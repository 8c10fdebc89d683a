#!/usr/bin/env bash
# Convolutions with channels first on the CPU.
#
# Versions: tensorflow 2.21.0, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: TensorFlow's CPU kernels know channels last only, in eager and compiled functions alike (its
#   error message says so, and so do many answers to questions); or, if this was mended, that it runs wherever
#   TensorFlow runs.
# Seen: with oneDNN switched on the convolution runs, eager and compiled; with it switched off the same call raises
#   UnimplementedError. Without the variable the answer depends on the model of the CPU, because TensorFlow switches
#   oneDNN on by itself only on some: a channels-first Keras model that is trained on one machine does not run on another
#   with the same packages. In float64 it raises either way.
# Source: run, on two kinds of x86 CPU without the variable and on one of them with both values of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 numpy==2.4.6
cat >"$folder/run.py" <<'PYTHON'
import os

import tensorflow as tf

for dtype in ("float32", "float64"):
    x, w = tf.ones((1, 2, 6, 6), dtype), tf.ones((3, 3, 2, 5), dtype)

    def convolve():
        return tf.nn.conv2d(x, w, 1, "VALID", data_format="NCHW")

    for way, call in (("eager", convolve), ("compiled", tf.function(convolve))):
        try:
            found = f"shape {tuple(call().shape)}"
        except tf.errors.UnimplementedError:
            found = "UnimplementedError"
        print(f"oneDNN {os.environ['TF_ENABLE_ONEDNN_OPTS']}, {dtype}, {way}: {found}")
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3
for switch in 0 1; do
  TF_ENABLE_ONEDNN_OPTS=$switch "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null
done >"$folder/seen"
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
oneDNN 0, float32, eager: UnimplementedError
oneDNN 0, float32, compiled: UnimplementedError
oneDNN 0, float64, eager: UnimplementedError
oneDNN 0, float64, compiled: UnimplementedError
oneDNN 1, float32, eager: shape (1, 5, 4, 4)
oneDNN 1, float32, compiled: shape (1, 5, 4, 4)
oneDNN 1, float64, eager: UnimplementedError
oneDNN 1, float64, compiled: UnimplementedError
EXPECTED
echo "as it was"
