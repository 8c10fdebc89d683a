#!/usr/bin/env bash
# Which tokens a mean counts that is taken of a tensor on which MultiHeadAttention was called.
#
# Versions: keras 3.15.1 and keras-nightly 3.16.0.dev2026102704, each with tensorflow 2.21.0, numpy 2.4.6, Python 3.11, x86 CPU.
# Guess, written down first: a layer does not change the tensors that it is called with. Embedding(mask_zero=True) gives its
#   output a mask, and GlobalAveragePooling1D of that output, or of a residual sum with it, leaves the padding out, whatever
#   other layers read the same tensor.
# Seen: in 3.15.1 that is so. In the nightly MultiHeadAttention takes the mask off its inputs, in place, when the model runs:
#   every layer that runs after it on the same tensor finds none, and the mean is one of all places, padding included. Two
#   models that differ by an attention layer whose output goes elsewhere give another mean of the same tensor. Nothing is said.
# Source: run; the layer takes the masks off in its call, keras/src/layers/attention/multi_head_attention.py.
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
x = np.array([[1, 2, 3, 0, 0]])
i = keras.Input((5,), dtype="int32")
h = layers.Embedding(5, 4, mask_zero=True)(i)
attended = layers.MultiHeadAttention(1, 4)(h, h)
models = {
    "mean of the tokens, without attention beside it": keras.Model(i, layers.GlobalAveragePooling1D()(h)),
    "mean of the tokens, with attention called before": keras.Model(
        i, [layers.GlobalAveragePooling1D()(h), layers.GlobalAveragePooling1D()(attended)]
    ),
    "mean of tokens plus attention": keras.Model(i, layers.GlobalAveragePooling1D()(layers.Add()([h, attended]))),
}
table = np.array(h._keras_history.operation.embeddings)
attention = keras.Model(i, attended).predict(x, verbose=0)[0]
values = {"without": table[x[0]], "called": table[x[0]], "plus": table[x[0]] + attention}
for name, model in models.items():
    y = model.predict(x, verbose=0)
    y = y[0] if isinstance(y, list) else y
    v = next(value for word, value in values.items() if word in name)
    ways = {"of the three words": v[:3].mean(axis=0), "of all five places": v.mean(axis=0)}
    print(f"{name}: {[way for way, mean in ways.items() if np.allclose(y[0], mean, atol=1e-5)]}")
PYTHON
run() { TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null >>"$folder/seen"; }
run
"$folder/venv/bin/pip" uninstall --quiet --disable-pip-version-check --yes keras
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps keras-nightly==3.16.0.dev2026102704
run
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
keras 3.15.1
mean of the tokens, without attention beside it: ['of the three words']
mean of the tokens, with attention called before: ['of the three words']
mean of tokens plus attention: ['of the three words']
keras 3.16.0.dev2026102704
mean of the tokens, without attention beside it: ['of the three words']
mean of the tokens, with attention called before: ['of all five places']
mean of tokens plus attention: ['of all five places']
EXPECTED
