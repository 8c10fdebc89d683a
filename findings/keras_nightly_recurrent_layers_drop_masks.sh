#!/usr/bin/env bash
# Whether the second of two stacked LSTM layers still knows which steps are padding.
#
# Versions: keras 3.15.1 and keras-nightly 3.16.0.dev2026102704, each with tensorflow 2.21.0, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: a Masking layer in front of LSTM(return_sequences=True) and LSTM is enough, because recurrent layers
#   hand their mask on. Padding behind a series changes nothing that the model says of it.
# Seen: in 3.15.1 that is so. In the nightly a recurrent layer uses the mask that it gets and gives its output none: padding
#   runs through the second layer (and would count in a pooling behind it), and what the model says changes with the length to which a
#   series is padded. A warning says that the first layer does not support masking, which it does for itself. One layer alone, or
#   Bidirectional alone, is right in both.
# Source: run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$folder/run.py" <<'PYTHON'
import keras
import numpy as np
from keras import layers

print("keras", keras.__version__)
keras.utils.set_random_seed(0)
series = np.random.default_rng(0).normal(size=(1, 4, 2)).astype("float32")
padded = np.concatenate([series, np.zeros((1, 5, 2), "float32")], axis=1)
stacks = {
    "one LSTM": [layers.LSTM(3)],
    "one Bidirectional": [layers.Bidirectional(layers.LSTM(3))],
    "two LSTMs": [layers.LSTM(3, return_sequences=True), layers.LSTM(3)],
    "LSTM and mean": [layers.LSTM(3, return_sequences=True), layers.GlobalAveragePooling1D()],
}
for name, stack in stacks.items():
    model = keras.Sequential([keras.Input((None, 2)), layers.Masking(), *stack])
    short, long = (model.predict(x, verbose=0) for x in (series, padded))
    print(f"{name}: padding", "changes nothing" if np.allclose(short, long, atol=1e-5) else "changes the output")
PYTHON
run() { TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null >>"$folder/seen"; }
run
"$folder/venv/bin/pip" uninstall --quiet --disable-pip-version-check --yes keras
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps keras-nightly==3.16.0.dev2026102704
run
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
keras 3.15.1
one LSTM: padding changes nothing
one Bidirectional: padding changes nothing
two LSTMs: padding changes nothing
LSTM and mean: padding changes nothing
keras 3.16.0.dev2026102704
one LSTM: padding changes nothing
one Bidirectional: padding changes nothing
two LSTMs: padding changes the output
LSTM and mean: padding changes the output
EXPECTED
