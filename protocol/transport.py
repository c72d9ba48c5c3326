"""What a channel needs of a connection: the part of a trio socket that it uses.

A plain TCP connection is a trio socket itself, so that nothing stands between a channel and the
kernel; `protocol.tls.TlsTransport` stands where a connection is encrypted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

# In precopy nobody is in a hurry, and a turn of the event loop costs as much as to copy a quarter
# of a MiB: so long a socket is waited for without one, for a fast connection is ready by then ...
PATIENCE_MS = 1
# ... and so long signals, signs of life and the progress line may have to wait for their turn.
UNTURNED_NS_MAX = 4_000_000


class Transport(Protocol):
    """A connection's two directions; every method is as the socket's of that name.

    A cancelled `send` or `sendmsg` may have begun with what it was given: the next call must begin
    with the same bytes.
    """

    def send(self, data: memoryview, /) -> Awaitable[int]:
        """Send some of these bytes; return how many."""

    def sendmsg(self, buffers: Iterable[memoryview], /) -> Awaitable[int]:
        """Send some of these bytes, one buffer after the other; return how many."""

    def recv(self, most_bytes: int, /) -> Awaitable[bytes]:
        """Return what is there, at least a byte, nothing at the end."""

    def recvmsg_into(
        self, buffers: Iterable[memoryview], /
    ) -> Awaitable[tuple[int, Any, int, Any]]:
        """Fill the buffers, one after the other, with what is there; return how many bytes, ..."""

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option of the TCP connection."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Return an option of the TCP connection."""

    def close(self) -> None:
        """Close it at once; harmless when done twice."""


async def send_all(transport: Transport, data: bytes) -> None:
    """Send all of a short message.

    Raises:
        OSError: The connection broke.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[await transport.send(rest) :]


async def receive_exactly(transport: Transport, count: int) -> bytes:
    """Return so many bytes, and read not one more.

    Raises:
        EOFError: The connection ended before.
        OSError: The connection broke.
    """
    data = b""
    while len(data) < count:
        more = await transport.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
