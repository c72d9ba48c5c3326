"""What the destination does with what comes: assembly, fault table and placement put together.

All calls are synchronous and quick; the receivers and the guest's task make them, and send what is
to be sent themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from dest.assembly import Assembly
from dest.faults import FaultTable, Outcome
from dest.nonzero import NonZero
from dest.placement import Placement
from dest.waits import Waits
from guest.handle import GuestHandle
from guest.memory import GuestMemory
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.fields import PackedRuns
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.messages import (
    Message,
    PageData,
    PageRequest,
    PageRest,
    Resend,
    RunData,
    ZeroData,
)
from protocol.policy import Policy
from protocol.runs import Flags, Runs, Stretch, overlap, pack_runs

# A vCPU runs within microseconds of its page being placed; on a machine that is overloaded one may
# be woken once more for nothing.
_WAKE_NS_MAX = 100_000_000

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
        on_fault: Callable[[int, PageRequest | None], None] = lambda _vcpu, _request: None,
        *,
        checked: bool = False,
    ) -> None:
        """Start in precopy, nothing received.

        Args:
            memory: Where bytes go.
            guest: Whose vCPUs wait for them.
            placement: What makes them touchable.
            policy: How they come.
            emit: Takes events.
            on_fault: Takes each fault of which `take_faults` hears: the vCPU, and the request to
                send for it, if one is due.
            checked: A frame's bytes are held against its checksum when all have come.
        """
        self._geometry: Geometry = memory.geometry
        self.assembly = Assembly(memory.geometry, policy)
        self._units = self.assembly.units
        self.faults = FaultTable(overtaking=placement.is_told_by_kernel)
        self._nonzero = NonZero(memory.geometry)
        self.waits = Waits(memory.geometry, self._units, self.faults, emit, guest.spec.vcpu_count)
        self._memory = memory
        self._on_fault = on_fault
        self._placement = placement
        self._emit = emit
        self._watchers: list[Notice] = []
        self._places_early = not checked

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to know how much of a page has come, and not only when all has."""
        return bool(self._watchers)

    def watch(self, watcher: Notice) -> None:
        """Have a function called with ("received" | "requested" | "placed", page) from now on."""
        self._watchers.append(watcher)

    def begin(self, channel: Channel, message: PageData) -> memoryview:
        """Admit a frame of page bytes; return where they belong.

        Afterwards call `progress` as they come, then `end`.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        span = Span(message.block, message.offset, message.payload_bytes)
        self.assembly.begin(channel, span)
        self._nonzero.mark(span)
        self._note_urgent(message, span)
        return self._memory.views[span.block][span.offset : span.end]

    def begin_rest(self, channel: Channel, message: PageRest) -> memoryview:
        """Admit the rest of a target page; return where it belongs; then as for `begin`.

        Raises:
            RemoteProtocolError: That is not what a target page lacks.
        """
        end = message.offset + message.payload_bytes
        self.assembly.begin_rest(channel, message.block, message.offset, message.payload_bytes)
        return self._memory.views[message.block][message.offset : end]

    def begin_runs(
        self, channel: Channel, message: RunData, runs: Runs, is_zero: Flags
    ) -> list[memoryview]:
        """Admit a frame of runs and write its zeros; return where its bytes belong, in their order.

        Afterwards as for `begin`.

        Args:
            channel: Where the frame comes.
            message: Its message.
            runs: The runs that it names.
            is_zero: Which of them are zero.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        self.assembly.begin(channel, runs, is_zero)
        self._note_urgent(message, runs)
        zeros, data = runs.where(is_zero), runs.where(~is_zero)
        if zeros is not None:
            self._write_zeros(channel, zeros)
        if data is None:
            return []
        self._nonzero.mark(data)
        view = self._memory.views[runs.block]
        return [view[start:end] for start, end in data.edges()]

    def take_zeros(self, channel: Channel, message: ZeroData) -> None:
        """Take a frame that names a stretch of zeros, from its beginning to its end.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        span = Span(message.block, message.offset, message.length)
        self.assembly.begin(channel, span)
        self._note_urgent(message, span)
        self._write_zeros(channel, span)
        self.end(channel)

    def _note_urgent(self, message: PageData | RunData | ZeroData, span: Stretch) -> None:
        if message.urgent:
            self.faults.told(
                self._units.page_of(span.block, span.offset // TARGET_PAGE_BYTES),
                now_ns=time.monotonic_ns(),
                queue_us=message.queue_us,
                send_us=message.send_us,
            )

    def _write_zeros(self, channel: Channel, zeros: Stretch) -> None:
        """Zero what of a stretch is not zero, unless a vCPU may have written there since."""
        if self.assembly.is_waste(channel):
            return
        pages = self._nonzero.take(zeros)
        if len(pages):
            self._memory.words(zeros.block).reshape(-1, TARGET_PAGE_BYTES // 8)[pages] = 0

    def progress(self, channel: Channel, page: PageId, count: int) -> None:
        """Say that so many more bytes of the channel's frame are in memory."""
        self.assembly.progress(channel, count)
        if self._places_early and (waited_for := self.faults.requested_pages):
            self._place_waited_for(self.assembly.come_early(channel, waited_for))
        self._notify("received", page)

    def end(self, channel: Channel) -> None:
        """Say that the channel's frame is whole: place what it completed, wake who waits for it."""
        last_byte_ns = time.monotonic_ns()
        # Who was stopped before this waits for the page, and is known to: when it is mapped the
        # kernel wakes him and forgets what it has not told.
        faults = self._hear_faults()
        span = self.assembly.end(channel)
        if span is not None:
            # Runs of base pages, or of target pages, are placed one by one.
            for each in [span] if isinstance(span, Span) else span.spans():
                self._place(each, channel, last_byte_ns)
        # What is here now is not asked for.
        for fault in faults:
            self._on_fault(*fault)

    def refuse(self, channel: Channel) -> list[Message]:
        """Say that the channel's frame has come and its payload is not what was sent.

        Returns:
            What to tell the source: what is to come again, and for which of it vCPUs wait.
        """
        last_byte_ns = time.monotonic_ns()
        self.take_faults()
        whole, changed = self.assembly.refuse(channel)
        for span in whole:
            self._place(span, channel, last_byte_ns)
        if changed is None:
            return []
        self._emit(
            events.FRAME_CHANGED, block=changed.block, offset=changed.offset,
            bytes=changed.length, channel=channel.value,
        )  # fmt: skip
        self._ask_anew(changed, last_byte_ns)
        packed = PackedRuns(pack_runs(changed, np.zeros(len(changed), dtype=np.bool_)))
        resend = Resend(block=changed.block, offset=changed.offset, runs=packed)
        return [resend, *self.open_requests(changed)]

    def interrupt(self, *, checked: bool = False, since_ns: int | None = None) -> None:
        """Forget the frames under way; what they brought of whole units is placed.

        Args:
            checked: Not if they were yet to be held against a checksum.
            since_ns: Since when a connection is gone; None for now.
        """
        self.take_faults()
        for span in self.assembly.interrupt(checked=checked):
            self._place(span, None, time.monotonic_ns())
        self.faults.broke(time.monotonic_ns() if since_ns is None else since_ns)

    def _ask_anew(self, changed: Stretch, now_ns: int) -> None:
        """Note that units with bytes of a stretch are asked for a second time."""
        units = [
            unit
            for unit in self.faults.requested_pages
            if overlap(changed, self._units.page_span(unit))
        ]
        self.faults.changed(units, now_ns)
        for unit in units:
            self.faults.asked(unit, now_ns)

    def open_requests(self, within: Stretch | None = None) -> list[PageRequest]:
        """Return the requests that are not answered, to be made again, in their order.

        Args:
            within: If not all, only for units that have bytes of this.
        """
        units = [(unit, self._units.page_span(unit)) for unit in self.faults.requested_pages]
        return [
            self._request(unit.block, span.target_pages.start)
            for unit, span in units
            if within is None or overlap(within, span)
        ]

    def _place(self, span: Span, channel: Channel | None, last_byte_ns: int) -> None:
        self._placement.place(span)
        units = self._units.pages_of(span)
        now_ns = time.monotonic_ns()
        for vcpu in self.faults.placed(span.block, units, last_byte_ns=last_byte_ns, now_ns=now_ns):
            self._placement.wake(vcpu)
        # A unit may be a part of a page, and then its page is told with the last of them.
        pages = self._geometry.pages_of(span)
        if self.assembly.is_whole(self._geometry.span_of(span.block, pages)):
            self._tell_placed(span.block, pages, channel)

    def _place_waited_for(self, units: list[PageId]) -> None:
        """Place what vCPUs wait for and has come; they do not wait for the end of its frame."""
        if units:
            # As before each placement: see `end`.
            self.take_faults()
        for unit in units:
            self._place_early(unit)

    def _place_early(self, unit: PageId) -> bool:
        """Place a unit if its bytes are here, though those of its frame are not; tell whether."""
        channel = self.assembly.take_early(unit) if self._places_early else None
        if channel is None:
            return False
        self._place(self._units.page_span(unit), channel, time.monotonic_ns())
        return True

    def received_share(self, page: PageId) -> float:
        """Return which share of a page's bytes is here."""
        return self.assembly.received_bytes(page) / self._geometry.page_span(page).length

    def _tell_placed(self, block: int, pages: range, channel: Channel | None) -> None:
        self._placement.completed(self._geometry.span_of(block, pages))
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

    def take_faults(self) -> None:
        """Hear of the vCPUs that the kernel has stopped since the last call; cheap if none was."""
        for fault in self._hear_faults():
            self._on_fault(*fault)

    def _hear_faults(self) -> list[tuple[int, PageRequest | None]]:
        """Return who was stopped, and the request to send for it."""
        # When a vCPU touched the page it tells when it wakes.
        return [
            (vcpu, self.fault(vcpu, flat, time.monotonic_ns()))
            for vcpu, flat in self._placement.take_faults()
        ]

    def release_overdue(self) -> int:
        """Wake vCPUs once more that should run since long, and return how many.

        Whatever has become of a wake-up, no vCPU sleeps on for a page that is here.
        """
        overdue = self.faults.overdue(time.monotonic_ns() - _WAKE_NS_MAX)
        for wait in overdue:
            self._placement.release(wait.vcpu, self._units.page_span(wait.page))
        return len(overdue)

    def fault(self, vcpu: int, flat: int, fault_ns: int) -> PageRequest | None:
        """Take a vCPU's fault; return the request to send for it, if one is due.

        Raises:
            LocalProtocolError: The guest has no such target page.
        """
        block, target_page = self._geometry.locate(flat)
        page = self._geometry.page_of(block, target_page)
        unit = self._units.page_of(block, target_page)
        placed = self.assembly.is_placed(unit) or self._place_early(unit)
        outcome = self.faults.fault(
            vcpu, unit, fault_ns=fault_ns, now_ns=time.monotonic_ns(), placed=placed
        )
        self._emit(
            events.VCPU_WAIT, vcpu=vcpu, block=block, page=page.index, fault_ns=fault_ns
        )  # fmt: skip
        if outcome is Outcome.PLACED:
            end = self._units.page_span(unit).end
            offset = target_page * TARGET_PAGE_BYTES
            self._placement.release(vcpu, Span(block, offset, end - offset))
        if outcome is not Outcome.REQUEST:
            return None
        return self._request(block, target_page)

    def _request(self, block: int, target_page: int) -> PageRequest:
        page = self._geometry.page_of(block, target_page)
        per_page = self._geometry.blocks[block].target_pages_per_page
        return PageRequest(block=block, page=page.index, target_page=target_page % per_page)

    def still_wants(self, request: PageRequest) -> bool:
        """Tell whether a request is to be sent, just before it would be.

        Its page may have come since the fault, and after the last page no request may follow.
        """
        if self.is_here(request):
            return False
        self.asking(request)
        self._emit(events.PAGE_REQUEST, block=request.block, page=request.page)
        return True

    def asking(self, request: PageRequest) -> None:
        """Say that a request is about to be sent; not needed where `still_wants` is asked."""
        self.faults.asked(self._unit_of(request), time.monotonic_ns())

    def is_here(self, request: PageRequest) -> bool:
        """Tell whether what a request asks for has come."""
        return self.assembly.is_placed(self._unit_of(request))

    def _unit_of(self, request: PageRequest) -> PageId:
        per_page = self._geometry.blocks[request.block].target_pages_per_page
        target_page = request.page * per_page + request.target_page
        return self._units.page_of(request.block, target_page)

    def requested(self, request: PageRequest) -> None:
        """Say that a request is with the socket."""
        self._notify("requested", PageId(request.block, request.page))

    def woke(self, vcpu: int, wake_ns: int, fault_ns: int | None = None) -> None:
        """Take the word of a vCPU that it runs again, and when it touched the page."""
        wait = self.faults.woke(vcpu, wake_ns, fault_ns)
        if wait is not None:
            self.waits.tell(wait)

    def _notify(self, what: str, page: PageId) -> None:
        for watcher in self._watchers:
            watcher(what, page)
