"""What only JAX says how to do; the only file that imports it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import keras
from keras import ops
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope

Tensor = Any
Specs = Sequence[tuple[tuple[int | None, ...], str]]
_FREE = 3  # what stands for a free size where a function is tried out


def mask_of(x: Tensor) -> Tensor | None:
    """The Keras mask of ``x``, if it has one; arrays take no attributes, Keras keeps a table."""
    return get_keras_mask(x)


def set_mask(x: Tensor, mask: Tensor | None) -> None:
    """Give ``x`` a Keras mask, or take it away."""
    set_keras_mask(x, mask)


def identity(x: Tensor) -> Tensor:
    """A new tensor with the value of ``x``, so that it can have a Keras mask of its own."""
    return jnp.copy(x)


def erfc(x: Tensor) -> Tensor:
    """The complementary error function (``keras.ops.erfc`` is missing in Keras 3.8)."""
    return jax.lax.erfc(x)


def custom_gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``fn(*xs) -> (ys, gradient)``, with ``gradient(*upstream)`` one tensor per x."""

    @jax.custom_gradient
    def decorated(*xs: Tensor) -> Any:
        ys, gradient = fn(*xs)

        def pulled(upstream: Any) -> tuple[Tensor, ...]:
            found = gradient(*keras.tree.flatten(upstream))
            return tuple(found) if isinstance(found, (list, tuple)) else (found,)

        return ys, pulled

    return decorated


def restoring(fn: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """``fn``, after which the variables have the values from before."""

    def run(*xs: Tensor) -> Any:
        with keras.StatelessScope():
            return fn(*xs)

    return run


def _stateless() -> AbstractContextManager[Any]:
    """A layer that assigns its statistics must not leave in them what JAX traces."""
    return nullcontext() if in_stateless_scope() else keras.StatelessScope()


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
    real: list[bool] = []

    def run(*moved: Tensor) -> Any:
        given = list(xs)
        for i, x in zip(floats, moved, strict=True):
            given[i], mask = x, mask_of(xs[i])
            if mask is not None:
                set_mask(x, mask)
        with _stateless():
            ys = keras.tree.flatten(fn(*given))
        real[:] = [jnp.issubdtype(y.dtype, jnp.floating) for y in ys]
        kept = [y for y, is_real in zip(ys, real, strict=True) if not is_real]
        return [y for y, is_real in zip(ys, real, strict=True) if is_real], (kept, [mask_of(y) for y in ys])

    found, pullback, (kept, masks) = jax.vjp(run, *(xs[i] for i in floats), has_aux=True)
    parts = iter(found), iter(kept)
    ys = [next(parts[0] if is_real else parts[1]) for is_real in real]
    for y, mask in zip(ys, masks, strict=True):
        if mask is not None:
            set_mask(y, mask)
    places = [i for i, is_real in enumerate(real) if is_real]

    def pull(targets: Sequence[int], cotangents: Sequence[Tensor]) -> list[Tensor]:
        given = dict(zip(targets, cotangents, strict=True))
        return list(
            pullback([jnp.broadcast_to(given[i], ys[i].shape) if i in given else jnp.zeros_like(ys[i]) for i in places])
        )

    return ys, pull


def with_slope(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``fn(x)``, one number a sample, and its gradient."""
    (y,), pull = linearized(fn, [x], [0])
    return y, pull([0], [jnp.ones_like(y)])[0]


def scan(
    step: Callable[..., tuple[list[Tensor], list[Tensor]]],
    state: Sequence[Tensor],
    xs: Sequence[Tensor],
    outputs: Specs,
    backwards: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run ``step(state, xs_t) -> (state, ys_t)`` along the first axis of xs.

    Parameters
    ----------
    state : what goes from one step to the next
    outputs : shape and dtype of every y_t
    backwards : from the last step to the first; the ys are in the order of the xs all the same

    Returns
    -------
    the last state, and the ys of all steps with a first axis like that of xs
    """

    def body(state: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        new, ys = step(state, now)
        new = [jnp.broadcast_to(s, old.shape).astype(old.dtype) for s, old in zip(new, state, strict=True)]
        return new, [jnp.asarray(y).astype(dtype) for y, (_, dtype) in zip(ys, outputs, strict=True)]

    with _stateless():
        return jax.lax.scan(body, [jnp.asarray(s) for s in state], list(xs), reverse=backwards)


def second_derivative(fn: Callable[..., Any], specs: Specs) -> str:
    """What JAX knows of the gradient's derivative of ``fn``: "known", "missing" (an error), or "doubtful".

    Doubtful are functions that hold parts of themselves constant.
    """

    def twice(*xs: Tensor) -> Any:
        return _pulled(functools.partial(_pulled, fn), *xs)

    try:
        _jaxpr(twice, specs)
    except (NotImplementedError, TypeError, ValueError):
        return "missing"
    return "doubtful" if "stop_gradient" in str(_jaxpr(fn, specs)) else "known"


def _pulled(fn: Callable[..., Any], *xs: Tensor) -> list[Tensor]:
    ys, pull = linearized(fn, xs, [i for i, x in enumerate(xs) if jnp.issubdtype(x.dtype, jnp.floating)])
    targets = [i for i, y in enumerate(ys) if jnp.issubdtype(y.dtype, jnp.floating)]
    return pull(targets, [jnp.ones_like(ys[i]) for i in targets])


def rectifies(fn: Callable[..., Any], specs: Specs) -> bool:
    """Whether ``fn`` has a ReLU inside; a hard sigmoid, which is one of relu6, is none."""
    names = re.findall(r"name=(relu6?|leaky_relu|hard_sigmoid)\b", str(_jaxpr(fn, specs)))
    return bool({"relu", "leaky_relu"} & set(names)) or names.count("relu6") > names.count("hard_sigmoid")


def without_gradient(fn: Callable[..., Any], specs: Specs) -> set[int]:
    """Positions of the float inputs of ``fn`` that get no gradient, which is not the same as a zero one."""
    floats = [i for i, (_, dtype) in enumerate(specs) if dtype.startswith(("float", "bfloat"))]

    def gradient(scale: Tensor, *xs: Tensor) -> list[Tensor]:
        ys, pull = linearized(fn, xs, floats)
        targets = [i for i, y in enumerate(ys) if jnp.issubdtype(y.dtype, jnp.floating)]
        return pull(targets, [jnp.ones_like(ys[i]) * scale.astype(ys[i].dtype) for i in targets])

    program = _jaxpr(gradient, [((), "float32"), *specs]).jaxpr
    fed = {program.invars[0]}  # a gradient that does not depend on what is pulled back is none
    for step in program.eqns:
        if fed.intersection(v for v in step.invars if not hasattr(v, "val")):
            fed.update(step.outvars)
    return {i for i, v in zip(floats, program.outvars, strict=True) if hasattr(v, "val") or v not in fed}


def run_symbolically(fn: Callable[..., Any], specs: Specs) -> Any:
    """Run ``fn`` once on tensors without values, as ``predict`` does before it computes."""
    with _stateless():
        return jax.eval_shape(lambda *xs: keras.tree.flatten(fn(*xs)), *_structs(specs))


def _jaxpr(fn: Callable[..., Any], specs: Specs) -> Any:
    with _stateless():
        return jax.make_jaxpr(lambda *xs: keras.tree.flatten(fn(*xs)))(*_structs(specs))


def _structs(specs: Specs) -> list[Any]:
    return [jax.ShapeDtypeStruct(tuple(_FREE if d is None else d for d in shape), dtype) for shape, dtype in specs]


class _Asked(keras.StatelessScope):
    """Notes which variables are read within it."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        self.variables[id(variable)] = variable
        return super().get_current_value(variable)


class Compiled:
    """A function of tensors, compiled by XLA for each size of its arguments.

    Variables that it reads are arguments of the program, so that a model that was trained since is seen. ``traces``
    counts programs.
    """

    def __init__(self, fn: Callable[..., Any], specs: Specs, jit_compile: bool):
        self.traces, self._fn = 0, fn
        self._dtypes = [dtype for _, dtype in specs]
        self._variables: list[Any] | None = None
        self._program = jax.jit(self._run)

    def _run(self, values: list[Tensor], *args: Tensor) -> Any:
        self.traces += 1
        with keras.StatelessScope(list(zip(self._variables or (), values, strict=True))):
            return self._fn(*args)

    def __call__(self, *args: Any) -> Any:
        given = [ops.convert_to_tensor(a, d) for a, d in zip(args, self._dtypes, strict=True)]
        if self._variables is None:
            with _Asked() as asked:
                jax.eval_shape(lambda *xs: keras.tree.flatten(self._fn(*xs)), *given)
            self._variables = list(asked.variables.values())
        return self._program([v.value for v in self._variables], *given)
