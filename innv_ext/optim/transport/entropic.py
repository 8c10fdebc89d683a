"""The entropic transport problem: n rows, softmax over a few columns, and potentials that balance the columns.

``balance`` is the entropic (Sinkhorn, Bregman) projection on a transport polytope. ``annealed_potentials`` are nearly
those of the transport problem without entropy: the limit of balances at falling temperatures.
"""

from __future__ import annotations

import numpy as np

from innv_ext.errors import InvalidInputError

LEAST_DAMPING = 1e-9
LARGEST_MOVE = 20.0  # of a potential in one step; e^20 is far outside the quadratic model
SMALLEST = 1e-300
COOLING = 0.2  # factor of the temperature between two levels
LEVELS = 12  # 5^-11 = 2e-8: float32's resolution
ROUNDS = 10  # softmax evaluations a level, of which 2 or 3 are usual
ROUGH = 0.1  # largest relative error of a column sum that the last step of a level starts from


def balance(
    logits: np.ndarray,
    capacities: np.ndarray,
    start: np.ndarray | None = None,
    *,
    tol: float = 1e-6,
    max_iter: int = 60,
) -> tuple[np.ndarray, np.ndarray]:
    """X_il = softmax over l of (A_il + b_l), with b such that the columns sum to the capacities.

    Newton's method on the dual potentials b with Levenberg damping, and Sinkhorn steps b + log(c / column sums) where
    Newton does not improve. Every round is one softmax. If rounding keeps the column sums from the tolerance, the
    last X is moved to the polytope (Altschuler et al. 2017, Algorithm 2).

    Parameters
    ----------
    logits : A, shape (P, n, m + 1)
    capacities : the column sums c, positive, with sum n
    start : potentials to start from, shape (P, m + 1)
    tol : largest relative error of a column sum
    max_iter : number of softmax evaluations

    Returns
    -------
    X, shape (P, n, m + 1), in the dtype of the logits; b, shape (P, m + 1)

    Raises
    ------
    InvalidInputError : capacities are not positive or do not add up to n

    Examples
    --------
    >>> import numpy as np
    >>> X, b = balance(np.log([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]]), np.array([1, 2]))
    >>> X[0].sum(axis=0).round(6), X[0].sum(axis=1).round(6)
    (array([1., 2.]), array([1., 1., 1.]))
    """
    capacities = np.asarray(capacities, np.float64)
    if capacities.shape != logits.shape[2:] or not np.all(capacities > 0) or capacities.sum() != logits.shape[1]:
        raise InvalidInputError(
            f"capacities must be {logits.shape[2]} positive numbers with sum {logits.shape[1]}, got {capacities}."
        )
    columns = np.ascontiguousarray(np.swapaxes(logits, 1, 2))
    b = np.zeros(columns.shape[:2]) if start is None else np.array(start, np.float64)
    plan, b = balance_columns(columns, capacities, b, tol, max_iter)
    return np.swapaxes(plan, 1, 2), b


def balance_columns(
    logits: np.ndarray, capacities: np.ndarray, start: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, np.ndarray]:
    """``balance`` with the columns first: logits (P, m + 1, n) -> X of that shape, potentials."""
    b = solve(logits, capacities, start, tol, max_iter).b
    plan, _ = softmax(logits, b, np.ones(1, logits.dtype))
    _round_to_polytope(plan, capacities, tol)
    return plan, b


def annealed_potentials(cost: np.ndarray, sizes: np.ndarray, idle: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Potentials b under which the cheapest columns of the rows, argmin of C_l - b_l, nearly have the wanted sizes.

    Of the potentials at all temperatures, (P, m + 1), those are kept that leave the fewest rows too many in some
    column. Only ``single`` rows are counted, (P, n), which have no equal. ``idle`` rows, (P, n), cost the same in every
    column: they fill those with the largest b, which leaves a problem with sum_i X_il <= sizes_l and b_l <= max b.
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
        dual = solve(part * cost.dtype.type(-1 / heat), capacities, start / heat, ROUGH, ROUNDS, idle[hot])
        found = heat * dual.trial(np.arange(len(hot)))  # one step more than was looked at
        before[hot], now[hot] = now[hot], found
        left = rows_too_many(part, found, sizes, idle[hot], single[hot])
        better = left < surplus[hot]
        kept[hot[better]], surplus[hot[better]] = found[better], left[better]
    return kept * scale[:, None]


def rows_too_many(
    cost: np.ndarray, potentials: np.ndarray, sizes: np.ndarray, idle: np.ndarray, single: np.ndarray
) -> np.ndarray:
    """The number of rows whose cheapest column has no room for them; identical rows move at once and do not count."""
    reduced = cost - potentials.astype(cost.dtype)[..., None]
    wanted = (reduced == reduced.min(axis=1, keepdims=True)) & single[:, None]
    excess = np.count_nonzero(wanted, axis=2) - sizes
    room = np.where(potentials == potentials.max(axis=1, keepdims=True), np.maximum(-excess, 0), 0).sum(axis=1)
    return np.maximum(excess, 0).sum(axis=1) + np.maximum(idle.sum(axis=1) - room, 0)


# --- the dual problem: few potentials -----------------------------------------------------------------------------


def solve(
    logits: np.ndarray,
    capacities: np.ndarray,
    start: np.ndarray,
    tol: float,
    max_iter: int,
    idle: np.ndarray | None = None,
) -> Dual:
    """The potentials of ``balance`` from logits with the columns first, (P, m + 1, n).

    Rows that are ``idle``, (P, n), are left out; problems with such rows have slack.
    """
    slack = np.zeros(len(start), bool) if idle is None else idle.any(axis=1)
    busy = np.ones((len(start), 1), logits.dtype) if not slack.any() else (~idle).astype(logits.dtype)
    dual, rows, trial = Dual(start, capacities, slack), np.arange(len(start)), start
    for _ in range(max_iter):
        dual.judge(rows, trial, *softmax(logits, trial, busy))
        # after several failures in a row the column sums are as good as the dtype allows
        going = (dual.error[rows] > tol) & (dual.failures[rows] < np.where(dual.error[rows] < 1e-4, 2, 8))
        if not going.all():
            rows, logits, busy = rows[going], logits[going], busy[going]
        if not len(rows):
            break
        trial = dual.trial(rows)
    return dual


def softmax(logits: np.ndarray, b: np.ndarray, busy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plan (P, m + 1, n) with potentials b, and the sum over its rows of log sum exp, in float64.

    ``busy`` rows count, with 1, the others with 0.
    """
    z = logits + b[..., None].astype(logits.dtype)
    top = z.max(axis=1)
    z -= top[:, None]
    # below this even the products of entries would be denormal numbers, which are many times slower
    np.maximum(z, 0.5 * np.log(np.finfo(z.dtype).tiny), out=z)
    np.exp(z, out=z)
    total = z.sum(axis=1)
    z *= (busy / total)[:, None]
    return z, sum(np.sum(busy * part, axis=1, dtype=np.float64) for part in (top, np.log(total)))


class Dual:
    """The best potentials ``b`` so far of each problem, and what is known of the dual function there.

    ``value``; ``gradient``, which is capacities - column sums where columns are ``free`` to move, else 0; ``hessian``;
    ``misfit``, the weighted squares of the gradient, and ``error``, its largest relative entry; ``damping`` of the next
    step; ``failures`` in a row. Where there is ``slack``, b_l <= 0, and columns with b_l = 0 may have smaller sums.
    """

    def __init__(self, start: np.ndarray, capacities: np.ndarray, slack: np.ndarray) -> None:
        count, width = start.shape
        self.b, self.capacities, self.slack = start.copy(), capacities, slack
        self.value, self.error, self.misfit = np.full((3, count), np.inf)
        self.damping, self.failures = np.zeros((2, count))
        self.gradient, self.free = np.zeros((count, width)), np.ones((count, width), bool)
        self.hessian = np.zeros((count, width, width))

    def judge(self, rows: np.ndarray, trial: np.ndarray, plan: np.ndarray, value: np.ndarray) -> None:
        """Keep the trials that are better, and adapt the damping."""
        capacities, damping, slack = self.capacities, self.damping[rows], self.slack[rows][:, None]
        value = value - trial @ capacities
        gradient = capacities - plan.sum(axis=2, dtype=np.float64)
        free = ~slack | (trial < 0) | (gradient < 0)
        gradient *= free
        misfit, before = np.sum(gradient**2 / capacities, axis=1), self.misfit[rows]
        better = (value < self.value[rows]) & (misfit < 1e3 * before) | (misfit < before) | (damping > 1)
        self.damping[rows] = np.where(better, np.where(damping > 1e-4, damping / 8, 0), np.maximum(8 * damping, 1e-3))
        self.failures[rows] = np.where(better, 0, self.failures[rows] + 1)
        good = rows[better]
        self.b[good], self.value[good], self.misfit[good] = trial[better], value[better], misfit[better]
        self.gradient[good], self.free[good] = gradient[better], free[better]
        self.error[good] = np.max(np.abs(gradient[better]) / capacities, axis=1)
        self.hessian[good] = laplacian(plan)[better]

    def trial(self, rows: np.ndarray) -> np.ndarray:
        """The next potentials: Newton's step, damped, or Sinkhorn's where the damping has grown beyond use."""
        capacities, damping, free = self.capacities, self.damping[rows], self.free[rows]
        gradient, slack, hessian = self.gradient[rows], self.slack[rows], self.hessian[rows]
        matrix = hessian * (free[:, :, None] & free[:, None, :])
        matrix += (np.maximum(damping, LEAST_DAMPING)[:, None] * capacities + ~free)[:, None] * np.eye(len(capacities))
        unbounded = slack & free.all(axis=1)
        matrix += (unbounded * hessian.max(axis=(1, 2)))[:, None, None]  # lifts the null vector
        newton = np.linalg.solve(matrix, gradient[..., None])[..., 0]
        sinkhorn = np.log(capacities) - np.log(np.maximum(capacities - gradient, SMALLEST))
        move = np.where((damping > 1)[:, None], sinkhorn, newton)
        b = self.b[rows] + np.clip(move, -LARGEST_MOVE, LARGEST_MOVE)
        b[slack & ~unbounded] = np.minimum(b[slack & ~unbounded], 0)
        # a common constant is free: 0 is the bound, or else the middle, where float32 is finest
        return b - np.where(slack, b.max(axis=1), np.median(b, axis=1))[:, None]


def laplacian(plan: np.ndarray) -> np.ndarray:
    """The Hessian diag(column sums) - X'X; the diagonal of a graph Laplacian follows from the rest uncancelled."""
    hessian = -np.matmul(plan, np.swapaxes(plan, 1, 2)).astype(np.float64)
    diagonal = np.arange(hessian.shape[1])
    hessian[:, diagonal, diagonal] = 0
    hessian[:, diagonal, diagonal] = -hessian.sum(axis=2)
    return hessian


def _round_to_polytope(plan: np.ndarray, capacities: np.ndarray, tol: float) -> None:
    """Scale crowded columns down, then spread what the rows lack over what the columns lack; in place."""
    sums = plan.sum(axis=2, dtype=np.float64)
    off = np.flatnonzero(np.max(np.abs(sums / capacities - 1), axis=1) > tol)
    if not len(off):
        return
    part = plan[off] * np.minimum(1, capacities / np.maximum(sums[off], SMALLEST))[..., None].astype(plan.dtype)
    rows = np.maximum(0, 1 - part.sum(axis=1, dtype=np.float64))
    columns = np.maximum(0, capacities - part.sum(axis=2, dtype=np.float64))
    rows /= np.maximum(rows.sum(axis=1, keepdims=True), SMALLEST)
    part += (columns[:, :, None] * rows[:, None, :]).astype(plan.dtype)
    plan[off] = part
