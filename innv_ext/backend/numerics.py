"""What keras.ops does not offer: vjp, compiled functions. The only file that imports tensorflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from innv_ext.errors import UnsupportedModelError

Tensor = Any
_FEW_STEPS = 8  # of loops that are run eagerly
TINY = 1e-30  # denominators below this count as zero; r / TINY still fits into float32 for relevance up to 1e8


def check_backend() -> None:
    """Refuse every Keras backend but TensorFlow: this module is the only one that would have to change."""
    if keras.config.backend() != "tensorflow":
        raise UnsupportedModelError(
            f"innv_ext runs on the TensorFlow backend of Keras, but keras.config.backend() is "
            f"{keras.config.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow."
        )


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` (a Keras dtype string) is a floating-point type."""
    return dtype.startswith(("float", "bfloat"))


def wide_dtype(dtype: str) -> str:
    """The dtype in which relevance of ``dtype`` tensors is carried: half precision becomes float32."""
    return dtype if dtype in ("float32", "float64") else "float32"


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 or float64."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == wide_dtype(dtype) else ops.cast(x, wide_dtype(dtype))


def identity(x: Tensor) -> Tensor:
    """A new tensor with the value of ``x``, so that two uses of one slot are two inputs to a vjp."""
    return tf.identity(x)


def erfc(x: Tensor) -> Tensor:
    """The complementary error function (``keras.ops.erfc`` is missing in Keras 3.8)."""
    return tf.math.erfc(x)


def custom_gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``fn(*xs) -> (ys, gradient)``, with ``gradient(*upstream)`` one tensor per x."""
    return tf.custom_gradient(fn)


def restoring(fn: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """``fn``, after which the variables have the values from before."""

    def run(*xs: Tensor) -> Any:
        before = [tf.identity(v.value) for v in variables]
        ys = fn(*xs)
        with tf.control_dependencies([t for t in tf.nest.flatten(ys) if isinstance(t, tf.Tensor)]):
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
        return ys

    return run


def recompute(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` evaluated again in the backward pass instead of keeping its intermediate values."""

    def evaluate(*xs: Tensor) -> Any:
        def gradient(*upstream: Tensor) -> tuple[Tensor | None, ...]:
            return vjp(fn, *xs)[1](*upstream)

        return fn(*xs), gradient

    return custom_gradient(evaluate)


def vjp(fn: Callable[..., Any], *xs: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., tuple[Tensor | None, ...]]]:
    """Evaluate ``fn`` once and return its outputs with their pullback.

    Parameters
    ----------
    fn : callable of tensors that returns a tensor or a (nested) list of tensors
    xs : tensors; integer ones are passed on but get no gradient

    Returns
    -------
    ys : tuple of tensors, the flattened outputs
    pullback : ``pullback(*rs)`` gives one gradient per input (None for integer inputs); it may be called more
        than once, shares the forward pass, and takes None for an output without cotangent. Gradients are float32 or
        float64; where float16 takes part they are scaled to its range and back, sample by sample, so that nothing
        underflows.
    """
    floats = [i for i, x in enumerate(xs) if x.dtype.is_floating]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch([xs[i] for i in floats])
        outputs = fn(*xs)
    ys = tuple(keras.tree.flatten(outputs))

    def pullback(*rs: Tensor | None) -> tuple[Tensor | None, ...]:
        targets = [(y, r) for y, r in zip(ys, rs, strict=True) if r is not None and y.dtype.is_floating]
        gradients: list[Tensor | None] = [None] * len(xs)
        if not targets or not floats:
            return tuple(gradients)
        half = any(t.dtype == tf.float16 for t in (*ys, *xs))
        cotangents, scale = _fit_range([y for y, _ in targets], [r for _, r in targets], half)
        found = tape.gradient(
            [y for y, _ in targets],
            [xs[i] for i in floats],
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        for i, g in zip(floats, found, strict=True):
            g = tf.convert_to_tensor(g)  # a gather yields IndexedSlices
            if g.shape.rank is None:  # the gradient of a maximum over axes, inside a loop
                g.set_shape(xs[i].shape)
            g = widen(g)
            gradients[i] = g if scale is None else g * ops.reshape(scale, [-1] + [1] * (len(g.shape) - 1))
        return tuple(gradients)

    return ys, pullback


def scan(
    step: Callable[..., tuple[list[Tensor], list[Tensor]]],
    state: Sequence[Tensor],
    xs: Sequence[Tensor],
    outputs: Sequence[tuple[tuple[int | None, ...], str]],
    backwards: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run ``step(state, xs_t) -> (state, ys_t)`` along the first axis of xs, whose length may be free.

    Parameters
    ----------
    state : what goes from one step to the next
    outputs : shape and dtype of every y_t
    backwards : from the last step to the first; the ys are in the order of the xs all the same

    Returns
    -------
    the last state, and the ys of all steps with a first axis like that of xs
    """
    length = xs[0].shape[0]
    if tf.executing_eagerly() and length > _FEW_STEPS:  # one operation after the other takes milliseconds a step
        compiled = tf.function(lambda state, xs: scan(step, state, xs, outputs, backwards), autograph=False)
        return compiled(list(state), list(xs))
    count = tf.shape(xs[0])[0] if length is None else length
    fed = [tf.TensorArray(x.dtype, count, element_shape=x.shape[1:]).unstack(x) for x in xs]
    made = [tf.TensorArray(dtype, count, element_shape=shape) for shape, dtype in outputs]

    def body(i: Tensor, state: list[Tensor], made: list[Any]) -> tuple[Any, ...]:
        t = count - 1 - i if backwards else i
        new, ys = step(state, [array.read(t) for array in fed])
        new = [tf.cast(s, old.dtype) for s, old in zip(new, state, strict=True)]
        for s, old in zip(new, state, strict=True):
            s.set_shape(old.shape)
        return i + 1, new, [m.write(t, tf.cast(y, m.dtype)) for m, y in zip(made, ys, strict=True)]

    start = (tf.constant(0), list(state), made)
    _, last, made = tf.while_loop(lambda i, *_: i < count, body, start, maximum_iterations=count)
    ys = [m.stack() for m in made]
    for y in ys:
        y.set_shape((length, *y.shape[1:]))
    return last, ys


def hvp(gradient: Callable[..., Sequence[Tensor]], xs: Sequence[Tensor], vs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Hessian-vector products, one per sample, from the gradient of a score per sample.

    Double backward: the vjp of the gradient, which is H v because H is symmetric. Forward-over-reverse was about twice
    as slow on every network that was measured (benchmarks/second_order.py).

    Parameters
    ----------
    gradient : ``(*xs) -> one gradient per x``
    xs : tensors (batch, ...)
    vs : one direction per x, of its shape

    Returns
    -------
    one tensor per x
    """
    return vjp(gradient, *xs)[1](*vs)


def second_derivative(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> str:
    """What TensorFlow knows of the gradient's derivative of ``fn``: "known", "missing" (an error), or "doubtful".

    Doubtful are functions that hold parts of themselves constant, or use an operation whose gradient counts as such.
    """

    def gradient(*xs: Tensor) -> list[Tensor]:
        ys, pullback = vjp(fn, *xs)
        return [g for g in pullback(*(tf.ones_like(y) for y in ys)) if g is not None]

    def twice(*xs: Tensor) -> Any:
        ys, pullback = vjp(gradient, *xs)
        return [g for g in pullback(*ys) if g is not None]

    try:
        used = {n.op for nodes in _operations(twice, specs) for n in nodes}
    except LookupError:  # "gradient registry has no entry"
        return "missing"
    return "doubtful" if used & {"StopGradient", "PreventGradient", "ResizeBilinear"} else "known"


def rectifies(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> bool:
    """Whether ``fn`` has a ReLU inside; relu6(x + 3) / 6, by which Keras computes its hard sigmoid, is none."""
    for nodes in _operations(fn, specs):
        divided = {n.input[0].split(":")[0] for n in nodes if n.op == "RealDiv"}
        if any(n.op in ("Relu", "LeakyRelu") or (n.op == "Relu6" and n.name not in divided) for n in nodes):
            return True
    return False


def without_gradient(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> set[int]:
    """Positions of the float inputs of ``fn`` that get no gradient, which is not the same as a zero one."""
    floats, dead = [i for i, (_, dtype) in enumerate(specs) if is_float(dtype)], set()

    def gradient(*xs: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([xs[i] for i in floats])
            ys = [y for y in keras.tree.flatten(fn(*xs)) if y.dtype.is_floating]
        found = tape.gradient(ys, [xs[i] for i in floats])
        dead.update(i for i, g in zip(floats, found, strict=True) if g is None)
        return ys

    try:
        _operations(gradient, specs)
    except LookupError:  # "gradient registry has no entry"
        return set(floats)
    return dead


def run_symbolically(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> Any:
    """Run ``fn`` once on tensors without values, as ``predict`` does before it computes; the function of TensorFlow."""
    return tf.function(fn, autograph=False).get_concrete_function(*(tf.TensorSpec(s, d) for s, d in specs))


def _operations(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> list[Any]:
    """What TensorFlow makes of ``fn``: the nodes of its graph, and of each function therein (bodies of loops)."""
    definition = run_symbolically(fn, specs).graph.as_graph_def()
    return [definition.node, *(f.node_def for f in definition.library.function)]


def _fit_range(ys: list[Tensor], rs: list[Tensor], half: bool) -> tuple[list[Tensor], Tensor | None]:
    """Cotangents in the dtype of their outputs, and the factor per sample that was divided out for float16."""
    if not half:
        return [tf.cast(r, y.dtype) for y, r in zip(ys, rs, strict=True)], None
    peaks = [ops.max(ops.abs(ops.reshape(widen(r), [ops.shape(r)[0], -1])), axis=1) for r in rs]
    scale = ops.max(ops.stack(peaks), axis=0)
    scale = ops.where(scale > 0, scale, ops.ones_like(scale))
    scaled = [widen(r) / ops.reshape(scale, [-1] + [1] * (len(r.shape) - 1)) for r in rs]
    return [tf.cast(r, y.dtype) for y, r in zip(ys, scaled, strict=True)], scale


def not_before(r: Tensor, z: Tensor) -> Tensor:
    """``z`` for what is computed behind ``r``: TensorFlow computes what it can early, and keeps it until it is used.

    Of what a forward walk leaves to a backward walk, only the values themselves take memory then.
    """
    if tf.executing_eagerly():
        return z
    with tf.control_dependencies([r]):
        return tf.identity(z)


def safe_divide(r: Tensor, z: Tensor, epsilon: float = 0.0, sign: int = 0) -> Tensor:
    """``r / stabilise(z)`` with stabilise(z) = z + epsilon * sign(z) and sign(0) = +1.

    With ``epsilon=0`` only exact zeros (|z| < 1e-30) are stabilised, by 1e-7. Where all terms of z are known to have
    one ``sign`` (+1 or -1), z = 0 means that there is nothing to share: the result is 0 there, and where rounding (fast
    convolutions on accelerators) gave z the other sign.
    """
    z = not_before(r, z)
    if sign:
        return ops.divide_no_nan(r if sign > 0 else -r, ops.relu(z - TINY if sign > 0 else -z - TINY))
    size = epsilon or 1e-7
    side = ops.where(z < 0, ops.cast(-size, z.dtype), ops.cast(size, z.dtype))
    return r / (z + side if epsilon else ops.where(ops.abs(z) < TINY, side, z))


def positive(t: Tensor) -> Tensor:
    """max(t, 0)."""
    return ops.relu(t)


def negative(t: Tensor) -> Tensor:
    """min(t, 0)."""
    return ops.minimum(t, ops.cast(0.0, t.dtype))  # one pass over large kernels, unlike -relu(-t)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to a hundredth of a percent of the largest value (a tenth in half precision)."""
    half = any(keras.backend.standardize_dtype(t.dtype) in ("float16", "bfloat16") for t in (a, b))
    a, b = (np.asarray(ops.cast(t, "float64")) for t in (a, b))
    return a.shape == b.shape and np.allclose(
        a, b, rtol=0, atol=(0.1 if half else 1e-4) * max(np.abs(a).max(initial=0), 1e-6)
    )


class Compiled:
    """A function of tensors, traced once (at the first call) for a free batch dimension.

    ``traces`` counts how often it was traced; a second batch size does not add to it.
    """

    def __init__(self, fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]], jit_compile: bool):
        self.traces = 0

        def counted(*args: Tensor) -> Any:
            self.traces += 1
            return fn(*args)

        self._dtypes = [dtype for _, dtype in specs]
        signature = [tf.TensorSpec(shape, dtype) for shape, dtype in specs]
        self._function = tf.function(
            counted, input_signature=signature, autograph=False, jit_compile=jit_compile or None
        )
        self._concrete: Any = None

    def __call__(self, *args: Any) -> Any:
        if self._concrete is None:
            self._concrete = self._function.get_concrete_function()
        return self._concrete(*(tf.convert_to_tensor(a, d) for a, d in zip(args, self._dtypes, strict=True)))
