"""Goes outwards from each fault, in both directions, like bubbles around it.  Pure.

After M. R. Hines and K. Gopalan, "Post-copy based live virtual machine migration using adaptive
pre-paging and dynamic self-ballooning", VEE 2009: each fault is a pivot, whose bubble grows by the
page behind its upper and the page before its lower edge in turn, and passes over what was sent.  Of
several pivots all bubbles grow in turn, the newest first; there are only so many, and the pivot
that was made first gives way.  Here small pages come several in a turn: each run of pages in a
frame costs the destination a system call, and with one page a turn nearly every page is a run.
"""

from __future__ import annotations

from collections import deque

from protocol.geometry import Geometry, PageId
from protocol.page_messages import DUPLICATE
from source.scheme import Pick, Prefetcher, Remaining

PIVOT_COUNT_MAX = 7

# Where so many pages in a row were sent, another bubble has been.
_SENT_PAGES_MAX = 256

# A bubble grows by so much in a turn, by one page at least: a frame of the background is no longer
# where small pages may be asked for.
TURN_BYTES = 64 * 1024


class _Bubble:
    """A pivot with its edges: per direction the page that comes next, none where it has ended.

    Attributes:
        is_turn_over: It has grown by what goes in a turn, and others come first.
    """

    def __init__(self, pivot: PageId, turn_pages: int) -> None:
        self.is_turn_over = False
        self._block = pivot.block
        self._turn_pages = turn_pages
        # The edge whose turn it is comes first.
        self._edges: deque[tuple[int, int]] = deque([(1, pivot.index + 1), (-1, pivot.index - 1)])
        # What is left of that turn.
        self._left_pages = turn_pages

    def grow(self, remaining: Remaining) -> PageId | None:
        """Return the next page of the edge whose turn it is, None when both have ended."""
        while self._edges:
            step, edge = self._edges.popleft()
            page = remaining.nearest(PageId(self._block, edge), step, _SENT_PAGES_MAX)
            if page is not None:
                self._turn((step, page.index + step))
                return page
            self._left_pages = self._turn_pages
        return None

    def _turn(self, edge: tuple[int, int]) -> None:
        """Put an edge that has grown by a page back, behind the other once its turn is over."""
        self._left_pages -= 1
        self.is_turn_over = not self._left_pages
        if self.is_turn_over:
            self._left_pages = self._turn_pages
            self._edges.append(edge)
        else:
            self._edges.appendleft(edge)


class Bubbling(Prefetcher):
    """Picks the neighbours of faults."""

    def __init__(self) -> None:
        """Have no pivot."""
        # The one whose turn it is first.
        self._bubbles: deque[_Bubble] = deque(maxlen=PIVOT_COUNT_MAX)
        # Pages in a turn, by the block's number.
        self._turn_pages: list[int] = []

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Have no pivot."""
        self._bubbles.clear()
        self._turn_pages = [max(1, TURN_BYTES // block.page_bytes) for block in geometry.blocks]

    def requested(self, page: PageId, target_page: int, now_ns: int, answer: str) -> None:
        """Make a pivot; with one too many, that whose turn comes last gives way."""
        if answer != DUPLICATE:
            self._bubbles.appendleft(_Bubble(page, self._turn_pages[page.block]))

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the next page of the bubble whose turn it is."""
        while self._bubbles:
            bubble = self._bubbles[0]
            page = bubble.grow(remaining)
            if page is None:
                self._bubbles.popleft()
                continue
            if bubble.is_turn_over:
                self._bubbles.rotate(-1)
            return Pick(page, "bubbling")
        return None
