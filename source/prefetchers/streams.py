"""Streams of requests that go on in steps, and a window of pages ahead of each.  Pure.

A source sees faults and not accesses: what was fetched in time is touched without a word.  So a
window is used up when a request comes for the first page behind it, and one that comes for a page
inside it tells that the window was too late.  Either way the next is larger.  Which vCPU asked is
not on the wire, so there are as many streams as may run at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from protocol.geometry import PageId
from source.scheme import Pick, Remaining

STREAM_COUNT_MAX = 16

# As many pages as Linux reads ahead by default (128 KiB), and what it begins with for one page.
WINDOW_PAGES_MAX = 32
WINDOW_PAGES_FIRST = 4


@dataclass
class Stream:
    """A run of requests.

    Attributes:
        block: Which block they are in.
        step: From a page to the next, not 0.
        first: The first page of the window.
        count: How many pages the window has.
        picked: How many of them were picked, or found to be sent.
    """

    block: int
    step: int
    first: int
    count: int
    picked: int = 0

    def place_of(self, page: PageId) -> int | None:
        """Return where in the window a page is, or `count` for the one behind; None outside."""
        place, off = divmod(page.index - self.first, self.step)
        return place if page.block == self.block and not off and 0 <= place <= self.count else None


class Streams:
    """Keeps the streams that were used last, and picks of the newest first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._streams: OrderedDict[int, Stream] = OrderedDict()
        self._made = 0

    def clear(self) -> None:
        """Forget all."""
        self._streams.clear()

    def begin(self, page: PageId, step: int) -> None:
        """Begin a stream behind a page."""
        self._made += 1
        first = page.index + step
        self._streams[self._made] = Stream(page.block, step, first, WINDOW_PAGES_FIRST)
        if len(self._streams) > STREAM_COUNT_MAX:
            self._streams.popitem(last=False)

    def go_on(self, page: PageId) -> bool:
        """Move the window of the stream that a page belongs to; tell whether there is one."""
        for key in reversed(self._streams):
            stream = self._streams[key]
            place = stream.place_of(page)
            if place is None:
                continue
            # What was picked of the window stays so: the larger one begins behind the page.
            stream.first = page.index + stream.step
            stream.picked = max(stream.picked - place - 1, 0)
            stream.count = min(2 * stream.count, WINDOW_PAGES_MAX)
            self._streams.move_to_end(key)
            return True
        return False

    def next(self, remaining: Remaining, why: str) -> Pick | None:
        """Return the next page that remains of the newest window that has one."""
        for key in reversed(self._streams):
            stream = self._streams[key]
            while stream.picked < stream.count:
                page = PageId(stream.block, stream.first + stream.picked * stream.step)
                stream.picked += 1
                if remaining.holds(page):
                    return Pick(page, why)
        return None
