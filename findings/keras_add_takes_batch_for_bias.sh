#!/usr/bin/env bash
# What keras.ops.add, the operator + and layers.Add make of one number per sample where there are as many samples as channels.
#
# Versions: tensorflow 2.21.0, keras 3.15.1, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: x of shape (samples, positions, channels) plus one number per sample, (samples, 1, 1), is numpy's
#   broadcasting whatever the sizes; the sum for a sample does not depend on how many others are in its batch.
# Seen: eagerly (and in functions traced for that batch size) the second operand is taken for the bias of a layer as soon as it
#   squeezes to a vector as long as the last axis, or as axis 1, of the first one. With as many samples as channels the
#   number of sample i is then added to channel i of every sample, without a word. With other batch sizes, and in functions
#   traced for a free batch, the sum is right; so one model gives one output for a batch of 2 and another for the same
#   sample in a batch of 3. Subtraction and multiplication are not concerned.
# Source: run; the special case (made so that MatMul and Conv can be fused with BiasAdd) is in
#   keras/src/backend/tensorflow/numpy.py, add.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$folder/run.py" <<'PYTHON'
import keras
import numpy as np
from keras import layers, ops

rng = np.random.default_rng(0)
channels = 2
x = rng.normal(size=(5, 4, channels)).astype("float32")
for count in (1, 2, 3, 5):
    i = keras.Input((4, channels))
    model = keras.Model(i, layers.Add()([i, ops.mean(i, axis=(1, 2), keepdims=True)]))
    a, b = x[:count], x[:count].mean(axis=(1, 2), keepdims=True)
    sides = {
        "ops.add": np.array(ops.add(a, b)), "ops.subtract": np.array(ops.subtract(a, -b)),
        "model": np.array(model(a)), "predict": model.predict(a, verbose=0),
    }
    words = [f"{name} {'right' if np.allclose(y, a + b, atol=1e-6) else 'WRONG'}" for name, y in sides.items()]
    print(f"{count} samples of {channels} channels: {', '.join(words)}")
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null >"$folder/seen"
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
1 samples of 2 channels: ops.add right, ops.subtract right, model right, predict right
2 samples of 2 channels: ops.add WRONG, ops.subtract right, model WRONG, predict WRONG
3 samples of 2 channels: ops.add right, ops.subtract right, model right, predict right
5 samples of 2 channels: ops.add right, ops.subtract right, model right, predict right
EXPECTED
