"""Solvers over arrays, batched over independent problems; knows no model."""

from innv_ext.optim.base import Objective, Result, Solver, State, Status, run
from innv_ext.optim.lanczos import Eigen, largest_eigenvalue, largest_eigenvalues
from innv_ext.optim.sets.oracles import birkhoff, box, k_sparse, nonnegative_k_sparse
from innv_ext.optim.sets.penalties import L1, GroupL2, Penalty, Zero, group_soft_threshold, soft_threshold
from innv_ext.optim.sets.projections import (
    entropic_capped_simplex,
    project_box,
    project_capped_simplex,
    project_k_sparse,
)
from innv_ext.optim.sets.regions import Birkhoff, Box, CappedSimplex, KSparse, RateGrid, Region
from innv_ext.optim.solvers.away import AwayFrankWolfe
from innv_ext.optim.solvers.frank_wolfe import FrankWolfe, StochasticFrankWolfe, schedule
from innv_ext.optim.solvers.mirror import EntropicMirror
from innv_ext.optim.solvers.projected import ProjectedGradient, SpectralProjectedGradient
from innv_ext.optim.solvers.proximal import Fista, ProximalGradient
from innv_ext.optim.steps import Adaptive, Monotone, Open, StepRule
from innv_ext.optim.transport.entropic import balance
from innv_ext.optim.transport.exact import rate_grid
from innv_ext.optim.transport.grids import mean_over_rates, single_rate, to_permutation

__all__ = [  # noqa: RUF022 - alphabetical, although L1 looks like a constant
    "Adaptive",
    "AwayFrankWolfe",
    "Birkhoff",
    "Box",
    "CappedSimplex",
    "Eigen",
    "EntropicMirror",
    "Fista",
    "FrankWolfe",
    "GroupL2",
    "KSparse",
    "L1",
    "Monotone",
    "Objective",
    "Open",
    "Penalty",
    "ProjectedGradient",
    "ProximalGradient",
    "RateGrid",
    "Region",
    "Result",
    "Solver",
    "SpectralProjectedGradient",
    "State",
    "Status",
    "StepRule",
    "StochasticFrankWolfe",
    "Zero",
    "balance",
    "birkhoff",
    "box",
    "entropic_capped_simplex",
    "group_soft_threshold",
    "k_sparse",
    "largest_eigenvalue",
    "largest_eigenvalues",
    "mean_over_rates",
    "nonnegative_k_sparse",
    "project_box",
    "project_capped_simplex",
    "project_k_sparse",
    "rate_grid",
    "run",
    "schedule",
    "single_rate",
    "soft_threshold",
    "to_permutation",
]
