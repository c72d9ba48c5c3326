"""Connected sockets, a peer that says over them what a test wants, and names that lead to them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import trio

from guest.streams.exchange import receive_into, send_all
from guest.streams.stream import Stream
from guest.streams.tcp import TcpStream
from protocol.errors import ConnectionLost, root_cause
from protocol.messages import (
    Message,
)
from protocol.wire import Decoder, encode
from tests.bounds import BOUND_SECONDS, bounded
from tests.guests import KIB

M = TypeVar("M", bound=Message)


@contextmanager
def tcp_pair(
    buffer_bytes: int | None = None, seconds: float = BOUND_SECONDS
) -> Iterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    """Make two connected TCP sockets on loopback; the block is bounded.

    Args:
        buffer_bytes: For the sender's and the receiver's buffers, where they are to be small.
        seconds: The bound.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as near:
        if buffer_bytes is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        near.connect(server.getsockname())
        far, _ = server.accept()
        ours = trio.socket.from_stdlib_socket(near)
        theirs = trio.socket.from_stdlib_socket(far)
        try:
            with bounded(seconds):
                yield ours, theirs
        finally:
            ours.close()
            theirs.close()


@contextmanager
def tcp_streams() -> Iterator[tuple[TcpStream, TcpStream]]:
    """Make two ends of a TCP connection as `tcp_pair` does, as streams."""
    with tcp_pair() as (near, far):
        yield TcpStream(near), TcpStream(far)


@contextmanager
def unix_pair(
    buffer_bytes: int,
) -> Iterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    """Make two connected sockets without timers between them; the block is bounded.

    What one side reads the other side can send at once, where TCP with small buffers takes its
    time: for tests that look at what a full socket holds up.

    Args:
        buffer_bytes: For the send buffers.
    """
    ours, theirs = trio.socket.socketpair()
    with ours, theirs, bounded():
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        yield ours, theirs


async def loss_while(
    reading: Callable[[], Awaitable[object]], watching: Callable[[], Awaitable[object]]
) -> ConnectionLost:
    """Return the loss of a connection that is read and watched at the same time."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reading)
            nursery.start_soon(watching)
    except ExceptionGroup as group:
        cause = root_cause(group)
        assert isinstance(cause, ConnectionLost)
        return cause
    raise AssertionError("nothing was lost")


class Peer:
    """The other side of a connection, played by hand: messages in and out, and plain bytes."""

    def __init__(self, sock: trio.socket.SocketType | Stream) -> None:
        """Take a connected socket, or a stream.

        Attributes:
            sock: The socket; not to be used where a stream was given.
        """
        self.sock = cast("trio.socket.SocketType", sock)
        self._stream = TcpStream(sock) if isinstance(sock, trio.socket.SocketType) else sock
        self._decoder = Decoder()

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Send a message as any peer would."""
        await self.send_bytes(encode(message) + payload)

    async def send_bytes(self, data: bytes) -> None:
        """Send what may be no message at all."""
        await send_all(self._stream, data)

    async def receive(self) -> tuple[Message, bytes]:
        """Return the next message and its payload.

        Raises:
            EOFError: The other side closed, or reset, the connection.
        """
        while (message := self._decoder.next_message()) is None:
            self._decoder.receive_data(await self._receive_some(64 * KIB))
        payload = bytearray(message.payload_bytes)
        have = self._decoder.take_payload(memoryview(payload)) if payload else 0
        while have < len(payload):
            data = await self._receive_some(len(payload) - have)
            payload[have : have + len(data)] = data
            have += len(data)
        return message, bytes(payload)

    async def expect(self, message_type: type[M]) -> M:
        """Return the next message, which must be of that type."""
        message, _ = await self.receive()
        assert isinstance(message, message_type), f"{message} is no {message_type.__name__}"
        return message

    async def skip_to(self, message_type: type[M]) -> M:
        """Return the next message of that type, whatever comes before it."""
        while True:
            message, _ = await self.receive()
            if isinstance(message, message_type):
                return message

    async def receive_all(self) -> list[tuple[Message, bytes]]:
        """Return all messages until the other side ends the connection."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except EOFError:
            return messages

    async def wait_closed(self) -> None:
        """Wait until the other side ends the connection."""
        try:
            while True:
                await self._receive_some(64 * KIB)
        except EOFError:
            return

    def close(self) -> None:
        """End the connection, as a process does that exits."""
        self._stream.close()

    def reset(self) -> None:
        """End the connection, as a machine does that has lost it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _receive_some(self, most_bytes: int) -> bytes:
        try:
            place = memoryview(bytearray(most_bytes))
            count = await receive_into(self._stream, [place])
        except OSError as error:
            raise EOFError from error
        if not count:
            raise EOFError
        return bytes(place[:count])


async def dial(address: str, buffer_bytes: int | None = None) -> Peer:
    """Connect to HOST:PORT, with a small receive buffer if so much is given."""
    host, port = address.rsplit(":", 1)
    sock = trio.socket.socket()
    if buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    await sock.connect((host, int(port)))
    return Peer(sock)


class _Names(trio.abc.HostnameResolver):
    """Knows one name, which has addresses of IPv4, and what is an address already."""

    def __init__(self, name: str, hosts: list[str]) -> None:
        self._known = {name.encode(): hosts}

    async def getaddrinfo(  # type: ignore[explicit-override]
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the interface's
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Look a name up."""
        await trio.lowlevel.checkpoint()
        assert host is not None
        found = []
        for each in self._known.get(host, [host.decode()]):
            found += socket.getaddrinfo(each, port, family, type, proto, flags)
        return found

    async def getnameinfo(  # type: ignore[explicit-override]
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """Look an address up."""
        await trio.lowlevel.checkpoint()
        return socket.getnameinfo(sockaddr, flags)


@contextmanager
def knowing(name: str, *hosts: str) -> Iterator[list[str]]:
    """Have a name stand for these addresses inside the block, for trio; yield them to change."""
    known = list(hosts)
    before = trio.socket.set_custom_hostname_resolver(_Names(name, known))
    try:
        yield known
    finally:
        trio.socket.set_custom_hostname_resolver(before)


def unused_port() -> int:
    """Return a TCP port of loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
