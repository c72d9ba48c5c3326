"""Phases, shares and times in words that a person knows."""

from __future__ import annotations

import pytest

from protocol.states import State
from scripts.screen.phases import percent_done, phase_words, time_left


def test_every_state_has_words() -> None:
    """No state's own name is shown, but where that is a word already."""
    for state in State:
        words = phase_words(state.value, 1)
        assert words
        assert "-" not in words
    assert phase_words("active", 1) == "precopy: pass 2"
    assert phase_words("of-tomorrow", 0) == "of-tomorrow"


@pytest.mark.parametrize(
    ("done", "total", "words"),
    [
        (3 << 30, 8 << 30, "filling memory 3/8 GiB"),
        (0, 256 << 20, "filling memory 0/256 MiB"),
        (100 << 20, 8 << 30, "filling memory 0.0977/8 GiB"),
        (8 << 30, 8 << 30, "filling memory 8/8 GiB"),
    ],
)
def test_filling_is_told_in_one_unit(done: int, total: int, words: str) -> None:
    """Both numbers are in the unit of the whole."""
    assert phase_words("none", 0, (done, total)) == words


def test_filling_is_over_with_the_next_state() -> None:
    """What was filled is no news any more once the sides have met."""
    assert phase_words("setup", 0, (1, 2)) == "connecting"


def test_all_is_said_of_all_alone() -> None:
    """A share is rounded down: what is nearly done is not done."""
    assert [percent_done(done) for done in (0.0, 0.5, 0.999999, 1.0)] == [
        "0 %", "50 %", "99 %", "100 %"
    ]  # fmt: skip


def test_time_is_told_where_it_can_be_known() -> None:
    """Of postcopy all that is left, of precopy this pass, and nothing without a rate."""
    assert time_left("postcopy-active", 10**9, 1e8) == "10 s left"
    assert time_left("postcopy-active", 1000, 1e9) == "1 s left"
    assert time_left("active", 10**9, 1e8) == "pass ends in 10 s"
    for state, remaining, rate in (
        ("setup", 10**9, 1e8), ("completed", 10**9, 1e8), ("active", 0, 1e8), ("active", None, 1e8),
        ("active", 10**9, 0.0), ("postcopy-paused", 10**9, 1e8), ("active", 10**15, 1.0),
    ):  # fmt: skip
        assert time_left(state, remaining, rate) == ""
