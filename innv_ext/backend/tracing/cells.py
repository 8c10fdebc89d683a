"""One step of a recurrent layer as a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import tree

from innv_ext.backend.graph import Arg, Call, Graph, Node, Recorded, op_key, run
from innv_ext.backend.kinds import RECURRENT_CELLS
from innv_ext.backend.tracing.state import constant_variables, untouched
from innv_ext.backend.tracing.tracer import Tracer

Tensor = Any


def open_cell(owner: keras.layers.Layer, cell: Any, inputs: Any, is_leaf: Callable[[Any], bool]) -> Graph:
    """The graph of ``cell.call(x, states)`` in inference, (x, *states) -> (output, *states).

    Parts of weights (half of a bias) are read when the graph is run; where a call does more with its weights than
    ``keras.ops`` can, the graph holds values, see ``Graph.made_of``.

    Parameters
    ----------
    owner : the layer that calls the cell, or the cell itself
    inputs : (x, states), one ``Spec`` for each tensor
    is_leaf : as for ``trace``

    Raises
    ------
    Exception
        whatever a foreign ``call`` raises on KerasTensors, and where it changes variables
    """

    def leaf(op: Any) -> bool:
        return is_leaf(op) and op_key(op) not in RECURRENT_CELLS

    try:
        return _traced(owner, cell, inputs, leaf, symbolic=True)
    except Exception:
        return _traced(owner, cell, inputs, leaf, symbolic=False)


def _traced(
    owner: keras.layers.Layer, cell: Any, inputs: Any, leaf: Callable[[Any], bool], symbolic: bool
) -> Graph:
    tracer = _CellTracer(leaf)
    tensors = tree.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype), inputs)
    slots = [tracer.new_slot(kt) for kt in tree.flatten(tensors)]
    with contextlib.ExitStack() as stack:
        parts = stack.enter_context(untouched(owner))
        for part in parts:
            if hasattr(part, "recurrent_dropout") and "dropout" in vars(part):  # made whatever ``training``
                object.__setattr__(part, "dropout", 0.0)
                object.__setattr__(part, "recurrent_dropout", 0.0)
            if op_key(part) in ("LSTMCell", "GRUCell"):  # the same in fewer operations, on whole weights
                object.__setattr__(part, "implementation", 2)
        stack.enter_context(constant_variables())
        if symbolic:
            stack.enter_context(tracer.symbolic_weights([part for part in parts if not leaf(part)]))
        kwargs = tracer.with_training(cell, {}, False)
        found, _ = tracer.run_once(cell, tensors, kwargs, slots, [None] * len(slots), ())
    shapes = [[tracer.specs[s].shape[1:] for s in one] for one in (found[1:], slots[1:])]
    if shapes[0] != shapes[1]:
        raise ValueError(f"it turns states of shapes {shapes[1]} into such of {shapes[0]}")
    read = tuple(tracer.read.values())
    graph = Graph(tuple(tracer.nodes), tuple(slots), tuple(found), tracer.specs, tracer.layer_slots, (), read)
    return _with_weights(graph, tracer.variables)


class _CellTracer(Tracer):
    """Knows the KerasTensors that stand for weights; ``variables`` are these by their slots."""

    def __init__(self, is_leaf: Callable[[Any], bool]):
        super().__init__(is_leaf)
        self.checks = False
        self.variables: dict[int, Any] = {}
        self._weights: dict[int, int] = {}
        self._kept: list[Any] = []

    def walk(self, outputs: Sequence[keras.KerasTensor], known: dict[int, int], path: tuple[str, ...]) -> None:
        known.update(self._weights)
        super().walk(outputs, known, path)

    @contextlib.contextmanager
    def symbolic_weights(self, parts: Sequence[keras.layers.Layer]) -> Iterator[None]:
        """Within it the variables that layers have as attributes are KerasTensors."""
        before = [
            (part, name, value)
            for part in parts
            for name, value in vars(part).items()
            if isinstance(value, keras.Variable)
        ]
        try:
            for part, name, variable in before:
                kt = keras.KerasTensor(variable.shape, variable.dtype)
                self._kept.append(kt)
                self._weights[id(kt)] = slot = self.new_slot(kt)
                self.variables[slot] = variable
                object.__setattr__(part, name, kt)
            yield
        finally:
            for part, name, variable in before:
                object.__setattr__(part, name, variable)


@dataclass(frozen=True, eq=False)
class Weight(Recorded):
    """What nodes make of variables, as a constant that is read when it is used."""

    slot: int
    nodes: tuple[Node, ...]
    variables: dict[int, Any]
    shape: tuple[int, ...]
    dtype: str

    def of(self, xs: Sequence[Tensor]) -> Tensor:
        values = {slot: keras.ops.convert_to_tensor(variable) for slot, variable in self.variables.items()}
        return run(self.nodes, values)[self.slot]

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Tensor:
        value = self.of(())
        return value if dtype is None else keras.ops.cast(value, dtype)


def _with_weights(graph: Graph, variables: dict[int, Any]) -> Graph:
    """The graph with variables, and what is made of variables alone, as arguments of the nodes that take more."""
    constant, nodes, folded = set(variables), [], []
    for node in graph.nodes:
        if node.inputs and constant.issuperset(node.inputs):
            constant.update(node.outputs)
            folded.append(node)
            continue
        given: dict[int, Any] = {}
        for i, slot in enumerate(node.inputs):
            if slot in constant:
                spec = graph.specs[slot]
                weight = Weight(slot, tuple(folded), variables, spec.shape, spec.dtype)
                given[i] = variables.get(slot, weight)
        if given:
            if not isinstance(node.call, Call):
                raise ValueError(f"{node.name!r} takes weights")
            node = _given(node, given)
        nodes.append(node)
    if constant.intersection(graph.outputs):
        raise ValueError("it puts out weights")
    return graph.rebuilt(nodes)


def _given(node: Node, given: dict[int, Any]) -> Node:
    """The node with constants in place of some of its inputs."""
    left = [i for i in range(len(node.inputs)) if i not in given]

    def moved(value: Any) -> Any:
        if not isinstance(value, Arg):
            return value
        return given[value.index] if value.index in given else Arg(left.index(value.index))

    call = node.call
    call = replace(call, args=tree.map_structure(moved, call.args), kwargs=tree.map_structure(moved, call.kwargs))
    return replace(node, call=call, inputs=tuple(node.inputs[i] for i in left))
