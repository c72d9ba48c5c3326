"""Frames of pages on their way in: what one names, what has come, what a break leaves.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol.errors import RemoteProtocolError
from protocol.geometry import TARGET_PAGE_BYTES, Geometry, Span
from protocol.limits import HELD_COUNT_MAX
from protocol.missing import HeldParts, span_of_part
from protocol.runs import Runs, Stretch, overlap, overlap_bytes, position_in


@dataclass(slots=True)
class Arrival:
    """A frame that has begun.

    Attributes:
        span: All that it names, in whole target pages.
        data: What of that comes as payload; None where it names zeros alone.
        received: How many bytes of `data` are here.
        held: Of these, how many an earlier epoch brought: the frame has the rest of a target page.
        waste: Its page comes, or came, over the other channel: what is still to come is not
            written.
        early: Target pages of it that were placed before its end, because a vCPU waited for them.
        late: Those of them whose bytes came over the other channel: what this frame brings of them
            is not written.
    """

    span: Stretch
    data: Stretch | None
    received: int = 0
    held: int = 0
    waste: bool = False
    early: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)

    @property
    def data_bytes(self) -> int:
        """How many bytes of payload there are at most, those that were held before among them."""
        return self.data.length if self.data is not None else 0

    @property
    def came_bytes(self) -> int:
        """How many bytes of payload came with this frame."""
        return self.received - self.held

    @property
    def may_end(self) -> bool:
        """Whether all has come; an unbroken stretch of zeros is here without a byte of it."""
        is_zero_span = isinstance(self.data, Span) and not self.received
        return is_zero_span or self.received == self.data_bytes

    def has_come(self, block: int, target_page: int) -> bool:
        """Return whether a target page is one of its, and in memory by it."""
        span = self.span
        if self.waste or target_page in self.late or block != span.block:
            return False
        if not span.offset <= target_page * TARGET_PAGE_BYTES < span.end:
            return False
        if position_in(span, target_page) is None:
            return False
        position = position_in(self.data, target_page) if self.data is not None else None
        # Zeros came with the head.
        return position is None or position < self.received // TARGET_PAGE_BYTES

    def is_open_in(self, span: Span) -> bool:
        """Return whether a span has bytes of the frame that wait for its end to be placed."""
        if self.waste:
            return False
        if not self.early:
            return overlap(self.span, span)
        early_count = sum(position_in(span, page) is not None for page in self.early)
        return overlap_bytes(self.span, span) > early_count * TARGET_PAGE_BYTES

    def give_up(self, target_pages: Iterable[int]) -> None:
        """Leave target pages to the other channel, over which they came, or are coming."""
        pages = set(target_pages)
        self.early |= pages
        self.late |= pages

    def due(self) -> Stretch | None:
        """Return what is to be placed at its end, None if all of it was before."""
        if not self.early:
            return self.span
        pages = np.r_[self.span.target_pages]
        pages = pages[~np.isin(pages, list(self.early))]
        return Runs.of_target_pages(self.span.block, pages) if len(pages) else None

    def unreceived_in(self, span: Span) -> int:
        """Return how many bytes of a span lie in the part that has not come; zeros came at once."""
        if self.waste or self.data is None or self.data.block != span.block:
            return 0
        unreceived_bytes = overlap_bytes(self.data, span, self.received)
        for page in self.late:
            position = position_in(self.data, page)
            if position is not None and position_in(span, page) is not None:
                left_bytes = (position + 1) * TARGET_PAGE_BYTES - self.received
                unreceived_bytes -= min(max(left_bytes, 0), TARGET_PAGE_BYTES)
        return unreceived_bytes

    @property
    def late_bytes(self) -> int:
        """How many bytes have come of target pages that came over the other channel, too."""
        if self.data is None or not self.late:
            return 0
        come = self.received - np.arange(self.data.length // TARGET_PAGE_BYTES) * TARGET_PAGE_BYTES
        is_late = np.isin(np.r_[self.data.target_pages], list(self.late))
        return int(np.clip(come[is_late], 0, TARGET_PAGE_BYTES).sum())

    @property
    def held_bytes(self) -> int:
        """How many bytes are in memory of the target page that has come in part."""
        count = self.received % TARGET_PAGE_BYTES
        if not count or self.data is None or not self.late:
            return count
        page = int(np.r_[self.data.target_pages][self.received // TARGET_PAGE_BYTES])
        return 0 if page in self.late else count

    def divided(self, *, aside: bool = False) -> tuple[list[Span], Runs | None]:
        """Return what has come in whole target pages and is not placed, and the rest.

        Args:
            aside: The frame's bytes are not in memory before all of them have come.
        """
        pages = np.r_[self.span.target_pages].astype(np.int64)
        if aside:
            rest = pages
        elif self.data is None:
            rest = pages[:0]
        else:
            rest = np.r_[self.data.target_pages][self.received // TARGET_PAGE_BYTES :]
        if self.late:
            rest = rest[~np.isin(rest, list(self.late))]
        kept = pages[~np.isin(pages, np.r_[rest, list(self.early)])]
        block = self.span.block
        return (
            list(Runs.of_target_pages(block, kept).spans()) if len(kept) else [],
            Runs.of_target_pages(block, rest) if len(rest) else None,
        )


@dataclass(slots=True)
class ChannelCounts:
    """Counts of one channel's whole frames; compared with the source's `End`."""

    target_pages: int = 0
    data_bytes: int = 0

    def add(self, arrival: Arrival) -> None:
        """Count a frame that is whole."""
        self.target_pages += arrival.span.length // TARGET_PAGE_BYTES
        self.data_bytes += arrival.came_bytes


class Parts:
    """Partial target pages: what is held of each, so that its rest can come.

    A break cuts at most one target page in two on each connection.  QEMU, which keeps its received
    map by the page, sends such a page whole again (`ram_dirty_bitmap_reload` in `migration/ram.c`).

    Attributes:
        held: How many bytes of which, from their start.
        dropped_bytes: How many bytes came that are worthless after a break: they come again.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.held: HeldParts = {}
        self.dropped_bytes = 0

    def cut_off(
        self, arrival: Arrival, *, checked: bool, come_again: bool
    ) -> tuple[list[Span], Runs | None]:
        """End a frame of which no more will come; hold the part of a target page that came.

        Args:
            arrival: The frame.
            checked: It was to be held against a checksum: only what it named as zeros stays.
            come_again: Its page may come again, over another channel: no parts are held.

        Returns:
            What is here in whole target pages and is not placed, and what is missing again.
        """
        # Scattered bytes of a page that may come again are not written before all have come.
        aside = come_again and isinstance(arrival.span, Runs)
        dropped_bytes = arrival.received if aside or checked else arrival.held_bytes
        if checked:
            dropped_bytes -= arrival.late_bytes
            arrival.received = 0
        kept, rest = arrival.divided(aside=aside)
        if not (aside or checked or come_again) and rest is not None:
            dropped_bytes -= self._hold(rest, dropped_bytes)
        self.dropped_bytes += dropped_bytes
        return kept, rest

    def take(self, block: int, offset: int, length: int) -> Span:
        """Return the target page of which these bytes are the rest; it is held no more.

        Raises:
            RemoteProtocolError: They are not what a target page lacks.
        """
        target_page, held_bytes = divmod(offset, TARGET_PAGE_BYTES)
        ends = held_bytes + length == TARGET_PAGE_BYTES
        if not (held_bytes and ends and self.held.get((block, target_page)) == held_bytes):
            raise RemoteProtocolError(
                f"{length} bytes at {offset} of block {block} are not what a target page lacks"
            )
        del self.held[block, target_page]
        return Span(block, offset - held_bytes, TARGET_PAGE_BYTES)

    def forget(self, stretch: Stretch) -> None:
        """Hold nothing of a stretch any more, which comes again from its start."""
        if self.held:
            keys = [key for key in self.held if overlap(stretch, span_of_part(key))]
            self.dropped_bytes += sum(self.held.pop(key) for key in keys)

    def bytes_in(self, span: Span) -> int:
        """Return how many bytes are held of a page."""
        return sum(count for key, count in self.held.items() if overlap(span, span_of_part(key)))

    def _hold(self, rest: Runs, held_bytes: int) -> int:
        """Keep what came of the first target page of a frame's rest.

        Returns:
            How many bytes are held of it: all of them, but none where too many pages are already.
        """
        if not held_bytes or len(self.held) == HELD_COUNT_MAX:
            return 0
        self.held[rest.block, rest.offset // TARGET_PAGE_BYTES] = held_bytes
        return held_bytes


class NonZero:
    """Which target pages may hold something other than zeros; told before any are written.

    The guest's memory is made all zero, and until it runs here nothing but received bytes is
    written to it; a page that comes in postcopy has not been touched by a vCPU before.  So what no
    bytes came for is zero, and a frame that says so needs nothing to be written.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Start with memory that is all zero."""
        self._may_be = [
            np.zeros(block.target_page_count, dtype=np.bool_) for block in geometry.blocks
        ]

    def mark(self, stretch: Stretch) -> None:
        """Say that bytes are about to be written to a stretch, all of it or a part."""
        if stretch.length == TARGET_PAGE_BYTES:
            # A vCPU waits for a single one, and an index takes a third of a slice's time.
            self._may_be[stretch.block][stretch.offset // TARGET_PAGE_BYTES] = True
        else:
            self._may_be[stretch.block][stretch.target_pages] = True

    def take(self, stretch: Stretch) -> NDArray[np.intp]:
        """Return which target pages of a stretch must be zeroed now; then they are known as zero.

        They are indices in the block, ascending.
        """
        may_be = self._may_be[stretch.block]
        where = stretch.target_pages
        found = np.flatnonzero(may_be[where])
        pages = found + where.start if isinstance(where, slice) else where[found]
        may_be[pages] = False
        return pages


def any_open_in(arrivals: Iterable[Arrival], span: Span) -> bool:
    """Return whether a span has bytes of any of some frames that wait for its end."""
    return any(arrival.is_open_in(span) for arrival in arrivals)
