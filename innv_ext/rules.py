"""The public home of rules: tables of rules, predicates that say which nodes a rule is for, and the rules themselves.

>>> from innv_ext.rules import Epsilon, Gamma, Rules, convolution, named
>>> table = Rules((named("conv1"), Gamma(0.5)), (convolution, Epsilon(1e-3)))
"""

from innv_ext.analyzers.core.node_rules import (
    Gate,
    LayerNorm,
    ScaleShift,
    embedding,
    gradient,
    linear,
    nothing,
    pass_through,
    rescale,
    winner_takes_all,
)
from innv_ext.analyzers.lrp.names import rule
from innv_ext.analyzers.lrp.rules import (
    AffineRule,
    AlphaBeta,
    Bounded,
    Epsilon,
    Flat,
    Gamma,
    HuiBinder,
    WSquare,
    ZPlus,
    proportional,
)
from innv_ext.backend.kinds import Kind
from innv_ext.backend.predicates import (
    Predicate,
    anything,
    at_index,
    both,
    centres,
    convolution,
    dense,
    first_linear,
    is_a,
    kind_is,
    named,
    nonnegative_input,
    op_is,
    relu_like,
    shifted,
    up_to,
)
from innv_ext.backend.rules import Rules, reaching

__all__ = [
    "AffineRule",
    "AlphaBeta",
    "Bounded",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gate",
    "HuiBinder",
    "Kind",
    "LayerNorm",
    "Predicate",
    "Rules",
    "ScaleShift",
    "WSquare",
    "ZPlus",
    "anything",
    "at_index",
    "both",
    "centres",
    "convolution",
    "dense",
    "embedding",
    "first_linear",
    "gradient",
    "is_a",
    "kind_is",
    "linear",
    "named",
    "nonnegative_input",
    "nothing",
    "op_is",
    "pass_through",
    "proportional",
    "reaching",
    "relu_like",
    "rescale",
    "rule",
    "shifted",
    "up_to",
    "winner_takes_all",
]
