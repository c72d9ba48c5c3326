"""Decisions of the destination on what happens: assembly, fault table and waits together.  Pure.

The engine is told what happened (a frame, a fault, a break; the time, where it matters) and answers
what is to be done: `Place` these bytes, `Release` that vCPU, send the next message.  It reaches no
memory, connection or clock; `dest.executor` carries out what it answers.  All calls are quick.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dest.arrival import NonZero
from dest.assembly import Assembly
from dest.faults import FaultTable, Outcome
from dest.steps import Place, Release
from dest.trips import Urgent
from dest.waits import Waits
from dest.words import Word, Words
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.messages import PageRequest
from protocol.policy import Policy
from protocol.runs import Flags, Runs, Stretch

# A vCPU runs within microseconds of its page being placed; on a machine that is overloaded one may
# be woken once more for nothing.
WAKE_NS_MAX = 100_000_000

Notice = Callable[[str, PageId], None]

_NO_PAGES: NDArray[np.intp] = np.empty(0, np.intp)


class Engine:
    """The destination's state between two happenings.

    A *unit* is what is requested, waited for and placed at once: a page, or where the policy is
    critical a target page of it.  Units are counted by a geometry of their own; what is told
    outside is always about pages.

    Attributes:
        assembly: What is here.
        faults: Who waits.
        waits: What is known of waits that are over.
        words: What is to be said to the source.

    Faults must have been told before the bytes that end them are placed: when a page is mapped, the
    kernel wakes who waits for it and forgets what it has not told.
    """

    def __init__(
        self,
        geometry: Geometry,
        policy: Policy,
        emit: Emit,
        *,
        vcpu_count: int,
        overtaking: bool = False,
        checked: bool = False,
        is_told: bool = False,
    ) -> None:
        """Start in precopy, nothing received.

        Args:
            geometry: The guest's blocks.
            policy: How its pages come.
            emit: Takes events.
            vcpu_count: How many vCPUs may wait for them.
            overtaking: A vCPU's fault may be heard of before its wake-up from the last one.
            checked: A frame's bytes are held against its checksum when all have come.
            is_told: The source says how it answered page requests.
        """
        self.assembly = Assembly(geometry, policy)
        self.faults = FaultTable(overtaking=overtaking)
        self.faults.is_told = is_told
        self._geometry = geometry
        self._units = self.assembly.units
        self.waits = Waits(geometry, self._units, self.faults, emit, vcpu_count)
        self._nonzero = NonZero(geometry)
        self._emit = emit
        self._is_heard = events.is_heard(emit)
        self._watchers: list[Notice] = []
        self._checked = checked
        self.words = Words(geometry, self.assembly, self.faults, emit)

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to know how much of a page has come, and not only when all has."""
        return bool(self._watchers)

    def watch(self, watcher: Notice) -> None:
        """Call a function with ("received" | "requested" | "placed", page) from now on."""
        self._watchers.append(watcher)

    # Bytes come.

    def begin(
        self,
        channel: Channel,
        stretch: Stretch,
        now_ns: int,
        urgent: Urgent | None = None,
        *,
        is_zero: Flags | bool = False,
    ) -> NDArray[np.intp]:
        """Admit a frame; zero what is returned, call `progress` as its bytes come, then `end`.

        Args:
            channel: Where it comes.
            stretch: All that it names.
            now_ns: The time.
            urgent: It comes because of a page request; what the source says of that.
            is_zero: Whether that is zero, or which of its runs are: no bytes come for these.

        Returns:
            The block's target pages to be zeroed now, ascending.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        flags = None if isinstance(is_zero, bool) else is_zero
        self.assembly.begin(channel, stretch, flags)
        if urgent is not None:
            unit = self._units.page_of(stretch.block, stretch.offset // TARGET_PAGE_BYTES)
            self.faults.told(unit, urgent, now_ns)
        if is_zero is False:
            self._nonzero.mark(stretch)
            return _NO_PAGES
        zeros, data = _divided(stretch, flags)
        stale = _NO_PAGES
        # Of waste nothing is zeroed: vCPUs may have written there since.
        if zeros is not None and not self.assembly.is_waste(channel):
            stale = self._nonzero.take(zeros)
            if late := self.assembly.late_pages(channel):
                stale = stale[~np.isin(stale, list(late))]
        if data is not None:
            self._nonzero.mark(data)
        return stale

    def begin_rest(self, channel: Channel, block: int, offset: int, length: int) -> None:
        """Admit the rest of a target page; then as for `begin`.

        Raises:
            RemoteProtocolError: That is not what a target page lacks.
        """
        self.assembly.begin_rest(channel, block, offset, length)

    def progress(self, channel: Channel, count: int) -> bool:
        """Count so many more bytes of the channel's frame as in memory.

        Returns:
            Whether a vCPU waits for some that are all here: call `take_early`.
        """
        self.assembly.progress(channel, count)
        if self._watchers:
            self._notify("received", self.assembly.page_of(channel))
        return bool(self._early_units(channel))

    def take_early(self, channel: Channel) -> list[Place]:
        """Return what of a frame is to be placed at once: who waits does not wait for its end."""
        places = []
        for unit in self._early_units(channel):
            self.assembly.take_early(unit)
            places.append(Place(self._units.page_span(unit), channel))
        return places

    def end(self, channel: Channel) -> list[Place]:
        """End the channel's frame, which is whole; return what it completed."""
        stretch = self.assembly.end(channel)
        if stretch is None:
            return []
        if isinstance(stretch, Span):
            return [Place(stretch, channel)]
        # Runs of base pages, or of target pages, are placed one by one.
        return self._places(list(stretch.spans()), channel)

    def take_pages(self, channel: Channel, span: Span) -> Place:
        """Count huge pages that came whole, in a frame of the background each; return their place.

        It is as `begin`, `progress` and `end` for each.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        self.assembly.take_pages(channel, span)
        self._nonzero.mark(span)
        return Place(span, channel)

    def refuse(self, channel: Channel, now_ns: int) -> list[Place]:
        """Refuse the channel's frame, which has come, as its payload is not what was sent.

        The source is to be told what has to come again, and for which of it vCPUs wait: that goes
        before all else that there is to say.

        Returns:
            What the frame completed for all that.
        """
        whole, changed = self.assembly.refuse(channel)
        if changed is not None:
            self._emit(
                events.FrameChanged(
                    block=changed.block, offset=changed.offset,
                    bytes=changed.length, channel=channel.value,
                )
            )  # fmt: skip
            self.words.ask_again(changed, now_ns)
        return self._places(whole, channel)

    def interrupt(self) -> list[Place]:
        """Forget the frames under way; return what they brought of whole units.  Then `broke`."""
        whole = self.assembly.interrupt(checked=self._checked)
        return [Place(span, None) for span in whole]

    def broke(self, since_ns: int) -> None:
        """Note that the connections are gone: nothing can be said until `resumed`."""
        self.words.broke()
        self.faults.broke(since_ns)

    def resumed(self) -> None:
        """Note that pages can be asked for again: all that vCPUs wait for is."""
        self.faults.resumed()
        self.words.resumed()

    def start_postcopy(self) -> list[Span]:
        """Return what vCPUs are to fault on from now on; the guest stands still."""
        self.assembly.start_postcopy()
        return [
            span
            for block in range(len(self._geometry.blocks))
            for span in self.assembly.incomplete_pages(block)
        ]

    # Bytes are placed.

    def placed(self, place: Place, *, last_byte_ns: int, now_ns: int) -> list[int]:
        """Note that a `Place` is done; return the vCPUs to wake, in their order.

        Args:
            place: What was placed.
            last_byte_ns: When the last of its bytes had come.
            now_ns: The time.
        """
        block, units = place.span.block, self._units.pages_of(place.span)
        return self.faults.placed(
            block, units, last_byte_ns=last_byte_ns, now_ns=now_ns, channel=place.channel
        )

    def completed(self, place: Place) -> Span | None:
        """Report the pages that are whole with a `Place`, once vCPUs were woken; return them.

        A unit may be a part of a page, which is whole with the last of them.
        """
        if place.goes_on:
            return None
        block = place.span.block
        pages = self._geometry.pages_of(place.span)
        whole = self._geometry.span_of(block, pages)
        if not self.assembly.is_whole(whole):
            return None
        if self._is_heard:
            self._emit(
                events.PagePlaced(
                    block=block, page=pages[0], pages=len(pages),
                    channel=place.channel.value if place.channel else None,
                )
            )  # fmt: skip
        for index in pages if self._watchers else ():
            # Of a run of small pages only the first was told of while they came.
            if index != pages[0]:
                self._notify("received", PageId(block, index))
            self._notify("placed", PageId(block, index))
        return whole

    def received_share(self, page: PageId) -> float:
        """Return which share of a page's bytes is here."""
        return self.assembly.received_bytes(page) / self._geometry.page_span(page).length

    # vCPUs wait and wake.

    def fault(self, vcpu: int, flat: int, *, fault_ns: int, now_ns: int) -> Place | Release | None:
        """Handle a vCPU's fault; what it asks for is among the `words`.

        Args:
            vcpu: Who touched what is missing.
            flat: Which target page, of all the guest's.
            fault_ns: When it did.
            now_ns: The time.

        Returns:
            What is to be done for it at once, None if it has to wait.

        Raises:
            LocalProtocolError: The guest has no such target page.
        """
        block, target_page = self._geometry.locate(flat)
        unit = self._units.page_of(block, target_page)
        outcome = self.faults.fault(
            vcpu, unit, fault_ns=fault_ns, now_ns=now_ns, placed=self.assembly.is_placed(unit)
        )
        if self._is_heard:
            page = self._geometry.page_of(block, target_page)
            self._emit(events.VcpuWait(vcpu=vcpu, block=block, page=page.index, fault_ns=fault_ns))
        if outcome is Outcome.PLACED:
            offset = target_page * TARGET_PAGE_BYTES
            return Release(vcpu, Span(block, offset, self._units.page_span(unit).end - offset))
        channel = None if self._checked else self.assembly.take_early(unit)
        if channel is not None:
            return Place(self._units.page_span(unit), channel)
        if outcome is Outcome.REQUEST:
            self.words.ask(block, target_page)
        return None

    def woke(self, vcpu: int, wake_ns: int, fault_ns: int | None = None) -> None:
        """Note that a vCPU runs again, and when it touched the page."""
        wait = self.faults.woke(vcpu, wake_ns, fault_ns)
        if wait is not None:
            self.waits.tell(wait)

    def overdue(self, now_ns: int) -> list[Release]:
        """Return who should run since long: is to be woken once more.

        Whatever has become of a wake-up, no vCPU sleeps on for a page that is here.
        """
        return [
            Release(wait.vcpu, self._units.page_span(wait.page))
            for wait in self.faults.overdue(now_ns - WAKE_NS_MAX)
        ]

    def said(self, word: Word) -> None:
        """Note that one of the `words` is with the connection."""
        if isinstance(word, PageRequest):
            self._notify("requested", PageId(word.block, word.page))

    def _early_units(self, channel: Channel) -> list[PageId]:
        """Return the units that vCPUs wait for and that have come in a frame yet to end."""
        if self._checked or not (waited_for := self.faults.requested_pages):
            return []
        return self.assembly.come_early(channel, waited_for)

    def _places(self, spans: list[Span], channel: Channel) -> list[Place]:
        """Return the places of a frame's spans; where a page has several, the last completes it."""
        if not spans or self._geometry.has_base_pages[spans[0].block]:
            return [Place(span, channel) for span in spans]
        *others, last = spans
        return [*(Place(span, channel, goes_on=True) for span in others), Place(last, channel)]

    def _notify(self, what: str, page: PageId) -> None:
        for watcher in self._watchers:
            watcher(what, page)


def _divided(stretch: Stretch, is_zero: Flags | None) -> tuple[Stretch | None, Stretch | None]:
    """Return what of a frame is zero, and of what bytes come; all is zero where nothing is said."""
    if is_zero is None:
        return stretch, None
    assert isinstance(stretch, Runs), "only runs are partly zero"
    return stretch.where(is_zero), stretch.where(~is_zero)
