"""Fetches ahead of requests that are equally far apart, further each time.  Pure.

After T.-F. Chen and J.-L. Baer, "Effective hardware-based data prefetching for high-performance
processors", IEEE Transactions on Computers 44(5), 1995: two equal distances in a row make a stride.
Their table is told apart by the instruction that loads; a source does not know it, and looks for
the stride among the last requests of the neighbourhood, as S. Palacharla and R. E. Kessler do
("Evaluating stream buffers as a secondary cache replacement", ISCA 1994).
"""

from __future__ import annotations

from collections import deque

from protocol.geometry import Geometry, PageId
from protocol.page_messages import DUPLICATE
from source.prefetchers.streams import STREAM_COUNT_MAX, Streams
from source.scheme import Pick, Prefetcher, Remaining

# Further apart than this is no neighbourhood.
STRIDE_PAGES_MAX = 256


class Stride(Prefetcher):
    """Picks what comes next if the stride of three requests goes on."""

    def __init__(self) -> None:
        """Know of no request."""
        self._streams = Streams()
        # The oldest first.
        self._requests: deque[PageId] = deque(maxlen=2 * STREAM_COUNT_MAX)

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Know of no request."""
        self._streams.clear()
        self._requests.clear()

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Move the window of a stream on, or begin one where three requests make a stride."""
        if answer == DUPLICATE or self._streams.go_on(page):
            return
        step = self._stride_to(page)
        if step:
            self._streams.begin(page, step)
        self._requests.append(page)

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the next page of a window."""
        return self._streams.next(remaining, "stride")

    def _stride_to(self, page: PageId) -> int:
        """Return the smallest distance that lies twice before a page, 0 without any."""
        known = list(self._requests)
        found = 0
        for place, middle in enumerate(known):
            step = page.index - middle.index
            is_near = middle.block == page.block and 0 < abs(step) <= STRIDE_PAGES_MAX
            if not is_near or (found and abs(step) >= abs(found)):
                continue
            if PageId(page.block, middle.index - step) in known[:place]:
                found = step
        return found
