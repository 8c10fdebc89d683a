"""How the values of an input are arranged: where its positions and its channels are, and whether it holds tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from innv_ext.backend import facts, numerics
from innv_ext.backend.graph import Graph

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """How the values of one input are arranged.

    Attributes
    ----------
    number : position of the input
    shape : of one sample
    axes : the axes of a sample along which positions run: height and width of an image, the steps of a signal, the
        places of tokens; none for the columns of a table
    tokens : whether the values are numbers of tokens, or strings
    text : whether they are strings
    """

    number: int
    shape: Sizes
    axes: Sizes
    tokens: bool
    text: bool = False

    @property
    def positions(self) -> bool:
        """Whether values of one kind lie at several places, so that they have a mean and neighbours."""
        return bool(self.axes) and not self.tokens

    @property
    def channel_axis(self) -> int | None:
        """The axis of a sample that is no place."""
        rest = set(range(len(self.shape))) - set(self.axes)
        return rest.pop() if self.axes and rest else None

    @property
    def merged(self) -> Sizes:
        """The shape with all channels in one."""
        return tuple(1 if axis == self.channel_axis else side for axis, side in enumerate(self.shape))

    @property
    def bare(self) -> Sizes:
        """The shape without channels."""
        return tuple(side for axis, side in enumerate(self.shape) if axis != self.channel_axis)

    def along(self, size: int) -> Sizes:
        """``size`` along every axis but that of the channels, which stay together."""
        return tuple(side if axis == self.channel_axis else size for axis, side in enumerate(self.shape))


def arrangements(graph: Graph, shapes: Sequence[Sizes], *, pictures: bool = False) -> list[Arrangement]:
    """The arrangement of the inputs of a graph; integers, and what goes into an embedding, are tokens; vectors tables.

    Parameters
    ----------
    shapes : of one sample of each input
    pictures : integers with more than one axis are pictures, not tokens, unless they go into an embedding
    """
    found, numbers, channels = [], facts.token_inputs(graph), facts.channel_axes(graph)
    for i, (slot, shape) in enumerate(zip(graph.inputs, shapes, strict=True)):
        rank = len(shape)
        whole = not numerics.is_float(graph.specs[slot].dtype)
        tokens = slot in numbers or (whole and not (pictures and rank > 1))
        if tokens or rank < 2:
            axes = tuple(range(rank)) if tokens else ()
        else:
            axes = tuple(range(1, rank)) if channels.get(slot) == 1 else tuple(range(rank - 1))
        found.append(Arrangement(i, tuple(shape), axes, tokens, graph.specs[slot].dtype == "string"))
    return found
