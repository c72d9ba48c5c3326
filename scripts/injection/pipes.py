"""One direction of a connection through the proxy."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from typing import Protocol

import trio

from guest.streams import tcp
from protocol.channels import Channel
from protocol.geometry import PageId
from scripts.injection.gates import Gate
from scripts.injection.marks import Direction, Mark, Marks
from scripts.injection.tap import Piece, Tap

_READ_BYTES = 64 * 1024

# What may be on its way while a delay holds it: 100 ms at 1 Gbit/s.
_DELAYED_BYTES_MAX = 16 << 20

# Zero seconds of lingering: closing the socket resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """The connection that a pipe is one direction of."""

    channel: Channel | None

    @property
    def cut(self) -> bool:
        """Whether nothing more may pass."""

    @property
    def deserted(self) -> bool:
        """Whether nobody is at either end."""

    def gate(self, channel: Channel | None, direction: Direction) -> Gate:
        """Return what is done to a channel's bytes in a direction."""

    def greeted(self, channel: Channel) -> None:
        """Learn the role, from the Hello that went by."""

    def reached(self, mark: Mark) -> None:
        """Report a mark."""

    def requested(self, page: PageId) -> None:
        """Report a page request that is here; the source does not have it."""


class Pipe:
    """One direction of a connection: a reader, a short queue, a writer."""

    def __init__(
        self,
        connection: Owner,
        direction: Direction,
        inward: trio.socket.SocketType,
        outward: trio.socket.SocketType,
        marks: Marks,
    ) -> None:
        self.tap = Tap(direction, marks)
        # Looks at what has come, while the other is about what goes.
        self._lookout = Tap(direction, marks.entry, connection.requested)
        self._connection = connection
        self._direction = direction
        self._in = inward
        self._out = outward
        self._gate = connection.gate(None, direction)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._moved = trio.lowlevel.ParkingLot()
        self._closed = False

    async def run(self) -> None:
        """Pass on until the sender's end of file has been.

        Raises:
            OSError: An end is gone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            await self._write()

    def half_close(self) -> None:
        """Let the receiver see the end of file here; what still comes goes nowhere."""
        self._closed = True
        with suppress(OSError):
            self._out.shutdown(socket.SHUT_WR)
        self.wake()

    def learn(self, channel: Channel) -> None:
        """Learn of which channel this is."""
        self.tap.channel = self._lookout.channel = channel
        self._gate = self._connection.gate(channel, self._direction)

    def wake(self) -> None:
        """Wake a writer that waits, to look again."""
        self._gate.changed.unpark_all()

    async def _read(self) -> None:
        while True:
            # As a rule nothing is read before what was read is gone.
            while self._queued_bytes and not self._may_read_ahead():
                await self._moved.park()
            data = await self._in.recv(_READ_BYTES)
            self._enqueue(data)
            # What a delay keeps is behind no hold: else the source would go on meanwhile, as far as
            # its machine is fast.
            for piece in self._lookout.feed(memoryview(data)):
                if piece.held:
                    await self._wait_change()
            if not data:
                return

    def _enqueue(self, data: bytes) -> None:
        due = trio.current_time() + self._gate.delay_seconds
        if self._gate.stands and self._queue and data:
            # What the network stands still for is one piece, with a delay too.
            self._queue = deque((due, each) for _, each in self._queue)
        self._queue.append((due, data))
        self._queued_bytes += len(data)
        self._moved.unpark_all()

    def _may_read_ahead(self) -> bool:
        if self._gate.delay_seconds and not self._stands_forward():
            return self._queued_bytes < _DELAYED_BYTES_MAX
        # What piles up before a stall comes as one piece after it.
        return self._is_held() and self._queued_bytes < _READ_BYTES

    def _stands_forward(self) -> bool:
        return self._direction is Direction.FORWARD and self._gate.stands

    async def _write(self) -> None:
        while True:
            while not self._queue:
                await self._moved.park()
            await trio.sleep_until(self._queue[0][0])
            while self._is_held():
                self._moved.unpark_all()
                await self._gate.changed.park()
            if self._queue[0][0] > trio.current_time():
                # It goes with what came behind it while the network stood still.
                continue
            data = self._take_due()
            if not data:
                if not self._closed:
                    self._out.shutdown(socket.SHUT_WR)
                return
            await self._pass_on(memoryview(data))
            self._queued_bytes -= len(data)
            self._moved.unpark_all()

    def _take_due(self) -> bytes:
        """Dequeue what is to go by now, up to the end of file; that alone is empty."""
        pieces: list[bytes] = []
        while self._queue and self._queue[0][0] <= trio.current_time():
            if pieces and not self._queue[0][1]:
                break
            pieces.append(self._queue.popleft()[1])
            if not pieces[-1]:
                break
        return b"".join(pieces)

    async def _pass_on(self, data: memoryview) -> None:
        """Send, up to each mark; at it, let happen what is to happen before the next byte."""
        start = 0
        for piece in self.tap.feed(data, time.monotonic_ns()):
            if piece.held:
                if start == piece.start:
                    await self._wait_change()
                else:
                    # Meanwhile it may have been let go.
                    await self._send(data[start : piece.start])
                    start = piece.start
                continue
            if self._gate.corrupts(piece.part):
                await self._send(data[start : piece.start])
                await self._send(self._gate.corrupt(piece.part, data[piece.start : piece.stop]))
                start = piece.stop
            if piece.reached or self._new_role():
                try:
                    await self._send(data[start : piece.stop])
                except BaseException:
                    # It never arrived: what comes first over another connection reaches them.
                    self.tap.put_back(piece)
                    raise
                start = piece.stop
                self._tell(piece)
        await self._send(data[start:])

    def _tell(self, piece: Piece) -> None:
        """Say what a piece was that has just gone; nothing here may wait."""
        if (role := self._new_role()) is not None:
            self._connection.greeted(role)
        for mark in piece.reached:
            self._connection.reached(mark)

    def _new_role(self) -> Channel | None:
        """Return the role that went by and that the connection has not heard of."""
        return self.tap.channel if self._connection.channel is None else None

    async def _send(self, data: memoryview) -> None:
        gate = self._gate
        # What the rate has let through and is not with the kernel yet.
        allowed = 0
        while data and not self._closed:
            if self._is_held():
                await self._wait_change()
                continue
            if not allowed:
                allowed = await gate.take_turn(len(data))
                continue
            await trio.lowlevel.wait_writable(self._out)
            if self._is_held() or self._closed:
                continue
            count = self._send_now(data[:allowed])
            allowed -= count
            data = data[count:]

    async def _wait_change(self) -> None:
        """Wait, in the middle of a piece, until there is another look to be had at the gate.

        Raises:
            OSError: Meanwhile both ends have gone; nothing of what is here passes any more.
        """
        self._moved.unpark_all()
        await self._gate.changed.park()
        if self._connection.deserted:
            raise BrokenPipeError

    def _is_held(self) -> bool:
        return self._gate.shut or self._connection.cut

    def _send_now(self, data: memoryview) -> int:
        """Hand bytes to the kernel without waiting, so that no action can come in between."""
        try:
            return os.write(self._out.fileno(), data)
        except BlockingIOError:
            return 0


def reset_on_close(sock: trio.socket.SocketType) -> None:
    """Reset the connection, instead of ending the stream, when the socket is closed."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_left(sock: trio.socket.SocketType) -> bool:
    """Return whether the other end has closed or reset a connection."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def unacknowledged_bytes(sock: trio.socket.SocketType) -> int:
    """Return how many sent bytes the other end's kernel does not have; 0 if it is gone."""
    try:
        return tcp.unacknowledged_bytes(sock.fileno())
    except OSError:
        return 0
