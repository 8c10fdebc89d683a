"""Second derivatives that TensorFlow gets wrong or lacks: rewritten nodes, and a check of the others.

Keras normalises with ``tf.nn.moments``, whose variance holds the mean constant: its first derivative is right, its
second one is not. The gradient of a bilinear resize counts as constant, that of other resizes has no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from innv_ext.backend import numerics, traits
from innv_ext.backend.affine import read
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key, run
from innv_ext.backend.kinds import Kind
from innv_ext.errors import UnsupportedModelError

Tensor = Any
RESIZING = ("UpSampling2D", "Resizing", "CenterCrop", "resize")


def twice_differentiable(graph: Graph) -> Graph:
    """The same graph with calls whose second derivatives are right."""
    return graph.rebuilt([_rewritten(node) for node in graph.nodes])


def _rewritten(node: Node) -> Node:
    key = op_key(node.op)
    if key in RESIZING and node.kind in (Kind.LINEAR, Kind.SHAPE):
        return replace(node, call=linear(node.call))
    if key in _NORMALISATIONS and isinstance(node.call, Call):
        return replace(node, call=_NORMALISATIONS[key](node))
    return node


def linear(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A linear function whose gradient A' r has the function itself as its derivative."""

    def forward(x: Tensor) -> tuple[Tensor, Any]:
        @numerics.custom_gradient
        def backward(r: Tensor) -> tuple[Tensor, Any]:
            return numerics.vjp(fn, x)[1](r)[0], lambda u: ops.cast(fn(ops.cast(u, x.dtype)), r.dtype)

        return fn(x), backward

    return numerics.custom_gradient(forward)


def normalised(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over the axes."""
    centred = x - ops.mean(x, axis=axes, keepdims=True)
    return centred * ops.rsqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True) + epsilon)


def _layer(node: Node) -> Callable[..., Tensor]:
    """Layer and group normalisation."""
    layer = node.op

    def normalise(x: Tensor) -> Tensor:
        wide = numerics.widen(x)
        view, back, over = traits.groups(node, wide)
        y = back(normalised(view(wide), over, layer.epsilon))
        return ops.cast(_scaled(y, traits.axes(node, len(x.shape)), layer.gamma, layer.beta), x.dtype)

    return node.call if traits.statistics(node) is None else normalise


def _layer_norm_operation(node: Node) -> Callable[..., Tensor]:
    op, call = node.op, node.call
    epsilon = 1e-7 if op.epsilon is None else op.epsilon

    def normalise(*xs: Tensor) -> Tensor:
        given = [xs[a.index] if isinstance(a, Arg) else a for a in (*call.args, *call.kwargs.values())]
        names = ["x", "gamma", "beta"][: len(call.args)] + list(call.kwargs)
        values = dict(zip(names, given, strict=True))
        x = values["x"]
        named = traits.axes(node, len(x.shape))
        y = normalised(numerics.widen(x), named, epsilon)
        return ops.cast(_scaled(y, named, values.get("gamma"), values.get("beta")), x.dtype)

    return call if op.rms_scaling else normalise


def _scaled(y: Tensor, axes: tuple[int, ...], gamma: Any, beta: Any) -> Tensor:
    for vector, combine in ((gamma, ops.multiply), (beta, ops.add)):
        if vector is not None:
            y = combine(y, ops.cast(traits.broadcast(read(vector), axes, y), y.dtype))
    return y


def _moments(node: Node) -> Callable[..., Any]:
    op = node.op

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = numerics.widen(x)
        mean = ops.mean(wide, axis=op.axes, keepdims=True)
        variance = ops.mean(ops.square(wide - mean), axis=op.axes, keepdims=op.keepdims)
        mean = mean if op.keepdims else ops.mean(wide, axis=op.axes)
        return ops.cast(mean, x.dtype), ops.cast(variance, x.dtype)

    return moments


_NORMALISATIONS: dict[str, Callable[[Node], Callable[..., Any]]] = {
    "LayerNormalization": _layer,
    "GroupNormalization": _layer,
    "layer_norm": _layer_norm_operation,
    "layer_normalization": _layer_norm_operation,
    "moments": _moments,
}


def check_second_derivatives(graph: Graph, xs: Sequence[np.ndarray]) -> None:
    """Try out the nodes that hold parts of themselves constant or whose gradient is constant to the backend.

    ``xs`` is one sample, from which free dimensions get their sizes.

    Raises
    ------
    UnsupportedModelError : with the names of nodes without second derivatives, or with wrong ones
    """
    wrong = []
    values = run(graph.nodes, {slot: ops.convert_to_tensor(x) for slot, x in zip(graph.inputs, xs, strict=True)})
    for node in graph.nodes:
        dtypes = [graph.specs[slot].dtype for slot in node.inputs]
        shapes = [list(values[slot].shape) for slot in node.inputs]
        specs = [(tuple(s), d) for s, d in zip(shapes, dtypes, strict=True)]
        state = numerics.second_derivative(node.call, specs)
        if state == "missing" or (state == "doubtful" and not _agrees(node, shapes, dtypes)):
            wrong.append(f"{node.name} ({op_key(node.op)})")
    if wrong:
        raise UnsupportedModelError(
            f"The backend has no second derivative, or a wrong one, for {', '.join(wrong)}. Use 'cafo' or "
            f"'moreau_grad', which need none, or write the layer with keras.ops that have one."
        )


def _agrees(node: Node, shapes: Sequence[list[int]], dtypes: Sequence[str]) -> bool:
    """Compare H v with a central difference of the gradient of a random projection of the outputs."""
    rng = np.random.default_rng(0)
    floats = [numerics.is_float(d) for d in dtypes]
    xs = [rng.uniform(-1, 1, s) if f else np.ones(s) for s, f in zip(shapes, floats, strict=True)]
    xs = [ops.convert_to_tensor(x.astype(d), dtype=d) for x, d in zip(xs, dtypes, strict=True)]
    chosen = [i for i, f in enumerate(floats) if f]
    ys, _ = numerics.vjp(node.call, *xs)
    seeds = [ops.convert_to_tensor(rng.normal(size=tuple(y.shape)), dtype=numerics.widen(y).dtype) for y in ys]

    def gradient(*given: Tensor) -> list[Tensor]:
        full = list(xs)
        for i, x in zip(chosen, given, strict=True):
            full[i] = x
        return [numerics.vjp(node.call, *full)[1](*seeds)[i] for i in chosen]

    at = [xs[i] for i in chosen]
    vs = [ops.convert_to_tensor(rng.normal(size=tuple(x.shape)), dtype=x.dtype) for x in at]
    exact = numerics.hvp(gradient, at, vs)
    step = 1e-2
    up, down = (gradient(*[x + side * step * v for x, v in zip(at, vs, strict=True)]) for side in (1, -1))
    for h, a, b in zip(exact, up, down, strict=True):
        difference = (ops.convert_to_numpy(a) - ops.convert_to_numpy(b)).astype("float64") / (2 * step)
        scale = max(np.abs(difference).max(initial=0), np.abs(ops.convert_to_numpy(h)).max(initial=0), 1e-3)
        if np.abs(ops.convert_to_numpy(h) - difference).max(initial=0) > 0.03 * scale:
            return False
    return True
