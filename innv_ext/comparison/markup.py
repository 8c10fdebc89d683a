"""HTML from Python values: every text is escaped unless this module made it."""

from __future__ import annotations

import base64
import hashlib
import html
import struct
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from innv_ext.visualization.panels import png

CSS_INCH = 120  # pixels of a page for an inch of a figure: its small texts stay legible
_VOID = ("meta", "img", "link", "br")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Markup | None


def tag(name: str, /, *content: Content | Iterable[Content], **attributes: str | None) -> Markup:
    """An element; attributes that are None are left out, and ``class_`` and ``data_x`` are "class" and "data-x".

    Examples
    --------
    >>> tag("p", "1 < 2", class_="small")
    '<p class="small">1 &lt; 2</p>'
    """
    named = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    start = "".join(f' {k}="{html.escape(_clean(v))}"' for k, v in named.items())
    return Markup(f"<{name}{start}>") if name in _VOID else Markup(f"<{name}{start}>{join(*content)}</{name}>")


def join(*content: Content | Iterable[Content]) -> Markup:
    """Everything in a row; what is no markup is escaped."""
    parts = []
    for part in content:
        if isinstance(part, Markup):
            parts.append(str(part))
        elif isinstance(part, str):
            parts.append(html.escape(_clean(part)))
        elif part is not None:
            parts.append(str(join(*part)))
    return Markup("".join(parts))


def picture(figure: Figure, alt: str) -> Markup:
    """A figure inside the page, in its own size."""
    content = png(figure)
    pixels = struct.unpack(">II", content[16:24])  # width and height in the header of every PNG file
    width, height = (str(round(p * CSS_INCH / figure.dpi)) for p in pixels)
    data = base64.b64encode(content).decode("ascii")
    return tag("img", src=f"data:image/png;base64,{data}", alt=alt, width=width, height=height)


def rows(entries: Iterable[Sequence[Content]], *, header: Sequence[str] = ()) -> Markup:
    """A plain table; the first column is a header, too."""
    head = tag("thead", tag("tr", [tag("th", text, scope="col") for text in header])) if header else None
    lines = [tag("tr", tag("th", first, scope="row"), [tag("td", c) for c in rest]) for first, *rest in entries]
    return tag("div", tag("table", head, tag("tbody", lines)), class_="scroll")


def document(title: str, body: Markup, style: str, script: str) -> str:
    """A whole page that loads nothing and runs nothing but ``script``."""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        f"base-uri 'none'; form-action 'none'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    whole = tag("html", tag("head", head), tag("body", body, Markup(f"<script>{script}</script>")), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _clean(text: str) -> str:
    """Without control characters, which no page may hold."""
    return "".join(
        c if c in "\n\t" or c.isprintable() or not c.isascii() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"
