"""What a prefetcher has picked, and what came of it: useful, useless or late.  Pure.

A page is *late* if a vCPU asked for it after it was picked: it was stopped all the same, for less
long at best.  The others were there in time.  Whether anybody then touched them no fault tells, but
a guest's program does: the source knows its vCPUs' steps from the switch-over to the end.  So a
page is *useful* that was touched and not late, and *useless* if nobody touched it in that time.
That a useful page would have come in time without, by the scan, no single run can know.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from protocol.geometry import TARGET_PAGE_BYTES, Geometry, PageId, Span
from protocol.pageset import PageSet
from protocol.report import CauseCount, PrefetchPart
from source.scheme import Pick
from source.steps import Accessed

# Each cause is counted; one who makes up a new one for each page has the rest under this.
CAUSE_COUNT_MAX = 16
OTHER_CAUSES = "others"


class Prefetched:
    """What of memory a prefetcher picked, and whether vCPUs asked for it all the same.

    Attributes:
        pages: The target pages that went because they were picked.
        late: Those of them whose page was asked for after that.
        causes: How many pages went for which cause.
    """

    def __init__(self, geometry: Geometry) -> None:
        """Start with none."""
        self.pages = PageSet(geometry)
        self.late = PageSet(geometry)
        self.causes: Counter[str] = Counter()
        self._geometry = geometry

    def picked(self, pick: Pick, remaining: PageSet) -> None:
        """Count what remains of a page that was picked."""
        remaining.copy_into(self.pages, self._geometry.page_span(pick.page))
        known = pick.why in self.causes or len(self.causes) < CAUSE_COUNT_MAX
        self.causes[pick.why if known else OTHER_CAUSES] += 1

    def requested(self, page: PageId) -> None:
        """Note that a vCPU asked for a page: too late, if it was picked before that."""
        if self.pages.holds_page(page):
            self.pages.copy_into(self.late, self._geometry.page_span(page))

    def lost(self, missing: PageSet) -> None:
        """Forget what a break has lost on its way: that was for nothing, and goes again."""
        for pages in (self.pages, self.late):
            for block in range(len(self._geometry.blocks)):
                for first, count in missing.runs(block):
                    offset, length = first * TARGET_PAGE_BYTES, count * TARGET_PAGE_BYTES
                    pages.remove(Span(block, offset, length))

    def part(self, accessed: Accessed | None) -> PrefetchPart:
        """Return what the report says of it.

        Args:
            accessed: What vCPUs have touched since the switch-over; None if nobody knows.
        """
        counts = dict.fromkeys(("pages", "late", "useful", "useless", "useless_pages"), 0)
        for index, block in enumerate(self._geometry.blocks):
            picked, late = self.pages.pages_with_members(index), self.late.pages_with_members(index)
            counts["pages"] += int(np.count_nonzero(picked))
            counts["late"] += int(np.count_nonzero(late))
            if accessed is None:
                continue
            touched = accessed.pages.pages_with_members(index)
            useless = picked & ~late & ~touched
            counts["useful"] += int(np.count_nonzero(picked & ~late & touched))
            counts["useless"] += int(np.count_nonzero(useless))
            members = self.pages.members(index).reshape(-1, block.target_pages_per_page)
            counts["useless_pages"] += int(np.count_nonzero(members[useless]))
        known = accessed is not None
        return PrefetchPart(
            pages=counts["pages"],
            length_bytes=self.pages.length_bytes,
            late=counts["late"],
            useful=counts["useful"] if known else None,
            useless=counts["useless"] if known else None,
            useless_bytes=counts["useless_pages"] * TARGET_PAGE_BYTES if known else None,
            at_least=accessed is not None and not accessed.is_whole,
            causes=tuple(CauseCount(cause, count) for cause, count in self.causes.most_common()),
        )
