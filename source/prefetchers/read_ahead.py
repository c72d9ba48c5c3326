"""Reads ahead of sequential requests, further each time.  Pure.

After Linux's page cache (`ondemand_readahead` in `mm/readahead.c`; F. Wu, H. Xi, C. Xu, "On the
design of a new Linux readahead framework", ACM SIGOPS Operating Systems Review 42(5), 2008): a page
that follows one that was read begins a window of four, each that is used up is followed by one of
twice the size, up to 32; what follows nothing is read alone.  Linux sees each access, and reads the
next window when the one before is half read; a source sees only faults (see `streams`).
"""

from __future__ import annotations

from collections import deque

from protocol.geometry import Geometry, PageId
from protocol.page_messages import DUPLICATE
from source.prefetchers.streams import STREAM_COUNT_MAX, Streams
from source.scheme import Pick, Prefetcher, Remaining


class ReadAhead(Prefetcher):
    """Picks what follows requests for pages that follow each other."""

    def __init__(self) -> None:
        """Know of no request."""
        self._streams = Streams()
        self._alone: deque[PageId] = deque(maxlen=STREAM_COUNT_MAX)

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Know of no request."""
        self._streams.clear()
        self._alone.clear()

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Move the window of a stream on, or begin one, or remember a page that is alone."""
        if answer == DUPLICATE or self._streams.go_on(page):
            return
        if PageId(page.block, page.index - 1) in self._alone:
            self._streams.begin(page, 1)
        else:
            self._alone.append(page)

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the next page of a window."""
        return self._streams.next(remaining, "read ahead")
