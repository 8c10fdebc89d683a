"""Frank-Wolfe with away steps: x is kept as a weighted sum of vertices, and can move away from a bad one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from innv_ext.optim.base import flat, inner
from innv_ext.optim.solvers.atoms import ActiveSet
from innv_ext.optim.solvers.frank_wolfe import ConditionalGradient, FrankWolfeState


@dataclass(kw_only=True)
class AwayState(FrankWolfeState):
    """``active`` decomposes x; the current direction leads to (or ``away`` from) the atom in ``slot``."""

    active: ActiveSet
    slot: np.ndarray
    away: np.ndarray

    def weights_after(self, problems: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """The weights of the atoms after a step eta."""
        away, slot, rows = self.away[problems], self.slot[problems], np.arange(len(problems))
        weights = self.active.weights[problems] * (1 + np.where(away, eta, -eta))[:, None]
        weights[rows, slot] += np.where(away, -eta, eta)
        dropped = away & (eta >= self.steps.largest[problems])
        weights[rows[dropped], slot[dropped]] = 0
        weights = np.maximum(weights, 0)
        return weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class AwayFrankWolfe(ConditionalGradient):
    """Away-step Frank-Wolfe (Guelat and Marcotte 1986; Lacoste-Julien and Jaggi 2015).

    x is a convex combination of atoms, x0 being the first. A step goes to the oracle's vertex or, where this promises
    more, away from the worst atom; an away step ends at the latest where the weight of its atom is zero, and the atom
    is dropped there. The atoms take memory of up to (rounds x size of x) per problem.

    Parameters
    ----------
    region : feasible set
    step : ``Monotone()``, ``Adaptive()`` or ``Open()``
    lazy : first look for a step that promises at least phi / 2 among the atoms, and call the oracle only if there is
        none (lazified away steps, Braun et al. 2019); phi falls to the gap when even the oracle's vertex promises less
        than phi / 2. The dual gap is known at the rounds with an oracle call and at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import Adaptive, CappedSimplex, run
    >>> target = np.array([[0.9, 0.8, 0.1, -1.0]])
    >>> def distance(points, problems):
    ...     d = points - target[problems]
    ...     return np.sum(d * d, axis=1), 2 * d
    >>> result = run(AwayFrankWolfe(CappedSimplex(1), Adaptive()), distance, np.full((1, 4), 0.25))
    >>> result.x.round(3) + 0.0
    array([[0.55, 0.45, 0.  , 0.  ]])
    >>> result.converged
    array([ True])
    """

    def init(self, x0: np.ndarray) -> AwayState:
        count, size = len(x0), math.prod(x0.shape[1:])
        active = ActiveSet(count, size, x0.dtype)
        everyone = np.arange(count)
        active.insert(everyone, flat(x0))
        weights = np.zeros_like(active.weights)
        weights[:, 0] = 1
        active.assign(everyone, weights)
        return AwayState.start(x0, active=active, slot=np.zeros(count, np.int64), away=np.zeros(count, bool))

    def _leave(self, state: AwayState, problems: np.ndarray) -> None:
        state.active.assign(problems, state.weights_after(problems, state.steps.eta[problems]))

    def _trial(self, state: AwayState, problems: np.ndarray, eta: np.ndarray) -> np.ndarray:
        # from the weights, not from x: so the decomposition stays exact and the point feasible
        trial = state.active.combine(problems, state.weights_after(problems, eta))
        return trial.reshape(len(problems), *state.x.shape[1:])

    def _aim(self, state: AwayState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> None:
        """Choose between the best atom, the worst atom and the oracle's vertex."""
        active, rows = state.active, np.arange(len(problems))
        scores, used = active.scores(problems, g), active.used[problems]
        best = np.argmin(np.where(used, scores, np.inf), axis=1)
        worst = np.argmax(np.where(used, scores, -np.inf), axis=1)
        nearer, farther = (active.points[problems, slot].reshape(x.shape) for slot in (best, worst))
        gain, away_gain = inner(g, x - nearer), inner(g, farther - x)
        wanted = state.promise[problems] / 2
        known = self.lazy & (np.maximum(gain, away_gain) >= wanted)
        away = known & (away_gain > gain)
        if not known.all():
            new = rows[~known]
            nearer[new] = self._call_oracle(state, problems[new], x[new], g[new])
            gain[new] = state.gap[problems[new]]
            # the lazy method has found the away step too short already
            away[new] = False if self.lazy else away_gain[new] > gain[new]
        state.gap[problems[known]] = np.inf  # the gain of an atom only bounds it from below
        towards = np.where(known, best, 0)
        calling = rows[~known & ~away]
        towards[calling] = active.insert(problems[calling], flat(nearer[calling]))
        state.slot[problems], state.away[problems] = np.where(away, worst, towards), away
        weight = active.weights[problems, worst]
        cap = np.divide(weight, 1 - weight, out=np.full(len(rows), 1e12), where=weight < 1)
        mask = away.reshape((-1,) + (1,) * (x.ndim - 1))
        d = np.where(mask, x - farther, nearer - x)
        state.steps.aim(problems, np.where(away, away_gain, gain), inner(d, d), np.where(away, cap, 1.0))
