"""Engine, memory and placement with a guest that is none: from the fault to the wake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dest.engine import WAKE_NS_MAX, Engine
from dest.executor import Executor
from dest.placement import SimulatedPlacement
from protocol import events
from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageRequest
from protocol.policy import preset
from protocol.report import STAGES
from tests.dest_executors import HALF, PER_PAGE, POST, PRE, Rig, make_rig
from tests.guests import HUGE, small_geometry


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine that places whole pages."""
    with make_rig() as made:
        yield made


async def test_a_fault_becomes_a_request_a_page_and_a_wake(rig: Rig) -> None:
    """A vCPU that touches a missing page sleeps until that page is placed, and only then wakes."""
    rig.start_postcopy()
    assert rig.fault(2, PER_PAGE + 17) == PageRequest(block=0, page=1, target_page=17)
    rig.bring(PRE, PageId(0, 0))
    assert rig.guest.woken == []
    rig.bring(POST, PageId(0, 1), urgent=True)
    assert rig.guest.woken == [2]
    assert rig.hear_wakes() == [2]
    assert [type(event) for event in rig.events.events] == [
        events.VcpuWait,
        events.PageRequest,
        events.PagePlaced,
        events.PagePlaced,
        events.VcpuWake,
    ]
    assert rig.events.of(events.PagePlaced)[1] == {
        "block": 0, "page": 1, "pages": 1, "channel": "postcopy",
    }  # fmt: skip
    wake = rig.events.of(events.VcpuWake)[0]
    assert wake["page"] == 1
    # The wait stands there with its stages, which add up to it.
    assert sum(wake[f"{name}_us"] for name in STAGES) == pytest.approx(wake["latency_us"])
    assert rig.engine.waits.latencies.faults.count == 1


async def test_a_page_is_present_before_its_waiter_wakes(rig: Rig) -> None:
    """When the wake goes out the vCPU finds the page: the fake one looks and goes on."""
    rig.start_postcopy()
    rig.fault(0, 3)
    assert not rig.guest.board.present[3]
    rig.bring(POST, PageId(0, 0), urgent=True)
    assert rig.guest.board.present[:PER_PAGE].all()
    assert not rig.guest.board.present[PER_PAGE:].any()
    assert rig.hear_wakes() == [0]


async def test_a_page_is_asked_for_once(rig: Rig) -> None:
    """However many vCPUs wait for a page there is one request, and all of them wake in order."""
    rig.start_postcopy()
    assert rig.fault(3, 0) is not None
    assert rig.fault(1, 511) is None
    assert rig.fault(0, 7) is None
    assert rig.fault(2, PER_PAGE) == PageRequest(block=0, page=1, target_page=0)
    rig.bring(POST, PageId(0, 0))
    assert rig.guest.woken == [3, 1, 0]
    assert len(rig.events.of(events.PageRequest)) == 2


async def test_a_page_that_came_meanwhile_wakes_at_once(rig: Rig) -> None:
    """A fault that is heard of when its page is placed already asks for nothing."""
    rig.start_postcopy()
    rig.guest.fault(1, 0)
    rig.bring(PRE, PageId(0, 0))
    assert rig.guest.woken == []
    rig.executor.fault(1, 0, 5)
    assert rig.engine.words.next(0) is None
    assert rig.guest.woken == [1]


async def test_half_a_page_wakes_nobody(rig: Rig) -> None:
    """A huge page is placed when its last chunk is whole, and its bytes are where they belong."""
    rig.start_postcopy()
    rig.fault(0, 0)
    for offset, value in ((HALF, b"2"), (0, b"1")):
        assert rig.guest.woken == []
        view = rig.begin(PRE, 0, offset, HALF)
        assert len(view) == HALF
        view[:] = value * HALF
        rig.executor.progress(PRE, HALF)
        assert not rig.guest.board.present.any()
        rig.executor.end(PRE)
    assert rig.guest.woken == [0]
    assert bytes(rig.memory.views[0][:HUGE]) == b"1" * HALF + b"2" * HALF


async def test_a_run_of_base_pages_wakes_all_of_theirs(rig: Rig) -> None:
    """One frame may place many base pages, and wakes everybody who waits for any of them."""
    rig.start_postcopy()
    base = rig.memory.geometry.target_page_bases[1]
    for vcpu, index in enumerate((4, 9, 20)):
        request = rig.fault(vcpu, base + index)
        assert request == PageRequest(block=1, page=index, target_page=0)
    zeros = Span(1, 4 * TARGET_PAGE_BYTES, 6 * TARGET_PAGE_BYTES)
    rig.executor.take_zeros(PRE, zeros)
    assert rig.guest.woken == [0, 1]
    assert rig.events.of(events.PagePlaced) == [
        {"block": 1, "page": 4, "pages": 6, "channel": "precopy"}
    ]


async def test_precopy_places_nothing(rig: Rig) -> None:
    """Before the switch-over pages come and come again, and no event or wake is due."""
    for _ in range(2):
        rig.bring(PRE, PageId(0, 0))
    assert rig.events.events == []
    assert rig.guest.board.present.all()


async def test_only_what_was_discarded_is_missing(rig: Rig) -> None:
    """At the switch-over vCPUs fault on the stale pages alone, whole pages each."""
    rig.start_postcopy(PageId(0, 2), PageId(1, 5))
    base = rig.memory.geometry.target_page_bases[1]
    absent = np.flatnonzero(rig.guest.board.present == 0).tolist()
    assert absent == [*range(2 * PER_PAGE, 3 * PER_PAGE), base + 5]


async def test_what_the_source_says_of_a_request_is_in_the_stages(rig: Rig) -> None:
    """The times in the head of an urgent frame become the stages of the fault."""
    rig.start_postcopy()
    rig.fault(0, 0)
    rig.bring(POST, PageId(0, 0), urgent=True)
    wait = rig.engine.faults.woke(0, 10**18)
    assert wait is not None
    assert wait.trip is not None
    assert (wait.trip.queue_us, wait.trip.send_us) == (300, 200)
    assert wait.trip.urgent_ns is not None


@pytest.mark.parametrize(
    "change",
    [
        {"block": 2},
        {"offset": 4 * HUGE},
        {"offset": 100},
        {"length": 100},
        {"length": 0},
        {"length": 5 * HUGE},
    ],
)
async def test_bytes_outside_the_guest_get_no_place(rig: Rig, change: dict[str, Any]) -> None:
    """A frame that reaches out of a block is refused before a byte of it is read."""
    span = Span(**({"block": 0, "offset": 0, "length": HUGE} | change))
    with pytest.raises(RemoteProtocolError):
        rig.executor.begin(PRE, span)


async def test_a_page_may_not_come_twice(rig: Rig) -> None:
    """In postcopy a second copy of a page is refused: a vCPU may have written to the first."""
    rig.start_postcopy()
    rig.bring(PRE, PageId(0, 0))
    for channel in Channel:
        with pytest.raises(RemoteProtocolError):
            rig.begin(channel, 0, 0, HUGE)


async def test_a_fault_outside_the_guest_is_a_bug(rig: Rig) -> None:
    """A vCPU of this machine cannot touch what the guest does not have."""
    rig.start_postcopy()
    with pytest.raises(LocalProtocolError):
        rig.executor.fault(0, rig.memory.geometry.target_page_count, 5)


async def test_watchers_hear_what_happens_in_order(rig: Rig) -> None:
    """Scripts follow the pages: each piece received, each request sent, each page placed."""
    heard: list[tuple[str, PageId, int]] = []
    page = PageId(0, 1)
    rig.engine.watch(
        lambda what, which: heard.append((what, which, rig.engine.assembly.received_bytes(page)))
    )
    rig.start_postcopy()
    request = rig.fault(0, PER_PAGE)
    assert request is not None
    rig.engine.said(request)
    rig.begin(POST, 0, HUGE, HUGE)
    rig.executor.progress(POST, HALF)
    rig.executor.progress(POST, HALF)
    rig.executor.end(POST)
    assert heard == [
        ("requested", page, 0),
        ("received", page, HALF),
        ("received", page, HUGE),
        ("placed", page, HUGE),
    ]


async def test_a_wake_that_nobody_waited_for_counts_nothing(rig: Rig) -> None:
    """A vCPU that says it runs again without having faulted is no latency."""
    rig.start_postcopy()
    rig.engine.woke(1, 5)
    assert rig.events.of(events.VcpuWake) == []
    assert rig.engine.waits.latencies.faults.count == 0


def test_who_was_stopped_before_a_page_is_placed_is_known_by_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that only the kernel knows of is heard before its page's place wakes the vCPU."""
    noted: list[int] = []
    told: list[tuple[int, int]] = []
    done: list[tuple[str, int]] = []
    placement = SimulatedPlacement(small_geometry(), rig.guest.handle)
    place, release = placement.place, placement.release

    def take_faults() -> list[tuple[int, int]]:
        faults = list(told)
        told.clear()
        return faults

    def note_place(span: Span) -> None:
        place(span)
        done.append(("place", span.offset))

    def note_release(vcpu: int, span: Span) -> None:
        release(vcpu, span)
        done.append(("release", span.offset))

    monkeypatch.setattr(placement, "is_told_by_kernel", True)
    monkeypatch.setattr(placement, "take_faults", take_faults)
    monkeypatch.setattr(placement, "place", note_place)
    monkeypatch.setattr(placement, "release", note_release)
    rig.engine = Engine(
        rig.memory.geometry, preset("ordered"), rig.events, vcpu_count=4, overtaking=True
    )
    rig.executor = Executor(rig.engine, rig.memory, placement, lambda: rig.now_ns)
    rig.executor.on_fault = noted.append
    rig.start_postcopy()
    told += [(2, 17), (3, PER_PAGE + 1)]
    rig.bring(PRE, PageId(0, 0))
    assert noted == [2, 3]
    # The first page was here by then: nobody needs to ask for it.
    assert rig.engine.words.next(0) == PageRequest(block=0, page=1, target_page=1)
    assert rig.engine.words.next(0) is None
    assert rig.guest.woken == [2]
    rig.engine.woke(2, 10**18, 5)
    assert rig.engine.waits.latencies.faults.count == 1
    # What is here already is released from where it was touched, and asked for by nobody.
    assert done == [("place", 0)]
    done.clear()
    told += [(1, 30)]
    rig.executor.hear_faults()
    assert noted[2:] == [1]
    assert rig.engine.words.next(0) is None
    assert done == [("release", 30 * TARGET_PAGE_BYTES)]
    # Who does not say that it runs is released again, when that is overdue.
    assert rig.executor.release_overdue() == 0
    rig.now_ns += WAKE_NS_MAX + 1
    assert rig.executor.release_overdue() == 1
    assert done[1:] == [("release", 0)]
