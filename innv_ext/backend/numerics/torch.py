"""What only torch says how to do; the only file that imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Tensor = Any
Specs = Sequence[tuple[tuple[int | None, ...], str]]
_STEPS = {"FloorBackward", "CeilBackward", "RoundBackward", "TruncBackward", "SignBackward"}  # zeros, not a gradient
_FREE = 3  # what stands for a free size where a function is tried out


def mask_of(x: Tensor) -> Tensor | None:
    """The Keras mask of ``x``, if it has one."""
    return getattr(x, "_keras_mask", None)


def set_mask(x: Tensor, mask: Tensor | None) -> None:
    """Give ``x`` a Keras mask, or take it away."""
    x._keras_mask = mask


def identity(x: Tensor) -> Tensor:
    """A new tensor with the value of ``x``, so that two uses of one slot are two inputs to a vjp."""
    return x.view_as(x)


def erfc(x: Tensor) -> Tensor:
    """The complementary error function (``keras.ops.erfc`` is missing in Keras 3.8)."""
    return torch.erfc(x)


def custom_gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``fn(*xs) -> (ys, gradient)``, with ``gradient(*upstream)`` one tensor per x."""

    def decorated(*xs: Tensor) -> Any:
        structure: list[Any] = []

        class Own(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
                ys, ctx.gradient = fn(*given)
                ctx.save_for_backward(*given)
                structure.append(ys)
                return tuple(keras.tree.flatten(ys))

            @staticmethod
            def backward(ctx: Any, *upstream: Tensor) -> Any:
                # where derivatives of the gradient are wanted it has to come of the tensors that record them
                gradient = fn(*ctx.saved_tensors)[1] if torch.is_grad_enabled() else ctx.gradient
                return gradient(*upstream)

        flat = Own.apply(*xs)
        return keras.tree.pack_sequence_as(structure[0], list(flat))

    return decorated


def restoring(fn: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """``fn``, after which the variables have the values from before."""

    def run(*xs: Tensor) -> Any:
        before = [v.value.detach().clone() for v in variables]
        try:
            return fn(*xs)
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)

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
    outer = torch.is_grad_enabled() and any(xs[i].requires_grad for i in floats)
    leaves = list(xs)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for i in floats:
            leaves[i] = xs[i].view_as(xs[i]) if outer else xs[i].detach().requires_grad_(True)
            _move_mask(xs[i], leaves[i])
        ys = keras.tree.flatten(fn(*leaves))
    sources = [leaves[i] for i in floats]

    def pull(targets: Sequence[int], cotangents: Sequence[Tensor]) -> list[Tensor]:
        pairs = [(ys[i], r) for i, r in zip(targets, cotangents, strict=True) if ys[i].requires_grad]
        if not pairs:
            return [torch.zeros_like(x) for x in sources]
        return list(
            torch.autograd.grad(
                [y for y, _ in pairs],
                sources,
                [r.expand_as(y) for y, r in pairs],
                retain_graph=True,
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
                materialize_grads=True,
            )
        )

    return [y if outer else _move_mask(y, y.detach()) for y in ys], pull


def _move_mask(x: Tensor, y: Tensor) -> Tensor:
    if mask_of(x) is not None:
        set_mask(y, mask_of(x))
    return y


def with_slope(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``fn(x)``, one number a sample, and its gradient."""
    (y,), pull = linearized(fn, [x], [0])
    return y, pull([0], [torch.ones_like(y)])[0]


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
    count, last = xs[0].shape[0], list(state)
    made: list[Any] = [None] * count
    for t in reversed(range(count)) if backwards else range(count):
        new, made[t] = step(last, [x[t] for x in xs])
        last = [ops.cast(s, old.dtype) for s, old in zip(new, last, strict=True)]
    return last, [torch.stack([ops.cast(ys[i], dtype) for ys in made]) for i, (_, dtype) in enumerate(outputs)]


class _Detaches(TorchFunctionMode):
    """Notes whether a tensor is held constant within it."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= func is torch.Tensor.detach
        return func(*args, **(kwargs or {}))


def second_derivative(fn: Callable[..., Any], specs: Specs) -> str:
    """What torch knows of the gradient's derivative of ``fn``: "known", "missing" (an error), or "doubtful".

    Doubtful are functions that hold parts of themselves constant, or have a gradient of their own.
    """
    floats, mode = _floats(specs), _Detaches()

    def watched(*xs: Tensor) -> Any:
        with mode:
            return fn(*xs)

    try:
        inner, again = linearized(lambda *xs: _pulled(watched, xs, floats), _tried(specs), floats)
        again(range(len(inner)), [torch.ones_like(g) for g in inner])
    except RuntimeError:  # "derivative for ... is not implemented"
        return "missing"
    own = any("torch::autograd" in str(type(n)) or n.name() == "OwnBackward" for n in _recorded(fn, specs)[0])
    return "doubtful" if mode.seen or own else "known"


def _pulled(fn: Callable[..., Any], xs: Sequence[Tensor], floats: Sequence[int]) -> list[Tensor]:
    ys, pull = linearized(fn, xs, floats)
    targets = [i for i, y in enumerate(ys) if y.is_floating_point()]
    return pull(targets, [torch.ones_like(ys[i]) for i in targets])


def rectifies(fn: Callable[..., Any], specs: Specs) -> bool:
    """Whether ``fn`` has a ReLU inside; a hard sigmoid, which is one of relu6, is none."""
    names = {(node.name().rstrip("0"), getattr(node, "_saved_min_val", None)) for node in _recorded(fn, specs)[0]}
    return any(n in ("ReluBackward", "LeakyReluBackward") or (n == "HardtanhBackward" and low == 0) for n, low in names)


def without_gradient(fn: Callable[..., Any], specs: Specs) -> set[int]:
    """Positions of the float inputs of ``fn`` that get no gradient, which is not the same as a zero one."""
    nodes, leaves = _recorded(fn, specs, passed=lambda node: node.name().rstrip("0") not in _STEPS)
    reached = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return {i for i, x in leaves.items() if id(x) not in reached}


def run_symbolically(fn: Callable[..., Any], specs: Specs) -> Any:
    """Run ``fn`` once on samples of zeros, as ``predict`` runs a model: on torch it does nothing before that."""
    with torch.no_grad():
        return fn(*(torch.zeros_like(x) for x in _tried(specs)))


def _recorded(
    fn: Callable[..., Any], specs: Specs, passed: Callable[[Any], bool] = lambda node: True
) -> tuple[list[Any], dict[int, Tensor]]:
    """The nodes that torch records of ``fn``, from the outputs on as far as ``passed``, and the float inputs."""
    xs = _tried(specs)
    leaves = {i: xs[i].requires_grad_(True) for i in _floats(specs)}
    with torch.enable_grad():
        ys = keras.tree.flatten(fn(*xs))
    found: dict[int, Any] = {}
    rest = [y.grad_fn for y in ys if isinstance(y, torch.Tensor) and y.grad_fn is not None]
    while rest:
        node = rest.pop()
        if id(node) not in found and passed(node):
            found[id(node)] = node
            rest.extend(before for before, _ in node.next_functions if before is not None)
    return list(found.values()), leaves


def _floats(specs: Specs) -> list[int]:
    return [i for i, (_, dtype) in enumerate(specs) if dtype.startswith(("float", "bfloat"))]


def _tried(specs: Specs) -> list[Tensor]:
    """Repeatable samples; integers and truths are 0 and 1."""
    rng, found = np.random.default_rng(0), []
    for shape, dtype in specs:
        shape = tuple(_FREE if d is None else d for d in shape)
        floats = dtype.startswith(("float", "bfloat"))
        found.append(ops.convert_to_tensor(rng.uniform(-1, 1, shape) if floats else rng.integers(0, 2, shape), dtype))
    return found


class Compiled:
    """A function of tensors without a record of gradients; torch compiles nothing.

    ``traces`` is 1 from the first call on.
    """

    def __init__(self, fn: Callable[..., Any], specs: Specs, jit_compile: bool):
        self.traces, self._fn = 0, fn
        self._dtypes = [dtype for _, dtype in specs]

    def __call__(self, *args: Any) -> Any:
        self.traces = 1
        with torch.no_grad():
            return self._fn(*(ops.convert_to_tensor(a, d) for a, d in zip(args, self._dtypes, strict=True)))
