"""What every map of an example model has to fulfil, computed without innv_ext: ``Case.check(analyzer)``."""

import contextlib
import itertools
import sys
import warnings
from functools import cached_property

import example_nets
import keras
import numpy as np
import tensorflow as tf

import innv_ext
from innv_ext.errors import InnvError

ANALYZERS = {
    "gradient": {},
    "input_t_gradient": {},
    "smoothgrad": {"augment_by_n": 3, "noise_scale": 1e-4},
    "integrated_gradients": {"steps": 32},
    "deep_lift": {},
    "lrp.epsilon": {},
    "lrp.epsilon_plus": {},
    "guided_backprop": {},
    "deep_taylor": {},
    "grad_cam": {},
    "occlusion": {},
    "kernel_shap": {"samples": 24, "background": 2, "segments": "grid", "n_segments": 4},
    "rc_rde": {"rate": 1, "max_iter": 2},
}
DIFFERENCES = {"gradient", "input_t_gradient", "smoothgrad", "integrated_gradients", "occlusion", "kernel_shap"}
SEES_ALL = DIFFERENCES | {"deep_lift", "lrp.epsilon"}
ALIKE = {"input_t_gradient", "smoothgrad"}  # as gradient is, sample by sample
EXPECTED = ("ZeroMapWarning", "ConvergenceWarning")


def flat(structure):
    return [np.asarray(a, "float64") for a in keras.tree.flatten(structure)]


def close(a, b, tolerance, scale=None):
    """Whether arrays agree to a share of the largest value."""
    size = max(np.abs(b).max(initial=0), 0 if scale is None else np.abs(scale).max(initial=0), 1e-6)
    return a.shape == b.shape and np.abs(a - b).max(initial=0) <= tolerance * size


@contextlib.contextmanager
def scaled(leaves, factors):
    """The vectors that stand for the tokens of a leaf are multiplied by its factors; yields which leaves have some."""
    used, originals = set(), {c: c.call for c in (keras.layers.Embedding, keras.layers.CategoryEncoding)}

    def patched(original):
        def call(layer, inputs, *args, **kwargs):
            y = original(layer, inputs, *args, **kwargs)
            for i, (leaf, factor) in enumerate(zip(leaves, factors, strict=True)):
                same = factor is not None and leaf.shape == inputs.shape
                if same and np.array_equal(leaf, tf.cast(inputs, leaf.dtype)):
                    used.add(i)
                    return y * (factor if len(y.shape) == len(factor.shape) else factor[..., None])
            return y

        return call

    for layer, original in originals.items():
        layer.call = patched(original)
    try:
        yield used
    finally:
        for layer, original in originals.items():
            layer.call = original


# inputs that are a broadcast factor only, which LRP takes for a gate
GATES = {("behavior_sequence_transformer", 1)}


class Case:
    """One model with three samples, and what is known of it without innv_ext."""

    def __init__(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras, about how models are built
            self.one, self.model = example_nets.make(name)
            self.x = self.one.inputs()
            self.model(self.x, training=False)
        index = self.one.index if isinstance(self.one.index, tuple) else (self.one.index,)
        # behind a softmax only differences of scores can be told
        self.indices = [index, (*index[:-1], 0)] if self.one.final == "softmax" else [index]
        self.held = []

    # --- without innv_ext --------------------------------------------------------------------------------------

    def score(self, x):
        """The explained score, or its difference to that of class 0, from the model's output."""
        y = self.model(x, training=False)
        y = y if self.one.output is None else y[self.one.output]
        found = [tf.cast(y[(slice(None), *i)], "float64") for i in self.indices]
        if self.one.final == "softmax":
            return tf.math.log(found[0]) - tf.math.log(found[1])
        return tf.math.log(found[0]) - tf.math.log1p(-found[0]) if self.one.final == "sigmoid" else found[0]

    @cached_property
    def start(self):
        return self.score(self.x).numpy()

    @cached_property
    def tape(self):
        """The gradient of the score at x."""
        return self.gradient(self.x)

    def gradient(self, x):
        """The gradient of the score, one array per input; of token numbers that of their one-hot coordinate.

        None for whole numbers that no layer takes as tokens.
        """
        xs = keras.tree.map_structure(tf.convert_to_tensor, x)
        leaves = keras.tree.flatten(xs)
        factors = [None if t.dtype.is_floating else tf.ones(t.shape) for t in leaves]
        with tf.GradientTape() as tape, scaled(leaves, factors) as used:
            watched = [t if f is None else f for t, f in zip(leaves, factors, strict=True)]
            tape.watch(watched)
            score = self.score(xs)
        # a sum over samples would add up what samples tell each other; those models are refused
        found = tape.gradient(score, watched, unconnected_gradients="zero")
        told = [f is None or i in used for i, f in enumerate(factors)]
        return [flat(tf.convert_to_tensor(g))[0] if t else None for g, t in zip(found, told, strict=True)]

    @cached_property
    def nothing(self):
        """The score where all inputs are 0, except those that say what counts."""
        leaves = keras.tree.flatten(self.x)
        zeros = [a if i in self.one.masks else np.zeros_like(a) for i, a in enumerate(leaves)]
        return self.score(keras.tree.pack_sequence_as(self.x, zeros)).numpy()

    def replaced(self, number, change):
        """The inputs with ``change`` done to a copy of one of them."""
        leaves = [np.array(a) for a in keras.tree.flatten(self.x)]
        change(leaves[number])
        return keras.tree.pack_sequence_as(self.x, leaves)

    @cached_property
    def seen(self):
        """Per input, which samples' scores depend on it."""
        found = []
        for number, (a, g) in enumerate(zip(keras.tree.flatten(self.x), self.tape, strict=True)):
            if a.dtype.kind == "f":
                found.append(np.abs(g).reshape(len(a), -1).max(axis=1) > 1e-5 * max(np.abs(g).max(), 1e-12))
            else:
                other = self.replaced(number, lambda b: np.copyto(b, np.where(b > 1, b - 1, b).astype(b.dtype)))
                found.append(np.abs(self.score(other).numpy() - self.start) > 1e-5)
        return found

    @property
    def continuous(self):
        """Whether no input takes whole numbers."""
        return all(a.dtype.kind == "f" for a in keras.tree.flatten(self.x))

    def without_corner(self, number, last):
        """Score lost when the first (or last) patch of an input is 0, and a component that only this patch covers."""
        a = keras.tree.flatten(self.x)[number]
        table = a.ndim <= 2  # single columns, single tokens
        where, channels = [slice(None)], 1 if self.one.first else a.ndim - 1
        for axis in range(1, a.ndim):
            side = a.shape[axis]
            width = 1 if table else side if axis == channels and a.ndim > 2 else max(1, round(side / 8))
            where.append(slice(side - width, side) if last else slice(0, width))
        other = self.replaced(number, lambda b: b.__setitem__(tuple(where), 0))
        return self.start - self.score(other).numpy(), (slice(None), *(-1 if last else 0 for _ in a.shape[1:]))

    # --- with it -----------------------------------------------------------------------------------------------

    def analyzer(self, name):
        made = innv_ext.create_analyzer(name, self.model, output=self.one.output, batch_size=512, progress=False,
                                        **ANALYZERS[name])  # fmt: skip
        self.held.append(made)  # so that the trace of the model is kept
        return made.fit(self.x) if made.needs_fit else made

    def explanations(self, analyzer, name):
        """Of the neuron, and of class 0 where there is a softmax and the method is linear in the score."""
        linear = name in DIFFERENCES or (name == "lrp.epsilon" and self.one.linear)
        return [analyzer.explain(self.x, self.neuron(k)) for k in range(len(self.indices[: 1 + linear]))]

    def neuron(self, k):
        """As ``explain`` takes it."""
        return self.indices[k] if len(self.indices[k]) > 1 else self.indices[k][0]

    def problems(self, name):
        """What is wrong with the maps of an analyzer, one line each; raises what innv_ext raises."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            analyzer = self.analyzer(name)
            found = self.explanations(analyzer, name)
            if self.one.coupled:
                if any("innv_ext" in str(w.category) and w.category.__name__ not in EXPECTED for w in caught):
                    return []
                return ["samples see each other, and neither error nor warning says so"]
            alone = keras.tree.map_structure(lambda a: a[:1], self.x)
            single = found[0] if name in ALIKE else analyzer.explain(alone, self.neuron(0))
        xs, wrong, together = keras.tree.flatten(self.x), [], flat(found[0].attribution)
        maps = together
        if len(found) > 1:
            maps = [a - b for a, b in zip(maps, flat(found[1].attribution), strict=True)]
        if [m.shape for m in maps] != [a.shape for a in xs]:
            return [f"shapes {[m.shape for m in maps]}"]
        if not all(np.isfinite(m).all() for m in maps):
            return ["not finite"]
        tolerance = 2e-2 if name.startswith("lrp") else 2e-3
        for i, (m, s) in enumerate(zip(together, flat(single.attribution), strict=True)):
            if not close(s[:1], m[:1], tolerance, np.append(m, 1e-3 * self.start)):
                sizes = f"{np.abs(s[:1] - m[:1]).max():.2g} of {np.abs(m).max():.2g}"
                wrong.append(f"input {i} depends on the batch: {sizes}")
        if name in SEES_ALL:
            for i, (m, seen) in enumerate(zip(maps, self.seen, strict=True)):
                zero = np.abs(m).reshape(len(m), -1).max(axis=1) == 0
                # steps may have equal values at x and at the reference, which is all that DeepLIFT looks at
                level = name == "deep_lift" and self.one.stepped
                if name.startswith("lrp") and (self.one.name, i) in GATES:
                    continue
                asked = i not in self.one.masks and not level and not (name == "occlusion" and xs[i].dtype.kind != "f")
                if asked and (zero & seen).any():
                    wrong.append(f"input {i}: zero map of a sample that depends on it")
        score = found[0].extras["score"] - (found[1].extras["score"] if len(found) > 1 else 0)
        if (len(found) > 1 or self.one.final != "softmax") and not close(score, self.start, 2e-3):
            wrong.append(f"score {score} is not {self.start}")
        check = getattr(self, "check_" + name.replace(".", "_"), None)
        return wrong + list(check(maps, found) if check else ())

    def check_gradient(self, maps, found, tolerance=2e-3):
        for i, (m, g) in enumerate(zip(maps, self.tape, strict=True)):
            if g is not None and not close(m, g, tolerance):
                yield f"input {i}: not the tape's gradient: off by {np.abs(m - g).max():.2g} of {np.abs(g).max():.2g}"

    def check_input_t_gradient(self, maps, found, tolerance=2e-3):
        for i, (m, a, g) in enumerate(zip(maps, keras.tree.flatten(self.x), self.tape, strict=True)):
            right = None if g is None else a * g if a.dtype.kind == "f" else g
            if right is not None and not close(m, right, tolerance):
                sizes = f"off by {np.abs(m - right).max():.2g} of {np.abs(right).max():.2g}"
                yield f"input {i}: not x times the tape's gradient: {sizes}"

    def check_smoothgrad(self, maps, found):
        return self.check_gradient(maps, found, 3e-2) if self.one.smooth and self.continuous else ()

    def check_integrated_gradients(self, maps, found):
        if self.continuous:
            points, weights = np.polynomial.legendre.leggauss(ANALYZERS["integrated_gradients"]["steps"])
            points = (points.astype("float32") + 1) / 2
            line = [np.concatenate([t * a for t in points]) for a in keras.tree.flatten(self.x)]
            at = self.gradient(keras.tree.pack_sequence_as(self.x, line))
            for i, (m, a, g) in enumerate(zip(maps, flat(self.x), at, strict=True)):
                right = a * np.tensordot(weights / 2, g.reshape(len(points), *a.shape), 1)
                if not close(m, right, 5e-3):
                    yield f"input {i}: not the tape's gradients: off by {np.abs(m - right).max():.2g}"
        elif self.one.smooth and not (self.one.padded or self.one.stepped):
            expected = self.start - self.nothing
            total = sum(m.reshape(len(m), -1).sum(axis=1) for m in maps)
            if not close(total, expected, 3e-2, self.start):
                yield f"sums {total} are not f(x) - f(0) = {expected}"

    def check_deep_lift(self, maps, found):
        total = sum(m.reshape(len(m), -1).sum(axis=1) for m in maps)
        expected = found[0].extras["score"] - found[0].extras["reference_score"]
        if self.one.final != "softmax" and not self.one.padded:
            direct = self.start - self.nothing
            if not close(expected, direct, 1e-2, self.start):
                yield f"f(x) - f(x0) {expected} is not {direct}"
        if self.one.padded:  # attention masks that are computed from x and from the reference: the error has to say so
            size = np.maximum(np.abs(expected), 0.01 * np.abs(found[0].extras["score"]))
            told = found[0].extras["completeness_error"]
            if not np.allclose(told * size, np.abs(total - expected), rtol=0.1, atol=1e-4):
                yield f"completeness_error {told} does not say how far {total} are off"
        elif not (self.one.stepped or close(total, expected, 5e-2, found[0].extras["score"])):
            yield f"sums {total} are not f(x) - f(x0) = {expected}"

    def check_lrp_epsilon(self, maps, found):
        """x times gradient on piecewise linear nets; elsewhere it must not explode."""
        if self.one.linear:
            yield from (s.replace("not x", "LRP: not x") for s in self.check_input_t_gradient(maps, found, 2e-2))
        yield from self.check_lrp_epsilon_plus(maps, found)

    def check_lrp_epsilon_plus(self, maps, found):
        total = found[0].extras["sum"].astype("float64")
        if (np.abs(total) > 20 * np.abs(found[0].output).max()).any():
            yield f"explodes: sums {total} of scores {found[0].extras['score']}"

    def check_deep_taylor(self, maps, found):
        total, score = found[0].extras["sum"], np.maximum(found[0].extras["score"], 0)
        if any(m.min(initial=0) < 0 for m in maps):
            yield "negative relevance"
        if (total > score * 1.01 + 1e-5).any():
            yield f"sums {total} of scores {score}"

    def check_grad_cam(self, maps, found):
        if any(m.min(initial=0) < 0 for m in maps):
            yield "negative"

    def check_occlusion(self, maps, found):
        for (i, m), last in itertools.product(enumerate(maps), (False, True)):
            loss, at = self.without_corner(i, last)
            if not close(m[at], loss, 2e-3, self.start):
                yield f"input {i}: {'last' if last else 'first'} patch costs {loss}, map says {m[at]}"

    def check_kernel_shap(self, maps, found):
        values = found[0].extras
        if "reference_score" in values and self.one.final != "softmax":
            total = sum(m.reshape(len(m), -1).sum(axis=1) for m in maps)
            yield from () if close(total, values["score"] - values["reference_score"], 2e-2, self.start) else ("sums",)

    def check_rc_rde(self, maps, found):
        if any(m.min() < -1e-6 or m.max() > 1 + 1e-6 for m in maps):
            yield "outside of [0, 1]"
        if (found[0].extras["sum"] > 1 + 1e-3).any():
            yield f"more than one component: {found[0].extras['sum']}"


def outcome(case, name):
    """("ok" | "wrong" | "refused" | "RAW", text)."""
    try:
        wrong = case.problems(name)
    except InnvError as error:
        return "refused", f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception as error:
        return "RAW", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ("wrong", "; ".join(wrong)) if wrong else ("ok", "")


if __name__ == "__main__":  # PYTHONPATH=tests python tests/models/example_maps.py [models]: what comes of all of them
    for each in sys.argv[1:] or example_nets.listed():
        one_case = Case(each)
        for analyzer_name in ANALYZERS:
            print(each, analyzer_name, *outcome(one_case, analyzer_name), flush=True)
