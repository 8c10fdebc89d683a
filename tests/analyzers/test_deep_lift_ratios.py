"""DeepLIFT through normalisations and quotients: the same networks written out in single operations, and exact sums."""

import numpy as np
import pytest
import zoo
from keras import layers as L
from keras import ops

import innv_ext


def written(x, axes, gamma, beta, centre, epsilon):
    """A normalisation in operations for which DeepLIFT has a product and an elementwise rule."""
    c = x - ops.mean(x, axis=axes, keepdims=True) if centre else x
    y = c * ops.rsqrt(ops.mean(ops.square(c), axis=axes, keepdims=True) + epsilon)
    return (y if gamma is None else y * gamma) + (0.0 if beta is None else beta)


VECTOR = np.linspace(0.5, 1.5, 4)
PLAIN = {"center": False, "scale": False}
LAYERS = {  # layer, its settings, axes, whether it centres, epsilon, gamma, whether it shifts
    "layer": (L.LayerNormalization, {}, -1, True, 1e-3, VECTOR, True),
    "layer_plain": (L.LayerNormalization, PLAIN, -1, True, 1e-3, None, False),
    "layer_two_axes": (L.LayerNormalization, {"axis": (1, 2), **PLAIN}, (1, 2), True, 1e-3, None, False),
    "rms": (L.RMSNormalization, {}, -1, False, 1e-6, VECTOR, False),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("reference", [0.0, 0.4])
def test_normalisation_is_its_operations(name, reference):
    cls, settings, axes, centre, epsilon, gamma, shift = LAYERS[name]
    x = np.random.default_rng(0).normal(size=(5, 3, 4))
    first = zoo.build(lambda i: L.Dense(2)(L.Flatten()(cls(**settings)(L.Dense(4)(i)))), (3, 4))
    (layer,) = [layer for layer in first.layers if isinstance(layer, cls)]
    if gamma is not None:
        layer.weights[0].assign(gamma)
    beta = np.asarray(layer.beta) if shift else None

    def twin(i):
        return L.Dense(2)(L.Flatten()(written(L.Dense(4)(i), axes, gamma, beta, centre, epsilon)))

    second = zoo.build(twin, (3, 4))
    dense = [w for other in first.layers if isinstance(other, L.Dense) for w in other.weights]
    for own, weight in zip(second.weights, dense, strict=True):
        own.assign(weight)
    np.testing.assert_allclose(np.asarray(first(x)), np.asarray(second(x)), rtol=1e-9)
    lifts = [innv_ext.create_analyzer("deep_lift", m, reference_inputs=reference) for m in (first, second)]
    found, expected = (lift.explain(x, 1) for lift in lifts)
    np.testing.assert_allclose(found.attribution, expected.attribution, rtol=1e-7, atol=1e-10)
    assert found.extras["completeness_error"].max() < 1e-9


def test_group_normalisation_is_complete():
    model = zoo.build(lambda i: L.Dense(2)(L.Flatten()(L.GroupNormalization(2)(L.Conv1D(4, 2)(i)))), (5, 3))
    found = innv_ext.create_analyzer("deep_lift", model).explain(np.random.default_rng(0).normal(size=(4, 5, 3)), 1)
    assert found.extras["completeness_error"].max() < 1e-9


@pytest.mark.parametrize("other", [(1,), (3,)])
def test_a_quotient_is_a_product_with_the_reciprocal(other):
    """Also where the denominator is broadcast."""
    def model(divide):
        return zoo.build(lambda i: L.Dense(2)(divide(L.Dense(3)(i), 2.0 + ops.square(L.Dense(other[0])(i)))), (4,))

    x = np.random.default_rng(0).normal(size=(5, 4))
    found = [
        innv_ext.create_analyzer("deep_lift", model(f), reference_inputs=0.3).explain(x, 1)
        for f in (lambda a, b: a / b, lambda a, b: a * ops.power(b, -1.0))
    ]
    np.testing.assert_allclose(found[0].attribution, found[1].attribution, rtol=1e-7, atol=1e-10)
    assert found[0].extras["completeness_error"].max() < 1e-9
