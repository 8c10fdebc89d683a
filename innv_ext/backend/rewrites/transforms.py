"""Fourier transforms, which give real and imaginary parts at once, as one linear node for each part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from keras import tree

from innv_ext.backend.graph import Graph, op_key

Tensor = Any
TRANSFORMS = frozenset("fft fft2 ifft2 rfft irfft".split())


@dataclass(frozen=True, eq=False)
class Part:
    """One of the outputs of a call."""

    call: Any
    number: int

    def __call__(self, *xs: Tensor) -> Tensor:
        return tree.flatten(self.call(*xs))[self.number]


def split_transforms(graph: Graph) -> Graph:
    """Every transform with several outputs as nodes with one."""
    nodes = []
    for node in graph.nodes:
        if op_key(node.op) in TRANSFORMS and len(node.outputs) > 1:
            nodes.extend(replace(node, call=Part(node.call, i), outputs=(y,)) for i, y in enumerate(node.outputs))
        else:
            nodes.append(node)
    return graph.rebuilt(nodes)
