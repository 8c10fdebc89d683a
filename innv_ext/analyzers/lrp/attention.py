"""LRP for transformers: AttnLRP and CP-LRP, as tables over the steps of attention."""

from __future__ import annotations

from typing import Any

from innv_ext import arguments
from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.lrp.rules import Epsilon, Gamma, beside
from innv_ext.backend.kinds import Kind
from innv_ext.backend.predicates import behind_activation, kind_is, op_is
from innv_ext.backend.rules import Rules

Row = tuple[Any, ...]


def attnlrp(epsilon: float = 1e-6, norm: str = "three_step", gamma: float | None = None) -> dict[str, Any]:
    """AttnLRP (Achtibat et al. 2024): every step of a transformer by a Taylor expansion of its own.

    Weights, sums and shifts by the epsilon rule; non-linearities pass relevance on; layer normalisation in three steps,
    see ``LayerNorm``; factors of a product share equally, element by element or in contractions (scores q k, weights
    times values); softmax R_x = x (R - a sum R). Masks, positions, class tokens and the choices of top-k are constants.
    The map does not sum to the score: the softmax rule expands at scores with a bias.

    Parameters
    ----------
    epsilon : stabilises every denominator
    norm : "three_step", or "identity", which passes relevance through layer normalisation unchanged; behind it sums
        may blow up, because relevance is no longer in proportion to values
    gamma : weights by the gamma rule, which favours positive contributions: less noise in vision transformers
        (Achtibat et al. 2024, appendix A.2.3)
    """
    uniform = node_rules.Gate("half", epsilon)
    products = [(op_is("softmax", "Softmax"), node_rules.softmax), (kind_is(Kind.PRODUCT), uniform)]
    return {"rule": Rules(*_steps(epsilon, norm, gamma), *products)}


def cp_lrp(epsilon: float = 1e-6, norm: str = "three_step", gamma: float | None = None) -> dict[str, Any]:
    """CP-LRP (Ali et al. 2022): attention weights, gates and the deviations of norms are constants.

    As ``attnlrp``, but values take all of the relevance of weights times values, and of an elementwise product the
    factor that does not come of an activation. The map sums to the score up to biases, constants and epsilon.
    """
    gates = [(behind_activation(i), node_rules.Takes(1 - i)) for i in (0, 1)]
    products = [*gates, (kind_is(Kind.PRODUCT), node_rules.Gate("signal", epsilon))]
    return {"rule": Rules(*_steps(epsilon, norm, gamma), *products)}


def _steps(epsilon: float, norm: str, gamma: float | None) -> list[Row]:
    """Rows for weights, norms, shifts and sums."""
    arguments.choice("norm", norm, ("three_step", "identity"))
    inner = Epsilon(epsilon)
    return [
        (kind_is(Kind.AFFINE), inner if gamma is None else Gamma(gamma)),
        *([(kind_is(Kind.NORM), node_rules.pass_through)] if norm == "identity" else []),
        *beside(inner),
        (kind_is(Kind.LINEAR), node_rules.Linear(epsilon)),
    ]
