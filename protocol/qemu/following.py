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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, RamBlock
from protocol.qemu.commands import read_command, read_package
from protocol.qemu.constants import (
    CAPABILITY_COUNT_MAX,
    COMPRESSED_BYTES_MAX,
    ENCODED_BY_XBZRLE,
    FILE_MAGIC,
    FILE_VERSION,
    FLAG_BITS,
    MACHINE_NAME_BYTES_MAX,
    MULTIFD_MAGIC,
    PACKAGE_TAIL_BYTES,
    RAM_SECTION,
    RECORD_BYTES,
    RECORD_HEAD_BYTES,
    TLS_HANDSHAKE,
    ZERO_RECORD_BYTES,
    Ram,
    Section,
)
from protocol.qemu.cursor import Cursor, Short, text
from protocol.qemu.messages import (
    Advise,
    Configuration,
    EndOfSection,
    Package,
    QemuMessage,
    StreamEnd,
)
from protocol.qemu.ram import BlockTable, RamRecords
from protocol.qemu.resync import (
    TAIL_BYTES,
    Pending,
    Place,
    find_footer,
    find_record,
    find_section_end,
)

_PAGE_IN_ROW = int(Ram.PAGE | Ram.CONTINUE)
_ZERO_IN_ROW = int(Ram.ZERO | Ram.CONTINUE)

# The type and the section's number.
_FOOTER_BYTES = 5

# Most heads are a few dozen bytes.  The longest there is, a command's, has 16 bits of length; what
# is still not a whole head behind twice that is none.
_HEAD_BYTES_USUAL = 512
_HEAD_BYTES_MAX = 1 << 17


class Part(Enum):
    """The kind of a piece's bytes; the values are their names in a log."""

    HEAD = "head"
    PAGES = "pages"
    DEVICES = "devices"
    UNREAD = "unread"


@dataclass(frozen=True, kw_only=True)
class OtherCommand(QemuMessage):
    """A command that a destination of midstream's would refuse: its bytes are stepped over."""

    number: int
    length: int


@dataclass(frozen=True, kw_only=True)
class PackageEnd(QemuMessage):
    """The last byte of a package has passed: the destination has what it needs to run the guest.

    Attributes:
        package_bytes: How long it was.
        pings: The values of those in it, which are answered when the devices are loaded.
    """

    package_bytes: int
    pings: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceSection(QemuMessage):
    """The state of a device outside a package has ended: its footer was found.

    Attributes:
        name: The device's.
        body_bytes: How long its state was.
    """

    name: str
    body_bytes: int


@dataclass(frozen=True, kw_only=True)
class Description(QemuMessage):
    """The machine's description has passed, JSON behind the stream's end."""

    description_bytes: int


@dataclass(frozen=True, kw_only=True)
class Lost(QemuMessage):
    """From here on bytes cannot be read, for the reason given; a place to go on is searched for."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Found(QemuMessage):
    """From here on bytes can be read again.

    Attributes:
        by: What told the place: "footer", "named record" or "record grid".
        skipped_bytes: How many could not be read.
    """

    by: str
    skipped_bytes: int


class Piece(NamedTuple):
    """A stretch of a stream, whose bytes may be passed on.

    Attributes:
        start: The stream position of its first byte.
        stop: The position behind its last; `start` for what was recognised when it had passed.
        part: What it is.
        block: Of `Part.PAGES`: name of the RAMBlock; empty where nobody can tell.
        offset: Where in the block the memory begins, in bytes.
        length: How much memory has passed with the last byte of the piece.
        record_bytes: From one target page to the next in the stream; 0: one behind the other.
        encoded: It is one target page, and its bytes are what encodes it.
        origin: Where the first record or byte is; before `start` for what had passed.
        says: What its last byte completes, in order.
    """

    start: int
    stop: int
    part: Part
    block: str = ""
    offset: int = 0
    length: int = 0
    record_bytes: int = 0
    encoded: bool = False
    origin: int = 0
    says: tuple[QemuMessage, ...] = ()

    def position(self, end: int) -> int:
        """Return the stream position with which the memory up to a block offset has passed.

        Args:
            end: Over `offset`, up to `offset + length`.
        """
        passed = end - self.offset
        if self.encoded:
            # It comes as a whole, with the last byte of what encodes it.
            return self.stop
        position = self.origin + passed
        if self.record_bytes:
            number, rest = divmod(passed - 1, TARGET_PAGE_BYTES)
            is_zero = self.record_bytes == ZERO_RECORD_BYTES
            in_record = self.record_bytes if is_zero else RECORD_HEAD_BYTES + rest + 1
            position = self.origin + number * self.record_bytes + in_record
        return min(max(position, self.start), self.stop)

    @property
    def is_plain(self) -> bool:
        """Whether memory stands in the stream as it is."""
        return not self.encoded and self.record_bytes in {0, RECORD_BYTES}


@dataclass
class Known:
    """The guest as it has been described, on whichever connection; the main one's follower writes.

    Attributes:
        blocks: By name; empty until they are listed.
        ram_id: The number of the RAM's section, None before it began.
        sections: The names of all sections that have begun, by number.
        page_sizes: What was advised, or-ed together.
    """

    blocks: BlockTable = field(default_factory=dict)
    ram_id: int | None = None
    sections: dict[int, str] = field(default_factory=dict)
    page_sizes: int = 0


def channel_of(first: bytes) -> Channel | str | None:
    """Return which connection begins with these bytes; what it is called if it is none to follow.

    Args:
        first: Four bytes; fewer if no more have come.

    Returns:
        The channel, the name of what cannot be followed, or None if it is too early to tell.
    """
    if not first:
        return None
    if first.startswith(TLS_HANDSHAKE[:1]):
        return (
            "TLS" if first.startswith(TLS_HANDSHAKE) else (None if len(first) == 1 else "unknown")
        )
    for magic, answer in ((FILE_MAGIC, Channel.PRECOPY), (MULTIFD_MAGIC, "multifd")):
        head = magic.to_bytes(4, "big")
        if head.startswith(first[:4]):
            return answer if len(first) >= 4 else None
    if first[0] == Section.COMMAND:
        # A main connection over which a broken migration goes on.
        return Channel.PRECOPY
    # The preempt channel begins with a record, whose highest byte is zero for any guest.
    return Channel.POSTCOPY if not first[0] else "unknown"


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
        is_main = channel is Channel.PRECOPY
        first = self._outer if resumed else self._magic
        self._step: Callable[[Cursor], QemuMessage | None] = first if is_main else self._record
        # The beginning of a head whose rest has not come.
        self._held = bytearray()
        self._block: RamBlock | None = None
        # A row of records was found, and nobody can tell of which block.
        self._nameless = False
        # What comes next and has a length: of memory, or opaque.
        self._body: tuple[str, int] | None = None
        self._encoded = False
        self._left = 0
        self._opaque: Callable[[], QemuMessage] | None = None
        self._opaque_left = 0
        self._package_tail = b""
        # What is searched through, and from where on; None while all can be read.
        self._window: bytearray | None = None
        self._window_start = 0
        self._skipped = 0
        self._section_id: int | None = None
        self._clip = 0
        self._ended = False

    def feed(self, data: bytes | memoryview) -> Iterator[Piece]:
        """Cut bytes into pieces, which together are exactly these bytes, in order.

        The next piece is read when it is asked for.
        """
        view, base = memoryview(data), self.position
        self.position += len(view)
        self._clip = base
        at = 0
        while at < len(view):
            if self._window is not None:
                place, read = self._search(view[at:])
                if place is None:
                    yield self._piece(base + at, self.position, self._searched_part)
                    return
                # What is behind the place may have passed already, and is read all the same.
                here, part = self.position - len(read), self._searched_part
                yield self._piece(base + at, here, part)._replace(says=self._found(place))
                view, base, at = memoryview(read), here, 0
            elif self._left:
                count = min(self._left, len(view) - at)
                yield self._take_body(base + at, count)
                at += count
            elif self._opaque_left:
                count = min(self._opaque_left, len(view) - at)
                yield self._take_opaque(base + at, view[at : at + count])
                at += count
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
        return len(self._held) + len(self._window or b"")

    @property
    def _searched_part(self) -> Part:
        return Part.UNREAD if self._section_id is None else Part.DEVICES

    def _piece(self, start: int, stop: int, part: Part) -> Piece:
        clipped = max(start, self._clip)
        return Piece(clipped, max(stop, clipped), part, origin=start)

    # Memory and what else has a length.

    def _take_body(self, start: int, count: int) -> Piece:
        assert self._body is not None
        self._left -= count
        piece = self._piece(start, start + count, Part.PAGES)
        block, offset = self._body
        if not self._encoded:
            self._body = (block, offset + count)
            return piece._replace(block=block, offset=offset, length=count)
        if self._left:
            return piece._replace(part=Part.HEAD)
        return piece._replace(block=block, offset=offset, length=TARGET_PAGE_BYTES, encoded=True)

    def _take_opaque(self, start: int, data: memoryview) -> Piece:
        self._opaque_left -= len(data)
        self._package_tail = (self._package_tail + bytes(data[-PACKAGE_TAIL_BYTES:]))[
            -PACKAGE_TAIL_BYTES:
        ]
        piece = self._piece(start, start + len(data), Part.DEVICES)
        if self._opaque_left:
            return piece
        assert self._opaque is not None
        return piece._replace(says=(self._opaque(),))

    def _run(self, view: memoryview, at: int, base: int) -> Piece | None:
        """Return whole records of one row, None if there is not even one."""
        if self._step != self._record or self._held or len(view) - at < RECORD_HEAD_BYTES:
            return None
        word = int.from_bytes(view[at : at + RECORD_HEAD_BYTES], "big")
        flags, address = word & FLAG_BITS, word & ~FLAG_BITS
        if flags == _PAGE_IN_ROW:
            record_bytes = RECORD_BYTES
        elif flags == _ZERO_IN_ROW:
            record_bytes = ZERO_RECORD_BYTES
        else:
            return None
        limit = self._length_bytes()
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
            block=self._block.name if self._block is not None else "",
            offset=address, length=count * TARGET_PAGE_BYTES, record_bytes=record_bytes,
        )  # fmt: skip

    def _length_bytes(self) -> int:
        """Return how long the block of the records is, 0 where there is none."""
        if self._block is not None:
            return self._block.length_bytes
        if self._nameless:
            return max(block.length_bytes for block in self._known.blocks.values())
        return 0

    # Heads.

    def _head(self, view: memoryview) -> tuple[int, QemuMessage | None]:
        """Read a head, or keep what has come of it; return how many of these bytes that took."""
        held_bytes = len(self._held)
        for most in (_HEAD_BYTES_USUAL, _HEAD_BYTES_MAX):
            cursor = Cursor()
            cursor.feed(self._held + view[:most])
            step = self._step
            try:
                message = self._step(cursor)
            except Short:
                self._step = step
                continue
            except RemoteProtocolError as error:
                return 0, Lost(reason=str(error))
            # To tell where a list of blocks ends, what follows it is looked at.
            self._held = self._held[cursor.at :]
            return max(cursor.at - held_bytes, 0), message
        if held_bytes + len(view) > _HEAD_BYTES_MAX:
            return 0, Lost(reason="what begins here does not end")
        self._held += view
        return len(view), None

    def _magic(self, cursor: Cursor) -> None:
        if (magic := cursor.be32()) != FILE_MAGIC:
            raise RemoteProtocolError(f"{magic:#010x} is not the beginning of a QEMU stream")
        if (version := cursor.be32()) != FILE_VERSION:
            raise RemoteProtocolError(f"version {version} of QEMU's stream is not {FILE_VERSION}")
        self._step = self._outer

    def _outer(self, cursor: Cursor) -> QemuMessage | None:
        kind = cursor.u8()
        match kind:
            case Section.COMMAND:
                return self._command(cursor)
            case Section.CONFIGURATION:
                length = cursor.be32()
                if not 0 < length <= MACHINE_NAME_BYTES_MAX:
                    raise RemoteProtocolError(f"a machine's name of {length} bytes")
                return Configuration(machine=text(cursor.take(length), "the machine"))
            case Section.SUBSECTION if not self._known.sections:
                self._subsection(cursor)
            case Section.START | Section.FULL:
                self._begin(cursor)
            case Section.PART | Section.END:
                self._go_on(cursor.be32())
            case Section.EOF:
                self._step, self._ended = self._behind_end, True
                return StreamEnd()
            case _:
                raise RemoteProtocolError(f"a section of type {kind:#04x} came where none can be")
        return None

    def _subsection(self, cursor: Cursor) -> None:
        """Step over what else the configuration says."""
        name = cursor.name("a subsection")
        cursor.be32()
        match name:
            case "configuration/capabilities":
                if (count := cursor.be32()) > CAPABILITY_COUNT_MAX:
                    raise RemoteProtocolError(f"{count} capabilities are over the limit")
                for _ in range(count):
                    cursor.name("a capability")
            case "configuration/target-page-bits":
                if 1 << (bits := min(cursor.be32(), 63)) != TARGET_PAGE_BYTES:
                    raise RemoteProtocolError(f"target pages of 2^{bits} bytes are not 4 KiB")
            case "configuration/uuid":
                cursor.take(16)
            case _:
                raise RemoteProtocolError(f"unknown subsection {name[:60]!r}")

    def _command(self, cursor: Cursor) -> QemuMessage:
        place = cursor.at
        number, length = cursor.be16(), cursor.be16()
        cursor.take(length)
        behind, cursor.at = cursor.at, place
        try:
            message = read_command(cursor)
        except RemoteProtocolError:
            cursor.at = behind
            return OtherCommand(number=number, length=length)
        match message:
            case Advise():
                self._known.page_sizes = message.page_sizes
            case Package() if message.package_bytes:
                self._package_tail = b""
                self._pass_over(message.package_bytes, self._packaged(message.package_bytes))
        return message

    def _packaged(self, package_bytes: int) -> Callable[[], QemuMessage]:
        """Return what says that a package has passed, with the pings in it."""

        def said() -> QemuMessage:
            try:
                pings = read_package(self._package_tail)
            except RemoteProtocolError:
                pings = ()
            return PackageEnd(package_bytes=package_bytes, pings=pings)

        return said

    def _pass_over(self, count: int, said: Callable[[], QemuMessage]) -> None:
        self._opaque_left, self._opaque = count, said

    def _begin(self, cursor: Cursor) -> None:
        section_id, name = cursor.be32(), cursor.name("a section")
        cursor.take(8)  # Which of several devices of that name, and a version.
        self._known.sections[section_id] = name
        if name == RAM_SECTION:
            self._known.ram_id = section_id
        self._go_on(section_id)

    def _go_on(self, section_id: int) -> None:
        if section_id == self._known.ram_id:
            self._step = self._record
        elif section_id in self._known.sections:
            # It does not say how long it is.
            self._section_id, self._window = section_id, bytearray()
            self._window_start = self._skipped = 0
        else:
            raise RemoteProtocolError(f"section {section_id} goes on, which never began")

    def _footer(self, cursor: Cursor) -> None:
        # Machine types of before 2.4 have none.
        if cursor.u8() == Section.FOOTER:
            cursor.be32()
        else:
            cursor.at -= 1
        self._step = self._outer

    def _behind_end(self, cursor: Cursor) -> None:
        if cursor.u8() != Section.VMDESCRIPTION:
            raise RemoteProtocolError("bytes came after the end of the stream")
        if length := cursor.be32():
            self._pass_over(length, lambda: Description(description_bytes=length))

    # RAM records.

    def _record(self, cursor: Cursor) -> QemuMessage | None:
        word = cursor.be64()
        flags, address = Ram(word & FLAG_BITS), word & ~FLAG_BITS
        if flags == Ram.EOS and not address:
            if self._channel is Channel.PRECOPY:
                self._step = self._footer
            return EndOfSection()
        if flags == Ram.MEM_SIZE and self._channel is Channel.PRECOPY:
            return self._block_list(cursor)
        if flags == Ram.MULTIFD_FLUSH and not address:
            return None
        block = self._block_of(flags, cursor)
        if address >= (self._length_bytes() if block is None else block.length_bytes):
            raise RemoteProtocolError(f"a page at {address:#x} is outside its RAMBlock")
        kind = flags & ~Ram.CONTINUE
        self._encoded = kind != Ram.PAGE
        match kind:
            case Ram.PAGE:
                self._left = TARGET_PAGE_BYTES
            case Ram.ZERO:
                self._left = 1
            case Ram.COMPRESS_PAGE:
                self._left = cursor.be32()
            case Ram.XBZRLE:
                if cursor.u8() != ENCODED_BY_XBZRLE:
                    raise RemoteProtocolError("a page is encoded, and not by XBZRLE")
                self._left = cursor.be16()
            case _:
                raise RemoteProtocolError(f"a RAM record has the flags {int(flags):#x}")
        if not 0 < self._left <= COMPRESSED_BYTES_MAX:
            count, self._left = self._left, 0
            raise RemoteProtocolError(f"an encoded page of {count} bytes is out of bounds")
        self._block = block
        self._body = (block.name if block is not None else "", address)
        return None

    def _block_of(self, flags: Ram, cursor: Cursor) -> RamBlock | None:
        if flags & Ram.CONTINUE:
            if self._block is None and not self._nameless:
                raise RemoteProtocolError("the first page names no RAMBlock")
            return self._block
        name = cursor.name("a RAMBlock")
        if name not in self._known.blocks:
            raise RemoteProtocolError(f"a page is of RAMBlock {name!r}, which was not announced")
        return self._known.blocks[name]

    def _block_list(self, cursor: Cursor) -> QemuMessage:
        cursor.at -= RECORD_HEAD_BYTES
        records = RamRecords(cursor)
        message = records.next(page_sizes=self._known.page_sizes)
        self._known.blocks = records.blocks
        return message

    # Finding the place again.

    def _lose(self) -> None:
        """Begin to search, behind the byte at which what cannot be read begins."""
        self._window, self._section_id = bytearray(self._held), None
        # The byte itself would only be found once more.
        self._window_start, self._skipped = 1, 0
        self._held.clear()
        self._left = self._opaque_left = 0
        self._nameless, self._block = False, None

    def _search(self, view: memoryview) -> tuple[Place | None, bytes]:
        """Look for a place to read on; return it and all that is behind it."""
        assert self._window is not None
        window = self._window
        window += view
        place = self._look(window, self._window_start)
        if isinstance(place, Place):
            self._skipped += place.at
            self._window = None
            return place, bytes(window[place.at :])
        kept = place.at if place is not None else max(len(window) - TAIL_BYTES, 0)
        self._window_start = max(self._window_start - kept, 0)
        self._skipped += kept
        del window[:kept]
        return None, b""

    def _look(self, window: bytearray, start: int) -> Place | Pending | None:
        known = self._known
        if self._section_id is not None:
            return find_footer(window, start, self._section_id, known.sections)
        if self._ended:
            return None
        places = [find_record(window, start, known.blocks)]
        if self._channel is Channel.PRECOPY:
            if known.ram_id is not None:
                places.append(find_section_end(window, start, known.ram_id, known.sections))
            places += [
                find_footer(window, start, each, known.sections)
                for each in known.sections
                if each != known.ram_id
            ]
        found = [place for place in places if place is not None]
        return min(found, key=lambda place: place.at, default=None)

    def _found(self, place: Place) -> tuple[QemuMessage, ...]:
        """Go on at a place; return what that says."""
        section_id, self._section_id = self._section_id, None
        if section_id is not None:
            self._step = self._outer
            name = self._known.sections[section_id]
            # The footer is none of its state.
            return (DeviceSection(name=name, body_bytes=self._skipped - _FOOTER_BYTES),)
        if place.by == "footer":
            self._step = self._outer
        else:
            self._step, self._block = self._record, place.block
            self._nameless = place.block is None
        return (Found(by=place.by, skipped_bytes=self._skipped),)
