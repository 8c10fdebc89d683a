"""What every Keras layer and operation is to an explanation method: one table, one row a name.

Methods write rules for a dozen kinds, not for 160 layers. A layer that is not in the table (a user's, or a composite
one such as MultiHeadAttention) is opened by the tracer and explained through its parts.
"""

from __future__ import annotations

import enum

import keras


class Kind(enum.Enum):
    """The role of a node; the comment says what relevance methods may rely on."""

    AFFINE = "affine"  # z = bilinear(x, kernel) + bias, with a kernel to modify
    BATCHNORM = "batchnorm"  # affine per channel in inference
    ACTIVATION = "activation"  # elementwise non-linearity of one input
    IDENTITY = "identity"  # y = x in inference
    SELECT = "select"  # moves values; which goes where depends on values (sort, where, top_k)
    SHAPE = "shape"  # moves or copies values (reshape, concatenate, pad, up-sample by copying)
    RESCALE = "rescale"  # y = a x + b with constants, one input value to one output value
    LINEAR = "linear"  # linear without a kernel (sum, mean, pooling, interpolation)
    MAX = "max"  # one of the inputs of a window wins
    PRODUCT = "product"  # product of two or more inputs (gates, attention)
    NORM = "norm"  # normalisation by statistics of the sample itself
    EMBEDDING = "embedding"  # integers to rows of a table
    TOKENS = "tokens"  # moves or casts numbers of tokens on their way to an embedding
    LOOP = "loop"  # a recurrent layer with the graph of one of its steps, see loops.Loop
    RECURRENT = "recurrent"  # steps through time that could not be opened: differentiable, but one node
    OPAQUE = "opaque"  # differentiable as far as Keras says; no structure known
    DISCRETE = "discrete"  # no gradient: hashing, lookup, arg-max


AFFINE_LAYERS = """Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose
    DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D"""

_LAYERS: dict[Kind, str] = {
    Kind.AFFINE: AFFINE_LAYERS,
    Kind.BATCHNORM: "BatchNormalization",
    Kind.ACTIVATION: "Activation ReLU LeakyReLU PReLU ELU Softmax",
    Kind.IDENTITY: """Identity InputLayer ActivityRegularization Dropout SpatialDropout1D SpatialDropout2D
    SpatialDropout3D
        AlphaDropout GaussianDropout GaussianNoise AugMix CutMix MixUp Mosaic RandAugment RandomBrightness
        RandomColorDegeneration
        RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
        RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
        RandomSharpness RandomShear RandomTranslation RandomZoom""",
    Kind.SHAPE: """Flatten Reshape Permute RepeatVector Concatenate Cropping1D Cropping2D Cropping3D
        ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D UpSampling3D Masking""",
    Kind.RESCALE: "Rescaling Normalization",
    Kind.LINEAR: """Add Subtract Average AveragePooling1D AveragePooling2D AveragePooling3D GlobalAveragePooling1D
        GlobalAveragePooling2D GlobalAveragePooling3D AdaptiveAveragePooling1D AdaptiveAveragePooling2D
        AdaptiveAveragePooling3D UpSampling2D Resizing CenterCrop RandomCrop""",
    Kind.MAX: """MaxPooling1D MaxPooling2D MaxPooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Maximum Minimum""",
    Kind.PRODUCT: "Multiply Dot",
    Kind.NORM: "LayerNormalization RMSNormalization UnitNormalization GroupNormalization",
    Kind.EMBEDDING: "Embedding ReversibleEmbedding",
    Kind.RECURRENT: """LSTM GRU SimpleRNN RNN ConvLSTM1D ConvLSTM2D ConvLSTM3D Bidirectional TimeDistributed LSTMCell
    GRUCell
        SimpleRNNCell StackedRNNCells""",
    Kind.OPAQUE: """MelSpectrogram STFTSpectrogram AutoContrast Equalization Solarization
        ContrastLimitedAdaptiveHistogramEqualization JaxLayer FlaxLayer TFSMLayer
        TorchModuleWrapper""",
    Kind.DISCRETE: """CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup
    TextVectorization
        MaxNumBoundingBoxes""",
}

_FUNCTIONS: dict[Kind, str] = {
    Kind.AFFINE: "matmul einsum dot tensordot conv conv_transpose depthwise_conv",
    Kind.BATCHNORM: "",
    Kind.ACTIVATION: """relu relu6 leaky_relu elu selu celu gelu silu swish mish softplus softsign sigmoid hard_sigmoid
        hard_silu hard_swish hard_tanh tanh tanh_shrink soft_shrink hard_shrink threshold squareplus log_sigmoid
        sparse_plus
        sparse_sigmoid softmax log_softmax sparsemax exponential exp expm1 exp2 log log1p log2 log10 sqrt rsqrt
        square cbrt reciprocal abs absolute fabs erf erfc sin cos tan arctan arcsinh sinh clip sign""",
    Kind.IDENTITY: "identity linear copy cast convert_to_tensor array stop_gradient real nan_to_num",
    Kind.SHAPE: """reshape transpose squeeze expand_dims get_item concatenate stack hstack vstack dstack append flip
    fliplr flipud
        roll repeat tile broadcast_to split array_split hsplit vsplit dsplit unstack swapaxes moveaxis ravel take slice
        rot90 rearrange diagonal tril triu depth_to_space space_to_depth unfold pad crop_images pad_images
        extract_patches""",
    Kind.SELECT: "where take_along_axis sort top_k",
    Kind.RESCALE: "negative",
    Kind.LINEAR: """add subtract sum mean average average_pool adaptive_average_pool cumsum trace fold resize
        segment_sum rgb_to_grayscale gaussian_blur fft fft2 ifft2 rfft irfft""",
    Kind.MAX: "max_pool adaptive_max_pool max min amax amin maximum minimum fmax fmin",
    Kind.PRODUCT: "multiply divide true_divide divide_no_nan dot_product_attention inner outer vdot kron",
    Kind.NORM: "layer_normalization rms_normalization normalize",
    Kind.DISCRETE: """argmax argmin argsort argpartition all any equal not_equal greater greater_equal less less_equal
        logical_and logical_or logical_not logical_xor isnan isinf isfinite isclose floor ceil round trunc one_hot
        multi_hot shape size ndim zeros_like ones_like full_like arange digitize searchsorted bincount nonzero
        count_nonzero in_top_k floor_divide""",
}

SHAPE_ONLY = frozenset({"zeros_like", "ones_like", "full_like", "shape", "size", "ndim"})  # whatever the values
# Affine per element when all but one operand is a constant; otherwise sums and products of inputs.
CONSTANT_RESCALE = frozenset({"add", "subtract", "multiply", "divide", "true_divide", "divide_no_nan"})
CONSTANT_ACTIVATION = frozenset({"maximum", "minimum", "fmax", "fmin", "power"})
TRAILING_SQUASH = frozenset({"softmax", "sigmoid", "log_softmax", "log_sigmoid", "Softmax"})
GATES = TRAILING_SQUASH | {"hard_sigmoid", "sparsemax", "sparse_sigmoid"}
SQUASH = GATES | {"tanh", "hard_tanh"}  # which are what gates let through in recurrent cells
PIECEWISE_LINEAR = frozenset(
    """relu relu6 leaky_relu ReLU LeakyReLU PReLU hard_sigmoid hard_tanh hard_shrink soft_shrink threshold abs absolute
    fabs clip sign maximum minimum fmax fmin""".split()
)
RELU_LIKE = frozenset({"relu", "relu6", "leaky_relu", "ReLU", "LeakyReLU", "PReLU"})
MAXIMUM = frozenset({"Maximum", "maximum", "fmax"})  # of several operands
SIGMOID = frozenset({"sigmoid", "log_sigmoid"})  # each class by itself
SOFTMAX = frozenset({"softmax", "Softmax", "log_softmax", "sparsemax"})  # over an axis, unlike other activations
TRUTH = frozenset(  # true or false, or how often
    """cast equal not_equal greater greater_equal less less_equal logical_and logical_or logical_not logical_xor any all
    isnan isinf isfinite isclose count_nonzero""".split()
)
FIRST = frozenset({"argmax", "argmin"})  # where something stands
STEPS = frozenset({"floor", "ceil", "round", "trunc"})
# Never negative, whatever goes in; and not negative if nothing that goes in is.
NOT_NEGATIVE = frozenset(
    """relu6 sigmoid hard_sigmoid softmax sparsemax sparse_sigmoid softplus squareplus exponential exp exp2 square
    abs absolute fabs sqrt rsqrt sparse_plus Softmax""".split()
)
KEEPS_SIGN = frozenset(
    """Add Average CenterCrop RandomCrop UpSampling2D Resizing Multiply Dot AveragePooling1D AveragePooling2D
    AveragePooling3D GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D add sum mean average_pool adaptive_average_pool cumsum multiply
    divide true_divide divide_no_nan matmul dot einsum inner outer""".split()
)

LAYER_KINDS: dict[str, Kind] = {name: kind for kind, names in _LAYERS.items() for name in names.split()}
FUNCTION_KINDS: dict[str, Kind] = {name: kind for kind, names in _FUNCTIONS.items() for name in names.split()}
KINDS: dict[str, Kind] = {**LAYER_KINDS, **FUNCTION_KINDS}

# Opened by the tracer and explained through their parts.
COMPOSITE_LAYERS = frozenset(
    """Attention AdditiveAttention MultiHeadAttention GroupQueryAttention SpectralNormalization Lambda Pipeline
    TernaryDense""".split()
)
RECURRENT_CELLS = frozenset("LSTMCell GRUCell SimpleRNNCell StackedRNNCells".split())
RECURRENT_LAYERS = frozenset("LSTM GRU SimpleRNN RNN ConvLSTM1D ConvLSTM2D ConvLSTM3D".split())
# Base classes and helpers that never stand in a model themselves.
ABSTRACT_LAYERS = frozenset("Layer Wrapper InputSpec".split())


def public_layer_names() -> list[str]:
    """Every public Keras layer class, under its own (not an alias') name."""
    found = [getattr(keras.layers, name) for name in dir(keras.layers)]
    return sorted({cls.__name__ for cls in found if isinstance(cls, type)})
