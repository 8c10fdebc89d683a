"""The time to build an analyzer grows with the number of nodes, not with its square."""

import os
import sys
import time

import keras
import pytest
from keras import layers, ops

import innv_ext

# of time: run by hand, on a machine that does nothing else
pytestmark = [pytest.mark.slow, pytest.mark.skipif("INNV_BUILD_TIME" not in os.environ, reason="of time")]


def many_layers(count):
    i = y = keras.Input((2,))
    for _ in range(count // 2):
        y = layers.Dense(2, activation="relu")(y)
    return keras.Model(i, y)


class Stack(keras.Model):
    """The slowest: a subclassed model, of which every layer is called symbolically."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(2) for _ in range(count)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def subclassed(count):
    model = Stack(count)
    model(keras.ops.zeros((1, 2)))
    return model


def many_operations(count):
    i = y = keras.Input((2,))
    for _ in range(count // 2):
        y = ops.tanh(y) * 0.99
    return keras.Model(i, y)


class Chain(layers.Layer):
    """Many operations in one layer, which is opened."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        for _ in range(self.count // 2):
            x = ops.tanh(x) * 0.99
        return x


def one_layer(count):
    i = keras.Input((2,))
    return keras.Model(i, Chain(count)(i))


@pytest.fixture
def deep():
    """Keras itself recurses through a model of a thousand layers."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("build", "few"), [(many_layers, 250), (many_operations, 250), (one_layer, 250), (subclassed, 100)]
)
def test_building_an_analyzer_takes_time_in_proportion_to_the_nodes(build, few, deep):
    models, seconds = [build(few), build(4 * few)], []
    innv_ext.create_analyzer("lrp.epsilon", build(20))  # what is loaded at the first use does not count
    for model in models:
        start = time.process_time()
        analyzer = innv_ext.create_analyzer("lrp.epsilon", model)
        seconds.append(time.process_time() - start)
    assert len(analyzer.graph_.nodes) == 4 * few
    assert seconds[1] < 10 * 4 * few / 1000
    assert seconds[1] < 6 * seconds[0]
