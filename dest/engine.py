"""What the destination does with what comes: assembly, fault table and placement put together.

All calls are synchronous and quick; the receivers and the guest's task make them, and send what is
to be sent themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dest.assembly import Assembly
from dest.faults import FaultTable, Outcome
from dest.latency import Latencies
from dest.placement import Placement
from guest.handle import GuestHandle
from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import Geometry, PageId, Span
from protocol.messages import PageData, PageRequest, ZeroData
from protocol.policy import Policy

Notice = Callable[[str, PageId], None]


class Engine:
    """The destination's state between two messages.

    A *unit* is what is requested, waited for and placed at once: a page, or where the policy is
    critical a target page of it.  Units are counted by a geometry of their own; what is told
    outside is always about pages.
    """

    def __init__(
        self,
        memory: GuestMemory,
        guest: GuestHandle,
        placement: Placement,
        policy: Policy,
        emit: Emit,
    ) -> None:
        """Start in precopy, nothing received."""
        self._geometry: Geometry = memory.geometry
        self.assembly = Assembly(memory.geometry, policy)
        self._units = self.assembly.units
        self.faults = FaultTable()
        self.latencies = Latencies(guest.spec.vcpu_count)
        self._memory = memory
        self._guest = guest
        self._placement = placement
        self._emit = emit
        self._watchers: list[Notice] = []

    def watch(self, watcher: Notice) -> None:
        """Have a function called with ("received" | "requested" | "placed", page) from now on."""
        self._watchers.append(watcher)

    def begin(self, channel: Channel, message: PageData | ZeroData) -> memoryview:
        """Admit a frame of page bytes; return where they belong.

        Afterwards call `progress` as they come, then `end`.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        length = message.payload_bytes if isinstance(message, PageData) else message.length
        span = Span(message.block, message.offset, length)
        self.assembly.begin(channel, span)
        if message.urgent:
            self.faults.told(
                self._units.page_of(span.block, span.target_pages.start),
                now_ns=time.monotonic_ns(),
                queue_us=message.queue_us,
                send_us=message.send_us,
            )
        return self._memory.views[span.block][span.offset : span.end]

    def progress(self, channel: Channel, page: PageId, count: int) -> None:
        """Say that so many more bytes of the channel's frame are in memory."""
        self.assembly.progress(channel, count)
        self._notify("received", page)

    def end(self, channel: Channel) -> None:
        """Say that the channel's frame is whole: place what it completed, wake who waits for it."""
        last_byte_ns = time.monotonic_ns()
        span = self.assembly.end(channel)
        if span is not None:
            self._place(span, last_byte_ns, channel)

    def interrupt(self) -> None:
        """Forget the frames under way; what they brought of whole units is placed."""
        for span in self.assembly.interrupt():
            self._place(span, time.monotonic_ns(), None)

    def open_requests(self) -> list[PageRequest]:
        """Return the requests that are not answered, to be made again, in their order."""
        requests = []
        for unit in self.faults.requested_pages:
            target_page = self._units.page_span(unit).target_pages.start
            requests.append(self._request(unit.block, target_page))
        return requests

    def _place(self, span: Span, last_byte_ns: int, channel: Channel | None) -> None:
        self._placement.place(span)
        units = self._units.pages_of(span)
        now_ns = time.monotonic_ns()
        for vcpu in self.faults.placed(span.block, units, last_byte_ns=last_byte_ns, now_ns=now_ns):
            self._guest.wake(vcpu)
        # A unit may be a part of a page, and then its page is told with the last of them.
        pages = self._geometry.pages_of(span)
        if self.assembly.is_whole(self._geometry.span_of(span.block, pages)):
            self._tell_placed(span.block, pages, channel)

    def received_share(self, page: PageId) -> float:
        """Return which share of a page's bytes is here."""
        return self.assembly.received_bytes(page) / self._geometry.page_span(page).length

    def _tell_placed(self, block: int, pages: range, channel: Channel | None) -> None:
        self._emit(
            events.PAGE_PLACED, block=block, page=pages[0], pages=len(pages),
            channel=channel.value if channel else None,
        )  # fmt: skip
        for index in pages if self._watchers else ():
            # Of a run of small pages only the first was told of while they came.
            if index != pages[0]:
                self._notify("received", PageId(block, index))
            self._notify("placed", PageId(block, index))

    def start_postcopy(self) -> None:
        """Make vCPUs fault on all that was discarded; the guest stands still."""
        self.assembly.start_postcopy()
        for block in range(len(self._geometry.blocks)):
            for span in self.assembly.incomplete_pages(block):
                self._placement.discard(span)

    def fault(self, vcpu: int, flat: int, fault_ns: int) -> PageRequest | None:
        """Take a vCPU's fault; return the request to send for it, if one is due.

        Raises:
            LocalProtocolError: The guest has no such target page.
        """
        block, target_page = self._geometry.locate(flat)
        page = self._geometry.page_of(block, target_page)
        unit = self._units.page_of(block, target_page)
        outcome = self.faults.fault(
            vcpu, unit,
            fault_ns=fault_ns, now_ns=time.monotonic_ns(), placed=self.assembly.is_placed(unit),
        )  # fmt: skip
        self._emit(events.VCPU_WAIT, vcpu=vcpu, block=block, page=page.index)
        if outcome is Outcome.PLACED:
            self._guest.wake(vcpu)
        if outcome is not Outcome.REQUEST:
            return None
        self._emit(events.PAGE_REQUEST, block=block, page=page.index)
        return self._request(block, target_page)

    def _request(self, block: int, target_page: int) -> PageRequest:
        page = self._geometry.page_of(block, target_page)
        per_page = self._geometry.blocks[block].target_pages_per_page
        return PageRequest(block=block, page=page.index, target_page=target_page % per_page)

    def requested(self, request: PageRequest) -> None:
        """Say that a request is with the socket."""
        self._notify("requested", PageId(request.block, request.page))

    def woke(self, vcpu: int, wake_ns: int) -> None:
        """Take the word of a vCPU that it runs again."""
        wait = self.faults.woke(vcpu, wake_ns)
        if wait is not None:
            self.latencies.record(wait)
            first = self._units.page_span(wait.page).target_pages.start
            self._emit(
                events.VCPU_WAKE, vcpu=vcpu, block=wait.page.block,
                page=self._geometry.page_of(wait.page.block, first).index,
                latency_us=wait.latency_ns / 1000,
            )  # fmt: skip

    def _notify(self, what: str, page: PageId) -> None:
        for watcher in self._watchers:
            watcher(what, page)
