"""Has the scan go on behind the page that was touched last.  Pure.

Guests touch what lies together, and mostly upwards.  QEMU's source does the same: after a queued
page its search continues from there (`get_queued_page` in `migration/ram.c`).
"""

from __future__ import annotations

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span, new_page_id
from source.scheme import Pick, Prefetcher, Remaining


class GoOnBehind(Prefetcher):
    """Picks a place for the scan after each request; then it is the scan that goes on."""

    def __init__(self) -> None:
        """Know of no touch."""
        self._touched: Span | None = None

    def restart(self, geometry: Geometry, remaining: Remaining) -> None:
        """Leave the scan where it begins."""
        self._blocks = geometry.blocks
        self._touched = None

    def served(self, page: PageId, urgent: Span) -> None:
        """Note where a vCPU is."""
        self._touched = urgent

    def next(self, remaining: Remaining) -> Pick | None:
        """Return the place behind what was touched last, once."""
        touched, self._touched = self._touched, None
        if touched is None:
            return None
        block, offset, length = touched
        page_bytes = self._blocks[block].page_bytes
        index, inside = divmod(offset + length, page_bytes)
        if offset + length == self._blocks[block].length_bytes:
            block, index = (block + 1) % len(self._blocks), 0
        place = new_page_id((block, index))
        return Pick(place, "behind what was touched", inside // TARGET_PAGE_BYTES, go_on=True)
