"""What of a Keras model lies behind private attributes: its parts, its inputs, what a call leaves behind."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import keras
from keras import tree
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.models.functional import Functional

from innv_ext.backend.masks import mask_of
from innv_ext.errors import UnsupportedModelError


def parts(model: keras.Model) -> list[Any]:
    """The layers of a model and of all in it, itself included, and the operations recorded in functional ones."""
    layers = list(model._flatten_layers())
    return layers + [op for m in layers if isinstance(m, Functional) for op in m.operations if op not in layers]


def fixed_variables(model: keras.Model) -> list[Any]:
    """The variables that no training step moves; also those that no layer lists, such as states of recurrent ones."""
    kept = [value for part in parts(model) for value in vars(part).values() if isinstance(value, (list, tuple))]
    found = [*model.variables, *(v for v in tree.flatten(kept) if isinstance(v, keras.Variable))]
    return list({id(v): v for v in found if not v.trainable}.values())


@contextmanager
def untouched(model: keras.layers.Layer) -> Iterator[list[Any]]:
    """Call layers as ``predict`` does, and leave the model as it was; gives all its layers.

    Calling layers records nodes, losses, attributes and names of operations. A layer that is built by the call keeps
    its new weights.
    """
    layers = parts(model)
    attributes = [dict(vars(layer)) for layer in layers]
    lists = [
        (old, list(old))
        for a in attributes
        for k in ("_inbound_nodes", "_outbound_nodes", "_losses")
        if isinstance(old := a.get(k), list)
    ]
    names = global_state.get_global_attribute("object_name_uids")
    counts = dict(names) if names is not None else None
    model._get_call_context().training = False
    try:
        with warnings.catch_warnings():  # which users have seen when they made the model
            warnings.filterwarnings("ignore", r"Layer '.*' \(of type .*\) was passed an input with a mask", UserWarning)
            yield layers
    finally:
        model._maybe_reset_call_context()
        for old, content in lists:
            if len(old) != len(content):
                old[:] = content
        for layer, before in zip(layers, attributes, strict=True):
            now = vars(layer)
            if now.get("built") and not before.get("built") and getattr(layer, "variables", None):
                continue
            for key in [k for k in now if k not in before]:
                object.__delattr__(layer, key)
            for key, value in before.items():
                if now.get(key) is not value:
                    object.__setattr__(layer, key, value)
        if counts is not None:
            names.clear()
            names.update(counts)


@contextmanager
def constant_variables() -> Iterator[None]:
    """Within it no variable can be changed: a ValueError."""
    plain, own = keras.Variable.assign, "assign" in vars(keras.Variable)

    def refused(variable: Any, value: Any) -> None:
        raise ValueError(f"it changes the variable {variable.name!r}")

    keras.Variable.assign = refused
    try:
        yield
    finally:
        if own:
            keras.Variable.assign = plain
        else:
            del keras.Variable.assign


@functools.cache
def _untold() -> set[str]:
    """Attributes of layers that do not say what these compute: those of training, and records of calls."""
    training = set(vars(keras.Model(name="any"))) - set(vars(keras.layers.Layer(name="any")))
    training |= {"optimizer", "history", "_trainable"}
    return training | {"built", "_called", "_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids", "_metrics"}


def _tells(name: str) -> bool:
    """Whether an attribute of a layer says what it computes."""
    return not (name in _untold() or name.startswith(("_compile", "_self_", "_eval", "stop_")))


def structure(model: keras.Model) -> tuple[Any, list[Any]]:
    """What the graph of a model depends on: its layers with all their attributes, but not the values of weights.

    The first part is equal as long as no layer was added, replaced or given another activation, stride ...; the second
    part keeps alive the objects that the first knows by their identity, but not the model.
    """
    layers = parts(model)
    kept = [layer for layer in layers if layer is not model]

    def plain(value: Any, keep: bool, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return type(value), value
        if isinstance(value, (list, tuple)) and depth < 4:
            return [plain(v, keep, depth + 1) for v in value]
        if isinstance(value, dict) and depth < 4:
            return [(plain(k, keep, depth + 1), plain(v, keep, depth + 1)) for k, v in value.items()]
        kept.extend([value] * keep)  # what a model holds may hold the model
        return id(value)

    told = [{k: plain(v, layer is not model) for k, v in vars(layer).items() if _tells(k)} for layer in layers]
    return list(zip(map(id, layers), told, strict=True)), kept


def model_tensors(model: keras.Model) -> tuple[Any, Any]:
    """The symbolic (inputs, outputs) structures of a functional model, or fresh inputs and None for a subclassed one.

    Raises
    ------
    UnsupportedModelError
        if the model is not built, with the ways to build it
    """
    if isinstance(model, keras.Sequential) and model._functional is not None:
        model = model._functional
    if isinstance(model, Functional):
        if runs_recorded_graph(model):
            return model._inputs_struct, model._outputs_struct
        return tree.map_structure(lambda kt: keras.KerasTensor(kt.shape, kt.dtype), model._inputs_struct), None
    config = model.get_build_config() if model.built else None
    shapes = (config or {}).get("input_shape") or (config or {}).get("shapes_dict")
    if not shapes:
        raise UnsupportedModelError(
            f"The model {model.name!r} is not built, so it has no graph to walk. Call it once on data, call "
            f"model.build(input_shape), or give its first layer an input shape (keras.Input)."
        )
    if isinstance(shapes, dict) and len(shapes) == 1:
        shapes = next(iter(shapes.values()))
    inputs = tree.map_shape_structure(lambda s: keras.KerasTensor((None, *s[1:]), model.input_dtype), shapes)
    return inputs, None


def runs_recorded_graph(op: Any) -> bool:
    """Whether a model is what was recorded when it was made, and not a ``call`` written by hand."""
    if isinstance(op, keras.Sequential):
        return type(op).call is keras.Sequential.call and op._functional is not None
    return isinstance(op, Functional) and type(op).call is Functional.call


@functools.cache
def recorded_training_counts() -> bool:
    """Whether a ``training=True`` recorded in a functional model holds in inference: the running Keras is asked."""

    class Told(keras.layers.Layer):
        def call(self, x: Any, training: bool | None = None) -> Any:
            return x * 2.0 if training else x * 1.0

    x = keras.Input((1,), name="x")
    model = keras.Model(x, Told(name="told")(x, training=True), name="model")
    with calls_told(False):
        return float(model(keras.ops.ones((1, 1)), training=False)[0, 0]) == 2.0


@contextmanager
def calls_told(training: Any) -> Iterator[Callable[[], Any]]:
    """Layers that are called within it inherit ``training``; gives what those called next would inherit."""
    context = global_state.get_global_attribute("current_call_ctx")
    before = getattr(context, "training", None)
    if context is not None:
        context.training = training
    try:
        yield lambda: getattr(context, "training", training)
    finally:
        if context is not None:
            context.training = before


def recorded_tensors(operations: Sequence[Any]) -> Iterator[keras.KerasTensor]:
    """The outputs of all recorded calls of layers and operations."""
    return (kt for op in operations for call in op._inbound_nodes for kt in call.outputs)


def recorded_calls(model: keras.Model) -> list[Any]:
    """The recorded calls of a functional model in the order in which Keras runs them, without its inputs."""
    model = model._functional if isinstance(model, keras.Sequential) else model
    return [
        call for _, calls in sorted(model._nodes_by_depth.items(), reverse=True) for call in calls if not call.is_input
    ]


def handed_training(model: Any, training: Any) -> tuple[dict[int, Any], Any]:
    """``training`` for the recorded calls of a functional model, by identity, and what later calls inherit.

    Where what was recorded counts, Keras hands the value of one call on to all calls that run after it. Where it does
    not count, there are none.
    """
    found: dict[int, Any] = {}
    if not recorded_training_counts():
        return found, training
    for call in recorded_calls(model):
        op, given = call.operation, call.arguments
        if not isinstance(op, keras.layers.Layer):
            continue
        training = found[id(call)] = given.kwargs.get("training", training)
        if runs_recorded_graph(op):
            training = handed_training(op, training)[1]
        elif not type(op).__module__.startswith("keras."):
            with calls_told(training) as inherited, suppress(Exception):  # it will stay one node
                op.compute_output_spec(*given.args, **given.kwargs)
                training = inherited()
    return found, training


@contextmanager
def quiet_call(op: Any, read: dict[int, Any]) -> Iterator[None]:
    """Run the ``call`` of a layer on KerasTensors: losses that it adds are dropped, variables that it reads noted.

    What is computed of a variable alone (a slice of positions, a tiled class token) is computed then and there, so that
    the graph holds its value; ``read`` has these variables by identity.
    """
    plain, own = keras.Variable.value, isinstance(op, keras.layers.Layer)

    def value(variable: Any) -> Any:
        if not in_symbolic_scope():
            read[id(variable)] = variable
        return plain.fget(variable)

    keras.Variable.value = property(value)
    if own:
        object.__setattr__(op, "add_loss", lambda loss: None)
    try:
        yield
    finally:
        keras.Variable.value = plain
        if own:
            object.__delattr__(op, "add_loss")


def with_masks(op: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a layer's ``call`` with the Keras masks of its tensors, where it takes them."""
    if not isinstance(op, keras.layers.Layer):
        return kwargs
    signature = inspect.signature(op.call)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:  # which the call itself will raise
        return kwargs
    tensors = {
        name: value
        for name, value in given.items()
        if "mask" not in name and any(isinstance(kt, keras.KerasTensor) for kt in tree.flatten(value))
    }
    masks = {}
    for name, value in tensors.items():
        wanted = "mask" if len(tensors) == 1 else f"{name}_mask"
        if wanted in signature.parameters and given.get(wanted) is None:
            found = tree.map_structure(mask_of, value)
            if any(m is not None for m in tree.flatten(found)):
                masks[wanted] = found
    return {**kwargs, **masks}
