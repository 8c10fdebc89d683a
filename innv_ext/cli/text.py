"""``innv-ext text``: sentences, and the relevance of their tokens."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from innv_ext.analyzers.registry import find
from innv_ext.cli import loading, models
from innv_ext.cli.drawing import Caption
from innv_ext.cli.early import PAGES
from innv_ext.cli.files import folder
from innv_ext.errors import InvalidInputError
from innv_ext.text import CompletionExplanation, TextExplainer, TextExplanation
from innv_ext.visualization.scaling import relay

Found = TextExplanation | CompletionExplanation


def text(options: Namespace) -> int:
    """Explain all texts at once; write a page or a picture, or the numbers to the standard output."""
    own = models.definitions(options)
    row, params = find(options.analyzer), dict(options.param)
    models.check_fit(row, options)
    labels = loading.read_labels(options.labels)
    named = bool(labels)  # else a name is that of a token
    target = loading.read_neuron(options.target, labels, "--target") if named else options.target
    params |= {"class_names": [labels[i] for i in sorted(labels)]} if labels else {}
    with folder(Path() if options.output is None else options.output.parent, "--output"):
        shows_progress = not options.quiet and sys.stderr.isatty()
        model = models.load_model(options, own)
        explainer = models.build(row, model, params, shows_progress, _explainer)
        size = explainer.output_shape[-1]
        if labels and size is not None and sorted(labels) != list(range(max(2, size))):
            raise InvalidInputError(f"--labels has {len(labels)} names, but the model has {size} outputs.")
        with models.failures(row.name):
            if options.fit is not None:
                explainer.fit(options.fit.read_text(encoding="utf-8-sig").splitlines())
            asked = {"position": options.position, "completion": options.completion}
            found = explainer.explain(options.texts, target, **asked)
        if options.output is None:
            parts = found if isinstance(found, list) else [found]
            sys.stdout.write("\n".join(_listing(part, options.words) for part in parts))
        else:
            _save(found, options)
    return 0


def _explainer(name: str, model: Any, **params: Any) -> TextExplainer:
    return TextExplainer(model, name, **params)


def _save(found: TextExplanation | list[CompletionExplanation], options: Namespace) -> None:
    """One file of all texts, or of each completion one."""
    several = isinstance(found, list) and len(found) > 1
    for i, part in enumerate(found if isinstance(found, list) else [found]):
        path = options.output.with_stem(f"{options.output.stem}_{i}") if several else options.output
        draw = part.to_html if path.suffix.lower() in PAGES else part.plot
        relay(path.name, lambda draw=draw, path=path: draw(path, words=options.words))
        if not options.quiet:
            sys.stdout.write("".join(f"{path}: {line}\n" for line in _captions(part)))


def _captions(found: Found) -> list[str]:
    """What was explained in each text."""
    if isinstance(found, CompletionExplanation):
        return [f"{len(found.targets)} tokens of {found.completion!r}"]
    pairs = zip(found.target_names, found.scores, strict=True)
    return [str(Caption(None, name, float(score))) for name, score in pairs]


def _listing(found: Found, words: bool) -> str:
    """A line per token, or word; padding and what is fed besides only where there is relevance in it."""
    if isinstance(found, CompletionExplanation):
        names, relevance = found.words() if words else (found.sources, found.relevance)
        rows = [[pair for pair in zip(names, row, strict=True) if not np.isnan(pair[1])] for row in relevance]
        heads = [str(Caption(None, *pair)) for pair in zip(found.targets, found.scores.tolist(), strict=True)]
        blocks, title = (
            [_block(*pair) for pair in zip(heads, rows, strict=True)],
            [f"{found.text} | {found.completion}"],
        )
        return "\n".join([*title, *blocks, ""])
    lines = []
    for i, caption in enumerate(_captions(found)):
        real = ~found.padding[i]
        tokens = [token for token, kept in zip(found.tokens[i], real, strict=True) if kept]
        plain = list(zip(tokens, found.relevance[i, real], strict=True))
        pairs = [(word.text, word.relevance) for word in found.words()[i]] if words else plain
        hidden = [("(padding)", found.relevance[i, ~real].sum()), ("(elsewhere)", found.elsewhere[i])]
        lines += [found.texts[i], _block(caption, [*pairs, *(pair for pair in hidden if pair[1])])]
    return "\n".join([*lines, ""])


def _block(head: str, pairs: Sequence[tuple[str, float]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join([f"  {head}", *(f"    {name:{width}}  {value:+.4g}" for name, value in pairs)])
