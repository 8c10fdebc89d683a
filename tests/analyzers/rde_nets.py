"""Nets, references and reference solutions that the tests of Rate-Distortion Explanations share."""

import keras
import numpy as np
import zoo
from keras import layers
from scipy import optimize, special

import innv_ext
from innv_ext.analyzers.rde.rate_distortion import RateDistortion


class Evaluate(RateDistortion):
    """Solves nothing; ``seen_`` is the distortion that a solver would be given."""

    def solve(self, distortion):
        self.seen_ = distortion
        maps = np.zeros((len(distortion.index), distortion.context.features.count), distortion.xs[0].dtype)
        return {"attributions": distortion.context.features.maps(maps)}


def distortion_of(model, x, fit=None, neuron=None, **params):
    """The distortion of all samples of x, which must fit into one batch."""
    analyzer = Evaluate(model, **{"batch_size": 256, "progress": False, **params})
    analyzer = analyzer if fit is None else analyzer.fit(fit)
    analyzer.explain(x, neuron)
    return analyzer.seen_


def at(distortion, s, rows=None, streams=None):
    """(D, dD/ds) at points s (q, n), by default one of each sample and all of stream 0."""
    rows = np.arange(len(s)) if rows is None else np.broadcast_to(rows, len(s))
    return distortion(s, rows, np.zeros(len(s), int) if streams is None else streams)


def linear(n=6, outputs=1, seed=0, dtype="float64"):
    """A model score = x w + b without small weights, (model, w (n, outputs), b)."""
    rng = np.random.default_rng(seed)
    with zoo.precision(dtype):
        model = keras.Sequential([keras.Input((n,)), layers.Dense(outputs)])
    weights = rng.uniform(0.5, 1.5, (n, outputs)) * rng.choice([-1, 1], (n, outputs)), rng.normal(size=outputs)
    model.set_weights(weights)
    return model, *weights


def relu_net(n=5, hidden=(7,), outputs=3, seed=0):
    """Dense layers with ReLUs in float64."""
    with zoo.precision("float64"):
        parts = [layers.Dense(units, activation="relu") for units in hidden]
        model = keras.Sequential([keras.Input((n,)), *parts, layers.Dense(outputs)])
    return zoo.randomise(model, seed)


def cloud(n, count=40, seed=1):
    """Correlated training data."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, n)) @ rng.normal(size=(n, n)) / np.sqrt(n) + rng.normal(size=n)


def relu_moments(m, v):
    """Mean, variance and P(x > 0) of max(x, 0) for x ~ N(m, v), the textbook form."""
    sigma = np.sqrt(v)
    share, density = special.ndtr(m / sigma), np.exp(-(m**2) / (2 * v)) / np.sqrt(2 * np.pi)
    mean = m * share + sigma * density
    return mean, (m**2 + v) * share + m * sigma * density - mean**2, share


class Quadratic:
    """D of a linear score: (sum w (1-s)(x-mu))^2 + (w (1-s))' C (w (1-s)), for one sample."""

    def __init__(self, w, x, mu, covariance):
        self.w, self.d, self.c = w, w * (x - mu), np.outer(w, w) * covariance

    def __call__(self, s):
        free = 1 - s
        return (free @ self.d) ** 2 + free @ self.c @ free

    def gradient(self, s):
        free = 1 - s
        return -2 * (free @ self.d) * self.d - 2 * self.c @ free

    def capped(self, k, price=0.0):
        """(minimiser, minimum) over 0 <= s <= 1, sum s <= k of D + price * sum s, by sequential quadratic programs."""
        n = len(self.w)
        return _solved(
            lambda s: self(s) + price * s.sum(),
            lambda s: self.gradient(s) + price,
            np.full(n, k / n),
            [{"type": "ineq", "fun": lambda s: k - s.sum(), "jac": lambda s: -np.ones(n)}],
        )

    def grid(self, rates, weights):
        """(minimiser (n, m), minimum) of sum_j weights_j D(S_j) over nondecreasing columns with sums ``rates``."""
        n, m = len(self.w), len(rates)

        def columns(s):
            return list(zip(weights, s.reshape(n, m).T, strict=True))

        sums = np.tile(np.eye(m), (1, n))  # S is flattened row by row
        steps = np.kron(np.eye(n), np.diff(np.eye(m), axis=0))
        found, value = _solved(
            lambda s: sum(a * self(c) for a, c in columns(s)),
            lambda s: np.stack([a * self.gradient(c) for a, c in columns(s)], axis=1).ravel(),
            np.tile(np.asarray(rates) / n, n),
            [
                {"type": "eq", "fun": lambda s: sums @ s - rates, "jac": lambda s: sums},
                {"type": "ineq", "fun": lambda s: steps @ s, "jac": lambda s: steps},
            ],
        )
        return found.reshape(n, m), value


def _solved(function, gradient, start, constraints):
    found = optimize.minimize(
        function,
        start,
        jac=gradient,
        bounds=[(0, 1)] * len(start),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert found.status in (0, 8), found.message  # 8: no further descent in double precision
    snapped = np.where(found.x < 1e-6, 0.0, found.x)  # SLSQP stops just inside the lower bound
    allowed = all(c["type"] == "ineq" and c["fun"](snapped) >= 0 for c in constraints)
    if allowed and function(snapped) < found.fun:
        return snapped, function(snapped)
    return found.x, found.fun


def poured(a, k):
    """argmin of sum a (1 - s)^2 over 0 <= s <= 1, sum s = k: s = max(0, 1 - level / a), by bisection."""
    low, high = 0.0, a.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(0, 1 - level / a).sum() > k else (low, level)
    return np.maximum(0, 1 - high / a)


# --- cheap analyzers, and data of six features ---------------------------------------------------------------------

NAMES = [info.name for info in innv_ext.list_analyzers() if info.family == "rde"]
QUICK = {
    "l_rde": {"max_iter": 8},
    "rc_rde": {"rate": 2, "max_iter": 8},
    "mr_rde": {"rates": (1, 2, 4), "max_iter": 8},
    "ord_rde": {"rates": 3, "max_iter": 8},
}
MC = {"distortion": "monte_carlo", "samples": 4}
N = 6
X = cloud(N) + 0.7 * np.random.default_rng(2).normal(size=(40, N))  # no direction without variance
x = np.random.default_rng(5).normal(size=(3, N))


def rde(name, net, **params):
    """A silent analyzer that knows V."""
    return innv_ext.create_analyzer(name, net, **{"progress": False, "reference": "full", **params}).fit(X)


def sampler(x, samples, rng):
    """Draws that depend on how many are asked for at once."""
    return x[:, None] + rng.normal(size=(len(x), samples, *x.shape[1:])).astype(x.dtype)
