"""Small models of every kind that users bring, with sample inputs and what may be asked of each.

``make(name, dtype)`` returns a cached ``Sample`` whose weights, biases and batch statistics are random but the same in
every run (fresh Keras layers have zero biases and trivial statistics, which would hide errors). ``create`` builds any
analyzer with the parameters that it needs, cheaply; a new analyzer with needed parameters gets a row in ``PARAMS``.
"""

import functools
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import innv_ext

# --- analyzers ---------------------------------------------------------------------------------------------------

PARAMS = {  # needed by the method, or what makes it cheap
    "smoothgrad": {"augment_by_n": 3},
    "integrated_gradients": {"steps": 4},
    "deep_taylor.bounded": {"low": -3.0, "high": 3.0},
    "lrp.epsilon_gamma_box": {"low": -3.0, "high": 3.0},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer": 1},
    "lrp.rule_until_idx": {"rule": "epsilon", "until_layer": 1},
    "deep_lift": {"steps": 4},
    "deep_shap": {"background": 3, "steps": 4},
    "gradient_shap": {"background": 3, "samples": 4},
    "lime": {"samples": 12, "segments": "grid", "n_segments": 4},
    "kernel_shap": {"samples": 24, "background": 2, "segments": "grid", "n_segments": 4},
    "prediction_difference": {"samples": 2},
    "rise": {"samples": 12, "probability": 0.1},  # so little is shown that mean scores may be negative
    "l_rde": {"max_iter": 3},
    "rc_rde": {"rate": 2, "max_iter": 3},
    "mr_rde": {"rates": (1, 3), "max_iter": 3},
    "ord_rde": {"rates": 3, "max_iter": 3},
    "caso": {"max_iter": 20},
    "smooth_cafo": {"augment_by_n": 3},
    "smooth_caso": {"augment_by_n": 3, "max_iter": 20},
    "moreau_grad": {"rho": 0.3, "steps": 4},
    "sparse_moreau_grad": {"rho": 0.3, "steps": 4, "eta": 0.02},
    "group_sparse_moreau_grad": {"rho": 0.3, "steps": 4, "eta": 0.02, "group_size": 2},
}
QUICK = [  # what the analyzers say to so few iterations and samples to fit on
    pytest.mark.filterwarnings("ignore:Deep Taylor explains positive scores only"),
    pytest.mark.filterwarnings("ignore::innv_ext.errors.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::innv_ext.errors.ZeroMapWarning"),
    pytest.mark.filterwarnings("ignore::innv_ext.errors.DeadNeuronWarning"),
    pytest.mark.filterwarnings("ignore:.*patches don.t tell:UserWarning"),
]
NAMES = [info.name for info in innv_ext.list_analyzers()]
INFOS = {info.name: info for info in innv_ext.list_analyzers()}
NOISE = {"random"}  # doesn't look at x: one by one, it starts its draws again
ALIASES = {  # two names of one method; test_contract holds this
    "gradient.baseline": "gradient",
    "lrp": "lrp.z",
    "lrp.alpha_beta": "lrp.alpha_2_beta_1",
    "lrp.excitation_backprop": "lrp.z_plus",
}
DISTINCT = [name for name in NAMES if name not in ALIASES]
# Every rule, solver and way of walking once; composites are tables of these.
OTHERS = r"_IB|preset|plus_|until|alpha_1|alpha2|epsilon_plus|random|smooth_caso|group_sparse|rc_rde|layer_cam"
BASIC = [name for name in DISTINCT if not re.search(OTHERS, name)]


def quick(test):
    """A test that expects the warnings of quick analyzers."""
    for mark in QUICK:
        test = mark(test)
    return test


def by_rule(names):
    """Parameters of tests that hold for every analyzer: what is a table of rules that others have is slow."""
    return [pytest.param(n, marks=() if n in BASIC else pytest.mark.slow) for n in names]


def thinned(values, every=2):
    """Parameters, tuples where a test has several, of which one of ``every`` so many is not slow."""
    rows = [v if isinstance(v, tuple) else (v,) for v in values]
    return [pytest.param(*row, marks=pytest.mark.slow if i % every else ()) for i, row in enumerate(rows)]


def create(name, model, x=None, **params):
    """The analyzer ``name`` with the parameters it needs; fitted on ``x`` where it learns from data."""
    known = INFOS[name].parameters() if name in INFOS else {}
    extra = {"progress": False} if "progress" in known else {}
    analyzer = innv_ext.create_analyzer(name, model, **{**extra, **PARAMS.get(name, {}), **params})
    return analyzer.fit(x) if analyzer.needs_fit and x is not None else analyzer


def needs_positions(name):
    """Whether the analyzer looks at a layer with positions, which a table doesn't have."""
    return INFOS[name].family == "grad_cam"


def applies(name, sample):
    """Whether the analyzer must be able to explain this model; if not, it must refuse it."""
    info = INFOS[name]
    if info.family == "deep_taylor":
        return sample.relevance and sample.relu == "all"
    if info.family == "rde":
        return sample.noise
    if info.family == "pattern":
        return sample.name not in ("recurrent", "masked_lstm")
    if info.family == "moreau" or name == "prediction_difference":
        return not sample.tokens
    if needs_positions(name):
        return sample.name not in TABLES
    if info.family == "second_order":
        return sample.classes and not sample.tokens
    if info.needs_relu:
        return sample.relu != "none"
    return sample.relevance or info.family != "lrp"


# --- the models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """A model, a function that draws n inputs for it, and what applies.

    relu : "all" (or no) activations are ReLUs, "some", or "none"
    relevance : LRP has a rule for every node
    noise : the inputs can be mixed with noise (no tokens), and every node has a moment rule
    tokens : an input takes the numbers of tokens, which cannot move continuously
    classes : there is a cross-entropy: at least two classes, or sigmoid outputs
    params : constructor arguments that every analyzer of this model needs
    index : a valid neuron_selection
    """

    name: str
    model: Any
    draw: Any
    relu: str
    relevance: bool
    noise: bool
    tokens: bool
    classes: bool
    params: dict
    index: Any

    def inputs(self, n=3, seed=0):
        """n samples in the structure that the model takes."""
        return self.draw(np.random.default_rng(seed), n)


ZOO = {}
TABLES = set("mlp mlp_tanh shared two_outputs operators custom_layer multilabel regression lambda_layer noisy".split())
FLOAT32_ONLY = {"channels_first", "volume", "uint8"}  # no float64 kernel on the CPU; a fixed Input dtype


def model(draw=None, *, shape=None, relu="all", relevance=True, noise=True, classes=True, params=None, index=0):
    """Add a builder to the zoo."""

    def add(builder):
        drawer = draw or (lambda rng, n: rng.uniform(-1, 1, (n, *shape)))
        tokens = draw in (_tokens, _masked_tokens)
        ZOO[builder.__name__] = (builder, drawer, relu, relevance, noise, tokens, classes, params or {}, index)
        return builder

    return add


@contextmanager
def precision(dtype):
    """Models built inside compute in ``dtype``."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def randomise(net, seed=0, bias=0.2):
    """Random weights, biases, and batch statistics that are neither 0 nor 1; the last bias makes scores positive."""
    rng = np.random.default_rng(seed)
    last = [w for w in net.weights if w.name == "bias"][-1:]
    for w in net.weights:
        shape = tuple(w.shape)
        if not str(w.dtype).startswith("float"):
            continue  # states of random generators
        if "variance" in w.name:
            value = rng.uniform(0.5, 2.0, shape)
        elif "gamma" in w.name:
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1, 1], shape)
        elif len(shape) < 2 or w.name in ("bias", "beta", "moving_mean"):
            value = rng.normal(0, bias, shape) + any(w is b for b in last)
        else:
            value = rng.normal(0, 1.5 / np.sqrt(np.prod(shape[:-1])), shape)
        w.assign(value)
    return net


def build(function, shape, seed=0):
    """A float64 model with random weights: ``function`` of a symbolic input."""
    with precision("float64"):
        i = keras.Input(shape)
        return randomise(keras.Model(i, function(i)), seed)


@functools.cache
def make(name, dtype="float32"):
    """The model ``name`` of the zoo; cached, so don't change its weights without putting them back."""
    return fresh(name, dtype)


def fresh(name, dtype="float32"):
    """A model that the caller may change."""
    builder, draw, *facts, params, index = ZOO[name]
    keras.utils.set_random_seed(0)
    with precision(dtype):
        net = builder()
    randomise(net, zlib.crc32(name.encode()))

    def inputs(rng, n):
        return keras.tree.map_structure(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, draw(rng, n))

    return Sample(name, net, inputs, *facts, dict(params), index)


def _uniform(*shapes):
    return lambda rng, n: [rng.uniform(-1, 1, (n, *s)) for s in shapes]


def _tokens(rng, n):
    return rng.integers(1, 9, (n, 6)).astype("int32")


def _masked_tokens(rng, n):
    x = _tokens(rng, n)
    for i in range(n):
        x[i, 6 - i % 3 :] = 0
    return x


def conv(filters, size=3, **options):
    return layers.Conv2D(filters, size, padding="same", **options)


@model(shape=(6,))
def mlp():
    i = keras.Input((6,))
    y = layers.Dense(8, activation="relu")(i)
    y = layers.Dense(5, activation="relu")(y)
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@model(shape=(6,), relu="none")
def mlp_tanh():
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh")(i)
    return keras.Model(i, layers.Dense(3)(y))


@model(shape=(6, 6, 2))
def convnet():
    i = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, activation="relu")(i)
    y = layers.MaxPooling2D(2)(y)
    y = layers.Flatten()(y)
    y = layers.Dense(6, activation="relu")(y)
    return keras.Model(i, layers.Dense(3, activation="softmax")(y))


@model(shape=(6, 6, 2))
def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            conv(3, strides=2),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )


@model(shape=(6, 6, 2))
def nested():
    base = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            conv(3, activation="relu", name="base_conv"),
            keras.Sequential(
                [keras.Input((6, 6, 3)), conv(4), layers.BatchNormalization(), layers.ReLU()], name="block"
            ),
        ],
        name="base",
    )
    i = keras.Input((6, 6, 2))
    y = layers.GlobalMaxPooling2D()(base(i))
    return keras.Model(i, keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")], name="head")(y))


@model(_uniform((5,), (5,)))
def shared():
    a, b = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    tower = keras.Sequential([keras.Input((5,)), layers.Dense(6, activation="relu")], name="tower")
    return keras.Model([a, b], layers.Dense(3)(layers.Concatenate()([tower(a), tower(b)])))


@model(_uniform((6, 6, 1), (4,)))
def two_inputs():
    a, b = keras.Input((6, 6, 1), name="image"), keras.Input((4,), name="table")
    y = layers.Flatten()(layers.Conv2D(2, 3, strides=2, activation="relu")(a))
    y = layers.Concatenate()([y, layers.Dense(5, activation="relu")(b)])
    return keras.Model([a, b], layers.Dense(3, activation="softmax")(y))


@model(lambda rng, n: {"image": rng.uniform(-1, 1, (n, 6, 6, 1)), "table": rng.uniform(-1, 1, (n, 4))})
def dict_inputs():
    a, b = keras.Input((6, 6, 1), name="image"), keras.Input((4,), name="table")
    y = layers.Flatten()(layers.Conv2D(2, 3, strides=2, activation="relu")(a))
    y = layers.Concatenate()([y, layers.Dense(5, activation="relu")(b)])
    return keras.Model({"table": b, "image": a}, layers.Dense(3, activation="softmax")(y))


@model(shape=(5,), params={"output": "second"})
def two_outputs():
    i = keras.Input((5,))
    y = layers.Dense(7, activation="relu")(i)
    first = layers.Dense(4, activation="softmax", name="first")(y)
    second = layers.Dense(2, activation="softmax", name="second")(layers.Dense(4, activation="relu")(y))
    return keras.Model(i, [first, second])


@model(shape=(6, 6, 2))
def residual():
    i = keras.Input((6, 6, 2))
    y = conv(3, activation="relu")(i)
    z = layers.BatchNormalization()(conv(3, use_bias=False)(y))
    y = layers.ReLU()(layers.Add()([y, z]))
    y = layers.Add()([y, y])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


@model(shape=(6, 6, 2))
def dense_blocks():
    i = keras.Input((6, 6, 2))
    y = conv(2, activation="relu")(i)
    for _ in range(2):
        z = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Concatenate()([y, conv(2)(z)])
    y = layers.AveragePooling2D(2)(layers.ReLU()(y))
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.Flatten()(y)))


@model(shape=(6, 6, 2))
def bn_after():
    i = keras.Input((6, 6, 2))
    y = layers.ReLU()(layers.BatchNormalization()(conv(3)(i)))
    y = layers.ReLU()(layers.BatchNormalization(scale=False)(layers.Dense(4)(layers.Flatten()(y))))
    return keras.Model(i, layers.Dense(3)(y))


@model(shape=(6, 6, 2))
def bn_before():
    i = keras.Input((6, 6, 2))
    y = conv(3)(layers.BatchNormalization()(i))
    y = layers.Flatten()(layers.ReLU()(y))
    return keras.Model(i, layers.Dense(3)(layers.BatchNormalization(center=False)(y)))


@model(shape=(6, 6, 2))
def bn_preactivation():
    i = keras.Input((6, 6, 2))
    y = conv(3)(i)
    z = conv(3)(layers.ReLU()(layers.BatchNormalization()(y)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Add()([y, z])))
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


@model(shape=(6, 6, 2))
def separable():
    i = keras.Input((6, 6, 2))
    y = layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, activation="relu")(i)
    y = layers.DepthwiseConv2D(3, activation="relu6")(layers.ZeroPadding2D(1)(y))
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


@model(shape=(6, 6, 2), relu="some")
def squeeze_excite():
    i = keras.Input((6, 6, 2))
    y = conv(4, activation="relu")(i)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="relu")(gate))
    y = layers.Multiply()([y, gate])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


@model(shape=(6,))
def operators():
    rng = np.random.default_rng(5)
    dtype = keras.config.floatx()
    i = keras.Input((6,))
    y = ops.relu(layers.Dense(5)(i * 2 - 0.5))
    y = ops.matmul(y, ops.convert_to_tensor(rng.normal(size=(5, 4)), dtype))
    y = ops.maximum(y, 0.0) + ops.relu(-y) / 4
    return keras.Model(i, layers.Dense(3)(y))


class Subclassed(keras.Model):
    """An image model written with ``call``; the functional twin is in test_equivalence."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = conv(3, activation="relu", name="first")
        self.second = keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()], name="second")
        self.last = layers.Dense(3, activation="softmax", name="last")

    def call(self, x):
        y = self.second(self.first(x))
        return self.last(ops.mean(y, axis=(1, 2)))


@model(shape=(6, 6, 2))
def subclassed():
    net = Subclassed()
    net(np.zeros((1, 6, 6, 2), keras.config.floatx()))
    return net


class Gated(layers.Layer):
    """A user's layer without any Keras layer inside: relu(x w + b)."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return ops.relu(ops.matmul(x, self.w) + self.b)


@model(shape=(6,))
def custom_layer():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(3)(Gated(4)(Gated(5)(i))))


@model(shape=(5, 4), relu="none")
def transformer():
    i = keras.Input((5, 4))
    y = layers.Add()([i, layers.MultiHeadAttention(2, 3)(i, i)])
    y = layers.LayerNormalization()(y)
    z = layers.Dense(4)(layers.Dense(6, activation="gelu")(y))
    y = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([y, z])))
    return keras.Model(i, layers.Dense(3)(y))


@model(_tokens, noise=False)
def tokens():
    i = keras.Input((6,), dtype="int32")
    y = layers.Embedding(9, 4)(i)
    y = layers.Conv1D(5, 3, activation="relu")(y)
    return keras.Model(i, layers.Dense(3)(layers.GlobalMaxPooling1D()(y)))


@model(_masked_tokens, relu="none", noise=False)
def masked_lstm():
    i = keras.Input((6,), dtype="int32")
    y = layers.LSTM(5, unroll=True)(layers.Embedding(9, 4, mask_zero=True)(i))
    return keras.Model(i, layers.Dense(3)(y))


@model(shape=(5, 3), relu="some")
def recurrent():
    i = keras.Input((5, 3))
    y = layers.TimeDistributed(layers.Dense(4, activation="tanh"))(i)
    y = layers.Bidirectional(layers.GRU(3, unroll=True))(y)
    return keras.Model(i, layers.Dense(3)(layers.Dense(5, activation="relu")(y)))


@model(shape=(12, 2))
def signal():
    i = keras.Input((12, 2))
    y = layers.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu")(i)
    y = layers.MaxPooling1D(2)(y)
    y = layers.Conv1D(3, 3, padding="same", groups=1, activation="relu")(y)
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


@model(shape=(4, 4, 4, 1))
def volume():
    i = keras.Input((4, 4, 4, 1))
    y = layers.Conv3D(3, 2, activation="relu")(layers.AveragePooling3D(2, strides=1)(i))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


@model(shape=(2, 6, 6))
def channels_first():
    first = {"data_format": "channels_first"}
    i = keras.Input((2, 6, 6))
    y = layers.Conv2D(5, 3, activation="relu", **first)(i)
    y = layers.BatchNormalization(axis=1)(y)
    y = layers.MaxPooling2D(2, **first)(y)
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


@model(shape=(4, 4, 2), index=(1, 2, 0))
def segmentation():
    i = keras.Input((4, 4, 2))
    y = layers.Conv2D(4, 2, strides=2, activation="relu")(i)
    y = layers.Conv2DTranspose(3, 2, strides=2, activation="relu")(y)
    y = layers.UpSampling2D(2)(layers.MaxPooling2D(2)(y))
    return keras.Model(i, layers.Conv2D(2, 1, activation="softmax")(y))


@model(shape=(6,), index=1)
def multilabel():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(4, activation="sigmoid")(layers.Dense(5, activation="relu")(i)))


@model(shape=(6,), classes=False)
def regression():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(1)(layers.LeakyReLU(0.1)(layers.Dense(5)(i))))


@model(shape=(6,))
def lambda_layer():
    i = keras.Input((6,))
    y = layers.Dense(5, activation="relu")(layers.Lambda(lambda t: t * 0.5 + 0.1)(i))
    return keras.Model(i, layers.Dense(3)(y))


@model(shape=(6,))
def noisy():
    i = keras.Input((6,))
    y = layers.Dense(5, activation="relu")(layers.GaussianNoise(0.9)(i))
    y = layers.Dense(4, activation=keras.activations.relu)(layers.Dropout(0.7)(y))
    return keras.Model(i, layers.Dropout(0.5)(layers.Dense(3, activity_regularizer="l2")(y)))


@model(shape=(6, 5, 2))
def free_size():
    i = keras.Input((None, None, 2))
    y = conv(4, activation="relu")(i)
    y = layers.MaxPooling2D(2)(y)
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


@model(lambda rng, n: rng.integers(0, 256, (n, 6, 6, 1)).astype("uint8"))
def uint8():
    i = keras.Input((6, 6, 1), dtype="uint8")
    y = layers.Conv2D(3, 3, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(i))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(y)))


MODELS = list(ZOO)
