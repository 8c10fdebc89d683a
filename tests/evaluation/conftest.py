"""What the tests of the evaluations share."""

import keras
import pytest
import zoo
from keras import layers


@pytest.fixture(scope="module")
def picture_net():
    """(model, the same without softmax) for (5, 4, 3) pictures, float64."""
    with zoo.precision("float64"):
        i = keras.Input((5, 4, 3))
        y = layers.Conv2D(4, 3, padding="same", activation="relu")(i)
        logits = layers.Dense(4)(layers.Flatten()(y))
        model = keras.Model(i, layers.Softmax()(logits))
    zoo.randomise(model, 3)
    return model, keras.Model(i, logits)
