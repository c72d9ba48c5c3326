"""Tests of protocol/text.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import REASON_CHARS_MAX
from protocol.text import did_you_mean, is_one_line, one_line
from tests.strategies import lines


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_becomes_a_line_that_may_be_sent(text: str) -> None:
    """Whatever a text holds, its line is accepted, has UTF-8, and does not change any more."""
    line = one_line(text)
    assert is_one_line(line)
    assert line.encode().decode() == line
    assert one_line(line) == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("größer als 5 µs", "größer als 5 µs"),
        ("first\n  second\r\nthird\n", "first second third"),
        ("\x1b[31mred\x07", "[31mred"),
        ("half a \udc80 pair", "half a pair"),
        ("left\u202eright\u2028below", "left right below"),
        ("x" * (REASON_CHARS_MAX + 1), "x" * REASON_CHARS_MAX),
        ("x" * (REASON_CHARS_MAX - 1) + " y", "x" * (REASON_CHARS_MAX - 1)),
    ],
)
def test_a_text_keeps_its_words(text: str, expected: str) -> None:
    """Line breaks and what does not print become single spaces, the rest stays up to the limit."""
    actual = one_line(text)
    assert expected == actual


@given(lines)
def test_printable_text_is_a_line(text: str) -> None:
    """Printable text of at most the limit is a line."""
    assert is_one_line(text)


@pytest.mark.parametrize("text", ["\n", "a\tb", "\x00", "\x9b", "\ud800", "x" * 501])
def test_other_text_is_no_line(text: str) -> None:
    """A line break, a control character, half a surrogate pair and too much text are no line."""
    assert not is_one_line(text)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("polciy", " (did you mean 'policy'?)"), ("siz", " (did you mean 'size'?)"),
        ("other", ""), ("", ""), ("policy" * 100, ""),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_asked_back(word: str, hint: str) -> None:
    """A word that is like a known one is that one; what is long is no slip."""
    assert did_you_mean(word, ("policy", "size")) == hint
