"""GradientSHAP, also called expected gradients: integrated gradients averaged over reference samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core.background import Background
from innv_ext.analyzers.gradient.averaged import AveragedGradient
from innv_ext.errors import InvalidInputError


@dataclass(kw_only=True, eq=False, repr=False)
class GradientShap(Background, AveragedGradient):
    """Mean of (x - ref) * gradient at ref + alpha (x - ref) + noise, over references and uniform alpha in [0, 1].

    Its expectation sums to f_c(x) - mean f_c(references) if there is no noise. Sources: Erion et al. 2021 (expected
    gradients), Lundberg and Lee 2017. Keras masks are those of x everywhere. ``extras`` has reference_score, the mean
    of f_c(references) as the model gives it, and completeness_error, how far the sum is from f_c(x) less it, as a
    share: the error of the draws, and of references of which the model masks other steps than of x.

    Parameters
    ----------
    references, background : see ``Background``; every reference is drawn equally often, up to one
    samples : draws of a reference, alpha and noise; the same for all x, so that a map doesn't depend on its batch
    noise_scale : standard deviation of the noise, in units of x

    Examples
    --------
    >>> analyzer = innv_ext.create_analyzer("gradient_shap", model, samples=200).fit(X_train)
    >>> relevance = analyzer.analyze(x)
    """

    samples: int = arguments.count(64)
    noise_scale: float = arguments.at_least(0, 0.0)

    given = "references"

    def at_layer(self, layer: str) -> AveragedGradient:
        """See ``AveragedGradient``; noise in units of x has no meaning there."""
        if self.noise_scale:
            raise InvalidInputError(
                f"layer={layer!r} needs noise_scale=0, got {self.noise_scale}: the points lie between what the layer "
                f"gives at the references and at x, and the noise is in units of x."
            )
        return super().at_layer(layer)

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng, references = np.random.default_rng(self.seed), len(self.references_[0])
        cycles = [rng.permutation(references) for _ in range(-(-self.samples // references))]
        number = np.concatenate(cycles)[: self.samples]
        return rng.random(self.samples), np.full(self.samples, 1 / self.samples), number

    def draws(self, part: slice, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        if not self.noise_scale:
            return super().draws(part, shapes)
        return [self.noise_scale * noise for noise in self.normal(part, shapes)]
