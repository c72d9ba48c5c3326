"""The bandwidth limit: never more than it allows, never less than it could, never stuck."""

from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source.pacing import BURST_BYTES_MIN, BURST_NS, Pacer

SECOND_NS = 10**9

# From a byte a second to 8 Tbit/s, the odd ones too.
RATES = st.one_of(
    st.integers(1, 10**12),
    st.integers(1, 10**6),
    st.sampled_from([1, 3, 7, 125_000, 125_000_000, 999_999_937, 10**12]),
)
WANTED = st.integers(1, 64 << 20)


def burst_bytes(rate: int) -> int:
    """Return how much may go at once at a rate."""
    return max(rate * BURST_NS // SECOND_NS, BURST_BYTES_MIN)


@given(
    rate=RATES,
    start_ns=st.integers(0, 1 << 62),
    sends=st.lists(
        st.tuples(
            st.integers(0, 50_000_000) | st.integers(0, 1000),
            WANTED,
            st.fractions(0, 1, max_denominator=8),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_no_window_sees_more_than_the_rate_and_a_burst(
    rate: int, start_ns: int, sends: list[tuple[int, int, Fraction]]
) -> None:
    """Between any two moments at most a burst goes, and what the rate makes of the time."""
    pacer = Pacer(rate)
    times_ns = list(accumulate((pause_ns for pause_ns, _, _ in sends), initial=start_ns))[1:]
    sent = []
    for now_ns, (_, wanted_bytes, share) in zip(times_ns, sends, strict=True):
        allowed_bytes = pacer.allowance(wanted_bytes, now_ns)
        assert 0 <= allowed_bytes <= wanted_bytes
        # The socket may take less than is allowed.
        taken_bytes = int(allowed_bytes * share)
        pacer.spend(taken_bytes)
        sent.append(taken_bytes)
    for first in range(len(sent)):
        total_bytes = 0
        for last in range(first, len(sent)):
            total_bytes += sent[last]
            window_ns = times_ns[last] - times_ns[first]
            assert (total_bytes - burst_bytes(rate)) * SECOND_NS <= window_ns * rate


@given(
    rate=RATES,
    start_ns=st.integers(0, 1 << 62),
    wanted=st.lists(WANTED, min_size=1, max_size=20),
    rounds_up=st.booleans(),
)
def test_who_waits_as_told_goes_on(
    rate: int, start_ns: int, wanted: list[int], rounds_up: bool
) -> None:
    """After the wait some may go, at the latest after another nanosecond; no wait is endless."""
    pacer = Pacer(rate)
    now_ns = start_ns
    for wanted_bytes in wanted:
        left_bytes = wanted_bytes
        steps = 0
        while left_bytes and steps < 40:
            steps += 1
            allowed_bytes = pacer.allowance(left_bytes, now_ns)
            waits = 0
            while not allowed_bytes:
                wait_seconds = pacer.wait_ns(left_bytes, now_ns) / SECOND_NS
                assert wait_seconds > 0
                # A clock that stands still but for what its user sleeps, in whole nanoseconds.
                wait_ns = wait_seconds * SECOND_NS
                now_ns += round(wait_ns) if rounds_up else int(wait_ns)
                waits += 1
                assert waits <= 2
                allowed_bytes = pacer.allowance(left_bytes, now_ns)
            assert pacer.wait_ns(left_bytes, now_ns) == 0
            pacer.spend(allowed_bytes)
            left_bytes -= allowed_bytes


@pytest.mark.parametrize("rate", [1, 1000, 125_000, 50_000_000, 125_000_000, 12_500_000_000])
def test_the_rate_is_reached(rate: int) -> None:
    """Over many bursts the limit is used up, to within the burst that may go before."""
    pacer = Pacer(rate)
    now_ns, sent_bytes = 0, 0
    for _ in range(2000):
        allowed_bytes = pacer.allowance(1 << 40, now_ns)
        if allowed_bytes:
            pacer.spend(allowed_bytes)
            sent_bytes += allowed_bytes
        else:
            now_ns += pacer.wait_ns(1 << 40, now_ns)
    due_bytes = now_ns * rate / SECOND_NS
    assert sent_bytes >= due_bytes
    assert sent_bytes <= due_bytes + burst_bytes(rate)
    assert sent_bytes > 100 * burst_bytes(rate)


def test_a_pause_fills_the_bucket_once() -> None:
    """However long nothing goes, what goes at once afterwards is a burst."""
    pacer = Pacer(10**8)
    pacer.allowance(1, 0)
    assert pacer.allowance(1 << 30, 3600 * SECOND_NS) == 2_000_000


def test_a_burst_is_twenty_milliseconds_and_never_tiny() -> None:
    """At once may go what the rate makes in 20 ms, at slow rates still 16 KiB."""
    assert Pacer(10**9).allowance(1 << 30, 5) == 20_000_000
    assert Pacer(1000).allowance(1 << 30, 5) == 16 * 1024


def test_a_useful_piece_goes_or_nothing() -> None:
    """Less than a quarter of a burst goes only where no more is wanted."""
    pacer = Pacer(10**8)
    pacer.allowance(1, 0)
    pacer.spend(2_000_000)
    assert pacer.wait_ns(10**6, 1_000_000) == 4_000_000
    assert pacer.allowance(10**6, 4_999_999) == 0
    assert pacer.wait_ns(10**6, 4_999_999) == 1
    assert pacer.allowance(10**6, 5_000_000) == 500_000
    pacer.spend(500_000)
    assert pacer.allowance(300, 5_002_999) == 0
    assert pacer.allowance(300, 5_003_000) == 300
    assert pacer.wait_ns(10**6, 5_003_000) == 4_997_000


def test_what_is_not_spent_stays() -> None:
    """To be allowed bytes costs nothing, only to send them does."""
    pacer = Pacer(10**6)
    for _ in range(10):
        assert pacer.allowance(20_000, 7) == 20_000
    pacer.spend(20_000)
    assert pacer.allowance(20_000, 7) == 0


@given(st.lists(st.tuples(WANTED, st.integers(0, 1 << 62)), max_size=20))
def test_without_a_limit_everything_goes_at_once(wants: list[tuple[int, int]]) -> None:
    """A rate of 0 is no limit: all that is wanted goes, whatever went before."""
    pacer = Pacer(0)
    for wanted_bytes, now_ns in wants:
        assert pacer.allowance(wanted_bytes, now_ns) == wanted_bytes
        assert pacer.wait_ns(wanted_bytes, now_ns) == 0
        pacer.spend(wanted_bytes)


def test_a_limit_that_begins_has_nothing_saved() -> None:
    """Where there was no limit the bucket starts empty, whatever went before."""
    pacer = Pacer(0)
    assert pacer.allowance(1 << 40, 0) == 1 << 40
    pacer.spend(1 << 40)
    pacer.set_rate(10**8, 5 * SECOND_NS)
    assert pacer.allowance(1 << 20, 5 * SECOND_NS) == 0
    assert pacer.wait_ns(1 << 20, 5 * SECOND_NS) == 5_000_000


def test_a_new_rate_keeps_what_was_saved() -> None:
    """A change of the rate gives nothing away: the same rate again changes nothing at all."""
    pacer = Pacer(10**8)
    pacer.allowance(1, 0)
    pacer.spend(2_000_000)
    pacer.set_rate(10**8, 10_000_000)
    assert pacer.allowance(1 << 30, 10_000_000) == 1_000_000
    # Half a burst of before is more than a burst of the lower rate.
    pacer.set_rate(10**7, 10_000_000)
    assert pacer.allowance(1 << 30, 10_000_000) == 200_000
    pacer.set_rate(10**8, 10_000_000)
    assert pacer.allowance(1 << 30, 10_000_000) == 0


@given(
    changes=st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**9)), max_size=20),
)
def test_changes_of_the_rate_let_no_more_through(changes: list[tuple[int, int]]) -> None:
    """Over all rates, what goes is what each made of its time; a change is worth no burst."""
    pacer = Pacer(0)
    now_ns = sent_bytes = due = 0
    for rate, pause_ns in changes:
        pacer.set_rate(rate, now_ns)
        now_ns += pause_ns
        due += rate * pause_ns
        count = pacer.allowance(1 << 40, now_ns)
        pacer.spend(count)
        sent_bytes += count
        assert sent_bytes * SECOND_NS <= due
