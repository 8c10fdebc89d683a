#!/usr/bin/env bash
# What layer(x, training=True), written in a functional model, does in predict: Monte Carlo dropout.
#
# Versions: keras 3.15.1 and keras-nightly 3.16.0.dev2026102704, each with tensorflow 2.21.0, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: an explicit training=True of a call holds for that call and for no other; predict drops values in
#   that Dropout and leaves all other layers in inference.
# Seen: in 3.15.1 predict overrules it: nothing is dropped at all, so that Monte Carlo dropout written this way always gives the
#   same answer. In the nightly it counts, and what is more, it holds from there on: every Dropout that runs later drops as
#   well, though nothing was said of it (three quarters are zero behind two of a rate of one half). Layers that run before
#   it are not concerned, so the order of the calls decides.
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
x = np.ones((1, 1000), "float32")
for order in ("recorded before", "recorded after"):
    i = h = keras.Input((1000,))
    if order == "recorded before":
        h = layers.Dropout(0.5)(h, training=True)
    kept = layers.Dropout(0.5)(h)
    h = layers.Identity()(kept)
    if order == "recorded after":
        h = layers.Dropout(0.5)(h, training=True)
    model = keras.Model(i, {"kept": kept, "end": h})
    y = model.predict(x, verbose=0)
    shares = {name: str(round(float((y[name] == 0).mean()) * 4) / 4) for name in ("kept", "end")}  # to a quarter
    print(f"training=True {order} the plain Dropout: zeros behind the plain one {shares['kept']}, at the end {shares['end']}")
PYTHON
run() { TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null >>"$folder/seen"; }
run
"$folder/venv/bin/pip" uninstall --quiet --disable-pip-version-check --yes keras
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps keras-nightly==3.16.0.dev2026102704
run
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
keras 3.15.1
training=True recorded before the plain Dropout: zeros behind the plain one 0.0, at the end 0.0
training=True recorded after the plain Dropout: zeros behind the plain one 0.0, at the end 0.0
keras 3.16.0.dev2026102704
training=True recorded before the plain Dropout: zeros behind the plain one 0.75, at the end 0.75
training=True recorded after the plain Dropout: zeros behind the plain one 0.0, at the end 0.5
EXPECTED
