"""Engine, memory and placement with a guest that is none: from the fault to the wake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dest.engine import WAKE_NS_MAX, Engine
from dest.executor import Executor
from dest.placement import SimulatedPlacement
from dest.trips import Urgent
from dest.words import Word
from guest.interface import Faulted, Woke
from guest.memory import GuestMemory
from guest.programs import ProgramSpec
from protocol import events
from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, root_cause
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.messages import PageRequest
from protocol.policy import preset
from protocol.report import STAGES
from tests.bounds import bounded
from tests.guests import HUGE, FakeGuest, fake_guest, small_geometry
from tests.stories import Recorder

PRE, POST = Channel.PRECOPY, Channel.POSTCOPY
PER_PAGE = HUGE // TARGET_PAGE_BYTES
HALF = HUGE // 2


class Rig:
    """An engine, and what it is connected to."""

    def __init__(
        self, memory: GuestMemory, guest: FakeGuest, policy: str, *, checked: bool = False
    ) -> None:
        """Start in precopy."""
        self.guest = guest
        self.memory = memory
        self.events = Recorder()
        self.now_ns = 10
        placement = SimulatedPlacement(memory.geometry, guest.handle)
        self.engine = Engine(
            memory.geometry, preset(policy), self.events, vcpu_count=4, checked=checked
        )
        self.executor = Executor(self.engine, memory, placement, lambda: self.now_ns)

    def start_postcopy(self, *pages: PageId) -> None:
        """Discard pages, all of the guest if none is named, and switch over."""
        for block, shape in enumerate(self.memory.geometry.blocks):
            stale = np.full(shape.target_page_count, not pages)
            for page in pages:
                if page.block == block:
                    stale[self.memory.geometry.page_span(page).target_pages] = True
            bits = np.packbits(stale, bitorder="little").tobytes()
            self.engine.assembly.discard(block, 0, shape.target_page_count, bits)
        self.executor.start_postcopy()

    def bring(self, channel: Channel, page: PageId, *, urgent: bool = False) -> None:
        """Receive a whole page in one frame."""
        span = self.memory.geometry.page_span(page)
        self.begin(channel, page.block, span.offset, span.length, urgent=urgent)
        self.executor.progress(channel, span.length)
        self.executor.end(channel)

    def begin(
        self, channel: Channel, block: int, offset: int, length: int, *, urgent: bool = False
    ) -> memoryview:
        """Begin to receive a frame."""
        told = Urgent(queue_us=300, send_us=200) if urgent else None
        return self.executor.begin(channel, Span(block, offset, length), told)

    def bring_part(self, channel: Channel, first: int, count: int, *, urgent: bool = False) -> None:
        """Receive target pages of the first block in one frame."""
        length = count * TARGET_PAGE_BYTES
        self.begin(channel, 0, first * TARGET_PAGE_BYTES, length, urgent=urgent)
        self.executor.progress(channel, length)
        self.executor.end(channel)

    def fault(self, vcpu: int, flat: int, fault_ns: int = 5) -> Word | None:
        """Have a vCPU fault, and the engine hear of it; return the request that is sent."""
        self.guest.fault(vcpu, flat, fault_ns)
        event = self.guest.take()
        assert event == Faulted(vcpu, flat, fault_ns)
        self.executor.fault(vcpu, flat, fault_ns)
        request = self.engine.words.next(self.now_ns)
        assert not self.engine.words
        return request

    def hear_wakes(self) -> list[int]:
        """Have the engine hear of all vCPUs that woke; return them."""
        woke = []
        while (event := self.guest.take()) is not None:
            if isinstance(event, Woke):
                self.engine.woke(event.vcpu, 10**18)
                woke.append(event.vcpu)
        return woke


@contextmanager
def make_rig(policy: str = "ordered", *, checked: bool = False) -> Iterator[Rig]:
    """Make an engine over four huge pages, 32 base pages and four vCPUs."""
    geometry = small_geometry()
    with (
        GuestMemory.create(geometry, "base") as memory,
        fake_guest(geometry, ProgramSpec(vcpu_count=4)) as guest,
    ):
        yield Rig(memory, guest, policy, checked=checked)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine that places whole pages."""
    with make_rig() as made:
        yield made


@pytest.fixture
def critical() -> Iterator[Rig]:
    """An engine that places target pages."""
    with make_rig("critical-first") as made:
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


# Where target pages are placed by themselves.


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


# What there is to say goes over a connection.


class Line:
    """A connection that takes so much at once, and the rest when it is told to."""

    def __init__(self) -> None:
        """Take nothing at once."""
        self.room = 0
        self.error: ConnectionLost | None = None
        self.at_once: list[Word] = []
        self.in_turn: list[Word] = []
        self.may_go = trio.Event()

    @property
    def can_send_now(self) -> bool:
        """Whether nobody waits in `send`."""
        return self.may_go.is_set()

    def send_now(self, *words: Word) -> bool:
        """Take words if there is room."""
        if self.error is not None:
            raise self.error
        if not self.room:
            return False
        self.room -= 1
        self.at_once += words
        return True

    async def send(self, word: Word) -> None:
        """Take a word once it may go."""
        await self.may_go.wait()
        self.in_turn.append(word)


def request(page: int) -> PageRequest:
    """Return the request for the first target page of a page of the first block."""
    return PageRequest(block=0, page=page, target_page=0)


async def test_what_cannot_go_at_once_goes_in_its_turn(rig: Rig) -> None:
    """Requests keep their order whatever the connection takes, and each is told once."""
    rig.start_postcopy()
    line = Line()
    heard: list[tuple[str, int]] = []
    rig.engine.watch(lambda what, which: heard.append((what, which.index)))
    rig.executor.fault(0, 0, 5)
    # There is no connection to ask over yet.
    rig.executor.say()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, line)
            await wait_all_tasks_blocked()
            rig.executor.fault(1, PER_PAGE, 5)
            rig.executor.say()
            assert line.in_turn == line.at_once == []
            line.may_go.set()
            await wait_all_tasks_blocked()
            assert line.in_turn == [request(0), request(1)]
            line.room = 1
            rig.executor.fault(2, 2 * PER_PAGE, 5)
            rig.executor.say()
            assert line.at_once == [request(2)]
            rig.executor.fault(3, 3 * PER_PAGE, 5)
            rig.executor.say()
            await wait_all_tasks_blocked()
            assert line.in_turn[2:] == [request(3)]
            nursery.cancel_scope.cancel()
    assert heard == [("requested", index) for index in range(4)]
    assert [each["page"] for each in rig.events.of(events.PageRequest)] == [0, 1, 2, 3]


async def test_what_is_to_be_said_together_goes_as_one(rig: Rig) -> None:
    """Requests of several vCPUs are one piece for a connection, and all or none of them go."""
    rig.start_postcopy()
    line = Line()
    line.may_go.set()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, line)
            await wait_all_tasks_blocked()
            for vcpu in (2, 0, 1):
                rig.executor.fault(vcpu, vcpu * PER_PAGE, 5)
            rig.executor.say()
            # None of them went, and all go in their turn.
            await wait_all_tasks_blocked()
            assert (line.at_once, line.in_turn) == ([], [request(2), request(0), request(1)])
            line.room = 1
            rig.executor.fault(3, 3 * PER_PAGE, 5)
            rig.executor.fault(0, 4 * PER_PAGE, 5)
            rig.executor.say()
            assert len(line.at_once) == 2
            nursery.cancel_scope.cancel()
    assert len(rig.events.of(events.PageRequest)) == 5


def test_small_frames_that_came_together_are_placed_together(critical: Rig) -> None:
    """Nothing is placed before `settle`; then all is, in the order in which it came."""
    critical.start_postcopy()
    for vcpu, target_page in enumerate((9, 700, 3)):
        critical.fault(vcpu, target_page)
    for target_page in (9, 3, 700):
        critical.begin(POST, 0, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
        critical.executor.progress(POST, TARGET_PAGE_BYTES)
        critical.executor.end_small(POST)
    assert critical.hear_wakes() == critical.guest.woken == []
    critical.executor.settle()
    assert critical.guest.woken == [0, 2, 1]
    critical.executor.settle()
    assert critical.guest.woken == [0, 2, 1]


@pytest.mark.parametrize("then", ["end", "interrupt"])
def test_what_small_frames_brought_is_placed_whatever_comes_next(critical: Rig, then: str) -> None:
    """A larger frame, or a break, does not leave behind what waits to be placed."""
    critical.start_postcopy()
    critical.fault(1, 9)
    critical.begin(POST, 0, 9 * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES)
    critical.executor.progress(POST, TARGET_PAGE_BYTES)
    critical.executor.end_small(POST)
    if then == "end":
        critical.bring_part(PRE, 64, 16)
    else:
        critical.executor.interrupt()
    assert critical.guest.woken == [1]


async def test_a_connection_that_breaks_when_a_page_is_asked_for_ends_its_task(rig: Rig) -> None:
    """Whoever asks at once is not bothered with it; the next connection has the request."""
    rig.start_postcopy()
    line = Line()
    line.may_go.set()
    line.error = ConnectionLost("it broke")

    async def ask() -> None:
        with bounded():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.executor.converse, line)
                await wait_all_tasks_blocked()
                rig.executor.fault(0, 0, 5)
                rig.executor.say()

    with pytest.raises(ExceptionGroup) as caught:
        await ask()
    assert root_cause(caught.value) is line.error
    rig.executor.interrupt()
    rig.engine.resumed()
    again = Line()
    again.may_go.set()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.executor.converse, again)
            await wait_all_tasks_blocked()
            assert again.in_turn == [request(0)]
            nursery.cancel_scope.cancel()
