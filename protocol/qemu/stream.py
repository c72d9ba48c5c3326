"""The main channel of a source, from its magic number to its end, to messages.

Used as every `QemuDecoder` is.

What midstream does not speak is refused by name.  The device state is opaque: its sections do not
say how long they are, so only those in a package, whose length is known, can be passed over.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.qemu.commands import read_command, read_package
from protocol.qemu.constants import (
    CAPABILITY_COUNT_MAX,
    FILE_MAGIC,
    FILE_VERSION,
    MACHINE_NAME_BYTES_MAX,
    PACKAGE_BYTES_MAX,
    PACKAGE_TAIL_BYTES,
    RAM_SECTION,
    RAM_SECTION_VERSION,
    TLS_HANDSHAKE,
    Section,
)
from protocol.qemu.cursor import Short, text
from protocol.qemu.decoder import QemuDecoder
from protocol.qemu.messages import (
    Advise,
    Blocks,
    Configuration,
    EndOfSection,
    Package,
    Pages,
    QemuMessage,
    StreamEnd,
)

_Step = Callable[[], QemuMessage | None]


class Decoder(QemuDecoder):
    """The main channel, from its magic number to its end."""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        super().__init__()
        self._step: _Step = self._head
        self._page_sizes = 0
        self._blocks_known = False
        # The section of the RAM, when one began; and the one that is being read.
        self._ram_id: int | None = None
        self._package_bytes = self._package_left = 0
        self._package_tail = b""
        self._packaged = False

    def resumed(self) -> Decoder:
        """Return the decoder of another connection, over which this stream goes on.

        It begins with a command, and knows what was said before the first connection broke.
        """
        other = Decoder()
        other._records.learn(self._records.blocks)
        other._step = other._outer
        other._ram_id = self._ram_id
        other._blocks_known, other._packaged = self._blocks_known, self._packaged
        return other

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: all was said."""
        return self._step == self._behind_end and not (self._cursor.left or self._broken)

    def _read(self) -> QemuMessage | None:  # type: ignore[explicit-override]
        return self._step()

    def _head(self) -> QemuMessage | None:
        if bytes(self._cursor.data[:2]) == TLS_HANDSHAKE:
            raise RemoteProtocolError("the source speaks TLS, switch its tls-creds off")
        if (magic := self._cursor.be32()) != FILE_MAGIC:
            raise RemoteProtocolError(f"{magic:#010x} is not the beginning of a QEMU stream")
        if (version := self._cursor.be32()) != FILE_VERSION:
            raise RemoteProtocolError(f"version {version} of QEMU's stream is not {FILE_VERSION}")
        self._step = self._configuration
        return None

    def _configuration(self) -> QemuMessage:
        """Read which machine it is (migration/savevm.c, vmstate_configuration)."""
        if self._cursor.u8() != Section.CONFIGURATION:
            raise RemoteProtocolError("the stream has no configuration section")
        length = self._cursor.be32()
        if not 0 < length <= MACHINE_NAME_BYTES_MAX:
            raise RemoteProtocolError(f"a machine's name of {length} bytes is out of bounds")
        machine = text(self._cursor.take(length), "the machine")
        self._step = self._outer
        return Configuration(machine=machine)

    def _outer(self) -> QemuMessage | None:
        kind = self._cursor.u8()
        match kind:
            case Section.COMMAND:
                return self._command()
            case Section.START | Section.FULL:
                self._begin(kind)
            case Section.PART | Section.END:
                self._go_on()
            case Section.SUBSECTION if self._ram_id is None:
                self._subsection()
            case Section.EOF:
                return self._end()
            case _:
                raise RemoteProtocolError(f"a section of type {kind:#04x} came where none can be")
        return None

    def _end(self) -> StreamEnd:
        if not self._packaged:
            raise RemoteProtocolError("the stream ended without a switch to postcopy")
        self._step = self._behind_end
        return StreamEnd()

    def _behind_end(self) -> QemuMessage | None:
        self._cursor.take(1)
        raise RemoteProtocolError("bytes came after the end of the stream")

    def _subsection(self) -> None:
        """Read what else the configuration section says: what the source insists on."""
        name = self._cursor.name("a subsection")
        self._cursor.be32()  # Its version; of each there is one.
        match name:
            case "configuration/capabilities":
                count = self._cursor.be32()
                if count > CAPABILITY_COUNT_MAX:
                    raise RemoteProtocolError(f"{count} capabilities are over the limit")
                names = [self._cursor.name("a capability") for _ in range(count)]
                if names:
                    raise RemoteProtocolError(
                        f"the stream needs the capability {names[0]}, which midstream does not "
                        "speak"
                    )
            case "configuration/target-page-bits":
                if 1 << (bits := min(self._cursor.be32(), 63)) != TARGET_PAGE_BYTES:
                    raise RemoteProtocolError(f"target pages of 2^{bits} bytes are not 4 KiB")
            case "configuration/uuid":
                self._cursor.take(16)
            case _:
                raise RemoteProtocolError(f"unknown subsection {name[:60]!r}")

    def _command(self) -> QemuMessage | None:
        message = read_command(self._cursor)
        if isinstance(message, Package):
            if self._packaged or not self._blocks_known:
                raise RemoteProtocolError("a package came twice, or before the RAMBlocks")
            if not 0 < message.package_bytes <= PACKAGE_BYTES_MAX:
                raise RemoteProtocolError(
                    f"a package of {message.package_bytes} bytes is not 1 to {PACKAGE_BYTES_MAX}"
                )
            self._package_bytes = self._package_left = message.package_bytes
            self._step = self._in_package
            return None
        if isinstance(message, Advise):
            self._page_sizes = message.page_sizes
        return message

    def _in_package(self) -> QemuMessage | None:
        """Pass over the package, keeping its beginning and its end."""
        if not self._cursor.left:
            raise Short
        start = self._cursor.at
        count = self._cursor.skip(self._package_left)
        self._package_left -= count
        # The end is found in what was kept and the last bytes of what came.
        came = bytes(
            self._cursor.data[max(start, start + count - PACKAGE_TAIL_BYTES) : start + count]
        )
        self._package_tail = (self._package_tail + came)[-PACKAGE_TAIL_BYTES:]
        if self._package_left:
            return None
        self._step, self._packaged = self._outer, True
        return Package(package_bytes=self._package_bytes, pings=read_package(self._package_tail))

    def _begin(self, kind: int) -> None:
        section_id, name = self._cursor.be32(), self._cursor.name("a section")
        self._cursor.be32()  # Which of several devices of that name.
        version = self._cursor.be32()
        if name != RAM_SECTION or kind != Section.START:
            hint = "" if self._packaged else "; start postcopy before precopy has converged"
            raise RemoteProtocolError(
                f"the state of {name[:60]!r} came outside a package, its length cannot be "
                f"known{hint}"
            )
        if self._ram_id is not None or version != RAM_SECTION_VERSION:
            raise RemoteProtocolError(f"a RAM section of version {version} begins, or a second one")
        self._ram_id = section_id
        self._step = self._ram

    def _go_on(self) -> None:
        section_id = self._cursor.be32()
        if section_id != self._ram_id:
            raise RemoteProtocolError(f"section {section_id} goes on, which never began")
        self._step = self._ram

    def _ram(self) -> QemuMessage:
        message = self._records.next(page_sizes=None if self._blocks_known else self._page_sizes)
        match message:
            case Blocks():
                self._blocks_known = True
            case Pages() if not self._blocks_known:
                raise RemoteProtocolError("pages came before the RAMBlocks")
            case EndOfSection():
                self._step = self._footer
        return message

    def _footer(self) -> None:
        kind, section_id = self._cursor.u8(), self._cursor.be32()
        if (kind, section_id) != (Section.FOOTER, self._ram_id):
            raise RemoteProtocolError("a RAM section has no footer, is the machine type too old?")
        self._step = self._outer
