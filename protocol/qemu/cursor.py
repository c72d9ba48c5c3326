"""Bytes that came from a socket, read as fields; what is not all here yet is read again later."""

from __future__ import annotations

import struct

from protocol.errors import RemoteProtocolError

_BE16 = struct.Struct(">H")
_BE32 = struct.Struct(">I")
_BE64 = struct.Struct(">Q")


class Short(Exception):
    """A field is not all here yet."""


class Cursor:
    """A buffer and a place in it.

    `keep` fixes what was read; `rewind` goes back to where `keep` was last called.

    Attributes:
        data: All that is held; an index into it is a place.
        at: The place.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.data = bytearray()
        self.at = 0
        self._kept = 0

    @property
    def left(self) -> int:
        """How many bytes lie behind the place."""
        return len(self.data) - self.at

    def feed(self, more: bytes | bytearray | memoryview) -> None:
        """Buffer bytes; places before this call are void, but for the one that was kept."""
        if self._kept:
            del self.data[: self._kept]
            self.at -= self._kept
            self._kept = 0
        self.data += more

    def keep(self) -> None:
        """Be done with all before the place."""
        self._kept = self.at

    def rewind(self) -> None:
        """Go back to what was kept."""
        self.at = self._kept

    def clear(self) -> None:
        """Drop everything."""
        self.data.clear()
        self.at = self._kept = 0

    def skip(self, count: int) -> int:
        """Step over so many bytes, or as many as are here; return how many."""
        count = min(count, self.left)
        self.at += count
        return count

    def take(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            Short: They are not all here.
        """
        if self.left < count:
            raise Short
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def u8(self) -> int:
        """Read a byte."""
        return self.take(1)[0]

    def be16(self) -> int:
        """Read a 16-bit number."""
        value: int = self._number(_BE16)
        return value

    def be32(self) -> int:
        """Read a 32-bit number."""
        value: int = self._number(_BE32)
        return value

    def be64(self) -> int:
        """Read a 64-bit number."""
        value: int = self._number(_BE64)
        return value

    def name(self, what: str) -> str:
        """Read a name: a byte for its length, then so many characters.

        Raises:
            Short: It is not all here.
            RemoteProtocolError: It is empty, or not printable ASCII.
        """
        return text(self.take(self.u8()), what)

    def _number(self, form: struct.Struct) -> int:
        if self.left < form.size:
            raise Short
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return int(value)


def text(data: bytes, what: str) -> str:
    """Return a name as text.

    Raises:
        RemoteProtocolError: It is empty, or not printable ASCII.
    """
    if not (data and data.isascii() and (decoded := data.decode()).isprintable()):
        raise RemoteProtocolError(f"the name of {what} is not printable ASCII: {data[:20]!r}")
    return decoded
