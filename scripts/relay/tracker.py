"""What is known of a migration between two QEMUs from all that passes; told as events.

A page is urgent here if it was asked for: nothing else on the wire says so.  The time of a request
is from its passing here to the page's last byte doing so; the guest's wait is longer, by the way of
both to and from here and by what the destination does.  Pure: who calls says what has passed.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from dest.qemu.wire import Wire
from protocol import events
from protocol.channels import Channel
from protocol.events import Emit
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.limits import BEHIND_COUNT_MAX, CHUNK_BYTES_MAX, VCPU_COUNT_MAX
from protocol.qemu.known import Known
from protocol.qemu.messages import (
    Blocks,
    DiscardRanges,
    EndOfSection,
    QemuMessage,
    StreamEnd,
)
from protocol.qemu.pieces import Found, Lost, PackageEnd, Part, Piece
from protocol.qemu.returned import PageAsked, ResumeAck, Returned, Shut
from protocol.states import State
from scripts.relay.telling import FORWARD, message_event

# An event is a line of some kilobytes at most: of larger blocks, a bit stands for several pages.
_MISSING_BITS_MAX = 64 * 1024

# What the wire's counter counts at once.
_SPAN_BYTES_MAX = CHUNK_BYTES_MAX // 2

# Requests are kept until their pages have passed; of more than that something is wrong.
_ASKED_MAX = 1 << 20


@dataclass
class _Asked:
    """A request whose page has not passed whole.

    Attributes:
        at_ns: When it passed here first.
        begun_bytes: What of its page had passed by then.
        lane: Which of those that are open.
        behind: The pages that became whole since then; the first few, and how many.
    """

    at_ns: int
    begun_bytes: int
    lane: int
    behind: list[PageId] = field(default_factory=list)
    behind_count: int = 0


class Tracker:
    """Follows one migration; tell it of everything that passes, in order.

    Attributes:
        known: What has been said of the guest, for the followers of its connections.
        geometry: Its blocks, None until they are listed.
        state: Where the migration seems to be; `reason` why, where it has failed.
        latencies_ns: Of the last of the requests that were served.
        requested: How many requests passed; `repeated` how many of them again.
        breaks: How often the main connection broke in postcopy.
        unread_count: In how many places something could not be read.
        served: How many of the pages asked for each channel completed.
        accesses: The first request for each page: nanoseconds since the switch-over, lane, page.
        package_pings: Those that are answered when the destination has loaded its devices.
    """

    def __init__(self, emit: Emit) -> None:
        """Start before the first byte."""
        self.known = Known()
        self.geometry: Geometry | None = None
        self.state = State.NONE
        self.reason = ""
        self.latencies_ns: deque[int] = deque(maxlen=_ASKED_MAX)
        self.requested = self.repeated = self.breaks = self.unread_count = 0
        self.served = dict.fromkeys(Channel, 0)
        self.package_pings: tuple[int, ...] = ()
        self.accesses: list[tuple[int, int, PageId]] = []
        self._emit = emit
        self._wire: Wire | None = None
        self._indices: dict[str, int] = {}
        self._asked: dict[PageId, _Asked] = {}
        # What has passed of pages that are not whole, since the switch-over or the last break.
        self._partial: dict[PageId, int] = {}
        # For each block, the pages that are still to come; from the first discard on.
        self._missing: list[NDArray[np.bool_]] = []
        # After a break nobody here knows what of that which passed has come.
        self._is_sure = True
        self._in_postcopy = False
        self._switched_ns = 0

    @property
    def open_requests(self) -> list[PageId]:
        """The pages that were asked for and have not passed whole, longest first."""
        return list(self._asked)

    @property
    def in_postcopy(self) -> bool:
        """Whether the guest runs on the destination, as far as can be seen here."""
        return self._in_postcopy

    def page_named(self, block: str, index: int) -> PageId | None:
        """Return a page by its block's name, None if there is no such page, or not yet."""
        page = PageId(self._indices.get(block, -1), index)
        return page if self.geometry is not None and self.geometry.has_page(page) else None

    def opened(self, connection: int) -> None:
        """Take a connection that was made."""
        self._emit(events.PeerConnection(connection=connection, now="open"))

    def recognised(self, connection: int, role: Channel | str, *, resumed: bool) -> None:
        """Take a connection's role.

        Args:
            connection: Its number.
            role: A channel, or what it is called if nobody follows it.
            resumed: It goes on with a migration that broke.
        """
        name = role.value if isinstance(role, Channel) else role
        self._emit(events.PeerConnection(connection=connection, now="known", role=name))
        if role is Channel.PRECOPY:
            self._enter(State.POSTCOPY_RECOVER if resumed else State.SETUP)

    def closed(
        self,
        connection: int,
        role: Channel | str | None,
        carried: tuple[int, int],
        reason: str,
    ) -> None:
        """Take the end of a connection.

        Args:
            connection: Its number.
            role: As it was recognised, None if it was not.
            carried: How many bytes it has carried, forward and back.
            reason: Why, empty if both ends have closed it.
        """
        self._emit(
            events.PeerConnection(
                connection=connection, now="closed",
                forward_bytes=carried[0], backward_bytes=carried[1], reason=reason or UNSET,
            )
        )  # fmt: skip
        if role is not Channel.PRECOPY or self.state in _ENDED:
            return
        if self._in_postcopy:
            self._interrupt(reason or "it was closed")
        elif self.state is State.DEVICE:
            # All was said, and nobody has opened the return path to hear more.
            self._enter(State.COMPLETED)
        else:
            self._enter(State.FAILED, reason or "the main connection was closed")

    def passed(self, connection: int, channel: Channel, piece: Piece, now_ns: int) -> None:
        """Take a piece of a connection's forward direction that has passed."""
        if piece.part is Part.PAGES and piece.length and piece.block in self._indices:
            span = Span(self._indices[piece.block], piece.offset, piece.length)
            for each in self._cut(span):
                self._take_memory(channel, each, now_ns)
        for message in piece.says:
            if isinstance(message, PackageEnd):
                self._switched_ns = now_ns
            self._take(connection, channel, message, piece)

    def asked(self, connection: int, message: PageAsked, now_ns: int) -> None:
        """Take a page request that has come."""
        page = self._page_at(message.block, message.offset)
        if page is None:
            self._tell(connection, message)
            return
        self.requested += 1
        self._emit(events.PageRequest(block=page.block, page=page.index))
        if page in self._asked:
            self.repeated += 1
            return
        if not self._is_missing(page) or len(self._asked) >= _ASKED_MAX:
            # It has passed meanwhile: the two have crossed.
            return
        lanes = {asked.lane for asked in self._asked.values()}
        lane = next(number for number in range(len(lanes) + 1) if number not in lanes)
        lane = min(lane, VCPU_COUNT_MAX - 1)
        self._asked[page] = _Asked(now_ns, self._partial.get(page, 0), lane)
        if len(self.accesses) < _ASKED_MAX:
            self.accesses.append((max(now_ns - self._switched_ns, 0), lane, page))

    def returned(self, connection: int, message: Returned) -> None:
        """Take anything else that has come on the return path."""
        self._tell(connection, message)
        match message:
            case ResumeAck():
                self._enter(State.POSTCOPY_ACTIVE)
                self._emit(events.Recovered(missing_bytes=self._missing_bytes(), running=True))
            case Shut(failed):
                reason = "the destination says that it has given up" if failed else ""
                self._enter(State.FAILED if failed else State.COMPLETED, reason)

    def unread(self, connection: int, direction: str, at_byte: int, reason: str) -> None:
        """Take that a direction of a connection cannot be read from a byte on."""
        self.unread_count += 1
        self._emit(
            events.Unread(
                connection=connection, direction=direction, at_byte=at_byte, reason=reason
            )
        )

    def tell_progress(self) -> None:
        """Tell how much has passed."""
        if self._wire is not None:
            self._wire.tell_progress()

    # What passes forward.

    def _take(self, connection: int, channel: Channel, message: QemuMessage, piece: Piece) -> None:
        match message:
            case EndOfSection() if channel is Channel.PRECOPY:
                return
            case Lost(reason=reason):
                self.unread(connection, FORWARD, piece.stop, reason)
                return
            case Found():
                self._emit(
                    events.ReadAgain(
                        connection=connection, at_byte=piece.stop, by=message.by,
                        skipped_bytes=message.skipped_bytes,
                    )
                )  # fmt: skip
                return
            case Blocks():
                self._learn(self.known)
            case DiscardRanges():
                self._discard(message)
            case PackageEnd(pings=pings):
                self.package_pings = pings
                self._switch_over()
        self._tell(connection, message)
        if isinstance(message, StreamEnd) and not self._in_postcopy:
            # Where the return path is not open, nobody says more.
            self._enter(State.DEVICE)

    def _tell(self, connection: int, message: QemuMessage | Returned) -> None:
        self._emit(message_event(connection, message, self._indices))

    def _learn(self, known: Known) -> None:
        """Take the guest's blocks."""
        geometry = Geometry(tuple(known.blocks.values()))
        self.geometry, self._wire = geometry, Wire(geometry, self._emit)
        self._indices = {block.name: index for index, block in enumerate(geometry.blocks)}
        self._missing = [np.zeros(block.page_count, np.bool_) for block in geometry.blocks]
        events.tell_run(
            self._emit, geometry, policy="qemu", chunk_bytes=0, vcpus=0, program="relay"
        )
        self._enter(State.ACTIVE)

    def _discard(self, message: DiscardRanges) -> None:
        """Take what QEMU is about to send again, or for the first time: all that is missing."""
        index = self._indices.get(message.block)
        if index is None or self.geometry is None:
            return
        page_bytes = self.geometry.blocks[index].page_bytes
        for offset, length in message.ranges:
            self._missing[index][offset // page_bytes : -(-(offset + length) // page_bytes)] = True

    def _switch_over(self) -> None:
        self._in_postcopy = True
        self._partial.clear()
        self._enter(State.POSTCOPY_ACTIVE)
        if self._wire is not None:
            self._wire.interrupt(self._missing_bytes())
        for index, flags in enumerate(self._missing):
            pages_per_bit = max(-(-len(flags) // _MISSING_BITS_MAX), 1)
            wide = np.logical_or.reduceat(flags, np.arange(0, len(flags), pages_per_bit))
            bits = base64.b64encode(np.packbits(wide, bitorder="little").tobytes()).decode()
            self._emit(events.Missing(block=index, pages_per_bit=pages_per_bit, bits=bits))

    def _interrupt(self, reason: str) -> None:
        """Take that the main connection has broken in postcopy."""
        self.breaks += 1
        self._emit(events.ChannelLost(channel=Channel.PRECOPY.value, reason=reason))
        # A destination drops what is not whole.
        self._partial.clear()
        self._is_sure = False
        if self._wire is not None:
            self._wire.interrupt(self._missing_bytes())
        self._enter(State.POSTCOPY_PAUSED)

    def _missing_bytes(self) -> int:
        if self.geometry is None:
            return 0
        return sum(
            int(np.count_nonzero(flags)) * block.page_bytes
            for flags, block in zip(self._missing, self.geometry.blocks, strict=True)
        )

    def _enter(self, state: State, reason: str = "") -> None:
        if state is not self.state:
            self.state, self.reason = state, reason
            self._emit(events.State(state=state.value, reason=reason or UNSET))

    # Memory.

    def _cut(self, span: Span) -> Iterator[Span]:
        """Cut a stretch of memory where one page ends that is large, or was asked for."""
        assert self.geometry is not None
        page_bytes = self.geometry.blocks[span.block].page_bytes
        if page_bytes > TARGET_PAGE_BYTES:
            edges = range(span.offset // page_bytes * page_bytes + page_bytes, span.end, page_bytes)
        else:
            apart = {
                edge
                for page in self._asked
                if page.block == span.block and span.offset <= page.index * page_bytes < span.end
                for edge in (page.index * page_bytes, (page.index + 1) * page_bytes)
            }
            apart |= set(range(span.offset + _SPAN_BYTES_MAX, span.end, _SPAN_BYTES_MAX))
            edges = sorted(apart)  # type: ignore[assignment]
        start = span.offset
        for edge in edges:
            if start < edge < span.end:
                yield Span(span.block, start, edge - start)
                start = edge
        yield Span(span.block, start, span.end - start)

    def _take_memory(self, channel: Channel, span: Span, now_ns: int) -> None:
        assert self.geometry is not None
        assert self._wire is not None
        pages = self.geometry.pages_of(span)
        first = PageId(span.block, pages.start)
        self._wire.begin(channel, span, urgent=first in self._asked)
        self._wire.end(channel, span, span.length)
        if not self._in_postcopy:
            return
        page_bytes = self.geometry.blocks[span.block].page_bytes
        if span.length < page_bytes:
            passed = self._partial.get(first, 0) + span.length
            if passed < page_bytes:
                self._partial[first] = passed
                return
            self._partial.pop(first, None)
        self._missing[span.block][pages.start : pages.stop] = False
        self._complete(channel, span.block, pages, now_ns)

    def _complete(self, channel: Channel, block: int, pages: range, now_ns: int) -> None:
        """Take pages of which the last byte has passed; one, or a run of base pages."""
        first = PageId(block, pages.start)
        asked = self._asked.pop(first, None)
        for other in self._asked.values():
            other.behind_count += len(pages)
            if len(other.behind) < BEHIND_COUNT_MAX:
                other.behind.append(first)
        if asked is None:
            return
        self.served[channel] += 1
        self.latencies_ns.append(now_ns - asked.at_ns)
        behind = " ".join(f"{page.block}:{page.index}" for page in asked.behind)
        self._emit(
            events.RequestServed(
                block=block, page=pages.start, channel=channel.value,
                latency_us=(now_ns - asked.at_ns) / 1000, begun_bytes=asked.begun_bytes,
                lane=asked.lane, behind=behind or UNSET, behind_count=asked.behind_count or UNSET,
            )
        )  # fmt: skip

    def _page_at(self, block: str, offset: int) -> PageId | None:
        index = self._indices.get(block)
        if index is None or self.geometry is None:
            return None
        page = PageId(index, offset // self.geometry.blocks[index].page_bytes)
        return page if self.geometry.has_page(page) else None

    def _is_missing(self, page: PageId) -> bool:
        """Tell whether a page may still be to come."""
        return not self._is_sure or bool(self._missing[page.block][page.index])


_ENDED = (State.COMPLETED, State.FAILED)
