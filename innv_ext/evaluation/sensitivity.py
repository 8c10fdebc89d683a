"""How much a map changes when x changes so little that it should not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import tree

from innv_ext import arguments, files
from innv_ext.analyzers.core import request
from innv_ext.analyzers.core.base import Analyzer
from innv_ext.errors import InvalidInputError
from innv_ext.evaluation.measures import relative_to
from innv_ext.evaluation.subject import check_analyzer, generator, rows_of, same_neurons

SUMMARIES = {"max": np.max, "mean": np.mean}


def sensitivity(
    analyzer: Analyzer,
    x: Any,
    *,
    radius: Any = 0.02,
    samples: int = 10,
    norm: str = "linf",
    kind: str = "max",
    neuron_selection: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Largest (or mean) relative change of the map in a small ball around x.

    Parameters
    ----------
    analyzer : an analyzer, fitted where it needs that
    x : array (batch, ...), or a list or dict of arrays for a model with several inputs, which move together
    radius : of the ball, in units of x: a number, or one per value as an array that broadcasts to one sample, e.g.
        ``0.1 * X_train.std(axis=0)`` for tables, whose columns have units of their own; for several inputs one for
        all, or a list of one each
    samples : points, drawn uniformly from the ball; the maximum over them is a lower bound of that over the ball
    norm : of the ball: "linf" (each value moves by at most ``radius``) or "l2"
    kind : "max" or "mean" over the points
    neuron_selection : as in ``analyze``; the neuron that it gives at x is explained at every point
    batch_size : most samples in one forward pass; None: the analyzer's
    seed : makes the points repeatable; those of a sample depend on its position in x, not on the batch size
    progress : show a progress bar on work longer than three seconds

    Returns
    -------
    array (batch,)
        |map(z) - map(x)| / |map(x)| in Euclidean norms. Where the map at x is all zeros: 0 if it stays so, else
        infinity.

    Raises
    ------
    InvalidInputError
        for inputs that the analyzer refuses, token inputs, which cannot move by a little, and bad parameters

    Notes
    -----
    The map of the analyzer "random" depends on the position in its batch, so that its sensitivity means nothing.
    Yeh et al. (2019), "On the (in)fidelity and sensitivity of explanations", max-sensitivity by Monte Carlo, here over
    the norm of the map, so that analyzers of different scales can be compared.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import innv_ext
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> gradient = innv_ext.create_analyzer("gradient", model)
    >>> sensitivity(gradient, np.ones((1, 3))).tolist()
    [0.0]
    """
    check_analyzer(analyzer)
    samples = arguments.positive_int("samples", samples)
    arguments.choice("norm", norm, ("linf", "l2"))
    summary = SUMMARIES[arguments.choice("kind", kind, tuple(SUMMARIES))]
    seed = arguments.positive_int("seed", seed, 0)
    size = analyzer.batch_size if batch_size is None else arguments.positive_int("batch_size", batch_size)
    xs = request.standardize(x, analyzer.input_structure_, analyzer.input_specs(), True)
    if any(a.dtype.kind != "f" for a in xs):
        raise InvalidInputError("x holds whole numbers (tokens or bytes), which cannot move by a little.")
    radii = _read_radius(radius, [a.shape[1:] for a in xs])
    at_x = analyzer.explain(x, neuron_selection, batch_size=size)
    start = _rows(at_x.attribution)
    neurons = same_neurons(at_x, neuron_selection)
    total = len(start) * samples
    changes = np.zeros(total)
    for first in files.Progress(range(0, total, size), "sensitivity", progress):
        number = np.arange(first, min(first + size, total))
        i = number // samples
        moved = _moved(xs, i, [generator(seed, *divmod(int(n), samples)) for n in number], radii, norm)
        given = request.pack_like(x, moved, analyzer.input_structure_)
        found = _rows(analyzer.analyze(given, rows_of(neurons, i), batch_size=size))
        changes[number] = np.linalg.norm(found - start[i], axis=1)
    lengths = np.linalg.norm(start, axis=1)
    return summary(relative_to(lengths[:, None], changes.reshape(len(start), samples)), axis=1)


def _rows(maps: Any) -> np.ndarray:
    """All maps of a sample in one row, float64."""
    parts = [np.asarray(m, "float64") for m in tree.flatten(maps)]
    return np.concatenate([p.reshape(len(p), int(np.prod(p.shape[1:]))) for p in parts], axis=1)


def _read_radius(radius: Any, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The radius of every value of a sample, over all inputs together."""
    several = isinstance(radius, list) and len(shapes) > 1
    given = radius if several else [radius] * len(shapes)
    if len(given) != len(shapes):
        raise InvalidInputError(f"radius has {len(given)} entries, but the model has {len(shapes)} inputs.")
    if not several and np.ndim(radius) == 0:
        arguments.number("radius", radius, positive=True)
    read = [arguments.one_sample("radius", r, shape).ravel() for r, shape in zip(given, shapes, strict=True)]
    found = np.concatenate(read)
    if (found < 0).any() or not found.any():
        raise InvalidInputError(f"radius must not be negative, and not 0 everywhere; its smallest is {found.min():g}.")
    return found


def _moved(
    xs: Sequence[np.ndarray], i: np.ndarray, generators: Sequence[np.random.Generator], radii: np.ndarray, norm: str
) -> list[np.ndarray]:
    """For each generator a point of the ball around sample ``i``, over all inputs together."""
    ends = np.cumsum([int(np.prod(x.shape[1:])) for x in xs])
    drawn = np.stack([_in_unit_ball(rng, ends[-1], norm) for rng in generators])
    steps = np.split(radii * drawn, ends[:-1], axis=1)
    return [(x[i] + s.reshape(-1, *x.shape[1:])).astype(x.dtype) for x, s in zip(xs, steps, strict=True)]


def _in_unit_ball(rng: np.random.Generator, count: int, norm: str) -> np.ndarray:
    """A uniform point; in L2 a random direction, with a length whose ``count``-th power is uniform."""
    if norm == "linf":
        return rng.uniform(-1, 1, count)
    direction = rng.standard_normal(count)
    return direction / np.linalg.norm(direction) * rng.random() ** (1 / count)
