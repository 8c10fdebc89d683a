"""Relevance of tokens for tokens: a matrix with tokens on both axes, as a figure or as an HTML table."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_hex
from matplotlib.figure import Figure

from innv_ext.arguments import number
from innv_ext.errors import InvalidInputError
from innv_ext.visualization import panels as layout
from innv_ext.visualization.checks import DataKind, Floats, Mask
from innv_ext.visualization.reading import Maps, colour_bar, named, peak_text, read_maps, read_names, signed_text
from innv_ext.visualization.scaling import DIVERGING, GREEN, Color
from innv_ext.visualization.texts import Token, printable

_KIND = DataKind("matrix", "cell", ("targets", "sources"), channels=False)
_MOST = 240  # cells in which values are written
_CELL = 0.17  # inches: the least of a cell without a value
_INNER = 0.05  # inches beside a value
_GAP = 0.2  # inches between panels
_SMALLEST = 3.0  # points


@dataclass(frozen=True, eq=False)
class _Matrix:
    """Checked tokens and maps; ``absent`` (targets, sources) are cells without a value."""

    targets: list[str]
    sources: list[str]
    maps: list[Maps]
    absent: Mask

    def cells(self, column: int, cmap: str | Colormap, bad_color: Color) -> Floats:
        """RGB of every cell, white where there is none."""
        return np.where(self.absent[..., None], 1.0, self.maps[column].colours(0, cmap, bad_color))

    def written(self, column: int) -> tuple[list[list[str]], str]:
        """The values with two digits of the largest, and the power of ten that all of them lack."""
        found = self.maps[column]
        exponent = int(np.floor(np.log10(found.scales[0]))) if found.scales[0] else 0
        power = exponent if not -3 <= exponent <= 3 else 0
        digits = max(0, 1 - exponent + power)
        values = found.values[0] / 10.0**power
        texts = [
            ["" if gone else "?" if bad else _fixed(v, digits) for v, bad, gone in zip(*row, strict=True)]
            for row in zip(values, found.bad[0], self.absent, strict=True)
        ]
        return texts, f"in 1e{power}".replace("-", "\N{MINUS SIGN}") if power else ""

    def note(self, column: int, i: int, j: int) -> str:
        """A cell in words."""
        found = self.maps[column]
        return signed_text(np.nan if found.bad[0, i, j] else found.values[0, i, j])


def plot_token_matrix(
    targets: Sequence[str],
    sources: Sequence[str],
    relevance: Any,
    *,
    scale: str = "map",
    values: bool | None = None,
    fontsize: float = 7.0,
    cmap: str | Colormap = DIVERGING,
    colorbar: bool = True,
    bad_color: Color = GREEN,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw what each of some tokens owes to each of others: a row per target, a column per source.

    Parameters
    ----------
    targets : the tokens that are explained, such as those that a model generated
    sources : the tokens that were read
    relevance : array (targets, sources), or {name: such an array}, a panel each; masked cells of a masked array stay
        blank, as sources do that come later than a target
    scale : "map", each panel its own, or "all"
    values : write the values into the cells; None: if there are at most 240 cells in each panel
    fontsize : in points
    cmap, colorbar : as in `plot_signals`
    bad_color : ground of values that are not finite, green by default
    ax : matplotlib axes to draw into, one per panel, in their present size; None: a new figure
    path : also save the figure here; the suffix says the format

    Raises
    ------
    InvalidInputError
        for shapes that don't fit the tokens, what is not a number, and unknown names

    Examples
    --------
    >>> figure = plot_token_matrix(["film"], ["a", "fine"], [[0.1, -2.0]])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['+0.1', '−2.0']
    """
    size = number("fontsize", fontsize, positive=True)
    matrix = _read(targets, sources, relevance, scale, bad_color)
    few = len(matrix.targets) * len(matrix.sources) <= _MOST if values is None else bool(values)
    columns = range(len(matrix.maps))
    texts = [matrix.written(j) for j in columns]
    longest = max((layout.text_width(t, size) for found, _ in texts for row in found for t in row), default=0.0)
    cell = longest + 2 * _INNER if few else _CELL
    height = (2.0 if few else 1.5) * layout.line_height(size)
    shape = max(cell, layout.line_height(size)) * len(matrix.sources), [height * len(matrix.targets)]
    panels = layout.panel_grid(ax, len(columns), *shape)
    if ax is not None:
        layout.root(panels).draw_without_rendering()
    if colorbar:
        colour_bar(panels, matrix.maps, cmap, bad_color, ax is not None)
    for j, axes in enumerate(panels[0]):
        ground = matrix.cells(j, cmap, bad_color)
        axes.imshow(ground, aspect="auto", interpolation="nearest")
        _label(axes, matrix, size, j == 0)
        notes = [texts[j][1] if few else "", peak_text(matrix.maps[j], 0, matrix.maps)]
        layout.title_panel(axes, matrix.maps[j].name, ", ".join(filter(None, notes)))
        if few:
            _write(axes, texts[j][0], ground, longest, size)
    return layout.finish(panels, ax, path, _GAP)


def token_matrix_to_html(
    targets: Sequence[str],
    sources: Sequence[str],
    relevance: Any,
    *,
    cmap: str | Colormap = DIVERGING,
    bad_color: Color = GREEN,
) -> str:
    """Write the matrix of `plot_token_matrix` as an HTML table with coloured cells that hold the values.

    The result needs no style sheet, script or network, and everything in it is escaped; ``relevance`` is one array.

    Parameters
    ----------
    targets, sources, relevance, cmap, bad_color : as in `plot_token_matrix`

    Returns
    -------
    str
        A ``table`` to be put into a page, or shown by ``IPython.display.HTML``.

    Raises
    ------
    InvalidInputError
        for shapes that don't fit the tokens, and what is not a number

    Examples
    --------
    >>> token_matrix_to_html(["film"], ["a", "fine"], [[0.1, -2.0]]).count("<td")
    2
    """
    if isinstance(relevance, Mapping):
        raise InvalidInputError("relevance must be one array, (targets, sources); got a dict.")
    matrix = _read(targets, sources, relevance, "map", bad_color)
    ground, (texts, power) = matrix.cells(0, cmap, bad_color), matrix.written(0)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in matrix.sources)
    lines = [
        '<table style="font-family:sans-serif;border-collapse:collapse">',
        f"<tr><th>{html.escape(power)}</th>{head}</tr>",
    ]
    for i, name in enumerate(matrix.targets):
        cells = []
        for j, text in enumerate(texts[i]):
            colour = tuple(ground[i, j].tolist())
            style = f"background:{to_hex(colour)};color:{Token('', colour).writing};padding:2px 5px;text-align:right"
            note = html.escape(matrix.note(0, i, j))
            cells.append(f'<td style="{style}" title="{note}">{text}</td>' if text else "<td></td>")
        lines.append(f'<tr><th style="text-align:right">{html.escape(name)}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</table>"])


def _read(targets: Sequence[str], sources: Sequence[str], relevance: Any, scale: str, bad_color: Color) -> _Matrix:
    """Check the arguments of a public function, which calls this directly."""
    given = named(relevance, "relevance")
    names = [_tokens("targets", targets), _tokens("sources", sources)]
    shape, hidden, maps = (len(names[0]), len(names[1])), False, {}
    for name, entry in given.items():
        if np.shape(entry) != shape:
            own = f"relevance[{name!r}]" if isinstance(relevance, Mapping) else "relevance"
            raise InvalidInputError(
                f"{own} has shape {np.shape(entry)}, but there are {shape[0]} targets and {shape[1]} sources."
            )
        hidden = hidden | np.ma.getmaskarray(entry)
        maps[name] = np.ma.filled(entry, 0.0)[None]
    options: dict[str, Any] = {"scale": scale, "bad_color": bad_color, "reduce": "sum", "stacklevel": 5}
    data = np.empty((1, *shape, 1))
    entries = maps if isinstance(relevance, Mapping) else maps[""]
    found = read_maps(entries, data, _KIND, arguments=("relevance", "tokens"), ignored=hidden[None], **options)
    return _Matrix(*([printable(token) for token in part] for part in names), found, hidden)


def _tokens(argument: str, tokens: Sequence[str]) -> list[str]:
    found = [] if isinstance(tokens, str) else list(tokens)
    if not found or not all(isinstance(token, str) for token in found):
        raise InvalidInputError(f"{argument} must be a list of strings, at least one; got {tokens!r}.")
    return read_names(found, argument, len(found), ())


def _label(axes: Axes, matrix: _Matrix, size: float, first: bool) -> None:
    """Sources above the panel, targets left of the first."""
    rows = [layout.shorten(name) if first else "" for name in matrix.targets]
    axes.set_xticks(range(len(matrix.sources)), map(layout.shorten, matrix.sources), rotation=90)
    axes.set_yticks(range(len(matrix.targets)), rows)
    axes.tick_params(length=0, pad=3, labelsize=size, labelcolor=layout.TEXT)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    axes.spines[:].set(edgecolor=layout.EDGE, linewidth=0.4)


def _write(axes: Axes, texts: list[list[str]], ground: Floats, longest: float, size: float) -> None:
    """Put the values into the cells, smaller in given axes that have no room for them."""
    room = layout.inches(axes)[0] / len(texts[0]) - _INNER
    fitting = size if longest <= room else size * room / longest
    if fitting < _SMALLEST:
        raise InvalidInputError(
            f"ax has axes in which {len(texts[0])} columns of values have no room; enlarge them, or pass values=False."
        )
    for (i, j), text in np.ndenumerate(np.array(texts, dtype=object)):
        colour = Token("", tuple(ground[i, j].tolist())).writing
        if text:
            axes.text(j, i, text, ha="center", va="center", fontsize=fitting, color=colour, parse_math=False)


def _fixed(value: float, digits: int) -> str:
    """A sign and as many digits for all; what rounds to zero has no sign."""
    text = f"{value:+.{digits}f}"
    return (text if float(text) else text[1:]).replace("-", "\N{MINUS SIGN}")
