"""Entropic (Sinkhorn, Bregman) projection on a transport polytope: few columns, many rows."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from innv_ext.errors import InvalidInputError

SMALLEST = 1e-300
LARGEST_MOVE = 20.0  # of a potential in one Newton step; e^20 is far outside the quadratic model


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
    logits: np.ndarray, capacities: np.ndarray, b: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, np.ndarray]:
    """``balance`` with the columns first: logits (P, m + 1, n) -> X of that shape, potentials."""
    b = dual_potentials(logits, capacities, b, tol, max_iter)
    plan, _ = softmax(logits, b)
    _round_to_polytope(plan, capacities, tol)
    return plan, b


def softmax(logits: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plan (P, m + 1, n) with potentials b, and the sum over its rows of log sum exp, in float64."""
    z = logits + b[..., None].astype(logits.dtype)
    top = z.max(axis=1)
    z -= top[:, None]
    # below this even the products of entries would be denormal numbers, which are many times slower
    np.maximum(z, 0.5 * np.log(np.finfo(z.dtype).tiny), out=z)
    np.exp(z, out=z)
    total = z.sum(axis=1)
    z /= total[:, None]
    return z, top.sum(axis=1, dtype=np.float64) + np.log(total).sum(axis=1, dtype=np.float64)


@dataclass
class _Dual:
    """The dual function at b, per problem: its value, gradient and Hessian, and the damping mu of the next step."""

    b: np.ndarray
    value: np.ndarray
    sums: np.ndarray
    hessian: np.ndarray
    mu: np.ndarray
    failures: np.ndarray

    def step(self, capacities: np.ndarray) -> np.ndarray:
        """Newton's step, damped, or Sinkhorn's where the damping has grown beyond use."""
        damping = np.maximum(self.mu, 1e-9)[:, None] * capacities
        matrix = self.hessian + damping[:, None, :] * np.eye(len(capacities))
        newton = np.linalg.solve(matrix, (capacities - self.sums)[..., None])[..., 0]
        newton = np.clip(newton, -LARGEST_MOVE, LARGEST_MOVE)
        sinkhorn = np.log(capacities) - np.log(np.maximum(self.sums, SMALLEST))
        return np.where((self.mu > 1)[:, None], np.clip(sinkhorn, -LARGEST_MOVE, LARGEST_MOVE), newton)


def dual_potentials(
    logits: np.ndarray, capacities: np.ndarray, start: np.ndarray, tol: float, max_iter: int
) -> np.ndarray:
    """The potentials b of ``balance``, from logits with the columns first, (P, m + 1, n)."""
    count, width = start.shape
    found = start.copy()
    active = np.arange(count)
    dual = _Dual(found, np.full(count, np.inf), *_blank(count, width))
    trial = found
    for _ in range(max_iter):
        plan, value = softmax(logits, trial)
        value -= trial @ capacities
        sums = plan.sum(axis=2, dtype=np.float64)
        error, before = (np.sum((s - capacities) ** 2 / capacities, axis=1) for s in (sums, dual.sums))
        better = (value < dual.value) & (error < 1e3 * before) | (error < before) | (dual.mu > 1)
        _move(dual, better, trial, value, sums, plan)
        residual = np.max(np.abs(dual.sums / capacities - 1), axis=1)
        # several failures in a row: the column sums are as good as the dtype allows
        keep = (residual > tol) & (dual.failures < np.where(residual < 1e-4, 2, 8))
        found[active] = dual.b
        if not keep.all():
            active, logits = active[keep], logits[keep]
            dual = _Dual(*(getattr(dual, f.name)[keep] for f in fields(dual)))
        if not len(active):
            break
        trial = dual.b + dual.step(capacities)
        trial -= np.median(trial, axis=1, keepdims=True)  # float32 is finest near 0
    return found


def _blank(count: int, width: int) -> tuple[np.ndarray, ...]:
    return np.full((count, width), np.inf), np.zeros((count, width, width)), np.zeros(count), np.zeros(count)


def _move(
    dual: _Dual, better: np.ndarray, trial: np.ndarray, value: np.ndarray, sums: np.ndarray, plan: np.ndarray
) -> None:
    """Accept the better trials, and adapt the damping."""
    product = np.matmul(plan, np.swapaxes(plan, 1, 2)).astype(np.float64)
    diagonal = np.arange(product.shape[1])
    product[:, diagonal, diagonal] = 0
    # diag(column sums) - X'X is a graph Laplacian: its diagonal follows from the rest without cancellation
    hessian = -product
    hessian[:, diagonal, diagonal] = product.sum(axis=2)
    dual.b = np.where(better[:, None], trial, dual.b)
    dual.value = np.where(better, value, dual.value)
    dual.sums = np.where(better[:, None], sums, dual.sums)
    dual.hessian = np.where(better[:, None, None], hessian, dual.hessian)
    eased = np.where(dual.mu > 1e-4, dual.mu / 8, 0)
    dual.mu = np.where(better, eased, np.maximum(8 * dual.mu, 1e-3))
    dual.failures = np.where(better, 0, dual.failures + 1)


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
