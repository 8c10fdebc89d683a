"""Frank-Wolfe with away steps: x is kept as a weighted sum of vertices, and can move away from a bad one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from innv_ext.optim.base import each, flat, inner
from innv_ext.optim.sets.regions import Region
from innv_ext.optim.solvers.atoms import Atoms
from innv_ext.optim.solvers.frank_wolfe import ConditionalGradient, FrankWolfeState
from innv_ext.optim.steps import Monotone, StepRule


@dataclass(kw_only=True)
class AwayState(FrankWolfeState):
    """``active`` decomposes x; the current direction leads to (or ``away`` from) the atom in ``slot``."""

    active: Atoms
    slot: np.ndarray = each(0)
    away: np.ndarray = each(False)

    def weights_after(self, problems: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """The weights of the atoms after a step eta."""
        away, slot, rows = self.away[problems], self.slot[problems], np.arange(len(problems))
        shift = np.where(away, -eta, eta)
        weights = self.active.weights[problems] * (1 - shift)[:, None]
        weights[rows, slot] += shift
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
    region, step : as of ``FrankWolfe``
    lazy : first look for a step that promises at least phi / 2 among the atoms, and call the oracle only if there is
        none (lazified away steps, Braun et al. 2019); phi and the dual gap are as of ``FrankWolfe``

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import Adaptive, CappedSimplex, run
    >>> target = np.array([[0.9, 0.8, 0.1, -1.0]])
    >>> distance = lambda x, problems: (np.sum((x - target) ** 2, axis=1), 2 * (x - target))
    >>> result = run(AwayFrankWolfe(CappedSimplex(1), Adaptive()), distance, np.full((1, 4), 0.25))
    >>> result.x.round(3) + 0.0
    array([[0.55, 0.45, 0.  , 0.  ]])
    >>> result.converged
    array([ True])
    """

    region: Region
    step: StepRule = field(default_factory=Monotone)
    lazy: bool = False

    def init(self, x0: np.ndarray) -> AwayState:
        active = Atoms(x0)
        active.insert(np.arange(len(x0)), flat(x0))
        active.weights[:, 0] = 1
        return AwayState.start(x0, active=active)

    def _leave(self, state: AwayState, problems: np.ndarray) -> None:
        state.active.assign(problems, state.weights_after(problems, state.steps.eta[problems]))

    def _trial(self, state: AwayState, problems: np.ndarray, eta: np.ndarray) -> np.ndarray:
        # from the weights, not from x: so the decomposition stays exact and the point feasible
        trial = state.active.combine(problems, state.weights_after(problems, eta))
        return trial.reshape(len(problems), *state.x.shape[1:])

    def _aim(self, state: AwayState, problems: np.ndarray, x: np.ndarray, g: np.ndarray) -> None:
        """Choose between the best atom, the worst atom and the oracle's vertex."""
        active = state.active
        scores, used = active.scores(problems, g), active.used[problems]
        best = np.argmin(np.where(used, scores, np.inf), axis=1)
        worst = np.argmax(np.where(used, scores, -np.inf), axis=1)
        nearer, farther = (active.points[problems, slot].reshape(x.shape) for slot in (best, worst))
        gain, away_gain = inner(g, x - nearer), inner(g, farther - x)
        known = self.lazy & (np.maximum(gain, away_gain) >= state.promise[problems] / 2)
        new = ~known
        if new.any():
            nearer[new] = self._call_oracle(state, problems[new], x[new], g[new])
            gain[new] = state.gap[problems[new]]
        state.gap[problems[known]] = np.inf  # the gain of an atom only bounds it from below
        # where the lazy method has called the oracle, it had found the away step too short
        away = (away_gain > gain) & (known if self.lazy else new)
        calling = new & ~away
        best[calling] = active.insert(problems[calling], flat(nearer[calling]))
        state.slot[problems], state.away[problems] = np.where(away, worst, best), away
        weight = active.weights[problems, worst]
        cap = np.divide(weight, 1 - weight, out=np.full(len(weight), 1e12), where=weight < 1)
        d = nearer - x
        d[away] = x[away] - farther[away]
        state.steps.aim(problems, np.where(away, away_gain, gain), inner(d, d), np.where(away, cap, 1.0))
