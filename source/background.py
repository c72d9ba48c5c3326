"""Where the background goes on: the pages that were demoted, then the scan through all blocks."""

from __future__ import annotations

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span
from protocol.pageset import PageSet
from protocol.runs import hull_of
from source.jobs import Job, covers

# Where requests may come, small pages go in runs of at most so much, and so do parts of huge pages:
# a vCPU that touches what lies in the frame under way waits for the frame's end, and what it
# touches next likely lies there.  At 1 Gbit/s this is half a millisecond, 2 MiB are 17.
POSTCOPY_RUN_BYTES_MAX = 64 * 1024


class Background:
    """Picks what to send when nobody waits.

    It looks at what remains to be sent, and never changes it.
    """

    def __init__(self, remaining: PageSet, chunk_bytes: int, *, in_parts: bool) -> None:
        """Start at the first block's first page.

        Args:
            remaining: What no chunk was made of yet; kept up to date by the scheduler.
            chunk_bytes: The most that one chunk carries.
            in_parts: Give huge pages out a run at a time, so that after each the newest page to be
                demoted can come first.
        """
        self._remaining = remaining
        self._geometry = remaining.geometry
        self._chunk_bytes = chunk_bytes
        self._run_bytes = chunk_bytes
        self._in_parts = in_parts
        self._across_pages = False
        self._cursor = (0, 0)
        # Pages of which the touched target page went ahead, the newest last, and where that was.
        self._demoted: dict[PageId, int] = {}

    @property
    def across_pages(self) -> bool:
        """Whether several huge pages, or scattered parts of them, go together."""
        return self._across_pages

    def restart(self, *, postcopy: bool, across_pages: bool) -> None:
        """Scan from the first block's first page.

        Args:
            postcopy: Keep runs short, because requests may come.
            across_pages: Put several huge pages, or scattered parts of them, into one job: nobody
                waits for a page, and nobody counts how much of one has come.
        """
        self._across_pages = across_pages
        self._cursor = (0, 0)
        self._demoted.clear()
        longest = POSTCOPY_RUN_BYTES_MAX if postcopy else self._chunk_bytes
        self._run_bytes = min(self._chunk_bytes, longest)

    def go_on_at(self, block: int, offset: int) -> None:
        """Scan from this place on, in bytes from the block's start."""
        self._cursor = (block, offset)

    def demote(self, page: PageId, offset: int) -> None:
        """Put what is left of a page before the scan, and before pages demoted earlier.

        Args:
            page: The page.
            offset: Where in the block it was touched; its rest goes from there on.
        """
        self._demoted.pop(page, None)
        self._demoted[page] = offset

    def take_back(self, job: Job) -> None:
        """Take back a job of which nothing went; the scan goes on with what it gave out."""
        if job.page not in self._demoted:
            self._cursor = (job.span.block, job.span.offset)

    def next_job(self, avoid: Span | None = None) -> Job | None:
        """Return the next background job, None when nothing remains.

        Args:
            avoid: A page that is being sent elsewhere, and what remains of it, too.
        """
        return self._demoted_job() or self._scan_job(avoid)

    def _demoted_job(self) -> Job | None:
        while self._demoted:
            page = next(reversed(self._demoted))
            whole = self._geometry.page_span(page)
            behind = self._demoted[page]
            rest = Span(page.block, behind, whole.end - behind)
            runs = self._remaining.first_runs(rest, self._run_bytes)
            runs = runs or self._remaining.first_runs(whole, self._run_bytes)
            if runs is not None:
                return Job(hull_of(runs), page, Channel.PRECOPY, first=runs)
            del self._demoted[page]
        return None

    def _next_place(self, avoid: Span | None) -> tuple[int, int] | None:
        """Return (block, byte offset) of what the scan comes to next."""
        place = self._remaining.first_from(*self._cursor)
        if avoid is not None and _lies_in(place, avoid):
            place = self._remaining.first_from(avoid.block, avoid.end)
            if _lies_in(place, avoid):
                return None
        return place

    def _scan_job(self, avoid: Span | None) -> Job | None:
        place = self._next_place(avoid)
        if place is None:
            return None
        block_index, offset = place
        block = self._geometry.blocks[block_index]
        page = PageId(block_index, offset // block.page_bytes)
        end = block.length_bytes
        # Base pages go as many together as a chunk holds: one frame for one page of 4 KiB would
        # spend more time on its header than on its bytes.
        if block.page_bytes > TARGET_PAGE_BYTES and not self._across_pages:
            whole = self._geometry.page_span(page)
            if not self._in_parts:
                self._cursor = (block_index, whole.end)
                return Job(whole, page, Channel.PRECOPY)
            end = whole.end
        runs = self._remaining.first_runs(Span(block_index, offset, end - offset), self._run_bytes)
        assert runs is not None, "the scan has found a member there"
        span = hull_of(runs)
        self._cursor = (block_index, span.end)
        return Job(span, page, Channel.PRECOPY, first=runs)


def _lies_in(place: tuple[int, int] | None, span: Span) -> bool:
    return place is not None and covers(span, Span(*place, TARGET_PAGE_BYTES))
