"""The sending half of a connection without its stream: its frame under way, and what went.  Pure.

A frame that was broken off stays with its channel as the `open_frame`: nothing else may go over the
channel before its rest has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from protocol.channels import Channel
from protocol.errors import LocalProtocolError
from protocol.messages import Checksum, Message
from protocol.wire import encode
from source.buffering import Buffering


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


class Outlet:
    """What is known of one channel: whoever writes says with `took` what the stream has taken.

    Attributes:
        name: Which channel.
        open_frame: The frame that nothing else may go before the end of; None between two frames.
        bytes_sent: What this connection's stream has taken, heads and all.
        awaited_bytes: Of those, from the first, up to the last that somebody waits for.
        owes_sign: Some of them, whichever, must get out, so that the peer hears something.
        bytes_carried_before: What the channel's connections before this one carried.
        target_pages_sent: Target pages in the frames that are whole with the stream.
        data_bytes_sent: Payload bytes of guest memory in those frames.
        buffering: Sizes the send buffer; None while the kernel may hold what it likes, because no
            request can come.
    """

    def __init__(self, name: Channel) -> None:
        """Begin with nothing sent."""
        self.name = name
        self.open_frame: Frame | None = None
        self.bytes_sent = 0
        self.awaited_bytes = 0
        self.owes_sign = False
        self.bytes_carried_before = 0
        self.target_pages_sent = 0
        self.data_bytes_sent = 0
        self.buffering: Buffering | None = None

    @property
    def bytes_carried(self) -> int:
        """What the channel has carried over all its connections, heads and all."""
        return self.bytes_carried_before + self.bytes_sent

    @property
    def begun_memory_bytes(self) -> int:
        """Bytes of guest memory that the stream has taken of the open frame, in proportion."""
        frame = self.open_frame
        return frame.memory_bytes * frame.sent // frame.length if frame is not None else 0

    @property
    def run_bytes(self) -> int | None:
        """What one run of small pages may hold by now; None while nobody can wait for one."""
        return self.buffering.run_bytes if self.buffering is not None else None

    def took(self, frame: Frame, count: int) -> None:
        """Count bytes of a frame that the stream has taken."""
        frame.sent += count
        self.bytes_sent += count

    def await_sent(self, count: int | None = None) -> None:
        """Say that somebody waits for the last of what was sent by now, or of so much of it."""
        self.awaited_bytes = max(self.awaited_bytes, self.bytes_sent if count is None else count)

    def pause(self) -> None:
        """Say that what is sent next does not follow at once on what was sent before."""
        if self.buffering is not None:
            self.buffering.paused()
