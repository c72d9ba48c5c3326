"""Which bytes of which page have come, over which channel, and which pages are whole.

The receivers ask before a byte is written (`begin`), say what came (`progress`) and when a frame is
done (`end`); a page is whole when its last missing target page has come.  Everything that a correct
source does not send is refused here, before it can touch guest memory: bytes outside a block, pages
that are not missing, two channels in one page.  QEMU keeps the same knowledge in `PostcopyTmpPage`
and `receivedmap` (`migration/postcopy-ram.c`), a page at a time; here any number may be under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from protocol.channels import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.pageset import PageSet


@dataclass
class _Arrival:
    """A frame on its way in: its span, and how much of it has come."""

    span: Span
    received: int = 0


@dataclass
class ChannelCounts:
    """What came over one channel; compared with the source's `End`."""

    target_pages: int = 0
    data_bytes: int = 0


class Assembly:
    """The received map of one migration, down to the target page.

    In precopy nothing is tracked but the bounds: pages come again and again, over one channel.
    `start_postcopy` fixes what is missing; from then on each target page may come exactly once.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Start in precopy."""
        self.counts = {channel: ChannelCounts() for channel in Channel}
        self._geometry = geometry
        self._stale = PageSet(geometry)
        self._missing: PageSet | None = None
        self._arriving: dict[Channel, _Arrival] = {}
        # Over which channel the first bytes of a page came that is not whole yet.
        self._owner: dict[PageId, Channel] = {}

    @property
    def in_postcopy(self) -> bool:
        """Whether `start_postcopy` was called."""
        return self._missing is not None

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not begun to come, 0 in precopy."""
        return self._missing.length_bytes if self._missing is not None else 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and no frame is under way."""
        return not self._arriving and (self._missing is None or not len(self._missing))

    def discard(self, block: int, first: int, count: int, bits: bytes) -> None:
        """Take a bitmap of target pages whose copies here are stale.

        Raises:
            RemoteProtocolError: It reaches outside the guest, or the guest runs here already.
        """
        if self._missing is not None:
            raise RemoteProtocolError("a discard came after the switch-over")
        self._stale.add_packed(block, first, count, bits)

    def start_postcopy(self) -> None:
        """The guest runs here now: what was discarded is missing, and comes once."""
        if self._missing is not None:
            raise LocalProtocolError("postcopy has started already")
        if self._arriving:
            raise LocalProtocolError("postcopy cannot start in the middle of a frame")
        self._missing = self._stale

    def incomplete_pages(self, block: int) -> Iterator[Span]:
        """Yield the stretches of a block's pages that are not whole, each as long as can be.

        There are none in precopy.
        """
        if self._missing is None:
            return
        page_bytes = self._geometry.blocks[block].page_bytes
        flags = self._missing.pages_with_members(block).astype(np.int8)
        for arrival in self._arriving.values():
            if arrival.span.block == block:
                pages = self._geometry.pages_of(arrival.span)
                flags[pages.start : pages.stop] = 1
        edges = np.flatnonzero(np.diff(flags, prepend=0, append=0))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield Span(block, first * page_bytes, (last - first) * page_bytes)

    def is_placed(self, page: PageId) -> bool:
        """Tell whether a page is whole."""
        if self._missing is None:
            return True
        return not (self._missing.holds_page(page) or self._is_arriving(page))

    def begin(self, channel: Channel, span: Span) -> None:
        """Admit a frame; only after this may its bytes be written.

        Raises:
            RemoteProtocolError: No correct source sends this now.
        """
        if channel in self._arriving:
            raise LocalProtocolError(f"a frame is under way on the {channel.value} channel")
        if not self._geometry.has_span(span):
            raise RemoteProtocolError(
                f"{span.length} bytes at {span.offset} of block {span.block} are outside the guest "
                "or no whole target pages"
            )
        if self._missing is not None:
            self._claim(channel, span, self._missing)
        elif channel is not Channel.PRECOPY:
            raise RemoteProtocolError(f"page bytes on the {channel.value} channel in precopy")
        self._arriving[channel] = _Arrival(span)

    def progress(self, channel: Channel, count: int) -> None:
        """Say that so many more bytes of the channel's frame are in memory."""
        arrival = self._arrival(channel)
        if not 0 <= count <= arrival.span.length - arrival.received:
            raise LocalProtocolError(
                f"{count} bytes cannot be the rest of a frame of {arrival.span.length}, "
                f"{arrival.received} of which have come"
            )
        arrival.received += count

    def end(self, channel: Channel) -> Span | None:
        """Say that the channel's frame is whole; return the pages that now are, if any.

        The stretch is one huge page, or the run of base pages that the frame held.  In precopy,
        where pages may still change, nothing is ever whole.
        """
        arrival = self._arrival(channel)
        # A stretch of zeros is here without a byte of it.
        if arrival.received not in (0, arrival.span.length):
            raise LocalProtocolError(
                f"a frame of {arrival.span.length} bytes cannot end after {arrival.received}"
            )
        del self._arriving[channel]
        counts = self.counts[channel]
        counts.target_pages += arrival.span.length // TARGET_PAGE_BYTES
        counts.data_bytes += arrival.received
        if self._missing is None:
            return None
        if self._is_base(arrival.span.block):
            return arrival.span
        page = self._geometry.page_of(arrival.span.block, arrival.span.target_pages.start)
        if self._missing.holds_page(page) or self._is_arriving(page):
            return None
        del self._owner[page]
        return self._geometry.page_span(page)

    def received_bytes(self, page: PageId) -> int:
        """Return how many of a page's bytes are here, those of frames under way included.

        Bytes that the precopy phase brought and that are not stale count as here.
        """
        span = self._geometry.page_span(page)
        here = span.length
        if self._missing is not None:
            here -= self._missing.count_in(span) * TARGET_PAGE_BYTES
        for arrival in self._arriving.values():
            here -= _unreceived_in(arrival, span)
        return here

    def channel_of(self, page: PageId) -> Channel | None:
        """Return the channel that a page not yet whole comes over, None if nothing has come."""
        return self._owner.get(page)

    def _arrival(self, channel: Channel) -> _Arrival:
        if channel not in self._arriving:
            raise LocalProtocolError(f"no frame is under way on the {channel.value} channel")
        return self._arriving[channel]

    def _claim(self, channel: Channel, span: Span, missing: PageSet) -> None:
        if missing.count_in(span) * TARGET_PAGE_BYTES != span.length:
            raise RemoteProtocolError(
                f"target pages at {span.offset} of block {span.block} came again"
            )
        if not self._is_base(span.block):
            self._claim_page(channel, span)
        missing.remove(span)

    def _claim_page(self, channel: Channel, span: Span) -> None:
        """Bind a huge page to the channel that its first bytes come over."""
        pages = self._geometry.pages_of(span)
        if len(pages) > 1:
            raise RemoteProtocolError(
                f"one frame holds parts of {len(pages)} pages of block {span.block}"
            )
        page = PageId(span.block, pages[0])
        if self._owner.setdefault(page, channel) is not channel:
            raise RemoteProtocolError(
                f"page {page.index} of block {page.block} came over both channels"
            )

    def _is_base(self, block: int) -> bool:
        return self._geometry.blocks[block].page_bytes == TARGET_PAGE_BYTES

    def _is_arriving(self, page: PageId) -> bool:
        span = self._geometry.page_span(page)
        return any(_overlap(arrival.span, span) for arrival in self._arriving.values())


def _overlap(one: Span, other: Span) -> bool:
    return one.block == other.block and one.offset < other.end and other.offset < one.end


def _unreceived_in(arrival: _Arrival, span: Span) -> int:
    """Return how many bytes of a span lie in an arriving frame's part that has not come."""
    if arrival.span.block != span.block:
        return 0
    first = max(arrival.span.offset + arrival.received, span.offset)
    return max(0, min(arrival.span.end, span.end) - first)
