"""When precopy is over: each case of the rule, and the estimate that it rests on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PASS_COUNT_MAX
from source.convergence import (
    STALL_SHARE,
    Convergence,
    Means,
    NextStep,
    Stall,
    SwitchRule,
    expected_downtime_ms,
    pass_bandwidth,
)

ANOTHER_PASS = NextStep.ANOTHER_PASS
FINISH = NextStep.FINISH
POSTCOPY = NextStep.POSTCOPY
GIVE_UP = NextStep.GIVE_UP

# A megabyte takes a millisecond.
RATE = 1e9
MB = 10**6


def decide(rule: SwitchRule, passes_done: int, dirty_bytes: int, rate: float) -> NextStep:
    """Return what follows a pass, with no time gone by."""
    convergence = Convergence(rule)
    convergence.start(0.0)
    return convergence.after_pass(0.0, passes_done, dirty_bytes, rate)


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
    assert decide(rule, passes_done, dirty_bytes, rate) is step


def test_no_downtime_at_all_needs_a_clean_guest() -> None:
    """With a downtime limit of nothing precopy finishes when nothing is dirty."""
    rule = SwitchRule(None, downtime_ms_max=0.0)
    assert decide(rule, 5, 4096, RATE) is ANOTHER_PASS
    assert decide(rule, 5, 0, RATE) is FINISH


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
    assert decide(rule, PASS_COUNT_MAX, dirty_bytes, rate) is not ANOTHER_PASS


# A playbook: at a time, what is asked or done, and what comes of it.
Play = tuple[float, str, tuple[object, ...], object]

LIMITED = SwitchRule(None, 300.0, postcopy_after_seconds=30.0, give_up_after_seconds=600.0)
PATIENT = SwitchRule(None, 300.0, give_up_after_seconds=600.0)
DIRTY = (500 * MB, RATE)
CLEAN = (300 * MB, RATE)

PLAYS: dict[str, tuple[SwitchRule, list[Play], Means]] = {
    "postcopy after a time, within a pass": (
        LIMITED,
        [
            (100.0, "start", (), None),
            (129.9, "is_due", (), False),
            (129.9, "after_pass", (3, *DIRTY), ANOTHER_PASS),
            (130.0, "is_due", (), True),
            (130.0, "after_pass", (3, *DIRTY), POSTCOPY),
        ],
        Means.TIME,
    ),
    "postcopy after a time, within the first pass": (
        LIMITED,
        [(0.0, "start", (), None), (30.0, "after_pass", (0, *DIRTY), POSTCOPY)],
        Means.TIME,
    ),
    "passes first": (
        SwitchRule(2, 300.0, postcopy_after_seconds=30.0),
        [
            (0.0, "start", (), None),
            (1.0, "after_pass", (1, *DIRTY), ANOTHER_PASS),
            (2.0, "after_pass", (2, *DIRTY), POSTCOPY),
        ],
        Means.PASSES,
    ),
    "given up": (
        PATIENT,
        [
            (5.0, "start", (), None),
            (604.9, "is_due", (), False),
            (604.9, "after_pass", (90, *DIRTY), ANOTHER_PASS),
            (605.0, "is_due", (), True),
            (605.0, "after_pass", (90, *DIRTY), GIVE_UP),
        ],
        Means.GAVE_UP,
    ),
    "what has converged by then is not given up": (
        PATIENT,
        [(5.0, "start", (), None), (700.0, "after_pass", (90, *CLEAN), FINISH)],
        Means.CONVERGED,
    ),
    "the user's word comes first": (
        PATIENT,
        [
            (0.0, "start", (), None),
            (1.0, "order", (), None),
            (1.0, "is_due", (), True),
            (700.0, "after_pass", (90, *CLEAN), POSTCOPY),
        ],
        Means.USER,
    ),
    "the user's word before there is a first pass": (
        SwitchRule(None, 300.0),
        [
            (0.0, "order", (), None),
            (9.0, "start", (), None),
            (9.0, "after_pass", (0, *DIRTY), POSTCOPY),
        ],
        Means.USER,
    ),
    "no time goes by before it begins": (
        LIMITED,
        [(1e9, "is_due", (), False), (1e9, "start", (), None), (1e9, "is_due", (), False)],
        Means.NONE,
    ),
}


@pytest.mark.parametrize("name", PLAYS)
def test_each_means_ends_precopy(name: str) -> None:
    """Time, passes, the user's word and patience end it in their order, and the means is told."""
    rule, plays, means = PLAYS[name]
    convergence = Convergence(rule)
    for number, (now, call, arguments, expected) in enumerate(plays):
        timed = () if call == "order" else (now,)
        assert getattr(convergence, call)(*timed, *arguments) == expected, f"play {number}"
    assert convergence.means is means


def test_a_new_downtime_limit_holds_from_the_next_pass_on() -> None:
    """What the user allows meanwhile decides."""
    convergence = Convergence(PATIENT)
    convergence.start(0.0)
    assert convergence.after_pass(1.0, 1, *DIRTY) is ANOTHER_PASS
    convergence.downtime_ms_max = 500.0
    assert convergence.after_pass(2.0, 2, *DIRTY) is FINISH


@given(
    passes=st.none() | st.integers(0, 5),
    postcopy_seconds=st.none() | st.floats(0, 100),
    give_up_seconds=st.none() | st.floats(0, 100),
    ordered=st.booleans(),
    now=st.floats(0, 200),
    passes_done=st.integers(0, 6),
)
def test_what_is_due_is_over(
    passes: int | None,
    postcopy_seconds: float | None,
    give_up_seconds: float | None,
    ordered: bool,
    now: float,
    passes_done: int,
) -> None:
    """A pass that has to end is followed by none: it would end at once, for ever."""
    convergence = Convergence(SwitchRule(passes, 300.0, postcopy_seconds, give_up_seconds))
    convergence.start(0.0)
    if ordered:
        convergence.order()
    if convergence.is_due(now):
        assert convergence.after_pass(now, passes_done, *DIRTY) is not ANOTHER_PASS


def test_a_pass_that_does_not_shrink_is_told_once() -> None:
    """A pass that leaves as much dirty as it sent is told, with both rates; the next one is not."""
    convergence = Convergence(PATIENT)
    sent_bytes = 100 << 20
    shrunk = Stall(1, sent_bytes, int(STALL_SHARE * sent_bytes), 2.0)
    assert convergence.stall_of(shrunk) is None
    stalled = Stall(2, sent_bytes, 95 << 20, 0.5)
    told = convergence.stall_of(stalled)
    assert told is stalled
    assert str(told) == (
        "precopy does not converge: the guest dirties memory at 199 MB/s, it is sent at 210 MB/s "
        "(pass 2: 100 MiB sent, 95 MiB dirty again)"
    )
    assert convergence.stall_of(stalled) is None


def test_a_clean_guest_has_not_stalled() -> None:
    """A pass of nothing that leaves nothing is none that does not shrink."""
    assert Convergence(PATIENT).stall_of(Stall(3, 0, 0, 0.1)) is None
