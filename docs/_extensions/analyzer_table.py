"""Directives that read the library, so that pages cannot go stale: tables of analyzers, lists of public names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

import innv_ext

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HEADER = ("name", "what it computes", "signed", "needs", "cost", "sums to", "source")


def table(families: Iterable[str] = ()) -> str:
    """A Markdown table of the analyzers of these families, or of all; columns without any entry are left out."""
    wanted = set(families)
    rows = [HEADER, ("---",) * len(HEADER)]
    for info in innv_ext.list_analyzers():
        if info.family != "user" and (not wanted or info.family in wanted):
            needs = ", ".join(
                text for text, needed in (("ReLUs", info.needs_relu), ("`fit`", info.needs_fit)) if needed
            )
            signed = "yes" if info.signed else "no"
            text = (info.description, signed, needs, info.cost, info.sums_to, info.reference)
            rows.append((f"`{info.name}`", *(cell.replace("*", "\\*") if "`" not in cell else cell for cell in text)))
    kept = [i for i in range(len(HEADER)) if any(row[i] for row in rows[2:])]
    rows = [tuple(row[i] for i in kept) for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


class AnalyzerTable(SphinxDirective):
    """``{analyzer-table} lrp deep_taylor``: the rows of these families; without an argument all rows."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse the table as Markdown, which is what the page is written in."""
        families = self.arguments[0].split() if self.arguments else []
        known = {info.family for info in innv_ext.list_analyzers()}
        if unknown := set(families) - known:
            raise self.error(f"There is no family {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}.")
        return self.parse_text_to_nodes(table(families))


def documented(module: Any, without: Iterable[str] = ()) -> list[str]:
    """The names in ``__all__`` that are classes or functions, less those in ``without``."""
    names = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    return [name for name in names if name not in set(without)]


class PublicNames(SphinxDirective):
    """``.. public-names:: innv_ext.optim``: autodoc of all names in ``__all__``.

    Options: ``without`` names (documented elsewhere); ``members``, to show methods too; ``inherited``, also theirs.
    """

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "without": directives.unchanged,
        "members": directives.flag,
        "inherited": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """One autodoc directive per name."""
        module = importlib.import_module(self.arguments[0])
        lines = []
        for name in documented(module, self.options.get("without", "").split()):
            thing = getattr(module, name)
            kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
            lines.append(f".. auto{kind}:: {self.arguments[0]}.{name}")
            if kind == "class" and "members" in self.options and not issubclass(thing, (tuple, Exception)):
                lines.append("   :members:")
                if "inherited" in self.options:
                    lines.append("   :inherited-members:")
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("analyzer-table", AnalyzerTable)
    app.add_directive("public-names", PublicNames)
    return {"version": innv_ext.__version__, "parallel_read_safe": True, "parallel_write_safe": True}
