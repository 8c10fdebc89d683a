"""Second-order interpretation of the loss: CASO (Singla, Wallace, Feng and Feizi 2019), and input Hessians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from innv_ext import arguments, optim
from innv_ext.analyzers.core import subject
from innv_ext.analyzers.loss.cafo import CAFO
from innv_ext.analyzers.loss.curvature import Curvature, Loss, gauss_newton_product, hessian_product
from innv_ext.analyzers.loss.objective import FirstOrder, SecondOrder, factor_eigenvectors, factored
from innv_ext.backend import facts
from innv_ext.backend.graph import Graph, op_key
from innv_ext.backend.twice import check_second_derivatives, twice_differentiable
from innv_ext.errors import InvalidInputError, UnsupportedModelError
from innv_ext.optim.lanczos import Product

CLOSED_FORM_CLASSES = 100  # up to which the factor of the Hessian is worth its one backward pass per class
CLOSED_FORM_ENTRIES = 2**27  # of one sample's factor: 1 GiB in float64


@dataclass(kw_only=True, eq=False, repr=False)
class CASO(CAFO):
    """The step D that raises the loss most among sparse, short ones, to second order.

    maximise over D: g.D + D.H D / 2 - lambda1 |D|_1 - lambda2 |D|_2^2 with the Hessian H of the cross-entropy at x
    (equation 5 of the paper), by FISTA from D = 0. H itself is never formed. For lambda2 > L / 2, L the largest
    eigenvalue of H, the problem is strongly concave (Theorem 3).

    Parameters
    ----------
    lambda1, lambda2, c1, augment_by_n, noise_scale : see ``CAFO``
    hessian : "hvp": Hessian-vector products; "closed_form": an exact factor of H from one backward pass per class, for
        piecewise linear networks; "auto": the closed form where it applies and classes are few
    power_iterations : Hessian-vector products for L, by the Lanczos method, which gets closer than power iteration with
        as many; the closed form gives L exactly
    max_iter : products per solve and lambda1 (the paper uses 10)
    tol : relative KKT residual at which a solve stops

    Examples
    --------
    >>> found = innv_ext.create_analyzer("caso", model).explain(x)
    >>> found.attribution, found.extras["lambda1"], found.extras["sparsity"]
    """

    hessian: str = arguments.one_of("auto", "hvp", "closed_form")
    power_iterations: int = arguments.count(10)
    max_iter: int = arguments.count(100)
    tol: float = arguments.at_least(0, 1e-4)

    def prepare(self) -> None:
        """Forms of the nodes whose second derivatives are right."""
        self.graph_ = twice_differentiable(self.graph_)
        self._twice_checked = False

    def check_model(self, graph: Graph) -> None:
        """The closed form needs a piecewise linear network."""
        super().check_model(graph)
        curved = facts.curved_nodes(graph)
        if self.hessian == "closed_form" and curved:
            names = ", ".join(f"{n.name} ({op_key(n.op)})" for n in curved[:5])
            raise UnsupportedModelError(
                f"hessian='closed_form' holds for piecewise linear networks only, but {names} is not piecewise "
                f"linear. Use hessian='hvp'."
            )
        self.piecewise_linear_ = not curved

    def problem(self, curvature: Curvature, g: np.ndarray) -> FirstOrder:
        """The factor of H, or its products, with the extreme eigenvalues."""
        if self._factored(curvature):
            factor = curvature.factor()
            factor[~np.isfinite(factor).all(axis=(1, 2))] = 0  # a sample that is reported as failed
            product, values = factored(factor)
            largest, smallest = values.max(axis=1, initial=0), np.zeros(len(g))
        else:
            product = self._products(curvature)
            largest = self._extreme(product, g, False)
            convex = self.piecewise_linear_ and curvature.loss.crosses
            smallest = np.zeros(len(g)) if convex else -self._extreme(product, g, True)
        lambda2 = largest / 2 + self.c1 if self.lambda2 is None else np.full(len(g), float(self.lambda2))
        low = np.flatnonzero(lambda2 <= largest / 2)
        if len(low):
            i = int(low[0])
            raise InvalidInputError(
                f"lambda2={self.lambda2} must exceed L/2 = {largest[i] / 2:.6g}, half the largest eigenvalue of the "
                f"Hessian (sample {i} of its batch): below, the problem has no maximum. lambda2=None sets L/2 + c1."
            )
        name = self.registered_name_ or type(self).__name__
        return SecondOrder(g, lambda2, largest, product, smallest, self.max_iter, self.tol, self.progress, name)

    def model_gradient(self, xs: list[Any], target: Any, step: Any, loss: Loss) -> Any:
        """g + H step; H as the analyzer has it: of piecewise linear networks without the curvature of their kinks."""
        flat_nets = self.piecewise_linear_ and loss.crosses
        product = gauss_newton_product if flat_nets else hessian_product
        return super().model_gradient(xs, target, step, loss) + product(xs, target, step, loss)

    def _extreme(self, product: Product, g: np.ndarray, smallest: bool) -> np.ndarray:
        """How far the spectrum of H reaches above 0, or below."""
        found = optim.largest_eigenvalue(product, g, iterations=self.power_iterations, smallest=smallest).values
        return np.nan_to_num(np.maximum(-found if smallest else found, 0))

    def _factored(self, curvature: Curvature) -> bool:
        """Whether H is taken from its factor: of the cross-entropy of a piecewise linear network with few classes."""
        possible = self.piecewise_linear_ and curvature.loss.crosses
        if self.hessian == "closed_form" and not possible:
            raise InvalidInputError("hessian='closed_form' is of the cross-entropy; use 'hvp' for other scores.")
        classes = 2 if self._binary else (self.graph_.specs[self.graph_.outputs[0]].shape[-1] or 0)
        entries = curvature.copies * classes * curvature.loss.features.count
        few = classes <= CLOSED_FORM_CLASSES and entries <= CLOSED_FORM_ENTRIES
        return possible and (self.hessian == "closed_form" or (self.hessian == "auto" and few))

    def _products(self, curvature: Curvature) -> Product:
        if not self._twice_checked:
            check_second_derivatives(self.graph_, [x[:1] for x in curvature.xs])
            self._twice_checked = True
        return curvature.product


def input_hessian_eigs(
    model: keras.Model,
    x: Any,
    k: int = 1,
    neuron_selection: Any = None,
    *,
    hessian: str = "auto",
    iterations: int | None = None,
    batch_size: int = 32,
) -> tuple[np.ndarray, Any]:
    """The k largest eigenvalues of the input Hessian of the cross-entropy, with their eigenvectors.

    Parameters
    ----------
    model : as for ``CASO``
    x : array (batch, ...), or a list or dict of arrays
    k : number of eigenvalues
    neuron_selection : the class; default: the largest output
    hessian : see ``CASO``; "closed_form" is exact, "hvp" uses the Lanczos method
    iterations : Hessian-vector products of "hvp"; default: 2 k + 20
    batch_size : most forward samples at once

    Returns
    -------
    values (batch, k), the largest first; unit vectors (batch, k, ...) in the shape of x (one array per input for
    several). Beyond the rank of a closed form (classes - 1) the values are 0 and so are the vectors.

    Raises
    ------
    InvalidInputError, UnsupportedModelError : as ``CASO``

    Examples
    --------
    >>> values, vectors = innv_ext.input_hessian_eigs(model, x, k=3)
    """
    analyzer = _Eigenvectors(model, hessian=hessian, batch_size=batch_size, k=k, iterations=iterations)
    found = analyzer.explain(x, neuron_selection).extras
    return found["eigenvalues"], subject.pack_like(x, found["vectors"], analyzer.input_structure_)


@dataclass(kw_only=True, eq=False, repr=False)
class _Eigenvectors(CASO):
    """Eigenvalues and eigenvectors of H instead of D."""

    k: int = arguments.count(1)
    iterations: int | None = arguments.count(None)

    def explain_batch(self, xs: list[np.ndarray], index: np.ndarray, size: int, **options: Any) -> dict[str, Any]:
        """The largest eigenvalues of each sample's H."""
        curvature, start = self.curvature(xs, index, size, options["mode"])
        features = curvature.loss.features
        if self.k > features.count:
            raise InvalidInputError(f"k={self.k} exceeds the number of input components, {features.count}.")
        if self._factored(curvature):
            values, vectors = factor_eigenvectors(np.nan_to_num(curvature.factor()), self.k)
        else:
            g, product = curvature.gradient(), self._products(curvature)
            found = optim.largest_eigenvalues(product, g, self.k, iterations=self.iterations)
            values, vectors = found.values, found.vectors
        maps = features.maps(vectors.astype(curvature.dtype))
        return {**start, "attributions": [m[:, 0] for m in maps], "eigenvalues": values, "vectors": maps}
