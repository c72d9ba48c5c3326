"""The stages of a wait: each is what it says, none is negative, and together they are the wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dest.faults import Wait
from dest.stages import parts_of, stages_ns
from dest.trips import Round, Said, Trip
from protocol.geometry import PageId
from protocol.report import STAGES

PAGE = PageId(0, 5)


def wait_of(
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
    assert lengths(wait_of(Trip(asked_ns=20, said=said))) == ENDS | expected


def test_a_page_that_is_here_before_its_request_is_there_was_on_its_way() -> None:
    """Nothing was waited for but its bytes: the request did not matter."""
    said = Said("already-sent", 1000)
    assert lengths(wait_of(Trip(asked_ns=20, said=said))) == ENDS | {"receive": 990}


def test_the_source_cannot_claim_more_time_than_there_was() -> None:
    """What it says ends where the last byte is here, and begins where the engine knew."""
    said = Said("queued", -500, queued_ns=600, sending_ns=5000)
    assert lengths(wait_of(Trip(asked_ns=20, said=said))) == ENDS | {"queue": 90, "send": 900}


def test_a_vcpu_that_joins_a_wait_has_no_time_before_its_own_touch() -> None:
    """Who touches the page while it is being sent waits for the rest of that alone."""
    said = Said("queued", 60, queued_ns=300, sending_ns=400)
    wait = wait_of(Trip(asked_ns=20, said=said), fault_ns=500, detect_ns=510)
    assert lengths(wait) == ENDS | {"send": 250, "receive": 240}


def test_a_vcpu_that_saw_its_page_before_the_engine_noted_it_has_no_time_after() -> None:
    """A vCPU may run before the engine knows of its fault, or notes the page as placed."""
    unheard = wait_of(
        None, fault_ns=100, detect_ns=190, last_byte_ns=190, placed_ns=190, wake_ns=150
    )
    assert lengths(unheard) == {"detect": 50}
    unnoted = wait_of(
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
    wait = wait_of(trip)
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
    assert lengths(wait_of(Trip(said=said, rounds=[Round(300, 700)]))) == ENDS | expected
    assert lengths(wait_of(Trip(said=said, rounds=[Round(10, 700)])))["broken"] == 690


def test_a_page_that_comes_unasked_after_a_break_ends_the_outage() -> None:
    """It was not asked for again before it was here."""
    assert lengths(wait_of(Trip(rounds=[Round(300)])))["broken"] == 700


def test_a_source_that_tells_nothing_else_is_taken_at_the_word_of_its_frames() -> None:
    """Then the request lasts until the first urgent bytes are back, less the time in the queue."""
    trip = Trip(asked_ns=20, urgent_ns=400)
    assert lengths(wait_of(trip)) == ENDS | {"request": 390, "receive": 600}
    trip = Trip(asked_ns=20, urgent_ns=4_000, queue_us=1, send_us=2)
    wait = wait_of(trip, last_byte_ns=9_000, placed_ns=9_050, wake_ns=9_070)
    expected = {"request": 2_990, "queue": 1_000, "send": 2_000, "receive": 3_000}
    assert lengths(wait) == ENDS | expected
    trip = Trip(asked_ns=20, urgent_ns=100, queue_us=9, send_us=9)
    assert lengths(wait_of(trip)) == ENDS | {"queue": 90, "send": 900}


def test_of_a_page_that_came_in_the_background_nothing_else_is_known() -> None:
    """Where the source tells nothing it was on its way, whatever the request did."""
    assert lengths(wait_of(Trip(asked_ns=20))) == ENDS | {"receive": 990}


TIMES = st.integers(-(10**7), 10**7)
LENGTHS = st.integers(0, 10**7)
SAID = st.builds(
    Said, st.just("queued"), TIMES, queued_ns=LENGTHS, postponed_ns=LENGTHS, sending_ns=LENGTHS
)
TRIPS = st.builds(
    Trip,
    asked_ns=st.none() | TIMES,
    said=st.none() | SAID,
    rounds=st.lists(st.builds(Round, TIMES, st.none() | TIMES, st.none() | SAID), max_size=3),
    urgent_ns=st.none() | TIMES,
    queue_us=st.integers(0, 10**5),
    send_us=st.integers(0, 10**5),
)


@given(st.none() | TRIPS, LENGTHS, LENGTHS, st.tuples(TIMES, TIMES, TIMES))
def test_stages_add_up_to_the_wait(
    trip: Trip | None, fault_ns: int, latency_ns: int, marks_ns: tuple[int, int, int]
) -> None:
    """In whatever order the moments come, no stage is negative and together they are the wait."""
    detect_ns, last_byte_ns, placed_ns = marks_ns
    wait = wait_of(
        trip, fault_ns=fault_ns, detect_ns=detect_ns, last_byte_ns=last_byte_ns,
        placed_ns=placed_ns, wake_ns=fault_ns + latency_ns,
    )  # fmt: skip
    parts = parts_of(wait)
    assert min(length_ns for _, length_ns in parts) >= 0
    assert sum(length_ns for _, length_ns in parts) == latency_ns
    stages = stages_ns(wait)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == latency_ns
