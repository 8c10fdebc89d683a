"""The samples of a comparison: x, the explained neurons, labels and class names, all checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from innv_ext import arguments
from innv_ext.backend.tracing import untouched
from innv_ext.comparison.context import Setting
from innv_ext.comparison.entries import writable_text
from innv_ext.comparison.metrics import check_masks
from innv_ext.comparison.rows import Samples
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.common import at_x, read_labels, read_neurons, read_seed
from innv_ext.evaluation.scores import Scores


def read_samples(
    model: keras.Model,
    x: Any,
    *,
    fit: Any,
    labels: Any,
    masks: Any,
    neuron_selection: Any,
    on: str,
    output: str | int | None,
    batch_size: int,
    seed: int,
    class_names: Any,
) -> tuple[Setting, Samples]:
    """Check the arguments of ``compare`` that say what is explained, and look at x once: neurons, classes, scores."""
    size, seed, names = arguments.positive_int("batch_size", batch_size), read_seed(seed), _read_names(class_names)
    with untouched(model):
        scores = Scores(model, on, output, "compare")
        array = scores.samples(x)
        shape = scores.output_shape(array)
        index = read_neurons(neuron_selection, shape, len(array))
        classes = shape[-1] if len(shape) > 1 else 1
        true = read_labels(labels, shape, len(array))
        channel_axis = 1 if scores.channels_first else -1
        check_masks(masks, array, channel_axis)
        score, target, predicted = at_x(scores, array, index, size)
        probability = None
        if on == "logits":
            found = at_x(Scores(model, "output", output, "compare"), array, target, size)[0]
            probability = None if np.array_equal(found, score) else found
    neurons = target if len(shape) < 3 else np.stack(np.unravel_index(target, shape[1:]), axis=1)
    setting = Setting(model, array, neurons, true, masks, fit, on, output, channel_axis, size, seed)
    shown = tuple(int(n) if np.ndim(n) == 0 else str(tuple(n.tolist())) for n in neurons)
    return setting, Samples(predicted, shown, score, probability, true, names, classes, channel_axis, array)


def _read_names(class_names: Any) -> dict[int, str] | None:
    """{class: name}; classes without one keep their number."""
    if class_names is None:
        return None
    if isinstance(class_names, Mapping) and all(isinstance(c, (int, np.integer)) for c in class_names):
        return {int(c): writable_text("class_names", str(name)) for c, name in class_names.items()}
    if isinstance(class_names, (str, bytes, Mapping)) or not isinstance(class_names, (Sequence, np.ndarray)):
        raise InvalidInputError(f"class_names must be a sequence of names or {{class: name}}, got {class_names!r}.")
    return {c: writable_text("class_names", str(name)) for c, name in enumerate(class_names)}
