"""What all methods share that replace parts of x and look at the score: the forward passes, windows, replacements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree
from scipy import ndimage

from innv_ext import arguments, files
from innv_ext.analyzers.core import inputs
from innv_ext.analyzers.core.program import GraphAnalyzer, at_input, select
from innv_ext.analyzers.parts.layout import Layout, Sizes, layouts_of
from innv_ext.backend import facts, walk
from innv_ext.backend.graph import Graph
from innv_ext.backend.numerics import Compiled, widen
from innv_ext.errors import InvalidInputError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class MaskingAnalyzer(GraphAnalyzer):
    """Base: the score at many versions of x with something replaced; the neuron is the one that is selected at x.

    Subclasses check their parameters for inputs of known shape in ``check_layouts``.
    """

    propagates = False  # nothing flows back: models without gradients are fine

    def bind(self) -> None:
        """Check what depends on the shapes, unless the model leaves them open."""
        shapes = [spec.shape[1:] for spec in self.input_specs()]
        if all(None not in shape for shape in shapes):
            self.check_layouts(self.layouts(shapes))

    def check_layouts(self, layouts: Sequence[Layout]) -> None:
        """Refuse parameters that don't fit inputs like these."""

    def layouts(self, shapes: Sequence[Sizes]) -> list[Layout]:
        """The arrangement of inputs whose samples have these shapes."""
        return layouts_of(shapes, self.input_specs(), facts.channels_first(self.graph_))

    def per_input(self, value: Any) -> list[Any]:
        """A parameter for each input: a list or dict has one for each input of a model with several."""
        specs = self.input_specs()
        if isinstance(value, (list, dict)) and len(specs) > 1:
            return inputs.flatten_inputs(value, self.input_structure_, specs)
        return [value] * len(specs)

    def at_x(self, xs: list[np.ndarray], index: np.ndarray, mode: Any) -> tuple[dict[str, np.ndarray], Any]:
        """Output, neuron and score at x; and the mode that keeps to this neuron."""
        self.check_once(xs)
        found = self.compiled(at_input, {"graph": self.graph_, "mode": mode})(*xs, index)
        return tree.map_structure(np.asarray, found), "index" if mode == "max_activation" else mode

    def score(self, mode: Any) -> Compiled:
        """The compiled score of samples and neurons."""
        return self.compiled(score_at, {"graph": self.graph_, "mode": mode})

    def scores(
        self,
        run: Compiled,
        versions: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
        count: int,
        target: np.ndarray,
        size: int,
        draws: int = 1,
    ) -> np.ndarray:
        """The scores of ``count`` versions of each sample, (batch, count), each the mean over ``draws``; float64.

        Parameters
        ----------
        run : the compiled score
        versions : (rows, which) -> for every k draw ``which[k] % draws`` of version ``which[k] // draws`` of sample
            ``rows[k]``, one array (len(rows), ...) per input; asked for at most ``size`` of them at once
        target : neuron of each sample
        """
        each = count * draws
        total, found = len(target) * each, np.zeros(len(target) * count)
        name = f"{self.registered_name_ or type(self).__name__}: forward passes"
        for first in files.Progress(range(0, total, size), name, self.progress):
            numbers = np.arange(first, min(first + size, total))
            rows, which = np.divmod(numbers, each)
            scores, place = np.asarray(run(*versions(rows, which), target[rows])), numbers // draws
            found[place[0] : place[-1] + 1] += np.bincount(place - place[0], scores)
        return found.reshape(len(target), count) / draws

    def summary(self) -> str:
        """One line: there are no rules."""
        return self.head()


def score_at(xs: list[Tensor], index: Tensor, graph: Graph, mode: Any) -> Tensor:
    """The score of each sample."""
    return select(widen(walk.evaluate(graph, xs)[0]), index, mode)[1]


def replaced(xs: Sequence[np.ndarray], others: Sequence[np.ndarray], keep: Sequence[np.ndarray]) -> list[np.ndarray]:
    """x where ``keep``, the other values elsewhere."""
    return [np.where(k, x, other) for x, other, k in zip(xs, others, keep, strict=True)]


def of_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array[rows]``, where an array of length 1 stands for all rows."""
    return array if len(array) == 1 else array[rows]


def as_maps(values: Sequence[np.ndarray], xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps in the dtype of the inputs; float32 for tokens."""
    return [v.astype(x.dtype if x.dtype.kind == "f" else "float32") for v, x in zip(values, xs, strict=True)]


# --- what takes the place of a part of x -------------------------------------------------------------------------


def replacements(
    given: Sequence[Any], xs: Sequence[np.ndarray], layouts: Sequence[Layout], sigmas: Sequence[Sizes]
) -> list[np.ndarray]:
    """The values that replace parts of x, one array (1 or batch, *shape) per input, in its dtype.

    Parameters
    ----------
    given : per input a number, an array that broadcasts to one sample, "mean" (of each channel of each sample), "blur"
        (x smoothed by a Gaussian), or None: "mean" where there are positions, 0 for the columns of a table and for
        tokens
    sigmas : per input the standard deviation of the Gaussian along every axis

    Raises
    ------
    InvalidInputError
        for means and blurs of tables and tokens, arrays that don't fit, fractions for tokens
    """
    return [_replacement(*parts) for parts in zip(given, xs, layouts, sigmas, strict=True)]


def _replacement(given: Any, x: np.ndarray, layout: Layout, sigmas: Sizes) -> np.ndarray:
    if given is None:
        given = "mean" if layout.positions else 0
    if not isinstance(given, str):
        value = arguments.one_sample("reference", given, layout.shape)
        if layout.tokens and not np.array_equal(value, np.round(value)):
            raise InvalidInputError(
                f"reference={given!r} is no token number, but input {layout.number} takes tokens: pass a whole number."
            )
        return value.astype(x.dtype)[None]
    arguments.choice("reference", given, ("mean", "blur"))
    if not layout.positions:
        what = "tokens" if layout.tokens else "the columns of a table"
        raise InvalidInputError(
            f"reference={given!r} needs neighbouring values of one kind, but input {layout.number} holds {what}: pass "
            f"a number or an array like one sample (for several inputs a list with one of them each)."
        )
    wide = x.astype("float64")
    if given == "mean":
        found = np.broadcast_to(wide.mean(axis=tuple(a + 1 for a in layout.axes), keepdims=True), x.shape)
    else:
        sigma = [float(s) if a in layout.axes else 0.0 for a, s in enumerate(sigmas)]
        found = ndimage.gaussian_filter(wide, [0.0, *sigma], mode="nearest")
    return found.astype(x.dtype)
