"""The heads of a source's stream, one after the other, as who follows it reads them.

A head says what it is and what comes behind it: memory, something opaque of a known length, or the
state of a device, which does not say how long it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
    RAM_SECTION,
    RECORD_HEAD_BYTES,
    Ram,
    Section,
)
from protocol.qemu.cursor import Cursor, Short, text
from protocol.qemu.known import Known
from protocol.qemu.messages import (
    Advise,
    Configuration,
    EndOfSection,
    Package,
    QemuMessage,
    StreamEnd,
)
from protocol.qemu.pieces import Description, OtherCommand, PackageEnd
from protocol.qemu.ram import RamRecords
from protocol.qemu.resync import Place


class Body(NamedTuple):
    """Memory comes: so many bytes, which are one target page or, where encoded, encode it."""

    block: str
    offset: int
    length: int
    encoded: bool


class Opaque(NamedTuple):
    """So many bytes come; what they were is said from how many they were, and the last of them."""

    length: int
    said: Callable[[int, bytes], QemuMessage]


class Unsized(NamedTuple):
    """The state of a device comes, up to this section's footer."""

    section_id: int


Behind = Body | Opaque | Unsized


class Heads:
    """Reads one connection's heads.

    Attributes:
        ended: The stream's end has been read.
    """

    def __init__(self, channel: Channel, known: Known, *, resumed: bool) -> None:
        """Start at the beginning of a connection.

        Args:
            channel: Which one it is.
            known: What is known of the guest; the main connection's heads are added to it.
            resumed: The main connection goes on where another has broken.
        """
        self.ended = False
        self._known = known
        self._channel = channel
        is_main = channel is Channel.PRECOPY
        first = self._outer if resumed else self._magic
        self._step: Callable[[Cursor], QemuMessage | None] = first if is_main else self._record
        self._behind: Behind | None = None
        self._block: RamBlock | None = None
        # A row of records was found, and nobody can tell of which block.
        self._nameless = False

    def read(self, cursor: Cursor) -> tuple[QemuMessage | None, Behind | None]:
        """Read a head; return what it says, and what comes behind it before the next.

        Raises:
            Short: It is not whole yet; read it again when more has come.
            RemoteProtocolError: It makes no sense, and nothing behind it does.
        """
        step, self._behind = self._step, None
        try:
            message = self._step(cursor)
        except Short:
            self._step = step
            raise
        return message, self._behind

    @property
    def reads_records(self) -> bool:
        """Whether the next head is that of a RAM record."""
        return self._step == self._record

    @property
    def row_block(self) -> str:
        """Name of the RAMBlock of records that do not say so; empty where nobody can tell."""
        return self._block.name if self._block is not None else ""

    @property
    def row_length_bytes(self) -> int:
        """How long the block of the records is, 0 where there is none."""
        if self._block is not None:
            return self._block.length_bytes
        if self._nameless:
            return max(block.length_bytes for block in self._known.blocks.values())
        return 0

    def lose(self) -> None:
        """Forget the records' block: where bytes are passed over, nobody can tell which it is."""
        self._block, self._nameless = None, False

    def go_on_at(self, place: Place) -> None:
        """Go on at a place that was searched for."""
        if place.by == "footer":
            self._step = self._outer
        else:
            self._step, self._block = self._record, place.block
            self._nameless = place.block is None

    # The outer level.

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
                self._step, self.ended = self._behind_end, True
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
                self._behind = Opaque(message.package_bytes, _packaged)
        return message

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
            self._behind = Unsized(section_id)
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
            self._behind = Opaque(length, _described)

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
        if address >= (self.row_length_bytes if block is None else block.length_bytes):
            raise RemoteProtocolError(f"a page at {address:#x} is outside its RAMBlock")
        kind = flags & ~Ram.CONTINUE
        match kind:
            case Ram.PAGE:
                count = TARGET_PAGE_BYTES
            case Ram.ZERO:
                count = 1
            case Ram.COMPRESS_PAGE:
                count = cursor.be32()
            case Ram.XBZRLE:
                if cursor.u8() != ENCODED_BY_XBZRLE:
                    raise RemoteProtocolError("a page is encoded, and not by XBZRLE")
                count = cursor.be16()
            case _:
                raise RemoteProtocolError(f"a RAM record has the flags {int(flags):#x}")
        if not 0 < count <= COMPRESSED_BYTES_MAX:
            raise RemoteProtocolError(f"an encoded page of {count} bytes is out of bounds")
        self._block = block
        name = block.name if block is not None else ""
        self._behind = Body(name, address, count, encoded=kind != Ram.PAGE)
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


def _packaged(package_bytes: int, tail: bytes) -> QemuMessage:
    """Say that a package has passed, with the pings in it."""
    try:
        pings = read_package(tail)
    except RemoteProtocolError:
        pings = ()
    return PackageEnd(package_bytes=package_bytes, pings=pings)


def _described(length: int, _: bytes) -> QemuMessage:
    return Description(description_bytes=length)
