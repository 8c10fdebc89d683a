"""Words from parts of words: sums are kept, and each tokenizer's way to write words is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innv_ext.text.words import marker_of, shown, words_of

SPLIT = {
    "##": (["[CLS]", "play", "##ed", "it", "[SEP]"], [1, 0, 0, 0, 1], ["[CLS]", "played", "it", "[SEP]"]),
    "▁": (["<s>", "▁the", "▁ca", "t", "▁", "s", "</s>"], [1, 0, 0, 0, 0, 0, 1], ["<s>", "the", "cat", "s", "</s>"]),
    "Ġ": (["<|e|>", "c", "a", "f", "Ã", "©", "Ġnow", "!", "ĊĊ", "x"], [1] + [0] * 9, ["<|e|>", "café", "now!", "x"]),
    " ": (["a", "b", " c", "d"], [0] * 4, ["ab", "cd"]),
    "\x00": (["a", " ", "Ã", "±", "x", " ", " ", "b"], [0] * 8, ["a", "ñx", " ", "b"]),
    "": (["a", "##b", "▁c"], [0] * 3, ["a", "##b", "▁c"]),
}


@pytest.mark.parametrize("marker", SPLIT)
def test_words_of_each_marker(marker):
    tokens, special, expected = SPLIT[marker]
    relevance = np.arange(1.0, len(tokens) + 1)
    found = words_of(tokens, relevance, list(map(bool, special)), marker)
    assert [word.text for word in found] == expected
    assert [(word.first, word.last + 1) for word in found[1:]] == list(
        zip([w.last + 1 for w in found[:-1]], [*[w.first for w in found[2:]], len(tokens)], strict=True)
    )
    for word in found:
        assert word.relevance == relevance[word.first : word.last + 1].sum()
        assert not word.special or word.first == word.last


pieces = st.lists(st.sampled_from(["a", "##", "▁", "Ġ", "Ã", "©", " ", "ü", "$"]), max_size=4).map("".join)
rows_of_tokens = st.lists(st.tuples(pieces, st.booleans(), st.integers(-9, 9)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(rows_of_tokens, st.sampled_from([*SPLIT]))
def test_words_conserve_the_sum_and_cover_all_tokens(rows, marker):
    tokens, special, values = (list(column) for column in zip(*rows, strict=True))
    found = words_of(tokens, np.array(values, float), special, marker)
    assert sum(word.relevance for word in found) == sum(values)
    assert [i for word in found for i in range(word.first, word.last + 1)] == list(range(len(tokens)))
    assert sum(word.special for word in found) == sum(special)


def test_markers_are_read_from_vocabularies():
    assert marker_of(["[CLS]", "play", "##ed", "##ing", "▁"]) == "##"
    assert marker_of(["<s>", "▁the", "▁cat", "s"]) == "▁"
    assert marker_of(["a", "Ġquick", "Ġfox"]) == "Ġ"
    assert marker_of(["a", "fine", "##"]) == ""
    assert marker_of([chr(i) for i in range(256)]) == "\x00"
    assert marker_of(["a", " ", "ñ"]) == " " and marker_of(["a", "ñ"]) == ""


def test_tokens_are_shown_as_they_read():
    assert shown("ĠcafÃ©", "Ġ") == "␣café" and shown("Ã", "Ġ") == "\N{REPLACEMENT CHARACTER}"
    assert shown("▁the", "▁") == "▁the" and shown("##ed", "##") == "##ed" and shown(" c", " ") == "␣c"
    assert shown(" ", "\x00") == "␣" and shown("Ã", "\x00") == "\N{REPLACEMENT CHARACTER}"
