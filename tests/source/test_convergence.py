"""When precopy is over: each case of the rule, and the estimate that it rests on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PASS_COUNT_MAX
from source.convergence import NextStep, SwitchRule, expected_downtime_ms, pass_bandwidth

ANOTHER_PASS = NextStep.ANOTHER_PASS
FINISH = NextStep.FINISH
POSTCOPY = NextStep.POSTCOPY
GIVE_UP = NextStep.GIVE_UP

# A megabyte takes a millisecond.
RATE = 1e9
MB = 10**6


@pytest.mark.parametrize(
    ("postcopy_after", "passes_done", "dirty_bytes", "rate", "step"),
    [
        # Postcopy after so many passes, at once where that is none.
        (0, 0, 500 * MB, 0.0, POSTCOPY),
        (1, 0, 500 * MB, 0.0, ANOTHER_PASS),
        (1, 1, 500 * MB, RATE, POSTCOPY),
        (3, 2, 500 * MB, RATE, ANOTHER_PASS),
        (3, 3, 500 * MB, RATE, POSTCOPY),
        (3, 4, 500 * MB, RATE, POSTCOPY),
        # Before that pass precopy may finish alone; from it on postcopy needs no estimate.
        (3, 2, 300 * MB, RATE, FINISH),
        (3, 2, 300 * MB + 1, RATE, ANOTHER_PASS),
        (3, 3, 0, RATE, POSTCOPY),
        # Never postcopy: the estimate decides, at the limit in favour of finishing.
        (None, 1, 300 * MB, RATE, FINISH),
        (None, 1, 300 * MB + 1, RATE, ANOTHER_PASS),
        (None, 1, 300 * MB, RATE / 2, ANOTHER_PASS),
        (None, 7, 0, RATE, FINISH),
        # The guest may stand still only after a pass: before it nothing has been measured.
        (None, 0, 0, 0.0, ANOTHER_PASS),
        (None, 0, 1, RATE, ANOTHER_PASS),
        (2, 0, 0, 0.0, ANOTHER_PASS),
        # A pass that sent nothing tells no bandwidth; without dirty pages none is needed.
        (None, 1, 1, 0.0, ANOTHER_PASS),
        (None, 1, 0, 0.0, FINISH),
        # Some guests never come to an end.
        (None, PASS_COUNT_MAX - 1, 500 * MB, RATE, ANOTHER_PASS),
        (None, PASS_COUNT_MAX, 500 * MB, RATE, GIVE_UP),
        (None, PASS_COUNT_MAX, 300 * MB, RATE, FINISH),
        (PASS_COUNT_MAX, PASS_COUNT_MAX, 500 * MB, RATE, POSTCOPY),
    ],
)
def test_a_pass_leads_to_the_next_step(
    postcopy_after: int | None, passes_done: int, dirty_bytes: int, rate: float, step: NextStep
) -> None:
    """After each pass the rule says one next step, here with a downtime limit of 300 ms."""
    rule = SwitchRule(postcopy_after, downtime_ms_max=300.0)
    assert rule.decide(passes_done, dirty_bytes, rate) is step


def test_no_downtime_at_all_needs_a_clean_guest() -> None:
    """With a downtime limit of nothing precopy finishes when nothing is dirty."""
    rule = SwitchRule(None, downtime_ms_max=0.0)
    assert rule.decide(5, 4096, RATE) is ANOTHER_PASS
    assert rule.decide(5, 0, RATE) is FINISH


@pytest.mark.parametrize(
    ("dirty_bytes", "rate", "expected_ms"),
    [
        (0, 0.0, 0.0),
        (0, RATE, 0.0),
        (MB, RATE, 1.0),
        (250 * MB, 125e6, 2000.0),
        (4096, 0.0, math.inf),
    ],
)
def test_the_downtime_is_what_is_dirty_at_the_last_bandwidth(
    dirty_bytes: int, rate: float, expected_ms: float
) -> None:
    """The estimate is the dirty bytes over the bandwidth, nothing for none, endless without."""
    assert expected_downtime_ms(dirty_bytes, rate) == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    ("sent_bytes", "pass_ns", "limit", "bandwidth"),
    [
        (MB, 1_000_000, 0, 1e9),
        (MB, 1_000_000, 2 * 10**9, 1e9),
        # Out of what was saved: no longer pass could go on like that.
        (MB, 1_000_000, 8 * 10**6, 8e6),
        (0, 1_000_000, 0, 0.0),
        (4096, 0, 0, 4096e9),
    ],
)
def test_a_passes_bandwidth_is_never_over_the_limit(
    sent_bytes: int, pass_ns: int, limit: int, bandwidth: float
) -> None:
    """What a pass sent over the time that it took, or the limit where that is less."""
    assert pass_bandwidth(sent_bytes, pass_ns, limit) == pytest.approx(bandwidth)


@given(
    postcopy_after=st.none() | st.integers(0, PASS_COUNT_MAX),
    downtime_ms_max=st.floats(0, 1e6),
    dirty_bytes=st.integers(0, 1 << 46),
    rate=st.floats(0, 1e12),
)
def test_precopy_comes_to_an_end(
    postcopy_after: int | None, downtime_ms_max: float, dirty_bytes: int, rate: float
) -> None:
    """Whatever is asked for and measured, no pass follows the last one that may be made."""
    rule = SwitchRule(postcopy_after, downtime_ms_max)
    assert rule.decide(PASS_COUNT_MAX, dirty_bytes, rate) is not ANOTHER_PASS
