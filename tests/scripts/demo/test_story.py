"""What the demo says is what its figures say, and no more."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.demo.cases import POLICIES, Case
from scripts.demo.story import bars, introduction, sentences, story
from scripts.screen.words import time_us

# Words that nobody knows who has just come.
_JARGON = re.compile(
    r"vCPU|postcopy|precopy|preempt|boost|background|urgent|channel|RAMBlock|userfault|huge",
    re.IGNORECASE,
)


def case(policy: str, wait_us: float, ahead: int = 1, twice: int = 0) -> Case:
    """Return what came of a policy."""
    return Case(policy, wait_us, ahead, twice, 104 << 20, ())


def cases(drop_us: float, ordered_us: float, critical_us: float, twice: int = 0) -> list[Case]:
    """Return what came of all policies."""
    return [
        case("drop", drop_us, 39, twice), case("ordered", ordered_us),
        case("critical-first", critical_us, 30),
    ]  # fmt: skip


WAITS = st.floats(1.0, 1e9)


@pytest.mark.parametrize("width", [39, 79])
def test_the_first_screen_has_no_jargon_and_no_line_that_is_too_long(width: int) -> None:
    """All that is printed is for who has seen nothing of the project, on whatever terminal."""
    told = story(cases(9e5, 3e4, 5e3), "midstream", width=width)
    text = f"{introduction(width)}\n{told}"
    assert not _JARGON.findall(text)
    assert max(map(len, text.splitlines())) <= width


def test_each_policy_is_told_with_its_wait_and_what_it_did() -> None:
    """The output alone says that a half-sent page was asked for, and what became of it."""
    text = " ".join(story(cases(9e5, 3e4, 5e3), "midstream").split())
    assert "page 5 was requested while it was half-sent" in text
    assert "`drop` put that request off until 39 other pages had been sent" in text
    assert "`ordered` sent 1 other page and then the rest of this one" in text
    assert "stood still for 900 ms with `drop`, 30 times as long as with `ordered` (30 ms" in text


def test_what_to_try_next_is_how_this_user_types_it() -> None:
    """A page that was written is what to open; without one it is how to get one."""
    told = cases(9e5, 3e4, 5e3)
    assert "open a.html in a browser" in sentences(told, "./m", "a.html")[2]
    assert "`./m demo --html demo.html`" in sentences(told, "./m", None)[2]


@given(WAITS, WAITS, WAITS, st.sampled_from([0, 4096]))
def test_no_sentence_says_more_than_its_figures(
    drop_us: float, ordered_us: float, critical_us: float, twice: int
) -> None:
    """That drop took longer is said only if it did, and nothing went twice only if nothing did."""
    told = cases(drop_us, ordered_us, critical_us, twice)
    cost = sentences(told, "midstream", None)[1]
    assert ("times as long" in cost) == (drop_us > ordered_us)
    assert ("nothing was sent twice" in cost) == (not twice)
    for wait_us in (drop_us, ordered_us, critical_us):
        assert time_us(wait_us) in cost


@given(WAITS, WAITS, WAITS)
def test_bars_are_on_one_scale(drop_us: float, ordered_us: float, critical_us: float) -> None:
    """The longest wait has the longest bar, and no bar is longer than a shorter wait's."""
    told = cases(drop_us, ordered_us, critical_us)
    lines = [line for line in bars(told).splitlines() if line.rstrip().endswith("#")]
    assert [line.split()[0] for line in lines] == list(POLICIES)
    lengths = [line.count("#") for line in lines]
    waits = [each.wait_us for each in told]
    for one, other in zip(waits, lengths, strict=True):
        assert all(mine <= other for wait, mine in zip(waits, lengths, strict=True) if wait <= one)
