"""What a stream says of pages, done to the engine: bytes to memory, stale stretches forgotten."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dest.executor import Executor
from dest.qemu.handshakes import Line
from dest.qemu.wire import Wire
from dest.trips import Urgent
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.qemu.messages import DiscardRanges, Pages, Zeros

# A stretch is handed on as a bitmap: 32 KiB of ones for 1 GiB of guest.
_DISCARD_TARGET_PAGES = 256 * 1024


class Arrivals:
    """Takes pages and discards of both channels.

    Attributes:
        requested: How many of the pages that were asked for each channel completed.
        target_pages: How many target pages came with their bytes.
        zero_target_pages: How many came as zeros.
    """

    def __init__(self, geometry: Geometry, executor: Executor, wire: Wire) -> None:
        """Start in precopy."""
        self.requested: Counter[Channel] = Counter()
        self.target_pages = 0
        self.zero_target_pages = 0
        self._geometry = geometry
        self._executor = executor
        self._assembly = executor.engine.assembly
        self._wire = wire
        self._asked: set[PageId] = set()
        self._indices = {block.name: index for index, block in enumerate(geometry.blocks)}

    def take(self, name: Channel, line: Line, message: Pages | Zeros) -> None:
        """Take target pages of one page, or a run of base pages.

        Raises:
            RemoteProtocolError: They are outside their block, or not missing.
        """
        block = self._indices[message.block]
        page = self._geometry.page_of(block, message.offset // TARGET_PAGE_BYTES)
        # On the wire nothing says that a page is urgent; of one that was asked for it is so.
        urgent = page in self._asked
        told = Urgent() if urgent else None
        if isinstance(message, Pages):
            span = Span(block, message.offset, message.payload_bytes)
            view = self._executor.begin(name, span, told)
            self._wire.begin(name, span, urgent=urgent)
            line.decoder.take_payload(view)
            self._wire.end(name, span, message.packed_bytes or span.length)
            self._executor.progress(name, span.length)
            self._executor.end(name)
            self.target_pages += span.length // TARGET_PAGE_BYTES
        else:
            span = Span(block, message.offset, message.length)
            self._wire.begin(name, span, urgent=urgent)
            self._wire.end(name, span, span.length // TARGET_PAGE_BYTES)
            self._executor.take_zeros(name, span, told)
            self.zero_target_pages += span.length // TARGET_PAGE_BYTES
        here = {page for page in self._asked if self._assembly.is_placed(page)}
        self._asked -= here
        self.requested[name] += len(here)

    def check_missing(self, message: Pages | Zeros) -> None:
        """Check that target pages are not here.

        Raises:
            RemoteProtocolError: They are, or no block has them.
        """
        length = message.payload_bytes if isinstance(message, Pages) else message.length
        span = Span(self._indices[message.block], message.offset, length)
        if self._assembly.is_whole(span):
            raise RemoteProtocolError("it brings what is not missing")

    def ask(self, page: PageId) -> None:
        """Note that QEMU is being asked for a page."""
        self._asked.add(page)

    def interrupt(self) -> None:
        """Forget what was asked for: it is asked for again over other connections."""
        self._asked.clear()

    def discard(self, message: DiscardRanges) -> None:
        """Take stretches that are stale.

        Raises:
            RemoteProtocolError: They are outside the guest, or the guest runs here already.
        """
        if message.block not in self._indices:
            raise RemoteProtocolError(f"a discard is of RAMBlock {message.block!r}, unknown here")
        block = self._indices[message.block]
        for offset, length in message.ranges:
            if offset + length > self._geometry.blocks[block].length_bytes:
                raise RemoteProtocolError(
                    f"a discard of {length} bytes at {offset} is outside {message.block!r}"
                )
            first, last = offset // TARGET_PAGE_BYTES, (offset + length) // TARGET_PAGE_BYTES
            for start in range(first, last, _DISCARD_TARGET_PAGES):
                count = min(_DISCARD_TARGET_PAGES, last - start)
                bits = np.packbits(np.ones(count, np.bool_), bitorder="little").tobytes()
                self._assembly.discard(block, start, count, bits)
