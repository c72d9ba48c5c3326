"""A connection to the destination, seen from the sending side: frames that know how far they are.

A frame that was broken off stays with its channel as the `open_frame`: nothing else may go over the
channel before its rest has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

import trio

from guest.streams.stream import UNTURNED_NS_MAX, Delivery, Stream
from protocol.channels import Channel
from protocol.errors import ConnectionLost, LocalProtocolError
from protocol.messages import Checksum, Message, Ping
from protocol.wire import encode
from source.buffering import UNSENT_SHARE, Buffering


class Frame:
    """One frame on its way: its head, its payload where it lies, and how many bytes are sent."""

    __slots__ = ("_ends", "_first", "_pieces", "length", "memory_bytes", "payload_bytes", "sent")

    def __init__(
        self,
        message: Message,
        *payload: memoryview | bytes,
        checksum: Checksum | None = None,
        memory_bytes: int = 0,
        before: Sequence[Message] = (),
    ) -> None:
        """Encode the head.

        Args:
            message: With `payload_bytes` as long as the payload.
            payload: Bytes, one dimension, in as many pieces as they lie in; not copied, so they are
                read when they are sent.
            checksum: What announces the frame; it goes with it as one.
            memory_bytes: How much of the guest's memory it brings over, zeros that it only names
                included.
            before: Messages without a payload that go in front of it, likewise.
        """
        self.memory_bytes = memory_bytes
        pieces = [memoryview(piece) for piece in payload if len(piece)]
        self.payload_bytes = sum(map(len, pieces))
        if message.payload_bytes != self.payload_bytes:
            raise LocalProtocolError(
                f"{type(message).__name__} announces {message.payload_bytes} bytes "
                f"and has {self.payload_bytes}"
            )
        head = encode(message) if checksum is None else encode(checksum) + encode(message)
        if before:
            head = b"".join(map(encode, before)) + head
        self._pieces = [memoryview(head), *pieces]
        self._ends = list(accumulate(map(len, self._pieces)))
        self.length = self._ends[-1]
        # The first piece that is not sent whole.
        self._first = 0
        self.sent = 0

    @property
    def done(self) -> bool:
        """Whether the stream has taken all of it."""
        return self.sent == self.length

    def rest(self, limit: int) -> list[memoryview]:
        """Return what is to go next, at most `limit` bytes, as buffers for one sendmsg."""
        if not self.sent and limit >= self.length:
            return self._pieces
        while self._first < len(self._ends) and self._ends[self._first] <= self.sent:
            self._first += 1
        stop = min(self.length, self.sent + limit)
        buffers = []
        for index in range(self._first, len(self._pieces)):
            piece, end = self._pieces[index], self._ends[index]
            start = end - len(piece)
            if start >= stop:
                break
            buffers.append(piece[max(self.sent - start, 0) : stop - start])
        return buffers


class OutChannel:
    """The sending half of one connection."""

    def __init__(self, name: Channel, stream: Stream) -> None:
        """Take a connection and close it in `close`."""
        self.name = name
        self.open_frame: Frame | None = None
        self.bytes_sent = 0
        # What the connections before this one carried; a break begins a new one.
        self.bytes_carried_before = 0
        self.target_pages_sent = 0
        self.data_bytes_sent = 0
        self._stream = stream
        # A short message of which the stream has not taken all: nothing may go before its rest.
        self._short: Frame | None = None
        # None while the kernel may hold what it likes, and no request can come.
        self._buffering: Buffering | None = None

    def keep_little_in_the_kernel(self) -> None:
        """Bound what lies in front of a page request from now on, for postcopy."""
        self._buffering = Buffering()
        self._bound_unsent(self._buffering.send_buffer_bytes)

    def _bound_unsent(self, size: int) -> None:
        self._stream.bound_unsent(size, size // UNSENT_SHARE)

    @property
    def bytes_carried(self) -> int:
        """What the channel has carried over all its connections, heads and all."""
        return self.bytes_carried_before + self.bytes_sent

    @property
    def begun_memory_bytes(self) -> int:
        """Bytes of guest memory that the socket has taken of the open frame, in proportion."""
        frame = self.open_frame
        return frame.memory_bytes * frame.sent // frame.length if frame is not None else 0

    @property
    def run_bytes(self) -> int | None:
        """What one run of small pages may hold by now; None while nobody can wait for one."""
        return self._buffering.run_bytes if self._buffering is not None else None

    def trust_silence(self) -> None:
        """Have the peer's silence alone tell that it is gone, as long as it pings."""
        self._stream.trust_silence()

    def pause(self) -> None:
        """Say that what is sent next does not follow at once on what was sent before."""
        if self._buffering is not None:
            self._buffering.paused()

    def close(self) -> None:
        """Close the stream and forget the open frame, whose payload holds on to guest memory."""
        self.open_frame = None
        self._stream.close()

    def send_now(self, frame: Frame, limit: int) -> int:
        """Hand the stream what it takes of a frame at once; return how many bytes, maybe none.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self._short is not None and not self._finish_short(self._short):
            return 0
        return self._write_now(frame, limit)

    def send_in_a_row(self, frame: Frame, limit: int) -> int:
        """Do as `send_now`, and for a moment wait for room and go on, if nobody is in a hurry.

        A turn of the event loop costs as much as copying a quarter of a MiB.

        Raises:
            ConnectionLost: The connection is broken.
        """
        count = self.send_now(frame, limit)
        if self._buffering is not None:
            return count
        until_ns = time.monotonic_ns() + UNTURNED_NS_MAX
        while count < limit and self._stream.is_writable_soon() and time.monotonic_ns() < until_ns:
            count += self.send_now(frame, limit - count)
        return count

    def ping(self) -> None:
        """Send a sign of life: of an open frame its next byte, else a Ping.

        It never waits: where the socket takes nothing, the peer has enough to read.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self.open_frame is not None:
            self.send_now(self.open_frame, 1)
        else:
            self.send_short(Ping())

    def send_short(self, *messages: Message) -> bool:
        """Send short messages without waiting; return False if nothing of them can go now.

        Of what the socket does not take whole, the rest goes before the next frame.

        Raises:
            ConnectionLost: The connection is broken.
        """
        if self.open_frame is not None or self._short is not None:
            return False
        short = Frame(messages[-1], before=messages[:-1])
        if not self._finish_short(short) and short.sent:
            self._short = short
        return short.sent > 0

    def _finish_short(self, short: Frame) -> bool:
        """Send the rest of short messages; tell whether nothing of them is left to go first."""
        self._write_now(short, short.length)
        if short.done:
            self._short = None
        return short.done

    def _write_now(self, frame: Frame, limit: int) -> int:
        try:
            count = self._stream.try_write(frame.rest(limit))
        except OSError as error:
            raise ConnectionLost(
                f"the {self.name.value} connection broke: {error.strerror or error}",
                self.name.value,
            ) from error
        frame.sent += count
        self.bytes_sent += count
        return count

    def delivery(self) -> Delivery:
        """Return what the stream has taken and not delivered, and how fast it delivers."""
        return self._stream.delivery()

    async def wait_room(self) -> None:
        """Wait until the stream takes bytes again, or is broken."""
        buffering = self._buffering
        if buffering is not None and buffering.full(self.bytes_sent, time.monotonic_ns()):
            self._bound_unsent(buffering.send_buffer_bytes)
        await self._stream.wait_writable()

    async def send_some(self, frame: Frame, limit: int) -> int:
        """Hand bytes of a frame to the stream, waiting until it takes some; return how many.

        Cancelling is safe: the frame's `sent` counts exactly what the stream took.

        Raises:
            ConnectionLost: The connection is broken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (count := self.send_now(frame, limit)):
            await self.wait_room()
        # Others have their turn behind the bytes, for which somebody waits.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return count

    async def send(self, message: Message, payload: memoryview | bytes = b"") -> None:
        """Send a whole message.

        A cancelled call may leave a part of the frame on the wire: it stays as `open_frame`.

        Raises:
            ConnectionLost: The connection is broken.
            LocalProtocolError: Another frame is on its way.
        """
        if self.open_frame is not None:
            raise LocalProtocolError(f"a frame is half-sent on the {self.name.value} channel")
        self.open_frame = Frame(message, payload)
        await self.finish_open_frame()

    async def finish_open_frame(self) -> None:
        """Send the rest of a half-sent frame, if there is one.

        Raises:
            ConnectionLost: The connection is broken.
        """
        while self.open_frame is not None:
            if self.open_frame.done:
                self.open_frame = None
            else:
                await self.send_some(self.open_frame, self.open_frame.length)
