"""Tests of scripts/injection/checks.py and of the outcomes that checks look at."""

from typing import Any

import pytest

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, RamBlock
from scripts.injection.checks import (
    Bounds,
    Carriers,
    Check,
    Count,
    Never,
    OfSides,
    Order,
    PlacedBefore,
    ServedOrder,
    WaitRatio,
)
from scripts.injection.marks import Passing
from scripts.injection.outcome import Outcome

GEOMETRY = Geometry((RamBlock("ram", 32 << 20, 2 << 20), RamBlock("rom", 16384, 4096)))


def page(index: int, block: int = 0) -> PageId:
    """Return a page."""
    return PageId(block, index)


def event(name: str, index: int = 0, block: int = 0, **fields: object) -> dict[str, Any]:
    """Return an event of the destination."""
    return {"event": name, "side": "dest", "block": block, "page": index, **fields}


EVENTS = (
    event("state", state="setup"),
    event("page-request", 9),
    event("page-request", 5),
    event("page-request", 5),
    event("page-placed", 1),
    event("page-placed", 9),
    event("page-placed", 0, 1, pages=3),
    event("page-placed", 5),
    {"event": "page-request", "side": "source", "block": 0, "page": 1},
    {**event("vcpu-wake", 9), "latency-us": 1000.0},
    {**event("vcpu-wake", 5), "latency-us": 2500.0},
    {**event("vcpu-wake", 5), "latency-us": 3000.0},
    event("boost", 5),
    event("state", state="completed"),
    {"event": "state", "side": "source", "state": "completed"},
)
REPORT = {
    "midstream": {
        "preemptions": {"boosted": 1, "count": 2},
        "verified": {"mismatches": 0},
        "recoveries": 0,
        "bytes-sent-twice": 4096,
        "pages-sent-twice": 1,
        "bytes-lost": 77,
        "checksums": {"changed": 5},
        "requests": {"postponed": 3},
    }
}
DONE = Outcome(
    {"source": 0, "dest": 0},
    events=EVENTS,
    report=REPORT,
    carriers={page(5): [Channel.PRECOPY, Channel.POSTCOPY]},
)
BROKEN = Outcome({"source": -9, "dest": 4}, {"dest": "it is gone"}, EVENTS[:-2])


@pytest.mark.parametrize(
    "check",
    [
        OfSides("status", None, "completed"),
        OfSides("exit-status", "dest", 0),
        OfSides("exit-status", None, 0),
        Count("preemptions", Bounds(2, 2)),
        Count("bytes-sent-twice", Bounds(1, float("inf"))),
        Count("pages-sent-twice", Bounds(1, 1)),
        Count("bytes-lost", Bounds(77, 77)),
        Count("changed", Bounds(5, 5)),
        Count("postponed", Bounds(0, 3)),
        Order("urgent-order", (page(9), page(5)), GEOMETRY),
        PlacedBefore(page(2, 1), page(5), GEOMETRY),
        PlacedBefore(page(5), page(7), GEOMETRY),
        WaitRatio(page(5), page(9), Bounds(3, 3), GEOMETRY),
        Carriers(page(5), (Channel.PRECOPY, Channel.POSTCOPY), GEOMETRY),
        Never("preempt"),
    ],
    ids=str,
)
def test_what_is_so_is_no_failure(check: Check) -> None:
    """Each kind of expectation is met by a run that is as it says."""
    assert check.failure(DONE) is None


@pytest.mark.parametrize(
    ("check", "failure"),
    [
        (OfSides("status", None, "failed"), ("status", "failed", "completed")),
        (OfSides("exit-status", "dest", 4), ("exit-status of dest", "4", "0")),
        (Count("boosted", Bounds(2, 2)), ("boosted", "2", "1")),
        (
            Count("postponed", Bounds(4, float("inf"))),
            ("postponed", "at least 4", "3"),
        ),
        (
            Order("urgent-order", (page(5), page(9)), GEOMETRY),
            ("urgent-order", "[5, 9]", "[9, 5]"),
        ),
        (
            PlacedBefore(page(5), page(0, 1), GEOMETRY),
            ("placed-before", "[5, rom:0] in this order", "[rom:0, 5]"),
        ),
        (
            WaitRatio(page(9), page(5), Bounds(1, 2), GEOMETRY),
            ("wait-ratio of 9 to 5", "at least 1 and at most 2", "0.333"),
        ),
        (
            WaitRatio(page(8), page(5), Bounds(1, 2), GEOMETRY),
            ("wait-ratio of 8 to 5", "at least 1 and at most 2", "nobody waited for 8"),
        ),
        (
            Carriers(page(6), (Channel.PRECOPY,), GEOMETRY),
            ("channels of page 6", "[precopy]", "[]"),
        ),
        (Never("boost"), ("never boost", "none", "1 of them")),
    ],
    ids=str,
)
def test_what_is_not_so_is_told(check: Check, failure: tuple[str, str, str]) -> None:
    """What was expected and what was seen are said in words."""
    assert check.failure(DONE) == failure


def sent(index: int, t_ns: int, **fields: object) -> dict[str, Any]:
    """Return the source's word that a page is whole with its connection."""
    return {
        "event": "page-sent", "side": "source", "block": 0, "page": index, "t-ns": t_ns, **fields
    }  # fmt: skip


def served(*events: dict[str, Any], **passings: tuple[Passing, list[Channel]]) -> Outcome:
    """Return a run in which pages 5, 9 and 11 were asked for, and how they passed."""
    asked = [event("page-request", index) for index in (9, 5, 11)]
    seen = {page(int(name[1:])): each for name, each in passings.items()}
    return Outcome(
        {}, events=[*asked, *events],
        passings={page: passing for page, (passing, _) in seen.items()},
        carriers={page: channels for page, (_, channels) in seen.items()},
    )  # fmt: skip


ON_PRECOPY, ON_POSTCOPY = [Channel.PRECOPY], [Channel.POSTCOPY]
IN_TURN = (sent(1, 10), sent(9, 20), sent(5, 30), sent(11, 40))
PASSED = {
    "p9": (Passing(1, 25, is_whole=True), ON_POSTCOPY),
    "p5": (Passing(3, 55, is_whole=True), ON_PRECOPY),
    "p11": (Passing(2, 45, is_whole=True), ON_POSTCOPY),
}


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        # One connection overtook the other: what was served before may pass behind.
        (served(*IN_TURN, **PASSED), None),
        # Of a page that went again the last time counts, but not as one of a run of many.
        (served(sent(11, 5), *IN_TURN, **PASSED), None),
        (served(*IN_TURN, sent(4, 50, pages=4), **PASSED), None),
        (served(sent(5, 10), sent(9, 20), sent(11, 40), **PASSED), "[5, 9, 11]"),
        (served(sent(9, 10), sent(5, 20), **PASSED), "[9, 5]"),
        (
            served(*IN_TURN, **{**PASSED, "p5": (Passing(3, 55, is_whole=False), ON_PRECOPY)}),
            "page 5 never passed whole",
        ),
        (
            served(*IN_TURN, **{**PASSED, "p5": (Passing(3, 55, is_whole=True), ON_POSTCOPY)}),
            "page 11 passed before page 5",
        ),
        (
            served(*IN_TURN, **{**PASSED, "p11": (Passing(2, 29, is_whole=True), ON_POSTCOPY)}),
            "page 11 passed before page 5 was handed over",
        ),
    ],
)
def test_the_order_of_service_is_the_sources_and_no_other_on_the_wire(
    outcome: Outcome, seen: str | None
) -> None:
    """The source says in which order pages were handed over; what passed must allow that."""
    check = ServedOrder((page(9), page(5), page(11)), GEOMETRY, in_turn=True)
    failure = check.failure(outcome)
    assert (failure.seen if failure is not None else None) == seen


def test_two_pages_that_are_served_at_once_may_be_told_late() -> None:
    """A source with two lanes may have handed a page over a moment before it says so."""
    outcome = served(*IN_TURN, **{**PASSED, "p11": (Passing(2, 29, is_whole=True), ON_POSTCOPY)})
    order = (page(9), page(5), page(11))
    assert ServedOrder(order, GEOMETRY, in_turn=False).failure(outcome) is None


def test_a_run_that_broke_still_tells() -> None:
    """Without a report events are counted, a killed side has no state, and reasons are told."""
    assert BROKEN.exit_status == 4
    assert BROKEN.state_of("source") == "killed"
    assert BROKEN.count("boosted") == 1
    failure = Count("bytes-sent-twice", Bounds(0, 0)).failure(BROKEN)
    assert failure == ("bytes-sent-twice", "0", "no report tells")
    failure = OfSides("exit-status", None, 0).failure(BROKEN)
    assert failure == ("exit-status", "0", "4 (dest: it is gone)")


@pytest.mark.parametrize(
    ("source", "dest", "status"),
    [(0, 0, 0), (1, 1, 1), (1, 4, 4), (3, 3, 3), (-9, 1, 1), (1, -9, 1), (0, -9, 1), (130, 1, 130)],
)
def test_two_exit_statuses_make_one(source: int, dest: int, status: int) -> None:
    """The status of the whole is that of the side that says most, and never 0 if one failed."""
    assert Outcome({"source": source, "dest": dest}).exit_status == status


def test_a_side_that_was_not_started_has_no_state() -> None:
    """If the destination never listened there is no source, and nothing was completed."""
    outcome = Outcome({"dest": 1})
    assert outcome.state_of("source") == "never started"
    assert outcome.exit_status == 1
