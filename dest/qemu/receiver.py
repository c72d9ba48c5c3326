"""Reads QEMU's channels to their ends: pages to memory, the rest to whom it concerns."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dest.executor import Executor
from dest.peer import Turns
from dest.qemu.handshakes import Line, out_of_place
from dest.qemu.wire import Wire
from dest.trips import Urgent
from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.qemu.decoder import PreemptDecoder
from protocol.qemu.messages import (
    DiscardRanges,
    EndOfSection,
    OpenReturnPath,
    Package,
    Pages,
    Ping,
    QemuMessage,
    StreamEnd,
    SwitchoverStart,
    Zeros,
)
from protocol.qemu.ram import block_table
from protocol.qemu.returns import encode_pong

# A stretch is handed on as a bitmap: 32 KiB of ones for 1 GiB of guest.
_DISCARD_TARGET_PAGES = 256 * 1024


class QemuReceiver:
    """Takes what comes over both channels, over all epochs.

    Attributes:
        requested: How many of the pages that were asked for each channel completed.
        target_pages: How many target pages came with their bytes.
        zero_target_pages: How many came as zeros.
        package_bytes: How long the device state was.
    """

    def __init__(self, geometry: Geometry, executor: Executor, turns: Turns, wire: Wire) -> None:
        """Start in precopy.

        Args:
            geometry: The guest's blocks.
            executor: What pages are told to.
            turns: What is said of the guest.
            wire: Tells what can be seen of QEMU's scheduling.
        """
        self.requested: Counter[Channel] = Counter()
        self.target_pages = self.zero_target_pages = self.package_bytes = 0
        self._geometry = geometry
        self._executor = executor
        self._assembly = executor.engine.assembly
        self._turns = turns
        self._wire = wire
        self._asked: set[PageId] = set()
        self._indices = {block.name: index for index, block in enumerate(geometry.blocks)}

    async def run_main(self, line: Line) -> None:
        """Read a main connection until all was said.

        Raises:
            ConnectionLost: It ended before.
            RemoteProtocolError: This is no stream that can be taken.
        """
        while True:
            match message := await line.receive():
                case Pages() | Zeros():
                    self._take(Channel.PRECOPY, line, message)
                case EndOfSection() | SwitchoverStart() | OpenReturnPath():
                    pass
                case Ping(value=value):
                    await line.send(encode_pong(value))
                case DiscardRanges():
                    self._discard(message)
                case Package():
                    await self._switch_over(line, message)
                case StreamEnd():
                    return
                case _:
                    raise out_of_place(message)

    async def prove_preempt(self, line: Line) -> QemuMessage:
        """Prove a connection to be that for urgent pages: it brings something that is missing.

        Whoever begins a record, or makes one up for what is here, is not; QEMU's waits beside him.

        Returns:
            What it brings.

        Raises:
            ConnectionLost: It is gone.
            RemoteProtocolError: It says something else.
        """
        shapes = [
            (block.name, block.length_bytes, block.page_bytes) for block in self._geometry.blocks
        ]
        line.expect(PreemptDecoder(block_table(shapes)))
        message = await line.receive()
        if isinstance(message, (Pages, Zeros)):
            if self._assembly.is_whole(self._span_of(message)):
                raise RemoteProtocolError("it brings what is not missing")
        elif not isinstance(message, EndOfSection):
            raise out_of_place(message)
        return message

    async def run_preempt(self, line: Line, message: QemuMessage) -> None:
        """Read the connection for urgent pages to its end, from its first message on.

        Raises:
            ConnectionLost: It ended before.
            RemoteProtocolError: This is no stream that can be taken.
        """
        while not isinstance(message, EndOfSection):
            if not isinstance(message, (Pages, Zeros)):
                raise out_of_place(message)
            self._take(Channel.POSTCOPY, line, message)
            message = await line.receive()

    def ask(self, page: PageId) -> None:
        """Note that QEMU is being asked for a page."""
        self._asked.add(page)

    def interrupt(self) -> None:
        """Forget what was asked for: it is asked for again over other connections."""
        self._asked.clear()

    def _take(self, name: Channel, line: Line, message: Pages | Zeros) -> None:
        """Receive target pages of one page, or a run of base pages."""
        span = self._span_of(message)
        target_pages = span.length // TARGET_PAGE_BYTES
        # On the wire nothing says that a page is urgent; of one that was asked for it is so.
        page = self._geometry.page_of(span.block, span.offset // TARGET_PAGE_BYTES)
        urgent = page in self._asked
        told = Urgent() if urgent else None
        if isinstance(message, Pages):
            view = self._executor.begin(name, span, told)
            self._wire.begin(name, span, urgent=urgent)
            line.decoder.take_payload(view)
            self._wire.end(name, span, message.packed_bytes or span.length)
            self._executor.progress(name, span.length)
            self._executor.end(name)
            self.target_pages += target_pages
        else:
            self._wire.begin(name, span, urgent=urgent)
            self._wire.end(name, span, target_pages)
            self._executor.take_zeros(name, span, told)
            self.zero_target_pages += target_pages
        here = {page for page in self._asked if self._assembly.is_placed(page)}
        self._asked -= here
        self.requested[name] += len(here)

    def _span_of(self, message: Pages | Zeros) -> Span:
        length = message.payload_bytes if isinstance(message, Pages) else message.length
        return Span(self._indices[message.block], message.offset, length)

    async def _switch_over(self, line: Line, package: Package) -> None:
        """Switch the guest's memory over: from here on vCPUs of this side touch it."""
        self.package_bytes = package.package_bytes
        await self._turns.switch_over(None, postcopy=True)
        self._wire.switch_over(self._assembly.missing_bytes)
        for value in package.pings:
            await line.send(encode_pong(value))

    def _discard(self, message: DiscardRanges) -> None:
        """Mark stretches stale.

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
