"""Cost of CAFO, CASO and MoreauGrad in gradients, and iterations to a tolerance.

    python benchmarks/second_order.py [--data mnist10k.npz] [--parts hvp caso moreau iterations]
        [--out out/second_order.md]

Costs are ratios to a plain compiled gradient of the same model at the same batch: medians of warm calls that take
turns in one process, so that a busy machine slows both. Writes markdown tables. The network is the one of
benchmarks/rde.py (trained once, kept in --model), and VGG16 with random weights for Hessian-vector products; a small
softplus network (kept in --softplus) for the iterations of MoreauGrad.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from common import HEADER, environment, median_seconds, mnist, plain_gradient, ratio, write_parts
from rde import network, two_per_class

import innv_ext
from innv_ext import analyzers, optim
from innv_ext.analyzers.loss.curvature import Curvature, hessian_product
from innv_ext.analyzers.loss.objective import SecondOrder

HVP, AUTO, STEP = 2.0, 1.5, 1.15  # required ratios at most
ITERATIONS, STEPS = 10, 20  # per solve of CASO (the paper's), per map of MoreauGrad
MOST, MOST_STEPS = 2000, 200  # iterations of CASO, evaluations of MoreauGrad until a tolerance counts as missed
LEAST = 2  # calls at least, however slow


def curvature_of(analyzer: analyzers.CASO, x: np.ndarray) -> Curvature:
    """Loss and Hessian of the predicted classes at ``x``."""
    target = analyzer.at_x([x], np.full(len(x), -1, "int32"), "index")["target"]
    return analyzer.curvature([x], target, len(x), "index")


# --- Hessian-vector products -------------------------------------------------------------------------------------


def forward_over_reverse(curvature: Curvature) -> Callable[[np.ndarray], np.ndarray]:
    """The derivative of the gradient along v by forward differentiation, compiled."""
    x, loss = curvature.xs[0], curvature.loss

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *x.shape[1:]), "float32"),
            tf.TensorSpec((None,), "int32"),
            tf.TensorSpec((None, *x.shape[1:]), "float32"),
        ]
    )
    def product(points: tf.Tensor, target: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        with tf.autodiff.ForwardAccumulator(points, v) as forward:
            (gradient,) = loss.gradient(points, target=target)
        return forward.jvp(gradient)

    return lambda v: product(x, curvature.target, v.reshape(x.shape)).numpy().reshape(v.shape)


def products(title: str, model: keras.Model, x: np.ndarray, calls: int) -> list[str]:
    """H v in three ways."""
    curvature = curvature_of(analyzers.CASO(model, hessian="hvp", progress=False), x)
    v = np.random.default_rng(0).standard_normal((len(x), x[0].size)).astype("float32")
    compiled = curvature.compiled(hessian_product, {"loss": curvature.loss}, [((None, v.shape[1]), "float32")])
    everything, plain, forward = np.arange(len(x)), plain_gradient(model), forward_over_reverse(curvature)
    reference = curvature.product(v, everything)
    error = np.abs(forward(v) - reference).max() / np.abs(reference).max()
    assert error < 1e-3, f"forward-over-reverse differs from H v by {error:.2g}"
    gradient, double, whole, other = median_seconds(
        lambda: plain(x),
        lambda: np.asarray(compiled(x, curvature.target, v)),
        lambda: curvature.product(v, everything),
        lambda: forward(v),
        calls=calls,
    )
    name = f"{title}, batch {len(x)}"
    return [
        ratio(f"H v by double backward, compiled / gradient, {name}", double, gradient, HVP),
        ratio(f"the same with sums in float64, as CASO calls it / gradient, {name}", whole, gradient, None),
        ratio(f"H v by forward over reverse, compiled / gradient, {name}", other, gradient, None),
    ]


def hvp(args: argparse.Namespace, model: keras.Model, x: np.ndarray) -> str:
    """Products of VGG16 and of the MNIST network."""
    large = keras.applications.VGG16(weights=None, input_shape=(64, 64, 3))
    images = np.random.default_rng(0).uniform(-1, 1, (8, 64, 64, 3)).astype("float32")
    rows = products("VGG16 at 64 x 64", large, images, max(args.calls // 3, LEAST))
    for batch in (8, 32):
        rows += products("MNIST network", model, x[:batch], args.calls)
    return "\n".join(["\n### Hessian-vector products\n", HEADER, *rows])


# --- lambda1="auto" ----------------------------------------------------------------------------------------------


def doubtful(model: keras.Model, data: mnist.Digits, count: int) -> np.ndarray:
    """The test images of lowest confidence, where the Hessian is largest."""
    return data.x_test[np.argsort(model.predict(data.x_test, verbose=0).max(axis=1), kind="stable")[:count]]


def by_search(model: keras.Model, x: np.ndarray, settings: dict[str, Any]) -> list[np.ndarray]:
    """Eight images each whose lambda1 is one of the candidates 1e-5, 1e-4, ..., and that need the bisection."""
    chosen = np.log10(analyzers.CASO(model, progress=False, **settings).explain(x).extras["lambda1"])
    candidate = np.isclose(chosen, np.round(chosen))
    return [x[found][:8] for found in (candidate, ~candidate)]


def caso(args: argparse.Namespace, model: keras.Model, data: mnist.Digits) -> str:
    """All candidates of lambda1 together against one of them: for as many iterations, and with the usual settings."""
    rows, calls, plain = [], max(args.calls // 2, LEAST), plain_gradient(model)
    equal = {"max_iter": ITERATIONS, "tol": 0.0, "c1": 0.01}  # badly conditioned: nothing converges before
    grid, bisected = by_search(model, doubtful(model, data, 60), equal)
    for images, x, settings, limit in (
        (f"{ITERATIONS} iterations each", grid, equal, AUTO),
        (f"{ITERATIONS} iterations each, images that need the bisection", bisected, equal, None),
        ("default c1 and tol", two_per_class(data, 10)[:8], {}, None),
    ):
        for hessian, name in (("auto", "closed form"), ("hvp", "products")):
            auto = analyzers.CASO(model, hessian=hessian, progress=False, **settings)
            found = auto.explain(x).extras
            weight = float(found["lambda1"].min())
            fixed = analyzers.CASO(model, hessian=hessian, progress=False, lambda1=weight, **settings)
            counts = [e["iterations"].mean() for e in (found, fixed.explain(x).extras)]
            # a sparse step may be exact to the last digit before
            assert not settings or abs(counts[0] - counts[1]) <= 0.2 * ITERATIONS, f"unequal iterations: {counts}"
            gradient, one, many = median_seconds(
                lambda x=x: plain(x), lambda f=fixed, x=x: f.explain(x), lambda a=auto, x=x: a.explain(x), calls=calls
            )
            most = limit if name == "closed form" else None  # products cannot be shared between values of lambda1
            rows.append(ratio(f'explain, lambda1="auto" / lambda1 fixed, {name}, {images}', many, one, most))
            rows.append(ratio(f"explain, lambda1 fixed / gradient, {name}, {images}", one, gradient, None))
    note = "\nBatch 8; the fixed value is the smallest of those that were chosen.\n"
    return "\n".join(['\n### CASO: lambda1="auto" against a fixed value', note, HEADER, *rows])


# --- MoreauGrad --------------------------------------------------------------------------------------------------


class Captured(analyzers.MoreauGrad):
    """Keeps the objective of the last batch and counts the gradients that it computes."""

    evaluations = 0

    def _objective(self, *args: Any) -> Callable[..., Any]:
        objective = super()._objective(*args)

        def counted(step: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.evaluations += len(step)
            return objective(step, problems)

        self.captured = counted
        return counted


def moreau(args: argparse.Namespace, model: keras.Model, x: np.ndarray) -> str:
    """The time of explain over the gradients that it takes."""
    rows, plain = [], plain_gradient(model)
    for accelerate, limit in ((False, STEP), (True, None)):
        analyzer = Captured(model, rho=0.1, steps=STEPS, tol=0.0, accelerate=accelerate, progress=False)
        for batch in (8, 32):
            part = x[:batch]
            analyzer.evaluations = 0
            analyzer.explain(part)
            count = analyzer.evaluations / batch
            one, whole = median_seconds(
                lambda part=part: plain(part), lambda a=analyzer, part=part: a.explain(part), calls=args.calls
            )
            way = "accelerated" if accelerate else "Algorithm 1"
            what = f"explain / {count:g} evaluations / gradient, {way}, batch {batch}"
            rows.append(ratio(what, whole / count, one, limit))
    return "\n".join(["\n### MoreauGrad: one evaluation against one gradient\n", HEADER, *rows])


# --- iterations to a tolerance -----------------------------------------------------------------------------------


class Watch:
    """A callback that notes when the residual of each problem first is at most each tolerance."""

    def __init__(self, tolerances: tuple[float, ...], count: int) -> None:
        self.tolerances = tolerances
        self.iterations, self.evaluations = np.full((2, len(tolerances), count), np.inf)

    def __call__(self, state: optim.State) -> None:
        for i, tol in enumerate(self.tolerances):
            new = (state.gap <= tol) & np.isinf(self.iterations[i])
            self.iterations[i][new] = state.iterations[new]
            self.evaluations[i][new] = state.evaluations[new]


def cells(counts: np.ndarray, most: int) -> str:
    """Medians over the problems per tolerance, and how many missed it."""
    texts = []
    for found in counts:
        middle, missed = statistics.median(found), np.isinf(found).sum()
        text = f"{middle:.0f}" if np.isfinite(middle) else f"> {most}"
        texts.append(text + (f" ({missed} missed)" if missed else ""))
    return " | ".join(texts)


def caso_iterations(model: keras.Model, x: np.ndarray) -> list[str]:
    """FISTA and proximal gradient on the problems of CASO, lambda1 a tenth of the largest |g|."""
    tolerances = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    lines = [
        f"\n### CASO: median iterations to the relative KKT residual, {len(x)} images of low confidence\n",
        "| c1 | condition | solver | " + " | ".join(f"{t:g}" for t in tolerances) + " |",
        "|---|---|---|" + "---|" * len(tolerances),
    ]
    for c1 in (10.0, 1.0, 0.1, 0.01):
        curvature = curvature_of(analyzers.CASO(model, c1=c1, progress=False), x)
        analyzer = analyzers.CASO(model, c1=c1, progress=False)
        g = curvature.gradient()
        problem = analyzer.problem(curvature, g)
        assert isinstance(problem, SecondOrder)
        top = 2 * problem.lambda2 - problem.smallest
        condition = statistics.median(top / (2 * problem.lambda2 - problem.largest))
        penalty, length = optim.L1(tuple(np.abs(g).max(axis=1) / 10)), tuple(1 / top)

        def objective(d: np.ndarray, rows: np.ndarray, p: SecondOrder = problem) -> tuple[np.ndarray, np.ndarray]:
            hd, slope = p.product(d, rows), 2 * p.lambda2[rows][:, None] * d
            return np.sum(d * (slope - hd) / 2 - d * p.g[rows], axis=1), slope - hd - p.g[rows]

        for name, solver in (
            ("FISTA", optim.Fista(penalty, length=length, quadratic=True)),
            ("FISTA without restart", optim.Fista(penalty, length=length, quadratic=True, restart=False)),
            ("proximal gradient", optim.ProximalGradient(penalty, length=length)),
        ):
            watch = Watch(tolerances, len(x))
            optim.run(solver, objective, np.zeros_like(g), max_iter=MOST, tol=min(tolerances), callback=watch)
            lines.append(f"| {c1:g} | {condition:.3g} | {name} | {cells(watch.iterations, MOST)} |")
    return lines


def moreau_iterations(model: keras.Model, x: np.ndarray) -> list[str]:
    """Evaluations of FISTA, proximal gradient with backtracking and Algorithm 1's steps on a softplus network."""
    tolerances = (1e-1, 1e-2, 1e-3, 1e-4)
    lines = [
        f"\n### MoreauGrad: median evaluations to the relative KKT residual, softplus network, {len(x)} images\n",
        "| rho | solver | " + " | ".join(f"{t:g}" for t in tolerances) + " |",
        "|---|---|" + "---|" * len(tolerances),
    ]
    for rho in (0.01, 0.03, 0.1, 0.3, 1.0):
        analyzer = Captured(model, rho=rho, steps=1, progress=False)
        analyzer.explain(x)
        zero = optim.Zero()
        for name, solver in (
            ("FISTA (accelerate=True)", optim.Fista(zero, length=rho)),
            ("proximal gradient with backtracking", optim.ProximalGradient(zero, length=rho)),
            ("Algorithm 1, steps of 0.1 rho", optim.ProximalGradient(zero, length=0.1 * rho, backtracking=False)),
        ):
            watch = Watch(tolerances, len(x))
            start = np.zeros((len(x), x[0].size), "float32")
            optim.run(solver, analyzer.captured, start, max_iter=MOST_STEPS, tol=min(tolerances), callback=watch)
            lines.append(f"| {rho:g} | {name} | {cells(watch.evaluations, MOST_STEPS)} |")
    return lines


def softplus(data: mnist.Digits, path: Path) -> keras.Model:
    """The network of examples/moreau_sparsity.py, from an earlier run if there was one."""
    from moreau_sparsity import train  # on the path since ``rde`` was imported

    if path.exists():
        return keras.models.load_model(path)
    model = train(data, 300)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def iterations(args: argparse.Namespace, model: keras.Model, data: mnist.Digits) -> str:
    """Both tables."""
    lines = caso_iterations(model, doubtful(model, data, args.images))
    return "\n".join(lines + moreau_iterations(softplus(data, args.softplus), two_per_class(data, 10)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="MNIST as .npz with x and y; scikit-learn's digits without it")
    parser.add_argument("--model", type=Path, default=Path("out/rde_benchmark.keras"))
    parser.add_argument("--softplus", type=Path, default=Path("out/second_order_softplus.keras"))
    parser.add_argument("--calls", type=int, default=30, help="of each function that is timed")
    parser.add_argument("--images", type=int, default=20, help="for the iterations of CASO")
    parser.add_argument("--parts", nargs="+", default=["hvp", "caso", "moreau", "iterations"])
    parser.add_argument("--out", type=Path, default=Path("out/second_order.md"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", innv_ext.errors.ConvergenceWarning)  # searches are cut short to be timed
    data = mnist.load(args.data)
    model, x = network(data, args.model), two_per_class(data, 40)
    which = f"MNIST network: that of benchmarks/rde.py on {data.name}"
    head = f"{environment()}; {which}; medians of calls that take turns."
    parts = {
        "hvp": lambda: hvp(args, model, x),
        "caso": lambda: caso(args, model, data),
        "moreau": lambda: moreau(args, model, x),
        "iterations": lambda: iterations(args, model, data),
    }
    write_parts(head, parts, args.parts, args.out)


if __name__ == "__main__":
    main()
