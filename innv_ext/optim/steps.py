"""Step rules for Frank-Wolfe methods: how far to go along a direction, and whether the trial is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innv_ext.optim.base import PerProblem, each, require


@dataclass(kw_only=True)
class Steps(PerProblem):
    """What a rule remembers about each problem, and the step that is being tried.

    ``accepted`` steps so far, ``halvings`` of the monotone rule, ``smoothness`` estimate of the adaptive rule (nan:
    none yet); ``eta``, the ``slope`` -<g, d> and ``norm``, |d|^2, of the current trial.
    """

    accepted: np.ndarray = each(0)
    halvings: np.ndarray = each(0)
    smoothness: np.ndarray = each(np.nan)
    eta: np.ndarray = each(0.0)
    slope: np.ndarray = each(0.0)
    norm: np.ndarray = each(0.0)
    largest: np.ndarray = each(1.0)

    def aim(self, problems: np.ndarray, slope: np.ndarray, norm: np.ndarray, largest: np.ndarray | float = 1.0) -> None:
        """A new direction: its slope, squared length and largest feasible step."""
        self.slope[problems], self.norm[problems], self.largest[problems] = slope, norm, largest


class StepRule:
    """Base: the open loop, where every step is accepted."""

    def length(self, steps: Steps, problems: np.ndarray) -> np.ndarray:
        """The step eta of each problem along its current direction."""
        eta = 0.5 ** steps.halvings[problems] / np.sqrt(steps.accepted[problems] + 1)
        return np.minimum(steps.largest[problems], eta)

    def accepts(self, steps: Steps, problems: np.ndarray, decrease: np.ndarray) -> np.ndarray:
        """Is f(x) - f(trial) enough?"""
        return np.ones(len(problems), bool)

    def learn(self, steps: Steps, problems: np.ndarray, accepted: np.ndarray) -> None:
        """Prepare the next length."""
        steps.accepted[problems[accepted]] += 1


@dataclass(frozen=True)
class Open(StepRule):
    """eta = 1 / sqrt(t + 1) after t steps, without looking at values (equation (5) of the Frank-Wolfe paper)."""


@dataclass(frozen=True)
class Monotone(StepRule):
    """eta = 2^-r / sqrt(t + 1), r raised until the value decreases (equation (6) of the Frank-Wolfe paper).

    r falls by one after a success, because a rule whose r never falls stalls in float32.
    """

    def accepts(self, steps: Steps, problems: np.ndarray, decrease: np.ndarray) -> np.ndarray:
        return decrease > 0

    def learn(self, steps: Steps, problems: np.ndarray, accepted: np.ndarray) -> None:
        super().learn(steps, problems, accepted)
        steps.halvings[problems] = np.maximum(0, steps.halvings[problems] + np.where(accepted, -1, 1))


@dataclass(frozen=True)
class Adaptive(StepRule):
    """The short step min(eta_max, -<g, d> / (L |d|^2)) with a backtracked L (Pedregosa et al. 2020).

    A trial must fulfil f(x + eta d) <= f(x) + eta <g, d> + eta^2 L |d|^2 / 2, with the eta that was really taken.

    Parameters
    ----------
    grow : factor of L after a rejection
    shrink : factor of L after a success
    """

    grow: float = 2.0
    shrink: float = 0.9

    def __post_init__(self) -> None:
        require(self, self.grow > 1 and 0 < self.shrink <= 1, "grow > 1 and 0 < shrink <= 1", "grow", "shrink")

    def length(self, steps: Steps, problems: np.ndarray) -> np.ndarray:
        """-<g, d> / (L |d|^2); the first L is the one that gives a step of 1."""
        slope, norm = steps.slope[problems], np.maximum(steps.norm[problems], np.finfo(np.float64).tiny)
        unknown = problems[np.isnan(steps.smoothness[problems]) & (slope > 0)]
        steps.smoothness[unknown] = steps.slope[unknown] / steps.norm[unknown]
        with np.errstate(over="ignore"):  # a flat direction asks for an infinite step, which the cap bounds
            eta = slope / np.maximum(np.nan_to_num(steps.smoothness[problems]) * norm, np.finfo(np.float64).tiny)
        return np.minimum(steps.largest[problems], np.maximum(eta, 0))

    def accepts(self, steps: Steps, problems: np.ndarray, decrease: np.ndarray) -> np.ndarray:
        eta, curvature = steps.eta[problems], steps.smoothness[problems] * steps.norm[problems]
        return decrease >= eta * steps.slope[problems] - eta**2 * curvature / 2

    def learn(self, steps: Steps, problems: np.ndarray, accepted: np.ndarray) -> None:
        super().learn(steps, problems, accepted)
        steps.smoothness[problems] *= np.where(accepted, self.shrink, self.grow)
