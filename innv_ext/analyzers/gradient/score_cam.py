"""Score-CAM: the channels of a late layer, weighed by the score of x seen through each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core.program import select
from innv_ext.analyzers.gradient.grad_cam import GradCAM
from innv_ext.analyzers.parts.partition import of_rows
from innv_ext.analyzers.parts.replacement import Fixed, fitted, reference
from innv_ext.analyzers.parts.stretching import stretched
from innv_ext.analyzers.parts.windows import default_sizes
from innv_ext.backend import facts, numerics, passes, walk
from innv_ext.backend.arrangement import Arrangement, arrangements
from innv_ext.backend.kinds import Kind
from innv_ext.backend.masks import keep_mask
from innv_ext.backend.numerics import floating, widen
from innv_ext.errors import UnsupportedModelError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class ScoreCAM(GradCAM):
    """relu(sum_k w_k A_k) with weights from forward passes alone (Wang et al. 2020, algorithm 1).

    Channel A_k is interpolated to the positions of the input and scaled to [0, 1] there: H_k. The increase of the score
    is s_k = f_c(x0 + H_k (x - x0)) - f_c(x0), and w = softmax(s) over the channels, in which f_c(x0) cancels.
    ``batch_size`` bounds the samples times channels of a forward pass. A channel that is the same at all positions has
    no H_k and weighs nothing. The embeddings of tokens are moved, and inputs that get no map stay as they are.

    As for all analyzers, f_c is the logit (``on="logits"``), whose unit decides how sharp the softmax is;
    ``on="output"`` with ``weights="increase"`` weighs by increases of the probability instead. No gradient is needed.
    ``extras["cam"]``, ``layer``, ``relu`` and their refusals are those of ``GradCAM``.

    Parameters
    ----------
    weights : "softmax" of the increases over the channels, or the "increase" itself, which may be negative
    reference : x0: a number (for tokens the number of one), an array that broadcasts to one sample, "mean" (of each
        channel of the sample), or "blur" (x smoothed by a Gaussian whose standard deviation is an eighth of each side);
        a list or dict for several inputs. The paper's is 0.

    Raises
    ------
    InvalidInputError
        for references that don't fit, and layers as in ``GradCAM``
    UnsupportedModelError
        if no layer has positions, or an input takes whole numbers that are not tokens of an embedding

    Examples
    --------
    >>> a = innv_ext.create_analyzer("score_cam", model, layer="block5_conv3", batch_size=64).analyze(x)
    """

    weights: str = arguments.one_of("softmax", "increase")
    reference: Any = 0

    propagates = False  # nothing flows back: models without gradients are fine

    def prepare(self) -> None:
        """Split off the embeddings, whose vectors are masked."""
        super().prepare()
        self._embeddings, self._moved = passes.split_embeddings(self.graph_)
        sources = facts.token_sources(self.graph_)
        vectors = {n.outputs[0]: sources[n.inputs[0]] for n in self._embeddings.nodes if n.kind is Kind.EMBEDDING}
        self._sources = [self.graph_.inputs.index(vectors.get(s, s)) for s in self._moved.inputs]
        specs = self.input_specs()
        for i, (spec, fed) in enumerate(zip(specs, self._fed, strict=True)):
            if fed and not numerics.is_float(spec.dtype) and self.graph_.inputs[i] not in vectors.values():
                raise UnsupportedModelError(
                    f"ScoreCAM multiplies inputs by maps, but input {i} takes {spec.dtype} numbers that no embedding "
                    f"turns into vectors. Use 'grad_cam', or explain the part of the model behind them."
                )
        if all(None not in spec.shape[1:] for spec in specs):
            self._references(arrangements(self.graph_, [spec.shape[1:] for spec in specs]))

    def _references(self, arranged: Sequence[Arrangement]) -> list[Fixed]:
        """x0 of each input; of those that stay as they are it is not used."""
        given = zip(self.per_input(self.reference), arranged, self._fed, strict=True)
        return [reference(value if fed else 0, one, default_sizes(one)) for value, one, fed in given]

    def cams(self, xs: list[np.ndarray], index: np.ndarray, size: int, mode: Any) -> dict[str, Any]:
        found = tree.map_structure(np.asarray, self.compiled(self._start, {"mode": mode})(*xs, index))
        arranged = arrangements(self.graph_, [x.shape[1:] for x in xs])
        others = [fitted(r.of(x), x.dtype) for r, x in zip(self._references(arranged), xs, strict=True)]
        a = np.moveaxis(found.pop("layer"), self._channel, 1)
        alive = np.ptp(a.reshape(*a.shape[:2], -1), axis=2) > 0
        channels = a.shape[1]
        count = channels + (self.weights == "increase")  # the last one is x0 itself

        def versions(rows: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
            seen = a[rows, np.minimum(which, channels - 1)].astype("float64")
            seen[which == channels] = 0
            pairs = zip(arranged, self._fed, strict=True)
            masks = [_scaled(stretched(seen, one)) if fed else _ONE for one, fed in pairs]
            return [*(x[rows] for x in xs), *(of_rows(other, rows) for other in others), *masks]

        extra = [((None, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
        extra += [((None,) * (x.ndim if fed else 1), "float64") for x, fed in zip(xs, self._fed, strict=True)]
        run, inputs = self.compiled(self._seen, {"mode": mode}, extra), len(xs)
        scores = self.scores(
            lambda *given: run(*given[:inputs], given[-1], *given[inputs:-1]), versions, count, found["target"], size
        )
        weights = self._weights(scores, alive)
        cam = np.einsum("bk,bk...->b...", weights, a).astype(a.dtype)
        return {**found, "cam": np.maximum(cam, 0) if self.relu else cam}

    def _weights(self, scores: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """The weights of the channels (batch, channels); only those that are ``alive`` have any."""
        if self.weights == "increase":
            return np.where(alive, scores[:, :-1] - scores[:, -1:], 0.0)
        top = np.max(scores, axis=1, keepdims=True, where=alive, initial=-np.inf)
        powers = np.exp(scores - top, where=alive, out=np.zeros_like(scores))
        return powers / np.maximum(powers.sum(axis=1, keepdims=True), numerics.TINY)

    def _start(self, xs: list[Tensor], index: Tensor, mode: Any) -> dict[str, Tensor]:
        a, *beside = walk.evaluate(self._head, xs)
        y = widen(walk.evaluate(self._rest, [a, *beside])[0])
        _, score, target = select(y, index, mode)
        return {"output": y, "target": target, "score": score, "layer": widen(a)}

    def _seen(self, xs: list[Tensor], index: Tensor, *rest: Tensor, mode: Any) -> Tensor:
        """The score at x0 + H (x - x0); ``rest`` are x0 and H of every input."""
        others, masks = rest[: len(xs)], rest[len(xs) :]
        features, rows = (walk.evaluate(self._embeddings, list(given)) for given in (xs, others)), []
        for x, x0, source in zip(*features, self._sources, strict=True):
            moved = x
            if self._fed[source] and floating(x):  # unlike token numbers that only a mask reads
                mask, wide, base = masks[source], widen(x), widen(x0)
                mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(x.shape) - len(mask.shape))))
                mask = ops.cast(mask, wide.dtype)
                moved = keep_mask(x, ops.cast(mask * wide + (1 - mask) * base, x.dtype))
            rows.append(moved)
        return select(widen(walk.evaluate(self._moved, rows)[0]), index, mode)[1]


_ONE = np.ones(1)  # stands for the mask of an input that stays as it is


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Maps (n, ...) with their values moved to [0, 1]; 0 where they are constant."""
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    return np.divide(maps - low, high - low, where=high > low, out=np.zeros_like(maps))
