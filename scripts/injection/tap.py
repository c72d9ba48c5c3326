"""Follows what passes between the two sides: which frame, which page, which byte.

A `Tap` is fed one direction of one connection, in whatever pieces it comes, and cuts it where
something begins, ends, is reached or is held; what the taps of all connections share is `Marks`.
Neither knows a socket or a clock; page bytes are counted, never copied.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import PageId, Span
from protocol.limits import HEADER_BYTES_MAX
from protocol.messages import (
    Hello,
    Message,
    PageData,
    PageRequest,
    PageRest,
    Resume,
    RunData,
    SwitchOver,
    ZeroData,
)
from protocol.proof import DEST_BYTES, SOURCE_BYTES, TAG, TAG_BYTES
from protocol.runs import unpack_runs
from protocol.wire import Decoder
from scripts.injection.marks import Direction, Mark, Marks

_LENGTH = struct.Struct(">I")


class Part(Enum):
    """The part of a frame that bytes belong to; the values are what a scenario calls them."""

    HEADER = "header"
    PAGE = "page"
    OTHER = "other"


class Piece(NamedTuple):
    """A stretch of what a tap was fed.

    Attributes:
        start: Its first byte, in what was fed.
        stop: The byte after its last.
        part: What all of it belongs to.
        reached: The marks that its last byte reaches.
        held: It has no bytes: what follows is held, and may not be looked at before it is let go.
    """

    start: int
    stop: int
    part: Part
    reached: tuple[Mark, ...] = ()
    held: bool = False


class Tap:
    """Follows one direction of one connection; `feed` it everything, in order.

    Attributes:
        channel: The connection's role; a forward tap learns it from the Hello, a backward one is
            told.
    """

    def __init__(
        self,
        direction: Direction,
        marks: Marks,
        on_request: Callable[[PageId], None] = lambda _: None,
    ) -> None:
        """Start at the beginning of a connection.

        Args:
            direction: Which way its bytes go.
            marks: Where to stop.
            on_request: Called with the page of each page request that goes by.
        """
        self.channel: Channel | None = None
        self._on_request = on_request
        self._direction = direction
        self._marks = marks
        self._head = bytearray()
        self._head_bytes = _LENGTH.size
        self._payload_left = 0
        # What came before it was known on which channel.
        self._uncounted = 0
        # Where the payload to come belongs, if it is pages': the next stretch last.
        self._places: list[Span] = []
        # What came was no frame: from here on bytes are only counted.
        self._blind = False
        # Where a secret is proved, this much is before the first frame.
        self._proof_bytes_left = 0
        self._begun = False
        self._now_ns = 0

    def feed(self, data: memoryview, now_ns: int = 0) -> Iterator[Piece]:
        """Cut bytes into pieces; the next one is made when it is asked for.

        So what is done about a mark is done before anything behind it is looked at.

        Args:
            data: What has come, all of it behind what came before.
            now_ns: The time, by the clock of the sides' events.
        """
        at = 0
        self._now_ns = now_ns
        while at < len(data):
            part, limit = self._next(len(data) - at)
            if self.channel is not None:
                limit = self._marks.bytes_limit(self.channel, self._direction, limit)
            if not limit or (part is Part.HEADER and self._names_held(data[at : at + limit])):
                yield Piece(at, at, part, held=True)
                continue
            reached = self._take(part, data[at : at + limit])
            self._uncounted += limit
            if self.channel is not None:
                reached += self._marks.bytes_passed(self.channel, self._direction, self._uncounted)
                self._uncounted = 0
            yield Piece(at, at + limit, part, tuple(reached))
            at += limit

    def put_back(self, piece: Piece) -> None:
        """Return the marks of a piece to what comes next, on whichever connection."""
        self._marks.put_back(piece.reached)

    def _next(self, available: int) -> tuple[Part, int]:
        """Return what comes next, and how much of it at most."""
        if self._blind:
            return Part.OTHER, available
        if self._proof_bytes_left:
            return Part.OTHER, min(available, self._proof_bytes_left)
        if not self._payload_left:
            return Part.HEADER, min(available, self._head_bytes - len(self._head))
        limit = min(available, self._payload_left)
        if not self._places:
            return Part.OTHER, limit
        block, offset, length = self._places[-1]
        span = Span(block, offset, min(limit, length))
        return Part.PAGE, self._marks.page_limit(self.channel, span)

    def _names_held(self, data: memoryview) -> bool:
        """Return whether the end of a head names zeros of a page that is held."""
        whole = len(self._head) + len(data) == self._head_bytes > _LENGTH.size
        if not whole or self._blind or self._direction is Direction.BACKWARD:
            return False
        message = _decoded(self._head + data)
        return any(self._marks.is_held(self.channel, span) for span in _zeros_of(message))

    def _take(self, part: Part, data: memoryview) -> list[Mark]:
        if part is Part.HEADER:
            return self._take_head(data)
        if self._blind:
            return []
        if self._proof_bytes_left:
            self._proof_bytes_left -= len(data)
            return []
        self._payload_left -= len(data)
        if not self._places or self.channel is None:
            return []
        block, offset, length = self._places.pop()
        if length > len(data):
            self._places.append(Span(block, offset + len(data), length - len(data)))
        return self._passed(Span(block, offset, len(data)))

    def _passed(self, span: Span) -> list[Mark]:
        assert self.channel is not None
        return self._marks.page_passed(self.channel, span, self._now_ns)

    def _take_head(self, data: memoryview) -> list[Mark]:
        self._head += data
        if len(self._head) < self._head_bytes:
            return []
        if self._head == TAG and not self._begun:
            self._begun = True
            self._head = bytearray()
            whole = SOURCE_BYTES if self._direction is Direction.FORWARD else DEST_BYTES
            self._proof_bytes_left = whole - TAG_BYTES
            return []
        self._begun = True
        if self._head_bytes == _LENGTH.size:
            (length,) = _LENGTH.unpack(self._head)
            self._blind = not 0 < length <= HEADER_BYTES_MAX
            self._head_bytes += length
            return []
        head, self._head, self._head_bytes = self._head, bytearray(), _LENGTH.size
        message = _decoded(head)
        if message is None:
            self._blind = True
            return []
        return self._begin(message)

    def _begin(self, message: Message) -> list[Mark]:
        """Begin a frame with its message; its payload follows."""
        self._payload_left = message.payload_bytes
        self._places = []
        match message:
            case Hello() | Resume() if message.role in {channel.value for channel in Channel}:
                self.channel = Channel(message.role)
            case SwitchOver() if message.postcopy:
                self._marks.switched_over()
            case PageData() | PageRest():
                self._places = [Span(message.block, message.offset, message.payload_bytes)]
            case PageRequest():
                self._on_request(PageId(message.block, message.page))
            case RunData():
                return self._begin_runs(message)
            case ZeroData() if self.channel is not None:
                return self._passed(Span(message.block, message.offset, message.length))
        return []

    def _begin_runs(self, message: RunData) -> list[Mark]:
        """Begin a frame of runs: its zeros hold their pages now, its bytes as they come."""
        try:
            runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
        except RemoteProtocolError:
            self._blind = True
            return []
        reached: list[Mark] = []
        for span, zero in zip(runs.spans(), is_zero.tolist(), strict=True):
            if not zero:
                self._places.append(span)
            elif self.channel is not None:
                reached += self._passed(span)
        self._places.reverse()
        if sum(span.length for span in self._places) != message.payload_bytes:
            self._blind = True
        return reached


def _decoded(head: bytes | bytearray) -> Message | None:
    """Return the message of a whole head, None if it is no head."""
    decoder = Decoder()
    try:
        decoder.receive_data(head)
        message = decoder.next_message()
    except RemoteProtocolError:
        return None
    assert message is not None, "it has all the bytes that it announced"
    return message


def _zeros_of(message: Message | None) -> list[Span]:
    """Return what a message says is zero; no bytes of that follow."""
    if isinstance(message, ZeroData):
        return [Span(message.block, message.offset, message.length)]
    if not isinstance(message, RunData):
        return []
    try:
        runs, is_zero = unpack_runs(message.block, message.offset, message.runs)
    except RemoteProtocolError:
        return []
    return [span for span, zero in zip(runs.spans(), is_zero.tolist(), strict=True) if zero]
