"""Methods that are defined by what they do at ReLUs refuse nodes that hide one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import innv_ext
from innv_ext.errors import ApproximationWarning, NoRuleError


@keras.saving.register_keras_serializable("test_hidden_relus")
class Raw(L.Layer):
    """A layer that Keras cannot run symbolically, so that it stays one node."""

    def __init__(self, activation, **options):
        super().__init__(**options)
        self.activation = activation

    def call(self, x):
        return self.activation(x) if not isinstance(x, keras.KerasTensor) else x.numpy()

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def net(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 3))
    return keras.Model(inputs, L.Dense(2)(L.Dense(5, "relu")(L.Flatten()(layer(inputs)))))


HIDING = {
    "tf function": lambda: Raw(lambda x: tf.raw_ops.Relu(features=x)),
    "leaky": lambda: Raw(lambda x: tf.raw_ops.LeakyRelu(features=x)),
    "capped": lambda: Raw(lambda x: tf.raw_ops.Relu6(features=x)),
    "inner layer": lambda: Raw(L.Dense(3, "relu")),
}
LOOPS = {  # which guided backprop looks into, see test_recurrent.py, but patterns don't
    "recurrent": lambda: L.SimpleRNN(3, "relu", return_sequences=True),
    "both ways": lambda: L.Bidirectional(L.GRU(3, "relu", return_sequences=True)),
}
HARMLESS = {
    "tanh": lambda: L.SimpleRNN(3, return_sequences=True),
    "hard sigmoid": lambda: L.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True),
    "smooth": lambda: Raw(lambda x: tf.raw_ops.Softplus(features=x)),
}
METHODS = ["guided_backprop", "deconvnet", "pattern.net"]


@pytest.mark.parametrize("name", [*HIDING, *LOOPS])
def test_hidden_relus_are_refused_by_name(name):
    model = net({**HIDING, **LOOPS}[name]())
    for method in METHODS if name in HIDING else ["pattern.net"]:
        with pytest.raises(NoRuleError, match=rf"{model.layers[1].name} \({type(model.layers[1]).__name__}.*\n.*ReLU"):
            innv_ext.create_analyzer(method, model)


def test_hidden_relus_get_the_plain_gradient_where_this_is_asked_for():
    model, x = net(HIDING["inner layer"]()), np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    with pytest.warns(ApproximationWarning, match=model.layers[1].name):
        analyzer = innv_ext.create_analyzer("guided_backprop", model, unsupported="gradient")
    assert analyzer.explain(x).extras["approximated"] == (model.layers[1].name,)


@pytest.mark.parametrize("name", HARMLESS)
def test_other_nodes_that_stay_whole_are_none_of_theirs(name):
    model = net(HARMLESS[name]())
    for method in METHODS if name == "smooth" else METHODS[:2]:
        innv_ext.create_analyzer(method, model)


@pytest.mark.parametrize("method", ["pattern.net", "pattern.attribution"])
@pytest.mark.parametrize("name", ["tanh", "hard sigmoid"])
def test_patterns_refuse_recurrent_layers_whatever_is_inside(name, method):
    """Their weights would act as they are, where the method has patterns; the gradient only where it is asked for."""
    model, x = net(HARMLESS[name]()), np.random.default_rng(0).normal(size=(9, 4, 3)).astype("float32")
    with pytest.raises(NoRuleError, match=rf"{model.layers[1].name} \((.|\n)*at every step(.|\n)*an LRP rule"):
        innv_ext.create_analyzer(method, model)
    with pytest.warns(ApproximationWarning, match=model.layers[1].name):
        analyzer = innv_ext.create_analyzer(method, model, unsupported="gradient")
    assert analyzer.fit(x).analyze(x).any()
