"""A built Keras model as a straight-line program over integer slots.

``trace(model)`` inlines nested models, shared layers, operator and ``keras.ops`` nodes, and whatever composite or
custom layer can be run on ``keras.KerasTensor``. This is the only file that reads private attributes of Keras.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import tree
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

from innv_ext.backend import numerics
from innv_ext.backend.graph import Arg, Call, Graph, Node, Spec, keys_of, op_key, try_out
from innv_ext.backend.masks import mask_of
from innv_ext.errors import UnsupportedModelError

Tensor = Any


def _parts(model: keras.Model) -> list[Any]:
    layers = list(model._flatten_layers())
    return layers + [op for m in layers if isinstance(m, Functional) for op in m.operations if op not in layers]


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Call layers as ``predict`` does, and leave the model as it was.

    Calling layers records nodes, losses, attributes and names of operations. A layer that is built by the call keeps
    its new weights.
    """
    layers = _parts(model)
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
        yield
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


@functools.cache
def _tells(name: str) -> bool:
    """Whether an attribute of a layer says what it computes: neither of training nor a record of calls."""
    training = set(vars(keras.Model(name="any"))) - set(vars(keras.layers.Layer(name="any")))
    training |= {"optimizer", "history", "_trainable"}
    calls = {"built", "_called", "_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids", "_metrics"}
    return not (name in training | calls or name.startswith(("_compile", "_self_", "_eval", "stop_")))


def structure(model: keras.Model) -> tuple[Any, list[Any]]:
    """What the graph of a model depends on: its layers with all their attributes, but not the values of weights.

    The first part is equal as long as no layer was added, replaced or given another activation, stride ...; the second
    part keeps alive the objects that the first knows by their identity, but not the model.
    """
    layers = _parts(model)
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
        if _runs_recorded_graph(model):
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


def trace(model: keras.Model, is_leaf: Callable[[Any], bool]) -> Graph:
    """Turn a built model into a ``Graph``; the model is left as it was.

    Parameters
    ----------
    model : built keras.Model (functional, Sequential or subclassed)
    is_leaf : tells for a layer or operation whether it stays one node; others are opened where possible

    Raises
    ------
    UnsupportedModelError
        if the model is not built, or a subclassed model's ``call`` cannot run on KerasTensors
    """
    with untouched(model):
        tracer = _Tracer(is_leaf, model.layers)
        inputs, outputs = model_tensors(model)
        if any(kt.sparse or getattr(kt, "ragged", False) for kt in tree.flatten(inputs)):
            raise UnsupportedModelError(
                f"The model {model.name!r} has a sparse or ragged input; only dense ones can be "
                f"explained. Convert the data and give the model a dense keras.Input."
            )
        slots = [tracer.new_slot(kt) for kt in tree.flatten(inputs)]
        if outputs is None:
            arguments = tuple(inputs) if isinstance(inputs, tuple) else (inputs,)
            try:
                outputs = tracer.run_symbolically(model, arguments, tracer.with_training(model, {}))
            except Exception as error:
                raise UnsupportedModelError(
                    f"The call() of the subclassed model {model.name!r} cannot run on keras.KerasTensor: {error}. "
                    f"Write it with Keras layers and keras.ops, or wrap its parts in Keras layers."
                ) from error
        known = {id(kt): slot for kt, slot in zip(tree.flatten(inputs), slots, strict=True)}
        tracer.recorded = _runs_recorded_graph(model)
        tracer.walk(tree.flatten(outputs), known, ())
        flat = tuple(known[id(kt)] for kt in tree.flatten(outputs))
        return Graph(tuple(tracer.nodes), tuple(slots), flat, tracer.specs, tracer.layer_slots, keys_of(outputs))


class _Tracer:
    """Collects nodes while walking recorded or freshly run symbolic graphs."""

    def __init__(self, is_leaf: Callable[[Any], bool], layers: Sequence[keras.layers.Layer] = ()):
        self.is_leaf = is_leaf
        self.nodes: list[Node] = []
        self.specs: dict[int, Spec] = {}
        self.layer_slots: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.training, self.recorded = False, False
        self.positions = {layer.name: i for i, layer in enumerate(layers)}

    def new_slot(self, kt: keras.KerasTensor) -> int:
        slot = len(self.specs)
        self.specs[slot] = Spec(tuple(kt.shape), keras.backend.standardize_dtype(kt.dtype))
        return slot

    def walk(self, outputs: Sequence[keras.KerasTensor], known: dict[int, int], path: tuple[str, ...]) -> None:
        """Emit every recorded call that ``outputs`` need, starting from the tensors that are ``known``."""
        stack = [(kt, False) for kt in reversed(outputs)]
        while stack:
            kt, ready = stack.pop()
            if id(kt) in known:
                continue
            history = getattr(kt, "_keras_history", None)
            if history is None or history.operation is None:
                raise UnsupportedModelError(f"The tensor {kt.name!r} does not depend on the model's inputs.")
            recorded = history.operation._inbound_nodes[history.node_index]
            if ready:
                self.emit(recorded, known, path)
                continue
            stack.append((kt, True))
            stack.extend((x, False) for x in reversed(recorded.input_tensors) if id(x) not in known)

    def emit(self, recorded: Any, known: dict[int, int], path: tuple[str, ...]) -> None:
        op, args, kwargs = recorded.operation, recorded.arguments.args, recorded.arguments.kwargs
        if recorded.is_input:
            raise UnsupportedModelError(f"The layer {op.name!r} is not connected to the model's inputs.")
        # operations made while a call() is run are numbered through the whole process: name them by what they do
        own = op.name if self.recorded or isinstance(op, keras.layers.Layer) else op_key(op)
        here = (*path, own)
        name = self.unique_name(here)
        opened, note = None, ""
        if isinstance(op, keras.Model) or not self.is_leaf(op):
            opened, note = self.open(op, args, kwargs, known, here)
        if opened is not None:
            for kt, slot in zip(recorded.outputs, opened, strict=True):
                known[id(kt)] = slot
        else:
            self.add(op, recorded, known, here, name, note)
        self.layer_slots[name] = known[id(recorded.outputs[0])]

    def unique_name(self, here: tuple[str, ...]) -> str:
        """The path of a node, numbered from its second use on."""
        name = "/".join(here)
        count = self.names[name] = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def add(self, op: Any, recorded: Any, known: dict[int, int], here: tuple[str, ...], name: str, note: str) -> None:
        inputs = tuple(known[id(kt)] for kt in recorded.input_tensors)
        args, kwargs = self.templates(recorded.arguments.args, self.with_training(op, recorded.arguments.kwargs))
        outputs = tuple(self.new_slot(kt) for kt in recorded.outputs)
        known.update({id(kt): slot for kt, slot in zip(recorded.outputs, outputs, strict=True)})
        self.append(name, op, Call(op, args, kwargs), inputs, outputs, here, note)

    @staticmethod
    def templates(args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the i-th tensor replaced by ``Arg(i)``."""
        counter = itertools.count()
        mark = functools.partial(
            tree.map_structure, lambda a: Arg(next(counter)) if isinstance(a, keras.KerasTensor) else a
        )
        return mark(args), mark(kwargs)

    def append(
        self,
        name: str,
        op: Any,
        call: Any,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        here: tuple[str, ...],
        note: str = "",
    ) -> None:
        position = self.positions.get(here[0])
        self.nodes.append(Node(len(self.nodes), name, op, call, inputs, outputs, here, position, note=note))

    def open(self, op: Any, args: Any, kwargs: Any, known: dict[int, int], here: tuple[str, ...]) -> Any:
        """Slots of the outputs after inlining ``op``, or (None, reason) where it has to stay one node."""
        outer = [kt for kt in tree.flatten((args, kwargs)) if isinstance(kt, keras.KerasTensor)]
        if any(mask_of(kt) is not None for kt in outer) and not isinstance(op, keras.Model):
            return None, "a Keras mask reaches it"
        before = len(self.nodes), len(self.specs), dict(self.names), dict(self.layer_slots)
        context = self.training, self.recorded
        kwargs = self.with_training(op, kwargs)
        self.training, self.recorded = bool(kwargs.get("training", self.training)), _runs_recorded_graph(op)
        try:
            if _runs_recorded_graph(op):
                inputs, outputs = model_tensors(op)
                inner_inputs = tree.flatten(inputs)
            else:
                inner_inputs = [keras.KerasTensor(kt.shape, _inner_dtype(op, kt)) for kt in outer]
                fresh = iter(inner_inputs)
                swap = functools.partial(
                    tree.map_structure, lambda a: next(fresh) if isinstance(a, keras.KerasTensor) else a
                )
                inner_args, inner_kwargs = swap(args), swap(kwargs)
                outputs = self.run_symbolically(op, inner_args, inner_kwargs)
            inner = {}
            for kt, inside in zip(outer, inner_inputs, strict=True):
                inner[id(inside)] = self.cast(known[id(kt)], inside, here)
            self.walk(tree.flatten(outputs), inner, here)
            slots = [inner[id(kt)] for kt in tree.flatten(outputs)]
            if not self.recorded:
                recorded_call = Call(op, *self.templates(args, kwargs))
                feeds = [known[id(kt)] for kt in outer]
                try_out(recorded_call, feeds, [self.specs[s] for s in feeds], self.nodes[before[0] :], slots)
            return slots, ""
        except Exception as error:  # whatever a foreign call() raises, the layer stays one node
            del self.nodes[before[0] :]
            for slot in list(self.specs)[before[1] :]:
                del self.specs[slot]
            self.names, self.layer_slots = before[2], before[3]
            return None, f"its call() cannot run on KerasTensors ({type(error).__name__}: {error})"
        finally:
            self.training, self.recorded = context

    def with_training(self, op: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments with ``training`` as ``predict`` would pass it.

        A functional model hands its own value to all of its layers, whatever was recorded; in a ``call`` written by
        hand an explicit value counts.
        """
        takes_it = isinstance(op, keras.layers.Layer) and op._call_has_training_arg
        inherits = self.recorded or kwargs.get("training") is None
        return {**kwargs, "training": self.training} if takes_it and inherits else kwargs

    def run_symbolically(self, op: Any, args: Any, kwargs: Any) -> Any:
        outputs = op.call(*args, **kwargs)
        if not all(isinstance(kt, keras.KerasTensor) for kt in tree.flatten(outputs)):
            raise TypeError("an output is not symbolic")
        return outputs

    def cast(self, slot: int, inside: keras.KerasTensor, here: tuple[str, ...]) -> int:
        """The slot in the dtype that the inner model or layer computes in."""
        dtype = keras.backend.standardize_dtype(inside.dtype)
        outer = self.specs[slot]
        if len(outer.shape) != len(inside.shape):
            raise UnsupportedModelError(f"rank {len(outer.shape)} is fed to an input of rank {len(inside.shape)}")
        if outer.dtype == dtype:
            return slot
        new = self.new_slot(keras.KerasTensor(outer.shape, dtype))
        call = Call(keras.ops.cast, (Arg(0), dtype))
        inside_path = (*here, "cast")
        self.append(self.unique_name(inside_path), keras.ops.cast, call, (slot,), (new,), inside_path)
        return new


def _runs_recorded_graph(op: Any) -> bool:
    if isinstance(op, keras.Sequential):
        return type(op).call is keras.Sequential.call and op._functional is not None
    return isinstance(op, Functional) and type(op).call is Functional.call


def _inner_dtype(op: Any, kt: keras.KerasTensor) -> str:
    dtype = keras.backend.standardize_dtype(kt.dtype)
    casts = isinstance(op, keras.layers.Layer) and op.autocast and op._convert_input_args
    return op.input_dtype if casts and numerics.is_float(dtype) else dtype


def open_function(fn: Callable[..., Any], spec: Spec, is_leaf: Callable[[Any], bool]) -> Graph | None:
    """The graph of a user's activation function, or None if it cannot run on a KerasTensor."""
    x = keras.KerasTensor(spec.shape, spec.dtype)
    try:
        y = fn(x)
        tracer = _Tracer(is_leaf)
        known = {id(x): tracer.new_slot(x)}
        tracer.walk(tree.flatten(y), known, ())
        return Graph(tuple(tracer.nodes), (known[id(x)],), (known[id(y)],), tracer.specs, tracer.layer_slots)
    except Exception:
        return None
