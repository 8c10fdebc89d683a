"""The moment rules of all node types; ``MOMENT_RULES`` is the table.

In "diagonal" mode the components of a tensor are taken as independent. Labels with "approximate" mark rules that are
first-order, or that neglect a dependence which the other rules of the same mode keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from innv_ext.analyzers.moments import attention, delta, gaussian, mixing
from innv_ext.analyzers.moments.values import Moments, as_moments, join
from innv_ext.backend import affine as affines
from innv_ext.backend import numerics, traits
from innv_ext.backend.graph import Arg, Call, Graph, Node, op_key
from innv_ext.backend.kinds import SHAPE_ONLY, Kind
from innv_ext.backend.predicates import Predicate, PredicateLike, both, kind_is, op_is
from innv_ext.backend.rules import Rules

Tensor = Any
Values = tuple[Any, ...]
SMOOTH = """elu ELU selu celu gelu silu swish mish softplus softsign sigmoid hard_silu hard_swish tanh tanh_shrink
    squareplus log_sigmoid sparse_plus sparse_sigmoid expm1 exp2 erf erfc sin cos arctan arcsinh"""
QUOTIENTS = "divide true_divide divide_no_nan"
ROOTS = "sqrt rsqrt reciprocal log log1p log2 log10 cbrt power"
MATRIX_LIMIT = 2**24  # entries of the matrix of a linear node that has no rule of its own


# --- linear nodes ------------------------------------------------------------------------------------------------


def affine(node: Node, values: Values) -> Sequence[Moments]:
    """z = w x + b: the mean through w and b, the variance through w squared, directions through w."""
    x, call = values[0], node.call
    kernel = call.kernel()
    var = call.bilinear(call.cast(x.var, kernel), ops.square(kernel))
    return [x.image(call(x.mean), var, lambda t: call.bilinear(call.cast(t, kernel), kernel))]


def identity(node: Node, values: Values) -> Sequence[Moments]:
    """y = x in inference; masks and other inputs are left aside."""
    x = values[0]
    y = node.call(*(as_moments(v).mean for v in values))
    found = x.image(y, ops.cast(x.var, y.dtype), lambda t: ops.cast(t, y.dtype))
    return [x.kept(found) if isinstance(x, attention.Shares) else found]


def choice(node: Node, values: Values) -> Sequence[Moments]:
    """``where`` by a mask: that of one of two values."""
    found, shares = shapes(node, values), [v for v in values if isinstance(v, attention.Shares)]
    return [shares[0].kept(found[0])] if len(shares) == 1 == sum(isinstance(v, Moments) for v in values) else found


def rescale(node: Node, values: Values) -> Sequence[Moments]:
    """y = a x + b with constants a, b."""
    x = values[0]
    slope = node.call(ops.ones_like(x.mean)) - node.call(ops.zeros_like(x.mean))
    return [x.image(node.call(x.mean), ops.square(slope) * x.var, lambda t: _homogeneous(node, t))]


def shapes(node: Node, values: Values) -> Sequence[Moments]:
    """Values are moved, copied, chosen by a mask or padded with constants: so are variances."""
    return _linear(node, values, lambda linear, *vs: linear(*vs))


def total(node: Node, values: Values) -> Sequence[Moments]:
    """Sums: variances add; what is added n times counts n squared times. Averages likewise."""
    signs = traits.signs(node)
    weights = [sum(s for s, t in zip(signs, node.inputs, strict=True) if t == slot) ** 2 for slot in node.inputs]
    divisor = len(values) if op_key(node.op) == "Average" else 1

    def variance(linear: Callable[..., Any], *vs: Tensor) -> Any:
        first = [node.inputs.index(slot) == i for i, slot in enumerate(node.inputs)]
        parts = [float(w * s * f) * v for w, s, f, v in zip(weights, signs, first, vs, strict=True)]
        return linear(*parts) / divisor

    return _linear(node, values, variance)


def mean(node: Node, values: Values) -> Sequence[Moments]:
    """Means over axes: the mean variance over the number of values, or of those that a mask leaves."""
    x, masks = values[0].mean, values[1:]

    def variance(linear: Callable[..., Any], v: Tensor) -> Tensor:
        y = linear(v)
        if masks:
            count = ops.sum(ops.cast(masks[0], y.dtype), axis=1)
            return y / ops.reshape(count, [-1] + [1] * (len(y.shape) - 1))
        return y * ops.cast(ops.size(y), y.dtype) / ops.cast(ops.size(x), y.dtype)

    return _linear(node, values, variance)


def average_pool(node: Node, values: Values) -> Sequence[Moments]:
    """Average pooling: the pooled variance over the number of values in the window."""
    return _linear(node, values, lambda linear, v: linear(v) / _window_counts(node, v))


def _window_counts(node: Node, x: Tensor) -> Tensor:
    """How many real (not padded) values each window holds, broadcastable to the pooled tensor."""
    rank = len(x.shape)
    counts = ops.cast(ops.ones((1,) * rank), x.dtype)
    for axis, size, stride, count, (before, _) in traits.windows(node, x):
        starts = ops.arange(count) * stride - before
        inside = ops.minimum(starts + size, ops.shape(x)[axis]) - ops.maximum(starts, 0)
        counts = counts * ops.cast(ops.reshape(inside, [-1 if a == axis else 1 for a in range(rank)]), x.dtype)
    return counts


def at_mean(node: Node, values: Values) -> Sequence[Any]:
    """The value depends on shapes only."""
    return [node.call(*(as_moments(v).mean for v in values))]


def by_matrix(node: Node, values: Values) -> Sequence[Moments]:
    """Any other linear node (interpolation, adaptive pooling ...): its matrix, found by unit vectors, squared."""
    x = values[0].mean
    shape = tuple(x.shape[1:])
    size = math.prod(shape)
    image = _homogeneous(node, ops.reshape(ops.eye(size, dtype=x.dtype), (size, *shape)))
    matrix = ops.square(ops.reshape(image, (size, -1)))
    target = tuple(image.shape[1:])

    def variance(linear: Callable[..., Any], v: Tensor) -> Tensor:
        return ops.reshape(ops.matmul(ops.reshape(v, (-1, size)), matrix), (-1, *target))

    return _linear(node, values, variance)


def _linear(node: Node, values: Values, variance: Callable[..., Any]) -> Sequence[Moments]:
    """A linear node with one or several inputs and outputs; masks and conditions among the inputs are fixed.

    ``variance`` is called with the node without what constants add, and the independent variances.
    """
    fixed = {i: v for i, v in enumerate(values) if not (isinstance(v, Moments) or _is_float(v))}
    moving = [as_moments(v) for i, v in enumerate(values) if i not in fixed]

    def call(*xs: Tensor) -> Any:
        rest = iter(xs)
        return node.call(*(_for_rows(node, fixed[i], xs[0]) if i in fixed else next(rest) for i in range(len(values))))

    def linear(*xs: Tensor) -> Any:
        return _homogeneous(node, *xs, call=call)

    means = tree.flatten(call(*(v.mean for v in moving)))
    variances, full = tree.flatten(variance(linear, *(v.var for v in moving))), any(v.full for v in moving)
    apart = traits.activation_key(node) == "reshape"  # of all axes, that of the samples too
    return [
        Moments(m, v, join(moving, lambda *t, i=i: tree.flatten(linear(*t))[i], apart), full)
        for i, (m, v) in enumerate(zip(means, variances, strict=True))
    ]


def _is_float(x: Tensor) -> bool:
    return numerics.is_float(keras.backend.standardize_dtype(x.dtype))


def _for_rows(node: Node, mask: Tensor, x: Tensor) -> Tensor:
    """A mask with a row for each of x, which may hold several directions of each sample; one for all stays so."""
    of_samples = isinstance(node.op, keras.layers.Layer) or len(mask.shape) == len(x.shape)
    if not of_samples or mask.shape[0] == 1 or (mask.shape[0] is not None and mask.shape[0] == x.shape[0]):
        return mask
    return ops.repeat(mask, ops.shape(x)[0] // ops.shape(mask)[0], axis=0)


def _homogeneous(node: Node, *xs: Tensor, call: Callable[..., Any] | None = None) -> Any:
    """The node without what constants add: padding values, starting values, other operands."""
    call = call or node.call
    y = call(*xs)
    if not (node.kind is Kind.RESCALE or traits.may_fill(node) or traits.activation_key(node) == "where"):
        return y
    return tree.map_structure(ops.subtract, y, call(*map(ops.zeros_like, xs)))


# --- activations: exact for a Gaussian where piecewise linear, by quadrature where smooth ------------------------


def relu(node: Node, values: Values) -> Sequence[Moments]:
    """ReLU, exact for a Gaussian."""
    x = values[0]
    return [x.scaled(node, *gaussian.relu_moments(x.mean, x.variance(), gain=bool(x.factors)))]


def piecewise_linear(node: Node, values: Values) -> Sequence[Moments]:
    """Leaky, capped and thresholded ReLUs, hard sigmoid and tanh, abs, clip: exact for a Gaussian."""
    x = values[0]
    found = gaussian.piecewise_linear_moments(x.mean, x.variance(), *traits.pieces(node), gain=bool(x.factors))
    return [x.scaled(node, *found)]


def quadrature(node: Node, values: Values) -> Sequence[Moments]:
    """Smooth activations: Gauss-Hermite quadrature with 16 nodes."""
    x = values[0]
    found = gaussian.quadrature_moments(lambda t: numerics.widen(node.call(t)), x.mean, x.variance(), bool(x.factors))
    return [x.scaled(node, *found)]


def square(node: Node, values: Values) -> Sequence[Moments]:
    """x^2, exact for a Gaussian."""
    return [values[0].scaled(node, *gaussian.square_moments(values[0].mean, values[0].variance()))]


def exponential(node: Node, values: Values) -> Sequence[Moments]:
    """exp(x), exact for a Gaussian."""
    return [values[0].scaled(node, *gaussian.exp_moments(values[0].mean, values[0].variance()))]


def plain_relu(node: Node, graph: Graph) -> bool:
    """max(x, 0) in any form."""
    pieces = traits.pieces(node) if len(node.inputs) == 1 else None
    return pieces is not None and traits.activation_key(node) != "PReLU" and pieces == ([0.0], [0.0, 1.0], [0.0, 0.0])


def has_pieces(node: Node, graph: Graph) -> bool:
    """A piecewise linear activation whose pieces are known."""
    return len(node.inputs) == 1 and traits.pieces(node) is not None


# --- the table ---------------------------------------------------------------------------------------------------


def keys(*names: str) -> Predicate:
    """Nodes by what they do: layer classes, operations or activation functions, separated by spaces."""
    return op_is(*(name for group in names for name in group.split()))


def but_not(*names: str) -> PredicateLike:
    """Nodes that do something else."""
    others = op_is(*names)
    return lambda node, graph: not others(node, graph)


def stays_float(node: Node, graph: Graph) -> bool:
    """Not a cast to integers."""
    return all(numerics.is_float(graph.specs[slot].dtype) for slot in node.outputs)


def only_cuts(node: Node, graph: Graph) -> bool:
    """A crop that enlarges nowhere, and so does not interpolate."""
    before, after = (graph.specs[slots[0]].shape[1:] for slots in (node.inputs, node.outputs))
    return None not in (*before, *after) and all(a <= b for a, b in zip(after, before, strict=True))


def copies(node: Node, graph: Graph) -> bool:
    """Up-sampling by copying, not by interpolation."""
    return node.op.interpolation == "nearest"


def of_two(node: Node, graph: Graph) -> bool:
    """Of two tensors."""
    return len(node.inputs) == 2


def whole_power(node: Node, graph: Graph) -> bool:
    """x^n with n = 0, 1, 2, ... for which quadrature has nodes enough."""
    if traits.activation_key(node) != "power" or len(node.inputs) != 1:
        return False
    n = affines.constant_operand(node.call)
    return isinstance(node.call.args[0], Arg) and n is not None and np.ndim(n) == 0 and float(n) in range(16)


def fixed_condition(node: Node, graph: Graph) -> bool:
    """``where`` by a condition that is a constant, or true and false for reasons that are not random."""
    given = node.call.args[0] if isinstance(node.call, Call) and len(node.call.args) == 3 else None
    return not isinstance(given, Arg) or graph.specs[node.inputs[given.index]].dtype == "bool"


def plain_maximum(node: Node, graph: Graph) -> bool:
    """Over axes of known length, without a starting value."""
    return None not in graph.specs[node.inputs[0]].shape[1:] and getattr(node.op, "initial", None) is None


def small_linear(node: Node, graph: Graph) -> bool:
    """Linear, with one input and output whose sizes are known and allow for a matrix."""
    sizes = [graph.specs[slot].shape[1:] for slot in (*node.inputs, *node.outputs)]
    known = len(node.inputs) == len(node.outputs) == 1 and all(None not in s for s in sizes)
    return node.kind is Kind.LINEAR and known and math.prod(map(math.prod, sizes)) <= MATRIX_LIMIT


MOMENT_RULES = Rules(
    (kind_is(Kind.AFFINE, Kind.BATCHNORM), affine, "affine"),
    (both(kind_is(Kind.IDENTITY), stays_float), identity, "identity"),
    (kind_is(Kind.RESCALE), rescale, "rescale"),
    (both(kind_is(Kind.SHAPE), but_not("Masking")), shapes, "shape"),
    (both(keys("CenterCrop"), only_cuts), shapes, "shape"),
    (both(keys("UpSampling2D"), copies), shapes, "shape"),
    (both(keys("where"), fixed_condition), choice, "choice by a mask"),
    (keys("Add add Subtract subtract Average"), total, "sum"),
    (keys("sum cumsum trace segment_sum"), shapes, "sum"),
    (keys("mean GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D"), mean, "mean"),
    (keys("AveragePooling1D AveragePooling2D AveragePooling3D average_pool"), average_pool, "average pooling"),
    (small_linear, by_matrix, "linear, by its matrix"),
    (keys("Multiply multiply"), mixing.product, "product"),
    (
        both(keys("Dot matmul einsum dot tensordot inner outer"), attention.bilinear_in_two),
        attention.matrix_product,
        "matrix product (approximate)",
    ),
    (both(keys(QUOTIENTS), of_two), delta.quotient, "quotient (approximate)"),
    (plain_relu, relu, "ReLU"),
    (has_pieces, piecewise_linear, "piecewise linear"),
    (keys("square"), square, "square"),
    (keys("exp exponential"), exponential, "exponential"),
    (keys(SMOOTH), quadrature, "quadrature"),
    (whole_power, quadrature, "power"),
    (keys("softmax Softmax"), attention.softmax, "softmax (approximate)"),
    (keys("log_softmax"), delta.log_softmax, "log of softmax (approximate)"),
    (keys("logsumexp"), delta.log_sum_exp, "log of a sum (approximate)"),
    (keys(f"{ROOTS} {QUOTIENTS}"), delta.elementwise, "first order (approximate)"),
    (keys("var"), delta.sample_variance, "variance"),
    (delta.can_normalise, delta.normalise, "normalisation (approximate)"),
    (keys("MaxPooling1D MaxPooling2D MaxPooling3D max_pool"), mixing.maximum_pool, "maximum"),
    (
        both(keys("GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D max amax"), plain_maximum),
        mixing.maximum_over,
        "maximum",
    ),
    (keys("Maximum maximum fmax"), mixing.maximum_of, "maximum"),
    (keys("Minimum minimum fmin"), mixing.minimum_of, "minimum"),
    (op_is(*SHAPE_ONLY), at_mean, "constant"),
)
