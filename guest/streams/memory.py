"""Two ends of a stream in memory, for both sides in one process: no socket and no time passes."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from guest.streams.stream import GRANTED, Delivery


class _Direction:
    """Bytes on their way from one end to the other."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.data = bytearray()
        # The writer closed it: what lies here can still be read.
        self.is_ended = False
        # The reader is gone: what is written breaks the stream.
        self.is_broken = False
        # Fewer bytes than these wake nobody, unless no more can come.
        self.wake_at_bytes = 1
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def room_bytes(self) -> int:
        return self.capacity_bytes - len(self.data)

    def is_ready(self) -> bool:
        enough = min(self.wake_at_bytes, self.capacity_bytes)
        return len(self.data) >= enough or self.is_ended


class MemoryStream:
    """One end; `memory_pair` makes two."""

    gathers = True

    def __init__(self, out: _Direction, back: _Direction) -> None:
        """Take both directions, as seen from this end."""
        self._out, self._back = out, back
        self._is_closed = False

    def try_write(self, buffers: Sequence[memoryview]) -> int:
        """See `Stream`."""
        self._check_open()
        if self._out.is_broken:
            raise BrokenPipeError("the other end is closed")
        count = 0
        for buffer in buffers:
            taken = buffer[: self._out.room_bytes]
            self._out.data += taken
            count += len(taken)
        self._out.changed.unpark_all()
        return count

    def try_read_into(self, buffers: Sequence[memoryview]) -> int | None:
        """See `Stream`."""
        self._check_open()
        data = self._back.data
        if not data and not self._back.is_ended:
            return None
        count = 0
        for buffer in buffers:
            taken = data[count : count + len(buffer)]
            buffer[: len(taken)] = taken
            count += len(taken)
        del data[:count]
        self._back.changed.unpark_all()
        return count

    async def wait_writable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.checkpoint()
        while not (self._is_closed or self._out.is_broken or self._out.room_bytes):
            await self._out.changed.park()
        self._check_waited()

    async def wait_readable(self) -> None:
        """See `Stream`."""
        await trio.lowlevel.checkpoint()
        while not (self._is_closed or self._back.is_ready()):
            await self._back.changed.park()
        self._check_waited()

    def is_writable_soon(self) -> bool:
        """See `Stream`; the other end cannot do anything meanwhile."""
        return self._out.is_broken or self._out.room_bytes > 0

    def is_readable_soon(self) -> bool:
        """See `Stream`; the other end cannot do anything meanwhile."""
        return self._back.is_ready()

    def unread_bytes(self) -> int:
        """See `Stream`."""
        return len(self._back.data)

    def wake_at(self, count: int) -> None:
        """See `Stream`."""
        self._back.wake_at_bytes = count
        self._back.changed.unpark_all()

    def bound_unsent(self, buffer_bytes: int, unsent_bytes: int) -> None:  # noqa: ARG002
        """See `Stream`; all that is taken and not read is unsent as well as unacknowledged."""
        self._out.capacity_bytes = buffer_bytes

    def prioritize(self) -> str:
        """See `Stream`; nothing is in the way of anything."""
        return GRANTED

    def overtakes(self) -> bool:
        """See `Stream`."""
        return False

    def trust_silence(self) -> None:
        """Do nothing: there is no kernel, and so no limit of its own."""

    def delivery(self) -> Delivery:
        """See `Stream`."""
        return Delivery(len(self._out.data))

    def end_writing(self) -> None:
        """See `Stream`."""
        self._out.is_ended = True
        self._out.changed.unpark_all()

    def close(self) -> None:
        """See `Stream`."""
        self._is_closed = self._out.is_ended = self._back.is_broken = True
        self._out.changed.unpark_all()
        self._back.changed.unpark_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise OSError("the stream is closed here")

    def _check_waited(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("another task closed the stream")


def memory_pair(capacity_bytes: int) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a stream.

    Args:
        capacity_bytes: What each direction takes before somebody reads.
    """
    there, back = _Direction(capacity_bytes), _Direction(capacity_bytes)
    return MemoryStream(there, back), MemoryStream(back, there)
