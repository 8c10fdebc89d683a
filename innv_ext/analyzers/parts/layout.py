"""How the values of an input are arranged: where its positions and its channels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from innv_ext.backend import numerics
from innv_ext.backend.graph import Spec

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the values of one input are arranged.

    Attributes
    ----------
    number : position of the input
    shape : of one sample
    axes : the axes of a sample along which positions run: height and width of an image, the steps of a signal, the
        places of tokens; none for the columns of a table
    tokens : whether the values are numbers of tokens
    """

    number: int
    shape: Sizes
    axes: Sizes
    tokens: bool

    @property
    def positions(self) -> bool:
        """Whether values of one kind lie at several places, so that they have a mean and neighbours."""
        return bool(self.axes) and not self.tokens

    @property
    def channel_axis(self) -> int | None:
        """The axis of a sample that is no place."""
        rest = set(range(len(self.shape))) - set(self.axes)
        return rest.pop() if self.axes and rest else None


def layouts_of(shapes: Sequence[Sizes], specs: Sequence[Spec], channels_first: bool) -> list[Layout]:
    """The arrangement of inputs with these sample shapes; integers are tokens, vectors are tables."""
    found = []
    for i, (shape, spec) in enumerate(zip(shapes, specs, strict=True)):
        tokens, rank = not numerics.is_float(spec.dtype), len(shape)
        if tokens or rank < 2:
            axes = tuple(range(rank)) if tokens else ()
        else:
            axes = tuple(range(1, rank)) if channels_first else tuple(range(rank - 1))
        found.append(Layout(i, tuple(shape), axes, tokens))
    return found
