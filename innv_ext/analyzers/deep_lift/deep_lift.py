"""DeepLIFT: differences from a reference, walked backwards by multipliers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from keras import ops, tree

from innv_ext import arguments
from innv_ext.analyzers.core.background import completed, per_input
from innv_ext.analyzers.core.program import GraphAnalyzer, select
from innv_ext.analyzers.deep_lift.differences import Differences, PartedDifferences, needs_rows, spread
from innv_ext.analyzers.deep_lift.loops import bound_all
from innv_ext.analyzers.deep_lift.rescale import mean_pullback, rescale_rules
from innv_ext.analyzers.deep_lift.reveal_cancel import Total
from innv_ext.analyzers.deep_lift.switching import bound
from innv_ext.backend import masking, numerics, walk
from innv_ext.backend.numerics import widen
from innv_ext.backend.rules import Rules
from innv_ext.errors import ApproximationWarning, InvalidInputError

Tensor = Any


@dataclass(kw_only=True, eq=False, repr=False)
class ReferenceDifference(GraphAnalyzer):
    """Base of DeepLIFT and DeepSHAP: contributions multiplier * (x - x0) that sum to f_c(x) - f_c(x0).

    Parameters
    ----------
    rule : at elementwise non-linearities "rescale", or "reveal_cancel", which shows inputs whose effects cancel
    steps : quadrature points at nodes without a closed form (softmax inside, attention; for RevealCancel recurrent
        layers); take more where ``extras["completeness_error"]`` is too large
    rules : ``Rules`` that go before the built-in ones, called with ``(node, xs, x0s, ys, y0s, rs)``: the node's inputs
        and outputs at x and at the reference, and the outputs' multipliers; they return one multiplier per input
    """

    rule: str = arguments.one_of("rescale", "reveal_cancel")
    steps: int = arguments.count(16)
    rules: Rules | None = arguments.optional(Rules)

    batchnorm_form = "fold"
    through_steps = True
    behind_embeddings = True
    given = "references"  # the argument that says with what x is compared

    @property
    def opens_loops(self) -> bool:
        """RevealCancel takes recurrent layers as a whole, by quadrature."""
        return self.rule == "rescale"

    # --- building ------------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """One rule per node; under RevealCancel users' rules see whole differences."""
        own, parts = self.rules or Rules(), self.rule == "reveal_cancel"
        own.warn_unused(self.graph_, self.model.name)
        found = own.before(rescale_rules(self.steps)).bind(self.graph_)
        if not parts:
            self.rules_ = bound_all(self.graph_, found, own)
            return
        self.rules_ = tuple(
            Total(rule) if own.match(node, self.graph_) else bound(node, self.graph_, rule, parts)
            for node, rule in zip(self.graph_.nodes, found, strict=True)
        )

    # --- the walk ------------------------------------------------------------------------------------------------

    def walk(
        self,
        xs: Sequence[Tensor],
        features: Sequence[Tensor],
        bases: Sequence[Tensor],
        index: Tensor,
        mode: Any,
        layers: Sequence[str] = (),
        trace: bool = False,
    ) -> dict[str, Any]:
        """Contributions of features (``xs`` behind embeddings) against those of as many references, or of one."""
        graph = self.graph_
        env = walk.forward(graph, features)
        slots0 = masking.values(graph, bases)
        y, y0 = widen(env.slots[graph.outputs[0]]), widen(slots0[graph.outputs[0]])
        weights, score, start, target = self._scores(y, y0, index, mode)
        if self.rule == "rescale":
            differences = Differences(env, slots0, self.rules_)
        else:
            differences = PartedDifferences(env, slots0, self.rules_, graph.inputs)
        sums: dict[str, Tensor] = {}
        after_node = partial(differences.left, graph, score - start, sums) if trace else None
        found = walk.backward(graph, env, {graph.outputs[0]: differences.seed(weights)}, differences.rules, after_node)

        def contribution(slot: int) -> Tensor:
            reached = slot in found
            return differences.contribution(slot, found[slot]) if reached else ops.zeros_like(widen(env.slots[slot]))

        result: dict[str, Any] = {
            "attributions": per_input(self.head_, graph.inputs, [contribution(s) for s in graph.inputs], xs),
            "output": y,
            "target": target,
            "score": score,
            "reference_score": start,
        }
        if layers:
            result["layers"] = {name: contribution(graph.layer_slots[name]) for name in layers}
        return {**result, "conservation": sums} if trace else result

    def _scores(self, y: Tensor, y0: Tensor, index: Tensor, mode: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(multiplier of the output, score at x, score of the same neuron at the reference, flat index)."""
        weights, score, target = select(y, index, mode)
        if callable(mode):
            weights = mean_pullback(mode, [y], [y0], [ops.ones_like(score)], self.steps)[0]
            start = select(y0, index, mode)[1] + ops.zeros_like(score)
        else:
            start = ops.sum(ops.reshape(weights * y0, (ops.shape(score)[0], -1)), axis=1)
        return weights, score, start, target

    def finish_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        """How far sums are off, with a warning where it is more than a twentieth."""
        found = completed(extras, self.given, needed=True)
        far = np.flatnonzero(found["completeness_error"] > 0.05)
        if len(far) and self.rules is None:
            worst = far[np.argmax(found["completeness_error"][far])]
            warnings.warn(
                f"DeepLIFT: {len(far)} of {len(found['sum'])} maps do not sum to the difference from the reference "
                f"(sample {worst} by {found['completeness_error'][worst]:.0%} of it). Take more steps=, or other "
                f"{self.given}=: with the padding of x where attention has masks, not zero where a norm divides.",
                ApproximationWarning,
                stacklevel=5,
            )
        return found

    def summary(self) -> str:
        return "\n".join([self.head(), *Rules().describe(self.graph_, self.rules_)])


@dataclass(kw_only=True, eq=False, repr=False)
class DeepLift(ReferenceDifference):
    """Contributions of the difference from one reference (Shrikumar et al. 2017); sums to f_c(x) - f_c(x0).

    The neuron c is selected at x. Rescale follows the paper at elementwise non-linearities, max pooling and products;
    other nodes take their gradient averaged between reference and x. Integer inputs that are no tokens are those of x
    at the reference too. The reference has the Keras masks of its own values: steps that only one of the two masks take
    what the output changes when they are switched on or off, one after another from the first and from the last. Of
    batch normalisation, convolutions and other affine nodes only the weights matter.

    Parameters
    ----------
    rule, steps, rules : see ``ReferenceDifference``
    reference_inputs : x0: a number, or an array that broadcasts to one sample (a list or dict for several inputs); for
        token inputs a token number; None: the mean of the data, by ``fit(X)``

    Examples
    --------
    >>> a = innv_ext.create_analyzer("deep_lift", model, rule="reveal_cancel", reference_inputs=0.5)
    >>> found = a.explain(x)
    >>> found.extras["reference_score"], found.extras["completeness_error"]
    """

    reference_inputs: Any = 0

    given = "reference_inputs"
    learns, fit_instead = "the mean of the data, with which it compares x", "pass reference_inputs="

    def bind(self) -> None:
        """Check the reference where the shape of a sample is known."""
        super().bind()
        specs = self.input_specs()
        if self.must_fit() and (self.head_.nodes or not all(numerics.is_float(s.dtype) for s in specs)):
            raise InvalidInputError(
                "reference_inputs=None stands for the mean of the data, which tokens do not have; pass the number of a "
                "token, e.g. that of padding."
            )
        if not self.must_fit() and all(None not in spec.shape[1:] for spec in specs):
            self.reference([spec.shape[1:] for spec in specs])

    def fit(self, X: Any, *, batch_size: int | None = None) -> DeepLift:
        """Take the mean of the data as reference, if ``reference_inputs`` is None.

        Parameters
        ----------
        X : arrays like the model's inputs, a keras PyDataset, a tf.data.Dataset, or any iterable of batches

        Raises
        ------
        InvalidInputError
            for data that don't fit the model, hold NaN, or are empty; nothing is changed then
        """
        if not self.must_fit():
            return self
        count, means = 0, []
        for arrays in self.training_batches(X, batch_size):
            count += len(arrays[0])
            means = means or [np.zeros(a.shape[1:]) for a in arrays]
            if any(m.shape != a.shape[1:] for m, a in zip(means, arrays, strict=True)):
                raise InvalidInputError("The mean of the data needs samples of one shape; resize them.")
            means = [m + (a - m).sum(axis=0) / count for m, a in zip(means, arrays, strict=True)]
        self.set_state({f"mean{i}": mean for i, mean in enumerate(means)})
        return self

    def must_fit(self) -> bool:
        return self.reference_inputs is None

    def reference(self, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """x0 as one sample (1, ...) per input."""
        specs = self.input_specs()
        values = self.learnt_list("mean") if self.must_fit() else self.per_input(self.reference_inputs)
        found = []
        for value, shape, spec in zip(values, shapes, specs, strict=True):
            array = arguments.one_sample("reference_inputs", value, shape)
            if not numerics.is_float(spec.dtype) and (array != np.round(array)).any():
                raise InvalidInputError("reference_inputs must be whole numbers for token inputs, got fractions.")
            found.append(array.astype(spec.dtype)[None])
        return found

    def layer_names(self) -> tuple[str, ...]:
        slots = {s for n in self.graph_.nodes for s in n.outputs}
        return tuple(name for name, slot in self.graph_.layer_slots.items() if slot in slots)

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        self.check_once(xs)
        extra = [((1, *spec.shape[1:]), spec.dtype) for spec in self.input_specs()]
        run = self.compiled(self._one_reference, options, extra)
        return tree.map_structure(np.asarray, run(*xs, index, *self.reference([x.shape[1:] for x in xs])))

    def _one_reference(self, xs: list[Tensor], index: Tensor, *references: Tensor, **options: Any) -> dict[str, Any]:
        features, bases = map(self.embedded, (xs, references))
        if needs_rows(self.head_, self.graph_):
            bases = spread(self.head_, self.graph_, bases, features)
        return self.walk(xs, features, bases, index, **options)
