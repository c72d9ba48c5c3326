"""Follows what passes between the two sides: which frame, which page, which byte.

A `Tap` is fed one direction of one connection, in whatever pieces it comes, and cuts it where
something begins, ends or is reached.  `Marks` is what the taps of all connections share: the places
to stop at, and what has passed of the pages that matter.  Neither knows a socket or a clock; page
bytes are counted, never copied.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from protocol.channels import Channel
from protocol.errors import RemoteProtocolError
from protocol.geometry import Geometry, PageId, Span
from protocol.limits import HEADER_BYTES_MAX
from protocol.messages import (
    Hello,
    Message,
    PageData,
    PageRest,
    Resume,
    RunData,
    SwitchOver,
    ZeroData,
)
from protocol.proof import DEST_BYTES, SOURCE_BYTES, TAG, TAG_BYTES
from protocol.runs import unpack_runs
from protocol.wire import Decoder

_LENGTH = struct.Struct(">I")


class Direction(Enum):
    """Which way bytes go: from the source to the destination, or back."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Part(Enum):
    """What bytes belong to; the values are what a scenario calls them."""

    HEADER = "header"
    PAGE = "page"
    OTHER = "other"


@dataclass(frozen=True)
class ShareMark:
    """The byte with which a share of a page has passed, over whichever channels."""

    page: PageId
    share: float


@dataclass(frozen=True)
class BytesMark:
    """The byte with which so many have passed on a channel, in one direction."""

    count: int
    channel: Channel
    direction: Direction


Mark = ShareMark | BytesMark


class Piece(NamedTuple):
    """A stretch of what a tap was fed.

    Attributes:
        start: Its first byte, in what was fed.
        stop: The byte after its last.
        part: What all of it belongs to.
        reached: The marks that its last byte reaches.
    """

    start: int
    stop: int
    part: Part
    reached: tuple[Mark, ...]


@dataclass
class _Held:
    """The stretches of a page that have passed, in order, none touching another."""

    stretches: list[tuple[int, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.stretches)

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield what of a stretch has not passed."""
        for held_start, held_stop in self.stretches:
            if held_stop <= start:
                continue
            if held_start >= stop:
                break
            if start < held_start:
                yield start, held_start
            start = held_stop
        if start < stop:
            yield start, stop

    def add(self, start: int, stop: int) -> None:
        apart = [held for held in self.stretches if held[1] < start or held[0] > stop]
        joined = [held for held in self.stretches if held not in apart]
        first = min([start, *(held[0] for held in joined)])
        last = max([stop, *(held[1] for held in joined)])
        self.stretches = sorted([*apart, (first, last)])


class Marks:
    """Where to stop, and what has passed so far; one for all connections of a migration."""

    def __init__(
        self, geometry: Geometry, marks: Iterable[Mark], watched: Iterable[PageId] = ()
    ) -> None:
        """Start with nothing passed.

        Args:
            geometry: The guest's blocks.
            marks: What to stop at, each once.
            watched: Pages of which `carriers` are wanted.
        """
        self.carriers: dict[PageId, list[Channel]] = {page: [] for page in watched}
        self._geometry = geometry
        self._shares = [mark for mark in marks if isinstance(mark, ShareMark)]
        self._counts = [mark for mark in marks if isinstance(mark, BytesMark)]
        self._held = {mark.page: _Held() for mark in self._shares}
        self._passed: dict[tuple[Channel, Direction], int] = {}

    @property
    def passages(self) -> dict[tuple[Channel, Direction], int]:
        """How many bytes have passed on each channel, each way."""
        return dict(self._passed)

    def page_limit(self, span: Span) -> int:
        """Return how many bytes of a stretch may pass before a mark is reached, or its length."""
        limit = span.length
        for mark in self._shares:
            first, start, stop = self._inside(mark.page, span)
            due = self._due(mark)
            for gap_start, gap_stop in self._held[mark.page].gaps(start, stop):
                if due <= gap_stop - gap_start:
                    limit = min(limit, first + gap_start - start + due)
                    break
                due -= gap_stop - gap_start
        return limit

    def page_passed(self, channel: Channel, span: Span) -> list[Mark]:
        """Take a stretch of pages that has passed; return the marks that it reaches."""
        for page, channels in self.carriers.items():
            _, start, stop = self._inside(page, span)
            if start < stop and channel not in channels:
                channels.append(channel)
        for page, held in self._held.items():
            _, start, stop = self._inside(page, span)
            if start < stop:
                held.add(start, stop)
        reached = [mark for mark in self._shares if self._due(mark) <= 0]
        self._shares = [mark for mark in self._shares if mark not in reached]
        return list(reached)

    def bytes_limit(self, channel: Channel, direction: Direction, count: int) -> int:
        """Return how many of so many bytes may pass before a mark is reached, or all of them."""
        passed = self._passed.get((channel, direction), 0)
        for mark in self._counts:
            if (mark.channel, mark.direction) == (channel, direction):
                count = min(count, max(mark.count - passed, 0) or count)
        return count

    def bytes_passed(self, channel: Channel, direction: Direction, count: int) -> list[Mark]:
        """Take so many bytes that have passed; return the marks that they reach."""
        key = (channel, direction)
        passed = self._passed[key] = self._passed.get(key, 0) + count
        reached = [
            mark
            for mark in self._counts
            if (mark.channel, mark.direction) == key and mark.count <= passed
        ]
        self._counts = [mark for mark in self._counts if mark not in reached]
        return list(reached)

    def switched_over(self) -> None:
        """Forget what carried pages in precopy: what matters comes from now on."""
        for channels in self.carriers.values():
            channels.clear()

    def _due(self, mark: ShareMark) -> int:
        """Return how many bytes are missing until a share is reached."""
        page_bytes = self._geometry.page_span(mark.page).length
        return math.ceil(mark.share * page_bytes) - self._held[mark.page].count

    def _inside(self, page: PageId, span: Span) -> tuple[int, int, int]:
        """Return where in a stretch a page begins, and which bytes of the page lie in it."""
        whole = self._geometry.page_span(page)
        if whole.block != span.block:
            return 0, 0, 0
        start, stop = max(whole.offset, span.offset), min(whole.end, span.end)
        return start - span.offset, start - whole.offset, max(stop, start) - whole.offset


class Tap:
    """Follows one direction of one connection; `feed` it everything, in order.

    Attributes:
        channel: The connection's role; a forward tap learns it from the Hello, a backward one is
            told.
    """

    def __init__(self, direction: Direction, marks: Marks) -> None:
        """Start at the beginning of a connection."""
        self.channel: Channel | None = None
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

    def feed(self, data: memoryview) -> Iterator[Piece]:
        """Cut bytes into pieces; the next one is made when it is asked for.

        So what is done about a mark is done before anything behind it is looked at.
        """
        at = 0
        while at < len(data):
            part, limit = self._next(len(data) - at)
            if self.channel is not None:
                limit = self._marks.bytes_limit(self.channel, self._direction, limit)
            reached = self._take(part, data[at : at + limit])
            self._uncounted += limit
            if self.channel is not None:
                reached += self._marks.bytes_passed(self.channel, self._direction, self._uncounted)
                self._uncounted = 0
            yield Piece(at, at + limit, part, tuple(reached))
            at += limit

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
        return Part.PAGE, self._marks.page_limit(Span(block, offset, min(limit, length)))

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
        return self._marks.page_passed(self.channel, Span(block, offset, len(data)))

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
        decoder = Decoder()
        try:
            decoder.receive_data(head)
            message = decoder.next_message()
        except RemoteProtocolError:
            self._blind = True
            return []
        assert message is not None, "it has all the bytes that it announced"
        return self._begin(message)

    def _begin(self, message: Message) -> list[Mark]:
        """Take a frame's message; its payload follows."""
        self._payload_left = message.payload_bytes
        self._places = []
        match message:
            case Hello() | Resume() if message.role in {channel.value for channel in Channel}:
                self.channel = Channel(message.role)
            case SwitchOver() if message.postcopy:
                self._marks.switched_over()
            case PageData() | PageRest():
                self._places = [Span(message.block, message.offset, message.payload_bytes)]
            case RunData():
                return self._begin_runs(message)
            case ZeroData() if self.channel is not None:
                return self._marks.page_passed(
                    self.channel, Span(message.block, message.offset, message.length)
                )
        return []

    def _begin_runs(self, message: RunData) -> list[Mark]:
        """Take a frame of runs: its zeros hold their pages now, its bytes as they come."""
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
                reached += self._marks.page_passed(self.channel, span)
        self._places.reverse()
        if sum(span.length for span in self._places) != message.payload_bytes:
            self._blind = True
        return reached
