"""A source's stream as who stands between the two follows it: byte by byte, holding nothing back.

A decoder gives a message when all of it is there; whoever passes bytes on cannot wait for that.  So
a `Follower` cuts what it is fed into pieces, each with what its bytes are: the head of something,
memory and where it belongs, device state, or bytes that could not be read.  Page bytes are counted,
never copied.

It refuses nothing.  Device state outside a package does not say how long it is: its section's end
is found by its footer.  Where bytes make no sense it says so and searches for a place from which
they do (`resync`); meanwhile they are passed over and nothing is claimed of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.qemu.constants import (
    FLAG_BITS,
    PACKAGE_TAIL_BYTES,
    RECORD_BYTES,
    RECORD_HEAD_BYTES,
    ZERO_RECORD_BYTES,
    Ram,
)
from protocol.qemu.cursor import Cursor, Short
from protocol.qemu.heads import Behind, Body, Heads, Opaque, Unsized
from protocol.qemu.known import Known
from protocol.qemu.messages import QemuMessage
from protocol.qemu.pieces import Lost, Part, Piece
from protocol.qemu.search import Search

_PAGE_IN_ROW = int(Ram.PAGE | Ram.CONTINUE)
_ZERO_IN_ROW = int(Ram.ZERO | Ram.CONTINUE)

# Most heads are a few dozen bytes.  The longest there is, a command's, has 16 bits of length; what
# is still not a whole head behind twice that is none.
_HEAD_BYTES_USUAL = 512
_HEAD_BYTES_MAX = 1 << 17


class Follower:
    """Follows one connection of a source; `feed` it everything, in order.

    Attributes:
        position: How many bytes it has been fed.
    """

    def __init__(self, channel: Channel, known: Known, *, resumed: bool = False) -> None:
        """Start at the beginning of a connection.

        Args:
            channel: Which one it is, see `channel_of`.
            known: What is known of the guest, shared by all connections of a migration.
            resumed: The main connection goes on where another has broken.
        """
        self.position = 0
        self._known = known
        self._channel = channel
        self._heads = Heads(channel, known, resumed=resumed)
        # The beginning of a head whose rest has not come.
        self._held = bytearray()
        # What comes next and has a length: memory, or something opaque; and how much of it.
        self._body = Body("", 0, 0, encoded=False)
        self._left = 0
        self._opaque: Opaque | None = None
        self._opaque_tail = b""
        # None while all can be read.
        self._search: Search | None = None
        self._clip = 0

    def feed(self, data: bytes | memoryview) -> Iterator[Piece]:
        """Cut bytes into pieces, which together are exactly these bytes, in order.

        The next piece is read when it is asked for.
        """
        view, base = memoryview(data), self.position
        self.position += len(view)
        self._clip = base
        at = 0
        while at < len(view):
            if (search := self._search) is not None:
                place, read = search.feed(view[at:], ended=self._heads.ended)
                if place is None:
                    yield self._piece(base + at, self.position, search.part)
                    return
                self._search = None
                self._heads.go_on_at(place)
                # What is behind the place may have passed already, and is read all the same.
                here, found = self.position - len(read), search.says(place)
                yield self._piece(base + at, here, search.part)._replace(says=(found,))
                view, base, at = memoryview(read), here, 0
            elif self._left:
                part = view[at : at + self._left]
                if self._opaque is not None:
                    yield self._take_opaque(self._opaque, base + at, part)
                else:
                    yield self._take_body(base + at, len(part))
                at += len(part)
            elif (run := self._run(view, at, base)) is not None:
                yield run
                at = run.origin + (run.length // TARGET_PAGE_BYTES) * run.record_bytes - base
            else:
                count, message = self._head(view[at:])
                if isinstance(message, Lost):
                    self._lose()
                    yield self._piece(base + at, base + at, Part.UNREAD)._replace(says=(message,))
                    continue
                says = () if message is None else (message,)
                yield self._piece(base + at, base + at + count, Part.HEAD)._replace(says=says)
                at += count

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept, to be read again: the beginning of a head, or of a place."""
        return len(self._held) + (self._search.held_bytes if self._search is not None else 0)

    def _piece(self, start: int, stop: int, part: Part) -> Piece:
        clipped = max(start, self._clip)
        return Piece(clipped, max(stop, clipped), part, origin=start)

    def _take_body(self, start: int, count: int) -> Piece:
        block, offset, _, encoded = self._body
        self._left -= count
        piece = self._piece(start, start + count, Part.PAGES)
        if not encoded:
            self._body = self._body._replace(offset=offset + count)
            return piece._replace(block=block, offset=offset, length=count)
        if self._left:
            return piece._replace(part=Part.HEAD)
        return piece._replace(block=block, offset=offset, length=TARGET_PAGE_BYTES, encoded=True)

    def _take_opaque(self, opaque: Opaque, start: int, data: memoryview) -> Piece:
        self._left -= len(data)
        tail = self._opaque_tail + bytes(data[-PACKAGE_TAIL_BYTES:])
        self._opaque_tail = tail[-PACKAGE_TAIL_BYTES:]
        piece = self._piece(start, start + len(data), Part.DEVICES)
        if self._left:
            return piece
        self._opaque = None
        return piece._replace(says=(opaque.said(opaque.length, self._opaque_tail),))

    def _run(self, view: memoryview, at: int, base: int) -> Piece | None:
        """Return whole records of one row, None if there is not even one."""
        if not self._heads.reads_records or self._held or len(view) - at < RECORD_HEAD_BYTES:
            return None
        word = int.from_bytes(view[at : at + RECORD_HEAD_BYTES], "big")
        flags, address = word & FLAG_BITS, word & ~FLAG_BITS
        if flags == _PAGE_IN_ROW:
            record_bytes = RECORD_BYTES
        elif flags == _ZERO_IN_ROW:
            record_bytes = ZERO_RECORD_BYTES
        else:
            return None
        limit = self._heads.row_length_bytes
        most = min((len(view) - at) // record_bytes, (limit - address) // TARGET_PAGE_BYTES)
        if most <= 0:
            return None
        words: NDArray[np.uint64] = np.ndarray((most,), np.dtype(">u8"), view, at, (record_bytes,))
        wanted = np.arange(most, dtype=np.uint64) * TARGET_PAGE_BYTES + np.uint64(word)
        differ = np.flatnonzero(words != wanted)
        count = int(differ[0]) if len(differ) else most
        start = base + at
        piece = self._piece(start, start + count * record_bytes, Part.PAGES)
        return piece._replace(
            block=self._heads.row_block, offset=address,
            length=count * TARGET_PAGE_BYTES, record_bytes=record_bytes,
        )  # fmt: skip

    def _head(self, view: memoryview) -> tuple[int, QemuMessage | None]:
        """Read a head, or keep what has come of it; return how many of these bytes that took."""
        held_bytes = len(self._held)
        for most in (_HEAD_BYTES_USUAL, _HEAD_BYTES_MAX):
            cursor = Cursor()
            cursor.feed(self._held + view[:most])
            try:
                message, behind = self._heads.read(cursor)
            except Short:
                continue
            except RemoteProtocolError as error:
                return 0, Lost(reason=str(error))
            # To tell where a list of blocks ends, what follows it is looked at.
            self._held = self._held[cursor.at :]
            self._expect(behind)
            return max(cursor.at - held_bytes, 0), message
        if held_bytes + len(view) > _HEAD_BYTES_MAX:
            return 0, Lost(reason="what begins here does not end")
        self._held += view
        return len(view), None

    def _expect(self, behind: Behind | None) -> None:
        """Begin with what comes behind a head."""
        match behind:
            case Body():
                self._body, self._left = behind, behind.length
            case Opaque():
                self._opaque, self._left, self._opaque_tail = behind, behind.length, b""
            case Unsized(section_id):
                self._search = Search(self._channel, self._known, section_id=section_id)

    def _lose(self) -> None:
        """Begin to search, behind the byte at which what cannot be read begins."""
        self._search = Search(self._channel, self._known, held=bytes(self._held))
        self._held.clear()
        self._heads.lose()
