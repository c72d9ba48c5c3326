"""Target pages that are placed by themselves: from the fault to the wake, with no real guest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from protocol import events
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageRequest
from tests.dest_executors import HALF, PER_PAGE, POST, PRE, Rig, make_rig
from tests.guests import HUGE


@pytest.fixture
def critical() -> Iterator[Rig]:
    """An engine that places target pages."""
    with make_rig("critical-first") as made:
        yield made


async def test_a_vcpu_waits_for_its_target_page_only(critical: Rig) -> None:
    """A vCPU runs as soon as the target page that it touched is there, alone of its page."""
    rig = critical
    rig.start_postcopy()
    assert rig.fault(2, PER_PAGE + 17) == PageRequest(block=0, page=1, target_page=17)
    rig.bring_part(PRE, PER_PAGE + 18, 16)
    assert rig.guest.woken == []
    rig.bring_part(POST, PER_PAGE + 17, 1, urgent=True)
    assert rig.hear_wakes() == [2]
    present = np.flatnonzero(rig.guest.board.present).tolist()
    assert present == list(range(PER_PAGE + 17, PER_PAGE + 34))
    # What is told is about pages, and the page is not whole.
    assert rig.events.of(events.PagePlaced) == []
    assert rig.events.of(events.VcpuWait) == [{"vcpu": 2, "block": 0, "page": 1, "fault_ns": 5}]
    (wake,) = rig.events.of(events.VcpuWake)
    assert (wake["block"], wake["page"]) == (0, 1)
    assert rig.engine.waits.latencies.faults.count == 1


async def test_each_target_page_is_asked_for_by_itself(critical: Rig) -> None:
    """Of one page, each place that is touched has a request of its own, and one only."""
    rig = critical
    rig.start_postcopy()
    touched = [rig.fault(vcpu, flat) for vcpu, flat in enumerate((3, 500, 3))]
    assert touched == [
        PageRequest(block=0, page=0, target_page=3),
        PageRequest(block=0, page=0, target_page=500),
        None,
    ]
    rig.bring_part(POST, 500, 1, urgent=True)
    assert rig.guest.woken == [1]
    rig.bring_part(POST, 3, 1, urgent=True)
    assert rig.guest.woken == [1, 0, 2]
    # It is here, whatever the rest of its page is.
    rig.guest.fault(3, 400)
    rig.bring_part(PRE, 400, 1)
    rig.executor.fault(3, 400, 5)
    assert rig.engine.words.next(0) is None
    assert rig.guest.woken[-1] == 3


async def test_a_page_placed_in_parts_is_told_once(critical: Rig) -> None:
    """A page is told as placed with the last of its target pages, whatever channel brings it."""
    rig = critical
    heard: list[tuple[str, int]] = []
    rig.engine.watch(lambda what, which: heard.append((what, which.index)))
    rig.start_postcopy()
    rig.bring_part(PRE, 100, 412)
    rig.bring_part(POST, 50, 1, urgent=True)
    rig.bring_part(PRE, 51, 49)
    assert rig.engine.received_share(PageId(0, 0)) == 462 / 512
    assert rig.events.of(events.PagePlaced) == []
    rig.bring_part(POST, 0, 50, urgent=True)
    assert rig.events.of(events.PagePlaced) == [
        {"block": 0, "page": 0, "pages": 1, "channel": "postcopy"}
    ]
    assert heard.count(("placed", 0)) == 1
    assert heard[-1] == ("placed", 0)


async def test_who_waits_does_not_wait_for_the_end_of_a_frame(critical: Rig) -> None:
    """A unit is placed when its own bytes are here, whatever of its frame is still to come."""
    rig = critical
    rig.start_postcopy()
    rig.fault(0, 5)
    rig.fault(1, 7)
    rig.begin(PRE, 0, 0, HALF)
    rig.executor.progress(PRE, 5 * TARGET_PAGE_BYTES)
    assert rig.guest.woken == []
    rig.executor.progress(PRE, TARGET_PAGE_BYTES)
    assert rig.guest.woken == [0]
    # Who comes to what is here is not told to wait, and nothing is asked for.
    rig.guest.fault(2, 3)
    rig.executor.fault(2, 3, 5)
    assert rig.engine.words.next(0) is None
    assert rig.guest.woken == [0, 2]
    assert np.flatnonzero(rig.guest.board.present[:PER_PAGE]).tolist() == [3, 5]
    rig.executor.progress(PRE, HALF - 6 * TARGET_PAGE_BYTES)
    rig.executor.end(PRE)
    assert rig.guest.woken == [0, 2, 1]
    assert rig.guest.board.present[: PER_PAGE // 2].all()


async def test_base_pages_placed_early_are_told_once() -> None:
    """Of a run of base pages the one that a vCPU waits for is told when it is placed, not again."""
    with make_rig() as rig:
        rig.start_postcopy()
        base = rig.memory.geometry.target_page_bases[1]
        rig.fault(0, base + 5)
        rig.begin(PRE, 1, 4 * TARGET_PAGE_BYTES, 4 * TARGET_PAGE_BYTES)
        for _ in range(4):
            rig.executor.progress(PRE, TARGET_PAGE_BYTES)
        rig.executor.end(PRE)
        told = [(each["page"], each["pages"]) for each in rig.events.of(events.PagePlaced)]
        assert told == [(5, 1), (4, 1), (6, 2)]
        assert rig.guest.woken == [0]


async def test_what_may_have_changed_on_its_way_is_not_placed_early() -> None:
    """Where checksums go with frames, who waits waits until all of the frame is right."""
    with make_rig("critical-first", checked=True) as rig:
        rig.start_postcopy()
        rig.fault(0, 5)
        rig.begin(PRE, 0, 0, HALF)
        rig.executor.progress(PRE, HALF - 1)
        assert rig.fault(1, 3) == PageRequest(block=0, page=0, target_page=3)
        assert rig.guest.woken == []


async def test_a_page_is_not_told_while_a_frame_of_it_is_under_way(critical: Rig) -> None:
    """A frame whose bytes are all here but that has not ended keeps its page from being told."""
    rig = critical
    rig.start_postcopy()
    rig.begin(PRE, 0, HALF, HALF)
    rig.executor.progress(PRE, HALF)
    rig.bring_part(POST, 0, PER_PAGE // 2)
    assert rig.engine.received_share(PageId(0, 0)) == 1
    assert rig.events.of(events.PagePlaced) == []
    rig.executor.end(PRE)
    assert len(rig.events.of(events.PagePlaced)) == 1


async def test_base_pages_are_placed_as_ever(critical: Rig) -> None:
    """A run of base pages is told as placed page by page, also where target pages are units."""
    rig = critical
    rig.start_postcopy()
    zeros = Span(1, 4 * TARGET_PAGE_BYTES, 6 * TARGET_PAGE_BYTES)
    rig.executor.take_zeros(PRE, zeros)
    assert rig.events.of(events.PagePlaced) == [
        {"block": 1, "page": 4, "pages": 6, "channel": "precopy"}
    ]


async def test_only_stale_target_pages_are_missing(critical: Rig) -> None:
    """At the switch-over vCPUs fault on the stale target pages, not on what else their page has."""
    rig = critical
    rig.engine.assembly.discard(0, 600, 8, b"\x81")
    rig.executor.start_postcopy()
    assert np.flatnonzero(rig.guest.board.present == 0).tolist() == [600, 607]
    assert rig.engine.received_share(PageId(0, 1)) == 510 / 512


async def test_the_word_of_an_urgent_frame_is_for_its_target_page(critical: Rig) -> None:
    """What the source says of a request is kept for the vCPU that waits for that target page."""
    rig = critical
    rig.start_postcopy()
    rig.fault(0, 9)
    rig.fault(1, 10)
    rig.bring_part(POST, 9, 1, urgent=True)
    rig.bring_part(PRE, 10, 5)
    waits = [rig.engine.faults.woke(vcpu, 10**18) for vcpu in (0, 1)]
    trips = [wait.trip for wait in waits if wait and wait.trip]
    assert [(trip.queue_us, trip.send_us) for trip in trips] == [(300, 200), (0, 0)]


async def test_a_page_that_comes_again_is_placed_and_told_once() -> None:
    """A resent page is placed with its second copy; what its first copy still has is nothing."""
    with make_rig("resend") as rig:
        rig.start_postcopy()
        rig.fault(0, 3)
        rig.begin(PRE, 0, 0, HUGE)
        rig.executor.progress(PRE, HALF)
        rig.bring(POST, PageId(0, 0), urgent=True)
        assert rig.guest.woken == [0]
        rig.executor.progress(PRE, HALF)
        rig.executor.end(PRE)
        assert rig.guest.woken == [0]
        assert len(rig.events.of(events.PagePlaced)) == 1
