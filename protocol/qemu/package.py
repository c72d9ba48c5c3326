"""The package at the switch-over: LISTEN, the devices, perhaps a ping, RUN.

migration/migration.c, postcopy_start: the source puts it into a buffer and sends that whole, so
that its destination can listen for pages while it loads the devices.  Only its end is looked at.
"""

from __future__ import annotations

import struct

from protocol.errors import RemoteProtocolError
from protocol.qemu.constants import CMD_BYTES, Cmd, Section

_COMMAND = struct.Struct(">BHH")
_RUN = _COMMAND.pack(Section.COMMAND, Cmd.POSTCOPY_RUN, CMD_BYTES[Cmd.POSTCOPY_RUN])
_PING = _COMMAND.pack(Section.COMMAND, Cmd.PING, CMD_BYTES[Cmd.PING])
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
