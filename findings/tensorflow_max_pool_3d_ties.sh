#!/usr/bin/env bash
# The gradient of max pooling where values of a window are equal, in 1, 2 and 3 dimensions.
#
# Versions: tensorflow 2.21.0, numpy 2.4.6, Python 3.11, CPU.
# Guess, written down first: a maximum has one winner, so the gradient of a window goes to one of the equal values,
#   the first in row-major order, whatever the number of dimensions; the sum of the gradient is the number of windows.
# Seen: so it is in 1-D and 2-D. In 3-D every one of the equal values takes the whole gradient of the window: with eight
#   equal values the sum is 8. What is derived from gradients (relevance, contributions) is then handed out several times.
#   The result of the forward pass is right, and nothing warns.
# Source: run; the CPU kernel of MaxPool3DGrad compares each value of the window with the output and adds on equality,
#   while MaxPoolGrad (2-D, to which 1-D is reduced) remembers the position of the maximum.
# Compiled functions may be rewritten to oneDNN kernels, which have one winner: the switch below keeps that out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
"$folder/venv/bin/python" - 2>/dev/null >"$folder/seen" <<'PYTHON'
import tensorflow as tf

for rank, pool in ((1, tf.nn.max_pool1d), (2, tf.nn.max_pool2d), (3, tf.nn.max_pool3d)):
    x = tf.ones((1, *(2,) * rank, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = pool(x, 2, 2, "VALID")
    g = tape.gradient(y, x)
    first = bool(tf.reshape(g, [-1])[0] == 1)
    print(f"{rank}-D: {int(tf.size(x))} equal values, gradient sums to {float(tf.reduce_sum(g)):g}, first has {first}")
PYTHON
cat "$folder/seen"
diff - "$folder/seen" <<'EXPECTED'
1-D: 2 equal values, gradient sums to 1, first has True
2-D: 4 equal values, gradient sums to 1, first has True
3-D: 8 equal values, gradient sums to 8, first has True
EXPECTED
echo "as it was"
