#!/usr/bin/env bash
# Whether what XLNet says of a text depends on the texts that are in the same batch.
#
# Versions: keras-hub 0.32.0, keras 3.15.1, tensorflow 2.21.0, numpy 2.4.6, Python 3.11, x86 CPU; random weights.
# Guess, written down first: no. An encoder in inference treats every sample for itself, as BertBackbone does; padding is masked.
# Seen: it does depend. With another text beside it the vectors of a text are others, with padding and without; two copies of
#   one text in one batch get two results. BertBackbone gives the same to rounding. So predict(batch_size=...) changes the result,
#   and an explanation of one sample, or one that calls the model with many versions of it at once, means something else than
#   the batch.
# Why: the layers of XLNetBackbone swap batch and steps, as the first implementation did, but with a reshape in place of a transpose.
# Source: run; models/xlnet/xlnet_encoder.py (the mask) and xlnet_content_and_query_embedding.py (the positions) of keras-hub.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6 keras-hub==0.32.0
cat >"$folder/run.py" <<'PYTHON'
import keras
import keras_hub
import numpy as np

keras.utils.set_random_seed(0)
sizes = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
models = {
    "XLNetBackbone": keras_hub.models.XLNetBackbone(**sizes, kernel_initializer_range=0.5),
    "BertBackbone": keras_hub.models.BertBackbone(**sizes),
}
texts = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
full, padded = np.ones((2, 6), int), np.array([[1] * 6, [1, 1, 1, 0, 0, 0]])


def vectors(model, rows, mask):
    given = {"token_ids": texts[rows], "segment_ids": np.zeros((len(rows), 6), int), "padding_mask": mask[rows]}
    y = model.predict(given, verbose=0)
    return y["sequence_output"] if isinstance(y, dict) else y


for name, model in models.items():
    for what, mask in (("no padding", full), ("the other text is padded", padded)):
        alone, beside = vectors(model, [0], mask)[0], vectors(model, [0, 1], mask)[0]
        print(f"{name}, {what}: the first text", "is the same" if np.allclose(alone, beside, atol=1e-5) else "is another")
    first, second = vectors(model, [0, 0], full)
    print(f"{name}, twice the same text:", "equal" if np.allclose(first, second, atol=1e-5) else "not equal")
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null | tee "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
XLNetBackbone, no padding: the first text is another
XLNetBackbone, the other text is padded: the first text is another
XLNetBackbone, twice the same text: not equal
BertBackbone, no padding: the first text is the same
BertBackbone, the other text is padded: the first text is the same
BertBackbone, twice the same text: equal
EXPECTED
