"""Relevance of texts: tokens on coloured ground, as a figure or as HTML."""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from innv_ext.arguments import number
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.reading import colour_bar, read_names, row_titles
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color, Reduction
from innv_ext.visualization.texts import PADDING, Token, read_texts

_WIDTHS = (6.0, 2.6)  # inches of a lone panel, and the least of several
_GAP = 0.14  # inches between panels
_SMALLEST = 3.0  # points
_SPACING = 1.5  # height of a line in heights of its text
_INNER = 0.03  # inches between a token and the edge of its ground; also between grounds
_HINTING = 1.05  # how much wider than its outlines a renderer of few dots per inch may write a text

Placed = tuple[float, int, Token]  # left in inches, line, (piece of a) token


def plot_tokens(
    tokens: Sequence[Sequence[str]],
    relevance: Any,
    *,
    padding: Collection[str] = PADDING,
    pad: str = "skip",
    row_names: Sequence[str] | None = None,
    reduce: Reduction = "sum",
    scale: str = "map",
    fontsize: float = 8.0,
    cmap: str | Colormap = DIVERGING,
    colorbar: bool = True,
    bad_color: Color = GREEN,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw texts with every token on a ground of the colour of its relevance: a row per text, a column per analyzer.

    Lines are wrapped to the panel, and the writing is black or white, whichever is more legible on its ground.

    Parameters
    ----------
    tokens : lists of str, one per text, of at most as many tokens as ``relevance`` has; what a text lacks is padding
    relevance : array (batch, T), per token, or (batch, T, E), of its embedding; or {name: such an array}
    padding : the tokens that only fill up; they have no say in the scale
    pad : "skip" leaves padding out, "grey" draws it on grey ground. A remark behind the text states its number and its
        relevance, so that none is hidden
    row_names : names of the texts; None: their numbers
    reduce : how the relevance of an embedding becomes one number, see `reduce_channels`
    scale : "map", "row", "column" or "all", the texts that share a scale; where there are several, a remark states each
    fontsize : in points; smaller in given axes that have no room for it
    cmap, colorbar : as in `plot_signals`
    bad_color : ground of tokens whose relevance is not finite, green by default
    ax : matplotlib axes to draw into, row by row, batch x analyzers of them, in their present size; None: a new figure
    path : also save the figure here; the suffix says the format

    Raises
    ------
    InvalidInputError
        as `plot_signals`, and for axes too small for the text

    Examples
    --------
    >>> figure = plot_tokens([["a", "fine", "film"]], [[0.1, 2.0, -0.5]])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['a', 'fine', 'film']
    """
    number("fontsize", fontsize, positive=True)
    texts = read_texts(tokens, relevance, padding=padding, pad=pad, reduce=reduce, scale=scale, bad_color=bad_color)
    names = row_titles(row_names, len(texts.tokens))
    columns = range(len(texts.maps))
    drawn = [[texts.coloured(j, i, cmap, bad_color) for j in columns] for i in range(len(names))]
    width = max(_WIDTHS[0] / len(columns), _WIDTHS[1])
    heights = [max(_place(cell, width, fontsize)[1] for cell in row) for row in drawn]
    panels = layout.panel_grid(ax, len(columns), width, heights)
    if ax is not None:
        layout.root(panels).draw_without_rendering()  # a layout engine of the figure, if any, sets the axes' size now
    if colorbar:
        colour_bar(panels, texts.maps, cmap, bad_color, ax is not None)
    for (i, j), axes in np.ndenumerate(panels):
        layout.title_panel(axes, "" if i else texts.maps[j].name)
        _write(axes, drawn[i][j], fontsize)
        if not j and names[i]:
            layout.write_beside(axes, names[i], (0.0, 0.5), (-5, 0), ha="right", va="center", **layout.LABELLED)
    return layout.finish(panels, ax, path, _GAP)


def tokens_to_html(
    tokens: Sequence[Sequence[str]],
    relevance: ArrayLike,
    *,
    padding: Collection[str] = PADDING,
    pad: str = "skip",
    row_names: Sequence[str] | None = None,
    reduce: Reduction = "sum",
    scale: str = "map",
    cmap: str | Colormap = DIVERGING,
    bad_color: Color = GREEN,
) -> str:
    """Write texts as HTML, a paragraph per text and a coloured span per token, with its relevance as the tooltip.

    The result needs no style sheet, script or network, and everything in it is escaped; ``relevance`` is one array.

    Parameters
    ----------
    tokens, relevance, padding, pad, reduce, scale, cmap, bad_color : as in `plot_tokens`
    row_names : names of the texts, written before them; None: no names

    Returns
    -------
    str
        A ``div`` to be put into a page, or shown by ``IPython.display.HTML``.

    Raises
    ------
    InvalidInputError
        for no texts, shapes that differ, or unknown names

    Examples
    --------
    >>> print(tokens_to_html([["a<b"]], [[2.0]], cmap="gray"))
    <div style="font-family:sans-serif;line-height:1.9">
    <p><span style="background:#ffffff;color:#000000;padding:1px 3px" title="+2">a&lt;b</span></p>
    </div>
    """
    if isinstance(relevance, Mapping):
        raise InvalidInputError("relevance must be one array, (batch, T) or (batch, T, E); got a dict.")
    texts = read_texts(tokens, relevance, padding=padding, pad=pad, reduce=reduce, scale=scale, bad_color=bad_color)
    rows = [texts.coloured(0, i, cmap, bad_color) for i in range(len(texts.tokens))]
    names = read_names(row_names, "row_names", len(rows), [""] * len(rows))
    heads = [f"{_span(Token(name, remark=True))} " if name else "" for name in names]
    paragraphs = "\n".join(f"<p>{head}{' '.join(map(_span, row))}</p>" for head, row in zip(heads, rows, strict=True))
    return f'<div style="font-family:sans-serif;line-height:1.9">\n{paragraphs}\n</div>'


def _span(token: Token) -> str:
    text = html.escape(token.text)
    if token.remark:
        return f'<span style="color:{layout.SOFT};font-size:80%">{text}</span>'
    style = f"background:{to_hex(token.ground)};color:{token.writing};padding:1px 3px"
    return f'<span style="{style}" title="{html.escape(token.note)}">{text}</span>'


def _span_width(text: str, size: float) -> float:
    """Inches of the ground of a text."""
    return _HINTING * layout.text_width(text, size) + 2 * _INNER


def _pieces(token: Token, width: float, size: float) -> list[Token]:
    """The token, cut where it is longer than a line."""
    pieces = [""]
    for character in token.text:
        if pieces[-1] and _span_width(pieces[-1] + character, size) > width:
            pieces.append("")
        pieces[-1] += character
    return [replace(token, text=piece) for piece in pieces]


def _place(drawn: Sequence[Token], width: float, size: float) -> tuple[list[Placed], float]:
    """Wrap the tokens to lines of ``width`` inches; also how high all lines are."""
    placed: list[Placed] = []
    left, line = 0.0, 0
    for token in drawn:
        for piece in _pieces(token, width, size):
            span = _span_width(piece.text, size)
            if left and left + span > width:
                left, line = 0.0, line + 1
            placed.append((left, line, piece))
            left += span + _INNER
    return placed, (line + 1) * _SPACING * layout.line_height(size)


def _write(axes: Axes, drawn: Sequence[Token], size: float) -> None:
    """Put the tokens into the axes, in inches from the upper left corner whatever becomes of the axes' size."""
    width, height = layout.inches(axes)
    placed, needed = _place(drawn, width, size)
    while needed > 1.001 * height:
        size *= 0.95
        if size < _SMALLEST:
            raise InvalidInputError(
                f"ax has axes of {width:.2g} x {height:.2g} inches, too small for a text of {len(drawn)} tokens; "
                f"make them larger."
            )
        placed, needed = _place(drawn, width, size)
    axes.set_axis_off()
    place = axes.figure.dpi_scale_trans + ScaledTranslation(0, 1, axes.transAxes)
    pitch = _SPACING * layout.line_height(size)
    for left, line, piece in placed:
        span, top = _span_width(piece.text, size), -line * pitch
        style = {"va": "baseline", "fontsize": size, "parse_math": False, "transform": place}
        if piece.remark:
            axes.text(left + _INNER, top - 0.66 * pitch, piece.text, color=layout.SOFT, **style)
            continue
        corner = (left, top - 0.92 * pitch)
        axes.add_patch(Rectangle(corner, span, 0.84 * pitch, facecolor=piece.ground, linewidth=0, transform=place))
        axes.text(left + span / 2, top - 0.66 * pitch, piece.text, color=piece.writing, ha="center", **style)
