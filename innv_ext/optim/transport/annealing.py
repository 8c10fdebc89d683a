"""Nearly optimal potentials of a transport problem of many rows into few columns, by annealing its entropic dual."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

COOLING = 0.2  # factor of the temperature between two levels
LEVELS = 12  # 5^-11 = 2e-8: float32's resolution
ROUNDS = 10  # softmax evaluations a level, of which 2 or 3 are usual
TOLERANCE = 0.1  # largest relative error of a column sum that Newton's last step of a level starts from
LEAST_DAMPING = 1e-9
FAINTEST = -40.0
SMALLEST = 1e-18  # products of entries are no denormal float32 numbers, which are many times slower


def annealed_potentials(cost: np.ndarray, sizes: np.ndarray, idle: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Potentials b under which the cheapest columns of the rows, argmin of C_l - b_l, nearly have the wanted sizes.

    Idle rows cost the same in every column: they fill the columns with the largest b, so that the others are a problem
    with sum_i X_il <= sizes_l and b_l <= max b.

    Parameters
    ----------
    cost : C, shape (P, m + 1, n)
    sizes : number of rows that each column must get, with sum n
    idle : rows of constant cost, shape (P, n)
    single : rows that have no equal, shape (P, n); the others are left out when the rows too many are counted

    Returns
    -------
    potentials, shape (P, m + 1): those that leave the fewest rows too many in some column
    """
    (count, width, n), capacities = cost.shape, sizes.astype(np.float64)
    enough = max(width // 3, n // 4000)
    scale = np.maximum(cost.std(axis=(1, 2), dtype=np.float64), np.finfo(cost.dtype).tiny)
    cost = np.divide(cost, scale.astype(cost.dtype)[:, None, None], order="C")  # sums over rows are many times faster
    # where heat hides all costs, the potentials are heat * log(capacities)
    now, before = (np.tile(COOLING**level * np.log(capacities / capacities.max()), (count, 1)) for level in (-1, -2))
    kept = np.zeros_like(now)
    surplus = rows_too_many(cost, kept, sizes, idle, single)
    for level in range(LEVELS):
        hot = np.flatnonzero(surplus > enough)
        if not len(hot):
            break
        heat, part = COOLING**level, cost[hot]
        # potentials are nearly linear in the heat, so that they can be foretold
        start = now[hot] + COOLING * (now[hot] - before[hot])
        found = heat * newton(part * cost.dtype.type(-1 / heat), capacities, start / heat, idle[hot])
        before[hot], now[hot] = now[hot], found
        left = rows_too_many(part, found, sizes, idle[hot], single[hot])
        better = left < surplus[hot]
        kept[hot[better]], surplus[hot[better]] = found[better], left[better]
    return kept * scale[:, None]


def cheapest(cost: np.ndarray, potentials: np.ndarray) -> np.ndarray:
    """The column of the smallest reduced cost C_l - b_l of each row; the first one of equal ones."""
    shifts = potentials.astype(cost.dtype)
    smallest = cost[:, 0] - shifts[:, :1]
    columns = np.zeros(smallest.shape, np.int64)
    for column in range(1, cost.shape[1]):  # many times faster than argmin over an axis that is not the last
        reduced = cost[:, column] - shifts[:, column, None]
        columns[reduced < smallest] = column
        np.minimum(smallest, reduced, out=smallest)
    return columns


def rows_too_many(
    cost: np.ndarray, potentials: np.ndarray, sizes: np.ndarray, idle: np.ndarray, single: np.ndarray
) -> np.ndarray:
    """The number of rows whose cheapest column has no room for them; identical rows move at once and do not count."""
    reduced = cost - potentials.astype(cost.dtype)[..., None]
    wanted = (reduced == reduced.min(axis=1, keepdims=True)) & single[:, None]
    excess = np.count_nonzero(wanted, axis=2) - sizes
    room = np.where(potentials == potentials.max(axis=1, keepdims=True), np.maximum(-excess, 0), 0).sum(axis=1)
    return np.maximum(excess, 0).sum(axis=1) + np.maximum(idle.sum(axis=1) - room, 0)


@dataclass
class _Dual:
    """The dual function at b, per problem: value, gradient where columns are free to move, Hessian, relative error."""

    b: np.ndarray
    value: np.ndarray
    free: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    error: np.ndarray

    def where(self, better: np.ndarray, other: _Dual) -> _Dual:
        """This one for the better problems, the other one for the rest."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return _Dual(*(np.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old) for new, old in pairs))

    def step(self, capacities: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """Newton's step among the free columns; if all are, the Hessian's null vector is lifted."""
        matrix = self.hessian * (self.free[:, :, None] & self.free[:, None, :])
        matrix += (damping[:, None] * capacities + ~self.free)[:, :, None] * np.eye(len(capacities))
        everywhere = self.free.all(axis=1)
        if everywhere.any():
            matrix += (everywhere * self.hessian.max(axis=(1, 2)))[:, None, None]
        return np.clip(np.linalg.solve(matrix, self.gradient[..., None])[..., 0], -20, 20)


def newton(logits: np.ndarray, capacities: np.ndarray, start: np.ndarray, idle: np.ndarray) -> np.ndarray:
    """The potentials b at which softmax over l of (A_il + b_l) has the column sums ``capacities``, roughly.

    Newton's method with Levenberg damping. With idle rows, b_l <= 0, and where b_l = 0 the sums may be smaller.
    """
    slack = idle.any(axis=1)
    base = _gauge(start, slack)
    logits = logits + base[..., None].astype(logits.dtype)
    logits -= logits.max(axis=1, keepdims=True)
    np.maximum(logits, FAINTEST, out=logits)  # neither are the entries themselves
    found, active, trial, damping = base.copy(), np.arange(len(base)), base, np.full(len(base), LEAST_DAMPING)
    dual: _Dual | None = None
    for _ in range(ROUNDS):
        new = _evaluate(logits, trial, base, capacities, idle, slack)
        if dual is not None:
            better = (new.value < dual.value) | (new.error < dual.error)
            damping = np.where(better, np.maximum(damping / 8, LEAST_DAMPING), np.maximum(8 * damping, 1e-3))
            new = new if better.all() else new.where(better, dual)
        dual = new
        trial = dual.b + dual.step(capacities, damping)
        bounded = slack & ~dual.free.all(axis=1)
        trial = _gauge(np.where(bounded[:, None], np.minimum(trial, 0), trial), slack)
        done = dual.error < TOLERANCE
        found[active] = np.where(done[:, None], trial, dual.b)  # one step more than was looked at
        if done.all():
            break
        if done.any():
            keep = ~done
            active, logits, trial, base = active[keep], logits[keep], trial[keep], base[keep]
            idle, slack, damping = idle[keep], slack[keep], damping[keep]
            dual = _Dual(*(getattr(dual, f.name)[keep] for f in fields(dual)))
    return found


def _gauge(b: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """A common constant is free: 0 is the bound, or else the middle, where float32 is finest."""
    top = b.max(axis=1)
    return b - (top if slack.all() else np.where(slack, top, (b.min(axis=1) + top) / 2))[:, None]


def _evaluate(
    logits: np.ndarray, b: np.ndarray, base: np.ndarray, capacities: np.ndarray, idle: np.ndarray, slack: np.ndarray
) -> _Dual:
    """The dual function at b, from logits that contain ``base``."""
    moved = b - base
    plan = logits + moved[..., None].astype(logits.dtype)
    np.exp(plan, out=plan)
    total = plan.sum(axis=1)
    total[idle] = 1
    value = np.log(total).sum(axis=1, dtype=np.float64) - moved @ capacities
    total = 1 / total
    total[idle] = 0
    plan *= total[:, None]
    np.maximum(plan, SMALLEST, out=plan)
    gradient = capacities - plan.sum(axis=2)
    hessian = np.matmul(plan, np.swapaxes(plan, 1, 2)).astype(np.float64)
    diagonal = np.arange(len(capacities))
    # diag(column sums) - X'X is a graph Laplacian: its diagonal follows from the rest without cancellation
    hessian[:, diagonal, diagonal] = 0
    np.negative(hessian, out=hessian)
    hessian[:, diagonal, diagonal] = -hessian.sum(axis=2)
    free = (b < 0) | (gradient < 0) | ~slack[:, None]
    gradient *= free
    return _Dual(b, value, free, gradient, hessian, np.max(np.abs(gradient) / capacities, axis=1))
