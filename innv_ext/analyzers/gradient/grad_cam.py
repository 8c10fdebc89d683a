"""Grad-CAM: where the channels of a late layer that raise the score are active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core.program import GraphAnalyzer, select
from innv_ext.analyzers.parts.partition import as_maps
from innv_ext.backend import facts, numerics
from innv_ext.backend.arrangement import arrangements
from innv_ext.backend.graph import Graph, run
from innv_ext.backend.numerics import widen
from innv_ext.errors import InvalidInputError, UnsupportedModelError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class GradCAM(GraphAnalyzer):
    """relu(sum_k w_k A_k) of a layer's channels A_k, with w_k the mean of df_c/dA_k over all positions.

    Selvaraju et al. 2017, equations 1 and 2. The map is interpolated linearly to the positions of the input and is the
    same in all its channels. Of a model with several inputs, those that lead to the layer and have as many axes of
    positions get the map; the others get zeros.

    ``explain(x).extras["cam"]`` is the map of each sample as it is, (batch, *positions of the layer).

    Parameters
    ----------
    layer : name of the layer (inside a nested model "outer/inner", or "inner" where that is unique); default: the last
        one on the way to the output that has positions like an input: rank 3 for signals and tokens, 4 for images, 5
        for volumes
    relu : keep only what raises the score; False: signed maps

    Raises
    ------
    UnsupportedModelError
        if no layer has positions
    InvalidInputError
        for a layer that is unknown, does not lead to the output, or has no positions like those of an input

    Examples
    --------
    >>> a = innv_ext.create_analyzer("grad_cam", model, layer="block5_conv3").analyze(x)
    """

    layer: str | None = arguments.optional(str)
    relu: bool = arguments.flag(True)

    def prepare(self) -> None:
        """Find the layer, the nodes before and after it, and the inputs that get its map."""
        graph = self.graph_
        self._first = facts.channels_first(graph)
        shapes = [spec.shape[1:] for spec in self.input_specs()]
        self._axes = [len(one.axes) for one in arrangements(graph, shapes)]
        behind = [_reached(graph, slot) for slot in graph.inputs]
        places = {n.outputs[0]: n.index for n in graph.nodes}
        known = {name: slot for name, slot in graph.layer_slots.items() if slot in places}
        fitting = {k: s for k, s in known.items() if any(s in b and self._fits(s, i) for i, b in enumerate(behind))}
        self.layer_ = self._last(fitting, places) if self.layer is None else self._named(known, fitting)
        self._slot = known[self.layer_]
        self._fed = [self._slot in b and self._fits(self._slot, i) for i, b in enumerate(behind)]
        later = _reached(graph, self._slot)
        self._before = tuple(n for n in graph.nodes if not later.intersection(n.inputs))
        self._after = tuple(n for n in graph.nodes if later.intersection(n.inputs))

    def _fits(self, slot: int, position: int) -> bool:
        """Whether a slot has as many axes of positions as an input."""
        spec = self.graph_.specs[slot]
        return numerics.is_float(spec.dtype) and 0 < len(spec.shape) - 2 == self._axes[position]

    def _last(self, fitting: dict[str, int], places: dict[int, int]) -> str:
        """The layer nearest to the output, parts of composite layers (attention) left out."""

        def spread(slot: int) -> bool:
            shape = self.graph_.specs[slot].shape
            return any(side != 1 for side in (shape[2:] if self._first else shape[1:-1]))

        names = [
            name
            for name, slot in fitting.items()
            if slot not in self.graph_.outputs and spread(slot) and _is_layer(self.model, name)
        ]
        if not names:
            raise UnsupportedModelError(
                f"Grad-CAM looks at a layer with positions, but {self.model.name!r} has none between input and output: "
                f"no output of a layer has rank 3 (signals, tokens), 4 (images) or 5 (volumes) like an input. Use "
                f"another method, such as 'integrated_gradients'."
            )
        return max(names, key=lambda name: places[fitting[name]])

    def _named(self, known: dict[str, int], fitting: dict[str, int]) -> str:
        """The name that ``layer`` stands for."""
        matches = [k for k in known if k == self.layer] or [k for k in known if k.split("/")[-1] == self.layer]
        if len(matches) != 1:
            raise InvalidInputError(
                f"layer={self.layer!r} is no single layer on the way to the output; with positions like an input there "
                f"are {', '.join(fitting) or 'none'}."
            )
        if matches[0] not in fitting:
            raise InvalidInputError(
                f"layer={self.layer!r} has an output of shape {self.graph_.specs[known[matches[0]]].shape}, without "
                f"positions like those of an input; layers with such positions are {', '.join(fitting) or 'none'}."
            )
        return matches[0]

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """One forward pass, and one backward from the output to the layer."""
        self.check_once(xs)
        found = tree.map_structure(np.asarray, self.compiled(self._walk, {"mode": options["mode"]})(*xs, index))
        maps = []
        arranged = arrangements(self.graph_, [x.shape[1:] for x in xs])
        for fed, x, one in zip(self._fed, xs, arranged, strict=True):
            if not fed:
                maps.append(np.zeros(x.shape))
                continue
            wide = found["cam"].astype("float64")
            for axis, place in enumerate(one.axes):
                weights = interpolation(wide.shape[axis + 1], one.shape[place])
                wide = np.moveaxis(np.tensordot(wide, weights, (axis + 1, 1)), -1, axis + 1)
            channel = one.channel_axis
            wide = wide if channel is None else np.expand_dims(wide, channel + 1)
            maps.append(np.broadcast_to(wide, x.shape))
        return {**found, "attributions": as_maps(maps, xs)}

    def _walk(self, xs: list[Tensor], index: Tensor, mode: Any) -> dict[str, Tensor]:
        slots = run(self._before, dict(zip(self.graph_.inputs, xs, strict=True)))
        last = self.graph_.outputs[0]
        (y,), pullback = numerics.vjp(lambda a: run(self._after, {**slots, self._slot: a})[last], slots[self._slot])
        y, a = widen(y), widen(slots[self._slot])
        seed, score, target = select(y, index, mode)
        channel = 1 if self._first else len(a.shape) - 1
        positions = tuple(axis for axis in range(1, len(a.shape)) if axis != channel)
        weights = ops.mean(pullback(seed)[0], axis=positions, keepdims=True)
        cam = ops.sum(weights * a, axis=channel)
        return {"output": y, "target": target, "score": score, "cam": ops.relu(cam) if self.relu else cam}

    def summary(self) -> str:
        return f"{self.head()}\nlayer {self.layer_!r}, output {self.graph_.specs[self._slot].shape}"


def _is_layer(model: keras.Model, name: str) -> bool:
    """Whether a traced name is a layer of the model or of the models in it, not a part of a layer."""
    for part in name.split("/")[:-1]:
        inner = next((layer for layer in model.layers if layer.name == part.split("#")[0]), None)
        if not isinstance(inner, keras.Model):
            return False
        model = inner
    return True


def _reached(graph: Graph, slot: int) -> set[int]:
    """The slots that depend on a slot, and itself."""
    found = {slot}
    for node in graph.nodes:
        if found.intersection(node.inputs):
            found.update(node.outputs)
    return found


def interpolation(old: int, new: int) -> np.ndarray:
    """Linear interpolation from ``old`` to ``new`` points with the same outer borders, (new, old)."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))
