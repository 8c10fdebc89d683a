"""Second-order interpretation of the loss: CASO (Singla, Wallace, Feng and Feizi 2019), and input Hessians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from innv_ext import arguments
from innv_ext.analyzers.core import request
from innv_ext.analyzers.loss.cafo import CAFO
from innv_ext.analyzers.loss.curvature import Curvature, Loss, gauss_newton_product, hessian_product
from innv_ext.analyzers.loss.objective import Factored, FirstOrder, Products, SecondOrder
from innv_ext.backend import facts
from innv_ext.backend.graph import Graph, op_key
from innv_ext.backend.rewrites.twice import check_second_derivatives, twice_differentiable
from innv_ext.errors import InvalidInputError, UnsupportedModelError

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
        h = self.hessian_of(curvature)
        largest, smallest = h.bounds(g, self.power_iterations)
        lambda2 = self.quadratic(largest)
        low = np.flatnonzero(lambda2 <= largest / 2)
        if len(low):
            i = int(low[0])
            raise InvalidInputError(
                f"lambda2={self.lambda2} must exceed L/2 = {largest[i] / 2:.6g}, half the largest eigenvalue of the "
                f"Hessian (sample {i} of its batch): below, the problem has no maximum. lambda2=None sets L/2 + c1."
            )
        name = self.registered_name_ or type(self).__name__
        options = {"max_iter": self.max_iter, "tol": self.tol, "progress": self.progress, "description": name}
        return SecondOrder(g, lambda2, largest, h.product, smallest, options)

    def hessian_of(self, curvature: Curvature) -> Factored | Products:
        """By its factor, where it has one (of the cross-entropy, piecewise linear networks) and classes are few."""
        possible = self.piecewise_linear_ and curvature.loss.crosses
        if self.hessian == "closed_form" and not possible:
            raise InvalidInputError("hessian='closed_form' is of the cross-entropy; use 'hvp' for other scores.")
        classes = 2 if self._binary else (self.graph_.specs[self.graph_.outputs[0]].shape[-1] or 0)
        entries = curvature.copies * classes * curvature.loss.features.count
        few = classes <= CLOSED_FORM_CLASSES and entries <= CLOSED_FORM_ENTRIES
        if possible and (self.hessian == "closed_form" or (self.hessian == "auto" and few)):
            factor = curvature.factor()
            factor[~np.isfinite(factor).all(axis=(1, 2))] = 0  # a sample that is reported as failed
            return Factored(factor)
        if not self._twice_checked:
            check_second_derivatives(self.graph_, [x[:1] for x in curvature.xs])
            self._twice_checked = True
        return Products(curvature.product, convex=possible)

    def model_gradient(self, xs: list[Any], target: Any, step: Any, loss: Loss) -> Any:
        """g + H step; H as the analyzer has it: of piecewise linear networks without the curvature of their kinks."""
        flat_nets = self.piecewise_linear_ and loss.crosses
        product = gauss_newton_product if flat_nets else hessian_product
        return super().model_gradient(xs, target, step, loss) + product(xs, target, step, loss)


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
    return found["eigenvalues"], request.pack_like(x, found["vectors"], analyzer.input_structure_)


@dataclass(kw_only=True, eq=False, repr=False)
class _Eigenvectors(CASO):
    """Eigenvalues and eigenvectors of H instead of D."""

    k: int = arguments.count(1)
    iterations: int | None = arguments.count(None)

    def attribute(self, xs: list[np.ndarray], start: dict[str, np.ndarray], size: int, mode: Any) -> dict[str, Any]:
        curvature = self.curvature(xs, self.single(start), size, mode)
        features = curvature.loss.features
        if self.k > features.count:
            raise InvalidInputError(f"k={self.k} exceeds the number of input components, {features.count}.")
        values, vectors = self.hessian_of(curvature).eigenpairs(curvature.gradient(), self.k, self.iterations)
        maps = features.maps(vectors.astype(curvature.dtype))
        return {"attributions": [m[:, 0] for m in maps], "eigenvalues": values, "vectors": maps}
