"""One direction of a relayed connection: what comes is followed as it passes on, and not held back.

A reader and a writer with a short queue between them: as a rule nothing is read before what was
read is gone, so the kernel's buffers are all that lies between the two peers.  The writer sends up
to each byte at which something is to happen, and lets it happen before the next one goes.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import trio

from scripts.injection.gates import Gate

_READ_BYTES = 256 * 1024

# What may be on its way while a delay holds it: 100 ms at 1 Gbit/s.
_DELAYED_BYTES_MAX = 16 << 20


class Course(Protocol):
    """What is done with the bytes of one direction; it cuts them where something may happen."""

    def feed(self, data: memoryview, /) -> Iterator[Stop]:
        """Yield where to stop in this data, in order; the last stop is its end.

        The next one is asked for when all before this one has passed and `Stop.then` has returned.
        """


class Stop:
    """A place in what was fed, up to which bytes may pass.

    Attributes:
        at: The index behind the last byte that may pass.
        held: Wait for a change there: what follows may not pass yet.
    """

    __slots__ = ("at", "held")

    def __init__(self, at: int, *, held: bool = False) -> None:
        """Make one."""
        self.at = at
        self.held = held

    def then(self, now_ns: int) -> None:
        """Take that the bytes before it have passed."""


class Pump:
    """One direction; `run` it.

    Attributes:
        gate: What is done to the network.
        stopped: Not a byte more may pass.
        passed_bytes: How many have.
    """

    def __init__(
        self,
        inward: trio.socket.SocketType,
        outward: trio.socket.SocketType,
        course: Course,
        gate: Gate,
    ) -> None:
        """Prepare.

        Args:
            inward: Where bytes come from.
            outward: Where they go.
            course: What is done with them.
            gate: What is done to the network; another may be set at any time.
        """
        self.gate = gate
        self.stopped = False
        self.passed_bytes = 0
        self._in = inward
        self._out = outward
        self._course = course
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._moved = trio.lowlevel.ParkingLot()
        self._closed = False

    def half_close(self) -> None:
        """Let the receiver see the end of file here; what still comes goes nowhere."""
        self._closed = True
        self._shut_down()
        self.gate.changed.unpark_all()

    async def run(self) -> None:
        """Pass on until the sender's end of file has been; cancelling stops at once.

        Raises:
            OSError: An end is gone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            await self._write()

    async def _read(self) -> None:
        while True:
            while self._queued_bytes >= (_DELAYED_BYTES_MAX if self.gate.delay_seconds else 1):
                await self._moved.park()
            data = await self._in.recv(_READ_BYTES)
            self._queue.append((trio.current_time() + self.gate.delay_seconds, data))
            self._queued_bytes += len(data)
            self._moved.unpark_all()
            if not data:
                return

    async def _write(self) -> None:
        while True:
            while not self._queue:
                await self._moved.park()
            await trio.sleep_until(self._queue[0][0])
            data = self._queue[0][1]
            if not data:
                while self.gate.shut and not self._closed:
                    await self.gate.changed.park()
                if not self._closed:
                    self._shut_down()
                return
            # What steps spoil is spoiled here.
            await self._pass_on(memoryview(bytearray(data)))
            self._queue.popleft()
            self._queued_bytes -= len(data)
            self._moved.unpark_all()

    def _shut_down(self) -> None:
        with suppress(OSError):
            self._out.shutdown(socket.SHUT_WR)

    async def _pass_on(self, data: memoryview) -> None:
        sent = 0
        for stop in () if self._closed else self._course.feed(data):
            if stop.at > sent and not await self._send(data[sent : stop.at]):
                # What has not passed is not told of.
                return
            sent = stop.at
            stop.then(time.monotonic_ns())
            if stop.held:
                await self.gate.changed.park()

    async def _send(self, data: memoryview) -> bool:
        """Send; return whether all has gone, which it has not where the receiver sees an end."""
        # What the rate has let through and is not with the kernel yet.
        allowed = 0
        while data:
            if self._closed:
                return False
            gate = self.gate
            if not self._may_pass(gate):
                await gate.changed.park()
                continue
            if not allowed:
                allowed = await gate.take_turn(len(data))
                continue
            await trio.lowlevel.wait_writable(self._out)
            if not self._may_pass(gate):
                continue
            try:
                count = os.write(self._out.fileno(), data[:allowed])
            except BlockingIOError:
                continue
            self.passed_bytes += count
            allowed -= count
            data = data[count:]
        return True

    def _may_pass(self, gate: Gate) -> bool:
        return not (gate.shut or self.stopped or self._closed) and gate is self.gate
