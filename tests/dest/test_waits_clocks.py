"""The source's clock by this side's: never further off than the messages' delays allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dest.waits import ClockOffset

MS = 10**6
DELAYS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20)


def exchange(offset: ClockOffset, ahead_ns: int, there_ns: int, back_ns: int, now_ns: int) -> None:
    """Have a request go and a word come back, over links of some delays."""
    offset.went(now_ns, now_ns + there_ns + ahead_ns, now_ns + there_ns)
    offset.came(now_ns + there_ns + ahead_ns, now_ns + there_ns + back_ns)


@given(st.integers(-(10**15), 10**15), DELAYS)
def test_it_is_off_by_no_more_than_the_shortest_delays(
    ahead_ns: int, delays: list[tuple[int, int]]
) -> None:
    """However the clocks stand to each other, and however long some messages take."""
    offset = ClockOffset()
    for there_ns, back_ns in delays:
        exchange(offset, ahead_ns, there_ns, back_ns, 0)
    shortest_ns = max(min(column) for column in zip(*delays, strict=True))
    # They may have drifted apart while messages were on their way.
    assert abs(offset.ahead_ns - ahead_ns) <= shortest_ns + 20 * MS


@given(DELAYS)
def test_two_processes_of_one_machine_have_one_clock(delays: list[tuple[int, int]]) -> None:
    """What their messages say never keeps them from being the same, and then they are."""
    offset = ClockOffset()
    for number, (there_ns, back_ns) in enumerate(delays):
        exchange(offset, 0, there_ns, back_ns, number * 5 * 10**9)
        assert offset.ahead_ns == 0
        assert offset.here(77) == 77


def test_the_middle_is_taken() -> None:
    """Of clocks that differ, the difference is right where both ways are equally long."""
    offset = ClockOffset()
    exchange(offset, 10**12, 5 * MS, 5 * MS, 0)
    assert offset.ahead_ns == pytest.approx(10**12, abs=10_000)
    exchange(offset, 10**12, 5 * MS, 45 * MS, 0)
    assert offset.ahead_ns == pytest.approx(10**12, abs=100_000)


def test_one_word_is_better_than_none() -> None:
    """Before both directions have told something, what there is is taken."""
    offset = ClockOffset()
    assert offset.here(5) == 5
    offset.came(10**12, 100)
    assert offset.here(10**12) == 100
    offset = ClockOffset()
    offset.went(100, 10**12, 200)
    assert offset.here(10**12) == 100


def test_old_words_hold_less_closely() -> None:
    """Clocks drift: what was told long ago gives way to what is told now."""
    offset = ClockOffset()
    exchange(offset, 10**12, 100, 100, 0)
    # In an hour they have come apart by a second, and both ways are longer than they were.
    hour_ns, ahead_ns = 3600 * 10**9, 10**12 + 10**9
    for step in range(100):
        exchange(offset, ahead_ns, MS, MS, hour_ns + step * 10**9)
    assert offset.ahead_ns == pytest.approx(ahead_ns, abs=2 * MS)


@pytest.mark.parametrize("step_ns", [-(10**9), 10**9])
def test_a_clock_that_is_set_is_believed_anew(step_ns: int) -> None:
    """Words that contradict those of before count, from whichever side."""
    offset = ClockOffset()
    exchange(offset, 10**12, MS, MS, 0)
    for number in range(1, 4):
        exchange(offset, 10**12 + step_ns, MS, MS, number * 10**7)
    assert offset.ahead_ns == pytest.approx(10**12 + step_ns, abs=2 * MS)
