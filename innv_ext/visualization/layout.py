"""Where everything in a comparison grid goes, in inches; text is measured, so that nothing overlaps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

DPI = 200
HEADER, SIDE, SMALL = 7.0, 7.0, 6.0  # text sizes in points
MARGIN, GAP, PAD = 0.08, 0.04, 0.07  # around the figure, between pictures, between pictures and text
BAR = 0.07  # height of the colour bar
_ANGLE = math.radians(45)

Lines = list[tuple[str, bool]]  # (text, emphasised)


def line_height(size: float) -> float:
    """Return the height of a line of text in inches."""
    return 1.25 * size / 72


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text in inches, without any renderer."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break a text after blanks and the separators of names; a part that is too long stays whole."""
    lines = [""]
    for part in re.findall(r"[^\s._\-/]*[\s._\-/]?", text):
        if lines[-1] and text_width((lines[-1] + part).rstrip(), size) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def shorten(text: str, length: int = 24) -> str:
    """Cut long class names."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


@dataclass(frozen=True)
class Headers:
    """Column headers, upright in a few lines if every one fits its column, otherwise all of them slanted."""

    texts: tuple[str, ...]
    slanted: bool
    height: float
    overhang: float  # how far the headers reach over the middle of the last column

    @classmethod
    def fit(cls, names: Sequence[str], pitch: float) -> Headers:
        """Choose between wrapping and slanting."""
        wrapped = [wrap(name, pitch - GAP, HEADER) for name in names]
        if (
            max(text_width(line, HEADER) for lines in wrapped for line in lines) <= pitch - GAP
            and max(map(len, wrapped)) <= 4
        ):
            height = max(map(len, wrapped)) * line_height(HEADER)
            return cls(tuple(map("\n".join, wrapped)), False, height + PAD / 2, pitch / 2)
        widths = [text_width(name, HEADER) for name in names]
        height = max(widths) * math.sin(_ANGLE) + line_height(HEADER)
        ends = (j * pitch + width * math.cos(_ANGLE) for j, width in enumerate(widths))
        return cls(tuple(names), True, height + PAD / 2, max(ends) - (len(names) - 1) * pitch)


@dataclass(frozen=True)
class Layout:
    """Sizes and places in inches; boxes come as the fractions of the figure that matplotlib wants."""

    rows: int
    columns: int
    cell: tuple[float, float]
    pitch: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        width = self.left + self.columns * self.pitch[0] + self.right
        height = self.top + self.rows * self.pitch[1] + self.bottom
        return _snap(width), _snap(height)

    def x(self, inches: float) -> float:
        """Convert a distance from the left edge to a fraction."""
        return inches / self.size[0]

    def y(self, inches: float) -> float:
        """Convert a distance from the bottom edge to a fraction."""
        return inches / self.size[1]

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Lower left corner of a picture in inches."""
        down = self.size[1] - self.top - (row + 0.5) * self.pitch[1] - self.cell[1] / 2
        return _snap(self.left + (column + 0.5) * self.pitch[0] - self.cell[0] / 2), _snap(down)

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a picture."""
        left, bottom = self.corner(row, column)
        return self.x(left), self.y(bottom), self.x(self.cell[0]), self.y(self.cell[1])


def _snap(inches: float) -> float:
    """Round to whole pixels, so that the pixels of small pictures are drawn equally large."""
    return round(inches * DPI) / DPI


def cell_size(height: int, width: int, target: float) -> tuple[float, float]:
    """Width and height in inches, the longer about ``target``; small images get whole dots per pixel."""
    longer = max(height, width)
    per_pixel = max(1, round(target * DPI / longer)) / DPI if longer <= target * DPI else target / longer
    return _snap(max(width * per_pixel, 1 / DPI)), _snap(max(height * per_pixel, 1 / DPI))


def plan(
    rows: int,
    cell: tuple[float, float],
    names: Sequence[str],
    sides: tuple[Sequence[Lines], Sequence[Lines]],
    *,
    caption: Sequence[str],
    bar: bool,
) -> tuple[Layout, Headers, list[str]]:
    """Place pictures, texts, colour bar and caption; also returns the headers and caption lines."""
    tallest = max(len(lines) for side in sides for lines in side)
    pitch = (max(cell[0] + GAP, 0.2), max(cell[1] + GAP, tallest * line_height(SIDE) + GAP))
    headers = Headers.fit(names, pitch[0])
    left, right = (MARGIN + _side_width(side) for side in sides)
    right = max(right, MARGIN + headers.overhang - pitch[0] / 2)
    free = 3.0 - (left + len(names) * pitch[0] + right)  # narrower figures would need very long captions
    left, right = (left + max(0.0, free / 2), right + max(0.0, free / 2))
    width = left + len(names) * pitch[0] + right - 2 * MARGIN
    lines = [line for paragraph in caption for line in wrap(paragraph, width, SMALL)]
    bottom = MARGIN + len(lines) * line_height(SMALL) + PAD / 2
    bottom += BAR + line_height(SMALL) + 1.5 * PAD if bar else 0.0
    top = MARGIN + headers.height
    return Layout(rows, len(names), cell, pitch, left, right, top, bottom), headers, lines


def _side_width(side: Sequence[Lines]) -> float:
    widths = [text_width(text, SIDE, bold) for lines in side for text, bold in lines]
    return max(widths) + PAD if widths else 0.0
