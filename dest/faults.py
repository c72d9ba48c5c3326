"""Fault table: who waits for which page, one request a page, and how long each waited.

A *wait* begins when a vCPU touches a missing page and ends when the vCPU runs again.  However many
vCPUs wait for a page, it is requested once; each has its own latency (QEMU's blocktime,
`migration/postcopy-ram.c`, counts them the same way).  A vCPU waits for one page at a time: when it
faults again, as it does after a pause, the wait before counts as never made.  But where the kernel
tells of faults and the vCPU itself of its wake-ups, a fault may be heard of before the wake-up that
came first; then a wait ends with the word that fits its time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from itertools import repeat

from dest.trips import Said, Trip, Urgent, Wait
from protocol.channels import Channel
from protocol.geometry import PageId, new_page_id

# Waits of which the source has yet to say how their pages were asked for: a peer that never does
# must not make them grow.
UNTOLD_COUNT_MAX = 4096


class Outcome(Enum):
    """Outcome of a fault."""

    # Ask the source for the page.
    REQUEST = "request"
    # It was asked for already.
    WAIT = "wait"
    # It is here: wake the vCPU.
    PLACED = "placed"


class FaultTable:
    """All waits of one migration; its user brings the times.

    Attributes:
        is_told: Whether the source says of each request how it was answered.
    """

    def __init__(self, *, overtaking: bool = False) -> None:
        """Start with nobody waiting.

        Args:
            overtaking: Whether a vCPU's fault may be heard of before its wake-up from the last one.
        """
        self.is_told = False
        self._overtaking = overtaking
        self._is_broken = False
        self._requests: dict[PageId, Trip] = {}
        # Pages that are here, and the source has yet to tell how they were asked for.
        self._untold: dict[PageId, Trip] = {}
        # By vCPU, in their order: waits that have ended, the first of which is for such a page.
        self._held: dict[int, deque[Wait]] = {}
        # By vCPU, in the order of the faults.
        self._waiting: dict[int, Wait] = {}
        # Placed, but the vCPU has not said that it runs again; in the order of the faults, of which
        # only the last may go on.
        self._waking: dict[int, list[Wait]] = {}

    @property
    def requested_pages(self) -> tuple[PageId, ...]:
        """The pages that are asked for and have not come, in the order of their first faults."""
        return tuple(self._requests)

    @property
    def is_broken(self) -> bool:
        """Whether no page can be asked for: since `broke`, until `resumed`."""
        return self._is_broken

    @property
    def is_waking(self) -> bool:
        """Whether a vCPU whose page is placed has yet to say that it runs again."""
        return bool(self._waking)

    @property
    def waiting_vcpus(self) -> dict[int, Wait]:
        """The waits that go on, by vCPU, in the order of the faults."""
        return dict(self._waiting)

    def fault(
        self, vcpu: int, page: PageId, *, fault_ns: int, now_ns: int, placed: bool
    ) -> Outcome:
        """Enter a fault.

        Args:
            vcpu: Who touched the page.
            page: Which.
            fault_ns: When it touched it.
            now_ns: The time.
            placed: Whether the page is whole already.
        """
        self._waiting.pop(vcpu, None)
        if not self._overtaking:
            self._waking.pop(vcpu, None)
        wait = Wait(vcpu, page, fault_ns, now_ns)
        if placed:
            wait.last_byte_ns = wait.placed_ns = now_ns
            self._waking.setdefault(vcpu, []).append(wait)
            return Outcome.PLACED
        self._waiting[vcpu] = wait
        if page in self._requests:
            return Outcome.WAIT
        self._requests[page] = trip = Trip()
        if self._is_broken:
            trip.end_round(now_ns)
        return Outcome.REQUEST

    def asked(self, page: PageId, now_ns: int) -> bool:
        """Note that the request for a page is about to go out; tell whether for the first time."""
        trip = self._requests.get(page)
        if trip is None or self._is_broken:
            return False
        is_first = not trip.was_asked
        trip.asked(now_ns)
        return is_first

    def broke(self, since_ns: int) -> None:
        """Note that the connections are gone: what is asked for does not come until `resumed`."""
        self._is_broken = True
        self.changed(tuple(self._requests), since_ns)

    def resumed(self) -> None:
        """Note that pages can be asked for again."""
        self._is_broken = False

    def changed(self, pages: Sequence[PageId], now_ns: int) -> None:
        """Note that what came of some pages is worthless: they are asked for again."""
        for page in pages:
            self._requests[page].end_round(now_ns)

    def asked_ns(self, page: PageId) -> int | None:
        """Return when a page was asked for, if that was so once, and nothing is said of it yet."""
        trip = self._trip_of(page)
        return trip.asked_ns if trip is not None and trip.said is None else None

    def said(self, page: PageId, said: Said, *, interrupted: bool) -> list[Wait]:
        """Enter what the source says of a request; return the waits of which all is known now.

        Args:
            page: What was asked for.
            said: What became of that.
            interrupted: It is a request of before a break.
        """
        trip = self._trip_of(page)
        if trip is None:
            # Nobody waits, or it was told before.
            return []
        if interrupted:
            trip.say_of_last_round(said)
            return []
        if trip.said is None:
            trip.said = said
        self._untold.pop(page, None)
        return self._let_go()

    def take_untold(self) -> list[Wait]:
        """Return the waits of which the source has not told, and wait for that no longer."""
        self._untold.clear()
        return self._let_go()

    def _trip_of(self, page: PageId) -> Trip | None:
        return self._requests.get(page) or self._untold.get(page)

    def _is_told_of(self, wait: Wait) -> bool:
        return wait.trip is None or self._untold.get(wait.page) is not wait.trip

    def _let_go(self) -> list[Wait]:
        """Return the held waits that need not be any more, each vCPU's in their order."""
        free = []
        untold = self._untold
        for vcpu, held in list(self._held.items()):
            # Most vCPUs' waits go on being held, and there may be hundreds.
            if (trip := held[0].trip) is not None and untold.get(held[0].page) is trip:
                continue
            while held and self._is_told_of(held[0]):
                free.append(held.popleft())
            if not held:
                del self._held[vcpu]
        return free

    def told(self, page: PageId, urgent: Urgent, now_ns: int) -> None:
        """Keep what the head of an urgent frame says, for where the source tells nothing else.

        Args:
            page: The frame's page.
            urgent: What the head says; the last frame's word counts.
            now_ns: When the frame began to come.
        """
        request = self._requests.get(page)
        if request is None:
            return
        if request.urgent_ns is None:
            request.urgent_ns = now_ns
        request.queue_us, request.send_us = urgent

    def placed(
        self,
        block: int,
        pages: range,
        *,
        last_byte_ns: int,
        now_ns: int,
        channel: Channel | None = None,
    ) -> list[int]:
        """Say that pages are placed; return the vCPUs to wake, in the order in which they came.

        Args:
            block: Block index.
            pages: Page indices in the block; a run of base pages may be long, those waited for few.
            last_byte_ns: When the last of their bytes had come.
            now_ns: The time: they are placed.
            channel: Over which channel that came.
        """
        here = self._requested_in(block, pages)
        if not here:
            return []
        waits = [wait for wait in self._waiting.values() if wait.page in here]
        for wait in waits:
            request = here[wait.page]
            wait.trip = request
            wait.last_byte_ns, wait.placed_ns = last_byte_ns, now_ns
            self._waking.setdefault(wait.vcpu, []).append(self._waiting.pop(wait.vcpu))
        for page, trip in here.items():
            trip.channel = channel
            del self._requests[page]
            is_due = self.is_told and trip.asked_ns is not None and trip.said is None
            if is_due and len(self._untold) < UNTOLD_COUNT_MAX:
                self._untold[page] = trip
        return [wait.vcpu for wait in waits]

    def _requested_in(self, block: int, pages: range) -> dict[PageId, Trip]:
        """Return what is asked for of some pages, whichever of the two are fewer looked at.

        Most placements are of a page or two that nobody waits for, and hundreds of vCPUs may wait.
        """
        requests = self._requests
        if len(pages) == 1:
            page = new_page_id((block, pages.start))
            request = requests.get(page)
            return {} if request is None else {page: request}
        if len(pages) < len(requests):
            named = map(new_page_id, zip(repeat(block), pages, strict=False))
            return {page: requests[page] for page in named if page in requests}
        first, stop = pages.start, pages.stop
        return {
            page: request
            for page, request in requests.items()
            if first <= page[1] < stop and page[0] == block
        }

    def woke(self, vcpu: int, wake_ns: int, fault_ns: int | None = None) -> Wait | None:
        """Say that a vCPU runs again; return its wait, if all is known of it now.

        One of which the source has yet to tell `said` returns, and those behind it of that vCPU.

        Args:
            vcpu: Who.
            wake_ns: Since when.
            fault_ns: When it touched the page, which a vCPU that the kernel stops can tell only
                now.  A wait that was known before that had ended when it was told of, and is none.
        """
        waits = self._waking.pop(vcpu, [])
        if fault_ns is not None:
            waits = [wait for wait in waits if fault_ns <= wait.detect_ns]
        if not waits:
            return None
        wait, *later = waits
        if later:
            self._waking[vcpu] = later
        wait.fault_ns = wait.fault_ns if fault_ns is None else fault_ns
        wait.wake_ns = wake_ns
        held = self._held.get(vcpu)
        if held is None and self._is_told_of(wait):
            return wait
        if held is None:
            held = self._held[vcpu] = deque()
        elif len(held) >= UNTOLD_COUNT_MAX:
            return wait
        held.append(wait)
        return None

    def overdue(self, before_ns: int) -> list[Wait]:
        """Return the waits whose pages were placed before a time, and whose vCPUs still sleep."""
        last = [waits[-1] for vcpu, waits in self._waking.items() if vcpu not in self._waiting]
        return [wait for wait in last if wait.placed_ns is not None and wait.placed_ns < before_ns]
