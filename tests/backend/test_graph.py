"""trace(): every kind of Keras model becomes a program that computes exactly what the model computes."""

import inspect
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops, tree

from innv_ext.backend import facts, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.tracing import trace
from innv_ext.backend.tracing.state import recorded_training_counts
from innv_ext.errors import UnsupportedModelError

CASES = {}


def case(function):
    """A model of the zoo of this file: traced, compared and inspected by the parametrised tests below."""
    CASES[function.__name__] = function
    return function


def traced(model):
    return trace(model, facts.is_leaf)


def randomised(model):
    """Biases and statistics are zero or one by default, which would hide errors."""
    rng = np.random.default_rng(1)
    for v in model.variables:
        if keras.backend.standardize_dtype(v.dtype).startswith("float"):
            low = 0.5 if "variance" in v.path else -0.8
            v.assign(rng.uniform(low, 0.8, v.shape))
    return model


def feed(graph):
    """One random tensor per input of the graph; small integers for tokens."""
    rng = np.random.default_rng(2)
    found = []
    for spec in (graph.specs[s] for s in graph.inputs):
        shape = (3, *(4 if d is None else d for d in spec.shape[1:]))
        values = rng.uniform(-1, 1, shape) if spec.dtype.startswith("float") else rng.integers(0, 3, shape)
        found.append(ops.convert_to_tensor(values.astype(spec.dtype)))
    return found


def structured(model, xs):
    return tree.pack_sequence_as(model._inputs_struct, xs) if hasattr(model, "_inputs_struct") else xs


def call(model, xs):
    functional = getattr(model, "_functional", None) or model
    given = structured(functional, xs)
    given = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
    return [np.asarray(y) for y in tree.flatten(model(given, training=False))]


def keys(graph):
    return [op_key(n.op) for n in graph.nodes]


def assert_exact(model):
    """The graph as traced, before any rewriting, differs from the model by exactly 0."""
    graph = traced(model)
    xs = feed(graph)
    for expected, received in zip(call(model, xs), walk.evaluate(graph, xs), strict=True):
        assert expected.shape == tuple(received.shape)
        np.testing.assert_array_equal(expected, np.asarray(received))
    return graph


# --- the models ---------------------------------------------------------------------------------------------------


@case
def functional():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    h = L.BatchNormalization()(h)
    h = L.Flatten()(L.MaxPooling2D(2)(h))
    return keras.Model(x, L.Dense(3, activation="softmax")(h))


@case
def sequential():
    return keras.Sequential([keras.Input((6,)), L.Dense(5, "tanh"), L.Dropout(0.5), L.Dense(2)])


@case
def sequential_built_by_call():
    model = keras.Sequential([L.Dense(5, "relu"), L.Dense(2)])
    model(np.zeros((1, 6), "float32"))
    return model


@case
def sequential_built_by_shape():
    model = keras.Sequential([L.Dense(5, "relu"), keras.Sequential([L.Dense(4), L.LeakyReLU()]), L.Dense(2)])
    model.build((None, 6))
    return model


@case
def nested_deep():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(4, "relu", name="a"), L.Dense(4, name="b")], name="inner")
    i = keras.Input((5,))
    middle = keras.Model(i, L.Add(name="sum")([inner(i), L.Dense(4, name="c")(i)]), name="middle")
    outer = keras.Sequential([keras.Input((5,)), middle, L.ReLU(name="r")], name="outer")
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(2, "softmax", name="head")(outer(L.Dense(5, name="stem")(x))), name="whole")


@case
def shared_layer():
    dense, a, b = L.Dense(4, "relu", name="shared"), keras.Input((5,)), keras.Input((5,))
    return keras.Model([a, b], L.Dense(2)(L.Concatenate()([dense(a), dense(b), dense(a)])))


@case
def shared_nested_model():
    tower = keras.Sequential([keras.Input((5,)), L.Dense(4, "relu"), L.BatchNormalization()], name="tower")
    a, b = keras.Input((5,)), keras.Input((5,))
    return keras.Model([a, b], L.Dense(2)(L.Subtract()([tower(a), tower(b)])))


@case
def same_layer_twice_on_the_same_tensor():
    x, dense = keras.Input((5,)), L.Dense(4, "tanh", name="twice")
    return keras.Model(x, L.Concatenate()([dense(x), dense(x)]))


@case
def layer_on_its_own_output():
    x, dense = keras.Input((5,)), L.Dense(5, "tanh", name="again")
    return keras.Model(x, dense(dense(dense(x))))


@case
def add_x_x():
    x = keras.Input((5,))
    h = L.Dense(4)(x)
    return keras.Model(x, L.Add()([h, h]) * L.Multiply()([h, h, h]))


@case
def input_is_output():
    x = keras.Input((5,))
    return keras.Model(x, [x, L.Dense(2)(x), x])


@case
def output_twice():
    x = keras.Input((5,))
    h = L.Dense(2)(x)
    return keras.Model(x, {"first": h, "second": h, "third": ops.relu(h)})


@case
def list_inputs_and_outputs():
    a, b = keras.Input((5,)), keras.Input((4, 4, 2))
    h = L.Concatenate()([L.Dense(3)(a), L.GlobalAveragePooling2D()(b)])
    return keras.Model([a, b], [L.Dense(2)(h), L.Dense(3, "sigmoid")(h)])


@case
def dict_inputs_and_outputs():
    # alphabetical order differs from the order of definition
    z, a = keras.Input((5,), name="z"), keras.Input((3,), name="a")
    return keras.Model({"z": z, "a": a}, {"y": L.Dense(2)(z), "b": L.Dense(4)(L.Concatenate()([z, a]))})


@case
def nested_structures():
    a, b, c = (keras.Input((n,)) for n in (2, 3, 4))
    h = L.Concatenate()([a, b, c])
    outputs = {"p": [L.Dense(2)(h), L.Dense(3)(h)], "q": (L.Dense(4)(h),)}
    return keras.Model({"m": [a, b], "n": c}, outputs)


@case
def nested_multi_input_model():
    a, b = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    inner = keras.Model({"right": b, "left": a}, [L.Dense(2)(b), L.Dense(2)(L.Concatenate()([a, b]))], name="pair")
    x, y = keras.Input((3,)), keras.Input((4,))
    one, two = inner({"left": x, "right": y})
    three, _ = inner({"left": ops.tanh(x), "right": y})
    return keras.Model([x, y], L.Concatenate()([one - two, three]))


@case
def operators_and_constants():
    x = keras.Input((4, 3))
    y = (2.0 - x) * 3.0 + np.arange(3, dtype="float32") - x / 4.0
    y = -y @ np.linspace(-1, 1, 6, dtype="float32").reshape(3, 2)
    y = ops.abs(y) ** 2.0 + 1.0 / (1.0 + ops.square(y))
    return keras.Model(x, ops.sum(y[:, 1:, ::-1], axis=(1, 2), keepdims=True))


@case
def operations_with_keyword_arguments():
    x = keras.Input((6, 4))
    padded = ops.pad(x, [(0, 0), (1, 0), (0, 0)], constant_values=0.5)
    y = ops.concatenate([ops.roll(x, shift=2, axis=1), padded], axis=1)
    first, second = ops.split(y, 2, axis=-1)
    y = ops.einsum("bij,bkj->bik", first, second)
    y = ops.clip(ops.max(y, axis=1, keepdims=False), x_min=-0.3, x_max=0.4)
    y = ops.leaky_relu(y, negative_slope=0.3) + ops.mean(x, axis=[1, 2], keepdims=True)[:, 0]
    return keras.Model(x, ops.moveaxis(ops.expand_dims(y, axis=1), source=1, destination=2))


@case
def operation_with_list_of_constants_and_tensors():
    x = keras.Input((3,))
    return keras.Model(x, ops.stack([x, ops.relu(x), x * 0.5], axis=1))


class Block(L.Layer):
    """A user's layer made of layers and operations."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.norm, self.drop = L.Dense(units, "gelu"), L.LayerNormalization(), L.Dropout(0.5)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.inner.build(shape)
        self.norm.build((*shape[:-1], self.inner.units))

    def call(self, x, factor=1.0, training=None):
        y = self.drop(self.norm(self.inner(x * self.scale)), training=training)
        return y * factor if not training else y * 100.0


@case
def custom_layer():
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(Block(4, name="block")(x, factor=0.5)))


class Outer(L.Layer):
    """A user's layer that contains a user's layer and a model, called twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(4, name="block")
        self.net = keras.Sequential([keras.Input((4,)), L.Dense(4, "relu", name="d")], name="net")

    def build(self, shape):
        self.block.build(shape)

    def call(self, x):
        h = self.block(x)
        return {"sum": self.net(h) + self.net(ops.relu(h)), "h": h}


@case
def custom_layer_nested_with_several_outputs():
    x = keras.Input((5,))
    found = Outer(name="outer")(x)
    return keras.Model(x, L.Concatenate()([found["sum"], found["h"]]))


class Pair(L.Layer):
    """Takes two tensors, one as a keyword argument."""

    def call(self, a, other=None):
        return a * ops.sigmoid(other), a - other


@case
def custom_layer_with_keyword_tensor():
    a, b = keras.Input((5,)), keras.Input((5,))
    p, q = Pair()(a, other=b)
    return keras.Model([a, b], L.Concatenate()([p, q]))


class DynamicShape(L.Layer):
    """Reads the batch size, which is None on a KerasTensor."""

    def call(self, x):
        return ops.reshape(x, (ops.shape(x)[0], 6)) + ops.cast(ops.shape(x)[1], x.dtype)

    def compute_output_shape(self, shape):
        return (shape[0], 6)


@case
def custom_layer_that_reads_the_shape():
    x = keras.Input((3, 2))
    return keras.Model(x, L.Dense(2)(DynamicShape()(x)))


class RawTensorFlow(L.Layer):
    """Cannot be opened: its call uses functions of TensorFlow."""

    def call(self, x):
        return tf.nn.relu(x) + tf.reduce_sum(x, axis=-1, keepdims=True)


@case
def raw_tensorflow_layer():
    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(RawTensorFlow(name="raw")(x)))


@case
def half_openable_layer():
    class Half(L.Layer):
        """Opening fails after some nodes were made: they must be taken back."""

        def __init__(self):
            super().__init__(name="half")
            self.dense, self.raw = L.Dense(5, name="dense"), RawTensorFlow(name="raw")

        def call(self, x):
            return tf.tanh(self.raw(self.dense(x)))

    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(Half()(x)))


class Subclassed(keras.Model):
    """An imperative model with a residual, a nested functional model and dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        i = keras.Input((4,))
        self.first, self.last, self.drop = L.Dense(4, "relu", name="first"), L.Dense(2, "softmax"), L.Dropout(0.5)
        self.net = keras.Model(i, L.Dense(4, "tanh", name="in_net")(i), name="net")

    def call(self, x, training=None):
        h = self.first(x)
        h = h + self.net(self.drop(h, training=training))
        return self.last(h)


@case
def subclassed_built_by_call():
    model = Subclassed()
    model(np.zeros((2, 6), "float32"))
    return model


@case
def subclassed_built_by_build():
    class WithBuild(Subclassed):
        def build(self, shape):
            self.first.build(shape)
            self.last.build((None, 4))
            self.built = True

    model = WithBuild()
    model.build((None, 6))
    return model


class TwoInputs(keras.Model):
    """Takes a list or a dict, returns a dict."""

    def __init__(self, form):
        super().__init__()
        self.form, self.a, self.b = form, L.Dense(3), L.Dense(3)

    def call(self, inputs):
        x, y = (inputs["u"], inputs["v"]) if self.form is dict else inputs
        return {"sum": self.a(x) + self.b(y), "a": self.a(x)}


@case
def subclassed_with_a_list():
    model = TwoInputs(list)
    model([np.zeros((1, 5), "float32"), np.zeros((1, 4), "float32")])
    model._inputs_struct = [0, 0]  # tells call() of this file how to pack
    return model


@case
def subclassed_with_a_dict():
    model = TwoInputs(dict)
    model({"u": np.zeros((1, 5), "float32"), "v": np.zeros((1, 4), "float32")})
    model._inputs_struct = {"u": 0, "v": 0}
    return model


@case
def subclassed_inside_functional():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(3)(Subclassed(name="sub")(L.Dense(6)(x))))


@case
def subclass_of_functional():
    class Own(keras.Model):
        """The functional constructor in a subclass, with an own training step."""

        def train_step(self, data):
            raise NotImplementedError

    x = keras.Input((5,))
    return Own(x, L.Dense(2, "relu")(x))


@case
def model_as_part_of_another():
    base = functional()
    features = keras.Model(base.input, base.layers[-2].output, name="features")
    x = keras.Input((8, 8, 3))
    return keras.Model(x, L.Dense(2, "relu")(features(x)))


@case
def part_of_a_model():
    base = functional()
    return keras.Model(base.layers[2].input, base.layers[-1].output)


@case
def self_attention():
    x = keras.Input((5, 4))
    return keras.Model(x, L.MultiHeadAttention(2, 3, name="mha")(x, x))


@case
def cross_attention():
    x, y = keras.Input((5, 4)), keras.Input((6, 3))
    return keras.Model([x, y], L.MultiHeadAttention(2, 3, name="mha")(x, value=y, use_causal_mask=False))


@case
def causal_attention_with_scores():
    x = keras.Input((5, 4))
    y, scores = L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True, return_attention_scores=True)
    return keras.Model(x, [y, scores])


@case
def attention_with_mask_input():
    x, mask = keras.Input((5, 4)), keras.Input((5, 5), dtype="bool")
    return keras.Model([x, mask], L.MultiHeadAttention(2, 3)(x, x, attention_mask=mask))


@case
def attention_layers():
    q, v = keras.Input((5, 4)), keras.Input((6, 4))
    dot = L.Attention(use_scale=True)([q, v])
    causal = L.Attention()([q, v], use_causal_mask=True)
    return keras.Model([q, v], L.Concatenate()([dot, L.AdditiveAttention()([q, v]), causal]))


@case
def grouped_query_attention():
    x = keras.Input((5, 8))
    return keras.Model(x, L.GroupQueryAttention(3, 4, 2)(x, x))


@case
def group_normalization():
    x = keras.Input((4, 4, 6))
    return keras.Model(x, L.GroupNormalization(3)(x))


@case
def spectral_normalization():
    x = keras.Input((6, 6, 2))
    return keras.Model(x, L.SpectralNormalization(L.Conv2D(3, 3, activation="relu"))(x))


@case
def lambda_layers():
    x = keras.Input((5,))
    y = L.Lambda(lambda t, k: ops.relu(t) * k, arguments={"k": 3.0})(x)
    return keras.Model(x, L.Dense(2)(L.Lambda(tf.nn.softsign)(y)))


@case
def recurrent_layers():
    x = keras.Input((5, 4))
    h = L.TimeDistributed(L.Dense(3, "relu"))(x)
    h = L.Bidirectional(L.LSTM(3, return_sequences=True))(h)
    h, state = L.GRU(3, return_sequences=True, return_state=True)(h)
    return keras.Model(x, [L.RNN(L.LSTMCell(2))(h), L.SimpleRNN(2)(h, initial_state=L.Dense(2)(state))])


@case
def masked_tokens():
    x = keras.Input((6,), dtype="int32")
    h = L.Dense(4)(L.Embedding(5, 3, mask_zero=True)(x))
    return keras.Model(x, L.Dense(2)(L.LSTM(3)(h)))


@case
def masked_average_and_attention():
    x = keras.Input((6,), dtype="int32")
    h = L.Embedding(5, 4, mask_zero=True)(x)
    h = L.LayerNormalization()(L.Add()([h, L.MultiHeadAttention(2, 2)(h, h)]))
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Activation("relu")(h)))


@case
def masked_twice_and_residual():
    x = keras.Input((6,), dtype="int32")
    h = L.Embedding(5, 4, mask_zero=True)(x)
    a = L.MultiHeadAttention(2, 2)(h, h)
    b = L.MultiHeadAttention(1, 2)(L.LayerNormalization()(L.Add()([a, h])), h)
    return keras.Model(x, [L.GlobalAveragePooling1D()(y) for y in (h, a, L.Add()([a, h]), b, L.Add()([b, a]))])


@case
def masked_nested_model():
    i = keras.Input((6, 3))
    inner = keras.Model(i, L.GRU(3)(L.Dropout(0.3)(i)))
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, inner(L.Embedding(5, 3, mask_zero=True)(x)))


@case
def masked_batchnorm():
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, L.LSTM(3)(L.BatchNormalization()(L.Embedding(5, 3, mask_zero=True)(x))))


@case
def masking_layer():
    x = keras.Input((6, 3))
    return keras.Model(x, L.LSTM(3)(L.Masking(mask_value=0.0)(ops.relu(x))))


@case
def integer_images():
    x = keras.Input((6, 6, 3), dtype="uint8")
    return keras.Model(x, L.Flatten()(L.Conv2D(2, 3)(L.Rescaling(1 / 255)(x))))


@case
def free_dimensions():
    x = keras.Input((None, None, 2))
    return keras.Model(x, L.Dense(2)(L.GlobalMaxPooling2D()(L.Conv2D(3, 3, padding="same")(x))))


@case
def mixed_dtypes():
    x = keras.Input((5,), dtype="float64")
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3)], name="inner")
    return keras.Model(x, inner(L.Dense(4, dtype="float64")(x)))


def dropout_called_with_training_true():
    x = keras.Input((50,))
    return keras.Model(x, L.Dropout(0.5)(x, training=True))


if not recorded_training_counts():  # predict and model(x, training=False) overrule the recorded argument
    case(dropout_called_with_training_true)


@case
def batchnorm_called_with_training_true():
    x = keras.Input((5,))
    return keras.Model(x, L.BatchNormalization()(x, training=True))


@case
def nested_model_called_with_training_true():
    inner = keras.Sequential([keras.Input((5,)), L.BatchNormalization(), L.Dense(2)])
    x = keras.Input((5,))
    return keras.Model(x, inner(x, training=True))


@case
def subclassed_batchnorm_with_training_true():
    # here call() itself asks for the statistics of the batch, and Keras does so in inference too
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.dense = L.BatchNormalization(momentum=1.0), L.Dense(2)

        def call(self, x):
            return self.dense(self.norm(x, training=True))

    model = Own()
    model(np.zeros((2, 5), "float32"))
    return model


@case
def augmentation_layers():
    augment = keras.Sequential([L.RandomFlip(), L.RandomRotation(0.3), L.RandomContrast(0.5)], name="augment")
    x = keras.Input((6, 6, 3))
    return keras.Model(x, L.Flatten()(L.RandomBrightness(0.5, value_range=(0, 1))(augment(x))))


@case
def augmentation_in_a_custom_layer():
    class Augment(L.Layer):
        def __init__(self):
            super().__init__()
            self.zoom = L.RandomZoom(0.5)

        def call(self, x):
            return self.zoom(x)

    x = keras.Input((6, 6, 3))
    return keras.Model(x, L.Flatten()(Augment()(x)))


@case
def activity_losses():
    class WithLoss(L.Layer):
        def call(self, x):
            self.add_loss(ops.sum(ops.square(x)))
            return x * 2.0

    x = keras.Input((5,))
    h = L.Dense(4, activity_regularizer="l2", kernel_regularizer="l1")(x)
    return keras.Model(x, WithLoss()(L.ActivityRegularization(0.1)(h)))


@case
def layers_that_keep_state():
    class Stateful(L.Layer):
        """Stores tensors and counts its calls."""

        def __init__(self):
            super().__init__()
            self.calls, self.last = 0, None

        def call(self, x):
            self.calls += 1
            self.last = x
            self.newest = ops.relu(x)
            return self.newest

    x = keras.Input((5,))
    return keras.Model(x, L.Dense(2)(Stateful()(x)))


# --- what holds for all of them -----------------------------------------------------------------------------------


@pytest.fixture(params=list(CASES), scope="module")
def found(request):
    """(name, model, graph) of every case, built and traced once."""
    keras.utils.set_random_seed(0)
    model = randomised(CASES[request.param]())
    return request.param, model, traced(model)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_forward_equals_the_model_exactly(found):
    _, model, graph = found
    xs = feed(graph)
    expected = call(model, xs)
    received = walk.evaluate(graph, xs)
    env = walk.forward(graph, xs)
    assert len(expected) == len(received) == len(graph.outputs)
    for e, r, slot in zip(expected, received, graph.outputs, strict=True):
        assert e.shape == tuple(r.shape)
        np.testing.assert_array_equal(e, np.asarray(r))
        np.testing.assert_array_equal(e, np.asarray(env.slots[slot]))


def test_nodes_are_a_straight_line_program(found):
    _, model, graph = found
    assert [n.index for n in graph.nodes] == list(range(len(graph.nodes)))
    names = [n.name for n in graph.nodes]
    assert len(set(names)) == len(names)
    written = set(graph.inputs)
    for node in graph.nodes:
        assert written.issuperset(node.inputs), f"{node.name} reads what nobody wrote"
        assert not written.intersection(node.outputs), f"{node.name} overwrites a slot"
        written.update(node.outputs)
        assert node.layers and node.name.split("#")[0] == "/".join(node.layers)
    assert written.issuperset(graph.outputs) and written == set(graph.specs)
    assert written.issuperset(graph.layer_slots.values())
    for node in graph.nodes:
        outermost = [i for i, layer in enumerate(model.layers) if layer.name == node.layers[0]]
        assert node.position == (outermost[0] if outermost else None)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_specs_are_the_shapes_and_dtypes_of_the_values(found):
    _, _, graph = found
    env = walk.forward(graph, feed(graph))
    for slot, spec in graph.specs.items():
        value = env.slots[slot]
        assert keras.backend.standardize_dtype(value.dtype) == spec.dtype
        assert len(value.shape) == len(spec.shape)
        # a model built on data of one sample has a recorded batch size, which binds nobody
        assert all(s is None or s == v for s, v in list(zip(spec.shape, value.shape, strict=True))[1:])


def snapshot(model):
    """What a user could notice on the model and everything inside it."""
    found = {}
    for layer in model._flatten_layers():
        found[id(layer)] = {
            "inbound": len(layer._inbound_nodes), "outbound": len(layer._outbound_nodes),
            "losses": [id(v) for v in layer._losses], "attributes": {k: id(v) for k, v in vars(layer).items()},
            "weights": [ops.convert_to_numpy(v) for v in layer.variables], "built": layer.built,
        }
    return found


def assert_same_snapshot(before, after):
    assert before.keys() == after.keys()
    for key, old in before.items():
        new = after[key]
        assert {k: v for k, v in old.items() if k != "weights"} == {k: v for k, v in new.items() if k != "weights"}
        for a, b in zip(old["weights"], new["weights"], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_the_model_is_left_as_it_was(found):
    name, model, graph = found
    call(model, feed(graph))  # fills the losses of activity regularisers
    before, losses = snapshot(model), [float(v) for v in model.losses]
    traced(model)
    assert_same_snapshot(before, snapshot(model))
    assert losses == [float(v) for v in model.losses]
    assert bool(losses) == (name == "activity_losses")


def test_tracing_twice_gives_the_same_program(found):
    """Rules by name and relevance per layer need names that do not depend on what was traced before."""
    _, model, graph = found
    again = traced(model)
    assert [n.name for n in again.nodes] == [n.name for n in graph.nodes]
    assert [(n.inputs, n.outputs, n.layers, n.position) for n in again.nodes] == [
        (n.inputs, n.outputs, n.layers, n.position) for n in graph.nodes
    ]
    assert again.layer_slots == graph.layer_slots and again.specs == graph.specs


def test_tracing_does_not_use_up_names_of_the_users_next_layers():
    """Keras numbers layers and operations by one global counter per name: L.Add() is called add_7 after add_6."""
    models = [self_attention(), subclassed_built_by_call()]
    L.Add()  # the first one has no number
    before = int(L.Add().name.rsplit("_", 1)[1])
    for model in models:
        traced(model)
    assert L.Add().name == f"add_{before + 1}"


def test_building_without_weights_is_refused_or_works_but_breaks_nothing():
    """build() of a model without a build method marks it built while its layers are not (Keras warns about it)."""
    class NoBuild(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = NoBuild()
    with pytest.warns(UserWarning, match="build"):
        model.build((None, 6))
    try:
        traced(model)
    except UnsupportedModelError as error:
        assert "not built" in str(error)
    assert tuple(model(np.zeros((2, 6), "float32")).shape) == (2, 3)


def test_the_model_is_left_as_it_was_after_an_error():
    class Unfit(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            self.seen = self.dense(x)
            return tf.nn.relu(self.seen)

    model = Unfit()
    model(np.zeros((1, 4), "float32"))
    before = snapshot(model)
    graph = traced(model)
    assert keys(graph) == ["custom:Unfit"] and "KerasTensor" in graph.nodes[0].note
    assert_same_snapshot(before, snapshot(model))


def test_layer_slots_hold_the_layers_outputs():
    """Against a model that ends at that layer."""
    model = randomised(functional())
    graph = traced(model)
    xs = feed(graph)
    env = walk.forward(graph, xs)
    layers = [layer for layer in model.layers if not isinstance(layer, L.InputLayer)]
    assert set(graph.layer_slots) == {layer.name for layer in layers}
    for layer in layers:
        expected = keras.Model(model.input, layer.output)(xs[0], training=False)
        np.testing.assert_array_equal(np.asarray(expected), np.asarray(env.slots[graph.layer_slots[layer.name]]))


def test_layer_slots_and_names_of_nested_models():
    model = randomised(nested_deep())
    graph = traced(model)
    env = walk.forward(graph, feed(graph))
    inner = model.get_layer("outer").get_layer("middle").get_layer("inner")
    at = {path: np.asarray(env.slots[slot]) for path, slot in graph.layer_slots.items()}
    assert [n.name for n in graph.nodes] == [
        "stem", "outer/middle/inner/a", "outer/middle/inner/b", "outer/middle/c", "outer/middle/sum", "outer/r", "head",
    ]
    stem = ops.convert_to_tensor(at["stem"])
    np.testing.assert_array_equal(at["outer/middle/inner"], np.asarray(inner(stem)))
    np.testing.assert_array_equal(at["outer/middle/inner"], at["outer/middle/inner/b"])
    np.testing.assert_array_equal(at["outer/middle"], at["outer/middle/sum"])
    np.testing.assert_array_equal(at["outer"], np.asarray(model.get_layer("outer")(stem)))
    assert {n.position for n in graph.nodes if n.layers[0] == "outer"} == {model.layers.index(model.get_layer("outer"))}


# --- single cases -------------------------------------------------------------------------------------------------


def test_keras_layers_stay_whole_and_users_layers_are_opened():
    assert keys(traced(custom_layer())) == ["multiply", "Dense", "LayerNormalization", "Dropout", "multiply", "Dense"]
    assert keys(traced(recurrent_layers())) == [
        "reshape", "Dense", "reshape", "Bidirectional", "GRU", "RNN", "Dense", "SimpleRNN",
    ]
    attention = keys(traced(self_attention()))
    assert attention.count("EinsumDense") == 4 and len(attention) > 4 and "MultiHeadAttention" not in attention
    assert keys(traced(spectral_normalization()))[0] == "Conv2D"
    assert "relu" in keys(traced(lambda_layers()))


def test_a_layer_that_cannot_be_opened_stays_one_node_with_the_reason():
    graph = traced(raw_tensorflow_layer())
    node = graph.nodes[0]
    assert keys(graph) == ["custom:RawTensorFlow", "Dense"] and node.name == "raw"
    assert "KerasTensor" in node.note and not graph.nodes[1].note


def test_a_failed_attempt_to_open_leaves_no_nodes_slots_or_names_behind():
    graph = traced(half_openable_layer())
    assert keys(graph) == ["custom:Half", "Dense"] and graph.nodes[0].name == "half"
    assert sorted(graph.specs) == [0, 1, 2] and set(graph.layer_slots) == {"half", graph.nodes[1].name}


def test_a_keras_mask_goes_into_what_is_opened():
    graph = traced(masked_average_and_attention())
    assert "MultiHeadAttention" not in keys(graph) and not any(n.note for n in graph.nodes)
    attention = [n for n in graph.nodes if op_key(n.op) == "dot_product_attention"]
    assert any(len(n.inputs) > 3 for n in attention)  # query, key, value and the mask


def test_a_mask_changes_the_result_of_the_masked_model():
    """So that the equality above says something about masks."""
    model = randomised(masked_tokens())
    graph = traced(model)
    tokens = np.array([[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 1, 2]], "int32")
    expected = np.asarray(model(tokens, training=False))
    np.testing.assert_array_equal(expected, np.asarray(walk.evaluate(graph, [ops.convert_to_tensor(tokens)])[0]))
    embedding, dense, lstm, head = (layer for layer in model.layers if layer.variables)
    unmasked = head(lstm(ops.convert_to_tensor(np.asarray(dense(embedding(tokens))))))
    assert np.abs(np.asarray(unmasked)[0] - expected[0]).max() > 1e-3


def test_shared_layers_get_one_node_per_call_with_names_of_their_own():
    graph = traced(layer_on_its_own_output())
    assert [n.name for n in graph.nodes] == ["again", "again#2", "again#3"]
    assert len({id(n.op) for n in graph.nodes}) == 1
    assert [graph.layer_slots[name] for name in ("again", "again#2", "again#3")] == [n.outputs[0] for n in graph.nodes]
    graph = traced(shared_nested_model())
    assert [n.name.endswith("#2") for n in graph.nodes] == [False, False, True, True, False, False]


def test_one_tensor_used_twice_is_two_inputs():
    graph = traced(add_x_x())
    add, multiply = graph.nodes[1], graph.nodes[2]
    assert add.inputs == (graph.nodes[0].outputs[0],) * 2
    assert len(multiply.inputs) == 3 and len(set(multiply.inputs)) == 1


def test_models_without_nodes():
    x = keras.Input((5,))
    graph = assert_exact(keras.Model(x, x))
    assert graph.nodes == () and graph.inputs == graph.outputs
    graph = assert_exact(input_is_output())
    assert graph.outputs[0] == graph.outputs[2] == graph.inputs[0]


def test_constants_stay_in_the_call():
    x = keras.Input((3,))
    graph = traced(keras.Model(x, 2.0 - x))
    (node,) = graph.nodes
    assert len(node.inputs) == 1 and len(graph.specs) == 2
    np.testing.assert_array_equal(np.asarray(node.call(ops.ones((1, 3)))), np.ones((1, 3)))


def test_weights_are_read_when_the_graph_runs():
    model = sequential()
    graph = traced(model)
    xs = feed(graph)
    before = np.asarray(walk.evaluate(graph, xs)[0])
    randomised(model)
    after = np.asarray(walk.evaluate(graph, xs)[0])
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(after, call(model, xs)[0])


def test_an_overridden_call_of_a_functional_subclass_is_not_ignored():
    class Doubled(keras.Model):
        """Functional constructor, own call: what counts is what call computes."""

        def call(self, inputs, training=None, mask=None):
            return 2.0 * super().call(inputs, training=training, mask=mask)

    x = keras.Input((5,))
    try:
        assert_exact(Doubled(x, L.Dense(2)(x)))
    except UnsupportedModelError as error:  # refusing it is honest as well
        assert "call" in str(error)


@pytest.mark.parametrize(
    "model",
    [Subclassed, lambda: keras.Sequential([L.Dense(3)]), lambda: keras.Sequential([])],
    ids=["subclassed", "sequential", "empty"],
)
def test_an_unbuilt_model_is_refused_with_the_remedy(model):
    with pytest.raises(UnsupportedModelError, match=r"not built.*build\(input_shape\).*keras\.Input"):
        traced(model())


def test_a_subclassed_model_that_cannot_run_symbolically_is_one_node():
    class Raw(keras.Model):
        def call(self, x):
            return {"a": tf.nn.relu(x), "b": tf.reduce_sum(x, axis=1)}

    model = Raw(name="raw_model")
    model(np.zeros((1, 4), "float32"))
    graph = traced(model)
    assert keys(graph) == ["custom:Raw"] and "KerasTensor" in graph.nodes[0].note and graph.keys == ("a", "b")
    assert [graph.specs[s].shape for s in graph.outputs] == [(None, 4), (None,)]
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for found, expected in zip(walk.evaluate(graph, [ops.convert_to_tensor(x)]), model(x).values(), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_model_that_takes_one_batch_size_only_is_refused_with_the_remedy():
    class Raw(keras.Model):
        def call(self, x):
            return tf.reshape(x, (4, 4))

    model = Raw(name="raw_model")
    model(np.zeros((4, 4), "float32"))
    with pytest.raises(UnsupportedModelError, match=r"(?s)raw_model.*batches of 2 and 3.*ops\.shape"):
        traced(model)


def test_sparse_and_ragged_inputs_are_refused():
    x = keras.Input((5,), sparse=True)
    with pytest.raises(UnsupportedModelError, match="sparse or ragged"):
        traced(keras.Model(x, L.Dense(2)(x)))


def test_long_chains_do_not_overflow_the_stack():
    x = y = keras.Input((2,))
    for _ in range(300):
        y = y + 1.0
    model, limit = keras.Model(x, y), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        assert len(traced(model).nodes) == 300
    finally:
        sys.setrecursionlimit(limit)


def test_rebuilt_keeps_only_what_the_outputs_need():
    graph = traced(list_inputs_and_outputs())
    smaller = graph.rebuilt(graph.nodes, outputs=(graph.outputs[1],))
    assert len(smaller.nodes) == len(graph.nodes) - 1
    assert [n.index for n in smaller.nodes] == list(range(len(smaller.nodes)))
    xs = feed(graph)
    np.testing.assert_array_equal(np.asarray(walk.evaluate(smaller, xs)[0]), np.asarray(walk.evaluate(graph, xs)[1]))


def test_producer_and_consumers():
    graph = traced(add_x_x())
    dense, add = graph.nodes[0], graph.nodes[1]
    assert graph.producer()[dense.outputs[0]] is dense
    users = graph.consumers()
    assert users[dense.outputs[0]].count(add) == 2 and users[graph.outputs[0]] == []
    assert graph.new_slot() not in graph.specs


# --- op_key -------------------------------------------------------------------------------------------------------


class OwnDense(L.Dense):
    """Counts as Dense: it changes nothing about call."""

    def __init__(self, units, note="", **kwargs):
        super().__init__(units, **kwargs)
        self.note = note


class OtherDense(L.Dense):
    """Does not count as Dense."""

    def call(self, inputs):
        return super().call(inputs) ** 2


class OwnCall(L.ReLU):
    def __call__(self, x):
        return super().__call__(x) + 1.0


def halve(x):
    return x / 2


@pytest.mark.parametrize(
    ("op", "key"),
    [
        (L.Dense(2), "Dense"), (OwnDense(2), "Dense"), (OtherDense(2), "custom:OtherDense"),
        (OwnCall(), "custom:OwnCall"),
        (L.AvgPool2D(2), "AveragePooling2D"), (keras.Sequential([]), "custom:Sequential"), (keras.ops.relu, "relu"),
        (keras.activations.gelu, "gelu"), (halve, "custom:halve"), (RawTensorFlow(), "custom:RawTensorFlow"),
    ],
)
def test_op_key(op, key):
    assert op_key(op) == key


@pytest.mark.parametrize(
    "function",
    [ops.relu, ops.relu6, ops.log_softmax, ops.leaky_relu, ops.hard_sigmoid, ops.expm1, ops.log1p, ops.exp2,
     ops.square, ops.logical_not, ops.max, ops.mean, ops.layer_normalization, ops.rms_normalization,
     ops.stop_gradient, ops.nan_to_num],
)
def test_op_key_of_a_recorded_operation_is_the_functions_name(function):
    x = keras.Input((4,))
    (node,) = traced(keras.Model(x, function(x))).nodes
    assert op_key(node.op) == function.__name__ == op_key(function)


def test_a_subclass_that_changes_call_is_opened_not_mistaken_for_its_base():
    x = keras.Input((4,))
    graph = assert_exact(randomised(keras.Model(x, L.Dense(2)(OtherDense(3)(OwnDense(3, activation="relu")(x))))))
    assert "custom:OtherDense" not in keys(graph)[:1] and keys(graph)[0] == "Dense" and keys(graph)[-1] == "Dense"
    assert len(graph.nodes) >= 3
