"""Mean and variance of functions of Gaussian variables, elementwise, with finite gradients also at zero variance.

Every function returns (mean, variance, gain). The gain E[f'(X)] = Cov(f(X), X) / Var(X) (Stein's lemma) says how a
correlated Gaussian passes through f; it is None where nobody asks for it. Tested against quadrature and Monte Carlo.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from innv_ext.backend import numerics

Tensor = Any
Triple = tuple[Tensor, Tensor, Tensor | None]
FLOOR = 1e-30  # added to a variance inside a square root
_SQRT_HALF = math.sqrt(0.5)
_DENSITY_AT_0 = 1 / math.sqrt(math.pi)  # of N(0, 1/2)


def _excess(tail: Tensor, density: Tensor, t: Tensor) -> Tensor:
    """exp(-t^2) / sqrt(pi) - t erfc(t) for t >= 0, without cancellation in the far tail where float64 can tell.

    For t > 5 Laplace's continued fraction of Mills' ratio, here sqrt(pi) exp(t^2) erfc(t) = 1/(t + K) with
    K = (1/2)/(t + 1/(t + (3/2)/(t + ...))), gives density * K / (t + K): 16 steps are right to 2e-15 there, and up
    to there the plain formula is right to 1e-13 (relative to a result below 1e-13).
    """
    plain = density - t * tail
    if keras.backend.standardize_dtype(t.dtype) != "float64":
        return plain
    far = ops.maximum(t, 5.0)
    fraction = far
    for j in range(16, 1, -1):
        fraction = far + 0.5 * j / fraction
    inner = 0.5 / fraction
    return ops.where(t > 5.0, density * inner / (far + inner), plain)


def relu_moments(m: Tensor, v: Tensor, gain: bool = True) -> Triple:
    """Mean, variance and gain Phi(m / sigma) of relu(X), X ~ N(m, v).

    With a = m / sigma, t = |a|, d = sigma (phi(t) - t Phi(-t)): mean = max(m, 0) + d and variance =
    v Phi(a) - mean (mean - m) = v Phi(a) - d (|m| + d), which loses no m^2 to rounding. The gradients are the closed
    forms d mean = Phi dm + phi / (2 sigma) dv and d variance = 2 mean Phi(-a) dm + (Phi - a Phi phi - phi^2) dv.
    Few passes over memory matter more here than looks: everything is in units of sqrt(2) sigma.
    """

    def evaluate(m: Tensor, v: Tensor) -> Any:
        inverse = ops.rsqrt(v + v + FLOOR)
        a = m * inverse
        t = ops.abs(a)
        density = _DENSITY_AT_0 * ops.exp(-(t * t))
        tail = numerics.erfc(t)
        half = 0.5 * tail
        share = ops.where(a > 0, 1 - half, half)
        excess = _excess(tail, density, t)
        mean = ops.relu(m) + v * inverse * excess
        variance = v * ops.relu(share - excess * (t + 0.5 * excess))

        def gradient(to_mean: Tensor, to_variance: Tensor, to_share: Tensor | None = None) -> tuple[Tensor, Tensor]:
            slope = density * inverse
            dm = to_mean * share + to_variance * (mean * (2 - 2 * share))
            dv = to_mean * (0.5 * slope) + to_variance * (share - slope * mean)
            if to_share is None:
                return dm, dv
            return dm + to_share * slope, dv - to_share * (slope * a * inverse)

        return (mean, variance, share) if gain else (mean, variance), gradient

    found = numerics.custom_gradient(evaluate)(m, v)
    return (*found, None) if len(found) == 2 else found


def maximum_moments(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor, c12: Tensor | float = 0.0) -> Triple:
    """Mean and variance of max(X1, X2) for Gaussians of covariance c12, and P(X2 > X1) (Clark 1961, eq. 2-6).

    max = H + relu(L - H) with H the variable of larger mean: everything follows from ``relu_moments`` of a negative
    mean, and nothing cancels when one variable is far ahead.
    """
    second = m2 > m1
    high, v_high = ops.where(second, m2, m1), ops.where(second, v2, v1)
    spread = ops.relu(v1 + v2 - 2 * c12)
    d, variance, win = relu_moments(-ops.abs(m2 - m1), spread)
    joint = c12 - v_high  # Cov(H, L - H)
    variance = ops.relu(v_high + variance + 2 * joint * win)
    return high + d, variance, ops.where(second, 1 - win, win)


def piecewise_linear_moments(
    m: Tensor, v: Tensor, knots: Sequence[float], slopes: Sequence[Any], offsets: Sequence[Any], gain: bool
) -> Triple:
    """f(x) = slopes[i] x + offsets[i] between knots[i-1] and knots[i]; slopes and offsets may be tensors (PReLU).

    Moments are taken about f(m), piece by piece, from truncated Gaussian moments. Their gradients are closed forms:
    d E g(X) = E g' dm + E g'' / 2 dv for g = f and g = f^2, where a knot adds to g' what the value gains there (a
    jump) and to g'' what the slope gains (a bend), times the density: a tenth of the operations that a tape records.
    """
    zeros = [isinstance(s, float) and s == 0 for s in slopes]  # flat pieces need few operations
    slopes = [s if isinstance(s, (int, float)) else numerics.identity(s) for s in slopes]  # variables are read here

    def evaluate(m: Tensor, v: Tensor) -> Any:
        sigma, zero = ops.sqrt(v + FLOOR), ops.zeros_like(m)
        edges = [(k - m) / sigma for k in knots]
        below = [0.5 * numerics.erfc(-_SQRT_HALF * e) for e in edges]
        above = [0.5 * numerics.erfc(_SQRT_HALF * e) for e in edges]
        density = [_SQRT_HALF * _DENSITY_AT_0 * ops.exp(-0.5 * e * e) for e in edges]
        centre = slopes[-1] * m + offsets[-1]
        for k, slope, offset in reversed(list(zip(knots, slopes, offsets, strict=False))):
            centre = ops.where(m < k, slope * m + offset, centre)
        between = [
            ops.where(low < 0.5, high - low, upper - lower)  # a difference of the smaller tails
            for low, high, upper, lower in zip(below, below[1:], above, above[1:], strict=False)
        ]
        shares = [below[0], *between, above[-1]] if knots else [zero + 1]
        bounds, moments = [zero, *density, zero], [zero, *(e * d for e, d in zip(edges, density, strict=True)), zero]
        firsts, second = [], zero
        for i, (slope, offset, flat) in enumerate(zip(slopes, offsets, zeros, strict=True)):
            level = offset - centre if flat else slope * m + offset - centre
            firsts.append(level * shares[i])
            second = second + level * firsts[i]
            if not flat:
                scale, p = slope * sigma, bounds[i] - bounds[i + 1]
                firsts[i] = firsts[i] + scale * p
                second = second + scale * (scale * (shares[i] + (moments[i] - moments[i + 1])) + 2 * level * p)
        first = sum(firsts[1:], firsts[0])
        steep = [(s, share, own) for s, share, own, flat in zip(slopes, shares, firsts, zeros, strict=True) if not flat]
        bend, twist = zero, zero
        rise = sum((s * share for s, share, _ in steep), zero)
        rise2 = sum((2 * s * own for s, _, own in steep), zero)  # of g^2
        bend2 = sum((2 * s * s * share for s, share, _ in steep), zero)
        for i, (k, edge) in enumerate(zip(knots, edges, strict=True)):
            before, after = (slopes[j] * k + offsets[j] - centre for j in (i, i + 1))
            turn, p = slopes[i + 1] - slopes[i], density[i] / sigma
            ep = edge / sigma * p  # minus the derivative of the density
            bend, twist = bend + turn * p, twist + turn * ep
            bend2 = bend2 + 2 * (slopes[i + 1] * after - slopes[i] * before) * p
            jump = offsets[i + 1] - offsets[i] + (k and turn * k)
            if not (isinstance(jump, float) and abs(jump) < 1e-12):
                squares = after * after - before * before
                rise, bend = rise + jump * p, bend + jump * ep
                peak = ops.minimum(p / (v + FLOOR), 1e37)  # finite in float32 at a jump without variance, too
                twist = twist + jump * (edge / sigma * ep - peak)
                rise2, bend2 = rise2 + squares * p, bend2 + squares * ep

        def gradient(to_mean: Tensor, to_variance: Tensor, to_gain: Tensor | None = None) -> tuple[Tensor, Tensor]:
            dm = to_mean * rise + to_variance * (rise2 - 2 * first * rise)
            dv = to_mean * (0.5 * bend) + to_variance * (0.5 * bend2 - first * bend)
            return (dm, dv) if to_gain is None else (dm + to_gain * bend, dv + to_gain * (0.5 * twist))

        mean, variance = centre + first, ops.relu(second - first * first)
        return (mean, variance, rise) if gain else (mean, variance), gradient

    found = numerics.custom_gradient(evaluate)(m, v)
    return (*found, None) if len(found) == 2 else found


_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_PAIRS = list(zip(_POINTS[8:].tolist(), _WEIGHTS[8:].tolist(), strict=True))  # the others have the opposite sign
_TOGETHER = 2**12  # values of a sample of which all nodes are evaluated at once: few operations matter more than memory


def quadrature_moments(f: Callable[[Tensor], Tensor], m: Tensor, v: Tensor, gain: bool) -> Triple:
    """Gauss-Hermite quadrature with 16 nodes; exact for polynomials of degree 31.

    Moments are taken about f(m). The backward pass evaluates f again, so that no node's values are kept.
    """
    sizes = m.shape[1:]
    together = None not in sizes and math.prod(sizes) <= _TOGETHER
    moments = _at_once(f) if together else numerics.recompute(functools.partial(_one_by_one, f))
    if not gain:
        return (*moments(m, v), None)
    (mean, variance), pullback = numerics.vjp(moments, m, v)
    return mean, variance, pullback(ops.ones_like(mean), None)[0]


def _one_by_one(f: Callable[[Tensor], Tensor], m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    sigma, centre = ops.sqrt(v + FLOOR), f(m)
    first, second = 0.0, 0.0
    for point, weight in _PAIRS:  # in pairs: their slopes cancel exactly at 0
        step = point * sigma
        up, down = f(m + step) - centre, f(m - step) - centre
        first = first + weight * (up + down)
        second = second + weight * (up * up + down * down)
    return centre + first, ops.relu(second - first * first)


def _at_once(f: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The nodes of one sign in one tensor (8, batch, ...), with the gradient in closed form from the slopes of f.

    With g = f(X) - f(m): d mean = E df and d variance = 2 E (g - E g) df, where df = f' (dm + point dsigma). Equal
    numbers stand at equal places of tensors of one shape, so that rounding is the same and differences are exactly 0.
    """

    def evaluate(m: Tensor, v: Tensor) -> Any:
        points, weights = (
            ops.convert_to_tensor(np.reshape(a, (-1, *(1 for _ in m.shape))), m.dtype)
            for a in zip(*_PAIRS, strict=True)
        )
        sigma = ops.sqrt(v + FLOOR)
        step, centre = points * sigma, f(m + 0 * points)
        up, down = (f(x) - centre for x in (m + step, m - step))
        first = ops.sum(weights * (up + down), axis=0)
        variance = ops.relu(ops.sum(weights * (up * up + down * down), axis=0) - first * first)

        def gradient(to_mean: Tensor, to_variance: Tensor) -> tuple[Tensor, Tensor]:
            step, found = points * sigma, []
            for x in (m + step, m - step):
                (y,), pullback = numerics.vjp(f, x)
                (slope,) = pullback(weights * (to_mean + 2 * to_variance * (y - centre - first)))
                found.append(slope)
            to_sigma = ops.sum(points * (found[0] - found[1]), axis=0)
            return ops.sum(found[0] + found[1], axis=0), to_sigma / (2 * sigma)

        return (f(m) + first, variance), gradient

    return numerics.custom_gradient(evaluate)


def square_moments(m: Tensor, v: Tensor) -> Triple:
    """X^2."""
    return m * m + v, 2 * v * v + 4 * m * m * v, 2 * m


def exp_moments(m: Tensor, v: Tensor) -> Triple:
    """exp(X): the log-normal distribution."""
    mean = ops.exp(m + 0.5 * v)
    return mean, mean * mean * ops.expm1(v), mean


def product_moments(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor, c12: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """X1 X2 for Gaussians of covariance c12."""
    mean = m1 * m2 + c12
    return mean, v1 * v2 + c12 * c12 + m1 * m1 * v2 + m2 * m2 * v1 + 2 * m1 * m2 * c12
