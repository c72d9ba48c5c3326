"""Goes outwards from each fault, in both directions, like bubbles around it.  Pure.

After M. R. Hines and K. Gopalan, "Post-copy based live virtual machine migration using adaptive
pre-paging and dynamic self-ballooning", VEE 2009: each fault is a pivot, whose bubble grows by the
page behind its upper and the page before its lower edge in turn, and passes over what was sent.  Of
several pivots all bubbles grow in turn, the newest first; there are only so many, and the pivot
that was made first gives way.
"""

from __future__ import annotations

from collections import deque

from protocol.geometry import Geometry, PageId
from protocol.page_messages import DUPLICATE
from source.scheme import Pick, Prefetcher, Remaining

PIVOT_COUNT_MAX = 7

# Where so many pages in a row were sent, another bubble has been.
_SENT_PAGES_MAX = 256


class _Bubble:
    """A pivot with its edges: per direction the page that comes next, None where it has ended."""

    def __init__(self, pivot: PageId) -> None:
        self._block = pivot.block
        self._edges: dict[int, int] = {1: pivot.index + 1, -1: pivot.index - 1}

    def grow(self, remaining: Remaining) -> PageId | None:
        """Return the next page of the edge whose turn it is, None when both have ended."""
        while self._edges:
            step, edge = next(iter(self._edges.items()))
            del self._edges[step]
            for index in range(edge, edge + step * _SENT_PAGES_MAX, step):
                page = PageId(self._block, index)
                if remaining.holds(page):
                    # It is the other edge's turn.
                    self._edges[step] = index + step
                    return page
        return None


class Bubbling(Prefetcher):
    """Picks the neighbours of faults."""

    def __init__(self) -> None:
        """Have no pivot."""
        # The one whose turn it is first.
        self._bubbles: deque[_Bubble] = deque(maxlen=PIVOT_COUNT_MAX)

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Have no pivot."""
        self._bubbles.clear()

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Make a pivot; with one too many, that whose turn comes last gives way."""
        if answer != DUPLICATE:
            self._bubbles.appendleft(_Bubble(page))

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the next page of the bubble whose turn it is."""
        while self._bubbles:
            bubble = self._bubbles.popleft()
            page = bubble.grow(remaining)
            if page is not None:
                self._bubbles.append(bubble)
                return Pick(page, "bubbling")
        return None
