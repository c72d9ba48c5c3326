"""Where bytes are stopped, and what has passed of the pages that matter; for all connections.

A mark is a place at which something is to happen.  A hold lets a page pass up to a byte and no
further until it is let go.  Who follows the bytes (`tap.Tap`) asks how far it may go and tells what
it has let pass; there is no socket here and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from protocol.channels import Channel
from protocol.geometry import Geometry, PageId, Span


class Direction(Enum):
    """Which way bytes go: from the source to the destination, or back."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class ShareMark:
    """The byte with which a share of a page has passed, over whichever channels.

    Attributes:
        page: Which page.
        share: Over 0 to 1.
        in_postcopy: Only what passes behind the switch-over counts; else the first phase in which
            so much passes.
    """

    page: PageId
    share: float
    in_postcopy: bool = False


@dataclass(frozen=True)
class BytesMark:
    """The byte with which so many have passed on a channel, in one direction."""

    count: int
    channel: Channel
    direction: Direction


Mark = ShareMark | BytesMark


class Passing(NamedTuple):
    """When the last byte of a page passed.

    Attributes:
        serial: Counts passings of all pages; a higher one came later.
        at_ns: When it had been read here, by the clock of the sides' events.
        is_whole: Whether by then all of the page had passed since the switch-over.
    """

    serial: int
    at_ns: int
    is_whole: bool


class _Hold(NamedTuple):
    """How many bytes of a page may pass, and over which channels no more than that."""

    most_bytes: int
    channels: Collection[Channel]


@dataclass
class _Passed:
    """The stretches of a page that have passed, in order, none touching another."""

    stretches: list[tuple[int, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.stretches)

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield what of a stretch has not passed."""
        for passed_start, passed_stop in self.stretches:
            if passed_stop <= start:
                continue
            if passed_start >= stop:
                break
            if start < passed_start:
                yield start, passed_start
            start = passed_stop
        if start < stop:
            yield start, stop

    def add(self, start: int, stop: int) -> None:
        apart = [each for each in self.stretches if each[1] < start or each[0] > stop]
        joined = [each for each in self.stretches if each not in apart]
        first = min([start, *(each[0] for each in joined)])
        last = max([stop, *(each[1] for each in joined)])
        self.stretches = sorted([*apart, (first, last)])


class Marks:
    """Where to stop, and what has passed so far; one for all connections of a migration."""

    def __init__(
        self, geometry: Geometry, marks: Iterable[Mark], watched: Iterable[PageId] = ()
    ) -> None:
        """Start with nothing passed and nothing held.

        Args:
            geometry: The guest's blocks.
            marks: What to stop at, each once.
            watched: Pages of which `carriers` and `passings` are wanted, or which may be held.
        """
        self._geometry = geometry
        self._shares = [mark for mark in marks if isinstance(mark, ShareMark)]
        self._counts = [mark for mark in marks if isinstance(mark, BytesMark)]
        watched = tuple(watched)
        self.carriers: dict[PageId, list[Channel]] = {page: [] for page in watched}
        self.passings: dict[PageId, Passing] = {}
        pages = {*watched, *(mark.page for mark in self._shares)}
        # In whatever phase, and since the switch-over or, before that, the beginning.
        self._ever = {page: _Passed() for page in pages}
        self._lately = {page: _Passed() for page in pages}
        self._holds: dict[PageId, _Hold] = {}
        self._in_postcopy = False
        self._passing_count = 0
        self._passed: dict[tuple[Channel, Direction], int] = {}

    @property
    def passages(self) -> dict[tuple[Channel, Direction], int]:
        """How many bytes have passed on each channel, each way."""
        return dict(self._passed)

    def hold(self, page: PageId, share: float, channels: Collection[Channel]) -> None:
        """Let no more than a share of a watched page pass over channels until `release`."""
        most_bytes = math.ceil(share * self._geometry.page_span(page).length)
        self._holds[page] = _Hold(most_bytes, channels)

    def release(self, page: PageId) -> None:
        """Let a page go; whoever waits for it has to look again."""
        self._holds.pop(page, None)

    @cached_property
    def entry(self) -> Marks:
        """Marks for whoever follows what has come and not gone: only the same holds stop it."""
        marks = Marks(self._geometry, (), self._ever)
        marks._holds = self._holds
        return marks

    def page_limit(self, channel: Channel | None, span: Span) -> int:
        """Return how many bytes of a stretch may pass before a mark is reached, or its length.

        None may if its first byte is held.
        """
        limit = span.length
        for mark in self._shares:
            if mark.in_postcopy and not self._in_postcopy:
                continue
            first, start, stop = self._inside(mark.page, span)
            due = self._due(mark)
            for gap_start, gap_stop in self._counted(mark).gaps(start, stop):
                if due <= gap_stop - gap_start:
                    limit = min(limit, first + gap_start - start + due)
                    break
                due -= gap_stop - gap_start
        return min(limit, self._hold_limit(channel, span))

    def is_held(self, channel: Channel | None, span: Span) -> bool:
        """Return whether a stretch may not pass as a whole."""
        return self._hold_limit(channel, span) < span.length

    def page_passed(self, channel: Channel, span: Span, now_ns: int = 0) -> list[Mark]:
        """Count a range of pages that has passed; return the marks that it reaches.

        Args:
            channel: Where it passed.
            span: The stretch.
            now_ns: The time.
        """
        for page, lately in self._lately.items():
            _, start, stop = self._inside(page, span)
            if start < stop:
                self._ever[page].add(start, stop)
                lately.add(start, stop)
                self._note_passing(page, channel, now_ns)
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
        """Count so many bytes that have passed; return the marks that they reach."""
        key = (channel, direction)
        passed = self._passed[key] = self._passed.get(key, 0) + count
        reached = [
            mark
            for mark in self._counts
            if (mark.channel, mark.direction) == key and mark.count <= passed
        ]
        self._counts = [mark for mark in self._counts if mark not in reached]
        return list(reached)

    def put_back(self, marks: Iterable[Mark]) -> None:
        """Restore marks: the bytes that reached them got no further."""
        for mark in marks:
            if isinstance(mark, ShareMark):
                self._shares.append(mark)
            else:
                self._counts.append(mark)

    def switched_over(self) -> None:
        """Forget what of pages passed in precopy: what matters comes from now on."""
        self._in_postcopy = True
        self.passings.clear()
        for channels in self.carriers.values():
            channels.clear()
        for page in self._lately:
            self._lately[page] = _Passed()

    def _hold_limit(self, channel: Channel | None, span: Span) -> int:
        limit = span.length
        for page, hold in self._holds.items():
            if channel not in hold.channels:
                continue
            first, start, stop = self._inside(page, span)
            lately = self._lately[page]
            allowed = max(hold.most_bytes - lately.count, 0)
            for gap_start, gap_stop in lately.gaps(start, stop):
                if allowed < gap_stop - gap_start:
                    limit = min(limit, first + gap_start - start + allowed)
                    break
                allowed -= gap_stop - gap_start
        return limit

    def _note_passing(self, page: PageId, channel: Channel, now_ns: int) -> None:
        channels = self.carriers.get(page)
        if channels is None:
            return
        if channel not in channels:
            channels.append(channel)
        self._passing_count += 1
        is_whole = self._lately[page].count == self._geometry.page_span(page).length
        self.passings[page] = Passing(self._passing_count, now_ns, is_whole)

    def _counted(self, mark: ShareMark) -> _Passed:
        return (self._lately if mark.in_postcopy else self._ever)[mark.page]

    def _due(self, mark: ShareMark) -> int:
        """Return how many bytes are missing until a share is reached."""
        page_bytes = self._geometry.page_span(mark.page).length
        if mark.in_postcopy and not self._in_postcopy:
            return page_bytes
        return math.ceil(mark.share * page_bytes) - self._counted(mark).count

    def _inside(self, page: PageId, span: Span) -> tuple[int, int, int]:
        """Return where in a stretch a page begins, and which bytes of the page lie in it."""
        whole = self._geometry.page_span(page)
        if whole.block != span.block:
            return 0, 0, 0
        start, stop = max(whole.offset, span.offset), min(whole.end, span.end)
        return start - span.offset, start - whole.offset, max(stop, start) - whole.offset
