"""Latency figures: stages that add up, bins, and summaries as exact as three digits are.

Each stage is what it says, none is negative, and together they are the wait.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dest.trips import Round, Said, Trip, Wait, parts_of, stages_ns
from dest.waits import Latencies
from guest.latency import new_histogram, summarize
from protocol.channels import Channel
from protocol.geometry import PageId
from protocol.report import LATENCY_BIN_COUNT, STAGES, Summary

PAGE = PageId(0, 5)
HOUR_NS = 3600 * 10**9

# Three significant digits: a value and its figure differ by a thousandth at most, and by the
# rounding to whole nanoseconds.
PRECISION = 1e-3


def wait_of(latency_ns: int, vcpu: int = 0) -> Wait:
    """Return a complete wait of a length, all of it spent on its way."""
    return Wait(
        vcpu, PAGE, 1000, 1000,
        last_byte_ns=1000 + latency_ns, placed_ns=1000 + latency_ns, wake_ns=1000 + latency_ns,
    )  # fmt: skip


# Stages.


def test_the_recorded_stages_are_those_of_the_waits() -> None:
    """The stages' summaries stand in their order, and count each wait, a time of 0 as 0."""
    latencies = Latencies(1)
    for latency_ns in (1_000, 3_000):
        latencies.record(wait_of(latency_ns))
    stages = {stage.stage: stage.summary for stage in latencies.stages}
    assert tuple(stages) == STAGES
    assert {summary.count for summary in stages.values()} == {2}
    assert stages["receive"].max_us == pytest.approx(3.0, rel=PRECISION)
    assert (stages["queue"].p50_us, stages["queue"].max_us, stages["queue"].mean_us) == (0, 0, 0)


# Bins.


@pytest.mark.parametrize(
    ("latency_ns", "expected_bin"),
    [
        (0, 0),
        (1, 0),
        (999, 0),
        (1_999, 0),
        (2_000, 1),
        (3_999, 1),
        (4_000, 2),
        (1_023_999, 9),
        (1_024_000, 10),
        ((1 << 23) * 1000 - 1, 22),
        ((1 << 23) * 1000, 23),
        ((1 << 24) * 1000, 23),
        (HOUR_NS, 23),
        (5 * HOUR_NS, 23),
    ],
)
def test_a_bin_counts_from_one_power_of_two_to_the_next(latency_ns: int, expected_bin: int) -> None:
    """Bin i counts from 2^i to 2^(i+1) microseconds, the first also less, the last also more."""
    latencies = Latencies(1)
    latencies.record(wait_of(latency_ns))
    assert len(latencies.bins) == LATENCY_BIN_COUNT
    assert [index for index, count in enumerate(latencies.bins) if count] == [expected_bin]


@given(st.lists(st.integers(0, 2 * HOUR_NS), max_size=30))
def test_every_wait_is_in_every_figure(lengths_ns: list[int]) -> None:
    """Bins, summary and stages count the same waits, those of more than an hour too."""
    latencies = Latencies(2)
    for number, latency_ns in enumerate(lengths_ns):
        latencies.record(wait_of(latency_ns, vcpu=number % 2))
    counts = [sum(latencies.bins), latencies.faults.count]
    counts += [stage.summary.count for stage in latencies.stages]
    assert set(counts) == {len(lengths_ns)}


# Means by vCPU.


def test_means_and_sums_are_by_vcpu() -> None:
    """Each vCPU has the mean of its own waits; the blocktime is the sum of all."""
    latencies = Latencies(4)
    for vcpu, latency_ns in ((0, 1_000_000), (0, 2_000_001), (2, 6_000_000)):
        latencies.record(wait_of(latency_ns, vcpu))
    assert latencies.vcpu_mean_ns == (1_500_000, 0, 6_000_000, 0)
    assert latencies.mean_ns == 3_000_000
    assert latencies.blocktime_ms == pytest.approx(9.000001)


def test_without_waits_all_is_nothing() -> None:
    """Where nobody waited the figures are 0, not missing."""
    latencies = Latencies(2)
    assert latencies.faults == Summary()
    assert {stage.summary for stage in latencies.stages} == {Summary()}
    assert latencies.bins == (0,) * LATENCY_BIN_COUNT
    assert (latencies.mean_ns, latencies.vcpu_mean_ns) == (0, (0, 0))
    assert latencies.blocktime_ms == 0


# Summaries.

LENGTHS = st.lists(
    st.integers(0, 10**4) | st.integers(0, 10**9) | st.integers(0, HOUR_NS),
    min_size=1,
    max_size=200,
)


@given(LENGTHS)
def test_a_summary_is_what_the_values_are(lengths_ns: list[int]) -> None:
    """Percentiles, maximum and mean are those of the values themselves, to three digits."""
    latencies = Latencies(1)
    for latency_ns in lengths_ns:
        latencies.record(wait_of(latency_ns))
    summary = latencies.faults
    assert summary.count == len(lengths_ns)
    figures = {
        50: summary.p50_us, 90: summary.p90_us, 99: summary.p99_us, 99.9: summary.p999_us,
    }  # fmt: skip
    values_us = np.array(lengths_ns) / 1000
    for percentile, figure_us in figures.items():
        # Nearest rank, rounded up: the first value that enough of them do not exceed.
        expected_us = np.percentile(values_us, percentile, method="inverted_cdf")
        assert figure_us == pytest.approx(expected_us, rel=PRECISION, abs=0.001)
    assert summary.max_us == pytest.approx(values_us.max(), rel=PRECISION, abs=0.001)
    assert summary.mean_us == pytest.approx(values_us.mean(), rel=PRECISION, abs=0.001)
    ordered = [*figures.values(), summary.max_us]
    assert all(one <= other for one, other in pairwise(ordered))


@settings(max_examples=20)
@given(st.integers(0, 2_500), st.integers(0, 1 << 32))
def test_waits_are_sorted_in_as_one_by_one(count: int, seed: int) -> None:
    """Many waits at once come to where the histogram's own method puts each of them."""
    lengths_ns = np.exp2(np.random.default_rng(seed).uniform(0, 42, count)).astype(np.int64)
    latencies, histogram = Latencies(1), new_histogram()
    for latency_ns in np.minimum(lengths_ns, HOUR_NS).tolist():
        latencies.record(wait_of(latency_ns))
        histogram.record_value(latency_ns)
    assert latencies.faults == summarize(histogram)


# How a wait divides into stages.


def staged_wait(
    trip: Trip | None,
    *,
    fault_ns: int = 0,
    detect_ns: int = 10,
    last_byte_ns: int = 1000,
    placed_ns: int = 1050,
    wake_ns: int = 1070,
) -> Wait:
    """Return a complete wait of 1070 ns, if nothing else is said."""
    return Wait(0, PAGE, fault_ns, detect_ns, last_byte_ns, placed_ns, wake_ns, trip)


def lengths(wait: Wait) -> dict[str, int]:
    """Return the stages that are not nothing."""
    stages = stages_ns(wait)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == wait.latency_ns
    return {stage: length_ns for stage, length_ns in stages.items() if length_ns}


ENDS = {"detect": 10, "place": 50, "wake": 20}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # Behind others, and then whole: what is left is on the way.
        (
            Said("queued", 60, queued_ns=300, sending_ns=400),
            {"request": 50, "queue": 300, "send": 400, "receive": 240},
        ),
        (
            Said("boosted", 60, queued_ns=700, sending_ns=100),
            {"request": 50, "queue": 700, "send": 100, "receive": 140},
        ),
        (Said("urgent-in-place", 60, sending_ns=500), {"request": 50, "send": 500, "receive": 440}),
        (Said("already-sent", 60), {"request": 50, "receive": 940}),
        (
            Said("postponed", 60, postponed_ns=800, sending_ns=40),
            {"request": 50, "postponed": 800, "send": 40, "receive": 100},
        ),
        (Said("duplicate", 60, sending_ns=10), {"request": 50, "send": 10, "receive": 930}),
    ],
    ids=lambda each: each.answer if isinstance(each, Said) else "",
)
def test_each_answer_is_divided_by_what_the_source_says(
    said: Said, expected: dict[str, int]
) -> None:
    """The request's way, what the source did, and what is left: in their order."""
    assert lengths(staged_wait(Trip(asked_ns=20, said=said))) == ENDS | expected


def test_a_page_that_is_here_before_its_request_is_there_was_on_its_way() -> None:
    """Nothing was waited for but its bytes: the request did not matter."""
    said = Said("already-sent", 1000)
    assert lengths(staged_wait(Trip(asked_ns=20, said=said))) == ENDS | {"receive": 990}


@pytest.mark.parametrize(
    ("channel", "first_queued_ns", "expected"),
    [
        # The copy that was sent again is sooner.
        (Channel.POSTCOPY, 0, {"queue": 300, "send": 400, "receive": 240}),
        (Channel.POSTCOPY, 700, {"queue": 300, "send": 400, "receive": 240}),
        # The first one is, which had been with the socket before.
        (Channel.PRECOPY, 0, {"receive": 940}),
        # Or was sent only when the other had been.
        (Channel.PRECOPY, 700, {"queue": 700, "receive": 240}),
    ],
)
def test_the_copy_that_is_sooner_here_has_its_own_stages(
    channel: Channel, first_queued_ns: int, expected: dict[str, int]
) -> None:
    """What came twice waited as the copy did that ended the wait, and not as the other one."""
    said = Said(
        "sent-again", 60, queued_ns=300, sending_ns=400, behind=(PageId(0, 7),), behind_count=1,
        first_queued_ns=first_queued_ns,
    )  # fmt: skip
    trip = Trip(asked_ns=20, said=said, channel=channel)
    assert lengths(staged_wait(trip)) == ENDS | {"request": 50} | expected
    assert trip.said_of_copy is not None
    assert trip.said_of_copy.behind_count == ("queue" in expected)
    # What comes over that channel without having gone again is as the source says.
    plain = Trip(asked_ns=20, said=Said("boosted", 60, queued_ns=300), channel=channel)
    assert lengths(staged_wait(plain)) == ENDS | {"request": 50, "queue": 300, "receive": 640}


def test_the_source_cannot_claim_more_time_than_there_was() -> None:
    """What it says ends where the last byte is here, and begins where the engine knew."""
    said = Said("queued", -500, queued_ns=600, sending_ns=5000)
    assert lengths(staged_wait(Trip(asked_ns=20, said=said))) == ENDS | {"queue": 90, "send": 900}


def test_a_vcpu_that_joins_a_wait_has_no_time_before_its_own_touch() -> None:
    """Who touches the page while it is being sent waits for the rest of that alone."""
    said = Said("queued", 60, queued_ns=300, sending_ns=400)
    wait = staged_wait(Trip(asked_ns=20, said=said), fault_ns=500, detect_ns=510)
    assert lengths(wait) == ENDS | {"send": 250, "receive": 240}


def test_a_vcpu_that_saw_its_page_before_the_engine_noted_it_has_no_time_after() -> None:
    """A vCPU may run before the engine knows of its fault, or notes the page as placed."""
    unheard = staged_wait(
        None, fault_ns=100, detect_ns=190, last_byte_ns=190, placed_ns=190, wake_ns=150
    )
    assert lengths(unheard) == {"detect": 50}
    unnoted = staged_wait(
        None, fault_ns=100, detect_ns=110, last_byte_ns=200, placed_ns=260, wake_ns=230
    )
    assert lengths(unnoted) == {"detect": 10, "receive": 90, "place": 30}


def test_an_outage_is_a_stage_of_its_own() -> None:
    """From the break until the page is asked for again; before and behind it all as ever."""
    trip = Trip(
        asked_ns=700,
        said=Said("queued", 720, queued_ns=30, sending_ns=50),
        rounds=[Round(300, 700, Said("queued", 60, queued_ns=5000))],
    )
    wait = staged_wait(trip)
    assert [part for part in parts_of(wait) if part[1]] == [
        *[("detect", 10), ("request", 50), ("queue", 240)],
        ("broken", 400),
        *[("request", 20), ("queue", 30), ("send", 50), ("receive", 200)],
        *[("place", 50), ("wake", 20)],
    ]
    expected = {"request": 70, "queue": 270, "send": 50, "receive": 200, "broken": 400}
    assert lengths(wait) == ENDS | expected


def test_of_a_request_that_broke_off_and_nobody_knows_the_way_was_all() -> None:
    """It never got through; a vCPU that touches its page meanwhile waits for a connection."""
    said = Said("queued", 720, sending_ns=50)
    expected = {"request": 310, "broken": 400, "send": 50, "receive": 230}
    assert lengths(staged_wait(Trip(said=said, rounds=[Round(300, 700)]))) == ENDS | expected
    assert lengths(staged_wait(Trip(said=said, rounds=[Round(10, 700)])))["broken"] == 690


def test_a_page_that_comes_unasked_after_a_break_ends_the_outage() -> None:
    """It was not asked for again before it was here."""
    assert lengths(staged_wait(Trip(rounds=[Round(300)])))["broken"] == 700


def test_a_source_that_tells_nothing_else_is_taken_at_the_word_of_its_frames() -> None:
    """Then the request lasts until the first urgent bytes are back, less the time in the queue."""
    trip = Trip(asked_ns=20, urgent_ns=400)
    assert lengths(staged_wait(trip)) == ENDS | {"request": 390, "receive": 600}
    trip = Trip(asked_ns=20, urgent_ns=4_000, queue_us=1, send_us=2)
    wait = staged_wait(trip, last_byte_ns=9_000, placed_ns=9_050, wake_ns=9_070)
    expected = {"request": 2_990, "queue": 1_000, "send": 2_000, "receive": 3_000}
    assert lengths(wait) == ENDS | expected
    trip = Trip(asked_ns=20, urgent_ns=100, queue_us=9, send_us=9)
    assert lengths(staged_wait(trip)) == ENDS | {"queue": 90, "send": 900}


def test_of_a_page_that_came_in_the_background_nothing_else_is_known() -> None:
    """Where the source tells nothing it was on its way, whatever the request did."""
    assert lengths(staged_wait(Trip(asked_ns=20))) == ENDS | {"receive": 990}


TIMES = st.integers(-(10**7), 10**7)
STAGE_LENGTHS = st.integers(0, 10**7)
SAID = st.builds(
    Said,
    st.sampled_from(["queued", "sent-again"]),
    TIMES,
    queued_ns=STAGE_LENGTHS,
    postponed_ns=STAGE_LENGTHS,
    sending_ns=STAGE_LENGTHS,
    first_queued_ns=STAGE_LENGTHS,
)
TRIPS = st.builds(
    Trip,
    asked_ns=st.none() | TIMES,
    said=st.none() | SAID,
    rounds=st.lists(st.builds(Round, TIMES, st.none() | TIMES, st.none() | SAID), max_size=3),
    urgent_ns=st.none() | TIMES,
    queue_us=st.integers(0, 10**5),
    send_us=st.integers(0, 10**5),
    channel=st.none() | st.sampled_from(Channel),
)


@given(st.none() | TRIPS, STAGE_LENGTHS, STAGE_LENGTHS, st.tuples(TIMES, TIMES, TIMES))
def test_stages_add_up_to_the_wait(
    trip: Trip | None, fault_ns: int, latency_ns: int, marks_ns: tuple[int, int, int]
) -> None:
    """In whatever order the moments come, no stage is negative and together they are the wait."""
    detect_ns, last_byte_ns, placed_ns = marks_ns
    wait = staged_wait(
        trip, fault_ns=fault_ns, detect_ns=detect_ns, last_byte_ns=last_byte_ns,
        placed_ns=placed_ns, wake_ns=fault_ns + latency_ns,
    )  # fmt: skip
    parts = parts_of(wait)
    assert min(length_ns for _, length_ns in parts) >= 0
    assert sum(length_ns for _, length_ns in parts) == latency_ns
    stages = stages_ns(wait)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == latency_ns
