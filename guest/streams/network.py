"""Where streams come from: a source connects, a destination listens; over TCP, or in memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from guest.streams.binding import (
    accept,
    address_text,
    host_text,
    is_loopback,
    listen_on,
    places_of,
)
from guest.streams.stream import Stream
from guest.streams.tcp import TcpStream
from protocol.addresses import host_port

Log = Callable[[str], None]

# What Ethernet carries.
_SHORT_SEGMENT_BYTES = 1448


class Arrival(NamedTuple):
    """A connection that somebody has made to a door.

    Attributes:
        stream: Its bytes.
        host: The address that it comes from.
        address: The same as HOST:PORT.
    """

    stream: Stream
    host: str
    address: str


class Door(Protocol):
    """An address at which connections are accepted.

    Attributes:
        address: As HOST:PORT.
    """

    address: str

    async def accept(self, complain: Log, /) -> Arrival:
        """Wait for a connection.

        Args:
            complain: Takes a line about each that could not be accepted.
        """

    def close(self) -> None:
        """Accept no more."""


class Network(Protocol):
    """Connects two sides."""

    async def connect(self, host: str, port: int) -> tuple[Stream, str]:
        """Connect to an address; return the stream, and which of the host's addresses it reached.

        Args:
            host: A name or address.
            port: A TCP port.

        Raises:
            OSError: Nobody listens there.
        """

    async def listen(
        self, host: str, port: int, log: Log, *, loopback_only: bool
    ) -> Sequence[Door] | None:
        """Listen on all addresses of a name; return one door for each, all on the same port.

        Args:
            host: A name or address; `::` is every address of this machine, of IPv4 too.
            port: A TCP port; 0 picks one that is free at all addresses.
            log: Takes a line about further addresses, and about what this machine has not.
            loopback_only: Listen nowhere, and return None, where other machines could connect.

        Raises:
            MigrationError: The address cannot be listened on.
        """


class TcpDoor:
    """A socket that listens."""

    def __init__(
        self, sock: trio.socket.SocketType, silence_seconds_max: float, dscp: int | None
    ) -> None:
        """Take the socket and close it in `close`."""
        self.address = address_text(sock.getsockname())
        self._sock = sock
        self._silence_seconds_max = silence_seconds_max
        self._dscp = dscp

    async def accept(self, complain: Log) -> Arrival:
        """See `Door`."""
        sock, name = await accept(self._sock, complain)
        _tune(sock, self._silence_seconds_max)
        return Arrival(TcpStream(sock, self._dscp), host_text(name), address_text(name))

    def close(self) -> None:
        """See `Door`."""
        self._sock.close()


class TcpNetwork:
    """The machine's own network."""

    def __init__(
        self,
        silence_seconds_max: float = 10.0,
        window_bytes: int = 0,
        dscp: int | None = None,
    ) -> None:
        """Set what holds for each connection.

        Args:
            silence_seconds_max: It is broken when what was sent is not acknowledged for so long; 0
                for as long as the kernel has patience.
            window_bytes: What may lie in its sockets where this side listens, about; 0 for what the
                kernel lets.
            dscp: How packets are marked of a connection that goes first; None for not at all.
        """
        self._dscp = dscp
        self._silence_seconds_max = silence_seconds_max
        self._window_bytes = window_bytes

    async def connect(self, host: str, port: int) -> tuple[Stream, str]:
        """See `Network`."""
        sock = (await trio.open_tcp_stream(host, port)).socket
        try:
            return self._stream(sock), host_text(sock.getpeername())
        except BaseException:
            # It was reset as soon as it was there.
            sock.close()
            raise

    def _stream(self, sock: trio.socket.SocketType) -> Stream:
        _tune(sock, self._silence_seconds_max)
        # trio keeps little in the kernel, which costs a busy stream four times the CPU time: until
        # postcopy, when it is worth that, the system's default holds.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
        return TcpStream(sock, self._dscp)

    async def listen(
        self, host: str, port: int, log: Log, *, loopback_only: bool
    ) -> Sequence[Door] | None:
        """See `Network`."""
        places = await places_of(host, port)
        if loopback_only and not all(is_loopback(place.name) for place in places):
            return None
        socks = listen_on(places, host_port(host, port), log)
        # Nothing has been accepted yet.
        for sock in socks if self._window_bytes else ():
            _keep_short(sock, self._window_bytes)
        return [TcpDoor(sock, self._silence_seconds_max, self._dscp) for sock in socks]


def _keep_short(sock: trio.socket.SocketType, window_bytes: int) -> None:
    """Have the connections of a listening socket hold little, at the other end, too.

    What a QEMU has written it cannot call back, and its own buffer is the kernel's to size: twice
    its congestion window, of at least ten segments (net/ipv4/tcp_input.c, tcp_sndbuf_expand).  On
    loopback ten segments are most of a megabyte; they are as small as this side says.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SHORT_SEGMENT_BYTES)


def _tune(sock: trio.socket.SocketType, silence_seconds_max: float) -> None:
    # What was sent and not acknowledged for so long never will be.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_seconds_max * 1000))
    # Without it, the small head of a frame could wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


TCP = TcpNetwork()
