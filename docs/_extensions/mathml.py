"""Formulas as MathML, which browsers draw themselves: no script, no fonts, no LaTeX, no network.

The conversion is that of docutils; a formula that it does not know is a warning, and thereby an error of the build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)


def write(translator: Any, node: nodes.Element) -> None:
    """Put the formula of a ``math`` or ``math_block`` node into the page."""
    block = isinstance(node, nodes.math_block)
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from error
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make this the renderer of the HTML builder."""
    app.add_html_math_renderer("mathml", inline_renderers=(write, None), block_renderers=(write, None))
    app.config.html_math_renderer = "mathml"
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
