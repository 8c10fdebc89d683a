"""What a tracer collects: slots, nodes, names, and how recorded calls become nodes."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from innv_ext.backend import numerics
from innv_ext.backend.graph import Arg, Call, Node, Spec, op_key
from innv_ext.backend.masks import mask_of, masked
from innv_ext.backend.tracing.live import Live, is_opened
from innv_ext.backend.tracing.state import runs_recorded_graph
from innv_ext.errors import UnsupportedModelError

_CARRY = keras.layers.Identity(name="mask")
OWN = object()  # a mask that is only known when the model runs


class Collector:
    """Collects nodes while walking recorded graphs; what ``open`` makes of layers that are no single node."""

    def __init__(self, is_leaf: Callable[[Any], bool], layers: Sequence[keras.layers.Layer] = ()):
        self.is_leaf = is_leaf
        self.nodes: list[Node] = []
        self.specs: dict[int, Spec] = {}
        self.layer_slots: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.read: dict[int, Any] = {}  # variables whose values are part of the graph
        self.training, self.recorded = False, False
        self.handed: dict[int, Any] = {}  # what Keras hands to recorded calls where it isn't the same for all
        self.changes = False  # whether a call inside the one that is run changes what the others inherit
        self.masks: dict[int, Any] = {}  # those that tensors have when the model runs, where others were recorded
        self.live: Live | None = None  # which tensors of the functional model have masks
        self.lengths: Sequence[int] = ()  # for which constants that depend on free sizes have to be known
        self.inside = False  # whether layers of users inside a call that is run are no nodes
        self.checks = True  # whether what is opened is compared with the layer itself
        self.compared: set[Any] = set()  # what was found right, as ``kin`` tells it
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
        op, args = recorded.operation, recorded.arguments.args
        if recorded.is_input:
            raise UnsupportedModelError(f"The layer {op.name!r} is not connected to the model's inputs.")
        training, kwargs = self.training_of(recorded)
        # operations made while a call() is run are numbered through the whole process: name them by what they do
        own = op.name if self.recorded or isinstance(op, keras.layers.Layer) else op_key(op)
        here = (*path, own)
        name = self.unique_name(here)
        opened, note = None, ""
        if isinstance(op, keras.layers.Layer) and not runs_recorded_graph(op):
            self.give_masks(recorded)
        if is_opened(op, self.is_leaf):
            opened, note = self.open(op, args, kwargs, training, known, here, recorded.outputs)
        if opened is not None:
            for kt, slot in zip(recorded.outputs, opened, strict=True):
                known[id(kt)] = slot
        else:
            self.add(recorded, self.handing(op, kwargs, training), known, here, name, note)
        self.layer_slots[name] = known[id(recorded.outputs[0])]
        if isinstance(op, keras.layers.Layer):
            self.take_masks(recorded, known, here)

    def mask_now(self, kt: keras.KerasTensor) -> Any:
        """The Keras mask that a tensor has when the model runs, which may not be the one that was recorded."""
        return self.masks.get(id(kt), mask_of(kt))

    def give_masks(self, recorded: Any) -> None:
        """Note the masks of a call's outputs, as far as its inputs have other masks than those that were recorded."""
        op, given = recorded.operation, recorded.arguments
        found = [mask_of(kt) for kt in recorded.outputs]
        if any(id(kt) in self.masks for kt in recorded.input_tensors):
            signature = inspect.signature(op.call)
            named = {key: value for key, value in given.kwargs.items() if key in signature.parameters}
            try:
                first = next(iter(signature.bind_partial(*given.args, **named).arguments.values()))
                passed = named.get("mask")
                masks = tree.map_structure(self.mask_now, first) if passed is None else passed
                made = tree.flatten(op.compute_mask(first, masks) if op.supports_masking else None)
            except Exception:  # of a foreign compute_mask(), or of one that meets no mask that is known
                made = [OWN] * len(found)
            found = [*made, *found[len(made) :]]
        for kt, mask in zip(recorded.outputs, found, strict=False):
            if self.live is not None:
                mask = (OWN if mask is None else mask) if id(kt) in self.live.masked else None
            if mask is not mask_of(kt):
                self.masks[id(kt)] = mask

    def take_masks(self, recorded: Any, known: dict[int, int], here: tuple[str, ...]) -> None:
        """Tensors that lose their masks in a call have none for those that are called later.

        In a ``call`` written by hand that is what MultiHeadAttention does where masks are not part of recorded calls
        (Keras after 3.15).
        """
        if self.live is not None:
            for kt in recorded.outputs:
                if id(kt) in self.live.masked and self.mask_now(kt) is None:  # of a nested model that stays one node
                    self.masks[id(kt)] = OWN
            lost = self.live.lost.get(id(recorded), [])
        elif isinstance(recorded.operation, keras.layers.MultiHeadAttention):
            recorded_mask = "value_mask" in recorded.arguments.kwargs
            lost = [] if recorded_mask else [kt for kt in recorded.input_tensors if self.mask_now(kt) is not None]
        else:
            lost = []
        for kt in {id(kt): kt for kt in lost}.values():
            slot = known[id(kt)]
            call, spec = numerics.identity, self.specs[slot]
            known[id(kt)] = self.step(_CARRY, call, [slot], spec.shape, spec.dtype, (*here, "unmasked"))
            self.masks[id(kt)] = None

    def open(
        self,
        op: Any,
        args: Any,
        kwargs: Any,
        training: Any,
        known: dict[int, int],
        here: tuple[str, ...],
        results: Sequence[Any],
    ) -> tuple[list[int] | None, str]:
        """Slots of the outputs after inlining ``op``, or (None, reason) where it has to stay one node."""
        raise NotImplementedError

    def unique_name(self, here: tuple[str, ...]) -> str:
        """The path of a node, numbered from its second use on."""
        name = "/".join(here)
        count = self.names[name] = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def add(
        self, recorded: Any, kwargs: Any, known: dict[int, int], here: tuple[str, ...], name: str, note: str
    ) -> None:
        op, args = recorded.operation, recorded.arguments.args
        mask = self.found_on_tensor(op, args, kwargs)
        if mask is not None:
            self.walk([mask], known, here[:-1])
            kwargs = {**kwargs, "mask": mask}
        given = (a for a in tree.flatten((args, kwargs)) if isinstance(a, keras.KerasTensor))
        inputs = tuple(known[id(kt)] for kt in given)
        call = Call(op, *self.templates(args, kwargs), count=len(recorded.outputs))
        outputs = tuple(self.new_slot(kt) for kt in self.sized(call, inputs, recorded.outputs))
        known.update({id(kt): slot for kt, slot in zip(recorded.outputs, outputs, strict=True)})
        self.append(name, op, call, inputs, outputs, here, note)

    def sized(self, call: Call, inputs: Sequence[int], recorded: Sequence[Any]) -> Sequence[Any]:
        """The outputs of a call, with the sizes that a nested model left free and that are known where it is used."""
        given = [self.specs[s] for s in inputs]
        if all(None not in kt.shape[1:] for kt in recorded) or any(None in spec.shape[1:] for spec in given):
            return recorded
        try:
            found = tree.flatten(call(*(keras.KerasTensor(spec.shape, spec.dtype) for spec in given)))
        except Exception:  # of a call() that cannot run on KerasTensors
            return recorded
        same = [(a.dtype, len(a.shape)) for a in found] == [(b.dtype, len(b.shape)) for b in recorded]
        return found if same else recorded

    def found_on_tensor(self, op: Any, args: Any, kwargs: Any) -> keras.KerasTensor | None:
        """The mask that a layer takes from its one tensor when it runs, if no mask was recorded as an argument.

        Keras up to 3.15 records it. A mask that goes its own way in the graph is not lost where values are mixed.
        """
        names = inspect.signature(op.call).parameters if isinstance(op, keras.layers.Layer) else {}
        tensors = [a for a in tree.flatten((args, kwargs)) if isinstance(a, keras.KerasTensor)]
        if "mask" not in names or len(tensors) != 1 or kwargs.get("mask") is not None:
            return None
        mask = self.mask_now(tensors[0])
        return mask if isinstance(mask, keras.KerasTensor) else None

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

    def step(self, op: Any, call: Any, inputs: Sequence[int], shape: Any, dtype: str, here: tuple[str, ...]) -> int:
        """The slot of a node of our own, beside those that were recorded."""
        new = self.new_slot(keras.KerasTensor(shape, dtype))
        self.append(self.unique_name(here), op, call, tuple(inputs), (new,), here)
        return new

    def forget(self, nodes: int, slots: int) -> None:
        """Go back to so many nodes and slots."""
        del self.nodes[nodes:]
        for slot in list(self.specs)[slots:]:
            del self.specs[slot]

    def mask_slot(self, kt: keras.KerasTensor, known: dict[int, int], here: tuple[str, ...]) -> int | None:
        """The slot of the Keras mask of a tensor, if it has one."""
        mask = self.mask_now(kt)
        if mask is None:
            return None
        if mask is OWN:
            raise ValueError("a layer gives a Keras mask to its output inside its call()")
        self.walk([mask], known, here[:-1])
        return known[id(mask)]

    def name_masks(
        self, tensors: Sequence[keras.KerasTensor], masks: Sequence[int | None], known: dict[int, int]
    ) -> None:
        """Say in which slots the masks of tensors are."""
        for kt, mask in zip(tensors, masks, strict=True):
            if mask is not None:
                own = self.masks[id(kt)] = keras.KerasTensor(self.specs[mask].shape, self.specs[mask].dtype)
                known[id(own)] = mask

    def masked(self, slot: int, mask: int, here: tuple[str, ...]) -> int:
        """The slot with a Keras mask, as the layer would have given it to its output."""
        spec = self.specs[slot]
        return self.step(_CARRY, masked, [slot, mask], spec.shape, spec.dtype, (*here, "mask"))

    def training_of(self, recorded: Any) -> tuple[Any, dict[str, Any]]:
        """``training`` as ``predict`` would pass it to a recorded call, and the call's keyword arguments with it.

        A functional model hands its own value to all of its layers, whatever was recorded (Keras until 3.15), or only
        to those for which nothing was; in a ``call`` written by hand an explicit value counts.
        """
        op, kwargs = recorded.operation, recorded.arguments.kwargs
        given, layer = kwargs.get("training"), isinstance(op, keras.layers.Layer)
        inherits = self.recorded or given is None
        training = self.handed.get(id(recorded), self.training if inherits else given)
        if self.changes and given is None and layer and (op._call_has_training_arg or not self.is_leaf(op)):
            raise ValueError(f"another call in it has an explicit training=, which may reach {op.name!r}")
        return training, self.with_training(op, kwargs, training)

    def handing(self, op: Any, kwargs: dict[str, Any], training: Any) -> dict[str, Any]:
        """The same for a layer that is called, not its ``call``: what it is told reaches the layers inside."""
        inside = training and isinstance(op, keras.layers.Layer) and not self.is_leaf(op)
        return {**kwargs, "training": training} if inside else kwargs

    @staticmethod
    def with_training(op: Any, kwargs: dict[str, Any], training: Any) -> dict[str, Any]:
        """The keyword arguments with this ``training`` if ``op`` takes it; None stands for the default of its call."""
        if not isinstance(op, keras.layers.Layer):
            return kwargs
        if not op._call_has_training_arg:
            return {key: value for key, value in kwargs.items() if key != "training"}  # recorded all the same
        if training is None and "training" not in kwargs:
            training = inspect.signature(op.call).parameters["training"].default
        return {**kwargs, "training": training}

    def cast(self, slot: int, inside: keras.KerasTensor, here: tuple[str, ...], mask: int | None = None) -> int:
        """The slot in the dtype that the inner model or layer computes in, with its mask."""
        dtype = keras.backend.standardize_dtype(inside.dtype)
        outer = self.specs[slot]
        if len(outer.shape) != len(inside.shape):
            raise UnsupportedModelError(f"rank {len(outer.shape)} is fed to an input of rank {len(inside.shape)}")
        if outer.dtype == dtype:
            return slot
        call = Call(keras.ops.cast, (Arg(0), dtype))
        slot = self.step(keras.ops.cast, call, [slot], outer.shape, dtype, (*here, "cast"))
        return slot if mask is None else self.masked(slot, mask, here)

    def kin(self, call: Call, feeds: Sequence[int], masks: Sequence[int | None], nodes: Sequence[Node]) -> Any:
        """What equal layers of Keras, called on equal tensors, have in common; None for layers of users.

        Only one of them has to be compared with what it was opened to: the others have other weights.
        """
        op, given = call.op, (call.args, call.kwargs)
        plain = all(a is None or isinstance(a, (Arg, bool, int, float, str)) for a in tree.flatten(given))
        if not plain or not isinstance(op, keras.layers.Layer) or not type(op).__module__.startswith("keras."):
            return None
        settings = [repr({**op.get_config(), "name": None}), *vars(op)]
        specs = [None if slot is None else self.specs[slot] for slot in (*feeds, *masks)]
        return (type(op), *settings, repr(given), *specs, self.training, *(op_key(node.op) for node in nodes))
