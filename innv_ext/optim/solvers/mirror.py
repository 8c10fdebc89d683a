"""Entropic mirror descent over rate grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext.errors import InvalidInputError
from innv_ext.optim.base import Solver, State, each, flat, require
from innv_ext.optim.sets.regions import RateGrid
from innv_ext.optim.transport.entropic import balance_columns
from innv_ext.optim.transport.grids import checked_rates, grid_of, group_sizes, plan_cost, plan_of

MOST_SOFTMAXES = 40  # of a balance
FLOOR = 1e-6  # of the plan at x0: an entry of zero could never grow
HARDEST = 200.0  # bound of eta std(C): beyond, a step is a jump to a vertex, which float32 cannot balance


@dataclass(kw_only=True)
class MirrorState(State):
    """Transport plans of x and of the trial, (P, m + 1, n); the step eta; dual potentials per unit of eta."""

    plan: np.ndarray
    trial_plan: np.ndarray
    eta: np.ndarray = each(0.0)
    potentials: np.ndarray
    oracle_calls: np.ndarray = each(0)


@dataclass(frozen=True)
class EntropicMirror(Solver):
    """Mirror descent with the entropy of the transport plan X of a rate grid S: X <- balance(log X - eta C).

    C is the gradient with respect to X and the balance the Bregman projection on the right row and column sums. eta
    starts at scale / std(C), grows after a success (the value fell) and shrinks after a failure (a retry from the old
    X). x0 and the result are the S, shape (P, n, m). The dual gap needs an exact transport problem, so that it is only
    computed at the end.

    Parameters
    ----------
    rates : the m column sums of S, increasing within 1..n-1
    scale : first eta times the standard deviation of C
    grow, shrink : factors of eta after a success and a failure
    tol : largest relative error of a column sum of X

    Raises
    ------
    InvalidInputError : rates do not increase, factors out of range

    Examples
    --------
    >>> import numpy as np
    >>> from innv_ext.optim import run
    >>> weights = np.array([[3.0], [2.0], [1.0]])
    >>> score = lambda S, _: (-np.sum(weights * S, axis=(1, 2)), np.broadcast_to(-weights, S.shape))
    >>> result = run(EntropicMirror((1, 2)), score, np.tile(np.array([1, 2]) / 3, (1, 3, 1)))
    >>> result.x[0].round(3)
    array([[1., 1.],
           [0., 1.],
           [0., 0.]])
    """

    rates: tuple[int, ...]
    scale: float = 2.0
    grow: float = 1.3
    shrink: float = 0.4
    tol: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", RateGrid(self.rates).rates)
        fits = self.scale > 0 and self.grow >= 1 and 0 < self.shrink < 1
        require(self, fits, "scale > 0, grow >= 1 and 0 < shrink < 1", "scale", "grow", "shrink")

    def init(self, x0: np.ndarray) -> MirrorState:
        if x0.ndim != 3 or x0.shape[2] != len(self.rates):
            raise InvalidInputError(f"x0 must have shape (P, n, {len(self.rates)}), one column per rate: {x0.shape}.")
        checked_rates(self.rates, x0.shape[1])
        plan = np.maximum(plan_of(x0), x0.dtype.type(FLOOR))
        return MirrorState.start(x0, plan=plan, trial_plan=plan.copy(), potentials=np.zeros(plan.shape[:2]))

    def update(self, state: MirrorState, problems: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> None:
        first = state.first(problems)
        accepted = first | (values < state.value[problems])
        moved = state.settle(problems, accepted, values, gradients)
        state.plan[moved] = state.trial_plan[moved]
        cost = plan_cost(state.gradient[problems])
        spread = flat(cost).std(axis=1, dtype=np.float64)
        # where C is constant, there is nowhere to go
        unit = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e3 * np.finfo(cost.dtype).tiny)
        adapted = state.eta[problems] * np.where(accepted, self.grow, self.shrink)
        eta = np.minimum(np.where(first, self.scale * unit, adapted), HARDEST * unit)
        # the trial: balance(log X - eta C)
        logits = np.log(state.plan[problems])
        cost *= eta.astype(cost.dtype)[:, None, None]
        logits -= cost
        sizes = group_sizes(np.asarray(self.rates), logits.shape[2]).astype(np.float64)
        plan, b = balance_columns(logits, sizes, state.potentials[problems] * eta[:, None], self.tol, MOST_SOFTMAXES)
        np.divide(b, eta[:, None], out=b, where=eta[:, None] > 0)
        state.eta[problems], state.potentials[problems], state.trial_plan[problems] = eta, b, plan
        state.propose(problems, grid_of(plan))

    def finish(self, state: MirrorState) -> None:
        known = np.flatnonzero(np.isfinite(state.value))
        if len(known):
            state.gap[known] = RateGrid(self.rates).gap(state.x[known], state.gradient[known], known)
            state.oracle_calls[known] += 1
