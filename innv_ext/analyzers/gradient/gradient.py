"""One backward walk with gradients: gradient, input times gradient, Deconvnet, Guided Backprop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from innv_ext import arguments
from innv_ext.analyzers.core.reverse import RELU_HINT, RULES_BESIDE_RELUS, ReverseAnalyzer
from innv_ext.backend import facts
from innv_ext.backend.graph import Graph
from innv_ext.backend.kinds import Kind
from innv_ext.backend.loops import everywhere
from innv_ext.backend.numerics import floating
from innv_ext.backend.predicates import hidden_relu, relu_like
from innv_ext.backend.rules import Rules
from innv_ext.errors import UnsupportedModelError

Tensor = Any
POSTPROCESS: dict[str | None, Callable[[Tensor], Tensor]] = {None: lambda g: g, "abs": ops.abs, "square": ops.square}


@dataclass(kw_only=True, eq=False, repr=False)
class Gradient(ReverseAnalyzer):
    """df_c/dx (Simonyan et al. 2014).

    For token inputs the derivative with respect to the one-hot coordinate of the token that is present.

    Parameters
    ----------
    postprocess : None, "abs" or "square"

    Examples
    --------
    >>> a = innv_ext.create_analyzer("gradient", model, postprocess="abs").analyze(x)
    """

    postprocess: str | None = arguments.one_of(*POSTPROCESS)

    opens_loops = False  # the gradient of a layer as a whole is the same

    def finish(self, attribution: Tensor, x: Tensor) -> Tensor:
        return POSTPROCESS[self.postprocess](attribution)


@dataclass(kw_only=True, eq=False, repr=False)
class InputTimesGradient(ReverseAnalyzer):
    """x * df_c/dx (Shrikumar et al. 2016); on piecewise linear nets without biases it sums to f_c."""

    opens_loops = False

    def finish(self, attribution: Tensor, x: Tensor) -> Tensor:
        """The product with the input; the one-hot coordinate of a token is 1."""
        return ops.cast(x, attribution.dtype) * attribution if floating(x) else attribution


def guided_relu(node: Any, xs: Any, ys: Any, rs: Any) -> Any:
    """relu(r) times the derivative of that ReLU: caps, thresholds and slopes are respected."""
    return node.pullback(ops.relu(rs[0]))


def deconv_relu(node: Any, xs: Any, ys: Any, rs: Any) -> Any:
    """relu(r); the forward ReLU is ignored."""
    return [ops.relu(rs[0])]


@dataclass(kw_only=True, eq=False, repr=False)
class _ReluAnalyzer(Gradient):
    relu_rule = staticmethod(guided_relu)
    hint = RELU_HINT
    opens_loops = True

    def table(self) -> Rules:
        return Rules((relu_like, type(self).relu_rule)).before(RULES_BESIDE_RELUS)

    def check_model(self, graph: Graph) -> None:
        kinds = Kind.ACTIVATION, Kind.RECURRENT, Kind.OPAQUE, Kind.SELECT
        curved = [place for place in everywhere(graph) if place[0].kind in kinds]
        if curved and not any(facts.is_relu_like(n) or hidden_relu(n, g) for n, g in curved):
            names = ", ".join(sorted({facts.activation_key(n).removeprefix("custom:") for n, _ in curved}))
            raise UnsupportedModelError(
                f"{type(self).__name__} is defined by what it does at ReLUs, but the non-linearities "
                f"of {self.model.name!r} are {names}. Use 'gradient' or 'smoothgrad'."
            )


@dataclass(kw_only=True, eq=False, repr=False)
class GuidedBackprop(_ReluAnalyzer):
    """At every ReLU only positive values go back, times the ReLU's derivative (Springenberg et al. 2015)."""


@dataclass(kw_only=True, eq=False, repr=False)
class Deconvnet(_ReluAnalyzer):
    """At every ReLU only positive values go back, the forward ReLU is ignored (Zeiler and Fergus 2014)."""

    relu_rule = staticmethod(deconv_relu)
