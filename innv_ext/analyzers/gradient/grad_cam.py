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
from innv_ext.analyzers.parts.stretching import stretched
from innv_ext.backend import facts, numerics, walk
from innv_ext.backend.arrangement import arrangements
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
        self._channels = facts.channel_axes(graph)
        shapes = [spec.shape[1:] for spec in self.input_specs()]
        self._axes = [len(one.axes) for one in arrangements(graph, shapes)]
        behind = [graph.reached(slot) for slot in graph.inputs]
        places = {n.outputs[0]: n.index for n in graph.nodes}
        known = {name: slot for name, slot in graph.layer_slots.items() if slot in places}
        fitting = {k: s for k, s in known.items() if any(s in b and self._fits(s, i) for i, b in enumerate(behind))}
        self.layer_ = self._last(fitting, places) if self.layer is None else self._named(known, fitting)
        self._slot = known[self.layer_]
        self._fed = [self._slot in b and self._fits(self._slot, i) for i, b in enumerate(behind)]
        self._head, self._rest = graph.split_at(self._slot)
        rank = len(graph.specs[self._slot].shape)
        self._channel = self._channels.get(self._slot, rank - 1)
        self._positions = tuple(axis for axis in range(1, rank) if axis != self._channel)

    def _fits(self, slot: int, position: int) -> bool:
        """Whether a slot has as many axes of positions as an input."""
        spec = self.graph_.specs[slot]
        return numerics.is_float(spec.dtype) and 0 < len(spec.shape) - 2 == self._axes[position]

    def _last(self, fitting: dict[str, int], places: dict[int, int]) -> str:
        """The layer nearest to the output, parts of composite layers (attention) left out."""

        def spread(slot: int) -> bool:
            shape = self.graph_.specs[slot].shape
            return any(side != 1 for side in np.delete(shape[1:], self._channels.get(slot, len(shape) - 1) - 1))

        names = [
            name
            for name, slot in fitting.items()
            if slot not in self.graph_.outputs and spread(slot) and _is_layer(self.model, name)
        ]
        if not names:
            raise UnsupportedModelError(
                f"{type(self).__name__} looks at a layer with positions, but {self.model.name!r} has none between "
                f"input and output: no output of a layer has rank 3 (signals, tokens), 4 (images) or 5 (volumes) like "
                f"an input. Use another method, such as 'integrated_gradients'."
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
        """The maps of the layer, interpolated to the positions of every input that gets them."""
        self.check_once(xs)
        found = self.cams(xs, index, size, options["mode"])
        maps = []
        for fed, x, one in zip(self._fed, xs, arrangements(self.graph_, [x.shape[1:] for x in xs]), strict=True):
            wide = stretched(found["cam"].astype("float64"), one) if fed else np.zeros((len(x), *one.merged))
            maps.append(np.broadcast_to(wide, x.shape))
        return {**found, "attributions": as_maps(maps, xs)}

    def cams(self, xs: list[np.ndarray], index: np.ndarray, size: int, mode: Any) -> dict[str, Any]:
        """"cam", "output", "score" and "target": one forward pass, and one backward from the output to the layer."""
        return tree.map_structure(np.asarray, self.compiled(self._walk, {"mode": mode})(*xs, index))

    def _walk(self, xs: list[Tensor], index: Tensor, mode: Any) -> dict[str, Tensor]:
        a, *beside = walk.evaluate(self._head, xs)
        (y,), pullback = numerics.vjp(lambda a: walk.evaluate(self._rest, [a, *beside])[0], a)
        y, a = widen(y), widen(a)
        seed, score, target = select(y, index, mode)
        cam = ops.sum(self.weigh(pullback(seed)[0], a) * a, axis=self._channel)
        return {"output": y, "target": target, "score": score, "cam": ops.relu(cam) if self.relu else cam}

    def weigh(self, g: Tensor, a: Tensor) -> Tensor:
        """The weights of the channels of ``a``, broadcastable to it, from the derivative ``g`` with respect to it."""
        return ops.mean(g, axis=self._positions, keepdims=True)

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


@dataclass(kw_only=True, eq=False, repr=False)
class GradCAMPlusPlus(GradCAM):
    """``GradCAM`` with w_k = sum_p alpha_kp relu(g_kp) over positions p, g = df_c/dA (Chattopadhay et al. 2018).

    alpha_kp = g_kp^2 / (2 g_kp^2 + g_kp^3 sum_q A_kq), the paper's equation 19 for the score exp(f_c) of a network that
    is piecewise linear behind the layer: only then are the second and third derivatives of the score g^2 and g^3, times
    exp(f_c), which cancels; of w_k itself it is left out, so a map is the paper's up to a positive factor a sample.

    The weights are not negative if no channel sums to less than 0, as behind a ReLU; at other layers
    2 + g_kp sum_q A_kq may come near 0, and maps get large. ``relu``, ``layer``, extras and refusals are those of
    ``GradCAM``.

    Examples
    --------
    >>> a = innv_ext.create_analyzer("grad_cam_plus_plus", model, layer="block5_conv3").analyze(x)
    """

    def weigh(self, g: Tensor, a: Tensor) -> Tensor:
        """The quotient is taken with g^2 cancelled, which cannot underflow."""
        total = ops.sum(a, axis=self._positions, keepdims=True)
        return ops.sum(numerics.safe_divide(ops.relu(g), 2 + total * g), axis=self._positions, keepdims=True)


@dataclass(kw_only=True, eq=False, repr=False)
class LayerCAM(GradCAM):
    """relu(sum_k relu(df_c/dA_k) A_k), each position with its own weights (Jiang et al. 2021, equations 4 to 6).

    Made for earlier layers, too, whose maps are finer. ``relu=False`` leaves out the outer ReLU alone; ``layer``,
    extras and refusals are those of ``GradCAM``.

    Examples
    --------
    >>> a = innv_ext.create_analyzer("layer_cam", model, layer="block3_conv3").analyze(x)
    """

    def weigh(self, g: Tensor, a: Tensor) -> Tensor:
        return ops.relu(g)
