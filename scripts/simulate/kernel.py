"""A host's kernel: how many of a connection's bytes it takes, and what it tells.  Pure.

What was written lies in the send buffer until the other end has acknowledged it.  A bounded buffer
is never as full as it may be: it is filled again when half of it is free.  What goes of a frame of
the background piece by piece, each time that there is room, can be told in one step, unless
somebody interrupts it: the kernel then has what had left by then and a buffer that is filled on
average (`Model.fill`).
"""

from __future__ import annotations

from collections.abc import Hashable

from guest.streams.stream import GRANTED, Delivery
from protocol.fields import PackedRuns
from protocol.geometry import Span
from protocol.messages import Message, PageData, RunData
from protocol.runs import Runs
from protocol.wire import encode
from scripts.simulate.agenda import Agenda, Handler, goes_on
from scripts.simulate.link import Flow, Link
from scripts.simulate.model import Model
from source.buffering import UNSENT_SHARE, Buffering
from source.framing import Blocks
from source.jobs import Chunk
from source.outlet import Frame, Outlet

# A socket is writable again when so much of its buffer is in use (sk_stream_is_writeable).
_WRITABLE = 2 / 3
# By no more do frames of one block differ that bring a page each: by how long an offset is.
HEADS_DIFFER_BYTES = 8
# Bytes that are a matter of rounding, of times to nanoseconds.
_ROUNDING = 64


class ModelFrame(Frame):
    """A frame of which only the lengths are there.

    Attributes:
        message: Its head.
        payload: What a message brings that is no page.
        chunk: What of the guest it brings; None for any other message.
        start: Where it begins in its stream; -1 before its first byte.
        begun: How often it was begun: one of which nothing went after all may be begun again.
        came_ns: When its head was there.
        is_here: All of it is.
    """

    __slots__ = (
        "begun", "came_ns", "chunk", "head_bytes", "is_here", "message", "payload", "start",
    )  # fmt: skip

    message: Message
    chunk: Chunk | None

    def __init__(
        self, message: Message, payload: bytes | memoryview = b"", chunk: Chunk | None = None
    ) -> None:
        """Measure it."""
        self.message = message
        self.payload = bytes(payload)
        self.chunk = chunk
        self.memory_bytes = chunk.span.length if chunk is not None else 0
        self.payload_bytes = message.payload_bytes
        self._measure()
        self.sent = 0
        self.start = -1
        self.begun = 0
        self.came_ns = 0
        self.is_here = False

    @property
    def span(self) -> Span:
        """The page of a frame that `is_like` another."""
        assert self.chunk is not None
        assert isinstance(self.chunk.span, Span)
        return self.chunk.span

    def is_like(self, other: ModelFrame) -> bool:
        """Return whether both bring background, in a stretch each, as long as each other's.

        Their heads may differ by some bytes.
        """
        mine, others = self.chunk, other.chunk
        if mine is None or others is None or mine.urgent or others.urgent:
            return False
        are_spans = isinstance(mine.span, Span) and isinstance(others.span, Span)
        return are_spans and (mine.span.length, mine.page.block) == (
            others.span.length, others.page.block,
        )  # fmt: skip

    def move(self, passed_ns: int, count: int, chunk: Chunk) -> None:
        """Be about another chunk, so much later and so many bytes further on in the stream."""
        self.message, self.chunk = _message_of(chunk, 0, 0), chunk
        self._measure()
        self.start += count
        if self.came_ns:
            self.came_ns += passed_ns

    def follow(self, other: ModelFrame) -> None:
        """Be where another is."""
        self.start, self.begun, self.came_ns = other.start, other.begun, other.came_ns
        self.is_here = other.is_here

    def _measure(self) -> None:
        self.head_bytes = len(encode(self.message))
        self.length = self.head_bytes + self.payload_bytes


def frame_length(chunk: Chunk) -> int:
    """Return how long the frame of a background chunk is."""
    return ModelFrame(_message_of(chunk, 0, 0), chunk=chunk).length


def model_frame(
    _memory: Blocks,
    chunk: Chunk,
    queue_us: int,
    send_us: int,
    /,
    *,
    checked: bool,  # noqa: ARG001
) -> Frame:
    """Make the frame of a chunk, as `source.framing.frame_of` does of memory without zero pages."""
    return ModelFrame(_message_of(chunk, queue_us, send_us), chunk=chunk)


def _message_of(chunk: Chunk, queue_us: int, send_us: int) -> PageData | RunData:
    span, block = chunk.span, chunk.span.block
    if isinstance(span, Runs):
        # Of its runs only the number has a length.
        packed = PackedRuns(bytes(8 * len(span)))
        return RunData(
            payload_bytes=span.length, block=block, offset=span.offset, runs=packed,
            urgent=chunk.urgent, queue_us=queue_us, send_us=send_us,
        )  # fmt: skip
    return PageData(
        payload_bytes=span.length, block=block, offset=span.offset,
        urgent=chunk.urgent, queue_us=queue_us, send_us=send_us,
    )  # fmt: skip


class ModelOutlet(Outlet):
    """The sending half of a connection whose stream is a model.

    Attributes:
        flow: Its bytes on the link.
    """

    def __init__(
        self, flow: Flow, link: Link, agenda: Agenda, model: Model, arrive: Handler
    ) -> None:
        """Begin with a buffer that nobody has bounded.

        Args:
            flow: Its bytes.
            link: Where they go.
            agenda: The run's.
            model: What the kernel does.
            arrive: Called with the flow and each frame of which the first byte goes.
        """
        super().__init__(flow.name)
        self.flow = flow
        self._link = link
        self._agenda = agenda
        self._model = model
        self._arrive = arrive
        # What the kernel holds at most: all that is not acknowledged, and what has not left.
        self._held_bytes = self._unsent_bytes = model.default_buffer_bytes
        self._fill = 1.0
        link_bytes = link.bytes_per_ns * max(model.window_ns, 2 * link.rtt_ns)
        link.bound(flow, min(model.default_buffer_bytes, int(link_bytes)))
        # Of the frame that goes by itself: from which byte of the stream on, and how many.
        self._streamed: tuple[int, int] | None = None

    def keep_little_in_the_kernel(self, *, is_overtaken: bool = False) -> None:
        """Bound what lies in front of a page request from now on, for postcopy.

        Args:
            is_overtaken: What is urgent goes first in the link's queue.
        """
        self.buffering = Buffering(is_overtaken=is_overtaken)
        self._bound(self.buffering)

    def prioritize(self) -> str:
        """Let it go first in its host's queue; return what a report says of that."""
        self.flow.has_priority = True
        return GRANTED

    def overtakes(self) -> bool:
        """Return whether what goes over it goes first in the link's queue."""
        return self.flow.has_priority and self._link.heeds_priority

    def delivery(self) -> Delivery:
        """Return what was taken and not delivered, and how fast it is."""
        link = self._link
        link.advance()
        per_second = self.flow.bytes_per_second or int(link.bytes_per_ns * 1e9)
        return Delivery(self._unacknowledged(), per_second, link.rtt_ns // 1000)

    def send(self, frame: ModelFrame, limit: int) -> int:
        """Hand over what the kernel takes of a frame at once; return how many bytes, maybe none."""
        self._link.advance()
        count = min(limit, frame.length - frame.sent, self._room())
        if count > 0:
            self._write(frame, count)
        return max(count, 0)

    def send_whole(self, frame: ModelFrame) -> None:
        """Hand over all of a message; it waits where the kernel has no room, and nobody asks."""
        self._link.advance()
        self._write(frame, frame.length - frame.sent)

    def send_short(self, *messages: Message) -> bool:
        """Hand over short messages; return False, and nothing has gone, in the midst of a frame."""
        if self.open_frame is not None:
            return False
        for message in messages:
            self.send_whole(ModelFrame(message))
        return True

    def wait_room(self, do: Handler, *arguments: object) -> None:
        """Call something when the kernel takes bytes again."""
        self._note_full()
        self._link.advance()
        left = 2 * self._fill - 1 if self._fill < 1 else _WRITABLE
        self._when(left, self.flow.written, do, arguments)

    def stream(self, frame: ModelFrame, do: Handler, *arguments: object) -> None:
        """Let a frame's rest go as there is room; have something done when all of it was taken."""
        self._note_full()
        self._link.advance()
        rest = frame.length - frame.sent
        start = self.flow.written
        self._begin(frame)
        self._streamed = start, rest
        self._link.write(self.flow, rest)
        self._when(self._fill, start + rest, do, arguments)

    def settle(self, frame: ModelFrame) -> int:
        """End a `stream`; return how many bytes the kernel has taken of it by now, maybe none."""
        if self._streamed is None:
            return 0
        link, flow = self._link, self.flow
        start, rest = self._streamed
        self._streamed = None
        link.advance()
        acknowledged = flow.drained_at(self._agenda.now_ns - link.rtt_ns)
        most = min(
            acknowledged + int(self._held_bytes * self._fill),
            flow.drained + int(self._unsent_bytes * self._fill),
        )
        taken = min(max(most - start, 0), rest)
        if taken < rest:
            link.take_back(flow, rest - taken)
        self.took(frame, taken)
        if not frame.sent:
            # It is as if it had never been begun, and it may never be.
            frame.start = -1
            frame.begun += 1
        return taken

    def state(self, now_ns: int) -> Hashable:
        """Return all that matters of it, as seen from now and the flow's end."""
        written, buffering = self.flow.written, self.buffering
        streamed = self._streamed
        return (
            self.bytes_sent - written, self._held_bytes, self._unsent_bytes, self._fill,
            None if streamed is None else (streamed[0] - written, streamed[1]),
            None if buffering is None else buffering.state(self.bytes_sent, now_ns),
        )  # fmt: skip

    def shift(self, passed_ns: int, count: int) -> None:
        """Be so much later where the engine has counted so many more bytes."""
        if self._streamed is not None:
            start, rest = self._streamed
            self._streamed = start + count, rest
        if self.buffering is not None:
            self.buffering.shift(count, passed_ns)

    def _note_full(self) -> None:
        buffering = self.buffering
        if buffering is not None and buffering.full(self.bytes_sent, self._agenda.clock_ns()):
            buffering.resize(self.delivery())
            self._bound(buffering)

    def _bound(self, buffering: Buffering) -> None:
        model = self._model
        self.flow.is_bounded = True
        factor, self._fill = model.small_buffer_factor, model.fill
        bound = min(buffering.send_buffer_bytes, model.bounded_bytes_max)
        self._held_bytes = int(bound * factor)
        self._link.bound(self.flow, self._held_bytes)
        self._unsent_bytes = int(min(buffering.unsent_bytes * UNSENT_SHARE, bound) * factor)

    def _unacknowledged(self) -> int:
        flow = self.flow
        return flow.written - flow.drained_at(self._agenda.now_ns - self._link.rtt_ns)

    def _room(self) -> int:
        """Return how many bytes the kernel takes now."""
        held, unsent = self._held_bytes, self._unsent_bytes
        room = held - self._unacknowledged()
        room_unsent = unsent - (self.flow.written - self.flow.drained)
        if self._fill < 1:
            # The kernel frees a packet of its own, half of a small buffer, when all of it is there.
            share = 2 - 2 * self._fill
            if room + _ROUNDING < held * share or room_unsent + _ROUNDING < unsent * share:
                return 0
        elif room < min(self._model.packet_bytes, held / 2):
            # What is acknowledged is freed by the packet.
            return 0
        return min(room, room_unsent)

    def _begin(self, frame: ModelFrame) -> None:
        if frame.start < 0:
            frame.start = self.flow.written
            frame.begun += 1
            self._arrive(self.flow, frame)

    def _write(self, frame: ModelFrame, count: int) -> None:
        self._begin(frame)
        self.took(frame, count)
        self._link.write(self.flow, count)
        self._link.plan()

    def _when(self, share: float, end: int, do: Handler, arguments: tuple[object, ...]) -> None:
        """Call something when no more is held of the first `end` bytes than such a share."""
        link, flow = self._link, self.flow
        acknowledged = end - int(self._held_bytes * share) + 1
        left = end - int(self._unsent_bytes * share) + 1
        if flow.drained >= left:
            self._when_left(acknowledged - flow.drained, do, arguments)
        else:
            link.mark(flow, left, 0, self._when_left, acknowledged - left, do, arguments)
        link.plan()

    @goes_on
    def _when_left(self, more: int, do: Handler, arguments: tuple[object, ...]) -> None:
        """Call something when so many more bytes than have left are acknowledged."""
        link, flow = self._link, self.flow
        acknowledged = flow.drained + more
        if more > 0:
            link.mark(flow, acknowledged, link.rtt_ns, do, *arguments)
        else:
            # Later than now, so that time passes whatever is rounded.
            at_ns = max(self._agenda.now_ns, flow.when_drained(acknowledged) + link.rtt_ns) + 1
            self._agenda.at(at_ns, do, *arguments)
