"""What only TensorFlow says how to do; the only file that imports it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

Tensor = Any
_FEW_STEPS = 8  # of loops that are run eagerly


def identity(x: Tensor) -> Tensor:
    """A new tensor with the value of ``x``, so that two uses of one slot are two inputs to a vjp."""
    return tf.identity(x)


def erfc(x: Tensor) -> Tensor:
    """The complementary error function (``keras.ops.erfc`` is missing in Keras 3.8)."""
    return tf.math.erfc(x)


def not_before(r: Tensor, z: Tensor) -> Tensor:
    """``z`` for what is computed behind ``r``: TensorFlow computes what it can early, and keeps it until it is used.

    Of what a forward walk leaves to a backward walk, only the values themselves take memory then.
    """
    if tf.executing_eagerly():
        return z
    with tf.control_dependencies([r]):
        return tf.identity(z)


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


def linearized(
    fn: Callable[..., Any], xs: Sequence[Tensor], floats: Sequence[int]
) -> tuple[list[Tensor], Callable[[Sequence[int], Sequence[Tensor]], list[Tensor]]]:
    """The flattened outputs of ``fn`` and their pullback, which may be called more than once.

    Parameters
    ----------
    floats : positions of the inputs that get a gradient

    Returns
    -------
    ys : outputs
    pull : ``pull(targets, cotangents)``, of the outputs at these positions, gives one gradient per float input
    """
    sources = [xs[i] for i in floats]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs = fn(*xs)
    ys = keras.tree.flatten(outputs)

    def pull(targets: Sequence[int], cotangents: Sequence[Tensor]) -> list[Tensor]:
        found = tape.gradient(
            [ys[i] for i in targets],
            sources,
            output_gradients=list(cotangents),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        found = [tf.convert_to_tensor(g) for g in found]  # a gather yields IndexedSlices
        for x, g in zip(sources, found, strict=True):
            if g.shape.rank is None:  # the gradient of a maximum over axes, inside a loop
                g.set_shape(x.shape)
        return found

    return ys, pull


def with_slope(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``fn(x)``, one number a sample, and its gradient; traced faster than ``vjp`` where fn has loops."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:  # loops take a persistent tape for higher orders
        tape.watch(x)
        y = fn(x)
    return y, tf.convert_to_tensor(tape.gradient(y, x, unconnected_gradients=tf.UnconnectedGradients.ZERO))


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
        given = list(state), list(xs)
        return compiled.get_concrete_function(*given)(*given)  # called otherwise, it warns of its sisters' traces
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


def second_derivative(fn: Callable[..., Any], specs: Sequence[tuple[tuple[int | None, ...], str]]) -> str:
    """What TensorFlow knows of the gradient's derivative of ``fn``: "known", "missing" (an error), or "doubtful".

    Doubtful are functions that hold parts of themselves constant, or use an operation whose gradient counts as such.
    """

    def pulled(fn: Callable[..., Any], *xs: Tensor) -> list[Tensor]:
        ys, pull = linearized(fn, xs, [i for i, x in enumerate(xs) if x.dtype.is_floating])
        targets = [i for i, y in enumerate(ys) if y.dtype.is_floating]
        return pull(targets, [tf.ones_like(ys[i]) for i in targets]) if targets else []

    def twice(*xs: Tensor) -> Any:
        return pulled(functools.partial(pulled, fn), *xs)

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
    floats, dead = [i for i, (_, dtype) in enumerate(specs) if tf.as_dtype(dtype).is_floating], set()

    def gradient(*xs: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([xs[i] for i in floats])
            ys = [y for y in keras.tree.flatten(fn(*xs)) if y is not None and y.dtype.is_floating]
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
