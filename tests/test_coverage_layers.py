# ruff: noqa: PLW0108 - layers are made when a test runs, not when this file is imported
"""Every public layer, activation and elementwise operation of Keras: explained, gradient only, or refused by name.

The tables below say which. A layer that a new version of Keras brings fails the first test until it has a row.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops, tree

import innv_ext
from innv_ext.backend import facts, kinds, walk
from innv_ext.backend.graph import op_key
from innv_ext.backend.tracing import trace
from innv_ext.errors import NoRuleError, UnsupportedModelError

VECTOR, SEQUENCE, IMAGE, VOLUME, TOKENS = (6,), (5, 4), (6, 6, 3), (4, 4, 4, 2), (5,)
EXPLAINED, GRADIENT, REFUSED = "explained", "gradient only", "refused"


class Row:
    """How a layer stands in a tiny model and what becomes of it.

    ``make(*inputs)`` gives the layer's output; ``status`` is what the analyzers do; ``reason`` why not more.
    """

    def __init__(self, make, *shapes, dtype="float32", status=EXPLAINED, reason="", low=-1.0, high=1.0):
        self.make, self.shapes, self.dtype, self.status, self.reason = make, shapes, dtype, status, reason
        self.low, self.high = low, high

    def model(self):
        xs = [keras.Input(s, dtype=self.dtype) for s in self.shapes]
        y = self.make(*xs)
        if keras.backend.standardize_dtype(y.dtype).startswith("float") and None not in y.shape[1:]:
            # without a bias in the head, a method that loses relevance on the way shows in the sum
            y = L.Dense(3, use_bias=False, name="head")(L.Flatten(name="flat")(y))
        return keras.Model(xs, y)

    def data(self):
        rng = np.random.default_rng(0)
        if self.dtype == "string":
            return [np.full((2, *s), "a", dtype=object) for s in self.shapes]
        if not self.dtype.startswith("float"):
            return [rng.integers(0, 3, (2, *s)).astype(self.dtype) for s in self.shapes]
        return [rng.uniform(self.low, self.high, (2, *s)).astype(self.dtype) for s in self.shapes]


def rows(names, *shapes, args=(), inputs=1, listed=False, row=None, **kwargs):
    """One row for each of several layers with the same arguments."""

    def make(name, *xs):
        layer = getattr(L, name)(*args, **kwargs)
        return layer(list(xs)) if listed else layer(*xs)

    return {name: Row(functools.partial(make, name), *shapes * inputs, **row or {}) for name in names.split()}


NOT_ELEMENTARY = "no structure known that relevance could follow"
NO_DERIVATIVE = "yields numbers of bins, words or crosses: no gradient"
REFUSE = {"status": REFUSED, "reason": NO_DERIVATIVE}

LAYERS = {
    # affine
    **rows("Dense", VECTOR, args=(4,)),
    "EinsumDense": Row(lambda x: L.EinsumDense("abc,cd->abd", output_shape=(5, 3))(x), SEQUENCE),
    **rows("Conv1D Conv1DTranspose", SEQUENCE, args=(4, 2)),
    **rows("Conv2D Conv2DTranspose", IMAGE, args=(4, 2)),
    **rows("Conv3D Conv3DTranspose", VOLUME, args=(4, 2)),
    **rows("DepthwiseConv1D", SEQUENCE, args=(2,), depth_multiplier=2),
    **rows("DepthwiseConv2D", IMAGE, args=(2,), depth_multiplier=2),
    **rows("SeparableConv1D", SEQUENCE, args=(3, 2)),
    **rows("SeparableConv2D", IMAGE, args=(3, 2)),
    # normalisation
    **rows("BatchNormalization LayerNormalization RMSNormalization UnitNormalization", SEQUENCE),
    **rows("GroupNormalization", SEQUENCE, args=(2,)),
    "Normalization": Row(lambda x: L.Normalization(mean=[0.1] * 6, variance=[2.0] * 6)(x), VECTOR),
    # activations and what is the identity in inference
    **rows("Activation", VECTOR, args=("relu",)),
    **rows("ReLU LeakyReLU PReLU ELU Softmax", VECTOR),
    **rows("Identity ActivityRegularization", VECTOR),
    **rows("Dropout AlphaDropout GaussianDropout GaussianNoise", VECTOR, args=(0.5,)),
    **rows("SpatialDropout1D", SEQUENCE, args=(0.5,)),
    **rows("SpatialDropout2D", IMAGE, args=(0.5,)),
    **rows("SpatialDropout3D", VOLUME, args=(0.5,)),
    "InputLayer": Row(lambda x: ops.multiply(x, 1.0), VECTOR),  # every model has one
    **rows("AugMix CutMix MixUp RandAugment RandomGrayscale RandomInvert RandomPerspective RandomErasing", IMAGE),
    **rows("RandomElasticTransform RandomFlip RandomGaussianBlur", IMAGE),
    **rows("RandomBrightness RandomContrast RandomHue RandomRotation RandomSaturation", IMAGE, args=(0.3,)),
    **rows("RandomSharpness RandomZoom RandomColorDegeneration", IMAGE, args=(0.3,)),
    **rows("RandomPosterization", IMAGE, args=(4,)),
    **rows("RandomShear RandomTranslation", IMAGE, args=(0.2, 0.2)),
    "RandomColorJitter": Row(lambda x: L.RandomColorJitter(brightness_factor=0.2)(x), IMAGE),
    # shapes
    **rows("Flatten", IMAGE),
    **rows("Reshape", IMAGE, args=((12, 9),)),
    **rows("Permute", SEQUENCE, args=((2, 1),)),
    **rows("RepeatVector", VECTOR, args=(3,)),
    **rows("ZeroPadding1D Cropping1D", SEQUENCE, args=(1,)),
    **rows("ZeroPadding2D Cropping2D", IMAGE, args=(1,)),
    **rows("ZeroPadding3D Cropping3D", VOLUME, args=(1,)),
    **rows("UpSampling1D", SEQUENCE, args=(2,)),
    **rows("UpSampling2D", IMAGE, args=(2,)),
    **rows("UpSampling3D", VOLUME, args=(2,)),
    **rows("CenterCrop", IMAGE, args=(4, 4)),
    **rows("RandomCrop", IMAGE, args=(6, 6)),  # in inference Keras declares the cropped shape but doesn't crop
    **rows("Masking", SEQUENCE),
    **rows("Rescaling", VECTOR, args=(0.1,)),
    # pooling and resizing
    **rows("AveragePooling1D MaxPooling1D AdaptiveAveragePooling1D AdaptiveMaxPooling1D", SEQUENCE, args=(2,)),
    **rows("AveragePooling2D MaxPooling2D AdaptiveAveragePooling2D AdaptiveMaxPooling2D", IMAGE, args=(2,)),
    **rows("AveragePooling3D MaxPooling3D AdaptiveAveragePooling3D AdaptiveMaxPooling3D", VOLUME, args=(2,)),
    **rows("GlobalAveragePooling1D GlobalMaxPooling1D", SEQUENCE),
    **rows("GlobalAveragePooling2D GlobalMaxPooling2D", IMAGE),
    **rows("GlobalAveragePooling3D GlobalMaxPooling3D", VOLUME),
    **rows("Resizing", IMAGE, args=(4, 5)),
    # merging
    **rows("Add Subtract Average Multiply Maximum Minimum Concatenate", VECTOR, inputs=2, listed=True),
    **rows("Dot", SEQUENCE, inputs=2, listed=True, axes=1),
    # attention and wrappers: opened
    "MultiHeadAttention": Row(lambda x: L.MultiHeadAttention(2, 3)(x, x), SEQUENCE),
    "GroupedQueryAttention": Row(lambda x: L.GroupQueryAttention(3, 4, 2)(x, x), SEQUENCE),
    **rows("Attention AdditiveAttention", SEQUENCE, inputs=2, listed=True),
    "SpectralNormalization": Row(lambda x: L.SpectralNormalization(L.Dense(3))(x), VECTOR),
    "Lambda": Row(lambda x: L.Lambda(lambda t: ops.relu(t) * 2.0)(x), VECTOR),
    "Pipeline": Row(lambda x: L.Pipeline([L.Rescaling(0.5), L.Dense(3)])(x), VECTOR),
    # tokens
    **rows("Embedding ReversibleEmbedding", TOKENS, args=(10, 3), row={"dtype": "int32"}),
    # recurrent
    **rows("LSTM GRU SimpleRNN", SEQUENCE, args=(3,), use_bias=False),
    **rows("ConvLSTM1D", (3, *SEQUENCE), args=(2, 2), use_bias=False),
    **rows("ConvLSTM2D", (3, *IMAGE), args=(2, 2), use_bias=False),
    **rows("ConvLSTM3D", (3, *VOLUME), args=(2, 2), use_bias=False),
    "RNN": Row(lambda x: L.RNN(L.LSTMCell(3, use_bias=False))(x), SEQUENCE),
    "StackedRNNCells": Row(
        lambda x: L.RNN(L.StackedRNNCells([L.GRUCell(3, use_bias=False), L.LSTMCell(2, use_bias=False)]))(x), SEQUENCE
    ),
    "Bidirectional": Row(lambda x: L.Bidirectional(L.GRU(3, use_bias=False))(x), SEQUENCE),
    "TimeDistributed": Row(lambda x: L.TimeDistributed(L.Dense(3))(x), SEQUENCE),
    "LSTMCell": Row(lambda x, h, c: L.LSTMCell(3, use_bias=False)(x, [h, c])[0], (4,), (3,), (3,)),
    "GRUCell": Row(lambda x, h: L.GRUCell(3, use_bias=False)(x, [h])[0], (4,), (3,)),
    "SimpleRNNCell": Row(lambda x, h: L.SimpleRNNCell(3, use_bias=False)(x, [h])[0], (4,), (3,)),
    # signals and pictures
    **rows(
        "MelSpectrogram", (64,), fft_length=16, sequence_stride=8, num_mel_bins=4, sampling_rate=100,
        row={"status": GRADIENT, "reason": NOT_ELEMENTARY},
    ),
    **rows(
        "STFTSpectrogram", (64, 1), frame_length=16, frame_step=8, fft_length=16,
        row={"status": GRADIENT, "reason": NOT_ELEMENTARY},
    ),
    **rows("AutoContrast", IMAGE, row={"status": GRADIENT, "reason": NOT_ELEMENTARY, "low": 0, "high": 255}),
    **rows(
        "ContrastLimitedAdaptiveHistogramEqualization", IMAGE, value_range=(0, 255), tile_grid_size=(2, 2),
        row={"status": REFUSED, "reason": "counts grey values: no gradient", "low": 0, "high": 255},
    ),
    **rows("Solarization", IMAGE, row={"status": GRADIENT, "reason": NOT_ELEMENTARY, "low": 0, "high": 255}),
    **rows("Equalization", IMAGE),  # Keras hands its symbolic input on, so that it is in no model's graph
    # preprocessing
    **rows("CategoryEncoding", (4,), args=(10,), row={"dtype": "int32", **REFUSE}),
    **rows("Discretization", VECTOR, bin_boundaries=[0.0, 1.0], row=REFUSE),
    **rows("Hashing", VECTOR, args=(5,), row={"dtype": "int32", **REFUSE}),
    **rows("IntegerLookup", VECTOR, vocabulary=[1, 2, 3], row={"dtype": "int64", **REFUSE}),
    **rows("StringLookup", VECTOR, vocabulary=["a"], row={"dtype": "string", **REFUSE}),
    **rows(
        "TextVectorization", (1,), vocabulary=["a"], output_mode="tf_idf", idf_weights=[1.0],
        row={"dtype": "string", **REFUSE},
    ),
    **rows("HashedCrossing", (1,), inputs=2, listed=True, args=(5,), row={"dtype": "int32", **REFUSE}),
    **rows("MaxNumBoundingBoxes", (3, 4), args=(2,), row={"status": GRADIENT, "reason": "handles boxes, not pictures"}),
}
NEWER = {  # than Keras 3.15; the table of kinds has them whatever Keras runs
    "TernaryDense": Row(lambda x: L.TernaryDense(4)(x), VECTOR),
    "Mosaic": Row(lambda x: L.Mosaic()(x), IMAGE),
}
LAYERS.update({name: row for name, row in NEWER.items() if hasattr(L, name)})
ELSEWHERE = {  # these wrap models of other frameworks or files
    "TFSMLayer": "a SavedModel: see the test of its own",
    "JaxLayer": "needs JAX",
    "FlaxLayer": "needs JAX and Flax",
    "TorchModuleWrapper": "needs the Torch backend",
}


def public_layers():
    """The public layer classes by the name of the class, each with all its public names."""
    found = {}
    for name in dir(L):
        cls = getattr(L, name)
        if isinstance(cls, type):
            found.setdefault(cls.__name__, {cls.__name__}).add(name)
    return found


def test_every_public_layer_has_a_kind_and_a_row():
    public = public_layers()
    assert {"Dense", "Conv2D", "MultiHeadAttention"} <= set(public) and "Convolution2D" not in public
    known = set(kinds.LAYER_KINDS) | kinds.COMPOSITE_LAYERS | kinds.ABSTRACT_LAYERS
    unknown = [name for name, names in public.items() if not names & known]
    assert unknown == [], "not in kinds.LAYER_KINDS, COMPOSITE_LAYERS or ABSTRACT_LAYERS"
    rows_missing = set(public) - kinds.ABSTRACT_LAYERS - set(LAYERS) - set(ELSEWHERE)
    assert rows_missing == set(), "not in the tables of this test"
    assert not set(kinds.LAYER_KINDS) & (kinds.COMPOSITE_LAYERS | kinds.ABSTRACT_LAYERS)


def test_the_package_lists_the_same_layers():
    assert kinds.public_layer_names() == sorted(public_layers())


def test_a_table_of_kinds_without_ghosts():
    """A misspelt name would be a row that nobody ever gets."""
    public = set().union(*public_layers().values())
    assert (set(kinds.LAYER_KINDS) | kinds.COMPOSITE_LAYERS | kinds.ABSTRACT_LAYERS) - public - set(NEWER) == set()
    known = set(dir(ops)) | set(dir(keras.activations)) | set(dir(ops.image)) | set(dir(ops.nn))
    recorded_as = {"pad_images", "crop_images"}  # classes of keras.ops.image that have other names than functions
    assert set(kinds.FUNCTION_KINDS) - known - recorded_as == set()


def tape_gradient(model, xs, target):
    """d f_target / dx by TensorFlow on the model itself, in inference."""
    tensors = [tf.constant(x) for x in xs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = model(tensors if len(tensors) > 1 else tensors[0], training=False)
        flat = tf.reshape(y, (len(xs[0]), -1))
        score = tf.gather(flat, target[:, None], batch_dims=1)
    found = tape.gradient(score, tensors, unconnected_gradients="zero")
    return [np.asarray(tf.convert_to_tensor(g)) for g in found]


def explain(name, model, xs):
    found = innv_ext.create_analyzer(name, model).explain(xs if len(xs) > 1 else xs[0])
    maps = tree.flatten(found.attribution)
    assert [a.shape for a in maps] == [x.shape for x in xs]
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in maps)
    return maps, found


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.filterwarnings("ignore:Layer 'flat'.* was passed an input with a mask")
def test_layers(name):
    row = LAYERS[name]
    model, xs = row.model(), row.data()
    for v in model.variables:  # zero would hide what a bias does to a forward pass; relevance needs none
        if "kernel" in v.path:
            v.assign(np.random.default_rng(3).uniform(-1, 1, v.shape))

    graph = trace(model, facts.is_leaf)
    tensors = [tf.constant(x) for x in xs]
    expected = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    reordered = 1e-6 if name == "TimeDistributed" else 0  # all steps at once
    received = np.asarray(walk.evaluate(graph, tensors)[0])
    np.testing.assert_allclose(received, np.asarray(expected), rtol=0, atol=reordered * np.abs(expected).max())

    layer_names = [layer.name for layer in model.layers if not isinstance(layer, L.InputLayer)]
    if row.status == REFUSED:
        assert row.reason
        for analyzer in ("gradient", "lrp.epsilon"):
            with pytest.raises(UnsupportedModelError) as error:
                innv_ext.create_analyzer(analyzer, model)
            assert layer_names[0] in str(error.value)
        return

    maps, found = explain("gradient", model, xs)
    if row.dtype.startswith("float"):
        for a, g in zip(maps, tape_gradient(model, xs, found.target), strict=True):
            np.testing.assert_allclose(a, g, rtol=1e-4, atol=1e-6 * max(1.0, np.abs(g).max()))

    if row.status == GRADIENT:
        assert row.reason
        with pytest.raises(NoRuleError) as error:
            innv_ext.create_analyzer("lrp.epsilon", model)
        assert layer_names[0] in str(error.value)
        return
    _, found = explain("lrp.epsilon", model, xs)
    # no biases anywhere: what enters at the output arrives at the inputs
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=2e-3, atol=1e-5)
    assert np.abs(found.extras["score"]).min() > 1e-3


def test_a_saved_model_as_a_layer(tmp_path):
    """TFSMLayer: one node without known structure, so gradient only."""
    inner = keras.Sequential([keras.Input(VECTOR), L.Dense(4, "tanh")])
    inner.export(str(tmp_path / "saved"), verbose=False)
    x = keras.Input(VECTOR)
    model = keras.Model(x, L.Dense(3)(L.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serve", name="saved")(x)))
    xs = [np.random.default_rng(0).normal(size=(2, 6)).astype("float32")]
    maps, found = explain("gradient", model, xs)
    np.testing.assert_allclose(maps[0], tape_gradient(model, xs, found.target)[0], rtol=1e-5)
    with pytest.raises(NoRuleError, match="saved"):
        innv_ext.create_analyzer("lrp.epsilon", model)


def test_the_same_interpolation_gets_the_same_relevance():
    """CenterCrop to more than there is resizes: then it is the linear map of Resizing, with its relevance."""
    xs = np.random.default_rng(0).uniform(0.1, 1.0, (2, 4, 4, 1)).astype("float32")
    kernel = np.random.default_rng(1).normal(size=(49, 2)).astype("float32")
    maps = []
    for layer in (L.CenterCrop(7, 7), L.Resizing(7, 7)):
        x = keras.Input((4, 4, 1))
        model = keras.Model(x, L.Dense(2, use_bias=False)(L.Flatten()(layer(x))))
        model.layers[-1].kernel.assign(kernel)
        maps.append((np.asarray(model(xs)), innv_ext.create_analyzer("lrp.epsilon", model).analyze(xs, 0)))
    np.testing.assert_array_equal(maps[0][0], maps[1][0])
    np.testing.assert_allclose(maps[0][1], maps[1][1], rtol=1e-4, atol=1e-6)


def test_additive_attention_without_its_scale_is_opened():
    q, v = keras.Input(SEQUENCE), keras.Input(SEQUENCE)
    model = keras.Model([q, v], L.Dense(3)(L.Flatten()(L.AdditiveAttention(use_scale=False)([q, v]))))
    _, found = explain("lrp.epsilon", model, Row(None, SEQUENCE, SEQUENCE).data())
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-4)


# --- activations --------------------------------------------------------------------------------------------------

NO_ACTIVATION = {
    "get": "a helper", "serialize": "a helper", "deserialize": "a helper",
    "glu": "halves its input, so it is no activation of a layer: see the test of its own",
}
ACTIVATIONS = sorted(n for n in dir(keras.activations) if not n.startswith("_") and n not in NO_ACTIVATION)


def activation(name):
    function = getattr(keras.activations, name)
    return functools.partial(function, threshold=0.1, default_value=0.0) if name == "threshold" else function


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("form", ["fused", "layer"])
def test_activations(name, form):
    """LRP passes them: relevance of the hidden neurons is a_j w_jc / f_c f_c, whatever the function is."""
    function = activation(name)
    x = keras.Input(VECTOR, dtype="float64")
    if form == "fused":
        h = L.Dense(4, activation=function, use_bias=False, dtype="float64")(x)
    else:
        h = L.Activation(function, dtype="float64", name="act")(L.Dense(4, use_bias=False, dtype="float64")(x))
    model = keras.Model(x, L.Dense(3, use_bias=False, dtype="float64")(h))
    w, v = (np.asarray(k) for k in model.weights)
    xs = np.random.default_rng(0).normal(size=(3, 6))

    graph = trace(model, facts.is_leaf)
    expected = np.asarray(model(xs, training=False))
    np.testing.assert_array_equal(expected, np.asarray(walk.evaluate(graph, [tf.constant(xs)])[0]))

    found = innv_ext.create_analyzer("gradient", model).explain(xs)
    wanted = tape_gradient(model, [xs], found.target)[0]
    np.testing.assert_allclose(found.attribution, wanted, rtol=1e-9, atol=1e-12)

    a = np.asarray(function(tf.constant(xs @ w)))
    hidden = a * v[:, found.target].T  # sums to f_c
    z = xs @ w
    by_hand = xs * ((hidden / z) @ w.T)
    relevance = innv_ext.create_analyzer("lrp.epsilon", model, epsilon=1e-12).analyze(xs)
    np.testing.assert_allclose(relevance, by_hand, rtol=1e-6, atol=1e-9)


def test_gated_linear_unit():
    """One operation with two roles: gradient only; written as a product of a half and a sigmoid it is explained."""
    x = keras.Input(VECTOR)
    model = keras.Model(x, L.Dense(3, use_bias=False)(keras.activations.glu(x)))
    xs = Row(None, VECTOR).data()
    maps, found = explain("gradient", model, xs)
    np.testing.assert_allclose(maps[0], tape_gradient(model, xs, found.target)[0], rtol=1e-5, atol=1e-7)
    with pytest.raises(NoRuleError, match="glu"):
        innv_ext.create_analyzer("lrp.epsilon", model)
    model = keras.Model(x, L.Dense(3, use_bias=False)(x[:, :3] * ops.sigmoid(x[:, 3:])))
    maps, found = explain("lrp.epsilon", model, xs)
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-4)
    assert not maps[0][:, 3:].any()  # the signal takes all


# --- elementwise operations ---------------------------------------------------------------------------------------

# domains where the function has values and, mostly, a derivative
POSITIVE, UNIT = (0.1, 2.0), (-0.9, 0.9)
RANGES = {
    "arccosh": (1.1, 3.0), "arccos": UNIT, "arcsin": UNIT, "arctanh": UNIT, "erfinv": UNIT, "log": POSITIVE,
    "log2": POSITIVE, "log10": POSITIVE, "log1p": POSITIVE, "sqrt": POSITIVE, "rsqrt": POSITIVE, "cbrt": POSITIVE,
    "reciprocal": POSITIVE, "lgamma": POSITIVE,
}
EXPLAINED_OPS = set(
    """abs absolute fabs arctan arcsinh array cbrt celu convert_to_tensor copy cos elu erf erfc exp exp2 expm1 gelu
    hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu log log10 log1p log2 log_sigmoid log_softmax
    nan_to_num negative real reciprocal relu relu6 rsqrt selu sigmoid sign silu sin sinh soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax sqrt square squareplus stop_gradient swish tan tanh
    tanh_shrink normalize layer_normalization rms_normalization fliplr sort""".split()
)
GRADIENT_ONLY_OPS = set(
    "arccos arccosh arcsin arctanh conj conjugate cosh deg2rad erfinv rad2deg sinc".split()
) | ({"lgamma"} & set(dir(ops)))  # newer than Keras 3.15
WITHOUT_GRADIENT = set("angle imag ceil floor round trunc ones_like zeros_like".split())
# not elementwise on one sample, of integers only, not repeatable, or without a derivative in TensorFlow
OTHER_OPS = set("i0 bitwise_invert bitwise_not corrcoef empty_like view squeeze flip flipud tril triu".split())
BINARY_OPS = {
    "add": EXPLAINED, "subtract": EXPLAINED, "multiply": EXPLAINED, "divide": EXPLAINED, "true_divide": EXPLAINED,
    "divide_no_nan": EXPLAINED, "maximum": EXPLAINED, "minimum": EXPLAINED, "fmax": EXPLAINED, "fmin": EXPLAINED,
    "power": "explained with a constant", "logaddexp": GRADIENT, "arctan2": GRADIENT, "hypot": GRADIENT,
    "mod": GRADIENT, "floor_divide": REFUSED,
}


def elementwise_operations():
    """Public operations of one tensor that yield a float tensor of the same shape."""
    found = []
    for name in sorted(dir(ops)):
        function = getattr(ops, name)
        if name.startswith("_") or isinstance(function, type) or not callable(function):
            continue
        x = keras.Input(VECTOR)
        try:
            y = function(x)
        except Exception:
            continue  # wants other arguments
        if isinstance(y, keras.KerasTensor) and y.shape == x.shape and str(y.dtype) == "float32":
            found.append(name)
    return found


def test_every_elementwise_operation_is_in_a_table():
    found = set(elementwise_operations())
    assert found >= {"relu", "tanh", "negative"}
    assert found - EXPLAINED_OPS - GRADIENT_ONLY_OPS - WITHOUT_GRADIENT - OTHER_OPS == set()
    assert found >= EXPLAINED_OPS | GRADIENT_ONLY_OPS | WITHOUT_GRADIENT
    unlisted = {n for n in found & set(kinds.FUNCTION_KINDS) if kinds.FUNCTION_KINDS[n] is kinds.Kind.ACTIVATION}
    assert unlisted <= EXPLAINED_OPS


def test_the_recorded_name_of_every_elementwise_operation_leads_to_its_kind():
    """Keras records classes (LogSoftmax); the table of kinds has the functions' names (log_softmax)."""
    for name in sorted(EXPLAINED_OPS):
        x = keras.Input(VECTOR)
        key = op_key(getattr(ops, name)(x)._keras_history.operation)
        assert kinds.FUNCTION_KINDS[key] == kinds.FUNCTION_KINDS[name]


@pytest.mark.parametrize("name", sorted(EXPLAINED_OPS | GRADIENT_ONLY_OPS | WITHOUT_GRADIENT))
def test_elementwise_operations(name):
    function = getattr(ops, name)
    low, high = RANGES.get(name, (-1.2, 1.2))
    xs = np.random.default_rng(0).uniform(low, high, (2, 6)).astype("float32")
    x = keras.Input(VECTOR)
    model = keras.Model(x, L.Dense(3, use_bias=False)(function(x)))
    graph = trace(model, facts.is_leaf)
    np.testing.assert_array_equal(np.asarray(model(xs)), np.asarray(walk.evaluate(graph, [tf.constant(xs)])[0]))
    if name in WITHOUT_GRADIENT:
        for analyzer in ("gradient", "lrp.epsilon"):
            with pytest.raises(UnsupportedModelError, match=op_key(function(x)._keras_history.operation)):
                innv_ext.create_analyzer(analyzer, model)
        return
    maps, found = explain("gradient", model, [xs])
    wanted = tape_gradient(model, [xs], found.target)[0]
    np.testing.assert_allclose(maps[0], wanted, rtol=1e-4, atol=1e-6 * max(1.0, np.abs(wanted).max()))
    if name in GRADIENT_ONLY_OPS:
        with pytest.raises(NoRuleError, match=op_key(function(x)._keras_history.operation)):
            innv_ext.create_analyzer("lrp.epsilon", model)
        return
    _, found = explain("lrp.epsilon", model, [xs])
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(BINARY_OPS))
@pytest.mark.parametrize("operand", ["tensor", "constant"])
def test_operations_of_two_operands(name, operand):
    function, status = getattr(ops, name), BINARY_OPS[name]
    if name == "power":
        status = GRADIENT if operand == "tensor" else EXPLAINED
    xs = [np.random.default_rng(i).uniform(0.3, 1.5, (2, 6)).astype("float32") for i in range(2)]
    a, b = keras.Input(VECTOR), keras.Input(VECTOR)
    inputs, other = ([a, b], b) if operand == "tensor" else ([a], np.linspace(0.4, 2.0, 6).astype("float32"))
    model = keras.Model(inputs, L.Dense(3, use_bias=False)(function(a, other)))
    xs = xs[: len(inputs)]
    if status == REFUSED:
        with pytest.raises(UnsupportedModelError, match=name):
            innv_ext.create_analyzer("gradient", model)
        return
    maps, found = explain("gradient", model, xs)
    for m, wanted in zip(maps, tape_gradient(model, xs, found.target), strict=True):
        np.testing.assert_allclose(m, wanted, rtol=1e-4, atol=1e-5)
    if status == GRADIENT:
        with pytest.raises(NoRuleError, match=name):
            innv_ext.create_analyzer("lrp.epsilon", model)
        return
    _, found = explain("lrp.epsilon", model, xs)
    np.testing.assert_allclose(found.extras["sum"], found.extras["score"], rtol=1e-3, atol=1e-5)
