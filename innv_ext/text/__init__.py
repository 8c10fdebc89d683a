"""Texts from end to end: strings in, relevance of tokens and words out, as numbers, pictures and HTML."""

from innv_ext.text.explainer import TextExplainer, explain
from innv_ext.text.results import CompletionExplanation, TextExplanation
from innv_ext.text.words import Word

__all__ = ["CompletionExplanation", "TextExplainer", "TextExplanation", "Word", "explain"]
