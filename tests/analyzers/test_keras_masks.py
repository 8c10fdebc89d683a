"""Keras masks of points that are not x: references have their own, noise and lines keep those of x."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import ApproximationWarning, InvalidInputError, NonFiniteWarning

RNG = np.random.default_rng(0)
TOKENS = np.array([[3, 4, 5, 0, 0], [7, 0, 0, 0, 0], [0, 2, 8, 1, 6]])
TOKEN_REFERENCES = np.array([[5, 6, 7, 8, 9], [1, 2, 0, 0, 0], [0, 0, 4, 3, 2]])
SERIES, SERIES_REFERENCES = RNG.normal(size=(2, 3, 5, 2))
SERIES[TOKENS == 0] = SERIES_REFERENCES[TOKEN_REFERENCES == 0] = -1


def masked_tokens(function):
    with zoo.precision("float64"):
        i = keras.Input((5,), dtype="int32")
        return zoo.randomise(keras.Model(i, L.Dense(2)(function(L.Embedding(10, 3, mask_zero=True)(i)))), 0)


def masked_series(function):
    return zoo.build(lambda i: L.Dense(2)(function(L.Masking(-1.0)(i))), (5, 2))


class Kept(L.Layer):
    """A layer of a user with a mask of its own."""

    def compute_mask(self, x, mask=None):
        return ops.any(x > 0, axis=-1)

    def call(self, x):
        return 2 * x


def mean(h):
    return L.GlobalAveragePooling1D()(h)


def gru(h):
    return L.GRU(2, unroll=True)(h)


def attention(h):
    return L.GlobalAveragePooling1D()(L.MultiHeadAttention(1, 2)(h, h))


def bare(i):
    return L.Dense(2)(L.GRU(2, unroll=True)(Kept()(i)))


def merged(h):
    return L.GlobalAveragePooling1D()(L.Multiply()([h, L.Maximum()([h, L.Dense(3)(h)])]))


MODELS = {
    "mean of tokens": lambda: masked_tokens(lambda h: L.GlobalAveragePooling1D()(L.Dense(3, activation="relu")(h))),
    "mean of steps": lambda: masked_series(mean),
    "attention": lambda: masked_tokens(attention),
    "GRU": lambda: masked_series(gru),
    "own mask": lambda: zoo.build(bare, (5, 2)),
    "merged": lambda: masked_tokens(merged),
}
REPEATED = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in ("mean of tokens", "GRU")]


def data_of(model):
    return (TOKENS, TOKEN_REFERENCES) if model.input_shape == (None, 5) else (SERIES, SERIES_REFERENCES)


def total(found):
    return found.attribution.reshape(len(found.attribution), -1).sum(axis=1)


@pytest.mark.parametrize("rule", ["rescale", pytest.param("reveal_cancel", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["mean of tokens", "GRU", *(p for p in REPEATED if "attention" not in p.values)])
def test_deep_shap_sums_to_what_the_model_says_at_both_ends(name, rule):
    """Every pair of x and reference has other masks; some have no step in common."""
    model = MODELS[name]()
    x, references = data_of(model)
    found = innv_ext.create_analyzer("deep_shap", model, references=references, rule=rule).explain(x, 1)
    base = model.predict(references, verbose=0)[:, 1].mean()
    difference = model.predict(x, verbose=0)[:, 1] - base
    tolerance = 1e-5 * np.abs(difference).max()
    np.testing.assert_allclose(found.extras["reference_score"], base, rtol=1e-6)
    np.testing.assert_allclose(total(found), difference, atol=tolerance)
    if name == "mean of tokens":
        shap = innv_ext.create_analyzer("kernel_shap", model, references=references).explain(x[::2], 1)
        np.testing.assert_allclose(shap.extras["base"], base, rtol=1e-6)
        np.testing.assert_allclose(total(shap), difference[::2], atol=tolerance)


def test_what_masks_change_inside_attention_is_told():
    """No token of an opened layer gets it: references with the same padding have sums, others a warning."""
    model = MODELS["attention"]()
    x, references = data_of(model)
    with pytest.warns(ApproximationWarning, match=r"maps do not sum .* references=: with the padding of x"):
        found = innv_ext.create_analyzer("deep_shap", model, references=references).explain(x, 1)
    base = model.predict(references, verbose=0)[:, 1].mean()
    np.testing.assert_allclose(found.extras["reference_score"], base, rtol=1e-6)
    difference = model.predict(x, verbose=0)[:, 1] - base
    np.testing.assert_allclose(found.extras["completeness_error"], np.abs(total(found) / difference - 1), rtol=1e-3)
    alike = np.where(x[:1] == 0, 0, x[:1] % 5 + 1)
    same = innv_ext.create_analyzer("deep_lift", model, reference_inputs=alike[0]).explain(x[:1], 1)
    change = model.predict(x[:1], verbose=0)[:, 1] - model.predict(alike, verbose=0)[:, 1]
    np.testing.assert_allclose(total(same), change, atol=1e-5)


def test_the_only_step_that_differs_takes_everything():
    """The mean of two tokens against that of three: the third takes all; of a kept step that is equal nothing."""
    model = masked_tokens(mean)
    x, x0 = np.array([[3, 4, 0, 0, 0]]), np.array([3, 4, 6, 0, 0])
    for points in ((x, x0), (x0[None], x[0])):
        found = innv_ext.create_analyzer("deep_lift", model, reference_inputs=points[1]).explain(points[0], 0)
        scores = [model.predict(p.reshape(1, 5), verbose=0)[0, 0] for p in points]
        np.testing.assert_allclose(found.attribution[0], [0, 0, scores[0] - scores[1], 0, 0], atol=1e-6)


def test_steps_are_switched_from_both_ends():
    """A GRU that the reference masks altogether: what each step adds to those before it, and to those after it."""
    model = masked_series(gru)
    x = RNG.normal(size=(1, 5, 2))
    found = innv_ext.create_analyzer("deep_lift", model, reference_inputs=-1).explain(x, 0)

    def score(keep):
        return model.predict(np.where(keep[:, None], x, -1), verbose=0)[0, 0]

    step = np.arange(5)
    first = [score(step <= k) - score(step < k) for k in step]
    last = [score(step >= k) - score(step > k) for k in step]
    np.testing.assert_allclose(found.attribution[0].sum(axis=-1), (np.array(first) + last) / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["GRU", *REPEATED])
def test_noise_and_lines_keep_the_mask_of_x(name):
    """SmoothGrad with little noise is the gradient; integrated gradients give nothing to steps that x has masked."""
    model = MODELS[name]()
    x, references = data_of(model)
    gradient = innv_ext.create_analyzer("gradient", model).analyze(x, 1)
    smooth = innv_ext.create_analyzer("smoothgrad", model, noise_scale=1e-6, augment_by_n=3).analyze(x, 1)
    np.testing.assert_allclose(smooth, gradient, atol=1e-3 * np.abs(gradient).max())
    ig = innv_ext.create_analyzer("integrated_gradients", model, reference_inputs=references[0], steps=32)
    found = ig.explain(x, 1)
    if name != "own mask":
        assert (found.attribution[TOKENS == 0] == 0).all() and (found.attribution[TOKENS > 0] != 0).all()
    start = model.predict(references[:1], verbose=0)[:, 1]
    difference = model.predict(x, verbose=0)[:, 1] - start
    np.testing.assert_allclose(found.extras["reference_score"], np.repeat(start, 3), rtol=1e-5)
    error = np.abs(total(found) - difference)
    np.testing.assert_allclose(found.extras["completeness_error"] * np.abs(difference), error, rtol=1e-3, atol=1e-5)
    assert error[1] > 1e-3  # the reference has steps that x masks: not complete, and it says so
    if name == "own mask":  # keeps what is positive: here that has to hold for the reference, too
        kept = np.abs(references[0])
        ig = innv_ext.create_analyzer("integrated_gradients", model, reference_inputs=kept, steps=32)
    same = ig.explain(np.where(x == 0, 1, x) if x.ndim == 2 else np.abs(x), 1)  # every step is kept at both ends
    assert (same.extras["completeness_error"] < 0.02).all()


def test_expected_gradients_report_the_scores_of_the_references():
    model = MODELS["mean of tokens"]()
    for mode, of in (("all", lambda y: y.sum(axis=1)), (lambda y: 2 * y[:, 0], lambda y: 2 * y[:, 0])):
        analyzer = innv_ext.create_analyzer(
            "gradient_shap", model, references=TOKEN_REFERENCES, neuron_selection_mode=mode, batch_size=2, samples=6
        )
        found = analyzer.explain(TOKENS)
        base = of(model.predict(TOKEN_REFERENCES, verbose=0)).mean()
        np.testing.assert_allclose(found.extras["reference_score"], np.full(3, base), rtol=1e-5)


def test_a_reference_that_is_all_padding():
    """The mean over no token is 0/0: DeepLIFT cannot go on, integrated gradients tell that they don't sum to it."""
    model = masked_tokens(mean)
    with pytest.raises(InvalidInputError, match=r"in 3 of 3 samples, first: 0.*pass other reference_inputs="):
        innv_ext.create_analyzer("deep_lift", model).analyze(TOKENS)
    with pytest.raises(InvalidInputError, match="pass other references="):
        innv_ext.create_analyzer("deep_shap", model, references=TOKENS * 0).analyze(TOKENS)
    with pytest.warns(NonFiniteWarning, match="pass other reference_inputs=") as caught:
        found = innv_ext.create_analyzer("integrated_gradients", model).explain(TOKENS)
    assert len(caught) == 1 and np.isfinite(found.attribution).all()
    assert np.isnan(found.extras["completeness_error"]).all()
    recurrent = masked_tokens(gru)  # whose state stays where it was
    found = innv_ext.create_analyzer("deep_lift", recurrent).explain(TOKENS, 0)
    padding = recurrent.predict(TOKENS * 0, verbose=0)[:, 0]
    np.testing.assert_allclose(found.extras["reference_score"], padding, rtol=1e-5)
    assert (found.extras["completeness_error"] < 1e-4).all() and (found.attribution[TOKENS == 0] == 0).all()
