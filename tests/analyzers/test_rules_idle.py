"""Nodes that no relevance reaches need no rule; and values that move, which way values say."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import innv_ext
from innv_ext.errors import ApproximationWarning, NoRuleError
from innv_ext.rules import Rules, op_is, reaching


def explain(function, x, name="lrp.epsilon", **params):
    """LRP of x -> Dense -> function -> Dense, with the same weights for every function."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:], dtype="float64")
    layers = [L.Dense(5, "relu", dtype="float64"), L.Flatten(dtype="float64"), L.Dense(3, dtype="float64")]
    model = keras.Model(inputs, layers[2](layers[1](function(layers[0](inputs)))))
    return innv_ext.create_analyzer(name, model, **params).explain(x)


X = np.random.default_rng(0).normal(size=(2, 4, 3))
IDLE = {  # with operations that have no rule in denominators, or as constants; and without
    "norm": (
        lambda t: t / (ops.norm(t, axis=-1, keepdims=True) + 1.0),
        lambda t: t / (ops.sqrt(ops.sum(t * t, -1, keepdims=True)) + 1.0),
    ),
    "zeros": (
        lambda t: ops.concatenate([ops.zeros_like(t[:, :1]), t], 1),
        lambda t: ops.pad(t, ((0, 0), (1, 0), (0, 0))),
    ),
    "ones": (lambda t: ops.ones_like(t) * t, lambda t: t * 1.0),
    "mask": (lambda t: t * ops.cast(ops.less(t, 0.5), "float64"), lambda t: ops.where(t < 0.5, t, 0.0)),
}


@pytest.mark.parametrize("name", IDLE)
def test_operations_that_no_relevance_reaches(name):
    short, long = (explain(f, X).attribution for f in IDLE[name])
    np.testing.assert_allclose(short, long, rtol=1e-8, atol=1e-12)


def by_order(t):
    order = ops.argsort(t, axis=1)
    return ops.take_along_axis(t, order, axis=1)


MOVED = {  # and the same function in NumPy, by which the values that are taken are found
    "sort": (lambda t: ops.sort(t, axis=1), lambda t: np.sort(t, axis=1)),
    "take_along_axis": (by_order, lambda t: np.sort(t, axis=1)),
    "top_k": (lambda t: ops.top_k(t, 2)[0], lambda t: np.sort(t, axis=-1)[..., :-3:-1]),
    "where": (lambda t: ops.where(t > 0.4, t, 0.5 * t), lambda t: np.where(t > 0.4, t, 0.5 * t)),
}


@pytest.mark.parametrize("name", MOVED)
def test_values_that_move_take_their_relevance_along(name):
    """Each value that is taken has all the relevance of its place: what enters there, cos(y)."""
    function, twin = MOVED[name]
    inputs = keras.Input((4, 3), dtype="float64")
    model = keras.Model(inputs, ops.cos(function(inputs)))
    received = innv_ext.create_analyzer("lrp.z", model, neuron_selection_mode="all").analyze(X)
    left, values = np.cos(twin(X)), X if name != "where" else twin(X)
    expected = np.zeros_like(X)
    for index in np.ndindex(X.shape):  # all values differ
        expected[index] = left[index[0]][twin(X)[index[0]] == values[index]].sum()
    np.testing.assert_allclose(received, expected, rtol=1e-9)


def test_only_nodes_that_relevance_reaches_are_refused_or_approximated():
    gate = lambda t: t * ops.sigmoid(ops.sum(ops.erf(ops.std(t, axis=-1, keepdims=True)), 1, keepdims=True))
    assert explain(gate, X).extras["approximated"] == ()
    with pytest.raises(NoRuleError, match="std"):
        explain(gate, X, gate="half")
    with pytest.warns(ApproximationWarning, match="std"):
        assert len(explain(gate, X, gate="half", unsupported="gradient").extras["approximated"]) == 1
    assert explain(gate, X, unsupported="gradient").extras["approximated"] == ()


def test_own_rules_may_say_what_they_reach():
    @reaching(lambda node: (1,))
    def second(node, xs, ys, rs):
        return [None, rs[0]]

    both = lambda t: ops.std(t, axis=1, keepdims=True) + t
    zero = lambda node, xs, ys, rs: [ops.zeros_like(xs[0]), rs[0]]
    own = explain(both, X, rules=Rules((op_is("add"), second)))
    with pytest.warns(ApproximationWarning, match="std"):
        expected = explain(both, X, rules=Rules((op_is("add"), zero)), unsupported="gradient")
    np.testing.assert_allclose(own.attribution, expected.attribution)
    with pytest.raises(NoRuleError, match="std"):
        explain(both, X)
