"""Docstrings are plain text with numpy's sections; this turns them into the markup that Sphinx reads.

- ``name : what it is`` under Parameters and Attributes is a name and its description, not a type;
  ``a, b : what`` is two of them.
- Bars, stars and trailing underscores (``|x|``, ``w * a``, ``patterns_``) are what they look like.
- The signature of an analyzer shows its own parameters; those that all have stand for themselves as ``**common``.
- A Returns section in prose becomes a section Result, because napoleon would take each of its lines for a type.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from sphinx.util.inspect import stringify_signature

import innv_ext

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# what stays as it is: examples up to the next blank line, literals, references
KEPT = re.compile(r"(^[ ]*>>>[^\n]*(?:\n[ ]*\S[^\n]*)*|``.+?``|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^([\\*\w]+(?:, [\\*\w]+)*) : (.*)$")
SECTION = re.compile(r"^(\w+)\n-{3,}$", re.MULTILINE)


def escaped(text: str) -> str:
    """``text`` without accidental markup outside of examples, literals and references."""
    parts = KEPT.split(text)
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\_", re.sub(r"([|*])", r"\\\1", part)) for part in parts[::2]]
    return "".join(parts)


def described(lines: list[str]) -> list[str]:
    """The lines of a section with each ``name : description`` on two lines; several names get one each."""
    entries: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        entry = ENTRY.match(line)
        if entry:
            entries.append((entry[1].replace("\\", ""), [f"    {entry[2]}"]))
        else:
            entries[-1][1].append(line)
    found = entries[0][1]
    for names, description in entries[1:]:
        for name in names.split(", "):
            found += [name, *description]
    return found


def readable(text: str) -> str:
    """A docstring as Sphinx with napoleon understands it."""
    pieces = SECTION.split(escaped(text))
    done = [pieces[0]]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = body.strip("\n").split("\n")
        if title in ("Parameters", "Attributes"):
            lines = described(lines)
        if title == "Returns" and not any(line.startswith(" ") for line in lines):
            title = "Result"
        done.append("\n".join([title, "-" * len(title), *lines]) + "\n\n")
    return "".join(done)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the docstring that autodoc has read, before napoleon sees it."""
    if what == "property" and lines:  # napoleon takes what is before a colon for the type
        lines[0] = lines[0].replace(": ", ":\n", 1)
    lines[:] = readable("\n".join(lines)).split("\n")


def shortened(app: Sphinx, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, str] | None:
    """The signature of an analyzer without what all analyzers have, None for all else."""
    if what != "class" or not issubclass(thing, innv_ext.Analyzer) or thing is innv_ext.Analyzer:
        return None
    common = set(inspect.signature(innv_ext.Analyzer).parameters) - {"model"}
    own = [p for key, p in inspect.signature(thing).parameters.items() if key not in common]
    rest_of_all = inspect.Parameter("common", inspect.Parameter.VAR_KEYWORD)
    return stringify_signature(inspect.Signature([*own, rest_of_all]), unqualified_typehints=True), ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Come before napoleon."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", shortened)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
