"""The records of a RAM section: which target pages come, and their bytes.

A record is a 64-bit word, the address with flags in its low bits, the name of the block unless it
is the one of the record before, and what the flags say follows (migration/ram.c, save_page_header
and ram_load).  Where a page is written target page by target page, records that follow each other
come out as one message, so that whoever takes them does not pay for each 4 KiB.  With compress each
comes deflated, by itself: a length and a zlib stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.geometry import PAGE_BYTES_CHOICES, TARGET_PAGE_BYTES, Geometry, RamBlock
from protocol.limits import BLOCK_COUNT_MAX, CHUNK_BYTES_MAX, GUEST_BYTES_MAX
from protocol.qemu.constants import (
    COMPRESSED_BYTES_MAX,
    FLAG_BITS,
    RECORD_BYTES,
    RECORD_HEAD_BYTES,
    UNSPOKEN_RAM,
    ZERO_RECORD_BYTES,
    Ram,
)
from protocol.qemu.cursor import Cursor
from protocol.qemu.messages import Blocks, EndOfSection, Pages, QemuMessage, Zeros

BlockTable = Mapping[str, RamBlock]


class RamRecords:
    """Reads records off a cursor; QEMU remembers the last block for each channel on its own."""

    def __init__(self, cursor: Cursor) -> None:
        """Start before the first record; nothing is known of blocks.

        Args:
            cursor: Where from.  The caller keeps and rewinds.
        """
        self._cursor = cursor
        self._blocks: BlockTable = {}
        self._block: RamBlock | None = None
        # Where the payload of the last message begins, and how many target pages it has.
        self._payload = (0, 0)
        # The payload itself, where it is not on the wire as it is.
        self._inflated = b""

    @property
    def blocks(self) -> BlockTable:
        """The source's blocks, by name; empty until they are known."""
        return self._blocks

    def learn(self, blocks: BlockTable) -> None:
        """Learn the source's blocks."""
        self._blocks = blocks

    def next(self, *, page_sizes: int | None = None) -> QemuMessage:
        """Return what the next record, or a run of them, says.

        Args:
            page_sizes: What the source advised, where a list of blocks may come; else None.

        Raises:
            Short: It is not all here.
            RemoteProtocolError: No QEMU that keeps to what was agreed sends this.
        """
        word = self._cursor.be64()
        flags, address = Ram(word & FLAG_BITS), word & ~FLAG_BITS
        for flag, name in UNSPOKEN_RAM.items():
            if flags & flag:
                raise RemoteProtocolError(f"the stream uses {name}, which midstream does not speak")
        kind = flags & ~Ram.CONTINUE
        if kind == Ram.EOS and not flags & Ram.CONTINUE and not address:
            return EndOfSection()
        if kind == Ram.MEM_SIZE and not flags & Ram.CONTINUE:
            return self._block_list(address, page_sizes)
        if kind not in (Ram.PAGE, Ram.ZERO, Ram.COMPRESS_PAGE):
            raise RemoteProtocolError(f"a RAM record has the flags {int(flags):#x}")
        block = self._block_of(flags)
        if address >= block.length_bytes:
            raise RemoteProtocolError(
                f"a page at {address:#x} is outside RAMBlock {block.name!r} of "
                f"{block.length_bytes} bytes"
            )
        run: QemuMessage
        match kind:
            case Ram.PAGE:
                run = self._pages(block, address)
            case Ram.COMPRESS_PAGE:
                run = self._compressed(block, address)
            case _:
                run = self._zeros(block, address)
        self._block = block
        return run

    def take_payload(self, view: memoryview) -> None:
        """Copy the page bytes of the last message, whose length the view must have.

        Raises:
            LocalProtocolError: It has another.
        """
        start, count = self._payload
        if len(view) != count * TARGET_PAGE_BYTES:
            raise LocalProtocolError(
                f"a payload of {count * TARGET_PAGE_BYTES} bytes is due, not {len(view)}"
            )
        if self._inflated:
            view[:] = self._inflated
            self._payload, self._inflated = (0, 0), b""
            return
        pages: NDArray[np.uint8] = np.ndarray(
            (count, TARGET_PAGE_BYTES), np.uint8, self._cursor.data, start, (RECORD_BYTES, 1)
        )
        np.frombuffer(view, np.uint8).reshape(count, TARGET_PAGE_BYTES)[:] = pages
        self._payload = (0, 0)

    def _block_of(self, flags: Ram) -> RamBlock:
        if flags & Ram.CONTINUE:
            if self._block is None:
                raise RemoteProtocolError("the first page names no RAMBlock")
            return self._block
        name = self._cursor.name("a RAMBlock")
        if name not in self._blocks:
            raise RemoteProtocolError(f"a page is of RAMBlock {name!r}, which was not announced")
        return self._blocks[name]

    def _pages(self, block: RamBlock, address: int) -> Pages:
        start = self._cursor.at
        self._cursor.take(TARGET_PAGE_BYTES)
        count = 1 + self._following(block, address, Ram.PAGE, RECORD_BYTES)
        self._cursor.at = start + TARGET_PAGE_BYTES + (count - 1) * RECORD_BYTES
        self._payload = (start, count)
        return Pages(count * TARGET_PAGE_BYTES, block=block.name, offset=address)

    def _compressed(self, block: RamBlock, address: int) -> Pages:
        """Read a target page that was deflated: it has no more and no fewer bytes than one.

        Several threads of QEMU's deflate, so those that follow are seldom of the pages behind it.
        """
        length = self._cursor.be32()
        if not 0 < length <= COMPRESSED_BYTES_MAX:
            raise RemoteProtocolError(
                f"a compressed page of {length} bytes is not 1 to {COMPRESSED_BYTES_MAX}"
            )
        inflator = zlib.decompressobj()
        try:
            data = inflator.decompress(self._cursor.take(length), TARGET_PAGE_BYTES)
            # The end of the stream, and its checksum, may lie behind the last byte of the page.
            rest = inflator.decompress(inflator.unconsumed_tail, 1)
        except zlib.error as error:
            raise RemoteProtocolError(f"a page at {address:#x} does not inflate: {error}") from None
        if rest or len(data) != TARGET_PAGE_BYTES or not inflator.eof or inflator.unused_data:
            raise RemoteProtocolError(
                f"a page at {address:#x} does not inflate to {TARGET_PAGE_BYTES} bytes"
            )
        self._payload, self._inflated = (0, 1), data
        return Pages(TARGET_PAGE_BYTES, block=block.name, offset=address, packed_bytes=4 + length)

    def _zeros(self, block: RamBlock, address: int) -> Zeros:
        start = self._cursor.at
        fills = self._cursor.take(1)
        count = 1 + self._following(block, address, Ram.ZERO, ZERO_RECORD_BYTES)
        self._cursor.at = start + 1
        fills += self._cursor.take((count - 1) * ZERO_RECORD_BYTES)[
            RECORD_HEAD_BYTES::ZERO_RECORD_BYTES
        ]
        if any(fills):
            raise RemoteProtocolError(f"a page at {address:#x} is filled with another byte than 0")
        return Zeros(block=block.name, offset=address, length=count * TARGET_PAGE_BYTES)

    def _following(self, block: RamBlock, address: int, kind: Ram, record_bytes: int) -> int:
        """Return how many whole records behind the place go on with the same page or run."""
        last = block.length_bytes
        if block.page_bytes > TARGET_PAGE_BYTES:
            last = address - address % block.page_bytes + block.page_bytes
        most = (min(last, address + CHUNK_BYTES_MAX) - address) // TARGET_PAGE_BYTES - 1
        count = min(self._cursor.left // record_bytes, most)
        if count <= 0:
            return 0
        words: NDArray[np.uint64] = np.ndarray(
            (count,), np.dtype(">u8"), self._cursor.data, self._cursor.at, (record_bytes,)
        )
        first = address + TARGET_PAGE_BYTES + int(kind | Ram.CONTINUE)
        expected = np.arange(count, dtype=np.uint64) * TARGET_PAGE_BYTES + first
        differ = np.flatnonzero(words != expected)
        return int(differ[0]) if len(differ) else count

    def _block_list(self, total_bytes: int, page_sizes: int | None) -> Blocks:
        """Read the blocks: a name and a length each, and a page size where it is not the host's.

        QEMU's destination has the same machine and knows which block has a page size on the wire.
        Here that is told by the bytes: no name is empty, so a block never begins with the zero
        byte that any page size begins with, and no other record is a page size alone.
        """
        if page_sizes is None:
            raise RemoteProtocolError("a list of RAMBlocks came a second time, or without setup")
        if total_bytes > GUEST_BYTES_MAX:
            raise RemoteProtocolError(f"a guest of {total_bytes} bytes is over {GUEST_BYTES_MAX}")
        blocks: list[tuple[str, int, int]] = []
        while total_bytes > 0:
            if len(blocks) == BLOCK_COUNT_MAX:
                raise RemoteProtocolError(f"the guest has more than {BLOCK_COUNT_MAX} RAMBlocks")
            name, length = self._cursor.name("a RAMBlock"), self._cursor.be64()
            blocks.append((name, length, self._page_bytes(page_sizes)))
            # A block of nothing would let the list go on for ever.
            if not 0 < length <= total_bytes:
                raise RemoteProtocolError(f"RAMBlock {name!r} of {length} bytes is out of bounds")
            total_bytes -= length
        if not blocks:
            raise RemoteProtocolError("the guest has no RAMBlock")
        self.learn(block_table(blocks))
        return Blocks(blocks=tuple(blocks))

    def _page_bytes(self, page_sizes: int) -> int:
        if page_sizes & ~TARGET_PAGE_BYTES == 0:
            return TARGET_PAGE_BYTES
        place = self._cursor.at
        word = self._cursor.be64()
        if word in PAGE_BYTES_CHOICES and word & page_sizes:
            return word
        self._cursor.at = place
        return TARGET_PAGE_BYTES


def block_table(blocks: list[tuple[str, int, int]]) -> dict[str, RamBlock]:
    """Return the blocks by name.

    Raises:
        RemoteProtocolError: They are no guest's.
    """
    try:
        geometry = Geometry(tuple(RamBlock(*block) for block in blocks))
    except LocalProtocolError as error:
        raise RemoteProtocolError(f"the source's RAMBlocks: {error}") from error
    return {block.name: block for block in geometry.blocks}
