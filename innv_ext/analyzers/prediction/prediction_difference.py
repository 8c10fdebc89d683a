"""Prediction difference analysis: the evidence that a patch gives, against what its surroundings let one expect."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.program import check_float_inputs, select
from innv_ext.analyzers.core.request import ALL, contrasted
from innv_ext.analyzers.parts.partition import as_maps
from innv_ext.analyzers.parts.windows import Windows, all_sizes, check_gaps, components, default_sizes, owned, windows
from innv_ext.analyzers.prediction.masking import MaskingAnalyzer
from innv_ext.analyzers.prediction.patch_gaussian import PatchGaussian, PatchMoments, surroundings
from innv_ext.backend import facts, walk
from innv_ext.backend.arrangement import Arrangement, Sizes
from innv_ext.backend.graph import Graph
from innv_ext.backend.kinds import SIGMOID
from innv_ext.backend.numerics import widen
from innv_ext.backend.rewrites.squash import cut_softmax
from innv_ext.errors import InvalidInputError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class PredictionDifference(MaskingAnalyzer):
    """Weight of evidence log2 odds(p(c | x)) - log2 odds(mean p(c | x with a patch drawn anew)).

    Zintgraf et al. 2017. A patch is drawn from a Gaussian given its surroundings, learnt by ``fit``, and kept in the
    range of the data. A component gets the mean over the patches that contain it. The probabilities are those of the
    model whatever ``on`` is, with the paper's Laplace correction p <- (p N + 1) / (N + K) for N training samples and K
    classes. The columns of a table are drawn one by one given all others.

    ``explain(x).extras["probability"]`` is p(c | x) of each sample, before the correction.

    Parameters
    ----------
    inner : sides of the patches: an integer for all axes, or a tuple with one per axis of positions (or one per axis of
        a sample, the channels included); default: an eighth of each side, at most 10 (as in the paper)
    outer : sides of the patches with their surroundings, likewise; default: 4 more than inner. They lie inside the
        input, at borders around the patch on one side only.
    stride : distance between patches, likewise; default 1
    samples : draws per patch
    evidence : False: f_c(x) - mean f_c(x with a patch drawn anew) instead; None: evidence for single outputs of
        classifiers, which end in a softmax or sigmoid, or in two or more logits (whose softmax is taken); True: the
        same, but anything else is refused

        For models with several inputs inner, outer and stride may be a list or dict with one value per input; inputs
        are independent of each other.

    Raises
    ------
    InvalidInputError
        for patches that don't fit, or evidence=True where there are no classes
    NotFittedError
        before ``fit``

    Examples
    --------
    >>> a = innv_ext.create_analyzer("prediction_difference", model, inner=4).fit(X_train).analyze(x)
    """

    inner: Any = None
    outer: Any = None
    stride: Any = None
    samples: int = arguments.count(10)
    evidence: bool | None = arguments.one_of(None, True, False)

    needs_fit = True

    # --- building ------------------------------------------------------------------------------------------------

    def check_model(self, graph: Graph) -> None:
        """Numbers that have a Gaussian at the start; classes at the end if there is to be evidence."""
        check_float_inputs(graph, f"{type(self).__name__} draws inputs from a Gaussian")
        whole = self._whole.rebuilt(self._whole.nodes, outputs=(self._whole.outputs[self._explained],))
        inside = len(cut_softmax(whole)[1])
        whole, cut = cut_softmax(whole, moved=False)
        fed = {slot: graph.specs[slot] for slot in graph.inputs}
        self._logits = Graph(whole.nodes, whole.inputs, whole.outputs, {**whole.specs, **fed}, {})
        nodes = {node.name: node for node in self._whole.nodes}
        last = [nodes[name] for name in reversed(cut)]  # more than one where a softmax follows another
        squash = [(facts.activation_key(n) in SIGMOID, getattr(n.op, "axis", -1)) for n in last]
        self._squash = squash or [(False, -1)]
        shape = graph.specs[graph.outputs[0]].shape
        # behind a softmax whose values were moved since, no axis holds the classes of one distribution any more
        classes = bool(cut) or (len(shape) > 1 and shape[-1] != 1 and not inside)
        self._evident = classes if self.evidence is None else self.evidence
        if self.evidence and not classes:
            raise InvalidInputError(
                f"evidence=True needs the probabilities of classes, but the output of {self.model.name!r} has shape "
                f"{shape} and no softmax or sigmoid. Pass evidence=False for the difference of the score."
            )

    def check_inputs(self, arranged: Sequence[Arrangement]) -> None:
        self._strides(arranged, self._sizes(arranged)[0])

    def _sizes(self, arranged: Sequence[Arrangement]) -> tuple[list[Sizes], list[Sizes]]:
        """Inner and outer patches of every input."""

        def small(one: Arrangement) -> Sizes:
            eighths = default_sizes(one)
            return tuple(min(side, 10) if axis in one.axes else side for axis, side in enumerate(eighths))

        inner = all_sizes("inner", self.per_input(self.inner), arranged, small)

        def surrounded(one: Arrangement) -> Sizes:
            around = tuple(min(side, i + 4) for side, i in zip(one.shape, inner[one.number], strict=True))
            return around if one.axes else one.shape

        outer = all_sizes("outer", self.per_input(self.outer), arranged, surrounded)
        for one, i, o in zip(arranged, inner, outer, strict=True):
            if any(a > b for a, b in zip(i, o, strict=True)):
                raise InvalidInputError(f"outer={o} is smaller than inner={i} for input {one.number}.")
        return inner, outer

    def _strides(self, arranged: Sequence[Arrangement], inner: Sequence[Sizes]) -> list[Sizes]:
        strides = all_sizes("stride", self.per_input(self.stride), arranged, lambda one: (1,) * len(one.shape))
        check_gaps("inner", strides, inner)
        return strides

    # --- learning ------------------------------------------------------------------------------------------------

    def fit(self, X: Any, *, stride: int = 1, batch_size: int | None = None) -> PredictionDifference:
        """Learn mean and covariance of the patches (of the columns of a table), in one pass.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches
        stride : look at every so manieth position only; large images have many, which resemble each other

        Raises
        ------
        InvalidInputError
            for data that don't fit the model or the patches, hold NaN, or are empty; nothing is changed then
        """
        arguments.positive_int("stride", stride)
        moments: list[PatchMoments] = []
        inner, count = [], 0
        for arrays in self.training_batches(X, batch_size, 1):
            arranged = self.arranged(arrays)
            if not moments:
                inner, outer = self._sizes(arranged)
                moments = [PatchMoments(one, o, stride) for one, o in zip(arranged, outer, strict=True)]
            for moment, array in zip(moments, arrays, strict=True):
                moment.add(array)
            count += len(arrays[0])
        arrays: dict[str, Any] = {"trained": count}
        for i, (moment, own) in enumerate(zip(moments, inner, strict=True)):
            if moment.running.count <= moment.m:
                warnings.warn(
                    f"{moment.running.count} patches don't tell how the {moment.m} components of a patch of input {i} "
                    f"vary together: draws will resemble what was seen too much. Fit on more data, or use a smaller "
                    f"outer=.",
                    UserWarning,
                    stacklevel=2,
                )
            gaussian = moment.gaussian()
            arrays |= {f"{name}{i}": getattr(gaussian, name) for name in ("mean", "covariance", "low", "high", "outer")}
            arrays[f"inner{i}"] = own
        self.set_state(arrays)
        return self

    def set_state(self, arrays: dict[str, Any]) -> None:
        super().set_state(arrays)
        self.trained_ = int(self.learnt_["trained"])
        self._inner = [tuple(map(int, inner)) for inner in self.learnt_list("inner")]
        parts = [self.learnt_list(name) for name in ("outer", "mean", "covariance", "low", "high")]
        self.gaussians_ = [PatchGaussian(tuple(map(int, outer)), *rest) for outer, *rest in zip(*parts, strict=True)]

    # --- running -------------------------------------------------------------------------------------------------

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        parts = self._patches(self.arranged(xs))
        target = start["target"]
        single = target[0] != ALL and (contrasted(target, start["output"])[1] < 0).all()
        evident = self._evident and not callable(mode) and single
        if self.evidence and not evident:
            raise InvalidInputError(
                f"evidence=True needs a single output, but the score is {mode if callable(mode) else 'of several'}; "
                f"pass evidence=False for the difference of the score."
            )
        run = self.compiled(self._probability, {}) if evident else self.score(mode)
        counts = [part.count for part in parts]
        versions = partial(self._drawn, xs, parts)
        found = self.scores(run, versions, sum(counts), target, size, draws=self.samples)
        whole = np.asarray(run(*xs, target), "float64")[:, None]
        if evident:
            binary, axis = self._squash[-1]
            classes = 2 if binary else start["output"].shape[axis]
            change = log_odds(whole, self.trained_, classes) - log_odds(found, self.trained_, classes)
        else:
            change = whole - found
        changes = np.split(change, np.cumsum(counts)[:-1], axis=1)
        maps = [part.average(part_change) for part, part_change in zip(parts, changes, strict=True)]
        extras = {"probability": whole[:, 0]} if evident else {}
        return {"attributions": as_maps(maps, xs), **extras}

    def _patches(self, arranged: Sequence[Arrangement]) -> list[Windows]:
        found = []
        for one, inner, gaussian, stride in zip(
            arranged, self._inner, self.gaussians_, self._strides(arranged, self._inner), strict=True
        ):
            if any(o > side for o, side in zip(gaussian.outer, one.shape, strict=True)):
                raise InvalidInputError(
                    f"Samples of input {one.number} have shape {one.shape}, smaller than outer={gaussian.outer}."
                )
            found.append(windows(one, inner, stride))
        return found

    def _drawn(
        self, xs: list[np.ndarray], parts: Sequence[Windows], rows: np.ndarray, which: np.ndarray
    ) -> list[np.ndarray]:
        """The samples ``rows``, each with a patch of one of its inputs drawn anew."""
        number, draw = np.divmod(which, self.samples)
        found = [x[rows] for x in xs]
        for i, (own, local) in enumerate(owned(parts, number)):
            if len(own):
                found[i][own] = self._resampled(i, found[i][own], parts[i], local, draw[own])
        return found

    def _resampled(self, i: int, x: np.ndarray, part: Windows, number: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Samples x (rows, ...) with patch ``number[k]`` of row k drawn the ``draw[k]``-th time.

        All samples share the standard normal numbers of a patch.
        """
        gaussian, inner = self.gaussians_[i], part.size
        corners, offsets = surroundings(part, gaussian.outer, number)
        at = components(part.shape, corners, gaussian.outer)
        flat = x.reshape(len(x), -1).copy()
        patches = np.take_along_axis(flat, at, axis=1).astype("float64")
        distinct, back = np.unique(number, return_inverse=True)
        size = (self.samples, int(np.prod(inner)))
        normal = np.stack([np.random.default_rng((self.seed, i, int(w))).standard_normal(size) for w in distinct])
        kinds, kind = np.unique(offsets, axis=0, return_inverse=True)
        for k, offset in enumerate(kinds):
            rows = np.flatnonzero(kind.reshape(-1) == k)
            noise = normal[back[rows], draw[rows]]
            values, own = gaussian.draw(patches[rows], inner, tuple(int(o) for o in offset), noise)
            flat[rows[:, None], at[rows][:, own]] = values
        return flat.reshape(x.shape)

    def _probability(self, xs: list[Tensor], index: Tensor) -> Tensor:
        """The probability of the selected output, in float32 at least."""
        y = widen(walk.evaluate(self._logits, xs)[0])
        for binary, axis in self._squash:
            y = ops.sigmoid(y) if binary else ops.softmax(y, axis=axis)
        return select(y, index, "index")[1]


def log_odds(p: np.ndarray, trained: int, classes: int) -> np.ndarray:
    """log2 of p / (1 - p) after the Laplace correction, which keeps it finite."""
    p = (p * trained + 1) / (trained + classes)
    return np.log2(p / (1 - p))
