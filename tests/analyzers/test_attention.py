"""AttnLRP and CP-LRP: rules against loops, whole transformers against the gradient of a network with held parts."""

import itertools

import keras
import numpy as np
import pytest
import transformers as zoo_of_text
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.analyzers.core import node_rules
from innv_ext.backend import numerics
from innv_ext.errors import InvalidInputError

TINY = 1e-12


def maps(model, x, name, target=1, **params):
    return innv_ext.create_analyzer(name, model, **{"epsilon": TINY, **params}).explain(x, target)


def held_map(model, x, target=1, **held):
    """Embedded tokens times the gradient of the network with held parts, summed over the components of each token."""
    table = model.get_layer("embed").embeddings
    mask = ops.convert_to_tensor(x != 0) if model.options["padded"] else None
    h = ops.take(table, x, axis=0)

    def score(h):
        return zoo_of_text.by_hand(model, h, mask, held=ops.stop_gradient, **held)[:, target]

    (y,), pullback = numerics.vjp(score, h)
    return np.sum(np.asarray(h) * np.asarray(pullback(ops.ones_like(y))[0]), axis=-1)


def close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


# --- single rules -----------------------------------------------------------------------------------------------------


def test_softmax_by_the_formula():
    """R_x = x (R - y sum R), a loop over rows."""
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(2, 2, 3, 4))
    node = zoo.build(ops.softmax, (2, 3, 4))
    (own,) = innv_ext.create_analyzer("lrp.attnlrp", node, on="output").graph_.nodes
    y = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    (found,) = node_rules.softmax(own, *((ops.convert_to_tensor(t),) for t in (x, y, r)))
    expected = np.zeros_like(x)
    for place in np.ndindex(2, 2, 3):
        for j in range(4):
            expected[place][j] = x[place][j] * (r[place][j] - y[place][j] * r[place].sum())
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(np.sum(found), np.sum(x * (r - y * r.sum(axis=-1, keepdims=True))), atol=1e-10)


def contraction(epsilon):
    """z[t, s] = sum_c q[t, c] k[s, c], shared by loops."""
    rng = np.random.default_rng(1)
    q, k, r = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), rng.normal(size=(3, 5))
    rq, rk = np.zeros_like(q), np.zeros_like(k)
    for t, s in itertools.product(range(3), range(5)):
        z = sum(q[t, c] * k[s, c] for c in range(4))
        side = 1 if z >= 0 else -1
        for c in range(4):
            rq[t, c] += q[t, c] * k[s, c] * r[t, s] / (2 * z + epsilon * side)
            rk[s, c] += q[t, c] * k[s, c] * r[t, s] / (2 * z + epsilon * side)
    return q, k, r, rq, rk


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_contractions_by_the_formula(epsilon):
    q, k, r, rq, rk = contraction(epsilon)
    a, b = keras.Input((3, 4), dtype="float64"), keras.Input((5, 4), dtype="float64")
    model = keras.Model([a, b], ops.matmul(a, ops.transpose(b, (0, 2, 1))))
    score = lambda y: ops.sum(y * r / ops.stop_gradient(y), axis=(1, 2))  # so that r enters the walk
    params = {"epsilon": epsilon, "on": "output", "neuron_selection_mode": score}
    found = innv_ext.create_analyzer("lrp.attnlrp", model, **params).analyze([q[None], k[None]])
    np.testing.assert_allclose(found[0][0], rq, atol=1e-9)
    np.testing.assert_allclose(found[1][0], rk, atol=1e-9)


# --- whole networks ---------------------------------------------------------------------------------------------------

NETS = {
    "encoder": {},
    "two blocks": {"blocks": 2, "pool": 0},
    "decoder": {"causal": True, "norm": "rms", "gate": True, "pool": -1},
    "padded": {"padded": True, "pool": 0},
    "shared heads": {"shared": 1, "causal": True, "pool": -1},
    "no bias": {"bias": False, "gate": True},
    "deep": {"blocks": 3, "heads": 4, "gate": True, "causal": True, "pool": -1},
}
SLOW = ("two blocks", "no bias", "deep")
PARAMS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETS]


@pytest.mark.parametrize("name", PARAMS)
def test_attnlrp_is_x_times_a_modified_gradient(name):
    """Layers, and the same network by hand: one map, which is that of the twin."""
    model = zoo_of_text.transformer(**NETS[name])
    x = zoo_of_text.tokens(model.options["padded"])
    expected = held_map(model, x, halves=True)
    found = maps(model, x, "lrp.attnlrp")
    close(found.attribution, expected)
    i = keras.Input((zoo_of_text.LENGTH,), dtype="int32")
    by_hand = keras.Model(i, zoo_of_text.ByHand(model, dtype="float64")(i))
    again = maps(by_hand, x, "lrp.attnlrp")
    np.testing.assert_allclose(again.score, found.score, rtol=1e-7)
    close(again.attribution, expected)


@pytest.mark.parametrize("name", PARAMS)
def test_cp_lrp_is_x_times_the_gradient_with_weights_held(name):
    model = zoo_of_text.transformer(**NETS[name])
    x = zoo_of_text.tokens(model.options["padded"])
    close(maps(model, x, "lrp.cp_lrp").attribution, held_map(model, x, frozen=True))


@pytest.mark.parametrize("gate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cp_lrp_conserves_without_biases(gate):
    model = zoo_of_text.transformer(blocks=2, bias=False, gate=gate, causal=True, norm="rms", pool=-1)
    found = maps(model, zoo_of_text.tokens(), "lrp.cp_lrp")
    np.testing.assert_allclose(found.extras["sum"], found.score, rtol=1e-8)


@pytest.mark.parametrize("name", ["lrp.attnlrp", "lrp.cp_lrp"])
def test_padding_gets_nothing(name):
    model = zoo_of_text.transformer(padded=True, pool=0)
    x = zoo_of_text.tokens(padded=True)
    found = maps(model, x, name).attribution
    assert np.all(found[x == 0] == 0) and np.all(found[x != 0] != 0)


def test_later_tokens_of_a_decoder_get_nothing():
    model = zoo_of_text.transformer(causal=True, pool=2)
    found = maps(model, zoo_of_text.tokens(), "lrp.attnlrp").attribution
    assert np.all(found[:, 3:] == 0) and np.all(found[:, :3] != 0)


def test_norms_as_identity():
    """R passes through the norm in front of a linear head unchanged, where three steps centre it."""
    model = zoo.build(lambda i: L.Dense(2)(L.LayerNormalization()(L.Dense(4)(i))), (3,))
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    w = [np.asarray(v, "float64") for v in model.weights]
    z = x @ w[0] + w[1]
    n = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-3) * w[2] + w[3]
    expected = x * ((n * w[4][:, 0] / z) @ w[0].T)
    close(maps(model, x, "lrp.attnlrp", 0, norm="identity").attribution, expected, 1e-4)
    assert np.abs(maps(model, x, "lrp.attnlrp", 0).attribution - expected).max() > 1e-3


def test_gamma_at_weights():
    model = zoo.build(lambda i: L.Dense(2)(ops.gelu(L.Dense(4)(i))), (3,))
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    expected = innv_ext.create_analyzer("lrp.gamma", model, gamma=0.5).analyze(x, 0)
    np.testing.assert_allclose(maps(model, x, "lrp.attnlrp", 0, gamma=0.5).attribution, expected, rtol=1e-5)


def test_a_gate_behind_an_activation():
    """CP-LRP: the other factor takes all; of two activations, or none, both share as in LRP."""
    x = np.array([[1.0, 2.0, -0.5]], "float32")

    def build(f, g):
        return zoo.build(lambda i: L.Dense(1, use_bias=False)(f(i) * g(i)), (3,))

    halves, whole = build(L.Dense(3), L.Dense(3)), build(ops.gelu, lambda i: i)
    analyzer = innv_ext.create_analyzer("lrp.cp_lrp", whole)
    assert sum(isinstance(rule, node_rules.Takes) for rule in analyzer.rules_) == 1
    found, score = analyzer.explain(x, 0), np.asarray(whole(x))[:, 0]
    np.testing.assert_allclose(found.extras["sum"], score, rtol=1e-4)
    other = innv_ext.create_analyzer("lrp.cp_lrp", halves)
    assert not any(isinstance(rule, node_rules.Takes) for rule in other.rules_)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["lrp.attnlrp", pytest.param("lrp.cp_lrp", marks=pytest.mark.slow)])
def test_finite_in_half_precision(name, dtype):
    model = zoo_of_text.transformer(gate=True, padded=True, pool=0, dtype=dtype)
    found = innv_ext.create_analyzer(name, model).explain(zoo_of_text.tokens(padded=True), 1)
    assert np.isfinite(found.attribution).all() and np.abs(found.attribution).max() > 0


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.fixed_dictionaries({
        "blocks": st.integers(1, 2),
        "heads": st.sampled_from([1, 2, 4]),
        "norm": st.sampled_from(["layer", "rms"]),
        "gate": st.booleans(),
        "causal": st.booleans(),
        "padded": st.booleans(),
        "bias": st.booleans(),
        "pool": st.sampled_from([0, "mean"]),
        "seed": st.integers(0, 99),
    })
)
def test_random_transformers(options):
    if options["padded"]:  # RMSNormalization and operations drop masks
        options = {**options, "pool": 0, "norm": "layer", "gate": False}
    model = zoo_of_text.transformer(**options)
    x = zoo_of_text.tokens(options["padded"], options["seed"])
    close(maps(model, x, "lrp.attnlrp").attribution, held_map(model, x, halves=True), 1e-5)
    close(maps(model, x, "lrp.cp_lrp").attribution, held_map(model, x, frozen=True), 1e-5)
    i = keras.Input((zoo_of_text.LENGTH,), dtype="int32")
    by_hand = keras.Model(i, zoo_of_text.ByHand(model, dtype="float64")(i))
    for name in ("lrp.attnlrp", "lrp.cp_lrp", "gradient"):
        params = {} if name == "gradient" else {"epsilon": TINY}
        found, other = (innv_ext.create_analyzer(name, m, **params).analyze(x, 1) for m in (model, by_hand))
        close(other, found, 1e-5)


def test_attention_of_a_tensor_to_itself_with_free_length():
    x = keras.Input((None, 2, 4), dtype="float64")
    y = ops.dot_product_attention(x, x, x, is_causal=True)
    model = keras.Model(x, L.Dense(2, dtype="float64")(ops.mean(y, axis=(1, 2))))
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4))
    names = [n.name.split("/")[-1] for n in innv_ext.create_analyzer("lrp.attnlrp", model).graph_.nodes]
    assert "softmax" in names and "dot_product_attention" not in names
    found = maps(model, x, "lrp.cp_lrp", 0)
    bias = np.asarray(model.layers[-1].bias)[0]
    np.testing.assert_allclose(found.extras["sum"], found.score - bias, rtol=1e-8)


# --- attention in its other forms -------------------------------------------------------------------------------------


def forms():
    """Attention of one head in four ways: layers, one operation, single operations."""
    x = keras.Input((5, 4), dtype="float64")
    q, k, v = (L.Dense(4, name=name, dtype="float64")(x) for name in "qkv")
    lone = lambda t: t[:, :, None]
    one = ops.dot_product_attention(lone(q), lone(k), lone(v), scale=1.0)[:, :, 0]
    layer = L.Attention(dtype="float64")([q, v, k])
    hand = ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, 1, 2)), axis=-1), v)
    head = L.Dense(2, dtype="float64")
    return [keras.Model(x, head(ops.mean(y, axis=1))) for y in (hand, one, layer)]


@pytest.mark.parametrize("name", ["lrp.attnlrp", "lrp.cp_lrp", "lrp.epsilon"])
def test_one_network_written_in_several_ways_has_one_map(name):
    hand, *others = forms()
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    expected = maps(hand, x, name).attribution
    for other in others:
        close(maps(other, x, name).attribution, expected, 1e-7)


def test_additive_attention():
    """Scores sum tanh(q + k): sums share by their terms, tanh passes on."""
    x = keras.Input((3, 2), dtype="float64")
    q, v = (L.Dense(2, name=n, dtype="float64")(x) for n in "qv")
    y = L.AdditiveAttention(use_scale=False, dtype="float64")([q, v])
    by_hand = ops.matmul(ops.softmax(ops.sum(ops.tanh(q[:, :, None] + v[:, None]), axis=-1), axis=-1), v)
    head = L.Dense(2, dtype="float64")
    a, b = (keras.Model(x, head(ops.mean(t, axis=1))) for t in (y, by_hand))
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    close(maps(a, x, "lrp.attnlrp").attribution, maps(b, x, "lrp.attnlrp").attribution, 1e-7)


def test_bad_parameters():
    model = zoo.build(L.Dense(2), (3,))
    with pytest.raises(InvalidInputError, match="norm must be"):
        innv_ext.create_analyzer("lrp.attnlrp", model, norm="three")
    with pytest.raises(InvalidInputError, match="epsilon"):
        innv_ext.create_analyzer("lrp.attnlrp", model, epsilon=-1.0)
    with pytest.raises(InvalidInputError, match="gamma"):
        innv_ext.create_analyzer("lrp.cp_lrp", model, gamma=-1.0)
