"""A plain TCP connection as a stream; one over a Unix socket will do, too, without its figures."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress

import trio

from guest.streams.queues import heed_priority
from guest.streams.stream import GRANTED, PATIENCE_MS, Delivery

# The highest that needs no privilege ("interactive", pfifo_fast(8), prio(8)): of the three bands of
# the queue that Linux gives a network card, the first.
PRIORITY = 6

# `struct tcp_info` (include/uapi/linux/tcp.h) as far as it is needed; it only ever grows.
_TCP_INFO = struct.Struct("=148xI8xQ")
TCP_INFO_BYTES = _TCP_INFO.size


def unacknowledged_bytes(sock: int | socket.socket) -> int:
    """Return what a socket has taken and the peer's kernel has not acknowledged (SIOCOUTQ).

    Raises:
        OSError: It is no connected socket.
    """
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def read_tcp_info(unacknowledged: int, info: bytes) -> Delivery:
    """Return how a connection delivers, out of the beginning of its `struct tcp_info`.

    An old kernel says less, and then the rate and the round trip are 0.
    """
    if len(info) < TCP_INFO_BYTES:
        return Delivery(unacknowledged)
    round_trip_us, bytes_per_second = _TCP_INFO.unpack_from(info)
    return Delivery(unacknowledged, bytes_per_second, round_trip_us)


class TcpStream:
    """A connected socket; closes it in `close`."""

    gathers = True

    def __init__(self, sock: trio.socket.SocketType, dscp: int | None = None) -> None:
        """Take a socket.  Who has read of it already must hand on what that was.

        Args:
            sock: Connected.
            dscp: How packets are marked that go first, for the queues of the network to heed; None
                for not at all.
        """
        self._sock = sock
        self._dscp = dscp
        self._poll = select.poll()
        self._has_priority = False

    def try_write(self, buffers: Sequence[memoryview]) -> int:
        """See `Stream`."""
        try:
            return os.writev(self._sock.fileno(), buffers)
        except BlockingIOError:
            return 0

    def try_read_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See `Stream`."""
        try:
            return os.readv(self._sock.fileno(), buffers)
        except BlockingIOError:
            return None

    async def wait_writable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.wait_writable(self._sock)

    async def wait_readable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.wait_readable(self._sock)

    def is_writable_soon(self) -> bool:
        """See `Stream`."""
        self._poll.register(self._sock.fileno(), select.POLLOUT)
        return bool(self._poll.poll(PATIENCE_MS))

    def is_readable_soon(self) -> bool:
        """See `Stream`."""
        self._poll.register(self._sock.fileno(), select.POLLIN)
        return bool(self._poll.poll(PATIENCE_MS))

    def unread_bytes(self) -> int:
        """See `Stream`."""
        unread = fcntl.ioctl(self._sock.fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(unread, sys.byteorder)

    def wake_at(self, count: int) -> None:
        """See `Stream`."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def bound_unsent(self, buffer_bytes: int, unsent_bytes: int) -> None:
        """See `Stream`; the kernel doubles the buffer to pay for its own bookkeeping."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_bytes)

    def prioritize(self) -> str:
        """See `Stream`; with a DSCP, packets are marked with it, too."""
        try:
            if self._dscp is not None:
                self._mark(self._dscp)
            # Behind the mark, with which the kernel sets the priority anew (ip(7), IP_TOS).
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
        except OSError as error:
            return f"refused: {error.strerror or error}"
        self._has_priority = True
        return GRANTED if self._dscp is None else f"{GRANTED}, DSCP {self._dscp}"

    def overtakes(self) -> bool:
        """See `Stream`."""
        try:
            there = self._sock.getpeername()
        except OSError:
            return False
        is_ip = self._sock.family in (socket.AF_INET, socket.AF_INET6)
        return self._has_priority and is_ip and heed_priority(there[0])

    def _mark(self, dscp: int) -> None:
        # The two bits below are for congestion, and the kernel's.
        if self._sock.family == socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        # A socket of IPv6 may be connected to an address of IPv4.
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)

    def trust_silence(self) -> None:
        """See `Stream`."""
        # What is no TCP connection has no such limit.
        with suppress(OSError):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def delivery(self) -> Delivery:
        """See `Stream`."""
        try:
            unacknowledged = unacknowledged_bytes(self._sock.fileno())
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except (OSError, ValueError):
            # What is no TCP connection has no such figures, and what is broken or closed none any
            # more.
            return Delivery()
        return read_tcp_info(unacknowledged, info)

    def end_writing(self) -> None:
        """See `Stream`."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Stream`."""
        self._sock.close()
