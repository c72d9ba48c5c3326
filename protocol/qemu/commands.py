"""The commands of the main channel: migration/savevm.c, qemu_savevm_send_* and loadvm_*.

At the switch-over some of them are in a package: LISTEN, the devices, perhaps a ping, RUN.  The
source puts it into a buffer and sends that whole, so that its destination can listen for pages
while it loads the devices (migration/migration.c, postcopy_start).  Only its end is looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES
from protocol.qemu.constants import CMD_BYTES, COMMAND_HEAD, DISCARD_VERSION, Cmd, Section
from protocol.qemu.cursor import Cursor, text
from protocol.qemu.messages import (
    Advise,
    AskReceived,
    DiscardRanges,
    OpenReturnPath,
    Package,
    Ping,
    QemuMessage,
    Resume,
    SwitchoverStart,
)

_ADVICE_BYTES = 16
_RANGE_BYTES = 16


def read_command(cursor: Cursor) -> QemuMessage:
    """Read a command, from behind the byte that announces one.

    Of a `Package` only the head is read; its bytes follow.

    Raises:
        Short: It is not all here.
        RemoteProtocolError: It is none that a source sends here.
    """
    number, length = cursor.be16(), cursor.be16()
    data = cursor.take(length)
    try:
        command = Cmd(number)
    except ValueError:
        raise RemoteProtocolError(f"command {number} is not known") from None
    if CMD_BYTES.get(command, length) != length:
        raise RemoteProtocolError(f"the command {command.name} has {length} bytes")
    if command is Cmd.ENABLE_COLO:
        raise RemoteProtocolError("the stream uses COLO, which midstream does not speak")
    if command not in _READERS:
        raise RemoteProtocolError(f"the command {command.name} came outside a package")
    return _READERS[command](data)


def _advise(data: bytes) -> Advise:
    """Read the advice: all page sizes, and the target page's."""
    if not data:
        return Advise(page_sizes=0)
    if len(data) != _ADVICE_BYTES:
        raise RemoteProtocolError(f"the command POSTCOPY_ADVISE has {len(data)} bytes")
    target_page_bytes = int.from_bytes(data[8:], "big")
    if target_page_bytes != TARGET_PAGE_BYTES:
        raise RemoteProtocolError(f"target pages of {target_page_bytes} bytes are not 4 KiB")
    return Advise(page_sizes=int.from_bytes(data[:8], "big"))


def _discard(data: bytes) -> DiscardRanges:
    """Read a version, a block's name, a zero, and stretches of it."""
    version, data = data[:1], data[1:]
    if version != bytes([DISCARD_VERSION]):
        raise RemoteProtocolError(f"a discard of version {version!r} is not {DISCARD_VERSION}")
    name_end = 1 + (data[0] if data else 0)
    name, ranges = data[:name_end], data[name_end + 1 :]
    if data[name_end : name_end + 1] != b"\0" or not ranges or len(ranges) % _RANGE_BYTES:
        raise RemoteProtocolError("a discard is cut short, or has no stretch")
    words = [int.from_bytes(ranges[at : at + 8], "big") for at in range(0, len(ranges), 8)]
    pairs = tuple(zip(words[::2], words[1::2], strict=True))
    for offset, length in pairs:
        if not length or offset % TARGET_PAGE_BYTES or length % TARGET_PAGE_BYTES:
            raise RemoteProtocolError(f"a discard of {length} bytes at {offset} is no target pages")
    return DiscardRanges(block=_named(name), ranges=pairs)


def _named(data: bytes) -> str:
    """Return the only name in the data: a byte for its length, then so many characters."""
    if not data or data[0] != len(data) - 1:
        raise RemoteProtocolError("a RAMBlock's name is cut short")
    return text(data[1:], "a RAMBlock")


_READERS: dict[Cmd, Callable[[bytes], QemuMessage]] = {
    Cmd.OPEN_RETURN_PATH: lambda _: OpenReturnPath(),
    Cmd.PING: lambda data: Ping(value=int.from_bytes(data, "big")),
    Cmd.POSTCOPY_ADVISE: _advise,
    Cmd.POSTCOPY_RAM_DISCARD: _discard,
    Cmd.PACKAGED: lambda data: Package(package_bytes=int.from_bytes(data, "big"), pings=()),
    Cmd.POSTCOPY_RESUME: lambda _: Resume(),
    Cmd.RECV_BITMAP: lambda data: AskReceived(block=_named(data)),
    Cmd.SWITCHOVER_START: lambda _: SwitchoverStart(),
}


_RUN = COMMAND_HEAD.pack(Section.COMMAND, Cmd.POSTCOPY_RUN, CMD_BYTES[Cmd.POSTCOPY_RUN])
_PING = COMMAND_HEAD.pack(Section.COMMAND, Cmd.PING, CMD_BYTES[Cmd.PING])
_PING_BYTES = len(_PING) + CMD_BYTES[Cmd.PING]


def read_package(tail: bytes) -> tuple[int, ...]:
    """Return the values of the pings at a package's end, in their order.

    Args:
        tail: The last bytes of the package.

    Raises:
        RemoteProtocolError: It does not end with the order to run the guest.
    """
    if not tail.endswith(_RUN):
        raise RemoteProtocolError("a package does not end with the command POSTCOPY_RUN")
    rest = tail.removesuffix(_RUN)
    values: list[int] = []
    while rest[-_PING_BYTES:].startswith(_PING) and len(rest) >= _PING_BYTES:
        values.insert(0, int.from_bytes(rest[-CMD_BYTES[Cmd.PING] :], "big"))
        rest = rest[:-_PING_BYTES]
    return tuple(values)
