"""Where the background goes on: the pages that were demoted, then the scan through all blocks."""

from __future__ import annotations

from protocol.channels import Channel
from protocol.geometry import TARGET_PAGE_BYTES, PageId, Span, new_page_id
from protocol.pageset import PageSet
from protocol.runs import Stretch
from source.jobs import Job, covers

# Where requests may come, small pages go in short runs, and so do parts of huge pages: a vCPU that
# touches what lies in the frame under way waits for its turn in it.  At least they are as long as
# this; with each frame go a decision, a head and a turn of two event loops.
POSTCOPY_RUN_BYTES_MIN = 64 * 1024

# See `source.scheduler`: a look at an enumeration's member is not free.
_PRECOPY = Channel.PRECOPY


class Background:
    """Picks what to send when nobody waits.

    It takes out of what remains to be sent what it gives out.

    Attributes:
        across_pages: Whether several huge pages, or scattered parts of them, go together.
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
        self._chunk_pages = chunk_bytes // TARGET_PAGE_BYTES
        self._run_pages = self._chunk_pages
        self._in_parts = in_parts
        self.across_pages = False
        # Base pages go as many together as a chunk holds: one frame for one page of 4 KiB would
        # spend more time on its header than on its bytes.
        self._goes_in_runs = self._geometry.has_base_pages
        self._block_stops = [block.target_page_count for block in self._geometry.blocks]
        # Where the scan goes on: block, target page.
        self._cursor = (0, 0)
        # Pages of which the touched target page went ahead, the newest last, and where that was.
        self._demoted: dict[PageId, int] = {}

    def restart(self, *, postcopy: bool, across_pages: bool) -> None:
        """Scan from the first block's first page.

        Args:
            postcopy: Keep runs short, because requests may come.
            across_pages: Put several huge pages, or scattered parts of them, into one job: nobody
                waits for a page, and nobody counts how much of one has come.
        """
        self.across_pages = across_pages
        self._cursor = (0, 0)
        self._demoted.clear()
        self._run_pages = self._chunk_pages
        if postcopy:
            self.keep_runs(POSTCOPY_RUN_BYTES_MIN)

    def keep_runs(self, run_bytes: int) -> None:
        """Have small pages, and parts of huge ones, go in runs of at most so many bytes."""
        longest_bytes = max(run_bytes, POSTCOPY_RUN_BYTES_MIN)
        self._run_pages = min(self._chunk_pages, longest_bytes // TARGET_PAGE_BYTES)

    def go_on_behind(self, stretch: Stretch) -> None:
        """Scan from the end of a stretch on."""
        self._cursor = stretch.block, stretch.end // TARGET_PAGE_BYTES

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
            self._cursor = job.span.block, job.span.offset // TARGET_PAGE_BYTES

    def next_job(self, avoid: Stretch | None = None) -> Job | None:
        """Return the next background job, None when nothing remains.

        Args:
            avoid: A page that is being sent elsewhere, and what remains of it, too.
        """
        if self._demoted and (job := self._demoted_job()) is not None:
            return job
        block_index, target_page = self._cursor
        if avoid is None and (self.across_pages or self._goes_in_runs[block_index]):
            job = self._run_job(block_index, target_page, self._block_stops[block_index])
            if job is not None:
                return job
        place = self._remaining.first_from(*self._cursor)
        if avoid is not None and _lies_in(place, avoid):
            place = self._remaining.first_from(avoid.block, avoid.end // TARGET_PAGE_BYTES)
            if _lies_in(place, avoid):
                return None
        return self._scan_job(*place) if place is not None else None

    def _demoted_job(self) -> Job | None:
        while self._demoted:
            page = next(reversed(self._demoted))
            whole = self._geometry.page_span(page).target_pages
            behind = self._demoted[page] // TARGET_PAGE_BYTES
            for first in (behind, whole.start):
                runs = self._remaining.take_first(page.block, first, whole.stop, self._run_pages)
                if runs is not None:
                    return Job(runs, page, _PRECOPY, first=runs)
            del self._demoted[page]
        return None

    def _scan_job(self, block_index: int, target_page: int) -> Job:
        """Return the job for what the scan has come to."""
        stop = self._block_stops[block_index]
        if not (self.across_pages or self._goes_in_runs[block_index]):
            page = self._geometry.page_of(block_index, target_page)
            whole = self._geometry.page_span(page)
            stop = whole.target_pages.stop
            if not self._in_parts:
                self._cursor = block_index, stop
                return Job(whole, page, _PRECOPY)
        job = self._run_job(block_index, target_page, stop)
        assert job is not None, "the scan has found a member there"
        return job

    def _run_job(self, block_index: int, target_page: int, stop: int) -> Job | None:
        """Return the job for what goes together from a place on, None if nothing remains there."""
        runs = self._remaining.take_first(block_index, target_page, stop, self._run_pages)
        if runs is None:
            return None
        self.go_on_behind(runs)
        page_bytes = self._geometry.blocks[block_index].page_bytes
        page = new_page_id((block_index, runs.offset // page_bytes))
        return Job(runs, page, _PRECOPY, first=runs)


def _lies_in(place: tuple[int, int] | None, stretch: Stretch) -> bool:
    if place is None:
        return False
    block, target_page = place
    return covers(stretch, Span(block, target_page * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES))
