"""Demotes the rest of a page: what is left of one whose touched target page went ahead.  Pure.

Where a policy is critical, that rest comes before the scan, the newest request's first, and from
the touched target page on: who has touched a page touches it again.
"""

from __future__ import annotations

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from source.scheme import Pick, Prefetcher, Remaining


class DemotedRest(Prefetcher):
    """Picks the page that was touched last of those of which anything remains."""

    def __init__(self) -> None:
        """Know of no page."""
        # The newest last.
        self._demoted: dict[PageId, Pick] = {}

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Know of no page."""
        self._geometry = geometry
        self._demoted.clear()

    def served(self, page: PageId, urgent: Span) -> None:
        """Put what is left of a page before those demoted earlier."""
        self._demoted.pop(page, None)
        begin = page.index * self._geometry.blocks[page.block].page_bytes
        touched = (urgent.offset - begin) // TARGET_PAGE_BYTES
        self._demoted[page] = Pick(page, "the rest of a page", touched)

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the newest; it stays until nothing of it remains."""
        while self._demoted:
            pick = self._demoted[next(reversed(self._demoted))]
            if remaining.holds(pick.page):
                return pick
            del self._demoted[pick.page]
        return None
