"""A network in virtual time and in memory, which breaks where it is told to.

Bytes take the time that a link of a rate and a delay needs; both connections share the link's rate,
each direction for itself.  Where one goes first, its bytes overtake all that has not left by then.
There is no socket, and with trio's `MockClock` nobody sleeps.
"""

from __future__ import annotations

import errno
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import trio

from guest.streams.network import Arrival, Door
from guest.streams.stream import GRANTED, Delivery, Stream

# What a direction of a connection takes before it is acknowledged, as a kernel would.
CAPACITY_BYTES = 256 * 1024
HOST = "127.0.0.1"


class Cut(NamedTuple):
    """A break of one connection.

    Attributes:
        connection: Which of those that are made, from 0; both channels, and those of recoveries.
        forward: Whether bytes of the source are counted, or those of the destination.
        at_bytes: Behind how many bytes of that direction it breaks.
        how: "reset": both ends hear of it at once, and what is on its way is lost.  "end": what is
            on its way arrives, and then the stream's end.  "silence": nothing arrives any more.
        down_seconds: How long nobody can connect.
    """

    connection: int
    forward: bool
    at_bytes: int
    how: str
    down_seconds: float


@dataclass
class Line:
    """The line that all connections share in one direction."""

    bytes_per_second: float
    delay_seconds: float
    free_at: float = 0.0
    first_free_at: float = 0.0
    users: list[Direction] = field(default_factory=list)

    def arrival(self, count: int, *, goes_first: bool) -> float:
        """Return when the last of so many bytes is there that are handed over now.

        Args:
            count: How many.
            goes_first: What does not, and has not left, leaves so much later.
        """
        now, seconds = trio.current_time(), count / self.bytes_per_second
        if not goes_first:
            self.free_at = max(self.free_at, self.first_free_at, now) + seconds
            return self.free_at + self.delay_seconds
        self.first_free_at = max(self.first_free_at, now) + seconds
        self.free_at = max(self.free_at, now) + seconds
        for user in self.users:
            user.give_way(now + self.delay_seconds, seconds)
        return self.first_free_at + self.delay_seconds


@dataclass
class Direction:
    """Bytes of a connection on their way from one end to the other.

    Attributes:
        flying: Pieces that are not there yet: when they are, and their bytes.
        here: Bytes that can be read.
        passed_bytes: All that was taken.
        is_ended: No more is written.
        is_silent: Nothing arrives any more.
        is_broken: Both ends hear that it was reset.
        goes_first: Its bytes go before those of others.
    """

    line: Line
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)
    here: bytearray = field(default_factory=bytearray)
    flying_bytes: int = 0
    passed_bytes: int = 0
    capacity_bytes: int = CAPACITY_BYTES
    wake_at_bytes: int = 1
    is_ended: bool = False
    is_silent: bool = False
    is_broken: bool = False
    goes_first: bool = False
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def settle(self) -> None:
        """Have arrive what is due."""
        now = trio.current_time()
        while self.flying and self.flying[0][0] <= now and not self.is_silent:
            _, piece = self.flying.popleft()
            self.flying_bytes -= len(piece)
            self.here += piece

    def give_way(self, left_at: float, seconds: float) -> None:
        """Have all that arrives later than what has left by now arrive so much later yet."""
        if not self.goes_first:
            self.flying = deque(
                (at + seconds if at > left_at else at, piece) for at, piece in self.flying
            )

    @property
    def room_bytes(self) -> int:
        """What is taken now."""
        return max(self.capacity_bytes - self.flying_bytes - len(self.here), 0)

    @property
    def is_writable(self) -> bool:
        """Whether a third of it is free: with less Linux wakes no writer (include/net/sock.h)."""
        return self.is_broken or 3 * self.room_bytes >= self.capacity_bytes

    @property
    def is_readable(self) -> bool:
        """Whether reading returns at once."""
        enough = min(self.wake_at_bytes, self.capacity_bytes)
        at_end = self.is_ended and not self.flying and not self.is_silent
        return self.is_broken or len(self.here) >= enough or at_end

    async def wait(self, is_ready: Callable[[], bool]) -> None:
        """Wait until something is so, as time passes or an end does something."""
        while True:
            self.settle()
            if is_ready():
                return
            if not self.flying or self.is_silent:
                await self.changed.park()
            else:
                with trio.move_on_at(self.flying[0][0]):
                    await self.changed.park()

    def shake(self) -> None:
        """Have those that wait look again."""
        self.changed.unpark_all()


class VirtualStream:
    """One end of a connection."""

    gathers = True

    def __init__(
        self, out: Direction, back: Direction, cut_at: Callable[[Direction], int | None],
        cut: Callable[[Direction], None],
    ) -> None:  # fmt: skip
        """Take both directions as seen from here, and what breaks them at a byte."""
        self._out, self._back = out, back
        self._cut_at, self._cut = cut_at, cut
        self._is_closed = False

    def try_write(self, buffers: Sequence[memoryview]) -> int:
        """See `Stream`."""
        out = self._out
        self._check()
        out.settle()
        data = b"".join(buffers)[: out.room_bytes]
        mark = self._cut_at(out)
        if mark is not None and out.passed_bytes + len(data) >= mark:
            data = data[: mark - out.passed_bytes]
        if data:
            out.passed_bytes += len(data)
            out.flying_bytes += len(data)
            arrival = out.line.arrival(len(data), goes_first=out.goes_first)
            out.flying.append((arrival, data))
            out.shake()
        if mark is not None and out.passed_bytes >= mark:
            self._cut(out)
        return len(data)

    def try_read_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See `Stream`."""
        back = self._back
        if self._is_closed:
            raise OSError(errno.EBADF, "closed here")
        back.settle()
        if not back.here:
            if back.is_broken:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            return 0 if back.is_readable else None
        count = 0
        for buffer in buffers:
            taken = back.here[count : count + len(buffer)]
            buffer[: len(taken)] = taken
            count += len(taken)
        del back.here[:count]
        back.shake()
        return count

    async def wait_writable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.checkpoint()
        await self._out.wait(lambda: self._is_closed or self._out.is_writable)
        self._check_waited()

    async def wait_readable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.checkpoint()
        await self._back.wait(lambda: self._is_closed or self._back.is_readable)
        self._check_waited()

    def is_writable_soon(self) -> bool:
        """See `Stream`; nothing happens meanwhile."""
        self._out.settle()
        return self._out.is_writable

    def is_readable_soon(self) -> bool:
        """See `Stream`; nothing happens meanwhile."""
        self._back.settle()
        return self._back.is_readable

    def unread_bytes(self) -> int:
        """See `Stream`."""
        self._back.settle()
        return len(self._back.here)

    def wake_at(self, count: int) -> None:
        """See `Stream`."""
        self._back.wake_at_bytes = count
        self._back.shake()

    def bound_unsent(self, buffer_bytes: int, unsent_bytes: int) -> None:
        """See `Stream`; what is taken is sent at once."""
        self._out.capacity_bytes = buffer_bytes

    def prioritize(self) -> str:
        """See `Stream`."""
        self._out.goes_first = True
        return GRANTED

    def overtakes(self) -> bool:
        """See `Stream`."""
        return self._out.goes_first

    def trust_silence(self) -> None:
        """See `Stream`; there is no limit but that."""

    def delivery(self) -> Delivery:
        """See `Stream`."""
        self._out.settle()
        line = self._out.line
        return Delivery(
            self._out.flying_bytes, int(line.bytes_per_second), int(2e6 * line.delay_seconds)
        )

    def end_writing(self) -> None:
        """See `Stream`."""
        self._check()
        self._out.is_ended = True
        self._out.shake()

    def close(self) -> None:
        """See `Stream`; what is unread here resets the connection, as a kernel does."""
        if self._is_closed:
            return
        self._is_closed = True
        self._back.settle()
        self._out.is_ended = True
        if self._back.here or self._back.flying:
            self._out.is_broken = True
        self._back.is_broken = True
        self._out.shake()
        self._back.shake()

    def _check(self) -> None:
        if self._is_closed:
            raise OSError(errno.EBADF, "closed here")
        if self._out.is_broken or self._out.is_ended:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def _check_waited(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("another task closed the stream")


class _Door:
    """Where the one destination listens."""

    def __init__(self, address: str, on_close: Callable[[], None]) -> None:
        self.address = address
        self._on_close = on_close
        self.enter, self._arrivals = trio.open_memory_channel[Arrival](float("inf"))

    async def accept(self, complain: Callable[[str], None]) -> Arrival:
        """See `Door`."""
        return await self._arrivals.receive()

    def close(self) -> None:
        """See `Door`."""
        self._on_close()


class VirtualNetwork:
    """Connects a source and a destination of one process."""

    def __init__(
        self,
        cuts: Sequence[Cut] = (),
        bytes_per_second: float = 125e6,
        delay_seconds: float = 100e-6,
    ) -> None:
        """Make no connection yet."""
        self._numbers = itertools.count()
        self._forward, self._backward = (Line(bytes_per_second, delay_seconds) for _ in range(2))
        self._cuts = {(cut.connection, cut.forward): cut for cut in cuts}
        self._doors: dict[int, _Door] = {}
        self._ports = itertools.count(20000)
        self._down_until = 0.0

    async def connect(self, host: str, port: int) -> tuple[Stream, str]:
        """See `Network`."""
        await trio.sleep(2 * self._forward.delay_seconds)
        door = self._doors.get(port)
        if door is None or trio.current_time() < self._down_until:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        there, back = Direction(self._forward), Direction(self._backward)
        self._forward.users.append(there)
        self._backward.users.append(back)
        number = next(self._numbers)

        def cut_of(direction: Direction) -> Cut | None:
            return self._cuts.get((number, direction is there))

        def cut_at(direction: Direction) -> int | None:
            cut = cut_of(direction)
            return cut.at_bytes if cut is not None else None

        def cut_off(direction: Direction) -> None:
            cut = cut_of(direction)
            assert cut is not None
            del self._cuts[number, direction is there]
            self._break(cut, there, back)

        near = VirtualStream(there, back, cut_at, cut_off)
        far = VirtualStream(back, there, cut_at, cut_off)
        address = f"{HOST}:{next(self._ports)}"
        door.enter.send_nowait(Arrival(far, HOST, address))
        return near, host

    async def listen(
        self, host: str, port: int, log: Callable[[str], None], *, loopback_only: bool
    ) -> Sequence[Door] | None:  # fmt: skip
        """See `Network`."""
        await trio.lowlevel.checkpoint()
        chosen = port or next(self._ports)
        door = _Door(f"{host}:{chosen}", partial(self._shut, chosen))
        self._doors[chosen] = door
        return [door]

    def _shut(self, port: int) -> None:
        self._doors.pop(port, None)

    def _break(self, cut: Cut, there: Direction, back: Direction) -> None:
        self._down_until = trio.current_time() + cut.down_seconds
        for direction in (there, back):
            if cut.how == "silence":
                direction.is_silent = True
            elif cut.how == "end":
                direction.is_ended = True
            else:
                direction.is_broken = True
                direction.flying.clear()
                direction.flying_bytes = 0
            direction.shake()
