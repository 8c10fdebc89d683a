"""Layer-wise Relevance Propagation and Deep Taylor: rule tables over the kinds of nodes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core import node_rules
from innv_ext.analyzers.core.program import select
from innv_ext.analyzers.core.reverse import ReverseAnalyzer
from innv_ext.analyzers.lrp import names
from innv_ext.analyzers.lrp import rules as r
from innv_ext.analyzers.lrp.conserving import Conserving, positive_share, weight_share
from innv_ext.analyzers.lrp.domains import Domains
from innv_ext.backend import again, facts, passes, traits, walk
from innv_ext.backend.graph import Graph
from innv_ext.backend.kinds import SHAPE_ONLY, Kind
from innv_ext.backend.loops import everywhere
from innv_ext.backend.predicates import (
    both,
    first_linear,
    kind_is,
    nonnegative_input,
    not_differentiable,
    op_is,
    relu_like,
    up_to,
)
from innv_ext.backend.rules import Rules
from innv_ext.errors import ConservationWarning, InvalidInputError, UnsupportedModelError, ZeroMapWarning

Tensor = Any


def as_rule(value: Any, argument: str) -> Any:
    """A rule from a rule, one of the names, or (low, high) for z^B."""
    if isinstance(value, str):
        return names.RULE_NAMES[arguments.choice(argument, value.lower(), names.RULE_NAMES, " or a rule")]()
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return r.Bounded(*value)
    if not callable(value):
        raise InvalidInputError(f"{argument} must be a rule, a rule's name or (low, high), got {value!r}.")
    return value


def _on_affine_nodes(table: Rules) -> list[Any]:
    """The rows; a rule for affine nodes leaves the fused activation of a layer that it was given by name alone."""
    weighted = kind_is(Kind.AFFINE, Kind.BATCHNORM)
    return [(both(weighted, row[0]), *row[1:]) if isinstance(row[1], r.AffineRule) else row for row in table.rows]


def _keeps_sign(rule: Any) -> bool:
    """Whether no share of an affine node is negative: the other nodes have to keep to that."""
    if isinstance(rule, r.AlphaBeta):
        return rule.beta == 0
    return isinstance(rule, (r.WSquare, r.Flat)) or (isinstance(rule, r.ZPlus) and rule.general)


COMMON_RULES = Rules(
    (kind_is(Kind.TOKENS), node_rules.numbers, "rearrange"),
    (not_differentiable, node_rules.nothing),
    (op_is(*SHAPE_ONLY), node_rules.nothing, "constant"),
    (kind_is(Kind.ACTIVATION, Kind.IDENTITY, Kind.NORM), node_rules.pass_through),
    (kind_is(Kind.SHAPE, Kind.SELECT), node_rules.gradient, "rearrange"),
    (kind_is(Kind.RESCALE), node_rules.rescale),
    (kind_is(Kind.LINEAR), node_rules.linear),
    (kind_is(Kind.MAX), node_rules.winner_takes_all),
    (kind_is(Kind.EMBEDDING), node_rules.embedding),
)


@dataclass(kw_only=True, eq=False, repr=False)
class _Relevance(ReverseAnalyzer):
    attention_steps = True

    def bind(self) -> None:
        """Find what enters the nodes whose rule asks for it; bounds must fit a sample, as far as shapes are known."""
        super().bind()
        self.again_ = again.scores(self.graph_)
        self._domains = Domains(self.graph_, self.rules_)
        for own, shape in self._domains.samples():
            if None not in shape:
                arguments.one_sample("low", own.low, shape)
                arguments.one_sample("high", own.high, shape)

    def rules_at(self, env: walk.Env) -> Sequence[Any]:
        """Rules that ask what can enter their node are told so."""
        return self._domains.at(env.slots)


@dataclass(kw_only=True, eq=False, repr=False)
class LRP(_Relevance):
    """Layer-wise Relevance Propagation (Bach et al. 2015) with any rule, or any table of rules.

    Activations and scalings pass relevance on; max pooling gives it to the winner; sums, means and other linear nodes
    share it by their contributions (below a rule without negative shares, as z+, by the positive ones); layer and group
    normalisation by ``LayerNorm``; at products the signal takes all (``gate="signal"``) or the factors share
    (``"half"``).

    Parameters
    ----------
    rule : a rule for all affine nodes, its name ("z", "epsilon", "gamma", ...), or a ``Rules`` table over them
    rules : a ``Rules`` table that goes before everything else
    input_layer_rule : rule of the first affine node on every path from the input: "flat", "w_square", a rule, or
        (low, high), bounds of the model's input, which are carried through rescaling in front of that node
    until_layer : name or position in ``model.layers``; affine nodes up to it get ``until_layer_rule``
    batchnorm : "fold" (into the affine neighbour), "linear", "two_linear" or "hui_binder" (thesis A.3)
    gate : "signal" or "half"

    Examples
    --------
    >>> from innv_ext.rules import Gamma, Rules, named
    >>> innv_ext.create_analyzer("lrp", model, rule="epsilon", rules=Rules((named("conv1"), Gamma(0.5))))
    """

    rule: Any = "z"
    rules: Rules | None = arguments.optional(Rules)
    input_layer_rule: Any = None
    until_layer: int | str | None = arguments.optional(int, str)
    until_layer_rule: Any = "flat"
    batchnorm: str = arguments.one_of(*passes.BATCHNORM_MODES)
    gate: str = arguments.one_of("signal", "half")

    @property
    def batchnorm_form(self) -> str:
        """The form of batch normalisation that its rule needs."""
        return self.batchnorm

    def check_model(self, graph: Graph) -> None:
        until, count = self.until_layer, len(self.model.layers)
        if isinstance(until, int) and not -count <= until < count:
            raise InvalidInputError(f"until_layer={until} is out of range for a model of {count} layers.")
        if isinstance(until, str) and not any(up_to(until)(n, graph) for n in graph.nodes):
            known = ", ".join(sorted({name for n in graph.nodes for name in n.layers}))
            raise InvalidInputError(f"until_layer={self.until_layer!r} is not a layer of the model; it has {known}.")

    def bind(self) -> None:
        super().bind()
        if self.rules is not None:
            Rules(*_on_affine_nodes(self.rules)).warn_unused(self.graph_, self.model.name)

    def table(self) -> Rules:
        """User's rules, input layer, lower layers, affine nodes, all other kinds."""
        affine = kind_is(Kind.AFFINE)
        rows: list[Any] = _on_affine_nodes(self.rules) if self.rules is not None else []
        if self.input_layer_rule is not None:
            at_input = as_rule(self.input_layer_rule, "input_layer_rule")
            at_input = r.InputBounded(at_input.low, at_input.high) if type(at_input) is r.Bounded else at_input
            rows.append((first_linear, at_input))
        if self.until_layer is not None:
            below, lower = up_to(self.until_layer), as_rule(self.until_layer_rule, "until_layer_rule")
            rows.append((both(affine, below), lower))
        rule = self.rule if isinstance(self.rule, Rules) else as_rule(self.rule, "rule")
        if self.batchnorm == "hui_binder":
            rows.append((kind_is(Kind.BATCHNORM), r.HuiBinder()))
        rows += _on_affine_nodes(rule) if isinstance(rule, Rules) else [(affine, rule)]
        if _keeps_sign(rule):
            rows.append((not_differentiable, node_rules.nothing))
            rows.append((kind_is(Kind.BATCHNORM), node_rules.pass_through))
            rows.append((kind_is(Kind.LINEAR), positive_share))
        rows += r.beside(rule)
        rows.append((kind_is(Kind.PRODUCT), node_rules.Gate(self.gate)))
        return Rules(*rows).before(COMMON_RULES)

    def seed_relevance(self, y: Tensor, weights: Tensor) -> Tensor:
        return y * weights

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """The share of the score that biases and stabilisers took."""
        return super().finish_extras({**extras, "absorbed": _missing(extras["sum"], np.asarray(extras["score"]))})


def _missing(total: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The share of what the walk started with that did not arrive; 0 where it started with nothing."""
    nothing = np.abs(start) < 1e-12
    return np.where(nothing, 0.0, 1.0 - total / np.where(nothing, 1.0, start))


@dataclass(kw_only=True, eq=False, repr=False)
class DeepTaylor(_Relevance):
    """Deep Taylor decomposition (Montavon et al. 2017), for ReLU networks.

    Hidden affine nodes with non-negative inputs: z+; the input layer: w^2, or z^B where ``low`` and ``high`` are
    given; hidden affine nodes whose input may be negative: w^2, and so neurons to which nothing contributes. Sums and
    means share by contributions that are not negative, or else by weights. No bias in any denominator. A sample whose
    selected score is not positive gets a zero map and a warning.

    Parameters
    ----------
    low, high : bounds of the model's input, numbers or arrays that broadcast to one sample (``deep_taylor.bounded``);
        they are carried through what rescales the input inside the model
    """

    low: Any = None
    high: Any = None

    batchnorm_form = "fold"

    def check_parameters(self) -> None:
        if (self.low is None) != (self.high is None):
            raise InvalidInputError(f"low and high go together, got low={self.low!r}, high={self.high!r}.")

    def check_model(self, graph: Graph) -> None:
        inner = [n for n, _ in everywhere(graph)]
        foreign = [n for n in inner if n.kind is Kind.ACTIVATION and not facts.is_relu_like(n)]
        if foreign and self.unsupported == "error":
            names = ", ".join(f"{n.name} ({facts.activation_key(n)})" for n in foreign)
            raise UnsupportedModelError(
                f"Deep Taylor is defined for ReLU activations only; {self.model.name!r} has {names}. Use an LRP rule, "
                f"e.g. 'lrp.epsilon_plus'" + (", or on='logits'." if self.on == "output" else ".")
            )

        signed = [n for n in inner if traits.overshoots(n)]
        if signed and self.unsupported == "error":
            raise UnsupportedModelError(
                f"Deep Taylor has no negative relevance, but {', '.join(n.name for n in signed)} of "
                f"{self.model.name!r} interpolates with negative weights. Use 'bilinear', or an LRP rule."
            )

    def table(self) -> Rules:
        """z+ inside, w^2 or z^B at the input, conservation everywhere else."""
        at_input = r.WSquare() if self.low is None else Conserving(r.InputBounded(self.low, self.high))
        inside = kind_is(Kind.AFFINE)
        return Rules(
            (not_differentiable, node_rules.nothing),
            (first_linear, at_input),
            (both(inside, nonnegative_input), Conserving(r.ZPlus())),
            (inside, r.WSquare()),
            (both(kind_is(Kind.LINEAR), nonnegative_input), positive_share),
            (kind_is(Kind.LINEAR), weight_share),
            (relu_like, node_rules.pass_through),
            (kind_is(Kind.BATCHNORM, Kind.IDENTITY), node_rules.pass_through),
            *(row for row in COMMON_RULES.rows if row[1] is not node_rules.pass_through),
        )

    def seed_relevance(self, y: Tensor, weights: Tensor) -> Tensor:
        return ops.relu(y) * weights

    def walk(self, xs: Sequence[Tensor], index: Tensor, mode: Any, *options: Any) -> dict[str, Any]:
        """The walk, and what it starts with."""
        found = super().walk(xs, index, mode, *options)
        y = found["output"]
        seed = self.seed_relevance(y, select(y, index, mode)[0])
        return {**found, "start": ops.sum(ops.reshape(seed, (ops.shape(y)[0], -1)), axis=1)}

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """What did not arrive, and warnings about it and about scores that are not positive."""
        score, start = np.asarray(extras["score"]), np.asarray(extras.pop("start"))
        dead = np.flatnonzero(score <= 0)
        if len(dead):
            warnings.warn(
                f"Deep Taylor explains positive scores only: {len(dead)} samples (first: {dead[0]}) have zero maps.",
                ZeroMapWarning,
                stacklevel=5,
            )
        absorbed = extras["absorbed"] = _missing(extras["sum"], start)
        worst = int(np.argmax(np.abs(absorbed))) if len(absorbed) else 0
        if len(absorbed) and np.abs(absorbed[worst]) > 0.5:
            warnings.warn(
                f"Deep Taylor: {np.sum(np.abs(absorbed) > 0.5)} of {len(absorbed)} maps keep less than half of the "
                f"score (worst: {absorbed[worst]:.0%} is missing, sample {worst}), see extras['absorbed']. "
                f"explain(x, trace=True) shows at which nodes; try an LRP rule, e.g. 'lrp.epsilon_plus'.",
                ConservationWarning,
                stacklevel=5,
            )
        return super().finish_extras(extras)
