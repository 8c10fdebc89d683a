"""Options: from text to values, and what argparse makes of them."""

import re
from argparse import ArgumentTypeError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innv_ext.cli import parser, values
from innv_ext.errors import InvalidInputError
from innv_ext.visualization.columns import MODES

finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.one_of(st.integers(), finite, st.booleans(), st.none(), st.lists(st.integers()), st.tuples(finite, finite))


@given(st.lists(finite, min_size=1))
def test_numbers_are_read_back(found):
    assert values.numbers(",".join(map(repr, found))) == tuple(found)


@settings(max_examples=50)
@given(st.sampled_from(["epsilon", "until_layer", "x"]), plain)
def test_parameters_are_read_back(key, value):
    assert values.param(f"{key}={value!r}") == (key, value)
    assert type(values.param(f"{key}={value!r}")[1]) is type(value)


@given(st.text(alphabet="xyzäß_.-/ ", min_size=1).map(str.strip))
def test_other_parameters_are_texts(text):
    assert values.param(f"key={text}") == ("key", text)


def test_a_value_may_hold_equals_signs():
    assert values.param("layer=a=b") == ("layer", "a=b")
    assert [values.param(f"k={word}")[1] for word in ("true", "False", "NULL", "none")] == [True, False, None, None]


@given(st.lists(st.integers(), min_size=1))
def test_neurons(found):
    assert values.neuron(",".join(map(str, found))) == (found[0] if len(found) == 1 else tuple(found))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (values.numbers, ""), (values.numbers, "1,,2"), (values.numbers, "1,nan"), (values.numbers, "inf"),
        (values.positives, "1,0"), (values.positives, "-1"), (values.scale, "1"), (values.scale, "1,1"),
        (values.scale, "2,1"), (values.scale, "0,1,2"), (values.names, "a,,b"), (values.param, "epsilon"),
        (values.param, "=3"),
    ],
)
def test_malformed_values_are_told(function, text):
    with pytest.raises(ArgumentTypeError, match=f"got {re.escape(repr(text))}"):
        function(text)


@given(st.floats(-1e6, 1e6), st.floats(0.001, 1e6))
def test_values_may_begin_with_a_minus(low, width):
    line = ["explain", "m.keras", "--scale", f"{low!r},{low + width!r}", "--mean", "-1,-.5", "i.png", "--analyzer", "a"]
    found = parser.parse([*line, "--out", "o"])
    assert found.scale == (low, low + width) and found.mean == (-1, -0.5)
    assert [p.name for p in found.images] == ["i.png"]


def test_a_name_is_read_once():
    assert values.names("a, b,a") == ("a", "b")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "COMMAND"), ("bogus", "'bogus'"), ("explain", "MODEL, IMAGE"), ("summary m.keras", "--analyzer"),
        ("explain m.keras i.png --analyzer a", "--out"), ("list --famly lrp", "--famly"),
        ("explain m.keras i.png --analyzer a --out o --scale 3", "--scale: needs LOW,HIGH"),
        ("explain m.keras i.png --analyzer a --out o --resize wrap", "--resize"),
        ("explain m.keras i.png --analyzer a --out o --param epsilon", "--param: needs KEY=VALUE"),
        ("compare m.keras i.png --analyzers a --batch-size x", "--batch-size"), ("list --fam lrp", "--fam"),
    ],
)
def test_usage_errors_name_the_option_and_the_help(line, text):
    with pytest.raises(InvalidInputError, match=r"\(see innv-ext.* --help\)") as error:
        parser.parse(line.split())
    assert text in str(error.value)


@pytest.mark.parametrize("command", ["explain", "compare", "list", "summary"])
def test_the_help_of_every_command_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit):
        parser.parse([command, "--help"])
    text = capsys.readouterr().out
    examples = re.findall(rf"^  innv-ext ({command} (?:.*\\\n)*.*)", text, flags=re.M)
    assert examples or (command == "list" and "  innv-ext list\n" in text)
    for example in examples:
        assert parser.parse(example.replace("\\\n", " ").split()).command == command
    assert command != "explain" or all(mode in text for mode in MODES)
