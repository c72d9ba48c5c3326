"""Which of the guest's target pages may hold something other than zeros.

The guest's memory is made all zero, and until it runs here nothing but received bytes is written
to it; a page that comes in postcopy has not been touched by a vCPU before.  So what no bytes came
for is zero, and a frame that says so needs nothing to be written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.geometry import TARGET_PAGE_BYTES, Geometry
from protocol.runs import Stretch


class NonZero:
    """One truth value a target page; its user says before bytes or zeros are written."""

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
