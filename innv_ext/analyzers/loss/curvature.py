"""The cross-entropy of a class around x: gradient, Hessian-vector products, an exact factor of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext.analyzers.parts.partition import Partition
from innv_ext.backend import numerics, walk
from innv_ext.backend.graph import Graph
from innv_ext.backend.numerics import Compiled, widen

Tensor = Any


@dataclass(frozen=True, eq=False)
class Loss:
    """l = -log p_c of the class with flat index ``target`` among the logits of the graph, or a score as it is.

    Attributes
    ----------
    graph : ends with logits (batch, ..., classes), or with binary logits (batch, ...)
    features : how flat vectors (batch, d) cover the inputs
    mode : "index" for the cross-entropy; "all" or a function of the outputs (batch, ...) for a score (batch,)
    binary : one logit z stands for the two classes with logits 0 and z
    """

    graph: Graph
    features: Partition
    mode: Any = "index"
    binary: bool = False

    @property
    def crosses(self) -> bool:
        """Whether this is the cross-entropy of a class."""
        return self.mode == "index"

    def outputs(self, xs: Sequence[Tensor]) -> Tensor:
        return widen(walk.evaluate(self.graph, xs)[0])

    def score(self, y: Tensor) -> Tensor:
        return self.mode(y) if callable(self.mode) else ops.sum(ops.reshape(y, (ops.shape(y)[0], -1)), axis=1)

    def logits(self, y: Tensor, target: Tensor) -> Tensor:
        """The logits (batch, classes) among which the target is."""
        count = 1 if self.binary else y.shape[-1]
        flat = ops.reshape(y, (ops.shape(y)[0], -1, count))
        place = ops.cast(ops.equal(ops.arange(ops.shape(flat)[1])[None], (target // count)[:, None]), y.dtype)
        rows = ops.sum(place[..., None] * flat, axis=1)
        return ops.concatenate([ops.zeros_like(rows), rows], axis=1) if self.binary else rows

    def chosen(self, rows: Tensor, target: Tensor) -> Tensor:
        """Which of the logits belongs to the target: booleans (batch, classes)."""
        place = ops.ones_like(target) if self.binary else target % rows.shape[-1]
        return ops.equal(ops.arange(rows.shape[-1])[None], place[:, None])

    def gradient(self, *xs: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """dl/dx, accurate also where p_c is nearly 1: p_c - 1 is minus the sum of the other probabilities."""
        if not self.crosses:
            (score,), pullback = numerics.vjp(lambda *x: self.score(self.outputs(x)), *xs)
            return pullback(ops.ones_like(score))
        (rows,), pullback = numerics.vjp(lambda *x: self.logits(self.outputs(x), target), *xs)
        hot = ops.cast(self.chosen(rows, target), rows.dtype)
        others = ops.softmax(rows, axis=-1) * (1 - hot)
        return pullback(others - hot * ops.sum(others, axis=-1, keepdims=True))

    def value(self, y: Tensor, target: Tensor) -> Tensor:
        """l of outputs y: softplus of how far the other logits are above the chosen one."""
        if not self.crosses:
            return self.score(y)
        rows = self.logits(y, target)
        hot = self.chosen(rows, target)
        others = ops.logsumexp(ops.where(hot, ops.cast(-1e30, rows.dtype), rows), axis=-1)
        return ops.softplus(others - ops.sum(ops.where(hot, rows, ops.zeros_like(rows)), axis=-1))


def flat(arrays: tuple[Tensor, ...]) -> Tensor:
    """One vector (batch, d) from one array per input."""
    return ops.concatenate([ops.reshape(a, (ops.shape(a)[0], -1)) for a in arrays], axis=1)


def loss_gradient(xs: list[Tensor], target: Tensor, loss: Loss) -> Tensor:
    """g, (batch, d)."""
    return flat(loss.gradient(*xs, target=target))


def loss_value(xs: list[Tensor], target: Tensor, step: Tensor, loss: Loss) -> Tensor:
    """l at x + step, (batch,)."""
    return loss.value(loss.outputs(shifted(xs, step, loss.features)), target)


def shifted(xs: Sequence[Tensor], step: Tensor, features: Partition) -> list[Tensor]:
    """x + step for flat steps (batch, d)."""
    parts = zip(xs, features.expand(step), strict=True)
    return [ops.cast(widen(x) + ops.cast(d, widen(x).dtype), x.dtype) for x, d in parts]


def hessian_product(xs: list[Tensor], target: Tensor, v: Tensor, loss: Loss) -> Tensor:
    """H v, (batch, d)."""
    directions = [ops.cast(d, x.dtype) for d, x in zip(loss.features.expand(v), xs, strict=True)]
    return flat(numerics.hvp(lambda *x: loss.gradient(*x, target=target), xs, directions))


def gauss_newton_product(xs: list[Tensor], target: Tensor, v: Tensor, loss: Loss) -> Tensor:
    """W (diag p - p p') W' v, (batch, d): H v without the curvature of the logits, W their Jacobian."""
    (rows,), pullback = numerics.vjp(lambda *x: loss.logits(loss.outputs(x), target), *xs)
    _, transposed = numerics.vjp(lambda r: list(pullback(r)), rows)  # linear in r, so that its vjp is W' v
    slopes = transposed(*(ops.cast(d, x.dtype) for d, x in zip(loss.features.expand(v), xs, strict=True)))[0]
    weighted = ops.softmax(rows, axis=-1) * slopes
    return flat(pullback(weighted - ops.softmax(rows, axis=-1) * ops.sum(weighted, axis=-1, keepdims=True)))


def hessian_factor(xs: list[Tensor], target: Tensor, loss: Loss) -> Tensor:
    """B (batch, classes, d) with H = B' B, for piecewise linear logits.

    H = W (diag p - p p') W' with W (d, classes) the Jacobian of the logits (Singla et al. 2019, Proposition 1), and
    diag p - p p' = M M' with M = diag(sqrt p) - p sqrt(p)': B' = W M takes one backward pass per class.
    """
    (rows,), pullback = numerics.vjp(lambda *x: loss.logits(loss.outputs(x), target), *xs)
    p, identity = ops.softmax(rows, axis=-1), ops.eye(rows.shape[-1], dtype=rows.dtype)
    others = ops.matmul(p, 1 - identity)  # 1 - p_j without cancellation
    columns = ops.sqrt(p)[:, :, None] * (identity * others[:, None] - (1 - identity) * p[:, None])
    found = ops.map(lambda r: flat(pullback(r)), ops.transpose(columns, (1, 0, 2)))
    return ops.transpose(found, (1, 0, 2))


@dataclass(eq=False)
class Curvature:
    """Gradient and Hessian of the loss at each sample, or their means over noisy copies of it.

    Attributes
    ----------
    compiled : ``GraphAnalyzer.compiled``
    loss : the loss
    xs : one array (batch, ...) per input
    target : flat index of the class of each sample
    noise : one array (copies, ...) per input, in units of x's range; None: no copies
    size : most forward samples at once
    """

    compiled: Callable[..., Compiled]
    loss: Loss
    xs: list[np.ndarray]
    target: np.ndarray
    noise: list[np.ndarray] | None
    size: int

    @property
    def copies(self) -> int:
        """Points per sample."""
        return 1 if self.noise is None else len(self.noise[0])

    def gradient(self) -> np.ndarray:
        """g, (batch, d), float64."""
        return self._mean(loss_gradient, np.arange(len(self.target)), None)

    def product(self, v: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """H v for vectors v (q, d) and the samples ``rows`` (q,), float64."""
        return self._mean(hessian_product, rows, v)

    def factor(self) -> np.ndarray:
        """B, (batch, copies * classes, d), with H = B' B."""
        run, everything = self._function(hessian_factor), np.arange(len(self.target))
        points = around(self.xs, everything, self.noise, self.size)
        parts = [np.asarray(run(*xs, self.target[places]), np.float64) for places, xs in points]
        return np.concatenate(parts).reshape(len(everything), -1, self.loss.features.count) / np.sqrt(self.copies)

    def value(self, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The loss itself at x + step, (q,)."""
        run, found = self._function(loss_value, vector=True), np.empty(len(rows))
        for places, xs in around(self.xs, rows, None, self.size):
            found[places] = run(*xs, self.target[rows[places]], steps[places].astype(self.dtype))
        return found

    def _mean(self, function: Callable[..., Tensor], rows: np.ndarray, v: np.ndarray | None) -> np.ndarray:
        run = self._function(function, vector=v is not None)
        total = np.zeros((len(rows), self.loss.features.count))
        for places, xs in around(self.xs, rows, self.noise, self.size):
            more = [] if v is None else [v[places].astype(self.dtype)]
            np.add.at(total, places, np.asarray(run(*xs, self.target[rows[places]], *more), np.float64))
        return total / self.copies

    def _function(self, function: Callable[..., Tensor], vector: bool = False) -> Compiled:
        extra = [((None, self.loss.features.count), self.dtype)] if vector else []
        return self.compiled(function, {"loss": self.loss}, extra)

    @property
    def dtype(self) -> str:
        """float64 if an input is, else float32."""
        return np.result_type(np.float32, *self.xs).name


def around(
    xs: Sequence[np.ndarray], rows: np.ndarray, noise: Sequence[np.ndarray] | None, size: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Noisy copies of the samples ``rows`` (q,), at most ``size`` at a time.

    Yields the places in ``rows`` that they belong to, in order, and the copies (points, ...) of each input. ``noise``
    has one array (copies, ...) per input, in units of x's range; None: the samples themselves.
    """
    each = 1 if noise is None else len(noise[0])
    for start in range(0, len(rows) * each, size):
        places, copies = np.divmod(np.arange(start, min(start + size, len(rows) * each)), each)
        points = [x[rows[places]] for x in xs]
        if noise is not None:
            points = [x + spread(x) * n[copies].astype(x.dtype) for x, n in zip(points, noise, strict=True)]
        yield places, points


def spread(x: np.ndarray) -> np.ndarray:
    """max - min of each sample, shaped to broadcast against it."""
    axes = tuple(range(1, x.ndim))
    return x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True)
