"""A link made of one process: it passes connections on, at a rate that all of them share.

It stands between the two sides where the kernel cannot be asked to shape (scripts/links/link).
Nothing but the rate is its business; what spoils a network is scripts/injection/proxy.  What it
holds cannot be preempted, so it holds little: a piece of a millisecond, and small socket buffers.

A thread carries each direction of each connection.  An event loop would spend more on the many
small pieces than the rates that matter leave.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import trio

from scripts.links.shape import buffer_bytes, piece_bytes

# How far a bucket may fall behind and catch up at once: a busy machine runs nobody more punctually.
_CATCH_UP_SECONDS = 0.002


class Bucket:
    """A link's rate, shared by all that goes over it: who comes first goes first.

    Bytes are let through a piece at a time, and each piece takes its place behind those that were
    there before it.  So two busy channels get half of the link each, and neither can starve.
    """

    def __init__(self, bytes_per_second: int) -> None:
        """Start idle."""
        self._bytes_per_second = bytes_per_second
        self.piece_bytes = piece_bytes(bytes_per_second)
        self._free_at = 0.0

    def take(self, count: int, now: float) -> float:
        """Take the next place for so many bytes; return the time at which they may go."""
        starts_at = max(self._free_at, now - _CATCH_UP_SECONDS)
        self._free_at = starts_at + count / self._bytes_per_second
        return starts_at


class Throttle:
    """Passes connections on to one address; `serve` it."""

    def __init__(self, bytes_per_second: int) -> None:
        """Prepare; nothing listens yet.

        Args:
            bytes_per_second: Of all connections together, each direction for itself.
        """
        self._bytes_per_second = bytes_per_second
        self._lanes = [_Lane(bytes_per_second), _Lane(bytes_per_second)]

    @property
    def has_held(self) -> bool:
        """Whether anything had to wait for the rate so far."""
        return any(lane.has_held for lane in self._lanes)

    async def serve(
        self, host: str, port: int, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass connections on until cancelled; starts with its own HOST:PORT.

        Args:
            host: Where they are to go.
            port: On which port.
            task_status: For `nursery.start`.
        """
        with trio.socket.socket() as listener:
            keep_little(listener, self._bytes_per_second)
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            async with trio.open_nursery() as nursery:
                own_host, own_port = listener.getsockname()
                task_status.started(f"{own_host}:{own_port}")
                while True:
                    near, _ = await listener.accept()
                    nursery.start_soon(self._connect, near, host, port)

    async def _connect(self, near: trio.socket.SocketType, host: str, port: int) -> None:
        with near, trio.socket.socket() as far:
            keep_little(near, self._bytes_per_second)
            keep_little(far, self._bytes_per_second)
            # Where nobody is there any more the near end is closed: its owner hears that.
            with suppress(OSError):
                await far.connect((host, port))
                await self._join(near, far)

    async def _join(self, near: trio.socket.SocketType, far: trio.socket.SocketType) -> None:
        """Carry both ways until both have ended; cancelling ends both at once."""
        stop = threading.Event()
        with (
            socket.socket(fileno=near.detach()) as ours,
            socket.socket(fileno=far.detach()) as theirs,
        ):
            # Before either thread starts: each sends over the other's.
            ours.setblocking(True)
            theirs.setblocking(True)
            async with trio.open_nursery() as watch:
                watch.start_soon(_stop_when_cancelled, stop, ours, theirs)
                async with trio.open_nursery() as carriers:
                    for lane, way in zip(
                        self._lanes, ((ours, theirs), (theirs, ours)), strict=True
                    ):
                        carriers.start_soon(trio.to_thread.run_sync, lane.carry, *way, stop)
                watch.cancel_scope.cancel()


class _Lane:
    """One direction of the link.

    Attributes:
        has_held: Something had to wait for the rate.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self.has_held = False
        self._buffer_bytes = buffer_bytes(bytes_per_second)
        self._bucket = Bucket(bytes_per_second)
        self._turn = threading.Lock()

    def carry(self, inward: socket.socket, outward: socket.socket, stop: threading.Event) -> None:
        """Pass on until the end of file has been; what breaks one connection ends both."""
        piece = memoryview(bytearray(min(self._bucket.piece_bytes, self._buffer_bytes)))
        try:
            while count := inward.recv_into(piece):
                with self._turn:
                    starts_at = self._bucket.take(count, time.monotonic())
                if (seconds := starts_at - time.monotonic()) > 0:
                    self.has_held = True
                    if stop.wait(seconds):
                        return
                outward.sendall(piece[:count])
            outward.shutdown(socket.SHUT_WR)
        except OSError:
            _end(inward, outward)


async def _stop_when_cancelled(stop: threading.Event, *sockets: socket.socket) -> None:
    """Have threads that wait for anything end when this task is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()
        _end(*sockets)


def _end(*sockets: socket.socket) -> None:
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def keep_little(sock: trio.socket.SocketType, bytes_per_second: int = 0) -> None:
    """Make the kernel's buffers small, and have it send small pieces at once.

    Args:
        sock: Listens, or is not connected yet, or has just been accepted.
        bytes_per_second: The rate of the link that it is an end of; 0 for none.
    """
    size = buffer_bytes(bytes_per_second)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
